# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Templates and archives of which Proxmox creates containers."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import io
import os
import re
import stat
import subprocess
import tarfile
import typing as t
from dataclasses import replace

from ..api.errors import Failure
from ..node.commands import environment
from .bundle_options import canonical
from .init_script import INIT, command_of, put_init
from .layout import Image, Json, Layout
from .lxc_config import lines_of
from .rootfs import Rootfs, find_user
from .runtime_spec import Process, ResolvedUser, process_of, runtime_spec, user_wanted
from .source import Prepare, Source
from .store import Store
from .unpack import (
    Staging,
    descriptor_of,
    layout_files,
    remove_abandoned,
    temporary_parent,
    temporary_staging,
    unpack,
    write_failure,
    writing,
)

# What Proxmox mounts over or writes to (PVE/LXC.pm and PVE/LXC/Setup of pve-container).
DIRECTORIES = (
    *(("/dev", 0o755), ("/proc", 0o755), ("/sys", 0o755), ("/run", 0o755), ("/tmp", 0o1777), ("/etc", 0o755)),
    # Before 9.1 it does not make it, and without it a Debian does not start.
    ("/etc/network", 0o755),
)
SUFFIXES = {"lxc_template": ".tar.zst", "oci_archive": ".tar"}
# normalize_content_filename of pve-storage's PVE/Storage.pm makes an underscore of anything else.
_UNSAFE = re.compile(r"[^a-zA-Z0-9.-]+")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9.-]*\Z")
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.\d+)?(?:[Zz]|([+-]\d\d:\d\d))\Z")
# What of the attributes Proxmox unpacks (COMMON_TAR_FLAGS of pve-storage's PVE/Storage/Plugin.pm).
_ATTRIBUTES = ("user.", "security.capability")
_TAR = (
    *("tar", "--create", "--format=posix"),
    *("--numeric-owner", "--sparse", "--acls", "--xattrs", "--xattrs-include=user.*"),
    *("--xattrs-include=security.capability", "--warning=no-file-ignored", "--no-recursion", "--null"),
    "--verbatim-files-from",
)
_PAX = "exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime,globexthdr.name=GlobalHead,globexthdr.mtime=0,comment="
_NOTE = re.compile(r"user (\d+):(\d+)((?: \d+)*)")
# What of the options of a process changes what is in a template.
_NOTED = ("entrypoint", "args", "env", "cwd", "terminal", "user")


class Uploads(t.Protocol):
    """Where artefacts are put."""

    def find(self, file_name: str) -> str | None:
        """The volume id of a file on the storage; None when it is not there."""

    def put(self, path: str) -> str:
        """Upload a file; its volume id."""

    def volume_id(self, file_name: str) -> str:
        """The volume id that a file gets."""


def file_name_of(name: str, identity: str, key: str, architecture: str, suffix: str) -> str:
    """The name of an artefact: whose it is, of which content, made how, and for which processor."""
    digest = identity.rpartition(":")[2][:12]
    return f"{name}_{digest}-{key[:12]}_{architecture}{suffix}"


def checked_name(name: str) -> str:
    """A name that Proxmox keeps as it is.

    Raises:
        Failure: ``invalid_option``.
    """
    if not _NAME.match(name) or len(name) > 128:
        raise Failure(
            "invalid_option",
            f"{name!r} cannot be the name of an artefact.",
            "It has letters, digits, dots and hyphens, and at most 128 of them.",
            option="name",
        )
    return name


def build_artefact(
    source: Source,
    options: Json,
    params: t.Mapping[str, t.Any],
    converter: int,
    check_mode: bool,
    connect: t.Callable[[], Uploads],
    init_required: bool = False,
) -> dict[str, t.Any]:
    """Make a template or an archive, and place it on a storage.

    init_required: whether a template is refused whose ``/sbin/init`` does not run the command.

    Raises:
        Failure: ``invalid_option``, ``shell_missing``, and what stands against it.
    """
    form = params["format"]
    if form == "oci_archive" and (source.rootfs or options):
        raise Failure(
            "invalid_option",
            "An archive has the image as it is: neither a root file system nor options of the runtime fit.",
            "Set them where the container is created.",
        )
    identity = tree_identity(source.rootfs) if source.rootfs else source.identity
    process = _started(source.process, form) if source.process else None
    user: ResolvedUser | str = user_wanted(process, options) if process else ""
    if source.rootfs and process:
        user = find_user(Rootfs(source.rootfs), str(user))
    spec = runtime_spec(process, options, user) if process and form == "lxc_template" else None
    made_with = {} if source.rootfs else _declared(options)
    digest = hashlib.sha256(canonical({"format": form, **made_with}).encode("utf-8", "surrogateescape")).hexdigest()
    key = hashlib.sha256(f"{identity}\n{digest}\n{converter}".encode()).hexdigest()
    name = checked_name(params.get("name") or _UNSAFE.sub("-", source.name).strip("-.") or "image")
    architecture = (source.config or {}).get("architecture") or getattr(source.platform, "architecture", "")
    file_name = file_name_of(name, identity, key, _UNSAFE.sub("-", str(architecture)) or "all", SUFFIXES[form])
    directory = os.path.abspath(params["path"]) if params.get("path") else None
    path = os.path.join(directory, file_name) if directory else None
    uploads = connect() if params.get("upload") else None
    volume = uploads.find(file_name) if uploads else None
    build = bool(path and not os.path.lexists(path)) or bool(not path and not volume)
    plan = []
    if source.changed:
        plan.append({"key": "image", "before": None, "after": source.identity, "effect": "create", "applied": True})
    if path and build:
        plan.append({"key": "file", "before": None, "after": path, "effect": "create", "applied": True})
    if uploads and not volume:
        after = uploads.volume_id(file_name)
        plan.append({"key": "volume", "before": None, "after": after, "effect": "create", "applied": True})
    if not check_mode:
        # Also of other artefacts: what was begun has another name when the image is another one by now.
        remove_abandoned(directory or temporary_parent())
    if (build or (uploads and not volume)) and not check_mode:
        if path:
            if build:
                user = _make(source, options, form, path, params["timeout"], init_required) or user
            if uploads and not volume:
                volume = uploads.put(path)
        else:
            with temporary_staging() as staging:
                temporary = os.path.join(staging.work, file_name)
                user = _make(source, options, form, temporary, params["timeout"], init_required) or user
                volume = uploads.put(temporary) if uploads else None
    if spec and process:
        if isinstance(user, str):
            user = _who(source, options, params, path, key, check_mode or build) or user
        elif uploads and not path:
            _note(params, key, user)
        spec = runtime_spec(process, options, user)
    return {
        "changed": bool(plan),
        "plan": plan,
        "path": path,
        "file_name": file_name,
        "volume": volume or (uploads.volume_id(file_name) if uploads else None),
        "identity": identity,
        "key": key,
        "spec": spec,
        "lxc": lines_of(spec, _policy_path(spec, converter)),
        "diff": [
            {
                "before_header": file_name,
                "after_header": file_name,
                "before": {},
                "after": {change["key"]: change["after"] for change in plan},
            }
        ]
        if plan
        else [],
    }


def _started(process: Process, form: str) -> Process:
    """What is started of a template: without a command that is what LXC starts then."""
    return process if form != "lxc_template" or process.entrypoint or process.cmd else replace(process, cmd=(INIT,))


def _declared(options: Json) -> Json:
    """The options that change what is in a template: what its init does, and the user that is noted.

    The rest is for who makes a container of it. What the image says of the same is in its identity.
    """
    process = options.get("process") or {}
    over = (options.get("spec") or {}).get("process")
    return {"process": {key: process[key] for key in _NOTED if process.get(key) is not None}, "spec": over}


def _policy_path(spec: Json | None, converter: int) -> str:
    """Where a policy of seccomp is to lie on the node: elsewhere than any other, also of the same image."""
    profile = canonical([((spec or {}).get("linux") or {}).get("seccomp"), converter])
    return f"/var/lib/lxcri/seccomp/{hashlib.sha256(profile.encode()).hexdigest()[:12]}.lxc"


def _make(
    source: Source, options: Json, form: str, path: str, timeout: float, init_required: bool
) -> ResolvedUser | None:
    """Make the file; whom the process runs as, when that was looked up."""
    with Staging(path, timeout) as staging:
        if os.path.lexists(path):
            # Another run was faster.
            return None
        new = os.path.join(staging.work, "new")
        user = None
        if form == "oci_archive" and source.prepare:
            layout, image = source.prepare(staging)
            process_of(image.config)
            write_archive(layout, image, new)
        else:
            rootfs = source.rootfs
            if source.prepare:
                started = _now(staging)
                rootfs, image = _unpacked(source.prepare, staging)
                process = _started(process_of(image.config), form)
                user = find_user(Rootfs(rootfs), user_wanted(process, options))
                command = command_of(runtime_spec(process, options, user))
                wanted = (*DIRECTORIES, (command.cwd, 0o755), *((volume, 0o755) for volume in process.volumes))
                with writing(rootfs):
                    for directory, mode in wanted:
                        Rootfs(rootfs).make_directory(directory, mode)
                    put_init(Rootfs(rootfs), command, init_required)
                settle(rootfs, started, created(image.config))
            write_template(staging, str(rootfs), new, user)
        with writing(path):
            os.chmod(new, 0o644)
            handle = os.open(new, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            os.rename(new, path)
    return user


def _unpacked(prepare: Prepare, staging: Staging) -> tuple[str, Image]:
    """The root file system of an image, and the image as it was unpacked."""
    layout, image = prepare(staging)
    os.mkdir(os.path.join(staging.work, "tree"))
    rootfs = os.path.join(staging.work, "tree", "rootfs")
    unpack(staging, layout, image, rootfs)
    return rootfs, image


def _who(
    source: Source, options: Json, params: t.Mapping[str, t.Any], path: str | None, key: str, only_notes: bool
) -> ResolvedUser | None:
    """Whom the process of a template runs as that another run has made; None when that is not known.

    Proxmox gives no template back. When it is on a storage only, and nothing is noted here, it is unpacked again.
    """
    if path and os.path.exists(path):
        return noted_user(path)
    user = _read_note(Store(params["store"], params["timeout"]).noted(key) or "")
    if user or only_notes or not source.prepare:
        return user
    with temporary_staging() as staging:
        rootfs, image = _unpacked(source.prepare, staging)
        user = find_user(Rootfs(rootfs), user_wanted(process_of(image.config), options))
    _note(params, key, user)
    return user


def _note(params: t.Mapping[str, t.Any], key: str, user: ResolvedUser) -> None:
    # It is found out again where it cannot be noted.
    with contextlib.suppress(Failure):
        Store(params["store"], params["timeout"]).note(key, _written_note(user))


def _written_note(user: ResolvedUser) -> str:
    return " ".join(map(str, [f"user {user.uid}:{user.gid}", *user.groups]))


def _read_note(text: str) -> ResolvedUser | None:
    match = _NOTE.fullmatch(text)
    return ResolvedUser(int(match[1]), int(match[2]), tuple(map(int, match[3].split()))) if match else None


def _now(staging: Staging) -> int:
    """The clock of the file system, in nanoseconds since 1970: it is a little behind that of the system."""
    marker = os.path.join(staging.work, "now")
    with writing(marker):
        os.close(os.open(marker, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
        return os.stat(marker).st_mtime_ns


def settle(rootfs: str, started: int, moment: int) -> None:
    """Make the same of what unpacking does differently each time.

    That are the times of directories that no layer has as an entry of its own, and of those in which something was
    made; and the order of extended attributes, in which tar writes them.

    started: nanoseconds since 1970. moment: seconds since 1970.
    """
    with writing(rootfs):
        for name, about in list(members(rootfs)):
            path = os.path.join(os.fsencode(rootfs), name)
            _sort_attributes(path)
            if about.st_mtime_ns >= started:
                os.utime(path, (moment, moment), follow_symlinks=False)


def _sort_attributes(path: bytes) -> None:
    names = [name for name in os.listxattr(path, follow_symlinks=False) if name.startswith(_ATTRIBUTES)]
    if len(names) > 1:
        values = {name: os.getxattr(path, name, follow_symlinks=False) for name in sorted(names)}
        for name in values:
            os.removexattr(path, name, follow_symlinks=False)
        for name, value in values.items():
            os.setxattr(path, name, value, follow_symlinks=False)


def created(config: Json) -> int:
    """When an image was made, in seconds since 1970; 0 when it does not say (RFC 3339, image-spec, config.md)."""
    match = _MOMENT.match(str(config.get("created")))
    if not match:
        return 0
    try:
        moment = datetime.datetime.fromisoformat(f"{match[1]}T{match[2]}{match[3] or '+00:00'}")
        return max(0, int(moment.timestamp()))
    except (ValueError, OverflowError):
        return 0


def members(rootfs: str) -> t.Iterator[tuple[bytes, os.stat_result]]:
    """What belongs into a template, by its name from ``./``, in the order of the bytes.

    Devices do not: an unprivileged container cannot make them, and below ``/dev`` Proxmox leaves out everything
    (``restore_tar_archive_command`` of pve-container's PVE/LXC/Create.pm). Sockets have no content.
    """
    root = os.fsencode(rootfs)
    pending = [b"."]
    while pending:
        name = pending.pop()
        about = os.lstat(os.path.join(root, name))
        if stat.S_ISBLK(about.st_mode) or stat.S_ISCHR(about.st_mode) or stat.S_ISSOCK(about.st_mode):
            continue
        yield name, about
        if stat.S_ISDIR(about.st_mode) and name != b"./dev":
            below = sorted(os.listdir(os.path.join(root, name)), reverse=True)
            pending += [os.path.join(name, entry) for entry in below]


def tree_identity(rootfs: str) -> str:
    """What changes when a root file system does: names, owners, modes, sizes and times."""
    state = hashlib.sha256()
    with writing(rootfs):
        for name, about in members(rootfs):
            fields = (about.st_mode, about.st_uid, about.st_gid, about.st_mtime_ns)
            size = 0 if stat.S_ISDIR(about.st_mode) else about.st_size
            state.update(name + b"\0" + repr((*fields, size)).encode() + b"\n")
    return f"tree:{state.hexdigest()}"


def write_template(staging: Staging, rootfs: str, path: str, user: ResolvedUser | None) -> None:
    """Write a root file system as ``.tar.zst``, such that the same one gives the same bytes.

    user: whom the process runs as; it is noted in the archive when it was looked up.

    Raises:
        Failure: ``archive_failed``, ``disk_full``, ``write_failed``, ``command_missing``.
    """
    names = os.path.join(staging.work, "names")
    with writing(names), open(names, "wb") as file:
        for name, _about in members(rootfs):
            file.write(name + b"\0")
    note = _written_note(user) if user else ""
    # The number of threads does not change the bytes, but whether there are any does.
    pack = [f"--pax-option={_PAX}{note}", "--use-compress-program", "zstd -T0 -q"]
    done = staging.run([*_TAR, *pack, "--file", path, "--directory", rootfs, "--files-from", names])
    if done.rc:
        lines = done.stderr.strip().splitlines()
        message = lines[0] if lines else f"tar ended with {done.rc}"
        if "No space left on device" in done.stderr:
            raise write_failure(path, message, full=True)
        raise Failure("archive_failed", f"The template cannot be written: {message[:300]}.", "See the message.")


def noted_user(path: str) -> ResolvedUser | None:
    """Whom the process of a template runs as, as it was noted when it was made; None when there is no note."""
    argv = ["zstd", "--decompress", "--stdout", "--quiet", path]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()) as unpacking:
        try:
            with tarfile.open(fileobj=unpacking.stdout, mode="r|") as archive:
                return _read_note(archive.pax_headers.get("comment", ""))
        except tarfile.TarError:
            return None
        finally:
            unpacking.kill()


def write_archive(layout: Layout, image: Image, path: str) -> None:
    """Write an image as the tar archive of a layout that Proxmox 9.1 and newer take for one.

    Their names have no ``./`` (``archive_is_oci_format`` of pve-container's PVE/LXC/Create.pm), and there is exactly
    one manifest.

    Raises:
        Failure: ``blob_missing``, ``digest_mismatch``, ``disk_full``, ``write_failed``.
    """
    descriptor = descriptor_of(layout, image)
    platform = {key: image.config[key] for key in ("architecture", "os", "variant") if image.config.get(key)}
    texts = layout_files({**descriptor, "platform": platform}, "latest")
    digests = dict.fromkeys([image.digest, image.manifest["config"]["digest"], *(e["digest"] for e in image.layers)])
    with writing(path), tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, text in texts.items():
            _add_text(archive, name, text)
        for digest in digests:
            _add_file(archive, f"blobs/sha256/{digest[7:]}", layout.blob(digest))


def _add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    archive.addfile(_entry(name, len(text.encode())), io.BytesIO(text.encode()))


def _add_file(archive: tarfile.TarFile, name: str, path: str) -> None:
    if not os.path.isfile(path):
        raise Failure("blob_missing", f"{name} is missing.", "Pull the image again.", blob=name)
    with open(path, "rb") as file:
        reader = _Hashing(file)
        archive.addfile(_entry(name, os.fstat(file.fileno()).st_size), t.cast("t.IO[bytes]", reader))
    actual = reader.state.hexdigest()
    if actual != name.rpartition("/")[2]:
        raise Failure(
            "digest_mismatch",
            f"{name} has other content: its digest is sha256:{actual}.",
            "It was tampered with or is damaged; pull the image again.",
            blob=name,
            actual=f"sha256:{actual}",
        )


class _Hashing:
    """A file of which the digest is known when it is read."""

    def __init__(self, file: t.IO[bytes]) -> None:
        self._file = file
        self.state = hashlib.sha256()

    def read(self, count: int = -1) -> bytes:
        """The next bytes."""
        data = self._file.read(count)
        self.state.update(data)
        return data


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    return entry
