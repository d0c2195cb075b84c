# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every recorded task that failed or warned, through the watcher: its code, its last lines and its warnings."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api import tasks
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.tasks import Task, TaskWatcher, node_of, type_of
from ansible_collections.lxcri.proxmox.tests.unit.contract.recorded import records, table
from ansible_collections.lxcri.proxmox.tests.unit.support import FakeClient

TASKS = records("tasks")
CODES = {record_id: code for code, record_id, _exitstatus in table("task_codes")}
SUCCESS = "-"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "FIRST_INTERVAL", 0.001)


def _wait(record: dict[str, t.Any]) -> Task:
    upid = record["upid"]
    client = FakeClient(
        {
            "nodes/pve1/tasks": [{"upid": upid, "status": record["exitstatus"]}],
            f"nodes/pve1/tasks/{upid}/log": [{"n": n, "t": text} for n, text in enumerate(record["log"], 1)],
        }
    )
    return TaskWatcher(t.cast(t.Any, client)).wait(upid, timeout=10)


def test_every_recorded_task_has_a_code() -> None:
    assert {record["id"] for record in TASKS} == set(CODES)


FAILED = [record for record in TASKS if CODES[record["id"]] != SUCCESS]
WARNED = [record for record in TASKS if CODES[record["id"]] == SUCCESS]


@pytest.mark.parametrize("record", FAILED, ids=[record["id"] for record in FAILED])
def test_failed_task(record: dict[str, t.Any]) -> None:
    with pytest.raises(Failure) as raised:
        _wait(record)
    failure = raised.value
    assert failure.code == CODES[record["id"]]
    assert failure.details["upid"] == record["upid"]
    assert failure.details["exitstatus"] == record["exitstatus"]
    assert failure.message.startswith(f"The task {type_of(record['upid'])} failed: {record['exitstatus']}")
    lines = [line for line in record["log"] if line.strip()]
    assert failure.details["log"] == lines[-10:]
    if lines:
        assert failure.details["log"][-1] == lines[-1], "the end of the log carries the reason"


@pytest.mark.parametrize("record", WARNED, ids=[record["id"] for record in WARNED])
def test_task_with_warnings_succeeds_and_shows_them(record: dict[str, t.Any]) -> None:
    task = _wait(record)
    warned = int(record["exitstatus"].rpartition(" ")[2])
    assert task.exitstatus == record["exitstatus"]
    assert len(task.warnings) == warned
    assert all(line.startswith("WARN: ") for line in task.warnings)


@pytest.mark.parametrize("record_id", ["errors-182", "errors-206", "tasks-040"])
def test_reason_of_a_failed_backup_job_is_read_from_its_log(record_id: str) -> None:
    """The exit status ``job errors`` says nothing."""
    (record,) = [record for record in TASKS if record["id"] == record_id]
    with pytest.raises(Failure) as raised:
        _wait(record)
    reason = next(line for line in record["log"] if line.startswith("ERROR: "))
    assert reason.removeprefix("ERROR: ") in raised.value.message
    if record_id == "errors-206":
        assert raised.value.details["lock"] == "backup"


def test_parts_of_recorded_identifiers() -> None:
    types = {type_of(record["upid"]) for record in TASKS}
    assert {"vzcreate", "vzstart", "vzdump", "bulk-start", "resize", "ociregistrypull", "move_volume"} <= types
    assert {node_of(record["upid"]) for record in TASKS} == {"pve1"}
