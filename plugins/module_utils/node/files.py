# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of the node."""

from __future__ import annotations

import os
import tempfile

from ..api.errors import Failure


def write_private(path: str, text: str) -> None:
    """Write a file that only root reads; it is there whole or not at all, also after a loss of power.

    Raises:
        Failure: ``store_failed``.
    """
    _write(path, text, 0o600)


def write_setting(path: str, text: str) -> None:
    """Replace a file of settings whole, or not at all. Its mode and owner stay; a new one can be read by all.

    Raises:
        Failure: ``store_failed``.
    """
    try:
        there = os.stat(path)
    except OSError:
        _write(path, text, 0o644)
        return
    _write(os.path.realpath(path), text, there.st_mode & 0o7777, (there.st_uid, there.st_gid))


def _write(path: str, text: str, mode: int, owner: tuple[int, int] | None = None) -> None:
    try:
        _replace(path, text, mode, owner)
    except OSError as error:
        raise Failure(
            "store_failed",
            f"{path} cannot be written: {error.strerror}.",
            "Free space there, or run as root (become).",
            path=path,
        ) from None


def _replace(path: str, text: str, mode: int, owner: tuple[int, int] | None) -> None:
    directory = os.path.dirname(path)
    os.makedirs(directory, mode=0o700 if mode == 0o600 else 0o755, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=directory, prefix=".new-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            os.fchmod(handle, mode)
            if owner:
                os.fchown(handle, *owner)
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
    """The text of a file as it is; None when there is none."""
    try:
        # A carriage return may not become an end of line. In N.conf it is a part of a value that a user of the API
        # chose; what follows it would be a line of its own as soon as the text is written back.
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
