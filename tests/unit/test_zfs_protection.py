# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What protects data and containers, each rule by itself, on the ZFS that is kept in memory."""

from __future__ import annotations

import fcntl
import functools
import itertools
import json
import re
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.commands import Completed
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs import checkpoint as checkpoint_module
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs import declared, freeze, host, journal, restore
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.checkpoint import (
    Outcome,
    choose_method,
    expired,
    prune,
    snapshot_all,
    take,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.clone import Target, clone
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.declared import containers_meant
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.model import COMPLETE, Checkpoint, Part
from ansible_collections.lxcri.proxmox.tests.unit.test_zfs_restore import (
    DATA,
    LOSE,
    ROOT,
    VOLUMES,
    KilledError,
    Lab,
    Volume,
    World,
)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> t.Callable[[], Lab]:
    """The container web with the complete checkpoints one and two, as often as wanted."""
    numbers = itertools.count()
    monkeypatch.setattr(restore, "stamp", lambda prefix: f"{prefix}{next(numbers)}")
    monkeypatch.setattr(freeze, "MARKS", str(tmp_path / "frozen"))
    return lambda: Lab(tmp_path / str(next(numbers)))


@pytest.fixture
def lab(make: t.Callable[[], Lab]) -> Lab:
    return make()


class Watched:
    """Passes commands on to the world and writes them down, those of the process that freezes as well."""

    def __init__(self, lab: Lab, path: Path, fails: str = "") -> None:
        self.world, self.path, self.fails = lab.world, path / "commands", fails
        lab.host.run = lab.host.zfs.run = self

    def __call__(self, argv: t.Sequence[str], stdin: str | None = None, timeout: float | None = None) -> Completed:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(list(argv)) + "\n")
        if argv[0] == self.fails:
            return Completed(tuple(argv), 1, "", "it does not want to")
        return self.world(argv, stdin, timeout)

    def commands(self, *wanted: str) -> list[str]:
        """The commands that begin with one of these words, without what differs from run to run."""
        lines = [" ".join(json.loads(line)) for line in self.path.read_text(encoding="utf-8").splitlines()]
        lines = [re.sub(r" -o \S+", "", line) for line in lines]
        return [line for line in lines if line.startswith(wanted)]


def take_one(lab: Lab, name: str | None) -> Outcome:
    [outcome] = take(lab.host, lab.store, ["web"], name)
    return outcome


def refused(code: str, work: t.Callable[[], t.Any]) -> Failure:
    with pytest.raises(Failure) as failed:
        work()
    assert failed.value.code == code
    return failed.value


def interrupt(lab: Lab, name: str) -> None:
    """Make a checkpoint one whose run was killed."""
    for dataset in VOLUMES:
        del lab.world.snap(f"{dataset}@{name}").properties[COMPLETE]


def pruned(lab: Lab, last: int) -> list[str]:
    [outcome] = prune(lab.host, lab.store, ["web"], {"last": last}, prefix="")
    return [change["key"] for change in outcome.plan]


def shorts(lab: Lab, dataset: str) -> list[str]:
    return [snap.short for snap in lab.world.volumes[dataset].snaps]


# --------------------------------------------------------------------------------------------------------- taking


def test_it_is_frozen_then_synced_then_snapshot(lab: Lab, tmp_path: Path) -> None:
    watched = Watched(lab, tmp_path)
    outcome = take_one(lab, "three")
    assert watched.commands("lxc-freeze", "lxc-unfreeze", "sync", "zfs snapshot", "zfs set") == [
        "lxc-freeze -n web",
        f"sync --file-system /{ROOT} /{DATA}",
        f"zfs snapshot {ROOT}@three {DATA}@three",
        "lxc-unfreeze -n web",
        watched.commands("zfs set")[0],
    ]
    assert set(outcome.timings) == {"freeze", "sync", "zfs", "frozen", "total"}
    assert sum(outcome.timings[kind] for kind in ("freeze", "sync", "zfs")) <= outcome.timings["total"]


def test_what_cannot_be_synced_is_no_checkpoint(lab: Lab, tmp_path: Path) -> None:
    watched = Watched(lab, tmp_path, fails="sync")
    before = lab.world.state()
    refused("sync_failed", lambda: take_one(lab, "three"))
    assert lab.world.state() == before
    assert watched.commands("lxc-unfreeze", "zfs snapshot") == ["lxc-unfreeze -n web"]
    assert lab.store.names("web") == ["one", "two"]


def test_what_a_killed_run_has_left_frozen_is_thawed_first(lab: Lab, tmp_path: Path) -> None:
    """With its guard killed as well, LXC says FROZEN and nothing but the mark tells whose doing that was."""
    watched = Watched(lab, tmp_path)
    (tmp_path / "frozen").mkdir()
    (tmp_path / "frozen/web").touch()
    take_one(lab, "three")
    assert [line.split()[0] for line in watched.commands("lxc-freeze", "lxc-unfreeze")] == [
        "lxc-unfreeze",
        "lxc-freeze",
        "lxc-unfreeze",
    ]


def test_the_name_by_default(lab: Lab) -> None:
    assert re.fullmatch(r"lxcri-\d{8}T\d{6}Z", take_one(lab, None).name or "")


def test_what_lies_on_several_pools_is_told(lab: Lab) -> None:
    """Its snapshots are not of one transaction."""
    volumes = (host.Volume("rootfs", "a", "rpool/a"), host.Volume("mp0", "b", "rpool/b"))
    [reason] = choose_method(lab.host, host.Container("101", volumes, True))[1]
    assert "pools" not in reason
    method, reasons = choose_method(
        lab.host, host.Container("101", (*volumes, host.Volume("mp1", "c", "tank/c")), True)
    )
    assert method == "zfs"
    assert "2 pools (rpool, tank)" in reasons[-1]


# ------------------------------------------------------------------------------------------------------- removing


def test_an_interrupted_one_neither_counts_nor_goes(lab: Lab) -> None:
    interrupt(lab, "two")
    snapshot_all(lab.host, lab.store, [lab.host.container("web")], "three")
    assert pruned(lab, 2) == []
    assert pruned(lab, 1) == ["one"]
    assert [snap.short for snap in lab.world.volumes[DATA].snaps] == ["two", "three"]


def test_a_safety_checkpoint_neither_counts_nor_goes(lab: Lab) -> None:
    snapshot_all(lab.host, lab.store, [lab.host.container("web")], "safe", safety=True)
    assert pruned(lab, 2) == []
    assert pruned(lab, 1) == ["one"]
    assert [snap.short for snap in lab.world.volumes[DATA].snaps] == ["two", "safe"]


def test_two_of_one_name_are_two(lab: Lab) -> None:
    """As when one was set aside and another taken. What tells them apart is the run that took them."""
    own = [
        Checkpoint("web", name, run_id, place, Part(()), (), complete=True)
        for place, (name, run_id) in enumerate([("same", "a"), ("other", "b"), ("same", "c"), ("last", "d")])
    ]
    assert [c.id for c in expired(own, {"last": 2}, None, (), 10**10)[0]] == ["a", "b"]
    assert [c.id for c in expired(own, {"last": 3}, None, (), 10**10)[0]] == ["a"]
    assert [c.id for c in expired(own, {"last": 1}, None, ["same"], 10**10)[0]] == ["b"]


def test_what_is_mounted_by_hand_is_synced(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by fstab: only the kernel knows where it is."""
    (tmp_path / "mounts").write_text(f"{DATA} /srv/a\\040b zfs rw 0 0\nproc /proc proc rw 0 0\n", encoding="utf-8")
    monkeypatch.setattr(checkpoint_module, "MOUNTS", str(tmp_path / "mounts"))
    monkeypatch.setattr(freeze, "MARKS", str(tmp_path / "marks"))
    lab.world.volumes[DATA].properties["mountpoint"] = "legacy"
    asked: list[t.Sequence[str]] = []
    monkeypatch.setattr(lab.world, "act", lambda argv: asked.append(argv) or World.act(lab.world, argv))
    take(lab.host, lab.store, ["web"], "three")
    assert ["sync", "--file-system", f"/{ROOT}", "/srv/a b"] in asked


def test_a_removal_that_is_killed(make: t.Callable[[], Lab]) -> None:
    """Between the datasets of a container: what is left is no checkpoint any more, and the next one clears it up."""
    left_over = 0
    for place in itertools.count(1):
        lab = make()
        lab.world.kill_at = lab.world.calls + place
        try:
            pruned(lab, 1)
            break
        except KilledError:
            lab.world.kill_at = -1
        there = [f"{dataset}@one" for dataset in VOLUMES if "one" in shorts(lab, dataset)]
        marked = [COMPLETE in lab.world.snap(name).properties for name in there]
        if len(there) == 1:
            left_over += 1
            assert marked == [False]
        take_one(lab, "new")
        assert all(("one" in shorts(lab, dataset)) == any(marked) for dataset in VOLUMES), place
    assert left_over


def test_a_removal_that_fails(make: t.Callable[[], Lab]) -> None:
    """What lost none of its snapshots is the checkpoint that it was."""
    seen = []
    for volume in VOLUMES:
        lab = make()
        before = lab.world.state()
        # As while somebody sends it.
        lab.world.in_use = f"{volume}@one"
        assert "busy" in str(refused("dataset_busy", lambda lab=lab: pruned(lab, 1)).message)
        left = [dataset for dataset in VOLUMES if "one" in shorts(lab, dataset)]
        if len(left) == len(VOLUMES):
            assert lab.world.state() == before
        else:
            assert COMPLETE not in lab.world.snap(f"{left[0]}@one").properties
        seen.append(len(left))
    assert seen == [2, 1]


# ------------------------------------------------------------------------------------------------------ restoring


@pytest.mark.parametrize(
    "options",
    [{"mode": "rollback", "lose": LOSE}, {"mode": "rollback", "safety": False, "lose": LOSE}, {"mode": "clone"}],
)
def test_what_is_mounted_by_hand_is_not_restored(lab: Lab, options: dict[str, t.Any]) -> None:
    """ZFS can neither unmount it nor mount it again. When it is not mounted, there is nothing to do of that."""
    volume = lab.world.volumes[DATA]
    volume.properties["mountpoint"] = "legacy"
    before = lab.world.state()
    for check_mode in (True, False):
        failure = refused("dataset_busy", functools.partial(lab.restore, "one", check_mode=check_mode, **options))
        assert (failure.details["dataset"], failure.details["container"]) == (DATA, "web")
    assert lab.world.state() == before
    volume.mounted = False
    assert lab.restore("one", **options)["changed"]
    restored = lab.world.volumes[DATA]
    assert (restored.properties["mountpoint"], restored.mounted) == ("legacy", False)


def test_by_default_an_interrupted_one_is_passed_over(lab: Lab) -> None:
    interrupt(lab, "two")
    assert lab.restore(None, mode="clone", check_mode=True)["name"] == "one"
    assert clone(lab.host, lab.store, "web", None, Target("web2"), check_mode=True).name == "one"
    refused("checkpoint_incomplete", lambda: lab.restore("two"))
    refused("checkpoint_missing", lambda: clone(lab.host, lab.store, "web", "two", Target("web2"), check_mode=True))


def test_one_that_lacks_a_volume_is_not_restored(lab: Lab) -> None:
    lab.world.act(["zfs", "destroy", f"{DATA}@two"])
    before = lab.world.state()
    assert refused("checkpoint_incomplete", lambda: lab.restore("two")).details["dataset"] == DATA
    assert lab.world.state() == before


@pytest.mark.parametrize("mode", ["rollback", "clone"])
def test_the_safety_checkpoint_is_held(lab: Lab, mode: str) -> None:
    safety = lab.restore("one", mode=mode, lose=LOSE if mode == "rollback" else [])["safety"]
    kept = [snap for volume in lab.world.volumes.values() for snap in volume.snaps if snap.short == safety]
    assert [snap.holds for snap in kept] == [{"lxcri:safety"}] * 2


def test_a_lock_that_somebody_holds(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab.host, "locked", functools.partial(lab.host.locked, timeout=0.1))
    before = lab.world.state()
    with open(lab.host.lock_pattern.format("web"), "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused("lock_timeout", lambda: lab.restore("two"))
    assert lab.world.state() == before
    assert journal.read(lab.store, "web") is None
    lab.restore("two")


def test_another_restore_that_is_under_way(lab: Lab) -> None:
    before = lab.world.state()
    with journal.working(lab.store, ["web"]):
        refused("restore_running", lambda: lab.restore("two"))
    assert lab.world.state() == before


def test_a_container_that_was_changed_meanwhile(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between looking at it and holding its lock."""
    whole = lab.host.locked

    def locked(*arguments: t.Any) -> t.ContextManager[None]:
        lab.world.up.clear()
        return whole(*arguments)

    monkeypatch.setattr(lab.host, "locked", locked)
    refused("changed_meanwhile", lambda: lab.restore("two"))
    assert lab.world.data() == ["three"] * 2
    assert journal.read(lab.store, "web") is None


def test_a_volume_below_that_the_checkpoint_does_not_have(lab: Lab) -> None:
    lab.world.volumes[f"{ROOT}/new"] = Volume()
    before = lab.world.state()
    failure = refused("has_children", lambda: lab.restore("two"))
    assert f"{ROOT}/new" in failure.message
    assert lab.world.state() == before


@pytest.mark.parametrize("options", [{"mode": "clone"}, {"lose": ["lose"]}, {"lose": ["lose"], "safety": False}])
def test_what_becomes_of_a_replication_of_proxmox_is_told(lab: Lab, options: dict[str, t.Any]) -> None:
    """Its last snapshot goes, or is set aside with the volume, and its job finds no base any more."""
    lab.world.act(["zfs", "snapshot", f"{DATA}@__replicate_101-0_1700000000__"])
    if "lose" in options:
        options = {**options, "lose": [*LOSE, f"{DATA}@__replicate_101-0_1700000000__"]}
    predicted = lab.restore("one", **options, check_mode=True)
    done = lab.restore("one", **options)
    assert predicted["notes"] == done["notes"]
    [note] = [note for note in done["notes"] if "101-0" in note]
    assert "the job is made again" in note


def test_a_replication_of_proxmox_from_before_goes_on(lab: Lab) -> None:
    """Older snapshots belong to the volume afterwards as before."""
    lab.world.act(["zfs", "snapshot", f"{DATA}@__replicate_101-0_1700000000__"])
    lab.world.write("three")
    snapshot_all(lab.host, lab.store, [lab.host.container("web")], "three")
    lab.world.write("four")
    done = lab.restore("three", mode="clone")
    assert done["notes"] == []
    assert "__replicate_101-0_1700000000__" in [snap.short for snap in lab.world.volumes[DATA].snaps]


def test_in_place_the_quota_and_the_mounts_are_those_of_before(lab: Lab, tmp_path: Path) -> None:
    """ZFS does not roll a quota back, and what the kernel has of the files in its caches is stale."""
    watched = Watched(lab, tmp_path)
    lab.world.volumes[DATA].properties["refquota"] = "4096"
    lab.restore("two", safety=False)
    assert lab.world.volumes[DATA].properties["refquota"] == "none"
    assert watched.commands("zfs rollback", "zfs unmount", "zfs mount") == [
        f"zfs rollback {ROOT}@two",
        f"zfs rollback {DATA}@two",
        f"zfs unmount {DATA}",
        f"zfs unmount {ROOT}",
        f"zfs mount {ROOT}",
        f"zfs mount {DATA}",
    ]


def test_firewall_rules_that_came_later_stay(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container without rules is open; nobody asked for that."""
    whole = lab.host.container
    monkeypatch.setattr(lab.host, "container", lambda name: replace(whole(name), firewall="[RULES]\n"))
    notes = lab.restore("two", config="restore", check_mode=True)["notes"]
    assert notes == ["The checkpoint has no firewall rules; those that are there stay."]
    assert lab.restore("two", check_mode=True)["notes"] == []


def test_one_that_does_not_stop(lab: Lab, tmp_path: Path) -> None:
    before = lab.world.state()
    Watched(lab, tmp_path, fails="lxc-stop")
    refused("stop_failed", lambda: lab.restore("two"))
    assert lab.world.state() == before
    assert journal.read(lab.store, "web") is None


def test_one_that_does_not_start(lab: Lab, tmp_path: Path) -> None:
    """Its volumes are in place; the next run tries again."""
    watched = Watched(lab, tmp_path, fails="lxc-start")
    refused("start_failed", lambda: lab.restore("two"))
    assert lab.world.data() == ["two"] * 2
    watched.fails = ""
    assert lab.recover()[0]["changed"]
    lab.settled()


def test_a_container_is_made_only_of_a_checkpoint_with_its_configuration(lab: Lab) -> None:
    lab.store.remove("web", "two")
    refused("config_missing", lambda: clone(lab.host, lab.store, "web", "two", Target("web2"), check_mode=True))


# --------------------------------------------------------------------------------------------------------- others


@pytest.mark.parametrize(
    "wrong",
    [
        {"keep": {"last": -1}},
        {"keep": {"last": 1}, "keep_timezone": "Europe/Wien"},
        {"hold": "no tag"},
        {"release": "no tag", "name": "one"},
    ],
)
def test_options_are_looked_at_first(lab: Lab, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, t.Any]) -> None:
    """Or each attempt would leave a checkpoint behind."""
    monkeypatch.setattr(declared, "containers_meant", lambda _params: (lab.host, ["web"]))
    params = {"vmids": ["web"], "datasets": [], "state": "present", "name": None, "prefix": "lxcri-", "memory": False}
    params |= dict.fromkeys(("clone_to", "hold", "release", "keep", "keep_timezone")) | wrong
    before = lab.world.state()
    refused("invalid_option", lambda: declared.run_declared(params, False, lab.store))
    assert lab.world.state() == before


def test_another_pattern(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "PVE", str(tmp_path / "none"))
    params = {"vmids": ["web"], "datasets": [], "dataset_pattern": "tank/containers/<id>/data"}
    found, ids = containers_meant(params, lab.world)
    assert ids == found.ids() == ["web"]
    assert found.container("web").datasets == (DATA,)
    refused("container_missing", lambda: found.container("data"))
