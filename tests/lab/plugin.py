# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine as fixtures: one for each process of pytest, as it began for each test."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.tests.lab.machine import Machine


@pytest.fixture(scope="session")
def session_machine() -> t.Iterator[Machine]:
    """A machine with the modules of the live tree."""
    machine = Machine.start()
    try:
        machine.push()
        machine.save()
        yield machine
    finally:
        machine.stop()


@pytest.fixture
def machine(session_machine: Machine) -> Machine:
    """The machine, as it began."""
    session_machine.reset()
    return session_machine
