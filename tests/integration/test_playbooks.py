# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks for single operations, run as a user does."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
import typing as t
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from ansible_collections.lxcri.proxmox.plugins.modules import pve_object
from ansible_collections.lxcri.proxmox.tests.integration.nodes import Nodes
from ansible_collections.lxcri.proxmox.tests.integration.playbook import NEW, ROOT, Ansible, Ran, Running, task

DRAINED = {
    "web-1": {"vmid": 201, "name": "web-1", "status": "running", "config": {"tags": "lxcri;lxcri.web"}},
    "web-2": {"vmid": 202, "name": "web-2", "status": "running", "config": {"tags": "lxcri;lxcri.web"}},
    "db-1": {"vmid": 203, "name": "db-1", "config": {"tags": "lxcri;lxcri.db"}},
    "api-1": {"vmid": 204, "name": "api-1", "node": "pve2", "status": "running"},
}


class Operations:
    """Runs the playbooks of the collection with an inventory of one cluster."""

    def __init__(self, ansible: Ansible, directory: Path) -> None:
        self.ansible = ansible
        self._hosts = directory / "hosts.yml"
        self.variables: dict[str, t.Any] = {}
        self.nodes: dict[str, dict[str, t.Any]] = {}

    def start(self, name: str, *options: str, **extra: t.Any) -> Running:
        """Start one with extra variables."""
        hosts: dict[str, t.Any] = {"proxmox": {"hosts": {"cluster": None}, "vars": self.variables}}
        if self.nodes:
            hosts["proxmox_nodes"] = {"hosts": self.nodes}
        self._hosts.write_text(yaml.safe_dump(hosts), encoding="utf-8")
        path = ROOT / f"playbooks/{name}.yml"
        given = ["-e", json.dumps(extra)] if extra else []
        return self.ansible.start(path, *options, *given, inventory=str(self._hosts))

    def run(self, name: str, *options: str, **extra: t.Any) -> Ran:
        """Run one to its end, whatever that is."""
        return self.start(name, *options, **extra).wait()

    def succeeds(self, name: str, *options: str, **extra: t.Any) -> Ran:
        """Run one that has to succeed without a warning."""
        return self.run(name, *options, **extra).succeeded()

    def refused(self, name: str, words: str, *options: str, **extra: t.Any) -> Ran:
        """Run one that has to fail with these words, and to write nothing."""
        self.ansible.writes()
        ran = self.run(name, *options, **extra)
        assert ran.status == 2, ran.stdout
        assert words in ran.stdout, ran.stdout
        assert self.ansible.writes() == []
        return ran

    def have(self, *containers: t.Mapping[str, t.Any]) -> None:
        """Containers that have been there for long."""
        self.ansible.simulator.control("/containers", {"containers": list(containers)})

    def where(self) -> dict[str, tuple[str, str]]:
        """Node and status of each container."""
        return {name: (entry["node"], entry["status"]) for name, entry in self.ansible.table().items()}


@pytest.fixture
def nodes() -> t.Iterator[Nodes]:
    """Nodes that ssh reaches."""
    directory = Path(tempfile.mkdtemp(prefix="site-"))
    cluster = Nodes(directory)
    try:
        for node in cluster.all:
            node.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(directory)


@pytest.fixture
def operations(ansible: Ansible, tmp_path: Path) -> Operations:
    """The playbooks against a cluster of this test's own."""
    return Operations(ansible, tmp_path)


# ------------------------------------------------------------------------------------------------- drain_node.yml


def test_a_node_is_drained_and_gets_its_containers_back(operations: Operations) -> None:
    operations.have(*DRAINED.values())
    before = operations.where()
    operations.ansible.writes()
    check = operations.succeeds("drain_node", "--check", node="pve1")
    assert (check.changed, operations.ansible.writes(), operations.where()) == (1, [], before)
    ran = operations.succeeds("drain_node", node="pve1")
    assert ran.changed == 1
    for each in (check, ran):
        assert each.result("Move the containers")["diff"] == check.result("Move the containers")["diff"]
    where = operations.where()
    assert {where["web-1"], where["web-2"]} == {("pve2", "running"), ("pve3", "running")}
    assert where["db-1"][1] == "stopped"
    assert "pve1" not in [node for node, _status in where.values()]
    assert re.search(r"web-1 \(201\): pve1 -> pve[23], running", ran.stdout), ran.stdout
    assert re.search(r"web-1 \(201\) is on pve[23], running", ran.stdout), ran.stdout
    assert operations.succeeds("drain_node", node="pve1").changed == 0
    back = operations.succeeds("drain_node", node="pve1", back=True)
    assert (back.changed, operations.where()) == (1, before)
    again = operations.succeeds("drain_node", node="pve1", back=True)
    assert (again.changed, "There is nothing to do." in again.stdout) == (0, True)


def test_what_cannot_be_moved_is_shown_first_and_does_not_stop_the_others(operations: Operations) -> None:
    operations.have({**DRAINED["web-1"], "config": {"mp0": "/srv,mp=/data"}}, DRAINED["db-1"])
    ran = operations.run("drain_node", node="pve1")
    assert ran.status == 2
    plan, outcome = ran.stdout.index("web-1 (201): stays."), ran.stdout.index("is on")
    assert plan < outcome
    assert ran.result("Move the containers")["failure"]["code"] == "containers_failed"
    assert "On pve1: web-1 (201)" in ran.stdout
    assert operations.where()["db-1"] == ("pve2", "stopped")
    operations.refused("drain_node", "Nothing was moved", node="pve1", drain_require_all=True)


@pytest.mark.parametrize("ansible", [["--time-scale", "0.3"]], indirect=True)
def test_the_run_after_one_that_was_killed_finishes(operations: Operations) -> None:
    operations.have(*DRAINED.values())
    before = operations.where()
    running = operations.start("drain_node", node="pve1", drain_concurrency=1)
    deadline = time.monotonic() + 60
    while not any("/migrate" in line for line in operations.ansible.writes()):
        assert time.monotonic() < deadline, "nothing was moved"
        time.sleep(0.05)
    running._process.kill()
    with pytest.raises(AssertionError):
        running.wait().succeeded()
    operations.succeeds("drain_node", node="pve1")
    where = operations.where()
    assert {name: status for name, (_node, status) in where.items()} == {
        name: status for name, (_node, status) in before.items()
    }
    assert "pve1" not in [node for node, _status in where.values()]
    assert operations.succeeds("drain_node", node="pve1").changed == 0
    operations.succeeds("drain_node", node="pve1", back=True)
    assert operations.where() == before


def test_a_node_that_is_offline_or_not_named(operations: Operations) -> None:
    operations.have(DRAINED["web-1"])
    operations.refused("drain_node", "-e node=pve2")
    operations.ansible.simulator.fault("set_node_offline", "pve1")
    ran = operations.refused("drain_node", "pve1 is offline", node="pve1")
    failure = ran.result("Look at what can be moved")["failure"]
    assert (failure["code"], failure["details"]["containers"]) == ("node_offline", [{"vmid": 201, "hostname": "web-1"}])


# ------------------------------------------------------------------------------------ snapshot.yml, rollback.yml


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ({"workload": "web"}, ["web-1", "web-2"]),
        ({"tag": "lxcri"}, ["web-1", "web-2", "db-1"]),
        ({"vmids": "201,203"}, ["web-1", "db-1"]),
        ({"vmids": [201, 204], "workload": "web"}, ["web-1"]),
        ({"pool": "prod"}, ["api-2"]),
    ],
)
def test_snapshots_by_selection(operations: Operations, chosen: dict[str, t.Any], names: list[str]) -> None:
    operations.have(*DRAINED.values(), {"vmid": 205, "name": "api-2", "pool": "prod"})
    operations.have({"vmid": 206, "name": "base", "template": True, "config": {"tags": "lxcri"}})
    assert operations.succeeds("snapshot", "--check", snapshot_name="before", **chosen).changed == 1
    ran = operations.succeeds("snapshot", snapshot_name="before", **chosen)
    assert [entry["hostname"] for entry in ran.result("Take a snapshot of each")["containers"]] == names
    assert operations.succeeds("snapshot", snapshot_name="before", **chosen).changed == 0


def test_a_rollback_says_what_would_be_lost_and_wants_to_be_told(operations: Operations) -> None:
    operations.have(DRAINED["web-1"])
    chosen = {"workload": "web", "snapshot_name": "before"}
    operations.succeeds("snapshot", snapshot_description="Before 2.0", **chosen)
    operations.refused("rollback", "Run again with -e lose=true", **chosen)
    check = operations.succeeds("rollback", "--check", **chosen)
    assert "web-1 (201): rollback" in check.stdout
    operations.succeeds("snapshot", workload="web", snapshot_name="later")
    operations.refused("rollback", "would have to remove the snapshots that are newer: later", lose=True, **chosen)
    operations.succeeds("rollback", lose=True, remove_newer=True, **chosen)
    snapshots = operations.succeeds("snapshot", "--check", **chosen).result("Take a snapshot of each")
    assert [entry["name"] for entry in snapshots["containers"][0]["snapshots"]] == ["before"]


def test_nothing_is_done_without_a_selection(operations: Operations) -> None:
    operations.have(DRAINED["web-1"])
    operations.refused("snapshot", "-e workload=web")
    operations.refused("snapshot", "There is no such container", workload="nothing")
    operations.refused("rollback", "-e snapshot_name=", workload="web")
    operations.refused("backup", "-e backup_storage=", workload="web")


# ----------------------------------------------------------------------------------------------------- backup.yml


def test_backups_by_selection(operations: Operations) -> None:
    operations.have(*DRAINED.values())
    chosen = {"workload": "web", "backup_storage": "local"}
    operations.ansible.writes()
    assert operations.succeeds("backup", "--check", **chosen).changed == 1
    assert operations.ansible.writes() == []
    ran = operations.succeeds("backup", backup_mode="stop", backup_notes="Weekly", backup_protected=True, **chosen)
    made = ran.result("Back each up")["containers"]
    assert [entry["hostname"] for entry in made] == ["web-1", "web-2"]
    again = operations.succeeds("backup", backup_max_age="1d", **chosen)
    assert again.changed == 0
    assert all(f"{entry['hostname']} ({entry['vmid']}): {entry['volume']}" in again.stdout for entry in made)


# ------------------------------------------------------------------------------------------------------- site.yml

OBJECT = "lxcri.proxmox.pve_object"
WORKLOAD = {"name": "web", "kind": "deployment", "container": NEW}
OBJECTS = [
    {"kind": "pool", "object": {"poolid": "shop", "comment": "The shop"}},
    {"kind": "storage", "objects": [{"storage": "nas", "type": "dir", "path": "/srv/nas", "content": ["backup"]}]},
]


def test_the_parts_of_the_site_run_by_themselves_and_only_with_their_variables(operations: Operations) -> None:
    operations.ansible.writes()
    assert operations.succeeds("site").changed == 0
    assert operations.ansible.writes() == []
    operations.variables = {"cluster_objects": OBJECTS, "workload_list": [WORKLOAD]}
    assert operations.succeeds("site", "--check").changed == 2
    assert operations.succeeds("site", "--tags", "objects").changed == 1
    assert operations.where() == {}
    assert operations.succeeds("site", "--tags", "workloads").changed == 1
    assert list(operations.where()) == ["web-1"]
    assert operations.succeeds("site").changed == 0


def test_the_site_prepares_nodes_first(operations: Operations, nodes: Nodes, tmp_path: Path) -> None:
    """What is installed, and what is done to ZFS, is in tests/lab."""
    secrets = tmp_path / "identities.yml"
    operations.nodes["pve1"] = {
        **nodes.ssh,
        "ansible_host": nodes.pve1.address,
        "ansible_user": "root",
        "ansible_pipelining": True,
        "node_packages": ["coreutils"],
        "node_subids": [{"start": 900000000, "count": 65536}],
        "node_network_interfaces": [{"iface": "vmbr7", "type": "bridge", "cidr": "198.51.100.1/24"}],
        "node_storages": [{"storage": "nas", "type": "dir", "path": "/srv/nas", "content": ["backup"]}],
        "node_templates": [{"storage": "local", "template": "debian-13-standard"}],
        "node_identities": [{"purpose": "monitor"}],
        "node_identities_file": str(secrets),
    }
    operations.variables = {"cluster_objects": OBJECTS[:1], "workload_list": [WORKLOAD]}
    operations.ansible.writes()
    check = operations.succeeds("site", "--check", "--diff", "--tags", "node")
    assert (operations.ansible.writes(), secrets.exists()) == ([], False)
    assert "900000000" not in nodes.read(nodes.pve1, "/etc/subuid")
    ran = operations.succeeds("site", "--tags", "node")
    assert "root:900000000:65536\n" in nodes.read(nodes.pve1, "/etc/subuid")
    assert "lxcri_monitor_token_secret" in secrets.read_text(encoding="utf-8")
    writes = operations.ansible.writes()
    assert [line for line in writes if not line.startswith(("POST /access/", "PUT /access/"))] == [
        "POST /nodes/pve1/network",
        "POST /storage",
        "POST /nodes/pve1/aplinfo",
    ]
    assert ran.changed == check.changed == 10
    # With all the rest, there is nothing to be done to the node any more.
    whole = operations.succeeds("site")
    assert re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", whole.stdout, re.MULTILINE) == [
        ("cluster", "2"),
        ("pve1", "0"),
    ]
    assert list(operations.where()) == ["web-1"]


def test_the_site_passes_on_what_a_list_of_objects_says(operations: Operations) -> None:
    vnets = {"kind": "sdn_vnet", "owner": "gitops", "exclusive": True, "scope": {}, "timeout": 120}
    server = {"id": "m1", "type": "influxdb", "server": "10.0.0.9", "port": 8086, "token": "hunter2-of-influx"}
    operations.variables = {
        "cluster_objects": [
            {"kind": "sdn_zone", "object": {"zone": "lab", "type": "simple", "ipam": "pve"}, "apply": False},
            {**vnets, "objects": [{"vnet": "web", "zone": "lab"}]},
            {"kind": "firewall_rule", "scope": {"node": "pve2"}, "object": {"type": "in", "action": "DROP"}},
            {"kind": "metric_server", "object": server, "update_secrets": "always"},
        ]
    }
    operations.ansible.writes()
    operations.succeeds("site", "--tags", "objects")
    assert operations.ansible.writes() == [
        "POST /cluster/sdn/zones",
        "POST /cluster/sdn/vnets",
        "PUT /cluster/sdn",
        "POST /nodes/pve2/firewall/rules",
        "POST /cluster/metrics/server/m1",
    ]
    assert operations.succeeds("site", "--tags", "objects").changed == 1
    assert operations.ansible.writes() == ["PUT /cluster/metrics/server/m1"]
    operations.variables = {
        "cluster_objects": [
            {**vnets, "objects": []},
            {"kind": "metric_server", "object": {"id": "m1"}, "state": "absent"},
        ]
    }
    operations.succeeds("site", "--tags", "objects")
    assert operations.ansible.writes() == [
        "DELETE /cluster/sdn/vnets/web",
        "PUT /cluster/sdn",
        "DELETE /cluster/metrics/server/m1",
    ]


def test_the_site_passes_on_every_option_of_an_object() -> None:
    site = yaml.safe_load((ROOT / "playbooks/site.yml").read_text(encoding="utf-8"))
    [passed] = [task[OBJECT] for play in site for task in play.get("tasks", []) if OBJECT in task]
    assert set(passed) == set(yaml.safe_load(pve_object.DOCUMENTATION)["options"])


def test_the_site_makes_no_token_whose_secret_would_be_lost(operations: Operations) -> None:
    user = {"kind": "user", "object": {"userid": "ci@pve"}}
    token = {"kind": "token", "object": {"userid": "ci@pve", "tokenid": "deploy"}}
    operations.variables = {"cluster_objects": [user, token]}
    operations.refused("site", "node_identities", "--tags", "objects")
    operations.variables = {"cluster_objects": [user, {**token, "state": "absent"}]}
    assert operations.succeeds("site", "--tags", "objects").changed == 1


def test_the_site_removes_tokens(operations: Operations) -> None:
    made = [
        task("User", "pve_object", {"kind": "user", "object": {"userid": "ci@pve"}}),
        *(
            task("Token", "pve_object", {"kind": "token", "object": {"userid": "ci@pve", "tokenid": name}, **owned})
            for name, owned in (("mine", {"owner": "gitops"}), ("theirs", {}), ("old", {}))
        ),
    ]
    operations.ansible.succeeds(made)
    operations.ansible.writes()
    operations.variables = {
        "cluster_objects": [
            {"kind": "token", "owner": "gitops", "exclusive": True, "objects": []},
            {"kind": "token", "state": "absent", "objects": [{"userid": "ci@pve", "tokenid": "old"}]},
        ]
    }
    operations.succeeds("site", "--tags", "objects")
    assert operations.ansible.writes() == [
        "DELETE /access/users/ci@pve/token/mine",
        "DELETE /access/users/ci@pve/token/old",
    ]
    declared = {"owner": "gitops", "exclusive": True, "objects": [{"userid": "ci@pve", "tokenid": "theirs"}]}
    operations.variables = {"cluster_objects": [{"kind": "token", **declared}]}
    operations.refused("site", "node_identities", "--tags", "objects")


# ----------------------------------------------------------------------------------------------------- report.yml

HOSTILE = '<script>alert("1")</script> & {{ 7 * 7 }} ]]> <!-- {% raw %}'


def cells(page: ElementTree.Element, label: str) -> list[list[str]]:
    """The rows of a table, as text."""
    [region] = [node for node in page.iter("div") if node.get("aria-label") == label]
    return [["".join(cell.itertext()) for cell in row] for row in region.iter("tr")][1:]


def tiles(page: ElementTree.Element) -> dict[str, str]:
    """The figures at the top."""
    found = {}
    for tile in page.iter("li"):
        if "tile" in str(tile.get("class")):
            spans = ["".join(span.itertext()) for span in tile.findall("span")]
            found[spans[1]] = spans[0]
    return found


def test_the_report_says_what_the_api_says(operations: Operations, tmp_path: Path) -> None:
    operations.variables = {"workload_list": [{**WORKLOAD, "replicas": 2}]}
    operations.succeeds("site")
    operations.have(*list(DRAINED.values())[2:], {"vmid": 300, "name": "base", "template": True})
    operations.have({"vmid": 301, "name": "odd", "config": {"description": HOSTILE + "\n"}})
    operations.succeeds("snapshot", workload="web", snapshot_name="before")
    operations.variables["workload_list"][0]["container"] = {**WORKLOAD["container"], "memory": 512}
    operations.ansible.writes()
    target = tmp_path / "fleet.html"
    ran = operations.succeeds("report", report_file=str(target), report_title="The <fleet> & more")
    assert operations.ansible.writes() == []
    # The page, and not what it says.
    assert ran.changed == 1
    text = target.read_text(encoding="utf-8")
    assert "<script" not in text
    assert not re.search(r"(src|href)=|url\(|@import", text)
    page = ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))
    assert "".join(node.text or "" for node in page.iter("h1")) == "The <fleet> & more"
    containers = {entry["hostname"]: entry for entry in ran.result("Read the containers")["containers"]}
    cluster = ran.result("Read the nodes, storages and backups")
    shown = {row[0]: row for row in cells(page, "Containers") if len(row) > 1}
    assert {name.partition("<")[0] for name in shown} == set(containers)
    for name, entry in containers.items():
        row = next(row for label, row in shown.items() if label.partition("<")[0] == name)
        assert (row[1], row[2]) == (str(entry["vmid"]), "template" if entry["template"] else entry["status"])
    assert any(HOSTILE in name for name in shown)
    assert [row[0] for row in cells(page, "Nodes")] == [node["node"] for node in cluster["nodes"]]
    assert [(row[0], row[1]) for row in cells(page, "Storages")] == [
        (storage["storage"], storage["node"]) for storage in cluster["storages"]
    ]
    live = [entry for entry in containers.values() if not entry["template"]]
    assert tiles(page) == {
        "nodes online": "3 of 3",
        "containers running": f"{sum(entry['status'] == 'running' for entry in live)} of {len(live)}",
        "snapshots": "2",
        "without a recent backup": str(len(live)),
        "containers not as declared": "2",
    }
    assert [row[2:5] for row in cells(page, "Drift")] == [["memory", "256", "512"]] * 2


def test_a_report_without_a_declaration_and_with_a_wrong_one(operations: Operations, tmp_path: Path) -> None:
    target = tmp_path / "fleet.html"
    operations.succeeds("report", report_file=str(target))
    assert "Nothing is declared for this cluster." in target.read_text(encoding="utf-8")
    operations.variables = {"workload_list": [{**WORKLOAD, "container": {"memroy": 5}}]}
    ran = operations.run("report", report_file=str(target))
    assert ran.status == 0, ran.stdout
    assert "memroy" in target.read_text(encoding="utf-8")
