# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples of oci_bundle by the real ansible-playbook."""

from __future__ import annotations

import os
import tarfile
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.lxcri.proxmox.plugins.modules import oci_bundle
from ansible_collections.lxcri.proxmox.tests.oci.images import build, busybox_layer, entry
from ansible_collections.lxcri.proxmox.tests.oci.registry import PASSWORD, USER, Registry
from ansible_collections.lxcri.proxmox.tests.oci.test_artefacts import PVESH
from ansible_collections.lxcri.proxmox.tests.oci.test_image_examples import changed

MODULE = "lxcri.proxmox.oci_bundle"


@pytest.fixture
def here(registry: Registry, tmp_path: Path) -> dict[str, str]:
    """What stands for the places that the examples name, with what is expected there."""
    for tag in ("1.29", "1.30"):
        image = build(busybox_layer(entry("version", tag)), config={"Cmd": ["sh"], "Env": ["PATH=/bin"]})
        registry.push(image.write(tmp_path / tag), "bundles/library/nginx", tag)
    (tmp_path / "srv/images").mkdir(parents=True)
    (tmp_path / "srv/rootfs").mkdir()
    (tmp_path / "cache").mkdir()
    layout = build(busybox_layer(), config={"Cmd": ["sh"]}).write(tmp_path / "layout")
    with tarfile.open(tmp_path / "srv/images/web.tar", "w") as archive:
        for name in ("oci-layout", "index.json", "blobs"):
            archive.add(layout / name, name)
    return {
        "docker.io/": f"{registry.host}/bundles/",
        "/var/lib/bundles": str(tmp_path / "bundles"),
        "/srv/rootfs": str(tmp_path / "srv/rootfs"),
        "/srv/images": str(tmp_path / "srv/images"),
        "/var/lib/vz/template/cache": str(tmp_path / "cache"),
    }


def test_the_examples(
    registry: Registry, here: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in check mode, for real, and again."""
    text = oci_bundle.EXAMPLES
    for name, place in here.items():
        assert name in text
        text = text.replace(name, place)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/pvesh").write_text(PVESH)
    (tmp_path / "bin/pvesh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PVESH_LOG", str(tmp_path / "log"))
    access: dict[str, t.Any] = {"username": USER, "password": PASSWORD, "ca_path": str(registry.certificate)}
    for task in yaml.safe_load(text):
        task.pop("register", None)
        pulls = "image" in task[MODULE]
        defaults = {"store": str(tmp_path / "store"), "platform": "linux/amd64", **access} if pulls else {}
        assert changed(tmp_path, task, defaults, "--check", "--diff") == 1, task["name"]
        assert changed(tmp_path, task, defaults) == 1, task["name"]
        assert changed(tmp_path, task, defaults) == 0, task["name"]
    assert (tmp_path / "bundles/web/rootfs/version").read_text() == "1.30"
    assert (tmp_path / "bundles/tools/config.json").exists()
    (archive,) = os.listdir(tmp_path / "cache")
    assert archive.startswith("web_")
    assert archive.endswith(".tar")
