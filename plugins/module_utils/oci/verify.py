# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verifies the layers of images: what skopeo takes on trust."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import time
import typing as t
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from ..api.errors import Failure
from .layout import Image, Json, Layout, invalid
from .remote import GZIP, PLAIN, ZSTD, media_type_mismatch

_CHUNK = 1 << 18
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# RFC 1952 lets members follow each other; zlib wants to be told that there is a header.
_GZIP_WINDOW = 31
_PAUSE = 0.02
_THREADS = 8
_DIFF_ID = re.compile(r"sha256:[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class Measured:
    """What a blob is.

    digest, size: of the file. content: ``gzip``, ``zstd`` or ``plain``. diff_id: the digest of what is in it; None
    when that is not known. problem: why it cannot be unpacked.
    """

    digest: str
    size: int
    content: str
    diff_id: str | None
    problem: str | None = None


def measure(file: t.BinaryIO, is_complete: t.Callable[[], bool] = lambda: True) -> Measured:
    """Read a blob once, in constant memory. zlib and hashlib let other threads run meanwhile.

    is_complete: asked at the end of the file, when something still writes it.

    Raises:
        OSError: when it cannot be read.
    """
    whole, inner = hashlib.sha256(), hashlib.sha256()
    size, problem, content = 0, None, ""
    stream: t.Any = None
    for chunk in _chunks(file, is_complete):
        if not content:
            content = _content_of(chunk)
            stream = zlib.decompressobj(_GZIP_WINDOW) if content == "gzip" else None
        size += len(chunk)
        whole.update(chunk)
        if content == "plain":
            inner.update(chunk)
        elif stream and not problem:
            stream, problem = _inflate(stream, chunk, inner)
    if stream and not problem:
        problem = _end(stream, inner)
    known = content != "zstd" and not problem
    return Measured(
        f"sha256:{whole.hexdigest()}",
        size,
        content or "plain",
        f"sha256:{inner.hexdigest()}" if known else None,
        problem,
    )


def _chunks(file: t.BinaryIO, is_complete: t.Callable[[], bool]) -> t.Iterator[bytes]:
    head = b""
    while True:
        # What is written between the last read and the answer is read once more.
        complete = is_complete()
        chunk = file.read(_CHUNK)
        if head:
            chunk, head = head + chunk, b""
        if len(chunk) < len(_ZSTD_MAGIC) and not complete:
            # Too little to tell what it is, or nothing.
            head = chunk
            time.sleep(_PAUSE)
        elif chunk:
            yield chunk
        elif complete:
            return


def _content_of(head: bytes) -> str:
    if head.startswith(_GZIP_MAGIC):
        return "gzip"
    return "zstd" if head.startswith(_ZSTD_MAGIC) else "plain"


def _inflate(stream: t.Any, data: bytes, inner: t.Any) -> tuple[t.Any, str | None]:
    """Feed a stream; the one that goes on, and what is wrong with it."""
    try:
        while data:
            if stream.eof:
                stream = zlib.decompressobj(_GZIP_WINDOW)
            inner.update(stream.decompress(data, _CHUNK << 2))
            data = stream.unconsumed_tail or stream.unused_data
    except zlib.error as error:
        # Also what is no further member is found here.
        return stream, f"it is no gzip ({error})"
    return stream, None


def _end(stream: t.Any, inner: t.Any) -> str | None:
    try:
        # What the limit of decompress() has held back; it is at most a window.
        inner.update(stream.flush())
    except zlib.error as error:
        return f"it is no gzip ({error})"
    return None if stream.eof else "it ends too early"


def check_layer(descriptor: Json, diff_id: str, found: Measured) -> None:
    """See that a layer is what manifest and configuration say.

    Raises:
        Failure: ``digest_mismatch``, ``size_mismatch``, ``media_type_mismatch``, ``layer_damaged``,
            ``diff_id_mismatch``.
    """
    digest, media_type = descriptor["digest"], descriptor.get("mediaType")
    if found.digest != digest:
        raise Failure(
            "digest_mismatch",
            f"The blob {digest} has other content: its digest is {found.digest}.",
            "It was tampered with or is damaged; pull the image again.",
            digest=digest,
            actual=found.digest,
        )
    if found.size != descriptor["size"]:
        raise Failure(
            "size_mismatch",
            f"The blob {digest} has {found.size} bytes where {descriptor['size']} are declared.",
            "The image is damaged at its source; build it again.",
            digest=digest,
            size=found.size,
            declared=descriptor["size"],
        )
    declared = {**dict.fromkeys(GZIP, "gzip"), **dict.fromkeys(ZSTD, "zstd"), **dict.fromkeys(PLAIN, "plain")}
    if declared.get(str(media_type)) != found.content:
        raise media_type_mismatch(digest, str(media_type))
    if found.problem:
        raise Failure(
            "layer_damaged",
            f"The layer {digest} cannot be unpacked: {found.problem}.",
            "The image is damaged at its source; build it again.",
            digest=digest,
        )
    if found.diff_id is not None and found.diff_id != diff_id:
        raise Failure(
            "diff_id_mismatch",
            f"The layer {digest} has the diffID {found.diff_id}, where the configuration has {diff_id}.",
            "The image was tampered with or is damaged at its source; build it again.",
            digest=digest,
            diff_id=found.diff_id,
            declared=diff_id,
        )


def diff_ids(image: Image) -> list[str]:
    """The diffIDs of the layers, from the configuration (image-spec, config.md).

    Raises:
        Failure: ``invalid_image``.
    """
    rootfs = image.config.get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(found, list) or not all(isinstance(item, str) and _DIFF_ID.match(item) for item in found):
        raise invalid("its configuration has no list of diffIDs", digest=image.digest)
    if len(found) != len(image.layers):
        raise invalid(f"it has {len(image.layers)} layers and {len(found)} diffIDs", digest=image.digest)
    return found


class Measuring:
    """Measures blobs of a layout in threads, each once, also those that are still being written."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        # Some wait for what is written while others work.
        self._pool = ThreadPoolExecutor(_THREADS)
        self._found: dict[str, Future[Measured]] = {}
        self._followed: dict[tuple[int, int], Future[Measured]] = {}
        self._ended = threading.Event()

    def __enter__(self) -> Measuring:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ended.set()
        for future in [*self._found.values(), *self._followed.values()]:
            future.cancel()
        self._pool.shutdown()

    def follow(self, prefix: str) -> None:
        """Begin with the files in the layout's directory whose names begin like this. They are being written, and are
        complete when they get another name.
        """
        for name in os.listdir(self._layout.root):
            if name.startswith(prefix):
                with (
                    contextlib.suppress(FileNotFoundError),
                    open(os.path.join(self._layout.root, name), "rb", buffering=0) as file,
                ):
                    about = os.fstat(file.fileno())
                    key = (about.st_dev, about.st_ino)
                    if key not in self._followed:
                        # It keeps its file when that gets another name.
                        own = os.dup(file.fileno())
                        self._followed[key] = self._pool.submit(self._measure_growing, own, f"/{prefix}")

    def _measure_growing(self, handle: int, prefix: str) -> Measured:
        link = f"/proc/self/fd/{handle}"
        with open(handle, "rb", buffering=0) as file:
            return measure(file, lambda: self._ended.is_set() or prefix not in os.readlink(link))

    def begin(self, digest: str) -> bool:
        """Begin with a blob when it is there; whether it is.

        Raises:
            Failure: ``invalid_image`` for what is no digest.
        """
        if digest not in self._found:
            try:
                about = os.stat(self._layout.blob(digest))
            except FileNotFoundError:
                return False
            followed = self._followed.get((about.st_dev, about.st_ino))
            self._found[digest] = followed or self._pool.submit(_measure_file, self._layout.blob(digest))
        return True

    def result(self, digest: str) -> Measured:
        """What a blob is.

        Raises:
            Failure: ``blob_missing``, ``blob_unreadable``.
        """
        self.begin(digest)
        try:
            if digest in self._found:
                return self._found[digest].result()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise Failure(
                "blob_unreadable",
                f"The blob {digest} cannot be read: {error.strerror}.",
                "Run as root (become), and see whether the disk is sound.",
                digest=digest,
            ) from None
        raise Failure("blob_missing", f"The blob {digest} is missing.", "Pull the image again.", digest=digest)

    def forget(self, digest: str) -> None:
        """A blob is gone, or becomes another one."""
        self._found.pop(digest, None)


def _measure_file(path: str) -> Measured:
    with open(path, "rb", buffering=0) as file:
        return measure(file)


def verify_image(layout: Layout, digest: str, measuring: Measuring | None = None) -> Image:
    """The image whose manifest has this digest, with everything verified: digests and sizes of all blobs, the media
    types, complete compressed streams, and the diffIDs. Of a zstd layer the inside is not looked at.

    Raises:
        Failure: ``blob_missing``, ``digest_mismatch``, ``size_mismatch``, ``media_type_mismatch``, ``layer_damaged``,
            ``diff_id_mismatch``, ``invalid_image``, ``blob_unreadable``.
    """
    if measuring is None:
        with Measuring(layout) as own:
            return verify_image(layout, digest, own)
    image = layout.image(digest)
    expected = diff_ids(image)
    for layer in image.layers:
        measuring.begin(layer["digest"])
    for layer, diff_id in zip(image.layers, expected):
        check_layer(layer, diff_id, measuring.result(layer["digest"]))
    return image
