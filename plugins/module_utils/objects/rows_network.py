# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of the table: the network, its firewall, and what leaves the cluster for monitoring.

The rules are those of PVE/Network/SDN/*Plugin.pm, PVE/API2/Network.pm, PVE/API2/Firewall/*.pm, PVE/Status/*.pm and
PVE/API2/Cluster/Notifications.pm.
"""

from __future__ import annotations

import typing as t

from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.fields import Field
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.kinds import (
    CREATE,
    DELETE,
    UPDATE,
    Apply,
    Grant,
    Kind,
    Reset,
    Scope,
)

BOOL = Field("bool", default=False)
LINE = Field(format="line")
FINGERPRINT = Field(pattern="([A-Fa-f0-9]{2}:){31}[A-Fa-f0-9]{2}", folded=True)
SDN_ID = Field(pattern="[a-zA-Z][a-zA-Z0-9]*[a-zA-Z0-9]", shortest=2, longest=8)
PLUGIN_ID = Field(pattern="[a-zA-Z][a-zA-Z0-9]*[a-zA-Z0-9]", shortest=2)

# ------------------------------------------------------------------------------------------------------------ SDN

_ALLOCATE = ("SDN.Allocate",)
_SEES = ("SDN.Audit", "SDN.Allocate")
_APPLY = Apply("cluster/sdn", Grant(("/sdn",), _ALLOCATE), waiting="state")
_LOCKED = {"lock-token": "for tools that hold SDN's lock over several requests"}
_OF_ZONES = "nodes dns reversedns dnszone ipam"

SDN_ZONE = Kind(
    name="sdn_zone",
    identity=("zone",),
    names={"zone": SDN_ID},
    fields={
        "advertise-subnets": BOOL,
        "bridge": LINE,
        "bridge-disable-mac-learning": BOOL,
        "controller": LINE,
        "dhcp": Field(choices=("dnsmasq",)),
        "disable-arp-nd-suppression": BOOL,
        "dns": LINE,
        "dnszone": Field(format="dns-name", needs=("dns",)),
        "dp-id": Field("int"),
        "exitnodes": Field("words", format="pve-node"),
        "exitnodes-local-routing": BOOL,
        "exitnodes-primary": Field(format="pve-node"),
        "fabric": Field(format="pve-sdn-fabric-id"),
        "ipam": LINE,
        "mac": Field(format="mac-addr", kept=True),
        "mtu": Field("int"),
        "nodes": Field("words", format="pve-node"),
        "peers": Field("words", format="ip"),
        "reversedns": LINE,
        "rt-import": Field("words", format="pve-sdn-bgp-rt"),
        "secondary-controllers": Field(
            "words", joined="array", pattern="[a-zA-Z][a-zA-Z0-9_-]*[a-zA-Z0-9]", shortest=2, longest=64
        ),
        "tag": Field("int", minimum=0),
        "type": Field(choices=("evpn", "faucet", "qinq", "simple", "vlan", "vxlan"), required=True, fixed=True),
        "vlan-protocol": Field(choices=("802.1q", "802.1ad"), default="802.1q"),
        "vrf-vxlan": Field("int", minimum=1, maximum=16777215),
        "vxlan-port": Field("int", minimum=1, maximum=65536, default=4789),
    },
    left_out=_LOCKED,
    variants={
        "evpn": f"vrf-vxlan! controller! secondary-controllers exitnodes exitnodes-local-routing exitnodes-primary "
        f"advertise-subnets disable-arp-nd-suppression bridge-disable-mac-learning rt-import vxlan-port mtu mac "
        f"{_OF_ZONES}",
        "faucet": f"dp-id! controller! {_OF_ZONES}",
        "qinq": f"tag! bridge! bridge-disable-mac-learning mtu vlan-protocol {_OF_ZONES}",
        "simple": f"mtu dhcp {_OF_ZONES}",
        "vlan": f"bridge! bridge-disable-mac-learning mtu {_OF_ZONES}",
        "vxlan": f"peers vxlan-port mtu fabric {_OF_ZONES}",
    },
    scopes=(
        Scope(
            "cluster/sdn/zones",
            sees=Grant(("/sdn/zones/{zone}",), _SEES),
            grants=(
                Grant(("/sdn/zones",), _ALLOCATE, (CREATE,)),
                Grant(("/sdn/zones/{zone}",), _ALLOCATE, (UPDATE, DELETE)),
            ),
        ),
    ),
    query={"pending": 1},
    one_of=("peers", "fabric"),
    conflicts=(("peers", "fabric"),),
    apply=_APPLY,
)

SDN_VNET = Kind(
    name="sdn_vnet",
    identity=("vnet",),
    names={"vnet": SDN_ID},
    fields={
        "alias": Field(pattern=r"[()*+,\-./0-9:;<=>?@A-Za-z\[\\\]^_\s]{0,256}", longest=256),
        "isolate-ports": BOOL,
        "tag": Field("int", minimum=1, maximum=16777215),
        "vlanaware": BOOL,
        "zone": Field(format="line", required=True),
    },
    left_out={**_LOCKED, "type": "there is one"},
    scopes=(
        Scope(
            "cluster/sdn/vnets",
            sees=Grant(("/sdn/zones/{zone}/{vnet}",), _SEES),
            grants=(
                Grant(("/sdn/zones/{zone}",), _ALLOCATE, (CREATE,)),
                Grant(("/sdn/zones/{zone}/{vnet}",), _ALLOCATE, (UPDATE, DELETE)),
            ),
        ),
    ),
    query={"pending": 1},
    comment="alias",
    apply=_APPLY,
)

SDN_SUBNET = Kind(
    name="sdn_subnet",
    identity=("subnet",),
    names={"subnet": Field(format="network")},
    fields={
        "dhcp-dns-server": Field(format="ip"),
        "dhcp-range": Field(
            "maps",
            subs={
                "start-address": Field(format="ip", required=True),
                "end-address": Field(format="ip", required=True),
            },
        ),
        "dnszoneprefix": Field(format="dns-name"),
        "gateway": Field(format="ip"),
        "snat": BOOL,
    },
    left_out={**_LOCKED, "type": "there is one"},
    constants={"type": "subnet"},
    scopes=(
        Scope(
            "cluster/sdn/vnets/{vnet}/subnets",
            sees=Grant(("/sdn/zones/{zone}/{vnet}",), _SEES),
            grants=(Grant(("/sdn/zones/{zone}/{vnet}",), _ALLOCATE),),
        ),
    ),
    query={"pending": 1},
    # Their ids have the zone in them: zone-10.0.0.0-24.
    named_by={"subnet": "cidr"},
    member_id="subnet",
    apply=_APPLY,
)

SDN_DNS = Kind(
    name="sdn_dns",
    identity=("dns",),
    names={"dns": PLUGIN_ID},
    fields={
        "fingerprint": FINGERPRINT,
        "key": Field(format="line", secret=True, readable=True),
        "reversemaskv6": Field("int"),
        "ttl": Field("int"),
        "type": Field(choices=("powerdns",), required=True, fixed=True),
        "url": LINE,
    },
    left_out={**_LOCKED, "reversev6mask": "no type takes it"},
    variants={"powerdns": "url! key! ttl reversemaskv6 fingerprint"},
    scopes=(
        Scope(
            "cluster/sdn/dns",
            sees=Grant(("/sdn/dns/{dns}",), _SEES),
            grants=(Grant(("/sdn/dns",), _ALLOCATE),),
        ),
    ),
    digest=True,
)

SDN_IPAM = Kind(
    name="sdn_ipam",
    identity=("ipam",),
    names={"ipam": PLUGIN_ID},
    fields={
        "fingerprint": FINGERPRINT,
        "section": Field("int"),
        "token": Field(format="line", secret=True, readable=True),
        "type": Field(choices=("netbox", "phpipam", "pve"), required=True, fixed=True),
        "url": LINE,
    },
    left_out=_LOCKED,
    variants={"netbox": "url! token! fingerprint", "phpipam": "url! token! section! fingerprint", "pve": ""},
    scopes=(
        Scope(
            "cluster/sdn/ipams",
            sees=Grant(("/sdn/ipams/{ipam}",), _SEES),
            grants=(Grant(("/sdn/ipams",), _ALLOCATE),),
        ),
    ),
    digest=True,
    always=("pve",),
)

# -------------------------------------------------------------------------------------------------------- firewall

LOG_LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug", "nolog")
LOG_LEVEL = Field(choices=LOG_LEVELS)
NAME = r"[A-Za-z][A-Za-z0-9\-\_]+"
_POLICY = Field(choices=("ACCEPT", "REJECT", "DROP"))


def _firewall(tail: str, *wanted: str) -> tuple[Scope, ...]:
    """The scopes of something of the firewall, of those that are wanted."""
    cluster, node, guest = "cluster/firewall", "nodes/{node}/firewall", "nodes/{node}/{guest}/{vmid}/firewall"
    vnet = "cluster/sdn/vnets/{vnet}/firewall"
    scopes = {
        "cluster": (cluster + tail, "/", "Sys.Modify"),
        "node": (node + tail, "/nodes/{node}", "Sys.Modify"),
        "guest": (guest + tail, "/vms/{vmid}", "VM.Config.Network"),
        "vnet": (vnet + tail, "/sdn/zones/{zone}/{vnet}", "SDN.Allocate"),
        "group": (cluster + "/groups/{group}", "/", "Sys.Modify"),
    }
    chosen = [scopes[name] for name in wanted]
    return tuple(Scope(path, grants=(Grant((where,), (privilege,)),)) for path, where, privilege in chosen)


_OF_RULES = "action! comment dest dport enable icmp-type iface log macro proto source sport"

FIREWALL_RULE = Kind(
    name="firewall_rule",
    identity=(),
    names={},
    fields={
        "action": Field(format="fw-action", pattern=NAME, shortest=2, longest=20),
        "comment": LINE,
        "dest": Field("words", format="pve-fw-addr-spec", longest=512),
        "dport": Field("words", format="pve-fw-port-spec"),
        "enable": Field("flag", minimum=0, default=False),
        "icmp-type": Field(format="pve-fw-icmp-type-spec"),
        "iface": Field(format="pve-iface", shortest=2, longest=20),
        "log": LOG_LEVEL,
        # Proxmox writes it as its list of macros does (verify_rule of PVE/Firewall.pm).
        "macro": Field(format="line", longest=128, folded=True),
        "proto": Field(format="pve-fw-protocol-spec"),
        "source": Field("words", format="pve-fw-addr-spec", longest=512),
        "sport": Field("words", format="pve-fw-port-spec"),
        "type": Field(choices=("in", "out", "forward", "group"), required=True),
    },
    # Of what uses a group nothing else is written ($format_rules of PVE/Firewall.pm).
    variants={**dict.fromkeys(("in", "out", "forward"), _OF_RULES), "group": "action! comment enable iface"},
    left_out={"pos": "the order of the objects says it", "moveto": "the order of the objects says it"},
    scopes=_firewall("/rules", "cluster", "node", "guest", "vnet", "group"),
    digest=True,
    comment="comment",
    manner="rules",
)

FIREWALL_ALIAS = Kind(
    name="firewall_alias",
    identity=("name",),
    names={"name": Field(pattern=NAME, shortest=2, longest=64, folded=True)},
    fields={"cidr": Field(format="IPorCIDR", required=True), "comment": Field(format="line", unset="omitted")},
    left_out={"rename": "another name is another alias"},
    scopes=_firewall("/aliases", "cluster", "guest"),
    whole=True,
    digest=True,
    comment="comment",
)

ENTRY = Field(
    "map",
    subs={
        "cidr": Field(format="IPorCIDRorAlias", required=True),
        "comment": LINE,
        "nomatch": Field("bool", default=False),
    },
    default_sub="cidr",
)

FIREWALL_IPSET = Kind(
    name="firewall_ipset",
    identity=("name",),
    # In Proxmox's files the names of sets and groups are lower case (generic_fw_config_parser of PVE/Firewall.pm).
    names={"name": Field(pattern=NAME, shortest=2, longest=64, folded=True)},
    fields={
        "cidrs": Field("maps", subs=ENTRY.subs, default_sub="cidr", kept=True),
        "comment": Field(format="line", unset="empty"),
    },
    left_out={"rename": "another name is another set"},
    scopes=_firewall("/ipset", "cluster", "guest"),
    update=("POST", "{collection}"),
    delete_with={"force": 1},
    details="{collection}/{id}",
    detail="cidrs",
    renames=True,
    digest=True,
    comment="comment",
    attached="entries",
)

FIREWALL_GROUP = Kind(
    name="firewall_group",
    identity=("group",),
    names={"group": Field(pattern=NAME, shortest=2, longest=18, folded=True)},
    fields={"comment": Field(format="line", unset="empty")},
    left_out={"rename": "another name is another group"},
    scopes=(Scope("cluster/firewall/groups", grants=(Grant(("/",), ("Sys.Modify",)),)),),
    update=("POST", "{collection}"),
    details="{collection}/{id}",
    detail="rules",
    renames=True,
    digest=True,
    comment="comment",
    attached="rules",
)

_OPTIONS: dict[str, Field] = {
    "dhcp": Field("bool", default=False),
    "ebtables": Field("bool", default=True),
    "enable": Field("flag", minimum=0),
    "ipfilter": BOOL,
    "log_level_forward": LOG_LEVEL,
    "log_level_in": LOG_LEVEL,
    "log_level_out": LOG_LEVEL,
    "log_nf_conntrack": Field("bool", default=False),
    "log_ratelimit": Field(
        "map",
        subs={
            "enable": Field("bool", default=True, required=True),
            "burst": Field("int", minimum=0, default=5),
            "rate": Field(pattern="[1-9][0-9]*/(second|minute|hour|day)", default="1/second"),
        },
        default_sub="enable",
    ),
    "macfilter": Field("bool", default=True),
    "ndp": Field("bool", default=True),
    "nf_conntrack_allow_invalid": Field("bool", default=False),
    "nf_conntrack_helpers": Field("words", format="pve-fw-conntrack-helper", folded=True),
    "nf_conntrack_max": Field("int", minimum=32768, default=262144),
    "nf_conntrack_tcp_timeout_established": Field("int", minimum=7875, default=432000),
    "nf_conntrack_tcp_timeout_syn_recv": Field("int", minimum=30, maximum=60, default=60),
    "nftables": Field("bool", default=False),
    # It is on unless it is switched off.
    "nosmurfs": Field("bool"),
    "policy_forward": Field(choices=("ACCEPT", "DROP")),
    "policy_in": _POLICY,
    "policy_out": _POLICY,
    "protection_synflood": Field("bool", default=False),
    "protection_synflood_burst": Field("int", default=1000),
    "protection_synflood_rate": Field("int", default=200),
    "radv": BOOL,
    "smurf_log_level": LOG_LEVEL,
    "tcp_flags_log_level": LOG_LEVEL,
    "tcpflags": Field("bool", default=False),
}
# What each level of the firewall has, by the keys of its scope.
_LEVELS = {
    "": "ebtables enable log_ratelimit policy_forward policy_in policy_out",
    "node": "enable log_level_forward log_level_in log_level_out log_nf_conntrack ndp nf_conntrack_allow_invalid "
    "nf_conntrack_helpers nf_conntrack_max nf_conntrack_tcp_timeout_established nf_conntrack_tcp_timeout_syn_recv "
    "nftables nosmurfs protection_synflood protection_synflood_burst protection_synflood_rate smurf_log_level "
    "tcp_flags_log_level tcpflags",
    "vnet": "enable log_level_forward policy_forward",
    "node guest vmid": "dhcp enable ipfilter log_level_in log_level_out macfilter ndp policy_in policy_out radv",
}

_OFF: dict[str, t.Any] = {"default": False, "kind": "bool", "minimum": None}

FIREWALL_OPTIONS = Kind(
    name="firewall_options",
    identity=(),
    names={},
    fields=_OPTIONS,
    variants=_LEVELS,
    variant="",
    # Whether the firewall is on when nothing says so. In the cluster's options it is a number.
    overrides={
        "": {"enable": {"default": False}},
        "node": {"enable": {"default": True, "kind": "bool", "minimum": None}},
        "node guest vmid": {"enable": _OFF},
        "vnet": {"enable": _OFF},
    },
    scopes=_firewall("/options", "cluster", "node", "guest", "vnet"),
    update=("PUT", "{collection}"),
    digest=True,
    manner="options",
)

# ------------------------------------------------------------------------------------------------------------ node

INTERFACES = Field("words", format="pve-iface", joined=" ")
_OF_ALL = "autostart cidr cidr6 comments gateway gateway6 mtu"
_OF_PORTS = f"ovs_bridge ovs_options ovs_tag {_OF_ALL}"
# Who is a port of something is started with it (__write_etc_network_interfaces of PVE/Network/Interfaces.pm).
_STARTED: dict[str, t.Any] = {"autostart": {"kept": True}}
_LINUX_BONDS = ("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")
_OVS_BONDS = ("active-backup", "balance-slb", "lacp-balance-slb", "lacp-balance-tcp")

NETWORK_INTERFACE = Kind(
    name="network_interface",
    identity=("iface",),
    names={"iface": Field(format="pve-iface", shortest=2, longest=20)},
    fields={
        "autostart": BOOL,
        "bond-primary": Field(format="pve-iface", only={"bond_mode": ("active-backup",)}),
        "bond_mode": Field(
            choices=(*_LINUX_BONDS, *_OVS_BONDS[1:]),
            default="balance-rr",
        ),
        "bond_xmit_hash_policy": Field(
            choices=("layer2", "layer2+3", "layer3+4"), only={"bond_mode": ("balance-xor", "802.3ad")}
        ),
        "bridge_ports": INTERFACES,
        "bridge_vids": Field(
            "words",
            format="pve-vlan-id-or-range",
            joined=" ",
            default=("2-4094",),
            only={"bridge_vlan_aware": (True,)},
        ),
        "bridge_vlan_aware": BOOL,
        "cidr": Field(format="CIDRv4"),
        "cidr6": Field(format="CIDRv6"),
        "comments": Field(format="lines"),
        "gateway": Field(format="ipv4"),
        "gateway6": Field(format="ipv6"),
        "mtu": Field("int", minimum=1280, maximum=65520),
        "ovs_bonds": INTERFACES,
        "ovs_bridge": Field(format="pve-iface"),
        "ovs_options": Field(format="line", longest=1024),
        "ovs_ports": INTERFACES,
        "ovs_tag": Field("int", minimum=1, maximum=4094),
        "slaves": INTERFACES,
        "type": Field(
            choices=(
                *("bridge", "bond", "eth", "alias", "vlan", "fabric", "OVSBridge", "OVSBond", "OVSPort", "OVSIntPort"),
                *("vnet", "unknown"),
            ),
            required=True,
            fixed=True,
        ),
        # They are read from the name of the interface when nothing else says them.
        "vlan-id": Field("int", minimum=1, maximum=4094, kept=True),
        "vlan-raw-device": Field(format="pve-iface", kept=True),
    },
    # What is written of each type (__interface_to_string of PVE/Network/Interfaces.pm); of others it is dropped.
    variants={
        **dict.fromkeys(("eth", "alias", "fabric", "vnet", "unknown"), _OF_ALL),
        "bond": f"slaves bond_mode bond_xmit_hash_policy bond-primary {_OF_ALL}",
        "bridge": f"bridge_ports bridge_vids bridge_vlan_aware {_OF_ALL}",
        "vlan": f"vlan-id vlan-raw-device {_OF_ALL}",
        "OVSBond": f"ovs_bonds bond_mode {_OF_PORTS}",
        "OVSBridge": f"ovs_ports ovs_options {_OF_ALL}",
        "OVSIntPort": _OF_PORTS,
        "OVSPort": _OF_PORTS,
    },
    overrides={
        **dict.fromkeys(("eth", "OVSIntPort", "OVSPort"), _STARTED),
        "bond": {"bond_mode": {"choices": _LINUX_BONDS}},
        "OVSBond": {**_STARTED, "bond_mode": {"choices": _OVS_BONDS, "default": "active-backup"}},
    },
    left_out={
        "address": "cidr says it",
        "netmask": "cidr says it",
        "address6": "cidr6 says it",
        "netmask6": "cidr6 says it",
        "comments6": "it is read back as part of comments",
    },
    scopes=(
        Scope(
            "nodes/{node}/network",
            sees=Grant(("/sdn/zones/localnetwork/{iface}",), ("SDN.Audit", "SDN.Use"), types=("bridge", "OVSBridge")),
            grants=(Grant(("/nodes/{node}",), ("Sys.Modify",)),),
        ),
    ),
    repeated=("type",),
    whole=True,
    comment="comments",
    # An interface of the machine is listed also when nothing is configured for it.
    there="priority",
    # update_network of PVE/API2/Network.pm
    resets=(Reset("method", "cidr", ("manual", "static")), Reset("method6", "cidr6", ("manual", "static"))),
    apply=Apply("nodes/{node}/network", Grant(("/nodes/{node}",), ("Sys.Modify",)), waiting="changes"),
)

# ------------------------------------------------------------------------------------------------------ monitoring

METRIC_SERVER = Kind(
    name="metric_server",
    identity=("id",),
    names={"id": Field(format="pve-configid")},
    fields={
        "api-path-prefix": LINE,
        "bucket": LINE,
        "disable": BOOL,
        "influxdbproto": Field(choices=("udp", "http", "https"), default="udp"),
        "max-body-size": Field("int", minimum=1, default=25000000),
        "mtu": Field("int", minimum=512, maximum=65536, default=1500),
        "organization": LINE,
        "otel-compression": Field(choices=("none", "gzip"), default="gzip"),
        "otel-headers": Field(format="line", longest=1024, secret=True, readable=True),
        "otel-max-body-size": Field("int", minimum=1024, default=10000000),
        "otel-path": Field(format="line", default="/v1/metrics"),
        "otel-protocol": Field(choices=("http", "https"), default="https"),
        "otel-resource-attributes": Field(format="line", longest=1024),
        "otel-timeout": Field("int", minimum=1, maximum=10, default=5),
        "otel-verify-ssl": Field("bool", default=True),
        "path": Field(format="graphite-path"),
        "port": Field("int", minimum=1, maximum=65536),
        "proto": Field(choices=("udp", "tcp")),
        "server": Field(format="address"),
        "timeout": Field("int", minimum=0, default=1),
        "token": Field(secret=True),
        "type": Field(choices=("graphite", "influxdb", "opentelemetry"), required=True, fixed=True),
        "verify-certificate": Field("bool", default=True),
    },
    variants={
        "graphite": "server! port! mtu proto timeout path disable",
        "influxdb": "server! port! mtu disable organization bucket token influxdbproto timeout max-body-size "
        "api-path-prefix verify-certificate",
        "opentelemetry": "server! port! disable otel-protocol otel-path otel-timeout otel-headers otel-verify-ssl "
        "otel-max-body-size otel-resource-attributes otel-compression",
    },
    scopes=(Scope("cluster/metrics/server", grants=(Grant(("/",), ("Sys.Modify",)),)),),
    create=("POST", "{collection}/{id}"),
    details="cluster/metrics/server/{id}",
    repeated=("server", "port"),
)

_NOTIFY = (
    Grant(("/mapping/notifications",), ("Mapping.Modify",)),
    # Sys.AccessNetwork, or both of the others.
    Grant(("/",), ("Sys.AccessNetwork", "Sys.Audit"), (CREATE, UPDATE)),
    Grant(("/",), ("Sys.AccessNetwork", "Sys.Modify"), (CREATE, UPDATE)),
)
_PAIRS: dict[str, t.Any] = {
    "subs": {"name": Field(format="line", required=True), "value": Field(format="line", secret=True)}
}

NOTIFICATION_TARGET = Kind(
    name="notification_target",
    identity=("name",),
    names={"name": Field(format="pve-configid")},
    fields={
        "author": LINE,
        "body": Field(),
        "comment": LINE,
        "disable": Field("bool", default=False),
        "from-address": LINE,
        "header": Field("maps", joined="array", **_PAIRS),
        "mailto": Field("words", joined="array", format="email-or-username"),
        "mailto-user": Field("words", joined="array", format="pve-userid"),
        "method": Field(choices=("post", "put", "get")),
        "mode": Field(choices=("insecure", "starttls", "tls"), default="tls"),
        "password": Field(secret=True),
        "port": Field("int"),
        "secret": Field("maps", joined="array", secret=True, **_PAIRS),
        "server": LINE,
        "token": Field(secret=True),
        "url": LINE,
        "username": LINE,
    },
    variants={
        "gotify": "comment disable server! token!",
        "sendmail": "author comment disable from-address mailto mailto-user",
        "smtp": "author comment disable from-address! mailto mailto-user mode password port server! username",
        "webhook": "body comment disable header method! secret url!",
    },
    scopes=(Scope("cluster/notifications/endpoints/{type}", grants=_NOTIFY),),
    removed_as="array",
    comment="comment",
    there="origin",
    builtin="builtin",
)

NOTIFICATION_MATCHER = Kind(
    name="notification_matcher",
    identity=("name",),
    names={"name": Field(format="pve-configid")},
    fields={
        "comment": LINE,
        "disable": Field("bool", default=False),
        "invert-match": BOOL,
        "match-calendar": Field("words", joined="array"),
        "match-field": Field("words", joined="array", format="match-field"),
        "match-severity": Field("words", joined="array", format="severities"),
        "mode": Field(choices=("all", "any"), default="all"),
        "target": Field("words", joined="array", format="pve-configid"),
    },
    scopes=(
        Scope("cluster/notifications/matchers", grants=(Grant(("/mapping/notifications",), ("Mapping.Modify",)),)),
    ),
    removed_as="array",
    comment="comment",
    there="origin",
    builtin="builtin",
    matches=("match-severity", "match-field"),
)

ROWS = (
    *(SDN_ZONE, SDN_VNET, SDN_SUBNET, SDN_DNS, SDN_IPAM),
    *(FIREWALL_RULE, FIREWALL_ALIAS, FIREWALL_IPSET, FIREWALL_GROUP, FIREWALL_OPTIONS),
    *(NETWORK_INTERFACE, METRIC_SERVER, NOTIFICATION_TARGET, NOTIFICATION_MATCHER),
)
