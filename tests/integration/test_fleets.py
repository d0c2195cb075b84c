# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""lxc_fleet in playbooks: progress while it runs, other callbacks, forks and asynchronous tasks."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.tests.integration.playbook import NEW, Ansible, task

LINE = re.compile(r"^\[\d+/\d+\] web-\d+ (created|started) on pve\d in \d+\.\d s$")
WEB = {
    "defaults": {**NEW, "spread": "web"},
    "containers": [{"hostname": f"web-{number}"} for number in range(1, 7)],
    "owner": "shop",
}


def progress(lines: t.Iterable[tuple[float, str]]) -> list[tuple[float, str]]:
    return [(seconds, line.strip()) for seconds, line in lines if re.match(r"\[\d+/\d+\] ", line)]


@pytest.mark.parametrize("ansible", [["--time-scale", "0.3"]], indirect=True)
def test_progress_is_shown_while_the_fleet_is_made_and_a_second_run_changes_nothing(ansible: Ansible) -> None:
    ran = ansible.succeeds([task("Make", "lxc_fleet", {**WEB, "concurrency": 1})])
    shown = progress(ran.lines)
    assert len(shown) == 12
    assert all(LINE.match(line) for _seconds, line in shown), shown
    assert [line.split("/")[0] for _seconds, line in shown] == [f"[{n}" for n in range(1, 13)]
    # Two rounds on each node of a second each: the first lines come long before the last.
    assert shown[-1][0] - shown[0][0] > 0.8
    [end] = [seconds for seconds, line in ran.lines if line.startswith("changed: [localhost]")]
    assert end - shown[0][0] > 0.8
    # ansible-core 2.21 shows the invocation only when asked for.
    assert "progress_path" not in ran.result("Make").get("invocation", {}).get("module_args", {})
    again = ansible.succeeds([task("Make", "lxc_fleet", {**WEB, "concurrency": 1})])
    assert (again.changed, progress(again.lines)) == (0, [])
    leftovers = [
        path for path in Path(ansible.environment(Path())["ANSIBLE_HOME"]).rglob("lxc_fleet-*") if path.is_file()
    ]
    assert leftovers == []


def test_progress_with_another_callback(ansible: Ansible) -> None:
    ran = ansible.run([task("Make", "lxc_fleet", WEB)], ANSIBLE_STDOUT_CALLBACK="minimal")
    assert ran.status == 0, ran.stdout + ran.stderr
    assert len(progress(ran.lines)) == 12
    assert all(LINE.match(line) for _seconds, line in progress(ran.lines))
    assert ran.stderr == ""


def test_asynchronous_tasks(ansible: Ansible) -> None:
    ran = ansible.succeeds(
        [
            task("Make", "lxc_fleet", WEB, **{"async": 60, "poll": 1}, register="made"),
            task(
                "Start",
                "lxc_fleet",
                {**WEB, "containers": [{"hostname": "web-7"}]},
                **{"async": 60, "poll": 0},
                register="job",
            ),
            {
                "name": "Wait",
                "ansible.builtin.async_status": {"jid": "{{ job.ansible_job_id }}"},
                "register": "waited",
                "until": "waited.finished",
                "retries": 50,
                "delay": 0.2,
            },
        ]
    )
    assert ran.result("Make")["summary"]["created"] == 6
    assert ran.result("Wait")["summary"]["created"] == 1
    assert len(ansible.states()) == 7


def test_forks_check_mode_and_loops(ansible: Ansible) -> None:
    local = "ansible_connection=local ansible_python_interpreter='{{ ansible_playbook_python }}'"
    hosts = ansible.simulator.address["ca_path"].replace("ca.pem", "hosts.ini")
    Path(hosts).write_text("".join(f"{name} {local}\n" for name in ("red", "blue", "green")), encoding="utf-8")
    make = {
        "name": "Make",
        "lxcri.proxmox.lxc_fleet": {
            "defaults": NEW,
            "containers": [
                {"hostname": "{{ inventory_hostname }}-{{ item }}-1"},
                {"hostname": "{{ inventory_hostname }}-{{ item }}-2"},
            ],
            "owner": "{{ inventory_hostname }}",
        },
        "loop": ["a", "b"],
    }
    play = [{"name": "P", "hosts": "all", "gather_facts": False, "tasks": [make]}]
    check = ansible.succeeds(play, "--forks", "3", "--check", inventory=hosts)
    assert (check.changed, ansible.table()) == (3, {})
    ran = ansible.succeeds(play, "--forks", "3", inventory=hosts)
    assert ran.changed == 3
    assert len(progress(ran.lines)) == 3 * 2 * 4
    assert len(ansible.states()) == 12
    assert set(ansible.states().values()) == {"running"}
    assert ansible.succeeds(play, "--forks", "3", inventory=hosts).changed == 0


def test_growing_shrinking_and_a_failure(ansible: Ansible) -> None:
    fleet = {**WEB, "prune": "delete"}
    ansible.succeeds([task("Make", "lxc_fleet", fleet)])
    fewer = {**fleet, "containers": WEB["containers"][:2]}
    check = ansible.succeeds([task("Shrink", "lxc_fleet", fewer)], "--check", "--diff")
    assert check.result("Shrink")["summary"]["pruned"] == 4
    assert "--- before: web-6" in check.stdout
    assert len(ansible.states()) == 6
    assert ansible.succeeds([task("Shrink", "lxc_fleet", fewer)]).changed == 1
    assert sorted(ansible.states()) == ["web-1", "web-2"]
    assert ansible.succeeds([task("Shrink", "lxc_fleet", fewer)]).changed == 0
    # One that cannot be made does not keep the others from being made.
    broken = {
        **fleet,
        "containers": [*WEB["containers"][:3], {"hostname": "bad", "template": "nowhere:vztmpl/a_1.tar.zst"}],
    }
    ran = ansible.run([task("Break", "lxc_fleet", broken)])
    assert (ran.status, ran.failed) == (2, 1)
    assert "1 of 4 containers failed. bad: " in ran.result("Break")["msg"]
    assert sorted(ansible.states()) == ["web-1", "web-2", "web-3"]
