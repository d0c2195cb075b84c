# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the module ``lxc_backup`` and shows its progress lines while it runs."""

from __future__ import annotations

from ansible_collections.lxcri.proxmox.plugins.action.lxc_fleet import ActionModule

__all__ = ["ActionModule"]
