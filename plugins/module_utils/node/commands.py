# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs commands of the node, here or over ssh."""

from __future__ import annotations

import os
import shlex
import subprocess
import typing as t
from dataclasses import dataclass

from ..api.errors import Failure

# Messages are read, so they have to be the English ones.
_ENVIRONMENT = {"LC_ALL": "C", "LANGUAGE": "C"}
# How much of what a command has said is kept of one that does not end, in bytes.
_TAIL = 300
# Programs of the administrator lie here, which a timer's or a module's PATH may lack.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Completed:
    """A command that has ended."""

    argv: tuple[str, ...]
    rc: int
    stdout: str
    stderr: str


class Run(t.Protocol):
    """Runs a command to its end."""

    def __call__(self, argv: t.Sequence[str], stdin: str | None = None, timeout: float | None = None) -> Completed: ...


def environment() -> dict[str, str]:
    """The environment of every command."""
    return {**os.environ, **_ENVIRONMENT, "PATH": f"{os.environ.get('PATH', '')}:{_PATH}".lstrip(":")}


def run_here(argv: t.Sequence[str], stdin: str | None = None, timeout: float | None = None) -> Completed:
    """Run a command on this machine. It sees no terminal and no standard input but the one given.

    Raises:
        Failure: ``command_missing``, ``command_timeout`` (the command was killed; ``stderr`` ends as its errors did).
    """
    try:
        done = subprocess.run(
            list(argv),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=timeout,
            env=environment(),
            check=False,
        )
    except FileNotFoundError:
        raise Failure(
            "command_missing",
            f"There is no command {argv[0]} on this machine.",
            "Install it there, or run the task on the machine that has it.",
            command=argv[0],
        ) from None
    except subprocess.TimeoutExpired as expired:
        raise Failure(
            "command_timeout",
            f"{shlex.join(argv)[:200]} did not end in {timeout:g} seconds.",
            "See what it waits for: a pool ('zpool status'), a disk, the network.",
            command=list(argv),
            stderr=(expired.stderr or b"")[-_TAIL:].decode(errors="replace"),
        ) from None
    return Completed(tuple(argv), done.returncode, done.stdout, done.stderr)


def run_over_ssh(ssh: t.Sequence[str]) -> Run:
    """Runs commands on another machine.

    ssh: the command up to the name of the machine, such as ``["ssh", "-o", "BatchMode=yes", "root@pve2"]``. Each
    word of a command reaches the other machine's shell quoted.
    """

    def run(argv: t.Sequence[str], stdin: str | None = None, timeout: float | None = None) -> Completed:
        done = run_here([*ssh, f"LC_ALL=C PATH=$PATH:{_PATH} {shlex.join(argv)}"], stdin, timeout)
        if done.rc == 255:
            raise Failure(
                "unreachable",
                f"ssh to {ssh[-1]} failed: {done.stderr.strip()[-300:]}",
                "The key of this node's root has to be accepted there, and its host key to be known.",
                host=ssh[-1],
            )
        return Completed(tuple(argv), done.rc, done.stdout, done.stderr)

    return run
