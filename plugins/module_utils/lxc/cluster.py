# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding containers: by vmid, by hostname, by tag.

``/cluster/resources`` is one cheap request, and complete as to which ids exist and where. Its names and states lag
about ten seconds behind: a new container has no name there, and one just started may still be stopped. What it does
not know is read from the nodes.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, replace

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.parallel import in_parallel
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties


@dataclass(frozen=True)
class Guest:
    """A container or VM as the cluster lists it.

    kind: ``lxc`` or ``qemu``.
    name: None while the cluster does not know it yet.
    lock: of the operation that is under way, such as ``create``.
    ha: the state of its resource in HA, ``ignored`` among them; None when it is none.
    current: whether name and status were read from the node.
    """

    vmid: int
    kind: str
    node: str
    name: str | None = None
    status: str = "unknown"
    template: bool = False
    pool: str | None = None
    tags: tuple[str, ...] = ()
    lock: str | None = None
    ha: str | None = None
    current: bool = False

    @property
    def current_status(self) -> str | None:
        """The status, when it was read from the node."""
        return self.status if self.current and self.status != "unknown" else None

    @property
    def is_being_made(self) -> bool:
        """True while its creation has not come to the end, where the configuration with the name is written."""
        return self.kind == "lxc" and self.lock == "create" and self.name in (None, f"CT{self.vmid}")


class Cluster:
    """The guests and nodes of a cluster, read once and as little as needed."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._guests: dict[int, Guest] | None = None
        self._names: dict[str | None, list[Guest]] | None = None
        self._nodes: dict[str, bool] = {}
        self._load: dict[str, float] = {}
        self._in_maintenance: set[str] = set()
        self._listed: set[str] = set()

    def _read(self) -> dict[int, Guest]:
        if self._guests is None:
            self._guests = {}
            for entry in self._client.get("cluster/resources") or []:
                kind = entry.get("type")
                if kind == "node":
                    # A node that is up is "unknown" while it has no statistics (extract_node_stats, PVE/API2Tools.pm).
                    self._nodes[str(entry["node"])] = entry.get("status") != "offline"
                    if entry.get("hastate") == "maintenance":
                        self._in_maintenance.add(str(entry["node"]))
                    self._load[str(entry["node"])] = _share(entry.get("mem"), entry.get("maxmem"))
                elif kind in ("lxc", "qemu"):
                    guest = _guest(entry)
                    self._guests[guest.vmid] = guest
        return self._guests

    @property
    def guests(self) -> list[Guest]:
        """All guests that the user or token may see, by vmid."""
        return sorted(self._read().values(), key=lambda guest: guest.vmid)

    @property
    def online_nodes(self) -> list[str]:
        """The nodes that are up."""
        self._read()
        return sorted(node for node, online in self._nodes.items() if online)

    @property
    def placement_nodes(self) -> list[str]:
        """The nodes for new containers: those that are up and not in the maintenance mode of the HA manager."""
        return [node for node in self.online_nodes if node not in self._in_maintenance]

    def memory_share(self, node: str) -> float:
        """The share of a node's memory that is in use, 0 to 1."""
        self._read()
        return self._load.get(node, 0.0)

    def guest(self, vmid: int) -> Guest | None:
        """A guest by its id."""
        return self._read().get(vmid)

    def container(self, vmid: int) -> Guest | None:
        """A container by its id.

        Raises:
            Failure: ``vmid_in_use`` when the id is a VM's.
        """
        guest = self.guest(vmid)
        if guest is not None and guest.kind != "lxc":
            raise Failure(
                "vmid_in_use",
                f"{vmid} is a virtual machine ({guest.name or 'without a name'} on {guest.node}), not a container.",
                "Choose another vmid.",
                vmid=vmid,
            )
        return guest

    def refresh(self, nodes: t.Iterable[str], again: bool = False) -> None:
        """Read the names and states of the containers on some nodes where they are current (one request each).

        again: also from nodes that were read before.
        """
        if again:
            self._listed.difference_update(nodes := list(nodes))
        fresh = [node for node in dict.fromkeys(nodes) if node not in self._listed and self._nodes.get(node, True)]
        answers = in_parallel(lambda node: self._client.get(f"nodes/{node}/lxc") or [], fresh)
        guests = self._read()
        for node, entries in zip(fresh, answers):
            self._listed.add(node)
            for entry in entries:
                vmid = int(entry["vmid"])
                known = guests.get(vmid) or Guest(vmid, "lxc", node)
                read = _guest({**entry, "type": "lxc", "node": node})
                guests[vmid] = replace(read, pool=known.pool, ha=known.ha, current=True, name=read.name or known.name)
        self._names = None

    def by_hostname(self, hostname: str, exhaustive: bool) -> Guest | None:
        """The one container with a hostname, or None.

        exhaustive: when it is not found, ask the nodes as well, whose names are current. Without it only the
            containers that have no name yet are looked at.

        Raises:
            Failure: ``ambiguous_hostname``; ``node_offline`` when an unnamed container cannot be asked for its name.
        """
        self.name_the_nameless()
        found = self._named(hostname)
        if len(found) > 1:
            # The cluster's list may still have the name for a container that has given it up.
            self.refresh(guest.node for guest in found if not guest.current)
            found = self._named(hostname)
        if not found and exhaustive:
            self.refresh(self.online_nodes)
            found = self._named(hostname)
        if len(found) > 1:
            vmids = [guest.vmid for guest in found]
            raise Failure(
                "ambiguous_hostname",
                f"{len(found)} containers have the hostname {hostname}: {', '.join(map(str, vmids))}.",
                "Give the vmid.",
                hostname=hostname,
                vmids=vmids,
            )
        if not found:
            self._refuse_unknown_names(hostname)
        return found[0] if found else None

    def refuse_offline(self, guest: Guest) -> None:
        """Refuse a guest whose node is known to be down, of which nothing can be read.

        Raises:
            Failure: ``node_offline``.
        """
        if not self._nodes.get(guest.node, True):
            raise Failure(
                "node_offline",
                f"{guest.name or guest.vmid} is on {guest.node}, which is offline.",
                "Bring the node back.",
                vmid=guest.vmid,
                nodes=[guest.node],
            )

    def require_online(self, node: str) -> None:
        """See that a node, on which something is to be, is there and not known to be down.

        Raises:
            Failure: ``node_unknown``, ``node_offline``.
        """
        self._read()
        if self._nodes and node not in self._nodes:
            raise unknown_node(node, self._nodes)
        if not self._nodes.get(node, True):
            raise Failure(
                "node_offline", f"{node} is offline.", "Bring the node back, or choose another one.", nodes=[node]
            )

    def _named(self, hostname: str | None) -> list[Guest]:
        """The containers of one name; None for those that have none yet."""
        if self._names is None:
            names: dict[str | None, list[Guest]] = {}
            for guest in self.guests:
                if guest.kind == "lxc":
                    names.setdefault(guest.name, []).append(guest)
            self._names = names
        return self._names.get(hostname, [])

    def name_the_nameless(self) -> None:
        """Ask the nodes for the containers that the cluster does not name yet: they have just been made."""
        self.refresh(guest.node for guest in self._named(None) if not guest.current)

    def _refuse_unknown_names(self, hostname: str) -> None:
        unknown = [guest for guest in self._named(None) if not self._nodes.get(guest.node, True)]
        if unknown:
            nodes = sorted({guest.node for guest in unknown})
            raise Failure(
                "node_offline",
                f"Whether {hostname} exists cannot be told: {len(unknown)} containers without a known name are on "
                f"{', '.join(nodes)}, which is offline.",
                "Bring the node back, or give the vmid.",
                nodes=nodes,
            )


def unknown_node(node: str, known: t.Iterable[str]) -> Failure:
    """A node that is not of the cluster."""
    return Failure(
        "node_unknown",
        f"The cluster has no node {node}; there are {', '.join(sorted(known))}.",
        "Check the name of the node.",
        node=node,
    )


def _guest(entry: t.Mapping[str, t.Any]) -> Guest:
    return Guest(
        vmid=int(entry["vmid"]),
        kind=str(entry["type"]),
        node=str(entry["node"]),
        name=str(entry["name"]) if entry.get("name") else None,
        status=str(entry.get("status") or "unknown"),
        template=bool(int(entry.get("template") or 0)),
        pool=entry.get("pool") or None,
        tags=properties.read("tags", entry.get("tags")) or (),
        lock=entry.get("lock") or None,
        ha=entry.get("hastate") or None,
    )


def _share(used: t.Any, total: t.Any) -> float:
    return float(used or 0) / float(total) if total else 0.0
