# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry inside the test's process: what skopeo would say of it, and what the nodes of the simulator pull."""

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import image_source
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.reference import Reference
from ansible_collections.lxcri.proxmox.tests.oci.images import Built
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator


class Hub:
    """Images by reference. asked: what the modules wanted to know; a tag counts once for its manifest."""

    def __init__(self, cluster: Simulator) -> None:
        self._cluster = cluster
        self._images: dict[str, Built] = {}
        self._blobs: dict[str, bytes] = {}
        self.asked: list[str] = []

    def push(self, reference: str, image: Built, to_nodes: Built | None = None) -> str:
        """Put an image there; its digest. to_nodes: what the nodes are given instead."""
        self._images[reference] = image
        self._blobs.update(image.blobs)
        config = _config(to_nodes or image)
        self._cluster.call("publish", reference, config)
        return image.digest

    def manifest(self, reference: Reference) -> bytes:
        self.asked.append(f"manifest {reference}")
        if reference.digest in self._blobs:
            return self._blobs[str(reference.digest)]
        if str(reference) not in self._images:
            raise Failure("image_missing", f"{reference}: manifest unknown.", "Check the name and the tag.")
        image = self._images[str(reference)]
        return image.blobs[image.digest]

    def config(self, reference: Reference) -> bytes:
        self.asked.append(f"config {reference}")
        manifest = json.loads(self._blobs[str(reference.digest)])
        return self._blobs[manifest["config"]["digest"]]

    def has_login(self, _reference: Reference) -> bool:
        return False


def _config(image: Built) -> t.Any:
    document = json.loads(image.blobs[image.digest])
    manifests = document.get("manifests")
    document = json.loads(image.blobs[manifests[0]["digest"]]) if manifests else document
    return json.loads(image.blobs[document["config"]["digest"]])


@pytest.fixture
def hub(cluster: Simulator, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A registry with nothing in it."""
    made = Hub(cluster)
    monkeypatch.setattr(image_source.Inspector, "manifest", made.manifest)
    monkeypatch.setattr(image_source.Inspector, "config", made.config)
    return made
