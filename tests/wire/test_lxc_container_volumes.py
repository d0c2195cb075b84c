# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""lxc_container and volumes: they grow and move, and are never lost by accident."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.tests.wire.support import ANY, PERMISSIONS, Lxc, base, polls, reads

CONFIG, RESIZE, MOVE = f"{base()}/config", f"{base()}/resize", f"{base()}/move_volume"
DATA = "local-zfs:subvol-201-disk-1,mp=/data,size=8G"


def volumes(lxc: Lxc, storage: str = "local-zfs") -> list[str]:
    return sorted(name for name in lxc.cluster.cluster.storages[storage].get("volumes", {}) if "-201-" in name)


# -------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("status", ["running", "stopped"])
def test_a_volume_grows_by_one_request(lxc: Lxc, status: str) -> None:
    lxc.add(status=status)
    run = lxc.converge(vmid=201, node="pve1", state="present", rootfs={"size": "16G"})
    assert run.writes == [("PUT", RESIZE, {"disk": "rootfs", "size": "16G"})]
    assert run.asked == [*reads(), PERMISSIONS, f"PUT {RESIZE}", polls(), *reads()]
    assert run.plan == [("rootfs.size", "8G", "16G", "live")]
    assert run.result["diff"] == {"before": {"rootfs.size": "8G"}, "after": {"rootfs.size": "16G"}}
    assert [task["exitstatus"] for task in run.result["tasks"]] == ["OK"]
    assert lxc.ct().config["rootfs"] == "local-zfs:subvol-201-disk-0,size=16G"
    lxc.unchanged(vmid=201, node="pve1", state="present", rootfs={"storage": "local-zfs", "size": "16384M"})


@pytest.mark.parametrize("key", ["rootfs", "mp0"])
@pytest.mark.parametrize("state", ["present", "started"])
def test_a_volume_never_shrinks(lxc: Lxc, key: str, state: str) -> None:
    lxc.add(status="running", config={"rootfs": "local-zfs:subvol-201-disk-0,size=16G", "mp0": DATA})
    smaller: dict[str, t.Any] = {
        "rootfs": {"rootfs": {"size": "8G"}},
        "mp0": {"mounts": [{"mp": "/data", "size": "4G"}]},
    }
    run = lxc.refused("would_lose_data", vmid=201, node="pve1", state=state, memory=1024, **smaller[key])
    assert run.asked == reads()
    sizes = ("16G", "8G") if key == "rootfs" else ("8G", "4G")
    assert (run.details["key"], run.details["before"], run.details["after"]) == (key, *sizes)
    assert run.details["volume"] in run.result["failure"]["message"] or key in run.result["failure"]["message"]


def test_a_volume_that_is_rounded_up_has_the_size_that_was_asked_for(lxc: Lxc) -> None:
    lxc.add(config={"rootfs": "local-zfs:subvol-201-disk-0,size=8388736K"})
    lxc.unchanged(vmid=201, node="pve1", state="stopped", rootfs={"size": "8G"})


def test_growing_and_changing_an_option_at_once(lxc: Lxc) -> None:
    lxc.add(config={"mp0": DATA})
    run = lxc.converge(
        vmid=201,
        node="pve1",
        state="stopped",
        mounts=[{"mp": "/data", "storage": "local-zfs", "size": "9G", "backup": True}],
    )
    assert [(method, path) for method, path, _params in run.writes] == [("PUT", CONFIG), ("PUT", RESIZE)]
    assert run.writes[1][2] == {"disk": "mp0", "size": "9G"}
    assert lxc.ct().config["mp0"] == "local-zfs:subvol-201-disk-1,mp=/data,backup=1,size=9G"


# ------------------------------------------------------------------------------------------------- mount points


def test_a_new_mount_point_of_a_running_container_works_at_once(lxc: Lxc) -> None:
    lxc.add(status="running")
    run = lxc.converge(vmid=201, node="pve1", mounts=[{"storage": "tank", "size": "1536M", "mp": "/data"}])
    assert run.writes == [("PUT", CONFIG, {"mp0": "tank:1.5,mp=/data", "digest": ANY})]
    assert run.plan == [("mp0", None, "tank:1.5,mp=/data", "live")]
    assert lxc.ct().config["mp0"] == "tank:subvol-201-disk-0,mp=/data,size=1536M"


def test_a_mount_point_that_is_left_out_keeps_its_volume(lxc: Lxc) -> None:
    lxc.add(config={"mp0": DATA})
    run = lxc.converge(vmid=201, node="pve1", state="stopped", mounts=[])
    assert run.writes == [("PUT", CONFIG, {"delete": "mp0", "digest": ANY})]
    assert lxc.ct().config["unused0"] == "local-zfs:subvol-201-disk-1"
    assert volumes(lxc) == ["subvol-201-disk-0", "subvol-201-disk-1"]


def test_the_removal_from_a_running_container_waits_and_is_asked_for_once(lxc: Lxc) -> None:
    lxc.add(status="running", config={"mp0": DATA})
    run = lxc.converge(vmid=201, node="pve1", mounts=[])
    assert run.plan == [("mp0", DATA, None, "restart")]
    assert run.result["restart_required"] is True
    back = lxc.converge(vmid=201, node="pve1", mounts=[{"mp": "/data", "storage": "local-zfs", "size": "8G"}])
    assert back.writes == [("PUT", CONFIG, {"revert": "mp0", "digest": ANY})]
    assert back.result["restart_required"] is False


def test_an_unused_volume_is_destroyed_with_force_only(lxc: Lxc) -> None:
    lxc.add(config={"unused0": "local-zfs:subvol-201-disk-7"})
    lxc.cluster.call("create_volume", "local-zfs", 201, 2**30)
    given: dict[str, t.Any] = {"vmid": 201, "node": "pve1", "state": "stopped", "unset": ["unused0"]}
    run = lxc.refused("would_lose_data", **given)
    assert run.details["volumes"] == ["local-zfs:subvol-201-disk-7"]
    done = lxc.converge(**given, force=True)
    assert done.writes == [("PUT", CONFIG, {"delete": "unused0", "digest": ANY})]


def test_a_protected_container_keeps_its_volumes(lxc: Lxc) -> None:
    lxc.add(config={"mp0": DATA, "protection": 1})
    lxc.refused("protected", vmid=201, node="pve1", state="stopped", mounts=[])
    lxc.refused("protected", vmid=201, node="pve1", state="absent")


@pytest.mark.parametrize("lacks", ["size", "storage"])
def test_a_new_volume_needs_a_size_and_a_storage(lxc: Lxc, lacks: str) -> None:
    lxc.add()
    entry = {name: value for name, value in {"size": "1G", "storage": "tank"}.items() if name != lacks}
    run = lxc.refused("invalid_option", vmid=201, node="pve1", state="stopped", mounts=[{"mp": "/data", **entry}])
    assert run.details["option"] == f"mp0.{lacks}"


# --------------------------------------------------------------------------------------------------------- moves


def test_another_storage_is_reported_until_moving_is_allowed(lxc: Lxc) -> None:
    lxc.add()
    given: dict[str, t.Any] = {
        "vmid": 201,
        "node": "pve1",
        "state": "stopped",
        "rootfs": {"storage": "tank", "size": "8G"},
    }
    blocked = lxc.converge(**given)
    assert (blocked.changed, blocked.blocked) == (False, [("rootfs.storage", "local-zfs", "tank", "live")])
    assert ["move_volumes: true" in text for text in blocked.result["warnings"]] == [True]
    run = lxc.converge(**given, move_volumes=True)
    assert run.writes == [("POST", MOVE, {"volume": "rootfs", "storage": "tank", "delete": "1"})]
    assert run.plan == [("rootfs.storage", "local-zfs", "tank", "live")]
    assert lxc.ct().config["rootfs"] == "tank:subvol-201-disk-0,size=8G"
    assert (volumes(lxc), volumes(lxc, "tank")) == ([], ["subvol-201-disk-0"])


@pytest.mark.parametrize("state", ["present", "started"])
def test_a_failed_move_does_not_leave_it_stopped(lxc: Lxc, state: str) -> None:
    lxc.add(status="running")
    root = {"storage": "tank", "size": "8G"}
    given: dict[str, t.Any] = {"vmid": 201, "node": "pve1", "state": state, "rootfs": root}
    given.update(move_volumes=True, restart="if_needed")
    lxc.cluster.call("fail", "POST", "/move_volume", 500, "out of space")
    run = lxc(**given)
    assert run.result["failed"]
    assert "It was stopped for this and is started again." in run.result["msg"]
    assert lxc.ct().status == "running"
    lxc.cluster.call("fail", "POST", "/status/start", 500, "no such bridge")
    run = lxc(**given)
    assert "It was stopped for this and could not be started again: " in run.result["msg"]
    assert lxc.ct().status == "stopped"
    lxc.cluster.call("clear_failures")
    lxc.ct().status = "running"
    lxc.converge(**given)


def test_a_container_that_is_to_be_stopped_stays_so_after_a_failed_move(lxc: Lxc) -> None:
    lxc.add(status="running")
    lxc.cluster.call("fail", "POST", "/move_volume", 500, "out of space")
    root = {"storage": "tank", "size": "8G"}
    run = lxc(vmid=201, node="pve1", state="stopped", rootfs=root, move_volumes=True)
    assert run.result["failed"]
    assert lxc.ct().status == "stopped"


def test_a_running_container_is_stopped_once_for_all_moves(lxc: Lxc) -> None:
    lxc.add(status="running", config={"mp0": DATA})
    given: dict[str, t.Any] = {
        "vmid": 201,
        "node": "pve1",
        "move_volumes": True,
        "rootfs": {"storage": "tank", "size": "8G"},
        "mounts": [{"storage": "tank", "mp": "/data", "size": "8G"}],
        "timezone": "host",
    }
    blocked = lxc.converge(**given)
    assert [entry[0] for entry in blocked.blocked] == ["mp0.storage", "rootfs.storage"]
    assert blocked.keys[0] == "timezone"
    run = lxc.converge(**given, restart="if_needed")
    assert [(method, path) for method, path, _params in run.writes] == [
        ("POST", f"{base()}/status/shutdown"),
        ("POST", MOVE),
        ("POST", MOVE),
        ("POST", f"{base()}/status/start"),
    ]
    assert run.writes[0][2] == {"forceStop": "1"}
    assert (lxc.ct().status, lxc.ct().config["timezone"]) == ("running", "host")
    assert run.result["restart_required"] is False


@pytest.mark.parametrize("config", [{"parent": "before"}, {}], ids=["child", "orphan"])
def test_a_volume_with_snapshots_is_kept_after_its_move(lxc: Lxc, config: dict[str, t.Any]) -> None:
    # The snapshot that "parent" named may be gone, and others still be there.
    lxc.add(config=config)
    lxc.ct().snapshots["before"] = {"rootfs": lxc.ct().config["rootfs"], "snaptime": 1}
    given: dict[str, t.Any] = {"vmid": 201, "node": "pve1", "state": "stopped", "move_volumes": True}
    run = lxc.converge(**given, rootfs={"storage": "tank", "size": "8G"})
    assert run.asked.count(f"GET {base()}/snapshot") == 1
    assert run.writes == [("POST", MOVE, {"volume": "rootfs", "storage": "tank"})]
    assert "is used by snapshots and is kept as an unused volume" in run.result["notes"][0]
    assert lxc.ct().config["unused0"] == "local-zfs:subvol-201-disk-0"


def test_moving_and_growing_at_once(lxc: Lxc) -> None:
    lxc.add()
    run = lxc.converge(
        vmid=201, node="pve1", state="stopped", move_volumes=True, rootfs={"storage": "tank", "size": "9G"}
    )
    assert [path for _method, path, _params in run.writes] == [RESIZE, MOVE]
    assert lxc.ct().config["rootfs"] == "tank:subvol-201-disk-0,size=9G"


def test_a_bind_mount_is_never_moved(lxc: Lxc) -> None:
    lxc.add(config={"mp0": "/srv/data,mp=/data"})
    run = lxc.converge(
        vmid=201,
        node="pve1",
        state="stopped",
        move_volumes=True,
        mounts=[{"storage": "tank", "mp": "/data", "size": "1G"}],
    )
    assert (run.changed, run.writes) == (False, [])
    assert "is a bind mount and cannot be moved" in run.result["warnings"][0]
