# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every request of lxc_fleet, as it arrives at the API."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import typing as t
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api import client as api_client
from ansible_collections.lxcri.proxmox.tests.simulator.cluster import NODES, Cluster
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator
from ansible_collections.lxcri.proxmox.tests.wire.module_runner import run_module

TEMPLATE = "local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst"
RESOURCES = "GET /cluster/resources"
NEW: dict[str, t.Any] = {
    "template": TEMPLATE,
    "rootfs": {"storage": "local-zfs", "size": "4G"},
    "memory": 256,
}
# Runs a module with the options on standard input.
PROGRAM = """
import json, sys
from ansible_collections.lxcri.proxmox.tests.wire.module_runner import run_module
print(json.dumps(run_module("lxc_fleet", json.load(sys.stdin))))
"""


@dataclass
class Run:
    """What the module returned, and what it sent."""

    result: dict[str, t.Any]
    sent: list[str]

    @property
    def writes(self) -> list[str]:
        return [line for line in self.sent if not line.startswith("GET ")]

    @property
    def entries(self) -> dict[str, dict[str, t.Any]]:
        """The results of the containers, by hostname."""
        return {entry["hostname"]: entry for entry in self.result["containers"]}

    @property
    def nodes(self) -> dict[str, str]:
        return {name: entry["node"] for name, entry in self.entries.items()}

    def codes(self) -> dict[str, str]:
        """The codes of those that failed."""
        return {name: entry["failure"]["code"] for name, entry in self.entries.items() if "failure" in entry}


Fleet = t.Callable[..., Run]


@pytest.fixture
def fleet(cluster: Simulator) -> Fleet:
    """Runs the module with the containers that are given, and with what a new container needs."""

    def run(*containers: t.Mapping[str, t.Any], check_mode: bool = False, diff: bool = False, **options: t.Any) -> Run:
        cluster.requests.clear()
        args = {**cluster.options, "containers": list(containers), "defaults": NEW, **options}
        result = run_module("lxc_fleet", args, check_mode=check_mode, diff=diff)
        return Run(result, cluster.requests.lines)

    return run


def names(count: int, prefix: str = "web") -> list[dict[str, t.Any]]:
    """Declarations with nothing but hostnames."""
    return [{"hostname": f"{prefix}-{number + 1}"} for number in range(count)]


def populate(cluster: Simulator, count: int, **config: t.Any) -> None:
    """Running containers web-1 to web-N as NEW has them, on the nodes in turn."""
    texts = {"rootfs": "local-zfs:subvol-{vmid}-disk-0,size=4G", "memory": 256, "ostype": "debian", **config}
    for number in range(count):
        vmid = 200 + number
        own = {key: str(text).format(vmid=vmid) for key, text in texts.items()}
        cluster.call("add_ct", vmid, name=f"web-{number + 1}", node=NODES[number % 3], status="running", config=own)


def table(cluster: Simulator) -> dict[str, tuple[str, str]]:
    """hostname -> (node, status)"""
    return {entry["hostname"]: (entry["node"], entry["status"]) for entry in cluster.call("table")}


def move(cluster: Cluster, vmid: int, node: str) -> None:
    """Somebody migrates a container."""
    cluster.ct(vmid).node = node


def pending(vmid: int) -> str:
    return f"GET /nodes/{NODES[(vmid - 200) % 3]}/lxc/{vmid}/pending"


# ------------------------------------------------------------------------------------------------------- no-ops


@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_finding_everything_as_declared_costs_one_for_each_and_each_node_and_one(
    fleet: Fleet, cluster: Simulator, count: int
) -> None:
    populate(cluster, count, tags="shop")
    # What is not declared costs nothing, whatever there is.
    cluster.call("add_ct", 900, name="other", node="pve3", status="running")
    run = fleet(*names(count), owner="shop")
    involved = NODES[: min(count, 3)]
    assert run.sent[0] == RESOURCES
    assert sorted(run.sent[1:]) == sorted(
        [f"GET /nodes/{node}/lxc" for node in involved] + [pending(200 + number) for number in range(count)]
    )
    assert len(run.sent) == count + len(involved) + 1
    assert run.result["changed"] is False
    assert run.result["summary"] == {"created": 0, "changed": 0, "unchanged": count, "pruned": 0, "failed": 0}
    assert cluster.requests.connections <= api_client.CONNECTIONS


def test_a_fleet_of_one_costs_what_a_container_costs(fleet: Fleet, cluster: Simulator) -> None:
    populate(cluster, 1)
    run = fleet(*names(1))
    assert run.sent == [RESOURCES, pending(200), "GET /nodes/pve1/lxc/200/status/current"]
    by_id = fleet({"vmid": 200, "node": "pve1"})
    assert by_id.sent == [pending(200), "GET /nodes/pve1/lxc/200/status/current"]


def test_what_was_just_made_is_found_by_name_at_the_same_cost(fleet: Fleet) -> None:
    assert fleet(*names(6)).result["changed"] is True
    run = fleet(*names(6))
    assert (len(run.sent), run.writes) == (6 + 3 + 1, [])
    assert run.result["changed"] is False


def test_a_fleet_of_none_asks_only_for_what_is_owned(fleet: Fleet, cluster: Simulator) -> None:
    assert fleet().result["containers"] == []
    populate(cluster, 3, tags="shop")
    run = fleet(owner="shop")
    assert (run.result["changed"], run.writes) == (False, [])


# ----------------------------------------------------------------------------------------------------- creation


@pytest.mark.parametrize("cluster", [{"time_scale": 0}], indirect=True)
def test_a_creation_is_one_request_and_a_start(fleet: Fleet, cluster: Simulator) -> None:
    run = fleet({"hostname": "web-1", "tags": ["Shop"], "node": "pve2"}, {"hostname": "web-2", "node": "pve3"})
    # A token is asked for its privileges; the ids come from one request.
    assert sorted(run.writes) == [
        "POST /nodes/pve2/lxc",
        f"POST /nodes/pve2/lxc/{run.entries['web-1']['vmid']}/status/start",
        "POST /nodes/pve3/lxc",
        f"POST /nodes/pve3/lxc/{run.entries['web-2']['vmid']}/status/start",
    ]
    assert Counter(run.sent)["GET /cluster/nextid"] == 1
    assert Counter(run.sent)["GET /access/permissions"] == 1
    assert Counter(run.sent)[RESOURCES] == 1
    [creation] = [r.params for r in cluster.requests.writes if str(r) == "POST /nodes/pve2/lxc"]
    assert creation == {
        "vmid": str(run.entries["web-1"]["vmid"]),
        "hostname": "web-1",
        "ostemplate": TEMPLATE,
        "rootfs": "local-zfs:4",
        "memory": "256",
        "tags": "shop",
    }
    assert run.result["summary"]["created"] == 2
    entry = run.entries["web-1"]
    assert (entry["changed"], entry["pruned"], entry["container"]["status"]) == (True, False, "running")
    assert [task["exitstatus"] for task in entry["tasks"]] == ["OK", "OK"]
    assert {change["request"] for change in entry["plan"]} == {
        "POST /nodes/pve2/lxc",
        f"POST /nodes/pve2/lxc/{entry['vmid']}/status/start",
    }


def test_one_list_of_a_node_serves_all_tasks_there(fleet: Fleet, cluster: Simulator) -> None:
    run = fleet(*[{**entry, "node": "pve1"} for entry in names(8)], concurrency=8)
    asked = [line for line in run.sent if "/tasks" in line]
    assert run.result["summary"]["created"] == 8
    assert set(asked) == {"GET /nodes/pve1/tasks"}
    assert len(asked) < 2 * 8


@pytest.mark.parametrize(("concurrency", "cluster"), [(1, {}), (2, {}), (5, {"time_scale": 0.2})], indirect=["cluster"])
def test_never_more_tasks_on_a_node_than_asked_for(fleet: Fleet, cluster: Simulator, concurrency: int) -> None:
    most = cluster.call(watch_tasks)
    run = fleet(*names(21), concurrency=concurrency)
    assert run.result["summary"]["created"] == 21
    assert most == dict.fromkeys(NODES, concurrency)


def watch_tasks(cluster: Cluster) -> dict[str, int]:
    """The most tasks that were in flight at a time on each node."""
    now: Counter[str] = Counter()
    most: dict[str, int] = {}
    original = cluster.task

    async def watched(node: str, ttype: str, tid: t.Any, user: str, body: t.Any, **options: t.Any) -> t.Any:
        async def counted() -> t.Any:
            now[node] += 1
            most[node] = max(most.get(node, 0), now[node])
            try:
                return await body()
            finally:
                now[node] -= 1

        return await original(node, ttype, tid, user, counted, **options)

    cluster.task = watched
    return most


def test_two_fleets_in_two_processes_make_all_and_none_twice(fleet: Fleet, cluster: Simulator) -> None:
    processes = [start(cluster, names(8, prefix)) for prefix in ("web", "db")]
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert json.loads(output)["summary"]["created"] == 8, errors
    made = cluster.call("table")
    assert sorted(entry["hostname"] for entry in made) == sorted(
        e["hostname"] for p in ("web", "db") for e in names(8, p)
    )
    assert len({entry["vmid"] for entry in made}) == 16
    assert fleet(*names(8), *names(8, "db")).result["changed"] is False


def start(cluster: Simulator, containers: list[dict[str, t.Any]], **options: t.Any) -> subprocess.Popen[str]:
    """The module in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    process.stdin.write(json.dumps({**cluster.options, "containers": containers, "defaults": NEW, **options}))
    process.stdin.close()
    process.stdin = None
    return process


# -------------------------------------------------------------------------------------------------- interruption


@pytest.mark.parametrize("cluster", [{"time_scale": 0.3}], indirect=True)
@pytest.mark.parametrize("at", [1, 4, 9])
def test_an_interrupted_run_is_finished_by_the_next_without_duplicates(
    fleet: Fleet, cluster: Simulator, at: int
) -> None:
    process = start(cluster, names(9), concurrency=2)
    deadline = time.monotonic() + 30
    while len([r for r in cluster.requests.writes if r.path.endswith("/lxc")]) < min(at, 6):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if at == 9:
        time.sleep(0.4)
    process.kill()
    process.communicate()
    # The tasks go on: what is being created has no name yet.
    cluster.call("set_option", "time_scale", 0.1)
    run = fleet(*names(9))
    assert run.codes() == {}
    assert sorted(entry["hostname"] for entry in cluster.call("table")) == [f"web-{n}" for n in range(1, 10)]
    assert {status for _node, status in table(cluster).values()} == {"running"}
    assert fleet(*names(9)).result["changed"] is False


def create(cluster: Simulator, user: str, seconds: float) -> None:
    """Somebody has a container web-1 created, which takes this long."""
    cluster.cluster.ct_secs["create"] = seconds
    values = {"node": "pve2", "vmid": "300", "hostname": "web-1", "ostemplate": TEMPLATE, "rootfs": "local-zfs:4"}
    cluster.call("_lxc_create", user, {**values, "memory": 256})


@pytest.mark.parametrize("cluster", [{"time_scale": 1}], indirect=True)
@pytest.mark.parametrize("count", [1, 3])
def test_what_the_same_token_is_creating_is_awaited(fleet: Fleet, cluster: Simulator, count: int) -> None:
    # A virtual machine of the same name is none of its business.
    cluster.call("add_vm", 100, "web-1", node="pve1")
    create(cluster, cluster.token_id, 1.0)
    check = fleet(*names(count), check_mode=True)
    assert (check.codes(), check.entries["web-1"]["vmid"]) == ({}, 300)
    cluster.call("set_option", "time_scale", 0.02)
    run = fleet(*names(count))
    assert run.result["summary"] == {"created": count - 1, "changed": 1, "unchanged": 0, "pruned": 0, "failed": 0}
    assert sorted(table(cluster)) == [entry["hostname"] for entry in names(count)]


@pytest.mark.parametrize("cluster", [{"time_scale": 1}], indirect=True)
def test_what_others_are_creating_is_not_awaited(fleet: Fleet, cluster: Simulator) -> None:
    create(cluster, "root@pam", 30)
    began = time.monotonic()
    run = fleet({"hostname": "web-2"}, {"hostname": "web-3"}, check_mode=True)
    assert run.result["summary"]["created"] == 2
    assert time.monotonic() - began < 5
    # And what exists, or is known by its id, needs no waiting for anything.
    create_own = {"node": "pve3", "vmid": "301", "hostname": "x", "ostemplate": TEMPLATE, "rootfs": "local-zfs:4"}
    cluster.call("_lxc_create", cluster.token_id, create_own)
    populate(cluster, 1)
    assert fleet(*names(1), {"vmid": 400, "node": "pve1"}, check_mode=True).codes() == {}
    assert time.monotonic() - began < 5


# ------------------------------------------------------------------------------------------- placement


def test_new_containers_are_spread_over_the_nodes(fleet: Fleet) -> None:
    run = fleet(*[{**entry, "spread": "web"} for entry in names(6)], *[{**e, "spread": "db"} for e in names(3, "db")])
    assert Counter(node for name, node in run.nodes.items() if name.startswith("web")) == dict.fromkeys(NODES, 2)
    assert Counter(node for name, node in run.nodes.items() if name.startswith("db")) == dict.fromkeys(NODES, 1)


def test_check_mode_places_as_the_run_does(fleet: Fleet, cluster: Simulator) -> None:
    cluster.call("add_ct", 900, name="other", node="pve1")
    containers = [{**entry, "spread": "web"} for entry in names(5)]
    planned = fleet(*containers, check_mode=True)
    assert planned.nodes == fleet(*containers).nodes


def test_nothing_new_is_made_on_a_node_in_maintenance(fleet: Fleet, cluster: Simulator) -> None:
    containers = [{**entry, "spread": "web"} for entry in names(4)]
    cluster.call(in_maintenance, "pve1")
    assert Counter(fleet(*containers).nodes.values()) == {"pve2": 2, "pve3": 2}
    cluster.call(in_maintenance, *NODES)
    run = fleet(*containers, {"hostname": "new", "template": TEMPLATE, "spread": "web"})
    assert run.result["failure"]["code"] == "node_offline"


def in_maintenance(cluster: Cluster, *nodes: str) -> None:
    cluster.node_usage = {node: {"hastate": "maintenance"} for node in nodes}


def test_a_replica_that_was_migrated_stays(fleet: Fleet, cluster: Simulator) -> None:
    containers = [{**entry, "spread": "web"} for entry in names(3)]
    first = fleet(*containers)
    away = next(node for node in NODES if node != first.nodes["web-1"])
    cluster.call(move, first.entries["web-1"]["vmid"], away)
    run = fleet(*containers)
    assert (run.result["changed"], run.nodes["web-1"]) == (False, away)
    # A further one goes where there is none any more.
    more = fleet(*[{**entry, "spread": "web"} for entry in names(4)])
    assert more.nodes["web-4"] == first.nodes["web-1"]


def test_a_node_that_is_asked_for_is_used_and_a_difference_reported(fleet: Fleet, cluster: Simulator) -> None:
    run = fleet(*[{**entry, "node": "pve3"} for entry in names(3)])
    assert set(run.nodes.values()) == {"pve3"}
    again = fleet(*[{**entry, "node": "pve1"} for entry in names(3)])
    assert (again.result["changed"], again.writes) == (False, [])
    assert len(again.result["warnings"]) == 3


def test_a_clone_is_made_where_its_source_is(fleet: Fleet, cluster: Simulator) -> None:
    volume = {"rootfs": "local-zfs:basevol-900-disk-0,size=8G"}
    cluster.call("add_ct", 900, name="golden", node="pve2", template=True, config=volume)
    clones = [{"hostname": f"app-{n}", "clone": {"hostname": "golden"}} for n in (1, 2, 3)]
    run = fleet(*clones, defaults={})
    assert run.codes() == {}
    assert run.nodes == {"app-1": "pve2", "app-2": "pve2", "app-3": "pve2"}
    assert fleet(*clones, defaults={}).result["changed"] is False


# ---------------------------------------------------------------------------------------------------- owner


def test_the_owners_tag_comes_besides_the_declared_tags(fleet: Fleet, cluster: Simulator) -> None:
    tagged = [{"hostname": "web-1", "tags": ["Prod", "web"]}, {"hostname": "web-2"}, {"hostname": "web-3", "tags": []}]
    run = fleet(*tagged, owner="Shop")
    tags = {entry["hostname"]: entry["tags"] for entry in cluster.call("table")}
    assert tags == {"web-1": "prod;shop;web", "web-2": "shop", "web-3": "shop"}
    assert fleet(*tagged, owner="Shop").result["changed"] is False
    assert run.entries["web-2"]["container"]["config"]["tags"] == "shop"


def test_tags_that_are_not_declared_are_kept(fleet: Fleet, cluster: Simulator) -> None:
    populate(cluster, 2, tags="byhand")
    run = fleet({"hostname": "web-1"}, {"hostname": "web-2", "tags": ["own"]}, owner="shop")
    assert {entry["hostname"]: entry["tags"] for entry in cluster.call("table")} == {
        "web-1": "byhand;shop",
        "web-2": "own;shop",
    }
    assert sorted(run.writes) == ["PUT /nodes/pve1/lxc/200/config", "PUT /nodes/pve2/lxc/201/config"]
    assert fleet({"hostname": "web-1"}, {"hostname": "web-2", "tags": ["own"]}, owner="shop").writes == []


@pytest.mark.parametrize("owner", ["a b", "a;b", "a,b", ""])
def test_an_owner_that_is_no_tag_is_refused(fleet: Fleet, owner: str) -> None:
    run = fleet(*names(1), owner=owner)
    assert (run.result["failure"]["code"], run.result["failure"]["details"]["option"]) == ("invalid_option", "owner")
    assert run.sent == []


# ------------------------------------------------------------------------------------------------------- prune


@pytest.mark.parametrize(
    ("policy", "left"),
    [
        ("none", {"web-1": "running", "web-2": "running", "web-3": "running"}),
        ("stop", {"web-1": "running", "web-2": "stopped", "web-3": "stopped"}),
        ("delete", {"web-1": "running"}),
    ],
)
def test_what_is_owned_but_not_declared_is_pruned(
    fleet: Fleet, cluster: Simulator, policy: str, left: dict[str, str]
) -> None:
    populate(cluster, 3, tags="shop")
    cluster.call("add_ct", 900, name="foreign", status="running", config={"tags": "other"})
    check = fleet({"hostname": "web-1"}, owner="shop", prune=policy, check_mode=True)
    assert check.writes == []
    run = fleet({"hostname": "web-1"}, owner="shop", prune=policy)
    assert {name: status for name, (_node, status) in table(cluster).items()} == {**left, "foreign": "running"}
    assert run.result["summary"]["pruned"] == check.result["summary"]["pruned"] == (0 if policy == "none" else 2)
    assert [entry["hostname"] for entry in run.result["containers"] if entry["pruned"]] == (
        [] if policy == "none" else ["web-2", "web-3"]
    )
    assert [entry["plan"] for entry in check.result["containers"]] == [
        entry["plan"] for entry in run.result["containers"]
    ]
    again = fleet({"hostname": "web-1"}, owner="shop", prune=policy)
    assert (again.result["changed"], again.writes) == (False, [])


def test_tags_choose_the_policy(fleet: Fleet, cluster: Simulator) -> None:
    for vmid, tags in ((200, "shop"), (201, "database;shop"), (202, "keep;shop"), (203, "database;keep;shop")):
        cluster.call("add_ct", vmid, name=f"ct-{vmid}", status="running", config={"tags": tags})
    policies = {"Database": "stop", "keep": "none"}
    run = fleet(owner="shop", prune="delete", prune_tags=policies)
    assert {name: status for name, (_node, status) in table(cluster).items()} == {
        "ct-201": "stopped",
        "ct-202": "running",
        "ct-203": "stopped",  # the first tag that matches decides
    }
    assert run.result["summary"]["pruned"] == 3


@pytest.mark.parametrize("policy", ["deleted", None, True, ["stop"]])
def test_a_policy_that_does_not_exist_is_refused(fleet: Fleet, cluster: Simulator, policy: t.Any) -> None:
    populate(cluster, 1, tags="shop")
    run = fleet(owner="shop", prune_tags={"web": policy})
    assert run.result["failure"]["code"] == "invalid_option"
    assert run.result["failure"]["details"]["option"] == "prune_tags"
    assert run.sent == []


@pytest.mark.parametrize("options", [{"prune": "delete"}, {"prune_tags": {"web": "stop"}}])
def test_pruning_needs_an_owner(fleet: Fleet, options: dict[str, t.Any]) -> None:
    run = fleet(*names(1), **options)
    assert (run.result["failure"]["code"], run.sent) == ("invalid_option", [])
    assert "owner" in run.result["msg"]


def test_a_protected_container_is_not_pruned_and_the_others_are(fleet: Fleet, cluster: Simulator) -> None:
    populate(cluster, 3, tags="shop")
    cluster.call(lambda it: it.ct(201).config.update(protection=1))
    run = fleet({"hostname": "web-1"}, {"hostname": "new"}, owner="shop", prune="delete")
    assert run.codes() == {"web-2": "protected"}
    assert run.result["failed"] is True
    assert sorted(table(cluster)) == ["new", "web-1", "web-2"]


def test_what_is_declared_is_never_pruned_when_it_cannot_be_read(
    fleet: Fleet, cluster: Simulator, impatient: None
) -> None:
    populate(cluster, 2, tags="shop")
    cluster.call("fail", "GET", "/nodes/pve1/lxc/200/pending", 500, "unable to read", times=api_client.READ_TRIES)
    run = fleet(*names(2), owner="shop", prune="delete")
    assert run.codes() == {"web-1": "api_error"}
    assert (run.writes, sorted(table(cluster))) == ([], ["web-1", "web-2"])


def test_what_is_declared_is_never_pruned_when_its_name_is_ambiguous(fleet: Fleet, cluster: Simulator) -> None:
    populate(cluster, 2, tags="shop")
    cluster.call("add_ct", 300, name="web-1", status="running", config={"tags": "shop"})
    run = fleet(*names(2), owner="shop", prune="delete")
    assert run.codes() == {"web-1": "ambiguous_hostname"}
    assert (run.writes, len(cluster.call("table"))) == ([], 3)


# ------------------------------------------------------------------------------------------- contradictions


ONE = {"name": "eth0", "bridge": "vmbr0"}


@pytest.mark.parametrize(
    ("containers", "what"),
    [
        ([{"vmid": 200}, {"vmid": 200}], "vmid: 200"),
        ([{"vmid": 200, "hostname": "a"}, {"vmid": 201, "hostname": "a"}], "hostname: a"),
        ([{"hostname": "a"}, {"hostname": "a"}], "hostname: a"),
        ([{"hostname": "a"}, {"hostname": "a", "state": "absent"}], "hostname: a"),
        (
            [
                {"hostname": "a", "networks": [{**ONE, "hwaddr": "bc:24:11:00:00:01"}]},
                {"hostname": "b", "networks": [{**ONE, "hwaddr": "BC:24:11:00:00:01"}]},
            ],
            "MAC address: BC:24:11:00:00:01",
        ),
        (
            [
                {"hostname": "a", "networks": [{**ONE, "ip": "192.0.2.1/24"}]},
                {"hostname": "b", "networks": [{**ONE, "ip": "192.0.2.1/25"}]},
            ],
            "192.0.2.1",
        ),
        (
            [
                {"hostname": "a", "networks": [{**ONE, "ip6": "2001:db8::1/64"}]},
                {"hostname": "b", "networks": [{**ONE, "ip6": "2001:DB8:0::1/64"}]},
            ],
            "2001:db8::1",
        ),
    ],
)
def test_contradictions_are_refused_before_any_request(
    fleet: Fleet, containers: list[dict[str, t.Any]], what: str
) -> None:
    run = fleet(*containers)
    assert run.result["failed"] is True
    assert run.result["failure"]["code"] == "invalid_option"
    assert what in run.result["msg"]
    assert run.sent == []


def test_the_same_address_in_another_network_is_no_contradiction(fleet: Fleet) -> None:
    run = fleet(
        {"hostname": "a", "networks": [{**ONE, "ip": "192.0.2.1/24", "tag": 10}]},
        {"hostname": "b", "networks": [{**ONE, "ip": "192.0.2.1/24", "tag": 20}]},
        {"hostname": "c", "networks": [{**ONE, "bridge": "vmbr1", "ip": "192.0.2.1/24"}]},
        check_mode=True,
    )
    assert run.result.get("failure", {}).get("code") != "invalid_option"


def test_two_entries_that_are_one_container_are_refused_before_any_write(fleet: Fleet, cluster: Simulator) -> None:
    populate(cluster, 2)
    run = fleet({"vmid": 200, "memory": 512}, {"hostname": "web-1", "memory": 1024})
    assert run.result["failure"]["code"] == "invalid_option"
    assert "same container (200)" in run.result["msg"]
    assert run.writes == []


@pytest.mark.parametrize(
    ("containers", "options", "where", "option"),
    [
        ([{"hostname": "ok"}, {"hostname": "web-2", "memory": 1}], {}, "containers[1] (web-2)", "memory"),
        ([{"vmid": 99}], {}, "containers[0] (99)", "vmid"),
        ([{"memory": 512}], {}, "containers[0]", "hostname"),
        ([{"hostname": "a_b"}], {}, "containers[0] (a_b)", "hostname"),
        ([{"hostname": "a", "rootfs": {"size": "8X"}}], {}, "containers[0] (a)", "size"),
        ([{"hostname": "a", "networks": [{"ip": "192.0.2.1/24"}]}], {}, "containers[0] (a)", "networks[0]"),
        ([{"hostname": "a", "unset": ["rootfs"]}], {}, "containers[0] (a)", "unset"),
        ([{"hostname": "a"}], {"defaults": {**NEW, "cores": -1}}, "containers[0] (a)", "cores"),
        ([{"hostname": "a"}], {"concurrency": 0}, "", "concurrency"),
        ([{"hostname": "a"}], {"concurrency": -3}, "", "concurrency"),
    ],
)
def test_bad_input_names_the_container_and_the_option(
    fleet: Fleet, containers: list[dict[str, t.Any]], options: dict[str, t.Any], where: str, option: str
) -> None:
    run = fleet(*containers, **options)
    assert run.result["failure"]["code"] == "invalid_option", run.result
    assert where in run.result["msg"]
    assert option in run.result["msg"]
    assert run.sent == []


def test_an_option_that_does_not_exist_names_its_container(fleet: Fleet) -> None:
    run = fleet({"hostname": "web-1", "memroy": 512})
    assert (run.result["failed"], run.sent) == (True, [])
    assert "memroy" in run.result["msg"]
    assert "containers" in run.result["msg"]


# ----------------------------------------------------------------------------------------------------- defaults


def test_a_value_replaces_that_of_the_defaults_as_a_whole(fleet: Fleet, cluster: Simulator) -> None:
    defaults = {
        **NEW,
        "networks": [{**ONE, "ip": "dhcp", "firewall": True}],
        "features": {"nesting": True},
        "tags": ["web"],
        "state": "stopped",
    }
    fleet(
        {"hostname": "a"},
        {"hostname": "b", "networks": [{**ONE, "ip": "192.0.2.1/24"}], "tags": ["own"], "features": {}, "memory": 512},
        defaults=defaults,
    )
    made = {ct.name: ct.config for ct in cluster.cluster.cts}
    assert "firewall=1" in made["a"]["net0"]
    assert "firewall" not in made["b"]["net0"]
    assert "ip=192.0.2.1/24" in made["b"]["net0"]
    assert (made["a"]["tags"], made["b"]["tags"]) == ("web", "own")
    assert "nesting=1" in made["a"]["features"]
    assert not made["b"].get("features")
    assert (int(made["a"]["memory"]), int(made["b"]["memory"])) == (256, 512)
    assert {status for _node, status in table(cluster).values()} == {"stopped"}


def test_without_defaults_for_the_state_containers_are_started(fleet: Fleet, cluster: Simulator) -> None:
    fleet({"hostname": "a"}, {"hostname": "b", "state": "present"}, {"hostname": "c", "state": "absent"})
    assert {name: status for name, (_node, status) in table(cluster).items()} == {"a": "running", "b": "stopped"}


# ----------------------------------------------------------------------------------------------------- failures


def test_one_failure_does_not_stop_the_others_and_all_are_named(fleet: Fleet, cluster: Simulator) -> None:
    populate(cluster, 3, protection="0")
    cluster.call("snapshot_lock", 200, "backup")
    run = fleet(
        {"hostname": "web-1", "memory": 512},
        {"hostname": "web-2", "memory": 512},
        {"hostname": "web-3", "rootfs": {"storage": "local-zfs", "size": "1G"}},
        {"hostname": "new-1", "template": "local:vztmpl/nothing_1_amd64.tar.zst"},
        {"hostname": "new-2"},
        {"hostname": "new-3", "rootfs": {"size": "4G"}},
    )
    assert run.result["failed"] is True
    assert run.codes() == {
        "web-1": "locked",
        "web-3": "would_lose_data",
        "new-1": "volume_missing",
        "new-3": "invalid_option",
    }
    assert run.result["failure"]["code"] == "containers_failed"
    assert run.result["failure"]["details"]["containers"] == ["web-1", "web-3", "new-1", "new-3"]
    assert run.result["msg"].startswith("4 of 6 containers failed.")
    for name in ("web-1", "web-3", "new-1", "new-3"):
        assert f"{name}:" in run.result["msg"]
    assert run.result["summary"] == {"created": 1, "changed": 1, "unchanged": 0, "pruned": 0, "failed": 4}
    assert cluster.cluster.ct(201).config["memory"] in (512, "512")
    assert "new-2" in table(cluster)
    # What could not be done has changed nothing.
    assert [name for name, entry in run.entries.items() if entry["changed"] and "failure" not in entry] == [
        "web-2",
        "new-2",
    ]


def test_a_fleet_of_one_fails_with_the_code_itself(fleet: Fleet, cluster: Simulator) -> None:
    populate(cluster, 1)
    cluster.call("snapshot_lock", 200, "backup")
    run = fleet({"hostname": "web-1", "memory": 512})
    assert run.result["failure"]["code"] == "locked"
    assert run.result["containers"][0]["failure"]["code"] == "locked"


def test_a_failure_in_a_task_has_the_end_of_its_log(fleet: Fleet, cluster: Simulator) -> None:
    populate(cluster, 2)
    cluster.call(lambda it: setattr(it.ct(200), "status", "stopped"))
    cluster.call(lambda it: setattr(it.ct(200), "start_error", "startup for container '200' failed"))
    run = fleet(*names(2))
    assert set(run.codes()) == {"web-1"}
    details = run.entries["web-1"]["failure"]["details"]
    assert details["upid"].startswith("UPID:pve1:")
    assert any("TASK ERROR" in line for line in details["log"])


def test_missing_privileges_are_named_for_all_before_anything_is_written(fleet: Fleet, cluster: Simulator) -> None:
    populate(cluster, 3)
    cluster.call("add_user", "ro@pve", acl={"/": ["VM.Audit", "Datastore.Audit"]})
    token = {"api_token_id": "ro@pve!ci", "api_token_secret": cluster.call("add_token", "ro@pve!ci")}
    assert fleet(*names(3), **token).result["changed"] is False
    for check_mode in (True, False):
        run = fleet({"hostname": "web-1", "memory": 512}, {"hostname": "new"}, **token, check_mode=check_mode)
        assert run.result["failure"]["code"] == "permission_denied"
        lacking = {entry["privilege"] for entry in run.result["failure"]["details"]["missing"]}
        assert {"VM.Config.Memory", "VM.Allocate", "Datastore.AllocateSpace"} <= lacking
        assert run.writes == []


# --------------------------------------------------------------------------------------------------- node offline


def test_containers_on_an_offline_node_fail_at_once_and_the_others_are_made(fleet: Fleet, cluster: Simulator) -> None:
    populate(cluster, 6)
    cluster.call("set_node_offline", "pve2")
    began = time.monotonic()
    run = fleet(*names(9), defaults={**NEW, "memory": 512})
    assert run.codes() == {"web-2": "node_offline", "web-5": "node_offline"}
    assert run.result["summary"] == {"created": 3, "changed": 4, "unchanged": 0, "pruned": 0, "failed": 2}
    assert not [line for line in run.sent if "/pve2/" in line]
    assert {run.nodes[f"web-{n}"] for n in (7, 8, 9)} == {"pve1", "pve3"}
    assert time.monotonic() - began < 10
    # When the node is back, the rest is done.
    cluster.call("set_node_offline", "pve2", False)
    assert fleet(*names(9), defaults={**NEW, "memory": 512}).result["summary"]["changed"] == 2


@pytest.mark.parametrize(("node", "code"), [("pve9", "node_unknown"), ("pve2", "node_offline")])
@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("check_mode", [True, False])
def test_a_node_that_cannot_take_a_container_is_told_before_anything_is_sent(
    fleet: Fleet, cluster: Simulator, node: str, code: str, existing: bool, check_mode: bool
) -> None:
    """In check mode as well: for a new container, and for one that is to be moved there."""
    if existing:
        populate(cluster, 1)
    cluster.call("set_node_offline", "pve2")
    run = fleet({"hostname": "web-1", "node": node, "migrate": True}, check_mode=check_mode)
    assert (run.codes(), run.writes) == ({"web-1": code}, [])
    assert node in run.result["failure"]["message"]


def test_nothing_is_made_twice_while_a_node_with_nameless_containers_is_offline(
    fleet: Fleet, cluster: Simulator
) -> None:
    # As the cluster shows them just after their creation.
    cluster.call(lambda it: super(Cluster, it).add_ct(300, name="web-1", node="pve2"))
    cluster.call("set_node_offline", "pve2")
    run = fleet(*names(2))
    assert run.codes() == {"web-1": "node_offline", "web-2": "node_offline"}
    assert run.writes == []


def test_what_is_owned_on_an_offline_node_is_not_forgotten(fleet: Fleet, cluster: Simulator) -> None:
    populate(cluster, 3, tags="shop")
    cluster.call("set_node_offline", "pve2")
    run = fleet({"hostname": "web-1"}, owner="shop", prune="delete")
    assert run.codes() == {"web-2": "node_offline"}
    assert sorted(table(cluster)) == ["web-1", "web-2"]


# ---------------------------------------------------------------------------------------------------- check mode


def test_check_mode_only_reads_and_says_exactly_what_happens(fleet: Fleet, cluster: Simulator) -> None:
    populate(cluster, 4, tags="shop", description="old")
    containers = [
        {"hostname": "web-1"},
        {"hostname": "web-2", "memory": 512, "unset": ["description"]},
        {"hostname": "web-3", "state": "stopped"},
        {"hostname": "new-1", "tags": ["own"]},
    ]
    options = {"owner": "shop", "prune": "delete"}
    check = fleet(*containers, **options, check_mode=True, diff=True)
    assert check.writes == []
    assert {line.split()[0] for line in check.sent} == {"GET"}
    run = fleet(*containers, **options, diff=True)
    assert check.result["changed"] is run.result["changed"] is True
    assert check.result["summary"] == run.result["summary"]
    assert check.result["summary"] == {"created": 1, "changed": 2, "unchanged": 1, "pruned": 1, "failed": 0}
    assert check.result["diff"] == run.result["diff"]
    for name, planned in check.entries.items():
        done = run.entries[name]
        assert (planned["changed"], planned["node"], planned["pruned"]) == (
            done["changed"],
            done["node"],
            done["pruned"],
        )
        chosen = str(done["vmid"])
        assert [dict(change, request=change["request"].replace("{vmid}", chosen)) for change in planned["plan"]] == (
            done["plan"]
        )
    assert fleet(*containers, **options).result["changed"] is False


def test_each_container_has_a_diff_of_its_own(fleet: Fleet, cluster: Simulator) -> None:
    populate(cluster, 3)
    run = fleet(
        {"hostname": "web-1", "memory": 512},
        {"hostname": "web-2"},
        {"hostname": "web-3", "state": "stopped"},
        diff=True,
        check_mode=True,
    )
    assert run.result["diff"] == [
        {"before_header": "web-1", "after_header": "web-1", "before": {"memory": 256}, "after": {"memory": 512}},
        {
            "before_header": "web-3",
            "after_header": "web-3",
            "before": {"state": "running"},
            "after": {"state": "stopped"},
        },
    ]


# ------------------------------------------------------------------------------------------------------- progress


LINE = re.compile(r"\[(\d+)/(\d+)\] (\S+) (\w+) on (pve\d) in \d+\.\d s")


def test_progress_lines_say_what_was_done_where_and_how_long_it_took(
    fleet: Fleet, cluster: Simulator, tmp_path: Path
) -> None:
    progress = tmp_path / "progress"
    progress.write_text("from before\n")
    populate(cluster, 1, tags="shop")
    run = fleet(*names(4, "new"), progress_path=str(progress), owner="shop", prune="delete")
    before, *lines = progress.read_text().splitlines()
    assert before == "from before"
    found = [LINE.fullmatch(line) for line in lines]
    assert all(found), lines
    steps = [match.groups() for match in found if match]
    assert [int(step[0]) for step in steps] == list(range(1, 10))
    assert {int(step[1]) for step in steps} == {9}
    assert Counter((name, action) for _n, _of, name, action, _node in steps) == Counter(
        [(f"new-{n}", action) for n in range(1, 5) for action in ("created", "started")] + [("web-1", "destroyed")]
    )
    assert {name: node for _n, _of, name, _action, node in steps if name != "web-1"} == {
        name: node for name, node in run.nodes.items() if name != "web-1"
    }
    progress.write_text("")
    fleet(*names(4, "new"), progress_path=str(progress), owner="shop")
    assert progress.read_text() == ""


# -------------------------------------------------------------------------------------------------------- secrets


def test_passwords_are_nowhere_in_the_result(fleet: Fleet, cluster: Simulator, tmp_path: Path) -> None:
    progress = tmp_path / "progress"
    progress.touch()
    secret, default = "correct-horse", "battery-staple"
    containers = [{"hostname": "a", "password": secret}, {"hostname": "b"}, {"hostname": "c", "template": "x:y/z"}]
    options = {"defaults": {**NEW, "password": default}, "progress_path": str(progress)}
    for check_mode in (True, False):
        run = fleet(*containers, **options, check_mode=check_mode, diff=True)
        assert run.codes() == ({} if check_mode else {"c": "storage_missing"})
        text = json.dumps(run.result) + progress.read_text()
        assert secret not in text
        assert default not in text
        assert cluster.token_secret not in text
    assert "password" not in json.dumps(run.entries["a"]["plan"])
    again = fleet(*containers[:2], **options)
    assert again.result["changed"] is False
    assert "only used at the creation" in again.entries["a"]["notes"][0]
