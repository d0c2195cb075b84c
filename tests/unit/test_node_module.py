# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a module that runs on a node ends."""

from __future__ import annotations

import errno
import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.module import run_module


class EndedError(Exception):
    """The module is over."""


class Module:
    """What a module says at its end."""

    def __init__(self) -> None:
        self.said: dict[str, t.Any] = {}

    def fail_json(self, **said: t.Any) -> None:
        self.said = said
        raise EndedError


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (Failure("locked", "It is locked.", "Wait."), "locked", "It is locked. Wait."),
        (
            OSError(errno.EROFS, "Read-only file system", "/etc/pve/x"),
            "os_error",
            "Read-only file system: '/etc/pve/x'",
        ),
    ],
)
def test_failures_are_structured(error: Exception, code: str, words: str) -> None:
    """Also those of the machine."""
    module = Module()

    def work() -> dict[str, t.Any]:
        raise error

    with pytest.raises(EndedError):
        run_module(t.cast("t.Any", module), work)
    assert module.said["failure"]["code"] == code
    assert words in module.said["msg"]
