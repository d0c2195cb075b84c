# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups: vzdump, the archives it leaves, and what is restored of them."""

from __future__ import annotations

import json
import time
import typing as t
from urllib.parse import quote

from fakepve.lxc import parse_mount
from fakepve.model import PveError, TaskError

from .options import is_volume, split_list
from .tasks import log
from .volumes import ABSENT, Volumes

# What of a configuration is not in a backup.
LEFT_OUT = ("lock", "parent", "digest")


class Backups(Volumes):
    """Adds backups with the configuration they are of."""

    def _routes_backups(self) -> list[tuple[str, str, t.Any]]:
        return [
            ("POST", "/nodes/{node}/vzdump", self._vzdump),
            ("GET", "/nodes/{node}/vzdump/extractconfig", self._extract_config),
        ]

    def backup_config(self, ct: t.Any) -> dict[str, t.Any]:
        """What a backup keeps of a configuration: what runs, without pending changes."""
        return {key: value for key, value in ct.config.items() if key not in LEFT_OUT and not key.startswith("unused")}

    def store_backup(self, storage: str, config: t.Mapping[str, t.Any], vmid: int, **entry: t.Any) -> str:
        """Put a backup on a storage; returns its volume id."""
        moment = int(entry.pop("ctime", time.time()))
        while True:
            stamp = time.strftime("%Y_%m_%d-%H_%M_%S", time.gmtime(moment))
            name = f"backup/vzdump-lxc-{vmid}-{stamp}.tar.zst"
            if name not in self._register(storage):
                break
            moment += 1
        archive = {"content": "backup", "format": "tar.zst", "size": 1109507, "ctime": moment, "vmid": vmid}
        self._register(storage)[name] = {**archive, **entry, "config": dict(config)}
        return f"{storage}:{name}"

    async def _vzdump(self, v: dict[str, t.Any], user: str) -> str | None:
        """tasks-012, 038 to 041, errors-181 to 187, 205, permissions-241 to 243"""
        vmids = [int(item) for item in split_list(v.get("vmid"))]
        if v.get("all"):
            vmids = [ct.vmid for ct in self.cts if ct.node == v["node"]]
        elif v.get("pool"):
            vmids = sorted(self.pools.get(v["pool"], ()))
        if not vmids:
            raise PveError(400, "Parameter verification failed.", {"vmid": ABSENT})
        storage = v.get("storage") or "local"
        self.require(user, f"/storage/{storage}", "Datastore.AllocateSpace")
        if v.get("prune-backups"):
            self.require(user, f"/storage/{storage}", "Datastore.Allocate")
        tid, names = str(vmids[0]) if len(vmids) == 1 else "", " ".join(map(str, vmids))

        async def body() -> None:
            if storage not in self.storages:
                text = f"storage '{storage}' does not exist"
                raise TaskError(
                    f"could not activate storage '{storage}': {text} "
                    f"could not get storage information for '{storage}': {text}"
                )
            if "backup" not in str(self.storages[storage].get("content", "")).split(","):
                text = f"can't use storage '{storage}' for backups - wrong content type"
                raise TaskError(f"could not get storage information for '{storage}': {text}")
            log(f"INFO: starting new backup job: vzdump {names} --node {v['node']} --storage {storage}")
            failed = False
            for vmid in vmids:
                try:
                    await self._dump(v, user, vmid, storage)
                except TaskError as error:
                    failed = True
                    log(f"ERROR: Backup of VM {vmid} failed - {error}", f"INFO: Failed at {_now()}")
            if failed:
                log("INFO: Backup job finished with errors")
                raise TaskError("job errors")
            log(f"INFO: Backup finished at {_now()}", "INFO: Backup job finished successfully")

        return await self.task(v["node"], "vzdump", tid, user, body)

    async def _dump(self, v: dict[str, t.Any], user: str, vmid: int, storage: str) -> None:
        ct = self.ct(vmid)
        if ct is None or ct.node != v["node"]:
            raise TaskError(f"unable to find VM '{vmid}'")
        if not self.allowed(user, f"/vms/{vmid}", "VM.Backup"):
            raise TaskError(f"Permission check failed (/vms/{vmid}, VM.Backup)")
        log(f"INFO: Starting Backup of VM {vmid} (lxc)", f"INFO: Backup started at {_now()}")
        log(
            f"INFO: status = {ct.status}",
            f"INFO: backup mode: {v.get('mode', 'snapshot')}",
            f"INFO: CT Name: {ct.name}",
        )
        self._task_lock(ct)
        for key, mount in ct.volumes():
            where = mount.get("mp", "/")
            if key == "rootfs" or mount.get("backup") == "1":
                log(f"INFO: including mount point {key} ('{where}') in backup")
            elif not key.startswith("unused"):
                log(f"INFO: excluding volume mount point {key} ('{where}') from backup (disabled)")
        config = self.backup_config(ct)
        ct.lock = "backup"
        try:
            await self.pause(self.ct_secs["backup"])
        finally:
            ct.lock = None
        entry: dict[str, t.Any] = {}
        if v.get("protected"):
            entry["protected"] = 1
        if v.get("notes-template"):
            variables = {"guestname": ct.name, "vmid": str(vmid), "node": ct.node, "cluster": self.cluster_name}
            notes = v["notes-template"]
            for name, value in variables.items():
                notes = notes.replace("{{" + name + "}}", value)
            entry["notes"] = notes
        volid = self.store_backup(storage, config, vmid, **entry)
        path = self._volume_path(storage, volid.partition(":")[2], "backup")
        log(f"INFO: creating vzdump archive '{path}'", "INFO: Total bytes written: 2478080 (2.4MiB, 9.4MiB/s)")
        log("INFO: archive file size: 1MB", f"INFO: Finished Backup of VM {vmid} (00:00:02)")

    async def _extract_config(self, v: dict[str, t.Any], user: str) -> str:
        """tasks-046"""
        entry = self.volume(v["volume"])
        if entry is None or entry["content"] != "backup":
            raise PveError(500, f"volume '{v['volume']}' does not exist")
        sid = v["volume"].partition(":")[0]
        self._check_access(user, sid, "backup", entry.get("vmid"), v["volume"])
        config = dict(entry.get("config", {}))
        comment = "".join(f"#{quote(line, safe=' ')}\n" for line in str(config.pop("description", "")).splitlines())
        return comment + "".join(f"{key}: {value}\n" for key, value in sorted(config.items()))

    def backed_up(self, volid: str) -> dict[str, t.Any]:
        """The configuration in a backup; a task fails without one (errors-056)."""
        entry = self.volume(volid)
        if entry is None:
            raise TaskError(f"volume '{volid}' does not exist")
        copy: dict[str, t.Any] = json.loads(json.dumps(entry.get("config", {})))
        return copy

    def backed_up_mounts(self, config: t.Mapping[str, t.Any]) -> dict[str, dict[str, str]]:
        """The volumes that a restore to one storage makes anew."""
        mounts = {key: parse_mount(value) for key, value in config.items() if key == "rootfs" or key[:2] == "mp"}
        return {key: mount for key, mount in mounts.items() if is_volume(mount)}


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
