# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints of what is not on ZFS, which Proxmox takes: interrupted, and removed."""

from __future__ import annotations

import fcntl
import itertools
import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.commands import Completed
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs import checkpoint as module
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs import host as hosts
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.checkpoint import known, prune, remove, take
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.restore import restore
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.store import Store

VOLUME = "other:vm-110-disk-0"
CONFIG = f"hostname: x\nrootfs: {VOLUME},size=1G\n"


class KilledError(BaseException):
    """The process ends here."""


class Node:
    """A node with the container 110, and the commands of Proxmox that act on it. kill: before or after one of them.

    meanwhile: what another run does before the command by which the checkpoint is taken has ended.
    """

    kind = "vzdump"
    meanwhile: t.Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, path: Path, snapshots: bool) -> None:
        self.path = path
        self.feature = "1" if snapshots else "0"
        self.numbers = itertools.count(1)
        self.kill: tuple[str, str] | None = None
        self.broken: str | None = None
        self.said: list[str] = []
        self.store = Store(str(path / "state"))
        self.conf = path / "lxc/110.conf"
        self.conf.parent.mkdir()
        self.dump = path / "dump"
        self.dump.mkdir()
        self.conf.write_text(CONFIG, encoding="utf-8")
        (path / "storage.cfg").write_text("rbd: other\n\tpool rbd\n", encoding="utf-8")
        self.host = hosts.ProxmoxHost(hosts.Zfs(self), self)
        self.host.lock_pattern = str(path / "{}.lock")

    def __call__(self, argv: t.Sequence[str], stdin: str | None = None, timeout: float | None = None) -> Completed:
        log = None
        if argv[0] == "sh":
            log, argv = Path(argv[3]), argv[4:]
        if self.kill == ("before", argv[0]):
            raise KilledError
        self.said.append(" ".join(argv))
        if self.broken == argv[0]:
            return Completed(tuple(argv), 1, "", "no space left")
        out = getattr(self, argv[0].replace("-", "_"))(list(argv)) or ""
        if log:
            log.write_text(out, encoding="utf-8")
            out = ""
            self.meanwhile()
        if self.kill == ("after", argv[0]):
            raise KilledError
        return Completed(tuple(argv), 0, out, "")

    def pvesh(self, _argv: list[str]) -> str:
        return f'{{"hasFeature":{self.feature}}}'

    def lxc_info(self, _argv: list[str]) -> str:
        return "STOPPED"

    def rm(self, argv: list[str]) -> None:
        for name in argv[3:]:
            Path(name).unlink(missing_ok=True)

    def locked(self) -> None:
        """As Proxmox's own commands do."""
        with Path(self.host.lock_pattern.format("110")).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def pct(self, argv: list[str]) -> None:
        self.locked()
        text = self.conf.read_text(encoding="utf-8")
        section = f"\n[{argv[3]}]\n#Checkpoint of lxcri.proxmox\n{CONFIG}"
        if argv[1] == "snapshot":
            assert f"[{argv[3]}]" not in text
            text += section
        elif argv[1] == "delsnapshot":
            assert section in text
            text = text.replace(section, "")
        else:
            text = CONFIG + text[len(hosts.top_section(text)) :]
        self.conf.write_text(text, encoding="utf-8")

    def vzdump(self, _argv: list[str]) -> str:
        self.locked()
        archive = self.dump / f"vzdump-lxc-110-{next(self.numbers)}.tar.zst"
        (archive.with_suffix(".dat") if self.kill == ("after", "vzdump") else archive).touch()
        return f"INFO: creating {self.kind} archive '{archive}'\n"

    def made(self) -> int:
        """How many snapshots and backups Proxmox has of it, begun ones as well."""
        return self.conf.read_text(encoding="utf-8").count("[") + len(list(self.dump.glob("vzdump-*")))

    def complete(self) -> dict[str, bool]:
        _datasets, sets = known(self.host, [self.host.container("110")], self.store)
        return {checkpoint.name: checkpoint.complete for checkpoint in sets["110"]}


@pytest.fixture(params=[True, False], ids=["snapshot", "vzdump"])
def node(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(hosts, "PVE", str(tmp_path))
    return Node(tmp_path, request.param)


def test_taken_and_removed(node: Node) -> None:
    assert take(node.host, node.store, ["110"], "one")[0].changed
    assert not take(node.host, node.store, ["110"], "one")[0].changed
    assert node.complete() == {"one": True}
    assert node.made() == 1
    remove(node.host, node.store, ["110"], "one", check_mode=False)
    assert node.complete() == {}
    assert node.made() == 0


def test_what_fails_leaves_nothing(node: Node) -> None:
    node.broken = "pct" if node.feature == "1" else "vzdump"
    with pytest.raises(Failure) as failed:
        take(node.host, node.store, ["110"], "one")
    assert failed.value.code == "task_failed"
    assert "no space left" in failed.value.message
    assert (node.complete(), node.made()) == ({}, 0)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("after", ["take it", "take another", "remove it"])
def test_killed(node: Node, when: str, after: str) -> None:
    """It is never offered, and goes with the next checkpoint, as on ZFS, or by its name."""
    node.kill = (when, "pct" if node.feature == "1" else "vzdump")
    with pytest.raises(KilledError):
        take(node.host, node.store, ["110"], "one")
    node.kill = None
    assert node.complete() == {"one": False}
    for name, code in (("one", "checkpoint_incomplete"), (None, "checkpoint_missing")):
        with pytest.raises(Failure) as failed:
            restore(node.host, node.store, ["110"], name)
        assert failed.value.code == code
    if after == "remove it":
        assert remove(node.host, node.store, ["110"], "one", check_mode=False)[0].changed
        assert (node.complete(), node.made()) == ({}, 0)
        return
    name = "one" if after == "take it" else "two"
    take(node.host, node.store, ["110"], name)
    assert (node.complete(), node.made()) == ({name: True}, 1)


def test_two_runs_at_once(node: Node) -> None:
    """What is pending is not taken for what a killed run has left, before Proxmox locks the container and after."""

    def another() -> None:
        for work in (
            lambda: take(node.host, node.store, ["110"], "two"),
            lambda: remove(node.host, node.store, ["110"], "one", check_mode=False),
        ):
            with pytest.raises(Failure) as failed:
                work()
            assert failed.value.code == "restore_running"

    node.meanwhile = another
    assert take(node.host, node.store, ["110"], "one")[0].changed
    assert (node.complete(), node.made()) == ({"one": True}, 1)


def test_what_somebody_else_took_meanwhile_stays(node: Node) -> None:
    """Of that name, but not for a checkpoint; and while a command goes on by itself, nothing is removed."""
    node.kill = ("before", "pct" if node.feature == "1" else "vzdump")
    with pytest.raises(KilledError):
        take(node.host, node.store, ["110"], "one")
    node.kill = None
    node.conf.write_text(f"lock: backup\n{CONFIG}", encoding="utf-8")
    for work in (take, lambda *args: remove(*args, check_mode=False)):
        with pytest.raises(Failure) as failed:
            work(node.host, node.store, ["110"], "one")
        assert failed.value.code == "locked"
    theirs = f"{CONFIG}\n[one]\n#theirs\n{CONFIG}"
    node.conf.write_text(theirs, encoding="utf-8")
    with pytest.raises(Failure) as failed:
        take(node.host, node.store, ["110"], "one")
    assert failed.value.code == "name_taken"
    remove(node.host, node.store, ["110"], "one", check_mode=False)
    assert node.conf.read_text(encoding="utf-8") == theirs


WAY = {"safety": False, "config": "restore"}


@pytest.mark.parametrize(
    "options",
    [{}, {"safety": False}, {"config": "restore"}, {"config": "restore", "mode": "clone"}],
)
def test_what_proxmox_cannot_do(node: Node, options: dict[str, t.Any]) -> None:
    """It keeps nothing of the state from before, and puts the configuration back: nobody gets that unasked."""
    take(node.host, node.store, ["110"], "one")
    node.said.clear()
    for check_mode in (True, False):
        with pytest.raises(Failure) as failed:
            restore(node.host, node.store, ["110"], "one", **options, lose=[VOLUME], check_mode=check_mode)
        assert failed.value.code == "invalid_option"
        assert failed.value.details["container"] == "110"
    assert not [words for words in node.said if words.startswith("pct ")]


def test_what_proxmox_restores(node: Node, tmp_path: Path) -> None:
    """With the firewall rules, which a rollback of Proxmox leaves as they are."""
    rules = tmp_path / "firewall/110.fw"
    rules.parent.mkdir()
    rules.write_text("then", encoding="utf-8")
    take(node.host, node.store, ["110"], "one")
    rules.write_text("now", encoding="utf-8")
    before = node.conf.read_text(encoding="utf-8")
    node.conf.write_text(before.replace("hostname: x", "hostname: y", 1), encoding="utf-8")
    planned = restore(node.host, node.store, ["110"], "one", **WAY, lose=[VOLUME], check_mode=True)[0]
    assert rules.read_text(encoding="utf-8") == "now"
    node.said.clear()
    assert restore(node.host, node.store, ["110"], "one", **WAY, lose=[VOLUME])[0]["plan"] == planned["plan"]
    assert [change["key"] for change in planned["plan"]][-2:] == ["config", "firewall"]
    assert node.conf.read_text(encoding="utf-8").startswith(CONFIG)
    assert rules.read_text(encoding="utf-8") == "then"
    assert [words.split()[:2] for words in node.said if words.startswith("pct ")] == [
        ["pct", "rollback" if node.feature == "1" else "restore"]
    ]


def lost_by_proxmox(node: Node, name: str) -> None:
    """Somebody removes the snapshot or the backup by Proxmox's own means."""
    _datasets, sets = known(node.host, [node.host.container("110")], node.store)
    archive = next(checkpoint.archive for checkpoint in sets["110"] if checkpoint.name == name)
    if archive:
        Path(archive).unlink()
    else:
        node.pct(["pct", "delsnapshot", "110", name])


@pytest.mark.parametrize("end", ["take", "remove"])
def test_what_proxmox_has_no_more(node: Node, end: str) -> None:
    """It is no checkpoint any more, and goes without a word of Proxmox."""
    for name in ("one", "two", "three", "four"):
        take(node.host, node.store, ["110"], name)
    lost_by_proxmox(node, "three")
    lost_by_proxmox(node, "four")
    assert node.complete() == {"one": True, "two": True, "three": False, "four": False}
    assert not prune(node.host, node.store, ["110"], {"last": 2}, prefix="")[0].changed
    with pytest.raises(Failure) as failed:
        restore(node.host, node.store, ["110"], "four", **WAY, lose=[VOLUME])
    assert failed.value.code == "checkpoint_incomplete"
    if end == "remove":
        assert remove(node.host, node.store, ["110"], "four", check_mode=False)[0].changed
        assert node.complete() == {"one": True, "two": True, "three": False}
    else:
        assert take(node.host, node.store, ["110"], "four")[0].changed
        assert node.complete() == {"one": True, "two": True, "four": True}
    assert node.made() == len([whole for whole in node.complete().values() if whole])


def test_a_storage_that_is_away(node: Node) -> None:
    """Nothing is known of its backups, so none of them is taken for removed, nor is one restored."""
    take(node.host, node.store, ["110"], "one")
    if node.feature == "1":
        return
    node.dump.rename(node.path / "away")
    assert node.complete() == {"one": True}
    for check_mode in (True, False):
        with pytest.raises(Failure) as failed:
            restore(node.host, node.store, ["110"], "one", **WAY, lose=[VOLUME], check_mode=check_mode)
        assert failed.value.code == "volume_missing"
    with pytest.raises(Failure) as failed:
        remove(node.host, node.store, ["110"], "one", check_mode=False)
    assert failed.value.code == "volume_missing"
    (node.path / "away").rename(node.dump)
    assert remove(node.host, node.store, ["110"], "one", check_mode=False)[0].changed
    assert node.made() == 0


@pytest.fixture
def backups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(hosts, "PVE", str(tmp_path))
    monkeypatch.setattr(module, "PVE", str(tmp_path))
    monkeypatch.setattr(module, "VZDUMP_CONF", str(tmp_path / "vzdump.conf"))
    return Node(tmp_path, snapshots=False)


def test_other_backups_stay(backups: Node) -> None:
    """By itself vzdump removes older ones, by the rules of the storage."""
    take(backups.host, backups.store, ["110"], "one")
    assert "vzdump 110 --compress zstd --mode stop --remove 0" in backups.said


@pytest.mark.parametrize("check_mode", [True, False])
def test_a_backup_server(backups: Node, check_mode: bool) -> None:
    """Its backups are no files."""
    (backups.path / "vzdump.conf").write_text("# x\nstorage: pbs1\n", encoding="utf-8")
    with (backups.path / "storage.cfg").open("a", encoding="utf-8") as file:
        file.write("\npbs: pbs1\n\tdatastore x\n")
    with pytest.raises(Failure) as failed:
        take(backups.host, backups.store, ["110"], "one", check_mode=check_mode)
    assert failed.value.code == "no_method"
    assert "pbs1" in failed.value.message
    assert not [words for words in backups.said if words.startswith("vzdump")]


def test_an_archive_that_is_nowhere(backups: Node) -> None:
    """Whatever Proxmox has made, it could not be restored."""
    backups.kind = "another"
    with pytest.raises(Failure) as failed:
        take(backups.host, backups.store, ["110"], "one")
    assert failed.value.code == "task_failed"
    assert backups.complete() == {}


def test_all_that_a_backup_replaces(backups: Node) -> None:
    """A restore of Proxmox destroys unused and pending volumes as well."""
    take(backups.host, backups.store, ["110"], "one")
    more = "unused0: other:old\nmp0: /srv,mp=/srv\nmp1: other:data,mp=/data\n\n[pve:pending]\nmp2: other:new,mp=/new\n"
    backups.conf.write_text(f"{CONFIG}{more}\n[snap]\nmp3: other:then,mp=/then\n", encoding="utf-8")
    with pytest.raises(Failure) as failed:
        restore(backups.host, backups.store, ["110"], "one", **WAY)
    assert failed.value.code == "would_lose_data"
    assert failed.value.details["lose"] == ["other:data", "other:new", "other:old", VOLUME]
