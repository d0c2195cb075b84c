# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The repository of examples/gitops, copied and applied by the collection's playbooks as its README says."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import threading
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client, Credentials
from ansible_collections.lxcri.proxmox.tests.integration.playbook import ROOT, Ansible, Ran, task

WEB = ["web-1", "web-2", "web-3"]
POD = ["app-1-cache", "app-1-server", "app-2-cache", "app-2-server"]
ALL = {*WEB, *POD, "db-1", "db-2", "queue-1", "queue-2", "queue-3", "worker-1", "worker-2"}
MAKE = "Make the containers of all workloads as declared"
# The memory with which nothing works.
BAD = 666


class Repository:
    """A user's copy of the example."""

    def __init__(self, ansible: Ansible, path: Path) -> None:
        self._ansible = ansible
        self._path = shutil.copytree(ROOT / "examples/gitops", path)
        self._variables = self._path / "group_vars/all.yml"
        self.commands = self._path / "commands"
        self.values = yaml.safe_load(self._variables.read_text(encoding="utf-8"))

    def workload(self, name: str) -> dict[str, t.Any]:
        [found] = [workload for workload in self.values["workload_list"] if workload["name"] == name]
        return t.cast("dict[str, t.Any]", found)

    def apply(self, *options: str) -> Ran:
        """Apply what is committed."""
        return self.attempt(*options).succeeded()

    def attempt(self, *options: str) -> Ran:
        """The same, which may fail."""
        self._variables.write_text(yaml.safe_dump(self.values), encoding="utf-8")
        return self.play("site", *options)

    def play(self, name: str, *options: str) -> Ran:
        """Run one of the collection's playbooks."""
        configuration = {"ANSIBLE_CONFIG": str(self._path / "ansible.cfg")}
        # A node on which every command succeeds.
        (self._path / "bin").mkdir(exist_ok=True)
        ssh = self._path / "bin/ssh"
        ssh.write_text(f'#!/bin/sh\necho "$@" >>{self.commands}\n', encoding="utf-8")
        ssh.chmod(0o755)
        configuration["PATH"] = f"{ssh.parent}:{os.environ['PATH']}"
        hosts = str(self._path / "hosts.yml")
        return self._ansible.run(ROOT / f"playbooks/{name}.yml", *options, inventory=hosts, **configuration)


@pytest.fixture
def repository(ansible: Ansible, tmp_path: Path) -> Repository:
    """A copy of the example."""
    return Repository(ansible, tmp_path / "repository")


class Services:
    """What runs in the containers: a server that answers for the one that has the address at which it is asked."""

    def __init__(self, ansible: Ansible) -> None:
        options = ansible.simulator.options
        self._client = Client(
            Credentials(
                host=options["api_host"],
                port=options["api_port"],
                user=options["api_user"],
                token_id=options["api_token_id"],
                token_secret=options["api_token_secret"],
                verify=options["ca_path"],
            )
        )
        self.asked: list[str] = []
        services = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                address = self.connection.getsockname()[0]
                services.asked.append(f"{address} {self.path}")
                works = any(f"ip={address}/" in net and memory != BAD for net, memory in services.containers())
                self.send_response(200 if works else 502)
                self.end_headers()

            def log_message(self, *_args: t.Any) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def configs(self) -> dict[str, dict[str, t.Any]]:
        """The configurations of the containers that run, by hostname."""
        guests = [guest for guest in self._client.get("cluster/resources") if guest["type"] == "lxc"]
        found = {}
        for guest in guests:
            base = f"nodes/{guest['node']}/lxc/{guest['vmid']}"
            if self._client.get(f"{base}/status/current")["status"] == "running":
                config = self._client.get(f"{base}/config", current=1)
                found[config["hostname"]] = config
        return found

    def containers(self) -> list[tuple[str, int]]:
        """The first network and the memory of each."""
        return [(str(config.get("net0")), int(config["memory"])) for config in self.configs().values()]

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def services(ansible: Ansible) -> t.Iterator[Services]:
    made = Services(ansible)
    try:
        yield made
    finally:
        made.stop()


def checked(repository: Repository, services: Services) -> None:
    """Switch the checks on, with addresses at which the test's server answers."""
    repository.values["gitops_checks"] = True
    repository.values["gitops_patience"] = {"start_period": 0, "interval": 0.2, "timeout": 20, "retries": 2}
    network = [{"name": "eth0", "bridge": "vmbr0", "firewall": True}]
    repository.values["workload_defaults"]["networks"] = network
    for number, name in enumerate(("db", "queue", "web"), start=1):
        workload = repository.workload(name)
        workload["addresses"] = [f"127.0.{number}.1-127.0.{number}.9/8"]
        workload["health"] = re.sub(r"'port': \d+", f"'port': {services.port}", workload["health"])
    server = repository.workload("app")["members"][0]
    server["addresses"] = ["127.0.9.1-127.0.9.9/8"]
    server["health"] = re.sub(r"'port': \d+", f"'port': {services.port}", server["health"])


def test_the_life_of_the_repository(ansible: Ansible, repository: Repository) -> None:
    check = repository.apply("--check", "--diff")
    # The network and the containers.
    assert (check.changed, ansible.table()) == (2, {})
    assert "+++ after: web-1" in check.stdout
    first = repository.apply()
    assert first.changed == 2
    assert re.search(rf"created: {len(ALL)}\b", first.stdout)
    assert ansible.states() == dict.fromkeys(ALL, "running")
    table = ansible.table()
    assert [table[f"app-{n}-server"]["node"] for n in (1, 2)] == [table[f"app-{n}-cache"]["node"] for n in (1, 2)]
    assert table["app-1-server"]["tags"] == "shop;shop.app;shop.app.1"
    ansible.writes()
    assert repository.apply().changed == 0
    assert ansible.writes() == []

    status = repository.play("status").succeeded()
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
    repository.values["workload_orphans"] = "keep"
    assert repository.apply().changed == 0
    assert "db-1" in ansible.states()
    repository.values.update(workload_orphans="delete", workload_list=[])
    repository.apply()
    assert ansible.table() == {}


@pytest.mark.slow
def test_updates_with_checks(ansible: Ansible, repository: Repository, services: Services) -> None:
    checked(repository, services)
    first = repository.apply()
    assert ansible.states() == dict.fromkeys(ALL, "running")
    assert {line.split()[0] for line in services.asked} == {
        *(f"127.0.3.{number}" for number in (1, 2, 3)),
        *(f"127.0.9.{number}" for number in (1, 2)),
    }
    [made] = [record["result"] for record in first.records if record["task"].endswith(MAKE)]
    commands = repository.commands.read_text().splitlines()
    assert commands
    assert all("pg_isready -q" in line and "su -s /bin/sh" in line for line in commands)
    healthy = {entry["hostname"] for entry in made["containers"] if entry.get("health", {}).get("healthy")}
    assert healthy == {name for name in ALL if not name.startswith(("worker", "app-1-cache", "app-2-cache"))}
    ansible.writes()
    assert repository.apply().changed == 0
    assert ansible.writes() == []
    configs = services.configs()
    assert [configs[f"db-{n}"]["startup"] for n in (1, 2)] == ["order=10,up=15,down=120", "order=11,up=15,down=120"]
    assert [configs[name]["startup"] for name in ("app-2-server", "app-2-cache")] == ["order=30", "order=31"]
    assert "bridge=pods" in configs["app-2-cache"]["net9"]
    assert "ip=10.200.0.18/28" in configs["app-2-cache"]["net9"]
    assert "tag=3002" in configs["app-2-cache"]["net9"]

    # Everything: stateful sets from the highest number, pods as a whole, and a fourth web server meanwhile.
    for name in ("db", "queue", "web"):
        repository.workload(name)["container"]["memory"] = 1536
    repository.workload("app")["members"][1]["container"] = {"memory": 768}
    check = repository.apply("--check")
    good = repository.apply()
    for ran in (check, good):
        [result] = [record["result"] for record in ran.records if record["task"].endswith(MAKE)]
        assert {entry["group"]: entry["batches"] for entry in result["rollouts"]} == {
            "shop.db": [["db-2"], ["db-1"]],
            "shop.queue": [["queue-3"], ["queue-2"], ["queue-1"]],
            "shop.app": [["app-1"], ["app-2"]],
            "shop.web": [["web-4"], ["web-1"], ["web-2"], ["web-3"]],
        }
    assert set(ansible.states()) == ALL
    assert repository.apply().changed == 0

    # One that breaks the pods: the first of them goes back, with its cache, and the second is not touched.
    repository.workload("app")["container"] = {"cores": 4}
    repository.workload("app")["members"][0]["container"]["memory"] = BAD
    bad = repository.attempt()
    assert (bad.status, bad.failed) == (2, 1)
    assert "The roll-out of shop.app stopped: app-1 could not be made as declared. app-2 was left alone." in bad.stdout
    [result] = [record["result"] for record in bad.records if record["task"].endswith(MAKE)]
    [rollout] = result["rollouts"]
    assert (rollout["kept"], rollout["failed"][0]["rolled_back"]) == (["app-2"], True)
    configs = services.configs()
    assert {int(configs[f"app-{n}-server"]["memory"]) for n in (1, 2)} == {1024}
    assert {configs[f"app-{n}-cache"].get("cores") for n in (1, 2)} <= {1, "1"}
    # With what is good it goes on.
    repository.workload("app")["members"][0]["container"]["memory"] = 2048
    repository.apply()
    assert repository.apply().changed == 0


def test_a_broken_update_of_five_leaves_four_in_service(
    ansible: Ansible, repository: Repository, services: Services
) -> None:
    checked(repository, services)
    web = repository.workload("web")
    web.update(replicas=5, rollout={"max_unavailable": 1, "on_failure": "rollback"})
    repository.values["workload_list"] = [web]
    repository.apply()
    web["container"]["memory"] = BAD
    for _time in range(2):
        ran = repository.attempt()
        assert ran.status == 2
        assert "web-1 is not healthy: http GET 127.0.3.1:" in ran.stdout
        assert "It was rolled back and works as before." in ran.stdout
        assert "web-2, web-3, web-4 and web-5 were left alone." in ran.stdout
        assert [int(config["memory"]) for config in services.configs().values()] == [1024] * 5
    web["container"]["memory"] = 1024
    assert repository.apply().changed == 0


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
