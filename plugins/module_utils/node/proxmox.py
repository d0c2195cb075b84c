# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a container on a node of Proxmox: how they are read, locked and replaced."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
import typing as t

from ..api.errors import Failure
from .commands import Run

PVE = "/etc/pve"
LOCK_PATTERN = "/run/lock/lxc/pve-config-{}.lock"


def top_section(config: str) -> str:
    """The part of N.conf that is in force: what stands above the first section."""
    return re.split(r"^\[", config, maxsplit=1, flags=re.MULTILINE)[0]


def values(config: str) -> dict[str, str]:
    """The keys in force. Of a key that is there twice the last one counts (parse_pct_config of PVE/LXC/Config.pm)."""
    found = re.findall(r"^([a-z][a-z_]*\d*):\s*(.+?)\s*$", top_section(config), re.MULTILINE | re.ASCII)
    return dict(found)


def sections(config: str) -> tuple[str, ...]:
    """The names of the snapshots of Proxmox in N.conf."""
    return tuple(re.findall(r"^\[([A-Za-z][A-Za-z0-9_-]+)\]\s*$", config, re.MULTILINE))


def section(config: str, name: str) -> str:
    """What N.conf says of a snapshot of Proxmox; empty when there is none of that name."""
    found = re.search(rf"^\[{re.escape(name)}\]\s*$.*?(?=^\[|\Z)", config, re.MULTILINE | re.DOTALL)
    return found.group() if found else ""


@contextlib.contextmanager
def lock_held(path: str, container: str, deadline: float) -> t.Iterator[None]:
    """Hold a lock file, as Proxmox's own operations do. A dead process holds none.

    deadline: of ``time.monotonic()``, until which others are waited for.

    Raises:
        Failure: ``lock_timeout``, ``lock_failed``.
    """
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            # As lock_file of PVE::Tools: opened for appending, never removed.
            file = stack.enter_context(open(path, "a", encoding="utf-8"))
        except OSError as error:
            raise Failure(
                "lock_failed",
                f"{path} cannot be opened: {error.strerror}.",
                "Run as root (become).",
                file=path,
                container=container,
            ) from None
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Failure(
                        "lock_timeout",
                        f"Another operation holds {path}.",
                        "Run again when it has ended.",
                        file=path,
                        container=container,
                    ) from None
                time.sleep(0.1)
        yield


def replace_config(path: str, text: str) -> None:
    """Replace a file of pmxcfs, which renames over a file but neither changes modes nor knows links.

    Raises:
        Failure: ``config_not_written``.
    """
    temporary = f"{path}.tmp.{os.getpid()}"
    try:
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        os.rename(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise Failure(
            "config_not_written",
            f"{path} cannot be written: {error.strerror}.",
            "/etc/pve is read-only while the cluster has no quorum; see 'pvecm status'.",
            path=path,
        ) from None


def running(run: Run, name: str) -> bool:
    """Whether LXC runs a container of that name (also frozen, starting or stopping)."""
    done = run(["lxc-info", "-n", name, "-sH"], timeout=30)
    return done.rc == 0 and done.stdout.strip() not in ("", "STOPPED")
