# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of a container: created, restored, cloned, started, snapshot, rolled back, made a template, destroyed."""

from __future__ import annotations

import re
import time
import typing as t

from fakepve.lxc import arch_of, format_size, ostype_of, parse_mount, random_mac, split_props
from fakepve.model import PveError, TaskError

from .backups import Backups
from .configuration import MOUNT, NEW_VOLUME, Configuration, Container
from .options import is_volume, normal, print_mount
from .tasks import afterwards, log
from .volumes import COPIED

TEMPLATE_NAME = re.compile(r"vztmpl/[^/]+\.tar(\.(gz|xz|zst|bz2))?")
# Parameters of a creation that are no options of the container.
NOT_OPTIONS = frozenset(
    [
        *("node", "vmid", "ostemplate", "storage", "password", "ssh-public-keys", "ignore-unpack-errors", "bwlimit"),
        *("start", "ha-managed", "force", "restore", "unique", "pool", "unprivileged"),
    ]
)
SNAPSHOTS = ("zfspool", "rbd", "lvmthin", "btrfs")
NOT_CLONED = ("lock", "parent", "snaptime", "snapstate", "template", "digest")
EXISTS_NOT = "Configuration file 'nodes/{0}/lxc/{1}.conf' does not exist"


class Containers(Configuration, Backups):
    """Adds what fakepve does otherwise."""

    def __init__(self, *args: t.Any, **options: t.Any) -> None:
        super().__init__(*args, **options)
        # How long a start takes, of every container that is not given another.
        self.start_secs = 1.0

    def _container(self, vmid: int, **options: t.Any) -> Container:
        ct = Container(vmid, **options)
        ct.cluster, ct.start_secs = self, self.start_secs
        self.cts.append(ct)
        return ct

    # -------------------------------------------------------------- create

    async def _lxc_create(self, user: str, v: dict[str, t.Any]) -> str:
        """tasks-001 to 006, 042 to 045, 060, errors-020 to 061, permissions-206 to 211, 226 to 235"""
        node, vmid, pool = v["node"], int(v["vmid"]), v.get("pool")
        restore, archive, storage = bool(v.get("restore")), v["ostemplate"], v.get("storage") or "local"
        self.need_quorum()
        old = self.ct(vmid)
        if not (restore and v.get("force") and old is not None and old.node == node):
            self._check_vmid_unused(vmid)
            old = None
        else:
            if old.status == "running":
                raise PveError(500, "can't overwrite running container")
            self._check_protection(old, f"unable to restore CT {vmid}")
            self._ct_check_lock(old)
        if pool and pool not in self.pools:
            raise PveError(403, f"Permission check failed (pool '{pool}' does not exist)")
        unprivileged = v.get("unprivileged", None if restore else 1)
        if unprivileged == 0:
            self.require(user, "/", "Sys.Modify")
        if v.get("start"):
            self._vm_perm(user, vmid, pool, "VM.PowerMgmt")
        if not self._may_create(user, vmid, pool, old):
            raise PveError(403, "Permission check failed")
        keys = v.get("ssh-public-keys")
        if keys and not re.match(r"\s*(ssh-|ecdsa-|sk-)\S+ [A-Za-z0-9+/=]+", keys):
            raise PveError(500, "SSH public key validation error")  # errors-051
        options = {key: value for key, value in v.items() if key not in NOT_OPTIONS}
        mounts = {
            key: self._with_storage(str(options.pop(key)), storage) for key in list(options) if MOUNT.fullmatch(key)
        }
        # In some order; here the volumes first, as they ask for most (permissions-226, 227, 230 to 234).
        asked = {**mounts, **dict(sorted(options.items(), key=lambda item: item[0] == "ostype"))}
        self._check_modify_perm(user, vmid, pool, None, asked, [], 1 if unprivileged is None else unprivileged)
        if "tags" in options:
            # Whatever is held on the pool (assert_tag_permissions of PVE/GuestHelpers.pm).
            self._vm_perm(user, vmid, None, "VM.Config.Options")
        for value in mounts.values() if mounts else [f"{storage}:4"]:
            if is_volume(parse_mount(value)):
                self._check_new_volume(parse_mount(value)["volume"], user, vmid)
        self._check_archive(user, archive, restore)
        if mounts and "rootfs" not in mounts:
            raise PveError(500, "mount points configured, but 'rootfs' not set - aborting")
        if "hookscript" in options:
            self._check_hookscript(options["hookscript"])
        what = "restore" if restore else "create"
        if restore and ":" in archive:
            try:
                self.check_restore(user, archive, old)
            except TaskError as error:
                return await self._refused_task(node, f"vz{what}", vmid, user, f"unable to {what} CT {vmid} - {error}")
        if old is not None:
            self._destroy_volumes(old)
            self._drop(old)
        ct = self._container(vmid, node=node, defaults=False, config={"lock": "create"})

        async def body() -> None:
            try:
                config = await self._unpack(ct, archive, storage, options, mounts, unprivileged, v)
            except TaskError as error:
                for volid in self.volumes_of(vmid):
                    self.remove_volume(volid)
                self._drop(ct)
                raise TaskError(f"unable to {what} CT {vmid} - {error}") from error
            ct.config = config
            if pool:
                self._pool_join(pool, vmid)
            if v.get("ha-managed"):
                ct.ha_state = "started" if v.get("start") else "stopped"
            if v.get("start"):
                afterwards(lambda: self._start_task(ct, user))

        return await self.task(node, f"vz{what}", vmid, user, body, vm=ct)

    async def _refused_task(self, node: str, kind: str, vmid: int, user: str, reason: str) -> str:
        """A task that ends before it has changed anything."""

        async def body() -> None:
            raise TaskError(reason)

        return t.cast("str", await self.task(node, kind, vmid, user, body))

    def _may_create(self, user: str, vmid: int, pool: str | None, old: t.Any) -> bool:
        return (
            self.allowed(user, f"/vms/{vmid}", "VM.Allocate")
            or bool(pool and self.allowed(user, f"/pool/{pool}", "VM.Allocate"))
            or (old is not None and self.allowed(user, f"/vms/{vmid}", "VM.Backup"))
        )

    @staticmethod
    def _with_storage(value: str, storage: str) -> str:
        return f"{storage}:{value}" if re.fullmatch(r"\d+(\.\d+)?", value.partition(",")[0]) else value

    def _check_new_volume(self, volume: str, user: str, vmid: int) -> None:
        """errors-033 to 038"""
        sid, colon, _name = volume.partition(":")
        if not colon:
            raise PveError(500, f"unable to parse volume ID '{volume}'")
        self._storage_for(sid, user, vmid)

    def _check_archive(self, user: str, archive: str, restore: bool) -> None:
        """errors-027 to 032, 054"""
        sid, colon, name = archive.partition(":")
        if not colon and user == "root@pam":
            return  # the task says that there is no such file
        self._check_template(user, archive, restore)
        if name.startswith("vztmpl/") and not TEMPLATE_NAME.fullmatch(name):
            raise PveError(500, f"unable to parse directory volume name '{name}'")
        if restore and self.volume(archive):
            self._check_access(user, sid, "backup", self.volume(archive).get("vmid"), archive)

    async def _unpack(
        self,
        ct: Container,
        archive: str,
        storage: str,
        options: dict[str, t.Any],
        mounts: dict[str, str],
        unprivileged: t.Any,
        v: dict[str, t.Any],
    ) -> dict[str, t.Any]:
        """The work of a creation or a restore: the configuration of the container."""
        restore = bool(v.get("restore"))
        saved: dict[str, t.Any] = {}
        if ":" not in archive:
            log(f"can't find file '{archive}'")
            raise TaskError(f"can't find file '{archive}'")
        if restore:
            log(f"recovering backed-up configuration from '{archive}'")
            saved = self.backed_up(archive)
        elif self.volume(archive) is None:
            log(f"volume '{archive}' does not exist")
            raise TaskError(f"volume '{archive}' does not exist")
        sizes: dict[str, int] = {}
        if not mounts and restore:
            for key, mount in self.backed_up_mounts(saved).items():
                sizes[key] = self.size_of(mount) if "size" not in mount else _bytes(mount["size"])
                rest = {name: value for name, value in mount.items() if name not in ("volume", "size")}
                mounts = {**mounts, key: print_mount({"volume": f"{storage}:1", **rest})}
        if not mounts:
            mounts = {"rootfs": f"{storage}:4"}
        await self.pause(self.ct_secs["create"])
        config: dict[str, t.Any] = {}
        for key in sorted(mounts, key=lambda key: (key != "rootfs", key)):
            volume = parse_mount(mounts[key])["volume"]
            sid, _colon, name = volume.partition(":")
            if is_volume({"volume": volume}):
                self.check_rootdir(sid)
                if not NEW_VOLUME.fullmatch(volume) and not re.match(r"(subvol|basevol|vm|base)-|\d+/", name):
                    raise TaskError(f"unable to parse zfs volume name '{name}'")  # errors-040
            config[key] = print_mount(self.realised(ct.vmid, mounts[key], sizes.get(key)))
        path = self._volume_path(
            archive.partition(":")[0], archive.partition(":")[2], "backup" if restore else "vztmpl"
        )
        if restore:
            log(f"restoring '{archive}' now..")
        log(f"extracting archive '{path}'", "Total bytes read: 2181120 (2.1MiB, 9.0MiB/s)")
        given = {key: normal(key, value) for key, value in options.items() if not key.startswith("unused")}
        given = {key: value for key, value in given.items() if value is not None}
        if restore:
            log("merging backed-up and given configuration..")
            inherited = {key: value for key, value in saved.items() if not MOUNT.fullmatch(key)}
            if v.get("unique"):
                for key in [key for key in inherited if re.fullmatch(r"net\d+", key)]:
                    net = {**split_props(inherited[key])[1], "hwaddr": random_mac()}
                    inherited[key] = normal(key, ",".join(f"{name}={value}" for name, value in net.items()))
        else:
            inherited = {"hostname": f"CT{ct.vmid}", "memory": 512, "swap": 512}
            inherited |= {"ostype": ostype_of(archive), "arch": arch_of(archive)}
        config = {**inherited, **given, **config}
        if unprivileged:
            config["unprivileged"] = 1
        elif unprivileged == 0:
            config.pop("unprivileged", None)
        return config

    # --------------------------------------------------------------- power

    async def _start_task(self, ct: t.Any, user: str) -> str:
        """A start of its own, which outlives the task that asks for it (tasks-017, 060)."""

        async def body() -> None:
            await self._start_steps(ct, user)

        return str(await self._ct_task(ct, "vzstart", user, body))

    async def _start_steps(self, ct: t.Any, user: str, skiplock: bool = False) -> None:
        """A bridge that is not there is found out now (errors-080)."""
        if not ct.template:
            for key in sorted(key for key in ct.config if re.fullmatch(r"net\d+", key)):
                bridge = split_props(ct.config[key])[1].get("bridge", "")
                if bridge not in self.bridges:
                    raise TaskError(f"bridge '{bridge}' does not exist")
        await super()._start_steps(ct, user, skiplock)

    async def _lxc_destroy(self, user: str, v: dict[str, t.Any]) -> str:
        """tasks-058, 061 to 063, races-014"""
        ct = self._find_ct(v["node"], v["vmid"])
        vmid, running = ct.vmid, f"unable to destroy CT {ct.vmid} - container is running"
        self._check_protection(ct, f"can't remove CT {vmid}")
        self._ct_check_lock(ct)
        if ct.ha_state and not v.get("purge"):
            raise PveError(500, f"unable to remove CT {vmid} - used in HA resources and purge parameter not set.")
        if ct.status == "running" and not v.get("force"):
            raise PveError(500, running)

        async def body() -> None:
            if ct not in self.cts:
                raise TaskError(EXISTS_NOT.format(v["node"], vmid))
            self._task_lock(ct)
            if ct.config.get("protection"):
                raise TaskError(f"can't remove CT {vmid} - protection mode enabled")
            if ct.status == "running":
                if not v.get("force"):
                    raise TaskError(running)
                log(f"forced to stop CT {vmid} before destroying!")
                ct.status, ct.pid = "stopped", None
            for _key, mount in sorted(ct.volumes(), key=lambda item: item[0] != "rootfs"):
                if self.clones_of(mount["volume"]):
                    name = mount["volume"].partition(":")[2]
                    raise TaskError(f"base volume '{name}' is still in use by linked clones")
            ct.lock = "destroyed"
            await self.pause(self.ct_secs["destroy"])
            self._destroy_volumes(ct)
            self._drop(ct)
            if v.get("purge"):
                log(f"purging CT {vmid} from related configurations..")

        return str(await self._ct_task(ct, "vzdestroy", user, body))

    def _destroy_volumes(self, ct: t.Any) -> None:
        """What its configuration names; other volumes of its id stay (destroy_lxc_container of PVE/LXC.pm)."""
        named = [str(text).partition(",")[0] for text in (*ct.config.values(), *ct.pending.values())]
        for volid in self.volumes_of(ct.vmid):
            if volid in named:
                self.remove_volume(volid)

    # ----------------------------------------------------------- snapshots

    def _routes_features(self) -> list[tuple[str, str, t.Any]]:
        return [("GET", "/nodes/{node}/lxc/{vmid}/feature", self._feature)]

    async def _feature(self, v: dict[str, t.Any], user: str) -> dict[str, int]:
        """errors-006, 168, 169"""
        ct = self._find_ct(v["node"], v["vmid"])
        has = {"snapshot": self._can_snapshot(ct), "clone": ct.template, "copy": True}
        return {"hasFeature": int(has[v["feature"]])}

    def _can_snapshot(self, ct: t.Any) -> bool:
        """Not with a directory or a device mounted, and only where the storage can."""
        mounts = [parse_mount(value) for key, value in ct.config.items() if MOUNT.fullmatch(key)]
        stores = [self.storages.get(mount.get("volume", "").partition(":")[0], {}) for mount in mounts]
        return all(map(is_volume, mounts)) and all(store.get("type") in SNAPSHOTS for store in stores)

    async def _lxc_snapshot(self, user: str, v: dict[str, t.Any]) -> str:
        """tasks-008, 015, 020, errors-092 to 104"""
        ct, name = self._find_ct(v["node"], v["vmid"]), v["snapname"]
        if name in ("current", "vzdump"):
            raise PveError(500, f"unable to use snapshot name '{name}' (reserved name)")
        self.need_quorum()

        async def body() -> None:
            await self._await_config_lock(ct)
            if ct.template:
                raise TaskError("you can't take a snapshot if it's a template")
            self._task_lock(ct)
            if name in ct.snapshots:
                raise TaskError(f"snapshot name '{name}' already used")
            if not self._can_snapshot(ct):
                raise TaskError("snapshot feature is not available")
            kept = {
                k: x for k, x in ct.config.items() if k not in ("lock", "description") and not k.startswith("unused")
            }
            snapshot = {**kept, "snaptime": int(time.time()), "snapstate": "prepare"}
            description = normal("description", v.get("description") or "")
            if description:
                snapshot["description"] = description
            ct.snapshots[name], ct.lock = snapshot, "snapshot"
            try:
                await self.pause(self.ct_secs["snapshot"])
            finally:
                ct.lock = None
            del snapshot["snapstate"]
            ct.config["parent"] = name

        return str(await self._ct_task(ct, "vzsnapshot", user, body, lock=False))

    async def _lxc_snapshot_delete(self, user: str, v: dict[str, t.Any]) -> str:
        """tasks-022, 028, 029"""
        ct, name = self._find_ct(v["node"], v["vmid"]), v["snapname"]
        self.need_quorum()

        async def body() -> None:
            await self._await_config_lock(ct)
            if name not in ct.snapshots:
                raise TaskError(f"snapshot '{name}' does not exist")
            self._task_lock(ct)
            ct.lock = "snapshot-delete"
            try:
                ct.snapshots[name]["snapstate"] = "delete"
                await self.pause(self.ct_secs["delsnapshot"])
            finally:
                ct.lock = None
            parent = ct.snapshots.pop(name).get("parent")
            for config in (ct.config, *ct.snapshots.values()):
                if config.get("parent") == name:
                    config.pop("parent")
                    config.update({"parent": parent} if parent else {})

        return str(await self._ct_task(ct, "vzdelsnapshot", user, body, lock=False))

    async def _lxc_snapshot_config_put(self, user: str, v: dict[str, t.Any]) -> None:
        if v.get("description"):
            v = {**v, "description": normal("description", v["description"])}
        await super()._lxc_snapshot_config_put(user, v)

    async def _lxc_rollback(self, user: str, v: dict[str, t.Any]) -> str:
        """tasks-016 to 018, 021, errors-110, 116"""
        ct, name = self._find_ct(v["node"], v["vmid"]), v["snapname"]
        if v.get("start"):
            self.require(user, f"/vms/{ct.vmid}", "VM.PowerMgmt")
        self.need_quorum()

        async def body() -> None:
            await self._await_config_lock(ct)
            if ct.template:
                raise TaskError("you can't rollback if vm is a template")
            if name not in ct.snapshots:
                raise TaskError(f"snapshot '{name}' does not exist")
            snapshot = ct.snapshots[name]
            if snapshot.get("snapstate"):
                raise TaskError(f"unable to rollback to incomplete snapshot (snapstate = {snapshot['snapstate']})")
            self._task_lock(ct)
            self._refuse_newer_snapshots(ct, name)
            ct.lock = "rollback"
            try:
                ct.status, ct.pid = "stopped", None
                await self.pause(self.ct_secs["rollback"])
            finally:
                ct.lock = None
            kept = {k: x for k, x in ct.config.items() if k == "description" or k.startswith("unused")}
            taken = {k: x for k, x in snapshot.items() if k not in ("snapstate", "snaptime", "description")}
            ct.config, ct.pending, ct.deletions = {**taken, **kept, "parent": name}, {}, set()
            for _key, mount in ct.volumes():
                self.forget_unused(ct.config, mount["volume"])
            if v.get("start"):
                afterwards(lambda: self._start_task(ct, user))

        return str(await self._ct_task(ct, "vzrollback", user, body, lock=False))

    def _refuse_newer_snapshots(self, ct: t.Any, name: str) -> None:
        names = list(ct.snapshots)
        for later in names[names.index(name) + 1 :]:
            for _key, mount in ct.volumes(ct.snapshots[name]):
                zfs = self.storages.get(mount["volume"].partition(":")[0], {}).get("type") == "zfspool"
                if zfs and mount["volume"] in [other["volume"] for _key, other in ct.volumes(ct.snapshots[later])]:
                    raise TaskError(f"can't rollback, '{name}' is not most recent snapshot on '{mount['volume']}'")

    async def _await_config_lock(self, ct: t.Any) -> None:
        """Such a task holds the lock of the file only for moments, but has to get it (errors-227)."""
        if ct.lock_holder is not None:
            log("trying to acquire lock...")
        await self.acquire(ct, "moment")
        self.release(ct, "moment")

    # -------------------------------------------------- clone and template

    async def _lxc_clone(self, user: str, v: dict[str, t.Any]) -> str:
        """tasks-023 to 027, 054 to 057, errors-139 to 149, races-015"""
        node, newid, pool, target = v["node"], int(v["newid"]), v.get("pool"), v.get("target")
        if pool and pool not in self.pools:
            raise PveError(403, f"Permission check failed (pool '{pool}' does not exist)")
        if target and target not in self.nodes:
            raise PveError(500, f"no such cluster node '{target}'")
        storage = v.get("storage")
        if storage and storage not in self.storages:
            raise PveError(500, f"storage '{storage}' does not exist")
        self.need_quorum()
        source = self._find_ct(node, v["vmid"])
        full = bool(v["full"]) if v.get("full") is not None else not source.template
        await self._config_lock(source)
        try:
            self._ct_check_lock(source)
            self._check_vmid_unused(newid)
            config, mounts = self._cloned(user, source, v, full)
            shared = all(self.storages[sid].get("shared") for _mount, sid in mounts.values())
            if target not in (None, node, "localhost") and not shared:
                raise PveError(500, f"can't clone CT to node '{target}' (CT uses local storage)")
            source.lock = "disk"
        finally:
            self.release(source, "config")
        ct = self._container(newid, node=node, defaults=False, config={**config, "lock": "create"})

        async def body() -> None:
            kind = "full clone of mountpoint" if full else "linked clone of mount point"
            log(f"creating a clone of container {source.vmid} with ID {newid}")
            try:
                for key in sorted(mounts):
                    mount, sid = mounts[key]
                    log(f"create {kind} {key} ({mount['volume']})")
                    try:
                        self.check_rootdir(sid)
                    except TaskError as error:
                        raise TaskError(f"clone failed: {error}") from error
                    log(*(COPIED if full else ()))
                await self.pause(self.ct_secs["clone"] if full else self.ct_secs["clone"] / 10)
                order = sorted(mounts, key=lambda key: (full and key != "rootfs", key))
                for key in order:
                    mount, sid = mounts[key]
                    size = self.size_of(mount)
                    volid = self.create_volume(sid, newid, size, None if full else mount["volume"])
                    ct.config[key] = print_mount({**mount, "volume": volid, "size": format_size(size)})
                ct.lock = None
                ct.node = target if target in self.nodes else node
            except TaskError:
                for volid in self.volumes_of(newid):
                    self.remove_volume(volid)
                self._drop(ct)
                raise
            finally:
                source.lock = None
            if pool:
                self._pool_join(pool, newid)

        return await self.task(node, "vzclone", source.vmid, user, body, vm=ct, lock=False)

    def _cloned(
        self, user: str, source: t.Any, v: dict[str, t.Any], full: bool
    ) -> tuple[dict[str, t.Any], dict[str, tuple[dict[str, str], str]]]:
        """The configuration of the clone without its volumes, and the volumes with the storage of each."""
        snapname, storage = v.get("snapname"), v.get("storage")
        if snapname and snapname not in source.snapshots:
            raise PveError(500, f"snapshot '{snapname}' does not exist")
        if storage and not full:
            raise PveError(500, "parameter 'storage' not allowed for linked clones")
        config: dict[str, t.Any] = {}
        mounts: dict[str, tuple[dict[str, str], str]] = {}
        given = source.snapshots[snapname] if snapname else source.config
        for key, value in sorted(given.items()):
            if key in NOT_CLONED or key.startswith("unused"):
                continue
            if MOUNT.fullmatch(key):
                mounts[key] = self._cloned_mount(user, source, key, v, full)
            elif re.fullmatch(r"net\d+", key):
                net = {**split_props(value)[1], "hwaddr": random_mac()}
                self._check_bridge(user, value)
                config[key] = normal(key, ",".join(f"{name}={x}" for name, x in net.items()))
            else:
                config[key] = value
        if v.get("hostname"):
            config["hostname"] = v["hostname"]
        if v.get("description"):
            config["description"] = normal("description", v["description"])
        return config, mounts

    def _cloned_mount(
        self, user: str, source: t.Any, key: str, v: dict[str, t.Any], full: bool
    ) -> tuple[dict[str, str], str]:
        given = source.snapshots[v["snapname"]] if v.get("snapname") else source.config
        mount = parse_mount(given[key])
        if not is_volume(mount):
            kind = "device" if mount["volume"].startswith("/dev/") else "bind"
            raise PveError(500, f"unable to clone mountpoint '{key}' (type {kind})")
        if full and source.status == "running" and not v.get("snapname"):
            raise PveError(500, "Full clone of a running container is only possible from a snapshot")
        own = mount["volume"].partition(":")[2].rpartition("/")[2]
        if not full and not own.startswith(("basevol-", "base-")):
            raise PveError(500, f"Linked clone feature for '{mount['volume']}' is not available")
        sid = v.get("storage") or mount["volume"].partition(":")[0]
        self.require(user, f"/storage/{sid}", "Datastore.AllocateSpace")
        return mount, sid

    async def _lxc_template(self, user: str, v: dict[str, t.Any]) -> None:
        """Answers null; the task is to be found in the list (tasks-048 to 050)."""
        ct = self._find_ct(v["node"], v["vmid"])
        await self._config_lock(ct)
        try:
            self._ct_check_lock(ct)
            for refused, text in (
                (ct.snapshots, "unable to create template, because CT contains snapshots"),
                (ct.template, "you can't convert a template to a template"),
                (ct.status == "running", "you can't convert a CT to template if the CT is running"),
            ):
                if refused:
                    raise PveError(500, text)
        finally:
            self.release(ct, "config")

        async def body() -> None:
            await self.pause(self.ct_secs["template"])
            for key, mount in ct.volumes():
                if key.startswith("unused"):
                    continue
                sid, _colon, name = mount["volume"].partition(":")
                base = re.sub(r"\bsubvol-", "basevol-", re.sub(r"\bvm-(?=\d+-disk)", "base-", name))
                entry = self._register(sid).pop(name, None)
                if entry:
                    self._register(sid)[base] = entry
                ct.config[key] = print_mount({**mount, "volume": f"{sid}:{base}"})
            ct.config["template"] = 1

        await self._ct_task(ct, "vztemplate", user, body)


def _bytes(size: str) -> int:
    unit = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}.get(size[-1:], 1)
    return int(float(size.rstrip("KMGT")) * unit)
