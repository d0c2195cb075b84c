# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures for all wire tests."""

from __future__ import annotations

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api import tasks
from ansible_collections.lxcri.proxmox.tests.simulator.plugin import certificates, cluster, simulator
from ansible_collections.lxcri.proxmox.tests.wire.hub import hub
from ansible_collections.lxcri.proxmox.tests.wire.support import impatient, lxc

__all__ = ["certificates", "cluster", "hub", "impatient", "lxc", "simulator"]


@pytest.fixture(autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks of the simulator take some hundredths of a second."""
    monkeypatch.setattr(tasks, "FIRST_INTERVAL", 0.02)
