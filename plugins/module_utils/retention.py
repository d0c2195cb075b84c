# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of many dated things are kept: the rules of Proxmox's keep options.

The rules are those of ``prune_mark_backup_group`` in PVE/Storage.pm. They are applied in the order last, hourly,
daily, weekly, monthly, yearly, and each goes from the newest entry to the oldest:

- A period that an earlier rule has kept an entry of is passed over and does not count.
- The first entry of another period is kept, until as many periods are filled as the rule says.
- Other entries of the periods that were filled are removed for good; no later rule keeps them.

What no rule has kept is removed. Without a positive rule everything is kept. Nothing here does I/O.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass
from datetime import datetime, timezone, tzinfo

RULES = ("last", "hourly", "daily", "weekly", "monthly", "yearly")

PROTECTED = "protected"
KEEP_ALL = "all"


@dataclass(frozen=True)
class Entry:
    """One dated thing.

    id: what it is called, unique among the entries.
    time: its creation, in seconds since 1970-01-01 UTC.
    protected: it is kept, and neither counts nor fills a period.
    """

    id: str
    time: int
    protected: bool = False


def kept(entries: t.Iterable[Entry], keep: t.Mapping[str, int], zone: tzinfo | None = None) -> dict[str, str | None]:
    """For each entry the rule that keeps it, or None when it is to be removed.

    keep: how many periods each rule fills; a rule that is missing fills none.
    zone: the time zone whose hours, days and weeks are meant; None for that of the machine.

    An entry that is protected is kept by ``protected``, and when there is no positive rule, all by ``all``.
    """
    marks: dict[str, str | None] = {}
    group = []
    for entry in entries:
        if entry.protected:
            marks[entry.id] = PROTECTED
        else:
            group.append(entry)
    if not any(keep.get(rule, 0) > 0 for rule in RULES):
        return {**marks, **{entry.id: KEEP_ALL for entry in group}}
    group.sort(key=lambda entry: entry.time, reverse=True)
    found: dict[str, str | None] = {}
    for rule in RULES:
        if keep.get(rule, 0) > 0:
            _apply_rule(group, rule, keep[rule], zone, found)
    return {**marks, **{entry.id: found.get(entry.id) for entry in group}}


def _apply_rule(
    group: t.Sequence[Entry], rule: str, count: int, zone: tzinfo | None, found: dict[str, str | None]
) -> None:
    filled_before = {_period(rule, entry.time, zone) for entry in group if found.get(entry.id) is not None}
    filled: set[t.Hashable] = set()
    for entry in group:
        if entry.id in found:
            continue
        period = _period(rule, entry.time, zone)
        if period in filled_before:
            continue
        if period in filled:
            found[entry.id] = None
            continue
        if len(filled) >= count:
            return
        filled.add(period)
        found[entry.id] = rule


def _period(rule: str, time: int, zone: tzinfo | None) -> t.Hashable:
    """What the entries of one period have in common."""
    if rule == "last":
        return time
    moment = datetime.fromtimestamp(time, timezone.utc).astimezone(zone)
    if rule == "weekly":
        return tuple(moment.isocalendar())[:2]
    parts = {"hourly": 4, "daily": 3, "monthly": 2, "yearly": 1}[rule]
    return moment.timetuple()[:parts]
