# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries out dev/lab: one machine for a developer, in the background."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import typing as t
from pathlib import Path

from ansible_collections.lxcri.proxmox.tests.lab import layers
from ansible_collections.lxcri.proxmox.tests.lab.machine import ROOT, LabError, Machine


def directory() -> Path:
    """Where the machine of this checkout is."""
    return layers.cache() / "run" / f"developer-{layers.digest(str(ROOT))}"


def attach() -> Machine:
    """The machine that runs.

    Raises:
        LabError: there is none.
    """
    try:
        return Machine.attach(directory())
    except OSError as error:
        raise LabError("no machine runs, start one with dev/lab up") from error


def up() -> None:
    """Start one."""
    start = time.monotonic()
    try:
        attach()
    except LabError:
        pass
    else:
        status()
        return
    directory().mkdir(parents=True, exist_ok=True)
    machine = Machine.start(directory(), bound=False)
    tell(machine.push())
    machine.save()
    print(f"ready in {time.monotonic() - start:.1f} s; dev/lab ssh leads into it")


def tell(failed: dict[str, str]) -> None:
    """Say which modules cannot be imported in the machine."""
    for name, why in failed.items():
        print(f"{name}: {why}", file=sys.stderr)


def down() -> None:
    """End it."""
    attach().stop()


def status() -> int:
    """Say whether it runs."""
    try:
        machine = attach()
    except LabError as error:
        print(error)
        return 1
    host, port, key = machine.ssh
    print(f"runs in {machine.directory}; ssh -p {port} -i {key} root@{host}")
    return 0


def ssh(arguments: list[str]) -> t.NoReturn:
    """Log in, or run a command."""
    host, port, key = attach().ssh
    options = {"StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null", "LogLevel": "ERROR"}
    words = ["ssh", "-i", str(key), "-p", str(port)]
    for name, value in options.items():
        words += ["-o", f"{name}={value}"]
    os.execvp("ssh", [*words, f"root@{host}", *arguments])


def run(arguments: list[str]) -> int:
    """Run a command by way of the guest agent."""
    result = attach().run(" ".join(arguments), check=False, timeout=600)
    sys.stdout.write(result.stdout)
    sys.stderr.write(result.stderr)
    return result.rc


def module(arguments: list[str]) -> None:
    """Run a module of the live tree."""
    machine = attach()
    machine.push()
    flags = {"check_mode": "--check" in arguments, "diff": "--diff" in arguments}
    name, *rest = [word for word in arguments if word not in ("--check", "--diff")]
    start = time.monotonic()
    result = machine.module(name, json.loads(rest[0]) if rest else {}, **flags)
    print(json.dumps(result, indent=2))
    print(f"{time.monotonic() - start:.2f} s", file=sys.stderr)


def main(arguments: list[str]) -> int | None:
    """Carry out the command line; returns the exit code."""
    verb, *rest = arguments
    plain: dict[str, t.Callable[[], t.Any]] = {
        "build": layers.machine,
        "up": up,
        "down": down,
        "reset": lambda: attach().reset(),
        "push": lambda: tell(attach().push()),
    }
    try:
        if verb in plain:
            plain[verb]()
            return 0
        if verb == "status":
            return status()
        return {"ssh": ssh, "run": run, "module": module}[verb](rest)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
