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


def recover(host: Host, store: Store, ids: t.Sequence[str], check_mode: bool) -> list[dict[str, t.Any]]:
    """Undo or finish restores of these containers, or their making, that were interrupted, and say which.

    Raises:
        Failure: ``restore_running``, or what stands against it.
    """
    left = [container_id for container_id in ids if journal.read(store, container_id) is not None]
    if not left:
        return []
    results = []
    with journal.working(store, left):
        for container_id in left:
            entry = journal.read(store, container_id)
            if entry is None:
                continue
            undo, finish = _WORK[entry["work"]]
            undone = entry["phase"] == "begun"
            if not check_mode:
                (undo if undone else finish)(host, store, container_id)
            what = "undone" if undone else "finished"
            results.append(
                {
                    "container": container_id,
                    "changed": True,
                    "plan": [{"key": f"interrupted {entry['work']}", "before": entry["phase"], "after": what}],
                    "notes": [f"An interrupted {entry['work']} was {what}."],
                }
            )
    return results
