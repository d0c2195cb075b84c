# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks into a root file system that nobody vouches for, and never out of it."""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import secrets
import stat
import typing as t

from ..api.errors import Failure
from .runtime_spec import ResolvedUser

# As the kernel does it (path_resolution(7)).
_MAX_LINKS = 40
# Of /etc/passwd and /etc/group; a larger one is no honest file.
_MAX_FILE = 16 << 20
# As runc (libcontainer/user): what fits the kernel and every architecture.
_MAX_ID = (1 << 31) - 1
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Way(t.NamedTuple):
    """How a name was resolved.

    end: what is there, opened; None when it is neither a file nor a directory. made: whether directories were made.
    passed: the entries on the way, each as the inode of its directory and its name.
    """

    end: int | None
    made: bool
    passed: list[tuple[int, str]]


class Rootfs:
    """A root file system in a directory.

    Names in it are resolved as in a chroot, one after the other from an open directory, so that no symbolic link and
    no ``..`` leads out of it, not even while somebody changes it.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def read(self, name: str) -> str | None:
        """The text of a file; None when there is no such regular file, or it is too large."""
        file = self._file(name)
        if file is None:
            return None
        with file:
            data = file.read(_MAX_FILE + 1)
        return data.decode("utf-8", "surrogateescape") if len(data) <= _MAX_FILE else None

    def is_executable(self, name: str) -> bool:
        """Whether there is a regular file that somebody may execute."""
        file = self._file(name)
        if file is None:
            return False
        with file:
            return bool(os.fstat(file.fileno()).st_mode & 0o111)

    def leads_to(self, name: str, target: str) -> bool:
        """Whether a name is that of a file, or of a link that leads to it or through it."""
        directory, name_there = posixpath.split(target)
        above, way = self._find(directory), self._find(name)
        ends = [end for end in (above.end, way.end) if end is not None]
        try:
            return len(ends) == 2 and (os.fstat(ends[0]).st_ino, name_there) in way.passed
        finally:
            for end in ends:
                os.close(end)

    def make_directory(self, name: str, mode: int = 0o755) -> bool:
        """Make a directory and those above it, owned by root; whether there was something to make.

        Raises:
            Failure: ``not_a_directory``, when something else is in the way.
        """
        handle, made = self._directory(name, mode)
        os.close(handle)
        return made

    def replace(self, name: str, data: bytes, mode: int) -> None:
        """Write a file, owned by root, in the place of a file or a symbolic link. What is beside it stays.

        Raises:
            Failure: ``not_a_directory``, ``not_a_file``, when something else is in the way.
        """
        above, name_there = posixpath.split(name)
        directory, _made = self._directory(above, 0o755)
        # A name that no image can have.
        new = f".lxcri-{secrets.token_hex(16)}"
        try:
            handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                os.fchmod(handle, mode)
            os.rename(new, name_there, src_dir_fd=directory, dst_dir_fd=directory)
        except IsADirectoryError:
            raise Failure(
                "not_a_file",
                f"{name} is a directory in the root file system, where a file has to be.",
                "Use an image without it.",
                path=name,
            ) from None
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new, dir_fd=directory)
            os.close(directory)

    def _file(self, name: str) -> t.IO[bytes] | None:
        end = self._find(name).end
        if end is None:
            return None
        if stat.S_ISREG(os.fstat(end).st_mode):
            return os.fdopen(end, "rb")
        os.close(end)
        return None

    def _find(self, name: str) -> Way:
        try:
            return self._walk(name)
        except OSError as error:
            # It was changed meanwhile, or nothing can be called so.
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
                raise
            return Way(None, made=False, passed=[])

    def _directory(self, name: str, mode: int) -> tuple[int, bool]:
        try:
            end, made, _passed = self._walk(name, mode)
        except OSError as error:
            raise _not_a_directory(name, error.strerror) from None
        if end is None:
            raise _not_a_directory(name)
        if not stat.S_ISDIR(os.fstat(end).st_mode):
            os.close(end)
            raise _not_a_directory(name)
        return end, made

    def _walk(self, name: str, make: int | None = None) -> Way:
        """Resolve a name. make: the mode of the directories that are made; None makes none."""
        directories = [os.open(self.path, _DIRECTORY)]
        made = False
        passed = []
        try:
            pending = _parts(name)
            links = 0
            while pending:
                part = pending.pop(0)
                if part == "..":
                    if len(directories) > 1:
                        os.close(directories.pop())
                    continue
                here = directories[-1]
                passed.append((os.fstat(here).st_ino, part))
                try:
                    about = os.lstat(part, dir_fd=here)
                except FileNotFoundError:
                    if make is None:
                        return Way(None, made, passed)
                    os.mkdir(part, 0o755, dir_fd=here)
                    made = True
                    directories.append(os.open(part, _DIRECTORY, dir_fd=here))
                    # Whatever the umask was.
                    os.fchmod(directories[-1], 0o755 if pending else make)
                    continue
                if stat.S_ISLNK(about.st_mode):
                    links += 1
                    if links > _MAX_LINKS:
                        return Way(None, made, passed)
                    target = os.readlink(part, dir_fd=here)
                    if target.startswith("/"):
                        while len(directories) > 1:
                            os.close(directories.pop())
                    pending = _parts(target) + pending
                elif stat.S_ISDIR(about.st_mode):
                    directories.append(os.open(part, _DIRECTORY, dir_fd=here))
                elif stat.S_ISREG(about.st_mode) and not pending:
                    return Way(os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here), made, passed)
                else:
                    return Way(None, made, passed)
            return Way(directories.pop(), made, passed)
        finally:
            for handle in directories:
                os.close(handle)


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".")]


def _not_a_directory(name: str, why: str | None = None) -> Failure:
    return Failure(
        "not_a_directory",
        f"{name} cannot be made a directory in the root file system{': ' + why if why else ''}.",
        "Something else is there in the image: choose another process.cwd, or an image without it in Volumes.",
        path=name,
    )


class Account(t.NamedTuple):
    """A line of /etc/passwd."""

    name: str
    uid: int
    gid: int


class Group(t.NamedTuple):
    """A line of /etc/group."""

    name: str
    gid: int
    members: tuple[str, ...]


def accounts(text: str) -> list[Account]:
    """What /etc/passwd says; lines that make no sense are left out."""
    found = []
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) >= 4 and fields[0] and _is_id(fields[2]) and _is_id(fields[3]):
            found.append(Account(fields[0], int(fields[2]), int(fields[3])))
    return found


def groups(text: str) -> list[Group]:
    """What /etc/group says; lines that make no sense are left out."""
    found = []
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) >= 3 and fields[0] and _is_id(fields[2]):
            members = tuple(name.strip() for name in fields[3].split(",")) if len(fields) > 3 else ()
            found.append(Group(fields[0], int(fields[2]), members))
    return found


def _is_id(text: str) -> bool:
    # Python refuses to read very long numbers.
    return len(text) <= len(str(_MAX_ID)) and text.isascii() and text.isdigit() and int(text) <= _MAX_ID


def resolve_user(wanted: str, passwd: str, group: str) -> ResolvedUser:
    """Whom a process runs as (image-spec, config.md, ``User``; ``GetExecUser`` of moby/sys/user, as runc has it).

    wanted: ``name``, ``uid``, ``name:group``, ``uid:gid`` …; empty is root. passwd, group: the text of these files.
    A number is never a name. Without a group it is that of the account, and the groups that have it as a member are
    supplementary; a number without an account has group 0. With a group there are no supplementary ones.

    Raises:
        Failure: ``user_unknown``.
    """
    name, _colon, group_name = wanted.partition(":")
    name = name or "0"
    uid, gid = 0, 0
    number = int(name) if _is_id(name) else None
    matching = (entry for entry in accounts(passwd) if (entry.name == name if number is None else entry.uid == number))
    account = next(matching, None)
    if account:
        uid, gid = account.uid, account.gid
    elif number is not None:
        uid = number
    else:
        raise _unknown("user", name, wanted)
    if not group_name:
        member = account.name if account else None
        return ResolvedUser(uid, gid, tuple(sorted({entry.gid for entry in groups(group) if member in entry.members})))
    if _is_id(group_name):
        return ResolvedUser(uid, int(group_name))
    found = next((entry for entry in groups(group) if entry.name == group_name), None)
    if found is None:
        raise _unknown("group", group_name, wanted)
    return ResolvedUser(uid, found.gid)


def _unknown(kind: str, name: str, wanted: str) -> Failure:
    return Failure(
        "user_unknown",
        f"The root file system has no {kind} {name!r}.",
        "Give numbers in process.user, such as 1000:1000.",
        user=wanted,
    )


def find_user(rootfs: Rootfs | None, wanted: str) -> ResolvedUser:
    """Whom a process runs as in a root file system; None is one that is not there, and only knows numbers.

    Raises:
        Failure: ``user_unknown``.
    """
    if rootfs is None:
        return resolve_user(wanted, "", "")
    return resolve_user(wanted, rootfs.read("/etc/passwd") or "", rootfs.read("/etc/group") or "")
