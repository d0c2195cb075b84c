# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # How many are kept. What is removed, each module says itself.
    DOCUMENTATION = r"""
options:
  keep:
    type: dict
    suboptions:
      last:
        description: How many of the newest are kept.
        type: int
      hourly:
        description: For how many hours the newest is kept.
        type: int
      daily:
        description: For how many days the newest is kept.
        type: int
      weekly:
        description: For how many weeks the newest is kept. A week begins on Monday.
        type: int
      monthly:
        description: For how many months the newest is kept.
        type: int
      yearly:
        description: For how many years the newest is kept.
        type: int
  keep_timezone:
    description:
      - The time zone whose hours and days O(keep) means, such as V(Europe/Vienna). By default that of the machine on
        which the module runs.
    type: str
"""
