# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies the archive of a backup to where the module runs.

The API gives no archives out (PVE/API2/Storage/FileRestore.pm serves files of a Proxmox Backup Server only). It tells
where they are: the file is read on the node, or over ssh.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
import typing as t
from dataclasses import dataclass

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Credentials
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.backup import Backup
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.commands import environment

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Copy:
    """An archive that is to be copied.

    source: its path on the node. target: the path of the file here. size: in bytes. here: it can be read here.
    """

    volume: str
    source: str
    target: str
    size: int
    here: bool

    @property
    def done(self) -> bool:
        """True when a file of this size is there. Its name has the second in which the backup was made."""
        return os.path.isfile(self.target) and os.path.getsize(self.target) == self.size


def plan_copy(backup: Backup, about: t.Mapping[str, t.Any], dest: str, credentials: Credentials) -> Copy:
    """How an archive can be copied.

    backup: as the storage lists it, with its size to the byte. The size in ``about`` is that of a disk image, in whole
    sectors of 512 bytes (``file_size_info`` of PVE/Storage/Plugin.pm).
    about: as ``GET content`` of the volume tells of it. dest: a file, or a directory that is there.

    Raises:
        Failure: ``not_downloadable``, ``dest_missing``.
    """
    source, volume, size = str(about.get("path") or ""), backup.volume, backup.size
    target = os.path.join(dest, os.path.basename(source)) if os.path.isdir(dest) else dest
    directory = os.path.dirname(os.path.abspath(target))
    if not os.path.isdir(directory):
        raise Failure("dest_missing", f"There is no directory {directory}.", "Make it first.", path=directory)
    here = source.startswith("/") and os.path.isfile(source) and os.path.getsize(source) == size
    copy = Copy(volume, source, target, size, here)
    if not source.startswith("/"):
        raise Failure(
            "not_downloadable",
            f"{volume} is no file: it is in a backup server.",
            "Use proxmox-backup-client, or restore it.",
            volume=volume,
        )
    if not here and not copy.done and credentials.backend != "openssh":
        raise Failure(
            "not_downloadable",
            f"{source} cannot be read where the module runs, and Proxmox's API gives no archives out.",
            "Delegate the task to the node, or set 'api_backend: openssh' with the node as api_host.",
            volume=volume,
            path=source,
        )
    return copy


def carry_out(copy: Copy, credentials: Credentials, timeout: float) -> None:
    """Copy the archive; the target is there whole or not at all.

    Raises:
        Failure: ``write_failed``, ``not_downloadable``, ``unreachable``, ``timeout``.
    """
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(os.path.abspath(copy.target)), prefix=".backup-")
        with os.fdopen(handle, "wb") as file:
            if copy.here:
                with open(copy.source, "rb") as source:
                    shutil.copyfileobj(source, file, _CHUNK)
            else:
                _over_ssh(copy, file, credentials, timeout)
            file.flush()
            os.fsync(file.fileno())
        size = os.path.getsize(temporary)
        if size != copy.size:
            raise Failure(
                "not_downloadable",
                f"Of {copy.source} {size} bytes came, expected are {copy.size}.",
                "Give the node on which the archive is as api_host.",
                volume=copy.volume,
            )
        os.replace(temporary, copy.target)
        temporary = None
    except OSError as error:
        raise Failure(
            "write_failed",
            f"{copy.target} cannot be written: {error.strerror}.",
            "Free space there, or give another 'dest'.",
            path=copy.target,
        ) from None
    finally:
        if temporary:
            os.unlink(temporary)


def _over_ssh(copy: Copy, file: t.IO[bytes], credentials: Credentials, timeout: float) -> None:
    user = credentials.user.partition("@")[0]
    command = [
        "ssh",
        "-o",
        "BatchMode=yes",
        "-l",
        user,
        "--",
        str(credentials.host),
        f"cat -- {shlex.quote(copy.source)}",
    ]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.PIPE,
            timeout=timeout,
            env=environment(),
            check=False,
        )
    except FileNotFoundError:
        raise Failure(
            "command_missing", "There is no command ssh on this machine.", "Install it there.", command="ssh"
        ) from None
    except subprocess.TimeoutExpired:
        raise Failure("timeout", f"{copy.source} was not there after {timeout:g} s.", "Raise 'timeout'.") from None
    if done.returncode:
        unreachable = done.returncode == 255
        raise Failure(
            "unreachable" if unreachable else "not_downloadable",
            f"ssh to {credentials.host} failed: {done.stderr.decode('utf-8', 'replace').strip()[-300:]}",
            "Check 'api_host', the key, and the known hosts of the user who runs this."
            if unreachable
            else "Give the node on which the archive is as api_host.",
            volume=copy.volume,
        )
