# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes: what is allocated on the storages, how large it is, and how it is resized and moved."""

from __future__ import annotations

import itertools
import typing as t

from fakepve.lxc import format_size, parse_mount, parse_size
from fakepve.model import PveError, TaskError

from .options import is_volume, print_mount
from .tasks import Tasks, afterwards, log

GIB = 2**30
ABSENT = "property is missing and it is not optional"
# What rsync says of a copied volume, shortened.
COPIED = ("", "Number of files: 291 (reg: 6, dir: 13, link: 272)", "Total file size: 2,026,597 bytes", "")


def format_error(*keys: str) -> PveError:
    """A property string that lacks what it must have, or is not there at all (errors-087, 159)."""
    return PveError(500, "format error", dict.fromkeys(keys, ABSENT))


class Volumes(Tasks):
    """Adds a register of volumes, from which the sizes come."""

    # ------------------------------------------------------------ register

    def _register(self, sid: str) -> dict[str, dict[str, t.Any]]:
        volumes: dict[str, dict[str, t.Any]] = self.storages[sid].setdefault("volumes", {})
        return volumes

    def volume(self, volid: str) -> dict[str, t.Any] | None:
        """What is known of a volume, or None: there is no such volume."""
        sid, _colon, name = volid.partition(":")
        return self._register(sid).get(name) if sid in self.storages else None

    def create_volume(self, sid: str, vmid: int, size: int, base: str | None = None) -> str:
        """Allocate a volume for a container, or clone one of a template's; returns its id (tasks-026, 055)."""
        taken = {name.rpartition("/")[2] for name in self._register(sid)}
        for number in itertools.count():
            name = self._ct_volume_name(vmid, sid, number)
            if name.rpartition("/")[2] not in taken:
                break
        name = f"{base.partition(':')[2]}/{name}" if base else name
        form = "raw" if name.endswith(".raw") else "subvol"
        self._register(sid)[name] = {"content": "rootdir", "format": form, "size": size, "vmid": vmid}
        return f"{sid}:{name}"

    def remove_volume(self, volid: str) -> None:
        """Free a volume."""
        sid, _colon, name = volid.partition(":")
        if sid in self.storages:
            self._register(sid).pop(name, None)

    def adopt_volumes(self, ct: t.Any) -> None:
        """Enter the volumes of a container that did not come through the API."""
        for _key, mount in ct.volumes():
            sid, _colon, name = mount["volume"].partition(":")
            if sid in self.storages and name not in self._register(sid):
                size = parse_size(mount.get("size", "")) or 8 * GIB
                entry = {"content": "rootdir", "format": "subvol", "size": size, "vmid": ct.vmid}
                self._register(sid)[name] = entry

    def volumes_of(self, vmid: int) -> list[str]:
        """The ids of all volumes that belong to a container."""
        return [
            f"{sid}:{name}"
            for sid in self.storages
            for name, entry in self._register(sid).items()
            if entry.get("content") in ("rootdir", "images") and entry.get("vmid") == vmid
        ]

    def clones_of(self, volid: str) -> list[str]:
        """The linked clones of a template's volume."""
        sid, _colon, name = volid.partition(":")
        return [other for other in self._register(sid) if other.startswith(f"{name}/")] if sid in self.storages else []

    def check_rootdir(self, sid: str) -> None:
        """A task fails on a storage that takes no containers (errors-146, 158)."""
        if sid not in self.storages:
            raise TaskError(f"storage '{sid}' does not exist")
        if "rootdir" not in str(self.storages[sid].get("content", "")).split(","):
            raise TaskError(f"content type 'rootdir' is not available or configured on storage '{sid}'")
        if not self.storages[sid].get("active", 1):
            raise TaskError(f"storage '{sid}' is not online")

    def _item(self, name: str, volname: str, vol: dict[str, t.Any]) -> dict[str, t.Any]:
        """An entry of a storage's content (reads-059, 061)."""
        item: dict[str, t.Any] = super()._item(name, volname, vol)
        if self.storages[name]["type"] == "zfspool":
            item.pop("ctime", None)
            base, _slash, own = volname.rpartition("/")
            item.update(name=own, parent=f"{base}@__base__" if base else None, format="subvol")
        elif vol["content"] == "backup":
            item["subtype"] = "lxc"
        elif vol["content"] == "vztmpl":
            item["format"] = "t" + volname.rpartition(".")[2] if ".tar." in volname else "tar"
        return item

    # -------------------------------------------------------------- mounts

    def mounted(self, ct: t.Any, key: str) -> dict[str, str]:
        """The mount point, which has to be of a volume."""
        if key not in ct.config:
            raise format_error(*(["volume"] if key == "rootfs" else ["volume", "mp"]))
        mount: dict[str, str] = parse_mount(ct.config[key])
        if not is_volume(mount):
            raise PveError(500, f"unable to parse volume ID '{mount['volume']}'")
        return mount

    def size_of(self, mount: t.Mapping[str, str]) -> int:
        """Bytes, as the storage has them."""
        entry = self.volume(mount["volume"])
        return int(entry["size"] if entry else parse_size(mount.get("size", "")) or 4 * GIB)

    @staticmethod
    def keep_unused(config: dict[str, t.Any], volid: str) -> None:
        """Enter a volume that nothing mounts any more as the first free unusedN."""
        if volid not in [value for key, value in config.items() if key.startswith("unused")]:
            config[next(key for key in map("unused{}".format, range(256)) if key not in config)] = volid

    @staticmethod
    def forget_unused(config: dict[str, t.Any], volid: str) -> None:
        """Drop the unusedN entry of a volume that is mounted again."""
        for key in [key for key, value in config.items() if key.startswith("unused") and value == volid]:
            del config[key]

    # -------------------------------------------------------------- resize

    async def _lxc_resize(self, user: str, v: dict[str, t.Any]) -> str:
        """errors-081 to 091, permissions-156, 236"""
        ct, key, text = self._find_ct(v["node"], v["vmid"]), v["disk"], str(v["size"])
        amount = parse_size(text.lstrip("+")) or 0
        self._check_modify_perm(user, ct.vmid, None, ct.config, {"disk": key, "size": text}, [], 1)
        self._ct_check_lock(ct)
        if v.get("digest") and v["digest"] != ct.digest():
            raise PveError(500, "detected modified configuration - file changed by other user? Try again.")

        def target() -> int:
            mount = self.mounted(ct, key)
            self.require(user, "/storage/" + mount["volume"].partition(":")[0], "Datastore.AllocateSpace")
            old = self.size_of(mount)
            new = old + amount if text.startswith("+") else amount
            if new < old:
                raise PveError(500, "unable to shrink disk size")
            if new == old:
                raise PveError(500, "disk is already at specified size")
            return new

        target()

        async def body() -> None:
            try:
                self._ct_check_lock(ct)
                new = target()
            except PveError as error:
                raise TaskError(error.message) from error
            await self.pause(self.ct_secs["resize"])
            mount = self.mounted(ct, key)
            entry = self.volume(mount["volume"])
            if entry:
                entry["size"] = new
            mount["size"] = format_size(new)
            ct.config[key] = print_mount(mount)

        return str(await self._ct_task(ct, "resize", user, body))

    # ---------------------------------------------------------------- move

    def _routes_volumes(self) -> list[tuple[str, str, t.Any]]:
        return [("POST", "/nodes/{node}/lxc/{vmid}/move_volume", self._move_volume)]

    async def _move_volume(self, v: dict[str, t.Any], user: str) -> str:
        """errors-155 to 161, 204, tasks-031 to 034"""
        sid, target = v.get("storage"), v.get("target-vmid")
        if (sid is None) == (target is None):
            many = "missing, either needs to be set" if sid is None else "set, only one can be set"
            text = f"both 'storage' and 'target-vmid' {many}"
            raise PveError(400, "Parameter verification failed.", {"storage": text, "target-vmid": text})
        if sid is not None:
            self.require(user, f"/storage/{sid}", "Datastore.AllocateSpace")
        ct = self._find_ct(v["node"], v["vmid"])
        self._ct_check_lock(ct)
        if v.get("digest") and v["digest"] != ct.digest():
            raise PveError(500, "detected modified configuration - file changed by other user? Try again.")
        key = v["volume"]
        mount = self.mounted(ct, key) if not key.startswith("unused") else {"volume": ct.config.get(key, "")}
        if target is not None:
            return await self._reassign(v, user, ct, mount)
        if ct.status == "running":
            raise PveError(500, "cannot move volumes of a running container")
        kept = {str(value).partition(",")[0] for each in ct.snapshots.values() for value in each.values()}
        if v.get("delete") and mount["volume"] in kept:
            raise PveError(500, "you can't move a volume with snapshots and delete the source")

        async def body() -> None:
            self._task_lock(ct)
            self.check_rootdir(str(sid))
            ct.lock = "disk"
            try:
                await self.pause(self.ct_secs["move"])
            finally:
                ct.lock = None
            log(*COPIED)
            size = self.size_of(mount)
            new = {**mount, "volume": self.create_volume(str(sid), ct.vmid, size), "size": format_size(size)}
            ct.config[key] = print_mount(new)
            if v.get("delete"):
                self.remove_volume(mount["volume"])
            else:
                self.keep_unused(ct.config, mount["volume"])

        return str(await self._ct_task(ct, "move_volume", user, body))

    async def _reassign(self, v: dict[str, t.Any], user: str, ct: t.Any, mount: dict[str, str]) -> str:
        """To another container on the same storage (tasks-031)."""
        other, key = self._find_ct(v["node"], v["target-vmid"]), v["volume"]
        new_key = v.get("target-volume") or key
        self._vm_perm(user, other.vmid, None, "VM.Config.Disk")
        self._ct_check_lock(other)
        if key == "rootfs":
            raise PveError(500, "Cannot move 'rootfs' to another container")
        if ct.status == "running" or other.status == "running":
            raise PveError(500, "cannot move volumes of a running container")
        if new_key in other.config:
            raise PveError(500, f"Target volume key '{new_key}' is already in use for container '{other.vmid}'")

        async def body() -> None:
            log(f"moving volume '{key}' from container '{ct.vmid}' to '{other.vmid}'")
            await self.pause(self.ct_secs["resize"])
            new = {
                **mount,
                "volume": self.create_volume(mount["volume"].partition(":")[0], other.vmid, self.size_of(mount)),
            }
            # It is renamed: what is in it stays.
            entry, renamed = self.volume(mount["volume"]) or {}, self.volume(new["volume"]) or {}
            renamed.update({name: value for name, value in entry.items() if name != "vmid"})
            log(f"removing volume '{key}' from container '{ct.vmid}' config")
            self.remove_volume(mount["volume"])
            del ct.config[key]
            if not new_key.startswith("unused"):
                # Now that no configuration names the volume any more: $volume_reassignfn of PVE/API2/LXC.pm writes the
                # source before update_pct_config looks at the target.
                try:
                    self._check_protection(other, f"can't update CT {other.vmid} drive '{new_key}'")
                    self._check_mount(print_mount(new))
                except PveError as error:
                    raise TaskError(error.message) from error
            other.config[new_key] = print_mount(new)
            log(f"target container '{other.vmid}' updated with '{new_key}'")
            afterwards(self._noticing(other))

        return await self.task(ct.node, "move_volume", f"{ct.vmid}-{key}>{other.vmid}-{new_key}", user, body, vm=ct)

    def _noticing(self, ct: t.Any) -> t.Callable[[], t.Awaitable[None]]:
        async def notice() -> None:
            self.notice(ct)

        return notice
