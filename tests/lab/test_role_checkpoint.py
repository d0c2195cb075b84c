# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role that installs the schedule, by the real ansible-playbook over ssh."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.tests.lab.machine import Machine
from ansible_collections.lxcri.proxmox.tests.lab.support import Played, play_role, running, snapshots
from ansible_collections.lxcri.proxmox.tests.lab.test_schedule import install

UNIT = "lxcri-checkpoint"
JOBS = [{"name": "some", "vmids": [101, 102], "keep": {"last": 2}}]
# The test takes many minutes, in which the timer is not to fire.
SCHEDULE = ["yearly", "*-01-01 02:30:00"]
_FILES = (
    "find /etc/systemd/system /etc/lxcri /usr/local/lib/lxcri -not -path '*/__pycache__*' -type f 2>/dev/null "
    "| sort | xargs sha256sum; systemctl is-enabled lxcri-checkpoint.timer; systemctl is-active lxcri-checkpoint.timer"
)


def play(machine: Machine, directory: Path, *arguments: str, **variables: t.Any) -> Played:
    """Run the role."""
    return play_role(machine, directory, "checkpoint", *arguments, **{"checkpoint_jobs": JOBS, **variables})


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_installed_run_and_removed(machine: Machine, tmp_path: Path) -> None:
    """Check mode changes nothing; then it works, a second run changes nothing, and removing keeps the checkpoints."""
    # Most of the code is there already, since copying file by file takes minutes in an emulated machine.
    install(machine, *JOBS)
    machine.run("rm -r /etc/lxcri; touch /usr/local/lib/lxcri/lxcri/zfs/old.py")
    before = machine.run(_FILES, check=False).stdout
    checked = play(machine, tmp_path, "--check", "--diff", checkpoint_schedule=SCHEDULE)
    assert not checked.failed, checked.failed
    assert checked.changed > 0
    assert machine.run(_FILES, check=False).stdout == before
    first = play(machine, tmp_path, checkpoint_schedule=SCHEDULE)
    assert not first.failed, first.failed
    assert first.changed > 0
    installed = machine.run(_FILES).stdout
    assert "enabled\nactive\n" in installed
    second = play(machine, tmp_path, checkpoint_schedule=SCHEDULE)
    assert second == Played(0, "")
    assert "old.py" not in installed
    assert machine.run(_FILES).stdout == installed
    assert json.loads(machine.read("/etc/lxcri/checkpoint.json"))["jobs"] == JOBS
    assert machine.run("stat -c %a /etc/lxcri/checkpoint.json").stdout == "600\n"
    timer = machine.run(f"systemctl show -p TimersCalendar,Persistent,RandomizedDelayUSec {UNIT}.timer").stdout
    assert timer.count("OnCalendar=") == 2
    assert "Persistent=yes" in timer
    assert "RandomizedDelayUSec=5min" in timer

    # The service does what the policy says, and its state is the truth.
    machine.run(["systemctl", "start", f"{UNIT}.service"])
    taken = snapshots(machine)
    assert len(taken) == 4
    lines = machine.run(f"journalctl -u {UNIT} -t {UNIT} -o cat").lines
    events = [json.loads(line)["event"] for line in lines if line.startswith("{")]
    assert events.count("checkpoint") == 2
    assert events[-1] == "end"
    machine.run("sed -i '1i lock: backup' /etc/pve/lxc/102.conf")
    assert machine.run(["systemctl", "start", f"{UNIT}.service"], check=False).rc != 0
    assert machine.run(f"systemctl show -p Result,ExecMainStatus {UNIT}.service").lines == [
        "Result=exit-code",
        "ExecMainStatus=1",
    ]
    assert "locked" in machine.run(f"journalctl -u {UNIT} -p err -o cat").stdout
    machine.run("sed -i '/^lock:/d' /etc/pve/lxc/102.conf")

    # What a killed run had frozen is thawed even when its guard is gone too.
    machine.run("mkdir -p /run/lxcri/frozen; touch /run/lxcri/frozen/101; lxc-freeze -n 101")
    machine.run(f"systemctl start --no-block {UNIT}.service; sleep 0.3; systemctl kill --kill-whom=main -s KILL {UNIT}")
    assert running(machine, "101", 60)

    # A wrong policy does not replace the right one.
    wrong = play(machine, tmp_path, checkpoint_jobs=[{"name": "some", "every": "soon"}], checkpoint_schedule="hourly")
    assert "jobs[0].every" in wrong.failed
    assert json.loads(machine.read("/etc/lxcri/checkpoint.json"))["jobs"] == JOBS

    taken = snapshots(machine)
    checked = play(machine, tmp_path, "--check", checkpoint_state="absent")
    assert not checked.failed, checked.failed
    assert checked.changed > 0
    removed = play(machine, tmp_path, checkpoint_state="absent")
    assert not removed.failed, removed.failed
    assert removed.changed > 0
    assert play(machine, tmp_path, checkpoint_state="absent") == Played(0, "")
    assert snapshots(machine) == taken
    left = f"ls /usr/local/lib/lxcri /etc/lxcri/checkpoint.json; systemctl cat {UNIT}.timer"
    assert machine.run(left, check=False).stdout == ""
    assert machine.run("ls /var/lib/lxcri/checkpoints/101").stdout


def test_times_that_systemd_does_not_know(machine: Machine, tmp_path: Path) -> None:
    before = machine.run(_FILES, check=False).stdout
    wrong = play(machine, tmp_path, checkpoint_schedule="now and then")
    assert "now and then" in wrong.failed
    assert machine.run(_FILES, check=False).stdout == before
