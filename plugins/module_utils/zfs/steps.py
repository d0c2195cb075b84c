# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps that a procedure has done, with their times."""

from __future__ import annotations

import time

# (name, seconds since the process began to count), in the order in which they were reached.
log: list[tuple[str, float]] = []


def reached(step: str) -> None:
    """Note that a step which changes something is done."""
    log.append((step, time.monotonic()))
