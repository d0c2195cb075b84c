# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests as hosts: names, variables and groups."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.guests import has_agent
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.inventory import (
    first_address,
    group_names,
    host_names,
    host_variables,
    workload_of,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.workload import Workload
from hypothesis import given
from hypothesis import strategies as st


def guest(vmid: int, hostname: str, **more: t.Any) -> dict[str, t.Any]:
    """A guest as it is read."""
    known = {"vmtype": "lxc", "node": "pve1", "status": "running", "pool": None, "tags": [], "lock": None}
    return {**known, "vmid": vmid, "hostname": hostname, **more}


@pytest.mark.parametrize(
    ("naming", "names"),
    [
        ("name", {201: "web.201", 202: "web.202", 203: "db", 204: "web.204"}),
        ("name.vmid", {201: "web.201", 202: "web.202", 203: "db.203", 204: "web.204.204"}),
        ("vmid", {201: "201", 202: "202", 203: "203", 204: "204"}),
    ],
)
def test_names(naming: str, names: dict[int, str]) -> None:
    guests = [guest(201, "web"), guest(202, "web"), guest(203, "db"), guest(204, "web.204")]
    assert host_names(guests, naming) == names


def test_a_guest_that_is_called_like_a_name_that_is_made() -> None:
    assert host_names([guest(201, "web"), guest(202, "web"), guest(203, "web.201")], "name") == {
        201: "web.201.201",
        202: "web.202",
        203: "web.201",
    }


@given(
    st.dictionaries(st.integers(100, 120), st.sampled_from(["a", "b", "a.100", "a.101", "a.100.100", "100"])),
    st.sampled_from(["name", "name.vmid", "vmid"]),
)
def test_no_two_have_the_same_name_and_the_order_does_not_matter(table: dict[int, str], naming: str) -> None:
    guests = [guest(vmid, name) for vmid, name in table.items()]
    names = host_names(guests, naming)
    assert names.keys() == table.keys()
    assert len(set(names.values())) == len(names)
    assert host_names(guests[::-1], naming) == names


def test_variables() -> None:
    addresses = [{"interface": "eth0", "address": "192.0.2.10/24", "family": "inet", "hwaddr": "BC:24:11:00:00:01"}]
    host = guest(201, "web-1", tags=["lxcri", "lxcri.web"], config={"memory": 512}, interfaces=[], addresses=addresses)
    assert host_variables(host) == {
        "proxmox_vmid": 201,
        "proxmox_vmtype": "lxc",
        "proxmox_name": "web-1",
        "proxmox_node": "pve1",
        "proxmox_status": "running",
        "proxmox_pool": None,
        "proxmox_tags": ["lxcri", "lxcri.web"],
        "proxmox_lock": None,
        "proxmox_workload": "web",
        "proxmox_workload_owner": "lxcri",
        "proxmox_config": {"memory": 512},
        "proxmox_interfaces": [],
        "proxmox_addresses": addresses,
        "proxmox_address": "192.0.2.10",
    }


def test_variables_of_what_was_not_read() -> None:
    assert (
        not {"proxmox_config", "proxmox_interfaces", "proxmox_addresses", "proxmox_address"}
        & host_variables(guest(201, "web-1")).keys()
    )


def test_groups() -> None:
    assert group_names(guest(201, "web-1", pool="prod", tags=["a-b", "lxcri", "lxcri.web"]), "p_") == [
        "p_lxc",
        "p_node_pve1",
        "p_status_running",
        "p_pool_prod",
        "p_tag_a-b",
        "p_tag_lxcri",
        "p_tag_lxcri.web",
        "p_workload_lxcri_web",
    ]


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ([], None),
        (["web"], None),
        (["lxcri.web"], None),
        (["lxcri", "lxcri.web"], ("lxcri", "web")),
        (["lxcri", "lxcri."], None),
        (["prod", "shop", "shop.db", "x.y"], ("shop", "db")),
    ],
)
def test_the_workload_of_a_container(tags: list[str], found: tuple[str, str] | None) -> None:
    assert workload_of(tags) == found


def test_a_workload_is_known_by_the_tag_that_it_gives() -> None:
    assert workload_of(["lxcri", Workload("web", "deployment").tag("lxcri")]) == ("lxcri", "web")


@pytest.mark.parametrize(
    ("addresses", "first"),
    [
        ([], None),
        ([("2001:db8::1/64", "inet6")], "2001:db8::1"),
        ([("2001:db8::1/64", "inet6"), ("192.0.2.1/24", "inet"), ("192.0.2.2/24", "inet")], "192.0.2.1"),
    ],
)
def test_the_first_address(addresses: list[tuple[str, str]], first: str | None) -> None:
    assert first_address([{"address": address, "family": family} for address, family in addresses]) == first


@pytest.mark.parametrize("agent", ["1", 1, "enabled=1,fstrim_cloned_disks=1", "1,type=isa"])
def test_a_machine_with_an_agent(agent: t.Any) -> None:
    assert has_agent({"agent": agent})


@pytest.mark.parametrize("config", [{}, {"agent": "0"}, {"agent": "enabled=0"}])
def test_a_machine_without_an_agent(config: dict[str, t.Any]) -> None:
    assert not has_agent(config)
