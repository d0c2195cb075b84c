# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for tasks: how often is asked, who asks, and how it ends."""

from __future__ import annotations

import threading
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api import tasks
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.tasks import (
    Task,
    TaskWatcher,
    is_upid,
    node_of,
    type_of,
)
from ansible_collections.lxcri.proxmox.tests.unit.support import FakeClient

LIST = "nodes/pve1/tasks"


def upid(number: int, kind: str = "vzstart", node: str = "pve1") -> str:
    return f"UPID:{node}:{number:08X}:0002A6B8:6B011840:{kind}:{number}:root@pam:"


class Clock:
    """Time that passes when somebody waits for it: what is asked when is then exact."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []
        wait = threading.Condition.wait

        def pass_time(condition: threading.Condition, timeout: float | None = None) -> bool:
            if timeout is None:
                return wait(condition)
            self.pauses.append(timeout)
            self.now += timeout
            return False

        monkeypatch.setattr(threading.Condition, "wait", pass_time)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Node:
    """A node whose tasks end after a while."""

    def __init__(self, clock: t.Callable[[], float], ends: dict[str, tuple[float, str]], listed: bool = True) -> None:
        self._clock = clock
        self._began = clock()
        self._ends = ends
        self._listed = listed
        self.client = FakeClient(
            {
                LIST: self._list,
                **{f"{LIST}/{each}/status": lambda each=each: self._status(each) for each in ends},
                **{f"{LIST}/{each}/log": [] for each in ends},
            }
        )

    def _status(self, each: str) -> dict[str, t.Any]:
        after, exitstatus = self._ends[each]
        if self._clock() - self._began < after:
            return {"status": "running"}
        return {"status": "stopped", "exitstatus": exitstatus}

    def _list(self, **_params: t.Any) -> list[dict[str, t.Any]]:
        if not self._listed:
            return []
        states = {each: self._status(each) for each in self._ends}
        return [{"upid": each, "status": states[each].get("exitstatus", "RUNNING")} for each in states]

    def watcher(self) -> TaskWatcher:
        return TaskWatcher(t.cast(t.Any, self.client), clock=self._clock)


def test_intervals_grow_with_the_age_of_the_task(clock: Clock) -> None:
    one = upid(1)
    task = Node(clock, {one: (30.0, "OK")}).watcher().wait(one, 600)
    assert task.exitstatus == "OK"
    assert clock.pauses == sorted(clock.pauses)
    assert clock.pauses[0] == 0.1
    assert clock.pauses[-1] == 1.0
    assert task.duration == pytest.approx(30, abs=1.1)


def test_the_end_is_seen_soon_and_a_short_task_costs_little(clock: Clock) -> None:
    for seconds, requests, late in ((0.0, 1, 0.2), (0.5, 5, 0.2), (2.0, 15, 0.5), (10.0, 30, 1.1), (120.0, 160, 1.1)):
        one = upid(7)
        node = Node(clock, {one: (seconds, "OK")})
        task = node.watcher().wait(one, 600)
        assert seconds <= task.duration <= seconds + late
        assert len(node.client.paths()) <= requests


def test_a_failure_is_told_at_once_with_the_end_of_the_log(clock: Clock) -> None:
    one = upid(1, "vzcreate")
    node = Node(clock, {one: (1.0, "unable to create CT 1 - storage 'nope' does not exist")})
    node.client.answers[f"{LIST}/{one}/log"] = [{"n": n, "t": f"line {n}"} for n in range(1, 21)] + [{"n": 21, "t": ""}]
    with pytest.raises(Failure) as raised:
        node.watcher().wait(one, 600)
    assert clock.now - 1000 < 2, "not only when the time is up"
    failure = raised.value
    assert failure.code == "storage_missing"
    assert failure.details["storage"] == "nope"
    assert failure.details["upid"] == one
    assert failure.details["log"] == [f"line {n}" for n in range(11, 21)]


def test_an_unspecific_failure(clock: Clock) -> None:
    one = upid(1)
    with pytest.raises(Failure) as raised:
        Node(clock, {one: (0.0, "startup for container '1' failed")}).watcher().wait(one, 600)
    assert raised.value.code == "task_failed"
    assert raised.value.message == "The task vzstart failed: startup for container '1' failed."


def test_deadline(clock: Clock) -> None:
    one = upid(1)
    with pytest.raises(Failure) as raised:
        Node(clock, {one: (1000.0, "OK")}).watcher().wait(one, 20)
    assert raised.value.code == "timeout"
    assert raised.value.details["upid"] == one
    assert "it goes on" in raised.value.message
    assert 20 <= clock.now - 1000 <= 22


def test_a_task_that_the_list_does_not_show_is_asked_for_by_itself(clock: Clock) -> None:
    one = upid(1)
    node = Node(clock, {one: (3.0, "OK")}, listed=False)
    assert node.watcher().wait(one, 600).exitstatus == "OK"
    assert f"{LIST}/{one}/status" in node.client.paths()


def test_a_list_that_lags_is_not_believed_for_ever(clock: Clock) -> None:
    """A list may still show RUNNING after the task has ended."""
    one = upid(1)
    node = Node(clock, {one: (1.0, "OK")})
    node.client.answers[LIST] = [{"upid": one, "status": "RUNNING"}]
    task = node.watcher().wait(one, 600)
    assert task.duration < 8
    assert node.client.paths().count(f"{LIST}/{one}/status") == 1


def test_a_list_entry_without_a_status_runs(clock: Clock) -> None:
    one = upid(1)
    node = Node(clock, {one: (2.0, "OK")})
    node.client.answers[LIST] = lambda **_params: (
        [{"upid": one}] if clock.now < 1002 else [{"upid": one, "status": "OK"}]
    )
    assert node.watcher().wait(one, 600).exitstatus == "OK"


def test_a_task_that_was_interrupted_is_a_failure(clock: Clock) -> None:
    one = upid(1)
    node = Node(clock, {}, listed=False)
    node.client.answers.update({LIST: [], f"{LIST}/{one}/status": {"status": "stopped"}, f"{LIST}/{one}/log": []})
    with pytest.raises(Failure) as raised:
        node.watcher().wait(one, 600)
    assert raised.value.code == "task_failed"
    assert raised.value.details["exitstatus"] == "unexpected status"


def test_warnings_are_a_success_and_are_shown(clock: Clock) -> None:
    one = upid(1, "vzcreate")
    node = Node(clock, {one: (0.0, "WARNINGS: 2")})
    lines = ["extracting", "WARN: first", "  WARNING: second", "TASK WARNINGS: 2"]
    node.client.answers[f"{LIST}/{one}/log"] = [{"n": n, "t": line} for n, line in enumerate(lines, 1)]
    task = node.watcher().wait(one, 600)
    assert task.warnings == ["WARN: first", "  WARNING: second"]
    assert task.as_dict() == {
        "upid": one,
        "exitstatus": "WARNINGS: 2",
        "duration": pytest.approx(0.1),
        "warnings": task.warnings,
    }


def test_a_long_log_is_read_in_pages(clock: Clock) -> None:
    one = upid(1)
    lines = [{"n": n, "t": f"line {n}"} for n in range(1, 1201)]
    node = Node(clock, {one: (0.0, "it failed")})
    node.client.answers[f"{LIST}/{one}/log"] = lambda start, limit: lines[start : start + limit]
    assert len(node.watcher().log(one)) == 1200


def test_a_log_that_is_refused_does_not_hide_the_failure(clock: Clock) -> None:
    """The logs of others' tasks need Sys.Audit."""
    one = upid(1)
    node = Node(clock, {one: (0.0, "CT is locked (backup)")})
    node.client.answers[f"{LIST}/{one}/log"] = Failure("permission_denied", "Permission check failed")
    with pytest.raises(Failure) as raised:
        node.watcher().wait(one, 600)
    assert raised.value.code == "locked"
    assert raised.value.details["log"] == []


# ----------------------------------------------------------------------------------------- the API is not there


def away(node: Node, clock: Clock, begin: float, end: float, code: str = "unreachable") -> None:
    """Have no list be answered for a while, in seconds from the start. Each attempt takes three."""
    answer = node.client.answers[LIST]

    def answered(**params: t.Any) -> t.Any:
        if not begin <= clock.now - 1000 < end:
            return answer(**params)
        clock.now += 3
        return Failure(code, "It is not there.")

    node.client.answers[LIST] = answered


@pytest.mark.parametrize("code", ["unreachable", "node_offline", "timeout"])
def test_an_outage_does_not_end_the_wait(clock: Clock, code: str) -> None:
    one = upid(1)
    node = Node(clock, {one: (90.0, "OK")})
    away(node, clock, 10, 65, code)
    assert node.watcher().wait(one, 600).exitstatus == "OK"


def test_each_outage_counts_by_itself(clock: Clock) -> None:
    one = upid(1)
    node = Node(clock, {one: (180.0, "OK")})
    away(node, clock, 10, 50)
    away(node, clock, 60, 110)
    assert node.watcher().wait(one, 600).exitstatus == "OK"


@pytest.mark.parametrize(("timeout", "ends"), [(600, 60 + 10), (30, 30)])
def test_an_outage_that_lasts_ends_the_wait(clock: Clock, timeout: float, ends: float) -> None:
    one = upid(1)
    node = Node(clock, {one: (300.0, "OK")})
    away(node, clock, 10, 1000)
    with pytest.raises(Failure) as raised:
        node.watcher().wait(one, timeout)
    assert (raised.value.code, raised.value.details["upid"]) == ("unreachable", one)
    assert ends <= clock.now - 1000 <= ends + 6


# ----------------------------------------------------------------------------------------------- many waiters


def test_one_list_serves_all_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "FIRST_INTERVAL", 0.02)
    monkeypatch.setattr(tasks, "LAST_INTERVAL", 0.05)
    many = [upid(number) for number in range(1, 41)]
    node = Node(time.monotonic, {each: (0.1 + 0.01 * n, "OK") for n, each in enumerate(many)})
    watcher = node.watcher()
    with ThreadPoolExecutor(len(many)) as pool:
        ended = list(pool.map(lambda each: watcher.wait(each, 20), many))
    assert [task.upid for task in ended] == many
    assert set(node.client.paths()) == {LIST}, "no task is asked for by itself"
    assert len(node.client.requests) < 60, "not once for each task and interval"
    limits = [params["limit"] for _method, _path, params in node.client.requests]
    assert max(limits) >= 2 * 35, "the list is long enough for all who wait"
    assert all(params["source"] == "all" for _method, _path, params in node.client.requests)


def test_one_failure_does_not_disturb_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "FIRST_INTERVAL", 0.01)
    monkeypatch.setattr(tasks, "LAST_INTERVAL", 0.02)
    good, bad, slow = upid(1), upid(2), upid(3)
    node = Node(time.monotonic, {good: (0.2, "OK"), bad: (0.05, "CT is locked (disk)"), slow: (5.0, "OK")})
    watcher = node.watcher()

    def outcome(each: str) -> str:
        try:
            return watcher.wait(each, 0.5).exitstatus
        except Failure as failure:
            return failure.code

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(outcome, [good, bad, slow])) == ["OK", "locked", "timeout"]


def test_whoever_asks_may_fail_and_another_one_asks_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that asks is ended by a refusal; the others must not wait for it for ever."""
    monkeypatch.setattr(tasks, "FIRST_INTERVAL", 0.01)
    monkeypatch.setattr(tasks, "LAST_INTERVAL", 0.02)
    both = [upid(1), upid(2)]
    node = Node(time.monotonic, dict.fromkeys(both, (0.1, "OK")))
    answer, lost = node.client.answers[LIST], []

    def once_lost(**params: t.Any) -> t.Any:
        if not lost:
            lost.append(True)
            return Failure("authentication_failed", "refused")
        return answer(**params)

    node.client.answers[LIST] = once_lost
    watcher = node.watcher()

    def outcome(each: str) -> str:
        try:
            return watcher.wait(each, 5).exitstatus
        except Failure as failure:
            return failure.code

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(outcome, both)) == ["OK", "authentication_failed"]


def test_tasks_of_several_nodes_are_asked_for_where_they_run(clock: Clock) -> None:
    one, two = upid(1), upid(2, node="pve2")
    client = FakeClient({LIST: [{"upid": one, "status": "OK"}], "nodes/pve2/tasks": [{"upid": two, "status": "OK"}]})
    watcher = TaskWatcher(t.cast(t.Any, client), clock=clock)
    assert isinstance(watcher.wait(one, 5), Task)
    assert isinstance(watcher.wait(two, 5), Task)
    assert client.paths() == [LIST, "nodes/pve2/tasks"]


# ------------------------------------------------------------------------------------------------- identifiers


@pytest.mark.parametrize(
    ("text", "kind", "node"),
    [
        ("UPID:pve1:00000C56:000279F6:6B0117CD:vzstart:999:root@pam:", "vzstart", "pve1"),
        ("UPID:pve-2:00000C56:1000279F6:6B0117CD:vzdump::ci@pve!t1:", "vzdump", "pve-2"),
        ("UPID:n:00000C56:000279F6:6B0117CD:move_volume:401-mp0>404-mp1:root@pam:", "move_volume", "n"),
        ("UPID:n:00000C56:000279F6:6B0117CD:imgdel:999@local:root@pam:", "imgdel", "n"),
    ],
)
def test_identifiers(text: str, kind: str, node: str) -> None:
    assert is_upid(text)
    assert (type_of(text), node_of(text)) == (kind, node)


@pytest.mark.parametrize(
    "answer", [None, "", "OK", 101, {"data": None}, ["UPID:"], "UPID:pve1:x:y:z:vzstart:1:root@pam:"]
)
def test_what_is_no_identifier(answer: t.Any) -> None:
    assert not is_upid(answer)
