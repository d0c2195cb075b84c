# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an inventory asks of the API."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.options import api_options, credentials
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.guests import CONNECTIONS, Guest, Reader
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator

RESOURCES = "GET /cluster/resources"


def reader(cluster: Simulator, **options: t.Any) -> Reader:
    """What reads, as the inventory plugin makes it."""
    defaults = {name: option.get("default") for name, option in api_options().items()}
    return Reader(Client(credentials({**defaults, **cluster.options, **options})))


@pytest.fixture
def fleet(cluster: Simulator) -> Simulator:
    """Three nodes with containers and virtual machines."""
    net = "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:02:01,ip=192.0.2.10/24,type=veth"
    cluster.call("add_ct", 201, name="web", status="running", config={"net0": net, "tags": "prod;web"})
    cluster.call("add_ct", 202, name="web", node="pve2")
    cluster.call("add_ct", 203, name="db", node="pve3", status="running")
    cluster.call("add_ct", 204, name="golden", template=True)
    cluster.call("add_vm", 100, "desktop", node="pve1", status="running", config={"agent": "1"})
    cluster.call(lambda simulated: setattr(simulated.vm(100), "agent", {}))
    cluster.call("add_vm", 101, "silent", node="pve2", status="running", config={"agent": "enabled=1"})
    cluster.call("add_vm", 102, "plain", node="pve2", status="running", config={})
    cluster.call("add_vm", 103, "off", node="pve2", status="stopped", config={"agent": "1"})
    cluster.requests.clear()
    return cluster


def by_id(guests: t.Sequence[Guest]) -> dict[int, Guest]:
    """The guests by their id."""
    return {guest["vmid"]: guest for guest in guests}


def test_containers_are_one_request(fleet: Simulator) -> None:
    guests, warnings = reader(fleet).guests(["lxc"])
    assert [guest["vmid"] for guest in guests] == [201, 202, 203]
    assert {key: guests[0][key] for key in ("hostname", "node", "status", "tags", "vmtype")} == {
        "hostname": "web",
        "node": "pve1",
        "status": "running",
        "tags": ["prod", "web"],
        "vmtype": "lxc",
    }
    assert warnings == []
    assert fleet.requests.lines == [RESOURCES]


def test_virtual_machines_are_in_the_same_one(fleet: Simulator) -> None:
    guests, _warnings = reader(fleet).guests(["lxc", "qemu"])
    assert [(guest["vmid"], guest["vmtype"]) for guest in guests] == [
        *((vmid, "qemu") for vmid in (100, 101, 102, 103)),
        *((vmid, "lxc") for vmid in (201, 202, 203)),
    ]
    assert fleet.requests.lines == [RESOURCES]


def test_facts_are_read_of_the_given_ones_only_and_addresses_of_those_that_run(fleet: Simulator) -> None:
    session = reader(fleet)
    guests = [guest for guest in session.guests(["lxc"])[0] if guest["hostname"] == "web"]
    fleet.requests.clear()
    read = by_id(session.gather(guests, ["config", "interfaces"]))
    assert sorted(fleet.requests.lines) == sorted(
        [
            "GET /nodes/pve1/lxc/201/pending",
            "GET /nodes/pve1/lxc/201/interfaces",
            "GET /nodes/pve2/lxc/202/pending",
        ]
    )
    assert read[201]["config"]["tags"] == "prod;web"
    assert [address["address"] for address in read[201]["addresses"]] == ["192.0.2.10/24"]
    assert read[202]["config"]["hostname"] == "web"
    assert "interfaces" not in read[202]
    assert read[201]["vmtype"] == "lxc"


def test_interfaces_alone_ask_nothing_of_what_is_stopped(fleet: Simulator) -> None:
    session = reader(fleet)
    guests = session.guests(["lxc"])[0]
    fleet.requests.clear()
    read = by_id(session.gather(guests, ["interfaces"]))
    assert sorted(fleet.requests.lines) == sorted(
        ["GET /nodes/pve1/lxc/201/interfaces", "GET /nodes/pve3/lxc/203/interfaces"]
    )
    assert "config" not in read[201]
    assert read[202] == by_id(guests)[202]


@pytest.mark.parametrize("connections", [3, CONNECTIONS])
def test_many_are_read_over_so_many_connections(cluster: Simulator, connections: int) -> None:
    for vmid in range(300, 360):
        cluster.call("add_ct", vmid, name=f"ct-{vmid}", node=f"pve{vmid % 3 + 1}", status="running")
    cluster.call("slow_network", 0.02)
    session = Reader(Client(reader(cluster)._client.credentials, connections=connections))
    cluster.requests.clear()
    read = session.gather(session.guests(["lxc"])[0], ["interfaces"])
    assert len([guest for guest in read if "addresses" in guest]) == 60
    assert len(cluster.requests.lines) == 61
    assert cluster.requests.connections == connections


def test_nothing_wanted_asks_nothing(fleet: Simulator) -> None:
    session = reader(fleet)
    guests = session.guests(["lxc"])[0]
    fleet.requests.clear()
    assert session.gather(guests, []) == guests
    assert fleet.requests.lines == []


def test_the_agents_of_virtual_machines(fleet: Simulator) -> None:
    session = reader(fleet)
    guests = session.guests(["qemu"])[0]
    fleet.requests.clear()
    read = by_id(session.gather(guests, ["interfaces"]))
    # Asked once, also where the agent is only said to be there.
    assert sorted(fleet.requests.lines) == sorted(
        [
            *(f"GET /nodes/{node}/qemu/{vmid}/config" for vmid, node in ((100, "pve1"), (101, "pve2"), (102, "pve2"))),
            "GET /nodes/pve1/qemu/100/agent/network-get-interfaces",
            "GET /nodes/pve2/qemu/101/agent/network-get-interfaces",
        ]
    )
    assert [address["address"] for address in read[100]["addresses"]] == ["192.0.2.10/24"]
    assert read[101]["addresses"] == read[102]["addresses"] == []
    assert "addresses" not in read[103]


def test_an_agent_that_may_not_be_asked_is_an_error(fleet: Simulator) -> None:
    session = reader(fleet)
    guests = session.guests(["qemu"])[0]
    fleet.call("fail", "GET", "/nodes/pve1/qemu/100/agent/network-get-interfaces", 403, "Permission check failed")
    with pytest.raises(Failure) as caught:
        session.gather(guests, ["interfaces"])
    assert caught.value.code == "permission_denied"


def test_a_guest_that_has_gone_meanwhile_is_left_out(fleet: Simulator) -> None:
    session = reader(fleet)
    guests = session.guests(["lxc", "qemu"])[0]

    def remove(simulated: t.Any) -> None:
        simulated.cts[:] = [ct for ct in simulated.cts if ct.vmid != 203]
        simulated.vms[:] = [vm for vm in simulated.vms if vm.vmid != 100]

    fleet.call(remove)
    read = by_id(session.gather(guests, ["config"]))
    assert sorted(read) == [101, 102, 103, 201, 202]


def test_a_node_that_is_offline_is_asked_nothing(fleet: Simulator) -> None:
    fleet.call("add_vm", 104, "far", node="pve3", status="running", config={"agent": "1"})
    fleet.call("set_node_offline", "pve3")
    session = reader(fleet)
    guests, warnings = session.guests(["lxc", "qemu"])
    assert [("pve3" in warning, vmid in warning) for vmid, warning in zip(("104", "203"), warnings)] == [
        (True, True)
    ] * 2
    fleet.requests.clear()
    read = by_id(session.gather(guests, ["config", "interfaces"]))
    assert not [line for line in fleet.requests.lines if "pve3" in line]
    for vmid in (104, 203):
        assert read[vmid]["status"] == "unknown"
        assert "config" not in read[vmid]


def test_a_container_that_cannot_be_read_is_an_error(fleet: Simulator) -> None:
    session = reader(fleet)
    guests = session.guests(["lxc"])[0]
    fleet.call("fail", "GET", "/nodes/pve3/lxc/203/interfaces", 500, "it is broken")
    with pytest.raises(Failure, match=r"db: .*it is broken"):
        session.gather(guests, ["interfaces"])


def forget(simulated: t.Any, vmid: int) -> None:
    """The statistics do not know a container yet."""
    for table in (simulated._known, simulated._coming, simulated._last):
        table.pop(vmid, None)


@pytest.mark.parametrize("cluster", [{"lag": 10}], indirect=True)
def test_a_container_that_has_just_been_made_has_its_name(cluster: Simulator) -> None:
    cluster.call("add_ct", 201, name="web", status="running")
    cluster.call(forget, 201)
    guests, _warnings = reader(cluster).guests(["lxc"])
    assert [(guest["hostname"], guest["status"]) for guest in guests] == [("web", "running")]


@pytest.mark.parametrize("vmtypes", [["lxc", "qemu"], ["lxc"], ["qemu"]])
def test_an_identity_that_may_see_nothing_is_an_error(fleet: Simulator, vmtypes: list[str]) -> None:
    fleet.call("add_user", "blind@pve")
    fleet.call("add_token", "blind@pve!none", "secret")
    session = reader(fleet, api_user="blind@pve", api_token_id="none", api_token_secret="secret")
    with pytest.raises(Failure) as caught:
        session.guests(vmtypes)
    assert caught.value.code == "permission_denied"
    assert "VM.Audit" in caught.value.message
