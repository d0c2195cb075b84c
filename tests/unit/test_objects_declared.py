# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an object may say: the forms of its fields, and which of them fit together. The rules are those of Proxmox."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.declared import make_wish

OPTIONS: dict[str, t.Any] = {
    "object": None,
    "objects": None,
    "scope": None,
    "node": None,
    "state": "present",
    "owner": None,
    "exclusive": False,
    "update_secrets": "on_create",
    "apply": True,
    "timeout": 600,
}
DIR: dict[str, t.Any] = {"storage": "x1", "type": "dir", "path": "/srv/x"}
NFS: dict[str, t.Any] = {"storage": "x1", "type": "nfs", "server": "nas", "export": "/tank"}
JOB: dict[str, t.Any] = {"id": "x1", "all": True, "schedule": "02:30"}
RULE: dict[str, t.Any] = {"type": "in", "action": "ACCEPT", "proto": "tcp"}
EVPN: dict[str, t.Any] = {"zone": "x1", "type": "evpn", "controller": "c", "vrf-vxlan": 1}


def wish(kind: str, declared: dict[str, t.Any]) -> t.Any:
    return make_wish({**OPTIONS, "kind": kind, "object": declared})


@pytest.mark.parametrize(
    ("kind", "declared", "field"),
    [
        ("storage", {**DIR, "path": "srv/x"}, "path"),
        ("storage", {**DIR, "path": "/srv/a b"}, "path"),
        ("storage", {**DIR, "path": "/"}, "path"),
        ("storage", {**DIR, "content-dirs": {"iso": "../iso"}}, "content-dirs"),
        ("storage", {**DIR, "content-dirs": {"iso": "a" * 255}}, "content-dirs"),
        ("storage", {**NFS, "export": "tank"}, "export"),
        ("storage", {**NFS, "export": "/;tank"}, "export"),
        ("storage", {**NFS, "server": "not a server!"}, "server"),
        ("storage", {**NFS, "server": "nas_1"}, "server"),
        ("storage", {**NFS, "options": "vers=4 ro"}, "options"),
        ("storage", {"storage": "x1", "type": "lvm", "vgname": "a/b"}, "vgname"),
        ("storage", {"storage": "x1", "type": "lvm", "vgname": "pve", "base": "data"}, "base"),
        ("storage", {"storage": "x1", "type": "zfspool", "pool": "tank", "blocksize": "12k"}, "blocksize"),
        ("storage", {"storage": "x1", "type": "zfspool", "pool": "tank", "blocksize": "32m"}, "blocksize"),
        ("storage", {"storage": "x1", "type": "iscsi", "target": "iqn.x", "portal": "a b"}, "portal"),
        ("storage", {"storage": "x1", "type": "rbd", "monhost": ["[10.0.0.1:6789"]}, "monhost"),
        ("backup_job", {**JOB, "schedule": "nonsense"}, "schedule"),
        ("backup_job", {**JOB, "schedule": "mon 02:30 +1"}, "schedule"),
        ("backup_job", {**JOB, "schedule": ""}, "schedule"),
        ("replication_job", {"id": "101-0", "target": "pve2", "schedule": "every now and then"}, "schedule"),
        ("firewall_rule", {**RULE, "proto": "not a protocol"}, "proto"),
        ("firewall_rule", {**RULE, "dport": "80:70"}, "dport"),
        ("firewall_rule", {**RULE, "dport": "65536"}, "dport"),
        ("firewall_rule", {**RULE, "dport": "80:90:100"}, "dport"),
        ("firewall_rule", {**RULE, "sport": ["!"]}, "sport"),
        ("firewall_rule", {**RULE, "dport": [f"{number}:{number + 1}" for number in range(1, 9)]}, "dport"),
        ("firewall_rule", {**RULE, "proto": "gre", "dport": 80}, "dport"),
        ("firewall_rule", {**RULE, "proto": "icmp", "sport": 80}, "sport"),
        ("firewall_rule", {**RULE, "proto": "", "dport": 80}, "proto"),
        ("firewall_rule", {"type": "in", "action": "ACCEPT", "sport": 80}, "proto"),
        ("firewall_rule", {**RULE, "icmp-type": "echo-request"}, "proto"),
        ("firewall_rule", {**RULE, "proto": "icmp", "icmp-type": "echo"}, "icmp-type"),
        ("firewall_rule", {**RULE, "proto": "icmp", "icmp-type": "no-route"}, "icmp-type"),
        ("firewall_rule", {**RULE, "source": "not!an!addr"}, "source"),
        ("firewall_rule", {**RULE, "source": "10.0.0.1/24"}, "source"),
        ("firewall_rule", {**RULE, "source": "10.0.0.300"}, "source"),
        ("firewall_rule", {**RULE, "source": "10.0.0.9-10.0.0.1"}, "source"),
        ("firewall_rule", {**RULE, "source": "fe80::1%eth0"}, "source"),
        ("firewall_rule", {**RULE, "dest": ["+web", "10.0.0.1"]}, "dest"),
        ("firewall_rule", {**RULE, "dest": ["10.0.0.1-10.0.0.9", "10.0.1.1"]}, "dest"),
        ("firewall_rule", {**RULE, "source": "10.0.0.1", "dest": "2001:db8::1"}, "dest"),
        ("firewall_rule", {**RULE, "proto": "icmp", "dest": "2001:db8::1"}, "dest"),
        ("firewall_rule", {**RULE, "dest": "+" + "x" * 65}, "dest"),
        ("firewall_rule", {**RULE, "action": "web"}, "action"),
        ("firewall_rule", {**RULE, "type": "forward", "action": "REJECT"}, "action"),
        ("firewall_options", {"node": "pve1", "nf_conntrack_helpers": ["ftp", "http"]}, "nf_conntrack_helpers"),
        ("sdn_zone", {"zone": "x1", "type": "vxlan"}, "peers"),
        ("sdn_zone", {"zone": "x1", "type": "vxlan", "peers": ["10.0.0.1"], "fabric": "f1"}, "peers"),
        ("sdn_zone", {"zone": "x1", "type": "vxlan", "fabric": "toolongname"}, "fabric"),
        ("sdn_zone", {"zone": "x1", "type": "vxlan", "peers": ["fe80::1%eth0"]}, "peers"),
        ("sdn_zone", {**EVPN, "rt-import": "a:1"}, "rt-import"),
        ("sdn_zone", {**EVPN, "mac": "01:00:5E:00:00:01"}, "mac"),
        ("metric_server", {"id": "x1", "type": "graphite", "server": "a", "port": 1, "path": "a..b"}, "path"),
        ("realm", {"realm": "x1", "type": "ldap", "server1": "a_b", "base_dn": "b", "user_attr": "uid"}, "server1"),
        ("user", {"userid": "ci@pve", "email": "ci@ex_ample.com"}, "email"),
    ],
)
def test_what_proxmox_would_refuse(kind: str, declared: dict[str, t.Any], field: str) -> None:
    with pytest.raises(Failure) as refused:
        wish(kind, declared)
    assert (refused.value.code, refused.value.details["field"]) == ("invalid_field", field)


FIFTEEN = [str(number) for number in range(1, 16)]
SCHEDULES = (
    *("daily", "*/15", "mon..fri 8..17,22:0/15", "sat 12:00,20:00", "Mon,Wed..Fri *:0/30", "Sunday 2:00", "*-1-1", "0"),
    *("monthly", "semi-annually", "2026-12-24 18:00:00", "*-*-1..7 02:00", "fri 12:00 UTC"),
)


@pytest.mark.parametrize(
    ("kind", "declared"),
    [
        ("storage", {**NFS, "export": "/volume1/Proxmox Backup"}),
        ("storage", {**NFS, "export": "/vol+1/x:y~#%,ä", "server": "2001:db8::1"}),
        ("storage", {"storage": "x1", "type": "cifs", "server": "nas", "share": "s", "subdir": "/a b"}),
        ("storage", {**DIR, "content-dirs": {"iso": "my images/iso.d", "vztmpl": "/template"}}),
        ("storage", {"storage": "x1", "type": "zfspool", "pool": "tank", "blocksize": "16K"}),
        ("storage", {"storage": "x1", "type": "zfspool", "pool": "tank", "blocksize": "512"}),
        ("storage", {"storage": "x1", "type": "iscsi", "target": "iqn.x", "portal": "[2001:db8::1]:3260"}),
        ("storage", {"storage": "x1", "type": "rbd", "monhost": "10.0.0.1:6789 mon2 2001:db8::1 [2001:db8::2]:1"}),
        ("storage", {"storage": "x1", "type": "lvm", "vgname": "pve", "base": "san:lun 1"}),
        *(("backup_job", {**JOB, "schedule": text}) for text in SCHEDULES),
        ("firewall_rule", {**RULE, "dport": ["80", "443", "8000:8080", "http"]}),
        ("firewall_rule", {**RULE, "dport": [*FIFTEEN, "http", "ssh"]}),
        ("firewall_rule", {**RULE, "proto": "6", "dport": "0:65535"}),
        ("firewall_rule", {**RULE, "proto": "icmp", "dport": "echo-request"}),
        ("firewall_rule", {**RULE, "proto": "ipv6-icmp", "icmp-type": "no-route", "source": "2001:db8::/32"}),
        ("firewall_rule", {**RULE, "source": "10.0.0.1-10.0.0.9"}),
        ("firewall_rule", {**RULE, "source": ["10.0.0.0/8", "192.0.2.7"], "dest": "10/8"}),
        ("firewall_rule", {**RULE, "source": "+sdn/web-all", "dest": "dc/office-1"}),
        ("firewall_rule", {"type": "group", "action": "web", "enable": True}),
        ("sdn_zone", {"zone": "x1", "type": "vxlan", "fabric": "f-1"}),
        ("sdn_zone", {"zone": "x1", "type": "vxlan", "peers": "10.0.0.1, 2001:db8::1"}),
        ("sdn_zone", {**EVPN, "rt-import": "65000:1"}),
        ("metric_server", {"id": "x1", "type": "graphite", "server": "a", "port": 1, "path": "pve.lab-1"}),
    ],
)
def test_what_proxmox_takes(kind: str, declared: dict[str, t.Any]) -> None:
    assert len(wish(kind, declared).objects) == 1
