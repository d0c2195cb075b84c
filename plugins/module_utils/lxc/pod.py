# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pods: containers that live together on one node, with a network of their own and directories that they share.

Nothing here does I/O, and nothing here is checked against a cluster. What Proxmox has for it:

- A network of their own is one more interface on a bridge or VNet that leads nowhere else. Each replica has a block of
  addresses, and a VLAN tag where that is asked for.
- Directories that several containers share are bind mounts of a directory of the node, which only root@pam with a
  password may set. A volume belongs to one container: Proxmox resizes and migrates it for that one alone.
"""

from __future__ import annotations

import ipaddress
import re
import typing as t
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Keys that no list of a container's own interfaces and mount points comes to, so that these stay where they are.
# Only net0 to net9 can be unplugged from a running container (vmconfig_hotplug_pending of PVE/LXC/Config.pm).
NETWORK_KEY = "net9"
FIRST_MOUNT = 200
LAST_MOUNT = 255
MAX_TAG = 4094

# The place of a replica's name in the path of a shared directory.
REPLICA = "{replica}"

NETWORK_OPTIONS = ("bridge", "subnet", "replica_prefix", "tag", "name")
VOLUME_OPTIONS = ("path", "mp", "members", "ro", "shared")


class PodError(Exception):
    """What is wrong with a pod; ``str()`` starts with the option and ends without a full stop."""


@dataclass(frozen=True)
class Network:
    """The network of a pod's containers among each other.

    subnet: from which each replica has a block of the length ``replica_prefix``.
    tag: the VLAN tag of the first replica; the others follow.
    """

    bridge: str
    subnet: ipaddress.IPv4Network | ipaddress.IPv6Network
    replica_prefix: int
    tag: int | None = None
    name: str = "pod0"

    def interface(self, ordinal: int, place: int) -> dict[str, t.Any]:
        """The interface of a container, by the numbers of its replica (from 1) and of itself therein (from 0).

        Raises:
            PodError: the subnet has no such address.
        """
        size = 2 ** (self.subnet.max_prefixlen - self.replica_prefix)
        first = int(self.subnet.network_address) + (ordinal - 1) * size
        if first + size - 1 > int(self.subnet.broadcast_address):
            raise PodError(f"network.subnet: {self.subnet} has no /{self.replica_prefix} for replica {ordinal}")
        # The first address of a block is the network's, the last one for all.
        if place + 1 > size - 2:
            raise PodError(f"network.replica_prefix: a /{self.replica_prefix} has no address for container {place + 1}")
        family = ipaddress.IPv4Address if self.subnet.version == 4 else ipaddress.IPv6Address
        address = family(first + 1 + place)
        interface: dict[str, t.Any] = {"id": NETWORK_KEY, "name": self.name, "bridge": self.bridge}
        interface["ip" if self.subnet.version == 4 else "ip6"] = f"{address}/{self.replica_prefix}"
        if self.tag is not None:
            if self.tag + ordinal - 1 > MAX_TAG:
                raise PodError(f"network.tag: {self.tag + ordinal - 1}, of replica {ordinal}, is more than {MAX_TAG}")
            interface["tag"] = self.tag + ordinal - 1
        return interface


@dataclass(frozen=True)
class SharedDirectory:
    """A directory of the node that containers of a pod share.

    members: the names of those that have it; empty for all of them.
    shared: whether it is the same directory on every node, such as one of CephFS.
    """

    path: str
    mp: str
    members: tuple[str, ...] = ()
    ro: bool = False
    shared: bool = False

    def mount(self, index: int, replica: str) -> dict[str, t.Any]:
        """The mount point of a container of a replica; ``index`` is its place in the list of directories."""
        mount: dict[str, t.Any] = {
            "id": f"mp{FIRST_MOUNT + index}",
            "volume": self.path.replace(REPLICA, replica),
            "mp": self.mp,
        }
        return {**mount, **{name: True for name in ("ro", "shared") if getattr(self, name)}}


def network_of(value: t.Any) -> Network | None:
    """The network that a workload declares; None without one.

    Raises:
        PodError: it cannot be had.
    """
    if value is None:
        return None
    given = _dictionary("network", value, NETWORK_OPTIONS)
    for option in ("bridge", "subnet"):
        if option not in given:
            raise PodError(f"network.{option}: it is missing")
    try:
        subnet = ipaddress.ip_network(str(given["subnet"]))
    except ValueError:
        raise PodError(f"network.subnet: {given['subnet']!r} is not a network such as 10.200.0.0/24") from None
    prefix = given.get("replica_prefix", 28 if subnet.version == 4 else 124)
    if not _is_number(prefix) or not subnet.prefixlen <= int(prefix) <= subnet.max_prefixlen - 2:
        raise PodError(
            f"network.replica_prefix: {prefix!r} is not between {subnet.prefixlen} and {subnet.max_prefixlen - 2}"
        )
    tag = given.get("tag")
    if tag is not None and (not _is_number(tag) or not 1 <= int(tag) <= MAX_TAG):
        raise PodError(f"network.tag: {tag!r} is not between 1 and {MAX_TAG}")
    name = str(given.get("name", "pod0"))
    return Network(str(given["bridge"]), subnet, int(prefix), None if tag is None else int(tag), name)


def directories_of(value: t.Any, members: Sequence[str]) -> tuple[SharedDirectory, ...]:
    """The directories that the containers of a pod share.

    members: the names of its containers.

    Raises:
        PodError: they cannot be had.
    """
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise PodError("volumes: it is not a list")
    if len(value) > LAST_MOUNT - FIRST_MOUNT + 1:
        raise PodError(f"volumes: there are more than {LAST_MOUNT - FIRST_MOUNT + 1}")
    return tuple(_directory(f"volumes[{index}]", entry, members) for index, entry in enumerate(value))


def _directory(where: str, value: t.Any, members: Sequence[str]) -> SharedDirectory:
    given = _dictionary(where, value, VOLUME_OPTIONS)
    for option in ("path", "mp"):
        path = str(given.get(option, ""))
        if not re.fullmatch(r"(/[^/,\s]+)+", path) or {".", ".."} & set(path.split("/")):
            raise PodError(f"{where}.{option}: {path!r} is not an absolute path")
    used_by = given.get("members", [])
    if not isinstance(used_by, Sequence) or isinstance(used_by, (str, bytes)):
        raise PodError(f"{where}.members: it is not a list")
    for name in used_by:
        if name not in members:
            raise PodError(f"{where}.members: {name!r} is not one of {', '.join(members)}")
    for option in ("ro", "shared"):
        if not isinstance(given.get(option, False), bool):
            raise PodError(f"{where}.{option}: {given[option]!r} is neither true nor false")
    return SharedDirectory(**{**given, "members": tuple(used_by)})


def _dictionary(where: str, value: t.Any, options: Sequence[str]) -> dict[str, t.Any]:
    if not isinstance(value, Mapping):
        raise PodError(f"{where}: it is not a dictionary")
    given = {str(option): inner for option, inner in value.items() if inner is not None}
    for option in given:
        if option not in options:
            raise PodError(f"{where}.{option}: it is not one of {', '.join(options)}")
    return given


def _is_number(value: t.Any) -> bool:
    return not isinstance(value, bool) and re.fullmatch(r"\d+", str(value)) is not None
