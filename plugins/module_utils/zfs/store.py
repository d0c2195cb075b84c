# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of the node that belong to checkpoints: configurations, records, process memory."""

from __future__ import annotations

import os
import shutil
import tempfile
import typing as t

from ..api.errors import Failure

STATE = "/var/lib/lxcri"
# What a checkpoint keeps besides the volumes.
FILES = ("config", "firewall", "record")


def write_private(path: str, text: str) -> None:
    """Write a file that only root reads; it is there whole or not at all, also after a loss of power.

    Raises:
        Failure: ``store_failed``.
    """
    try:
        _write_private(path, text)
    except OSError as error:
        raise Failure(
            "store_failed",
            f"{path} cannot be written: {error.strerror}.",
            "Free space there, or run as root (become).",
            path=path,
        ) from None


def _write_private(path: str, text: str) -> None:
    directory = os.path.dirname(path)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    # mkstemp makes it 0600.
    handle, temporary = tempfile.mkstemp(dir=directory, prefix=".new-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    directory_handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(directory_handle)
    finally:
        os.close(directory_handle)


def read_text(path: str) -> str | None:
    """The text of a file; None when there is none."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _component(name: str) -> str:
    """A name that is one component of a path.

    Raises:
        Failure: ``invalid_option``.
    """
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise Failure("invalid_option", f"{name!r} cannot be the name of a container or a checkpoint.")
    return name


class Store:
    """The files of all checkpoints, below ``checkpoints/CONTAINER/NAME``."""

    def __init__(self, state: str = STATE) -> None:
        self.state = state

    def directory(self, container: str, name: str) -> str:
        """Where the files of a checkpoint are."""
        return os.path.join(self.state, "checkpoints", _component(container), _component(name))

    def save(self, container: str, name: str, files: t.Mapping[str, str]) -> None:
        """Keep the files of a checkpoint; empty ones are left out."""
        for kind, text in files.items():
            if text:
                write_private(os.path.join(self.directory(container, name), kind), text)

    def load(self, container: str, name: str) -> dict[str, str]:
        """The files of a checkpoint that are there."""
        found = {kind: read_text(os.path.join(self.directory(container, name), kind)) for kind in FILES}
        return {kind: text for kind, text in found.items() if text is not None}

    def remove(self, container: str, name: str) -> None:
        """Remove the files of a checkpoint, if there are any."""
        shutil.rmtree(self.directory(container, name), ignore_errors=True)

    def names(self, container: str) -> list[str]:
        """The checkpoints of a container that have files."""
        try:
            return sorted(os.listdir(os.path.join(self.state, "checkpoints", _component(container))))
        except FileNotFoundError:
            return []
