# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking the containers of a node elsewhere, and bringing them back.

Where a container is at home and whether it ran is kept in a comment of its description, which is written before it is
moved. The comment says what is to become of the container, so that any later run, on any controller, can go on where
one was interrupted. It is not kept in a tag: tags are declared as a whole, and the next run of a fleet would remove it.
"""

from __future__ import annotations

import re
import time
import typing as t
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.access import Need, refuse_missing
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure, classify, combined
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.parallel import by_node, in_parallel
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.plan import LIVE, RESTART, Step
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.tasks import Log, TaskWatcher
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.apply import (
    HA_MOVING,
    Executor,
    VmidAllocator,
    description_params,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.cluster import unknown_node
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.converge import power_step
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.info import Entry, entry_of, update
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import Actual, Plan
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.notes import with_note
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.placement import (
    Landscape,
    Unit,
    base_of,
    has_room,
    lacks,
    landscape_of,
    loses_snapshots,
    obstacles,
    place,
    pod_of,
    volumes_of,
    workloads_of,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.privileges import space_need, vm_paths
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.reading import container_status
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.snapshot import read_has_snapshots
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import invalid

STATES = ("drained", "returned")
MARKED, MIGRATED = "marked", "migrated"

# States of the HA manager in which a resource is not moved by a request (next_state_… of PVE/HA/Manager.pm).
HA_STUCK = ("error", "fence", "recovery", "freeze")
# Not the HA manager's business (vm_is_ha_managed of PVE/HA/Config.pm).
HA_IGNORED = (None, "ignored")

FIRST_POLL, LAST_POLL = 0.5, 5.0

_MARK = re.compile(
    r"\n*<!-- lxcri\.proxmox home=(?P<home>[a-zA-Z0-9-]+) vmid=(?P<vmid>\d+) was=(?P<was>running|stopped) -->"
)
_REASON = re.compile(r"(?<!TASK )ERROR: (?:migration aborted \(duration [\d:]+\): )?(?P<reason>.+)")
_NODE = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?")
_STORAGE = re.compile(r"[a-zA-Z][a-zA-Z0-9._-]*[a-zA-Z0-9]")


# ------------------------------------------------------------------------------------------------------ the mark


@dataclass(frozen=True)
class Mark:
    """Where a container is at home, and whether it ran when it was taken away.

    vmid: the container's. A clone and a restored backup have the description of another one, but not its home.
    """

    home: str
    vmid: int
    running: bool

    def __str__(self) -> str:
        return (
            f"<!-- lxcri.proxmox home={self.home} vmid={self.vmid} was={'running' if self.running else 'stopped'} -->"
        )

    @property
    def shown(self) -> str:
        """As plans show it."""
        return f"{self.home}, {'running' if self.running else 'stopped'}"


def mark_of(description: t.Any, vmid: int) -> Mark | None:
    """The mark of a container in its description; None when there is none."""
    match = _MARK.search(str(description or ""))
    mark = Mark(match["home"], int(match["vmid"]), match["was"] == "running") if match else None
    return mark if mark and mark.vmid == vmid else None


def with_mark(description: t.Any, mark: Mark | None) -> str:
    """A description with another mark, or without one; everything else in it stays."""
    return with_note(description, _MARK, mark)


# ------------------------------------------------------------------------------------------------------ the wish


@dataclass(frozen=True)
class Wish:
    """What a task wants.

    node: the node that is drained, or that gets its containers back.
    targets: the only nodes to which containers may go; empty for all.
    storages: another storage for the volumes of a local one.
    shutdown_timeout: seconds that a running container has to shut down.
    """

    node: str
    state: str = "drained"
    targets: tuple[str, ...] = ()
    storages: t.Mapping[str, str] = field(default_factory=dict)
    allow_devices: bool = False
    require_all: bool = False
    shutdown_timeout: int = 180
    timeout: int = 3600

    @property
    def back(self) -> bool:
        """True when containers are brought back."""
        return self.state == "returned"


def make_wish(params: t.Mapping[str, t.Any]) -> Wish:
    """The wish that a module's options express.

    Raises:
        Failure: ``invalid_option``, naming the option and what would be right.
    """
    for option, names in (("node", [params["node"]]), ("targets", params["targets"])):
        for name in names:
            if not _NODE.fullmatch(name):
                raise invalid(option, f"{name!r} is not the name of a node")
    if params["node"] in params["targets"]:
        raise invalid("targets", f"{params['node']} is the node that is drained")
    if params["targets"] and params["state"] == "returned":
        raise invalid("targets", "it has no meaning with state=returned")
    for name in (*params["storages"], *map(str, params["storages"].values())):
        if not _STORAGE.fullmatch(name):
            raise invalid("storages", f"{name!r} is not the name of a storage")
    for option in ("concurrency", "shutdown_timeout", "timeout"):
        if params[option] < 1:
            raise invalid(option, f"{params[option]} is less than 1")
    return Wish(
        params["node"],
        params["state"],
        tuple(params["targets"]),
        {source: str(target) for source, target in params["storages"].items()},
        params["allow_devices"],
        params["require_all"],
        params["shutdown_timeout"],
        params["timeout"],
    )


# ------------------------------------------------------------------------------------------------------ the plan


@dataclass
class Move:
    """What becomes of one container.

    ha: its state in the HA manager; None when that does not manage it.
    lines: the raw lines of its configuration.
    allowed: the nodes to which the HA manager lets it go; None for any.
    together: the containers that the HA manager moves along.
    target: where it is to go; None when it stays where it is.
    location: where it is after the task.
    """

    actual: Actual
    ha: str | None = None
    lines: list[t.Sequence[str]] = field(default_factory=list)
    tags: tuple[str, ...] = ()
    memory: int = 0
    allowed: t.Sequence[str] | None = None
    together: tuple[int, ...] = ()
    target: str | None = None
    location: str | None = None
    plan: Plan = field(default_factory=Plan)
    log: Log = field(default_factory=Log)
    failure: Failure | None = None

    @property
    def label(self) -> str:
        """As messages call it."""
        return f"{self.actual.hostname} ({self.actual.vmid})"

    @property
    def mark(self) -> Mark | None:
        """The mark that it has."""
        return mark_of(self.actual.current.get("description"), self.actual.vmid)

    @property
    def ha_managed(self) -> bool:
        """True when the HA manager carries out what is asked of it."""
        return self.ha not in HA_IGNORED

    def as_dict(self) -> dict[str, t.Any]:
        """One entry of the module's ``containers``."""
        entry: dict[str, t.Any] = {
            "hostname": self.actual.hostname,
            "vmid": self.actual.vmid,
            "source": self.actual.node,
            "target": self.target,
            "node": self.location or self.actual.node,
            "running": self.plan.running_after if self.plan.changed else self.actual.running,
            "changed": self.plan.changed,
            "plan": [change.as_dict() for change in self.plan.changes],
            "tasks": self.log.as_list(),
            "notes": self.plan.notes,
        }
        if self.failure:
            entry["failure"] = self.failure.as_dict()
        return entry


def groups_of(moves: t.Sequence[Move]) -> list[list[Move]]:
    """Those that go to the same node together: the containers of a pod, and what the HA manager keeps together."""
    groups: list[list[Move]] = []
    for move in moves:
        joined = [group for group in groups if any(_belong(move, other) for other in group)]
        groups = [group for group in groups if group not in joined]
        groups.append([*(other for group in joined for other in group), move])
    return groups


def _belong(move: Move, other: Move) -> bool:
    pod = pod_of(move.tags)
    by_rule = other.actual.vmid in move.together or move.actual.vmid in other.together
    return by_rule or (pod is not None and pod == pod_of(other.tags))


def wanted_mark(wish: Wish, move: Move) -> Mark | None:
    """The mark that a container shall have: a home that it has already stays its home."""
    if wish.back:
        return None
    known = move.mark
    home = known.home if known else wish.node
    return Mark(home, move.actual.vmid, move.actual.running or bool(known and known.running))


def plan_move(wish: Wish, move: Move, landscape: Landscape) -> Plan:
    """The steps for one container: a mark before it leaves, and none when it is back.

    A container that ran when it was taken away runs afterwards. One that somebody has started meanwhile stays running.
    """
    actual, mark = move.actual, move.mark
    paths = vm_paths(actual.vmid, actual.pool)
    plan = Plan()
    base = actual.path
    leaves = move.target is not None and move.target != actual.node
    wanted = wanted_mark(wish, move)
    ran = actual.running or bool(mark and mark.running)
    if not wish.back and leaves and wanted != mark:
        plan.steps.append(_mark_step(actual, base, mark, wanted))
    if leaves:
        plan.steps.append(_migration(wish, move, landscape))
        base = f"nodes/{move.target}/lxc/{actual.vmid}"
        if move.together:
            named = ", ".join(map(str, move.together))
            plan.notes.append(f"The HA manager keeps it together with {named}, which go to the same node.")
    if ran and not actual.running and not actual.is_template:
        plan.steps.append(power_step(base, "started", "start", paths, "stopped", "started"))
    if wish.back and mark:
        plan.steps.append(_mark_step(actual, base, mark, None))
    plan.running_after = ran and not actual.is_template
    return plan


def _migration(wish: Wish, move: Move, landscape: Landscape) -> Step:
    actual = move.actual
    params: dict[str, t.Any] = {"target": move.target}
    if actual.running:
        params.update(restart=True, timeout=wish.shutdown_timeout)
    mapped = _mapping(wish, move, landscape)
    if mapped:
        params["target-storage"] = ",".join(f"{source}:{target}" for source, target in sorted(mapped.items()))
    step = Step(MIGRATED, "POST", f"{actual.path}/migrate", params)
    step.add("node", actual.node, move.target, RESTART if actual.running else LIVE)
    paths = vm_paths(actual.vmid, actual.pool)
    step.needs = [Need(paths, ("VM.Migrate",), "migrate the container")]
    if mapped:
        step.needs.append(Need(paths, ("VM.Config.Disk",), "put its volumes on another storage"))
        step.needs += [space_need(storage) for storage in sorted(set(mapped.values()))]
    return step


def _mapping(wish: Wish, move: Move, landscape: Landscape) -> dict[str, str]:
    """What of the mapping concerns a container; volumes on shared storages stay where they are."""
    used = {volume.storage for volume in volumes_of(move.actual.current)}
    shared = {name for name, store in landscape.stores.items() if store.shared}
    return {source: target for source, target in wish.storages.items() if source in used - shared}


def _mark_step(actual: Actual, base: str, before: Mark | None, after: Mark | None) -> Step:
    text = with_mark(actual.current.get("description"), after)
    step = Step(MARKED, "PUT", f"{base}/config", description_params(text), digest=True)
    step.add("home", before.shown if before else None, after.shown if after else None)
    paths = vm_paths(actual.vmid, actual.pool)
    step.needs = [Need(paths, ("VM.Config.Options",), "note its home in its description")]
    return step


def stuck(move: Move, reasons: t.Sequence[str]) -> Failure:
    """The refusal of a container that cannot be moved."""
    return Failure(
        "cannot_migrate",
        f"{move.label} cannot leave {move.actual.node}: {'; '.join(reasons)}.",
        "Remove what holds it, map its storage with 'storages', or move it by hand.",
        vmid=move.actual.vmid,
        node=move.actual.node,
        reasons=list(reasons),
    )


def explained(failure: Failure) -> Failure:
    """A failure whose message says why a migration was aborted, which only the task's log does."""
    if failure.code != "task_failed" or "migration" not in str(failure.details.get("exitstatus")):
        return failure
    reasons = [match["reason"].strip() for match in map(_REASON.search, failure.details.get("log") or ()) if match]
    if not reasons:
        return failure
    code, hint, facts = classify(500, reasons[-1])
    return Failure(
        "task_failed" if code == "api_error" else code,
        f"{failure.message.rstrip('.')}: {reasons[-1].rstrip('.')}.",
        hint,
        **{**failure.details, **facts},
    )


# ------------------------------------------------------------------------------------------------------- reading


@dataclass
class Reading:
    """What is there. bridges: of each node, as far as they were asked for."""

    landscape: Landscape
    entries: dict[int, Entry]
    ha: dict[int, str | None]
    machines: dict[int, tuple[str, str]]
    bridges: dict[str, frozenset[str]] = field(default_factory=dict)


class Drain:
    """Empties a node, or brings its containers back.

    concurrency: containers in work at a time.
    """

    def __init__(
        self,
        client: Client,
        check_mode: bool,
        concurrency: int,
        sleep: t.Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._check_mode = check_mode
        self._concurrency = concurrency
        self._sleep = sleep
        self._watcher = TaskWatcher(client)
        self.warnings: list[str] = []
        self.reading = Reading(Landscape(), {}, {}, {})

    def run(self, wish: Wish) -> list[Move]:
        """Do it; one container's failure does not stop the others.

        Raises:
            Failure: before the first write, what concerns all: ``node_unknown``, ``node_offline``, missing privileges,
                and with ``require_all`` a container that cannot be moved.
        """
        self.reading = self._settled(wish)
        moves = [move for move in in_parallel(self._read, self._candidates(wish)) if move and _concerns(wish, move)]
        self._choose(wish, moves)
        for move in moves:
            if not move.failure:
                move.plan = plan_move(wish, move, self.reading.landscape)
                move.location = move.target if self._check_mode else None
        moves = [move for move in moves if move.failure or move.plan.changed]
        held = [move for move in moves if move.failure]
        if held and wish.require_all:
            raise _incomplete(wish, held)
        refuse_missing(self._client, [need for move in moves for need in move.plan.needs])
        if not self._check_mode:
            work = [move for move in moves if not move.failure]
            by_node(lambda move: self._apply(wish, move), work, lambda _move: wish.node, self._concurrency)
            if work:
                self._locate(moves)
        return moves

    def _settled(self, wish: Wish) -> Reading:
        """What is there, when nothing is on its way any more.

        An interrupted run leaves migrations that go on. Before Proxmox locks a container it shuts it down, so that only
        the list of tasks tells of them. Where the containers are is read after that list: a migration that is in it no
        more has ended before.
        """
        deadline = time.monotonic() + wish.timeout
        pause = FIRST_POLL
        while True:
            reading = self._resources()
            node = reading.landscape.nodes.get(wish.node)
            if node is None:
                raise unknown_node(wish.node, reading.landscape.nodes)
            if not node.online:
                raise self._offline(wish, reading)
            upids = self._under_way(reading)
            moving = [vmid for vmid, state in reading.ha.items() if state in HA_MOVING]
            if not upids and not moving:
                self._refresh(reading)
                return reading
            in_parallel(lambda upid: self._await_end(upid, wish.timeout), upids)
            if moving and not upids:
                if time.monotonic() > deadline:
                    named = ", ".join(map(str, moving))
                    raise Failure(
                        "timeout",
                        f"The HA manager is still moving {named} after {wish.timeout} s.",
                        "Look at its status, and run again.",
                        vmids=moving,
                    )
                self._sleep(pause)
                pause = min(pause * 1.5, LAST_POLL)

    def _resources(self) -> Reading:
        entries: dict[int, Entry] = {}
        ha: dict[int, str | None] = {}
        machines: dict[int, tuple[str, str]] = {}
        resources = self._client.get("cluster/resources") or []
        for raw in resources:
            if raw.get("type") == "lxc":
                entry = entry_of(raw)
                entries[entry.vmid] = entry
                ha[entry.vmid] = raw.get("hastate")
            elif raw.get("type") == "qemu":
                machines[int(raw["vmid"])] = (str(raw["node"]), str(raw.get("name") or raw["vmid"]))
        return Reading(landscape_of(resources), entries, ha, machines)

    def _refresh(self, reading: Reading) -> None:
        """Read states and places where they are current; the states in the cluster's list are some seconds behind."""
        nodes = _online(reading)
        for node, listed in zip(nodes, in_parallel(lambda node: self._client.get(f"nodes/{node}/lxc") or [], nodes)):
            for raw in listed:
                entry = reading.entries.get(int(raw["vmid"]))
                if entry is not None:
                    entry.node = node
                    update(entry, raw)

    def _under_way(self, reading: Reading) -> list[str]:
        """The migrations that run, of containers that the user or token may see."""
        nodes = _online(reading)
        lists = in_parallel(lambda node: self._client.get(f"nodes/{node}/tasks", source="active", limit=500), nodes)
        known = {str(vmid) for vmid in reading.entries}
        return [
            str(task["upid"])
            for tasks in lists
            for task in tasks or []
            if task.get("type") == "vzmigrate" and str(task.get("id")) in known
        ]

    def _await_end(self, upid: str, timeout: int) -> None:
        """Wait for a migration that somebody else has started; how it ends is seen afterwards."""
        try:
            self._watcher.wait(upid, timeout)
        except Failure as failure:
            if failure.code == "timeout":
                raise

    def _offline(self, wish: Wish, reading: Reading) -> Failure:
        there = {
            vmid: entry.hostname or str(vmid) for vmid, entry in reading.entries.items() if entry.node == wish.node
        }
        named = ", ".join(f"{name} ({vmid})" for vmid, name in sorted(there.items())) or "no container"
        left = f"Nothing was moved. On it: {named}."
        return Failure(
            "node_offline",
            f"{wish.node} is offline. {left}",
            "Bring the node back. Containers under HA are recovered on other nodes by the HA manager.",
            node=wish.node,
            containers=[{"vmid": vmid, "hostname": name} for vmid, name in sorted(there.items())],
        )

    def _candidates(self, wish: Wish) -> list[Entry]:
        """The containers that have to be looked at: without its description nobody knows a container's home."""
        online = set(_online(self.reading))
        entries = sorted(self.reading.entries.values(), key=lambda entry: entry.vmid)
        hidden: Counter[str] = Counter(entry.node for entry in entries if entry.node not in online)
        if wish.back:
            for node, count in sorted(hidden.items()):
                self.warnings.append(f"{node} is offline, and the home of {count} of its containers could not be read.")
        return [
            entry
            for entry in entries
            if entry.node in online and (wish.back or entry.node == wish.node or entry.status != "running")
        ]

    def _read(self, entry: Entry) -> Move | None:
        """A container with its configuration; None when it has just been removed."""
        actual = Actual(entry.vmid, entry.node, entry.status, pool=entry.pool)
        if entry.hostname:
            actual.current["hostname"] = entry.hostname
        move = Move(actual, self.reading.ha.get(entry.vmid), tags=entry.tags)
        move.memory = int(entry.usage.get("maxmem") or 0)
        try:
            config = dict(self._client.get(f"{actual.path}/config"))
        except Failure as failure:
            if failure.code == "not_found":
                return None
            move.failure = failure
            return move
        actual.digest = config.pop("digest", None)
        move.lines = [(str(line[0]), str(line[1])) for line in config.pop("lxc", None) or []]
        actual.current.update(config)
        return move

    # ---------------------------------------------------------------------------------------------- choosing

    def _choose(self, wish: Wish, moves: t.Sequence[Move]) -> None:
        """Find a target for each that has to go; what keeps it where it is becomes its failure."""
        leaving = [move for move in moves if not move.failure and _leaves(wish, move)]
        if not leaving:
            return
        landscape = self.reading.landscape
        nodes = [wish.node] if wish.back else self._targets(wish)
        in_parallel(self._ask_ha, [move for move in leaving if move.ha_managed and not move.failure])
        copied = [move for move in leaving if loses_snapshots(move.actual.current, landscape)]
        in_parallel(self._ask_snapshots, [move for move in copied if not move.failure])
        self._read_bridges({*nodes, *(move.actual.node for move in leaving)})
        known = {move.actual.vmid: move for move in moves}
        bases = {
            (volume.storage, base)
            for move in known.values()
            for volume in volumes_of(move.actual.current)
            for base in [base_of(volume)]
            if base
        }
        candidates = {
            move.actual.vmid: self._reach(wish, move, nodes, bases) for move in leaving if move.failure is None
        }
        units = [self._unit(wish, group, candidates) for group in groups_of(leaving)]
        targets = place([unit for unit in units if unit], landscape)
        for move in leaving:
            move.target = targets.get(move.actual.vmid)
            if move.failure is None and move.target is None:
                move.failure = stuck(move, ["no node takes all of those that have to stay together"])

    def _targets(self, wish: Wish) -> list[str]:
        """The nodes to which containers may go.

        Raises:
            Failure: ``node_unknown``, ``node_offline`` when there is none.
        """
        nodes = self.reading.landscape.nodes
        unknown = [name for name in wish.targets if name not in nodes]
        if unknown:
            raise unknown_node(unknown[0], nodes)
        usable = [
            name
            for name, node in sorted(nodes.items())
            if node.online and not node.maintenance and name != wish.node and name in (wish.targets or nodes)
        ]
        if not usable:
            raise Failure(
                "node_offline",
                f"No node is online that could take the containers of {wish.node}.",
                "Bring another node back, or name others in 'targets'.",
                nodes=sorted(set(wish.targets or nodes) - {wish.node}),
            )
        return usable

    def _ask_ha(self, move: Move) -> None:
        """To which nodes the rules of the HA manager let a container go (``migrate_vm_precondition``)."""
        if move.ha in HA_STUCK:
            move.failure = stuck(move, [f"its HA resource is in the state {move.ha}, in which it is not moved"])
            return
        try:
            answer = self._client.get(f"{move.actual.path}/migrate") or {}
        except Failure as failure:
            # Proxmox VE 8 does not tell.
            if failure.code != "not_implemented":
                move.failure = failure
            return
        move.allowed = answer.get("allowed-nodes") or []
        along = [str(sid).partition(":") for sid in answer.get("dependent-ha-resources") or []]
        move.together = tuple(sorted(int(name) for kind, _colon, name in along if kind == "ct" and name.isdigit()))

    def _ask_snapshots(self, move: Move) -> None:
        try:
            read_has_snapshots(self._client, move.actual)
        except Failure as failure:
            move.failure = failure

    def _read_bridges(self, nodes: t.Collection[str]) -> None:
        """The bridges of some nodes; of a node that does not tell nothing is known."""

        def read(node: str) -> frozenset[str] | None:
            try:
                listed = self._client.get(f"nodes/{node}/network", type="any_bridge") or []
            except Failure as failure:
                if failure.code in ("permission_denied", "node_offline", "invalid_parameter", "not_implemented"):
                    return None
                raise
            return frozenset(str(entry["iface"]) for entry in listed)

        names = sorted(nodes)
        self.reading.bridges = {
            node: found for node, found in zip(names, in_parallel(read, names)) if found is not None
        }

    def _reach(
        self, wish: Wish, move: Move, nodes: t.Sequence[str], bases: t.Collection[tuple[str, str]]
    ) -> dict[str, bool]:
        """The nodes to which a container can go, and whether there is room; none when it has a failure."""
        landscape, actual = self.reading.landscape, move.actual
        entry = self.reading.entries[actual.vmid]
        if entry.lock:
            move.failure = Failure(
                "locked",
                f"{move.label} is locked ({entry.lock}).",
                "Wait for the operation that holds the lock, or remove a stale lock on the node with 'pct unlock'.",
                lock=entry.lock,
                vmid=actual.vmid,
            )
            return {}
        reasons = obstacles(actual.current, move.lines, landscape, bases, wish.allow_devices, actual.has_snapshots)
        if move.ha_managed and _mapping(wish, move, landscape):
            reasons.append("the HA manager moves it, and does not put its volumes on another storage")
        found: dict[str, bool] = {}
        against: list[str] = []
        for node in nodes:
            missing = lacks(actual.current, node, landscape, wish.storages, self.reading.bridges, actual.node)
            if move.allowed is not None and node not in move.allowed:
                missing.append("a rule of the HA manager keeps it from there")
            if move.ha_managed and landscape.nodes[node].maintenance:
                missing.append("it is in maintenance mode for the HA manager")
            if missing:
                against.append(f"{node}: {', '.join(missing)}")
            else:
                found[node] = has_room(actual.current, node, landscape, wish.storages)
        if reasons or not found:
            move.failure = stuck(move, reasons or against)
            return {}
        return found

    def _unit(
        self, wish: Wish, group: t.Sequence[Move], candidates: t.Mapping[int, t.Mapping[str, bool]]
    ) -> Unit | None:
        """What has to go to one node; None when one of them has to stay, and then all stay."""
        held = [move for move in group if move.failure]
        if held:
            for move in group:
                if not move.failure:
                    named = ", ".join(other.label for other in held)
                    move.failure = stuck(move, [f"it has to stay together with {named}"])
            return None
        reach = [candidates[move.actual.vmid] for move in group]
        shared = {node: all(each[node] for each in reach) for node in reach[0] if all(node in each for each in reach)}
        # An interrupted run may have moved a part of a pod already; the rest follows.
        pods = {pod_of(move.tags) for move in group} - {None}
        ahead = {entry.node for entry in self.reading.entries.values() if pod_of(entry.tags) in pods} - {wish.node}
        return Unit(
            tuple(move.actual.vmid for move in group),
            sum(move.memory for move in group if move.actual.running),
            {node: room for node, room in shared.items() if node in ahead} or shared,
            tuple(sorted({tag for move in group for tag in workloads_of(move.tags)})),
        )

    # ---------------------------------------------------------------------------------------------- applying

    def _apply(self, wish: Wish, move: Move) -> None:
        executor = Executor(self._client, self._watcher, VmidAllocator(self._client), wish.timeout, sleep=self._sleep)
        move.log = executor.log
        vmid = move.actual.vmid
        try:
            for step in move.plan.steps:
                if step.action == MARKED:
                    mark = None if wish.back else wanted_mark(wish, move)
                    digest = move.actual.digest if step.path.startswith(f"{move.actual.path}/") else None
                    executor.describe(step, vmid, digest, partial(with_mark, mark=mark))
                else:
                    executor.run([step], vmid, None)
                if step.action == MIGRATED and move.ha_managed and move.actual.running:
                    self._await_running(f"nodes/{move.target}/lxc/{vmid}", move, wish.timeout)
        except Failure as failure:
            move.failure = explained(failure)

    def _await_running(self, path: str, move: Move, timeout: int) -> None:
        """The HA manager starts a container on its own after it has moved it."""
        deadline = time.monotonic() + timeout
        pause = FIRST_POLL
        while True:
            status = container_status(self._client, path.split("/")[1], move.actual.vmid)
            if status.get("status") == "running":
                return
            if time.monotonic() > deadline:
                raise Failure(
                    "timeout",
                    f"{move.label} is on {move.target}, but the HA manager has not started it within {timeout} s.",
                    "Look at the status of the HA manager.",
                    vmid=move.actual.vmid,
                )
            self._sleep(pause)
            pause = min(pause * 1.5, LAST_POLL)

    def _locate(self, moves: t.Sequence[Move]) -> None:
        """Where the containers are now; after a failure nobody else can tell."""
        try:
            self.reading = self._resources()
        except Failure as failure:
            self.warnings.append(f"Where the containers are now could not be read: {failure.sentence}")
            return
        for move in moves:
            entry = self.reading.entries.get(move.actual.vmid)
            move.location = entry.node if entry else None
            if move.failure:
                move.failure.details["node"] = move.location


def _online(reading: Reading) -> list[str]:
    return sorted(name for name, node in reading.landscape.nodes.items() if node.online)


def _leaves(wish: Wish, move: Move) -> bool:
    return (move.actual.node != wish.node) if wish.back else (move.actual.node == wish.node)


def _concerns(wish: Wish, move: Move) -> bool:
    """Whether a container belongs to what is asked for."""
    mark = move.mark
    if wish.back:
        # What could not be read may belong to the node.
        return move.failure is not None or (mark is not None and mark.home == wish.node)
    if move.actual.node == wish.node:
        return True
    return mark is not None and mark.home == wish.node and mark.running and not move.actual.running


def _incomplete(wish: Wish, held: t.Sequence[Move]) -> Failure:
    named = " ".join(f"{move.failure.message}" for move in held if move.failure)
    return Failure(
        "cannot_migrate",
        f"Nothing was moved, because {len(held)} containers cannot be. {named}",
        "Remove what holds them, or leave 'require_all' out to have the others moved.",
        node=wish.node,
        containers=[move.actual.vmid for move in held],
    )


# ------------------------------------------------------------------------------------------------------ the result


def module_result(wish: Wish, moves: t.Sequence[Move], drain: Drain) -> dict[str, t.Any]:
    """The result of ``lxc_drain``."""
    failed = [(move.label, move.failure) for move in moves if move.failure]
    remaining = [] if wish.back else _remaining(wish, moves, drain.reading)
    answer: dict[str, t.Any] = {
        "changed": any(move.plan.changed for move in moves),
        "node": wish.node,
        "containers": [move.as_dict() for move in moves],
        "remaining": remaining,
        "summary": {
            "moved": sum(1 for move in moves if not move.failure and _migrates(move)),
            "settled": sum(1 for move in moves if not move.failure and not _migrates(move)),
            "failed": len(failed),
            "remaining": len(remaining),
        },
        "diff": [_diff_of(move) for move in moves if move.plan.changed],
        "warnings": drain.warnings + [f"{move.label}: {line}" for move in moves for line in move.log.warnings],
    }
    if failed:
        failure = _failure_of(wish, moves, failed, drain.reading)
        answer.update(msg=failure.sentence, failure=failure.as_dict())
    return answer


def _migrates(move: Move) -> bool:
    return any(step.action == MIGRATED for step in move.plan.steps)


def _remaining(wish: Wish, moves: t.Sequence[Move], reading: Reading) -> list[dict[str, t.Any]]:
    """What is, or in check mode would be, on the node afterwards."""
    where = {vmid: entry.node for vmid, entry in reading.entries.items()}
    where.update({move.actual.vmid: move.location for move in moves if move.location})
    names = {vmid: entry.hostname for vmid, entry in reading.entries.items()}
    left: list[dict[str, t.Any]] = [
        {"vmid": vmid, "name": names.get(vmid) or str(vmid), "type": "lxc"}
        for vmid, node in sorted(where.items())
        if node == wish.node
    ]
    return left + [
        {"vmid": vmid, "name": name, "type": "qemu"}
        for vmid, (node, name) in sorted(reading.machines.items())
        if node == wish.node
    ]


def _failure_of(
    wish: Wish, moves: t.Sequence[Move], failed: t.Sequence[tuple[str, Failure]], reading: Reading
) -> Failure:
    """The failure of the task; that of the node when it has gone offline meanwhile."""
    node = reading.landscape.nodes.get(wish.node)
    silent = any(failure.code in ("node_offline", "timeout", "unreachable") for _label, failure in failed)
    if node is None or node.online or not silent:
        return combined(failed, len(moves))
    stayed = [move for move in moves if move.failure]
    named = ", ".join(f"{move.label} on {move.location or move.actual.node}" for move in stayed)
    return Failure(
        "node_offline",
        f"{wish.node} has gone offline. Of {len(moves)} containers, these are not done: {named}.",
        "Bring the node back and run again; the containers are marked, and the run goes on where it was.",
        node=wish.node,
        containers=[
            {"vmid": move.actual.vmid, "hostname": move.actual.hostname, "node": move.location or move.actual.node}
            for move in stayed
        ],
    )


def _diff_of(move: Move) -> dict[str, t.Any]:
    changes = move.plan.changes
    return {
        "before_header": move.label,
        "after_header": move.label,
        "before": {change.key: change.before for change in changes},
        "after": {change.key: change.after for change in changes},
    }
