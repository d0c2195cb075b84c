# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Retention: which of many snapshots are kept, by the keep-* rules that Proxmox has for backups. Pure, no I/O.

The rules (``prune_mark_backup_group`` of PVE/Storage.pm) apply one after the other: last, hourly, daily, weekly,
monthly, yearly. Each walks from the newest entry to the oldest. A period in which an earlier rule keeps something
already is passed over and not counted. The first entry of any other period is kept, until the rule has its number of
periods. Every further entry of a period that the rule has filled is removed for good: no later rule revives it. What
no rule keeps is removed. Without any positive number everything is kept.

Periods are those of the clock on the wall in one time zone. Where an hour is repeated when summer time ends, both are
the same period. Gaps do not expire anything: three entries in a year are three daily ones.
"""

from __future__ import annotations

import re
import typing as t
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from .api.errors import Failure

# In the order in which they apply.
RULES = ("last", "hourly", "daily", "weekly", "monthly", "yearly")

_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 604800}
# What a verdict says besides the rules.
ALL = "all"
PROTECTED = "protected"


@dataclass(frozen=True)
class Entry:
    """Something that is kept or removed.

    identity: what tells it from all others, such as the guid of a ZFS snapshot. Times and names can be equal.
    created: its creation, in seconds since the epoch.
    protected: it is kept whatever the rules say, and does not count for them.
    order: its place among all entries when the time is not to decide, such as the createtxg of a ZFS snapshot;
        all entries have one or none has.
    """

    identity: t.Hashable
    created: int
    protected: bool = False
    order: int | None = None


@dataclass(frozen=True)
class Verdict:
    """What becomes of an entry.

    rule: the rule that keeps it, ``all`` (there is no rule) or ``protected``; None when it is removed.
    """

    entry: Entry
    rule: str | None

    @property
    def keep(self) -> bool:
        """True when it is kept."""
        return self.rule is not None


def keep_options() -> dict[str, dict[str, t.Any]]:
    """The options of the doc fragment ``retention``, as ``argument_spec``."""
    return {
        "keep": {"type": "dict", "options": {rule: {"type": "int"} for rule in RULES}},
        "keep_timezone": {"type": "str"},
    }


def retain(entries: t.Iterable[Entry], keep: t.Mapping[str, int], timezone: str | None = None) -> list[Verdict]:
    """The verdicts, from the newest entry to the oldest. Entries of one time stay in the order in which they came.

    keep: numbers by the names of rules, such as ``{"last": 3, "daily": 7}``.
    timezone: such as ``Europe/Vienna``; None for that of this machine.

    Raises:
        ValueError: there is no such rule or time zone, or a number is negative.
    """
    wanted = _checked(keep)
    clock = _clock(timezone)
    newest_first = sorted(
        entries, key=lambda entry: entry.created if entry.order is None else entry.order, reverse=True
    )
    if not wanted:
        return [Verdict(entry, PROTECTED if entry.protected else ALL) for entry in newest_first]
    # By place in the list: what was decided (a rule, or None for removed).
    decided: dict[int, str | None] = {place: PROTECTED for place, entry in enumerate(newest_first) if entry.protected}
    for rule, number in wanted.items():
        periods = [_period(rule, place, clock(entry.created)) for place, entry in enumerate(newest_first)]
        _apply(rule, number, periods, decided)
    return [Verdict(entry, decided.get(place)) for place, entry in enumerate(newest_first)]


def future_dated(entries: t.Iterable[Entry], now: float) -> list[Entry]:
    """Entries that are dated after now. Each takes the place of one that is really the newest."""
    return [entry for entry in entries if entry.created > now]


def parse_duration(text: str) -> int:
    """Seconds of ``12h``, ``30d`` or ``4w``.

    Raises:
        Failure: ``invalid_option``.
    """
    match = re.match(r"([0-9]{1,6})([mhdw])\Z", text)
    if not match:
        raise Failure("invalid_option", f"{text!r} is no span of time.", "Write it as 12h, 30d or 4w.")
    return int(match[1]) * _SECONDS[match[2]]


def _checked(keep: t.Mapping[str, int]) -> dict[str, int]:
    """The positive numbers, in the order of the rules."""
    for rule, number in keep.items():
        if rule not in RULES:
            raise ValueError(f"{rule!r} is not one of {', '.join(RULES)}")
        if number < 0:
            raise ValueError(f"{rule} must not be negative")
    return {rule: keep[rule] for rule in RULES if keep.get(rule)}


def _apply(rule: str, number: int, periods: t.Sequence[t.Hashable], decided: dict[int, str | None]) -> None:
    """Decide by one rule what no earlier one has decided."""
    kept = {periods[place] for place, verdict in decided.items() if verdict not in (None, PROTECTED)}
    filled: Counter[t.Hashable] = Counter()
    for place, period in enumerate(periods):
        if place in decided or period in kept:
            continue
        if period not in filled and len(filled) == number:
            return
        decided[place] = None if filled[period] else rule
        filled[period] += 1


def _period(rule: str, place: int, local: datetime) -> t.Hashable:
    """The period of a rule in which a moment lies."""
    if rule == "last":
        # Each entry is one of its own. Proxmox takes the time, which no two backups of a guest share.
        return place
    if rule == "weekly":
        return tuple(local.isocalendar())[:2]
    parts = (local.year, local.month, local.day, local.hour)
    return parts[: ("yearly", "monthly", "daily", "hourly").index(rule) + 1]


def _clock(timezone: str | None) -> t.Callable[[int], datetime]:
    """Tells the local time of a moment."""
    if timezone is None:
        return datetime.fromtimestamp
    try:
        zone = ZoneInfo(timezone)
    except (KeyError, ValueError, OSError):
        # ZoneInfoNotFoundError is a KeyError; the name of a directory of the database is an OSError.
        raise ValueError(f"{timezone!r} is not a time zone that this machine knows") from None
    return lambda created: datetime.fromtimestamp(created, zone)
