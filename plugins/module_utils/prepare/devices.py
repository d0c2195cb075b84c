# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a device may be given to a new pool: only one that has nothing on it."""

from __future__ import annotations

import json
import os
import stat
import typing as t

from ..api.errors import Failure
from ..node.commands import Run

BY_ID = "/dev/disk/by-id/"


def check_name(path: str) -> None:
    """Refuse a name of a device that may be another one's after the next start.

    Raises:
        Failure: ``invalid_option``.
    """
    name = path[len(BY_ID) :] if path.startswith(BY_ID) else ""
    if not name or "/" in name or name in (".", "..") or any(ord(character) < 33 for character in name):
        raise Failure(
            "invalid_option",
            f"{path} is not below {BY_ID}.",
            f"Names such as /dev/sdb move from disk to disk; 'ls -l {BY_ID}' shows those that stay.",
            option="devices",
        )


def refuse_used(run: Run, paths: t.Sequence[str]) -> None:
    """Refuse devices that are not there, that are one and the same, or that have anything on them.

    Raises:
        Failure: ``device_missing``, ``device_twice``, ``device_in_use``.
    """
    real: dict[str, str] = {}
    for path in paths:
        target = os.path.realpath(path)
        if not _is_block_device(target):
            raise Failure(
                "device_missing",
                f"There is no disk or partition {path}.",
                f"See 'ls -l {BY_ID}' on the node.",
                device=path,
            )
        if target in real:
            raise Failure(
                "device_twice",
                f"{real[target]} and {path} are the same device.",
                "A pool needs a device of its own for each part.",
                devices=[real[target], path],
            )
        real[target] = path
    used = {path: found for target, path in real.items() for found in [_on_it(run, target)] if found}
    if used:
        named = "; ".join(f"{path} has {', '.join(found)}" for path, found in used.items())
        raise Failure(
            "device_in_use",
            f"No pool is made on what may hold data: {named}.",
            "If nothing of it is needed, clear the device with 'wipefs --all' on the node. This collection never does.",
            devices=used,
        )


def _is_block_device(path: str) -> bool:
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False


def _on_it(run: Run, device: str) -> list[str]:
    listed = _read(run, ["lsblk", "--json", "--paths", "--output", "NAME,TYPE,MOUNTPOINTS", device])
    signed = _read(run, ["wipefs", "--no-act", "--json", device])
    return what_is_on(listed, signed)


def _read(run: Run, argv: list[str]) -> str:
    done = run(argv, timeout=60)
    if done.rc:
        raise Failure(
            "device_unreadable",
            f"'{' '.join(argv)}' failed: {done.stderr.strip()[-300:]}",
            "Run as root (become), and see the node's log for errors of the disk.",
            device=argv[-1],
        )
    return done.stdout


def what_is_on(lsblk: str, wipefs: str) -> list[str]:
    """What a device holds, in words, by the JSON of lsblk and of wipefs; empty for nothing."""
    found = []
    for entry in (json.loads(wipefs) if wipefs.strip() else {}).get("signatures") or []:
        found.append(f"a signature of {entry['type']}")
    for entry in json.loads(lsblk)["blockdevices"]:
        found += [f"a mount at {mount}" for mount in entry.get("mountpoints") or [] if mount]
        found += [f"{child['name']} ({child['type']}) on it" for child in entry.get("children") or []]
    return list(dict.fromkeys(found))
