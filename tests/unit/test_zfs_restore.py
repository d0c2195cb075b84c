# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores on a ZFS that is kept in memory: interrupted before each command, and with each command failing."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import re
import typing as t
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.commands import Completed
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs import clone as clones
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs import declared, journal, recovery, schedule
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs import host as hosts
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs import restore as module
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.checkpoint import (
    Outcome,
    hold,
    prune,
    remove,
    snapshot_all,
    take,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.clone import Target, clone
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.host import Container, LxcHost, ProxmoxHost, Zfs
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.model import ASIDE_PARENT, COLUMNS
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.policy import parse
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.recovery import recover
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.restore import _merged, restore
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.store import Store

ROOT, DATA = "tank/containers/web", "tank/containers/web/data"
VOLUMES = (ROOT, DATA)
DB = "tank/containers/db"


class KilledError(BaseException):
    """The process ends here, without anything being tidied up."""


class RefusedError(Exception):
    """What zfs says when it refuses."""


@dataclass(eq=False)
class Snap:
    short: str
    number: int
    data: str
    properties: dict[str, str]
    holds: set[str] = field(default_factory=set)


@dataclass(eq=False)
class Volume:
    data: str = ""
    snaps: list[Snap] = field(default_factory=list)
    origin: Snap | None = None
    properties: dict[str, str] = field(default_factory=dict)
    mounted: bool = True


class World:
    """Datasets and one container, with the commands that act on them. Clones and promotion are as zfs(8) has them."""

    def __init__(self) -> None:
        self.volumes = {name: Volume() for name in ("tank", "tank/containers", ROOT, DATA)}
        self.up = {"web"}
        self.numbers = itertools.count(1)
        self.calls = 0
        self.commands: list[list[str]] = []
        self.kill_at = self.fail_at = -1
        # Datasets that zfs does not destroy, because somebody uses them.
        self.used: set[str] = set()
        # A snapshot that somebody sends.
        self.in_use = ""
        # What was written is in a transaction group that is still open, so nothing tells of it.
        self.open_group = False

    def __call__(self, argv: t.Sequence[str], stdin: str | None = None, timeout: float | None = None) -> Completed:
        self.calls += 1
        self.commands.append(list(argv))
        if self.calls == self.kill_at:
            raise KilledError
        try:
            if self.calls == self.fail_at:
                raise RefusedError("cannot do it: 'tank' is busy")
            return Completed(tuple(argv), 0, self.act(list(argv)), "")
        except RefusedError as error:
            return Completed(tuple(argv), 1, "", str(error))

    def act(self, argv: list[str]) -> str:
        if argv[0] == "zfs":
            return str(getattr(self, f"zfs_{argv[1]}")(argv[2:]) or "")
        if argv[:2] == ["zpool", "list"] and argv[-1] not in self.volumes:
            raise RefusedError(f"cannot open '{argv[-1]}': no such pool")
        if argv[0] == "lxc-info":
            return "RUNNING\n" if argv[2] in self.up else "STOPPED\n"
        if argv == ["zpool", "sync", "tank"]:
            self.open_group = False
        if argv[0] == "lxc-start":
            self.up.add(argv[-1])
        if argv[0] == "lxc-stop":
            self.up.discard(argv[-1])
        return ""

    def busy(self, dataset: str) -> bool:
        """Whether the container of a volume runs."""
        return dataset.split("/")[2] in self.up

    def owner(self, snap: Snap) -> str:
        return next(name for name, volume in self.volumes.items() if snap in volume.snaps)

    def name(self, snap: Snap | None) -> str:
        return f"{self.owner(snap)}@{snap.short}" if snap else "-"

    def snap(self, name: str) -> Snap:
        dataset, short = name.split("@")
        return next(snap for snap in self.volumes[dataset].snaps if snap.short == short)

    def clones(self, snap: Snap) -> list[str]:
        return [name for name, volume in self.volumes.items() if volume.origin is snap]

    def written(self, volume: Volume) -> bool:
        last = volume.snaps[-1] if volume.snaps else volume.origin
        return not self.open_group and (last is None or last.data != volume.data)

    def zfs_list(self, argv: list[str]) -> str:
        columns = argv[argv.index("-o") + 1].split(",")
        roots = argv[argv.index("-o") + 2 :]
        lines = []
        for name, volume in self.volumes.items():
            if not any(name == root or name.startswith(f"{root}/") for root in roots):
                continue
            row = dict.fromkeys((*COLUMNS, "name"), "-")
            row.update(name=name, type="filesystem", guid=str(id(volume)), origin=self.name(volume.origin))
            row.update(written=str(int(self.written(volume))), mounted="yes" if volume.mounted else "no")
            row.update(refquota="0", mountpoint=f"/{name}", canmount="on")
            row.update(volume.properties)
            lines.append(row)
            for snap in volume.snaps if "snapshot" in argv[argv.index("-t") + 1] else ():
                row = {**dict.fromkeys(COLUMNS, "-"), **snap.properties}
                row.update(name=f"{name}@{snap.short}", type="snapshot", guid=str(snap.number), creation="1")
                row.update(createtxg=str(snap.number), userrefs=str(len(snap.holds)))
                row.update(clones=",".join(self.clones(snap)) or "-")
                lines.append(row)
        return "".join("\t".join(row[column] for column in columns) + "\n" for row in lines)

    def zfs_get(self, argv: list[str]) -> str:
        volume = self.volumes[argv[-1].split("@")[0]]
        if argv[-2] == "origin":
            return self.name(volume.origin)
        if argv[-2] == "guid":
            return str(self.snap(argv[-1]).number)
        return "".join(f"{key}\t{value}\n" for key, value in volume.properties.items())

    @staticmethod
    def options(argv: list[str]) -> tuple[dict[str, str], list[str]]:
        found, rest = {}, []
        words = iter(argv)
        for word in words:
            if word == "-o":
                key, value = next(words).split("=", 1)
                found[key] = value
            elif word != "-p":
                rest.append(word)
        return found, rest

    def zfs_create(self, argv: list[str]) -> None:
        self.volumes.setdefault(argv[-1], Volume(mounted=False))

    def zfs_snapshot(self, argv: list[str]) -> None:
        properties, names = self.options(argv)
        for name in names:
            dataset, short = name.split("@")
            volume = self.volumes[dataset]
            if any(snap.short == short for snap in volume.snaps):
                raise RefusedError(f"cannot create snapshot '{name}': dataset already exists")
            volume.snaps.append(Snap(short, next(self.numbers), volume.data, dict(properties)))

    def zfs_set(self, argv: list[str]) -> None:
        names = [word for word in argv if "=" not in word]
        for key, value in (word.split("=", 1) for word in argv if "=" in word):
            for name in names:
                (self.snap(name) if "@" in name else self.volumes[name]).properties[key] = value

    def zfs_inherit(self, argv: list[str]) -> None:
        for name in argv[1:]:
            (self.snap(name) if "@" in name else self.volumes[name]).properties.pop(argv[0], None)

    def zfs_hold(self, argv: list[str]) -> None:
        for name in argv[1:]:
            self.snap(name).holds.add(argv[0])

    def zfs_release(self, argv: list[str]) -> None:
        for name in argv[1:]:
            if argv[0] not in self.snap(name).holds:
                raise RefusedError("no such tag on this dataset")
            self.snap(name).holds.remove(argv[0])

    def zfs_holds(self, argv: list[str]) -> str:
        return "".join(f"{name}\t{tag}\t-\n" for name in argv[1:] for tag in self.snap(name).holds)

    def zfs_unmount(self, argv: list[str]) -> None:
        above = [name for name, volume in self.volumes.items() if name.startswith(f"{argv[0]}/") and volume.mounted]
        if self.busy(argv[0]) or above:
            raise RefusedError(f"cannot unmount '{argv[0]}': pool or dataset is busy")
        if self.volumes[argv[0]].properties.get("mountpoint") == "legacy":
            raise RefusedError(
                f"cannot unmount '{argv[0]}': legacy mountpoint\nuse umount(8) to unmount this filesystem"
            )
        self.volumes[argv[0]].mounted = False

    def zfs_mount(self, argv: list[str]) -> None:
        self.volumes[argv[0]].mounted = True

    def zfs_rename(self, argv: list[str]) -> None:
        before, after = argv
        if any(name.startswith(f"{before}/") for name in self.volumes):
            raise AssertionError("the volumes below go along")
        if after in self.volumes or after.rsplit("/", 1)[0] not in self.volumes:
            raise AssertionError(after)
        self.volumes[after] = self.volumes.pop(before)

    def zfs_clone(self, argv: list[str]) -> None:
        properties, (source, target) = self.options(argv)
        if target in self.volumes or target.rsplit("/", 1)[0] not in self.volumes:
            raise AssertionError(target)
        if properties.get("refquota") == "none":
            del properties["refquota"]
        mounted = properties.get("mountpoint") != "legacy"
        self.volumes[target] = Volume(self.snap(source).data, [], self.snap(source), properties, mounted=mounted)

    def zfs_promote(self, argv: list[str]) -> None:
        volume = self.volumes[argv[0]]
        origin = volume.origin
        if origin is None:
            raise RefusedError(f"cannot promote '{argv[0]}': not a cloned filesystem")
        parent = self.volumes[self.owner(origin)]
        moved = [snap for snap in parent.snaps if snap.number <= origin.number]
        parent.snaps = [snap for snap in parent.snaps if snap.number > origin.number]
        volume.snaps = moved + volume.snaps
        volume.origin, parent.origin = parent.origin, origin

    def zfs_rollback(self, argv: list[str]) -> None:
        snap, volume = self.snap(argv[-1]), self.volumes[argv[-1].split("@")[0]]
        if volume.snaps[-1] is not snap and "-r" not in argv:
            raise RefusedError("more recent snapshots or bookmarks exist")
        volume.snaps = [other for other in volume.snaps if other.number <= snap.number]
        volume.data = snap.data

    def zfs_destroy(self, argv: list[str]) -> None:
        dataset, at, shorts = argv[0].partition("@")
        if dataset not in self.volumes:
            raise RefusedError(f"cannot open '{dataset}': dataset does not exist")
        volume = self.volumes[dataset]
        if not at:
            if volume.snaps or any(name.startswith(f"{dataset}/") for name in self.volumes):
                raise RefusedError(f"cannot destroy '{dataset}': filesystem has children")
            if dataset in self.used or (volume.mounted and self.busy(dataset)):
                raise RefusedError(f"cannot destroy '{dataset}': dataset is busy")
            del self.volumes[dataset]
            return
        for snap in [self.snap(f"{dataset}@{short}") for short in shorts.split(",")]:
            if self.name(snap) == self.in_use:
                raise RefusedError(f"cannot destroy snapshot {self.in_use}: dataset is busy")
            if snap.holds or self.clones(snap):
                raise RefusedError(f"cannot destroy '{self.name(snap)}': it is held, or snapshot has dependent clones")
            volume.snaps.remove(snap)

    @staticmethod
    def comparable(volume: Volume) -> list[tuple[str, str]]:
        """Its properties, without the id of a run."""
        return [(key, re.sub("[0-9a-f]{32}", "", value)) for key, value in volume.properties.items()]

    def state(self) -> list[t.Any]:
        """What is there, without where nothing is set aside."""
        return [
            sorted(self.up),
            *sorted(
                (
                    name,
                    volume.data,
                    volume.mounted,
                    self.name(volume.origin),
                    sorted(item for item in self.comparable(volume) if item != ("canmount", "on")),
                    [(snap.short, snap.number, sorted(snap.holds)) for snap in volume.snaps],
                )
                for name, volume in self.volumes.items()
                if not name.endswith(f"/{ASIDE_PARENT}")
            ),
        ]

    def write(self, text: str) -> None:
        for name in VOLUMES:
            self.volumes[name].data = text

    def data(self) -> list[str]:
        return [self.volumes[name].data for name in VOLUMES]


class Node(LxcHost):
    """A host whose files are in a directory. firewall: the rules of each container."""

    firewall = ""

    def __init__(self, world: World, path: Path) -> None:
        super().__init__(Zfs(world), world)
        self.path = path
        self.lock_pattern = str(path / "{}.lock")

    def config_path(self, container_id: str) -> str:
        return str(self.path / f"lxc/{container_id}/config")

    def container(self, container_id: str) -> Container:
        return replace(super().container(container_id), firewall=self.firewall)


class Lab:
    """A world with the checkpoints one and two, and the state three."""

    def __init__(self, path: Path) -> None:
        self.world = World()
        self.store = Store(str(path / "state"))
        self.host = Node(self.world, path)
        self.host.write_config("web", "lxc.uts.name = web\n")
        for name in ("one", "two"):
            self.world.write(name)
            snapshot_all(self.host, self.store, [self.host.container("web")], name)
        self.world.write("three")

    def restore(self, name: str | None, **options: t.Any) -> dict[str, t.Any]:
        return restore(self.host, self.store, ["web"], name, **options)[0]

    def clone(self, name: str | None, target: str) -> Outcome:
        return clone(self.host, self.store, "web", name, Target(target, None, True), False)

    def recover(self, *ids: str) -> list[dict[str, t.Any]]:
        return recover(self.host, self.store, ids or ["web"], check_mode=False)

    def settled(self) -> None:
        """Nothing is left half-way."""
        for name in VOLUMES:
            volume = self.world.volumes[name]
            assert volume.mounted
            assert volume.origin is None
            assert "lxcri:aside" not in volume.properties
            assert volume.properties.get("canmount", "on") == "on"
        assert self.world.up >= {"web"}
        assert self.recover() == []


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> t.Callable[[], Lab]:
    numbers = itertools.count()
    monkeypatch.setattr(module, "stamp", lambda prefix: f"{prefix}{next(numbers)}")
    return lambda: Lab(tmp_path / str(next(numbers)))


LOSE = sorted(f"{name}@two" for name in VOLUMES)
CASES: list[dict[str, t.Any]] = [
    {"name": "two"},
    {"name": "one", "lose": LOSE},
    {"name": "one", "mode": "clone"},
    {"name": "two", "safety": False},
    {"name": "one", "safety": False, "lose": LOSE},
]


@pytest.mark.parametrize("case", CASES)
def test_what_is_restored(make: t.Callable[[], Lab], case: dict[str, t.Any]) -> None:
    lab = make()
    before = lab.world.state()
    predicted = lab.restore(**case, check_mode=True)
    assert lab.world.state() == before
    done = lab.restore(**case)
    assert [change["key"] for change in done["plan"]] == [change["key"] for change in predicted["plan"]]
    assert lab.world.data() == [case["name"]] * 2
    lab.settled()
    assert not lab.restore(case["name"])["changed"]
    snaps = [snap for volume in lab.world.volumes.values() for snap in volume.snaps]
    held = [snap.holds for snap in snaps if snap.short == done["safety"]]
    assert held == ([{"lxcri:safety"}] * 2 if case.get("safety", True) else [])
    there = {snap.short for snap in snaps}
    assert ("two" in there) == (case["name"] == "two" or case.get("mode") == "clone")


@pytest.mark.parametrize("check_mode", [True, False])
def test_what_was_written_a_moment_ago(make: t.Callable[[], Lab], check_mode: bool) -> None:
    lab = make()
    lab.restore("two")
    lab.world.write("damage")
    lab.world.open_group = True
    assert lab.restore("two", check_mode=check_mode)["changed"]
    assert lab.world.data() == ["damage" if check_mode else "two"] * 2


def test_back_and_forth(make: t.Callable[[], Lab]) -> None:
    """Each state from before can be had again, however the volumes that were set aside depend on each other."""
    lab = make()
    safeties = []
    for text in ("three", "four", "five", "six"):
        lab.world.write(text)
        safeties.append((text, lab.restore("two" if len(safeties) % 2 else "one", mode="clone")["safety"]))
        lab.settled()
    for text, name in (*safeties, *reversed(safeties)):
        lab.restore(name, mode="clone")
        assert lab.world.data() == [text] * 2
        lab.settled()


@pytest.mark.parametrize("case", CASES)
def test_killed_before_each_command(make: t.Callable[[], Lab], case: dict[str, t.Any]) -> None:
    """It is undone or finished, and running it again gets there; also when that is killed as well."""
    for place in itertools.count(1):
        lab = make()
        before = lab.world.state()
        lab.world.kill_at = lab.world.calls + place
        try:
            lab.restore(**case)
            break
        except KilledError:
            pass
        # The run that clears up is killed, at another place each time.
        lab.world.kill_at = lab.world.calls + 1 + place % 13
        try:
            lab.recover()
        except KilledError:
            lab.recover()
        lab.world.kill_at = -1
        lab.settled()
        if lab.world.data() == ["three"] * 2:
            assert lab.world.state() == before, place
        else:
            assert lab.world.data() == [case["name"]] * 2, place
        lab.restore(**case)
        assert lab.world.data() == [case["name"]] * 2
        lab.settled()
    assert place > 10


@pytest.mark.parametrize("case", CASES)
def test_each_command_fails(make: t.Callable[[], Lab], case: dict[str, t.Any]) -> None:
    """Nothing was changed then, or all volumes are in place and the next run does the rest."""
    undone = 0
    for place in itertools.count(1):
        lab = make()
        before = lab.world.state()
        lab.world.fail_at = lab.world.calls + place
        end = lab.world.calls + place
        try:
            lab.restore(**case)
        except Failure:
            undone += lab.world.state() == before
        lab.world.fail_at = -1
        lab.recover()
        lab.settled()
        if lab.world.data() == ["three"] * 2:
            assert lab.world.state() == before, place
        else:
            assert lab.world.data() == [case["name"]] * 2, place
        if lab.world.calls < end:
            break
    assert undone > 5


@contextlib.contextmanager
def killed_at(step: str) -> t.Iterator[None]:
    """The process ends at that step of a restore or of a clone."""

    def reached(name: str) -> None:
        if name == step:
            raise KilledError

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "reached", reached)
        patched.setattr(clones, "reached", reached)
        with pytest.raises(KilledError):
            yield


@contextlib.contextmanager
def killed_before_entry(place: int) -> t.Iterator[None]:
    """The process ends before it changes the journal for that time."""
    left = iter(range(place - 1))
    with pytest.MonkeyPatch.context() as patched, contextlib.suppress(KilledError):
        for name in ("write", "clear"):

            def counted(*args: t.Any, real: t.Callable[..., None] = getattr(journal, name)) -> None:
                if next(left, None) is None:
                    raise KilledError
                real(*args)

            patched.setattr(journal, name, counted)
        yield


@pytest.mark.parametrize("first", ["web", "db"])
@pytest.mark.parametrize("safety", [True, False])
def test_containers_that_are_restored_together_end_the_same(
    make: t.Callable[[], Lab], safety: bool, first: str
) -> None:
    """Killed before each change of the journal, and cleared up in any order, by runs that are killed as well."""
    ends = set()
    # Before the fourth and the fifth change, only one of the two entries says that it goes forward.
    for place, again in {*zip(range(1, 12), itertools.cycle((1, 2, 3))), *itertools.product((4, 5), (1, 2, 3, 4))}:
        lab = make()
        lab.world.volumes[DB] = Volume("both")
        lab.world.up.add("db")
        lab.world.write("both")
        snapshot_all(lab.host, lab.store, [lab.host.container(name) for name in ("web", "db")], "both")
        lab.world.volumes[DB].data = "three"
        lab.world.write("three")
        with killed_before_entry(place):
            restore(lab.host, lab.store, ["web", "db"], "both", safety=safety)
        with killed_before_entry(again):
            lab.recover(first)
        lab.recover("db" if first == "web" else "web")
        lab.recover(first)
        lab.settled()
        assert lab.world.up == {"web", "db"}
        (end,) = {*lab.world.data(), lab.world.volumes[DB].data}
        ends.add(end)
    assert ends == {"three", "both"}


def test_what_another_run_decided_says_nothing(make: t.Callable[[], Lab], monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that was cleared up, and then restored anew, no longer belongs to the other one."""
    lab = make()
    ended: list[str] = []
    work = [lambda _host, _store, name, end=end: ended.append(f"{name} {end}") for end in ("undone", "finished")]
    monkeypatch.setitem(recovery._WORK, "restore", work)
    for name, run, phase in (("web", "second", "swapped"), ("db", "first", "begun"), ("mail", "second", "begun")):
        entry = {"work": "restore", "run": run, "group": ["web", "db", "mail"], "phase": phase}
        journal.write(lab.store, name, entry)
    lab.recover("db")
    assert ended == ["db undone"]
    ended.clear()
    lab.recover("mail")
    assert ended == ["mail finished", "web finished"]


@pytest.mark.parametrize("text", ["", "[]", "{", json.dumps({"phase": "begun"})])
def test_a_journal_that_says_nothing(make: t.Callable[[], Lab], text: str) -> None:
    """Nobody guesses how far it got."""
    lab = make()
    journal.write(lab.store, "web", {})
    [path] = Path(lab.store.state, "journal").glob("*.json")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(Failure) as failed:
        lab.recover("web")
    assert failed.value.code == "journal_damaged"
    assert failed.value.details["path"] == str(path)


def test_what_is_written_afterwards_stays(make: t.Callable[[], Lab]) -> None:
    """A restore that was killed when the container ran again is not done once more."""

    for case in CASES:
        lab = make()
        with killed_at("restore:started"):
            lab.restore(**case)
        lab.world.write("later")
        lab.recover()
        assert lab.world.data() == ["later"] * 2
        lab.settled()


class Proxmox(ProxmoxHost):
    """A node of Proxmox with the container 101, whose volume is one of the world, and its firewall rules."""

    volume = "tank/containers/subvol-101-disk-0"

    def __init__(self, path: Path) -> None:
        self.world = World()
        super().__init__(Zfs(self.world), self.world)
        self.lock_pattern = str(path / "{}.lock")
        self.replication_lock_pattern = str(path / "pve-migrate-{}")
        self.world.volumes[self.volume] = Volume("then")
        for name in ("lxc", "firewall"):
            (path / name).mkdir()
        (path / "storage.cfg").write_text("zfspool: tank\n\tpool tank/containers\n", encoding="utf-8")
        self.write_firewall("101", "then")
        self.set_memory(1)

    def without_replication(
        self, ids: t.Iterable[str], timeout: float = 0.1
    ) -> contextlib.AbstractContextManager[None]:
        return super().without_replication(ids, timeout)

    def set_memory(self, number: int) -> None:
        config = f"hostname: x\nmemory: {number}\nrootfs: tank:subvol-101-disk-0,size=1G\n"
        self.write_config("101", config)


@pytest.mark.parametrize("safety", [True, False])
def test_it_is_locked_until_it_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, safety: bool) -> None:
    """Whatever is written back. Without the lock it could be started while the next run would roll it back again."""
    monkeypatch.setattr(hosts, "PVE", str(tmp_path))
    store = Store(str(tmp_path / "state"))
    host = Proxmox(tmp_path)
    take(host, store, ["101"], "one")
    host.world.volumes[host.volume].data = "now"
    host.set_memory(2)
    host.write_firewall("101", "now")
    locks = {}

    def reached(step: str) -> None:
        locks[step] = host.container("101").lock

    monkeypatch.setattr(module, "reached", reached)
    restore(host, store, ["101"], "one", safety=safety, config="restore")
    container = host.container("101")
    assert (locks["restore:dropped"], locks["restore:settled"]) == ("rollback", "rollback")
    assert (locks["restore:unlocked"], container.lock) == (None, None)
    assert ("memory: 1\n" in container.config, container.firewall) == (True, "then")
    assert host.world.volumes[host.volume].data == "then"


def is_locked(path: str) -> bool:
    """Whether somebody holds a lock file."""
    with open(path, "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.parametrize("safety", [True, False])
def test_no_replication_of_proxmox_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, safety: bool) -> None:
    """It does not look at the lock of the configuration, so a lock file keeps it away, as in a rollback of Proxmox."""
    monkeypatch.setattr(hosts, "PVE", str(tmp_path))
    store = Store(str(tmp_path / "state"))
    host = Proxmox(tmp_path)
    lock = host.replication_lock_pattern.format("101")
    take(host, store, ["101"], "one")
    host.world.volumes[host.volume].data = "now"
    held: dict[str, bool] = {}

    def reached(step: str) -> None:
        held[step] = is_locked(lock)
        if step == "restore:settled":
            raise KilledError

    monkeypatch.setattr(module, "reached", reached)
    with open(lock, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = host.world.state()
        with pytest.raises(Failure) as failed:
            restore(host, store, ["101"], "one", safety=safety)
        assert (failed.value.code, failed.value.details["container"]) == ("lock_timeout", "101")
        assert host.world.state() == before
    with pytest.raises(KilledError):
        restore(host, store, ["101"], "one", safety=safety)
    assert len(held) > 3
    assert all(held.values())
    held.clear()
    assert not is_locked(lock)
    with open(lock, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Failure) as failed:
            recover(host, store, ["101"], check_mode=False)
        assert failed.value.code == "lock_timeout"
    assert recover(host, store, ["101"], check_mode=False)
    assert held == {"restore:unlocked": True, "restore:started": True}


@pytest.mark.parametrize("work", ["keep", "absent", "present"])
@pytest.mark.parametrize("safety", [True, False])
def test_while_it_is_restored(
    make: t.Callable[[], Lab], monkeypatch: pytest.MonkeyPatch, work: str, safety: bool
) -> None:
    """What began before goes no further: neither does the checkpoint go, nor is one taken of what is half-way."""
    lab = make()
    refused = []
    works: dict[str, t.Callable[[], t.Any]] = {
        "keep": lambda: prune(lab.host, lab.store, ["web"], {"last": 1}, prefix=""),
        "absent": lambda: remove(lab.host, lab.store, ["web"], "one", check_mode=False),
        "present": lambda: take(lab.host, lab.store, ["web"], "new"),
    }

    def meanwhile(step: str) -> None:
        if step == "restore:stopped":
            with pytest.raises(Failure) as failed:
                works[work]()
            refused.append(failed.value.code)

    monkeypatch.setattr(module, "reached", meanwhile)
    lab.restore("one", safety=safety, lose=LOSE)
    assert refused == ["restore_running"]
    assert lab.world.data() == ["one"] * 2
    lab.settled()


@pytest.mark.parametrize("work", ["keep", "absent"])
def test_held_meanwhile(make: t.Callable[[], Lab], monkeypatch: pytest.MonkeyPatch, work: str) -> None:
    """A hold that succeeded keeps the checkpoint whole, also from a removal that was decided before."""
    lab = make()
    locked = lab.host.locked

    def meanwhile(*args: t.Any) -> contextlib.AbstractContextManager[None]:
        hold(lab.host, lab.store, ["web"], "one", "audit", held=True, check_mode=False)
        return locked(*args)

    monkeypatch.setattr(lab.host, "locked", meanwhile)
    works: dict[str, t.Callable[[], t.Any]] = {
        "keep": lambda: prune(lab.host, lab.store, ["web"], {"last": 1}, prefix=""),
        "absent": lambda: remove(lab.host, lab.store, ["web"], "one", check_mode=False),
    }
    with pytest.raises(Failure) as failed:
        works[work]()
    assert "The checkpoints of" in failed.value.message
    assert [lab.world.snap(f"{name}@one").holds for name in VOLUMES] == [{"audit"}] * 2
    assert sorted(lab.store.load("web", "one")) == ["config", "record"]


@pytest.mark.parametrize("safety", [True, False])
def test_what_went_before_it_began(make: t.Callable[[], Lab], monkeypatch: pytest.MonkeyPatch, safety: bool) -> None:
    """While it waited for the lock. The container is not even stopped."""
    lab = make()
    plans = module._plans

    def meanwhile(*args: t.Any) -> list[module.Plan]:
        found = plans(*args)
        remove(lab.host, lab.store, ["web"], "one", check_mode=False)
        return found

    monkeypatch.setattr(module, "_plans", meanwhile)
    with pytest.raises(Failure) as failed:
        lab.restore("one", safety=safety, lose=LOSE)
    assert failed.value.code == "changed_meanwhile"
    assert lab.world.data() == ["three"] * 2
    lab.settled()


def test_what_came_while_it_was_restored(make: t.Callable[[], Lab], monkeypatch: pytest.MonkeyPatch) -> None:
    """In place it goes forward only: with the word that this may be lost too."""
    lab = make()

    def meanwhile(step: str) -> None:
        if step == "restore:stopped":
            lab.world.zfs_snapshot([f"{ROOT}@theirs"])

    with monkeypatch.context() as patched:
        patched.setattr(module, "reached", meanwhile)
        with pytest.raises(Failure) as failed:
            lab.restore("one", safety=False, lose=LOSE)
    assert failed.value.code == "would_lose_data"
    with pytest.raises(Failure) as failed:
        lab.recover()
    assert failed.value.details["lose"] == sorted([f"{ROOT}@theirs", *LOSE])
    assert recover(lab.host, lab.store, ["web"], check_mode=False, lose=failed.value.details["lose"])
    assert lab.world.data() == ["one"] * 2
    lab.settled()


def test_what_came_before_it_began(make: t.Callable[[], Lab], monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot that was taken while it waited for the lock: the container is not even stopped."""
    lab = make()
    plans = module._plans

    def meanwhile(*args: t.Any) -> list[module.Plan]:
        found = plans(*args)
        lab.world.zfs_snapshot([f"{ROOT}@theirs"])
        return found

    with monkeypatch.context() as patched:
        patched.setattr(module, "_plans", meanwhile)
        with pytest.raises(Failure) as failed:
            lab.restore("one", safety=False, lose=LOSE)
    assert failed.value.details["lose"] == sorted([f"{ROOT}@theirs", *LOSE])
    assert lab.world.data() == ["three"] * 2
    assert ["lxc-stop", "-k", "-n", "web"] not in lab.world.commands
    lab.settled()


@pytest.mark.parametrize("restarted", [True, False])
@pytest.mark.parametrize("place", ["restore:stopped", f"restore:rolled back:{ROOT}"])
def test_what_came_after_it_was_killed(make: t.Callable[[], Lab], place: str, restarted: bool) -> None:
    """All of it is named before anything is touched: snapshots, and what a container that was started has written."""
    lab = make()

    with killed_at(place):
        lab.restore("one", safety=False, lose=LOSE)
    for name in VOLUMES:
        lab.world.zfs_snapshot([f"{name}@theirs"])
    if restarted:
        lab.world.up.add("web")
    begun = [f"{ROOT}@two"] if place == "restore:stopped" else []
    lose = sorted([*(f"{name}@theirs" for name in VOLUMES), *begun, f"{DATA}@two", *(VOLUMES if restarted else ())])
    before = lab.world.state()
    for check_mode in (True, False):
        for agreed in ([], [name for name in lose if name != (ROOT if restarted else f"{ROOT}@theirs")]):
            with pytest.raises(Failure) as failed:
                recover(lab.host, lab.store, ["web"], check_mode, agreed)
            assert (failed.value.code, failed.value.details["lose"]) == ("would_lose_data", lose)
            assert lab.world.state() == before
    lab.world.snap(f"{ROOT}@theirs").holds.add("audit")
    with pytest.raises(Failure) as failed:
        recover(lab.host, lab.store, ["web"], False, lose)
    assert (failed.value.code, failed.value.details["dataset"]) == ("held", ROOT)
    lab.world.snap(f"{ROOT}@theirs").holds.clear()
    assert lab.world.state() == before
    recover(lab.host, lab.store, ["web"], False, lose)
    assert lab.world.data() == ["one"] * 2
    lab.settled()


@pytest.mark.parametrize("gone", ["snapshot", "volume", "another"])
def test_a_checkpoint_that_went_after_it_was_killed(make: t.Callable[[], Lab], gone: str) -> None:
    """One of the same name is another one."""
    lab = make()

    with killed_at("restore:stopped"):
        lab.restore("two", safety=False)
    if gone == "volume":
        del lab.world.volumes[DATA]
    else:
        lab.world.zfs_destroy([f"{DATA}@two"])
    if gone == "another":
        lab.world.zfs_snapshot([f"{DATA}@two"])
    before = lab.world.state()
    with pytest.raises(Failure) as failed:
        lab.recover()
    assert (failed.value.code, failed.value.details["dataset"]) == ("volume_missing", DATA)
    assert lab.world.state() == before


def test_what_would_be_lost(make: t.Callable[[], Lab]) -> None:
    lab = make()
    for lose in ([], LOSE[:1]):
        with pytest.raises(Failure) as failed:
            lab.restore("one", lose=lose)
        assert failed.value.code == "would_lose_data"
        assert failed.value.details["lose"] == LOSE
    lab.world.snap(f"{DATA}@two").holds.add("audit")
    with pytest.raises(Failure) as failed:
        lab.restore("one", lose=LOSE)
    assert failed.value.code == "held"
    with pytest.raises(Failure) as failed:
        lab.restore("none")
    assert failed.value.code == "checkpoint_missing"
    assert failed.value.details["names"] == ["one", "two"]
    with pytest.raises(Failure) as failed:
        lab.restore("one", mode="clone", safety=False)
    assert failed.value.code == "invalid_option"


def test_a_clone_is_made_once(make: t.Callable[[], Lab]) -> None:
    """Also a promoted one, to which the checkpoint belongs from then on."""
    lab = make()
    assert lab.clone("one", "web2").changed
    for name in (None, "one"):
        again = lab.clone(name, "web2")
        assert (again.changed, again.name) == (False, "one")
    assert lab.world.volumes[DATA.replace("web", "web2")].origin is None
    assert lab.world.name(lab.world.volumes[DATA].origin) == f"{DATA.replace('web', 'web2')}@one"
    for source, target in (("two", "web2"), (None, "web")):
        with pytest.raises(Failure) as failed:
            lab.clone(source, target)
        assert failed.value.code == "container_exists"


@pytest.mark.parametrize("name", [None, "one"])
@pytest.mark.parametrize("left", [None, "", "no json", "[]", '{"source": "web"}'])
def test_another_container_of_the_id(make: t.Callable[[], Lab], left: str | None, name: str | None) -> None:
    """What was made of the checkpoint was destroyed since. Whatever a volume says besides is no reason to guess."""
    lab = make()
    lab.clone("one", "web2")
    root, data = (volume.replace("web", "web2") for volume in VOLUMES)
    lab.world.zfs_promote([ROOT])
    lab.world.zfs_promote([DATA])
    del lab.world.volumes[data]
    lab.world.volumes[root] = Volume("a year of data")
    if left is not None:
        lab.world.volumes[root].properties["lxcri:made-of"] = left
    for check_mode in (True, False):
        with pytest.raises(Failure) as failed:
            clone(lab.host, lab.store, "web", name, Target("web2"), check_mode)
        assert (failed.value.code, failed.value.details["container"]) == ("container_exists", "web2")
    del lab.world.volumes[root]
    with pytest.raises(Failure) as failed:
        lab.clone(name, "web2")
    assert failed.value.code == "container_exists"


def test_a_clone_that_was_restored_is_still_one(make: t.Callable[[], Lab]) -> None:
    """Its volumes are others then."""
    lab = make()
    lab.clone("one", "web2")
    snapshot_all(lab.host, lab.store, [lab.host.container("web2")], "later")
    for volume in VOLUMES:
        lab.world.volumes[volume.replace("web", "web2")].data = "damage"
    assert restore(lab.host, lab.store, ["web2"], "later")[0]["changed"]
    assert not lab.clone("one", "web2").changed
    # And so is a clone of it, but not of the first one.
    clone(lab.host, lab.store, "web2", "later", Target("web4"), False)
    assert not clone(lab.host, lab.store, "web2", None, Target("web4"), False).changed
    with pytest.raises(Failure) as failed:
        lab.clone(None, "web4")
    assert failed.value.code == "container_exists"


def test_a_clone_does_not_touch_what_is_not_its_own(make: t.Callable[[], Lab]) -> None:
    """A dataset of its name, also one that is a clone of the very same snapshot."""
    lab = make()
    theirs = ROOT.replace("web", "web2")
    lab.world.zfs_clone([f"{ROOT}@one", theirs])
    lab.world.volumes[theirs].data = "a year of data"
    before = lab.world.state()
    for check_mode in (True, False):
        with pytest.raises(Failure) as failed:
            clone(lab.host, lab.store, "web", "one", Target("web2"), check_mode)
        assert (failed.value.code, failed.value.details["dataset"]) == ("name_taken", theirs)
    assert lab.world.state() == before
    assert journal.read(lab.store, "web2") is None


def test_what_is_left_of_a_clone_and_a_container_made_since(make: t.Callable[[], Lab]) -> None:
    """The attempt was cleaned up by hand, and the id and the name are those of another container by now."""
    lab = make()

    with killed_at("clone:config"):
        lab.clone("one", "web2")
    theirs = ROOT.replace("web", "web2")
    lab.world.zfs_clone([f"{ROOT}@one", theirs])
    lab.world.volumes[theirs].data = "a year of data"
    lab.host.write_config("web2", "lxc.uts.name = theirs\n")
    before = lab.world.state()
    lab.recover("web2")
    assert lab.world.state() == before
    assert Path(lab.host.config_path("web2")).read_text(encoding="utf-8") == "lxc.uts.name = theirs\n"
    assert lab.recover("web2") == []
    with pytest.raises(Failure) as failed:
        lab.clone("one", "web2")
    assert failed.value.code == "container_exists"


def test_a_clone_killed_before_each_command(make: t.Callable[[], Lab]) -> None:
    """A run that clears up undoes it or finishes it; then it is there, and nothing is left half-way."""
    lab = make()
    lab.clone("one", "web2")
    made, phases = lab.world.state(), set()
    for place in itertools.count(1):
        lab = make()
        before = lab.world.state()
        lab.world.kill_at = lab.world.calls + place
        try:
            lab.clone("one", "web2")
            break
        except KilledError:
            pass
        # Also that run is killed.
        lab.world.kill_at = lab.world.calls + 1 + place % 5
        try:
            left = lab.recover("web2")
        except KilledError:
            left = lab.recover("web2")
        lab.world.kill_at = -1
        phases.update(note for entry in left for note in entry["notes"])
        assert lab.world.state() == (made if lab.host.exists("web2") else before), place
        lab.clone("one", "web2")
        assert lab.world.state() == made
        assert lab.recover("web2") == []
    assert phases == {"An interrupted clone was undone.", "An interrupted clone was finished."}


def test_each_command_of_a_clone_fails(make: t.Callable[[], Lab]) -> None:
    """Nothing is left then, or all volumes are made and the next run does the rest."""
    lab = make()
    lab.clone("one", "web2")
    made, ends = lab.world.state(), set()
    for place in itertools.count(1):
        lab = make()
        before = lab.world.state()
        lab.world.fail_at = end = lab.world.calls + place
        failed = False
        try:
            lab.clone("one", "web2")
        except Failure:
            failed = True
            assert lab.host.exists("web2") == bool(journal.read(lab.store, "web2")), place
        lab.recover("web2")
        ends.add(failed and lab.host.exists("web2"))
        assert lab.world.state() == (made if lab.host.exists("web2") else before), place
        if lab.world.calls < end:
            break
    assert ends == {True, False}


@pytest.mark.parametrize("work", ["clone", "restore"])
def test_what_cannot_be_undone(make: t.Callable[[], Lab], work: str) -> None:
    """It is named, and the next run undoes it as soon as it can."""
    lab = make()
    before = lab.world.state()
    made = ROOT.replace("web", "web2") if work == "clone" else ROOT
    command = ["zfs", "clone", DATA.replace("web", "web2")] if work == "clone" else ["zfs", "promote", ROOT]
    lab.world.used.add(made)
    act = lab.world.act

    def failing(argv: list[str]) -> str:
        if [*argv[:2], argv[-1]] == command:
            raise RefusedError("cannot do it: out of space")
        return act(argv)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lab.world, "act", failing)
        with pytest.raises(Failure) as failed:
            lab.clone("one", "web2") if work == "clone" else lab.restore("two")
    assert failed.value.code == "pool_full"
    assert made in failed.value.message
    [left] = failed.value.details["left"]
    assert (left["code"], left["details"]["dataset"]) == ("dataset_busy", made)
    container = "web2" if work == "clone" else "web"
    for _again in range(2):
        with pytest.raises(Failure) as failed:
            lab.recover(container)
        assert (failed.value.code, failed.value.details["dataset"]) == ("dataset_busy", made)
        assert made in lab.world.volumes
        assert lab.host.exists(container)
    lab.world.used.clear()
    lab.recover(container)
    assert lab.world.state() == before
    assert lab.host.exists("web2") is False
    assert lab.recover(container) == []


@pytest.mark.parametrize(
    ("work", "step"),
    [
        ("restore", "restore:journal"),
        ("restore", "restore:swapped"),
        ("clone", "restore:journal"),
        ("clone", "restore:swapped"),
        ("clone", "clone:config"),
    ],
)
def test_what_another_run_has_left_since_it_was_looked_for(make: t.Callable[[], Lab], work: str, step: str) -> None:
    """It is neither overwritten nor undone."""
    lab = make()

    with killed_at(step):
        lab.clone("one", "web2") if step.startswith("clone") else lab.restore("two")
    if step.startswith("clone"):
        Path(lab.host.config_path("web2")).unlink()
    before = lab.world.state(), [journal.read(lab.store, name) for name in ("web", "web2")]
    container = "web2" if step.startswith("clone") else "web"
    with pytest.raises(Failure) as failed:
        lab.clone("one", "web2") if work == "clone" else lab.restore("two")
    assert (failed.value.code, failed.value.details["container"]) == ("restore_running", container)
    assert before == (lab.world.state(), [journal.read(lab.store, name) for name in ("web", "web2")])


DECLARED: dict[str, t.Any] = {
    "vmids": ["web"],
    "name": None,
    "state": "present",
    "prefix": "lxcri-",
    "memory": False,
    "mode": "rollback",
    "safety": True,
    "lose": [],
    "config": "keep",
    "clone_to": None,
    "hold": None,
    "release": None,
    "keep": None,
    "keep_timezone": None,
}


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"state": "absent", "name": "lxcri-1"}, ["lxcri-1"]),
        ({"state": "absent", "name": "lxcri-2", "release": "audit"}, ["lxcri-2 hold audit", "lxcri-2"]),
        ({"state": "absent", "name": "lxcri-3", "keep": {"last": 1}}, ["lxcri-3"]),
        ({"state": "absent", "keep": {"last": 1}}, ["lxcri-1"]),
        ({"name": "new", "hold": "audit"}, ["new", "new hold audit"]),
        ({"name": "lxcri-3", "hold": "audit"}, ["lxcri-3 hold audit"]),
        ({"name": "lxcri-4", "keep": {"last": 1}}, ["lxcri-4", "lxcri-1", "lxcri-3"]),
        ({"name": "lxcri-4", "keep": {"last": 1}, "hold": "x"}, ["lxcri-4", "lxcri-4 hold x", "lxcri-1"]),
        ({"name": "lxcri-2", "keep": {"last": 1}, "release": "audit"}, ["lxcri-2 hold audit", "lxcri-1"]),
        ({"name": "lxcri-3", "keep": {"last": 1}, "clone_to": (False,)}, ["web2"]),
        ({"name": "lxcri-2", "keep": {"last": 1}, "clone_to": (True,)}, ["web2"]),
    ],
)
def test_check_mode_says_what_happens(
    make: t.Callable[[], Lab], monkeypatch: pytest.MonkeyPatch, options: dict[str, t.Any], keys: list[str]
) -> None:
    """Each step of a task is predicted from what the steps before it would leave."""
    lab = make()
    lab.world.up.clear()
    monkeypatch.setattr(declared, "containers_meant", lambda _params: (lab.host, ["web"]))
    for name in ("lxcri-1", "lxcri-2", "lxcri-3"):
        take(lab.host, lab.store, ["web"], name)
    hold(lab.host, lab.store, ["web"], "lxcri-2", "audit", held=True, check_mode=False)
    if "clone_to" in options:
        clone_to = {"vmid": "web2", "hostname": None, "promote": options["clone_to"][0]}
        options = {**options, "clone_to": clone_to}

    def run(check_mode: bool) -> tuple[bool, list[str]]:
        result = declared.run_declared({**DECLARED, **options}, check_mode, lab.store)
        return result["changed"], [change["key"] for change in result["containers"][0]["plan"]]

    before = lab.world.state()
    predicted = run(True)
    assert lab.world.state() == before
    assert run(False) == predicted == (True, keys)
    assert run(False) == run(True) == (False, [])


def test_a_plan_of_the_schedule_says_what_happens(make: t.Callable[[], Lab], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what goes because of the checkpoint that would be taken."""
    lab = make()
    lab.world.up.clear()
    jobs = [{"name": "all", "vmids": ["web"], "keep": {"last": 2}}]
    names = (f"auto-all-{number}" for number in itertools.count(1))
    monkeypatch.setattr(schedule, "stamp", lambda _prefix: next(names))
    for _round in range(2):
        take(lab.host, lab.store, ["web"], next(names))

    def run(check_mode: bool) -> list[tuple[str, t.Any]]:
        told: list[t.Mapping[str, t.Any]] = []
        policy = parse(json.dumps({"version": 1, "jobs": jobs}))
        runner = schedule.Runner(policy, lab.host, lab.store, lambda _priority, fact: told.append(fact), check_mode)
        runner.run()
        return [(fact["event"], fact.get("names")) for fact in told]

    assert run(check_mode=True) == run(check_mode=False) == [("checkpoint", None), ("prune", ["auto-all-1"])]


def test_memory_without_a_checkpoint_goes_with_the_next(make: t.Callable[[], Lab]) -> None:
    """A run that was killed before its snapshots has left it; what has a record stays."""
    lab = make()
    lab.world.up.clear()
    lab.clone("one", "web2")
    Path(lab.store.directory("web", "killed"), "memory").mkdir(parents=True)
    take(lab.host, lab.store, ["web"], "new")
    assert lab.store.names("web") == ["new", "one", "two"]
    take(lab.host, lab.store, ["web2"], "new")
    assert lab.store.names("web2") == ["new"]


@pytest.mark.parametrize(
    ("pools", "code"), [(["tank"], "volume_missing"), ([], "pool_unavailable")], ids=["destroyed", "exported"]
)
@pytest.mark.parametrize("name", [None, "two"])
def test_a_volume_that_is_not_there(
    make: t.Callable[[], Lab], monkeypatch: pytest.MonkeyPatch, pools: list[str], code: str, name: str | None
) -> None:
    """The checkpoints went with it: it is named, and not they."""
    lab = make()
    container = lab.host.container("web")
    monkeypatch.setattr(lab.host, "container", lambda _name: container)
    gone = [DATA] if pools else list(lab.world.volumes)
    for dataset in gone:
        del lab.world.volumes[dataset]
    with pytest.raises(Failure) as failed:
        lab.restore(name)
    assert failed.value.code == code
    assert failed.value.details["dataset"] == (DATA if pools else ROOT)


def test_a_volume_that_the_container_has_no_more(make: t.Callable[[], Lab]) -> None:
    lab = make()
    del lab.world.volumes[DATA]
    with pytest.raises(Failure) as failed:
        lab.restore(None)
    assert failed.value.code == "volume_missing"
    assert failed.value.details["dataset"] == DATA


def test_the_files_of_another_checkpoint(make: t.Callable[[], Lab]) -> None:
    """Of another machine, or of another container of that id. None is taken for that of the checkpoint."""
    lab = make()
    before = lab.world.state()
    lab.store.save("web", "two", {"config": "of another one", "record": "{}"})
    for check_mode in (True, False):
        with pytest.raises(Failure) as failed:
            lab.restore("two", config="restore", check_mode=check_mode)
        assert failed.value.code == "config_missing"
    with pytest.raises(Failure) as failed:
        clone(lab.host, lab.store, "web", "two", Target("other"), False)
    assert failed.value.code == "config_missing"
    assert lab.world.state() == before
    assert lab.restore("two")["changed"]


def test_a_container_without_a_configuration(make: t.Callable[[], Lab]) -> None:
    """Plain LXC may have none."""
    lab = make()
    Path(lab.host.config_path("web")).unlink(missing_ok=True)
    snapshot_all(lab.host, lab.store, [lab.host.container("web")], "three")
    lab.world.write("later")
    assert lab.restore("three", config="restore")["changed"]


def test_what_an_older_one_of_the_name_has_left(make: t.Callable[[], Lab]) -> None:
    lab = make()
    lab.store.save("web", "three", {"config": "old", "firewall": "old", "record": "old"})
    snapshot_all(lab.host, lab.store, [lab.host.container("web")], "three")
    files = lab.store.load("web", "three")
    assert sorted(files) == ["config", "record"]
    assert "old" not in files.values()


def test_a_name_that_another_process_took_meanwhile(make: t.Callable[[], Lab]) -> None:
    """Its files stay."""
    lab = make()
    before = lab.store.load("web", "two")
    with pytest.raises(Failure):
        snapshot_all(lab.host, lab.store, [lab.host.container("web")], "two")
    assert lab.store.load("web", "two") == before


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("ct: 101\n\tstate started\n", True),
        ("ct: 101\n\tgroup all\n", True),
        ("ct: 101\n\tstate ignored\n", False),
        ("ct: 1010\n\tstate started\n\nvm: 102\n", False),
        ("", False),
    ],
)
def test_what_ha_manages(
    make: t.Callable[[], Lab], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, refused: bool
) -> None:
    """It does nothing with a container that it is told to ignore."""
    monkeypatch.setattr(module, "PVE", str(tmp_path))
    (tmp_path / "ha").mkdir()
    (tmp_path / "ha/resources.cfg").write_text(text, encoding="utf-8")
    lab = make()
    with contextlib.nullcontext() if not refused else pytest.raises(Failure) as failed:
        module._require_no_ha(ProxmoxHost(Zfs(lab.world), lab.world), Container("101", (), running=True))
    if failed:
        assert failed.value.code == "ha_managed"


@pytest.mark.parametrize(
    ("current", "stored", "merged"),
    [
        ("a: 1\n", "a: 2\n", "a: 2\n"),
        ("a: 1\n", "", "a: 1\n"),
        # A lock is of an operation, not of the container.
        ("a: 1\n", "lock: backup\na: 2\n", "a: 2\n"),
        # Snapshots of Proxmox are those that are there by now, and so is the one that came last.
        ("a: 1\nparent: x\n\n[x]\na: 0\n", "a: 2\nparent: gone\n\n[gone]\na: 9\n", "a: 2\nparent: x\n\n[x]\na: 0\n"),
        ("a: 1\n", "a: 2\nparent: gone\n\n[gone]\na: 9\n", "a: 2\n\n"),
        ("a: 1\nparent: x\n\n[x]\na: 0\n", "a: 2\n", "a: 2\nparent: x\n[x]\na: 0\n"),
    ],
)
def test_merged_configuration(current: str, stored: str, merged: str) -> None:
    assert _merged(current, stored) == merged
    assert _merged(merged, stored) == merged
