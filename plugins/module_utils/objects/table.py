# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of kinds. A new kind is a new row."""

from __future__ import annotations

from ansible_collections.lxcri.proxmox.plugins.module_utils.objects import rows_access, rows_data, rows_network

KINDS = {kind.name: kind for kind in (*rows_access.ROWS, *rows_data.ROWS, *rows_network.ROWS)}
