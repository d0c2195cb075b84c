# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proxmox's package repositories in the sources of apt, with everything else in these files left as it is.

The names of files and fields are those of Proxmox VE 9 and of its web interface (deb822 form, sources.list(5)).
"""

from __future__ import annotations

import glob
import os
import re
import typing as t
from dataclasses import dataclass

from ..api.errors import Failure
from ..node.files import read_text, write_setting

KINDS = ("enterprise", "no-subscription", "test")
KEYRING = "/usr/share/keyrings/proxmox-archive-keyring.gpg"
ENTERPRISE = "https://enterprise.proxmox.com/debian"
DOWNLOAD = "http://download.proxmox.com/debian"
# StringToBool of apt (apt-pkg/contrib/strutl.cc)
_FALSE = ("0", "no", "false", "without", "off", "disable")


@dataclass(frozen=True)
class Repository:
    """One of Proxmox's repositories. product: ``pve`` or ``ceph-squid``. file: where its entry is to be."""

    product: str
    component: str
    uri: str
    file: str
    enabled: bool


@dataclass(frozen=True)
class Place:
    """What all entries have in common."""

    suite: str
    keyring: str


def repository_options() -> dict[str, t.Any]:
    """The argument specification of ``pve_repository``."""
    kinds = {"type": "list", "elements": "str", "choices": list(KINDS)}
    return {
        "pve": kinds,
        "ceph": kinds,
        "ceph_release": {"type": "str"},
        "suite": {"type": "str"},
        "enterprise_uri": {"type": "str", "default": ENTERPRISE},
        "download_uri": {"type": "str", "default": DOWNLOAD},
        "keyring": {"type": "path", "default": KEYRING},
        "directory": {"type": "path", "default": "/etc/apt"},
    }


def os_release() -> dict[str, str]:
    """What the system is, by the names of os-release(5)."""
    return dict(re.findall(r'^([A-Z_]+)="?([^"\n]*)"?$', read_text("/etc/os-release") or "", re.MULTILINE))


def declare(params: t.Mapping[str, t.Any]) -> tuple[list[Repository], Place]:
    """The repositories that are managed, wanted or not.

    Raises:
        Failure: ``invalid_option``.
    """
    suite = params["suite"] or os_release().get("VERSION_CODENAME", "")
    release = params["ceph_release"] or ""
    if params["ceph"] and not release:
        raise Failure(
            "invalid_option",
            "ceph_release: the repositories of which release of Ceph are meant has to be said.",
            "Give that which the cluster runs, see 'ceph versions': the packages of a newer one upgrade it.",
            option="ceph_release",
        )
    for option, value, pattern in (
        ("ceph_release", release, r"[a-z]*"),
        ("suite", suite, r"[a-z][a-z0-9-]*"),
        ("enterprise_uri", params["enterprise_uri"], r"\w+:/\S+"),
        ("download_uri", params["download_uri"], r"\w+:/\S+"),
        ("keyring", params["keyring"], r"/\S+"),
    ):
        if not re.fullmatch(pattern, value):
            raise Failure("invalid_option", f"{option}: {value!r} is no value for it.", option=option)
    found = []
    ceph = f"ceph-{release}"
    for product, wanted, prefix in (("pve", params["pve"], "pve-"), (ceph, params["ceph"], "")):
        for kind in KINDS if wanted is not None else ():
            base = params["enterprise_uri" if kind == "enterprise" else "download_uri"].rstrip("/")
            file = "ceph" if product == ceph else "pve-enterprise" if kind == "enterprise" else "proxmox"
            file = f"sources.list.d/{file}.sources"
            found.append(Repository(product, prefix + kind, f"{base}/{product}", file, kind in wanted))
    return found, Place(suite, params["keyring"])


# ----------------------------------------------------------------------------------------------- one file, pure


def fields(paragraph: str) -> dict[str, str]:
    """The fields of an entry by their names in lower case; what goes on over several lines is joined."""
    found: dict[str, str] = {}
    name = ""
    for line in paragraph.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if line[0].isspace():
            found[name] = f"{found.get(name, '')} {line.strip()}".strip()
        else:
            key, _colon, value = line.partition(":")
            name = key.strip().lower()
            found[name] = value.strip()
    return found


def with_field(paragraph: str, name: str, value: str | None) -> str:
    """An entry with a field set in its place, or removed."""
    lines = paragraph.splitlines()
    start = next((i for i, line in enumerate(lines) if line.lower().startswith(f"{name.lower()}:")), None)
    if start is None:
        if value is not None:
            lines.append(f"{name}: {value}")
    else:
        end = start + 1
        while end < len(lines) and lines[end][:1] in (" ", "\t"):
            end += 1
        lines[start:end] = [] if value is None else [f"{name}: {value}"]
    return "".join(f"{line}\n" for line in lines)


def paragraphs(text: str) -> list[str]:
    """A file in parts, entries and the blank lines between them; joined they are the file."""
    return [part for part in re.split(r"((?:^[ \t]*\n)+)", text, flags=re.MULTILINE) if part]


def _enabled(entry: t.Mapping[str, str]) -> bool:
    return entry.get("enabled", "yes").lower() not in _FALSE


def _product(uri: str, managed: t.Sequence[Repository]) -> str | None:
    """The managed product of which a URI is, on Proxmox's servers or on a mirror; None for any other."""
    clean = uri.rstrip("/")
    if clean in {repository.uri for repository in managed}:
        return next(repository.product for repository in managed if repository.uri == clean)
    match = re.fullmatch(r"https?://(?:enterprise|download)\.proxmox\.com/debian/([a-z0-9-]+)", clean)
    products = {repository.product.partition("-")[0] for repository in managed}
    return match[1] if match and match[1].partition("-")[0] in products else None


def _is_managed(entry: t.Mapping[str, str], managed: t.Sequence[Repository]) -> bool:
    uris = entry.get("uris", "").split()
    return bool(uris) and all(_product(uri, managed) for uri in uris) and "deb" in entry.get("types", "").split()


def _line_is_managed(line: str, managed: t.Sequence[Repository]) -> bool:
    match = re.match(r"\s*deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s", line)
    return bool(match and _product(match[1], managed))


# ----------------------------------------------------------------------------------------------- all files, pure


def wanted_files(files: t.Mapping[str, str], managed: t.Sequence[Repository], place: Place) -> dict[str, str]:
    """The files as they are to be, by their names; those that do not change are among them.

    Each wanted repository has one entry, in its file. Every other entry of the managed products is disabled, also in
    the one-line form of older versions, so that apt sees nothing twice and nothing that is not wanted.
    """
    after = dict(files)
    done: set[Repository] = set()
    for name, text in files.items():
        if name.endswith(".list"):
            after[name] = "".join(
                f"# {line}" if _line_is_managed(line, managed) else line for line in text.splitlines(keepends=True)
            )
        else:
            parts = paragraphs(text)
            after[name] = "".join(_entry(part, name, managed, place, done) for part in parts)
    for repository in managed:
        if repository.enabled and repository not in done:
            text = after.get(repository.file, "")
            gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
            after[repository.file] = text + gap + _set_fields("", repository, place)
    return after


def _entry(part: str, name: str, managed: t.Sequence[Repository], place: Place, done: set[Repository]) -> str:
    entry = fields(part)
    if not _is_managed(entry, managed):
        return part
    components = entry.get("components", "").split()
    products = {_product(uri, managed) for uri in entry["uris"].split()}
    for repository in managed:
        own = repository.file == name and components == [repository.component] and products == {repository.product}
        if own and repository.enabled and repository not in done:
            done.add(repository)
            return _set_fields(part, repository, place)
    return with_field(part, "Enabled", "false") if _enabled(entry) else part


def _set_fields(part: str, repository: Repository, place: Place) -> str:
    entry = fields(part)
    for name, value in (
        ("Types", "deb"),
        ("URIs", repository.uri),
        ("Suites", place.suite),
        ("Components", repository.component),
        ("Signed-By", place.keyring),
    ):
        if entry.get(name.lower()) != value:
            part = with_field(part, name, value)
    return part if _enabled(entry) else with_field(part, "Enabled", None)


# ------------------------------------------------------------------------------------------------------- apply


def run_declared(params: t.Mapping[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Have the repositories as declared; the result of the module.

    Raises:
        Failure: ``invalid_option``, ``keyring_missing``, ``store_failed``.
    """
    managed, place = declare(params)
    if any(repository.enabled for repository in managed) and not os.path.exists(place.keyring):
        raise Failure(
            "keyring_missing",
            f"There is no {place.keyring}, with which Proxmox's packages are verified.",
            "A node of Proxmox VE 9 has it; elsewhere it is in the package proxmox-archive-keyring.",
            path=place.keyring,
        )
    root = params["directory"]
    patterns = ("sources.list", "sources.list.d/*.list", "sources.list.d/*.sources")
    there = [path for pattern in patterns for path in sorted(glob.glob(f"{root}/{pattern}"))]
    before = {os.path.relpath(path, root): read_text(path) or "" for path in there}
    after = wanted_files(before, managed, place)
    changed = [name for name, text in after.items() if text != before.get(name)]
    for name in () if check_mode else changed:
        write_setting(f"{root}/{name}", after[name])
    plan = [
        {
            "key": f"{root}/{name}",
            "before": before.get(name),
            "after": after[name],
            "effect": "live",
            "request": f"write {root}/{name}",
        }
        for name in changed
    ]
    return {"changed": bool(plan), "plan": plan, "diff": [_diff(change) for change in plan]}


def _diff(change: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    return {
        "before_header": change["key"],
        "after_header": change["key"],
        "before": change["before"] or "",
        "after": change["after"],
    }
