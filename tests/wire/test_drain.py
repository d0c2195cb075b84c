# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every request of lxc_drain, as it arrives at the API."""

from __future__ import annotations

import asyncio
import time
import typing as t

import pytest
from aiohttp import web
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.drain import mark_of
from ansible_collections.lxcri.proxmox.tests.simulator.cluster import GIB, NODES, Cluster
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator
from ansible_collections.lxcri.proxmox.tests.wire.support import (
    ANY,
    LISTS,
    PERMISSIONS,
    RESOURCES,
    Module,
    Run,
    base,
    on_request,
    polls,
)
from fakepve.model import TaskError

TASKS = [f"GET /nodes/{node}/tasks" for node in NODES]
NETWORKS = [f"GET /nodes/{node}/network" for node in NODES]
HERE = "<!-- lxcri.proxmox home=pve1 vmid={} was={} -->"
# What is noted of the first container, and of the second one.
RAN, STOPPED = HERE.format(201, "running"), HERE.format(201, "stopped")
RAN_2, STOPPED_2 = HERE.format(202, "running"), HERE.format(202, "stopped")


class Drain(Module):
    """Runs lxc_drain against the cluster, and looks at what became of it."""

    name = "lxc_drain"
    alike = ("changed", "diff", "summary", "remaining")

    def __call__(self, check_mode: bool = False, **options: t.Any) -> Run:
        """Run it once, for pve1 unless the options say otherwise."""
        return super().__call__(check_mode, **{"node": "pve1", **options})

    def compare(self, check: Run, run: Run, options: t.Mapping[str, t.Any]) -> None:
        super().compare(check, run, options)
        assert plans(check) == plans(run)

    def unchanged(self, **options: t.Any) -> Run:
        run = super().unchanged(**options)
        assert run.result["containers"] == []
        return run

    def where(self) -> dict[int, tuple[str, str]]:
        """Node and status of each container."""
        return {ct.vmid: (ct.node, ct.status) for ct in self.cluster.cluster.cts}

    def marks(self) -> dict[int, str]:
        """The description of each container that has one."""
        found = {ct.vmid: str(ct.config.get("description", "")).strip() for ct in self.cluster.cluster.cts}
        return {vmid: text for vmid, text in found.items() if text}


def plans(run: Run) -> dict[str, list[tuple[t.Any, ...]]]:
    """(key, before, after, effect) for each container."""
    return {
        entry["hostname"]: [
            tuple(change[name] for name in ("key", "before", "after", "effect")) for change in entry["plan"]
        ]
        for entry in run.result["containers"]
    }


def failures(run: Run) -> dict[str, dict[str, t.Any]]:
    """The failures of containers by hostname."""
    return {entry["hostname"]: entry["failure"] for entry in run.result["containers"] if "failure" in entry}


def targets(run: Run) -> dict[str, str | None]:
    """Where each container goes."""
    return {entry["hostname"]: entry["target"] for entry in run.result["containers"]}


@pytest.fixture
def drain(cluster: Simulator) -> Drain:
    """Runs lxc_drain against a fresh cluster."""
    return Drain(cluster)


# ---------------------------------------------------------------------------------------------- there and back


def test_a_running_container_goes_by_a_restart(drain: Drain) -> None:
    drain.add(status="running")
    run = drain.converge(shutdown_timeout=60)
    config, move = f"PUT {base()}/config", f"POST {base()}/migrate"
    assert run.asked[:1] == [RESOURCES]
    assert sorted(run.asked[1:4]) == TASKS
    assert sorted(run.asked[4:7]) == LISTS
    assert run.asked[7] == f"GET {base()}/config"
    assert sorted(run.asked[8:11]) == NETWORKS
    assert run.asked[11:] == [PERMISSIONS, config, move, polls(), RESOURCES]
    assert run.writes == [
        ("PUT", f"{base()}/config", {"description": RAN, "digest": ANY}),
        ("POST", f"{base()}/migrate", {"target": "pve2", "restart": "1", "timeout": "60"}),
    ]
    assert plans(run) == {
        "web-1": [("home", None, "pve1, running", "live"), ("node", "pve1", "pve2", "restart")],
    }
    [entry] = run.result["containers"]
    assert (entry["source"], entry["target"], entry["node"], entry["running"]) == ("pve1", "pve2", "pve2", True)
    assert (entry["changed"], entry["notes"], [task["exitstatus"] for task in entry["tasks"]]) == (True, [], ["OK"])
    assert (run.result["node"], run.result["remaining"]) == ("pve1", [])
    assert run.result["summary"] == {"moved": 1, "settled": 0, "failed": 0, "remaining": 0}
    assert drain.where() == {201: ("pve2", "running")}
    assert run.result["diff"] == [
        {
            "before_header": "web-1 (201)",
            "after_header": "web-1 (201)",
            "before": {"home": None, "node": "pve1"},
            "after": {"home": "pve1, running", "node": "pve2"},
        }
    ]


def test_a_stopped_container_stays_stopped(drain: Drain) -> None:
    drain.add(config={"description": "The shop\n"})
    run = drain.converge()
    assert run.writes == [
        ("PUT", f"{base()}/config", {"description": f"The shop\n\n{STOPPED}", "digest": ANY}),
        ("POST", f"{base()}/migrate", {"target": "pve2"}),
    ]
    assert plans(run)["web-1"][1] == ("node", "pve1", "pve2", "live")
    assert drain.where() == {201: ("pve2", "stopped")}


def test_a_node_that_is_empty_costs_few_requests(drain: Drain) -> None:
    drain.add(201, node="pve2", status="running")
    drain.add(202, node="pve3")
    run = drain.unchanged()
    assert sorted(run.asked) == sorted([RESOURCES, *TASKS, *LISTS, f"GET {base(202, 'pve3')}/config"])


def test_they_come_back_as_they_were_and_no_others(drain: Drain) -> None:
    drain.add(201, status="running", config={"description": "Shop\n"})
    drain.add(202)
    drain.add(203, node="pve2", status="running")
    drain.apply()
    assert drain.marks() == {201: f"Shop\n\n{RAN}", 202: STOPPED_2}
    run = drain.converge(state="returned")
    assert drain.where() == {201: ("pve1", "running"), 202: ("pve1", "stopped"), 203: ("pve2", "running")}
    assert drain.marks() == {201: "Shop"}
    assert set(plans(run)) == {"web-1", "web-2"}
    assert [change[0] for change in plans(run)["web-1"]] == ["node", "home"]
    puts = {path: params for method, path, params in run.writes if method == "PUT"}
    assert puts[f"{base(201)}/config"] == {"description": "Shop", "digest": ANY}
    assert puts[f"{base(202)}/config"] == {"delete": "description", "digest": ANY}


def test_what_ran_runs_again_and_what_was_started_meanwhile_goes_on(drain: Drain) -> None:
    drain.add(201, node="pve2", config={"description": RAN})
    drain.add(202, node="pve3", status="running", config={"description": STOPPED_2})
    run = drain.converge(state="returned")
    assert drain.where() == {201: ("pve1", "running"), 202: ("pve1", "running")}
    assert [change[0] for change in plans(run)["web-1"]] == ["node", "state", "home"]
    assert ("POST", f"{base()}/status/start", {}) in run.writes


def test_a_container_from_elsewhere_keeps_its_home(drain: Drain) -> None:
    drain.add(201, node="pve1", status="running", config={"description": STOPPED.replace("pve1", "pve3")})
    drain.converge(targets=["pve2"])
    assert drain.marks() == {201: RAN.replace("pve1", "pve3")}
    drain.unchanged(state="returned")
    drain.converge(node="pve3", state="returned")
    assert (drain.where(), drain.marks()) == ({201: ("pve3", "running")}, {})


def test_a_template_goes_as_a_stopped_container(drain: Drain) -> None:
    drain.add(201, template=True)
    assert drain.converge().writes[1] == ("POST", f"{base()}/migrate", {"target": "pve2"})


def test_somebody_else_writes_the_description_at_the_same_time(drain: Drain, impatient: None) -> None:
    drain.add(status="running")

    def write(cluster: Cluster, _request: t.Any) -> None:
        cluster.ct(201).config["description"] = "Mine\n"

    on_request(drain.cluster, "PUT", f"{base()}/config", write)
    run = drain()
    assert not run.result.get("failed"), run.result
    assert drain.marks() == {201: f"Mine\n\n{RAN}"}


# -------------------------------------------------------------------------------------------------- placement


def test_they_are_spread_by_workload_and_memory(drain: Drain) -> None:
    drain.cluster.cluster.node_usage = {
        "pve2": {"mem": 6 * GIB, "maxmem": 8 * GIB},
        "pve3": {"mem": 1 * GIB, "maxmem": 8 * GIB},
    }
    for vmid in (201, 202):
        drain.add(vmid, status="running", config={"memory": 1024, "tags": "lxcri;lxcri.web"})
    drain.add(203, status="running", config={"memory": 4096})
    run = drain.apply()
    # The largest goes where there is most room, and those of one workload are kept apart.
    assert targets(run)["web-3"] == "pve3"
    assert {targets(run)["web-1"], targets(run)["web-2"]} == {"pve2", "pve3"}


def test_no_node_gets_more_than_its_memory_while_another_has_some(drain: Drain) -> None:
    drain.cluster.cluster.node_usage = {
        "pve2": {"mem": 7 * GIB, "maxmem": 8 * GIB},
        "pve3": {"mem": 0, "maxmem": 8 * GIB},
    }
    drain.add(201, status="running", config={"memory": 2048, "tags": "lxcri.web"})
    drain.add(209, node="pve3", status="running", config={"tags": "lxcri.web"})
    assert targets(drain.apply()) == {"web-1": "pve3"}


def test_volumes_go_where_there_is_room(drain: Drain) -> None:
    drain.cluster.cluster.storage_usage = {("pve2", "local-zfs"): {"maxdisk": 10 * GIB, "disk": 5 * GIB}}
    drain.add(201)
    assert targets(drain.apply()) == {"web-1": "pve3"}


def test_only_the_nodes_that_are_named_and_not_in_maintenance(drain: Drain) -> None:
    drain.add(201)
    drain.cluster.cluster.node_usage = {"pve2": {"hastate": "maintenance"}}
    assert targets(drain.check()) == {"web-1": "pve3"}
    assert targets(drain.check(targets=["pve3"])) == {"web-1": "pve3"}
    drain.refused("node_offline", targets=["pve2"])
    drain.refused("node_unknown", targets=["pve9"])


def test_a_storage_that_only_some_nodes_have(drain: Drain) -> None:
    drain.cluster.call("set_storage", "tank", nodes="pve1,pve3")
    drain.add(201, config={"rootfs": "tank:subvol-201-disk-0,size=1G"})
    assert targets(drain.converge()) == {"web-1": "pve3"}


def test_a_mapping_takes_the_place_of_a_local_storage(drain: Drain) -> None:
    drain.cluster.call("set_storage", "tank", nodes="pve1")
    drain.add(201, config={"rootfs": "tank:subvol-201-disk-0,size=1G", "mp0": "local-zfs:subvol-201-disk-1,mp=/srv"})
    drain.refused("cannot_migrate")
    run = drain.converge(storages={"tank": "local-zfs", "other": "local-zfs"})
    assert run.writes[1] == ("POST", f"{base()}/migrate", {"target": "pve2", "target-storage": "tank:local-zfs"})
    assert drain.ct().config["rootfs"].startswith("local-zfs:")


def test_volumes_on_shared_storages_need_no_mapping(drain: Drain) -> None:
    drain.cluster.call("set_storage", "tank", type="rbd", shared=1)
    drain.add(201, config={"rootfs": "tank:vm-201-disk-0,size=1G"})
    run = drain.apply(storages={"tank": "local-zfs"})
    assert run.writes[1][2] == {"target": "pve2"}


def test_a_node_without_the_bridge_of_a_container(drain: Drain) -> None:
    """A node without the bridge of a container is no target: it would be shut down, moved, and not start."""
    drain.add(201, config={"net0": "name=eth0,bridge=vmbr7,type=veth"})
    drain.cluster.cluster.bridges.add("vmbr7")
    given = {"pve1": ["vmbr0", "vmbr7"], "pve2": ["vmbr0"], "pve3": ["vmbr0", "vmbr7"]}
    networks(drain.cluster, given)
    assert targets(drain.check()) == {"web-1": "pve3"}
    given["pve3"].remove("vmbr7")
    run = drain.refused("cannot_migrate")
    assert run.details["reasons"] == ["pve2: the bridge vmbr7 is not there", "pve3: the bridge vmbr7 is not there"]
    # Nobody knows what the user or token may not see.
    given["pve1"].remove("vmbr7")
    assert targets(drain.check()) == {"web-1": "pve2"}


def networks(cluster: Simulator, bridges: t.Mapping[str, t.Sequence[str]]) -> None:
    """Have each node list these bridges."""
    simulated = cluster.cluster
    original = simulated._plain

    async def plain(request: t.Any, handler: t.Any) -> t.Any:
        parts = request.path.split("/")
        if parts[-1] == "network":
            assert request.query["type"] == "any_bridge"
            return web.json_response({"data": [{"iface": name, "type": "bridge"} for name in bridges[parts[-2]]]})
        return await original(request, handler)

    cluster.call(lambda _cluster: setattr(simulated, "_plain", plain))


# -------------------------------------------------------------------------------------------------- what cannot go

HELD: dict[str, tuple[dict[str, t.Any], str]] = {
    "a directory": ({"mp0": "/srv/data,mp=/data"}, "mp0 mounts the directory /srv/data of the node"),
    "a block device": ({"mp1": "/dev/sdb1,mp=/data"}, "mp1 mounts the device /dev/sdb1 of the node"),
    "a device": ({"dev0": "/dev/ttyUSB0"}, "dev0 passes the device /dev/ttyUSB0 of the node through"),
    "a storage type": (
        {"mp0": "iscsi:vm-201-disk-0,mp=/data"},
        "mp0 is on iscsi, and Proxmox copies no volumes of the type iscsi",
    ),
    "snapshots": (
        {"mp0": "thin:vm-201-disk-0,mp=/data"},
        "mp0 is on thin, and Proxmox copies no snapshots of the type lvmthin",
    ),
    "a linked clone": (
        {"rootfs": "local-zfs:basevol-100-disk-0/subvol-201-disk-0,size=1G"},
        "rootfs is a linked clone of basevol-100-disk-0",
    ),
    "a content type": (
        {"unused0": "images:vm-201-disk-3"},
        "the storage images of unused0 has no containers among its content types",
    ),
}


@pytest.mark.parametrize("held", HELD)
def test_what_holds_a_container_on_its_node(drain: Drain, held: str) -> None:
    storages = drain.cluster.cluster.storages
    storages["iscsi"] = {"type": "iscsi", "content": "rootdir", "active": 1, "files": set()}
    storages["thin"] = {"type": "lvmthin", "content": "rootdir", "active": 1, "files": set()}
    storages["images"] = {"type": "dir", "path": "/srv", "content": "images", "active": 1, "files": set()}
    config, reason = HELD[held]
    drain.add(201, status="running", config=config)
    if held == "snapshots":
        drain.cluster.call(lambda cluster: cluster.ct(201).snapshots.update(before={"snaptime": 1, **config}))
    run = drain.refused("cannot_migrate")
    assert run.details["reasons"] == [reason]
    assert run.result["remaining"] == [{"vmid": 201, "name": "web-1", "type": "lxc"}]


def test_the_template_of_linked_clones_stays_with_them(drain: Drain) -> None:
    drain.add(100, name="base", template=True)
    drain.add(201, config={"rootfs": "local-zfs:basevol-100-disk-0/subvol-201-disk-0,size=8G"})
    run = drain.refused("containers_failed")
    assert failures(run)["base"]["details"]["reasons"] == ["rootfs is what linked clones are based on"]


def test_devices_that_every_node_has(drain: Drain) -> None:
    drain.add(201, config={"dev0": "/dev/net/tun"})
    drain.cluster.call(lambda cluster: cluster.ct(201).config.update(lxc=[["lxc.mount.entry", "/a b none bind"]]))
    run = drain.refused("cannot_migrate")
    assert len(run.details["reasons"]) == 2
    assert targets(drain.apply(allow_devices=True)) == {"web-1": "pve2"}


def test_a_shared_directory_is_everywhere(drain: Drain) -> None:
    drain.add(201, config={"mp0": "/mnt/nfs,mp=/data,shared=1"})
    drain.converge()


def test_the_others_go_and_the_task_fails_with_those_that_cannot(drain: Drain) -> None:
    drain.add(201, status="running", config={"mp0": "/srv,mp=/data"})
    drain.add(202, status="running")
    check = drain.check()
    assert (check.changed, list(failures(check))) == (True, ["web-1"])
    run = drain()
    assert (run.code, run.details["containers"]) == ("containers_failed", ["web-1 (201)"])
    assert drain.where() == {201: ("pve1", "running"), 202: ("pve2", "running")}
    assert run.result["summary"] == {"moved": 1, "settled": 0, "failed": 1, "remaining": 1}
    # Nothing is written about what stays.
    assert drain.marks() == {202: RAN_2}


def test_nothing_goes_when_all_have_to(drain: Drain) -> None:
    drain.add(201, config={"mp0": "/srv,mp=/data"})
    drain.add(202)
    run = drain.refused("cannot_migrate", require_all=True)
    assert run.details["containers"] == [201]


def test_a_locked_container_stays(drain: Drain) -> None:
    drain.add(201)
    drain.add(202)
    drain.cluster.call(lambda cluster: setattr(cluster.ct(201), "lock", "backup"))
    run = drain()
    assert {name: failure["code"] for name, failure in failures(run).items()} == {"web-1": "locked"}
    assert drain.where()[202] == ("pve2", "stopped")


def test_vms_are_named_and_left(drain: Drain) -> None:
    drain.cluster.call("add_vm", 300, "windows", node="pve1")
    run = drain.unchanged()
    assert run.result["remaining"] == [{"vmid": 300, "name": "windows", "type": "qemu"}]


@pytest.mark.parametrize(
    "options",
    [
        {"node": "../pve1"},
        {"targets": ["pve 2"]},
        {"targets": ["pve1"]},
        {"targets": ["pve2"], "state": "returned"},
        {"storages": {"a:b": "tank"}},
        {"storages": {"tank": "a,b"}},
        {"concurrency": 0},
        {"shutdown_timeout": 0},
        {"timeout": 0},
    ],
)
def test_options_that_cannot_be_right(drain: Drain, options: dict[str, t.Any]) -> None:
    assert drain.refused("invalid_option", **options).requests == []


def test_a_node_that_does_not_exist(drain: Drain) -> None:
    assert drain.refused("node_unknown", node="pve9").details == {"node": "pve9"}


# ------------------------------------------------------------------------------------------------------- pods

POD = {"status": "running", "config": {"tags": "lxcri;lxcri.shop;lxcri.shop.1"}}


def test_the_containers_of_a_pod_go_together(drain: Drain) -> None:
    for vmid in (201, 202, 203):
        drain.add(vmid, **POD)
    drain.add(204, status="running", config={"tags": "lxcri;lxcri.shop;lxcri.shop.2"})
    found = targets(drain.converge())
    assert (len({found[f"web-{number}"] for number in (1, 2, 3)}), found["web-4"] == found["web-1"]) == (1, False)
    drain.converge(state="returned")


def test_a_pod_of_which_one_cannot_go_stays(drain: Drain) -> None:
    drain.add(201, **POD)
    drain.add(202, status="running", config={**POD["config"], "mp0": "/srv/shop,mp=/data"})
    drain.add(203)
    run = drain()
    assert failures(run)["web-1"]["details"]["reasons"] == ["it has to stay together with web-2 (202)"]
    assert {vmid: node for vmid, (node, _status) in drain.where().items()} == {201: "pve1", 202: "pve1", 203: "pve2"}


def test_the_rest_of_a_pod_follows_those_that_are_gone(drain: Drain) -> None:
    drain.add(201, **{**POD, "node": "pve3", "config": {**POD["config"], "description": RAN}})
    drain.add(202, **POD)
    assert targets(drain.converge()) == {"web-2": "pve3"}


# ------------------------------------------------------------------------------------------------- privileges


def test_every_privilege_that_is_missing_is_named_before_the_first_write(drain: Drain) -> None:
    drain.add(201, status="running")
    drain.cluster.call("add_user", "ci@pve", acl={"/vms": ["VM.Audit"], "/storage": ["Datastore.Audit"]})
    secret = drain.cluster.call("add_token", "ci@pve!t1")
    drain.options.update(api_user="ci@pve", api_token_id="t1", api_token_secret=secret)
    run = drain.refused("permission_denied", storages={"local-zfs": "tank"})
    assert [entry["privilege"] for entry in run.details["missing"]] == [
        "VM.Config.Options",
        "VM.Migrate",
        "VM.Config.Disk",
        "Datastore.AllocateSpace",
    ]


def test_a_token_with_these_privileges_is_enough(drain: Drain) -> None:
    drain.add(201, status="running")
    drain.add(202, node="pve2", config={"description": RAN_2})
    held = ["VM.Audit", "VM.Migrate", "VM.Config.Options", "VM.PowerMgmt"]
    drain.cluster.call("add_user", "ci@pve", acl={"/vms": held})
    secret = drain.cluster.call("add_token", "ci@pve!t1")
    drain.options.update(api_user="ci@pve", api_token_id="t1", api_token_secret=secret)
    drain.converge()
    drain.converge(state="returned")
    assert drain.where() == {201: ("pve1", "running"), 202: ("pve1", "running")}


# ------------------------------------------------------------------------------------------------ interruptions


def test_a_migration_that_is_under_way_is_waited_for(drain: Drain) -> None:
    """A controller that was killed leaves the migration, which shuts the container down before it locks it."""
    drain.add(201, status="running", config={"description": RAN}).shutdown_secs = 20
    drain.add(202, status="running")
    cluster, client = drain.cluster, drain.cluster.cluster
    cluster.call(lambda _cluster: client._lxc_migrate("root@pam", _migration("pve3")))
    run = drain(check_mode=True)
    assert (set(plans(run)), run.writes) == ({"web-2"}, [])
    assert drain.where()[201] == ("pve3", "running")
    assert set(plans(drain.converge())) == {"web-2"}


@pytest.mark.parametrize(
    ("source", "target", "state", "ends"), [("pve1", "pve2", "returned", "pve1"), ("pve2", "pve1", "drained", "pve2")]
)
def test_a_migration_the_other_way_is_waited_for(drain: Drain, source: str, target: str, state: str, ends: str) -> None:
    """What was killed was the contrary of what is asked for now."""
    drain.add(201, node=source, status="running", config={"description": RAN}).shutdown_secs = 20
    simulated = drain.cluster.cluster
    drain.cluster.call(lambda _cluster: simulated._lxc_migrate("root@pam", _migration(target, node=source)))
    drain(state=state)
    drain.cluster.call(_end_of_tasks)
    assert (drain.where(), drain.marks()) == ({201: (ends, "running")}, {201: RAN} if state == "drained" else {})


@pytest.mark.parametrize(
    "request_of", ["/cluster/resources", "/nodes/pve1/lxc", "/nodes/pve2/lxc", "/nodes/pve2/tasks"]
)
def test_a_migration_that_ends_while_it_is_looked_for(drain: Drain, request_of: str) -> None:
    """Whatever was read before it ended does not count."""
    drain.add(201, node="pve2", status="running", config={"description": RAN})
    simulated = drain.cluster.cluster
    drain.cluster.call(lambda _cluster: simulated._lxc_migrate("root@pam", _migration("pve1", node="pve2")))

    on_request(drain.cluster, "GET", request_of, _end_of_tasks)
    drain(state="returned")
    assert (drain.where(), drain.marks()) == ({201: ("pve1", "running")}, {})


async def _end_of_tasks(cluster: Cluster, _request: t.Any = None) -> None:
    while any(task["status"] == "running" for task in cluster.tasks.values()):
        await asyncio.sleep(0.01)


def _migration(target: str, vmid: int = 201, node: str = "pve1") -> dict[str, t.Any]:
    return {"node": node, "vmid": vmid, "target": target, "restart": 1, "timeout": 60}


@pytest.mark.parametrize(
    ("node", "status", "does"),
    [
        # Killed between the mark and the migration.
        ("pve1", "running", ["node"]),
        # The container shut down too late, and Proxmox gave up.
        ("pve1", "stopped", ["node", "state"]),
        # It has arrived, but was not started.
        ("pve2", "stopped", ["state"]),
        ("pve2", "running", []),
    ],
)
def test_a_run_goes_on_where_one_was_interrupted(drain: Drain, node: str, status: str, does: list[str]) -> None:
    drain.add(201, node=node, status=status, config={"description": RAN})
    run = drain.converge()
    assert [change[0] for change in plans(run).get("web-1", [])] == does
    assert drain.where()[201] == ("pve2", "running")
    drain.converge(state="returned")
    assert (drain.where()[201], drain.marks()) == (("pve1", "running"), {})


@pytest.mark.parametrize("state", ["drained", "returned"])
def test_a_copy_of_a_container_that_is_away_is_left_alone(drain: Drain, state: str) -> None:
    """A clone, or a backup that was restored, has the description of the container that it was made of."""
    drain.add(305, node="pve2", config={"description": RAN})
    drain.unchanged(state=state)
    assert drain.where() == {305: ("pve2", "stopped")}


def test_a_copy_gets_a_home_of_its_own(drain: Drain) -> None:
    drain.add(202, config={"description": RAN})
    drain.converge()
    assert (drain.where(), drain.marks()) == ({202: ("pve2", "stopped")}, {202: STOPPED_2})


def test_a_return_goes_on_where_one_was_interrupted(drain: Drain) -> None:
    drain.add(201, config={"description": RAN})
    run = drain.converge(state="returned")
    assert [change[0] for change in plans(run)["web-1"]] == ["state", "home"]
    assert run.result["summary"] == {"moved": 0, "settled": 1, "failed": 0, "remaining": 0}


def test_a_container_that_does_not_shut_down_stays_and_the_others_go(drain: Drain) -> None:
    drain.add(201, status="running").shutdown_secs = 900
    drain.add(202, status="running")
    run = drain(shutdown_timeout=5)
    failure = failures(run)["web-1"]
    assert failure["code"] == "shutdown_timeout"
    assert "container did not stop" in failure["message"]
    assert failure["details"]["node"] == "pve1"
    assert drain.where() == {201: ("pve1", "running"), 202: ("pve3", "running")}
    drain.ct().shutdown_secs = 1
    assert set(plans(drain.converge())) == {"web-1"}


def test_a_container_that_does_not_start_over_there_is_named_and_started_next_time(drain: Drain) -> None:
    drain.add(201, status="running")
    refused = drain.cluster.cluster.start_refused
    refused["pve2", 201] = "unable to find the network"
    run = drain()
    [entry] = run.result["containers"]
    assert (entry["failure"]["code"], entry["node"]) == ("task_failed", "pve2")
    assert drain.where() == {201: ("pve2", "stopped")}
    refused.clear()
    assert [change[0] for change in plans(drain.converge())["web-1"]] == ["state"]


# --------------------------------------------------------------------------------------------------- offline


def test_a_node_that_is_offline_is_refused_with_what_is_on_it(drain: Drain) -> None:
    drain.add(201)
    drain.add(202, node="pve2")
    drain.cluster.call("set_node_offline", "pve1")
    for state in ("drained", "returned"):
        run = drain.refused("node_offline", state=state)
        assert run.details == {"node": "pve1", "containers": [{"vmid": 201, "hostname": "web-1"}]}
        assert "web-1 (201)" in run.result["msg"]


def test_a_node_that_goes_offline_in_the_middle(drain: Drain, impatient: None) -> None:
    for vmid in (201, 202, 203):
        drain.add(vmid, status="running")

    def die(cluster: Cluster, _request: t.Any) -> None:
        cluster.set_node_offline("pve1")

    on_request(drain.cluster, "POST", f"{base(202)}/migrate", die)
    run = drain(concurrency=1)
    assert run.code == "node_offline"
    assert run.details["node"] == "pve1"
    assert run.details["containers"] == [
        {"vmid": 202, "hostname": "web-2", "node": "pve1"},
        {"vmid": 203, "hostname": "web-3", "node": "pve1"},
    ]
    assert {entry["hostname"]: entry["node"] for entry in run.result["containers"]} == {
        "web-1": "pve2",
        "web-2": "pve1",
        "web-3": "pve1",
    }
    drain.cluster.call("set_node_offline", "pve1", False)
    drain.converge()
    assert {status for _node, status in drain.where().values()} == {"running"}
    drain.converge(state="returned")
    assert drain.where() == dict.fromkeys((201, 202, 203), ("pve1", "running"))


def test_a_target_that_goes_offline_in_the_middle(drain: Drain) -> None:
    drain.add(201, status="running")

    def die(cluster: Cluster, _request: t.Any) -> None:
        cluster.set_node_offline("pve2")

    on_request(drain.cluster, "POST", f"{base()}/migrate", die)
    run = drain()
    [entry] = run.result["containers"]
    assert (entry["failure"]["code"], entry["node"]) == ("task_failed", "pve1")
    assert "Can't connect to destination address" in run.result["msg"]
    assert drain.where() == {201: ("pve1", "running")}
    assert targets(drain.converge()) == {"web-1": "pve3"}


def test_containers_on_another_node_that_is_offline_are_mentioned_when_others_return(drain: Drain) -> None:
    drain.add(201, node="pve2", config={"description": STOPPED})
    drain.add(202, node="pve3", config={"description": STOPPED_2})
    drain.cluster.call("set_node_offline", "pve3")
    run = drain(state="returned")
    assert drain.where()[201] == ("pve1", "stopped")
    assert run.result["warnings"] == ["pve3 is offline, and the home of 1 of its containers could not be read."]


# ---------------------------------------------------------------------------------------------------------- HA


@pytest.mark.parametrize("cluster", [{"ha_delay": 1}], indirect=True)
def test_a_container_under_ha_is_moved_by_the_ha_manager(drain: Drain) -> None:
    drain.add(201, status="running", config={}).ha_state = "started"
    run = drain.converge()
    assert f"GET {base()}/migrate" in run.asked
    [entry] = run.result["containers"]
    assert ":hamigrate:" in entry["tasks"][0]["upid"]
    assert drain.where() == {201: ("pve2", "running")}
    drain.converge(state="returned")
    assert drain.where() == {201: ("pve1", "running")}


@pytest.mark.parametrize("cluster", [{"ha_delay": 20, "time_scale": 0.1}], indirect=True)
def test_what_the_ha_manager_could_not_move_is_not_waited_for(drain: Drain) -> None:
    drain.add(201, status="running").ha_state = "started"

    def full(cluster: Cluster, _request: t.Any) -> None:
        async def no_room(*_args: t.Any) -> None:
            raise TaskError("out of space")

        cluster._copy_volumes = no_room

    on_request(drain.cluster, "POST", "/migrate", full)
    began = time.monotonic()
    failure = failures(drain(timeout=30))["web-1"]
    assert failure["code"] == "task_failed"
    assert failure["message"] == "The HA manager did not move container 201 to pve2."
    assert time.monotonic() - began < 20
    assert drain.where() == {201: ("pve1", "running")}


def test_the_ha_manager_maps_no_storages(drain: Drain) -> None:
    drain.add(201, status="running").ha_state = "started"
    run = drain.refused("cannot_migrate", storages={"local-zfs": "tank"})
    assert "the HA manager moves it, and does not put its volumes on another storage" in run.result["msg"]


def test_the_rules_of_the_ha_manager_count(drain: Drain) -> None:
    drain.add(201, status="running").ha_state = "started"
    drain.add(202, status="running").ha_state = "started"
    rules = drain.cluster.cluster.ha_rules
    rules[201] = {"allowed-nodes": ["pve3"], "not-allowed-nodes": {"pve2": {"blocking-ha-resources": []}}}
    rules[202] = {"dependent-ha-resources": ["ct:201", "vm:300"]}
    run = drain.check()
    assert targets(run) == {"web-1": "pve3", "web-2": "pve3"}
    assert run.result["containers"][1]["notes"] == [
        "The HA manager keeps it together with 201, which go to the same node."
    ]
    rules[201] = {"allowed-nodes": []}
    assert "a rule of the HA manager keeps it from there" in failures(drain.check())["web-1"]["message"]


def test_an_ha_resource_in_error_is_not_moved(drain: Drain) -> None:
    drain.add(201, status="running").ha_state = "error"
    drain.refused("cannot_migrate")


def test_proxmox_8_does_not_tell_the_rules(drain: Drain) -> None:
    drain.add(201).ha_state = "stopped"
    drain.cluster.call("fail", "GET", f"{base()}/migrate", 501, "Method 'GET ...' not implemented")
    assert targets(drain.check()) == {"web-1": "pve2"}


def test_what_the_ha_manager_is_moving_is_waited_for(drain: Drain) -> None:
    drain.add(201, status="running", config={"description": RAN}).ha_state = "relocate"
    began = time.monotonic()

    def settle(cluster: Cluster, _request: t.Any) -> None:
        cluster.ct(201).node, cluster.ct(201).ha_state = "pve2", "started"

    on_request(drain.cluster, "GET", "/cluster/resources", settle, after=True)
    drain.unchanged()
    assert time.monotonic() - began < 10


def test_the_mark_of_the_simulator_is_that_of_the_module() -> None:
    assert (mark_of(RAN, 201), mark_of("Mine", 201)) == (mark_of(str(mark_of(RAN, 201)), 201), None)
