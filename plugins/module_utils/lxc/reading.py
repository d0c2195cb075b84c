# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a container."""

from __future__ import annotations

import typing as t

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.addresses import interfaces_of, reachable_addresses
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import Actual


def read_container(client: Client, node: str, vmid: int, status: str | None = None) -> Actual | None:
    """A container as it is now, or None when there is none with this id on the node.

    ``GET pending`` gives what is in force, what waits for a restart and the digest, in one request. The status costs
    another one, unless it is known already.
    """
    try:
        entries = client.get(f"nodes/{node}/lxc/{vmid}/pending") or []
    except Failure as failure:
        if failure.code == "not_found":
            return None
        raise
    current: dict[str, t.Any] = {}
    pending: dict[str, t.Any] = {}
    digest = None
    for entry in entries:
        key = str(entry["key"])
        if key == "digest":
            digest = entry.get("value")
            continue
        if "value" in entry:
            current[key] = entry["value"]
        # An entry with both a pending value and a deletion keeps the value (hot-plug of a changed mount point).
        if "pending" in entry:
            pending[key] = entry["pending"]
        elif entry.get("delete"):
            pending[key] = None
    if status is None:
        status = str(client.get(f"nodes/{node}/lxc/{vmid}/status/current").get("status"))
    return Actual(vmid, node, status, current, pending, digest)


def container_status(client: Client, node: str, vmid: int) -> dict[str, t.Any]:
    """``GET status/current``."""
    return t.cast("dict[str, t.Any]", client.get(f"nodes/{node}/lxc/{vmid}/status/current"))


def interface_addresses(client: Client, node: str, vmid: int) -> list[dict[str, str]]:
    """The addresses inside a running container by which others can reach it."""
    return reachable_addresses(interfaces_of(client.get(f"nodes/{node}/lxc/{vmid}/interfaces")))
