# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The repository of examples/gitops, copied and applied by the collection's playbooks as its README says."""

from __future__ import annotations

import re
import shutil
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.lxcri.proxmox.tests.integration.playbook import ROOT, Ansible, Ran, task

ALL = {"web-1", "web-2", "web-3", "db-1", "db-2", "cache-1", "worker-1", "worker-2"}


class Repository:
    """A user's copy of the example."""

    def __init__(self, ansible: Ansible, path: Path) -> None:
        self._ansible = ansible
        self._path = shutil.copytree(ROOT / "examples/gitops", path)
        self._variables = self._path / "group_vars/all.yml"
        self.values = yaml.safe_load(self._variables.read_text(encoding="utf-8"))

    def workload(self, name: str) -> dict[str, t.Any]:
        [found] = [workload for workload in self.values["workload_list"] if workload["name"] == name]
        return t.cast("dict[str, t.Any]", found)

    def apply(self, *options: str) -> Ran:
        """Apply what is committed."""
        self._variables.write_text(yaml.safe_dump(self.values), encoding="utf-8")
        return self.play("site", *options)

    def play(self, name: str, *options: str) -> Ran:
        """Run one of the collection's playbooks."""
        configuration = {"ANSIBLE_CONFIG": str(self._path / "ansible.cfg")}
        hosts = str(self._path / "hosts.yml")
        return self._ansible.succeeds(ROOT / f"playbooks/{name}.yml", *options, inventory=hosts, **configuration)


@pytest.fixture
def repository(ansible: Ansible, tmp_path: Path) -> Repository:
    """A copy of the example."""
    return Repository(ansible, tmp_path / "repository")


def test_the_life_of_the_repository(ansible: Ansible, repository: Repository) -> None:
    check = repository.apply("--check", "--diff")
    assert (check.changed, ansible.table()) == (1, {})
    assert "+++ after: web-1" in check.stdout
    first = repository.apply()
    assert first.changed == 1
    assert re.search(rf"created: {len(ALL)}\b", first.stdout)
    assert ansible.states() == dict.fromkeys(ALL, "running")
    ansible.writes()
    assert repository.apply().changed == 0
    assert ansible.writes() == []

    status = repository.play("status")
    for name in ALL:
        assert re.search(rf"^\s*{name} .* running", status.stdout, re.MULTILINE), status.stdout

    # More of one, fewer of others: a deployment's surplus goes, a stateful set's stays with its data.
    repository.workload("web")["replicas"] = 5
    repository.workload("worker")["replicas"] = 1
    repository.workload("db")["replicas"] = 1
    check = repository.apply("--check")
    scaled = repository.apply()
    expected = dict.fromkeys(ALL - {"worker-2"} | {"web-4", "web-5"}, "running") | {"db-2": "stopped"}
    assert ansible.states() == expected
    for ran in (check, scaled):
        [summary] = [r["result"]["summary"] for r in ran.records if "summary" in r["result"]]
        assert (summary["created"], summary["pruned"], summary["failed"]) == (2, 2, 0)
    assert repository.apply().changed == 0

    # Back up: the replica that was stopped is started with its volume.
    vmid = ansible.table()["db-2"]["vmid"]
    repository.workload("db")["replicas"] = 2
    repository.apply()
    assert (ansible.states()["db-2"], ansible.table()["db-2"]["vmid"]) == ("running", vmid)

    # What is taken out of the list stays unless it is said otherwise.
    repository.values["workload_list"] = [repository.workload("web")]
    repository.values.pop("workload_orphans", None)
    assert repository.apply().changed == 0
    assert "db-1" in ansible.states()
    repository.values.update(workload_orphans="delete", workload_list=[])
    repository.apply()
    assert ansible.table() == {}


def test_mistakes_are_refused_before_anything_is_sent(ansible: Ansible) -> None:
    role = {
        "name": "Apply",
        "ansible.builtin.include_role": {"name": "lxcri.proxmox.workload"},
        "vars": {"workload_list": [{"name": "web", "kind": "deployment", "container": {"memroy": 5}}]},
    }
    ran = ansible.run([role])
    assert ran.status == 2
    assert "memroy" in ran.stdout
    assert ansible.simulator.control("/requests") == []
    missing = ansible.run([{**role, "vars": {}}])
    assert missing.status == 2
    assert "workload_list" in missing.stdout


def test_a_container_that_others_own_is_left_alone(ansible: Ansible) -> None:
    containers = [{"vmid": 300, "name": "web-9", "status": "running", "config": {"tags": "lxcri.web"}}]
    ansible.simulator.control("/containers", {"containers": containers})
    role = {
        "name": "Apply",
        "ansible.builtin.include_role": {"name": "lxcri.proxmox.workload"},
        "vars": {
            "workload_list": [{"name": "web", "kind": "deployment", "state": "absent"}],
            "workload_orphans": "delete",
        },
    }
    ran = ansible.succeeds([role, task("Read", "lxc_container_info")])
    assert [entry["hostname"] for entry in ran.result("Read")["containers"]] == ["web-9"]
