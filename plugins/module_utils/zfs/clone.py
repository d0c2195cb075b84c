# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes a new container of a checkpoint: its volumes are clones, its configuration is that of the checkpoint."""

from __future__ import annotations

import glob
import json
import os
import re
import secrets
import typing as t
from dataclasses import dataclass

from ..api.errors import Failure
from ..node.files import read_text, write_private
from .checkpoint import Outcome, known, missing, require_volumes
from .host import PVE, Host, top_section
from .model import Checkpoint, Dataset
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
    """Make a container of a checkpoint, by default of the newest. One that was made of it already stays as it is.

    Raises:
        Failure: ``checkpoint_missing``, ``container_exists``, ``invalid_option``, or as ``zfs_failure``.
    """
    _check_target(host, target)
    original = host.container(source)
    datasets, sets = known(host, [original], store)
    complete = [c for c in sets[source] if c.complete and not c.safety and c.method == "zfs"]
    chosen = next((c for c in reversed(complete) if name in (None, c.name)), None)
    if chosen is None:
        require_volumes(host, original, datasets)
        raise missing(source, name, sets[source])
    outcome = Outcome(target.id, chosen.name, method="zfs", checkpoint=chosen)
    made_by = json.dumps({"source": source, "checkpoint": chosen.id})
    volumes = _new_volumes(host, chosen, datasets, source, target.id)
    journal = os.path.join(store.state, "journal", f"clone-{target.id}.json")
    interrupted = read_text(journal) is not None
    if not interrupted and _exists(host, target.id):
        if store.load(target.id, ".origin").get("record") == made_by:
            return outcome
        raise Failure(
            "container_exists",
            f"Container {target.id} is there and was not made of the checkpoint {chosen.name} of {source}.",
            "Choose another id.",
            container=target.id,
        )
    files = store.load(source, chosen.name)
    if "config" not in files:
        raise Failure(
            "config_missing",
            f"The configuration that belongs to the checkpoint {chosen.name} of {source} is not on this machine.",
            f"It is expected in {store.directory(source, chosen.name)}.",
            container=source,
        )
    outcome.add(target.id, None, f"clone of {source}@{chosen.name}")
    text, notes = _new_config(host, files["config"], source, target, volumes)
    outcome.notes += notes
    if check_mode:
        return outcome
    with host.locked([target.id]):
        if interrupted:
            _undo(host, store, target.id, volumes)
        elif _exists(host, target.id):
            raise Failure("container_exists", f"Container {target.id} is there by now.", container=target.id)
        write_private(journal, made_by)
        try:
            _make(host, target, text, chosen, datasets, volumes)
        except Failure:
            _undo(host, store, target.id, volumes)
            os.unlink(journal)
            raise
        store.save(target.id, ".origin", {"record": made_by})
        os.unlink(journal)
    return outcome


def _check_target(host: Host, target: Target) -> None:
    pattern = r"[1-9][0-9]{2,8}" if host.proxmox else r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
    if not re.fullmatch(pattern, target.id):
        raise Failure("invalid_option", f"clone_to: {target.id!r} cannot be the id of a container.")
    label = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    if target.hostname is not None and not re.fullmatch(rf"{label}(\.{label})*", target.hostname):
        raise Failure("invalid_option", f"clone_to: {target.hostname!r} is no hostname.")


def _exists(host: Host, container_id: str) -> bool:
    if host.proxmox:
        # A vmid is one of the whole cluster, and of virtual machines too.
        return bool(glob.glob(f"{PVE}/nodes/*/*/{container_id}.conf"))
    return os.path.exists(f"/var/lib/lxc/{container_id}/config")


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
    return f"{head[:end]}hostname: {hostname}\n{head[end:]}", notes


def _mac(prefix: str) -> str:
    return prefix + "".join(f":{byte:02X}" for byte in secrets.token_bytes(3))


def _make(
    host: Host,
    target: Target,
    text: str,
    chosen: Checkpoint,
    datasets: t.Mapping[str, Dataset],
    volumes: t.Mapping[str, str],
) -> None:
    host.write_config(target.id, text)
    host.mark_locked(target.id, "create")
    reached("clone:config")
    quotas = {member.dataset: member.refquota for member in chosen.part.members}
    for old, new in volumes.items():
        snapshot = chosen.snapshot_of(old, datasets)
        if snapshot is None:
            raise Failure("checkpoint_incomplete", f"The checkpoint {chosen.name} has nothing of {old}.", dataset=old)
        options: list[str] = []
        if datasets[snapshot.dataset].kind == "filesystem":
            local = host.zfs.do("get", "-Hp", "-s", "local,received", "-o", "property,value", "all", snapshot.dataset)
            pairs = (line.split("\t", 1) for line in local.splitlines())
            options = [f"{key}={value}" for key, value in pairs if key in PROPERTIES]
            options.append(f"refquota={quotas[old] or 'none'}")
        flags = [word for option in options for word in ("-o", option)]
        host.zfs.do("clone", *flags, snapshot.name, new, message=f"{new} was not made")
        reached(f"clone:{new}")
    if target.promote:
        for new in volumes.values():
            host.zfs.do("promote", new, message=f"{new} was not promoted")
    host.mark_locked(target.id, None)


def _undo(host: Host, store: Store, target: str, volumes: t.Mapping[str, str]) -> None:
    """Remove what an attempt has left. Only a clone without snapshots of its own is destroyed."""
    there = host.zfs.read(list(volumes.values()))
    for old, new in reversed(list(volumes.items())):
        if new in there and (there[new].origin or "").split("@")[0] in (old, *there):
            host.run(["zfs", "destroy", new], timeout=60)
    path = f"{PVE}/lxc/{target}.conf" if host.proxmox else f"/var/lib/lxc/{target}/config"
    if os.path.exists(path):
        os.unlink(path)
    store.remove(target, ".origin")
