# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives that come over SSH, from a real sshd."""

from __future__ import annotations

import os
import threading
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Credentials
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.backup import Backup
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.backup_file import Copy, carry_out, plan_copy
from ansible_collections.lxcri.proxmox.tests.integration.nodes import PATIENCE, STANDINS, Node, Nodes

VOLUME = "local:backup/vzdump-lxc-201-2026_01_31-02_00_00.tar.zst"
LOGIN = Credentials(backend="openssh", host="pve1.example.com", user="root@pam")
# What the node has and this machine does not, see Node.start.
AWAY = Path("/usr/sbin/pct.pl")
CONFIG = """Host *
  HostName {address}
  Port {port}
  IdentityFile {directory}/key
  UserKnownHostsFile {directory}/known_hosts
"""


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> t.Iterator[Node]:
    """A node, as the ssh of this machine finds it."""
    nodes = Nodes(tmp_path)
    nodes.pve1.start()
    config, tool = tmp_path / "config", tmp_path / "bin/ssh"
    config.write_text(CONFIG.format(address=nodes.pve1.address, port=nodes.port, directory=tmp_path))
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {config} "$@"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    yield nodes.pve1
    nodes.stop()


def plan(source: Path, dest: Path, size: int) -> Copy:
    return plan_copy(Backup(VOLUME, 201, "pve1", size=size), {"path": str(source)}, str(dest), LOGIN)


def failure_of(copy: Copy, timeout: float = PATIENCE) -> Failure:
    """How a copy fails, which must leave nothing."""
    with pytest.raises(Failure) as caught:
        carry_out(copy, LOGIN, timeout)
    assert not os.path.exists(copy.target)
    assert list(Path(copy.target).parent.glob(".backup-*")) == []
    return caught.value


def test_an_archive_comes_whole_over_ssh(node: Node, tmp_path: Path) -> None:
    content = (STANDINS / "sbin" / AWAY.name).read_bytes()
    copy = plan(AWAY, tmp_path, len(content))
    assert (copy.here, copy.done) == (False, False)
    carry_out(copy, LOGIN, PATIENCE)
    assert (tmp_path / AWAY.name).read_bytes() == content
    assert plan(AWAY, tmp_path, len(content)).done
    assert node.logins == 1


def test_what_comes_short_or_not_at_all_is_not_left_behind(node: Node, tmp_path: Path) -> None:
    odd = tmp_path / "it's $(away).tar"
    odd.write_bytes(b"x" * 1000)
    failure = failure_of(plan(odd, tmp_path / "copy", 1001))
    assert (failure.code, "1000 bytes came, expected are 1001" in failure.message) == ("not_downloadable", True)
    failure = failure_of(plan(tmp_path / "none", tmp_path / "copy", 5))
    assert (failure.code, "No such file" in failure.message) == ("not_downloadable", True)


def test_a_connection_that_is_cut_or_refused(node: Node, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    copy = plan(pipe, tmp_path / "copy", 5)

    def cut() -> None:
        deadline = time.monotonic() + PATIENCE
        while not list(tmp_path.glob(".backup-*")) or not node.logins:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        node.cut()

    thread = threading.Thread(target=cut)
    thread.start()
    assert failure_of(copy).code == "unreachable"
    thread.join()
    assert failure_of(copy, timeout=1).code == "timeout"
    (tmp_path / "known_hosts").write_text("")
    failure = failure_of(copy)
    assert (failure.code, "Host key verification failed" in failure.message) == ("unreachable", True)
    node.stop()
    assert failure_of(copy).code == "unreachable"
    # Those that wait for somebody to write end now.
    os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
