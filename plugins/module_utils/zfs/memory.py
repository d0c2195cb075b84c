# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The memory of a container's processes, by CRIU. Experimental: it is paired with the snapshots of the disk."""

from __future__ import annotations

import os
import re
import shutil
import typing as t

from ..api.errors import Failure
from ..node.commands import Run
from ..node.files import read_text
from .host import Container

# How long containers stand still at most while memory is saved, in seconds.
LIMIT = 600.0


def directory_of(files: str) -> str:
    """Where the dump of a checkpoint is.

    files: the directory of the checkpoint's files.
    """
    return os.path.join(files, "memory")


def require(run: Run, container: Container, method: str) -> None:
    """See that CRIU can dump a container, before anything is touched.

    Raises:
        Failure: ``memory_unsupported``, with all reasons.
    """
    reasons: list[str] = []
    if method != "zfs":
        reasons.append("the volumes are not all on ZFS")
    if not container.running:
        reasons.append("it does not run")
    else:
        reasons += _against_processes(run, container.id)
    for tool, check in (("lxc-checkpoint", ["--help"]), ("criu", ["check"])):
        try:
            done = run([tool, *check], timeout=60)
        except Failure:
            reasons.append(f"there is no {tool} on this machine")
            continue
        if tool == "criu" and done.rc:
            reasons.append(f"'criu check' fails: {done.stderr.strip()[-200:]}")
    if reasons:
        raise Failure(
            "memory_unsupported",
            f"The memory of container {container.id} cannot be saved: {'; '.join(reasons)}.",
            "Take the checkpoint without memory: true.",
            container=container.id,
            reasons=reasons,
        )


def _against_processes(run: Run, name: str) -> list[str]:
    pid = run(["lxc-info", "-n", name, "-pH"], timeout=30).stdout.strip()
    if not pid.isdigit():
        return ["its first process is not found"]
    command = (read_text(f"/proc/{pid}/comm") or "").strip()
    reasons = []
    if command == "systemd":
        reasons.append("its init is systemd, whose BPF programs CRIU cannot dump")
    config = read_text(f"/var/lib/lxc/{name}/config") or ""
    if not re.search(r"^lxc\.console\.path\s*=\s*none\s*$", config, re.MULTILINE):
        reasons.append("it has a console (needs lxc.console.path: none)")
    if not re.search(r"^lxc\.tty\.max\s*=\s*0\s*$", config, re.MULTILINE):
        reasons.append("it has terminals (needs lxc.tty.max: 0)")
    return reasons


def dump(run: Run, container: Container, files: str) -> None:
    """Write the memory of a frozen container into a directory of its own. It stays frozen.

    Raises:
        Failure: ``memory_failed``.
    """
    directory = directory_of(files)
    # Of a checkpoint of the same name, of which something can be left.
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory, mode=0o700)
    _lxc_checkpoint(run, container.id, ["-D", directory], "saved")


def restore(run: Run, container_id: str, files: str) -> None:
    """Start a stopped container from the memory that was saved.

    Raises:
        Failure: ``memory_failed``.
    """
    _lxc_checkpoint(run, container_id, ["-r", "-D", directory_of(files)], "restored")


def _lxc_checkpoint(run: Run, name: str, arguments: t.Sequence[str], what: str) -> None:
    # The monitor of a restored container keeps these streams, so that nobody must wait for their end.
    quiet = ["sh", "-c", 'exec "$0" "$@" >/dev/null 2>&1', "lxc-checkpoint"]
    done = run([*quiet, "-n", name, *arguments], timeout=LIMIT - 60)
    if done.rc:
        log = f"{arguments[-1]}/{'restore' if '-r' in arguments else 'dump'}.log"
        errors = [line for line in (read_text(log) or "").splitlines() if "Error" in line]
        raise Failure(
            "memory_failed",
            f"The memory of container {name} was not {what}: {(errors or ['lxc-checkpoint failed'])[-1][-300:]}",
            f"See {log}.",
            container=name,
            log=log,
        )
