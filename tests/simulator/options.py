# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of a container: what the API refuses, and the normal form in which it gives back what it accepts."""

from __future__ import annotations

import ipaddress
import re
import typing as t
import zoneinfo

from fakepve.lxc import mount_type, parse_mount, split_props
from fakepve.lxc import normalise as normal_net

# A value that is empty in its normal form is stored as a space (values-095, 125, 126, 153, 162).
SPACED = ("tags", "features", "nameserver", "searchdomain")
PATTERN = "value does not match the regex pattern"
MOUNT_OPTIONS = frozenset(["noatime", "nosuid", "discard", "lazytime", "noexec", "nodev"])
ZONES = frozenset(zoneinfo.available_timezones())


def _is_address(text: str) -> bool:
    address, percent, interface = text.partition("%")
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        return False
    return not percent or (version == 6 and bool(interface))


def _nameserver(text: str) -> str | None:
    """values-150 to 152"""
    if all(_is_address(item) for item in re.split(r"[,; ]+", text) if item):
        return None
    return "invalid format - value does not look like a valid IP address\n"


def _timezone(text: str) -> str | None:
    """values-289 to 292"""
    return None if text == "host" or text in ZONES else f"invalid format - invalid time zone '{text}'\n"


def _env(text: str) -> str | None:
    """values-175, 178, 182"""
    return None if re.fullmatch(r"(?:\w+=[^\x00-\x08\x0a-\x1f\x7f]*(?:\0|\Z))+", text) else PATTERN


def _entrypoint(text: str) -> str | None:
    """values-187, 188"""
    return None if text and not re.search(r"[\x00-\x08\x0a-\x1f\x7f]", text) else PATTERN


def _startup(text: str) -> str | None:
    """values-105"""
    return None if text and " " not in text else "invalid format - unable to parse startup options\n"


def _mount(key: str, text: str) -> str | None:
    """values-339, 348, 354"""
    mount, errors = parse_mount(text), {}
    if not mount.get("volume"):
        errors["volume"] = "property is missing and it is not optional"
    if key != "rootfs" and re.search(r"(^|/)\.{1,2}(/|$)", mount.get("mp", "")):
        errors["mp"] = f"invalid format - {mount['mp']} contains illegal character sequences\n"
    if not MOUNT_OPTIONS.issuperset(filter(None, mount.get("mountoptions", "").split(";"))):
        errors["mountoptions"] = PATTERN
    if not errors:
        return None
    return "invalid format - format error\n" + "".join(f"{key}.{sub}: {text}\n" for sub, text in sorted(errors.items()))


def _device(key: str, text: str) -> str | None:
    """values-395, 396"""
    first, props = split_props(text)
    path = first or props.get("path", "")
    if not path or re.match(r"/dev/\S", path):
        return None
    return f"invalid format - format error\n{key}.path: invalid format - {path} is not a valid device path\n\n"


CHECKS: dict[str, t.Callable[[str], str | None]] = {
    "nameserver": _nameserver,
    "timezone": _timezone,
    "env": _env,
    "entrypoint": _entrypoint,
    "startup": _startup,
}


def refusal(key: str, value: t.Any) -> str | None:
    """Why the API refuses a value that the schema alone lets pass, or None."""
    text = str(value)
    if key in CHECKS:
        return CHECKS[key](text)
    if re.fullmatch(r"net\d+", key) and not text:
        return f"invalid format - format error\n{key}.name: property is missing and it is not optional\n"  # values-066
    if re.fullmatch(r"rootfs|mp\d+", key):
        return _mount(key, text)
    if re.fullmatch(r"dev\d+", key):
        return _device(key, text)
    return None


def reworded(key: str, message: str) -> str:
    """An unknown sub-key in the words of Proxmox VE 9.2 (values-055, 093, 341, 361)."""
    found = re.fullmatch(r"invalid format - invalid key in comma-separated list property: (.*)\n", message, re.S)
    if not found:
        return re.sub(r"- got '(HASH|ARRAY)'$", r"- got \1", message)  # values-285
    missing = "property is not defined in schema and the schema does not allow additional properties"
    return f"invalid format - format error\n{key}.{found[1]}: {missing}\n"


def normal(key: str, value: t.Any) -> t.Any:
    """The value as GET shows it; None: there is nothing to store."""
    if re.fullmatch(r"net\d+", key):
        return normal_net(key, value)
    if key == "description":  # values-127 to 140
        text = str(value).rstrip("\n")
        return text + "\n" if text else None
    if key == "tags":  # values-109 to 117
        value = ";".join(sorted({tag.lower() for tag in re.split(r"[;, ]+", str(value)) if tag}))
    elif key in ("nameserver", "searchdomain"):  # values-145 to 147
        value = " ".join(item for item in re.split(r"[,; ]+", str(value)) if item)
    elif key == "cpuunits":  # values-208
        value = min(int(value), 10000)
    if key in SPACED and not str(value):
        return " "
    return value


def print_mount(mount: t.Mapping[str, str]) -> str:
    """A mount point as Proxmox writes it: the volume, mp, the rest by name, and the size (values-357 to 363)."""
    first, last = ("volume", "mp"), ("size",)
    order = [*first[1:], *sorted(set(mount) - {*first, *last}), *last]
    return ",".join([mount["volume"], *(f"{key}={mount[key]}" for key in order if key in mount)])


def is_volume(mount: t.Mapping[str, str]) -> bool:
    """Whether the mount is of a volume, not of a directory or a device."""
    return bool(mount_type(mount.get("volume", "")) == "volume")


def split_list(value: t.Any) -> list[str]:
    """The items of a list parameter (values-464 to 467)."""
    items = value if isinstance(value, list) else re.split(r"[\s,;]+", str(value or ""))
    return [str(item) for item in items if item]
