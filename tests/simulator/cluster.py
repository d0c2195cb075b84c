# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A three-node Proxmox VE 9.2 cluster for tests: fakepve, held closer to what a real one was recorded to answer."""

from __future__ import annotations

import typing as t

from .access import Access
from .configuration import Container
from .migrations import Migrations
from .objects import Objects
from .resources import Resources
from .templates import Templates
from .wire import Wire

GIB = 2**30
NODES = ("pve1", "pve2", "pve3")
TEMPLATES = {
    "debian-13-standard_13.1-2_amd64.tar.zst": 126 * 2**20,
    "alpine-3.22-default_20250617_amd64.tar.xz": 3 * 2**20,
}
USER, PASSWORD = "root@pam", "secret"
TOKEN_ID, TOKEN_SECRET = "root@pam!demo", "00000000-0000-0000-0000-000000000001"


class Cluster(Migrations, Objects, Wire, Resources, Templates, Access):
    """The cluster with what a fresh installation of three nodes has."""

    def __init__(self, *args: t.Any, nodes: t.Sequence[str] = NODES, **options: t.Any) -> None:
        super().__init__(*args, **options)
        self.version, self.release_version = "9.2.11", "9.2"
        self.time_scale = 1.0
        # How long tasks take.
        self.ct_secs.update(create=3, clone=2, destroy=1, snapshot=1, delsnapshot=1, rollback=1, template=1, resize=0.5)
        self.ct_secs.update(migrate=3, move=2, backup=2)
        self.nodes.clear()
        for node in nodes:
            self.add_node(node)
        self.storages.clear()
        self.storages["local"] = {
            "type": "dir",
            "path": "/var/lib/vz",
            "content": "vztmpl,backup,iso,snippets",
            "active": 1,
            "files": set(),
            "avail": 200 * GIB,
        }
        for name, pool in (("local-zfs", "rpool/data"), ("tank", "tank")):
            self.storages[name] = {
                "type": "zfspool",
                "pool": pool,
                "sparse": 1,
                "content": "rootdir" if name == "tank" else "rootdir,images",
                "active": 1,
                "files": set(),
                "total": 900 * GIB,
            }
        for name, size in TEMPLATES.items():
            self.store_file("local", name, size, "vztmpl")
        self.pools["prod"] = set()
        self.add_token(TOKEN_ID, TOKEN_SECRET)

    def add_ct(self, *args: t.Any, **options: t.Any) -> t.Any:
        """A container that has been there for long."""
        if options.get("defaults", True):
            rootfs = f"local-zfs:subvol-{args[0] if args else options['vmid']}-disk-0,size=8G"
            options["config"] = {"rootfs": rootfs, **(options.get("config") or {})}
        ct = Container(*args, **options)
        if self.guest(ct.vmid) is not None:
            raise ValueError(f"there is a guest {ct.vmid}")
        ct.cluster, ct.start_secs = self, self.start_secs
        self.cts.append(ct)
        self.nodes.setdefault(ct.node, {"online": True})
        if ct.pool:
            self._pool_join(ct.pool, ct.vmid)
        if ct.status == "running":
            ct.pid = next(self._ct_pids)
        if ct.template:
            # Its volumes are those that linked clones need.
            for key, _mount in ct.volumes():
                ct.config[key] = ct.config[key].replace(":subvol-", ":basevol-")
        self.adopt_volumes(ct)
        self.settle(ct)
        return ct

    def add_containers(self, containers: t.Iterable[dict[str, t.Any]]) -> None:
        """Many at once, each as the arguments of add_ct."""
        for container in containers:
            self.add_ct(**container)

    def table(self) -> list[dict[str, t.Any]]:
        """The containers, as a person wants to see them."""
        return [
            {
                "vmid": ct.vmid,
                "node": ct.node,
                "hostname": ct.name,
                "status": ct.status,
                "tags": ct.config.get("tags", ""),
                "template": ct.template,
                "lock": ct.lock,
            }
            for ct in sorted(self.cts, key=lambda ct: ct.vmid)
        ]

    def clear_failures(self) -> None:
        """Forget every fail()."""
        self.failures.clear()

    def set_storage(self, name: str, **values: t.Any) -> None:
        """Change what a storage is: active=0, avail=10, content=..."""
        self.storages[name].update(values)

    def set_option(self, name: str, value: t.Any) -> None:
        """Change a setting, such as lag or latency."""
        setattr(self, name, value)
