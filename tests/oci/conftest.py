# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures for the tests with the real tools of OCI."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.tests.oci.registry import Registry
from ansible_collections.lxcri.proxmox.tests.oci.tools import install


@pytest.fixture(scope="session", autouse=True)
def tools() -> None:
    """skopeo, umoci, runc, crun and the others are there."""
    install()


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where modules put temporary files that are as large as an image."""
    path = tmp_path / "scratch"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    return path


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Registry]:
    """A registry for all tests of this process. Each uses repositories of its own."""
    running = Registry.start(tmp_path_factory.mktemp("registry"))
    yield running
    running.stop()
