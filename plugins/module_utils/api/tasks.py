# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for Proxmox's worker tasks (UPIDs).

One list of a node's tasks serves every task that is awaited on that node, however many threads wait: whoever is first
asks, the others share the answer. The list is answered by pveproxy itself and spares pvedaemon, which the status of
a single task does not. A task that the list does not show, or shows as running for long, is asked for by itself.
"""

from __future__ import annotations

import re
import threading
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure, classify

# UPID:node:pid:pstart:starttime:type:id:user@realm: (PVE::Tools::upid_decode)
UPID = re.compile(
    r"UPID:(?P<node>[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?):(?P<pid>[0-9A-Fa-f]{8}):(?P<pstart>[0-9A-Fa-f]{8,9}):"
    r"(?P<starttime>[0-9A-Fa-f]{8}):(?P<type>[^:\s]+):(?P<id>[^:\s]*):(?P<user>[^:\s]+):"
)

FIRST_INTERVAL = 0.1
LAST_INTERVAL = 1.0
# The share of a task's age after which it is asked for again: long tasks are asked for less often.
GROWTH = 0.2
# A list may still show a task as running that has ended, and a long list may not show it at all.
OWN_STATUS_AFTER = 5.0
# Seconds for which the API may be away while a task is awaited, which goes on: pveproxy restarts, an address moves.
PATIENCE = 60.0
AWAY = ("unreachable", "node_offline", "timeout")
LOG_LINES = 10
LOG_PAGE = 500
# Requeueing a HA resource and starting it are the HA manager's business; its task ends before the work is done.
# Codes that leave it to the log to say what was wrong.
VAGUE = ("api_error", "download_failed", "registry_failed")
HA_TASKS = ("hastart", "hastop", "hamigrate", "hashutdown")


@dataclass
class Task:
    """A task that has ended.

    duration: seconds from Proxmox's own clock when it tells them, else as seen from here.
    """

    upid: str
    exitstatus: str
    duration: float
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, t.Any]:
        """One entry of a module's ``tasks``."""
        return {
            "upid": self.upid,
            "exitstatus": self.exitstatus,
            "duration": round(self.duration, 1),
            "warnings": self.warnings,
        }


def is_upid(answer: t.Any) -> bool:
    """True when an answer of the API is the identifier of a task."""
    return isinstance(answer, str) and UPID.match(answer) is not None


def type_of(upid: str) -> str:
    """The type of a task: ``vzcreate``, ``vzstart`` …"""
    match = UPID.match(upid)
    return match.group("type") if match else ""


def id_of(upid: str) -> str:
    """What a task is about: a vmid, the name of a file …"""
    match = UPID.match(upid)
    return match.group("id") if match else ""


def node_of(upid: str) -> str:
    """The node on which a task runs."""
    match = UPID.match(upid)
    return match.group("node") if match else ""


def user_of(upid: str) -> str:
    """The user (``root@pam``) or token (``root@pam!name``) that has started a task."""
    match = UPID.match(upid)
    return match.group("user") if match else ""


@dataclass
class Log:
    """What has been done: the tasks that ended, and the warnings in their logs."""

    tasks: list[Task] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """The warnings of all tasks."""
        return [f"{type_of(task.upid)}: {line.strip()}" for task in self.tasks for line in task.warnings]

    def as_list(self) -> list[dict[str, t.Any]]:
        """A module's ``tasks``."""
        return [task.as_dict() for task in self.tasks]


class TaskWatcher:
    """Waits for tasks on any number of nodes. Safe to use from several threads."""

    def __init__(
        self,
        client: Client,
        clock: t.Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._clock = clock
        self._nodes: dict[str, _NodeTasks] = {}
        self._lock = threading.Lock()

    def wait(self, upid: str, timeout: float) -> Task:
        """Wait until a task has ended.

        timeout: seconds to wait at most; the task itself goes on.

        Raises:
            Failure: ``task_failed`` or a more precise code, with the last lines of the task's log; ``timeout``; what
                the API answers, or that it has been away for too long.
        """
        began = self._clock()
        with self._lock:
            node = self._nodes.setdefault(node_of(upid), _NodeTasks(self._client, node_of(upid), self._clock))
        exitstatus = node.wait(upid, began, timeout)
        task = Task(upid, exitstatus, self._clock() - began)
        if exitstatus == "OK":
            return task
        log = self.log(upid)
        if exitstatus.startswith("WARNINGS"):
            task.warnings = [line for line in log if re.match(r"\s*WARN(ING)?\b", line)] or log[-LOG_LINES:-1]
            return task
        raise failed_task(upid, exitstatus, log)

    def log(self, upid: str) -> list[str]:
        """The lines of a task's log; empty when Proxmox does not give it."""
        lines: list[str] = []
        path = f"nodes/{node_of(upid)}/tasks/{upid}/log"
        try:
            while True:
                page = self._client.get(path, start=len(lines), limit=LOG_PAGE)
                lines += [str(line.get("t", "")) for line in page or []]
                if len(page or []) < LOG_PAGE:
                    return lines
        except Failure:
            # The reason of the failure is known already; its log is an extra.
            return lines


def failed_task(upid: str, exitstatus: str, log: list[str]) -> Failure:
    """The failure of a task, with the end of its log."""
    code, hint, facts = classify(500, exitstatus)
    reasons = [" ".join(exitstatus.split())]
    if code == "api_error":
        # A backup job says "job errors"; its log says for each guest what was wrong.
        errors = [line.partition(":")[2].strip() for line in log if line.startswith("ERROR:")]
        reasons += errors
        meant = [classify(500, line) for line in errors]
        if len({each[0] for each in meant}) == 1:
            code, hint, facts = meant[0]
    full = [meaning for meaning in (classify(500, line) for line in log) if meaning[0] == "storage_full"]
    if code in VAGUE and full:
        # The command that wrote has said so, and ends with a number.
        code, hint, facts = *full[-1][:2], {**facts, **full[-1][2]}
        if "temporary" in facts:
            # oci_registry_pull of PVE/API2/Storage/Status.pm does not clean up.
            hint += f" Proxmox leaves {facts['temporary']} on the node; remove it there."
    last = [line for line in log if line.strip()][-LOG_LINES:]
    return Failure(
        "task_failed" if code == "api_error" else code,
        f"The task {type_of(upid)} failed: {'; '.join(reasons)}.",
        hint,
        **facts,
        upid=upid,
        exitstatus=exitstatus,
        log=last,
    )


class _NodeTasks:
    """The tasks awaited on one node: one thread asks for all."""

    def __init__(self, client: Client, node: str, clock: t.Callable[[], float]) -> None:
        self._client = client
        self._node = node
        self._clock = clock
        self._changed = threading.Condition()
        self._asking = False
        self._waiting: dict[str, float] = {}
        self._own_asked: dict[str, float] = {}
        self._ended: dict[str, str] = {}
        self._away_since: float | None = None

    def wait(self, upid: str, began: float, timeout: float) -> str:
        """The exit status of a task."""
        with self._changed:
            self._waiting[upid] = began
        try:
            while True:
                with self._changed:
                    if upid in self._ended:
                        return self._ended.pop(upid)
                    if self._clock() - began > timeout:
                        raise Failure(
                            "timeout",
                            f"The task {type_of(upid)} has not ended after {timeout:g} s; it goes on.",
                            "Raise 'timeout', or look at the task's log.",
                            upid=upid,
                        )
                    pause = self._interval()
                    if self._asking:
                        self._changed.wait(pause)
                        continue
                    self._asking = True
                    self._changed.wait(pause)
                try:
                    ended = self._ask_patiently(upid, began + timeout)
                finally:
                    with self._changed:
                        self._asking = False
                        self._changed.notify_all()
                with self._changed:
                    self._ended.update(ended)
                    self._changed.notify_all()
        finally:
            with self._changed:
                self._waiting.pop(upid, None)

    def _ask_patiently(self, upid: str, deadline: float) -> dict[str, str]:
        """What ``_ask`` finds; nothing while the API is away."""
        asked = self._clock()
        try:
            ended = self._ask()
        except Failure as failure:
            if failure.code in AWAY:
                self._away_since = asked if self._away_since is None else self._away_since
                if self._clock() < min(self._away_since + PATIENCE, deadline):
                    return {}
            failure.details.setdefault("upid", upid)
            raise
        self._away_since = None
        return ended

    def _interval(self) -> float:
        youngest = self._clock() - max(self._waiting.values())
        return min(max(FIRST_INTERVAL, youngest * GROWTH), LAST_INTERVAL)

    def _ask(self) -> dict[str, str]:
        """Exit statuses of the awaited tasks that have ended."""
        with self._changed:
            waiting = {upid: began for upid, began in self._waiting.items() if upid not in self._ended}
        if not waiting:
            return {}
        listed = self._client.get(f"nodes/{self._node}/tasks", source="all", limit=max(50, 2 * len(waiting)))
        shown = {str(entry.get("upid")): entry for entry in listed or []}
        ended = {}
        for upid, began in waiting.items():
            entry = shown.get(upid)
            status = str(entry.get("status") or "RUNNING") if entry else None
            if status not in (None, "RUNNING", "running"):
                ended[upid] = str(status)
            elif status is None or self._clock() - self._own_asked.get(upid, began) > OWN_STATUS_AFTER:
                self._own_asked[upid] = self._clock()
                own = self._own_status(upid)
                if own is not None:
                    ended[upid] = own
        return ended

    def _own_status(self, upid: str) -> str | None:
        status = self._client.get(f"nodes/{self._node}/tasks/{upid}/status") or {}
        return str(status.get("exitstatus") or "unexpected status") if status.get("status") == "stopped" else None
