# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The property codec: every container key of the Proxmox API, its text and its normal form.

Proxmox keeps a container's configuration as texts ("name=eth0,bridge=vmbr0,firewall=1") and reads one value in
many spellings. A *normal form* is a plain Python value in which two spellings of the same value are equal:

=============  =======================================================================================
kind           normal form
=============  =======================================================================================
bool           bool
int            int
number         float
string         str (a description without its trailing newline)
words          tuple of str: nameserver and searchdomain in their order, tags sorted and lower-cased
env            dict of str
startup        dict of int: order, up, down
features       dict: flags that are on, and ``mount`` as a sorted tuple
net            dict of sub-keys, without those that say what is the default anyway
mount          dict of sub-keys: ``volume`` (text), ``size`` (bytes) and the options that differ from the default;
               a volume to be allocated is its storage alone (``local-zfs:``)
device         dict of sub-keys: ``path`` and the options that differ from the default
=============  =======================================================================================

The rules are those of ``PVE/LXC/Config.pm`` (``$confdesc``, ``$netconf_desc``, ``$rootfs_desc``, ``$mp_desc``,
``$dev_desc``, ``$features_desc``) and ``PVE/JSONSchema.pm`` (``parse_property_string``, ``parse_size``). Nothing
here does I/O.
"""

from __future__ import annotations

import ipaddress
import re
import typing as t
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

KIB = 1024
UNITS = {"": 1, "K": KIB, "M": KIB**2, "G": KIB**3, "T": KIB**4}
# LVM rounds a volume up to its extents (4 MiB unless configured otherwise), ZFS to less: a volume that is larger
# than what was asked for by less than this has the size that was asked for.
ROUNDING = 4 * UNITS["M"]

MAX_NETWORKS = 32
MAX_MOUNTS = 256
MAX_DEVICES = 256

TRUE_WORDS = ("1", "on", "yes", "true")
FALSE_WORDS = ("0", "off", "no", "false")

MOUNT_OPTIONS = ("discard", "lazytime", "noatime", "nodev", "noexec", "nosuid")
FEATURE_FLAGS = ("force_rw_sys", "fuse", "keyctl", "mknod", "nesting")
OS_TYPES = (
    "debian",
    "devuan",
    "ubuntu",
    "centos",
    "fedora",
    "opensuse",
    "archlinux",
    "alpine",
    "gentoo",
    "nixos",
    "unmanaged",
)
ARCHITECTURES = ("amd64", "i386", "arm64", "armhf", "riscv32", "riscv64")


class InvalidValue(ValueError):
    """A value that Proxmox would refuse. ``str()`` says what would be right, without the key."""


@dataclass(frozen=True)
class Sub:
    """One sub-key of a property string.

    kind: bool, int, number, string, mac, ipv4, ipv6, size, mode, or ``list`` (separated by ``;``).
    default: the value that means the same as leaving the sub-key out; None when there is none.
    """

    kind: str
    default: t.Any = None
    minimum: int | None = None
    maximum: int | None = None
    pattern: str | None = None
    choices: tuple[str, ...] = ()
    required: bool = False


@dataclass(frozen=True)
class Key:
    """One container key: its kind and, for property strings, the sub-keys in the order in which they are written."""

    kind: str
    default: t.Any = None
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str | None = None
    max_length: int | None = None
    subs: dict[str, Sub] = field(default_factory=dict)
    default_sub: str | None = None


NET = {
    "name": Sub("string", pattern=r"[-_.\w]+", required=True),
    "bridge": Sub("string", pattern=r"[-_.\w]+"),
    "firewall": Sub("bool", default=False),
    "gw": Sub("ipv4"),
    "gw6": Sub("ipv6"),
    "host-managed": Sub("bool", default=False),
    "hwaddr": Sub("mac"),
    "ip": Sub("ipv4-config"),
    "ip6": Sub("ipv6-config"),
    "link_down": Sub("bool", default=False),
    "mtu": Sub("int", minimum=64, maximum=65535),
    "rate": Sub("number"),
    "tag": Sub("int", minimum=1, maximum=4094),
    "trunks": Sub("list", pattern=r"\d+"),
    "type": Sub("string", default="veth", choices=("veth",)),
}

ROOTFS = {
    "volume": Sub("string", required=True),
    "acl": Sub("bool"),
    "idmap": Sub("string", pattern=r"passthrough|[ug]:\d+:\d+:[1-9]\d*(;[ug]:\d+:\d+:[1-9]\d*)*"),
    "mountoptions": Sub("list", choices=MOUNT_OPTIONS),
    "quota": Sub("bool", default=False),
    "replicate": Sub("bool", default=True),
    "ro": Sub("bool", default=False),
    "shared": Sub("bool", default=False),
    "size": Sub("size"),
}

MOUNT = {
    "volume": Sub("string", required=True),
    "mp": Sub("path", required=True),
    **{name: sub for name, sub in ROOTFS.items() if name not in ("volume", "size")},
    "backup": Sub("bool", default=False),
    "keepattrs": Sub("bool", default=False),
    "size": Sub("size"),
}

DEVICE = {
    "path": Sub("string", pattern=r"/dev/[^,]+", required=True),
    "deny-write": Sub("bool", default=False),
    "gid": Sub("int", default=0, minimum=0),
    "mode": Sub("string", pattern=r"0[0-7]{3}"),
    "uid": Sub("int", default=0, minimum=0),
}

FEATURES = {
    **{name: Sub("bool", default=False) for name in FEATURE_FLAGS},
    "mount": Sub("list", pattern=r"[a-zA-Z0-9_]+"),
}

STARTUP = {name: Sub("int", minimum=0) for name in ("order", "up", "down")}

DNS_NAME = r"(?=.{1,255}$)[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)*"
# PVE::JSONSchema env and entrypoint: every control character but the tab is refused.
NO_CONTROL = r"[^\x00-\x08\x0a-\x1f\x7f]"
# What Perl's \s is on the bytes of a configuration (parse_pct_config of PVE/LXC/Config.pm): nothing of Unicode.
BLANK = " \t\n\r\f\v"
# The volume of a mount whose declaration says nothing about where it is.
ANY_VOLUME = ":"
# A volume to be allocated, with its size in GiB ($NEW_DISK_RE of PVE/LXC.pm).
NEW_DISK = re.compile(r"([^:\s]+):(\d+(?:\.\d+)?)")
TAG = r"[a-zA-Z0-9_][a-zA-Z0-9_\-+.]*"

SCALARS: dict[str, Key] = {
    "arch": Key("string", choices=ARCHITECTURES),
    "cmode": Key("string", default="tty", choices=("shell", "console", "tty")),
    "console": Key("bool", default=True),
    "cores": Key("int", minimum=1, maximum=8192),
    "cpulimit": Key("number", default=0.0, minimum=0, maximum=8192),
    "cpuunits": Key("cpuunits", default=100, minimum=0, maximum=500000),
    "debug": Key("bool", default=False),
    "description": Key("text", default="", max_length=8192),
    "entrypoint": Key("string", pattern=rf"{NO_CONTROL}+"),
    "env": Key("env", default={}),
    "features": Key("features", default={}, subs=FEATURES),
    "hookscript": Key("string", pattern=r"[^:\s]+:snippets/.+"),
    "hostname": Key("string", pattern=DNS_NAME, max_length=255),
    "lock": Key("string"),
    "memory": Key("int", default=512, minimum=16),
    "nameserver": Key("addresses", default=()),
    "onboot": Key("bool", default=False),
    "ostype": Key("string", choices=OS_TYPES),
    "protection": Key("bool", default=False),
    "rootfs": Key("mount", subs=ROOTFS, default_sub="volume"),
    "searchdomain": Key("words", default=(), pattern=DNS_NAME),
    "startup": Key("startup", default={}, subs=STARTUP, default_sub="order"),
    "swap": Key("int", default=0, minimum=0),
    "tags": Key("tags", default=(), pattern=TAG),
    "template": Key("bool", default=False),
    "timezone": Key("string", pattern=r"host|[A-Za-z0-9_+\-]+(/[A-Za-z0-9_+\-]+)*"),
    "tty": Key("int", default=2, minimum=0, maximum=6),
    "unprivileged": Key("bool", default=False),
}

INDEXED: dict[str, tuple[Key, int]] = {
    "net": (Key("net", subs=NET), MAX_NETWORKS),
    "mp": (Key("mount", subs=MOUNT, default_sub="volume"), MAX_MOUNTS),
    "dev": (Key("device", subs=DEVICE, default_sub="path"), MAX_DEVICES),
    "unused": (Key("mount", subs={"volume": Sub("string", required=True)}, default_sub="volume"), MAX_MOUNTS),
}

INDEXED_NAME = re.compile(r"(net|mp|dev|unused)(0|[1-9]\d*)")


def key_of(name: str) -> Key | None:
    """The description of a container key (``memory``, ``net0`` …), or None when Proxmox has no such key."""
    if name in SCALARS:
        return SCALARS[name]
    match = INDEXED_NAME.fullmatch(name)
    if match:
        key, limit = INDEXED[match.group(1)]
        if int(match.group(2)) < limit:
            return key
    return None


def is_mount(name: str) -> bool:
    """True for ``rootfs`` and ``mpN``."""
    return name == "rootfs" or re.fullmatch(r"mp\d+", name) is not None


def order_of(name: str) -> tuple[str, int]:
    """A sort key that puts net2 before net10."""
    match = INDEXED_NAME.fullmatch(name)
    return (match.group(1), int(match.group(2))) if match else (name, -1)


# ---------------------------------------------------------------------------------------------------- sizes


def parse_size(text: t.Any) -> int:
    """Bytes in a disk size such as ``8G``, ``0.5T`` or ``512M`` (``PVE::JSONSchema::parse_size``).

    A bare number is bytes, as in the configuration file.

    Raises:
        InvalidValue: the text is no size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", str(text).strip())
    if not match:
        raise InvalidValue(f"{text!r} is not a size; write for example 8G or 512M (K, M, G and T are powers of 1024)")
    return int(Decimal(match.group(1)) * UNITS[match.group(2)])


def _whole(size: int) -> int:
    """A size in whole MiB, as Proxmox makes a volume (create_disks of PVE/LXC.pm)."""
    return size - size % UNITS["M"] or size


def format_size(size: int) -> str:
    """The shortest exact text of a size in bytes: 8589934592 → ``8G``."""
    for unit in ("T", "G", "M", "K"):
        if size and size % UNITS[unit] == 0:
            return f"{size // UNITS[unit]}{unit}"
    return str(size)


def gibibytes(size: int) -> str:
    """The number of GiB, exactly, as the text of a volume to be allocated has it."""
    return format((Decimal(size) / UNITS["G"]).normalize(), "f")


def same_size(declared: int, actual: int) -> bool:
    """True when a volume of ``actual`` bytes is what a storage makes of ``declared`` bytes."""
    return 0 <= actual - declared < ROUNDING


# ------------------------------------------------------------------------------------------------- one value


def _boolean(value: t.Any) -> bool:
    text = str(value).strip().lower()
    if text in TRUE_WORDS:
        return True
    if text in FALSE_WORDS:
        return False
    raise InvalidValue(f"{value!r} is not a boolean; write true or false")


def _integer(value: t.Any, minimum: float | None, maximum: float | None) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not re.fullmatch(r"-?\d+", str(value).strip()):
        raise InvalidValue(f"{value!r} is not a whole number")
    number = int(value)
    _bounds(number, minimum, maximum)
    return number


def _number(value: t.Any, minimum: float | None, maximum: float | None) -> float:
    try:
        number = float(Decimal(str(value).strip()))
    except InvalidOperation:
        raise InvalidValue(f"{value!r} is not a number") from None
    _bounds(number, minimum, maximum)
    return number


def _bounds(number: float, minimum: float | None, maximum: float | None) -> None:
    if minimum is not None and number < minimum:
        raise InvalidValue(f"{number:g} is too small; the least is {minimum:g}")
    if maximum is not None and number > maximum:
        raise InvalidValue(f"{number:g} is too large; the most is {maximum:g}")


def _mac(value: t.Any) -> str:
    text = str(value).strip().upper()
    if not re.fullmatch(r"[0-9A-F][02468ACE](:[0-9A-F]{2}){5}", text):
        raise InvalidValue(f"{value!r} is not a unicast MAC address; write for example BC:24:11:00:00:01")
    return text


def _address(value: t.Any, version: int | None = None) -> str:
    """The shortest text of an IP address; a zone (``fe80::1%eth0``) is kept."""
    text, percent, zone = str(value).strip().partition("%")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidValue(f"{value!r} is not an IP address") from None
    if version and address.version != version:
        raise InvalidValue(f"{value!r} is not an IPv{version} address")
    return str(address) + percent + zone


def _interface(value: t.Any, version: int, words: tuple[str, ...]) -> str:
    text = str(value).strip()
    if text in words:
        return text
    address, slash, prefix = text.partition("/")
    longest = 32 if version == 4 else 128
    if not slash or not re.fullmatch(r"\d{1,3}", prefix) or int(prefix) > longest:
        raise InvalidValue(f"{value!r} is neither {', '.join(words)} nor an IPv{version} address with a prefix length")
    return f"{_address(address, version)}/{int(prefix)}"


def _path(value: t.Any) -> str:
    """A mount path (``verify_lxc_mp_string`` of PVE/LXC/Config.pm): absolute, without ``.`` and ``..``."""
    text = str(value).strip()
    parts = [part for part in text.split("/") if part]
    if any(part in (".", "..") for part in parts) or not parts or "," in text or re.search(r"[\x00-\x1f]", text):
        raise InvalidValue(f"{value!r} is not an absolute path inside the container, such as /var/lib/data")
    return "/" + "/".join(parts)


def _matching(value: t.Any, pattern: str | None, choices: tuple[str, ...], max_length: int | None = None) -> str:
    text = str(value)
    if choices and text not in choices:
        raise InvalidValue(f"{text!r} is not one of {', '.join(choices)}")
    if pattern and not re.fullmatch(pattern, text):
        raise InvalidValue(f"{text!r} is not allowed here")
    if max_length is not None and len(text) > max_length:
        raise InvalidValue(f"{len(text)} characters are too many; the most is {max_length}")
    return text


def _items(value: t.Any, separators: str) -> list[str]:
    texts = value if isinstance(value, (list, tuple)) else [value]
    return [item for text in texts for item in re.split(separators, str(text)) if item]


def _sub_value(sub: Sub, value: t.Any) -> t.Any:
    """The normal form of one sub-key's value."""
    if sub.kind == "bool":
        return _boolean(value)
    if sub.kind == "int":
        return _integer(value, sub.minimum, sub.maximum)
    if sub.kind == "number":
        return _number(value, 0, None)
    if sub.kind == "mac":
        return _mac(value)
    if sub.kind in ("ipv4", "ipv6"):
        return _address(value, int(sub.kind[-1]))
    if sub.kind == "ipv4-config":
        return _interface(value, 4, ("dhcp", "manual"))
    if sub.kind == "ipv6-config":
        return _interface(value, 6, ("dhcp", "auto", "manual"))
    if sub.kind == "size":
        return _whole(parse_size(value))
    if sub.kind == "path":
        return _path(value)
    if sub.kind == "list":
        items = {_matching(item, sub.pattern, sub.choices) for item in _items(value, r"[; ]+")}
        return tuple(sorted(items, key=lambda item: (len(item), item) if item.isdigit() else (0, item)))
    return _matching(value, sub.pattern, sub.choices)


def _sub_text(value: t.Any, sub: Sub) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, tuple):
        return ";".join(value)
    if sub.kind == "size":
        return format_size(value)
    if isinstance(value, float):
        return _number_text(value)
    return str(value)


def _number_text(value: float) -> str:
    return f"{value:.10g}"


# ------------------------------------------------------------------------------------------ property strings


def split(text: str, default_sub: str | None) -> dict[str, str]:
    """The sub-keys of a property string (``PVE::JSONSchema::parse_property_string``).

    Raises:
        InvalidValue: a value without its key, or a sub-key twice.
    """
    found: dict[str, str] = {}
    for part in str(text).split(","):
        if not part.strip():
            continue
        name, equals, value = part.partition("=")
        if not equals or "/" in name or ":" in name:
            if default_sub is None or default_sub in found:
                raise InvalidValue(f"{part!r} lacks its key; write key=value")
            name, value = default_sub, part
        if name in found:
            raise InvalidValue(f"{name} is given twice")
        found[name] = value
    return found


def _normal_subs(key: Key, values: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    unknown = sorted(set(values) - set(key.subs))
    if unknown:
        raise InvalidValue(f"{', '.join(unknown)} is not a sub-key here; there are {', '.join(key.subs)}")
    missing = [name for name, sub in key.subs.items() if sub.required and values.get(name) in (None, "")]
    if missing:
        raise InvalidValue(f"{', '.join(missing)} is missing")
    normal = {}
    for name, sub in key.subs.items():
        value = values.get(name)
        if value is None or value == "":
            continue
        try:
            result = _sub_value(sub, value)
        except InvalidValue as error:
            raise InvalidValue(f"{name}: {error}") from None
        if result == () or (sub.default is not None and result == sub.default):
            continue
        normal[name] = result
    return normal


def _subs_text(key: Key, normal: t.Mapping[str, t.Any]) -> str:
    parts = []
    for name, sub in key.subs.items():
        if name in normal:
            text = _sub_text(normal[name], sub)
            parts.append(text if name == key.default_sub and key.kind != "startup" else f"{name}={text}")
    return ",".join(parts)


# -------------------------------------------------------------------------------------------------- the codec


def normalise(name: str, value: t.Any) -> t.Any:
    """The normal form of a key's value: a text of the API, or what a task gives (dict, list, bool, number).

    Returns None for a value that means "not set" (an empty text, which Proxmox keeps as one space).

    Raises:
        InvalidValue: Proxmox would refuse the value, or there is no such key.
    """
    key = key_of(name)
    if key is None:
        raise InvalidValue("Proxmox has no such container key")
    if value is None or (isinstance(value, str) and not value.strip(BLANK) and key.kind != "text"):
        return None
    return _NORMAL[key.kind](key, value)


def read(name: str, text: t.Any) -> t.Any:
    """The normal form of what a configuration holds; the text itself where it has none.

    A configuration file can hold what the API would refuse today; such a value differs from everything declared.
    """
    try:
        return normalise(name, text)
    except InvalidValue:
        return text


def _normal_text(_key: Key, value: t.Any) -> str | None:
    # PVE::LXC::Config writes a description as comment lines: it is read back with exactly one trailing newline.
    text = str(value).rstrip("\n")
    _matching(text, None, (), _key.max_length)
    return text or None


def _normal_cpuunits(value: int) -> int:
    # PVE::CGroup::clamp_cpu_shares with cgroup v2.
    return min(value, 10000)


def _normal_words(key: Key, value: t.Any) -> tuple[str, ...]:
    return tuple(_matching(item, key.pattern, ()) for item in _items(value, r"[,; ]+"))


def _normal_tags(key: Key, value: t.Any) -> tuple[str, ...] | None:
    tags = {_matching(item, key.pattern, ()).lower() for item in _items(value, r"[,; ]+")}
    return tuple(sorted(tags)) or None


def _normal_env(_key: Key, value: t.Any) -> dict[str, str]:
    pairs = list(value.items()) if isinstance(value, dict) else [str(i).partition("=")[::2] for i in _env_items(value)]
    env = {}
    for name, content in pairs:
        if not re.fullmatch(r"\w+", str(name)):
            raise InvalidValue(f"{name!r} is not the name of a variable; letters, digits and _ are allowed")
        if not re.fullmatch(rf"{NO_CONTROL}*", str(content)):
            raise InvalidValue(f"the value of {name} holds a control character")
        # The blanks at the end are lost when Proxmox reads it back (parse_pct_config of PVE/LXC/Config.pm).
        env[str(name)] = str(content).rstrip(" \t")
    return env


def _env_items(value: t.Any) -> list[str]:
    return list(value) if isinstance(value, (list, tuple)) else str(value).split("\0")


def _normal_subkeys(key: Key, value: t.Any) -> dict[str, t.Any]:
    values = value if isinstance(value, dict) else split(str(value), key.default_sub)
    return _normal_subs(key, values)


def _normal_mount(key: Key, value: t.Any) -> dict[str, t.Any]:
    normal = _normal_subkeys(key, value)
    new_disk = NEW_DISK.fullmatch(normal["volume"])
    if new_disk:
        normal["volume"] = new_disk.group(1) + ":"
        normal["size"] = _whole(int(Decimal(new_disk.group(2)) * UNITS["G"]))
    return normal


_NORMAL: dict[str, t.Callable[[Key, t.Any], t.Any]] = {
    "bool": lambda _key, value: _boolean(value),
    "int": lambda key, value: _integer(value, key.minimum, key.maximum),
    "cpuunits": lambda key, value: _normal_cpuunits(_integer(value, key.minimum, key.maximum)),
    "number": lambda key, value: _number(value, key.minimum, key.maximum),
    "string": lambda key, value: _matching(str(value).strip(BLANK), key.pattern, key.choices, key.max_length),
    "text": _normal_text,
    "addresses": lambda _key, value: tuple(_address(item) for item in _items(value, r"[,; ]+")),
    "words": _normal_words,
    "tags": _normal_tags,
    "env": _normal_env,
    "features": _normal_subkeys,
    "startup": _normal_subkeys,
    "net": _normal_subkeys,
    "mount": _normal_mount,
    "device": _normal_subkeys,
}


def encode(name: str, normal: t.Any) -> str | int | None:
    """What the API takes for a normal form; None when the key has to be deleted instead.

    Raises:
        InvalidValue: there is no such key.
    """
    key = key_of(name)
    if key is None:
        raise InvalidValue("Proxmox has no such container key")
    if normal is None or normal in ({}, (), ""):
        return None
    if isinstance(normal, bool):
        return int(normal)
    if key.kind == "number":
        return _number_text(normal)
    if isinstance(normal, tuple):
        return (";" if key.kind == "tags" else " ").join(normal)
    if key.kind == "env":
        return "\0".join(f"{variable}={content}" for variable, content in normal.items())
    if key.kind == "mount" and normal["volume"].endswith(":"):
        allocated = {**normal, "volume": normal["volume"] + gibibytes(normal.get("size", 0))}
        return _subs_text(key, {sub: value for sub, value in allocated.items() if sub != "size"})
    if isinstance(normal, dict):
        return _subs_text(key, normal)
    return t.cast("str | int", normal)


def show(name: str, normal: t.Any) -> t.Any:
    """A normal form as a diff shows it: the text of the API, with variables of ``env`` separated by a space."""
    text = encode(name, normal)
    return text.replace("\0", " ") if isinstance(text, str) else text


def default_of(name: str) -> t.Any:
    """The normal form that an unset key has; None when Proxmox has no default for it."""
    key = key_of(name)
    return key.default if key else None


def equal(name: str, declared: t.Any, actual: t.Any) -> bool:
    """True when two normal forms mean the same; an unset key means its default.

    A network interface without ``hwaddr`` equals any that differs only in the address that Proxmox generated.
    Mounts are compared without their size, which has a call of its own (see ``same_size``). A volume that is its
    storage alone equals any volume on that storage, and ``:`` equals every volume.
    """
    default = default_of(name)
    left: t.Any = default if declared is None else declared
    right: t.Any = default if actual is None else actual
    if left is None or right is None:
        return bool(left == right or (not left and not right))
    key = key_of(name)
    if key is None or type(left) is not type(right):
        return bool(left == right)
    if key.kind == "net" and "hwaddr" not in left:
        right = {sub: value for sub, value in right.items() if sub != "hwaddr"}
    if key.kind == "mount":
        left, right = _without_size(left), _without_size(right)
        if left["volume"] == ANY_VOLUME:
            right["volume"] = ANY_VOLUME
        elif left["volume"].endswith(":"):
            right["volume"] = f"{volume_of(right['volume']).storage}:"
    return bool(left == right)


def _without_size(mount: dict[str, t.Any]) -> dict[str, t.Any]:
    return {sub: value for sub, value in mount.items() if sub != "size"}


# ---------------------------------------------------------------------------------------------------- volumes


@dataclass(frozen=True)
class Volume:
    """Where a mount's ``volume`` is: on a storage (``storage`` and ``name``), or a path on the node."""

    storage: str | None
    name: str

    @property
    def kind(self) -> str:
        """volume, device or bind (``classify_mountpoint`` of PVE/LXC/Config.pm)."""
        if self.storage is not None:
            return "volume"
        return "device" if self.name.startswith("/dev/") else "bind"


def volume_of(text: str) -> Volume:
    """The parts of a ``volume``: ``local-zfs:subvol-101-disk-0`` or ``/srv/data``."""
    if text.startswith("/"):
        return Volume(None, text)
    storage, _colon, name = text.partition(":")
    return Volume(storage, name)
