# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings containers back to a checkpoint.

ZFS cannot roll back behind a snapshot and keep it, so a state that is to be kept cannot be a snapshot of the volume
that is rolled back. A volume is therefore set aside, under another name, with the safety checkpoint; and a clone of the
checkpoint takes its place and is promoted, so that older snapshots belong to it again. Until all volumes are in place
everything can be undone. Without a safety checkpoint it is ``zfs rollback``.

What is under way is in a journal, and what there is on the pool tells how far it got: a run after a crash undoes what
was not in place, and finishes the rest.
"""

from __future__ import annotations

import os
import re
import typing as t
import uuid
from dataclasses import asdict, dataclass, field

from ..api.errors import Failure
from ..node.files import read_text
from ..node.proxmox import section
from . import journal
from . import memory as process_memory
from .checkpoint import (
    SAFETY_TAG,
    backup_missing,
    destroy,
    files_of,
    finished,
    known,
    missing,
    not_there,
    require_unlocked,
    require_volumes,
    snapshot_all,
    stamp,
)
from .host import PVE, Container, Host, section_config, top_section, with_lock
from .model import ASIDE, ASIDE_PARENT, NOT_FOR_ANOTHER, Checkpoint, Dataset, Snapshot, aside_name
from .steps import reached
from .store import Store

# What a clone gets by an option of its own.
_SEPARATELY = ("refquota", "canmount")


@dataclass
class Put:
    """A volume to be put back.

    source: the snapshot, by its full name. aside: where the volume goes. origin: what it is itself a clone of.
    properties: those set on it. refquota: bytes, as the checkpoint has it. resized: that is not what it has now.
    chain: the datasets from the one that has the snapshot to the volume, each a clone of the next.
    """

    dataset: str
    source: str
    guid: str
    aside: str
    origin: str | None
    kind: str
    canmount: str | None
    refquota: int
    properties: dict[str, str] = field(default_factory=dict)
    mounted: bool = True
    resized: bool = True
    chain: list[str] = field(default_factory=list)


@dataclass
class Plan:
    """What becomes of one container. lost: snapshots and bookmarks that go. safety: the name of what is kept."""

    container: Container
    checkpoint: Checkpoint
    puts: list[Put]
    lost: list[str]
    config: str | None
    firewall: str | None
    unchanged: bool
    safety: str | None = None
    notes: list[str] = field(default_factory=list)

    def result(self) -> dict[str, t.Any]:
        """The result for this container."""
        plan: list[dict[str, t.Any]] = []
        if not self.unchanged:
            plan = [{"key": put.dataset, "before": "as it is", "after": put.source} for put in self.puts]
            plan += [{"key": name, "before": "there", "after": None} for name in self.lost]
            if not self.puts:
                plan = [{"key": self.container.id, "before": "as it is", "after": self.checkpoint.name}]
            if self.config is not None:
                plan.append({"key": "config", "before": self.container.config, "after": self.config})
            if self.firewall is not None:
                plan.append({"key": "firewall", "before": self.container.firewall, "after": self.firewall})
        return {
            "container": self.container.id,
            "name": self.checkpoint.name,
            "changed": not self.unchanged,
            "plan": plan,
            "method": self.checkpoint.method,
            "safety": None if self.unchanged else self.safety,
            "lost": [] if self.unchanged else self.lost,
            "notes": self.notes,
        }


def restore(
    host: Host,
    store: Store,
    ids: t.Sequence[str],
    name: str | None,
    *,
    mode: str = "rollback",
    safety: bool = True,
    lose: t.Sequence[str] = (),
    config: str = "keep",
    check_mode: bool = False,
    memory: bool = False,
) -> list[dict[str, t.Any]]:
    """Bring containers back to a checkpoint, by default each to its newest. One that runs is stopped and started.

    Raises:
        Failure: what stands against one of them, or what failed before all volumes were in place. Nothing was changed
            then.
    """
    if mode == "clone" and not safety:
        raise Failure("invalid_option", "safety: with mode: clone the state from before always stays.")
    with journal.working(store, [] if check_mode else ids):
        # Another run may have been killed since its journal was looked for.
        journal.require_none(store, ids)
        plans = _plans(host, store, ids, name, mode, safety, lose, config, memory)
        due = [plan for plan in plans if not plan.unchanged]
        if due and not check_mode:
            on_zfs = [plan for plan in due if plan.checkpoint.method == "zfs"]
            if on_zfs:
                # What Proxmox restores itself takes the lock itself.
                with host.without_replication(plan.container.id for plan in on_zfs):
                    _apply(host, store, on_zfs, mode, safety, memory)
            for plan in due:
                if plan.checkpoint.method != "zfs":
                    _by_proxmox(host, plan)
        return [plan.result() for plan in plans]


# ------------------------------------------------------------------------------------------------------- planning


def _plans(
    host: Host,
    store: Store,
    ids: t.Sequence[str],
    name: str | None,
    mode: str,
    safety: bool,
    lose: t.Sequence[str],
    config: str,
    memory: bool,
) -> list[Plan]:
    containers = [host.container(container_id) for container_id in ids]
    pools = sorted({dataset.split("/")[0] for container in containers for dataset in container.datasets})
    if pools:
        # What was written counts only when its transaction group is synced, which takes seconds (zfsprops(7)).
        # Whatever stands against a pool is found with the volumes that are on it.
        host.run(["zpool", "sync", *pools], timeout=300)
    datasets, sets = known(host, containers, store)
    label = stamp("lxcri-safety-")
    plans = []
    for container in containers:
        require_unlocked(container)
        _require_no_ha(host, container)
        checkpoint = _chosen(host, container, sets[container.id], name, datasets)
        if memory and not checkpoint.memory:
            raise Failure(
                "memory_missing",
                f"The checkpoint {checkpoint.name} of {container.id} has no memory of processes.",
                "Restore it without memory: true.",
                container=container.id,
            )
        plan = _plan(host, store, container, checkpoint, datasets, mode, safety, config, label)
        plan.unchanged = plan.unchanged and not memory
        plans.append(plan)
    lost = sorted({name for plan in plans for name in plan.lost if not plan.unchanged})
    refused = sorted(set(lost) - set(lose))
    if refused:
        raise Failure(
            "would_lose_data",
            f"This would lose {len(lost)}: {', '.join(lost)}.",
            "Agree with lose: and this list. What is on ZFS can be kept with mode: clone.",
            lose=lost,
            dataset=re.split("[@#]", refused[0])[0],
        )
    return plans


def _require_no_ha(host: Host, container: Container) -> None:
    resources = section_config(read_text(f"{PVE}/ha/resources.cfg") or "") if host.proxmox else {}
    resource = resources.get(container.id)
    if container.running and resource and resource.get("state") != "ignored":
        raise Failure(
            "ha_managed",
            f"Container {container.id} is managed by HA, which would start it again in the middle.",
            f"Set it aside first: 'ha-manager set ct:{container.id} --state ignored'; afterwards '--state started'.",
            container=container.id,
        )


def _chosen(
    host: Host,
    container: Container,
    there: t.Sequence[Checkpoint],
    name: str | None,
    datasets: t.Mapping[str, Dataset],
) -> Checkpoint:
    """The checkpoint of that name, or the newest. It is whole but for volumes that are not there any more."""

    def usable(checkpoint: Checkpoint) -> bool:
        gone = {member.dataset for member in checkpoint.part.members} - set(datasets)
        return checkpoint.complete or (finished(checkpoint) and bool(gone))

    named = [c for c in there if (c.name == name if name else usable(c) and not c.safety)]
    if not named:
        # They went with the volumes, perhaps.
        require_volumes(host, container, datasets)
        raise missing(container.id, name, there)
    if not usable(named[-1]):
        raise Failure(
            "checkpoint_incomplete",
            f"The checkpoint {name} of {container.id} is not complete.",
            f"It has {len(named[-1].snapshots)} of {len(named[-1].part.members)} volumes, or was interrupted.",
            container=container.id,
            dataset=next(iter(_lacking(named[-1])), None),
        )
    return named[-1]


def _lacking(checkpoint: Checkpoint) -> list[str]:
    return sorted({member.dataset for member in checkpoint.part.members} - {s.dataset for s in checkpoint.snapshots})


def _plan(
    host: Host,
    store: Store,
    container: Container,
    checkpoint: Checkpoint,
    datasets: t.Mapping[str, Dataset],
    mode: str,
    safety: bool,
    config: str,
    label: str,
) -> Plan:
    plan = Plan(container, checkpoint, [], [], None, None, unchanged=False)
    if checkpoint.method != "zfs":
        _require_way_of_proxmox(checkpoint, mode, safety, config)
    if config == "restore":
        files = files_of(checkpoint, store)
        wanted, firewall = _merged(container.config, files["config"]), files.get("firewall")
        plan.config = wanted if wanted != container.config else None
        plan.firewall = firewall if firewall and firewall != container.firewall else None
        if container.firewall and not firewall:
            # Without rules the container would be open, for which nobody asked.
            plan.notes.append("The checkpoint has no firewall rules; those that are there stay.")
    if checkpoint.method != "zfs":
        if checkpoint.method == "vzdump":
            if not os.path.exists(checkpoint.archive or ""):
                raise backup_missing(checkpoint)
            plan.lost = _replaced(container)
            storages = {volume.volid.partition(":")[0] for volume in container.volumes}
            if len(storages) > 1:
                first = container.volumes[0].volid.partition(":")[0]
                plan.notes.append(f"The backup is restored to {first} alone, with all its volumes.")
        return plan
    require_volumes(host, container, datasets)
    members = [member.dataset for member in checkpoint.part.members]
    untouched = sorted(set(container.datasets) - set(members))
    if untouched:
        plan.notes.append(f"The checkpoint has nothing of {', '.join(untouched)}, which stays as it is.")
    plan.unchanged = plan.config is None and plan.firewall is None
    for member in checkpoint.part.members:
        dataset = datasets.get(member.dataset)
        snapshot = checkpoint.snapshot_of(member.dataset, datasets)
        if dataset is None or snapshot is None:
            what = f"{member.dataset}, which the checkpoint {checkpoint.name} of {container.id} has,"
            hint = "Its snapshots went with it; a replica may have them."
            raise not_there(host, container, member.dataset, what, hint)
        _require_movable(dataset, datasets, members, container)
        inside = snapshot.dataset == dataset.name
        if not (inside and not dataset.newer_than(snapshot) and not dataset.written):
            plan.unchanged = False
        plan.unchanged = plan.unchanged and dataset.refquota == member.refquota
        if inside:
            newer = dataset.newer_than(snapshot)
            _require_no_proxmox_snapshot(newer, container)
            if mode == "rollback":
                _require_losable(dataset, newer, container.id)
                plan.lost += newer
        elif not safety:
            raise Failure(
                "invalid_option", f"safety: {snapshot.name} was set aside; without safety it cannot be put back."
            )
        chain, along = _chain(dataset, snapshot, datasets)
        # Newer ones than where the two parted are set aside with the volume, where Proxmox does not find its own.
        leaving = dataset.newer_than(along) if along else _names(dataset)
        _require_no_proxmox_snapshot(leaving, container)
        plan.notes += _replications(leaving)
        if safety and set(_bookmarks(dataset)) - set(plan.lost):
            plan.notes.append(f"The bookmarks of {dataset.name} stay with what is set aside.")
        properties = host.zfs.own_properties(dataset.name)
        plan.puts.append(
            Put(
                dataset=dataset.name,
                source=snapshot.name,
                guid=snapshot.guid,
                aside=aside_name(dataset.name, members, label),
                origin=dataset.origin,
                kind=dataset.kind,
                canmount=properties.get("canmount"),
                refquota=member.refquota,
                properties={
                    key: value
                    for key, value in properties.items()
                    if key not in _SEPARATELY and not NOT_FOR_ANOTHER.fullmatch(key)
                },
                mounted=dataset.mounted,
                resized=dataset.refquota != member.refquota,
                chain=chain,
            )
        )
    plan.lost.sort()
    plan.safety = label if safety else None
    return plan


def _chain(
    dataset: Dataset, snapshot: Snapshot, datasets: t.Mapping[str, Dataset]
) -> tuple[list[str], Snapshot | None]:
    """The datasets from that of the snapshot to the volume, each a clone of the next, and what the volume has of it.

    The volume is not in it, and has nothing of it, when the snapshot does not come from it.
    """
    chain = [snapshot.dataset]
    found: Snapshot | None = snapshot
    while chain[-1] != dataset.name:
        origin = datasets[chain[-1]].origin if chain[-1] in datasets else None
        owner = (origin or "").split("@")[0]
        if not origin or origin == dataset.origin or owner in chain or owner not in datasets:
            return chain, None
        chain.append(owner)
        found = datasets[owner].snapshot(origin.split("@")[1])
    return chain, found


def _names(dataset: Dataset) -> list[str]:
    return [snapshot.name for snapshot in dataset.snapshots]


def _bookmarks(dataset: Dataset) -> list[str]:
    return [bookmark.name for bookmark in dataset.bookmarks]


def _merged(current: str, stored: str) -> str:
    """The stored configuration, with the sections of Proxmox's own snapshots that are there by now."""
    if not stored:
        return current
    head = re.sub(r"^lock:.*\n?", "", top_section(stored), flags=re.MULTILINE)
    # The snapshot of Proxmox that came before: only the current file names one that is there.
    found = re.search(r"^parent:.*\n?", top_section(current), re.MULTILINE)
    parent = found.group().rstrip("\n") + "\n" if found else ""
    if re.search(r"^parent:", head, re.MULTILINE):
        head = re.sub(r"^parent:.*\n?", lambda _match: parent, head, flags=re.MULTILINE)
    elif parent:
        head = head.rstrip("\n") + "\n" + parent + ("\n" if head.endswith("\n\n") else "")
    return head + current[len(top_section(current)) :]


def _require_movable(
    dataset: Dataset, datasets: t.Mapping[str, Dataset], members: t.Sequence[str], container: Container
) -> None:
    if dataset.key_missing:
        raise Failure(
            "key_unavailable",
            f"The key of {dataset.name} is not loaded.",
            f"Load it with 'zfs load-key {dataset.name}' and run again.",
            dataset=dataset.name,
            container=container.id,
        )
    if dataset.mounted and dataset.mountpoint in (None, "legacy"):
        # zfs(8) neither unmounts nor mounts what has no mount point of its own.
        raise Failure(
            "dataset_busy",
            f"{dataset.name} is mounted by other means than ZFS (its mountpoint is {dataset.mountpoint or 'none'}).",
            f"Stop container {container.id} and unmount it ('umount'), restore, and mount it again; or give it a "
            "mountpoint.",
            dataset=dataset.name,
            container=container.id,
        )
    below = [
        name
        for name in datasets
        if name.startswith(f"{dataset.name}/") and name not in members and ASIDE_PARENT not in name.split("/")
    ]
    if below:
        raise Failure(
            "has_children",
            f"{dataset.name} has datasets below it that the checkpoint does not have: {', '.join(below)}.",
            "Move or remove them first.",
            dataset=dataset.name,
            container=container.id,
        )


def _require_no_proxmox_snapshot(newer: t.Sequence[str], container: Container) -> None:
    for name in newer:
        short = re.split("[@#]", name)[1]
        if short in container.snapshots:
            raise Failure(
                "proxmox_snapshot",
                f"{name} is a snapshot of Proxmox and newer than the checkpoint.",
                f"Remove it with 'pct delsnapshot {container.id} {short}' first.",
                dataset=re.split("[@#]", name)[0],
                container=container.id,
                snapshot=short,
            )


def _replications(leaving: t.Iterable[str]) -> list[str]:
    """Notes on Proxmox's own replication, whose last snapshot does not stay with its volume.

    It is no reason to refuse: a rollback of Proxmox removes such snapshots as well.
    """
    # As replication_snapshot_name of PVE/ReplicationState.pm makes it.
    found = ((name, re.fullmatch(r"[^@]+@__replicate_(.+)_\d+__", name)) for name in leaving)
    return [
        f"The replication job {match.group(1)} of Proxmox would go on from {name}. It fails until its target has the "
        "volume no longer, or the job is made again."
        for name, match in found
        if match
    ]


def _require_losable(dataset: Dataset, newer: t.Sequence[str], container_id: str) -> None:
    for snapshot in dataset.snapshots:
        if snapshot.name in newer and (snapshot.clones or snapshot.holds):
            what = f"has clones: {', '.join(snapshot.clones)}" if snapshot.clones else "is held"
            raise Failure(
                "has_clones" if snapshot.clones else "held",
                f"{snapshot.name}, which is newer than the checkpoint, {what}.",
                "Restore with mode: clone, which keeps it, or remove what needs it.",
                dataset=dataset.name,
                container=container_id,
                snapshot=snapshot.name,
            )


# ------------------------------------------------------------------------------------------------------- applying


def _apply(host: Host, store: Store, plans: t.Sequence[Plan], mode: str, safety: bool, memory: bool) -> None:
    ids = [plan.container.id for plan in plans]
    group = {"run": uuid.uuid4().hex, "group": ids}
    entries = {plan.container.id: {**group, **_entry(store, plan, mode, memory)} for plan in plans}
    with journal.undone(lambda container_id: undo(host, store, container_id), ids):
        with host.locked(ids):
            for plan in plans:
                _again(host, plan)
            for container_id, entry in entries.items():
                journal.write(store, container_id, entry)
            reached("restore:journal")
            for container_id in ids:
                host.mark_locked(container_id, "rollback")
            reached("restore:locked")
        for plan in plans:
            if plan.container.running:
                host.stop(plan.container.id)
        if not safety:
            # From here on it goes forward only. None of them runs, so nothing that is written from now on is lost.
            journal.write(store, ids[0], {**entries[ids[0]], "phase": "in place"})
        reached("restore:stopped")
        if safety:
            _keep_safe(host, store, plans)
            for plan in plans:
                _swap(host, plan.puts)
            # One entry decides for all of them.
            journal.write(store, ids[0], {**entries[ids[0]], "phase": "swapped"})
            reached("restore:swapped")
    for container_id, entry in journal.together(store, ids).items():
        journal.write(store, container_id, entry)
    reached("restore:decided")
    journal.each(lambda container_id: finish(host, store, container_id), ids)


def _again(host: Host, plan: Plan) -> None:
    """See, with the lock held, that the container is still what was planned for."""
    container = host.container(plan.container.id)
    require_unlocked(container)
    if (container.config, container.running) != (plan.container.config, plan.container.running):
        raise Failure(
            "changed_meanwhile",
            f"Container {container.id} was configured, started or stopped meanwhile.",
            "Run again.",
            container=container.id,
        )
    there = host.zfs.read([put.source.split("@")[0] for put in plan.puts])
    guids = {snapshot.guid for dataset in there.values() for snapshot in dataset.snapshots}
    if {put.guid for put in plan.puts} - guids:
        raise Failure(
            "changed_meanwhile",
            f"The checkpoint {plan.checkpoint.name} of {container.id} was removed meanwhile.",
            "Choose another one.",
            container=container.id,
        )
    if plan.puts and not plan.safety:
        _require_agreed(container.id, _newer(container.id, plan.puts, there), plan.lost)


def _entry(store: Store, plan: Plan, mode: str, memory: bool) -> dict[str, t.Any]:
    return {
        "work": "restore",
        "phase": "begun",
        "running": plan.container.running,
        "safety": plan.safety,
        "lost": plan.lost if mode == "rollback" else [],
        "volumes": [asdict(put) for put in plan.puts],
        "config": plan.config,
        "firewall": plan.firewall,
        "memory": store.directory(plan.container.id, plan.checkpoint.name) if memory else None,
    }


def _keep_safe(host: Host, store: Store, plans: t.Sequence[Plan]) -> None:
    containers = [host.container(plan.container.id) for plan in plans]
    made = snapshot_all(host, store, containers, plans[0].safety or "", safety=True)
    reached("restore:safety")
    names = [snapshot.name for checkpoint in made.values() for snapshot in checkpoint.snapshots]
    host.zfs.do("hold", SAFETY_TAG, *names)
    reached("restore:held")


def _swap(host: Host, puts: t.Sequence[Put]) -> None:
    """Set the volumes aside, and put clones of the checkpoint in their places."""
    deepest_first = sorted(puts, key=lambda put: put.dataset, reverse=True)
    there = host.zfs.read([put.dataset for put in puts])
    for parent in sorted({put.aside.rsplit("/", 1)[0] for put in puts}):
        host.zfs.do("create", "-p", "-o", "canmount=off", "-o", "mountpoint=none", parent)
    for put in deepest_first:
        if there[put.dataset].mounted:
            host.zfs.do("unmount", put.dataset, message=f"{put.dataset} cannot be unmounted")
    reached("restore:unmounted")
    for put in deepest_first:
        canmount = ["canmount=noauto"] if put.kind == "filesystem" else []
        host.zfs.do("set", f"{ASIDE}={put.dataset}", *canmount, put.dataset)
        host.zfs.do("rename", put.dataset, put.aside, message=f"{put.dataset} cannot be set aside")
        reached(f"restore:aside:{put.dataset}")
    for put in reversed(deepest_first):
        source, short = put.source.split("@")
        snapshot = f"{put.aside if source == put.dataset else source}@{short}"
        options = [f"{key}={value}" for key, value in sorted(put.properties.items())]
        if put.kind == "filesystem":
            options += [f"refquota={put.refquota or 'none'}", *([f"canmount={put.canmount}"] if put.canmount else [])]
        flags = [word for option in options for word in ("-o", option)]
        host.zfs.do("clone", *flags, snapshot, put.dataset, message=f"{put.dataset} cannot be put back")
        reached(f"restore:cloned:{put.dataset}")
        # At the end of the chain, ZFS refuses.
        while _origin(host, put.dataset) != put.origin:
            host.zfs.do("promote", put.dataset, message=f"{put.dataset} cannot be promoted")
        reached(f"restore:promoted:{put.dataset}")
    _mount(host, [put.dataset for put in puts if put.mounted])


def _origin(host: Host, dataset: str) -> str | None:
    origin = host.zfs.do("get", "-H", "-o", "value", "origin", dataset).strip()
    return None if origin in ("-", "") else origin


def _mount(host: Host, names: t.Sequence[str]) -> None:
    """Mount file systems, the outermost first, that are to be mounted."""
    there = host.zfs.read(names)
    for name in sorted(names):
        dataset = there.get(name)
        if not dataset or dataset.kind != "filesystem" or dataset.mounted or dataset.canmount == "off":
            continue
        if dataset.mountpoint not in (None, "legacy"):
            host.zfs.do("mount", name, message=f"{name} cannot be mounted")


def finish(host: Host, store: Store, container_id: str) -> None:
    """What comes after all volumes are in place; may be done again."""
    entry = journal.read(store, container_id)
    if entry is None:
        return
    puts = [Put(**put) for put in entry["volumes"]]
    if entry["phase"] == "in place":
        require_finishable(host, {container_id: entry})
        if host.container(container_id).running:
            host.stop(container_id)
        for put in puts:
            _roll_back(host, container_id, put, entry["lost"])
            reached(f"restore:rolled back:{put.dataset}")
        _mount_again(host, puts)
    elif entry["phase"] == "swapped":
        _drop_lost(host, puts, entry["lost"])
    if entry["phase"] != "settled":
        reached("restore:dropped")
        if entry["config"] is not None:
            text = with_lock(entry["config"], "rollback") if host.proxmox else entry["config"]
            host.write_config(container_id, text)
        if entry["firewall"] is not None:
            host.write_firewall(container_id, entry["firewall"])
        # Once it may be started, what is written must not be rolled back by another run.
        journal.write(store, container_id, {**entry, "phase": "settled"})
        reached("restore:settled")
    with host.locked([container_id]):
        host.mark_locked(container_id, None)
    reached("restore:unlocked")
    if host.proxmox and any(put.resized for put in puts):
        # The sizes in the configuration are those of the quotas.
        host.run(["pct", "rescan", "--vmid", container_id], timeout=120)
    _start_again(host, container_id, entry)
    reached("restore:started")
    journal.clear(store, container_id)


def _start_again(host: Host, container_id: str, entry: t.Mapping[str, t.Any]) -> None:
    if not entry["running"] and not entry["memory"]:
        return
    if host.container(container_id).running:
        return
    if not entry["memory"]:
        host.start(container_id)
        return
    try:
        process_memory.restore(host.run, container_id, entry["memory"])
    except Failure:
        host.start(container_id)
        raise


def _roll_back(host: Host, container_id: str, put: Put, lost: t.Sequence[str]) -> None:
    """Roll back in place."""
    there = host.zfs.read([put.dataset])
    newer = _newer(container_id, [put], there)
    # The last look: what came since all were looked at is not to go by -r.
    _require_agreed(container_id, newer, lost)
    host.zfs.do("rollback", *(["-r"] if newer else []), put.source, message=f"{put.dataset} cannot be rolled back")
    if put.kind == "filesystem":
        host.zfs.do("set", f"refquota={put.refquota or 'none'}", put.dataset)


def require_finishable(host: Host, entries: t.Mapping[str, dict[str, t.Any]]) -> None:
    """See that finishing restores, given by their entries of the journal, loses only what was agreed to.

    That concerns those in place. A container that runs was started by somebody since, and what it has written would go
    as well: for that stand the names of its volumes.

    Raises:
        Failure: ``would_lose_data``, ``held``, ``has_clones``, ``volume_missing``.
    """
    for container_id, entry in entries.items():
        if entry["phase"] == "in place":
            puts = [Put(**put) for put in entry["volumes"]]
            going = _newer(container_id, puts, host.zfs.read([put.dataset for put in puts]))
            if host.container(container_id).running:
                going += [put.dataset for put in puts]
            _require_agreed(container_id, going, entry["lost"])


def _newer(container_id: str, puts: t.Sequence[Put], there: t.Mapping[str, Dataset]) -> list[str]:
    """The snapshots and bookmarks that a rollback in place destroys.

    Raises:
        Failure: ``volume_missing``, ``held``, ``has_clones``.
    """
    newer: list[str] = []
    for put in puts:
        dataset = there.get(put.dataset)
        snapshot = dataset.snapshot(put.source.split("@")[1]) if dataset else None
        if dataset is None or snapshot is None or snapshot.guid != put.guid:
            raise Failure(
                "volume_missing",
                f"{put.source}, to which container {container_id} is to be rolled back, is not there any more.",
                "A replica may have it.",
                container=container_id,
                dataset=put.dataset,
            )
        here = dataset.newer_than(snapshot)
        _require_losable(dataset, here, container_id)
        newer += here
    return newer


def _require_agreed(container_id: str, going: t.Sequence[str], lose: t.Collection[str]) -> None:
    refused = sorted(set(going) - set(lose))
    if refused:
        raise Failure(
            "would_lose_data",
            f"To roll container {container_id} back would lose what there is meanwhile: {', '.join(refused)}.",
            "Run again with lose: and the list in details.lose, or when the snapshots are gone. A volume in it stands "
            "for what the container has written, which was started again; who stops it agrees to that.",
            lose=sorted(going),
            container=container_id,
            dataset=re.split("[@#]", refused[0])[0],
        )


def _mount_again(host: Host, puts: t.Sequence[Put]) -> None:
    """Unmount and mount what was rolled back, for the kernel's caches are stale (OpenZFS issue 10931)."""
    there = host.zfs.read([put.dataset for put in puts])
    for name in sorted((put.dataset for put in puts), reverse=True):
        if there[name].mounted:
            host.zfs.do("unmount", name, message=f"{name} cannot be unmounted")
    _mount(host, [put.dataset for put in puts if put.mounted])


def _drop_lost(host: Host, puts: t.Sequence[Put], lost: t.Sequence[str]) -> None:
    """Remove, from what was set aside, the snapshots and bookmarks that were agreed to."""
    asides = {put.dataset: put.aside for put in puts}
    there = host.zfs.read(list(asides.values()))
    names = {s.name for dataset in there.values() for s in (*dataset.snapshots, *dataset.bookmarks)}
    for name in lost:
        moved = asides[re.split("[@#]", name)[0]] + name[len(re.split("[@#]", name)[0]) :]
        if moved in names:
            host.zfs.do("destroy", moved, message=f"{name} stays, as {moved}")


# ---------------------------------------------------------------------------------------------------- undoing


def undo(host: Host, store: Store, container_id: str) -> None:
    """Back to how it was before, from any point at which not all volumes were in place; may be done again."""
    entry = journal.read(store, container_id)
    if entry is None:
        return
    # Without a safety checkpoint nothing is set aside.
    puts = [Put(**put) for put in entry["volumes"]] if entry["safety"] else []
    for put in sorted(puts, key=lambda put: put.dataset, reverse=True):
        _undo_clone(host, put)
    for put in sorted(puts, key=lambda put: put.dataset):
        if put.aside in host.zfs.read([put.aside]):
            host.zfs.do("rename", put.aside, put.dataset)
        host.zfs.do("inherit", ASIDE, put.dataset)
        canmount = host.zfs.read([put.dataset])[put.dataset].canmount
        if put.kind == "filesystem" and canmount != (put.canmount or "on"):
            # It cannot be inherited; "on" is what it is by default.
            host.zfs.do("set", f"canmount={put.canmount or 'on'}", put.dataset)
        reached(f"restore:undone:{put.dataset}")
    _mount(host, [put.dataset for put in puts if put.mounted])
    if entry["safety"]:
        container = host.container(container_id)
        datasets, sets = known(host, [container], store)
        made = [c for c in sets[container_id] if c.name == entry["safety"] and c.safety]
        destroy(host.zfs, store, made, datasets)
    for parent in {put.aside.rsplit("/", 1)[0] for put in puts}:
        # Without -r: only an empty one goes.
        host.run(["zfs", "destroy", parent], timeout=60)
    with host.locked([container_id]):
        host.mark_locked(container_id, None)
    if entry["running"] and not host.container(container_id).running:
        host.start(container_id)
    journal.clear(store, container_id)


def _undo_clone(host: Host, put: Put) -> None:
    """Remove the clone that stands in the volume's place, after its snapshots went back to whose they were."""
    there = host.zfs.read([put.dataset, put.aside, *put.chain])
    if put.aside not in there or put.dataset not in there:
        return
    # The one with the oldest snapshots first, so that each gets its own and not those of the ones before it.
    for owner in reversed([put.aside if name == put.dataset else name for name in put.chain]):
        if owner in there and (_origin(host, owner) or "").startswith(f"{put.dataset}@"):
            host.zfs.do("promote", owner)
    if there[put.dataset].mounted:
        host.zfs.do("unmount", put.dataset)
    # Without -r: it has nothing of its own, or it stays.
    host.zfs.do("destroy", put.dataset)


# --------------------------------------------------------------------------------------- what Proxmox has saved


def _require_way_of_proxmox(checkpoint: Checkpoint, mode: str, safety: bool, config: str) -> None:
    """See that only what Proxmox can do is asked for: it keeps neither the volumes nor the configuration as they are.

    Raises:
        Failure: ``invalid_option``.
    """
    if mode == "clone" or safety or config != "restore":
        raise Failure(
            "invalid_option",
            f"The checkpoint {checkpoint.name} of {checkpoint.container} is one of Proxmox ({checkpoint.method}), "
            "whose restore keeps nothing of the state from before and puts the configuration back too.",
            "If that is meant, give mode: rollback, safety: false and config: restore.",
            container=checkpoint.container,
            method=checkpoint.method,
        )


def _replaced(container: Container) -> list[str]:
    """The volumes that a restore of a backup destroys (destroy_lxc_container of PVE/LXC.pm)."""
    text = top_section(container.config) + section(container.config, "pve:pending")
    keys = r"^(?:rootfs|mp\d+|unused\d+):\s*(?:volume=)?([^/,\s][^,\s]*)"
    return sorted(set(re.findall(keys, text, re.MULTILINE)))


def _by_proxmox(host: Host, plan: Plan) -> None:
    """Restore what is not on ZFS, by a rollback or a restore of Proxmox."""
    container_id, checkpoint = plan.container.id, plan.checkpoint
    if checkpoint.method == "snapshot":
        argv = ["pct", "rollback", container_id, checkpoint.name]
    else:
        if plan.container.running:
            host.stop(container_id)
        # Without a storage Proxmox puts the volumes on the one that is called local (create_vm of PVE/API2/LXC.pm).
        storage = plan.container.volumes[0].volid.partition(":")[0]
        argv = ["pct", "restore", container_id, checkpoint.archive or "", "--force", "1", "--storage", storage]
    done = host.run(argv, timeout=None)
    if done.rc:
        raise Failure(
            "task_failed",
            f"{' '.join(argv[:2])} failed for {container_id}: {(done.stderr or done.stdout).strip()[-500:]}",
            container=container_id,
        )
    if plan.firewall is not None:
        # A rollback of Proxmox leaves the rules as they are.
        host.write_firewall(container_id, plan.firewall)
    if plan.container.running and not host.container(container_id).running:
        host.start(container_id)
