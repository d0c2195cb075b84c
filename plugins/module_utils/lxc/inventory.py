# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests as the hosts of an inventory: their names, variables and groups. Nothing here does I/O.

A guest is what ``lxc_container_info`` returns of a container, with ``vmtype`` (``lxc`` or ``qemu``) besides.
"""

from __future__ import annotations

import typing as t
from collections import Counter

NAMINGS = ("name", "name.vmid", "vmid")
VMTYPES = ("lxc", "qemu")
PREFIX = "proxmox_"

# Variables that every host has, by the key of the guest; the rest are there when they were read.
_ALWAYS = {
    "vmid": "vmid",
    "vmtype": "vmtype",
    "name": "hostname",
    "node": "node",
    "status": "status",
    "pool": "pool",
    "tags": "tags",
    "lock": "lock",
}
_GATHERED = ("config", "interfaces", "addresses")

Guest = t.Mapping[str, t.Any]


def host_names(guests: t.Sequence[Guest], naming: str) -> dict[int, str]:
    """The name of each guest in the inventory, by vmid; no two have the same.

    naming: one of ``NAMINGS``. With ``name``, all guests that share a name get their vmid behind it, so that no name
        depends on an order.
    """
    if naming == "vmid":
        return {guest["vmid"]: str(guest["vmid"]) for guest in guests}
    plain = {guest["vmid"]: str(guest["hostname"]) for guest in guests}
    shared = Counter(plain.values())
    names = {vmid: name for vmid, name in plain.items() if naming == "name" and shared[name] == 1}
    taken = set(names.values())
    for vmid in sorted(plain.keys() - names.keys()):
        name = f"{plain[vmid]}.{vmid}"
        while name in taken:
            # A guest may really be called web.201.
            name = f"{name}.{vmid}"
        names[vmid] = name
        taken.add(name)
    return names


def host_variables(guest: Guest) -> dict[str, t.Any]:
    """The variables of a host."""
    variables = {f"{PREFIX}{name}": guest.get(key) for name, key in _ALWAYS.items()}
    owner, workload = workload_of(guest.get("tags") or ()) or (None, None)
    variables.update({f"{PREFIX}workload": workload, f"{PREFIX}workload_owner": owner})
    for key in _GATHERED:
        if guest.get(key) is not None:
            variables[f"{PREFIX}{key}"] = guest[key]
    if guest.get("addresses") is not None:
        variables[f"{PREFIX}address"] = first_address(guest["addresses"])
    return variables


def group_names(guest: Guest, prefix: str) -> list[str]:
    """The groups of a host; characters that a group cannot have are replaced by whoever makes them."""
    names = [guest["vmtype"], f"node_{guest['node']}", f"status_{guest['status']}"]
    if guest.get("pool"):
        names.append(f"pool_{guest['pool']}")
    tags = guest.get("tags") or ()
    names += [f"tag_{tag}" for tag in tags]
    marks = workload_of(tags)
    if marks:
        names.append("workload_{}_{}".format(*marks))
    return [f"{prefix}{name}" for name in names]


def workload_of(tags: t.Iterable[str]) -> tuple[str, str] | None:
    """Owner and name of the workload that a container is a replica of, by its tags (``Workload.tag``).

    A replica has the tag of the owner, and one of the owner, a dot and the workload.
    """
    held = set(tags)
    for tag in sorted(held):
        owner, dot, name = tag.partition(".")
        if dot and name and owner in held:
            return owner, name
    return None


def first_address(addresses: t.Sequence[t.Mapping[str, str]]) -> str | None:
    """The first address without its prefix length, one of IPv4 if there is one."""
    ordered = sorted(addresses, key=lambda address: address["family"] != "inet")
    return ordered[0]["address"].partition("/")[0] if ordered else None
