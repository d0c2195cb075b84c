# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of the node that belong to checkpoints: configurations, records, process memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import typing as t

from ..api.errors import Failure
from ..node.files import read_text, write_private

STATE = "/var/lib/lxcri"
# What a checkpoint keeps besides the volumes.
FILES = ("config", "firewall", "record")


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
        """Keep the files of a checkpoint, and none of another one of that name; empty ones are left out."""
        for kind in FILES:
            path = os.path.join(self.directory(container, name), kind)
            if files.get(kind):
                write_private(path, files[kind])
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

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
