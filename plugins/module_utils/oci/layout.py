# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads OCI image layouts (image-spec, image-layout.md), and trusts nothing that it reads."""

from __future__ import annotations

import hashlib
import json
import os
import re
import typing as t
from dataclasses import dataclass

from ..api.errors import Failure

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
REF_NAME = "org.opencontainers.image.ref.name"

# Manifests, indexes and configurations are small; registries accept manifests up to 4 MiB.
MAX_JSON = 8 << 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")

Json = dict[str, t.Any]


@dataclass(frozen=True)
class Image:
    """An image for one platform.

    digest: of the manifest. layers: the descriptors, the lowest first. config: the image configuration.
    """

    digest: str
    manifest: Json
    config: Json

    @property
    def layers(self) -> list[Json]:
        return list(self.manifest["layers"])

    @property
    def process(self) -> Json:
        """What a container of it runs: ``Entrypoint``, ``Cmd``, ``Env``, ``User``, ``WorkingDir`` …"""
        return dict(self.config.get("config") or {})


class Layout:
    """An image layout in a directory. Its blobs may lie somewhere else."""

    def __init__(self, root: str, blobs: str | None = None) -> None:
        self.root = root
        self.blobs = blobs or os.path.join(root, "blobs")

    def blob(self, digest: str) -> str:
        """The path of a blob, whether it is there or not.

        Raises:
            Failure: ``invalid_image``; only sha256 is admitted.
        """
        if not isinstance(digest, str) or not _DIGEST.match(digest):
            raise invalid(f"{digest!r} is no sha256 digest")
        return os.path.join(self.blobs, "sha256", digest[7:])

    def index(self) -> Json:
        """``index.json``.

        Raises:
            Failure: ``invalid_image``.
        """
        path = os.path.join(self.root, "index.json")
        try:
            with open(path, "rb") as file:
                return _parsed(file.read(MAX_JSON + 1), path)
        except (FileNotFoundError, NotADirectoryError):
            raise invalid(f"{self.root} is no OCI image layout, it has no index.json", path=self.root) from None

    def entries(self) -> list[Json]:
        """The descriptors of the index.

        Raises:
            Failure: ``invalid_image``.
        """
        entries = self.index().get("manifests")
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise invalid(f"the index of {self.root} has no list of manifests", path=self.root)
        return entries

    def read(self, digest: str, size: int | None = None) -> Json:
        """A JSON blob whose digest, and size if it is given, are right.

        Raises:
            Failure: ``blob_missing``, ``digest_mismatch``, ``size_mismatch``, ``invalid_image``.
        """
        path = self.blob(digest)
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_JSON + 1)
        except FileNotFoundError:
            raise Failure(
                "blob_missing", f"The blob {digest} is missing.", "Pull the image again.", digest=digest
            ) from None
        actual = "sha256:" + hashlib.sha256(data).hexdigest()
        if actual != digest:
            raise Failure(
                "digest_mismatch",
                f"The blob {digest} has other content: its digest is {actual}.",
                "It was tampered with or is damaged; pull the image again.",
                digest=digest,
                actual=actual,
            )
        if size is not None and size != len(data):
            raise Failure(
                "size_mismatch",
                f"The blob {digest} has {len(data)} bytes where {size} are declared.",
                "The image is damaged at its source.",
                digest=digest,
                size=len(data),
                declared=size,
            )
        return _parsed(data, digest)

    def image(self, digest: str) -> Image:
        """The image whose manifest has this digest; its manifest and configuration are verified, its layers are not.

        Raises:
            Failure: as :meth:`read`, and ``invalid_image``.
        """
        manifest = self.read(digest)
        layers, config = manifest.get("layers"), manifest.get("config")
        if not isinstance(layers, list) or not isinstance(config, dict):
            raise invalid(f"{digest} is no manifest of an image", digest=digest)
        for descriptor in [config, *layers]:
            if not isinstance(descriptor, dict) or not isinstance(descriptor.get("size"), int):
                raise invalid(f"the manifest {digest} has a descriptor without a size", digest=digest)
            self.blob(descriptor.get("digest", ""))
        return Image(digest, manifest, self.read(config["digest"], config["size"]))


def _parsed(data: bytes, name: str) -> Json:
    if len(data) > MAX_JSON:
        raise invalid(f"{name} is larger than {MAX_JSON >> 20} MiB")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise invalid(f"{name} is no JSON") from None
    if not isinstance(value, dict):
        raise invalid(f"{name} is no JSON object")
    return value


def invalid(why: str, **details: t.Any) -> Failure:
    """An image that does not follow its specification."""
    return Failure("invalid_image", f"The image is not valid: {why}.", "Build or pull it again.", **details)
