# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every request of lxc_container_info, as it arrives at the API."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api import client as api_client
from ansible_collections.lxcri.proxmox.tests.simulator.cluster import NODES, Cluster
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator
from ansible_collections.lxcri.proxmox.tests.wire.module_runner import run_module

TEMPLATE = "local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst"
RESOURCES = "GET /cluster/resources"


@dataclass
class Run:
    """What the module returned, and what it asked."""

    result: dict[str, t.Any]
    asked: list[str]

    @property
    def vmids(self) -> list[int]:
        return [entry["vmid"] for entry in self.result["containers"]]


Info = t.Callable[..., Run]


@pytest.fixture
def info(cluster: Simulator) -> Info:
    """Runs the module on three nodes with four containers."""
    net = "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:02:01,ip=192.0.2.10/24,type=veth"
    web = {"net0": net, "tags": "prod;web", "description": "Shop\n"}
    waiting = {"memory": 1024, "swap": None}
    cluster.call("add_ct", 201, name="web-1", status="running", config=web, pending=waiting)
    cluster.call("add_ct", 202, name="web-2", config={"tags": "test;web"})
    cluster.call("add_ct", 203, name="db-1", node="pve2", status="running", config={"tags": "db;prod"})
    cluster.call("add_ct", 204, name="golden", node="pve3", template=True)
    cluster.call("add_vm", 100, "vm-1", node="pve1")

    def run(check_mode: bool = False, **options: t.Any) -> Run:
        cluster.requests.clear()
        result = run_module("lxc_container_info", {**cluster.options, **options}, check_mode=check_mode)
        return Run(result, cluster.requests.lines)

    return run


def add_unseen(cluster: Simulator, *vmids: int, node: str) -> None:
    """Running containers that the node's statistics have not seen yet."""

    def add(simulated: Cluster) -> None:
        for vmid in vmids:
            super(Cluster, simulated).add_ct(vmid, node=node, status="running")

    cluster.call(add)


def token(cluster: Simulator, tokenid: str, acl: t.Mapping[str, t.Sequence[str]] | None = None) -> dict[str, t.Any]:
    """The options of a token that has no more rights than its user, which has these."""
    user = tokenid.partition("!")[0]
    cluster.call("add_user", user, acl=acl)
    return {"api_token_id": tokenid, "api_token_secret": cluster.call("add_token", tokenid)}


# ------------------------------------------------------------------------------------------------------ the list


def test_all_containers_of_the_cluster_are_one_request(info: Info) -> None:
    run = info()
    assert run.asked == [RESOURCES]
    assert run.result["changed"] is False
    assert "warnings" not in run.result
    assert [
        (entry["vmid"], entry["node"], entry["hostname"], entry["status"], entry["template"], entry["tags"])
        for entry in run.result["containers"]
    ] == [
        (201, "pve1", "web-1", "running", False, ["prod", "web"]),
        (202, "pve1", "web-2", "stopped", False, ["test", "web"]),
        (203, "pve2", "db-1", "running", False, ["db", "prod"]),
        (204, "pve3", "golden", "stopped", True, []),
    ]
    assert run.result["containers"][0]["oci_state"] == {
        "ociVersion": "1.0.2",
        "id": "201",
        "status": "running",
        "bundle": "/var/lib/lxc/201",
        "annotations": {"com.proxmox.node": "pve1", "com.proxmox.hostname": "web-1", "com.proxmox.tags": "prod;web"},
    }


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"vmid": 201}, [201]),
        ({"vmid": [204, 201, 999]}, [201, 204]),
        ({"vmid": 100}, []),
        ({"hostname": "web-2"}, [202]),
        ({"hostname": ["web-2", "db-1"]}, [202, 203]),
        ({"node": "pve1"}, [201, 202]),
        ({"tags": ["web"]}, [201, 202]),
        ({"tags": ["web", "prod"]}, [201]),
        ({"tags": []}, [201, 202, 203, 204]),
        ({"status": "running"}, [201, 203]),
        ({"node": ["pve1", "pve3"], "status": "stopped"}, [202, 204]),
    ],
)
def test_filters_cost_nothing(info: Info, filters: dict[str, t.Any], expected: list[int]) -> None:
    run = info(**filters)
    assert run.vmids == expected
    # root's token may lack privileges: an empty list is looked into.
    assert run.asked == ([RESOURCES] if expected else [RESOURCES, "GET /access/permissions"])


def test_containers_of_a_pool(info: Info, cluster: Simulator) -> None:
    cluster.call("add_ct", 205, name="pooled", pool="shop")
    run = info(pool="shop")
    assert [(entry["vmid"], entry["pool"]) for entry in run.result["containers"]] == [(205, "shop")]
    assert run.asked == [RESOURCES]


@pytest.mark.parametrize("name", ["vmid", "hostname", "node", "pool"])
def test_an_empty_filter_asks_nothing(info: Info, name: str) -> None:
    run = info(**{name: []})
    assert (run.vmids, run.asked) == ([], [])


# ---------------------------------------------------------------------------------------------------- the parts


def test_usage_costs_nothing(info: Info) -> None:
    run = info(vmid=201, gather=["usage"])
    assert run.asked == [RESOURCES]
    [entry] = run.result["containers"]
    assert (entry["usage"]["maxmem"], entry["usage"]["maxdisk"]) == (512 * 2**20, 8 * 2**30)


@pytest.mark.parametrize("gather", [["config"], ["pending"], ["config", "pending"]])
def test_config_and_pending_cost_one_request_together(info: Info, gather: list[str]) -> None:
    run = info(vmid=201, gather=gather)
    assert run.asked == [RESOURCES, "GET /nodes/pve1/lxc/201/pending"]
    [entry] = run.result["containers"]
    assert ("config" in entry, "pending" in entry) == ("config" in gather, "pending" in gather)
    if "config" in gather:
        assert (entry["config"]["memory"], "swap" in entry["config"]) == (1024, False)
        assert [address["address"] for address in entry["addresses"]] == ["192.0.2.10/24"]
        assert entry["oci_state"]["annotations"]["com.proxmox.description"] == "Shop"
    if "pending" in gather:
        assert entry["pending"] == {"memory": 1024, "swap": None}


def test_snapshots_cost_one_request(info: Info, cluster: Simulator) -> None:
    cluster.cluster.ct(201).snapshots["before"] = {
        "config": {},
        "snaptime": 1795230000,
        "description": "x",
        "parent": None,
    }
    run = info(vmid=201, gather=["snapshots"])
    assert run.asked == [RESOURCES, "GET /nodes/pve1/lxc/201/snapshot"]
    [entry] = run.result["containers"]
    assert entry["snapshots"] == [{"name": "before", "description": "x", "snaptime": 1795230000, "parent": None}]


def test_interfaces_cost_one_request(info: Info) -> None:
    run = info(vmid=201, gather=["interfaces"])
    assert run.asked == [RESOURCES, "GET /nodes/pve1/lxc/201/interfaces"]
    [entry] = run.result["containers"]
    assert [interface["name"] for interface in entry["interfaces"]] == ["lo", "eth0"]
    assert entry["addresses"] == [
        {"interface": "eth0", "address": "192.0.2.10/24", "family": "inet", "hwaddr": "BC:24:11:00:02:01"}
    ]


def test_interfaces_are_asked_of_what_may_run_by_now_but_not_of_a_template(info: Info) -> None:
    run = info(vmid=[202, 204], gather=["interfaces"])
    assert run.asked == [RESOURCES, "GET /nodes/pve1/lxc/202/interfaces"]
    assert [entry["interfaces"] for entry in run.result["containers"]] == [[], []]
    current = info(vmid=202, gather=["interfaces"], current=True)
    assert current.asked == [RESOURCES, "GET /nodes/pve1/lxc/202/status/current"]


# ------------------------------------------------------------------------------------------------- current states


def test_the_state_of_one_is_read_by_itself_and_completes_its_document(info: Info, cluster: Simulator) -> None:
    run = info(vmid=201, current=True)
    assert run.asked == [RESOURCES, "GET /nodes/pve1/lxc/201/status/current"]
    assert run.result["containers"][0]["oci_state"]["pid"] == cluster.cluster.ct(201).pid


def test_the_states_of_all_are_one_list_for_each_node(info: Info, cluster: Simulator) -> None:
    for vmid in (205, 206):
        cluster.call("add_ct", vmid, node="pve2")
        cluster.call("add_ct", vmid + 10, node="pve3")
    run = info(current=True)
    assert run.asked[0] == RESOURCES
    assert sorted(run.asked[1:]) == [f"GET /nodes/{node}/lxc" for node in NODES]


def test_a_container_that_was_just_made_is_found_by_its_name(info: Info, cluster: Simulator) -> None:
    new = {"hostname": "new-1", "vmid": 300, "node": "pve2", "template": TEMPLATE, "storage": "local-zfs"}
    assert run_module("lxc_container", {**cluster.options, **new, "state": "started"})["changed"] is True
    run = info(hostname="new-1")
    assert run.asked == [RESOURCES, "GET /nodes/pve2/lxc/300/status/current"]
    [entry] = run.result["containers"]
    assert (entry["vmid"], entry["status"], entry["oci_state"]["pid"]) == (300, "running", cluster.cluster.ct(300).pid)


def test_many_containers_that_were_just_made_cost_one_list(info: Info, cluster: Simulator) -> None:
    add_unseen(cluster, *range(300, 310), node="pve3")
    run = info(node="pve3")
    assert run.asked == [RESOURCES, "GET /nodes/pve3/lxc"]
    assert {entry["status"] for entry in run.result["containers"][1:]} == {"running"}
    assert [entry["hostname"] for entry in run.result["containers"]] == ["golden", *(f"CT{n}" for n in range(300, 310))]


def test_the_state_may_be_ten_seconds_old_unless_the_current_one_is_asked_for(info: Info, cluster: Simulator) -> None:
    run_module("lxc_container", {**cluster.options, "vmid": 202, "state": "started"})
    assert info(vmid=202).result["containers"][0]["status"] == "stopped"
    assert info(vmid=202, current=True).result["containers"][0]["status"] == "running"
    # Its interfaces show that it runs, and so the state is read again.
    run = info(vmid=202, gather=["interfaces"])
    assert run.asked == [
        RESOURCES,
        "GET /nodes/pve1/lxc/202/interfaces",
        "GET /nodes/pve1/lxc/202/status/current",
    ]
    assert run.result["containers"][0]["status"] == "running"


# ----------------------------------------------------------------------------------------------------------- bulk


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 1),
        ({"gather": ["usage"]}, 1),
        ({"current": True}, 1 + 3),
        ({"gather": ["config", "pending", "usage"]}, 1 + 50),
        ({"gather": ["config", "pending", "snapshots", "interfaces", "usage"]}, 1 + 3 * 50),
        ({"gather": ["config", "interfaces"], "current": True}, 1 + 3 + 50 + 25),
    ],
)
def test_fifty_containers(info: Info, cluster: Simulator, options: dict[str, t.Any], count: int) -> None:
    for number in range(50):
        state = "running" if number % 2 else "stopped"
        cluster.call("add_ct", 1000 + number, node=NODES[number % 3], status=state, config={"tags": "fifty"})
    run = info(tags="fifty", **options)
    assert len(run.asked) == count
    assert len(run.result["containers"]) == 50
    assert len(set(run.asked)) == count
    assert cluster.requests.connections <= api_client.CONNECTIONS
    assert "warnings" not in run.result


def test_check_mode_reads_the_same_and_nothing_ever_writes(info: Info) -> None:
    options = {"gather": ["config", "pending", "snapshots", "interfaces", "usage"], "current": True}
    run, check = info(**options), info(check_mode=True, **options)
    assert {line.split()[0] for line in run.asked + check.asked} == {"GET"}
    assert sorted(run.asked) == sorted(check.asked)
    assert check.result["changed"] is False
    assert check.vmids == run.vmids == [201, 202, 203, 204]


# ---------------------------------------------------------------------------------------------- what cannot be read


def test_the_containers_of_an_offline_node_are_listed_and_the_node_left_alone(info: Info, cluster: Simulator) -> None:
    cluster.call("set_node_offline", "pve2")
    run = info(gather=["config"], current=True)
    assert not [request for request in run.asked if "pve2" in request]
    assert run.vmids == [201, 202, 203, 204]
    entry = run.result["containers"][2]
    assert (entry["status"], entry["tags"], entry["config"], entry["oci_state"]) == (
        "unknown",
        ["db", "prod"],
        None,
        None,
    )
    assert entry["failure"]["code"] == "node_offline"
    assert [("203" in text, "pve2 is offline" in text) for text in run.result["warnings"]] == [(True, True)]
    assert all(other["config"] for other in run.result["containers"] if other["vmid"] != 203)


def test_a_container_that_cannot_be_read_does_not_break_the_others(
    info: Info, cluster: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_client, "_pause", lambda _attempt: 0.0)
    cluster.call("fail", "GET", "/nodes/pve1/lxc/202/pending", 500, "unable to read the file")
    run = info(gather=["config"])
    assert [entry.get("failure", {}).get("code") for entry in run.result["containers"]] == [
        None,
        "api_error",
        None,
        None,
    ]
    assert [entry["config"] is None for entry in run.result["containers"]] == [False, True, False, False]
    assert len(run.result["warnings"]) == 1


def test_a_name_is_not_denied_while_a_node_with_nameless_containers_is_offline(info: Info, cluster: Simulator) -> None:
    add_unseen(cluster, 300, node="pve2")
    cluster.call("set_node_offline", "pve2")
    assert info(hostname="db-1").vmids == [203]
    run = info(hostname="db-2")
    assert run.result["failed"] is True
    assert run.result["failure"]["code"] == "node_offline"
    assert run.result["failure"]["details"] == {"vmids": [300], "nodes": ["pve2"]}
    assert run.asked == [RESOURCES]


def test_an_unknown_node_is_refused(info: Info) -> None:
    run = info(node="pve9")
    assert (run.result["failed"], run.result["failure"]["code"]) == (True, "node_unknown")
    assert run.asked == [RESOURCES]


def test_a_token_that_may_see_nothing_is_told_why(info: Info, cluster: Simulator) -> None:
    run = info(**token(cluster, "ro@pve!ci"))
    assert run.asked == [RESOURCES, "GET /access/permissions"]
    assert run.result["containers"] == []
    assert ["ro@pve!ci has VM.Audit nowhere" in text for text in run.result["warnings"]] == [True]


def test_a_token_that_may_see_one_pool_sees_it_without_questions(info: Info, cluster: Simulator) -> None:
    cluster.call("add_ct", 205, name="pooled", pool="shop")
    run = info(**token(cluster, "ro@pve!ci", {"/pool/shop": ["VM.Audit", "Pool.Audit"]}))
    assert (run.vmids, run.asked) == ([205], [RESOURCES])


def test_a_refused_token_is_a_failure_and_no_empty_list(info: Info) -> None:
    run = info(api_token_secret="00000000-0000-0000-0000-00000000ffff")
    assert run.result["failed"] is True
    assert run.result["failure"]["code"] == "authentication_failed"
    assert "containers" not in run.result
