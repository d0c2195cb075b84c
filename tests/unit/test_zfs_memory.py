# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The memory of processes: what is refused before anything is touched, and what fails afterwards."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.commands import Completed
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs import memory, restore
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.host import Container, LxcHost, Zfs

CONFIG = "lxc.console.path = none\nlxc.tty.max = 0\n"
WITH_CONSOLE = "lxc.console.path = /dev/pts/3\nlxc.tty.max = 2\n"


class Node:
    """Commands of a node. Those in ``fails`` say no, those in ``lacks`` are not installed."""

    def __init__(self, pid: str = "4242", fails: str = "", lacks: str = "") -> None:
        self.pid, self.fails, self.lacks = pid, fails, lacks
        self.calls: list[str] = []
        self.running = False

    def __call__(self, argv: t.Sequence[str], stdin: str | None = None, timeout: float | None = None) -> Completed:
        # What is started by a shell, for its streams, is the fourth word of it.
        name = argv[3] if argv[0] == "sh" else argv[0]
        self.calls.append(name)
        if name == self.lacks:
            raise Failure("command_missing", f"There is no command {name} on this machine.")
        if name == self.fails:
            return Completed(tuple(argv), 1, "", "Error: the kernel cannot do it")
        self.running = self.running or name == "lxc-start"
        state = "RUNNING" if self.running else "STOPPED"
        return Completed(tuple(argv), 0, self.pid if "-pH" in argv else state, "")


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The files that are read: a container whose init is not systemd, without console and terminals."""
    there = {"/proc/4242/comm": "init\n", "/var/lib/lxc/103/config": CONFIG}
    monkeypatch.setattr(memory, "read_text", there.get)
    return there


def reasons(node: Node, running: bool = True, method: str = "zfs") -> list[str]:
    with pytest.raises(Failure) as failed:
        memory.require(node, Container("103", (), running), method)
    assert failed.value.code == "memory_unsupported"
    assert failed.value.details["container"] == "103"
    return t.cast("list[str]", failed.value.details["reasons"])


def test_what_can_be_dumped(files: dict[str, str]) -> None:
    node = Node()
    memory.require(node, Container("103", (), True), "zfs")
    assert {"lxc-checkpoint", "criu"} <= set(node.calls)


def test_each_reason_against_it(files: dict[str, str]) -> None:
    assert reasons(Node(fails="criu")) == ["'criu check' fails: Error: the kernel cannot do it"]
    for tool in ("criu", "lxc-checkpoint"):
        assert reasons(Node(lacks=tool)) == [f"there is no {tool} on this machine"]
    assert reasons(Node(), running=False) == ["it does not run"]
    assert reasons(Node(), method="snapshot") == ["the volumes are not all on ZFS"]
    assert reasons(Node(pid="")) == ["its first process is not found"]


def test_reasons_are_told_together(files: dict[str, str]) -> None:
    files.update({"/proc/4242/comm": "systemd\n", "/var/lib/lxc/103/config": WITH_CONSOLE})
    found = reasons(Node(fails="criu"))
    assert [word for word in ("systemd", "console", "terminals", "criu check") if word in "; ".join(found)] == [
        "systemd",
        "console",
        "terminals",
        "criu check",
    ]


def test_a_dump_that_fails_says_why(files: dict[str, str], tmp_path: Path) -> None:
    files[f"{tmp_path}/memory/dump.log"] = "(1) fine\n(2) Error (criu/x.c:1): cannot dump it\n(3) more\n"
    with pytest.raises(Failure) as failed:
        memory.dump(Node(fails="lxc-checkpoint"), Container("103", (), True), str(tmp_path))
    assert failed.value.code == "memory_failed"
    assert "cannot dump it" in failed.value.message
    assert failed.value.details == {"container": "103", "log": f"{tmp_path}/memory/dump.log"}


@pytest.mark.parametrize("works", [True, False])
def test_without_its_memory_it_starts_from_the_disk(
    files: dict[str, str], works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails is told, and the container runs even so."""
    node = Node(fails="" if works else "lxc-checkpoint")
    host = LxcHost(Zfs(node), node)
    monkeypatch.setattr(host, "container", lambda name: Container(name, (), node.running))
    entry = {"running": True, "memory": "/state/103/one"}
    if works:
        restore._start_again(host, "103", entry)
    else:
        with pytest.raises(Failure) as failed:
            restore._start_again(host, "103", entry)
        assert failed.value.code == "memory_failed"
    assert ("lxc-start" in node.calls) == (not works)
