# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where containers can go: what keeps one on its node, what another node lacks, and which node is best. Pure.

The rules are those of ``prepare`` and ``phase1`` of PVE/LXC/Migrate.pm, which Proxmox applies inside the task of a
migration, some of them after it has shut the container down.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties

# Local storages whose volumes Proxmox copies to another node, and those of them that copy snapshots as well.
COPIED = ("dir", "zfspool", "lvmthin", "lvm", "btrfs")
COPIED_WITH_SNAPSHOTS = ("zfspool", "btrfs")
# A volume that is based on another one: basevol-100-disk-0/subvol-101-disk-0, 100/base-100-disk-0.raw/101/vm-101-…
_LINKED = re.compile(r"(?P<base>(?:.*/)?base(?:vol)?-\d+-[^/]+)/")
# The tags of a workload and of one replica of a pod (lxc/workload.py): lxcri.web, lxcri.shop.1.
_WORKLOAD = re.compile(r"[^.]+\.[^.]+")
_POD = re.compile(r"[^.]+\.[^.]+\.\d+")
# Raw lines that bring something of the node into the container.
_RAW_MOUNTS = ("lxc.mount", "lxc.mount.entry", "lxc.mount.fstab")

Raw = t.Mapping[str, t.Any]


@dataclass(frozen=True)
class Node:
    """A node. Memory in bytes, 0 where the user or token may not see it."""

    name: str
    online: bool
    used: int = 0
    memory: int = 0
    maintenance: bool = False


@dataclass(frozen=True)
class Store:
    """A storage.

    free: bytes on each node that has it; None where its node does not tell.
    """

    name: str
    kind: str
    shared: bool
    holds_containers: bool
    free: t.Mapping[str, int | None]


@dataclass
class Landscape:
    """What a cluster has for containers.

    guests: how many guests are on each node.
    peers: how many containers with each workload's tag are on each node.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    stores: dict[str, Store] = field(default_factory=dict)
    guests: dict[str, int] = field(default_factory=dict)
    peers: dict[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True)
class Volume:
    """A volume of a container. size: bytes, 0 when it is not known."""

    key: str
    storage: str
    name: str
    size: int = 0


@dataclass(frozen=True)
class Unit:
    """Containers that go to the same node.

    vmids: their ids.
    weight: bytes of memory that they may use while they run.
    candidates: the nodes where they can be, and whether there is room for their volumes.
    workloads: the tags of their workloads.
    """

    vmids: tuple[int, ...]
    weight: int
    candidates: t.Mapping[str, bool]
    workloads: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------------- what there is


def landscape_of(entries: t.Iterable[Raw]) -> Landscape:
    """What ``GET cluster/resources`` says of nodes, storages and guests.

    It has an entry for each storage on each node where it is enabled, and none that the user or token may not see.
    """
    landscape = Landscape()
    for raw in entries:
        kind, node = raw.get("type"), str(raw.get("node"))
        if kind == "node":
            landscape.nodes[node] = Node(
                node,
                raw.get("status") != "offline",
                int(raw.get("mem") or 0),
                int(raw.get("maxmem") or 0),
                raw.get("hastate") == "maintenance",
            )
        elif kind == "storage":
            _add_store(landscape, node, raw)
        elif kind in ("lxc", "qemu"):
            landscape.guests[node] = landscape.guests.get(node, 0) + 1
            for tag in workloads_of(properties.read("tags", raw.get("tags")) or ()):
                landscape.peers[tag, node] = landscape.peers.get((tag, node), 0) + 1
    return landscape


def _add_store(landscape: Landscape, node: str, raw: Raw) -> None:
    name, total = str(raw["storage"]), raw.get("maxdisk")
    free = None if not total else int(total) - int(raw.get("disk") or 0)
    known = landscape.stores.get(name)
    landscape.stores[name] = Store(
        name,
        str(raw.get("plugintype")),
        bool(int(raw.get("shared") or 0)),
        "rootdir" in str(raw.get("content") or "").split(","),
        {**(known.free if known else {}), node: free},
    )


def workloads_of(tags: t.Iterable[str]) -> tuple[str, ...]:
    """The tags that mark a workload: an owner, a dot and a name, see the role ``workload``."""
    return tuple(tag for tag in tags if _WORKLOAD.fullmatch(tag))


def pod_of(tags: t.Iterable[str]) -> str | None:
    """The tag that marks the containers of one pod, which are always on the same node; None outside of pods."""
    return next((tag for tag in tags if _POD.fullmatch(tag)), None)


def volumes_of(config: Raw) -> list[Volume]:
    """The volumes of a container, with those that it does not use; a migration takes all of them along."""
    found = []
    for key in sorted(config, key=properties.order_of):
        text = str(config[key])
        if key.startswith("unused"):
            volume, size = properties.volume_of(text), 0
        elif properties.is_mount(key):
            normal = _subs(key, text)
            volume, size = properties.volume_of(str(normal.get("volume"))), int(normal.get("size") or 0)
        else:
            continue
        if volume.storage is not None:
            found.append(Volume(key, volume.storage, volume.name, size))
    return found


def _subs(key: str, text: t.Any) -> t.Mapping[str, t.Any]:
    """The sub-keys of a value; none when this version of the collection cannot read it."""
    normal = properties.read(key, text)
    return normal if isinstance(normal, dict) else {}


def base_of(volume: Volume) -> str | None:
    """The volume on which a linked clone is based; None for one that stands alone."""
    match = _LINKED.match(volume.name)
    return match["base"] if match else None


# --------------------------------------------------------------------------------------- what stands in the way


def obstacles(
    config: Raw,
    lines: t.Iterable[t.Sequence[str]],
    landscape: Landscape,
    bases: t.Collection[tuple[str, str]],
    allow_devices: bool,
    has_snapshots: bool = False,
) -> list[str]:
    """Why a container cannot go anywhere.

    lines: the raw ``lxc.…`` lines of its configuration, key and value.
    bases: storage and name of the volumes on which other containers' volumes are based.
    allow_devices: whether devices of the node count as something that every node has.
    has_snapshots: whether it has any, see ``loses_snapshots``.
    """
    found = []
    for key in sorted(config, key=properties.order_of):
        if key.startswith("dev") and properties.key_of(key) and not allow_devices:
            found.append(f"{key} passes the device {_subs(key, config[key]).get('path')} of the node through")
        if properties.is_mount(key):
            normal = _subs(key, config[key])
            mounted = properties.volume_of(str(normal.get("volume")))
            if mounted.kind != "volume" and not normal.get("shared"):
                what = "directory" if mounted.kind == "bind" else "device"
                found.append(f"{key} mounts the {what} {mounted.name} of the node")
    if not allow_devices:
        found += [f"the line {key}: {value} mounts something of the node" for key, value in lines if key in _RAW_MOUNTS]
    for volume in volumes_of(config):
        store = landscape.stores.get(volume.storage)
        if store is not None:
            found += _unmovable(volume, store, has_snapshots, bases)
    return found


def loses_snapshots(config: Raw, landscape: Landscape) -> bool:
    """Whether a container cannot go anywhere when it has snapshots."""
    stores = [landscape.stores.get(volume.storage) for volume in volumes_of(config)]
    return any(store and not store.shared and store.kind not in COPIED_WITH_SNAPSHOTS for store in stores)


def _unmovable(
    volume: Volume, store: Store, has_snapshots: bool, bases: t.Collection[tuple[str, str]]
) -> t.Iterator[str]:
    if not store.holds_containers:
        yield f"the storage {store.name} of {volume.key} has no containers among its content types"
    if store.shared:
        return
    if store.kind not in COPIED:
        yield f"{volume.key} is on {store.name}, and Proxmox copies no volumes of the type {store.kind}"
    elif has_snapshots and store.kind not in COPIED_WITH_SNAPSHOTS:
        yield f"{volume.key} is on {store.name}, and Proxmox copies no snapshots of the type {store.kind}"
    base = base_of(volume)
    if base:
        yield f"{volume.key} is a linked clone of {base}"
    if (volume.storage, volume.name) in bases:
        yield f"{volume.key} is what linked clones are based on"


def lacks(
    config: Raw,
    node: str,
    landscape: Landscape,
    mapping: t.Mapping[str, str],
    bridges: t.Mapping[str, t.Collection[str]],
    source: str,
) -> list[str]:
    """What a node lacks that a container needs.

    mapping: another storage for the volumes of a local one.
    bridges: those of each node that the user or token may see.
    source: the node where the container is.
    """
    found: dict[str, None] = {}
    for volume in volumes_of(config):
        store = landscape.stores.get(volume.storage)
        name = volume.storage if store is None or store.shared else mapping.get(volume.storage, volume.storage)
        target = landscape.stores.get(name)
        if target is None:
            # Not to be seen by this user or token, or not there at all: Proxmox decides.
            continue
        if node not in target.free:
            found[f"the storage {name} is not there"] = None
        elif not target.holds_containers:
            found[f"the storage {name} has no containers among its content types"] = None
    for key in config:
        if key.startswith("net"):
            bridge = _subs(key, config[key]).get("bridge")
            if bridge in bridges.get(source, ()) and node in bridges and bridge not in bridges[node]:
                found[f"the bridge {bridge} is not there"] = None
    return list(found)


def has_room(config: Raw, node: str, landscape: Landscape, mapping: t.Mapping[str, str]) -> bool:
    """Whether the volumes that are copied fit on the node's storages, as far as their sizes are known."""
    wanted: dict[str, int] = {}
    for volume in volumes_of(config):
        store = landscape.stores.get(volume.storage)
        if store is not None and not store.shared:
            name = mapping.get(volume.storage, volume.storage)
            wanted[name] = wanted.get(name, 0) + volume.size
    for name, size in wanted.items():
        target = landscape.stores.get(name)
        free = target.free.get(node) if target else None
        if free is not None and size > free:
            return False
    return True


# -------------------------------------------------------------------------------------------------- which is best


def place(units: t.Sequence[Unit], landscape: Landscape) -> dict[int, str]:
    """The node for each container, by its id; those that have no candidate are left out.

    In this order a node is better: its memory suffices for what the containers may use; there is room for the volumes;
    fewer containers of the same workload are there; less of its memory would be used; fewer guests are there. The
    containers that need most choose first.
    """
    used = {name: node.used for name, node in landscape.nodes.items()}
    guests, peers = dict(landscape.guests), dict(landscape.peers)
    chosen: dict[int, str] = {}
    for unit in sorted(units, key=lambda unit: (-unit.weight, unit.vmids)):
        if not unit.candidates:
            continue

        def rank(name: str, unit: Unit = unit) -> tuple[t.Any, ...]:
            node = landscape.nodes[name]
            share = (used[name] + unit.weight) / node.memory if node.memory else 0.0
            alike = sum(peers.get((tag, name), 0) for tag in unit.workloads)
            return share > 1, not unit.candidates[name], alike, round(share, 4), guests.get(name, 0), name

        best = min(unit.candidates, key=rank)
        used[best] += unit.weight
        guests[best] = guests.get(best, 0) + len(unit.vmids)
        for tag in unit.workloads:
            peers[tag, best] = peers.get((tag, best), 0) + 1
        chosen.update(dict.fromkeys(unit.vmids, best))
    return chosen
