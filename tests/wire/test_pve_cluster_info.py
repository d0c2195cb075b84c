# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every request of pve_cluster_info, as it arrives at the API."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.tests.simulator.cluster import GIB
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator
from ansible_collections.lxcri.proxmox.tests.wire.module_runner import run_module
from ansible_collections.lxcri.proxmox.tests.wire.support import RESOURCES, Run

CONTENTS = [f"GET /nodes/pve{number}/storage/local/content" for number in (1, 2, 3)]


class Info:
    """Runs pve_cluster_info against the cluster."""

    def __init__(self, cluster: Simulator) -> None:
        self.cluster = cluster

    def __call__(self, check_mode: bool = False, **options: t.Any) -> Run:
        self.cluster.requests.clear()
        given = {**self.cluster.options, **options}
        run = Run(run_module("pve_cluster_info", given, check_mode=check_mode), list(self.cluster.requests))
        assert {request.method for request in run.requests} <= {"GET"}
        return run


@pytest.fixture
def info(cluster: Simulator) -> Info:
    """Runs pve_cluster_info against a fresh cluster."""
    return Info(cluster)


def test_nodes_and_storages_cost_one_request(info: Info) -> None:
    info.cluster.cluster.node_usage = {"pve2": {"hastate": "maintenance", "mem": GIB, "maxmem": 4 * GIB}}
    info.cluster.cluster.storage_usage = {("pve1", "tank"): {"disk": GIB, "maxdisk": 2 * GIB}}
    info.cluster.call("add_ct", 201, node="pve2", name="web-1")
    info.cluster.call("add_vm", 300, "windows", node="pve2")
    info.cluster.call("set_node_offline", "pve3")
    run = info(check_mode=True)
    assert run.asked == [RESOURCES]
    assert [(node["node"], node["status"]) for node in run.result["nodes"]] == [
        ("pve1", "online"),
        ("pve2", "online"),
        ("pve3", "offline"),
    ]
    two = run.result["nodes"][1]
    assert (two["maintenance"], two["containers"], two["vms"], two["mem"], two["maxmem"]) == (True, 1, 1, GIB, 4 * GIB)
    assert run.result["nodes"][2]["mem"] is None
    [tank] = [entry for entry in run.result["storages"] if (entry["storage"], entry["node"]) == ("tank", "pve1")]
    assert tank == {
        "storage": "tank",
        "node": "pve1",
        "type": "zfspool",
        "shared": False,
        "content": ["rootdir"],
        "status": "available",
        "used": GIB,
        "total": 2 * GIB,
    }
    assert "backups" not in run.result


def test_the_backups_of_all_storages_newest_first(info: Info) -> None:
    shared = {"type": "nfs", "shared": 1, "content": "backup", "active": 1, "files": set()}
    info.cluster.cluster.storages["nas"] = shared
    for number, (storage, vmid) in enumerate((("nas", 201), ("nas", 202), ("local", 201))):
        entry = {"notes": "Weekly", "protected": 1} if vmid == 202 else {}
        info.cluster.call("store_backup", storage, {}, vmid, ctime=1_700_000_000 + number, **entry)
    run = info(gather=["backups"])
    assert run.asked[0] == RESOURCES
    assert sorted(run.asked[1:]) == sorted([*CONTENTS, "GET /nodes/pve1/storage/nas/content"])
    on_nas = [backup for backup in run.result["backups"] if backup["storage"] == "nas"]
    assert [(backup["vmid"], backup["node"], backup["type"]) for backup in on_nas] == [
        (202, None, "lxc"),
        (201, None, "lxc"),
    ]
    first = on_nas[0]
    assert (first["notes"], first["protected"], first["verified"], first["time"]) == (
        "Weekly",
        True,
        None,
        1_700_000_001,
    )
    assert first["volid"].startswith("nas:backup/vzdump-lxc-202-")
    assert run.result["backups"][0]["storage"] == "local"


def test_what_cannot_be_read_is_a_warning(info: Info, impatient: None) -> None:
    info.cluster.call("set_node_offline", "pve2")
    info.cluster.call("fail", "GET", "/nodes/pve3/storage/local/content", 500, "storage 'local' is not online")
    run = info(gather=["backups"])
    assert not run.result.get("failed")
    assert run.result["warnings"][0] == "The backups on local of pve2 could not be read: the node is offline."
    assert run.result["warnings"][1].startswith("The backups on local of pve3 could not be read (storage_unsuitable)")


def test_a_session_that_fails_is_a_failure(info: Info) -> None:
    run = info(api_token_secret="wrong")
    assert run.code == "authentication_failed"
