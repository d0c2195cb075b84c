# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""lxc_container and power: what is started, stopped, restarted, migrated and removed, and how often."""

from __future__ import annotations

import time
import typing as t

import pytest
from ansible_collections.lxcri.proxmox.tests.wire.support import ANY, NET, PERMISSIONS, Lxc, base, polls, reads

CONFIG, STATUS = f"{base()}/config", f"{base()}/status"
START = ("POST", f"{STATUS}/start", {})
SHUTDOWN = ("POST", f"{STATUS}/shutdown", {})
STOP = ("POST", f"{STATUS}/stop", {})
REBOOT = ("POST", f"{STATUS}/reboot", {})


@pytest.mark.parametrize(
    ("status", "options", "writes", "plan", "after"),
    [
        ("stopped", {"state": "started"}, [START], [("state", "stopped", "started", "live")], "running"),
        ("running", {"state": "stopped"}, [SHUTDOWN], [("state", "running", "stopped", "restart")], "stopped"),
        (
            "running",
            {"state": "stopped", "force": True},
            [STOP],
            [("state", "running", "stopped", "restart")],
            "stopped",
        ),
        ("running", {"state": "started"}, [], [], "running"),
        ("stopped", {"state": "stopped"}, [], [], "stopped"),
        ("running", {"state": "present"}, [], [], "running"),
        ("stopped", {"state": "present"}, [], [], "stopped"),
    ],
)
def test_states(
    lxc: Lxc,
    status: str,
    options: dict[str, t.Any],
    writes: list[t.Any],
    plan: list[t.Any],
    after: str,
) -> None:
    lxc.add(status=status)
    run = lxc.converge(vmid=201, node="pve1", **options)
    assert (run.writes, run.plan) == (writes, plan)
    assert (lxc.ct().status, run.container["status"]) == (after, after)
    path = writes[0][1] if writes else ""
    assert run.asked == ([*reads(), PERMISSIONS, f"POST {path}", polls(), *reads()] if writes else reads())
    assert run.result["diff"]["after"] == {key: value for key, _before, value, _effect in plan}


@pytest.mark.parametrize(("status", "write", "change"), [("running", REBOOT, "running"), ("stopped", START, "stopped")])
def test_restarted_restarts_every_time(lxc: Lxc, status: str, write: t.Any, change: str) -> None:
    lxc.add(status=status)
    run = lxc.apply(vmid=201, node="pve1", state="restarted")
    assert (run.writes, run.plan[0][1]) == ([write], change)
    pid = lxc.ct().pid
    again = lxc.apply(vmid=201, node="pve1", state="restarted")
    assert again.writes == [REBOOT]
    assert lxc.ct().status == "running"
    assert lxc.ct().pid != pid


# ----------------------------------------------------------------------------------------- restart: if_needed


def test_everything_that_waits_is_one_restart(lxc: Lxc) -> None:
    lxc.add(status="running", config={"net0": NET}, pending={"debug": 1})
    pid = lxc.ct().pid
    run = lxc.converge(
        vmid=201, node="pve1", restart="if_needed", memory=1024, timezone="host", features={"nesting": True}
    )
    assert run.writes == [
        ("PUT", CONFIG, {"features": "nesting=1", "memory": "1024", "timezone": "host", "digest": ANY}),
        REBOOT,
    ]
    assert [entry[3] for entry in run.plan] == ["restart", "live", "restart", "restart"]
    assert run.result["restart_required"] is False
    config = lxc.ct().config
    assert (config["debug"], config["timezone"], lxc.ct().pending) == (1, "host", {})
    assert lxc.ct().pid != pid


def test_what_works_at_once_needs_no_restart(lxc: Lxc) -> None:
    lxc.add(status="running")
    run = lxc.converge(vmid=201, node="pve1", restart="if_needed", memory=1024)
    assert [write[0] for write in run.writes] == ["PUT"]


def test_a_change_waits_until_a_later_run_may_restart(lxc: Lxc) -> None:
    lxc.add(status="running")
    run = lxc.converge(vmid=201, node="pve1", timezone="host")
    assert (run.result["restart_required"], len(run.writes)) == (True, 1)
    later = lxc.unchanged(vmid=201, node="pve1", timezone="host")
    assert later.result["restart_required"] is True
    restarted = lxc.converge(vmid=201, node="pve1", timezone="host", restart="if_needed")
    assert restarted.writes == [REBOOT]
    assert restarted.plan == [("state", "running", "restarted", "restart")]
    assert restarted.result["restart_required"] is False
    assert lxc.ct().pending == {}


def test_a_stopped_container_takes_everything_at_once_and_is_not_started_for_it(lxc: Lxc) -> None:
    lxc.add()
    run = lxc.converge(vmid=201, node="pve1", state="present", timezone="host", restart="if_needed")
    assert run.writes == [("PUT", CONFIG, {"timezone": "host", "digest": ANY})]
    assert run.plan == [("timezone", None, "host", "live")]
    assert run.result["restart_required"] is False


def test_changing_and_starting(lxc: Lxc) -> None:
    lxc.add()
    run = lxc.converge(vmid=201, node="pve1", timezone="host", cores=2)
    assert run.writes == [("PUT", CONFIG, {"cores": "2", "timezone": "host", "digest": ANY}), START]


def test_stopping_settles_what_waits(lxc: Lxc) -> None:
    lxc.add(status="running", pending={"timezone": "host"})
    run = lxc.converge(vmid=201, node="pve1", state="stopped")
    assert run.writes == [SHUTDOWN]
    assert run.result["restart_required"] is False
    assert lxc.ct().config["timezone"] == "host"


# ------------------------------------------------------------------------------------------------------ migration


def test_a_stopped_container_migrates_when_it_may(lxc: Lxc) -> None:
    lxc.add()
    given: dict[str, t.Any] = {"vmid": 201, "node": "pve2", "state": "stopped"}
    blocked = lxc.converge(**given)
    assert (blocked.changed, blocked.blocked) == (False, [("node", "pve1", "pve2", "live")])
    assert blocked.asked == [f"GET {base(201, 'pve2')}/pending", "GET /cluster/resources", *reads()]
    run = lxc.converge(**given, migrate=True)
    assert run.writes == [("POST", f"{base()}/migrate", {"target": "pve2"})]
    assert run.plan == [("node", "pve1", "pve2", "live")]
    assert run.asked[-2:] == reads(201, "pve2")
    assert (lxc.ct().node, run.container["node"]) == ("pve2", "pve2")


def test_a_running_container_migrates_by_a_restart(lxc: Lxc) -> None:
    lxc.add(status="running", pending={"timezone": "host"})
    given: dict[str, t.Any] = {"hostname": "web-1", "node": "pve3", "migrate": True}
    blocked = lxc.converge(**given)
    assert blocked.blocked == [("node", "pve1", "pve3", "restart")]
    assert "restart: if_needed" in blocked.result["warnings"][0]
    run = lxc.converge(**given, restart="if_needed", shutdown_timeout=300)
    assert run.writes == [("POST", f"{base()}/migrate", {"target": "pve3", "restart": "1", "timeout": "300"})]
    assert (lxc.ct().node, lxc.ct().status) == ("pve3", "running")
    assert run.result["restart_required"] is False


def test_changing_migrating_and_starting_happen_where_they_can(lxc: Lxc) -> None:
    lxc.add()
    run = lxc.converge(vmid=201, node="pve2", migrate=True, memory=1024)
    assert [(method, path) for method, path, _params in run.writes] == [
        ("PUT", CONFIG),
        ("POST", f"{base()}/migrate"),
        ("POST", f"{base(201, 'pve2')}/status/start"),
    ]


def test_stopping_and_migrating_starts_nothing(lxc: Lxc) -> None:
    lxc.add(status="running")
    run = lxc.converge(vmid=201, node="pve2", migrate=True, state="stopped")
    assert run.writes == [SHUTDOWN, ("POST", f"{base()}/migrate", {"target": "pve2"})]
    assert (lxc.ct().node, lxc.ct().status) == ("pve2", "stopped")


# ------------------------------------------------------------------------------------------------------- addresses


def test_a_static_address_costs_nothing(lxc: Lxc) -> None:
    lxc.add(status="running", config={"net0": "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:02:01,ip=192.0.2.1/24"})
    run = lxc.unchanged(vmid=201, node="pve1", wait_for_address=True)
    assert run.asked == reads()
    assert run.container["addresses"] == [
        {"interface": "eth0", "address": "192.0.2.1/24", "family": "inet", "hwaddr": "BC:24:11:00:02:01"}
    ]


@pytest.mark.parametrize("cluster", [{"dhcp_secs": 20.0}], indirect=True)
def test_an_address_of_dhcp_is_waited_for(lxc: Lxc) -> None:
    lxc.add(config={"net0": NET})
    run = lxc.apply(vmid=201, node="pve1", wait_for_address=True)
    assert run.writes == [START]
    polled = run.asked.count(f"GET {base()}/interfaces")
    assert polled >= 2
    [address] = run.container["addresses"]
    assert (address["interface"], address["family"], address["hwaddr"]) == ("eth0", "inet", "BC:24:11:00:02:01")
    again = lxc.unchanged(vmid=201, node="pve1", wait_for_address=True)
    assert again.asked == [*reads(), f"GET {base()}/interfaces"]
    assert again.container["addresses"] == [address]


@pytest.mark.parametrize("cluster", [{"dhcp_secs": 1e9}], indirect=True)
def test_an_address_that_never_comes_is_a_failure_that_keeps_what_was_done(lxc: Lxc) -> None:
    lxc.add(config={"net0": NET})
    run = lxc(vmid=201, node="pve1", wait_for_address=True, address_timeout=0)
    assert (run.code, run.details["vmid"]) == ("no_address", 201)
    assert (run.changed, lxc.ct().status) == (True, "running")
    assert [task["exitstatus"] for task in run.result["tasks"]] == ["OK"]


# --------------------------------------------------------------------------------------------------------- removal


def test_a_stopped_container_is_removed_with_its_volumes(lxc: Lxc) -> None:
    lxc.add(config={"mp0": "local-zfs:subvol-201-disk-1,mp=/data,size=1G"})
    run = lxc.converge(vmid=201, node="pve1", state="absent")
    assert run.writes == [("DELETE", base(), {})]
    assert run.asked == [*reads(), PERMISSIONS, f"DELETE {base()}", polls()]
    assert run.plan == [
        ("state", "present", "absent", "live"),
        ("mp0", "local-zfs:subvol-201-disk-1,mp=/data,size=1G", None, "live"),
        ("rootfs", "local-zfs:subvol-201-disk-0,size=8G", None, "live"),
    ]
    assert run.container is None
    assert lxc.ct() is None


def test_a_running_container_is_removed_with_force_only(lxc: Lxc) -> None:
    lxc.add(status="running")
    lxc.refused("container_running", vmid=201, node="pve1", state="absent")
    run = lxc.converge(hostname="web-1", state="absent", force=True, purge=True)
    assert run.writes == [("DELETE", base(), {"force": "1", "purge": "1"})]


def test_a_protected_container_is_not_removed(lxc: Lxc) -> None:
    lxc.add(config={"protection": 1})
    lxc.refused("protected", vmid=201, node="pve1", state="absent", force=True)
    lxc.converge(vmid=201, node="pve1", state="stopped", protection=False)
    lxc.converge(vmid=201, node="pve1", state="absent")


@pytest.mark.parametrize(
    ("options", "cost"),
    [({"vmid": 201, "node": "pve1"}, 2), ({"vmid": 201}, 1), ({"hostname": "web-1"}, 1)],
)
def test_what_is_not_there_is_not_removed(lxc: Lxc, options: dict[str, t.Any], cost: int) -> None:
    lxc.add(202)
    assert len(lxc.unchanged(**options, state="absent").requests) == cost


def test_a_template_is_not_started(lxc: Lxc) -> None:
    lxc.add(template=True)
    lxc.refused("is_template", vmid=201, node="pve1", state="started")
    lxc.refused("is_template", vmid=201, node="pve1", state="restarted")
    lxc.unchanged(vmid=201, node="pve1", state="stopped")
    lxc.unchanged(vmid=201, node="pve1", state="template")


def test_a_container_becomes_a_template_once(lxc: Lxc) -> None:
    lxc.add()
    run = lxc.converge(vmid=201, node="pve1", state="template")
    assert run.writes == [("POST", f"{base()}/template", {})]
    assert run.plan == [("template", False, True, "live")]
    assert [task["exitstatus"] for task in run.result["tasks"]] == ["OK"]
    assert lxc.ct().config["rootfs"] == "local-zfs:basevol-201-disk-0,size=8G"


def test_a_running_container_becomes_a_template_with_force_only(lxc: Lxc) -> None:
    lxc.add(status="running")
    lxc.refused("container_running", vmid=201, node="pve1", state="template")
    run = lxc.converge(vmid=201, node="pve1", state="template", force=True)
    assert run.writes == [STOP, ("POST", f"{base()}/template", {})]


@pytest.mark.parametrize("cluster", [{"shutdown_default_timeout": 10}], indirect=True)
def test_a_container_that_does_not_stop_is_a_failure_that_says_how(lxc: Lxc) -> None:
    lxc.add(status="running").shutdown_secs = 1000
    run = lxc(vmid=201, node="pve1", state="stopped")
    assert run.code == "shutdown_timeout"
    assert "force: true" in run.result["msg"]
    lxc.converge(vmid=201, node="pve1", state="stopped", force=True)


def test_the_time_that_a_container_has_to_shut_down(lxc: Lxc) -> None:
    lxc.add(status="running").shutdown_secs = 90
    assert lxc(vmid=201, node="pve1", state="stopped").code == "shutdown_timeout"
    run = lxc.converge(vmid=201, node="pve1", state="stopped", shutdown_timeout=120)
    assert run.writes == [(*SHUTDOWN[:2], {"timeout": "120"})]
    lxc.converge(vmid=201, node="pve1", state="started")
    run = lxc.apply(vmid=201, node="pve1", state="restarted", shutdown_timeout=120, timeout=30)
    assert run.writes == [(*REBOOT[:2], {"timeout": "120"})]


def test_a_task_that_outlives_its_timeout_is_left_alone(lxc: Lxc) -> None:
    lxc.cluster.call("set_option", "time_scale", 1.0)
    lxc.add(status="running").shutdown_secs = 30
    began = time.monotonic()
    run = lxc(vmid=201, node="pve1", state="stopped", timeout=0)
    assert run.code == "timeout"
    assert run.details["upid"].startswith("UPID:pve1:")
    assert time.monotonic() - began < 20
