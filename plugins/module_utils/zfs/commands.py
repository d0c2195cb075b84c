# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs commands of the node, and reads what ``zfs`` says when it refuses."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import typing as t
from dataclasses import dataclass

from ..api.errors import Failure

# Messages are read, so they have to be the English ones.
_ENVIRONMENT = {"LC_ALL": "C", "LANGUAGE": "C"}
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
        Failure: ``command_missing``, ``command_timeout`` (the command was killed).
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
            "Run the module on the node that has the containers.",
            command=argv[0],
        ) from None
    except subprocess.TimeoutExpired:
        raise Failure(
            "command_timeout",
            f"{shlex.join(argv)[:200]} did not end in {timeout:g} seconds.",
            "See whether the pool is healthy with 'zpool status'.",
            command=list(argv),
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


# (code, pattern, hint): the first match decides.
_ZFS_SENTENCES: tuple[tuple[str, str, str], ...] = (
    ("pool_full", r"out of space|no space left", "Free space on the pool, or enlarge it, and run again."),
    (
        "has_clones",
        r"has dependent clones|has children",
        "Remove or promote the clones first; 'zfs get -r clones' names them.",
    ),
    (
        "would_lose_data",
        r"more recent (snapshots|bookmarks)|newer (snapshot|bookmark)",
        "Somebody took a snapshot meanwhile; run again to see what would be lost.",
    ),
    (
        "dataset_busy",
        r"is busy|target is busy",
        "Something uses it: a process with a file open in it ('fuser -vm MOUNTPOINT'), a hold, or a receive.",
    ),
    (
        "pool_unavailable",
        r"no such pool|pool I/O is currently suspended|pool '[^']*' does not exist",
        "Import the pool ('zpool import'), or see 'zpool status' for what is wrong with it.",
    ),
    (
        "key_unavailable",
        r"key (is )?not loaded|key is not available|encryption key",
        "Load the key with 'zfs load-key' and run again.",
    ),
    ("name_taken", r"already exists", "Choose another name."),
    ("volume_missing", r"does not exist|dataset not found", "See 'zfs list' for what is there."),
    ("permission_denied", r"permission denied|must be superuser|Operation not permitted", "Run as root (become)."),
    ("zfs_missing", r"The ZFS modules (are not|cannot be)|/dev/zfs", "Load the ZFS module ('modprobe zfs')."),
)


def zfs_failure(done: Completed, message: str = "", **details: t.Any) -> Failure:
    """What a refusal of ``zfs`` means, with the dataset that it names.

    message: what was being done, as the beginning of a sentence.
    """
    text = done.stderr.strip() or done.stdout.strip()
    code, hint = "zfs_failed", "The message is that of the zfs command."
    for candidate, pattern, advice in _ZFS_SENTENCES:
        if re.search(pattern, text, re.IGNORECASE):
            code, hint = candidate, advice
            break
    named = re.search(r"'([A-Za-z0-9][\w.:/ %@#-]*)'", text)
    if named:
        details.setdefault("dataset", named.group(1))
    begin = message or f"'{shlex.join(done.argv[:3])} …' failed"
    return Failure(code, f"{begin}: {' '.join(text.split())[-500:]}", hint, **details)
