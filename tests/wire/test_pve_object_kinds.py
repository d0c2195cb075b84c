# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every kind of pve_object: made, as it is, changed, with fewer fields, removed."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.table import KINDS
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator
from ansible_collections.lxcri.proxmox.tests.wire.objects import Pve

Object = dict[str, t.Any]
FINGERPRINT = ":".join(["AB"] * 32)


@dataclass
class Case:
    """A kind and what is done with an object of it.

    full: with as many fields as it may have; other: the same object otherwise; less: with as few as possible.
    before: objects of other kinds that it needs. reads: the requests when it is as declared.
    many: how the object is called when there are many.
    """

    kind: str
    full: Object
    other: Object
    less: Object
    reads: list[str]
    before: list[tuple[str, Object]] = field(default_factory=list)
    many: t.Callable[[int], Object] | None = None
    scope: Object = field(default_factory=dict)
    applies: str | None = None

    def __str__(self) -> str:
        return f"{self.kind}-{self.full.get('type') or self.scope.get('type') or '-'.join(self.scope) or 'any'}"


ZONE = ("sdn_zone", {"zone": "lab", "type": "simple", "ipam": "pve"})
VNET = ("sdn_vnet", {"vnet": "web", "zone": "lab"})
RESOURCE = ("ha_resource", {"sid": "ct:101"})
ROLE = ("role", {"roleid": "Deploy", "privs": ["VM.Audit"]})
USER = ("user", {"userid": "ci@pve"})
GROUP = ("group", {"groupid": "ops"})
ALIAS: Object = {"name": "dns", "cidr": "10.0.0.53"}

CASES = [
    Case(
        "storage",
        {
            "storage": "backup",
            "type": "dir",
            "path": "/srv/backup",
            "content": ["backup", "iso"],
            "nodes": ["pve2", "pve1"],
            "prune-backups": {"keep-daily": 7, "keep-last": 3},
            "bwlimit": {"restore": 1024},
            "max-protected-backups": 5,
            "is_mountpoint": True,
            "shared": True,
            "disable": False,
        },
        {
            "storage": "backup",
            "type": "dir",
            "path": "/srv/backup",
            "content": "backup",
            "nodes": ["pve1"],
            "prune-backups": "keep-all=1",
            "preallocation": "off",
            "disable": True,
        },
        {"storage": "backup", "type": "dir", "path": "/srv/backup"},
        ["GET /storage"],
        many=lambda n: {"storage": f"store-{n}", "type": "dir", "path": f"/srv/{n}", "content": ["iso"]},
    ),
    Case(
        "storage",
        {"storage": "nas", "type": "nfs", "server": "10.0.0.9", "export": "/tank", "options": "vers=4.2"},
        {"storage": "nas", "type": "nfs", "server": "10.0.0.9", "export": "/tank", "content": ["images"]},
        {"storage": "nas", "type": "nfs", "server": "10.0.0.9", "export": "/tank"},
        ["GET /storage"],
    ),
    Case(
        "storage",
        {
            "storage": "pbs",
            "type": "pbs",
            "server": "pbs.lan",
            "datastore": "main",
            "username": "pve@pbs",
            "password": "hunter2-of-pbs",
            "fingerprint": FINGERPRINT,
            "namespace": "prod",
        },
        {"storage": "pbs", "type": "pbs", "server": "pbs.lan", "datastore": "main", "fingerprint": FINGERPRINT.lower()},
        {"storage": "pbs", "type": "pbs", "server": "pbs.lan", "datastore": "main"},
        ["GET /storage"],
    ),
    Case(
        "storage",
        {"storage": "fast", "type": "zfspool", "pool": "rpool/fast", "sparse": True, "blocksize": "16k"},
        {"storage": "fast", "type": "zfspool", "pool": "rpool/fast", "mountpoint": "/rpool/fast"},
        {"storage": "fast", "type": "zfspool", "pool": "rpool/fast"},
        ["GET /storage"],
    ),
    Case(
        "pool",
        {"poolid": "shop", "comment": "The shop", "vms": [101, 102], "storage": ["tank"]},
        {"poolid": "shop", "comment": "Shop", "vms": ["102"], "storage": ["tank", "local"]},
        {"poolid": "shop", "vms": [], "storage": []},
        ["GET /pools", "GET /pools"],
        many=lambda n: {"poolid": f"pool-{n}", "comment": f"Pool {n}"},
    ),
    Case(
        "user",
        {
            "userid": "ci@pve",
            "comment": "Robots",
            "email": "ci@example.com",
            "enable": False,
            "expire": 1900000000,
            "firstname": "Ci",
            "lastname": "Ä. O'Bot",
            "groups": ["ops"],
            "keys": "cccccchlhibb",
            "password": "hunter2-hunter2",
        },
        {"userid": "ci@pve", "comment": "A robot", "enable": True, "groups": "ops,dev"},
        {"userid": "ci@pve"},
        ["GET /access/users"],
        before=[GROUP, ("group", {"groupid": "dev"})],
        many=lambda n: {"userid": f"user-{n}@pve", "groups": ["ops"], "comment": f"User {n}"},
    ),
    Case(
        "group",
        {"groupid": "ops", "comment": "Operators"},
        {"groupid": "ops", "comment": "Ops"},
        {"groupid": "ops"},
        ["GET /access/groups"],
        many=lambda n: {"groupid": f"group-{n}", "comment": f"Group {n}"},
    ),
    Case(
        "role",
        {"roleid": "Deploy", "privs": ["VM.PowerMgmt", "VM.Audit"]},
        {"roleid": "Deploy", "privs": "VM.Audit,VM.Snapshot"},
        {"roleid": "Deploy"},
        ["GET /access/roles"],
        many=lambda n: {"roleid": f"Role{n}", "privs": ["VM.Audit"]},
    ),
    Case(
        "acl",
        {"path": "/vms//101/", "roles": ["Deploy"], "users": ["ci@pve"], "groups": ["ops"], "propagate": False},
        {"path": "/vms/101", "roles": ["Deploy"], "users": ["ci@pve"], "groups": ["ops"]},
        {"path": "/vms/101", "roles": ["Deploy"], "users": ["ci@pve"]},
        ["GET /access/acl"],
        before=[ROLE, USER, GROUP],
        many=lambda n: {"path": f"/vms/{100 + n}", "roles": ["Deploy"], "users": ["ci@pve"]},
    ),
    Case(
        "token",
        {"userid": "ci@pve", "tokenid": "deploy", "comment": "GitOps", "expire": 1900000000, "privsep": False},
        {"userid": "ci@pve", "tokenid": "deploy", "comment": "Git", "privsep": True},
        {"userid": "ci@pve", "tokenid": "deploy"},
        ["GET /access/users"],
        before=[USER],
        many=lambda n: {"userid": "ci@pve", "tokenid": f"token-{n}", "comment": f"Token {n}"},
    ),
    Case(
        "realm",
        {
            "realm": "corp",
            "type": "ldap",
            "server1": "ldap.example.com",
            "base_dn": "dc=example,dc=com",
            "user_attr": "uid",
            "bind_dn": "cn=pve",
            "password": "hunter2-of-ldap",
            "mode": "ldaps",
            "verify": True,
            "comment": "Company",
            "default": True,
            "sync-defaults-options": {"scope": "users", "enable-new": False, "remove-vanished": "acl;entry"},
            "tfa": {"type": "oath", "digits": 8},
        },
        {
            "realm": "corp",
            "type": "ldap",
            "server1": "ldap.example.com",
            "base_dn": "dc=example,dc=com",
            "user_attr": "uid",
            "server2": "10.0.0.7",
            "sync-defaults-options": "scope=both",
            "user_classes": ["person"],
        },
        {
            "realm": "corp",
            "type": "ldap",
            "server1": "ldap.example.com",
            "base_dn": "dc=example,dc=com",
            "user_attr": "uid",
        },
        ["GET /access/domains", "GET /access/domains/corp"],
    ),
    Case(
        "realm",
        {
            "realm": "sso",
            "type": "openid",
            "issuer-url": "https://sso.example.com",
            "client-id": "pve",
            "client-key": "hunter2-of-sso",
            "username-claim": "email",
            "autocreate": True,
        },
        {
            "realm": "sso",
            "type": "openid",
            "issuer-url": "https://sso.example.com",
            "client-id": "pve",
            "client-key": "another-hunter2",
            "scopes": "email",
        },
        {"realm": "sso", "type": "openid", "issuer-url": "https://sso.example.com", "client-id": "pve"},
        ["GET /access/domains", "GET /access/domains/sso"],
    ),
    Case(
        "backup_job",
        {
            "id": "nightly",
            "schedule": "mon..fri 02:30",
            "storage": "local",
            "vmid": [102, 101],
            "mode": "snapshot",
            "compress": "zstd",
            "comment": "Every night",
            "enabled": False,
            "notes-template": "{{guestname}}",
            "protected": True,
            "prune-backups": {"keep-daily": 7},
            "fleecing": {"enabled": True, "storage": "tank"},
            "performance": {"max-workers": 4},
            "exclude-path": ["/tmp/?*", "/var/tmp"],
            "mailto": ["root", "ops@example.com"],
            "bwlimit": 10240,
        },
        {
            "id": "nightly",
            "schedule": "02:30",
            "storage": "local",
            "exclude": [102],
            "mode": "stop",
            "prune-backups": "keep-last=2",
            "exclude-path": ["/var/tmp"],
        },
        {"id": "nightly", "schedule": "02:30", "all": True},
        ["GET /cluster/backup"],
        many=lambda n: {"id": f"job-{n}", "schedule": "02:30", "vmid": [100 + n], "storage": "local"},
    ),
    Case(
        "replication_job",
        {"id": "101-0", "target": "pve2", "schedule": "*/30", "rate": 12.5, "comment": "Web", "disable": True},
        {"id": "101-0", "target": "pve2", "comment": "The web"},
        {"id": "101-0", "target": "pve2"},
        ["GET /cluster/replication"],
        many=lambda n: {"id": f"{100 + n}-0", "target": "pve2", "comment": f"Job {n}"},
    ),
    Case(
        "ha_resource",
        {"sid": "ct:101", "state": "enabled", "max_restart": 3, "failback": False, "comment": "Web"},
        {"sid": "ct:101", "state": "stopped", "max_relocate": 0},
        {"sid": "ct:101"},
        ["GET /cluster/ha/resources"],
        many=lambda n: {"sid": f"ct:{100 + n}", "comment": f"Container {n}"},
    ),
    Case(
        "ha_rule",
        {
            "rule": "web",
            "type": "node-affinity",
            "resources": ["ct:101"],
            "nodes": ["pve2:2", "pve1:0"],
            "strict": True,
            "disable": True,
            "comment": "Web",
        },
        {"rule": "web", "type": "node-affinity", "resources": "ct:101,ct:102", "nodes": ["pve1"], "strict": False},
        {"rule": "web", "type": "node-affinity", "resources": ["ct:101"], "nodes": ["pve1"]},
        ["GET /cluster/ha/rules"],
        before=[RESOURCE, ("ha_resource", {"sid": "ct:102"})],
        many=lambda n: {"rule": f"rule-{n}", "type": "node-affinity", "resources": ["ct:101"], "nodes": ["pve1"]},
    ),
    Case(
        "ha_rule",
        {"rule": "apart", "type": "resource-affinity", "resources": ["ct:101", "ct:102"], "affinity": "negative"},
        {"rule": "apart", "type": "resource-affinity", "resources": ["ct:101", "ct:102"], "affinity": "positive"},
        {"rule": "apart", "type": "resource-affinity", "resources": ["ct:102", "ct:101"], "affinity": "positive"},
        ["GET /cluster/ha/rules"],
        before=[RESOURCE, ("ha_resource", {"sid": "ct:102"})],
    ),
    Case(
        "sdn_zone",
        {"zone": "lab", "type": "vlan", "bridge": "vmbr0", "mtu": 1450, "nodes": ["pve2", "pve1"], "ipam": "pve"},
        {"zone": "lab", "type": "vlan", "bridge": "vmbr1", "nodes": "pve1"},
        {"zone": "lab", "type": "vlan", "bridge": "vmbr1"},
        ["GET /cluster/sdn/zones"],
        many=lambda n: {"zone": f"z{n}", "type": "simple", "ipam": "pve"},
        applies="PUT /cluster/sdn",
    ),
    Case(
        "sdn_zone",
        {"zone": "mesh", "type": "vxlan", "peers": ["10.0.0.2", "10.0.0.1"], "vxlan-port": 4790},
        {"zone": "mesh", "type": "vxlan", "peers": "10.0.0.1 10.0.0.2 10.0.0.3"},
        {"zone": "mesh", "type": "vxlan", "peers": ["10.0.0.1"]},
        ["GET /cluster/sdn/zones"],
        applies="PUT /cluster/sdn",
    ),
    Case(
        "sdn_zone",
        {
            "zone": "evpn",
            "type": "evpn",
            "controller": "evpn1",
            "vrf-vxlan": 10000,
            "exitnodes": ["pve1"],
            "advertise-subnets": True,
            "rt-import": ["65000:1"],
        },
        {"zone": "evpn", "type": "evpn", "controller": "evpn1", "vrf-vxlan": 10001},
        {"zone": "evpn", "type": "evpn", "controller": "evpn1", "vrf-vxlan": 10001},
        ["GET /cluster/sdn/zones"],
        applies="PUT /cluster/sdn",
    ),
    Case(
        "sdn_vnet",
        {"vnet": "web", "zone": "lab", "alias": "The web (prod)", "isolate-ports": True},
        {"vnet": "web", "zone": "lab", "alias": "web"},
        {"vnet": "web", "zone": "lab"},
        ["GET /cluster/sdn/vnets"],
        before=[ZONE],
        many=lambda n: {"vnet": f"v{n}", "zone": "lab", "alias": f"VNet {n}"},
        applies="PUT /cluster/sdn",
    ),
    Case(
        "sdn_subnet",
        {
            "vnet": "web",
            "subnet": "10.9.0.0/24",
            "gateway": "10.9.0.1",
            "snat": True,
            "dhcp-range": [
                {"start-address": "10.9.0.50", "end-address": "10.9.0.60"},
                "start-address=10.9.0.10,end-address=10.9.0.20",
            ],
            "dhcp-dns-server": "10.9.0.1",
        },
        {
            "vnet": "web",
            "subnet": "10.9.0.0/24",
            "gateway": "10.9.0.254",
            "dhcp-range": [{"start-address": "10.9.0.10", "end-address": "10.9.0.20"}],
        },
        {"vnet": "web", "subnet": "10.9.0.0/24"},
        ["GET /cluster/sdn/vnets/web/subnets"],
        before=[ZONE, VNET],
        many=lambda n: {"vnet": "web", "subnet": f"10.{n}.0.0/24", "gateway": f"10.{n}.0.1"},
        applies="PUT /cluster/sdn",
    ),
    Case(
        "sdn_dns",
        {"dns": "pdns", "type": "powerdns", "url": "http://10.0.0.9:8081/api", "key": "hunter2-of-dns", "ttl": 300},
        {"dns": "pdns", "type": "powerdns", "url": "http://10.0.0.9:8081/api", "key": "another-hunter2"},
        {"dns": "pdns", "type": "powerdns", "url": "http://10.0.0.8:8081/api", "key": "another-hunter2"},
        ["GET /cluster/sdn/dns"],
        many=lambda n: {"dns": f"dns{n}", "type": "powerdns", "url": "http://a/api", "key": "hunter2-of-dns"},
    ),
    Case(
        "sdn_ipam",
        {"ipam": "netbox", "type": "netbox", "url": "https://n/api", "token": "hunter2-of-ipam"}
        | {"fingerprint": FINGERPRINT},
        {"ipam": "netbox", "type": "netbox", "url": "https://m/api", "token": "hunter2-of-ipam"},
        {"ipam": "netbox", "type": "netbox", "url": "https://m/api", "token": "another-hunter2"},
        ["GET /cluster/sdn/ipams"],
        many=lambda n: {"ipam": f"ipam{n}", "type": "netbox", "url": "https://n/api", "token": "hunter2-of-ipam"},
    ),
    Case(
        "firewall_alias",
        {"name": "DNS", "cidr": "10.0.0.53/32", "comment": "Resolver"},
        {"name": "dns", "cidr": "2001:DB8::/64", "comment": "Resolvers"},
        {"name": "dns", "cidr": "2001:db8::/64"},
        ["GET /cluster/firewall/aliases"],
        many=lambda n: {"name": f"alias-{n}", "cidr": f"10.0.0.{n}", "comment": f"Alias {n}"},
    ),
    Case(
        "firewall_alias",
        {"name": "dns", "cidr": "10.0.0.53", "comment": "Resolver"},
        {"name": "dns", "cidr": "10.0.0.54"},
        {"name": "dns", "cidr": "10.0.0.54"},
        ["GET /nodes/pve1/lxc/101/firewall/aliases"],
        scope={"node": "pve1", "vmid": 101},
    ),
    Case(
        "firewall_ipset",
        {
            "name": "trusted",
            "comment": "Who may",
            "cidrs": ["10.0.0.0/8", {"cidr": "10.6.6.6/32", "nomatch": True, "comment": "but"}, "dns"],
        },
        {"name": "trusted", "comment": "Trusted", "cidrs": ["10.0.0.1/8", {"cidr": "10.6.6.6", "comment": "now"}]},
        {"name": "trusted", "cidrs": []},
        ["GET /cluster/firewall/ipset", "GET /cluster/firewall/ipset/trusted"],
        before=[("firewall_alias", ALIAS)],
        many=lambda n: {"name": f"set-{n}", "comment": f"Set {n}"},
    ),
    Case(
        "firewall_group",
        {"group": "web", "comment": "Web servers"},
        {"group": "web", "comment": "The web"},
        {"group": "web"},
        ["GET /cluster/firewall/groups"],
        many=lambda n: {"group": f"group-{n}", "comment": f"Group {n}"},
    ),
    Case(
        "metric_server",
        {
            "id": "influx",
            "type": "influxdb",
            "server": "10.0.0.9",
            "port": 8086,
            "influxdbproto": "https",
            "organization": "lab",
            "bucket": "pve",
            "token": "hunter2-of-influx",
            "verify-certificate": False,
        },
        {"id": "influx", "type": "influxdb", "server": "influx.lan", "port": 8089, "mtu": 1400},
        {"id": "influx", "type": "influxdb", "server": "influx.lan", "port": 8089},
        ["GET /cluster/metrics/server", "GET /cluster/metrics/server/influx"],
    ),
    Case(
        "metric_server",
        {"id": "graph", "type": "graphite", "server": "10.0.0.9", "port": 2003, "proto": "tcp", "path": "pve"},
        {"id": "graph", "type": "graphite", "server": "10.0.0.9", "port": 2004, "disable": True},
        {"id": "graph", "type": "graphite", "server": "10.0.0.9", "port": 2004},
        ["GET /cluster/metrics/server", "GET /cluster/metrics/server/graph"],
    ),
    Case(
        "network_interface",
        {
            "iface": "vmbr1",
            "type": "bridge",
            "autostart": True,
            "cidr": "10.1.0.1/24",
            "bridge_ports": ["eno2"],
            "bridge_vlan_aware": True,
            "bridge_vids": ["2-100", "200"],
            "mtu": 9000,
            "comments": "Guests\n",
        },
        {
            "iface": "vmbr1",
            "type": "bridge",
            "autostart": True,
            "cidr": "10.1.0.2/24",
            "cidr6": "2001:DB8::1/64",
            "bridge_ports": "",
            "bridge_vlan_aware": True,
        },
        {"iface": "vmbr1", "type": "bridge"},
        ["GET /nodes/pve1/network"],
        scope={"node": "pve1"},
        many=lambda n: {"iface": f"vmbr{n}", "type": "bridge", "autostart": True, "cidr": f"10.{n}.1.1/24"},
        applies="PUT /nodes/pve1/network",
    ),
    Case(
        "network_interface",
        {"iface": "bond0", "type": "bond", "slaves": ["eno2"], "bond_mode": "active-backup", "bond-primary": "eno2"},
        {
            "iface": "bond0",
            "type": "bond",
            "slaves": ["eno2"],
            "bond_mode": "802.3ad",
            "bond_xmit_hash_policy": "layer2",
        },
        {"iface": "bond0", "type": "bond", "slaves": ["eno2"]},
        ["GET /nodes/pve1/network"],
        scope={"node": "pve1"},
        applies="PUT /nodes/pve1/network",
    ),
    Case(
        "network_interface",
        {"iface": "bond1", "type": "OVSBond", "ovs_bonds": ["eno2"], "ovs_bridge": "vmbr9", "ovs_tag": 7},
        {"iface": "bond1", "type": "OVSBond", "ovs_bonds": ["eno2"], "ovs_bridge": "vmbr9", "bond_mode": "balance-slb"},
        {"iface": "bond1", "type": "OVSBond", "ovs_bonds": ["eno2"], "ovs_bridge": "vmbr9"},
        ["GET /nodes/pve1/network"],
        scope={"node": "pve1"},
        applies="PUT /nodes/pve1/network",
    ),
    Case(
        "network_interface",
        {"iface": "vmbr0.30", "type": "vlan", "autostart": True, "cidr": "10.30.0.1/24"},
        {"iface": "vmbr0.30", "type": "vlan", "autostart": True},
        {"iface": "vmbr0.30", "type": "vlan"},
        ["GET /nodes/pve1/network"],
        scope={"node": "pve1"},
        applies="PUT /nodes/pve1/network",
    ),
    Case(
        "notification_target",
        {
            "name": "mail",
            "server": "mail.example.com",
            "from-address": "pve@example.com",
            "mailto": ["ops@example.com", "root@example.com"],
            "mailto-user": ["root@pam"],
            "mode": "starttls",
            "username": "pve",
            "password": "hunter2-of-mail",
            "comment": "Mail",
        },
        {"name": "mail", "server": "mail.example.com", "from-address": "pve@example.com", "mailto": ["a@b.de"]},
        {"name": "mail", "server": "mail.example.com", "from-address": "pve@example.com"},
        ["GET /cluster/notifications/endpoints/smtp"],
        scope={"type": "smtp"},
        many=lambda n: {"name": f"mail-{n}", "server": "m", "from-address": "a@b.de", "mailto": ["a@b.de"]},
    ),
    Case(
        "notification_target",
        {
            "name": "hook",
            "url": "https://hooks.example.com",
            "method": "post",
            "header": [{"name": "Content-Type", "value": "YXBwbGljYXRpb24vanNvbg=="}],
            "secret": [{"name": "token", "value": "aHVudGVyMg=="}],
            "body": "eyJhIjogMX0=",
        },
        {"name": "hook", "url": "https://hooks.example.com/x", "method": "put"},
        {"name": "hook", "url": "https://hooks.example.com/x", "method": "put"},
        ["GET /cluster/notifications/endpoints/webhook"],
        scope={"type": "webhook"},
    ),
    Case(
        "notification_matcher",
        {
            "name": "errors",
            "target": ["mail-to-root"],
            "match-severity": ["error", "warning"],
            "match-field": ["exact:type=vzdump"],
            "mode": "any",
            "invert-match": True,
            "comment": "Errors",
        },
        {"name": "errors", "target": ["mail-to-root"], "match-severity": ["error"], "disable": True},
        {"name": "errors"},
        ["GET /cluster/notifications/matchers"],
        many=lambda n: {"name": f"matcher-{n}", "target": ["mail-to-root"], "match-severity": ["error"]},
    ),
]


@pytest.fixture
def pve(cluster: Simulator) -> Pve:
    """Runs pve_object against a fresh cluster that has three containers."""
    for vmid, node in ((101, "pve1"), (102, "pve1"), (103, "pve3")):
        cluster.call("add_ct", vmid, name=f"ct{vmid}", node=node)
    return Pve(cluster)


def prepare(pve: Pve, case: Case) -> None:
    for kind, needed in case.before:
        run = pve(kind, needed)
        assert not run.result.get("failed"), run.result["msg"]


def secrets_of(case: Case) -> list[str]:
    return [
        str(value) for each in (case.full, case.other, case.less) for value in each.values() if "hunter2" in str(value)
    ]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_object_is_made_changed_and_removed(pve: Pve, case: Case) -> None:
    prepare(pve, case)
    names = {name: case.full[name] for name in KINDS[case.kind].names}
    gone = names if case.kind != "acl" else {**names, "roles": case.full["roles"], "users": case.full["users"]}
    if "vnet" in case.full:
        gone["vnet"] = case.full["vnet"]
    steps = [({}, case.full), ({}, case.other), ({}, case.less), ({}, case.full)]
    for number, (options, declared) in enumerate(steps):
        run = pve.converge(case.kind, declared, **options, scope=case.scope)
        if number in (0, 1, 3) and declared != steps[number - 1][1]:
            assert run.changed, number
        if number:
            assert run.asked[: len(case.reads)] == case.reads
        if case.applies and run.changed:
            assert [f"{method} {path}" for method, path, _params in run.writes][-1] == case.applies
            assert [task["exitstatus"] for task in run.result["tasks"]] == ["OK"]
        text = repr(run.result["plan"]) + repr(run.result["diff"]) + repr(run.result["objects"])
        assert not [secret for secret in secrets_of(case) if secret in text]
    again = pve(case.kind, case.full, scope=case.scope)
    assert (again.asked, again.changed) == (case.reads, False)
    removed = pve.converge(case.kind, gone, state="absent", scope=case.scope)
    assert removed.changed
    assert removed.result["objects"] == []


@pytest.mark.parametrize("case", [case for case in CASES if case.many], ids=str)
def test_fifty_objects_that_are_as_declared_cost_one_request(pve: Pve, case: Case) -> None:
    prepare(pve, case)
    assert case.many
    if case.kind in ("replication_job", "ha_resource"):
        for number in range(4, 51):
            pve.cluster.call("add_ct", 100 + number, name=f"ct{100 + number}")
    objects = [case.many(number) for number in range(1, 51)]
    if case.kind == "replication_job":
        pve.cluster.call(lambda cluster: setattr(cluster.ct(103), "node", "pve1"))
    made = pve(case.kind, *objects, scope=case.scope)
    assert not made.result.get("failed"), made.result["msg"]
    assert len(made.result["objects"]) == 50
    again = pve(case.kind, *objects, scope=case.scope)
    assert (again.asked, again.changed) == (case.reads[:1], False)


def test_fifty_rules_that_are_as_declared_cost_one_request(pve: Pve) -> None:
    rules = [{"type": "in", "action": "ACCEPT", "proto": "tcp", "dport": port, "enable": True} for port in range(1, 51)]
    made = pve("firewall_rule", *rules)
    assert not made.result.get("failed"), made.result["msg"]
    again = pve("firewall_rule", *rules)
    assert (again.asked, again.changed) == (["GET /cluster/firewall/rules"], False)


@pytest.mark.parametrize("kind", ["realm", "metric_server"])
def test_fifty_objects_of_which_the_list_tells_little_cost_one_request_more_each(pve: Pve, kind: str) -> None:
    path, one = {
        "realm": ("/access/domains", {"type": "openid", "issuer-url": "https://sso.example.com", "client-id": "pve"}),
        "metric_server": ("/cluster/metrics/server", {"type": "graphite", "server": "10.0.0.9", "port": 2003}),
    }[kind]
    [identity] = KINDS[kind].names
    names = [f"x{number}" for number in range(1, 51)]
    objects = [{identity: name, **one} for name in names]
    made = pve(kind, *objects)
    assert not made.result.get("failed"), made.result["msg"]
    again = pve(kind, *objects)
    assert again.asked[0] == f"GET {path}"
    assert (sorted(again.asked[1:]), again.changed) == (sorted(f"GET {path}/{name}" for name in names), False)


def test_every_kind_is_here() -> None:
    others = {"firewall_rule", "firewall_options"}
    assert {case.kind for case in CASES} | others == set(KINDS)
