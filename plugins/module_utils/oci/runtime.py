# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of crun and runc: one method for each command, its answer parsed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import tempfile
import typing as t
from dataclasses import dataclass, field

from ..api.errors import Failure
from ..node.commands import environment
from ..node.files import read_text
from .cgroup import is_hybrid

Json = dict[str, t.Any]

# Bytes. What a runtime keeps of a container: its configuration, with what the runtime has made of it.
_RECORD = 64 << 10
# The runtimes, and where they keep the state of containers when root runs them.
ROOTS = {"crun": "/run/crun", "runc": "/run/runc"}
AUTO = "auto"
# As runc checks ids (libcontainer/factory_linux.go). One that begins with - would be taken for an option.
_ID = re.compile(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]{0,239}\Z")
# What a process prints is kept up to this.
MAX_OUTPUT = 16 << 20

# Stands for the name of a file that only the runtime sees.
DOCUMENT = "\0document"


def check_id(container_id: str) -> str:
    """The id itself.

    Raises:
        Failure: ``invalid_id``.
    """
    if not _ID.match(container_id) or container_id in (".", ".."):
        raise Failure(
            "invalid_id",
            f"{container_id!r} cannot be the id of a container.",
            "Use letters, digits and the characters _ + . and -, which is not the first.",
            id=container_id,
        )
    return container_id


@dataclass(frozen=True)
class Done:
    """How a command of the runtime has ended. errors: what the runtime itself has reported, first to last."""

    rc: int
    stdout: str = ""
    stderr: str = ""
    errors: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """What went wrong, in one line."""
        lines = [*self.errors] or [line.strip() for line in self.stderr.splitlines() if line.strip()]
        return "; ".join(lines)[-500:] or f"it ended with {self.rc}"


@dataclass(frozen=True)
class State:
    """What a runtime knows of a container.

    status: ``creating``, ``created``, ``running``, ``paused`` or ``stopped`` as in the specification, or ``broken``
    when there is something of it that the runtime cannot read: an interrupted creation. pid: 0 when it has none.
    """

    id: str
    status: str
    pid: int = 0
    bundle: str = ""
    created: str | None = None
    annotations: t.Mapping[str, str] = field(default_factory=dict)


def parse_state(document: t.Any) -> State | None:
    """The state in what ``state`` and ``list`` print; None when it is none."""
    if not isinstance(document, dict) or not isinstance(document.get("id"), str):
        return None
    pid = document.get("pid")
    annotations = document.get("annotations")
    return State(
        document["id"],
        str(document.get("status", "broken")),
        pid if isinstance(pid, int) and document.get("status") != "stopped" else 0,
        str(document.get("bundle") or ""),
        document.get("created") or None,
        annotations if isinstance(annotations, dict) else {},
    )


def parse_errors(log: str) -> tuple[str, ...]:
    """What a runtime has written to its log in JSON, as far as it is an error."""
    errors = []
    for line in log.splitlines():
        entry = parse_json(line)
        if isinstance(entry, dict) and entry.get("level") in ("error", "fatal", "panic"):
            errors.append(str(entry.get("msg", "")).strip())
    return tuple(errors)


def parse_json(text: str) -> t.Any:
    """JSON; None when it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return None


class Execute(t.Protocol):
    """Runs a command to its end. It and what it leaves behind have these streams; of its own pipes none stays open."""

    def __call__(
        self, argv: t.Sequence[str], stdin: str | None, output: tuple[int, int] | None, pass_fds: t.Sequence[int]
    ) -> tuple[int, str, str]: ...


def execute(
    argv: t.Sequence[str], stdin: str | None, output: tuple[int, int] | None, pass_fds: t.Sequence[int]
) -> tuple[int, str, str]:
    """Run a command; its exit code and what it printed.

    Its streams are files without a name and no pipes, because a process that it leaves behind would keep those open.

    stdin: its input; None for nothing. output: file descriptors for what it prints, which is then not returned.

    Raises:
        Failure: ``runtime_missing``, ``runtime_failed``, ``disk_full``.
    """
    try:
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            if stdin is not None:
                given.write(stdin.encode("utf-8", "surrogateescape"))
                given.seek(0)
            done = subprocess.run(
                list(argv),
                stdin=subprocess.DEVNULL if stdin is None else given,
                stdout=out if output is None else output[0],
                stderr=err if output is None else output[1],
                pass_fds=pass_fds,
                env=environment(),
                check=False,
            )
            return done.returncode, captured(out), captured(err)
    except (FileNotFoundError, PermissionError):
        raise _missing(argv[0]) from None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise Failure(
            "disk_full" if full else "runtime_failed",
            f"{argv[0]} cannot be run: {error.strerror}.",
            "Free space in /tmp." if full else "See that it is a program for this machine.",
        ) from None


def _write_all(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]
    os.lseek(handle, 0, os.SEEK_SET)


def captured(file: t.IO[bytes]) -> str:
    """What was written to a file, up to a limit."""
    file.seek(0)
    return file.read(MAX_OUTPUT).decode("utf-8", "surrogateescape")


def _missing(name: str) -> Failure:
    return Failure(
        "runtime_missing",
        f"There is no {name} on this machine.",
        "Install crun or runc there, or give its path in runtime.",
        runtime=name,
    )


class Runtime:
    """crun or runc, with the directory of its state."""

    def __init__(
        self, name: str, path: str, root: str | None = None, systemd_cgroup: bool = False, run: Execute = execute
    ) -> None:
        self.name = name
        self.path = path
        self.root = root or ROOTS[name]
        self.systemd_cgroup = systemd_cgroup
        self._run = run

    def call(
        self,
        *words: str,
        stdin: str | None = None,
        output: tuple[int, int] | None = None,
        document: Json | None = None,
    ) -> Done:
        """Run a command of it.

        output: where what the container prints goes, for good. document: what it reads from the file ``DOCUMENT``.
        """
        # Files in memory: no other process finds them, and they are gone however this one ends.
        log, given = os.memfd_create("lxcri-runtime-log"), os.memfd_create("lxcri-runtime-document")
        try:
            if document is not None:
                _write_all(given, json.dumps(document).encode("ascii"))
            names = {DOCUMENT: f"/proc/self/fd/{given}"}
            options = ["--root", self.root, "--log", f"/proc/self/fd/{log}", "--log-format", "json"]
            options += ["--systemd-cgroup"] if self.systemd_cgroup else []
            argv = [self.path, *options, *(names.get(word, word) for word in words)]
            rc, out, err = self._run(argv, stdin, output, [log, given])
            text = os.pread(log, min(os.fstat(log).st_size, MAX_OUTPUT), 0).decode("utf-8", "replace")
            return Done(rc, out, err, parse_errors(text))
        finally:
            os.close(log)
            os.close(given)

    def has(self, container_id: str) -> bool:
        """Whether there is anything of a container."""
        return os.path.isdir(os.path.join(self.root, container_id))

    def owns(self, container_id: str) -> bool:
        """Whether it is this runtime that has made a container in its directory."""
        return os.path.exists(os.path.join(self.root, container_id, "status" if self.name == "crun" else "state.json"))

    def state(self, container_id: str) -> State | None:
        """``state``; None when there is nothing of it."""
        if not self.has(container_id):
            return None
        done = self.call("state", container_id)
        found = parse_state(parse_json(done.stdout)) if not done.rc else None
        if found:
            return found
        return State(container_id, "broken") if self.has(container_id) else None

    def is_full(self) -> bool:
        """Whether there is no room in :attr:`root` for what the runtime keeps of one more container."""
        try:
            found = os.statvfs(self.root)
        except OSError:
            return False
        return found.f_bavail * found.f_frsize < _RECORD

    def states(self) -> list[State]:
        """``list``, and what is left of interrupted creations.

        Raises:
            Failure: ``runtime_failed``.
        """
        try:
            names = sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir() and _ID.match(entry.name))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise Failure(
                "runtime_failed", f"{self.root} cannot be read: {error.strerror}.", "Run as root (become)."
            ) from None
        if not names:
            return []
        done = self.call("list", "--format", "json")
        document = parse_json(done.stdout)
        if document is None and (done.rc or done.stdout.strip() not in ("", "null")):
            raise Failure("runtime_failed", f"'{self.name} list' failed: {done.why}.", f"See {self.root}.")
        listed = {state.id: state for state in map(parse_state, document or []) if state}
        return [listed.get(name) or State(name, "broken") for name in names if name in listed or self.has(name)]

    def pids(self, container_id: str) -> list[int]:
        """``ps``: the processes of a container, as the machine numbers them; none when it is not known."""
        done = self.call("ps", "--format", "json", container_id)
        document = parse_json(done.stdout)
        return sorted(pid for pid in document if isinstance(pid, int)) if isinstance(document, list) else []

    def events(self, container_id: str) -> Json | None:
        """``events --stats`` of runc; None with crun, which has no such command."""
        if self.name != "runc":
            return None
        document = parse_json(self.call("events", "--stats", container_id).stdout)
        data = document.get("data") if isinstance(document, dict) else None
        return data if isinstance(data, dict) else None

    def features(self) -> Json | None:
        """``features``; None when it is too old for that (runc before 1.1, crun before 1.8.6)."""
        document = parse_json(self.call("features").stdout)
        return document if isinstance(document, dict) and "ociVersionMin" in document else None

    def version(self) -> tuple[str, str]:
        """The version, and all that ``--version`` prints."""
        _rc, text, _err = self._run([self.path, "--version"], None, None, ())
        match = re.match(r"\S+ version (\S+)", text)
        return (match[1] if match else ""), text

    def create(self, container_id: str, bundle: str, pid_file: str, stdout: int, stderr: int) -> Done:
        """``create``. pid_file: where the number of the process goes. stdout, stderr: where what it prints goes."""
        paths = ["--bundle", bundle, "--pid-file", pid_file]
        return self.call("create", *paths, container_id, output=(stdout, stderr))

    def execute(self, container_id: str, process: Json, stdin: str | None) -> Done:
        """``exec``, with the process in the words of the specification: nothing of it is in the list of processes."""
        return self.call("exec", "--process", DOCUMENT, container_id, stdin=stdin, document=process)

    def update(self, container_id: str, resources: Json) -> Done:
        """``update``. resources: as in ``linux.resources``."""
        return self.call("update", "--resources", DOCUMENT, container_id, document=resources)

    def checkpoint(self, container_id: str, images: str, options: t.Mapping[str, t.Any]) -> Done:
        """``checkpoint``."""
        flags = criu_flags(self.name, options)
        if options.get("leave_running"):
            flags.append("--leave-running")
        return self.call("checkpoint", "--image-path", images, "--work-path", images, *flags, container_id)

    def restore(
        self, container_id: str, bundle: str, images: str, work: str, options: t.Mapping[str, t.Any], output: int
    ) -> Done:
        """``restore``, in the background. work: a directory for the log of CRIU."""
        flags = criu_flags(self.name, options)
        paths = ["--image-path", images, "--work-path", work, "--bundle", bundle]
        return self.call("restore", "--detach", *paths, *flags, container_id, output=(output, output))


def criu_flags(name: str, options: t.Mapping[str, t.Any]) -> list[str]:
    """The options of ``checkpoint`` and ``restore``.

    crun ignores control groups by default: it makes that of the container itself, and CRIU's refuses to meet it.
    """
    flags = [
        f"--{option.replace('_', '-')}"
        for option in ("tcp_established", "ext_unix_sk", "shell_job", "file_locks")
        if options.get(option)
    ]
    mode = options.get("manage_cgroups_mode") or ("ignore" if name == "crun" else None)
    return [*flags, *(["--manage-cgroups-mode", mode] if mode else [])]


def installed() -> list[str]:
    """The names of the runtimes that are there, best first.

    crun starts faster, but does not work where both versions of control groups are mounted.
    """
    names = [name for name in ROOTS if _which(name)]
    if is_hybrid(read_text("/proc/self/mountinfo") or ""):
        names.reverse()
    return names


def _which(name: str) -> str | None:
    return shutil.which(name, path=environment()["PATH"])


def find_runtimes(
    wanted: str, root: str | None = None, systemd_cgroup: bool = False, run: Execute = execute
) -> list[Runtime]:
    """The runtimes that are meant, best first.

    wanted: ``auto`` for those that are there, ``crun``, ``runc``, or the path of one.

    Raises:
        Failure: ``runtime_missing``, ``runtime_unknown``.
    """
    if wanted == AUTO:
        names = installed()
        if not names:
            raise _missing("crun or runc")
        return [Runtime(name, _which(name) or name, root, systemd_cgroup, run) for name in names]
    path = _which(wanted)
    if not path:
        raise _missing(wanted)
    name = os.path.basename(wanted)
    if name not in ROOTS:
        _rc, text, _err = run([path, "--version"], None, None, ())
        name = text.split(" ", 1)[0]
    if name not in ROOTS:
        raise Failure(
            "runtime_unknown", f"{wanted} is neither crun nor runc.", "Give one of these in runtime.", runtime=wanted
        )
    return [Runtime(name, path, root, systemd_cgroup, run)]


def find_runtime(
    wanted: str, container_id: str, root: str | None = None, systemd_cgroup: bool = False, run: Execute = execute
) -> Runtime:
    """The runtime for a container: the one that has it, else the best.

    Raises:
        Failure: as :func:`find_runtimes`.
    """
    found = find_runtimes(wanted, root, systemd_cgroup, run)
    owner = next((runtime for runtime in found if runtime.owns(container_id)), None)
    return owner or next((runtime for runtime in found if runtime.has(container_id)), found[0])
