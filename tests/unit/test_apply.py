# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carrying out steps: what is sent, what is tried again, and what is done already."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api import tasks
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.plan import Step
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.tasks import TaskWatcher
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.apply import Executor, VmidAllocator
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.reading import read_container
from ansible_collections.lxcri.proxmox.tests.unit.support import FakeClient, InTurn, not_found

CT = "nodes/pve1/lxc/101"
LIST = "nodes/pve1/tasks"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "FIRST_INTERVAL", 0.001)


def upid(kind: str, number: int = 1) -> str:
    return f"UPID:pve1:{number:08X}:0002A6B8:6B011840:{kind}:101:root@pam:"


def ended(*states: tuple[str, str]) -> dict[str, t.Any]:
    """A node's list of tasks that have ended, and their logs."""
    answers: dict[str, t.Any] = {LIST: [{"upid": each, "status": status} for each, status in states]}
    return {**answers, **{f"{LIST}/{each}/log": [] for each, _status in states}}


def executor(answers: dict[str, t.Any], timeout: float = 60) -> tuple[Executor, FakeClient, list[float]]:
    client, pauses = FakeClient(answers), t.cast("list[float]", [])
    fake = t.cast(t.Any, client)
    return Executor(fake, TaskWatcher(fake), VmidAllocator(fake), timeout, sleep=pauses.append), client, pauses


def start() -> Step:
    return Step("started", "POST", f"{CT}/status/start")


def writes(client: FakeClient) -> list[tuple[str, str, dict[str, t.Any]]]:
    return [request for request in client.requests if request[0] != "GET"]


# --------------------------------------------------------------------------------------------------- reading


def test_a_container_that_does_not_exist() -> None:
    client = FakeClient({f"{CT}/pending": not_found(101)})
    assert read_container(t.cast(t.Any, client), "pve1", 101) is None


def test_other_failures_are_not_taken_for_absence() -> None:
    client = FakeClient({f"{CT}/pending": Failure("unreachable", "lost")})
    with pytest.raises(Failure, match="lost"):
        read_container(t.cast(t.Any, client), "pve1", 101)


def test_a_status_that_is_known_costs_no_request() -> None:
    client = FakeClient({f"{CT}/pending": [{"key": "memory", "value": 512}, {"key": "digest", "value": "d"}]})
    actual = read_container(t.cast(t.Any, client), "pve1", 101, "running")
    assert actual is not None
    assert (actual.status, actual.digest, actual.current, actual.pending) == ("running", "d", {"memory": 512}, {})
    assert client.paths() == [f"{CT}/pending"]


# --------------------------------------------------------------------------------------------------- sending


def test_the_digest_of_the_plan_is_sent_once_and_then_read_again() -> None:
    """The first write changes it."""
    it, client, _pauses = executor({f"PUT {CT}/config": None, f"GET {CT}/config": {"digest": "d2"}})
    steps = [
        Step("reverted", "PUT", f"{CT}/config", {"revert": "mp0"}, digest=True),
        Step("configured", "PUT", f"{CT}/config", {"delete": "mp0"}, digest=True),
    ]
    assert it.run(steps, 101, "d1") == 101
    assert [params for _method, _path, params in writes(client)] == [
        {"revert": "mp0", "digest": "d1"},
        {"delete": "mp0", "digest": "d2"},
    ]
    assert steps[0].params == {"revert": "mp0"}, "a step can be sent again"


def test_tasks_are_awaited_and_noted() -> None:
    it, _client, _pauses = executor({f"{CT}/status/start": upid("vzstart"), **ended((upid("vzstart"), "WARNINGS: 1"))})
    it._client.answers[f"{LIST}/{upid('vzstart')}/log"] = [{"t": "WARN: old systemd"}]
    it.run([start()], 101, None)
    assert [task["exitstatus"] for task in it.log.as_list()] == ["WARNINGS: 1"]
    assert it.log.warnings == ["vzstart: WARN: old systemd"]


def test_steps_after_a_failed_one_are_not_sent() -> None:
    it, client, _pauses = executor({f"{CT}/resize": upid("resize"), **ended((upid("resize"), "out of space"))})
    steps = [Step("resized", "PUT", f"{CT}/resize", {"disk": "rootfs", "size": "9G"}), start()]
    with pytest.raises(Failure) as raised:
        it.run(steps, 101, None)
    assert raised.value.code == "storage_full"
    assert len(writes(client)) == 1


def test_the_id_is_put_where_each_call_wants_it() -> None:
    for action, path, name in (
        ("created", "nodes/pve1/lxc", "vmid"),
        ("restored", "nodes/pve1/lxc", "vmid"),
        ("cloned", "nodes/pve1/lxc/900/clone", "newid"),
    ):
        it, client, _pauses = executor({path: None, "nodes/pve1/lxc/101/status/start": None})
        steps = [Step(action, "POST", path), Step("started", "POST", "nodes/pve1/lxc/{vmid}/status/start")]
        assert it.run(steps, 101, None) == 101
        assert writes(client)[0][2] == {name: 101}
        assert writes(client)[1][1] == "nodes/pve1/lxc/101/status/start"


def test_a_free_id_is_tried_until_one_is_free() -> None:
    taken = Failure("vmid_in_use", "CT 100 already exists on node 'pve1'")
    answers = {"cluster/nextid": InTurn("100", "100", "103"), "nodes/pve1/lxc": InTurn(taken, taken, None)}
    it, client, _pauses = executor(answers)
    assert it.run([Step("created", "POST", "nodes/pve1/lxc", {"memory": 512})], None, None) == 103
    assert [params["vmid"] for _method, _path, params in writes(client)] == [100, 101, 103]


def test_a_declared_id_that_is_taken_is_a_failure() -> None:
    it, client, _pauses = executor({"nodes/pve1/lxc": Failure("vmid_in_use", "CT 101 already exists")})
    with pytest.raises(Failure) as raised:
        it.run([Step("created", "POST", "nodes/pve1/lxc")], 101, None)
    assert raised.value.code == "vmid_in_use"
    assert len(writes(client)) == 1


# ------------------------------------------------------------------------------------------------ trying again

TIMEOUT = "can't lock file '/run/lock/lxc/pve-config-101.lock' - got timeout"


def test_a_task_that_could_not_have_the_lock_is_started_again() -> None:
    first, second = upid("vzstart", 1), upid("vzstart", 2)
    answers = {f"{CT}/status/start": InTurn(first, second), **ended((first, TIMEOUT), (second, "OK"))}
    it, client, pauses = executor(answers)
    it.run([start()], 101, None)
    assert len(writes(client)) == 2
    assert len(pauses) == 1
    assert [task.exitstatus for task in it.log.tasks] == ["OK"]


def test_it_is_given_up_after_some_tries() -> None:
    it, client, _pauses = executor({f"{CT}/status/start": upid("vzstart"), **ended((upid("vzstart"), TIMEOUT))})
    with pytest.raises(Failure) as raised:
        it.run([start()], 101, None)
    assert raised.value.code == "lock_timeout"
    assert len(writes(client)) == 4


def test_a_refused_request_is_not_repeated_here_too() -> None:
    """The client has repeated it already."""
    it, client, _pauses = executor({f"{CT}/status/start": Failure("lock_timeout", TIMEOUT)})
    with pytest.raises(Failure):
        it.run([start()], 101, None)
    assert len(writes(client)) == 1


def test_clones_of_one_source_wait_for_each_other() -> None:
    locked = Failure("locked", "CT is locked (disk)", lock="disk")
    it, client, pauses = executor({"nodes/pve1/lxc/900/clone": InTurn(*[locked] * 9, None)})
    it.run([Step("cloned", "POST", "nodes/pve1/lxc/900/clone")], 101, None)
    assert len(writes(client)) == 10
    assert max(pauses) <= 2


@pytest.mark.parametrize(
    ("step", "failure"),
    [
        (start(), Failure("locked", "CT is locked (backup)", lock="backup")),
        (Step("cloned", "POST", "nodes/pve1/lxc/900/clone"), Failure("locked", "CT is locked", lock="backup")),
        (start(), Failure("task_failed", "startup failed", upid="x")),
        (start(), Failure("timeout", "it goes on", upid="x")),
        (start(), Failure("unreachable", "lost")),
    ],
    ids=str,
)
def test_what_is_never_sent_twice(step: Step, failure: Failure) -> None:
    it, client, _pauses = executor({step.path: failure})
    with pytest.raises(Failure) as raised:
        it.run([step], 101, None)
    assert raised.value is failure
    assert len(writes(client)) == 1


@pytest.mark.parametrize(
    ("step", "code", "done"),
    [
        (start(), "already_running", True),
        (Step("stopped", "POST", f"{CT}/status/stop"), "not_running", True),
        (Step("stopped", "POST", f"{CT}/status/shutdown"), "not_running", True),
        (Step("restarted", "POST", f"{CT}/status/reboot"), "not_running", False),
        (Step("destroyed", "DELETE", CT), "not_found", True),
        (Step("configured", "PUT", f"{CT}/config"), "not_found", False),
        (Step("resized", "PUT", f"{CT}/resize"), "already_at_size", True),
        (Step("resized", "PUT", f"{CT}/resize"), "would_lose_data", False),
    ],
    ids=str,
)
def test_what_somebody_else_has_done_already(step: Step, code: str, done: bool) -> None:
    it, _client, _pauses = executor({step.path: Failure(code, "x")})
    if done:
        it.run([step], 101, None)
    else:
        with pytest.raises(Failure):
            it.run([step], 101, None)


# ---------------------------------------------------------------------------------- what ends after its task


def test_a_reboot_is_awaited_until_the_container_runs() -> None:
    answers = {
        f"{CT}/status/reboot": upid("vzreboot"),
        f"{CT}/status/current": InTurn({"status": "stopped"}, {"status": "stopped"}, {"status": "running"}),
        **ended((upid("vzreboot"), "OK")),
    }
    it, client, _pauses = executor(answers)
    it.run([Step("restarted", "POST", f"{CT}/status/reboot")], 101, None)
    assert client.paths().count(f"{CT}/status/current") == 3


def test_a_stop_by_the_ha_manager_is_awaited() -> None:
    answers = {
        f"{CT}/status/shutdown": upid("hashutdown"),
        f"{CT}/status/current": InTurn({"status": "running"}, {"status": "stopped"}),
        **ended((upid("hashutdown"), "OK")),
    }
    it, client, _pauses = executor(answers)
    it.run([Step("stopped", "POST", f"{CT}/status/shutdown")], 101, None)
    assert client.paths().count(f"{CT}/status/current") == 2


def test_a_migration_by_the_ha_manager_is_awaited() -> None:
    there = "nodes/pve2/lxc/101/config"
    answers = {
        f"{CT}/migrate": upid("hamigrate"),
        there: InTurn(not_found(101), {"memory": 512}),
        "cluster/resources": [{"vmid": 101, "hastate": "started"}],
        **ended((upid("hamigrate"), "OK")),
    }
    it, client, _pauses = executor(answers)
    it.run([Step("migrated", "POST", f"{CT}/migrate", {"target": "pve2"})], 101, None)
    assert client.paths().count(there) == 2


def test_a_migration_that_the_ha_manager_gives_up_is_not_awaited() -> None:
    states = [[{"vmid": 101, "hastate": state}] for state in ("started", "migrate", "migrate", "started")]
    answers = {
        f"{CT}/migrate": upid("hamigrate"),
        "nodes/pve2/lxc/101/config": not_found(101),
        "cluster/resources": InTurn(*states),
        **ended((upid("hamigrate"), "OK")),
    }
    it, client, _pauses = executor(answers)
    with pytest.raises(Failure) as raised:
        it.run([Step("migrated", "POST", f"{CT}/migrate", {"target": "pve2"})], 101, None)
    assert raised.value.code == "task_failed"
    assert client.paths().count("cluster/resources") == 4


def test_a_template_is_awaited_though_the_call_answers_nothing() -> None:
    """Its task is only in the node's list (tasks-048)."""
    old, new = upid("vztemplate", 1), upid("vztemplate", 2)
    listed = [
        {"upid": new, "type": "vztemplate", "id": "101", "starttime": 2, "status": "OK"},
        {"upid": old, "type": "vztemplate", "id": "101", "starttime": 1, "status": "it failed long ago"},
    ]
    it, client, _pauses = executor({f"{CT}/template": None, LIST: listed, f"{CT}/config": InTurn({}, {"template": 1})})
    it.run([Step("made a template", "POST", f"{CT}/template")], 101, None)
    assert [task.upid for task in it.log.tasks] == [new]
    assert client.paths().count(f"{CT}/config") == 2


def test_what_never_comes_is_a_timeout() -> None:
    answers = {
        f"{CT}/status/reboot": upid("vzreboot"),
        f"{CT}/status/current": {"status": "stopped"},
        **ended((upid("vzreboot"), "OK")),
    }
    it, _client, _pauses = executor(answers, timeout=0.05)
    with pytest.raises(Failure) as raised:
        it.run([Step("restarted", "POST", f"{CT}/status/reboot")], 101, None)
    assert raised.value.code == "timeout"
    assert "running" in raised.value.message


def test_an_address_is_awaited() -> None:
    interfaces = [{"name": "eth0", "hwaddr": "bc:24:11:00:00:01", "inet": "192.0.2.7/24"}]
    local = [{"name": "lo", "inet": "127.0.0.1/8"}, {"name": "eth0", "inet6": "fe80::1/64"}]
    it, _client, pauses = executor({f"{CT}/interfaces": InTurn(None, local, interfaces)})
    (address,) = it.await_address("pve1", 101, 60)
    assert address["address"] == "192.0.2.7/24"
    assert len(pauses) == 2
    it, _client, _pauses = executor({f"{CT}/interfaces": local})
    with pytest.raises(Failure) as raised:
        it.await_address("pve1", 101, 0.01)
    assert raised.value.code == "no_address"


# -------------------------------------------------------------------------------------------------------- ids


def test_ids_are_handed_out_once() -> None:
    client = FakeClient({"cluster/nextid": InTurn("100", "105")})
    vmids = VmidAllocator(t.cast(t.Any, client), taken=[101, 103])
    assert [vmids.take() for _number in range(3)] == [100, 102, 104]
    assert len(client.requests) == 1
    vmids.refused()
    assert vmids.take() == 105
