# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Roll-outs of lxc_fleet: what is sent in which order, what is checked, and what is left after a failure."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.drain import Mark as Home
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.image import mark_of, text_of
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.image_source import Images
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.properties import read
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.rollout_image import Former, with_former
from ansible_collections.lxcri.proxmox.tests.simulator.cluster import Cluster
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator
from ansible_collections.lxcri.proxmox.tests.wire.hub import Hub
from ansible_collections.lxcri.proxmox.tests.wire.module_runner import run_module
from ansible_collections.lxcri.proxmox.tests.wire.services import BAD, Services, wait_for
from ansible_collections.lxcri.proxmox.tests.wire.support import TEMPLATE, on_request, state_of
from ansible_collections.lxcri.proxmox.tests.wire.test_lxc_container_image import nginx

NEW: dict[str, t.Any] = {
    "template": TEMPLATE,
    "rootfs": {"storage": "local-zfs", "size": "4G"},
    "memory": 256,
    "restart": "if_needed",
}
HEALTH = {"start_period": 0, "interval": 0.05, "timeout": 5, "retries": 2}
SNAPSHOT = "before-rollout"
ALL = [f"web-{number}" for number in range(1, 6)]
# Runs a module with the options on standard input.
PROGRAM = """
import json, sys
from ansible_collections.lxcri.proxmox.tests.wire.hub import Hub
from ansible_collections.lxcri.proxmox.tests.wire.module_runner import run_module
print(json.dumps(run_module("lxc_fleet", json.load(sys.stdin))))
"""

Options = dict[str, t.Any]


@dataclass
class Run:
    """What the module returned, and what it sent."""

    result: Options
    sent: list[str]

    @property
    def writes(self) -> list[str]:
        return [line for line in self.sent if not line.startswith("GET ")]

    @property
    def entries(self) -> dict[str, Options]:
        return {entry["hostname"]: entry for entry in self.result["containers"]}

    @property
    def rollout(self) -> Options:
        """The only roll-out."""
        [found] = self.result["rollouts"]
        return t.cast("Options", found)

    @property
    def code(self) -> str:
        return str(self.result["failure"]["code"])

    def codes(self) -> dict[str, str]:
        """The codes of those that failed."""
        return {name: entry["failure"]["code"] for name, entry in self.entries.items() if "failure" in entry}

    def succeeded(self) -> Run:
        assert not self.result.get("failed"), self.result["msg"]
        return self


class Fleet:
    """Runs the module with replicas of a web server."""

    def __init__(self, cluster: Simulator, services: Services, replicas: int = 5) -> None:
        self.cluster = cluster
        self.services = services
        self.replicas = replicas
        self.options: Options = dict(cluster.options)
        self.strategy: Options = {"group": "web", "on_failure": "rollback"}
        self.settings: Options = {}
        self.surge = 0

    def container(self, number: int, **options: t.Any) -> Options:
        """One of them."""
        return {
            "hostname": f"web-{number}",
            "group": "web",
            "spread": "web",
            "networks": [{"name": "eth0", "bridge": "vmbr0", "ip": f"127.0.1.{number}/8"}],
            "health": {**HEALTH, "http": {"port": self.services.port, "path": "/health"}},
            **({"surge": True} if number > self.replicas else {}),
            **options,
        }

    def args(self, **options: t.Any) -> Options:
        """The options of the module."""
        containers = [self.container(n, **options) for n in range(1, self.replicas + self.surge + 1)]
        return {
            **self.options,
            "containers": [*self.settings.get("before", []), *containers],
            "defaults": NEW,
            "rollouts": [self.strategy],
            **{name: value for name, value in self.settings.items() if name != "before"},
        }

    def __call__(self, check_mode: bool = False, **options: t.Any) -> Run:
        self.cluster.requests.clear()
        self.services.asked.clear()
        result = run_module("lxc_fleet", self.args(**options), check_mode=check_mode, diff=True)
        return Run(result, self.cluster.requests.lines)

    def check(self, **options: t.Any) -> Run:
        """In check mode, which only reads and asks nobody."""
        before = self.cluster.call(state_of)
        run = self(check_mode=True, **options)
        assert {line.split()[0] for line in run.sent} == {"GET"}
        assert self.services.asked == []
        assert self.cluster.call(state_of) == before
        return run

    def apply(self, **options: t.Any) -> Run:
        """Check, run, and run again: check mode says what the run does, and the second run does nothing."""
        check = self.check(**options).succeeded()
        run = self(**options).succeeded()
        for name in ("changed", "diff", "summary"):
            assert check.result[name] == run.result[name]
        for planned, done in zip(check.result["rollouts"], run.result["rollouts"]):
            assert planned["batches"] == done["batches"]
        self.unchanged(**options)
        return run

    def unchanged(self, **options: t.Any) -> Run:
        """Run it where everything is as declared."""
        run = self(**options).succeeded()
        assert (run.writes, run.result["changed"], run.result["rollouts"], run.result["diff"]) == ([], False, [], [])
        return run

    def refused(self, code: str, **options: t.Any) -> Run:
        """Check and run: both must be refused for all replicas with nothing but GET sent."""
        before = self.cluster.call(state_of)
        runs = [self.check(**options), self(**options)]
        for run in runs:
            assert run.writes == []
            assert set(run.codes().values()) == {code} if "containers" in run.result else run.code == code, run.result
        assert self.cluster.call(state_of) == before
        return runs[1]

    def start(self, **options: t.Any) -> subprocess.Popen[str]:
        """The module in a process of its own."""
        self.cluster.requests.clear()
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdin
        process.stdin.write(json.dumps(self.args(**options)))
        process.stdin.close()
        return process

    def ct(self, name: str) -> t.Any:
        return next(ct for ct in self.cluster.cluster.cts if ct.name == name)

    def memories(self) -> list[int]:
        """The memory of each, by hostname."""
        return [int(ct.config["memory"]) for ct in sorted(self.cluster.cluster.cts, key=lambda ct: str(ct.name))]

    def states(self) -> dict[str, str]:
        return {str(ct.name): ct.status for ct in self.cluster.cluster.cts}

    def snapshots(self) -> dict[str, list[str]]:
        return {str(ct.name): list(ct.snapshots) for ct in self.cluster.cluster.cts if ct.snapshots}


@pytest.fixture
def services(cluster: Simulator) -> t.Iterator[Services]:
    made = Services(cluster)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def web(cluster: Simulator, services: Services) -> Fleet:
    """Five replicas that run and work."""
    fleet = Fleet(cluster, services)
    fleet().succeeded()
    return fleet


def base(fleet: Fleet, name: str) -> str:
    ct = fleet.ct(name)
    return f"/nodes/{ct.node}/lxc/{ct.vmid}"


# ----------------------------------------------------------------------------------------------------- good changes


def test_replicas_are_changed_one_after_the_other(web: Fleet) -> None:
    web.services.watch(*ALL)
    run = web.apply(memory=512, features={"nesting": True})
    assert run.rollout == {
        "group": "web",
        "on_failure": "rollback",
        "batches": [[name] for name in ALL],
        "done": ALL,
        "failed": [],
        "kept": [],
        "blocking": [],
    }
    assert run.writes == [
        line
        for name in ALL
        for line in (
            f"POST {base(web, name)}/snapshot",
            f"PUT {base(web, name)}/config",
            f"POST {base(web, name)}/status/reboot",
            f"DELETE {base(web, name)}/snapshot/{SNAPSHOT}",
        )
    ]
    assert (web.memories(), web.snapshots()) == ([512] * 5, {})
    assert web.services.least >= 4
    entry = run.entries["web-1"]
    assert (entry["health"]["healthy"], entry["health"]["tries"]) == (True, 1)
    assert [task["upid"].split(":")[5] for task in entry["tasks"]] == ["vzreboot", "vzsnapshot", "vzdelsnapshot"]
    assert "snapshot" not in json.dumps(entry["plan"])


def test_the_snapshot_says_whose_it_is_and_has_the_old_configuration(web: Fleet) -> None:
    seen: list[Options] = []
    on_request(web.cluster, "PUT", "/config", lambda it, _request: seen.extend(dict(ct.snapshots) for ct in it.cts))
    web(memory=512).succeeded()
    [snapshot] = [snapshots[SNAPSHOT] for snapshots in seen if snapshots]
    assert snapshot["description"].strip() == "lxcri.proxmox roll-out of web (running)"
    assert int(snapshot["memory"]) == 256


@pytest.mark.parametrize(
    ("strategy", "batches"),
    [
        ({"max_unavailable": 2}, [["web-1", "web-2"], ["web-3", "web-4"], ["web-5"]]),
        ({"max_unavailable": "40%"}, [["web-1", "web-2"], ["web-3", "web-4"], ["web-5"]]),
        ({"max_unavailable": "10%", "order": "descending"}, [[name] for name in reversed(ALL)]),
        ({"max_unavailable": 9}, [ALL]),
    ],
)
def test_batches(web: Fleet, strategy: Options, batches: list[list[str]]) -> None:
    web.strategy = {"group": "web", **strategy}
    web.services.watch(*ALL)
    run = web.apply(memory=512, features={"nesting": True})
    assert run.rollout["batches"] == batches
    assert web.services.least >= 5 - max(map(len, batches))
    # Without a rollback there are no snapshots.
    assert not [line for line in run.sent if "snapshot" in line or "feature" in line]


def test_other_groups_and_what_has_none_are_changed_as_well(web: Fleet) -> None:
    web.settings = {"before": [{"hostname": "job", "networks": []}]}
    web(memory=512).succeeded()
    web.settings = {"before": [{"hostname": "job", "memory": 300, "group": "jobs"}]}
    run = web.apply(memory=768)
    assert run.writes[0] == f"PUT {base(web, 'job')}/config"
    assert [report["group"] for report in run.result["rollouts"]] == ["web"]


def test_new_replicas_are_made_first_and_all_at_once(web: Fleet) -> None:
    web.replicas = 8
    run = web.apply(memory=512)
    assert run.rollout["batches"] == [["web-6", "web-7", "web-8"], *[[name] for name in ALL]]
    assert run.result["summary"] == {"created": 3, "changed": 5, "unchanged": 0, "pruned": 0, "failed": 0}


# ------------------------------------------------------------------------------------------------------ bad changes


def test_a_bad_replica_is_rolled_back_and_the_others_keep_the_old_configuration(web: Fleet) -> None:
    web.services.watch(*ALL)
    for _time in range(2):
        run = web(memory=BAD, features={"nesting": True})
        assert run.codes() == {"web-1": "health_check_failed"}
        assert (web.memories(), web.states(), web.snapshots()) == ([256] * 5, dict.fromkeys(ALL, "running"), {})
        assert "features" not in web.ct("web-1").config
        assert web.services.least == 4
        [failed] = run.rollout["failed"]
        assert failed.pop("reason").startswith("web-1 is not healthy: http GET 127.0.1.1:")
        assert failed == {
            "replica": "web-1",
            "container": "web-1",
            "code": "health_check_failed",
            "changes": ["features", "memory", "state"],
            "check": f"http GET 127.0.1.1:{web.services.port}/health",
            "output": "it answered 500 Internal Server Error, wanted is 200 to 399",
            "rolled_back": True,
            "snapshot": None,
        }
        assert (run.rollout["batches"], run.rollout["done"]) == ([["web-1"]], [])
        assert run.rollout["kept"] == ALL[1:]
        assert run.writes == [
            f"POST {base(web, 'web-1')}/snapshot",
            f"PUT {base(web, 'web-1')}/config",
            f"POST {base(web, 'web-1')}/status/reboot",
            f"POST {base(web, 'web-1')}/snapshot/{SNAPSHOT}/rollback",
            f"POST {base(web, 'web-1')}/status/start",
            f"DELETE {base(web, 'web-1')}/snapshot/{SNAPSHOT}",
        ]
        assert "1 of 5 containers failed. web-1: web-1 is not healthy" in run.result["msg"]
        assert "It was rolled back and works as before." in run.result["msg"]
        assert "web-2, web-3, web-4 and web-5 were left alone." in run.result["msg"]
        assert run.entries["web-1"]["container"]["config"]["memory"] in (256, "256")
        kept = run.entries["web-2"]
        assert (kept["changed"], [change["request"] for change in kept["plan"]]) == (False, [None, None, None])
        assert "roll-out of web stopped" in kept["plan"][0]["hint"]
    web.unchanged()


def test_without_a_rollback_it_stops_at_the_bad_one_and_goes_on_when_that_is_corrected(web: Fleet) -> None:
    web.strategy = {"group": "web"}
    web.services.watch(*ALL)
    run = web(memory=BAD)
    assert (run.codes(), web.memories()) == ({"web-1": "health_check_failed"}, [BAD, 256, 256, 256, 256])
    assert (run.rollout["failed"][0]["rolled_back"], run.rollout["kept"]) == (False, ALL[1:])
    # As long as it does not work no other one is touched, however often it is tried.
    again = web(memory=BAD)
    assert (again.writes, again.codes()) == ([], {"web-1": "health_check_failed"})
    assert (again.rollout["blocking"], again.rollout["kept"]) == (["web-1"], ALL[1:])
    assert "web-1 is out of service, and no other replica may be as well" in again.result["msg"]
    assert web.services.least == 4
    good = web(memory=512).succeeded()
    assert good.rollout["batches"] == [[name] for name in ALL]
    assert (web.memories(), web.services.least) == ([512] * 5, 4)
    web.unchanged(memory=512)


def test_a_check_that_is_declared_anew_does_not_let_all_be_changed_at_once(web: Fleet) -> None:
    """The old replicas cannot answer what only the new ones would."""
    port = web.services.port
    web.services.watch(*ALL)
    nowhere = {**HEALTH, "tcp": {"port": 1}, "http": {"port": port}}
    run = web(memory=512, health=nowhere)
    assert (run.rollout["batches"], run.rollout["kept"]) == ([["web-1"]], ALL[1:])
    assert (web.memories(), web.services.least) == ([256] * 5, 4)
    assert "does not work either" in run.result["msg"]


def test_a_replica_that_does_not_start_is_rolled_back(web: Fleet) -> None:
    def spoil(cluster: Cluster, _request: t.Any) -> None:
        next(ct for ct in cluster.cts if ct.name == "web-1").start_error = "startup for container failed"

    def repair(cluster: Cluster, _request: t.Any) -> None:
        next(ct for ct in cluster.cts if ct.name == "web-1").start_error = None

    on_request(web.cluster, "PUT", "/config", spoil)
    on_request(web.cluster, "POST", "/rollback", repair)
    run = web(features={"nesting": True})
    assert run.codes() == {"web-1": "timeout"} or run.codes() == {"web-1": "task_failed"}
    assert run.rollout["failed"][0]["rolled_back"] is True
    assert (web.states(), web.snapshots()) == (dict.fromkeys(ALL, "running"), {})


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("status", "message", "code"),
    [(596, "Broken pipe", "node_offline"), (401, "permission denied - invalid PVE ticket", "authentication_failed")],
)
def test_a_replica_that_could_not_be_asked_is_not_rolled_back(web: Fleet, status: int, message: str, code: str) -> None:
    def vanish(cluster: Cluster, _request: t.Any) -> None:
        cluster.fail("GET", "/status/current", status, message)

    def come_back(cluster: Cluster, _request: t.Any) -> None:
        cluster.clear_failures()

    on_request(web.cluster, "POST", "/status/reboot", vanish)
    on_request(web.cluster, "POST", "/rollback", come_back)
    run = web(features={"nesting": True})
    assert run.codes() == {"web-1": code}
    assert [line for line in run.writes if line.endswith("/rollback")] == []
    assert "Whether it works is not known." in run.result["msg"]
    account = run.rollout["failed"][0]
    assert (account["rolled_back"], account["snapshot"]) == (False, SNAPSHOT)
    assert (web.snapshots(), run.rollout["kept"]) == ({"web-1": [SNAPSHOT]}, ALL[1:])
    web.cluster.call("clear_failures")
    web(features={"nesting": True}).succeeded()
    assert (web.snapshots(), web.states()) == ({}, dict.fromkeys(ALL, "running"))


def test_a_new_replica_that_does_not_work_keeps_the_others_as_they_are(web: Fleet) -> None:
    web.replicas = 6
    web.services.broken.add("web-6")
    run = web(memory=512)
    assert run.codes() == {"web-6": "health_check_failed"}
    assert (run.rollout["batches"], run.rollout["kept"]) == ([["web-6"]], ALL)
    assert web.memories() == [256] * 5 + [512]
    blocked = web(memory=512)
    assert (blocked.writes, blocked.rollout["blocking"]) == ([], ["web-6"])
    web.services.broken.clear()
    web(memory=512).succeeded()
    assert web.memories() == [512] * 6


def test_one_that_fell_over_goes_first(web: Fleet) -> None:
    web.cluster.call(lambda it: setattr(next(ct for ct in it.cts if ct.name == "web-4"), "status", "stopped"))
    run = web(memory=BAD)
    assert run.rollout["batches"] == [["web-4"]]
    assert web.states() == {**dict.fromkeys(ALL, "running"), "web-4": "stopped"}
    good = web(memory=512).succeeded()
    assert good.rollout["batches"] == [["web-4"], *[[name] for name in ALL if name != "web-4"]]


def test_a_replica_that_falls_over_afterwards_stops_the_rollout(web: Fleet) -> None:
    """The health of all is looked at before each batch."""

    def fall(_cluster: Cluster, _request: t.Any) -> None:
        if len(web.services.asked) > 2 * 5:
            web.services.broken.add("web-1")

    on_request(web.cluster, "DELETE", f"/{SNAPSHOT}", fall, times=10, after=True)
    run = web(memory=512)
    assert (run.rollout["done"], run.rollout["blocking"]) == (["web-1", "web-2"], ["web-1"])
    assert run.codes() == {"web-1": "health_check_failed"}
    assert web.memories() == [512, 512, 256, 256, 256]


def test_a_volume_grows_for_good_and_without_drift(web: Fleet) -> None:
    large = {"storage": "local-zfs", "size": "6G"}
    run = web(memory=BAD, rootfs=large)
    assert [line.split("/")[-1] for line in run.writes[:3]] == ["resize", "snapshot", "config"]
    assert (web.memories(), web.snapshots()) == ([256] * 5, {})
    assert "size=6G" in web.ct("web-1").config["rootfs"]
    assert "rootfs.size" in json.dumps(run.entries["web-1"]["plan"])
    web.apply(memory=512, rootfs=large)


def test_what_a_failed_rollback_leaves_is_named_and_the_next_run_goes_on(web: Fleet) -> None:
    web.cluster.call("fail", "POST", f"/{SNAPSHOT}/rollback", status=500, message="got no worker upid")
    run = web(memory=BAD)
    [failed] = run.rollout["failed"]
    assert (failed["rolled_back"], failed["snapshot"]) == (False, SNAPSHOT)
    assert "It was not rolled back: Proxmox answered: got no worker upid" in run.result["msg"]
    assert (web.snapshots(), web.memories()) == ({"web-1": [SNAPSHOT]}, [BAD, 256, 256, 256, 256])
    web.cluster.call("clear_failures")
    again = web(memory=BAD)
    assert again.rollout["failed"][0]["rolled_back"] is True
    assert (web.snapshots(), web.memories()) == ({}, [256] * 5)


# ----------------------------------------------------------------------------------------------------- interruption


@pytest.mark.parametrize("cluster", [{"time_scale": 0.1}], indirect=True)
@pytest.mark.parametrize("memory", [512, BAD])
@pytest.mark.parametrize("at", range(1, 8))
def test_an_interrupted_rollout_is_finished_by_the_next_run(
    cluster: Simulator, services: Services, at: int, memory: int
) -> None:
    web = Fleet(cluster, services, replicas=2)
    web().succeeded()
    process = web.start(memory=memory, features={"nesting": True})
    # A bad replica is rolled back by six writes, and then nothing follows.
    wait_for(lambda: len(cluster.requests.writes) >= min(at, 7 if memory != BAD else 6))
    interrupt(process)
    run = web(memory=memory, features={"nesting": True})
    names = ["web-1", "web-2"]
    assert (web.states(), web.snapshots()) == (dict.fromkeys(names, "running"), {}), run.result
    if memory == BAD:
        assert run.codes() == {"web-1": "health_check_failed"}
        assert web.memories() == [256, 256]
        web.unchanged()
        return
    assert run.codes() == {}
    assert web.memories() == [512, 512]
    web.unchanged(memory=memory, features={"nesting": True})


def interrupt(process: subprocess.Popen[str]) -> None:
    """Kill a run. Ansible takes longer than half a second to start the next one, and systemd less for a restart."""
    process.kill()
    process.wait()
    time.sleep(0.5)


def leave(web: Fleet, name: str, age: int, **config: t.Any) -> None:
    """What a run leaves that was interrupted after its change."""

    def change(_cluster: Cluster) -> None:
        ct = web.ct(name)
        description = "lxcri.proxmox roll-out of web (running)"
        ct.snapshots[SNAPSHOT] = {**ct.config, "snaptime": int(time.time()) - age, "description": description}
        ct.config.update(config, parent=SNAPSHOT)

    web.cluster.call(change)


def test_what_is_left_of_a_change_that_works_is_cleared_up(web: Fleet) -> None:
    leave(web, "web-3", 60, memory="512")
    for name in ("web-1", "web-2", "web-4", "web-5"):
        web.cluster.call(lambda _it, name=name: web.ct(name).config.update(memory="512"))
    check = web.check(memory=512)
    assert check.result["changed"] is True
    [change] = check.entries["web-3"]["plan"]
    assert (change["key"], change["after"]) == (f"snapshot {SNAPSHOT}", None)
    run = web.apply(memory=512)
    assert run.writes == [f"DELETE {base(web, 'web-3')}/snapshot/{SNAPSHOT}"]


def test_an_old_snapshot_is_not_rolled_back_to(web: Fleet) -> None:
    leave(web, "web-2", 7200, memory=str(BAD))
    run = web(memory=BAD)
    assert run.codes() == {"web-2": "health_check_failed"}
    assert (web.snapshots(), web.memories()) == ({"web-2": [SNAPSHOT]}, [256, BAD, 256, 256, 256])
    assert "and what was written since would be lost" in run.result["msg"]
    assert run.rollout["failed"][0]["snapshot"] == SNAPSHOT
    web.strategy["rollback_within"] = 10000
    assert web(memory=BAD).rollout["failed"][0]["rolled_back"] is True
    assert (web.snapshots(), web.memories()) == ({}, [256] * 5)


@pytest.mark.parametrize("strategy", [[], [{"group": "web"}]])
def test_what_is_left_is_not_forgotten_when_the_strategy_changes(web: Fleet, strategy: list[Options]) -> None:
    leave(web, "web-2", 60)
    web.settings["rollouts"] = strategy
    web.services.broken.add("web-2")
    run = web()
    assert (run.codes(), web.snapshots()) == ({"web-2": "health_check_failed"}, {"web-2": [SNAPSHOT]})
    assert f"The snapshot {SNAPSHOT} of an interrupted roll-out is kept." in run.result["msg"]
    web.services.broken.clear()
    web().succeeded()
    assert web.snapshots() == {}


@pytest.mark.parametrize("state", ["prepare", "delete"])
def test_a_snapshot_that_is_incomplete_is_replaced(web: Fleet, state: str) -> None:
    leave(web, "web-1", 60)
    web.cluster.call(lambda _it: web.ct("web-1").snapshots[SNAPSHOT].update(snapstate=state))
    run = web(memory=512).succeeded()
    assert run.writes[:2] == [
        f"DELETE {base(web, 'web-1')}/snapshot/{SNAPSHOT}",
        f"POST {base(web, 'web-1')}/snapshot",
    ]
    assert (web.memories(), web.snapshots()) == ([512] * 5, {})


def test_a_replica_that_an_interrupted_run_has_stopped_is_started(web: Fleet) -> None:
    leave(web, "web-1", 60)
    web.cluster.call(lambda _it: setattr(web.ct("web-1"), "status", "stopped"))
    run = web(state="present").succeeded()
    assert (web.states()["web-1"], web.snapshots()) == ("running", {})
    assert run.writes[0] == f"POST {base(web, 'web-1')}/status/start"


@pytest.mark.parametrize("cluster", [{"time_scale": 1}], indirect=True)
def test_a_task_of_the_interrupted_run_is_awaited(cluster: Simulator, services: Services) -> None:
    web = Fleet(cluster, services, replicas=1)
    cluster.call("set_option", "time_scale", 0.01)
    web().succeeded()
    cluster.call("set_option", "time_scale", 0.5)
    ct = web.ct("web-1")
    values = {"node": ct.node, "vmid": str(ct.vmid), "snapname": SNAPSHOT}
    values["description"] = "lxcri.proxmox roll-out of web (running)"
    cluster.call("_lxc_snapshot", cluster.token_id, values)
    wait_for(lambda: ct.lock == "snapshot")
    run = web(memory=512).succeeded()
    assert f"POST {base(web, 'web-1')}/snapshot" not in run.writes
    assert (web.memories(), web.snapshots()) == ([512], {})


# --------------------------------------------------------------------------------------------------------- refusals


def test_somebody_elses_snapshot_of_that_name_is_left_alone(web: Fleet) -> None:
    for name in ALL:
        web.cluster.call(lambda _it, name=name: web.ct(name).snapshots.update({SNAPSHOT: {"snaptime": 1}}))
        web.cluster.call(lambda _it, name=name: web.ct(name).config.update(parent=SNAPSHOT))
    web.unchanged()
    web.refused("snapshot_exists", memory=512)


def test_where_there_can_be_no_snapshot_it_is_refused_beforehand(web: Fleet) -> None:
    web.cluster.call("set_storage", "local-zfs", type="lvm")
    web.refused("feature_unsupported", memory=512)
    web.strategy = {"group": "web"}
    web.apply(memory=512)


def test_a_directory_of_the_node_allows_no_snapshot(web: Fleet) -> None:
    for name in ALL:
        web.cluster.call(lambda _it, name=name: web.ct(name).config.update(mp0="/srv/www,mp=/var/www"))
    run = web.refused("feature_unsupported", memory=512)
    assert "mp0 (/srv/www)" in run.result["msg"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"node": "pve1", "migrate": True}, "it goes to another node"),
        ({"rootfs": {"storage": "tank", "size": "4G"}, "move_volumes": True}, "a volume goes to another storage"),
    ],
)
def test_what_no_snapshot_takes_back_is_refused(web: Fleet, options: Options, why: str) -> None:
    run = web.check(**options)
    assert set(run.codes().values()) == {"rollback_impossible"}
    assert why in run.result["msg"]
    web.strategy = {"group": "web"}
    web.apply(**options)


def test_missing_privileges_are_named_before_anything_is_changed(web: Fleet) -> None:
    acl = {"/": ["VM.Audit", "VM.Config.Memory", "Datastore.Audit"]}
    web.cluster.call("add_user", "ci@pve", acl=acl)
    secret = web.cluster.call("add_token", "ci@pve!ci")
    web.options.update(api_token_id="ci@pve!ci", api_token_secret=secret)
    run = web.refused("permission_denied", memory=512)
    lacking = {entry["privilege"] for entry in run.result["failure"]["details"]["missing"]}
    assert lacking == {"VM.Snapshot", "VM.PowerMgmt"}
    web.strategy = {"group": "web"}
    web(memory=512).succeeded()


@pytest.mark.parametrize(
    ("strategies", "what"),
    [
        ([{"group": ""}], "group: it is empty"),
        ([{"group": "web"}, {"group": "web"}], "group: it is in the list more than once"),
        ([{"group": "web", "max_unavailable": "x"}], "max_unavailable: 'x' is neither a number nor a share"),
        ([{"group": "web", "max_unavailable": "101%"}], "max_unavailable: '101%'"),
        ([{"group": "web", "max_unavailable": "-1"}], "max_unavailable: '-1'"),
        ([{"group": "web", "rollback_within": 0}], "rollback_within: 0 seconds are too few"),
        ([{"group": "web", "max_unavailable": 0}], "max_unavailable 0 and no surge replica"),
    ],
)
def test_invalid_strategies(web: Fleet, strategies: list[Options], what: str) -> None:
    web.settings["rollouts"] = strategies
    run = web.check(memory=512) if strategies[0].get("max_unavailable") == 0 else web(memory=512)
    assert (run.code, run.writes) == ("invalid_option", [])
    assert what in run.result["msg"]


@pytest.mark.parametrize(
    ("health", "what"),
    [
        ({}, "health.tcp: give tcp, http or command"),
        ({"tcp": {"port": 0}}, "health.tcp.port: 0 is not a port"),
        ({"http": {"port": 70000}}, "health.http.port: 70000 is not a port"),
        ({"http": {"port": 80, "path": "health"}}, "health.http.path: 'health'"),
        ({"http": {"port": 80, "path": "/a b"}}, "health.http.path: '/a b'"),
        ({"http": {"port": 80, "status": [20]}}, "health.http.status: a status is between 100 and 599"),
        ({"http": {"port": 80, "headers": {"A": "b\r\nC: d"}}}, "health.http.headers: 'A' or its value"),
        ({"http": {"port": 80, "headers": {"A b": "c"}}}, "health.http.headers: 'A b' or its value"),
        ({"tcp": {"port": 80}, "interval": 0}, "health.interval: 0 seconds are too few"),
        ({"tcp": {"port": 80}, "timeout": -1}, "health.timeout: -1 seconds are too few"),
        ({"tcp": {"port": 80}, "start_period": -1}, "health.start_period: -1 is less than 0"),
        ({"tcp": {"port": 80}, "retries": 0}, "health.retries: at least one attempt has to be made"),
        ({"tcp": {"port": 80}, "command_user": "a"}, "health.command_user: it has a meaning with command only"),
        ({"command": [""]}, "health.command: the program is missing"),
    ],
)
def test_invalid_checks(web: Fleet, health: Options, what: str) -> None:
    run = web(health=health)
    assert (run.code, run.sent) == ("invalid_option", [])
    assert f"containers[0] (web-1): {what}" in run.result["msg"]


# ----------------------------------------------------------------------------------------------------------- images

IMAGE = "docker.io/library/nginx"
DATA = {"mp": "/srv/www", "storage": "local-zfs", "size": "1G"}
CACHE = {"/var/cache/nginx": {"storage": "tank", "size": "2G"}}


@pytest.fixture
def app(cluster: Simulator, services: Services, hub: Hub) -> Fleet:
    """Two replicas of an image, with volumes in which there is data."""
    hub.push(f"{IMAGE}:1", nginx())
    hub.push(f"{IMAGE}:2", nginx("b"))
    fleet = Fleet(cluster, services, replicas=2)
    fleet.settings["defaults"] = {**NEW, "template": None, "recreate": True, "mounts": [DATA], "env": {"MODE": "x"}}
    fleet(image=image("1")).succeeded()

    def fill(it: Cluster) -> None:
        for ct in it.cts:
            for key, mount in ct.volumes():
                if key != "rootfs":
                    it.volume(mount["volume"])["data"] = f"{ct.name}{mount['mp']}"

    cluster.call(fill)
    return fleet


def image(tag: str) -> Options:
    return {"reference": f"{IMAGE}:{tag}", "volumes": CACHE}


def images(fleet: Fleet) -> dict[str, str]:
    """The tag of the image that each container is of."""
    found = {str(ct.name): mark_of(ct.config["description"]) for ct in fleet.cluster.cluster.cts}
    return {name: mark.reference.rpartition(":")[2] if mark else "" for name, mark in found.items()}


def data(fleet: Fleet) -> set[str]:
    """What the volumes are filled with that mount points name."""
    it = fleet.cluster.cluster
    return {
        str(it.volume(mount["volume"]).get("data"))
        for ct in it.cts
        for key, mount in ct.volumes()
        if key.startswith("mp")
    }


ALL_DATA = {f"web-{n}{path}" for n in (1, 2) for path in ("/srv/www", "/var/cache/nginx")}


def test_replicas_are_made_anew_of_another_image_one_after_the_other(app: Fleet) -> None:
    app.services.watch("web-1", "web-2")
    run = app(image=image("2")).succeeded()
    assert run.rollout["batches"] == [["web-1"], ["web-2"]]
    assert images(app) == {"web-1": "2", "web-2": "2"}
    assert (data(app), app.services.least) == (ALL_DATA, 1)
    app.unchanged(image=image("2"))


@pytest.mark.parametrize("moved", [False, True])
def test_a_bad_image_is_taken_back_and_the_volumes_stay(
    app: Fleet, hub: Hub, moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed: list[str] = []

    def place(_self: Images, artefact: t.Any, _timeout: float) -> None:
        """As an upload does it, for which tests/oci has a registry and skopeo."""
        placed.append(str(artefact.spec.reference))

        def store(it: Cluster) -> None:
            it.store_file("local", artefact.file_name, 2**20, "vztmpl")
            it.images[artefact.volume] = artefact.found.config

        app.cluster.call(store)

    monkeypatch.setattr(Images, "place", place)
    digest = mark_of(app.ct("web-1").config["description"]).digest
    before = {ct.name: dict(ct.config) for ct in app.cluster.cluster.cts}
    app.services.watch("web-1", "web-2")
    if moved:
        # The tag means something else by now.
        hub.push(f"{IMAGE}:1", nginx("c"))
    run = app(image=image("2"), memory=BAD)
    assert run.codes() == {"web-1": "health_check_failed"}
    assert "It was rolled back and works as before." in run.result["msg"]
    assert run.rollout["failed"][0]["rolled_back"] is True
    assert placed == ([f"{IMAGE}@{digest}"] if moved else [])
    assert app.services.least == 1
    assert (data(app), app.memories()) == (ALL_DATA, [256, 256])
    assert (app.states(), len(app.cluster.cluster.cts)) == ({"web-1": "running", "web-2": "running"}, 2)
    now = {ct.name: dict(ct.config) for ct in app.cluster.cluster.cts}
    for name in ("web-1", "web-2"):
        kept = [key for key in before[name] if key not in ("rootfs", "mp0", "mp1", "description")]
        for key in kept:
            assert read(key, now[name].get(key)) == read(key, before[name][key])
        marks = [mark_of(config[name]["description"]) for config in (before, now)]
        assert marks[0].digest == marks[1].digest
        assert marks[0].env == marks[1].env
    if not moved:
        app.unchanged(image=image("1"))


def test_a_bad_image_that_cannot_be_taken_back_is_named(app: Fleet, hub: Hub) -> None:
    # Neither the registry nor the storages have it any more.
    hub.push(f"{IMAGE}:1", nginx("c"))
    hub._blobs.clear()
    hub.push(f"{IMAGE}:2", nginx("b"))
    run = app(image=image("2"), memory=BAD)
    assert run.codes() == {"web-1": "health_check_failed"}
    assert "The note on its former image docker.io/library/nginx:1@sha256:" in run.result["msg"]
    assert run.rollout["failed"][0]["rolled_back"] is False
    assert run.rollout["kept"] == ["web-2"]
    assert data(app) == ALL_DATA


def test_a_container_that_cannot_be_made_goes_back_with_its_volumes(app: Fleet) -> None:
    """What holds its volumes has been made by the same run."""
    app.services.watch("web-1", "web-2")
    path = base(app, "web-1")
    made = f"{path.rpartition('/')[0]}"

    def refuse(it: Cluster, _request: t.Any) -> None:
        it.fail("POST", made, status=500, message="zfs error: out of space")

    on_request(app.cluster, "DELETE", path, refuse)
    on_request(app.cluster, "POST", made, lambda it, _request: it.clear_failures(), times=3, after=True)
    run = app(image=image("2"))
    assert "out of space" in run.result["msg"]
    assert "It was rolled back and works as before." in run.result["msg"]
    assert (images(app), data(app), app.services.least) == ({"web-1": "1", "web-2": "1"}, ALL_DATA, 1)
    assert (app.states(), len(app.cluster.cluster.cts)) == ({"web-1": "running", "web-2": "running"}, 2)
    app.unchanged(image=image("1"))


def test_a_container_that_cannot_go_back_does_so_when_it_can(app: Fleet, hub: Hub) -> None:
    """What it was is noted with it, and outlives the run."""
    old = hub._images[f"{IMAGE}:1"]
    hub._images.pop(f"{IMAGE}:1")
    hub._blobs.clear()
    hub.push(f"{IMAGE}:2", nginx("b"))
    run = app(image=image("2"), memory=BAD)
    assert run.rollout["failed"][0]["rolled_back"] is False
    again = app(image=image("2"), memory=BAD)
    assert (again.codes(), again.rollout["failed"][0]["rolled_back"]) == ({"web-1": "health_check_failed"}, False)
    hub.push(f"{IMAGE}:1", old)
    back = app(image=image("2"), memory=BAD)
    assert back.rollout["failed"][0]["rolled_back"] is True
    assert (images(app), data(app), app.memories()) == ({"web-1": "1", "web-2": "1"}, ALL_DATA, [256, 256])
    app.unchanged(image=image("1"))


def test_a_description_is_as_it_was_when_an_image_is_taken_back(app: Fleet) -> None:
    home = str(Home("pve1", 100, True))
    for name in ("web-1", "web-2"):
        app.cluster.call(
            lambda _it, name=name: app.ct(name).config.update(
                description=f"Mine\n\n{app.ct(name).config['description'].strip()}\n\n{home}\n"
            )
        )
    before = {ct.name: ct.config["description"].strip() for ct in app.cluster.cluster.cts}
    # The notes have an order of their own, which is no difference.
    app.unchanged(image=image("1"))
    run = app(image=image("2"), memory=BAD)
    assert run.rollout["failed"][0]["rolled_back"] is True
    assert {ct.name: ct.config["description"].strip() for ct in app.cluster.cluster.cts} == before
    declared = {"image": image("2"), "description": "Ours"}
    app(**declared).succeeded()
    assert {text_of(ct.config["description"]) for ct in app.cluster.cluster.cts} == {"Ours"}
    assert all(home in ct.config["description"] for ct in app.cluster.cluster.cts)
    app.unchanged(**declared)


def test_what_a_clone_has_of_the_container_that_was_made_anew_does_not_count(app: Fleet) -> None:
    """A clone has the note of its source, which was interrupted in the middle. It would go back to what that was."""
    one, two = app.ct("web-1"), app.ct("web-2")
    note = Former(one.vmid, {"description": one.config["description"].strip()}, running=True)
    app.cluster.call(lambda _it: two.config.update(description=with_former(two.config["description"], note) + "\n"))
    app.unchanged(image=image("1"))
    app(image=image("2")).succeeded()
    assert (images(app), data(app)) == ({"web-1": "2", "web-2": "2"}, ALL_DATA)


def test_a_container_of_which_nobody_knows_the_image_cannot_go_back(app: Fleet) -> None:
    for name in ("web-1", "web-2"):
        app.cluster.call(lambda _it, name=name: app.ct(name).config.update(description="mine"))
    app.refused("rollback_impossible", image=image("2"), force=True)


# ------------------------------------------------------------------------------------------------------------ surge


def test_a_further_replica_is_there_while_the_others_are_changed(web: Fleet) -> None:
    web.surge = 1
    web.strategy = {"group": "web", "max_unavailable": 0}
    web.unchanged()
    assert "web-6" not in web.states()
    web.services.watch(*ALL, "web-6")
    run = web.apply(memory=512, features={"nesting": True})
    assert run.rollout["batches"] == [["web-6"], *[[name] for name in ALL]]
    assert (web.memories(), sorted(web.states())) == ([512] * 5, ALL)
    assert web.services.least == 5
    entry = run.entries["web-6"]
    assert (entry["changed"], entry["container"]) == (True, None)
    assert [change["key"] for change in entry["plan"]][-1] == "state"
    assert run.writes[0] == "POST " + entry["plan"][0]["request"].removeprefix("POST ")
    assert run.writes[-1].startswith("DELETE /nodes/")
    assert "{vmid}" not in json.dumps(entry["plan"])


def test_a_further_replica_is_not_protected(web: Fleet) -> None:
    web.surge = 1
    web.strategy = {"group": "web", "max_unavailable": 0}
    run = web.apply(memory=512, protection=True)
    assert run.rollout["batches"][0] == ["web-6"]
    assert sorted(web.states()) == ALL
    web.unchanged(memory=512, protection=True)


def test_more_are_changed_at_a_time_with_further_replicas(web: Fleet) -> None:
    web.surge = 2
    web.strategy = {"group": "web", "max_unavailable": 1}
    run = web.apply(memory=512)
    assert [len(batch) for batch in run.rollout["batches"]] == [2, 3, 2]


@pytest.mark.parametrize(("on_failure", "left"), [("stop", True), ("rollback", False)])
def test_a_further_replica_that_does_not_work_keeps_the_others_as_they_are(
    web: Fleet, on_failure: str, left: bool
) -> None:
    web.surge = 1
    web.strategy = {"group": "web", "max_unavailable": 0, "on_failure": on_failure}
    run = web(memory=BAD)
    assert run.codes() == {"web-6": "health_check_failed"}
    assert web.memories()[:5] == [256] * 5
    assert ("web-6" in web.states()) is left
    assert run.rollout["kept"] == ALL
    # With something good the next run goes on, and it goes.
    web.apply(memory=512)
    assert sorted(web.states()) == ALL


def test_a_further_replica_that_was_left_is_removed(web: Fleet) -> None:
    web.replicas = 6
    web().succeeded()
    web.replicas, web.surge = 5, 1
    run = web.apply()
    assert sorted(web.states()) == ALL
    assert [line.split()[0] for line in run.writes] == ["DELETE"]


# ------------------------------------------------------------------------------------------------------------- pods


@pytest.fixture
def pods(cluster: Simulator, services: Services) -> Fleet:
    """Three replicas, each of an application and a database."""
    fleet = Fleet(cluster, services, replicas=6)

    def container(number: int, **options: t.Any) -> Options:
        replica, member = (number + 1) // 2, ("app", "db")[(number + 1) % 2]
        own = Fleet.container(fleet, number, **{name: v for name, v in options.items() if name not in ("app", "db")})
        return {**own, "hostname": f"shop-{replica}-{member}", "unit": f"shop-{replica}", **options.get(member, {})}

    fleet.container = container
    fleet().succeeded()
    return fleet


def nodes(fleet: Fleet) -> dict[str, str]:
    return {str(ct.name): str(ct.node) for ct in fleet.cluster.cluster.cts}


def test_a_pod_is_on_one_node_and_pods_are_spread(pods: Fleet) -> None:
    where = nodes(pods)
    assert [where[f"shop-{n}-app"] for n in (1, 2, 3)] == [where[f"shop-{n}-db"] for n in (1, 2, 3)]
    assert len(set(where.values())) == 3
    pods.unchanged()


def test_the_containers_of_a_pod_are_changed_together(pods: Fleet) -> None:
    run = pods.apply(db={"memory": 512})
    assert run.rollout["batches"] == [["shop-1"], ["shop-2"], ["shop-3"]]
    assert [line for line in run.writes if base(pods, "shop-1-app") in line] == []
    both = pods.apply(memory=768)
    assert [line.split("/")[-1] for line in both.writes[:6]] == [
        *("snapshot", "snapshot", "config", "config"),
        *(SNAPSHOT, SNAPSHOT),
    ]


def test_all_containers_of_a_pod_are_rolled_back_when_one_does_not_work(pods: Fleet) -> None:
    run = pods(memory=512, db={"memory": BAD})
    assert run.codes() == {"shop-1-app": "health_check_failed", "shop-1-db": "health_check_failed"}
    assert (pods.memories(), pods.snapshots()) == ([256] * 6, {})
    assert run.rollout["failed"][0]["replica"] == "shop-1"
    assert run.rollout["kept"] == ["shop-2", "shop-3"]
    assert set(pods.states().values()) == {"running"}


@pytest.mark.parametrize("cluster", [{"time_scale": 0.1}], indirect=True)
@pytest.mark.parametrize("memory", [512, BAD])
@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
def test_an_interrupted_pod_is_finished(pods: Fleet, at: int, memory: int) -> None:
    process = pods.start(memory=512, db={"memory": memory})
    wait_for(lambda: len(pods.cluster.requests.writes) >= at)
    interrupt(process)
    run = pods(memory=512, db={"memory": memory})
    assert (set(pods.states().values()), pods.snapshots()) == ({"running"}, {}), run.result
    if memory == BAD:
        assert set(run.codes()) == {"shop-1-app", "shop-1-db"}
        assert pods.memories() == [256] * 6
    else:
        assert (run.codes(), pods.memories()) == ({}, [512] * 6)
        pods.unchanged(memory=512)


@pytest.mark.parametrize("cluster", [{"time_scale": 0.1}], indirect=True)
@pytest.mark.parametrize("at", [1, 3, 7])
def test_a_pod_whose_creation_was_interrupted_is_completed_on_its_node(
    cluster: Simulator, services: Services, at: int
) -> None:
    web = Fleet(cluster, services, replicas=6)
    web.settings["concurrency"] = 1
    original = web.container
    web.container = lambda number, **options: {
        **original(number, **options),
        "unit": f"shop-{(number + 1) // 2}",
    }
    process = web.start()
    wait_for(lambda: len(cluster.requests.writes) >= at)
    interrupt(process)
    web().succeeded()
    where = nodes(web)
    assert len(where) == 6
    assert all(where[f"web-{n}"] == where[f"web-{n + 1}"] for n in (1, 3, 5))
    web.unchanged()


def test_a_pod_moves_as_a_whole(pods: Fleet) -> None:
    pods.strategy = {"group": "web"}
    before = nodes(pods)
    run = pods.apply(node="pve3", migrate=True)
    assert set(nodes(pods).values()) == {"pve3"}
    moved = [name for name in before if before[name] != "pve3"]
    assert run.rollout["batches"] == [[name] for name in ("shop-1", "shop-2", "shop-3") if f"{name}-app" in moved]


def test_a_container_that_left_its_pod_is_reported_or_brought_back(pods: Fleet) -> None:
    pods.strategy = {"group": "web"}
    home = nodes(pods)["shop-1-app"]
    away = next(node for node in ("pve1", "pve2", "pve3") if node != home)
    pods.cluster.call(lambda _it: setattr(pods.ct("shop-1-db"), "node", away))
    run = pods().succeeded()
    assert (run.result["changed"], run.writes) == (False, [])
    [difference] = run.entries["shop-1-db"]["plan"]
    assert (difference["key"], difference["after"], difference["request"]) == ("node", home, None)
    pods.apply(migrate=True)
    assert nodes(pods)["shop-1-db"] == home


def test_a_pod_that_is_declared_on_two_nodes_is_refused(pods: Fleet) -> None:
    run = pods(app={"node": "pve1"}, db={"node": "pve2"})
    assert (run.code, run.writes) == ("invalid_option", [])
    assert "unit: shop-1-app, shop-1-db are on one node, but declared on pve1 and pve2" in run.result["msg"]


# ----------------------------------------------------------------------------------------------------------- health


def test_health_is_verified_in_every_run_and_changes_nothing(web: Fleet) -> None:
    web.services.broken.add("web-2")
    run = web()
    assert (run.result["changed"], run.writes, run.codes()) == (False, [], {"web-2": "health_check_failed"})
    assert web.services.asked.count("web-1") == 1
    # The only requests more are those for how long it is up.
    assert len(run.sent) == 1 + 3 + 5 + 2
    assert run.sent.count(f"GET {base(web, 'web-2')}/status/current") == 2
    assert run.result["rollouts"] == []
    assert run.entries["web-1"]["health"]["healthy"] is True
    assert run.entries["web-2"]["health"]["tries"] == 2


def test_healthy_replicas_cost_no_request(web: Fleet) -> None:
    run = web.unchanged()
    assert len(run.sent) == 1 + 3 + 5


def test_health_without_a_group_is_awaited_as_well(web: Fleet) -> None:
    web.settings["rollouts"] = []
    run = web(memory=512).succeeded()
    assert {entry["health"]["healthy"] for entry in run.result["containers"]} == {True}
    bad = web(memory=BAD)
    assert bad.codes() == dict.fromkeys(ALL, "health_check_failed")


def test_failures_in_the_start_period_do_not_count(cluster: Simulator, services: Services) -> None:
    web = Fleet(cluster, services, replicas=1)
    services.broken.add("web-1")
    patient = {**HEALTH, "start_period": 30, "http": {"port": services.port}}

    timer = threading.Timer(1.0, services.broken.clear)
    timer.start()
    run = web(health=patient).succeeded()
    timer.join()
    assert run.entries["web-1"]["health"]["tries"] > 3


def test_an_address_from_dhcp_is_asked_for(cluster: Simulator, services: Services) -> None:
    web = Fleet(cluster, services, replicas=1)
    health = {**HEALTH, "start_period": 30, "tcp": {"port": services.port}}
    run = web(
        health={**health, "retries": 1, "start_period": 0, "timeout": 0.2},
        networks=[{"name": "eth0", "bridge": "vmbr0", "ip": "dhcp"}],
    )
    # Without an address of its own nobody can be asked; with one of DHCP, nobody listens there.
    assert run.codes() == {"web-1": "health_check_failed"}
    assert f"GET {base(web, 'web-1')}/interfaces" in run.sent
    given = {**HEALTH, "tcp": {"port": services.port, "address": "127.0.0.9"}}
    web(health=given, networks=[{"name": "eth0", "bridge": "vmbr0", "ip": "dhcp"}]).succeeded()


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ssh that notes its arguments, and ends as the file ``status`` says."""
    program = tmp_path / "bin/ssh"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done >>{tmp_path}/calls\n'
        f"echo something is wrong >&2\nexit $(cat {tmp_path}/status)\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    (tmp_path / "status").write_text("0")
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return tmp_path


def test_a_command_is_run_on_the_node(cluster: Simulator, services: Services, ssh: Path) -> None:
    web = Fleet(cluster, services, replicas=1)
    health = {**HEALTH, "command": ["pg_isready", "--quiet", "-d", "a b"], "command_user": "postgres"}
    web.settings["ssh"] = {
        "user": "deploy",
        "port": 2222,
        "key_file": "/keys/deploy",
        "args": ["-J", "jump"],
        "hosts": {"pve1": "192.0.2.1"},
    }
    web(health=health, node="pve1").succeeded()
    calls = (ssh / "calls").read_text().splitlines()
    assert calls[:-1] == [
        *("-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-p", "2222", "-i", "/keys/deploy", "-J", "jump"),
        "deploy@192.0.2.1",
    ]
    assert f"pct exec {web.ct('web-1').vmid} " in calls[-1]
    assert "pg_isready --quiet -d" in calls[-1]
    (ssh / "status").write_text("2")
    run = web(health=health)
    assert run.codes() == {"web-1": "health_check_failed"}
    assert "command pg_isready --quiet -d 'a b': it ended with status 2: something is wrong" in run.result["msg"]
    (ssh / "status").write_text("255")
    run = web(health=health)
    # Nothing is known of the container.
    assert run.codes() == {"web-1": "unreachable"}
    assert "ssh to deploy@192.0.2.1 failed" in run.result["msg"]


def test_nothing_is_rolled_back_because_ssh_does_not_reach_a_node(
    cluster: Simulator, services: Services, ssh: Path
) -> None:
    web = Fleet(cluster, services, replicas=1)
    health = {**HEALTH, "command": ["pg_isready"]}
    web(health=health).succeeded()
    on_request(cluster, "PUT", "/config", lambda _cluster, _request: (ssh / "status").write_text("255"))
    run = web(health=health, memory=512)
    assert run.codes() == {"web-1": "unreachable"}
    assert [line for line in run.writes if line.endswith("/rollback")] == []
    assert "Whether it works is not known." in run.result["msg"]
    assert (web.memories(), web.snapshots()) == ([512], {"web-1": [SNAPSHOT]})
    (ssh / "status").write_text("0")
    web(health=health, memory=512).succeeded()
    assert web.snapshots() == {}


def test_what_is_not_reached_after_a_rollback_is_not_said_to_be_broken(
    cluster: Simulator, services: Services, ssh: Path
) -> None:
    web = Fleet(cluster, services, replicas=1)
    health = {**HEALTH, "command": ["pg_isready"]}
    web(health=health).succeeded()
    on_request(cluster, "PUT", "/config", lambda _cluster, _request: (ssh / "status").write_text("2"))
    on_request(cluster, "POST", "/rollback", lambda _cluster, _request: (ssh / "status").write_text("255"))
    run = web(health=health, memory=512)
    assert run.codes() == {"web-1": "health_check_failed"}
    assert "It was rolled back; whether it works is not known." in run.result["msg"]
    assert (web.memories(), web.snapshots()) == ([256], {})
