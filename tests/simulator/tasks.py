# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks: their logs, their lists, and tasks that start others."""

from __future__ import annotations

import asyncio
import contextvars
import time
import typing as t

from aiohttp import web
from fakepve.model import PveError, TaskError
from fakepve.server import USER, FakePve, params

Body = t.Callable[[], t.Awaitable[t.Any]]
_RECORD: contextvars.ContextVar[dict[str, t.Any]] = contextvars.ContextVar("record")
_AFTER: contextvars.ContextVar[list[Body]] = contextvars.ContextVar("after")
WAITING = "trying to acquire lock..."


def log(*lines: str) -> None:
    """Write to the log of the task that runs this."""
    _RECORD.get()["log"].extend(lines)


def afterwards(body: Body) -> None:
    """Have something done when the task that runs this has ended and released its locks."""
    _AFTER.get().append(body)


class Tasks(FakePve):
    """Adds what the logs and lists of tasks lack."""

    def __init__(self, *args: t.Any, **options: t.Any) -> None:
        super().__init__(*args, **options)
        self._running: dict[str, asyncio.Task[None]] = {}

    async def task(
        self,
        node: str,
        ttype: str,
        tid: t.Any,
        user: str,
        body: Body,
        vm: t.Any = None,
        lock: bool = True,
        log: t.Iterable[str] = (),
    ) -> str:
        """Start a task; returns its UPID."""
        upid, pid, start = self._upid(node, ttype, tid, user)
        record: dict[str, t.Any] = {
            "upid": upid,
            "node": node,
            "pid": pid,
            "pstart": pid * 7,
            "starttime": start,
            "type": ttype,
            "id": str(tid),
            "user": user,
            "status": "running",
            "log": list(log),
        }
        self.tasks[upid] = record
        self.tasklog.append(record)
        after: list[Body] = []

        async def run() -> None:
            _RECORD.set(record)
            _AFTER.set(after)
            held = False
            exitstatus = "OK"
            try:
                if vm is not None and lock:
                    if vm.lock_holder is not None:
                        record["log"].append(WAITING)
                    await self.acquire(vm, upid)
                    held = True
                    if record["log"][-1:] == [WAITING]:
                        record["log"].append(" OK")
                note = await body()
                record["log"].extend([note] if note else [])
            except TaskError as error:
                exitstatus = str(error)
            except asyncio.CancelledError:
                exitstatus = "unexpected status"  # tasks-074
            finally:
                if held:
                    self.release(vm, upid)
            if vm is not None:
                self.notice(vm)
            record.update(status="stopped", exitstatus=exitstatus, endtime=int(time.time()))
            if exitstatus != "unexpected status":
                record["log"].append("TASK OK" if exitstatus == "OK" else f"TASK ERROR: {exitstatus}")
            self._running.pop(upid, None)
            for step in after:
                await step()

        if self.time_scale:
            self._running[upid] = asyncio.get_running_loop().create_task(run())
            # A worker is a process of its own: it starts at once, whatever the client does next.
            await asyncio.sleep(0)
        else:
            await asyncio.get_running_loop().create_task(run())
        return upid

    def notice(self, ct: t.Any) -> None:
        """Something about a container may have changed."""

    # --------------------------------------------------------------- lists

    def _listed(self, task: dict[str, t.Any]) -> dict[str, t.Any]:
        entry = {key: value for key, value in task.items() if key not in ("log", "exitstatus", "overruled")}
        owner, _bang, token = task["user"].partition("!")
        if token:
            entry.update(user=owner, tokenid=token)
        if task["status"] == "running":
            entry.update(status="RUNNING", saved="0")  # tasks-001
        else:
            entry["status"] = task["exitstatus"]
        return entry

    async def _task_list(self, request: t.Any) -> web.Response:
        """Finished tasks, unless `source` says otherwise, with all filters (tasks-066 to 071)."""
        node, user = request.match_info["node"], request[USER]
        p = self._verify(request, await params(request))
        audit = self.allowed(user, f"/nodes/{node}", "Sys.Audit")
        source = p.get("source", "archive")
        chosen = []
        for task in reversed(self.tasklog):
            running = task["status"] == "running"
            failed = not running and task["exitstatus"] != "OK" and not task["exitstatus"].startswith("WARNINGS")
            if (
                task["node"] == node
                and (audit or self._task_owner(user, task))
                and (source == "all" or running == (source == "active"))
                and (p.get("vmid") is None or task["id"] == str(p["vmid"]))
                and p.get("typefilter") in (None, task["type"])
                and str(p.get("userfilter") or "").lower() in task["user"].lower()
                and int(p.get("since") or 0) <= task["starttime"] <= int(p.get("until") or 2**40)
                and (failed or not p.get("errors"))
                and (not p.get("statusfilter") or ("error" if failed else "ok") in str(p["statusfilter"]).split(","))
            ):
                chosen.append(task)
        chosen.sort(key=lambda task: (task["status"] != "running", -task["starttime"]))
        start, limit = p.get("start", 0), p.get("limit", 50) or len(chosen)
        data = [self._listed(task) for task in chosen[start : start + limit]]
        return web.json_response({"data": data, "total": len(chosen)})

    def _task_view(self, task: dict[str, t.Any], listing: bool = False) -> dict[str, t.Any]:
        return {**super()._task_view(task, listing), "user": task["user"].partition("!")[0]}

    def _get_task(self, request: t.Any) -> t.Any:
        """errors-172, 173"""
        upid = request.match_info["upid"]
        if upid not in self.tasks:
            text = "no such task" if upid.startswith("UPID:") else "unable to parse worker upid"
            raise PveError(400, "Parameter verification failed.", {"upid": text})
        return super()._get_task(request)

    async def _task_log(self, request: t.Any) -> web.Response:
        """With limit=0 all of it; of a task that never was, one line (errors-174)."""
        p = self._verify(request, await params(request))
        if request.match_info["upid"].startswith("UPID:") and request.match_info["upid"] not in self.tasks:
            lines = ["unable to open file - No such file or directory"]
        else:
            lines = self._get_task(request)["log"] or ["no content"]
        start, limit = p.get("start", 0), p.get("limit", 50) or len(lines)
        data = [{"n": number, "t": text} for number, text in enumerate(lines, 1)][start : start + limit]
        return web.json_response({"data": data, "total": len(lines)})

    def _routes_task_control(self) -> list[tuple[str, str, t.Any]]:
        return [
            ("GET", "/cluster/tasks", self._cluster_tasks),
            ("DELETE", "/nodes/{node}/tasks/{upid}", self._task_abort),
        ]

    async def _cluster_tasks(self, _v: dict[str, t.Any], user: str) -> list[dict[str, t.Any]]:
        """The latest of all nodes (tasks-072)."""
        chosen = []
        for task in reversed(self.tasklog):
            if self._task_owner(user, task) or self.allowed(user, f"/nodes/{task['node']}", "Sys.Audit"):
                entry = self._listed(task)
                entry.pop("pstart")
                if task["status"] == "running":
                    entry.pop("status")
                else:
                    entry.pop("pid")
                    entry["saved"] = "1"
                chosen.append(entry)
        return chosen[:25]

    async def _task_abort(self, v: dict[str, t.Any], user: str) -> None:
        """tasks-073, 074"""
        task = self.tasks.get(v["upid"])
        if task is None:
            raise PveError(400, "Parameter verification failed.", {"upid": "no such task"})
        if not self._task_owner(user, task):
            self.require(user, f"/nodes/{v['node']}", "Sys.Modify")
        if v["upid"] in self._running:
            self._running[v["upid"]].cancel()
