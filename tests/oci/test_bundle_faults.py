# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""oci_bundle with layouts and archives that are not what they say."""

from __future__ import annotations

import os
import subprocess
import tarfile
import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.tests.oci.images import Built, build, busybox_layer
from ansible_collections.lxcri.proxmox.tests.oci.module import run_module
from ansible_collections.lxcri.proxmox.tests.oci.wrong import WRONG


def archived(root: Path) -> Path:
    """The archive of a layout."""
    path = root.with_suffix(".tar")
    with tarfile.open(path, "w") as archive:
        for name in ("oci-layout", "index.json", "blobs"):
            archive.add(root / name, name)
    return path


@pytest.mark.parametrize("kind", ["layout", "archive"])
@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_image(tmp_path: Path, what: str, kind: str) -> None:
    """It is refused as at a registry, nothing is left, and the next run succeeds when the image is right."""
    place = tmp_path / "made/app"
    place.parent.mkdir()

    def run(image: Built, name: str) -> dict[str, t.Any]:
        root = image.write(tmp_path / name)
        given = {kind: str(archived(root) if kind == "archive" else root)}
        return run_module("oci_bundle", {**given, "path": str(place), "process": {"args": ["sh"]}})

    make, codes = WRONG[what]
    failed = run(make(), "wrong")
    # Whether the index is one is not asked before it is known for what platform.
    expected = ("platform_missing",) if what == "an index that is a manifest" else codes
    assert failed["failure"]["code"] in expected, failed["msg"]
    assert failed["failure"]["hint"]
    assert os.listdir(place.parent) == []
    assert run(build(busybox_layer()), "right")["changed"] is True


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """A specification beside a root file system that somebody else has made, and mounted to be read only."""
    place = tmp_path / "bundle"
    (place / "rootfs").mkdir(parents=True)
    subprocess.run(["mount", "--bind", "-o", "ro", str(place), str(place)], check=True)
    params = {"path": str(place), "spec_only": True, "process": {"args": ["sh"]}}
    try:
        failed = run_module("oci_bundle", params)
        assert failed["failure"]["code"] == "store_failed", failed
        assert os.listdir(place) == ["rootfs"]
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert os.listdir(tmp_path) == ["bundle"]
    assert run_module("oci_bundle", params)["changed"] is True
