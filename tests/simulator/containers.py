# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers: what fakepve's differ in from those of a real node."""

from __future__ import annotations

import typing as t

from fakepve.server import FakePve


class Containers(FakePve):
    """Adds what a real node does."""

    async def _lxc_pending(self, user: str, v: dict[str, t.Any]) -> list[dict[str, t.Any]]:
        """The list has an entry with the digest, which is no option (reads-004, 123)."""
        entries: list[dict[str, t.Any]] = await super()._lxc_pending(user, v)
        return [{"key": "digest", "value": self._find_ct(v["node"], v["vmid"]).digest()}, *entries]
