# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures for the tests that need the emulated machine."""

from __future__ import annotations

from ansible_collections.lxcri.proxmox.tests.lab.plugin import machine, session_machine

__all__ = ["machine", "session_machine"]
