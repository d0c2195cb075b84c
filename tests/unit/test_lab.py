# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The emulated machine without emulating it: when it is built anew, and whether its tests are complete."""

from __future__ import annotations

import fcntl
import inspect
import re
import shutil
import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils import zfs
from ansible_collections.lxcri.proxmox.tests.lab import (
    layers,
    qemu,
    test_zfs_checkpoint,
    test_zfs_replica,
    test_zfs_restore,
)
from ansible_collections.lxcri.proxmox.tests.lab.machine import remove_abandoned


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the image is made of, and a processor and an emulator that are always the same."""
    copy = tmp_path / "image"
    shutil.copytree(layers.IMAGE, copy)
    monkeypatch.setattr(layers, "IMAGE", copy)
    monkeypatch.setattr(layers, "accelerator", lambda: "tcg")
    monkeypatch.setattr(qemu, "version", lambda: "10.0")
    return copy


def keys() -> dict[str, str]:
    """The directories of all layers."""
    layers.machine_directory.cache_clear()
    found = {
        "base": layers.base_directory().name,
        "container": layers.container_directory().name,
        "machine": layers.machine_directory().name,
    }
    layers.machine_directory.cache_clear()
    return found


def append(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")


def differing(change: t.Callable[[], t.Any]) -> set[str]:
    """The layers that are built anew after a change."""
    before = keys()
    change()
    after = keys()
    return {name for name, key in before.items() if after[name] != key}


@pytest.mark.parametrize(
    ("name", "anew"),
    [
        ("base", {"base", "machine"}),
        ("container", {"container", "machine"}),
        ("tree", {"machine"}),
        ("setup", {"machine"}),
        ("settle", {"machine"}),
        ("root/usr/sbin/pct", {"machine"}),
        ("root/etc/pve/nodes/pve1/lxc/101.conf", {"machine"}),
    ],
)
def test_a_change_costs_what_depends_on_it(image: Path, name: str, anew: set[str]) -> None:
    assert differing(lambda: None) == set()
    assert differing(lambda: append(image / name)) == anew


def test_what_else_the_saved_machine_depends_on(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pct = image / "root/usr/sbin/pct"
    assert differing(lambda: pct.chmod(0o644)) == {"machine"}
    assert differing(lambda: pct.rename(pct.with_name("other"))) == {"machine"}
    assert differing(lambda: monkeypatch.setattr(qemu, "version", lambda: "10.1")) == {"machine"}
    assert differing(lambda: monkeypatch.setattr(qemu, "DISKS", {**qemu.DISKS, "spare": "512M"})) == {"machine"}
    assert differing(lambda: monkeypatch.setattr(layers, "accelerator", lambda: "kvm")) == {"machine"}
    command = qemu.command
    monkeypatch.setattr(qemu, "command", lambda *arguments: [*command(*arguments), "-more"])
    assert differing(lambda: monkeypatch.setattr(qemu, "command", command)) == {"machine"}


def test_what_killed_runs_have_left(tmp_path: Path) -> None:
    """The lock of a machine that runs is held by its emulator."""
    for name in ("dead", "alive"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
        (tmp_path / name / "disk").touch()
    with (tmp_path / "alive/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_abandoned(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["alive"]
    remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == []


def literals(text: str) -> list[str]:
    """The texts in quotation marks."""
    return re.findall(r'"([^"]+)"', text)


def killed_at() -> set[str]:
    """The steps, each with its kind, at which tests of the machine kill a run."""
    found: set[str] = set()
    modules = (test_zfs_checkpoint, test_zfs_replica, test_zfs_restore)
    for test in (value for module in modules for value in vars(module).values()):
        if not inspect.isfunction(test) or not test.__name__.startswith("test_"):
            continue
        source = inspect.getsource(test)
        kills = re.findall(r'"LAB_KILL_AT": (?:f?"([^"]+)"|(step))', source)
        values = {step for several in re.findall(r"for step in \((.*?)\):", source) for step in literals(several)}
        for mark in getattr(test, "pytestmark", []):
            if mark.name == "parametrize" and mark.args[0] == "step":
                values |= {getattr(value, "values", [value])[0] for value in mark.args[1]}
        for literal, variable in kills:
            found |= {(literal or f"{{{variable}}}").replace("{step}", value) for value in values or {""}}
    return found


def test_each_step_has_a_test_that_kills_at_it() -> None:
    """Of taking, removing, restoring, cloning and replicating: what is interrupted there is finished or undone."""
    sources = [path.read_text(encoding="utf-8") for path in Path(zfs.__path__[0]).glob("*.py")]
    steps = {
        step
        for text in sources
        for step in re.findall(r'\breached\(f?"((?:present|absent|restore|clone|replica):[^"]+)"', text)
    }
    assert len(steps) > 20
    tested = killed_at()
    for step in sorted(steps):
        pattern = re.compile(re.sub(r"\\{.*?\\}", ".+", re.escape(step)))
        assert any(map(pattern.fullmatch, tested)), step
