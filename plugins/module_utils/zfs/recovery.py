# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Undoes or finishes what interrupted runs have left, from the journal."""

from __future__ import annotations

import typing as t

from . import clone, journal, restore
from .host import Host
from .store import Store

_WORK = {"restore": (restore.undo, restore.finish), "clone": (clone.undo, clone.finish)}


def recover(
    host: Host, store: Store, ids: t.Sequence[str], check_mode: bool, lose: t.Sequence[str] = ()
) -> list[dict[str, t.Any]]:
    """Undo or finish restores of these containers, or their making, that were interrupted, and say which.

    Those that were restored together with one of them end as it does. lose: what may go as well where a volume is
    rolled back in place, which cannot be undone.

    Raises:
        Failure: ``restore_running``, or what stands against it. Of what would lose something, nothing is touched.
    """
    left = [entry for container_id in ids for entry in [journal.read(store, container_id)] if entry is not None]
    group = sorted({container_id for entry in left for container_id in entry["group"]})
    runs = {entry["run"] for entry in left}
    with journal.working(store, group):
        # What one of them has left in another run has a group of its own.
        entries = {key: entry for key, entry in journal.together(store, group).items() if entry["run"] in runs}
        for entry in entries.values():
            if entry["phase"] == "in place":
                entry["lost"] = sorted({*entry["lost"], *lose})
        restore.require_finishable(host, entries)
        if not check_mode:
            with host.without_replication(entries):
                for container_id, entry in entries.items():
                    journal.write(store, container_id, entry)
                journal.each(lambda container_id: _end(host, store, container_id, entries[container_id]), entries)
    return [_result(container_id, entries) for container_id in ids if container_id in entries]


def _undone(entry: t.Mapping[str, t.Any]) -> bool:
    return bool(entry["phase"] == "begun")


def _end(host: Host, store: Store, container_id: str, entry: t.Mapping[str, t.Any]) -> None:
    undo, finish = _WORK[entry["work"]]
    (undo if _undone(entry) else finish)(host, store, container_id)


def _result(container_id: str, entries: t.Mapping[str, t.Mapping[str, t.Any]]) -> dict[str, t.Any]:
    entry = entries[container_id]
    what = "undone" if _undone(entry) else "finished"
    others = [other for other in entry["group"] if other in entries and other != container_id]
    return {
        "container": container_id,
        "changed": True,
        "plan": [{"key": f"interrupted {entry['work']}", "before": entry["phase"], "after": what}],
        "notes": [f"An interrupted {entry['work']} was {what}{''.join(f', with {other}' for other in others)}."],
    }
