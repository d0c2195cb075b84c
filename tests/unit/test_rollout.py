# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which replicas are changed when: examples, and what holds for all of them."""

from __future__ import annotations

import typing as t
from dataclasses import replace

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.rollout import (
    Replica,
    Report,
    Strategy,
    next_batch,
    schedule,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.rollout_image import Former, former_of, with_former
from hypothesis import assume, given
from hypothesis import strategies as st

WEB = Strategy("web")


def replica(name: str, marks: str = "") -> Replica:
    """A replica: ``x`` stopped, ``u`` unhealthy, ``-`` nothing to be done, ``s`` surge, ``h`` harmless."""
    running = "x" not in marks
    return Replica(name, running, running and "u" not in marks, "-" not in marks, "s" in marks, "h" in marks)


def replicas(*marks: str) -> list[Replica]:
    return [replica(str(number), mark) for number, mark in enumerate(marks, start=1)]


@pytest.mark.parametrize(
    ("marks", "strategy", "names"),
    [
        (["-", "-"], {}, []),
        (["", "", ""], {}, ["1"]),
        (["", "", ""], {"order": "descending"}, ["3"]),
        (["", "", ""], {"max_unavailable": "2"}, ["1", "2"]),
        (["", "", "", ""], {"max_unavailable": "50%"}, ["1", "2"]),
        (["", "", ""], {"max_unavailable": "10%"}, ["1"]),
        (["-", "", ""], {}, ["2"]),
        # What does not run goes first, and all at once.
        (["", "x", "x"], {}, ["2", "3"]),
        (["-", "-", "x"], {}, ["3"]),
        # What is not healthy comes next, but no more at a time than others.
        (["", "u", "u"], {}, ["2"]),
        (["u", "u", "u"], {}, ["1"]),
        (["", "", "u"], {"max_unavailable": "2", "order": "descending"}, ["3", "2"]),
        # What is as declared but not healthy takes a place.
        (["u-", "", ""], {"max_unavailable": "2"}, ["2"]),
        (["x-", "", ""], {"max_unavailable": "2"}, ["2"]),
        # Surge replicas are made first, and make up for others.
        (["", "", "xs"], {"max_unavailable": "0"}, ["3"]),
        (["", "", "s"], {"max_unavailable": "0"}, ["3"]),
        (["", "", "s-"], {"max_unavailable": "0"}, ["1"]),
        (["", "", "s-", "s-"], {"max_unavailable": "0"}, ["1", "2"]),
        (["", "", "s-"], {"max_unavailable": "1"}, ["1", "2"]),
        (["", "", "us-"], {"max_unavailable": "1"}, ["1"]),
        (["u-", "", "s-"], {"max_unavailable": "1"}, ["2"]),
        # What takes nothing away is done whatever else there is.
        (["u-", "h", "uh"], {}, ["2", "3"]),
        (["h", ""], {"max_unavailable": "0"}, ["1"]),
    ],
)
def test_next_batch(marks: list[str], strategy: dict[str, str], names: list[str]) -> None:
    batch = next_batch(replicas(*marks), replace(WEB, **strategy))
    assert (list(batch.names), batch.blocking) == (names, ())


@pytest.mark.parametrize(
    ("marks", "strategy", "blocking"),
    [
        (["u-", "", ""], {}, ["1"]),
        (["u-", "u", "u"], {}, ["1"]),
        (["x-", "u-", ""], {"max_unavailable": "2"}, ["1", "2"]),
        (["", "", "us-"], {"max_unavailable": "0"}, ["3"]),
        (["", "", "us-"], {"max_unavailable": "0%"}, ["3"]),
    ],
)
def test_blocked(marks: list[str], strategy: dict[str, str], blocking: list[str]) -> None:
    batch = next_batch(replicas(*marks), replace(WEB, **strategy))
    assert (batch.names, list(batch.blocking)) == ((), blocking)
    assert schedule(replicas(*marks), replace(WEB, **strategy)) == [batch]


@pytest.mark.parametrize(
    ("share", "count", "surge", "limit"),
    [
        ("1", 5, 0, 1),
        ("0", 5, 1, 0),
        ("25%", 8, 0, 2),
        ("25%", 7, 0, 1),
        ("25%", 3, 0, 1),
        ("25%", 3, 1, 0),
        ("100%", 3, 0, 3),
    ],
)
def test_limits(share: str, count: int, surge: int, limit: int) -> None:
    assert Strategy("web", share).limit(count, surge) == limit


MARKS = st.lists(st.sampled_from(["", "-", "x", "x-", "u", "u-"]), min_size=1, max_size=9)
SURGE = st.lists(st.sampled_from(["xs", "s", "s-", "us", "us-"]), max_size=3)
STRATEGIES = st.builds(
    Strategy,
    st.just("web"),
    st.one_of(st.integers(0, 9).map(str), st.integers(0, 100).map("{}%".format)),
    st.sampled_from(["ascending", "descending"]),
)


@given(MARKS, SURGE, STRATEGIES)
def test_enough_replicas_stay_in_service(marks: list[str], surge: list[str], strategy: Strategy) -> None:
    """Of those that work, no more are taken than leave enough of them."""
    now = replicas(*marks, *surge)
    wanted = [one for one in now if not one.surge]
    for batch in schedule(now, strategy):
        taken = [one for one in now if one.name in batch.names and one.healthy and not one.surge]
        if taken:
            working = sum(one.healthy for one in now if not (one.surge and one.name in batch.names))
            assert working - len(taken) >= len(wanted) - strategy.limit(len(wanted), len(surge)) - sum(
                not one.healthy and one.changes for one in wanted
            )
        now = [
            replace(one, running=True, healthy=True, changes=False) if one.name in batch.names else one for one in now
        ]


@given(MARKS, SURGE, STRATEGIES)
def test_every_replica_is_changed_once_or_the_rollout_is_blocked(
    marks: list[str], surge: list[str], strategy: Strategy
) -> None:
    assume(strategy.limit(len(marks), len(surge)) + len(surge) > 0)
    now = replicas(*marks, *surge)
    batches = schedule(now, strategy)
    names = [name for batch in batches for name in batch.names]
    assert len(names) == len(set(names))
    pending = {one.name for one in now if one.changes}
    assert set(names) <= pending
    if batches and batches[-1].blocking:
        assert all(not one.healthy for one in now if one.name in batches[-1].blocking)
    else:
        assert set(names) == pending


@given(STRATEGIES, st.integers(1, 9))
def test_a_rollout_of_healthy_replicas_is_never_blocked(strategy: Strategy, count: int) -> None:
    if strategy.max_unavailable != "0":
        assert not any(batch.blocking for batch in schedule(replicas(*[""] * count), strategy))


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"done": ["web-1"]}, ""),
        (
            {"failed": [{"replica": "web-1"}], "kept": ["web-2"]},
            "The roll-out of web stopped: web-1 could not be made as declared. web-2 was left alone.",
        ),
        (
            {"blocking": ["web-1", "web-2"], "kept": ["web-3", "web-4", "web-5"]},
            "The roll-out of web stopped: web-1 and web-2 are out of service, and no other replica may be as well. "
            "web-3, web-4 and web-5 were left alone.",
        ),
        ({"failed": [{"replica": "a"}]}, "The roll-out of web stopped: a could not be made as declared."),
    ],
)
def test_reports(facts: dict[str, t.Any], sentence: str) -> None:
    report = Report("web", "stop", **facts)
    assert report.sentence == sentence
    assert report.as_dict()["group"] == "web"


# ------------------------------------------------------------------------------------------------- the former image

IMAGE = f"<!-- lxcri.proxmox image=docker.io/library/nginx:1 digest=sha256:{'a' * 64} -->"


@given(st.dictionaries(st.sampled_from(["env", "entrypoint", "mp0"]), st.text(max_size=50)), st.booleans())
def test_what_a_container_was_is_read_back_from_its_note(config: dict[str, str], running: bool) -> None:
    former = Former(201, {**config, "description": IMAGE}, running)
    noted = with_former(f"Mine\n\n{IMAGE}\n", former)
    assert former_of(noted, 201) == former
    # A clone has it too.
    assert former_of(noted, 202) is None
    assert "\n" not in str(former)
    assert with_former(noted + "\n", None) == f"Mine\n\n{IMAGE}"
    assert former_of(with_former(noted, None), 201) is None


@pytest.mark.parametrize(
    "values",
    ["{", "{}", '{"config": [], "running": true, "vmid": 201}', '{"config": {}, "running": true, "vmid": 201}'],
)
def test_what_is_no_note_on_a_former_image(values: str) -> None:
    assert former_of(f"<!-- lxcri.proxmox former={values} -->", 201) is None
