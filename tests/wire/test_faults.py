# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong: tasks, locks, nodes, the network, logins and certificates."""

from __future__ import annotations

import asyncio
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.tests.simulator.cluster import Cluster
from ansible_collections.lxcri.proxmox.tests.simulator.serving import make_certificates
from ansible_collections.lxcri.proxmox.tests.wire.support import (
    NEW,
    RESOURCES,
    TEMPLATE,
    Lxc,
    base,
    on_request,
    reads,
    reset,
)

CONFIG, START = f"{base()}/config", f"{base()}/status/start"
HERE: dict[str, t.Any] = {"vmid": 201, "node": "pve1"}


# --------------------------------------------------------------------------------------------------------- tasks


@pytest.mark.parametrize("seconds", [1, 100])
def test_a_task_that_fails_is_a_failure_within_two_seconds(lxc: Lxc, seconds: int) -> None:
    ct = lxc.add(201)
    ct.start_secs, ct.start_error = seconds, "startup for container '201' failed"
    ended: list[float] = []
    lxc.cluster.call(lambda cluster: setattr(cluster, "notice", lambda _ct: ended.append(time.monotonic())))
    run = lxc(**HERE)
    assert time.monotonic() - ended[-1] < 2
    assert (run.code, run.changed) == ("task_failed", True)
    assert run.result["failure"]["message"] == "The task vzstart failed: startup for container '201' failed."
    assert run.details["upid"].startswith("UPID:pve1:")
    assert run.details["upid"].split(":")[5] == "vzstart"
    assert run.details["exitstatus"] == "startup for container '201' failed"
    assert run.details["log"][-1] == "TASK ERROR: startup for container '201' failed"


@pytest.mark.parametrize(
    ("options", "code", "fact"),
    [
        ({"template": "local:vztmpl/none.tar.zst"}, "volume_missing", ("volume", "local:vztmpl/none.tar.zst")),
        ({"rootfs": {"storage": "local", "size": "1G"}}, "storage_unsuitable", None),
        ({"rootfs": {"storage": "nowhere", "size": "1G"}}, "storage_missing", ("storage", "nowhere")),
        ({"node": "pve9"}, "node_unknown", ("node", "pve9")),
        ({"pool": "nobody"}, "pool_missing", ("pool", "nobody")),
    ],
)
def test_a_creation_that_fails_says_why_and_leaves_nothing(
    lxc: Lxc, impatient: None, options: dict[str, t.Any], code: str, fact: tuple[str, str] | None
) -> None:
    lxc.as_root()
    run = lxc(vmid=300, **{**NEW, **options})
    assert run.code == code, run.result
    if fact:
        assert run.details[fact[0]] == fact[1]
    assert lxc.ct(300) is None


def test_a_missing_bridge_is_named(lxc: Lxc) -> None:
    lxc.as_root()
    run = lxc(vmid=300, networks=[{"name": "eth0", "bridge": "vmbr9"}], **NEW)
    assert (run.code, run.details["bridge"]) == ("bridge_missing", "vmbr9")


def test_the_warnings_of_a_task_are_shown(lxc: Lxc) -> None:
    lxc.add(201)

    def warn(cluster: Cluster, _request: t.Any) -> None:
        task = cluster.tasklog[-1]
        task["log"].append("WARN: Systemd 257 detected. You may need to enable nesting.")
        task.update(status="stopped", exitstatus="WARNINGS: 1")

    lxc.ct().start_secs = 1e6
    on_request(lxc.cluster, "POST", START, warn, after=True)
    run = lxc(**HERE)
    assert run.changed
    assert [task["exitstatus"] for task in run.result["tasks"]] == ["WARNINGS: 1"]
    assert ["Systemd 257 detected" in text for text in run.result["warnings"]] == [True]
    assert run.result["warnings"][0].startswith("container 201: vzstart: ")


# --------------------------------------------------------------------------------------------------------- locks


@pytest.mark.parametrize("lock", ["backup", "snapshot", "migrate", "disk", "rollback"])
@pytest.mark.parametrize("options", [{"memory": 1024}, {"state": "started"}, {"state": "absent"}])
def test_a_locked_container_is_left_alone(lxc: Lxc, lock: str, options: dict[str, t.Any]) -> None:
    lxc.add(201, lock=lock)
    run = lxc.refused("locked", **HERE, **{"state": "present", **options})
    assert (run.details["lock"], f"({lock})" in run.result["msg"]) == (lock, True)


def test_a_locked_container_that_is_as_declared_is_no_failure(lxc: Lxc) -> None:
    lxc.add(201, lock="backup")
    lxc.unchanged(**HERE, state="stopped", memory=512)


def test_a_lock_that_comes_in_between_is_not_fought(lxc: Lxc) -> None:
    lxc.add(201)
    on_request(lxc.cluster, "PUT", CONFIG, lambda cluster, _request: cluster.snapshot_lock(201, "backup"))
    run = lxc(**HERE, state="stopped", memory=1024)
    assert (run.code, run.details["lock"], len(run.writes)) == ("locked", "backup", 1)
    assert "pct unlock" in run.result["msg"]
    assert lxc.ct().config["memory"] == 512


def test_the_configurations_lock_is_waited_for(lxc: Lxc, impatient: None) -> None:
    lxc.add(201)
    on_request(lxc.cluster, "PUT", CONFIG, lambda cluster, _request: cluster.hold_config_lock(201, 15))
    run = lxc(**HERE, state="stopped", memory=1024)
    assert [path for _method, path, _params in run.writes] == [CONFIG] * 2
    assert (run.changed, lxc.ct().config["memory"]) == (True, 1024)


def test_a_configurations_lock_that_is_never_released(lxc: Lxc, impatient: None) -> None:
    lxc.add(201)
    lxc.cluster.call("hold_config_lock", 201, None)
    run = lxc(**HERE, state="stopped", memory=1024)
    assert (run.code, len(run.writes)) == ("lock_timeout", 4)
    assert lxc.ct().config["memory"] == 512


def test_a_task_that_could_not_get_the_lock_is_started_again(lxc: Lxc) -> None:
    lxc.add(201)
    lxc.cluster.call("hold_config_lock", 201, 30)
    run = lxc(**HERE)
    assert [path for _method, path, _params in run.writes] == [START] * 2
    assert (run.changed, lxc.ct().status) == (True, "running")
    assert len(run.result["tasks"]) == 1


# --------------------------------------------------------------------------------------------- somebody was faster


def test_what_somebody_else_has_started_meanwhile_is_fine(lxc: Lxc) -> None:
    lxc.add(201)

    def start(cluster: Cluster, _request: t.Any) -> None:
        cluster.ct(201).status = "running"

    on_request(lxc.cluster, "POST", START, start)
    run = lxc(**HERE)
    assert (run.result.get("failed"), run.container["status"]) == (None, "running")


def test_what_somebody_else_has_removed_meanwhile_is_fine(lxc: Lxc) -> None:
    lxc.add(201)
    on_request(lxc.cluster, "DELETE", base(), lambda cluster, _request: cluster._drop(cluster.ct(201)))
    assert lxc(**HERE, state="absent").result.get("failed") is None


# --------------------------------------------------------------------------------------------------------- nodes


@pytest.mark.parametrize("options", [HERE, {"vmid": 201}, {"hostname": "web-1"}])
def test_a_container_on_an_offline_node_cannot_be_worked_with(
    lxc: Lxc, impatient: None, options: dict[str, t.Any]
) -> None:
    lxc.add(201)
    lxc.cluster.call("set_node_offline", "pve1")
    run = lxc.refused("node_offline", **options, memory=1024)
    assert run.requests
    assert "bring it back" in run.result["msg"].lower() or "bring the node back" in run.result["msg"].lower()


def test_the_others_can_be_worked_with_while_a_node_is_offline(lxc: Lxc) -> None:
    lxc.add(201)
    lxc.add(202, node="pve2")
    lxc.cluster.call("set_node_offline", "pve2")
    lxc.converge(hostname="web-1", state="stopped", memory=1024)
    made = lxc.converge(hostname="web-9", **NEW)
    assert made.container["node"] == "pve1"


def test_nothing_is_created_on_an_offline_node(lxc: Lxc, impatient: None) -> None:
    lxc.cluster.call("set_node_offline", "pve1")
    run = lxc(hostname="web-9", **NEW)
    assert (run.code, run.writes) == ("node_offline", [])


def test_without_a_quorum_everything_is_read_and_nothing_written(lxc: Lxc) -> None:
    lxc.add(201)
    lxc.cluster.call("lose_quorum")
    lxc.unchanged(**HERE, state="stopped")
    run = lxc(**HERE, state="stopped", memory=1024)
    assert (run.code, len(run.writes)) == ("no_quorum", 1)
    lxc.cluster.call("regain_quorum")
    lxc.converge(**HERE, state="stopped", memory=1024)


def test_a_refusal_that_nobody_foresaw_names_the_privilege(lxc: Lxc) -> None:
    lxc.add(201)
    lxc.cluster.call("fail", "PUT", CONFIG, 403, "Permission check failed (/vms/201, VM.Config.Memory)")
    run = lxc(**HERE, state="stopped", memory=1024)
    assert (run.code, len(run.writes)) == ("permission_denied", 1)
    assert (run.details["path"], run.details["privilege"]) == ("/vms/201", "VM.Config.Memory")


# ------------------------------------------------------------------------------------------------------- network


def test_reads_that_get_no_answer_are_repeated(lxc: Lxc, impatient: None) -> None:
    lxc.add(201)
    for suffix in ("/pending", "/status/current", "/cluster/resources"):
        on_request(lxc.cluster, "GET", suffix, reset, times=3)
    run = lxc.unchanged(hostname="web-1", state="stopped")
    assert [str(request) for request in run.requests] == [
        *[RESOURCES] * 4,
        *[reads()[0]] * 4,
        *[reads()[1]] * 4,
    ]


def test_a_flaky_network_is_survived(lxc: Lxc, impatient: None) -> None:
    lxc.add(201, status="running")

    def drop_some(cluster: Cluster) -> None:
        cluster._random.seed(4)
        cluster.network["drop_rate"] = 0.3

    lxc.cluster.call(drop_some)
    for _attempt in range(10):
        lxc.unchanged(hostname="web-1", memory=512)


@pytest.mark.parametrize("status", [502, 503, 504, 595, 596, 599])
def test_a_proxy_that_restarts_is_waited_for(lxc: Lxc, impatient: None, status: int) -> None:
    lxc.add(201)
    lxc.cluster.call("fail", "GET", f"{base()}/pending", status, "Service Unavailable", times=3)
    run = lxc.unchanged(**HERE, state="stopped")
    assert len(run.requests) == 3 + 2


def test_a_network_that_stays_away_is_a_failure(lxc: Lxc, impatient: None) -> None:
    lxc.add(201)
    on_request(lxc.cluster, "GET", "/pending", reset, times=99)
    run = lxc(**HERE)
    assert (run.code, len(run.requests)) == ("unreachable", 5)
    assert run.details["request"] == f"GET {base().lstrip('/')}/pending"


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("PUT", CONFIG, {"memory": 1024, "state": "present"}),
        ("POST", START, {"state": "started"}),
        ("DELETE", base(), {"state": "absent"}),
        ("PUT", f"{base()}/resize", {"rootfs": {"size": "9G"}, "state": "present"}),
    ],
)
def test_a_write_whose_answer_is_lost_is_sent_once(
    lxc: Lxc, impatient: None, method: str, path: str, options: dict[str, t.Any], after: bool
) -> None:
    lxc.add(201)
    on_request(lxc.cluster, method, path, reset, after=after)
    run = lxc(**HERE, **options)
    assert (run.code, [write[:2] for write in run.writes]) == ("unreachable", [(method, path)])
    # A task that was started goes on; the next run finds what it has done, or does it.
    lxc.cluster.call(lambda cluster: asyncio.gather(*cluster._running.values()))
    again = lxc(**HERE, **options)
    assert again.changed is (not after)
    lxc.unchanged(**HERE, **options)


def test_a_creation_whose_answer_is_lost_is_found_by_the_next_run(lxc: Lxc) -> None:
    on_request(lxc.cluster, "POST", "/nodes/pve1/lxc", reset, after=True)
    run = lxc(hostname="web-1", **NEW)
    assert (run.code, len(run.writes)) == ("unreachable", 1)
    lxc.cluster.call(lambda cluster: asyncio.gather(*cluster._running.values()))
    again = lxc.converge(hostname="web-1", **NEW)
    assert [path for _method, path, _params in again.writes] == [f"{base(100)}/status/start"]
    assert len(lxc.cluster.cluster.cts) == 1


def test_a_read_that_hangs_is_repeated_and_a_write_is_not(lxc: Lxc, impatient: None) -> None:
    lxc.add(201)

    async def hang(_cluster: Cluster, _request: t.Any) -> None:
        await asyncio.sleep(1.5)

    on_request(lxc.cluster, "GET", "/pending", hang)
    run = lxc.unchanged(**HERE, state="stopped", api_timeout=1)
    assert len(run.requests) == 3
    on_request(lxc.cluster, "PUT", CONFIG, hang)
    run = lxc(**HERE, state="stopped", memory=1024, api_timeout=1)
    assert (run.code, len(run.writes)) == ("timeout", 1)
    assert "api_timeout" in run.result["msg"]


def test_nobody_listens(lxc: Lxc, impatient: None) -> None:
    run = lxc(**HERE, api_port=1)
    assert (run.code, run.requests) == ("unreachable", [])
    assert f"{lxc.cluster.host}:1" in run.result["msg"]


# -------------------------------------------------------------------------------------------------------- logins


def test_a_password_is_one_login_for_a_task(lxc: Lxc) -> None:
    lxc.as_root()
    run = lxc(hostname="web-1", memory=1024, **NEW)
    assert (run.changed, run.logins) == (True, 1)
    assert str(run.requests[0]) == "POST /access/ticket"


def test_a_token_needs_no_login(lxc: Lxc) -> None:
    assert lxc(hostname="web-1", **NEW).logins == 0


@pytest.mark.parametrize(("method", "path"), [("GET", f"{base()}/pending"), ("PUT", CONFIG), ("POST", START)])
def test_a_ticket_that_is_revoked_midway_costs_one_more_login(lxc: Lxc, method: str, path: str) -> None:
    lxc.as_root()
    lxc.add(201)
    on_request(lxc.cluster, method, path, lambda cluster, _request: cluster.revoke_tickets())
    run = lxc(**HERE, memory=1024)
    assert (run.changed, run.logins) == (True, 2)
    assert [request.status for request in run.requests if str(request) == f"{method} {path}"][:2] == [401, 200]
    assert (lxc.ct().config["memory"], lxc.ct().status) == (1024, "running")


def test_a_user_that_is_locked_out_midway_is_not_logged_in_for_ever(lxc: Lxc) -> None:
    lxc.as_root()
    lxc.add(201)

    def lock_out(cluster: Cluster, _request: t.Any) -> None:
        cluster.revoke_tickets()
        cluster.password = "another"

    on_request(lxc.cluster, "PUT", CONFIG, lock_out)
    run = lxc(**HERE, memory=1024)
    assert (run.code, run.logins) == ("authentication_failed", 2)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"api_token_id": None, "api_token_secret": None, "api_password": "wrong"}, 1),
        ({"api_token_id": None, "api_token_secret": None, "api_user": "nobody@pve", "api_password": "secret"}, 1),
        ({"api_token_secret": "00000000-0000-0000-0000-00000000ffff"}, 1),
        ({"api_token_id": "root@pam!nobody"}, 1),
    ],
)
def test_wrong_credentials_are_tried_once(lxc: Lxc, options: dict[str, t.Any], count: int) -> None:
    run = lxc(**HERE, **options)
    assert (run.code, len(run.requests)) == ("authentication_failed", count)
    assert lxc.options["api_token_secret"] not in str(run.result)


# -------------------------------------------------------------------------------------------------- certificates


def test_a_certificate_of_an_unknown_authority_is_refused(lxc: Lxc) -> None:
    lxc.add(201)
    lxc.options.pop("ca_path")
    run = lxc(**HERE)
    assert (run.code, run.requests) == ("certificate_invalid", [])
    assert "pve-root-ca.pem" in run.result["msg"]


def test_the_wrong_authority_is_refused(lxc: Lxc, tmp_path: Path) -> None:
    other, _certificate, _key = make_certificates(tmp_path)
    run = lxc(**HERE, ca_path=str(other))
    assert (run.code, run.requests) == ("certificate_invalid", [])


def test_a_missing_authority_is_named(lxc: Lxc, tmp_path: Path) -> None:
    run = lxc(**HERE, ca_path=str(tmp_path / "none.pem"))
    assert (run.code, run.requests) == ("certificate_invalid", [])
    assert "none.pem" in run.result["msg"]


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize("token", [True, False])
def test_the_environment_does_not_change_what_is_trusted(
    lxc: Lxc, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, token: bool
) -> None:
    lxc.add(201)
    if not token:
        lxc.as_root()
    monkeypatch.setenv(name, str(tmp_path / "rubbish.pem"))
    lxc.unchanged(**HERE, state="stopped")
    lxc.options.pop("ca_path")
    lxc.unchanged(**HERE, state="stopped", validate_certs=False)


def test_a_template_of_the_task_that_is_known_needs_no_look(lxc: Lxc) -> None:
    run = lxc(vmid=300, hostname="web-1", node="pve1", template=TEMPLATE, storage="local-zfs", state="present")
    assert run.changed
    assert not [request for request in run.requests if "/storage/" in request.path]
