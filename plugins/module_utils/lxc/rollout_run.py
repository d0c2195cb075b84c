# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine of a fleet whose replicas are changed a few at a time, checked, and rolled back when they do not work."""

from __future__ import annotations

import time
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.access import Need
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.parallel import by_node, in_parallel
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.plan import Step
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.tasks import user_of
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import fleet
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.apply import Executor
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.fleet import Engine, Outcome, Ownership
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.health import Verdict, failure_of
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.health_run import Checker
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.image import ImageSpec, Mark, mark_of
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import VMID, Actual, Plan
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.privileges import vm_paths
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.reading import read_container
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.rollout import (
    Replica,
    Report,
    Strategy,
    next_batch,
    schedule,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.rollout_guard import (
    GROWN,
    Guard,
    Remaking,
    is_left,
    read_guard,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.rollout_image import (
    former_before,
    former_declaration,
    former_image,
    former_of,
    is_remade,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import Declared, invalid
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.reference import parse_reference

# The locks that a roll-out's own tasks hold, which go on when the run that started them is interrupted.
_OWN_LOCKS = ("snapshot", "snapshot-delete", "rollback", "disk", "destroyed")
# Failures that say nothing about a container, only about the cluster that was asked.
_OF_CLUSTER = (
    "unreachable",
    "node_offline",
    "authentication_failed",
    "certificate_invalid",
    "no_quorum",
    "lock_timeout",
)
# Seconds within which a container runs whose start has ended without an error.
SETTLING = 2.0


@dataclass
class Member:
    """A container of a replica.

    guard: by which it can go back.
    grown: steps of its plan that are done before the snapshot is taken.
    last: steps of its plan that are sent when it is known to work.
    left_alone: the roll-out stopped before it was its turn.
    """

    outcome: Outcome
    guard: Guard | Remaking | None = None
    grown: list[Step] = field(default_factory=list)
    last: list[Step] = field(default_factory=list)
    left_alone: bool = False

    @property
    def changes(self) -> list[Step]:
        """The steps that change the container itself."""
        return [step for step in self.outcome.plan.steps if not any(step is other for other in self.last)]

    def append(self, step: Step) -> None:
        """Add a step that is sent when it is known to work."""
        self.outcome.plan.steps.append(step)
        self.last.append(step)

    @property
    def is_to_run(self) -> bool:
        """Whether it is declared as something that may run."""
        return self.outcome.declared.state in ("started", "present") and not self.outcome.pruned


@dataclass
class Unit:
    """A replica: one container, or several that are changed together."""

    name: str
    members: list[Member]

    @property
    def is_surge(self) -> bool:
        """Whether it is there only while others are changed."""
        return self.members[0].outcome.declared.surge

    @property
    def failed(self) -> bool:
        """Whether one of its containers could not be made as declared."""
        return any(member.outcome.failure for member in self.members)

    @property
    def has_work(self) -> bool:
        """Whether something is to be done to it, or what an interrupted run has begun is to be finished."""
        return not self.failed and (self.changes or any(member.guard for member in self.members))

    @property
    def changes(self) -> bool:
        """Whether one of its containers is changed."""
        return any(member.changes for member in self.members)

    @property
    def runs(self) -> bool:
        """Whether all its containers run."""
        return all(member.outcome.after is not None and member.outcome.after.running for member in self.members)

    @property
    def node(self) -> str:
        """The node whose daemon carries out the steps."""
        return next(filter(None, (fleet.working_node(member.outcome) for member in self.members)), "")


@dataclass
class Roll:
    """The roll-out of one group.

    waiting: the replicas to which something is still to be done, by their names.
    """

    strategy: Strategy
    units: list[Unit]
    report: Report = field(init=False)
    waiting: dict[str, Unit] = field(init=False)

    def __post_init__(self) -> None:
        self.report = Report(self.strategy.group, self.strategy.on_failure)
        self.waiting = {unit.name: unit for unit in self.units if unit.has_work}

    def take(self, names: t.Sequence[str]) -> list[Unit]:
        """The next batch; its replicas do not wait any longer."""
        if names:
            self.report.batches.append(list(names))
        return [self.waiting.pop(name) for name in names]

    def settle(self, chosen: t.Sequence[Unit]) -> None:
        """Note what has become of a batch."""
        self.report.done += [unit.name for unit in chosen if not unit.failed]
        self.report.failed += [_account(unit) for unit in chosen if unit.failed]


class RollingEngine(Engine):
    """Makes a fleet as declared, the groups that have a strategy by its rules.

    checker: makes the health checks.
    reports: what became of each group in which there was something to do.
    """

    def __init__(
        self,
        client: Client,
        strategies: t.Sequence[Strategy],
        checker: Checker,
        check_mode: bool = False,
        concurrency: int = 4,
        report: fleet.Report | None = None,
    ) -> None:
        super().__init__(client, check_mode, concurrency, report)
        self._strategies = {strategy.group: strategy for strategy in strategies}
        self._checker = checker
        self._members: list[Member] = []
        self._guards: dict[int, Guard | Remaking] = {}
        self.reports: list[Report] = []

    def _strategy(self, outcome: Outcome) -> Strategy | None:
        return None if outcome.pruned else self._strategies.get(outcome.declared.group or "")

    # ------------------------------------------------------------------------------------------------- finding

    def _find(self, fleet: t.Sequence[Declared], ownership: Ownership) -> list[Outcome]:
        outcomes = super()._find(fleet, ownership)
        in_parallel(self._settle, [o for o in outcomes if o.before and (o.before.lock or self._strategy(o))])
        return outcomes

    def _settle(self, outcome: Outcome) -> None:
        """Wait for what an interrupted roll-out of the same user or token has begun on a container."""
        before = t.cast("Actual", outcome.before)
        if not _is_unsettled(before):
            return
        self._await_own(before, outcome.declared.timeout)
        # What there was to wait for may have ended since the container was read.
        settled = read_container(self._client, before.node, before.vmid)
        if settled is not None:
            settled.pool = before.pool
        outcome.before = outcome.after = settled

    def _await_own(self, container: Actual, timeout: int) -> None:
        """Wait for the tasks on a container that the same user or token has started."""
        path = f"nodes/{container.node}/tasks"
        listed = self._client.get(path, source="active", vmid=container.vmid, limit=50) or []
        upids = [str(entry.get("upid")) for entry in listed]
        own = [upid for upid in upids if user_of(upid) == self._client.credentials.identity]
        for upid in own:
            self._await_end((upid, timeout))

    # ---------------------------------------------------------------------------------------------- arranging

    def _arrange(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Add what surrounds the changes: surge replicas that are needed, and snapshots.

        Raises:
            Failure: ``invalid_option`` for a strategy that allows nothing.
        """
        self._members = [Member(outcome) for outcome in outcomes]
        for strategy, units in self._groups():
            surge = sum(unit.is_surge for unit in units)
            if strategy.limit(len(units) - surge, surge) + surge < 1:
                raise invalid("rollouts", f"{strategy.group} has max_unavailable 0 and no surge replica")
            self._arrange_surge(units)
        self._members = [member for member in self._members if not _is_superfluous(member.outcome)]
        in_parallel(self._arrange_guard, [member for member in self._members if member.is_to_run])
        self._guards = {id(member.outcome): member.guard for member in self._members if member.guard}
        if self._check_mode:
            for strategy, units in self._groups():
                self._predict(strategy, units)
        return [member.outcome for member in self._members]

    def _groups(self) -> list[tuple[Strategy, list[Unit]]]:
        """The replicas of each group that has a strategy and is to run, in the order of the list."""
        found: dict[str, dict[t.Any, Unit]] = {}
        for member in self._members:
            declared, strategy = member.outcome.declared, self._strategy(member.outcome)
            if strategy and member.is_to_run:
                units = found.setdefault(strategy.group, {})
                name = declared.unit or declared.label
                units.setdefault(name, Unit(name, [])).members.append(member)
        return [(self._strategies[group], list(units.values())) for group, units in found.items()]

    def _arrange_surge(self, units: t.Sequence[Unit]) -> None:
        """Keep surge replicas for as long as others are changed, and remove them otherwise."""
        updated = any(
            member.changes and member.outcome.before is not None and member.outcome.before.running
            for unit in units
            if not unit.is_surge
            for member in unit.members
        )
        for member in [member for unit in units if unit.is_surge for member in unit.members]:
            outcome = member.outcome
            if updated and not outcome.failure:
                member.append(_destruction(outcome))
            elif not updated:
                outcome.plan, outcome.failure = Plan(), None
                outcome.declared = replace(outcome.declared, state="absent", force=True, purge=True)
                self._prepare(outcome)

    def _arrange_guard(self, member: Member) -> None:
        """Plan for going back: of a container that is to be changed, or that an interrupted run has left changed."""
        outcome, strategy = member.outcome, self._strategy(member.outcome)
        if outcome.failure:
            return
        protects = bool(strategy and strategy.on_failure == "rollback" and member.changes)
        try:
            guard = self._guard(member, protects)
        except Failure as failure:
            outcome.failure = failure
            return
        if guard is None:
            return
        if guard.left is not None:
            stopped = guard.was_running and outcome.before is not None and not outcome.before.running
            if stopped and outcome.declared.running is None:
                # The interrupted run has stopped it.
                outcome.declared = replace(outcome.declared, state="started")
                self._plan_again(member)
            member.append(guard.removal())
        member.guard = guard

    def _guard(self, member: Member, protects: bool) -> Guard | Remaking | None:
        """By what a container can go back; None when that is not wanted, or when there is nothing to go back to.

        Raises:
            Failure: it could not go back.
        """
        outcome = member.outcome
        before, standing = outcome.before, outcome.facts.standing
        journal = standing.journal
        known = before or journal
        config = known.config if known else {}
        noted = former_of(config.get("description"), known.vmid) if known else None
        if before is None:
            if noted is None or journal is None or standing.holder is None:
                return None
            return Remaking(Actual(journal.vmid, standing.holder.node, pool=journal.pool), noted, noted)
        if noted:
            return Remaking(before, noted, noted)
        mark = mark_of(config.get("description"))
        if mark and mark.holder:
            # It was being made anew by a run that was not to go back, and runs no more: there is nothing to lose.
            return None
        if protects and is_remade(Plan(member.changes)):
            return Remaking(before, former_before(before), None)
        if not protects and not is_left(before):
            return None
        left, complete = read_guard(self._client, before, Plan(member.changes), protects)
        if left is None and not protects:
            return None
        strategy = self._strategy(outcome)
        return Guard(before, strategy.group if strategy else outcome.declared.label, left, complete)

    def _plan_again(self, member: Member) -> None:
        outcome = member.outcome
        outcome.plan = self._make_plan(outcome, outcome.before)
        outcome.plan.steps += member.last

    def _needs(self, outcome: Outcome) -> list[Need]:
        guard = self._guards.get(id(outcome))
        return super()._needs(outcome) + (guard.needs if guard else [])

    def _predict(self, strategy: Strategy, units: t.Sequence[Unit]) -> None:
        """Report what would be done, were every running replica healthy."""
        batches = schedule([_replica(unit, unit.runs, unit.has_work) for unit in units], strategy)
        if batches:
            report = Report(strategy.group, strategy.on_failure)
            report.batches = [list(batch.names) for batch in batches if batch.names]
            report.blocking = list(batches[-1].blocking)
            named = {name for names in report.batches for name in names}
            report.kept = [unit.name for unit in units if unit.has_work and unit.name not in named]
            self.reports.append(report)

    # ------------------------------------------------------------------------------------------------ applying

    def _apply(self, outcomes: t.Sequence[Outcome]) -> None:
        work = self._begin(outcomes)
        self._total += sum(1 for outcome in work if outcome.declared.health and outcome.declared.state != "absent")
        self._total += sum(member.guard is not None for member in self._members)
        groups = self._groups()
        rolling = {id(member) for _strategy, units in groups for unit in units for member in unit.members}
        loose = [
            Unit(member.outcome.declared.label, [member])
            for member in self._members
            if member.outcome.plan.changed and not member.outcome.failure and id(member) not in rolling
        ]
        rolls = [Roll(strategy, units) for strategy, units in groups if any(unit.has_work for unit in units)]
        self.reports += [roll.report for roll in rolls]
        # What takes nothing away from anybody is done at once for all groups, and with what is of no group.
        first = [(roll, roll.take(self._first(roll))) for roll in rolls]
        work_of: list[tuple[Unit, Strategy | None]] = [(unit, None) for unit in loose]
        work_of += [(unit, roll.strategy) for roll, chosen in first for unit in chosen]
        by_node(lambda each: self._change(*each), work_of, lambda each: each[0].node, self._concurrency)
        for roll, chosen in first:
            roll.settle(chosen)
        for roll in rolls:
            self._roll(roll)
        in_parallel(self._judge, self._members)

    @staticmethod
    def _first(roll: Roll) -> tuple[str, ...]:
        """The replicas of a group that do not run, when it is their turn and that of no others."""
        batch = next_batch([_replica(unit, unit.runs, unit.name in roll.waiting) for unit in roll.units], roll.strategy)
        alone = not any(unit.runs or unit.is_surge for unit in roll.units if unit.name in batch.names)
        return batch.names if alone else ()

    def _roll(self, roll: Roll) -> None:
        """Change the replicas of a group, batch by batch, until all are as declared or one does not work."""
        strategy, report = roll.strategy, roll.report
        while roll.waiting and not report.failed:
            healthy = in_parallel(self._works, roll.units)
            replicas = [_replica(unit, works, unit.name in roll.waiting) for unit, works in zip(roll.units, healthy)]
            batch = next_batch(replicas, strategy)
            if not batch.names:
                report.blocking = list(batch.blocking)
                break
            chosen = roll.take(batch.names)
            by_node(lambda unit: self._change(unit, strategy), chosen, lambda unit: unit.node, self._concurrency)
            roll.settle(chosen)
        report.kept = list(roll.waiting)
        for member in [member for unit in roll.waiting.values() for member in unit.members]:
            _leave(member, report.sentence)
        if report.blocking:
            _blame(report, roll.units)
        if not report.sentence or strategy.on_failure == "rollback":
            for member in [member for unit in roll.units if unit.is_surge for member in unit.members]:
                self._send_home(member)

    def _works(self, unit: Unit) -> bool:
        """Whether all containers of a replica run and are healthy."""
        return unit.runs and all(self._is_healthy(member.outcome) for member in unit.members)

    def _is_healthy(self, outcome: Outcome) -> bool | None:
        """Whether a container that runs is healthy; None when it could not be asked, and cannot be counted on."""
        if not outcome.declared.health or outcome.after is None:
            return True
        try:
            outcome.health = self._checker.check(outcome.declared.health, outcome.after)
        except Failure as failure:
            outcome.health = Verdict(False, "health", failure.message, 1, 0.0)
            return None
        return outcome.health.healthy

    def _send_home(self, member: Member) -> None:
        """Remove a surge replica, which has done its service."""
        outcome, container = member.outcome, member.outcome.after
        if container is None:
            return
        executor = self._executor(outcome)
        try:
            executor.run(member.last, container.vmid, None)
        except Failure as failure:
            outcome.failure = outcome.failure or failure
            return
        outcome.log.tasks += executor.log.tasks
        outcome.plan.steps = member.changes + member.last
        fleet.name_requests(outcome.plan, container.vmid)
        outcome.after = outcome.health = None

    def _executor(self, outcome: Outcome) -> Executor:
        return Executor(
            self._client,
            self._watcher,
            self._vmids,
            outcome.declared.timeout,
            progress=lambda action, seconds: self._progress(outcome, action, seconds),
        )

    def _judge(self, member: Member) -> None:
        """Check what there was nothing to be done to; what a roll-out has found out counts."""
        outcome = member.outcome
        if outcome.pruned or outcome.failure or member.left_alone or not outcome.declared.health:
            return
        if outcome.health is None:
            self._verify(member)
        elif not outcome.health.healthy:
            outcome.failure = failure_of(outcome.declared.label, outcome.health)

    # --------------------------------------------------------------------------------------------- one replica

    def _change(self, unit: Unit, strategy: Strategy | None) -> None:
        """Change the containers of a replica: all of them, or in the end none."""
        rolls_back = strategy is not None and strategy.on_failure == "rollback"
        for member in unit.members:
            if member.guard:
                member.guard.executor = self._executor(member.outcome)
        if not rolls_back or self._protect(unit):
            for member in unit.members:
                if member.changes and not unit.failed:
                    self._carry_out(member)
            if not unit.failed:
                in_parallel(self._verify, unit.members)
            if not unit.failed:
                for member in unit.members:
                    self._finish(member)
            else:
                failures = [member.outcome.failure for member in unit.members if member.outcome.failure]
                cause = next((failure for failure in failures if not _leaves_open(failure)), failures[0])
                for member in unit.members:
                    self._fail(member, unit, cause, strategy if rolls_back else None)
        for member in unit.members:
            if member.guard and member.guard.executor:
                member.outcome.log.tasks += member.guard.executor.log.tasks

    def _protect(self, unit: Unit) -> bool:
        """See to it that each can go back; False when that failed, and no more than volumes have grown."""
        for member in unit.members:
            if member.guard and member.changes:
                try:
                    self._protect_one(member, member.guard)
                except Failure as failure:
                    member.outcome.failure = failure
                    break
        if unit.failed:
            for member in unit.members:
                if member.guard and member.guard.left is None:
                    _attempt(member.outcome, member.guard)
        return not unit.failed

    def _protect_one(self, member: Member, guard: Guard | Remaking) -> None:
        """See to it that a container can go back, and plan again on what there is now: the digest is another one."""
        outcome, before = member.outcome, guard.actual
        if outcome.before is None:
            # An interrupted run has removed it to make it anew, and has seen to it.
            return
        if isinstance(guard, Guard):
            # A rollback takes the text of a size back, but not the size.
            member.grown = [step for step in member.changes if step.action == GROWN]
            if guard.executor:
                guard.executor.run(member.grown, before.vmid, None)
            self._take_snapshot(guard, outcome.declared.timeout)
        else:
            guard.take()
        outcome.before = read_container(self._client, before.node, before.vmid)
        if outcome.before is None:
            raise Failure("not_found", f"{outcome.declared.label} has vanished.", "Run again.", vmid=before.vmid)
        outcome.before.pool = before.pool
        self._plan_again(member)
        outcome.plan.steps[:0] = member.grown

    def _take_snapshot(self, guard: Guard, timeout: int) -> None:
        try:
            guard.take()
        except Failure as failure:
            # An interrupted run may be taking it, which is not seen in its first moments.
            if failure.code not in ("locked", "snapshot_exists"):
                raise
            self._await_own(guard.actual, timeout)
            left, complete = read_guard(self._client, guard.actual, Plan(), protects=False)
            if left is None or not complete:
                raise
            guard.adopt(left)

    def _carry_out(self, member: Member) -> None:
        """Carry out the plan of one container, but for what was done before and what comes last."""
        outcome = member.outcome
        grown = member.grown
        outcome.plan.steps = [step for step in member.changes if not any(step is other for other in grown)]
        self._apply_one(outcome)
        outcome.plan.steps[:0] = grown

    def _verify(self, member: Member) -> None:
        """Wait until a container is healthy; its failure is kept with it."""
        outcome, began = member.outcome, time.monotonic()
        if outcome.failure or outcome.after is None:
            return
        try:
            if not outcome.after.running:
                if not outcome.declared.running:
                    return
                self._refuse_stopped(outcome, outcome.after)
            if not outcome.declared.health:
                return
            outcome.health = self._checker.check(outcome.declared.health, outcome.after)
        except Failure as failure:
            outcome.failure = failure
            return
        if not outcome.health.healthy:
            outcome.failure = failure_of(outcome.declared.label, outcome.health)
        elif outcome.plan.changed:
            self._progress(outcome, "healthy", time.monotonic() - began)

    def _refuse_stopped(self, outcome: Outcome, seen: Actual) -> None:
        """Refuse a container that does not run though it was started.

        What an interrupted run has begun, such as a restart, may have been met in the middle; its task ends a moment
        before systemd has started the container.
        """
        self._await_own(seen, outcome.declared.timeout)
        deadline = time.monotonic() + SETTLING
        while True:
            outcome.after = read_container(self._client, seen.node, seen.vmid)
            if outcome.after is None or (not outcome.after.running and time.monotonic() > deadline):
                raise _stopped(outcome)
            if outcome.after.running:
                break
            time.sleep(SETTLING / 4)
        outcome.after.pool = seen.pool

    def _finish(self, member: Member) -> None:
        """Remove what a container that works could have gone back by."""
        outcome, guard = member.outcome, member.guard
        if guard is None:
            return
        try:
            guard.remove()
        except Failure as failure:
            outcome.failure = failure
            return
        if guard.left is not None:
            outcome.plan.steps = member.changes + member.last
        if outcome.after is not None:
            guard.forget(outcome.after)

    def _fail(self, member: Member, unit: Unit, cause: Failure, strategy: Strategy | None) -> None:
        """Roll a container back where that is declared, and say in its failure what came of it."""
        outcome, guard = member.outcome, member.guard
        if outcome.failure is None:
            # Another container of the replica is the reason.
            outcome.failure = Failure(cause.code, f"Of {unit.name}: {cause.message}", cause.hint, **cause.details)
        failure = outcome.failure
        failure.details["changes"] = sorted({change.key for step in member.changes for change in step.changes})
        failure.details["rolled_back"] = False
        if guard is None or not guard.is_taken:
            return
        if strategy is None:
            failure.details["snapshot"] = guard.snapshot
            failure.message += f" The {guard.what} of an interrupted roll-out is kept."
            return
        if _leaves_open(cause):
            # A replica that works would lose what was written since.
            failure.details["snapshot"] = guard.snapshot
            failure.message += f" Whether it works is not known. It was not rolled back, and the {guard.what} is kept."
            failure.hint += " The next run checks it, and finishes the change or rolls it back."
            return
        try:
            if isinstance(guard, Guard):
                guard.roll_back(strategy.rollback_within)
            else:
                self._remake(member, guard)
            outcome.after = read_container(self._client, guard.actual.node, guard.actual.vmid)
            works = not guard.was_running or self._is_healthy(outcome)
            guard.remove()
        except Failure as reason:
            failure.details["snapshot"] = guard.snapshot
            failure.message += f" It was not rolled back: {reason.message} The {guard.what} is kept."
            failure.hint = reason.hint or failure.hint
            return
        _tell(failure, works)

    def _remake(self, member: Member, guard: Remaking) -> None:
        """Make a container anew of the image of which it was.

        Raises:
            Failure: it is not of that image.
        """
        outcome, place, mark = member.outcome, guard.actual, guard.former.mark
        declared = outcome.declared
        if declared.image is None:
            raise Failure(
                "rollback_impossible", f"it was of {mark.shown}, and no image is declared now.", "Declare that image."
            )
        spec = former_image(declared.image, mark, self._meaning(declared, mark))
        back = Outcome(former_declaration(declared, place, guard.former, spec))
        with self._lock:
            # What holds its volumes may have been made by this run.
            self._cluster.refresh([place.node], again=True)
        back.before = read_container(self._client, place.node, place.vmid)
        if back.before is not None:
            back.before.pool = place.pool
        back.facts = self._image_facts(back)
        back.plan = self._make_plan(back, back.before)
        self._apply_one(back)
        outcome.log.tasks += back.log.tasks
        if back.failure:
            raise back.failure

    def _meaning(self, declared: Declared, mark: Mark) -> str | None:
        """The digest that the reference has now of which a container was made; None when nobody knows any more."""
        spec = replace(t.cast(ImageSpec, declared.image), reference=parse_reference(mark.reference))
        try:
            return self._images.remote(spec, declared.timeout).digest
        except Failure:
            return None


def _replica(unit: Unit, healthy: bool, waits: bool) -> Replica:
    return Replica(unit.name, unit.runs, healthy, waits, unit.is_surge, not unit.changes)


def _is_unsettled(actual: Actual) -> bool:
    """Whether a roll-out may have been interrupted in the middle of a task, which goes on without it."""
    return is_left(actual) or actual.lock in _OWN_LOCKS


def _leaves_open(failure: Failure) -> bool:
    """Whether a container may work all the same: it was not asked, or a task goes on."""
    of_container = "state" in failure.details
    return failure.code in _OF_CLUSTER or (failure.code == "timeout" and not of_container)


def _stopped(outcome: Outcome) -> Failure:
    return Failure(
        "not_running",
        f"{outcome.declared.label} does not run, though it was started.",
        "See the log of its start, and what its init says.",
    )


def _blame(report: Report, units: t.Sequence[Unit]) -> None:
    """Have the replicas that block a roll-out fail: a roll-out that is not done is no success."""
    for member in [member for unit in units if unit.name in report.blocking for member in unit.members]:
        outcome = member.outcome
        if outcome.failure:
            continue
        if outcome.health and not outcome.health.healthy:
            outcome.failure = failure_of(outcome.declared.label, outcome.health)
        elif outcome.after is None or not outcome.after.running:
            outcome.failure = _stopped(outcome)


def _tell(failure: Failure, works: bool | None) -> None:
    """Say that it was rolled back. works: None when nobody knows."""
    failure.details["rolled_back"] = True
    said = {True: " and works as before", False: ", and does not work either", None: "; whether it works is not known"}
    failure.message += f" It was rolled back{said[works]}."


def _is_superfluous(outcome: Outcome) -> bool:
    """Whether it is a surge replica that is neither needed nor there."""
    return outcome.declared.surge and outcome.declared.state == "absent" and outcome.before is None


def _attempt(outcome: Outcome, guard: Guard | Remaking) -> None:
    """Clear up after a failure, which is what is reported."""
    try:
        guard.remove()
    except Failure as failure:
        outcome.plan.notes.append(f"The {guard.what} is still there: {failure.message}")


def _leave(member: Member, why: str) -> None:
    """Leave a container as it is, and report the differences as not removed."""
    member.left_alone = True
    outcome = member.outcome
    changes = [replace(change, request=None, hint=why) for step in member.changes for change in step.changes]
    outcome.plan = Plan(blocked=changes + outcome.plan.blocked, notes=outcome.plan.notes)
    outcome.plan.running_after = bool(outcome.before and outcome.before.running)


def _destruction(outcome: Outcome) -> Step:
    """The step that removes a surge replica, whose id may not be known yet."""
    declared, before = outcome.declared, outcome.before
    vmid = before.vmid if before else declared.vmid
    step = Step(
        "destroyed",
        "DELETE",
        f"nodes/{before.node if before else declared.node}/lxc/{vmid or VMID}",
        {"force": True, "purge": True},
    )
    step.needs = [Need(vm_paths(vmid, declared.pool), ("VM.Allocate",), "remove the container")]
    step.add("state", "running", "absent")
    return step


def _account(unit: Unit) -> dict[str, t.Any]:
    """What a report says of a replica that could not be made as declared."""
    failed = next(member for member in unit.members if member.outcome.failure)
    failure = t.cast("Failure", failed.outcome.failure)
    return {
        "replica": unit.name,
        "container": failed.outcome.declared.label,
        "code": failure.code,
        "reason": failure.message,
        "changes": failure.details.get("changes", []),
        "check": failure.details.get("check"),
        "output": failure.details.get("output"),
        "rolled_back": failure.details.get("rolled_back", False),
        "snapshot": failure.details.get("snapshot"),
    }
