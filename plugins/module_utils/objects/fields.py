# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fields of a cluster's objects: what a value may be, its normal form, and how it is sent.

Proxmox gives one value back in several spellings: sets in any order, property strings here and objects there, numbers
as texts. A *normal form* is a plain Python value in which two spellings of the same value are equal:

=========  =====================================================================================
kind       normal form
=========  =====================================================================================
string     str
bool       bool
flag       bool, where the API wants a whole number of which only zero means no
int        int
number     int, or float where it is none
words      tuple of str; sorted and each once unless the order counts
map        dict of normal forms (a property string), without what says the default anyway
maps       tuple of such dicts; sorted unless the order counts
=========  =====================================================================================

Nothing here does I/O.
"""

from __future__ import annotations

import ipaddress
import json
import re
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Repeated

TRUE_WORDS = ("1", "on", "yes", "true")
FALSE_WORDS = ("0", "off", "no", "false")
# What stands for a secret in plans, diffs and results.
MASK = "********"
# PVE::Tools::split_list
SEPARATORS = re.compile(r"[,;\s\0]+")


class InvalidValue(ValueError):
    """A value that Proxmox would refuse. ``str()`` says what would be right, without the field."""


@dataclass(frozen=True)
class Field:
    """One field of an object, or one sub-key of a property string.

    kind: see above.
    default: the value that means the same as leaving the field out; None when there is none.
    choices, minimum, maximum, shortest, longest, pattern, format: what is allowed, for ``words`` of each;
        ``longest`` for all together, unless they are a parameter that is repeated.
    subs: the sub-keys of a ``map`` or ``maps``; default_sub: the one that may be written without its name.
    joined: what joins the items of ``words`` when they are sent; ``array`` for a parameter that is repeated.
    ordered: whether the order of the items counts.
    folded: whether upper and lower case mean the same.
    same: other spellings of a value.
    required: whether an object cannot be without it.
    fixed: whether it can only be given when the object is made.
    swapped: the key of a list's entry with which Proxmox exchanges it, so that either may have what is declared.
    kept: whether Proxmox sets it by itself, so that it stays when it is not declared.
    secret: whether it must not be shown; readable: whether reads give it nevertheless, so that it can be compared.
    apart: the path of a PUT that sets a secret of an existing object.
    lasting: the file of a secret that is not replaced, because what was made with it is of no use without it. Reads
        tell its fingerprint.
    passing: whether it only goes along with a request and is not stored.
    unset: how it is removed: ``delete`` (named in the parameter of that name), ``empty`` (sent empty), ``blank`` (sent
        as a blank), ``default`` (the default is sent) or ``omitted`` (not sent, in an update that replaces everything).
    needs: fields that a request has to repeat when it has this one.
    only: the values of other fields without which Proxmox drops this one.
    reserved: the pattern of values that Proxmox sets by itself, which say nothing and cannot be declared.
    root: whether only root@pam with a password may set it.
    """

    kind: str = "string"
    default: t.Any = None
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    shortest: int | None = None
    longest: int | None = None
    pattern: str | None = None
    format: str | None = None
    subs: t.Mapping[str, Field] = field(default_factory=dict)
    default_sub: str | None = None
    joined: str = ","
    ordered: bool = False
    folded: bool = False
    same: t.Mapping[str, str] = field(default_factory=dict)
    required: bool = False
    fixed: bool = False
    swapped: str | None = None
    kept: bool = False
    secret: bool = False
    readable: bool = False
    apart: str | None = None
    lasting: str | None = None
    passing: bool = False
    unset: str = "delete"
    needs: tuple[str, ...] = ()
    only: t.Mapping[str, tuple[t.Any, ...]] = field(default_factory=dict)
    reserved: str | None = None
    root: bool = False

    @property
    def compared(self) -> bool:
        """Whether what is there can be compared with what is declared."""
        return not self.passing and (self.readable or not self.secret)

    def is_reserved(self, value: t.Any) -> bool:
        """Whether a value is one that Proxmox sets by itself."""
        return self.reserved is not None and re.fullmatch(self.reserved, str(value)) is not None


# ---------------------------------------------------------------------------------------------------- normal forms


def normal(it: Field, value: t.Any) -> t.Any:
    """The normal form of a value as a playbook or Proxmox spells it.

    Raises:
        InvalidValue: it is not allowed.
    """
    reader = _READERS[it.kind]
    return reader(it, value)


def actual(it: Field, value: t.Any) -> t.Any:
    """The normal form of what Proxmox has; its text as it is when it is none that this collection knows."""
    try:
        return normal(it, value)
    except InvalidValue:
        return str(value)


def significant(it: Field, value: t.Any) -> bool:
    """Whether a normal form says anything more than leaving the field out."""
    if value is None or value == it.default:
        return False
    return not (it.kind in ("words", "map", "maps", "string") and len(value) == 0)


def _text(it: Field, value: t.Any) -> str:
    if isinstance(value, bool) and it.default in ("yes", "no"):
        value = "yes" if value else "no"
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise InvalidValue(f"a text is wanted, not {_type_of(value)}")
    return _checked(it, str(value))


def _checked(it: Field, text: str) -> str:
    """A single text in its normal form."""
    text = it.same.get(text, text)
    if it.folded:
        text = text.lower()
    if it.format:
        text = _FORMATS[it.format](text)
    if it.pattern is not None and not re.fullmatch(it.pattern, text, re.DOTALL):
        raise InvalidValue(f"{text!r} does not match {it.pattern}")
    if it.choices and text not in it.choices:
        raise InvalidValue(f"{text!r} is none of {', '.join(it.choices)}")
    _check_longest(it, text)
    if it.shortest is not None and len(text) < it.shortest:
        raise InvalidValue(f"at least {it.shortest} characters are wanted")
    return text


def _check_longest(it: Field, text: str) -> None:
    if it.longest is not None and len(text) > it.longest:
        raise InvalidValue(f"at most {it.longest} characters are allowed")


def _bool(_it: Field, value: t.Any) -> bool:
    word = str(value).strip().lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise InvalidValue(f"true or false is wanted, not {_shown(value)}")


def _flag(it: Field, value: t.Any) -> bool:
    if not isinstance(value, bool) and re.fullmatch(r"\d+", str(value)):
        return int(value) != 0
    return _bool(it, value)


def _int(it: Field, value: t.Any) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"[+-]?\d+", str(value).strip()):
        raise InvalidValue(f"a whole number is wanted, not {_shown(value)}")
    number = int(value)
    _check_range(it, number)
    if it.choices and str(number) not in it.choices:
        raise InvalidValue(f"{number} is none of {', '.join(it.choices)}")
    return number


def _number(it: Field, value: t.Any) -> float:
    """PVE::JSONSchema::is_number"""
    if isinstance(value, bool) or not re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", str(value).strip()):
        raise InvalidValue(f"a number is wanted, not {_shown(value)}")
    number = float(value)
    _check_range(it, number)
    return int(number) if number.is_integer() else number


def _check_range(it: Field, number: float) -> None:
    if it.minimum is not None and number < it.minimum:
        raise InvalidValue(f"{number} is less than {it.minimum}")
    if it.maximum is not None and number > it.maximum:
        raise InvalidValue(f"{number} is more than {it.maximum}")


def _words(it: Field, value: t.Any) -> tuple[str, ...]:
    items: t.Sequence[t.Any]
    if isinstance(value, (list, tuple)):
        items = value
    elif it.joined == "array":
        items = [value]
    else:
        items = [word for word in SEPARATORS.split(_plain(value)) if word]
    each = it if it.joined == "array" else replace(it, longest=None)
    found = [_text(each, item) for item in items]
    if each is not it:
        _check_longest(it, it.joined.join(found))
    for item in found:
        if it.joined != "array" and SEPARATORS.search(item):
            raise InvalidValue(f"{item!r} has a separator in it")
    return tuple(found) if it.ordered else tuple(sorted(dict.fromkeys(found)))


def _plain(value: t.Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise InvalidValue(f"a list is wanted, not {_type_of(value)}")
    return str(value)


def _map(it: Field, value: t.Any) -> dict[str, t.Any]:
    parts = _parsed(it, value) if isinstance(value, str) else value
    if not isinstance(parts, dict):
        raise InvalidValue(f"a dictionary is wanted, not {_type_of(value)}")
    found = {}
    for name, sub_value in parts.items():
        sub = it.subs.get(str(name))
        if sub is None:
            raise InvalidValue(f"{name!r} is none of its keys: {', '.join(it.subs)}")
        if sub_value is None:
            continue
        try:
            read = normal(sub, sub_value)
        except InvalidValue as problem:
            raise InvalidValue(f"{name}: {problem}") from None
        if "," in str(read):
            raise InvalidValue(f"{name}: a comma would end it")
        if sub.required or significant(sub, read):
            found[str(name)] = read
    lacking = [name for name, sub in it.subs.items() if sub.required and name not in found]
    if lacking:
        raise InvalidValue(f"{lacking[0]} is missing")
    return {name: found[name] for name in it.subs if name in found}


def _parsed(it: Field, text: str) -> dict[str, str]:
    """A property string (``parse_property_string`` of PVE/JSONSchema.pm)."""
    parts: dict[str, str] = {}
    for part in filter(str.strip, text.split(",")):
        name, equals, rest = part.partition("=")
        if not equals:
            if it.default_sub is None:
                raise InvalidValue(f"{part!r} has no key")
            name, rest = it.default_sub, part
        if name in parts:
            raise InvalidValue(f"{name} is given twice")
        parts[name] = rest
    return parts


def _maps(it: Field, value: t.Any) -> tuple[dict[str, t.Any], ...]:
    if not isinstance(value, (list, tuple)):
        raise InvalidValue(f"a list is wanted, not {_type_of(value)}")
    found = [_map(it, item) for item in value]
    return tuple(found if it.ordered else sorted(found, key=lambda each: sorted(map(repr, each.items()))))


def _type_of(value: t.Any) -> str:
    names = {"dict": "a dictionary", "list": "a list", "tuple": "a list", "bool": "true or false"}
    return names.get(type(value).__name__, "that")


def _shown(value: t.Any) -> str:
    return repr(value) if isinstance(value, (str, int, float)) else _type_of(value)


_READERS: dict[str, t.Callable[[Field, t.Any], t.Any]] = {
    "string": _text,
    "bool": _bool,
    "flag": _flag,
    "int": _int,
    "number": _number,
    "words": _words,
    "map": _map,
    "maps": _maps,
}


# ------------------------------------------------------------------------------------------------------- spellings


def sent(it: Field, value: t.Any) -> t.Any:
    """A normal form as a parameter of a request."""
    if it.kind in ("bool", "flag"):
        return int(value)
    if it.kind == "number":
        return f"{value:.0f}" if float(value).is_integer() else str(value)
    if it.kind == "words":
        return Repeated(value) if it.joined == "array" else it.joined.join(value)
    if it.kind == "map":
        return property_string(it, value)
    if it.kind == "maps":
        return Repeated(property_string(it, item) for item in value)
    return value


def property_string(it: Field, value: t.Mapping[str, t.Any]) -> str:
    """A normal form of a map as Proxmox writes it, in the order of its sub-keys."""
    return ",".join(f"{name}={sent(it.subs[name], value[name])}" for name in it.subs if name in value)


def told(it: Field, value: t.Any) -> t.Any:
    """A normal form as results show it, and as a playbook may give it."""
    if it.secret:
        return MASK
    if it.kind == "words" and not isinstance(value, str):
        return list(value)
    if it.kind == "map" and isinstance(value, dict):
        return {name: told(it.subs[name], item) for name, item in value.items()}
    if it.kind == "maps" and not isinstance(value, str):
        return [{name: told(it.subs[name], item) for name, item in each.items()} for each in value]
    return value


# --------------------------------------------------------------------------------------------------------- formats


def _matching(pattern: str, what: str) -> t.Callable[[str], str]:
    compiled = re.compile(pattern, re.DOTALL)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise InvalidValue(f"{text!r} is not {what}")
        return text

    return check


def _address(*versions: int) -> t.Callable[[str], str]:
    def check(text: str) -> str:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise InvalidValue(f"{text!r} is not an IP address") from None
        if address.version not in versions:
            raise InvalidValue(f"{text!r} is not an IPv{versions[0]} address")
        return str(address)

    return check


def _interface(*versions: int) -> t.Callable[[str], str]:
    def check(text: str) -> str:
        try:
            interface = ipaddress.ip_interface(text)
        except ValueError:
            raise InvalidValue(f"{text!r} is not an address with its prefix length, such as 10.0.0.1/24") from None
        if interface.version not in versions or "/" not in text:
            raise InvalidValue(f"{text!r} is not an IPv{versions[0]} address with its prefix length")
        return str(interface)

    return check


def _host_or_network(text: str) -> str:
    """An address or network; one of a single address is that address (``parse_ip_or_cidr`` of PVE/Firewall.pm)."""
    try:
        interface = ipaddress.ip_interface(text)
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
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise InvalidValue(f"{text!r} is not a network such as 10.0.0.0/24") from None


def _host(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
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
    return _matching(r"[0-9A-F]{2}(:[0-9A-F]{2}){5}", "a MAC address")(text.upper())


def _vlans(text: str) -> str:
    """A VLAN id or a range of them."""
    first, _dash, last = _matching(r"\d{1,4}(-\d{1,4})?", "a VLAN id or a range such as 2-100")(text).partition("-")
    bounds = [int(first), int(last or first)]
    if not 1 <= bounds[0] <= bounds[1] <= 4094:
        raise InvalidValue(f"{text!r} is not within 1 to 4094")
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
    """A path without slashes that say nothing (``check_config`` of PVE/Storage/DirPlugin.pm)."""
    text = _matching(r"/?[-/a-zA-Z0-9_.@]+", "a path of letters, digits and - / _ . @")(text)
    parts = [part for part in text.split("/") if part not in ("", ".")]
    return "/" * text.startswith("/") + "/".join(parts) or text


def _action(text: str) -> str:
    """What a rule does, or the security group that it uses; the names of groups are lower case in Proxmox's files."""
    return text if text in ("ACCEPT", "DROP", "REJECT") else text.lower()


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
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?"
_dns_name = _matching(rf"{_LABEL}(\.{_LABEL})*", "a DNS name")

# By the names that Proxmox's API schema has for them, where it has one.
_FORMATS: dict[str, t.Callable[[str], str]] = {
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
    "pve-replication-job-id": _matching(r"[1-9][0-9]{2,8}-\d{1,9}", "the id of a guest and a number, such as 101-0"),
    "pve-ha-resource-id": _matching(r"(ct|vm):[1-9][0-9]+", "a guest such as ct:101"),
    "pve-ha-node": _ha_node,
    "acl-path": _privilege_path,
    "fw-action": _action,
    "email-or-username": _matching(r"[^\s,;\\/@]+(@[^\s,;@]+)?", "an e-mail address"),
    "email-opt": _matching(r"([^\s,;@]+@[^\s,;@]+)?", "an e-mail address"),
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
