# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The privileges that the steps of a plan need. Pure functions, no I/O.

The rules are those of ``check_ct_modify_config_perm`` and ``check_bridge_access`` of PVE/LXC.pm, and of the calls in
PVE/API2/LXC.pm.
"""

from __future__ import annotations

import typing as t

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.access import Need, root_only
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import Actual, is_volume_key, mounts_of
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import Declared

# PUT config asks for any of these before it looks at what is changed ($vm_config_perm_list of PVE/API2/LXC/Config.pm).
CONFIG_PRIVILEGES = ("VM.Config.Disk", "VM.Config.CPU", "VM.Config.Memory", "VM.Config.Network", "VM.Config.Options")


def vm_paths(vmid: int | None, pool: str | None) -> tuple[str, ...]:
    """Where a container's privilege may come from (``check_vm_perm`` of PVE/RPCEnvironment.pm)."""
    return (f"/vms/{vmid}" if vmid else "/vms", *((f"/pool/{pool}",) if pool else ()))


def space_need(storage: str) -> Need:
    """The privilege to allocate a volume."""
    return Need((f"/storage/{storage}",), ("Datastore.AllocateSpace",), f"allocate a volume on {storage}")


def pool_need(pool: str) -> Need:
    """Who may not see the pool sees the container in none, in every run (``resources`` of PVE/API2/Cluster.pm)."""
    return Need((f"/pool/{pool}",), ("Pool.Audit",), "see that the container is in the pool")


def creation_needs(declared: Declared, config: t.Mapping[str, t.Any]) -> list[Need]:
    """The privileges to create a container from a template (``create_vm`` of PVE/API2/LXC.pm).

    config: the keys that are sent: those that are declared, and the owner's tag.
    """
    paths = vm_paths(declared.vmid, declared.pool)
    needs = [Need(paths, ("VM.Allocate",), "create the container")]
    if declared.pool:
        needs.append(pool_need(declared.pool))
    if config.get("unprivileged") is False:
        needs.append(Need(("/",), ("Sys.Modify",), "create a privileged container"))
    if declared.template and not declared.template.startswith("/"):
        store = f"/storage/{properties.volume_of(declared.template).storage}"
        # PVE::Storage::check_volume_access for a template
        wanted = ("Datastore.AllocateSpace", "Datastore.Audit", "Datastore.Allocate")
        needs.append(Need((store,), wanted, "read the template"))
    storages = {declared.storage} if "rootfs" not in config else set()
    for key, normal in config.items():
        if properties.is_mount(key) and properties.volume_of(normal["volume"]).kind == "volume":
            storages.add(properties.volume_of(normal["volume"]).storage or declared.storage)
    needs += [space_need(storage) for storage in sorted(filter(None, storages))]
    privileged = config.get("unprivileged") is False
    for key, normal in config.items():
        # An empty value is not sent.
        if key != "unprivileged" and properties.encode(key, normal) is not None:
            needs += key_needs(key, None, normal, paths, privileged)
    return needs


def copy_needs(source: Actual, storage: str | None) -> list[Need]:
    """The privileges for the volumes and bridges of a copy."""
    volumes = [properties.volume_of(str(properties.read(key, text)["volume"])) for key, text in mounts_of(source)]
    needs = [space_need(name) for name in sorted({storage or volume.storage or "" for volume in volumes}) if name]
    for key, text in source.current.items():
        if key.startswith("net"):
            needs += bridge_needs(None, properties.read(key, text))
    return needs


def restore_needs(declared: Declared, storage: str, source: Actual | None, over: Actual | None) -> list[Need]:
    """The privileges to restore a container (``create_vm`` of PVE/API2/LXC.pm).

    storage: for the volumes. source: the configuration in the backup; None when it could not be read.
    over: the container that is overwritten.
    """
    enough = ("VM.Allocate", "VM.Backup") if over else ("VM.Allocate",)
    needs = [Need(vm_paths(declared.vmid, declared.pool), enough, "restore the container"), space_need(storage)]
    if source is None:
        return needs
    for key, text in source.current.items():
        if key.startswith("net"):
            needs += bridge_needs(None, properties.read(key, text))
    for key, text in mounts_of(source):
        volume = properties.volume_of(str(properties.read(key, text)["volume"]))
        if volume.kind != "volume":
            needs.append(root_only(f"restore {key}, which mounts a {volume.kind}"))
    if not _is_unprivileged(source) and (over is None or _is_unprivileged(over)):
        needs.append(Need(("/",), ("Sys.Modify",), "restore a privileged container"))
    return needs


def _is_unprivileged(actual: Actual) -> bool:
    return bool(int(actual.config.get("unprivileged") or 0))


def key_needs(key: str, before: t.Any, after: t.Any, paths: tuple[str, ...], privileged: bool) -> list[Need]:
    """The privileges for changing a key (``check_ct_modify_config_perm`` of PVE/LXC.pm)."""
    if key in ("cores", "cpuunits", "cpulimit"):
        return [Need(paths, ("VM.Config.CPU",), f"change {key}")]
    if key in ("memory", "swap"):
        return [Need(paths, ("VM.Config.Memory",), f"change {key}")]
    if key in ("nameserver", "searchdomain", "hostname"):
        return [Need(paths, ("VM.Config.Network",), f"change {key}")]
    if key == "hookscript":
        return [root_only("change the hookscript")]
    if key.startswith("dev"):
        return [root_only(f"pass the device {key} through")]
    if key == "features":
        return _feature_needs(before, after, paths, privileged)
    if key.startswith("net"):
        return [Need(paths, ("VM.Config.Network",), f"change {key}"), *bridge_needs(before, after)]
    if is_volume_key(key):
        return [Need(paths, ("VM.Config.Disk",), f"change {key}"), *_volume_needs(key, after)]
    return [Need(paths, ("VM.Config.Options",), f"change {key}")]


def _feature_needs(before: t.Any, after: t.Any, paths: tuple[str, ...], privileged: bool) -> list[Need]:
    if privileged:
        return [root_only("change the features of a privileged container")]
    old, new = before or {}, after or {}
    differing = {name for name in {*old, *new} if old.get(name) != new.get(name)}
    needs = []
    if differing - {"nesting"}:
        needs.append(root_only("change features other than nesting"))
    if "nesting" in differing:
        needs.append(Need(paths, ("VM.Allocate",), "change the feature nesting"))
    return needs


def bridge_needs(before: t.Any, after: t.Any) -> list[Need]:
    """The privileges on the bridges of a network interface before and after."""
    bridges = {value.get("bridge") for value in (before, after) if isinstance(value, dict)}
    # A bridge may be a VNet of any SDN zone, and a grant may be for the zone, or for one VLAN of the bridge. Which of
    # these counts is left to Proxmox to judge.
    return [
        Need(
            (
                f"/sdn/zones/localnetwork/{bridge}",
                f"/sdn/zones/*/{bridge}",
                f"/sdn/zones/*/{bridge}/*",
                "/sdn/zones/*",
            ),
            ("SDN.Use",),
            f"use the bridge {bridge}",
        )
        for bridge in sorted(filter(None, bridges))
    ]


def _volume_needs(key: str, after: t.Any) -> list[Need]:
    if not isinstance(after, dict):
        return []
    volume = properties.volume_of(after["volume"])
    if volume.kind != "volume":
        return [root_only(f"mount a {volume.kind} at {key}")]
    return [space_need(volume.storage)] if volume.storage and not volume.name else []
