# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Health checks by a command, over a real sshd and in a real container of LXC."""

from __future__ import annotations

import time
import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.health import Verdict, health_of
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.health_run import Checker, Nodes
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import Actual
from ansible_collections.lxcri.proxmox.tests.lab.machine import Machine

# Logging in is slow in an emulated machine.
PATIENT = {"timeout": 120, "interval": 0.1, "start_period": 0, "retries": 2}


class Started:
    """What the API says of a container: it has been running for so many seconds."""

    def __init__(self, uptime: float) -> None:
        self.uptime = uptime

    def get(self, _path: str, **_params: t.Any) -> dict[str, t.Any]:
        return {"status": "running", "uptime": self.uptime}


@pytest.fixture
def nodes(machine: Machine) -> Nodes:
    host, port, key = machine.ssh
    args = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR")
    return Nodes(port=port, key_file=str(key), args=args, hosts={"pve1": host})


def check(nodes: Nodes, *command: str, vmid: int = 104, uptime: float = 1000, **options: t.Any) -> Verdict:
    """The verdict on a container of the machine."""
    health = health_of({**PATIENT, "command": list(command), **options})
    assert health
    client: t.Any = Started(uptime)
    return Checker(client, nodes).check(health, Actual(vmid, "pve1", "running"))


@pytest.mark.parametrize("vmid", [104, 102])
def test_a_command_that_succeeds(nodes: Nodes, vmid: int) -> None:
    verdict = check(
        nodes, "sh", "-c", 'test "$1" = "a  b; \'c\' grün" && test -d /proc/1', "-", "a  b; 'c' grün", vmid=vmid
    )
    assert (verdict.healthy, verdict.tries) == (True, 1), verdict


def test_a_command_as_another_user(nodes: Nodes) -> None:
    assert check(nodes, "sh", "-c", "test $(id -un) = nobody", command_user="nobody").healthy


def test_a_command_that_fails(nodes: Nodes) -> None:
    verdict = check(nodes, "sh", "-c", "echo no such database >&2; exit 3")
    assert (verdict.healthy, verdict.tries) == (False, 2)
    assert verdict.output == "it ended with status 3: no such database"
    missing = check(nodes, "pg_isready", retries=1)
    assert (missing.healthy, "pg_isready" in missing.output) == (False, True), missing


def test_failures_in_the_start_period_do_not_count(nodes: Nodes) -> None:
    script = "echo >>/run/tries; test $(wc -l </run/tries) -ge 3"
    verdict = check(nodes, "sh", "-c", script, uptime=1, start_period=1000, retries=1)
    assert (verdict.healthy, verdict.tries) == (True, 3), verdict


def test_a_command_that_never_ends_is_ended_in_the_container(nodes: Nodes, machine: Machine) -> None:
    verdict = check(nodes, "sleep", "54321", timeout=20, retries=1)
    assert (verdict.healthy, verdict.output) == (False, "it has not ended after 20 s"), verdict
    deadline = time.monotonic() + 120
    while machine.run("pgrep -af '[s]leep 54321'", check=False).stdout:
        assert time.monotonic() < deadline, machine.run("ps axf | grep -B9 '[s]leep 54321'").stdout
        time.sleep(1)
