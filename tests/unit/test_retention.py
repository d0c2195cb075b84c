# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Retention: tables of cases, and any case against a second reading of the rules."""

from __future__ import annotations

import time
import typing as t
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.retention import (
    RULES,
    Entry,
    Verdict,
    future_dated,
    retain,
)
from hypothesis import given
from hypothesis import strategies as st

UTC = "UTC"
VIENNA = "Europe/Vienna"
# Summer time ended there one minute after midnight, so that a day was left and entered again.
ST_JOHNS = "America/St_Johns"


def at(text: str, zone: str = UTC, fold: int = 0) -> int:
    """The moment of a local time, in seconds since the epoch."""
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp())


def entries(*times: str) -> list[Entry]:
    """Entries that are known by their local time in UTC."""
    return [Entry(text, at(text)) for text in times]


def rules(verdicts: t.Iterable[Verdict]) -> dict[t.Hashable, str | None]:
    """What keeps each entry."""
    return {verdict.entry.identity: verdict.rule for verdict in verdicts}


def kept(verdicts: t.Iterable[Verdict]) -> list[t.Hashable]:
    """The identities of what is kept, newest first."""
    return [verdict.entry.identity for verdict in verdicts if verdict.keep]


# ---------------------------------------------------------------------------------------------------- the rules


@pytest.mark.parametrize("keep", [{}, {"last": 0}, dict.fromkeys(RULES, 0)])
def test_without_a_positive_number_everything_is_kept(keep: dict[str, int]) -> None:
    verdicts = retain(entries("2026-01-01", "2026-01-02"), keep, UTC)
    assert rules(verdicts) == {"2026-01-01": "all", "2026-01-02": "all"}
    assert all(verdict.keep for verdict in verdicts)


def test_of_nothing_nothing_is_kept() -> None:
    assert retain([], {"last": 3}, UTC) == []


def test_verdicts_come_from_the_newest_to_the_oldest() -> None:
    verdicts = retain(entries("2026-01-02", "2026-01-03", "2026-01-01"), {"last": 2}, UTC)
    assert [verdict.entry.identity for verdict in verdicts] == ["2026-01-03", "2026-01-02", "2026-01-01"]
    assert [verdict.keep for verdict in verdicts] == [True, True, False]


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ({"last": 2}, ["2026-03-02T09:40", "2026-03-02T09:10"]),
        ({"hourly": 2}, ["2026-03-02T09:40", "2026-03-02T08:00"]),
        ({"daily": 2}, ["2026-03-02T09:40", "2026-03-01T23:00"]),
        ({"weekly": 2}, ["2026-03-02T09:40", "2026-03-01T23:00"]),  # the 2nd was a Monday
        ({"monthly": 2}, ["2026-03-02T09:40", "2026-02-28T23:00"]),
        ({"yearly": 2}, ["2026-03-02T09:40", "2025-12-31T12:00"]),
        ({"yearly": 9}, ["2026-03-02T09:40", "2025-12-31T12:00"]),
    ],
)
def test_each_rule_keeps_the_newest_of_its_periods(keep: dict[str, int], expected: list[str]) -> None:
    times = entries(
        "2026-03-02T09:40",
        "2026-03-02T09:10",
        "2026-03-02T08:00",
        "2026-03-01T23:00",
        "2026-03-01T01:00",
        "2026-02-28T23:00",
        "2025-12-31T12:00",
        "2025-12-31T11:00",
    )
    verdicts = retain(times, keep, UTC)
    assert kept(verdicts) == expected
    assert {verdict.rule for verdict in verdicts if verdict.keep} == set(keep)


def test_a_period_that_an_earlier_rule_has_filled_is_passed_over_and_not_counted() -> None:
    days = [f"2026-01-{day:02}" for day in range(1, 11)]
    verdicts = rules(retain(entries(*days), {"last": 2, "daily": 3}, UTC))
    assert [verdicts[day] for day in reversed(days)] == ["last", "last", "daily", "daily", "daily"] + [None] * 5


def test_the_other_entries_of_a_filled_period_are_not_revived_by_a_later_rule() -> None:
    """The daily rule removes the 30th of January at noon, which would be the newest of January otherwise."""
    times = entries("2026-02-01T18:00", "2026-01-30T18:00", "2026-01-30T12:00", "2026-01-02T12:00")
    assert rules(retain(times, {"daily": 2, "monthly": 1}, UTC)) == {
        "2026-02-01T18:00": "daily",
        "2026-01-30T18:00": "daily",
        "2026-01-30T12:00": None,
        "2026-01-02T12:00": None,  # January has an entry that is kept, and there is no other month
    }


def test_an_entry_that_a_rule_did_not_reach_is_left_to_the_later_ones() -> None:
    times = entries("2026-02-02", "2026-02-01", "2026-01-31", "2025-12-31")
    assert rules(retain(times, {"daily": 1, "monthly": 2}, UTC)) == {
        "2026-02-02": "daily",
        "2026-02-01": None,
        "2026-01-31": "monthly",
        "2025-12-31": "monthly",
    }


def test_weeks_are_those_of_iso_8601() -> None:
    """The 29th of December 2025 and the 1st of January 2026 are in week 1 of 2026, the 4th is its Sunday."""
    times = entries("2026-01-05", "2026-01-04", "2026-01-01", "2025-12-29", "2025-12-28")
    assert kept(retain(times, {"weekly": 9}, UTC)) == ["2026-01-05", "2026-01-04", "2025-12-28"]


def test_gaps_expire_nothing() -> None:
    times = entries("2026-04-01", "2026-02-15", "2026-01-01")
    assert kept(retain(times, {"daily": 3}, UTC)) == ["2026-04-01", "2026-02-15", "2026-01-01"]


# The facts of Proxmox's own cases (src/test/prune_backups_test.pm of pve-storage), each oldest first.
TWO_YEARS = [
    "2018-05-26T11:18:21",
    "2019-12-31T11:18:21",
    "2019-12-31T11:18:51 protected",
    "2019-12-31T11:19:21",
    "2020-01-01T11:18:21",
    "2020-01-01T12:18:21",
]
THREE_DAYS = ["2019-12-25T12:18:21", "2019-12-31T12:18:21", "2020-01-01T12:18:21"]
OVER_A_WEEKEND = ["2020-12-03T12:18:21", "2020-12-04T12:18:21", "2020-12-07T12:18:21"]
A_CENTURY = ["1970-01-01T00:01:23", "2070-01-01T00:01:00"]


@pytest.mark.parametrize(
    ("times", "keep", "marks"),
    [
        (TWO_YEARS, {"last": 3}, "- - p k k k"),
        (TWO_YEARS, {"weekly": 2}, "k - p - - k"),
        (TWO_YEARS, {"hourly": 0, "daily": 1, "weekly": 1, "monthly": 1}, "k - p k - k"),
        (TWO_YEARS, {"hourly": 4, "daily": 0}, "k - p k k k"),
        (TWO_YEARS, {"hourly": 0, "daily": 0, "weekly": 0, "monthly": 0, "yearly": 2}, "- - p k - k"),
        (TWO_YEARS, {"last": 2, "hourly": 2}, "k - p k k k"),
        (TWO_YEARS, {"last": 1, "monthly": 2}, "k - p k - k"),
        (TWO_YEARS, {"monthly": 3}, "k - p k - k"),
        (TWO_YEARS, {"last": 1, "daily": 1, "weekly": 1}, "k - p k - k"),
        (TWO_YEARS, {"last": 1, "hourly": 0, "daily": 1, "weekly": 1, "monthly": 0, "yearly": 0}, "k - p k - k"),
        (TWO_YEARS, {"daily": 2}, "- - p k - k"),
        (TWO_YEARS, {"weekly": 1, "monthly": 1}, "k - p - - k"),
        (TWO_YEARS, {"weekly": 1, "yearly": 1}, "k - p - - k"),
        (TWO_YEARS, {}, "k k p k k k"),
        (TWO_YEARS, dict.fromkeys(RULES, 0), "k k p k k k"),
        # The month is held by what the weekly rule keeps.
        (THREE_DAYS, {"daily": 1, "weekly": 1, "monthly": 1}, "k - k"),
        (OVER_A_WEEKEND, {"daily": 1, "weekly": 1}, "- k k"),
        (A_CENTURY, {"yearly": 1}, "- k"),
    ],
)
def test_the_marks_are_those_of_proxmox(times: list[str], keep: dict[str, int], marks: str) -> None:
    dated = [Entry(text, at(text.removesuffix(" protected")), text.endswith(" protected")) for text in times]
    found = rules(retain(dated, keep, UTC))
    shown = {None: "-", "protected": "p"}
    assert " ".join(shown.get(found[text], "k") for text in times) == marks


def test_rules_apply_in_their_own_order_whatever_that_of_the_mapping_is() -> None:
    times = entries("2026-02-02", "2026-02-01", "2026-01-31", "2025-12-31")
    keep = {"yearly": 2, "monthly": 2, "last": 1}
    verdicts = retain(times, keep, UTC)
    assert rules(verdicts) == {
        "2026-02-02": "last",
        "2026-02-01": None,
        "2026-01-31": "monthly",
        "2025-12-31": "monthly",
    }
    assert rules(retain(times, dict(reversed(keep.items())), UTC)) == rules(verdicts)


def test_the_order_in_which_entries_come_does_not_matter() -> None:
    times = entries("2026-02-02", "2026-02-01", "2026-01-31", "2025-12-31")
    keep = {"last": 1, "monthly": 1}
    assert retain(times, keep, UTC) == retain(list(reversed(times)), keep, UTC)


@pytest.mark.parametrize("rule", RULES)
def test_there_may_be_fewer_entries_than_a_rule_would_keep(rule: str) -> None:
    assert kept(retain(entries("2026-02-02", "2020-02-02"), {rule: 99}, UTC)) == ["2026-02-02", "2020-02-02"]


# ------------------------------------------------------------------------------------------------- the time zone


def test_days_begin_at_the_midnight_of_the_time_zone() -> None:
    times = entries("2026-01-10T23:30", "2026-01-10T22:30")
    assert kept(retain(times, {"daily": 2}, UTC)) == ["2026-01-10T23:30"]
    assert kept(retain(times, {"daily": 2}, VIENNA)) == ["2026-01-10T23:30", "2026-01-10T22:30"]


def test_the_hour_that_is_repeated_when_summer_time_ends_is_one_period() -> None:
    summer = Entry("summer", at("2026-10-25T02:30", VIENNA))
    winter = Entry("winter", at("2026-10-25T02:30", VIENNA, fold=1))
    assert winter.created - summer.created == 3600
    assert rules(retain([summer, winter], {"hourly": 2}, VIENNA)) == {"winter": "hourly", "summer": None}
    assert kept(retain([summer, winter], {"hourly": 2}, UTC)) == ["winter", "summer"]


def test_the_hour_that_is_missing_when_summer_time_begins_is_no_period() -> None:
    times = [Entry("before", at("2026-03-29T01:59", VIENNA)), Entry("after", at("2026-03-29T03:00", VIENNA))]
    assert times[1].created - times[0].created == 60
    assert kept(retain(times, {"hourly": 2}, VIENNA)) == ["after", "before"]


def test_without_a_time_zone_it_is_that_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    times = entries("2026-01-10T23:30", "2026-01-10T22:30")
    try:
        monkeypatch.setenv("TZ", "CET-1")
        time.tzset()
        assert len(kept(retain(times, {"daily": 2}))) == 2
        monkeypatch.setenv("TZ", "UTC0")
        time.tzset()
        assert len(kept(retain(times, {"daily": 2}))) == 1
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_day_that_is_left_and_entered_again_is_one_period() -> None:
    """In St. John's summer time ended at 00:01: 23 hours and a second evening of the day before follow."""
    before = Entry("midnight", at("2006-10-29T00:00", ST_JOHNS))
    again = Entry("evening again", at("2006-10-28T23:30", ST_JOHNS, fold=1))
    evening = Entry("evening", at("2006-10-28T23:30", ST_JOHNS))
    assert evening.created < before.created < again.created
    assert rules(retain([before, again, evening], {"daily": 3}, ST_JOHNS)) == {
        "evening again": "daily",
        "midnight": "daily",
        "evening": None,
    }


def test_a_date_that_a_country_has_skipped_is_no_day() -> None:
    """Samoa went from the 29th to the 31st of December 2011, over the date line."""
    zone = "Pacific/Apia"
    times = [Entry(day, at(f"2011-12-{day}T12:00", zone)) for day in ("28", "29", "31")]
    assert times[2].created - times[1].created == 86400
    assert kept(retain(times, {"daily": 3}, zone)) == ["31", "29", "28"]


def test_a_week_begins_at_the_midnight_before_monday_of_the_time_zone() -> None:
    times = [Entry("sunday", at("2026-03-01T23:30", VIENNA)), Entry("monday", at("2026-03-02T00:30", VIENNA))]
    assert kept(retain(times, {"weekly": 2}, VIENNA)) == ["monday", "sunday"]
    assert kept(retain(times, {"weekly": 2}, UTC)) == ["monday"]


# ---------------------------------------------------------------------------------------------- special entries


def test_what_is_protected_is_kept_and_counts_for_nothing() -> None:
    times = [
        Entry("new", at("2026-01-03"), protected=True),
        Entry("same day", at("2026-01-03") - 60),
        *entries("2026-01-02T12:00", "2026-01-01"),
    ]
    assert rules(retain(times, {"daily": 2}, UTC)) == {
        "new": "protected",
        "same day": "daily",
        "2026-01-02T12:00": None,
        "2026-01-01": "daily",
    }
    assert rules(retain(times[:1], {}, UTC)) == {"new": "protected"}


def test_what_is_dated_in_the_future_takes_a_place() -> None:
    times = entries("2030-01-01", "2026-01-02", "2026-01-01")
    assert kept(retain(times, {"last": 2}, UTC)) == ["2030-01-01", "2026-01-02"]
    assert [entry.identity for entry in future_dated(times, at("2026-01-02"))] == ["2030-01-01"]


def test_another_order_than_that_of_the_times_decides_what_is_newest() -> None:
    """A clock that was set back: the entry with the later transaction group is the newer one."""
    times = [Entry("first", at("2030-01-01"), order=10), Entry("second", at("2026-01-01"), order=11)]
    assert kept(retain(times, {"last": 1}, UTC)) == ["second"]


def test_entries_of_one_second_are_told_apart() -> None:
    times = [Entry(name, 1_700_000_000) for name in "abc"]
    assert rules(retain(times, {"last": 2}, UTC)) == {"a": "last", "b": "last", "c": None}
    assert rules(retain(times, {"hourly": 2}, UTC)) == {"a": "hourly", "b": None, "c": None}


# ----------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("keep", "zone", "reason"),
    [
        ({"minutely": 1}, UTC, "'minutely' is not one of last, hourly"),
        ({"daily": -1}, UTC, "daily must not be negative"),
        ({"daily": 1}, "Europe/Atlantis", "not a time zone"),
        ({"daily": 1}, "Europe", "not a time zone"),
        ({"daily": 1}, "../etc/passwd", "not a time zone"),
    ],
)
def test_wrong_rules_are_refused(keep: dict[str, int], zone: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        retain([], keep, zone)


# ------------------------------------------------------------------------------------------------ any case at all


FORMATS = {"hourly": "%Y-%m-%d %H", "daily": "%Y-%m-%d", "weekly": "%G-%V", "monthly": "%Y-%m", "yearly": "%Y"}


def second_reading(times: list[Entry], keep: dict[str, int], zone: str) -> set[t.Hashable]:
    """What is kept, read from the text of the rules as statements about sets instead of a walk.

    Among the entries that a rule looks at, the leaders are those before which none is of the same period. The rule
    ends before the leader that is one too many. Up to there leaders are kept, and all others are removed.
    """
    if not any(keep.values()):
        return {entry.identity for entry in times}

    def period(rule: str, entry: Entry) -> t.Hashable:
        moment = datetime.fromtimestamp(0, ZoneInfo(UTC)) + timedelta(seconds=entry.created)
        return entry.identity if rule == "last" else moment.astimezone(ZoneInfo(zone)).strftime(FORMATS[rule])

    free = sorted((entry for entry in times if not entry.protected), key=lambda entry: -entry.created)
    keeping: list[Entry] = []
    for rule in RULES:
        if not keep.get(rule):
            continue
        taken = {period(rule, entry) for entry in keeping}
        seen = [entry for entry in free if period(rule, entry) not in taken]
        leaders = [
            entry
            for place, entry in enumerate(seen)
            if all(period(rule, entry) != period(rule, other) for other in seen[:place])
        ]
        end = seen.index(leaders[keep[rule]]) if len(leaders) > keep[rule] else len(seen)
        keeping += leaders[: keep[rule]]
        free = [entry for entry in free if entry not in seen[:end]]
    return {entry.identity for entry in keeping} | {entry.identity for entry in times if entry.protected}


def third_reading(times: list[Entry], keep: dict[str, int], zone: str) -> set[t.Hashable]:
    """What is kept, period by period over the whole list: each period is a bag of entries, newest bag first.

    A bag that holds a kept entry is left as it is. Of the others the rule empties so many as it has a number for,
    keeps the newest entry of each, and throws the rest away. A bag is judged by what no rule has thrown away or kept.
    """
    if not any(keep.values()):
        return {entry.identity for entry in times}
    newest_first = sorted(times, key=lambda entry: -entry.created)
    kept_so_far: set[t.Hashable] = set()
    gone: set[t.Hashable] = set()
    for rule in RULES:
        if not keep.get(rule):
            continue
        bags: dict[t.Hashable, list[Entry]] = {}
        for entry in newest_first:
            if not entry.protected:
                moment = datetime.fromtimestamp(entry.created, ZoneInfo(zone))
                bag = entry.identity if rule == "last" else moment.strftime(FORMATS[rule])
                bags.setdefault(bag, []).append(entry)
        open_bags = [
            left
            for bag in bags.values()
            if not kept_so_far.intersection(entry.identity for entry in bag)
            and (left := [entry for entry in bag if entry.identity not in gone])
        ]
        for bag in sorted(open_bags, key=lambda left: newest_first.index(left[0]))[: keep[rule]]:
            kept_so_far.add(bag[0].identity)
            gone.update(entry.identity for entry in bag[1:])
    return kept_so_far | {entry.identity for entry in times if entry.protected}


def clustered() -> st.SearchStrategy[int]:
    """Moments of which many share a period, around the ends of years and of summer time, and anywhere."""
    anchors = [at("2025-12-31T23:00"), at("2026-10-25T00:30"), at("2006-10-29T02:00"), at("2026-03-29T00:30")]
    steps = st.sampled_from([60, 1800, 3600, 86400, 7 * 86400, 31 * 86400])
    near = st.builds(
        lambda anchor, step, count: anchor + step * count, st.sampled_from(anchors), steps, st.integers(-20, 20)
    )
    return near | st.integers(0, 2**32)


KEEP = st.fixed_dictionaries({}, optional={rule: st.integers(0, 4) for rule in RULES})


@given(
    st.lists(st.tuples(clustered(), st.sampled_from([False] * 5 + [True]))),
    KEEP,
    st.sampled_from([UTC, VIENNA, ST_JOHNS, "Pacific/Apia", "Asia/Kathmandu"]),
)
def test_it_agrees_with_a_second_reading(times: list[tuple[int, bool]], keep: dict[str, int], zone: str) -> None:
    given_entries = [Entry(number, created, protected) for number, (created, protected) in enumerate(times)]
    verdicts = retain(given_entries, keep, zone)
    assert {verdict.entry.identity for verdict in verdicts} == {entry.identity for entry in given_entries}
    assert set(kept(verdicts)) == second_reading(given_entries, keep, zone)


@given(
    st.lists(st.tuples(clustered(), st.sampled_from([False] * 5 + [True]))),
    KEEP,
    st.sampled_from([UTC, VIENNA, "America/New_York", "Asia/Kathmandu"]),
)
def test_it_agrees_with_a_reading_period_by_period(
    times: list[tuple[int, bool]], keep: dict[str, int], zone: str
) -> None:
    """In zones where a day is never left and entered again, a rule ends between two periods of its own."""
    given_entries = [Entry(number, created, protected) for number, (created, protected) in enumerate(times)]
    assert set(kept(retain(given_entries, keep, zone))) == third_reading(given_entries, keep, zone)


@given(st.lists(clustered(), min_size=1), KEEP.filter(lambda keep: any(keep.values())))
def test_the_newest_is_always_kept_and_no_rule_keeps_too_many(times: list[int], keep: dict[str, int]) -> None:
    verdicts = retain([Entry(number, created) for number, created in enumerate(times)], keep, VIENNA)
    assert verdicts[0].keep
    for rule in RULES:
        assert sum(verdict.rule == rule for verdict in verdicts) <= keep.get(rule, 0)


@given(st.lists(clustered(), unique=True), KEEP)
def test_pruning_twice_is_pruning_once(times: list[int], keep: dict[str, int]) -> None:
    first = [
        verdict.entry for verdict in retain([Entry(moment, moment) for moment in times], keep, UTC) if verdict.keep
    ]
    assert [verdict.entry for verdict in retain(first, keep, UTC) if verdict.keep] == first
