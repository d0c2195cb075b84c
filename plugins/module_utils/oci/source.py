# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a bundle comes from: an image of the store, a layout, an archive or a root file system."""

from __future__ import annotations

import hashlib
import json
import os
import platform as machine
import re
import shutil
import tarfile
import typing as t
from dataclasses import dataclass

from ..api.errors import Failure
from .image import ensure_image, pull_options
from .layout import MAX_JSON, REF_NAME, Image, Json, Layout, invalid
from .reference import Platform, choose_platform, parse_platform, parse_reference, platform_of
from .remote import checked_manifest
from .runtime_spec import Process, process_of
from .store import Store
from .unpack import Staging, convert, needs_conversion, skopeo_directory, writing
from .verify import verify_image

KINDS = ("image", "layout", "archive", "rootfs")
_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MAX_DEPTH = 4
# As containerd annotates it, and docker save since Docker 25.
_FULL_NAME = "io.containerd.image.name"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

# Makes an image readable, in a staging directory where that is needed.
Prepare = t.Callable[[Staging], tuple[Layout, Image]]


@dataclass(frozen=True)
class Source:
    """What a bundle is made of.

    name: for file names and people. identity: what changes when the content does: the digest of the manifest, of the
    configuration for an archive of Docker, the path for a root file system. config: that of the image; None when it
    is not known, because it is not there yet. changed: whether it was, or would be, pulled. rootfs: a directory that
    is used as it is.
    """

    kind: str
    name: str
    identity: str
    config: Json | None
    prepare: Prepare | None
    changed: bool = False
    platform: Platform | None = None
    rootfs: str | None = None

    @property
    def process(self) -> Process | None:
        """What the image says about its process.

        Raises:
            Failure: ``invalid_image``, ``unsafe_config``.
        """
        return None if self.config is None else process_of(self.config)


def find_source(params: t.Mapping[str, t.Any], check_mode: bool) -> Source | None:
    """The source that is declared; None when none is.

    Raises:
        Failure: ``invalid_option``, ``source_missing``, ``image_not_found``, ``platform_missing``, and what
            :mod:`image` and :mod:`layout` raise.
    """
    given = [kind for kind in KINDS if params.get(kind)]
    if len(given) > 1:
        raise Failure("invalid_option", f"{' and '.join(given)} exclude each other.", "Give one of them.")
    if not given:
        return None
    wanted = parse_platform(params["platform"]) if params.get("platform") else platform_of(machine.machine())
    if given == ["image"]:
        return _from_store(params, check_mode)
    if given == ["layout"]:
        return _from_layout(params["layout"], wanted)
    if given == ["archive"]:
        return _from_archive(params["archive"], wanted)
    return _from_rootfs(params["rootfs"])


def _from_store(params: t.Mapping[str, t.Any], check_mode: bool) -> Source:
    ensured = ensure_image(params["image"], pull_options(params), check_mode)
    layout = Layout(params["store"])
    image = ensured.image

    def prepare(staging: Staging) -> tuple[Layout, Image]:
        # Until it is unpacked nobody prunes what it is made of.
        staging.hold(Store(params["store"], params["timeout"]).shared())
        return _readable(staging, layout, layout.image(ensured.digest), None)

    tag = f"-{ensured.reference.tag}" if ensured.reference.tag else ""
    return Source(
        "image",
        f"{ensured.reference.repository.rpartition('/')[2]}{tag}",
        ensured.identity,
        image.config if image else None,
        prepare,
        ensured.changed,
        ensured.platform,
    )


def _readable(staging: Staging, layout: Layout, image: Image, platform: Platform | None) -> tuple[Layout, Image]:
    """The image such that umoci, and Proxmox, read it."""
    if not needs_conversion(image):
        return layout, image
    converted, result = convert(staging, f"dir:{skopeo_directory(staging.work, layout, image)}", platform)
    return converted, verify_image(converted, result.digest)


def split_name(text: str) -> tuple[str, str | None]:
    """A path, and after a colon the name of an image in it. A path that is there as a whole has no name."""
    if os.path.lexists(text) or ":" not in text:
        return text, None
    # Names of images in archives of Docker have colons and slashes, and paths may have colons too.
    parts = text.split(":")
    for count in range(1, len(parts)):
        head = ":".join(parts[:count])
        if os.path.lexists(head):
            return head, ":".join(parts[count:])
    head, _colon, tail = text.rpartition(":")
    return head, tail


def _from_layout(text: str, wanted: Platform) -> Source:
    path, tag = split_name(text)
    if not os.path.isdir(path):
        raise _missing(path)
    layout = Layout(os.path.abspath(path))
    found = choose_entry(layout.entries(), tag, path)
    digest = choose_manifest(found, layout.read, wanted)["digest"]
    checked_manifest(layout.read(digest))
    image = layout.image(digest)

    def prepare(staging: Staging) -> tuple[Layout, Image]:
        return _readable(staging, layout, verify_image(layout, image.digest), None)

    name = os.path.basename(layout.root) + (f"-{tag}" if tag else "")
    return Source("layout", name, image.digest, image.config, prepare, platform=wanted)


def choose_entry(entries: t.Sequence[Json], tag: str | None, path: str) -> Json:
    """The entry of an index that has this name; without a name the only one, or else ``latest``.

    Raises:
        Failure: ``image_not_found``.
    """
    if tag is None and len(entries) == 1:
        return entries[0]
    wanted = tag or "latest"
    found: dict[t.Any, Json] = {}
    names = []
    for entry in entries:
        annotations = entry.get("annotations")
        notes = annotations if isinstance(annotations, dict) else {}
        # Docker notes the tag alone beside it.
        full, name = notes.get(_FULL_NAME), notes.get(REF_NAME)
        names.append(full or name)
        if wanted == name or (isinstance(full, str) and _full(wanted) == _full(full)):
            found.setdefault(full, entry)
    if len(found) == 1:
        return next(iter(found.values()))
    raise Failure(
        "image_not_found",
        f"{path} has {'several images' if found else 'no image'} named {wanted!r}.",
        "Give one of its names after a colon.",
        path=path,
        names=[name for name in names if name],
    )


def _full(name: str) -> str:
    """A name as it is in full; what is none stays."""
    try:
        return str(parse_reference(name))
    except Failure:
        return name


def choose_manifest(entry: Json, read: t.Callable[[str], Json], wanted: Platform) -> Json:
    """The descriptor of the manifest for a platform.

    Raises:
        Failure: ``platform_missing``, ``invalid_image``, and what reading raises.
    """
    for _level in range(_MAX_DEPTH):
        document = read(entry.get("digest", ""))
        manifests = document.get("manifests")
        if manifests is None and entry.get("mediaType") not in _INDEXES:
            return entry
        if not isinstance(manifests, list) or not all(isinstance(below, dict) for below in manifests):
            raise invalid("its index has no list of manifests")
        chosen = choose_platform(manifests, wanted)
        if chosen is None:
            raise Failure(
                "platform_missing",
                f"The image is not there for {wanted}.",
                "Set platform to one that it has.",
                platform=str(wanted),
            )
        entry = dict(chosen)
    raise invalid("its indexes are nested too deep")


def _from_archive(text: str, wanted: Platform) -> Source:
    path, tag = split_name(text)
    if not os.path.isfile(path):
        raise _missing(path)
    try:
        with tarfile.open(path) as archive:
            found = _archived(archive, tag, path, wanted)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise invalid(f"{path} is no tar archive ({error})", path=path) from None
    identity, config, manifest = found

    def prepare(staging: Staging) -> tuple[Layout, Image]:
        if manifest:
            layout = _extracted(path, [identity, *(part["digest"] for part in _parts(manifest))], staging)
            return _readable(staging, layout, verify_image(layout, identity), None)
        # skopeo splits at colons, which a path may have.
        link = os.path.join(staging.work, "archive.tar")
        os.symlink(os.path.abspath(path), link)
        layout, image = convert(staging, f"docker-archive:{link}{':' + tag if tag else ''}", wanted)
        return layout, verify_image(layout, image.digest)

    name = os.path.basename(path).partition(".")[0] + (f"-{tag}" if tag else "")
    return Source("archive", name, identity, config, prepare, platform=wanted)


def _parts(manifest: Json) -> list[Json]:
    return [manifest["config"], *manifest["layers"]]


def _extracted(path: str, digests: t.Sequence[str], staging: Staging) -> Layout:
    """The blobs of an archive, as a layout in the staging directory."""
    directory = os.path.join(staging.work, "archive")
    names = {f"blobs/sha256/{digest[7:]}" for digest in digests}
    try:
        with writing(directory), tarfile.open(path) as archive:
            os.makedirs(os.path.join(directory, "blobs/sha256"))
            for member in archive:
                name = member.name.removeprefix("./")
                content = archive.extractfile(member) if name in names and member.isfile() else None
                if content:
                    with content, open(os.path.join(directory, name), "wb") as file:
                        shutil.copyfileobj(content, file)
    except (tarfile.TarError, EOFError) as error:
        raise invalid(f"{path} is no tar archive ({error})", path=path) from None
    return Layout(directory)


def _archived(archive: tarfile.TarFile, tag: str | None, path: str, wanted: Platform) -> tuple[str, Json, Json | None]:
    """The identity and the configuration of the image in an archive, and its manifest; Docker's archives have none."""
    members = {member.name.removeprefix("./"): member for member in archive if member.isfile()}

    def data_of(name: str) -> bytes:
        member = members.get(name)
        handle = archive.extractfile(member) if member and member.size <= MAX_JSON else None
        if handle is None:
            raise invalid(f"{path} has no {name}", path=path)
        return handle.read()

    def read(digest: str) -> Json:
        if not isinstance(digest, str) or not digest.startswith("sha256:"):
            raise invalid(f"{digest!r} is no sha256 digest")
        name = f"blobs/sha256/{digest[7:]}"
        if name not in members:
            raise Failure("blob_missing", f"The blob {digest} is missing.", "The archive is damaged.", digest=digest)
        data = data_of(name)
        if hashlib.sha256(data).hexdigest() != digest[7:]:
            raise Failure("digest_mismatch", f"The blob {digest} has other content.", "The archive is damaged.")
        return _object(data, digest)

    if "index.json" in members and "oci-layout" in members:
        entries = _object(data_of("index.json"), "index.json").get("manifests")
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise invalid(f"the index of {path} has no list of manifests")
        entry = choose_manifest(choose_entry(entries, tag, path), read, wanted)
        manifest = checked_manifest(read(entry["digest"]))
        for part in _parts(manifest):
            if not _DIGEST.fullmatch(str(part.get("digest"))):
                raise invalid(f"{part.get('digest')!r} is no sha256 digest")
        return entry["digest"], read(manifest["config"]["digest"]), manifest
    if "manifest.json" not in members:
        raise invalid(f"{path} is an archive neither of OCI nor of Docker", path=path)
    try:
        images = json.loads(data_of("manifest.json"))
    except (ValueError, RecursionError):
        images = None
    if not isinstance(images, list) or not all(_is_docker_image(image) for image in images):
        raise invalid(f"{path} has no manifest.json of Docker", path=path)
    for image in images:
        if (tag is None and len(images) == 1) or (tag and _same_name(tag, image.get("RepoTags") or [])):
            data = data_of(image["Config"])
            return f"sha256:{hashlib.sha256(data).hexdigest()}", _object(data, "its configuration"), None
    raise Failure(
        "image_not_found",
        f"{path} has no image named {tag!r}.",
        "Give one of its names after a colon.",
        path=path,
        names=[name for image in images for name in image.get("RepoTags") or []],
    )


def _is_docker_image(image: t.Any) -> bool:
    if not isinstance(image, dict) or not isinstance(image.get("Config"), str):
        return False
    names = image.get("RepoTags") or []
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def _same_name(tag: str, names: t.Sequence[str]) -> bool:
    """Whether a name is one of these; Docker writes them without its registry, skopeo with it."""
    wanted = str(parse_reference(tag))
    return any(wanted == str(parse_reference(name)) for name in names)


def _object(data: bytes, name: str) -> Json:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise invalid(f"{name} is no JSON") from None
    if not isinstance(value, dict):
        raise invalid(f"{name} is no JSON object")
    return value


def _from_rootfs(text: str) -> Source:
    path = os.path.abspath(text)
    if not os.path.isdir(path):
        raise _missing(path)
    config = {"config": {"Cmd": ["sh"]}}
    return Source("rootfs", os.path.basename(path) or "root", f"rootfs:{path}", config, None, rootfs=path)


def _missing(path: str) -> Failure:
    return Failure("source_missing", f"{path} is not there.", "Check the path on the node.", path=path)
