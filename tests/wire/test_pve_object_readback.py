# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Proxmox reads back otherwise than it was sent, or sets by itself: the second run does nothing."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator
from ansible_collections.lxcri.proxmox.tests.wire.objects import Pve
from ansible_collections.lxcri.proxmox.tests.wire.support import on_request, reset

ZONE = {"zone": "lab", "type": "simple"}
SSH: dict[str, t.Any] = {"type": "in", "action": "ACCEPT", "macro": "ssh", "enable": True}
DROP: dict[str, t.Any] = {"type": "in", "action": "DROP", "enable": True}


@pytest.fixture
def pve(cluster: Simulator) -> Pve:
    """Runs pve_object against a fresh cluster with two containers."""
    for vmid in (101, 102):
        cluster.call("add_ct", vmid, name=f"ct{vmid}", node="pve1")
    return Pve(cluster)


def rules(pve: Pve) -> list[dict[str, t.Any]]:
    return t.cast("list[dict[str, t.Any]]", pve.simulated._fw()["cluster"]["rules"])


def digest(run: t.Any) -> dict[str, str]:
    """The digest that the first write has carried."""
    return {"digest": run.writes[0][2]["digest"]}


# ----------------------------------------------------------------------------------------- users, storages, backups


def test_the_mark_of_second_factors_stays(pve: Pve) -> None:
    for mark in ("x", "x!oath"):
        pve("user", {"userid": "ci@pve"})
        pve.simulated.user_cfg["ci@pve"]["keys"] = mark
        assert not pve("user", {"userid": "ci@pve"}).changed
        run = pve.converge("user", {"userid": "ci@pve", "comment": "Robot"})
        assert [set(params) for _method, _path, params in run.writes] == [{"comment"}]
        assert pve.simulated.user_cfg["ci@pve"]["keys"] == mark
    assert pve.converge("user", {"userid": "ci@pve", "keys": "cccccchlhibb"}).changed
    assert pve.converge("user", {"userid": "ci@pve"}).writes[0][2]["keys"] == ""


@pytest.mark.parametrize(
    ("kind", "declared"),
    [
        ("user", {"userid": "ci@pve", "comment": "A robot \n", "firstname": " Ci"}),
        ("group", {"groupid": "ops", "comment": " Operators "}),
        ("ha_resource", {"sid": "ct:101", "comment": "Web\n"}),
        ("firewall_group", {"group": "Web", "comment": " Web servers "}),
        ("storage", {"storage": "backup", "type": "dir", "path": "/srv//backup/", "content": "backup"}),
        ("storage", {"storage": "fast", "type": "zfspool", "pool": "rpool/fast", "content": "rootdir"}),
        (
            "storage",
            {"storage": "far", "type": "zfs", "pool": "a", "portal": "10.0.0.9", "target": "iqn.x", "blocksize": "4k"}
            | {"iscsiprovider": "LIO"},
        ),
        (
            "notification_matcher",
            {"name": "m1", "match-severity": "error, warning", "match-field": ["exact:type=vzdump, fencing"]},
        ),
        ("network_interface", {"node": "pve1", "iface": "vmbr1", "type": "bridge", "comments": "a  \n\n b\n\n"}),
    ],
)
def test_blanks_and_what_proxmox_adds_are_no_difference(pve: Pve, kind: str, declared: dict[str, t.Any]) -> None:
    assert pve.converge(kind, declared).changed


def test_an_interface_that_is_in_a_bond_is_started(pve: Pve) -> None:
    bond = {"iface": "bond0", "type": "bond", "slaves": ["eno2"], "autostart": True}
    pve.converge("network_interface", bond, node="pve1")
    assert not pve("network_interface", {"iface": "eno2", "type": "eth"}, node="pve1").changed


def test_guests_change_places_between_pools(pve: Pve) -> None:
    pve("pool", {"poolid": "a", "vms": [101]}, {"poolid": "b", "vms": [102]})
    run = pve.converge("pool", {"poolid": "a", "vms": [102]}, {"poolid": "b", "vms": [101]})
    assert [(params["poolid"], params["vms"], params.get("delete")) for _method, _path, params in run.writes] == [
        *(("a", "101", "1"), ("b", "102", "1")),
        *(("a", "102", None), ("b", "101", None)),
    ]


# -------------------------------------------------------------------------------------------------------------- SDN


def test_a_zone_of_names_is_sent_with_its_server(pve: Pve) -> None:
    pve("sdn_dns", {"dns": "pdns", "type": "powerdns", "url": "http://a/api", "key": "hunter2-of-dns"})
    pve("sdn_zone", {**ZONE, "dns": "pdns", "dnszone": "a.example"})
    run = pve.converge("sdn_zone", {**ZONE, "dns": "pdns", "dnszone": "b.example"})
    assert run.writes[0] == ("PUT", "/cluster/sdn/zones/lab", {"dns": "pdns", "dnszone": "b.example"})


def test_what_an_exclusive_owner_has_removed_is_applied_after_an_interruption(pve: Pve, impatient: None) -> None:
    pve("sdn_zone", ZONE)
    owned = {"owner": "gitops", "exclusive": True}
    pve("sdn_vnet", {"vnet": "web", "zone": "lab"}, {"vnet": "db", "zone": "lab"}, **owned)
    on_request(pve.cluster, "PUT", "/cluster/sdn", reset)
    assert pve("sdn_vnet", {"vnet": "web", "zone": "lab"}, **owned).code == "unreachable"
    run = pve.converge("sdn_vnet", {"vnet": "web", "zone": "lab"}, **owned)
    assert [path for _method, path, _params in run.writes] == ["/cluster/sdn"]
    assert list(pve.simulated.sdn_running["vnets"]) == ["web"]


def test_an_interface_that_an_owner_has_removed_is_unconfigured_after_an_interruption(
    pve: Pve, impatient: None
) -> None:
    one, other = ({"iface": name, "type": "bridge", "comments": "Guests"} for name in ("vmbr1", "vmbr2"))
    owned = {"owner": "gitops", "exclusive": True, "node": "pve1"}
    pve("network_interface", one, other, **owned)
    on_request(pve.cluster, "PUT", "/nodes/pve1/network", reset)
    assert pve("network_interface", one, **owned).code == "unreachable"
    run = pve.converge("network_interface", one, **owned)
    assert [f"{method} {path}" for method, path, _params in run.writes] == ["PUT /nodes/pve1/network"]
    assert "vmbr2" not in pve.simulated.interfaces["pve1"]


# --------------------------------------------------------------------------------------------------------- firewall


def test_names_of_the_firewall_are_lower_case(pve: Pve) -> None:
    assert pve.converge("firewall_ipset", {"name": "Trusted", "cidrs": ["10.0.0.0/8"]}).changed
    assert pve.converge("firewall_group", {"group": "Web"}).changed
    assert pve.converge("firewall_rule", SSH, scope={"group": "Web"}).changed
    assert pve.converge("firewall_rule", {"type": "group", "action": "Web", "enable": True}).changed
    assert sorted(pve.simulated._fw()["cluster"]["groups"]) == ["web"]


def test_entries_of_a_set_are_found_as_they_are_spelled(pve: Pve) -> None:
    pve("firewall_alias", {"name": "office", "cidr": "192.0.2.0/24"})
    pve("firewall_ipset", {"name": "trusted"})
    spelled = [{"cidr": "2001:DB8:0::/48"}, {"cidr": "2001:0db8::1"}, {"cidr": "dc/Office"}]
    pve.simulated._fw()["cluster"]["ipset"]["trusted"] = spelled
    same = ["2001:db8::/48", "2001:db8::1", "dc/OFFICE"]
    assert not pve("firewall_ipset", {"name": "trusted", "cidrs": same}).changed
    run = pve.converge("firewall_ipset", {"name": "trusted", "cidrs": [{"cidr": "2001:db8::1", "comment": "a"}]})
    base = "/cluster/firewall/ipset/trusted"
    assert [(method, path) for method, path, _params in run.writes] == [
        ("DELETE", f"{base}/2001:DB8:0::/48"),
        ("DELETE", f"{base}/dc/Office"),
        ("PUT", f"{base}/2001:0db8::1"),
    ]


def test_an_entry_that_is_odd_is_told_and_can_go(pve: Pve) -> None:
    pve("firewall_ipset", {"name": "trusted", "cidrs": ["10.0.0.1"]})
    pve.simulated._fw()["cluster"]["ipset"]["trusted"].append({"cidr": "0.0.0.0/0"})
    run = pve.converge("firewall_ipset", {"name": "trusted", "cidrs": ["10.0.0.1"]})
    assert run.writes == [("DELETE", "/cluster/firewall/ipset/trusted/0.0.0.0/0", {})]
    [diff] = run.result["diff"]
    assert [entry["cidr"] for entry in diff["before"]["cidrs"]] == ["0.0.0.0/0", "10.0.0.1"]


def test_a_rule_is_the_same_however_it_is_spelled(pve: Pve) -> None:
    web = {"type": "in", "action": "ACCEPT", "proto": "tcp", "dport": [443, 80], "source": ["10.0.0.9", "10.0.0.1"]}
    run = pve.converge("firewall_rule", web)
    assert (run.writes[0][2]["dport"], run.writes[0][2]["source"]) == ("443,80", "10.0.0.1,10.0.0.9")
    assert run.result["plan"][0]["key"] == "in ACCEPT tcp 443,80"
    assert run.result["objects"][0]["dport"] == ["443", "80"]
    assert not pve("firewall_rule", {**web, "dport": "80,443", "source": "10.0.0.1, 10.0.0.9", "comment": " "}).changed
    pve.converge("firewall_rule", {**SSH, "macro": "sSh"})
    assert not pve("firewall_rule", {**SSH, "macro": "SSH"}).changed
    assert len(rules(pve)) == 2


def test_a_rule_that_is_only_switched_is_the_same_rule(pve: Pve) -> None:
    pve("firewall_rule", SSH)
    run = pve.converge("firewall_rule", {**SSH, "enable": False})
    assert [set(params) for _method, _path, params in run.writes] == [{"enable", "digest"}]
    assert [rule["enable"] for rule in rules(pve)] == [0]


def test_a_new_rule_is_off_until_it_is_in_its_place(pve: Pve, impatient: None) -> None:
    pve("firewall_rule", SSH)
    on_request(pve.cluster, "PUT", "/cluster/firewall/rules/0", reset)
    run = pve("firewall_rule", SSH, DROP)
    assert run.code == "unreachable"
    assert [(rule["action"], rule["enable"]) for rule in rules(pve)] == [("DROP", 0), ("ACCEPT", 1)]
    run = pve.converge("firewall_rule", SSH, DROP)
    assert [(rule["action"], rule["enable"]) for rule in rules(pve)] == [("ACCEPT", 1), ("DROP", 1)]
    assert [(method, path, set(params)) for method, path, params in run.writes] == [
        ("PUT", "/cluster/firewall/rules/0", {"moveto", "digest"}),
        ("PUT", "/cluster/firewall/rules/1", {"enable", "digest"}),
    ]


def test_what_replaces_a_rule_is_there_before_it_goes(pve: Pve) -> None:
    owned = {"owner": "gitops", "exclusive": True}
    pve("firewall_rule", {**SSH, "comment": "old"}, **owned)
    run = pve.converge("firewall_rule", {**SSH, "source": "10.0.0.0/8", "comment": "new"}, **owned)
    assert [method for method, _path, _params in run.writes] == ["POST", "DELETE"]


def test_the_firewall_of_a_vnet(pve: Pve) -> None:
    web = {"scope": {"vnet": "web"}}
    forward = {"type": "forward", "action": "DROP", "enable": True}
    for kind, declared in (("firewall_options", {"enable": True}), ("firewall_rule", forward)):
        assert pve.check(kind, declared, **web).changed
        assert not pve(kind, declared, **web, state="absent").changed
    pve("sdn_zone", ZONE)
    pve("sdn_vnet", {"vnet": "web", "zone": "lab"})
    run = pve.converge("firewall_options", {"enable": True, "policy_forward": "DROP"}, **web)
    assert run.writes == [
        ("PUT", "/cluster/sdn/vnets/web/firewall/options", {"enable": "1", "policy_forward": "DROP"} | digest(run))
    ]
    assert pve.converge("firewall_options", {"enable": False}, **web).changed
    assert pve.converge("firewall_rule", forward, **web).writes[0][:2] == (
        "POST",
        "/cluster/sdn/vnets/web/firewall/rules",
    )
    assert pve.converge("firewall_rule", forward, **web, state="absent").changed
