# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The names of templates: which of an index a pattern means, and which of several is the newest. Pure."""

from __future__ import annotations

import difflib
import fnmatch
import functools
import itertools
import re
import typing as t

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure

# What Proxmox takes for a template (VZTMPL_EXT_RE_1 of PVE/Storage.pm).
_TEMPLATE = re.compile(r"[^/]+\.tar(\.(gz|xz|zst|bz2))?\Z", re.IGNORECASE)
LONGEST_NAME = 255
_GLOB = re.compile(r"[*?\[]")

Entry = t.Mapping[str, t.Any]


def is_template(file_name: str) -> bool:
    """True for a name that Proxmox lists as a template."""
    return _TEMPLATE.match(file_name) is not None


def is_exact(template: str) -> bool:
    """True for the name of one file, as opposed to a pattern."""
    return is_template(template) and not _GLOB.search(template)


def normalised(file_name: str) -> str:
    """What Proxmox makes of a file name (``normalize_content_filename`` of PVE/Storage.pm)."""
    return re.sub(r"[^a-zA-Z0-9_.-]", "_", re.sub(r"^.*[/\\]", "", file_name.rstrip("\n")))


def matches(pattern: str, file_name: str) -> bool:
    """Whether a pattern means a file: its name, its package (``debian-13-standard``) or a shell pattern."""
    return (
        file_name == pattern or file_name.startswith(f"{pattern}_") or fnmatch.fnmatchcase(file_name, pattern)
    ) and is_template(file_name)


def version_of(file_name: str) -> str:
    """The version in ``package_version_architecture.tar.zst``; empty when there is none."""
    parts = file_name.split("_")
    return parts[1] if len(parts) > 2 else ""


def newest(file_names: t.Iterable[str]) -> str | None:
    """The file with the highest version, and of several of that the last by name."""
    return max(file_names, key=lambda name: (version_key(version_of(name)), name), default=None)


def version_key(version: str) -> t.Any:
    """Orders versions as Debian does (deb-version(7)): ``1.0~rc1`` < ``1.0`` < ``1.0-1`` < ``1.0+b1`` < ``1.10``."""
    epoch, colon, rest = version.rpartition(":")
    upstream, dash, revision = rest.rpartition("-")
    if not dash:
        upstream, revision = rest, ""
    return (int(epoch) if colon and epoch.isdigit() else 0, _PartKey(upstream), _PartKey(revision))


def _compare(one: str, other: str) -> int:
    """What is no digit and what is one, in turns; where one ends, it goes on with nothing and zero."""
    for first, second in itertools.zip_longest(_pairs(one), _pairs(other), fillvalue=(_weights(""), 0)):
        if first != second:
            return -1 if first < second else 1
    return 0


_PartKey = functools.cmp_to_key(_compare)


def _pairs(text: str) -> list[tuple[tuple[int, ...], int]]:
    return [(_weights(word), int(number or 0)) for word, number in re.findall(r"([^0-9]*)([0-9]*)", text)]


def _weights(word: str) -> tuple[int, ...]:
    """Orders words: ``~`` before the end, the end before letters, and those before all else."""
    return (*(-1 if char == "~" else ord(char) if char.isalpha() else ord(char) + 0x110000 for char in word), 0)


def choose(template: str, architecture: str, indexes: t.Sequence[t.Sequence[Entry]]) -> str | None:
    """The newest file that all nodes' indexes have for a name or pattern; None when there is none.

    indexes: as ``GET aplinfo`` lists them.
    """
    known: set[str] | None = None
    for index in indexes:
        names = {
            str(entry["template"])
            for entry in index
            if matches(template, str(entry.get("template")))
            and (is_exact(template) or entry.get("architecture") in (None, architecture))
        }
        known = names if known is None else known & names
    return newest(known or ())


def unknown(template: str, indexes: t.Sequence[t.Sequence[Entry]], stored: t.Iterable[str]) -> Failure:
    """The refusal of a name or pattern that neither the index nor the storage has."""
    names = sorted({str(entry.get("template")) for index in indexes for entry in index} | set(stored))
    packages = sorted({name.partition("_")[0] for name in names})
    near = difflib.get_close_matches(template, [*names, *packages], n=3, cutoff=0.5)
    if any(not index for index in indexes):
        hint = "The index of a node is empty: run 'pveam update' there."
    elif near:
        hint = f"There are: {', '.join(near)}."
    else:
        hint = "'pveam available' on the node lists what there is; 'pveam update' refreshes it."
    return Failure(
        "template_missing",
        f"Neither the appliance index nor the storage has a template {template}.",
        hint,
        template=template,
        similar=near,
    )
