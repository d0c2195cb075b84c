# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The forms of texts: which of them Proxmox takes, and how it spells them.

They are those that PVE/JSONSchema.pm, PVE/Storage/Plugin.pm, PVE/Firewall.pm and PVE/Network/SDN/*.pm register, by the
same names. Nothing here does I/O.
"""

from __future__ import annotations

import ipaddress
import json
import re
import typing as t


class InvalidValue(ValueError):
    """A value that Proxmox would refuse. ``str()`` says what would be right, without the field."""


def _matching(pattern: str, what: str) -> t.Callable[[str], str]:
    compiled = re.compile(pattern, re.DOTALL)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise InvalidValue(f"{text!r} is not {what}")
        return text

    return check


def _without_zone(text: str) -> str:
    """An address as Proxmox takes it: Python knows the interfaces of link-local addresses, too."""
    if "%" in text:
        raise ValueError
    return text


def _address(*versions: int) -> t.Callable[[str], str]:
    def check(text: str) -> str:
        try:
            address = ipaddress.ip_address(_without_zone(text))
        except ValueError:
            raise InvalidValue(f"{text!r} is not an IP address") from None
        if address.version not in versions:
            raise InvalidValue(f"{text!r} is not an IPv{versions[0]} address")
        return str(address)

    return check


def _interface(*versions: int) -> t.Callable[[str], str]:
    def check(text: str) -> str:
        try:
            interface = ipaddress.ip_interface(_without_zone(text))
        except ValueError:
            raise InvalidValue(f"{text!r} is not an address with its prefix length, such as 10.0.0.1/24") from None
        if interface.version not in versions or "/" not in text:
            raise InvalidValue(f"{text!r} is not an IPv{versions[0]} address with its prefix length")
        if interface.network.prefixlen < 8:
            raise InvalidValue(f"{text!r}: the prefix length is at least 8")
        return str(interface)

    return check


def _host_or_network(text: str) -> str:
    """An address or network; one of a single address is that address (``parse_ip_or_cidr`` of PVE/Firewall.pm)."""
    try:
        interface = ipaddress.ip_interface(_without_zone(text))
    except ValueError:
        raise InvalidValue(f"{text!r} is not an IP address or network") from None
    single = interface.network.prefixlen == interface.ip.max_prefixlen
    return str(interface.ip) if single else str(interface)


_ALIAS = re.compile(r"(dc/|guest/)?[A-Za-z][A-Za-z0-9_-]+")


def _member(text: str) -> str:
    """An entry of an IP set: without host bits (``clean_cidr`` of PVE/Firewall.pm), or an alias (``resolve_alias``)."""
    if _ALIAS.fullmatch(text):
        return text.lower()
    _host_or_network(text)
    network = ipaddress.ip_network(text, strict=False)
    if network.prefixlen == 0:
        raise InvalidValue(f"{text!r} is everything, which an IP set cannot have")
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def _network(text: str) -> str:
    """A network with its prefix length, as the name of a subnet."""
    try:
        if "/" not in text:
            raise ValueError
        return str(ipaddress.ip_network(_without_zone(text)))
    except ValueError:
        raise InvalidValue(f"{text!r} is not a network such as 10.0.0.0/24") from None


def _host(text: str) -> str:
    try:
        return str(ipaddress.ip_address(_without_zone(text)))
    except ValueError:
        return _dns_name(text)


def _ha_node(text: str) -> str:
    """A node with its priority, of which 0 is the default (``parse_node_priority`` of PVE/HA/Tools.pm)."""
    name, _colon, priority = _matching(rf"{_NODE}(:\d+)?", "a node, or a node with its priority (pve1:2)")(
        text
    ).partition(":")
    return f"{name}:{int(priority)}" if int(priority or 0) else name


def _privilege_path(text: str) -> str:
    """A path of the access control list (``normalize_path`` of PVE/AccessControl.pm)."""
    path = "/" + re.sub(r"/+", "/", text).strip("/")
    return _matching(r"/[A-Za-z0-9._/-]*", "a path of objects, such as /vms/101")(path)


def _mac(text: str) -> str:
    return _matching(r"[0-9A-F][02468ACE](:[0-9A-F]{2}){5}", "the MAC address of one interface")(text.upper())


def _vlans(text: str) -> str:
    """A VLAN id or a range of them."""
    first, _dash, last = _matching(r"\d{1,4}(-\d{1,4})?", "a VLAN id or a range such as 2-100")(text).partition("-")
    bounds = [int(first), int(last or first)]
    if not 2 <= bounds[0] <= bounds[1] <= 4094:
        raise InvalidValue(f"{text!r} is not within 2 to 4094")
    return str(bounds[0]) if bounds[0] == bounds[1] else f"{bounds[0]}-{bounds[1]}"


def _lines(text: str) -> str:
    """A comment of the node's network: Proxmox adds a newline, and drops the blanks that lines end with."""
    return "\n".join(line.rstrip() for line in text.split("\n")).rstrip("\n")


def _line(text: str) -> str:
    """A text of one line, which is all that Proxmox's configuration files hold, without the blanks around it."""
    text = text.strip()
    if "\n" in text or "\r" in text:
        raise InvalidValue("it has to be one line")
    return text


def _path(text: str) -> str:
    """An absolute path without slashes that say nothing (``verify_path`` of PVE/Storage/Plugin.pm)."""
    return _shortened(_matching(r"/[^;()].*", "an absolute path")(text))


def _directory(text: str) -> str:
    """The path of a directory (``check_config`` of PVE/Storage/DirPlugin.pm)."""
    return _shortened(_matching(r"/[-/a-zA-Z0-9_.@]+", "an absolute path of letters, digits and - / _ . @")(text))


def _relative(text: str) -> str:
    """A directory in one of a storage (``verify_dir_override`` of PVE/Storage/Plugin.pm)."""
    if not text or ".." in text or text.endswith(".") or len(text) >= 1023 or max(map(len, text.split("/"))) >= 255:
        raise InvalidValue(f"{text!r} is not a path within the storage, of which no part ends with a dot")
    return _shortened(text)


def _shortened(text: str) -> str:
    parts = [part for part in text.split("/") if part not in ("", ".")]
    return "/" * text.startswith("/") + "/".join(parts) if parts else text


def _portal(text: str) -> str:
    """A host, with a port or without (``parse_host_and_port`` of PVE/Tools.pm)."""
    host = re.fullmatch(r"(?:\[(?P<bracketed>[^]]*)\]|(?P<plain>[A-Za-z0-9.-]+))(?::\d+)?", text)
    if host and re.fullmatch("[A-Za-z0-9.-]+", host["plain"] or host["bracketed"]):
        return text
    try:
        ipaddress.IPv6Address(_without_zone(host["bracketed"] if host else text))
    except ValueError:
        # An IPv6 address without brackets has its port after a dot.
        address, _dot, port = text.rpartition(".")
        if not host and re.fullmatch(r"\d+", port):
            return f"{_address(6)(address)}.{port}"
        raise InvalidValue(f"{text!r} is not a host, or a host with its port") from None
    return text


def _block_size(text: str) -> str:
    """``verify_zfs_blocksize`` of PVE/Storage/ZFSPoolPlugin.pm"""
    if text:
        number = _matching(r"[1-9][0-9]*[kKmM]?", "a number, or one with k or m after it")(text)
        size = int(number.rstrip("kKmM")) * {"k": 1024, "m": 1024**2}.get(number[-1].lower(), 1)
        if not 512 <= size <= 16 * 1024**2 or size & (size - 1):
            raise InvalidValue(f"{text!r} is not a power of 2 between 512 and 16m")
    return text


def _route_target(text: str) -> str:
    asn, _colon, number = _matching(r"\d+:\d+", "a route target, such as 65000:1")(text).partition(":")
    if max(int(asn), int(number)) > 4294967295:
        raise InvalidValue(f"{text!r}: 4294967295 is the largest number in a route target")
    return text


_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_CALENDAR = (
    *("minutely", "hourly", "daily", "weekly", "monthly", "yearly", "annually", "quarterly", "semiannually", "semi"),
    "utc",
)


def _calendar_event(text: str) -> str:
    """A schedule. The days, the other words and the signs in it are known; whether they fit only Proxmox knows."""
    text = _line(text)
    for word, signs in re.findall(r"([^\W\d_]+)|([\W\d_]+)", text):
        low = word.lower()
        known = low in _CALENDAR or (len(low) > 2 and any(day.startswith(low) for day in _DAYS))
        if (word and not known) or not re.fullmatch(r"[\d*/:.,~\s-]*", signs):
            raise InvalidValue(f"{text!r} is not a schedule, such as mon..fri 02:30: what is {(word or signs)!r}?")
    if not text:
        raise InvalidValue("it is empty")
    return text


# The names of iptables and ip6tables (PVE/Firewall.pm).
_ICMP_BOTH = (
    "communication-prohibited destination-unreachable echo-reply echo-request parameter-problem port-unreachable "
    "redirect router-advertisement router-solicitation time-exceeded ttl-zero-during-reassembly ttl-zero-during-transit"
)
ICMP_TYPES = {
    "icmp": frozenset(
        f"{_ICMP_BOTH} any network-unreachable host-unreachable protocol-unreachable fragmentation-needed "
        "source-route-failed network-unknown host-unknown network-prohibited host-prohibited network-redirect "
        "TOS-network-unreachable TOS-host-unreachable TOS-network-redirect TOS-host-redirect host-precedence-violation "
        "precedence-cutoff source-quench host-redirect ip-header-bad required-option-missing timestamp-request "
        "timestamp-reply address-mask-request address-mask-reply".split()
    ),
    "icmpv6": frozenset(
        f"{_ICMP_BOTH} no-route beyond-scope address-unreachable failed-policy reject-route packet-too-big bad-header "
        "unknown-header-type unknown-option neighbor-solicitation neighbour-solicitation neighbor-advertisement "
        "neighbour-advertisement".split()
    ),
}
ICMP_TYPES["ipv6-icmp"] = ICMP_TYPES["icmpv6"]


def _icmp_type(text: str) -> str:
    if text and not any(text in names for names in ICMP_TYPES.values()):
        raise InvalidValue(f"{text!r} is not a name of a type of ICMP, such as echo-request")
    return text


def _port(text: str) -> str:
    """A port, a range of them, or a name of the node's /etc/services, which only Proxmox can look up."""
    text = _matching(r"[A-Za-z0-9]\S*", "a port, a range such as 80:90, or the name of a service")(text)
    if re.fullmatch(r"[\d:]+", text):
        first, _colon, last = _matching(r"\d+(:\d+)?", "a port or a range such as 80:90")(text).partition(":")
        if int(last or first) > 65535 or int(first) > int(last or first):
            raise InvalidValue(f"{text!r} is not within 0 to 65535, from the smaller to the larger")
    return text


# Protocols with ports, by name and number (PVE/Firewall.pm).
_WITH_PORTS = ("udp", "17", "udplite", "136", "tcp", "6", "dccp", "33", "sctp", "132")
_MOST_PORTS = 15
_FIREWALL_NAME = "[A-Za-z][A-Za-z0-9_-]+"


def is_reference(text: str) -> bool:
    """Whether an address of a rule is that of an IP set or an alias."""
    return re.fullmatch(rf"\+(guest/|dc/|sdn/)?{_FIREWALL_NAME}|(guest/|dc/)?{_FIREWALL_NAME}", text) is not None


def _rule_address(text: str) -> str:
    """One item of a rule's source or destination (``parse_address_list`` of PVE/Firewall.pm)."""
    if is_reference(text):
        if len(text) > 64 + text.startswith("+"):
            raise InvalidValue(f"{text!r}: the name is too long")
        return text
    try:
        first, dash, last = _without_zone(text).partition("-")
        network = ipaddress.ip_network(_completed(first))
        if dash:
            end = ipaddress.ip_network(_completed(last))
            if {network.num_addresses, end.num_addresses} != {1} or network.version != end.version:
                raise ValueError
            if int(network.network_address) > int(end.network_address):
                raise InvalidValue(f"{text!r} is a range from the larger to the smaller address")
    except InvalidValue:
        raise
    except ValueError:
        raise InvalidValue(
            f"{text!r} is neither an address, a network, a range of addresses, an alias nor an IP set such as +name"
        ) from None
    return text


def problem_of_rule(values: t.Mapping[str, t.Any]) -> tuple[str, str] | None:
    """Which field of a firewall's rule does not fit the others, and why (``verify_rule`` of PVE/Firewall.pm)."""
    proto = values.get("proto")
    direction, action = values.get("type"), values.get("action")
    if direction != "group" and action not in (("ACCEPT", "DROP") if direction == "forward" else RULE_ACTIONS):
        return "action", f"it is none of those that a rule of the type {direction} has"
    for name in ("dport", "sport"):
        ports = values.get(name, ())
        if ports and not proto:
            return "proto", f"it is missing; {name} needs it"
        if ports and proto not in (*_WITH_PORTS, *(ICMP_TYPES if name == "dport" else ())):
            return name, f"the protocol {proto} has no ports"
        # A range counts as two.
        if sum(1 + (":" in port) for port in ports if port[0].isdigit()) > _MOST_PORTS:
            return name, f"at most {_MOST_PORTS} numbers are allowed, of which a range has two"
    icmp_type = values.get("icmp-type")
    if icmp_type and proto not in ICMP_TYPES:
        return "proto", f"it has to be one of {', '.join(ICMP_TYPES)}, which icmp-type needs"
    if icmp_type and icmp_type not in ICMP_TYPES[str(proto)]:
        return "icmp-type", f"{proto} does not have {icmp_type}"
    if icmp_type and values.get("dport"):
        return "icmp-type", "it does not go with dport"
    versions = {6 if proto != "icmp" else 4} if proto in ICMP_TYPES else set()
    for name in ("source", "dest"):
        addresses = values.get(name, ())
        alone = [it for it in addresses if is_reference(it) or "-" in it]
        if alone and len(addresses) > 1:
            return name, f"{alone[0]} does not go with other addresses"
        versions |= {6 if ":" in it else 4 for it in addresses if not is_reference(it)}
        if len(versions) > 1:
            return name, "IPv4 and IPv6 do not go together in a rule"
    return None


def _completed(text: str) -> str:
    """An IPv4 address, or a network, with all of its parts (``ip_expand_address`` of Net::IP)."""
    address, slash, bits = text.partition("/")
    if re.fullmatch(r"\d+(\.\d+){0,2}", address):
        address += ".0" * (3 - address.count("."))
    return f"{address}{slash}{bits}"


RULE_ACTIONS = ("ACCEPT", "DROP", "REJECT")


def _action(text: str) -> str:
    """What a rule does, or the security group that it uses; the names of groups are lower case in Proxmox's files."""
    return text if text in RULE_ACTIONS else text.lower()


SEVERITIES = ("info", "notice", "warning", "error", "unknown")


def _severities(text: str) -> str:
    """Those of which any one will do."""
    found = {word.strip() for word in text.split(",")}
    for word in found.difference(SEVERITIES):
        raise InvalidValue(f"{word!r} is none of {', '.join(SEVERITIES)}")
    return ",".join(word for word in SEVERITIES if word in found)


def _match_field(text: str) -> str:
    """A field of a notification, with values of which any one will do, or with an expression."""
    pattern = r"(exact|regex):[A-Za-z0-9_][A-Za-z0-9._-]*=[^\n]*"
    name, equals, value = _matching(pattern, "such as exact:type=vzdump or regex:hostname=web.*")(text).partition("=")
    if name.startswith("exact:"):
        value = ",".join(sorted({word.strip() for word in value.split(",")}))
    return name + equals + value


GENERATED = "autogen"


def _backup_key(text: str) -> str:
    """A key of proxmox-backup-client, or that one is to be made (``on_add_hook`` of PVE/Storage/PBSPlugin.pm)."""
    if text != GENERATED and "data" not in _key(text):
        raise InvalidValue(f"a key in the form of JSON is wanted, or {GENERATED}")
    return text


def _key(text: str) -> dict[str, t.Any]:
    try:
        key = json.loads(text)
    except ValueError:
        return {}
    return key if isinstance(key, dict) else {}


def is_that_key(text: str, fingerprint: t.Any) -> bool:
    """Whether a key may be the one that is there, as far as its fingerprint tells."""
    declared = _key(text).get("fingerprint")
    # Proxmox says 1 of a key without a fingerprint.
    return not declared or str(fingerprint) in ("1", str(declared))


_NODE = r"[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?"
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
_dns_name = _matching(rf"{_LABEL}(\.{_LABEL})*", "a DNS name")
_USER = r"[\w+~-]+(\.[\w+~-]+)*"
_MAIL = rf"{_USER}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*"
_lvm_name = _matching(r"[A-Za-z0-9][A-Za-z0-9_.-]*[A-Za-z0-9]", "a name in LVM")

# By the names that Proxmox's API schema has for them, where it has one.
FORMATS: dict[str, t.Callable[[str], str]] = {
    "line": _line,
    "lines": _lines,
    "pve-configid": _matching(r"[A-Za-z][A-Za-z0-9_-]+", "an id: a letter, then letters, digits, _ and -"),
    "pve-storage-id": _matching(r"[A-Za-z][A-Za-z0-9_.-]*[A-Za-z0-9]", "the id of a storage"),
    "pve-node": _matching(_NODE, "the name of a node"),
    "pve-iface": _matching(r"[A-Za-z][A-Za-z0-9_]{1,20}([:.]\d+)?", "the name of a network interface"),
    "pve-userid": _matching(r"[^\s:/]+@[A-Za-z][A-Za-z0-9._-]+", "a user with its realm, such as ci@pve"),
    "pve-tokenid": _matching(
        r"[^\s:/]+@[A-Za-z][A-Za-z0-9._-]+![A-Za-z][A-Za-z0-9._-]+", "a token, such as ci@pve!deploy"
    ),
    "pve-realm": _matching(r"[A-Za-z][A-Za-z0-9._-]+", "the name of a realm"),
    "pve-groupid": _matching(r"[A-Za-z0-9._-]+", "the name of a group"),
    "pve-roleid": _matching(r"[A-Za-z0-9._-]+", "the name of a role"),
    "pve-priv": _matching(r"[A-Z][A-Za-z]+\.[A-Z][A-Za-z.]+", "a privilege, such as VM.Audit"),
    "pve-poolid": _matching(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+){0,2}", "the name of a pool"),
    "pve-vmid": _matching(r"[1-9][0-9]{2,8}", "the id of a guest"),
    "pve-vlan-id-or-range": _vlans,
    "pve-storage-path": _path,
    "pve-storage-directory": _directory,
    "pve-dir-override": _relative,
    "pve-storage-server": _host,
    "pve-storage-portal-dns": _portal,
    "pve-storage-vgname": _lvm_name,
    "pve-storage-zfs-blocksize": _block_size,
    "pve-storage-options": _matching(r"\S+", "a list of options without blanks"),
    "pve-volume-id": _matching(r"[A-Za-z][A-Za-z0-9_.-]*[A-Za-z0-9]:.+", "a volume, such as local-lvm:base"),
    "pve-calendar-event": _calendar_event,
    "pve-replication-job-id": _matching(r"[1-9][0-9]{2,8}-\d{1,9}", "the id of a guest and a number, such as 101-0"),
    "pve-ha-resource-id": _matching(r"(ct|vm):[1-9][0-9]+", "a guest such as ct:101"),
    "pve-ha-node": _ha_node,
    "acl-path": _privilege_path,
    "fw-action": _action,
    "email-or-username": _matching(rf"{_MAIL}|{_USER}", "an e-mail address or the name of a user"),
    "email-opt": _matching(rf"({_MAIL})?", "an e-mail address"),
    "ldap-simple-attr": _matching(r"[A-Za-z0-9]+", "the name of an attribute, of letters and digits"),
    "pve-sdn-fabric-id": _matching(r"[A-Za-z0-9][A-Za-z0-9-]{0,6}[A-Za-z0-9]?", "the id of a fabric"),
    "pve-sdn-bgp-rt": _route_target,
    "pve-fw-icmp-type-spec": _icmp_type,
    "pve-fw-port-spec": _port,
    "pve-fw-protocol-spec": _matching(r"[A-Za-z0-9]\S*|", "the name or the number of a protocol"),
    "pve-fw-addr-spec": _rule_address,
    "pve-fw-conntrack-helper": _matching(
        "amanda|ftp|irc|netbios-ns|pptp|sane|sip|snmp|tftp",
        "a helper of connection tracking, such as ftp",
    ),
    "graphite-path": _matching(rf"{_LABEL}(\.{_LABEL})*", "a path of Graphite, such as proxmox.lab"),
    "ip": _address(4, 6),
    "ipv4": _address(4),
    "ipv6": _address(6),
    "CIDRv4": _interface(4),
    "CIDRv6": _interface(6),
    "IPorCIDR": _host_or_network,
    "IPorCIDRorAlias": _member,
    "network": _network,
    "address": _host,
    "dns-name": _dns_name,
    "mac-addr": _mac,
    "match-field": _match_field,
    "severities": _severities,
    "pve-backup-key": _backup_key,
}
