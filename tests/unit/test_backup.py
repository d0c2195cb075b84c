# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups: what is listed, and what has to be done for one container."""

from __future__ import annotations

import typing as t
from dataclasses import replace

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.access import missing as missing_needs
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.backup import (
    Backup,
    RestoreWish,
    Wish,
    chosen,
    note_excluded,
    plan_absent,
    plan_present,
    plan_protection,
    read_backups,
    refuse_limit,
    vmid_of,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.backup_restore import (
    Standing,
    aftermath,
    declare,
    not_backed_up,
    refuse_loss,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.fleet import Outcome
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import Actual, Plan
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import Declared
from ansible_collections.lxcri.proxmox.tests.unit.support import FakeClient, not_found
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_795_262_400
HOUR, DAY = 3600, 86400
UPID = "UPID:pve1:00000F61:000291AE:6B01180A:vzrestore:201:root@pam:"
ROOT = {"rootfs": "local-zfs:subvol-201-disk-0,size=8G"}


def backup(number: int = 1, age: int = DAY, **options: t.Any) -> Backup:
    volume = f"local:backup/vzdump-lxc-201-2026_01_31-02_{number // 60:02}_{number % 60:02}.tar.zst"
    return Backup(volume, 201, "pve1", **{"time": NOW - age, "size": 10, "notes": "lxcri: web-1", **options})


def wish(**options: t.Any) -> Wish:
    return Wish(**{"state": "present", "storage": "local", **options})


def container(status: str = "stopped", **config: str) -> Actual:
    return Actual(201, "pve1", status, {"hostname": "web-1", **ROOT, **config})


def removed(plan: Plan) -> list[str]:
    return [str(int(step.path.partition(".")[0][-2:])) for step in plan.steps if step.method == "DELETE"]


# ------------------------------------------------------------------------------------------------------ the list


@pytest.mark.parametrize(
    ("volume", "vmid"),
    [
        ("local:backup/vzdump-lxc-201-2026_01_31-02_00_00.tar.zst", 201),
        ("pbs:backup/ct/201/2026-01-31T02:00:00Z", 201),
        ("local:backup/vzdump-qemu-201-2026_01_31-02_00_00.vma.zst", None),
        ("pbs:backup/vm/201/2026-01-31T02:00:00Z", None),
        ("local:vztmpl/vzdump-lxc-201-x.tar", None),
        ("/var/lib/vz/dump/vzdump-lxc-201-x.tar", None),
        ("local:backup/vzdump-lxc-201-a/b.tar", None),
    ],
)
def test_of_which_container_a_volume_is(volume: str, vmid: int | None) -> None:
    assert vmid_of(volume) == vmid


def test_a_list_is_read_the_newest_first() -> None:
    listed = [
        {
            "volid": "local:backup/vzdump-lxc-201-a.tar.zst",
            "ctime": 1,
            "size": 5,
            "notes": "one\ntwo",
            "format": "tar.zst",
        },
        {"volid": "local:backup/vzdump-qemu-201-a.vma.zst", "ctime": 9},
        {"volid": "pbs:backup/ct/201/x", "ctime": 2, "protected": 1, "verification": {"state": "ok"}, "encrypted": "1"},
    ]
    new, old = read_backups(listed, "pve1")
    assert (new.verification, new.encrypted, new.protected, new.size) == ("ok", True, True, 0)
    assert (old.notes, old.protected, old.verification, old.node) == ("one", False, None, "pve1")
    assert old.path == "nodes/pve1/storage/local/content/local:backup/vzdump-lxc-201-a.tar.zst"


@pytest.mark.parametrize(
    ("notes", "own"),
    [("lxcri", True), ("lxcri: x", True), ("lxcri:x", False), ("lxcri2: x", False), (" lxcri: x", False), ("", False)],
)
def test_whose_a_backup_is(notes: str, own: bool) -> None:
    assert backup(notes=notes).is_of("lxcri") is own
    assert Backup("pbs:backup/ct/201/2026-01-31T02:00:00Z", 201, "pve1", notes=notes).is_of("lxcri") is own
    assert not Backup("local:backup/vzdump-lxc-201-golden.tar.zst", 201, "pve1", notes=notes).is_of("lxcri")


def test_the_newest_is_chosen_or_what_is_named() -> None:
    there = [backup(3, notes="nightly"), backup(2), backup(1)]
    assert chosen(wish(prefix=None), there, "web-1") == [there[0]]
    assert chosen(wish(), there, "web-1") == [there[1]]
    assert chosen(wish(volumes=(there[2].volume,)), there, "web-1") == [there[2]]
    with pytest.raises(Failure) as caught:
        chosen(wish(prefix="x"), there, "web-1")
    assert caught.value.code == "backup_missing"


# ------------------------------------------------------------------------------------------------------ the plan


def test_notes_reach_proxmox_in_its_form() -> None:
    assert wish().template == "lxcri: {{guestname}}"
    assert wish(notes="").template == "lxcri"
    assert wish(prefix="a", notes="x\\n\ny").template == "a: x\\\\n\\ny"


@pytest.mark.parametrize(
    ("age", "max_age", "made"), [(DAY, None, True), (DAY, DAY, False), (DAY, DAY - 1, True), (-HOUR, DAY, False)]
)
def test_a_recent_backup_is_enough(age: int, max_age: int | None, made: bool) -> None:
    plan = plan_present(wish(max_age=max_age), container(), [backup(age=age)], NOW)
    assert plan.changed is made


def test_an_empty_backup_is_not_enough() -> None:
    assert plan_present(wish(max_age=DAY), container(), [backup(age=1, size=0)], NOW).changed
    older = [backup(2, age=1, size=0), backup(1, age=2)]
    assert not plan_present(wish(max_age=DAY), container(), older, NOW).changed


def test_the_new_backup_counts_for_retention() -> None:
    there = [backup(number, age=number * DAY) for number in (1, 2, 3)]
    assert removed(plan_present(wish(keep={"last": 2}), container(), there, NOW)) == ["3", "2"]
    assert removed(plan_present(wish(keep={"last": 2}, max_age=2 * DAY), container(), there, NOW)) == ["3"]
    # One that will be protected does not.
    assert removed(plan_present(wish(keep={"last": 2}, protected=True), container(), there, NOW)) == ["3"]


@given(
    st.lists(st.tuples(st.integers(-5, 60), st.booleans(), st.sampled_from(["lxcri: a", "lxcri", "nightly", ""]))),
    st.dictionaries(st.sampled_from(["last", "daily", "weekly"]), st.integers(1, 5), min_size=1),
    st.one_of(st.none(), st.integers(0, 40)),
)
def test_nothing_goes_that_is_protected_or_of_somebody_else(
    made: list[tuple[int, bool, str]], keep: dict[str, int], days: int | None
) -> None:
    there = [
        backup(number, age=age * DAY, protected=protected, notes=notes)
        for number, (age, protected, notes) in enumerate(made, 1)
    ]
    there.sort(key=lambda each: -each.time)
    by_name = {each.path: each for each in there}
    taken = plan_present(wish(keep=keep), container(), there, NOW)
    aged = plan_absent(wish(state="absent", keep=keep, max_age=days and days * DAY), None, there, NOW)
    for plan in (taken, aged):
        gone = [by_name[step.path] for step in plan.steps if step.method == "DELETE"]
        assert all(not each.protected and each.is_of("lxcri") for each in gone)
        assert len({each.volume for each in gone}) == len(gone)
    assert taken.steps[0].action == "backed up"


def test_backups_of_the_future_are_told() -> None:
    plan = plan_present(wish(keep={"last": 1}), container(), [backup(age=-DAY)], NOW)
    assert "dated in the future" in plan.notes[0]


def test_named_backups_go_the_oldest_first_unless_protected() -> None:
    there = [backup(2), backup(1)]
    plan = plan_absent(wish(state="absent", volumes=tuple(each.volume for each in there)), None, there, NOW)
    assert removed(plan) == ["1", "2"]
    held = [backup(1, protected=True)]
    with pytest.raises(Failure) as caught:
        plan_absent(wish(state="absent", volumes=(held[0].volume,)), None, held, NOW)
    assert caught.value.code == "protected"


def test_protection_is_changed_where_it_differs() -> None:
    there = [backup(2, protected=True), backup(1)]
    [step] = plan_protection(wish(protected=True), container(), there).steps
    assert (step.method, step.path, step.params) == ("PUT", there[1].path, {"protected": True})
    assert plan_protection(wish(), container(), there).steps == []
    # Either of what Proxmox takes is enough.
    for held in (
        {"/storage/local": {"Datastore.Allocate": 1}},
        {"/storage/local": {"Datastore.AllocateSpace": 1}, "/vms/201": {"VM.Backup": 1}},
    ):
        assert missing_needs(step.needs, held) == []
    assert missing_needs(step.needs, {"/storage/local": {"Datastore.AllocateSpace": 1}}) != []


def test_a_bandwidth_takes_more_than_a_backup() -> None:
    [step] = plan_present(wish(bwlimit=1), container(), [], NOW).steps
    assert {need.privileges for need in step.needs} == {("VM.Backup",), ("Datastore.AllocateSpace",), ("Sys.Modify",)}


def test_mount_points_that_are_left_out() -> None:
    plan = Plan()
    mounts = {"mp0": "a:b,mp=/x", "mp1": "a:c,mp=/y,backup=1", "mp2": "/srv,mp=/z,backup=1"}
    note_excluded(plan, container(**mounts))
    assert plan.notes == ["Not in the backup: mp0 (/x), mp2 (/z)."]
    note_excluded(Plan(), container())


@pytest.mark.parametrize(
    ("rules", "there", "refused"),
    [
        ("keep-all=1", 9, False),
        ("", 9, False),
        ("keep-last=3", 2, False),
        ("keep-last=3", 3, True),
        ("keep-last=1,keep-daily=2", 3, True),
        ("keep-all=0,keep-last=3", 3, True),
    ],
)
def test_the_limit_of_a_storage(rules: str, there: int, refused: bool) -> None:
    backups = [backup(number) for number in range(there)] + [backup(99, protected=True)]
    defaults = {"prune-backups": rules}
    if not refused:
        refuse_limit(wish(), container(), backups, defaults)
        return
    with pytest.raises(Failure) as caught:
        refuse_limit(wish(), container(), backups, defaults)
    assert (caught.value.code, caught.value.details["limit"]) == ("backup_limit", 3)
    refuse_limit(wish(protected=True), container(), backups, defaults)


# ------------------------------------------------------------------------------------------------------- restores


def standing(existing: Actual | None = None, **options: t.Any) -> Standing:
    return Standing(
        **{"backup": backup(), "vmid": 201, "existing": existing, "snapshots": (), "storage": "tank", **options}
    )


def test_what_is_not_in_a_backup() -> None:
    there = container(mp0="a:b,mp=/x", mp1="a:c,mp=/y,backup=1", mp2="/srv,mp=/z", unused0="a:d", unused1="a:e")
    config = {**ROOT, "mp0": "a:b,mp=/x", "mp7": "a:q,mp=/y,backup=1"}
    assert not_backed_up(there, config) == {"mp0": "a:b", "unused0": "a:d", "unused1": "a:e"}
    assert not_backed_up(container(), {}) == {}


def test_a_restore_over_a_container_is_refused_with_all_that_goes() -> None:
    there = container(mp0="a:b,mp=/x", mp2="/srv,mp=/z")
    with pytest.raises(Failure) as caught:
        refuse_loss(wish(), standing(there, snapshots=("one",)))
    assert caught.value.details["volumes"] == ["local-zfs:subvol-201-disk-0", "a:b"]
    assert caught.value.details["snapshots"] == ["one"]
    force = wish(restore=RestoreWish(force=True, discard=("mp0",)))
    refuse_loss(force, standing(there, bare={"mp0": "a:b"}))
    with pytest.raises(Failure) as caught:
        refuse_loss(force, standing(there, bare={"mp0": "a:b", "unused0": "a:c"}))
    assert caught.value.details["keys"] == ["unused0"]
    refuse_loss(wish(), standing())


def test_the_declaration_of_a_restore() -> None:
    same = declare(wish(), standing())
    assert (same.vmid, same.node, same.state, same.storage) == (201, "pve1", "present", "tank")
    assert same.restore is not None
    assert (same.restore.unique, same.restore.force) == (False, False)
    other = declare(wish(restore=RestoreWish(vmid=300, start=True)), standing(vmid=300))
    assert other.restore is not None
    assert (other.vmid, other.state, other.restore.unique) == (300, "started", True)
    named = declare(wish(restore=RestoreWish(hostname="neu", unique=False)), standing(vmid=None))
    assert (named.vmid, named.hostname, named.config) == (None, "neu", {"hostname": "neu"})
    assert named.restore is not None
    assert named.restore.unique is False
    over = declare(wish(restore=RestoreWish(force=True)), standing(container("running")))
    assert over.restore is not None
    assert (over.state, over.force, over.restore.force) == ("started", True, True)
    by_name = wish(restore=RestoreWish(hostname="web-1", force=True))
    for there, unique in ((container(), False), (replace(container(), vmid=202), True)):
        restore = declare(by_name, standing(there, vmid=None)).restore
        assert restore is not None
        assert restore.unique is unique


def failed(**details: t.Any) -> Outcome:
    outcome = Outcome(Declared(vmid=201, node="pve1"))
    outcome.failure = Failure("storage_full", "It is full.", "Free space.", **{"upid": UPID, **details})
    return outcome


def test_what_a_failed_restore_has_left_is_named() -> None:
    left = [
        {"volid": "tank:subvol-201-disk-0", "content": "rootdir"},
        {"volid": "tank:backup/vzdump-lxc-201-x.tar", "content": "backup"},
    ]
    client: t.Any = FakeClient(
        {
            "nodes/pve1/lxc/201/pending": not_found(201),
            "nodes/pve1/storage/tank/content": left,
            "nodes/pve1/storage/local-zfs/content": [],
        }
    )
    failure = aftermath(client, failed(), standing(container()))
    assert failure.code == "storage_full"
    assert failure.message == (
        "It is full. web-1 (201) does not exist any more. Volumes without a container: tank:subvol-201-disk-0."
    )
    assert failure.details["orphans"] == ["tank:subvol-201-disk-0"]
    assert "is as it was; restore it again" in failure.hint


def test_volumes_that_a_container_has_are_not_left_over() -> None:
    entries = [{"key": "rootfs", "value": "tank:subvol-201-disk-0,size=1G"}]
    client: t.Any = FakeClient(
        {
            "nodes/pve1/lxc/201/pending": entries,
            "nodes/pve1/storage/tank/content": [{"volid": "tank:subvol-201-disk-0", "content": "rootdir"}],
        }
    )
    failure = aftermath(client, failed(), standing())
    assert (failure.details["exists"], failure.details["orphans"], failure.message) == (True, [], "It is full.")


def test_a_failure_before_the_restore_is_as_it_is() -> None:
    for details in ({"upid": UPID.replace("vzrestore", "vzstop")}, {"upid": None}):
        outcome = failed(**details)
        assert aftermath(t.cast(t.Any, None), outcome, standing()) is outcome.failure
    client: t.Any = FakeClient({"nodes/pve1/lxc/201/pending": Failure("unreachable", "gone")})
    outcome = failed()
    assert aftermath(client, outcome, standing()) is outcome.failure
