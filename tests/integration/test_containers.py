# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of containers by playbooks that are run twice: the second run changes nothing."""

from __future__ import annotations

import json

import pytest
from ansible_collections.lxcri.proxmox.tests.integration.playbook import NEW, Ansible, Ran, task

WEB = {"hostname": "web-1", "node": "pve1", **NEW}
GOLDEN = {"hostname": "golden", "node": "pve2", "vmid": 900, **NEW}


def twice(ansible: Ansible, *tasks: dict[str, object], changed: int) -> Ran:
    """Run the tasks in check mode, for real and again; the result of the real run."""
    ansible.writes()
    check = ansible.succeeds(tasks, "--check", "--diff")
    assert ansible.writes() == []
    first = ansible.succeeds(tasks, "--diff")
    assert (check.changed, first.changed) == (changed, changed)
    ansible.writes()
    second = ansible.succeeds(tasks)
    assert second.changed == 0
    assert ansible.writes() == []
    return first


def test_the_life_of_a_container(ansible: Ansible) -> None:
    twice(
        ansible,
        task("Make", "lxc_container", WEB),
        task("Golden", "lxc_container", {**GOLDEN, "state": "template"}),
        changed=2,
    )
    assert ansible.states() == {"web-1": "running", "golden": "stopped"}
    assert ansible.table()["golden"]["template"] is True

    changed = twice(
        ansible,
        task(
            "Change",
            "lxc_container",
            {**WEB, "memory": 512, "description": "new", "rootfs": {"storage": "local-zfs", "size": "6G"}},
        ),
        task("Snapshot", "lxc_snapshot", {"hostname": "web-1", "name": "before", "description": "Before"}),
        task("Clone", "lxc_container", {"hostname": "app-1", "clone": {"hostname": "golden"}, "memory": 128}),
        changed=3,
    )
    # The diff says each key before and after.
    assert '-    "memory": 256' in changed.stdout
    assert '+    "memory": 512' in changed.stdout
    assert '+    "description": "new' in changed.stdout
    assert ansible.states()["app-1"] == "running"
    assert ansible.table()["app-1"]["node"] == "pve2"

    back = ansible.succeeds(
        [
            task("Spoil", "lxc_container", {"hostname": "web-1", "memory": 64}),
            task("Back", "lxc_snapshot", {"hostname": "web-1", "name": "before", "state": "rolled_back"}),
            task(
                "Read", "lxc_container_info", {"hostname": "web-1", "gather": ["config", "snapshots"], "current": True}
            ),
        ]
    )
    [web] = back.result("Read")["containers"]
    assert (int(web["config"]["memory"]), web["status"]) == (512, "running")
    assert [snapshot["name"] for snapshot in web["snapshots"]] == ["before"]

    twice(
        ansible,
        task("Drop the snapshot", "lxc_snapshot", {"hostname": "web-1", "name": "before", "state": "absent"}),
        task("Stop", "lxc_container", {"hostname": "web-1", "state": "stopped"}),
        task("Remove the clone", "lxc_container", {"hostname": "app-1", "state": "absent", "force": True}),
        changed=3,
    )
    twice(
        ansible,
        task("Remove", "lxc_container", {"hostname": "web-1", "state": "absent"}),
        task("Remove the template", "lxc_container", {"vmid": 900, "state": "absent"}),
        changed=2,
    )
    assert ansible.table() == {}


def test_failures_say_what_to_do_and_can_be_tested_by_their_code(ansible: Ansible) -> None:
    ansible.simulator.control("/containers", {"containers": [{"vmid": 201, "name": "web-1", "status": "running"}]})
    ran = ansible.succeeds(
        [
            task(
                "Shrink",
                "lxc_container",
                {"hostname": "web-1", "rootfs": {"size": "1G"}},
                register="shrunk",
                failed_when="shrunk.failure is not defined or shrunk.failure.code != 'would_lose_data'",
            ),
            {
                "name": "Try",
                "block": [task("Remove", "lxc_container", {"hostname": "web-1", "state": "absent"})],
                "rescue": [
                    {
                        "name": "Say",
                        "ansible.builtin.debug": {"msg": "{{ ansible_failed_result.failure }}"},
                    }
                ],
            },
            task(
                "Make without a source",
                "lxc_fleet",
                {"containers": [{"hostname": "a", "node": "pve1"}, {"hostname": "web-1"}]},
                register="fleet",
                ignore_errors=True,
            ),
        ]
    )
    failure = ran.result("Say")["msg"]
    assert failure["code"] == "container_running"
    assert "force" in failure["hint"]
    removed = ran.result("Remove")
    assert failure["message"] in removed["msg"]
    assert failure["hint"] in removed["msg"]
    assert "force" in ran.stdout
    fleet = ran.result("Make without a source")
    assert fleet["failure"]["code"] == "containers_failed"
    assert [entry.get("failure", {}).get("code") for entry in fleet["containers"]] == ["not_found", None]
    assert ansible.states() == {"web-1": "running"}


def test_how_the_api_is_reached(ansible: Ansible) -> None:
    options = ansible.simulator.options
    read = task("Read", "lxc_container_info")
    everything = [
        read,
        task("One", "lxc_container", {"vmid": 201, "state": "absent"}),
        task("Fleet", "lxc_fleet", {"containers": []}),
    ]
    nothing = dict.fromkeys(ansible.simulator.environment)
    defaults = {"group/lxcri.proxmox.api": options}
    play = {"name": "P", "hosts": "localhost", "gather_facts": False, "module_defaults": defaults}
    ran = ansible.run([{**play, "tasks": everything}], **nothing)
    assert ran.succeeded().result("Read")["containers"] == []
    # A token's id may have its user in it; and a password will do.
    environment = {
        **nothing,
        "PROXMOX_HOST": options["api_host"],
        "PROXMOX_PORT": str(options["api_port"]),
        "PROXMOX_CA_PATH": options["ca_path"],
    }
    token = {"PROXMOX_TOKEN_ID": "root@pam!demo", "PROXMOX_TOKEN_SECRET": options["api_token_secret"]}
    ansible.succeeds([read], **{**environment, **token})
    password = ansible.simulator.address["password"]
    ansible.succeeds([read], **{**environment, "PROXMOX_USER": "root@pam", "PROXMOX_PASSWORD": password})
    # Without the authority the certificate is not trusted, unless that is asked for.
    unknown = ansible.run([read], **{**environment, **token, "PROXMOX_CA_PATH": None})
    assert unknown.result("Read")["failure"]["code"] == "certificate_invalid"
    insecure = {**environment, **token, "PROXMOX_CA_PATH": None, "PROXMOX_VALIDATE_CERTS": "false"}
    assert ansible.succeeds([read], **insecure).result("Read")["containers"] == []
    for missing, option in ((nothing, "api_host"), ({**environment, "PROXMOX_USER": "root@pam"}, "api_password")):
        refused = ansible.run([read], **missing)
        assert (refused.status, refused.result("Read")["failure"]["details"]["option"]) == (2, option)
    for text in (unknown.stdout, unknown.stderr):
        assert options["api_token_secret"] not in text


@pytest.mark.parametrize("ansible", [["--create-secs", "10", "--lag", "10"]], indirect=True)
def test_ten_hosts_in_parallel_make_ten_containers(ansible: Ansible) -> None:
    local = "ansible_connection=local ansible_python_interpreter='{{ ansible_playbook_python }}'"
    hosts = ansible.simulator.address["ca_path"].replace("ca.pem", "hosts.ini")
    with open(hosts, "w", encoding="utf-8") as file:
        file.writelines(f"web-{number} node=pve{number % 3 + 1} {local}\n" for number in range(10))
    make = {
        "name": "Make",
        "lxcri.proxmox.lxc_container": {**NEW, "hostname": "{{ inventory_hostname }}", "node": "{{ node }}"},
    }
    play = [{"name": "P", "hosts": "all", "gather_facts": False, "tasks": [make]}]
    # Two playbooks at once, five containers each.
    first = ansible.start(play, "--forks", "5", "--limit", "web-0,web-1,web-2,web-3,web-4", inventory=hosts)
    second = ansible.start(play, "--forks", "5", "--limit", "web-5,web-6,web-7,web-8,web-9", inventory=hosts)
    assert (first.wait().succeeded().changed, second.wait().succeeded().changed) == (5, 5)
    assert ansible.states() == {f"web-{number}": "running" for number in range(10)}
    again = ansible.succeeds(play, "--forks", "10", inventory=hosts)
    assert again.changed == 0


def test_passwords_are_not_shown(ansible: Ansible) -> None:
    tasks = [
        task("Make", "lxc_container", {**WEB, "password": "correct-horse"}),
        task("Make more", "lxc_fleet", {"containers": [{**WEB, "hostname": "web-2", "password": "battery-staple"}]}),
    ]
    ran = ansible.succeeds(tasks, "-vvv", "--diff", ANSIBLE_DEBUG="0")
    text = ran.stdout + ran.stderr + json.dumps(ran.records)
    for secret in ("correct-horse", "battery-staple", ansible.simulator.options["api_token_secret"]):
        assert secret not in text
