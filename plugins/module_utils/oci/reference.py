# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of images in registries. Pure."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from ..api.errors import Failure

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"

# The grammar of github.com/distribution/reference, which all registries and tools follow.
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_REGISTRY = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_REGISTRY_ALONE = re.compile(rf"{_REGISTRY}\Z")


@dataclass(frozen=True)
class Reference:
    """An image in a registry, by tag or by digest, or both: then the digest counts, and the tag is for the reader."""

    registry: str
    repository: str
    tag: str | None
    digest: str | None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.registry}/{self.repository}"

    def at(self, digest: str) -> Reference:
        """The same image by digest alone, as skopeo wants it: it refuses a tag beside a digest."""
        return Reference(self.registry, self.repository, None, digest)


def parse_reference(text: str) -> Reference:
    """The image that is meant: ``nginx``, ``docker.io/library/nginx:1.29``, ``localhost:5000/a/b@sha256:…``.

    A name without a registry is one of Docker Hub, and one of Docker Hub without a slash is in ``library``
    (``ParseNormalizedNamed`` of github.com/distribution/reference). Without tag and digest the tag is ``latest``.

    Raises:
        Failure: ``invalid_reference``.
    """
    rest, _at, digest = text.partition("@")
    if "@" in text and not _DIGEST.match(digest):
        raise _invalid(text, "a digest is sha256: and 64 hexadecimal digits in lower case")
    tag: str | None = None
    head, colon, last = rest.rpartition(":")
    if colon and "/" not in last:
        rest, tag = head, last
        if not _TAG.match(tag):
            raise _invalid(text, f"{tag!r} cannot be a tag")
    registry, slash, repository = rest.partition("/")
    if not slash or not ("." in registry or ":" in registry or registry == "localhost"):
        registry, repository = DEFAULT_REGISTRY, rest
    if registry == "index.docker.io":
        registry = DEFAULT_REGISTRY
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        repository = f"library/{repository}"
    if not _REGISTRY_ALONE.match(registry):
        raise _invalid(text, f"{registry!r} cannot be a registry")
    if not _REPOSITORY.match(repository) or len(registry) + 1 + len(repository) > 255:
        raise _invalid(text, "the repository has lower-case letters, digits, and single . _ - between them")
    if not tag and not digest:
        tag = DEFAULT_TAG
    return Reference(registry, repository, tag, digest or None)


def _invalid(text: str, why: str) -> Failure:
    return Failure(
        "invalid_reference",
        f"{text!r} is no reference to an image: {why}.",
        "Write it as registry/repository:tag or registry/repository@sha256:digest.",
        reference=text,
    )


class Platform(t.NamedTuple):
    """What an image is built for, in the words of Go (``GOOS``, ``GOARCH``)."""

    os: str
    architecture: str
    variant: str | None = None

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


# uname's words, and Go's.
_MACHINES = {
    "x86_64": ("amd64", None),
    "aarch64": ("arm64", None),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", None),
    "ppc64le": ("ppc64le", None),
    "riscv64": ("riscv64", None),
    "s390x": ("s390x", None),
    "loongarch64": ("loong64", None),
}
# Variants that are meant, or go without saying (github.com/containerd/platforms, database.go).
_NORMAL: dict[tuple[str, str | None], str | None] = {
    ("arm64", "v8"): None,
    ("amd64", "v1"): None,
    ("arm", None): "v7",
}
# What a variant may be replaced by, best first (github.com/containerd/platforms, compare.go).
_FALLBACKS: dict[tuple[str, str | None], list[str | None]] = {
    ("arm64", None): [None, "v8"],
    ("amd64", None): [None, "v1"],
    **{("amd64", f"v{level}"): [*(f"v{below}" for below in range(level, 0, -1)), None] for level in (2, 3, 4)},
    ("arm", "v8"): ["v8", "v7", "v6", "v5", None],
    ("arm", "v7"): ["v7", "v6", "v5", None],
    ("arm", "v6"): ["v6", "v5", None],
}


def parse_platform(text: str) -> Platform:
    """``linux/arm64/v8``, ``linux/amd64`` or just ``arm64``.

    Raises:
        Failure: ``invalid_option``.
    """
    parts = text.split("/")
    if len(parts) == 1:
        parts = ["linux", *parts]
    if len(parts) not in (2, 3) or not all(re.match(r"[a-z0-9_]+\Z", part) for part in parts):
        raise Failure(
            "invalid_option", f"{text!r} is no platform.", "Write it as linux/amd64 or linux/arm/v7.", platform=text
        )
    variant = parts[2] if len(parts) == 3 else None
    return Platform(parts[0], parts[1], _NORMAL.get((parts[1], variant), variant))


def platform_of(machine: str) -> Platform:
    """The platform of a machine, by what ``uname -m`` calls it.

    Raises:
        Failure: ``invalid_option``.
    """
    try:
        architecture, variant = _MACHINES[machine]
    except KeyError:
        raise Failure(
            "invalid_option", f"No images are known for a {machine}.", "Set platform.", machine=machine
        ) from None
    return Platform("linux", architecture, variant)


def choose_platform(descriptors: t.Sequence[t.Mapping[str, t.Any]], wanted: Platform) -> t.Mapping[str, t.Any] | None:
    """The entry of an image index that serves a platform; None when there is none.

    The first of the best variant wins, as everywhere (image-spec, image-index.md: the order expresses preference).
    Entries for other purposes, such as attestations with the platform ``unknown``, never match. One that does not say
    its platform may be for any: it serves when none says that it does.
    """
    variants = _FALLBACKS.get((wanted.architecture, wanted.variant), [wanted.variant])
    for variant in variants:
        for descriptor in descriptors:
            platform = descriptor.get("platform")
            if not isinstance(platform, dict):
                continue
            if (platform.get("os"), platform.get("architecture")) != (wanted.os, wanted.architecture):
                continue
            if (platform.get("variant") or None) == variant:
                return descriptor
    return next((descriptor for descriptor in descriptors if descriptor.get("platform") is None), None)
