# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every field of every kind and type: kept as it is declared, no difference then, and one when it is left out."""

from __future__ import annotations

import json
import typing as t
from dataclasses import dataclass, field

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.fields import Field
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.kinds import Kind
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.table import KINDS
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator
from ansible_collections.lxcri.proxmox.tests.wire.objects import Pve

Object = dict[str, t.Any]

# How an object of a kind is called, and where it is.
NAMES: dict[str, Object] = {
    "user": {"userid": "ci@pve"},
    "group": {"groupid": "ops2"},
    "role": {"roleid": "Deploy"},
    "token": {"userid": "ada@pve", "tokenid": "deploy"},
    "realm": {"realm": "corp"},
    "pool": {"poolid": "shop"},
    "storage": {"storage": "store"},
    "backup_job": {"id": "nightly"},
    "replication_job": {"id": "101-0"},
    "ha_resource": {"sid": "ct:101"},
    "ha_rule": {"rule": "web"},
    "sdn_zone": {"zone": "zone1"},
    "sdn_vnet": {"vnet": "vnet1"},
    "sdn_subnet": {"vnet": "web", "subnet": "10.9.0.0/24"},
    "sdn_dns": {"dns": "dns2"},
    "sdn_ipam": {"ipam": "ipam2"},
    "firewall_rule": {},
    "firewall_alias": {"name": "office"},
    "firewall_ipset": {"name": "trusted"},
    "firewall_group": {"group": "group1"},
    "network_interface": {"node": "pve1", "iface": "vmbr7"},
    "metric_server": {"id": "m1"},
    "notification_target": {"name": "target1"},
    "notification_matcher": {"name": "matcher1"},
}
INTERFACES = {"eth": "eno2", "alias": "vmbr0:1", "bond": "bond0", "OVSBond": "bond1", "vlan": "vlan30"}
LEVELS = {"": {}, "node": {"node": "pve1"}, "vnet": {"vnet": "web"}, "node guest vmid": {"node": "pve1", "vmid": 101}}
# What has to be there.
BEFORE: dict[str, list[Object]] = {
    "group": [{"groupid": "ops"}],
    "user": [{"userid": "ada@pve"}],
    "sdn_dns": [{"dns": "pdns", "type": "powerdns", "url": "http://a/api", "key": "hunter2-of-dns"}],
    "sdn_zone": [{"zone": "lab", "type": "qinq", "tag": 5, "bridge": "vmbr0", "ipam": "pve"}],
    "sdn_vnet": [{"vnet": "web", "zone": "lab", "tag": 7}],
    "ha_resource": [{"sid": "ct:102"}],
    "firewall_ipset": [{"name": "set1"}],
}
# Values that the form of a field does not tell.
VALUES: dict[tuple[str, str], t.Any] = {
    ("backup_job", "mailto"): ["root", "ops@example.com"],
    ("backup_job", "pool"): "prod",
    ("backup_job", "storage"): "local",
    ("ha_rule", "resources"): ["ct:102"],
    ("firewall_rule", "action"): "DROP",
    ("firewall_rule", "iface"): "vmbr0",
    ("firewall_rule", "dest"): ["192.0.2.0/24"],
    ("firewall_rule", "source"): ["10.0.0.1", "10.0.0.2"],
    ("firewall_rule", "macro"): "SSH",
    ("firewall_rule", "proto"): "tcp",
    ("metric_server", "token"): "hunter2-of-influx",
    ("network_interface", "gateway"): "10.1.0.254",
    ("network_interface", "ovs_bridge"): "vmbr9",
    ("notification_matcher", "target"): ["mail-to-root"],
    ("notification_matcher", "match-severity"): ["error"],
    ("notification_matcher", "match-field"): ["exact:type=vzdump"],
    ("notification_matcher", "match-calendar"): ["8-12"],
    ("notification_target", "mailto-user"): ["root@pam"],
    ("notification_target", "body"): "eyJhIjogMX0=",
    ("pool", "storage"): ["tank"],
    ("pool", "vms"): ["101"],
    ("realm", "sync_attributes"): "email=mail",
    ("realm", "domain"): "example.com",
    ("realm", "groups-claim"): "groups",
    ("realm", "tfa"): {"type": "oath", "digits": 8},
    ("sdn_subnet", "dhcp-range"): [{"start-address": "10.9.0.10", "end-address": "10.9.0.20"}],
    ("sdn_subnet", "gateway"): "10.9.0.1",
    ("sdn_vnet", "alias"): "Web",
    ("sdn_vnet", "zone"): "lab",
    ("sdn_zone", "controller"): "evpn1",
    ("sdn_zone", "dns"): "pdns",
    ("sdn_zone", "reversedns"): "pdns",
    ("sdn_zone", "ipam"): "pve",
    ("sdn_zone", "secondary-controllers"): ["evpn2"],
    ("storage", "content"): None,
    ("storage", "encryption-key"): json.dumps({"data": "aHVudGVyMg==", "fingerprint": "ab:cd"}),
    ("storage", "fs-name"): "cephfs",
    ("storage", "is_mountpoint"): "yes",
    ("storage", "prune-backups"): {"keep-daily": 7},
    ("user", "password"): "hunter2-hunter2",
    ("user", "keys"): "cccccchlhibb",
}
# By the name of the format.
FORMS: dict[str, t.Any] = {
    "line": "text",
    "lines": "text",
    "acl-path": "/vms",
    "address": "server.example.com",
    "CIDRv4": "10.1.0.1/24",
    "CIDRv6": "2001:db8::1/64",
    "dns-name": "example.com",
    "email-opt": "ops@example.com",
    "email-or-username": "ops@example.com",
    "graphite-path": "pve.lab",
    "IPorCIDR": "192.0.2.0/24",
    "ip": "10.0.0.7",
    "ipv6": "2001:db8::fe",
    "ldap-simple-attr": "cn",
    "mac-addr": "BC:24:11:00:00:09",
    "pve-calendar-event": "mon..fri 02:30",
    "pve-dir-override": "some/where",
    "pve-fw-conntrack-helper": "ftp",
    "pve-fw-icmp-type-spec": "echo-request",
    "pve-fw-port-spec": "8000:8080",
    "pve-groupid": "ops",
    "pve-ha-node": "pve1:2",
    "pve-iface": "eno2",
    "pve-node": "pve2",
    "pve-priv": "VM.Audit",
    "pve-sdn-bgp-rt": "65000:1",
    "pve-sdn-fabric-id": "fab1",
    "pve-storage-directory": "/srv/somewhere",
    "pve-storage-id": "local",
    "pve-storage-options": "vers=4.2",
    "pve-storage-path": "/srv/some where",
    "pve-storage-portal-dns": "10.0.0.9:3260",
    "pve-storage-server": "nas.example.com",
    "pve-storage-vgname": "pve",
    "pve-storage-zfs-blocksize": "16k",
    "pve-vlan-id-or-range": "2-100",
    "pve-vmid": "101",
    "pve-volume-id": "san:lun1",
    "network": "10.9.0.0/24",
    "IPorCIDRorAlias": "10.0.0.0/8",
}
PATTERNED = {
    "([A-Fa-f0-9]{2}:){31}[A-Fa-f0-9]{2}": ":".join(["AB"] * 32),
    "[1-9][0-9]*/(second|minute|hour|day)": "5/minute",
    "(?:(?:(?:acl|properties|entry);)*(?:acl|properties|entry))|none": "acl;entry",
}


def value_of(kind: Kind, name: str, it: Field) -> t.Any:
    """A value that says something."""
    if (kind.name, name) in VALUES:
        known = VALUES[kind.name, name]
        return [it.choices[0]] if known is None else known
    if it.kind in ("bool", "flag"):
        return it.default is not True
    if it.kind in ("map", "maps"):
        values = {sub: value_of(kind, sub, each) for sub, each in it.subs.items()}
        return values if it.kind == "map" else [values]
    if it.choices:
        one = next(choice for choice in it.choices if choice not in (str(it.default), "0", it.same.get(choice)))
    elif it.kind in ("int", "number"):
        return next(number for number in (it.minimum, it.maximum, 5, 6) if number not in (None, it.default, 0))
    else:
        one = FORMS[it.format] if it.format else PATTERNED.get(it.pattern or "", "text")
    return [one] if it.kind == "words" else one


@dataclass
class Case:
    """A kind and type; without: fields that do not go with the others; instead: values with which the others go."""

    kind: Kind
    variant: str
    without: tuple[str, ...] = ()
    instead: t.Mapping[str, t.Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join(filter(None, (self.kind.name, self.variant.replace(" ", "+"), *self.without[:1])))

    @property
    def fields(self) -> dict[str, Field]:
        return {
            name: it for name, it in self.kind.fields_of(self.variant).items() if name not in ("type", *self.without)
        }

    @property
    def where(self) -> Object:
        """Its name and place."""
        if self.kind.name == "firewall_options":
            return dict(LEVELS[self.variant])
        where = dict(NAMES[self.kind.name])
        if self.kind.name == "network_interface":
            where["iface"] = INTERFACES.get(self.variant, where["iface"])
        if self.kind.name == "realm" and self.variant in ("pam", "pve"):
            where["realm"] = self.variant
        return {**where, **({"type": self.variant} if self.kind.variants and self.kind.variant else {})}


# What excludes each other, one after the other: fields left out, and other values of those that stay.
Either = list[tuple[tuple[str, ...], Object]]
RULES: Either = [(("icmp-type",), {}), (("dport", "sport", "macro"), {"proto": "icmp", "icmp-type": "echo-request"})]
EITHER: dict[tuple[str, str], Either] = {
    ("sdn_zone", "vxlan"): [(("peers",), {}), (("fabric",), {})],
    ("backup_job", ""): [
        (("all", "exclude", "pool"), {}),
        (("all", "vmid", "pool"), {}),
        (("exclude", "vmid", "all"), {}),
        (("exclude", "vmid", "pool"), {}),
    ],
    **{("firewall_rule", direction): RULES for direction in ("in", "out", "forward")},
    ("network_interface", "bond"): [
        (("bond_xmit_hash_policy",), {"bond_mode": "active-backup"}),
        (("bond-primary",), {"bond_mode": "802.3ad"}),
    ],
}
# What Proxmox does not take without another field, beside what the table says.
WITH: dict[tuple[str, str], set[str]] = {("firewall_rule", "proto"): {"dport", "sport", "icmp-type"}}
CASES = [
    Case(kind, variant, without, instead)
    for kind in KINDS.values()
    # Entries of the access control list have no fields.
    if kind.manner != "acl"
    for variant in (kind.variants or [""])
    for without, instead in EITHER.get((kind.name, variant), [((), {})])
]


@pytest.fixture
def pve(cluster: Simulator) -> Pve:
    """Runs pve_object as root against a cluster in which there is what is referred to."""

    def prepare(simulated: t.Any) -> None:
        simulated.sdn_controllers.update({name: {"type": "evpn"} for name in ("evpn1", "evpn2")})
        simulated._node_interfaces("pve1")["vmbr0"].pop("gateway")

    for vmid in (101, 102):
        cluster.call("add_ct", vmid, name=f"ct{vmid}", node="pve1")
    cluster.call(prepare)
    found = Pve(cluster)
    found.as_root()
    return found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_field_is_kept_compared_and_removed(pve: Pve, case: Case) -> None:
    kind, fields = case.kind, case.fields
    for needed, objects in BEFORE.items():
        done = pve(needed, *objects)
        assert not done.result.get("failed"), done.result["msg"]
    least = {**case.where, **{name: value_of(kind, name, it) for name, it in fields.items() if it.required}}
    least |= {name: value_of(kind, name, fields[name]) for name in kind.one_of if name in fields}
    full = {**least, **{name: value_of(kind, name, it) for name, it in fields.items()}, **case.instead}
    run = pve.converge(kind.name, full)
    assert run.changed
    for name in fields:
        if name in least:
            continue
        # What needs the field goes with it.
        gone = {name} | {each for each, other in fields.items() if name in other.needs or name in other.only}
        gone |= WITH.get((kind.name, name), set()) & set(fields)
        left = pve.check(kind.name, {each: value for each, value in full.items() if each not in gone})
        assert not left.result.get("failed"), left.result["msg"]
        told = {entry["key"].rpartition(": ")[2] for entry in left.result["plan"]}
        compared = {each for each in gone if fields[each].compared and not fields[each].kept and not fields[each].fixed}
        if kind.manner == "rules":
            assert left.changed, name
        else:
            assert told - {f"apply {kind.apply.path.format(**case.where)}" if kind.apply else ""} == compared, name
    pve.converge(kind.name, least)


def test_all_fields_are_here() -> None:
    tried = {(case.kind.name, case.variant, name) for case in CASES for name in case.fields}
    every = {
        (kind.name, variant, name)
        for kind in KINDS.values()
        for variant in (kind.variants or [""])
        for name in kind.fields_of(variant)
        if name != "type" and kind.manner != "acl"
    }
    assert every - tried == set()
