# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands in the way of a restore, the declaration that it is, and what a failed one has left."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.tasks import id_of, type_of
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.backup import Backup, Wish
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.cluster import Cluster
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.fleet import Outcome, parse_config
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import Actual, is_volume_key, mounts_of
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.reading import read_container
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import Declared, Restore
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.targets import called


@dataclass(frozen=True)
class Standing:
    """What a restore meets.

    vmid: that the container gets; None for any free one.
    existing: the container that would be overwritten. snapshots: those of its volumes.
    storage: for the volumes. bare: volumes of the existing container of which nothing is in the backup, by their keys.
    """

    backup: Backup
    vmid: int | None
    existing: Actual | None
    snapshots: tuple[str, ...]
    storage: str | None
    bare: t.Mapping[str, str] = field(default_factory=dict)


def read_standing(client: Client, cluster: Cluster, wish: Wish, backup: Backup) -> Standing:
    """Read what a restore meets.

    Raises:
        Failure: ``vmid_in_use`` (a virtual machine), ``node_offline``, ``backup_missing``.
    """
    restore = wish.restore
    vmid = None if restore.hostname else restore.vmid or backup.vmid
    if restore.hostname:
        guest = cluster.by_hostname(restore.hostname, exhaustive=True)
    else:
        guest = cluster.container(t.cast(int, vmid))
    existing = None
    snapshots: tuple[str, ...] = ()
    bare: dict[str, str] = {}
    if guest:
        cluster.refuse_offline(guest)
        existing = read_container(client, guest.node, guest.vmid)
    if guest and existing:
        existing.pool = guest.pool
        names = [str(entry.get("name")) for entry in client.get(f"{existing.path}/snapshot") or []]
        snapshots = tuple(sorted(name for name in names if name != "current"))
        if restore.force:
            _refuse_elsewhere(client, wish, backup, existing)
            bare = not_backed_up(existing, _config_of(client, backup))
    storage = restore.storage or _root_storage(existing.config if existing else None)
    if not storage:
        storage = _root_storage(_config_of(client, backup))
    return Standing(backup, vmid, existing, snapshots, storage, bare)


def _config_of(client: Client, backup: Backup) -> dict[str, t.Any]:
    text = client.get(f"nodes/{backup.node}/vzdump/extractconfig", volume=backup.volume)
    return parse_config(str(text or ""))


def not_backed_up(existing: Actual, config: t.Mapping[str, t.Any]) -> dict[str, str]:
    """The volumes of a container whose content is not in a backup, by their keys.

    A mount point without ``backup=1`` is in the backup's configuration only: it comes back empty.

    config: that in the backup.
    """
    mounts = [properties.read(key, text) for key, text in mounts_of(Actual(0, "", current=dict(config)))]
    saved = {mount["mp"] for mount in mounts if mount.get("mp") and mount.get("backup")}
    found = {}
    for key, text in existing.config.items():
        if key == "rootfs" or not is_volume_key(key):
            continue
        mount = properties.read(key, text)
        volume = str(mount["volume"] if isinstance(mount, dict) else text)
        lost = not isinstance(mount, dict) or mount.get("mp") not in saved
        if lost and properties.volume_of(volume).kind == "volume":
            found[key] = volume
    return dict(sorted(found.items()))


def _root_storage(config: t.Mapping[str, t.Any] | None) -> str | None:
    rootfs = properties.read("rootfs", (config or {}).get("rootfs"))
    return properties.volume_of(str(rootfs["volume"])).storage if isinstance(rootfs, dict) else None


def _refuse_elsewhere(client: Client, wish: Wish, backup: Backup, existing: Actual) -> None:
    if existing.node == backup.node:
        return
    path = f"nodes/{existing.node}/storage/{wish.storage}/content"
    listed = client.get(path, content="backup", vmid=backup.vmid) or []
    if not any(entry.get("volid") == backup.volume for entry in listed):
        raise Failure(
            "backup_missing",
            f"{called(existing)} is on {existing.node}, and {backup.volume} is on {backup.node} only.",
            "Migrate the container, or restore under another vmid.",
            volume=backup.volume,
            node=existing.node,
        )


def refuse_loss(wish: Wish, standing: Standing) -> None:
    """Refuse to overwrite a container, or volumes of it, that the task does not say may be overwritten.

    Raises:
        Failure: ``would_lose_data``, with the volumes and snapshots that would be lost.
    """
    existing = standing.existing
    if existing is None:
        return
    if wish.restore.force:
        bare = {key: volume for key, volume in standing.bare.items() if key not in wish.restore.discard}
        if bare:
            raise Failure(
                "would_lose_data",
                f"Of some volumes of {called(existing)} nothing is in {standing.backup.volume}, and restoring over it "
                "would destroy them: " + ", ".join(f"{key} ({volume})" for key, volume in bare.items()) + ".",
                "Move them to another container first, restore under another vmid, or name them in restore.discard.",
                vmid=existing.vmid,
                volumes=list(bare.values()),
                keys=list(bare),
            )
        return
    held = [volume for volume in _volumes(existing) if properties.volume_of(volume).kind == "volume"]
    also = f" and the snapshots {', '.join(standing.snapshots)}" if standing.snapshots else ""
    raise Failure(
        "would_lose_data",
        f"{called(existing)} exists on {existing.node}; restoring over it would destroy {', '.join(held)}{also}.",
        "Set 'force: true' in restore if they may go, or give restore another vmid or hostname.",
        vmid=existing.vmid,
        volumes=held,
        snapshots=list(standing.snapshots),
    )


def declare(wish: Wish, standing: Standing) -> Declared:
    """The container that the restore makes, as the engine wants it."""
    restore, backup, existing = wish.restore, standing.backup, standing.existing
    start = restore.start if restore.start is not None else bool(existing and existing.running)
    same = (existing.vmid if existing else standing.vmid) == backup.vmid
    return Declared(
        state="started" if start else "present",
        node=existing.node if existing else backup.node,
        vmid=existing.vmid if existing else standing.vmid,
        hostname=None if existing else restore.hostname,
        config={"hostname": restore.hostname} if restore.hostname else {},
        restore=Restore(
            volume=backup.volume,
            force=restore.force and existing is not None,
            # Two containers with one MAC address disturb each other.
            unique=restore.unique if restore.unique is not None else not same,
            bwlimit=wish.bwlimit,
        ),
        storage=standing.storage,
        pool=restore.pool,
        force=restore.force,
        timeout=wish.timeout,
    )


def aftermath(client: Client, outcome: Outcome, standing: Standing) -> Failure:
    """The failure of a restore, with what it has left.

    Proxmox destroys the old volumes before it extracts the archive, and removes the configuration when that fails. When
    it cannot make the new volumes, it removes the configuration and leaves the old volumes (``create_vm`` of
    PVE/API2/LXC.pm). What it refuses before that leaves the container as it is, but stopped.
    """
    failure = t.cast(Failure, outcome.failure)
    upid, existing = str(failure.details.get("upid")), standing.existing
    ended = {type_of(task.upid) for task in outcome.log.tasks}
    began = type_of(upid) == "vzrestore" or (existing and ended)
    if failure.code == "timeout" or "vzrestore" in ended or not began:
        return failure
    vmid, node = existing.vmid if existing else int(id_of(upid)), str(outcome.declared.node)
    try:
        there = read_container(client, node, vmid, None if existing and existing.running else "unknown")
        storages = {standing.storage, *(_storages(existing) if existing else ())}
        left = [
            str(entry["volid"])
            for storage in sorted(filter(None, storages))
            for entry in client.get(f"nodes/{node}/storage/{storage}/content", vmid=vmid) or []
            if entry.get("content") in ("rootdir", "images")
        ]
    except Failure:
        # What is left is an extra; the reason of the failure is known.
        return failure
    used = str(sorted(there.config.items())) if there else ""
    orphans = [volume for volume in left if volume not in used]
    sentences = [failure.message]
    if existing and not there:
        sentences.append(f"{called(existing)} does not exist any more.")
    elif not there:
        sentences.append("No container was left behind.")
    elif existing and existing.running and not there.running and _volumes(existing) == _volumes(there):
        sentences.append(f"{called(existing)} is as it was, but stopped.")
    if orphans:
        sentences.append(f"Volumes without a container: {', '.join(orphans)}.")
    hint = f"{failure.hint} {standing.backup.volume} is as it was; restore it again.".strip()
    details = {**failure.details, "volume": standing.backup.volume, "exists": there is not None, "orphans": orphans}
    return Failure(failure.code, " ".join(sentences), hint, **details)


def _volumes(actual: Actual) -> list[str]:
    return [str(properties.read(key, text)["volume"]) for key, text in mounts_of(actual)]


def _storages(actual: Actual) -> set[str]:
    volumes = [properties.volume_of(volume) for volume in _volumes(actual)]
    return {volume.storage for volume in volumes if volume.kind == "volume" and volume.storage}
