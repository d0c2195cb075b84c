# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""lxc_container: what a run costs, what it returns, and what is refused before anything is sent."""

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.lxcri.proxmox.tests.wire.support import ANY, NET, NEW, RESOURCES, TEMPLATE, Lxc, base, reads

# All of a container, as a task would declare it.
DECLARED: dict[str, t.Any] = {
    "hostname": "web-1",
    "cores": 2,
    "memory": 1024,
    "networks": [{"name": "eth0", "bridge": "vmbr0", "ip": "dhcp"}],
    "rootfs": {"storage": "local-zfs", "size": "8G"},
    "tags": ["web", "prod"],
    "description": "Shop",
    "template": TEMPLATE,
}
CONFIG = {"cores": 2, "memory": 1024, "net0": NET, "tags": "prod;web", "description": "Shop\n"}


@pytest.fixture
def present(lxc: Lxc) -> Lxc:
    """A cluster in which the container is as declared."""
    lxc.add(201, status="running", config=CONFIG)
    return lxc


# --------------------------------------------------------------------------------------------------------- no-op


@pytest.mark.parametrize(
    ("identity", "asked"),
    [
        ({"vmid": 201, "node": "pve1"}, reads()),
        ({"vmid": 201}, [RESOURCES, *reads()]),
        ({}, [RESOURCES, *reads()]),
        ({"node": "pve1"}, [RESOURCES, *reads()]),
    ],
)
@pytest.mark.parametrize("check_mode", [False, True])
def test_finding_everything_as_declared_costs_two_requests_or_three(
    present: Lxc, identity: dict[str, t.Any], asked: list[str], check_mode: bool
) -> None:
    run = present(check_mode=check_mode, **DECLARED, **identity)
    assert (run.asked, run.changed, run.plan) == (asked, False, [])
    assert len(run.requests) == len(asked)
    assert "warnings" not in run.result
    again = present(check_mode=check_mode, **DECLARED, **identity)
    assert again.result == run.result


def test_one_connection_is_enough(present: Lxc) -> None:
    run = present(**DECLARED)
    assert len({request.connection for request in run.requests}) == 1


def test_the_same_in_json_and_in_the_spellings_of_yaml(present: Lxc) -> None:
    present.unchanged(
        vmid="201",
        node="pve1",
        cores="2",
        memory="1024",
        tags="WEB, prod",
        description="Shop\n",
        networks=[{"id": "net0", "name": "eth0", "bridge": "vmbr0", "ip": "dhcp", "firewall": "no"}],
        rootfs={"size": "8192M"},
        onboot="no",
        unprivileged="yes",
    )


def test_a_container_that_is_away_from_home_keeps_the_note_of_it(lxc: Lxc) -> None:
    home = "<!-- lxcri.proxmox home=pve2 vmid=201 was=running -->"
    lxc.add(201, status="running", config={**CONFIG, "description": f"Shop\n\n{home}\n"})
    place = {"vmid": 201, "node": "pve1"}
    lxc.unchanged(**place, description="Shop")
    url = f"{base()}/config"
    run = lxc.converge(**place, description="Other")
    assert run.writes == [("PUT", url, {"description": f"Other\n\n{home}", "digest": ANY})]
    run = lxc.converge(**place, unset=["description"])
    assert run.writes == [("PUT", url, {"description": home, "digest": ANY})]
    run = lxc.converge(**place, memory=2048)
    assert run.writes == [("PUT", url, {"memory": "2048", "digest": ANY})]


# ------------------------------------------------------------------------------------------------------- results


def test_the_result_of_a_run_that_did_nothing(present: Lxc) -> None:
    result = present(**DECLARED, vmid=201, node="pve1").result
    result.pop("invocation")
    assert result == {
        "changed": False,
        "container": {
            "vmid": 201,
            "node": "pve1",
            "hostname": "web-1",
            "status": "running",
            "config": present.ct().config,
            "addresses": [],
        },
        "plan": [],
        "restart_required": False,
        "recreate_required": [],
        "tasks": [],
        "notes": [],
        "losses": [],
        "diff": {"before": {}, "after": {}},
    }


def test_the_result_of_a_change(present: Lxc) -> None:
    result = present(**{**DECLARED, "memory": 2048, "vmid": 201, "node": "pve1", "timezone": "host"}).result
    request = "PUT /nodes/pve1/lxc/201/config"
    assert result["plan"] == [
        {"key": "memory", "before": 1024, "after": 2048, "effect": "live", "request": request},
        {"key": "timezone", "before": None, "after": "host", "effect": "restart", "request": request},
    ]
    assert (result["changed"], result["restart_required"]) == (True, True)
    assert (result["container"]["config"]["memory"], result["container"]["config"]["timezone"]) == (2048, "host")


def test_check_mode_returns_the_container_as_it_was(present: Lxc) -> None:
    run = present.check(**{**DECLARED, "memory": 2048, "state": "stopped"})
    assert (run.changed, run.container["config"]["memory"], run.container["status"]) == (True, 1024, "stopped")


def test_a_failure_has_a_code_a_message_a_hint_and_facts(lxc: Lxc) -> None:
    result = lxc(hostname="web-1").result
    assert result["failed"] is True
    assert set(result["failure"]) == {"code", "message", "hint", "details"}
    assert result["msg"] == f"{result['failure']['message']} {result['failure']['hint']}"
    assert result["failure"]["code"] == "not_found"


def test_what_was_done_before_a_failure_is_returned(lxc: Lxc) -> None:
    lxc.add(201).start_error = "startup for container '201' failed"
    run = lxc(vmid=201, node="pve1", memory=1024, rootfs={"size": "9G"})
    assert run.code == "task_failed"
    assert run.changed
    assert run.keys == ["memory", "rootfs.size", "state"]
    assert [task["upid"].split(":")[5] for task in run.result["tasks"]] == ["resize"]
    assert lxc.ct().config["memory"] == 1024
    # Run again when the cause is removed: it goes on from what is there.
    lxc.ct().start_error = None
    again = lxc.converge(vmid=201, node="pve1", memory=1024, rootfs={"size": "9G"})
    assert again.plan == [("state", "stopped", "started", "live")]


def test_secrets_are_nowhere_in_the_result(lxc: Lxc) -> None:
    secret = lxc.options["api_token_secret"]
    for options in ({"vmid": 300, **NEW, "password": "correct horse"}, {"vmid": 300, "node": "pve1", "memory": 64}):
        text = json.dumps(lxc(**options).result)
        assert secret not in text
        assert "correct horse" not in text


# ---------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"vmid": 99}, "vmid"),
        ({"vmid": 1000000000}, "vmid"),
        ({"hostname": "not a name"}, "hostname"),
        ({"hostname": "-web"}, "hostname"),
        ({"hostname": ""}, "hostname"),
        ({"node": "pve 1"}, "node"),
        ({"node": "../pve1"}, "node"),
        ({"memory": 15}, "memory"),
        ({"swap": -1}, "swap"),
        ({"cores": 0}, "cores"),
        ({"cores": 8193}, "cores"),
        ({"cpulimit": 9000}, "cpulimit"),
        ({"cpuunits": 500001}, "cpuunits"),
        ({"tty": 7}, "tty"),
        ({"tags": ["-web"]}, "tags"),
        ({"tags": ["a b!"]}, "tags"),
        ({"nameserver": ["ns.example.org"]}, "nameserver"),
        ({"searchdomain": ["exa_mple.org"]}, "searchdomain"),
        ({"timezone": "Europe/Wien!"}, "timezone"),
        ({"hookscript": "hook.pl"}, "hookscript"),
        ({"env": {"A B": "x"}}, "env"),
        ({"env": {"A": "x\ny"}}, "env"),
        ({"entrypoint": "/bin/x\n/bin/y"}, "entrypoint"),
        ({"description": "x" * 8193}, "description"),
        ({"startup": {"order": -1}}, "startup"),
        ({"features": {"mount": ["nfs/4"]}}, "features"),
        ({"networks": [{"bridge": "vmbr0"}]}, "networks[0]"),
        ({"networks": [{"name": "eth0", "ip": "192.0.2.1"}]}, "networks[0]"),
        ({"networks": [{"name": "eth0", "ip": "192.0.2.1/33"}]}, "networks[0]"),
        ({"networks": [{"name": "eth0", "hwaddr": "01:00:00:00:00:00"}]}, "networks[0]"),
        ({"networks": [{"name": "eth0", "tag": 4095}]}, "networks[0]"),
        ({"networks": [{"name": "eth0", "mtu": 10}]}, "networks[0]"),
        ({"networks": [{"name": "eth0"}, {"name": "eth0"}]}, "networks"),
        ({"networks": [{"name": "eth0", "id": "net32"}]}, "networks[0].id"),
        ({"networks": [{"name": "eth0", "id": "mp0"}]}, "networks[0].id"),
        ({"networks": [{"name": "a", "id": "net1"}, {"name": "b"}]}, "networks[1]"),
        ({"mounts": [{"size": "1G", "storage": "tank"}]}, "mounts[0]"),
        ({"mounts": [{"mp": "/a/../b", "size": "1G", "storage": "tank"}]}, "mounts[0]"),
        ({"mounts": [{"mp": "/a", "size": "big", "storage": "tank"}]}, "mounts[0]"),
        ({"mounts": [{"mp": "/a", "size": "8", "storage": "tank"}]}, "mounts[0].size"),
        ({"mounts": [{"mp": "/a", "volume": "/srv", "size": "1G"}]}, "mounts[0].size"),
        ({"mounts": [{"mp": "/a", "volume": "tank:x", "storage": "tank"}]}, "mounts[0]"),
        ({"mounts": [{"mp": "/a", "size": "1G", "storage": "ta nk"}]}, "mounts[0].storage"),
        (
            {
                "mounts": [
                    {"mp": "/a", "size": "1G", "storage": "tank"},
                    {"mp": "/a/", "size": "1G", "storage": "tank"},
                ]
            },
            "mounts",
        ),
        ({"rootfs": {"size": "0"}}, "rootfs.size"),
        ({"devices": [{"path": "/tmp/x"}]}, "devices[0]"),
        ({"devices": [{"path": "/dev/x", "mode": "777"}]}, "devices[0]"),
        ({"unset": ["bogus"]}, "unset"),
        ({"unset": ["memory"]}, "unset"),
        ({"unset": ["lock"]}, "unset"),
        ({"unset": ["cores"], "cores": 2}, "unset"),
        ({"template": "debian-13.tar.zst"}, "template"),
        ({"template": TEMPLATE, "clone": {"vmid": 900}}, "template"),
        ({"clone": {}}, "clone"),
        ({"clone": {"vmid": 900, "hostname": "golden"}}, "clone"),
        ({"clone": {"vmid": 900, "full": False, "storage": "tank"}}, "clone.storage"),
        ({"restore": {"volume": "vzdump.tar"}}, "restore.volume"),
        ({"password": "1234"}, "password"),
        ({"wait_for_address": True, "state": "stopped"}, "wait_for_address"),
        ({"wait_for_address": True, "state": "absent"}, "wait_for_address"),
    ],
)
def test_bad_input_is_refused_before_any_request(present: Lxc, options: dict[str, t.Any], option: str) -> None:
    for check_mode in (False, True):
        run = present(check_mode=check_mode, **{"vmid": 201, "node": "pve1", **options})
        assert (run.code, run.requests) == ("invalid_option", [])
        assert run.result["msg"].startswith(f"{option}: ")
        assert run.details["option"] == option


def test_an_empty_hostname_is_no_identity(lxc: Lxc) -> None:
    run = lxc(hostname="")
    assert (run.details["option"], run.requests) == ("hostname", [])
    assert "unset" not in run.result["msg"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"vmid": "web"}, "vmid"),
        ({"memory": "64.5"}, "memory"),
        ({"state": "running"}, "state"),
        ({"onboot": "perhaps"}, "onboot"),
        ({"networks": [{"name": "eth0", "brigde": "vmbr0"}]}, "brigde"),
        ({"cmode": "vnc"}, "cmode"),
        ({"restart": "always"}, "restart"),
        ({"ostype": "windows"}, "ostype"),
        ({"bogus": 1}, "bogus"),
        ({"restore": {}}, "volume"),
    ],
)
def test_what_ansible_refuses_asks_nothing_either(present: Lxc, options: dict[str, t.Any], text: str) -> None:
    run = present(**{"vmid": 201, **options})
    assert (run.result["failed"], run.requests) == (True, [])
    assert text in run.result["msg"]


def test_a_task_without_an_identity_asks_nothing(lxc: Lxc) -> None:
    run = lxc(memory=512)
    assert (run.result["failed"], run.requests) == (True, [])
    assert "vmid" in run.result["msg"]
    assert "hostname" in run.result["msg"]


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"api_host": None}, "api_host"),
        ({"api_user": "root", "api_token_id": None, "api_password": "secret"}, "api_user"),
        ({"api_token_secret": None}, "api_token_secret"),
        ({"api_token_id": None}, "api_password"),
    ],
)
def test_incomplete_credentials_are_refused_before_any_request(
    lxc: Lxc, options: dict[str, t.Any], option: str
) -> None:
    run = lxc(vmid=201, **options)
    assert (run.code, run.details["option"], run.requests) == ("invalid_option", option, [])


def test_the_environment_says_how_to_reach_the_api(lxc: Lxc, monkeypatch: pytest.MonkeyPatch) -> None:
    lxc.add(201)
    for name, value in lxc.cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PROXMOX_VALIDATE_CERTS", "true")
    lxc.options.clear()
    lxc.unchanged(vmid=201, node="pve1", state="stopped")
