# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Properties of ZFS as values: what is declared against what ``zfs get -p`` and ``zpool get -p`` print. Pure."""

from __future__ import annotations

import re
import typing as t

from ..api.errors import Failure

# As a value: take the property of the dataset above, or the default.
INHERIT = "inherit"

# Spellings of one value; it reads back as one of them (the index tables of module/zcommon/zfs_prop.c in OpenZFS).
_SAME: dict[str, tuple[frozenset[str], ...]] = {
    "xattr": (frozenset({"on", "sa"}),),
    "acltype": (frozenset({"posix", "posixacl"}), frozenset({"off", "noacl", "disabled"})),
    "aclinherit": (frozenset({"restricted", "secure"}),),
    "compression": (frozenset({"gzip", "gzip-6"}),),
    # Which one "on" is depends on the release that made the dataset.
    "encryption": tuple(frozenset({"on", f"aes-{bits}-{mode}"}) for bits in (128, 192, 256) for mode in ("ccm", "gcm")),
}

# What can be set only while a dataset is made (PROP_ONETIME and PROP_ONETIME_DEFAULT in the same file).
ONLY_AT_CREATION = frozenset(
    {"casesensitivity", "normalization", "utf8only", "encryption", "keyformat", "pbkdf2iters", "volblocksize"}
)

# How "none" of a quota, of a reservation and of a limit is printed with -p.
_NONE = frozenset({"none", "0", "18446744073709551615"})

_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGTPE])(?:iB|B)?", re.IGNORECASE)
_NAME = re.compile(r"[a-z0-9][a-z0-9_.:@-]*", re.IGNORECASE)


def parse_size(text: str) -> int | None:
    """Bytes of ``8G``, ``1.5T``, ``128K`` or ``4096``; None for what is no size."""
    if text.isdigit():
        return int(text)
    match = _SIZE.fullmatch(text)
    if not match:
        return None
    return int(float(match[1]) * 1024 ** ("KMGTPE".index(match[2].upper()) + 1))


def declared_properties(properties: t.Mapping[str, t.Any], where: str) -> dict[str, str]:
    """Properties of a task as the commands take them: booleans are on and off.

    Raises:
        Failure: ``invalid_option``.
    """
    found: dict[str, str] = {}
    for name, value in properties.items():
        if not _NAME.fullmatch(str(name)):
            raise _invalid(where, f"{name!r} is no name of a property")
        if isinstance(value, bool):
            text = "on" if value else "off"
        elif isinstance(value, (int, float, str)):
            text = str(value)
        else:
            raise _invalid(where, f"{name} needs a value; '{INHERIT}' takes that of the dataset above")
        if any(ord(character) < 32 for character in text):
            raise _invalid(where, f"the value of {name} has a control character in it")
        found[str(name)] = text
    return found


def same(name: str, declared: str, actual: str) -> bool:
    """Whether a declared value is the one that is printed.

    actual: as -p prints it, with ``-`` for what is not set.
    """
    if declared == actual or (declared == "" and actual == "-"):
        return True
    if any({declared, actual} <= spellings for spellings in _SAME.get(name, ())):
        return True
    # A feature that is enabled becomes active when it is used (zpool-features(7)).
    if name.startswith("feature@") and (declared, actual) == ("enabled", "active"):
        return True
    if actual.isdigit():
        return parse_size(declared) == int(actual) or (declared == "none" and actual in _NONE)
    return False


def _invalid(option: str, why: str) -> Failure:
    return Failure("invalid_option", f"{option}: {why}.", "Nothing was changed.", option=option)
