# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots: what has to be done to one container, and doing it to many."""

from __future__ import annotations

import re
import threading
import time
import typing as t
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.access import Need, refuse_missing
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.parallel import by_node, in_parallel
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.plan import RESTART, Step
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.tasks import TaskWatcher
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.apply import Executor, VmidAllocator
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.converge import power_step
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import Actual, Plan, mounts_of
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.privileges import vm_paths
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import invalid
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.targets import (
    Target,
    Targets,
    called,
    check_targets,
    checked_keep,
    checked_zone,
    refuse_locked,
    targets_result,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.retention import Entry, future_dated, retain

STATES = ("present", "absent", "rolled_back")
# "current" is the pseudo entry at the end of every list (PVE/API2/LXC/Snapshot.pm).
CURRENT = "current"
RESERVED = (CURRENT, "vzdump")
LONGEST_NAME = 40
# Storages whose volumes go back to their newest snapshot only (volume_rollback_is_possible of the storage plugins).
# So do files with snapshot-as-volume-chain. All others go back to any.
NEWEST_ONLY = ("lvm", "zfs", "zfspool")
# What a rollback leaves as it is (__snapshot_copy_config and __snapshot_apply_config of PVE/AbstractConfig.pm).
NOT_ROLLED_BACK = ("description", "lock")

TAKE, ROLL_BACK = "snapshotted", "rolled back"


@dataclass(frozen=True)
class Snapshot:
    """A snapshot as the API lists it.

    time: its creation, in seconds since 1970-01-01 UTC.
    incomplete: what was under way when it was interrupted (``prepare`` or ``delete``); None when it is complete.
    """

    name: str
    time: int
    description: str = ""
    parent: str | None = None
    incomplete: str | None = None

    def as_dict(self) -> dict[str, t.Any]:
        """One entry of a result's ``snapshots``."""
        return {
            "name": self.name,
            "snaptime": self.time,
            "description": self.description,
            "parent": self.parent,
            "incomplete": self.incomplete,
        }


@dataclass(frozen=True)
class Wish:
    """What a task wants of each container.

    name: None for a name made of the prefix and the time.
    keep: how many periods each rule of retention fills; None to leave the snapshots alone.
    zone: the time zone of the retention; None for that of the machine.
    """

    state: str
    name: str | None = None
    prefix: str = "lxcri-"
    description: str | None = None
    keep: t.Mapping[str, int] | None = None
    zone: str | None = None
    remove_newer: bool = False
    force: bool = False
    timeout: int = 600


@dataclass
class Result(Target):
    """What became of one container's snapshots.

    saved: the configuration in the snapshot to roll back to, once it was read.
    """

    snapshots: list[Snapshot] = field(default_factory=list)
    saved: dict[str, t.Any] | None = None

    def as_dict(self) -> dict[str, t.Any]:
        """One entry of the module's ``containers``."""
        return {**super().as_dict(), "snapshots": [snapshot.as_dict() for snapshot in self.snapshots]}


# ------------------------------------------------------------------------------------------------------ the wish


def make_wish(params: t.Mapping[str, t.Any], now: float | None = None) -> Wish:
    """The wish that a module's options express.

    Raises:
        Failure: ``invalid_option``, naming the option and what would be right.
    """
    check_targets(params)
    state, name, prefix = params["state"], params["name"], params["prefix"]
    _check_name("prefix", prefix + "x")
    if name is not None:
        _check_name("name", name)
    keep = checked_keep(params["keep"])
    if state == "rolled_back":
        if name is None:
            raise invalid("name", "give the snapshot to roll back to")
        if keep:
            raise invalid("keep", "it has no meaning with state=rolled_back")
    elif params["remove_newer"]:
        raise invalid("remove_newer", "it has a meaning with state=rolled_back only")
    if state == "absent" and name is None and not keep:
        raise invalid("name", "give the snapshot to remove, or keep")
    if state == "present" and name is None:
        moment = datetime.fromtimestamp(time.time() if now is None else now, timezone.utc)
        name = prefix + moment.strftime("%Y%m%d-%H%M%S")
        _check_name("prefix", name)
    return Wish(
        state=state,
        name=name,
        prefix=prefix,
        description=params["description"],
        keep=keep,
        zone=checked_zone(params["keep_timezone"]),
        remove_newer=params["remove_newer"],
        force=params["force"],
        timeout=params["timeout"],
    )


def _check_name(option: str, name: str) -> None:
    """The rule for names (``pve-snapshot-name`` and ``pve-configid`` of PVE/JSONSchema.pm)."""
    if not re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_-]+", name):
        raise invalid(option, f"{name!r} is not two or more letters, digits, - and _, of which the first is a letter")
    if len(name) > LONGEST_NAME:
        raise invalid(option, f"{name!r} has more than {LONGEST_NAME} characters")
    if name in RESERVED:
        raise invalid(option, f"{name!r} is a name that Proxmox uses itself")


# ------------------------------------------------------------------------------------------------------ the plan


def plan_snapshots(
    wish: Wish,
    container: Actual,
    snapshots: t.Sequence[Snapshot],
    rolls_back_to_any: bool = False,
    now: float | None = None,
) -> Plan:
    """What has to be done to one container.

    rolls_back_to_any: whether all its storages can go back to a snapshot that is not the newest.

    Raises:
        Failure: there is no such snapshot, or newer ones would be lost.
    """
    plan = Plan(running_after=container.running)
    if wish.state == "rolled_back":
        _plan_rollback(plan, wish, container, snapshots, rolls_back_to_any)
        return plan
    moment = int(time.time() if now is None else now)
    remaining = oldest_first(snapshots)
    if wish.state == "present":
        _plan_present(plan, wish, container, remaining, moment)
    elif wish.name is not None:
        _plan_absent(plan, wish, container, remaining)
    if wish.keep:
        _plan_retention(plan, wish, container, remaining, moment)
    return plan


def _needs(container: Actual, why: str) -> list[Need]:
    return [Need(vm_paths(container.vmid, container.pool), ("VM.Snapshot",), why)]


def _plan_present(plan: Plan, wish: Wish, container: Actual, remaining: list[Snapshot], now: int) -> None:
    name = wish.name or ""
    existing = next((snapshot for snapshot in remaining if snapshot.name == name), None)
    description = None if wish.description is None else wish.description.rstrip("\n")
    if existing is None:
        step = Step(TAKE, "POST", f"{container.path}/snapshot", {"snapname": name})
        if description:
            step.params["description"] = description
        step.add(f"snapshot {name}", None, description or "taken")
        step.needs = _needs(container, "take a snapshot")
        plan.steps.append(step)
        remaining.append(Snapshot(name, now, description or ""))
        return
    _refuse_incomplete(existing, container)
    if description is not None and description != existing.description:
        step = Step("described", "PUT", f"{container.path}/snapshot/{name}/config", {"description": description})
        step.add(f"snapshot {name} description", existing.description, description)
        step.needs = _needs(container, "describe a snapshot")
        plan.steps.append(step)


def _refuse_incomplete(snapshot: Snapshot, container: Actual) -> None:
    if snapshot.incomplete:
        raise Failure(
            "snapshot_incomplete",
            f"The snapshot {snapshot.name} of {called(container)} is incomplete: its {snapshot.incomplete} was "
            "interrupted.",
            "Remove it with 'state: absent', and with 'force: true' if its volumes have no such snapshot.",
            vmid=container.vmid,
            snapshot=snapshot.name,
        )


def _removal(wish: Wish, container: Actual, snapshot: Snapshot) -> Step:
    params = {"force": True} if wish.force else {}
    step = Step("removed a snapshot", "DELETE", f"{container.path}/snapshot/{snapshot.name}", params)
    step.add(f"snapshot {snapshot.name}", snapshot.description or "taken", None)
    step.needs = _needs(container, "remove a snapshot")
    return step


def _plan_absent(plan: Plan, wish: Wish, container: Actual, remaining: list[Snapshot]) -> None:
    for snapshot in [one for one in remaining if one.name == wish.name]:
        plan.steps.append(_removal(wish, container, snapshot))
        remaining.remove(snapshot)


def _plan_retention(plan: Plan, wish: Wish, container: Actual, remaining: t.Sequence[Snapshot], now: int) -> None:
    """Remove, oldest first, what no rule keeps; snapshots without the prefix are somebody else's.

    remaining: oldest first, with what is about to be taken.
    """
    own = [snapshot for snapshot in remaining if snapshot.name.startswith(wish.prefix)]
    incomplete = [snapshot.name for snapshot in own if snapshot.incomplete]
    if incomplete:
        plan.notes.append(f"Incomplete snapshots neither count nor are removed: {', '.join(incomplete)}.")
    complete = {one.name: one for one in own if not one.incomplete}
    # Of a snapshot without a time nobody can say that it is too old.
    entries = [
        Entry(name, one.time, protected=not one.time, order=place) for place, (name, one) in enumerate(complete.items())
    ]
    future = [str(entry.identity) for entry in future_dated(entries, now)]
    if future:
        plan.notes.append(f"Snapshots dated in the future take the places of others: {', '.join(future)}.")
    for verdict in reversed(retain(entries, wish.keep or {}, wish.zone)):
        snapshot = complete[str(verdict.entry.identity)]
        if verdict.keep:
            continue
        if wish.state == "present" and snapshot.name == wish.name:
            plan.notes.append(f"No rule keeps {snapshot.name}; it stays because it is declared.")
            continue
        plan.steps.append(_removal(wish, container, snapshot))


def _plan_rollback(
    plan: Plan, wish: Wish, container: Actual, snapshots: t.Sequence[Snapshot], rolls_back_to_any: bool
) -> None:
    target = next((snapshot for snapshot in snapshots if snapshot.name == wish.name), None)
    if target is None:
        raise Failure(
            "snapshot_missing",
            f"There is no snapshot {wish.name} of {called(container)}.",
            "There are: " + (", ".join(snapshot.name for snapshot in oldest_first(snapshots)) or "none") + ".",
            vmid=container.vmid,
            snapshot=wish.name,
        )
    _refuse_incomplete(target, container)
    newer = newer_snapshots(target, snapshots)
    if newer and not wish.remove_newer and not rolls_back_to_any:
        raise _loss(container, target.name, newer)
    if wish.remove_newer:
        plan.steps += [_removal(wish, container, snapshot) for snapshot in reversed(newer)]
    step = Step(ROLL_BACK, "POST", f"{container.path}/snapshot/{target.name}/rollback")
    step.add("rollback", None, target.name, RESTART if container.running else "live")
    paths = vm_paths(container.vmid, container.pool)
    step.needs = [Need(paths, ("VM.Snapshot", "VM.Snapshot.Rollback"), "roll back")]
    plan.steps.append(step)
    if container.running:
        # Proxmox's own start=1 starts in a task of its own that outlives the rollback's: an explicit one is awaited.
        plan.steps.append(power_step(container.path, "started", "start", paths, "stopped", "started"))


def _loss(container: Actual, target: str, newer: t.Sequence[Snapshot]) -> Failure:
    names = [snapshot.name for snapshot in newer]
    return Failure(
        "would_lose_data",
        f"Rolling {called(container)} back to {target} would have to remove the snapshots that are newer: "
        f"{', '.join(names)}.",
        "Set 'remove_newer: true' if they may go.",
        vmid=container.vmid,
        snapshots=names,
    )


def newer_snapshots(target: Snapshot, snapshots: t.Sequence[Snapshot]) -> list[Snapshot]:
    """The snapshots that were taken after another one, oldest first.

    Times have a resolution of one second, and clocks are set back: a descendant is newer whatever its time is.
    """
    parents = {snapshot.name: snapshot.parent for snapshot in snapshots}
    return [
        one
        for one in oldest_first(snapshots)
        if one.name != target.name and (one.time > target.time or target.name in _ancestors(one.name, parents))
    ]


def oldest_first(snapshots: t.Sequence[Snapshot]) -> list[Snapshot]:
    """By time, and each after those that it descends from, whatever their times are; the API has no order."""
    times = {snapshot.name: snapshot.time for snapshot in snapshots}
    parents = {snapshot.name: snapshot.parent for snapshot in snapshots}

    def place(snapshot: Snapshot) -> tuple[int, int, str]:
        above = _ancestors(snapshot.name, parents)
        return max(times.get(name, 0) for name in (snapshot.name, *above)), len(above), snapshot.name

    return sorted(snapshots, key=place)


def _ancestors(name: str, parents: t.Mapping[str, str | None]) -> list[str]:
    found: list[str] = []
    parent = parents.get(name)
    while parent is not None and parent not in found:
        found.append(parent)
        parent = parents.get(parent)
    return found


# ------------------------------------------------------------------------------------ what stands against the plan


def refuse_unfit(plan: Plan, actual: Actual) -> None:
    """Refuse what Proxmox would refuse inside a task, so that check mode says so too.

    actual: the container with its configuration.

    Raises:
        Failure: ``locked``, ``is_template``, or ``feature_unsupported`` where something of the node is mounted.
    """
    refuse_locked(actual)
    if actual.is_template:
        raise Failure(
            "is_template",
            f"{called(actual)} is a template, which has no snapshots.",
            "Make a full clone of it, and work on that.",
            vmid=actual.vmid,
        )
    if not any(step.action == TAKE for step in plan.steps):
        return
    blockers = {key: volume.name for key, volume in volumes_of(actual.current) if volume.kind != "volume"}
    if blockers:
        raise Failure(
            "feature_unsupported",
            f"{called(actual)} mounts directories or devices of its node, with which Proxmox takes no snapshot: "
            + ", ".join(f"{key} ({path})" for key, path in blockers.items())
            + ".",
            "Remove these mount points, or back the container up instead.",
            vmid=actual.vmid,
            mounts=blockers,
        )


def unsupported(actual: Actual) -> Failure:
    """The refusal where a storage has no snapshots, which Proxmox says of all volumes together."""
    volumes = {key: f"{volume.storage}:{volume.name}" for key, volume in volumes_of(actual.current)}
    return Failure(
        "feature_unsupported",
        f"The storage of a volume of {called(actual)} has no snapshots: "
        + ", ".join(f"{key} is {volume}" for key, volume in volumes.items())
        + ".",
        "Move the volumes to ZFS, LVM-thin, Ceph RBD or BTRFS, or back the container up instead.",
        vmid=actual.vmid,
        volumes=volumes,
    )


def held_by(
    saved: t.Mapping[str, t.Any], storages: t.Mapping[str, t.Mapping[str, t.Any]]
) -> tuple[list[str], list[str]]:
    """The storages that hold a rollback past newer snapshots up, and those of which nobody knows.

    saved: the configuration in the snapshot, whose volumes are rolled back.
    storages: as ``GET /storage`` lists them, by name; without those that the user or token may not see.
    """
    used = sorted({volume.storage for _key, volume in volumes_of(saved) if volume.storage})
    return (
        [name for name in used if name in storages and _newest_only(storages[name])],
        [name for name in used if name not in storages],
    )


def _newest_only(storage: t.Mapping[str, t.Any]) -> bool:
    return storage.get("type") in NEWEST_ONLY or bool(int(storage.get("snapshot-as-volume-chain") or 0))


def volumes_of(config: t.Mapping[str, t.Any]) -> list[tuple[str, properties.Volume]]:
    """The root volume and mount points of a configuration, and where they are."""
    mounts = sorted(mounts_of(Actual(0, "", current=dict(config))), key=lambda mount: properties.order_of(mount[0]))
    return [(key, properties.volume_of(str(properties.read(key, text)["volume"]))) for key, text in mounts]


def note_rollback(plan: Plan, actual: Actual, saved: t.Mapping[str, t.Any]) -> None:
    """Say what a rollback makes of the configuration, and which volumes it detaches.

    saved: the configuration in the snapshot.
    """
    step = next(step for step in plan.steps if step.action == ROLL_BACK)
    step.changes[0].before = actual.current.get("parent")
    effect = step.changes[0].effect
    for key in sorted({*actual.config, *saved}, key=properties.order_of):
        if key in NOT_ROLLED_BACK or key.startswith("unused") or not properties.key_of(key):
            continue
        before, after = (properties.read(key, config.get(key)) for config in (actual.config, saved))
        if before != after:
            step.add(key, properties.show(key, before), properties.show(key, after), effect)
    kept = [volume for _key, volume in volumes_of(saved)]
    detached = [key for key, volume in volumes_of(actual.config) if volume.kind == "volume" and volume not in kept]
    if detached:
        plan.notes.append(f"The volumes of {', '.join(detached)} are not in the snapshot and become unused volumes.")


# ------------------------------------------------------------------------------------------------------- the work


def read_snapshots(client: Client, node: str, vmid: int, name: str | None) -> tuple[Actual, list[Snapshot]]:
    """A container and its snapshots, in one request: the pseudo entry at the end says whether it runs.

    name: its hostname, when it is known.
    """
    container = Actual(vmid, node, current={"hostname": name} if name else {})
    snapshots = []
    for entry in client.get(f"nodes/{node}/lxc/{vmid}/snapshot") or []:
        if entry["name"] == CURRENT:
            container.status = "running" if int(entry.get("running") or 0) else "stopped"
            continue
        snapshots.append(
            Snapshot(
                name=str(entry["name"]),
                time=int(entry.get("snaptime") or 0),
                description=str(entry.get("description") or "").rstrip("\n"),
                parent=entry.get("parent"),
                incomplete=entry.get("snapstate"),
            )
        )
    return container, oldest_first(snapshots)


def read_has_snapshots(client: Client, actual: Actual) -> None:
    """Have it known of a container whether it has snapshots."""
    actual.has_snapshots = bool(read_snapshots(client, actual.node, actual.vmid, None)[1])


class Snapshots:
    """Does what a task wants to the snapshots of many containers.

    concurrency: containers in work on each node.
    """

    def __init__(self, client: Client, check_mode: bool, concurrency: int) -> None:
        self._client = client
        self._check_mode = check_mode
        self._concurrency = concurrency
        self._targets = Targets(client, Result)
        self._watcher = TaskWatcher(client)
        self._storages: dict[str, dict[str, t.Any]] | None = None
        self._storages_lock = threading.Lock()

    def run(
        self, wish: Wish, vmids: t.Sequence[int], hostnames: t.Sequence[str], node: str | None = None
    ) -> list[Result]:
        """Do it; one container's failure does not stop the others.

        node: where the one container is, which saves a request.

        Raises:
            Failure: before the first write, what concerns all: a container twice, and missing privileges.
        """
        results = self._targets.find(vmids, hostnames, node)
        in_parallel(lambda result: self._plan(result, wish), results)
        needs = [need for result in results if not result.failure for need in result.plan.needs]
        refuse_missing(self._client, needs)
        if not self._check_mode:
            work = [result for result in results if result.plan.changed and not result.failure]
            by_node(
                lambda result: self._apply(result, wish),
                work,
                lambda result: result.container.node if result.container else "",
                self._concurrency,
            )
        return results

    def _plan(self, result: Result, wish: Wish) -> None:
        if result.failure or result.container is None:
            return
        notes: list[str] = []
        try:
            container = self._read(result, result.container)
            past_newer = self._rolls_back_past_newer(result, wish, container, notes)
            result.plan = plan_snapshots(wish, container, result.snapshots, past_newer)
            result.plan.notes += notes
            if result.plan.changed:
                self._examine(result, wish, container)
        except Failure as failure:
            result.failure = failure
            result.plan = Plan(notes=result.plan.notes)

    def _read(self, result: Result, known: Actual) -> Actual:
        try:
            container, result.snapshots = self._listed(known)
        except Failure as failure:
            if failure.code != "not_found" or not result.assumed:
                raise
            # The container is not where the task says, so the cluster is asked.
            located = self._targets.locate(vmid=known.vmid)
            if located.failure or located.container is None:
                raise located.failure or failure from None
            result.label = located.label
            container, result.snapshots = self._listed(located.container)
        result.container = container
        return container

    def _listed(self, known: Actual) -> tuple[Actual, list[Snapshot]]:
        name = known.current.get("hostname")
        container, snapshots = read_snapshots(self._client, known.node, known.vmid, name)
        return replace(container, pool=known.pool), snapshots

    def _saved(self, result: Result, wish: Wish, container: Actual) -> dict[str, t.Any]:
        if result.saved is None:
            result.saved = dict(self._client.get(f"{container.path}/snapshot/{wish.name}/config"))
        return result.saved

    def _rolls_back_past_newer(self, result: Result, wish: Wish, container: Actual, notes: list[str]) -> bool:
        """Whether no storage is known to go back to its newest snapshot only; asked only when that matters.

        Where the storage is not visible it is left to Proxmox, which looks before it touches anything.
        """
        if wish.remove_newer or not _newer_than(wish, result.snapshots):
            return False
        held, hidden = held_by(self._saved(result, wish, container), self._storage_list())
        if hidden:
            notes.append(
                f"Proxmox will decide whether {', '.join(hidden)} can go back past newer snapshots: without "
                "Datastore.Audit it cannot be known beforehand."
            )
        return not held

    def _storage_list(self) -> dict[str, dict[str, t.Any]]:
        """The storages that the user or token may see, by name; read once for all containers."""
        with self._storages_lock:
            if self._storages is None:
                self._storages = {str(entry["storage"]): entry for entry in self._client.get("storage") or []}
            return self._storages

    def _examine(self, result: Result, wish: Wish, listed: Actual) -> None:
        """Read what may stand against the plan; this is only asked of what is about to be changed.

        Raises:
            Failure: the plan cannot be carried out.
        """
        container = self._targets.read_current(result, listed.status)
        result.container = container
        refuse_unfit(result.plan, container)
        if result.plan.steps[0].action == TAKE:
            feature = self._client.get(f"{container.path}/feature", feature="snapshot") or {}
            if not int(feature.get("hasFeature") or 0):
                raise unsupported(container)
        if wish.state == "rolled_back":
            note_rollback(result.plan, container, self._saved(result, wish, container))

    def _apply(self, result: Result, wish: Wish) -> None:
        container = result.container
        if container is None:
            return
        executor = Executor(self._client, self._watcher, VmidAllocator(self._client), wish.timeout)
        result.log = executor.log
        try:
            executor.run(result.plan.steps, container.vmid, None)
        except Failure as failure:
            newer = _newer_than(wish, result.snapshots)
            lossy = failure.code == "snapshot_not_newest" and newer and not wish.remove_newer
            result.failure = _loss(container, str(wish.name), newer) if lossy else failure
        try:
            # After a failure too: the steps before it are done.
            _container, result.snapshots = self._listed(container)
        except Failure as failure:
            result.failure = result.failure or failure


def _newer_than(wish: Wish, snapshots: t.Sequence[Snapshot]) -> list[Snapshot]:
    """The snapshots that are newer than the one to roll back to."""
    target = next((snapshot for snapshot in snapshots if snapshot.name == wish.name), None)
    return newer_snapshots(target, snapshots) if wish.state == "rolled_back" and target else []


def module_result(results: t.Sequence[Result], name: str | None = None) -> dict[str, t.Any]:
    """The result of ``lxc_snapshot``; ``name`` is that of the snapshot."""
    return targets_result(results, name=name)
