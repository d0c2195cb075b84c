# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands that the README names: dev/demo, and the scenarios of molecule."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.tests.integration.playbook import ROOT

MARK = "LXCRI_TEST_MARK"


def run(command: list[str], mark: str, timeout: float, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, without the environment that would lead it elsewhere."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PROXMOX_", "ANSIBLE_"))}
    collections = {"ANSIBLE_COLLECTIONS_PATH": os.environ["ANSIBLE_COLLECTIONS_PATH"]}
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**kept, **collections, **environment, MARK: mark},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def marked(mark: str) -> list[str]:
    """The processes that have the mark of a run in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def test_the_demo_applies_everything_twice_and_leaves_nothing_behind(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    home = {"ANSIBLE_HOME": str(tmp_path / "ansible")}
    ran = run(["dev/demo"], str(tmp_path), 180, TMPDIR=str(temporary), **home)
    text = f"{ran.stdout}\n{ran.stderr}"
    assert ran.returncode == 0, text
    recaps = re.findall(r"^\S+\s+: ok=\d+\s+changed=(\d+)\s+unreachable=0\s+failed=0", ran.stdout, re.MULTILINE)
    # The objects of the cluster and the containers; then nothing.
    assert recaps == ["2", "0", "0"], text
    assert len(re.findall(r"^\[\d+/\d+\] \S+ created on pve\d in \d+\.\d s$", ran.stdout, re.MULTILINE)) == 14
    assert "WARNING" not in text
    assert list(temporary.iterdir()) == []
    assert marked(str(tmp_path)) == []


@pytest.mark.timeout(400)
def test_the_scenarios_of_molecule(tmp_path: Path) -> None:
    ran = run(["molecule", "test", "--all"], str(tmp_path), 300, ANSIBLE_HOME=str(tmp_path), NO_COLOR="1")
    assert ran.returncode == 0, f"{ran.stdout[-20000:]}\n{ran.stderr[-20000:]}"
    assert marked(str(tmp_path)) == []
