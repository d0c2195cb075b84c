# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a container has while it is changed, by which it can go back: a snapshot, or a note on what it was.

It is the mark of a change that is under way, too: ``parent`` in a container's configuration names the snapshot, and the
note is in its description, so that finding what an interrupted run has left costs no request. The snapshot's
description says whose it is, and whether the container ran.
"""

from __future__ import annotations

import re
import time
import typing as t

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.access import Need
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.plan import Step
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.apply import Executor, description_params
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.converge import power_step
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import Actual, Plan
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.privileges import key_needs, vm_paths
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.rollout_image import Former, former_of, with_former
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.snapshot import (
    ROLL_BACK,
    TAKE,
    Snapshot,
    read_snapshots,
    refuse_unfit,
    unsupported,
)

NAME = "before-rollout"
_DESCRIPTION = re.compile(r"lxcri\.proxmox roll-out of \S+ \((?P<power>running|stopped)\)")

# Steps that no snapshot takes back, and what they would do to the container or to its snapshot.
_FOR_GOOD = {
    "made a template": "it becomes a template",
    "migrated": "it goes to another node",
    "moved": "a volume goes to another storage",
    "restored": "its volumes are overwritten",
}
# Growing a volume is not taken back either, but it harms nothing: it is done before the snapshot is taken.
GROWN = "resized"


def description_of(group: str, running: bool) -> str:
    """The description of the snapshot."""
    return f"lxcri.proxmox roll-out of {group} ({'running' if running else 'stopped'})"


def is_left(actual: Actual | None) -> bool:
    """Whether an interrupted roll-out may have left something.

    That is a newest snapshot with the name of those that a roll-out takes, or a note on what the container was.
    """
    if actual is None:
        return False
    return actual.current.get("parent") == NAME or former_of(actual.config.get("description"), actual.vmid) is not None


def refuse_irreversible(plan: Plan, actual: Actual) -> None:
    """Refuse a change that a rollback would not take back.

    Raises:
        Failure: ``rollback_impossible``.
    """
    reasons = dict.fromkeys(_FOR_GOOD[step.action] for step in plan.steps if step.action in _FOR_GOOD)
    if reasons:
        raise Failure(
            "rollback_impossible",
            f"{actual.hostname} ({actual.vmid}) could not be rolled back: {', '.join(reasons)}.",
            "Set 'on_failure: stop' for this change; then the roll-out stops at a replica that is not healthy.",
            vmid=actual.vmid,
        )


def read_guard(client: Client, actual: Actual, plan: Plan, protects: bool) -> tuple[Snapshot | None, bool]:
    """The snapshot that an earlier run has left, and whether it is complete.

    protects: whether a snapshot is to be taken when there is none; then it is made sure that one can be.

    Raises:
        Failure: ``snapshot_exists`` for another one of that name, ``feature_unsupported``, ``locked``,
            ``rollback_impossible``, and what the API answers.
    """
    _listed, snapshots = read_snapshots(client, actual.node, actual.vmid, actual.hostname)
    found = next((one for one in snapshots if one.name == NAME), None)
    own = found is not None and _DESCRIPTION.match(found.description) is not None
    if protects:
        refuse_irreversible(plan, actual)
        if found is not None and not own:
            raise Failure(
                "snapshot_exists",
                f"{actual.hostname} ({actual.vmid}) has a snapshot {NAME} that no roll-out has taken.",
                "Remove it, or take it under another name.",
                vmid=actual.vmid,
                snapshot=NAME,
            )
        if found is None or found.incomplete:
            refuse_unfit(Plan([Step(TAKE, "POST", f"{actual.path}/snapshot")]), actual)
            feature = client.get(f"{actual.path}/feature", feature="snapshot") or {}
            if not int(feature.get("hasFeature") or 0):
                raise unsupported(actual)
    if found is None or not own:
        return None, False
    return found, not found.incomplete


class Guard:
    """The snapshot of one container.

    left: what an earlier run has left; complete: whether that can be rolled back to.
    executor: what sends the requests, and logs their tasks.
    """

    def __init__(
        self,
        actual: Actual,
        group: str,
        left: Snapshot | None,
        complete: bool,
        clock: t.Callable[[], float] = time.time,
    ) -> None:
        self.actual = actual
        self.left = left
        match = _DESCRIPTION.match(left.description) if left else None
        self.was_running = match["power"] == "running" if match and complete else actual.running
        self._incomplete = left is not None and not complete
        self._taken: float | None = float(left.time) if left and complete else None
        self._group = group
        self._clock = clock
        self.executor: Executor | None = None
        self.what = f"snapshot {NAME}"

    @property
    def is_taken(self) -> bool:
        """Whether there is a snapshot to roll back to."""
        return self._taken is not None

    @property
    def snapshot(self) -> str | None:
        """The name of the snapshot, which a report says is left."""
        return NAME

    @property
    def needs(self) -> list[Need]:
        """The privileges for all that it may come to."""
        paths = vm_paths(self.actual.vmid, self.actual.pool)
        return [
            Need(paths, ("VM.Snapshot",), "take a snapshot before the change"),
            Need(paths, ("VM.PowerMgmt",), "start the container after a rollback"),
        ]

    def removal(self) -> Step:
        """The step that removes the snapshot."""
        params = {"force": True} if self._incomplete else {}
        step = Step("removed a snapshot", "DELETE", f"{self.actual.path}/snapshot/{NAME}", params)
        step.add(self.what, self.left.description if self.left else None, None)
        return step

    def take(self) -> None:
        """Take the snapshot, unless there is a good one.

        Raises:
            Failure: it could not be taken; nothing was changed.
        """
        if self._taken is not None:
            return
        steps = [self.removal()] if self._incomplete else []
        params = {"snapname": NAME, "description": description_of(self._group, self.was_running)}
        steps.append(Step(TAKE, "POST", f"{self.actual.path}/snapshot", params))
        self._run(steps)
        self._incomplete = False
        self._taken = self._clock()

    def adopt(self, left: Snapshot) -> None:
        """Use a snapshot that another run has taken of what is there now."""
        self.left, self._taken = left, float(left.time)

    def remove(self) -> None:
        """Remove the snapshot, when there is one.

        Raises:
            Failure: it is still there.
        """
        if self._taken is not None or self._incomplete:
            self._run([self.removal()])
            self._taken, self._incomplete = None, False

    def forget(self, after: Actual) -> None:
        """Have what was read of the container say nothing of the snapshot that is gone."""
        after.current.pop("parent", None)

    def roll_back(self, within: float) -> None:
        """Make the container what it was: its configuration, its volumes, and whether it runs.

        within: seconds; the data that was written since an older snapshot is not thrown away.

        Raises:
            Failure: ``snapshot_too_old``, and what the API answers.
        """
        age = self._clock() - (self._taken or 0)
        if age > within:
            raise Failure(
                "snapshot_too_old",
                f"The snapshot {NAME} is {age:.0f} s old, and what was written since would be lost.",
                f"Roll back by lxc_snapshot if that may be, or remove the snapshot {NAME}.",
                snapshot=NAME,
                age=int(age),
            )
        steps = [Step(ROLL_BACK, "POST", f"{self.actual.path}/snapshot/{NAME}/rollback")]
        if self.was_running:
            # Proxmox's own start=1 starts in a task that outlives the rollback's: an explicit one is awaited.
            paths = vm_paths(self.actual.vmid, self.actual.pool)
            steps.append(power_step(self.actual.path, "started", "start", paths, "stopped", "started"))
        self._run(steps)

    def _run(self, steps: t.Sequence[Step]) -> None:
        if self.executor is not None:
            self.executor.run(steps, self.actual.vmid, None)


class Remaking:
    """The note on what one container was, while it is made anew of another image.

    actual: the container; its vmid, node and pool count, for it may be gone. former: what is noted.
    left: the same when an earlier run has left it.
    executor: what sends the requests, and logs their tasks.
    """

    snapshot = None

    def __init__(self, actual: Actual, former: Former, left: Former | None) -> None:
        self.actual = actual
        self.former = former
        self.left = left
        self.is_taken = left is not None
        self.was_running = former.running
        self.executor: Executor | None = None
        self.what = f"note on its former image {former.mark.shown}"

    @property
    def needs(self) -> list[Need]:
        """The privileges for all that it may come to."""
        paths = vm_paths(self.actual.vmid, self.actual.pool)
        return [
            *key_needs("description", None, "", paths, False),
            Need(paths, ("VM.PowerMgmt",), "start the container when it has gone back"),
        ]

    def removal(self) -> Step:
        """The step that removes the note."""
        step = self._noting(None)
        step.add("former image", self.former.mark.shown, None)
        return step

    def take(self) -> None:
        """Note what the container is, unless that was done.

        Raises:
            Failure: it could not be noted; nothing was changed.
        """
        if not self.is_taken:
            self._describe(self._noting(self.former), self.former)
            self.is_taken = True

    def remove(self) -> None:
        """Remove the note, when there is one.

        Raises:
            Failure: it is still there.
        """
        if self.is_taken:
            self._describe(self._noting(None), None)
            self.is_taken = False

    def forget(self, after: Actual) -> None:
        """Have what was read of the container say nothing of the note that is gone."""
        after.current.update(description_params(with_former(after.current.get("description"), None)))

    def _noting(self, former: Former | None) -> Step:
        text = with_former(self.actual.config.get("description"), former)
        return Step("noted", "PUT", f"{self.actual.path}/config", description_params(text), digest=True)

    def _describe(self, step: Step, former: Former | None) -> None:
        if self.executor is not None:
            self.executor.describe(step, self.actual.vmid, None, lambda text: with_former(text, former))
