# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a registry says about an image, and whether that may be pulled. Pure, but for the reader that it is given."""

from __future__ import annotations

import hashlib
import json
import re
import typing as t
from dataclasses import dataclass

from ..api.errors import Failure
from .layout import CONFIG, INDEX, LAYER, LAYER_GZIP, LAYER_ZSTD, MANIFEST, MAX_JSON, Image, Json, invalid
from .reference import Platform, Reference, choose_platform

DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"

GZIP = (LAYER_GZIP, DOCKER_LAYER_GZIP)
ZSTD = (LAYER_ZSTD, DOCKER_LAYER_ZSTD)
PLAIN = (LAYER, DOCKER_LAYER)
_MAX_DEPTH = 4
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class Remote:
    """An image at a registry, for one platform.

    source_digest: what the reference means, an index or a manifest. digest: of the manifest. length: its bytes.
    """

    source_digest: str
    digest: str
    manifest: Json
    length: int

    @property
    def layers(self) -> list[Json]:
        return list(self.manifest["layers"])

    @property
    def converted(self) -> bool:
        """Whether the store has another manifest for it, as OCI and with gzip layers."""
        # Without a mediaType, which OCI admits, the configuration tells.
        media_type = self.manifest.get("mediaType")
        oci = media_type == MANIFEST or (not media_type and self.manifest["config"].get("mediaType") == CONFIG)
        return not oci or any(layer.get("mediaType") != LAYER_GZIP for layer in self.layers)

    @property
    def size(self) -> int:
        """Bytes of all blobs."""
        sizes = {str(part.get("digest")): int(part["size"]) for part in [self.manifest["config"], *self.layers]}
        return self.length + sum(sizes.values())


def sha256(data: bytes) -> str:
    """The digest of bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def resolve(reference: Reference, data: bytes, platform: Platform, read: t.Callable[[Reference], bytes]) -> Remote:
    """The image for a platform.

    data: what the registry has for the reference. read: fetches further manifests by digest.

    Raises:
        Failure: ``digest_mismatch``, ``platform_missing``, ``foreign_layers``, ``unsupported_image``,
            ``invalid_image``.
    """
    source_digest = sha256(data)
    _same(reference.digest, source_digest)
    digest, document = source_digest, _parsed(data)
    for _level in range(_MAX_DEPTH):
        if not _is_index(document):
            return Remote(source_digest, digest, checked_manifest(document), len(data))
        manifests = document["manifests"]
        if not isinstance(manifests, list) or not all(isinstance(entry, dict) for entry in manifests):
            raise invalid("its index has no list of manifests")
        chosen = choose_platform(manifests, platform)
        if chosen is None:
            raise platform_missing(str(reference), platform, platforms_of(manifests))
        digest = str(chosen.get("digest"))
        if not _DIGEST.match(digest):
            raise invalid(f"{digest!r} is no sha256 digest")
        data = read(reference.at(digest))
        _same(digest, sha256(data))
        document = _parsed(data)
    raise invalid("its indexes are nested too deep")


def platform_missing(name: str, wanted: Platform, there: t.Sequence[str]) -> Failure:
    """An image is not there for a platform."""
    return Failure(
        "platform_missing",
        f"{name} is not there for {wanted}, but for {', '.join(there) or 'none'}.",
        "Set platform to one that it has.",
        platform=str(wanted),
        platforms=list(there),
    )


def platforms_of(manifests: t.Sequence[Json]) -> list[str]:
    """The platforms of an index."""
    found = []
    for entry in manifests:
        about = entry.get("platform")
        if isinstance(about, dict):
            words = [about.get(key) for key in ("os", "architecture", "variant")]
            name = "/".join(str(word) for word in words if word)
            if name and name != "unknown/unknown":
                found.append(name)
    return found


def checked_manifest(document: Json) -> Json:
    """A manifest of what is taken for an image.

    Raises:
        Failure: ``foreign_layers``, ``unsupported_image``, ``invalid_image``.
    """
    if document.get("schemaVersion") == 1:
        raise _unsupported("its manifest is of Docker's schema 1, which has no digest for the configuration")
    media_type = document.get("mediaType")
    if media_type and media_type not in (MANIFEST, DOCKER_MANIFEST):
        raise _unsupported(f"it is a {media_type!r}")
    config, layers = document.get("config"), document.get("layers")
    if not isinstance(config, dict) or not isinstance(layers, list):
        raise invalid("its manifest has no config and layers")
    for descriptor in [config, *layers]:
        if not isinstance(descriptor, dict) or not isinstance(descriptor.get("size"), int):
            raise invalid("its manifest has a descriptor without a size")
    if config.get("mediaType") not in (CONFIG, DOCKER_CONFIG):
        raise _unsupported(f"its configuration is a {config.get('mediaType')!r}")
    for layer in layers:
        kind = layer.get("mediaType")
        if layer.get("urls") or "nondistributable" in str(kind) or "foreign" in str(kind):
            # image-spec, layer.md: non-distributable layers are deprecated, and lie at places that a stranger names.
            raise Failure(
                "foreign_layers",
                f"The layer {layer.get('digest')} does not come with the image.",
                "Such images are not taken. Build or push it with all its layers.",
                digest=layer.get("digest"),
            )
        if kind not in (*GZIP, *ZSTD, *PLAIN):
            raise _unsupported(f"a layer is a {kind!r}")
    return document


def check_conversion(remote: Remote, image: Image) -> None:
    """See that the copy is what the registry declared.

    skopeo looks at the content of layers and not at their media types, and compresses what is not. A layer that is
    declared as gzip is therefore the same afterwards, and any other is not.

    Raises:
        Failure: ``media_type_mismatch``, ``invalid_image``.
    """
    if len(remote.layers) != len(image.layers):
        raise invalid("its copy has another number of layers")
    for before, after in zip(remote.layers, image.layers):
        kept = before.get("digest") == after.get("digest")
        if kept != (before.get("mediaType") in GZIP) or after.get("mediaType") != LAYER_GZIP:
            raise media_type_mismatch(str(before.get("digest")), str(before.get("mediaType")))
    if not remote.converted and image.digest != remote.digest:
        raise invalid("its copy has another manifest")


def media_type_mismatch(digest: str, media_type: str) -> Failure:
    """A blob is something else than is declared."""
    return Failure(
        "media_type_mismatch",
        f"The layer {digest} is declared as {media_type}, and is something else.",
        "The image is damaged at its source; build it again.",
        digest=digest,
        media_type=media_type,
    )


def _same(expected: str | None, actual: str) -> None:
    if expected and expected != actual:
        raise Failure(
            "digest_mismatch",
            f"The registry answers {actual} when {expected} is asked for.",
            "It was tampered with or is damaged at the registry; push it there again.",
            digest=expected,
            actual=actual,
        )


def _is_index(document: Json) -> bool:
    if "manifests" not in document:
        return False
    if "layers" in document or "config" in document:
        # What is read in two ways is read differently by others (CVE-2021-41190).
        raise invalid("it is an index and a manifest at once")
    media_type = document.get("mediaType")
    if media_type and media_type not in (INDEX, DOCKER_INDEX):
        raise _unsupported(f"it is a {media_type!r}")
    return True


def _parsed(data: bytes) -> Json:
    try:
        value = json.loads(data) if len(data) <= MAX_JSON else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise invalid("its manifest is no JSON object")
    return value


def _unsupported(why: str) -> Failure:
    return Failure(
        "unsupported_image",
        f"This is no image that can be run: {why}.",
        "Name an image of a container (OCI or Docker).",
    )
