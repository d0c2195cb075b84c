# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures for the tests that need the emulated machine."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.tests.lab.machine import Machine
from ansible_collections.lxcri.proxmox.tests.lab.plugin import machine, session_machine

__all__ = ["machine", "session_machine"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests with a time limit of their own take longest. They come first, so that both machines end together."""
    items.sort(key=_limit, reverse=True)


def _limit(item: pytest.Item) -> float:
    mark = item.get_closest_marker("timeout")
    return mark.args[0] if mark else 0.0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> t.Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell what the machine did when a test failed in it."""
    report = yield
    used = getattr(item, "funcargs", {}).get("machine")
    if report.failed and isinstance(used, Machine):
        report.sections.append(("the machine", used.state()))
    return report
