# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots: what a task may want, and what has to be done for it."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.tasks import Task
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import Actual, Plan
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.snapshot import (
    Result,
    Snapshot,
    Snapshots,
    Wish,
    held_by,
    make_wish,
    module_result,
    newer_snapshots,
    note_rollback,
    oldest_first,
    plan_snapshots,
    read_snapshots,
    refuse_unfit,
)
from ansible_collections.lxcri.proxmox.tests.unit.support import TOKEN, FakeClient, not_found
from hypothesis import given
from hypothesis import strategies as st

PATH = "nodes/pve1/lxc/201"
LIST = f"{PATH}/snapshot"
# 2026-11-21T12:00:00Z
NOON = 1795262400
DAY = 86400
DEFAULTS: dict[str, t.Any] = {
    "vmid": [201],
    "hostname": [],
    "node": None,
    "state": "present",
    "name": None,
    "prefix": "lxcri-",
    "description": None,
    "keep": None,
    "keep_timezone": None,
    "remove_newer": False,
    "force": False,
    "concurrency": 4,
    "timeout": 600,
}
RULES = ("last", "hourly", "daily", "weekly", "monthly", "yearly")


def wish(**options: t.Any) -> Wish:
    """The wish of a task with these options, made at noon."""
    keep = options.get("keep")
    given_keep = None if keep is None else {**dict.fromkeys(RULES), **keep}
    return make_wish({**DEFAULTS, **options, "keep": given_keep}, NOON)


def container(status: str = "stopped", **options: t.Any) -> Actual:
    return Actual(201, "pve1", status, {"hostname": "web-1"}, **options)


def chain(*names: str, start: int = NOON - 10 * DAY, step: int = DAY) -> list[Snapshot]:
    """Snapshots one after the other, oldest first."""
    return [
        Snapshot(name, start + place * step, parent=names[place - 1] if place else None)
        for place, name in enumerate(names)
    ]


def requests(plan: Plan) -> list[tuple[str, str, dict[str, t.Any]]]:
    """Method, path below that of the container, and parameters."""
    return [(step.method, step.path.removeprefix(PATH), step.params) for step in plan.steps]


def removed(plan: Plan) -> list[str]:
    """The snapshots that are removed, in that order."""
    return [step.path.rpartition("/")[2] for step in plan.steps if step.method == "DELETE"]


def changes(plan: Plan) -> list[tuple[t.Any, ...]]:
    return [(change.key, change.before, change.after, change.effect) for change in plan.changes]


def refusal(work: t.Callable[[], t.Any]) -> Failure:
    with pytest.raises(Failure) as caught:
        work()
    return caught.value


# ----------------------------------------------------------------------------------------------------- the wish


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"vmid": []}, "vmid"),
        ({"vmid": [], "hostname": [""]}, "hostname"),
        ({"vmid": [201, 202], "node": "pve1"}, "node"),
        ({"vmid": [], "hostname": ["web-1"], "node": "pve1"}, "node"),
        ({"vmid": [201], "hostname": ["web-1"], "node": "pve1"}, "node"),
        ({"concurrency": 0}, "concurrency"),
        ({"name": "x"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "1st"}, "name"),
        ({"name": "-x"}, "name"),
        ({"name": "before upgrade"}, "name"),
        ({"name": "before.upgrade"}, "name"),
        ({"name": "über"}, "name"),
        ({"name": "before\n"}, "name"),
        ({"name": "a" * 41}, "name"),
        ({"name": "current"}, "name"),
        ({"name": "vzdump"}, "name"),
        ({"prefix": ""}, "prefix"),
        ({"prefix": "1-"}, "prefix"),
        ({"prefix": "a b"}, "prefix"),
        ({"prefix": "a" * 26}, "prefix"),
        ({"keep": {"daily": -1}}, "keep.daily"),
        ({"keep": {"last": 3, "yearly": -2}}, "keep.yearly"),
        ({"keep": {}}, "keep"),
        ({"keep": {"daily": 0}}, "keep"),
        ({"keep": {"daily": 1}, "keep_timezone": "Europe/Atlantis"}, "keep_timezone"),
        ({"keep": {"daily": 1}, "keep_timezone": "Europe"}, "keep_timezone"),
        ({"keep": {"daily": 1}, "keep_timezone": "../etc/passwd"}, "keep_timezone"),
        ({"state": "rolled_back"}, "name"),
        ({"state": "rolled_back", "name": "current"}, "name"),
        ({"state": "rolled_back", "name": "before", "keep": {"last": 1}}, "keep"),
        ({"name": "before", "remove_newer": True}, "remove_newer"),
        ({"state": "absent", "name": "before", "remove_newer": True}, "remove_newer"),
        ({"state": "absent"}, "name"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_the_name_of_its_option(options: dict[str, t.Any], option: str) -> None:
    failure = refusal(lambda: wish(**options))
    assert (failure.code, failure.details["option"]) == ("invalid_option", option)
    assert failure.message.startswith(f"{option}: ")


@pytest.mark.parametrize(
    "options",
    [
        {"name": "ab"},
        {"name": "A-b_9"},
        {"name": "a" * 40},
        {"name": "Current"},
        {"prefix": "a" * 25},
        {"state": "absent", "keep": {"last": 1}},
        {"state": "absent", "name": "before", "keep": {"last": 1}},
        {"state": "rolled_back", "name": "before", "remove_newer": True},
        {"vmid": [], "hostname": ["web-1", "web-2"]},
        {"vmid": [201], "node": "pve1"},
        {"keep": {"daily": 7, "last": 0}, "keep_timezone": "Europe/Vienna"},
        {"keep_timezone": ""},
    ],
)
def test_what_can_be_meant_is_accepted(options: dict[str, t.Any]) -> None:
    assert wish(**options).state == options.get("state", "present")


def test_a_snapshot_without_a_name_is_called_by_the_prefix_and_the_time_in_utc() -> None:
    assert wish().name == "lxcri-20261121-120000"
    assert wish(prefix="daily-").name == "daily-20261121-120000"
    assert len(str(wish(prefix="a" * 25).name)) == 40


@pytest.mark.parametrize("state", ["absent", "rolled_back"])
def test_only_a_new_snapshot_is_named_by_the_time(state: str) -> None:
    assert wish(state=state, name="before").name == "before"
    assert wish(state="absent", keep={"last": 1}).name is None


def test_rules_that_are_not_given_are_no_rules() -> None:
    assert wish(keep={"daily": 7, "last": 0}).keep == {"daily": 7, "last": 0}
    assert wish().keep is None


# ------------------------------------------------------------------------------------------------ present, absent


def test_a_snapshot_that_is_not_there_is_taken() -> None:
    plan = plan_snapshots(wish(name="before"), container(), chain("older"))
    assert requests(plan) == [("POST", "/snapshot", {"snapname": "before"})]
    assert changes(plan) == [("snapshot before", None, "taken", "live")]


def test_a_snapshot_is_taken_with_its_description() -> None:
    plan = plan_snapshots(wish(name="before", description="Before 2.0\n"), container("running"), [])
    assert requests(plan) == [("POST", "/snapshot", {"snapname": "before", "description": "Before 2.0"})]
    assert changes(plan) == [("snapshot before", None, "Before 2.0", "live")]


@pytest.mark.parametrize("description", [None, "", "Before 2.0", "Before 2.0\n", "Before 2.0\n\n"])
def test_a_snapshot_that_is_as_declared_needs_nothing(description: str | None) -> None:
    there = Snapshot("before", NOON - DAY, description="" if description == "" else "Before 2.0")
    plan = plan_snapshots(wish(name="before", description=description), container(), [there])
    assert not plan.changed
    assert plan.notes == []


@pytest.mark.parametrize(
    ("old", "new", "sent"),
    [("", "x", "x"), ("x", "y\n", "y"), ("x", "", ""), ("x", " x", " x"), ("a\nb", "a\n\nb\n", "a\n\nb")],
)
def test_another_description_is_written(old: str, new: str, sent: str) -> None:
    plan = plan_snapshots(wish(name="before", description=new), container(), [Snapshot("before", NOON, old)])
    assert requests(plan) == [("PUT", "/snapshot/before/config", {"description": sent})]
    assert changes(plan) == [("snapshot before description", old, sent, "live")]


@pytest.mark.parametrize("state", ["present", "rolled_back"])
@pytest.mark.parametrize("incomplete", ["prepare", "delete"])
def test_an_incomplete_snapshot_is_neither_present_nor_of_use(state: str, incomplete: str) -> None:
    there = Snapshot("before", NOON, incomplete=incomplete)
    failure = refusal(lambda: plan_snapshots(wish(state=state, name="before"), container(), [there]))
    assert (failure.code, failure.details) == ("snapshot_incomplete", {"vmid": 201, "snapshot": "before"})
    assert incomplete in failure.message
    assert "state: absent" in failure.hint


@pytest.mark.parametrize("incomplete", [None, "prepare", "delete"])
def test_a_snapshot_is_removed(incomplete: str | None) -> None:
    there = [*chain("older"), Snapshot("before", NOON, "Before 2.0", incomplete=incomplete)]
    plan = plan_snapshots(wish(state="absent", name="before"), container(), there)
    assert requests(plan) == [("DELETE", "/snapshot/before", {})]
    assert changes(plan) == [("snapshot before", "Before 2.0", None, "live")]


def test_a_snapshot_that_is_not_there_needs_no_removal() -> None:
    plan = plan_snapshots(wish(state="absent", name="before"), container(), chain("Before", "before-2"))
    assert not plan.changed


# ----------------------------------------------------------------------------------------------------- retention


def test_what_no_rule_keeps_is_removed_oldest_first_after_the_new_one_is_taken() -> None:
    there = chain("lxcri-a", "lxcri-b", "lxcri-c", "lxcri-d")
    plan = plan_snapshots(wish(keep={"last": 2}), container(), there[::-1], now=NOON)
    assert requests(plan) == [
        ("POST", "/snapshot", {"snapname": "lxcri-20261121-120000"}),
        ("DELETE", "/snapshot/lxcri-a", {}),
        ("DELETE", "/snapshot/lxcri-b", {}),
        ("DELETE", "/snapshot/lxcri-c", {}),
    ]


def test_the_snapshot_that_is_about_to_be_taken_fills_a_period() -> None:
    """Else this morning's would be kept beside it, and removed by the next run only."""
    there = [Snapshot("lxcri-morning", NOON - 3600), Snapshot("lxcri-yesterday", NOON - DAY)]
    options = {"keep": {"daily": 2}, "keep_timezone": "UTC"}
    plan = plan_snapshots(wish(**options), container(), there, now=NOON)
    assert removed(plan) == ["lxcri-morning"]
    left = [there[1], Snapshot("lxcri-20261121-120000", NOON, parent="lxcri-morning")]
    assert not plan_snapshots(wish(name="lxcri-20261121-120000", **options), container(), left, now=NOON).changed


@pytest.mark.parametrize("state", ["present", "absent"])
@pytest.mark.parametrize("prefix", ["lxcri-", "daily-"])
def test_the_snapshots_of_others_are_never_removed_and_do_not_count(state: str, prefix: str) -> None:
    there = chain("before-upgrade", f"{prefix}a", "Lxcri-x", f"x{prefix}b", f"{prefix}c", "vzdump", "zz")
    options = {"state": state, "prefix": prefix, "keep": {"last": 1}, "name": "mine"}
    assert removed(plan_snapshots(wish(**options), container(), there, now=NOON)) == [f"{prefix}a"]


def test_a_snapshot_of_another_name_does_not_count_either() -> None:
    there = chain("lxcri-a", "lxcri-b")
    plan = plan_snapshots(wish(name="before", keep={"last": 2}), container(), there, now=NOON)
    assert (removed(plan), len(plan.steps)) == ([], 1)


def test_retention_without_a_new_snapshot() -> None:
    there = chain("lxcri-a", "lxcri-b", "lxcri-c")
    plan = plan_snapshots(wish(state="absent", keep={"last": 1}), container(), there, now=NOON)
    assert removed(plan) == ["lxcri-a", "lxcri-b"]


def test_what_is_removed_by_name_fills_no_period() -> None:
    there = chain("lxcri-a", "lxcri-b", "lxcri-c")
    plan = plan_snapshots(wish(state="absent", name="lxcri-c", keep={"last": 1}), container(), there, now=NOON)
    assert removed(plan) == ["lxcri-c", "lxcri-a"]


def test_days_are_those_of_the_time_zone() -> None:
    # 23:30 and 00:30 in Vienna, one evening in UTC.
    there = [Snapshot("lxcri-a", NOON - 13 * 3600 - 1800), Snapshot("lxcri-b", NOON - 12 * 3600 - 1800)]
    rules = {"state": "absent", "keep": {"daily": 2}}
    assert removed(plan_snapshots(wish(**rules, keep_timezone="UTC"), container(), there, now=NOON)) == ["lxcri-a"]
    assert removed(plan_snapshots(wish(**rules, keep_timezone="Europe/Vienna"), container(), there, now=NOON)) == []


def test_incomplete_snapshots_are_left_alone_and_named() -> None:
    broken = [Snapshot(f"lxcri-{state}", NOON - 60, incomplete=state) for state in ("prepare", "delete")]
    there = [*chain("lxcri-a", "lxcri-b"), *broken, Snapshot("mine", NOON, incomplete="prepare")]
    plan = plan_snapshots(wish(state="absent", keep={"last": 1}), container(), there, now=NOON)
    assert removed(plan) == ["lxcri-a"]
    assert plan.notes == ["Incomplete snapshots neither count nor are removed: lxcri-delete, lxcri-prepare."]


def test_the_declared_snapshot_stays_even_where_no_rule_keeps_it() -> None:
    """Else one run would remove it and the next one take it again."""
    there = chain("lxcri-base", "lxcri-a", "lxcri-b")
    plan = plan_snapshots(wish(name="lxcri-base", keep={"last": 1}), container(), there, now=NOON)
    assert removed(plan) == ["lxcri-a"]
    assert plan.notes == ["No rule keeps lxcri-base; it stays because it is declared."]
    left = [there[0], there[2]]
    assert not plan_snapshots(wish(name="lxcri-base", keep={"last": 1}), container(), left, now=NOON).changed


def test_a_snapshot_from_the_future_is_named_and_does_not_push_out_the_new_one() -> None:
    there = [*chain("lxcri-a"), Snapshot("lxcri-z", NOON + DAY)]
    plan = plan_snapshots(wish(keep={"last": 1}), container(), there, now=NOON)
    assert removed(plan) == ["lxcri-a", "lxcri-z"]
    assert plan.notes == ["Snapshots dated in the future take the places of others: lxcri-z."]


def test_of_two_snapshots_of_one_second_the_descendant_is_kept() -> None:
    there = [Snapshot("lxcri-a", NOON - 60, parent="lxcri-b"), Snapshot("lxcri-b", NOON - 60)]
    plan = plan_snapshots(wish(state="absent", keep={"last": 1}), container(), there, now=NOON)
    assert removed(plan) == ["lxcri-b"]


def test_without_keep_nothing_is_pruned() -> None:
    assert removed(plan_snapshots(wish(), container(), chain("lxcri-a", "lxcri-b"), now=NOON)) == []


AGES = st.lists(st.integers(-2 * DAY, 800 * DAY), max_size=12)
KEEP = st.dictionaries(st.sampled_from(RULES), st.integers(0, 3), min_size=1).filter(lambda keep: any(keep.values()))


@given(AGES, AGES, KEEP, st.sampled_from(["present", "absent"]))
def test_pruning_ends_at_once_and_touches_nobody_elses(
    ages: list[int], others: list[int], keep: dict[str, int], state: str
) -> None:
    """Whatever there is: the second run finds nothing to do."""
    own = [Snapshot(f"lxcri-{number}", NOON - age) for number, age in enumerate(ages)]
    theirs = [Snapshot(f"mine-{number}", NOON - age) for number, age in enumerate(others)]
    name = "lxcri-new" if state == "present" else None
    wanted = wish(state=state, name=name, keep=keep, keep_timezone="UTC")
    plan = plan_snapshots(wanted, container(), [*own, *theirs], now=NOON)
    gone = removed(plan)
    assert not [one for one in gone if not one.startswith("lxcri-") or one == "lxcri-new"]
    left = [one for one in [*own, *theirs] if one.name not in gone]
    if name:
        left.append(Snapshot(name, NOON, parent=oldest_first(left)[-1].name if left else None))
    assert removed(plan_snapshots(wanted, container(), left, now=NOON)) == []


# ------------------------------------------------------------------------------------------------------ rollback


def test_a_stopped_container_is_rolled_back_and_stays_down() -> None:
    plan = plan_snapshots(wish(state="rolled_back", name="before"), container(), chain("older", "before"))
    assert requests(plan) == [("POST", "/snapshot/before/rollback", {})]
    assert changes(plan) == [("rollback", None, "before", "live")]


def test_a_running_container_runs_again() -> None:
    plan = plan_snapshots(wish(state="rolled_back", name="before"), container("running"), chain("older", "before"))
    assert requests(plan) == [("POST", "/snapshot/before/rollback", {}), ("POST", "/status/start", {})]
    assert changes(plan) == [("rollback", None, "before", "restart"), ("state", "stopped", "started", "live")]


@pytest.mark.parametrize(
    ("there", "hint"), [([], "There are: none."), (chain("older", "newer")[::-1], "There are: older, newer.")]
)
def test_a_snapshot_that_is_not_there_cannot_be_rolled_back_to(there: list[Snapshot], hint: str) -> None:
    failure = refusal(lambda: plan_snapshots(wish(state="rolled_back", name="before"), container(), there))
    assert (failure.code, failure.hint) == ("snapshot_missing", hint)
    assert failure.message == "There is no snapshot before of web-1 (201)."
    assert failure.details == {"vmid": 201, "snapshot": "before"}


def test_a_container_whose_name_is_not_known_is_called_by_its_id() -> None:
    nameless = Actual(201, "pve1")
    wanted = wish(state="rolled_back", name="before")
    broken = [Snapshot("before", NOON, incomplete="prepare")]
    for there in ([], broken, chain("before", "after")):
        with pytest.raises(Failure, match="container 201") as caught:
            plan_snapshots(wanted, nameless, there)
        assert "CT201" not in caught.value.message


def test_newer_snapshots_are_not_lost_by_the_way() -> None:
    there = chain("older", "before", "newer", "newest")
    failure = refusal(lambda: plan_snapshots(wish(state="rolled_back", name="before"), container(), there[::-1]))
    assert failure.code == "would_lose_data"
    assert failure.details == {"vmid": 201, "snapshots": ["newer", "newest"]}
    assert failure.message.endswith("the snapshots that are newer: newer, newest.")
    assert "remove_newer: true" in failure.hint


def test_newer_snapshots_are_removed_newest_first_when_they_may_go() -> None:
    there = chain("older", "before", "newer", "newest")
    wanted = wish(state="rolled_back", name="before", remove_newer=True)
    plan = plan_snapshots(wanted, container("running"), there)
    assert [path for _method, path, _params in requests(plan)] == [
        "/snapshot/newest",
        "/snapshot/newer",
        "/snapshot/before/rollback",
        "/status/start",
    ]
    # They are asked to go, where the storage could keep them too.
    assert requests(plan_snapshots(wanted, container("running"), there, rolls_back_to_any=True)) == requests(plan)


def test_newer_snapshots_stay_where_the_storages_can_keep_them() -> None:
    there = chain("older", "before", "newer")
    plan = plan_snapshots(wish(state="rolled_back", name="before"), container(), there, rolls_back_to_any=True)
    assert requests(plan) == [("POST", "/snapshot/before/rollback", {})]


def test_the_newest_snapshot_needs_no_permission_to_remove_newer_ones() -> None:
    plan = plan_snapshots(
        wish(state="rolled_back", name="before", remove_newer=True), container(), chain("older", "before")
    )
    assert requests(plan) == [("POST", "/snapshot/before/rollback", {})]


# ------------------------------------------------------------------------------------------------------ the order


@pytest.mark.parametrize(
    ("there", "target", "newer"),
    [
        (chain("a", "b", "c"), "a", ["b", "c"]),
        (chain("a", "b", "c"), "c", []),
        # All of one second.
        (chain("c", "b", "a", step=0), "c", ["b", "a"]),
        (chain("c", "b", "a", step=0), "b", ["a"]),
        (chain("c", "b", "a", step=0), "a", []),
        # The clock was set back.
        (chain("a", "b", "c", step=-60), "a", ["b", "c"]),
        (chain("a", "b", "c", step=-60), "c", ["a", "b"]),
        # Two branches after a rollback to a: later in time is newer, whatever the branch.
        ([Snapshot("a", 100), Snapshot("b", 200, parent="a"), Snapshot("c", 300, parent="a")], "b", ["c"]),
        ([Snapshot("a", 100), Snapshot("b", 200, parent="a"), Snapshot("c", 300, parent="a")], "c", []),
        ([Snapshot("a", 100), Snapshot("b", 100, parent="a"), Snapshot("c", 100, parent="a")], "b", []),
        # A parent that is gone, and one that is itself.
        ([Snapshot("a", 100, parent="gone"), Snapshot("b", 100, parent="b")], "a", []),
        ([Snapshot("a", 100, parent="b"), Snapshot("b", 200, parent="a")], "a", ["b"]),
        # An interrupted one is in the way too.
        ([Snapshot("a", 100), Snapshot("b", 200, parent="a", incomplete="delete")], "a", ["b"]),
    ],
)
def test_what_is_newer(there: list[Snapshot], target: str, newer: list[str]) -> None:
    for order in (there, there[::-1]):
        wanted = next(one for one in order if one.name == target)
        assert [one.name for one in newer_snapshots(wanted, order)] == newer


def test_no_descendant_comes_before_its_ancestor() -> None:
    there = [Snapshot("b", 50, parent="a"), Snapshot("d", 100), Snapshot("c", 50, parent="b"), Snapshot("a", 70)]
    assert [one.name for one in oldest_first(there)] == ["a", "b", "c", "d"]


# ------------------------------------------------------------------------------------------------------- reading

# As recorded from Proxmox VE 9.2: a stopped container with two snapshots, a running one and a template without.
TWO = [
    {"name": "one", "description": "first\n", "snaptime": 1795234036},
    {"name": "two", "description": "", "snaptime": 1795234038, "parent": "one"},
    {
        "digest": "c3df74ad47f3f153553ec56e28ba883d5c2dcc1e",
        "name": "current",
        "running": 0,
        "description": "You are here!",
        "parent": "two",
    },
]
RUNNING = [
    {
        "description": "You are here!",
        "running": 1,
        "digest": "969e00bda69199b95a43f9bedaf27cdf2e0ee547",
        "name": "current",
    }
]


def test_a_recorded_list_is_read() -> None:
    client = FakeClient({LIST: TWO})
    found, snapshots = read_snapshots(t.cast(t.Any, client), "pve1", 201, "web-1")
    assert (found.running, found.hostname, found.path) == (False, "web-1", PATH)
    assert snapshots == [Snapshot("one", 1795234036, "first"), Snapshot("two", 1795234038, parent="one")]
    assert [snapshot.as_dict() for snapshot in snapshots] == [
        {"name": "one", "snaptime": 1795234036, "description": "first", "parent": None, "incomplete": None},
        {"name": "two", "snaptime": 1795234038, "description": "", "parent": "one", "incomplete": None},
    ]
    assert client.paths() == [LIST]


@pytest.mark.parametrize(
    ("answer", "running"),
    [(RUNNING, True), (TWO, False), ([{"name": "current", "running": "1"}], True), ([{"name": "current"}], False)],
)
def test_the_last_entry_says_whether_it_runs(answer: list[dict[str, t.Any]], running: bool) -> None:
    found, _snapshots = read_snapshots(t.cast(t.Any, FakeClient({LIST: answer})), "pve1", 201, None)
    assert found.running is running


def test_the_list_comes_in_any_order_and_is_given_oldest_first() -> None:
    client = FakeClient({LIST: [TWO[2], TWO[1], {"name": "x", "snapstate": "prepare", "description": None}, TWO[0]]})
    _found, snapshots = read_snapshots(t.cast(t.Any, client), "pve1", 201, None)
    assert [(one.name, one.time, one.incomplete) for one in snapshots] == [
        ("x", 0, "prepare"),
        ("one", 1795234036, None),
        ("two", 1795234038, None),
    ]


# --------------------------------------------------------------------------------------- what stands against a plan

ROOTFS = "local-zfs:subvol-201-disk-0,size=8G"
STORAGES: dict[str, dict[str, t.Any]] = {
    "zfs": {"type": "zfspool"},
    "thick": {"type": "lvm"},
    "files": {"type": "dir", "snapshot-as-volume-chain": 1},
    "rbd": {"type": "rbd"},
    "thin": {"type": "lvmthin"},
    "btrfs": {"type": "btrfs"},
    "other": {"type": "somebody-elses"},
}


def configured(status: str = "stopped", **config: t.Any) -> Actual:
    """web-1, with this in its configuration."""
    return Actual(201, "pve1", status, {"hostname": "web-1", "rootfs": ROOTFS, **config})


@pytest.mark.parametrize(
    ("config", "options", "code"),
    [
        ({"lock": "backup"}, {"name": "new"}, "locked"),
        ({"lock": "backup"}, {"name": "before", "state": "absent"}, "locked"),
        ({"template": 1}, {"name": "new"}, "is_template"),
        ({"mp0": "/srv/data,mp=/data"}, {"name": "new"}, "feature_unsupported"),
        ({"mp0": "/dev/sdb,mp=/data"}, {"name": "new"}, "feature_unsupported"),
        ({"mp0": "/srv/data,mp=/data"}, {"name": "before", "state": "absent"}, None),
        ({"mp0": "/srv/data,mp=/data"}, {"name": "before", "state": "rolled_back"}, None),
        ({"mp0": "local-zfs:subvol-201-disk-1,mp=/data"}, {"name": "new"}, None),
        ({"unused0": "local:x"}, {"name": "new"}, None),
    ],
)
def test_what_proxmox_would_refuse_inside_a_task(
    config: dict[str, t.Any], options: dict[str, t.Any], code: str | None
) -> None:
    plan = plan_snapshots(wish(**options), configured(**config), chain("before"))
    if code is None:
        refuse_unfit(plan, configured(**config))
    else:
        assert refusal(lambda: refuse_unfit(plan, configured(**config))).code == code


@pytest.mark.parametrize(
    ("config", "held", "hidden"),
    [
        *(({"rootfs": f"{name}:x,size=8G"}, [name], []) for name in ("zfs", "thick", "files")),
        *(({"rootfs": f"{name}:x,size=8G"}, [], []) for name in ("rbd", "thin", "btrfs", "other")),
        ({"rootfs": "rbd:x,size=8G", "mp3": "zfs:y,mp=/data,size=1G"}, ["zfs"], []),
        ({"rootfs": "rbd:x,size=8G", "mp3": "thin:y,mp=/data,size=1G", "unused0": "zfs:z"}, [], []),
        ({"rootfs": "secret:x,size=8G"}, [], ["secret"]),
        ({"rootfs": "secret:x,size=8G", "mp0": "zfs:y,mp=/data,size=1G"}, ["zfs"], ["secret"]),
    ],
)
def test_which_storages_hold_a_rollback_up(config: dict[str, str], held: list[str], hidden: list[str]) -> None:
    assert held_by(config, STORAGES) == (held, hidden)


def test_a_rollback_says_what_it_makes_of_the_configuration() -> None:
    actual = configured(
        "running",
        parent="newer",
        memory=1024,
        description="stays",
        tags="b;a",
        mp0="local-zfs:subvol-201-disk-1,mp=/data,size=1G",
        unused0="local-zfs:subvol-201-disk-9",
    )
    actual.pending = {"swap": 256, "nameserver": None}
    saved = {
        "hostname": "web-1",
        "rootfs": "local-zfs:subvol-201-disk-0,size=8192M",
        "memory": 512,
        "tags": "a;b",
        "nameserver": "192.0.2.1",
        "snaptime": NOON - DAY,
        "description": "of the snapshot",
        "digest": "c3df",
    }
    plan = plan_snapshots(wish(state="rolled_back", name="before"), container("running"), chain("before"))
    note_rollback(plan, actual, saved)
    assert changes(plan)[:-1] == [
        ("rollback", "newer", "before", "restart"),
        ("memory", 1024, 512, "restart"),
        ("mp0", "local-zfs:subvol-201-disk-1,mp=/data,size=1G", None, "restart"),
        ("nameserver", None, "192.0.2.1", "restart"),
        ("swap", 256, None, "restart"),
    ]
    assert plan.notes == ["The volumes of mp0 are not in the snapshot and become unused volumes."]


def test_a_snapshot_without_a_time_is_not_pruned() -> None:
    there = [Snapshot("lxcri-a", 0), *chain("lxcri-b", "lxcri-c")]
    assert removed(plan_snapshots(wish(state="absent", keep={"last": 1}), container(), there)) == ["lxcri-b"]


def test_only_force_removes_what_cannot_be_removed() -> None:
    for force, params in ((False, {}), (True, {"force": True})):
        plan = plan_snapshots(wish(state="absent", name="before", force=force), container(), chain("before"))
        assert requests(plan) == [("DELETE", "/snapshot/before", params)]


# ---------------------------------------------------------------------------------------------------- privileges

# Nothing stands against a snapshot.
FIT = {
    f"{PATH}/pending": [{"key": "hostname", "value": "web-1"}, {"key": "rootfs", "value": "local-zfs:x,size=8G"}],
    f"{PATH}/feature": {"hasFeature": 1},
}
TAKEN = {"name": "before", "snaptime": NOON, "description": ""}


@pytest.mark.parametrize(
    ("options", "status", "privileges"),
    [
        ({"name": "new"}, "running", [("VM.Snapshot",)]),
        ({"name": "before", "description": "x"}, "running", [("VM.Snapshot",)]),
        ({"name": "before", "state": "absent"}, "running", [("VM.Snapshot",)]),
        ({"name": "before", "state": "rolled_back"}, "stopped", [("VM.Snapshot", "VM.Snapshot.Rollback")]),
        (
            {"name": "before", "state": "rolled_back"},
            "running",
            [("VM.Snapshot", "VM.Snapshot.Rollback"), ("VM.PowerMgmt",)],
        ),
    ],
)
def test_each_step_names_its_privileges(
    options: dict[str, t.Any], status: str, privileges: list[tuple[str, ...]]
) -> None:
    plan = plan_snapshots(wish(**options), container(status, pool="shop"), [Snapshot("before", NOON)])
    assert [need.privileges for need in plan.needs] == privileges
    assert {need.paths for need in plan.needs} == {("/vms/201", "/pool/shop")}


@pytest.mark.parametrize(
    ("permissions", "allowed"),
    [
        ({"/vms": {"VM.Snapshot": 1}}, True),
        ({"/vms/201": {"VM.Snapshot": 0}}, True),
        ({"/vms": {"VM.Snapshot": 0}}, False),
        ({"/vms": {"VM.Audit": 1}}, False),
        ({"/vms": {"VM.Snapshot.Rollback": 1}}, False),
        ({"/vms": {"VM.Snapshot": 1}, "/vms/201": {"VM.Audit": 1}}, False),
    ],
)
@pytest.mark.parametrize("check_mode", [False, True])
def test_a_missing_privilege_is_told_before_the_first_write(
    permissions: dict[str, dict[str, int]], allowed: bool, check_mode: bool
) -> None:
    answers = {LIST: RUNNING, **FIT, "access/permissions": permissions, f"POST {LIST}": None}
    client = FakeClient(answers, TOKEN)
    snapshots = Snapshots(t.cast(t.Any, client), check_mode, 1)

    def run() -> list[Result]:
        return snapshots.run(wish(name="before"), [201], [], "pve1")

    if allowed:
        assert run()[0].failure is None
    else:
        failure = refusal(run)
        assert failure.code == "permission_denied"
        assert [(entry["path"], entry["privilege"]) for entry in failure.details["missing"]] == [
            ("/vms/201", "VM.Snapshot")
        ]
    assert client.paths("POST") == ([LIST] if allowed and not check_mode else [])


def test_without_a_change_nobody_asks_for_privileges() -> None:
    client = FakeClient({LIST: [TAKEN, *RUNNING]}, TOKEN)
    [result] = Snapshots(t.cast(t.Any, client), False, 1).run(wish(name="before"), [201], [], "pve1")
    assert (result.plan.changed, client.paths()) == (False, [LIST])


def test_a_container_that_is_not_on_the_node_is_not_found() -> None:
    client = FakeClient({LIST: not_found(201), "cluster/resources": []})
    [result] = Snapshots(t.cast(t.Any, client), False, 1).run(wish(), [201], [], "pve1")
    assert result.failure is not None
    assert (result.failure.code, result.label, result.as_dict()["vmid"]) == ("not_found", "container 201", 201)


# ------------------------------------------------------------------------------------------------------- results


def result(label: str, failure: Failure | None = None, warnings: t.Sequence[str] = ()) -> Result:
    made = Result(label, container(), snapshots=[Snapshot("before", NOON)], failure=failure)
    made.plan = plan_snapshots(wish(name="before", description="x"), container(), made.snapshots)
    if warnings:
        upid = "UPID:pve1:00000F61:000291AE:6B01180A:vzsnapshot:201:root@pam:"
        made.log.tasks.append(Task(upid, "WARNINGS: 1", 1.0, list(warnings)))
    return made


def test_a_diff_has_the_values_before_and_after() -> None:
    assert result("web-1").plan.diff("web-1") == {
        "before_header": "web-1",
        "after_header": "web-1",
        "before": {"snapshot before description": ""},
        "after": {"snapshot before description": "x"},
    }


def test_the_result_names_all_that_failed_and_keeps_the_others() -> None:
    answer = module_result(
        [
            result("web-1"),
            result("web-2", Failure("locked", "CT is locked (backup).")),
            result("web-3", Failure("timeout", "It took too long.")),
        ]
    )
    assert answer["changed"] is True
    assert answer["failure"]["code"] == "containers_failed"
    assert answer["failure"]["details"] == {"containers": ["web-2", "web-3"]}
    assert "web-2: CT is locked (backup)." in answer["msg"]
    assert "web-3: It took too long." in answer["msg"]
    assert [entry.get("failure", {}).get("code") for entry in answer["containers"]] == [None, "locked", "timeout"]


def test_the_failure_of_the_only_container_is_that_of_the_task() -> None:
    answer = module_result([result("web-1", Failure("locked", "CT is locked (backup).", lock="backup"))])
    assert (answer["failure"]["code"], answer["failure"]["details"]) == ("locked", {"lock": "backup"})


def test_warnings_in_the_logs_of_tasks_say_whose_they_are() -> None:
    answer = module_result([result("web-1", warnings=["WARN: thin pool is nearly full"])])
    assert answer["warnings"] == ["web-1: vzsnapshot: WARN: thin pool is nearly full"]
