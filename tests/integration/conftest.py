# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures for all integration tests."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.tests.integration.playbook import Ansible
from ansible_collections.lxcri.proxmox.tests.simulator.plugin import TIME_SCALE, Process


@pytest.fixture
def ansible(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Ansible]:
    """Playbooks against a cluster of this test's own; a parameter is a list of options for serve.py."""
    directory = tmp_path_factory.mktemp("ansible")
    defaults = ["--time-scale", str(TIME_SCALE)]
    process = Process(directory / "simulator", *defaults, *getattr(request, "param", []))
    try:
        yield Ansible(process, directory)
    finally:
        process.stop()
