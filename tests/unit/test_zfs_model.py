# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What zfs list says, and which checkpoints are in it."""

from __future__ import annotations

import string
import time
from datetime import datetime, timezone

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.commands import Completed
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs import model
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.checkpoint import (
    _batches,
    expired,
    finished,
    stamp,
    unfinished,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.failures import zfs_failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.model import Member, Part
from hypothesis import given
from hypothesis import strategies as st

A, B = "rpool/data/subvol-101-disk-0", "tank/ct/subvol-101-disk-0"
PART = Part((Member(A, 8), Member(B)), "sha")


def row(name: str, kind: str = "filesystem", **values: str) -> str:
    """A line of zfs list."""
    known = {"name": name, "type": kind, "guid": f"g-{name}", **values}
    return "\t".join(known.get(column.replace(":", "_").replace(".", "_"), "-") for column in model.COLUMNS)


def columns(properties: dict[str, str]) -> dict[str, str]:
    """Properties as arguments of ``row``."""
    return {key.replace(":", "_").replace(".", "_"): value for key, value in properties.items()}


def snapshot_row(name: str, txg: int, properties: dict[str, str] | None = None, **values: str) -> str:
    """A line of zfs list for a snapshot."""
    return row(name, "snapshot", createtxg=str(txg), creation=str(1000 + txg), **columns(properties or {}), **values)


def run_rows(short: str, txg: int, complete: bool = True, members: tuple[str, ...] = (A, B)) -> list[str]:
    """The snapshots of a run that took a checkpoint of 101."""
    run_id = f"id-{short}"
    properties = model.encode(run_id, {"101": PART})
    if complete:
        properties[model.COMPLETE] = run_id
    return [snapshot_row(f"{member}@{short}", txg, properties) for member in members]


def parse(*rows: str) -> dict[str, model.Dataset]:
    return model.parse_list("\n".join((row(A), row(B), *rows)))


def test_a_complete_checkpoint() -> None:
    datasets = parse(*run_rows("one", 5), *run_rows("two", 7))
    first, second = model.checkpoints(datasets)
    assert (first.name, first.container, first.complete, first.created) == ("one", "101", True, 1005)
    assert second.name == "two"
    assert first.part.members == (Member(A, 8), Member(B, 0))
    snapshot = first.snapshot_of(B, datasets)
    assert snapshot is not None
    assert snapshot.name == f"{B}@one"


def test_without_the_mark_it_is_unfinished() -> None:
    [checkpoint] = model.checkpoints(parse(*run_rows("one", 5, complete=False)))
    assert not checkpoint.complete
    assert unfinished([checkpoint]) == [checkpoint]


def test_without_a_member_it_is_incomplete_but_not_unfinished() -> None:
    """A volume was destroyed since: what is left of the checkpoint is nobody's to remove."""
    [checkpoint] = model.checkpoints(parse(*run_rows("one", 5, members=(A,))))
    assert not checkpoint.complete
    assert finished(checkpoint)
    assert unfinished([checkpoint]) == []


def test_what_was_set_aside_belongs_to_its_home() -> None:
    aside = "rpool/data/lxcri-aside/subvol-101-disk-0.x"
    rows = run_rows("one", 5)
    moved = rows[0].replace(f"{A}@one", f"{aside}@one", 1)
    [checkpoint] = model.checkpoints(parse(row(aside, lxcri_aside=A), moved, rows[1]))
    assert checkpoint.complete


def test_foreign_snapshots_are_no_checkpoints() -> None:
    assert model.checkpoints(parse(snapshot_row(f"{A}@theirs", 3))) == []


def test_transactions_of_different_pools_are_not_compared() -> None:
    """The root was moved to a younger pool, while another volume stayed."""
    moved = "young/subvol-101-disk-0"

    def checkpoint(name: str, created: int, snapshots: dict[str, int]) -> list[str]:
        properties = model.encode(name, {"101": Part(tuple(Member(dataset) for dataset in snapshots))})
        properties[model.COMPLETE] = name
        values = [(f"{dataset}@{name}", txg) for dataset, txg in snapshots.items()]
        return [
            row(name, "snapshot", createtxg=str(txg), creation=str(created), **columns(properties))
            for name, txg in values
        ]

    def names(*checkpoints: list[str]) -> list[str]:
        rows = [line for lines in checkpoints for line in lines]
        return [checkpoint.name for checkpoint in model.checkpoints(parse(row(moved), *rows))]

    old, new = checkpoint("old", 100, {A: 5000000, B: 70}), checkpoint("new", 200, {moved: 3, B: 71})
    assert names(old, new) == ["old", "new"]
    # The clock was wrong at that time; the volume that both have tells which came first.
    early = checkpoint("early", 900, {A: 4999999, B: 69})
    assert names(old, early, new) == ["early", "old", "new"]
    assert names(early, checkpoint("alone", 150, {moved: 2})) == ["alone", "early"]


def test_newer_than_counts_bookmarks_but_not_its_own() -> None:
    rows = [
        snapshot_row(f"{A}@old", 1, guid="1"),
        snapshot_row(f"{A}@this", 2, guid="2"),
        snapshot_row(f"{A}@new", 3, guid="3"),
        row(f"{A}#this", "bookmark", createtxg="2", creation="2", guid="2"),
        row(f"{A}#gone", "bookmark", createtxg="4", creation="4", guid="4"),
    ]
    dataset = parse(*rows)[A]
    this = dataset.snapshot("this")
    assert this is not None
    assert dataset.newer_than(this) == [f"{A}@new", f"{A}#gone"]


def test_dataset_columns() -> None:
    text = row(A, refquota="1073741824", origin="-", keystatus="unavailable", mounted="yes", mountpoint="/x", used="12")
    dataset = model.parse_list(text)[A]
    assert (dataset.refquota, dataset.origin, dataset.key_missing, dataset.mounted) == (1 << 30, None, True, True)
    assert dataset.home == A


names = st.text(string.ascii_lowercase + string.digits + "-", min_size=1, max_size=30)


@given(st.dictionaries(names, st.lists(st.tuples(names, st.integers(0, 2**50)), min_size=1, max_size=4), max_size=40))
def test_members_survive_the_properties(given_parts: dict[str, list[tuple[str, int]]]) -> None:
    parts = {key: Part(tuple(Member(*member) for member in members), "c" * 64) for key, members in given_parts.items()}
    properties = model.encode("id", parts)
    assert model.decode(properties) == parts
    assert all(len(value) <= 8191 for value in properties.values())


def test_too_many_containers_for_one_checkpoint() -> None:
    parts = {str(number): Part((Member("rpool/data/subvol-100-disk-0"),), "c" * 64) for number in range(500)}
    with pytest.raises(Failure) as caught:
        model.encode("id", parts)
    assert caught.value.code == "too_many_containers"


@pytest.mark.parametrize("text", ["", "x", "[]", '{"101":1}', '{"101":["s",[["a"]]]}'])
def test_properties_that_say_nothing(text: str) -> None:
    assert model.decode({model.MEMBERS: text}) == {}


def test_a_thousand_snapshots() -> None:
    rows = [line for number in range(500) for line in run_rows(f"n{number:03}", number + 1)]
    assert len(model.checkpoints(parse(*rows))) == 500


@pytest.mark.parametrize(
    ("dataset", "volumes", "expected"),
    [
        (A, [A], "rpool/data/lxcri-aside/subvol-101-disk-0.x"),
        ("t/c/web/data", ["t/c/web", "t/c/web/data"], "t/c/lxcri-aside/web.data.x"),
        ("t/c/web", ["t/c/web", "t/c/web/data"], "t/c/lxcri-aside/web.x"),
    ],
)
def test_where_a_volume_is_set_aside(dataset: str, volumes: list[str], expected: str) -> None:
    assert model.aside_name(dataset, volumes, "x") == expected


def test_keeping_spares_the_newest_and_what_is_held() -> None:
    own = model.checkpoints(
        parse(*(line for number in range(5) for line in run_rows(f"n{number}", number + 1))),
    )
    going, notes = expired(own, {"last": 2}, None, (), 10**10)
    assert [checkpoint.name for checkpoint in going] == ["n0", "n1", "n2"]
    assert notes == []
    assert [c.name for c in expired(own, {"last": 2}, None, ["n1"], 10**10)[0]] == ["n0", "n2"]
    assert expired(own, {}, None, (), 10**10)[0] == []
    assert len(expired(own, {"last": 9}, None, (), 0)[1]) == 5
    with pytest.raises(Failure):
        expired(own, {"last": 1}, "Nowhere/Else", (), 0)


@pytest.mark.parametrize("kept_by", [{"userrefs": "1"}, {"clones": "rpool/data/subvol-201-disk-0"}])
def test_keeping_never_removes_what_is_held_or_has_clones(kept_by: dict[str, str]) -> None:
    """The hold may be on one volume alone. It neither counts for the rules nor does it go."""
    rows = [line for number in range(4) for line in run_rows(f"n{number}", number + 1)]
    rows[1] = snapshot_row(f"{B}@n0", 1, {**model.encode("id-n0", {"101": PART}), model.COMPLETE: "id-n0"}, **kept_by)
    own = model.checkpoints(parse(*rows))
    assert [checkpoint.name for checkpoint in expired(own, {"last": 2}, None, (), 10**10)[0]] == ["n1"]


def test_long_lists_of_names_are_several_commands() -> None:
    """One argument has room for 128 KiB."""
    names = [f"lxcri-{number:054}" for number in range(5000)]
    batches = list(_batches(names))
    assert [name for batch in batches for name in batch] == names
    assert len(batches) > 1
    assert all(len(",".join(batch)) <= 100_000 for batch in batches)
    assert list(_batches([])) == []


def test_the_name_by_default_is_the_time_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert stamp(now=1_000_000_000) == "lxcri-20010909T014640Z"
        assert stamp("mine-", 1_000_000_000) == "mine-20010909T014640Z"
        now = datetime.strptime(stamp(), "lxcri-%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
        assert abs(now.timestamp() - time.time()) < 60
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("text", "code", "dataset"),
    [
        ("cannot create snapshot 'a/b@c': out of space", "pool_full", "a/b@c"),
        ("cannot create snapshots : out of space", "pool_full", None),
        ("cannot unmount '/x': pool or dataset is busy", "dataset_busy", None),
        ("cannot rename 'a/b': dataset is busy", "dataset_busy", "a/b"),
        ("cannot destroy 'a/b@c': snapshot has dependent clones", "has_clones", "a/b@c"),
        ("cannot open 'a/b': dataset does not exist", "volume_missing", "a/b"),
        ("cannot mount 'a/b': encryption key not loaded", "key_unavailable", "a/b"),
        ("cannot send 'a/b@c': source key must be loaded", "key_unavailable", "a/b@c"),
        ("cannot receive new filesystem stream: inherited key must be loaded", "key_unavailable", None),
        ("cannot rollback to 'a@b': more recent snapshots or bookmarks exist", "would_lose_data", "a@b"),
        ("cannot create snapshot 'a@b': dataset already exists", "name_taken", "a@b"),
        ("cannot open 'p': no such pool", "pool_unavailable", "p"),
        ("something else", "zfs_failed", None),
    ],
)
def test_what_zfs_says(text: str, code: str, dataset: str | None) -> None:
    failure = zfs_failure(Completed(("zfs", "x"), 1, "", text), "It failed")
    assert failure.code == code
    assert failure.details.get("dataset") == dataset
    assert text[:20] in failure.message
