# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Freezing and thawing, with real processes and containers that are files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.commands import Completed
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs import freeze
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.freeze import Frozen, thaw_leftovers


class Containers:
    """LXC's commands. The state of each container is the content of a file, since two processes act on it."""

    def __init__(self, path: Path, *names: str) -> None:
        self.path = path
        path.mkdir()
        for name in names:
            self.put(name, "RUNNING")

    def put(self, name: str, state: str) -> None:
        (self.path / name).write_text(state, encoding="ascii")

    def states(self) -> list[str]:
        return [path.read_text(encoding="ascii") for path in sorted(self.path.iterdir())]

    def __call__(self, argv: t.Sequence[str], stdin: str | None = None, timeout: float | None = None) -> Completed:
        verb, name = argv[0], argv[2]
        if verb == "lxc-freeze" and name == "stubborn":
            return Completed(tuple(argv), 1, "", "it does not freeze")
        if verb in ("lxc-freeze", "lxc-unfreeze"):
            self.put(name, "FROZEN" if verb == "lxc-freeze" else "RUNNING")
        return Completed(tuple(argv), 0, (self.path / name).read_text(encoding="ascii") + "\n", "")


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> t.Callable[..., Containers]:
    monkeypatch.setattr(freeze, "MARKS", str(tmp_path / "marks"))
    return lambda *names: Containers(tmp_path / "containers", *names)


def marks() -> list[str]:
    return sorted(os.listdir(freeze.MARKS))


def thawed(lxc: Containers) -> bool:
    """Whether all run within some seconds, and no mark is left of it."""
    end = time.monotonic() + 10
    while (marks() or set(lxc.states()) != {"RUNNING"}) and time.monotonic() < end:
        time.sleep(0.05)
    return set(lxc.states()) == {"RUNNING"}


def test_they_stand_still_and_go_on(make: t.Callable[..., Containers]) -> None:
    lxc = make("a", "b")
    with Frozen(["a", "b"], lxc):
        assert lxc.states() == ["FROZEN", "FROZEN"]
        assert marks() == ["a", "b"]
    assert lxc.states() == ["RUNNING", "RUNNING"]
    assert marks() == []


def test_what_fails_meanwhile_thaws_them(make: t.Callable[..., Containers]) -> None:
    lxc = make("a")
    with pytest.raises(KeyError), Frozen(["a"], lxc):
        raise KeyError
    assert lxc.states() == ["RUNNING"]


def test_one_that_does_not_freeze(make: t.Callable[..., Containers]) -> None:
    """Nothing goes on, and those that were frozen before it are thawed."""
    lxc = make("a", "stubborn")
    entered = False
    with pytest.raises(Failure) as failed, Frozen(["a", "stubborn"], lxc):
        entered = True
    assert not entered
    assert failed.value.code == "freeze_failed"
    assert "stubborn: it does not freeze" in failed.value.message
    assert lxc.states()[0] == "RUNNING"
    assert marks() == []


def test_what_takes_too_long_is_thawed_unasked(make: t.Callable[..., Containers]) -> None:
    """What came of it is worth nothing then, since the containers wrote."""
    lxc = make("a")
    with pytest.raises(Failure) as failed, Frozen(["a"], lxc, limit=0.2):
        assert thawed(lxc)
    assert failed.value.code == "freeze_timeout"
    assert marks() == []


def test_what_is_frozen_already_stays_so(make: t.Callable[..., Containers]) -> None:
    lxc = make("a", "b")
    lxc.put("a", "FROZEN")
    with Frozen(["a", "b"], lxc):
        assert lxc.states() == ["FROZEN", "FROZEN"]
        assert marks() == ["b"]
    assert lxc.states() == ["FROZEN", "RUNNING"]


# Holds the container "a", and says so.
HOLDER = """
import sys, time
sys.path[:] = {path!r}
from pathlib import Path
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs import freeze
from ansible_collections.lxcri.proxmox.tests.unit.test_zfs_freeze import Containers
freeze.MARKS = {marks!r}
lxc = Containers.__new__(Containers)
lxc.path = Path({containers!r})
with freeze.Frozen(["a"], lxc):
    print("frozen", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_death_of_who_asked_thaws_them(make: t.Callable[..., Containers], number: int) -> None:
    """A signal to the whole group of processes as well: the guard is in none but its own."""
    lxc = make("a")
    code = HOLDER.format(path=sys.path, marks=freeze.MARKS, containers=str(lxc.path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"frozen\n"
        assert lxc.states() == ["FROZEN"]
        os.killpg(holder.pid, number)
        holder.wait(10)
    assert thawed(lxc)
    assert marks() == []


def test_a_guard_that_is_told_to_end_does_not(make: t.Callable[..., Containers]) -> None:
    """A machine that shuts down tells all processes; the containers are thawed even so."""
    lxc = make("a")
    with Frozen(["a"], lxc) as frozen:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(frozen._pid, number)
        time.sleep(0.1)
        assert lxc.states() == ["FROZEN"]
    assert lxc.states() == ["RUNNING"]


def test_what_a_killed_guard_has_left(make: t.Callable[..., Containers]) -> None:
    """Only those that are asked for; others may be in the hands of another run."""
    lxc = make("a", "b")
    assert thaw_leftovers(run=lxc) == []
    os.makedirs(freeze.MARKS)
    for name in ("a", "b"):
        lxc.put(name, "FROZEN")
        Path(freeze.MARKS, name).touch()
    assert thaw_leftovers(["a", "other"], lxc) == ["a"]
    assert lxc.states() == ["RUNNING", "FROZEN"]
    assert thaw_leftovers(None, lxc) == ["b"]
    assert lxc.states() == ["RUNNING", "RUNNING"]
    assert marks() == []


class Trouble(Containers):
    """Some of them do not thaw, or not as one would think."""

    def __init__(self, path: Path, *names: str) -> None:
        super().__init__(path, *names)
        self.stuck: dict[str, str] = {}

    def __call__(self, argv: t.Sequence[str], stdin: str | None = None, timeout: float | None = None) -> Completed:
        verb, name = argv[0], argv[2]
        how = self.stuck.get(name)
        if verb == "lxc-unfreeze" and how == "slow":
            raise Failure("command_timeout", "It did not end.")
        if verb == "lxc-unfreeze" and how:
            return Completed(tuple(argv), 1, "", "it does not thaw")
        if verb == "lxc-freeze" and how == "broken off":
            self.put(name, "FREEZING")
            raise Failure("command_timeout", "lxc-freeze did not end in 30 seconds.")
        if verb == "lxc-cgroup":
            assert argv[3:] == ["cgroup.freeze", "0"]
            (self.path / name).write_text("RUNNING", encoding="ascii")
            return Completed(tuple(argv), 0, "", "")
        return super().__call__(argv, stdin, timeout)


@pytest.mark.parametrize("how", ["refused", "slow"])
def test_one_that_does_not_thaw(make: t.Callable[..., Containers], tmp_path: Path, how: str) -> None:
    """The task says so, all others are thawed, and a later run tries again."""
    lxc = Trouble(tmp_path / "trouble", "a", "b", "c")
    make()
    lxc.stuck = {"a": how}
    with pytest.raises(Failure) as failed, Frozen(["a", "b", "c"], lxc):
        pass
    assert failed.value.code == "thaw_failed"
    assert failed.value.details["containers"] == ["a"]
    assert lxc.states() == ["FROZEN", "RUNNING", "RUNNING"]
    assert marks() == ["a"]
    with pytest.raises(Failure) as failed:
        thaw_leftovers(run=lxc)
    assert failed.value.code == "thaw_failed"
    lxc.stuck.clear()
    assert thaw_leftovers(run=lxc) == ["a"]
    assert lxc.states() == ["RUNNING"] * 3
    assert marks() == []


def test_freezing_that_was_broken_off(make: t.Callable[..., Containers], tmp_path: Path) -> None:
    """Releases of LXC before 6.0 do not thaw what is not frozen yet."""
    lxc = Trouble(tmp_path / "trouble", "a", "b")
    make()
    lxc.stuck = {"b": "broken off"}
    with pytest.raises(Failure) as failed, Frozen(["a", "b"], lxc):
        pass
    assert failed.value.code == "freeze_failed"
    assert "30 seconds" in failed.value.message
    assert lxc.states() == ["RUNNING"] * 2
    assert marks() == []


def test_freezing_counts_for_the_limit(make: t.Callable[..., Containers], tmp_path: Path) -> None:
    """The first of many stands still while the others are frozen."""

    class Slow(Containers):
        def __call__(self, argv: t.Sequence[str], stdin: str | None = None, timeout: float | None = None) -> Completed:
            if argv[0] == "lxc-freeze":
                time.sleep(0.2)
            return super().__call__(argv, stdin, timeout)

    names = [f"n{number}" for number in range(20)]
    lxc = Slow(tmp_path / "slow", *names)
    make()
    with pytest.raises(Failure) as failed, Frozen(names, lxc, limit=0.5):
        pass
    assert failed.value.code == "freeze_failed"
    assert set(lxc.states()) == {"RUNNING"}
    assert marks() == []
