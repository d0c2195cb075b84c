# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes a new container of a checkpoint: its volumes are clones, its configuration is that of the checkpoint."""

from __future__ import annotations

import json
import os
import re
import secrets
import typing as t
import uuid
from dataclasses import dataclass, replace

from ..api.errors import Failure
from ..node.files import read_text
from . import journal
from .checkpoint import Outcome, files_of, known, missing, require_volumes
from .host import Host, top_section
from .model import MADE_OF, Checkpoint, Dataset
from .steps import reached
from .store import Store

# What a clone must get from the volume it is of, besides what it inherits. A volume of Proxmox that is cloned without
# them loses its ACLs (zfs_create_subvol of PVE/Storage/ZFSPoolPlugin.pm sets them).
PROPERTIES = ("acltype", "xattr", "atime", "relatime", "recordsize", "compression", "dnodesize", "exec", "devices")
# Proxmox's own prefix for addresses, and that of plain LXC.
_PROXMOX_MAC, _LXC_MAC = "BC:24:11", "00:16:3E"


@dataclass(frozen=True)
class Target:
    """The new container. id: its vmid, or its name on plain LXC. hostname: None for one that is made of the old."""

    id: str
    hostname: str | None = None
    promote: bool = False


def clone(host: Host, store: Store, source: str, name: str | None, target: Target, check_mode: bool) -> Outcome:
    """Make a container of a checkpoint, by default of the newest. One that was made of this source stays as it is.

    What an interrupted run has left of the target must be cleared up before.

    Raises:
        Failure: ``checkpoint_missing``, ``container_exists``, ``name_taken``, ``invalid_option``, or as
            ``zfs_failure``.
    """
    _check_target(host, target)
    original = host.container(source)
    datasets, sets = known(host, [original], store)
    if host.exists(target.id):
        # Before the checkpoint is looked for: by a promotion it has become one of the clone.
        return _made_before(host, source, name, target, sets[source])
    complete = [c for c in sets[source] if c.complete and not c.safety and c.method == "zfs"]
    chosen = next((c for c in reversed(complete) if name in (None, c.name)), None)
    if chosen is None:
        require_volumes(host, original, datasets)
        raise missing(source, name, sets[source])
    outcome = Outcome(target.id, chosen.name, method="zfs", checkpoint=chosen)
    volumes = _new_volumes(host, chosen, datasets, source, target.id)
    _require_free(host, target, volumes)
    files = files_of(chosen, store)
    outcome.add(target.id, None, f"clone of {source}@{chosen.name}")
    text, notes = _new_config(host, files["config"], source, target, volumes)
    outcome.notes += notes
    if check_mode:
        # By a promotion the source loses it, and what is older.
        older = sets[source][: sets[source].index(chosen) + 1]
        gone = [c.name for c in older if target.promote and c.method == "zfs"]
        clones = tuple(replace(s, clones=(*s.clones, target.id)) for s in chosen.snapshots)
        outcome.expected = {chosen.name: replace(chosen, snapshots=clones), **dict.fromkeys(gone)}
        return outcome
    with journal.working(store, [target.id]):
        # Another run may have been killed since its journal was looked for.
        journal.require_none(store, [target.id])
        undoing = journal.undone(lambda container_id: undo(host, store, container_id), [target.id])
        with undoing, host.locked([source, target.id]):
            # Neither is the checkpoint removed meanwhile, nor are its volumes set aside.
            journal.require_none(store, [source])
            if host.exists(target.id):
                raise Failure("container_exists", f"Container {target.id} is there by now.", container=target.id)
            _require_free(host, target, volumes)
            origins = {new: chosen.snapshot_of(old, datasets) for old, new in volumes.items()}
            entry = {
                "work": "clone",
                "run": uuid.uuid4().hex,
                "group": [target.id],
                "phase": "begun",
                "config": text,
                # What each volume is a clone of, and stays unless it is promoted.
                "volumes": {new: snapshot.guid for new, snapshot in origins.items() if snapshot},
                "promote": target.promote,
            }
            journal.write(store, target.id, entry)
            made_of = json.dumps({"source": source, "name": chosen.name, "checkpoint": chosen.id})
            _make(host, target, text, made_of, chosen, datasets, volumes)
            journal.write(store, target.id, {**entry, "phase": "made"})
            reached("clone:made")
        finish(host, store, target.id)
    return outcome


def _made_before(host: Host, source: str, name: str | None, target: Target, there: t.Sequence[Checkpoint]) -> Outcome:
    origin = _made_of(host, target.id)
    found = next((c for c in there if c.name == name), None)
    differs = (name and name != origin.get("name")) or (found and found.id != origin.get("checkpoint"))
    if origin.get("source") != source or differs:
        raise Failure(
            "container_exists",
            f"Container {target.id} is there, and nothing says that it was made of "
            f"{'the checkpoint ' + name if name else 'a checkpoint'} of {source}.",
            "Choose another id.",
            container=target.id,
        )
    checkpoint = next((c for c in there if c.id == origin["checkpoint"]), None)
    return Outcome(target.id, origin["name"], method="zfs", checkpoint=checkpoint)


def _made_of(host: Host, container_id: str) -> dict[str, str]:
    """What a container was made of, as its first volume says; empty when it is not here or says nothing."""
    try:
        datasets = host.container(container_id).datasets
        found = json.loads(host.zfs.own_properties(datasets[0]).get(MADE_OF, "")) if datasets else {}
    except Failure as failure:
        if failure.code not in ("container_missing", "volume_missing"):
            raise
        return {}
    except ValueError:
        return {}
    whole = isinstance(found, dict) and {"source", "name", "checkpoint"} <= found.keys()
    return found if whole else {}


def _check_target(host: Host, target: Target) -> None:
    pattern = r"[1-9][0-9]{2,8}" if host.proxmox else r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
    if not re.fullmatch(pattern, target.id):
        raise Failure("invalid_option", f"clone_to: {target.id!r} cannot be the id of a container.")
    label = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    if target.hostname is not None and not re.fullmatch(rf"{label}(\.{label})*", target.hostname):
        raise Failure("invalid_option", f"clone_to: {target.hostname!r} is no hostname.")


def _new_volumes(
    host: Host, chosen: Checkpoint, datasets: t.Mapping[str, Dataset], source: str, target: str
) -> dict[str, str]:
    """The datasets of the new container by those of the old one, the outermost first."""
    found: dict[str, str] = {}
    for member in sorted(chosen.part.members, key=lambda member: member.dataset):
        if host.proxmox:
            parent, leaf = member.dataset.rsplit("/", 1)
            found[member.dataset] = f"{parent}/" + re.sub(
                r"^(?:basevol|subvol)-\d+-", f"subvol-{target}-", re.sub(r"^(?:base|vm)-\d+-", f"vm-{target}-", leaf)
            )
        else:
            root = min((m.dataset for m in chosen.part.members), key=len)
            found[member.dataset] = f"{root.rsplit('/', 1)[0]}/{target}{member.dataset[len(root) :]}"
    return found


def _require_free(host: Host, target: Target, volumes: t.Mapping[str, str]) -> None:
    taken = sorted(set(volumes.values()) & set(host.zfs.read(list(volumes.values()))))
    if taken:
        raise Failure(
            "name_taken",
            f"There is a dataset {taken[0]} already, without a container {target.id}.",
            "Choose another id, or remove the dataset.",
            container=target.id,
            dataset=taken[0],
        )


def _new_config(
    host: Host, text: str, source: str, target: Target, volumes: t.Mapping[str, str]
) -> tuple[str, list[str]]:
    """The configuration of the new container, and what is to be known of it. Addresses of its network are new."""
    notes: list[str] = []
    hostname = target.hostname or (f"CT{target.id}" if host.proxmox else target.id)
    if not host.proxmox:
        text = re.sub(r"^(lxc\.uts\.name\s*=\s*).*$", rf"\g<1>{hostname}", text, flags=re.MULTILINE)
        for old, new in sorted(volumes.items(), reverse=True):
            text = re.sub(rf"/{re.escape(old)}(?=[/\s]|$)", f"/{new}", text, flags=re.MULTILINE)
        return re.sub(
            r"^(lxc\.net\.\d+\.hwaddr\s*=\s*)\S+", lambda m: m.group(1) + _mac(_LXC_MAC), text, flags=re.M
        ), notes
    head = re.sub(r"^(lock|parent|template|hostname|unused\d+):.*\n?", "", top_section(text), flags=re.MULTILINE)
    head = re.sub(r"(?<=hwaddr=)[0-9A-Fa-f:]{17}", lambda _match: _mac(_PROXMOX_MAC), head)
    names = {old.rsplit("/", 1)[-1]: new.rsplit("/", 1)[-1] for old, new in volumes.items()}

    def renamed(match: re.Match[str]) -> str:
        leaf = match.group(2).rsplit("/", 1)[-1]
        return match.group(1) + names.get(leaf, leaf)

    head = re.sub(r"^((?:rootfs|mp\d+): (?:volume=)?[^/:,\s]+:)([^,\s]+)", renamed, head, flags=re.MULTILINE)
    for key, address in re.findall(r"^(net\d+):.*?\bip6?=([0-9a-fA-F.:]+/\d+)", head, re.MULTILINE):
        notes.append(f"{key} has the address {address} of container {source}; change it before both run.")
    comments = re.match(r"(?:#.*\n)*", head)
    end = comments.end() if comments else 0
    return f"{head[:end]}lock: create\nhostname: {hostname}\n{head[end:]}", notes


def _mac(prefix: str) -> str:
    return prefix + "".join(f":{byte:02X}" for byte in secrets.token_bytes(3))


def _make(
    host: Host,
    target: Target,
    text: str,
    made_of: str,
    chosen: Checkpoint,
    datasets: t.Mapping[str, Dataset],
    volumes: t.Mapping[str, str],
) -> None:
    host.write_config(target.id, text)
    reached("clone:config")
    quotas = {member.dataset: member.refquota for member in chosen.part.members}
    for old, new in volumes.items():
        snapshot = chosen.snapshot_of(old, datasets)
        if snapshot is None:
            raise Failure("checkpoint_incomplete", f"The checkpoint {chosen.name} has nothing of {old}.", dataset=old)
        options = [f"{MADE_OF}={made_of}"]
        if datasets[snapshot.dataset].kind == "filesystem":
            pairs = host.zfs.own_properties(snapshot.dataset).items()
            options += [f"{key}={value}" for key, value in pairs if key in PROPERTIES]
            options.append(f"refquota={quotas[old] or 'none'}")
        flags = [word for option in options for word in ("-o", option)]
        host.zfs.do("clone", *flags, snapshot.name, new, message=f"{new} was not made")
        reached(f"clone:{new}")


def finish(host: Host, store: Store, target: str) -> None:
    """What comes after all volumes are made; may be done again."""
    entry = journal.read(store, target)
    if entry is None:
        return
    there = host.zfs.read(list(entry["volumes"]))
    for new, guid in entry["volumes"].items():
        if entry["promote"] and _is_clone(host, there.get(new), guid):
            host.zfs.do("promote", new, message=f"{new} was not promoted")
            reached(f"clone:promoted:{new}")
    with host.locked([target]):
        host.mark_locked(target, None)
    reached("clone:unlocked")
    journal.clear(store, target)


def undo(host: Host, store: Store, target: str) -> None:
    """Remove what an attempt has left; may be done again. Only a clone without snapshots of its own is destroyed."""
    entry = journal.read(store, target)
    if entry is None:
        return
    path = host.config_path(target)
    # Somebody may have cleaned up and made another container of that id since. Before the configuration is there, so is
    # no volume.
    if read_text(path) == entry["config"]:
        there = host.zfs.read(list(entry["volumes"]))
        for new, guid in reversed(list(entry["volumes"].items())):
            if _is_clone(host, there.get(new), guid):
                # Without -r: snapshots that somebody took of it keep it.
                host.zfs.do("destroy", new, message=f"{new}, which was made for container {target}, stays")
        os.unlink(path)
    journal.clear(store, target)


def _is_clone(host: Host, dataset: Dataset | None, guid: str) -> bool:
    """Whether it is a clone of the snapshot that has this guid, wherever that is by now."""
    origin = dataset.origin if dataset else None
    return bool(origin) and host.zfs.do("get", "-Hp", "-o", "value", "guid", origin or "").strip() == guid
