# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every request of lxc_snapshot, as it arrives at the API."""

from __future__ import annotations

import re
import time
import typing as t

import pytest
from ansible_collections.lxcri.proxmox.tests.simulator.cluster import NODES, Cluster
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator
from ansible_collections.lxcri.proxmox.tests.wire.module_runner import run_module
from ansible_collections.lxcri.proxmox.tests.wire.support import (
    PERMISSIONS,
    RESOURCES,
    TEMPLATE,
    Module,
    Run,
    base,
    on_request,
    polls,
)
from fakepve.model import TaskError

DAY = 86400
LIST = f"GET {base()}/snapshot"
TAKE = f"POST {base()}/snapshot"
CONFIG = f"GET {base()}/pending"
FEATURE = f"GET {base()}/feature"
SAVED = f"GET {base()}/snapshot/before/config"
HERE: dict[str, t.Any] = {"vmid": 201, "node": "pve1"}


class Snap(Module):
    """Runs lxc_snapshot against the cluster, and looks at what became of it."""

    name = "lxc_snapshot"

    def compare(self, check: Run, run: Run, options: t.Mapping[str, t.Any]) -> None:
        assert check.changed == run.changed
        assert timeless(check.result["diff"]) == timeless(run.result["diff"])
        assert timeless(plans(check)) == timeless(plans(run))

    def add(self, vmid: int = 201, *snapshots: str, **settings: t.Any) -> t.Any:
        """With snapshots that were taken a day apart, the last a day ago."""
        ct = super().add(vmid, **settings)
        self.cluster.call(lambda _cluster: take(ct, *snapshots))
        return ct

    def names(self, vmid: int = 201) -> list[str]:
        """The snapshots of a container."""
        return list(self.ct(vmid).snapshots)


def take(ct: t.Any, *names: str) -> None:
    """Snapshots of the container as it is, a day apart, the last of them a day ago."""
    for place, name in enumerate(names):
        taken = {**ct.config, "snaptime": int(time.time()) - (len(names) - place) * DAY}
        ct.snapshots[name] = {**taken, "memory": 1024}
        ct.config["parent"] = name


def timeless(value: t.Any) -> str:
    """As text, without the times in generated names: a second may pass between two runs."""
    return re.sub(r"(lxcri-\d{8})-\d{6}", r"\1", repr(value))


def plans(run: Run) -> list[list[tuple[str, t.Any, t.Any, str, str]]]:
    """(key, before, after, effect, request) for each container."""
    return [
        [tuple(change[name] for name in ("key", "before", "after", "effect", "request")) for change in entry["plan"]]
        for entry in run.result["containers"]
    ]


def codes(run: Run) -> dict[str, str | None]:
    """The code of each container's failure, by its label."""
    return {entry["hostname"]: entry.get("failure", {}).get("code") for entry in run.result["containers"]}


def token(cluster: Simulator, acl: t.Mapping[str, t.Sequence[str]]) -> dict[str, t.Any]:
    """The options of a token whose user has these privileges."""
    cluster.call("add_user", "ci@pve", acl=acl)
    return {"api_user": "ci@pve", "api_token_id": "t1", "api_token_secret": cluster.call("add_token", "ci@pve!t1")}


@pytest.fixture
def snap(cluster: Simulator) -> Snap:
    """Runs lxc_snapshot against a fresh cluster."""
    return Snap(cluster)


# ---------------------------------------------------------------------------------------------------------- take


def test_taking_one_is_one_task(snap: Snap) -> None:
    snap.add(201, status="running")
    run = snap.converge(hostname="web-1", name="before", description="Before 2.0")
    assert run.asked == [RESOURCES, LIST, CONFIG, FEATURE, PERMISSIONS, TAKE, polls(), LIST]
    assert run.writes == [("POST", f"{base()}/snapshot", {"snapname": "before", "description": "Before 2.0"})]
    assert plans(run) == [[("snapshot before", None, "Before 2.0", "live", TAKE)]]
    [entry] = run.result["containers"]
    assert (entry["hostname"], entry["vmid"], entry["node"], entry["changed"]) == ("web-1", 201, "pve1", True)
    [snapshot] = entry["snapshots"]
    assert (snapshot["name"], snapshot["description"], snapshot["incomplete"]) == ("before", "Before 2.0", None)
    [task] = entry["tasks"]
    assert (":vzsnapshot:201:" in task["upid"], task["exitstatus"]) == (True, "OK")
    assert run.result["diff"] == [
        {
            "before_header": "web-1",
            "after_header": "web-1",
            "before": {"snapshot before": None},
            "after": {"snapshot before": "Before 2.0"},
        }
    ]
    assert snap.ct().status == "running"


def test_with_vmid_and_node_the_cluster_is_not_asked(snap: Snap) -> None:
    snap.add(201)
    assert snap.converge(**HERE, name="before").asked == [LIST, CONFIG, FEATURE, PERMISSIONS, TAKE, polls(), LIST]


def test_a_container_that_is_not_on_the_node_of_the_task_is_looked_for(snap: Snap) -> None:
    snap.add(201, "before")
    run = snap(vmid=201, node="pve2", name="before")
    assert run.asked == [f"GET {base(node='pve2')}/snapshot", RESOURCES, LIST]
    assert (run.changed, run.result["containers"][0]["node"]) == (False, "pve1")


def test_the_name_is_told(snap: Snap) -> None:
    snap.add(201)
    run = snap(**HERE)
    assert snap.names() == [run.result["name"]]


def test_root_with_a_password_is_not_asked_for_privileges(snap: Snap) -> None:
    snap.add(201)
    snap.options = {name: snap.options[name] for name in ("api_host", "api_port", "ca_path")}
    snap.options.update(api_user="root@pam", api_password=snap.cluster.password)
    run = snap(**HERE, name="before")
    assert run.asked == ["POST /access/ticket", LIST, CONFIG, FEATURE, TAKE, polls(), LIST]


@pytest.mark.parametrize(
    ("target", "asked"),
    [
        ({"vmid": 201, "node": "pve1"}, [LIST]),
        ({"vmid": 201}, [RESOURCES, LIST]),
        ({"hostname": "web-1"}, [RESOURCES, LIST]),
    ],
)
@pytest.mark.parametrize(
    "options",
    [
        {"name": "before"},
        {"name": "before", "keep": {"last": 1}, "prefix": "be"},
        {"name": "other", "state": "absent"},
        {"state": "absent", "keep": {"last": 3}},
    ],
)
def test_what_is_as_declared_is_read_and_no_more(
    snap: Snap, target: dict[str, t.Any], asked: list[str], options: dict[str, t.Any]
) -> None:
    snap.add(201, "before")
    for run in (snap(**target, **options), snap.check(**target, **options)):
        assert (run.asked, run.changed, run.result["containers"][0]["plan"]) == (asked, False, [])


def test_a_snapshot_without_a_name_is_taken_every_time(snap: Snap) -> None:
    snap.add(201)
    snap(**HERE)
    [name] = snap.names()
    assert (name[:6], len(name)) == ("lxcri-", 21)
    snap.cluster.call(lambda _cluster: snap.ct().snapshots.pop(name))
    assert snap(**HERE, prefix="daily-").changed
    assert [name[:6] for name in snap.names()] == ["daily-"]


@pytest.mark.parametrize(("old", "new"), [("", "x"), ("x", "y"), ("x", ""), ("x", "a\nb\n"), ("x\n", " y")])
def test_a_description_is_changed_in_place(snap: Snap, old: str, new: str) -> None:
    snap.add(201, "before")
    snap.ct().snapshots["before"]["description"] = old
    run = snap.converge(**HERE, name="before", description=new)
    assert run.writes == [("PUT", f"{base()}/snapshot/before/config", {"description": new.rstrip("\n")})]
    assert run.result["containers"][0]["snapshots"][0]["description"] == new.rstrip("\n")


@pytest.mark.parametrize("given", ["Before", "Before\n", "Before\n\n"])
def test_the_newline_that_proxmox_adds_is_no_difference(snap: Snap, given: str) -> None:
    snap.add(201)
    assert snap.converge(**HERE, name="before", description=given).changed
    assert snap.ct().snapshots["before"]["description"] == "Before\n"


# ------------------------------------------------------------------------------------------------------ check mode


def test_check_mode_says_which_would_go(snap: Snap) -> None:
    snap.add(201, "lxcri-a", "mine", "lxcri-b", "lxcri-c")
    run = snap.check(**HERE, name="lxcri-new", keep={"last": 2})
    assert run.asked == [LIST, CONFIG, FEATURE, PERMISSIONS]
    assert run.changed
    assert plans(run) == [
        [
            ("snapshot lxcri-new", None, "taken", "live", TAKE),
            ("snapshot lxcri-a", "taken", None, "live", f"DELETE {base()}/snapshot/lxcri-a"),
            ("snapshot lxcri-b", "taken", None, "live", f"DELETE {base()}/snapshot/lxcri-b"),
        ]
    ]
    [entry] = run.result["containers"]
    assert [snapshot["name"] for snapshot in entry["snapshots"]] == ["lxcri-a", "mine", "lxcri-b", "lxcri-c"]
    assert entry["tasks"] == []


# ---------------------------------------------------------------------------------------------------------- remove


def test_removing_one_is_one_task(snap: Snap) -> None:
    snap.add(201, "older", "before", "newer")
    run = snap.converge(**HERE, name="before", state="absent")
    assert run.asked == [LIST, CONFIG, PERMISSIONS, f"DELETE {base()}/snapshot/before", polls(), LIST]
    assert run.writes == [("DELETE", f"{base()}/snapshot/before", {})]
    assert snap.names() == ["older", "newer"]


@pytest.mark.parametrize("snapstate", ["prepare", "delete"])
def test_an_incomplete_snapshot_can_be_removed_and_nothing_else(snap: Snap, snapstate: str) -> None:
    snap.add(201, "before")
    snap.ct().snapshots["before"]["snapstate"] = snapstate
    snap.refused("snapshot_incomplete", **HERE, name="before")
    snap.refused("snapshot_incomplete", **HERE, name="before", state="rolled_back")
    assert snap.converge(**HERE, name="before", state="absent").changed
    assert snap.names() == []


def test_a_snapshot_whose_volumes_are_in_the_way_is_removed_by_force(snap: Snap) -> None:
    snap.add(201, "before")
    run = snap.converge(**HERE, name="before", state="absent", force=True)
    assert run.writes == [("DELETE", f"{base()}/snapshot/before", {"force": "1"})]


def test_a_snapshot_that_somebody_else_removes_meanwhile_is_removed(snap: Snap) -> None:
    snap.add(201, "before")
    on_request(snap.cluster, "DELETE", "/snapshot/before", lambda cluster, _r: cluster.ct(201).snapshots.clear())
    run = snap(**HERE, name="before", state="absent")
    assert not run.result.get("failed"), run.result["msg"]
    assert run.changed


def test_a_removal_that_meets_a_replication_is_tried_again(snap: Snap) -> None:
    snap.add(201, "before")
    simulated = snap.cluster.cluster
    original = simulated._await_config_lock
    replicating = [True]

    async def locked(ct: t.Any) -> None:
        if replicating:
            replicating.pop()
            raise TaskError("Failed to obtain guest migration lock - replication running?")
        await original(ct)

    snap.cluster.call(lambda _cluster: setattr(simulated, "_await_config_lock", locked))
    run = snap(**HERE, name="before", state="absent")
    assert not run.result.get("failed"), run.result["msg"]
    assert (len(run.writes), snap.names()) == (2, [])


def test_pruning_takes_first_and_removes_oldest_first(snap: Snap) -> None:
    snap.add(201, "lxcri-a", "mine", "lxcri-b", "vzdump", "lxcri-c")
    run = snap.converge(**HERE, name="lxcri-new", keep={"last": 2})
    assert [f"{method} {path}" for method, path, _params in run.writes] == [
        TAKE,
        f"DELETE {base()}/snapshot/lxcri-a",
        f"DELETE {base()}/snapshot/lxcri-b",
    ]
    assert snap.names() == ["mine", "vzdump", "lxcri-c", "lxcri-new"]
    assert len(run.result["containers"][0]["tasks"]) == 3


def test_pruning_without_taking_one(snap: Snap) -> None:
    snap.add(201, "daily-a", "daily-b", "daily-c")
    run = snap.converge(**HERE, state="absent", prefix="daily-", keep={"daily": 2}, keep_timezone="UTC")
    assert [path for _method, path, _params in run.writes] == [f"{base()}/snapshot/daily-a"]


def test_a_removal_that_fails_leaves_the_rest_and_says_what_is_there(snap: Snap) -> None:
    snap.add(201, "lxcri-a", "lxcri-b", "lxcri-c")
    on_request(
        snap.cluster, "DELETE", "/snapshot/lxcri-b", lambda cluster, _r: cluster.snapshot_lock(201, "snapshot-delete")
    )
    run = snap(**HERE, state="absent", keep={"last": 1})
    assert (run.code, run.details["lock"]) == ("locked", "snapshot-delete")
    assert snap.names() == ["lxcri-b", "lxcri-c"]
    assert [snapshot["name"] for snapshot in run.result["containers"][0]["snapshots"]] == ["lxcri-b", "lxcri-c"]


# -------------------------------------------------------------------------------------------------------- roll back


def test_a_stopped_container_is_rolled_back_and_stays_down(snap: Snap) -> None:
    snap.add(201, "before")
    run = snap.apply(**HERE, name="before", state="rolled_back")
    assert run.asked == [LIST, CONFIG, SAVED, PERMISSIONS, f"POST {base()}/snapshot/before/rollback", polls(), LIST]
    assert run.writes == [("POST", f"{base()}/snapshot/before/rollback", {})]
    assert (snap.ct().status, snap.ct().config["memory"]) == ("stopped", 1024)


def test_a_running_container_runs_again(snap: Snap) -> None:
    snap.add(201, "older", "before", status="running")
    run = snap.apply(hostname="web-1", name="before", state="rolled_back")
    rollback, start = f"POST {base()}/snapshot/before/rollback", f"POST {base()}/status/start"
    assert run.asked == [RESOURCES, LIST, CONFIG, SAVED, PERMISSIONS, rollback, polls(), start, polls(), LIST]
    assert plans(run) == [
        [
            ("rollback", "before", "before", "restart", rollback),
            ("memory", 512, 1024, "restart", rollback),
            ("state", "stopped", "started", "live", start),
        ]
    ]
    assert [task["exitstatus"] for task in run.result["containers"][0]["tasks"]] == ["OK", "OK"]
    assert snap.ct().status == "running"


def test_whether_it_runs_is_read_where_it_is_current(snap: Snap) -> None:
    """The cluster's list still says that it is stopped."""
    ct = snap.add(201, "before")
    snap.cluster.call(lambda _cluster: setattr(ct, "status", "running"))
    snap(hostname="web-1", name="before", state="rolled_back")
    assert snap.ct().status == "running"


def test_a_rollback_is_done_every_time(snap: Snap) -> None:
    snap.add(201, "before")
    assert snap.apply(**HERE, name="before", state="rolled_back").changed
    assert snap.apply(**HERE, name="before", state="rolled_back").changed


@pytest.mark.parametrize("suffix", ["/rollback", "/status/start"])
def test_a_lock_that_is_held_for_moments_is_waited_for(snap: Snap, suffix: str) -> None:
    """The task gives up after ten seconds, and is started again."""
    snap.add(201, "before", status="running")
    on_request(snap.cluster, "POST", suffix, lambda cluster, _request: cluster.hold_config_lock(201, 15))
    run = snap(**HERE, name="before", state="rolled_back")
    assert not run.result.get("failed"), run.result["msg"]
    assert [path.endswith(suffix) for _method, path, _params in run.writes].count(True) == 2
    assert len(run.writes) == 3
    assert snap.ct().status == "running"


def test_a_container_that_somebody_else_starts_meanwhile_runs(snap: Snap) -> None:
    snap.add(201, "before", status="running")

    def start(cluster: Cluster, _request: t.Any) -> None:
        cluster.ct(201).status = "running"

    on_request(snap.cluster, "POST", "/status/start", start)
    run = snap(**HERE, name="before", state="rolled_back")
    assert not run.result.get("failed"), run.result["msg"]


@pytest.mark.parametrize("status", ["running", "stopped"])
def test_newer_snapshots_are_not_lost_by_the_way(snap: Snap, status: str) -> None:
    snap.add(201, "older", "before", "newer", "newest", status=status)
    run = snap.refused("would_lose_data", **HERE, name="before", state="rolled_back")
    assert run.details == {"vmid": 201, "snapshots": ["newer", "newest"]}
    assert run.asked == [LIST, SAVED, "GET /storage"]
    assert snap.ct().status == status


def test_newer_snapshots_are_removed_newest_first_when_they_may_go(snap: Snap) -> None:
    snap.add(201, "older", "before", "newer", "newest")
    run = snap.apply(**HERE, name="before", state="rolled_back", remove_newer=True)
    assert [path for _method, path, _params in run.writes] == [
        f"{base()}/snapshot/newest",
        f"{base()}/snapshot/newer",
        f"{base()}/snapshot/before/rollback",
    ]
    assert snap.names() == ["older", "before"]


@pytest.mark.parametrize("kind", ["rbd", "lvmthin", "btrfs"])
@pytest.mark.parametrize("mixed", [False, True])
def test_storages_that_keep_newer_snapshots_roll_back_past_them(snap: Snap, kind: str, mixed: bool) -> None:
    storage = {"type": kind, "content": "rootdir,images", "active": 1, "files": set(), "total": 2**40}
    snap.cluster.call(lambda cluster: cluster.storages.update(fast=storage))
    config = {"rootfs": "fast:vm-201-disk-0,size=8G"}
    if mixed:
        config["mp0"] = "tank:subvol-201-disk-0,mp=/data,size=8G"
    snap.add(201, "before", "newer", config=config)
    if mixed:
        snap.refused("would_lose_data", **HERE, name="before", state="rolled_back")
        return
    run = snap.apply(**HERE, name="before", state="rolled_back")
    assert run.asked[:5] == [LIST, SAVED, "GET /storage", CONFIG, PERMISSIONS]
    assert [path for _method, path, _params in run.writes] == [f"{base()}/snapshot/before/rollback"]
    assert snap.names() == ["before", "newer"]


def test_the_storages_are_read_once_for_all(snap: Snap) -> None:
    for vmid in range(201, 206):
        snap.add(vmid, "before", "newer")
    run = snap(vmid=list(range(201, 206)), name="before", state="rolled_back")
    assert run.asked.count("GET /storage") == 1
    assert set(codes(run).values()) == {"would_lose_data"}


def test_where_the_token_may_not_see_the_storage_proxmox_decides(snap: Snap) -> None:
    """Proxmox looks at all volumes before it stops the container or touches anything (errors-117)."""
    storage = {"type": "rbd", "content": "rootdir,images", "active": 1, "files": set(), "total": 2**40}
    snap.cluster.call(lambda cluster: cluster.storages.update(fast=storage))
    snap.add(201, "before", "newer", config={"rootfs": "fast:vm-201-disk-0,size=8G"})
    snap.add(202, "before", "newer", status="running")
    snap.options.update(token(snap.cluster, {"/vms": ["VM.Audit", "VM.Snapshot", "VM.PowerMgmt"]}))
    run = snap.apply(vmid=201, name="before", state="rolled_back")
    assert run.result["containers"][0]["notes"] == [
        "Proxmox will decide whether fast can go back past newer snapshots: without Datastore.Audit it cannot be known "
        "beforehand."
    ]
    run = snap(vmid=202, name="before", state="rolled_back")
    assert (run.code, run.details) == ("would_lose_data", {"vmid": 202, "snapshots": ["newer"]})
    assert (snap.names(202), snap.ct(202).status) == (["before", "newer"], "running")


def test_the_storages_of_the_snapshot_count_not_those_of_now(snap: Snap) -> None:
    """The volumes that are rolled back are those that the snapshot has."""
    storage = {"type": "rbd", "content": "rootdir,images", "active": 1, "files": set(), "total": 2**40}
    snap.cluster.call(lambda cluster: cluster.storages.update(fast=storage))
    ct = snap.add(201, "before", "newer", config={"rootfs": "fast:vm-201-disk-0,size=8G"})
    ct.config["mp0"] = "tank:subvol-201-disk-0,mp=/data,size=8G"
    run = snap.apply(**HERE, name="before", state="rolled_back")
    assert run.result["containers"][0]["notes"] == [
        "The volumes of mp0 are not in the snapshot and become unused volumes."
    ]
    assert ("mp0", "tank:subvol-201-disk-0,mp=/data,size=8G", None) in [change[:3] for change in plans(run)[0]]


def test_a_snapshot_that_is_not_there(snap: Snap) -> None:
    snap.add(201, "older", "newer")
    run = snap.refused("snapshot_missing", hostname="web-1", name="before", state="rolled_back")
    assert run.result["msg"] == "There is no snapshot before of web-1 (201). There are: older, newer."
    assert run.asked == [RESOURCES, LIST]
    run = snap.refused("snapshot_missing", **HERE, name="before", state="rolled_back")
    assert run.result["msg"] == "There is no snapshot before of container 201. There are: older, newer."


# ------------------------------------------------------------------------------------------------ what stands against


@pytest.mark.parametrize("lock", ["backup", "snapshot", "migrate"])
@pytest.mark.parametrize(
    "options",
    [
        {"name": "new"},
        {"name": "before", "state": "absent"},
        {"name": "before", "state": "rolled_back"},
        {"name": "before", "description": "x"},
    ],
)
def test_a_lock_is_named(snap: Snap, lock: str, options: dict[str, t.Any]) -> None:
    snap.add(201, "before", status="running")
    snap.cluster.call("snapshot_lock", 201, lock)
    run = snap.refused("locked", **HERE, **options)
    assert run.details["lock"] == lock
    assert (snap.names(), snap.ct().status) == (["before"], "running")


@pytest.mark.parametrize("mount", ["/srv/data,mp=/data", "/dev/sdb1,mp=/data", "local:201/vm-201-disk-1.raw,mp=/data"])
def test_not_everything_that_is_mounted_can_be_snapshot(snap: Snap, mount: str) -> None:
    snap.add(201, config={"mp0": mount})
    run = snap.refused("feature_unsupported", **HERE, name="before")
    assert "mp0" in run.result["msg"]
    assert run.asked[:2] == [LIST, CONFIG]


def test_a_template_takes_no_snapshot(snap: Snap) -> None:
    snap.add(201, template=True)
    assert snap.refused("is_template", **HERE, name="before").asked == [LIST, CONFIG]


def test_a_name_that_is_taken_meanwhile(snap: Snap) -> None:
    snap.add(201)
    on_request(snap.cluster, "POST", "/snapshot", lambda cluster, _request: take(cluster.ct(201), "before"))
    run = snap(**HERE, name="before")
    assert (run.code, run.details["snapshot"]) == ("snapshot_exists", "before")


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ({"vmid": 999}, "not_found"),
        ({"vmid": 999, "node": "pve1"}, "not_found"),
        ({"hostname": "web-9"}, "not_found"),
        ({"vmid": 100}, "vmid_in_use"),
        ({"hostname": "vm-1"}, "not_found"),
        ({"hostname": "twin"}, "ambiguous_hostname"),
    ],
)
def test_a_container_that_cannot_be_meant(snap: Snap, target: dict[str, t.Any], code: str) -> None:
    snap.add(201)
    snap.cluster.call("add_vm", 100, "vm-1", node="pve1")
    for vmid, node in ((301, "pve1"), (302, "pve2")):
        snap.add(vmid, name="twin", node=node)
    run = snap.refused(code, **target, name="before")
    if code == "ambiguous_hostname":
        assert run.details == {"hostname": "twin", "vmids": [301, 302]}


@pytest.mark.parametrize(
    "options", [{"vmid": [201, 201]}, {"hostname": ["web-1", "web-1"]}, {"vmid": [201], "hostname": ["web-1"]}]
)
def test_a_container_is_named_once(snap: Snap, options: dict[str, t.Any]) -> None:
    snap.add(201)
    snap.refused("invalid_option", **options, name="before")


def test_what_cannot_be_meant_is_refused_without_a_request(snap: Snap) -> None:
    run = snap.refused("invalid_option", **HERE, name="current")
    assert (run.asked, run.details) == ([], {"option": "name"})


def test_a_container_on_a_node_that_is_down(snap: Snap) -> None:
    snap.add(201, node="pve2")
    snap.cluster.call("set_node_offline", "pve2")
    run = snap.refused("node_offline", hostname="web-1", name="before")
    assert run.asked == [RESOURCES]


# --------------------------------------------------------------------------------------------- names that have changed


def test_a_container_that_was_just_made_is_found_by_its_name(snap: Snap) -> None:
    new = {"hostname": "new-1", "vmid": 300, "node": "pve2", "template": TEMPLATE, "storage": "local-zfs"}
    made = run_module("lxc_container", {**snap.options, **new, "state": "stopped"})
    assert not made.get("failed"), made["msg"]
    run = snap.converge(hostname="new-1", name="before")
    assert run.result["containers"][0]["vmid"] == 300
    assert snap.names(300) == ["before"]


def test_a_container_that_was_just_renamed_is_found_by_its_new_name(snap: Snap) -> None:
    snap.add(201)
    run_module("lxc_container", {**snap.options, **HERE, "hostname": "app-1", "state": "stopped"})
    run = snap(hostname="app-1", name="before")
    assert not run.result.get("failed"), run.result["msg"]
    assert snap.names() == ["before"]


@pytest.mark.parametrize("state", ["present", "absent", "rolled_back"])
def test_a_container_that_has_lost_the_name_is_left_alone(snap: Snap, state: str) -> None:
    """The cluster's list knows it by that name for some seconds more."""
    snap.add(201, "before")
    run_module("lxc_container", {**snap.options, **HERE, "hostname": "app-1", "state": "stopped"})
    name = "new" if state == "present" else "before"
    run = snap.refused("not_found", hostname="web-1", name=name, state=state)
    assert run.details == {"vmid": 201, "hostname": "app-1"}


# -------------------------------------------------------------------------------------------------------- privileges


@pytest.mark.parametrize(
    ("privileges", "options", "missing"),
    [
        (["VM.Audit"], {"name": "new"}, "VM.Snapshot"),
        (["VM.Audit", "VM.Snapshot.Rollback"], {"name": "new"}, "VM.Snapshot"),
        (["VM.Audit"], {"name": "before", "description": "x"}, "VM.Snapshot"),
        (["VM.Audit"], {"name": "before", "state": "absent"}, "VM.Snapshot"),
        (["VM.Audit"], {"name": "before", "state": "rolled_back"}, "VM.Snapshot|VM.Snapshot.Rollback"),
        (["VM.Audit", "VM.Snapshot.Rollback"], {"name": "before", "state": "rolled_back"}, "VM.PowerMgmt"),
    ],
)
def test_what_the_token_may_not_do_is_told_before_the_first_write(
    snap: Snap, privileges: list[str], options: dict[str, t.Any], missing: str
) -> None:
    snap.add(201, "before", status="running")
    run = snap.refused("permission_denied", **{**HERE, **token(snap.cluster, {"/vms": privileges})}, **options)
    assert missing in [entry["privilege"] for entry in run.details["missing"]]
    assert "/vms/201" in [entry["path"] for entry in run.details["missing"]]


@pytest.mark.parametrize("target", [HERE, {"vmid": 201}, {"hostname": "web-1"}])
@pytest.mark.parametrize("path", ["/vms/201", "/pool/shop"])
def test_least_privileges_suffice(snap: Snap, target: dict[str, t.Any], path: str) -> None:
    snap.add(201, "before", status="running", pool="shop")
    may = {path: ["VM.Audit", "VM.Snapshot", "VM.PowerMgmt"]}
    snap.options.update(token(snap.cluster, may))
    snap.converge(**target, name="new", description="x")
    snap.converge(**target, name="new", state="absent")
    snap.apply(**target, name="before", state="rolled_back")
    assert snap.ct().status == "running"


def test_a_missing_privilege_on_one_of_many_stops_all_before_the_first_write(snap: Snap) -> None:
    snap.add(201)
    snap.add(202)
    may = token(snap.cluster, {"/vms": ["VM.Audit"], "/vms/201": ["VM.Audit", "VM.Snapshot"]})
    run = snap.refused("permission_denied", vmid=[201, 202], name="before", **may)
    assert [entry["path"] for entry in run.details["missing"]] == ["/vms/202"]


# --------------------------------------------------------------------------------------------------------- many at once


@pytest.mark.parametrize("count", [2, 30])
def test_many_that_are_as_declared_cost_one_request_each_and_one_for_all(snap: Snap, count: int) -> None:
    for number in range(count):
        snap.add(201 + number, "before", node=NODES[number % 3])
    for target in ({"vmid": list(range(201, 201 + count))}, {"hostname": [f"web-{n + 1}" for n in range(count)]}):
        run = snap(**target, name="before")
        assert (len(run.requests), run.changed) == (1 + count, False)
        assert [entry["vmid"] for entry in run.result["containers"]] == list(range(201, 201 + count))


def test_many_are_taken_at_once_and_named_alike(snap: Snap) -> None:
    for number in range(9):
        snap.add(201 + number, node=NODES[number % 3])
    run = snap.apply(vmid=[201], hostname=[f"web-{number}" for number in range(2, 10)])
    assert [entry["vmid"] for entry in run.result["containers"]] == list(range(201, 210))
    assert len({name for vmid in range(201, 210) for name in snap.names(vmid)}) == 1
    assert run.asked.count(PERMISSIONS) == 1
    assert len(run.writes) == 9
    assert len(run.result["diff"]) == 9


@pytest.mark.parametrize("concurrency", [1, 2, 5])
def test_never_more_at_a_time_on_a_node_than_asked_for(snap: Snap, concurrency: int) -> None:
    for number in range(12):
        snap.add(201 + number, node=NODES[number % 2])
    # So long that the second of as many as are allowed begins before the first ends.
    snap.cluster.call(lambda cluster: cluster.ct_secs.update(snapshot=20))
    most = dict.fromkeys(NODES[:2], 0)

    def count(cluster: Cluster, _request: t.Any) -> None:
        for node in most:
            running = [task for task in cluster.tasklog if task["node"] == node and task["status"] == "running"]
            most[node] = max(most[node], len(running))

    on_request(snap.cluster, "POST", "/snapshot", count, times=12, after=True)
    run = snap(vmid=list(range(201, 213)), name="before", concurrency=concurrency)
    assert not run.result.get("failed"), run.result["msg"]
    assert most == dict.fromkeys(NODES[:2], concurrency)


def test_one_failure_does_not_stop_the_others_and_all_are_named(snap: Snap) -> None:
    for number in range(6):
        snap.add(201 + number, node=NODES[number % 3])
    snap.cluster.call("snapshot_lock", 202, "backup")
    snap.cluster.call(lambda cluster: cluster.ct(203).config.update(mp0="/srv,mp=/srv"))
    hostnames = [*[f"web-{number}" for number in range(1, 7)], "web-99"]
    run = snap(hostname=hostnames, name="before")
    assert run.code == "containers_failed"
    assert run.details == {"containers": ["web-2", "web-3", "web-99"]}
    assert codes(run) == {
        **dict.fromkeys(hostnames),
        "web-2": "locked",
        "web-3": "feature_unsupported",
        "web-99": "not_found",
    }
    for label in ("web-2", "web-3", "web-99"):
        assert f"{label}: " in run.result["msg"]
    assert run.result["msg"].startswith("3 of 7 containers failed.")
    assert [snap.names(vmid) for vmid in range(201, 207)] == [["before"], [], [], ["before"], ["before"], ["before"]]
    again = snap(hostname=hostnames, name="before")
    assert [entry["changed"] for entry in again.result["containers"] if "failure" not in entry] == [False] * 4


def test_a_rollback_of_many_is_not_begun_where_it_would_lose_data(snap: Snap) -> None:
    snap.add(201, "before")
    snap.add(202, "before", "newer")
    snap.add(203)
    run = snap(vmid=[201, 202, 203], name="before", state="rolled_back")
    assert codes(run) == {"web-1": None, "web-2": "would_lose_data", "web-3": "snapshot_missing"}
    assert [path for _method, path, _params in run.writes] == [f"{base()}/snapshot/before/rollback"]


# ------------------------------------------------------------------------------------------------------- convergence


@pytest.mark.parametrize(
    "options",
    [
        {"name": "new"},
        {"name": "new", "description": "x"},
        {"name": "new", "description": ""},
        {"name": "lxcri-b", "description": "x\ny\n"},
        {"name": "new", "prefix": "daily-", "keep": {"daily": 1}},
        {"name": "lxcri-new", "keep": {"last": 1}},
        {"name": "lxcri-a", "keep": {"last": 1}},
        {"name": "new", "keep": {"last": 1, "hourly": 2, "daily": 2, "weekly": 1, "monthly": 1, "yearly": 1}},
        {"name": "new", "keep": {"daily": 2}, "keep_timezone": "Pacific/Auckland"},
        {"name": "new", "concurrency": 1, "timeout": 60},
        {"name": "lxcri-a", "state": "absent"},
        {"name": "lxcri-a", "state": "absent", "keep": {"last": 1}},
        {"state": "absent", "keep": {"weekly": 1}},
        {"state": "absent", "keep": {"hourly": 1}, "prefix": "mi"},
    ],
)
@pytest.mark.parametrize("status", ["running", "stopped"])
def test_a_second_run_changes_nothing(snap: Snap, options: dict[str, t.Any], status: str) -> None:
    snap.add(201, "lxcri-a", "mine", "lxcri-b", "lxcri-c", "minor", status=status)
    snap.converge(**HERE, **options)
    assert snap.ct().status == status
