# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests on the emulated machine share."""

from __future__ import annotations

import os
import re
import subprocess
import time
import typing as t
from pathlib import Path

import yaml
from ansible_collections.lxcri.proxmox.tests.lab.machine import Machine

# What changes by itself, such as how much is used, is not in it.
_STATE = """
zfs list -Hp -t all -o name,guid,origin,refquota,userrefs,mounted,mountpoint,canmount
zfs get -Hp -s local -t filesystem,volume all | grep -v '^backup' | grep -v canmount
cd /etc/pve && find . -type f | sort | xargs sha256sum
find /var/lib/lxcri -type f ! -name '*.lock' 2>/dev/null | sort
for name in 101 102 103 104 web idle; do lxc-info -n $name -sH; done
"""


def state(machine: Machine) -> str:
    """Everything that a module could change, as text."""
    return machine.run(_STATE, check=False).stdout


def checkpoint(machine: Machine, **options: t.Any) -> dict[str, t.Any]:
    """Run ``zfs_checkpoint``, which must not fail. check_mode and env are for the run, all else are options."""
    result = attempt(machine, **options)
    assert not result.get("failed"), result
    assert "killed" not in result, result
    return result


def attempt(machine: Machine, **options: t.Any) -> dict[str, t.Any]:
    """The result of ``zfs_checkpoint``, also a failed one."""
    run = {key: options.pop(key) for key in ("check_mode", "diff", "env") if key in options}
    return machine.module("zfs_checkpoint", options, **run)


def refused(machine: Machine, code: str, **options: t.Any) -> dict[str, t.Any]:
    """The failure of ``zfs_checkpoint``, of this code. It has changed nothing."""
    before = state(machine)
    result = attempt(machine, **options)
    assert result.get("failed"), result
    assert result["failure"]["code"] == code, result["failure"]
    assert result["failure"]["message"]
    assert state(machine) == before
    return result["failure"]


def number(machine: Machine, path: str) -> int:
    """The number in a file."""
    return int(machine.read(path))


def moves(machine: Machine, path: str, seconds: float = 10) -> bool:
    """Whether the number in a file grows."""
    before = number(machine, path)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if number(machine, path) > before:
            return True
        time.sleep(0.1)
    return False


def running(machine: Machine, name: str, seconds: float = 5) -> bool:
    """Whether a container runs, and is not frozen, within some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if machine.run(["lxc-info", "-n", name, "-sH"], check=False).stdout.strip() == "RUNNING":
            return True
        time.sleep(0.1)
    return False


def snapshots(machine: Machine, *datasets: str) -> list[str]:
    """The names of the snapshots of datasets, or of all."""
    words = ["zfs", "list", "-H", "-t", "snapshot", "-o", "name", *(["-d", "1"] if datasets else []), *datasets]
    return machine.run(words).stdout.split()


def watch(machine: Machine, *commands: str) -> dict[str, str]:
    """The environment for a module whose use of these commands is written down, but not what they use themselves."""
    machine.run("rm -rf /tmp/watched /tmp/commands.log && mkdir /tmp/watched")
    for command in commands:
        text = f'#!/bin/sh\necho {command} "$@" >>/tmp/commands.log\nPATH=${{PATH#*:}} exec {command} "$@"\n'
        machine.write(f"/tmp/watched/{command}", text, 0o755)
    return {"PATH": "/tmp/watched:/usr/sbin:/usr/bin:/sbin:/bin"}


def calls(machine: Machine, *beginnings: str) -> list[str]:
    """The commands that were written down, those that begin so."""
    return [line for line in machine.read("/tmp/commands.log").splitlines() if line.startswith(beginnings)]


class Played(t.NamedTuple):
    """How a playbook has ended. failed: what its failed task said."""

    changed: int
    failed: str


def play_role(machine: Machine, directory: Path, role: str, *arguments: str, **variables: t.Any) -> Played:
    """Run a role of the collection on the machine, by the real ansible-playbook over ssh."""
    host, port, key = machine.ssh
    hosts = {
        "ansible_host": host,
        "ansible_port": port,
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(key),
        "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
        "ansible_python_interpreter": "/usr/bin/python3",
    }
    (directory / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"pve1": hosts}}}), encoding="utf-8")
    roles = [{"role": f"lxcri.proxmox.{role}", "vars": variables}]
    book = [{"hosts": "all", "gather_facts": False, "roles": roles}]
    (directory / "play.yml").write_text(yaml.safe_dump(book), encoding="utf-8")
    done = subprocess.run(
        ["ansible-playbook", "-i", str(directory / "hosts.yml"), str(directory / "play.yml"), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "ANSIBLE_PIPELINING": "1", "ANSIBLE_HOME": str(directory / "home"), "ANSIBLE_NOCOLOR": "1"},
        stdin=subprocess.DEVNULL,
        timeout=600,
        check=False,
    )
    # For pytest to show when a test fails.
    print(done.stdout)
    recap = re.search(r"changed=(\d+)\s+unreachable=0\s+failed=(\d+)", done.stdout)
    assert recap, done.stdout + done.stderr
    assert bool(done.returncode) == bool(int(recap.group(2)))
    failed = done.stdout + done.stderr if done.returncode else ""
    return Played(int(recap.group(1)), failed)
