# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine: declared containers are found, read, planned for, checked for privileges, and made so.

One container is a fleet of one: ``lxc_container`` and ``lxc_fleet`` both call ``Engine.run``.
"""

from __future__ import annotations

import threading
import typing as t
from collections import Counter
from dataclasses import dataclass, field, replace
from urllib.parse import unquote

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.access import Need, refuse_missing
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.parallel import by_node, in_parallel
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.plan import RECREATE, RESTART, Step
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.tasks import Log, TaskWatcher, type_of, user_of
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.addresses import configured_addresses
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.apply import FETCHING, Executor, VmidAllocator
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.cluster import Cluster, Guest
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.converge import converge_plan, creation_notes
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.health import Verdict
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.image import (
    ImageSpec,
    drops_variables,
    hide_holder,
    mark_of,
    must_ask,
    settle,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.image_source import Images, find_holder, read_standing
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import VMID, Actual, Plan, waiting_keys
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.plan import ImageFacts, is_to_be_remade, make_plan
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.reading import interface_addresses, read_container
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.recreate import (
    Standing,
    journal_of,
    refuse_interrupted,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.snapshot import read_has_snapshots
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import Clone, Declared, invalid
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.reference import parse_reference

# How often a plan is made anew because somebody else changed the container in between.
REPLANS = 3

# text of one finished step
Report = t.Callable[[str], None]


@dataclass
class Outcome:
    """What became of one declared container.

    before, after: the container as it was and as it is (check mode: as it was).
    pruned: it was not declared, but owned. facts: of the image that is declared.
    health: what came out of its health check.
    """

    declared: Declared
    before: Actual | None = None
    after: Actual | None = None
    plan: Plan = field(default_factory=Plan)
    log: Log = field(default_factory=Log)
    addresses: list[dict[str, str]] = field(default_factory=list)
    failure: Failure | None = None
    source: Actual | None = None
    facts: ImageFacts = field(default_factory=ImageFacts)
    pruned: bool = False
    health: Verdict | None = None

    @property
    def changed(self) -> bool:
        """True when something was, or in check mode would be, done."""
        return self.plan.changed

    @property
    def warnings(self) -> list[str]:
        """What the tasks warned of, and what differs but was not done."""
        blocked = [
            f"{self.declared.label}: {change.key} is {change.before}, declared is {change.after}. {change.hint}"
            for change in self.plan.blocked
        ]
        lost = sorted({str(loss["key"]) for loss in self.plan.losses})
        if lost:
            blocked.append(f"{self.declared.label}: not as the image says, see losses: {', '.join(lost)}.")
        return blocked + [f"{self.declared.label}: {line}" for line in self.log.warnings]

    def container(self, check_mode: bool) -> dict[str, t.Any] | None:
        """The ``container`` of a result; None when there is none."""
        if self.after is None:
            return None
        status = self.after.status
        if check_mode and self.plan.changed:
            status = "running" if self.plan.running_after else "stopped"
        return {
            "vmid": self.after.vmid,
            "node": self.after.node,
            "hostname": self.after.hostname,
            "status": status,
            "config": self.after.config,
            "addresses": self.addresses,
        }

    def diff(self) -> dict[str, t.Any]:
        """Each key before and after, for ``--diff``."""
        before: dict[str, t.Any] = {}
        after: dict[str, t.Any] = {}
        for change in self.plan.changes:
            if change.request is not None:
                before.setdefault(change.key, change.before)
                after[change.key] = change.after
        return {"before": before, "after": after}

    def _waiting(self, check_mode: bool) -> list[str]:
        """The keys whose new value waits for the next stop, or would wait for it."""
        waiting = waiting_keys(self.after) if self.after else []
        if not check_mode:
            return waiting
        if any(step.action in ("stopped", "restarted") or "restart" in step.params for step in self.plan.steps):
            return []
        made = [change for step in self.plan.steps for change in step.changes]
        settled = {change.key for change in made}
        return [key for key in waiting if key not in settled] + [c.key for c in made if c.effect == RESTART]

    def as_dict(self, check_mode: bool) -> dict[str, t.Any]:
        """The return values that every container-shaped result has."""
        waiting = self._waiting(check_mode)
        return {
            "changed": self.changed,
            "container": self.container(check_mode),
            "plan": [change.as_dict() for change in self.plan.changes],
            "restart_required": bool(waiting) and (self.plan.running_after or not check_mode),
            "recreate_required": sorted({c.key for c in self.plan.blocked if c.effect == RECREATE}),
            "tasks": self.log.as_list(),
            "notes": self.plan.notes,
            "losses": self.plan.losses,
            **({"health": self.health.as_dict()} if self.health else {}),
        }


@dataclass(frozen=True)
class Ownership:
    """What a fleet owns, and what becomes of what it owns but no longer declares.

    owner: the tag that marks it.
    prune: ``none``, ``stop`` or ``delete``.
    prune_tags: the same for containers that carry a certain tag besides.
    """

    owner: str | None = None
    prune: str = "none"
    prune_tags: t.Mapping[str, str] = field(default_factory=dict)

    def policy(self, tags: t.Collection[str]) -> str:
        """What becomes of an owned container with these tags."""
        return next((policy for tag, policy in self.prune_tags.items() if tag.lower() in tags), self.prune)


class Engine:
    """Makes containers as declared.

    concurrency: steps in flight for each node.
    report: called with a line for each finished step.
    """

    def __init__(
        self,
        client: Client,
        check_mode: bool = False,
        concurrency: int = 4,
        report: Report | None = None,
    ) -> None:
        self._client = client
        self._check_mode = check_mode
        self._concurrency = concurrency
        self._report = report
        self._cluster = Cluster(client)
        self._watcher = TaskWatcher(client)
        self._vmids = VmidAllocator(client)
        self._images = Images(client)
        self._sources: dict[int, threading.Lock] = {}
        self._fetches: dict[tuple[str, str], threading.Lock] = {}
        self._fetched: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        self._done = 0
        self._total = 0

    # ------------------------------------------------------------------------------------------------- the run

    def run(self, fleet: t.Sequence[Declared], ownership: Ownership = Ownership()) -> list[Outcome]:
        """Make all of them so; one failure does not stop the others.

        Raises:
            Failure: before the first write, what concerns all: contradictions, and missing privileges.
        """
        refuse_contradictions(fleet)
        outcomes = self._find(fleet, ownership)
        self._place(outcomes)
        in_parallel(self._prepare, outcomes)
        outcomes = self._arrange(outcomes)
        share_fetches(outcomes)
        refuse_missing(self._client, [need for o in outcomes if not o.failure for need in self._needs(o)])
        if not self._check_mode:
            self._apply(outcomes)
        self._read_addresses(outcomes)
        return outcomes

    def _arrange(self, outcomes: list[Outcome]) -> list[Outcome]:
        """What there is to be done, once all plans are made."""
        return outcomes

    def _needs(self, outcome: Outcome) -> list[Need]:
        return outcome.plan.needs

    def _prepare(self, outcome: Outcome) -> None:
        """Plan for one container; its failure is kept with it."""
        if outcome.failure:
            return
        declared = outcome.declared
        try:
            is_there = outcome.before is not None and outcome.before.node == declared.node
            if declared.node and declared.state != "absent" and not is_there:
                self._cluster.require_online(declared.node)
            outcome.facts = self._image_facts(outcome)
            wants_source = (declared.clone and not outcome.before) or declared.restore
            outcome.source = self._source(declared, outcome.before) if wants_source else None
            outcome.plan = self._make_plan(outcome, outcome.before)
        except Failure as failure:
            outcome.failure = failure

    def _make_plan(self, outcome: Outcome, before: Actual | None) -> Plan:
        plan = make_plan(outcome.declared, before, outcome.source, outcome.facts)
        if before is None or plan.converge or not any(step.action == "moved" for step in plan.steps):
            return plan
        # It costs a request, and nothing but a move depends on it.
        read_has_snapshots(self._client, before)
        return make_plan(outcome.declared, before, outcome.source, outcome.facts)

    # ---------------------------------------------------------------------------------------------- finding

    def _find(self, fleet: t.Sequence[Declared], ownership: Ownership) -> list[Outcome]:
        if len(fleet) == 1 and not ownership.owner:
            outcome = Outcome(fleet[0])
            outcome.before = outcome.after = self._find_one(fleet[0])
            return [outcome]
        return self._find_all(fleet, ownership)

    def _find_one(self, declared: Declared) -> Actual | None:
        """One container by as few requests as there are: two with vmid and node, else three."""
        if declared.vmid is not None and declared.node:
            actual = self._read_declared(declared, declared.node, declared.vmid)
            if actual is not None:
                return self._with_pool(declared, actual)
        if declared.vmid is not None:
            guest = self._cluster.container(declared.vmid)
        else:
            guest = self._cluster.by_hostname(declared.hostname or "", exhaustive=declared.state != "absent")
        if guest is None and declared.vmid is None and self._await_creations([declared]):
            guest = self._cluster.by_hostname(declared.hostname or "", exhaustive=False)
        if guest is None:
            return None
        self._cluster.refuse_offline(guest)
        if declared.vmid is None:
            _guest, actual = self._read_named(declared.hostname or "", guest)
        else:
            actual = read_container(self._client, guest.node, guest.vmid, guest.current_status)
        return self._with_pool(declared, actual) if actual else None

    def _read_named(self, hostname: str, guest: Guest) -> tuple[Guest | None, Actual | None]:
        """A container that was found by its name, or the one that has the name by now."""
        found: Guest | None = guest
        actual = read_container(self._client, guest.node, guest.vmid, guest.current_status)
        if actual and actual.hostname != hostname:
            # The cluster's list still had a name that the container has lost.
            self._cluster.refresh(self._cluster.online_nodes)
            found = self._cluster.by_hostname(hostname, exhaustive=True)
            actual = read_container(self._client, found.node, found.vmid) if found else None
        return found, actual

    def _read_declared(self, declared: Declared, node: str, vmid: int) -> Actual | None:
        """A container by its id and node, or None when there is none as far as one may know."""
        try:
            return read_container(self._client, node, vmid)
        except Failure as failure:
            # Proxmox refuses before it says whether there is such a container. One that is yet to be made in a pool
            # can only be read when it is in there.
            if failure.code != "permission_denied" or not declared.pool or declared.state == "absent":
                raise
            return None

    def _with_pool(self, declared: Declared, actual: Actual) -> Actual:
        if declared.pool:
            guest = self._cluster.guest(actual.vmid)
            actual.pool = guest.pool if guest else None
        return actual

    def _find_all(self, fleet: t.Sequence[Declared], ownership: Ownership) -> list[Outcome]:
        """All of them by one request for the cluster, one for each node and one for each container."""
        cluster = self._cluster
        names = {guest.name for guest in cluster.guests if guest.kind == "lxc"}
        if any(declared.vmid is None and declared.hostname not in names for declared in fleet):
            cluster.refresh(cluster.online_nodes)
        else:
            cluster.refresh(self._involved_nodes(fleet))
        cluster.name_the_nameless()
        self._await_creations(fleet)
        outcomes = [Outcome(declared) for declared in fleet]
        in_parallel(self._locate, outcomes)
        matched: dict[int, str] = {}
        for outcome in outcomes:
            if outcome.before is not None:
                vmid, label = outcome.before.vmid, outcome.declared.label
                if vmid in matched:
                    raise invalid("containers", f"{matched[vmid]} and {label} are the same container ({vmid})")
                matched[vmid] = label
        # What is declared but could not be found or read, for whatever reason, is not gone from the declaration.
        named = {declared.hostname for declared in fleet if declared.vmid is None}
        declared_ids = {declared.vmid for declared in fleet} | {g.vmid for g in cluster.guests if g.name in named}
        return outcomes + self._find_undeclared(ownership, {*matched, *filter(None, declared_ids)})

    def _await_creations(self, fleet: t.Sequence[Declared]) -> bool:
        """Wait for what this user or token is creating already; False when there is nothing like that.

        A container has no name until the end of its creation. Without waiting, a run after one that was interrupted
        would create it a second time.
        """
        names = {guest.name for guest in self._cluster.guests if guest.kind == "lxc"}
        if all(declared.vmid is not None or declared.hostname in names for declared in fleet):
            return False
        return self._await_nameless(max(declared.timeout for declared in fleet))

    def _await_nameless(self, timeout: int) -> bool:
        """Wait until what this user or token is creating has its name; False when there is nothing without one."""
        making = {str(guest.vmid): guest.node for guest in self._cluster.guests if guest.is_being_made}
        nodes = sorted(set(making.values()) & set(self._cluster.online_nodes))
        if not nodes:
            return False
        upids = []
        for node in nodes:
            for entry in self._client.get(f"nodes/{node}/tasks", source="active", limit=500) or []:
                upid = str(entry.get("upid"))
                own = user_of(upid) == self._client.credentials.identity
                if own and type_of(upid) in ("vzcreate", "vzrestore") and str(entry.get("id")) in making:
                    upids.append(upid)
        in_parallel(self._await_end, [(upid, timeout) for upid in upids])
        self._cluster.refresh(nodes, again=True)
        return True

    def _await_end(self, awaited: tuple[str, int]) -> None:
        """Wait for a task that somebody else has started; how it ends is not of interest here."""
        try:
            self._watcher.wait(*awaited)
        except Failure as failure:
            if failure.code == "timeout":
                raise

    def _involved_nodes(self, fleet: t.Sequence[Declared]) -> list[str]:
        vmids = {declared.vmid for declared in fleet}
        names = {declared.hostname for declared in fleet if declared.vmid is None}
        return sorted(
            {guest.node for guest in self._cluster.guests if guest.vmid in vmids or guest.name in names}
            & set(self._cluster.online_nodes)
        )

    def _locate(self, outcome: Outcome) -> None:
        declared = outcome.declared
        try:
            if declared.vmid is not None:
                guest = self._cluster.container(declared.vmid)
            else:
                guest = self._cluster.by_hostname(declared.hostname or "", exhaustive=False)
            if guest is not None:
                self._cluster.refuse_offline(guest)
                actual = read_container(self._client, guest.node, guest.vmid, guest.current_status)
                if actual is not None:
                    actual.pool = guest.pool
                outcome.before = outcome.after = actual
        except Failure as failure:
            outcome.failure = failure

    def _find_undeclared(self, ownership: Ownership, declared_ids: set[int]) -> list[Outcome]:
        """What is owned but not declared any more, with what is to become of it."""
        if not ownership.owner:
            return []
        found = []
        for guest in self._cluster.guests:
            if guest.kind != "lxc" or ownership.owner.lower() not in guest.tags or guest.vmid in declared_ids:
                continue
            policy = ownership.policy(guest.tags)
            if policy != "none":
                state = "absent" if policy == "delete" else "stopped"
                declared = Declared(state=state, vmid=guest.vmid, hostname=guest.name, force=True, purge=True)
                if policy == "stop":
                    declared = Declared(state=state, vmid=guest.vmid, hostname=guest.name)
                found.append(Outcome(declared, pruned=True))
        in_parallel(self._locate, found)
        # The cluster's list lags behind: what has lost the tag, or has got one with another policy, is left to the
        # next run.
        return [
            outcome for outcome in found if outcome.before is None or _is_pruned(outcome.before, ownership, outcome)
        ]

    # --------------------------------------------------------------------------------------------- placement

    def _place(self, outcomes: t.Sequence[Outcome]) -> None:
        """Give new containers without a node one: evenly by ``spread``, then by number, then by memory in use.

        The containers of a unit go to the same node: that on which the first of them is.
        """
        units: dict[t.Any, list[Outcome]] = {}
        for outcome in outcomes:
            if not outcome.pruned and outcome.declared.state != "absent":
                units.setdefault(outcome.declared.unit or id(outcome), []).append(outcome)
        groups: Counter[tuple[str, str]] = Counter()
        new = []
        for unit in units.values():
            node = _node_of_unit(unit)
            if node:
                self._assign(unit, node)
                if unit[0].declared.spread:
                    groups[(unit[0].declared.spread, node)] += 1
            elif self._is_placeable(unit[0]):
                new.append(unit)
        if not new:
            return
        nodes = self._cluster.placement_nodes
        if not nodes:
            raise Failure(
                "node_offline", "No node is online and out of maintenance.", "Bring a node back, or declare 'node'."
            )
        total = Counter(guest.node for guest in self._cluster.guests)
        for unit in new:
            spread = unit[0].declared.spread or ""
            node = min(
                nodes, key=lambda name: (groups[(spread, name)], total[name], self._cluster.memory_share(name), name)
            )
            if spread:
                groups[(spread, node)] += 1
            total[node] += len(unit)
            self._assign(unit, node)

    @staticmethod
    def _is_placeable(outcome: Outcome) -> bool:
        # A clone is made where its source is: volumes of most storages cannot be copied to another node.
        return not outcome.failure and outcome.declared.spread is not None and not outcome.declared.clone

    @staticmethod
    def _assign(unit: t.Sequence[Outcome], node: str) -> None:
        """Have the containers of a unit, or a new container, on a node; one that stands alone stays where it is."""
        for outcome in unit:
            declared = outcome.declared
            if not declared.node and not declared.clone and (declared.unit or outcome.before is None):
                outcome.declared = replace(declared, node=node)

    # ------------------------------------------------------------------------------------------------ sources

    def _source(self, declared: Declared, existing: Actual | None) -> Actual | None:
        """What a clone or restore is made of."""
        if declared.clone:
            return self._clone_source(declared.clone)
        node = declared.node or (existing.node if existing else None)
        if declared.restore and node and (existing is None or declared.restore.force):
            return self._backup_source(node, declared.restore.volume)
        return None

    def _clone_source(self, clone: Clone) -> Actual | None:
        if clone.vmid is not None:
            guest = self._cluster.container(clone.vmid)
        else:
            guest = self._cluster.by_hostname(clone.hostname or "", exhaustive=True)
        if guest is None:
            return None
        source: Actual | None
        if clone.vmid is None:
            guest, source = self._read_named(clone.hostname or "", guest)
        else:
            source = read_container(self._client, guest.node, guest.vmid)
        if guest is not None and source is not None:
            source.pool = guest.pool
            if clone.snapshot:
                path = f"nodes/{guest.node}/lxc/{guest.vmid}/config"
                source.current = self._client.get(path, snapshot=clone.snapshot)
                source.pending = {}
        return source

    def _backup_source(self, node: str, volume: str) -> Actual | None:
        """The configuration in a backup; None when the user or token may not look into it."""
        try:
            text = self._client.get(f"nodes/{node}/vzdump/extractconfig", volume=volume)
        except Failure as failure:
            if failure.code in ("permission_denied", "not_implemented"):
                return None
            raise
        return Actual(0, node, current=parse_config(str(text or "")))

    # ------------------------------------------------------------------------------------------------- images

    def _image_facts(self, outcome: Outcome) -> ImageFacts:
        """What has to be known of a declared image; nothing is asked when the container is there and of it."""
        declared, before = outcome.declared, outcome.before
        spec = declared.image
        if not spec or declared.state == "absent":
            return ImageFacts()
        mark = mark_of(before.config.get("description")) if before else None
        if before:
            refuse_interrupted(declared, mark.holder if mark else None)
            now = self._images.remote(spec, declared.timeout).digest if must_ask(spec, mark) else None
            if is_to_be_remade(declared, mark, now):
                return self._remaking(declared, spec, before, mark.holder if mark else None)
            made_of = None
            if mark and drops_variables(declared, mark):
                made = replace(spec, reference=parse_reference(mark.reference).at(mark.digest))
                made_of = self._images.find(made, declared.timeout)
            return ImageFacts(now, made_of)
        holder = self._holder(declared, None)
        journal = journal_of(holder.config.get("description")) if holder else None
        if holder and journal:
            refuse_interrupted(declared, holder.vmid)
            outcome.declared = declared = replace(declared, vmid=journal.vmid, node=holder.node)
        if not declared.node:
            return ImageFacts()
        found = self._images.find(spec, declared.timeout)
        artefact = self._images.artefact(spec, found, declared.node, declared.timeout)
        return ImageFacts(found.digest, None, artefact, Standing(holder, journal.pool if journal else None))

    def _remaking(self, declared: Declared, spec: ImageSpec, before: Actual, held_by: int | str | None) -> ImageFacts:
        found = self._images.find(spec, declared.timeout)
        artefact = self._images.artefact(spec, found, before.node, declared.timeout)
        holder = self._holder(replace(declared, vmid=before.vmid), held_by)
        standing = read_standing(self._client, before, holder, self._cluster.guest(before.vmid))
        return ImageFacts(found.digest, None, artefact, standing)

    def _holder(self, declared: Declared, known: int | str | None) -> Actual | None:
        """The container that holds the volumes of this one since an interrupted run."""
        with self._lock:
            self._cluster.name_the_nameless()
            # An interrupted run may be making it.
            self._await_nameless(declared.timeout)
            guests = [guest for guest in self._cluster.guests if guest.node in self._cluster.online_nodes]
        return find_holder(
            guests,
            lambda node, vmid: read_container(self._client, node, vmid),
            declared.vmid,
            declared.hostname,
            known,
        )

    # ------------------------------------------------------------------------------------------------ applying

    def _apply(self, outcomes: t.Sequence[Outcome]) -> None:
        work = self._begin(outcomes)
        by_node(self._apply_one, work, working_node, self._concurrency)

    def _begin(self, outcomes: t.Sequence[Outcome]) -> list[Outcome]:
        """Get ready to apply the plans; those that there are."""
        work = [outcome for outcome in outcomes if outcome.plan.changed and not outcome.failure]
        self._total = sum(len(outcome.plan.steps) for outcome in work)
        self._vmids = VmidAllocator(
            self._client,
            [o.declared.vmid for o in outcomes if o.declared.vmid is not None],
        )
        return work

    def _apply_one(self, outcome: Outcome) -> None:
        declared = outcome.declared
        executor = Executor(
            self._client,
            self._watcher,
            self._vmids,
            declared.timeout,
            progress=lambda action, seconds: self._progress(outcome, action, seconds),
            fetch=lambda step, act: self._fetch(step, act, declared.timeout),
        )
        outcome.log = executor.log
        try:
            self._execute(outcome, executor)
        except Failure as failure:
            outcome.failure = failure

    def _execute(self, outcome: Outcome, executor: Executor) -> None:
        declared = outcome.declared
        before = outcome.before
        for attempt in range(REPLANS + 1):
            try:
                digest = before.digest if before else None
                vmid = self._run_steps(outcome, executor, _own_steps(outcome.plan), digest)
                break
            except Failure as failure:
                again = failure.code == "modified" and attempt < REPLANS and not executor.log.tasks
                if before is None or not again:
                    raise
                pool = before.pool
                before = read_container(self._client, before.node, before.vmid)
                if before:
                    before.pool = pool
                outcome.plan = self._make_plan(outcome, before)
        name_requests(outcome.plan, vmid)
        node = _final_node(outcome)
        if outcome.plan.converge:
            made = read_container(self._client, node, vmid)
            if made is None:
                raise Failure("not_found", f"{declared.label} has vanished after it was made.", vmid=vmid)
            made.pool = declared.pool
            goal = settle(replace(declared, vmid=vmid, node=node), made, outcome.facts.artefact)
            if outcome.plan.running_after and goal.running is None:
                # It ran before it was made anew.
                goal = replace(goal, state="started")
            rest = converge_plan(goal, made)
            if declared.image:
                hide_holder(rest)
                rest.notes = [note for note in rest.notes if note not in creation_notes(declared)]
            first = Plan(_own_steps(outcome.plan), converge=True, losses=outcome.plan.losses)
            first.extend(rest)
            outcome.plan = first
            executor.run(rest.steps, vmid, made.digest)
            node = declared.node or node
        if declared.state == "absent":
            outcome.after = None
            return
        outcome.after = read_container(self._client, node, vmid)
        if outcome.after is not None:
            outcome.after.pool = declared.pool
            if declared.wait_for_address and outcome.after.running:
                outcome.addresses = executor.await_address(node, vmid, declared.address_timeout)

    def _run_steps(self, outcome: Outcome, executor: Executor, steps: list[Step], digest: str | None) -> int:
        existing = outcome.before.vmid if outcome.before else outcome.declared.vmid
        if outcome.declared.clone and outcome.source and any(step.action == "cloned" for step in steps):
            with self._source_lock(outcome.source.vmid):
                return executor.run(steps, existing, digest)
        return executor.run(steps, existing, digest)

    def _source_lock(self, vmid: int) -> threading.Lock:
        """Clones of one source exclude each other on the node; waiting for one's turn here costs no request."""
        with self._lock:
            return self._sources.setdefault(vmid, threading.Lock())

    def _fetch(self, step: Step, act: t.Callable[[], None], timeout: float) -> None:
        """Bring an image to a storage, unless another container of this run has done it."""
        key = _fetch_key(step)
        with self._lock:
            lock = self._fetches.setdefault(key, threading.Lock())
        with lock:
            if key not in self._fetched:
                if step.payload:
                    self._images.place(step.payload, timeout)
                else:
                    act()
                self._fetched.add(key)

    def _progress(self, outcome: Outcome, action: str, seconds: float) -> None:
        with self._lock:
            self._done += 1
            self._total = max(self._total, self._done)
            line = (
                f"[{self._done}/{self._total}] {outcome.declared.label} {action} "
                f"on {_final_node(outcome)} in {seconds:.1f} s"
            )
            if self._report:
                self._report(line)

    # ----------------------------------------------------------------------------------------------- addresses

    def _read_addresses(self, outcomes: t.Sequence[Outcome]) -> None:
        """Static addresses from the configuration; others only when the task asks for an address."""
        asking: list[tuple[Outcome, Actual]] = []
        for outcome in outcomes:
            if outcome.after is None or outcome.addresses:
                continue
            outcome.addresses = configured_addresses(outcome.after.config)
            if outcome.declared.wait_for_address and outcome.after.running and not outcome.failure:
                asking.append((outcome, outcome.after))
        in_parallel(self._ask_addresses, [(outcome, after) for outcome, after in asking if not outcome.addresses])

    def _ask_addresses(self, asked: tuple[Outcome, Actual]) -> None:
        outcome, after = asked
        node, vmid = after.node, after.vmid
        try:
            if self._check_mode:
                outcome.addresses = interface_addresses(self._client, node, vmid)
                return
            executor = Executor(self._client, self._watcher, self._vmids, outcome.declared.timeout)
            outcome.addresses = executor.await_address(node, vmid, outcome.declared.address_timeout)
        except Failure as failure:
            outcome.failure = failure


# The steps after which the container is read, and what follows is planned again on what was made.
_MADE = ("cloned", "restored", "created", "checked", "released")


def _own_steps(plan: Plan) -> list[Step]:
    """The steps up to the one that makes the container; what follows is planned again on what was made."""
    if not plan.converge:
        return plan.steps
    making = max((n for n, step in enumerate(plan.steps) if step.action in _MADE), default=-1)
    return plan.steps[: making + 1]


def share_fetches(outcomes: t.Sequence[Outcome]) -> None:
    """Say of several containers of one image only once that it is brought to the storage."""
    seen = set()
    for outcome in outcomes:
        for step in outcome.plan.steps:
            if step.action in FETCHING:
                if _fetch_key(step) in seen:
                    step.changes = []
                seen.add(_fetch_key(step))


def _fetch_key(step: Step) -> tuple[str, str]:
    return step.path, str(step.params.get("filename"))


def _is_pruned(actual: Actual, ownership: Ownership, outcome: Outcome) -> bool:
    """Whether the tags that a container has now are still a reason for what is to become of it."""
    tags = properties.read("tags", actual.current.get("tags")) or ()
    state = {"delete": "absent", "stop": "stopped"}.get(ownership.policy(tags))
    return str(ownership.owner).lower() in tags and state == outcome.declared.state


def name_requests(plan: Plan, vmid: int) -> None:
    """Put the id that was chosen into the requests that the plan shows."""
    for change in plan.changes:
        if change.request:
            change.request = change.request.replace(VMID, str(vmid))


def working_node(outcome: Outcome) -> str:
    """The node whose daemon carries out the steps."""
    paths = (step.path.split("/") for step in outcome.plan.steps)
    return next((parts[1] for parts in paths if parts[0] == "nodes"), "")


def _node_of_unit(unit: t.Sequence[Outcome]) -> str | None:
    """Where the containers of a unit are to be; None when that can be chosen.

    Raises:
        Failure: ``invalid_option`` when they are declared on different nodes.
    """
    declared = {outcome.declared.node for outcome in unit if outcome.declared.node}
    if len(declared) > 1:
        names = ", ".join(outcome.declared.label for outcome in unit)
        raise invalid("unit", f"{names} are on one node, but declared on {' and '.join(sorted(declared))}")
    there = next((outcome.before.node for outcome in unit if outcome.before), None)
    return next(iter(declared), there)


def _final_node(outcome: Outcome) -> str:
    """Where the container is after the steps."""
    for step in reversed(outcome.plan.steps):
        if step.action == "migrated":
            return str(step.params["target"])
    if outcome.before:
        return outcome.before.node
    return outcome.declared.node or (outcome.source.node if outcome.source else "")


def parse_config(text: str) -> dict[str, t.Any]:
    """The keys of a container's configuration file, without its snapshots (``parse_pct_config``).

    Comment lines at the top are the description, URL-encoded.
    """
    config: dict[str, t.Any] = {}
    description = ""
    for line in text.split("\n"):
        if line.startswith("["):
            break
        if line.startswith("#"):
            description += unquote(line[1:]) + "\n"
            continue
        key, colon, value = line.partition(":")
        if colon and properties.key_of(key.strip()):
            config[key.strip()] = value.strip(properties.BLANK)
    return {**config, "description": description} if description else config


def refuse_contradictions(fleet: t.Sequence[Declared]) -> None:
    """Refuse a list in which two entries cannot both be had.

    Raises:
        Failure: ``invalid_option``: the same vmid, hostname, MAC address or address on one network twice.
    """
    seen: dict[tuple[str, t.Any], str] = {}
    for declared in fleet:
        facts: list[tuple[str, t.Any]] = []
        if declared.vmid is not None:
            facts.append(("vmid", declared.vmid))
        if declared.hostname and (declared.state != "absent" or declared.vmid is None):
            facts.append(("hostname", declared.hostname))
        for net in _networks(declared) if declared.state != "absent" else ():
            if net.get("hwaddr"):
                facts.append(("MAC address", net["hwaddr"]))
            for sub in ("ip", "ip6"):
                if "/" in net.get(sub, ""):
                    facts.append((f"address on {net.get('bridge')}", (net[sub].split("/")[0], net.get("tag"))))
        for fact in facts:
            if fact in seen:
                value = fact[1][0] if isinstance(fact[1], tuple) else fact[1]
                raise invalid("containers", f"{seen[fact]} and {declared.label} have the same {fact[0]}: {value}")
            seen[fact] = declared.label


def _networks(declared: Declared) -> list[dict[str, t.Any]]:
    return [value for key, value in declared.config.items() if key.startswith("net") and value]
