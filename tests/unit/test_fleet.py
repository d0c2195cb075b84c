# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine: finding, placing, pruning and applying, on a small cluster that is a model."""

from __future__ import annotations

import re
import threading
import typing as t
from dataclasses import replace

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Credentials
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.plan import Step
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import spec
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.fleet import (
    Engine,
    Outcome,
    Ownership,
    parse_config,
    refuse_contradictions,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import Actual
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import Declared, declare_fleet
from ansible_collections.lxcri.proxmox.tests.unit.proxmox_model import perform
from ansible_collections.lxcri.proxmox.tests.unit.support import ROOT, TOKEN, not_found

NOTHING_OWNED = Ownership()
TEMPLATE = "local:vztmpl/debian-13.tar.zst"


class SmallCluster:
    """Answers as a cluster of three nodes does; every write is done at once, without a task."""

    def __init__(self, *containers: Actual, nodes: t.Sequence[str] = ("pve1", "pve2", "pve3")) -> None:
        self.credentials: Credentials = ROOT
        self.containers = {container.vmid: container for container in containers}
        self.nodes = dict.fromkeys(nodes, "online")
        self.memory = dict.fromkeys(nodes, 10)
        self.permissions: dict[str, dict[str, int]] = {}
        self.requests: list[tuple[str, str, dict[str, t.Any]]] = []
        # (method, a pattern of the path): the failures of the next such requests
        self.failures: dict[tuple[str, str], list[Failure]] = {}
        self._lock = threading.RLock()
        self._changes: dict[int, int] = {}

    def add(self, vmid: int, name: str, node: str = "pve1", status: str = "running", **config: t.Any) -> Actual:
        config = {"memory": 512, "ostype": "debian", "rootfs": f"local-zfs:subvol-{vmid}-disk-0,size=4G", **config}
        self.containers[vmid] = Actual(vmid, node, status, {"hostname": name, **config})
        return self.containers[vmid]

    # ------------------------------------------------------------------------------------------------- requests

    def request(self, method: str, path: str, params: t.Mapping[str, t.Any] | None = None) -> t.Any:
        with self._lock:
            self.requests.append((method, path, dict(params or {})))
            for (failing, pattern), failures in self.failures.items():
                if failing == method and re.fullmatch(pattern, path) and failures:
                    raise failures.pop(0)
            return self._read(path) if method == "GET" else self._write(method, path, dict(params or {}))

    def get(self, path: str, **params: t.Any) -> t.Any:
        return self.request("GET", path, params)

    def post(self, path: str, params: t.Mapping[str, t.Any] | None = None) -> t.Any:
        return self.request("POST", path, params)

    def put(self, path: str, params: t.Mapping[str, t.Any] | None = None) -> t.Any:
        return self.request("PUT", path, params)

    def delete(self, path: str, params: t.Mapping[str, t.Any] | None = None) -> t.Any:
        return self.request("DELETE", path, params)

    @property
    def writes(self) -> list[str]:
        return [f"{method} {path}" for method, path, _params in self.requests if method != "GET"]

    @property
    def reads(self) -> list[str]:
        return [path for method, path, _params in self.requests if method == "GET"]

    def _digest(self, path: str) -> str:
        vmid = int(path.split("/")[3]) if path.count("/") > 2 else 0
        return f"digest-{vmid}-{self._changes.get(vmid, 0)}"

    def _read(self, path: str) -> t.Any:
        parts = path.split("/")
        if path == "cluster/resources":
            return self._resources()
        if path == "cluster/nextid":
            return str(next(vmid for vmid in range(100, 9999) if vmid not in self.containers))
        if path == "access/permissions":
            return self.permissions
        if len(parts) == 3 and parts[2] == "lxc":
            return [self._listed(c) for c in self.containers.values() if c.node == parts[1]]
        container = self._container(parts[1], int(parts[3]))
        if path.endswith("/status/current"):
            return {"status": container.status}
        if path.endswith("/config"):
            return {**container.config, "digest": self._digest(path)}
        assert path.endswith("/pending"), path
        entries: list[dict[str, t.Any]] = [{"key": key, "value": value} for key, value in container.current.items()]
        return [*entries, {"key": "digest", "value": self._digest(path)}]

    def _container(self, node: str, vmid: int) -> Actual:
        container = self.containers.get(vmid)
        if container is None or container.node != node:
            raise not_found(vmid)
        return container

    def _listed(self, container: Actual) -> dict[str, t.Any]:
        entry = {"vmid": container.vmid, "name": container.hostname, "status": container.status}
        return {**entry, "tags": str(container.current.get("tags", ""))}

    def _resources(self) -> list[dict[str, t.Any]]:
        nodes = [
            {"type": "node", "node": node, "status": status, "mem": self.memory[node], "maxmem": 100}
            for node, status in self.nodes.items()
        ]
        guests = [
            {**self._listed(container), "type": "lxc", "node": container.node, "pool": container.pool}
            for container in self.containers.values()
        ]
        return [*nodes, *guests]

    def _write(self, method: str, path: str, params: dict[str, t.Any]) -> None:
        if params.pop("digest", self._digest(path)) != self._digest(path):
            raise Failure("modified", "Proxmox answered: detected modified configuration")
        parts = path.split("/")
        if method == "POST" and path.endswith("/lxc"):
            vmid = int(params.pop("vmid"))
            if vmid in self.containers:
                raise Failure("vmid_in_use", f"Proxmox answered: CT {vmid} already exists on node 'pve1'")
            kept = {key: value for key, value in params.items() if key in ("hostname", "tags", "memory", "cores")}
            self.add(vmid, kept.pop("hostname"), parts[1], "stopped", **kept)
        elif method == "DELETE":
            self._container(parts[1], int(parts[3]))
            del self.containers[int(parts[3])]
        else:
            container = self._container(parts[1], int(parts[3]))
            self.containers[container.vmid] = perform(container, Step("", method, path, params))
            self._changes[container.vmid] = self._changes.get(container.vmid, 0) + 1


def engine(cluster: SmallCluster, **options: t.Any) -> Engine:
    return Engine(t.cast(t.Any, cluster), **options)


def run(
    cluster: SmallCluster,
    containers: t.Sequence[dict[str, t.Any]],
    owner: str | None = None,
    ownership: Ownership = NOTHING_OWNED,
    check_mode: bool = False,
    **defaults: t.Any,
) -> list[Outcome]:
    defaults = {"template": TEMPLATE, "rootfs": {"storage": "local-zfs", "size": "4G"}, **defaults}
    return engine(cluster, check_mode=check_mode).run(declare_fleet(containers, defaults, owner), ownership)


def codes(outcomes: t.Sequence[Outcome]) -> list[str | None]:
    return [outcome.failure.code if outcome.failure else None for outcome in outcomes]


# ------------------------------------------------------------------------------------------------- a whole run


def test_a_fleet_is_made_and_then_left_alone() -> None:
    cluster = SmallCluster()
    containers = [{"hostname": f"web-{number}", "memory": 256} for number in range(4)]
    outcomes = run(cluster, containers, owner="shop")
    assert codes(outcomes) == [None] * 4
    assert all(outcome.changed for outcome in outcomes)
    assert sorted(container.hostname for container in cluster.containers.values()) == [f"web-{n}" for n in range(4)]
    assert all(container.running for container in cluster.containers.values())
    assert all(container.current["tags"] == "shop" for container in cluster.containers.values())
    assert [outcome.after.hostname for outcome in outcomes if outcome.after] == [f"web-{n}" for n in range(4)]

    cluster.requests.clear()
    outcomes = run(cluster, containers, owner="shop")
    assert not any(outcome.changed for outcome in outcomes)
    assert cluster.writes == []
    assert len(cluster.reads) == 4 + 3 + 1, "one for each container, one for each node, one for the cluster"


def test_check_mode_writes_nothing() -> None:
    cluster = SmallCluster()
    cluster.add(101, "web-0", memory=128)
    outcomes = run(cluster, [{"hostname": "web-0", "memory": 256}, {"hostname": "web-1"}], check_mode=True)
    assert [outcome.changed for outcome in outcomes] == [True, True]
    assert cluster.writes == []
    assert outcomes[0].after is not None
    assert outcomes[0].after.current["memory"] == 128
    assert outcomes[1].after is None


def test_one_failure_does_not_stop_the_others() -> None:
    cluster = SmallCluster()
    for number in range(3):
        cluster.add(101 + number, f"web-{number}")
    cluster.failures[("PUT", ".*/102/config")] = [Failure("locked", "CT is locked (backup)")]
    outcomes = run(cluster, [{"hostname": f"web-{number}", "memory": 256} for number in range(3)])
    assert codes(outcomes) == [None, "locked", None]
    assert [cluster.containers[101 + number].current["memory"] for number in range(3)] == [256, 512, 256]


def test_a_plan_that_is_refused_does_not_stop_the_others() -> None:
    cluster = SmallCluster()
    cluster.add(101, "web-0", rootfs="local-zfs:subvol-101-disk-0,size=16G")
    outcomes = run(cluster, [{"hostname": "web-0"}, {"hostname": "web-1"}])
    assert codes(outcomes) == ["would_lose_data", None]
    assert [write for write in cluster.writes if "/101" in write] == []


def test_a_container_that_is_changed_by_somebody_else_meanwhile_is_planned_for_again() -> None:
    cluster = SmallCluster()
    container = cluster.add(101, "web-0")
    container.pool = "p1"
    put = cluster.put

    original = cluster.request
    interfered = []

    def request(method: str, path: str, params: t.Mapping[str, t.Any] | None = None) -> t.Any:
        if method == "PUT" and not interfered:
            interfered.append(True)
            put("nodes/pve1/lxc/101/config", {"cores": 4})
        return original(method, path, params)

    cluster.request = request
    (outcome,) = run(cluster, [{"hostname": "web-0", "memory": 256, "cores": 4, "pool": "p1"}])
    assert outcome.failure is None
    assert cluster.containers[101].current["memory"] == 256
    last = cluster.requests[[n for n, it in enumerate(cluster.requests) if it[0] == "PUT"][-1]]
    assert last[2].keys() == {"memory", "digest"}, "what the other one has done needs no request any more"


def test_a_container_that_is_changed_all_the_time_is_given_up() -> None:
    cluster = SmallCluster()
    cluster.add(101, "web-0")
    cluster.failures[("PUT", ".*")] = [Failure("modified", "detected modified configuration") for _try in range(9)]
    (outcome,) = run(cluster, [{"hostname": "web-0", "memory": 256}])
    assert codes([outcome]) == ["modified"]
    assert len(cluster.writes) == 4


def test_ids_that_somebody_else_takes() -> None:
    cluster = SmallCluster()
    taken = Failure("vmid_in_use", "CT 100 already exists on node 'pve1'")
    cluster.failures[("POST", "nodes/pve./lxc")] = [taken, taken]
    outcomes = run(cluster, [{"hostname": "web-0"}])
    assert codes(outcomes) == [None]
    assert len(cluster.containers) == 1


def test_ids_of_a_fleet_do_not_collide() -> None:
    cluster = SmallCluster()
    cluster.add(101, "other")
    containers: list[dict[str, t.Any]] = [{"hostname": f"web-{number}"} for number in range(12)]
    containers.append({"hostname": "fixed", "vmid": 103})
    assert codes(run(cluster, containers)) == [None] * 13
    assert len(cluster.containers) == 14
    assert cluster.containers[103].hostname == "fixed"


# -------------------------------------------------------------------------------------------------- one of one


def single(cluster: SmallCluster, **options: t.Any) -> Outcome:
    declared = spec.declare({"state": "present", **options})
    return engine(cluster).run([declared])[0]


def test_a_container_that_is_as_declared_costs_two_requests() -> None:
    cluster = SmallCluster()
    cluster.add(101, "web-0")
    assert not single(cluster, vmid=101, node="pve1", memory=512).changed
    assert cluster.reads == ["nodes/pve1/lxc/101/pending", "nodes/pve1/lxc/101/status/current"]


def test_by_hostname_it_costs_three() -> None:
    cluster = SmallCluster()
    cluster.add(101, "web-0")
    assert not single(cluster, hostname="web-0").changed
    assert cluster.reads == ["cluster/resources", "nodes/pve1/lxc/101/pending", "nodes/pve1/lxc/101/status/current"]


def test_a_container_is_found_on_whatever_node_it_is() -> None:
    cluster = SmallCluster()
    cluster.add(101, "web-0", node="pve3")
    outcome = single(cluster, vmid=101, node="pve1", memory=512)
    assert outcome.before is not None
    assert outcome.before.node == "pve3"
    assert [change.key for change in outcome.plan.blocked] == ["node"]


def test_a_name_that_two_containers_have() -> None:
    cluster = SmallCluster()
    cluster.add(101, "web-0")
    cluster.add(102, "web-0", node="pve2")
    with pytest.raises(Failure) as raised:
        single(cluster, hostname="web-0")
    assert raised.value.code == "ambiguous_hostname"
    assert raised.value.details["vmids"] == [101, 102]


def test_the_id_of_a_virtual_machine() -> None:
    cluster = SmallCluster()
    resources = cluster._resources()
    cluster._resources = lambda: [*resources, {"type": "qemu", "vmid": 101, "node": "pve1"}]
    with pytest.raises(Failure) as raised:
        single(cluster, vmid=101)
    assert raised.value.code == "vmid_in_use"


# ---------------------------------------------------------------------------------------------- contradictions


def declared(hostname: str, **options: t.Any) -> Declared:
    return spec.declare({"state": "started", "hostname": hostname, **options})


def net(**subs: t.Any) -> list[dict[str, t.Any]]:
    return [{"name": "eth0", "bridge": "vmbr0", **subs}]


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        ({"vmid": 101}, {"vmid": 101}, "vmid: 101"),
        ({"hostname": "b"}, {}, "hostname: b"),
        (
            {"networks": net(hwaddr="bc:24:11:00:00:01")},
            {"networks": net(hwaddr="BC:24:11:00:00:01")},
            "MAC address: BC:24:11:00:00:01",
        ),
        ({"networks": net(ip="192.0.2.7/24")}, {"networks": net(ip="192.0.2.7/25")}, "address on vmbr0: 192.0.2.7"),
        (
            {"networks": net(ip6="2001:db8::1/64")},
            {"networks": net(ip6="2001:DB8:0::1/64")},
            "address on vmbr0: 2001:db8::1",
        ),
    ],
    ids=str,
)
def test_contradictions(first: dict[str, t.Any], second: dict[str, t.Any], what: str) -> None:
    fleet = [declared(**{"hostname": "a", **first}), declared(**{"hostname": "b", **second})]
    with pytest.raises(Failure) as raised:
        refuse_contradictions(fleet)
    assert raised.value.code == "invalid_option"
    assert what in raised.value.message
    assert fleet[0].label in raised.value.message


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"networks": net(ip="192.0.2.7/24")}, {"networks": net(ip="192.0.2.7/24", bridge="vmbr1")}),
        ({"networks": net(ip="192.0.2.7/24", tag=1)}, {"networks": net(ip="192.0.2.7/24", tag=2)}),
        ({"networks": net(ip="dhcp")}, {"networks": net(ip="dhcp")}),
        ({"hostname": "b", "state": "absent", "vmid": 101}, {}),
        ({"state": "absent", "networks": net(ip="192.0.2.7/24")}, {"networks": net(ip="192.0.2.7/24")}),
    ],
    ids=str,
)
def test_no_contradiction(first: dict[str, t.Any], second: dict[str, t.Any]) -> None:
    refuse_contradictions([declared(**{"hostname": "a", **first}), declared(**{"hostname": "b", **second})])


def test_contradictions_are_refused_before_the_first_request() -> None:
    cluster = SmallCluster()
    with pytest.raises(Failure):
        run(cluster, [{"hostname": "a"}, {"hostname": "a"}])
    assert cluster.requests == []


def test_two_entries_for_one_container() -> None:
    cluster = SmallCluster()
    cluster.add(101, "web-0")
    with pytest.raises(Failure) as raised:
        run(cluster, [{"hostname": "web-0"}, {"vmid": 101, "hostname": "web-9"}])
    assert "the same container (101)" in raised.value.message
    assert cluster.writes == []


# --------------------------------------------------------------------------------------------------- placement


def nodes_of(cluster: SmallCluster) -> dict[str, str]:
    return {container.hostname: container.node for container in cluster.containers.values()}


def test_containers_of_a_group_are_spread_evenly() -> None:
    cluster = SmallCluster()
    for vmid in range(200, 220):
        cluster.add(vmid, f"other-{vmid}", node="pve1")
    run(cluster, [{"hostname": f"web-{number}"} for number in range(6)], spread="web")
    placed = [node for name, node in nodes_of(cluster).items() if name.startswith("web")]
    assert sorted(placed) == ["pve1", "pve1", "pve2", "pve2", "pve3", "pve3"]


def test_groups_are_spread_each_for_itself() -> None:
    cluster = SmallCluster()
    containers = [{"hostname": f"{group}-{number}", "spread": group} for group in ("web", "db") for number in range(3)]
    run(cluster, containers)
    for group in ("web", "db"):
        assert sorted(node for name, node in nodes_of(cluster).items() if name.startswith(group)) == [
            "pve1",
            "pve2",
            "pve3",
        ]


def test_containers_without_a_group_go_where_there_are_fewest() -> None:
    cluster = SmallCluster()
    for vmid in range(200, 210):
        cluster.add(vmid, f"other-{vmid}", node="pve1" if vmid % 2 else "pve3")
    run(cluster, [{"hostname": f"web-{number}"} for number in range(4)])
    assert {node for name, node in nodes_of(cluster).items() if name.startswith("web")} == {"pve2"}


def test_memory_in_use_decides_between_equals() -> None:
    cluster = SmallCluster()
    cluster.memory.update(pve1=90, pve2=20, pve3=50)
    run(cluster, [{"hostname": "web-0"}])
    assert nodes_of(cluster) == {"web-0": "pve2"}


def test_what_exists_stays_where_it_is() -> None:
    cluster = SmallCluster()
    for number in range(3):
        cluster.add(101 + number, f"web-{number}", node="pve1")
    outcomes = run(cluster, [{"hostname": f"web-{number}"} for number in range(5)], spread="web")
    assert codes(outcomes) == [None] * 5
    placed = nodes_of(cluster)
    assert [placed[f"web-{number}"] for number in range(3)] == ["pve1"] * 3
    assert {placed["web-3"], placed["web-4"]} == {"pve2", "pve3"}, "what exists counts"


def test_a_declared_node_is_kept_and_an_offline_one_not_chosen() -> None:
    cluster = SmallCluster()
    cluster.nodes["pve2"] = "offline"
    run(cluster, [{"hostname": "a", "node": "pve3"}, *({"hostname": f"b{n}"} for n in range(4))], spread="x")
    placed = nodes_of(cluster)
    assert placed["a"] == "pve3"
    assert "pve2" not in placed.values()


def test_no_node_is_online() -> None:
    cluster = SmallCluster()
    cluster.nodes = dict.fromkeys(cluster.nodes, "offline")
    with pytest.raises(Failure) as raised:
        run(cluster, [{"hostname": "a"}, {"hostname": "b"}])
    assert raised.value.code == "node_offline"


# ----------------------------------------------------------------------------------------------------- pruning


def owned() -> SmallCluster:
    cluster = SmallCluster()
    cluster.add(101, "web-0", tags="shop")
    cluster.add(102, "web-1", tags="a;shop", node="pve2")
    cluster.add(103, "db-1", tags="database;shop")
    cluster.add(104, "foreign", tags="other")
    cluster.add(105, "plain")
    return cluster


WEB = [{"hostname": "web-0"}]


@pytest.mark.parametrize(
    ("ownership", "left", "stopped"),
    [
        (Ownership("shop", "none"), {101, 102, 103, 104, 105}, set()),
        (Ownership("shop", "stop"), {101, 102, 103, 104, 105}, {102, 103}),
        (Ownership("shop", "delete"), {101, 104, 105}, set()),
        (Ownership("Shop", "delete", {"database": "stop"}), {101, 103, 104, 105}, {103}),
        (Ownership("shop", "none", {"database": "delete"}), {101, 102, 104, 105}, set()),
        (Ownership("shop", "delete", {"database": "none", "a": "stop"}), {101, 102, 103, 104, 105}, {102}),
        (Ownership(None, "delete"), {101, 102, 103, 104, 105}, set()),
    ],
    ids=str,
)
def test_what_becomes_of_what_is_not_declared_any_more(ownership: Ownership, left: set[int], stopped: set[int]) -> None:
    cluster = owned()
    run(cluster, WEB, owner=ownership.owner, ownership=ownership)
    assert set(cluster.containers) == left
    assert {vmid for vmid, container in cluster.containers.items() if not container.running} == stopped


def test_pruned_containers_are_marked_and_come_last() -> None:
    outcomes = run(owned(), WEB, owner="shop", ownership=Ownership("shop", "stop"), check_mode=True)
    assert [(outcome.declared.hostname, outcome.pruned, outcome.changed) for outcome in outcomes] == [
        ("web-0", False, False),
        ("web-1", True, True),
        ("db-1", True, True),
    ]


def test_an_empty_list_prunes_everything_that_is_owned() -> None:
    cluster = owned()
    run(cluster, [], owner="shop", ownership=Ownership("shop", "delete"))
    assert set(cluster.containers) == {104, 105}


def test_a_protected_container_is_not_pruned_and_says_so() -> None:
    cluster = owned()
    cluster.containers[102].current["protection"] = 1
    outcomes = run(cluster, WEB, owner="shop", ownership=Ownership("shop", "delete"))
    assert codes(outcomes) == [None, "protected", None]
    assert 102 in cluster.containers


@pytest.mark.parametrize("entry", [{"hostname": "web-1"}, {"vmid": 102, "hostname": "web-1"}], ids=str)
def test_what_is_declared_but_cannot_be_read_is_not_pruned(entry: dict[str, t.Any]) -> None:
    """A lost connection must not be taken for a declaration that is gone."""
    cluster = owned()
    cluster.failures[("GET", ".*/102/pending")] = [Failure("unreachable", "lost")]
    outcomes = run(cluster, [*WEB, entry], owner="shop", ownership=Ownership("shop", "delete", {"database": "none"}))
    assert codes(outcomes) == [None, "unreachable"]
    assert 102 in cluster.containers


def test_what_is_declared_but_ambiguous_is_not_pruned() -> None:
    cluster = owned()
    cluster.add(106, "web-1", tags="shop")
    outcomes = run(
        cluster,
        [*WEB, {"hostname": "web-1"}],
        owner="shop",
        ownership=Ownership("shop", "delete", {"database": "none"}),
    )
    assert codes(outcomes) == [None, "ambiguous_hostname"]
    assert {102, 106} <= set(cluster.containers)


@pytest.mark.parametrize("tags", [None, "other", "database;shop"])
def test_tags_decide_as_they_are_now_not_as_the_cluster_lists_them(tags: str | None) -> None:
    """The list lags behind: somebody may just have taken the tag away so that the container stays."""
    cluster = SmallCluster(nodes=("pve1", "pve2"))
    cluster.add(101, "web-0", tags="shop")
    cluster.add(102, "web-1", node="pve2", **({"tags": tags} if tags else {}))
    stale = [{**entry, **({"tags": "shop"} if entry.get("vmid") == 102 else {})} for entry in cluster._resources()]
    cluster._resources = lambda: stale
    outcomes = run(cluster, WEB, owner="shop", ownership=Ownership("shop", "delete", {"database": "none"}))
    assert codes(outcomes) == [None]
    assert 102 in cluster.containers


# -------------------------------------------------------------------------------------------------- privileges


def test_what_a_token_lacks_is_said_before_the_first_write_for_all() -> None:
    cluster = SmallCluster()
    cluster.add(101, "web-0")
    cluster.credentials = TOKEN
    cluster.permissions = {"/": {"VM.Audit": 1}, "/vms/101": {"VM.Config.Memory": 1}}
    containers = [{"hostname": "web-0", "memory": 256, "cores": 2}, {"hostname": "web-1"}]
    for check_mode in (False, True):
        with pytest.raises(Failure) as raised:
            run(cluster, containers, check_mode=check_mode)
        assert raised.value.code == "permission_denied"
        lacking = {(entry["path"], entry["privilege"]) for entry in raised.value.details["missing"]}
        assert ("/vms/101", "VM.Config.CPU") in lacking
        assert ("/vms", "VM.Allocate") in lacking
        assert ("/vms/101", "VM.Config.Memory") not in lacking
        assert cluster.writes == []


def test_privileges_are_not_asked_for_when_nothing_is_to_be_done_or_by_root() -> None:
    cluster = SmallCluster()
    cluster.add(101, "web-0")
    run(cluster, [{"hostname": "web-0", "memory": 256}])
    assert "access/permissions" not in cluster.reads
    cluster.credentials = TOKEN
    run(cluster, [{"hostname": "web-0", "memory": 256}])
    assert "access/permissions" not in cluster.reads


# ------------------------------------------------------------------------------------------------------ the rest


def test_progress_names_each_step() -> None:
    cluster = SmallCluster()
    lines: list[str] = []
    fleet = declare_fleet([{"hostname": "web-0", "node": "pve1"}], {"template": TEMPLATE, "rootfs": _small()})
    engine(cluster, report=lines.append).run(fleet, Ownership())
    assert [line.rpartition(" in ")[0] for line in lines] == [
        "[1/2] web-0 created on pve1",
        "[2/2] web-0 started on pve1",
    ]


def _small() -> dict[str, t.Any]:
    return {"storage": "local-zfs", "size": "4G"}


def test_a_declaration_is_not_changed_by_a_run() -> None:
    fleet = declare_fleet([{"hostname": "web-0"}, {"hostname": "web-1"}], {"template": TEMPLATE, "rootfs": _small()})
    before = [replace(declared) for declared in fleet]
    engine(SmallCluster()).run(fleet, Ownership())
    assert fleet == before


def test_configuration_of_a_backup() -> None:
    text = "#100%25 of it\n#b\narch: amd64\nhostname: web\n"
    text += "net0: name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01\nlxc.x: 1\n"
    config = parse_config(f"{text}\n[before]\nmemory: 64\n")
    assert config == {
        "arch": "amd64",
        "description": "100% of it\nb\n",
        "hostname": "web",
        "net0": "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01",
    }
