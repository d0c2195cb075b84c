# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The images of a node: an OCI image layout that has only what was verified.

An image is in the store when the index names it. Its blobs come before that, and go after it. Who reads or adds blobs
holds the lock of the store together with others; who removes blobs holds it alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
import typing as t
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from ..api.errors import Failure
from ..node.files import read_text
from .layout import INDEX, MANIFEST, REF_NAME, Image, Json, Layout
from .reference import Platform
from .unpack import write_whole, writing
from .verify import verify_image

_OWN = "io.lxcri."
# What the annotations of an entry say beside its name.
_PLATFORM, _MANIFEST, _SOURCE = f"{_OWN}platform", f"{_OWN}manifest", f"{_OWN}source"
_PULLED, _USED = f"{_OWN}pulled", f"{_OWN}used"
_HOUR = 3600
_LAYOUT = '{"imageLayoutVersion":"1.0.0"}'
_NEW = ".new"


@dataclass(frozen=True)
class Entry:
    """An image of the index.

    reference: as it was asked for, in full. platform: for which it was asked. digest: of the manifest in the store.
    identity: of the manifest at the registry, which is another one when the image was converted. source_digest: what
    the reference means there, an index or this manifest. pulled, used: seconds since the epoch.
    """

    reference: str
    platform: str
    digest: str
    identity: str
    source_digest: str
    pulled: int
    used: int

    @property
    def key(self) -> tuple[str, str]:
        """Of which there is one in the index."""
        return self.reference, self.platform


def entry_of(descriptor: Json) -> Entry | None:
    """The entry that a descriptor of the index is; None when somebody else has put it there."""
    notes = descriptor.get("annotations")
    if not isinstance(notes, dict):
        return None
    try:
        return Entry(
            notes[REF_NAME],
            notes[_PLATFORM],
            str(descriptor["digest"]),
            notes[_MANIFEST],
            notes[_SOURCE],
            _seconds(notes[_PULLED]),
            _seconds(notes[_USED]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def descriptor_of(entry: Entry, size: int, platform: Json) -> Json:
    """The descriptor of an entry (image-spec, descriptor.md). platform: of the image itself."""
    return {
        "mediaType": MANIFEST,
        "digest": entry.digest,
        "size": size,
        "platform": platform,
        "annotations": {
            REF_NAME: entry.reference,
            _PLATFORM: entry.platform,
            _MANIFEST: entry.identity,
            _SOURCE: entry.source_digest,
            _PULLED: _time(entry.pulled),
            _USED: _time(entry.used),
        },
    }


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds(text: str) -> int:
    return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc).timestamp())


def platform_of_config(config: Json) -> Json:
    """The platform of an image, as descriptors have it."""
    about = {key: config.get(key) for key in ("os", "architecture", "variant")}
    return {key: value for key, value in about.items() if isinstance(value, str) and value}


def size_of(layout: Layout, image: Image) -> int:
    """Bytes of all blobs of an image."""
    blobs = {image.manifest["config"]["digest"]: image.manifest["config"]["size"]}
    blobs.update((layer["digest"], layer["size"]) for layer in image.layers)
    return sum(blobs.values()) + os.stat(layout.blob(image.digest)).st_size


class Store:
    """The store in a directory, whether it is there or not. timeout: seconds for which locks are waited for."""

    def __init__(self, path: str, timeout: float) -> None:
        if not os.path.isabs(path) or ":" in path:
            # skopeo splits at colons.
            raise Failure("invalid_option", f"store: {path!r} has to be absolute and to have no colon.")
        self.path = path
        self.layout = Layout(path)
        self.own = os.path.join(path, ".lxcri")
        self.stages = os.path.join(self.own, "staging")
        self._timeout = timeout

    def descriptors(self) -> list[Json]:
        """What the index has, of whoever; nothing when there is no store yet.

        Raises:
            Failure: ``invalid_image``.
        """
        return self.layout.entries() if os.path.exists(os.path.join(self.path, "index.json")) else []

    def entries(self) -> list[Entry]:
        """The images.

        Raises:
            Failure: ``invalid_image``.
        """
        return [entry for entry in map(entry_of, self.descriptors()) if entry]

    def find(self, reference: str, platform: Platform) -> Entry | None:
        """The entry for a reference and a platform."""
        key = (reference, str(platform))
        return next((entry for entry in self.entries() if entry.key == key), None)

    def intact(self, digest: str, deep: bool = False) -> Image | None:
        """An image whose blobs are all there; None when one is missing or damaged.

        Manifest and configuration are read, and the layers looked at; deep: they are read as well.
        """
        try:
            if deep:
                return verify_image(self.layout, digest)
            image = self.layout.image(digest)
            for layer in image.layers:
                if os.stat(self.layout.blob(layer["digest"])).st_size != layer["size"]:
                    return None
        except (Failure, FileNotFoundError):
            return None
        return image

    @contextlib.contextmanager
    def shared(self) -> t.Iterator[int]:
        """Nobody removes a blob meanwhile. Gives the descriptor of the lock.

        Raises:
            Failure: ``store_locked``, ``disk_full``, ``write_failed``.
        """
        self._prepare()
        with self._locked(os.path.join(self.own, "lock"), fcntl.LOCK_SH) as handle:
            yield handle

    @contextlib.contextmanager
    def alone(self) -> t.Iterator[int]:
        """Nobody reads or adds a blob meanwhile.

        Raises:
            Failure: ``store_locked``, ``disk_full``, ``write_failed``.
        """
        self._prepare()
        with self._locked(os.path.join(self.own, "lock"), fcntl.LOCK_EX) as handle:
            with writing(self.stages), contextlib.suppress(FileNotFoundError):
                # Locks of runs that were killed. Who had one would hold the lock of the store as well.
                for name in os.listdir(self.stages):
                    if name.endswith(".lock"):
                        os.unlink(os.path.join(self.stages, name))
            yield handle

    @contextlib.contextmanager
    def staging(self, digest: str) -> t.Iterator[tuple[str, int]]:
        """The directory in which an image is put together, and the descriptor of its lock.

        What an earlier run has left is in it. To be held with :meth:`shared`.

        Raises:
            Failure: ``store_locked``, ``disk_full``, ``write_failed``.
        """
        # Raises for what is no digest, and so could lead out of the store.
        name = os.path.basename(self.layout.blob(digest))
        path = os.path.join(self.stages, name)
        with writing(path):
            os.makedirs(self.stages, mode=0o700, exist_ok=True)
        lock = os.path.join(self.stages, f"{name}.lock")
        with self._locked(lock, fcntl.LOCK_EX) as handle:
            try:
                with writing(path):
                    os.makedirs(os.path.join(path, "blobs/sha256"), mode=0o700, exist_ok=True)
                yield path, handle
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(lock)

    def is_busy(self, name: str) -> bool:
        """Whether a run works in a staging directory."""
        try:
            handle = os.open(os.path.join(self.stages, f"{name}.lock"), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def _prepare(self) -> None:
        with writing(self.path):
            os.makedirs(self.own, mode=0o700, exist_ok=True)
            os.makedirs(os.path.join(self.path, "blobs/sha256"), mode=0o755, exist_ok=True)
        if not all(os.path.exists(os.path.join(self.path, name)) for name in ("oci-layout", "index.json")):
            self._change(lambda descriptors: descriptors)

    @contextlib.contextmanager
    def _locked(self, path: str, kind: int) -> t.Iterator[int]:
        end = time.monotonic() + self._timeout
        handle = -1
        while handle < 0:
            with writing(path):
                handle = _try_lock(path, kind)
            if handle < 0 and time.monotonic() > end:
                raise Failure(
                    "store_locked",
                    f"Other runs have worked on {self.path} for {self._timeout:g} seconds.",
                    "Run again when they have ended, or raise 'timeout'.",
                    path=path,
                )
            if handle < 0:
                time.sleep(0.05)
        try:
            yield handle
        finally:
            os.close(handle)

    def record(self, entry: Entry, image: Image) -> None:
        """Put an entry into the index, in place of the one for the same reference and platform.

        Raises:
            Failure: ``disk_full``, ``write_failed``, ``store_locked``.
        """
        size = os.stat(self.layout.blob(image.digest)).st_size
        new = descriptor_of(entry, size, platform_of_config(image.config))
        self._change(lambda descriptors: [*_without(descriptors, {entry.key}), new])

    def note_use(self, entry: Entry) -> None:
        """Note that an image is used, once an hour. A store that cannot be written serves as well."""
        now = int(time.time())
        if now - entry.used >= _HOUR:
            with contextlib.suppress(Failure):
                self.amend(replace(entry, used=now))

    def note(self, key: str, text: str) -> None:
        """Note something of an artefact that was made of an image. key: of the artefact, in hexadecimal digits.

        Raises:
            Failure: ``disk_full``, ``write_failed``, ``store_failed``.
        """
        with writing(self.own):
            os.makedirs(self.own, mode=0o700, exist_ok=True)
        write_whole(self._note(key), text)

    def noted(self, key: str) -> str | None:
        """What was noted of an artefact."""
        return read_text(self._note(key))

    def _note(self, key: str) -> str:
        return os.path.join(self.own, "notes", key)

    def amend(self, entry: Entry) -> None:
        """Put an entry in the place of its former self, when that is still there.

        Raises:
            Failure: ``disk_full``, ``write_failed``, ``store_locked``.
        """

        def amended(descriptor: Json) -> Json:
            old = entry_of(descriptor)
            if not old or old.key != entry.key or old.digest != entry.digest:
                return descriptor
            return descriptor_of(entry, descriptor["size"], descriptor.get("platform", {}))

        self._change(lambda descriptors: [amended(descriptor) for descriptor in descriptors])

    def forget(self, keys: t.Collection[tuple[str, str]]) -> None:
        """Remove entries from the index.

        Raises:
            Failure: ``disk_full``, ``write_failed``, ``store_locked``.
        """
        self._change(lambda descriptors: _without(descriptors, keys))

    def _change(self, change: t.Callable[[list[Json]], list[Json]]) -> None:
        """Change the index. Whoever reads it sees the old one or the new one, also after a loss of power."""
        with self._locked(os.path.join(self.own, "index.lock"), fcntl.LOCK_EX), writing(self.path):
            for name in os.listdir(self.own):
                if name.endswith(_NEW):
                    os.unlink(os.path.join(self.own, name))
            path = os.path.join(self.path, "oci-layout")
            if not os.path.exists(path):
                self._write(path, _LAYOUT)
            path = os.path.join(self.path, "index.json")
            # Parts of it that others have put there stay.
            there = os.path.exists(path)
            document: Json = self.layout.index() if there else {"schemaVersion": 2, "mediaType": INDEX}
            before = self.layout.entries() if there else []
            document["manifests"] = change(before)
            if not there or document["manifests"] != before:
                self._write(path, json.dumps(document, indent=1) + "\n")

    def _write(self, path: str, text: str) -> None:
        # What is left of it when this goes wrong, the next change removes.
        new = os.path.join(self.own, os.path.basename(path) + _NEW)
        with open(new, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
        sync_directory(self.path)

    def add_blobs(self, staged: Layout, digests: t.Sequence[str]) -> None:
        """Move blobs of a layout in the same file system into the store, in this order.

        Raises:
            Failure: ``disk_full``, ``write_failed``.
        """
        with writing(self.path):
            for digest in digests:
                source, target = staged.blob(digest), self.layout.blob(digest)
                if os.path.exists(target) and os.path.samefile(source, target):
                    continue
                with open(source, "rb") as file:
                    os.fsync(file.fileno())
                os.chmod(source, 0o644)
                os.replace(source, target)
            sync_directory(os.path.dirname(self.layout.blob(digests[0])))

    def blobs(self) -> dict[str, int]:
        """The digests of all blobs that are there, and their sizes. Other files are no blobs."""
        found = {}
        with contextlib.suppress(FileNotFoundError), os.scandir(os.path.join(self.path, "blobs/sha256")) as files:
            for file in files:
                with contextlib.suppress(Failure, FileNotFoundError):
                    self.layout.blob(f"sha256:{file.name}")
                    found[f"sha256:{file.name}"] = file.stat(follow_symlinks=False).st_size
        return found

    def reached_from(self, descriptors: t.Sequence[Json]) -> set[str]:
        """The digests of what descriptors lead to: manifests, configurations, layers, and what indexes name."""
        found: set[str] = set()
        waiting = [str(descriptor.get("digest")) for descriptor in descriptors]
        while waiting:
            digest = waiting.pop()
            if digest in found:
                continue
            found.add(digest)
            try:
                document = self.layout.read(digest)
            except Failure:
                # It is damaged: what it leads to is pulled again with it.
                continue
            parts = [document.get("config"), *_list(document.get("layers"))]
            found.update(str(part["digest"]) for part in parts if isinstance(part, dict) and "digest" in part)
            below = [part for part in _list(document.get("manifests")) if isinstance(part, dict)]
            waiting += [str(part.get("digest")) for part in below]
        return found


def _try_lock(path: str, kind: int) -> int:
    """The descriptor of a lock; -1 when somebody else has it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
        # Who has had it may have removed the file.
        if os.path.samestat(os.fstat(handle), os.stat(path)):
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return -1


def _list(value: t.Any) -> list[t.Any]:
    return value if isinstance(value, list) else []


def _without(descriptors: t.Sequence[Json], keys: t.Collection[tuple[str, str]]) -> list[Json]:
    kept = []
    for descriptor in descriptors:
        entry = entry_of(descriptor)
        if entry is None or entry.key not in keys:
            kept.append(descriptor)
    return kept


def sync_directory(path: str) -> None:
    """Make the names in a directory survive a loss of power.

    Raises:
        OSError: when it cannot be.
    """
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_stage(path: str) -> None:
    """Remove a staging directory.

    Raises:
        Failure: ``write_failed``.
    """
    with writing(path):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)
