# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Removes from the store what nobody needs."""

from __future__ import annotations

import contextlib
import os
import typing as t
from dataclasses import dataclass

from .layout import Json
from .store import Entry, Store, entry_of, remove_stage
from .unpack import writing


@dataclass(frozen=True)
class Removal:
    """What goes: an ``image`` (an entry of the index), a ``blob`` or a ``download`` that nobody has finished.

    size: bytes that become free by it; those of an image become free with its blobs.
    """

    kind: str
    name: str
    size: int
    platform: str | None = None
    digest: str | None = None

    def as_dict(self) -> dict[str, t.Any]:
        """For the result of the module."""
        about = {"kind": self.kind, "name": self.name, "size": self.size}
        more = {"platform": self.platform, "digest": self.digest}
        return {**about, **{key: value for key, value in more.items() if value is not None}}


def unused(entries: t.Sequence[Entry], keep: t.Collection[str], seconds: int, now: float) -> list[Entry]:
    """The entries that were not used for so long. Pure. keep: references that stay."""
    return [entry for entry in entries if entry.reference not in keep and now - entry.used >= seconds]


@dataclass(frozen=True)
class Coming:
    """What a run would have pulled, in check mode.

    replaced: the keys of entries that it would have put others in the place of. blobs: their digests.
    """

    replaced: frozenset[tuple[str, str]] = frozenset()
    blobs: frozenset[str] = frozenset()


def plan_removal(
    store: Store, gone: t.Collection[tuple[str, str]], everything: bool, coming: Coming | None = None
) -> list[Removal]:
    """What goes with these entries of the index.

    gone: the keys of the entries. everything: whether all blobs go that nothing reaches, and unfinished downloads,
    or only the blobs of these entries.

    Raises:
        Failure: ``invalid_image``.
    """
    coming = coming or Coming()
    staying: list[Json] = []
    going: list[Json] = []
    plan: list[Removal] = []
    for descriptor in store.descriptors():
        entry = entry_of(descriptor)
        if entry and entry.key in gone:
            plan.append(Removal("image", entry.reference, 0, entry.platform, entry.digest))
            going.append(descriptor)
        elif not entry or entry.key not in coming.replaced:
            staying.append(descriptor)
    there = store.blobs()
    candidates = set(there) if everything else store.reached_from(going).intersection(there)
    if candidates:
        candidates -= store.reached_from(staying).union(coming.blobs)
    plan += [Removal("blob", digest, there[digest]) for digest in sorted(candidates)]
    if everything:
        plan += [removal for removal in _downloads(store) if f"sha256:{removal.name}" not in coming.blobs]
    return plan


def _downloads(store: Store) -> list[Removal]:
    names: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        names = sorted(os.listdir(store.stages))
    return [
        Removal("download", name, _size(os.path.join(store.stages, name)))
        for name in names
        if not name.endswith(".lock") and not store.is_busy(name)
    ]


def _size(path: str) -> int:
    """The bytes of the files in a directory that are nowhere else."""
    total = 0
    for directory, _directories, files in os.walk(path):
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                about = os.lstat(os.path.join(directory, file))
                total += about.st_size if about.st_nlink == 1 else 0
    return total


def apply_removal(store: Store, plan: t.Sequence[Removal]) -> None:
    """Remove it. The store has to be locked alone.

    Raises:
        Failure: ``write_failed``, ``disk_full``, ``store_locked``.
    """
    # The index comes first: what it names is there, however this ends.
    keys = {(removal.name, removal.platform or "") for removal in plan if removal.kind == "image"}
    if keys:
        store.forget(keys)
    for removal in plan:
        if removal.kind == "blob":
            with writing(store.path), contextlib.suppress(FileNotFoundError):
                os.unlink(store.layout.blob(removal.name))
        elif removal.kind == "download":
            remove_stage(os.path.join(store.stages, removal.name))
