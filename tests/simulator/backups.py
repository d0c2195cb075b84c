# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups: vzdump, the archives it leaves, and what is restored of them."""

from __future__ import annotations

import asyncio
import json
import re
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
EXTENSIONS = {"0": "tar", "1": "tar.lzo", "lzo": "tar.lzo", "gzip": "tar.gz", "zstd": "tar.zst"}
VARIABLES = ("cluster", "guestname", "node", "vmid")
# The protected backups of a guest for who may not allocate on the storage (get_max_protected_backups).
MOST_PROTECTED = 5
# In which qemu-img counts (file_size_info of PVE/Storage/Plugin.pm).
SECTOR = 512


class Backups(Volumes):
    """Adds backups with the configuration they are of."""

    def __init__(self, *args: t.Any, **options: t.Any) -> None:
        super().__init__(*args, **options)
        # How large an archive is, in bytes.
        self.archive_size = 1109507
        self._dumping: dict[str, asyncio.Lock] = {}

    def _routes_backups(self) -> list[tuple[str, str, t.Any]]:
        return [
            ("POST", "/nodes/{node}/vzdump", self._vzdump),
            ("GET", "/nodes/{node}/vzdump/defaults", self._vzdump_defaults),
            ("GET", "/nodes/{node}/vzdump/extractconfig", self._extract_config),
        ]

    def backup_config(self, ct: t.Any) -> dict[str, t.Any]:
        """What a backup keeps of a configuration: what runs, without pending changes."""
        return {key: value for key, value in ct.config.items() if key not in LEFT_OUT and not key.startswith("unused")}

    def store_backup(
        self, storage: str, config: t.Mapping[str, t.Any], vmid: int, extension: str = "tar.zst", **entry: t.Any
    ) -> str:
        """Put a backup on a storage; returns its volume id."""
        moment = int(entry.pop("ctime", time.time()))
        server = self.storages[storage]["type"] == "pbs"
        while True:
            if server:
                name = f"backup/ct/{vmid}/{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(moment))}"
            else:
                stamp = time.strftime("%Y_%m_%d-%H_%M_%S", time.gmtime(moment))
                name = f"backup/vzdump-lxc-{vmid}-{stamp}.{extension}"
            if name not in self._register(storage):
                break
            moment += 1
        form = "pbs-ct" if server else extension
        archive = {"content": "backup", "format": form, "size": self.archive_size, "ctime": moment, "vmid": vmid}
        self._register(storage)[name] = {**archive, **entry, "config": dict(config)}
        return f"{storage}:{name}"

    def _parse_volname(self, store: dict[str, t.Any], volname: str) -> tuple[str, int | None, str]:
        """Those of a backup server have names of their own (parse_volname of PVE/Storage/PBSPlugin.pm)."""
        match = re.fullmatch(r"backup/ct/([1-9]\d*)/\S+", volname)
        if store.get("type") == "pbs" and match:
            return "backup", int(match[1]), "pbs-ct"
        return t.cast("tuple[str, int | None, str]", super()._parse_volname(store, volname))

    # -------------------------------------------------------------- vzdump

    def _storage_info(self, storage: str) -> dict[str, t.Any]:
        """storage_info of PVE/VZDump.pm"""
        if storage not in self.storages:
            raise PveError(500, f"storage '{storage}' does not exist")
        if "backup" not in str(self.storages[storage].get("content", "")).split(","):
            raise PveError(500, f"can't use storage '{storage}' for backups - wrong content type")
        return self.storages[storage]

    async def _vzdump_defaults(self, v: dict[str, t.Any], user: str) -> dict[str, t.Any]:
        """reads-097"""
        storage = v.get("storage") or "local"
        if not self._can_audit(user, storage):
            text = f"Permission check failed (/storage/{storage}, Datastore.Audit|Datastore.AllocateSpace)"
            raise PveError(403, text)
        info = self._storage_info(storage)
        flags = {"all": 0, "quiet": 0, "stop": 0, "remove": 1, "stdexcludes": 1, "zstd": 1, "pigz": 0, "bwlimit": 0}
        return {
            **flags,
            "compress": "0",
            "mode": "snapshot",
            "lockwait": 180,
            "ionice": 7,
            "prune-backups": info.get("prune-backups", "keep-all=1"),
            "storage": storage,
        }

    def _check_vzdump(self, v: dict[str, t.Any], user: str, storage: str) -> None:
        """assert_param_permission_vzdump of PVE/API2/VZDump.pm, verify_vzdump_parameters of PVE/VZDump.pm"""
        if user != "root@pam":
            for key in ("tmpdir", "dumpdir", "script", "job-id"):
                if key in v:
                    raise PveError(400, "Parameter verification failed.", {key: "Only root may set this option."})
            if any(key in v for key in ("bwlimit", "ionice", "performance")):
                self.require(user, "/", "Sys.Modify")
            if v.get("prune-backups"):
                self.require(user, f"/storage/{storage}", "Datastore.Allocate")
        notes = str(v.get("notes-template") or "")
        unknown = [name for name in re.findall(r"\{\{([^\s{}]+)\}\}", notes) if name not in VARIABLES]
        reason = f"found unknown: {', '.join(unknown)}\n" if unknown else ""
        if "\n" in notes:
            reason = "contains a line feed\n"
        elif re.search(r"\\[^n\\]", notes.replace("\\\\", "")):
            reason = "found unknown: escape sequence"
        if reason:
            raise PveError(400, "Parameter verification failed.", {"notes-template": reason})

    async def _vzdump(self, v: dict[str, t.Any], user: str) -> str | None:
        """tasks-012, 038 to 041, errors-181 to 187, 205, permissions-241 to 243"""
        vmids = [int(item) for item in split_list(v.get("vmid"))]
        if v.get("all"):
            vmids = [ct.vmid for ct in self.cts if ct.node == v["node"]]
        elif v.get("pool"):
            vmids = sorted(self.pools.get(v["pool"], ()))
        storage = v.get("storage") or "local"
        self._check_vzdump(v, user, storage)
        if not vmids:
            raise PveError(400, "Parameter verification failed.", {"vmid": ABSENT})
        here = [vmid for vmid in vmids if (self.ct(vmid).node if self.ct(vmid) else v["node"]) == v["node"]]
        if not here and not v.get("all"):
            return "OK"
        vmids = here
        self.require(user, f"/storage/{storage}", "Datastore.AllocateSpace")
        tid, names = str(vmids[0]) if len(vmids) == 1 else "", " ".join(map(str, vmids))

        async def body() -> None:
            try:
                self._storage_info(storage)
            except PveError as error:
                text, first = str(error.message), ""
                if "does not exist" in text:
                    first = f"could not activate storage '{storage}': {text} "
                raise TaskError(f"{first}could not get storage information for '{storage}': {text}") from error
            lock = self._dumping.setdefault(v["node"], asyncio.Lock())
            if lock.locked():
                log("INFO: trying to get global lock - waiting...")
            async with lock:
                await self._dump_all(v, user, vmids, storage, names)

        return await self.task(v["node"], "vzdump", tid, user, body)

    async def _dump_all(self, v: dict[str, t.Any], user: str, vmids: list[int], storage: str, names: str) -> None:
        log(f"INFO: starting new backup job: vzdump {names} --node {v['node']} --storage {storage}")
        for vmid in vmids:
            if self.ct(vmid) is not None and not self.allowed(user, f"/vms/{vmid}", "VM.Backup"):
                raise TaskError(f"403 Permission check failed (/vms/{vmid}, VM.Backup)")  # permissions-243
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

    def _check_limits(self, v: dict[str, t.Any], user: str, vmid: int, storage: str) -> None:
        """exec_backup_task of PVE/VZDump.pm"""
        store = self.storages[storage]
        there = [
            entry for name, entry in self._register(storage).items() if entry.get("vmid") == vmid and "config" in entry
        ]
        protected = [entry for entry in there if entry.get("protected")]
        rules = dict(rule.split("=") for rule in str(store.get("prune-backups") or "keep-all=1").split(","))
        limit = 0 if int(rules.get("keep-all", 0)) else sum(map(int, rules.values()))
        if v.get("protected"):
            most = int(store.get("max-protected-backups", -1 if self._may_allocate(user, storage) else MOST_PROTECTED))
            if -1 < most <= len(protected):
                text = f"The number of protected backups per guest is limited to {most} on storage '{storage}'"
                raise TaskError(text)
        elif limit and not v.get("remove", 1) and len(there) - len(protected) >= limit:
            raise TaskError(
                f"There is a max backup limit of {limit} enforced by the target storage or the vzdump parameters. "
                "Either increase the limit or delete old backups."
            )

    def _may_allocate(self, user: str, storage: str) -> bool:
        return bool(self.allowed(user, f"/storage/{storage}", "Datastore.Allocate"))

    async def _dump(self, v: dict[str, t.Any], user: str, vmid: int, storage: str) -> None:
        ct = self.ct(vmid)
        if ct is None or ct.node != v["node"]:
            raise TaskError(f"unable to find VM '{vmid}'")
        mode = v.get("mode", "snapshot")
        if mode == "stop" and ct.ha_managed and ct.ha_state == "started":
            raise TaskError(
                "Cannot execute a backup with stop mode on a HA managed and enabled Service. "
                "Use snapshot mode or disable the Service."
            )
        self._check_limits(v, user, vmid, storage)
        log(f"INFO: Starting Backup of VM {vmid} (lxc)", f"INFO: Backup started at {_now()}")
        log(f"INFO: status = {ct.status}", f"INFO: backup mode: {mode}", f"INFO: CT Name: {ct.name}")
        self._task_lock(ct)
        for key, mount in ct.volumes():
            where = mount.get("mp", "/")
            if key == "rootfs" or mount.get("backup") == "1":
                log(f"INFO: including mount point {key} ('{where}') in backup")
            elif not key.startswith("unused"):
                log(f"INFO: excluding volume mount point {key} ('{where}') from backup (disabled)")
        config = self.backup_config(ct)
        ct.lock = "backup"
        before = ct.status
        try:
            if mode == "stop" and before == "running":
                log("INFO: stopping virtual guest")
                ct.status = "stopped"
            await self.pause(self.ct_secs["backup"])
        finally:
            ct.lock, ct.status = None, before
        extension = EXTENSIONS[str(v.get("compress", "0"))]
        if self.archive_size > self.storages[storage].get("avail", self.archive_size):
            log("INFO: tar: -: Cannot write: No space left on device")
            raise TaskError("command 'set -o pipefail && lxc-usernsexec -- tar cpf - | zstd' failed: exit code 2")
        entry: dict[str, t.Any] = {"protected": 1} if v.get("protected") else {}
        if v.get("notes-template"):
            entry["notes"] = self._notes(v, ct)
        volid = self.store_backup(storage, config, vmid, extension, **entry)
        if "avail" in self.storages[storage]:
            self.storages[storage]["avail"] -= self.archive_size
        path = self._volume_path(storage, volid.partition(":")[2], "backup")
        log(f"INFO: creating vzdump archive '{path}'", "INFO: Total bytes written: 2478080 (2.4MiB, 9.4MiB/s)")
        log("INFO: archive file size: 1MB", f"INFO: Finished Backup of VM {vmid} (00:00:02)")

    def _notes(self, v: dict[str, t.Any], ct: t.Any) -> str:
        """generate_notes of PVE/VZDump.pm"""
        variables = {"guestname": ct.name, "vmid": str(ct.vmid), "node": ct.node, "cluster": self.cluster_name}
        notes = re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], str(v["notes-template"]))
        return re.sub(r"\{\{(\w+)\}\}", lambda found: variables[found[1]], notes)

    def _item(self, name: str, volname: str, vol: dict[str, t.Any]) -> dict[str, t.Any]:
        """The first line of the notes, the flag of what is protected only, what a backup server adds."""
        item = super()._item(name, volname, vol)
        if vol["content"] == "backup":
            if "notes" in item:
                item["notes"] = str(item["notes"]).partition("\n")[0]
            item.pop("protected", None)
            item.update({"protected": 1} if vol.get("protected") else {})
            item.update({key: vol[key] for key in ("verification", "encrypted") if key in vol})
        return item

    async def _content_info(self, v: dict[str, t.Any], user: str) -> dict[str, t.Any]:
        """info of PVE/API2/Storage/Content.pm: files are looked at as disk images, which have whole sectors."""
        data = t.cast("dict[str, t.Any]", await super()._content_info(v, user))
        if self.storages[v["storage"]].get("path"):
            data["size"] = -(-data["size"] // SECTOR) * SECTOR
            data["format"] = "raw"
        return data

    async def _extract_config(self, v: dict[str, t.Any], user: str) -> str:
        """tasks-046"""
        entry = self.volume(v["volume"])
        if entry is None or entry["content"] != "backup":
            raise PveError(500, f"volume '{v['volume']}' does not exist")
        sid = v["volume"].partition(":")[0]
        self._check_access(user, sid, "backup", entry.get("vmid"), v["volume"])
        self.require(user, f"/vms/{entry.get('vmid')}", "VM.Backup")
        if entry.get("damaged"):
            raise PveError(500, "ERROR: file 'etc/vzdump/pct.conf' not found in archive")
        config = dict(entry.get("config", {}))
        comment = "".join(f"#{quote(line, safe=' ')}\n" for line in str(config.pop("description", "")).splitlines())
        return comment + "".join(f"{key}: {value}\n" for key, value in sorted(config.items()))

    # ------------------------------------------------------------- restore

    def backed_up(self, volid: str) -> dict[str, t.Any]:
        """The configuration in a backup; a task fails without one (errors-056)."""
        entry = self.volume(volid)
        if entry is None:
            raise TaskError(f"volume '{volid}' does not exist")
        copy: dict[str, t.Any] = json.loads(json.dumps(entry.get("config", {})))
        return copy

    def check_restore(self, user: str, archive: str, old: t.Any) -> None:
        """What create_vm of PVE/API2/LXC.pm refuses in its task before it touches the container that is there."""
        config = self.backed_up(archive)
        try:
            for key in config:
                if re.fullmatch(r"net\d+", key):
                    self._check_bridge(user, config[key])
            privileged = not int(config.get("unprivileged") or 0)
            if privileged and (old is None or int(old.config.get("unprivileged") or 0)):
                self.require(user, "/", "Sys.Modify")
        except PveError as error:
            raise TaskError(str(error.message)) from error
        for key, value in config.items():
            if re.fullmatch(r"mp\d+", key) and not is_volume(parse_mount(value)) and user != "root@pam":
                kind = "device" if parse_mount(value)["volume"].startswith("/dev/") else "bind"
                raise TaskError(f"restoring '{key}' to {kind} mount is only possible for root")

    def backed_up_mounts(self, config: t.Mapping[str, t.Any]) -> dict[str, dict[str, str]]:
        """The volumes that a restore to one storage makes anew."""
        mounts = {key: parse_mount(value) for key, value in config.items() if key == "rootfs" or key[:2] == "mp"}
        return {key: mount for key, mount in mounts.items() if is_volume(mount)}


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
