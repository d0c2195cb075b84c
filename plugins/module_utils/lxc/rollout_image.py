# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Going back to the image of which a container was made before. Pure functions, no I/O.

Proxmox takes no container with snapshots apart to make it anew, so that there can be no snapshot to go back to. But the
container's mark says of which image it was, by its digest: going back is making it anew of that one, with its volumes.

What it was is noted in its description before it is touched, and the note stays until the container works. So a run
that finds the note, wherever an earlier one was interrupted, can still go back.
"""

from __future__ import annotations

import json
import re
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.image import (
    ImageSpec,
    Mark,
    mark_of,
    text_of,
    with_mark,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import Actual, Plan
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.notes import with_note
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.properties import ANY_VOLUME
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.recreate import as_note
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import NEVER_UNSET, Declared
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.reference import parse_reference

_NOTE = re.compile(r"\n*<!-- lxcri\.proxmox former=(\{.*?\}) -->")
# What is of no use to a container that is made anew.
_NOT_NOTED = ("lock", "parent", "template", "digest", "arch", "ostype", "snaptime")


@dataclass(frozen=True)
class Former:
    """What a container was before it was made anew.

    vmid: the container's. A clone and a restored backup have the description of another one, but were not what it was.
    config: its texts, and in the description nothing but the mark.
    """

    vmid: int
    config: t.Mapping[str, t.Any]
    running: bool

    def __str__(self) -> str:
        return as_note("former", vars(self))

    @property
    def mark(self) -> Mark:
        """Of which image it was."""
        return t.cast("Mark", mark_of(self.config["description"]))


def former_of(description: t.Any, vmid: int) -> Former | None:
    """The note on a container in its description; None when there is none that can be read."""
    match = _NOTE.search(str(description or ""))
    try:
        found = Former(**json.loads(match[1])) if match else None
        return found if found and found.vmid == vmid and mark_of(found.config.get("description")) else None
    except (ValueError, TypeError, AttributeError):
        return None


def with_former(description: t.Any, former: Former | None) -> str:
    """A description with another note, or without one; everything else in it stays."""
    return with_note(description, _NOTE, former)


def is_remade(plan: Plan) -> bool:
    """Whether an existing container is made anew of an image."""
    return any(step.action in ("reserved", "created") for step in plan.steps)


def former_before(before: Actual) -> Former:
    """What is noted of a container that is to be made anew.

    Raises:
        Failure: ``rollback_impossible`` when nobody knows of which image it is now.
    """
    description = before.config.get("description")
    mark = mark_of(description)
    if mark is None:
        raise Failure(
            "rollback_impossible",
            f"{before.hostname} ({before.vmid}) could not be rolled back: of which image it is, is not known.",
            "Set 'on_failure: stop' for this change.",
            vmid=before.vmid,
        )
    config = {
        key: text
        for key, text in before.config.items()
        if properties.key_of(key) and key not in _NOT_NOTED and not key.startswith("unused")
    }
    return Former(before.vmid, {**config, "description": with_mark(text_of(description), mark)}, before.running)


def former_image(spec: ImageSpec, mark: Mark, digest: str | None) -> ImageSpec:
    """The image of which a container was.

    spec: the image that is declared now, with how it is fetched.
    digest: what the former reference means now; None when nobody knows any more.
    """
    reference = parse_reference(mark.reference)
    former = replace(spec, reference=reference, pull="missing")
    if reference.digest or digest == mark.digest:
        return former
    # Proxmox itself pulls by a tag only.
    method = "auto" if spec.method == "registry" else spec.method
    return replace(former, reference=reference.at(mark.digest), method=method)


def former_declaration(declared: Declared, place: Actual, before: Former, image: ImageSpec) -> Declared:
    """The declaration by which a container becomes what it was: of the keys that are declared, what they were.

    What was made of the change besides, such as a volume, is detached and kept.

    place: the container, which may be gone.
    """
    mark = before.mark
    family_keys = [key for key in before.config if re.sub(r"\d+\Z", "", key) in declared.families]
    config = {
        key: _as_it_was(key, before.config[key])
        for key in dict.fromkeys((*declared.config, *family_keys))
        if key in before.config
    }
    # The volumes of the image are declared with the image.
    config = {key: normal for key, normal in config.items() if not _is_mounted_at(normal, image.volumes)}
    if "description" in declared.config:
        config["description"] = text_of(before.config.get("description"))
    if isinstance(config.get("env"), dict):
        config["env"] = {name: value for name, value in config["env"].items() if name in mark.env}
    new = [key for key in declared.config if key not in before.config and key not in config]
    return replace(
        declared,
        image=image,
        config=config,
        unset=tuple(key for key in new if key not in NEVER_UNSET and not key[-1].isdigit()),
        vmid=place.vmid,
        node=place.node,
        state="started" if before.running else "stopped",
        restart="if_needed",
        recreate=True,
        wait_for_address=False,
    )


def _as_it_was(key: str, text: t.Any) -> t.Any:
    normal = properties.read(key, text)
    if properties.is_mount(key) and isinstance(normal, dict):
        # A volume that was moved to and fro has another name.
        is_volume = properties.volume_of(normal["volume"]).kind == "volume"
        return {**normal, "volume": ANY_VOLUME} if is_volume else normal
    return normal


def _is_mounted_at(normal: t.Any, paths: t.Container[str]) -> bool:
    return isinstance(normal, dict) and normal.get("mp") in paths
