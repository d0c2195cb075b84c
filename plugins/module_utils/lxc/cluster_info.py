# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes, storages and backups of a cluster: the work of ``pve_cluster_info``.

``GET cluster/resources`` lists nodes, storages and guests in one request. Its figures come from statistics that each
node sends about every ten seconds; without Sys.Audit or Datastore.Audit they are left out.
"""

from __future__ import annotations

import typing as t
from collections import Counter

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.parallel import in_parallel

GATHER = ("backups",)
# The volume ids of backups say of what they are: vzdump-lxc-101-… on most storages, backup/ct/101/… on a backup server.
_KINDS = (
    ("vzdump-lxc-", "lxc"),
    ("vzdump-openvz-", "lxc"),
    ("vzdump-qemu-", "qemu"),
    ("/ct/", "lxc"),
    ("/vm/", "qemu"),
)

Raw = t.Mapping[str, t.Any]


def cluster_info(client: Client, gather: t.Collection[str]) -> dict[str, t.Any]:
    """The result of the module: one request, and one for each storage whose backups are read.

    Raises:
        Failure: what ends the session with the API.
    """
    resources = client.get("cluster/resources") or []
    nodes, storages = nodes_of(resources), storages_of(resources)
    result: dict[str, t.Any] = {"changed": False, "nodes": nodes, "storages": storages, "warnings": []}
    if "backups" in gather:
        online = {node["node"] for node in nodes if node["status"] != "offline"}
        result["backups"], result["warnings"] = read_backups(client, storages, online)
    return result


def nodes_of(resources: t.Iterable[Raw]) -> list[dict[str, t.Any]]:
    """The nodes, by name."""
    guests: Counter[tuple[str, str]] = Counter()
    found = []
    for raw in resources:
        if raw.get("type") in ("lxc", "qemu"):
            guests[str(raw["node"]), str(raw["type"])] += 1
        elif raw.get("type") == "node":
            found.append(raw)
    figures = ("cpu", "maxcpu", "mem", "maxmem", "disk", "maxdisk", "uptime")
    return [
        {
            "node": str(raw["node"]),
            "status": str(raw.get("status") or "unknown"),
            "maintenance": raw.get("hastate") == "maintenance",
            **{name: raw.get(name) for name in figures},
            "containers": guests[str(raw["node"]), "lxc"],
            "vms": guests[str(raw["node"]), "qemu"],
        }
        for raw in sorted(found, key=lambda raw: str(raw["node"]))
    ]


def storages_of(resources: t.Iterable[Raw]) -> list[dict[str, t.Any]]:
    """The storages on each node where they are enabled, by name and node."""
    found = [raw for raw in resources if raw.get("type") == "storage"]
    return [
        {
            "storage": str(raw["storage"]),
            "node": str(raw["node"]),
            "type": raw.get("plugintype"),
            "shared": bool(int(raw.get("shared") or 0)),
            "content": sorted(filter(None, str(raw.get("content") or "").split(","))),
            "status": str(raw.get("status") or "unknown"),
            "used": raw.get("disk"),
            "total": raw.get("maxdisk"),
        }
        for raw in sorted(found, key=lambda raw: (str(raw["storage"]), str(raw["node"])))
    ]


def read_backups(
    client: Client, storages: t.Sequence[Raw], online: t.Collection[str]
) -> tuple[list[dict[str, t.Any]], list[str]]:
    """The backups, newest first, and what could not be read. A shared storage is asked once."""
    asked: dict[tuple[str, str], str] = {}
    silent: list[str] = []
    holding = [storage for storage in storages if "backup" in storage["content"]]
    for storage in holding:
        name, node = storage["storage"], storage["node"]
        if node in online:
            asked.setdefault((name, "" if storage["shared"] else node), node)
    for storage in holding:
        key = (storage["storage"], "" if storage["shared"] else storage["node"])
        line = f"The backups on {storage['storage']} of {storage['node']} could not be read: the node is offline."
        if key not in asked and line not in silent:
            silent.append(line)

    def read(place: tuple[tuple[str, str], str]) -> list[Raw] | Failure:
        (name, _where), node = place
        try:
            return client.get(f"nodes/{node}/storage/{name}/content", content="backup") or []
        except Failure as failure:
            if failure.code in ("unreachable", "authentication_failed", "certificate_invalid"):
                raise
            return failure

    places = sorted(asked.items())
    backups = []
    for ((name, where), node), answer in zip(places, in_parallel(read, places)):
        if isinstance(answer, Failure):
            silent.append(f"The backups on {name} of {node} could not be read ({answer.code}): {answer.sentence}")
            continue
        backups += [_backup(raw, name, where or None) for raw in answer]
    return sorted(backups, key=lambda backup: (-backup["time"], backup["volid"])), silent


def _backup(raw: Raw, storage: str, node: str | None) -> dict[str, t.Any]:
    volid = str(raw["volid"])
    verification = raw.get("verification")
    return {
        "volid": volid,
        "vmid": int(raw["vmid"]) if raw.get("vmid") else None,
        "type": next((kind for sign, kind in _KINDS if sign in volid), None),
        "storage": storage,
        "node": node,
        "time": int(raw.get("ctime") or 0),
        "size": raw.get("size"),
        "notes": str(raw.get("notes") or ""),
        "protected": bool(int(raw.get("protected") or 0)),
        "verified": verification.get("state") == "ok" if isinstance(verification, dict) else None,
    }
