# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that are not what they say."""

from __future__ import annotations

import gzip
import json
import subprocess
import typing as t

from ansible_collections.lxcri.proxmox.tests.oci.images import MANIFEST, Built, build, entry, index, layer, sha256

TAR = layer(entry("file", "content " * 50))
LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-q"], input=data, capture_output=True, check=True).stdout


def edited(image: Built, change: t.Callable[[dict[str, t.Any]], None], media_type: str = MANIFEST) -> Built:
    """An image with another manifest."""
    document = json.loads(image.blobs[image.digest])
    change(document)
    found = Built({digest: data for digest, data in image.blobs.items() if digest != image.digest})
    found.descriptor = found.add(json.dumps(document).encode(), media_type)
    return found


def with_layer(**values: t.Any) -> Built:
    """An image whose layer is described like this."""
    return edited(build(TAR), lambda document: document["layers"][0].update(values))


def with_config(**values: t.Any) -> Built:
    return edited(build(TAR), lambda document: document["config"].update(values))


def tampered(part: str) -> Built:
    """An image of which a blob has other content of the same size."""
    image = build(TAR)
    document = json.loads(image.blobs[image.digest])
    digest = {"layer": document["layers"][0], "config": document["config"], "manifest": image.descriptor}[part][
        "digest"
    ]
    image.blobs[digest] = image.blobs[digest][:-1] + bytes([image.blobs[digest][-1] ^ 1])
    return image


def without_blob(part: str) -> Built:
    image = build(TAR)
    document = json.loads(image.blobs[image.digest])
    del image.blobs[{"layer": document["layers"][0], "config": document["config"]}[part]["digest"]]
    return image


def bent_index() -> Built:
    """An index whose manifest is another one than it says."""
    image = build(TAR)
    both = index(("linux/amd64", image))
    both.blobs[image.digest] += b" "
    return both


def raw(data: bytes, media_type: str = MANIFEST) -> Built:
    found = Built()
    found.descriptor = found.add(data, media_type)
    return found


def both_at_once() -> Built:
    return edited(build(TAR), lambda document: document.update(manifests=[]))


# How to make each, and the codes that tell it.
WRONG: dict[str, tuple[t.Callable[[], Built], tuple[str, ...]]] = {
    "a layer with other content": (lambda: tampered("layer"), ("digest_mismatch",)),
    "a configuration with other content": (lambda: tampered("config"), ("digest_mismatch",)),
    "another manifest than the index says": (bent_index, ("digest_mismatch",)),
    "another diffID": (lambda: build(TAR, diff_ids=[sha256(b"")]), ("diff_id_mismatch",)),
    "too many diffIDs": (lambda: build(TAR, diff_ids=[sha256(TAR), sha256(TAR)]), ("invalid_image",)),
    "no diffIDs": (lambda: build(TAR, diff_ids=["none"]), ("invalid_image",)),
    "another size of a layer": (lambda: with_layer(size=7), ("size_mismatch",)),
    "a size that is none": (lambda: with_layer(size="7"), ("invalid_image",)),
    "another size of the configuration": (lambda: with_config(size=7), ("size_mismatch",)),
    "a truncated layer": (lambda: build(TAR, compress=lambda data: gzip.compress(data)[:-20]), ("layer_damaged",)),
    "a layer without its checksum": (
        lambda: build(TAR, compress=lambda data: gzip.compress(data)[:-8]),
        ("layer_damaged",),
    ),
    "a wrong checksum": (
        lambda: build(TAR, compress=lambda data: gzip.compress(data)[:-8] + bytes(8)),
        ("layer_damaged",),
    ),
    "garbage after a layer": (
        lambda: build(TAR, compress=lambda data: gzip.compress(data) + b"more"),
        ("layer_damaged",),
    ),
    "another layer after a layer": (
        lambda: build(TAR, compress=lambda data: gzip.compress(data) + gzip.compress(b"more")),
        ("diff_id_mismatch",),
    ),
    "a tar that is called gzip": (lambda: build(TAR, compress=bytes), ("media_type_mismatch",)),
    "a zstd that is called gzip": (lambda: build(TAR, compress=zstd), ("media_type_mismatch",)),
    "a gzip that is called tar": (lambda: build(TAR, layer_type=LAYER), ("media_type_mismatch",)),
    "a gzip that is called zstd": (lambda: build(TAR, layer_type=LAYER_ZSTD), ("media_type_mismatch",)),
    "a layer that is missing": (lambda: without_blob("layer"), ("blob_missing",)),
    "a configuration that is missing": (lambda: without_blob("config"), ("blob_missing",)),
    "a layer that lies elsewhere": (lambda: with_layer(urls=["https://localhost:1/"]), ("foreign_layers",)),
    "a layer that may not be distributed": (
        lambda: with_layer(mediaType="application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"),
        ("foreign_layers",),
    ),
    "a foreign layer of Docker": (
        lambda: with_layer(mediaType="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
        ("foreign_layers",),
    ),
    "an unknown layer": (lambda: with_layer(mediaType="text/plain"), ("unsupported_image",)),
    "a digest that leads elsewhere": (
        lambda: with_layer(digest="sha256:../../../../etc/passwd"),
        ("invalid_image", "copy_failed"),
    ),
    "something else than an image": (
        lambda: with_config(mediaType="application/vnd.cncf.helm.config.v1+json"),
        ("unsupported_image",),
    ),
    "a manifest of schema 1": (
        lambda: raw(json.dumps({"schemaVersion": 1, "fsLayers": [], "history": []}).encode()),
        ("unsupported_image",),
    ),
    "an unknown manifest": (lambda: raw(b'{"schemaVersion": 2, "mediaType": "a/b"}'), ("unsupported_image",)),
    "an index that is a manifest": (both_at_once, ("invalid_image",)),
    "no JSON": (lambda: raw(b"{"), ("invalid_image",)),
    "no object": (lambda: raw(b"[]"), ("invalid_image",)),
    "no layers": (lambda: raw(b'{"schemaVersion": 2}'), ("invalid_image",)),
}
