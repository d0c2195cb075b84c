# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The test bed itself."""

from __future__ import annotations

import json
from pathlib import Path

from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.layout import Layout
from ansible_collections.lxcri.proxmox.tests.oci.images import build, busybox_layer, index
from ansible_collections.lxcri.proxmox.tests.oci.registry import Registry


def test_an_image_goes_to_the_registry(registry: Registry, tmp_path: Path) -> None:
    image = build(busybox_layer(), config={"Cmd": ["sh"]})
    root = index(("linux/amd64", image)).write(tmp_path / "layout")
    found = Layout(str(root)).image(image.digest)
    assert found.process == {"Cmd": ["sh"]}
    registry.push(root, "a/b", "1")
    asked = registry.requests()
    assert ("PUT", "/v2/a/b/manifests/1", 201) in asked
    assert registry.requests() == []
    assert json.loads((root / "index.json").read_text())["manifests"][0]["digest"] != image.digest
