# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""/cluster/resources, which shows what the nodes' statistics daemons said some seconds ago."""

from __future__ import annotations

import time
import typing as t

from fakepve.model import PveError
from fakepve.server import USER, FakePve, ok

# What comes from the statistics; the rest of an entry is read from the configuration and current.
STATISTICS = ("name", "status", "template", "maxcpu", "maxmem", "maxdisk", "uptime")
EMPTY = ("cpu", "mem", "memhost", "disk", "netin", "netout", "diskread", "diskwrite")
TYPES = ("vm", "storage", "node", "sdn")


class Resources(FakePve):
    """Adds the lag."""

    def __init__(self, *args: t.Any, **options: t.Any) -> None:
        super().__init__(*args, **options)
        # Real seconds until a change shows; 0: at once.
        self.lag = 10.0
        # vmid -> what the statistics say, and the changes they do not know yet as (when they will, statistics).
        self._known: dict[int, dict[str, t.Any]] = {}
        self._coming: dict[int, list[tuple[float, dict[str, t.Any]]]] = {}
        self._last: dict[int, dict[str, t.Any]] = {}

    def _statistics(self, ct: t.Any) -> dict[str, t.Any]:
        return {
            "name": ct.name,
            "status": ct.status,
            "template": int(ct.template),
            "maxcpu": self._cpus(ct),
            "maxmem": self._maxmem(ct),
            "maxdisk": self._maxdisk(ct),
        }

    def settle(self, ct: t.Any) -> None:
        """Let the statistics know a container as it is."""
        self._known[ct.vmid] = self._last[ct.vmid] = self._statistics(ct)
        self._coming.pop(ct.vmid, None)

    def notice(self, ct: t.Any) -> None:
        """Note what has changed about a container, to be shown after the lag."""
        now = self._statistics(ct)
        if self._last.get(ct.vmid) != now:
            self._last[ct.vmid] = now
            self._coming.setdefault(ct.vmid, []).append((time.monotonic() + self.lag, now))

    def _reported(self, ct: t.Any) -> dict[str, t.Any] | None:
        """What the statistics say of a container; None: they have not seen it."""
        if not self.lag:
            self.settle(ct)
        self.notice(ct)
        waiting = self._coming.get(ct.vmid, [])
        while waiting and waiting[0][0] <= time.monotonic():
            self._known[ct.vmid] = waiting.pop(0)[1]
        return self._known.get(ct.vmid)

    def _drop(self, ct: t.Any) -> None:
        super()._drop(ct)
        for table in (self._known, self._coming, self._last):
            table.pop(ct.vmid, None)

    def ct_resources(self, user: str, kind: str | None = None) -> list[dict[str, t.Any]]:
        """A container that the statistics have not seen has the status unknown and no name (races-017).

        Its pool is not said to who may not see that (PVE/API2/Cluster.pm).
        """
        by_id = {ct.vmid: ct for ct in self.cts}
        entries = super().ct_resources(user, kind)
        for entry in entries:
            if "pool" in entry and not self.allowed(user, f"/pool/{entry['pool']}", "Pool.Audit"):
                del entry["pool"]
            reported = self._reported(by_id[entry["vmid"]])
            if reported is None:
                for key in (*STATISTICS, *EMPTY):
                    entry.pop(key, None)
                entry["status"] = "unknown"
                continue
            offline = entry["status"] == "unknown"
            entry.update(reported)
            entry["memhost"] = entry["mem"] = 64 * 2**20 if entry["status"] == "running" else 0
            if entry["status"] != "running":
                entry["uptime"] = 0
            if offline:
                entry["status"] = "unknown"
        return entries

    def _vm_resources(self, user: str) -> list[dict[str, t.Any]]:
        """VMs, which share the ids with containers."""
        return [
            {
                "id": vm.guest,
                "type": "qemu",
                "node": vm.node,
                "name": vm.name,
                "vmid": vm.vmid,
                "status": vm.status,
                "template": int(vm.template),
                **self._vm_usage(vm),
            }
            for vm in self.vms
            if self.allowed(user, f"/vms/{vm.vmid}", "VM.Audit")
        ]

    async def _resources(self, request: t.Any) -> t.Any:
        """Anything but `type` is refused, and so is a type that is none (errors-166, 167)."""
        errors = {}
        for key in request.query:
            if key != "type":
                errors[key] = "property is not defined in schema and the schema does not allow additional properties"
        kind = request.query.get("type")
        if kind is not None and kind not in TYPES:
            errors["type"] = f"value '{kind}' does not have a value in the enumeration '{', '.join(TYPES)}'"
        if errors:
            raise PveError(400, "Parameter verification failed.", errors)
        user = request[USER]
        answer: list[dict[str, t.Any]] = []
        if kind is None:
            for name in sorted(self.pools):
                if self.allowed(user, f"/pool/{name}", "Pool.Audit"):
                    answer.append({"id": f"/pool/{name}", "type": "pool", "pool": name})
        if kind in (None, "vm"):
            answer += self.ct_resources(user, kind) + self._vm_resources(user)
        if kind in (None, "node"):
            for name, state in sorted(self.nodes.items()):
                online = state.get("online", True)
                entry = {"id": f"node/{name}", "type": "node", "node": name, "level": ""}
                entry["status"] = "online" if online else "offline"
                if online and self.allowed(user, f"/nodes/{name}", "Sys.Audit"):
                    entry |= {"cgroup-mode": 2, **self._node_stats(online)}
                answer.append(entry)
        if kind in (None, "storage"):
            for node in sorted(self.nodes):
                for name in self.storages:
                    entry = self._storage_resource(node, name)
                    if entry and self.allowed(user, f"/storage/{name}", "Datastore.Audit"):
                        answer.append(entry)
        return ok(answer)
