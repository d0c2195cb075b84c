# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets runtimes run on a machine whose control groups they do not like.

Where both versions of control groups are mounted ("hybrid"), runc works and crun refuses to. crun works in a mount
namespace of its own in which version 2 is not mounted. With version 2 alone there, a runtime works too, but the
controllers that the machine has given to version 1, such as memory, are missing.
"""

from __future__ import annotations

import shlex
import shutil
import typing as t
from pathlib import Path

from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.cgroup import is_hybrid

_ALONE = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
_V1 = "umount /sys/fs/cgroup/unified"
_V2 = "umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup"


def hybrid() -> bool:
    """Whether this machine has both versions."""
    return is_hybrid(Path("/proc/self/mountinfo").read_text("utf-8"))


def inside(argv: t.Sequence[str], version: int = 1) -> list[str]:
    """A command that runs another one, such as crun or a module, where only one version is mounted.

    On a machine that is not hybrid, the command itself.
    """
    if not hybrid():
        return list(argv)
    return [*_ALONE, f'{_V1 if version == 1 else _V2} && exec "$@"', "sh", *argv]


def shim(directory: Path, name: str, before: str = "", version: int = 1) -> Path:
    """A program that is called as a runtime and runs it where it works. before: shell commands that come first.

    Only crun needs a place of its own; with ``version=2`` runc gets one too.
    """
    real = shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    assert real
    words = inside([real], version) if name == "crun" or version == 2 else [real]
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(f'#!/bin/sh\n{before}\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path
