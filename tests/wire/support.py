# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of lxc_container share: running it with its requests recorded, in check mode first."""

from __future__ import annotations

import copy
import inspect
import typing as t
from dataclasses import dataclass
from unittest import mock

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api import client as api_client
from ansible_collections.lxcri.proxmox.tests.simulator.cluster import Cluster
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator
from ansible_collections.lxcri.proxmox.tests.simulator.wire import Request
from ansible_collections.lxcri.proxmox.tests.wire.module_runner import run_module

TEMPLATE = "local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst"
RESOURCES = "GET /cluster/resources"
NEXT_ID = "GET /cluster/nextid"
PERMISSIONS = "GET /access/permissions"
LISTS = ["GET /nodes/pve1/lxc", "GET /nodes/pve2/lxc", "GET /nodes/pve3/lxc"]
# Any value, for parameters such as a digest.
ANY = mock.ANY
NET = "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:02:01,ip=dhcp,type=veth"
# What a new container needs.
NEW: dict[str, t.Any] = {"node": "pve1", "template": TEMPLATE, "rootfs": {"storage": "local-zfs", "size": "8G"}}

Write = tuple[str, str, dict[str, t.Any]]


def base(vmid: int = 201, node: str = "pve1") -> str:
    """The path of a container."""
    return f"/nodes/{node}/lxc/{vmid}"


def reads(vmid: int = 201, node: str = "pve1") -> list[str]:
    """The requests that read a container."""
    return [f"GET {base(vmid, node)}/pending", f"GET {base(vmid, node)}/status/current"]


def polls(node: str = "pve1") -> str:
    """The request by which tasks are awaited."""
    return f"GET /nodes/{node}/tasks"


def state_of(cluster: Cluster) -> dict[str, t.Any]:
    """Everything that a write could change."""
    return copy.deepcopy(
        {
            "containers": {
                ct.vmid: (ct.node, ct.status, ct.config, ct.pending, sorted(ct.deletions), ct.snapshots)
                for ct in cluster.cts
            },
            "pools": cluster.pools,
            "volumes": {name: store.get("volumes") for name, store in cluster.storages.items()},
            "tasks": len(cluster.tasks),
        }
    )


@dataclass
class Run:
    """What the module returned, and what it sent."""

    result: dict[str, t.Any]
    requests: list[Request]

    @property
    def asked(self) -> list[str]:
        """Method and path of each request; those that wait for one task, however many, are one."""
        lines: list[str] = []
        for request in self.requests:
            if not (lines[-1:] == [str(request)] and str(request).endswith("/tasks")):
                lines.append(str(request))
        return lines

    @property
    def writes(self) -> list[Write]:
        """Method, path and parameters of what may change something."""
        return [
            (request.method, request.path, request.params)
            for request in self.requests
            if request.method != "GET" and request.path != "/access/ticket"
        ]

    @property
    def logins(self) -> int:
        return sum(request.path == "/access/ticket" for request in self.requests)

    @property
    def changed(self) -> bool:
        return bool(self.result["changed"])

    @property
    def container(self) -> dict[str, t.Any]:
        return t.cast("dict[str, t.Any]", self.result["container"])

    @property
    def plan(self) -> list[tuple[t.Any, ...]]:
        """(key, before, after, effect) of what is done."""
        return [
            (entry["key"], entry["before"], entry["after"], entry["effect"])
            for entry in self.result["plan"]
            if entry["request"] is not None
        ]

    @property
    def blocked(self) -> list[tuple[t.Any, ...]]:
        """The same of what is not done."""
        return [
            (entry["key"], entry["before"], entry["after"], entry["effect"])
            for entry in self.result["plan"]
            if entry["request"] is None
        ]

    @property
    def keys(self) -> list[str]:
        return [entry["key"] for entry in self.result["plan"]]

    @property
    def code(self) -> str | None:
        """The code of the failure."""
        return self.result["failure"]["code"] if "failure" in self.result else None

    @property
    def details(self) -> dict[str, t.Any]:
        return t.cast("dict[str, t.Any]", self.result["failure"]["details"])


class Module:
    """Runs a module against the cluster, as root's token unless the options say otherwise.

    name: of the module. alike: what check mode and the run return alike.
    """

    name: str
    alike: tuple[str, ...] = ("changed", "diff")

    def __init__(self, cluster: Simulator) -> None:
        self.cluster = cluster
        self.options: dict[str, t.Any] = dict(cluster.options)

    def as_root(self) -> None:
        """Log in as root@pam with the password, who alone may do everything."""
        for name in ("api_token_id", "api_token_secret"):
            self.options.pop(name, None)
        self.options.update(api_user=self.cluster.user, api_password=self.cluster.password)

    def __call__(self, check_mode: bool = False, **options: t.Any) -> Run:
        """Run it once."""
        self.cluster.requests.clear()
        result = run_module(self.name, {**self.options, **options}, check_mode=check_mode, diff=True)
        return Run(result, list(self.cluster.requests))

    def check(self, **options: t.Any) -> Run:
        """Run it in check mode, which must change nothing and send nothing but GET."""
        before = self.cluster.call(state_of)
        run = self(check_mode=True, **options)
        assert run.writes == []
        assert self.cluster.call(state_of) == before
        return run

    def apply(self, **options: t.Any) -> Run:
        """Check first, then run: both must say the same."""
        check = self.check(**options)
        assert not check.result.get("failed"), check.result["msg"]
        run = self(**options)
        assert not run.result.get("failed"), run.result["msg"]
        self.compare(check, run, options)
        return run

    def compare(self, check: Run, run: Run, options: t.Mapping[str, t.Any]) -> None:
        """What check mode has said is what was done."""
        for key in self.alike:
            assert check.result[key] == run.result[key], (key, options)

    def converge(self, **options: t.Any) -> Run:
        """Check, run, and run again: the second run must do nothing."""
        run = self.apply(**options)
        self.unchanged(**options)
        return run

    def unchanged(self, **options: t.Any) -> Run:
        """Run it where everything is as declared."""
        run = self(**options)
        assert not run.result.get("failed"), run.result["msg"]
        assert (run.writes, run.changed) == ([], False)
        assert run.result["diff"] in ([], {"before": {}, "after": {}})
        return run

    def refused(self, code: str, **options: t.Any) -> Run:
        """Check and run: both must be refused with nothing but GET sent."""
        check = self.check(**options)
        before = self.cluster.call(state_of)
        run = self(**options)
        for each in (check, run):
            assert (each.code, each.writes) == (code, []), each.result
            assert not each.result.get("changed")
        assert self.cluster.call(state_of) == before
        assert check.result["failure"] == run.result["failure"]
        return run

    def add(self, vmid: int = 201, **settings: t.Any) -> t.Any:
        """A container that has been there for long."""
        return self.cluster.call("add_ct", vmid, **{"name": f"web-{vmid - 200}", **settings})

    def ct(self, vmid: int = 201) -> t.Any:
        """A container of the simulated cluster."""
        return self.cluster.cluster.ct(vmid)


class Lxc(Module):
    """Runs lxc_container against the cluster."""

    name = "lxc_container"

    def compare(self, check: Run, run: Run, options: t.Mapping[str, t.Any]) -> None:
        """Also the order of a diff, and what is read for it."""
        assert check.changed == run.changed
        assert check.keys == run.keys
        assert check.result["restart_required"] == run.result["restart_required"]
        for each in (check, run):
            shown = list(dict.fromkeys(entry[0] for entry in each.plan))
            assert list(each.result["diff"]["before"]) == list(each.result["diff"]["after"]) == shown
        if not options.get("clone") and not options.get("restore"):
            # A copy has what only Proxmox can tell, such as its MAC address.
            assert check.result["diff"] == run.result["diff"]
        if run.container and check.container:
            assert check.container["status"] == run.container["status"]
        if not options.get("image"):
            assert "GET /version" not in [*check.asked, *run.asked]

    def unchanged(self, **options: t.Any) -> Run:
        run = super().unchanged(**options)
        assert run.plan == []
        return run


def on_request(
    cluster: Simulator,
    method: str,
    suffix: str,
    act: t.Callable[[Cluster, t.Any], t.Any],
    times: int = 1,
    after: bool = False,
) -> None:
    """Have something happen at the next requests that match: before, or after, they are carried out.

    act: a function, which may be a coroutine, of the cluster and the request.
    """
    simulated = cluster.cluster
    original = simulated._plain
    left = [times]

    async def plain(request: t.Any, handler: t.Any) -> t.Any:
        matches = request.method == method and request.path.endswith(suffix) and left[0] > 0
        if matches:
            left[0] -= 1
        answer = await original(request, handler) if after or not matches else None
        if matches:
            outcome = act(simulated, request)
            if inspect.isawaitable(outcome):
                await outcome
        return answer or await original(request, handler)

    cluster.call(lambda _cluster: setattr(simulated, "_plain", plain))


def reset(_cluster: Cluster, request: t.Any) -> None:
    """Close the connection of a request without an answer (for on_request)."""
    request.transport.close()
    raise ConnectionResetError("the connection was reset")


@pytest.fixture
def lxc(cluster: Simulator) -> Lxc:
    """Runs lxc_container against a fresh cluster."""
    return Lxc(cluster)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses before a request is sent again."""
    monkeypatch.setattr(api_client, "_pause", lambda _attempt: 0.0)
