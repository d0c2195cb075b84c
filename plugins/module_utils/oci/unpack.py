# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Unpacks images with umoci, converts them with skopeo, and keeps what is unfinished out of sight."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import time
import typing as t

from ..api.errors import Failure
from ..node.commands import Completed, environment, run_here
from ..node.files import write_private
from .layout import INDEX, LAYER, LAYER_GZIP, MANIFEST, REF_NAME, Image, Json, Layout
from .reference import Platform

# What umoci splits off at the last colon.
_TAG = "image"
_FULL = (errno.ENOSPC, errno.EDQUOT)
# Directories of AUFS in old layers. Docker hides them; image-spec, layer.md, knows no names with this prefix.
_AUFS = (".wh..wh.aufs", ".wh..wh.plnk", ".wh..wh.orph")
# The name of a staging directory, with that of its target.
_UNFINISHED = re.compile(r"\.(.+)\.lxcri-new")


@contextlib.contextmanager
def writing(path: str) -> t.Iterator[None]:
    """Makes structured failures of what goes wrong while something is written.

    Raises:
        Failure: ``disk_full``, ``write_failed``.
    """
    try:
        yield
    except OSError as error:
        raise write_failure(path, error.strerror or str(error), error.errno in _FULL) from None


def write_failure(path: str, why: str, full: bool) -> Failure:
    """What stands against writing."""
    if full:
        return Failure("disk_full", f"There is no space left for {path}.", "Free space there.", path=path)
    return Failure("write_failed", f"{path} cannot be written: {why}.", "Run as root (become).", path=path)


def write_whole(path: str, text: str) -> None:
    """Write a file that only root reads, whole or not at all.

    Raises:
        Failure: ``disk_full``, ``store_failed``.
    """
    try:
        write_private(path, text)
    except Failure as failure:
        if isinstance(failure.__context__, OSError) and failure.__context__.errno in _FULL:
            raise write_failure(path, failure.message, full=True) from None
        raise


class Staging:
    """A directory beside the target in which it is made, before it is renamed into place.

    It is locked while a run works in it, and empty at the start of each: what a killed run has left is removed. A
    command of a killed run that still runs is waited for; it holds a lock of its own.
    """

    def __init__(self, target: str, timeout: float = 3600) -> None:
        parent, name = os.path.split(target)
        self.target, self.parent = target, parent
        self.path = os.path.join(parent, f".{name}.lxcri-new")
        # What was at the target, while it is replaced.
        self.old = os.path.join(parent, f".{name}.lxcri-old")
        self.work = ""
        self._timeout = timeout
        self._handle = -1
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Staging:
        with writing(self.path):
            os.makedirs(self.parent, exist_ok=True)
            self._handle = self._locked()
        try:
            with writing(self.path):
                for name in os.listdir(self.path):
                    self._wait_for_command(os.path.join(self.path, name, "lock"))
                    remove_tree(os.path.join(self.path, name))
                self._recover()
                # A name that no earlier run knows: its commands cannot write here.
                self.work = os.path.join(self.path, os.urandom(8).hex())
                os.mkdir(self.work, 0o700)
        except BaseException:
            os.close(self._handle)
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        try:
            with self._held, writing(self.path):
                remove_tree(self.path)
        finally:
            os.close(self._handle)

    def hold(self, lock: contextlib.AbstractContextManager[t.Any]) -> None:
        """Hold a lock as long as this directory is worked in."""
        self._held.enter_context(lock)

    def _locked(self) -> int:
        end = time.monotonic() + self._timeout
        while True:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.path, 0o700)
            try:
                handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                self._lock(handle, end)
                # Whoever had it before has removed the directory.
                if os.path.samestat(os.fstat(handle), os.stat(self.path, follow_symlinks=False)):
                    return handle
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)

    def _lock(self, handle: int, end: float) -> None:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > end:
                    raise Failure(
                        "bundle_locked",
                        f"Another run works on {self.target}.",
                        "Run again when it has ended.",
                        path=self.target,
                    ) from None
                time.sleep(0.1)

    def _wait_for_command(self, path: str) -> None:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            self._lock(handle, time.monotonic() + self._timeout)
        finally:
            os.close(handle)

    def _recover(self) -> None:
        if os.path.lexists(self.old):
            if os.path.lexists(self.target):
                remove_tree(self.old)
            else:
                os.rename(self.old, self.target)

    def replace(self, new: str) -> None:
        """Put what was made in place of the target. A kill in between leaves the old one or the new one.

        Raises:
            Failure: ``disk_full``, ``write_failed``, ``bundle_in_use``.
        """
        with writing(self.target):
            if os.path.isdir(self.target) and not os.path.islink(self.target) and os.listdir(self.target):
                refuse_mounts(self.target)
                os.rename(self.target, self.old)
            os.rename(new, self.target)
            if os.path.lexists(self.old):
                remove_tree(self.old)

    def run(self, argv: t.Sequence[str]) -> Completed:
        """Run a command that dies with this process, and holds its lock until it is dead.

        Raises:
            Failure: ``command_missing``.
        """
        if not shutil.which(argv[0], path=environment()["PATH"]):
            # run_here says what to do.
            return run_here(argv)
        lock = os.path.join(self.work, "lock")
        return run_here(["setpriv", "--pdeathsig", "KILL", "flock", "--no-fork", "--exclusive", lock, *argv])


def remove_abandoned(parent: str) -> None:
    """Remove what killed runs have left of unfinished targets in a directory. What others work on stays."""
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = os.listdir(parent)
    for name in names:
        match = _UNFINISHED.fullmatch(name)
        # Where everybody writes, what others have put there is not even looked into.
        if match and _is_own(os.path.join(parent, name)):
            with contextlib.suppress(Failure), Staging(os.path.join(parent, match[1]), 0):
                pass


def _is_own(path: str) -> bool:
    try:
        return os.lstat(path).st_uid == os.geteuid()
    except OSError:
        return False


def temporary_parent() -> str:
    """Where what is as large as an image lies for a while.

    That is ``TMPDIR`` or else ``/var/tmp``, as skopeo and podman have it: /tmp may be memory.
    """
    return os.environ.get("TMPDIR") or "/var/tmp"


@contextlib.contextmanager
def temporary_staging() -> t.Iterator[Staging]:
    """A staging directory without a target, for what is as large as an image; gone at the end.

    What killed runs have left of theirs goes first.

    Raises:
        Failure: ``disk_full``, ``write_failed``.
    """
    parent = temporary_parent()
    remove_abandoned(parent)
    with writing(parent), Staging(os.path.join(parent, f"lxcri-{os.urandom(8).hex()}")) as staging:
        yield staging


def mounts_below(path: str, text: str) -> list[str]:
    """The mount points in a directory. text: of /proc/self/mountinfo (proc(5))."""
    found = []
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) > 4:
            point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
            if point == path or point.startswith(path.rstrip("/") + "/"):
                found.append(point)
    return found


def refuse_mounts(path: str) -> None:
    """Refuse to touch a directory in which something is mounted: what is removed there would be gone elsewhere.

    Raises:
        Failure: ``bundle_in_use``.
    """
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        found = mounts_below(os.path.realpath(path), file.read())
    if found:
        raise Failure(
            "bundle_in_use",
            f"Something is mounted at {found[0]}.",
            "Stop the container and unmount what is below the bundle.",
            path=path,
            mounts=found,
        )


def remove_tree(path: str) -> None:
    """Remove a directory with what is in it, or a file.

    Raises:
        Failure: ``bundle_in_use``.
        OSError: when it cannot be removed.
    """
    if os.path.isdir(path) and not os.path.islink(path):
        refuse_mounts(path)
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def needs_conversion(image: Image) -> bool:
    """Whether it is something that umoci does not read: Docker's media types, or layers that are not gzip."""
    media_type = image.manifest.get("mediaType", MANIFEST)
    return media_type != MANIFEST or any(layer.get("mediaType") not in (LAYER, LAYER_GZIP) for layer in image.layers)


def private_layout(work: str, name: str, blobs: str, descriptor: Json) -> str:
    """A layout with one image that nothing else sees. Its path has no colon when that of the directory has none."""
    path = os.path.join(work, name)
    with writing(path):
        os.makedirs(path)
        os.symlink(os.path.abspath(blobs), os.path.join(path, "blobs"))
        write_layout_files(path, descriptor, _TAG)
    return path


def skopeo_directory(work: str, layout: Layout, image: Image) -> str:
    """An image as skopeo's transport ``dir`` has it, which also has manifests of Docker."""
    path = os.path.join(work, "source")
    with writing(path):
        os.mkdir(path)
        os.symlink(os.path.abspath(layout.blob(image.digest)), os.path.join(path, "manifest.json"))
        for digest in {image.manifest["config"]["digest"], *(layer["digest"] for layer in image.layers)}:
            os.symlink(os.path.abspath(layout.blob(digest)), os.path.join(path, digest[7:]))
        with open(os.path.join(path, "version"), "w", encoding="utf-8") as file:
            file.write("Directory Transport Version: 1.1\n")
    return path


def write_layout_files(path: str, descriptor: Json, tag: str) -> None:
    """``oci-layout`` and ``index.json`` of a layout with one image (image-spec, image-layout.md)."""
    for name, text in layout_files(descriptor, tag).items():
        with open(os.path.join(path, name), "w", encoding="utf-8") as file:
            file.write(text)


def layout_files(descriptor: Json, tag: str) -> dict[str, str]:
    """The text of ``oci-layout`` and ``index.json`` of a layout with one image."""
    only = {key: descriptor[key] for key in ("mediaType", "digest", "size", "platform") if key in descriptor}
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [{**only, "annotations": {REF_NAME: tag}}],
    }
    return {"oci-layout": '{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index, separators=(",", ":"))}


def descriptor_of(layout: Layout, image: Image) -> Json:
    """The descriptor of a manifest."""
    return {
        "mediaType": image.manifest.get("mediaType", MANIFEST),
        "digest": image.digest,
        "size": os.stat(layout.blob(image.digest)).st_size,
    }


def convert(staging: Staging, source: str, platform: Platform | None) -> tuple[Layout, Image]:
    """An OCI image with gzip layers of what skopeo reads, in the staging directory.

    source: with its transport, as ``oci:/path:tag`` or ``docker-archive:/path``.

    Raises:
        Failure: ``convert_failed``, ``disk_full``, ``command_missing``.
    """
    path = os.path.join(staging.work, "converted")
    chosen = []
    if platform:
        chosen = ["--override-os", platform.os, "--override-arch", platform.architecture]
        chosen += ["--override-variant", platform.variant] if platform.variant else []
    compress = ["--dest-compress", "--dest-compress-format", "gzip", "--dest-compress-level", "1"]
    done = staging.run(
        [
            *("skopeo", "--insecure-policy", "--tmpdir", staging.work, *chosen),
            *("copy", "--quiet", "--format", "oci", *compress, source, f"oci:{path}:{_TAG}"),
        ]
    )
    if done.rc:
        raise _command_failure("convert_failed", "The image cannot be converted", path, done)
    layout = Layout(path)
    return layout, layout.image(layout.entries()[0]["digest"])


def unpack(staging: Staging, layout: Layout, image: Image, rootfs: str) -> None:
    """Unpack the layers of an image into a directory that is not there yet.

    What is above the directory has to be of no value: umoci 0.4 removes it for a whiteout named ``.wh...``.

    Raises:
        Failure: ``unpack_failed``, ``disk_full``, ``command_missing``.
    """
    private = private_layout(staging.work, "layout", layout.blobs, descriptor_of(layout, image))
    done = staging.run(["umoci", "raw", "unpack", "--image", f"{private}:{_TAG}", rootfs])
    if done.rc == 0 and not os.path.isdir(rootfs):
        done = Completed(done.argv, 1, "", "the layers have removed the root")
    if done.rc:
        raise _command_failure("unpack_failed", f"The layers of {image.digest} cannot be unpacked", rootfs, done)
    with writing(rootfs):
        for name in _AUFS:
            remove_tree(os.path.join(rootfs, name))


def _command_failure(code: str, what: str, path: str, done: Completed) -> Failure:
    lines = [line.strip(" \u2a2f\t") for line in done.stderr.splitlines() if line.strip()]
    message = _logged(lines[-1]) if lines else f"the command ended with {done.rc}"
    if "no space left on device" in done.stderr or "disk quota exceeded" in done.stderr:
        return write_failure(path, message, full=True)
    return Failure(code, f"{what}: {message[-400:]}.", "The image is damaged or malicious; build or pull it again.")


def _logged(line: str) -> str:
    """The message of a line of logrus, or the line."""
    match = re.search(r'level=fatal msg="((?:[^"\\]|\\.)*)"', line)
    return match[1].replace('\\"', '"') if match else line
