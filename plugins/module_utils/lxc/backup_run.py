# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes, removes, restores, verifies and copies the backups of many containers."""

from __future__ import annotations

import threading
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.access import refuse_missing
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.parallel import by_node, in_parallel
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.plan import Step
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.tasks import TaskWatcher
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.apply import Executor, VmidAllocator
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.backup import (
    TAKE,
    Backup,
    Wish,
    chosen,
    missing,
    note_excluded,
    plan_absent,
    plan_present,
    plan_protection,
    read_backups,
    recent_enough,
    refuse_limit,
    refuse_protected_limit,
    refuse_stop,
    vmid_of,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.backup_file import Copy, carry_out, plan_copy
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.backup_restore import (
    Standing,
    aftermath,
    declare,
    read_standing,
    refuse_loss,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.converge import creation_notes
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.fleet import Engine, Outcome, parse_config
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import Actual, Plan
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.reading import container_status
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.targets import (
    Target,
    Targets,
    called,
    refuse_locked,
    targets_result,
)

# text of one finished step
Report = t.Callable[[str], None]


@dataclass
class Result(Target):
    """What became of the backups of one container.

    vmid: of the container that the backups are of; it may be gone.
    backups: those that it has, the newest first. chosen: those that the task is about.
    """

    vmid: int | None = None
    backups: list[Backup] = field(default_factory=list)
    chosen: list[Backup] = field(default_factory=list)
    verified: list[dict[str, t.Any]] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)

    @property
    def node(self) -> str:
        """The node that does the work."""
        if self.container:
            return self.container.node
        return next((backup.node for backup in [*self.chosen, *self.backups]), "")

    def as_dict(self) -> dict[str, t.Any]:
        """One entry of the module's ``containers``."""
        entry = super().as_dict()
        return {
            **entry,
            "vmid": self.container.vmid if self.container else self.vmid,
            "node": self.node or None,
            "volume": self.chosen[0].volume if self.chosen else None,
            "backups": [backup.as_dict() for backup in self.backups],
            "verified": self.verified,
            "files": [{"volume": copy.volume, "path": copy.target, "size": copy.size} for copy in self.copies],
        }


class Backups:
    """Does what a task wants.

    concurrency: containers in work on each node. Backups are made one after the other on each node, which Proxmox does
    anyway (``getlock`` of PVE/VZDump.pm), each waiting in a task of its own.
    report: called with a line for each finished step.
    """

    def __init__(self, client: Client, check_mode: bool, concurrency: int, report: Report | None = None) -> None:
        self._client = client
        self._check_mode = check_mode
        self._concurrency = concurrency
        self._report = report
        self._targets = Targets(client, Result)
        self._watcher = TaskWatcher(client)
        self._lock = threading.Lock()
        self._locks: dict[t.Any, threading.Lock] = {}
        self._known: dict[t.Any, t.Any] = {}
        self._done = 0
        self._total = 0
        self._only: int | None = None

    def run(self, wish: Wish, vmids: t.Sequence[int], hostnames: t.Sequence[str]) -> list[Result]:
        """Do it; one container's failure does not stop the others.

        Raises:
            Failure: before the first write, what concerns all: a container twice, and missing privileges.
        """
        results = self._find(wish, vmids, hostnames)
        known = {result.vmid for result in results}
        self._only = known.pop() if len(known) == 1 else None
        self._each(results, lambda result: self._read(wish, result))
        if wish.state == "restored":
            self._restore(wish, results)
            return results
        plans = {"verified": self._verify, "downloaded": self._plan_copies}
        self._each(results, lambda result: plans.get(wish.state, self._plan)(wish, result))
        going = [result for result in results if not result.failure]
        refuse_missing(self._client, [need for result in going for need in result.plan.needs])
        if not self._check_mode:
            work = [result for result in going if result.plan.changed]
            self._total = sum(len(result.plan.steps) for result in work)
            limit = 1 if wish.state == "present" else self._concurrency
            by_node(lambda result: self._apply(wish, result), work, lambda result: result.node, limit)
        return results

    @staticmethod
    def _each(results: t.Sequence[Result], work: t.Callable[[Result], None]) -> None:
        """Do something for each that has not failed yet, concurrently; a failure is kept with its result."""

        def one(result: Result) -> None:
            try:
                work(result)
            except Failure as failure:
                result.failure = failure
                result.plan = Plan(notes=result.plan.notes)

        in_parallel(one, [result for result in results if not result.failure])

    def _once(self, key: t.Any, read: t.Callable[[], t.Any]) -> t.Any:
        """What is asked once for all containers."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._known:
                self._known[key] = read()
            return self._known[key]

    # ------------------------------------------------------------------------------------------------- finding

    def _find(self, wish: Wish, vmids: t.Sequence[int], hostnames: t.Sequence[str]) -> list[Result]:
        if wish.volumes:
            return [self._of_volume(wish, vmid) for vmid in dict.fromkeys(map(vmid_of, wish.volumes)) if vmid]
        results = self._targets.find(vmids, hostnames, wish.node)
        for place, result in enumerate(results):
            if result.container:
                result.vmid = result.container.vmid
            elif place < len(vmids):
                result.vmid = vmids[place]
                if wish.state != "present" and result.failure and result.failure.code == "not_found":
                    # Its backups outlive a container.
                    result.failure = None
        return results

    def _of_volume(self, wish: Wish, vmid: int) -> Result:
        if wish.node:
            return Result(f"container {vmid}", vmid=vmid)
        result = self._targets.locate(vmid=vmid)
        if result.failure and result.failure.code in ("not_found", "vmid_in_use"):
            result.failure = None
        result.vmid = vmid
        return result

    # ------------------------------------------------------------------------------------------------- reading

    def _read(self, wish: Wish, result: Result) -> None:
        node = wish.node or (result.container.node if result.container else None)
        found: list[Backup] = []
        for name in [node] if node else self._storage_nodes(wish.storage):
            # What nodes share is listed by each of them.
            there = {backup.volume for backup in found}
            found += [backup for backup in self._listed(wish, name, result) if backup.volume not in there]
        result.backups = sorted(found, key=lambda backup: (backup.time, backup.volume), reverse=True)

    def _listed(self, wish: Wish, node: str, result: Result, again: bool = False) -> list[Backup]:
        """The backups of a container on a node, of one list for all containers."""
        path = f"nodes/{node}/storage/{wish.storage}/content"
        only = {"vmid": result.vmid} if self._only is not None or again else {}

        def read() -> list[Backup]:
            return read_backups(self._client.get(path, content="backup", **only) or [], node)

        listed = read() if again else self._once(("content", node), read)
        return [backup for backup in listed if backup.vmid == result.vmid]

    def _storage_nodes(self, storage: str) -> list[str]:
        """The nodes on which a storage is to be had; one of them when they share it."""
        listed = self._once("storages", lambda: self._client.get("cluster/resources", type="storage") or [])
        entries = [entry for entry in listed if entry.get("storage") == storage and entry.get("status") == "available"]
        if not entries:
            raise Failure(
                "storage_missing",
                f"No node that is up has a storage {storage}, as far as the user or token may see.",
                "Check the name, or give the node.",
                storage=storage,
            )
        shared = [entry for entry in entries if int(entry.get("shared") or 0)]
        return sorted(str(entry["node"]) for entry in (shared[:1] or entries))

    # ------------------------------------------------------------------------------------------------ planning

    def _plan(self, wish: Wish, result: Result) -> None:
        if wish.volumes:
            self._choose(wish, result, absent_is_fine=wish.state == "absent")
        now = int(time.time())
        if wish.state == "absent":
            result.plan = plan_absent(wish, result.container, result.backups, now)
        elif wish.volumes:
            result.plan = plan_protection(wish, result.container, result.chosen)
        else:
            self._plan_present(wish, result, now)

    def _choose(self, wish: Wish, result: Result, absent_is_fine: bool = False) -> None:
        result.chosen = chosen(wish, result.backups, result.label)
        there = {backup.volume for backup in result.chosen}
        gone = [volume for volume in wish.volumes if vmid_of(volume) == result.vmid and volume not in there]
        if gone and not absent_is_fine:
            raise missing(gone)

    def _plan_present(self, wish: Wish, result: Result, now: int) -> None:
        container = t.cast(Actual, result.container)
        result.plan = plan_present(wish, container, result.backups, now)
        if not any(step.action == TAKE for step in result.plan.steps):
            own = [backup for backup in result.backups if backup.is_of(str(wish.prefix))]
            result.chosen = [t.cast(Backup, recent_enough(wish, own, now))]
            return
        try:
            status, ha = self._power(container) if wish.mode == "stop" else ("unknown", {})
            actual = self._targets.read_current(result, status)
        except Failure as failure:
            if failure.code != "not_found" or not result.assumed:
                raise
            # The container is not where the task says, so the cluster is asked.
            located = self._targets.locate(vmid=container.vmid)
            if located.failure or located.container is None:
                raise located.failure or failure from None
            result.label, result.container, result.assumed = located.label, located.container, False
            result.backups = self._listed(wish, located.container.node, result)
            self._plan_present(wish, result, now)
            return
        result.container = actual
        refuse_locked(actual)
        refuse_stop(actual, ha)
        result.plan = plan_present(wish, actual, result.backups, now)
        note_excluded(result.plan, actual)
        self._refuse_limit(wish, result, actual)

    def _refuse_limit(self, wish: Wish, result: Result, actual: Actual) -> None:
        """Refuse what the storage refuses: no backups at all, or one too many."""
        path = f"nodes/{actual.node}/vzdump/defaults"
        defaults = self._once(("defaults", actual.node), lambda: self._defaults(path, wish.storage))
        refuse_limit(wish, actual, result.backups, defaults)
        if wish.protected and any(backup.protected for backup in result.backups):
            store = self._once("storage", lambda: self._storage_options(wish.storage))
            refuse_protected_limit(wish, actual, result.backups, store)

    def _power(self, container: Actual) -> tuple[str, dict[str, t.Any]]:
        """Whether a container runs, and what the HA manager has to do with it."""
        about = container_status(self._client, container.node, container.vmid)
        return str(about.get("status")), about.get("ha") or {}

    def _storage_options(self, storage: str) -> dict[str, t.Any]:
        """The configuration of a storage; empty for who may not read it (Datastore.Allocate)."""
        try:
            return self._client.get(f"storage/{storage}") or {}
        except Failure as failure:
            if failure.code != "permission_denied":
                raise
            return {}

    def _defaults(self, path: str, storage: str) -> dict[str, t.Any]:
        return self._client.get(path, storage=storage) or {}

    # ------------------------------------------------------------------------------------------------ applying

    def _apply(self, wish: Wish, result: Result) -> None:
        executor = Executor(
            self._client,
            self._watcher,
            VmidAllocator(self._client),
            wish.timeout,
            progress=lambda action, seconds: self._progress(result, action, seconds),
        )
        result.log = executor.log
        before = {backup.volume for backup in result.backups}
        try:
            for step, copy in zip(result.plan.steps, result.copies):
                began = time.monotonic()
                carry_out(copy, self._client.credentials, wish.timeout)
                self._progress(result, step.action, time.monotonic() - began)
            for step in result.plan.steps[len(result.copies) :]:
                executor.send(step)
                if step.action == TAKE and not executor.log.tasks:
                    raise _moved(result)
        except Failure as failure:
            result.failure = failure
        if result.copies:
            return
        try:
            # After a failure too: the steps before it are done.
            nodes = dict.fromkeys([result.node, *(backup.node for backup in result.backups)])
            result.backups = [backup for node in nodes for backup in self._listed(wish, node, result, again=True)]
        except Failure as failure:
            result.failure = result.failure or failure
            return
        if wish.state == "present" and not result.chosen and not result.failure:
            new = [backup for backup in result.backups if backup.volume not in before]
            result.chosen = [backup for backup in new if backup.is_of(str(wish.prefix))][:1]
            if new and not result.chosen:
                result.failure = _unnamed(wish, new[0])

    def _progress(self, result: Result, action: str, seconds: float) -> None:
        with self._lock:
            self._done += 1
            if self._report:
                self._report(
                    f"[{self._done}/{self._total}] {result.label} {action} on {result.node} in {seconds:.1f} s"
                )

    # ----------------------------------------------------------------------------------------------- verifying

    def _verify(self, wish: Wish, result: Result) -> None:
        self._choose(wish, result)
        for backup in result.chosen:
            result.verified.append(self._verify_one(backup))
        newest = result.chosen[0]
        if wish.max_age is not None and time.time() - newest.time > wish.max_age:
            hours = (time.time() - newest.time) / 3600
            raise Failure(
                "backup_too_old",
                f"The newest backup of {result.label} on {wish.storage} is {hours:.0f} hours old.",
                "Make one with state=present.",
                volume=newest.volume,
                time=newest.time,
            )

    def _verify_one(self, backup: Backup) -> dict[str, t.Any]:
        if not backup.size:
            raise _damaged(backup, "it is empty")
        if backup.verification == "failed":
            raise _damaged(backup, "the backup server found that it is damaged")
        try:
            text = self._client.get(f"nodes/{backup.node}/vzdump/extractconfig", volume=backup.volume)
        except Failure as failure:
            if failure.code in ("api_error", "volume_missing", "invalid_parameter"):
                raise _damaged(backup, f"its configuration cannot be read: {failure.message}") from failure
            raise
        config = parse_config(str(text or ""))
        if "rootfs" not in config:
            raise _damaged(backup, "its configuration has no root volume")
        return {**backup.as_dict(), "hostname": config.get("hostname")}

    # ----------------------------------------------------------------------------------------------- copying

    def _plan_copies(self, wish: Wish, result: Result) -> None:
        self._choose(wish, result)
        plan = Plan()
        copies = []
        for backup in result.chosen:
            about = self._client.get(backup.path) or {}
            copy = plan_copy(backup, about, str(wish.dest), self._client.credentials)
            result.copies.append(copy)
            if not copy.done:
                step = Step("copied", "GET", backup.path)
                step.add(f"file {copy.target}", None, backup.volume)
                plan.steps.append(step)
                copies.append(copy)
        result.plan = plan
        result.copies.sort(key=lambda copy: copy not in copies)

    # ----------------------------------------------------------------------------------------------- restoring

    def _restore(self, wish: Wish, results: t.Sequence[Result]) -> None:
        """Have the engine for containers restore them: it knows what a restore makes, and what follows."""
        standings: dict[int, Standing] = {}

        def prepare(result: Result) -> None:
            self._choose(wish, result)
            standing = read_standing(self._client, self._targets.cluster, wish, result.chosen[0])
            refuse_loss(wish, standing)
            standings[id(result)] = standing

        self._each(results, prepare)
        going = [result for result in results if not result.failure]
        engine = Engine(self._client, self._check_mode, self._concurrency, self._report)
        outcomes = engine.run([declare(wish, standings[id(result)]) for result in going]) if going else []
        for result, outcome in zip(going, outcomes):
            self._take_over(wish, result, outcome, standings[id(result)])

    def _take_over(self, wish: Wish, result: Result, outcome: Outcome, standing: Standing) -> None:
        result.plan, result.log = outcome.plan, outcome.log
        found = outcome.after or outcome.before
        if found:
            result.container = found
            result.label = found.hostname
        else:
            result.container = Actual(outcome.declared.vmid or 0, outcome.declared.node or standing.backup.node)
        noise = creation_notes(outcome.declared)
        result.plan.notes = [note for note in result.plan.notes if note not in noise]
        if outcome.failure:
            result.failure = aftermath(self._client, outcome, standing)
            return
        if standing.snapshots:
            result.plan.notes.append(f"The snapshots {', '.join(standing.snapshots)} of the old volumes go with them.")


def _moved(result: Result) -> Failure:
    """vzdump says OK, without a task, of containers that are on another node (PVE/API2/VZDump.pm)."""
    container = t.cast(Actual, result.container)
    return Failure(
        "not_found",
        f"{called(container)} has left {container.node} meanwhile; no backup was made.",
        "Run again.",
        vmid=container.vmid,
    )


def _unnamed(wish: Wish, backup: Backup) -> Failure:
    """vzdump warns of notes that it could not write, and goes on (``exec_backup_task`` of PVE/VZDump.pm)."""
    return Failure(
        "notes_missing",
        f"{backup.volume} was made, but Proxmox could not note with it that it is of {wish.prefix}.",
        "The log of the task says why. keep and max_age do not see this backup: give it such notes, or remove it.",
        volume=backup.volume,
    )


def _damaged(backup: Backup, reason: str) -> Failure:
    return Failure(
        "backup_damaged",
        f"{backup.volume} is of no use: {reason}.",
        "Make another one, and remove this one.",
        volume=backup.volume,
    )


def module_result(results: t.Sequence[Result]) -> dict[str, t.Any]:
    """The result of ``lxc_backup``."""
    return targets_result(results)
