# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations of containers, as PVE/LXC/Migrate.pm and the HA manager carry them out."""

from __future__ import annotations

import json
import re
import time
import typing as t

from fakepve.lxc import parse_mount
from fakepve.model import PveError, TaskError
from fakepve.server import ok

from .configuration import bad
from .containers import Containers
from .options import is_volume, print_mount, split_list
from .tasks import afterwards, log

COPIED = ("dir", "zfspool", "lvmthin", "lvm", "btrfs")
BASED = re.compile(r"(?:.*/)?base(?:vol)?-\d+-[^/]+/")


class Migrations(Containers):
    """Adds what a migration refuses, on which storages the volumes are afterwards, and the HA manager's own pace.

    ha_rules: container -> what GET …/migrate says of it.
    node_usage: node -> fields of its entry in /cluster/resources; storage_usage: (node, storage) -> the same.
    start_refused: (node, container) -> why it does not start there.
    """

    def __init__(self, *args: t.Any, **options: t.Any) -> None:
        super().__init__(*args, **options)
        self.ha_rules: dict[int, dict[str, t.Any]] = {}
        self.node_usage: dict[str, dict[str, t.Any]] = {}
        self.storage_usage: dict[tuple[str, str], dict[str, t.Any]] = {}
        self.start_refused: dict[tuple[str, int], str] = {}

    # ---------------------------------------------------------------------------------------------- what is asked

    async def _resources(self, request: t.Any) -> t.Any:
        """With the usage and the HA states that a test has set."""
        answer = await super()._resources(request)
        entries = json.loads(answer.text)["data"]
        ignored = {ct.vmid for ct in self.cts if ct.ha_state == "ignored"}
        for entry in entries:
            if entry["type"] == "lxc" and entry["vmid"] in ignored:
                entry["hastate"] = "ignored"
            if entry["type"] == "node" and entry["status"] == "online":
                entry.update(self.node_usage.get(entry["node"], {}))
            elif entry["type"] == "storage":
                entry.update(self.storage_usage.get((entry["node"], entry["storage"]), {}))
        return ok(entries)

    async def _lxc_migrate_check(self, user: str, v: dict[str, t.Any]) -> dict[str, t.Any]:
        """Without rules of the HA manager all other nodes are allowed, also those that are offline."""
        ct = self._find_ct(v["node"], v["vmid"])
        self.need_quorum()
        self._ct_check_lock(ct)
        answer: dict[str, t.Any] = {"running": int(ct.status == "running"), "not-allowed-nodes": {}}
        answer["allowed-nodes"] = [name for name in sorted(self.nodes) if name != v["node"]]
        if ct.ha_managed:
            answer["dependent-ha-resources"] = []
            answer.update(self.ha_rules.get(ct.vmid, {}))
        return answer

    # ------------------------------------------------------------------------------------------------ what is done

    async def _lxc_migrate(self, user: str, v: dict[str, t.Any]) -> str:
        """errors-015, 152, 153, permissions-033, 085"""
        node, target = v["node"], v["target"]
        if target == node:
            raise bad(target="target is local node.")
        self.need_quorum()
        if target not in self.nodes:
            raise PveError(500, f"no such cluster node '{target}'")
        ct = self._find_ct(node, v["vmid"])
        if ct.status == "running" and not v.get("online") and not v.get("restart"):
            raise PveError(500, "can't migrate running container without --online or --restart")
        mapping = dict(entry.split(":") for entry in split_list(v.get("target-storage")) if ":" in entry)
        if v.get("target-storage"):
            self._vm_perm(user, ct.vmid, None, "VM.Config.Disk")
            for name in mapping.values():
                self.require(user, f"/storage/{name}", "Datastore.AllocateSpace")
                if not self._storage_enabled(name, target):
                    raise PveError(500, f"storage '{name}' is not available on node '{target}'")

        async def move() -> None:
            await self._migrate(ct, v, mapping)

        if ct.ha_managed:

            async def relocate() -> None:
                afterwards(by_manager)

            async def by_itself() -> None:
                # The manager is told the target and nothing else (migrate_vm of PVE/API2/LXC.pm).
                await self._migrate(ct, {"node": node, "target": target}, {})

            async def by_manager() -> None:
                state, ct.ha_state = ct.ha_state, "relocate"
                await self.pause(self.ha_delay)
                if ct.status == "running":
                    await self._ct_powerdown(ct, 180, True)
                upid = await self.task(node, "vzmigrate", ct.vmid, "root@pam", by_itself, vm=ct, lock=False)
                while self.tasks[upid]["status"] == "running":
                    await self.pause(1)
                await self.pause(self.ha_delay)
                if state == "started":
                    self._run_at(ct)
                ct.ha_state = state

            note = f"Requesting HA migration for CT {ct.vmid} to node {target}"
            return await self.task(node, "hamigrate", ct.vmid, user, relocate, vm=ct, lock=False, log=[note])
        return await self.task(node, "vzmigrate", ct.vmid, user, move, vm=ct, lock=False)

    async def _migrate(self, ct: t.Any, v: dict[str, t.Any], mapping: dict[str, str]) -> None:
        began = time.time()
        try:
            try:
                running = await self._prepare_migration(ct, v, mapping)
                await self._copy_volumes(ct, v, mapping, running)
            except TaskError as error:
                duration = time.strftime("%H:%M:%S", time.gmtime(time.time() - began))
                log(f"{_now()} ERROR: migration aborted (duration {duration}): {error}")
                raise TaskError("migration aborted") from error
            if running:
                try:
                    self._run_at(ct)
                except TaskError as error:
                    log(f"{_now()} ERROR: {error}", f"{_now()} ERROR: migration finished with problems")
                    raise TaskError("migration problems") from error
            log(f"{_now()} migration finished successfully (duration 00:00:01)")
        finally:
            self.notice(ct)

    async def _prepare_migration(self, ct: t.Any, v: dict[str, t.Any], mapping: dict[str, str]) -> bool:
        """prepare: checks, and the shutdown, after whose failure nothing is put right again."""
        self._task_lock(ct)
        running = ct.status == "running"
        if running and v.get("online"):
            raise TaskError("lxc live migration is currently not implemented")
        for key, mount in self._mounts(ct):
            if not is_volume(mount):
                if mount.get("shared") == "1":
                    continue
                raise TaskError(
                    f"cannot migrate local {'device' if mount['volume'][:5] == '/dev/' else 'bind'} mount point '{key}'"
                )
            sid = mount["volume"].partition(":")[0]
            if "rootdir" not in str(self.storages[sid].get("content")).split(","):
                raise TaskError(f"content type 'rootdir' is not available on storage '{sid}'")
            there = sid if self.storages[sid].get("shared") else mapping.get(sid, sid)
            if not self._storage_enabled(there, v["target"]):
                raise TaskError(f"storage '{there}' is not available on node '{v['target']}'")
        if not self.nodes[v["target"]].get("online", True):
            raise TaskError("Can't connect to destination address using public key")
        if running:
            log(f"{_now()} shutdown CT {ct.vmid}")
            await self._ct_powerdown(ct, int(v.get("timeout") or 180), False)
        return running

    async def _copy_volumes(self, ct: t.Any, v: dict[str, t.Any], mapping: dict[str, str], running: bool) -> None:
        """phase1: the volumes of local storages; after a failure the container runs again where it was."""
        log(f"{_now()} starting migration of CT {ct.vmid} to node '{v['target']}' (192.0.2.12)")
        ct.lock = "migrate"
        try:
            for _key, mount in self._mounts(ct):
                sid, _colon, name = mount["volume"].partition(":")
                if not is_volume(mount) or self.storages[sid].get("shared"):
                    continue
                why = self._not_copied(ct, self.storages[sid]["type"], name)
                if why:
                    log(f"{_now()} WARN: can't migrate local volume '{mount['volume']}': {why}")
                    raise TaskError("can't migrate CT - check log")
            await self.pause(self.ct_secs["migrate"])
            if not self.nodes[v["target"]].get("online", True) or not self.nodes[v["node"]].get("online", True):
                raise TaskError("storage migration failed - No route to host")
            for key, mount in self._mounts(ct):
                sid = mount["volume"].partition(":")[0]
                if is_volume(mount) and sid in mapping and not self.storages[sid].get("shared"):
                    volume = self.create_volume(mapping[sid], ct.vmid, self.size_of(mount))
                    self.remove_volume(mount["volume"])
                    ct.config[key] = print_mount({**mount, "volume": volume})
            ct.node = v["target"]
        except TaskError:
            ct.lock = None
            if running:
                log(f"{_now()} start container on source node")
                self._run_at(ct)
            raise
        finally:
            ct.lock = None

    @staticmethod
    def _not_copied(ct: t.Any, kind: str, name: str) -> str | None:
        if kind not in COPIED:
            return f"storage type '{kind}' not supported"
        if ct.snapshots and kind not in ("zfspool", "btrfs"):
            return "non-migratable snapshot exists"
        match = BASED.match(name)
        return f"clone of '{match[0].rstrip('/')}'" if match else None

    @staticmethod
    def _mounts(ct: t.Any) -> list[tuple[str, dict[str, str]]]:
        """The mount points and the volumes that it does not use."""
        return [
            (key, parse_mount(text)) for key, text in ct.config.items() if re.fullmatch(r"rootfs|(mp|unused)\d+", key)
        ]

    def _run_at(self, ct: t.Any) -> None:
        why = self.start_refused.get((ct.node, ct.vmid))
        if why:
            raise TaskError(why)
        ct.status, ct.started_at, ct.pid = "running", time.time(), next(self._ct_pids)


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
