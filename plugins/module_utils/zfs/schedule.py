# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Does what a policy says is due: checkpoints, replication, pruning. Started by a timer, without Ansible.

    python3 -m lxcri.zfs.schedule [--policy PATH] [--check | --validate | --thaw]

Exit code: 0 when everything has succeeded, 1 when something has failed (all else was done even so), 2 for a policy that
cannot be followed (nothing was done). What is done is told on standard error, one JSON object in a line, each with its
priority for the journal before it.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import glob
import json
import os
import sys
import time
import typing as t

from ..api.errors import Failure, as_failure
from ..node.commands import Run, run_here
from ..node.files import read_text
from . import journal
from .checkpoint import Outcome, choose_method, known, prune, stamp, take
from .freeze import MARKS, thaw_leftovers
from .host import PVE, Container, Host, Zfs, find_host
from .model import Checkpoint
from .policy import Job, Policy, parse
from .recovery import recover
from .replicate import replicate
from .store import STATE, Store

POLICY = "/etc/lxcri/checkpoint.json"
LOCK = "/run/lock/lxcri/schedule.lock"
ERROR, WARNING, INFO = 3, 4, 6
# What runs a little early, because the run before was a little late, is due even so: a tenth, ten minutes at most.
_EARLY, _EARLY_AT_MOST = 0.1, 600

Tell = t.Callable[[int, t.Mapping[str, t.Any]], None]
# Work on containers together; it fails before it has changed anything, or does no harm when it is done again.
Work = t.Callable[[t.Sequence[str]], None]


def to_journal(priority: int, record: t.Mapping[str, t.Any]) -> None:
    """Tell something as one line (see sd-daemon(3) for the number)."""
    sys.stderr.write(f"<{priority}>{json.dumps(record)}\n")
    sys.stderr.flush()


def to_output(_priority: int, record: t.Mapping[str, t.Any]) -> None:
    """Tell something of a plan."""
    sys.stdout.write(f"{json.dumps(record)}\n")


def due(job: Job, created: float | None, now: float) -> bool:
    """Whether a job's next checkpoint of a container is to be taken.

    created: when the newest one was; None when there is none.
    """
    if created is None or not job.every:
        return True
    # One that is dated in the future says nothing.
    return created > now or now - created >= job.every - min(job.every * _EARLY, _EARLY_AT_MOST)


class Runner:
    """One run. failed: how many times something has failed."""

    def __init__(self, policy: Policy, host: Host, store: Store, tell: Tell, check_mode: bool = False) -> None:
        self.policy = policy
        self.host = host
        self.store = store
        self.tell = tell
        self.check_mode = check_mode
        # What check mode has predicted so far.
        self.expected: dict[tuple[str, str], Checkpoint | None] = {}
        self.failed = 0

    def run(self) -> None:
        """Do all jobs."""
        for job in self.policy.jobs:
            # Whatever one job meets, the others are done.
            try:
                self._job(job)
            except (Failure, OSError) as error:
                self._failure(job, "job", None, as_failure(error))

    def _job(self, job: Job) -> None:
        recovered: set[str] = set()

        def recovering(some: t.Sequence[str]) -> None:
            for entry in recover(self.host, self.store, some, self.check_mode):
                if entry.get("changed"):
                    recovered.add(entry["container"])
                    self._event(job, "recovered", entry["container"], plan=entry.get("plan", []))

        # First, since a container can be somewhere else, or not be one, until that is done.
        broken = self._together(job, "recover", self._ids(job, journal.left(self.store)), recovering)
        # Check mode leaves those as they are, so that nothing can be said of what comes after.
        without = broken | recovered if self.check_mode else broken
        containers = self._containers(job, without)
        ids = list(containers)
        if not ids and not without:
            self.tell(WARNING, {"event": "nothing", "job": job.name, "message": "There are no containers for it."})
        wanted = self._due(job, list(containers.values()))
        name = stamp(job.prefix)
        self._together(job, "checkpoint", wanted, lambda some: self._take(job, name, some))
        for wish in job.replicas:
            self._replicate(job, ids, wish)
        if job.keep:
            self._together(job, "prune", ids, lambda some: self._prune(job, some))

    def _ids(self, job: Job, more: t.Sequence[str] = ()) -> list[str]:
        """The containers that a job means. more: what all containers are besides those that are found."""
        found = job.ids or dict.fromkeys([*self.host.ids(), *(() if self.policy.datasets else more)])
        return [container_id for container_id in found if container_id not in job.exclude]

    def _containers(self, job: Job, without: t.Container[str]) -> dict[str, Container]:
        """The containers that a job means and that are here.

        without: what is left out.
        """
        found: dict[str, Container] = {}
        for container_id in self._ids(job):
            if container_id in without:
                continue
            try:
                container = self.host.container(container_id)
                method, reasons = choose_method(self.host, container)
            except Failure as failure:
                if failure.code == "container_missing" and self._elsewhere(container_id):
                    self._event(job, "elsewhere", container_id)
                elif failure.code == "no_method" and not job.ids:
                    self._event(job, "skipped", container_id, reasons=failure.details["reasons"])
                else:
                    self._failure(job, "read", container_id, failure)
                continue
            if method in job.methods:
                found[container_id] = container
            elif job.ids:
                self._failure(job, "read", container_id, _not_allowed(job, container_id, method, reasons))
            else:
                self._event(job, "skipped", container_id, reasons=reasons)
        return found

    def _elsewhere(self, container_id: str) -> bool:
        """Whether another node of the cluster has it, whose timer is then the one."""
        return (
            self.host.proxmox and container_id.isdigit() and bool(glob.glob(f"{PVE}/nodes/*/lxc/{container_id}.conf"))
        )

    def _due(self, job: Job, containers: t.Sequence[Container]) -> list[str]:
        if not containers:
            return []
        _datasets, sets = known(self.host, containers, self.store)
        newest = {
            container: max((c.created for c in own if c.complete and c.name.startswith(job.prefix)), default=None)
            for container, own in sets.items()
        }
        return [container.id for container in containers if due(job, newest[container.id], time.time())]

    # ------------------------------------------------------------------------------------------------- the work

    def _take(self, job: Job, name: str, ids: t.Sequence[str]) -> None:
        timeout = self.policy.lock_timeout
        outcomes = take(self.host, self.store, ids, name, check_mode=self.check_mode, lock_timeout=timeout)
        for outcome in outcomes:
            seconds = {kind: round(value, 3) for kind, value in outcome.timings.items()}
            extra = {} if self.check_mode else {"seconds": seconds}
            self._event(job, "checkpoint", outcome.container, name=outcome.name, method=outcome.method, **extra)
            self.expected.update({(outcome.container, key): after for key, after in outcome.expected.items()})
            self._notes(job, outcome)

    def _prune(self, job: Job, ids: t.Sequence[str]) -> None:
        outcomes = prune(
            self.host,
            self.store,
            ids,
            job.keep,
            self.policy.timezone,
            job.prefix,
            check_mode=self.check_mode,
            lock_timeout=self.policy.lock_timeout,
            expected=self.expected,
        )
        for outcome in outcomes:
            if outcome.changed:
                self._event(job, "prune", outcome.container, names=[change["key"] for change in outcome.plan])
            self._notes(job, outcome)

    def _replicate(self, job: Job, ids: t.Sequence[str], wish: t.Any) -> None:
        if not ids:
            return
        where = {"target": wish.target.prefix, "host": wish.target.ssh[-1] if wish.target.ssh else None}
        try:
            result = replicate(self.host, self.store, ids, wish, self.check_mode)
        except (Failure, OSError) as error:
            self._failure(job, "replicate", None, as_failure(error), **where)
            return
        for entry in result["containers"]:
            failure = entry.get("failure")
            if failure:
                wrapped = Failure(failure["code"], failure["message"], failure["hint"], **failure["details"])
                self._failure(job, "replicate", entry["container"], wrapped, **where)
            elif entry["changed"]:
                volumes = entry.get("volumes", [])
                sent = sum(volume.get("bytes") or 0 for volume in volumes)
                self._event(job, "replicate", entry["container"], bytes=sent, plan=entry["plan"], **where)
            for note in entry.get("notes", []):
                self._note(job, entry["container"], note)

    def _together(self, job: Job, action: str, ids: t.Sequence[str], work: Work) -> set[str]:
        """Work on containers together, without those against which something stands. Returns the latter."""
        todo, failed = list(ids), set[str]()
        while todo:
            try:
                work(todo)
                break
            except (Failure, OSError) as error:
                failure = as_failure(error)
                # If it does not say which one, each is tried alone.
                named = failure.details.get("container") if len(todo) > 1 else todo[0]
                if named not in todo:
                    return failed.union(*(self._together(job, action, [one], work) for one in todo))
                self._failure(job, action, named, failure)
                failed.add(named)
                todo.remove(named)
        return failed

    # ------------------------------------------------------------------------------------------------- telling

    def _event(self, job: Job, event: str, container: str, **facts: t.Any) -> None:
        self.tell(INFO, {"event": event, "job": job.name, "container": container, **facts})

    def _notes(self, job: Job, outcome: Outcome) -> None:
        for note in outcome.notes:
            self._note(job, outcome.container, note)

    def _note(self, job: Job, container: str, note: str) -> None:
        self.tell(WARNING, {"event": "note", "job": job.name, "container": container, "message": note})

    def _failure(self, job: Job, action: str, container: str | None, failure: Failure, **facts: t.Any) -> None:
        self.failed += 1
        about = {"event": "failed", "job": job.name, "container": container, "action": action, **facts}
        self.tell(ERROR, {**about, **failure.as_dict()})


def _not_allowed(job: Job, container_id: str, method: str, reasons: t.Sequence[str]) -> Failure:
    return Failure(
        "method_not_allowed",
        f"Container {container_id} can only be checkpointed by {method}, and the job {job.name} allows "
        f"{', '.join(job.methods)}. {' '.join(reasons)}",
        "Add the method to methods of the job, or take the container out of it.",
        container=container_id,
        method=method,
    )


@contextlib.contextmanager
def alone(path: str = LOCK, timeout: float = 10) -> t.Iterator[None]:
    """See that there is no other run. The lock of a dead process is none.

    Raises:
        Failure: ``lock_timeout``.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Failure(
                        "lock_timeout",
                        f"Another run of the schedule holds {path}.",
                        "It goes on; see 'systemctl status lxcri-checkpoint.service'.",
                        file=path,
                    ) from None
                time.sleep(0.2)
        yield


def thaw(host: Host, tell: Tell) -> int:
    """Thaw what a killed run has left frozen. A container whose lock is held is in the hands of another run."""
    failed = 0
    for container_id in sorted(os.listdir(MARKS)) if os.path.isdir(MARKS) else []:
        try:
            with host.locked([container_id], 5):
                for name in thaw_leftovers([container_id], host.run):
                    tell(WARNING, {"event": "thawed", "container": name, "message": "A killed run had left it frozen."})
        except Failure as failure:
            if failure.code != "lock_timeout":
                failed += 1
                tell(ERROR, {"event": "failed", "container": container_id, "action": "thaw", **failure.as_dict()})
    return failed


def read_policy(path: str) -> Policy:
    """The policy in a file.

    Raises:
        Failure: ``invalid_policy``.
    """
    try:
        text = read_text(path)
    except OSError as error:
        raise Failure("invalid_policy", f"{path} cannot be read: {error.strerror}.", path=path) from None
    if text is None:
        raise Failure(
            "invalid_policy", f"There is no {path}.", "The role lxcri.proxmox.checkpoint writes it.", path=path
        )
    return parse(text)


def main(argv: t.Sequence[str] | None = None, run: Run = run_here, state: str = STATE, lock: str = LOCK) -> int:
    """Carry out the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="lxcri.zfs.schedule", description="Scheduled checkpoints of containers.")
    parser.add_argument("--policy", default=POLICY, help="where the policy is (default: %(default)s)")
    verbs = parser.add_mutually_exclusive_group()
    verbs.add_argument("--check", action="store_true", help="validate the policy and print what is due; change nothing")
    verbs.add_argument("--validate", action="store_true", help="validate the policy without a look at the containers")
    verbs.add_argument("--thaw", action="store_true", help="thaw what a killed run has left frozen")
    options = parser.parse_args(argv)
    begin = time.monotonic()
    zfs = Zfs(run)
    try:
        policy = read_policy(options.policy)
    except Failure as failure:
        if options.thaw:
            return 1 if thaw(find_host(zfs, run), to_journal) else 0
        to_journal(ERROR, {"event": "failed", "action": "policy", **failure.as_dict()})
        return 2
    if options.validate:
        return 0
    host = find_host(zfs, run, policy.datasets, policy.dataset_pattern)
    if options.thaw:
        return 1 if thaw(host, to_journal) else 0
    tell = to_output if options.check else to_journal
    runner = Runner(policy, host, Store(state), tell, options.check)
    try:
        with contextlib.nullcontext() if options.check else alone(lock):
            runner.run()
    except Failure as failure:
        to_journal(ERROR, {"event": "failed", "action": "start", **failure.as_dict()})
        return 1
    if not options.check:
        seconds = round(time.monotonic() - begin, 3)
        to_journal(ERROR if runner.failed else INFO, {"event": "end", "failed": runner.failed, "seconds": seconds})
    return 1 if runner.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
