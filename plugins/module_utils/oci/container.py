# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the module ``oci_container`` does: reads a container, plans, and carries the plan out."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import select
import signal
import stat
import tempfile
import time
import typing as t
from dataclasses import dataclass, field

from ..api.errors import Failure
from ..node.files import read_text, write_private
from . import criu
from .cgroup import Cgroup, cgroup_of, limits_declared, limits_of, oom_kills, remove_empty, same_limit
from .layout import Json
from .lifecycle import (
    ALIVE,
    STATES,
    STOP_SIGNAL,
    Actual,
    Change,
    Declared,
    Plan,
    check_config,
    declared_of,
    plan_container,
    process_of_exec,
    resources_of,
    signal_name,
    signal_number,
)
from .rootfs import Rootfs, find_user
from .runtime import AUTO, Done, Runtime, State, captured, check_id, find_runtime, parse_json
from .runtime_spec import ResolvedUser

# What is known of containers beside what the runtime knows. As that, it is gone when the machine starts anew.
RECORDS = "/run/lxcri/oci"
LOGS = "/var/log/lxcri/oci"
# Configurations are small.
_MAX_CONFIG = 8 << 20
# Seconds. An interrupted creation looks like one that somebody else is at, for a moment.
_CREATION = 1.0
_LOCK = 60.0
_KILLED = 10.0
# What prctl(2) calls PR_SET_CHILD_SUBREAPER.
_SUBREAPER = 36

# What runc and crun say when a program cannot be executed: there is no code for it.
_NOT_EXECUTED = re.compile(r"executable file|exec: \"|open executable|find_executable|exec format|execve?[ :`(]", re.I)
_BAD_CONFIG = re.compile(
    r"unmarshal|parse|invalid (character|spec|config|rootfs)|required|must be|json|ociVersion", re.I
)


def container_options() -> dict[str, t.Any]:
    """The options that say which runtime is meant."""
    return {
        "runtime": {"type": "str", "default": AUTO},
        "root": {"type": "path"},
    }


def declared_options() -> dict[str, t.Any]:
    """The other options of ``oci_container``."""
    flags = {
        **{name: {"type": "bool", "default": False} for name in criu.FLAGS},
        "manage_cgroups_mode": {"type": "str", "choices": list(criu.CGROUP_MODES)},
    }
    path = {"type": "str", "required": True}
    return {
        "id": {"type": "str", "required": True},
        "state": {"type": "str", "choices": list(STATES)},
        "bundle": {"type": "path"},
        "cgroup_manager": {"type": "str", "choices": ["cgroupfs", "systemd"], "default": "cgroupfs"},
        "recreate": {"type": "str", "choices": ["never", "if_changed"], "default": "never"},
        "log": {"type": "path"},
        "stop_signal": {"type": "str"},
        "stop_timeout": {"type": "float", "default": 10},
        "wait": {"type": "bool", "default": False},
        "wait_timeout": {"type": "float"},
        "kill": {"type": "str"},
        "exec": {
            "type": "dict",
            "options": {
                "command": {"type": "list", "elements": "str", "required": True},
                "env": {"type": "dict"},
                "cwd": {"type": "str"},
                "user": {"type": "str"},
                "stdin": {"type": "str"},
            },
        },
        "update": {
            "type": "dict",
            "options": {
                "memory": {
                    "type": "dict",
                    "options": {name: {"type": "str"} for name in ("limit", "reservation", "swap")},
                },
                "cpu": {
                    "type": "dict",
                    "options": {
                        **{name: {"type": "int"} for name in ("shares", "quota", "period")},
                        **{name: {"type": "str"} for name in ("cpus", "mems")},
                    },
                },
                "pids": {"type": "dict", "options": {"limit": {"type": "int", "required": True}}},
                "block_io": {"type": "dict", "options": {"weight": {"type": "int", "required": True}}},
            },
        },
        "checkpoint": {
            "type": "dict",
            "options": {"path": path, "leave_running": {"type": "bool", "default": False}, **flags},
        },
        "restore": {"type": "dict", "options": {"path": path, **flags}},
    }


@dataclass(frozen=True)
class Bundle:
    """A bundle as it is on the disk. failure: what stands against running it."""

    path: str
    config: Json = field(default_factory=dict)
    digest: str | None = None
    failure: Failure | None = None

    @property
    def rootfs(self) -> str:
        """The directory of its root file system."""
        return os.path.join(self.path, self.config["root"]["path"])

    @property
    def resources(self) -> Json:
        """``linux.resources``."""
        found = (self.config.get("linux") or {}).get("resources")
        return found if isinstance(found, dict) else {}


def read_bundle(path: str) -> Bundle:
    """Read a bundle; a failure is part of the result."""
    try:
        with open(os.path.join(path, "config.json"), "rb") as file:
            data = file.read(_MAX_CONFIG + 1)
    except OSError as error:
        why = "there is no config.json" if os.path.isdir(path) else (error.strerror or "it cannot be read")
        return Bundle(path, failure=_bundle_missing(path, why))
    digest = hashlib.sha256(data).hexdigest()
    if len(data) > _MAX_CONFIG:
        return Bundle(path, digest=digest, failure=_invalid_spec(path, "config.json is larger than 8 MiB"))
    config = parse_json(data.decode("utf-8", "replace"))
    wrong = "it is no JSON" if config is None else check_config(config)
    if wrong:
        return Bundle(path, digest=digest, failure=_invalid_spec(path, wrong))
    found = Bundle(path, config, digest)
    if not os.path.isdir(found.rootfs):
        return Bundle(path, config, digest, _bundle_missing(path, f"there is no root file system {found.rootfs}"))
    return found


def _bundle_missing(path: str, why: str) -> Failure:
    return Failure(
        "bundle_missing",
        f"{path} is no bundle: {why}.",
        "Make it with oci_bundle, or correct the path.",
        bundle=path,
    )


def _invalid_spec(path: str, why: str) -> Failure:
    return Failure(
        "invalid_spec",
        f"The configuration of the bundle {path} cannot be used: {why}.",
        "Correct config.json (OCI runtime specification, config.md).",
        bundle=path,
    )


class Records:
    """What is remembered of the containers of a runtime: of which configuration they are, and where they print to."""

    def __init__(self, runtime: Runtime, directory: str = RECORDS) -> None:
        key = hashlib.sha256(os.path.abspath(runtime.root).encode()).hexdigest()[:12]
        self.directory = os.path.join(directory, f"{runtime.name}-{key}")

    def path(self, container_id: str, kind: str) -> str:
        """A file for a container."""
        return os.path.join(self.directory, f"{container_id}.{kind}")

    def read(self, container_id: str, pid: int = 0) -> Json:
        """What is remembered of a container; nothing of one that somebody else has made.

        pid: of the container as it is.
        """
        try:
            record = parse_json(read_text(self.path(container_id, "json")) or "")
        except OSError:
            return {}
        if not isinstance(record, dict) or (pid and record.get("pid") not in (None, pid)):
            return {}
        return record

    def write(self, container_id: str, record: Json) -> None:
        """Remember.

        Raises:
            Failure: ``store_failed``.
        """
        write_private(self.path(container_id, "json"), json.dumps(record))

    def forget(self, container_id: str) -> None:
        """Forget."""
        for kind in ("json", "pid"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path(container_id, kind))

    @contextlib.contextmanager
    def lock(self, container_id: str, patience: float = _LOCK) -> t.Iterator[None]:
        """Nobody else changes the container meanwhile. The kernel ends it with this process.

        Raises:
            Failure: ``locked``, ``store_failed``.
        """
        path = self.path(container_id, "lock")
        handle = self._locked(path, container_id, patience)
        try:
            yield
        finally:
            if not os.path.exists(self.path(container_id, "json")):
                # Nothing is left of the container. Who waits for the lock sees that its file is gone.
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            os.close(handle)

    def _locked(self, path: str, container_id: str, patience: float) -> int:
        end = time.monotonic() + patience
        while True:
            try:
                os.makedirs(self.directory, mode=0o700, exist_ok=True)
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                raise Failure(
                    "store_failed", f"{path} cannot be written: {error.strerror}.", "Run as root (become).", path=path
                ) from None
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(handle).st_ino == os.stat(path).st_ino:
                    return handle
            except FileNotFoundError:
                pass
            except OSError:
                if time.monotonic() > end:
                    os.close(handle)
                    raise Failure(
                        "locked",
                        f"Somebody else changes container {container_id}.",
                        "Run again when that has ended.",
                        id=container_id,
                    ) from None
                time.sleep(0.05)
            os.close(handle)


def run_declared(params: t.Mapping[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """The result of ``oci_container``.

    Raises:
        Failure: what stands against it.
    """
    check_id(params["id"])
    declared = declared_of(params)
    for name in ("checkpoint", "restore"):
        if params[name]:
            criu.check_options(name, params[name])
    systemd = params["cgroup_manager"] == "systemd"
    runtime = find_runtime(params["runtime"], params["id"], params["root"], systemd)
    return Engine(runtime, declared, params, check_mode).run()


class Engine:
    """One run of the module."""

    def __init__(
        self,
        runtime: Runtime,
        declared: Declared,
        params: t.Mapping[str, t.Any],
        check_mode: bool,
        records: Records | None = None,
    ) -> None:
        self.runtime, self.declared, self.params, self.check_mode = runtime, declared, params, check_mode
        self.id = declared.id
        self.records = records or Records(runtime)
        self.state: State | None = None
        self.bundle: Bundle | None = None
        self.cgroup = Cgroup()
        self.notes: list[str] = []
        self.output: Json = {}
        self.failure: Failure | None = None
        self._streams: tuple[t.IO[bytes], ...] = ()

    def run(self) -> dict[str, t.Any]:
        """Read, plan, and unless in check mode apply."""
        actual, plan = self._planned()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            self._streams = (out, err)
            if not self.check_mode and plan.early:
                with self.records.lock(self.id):
                    # Again, now that nobody else is at it.
                    actual, plan = self._planned()
                    self._apply(plan.early, plan)
            if not self.check_mode:
                self._apply(plan.late, plan)
        return self._result(actual, plan)

    def _planned(self) -> tuple[Actual, Plan]:
        actual = self._read()
        plan = plan_container(self.declared, actual)
        self._preflight(plan)
        return actual, plan

    # ---------------------------------------------------------------------------------------------- what there is

    def _read(self) -> Actual:
        declared = self.declared
        self.state = self._settled()
        state = self.state
        path = os.path.abspath(declared.bundle) if declared.bundle else (state.bundle if state else "")
        self.bundle = read_bundle(path) if path else None
        alive = state is not None and state.status in ALIVE
        self.cgroup = cgroup_of(state.pid) if state and alive and state.pid else Cgroup()
        return Actual(
            state.status if state else "absent",
            self._outdated() if alive else (),
            limits_of(self.cgroup) if declared.update and alive else {},
            limits_declared(self.bundle.resources) if declared.update and self.bundle else {},
            bool(declared.checkpoint) and criu.is_complete((declared.checkpoint or {})["path"]),
            bool(declared.checkpoint) and criu.is_dumped(criu.partial_of((declared.checkpoint or {})["path"])),
        )

    def _settled(self) -> State | None:
        """The state. What looks broken may be a creation that somebody is at."""
        end = time.monotonic() + _CREATION
        while True:
            state = self.runtime.state(self.id)
            if not state or state.status not in ("broken", "creating"):
                return state
            if time.monotonic() > end:
                return State(self.id, "broken", bundle=state.bundle)
            time.sleep(0.1)

    def _outdated(self) -> tuple[Change, ...]:
        if not self.declared.bundle or not self.bundle or not self.state or self.bundle.failure:
            return ()
        changes = []
        if os.path.realpath(self.state.bundle) != os.path.realpath(self.bundle.path):
            changes.append(Change("bundle", self.state.bundle, self.bundle.path))
        record = self.records.read(self.id, self.state.pid)
        if record.get("config") not in (None, self.bundle.digest):
            changes.append(Change("config.json", record["config"], self.bundle.digest))
        return tuple(changes)

    def _preflight(self, plan: Plan) -> None:
        """What can be known to stand against a plan before anything is touched."""
        declared = self.declared
        if plan.creates or "exec" in plan.steps:
            if not self.bundle:
                raise Failure("invalid_option", f"There is no container {self.id}.", "Give its bundle to make it of.")
            if self.bundle.failure:
                if not self.check_mode or not plan.creates or self.bundle.digest:
                    raise self.bundle.failure
                # A task before this one, which in check mode did nothing, makes it.
                self.notes = [self.bundle.failure.sentence]
            elif "exec" in plan.steps:
                self._user()
        if "checkpoint" in plan.steps and self.state:
            criu.require(self.runtime, self.id, self.state.pid)
        if "restore" in plan.steps and declared.restore and self.bundle and self.bundle.digest:
            criu.check_restorable(declared.restore["path"], self.runtime, self.bundle.digest)

    # ------------------------------------------------------------------------------------------------- what to do

    def _apply(self, steps: t.Sequence[str], plan: Plan) -> None:
        actions: dict[str, t.Callable[[], None]] = {
            "create": lambda: self._create(plan),
            "start": self._start,
            "restore": self._restore,
            "pause": lambda: self._plainly("pause"),
            "resume": lambda: self._plainly("resume"),
            "stop": self._stop,
            "delete": self._delete,
            "update": lambda: self._update(plan),
            "checkpoint": self._checkpoint,
            "adopt": self._adopt,
            "wait": self._wait,
            "kill": self._kill,
            "exec": self._exec,
        }
        for step in steps:
            actions[step]()

    def _plainly(self, verb: str) -> None:
        done = self.runtime.call(verb, self.id)
        if done.rc:
            raise Failure(
                {"pause": "pause_failed", "resume": "resume_failed"}[verb],
                f"Container {self.id} did not {verb}: {done.why}.",
                "See its state with oci_container_info.",
                id=self.id,
            )

    def _create(self, plan: Plan) -> None:
        bundle = t.cast("Bundle", self.bundle)
        log = None if "wait" in plan.steps else self._log_path()
        self._remember(bundle, log)
        pid_file = self.records.path(self.id, "pid")
        if log is None:
            self._subreaper()
            out, err = self._streams
            done = self.runtime.create(self.id, bundle.path, pid_file, out.fileno(), err.fileno())
        else:
            with opened_log(log) as output:
                done = self.runtime.create(self.id, bundle.path, pid_file, output, output)
        pid = taken_number(pid_file)
        if done.rc:
            self._undo_creation()
            raise creation_failure(self.id, bundle, done, self.runtime.is_full())
        self._found(bundle, log, pid)

    def _remember(self, bundle: Bundle, log: str | None, pid: int | None = None) -> None:
        record = {"config": bundle.digest, "bundle": bundle.path, "log": log, "pid": pid}
        self.records.write(self.id, record)

    def _found(self, bundle: Bundle, log: str | None, pid: int | None) -> None:
        """Take note of the container that was made. pid: of its process; None when it has to be asked for."""
        # The runtime takes longer to tell than all that is done here.
        self.state = State(self.id, "created", pid, bundle.path) if pid else self.runtime.state(self.id)
        pid = self.state.pid if self.state else 0
        self.cgroup = cgroup_of(pid) if pid else Cgroup()
        if pid:
            self._remember(bundle, log, pid)

    def _undo_creation(self) -> None:
        if self.runtime.has(self.id):
            self.runtime.call("delete", "--force", self.id)
        self.records.forget(self.id)

    def _log_path(self) -> str:
        return self.params["log"] or os.path.join(LOGS, f"{self.id}.log")

    @staticmethod
    def _subreaper() -> None:
        """From now on processes that lose their parent are children of this one, and it learns how they end."""
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)

    def _start(self) -> None:
        done = self.runtime.call("start", self.id)
        if not done.rc:
            return
        self._stop()
        self._delete()
        if _NOT_EXECUTED.search(done.why):
            raise _exec_failed(self.id, done)
        raise Failure(
            "start_failed",
            f"Container {self.id} did not start: {done.why}.",
            "See its log, and hooks in its configuration. It was removed.",
            id=self.id,
        )

    def _wait(self) -> None:
        state = t.cast("State", self.state)
        timeout = self.params["wait_timeout"]
        if not has_ended(state.pid, timeout):
            self._stop()
            self._collect(None)
            self._delete()
            raise Failure(
                "wait_timeout",
                f"Container {self.id} has not ended in {timeout:g} seconds, and was stopped and removed.",
                "Raise wait_timeout, or see what it waits for.",
                id=self.id,
                **self.output,
            )
        self._collect(exit_code(state.pid))
        self._judge(0)

    def _collect(self, rc: int | None) -> None:
        out, err = self._streams
        self.output = {"rc": rc, "stdout": captured(out), "stderr": captured(err)}

    def _judge(self, kills_before: int | None) -> None:
        rc = self.output["rc"]
        if rc == 128 + signal.SIGKILL and (oom_kills(self.cgroup) or 0) > (kills_before or 0):
            self.failure = Failure(
                "oom_killed",
                f"A process in container {self.id} was killed because its memory limit was reached.",
                "Raise the memory limit.",
                id=self.id,
            )
        elif rc is None:
            self.notes.append(f"How container {self.id} has ended could not be learned.")
        elif rc:
            self.failure = Failure(
                "command_failed",
                f"The process in container {self.id} has ended with {rc}.",
                "See stdout and stderr; failed_when decides otherwise.",
                id=self.id,
            )

    def _stop(self) -> None:
        state = self.runtime.state(self.id)
        if not state or state.status not in ALIVE or not state.pid:
            return
        self.cgroup = cgroup_of(state.pid)
        first = self._stop_signal(state)
        if self.params["stop_timeout"] <= 0 or state.status == "created":
            # What is only created is a process of the runtime, with nothing to put in order.
            first = signal.SIGKILL
        if first != signal.SIGKILL:
            self._signal(first, state)
            if has_ended(state.pid, self.params["stop_timeout"]):
                exit_code(state.pid)
                return
        self._signal(signal.SIGKILL, state)
        if not has_ended(state.pid, _KILLED):
            raise Failure(
                "stop_failed",
                f"The process {state.pid} of container {self.id} survives SIGKILL.",
                "It waits for the kernel: a disk or a network file system that does not answer.",
                id=self.id,
                pid=state.pid,
            )
        exit_code(state.pid)

    def _stop_signal(self, state: State) -> int:
        given = self.params["stop_signal"] or state.annotations.get(STOP_SIGNAL)
        if not given and self.bundle:
            given = (self.bundle.config.get("annotations") or {}).get(STOP_SIGNAL)
        return signal_number(given) if given else signal.SIGTERM

    def _signal(self, number: int, state: State) -> None:
        done = self.runtime.call("kill", self.id, str(int(number)))
        now = self.runtime.state(self.id)
        if now and now.status == "paused":
            # It gets the signal when it is thawed, and not before.
            self._plainly("resume")
        elif done.rc and now and now.status in ALIVE and not has_ended(state.pid, 0):
            raise Failure(
                "kill_failed",
                f"Container {self.id} got no {signal_name(number)}: {done.why}.",
                "See its state with oci_container_info.",
                id=self.id,
            )

    def _delete(self) -> None:
        done = self.runtime.call("delete", "--force", self.id)
        if self.runtime.has(self.id):
            raise Failure(
                "delete_failed",
                f"Container {self.id} was not removed: {done.why}.",
                f"See {os.path.join(self.runtime.root, self.id)}, and what is mounted there.",
                id=self.id,
            )
        if self.state and self.state.status == "broken":
            # The runtime has not noted where they are. By default they have the name of the container.
            given = ((self.bundle.config if self.bundle else {}).get("linux") or {}).get("cgroupsPath")
            remove_empty([given if isinstance(given, str) and ":" not in given else self.id])
        self.records.forget(self.id)
        self.state = None

    def _update(self, plan: Plan) -> None:
        limits = limits_of(self.cgroup)
        update = {key: value for key, value in plan.update.items() if not same_limit(key, value, limits.get(key))}
        if not update:
            return
        done = self.runtime.update(self.id, resources_of(update, limits))
        limits = limits_of(self.cgroup)
        wrong = [key for key, value in update.items() if not same_limit(key, value, limits.get(key))]
        if done.rc or wrong:
            found = {key: limits[key].plain if key in limits else None for key in wrong}
            raise Failure(
                "update_failed",
                f"The limits of container {self.id} were not set: {done.why if done.rc else found}.",
                "See what the control group admits; more processes or memory may be in use than the limit allows.",
                id=self.id,
                limits=found,
            )

    def _kill(self) -> None:
        number = t.cast("int", self.declared.kill)
        done = self.runtime.call("kill", self.id, str(number))
        if done.rc:
            raise Failure(
                "kill_failed",
                f"Container {self.id} got no {signal_name(number)}: {done.why}.",
                "See its state with oci_container_info.",
                id=self.id,
            )

    def _exec(self) -> None:
        wanted = t.cast("t.Mapping[str, t.Any]", self.declared.exec)
        bundle = t.cast("Bundle", self.bundle)
        process = process_of_exec(bundle.config.get("process"), wanted, self._user())
        before = oom_kills(self.cgroup)
        done = self.runtime.execute(self.id, process, wanted.get("stdin"))
        if done.errors:
            raise _exec_failed(self.id, done)
        self.output = {"rc": done.rc, "stdout": done.stdout, "stderr": done.stderr}
        self._judge(before)

    def _user(self) -> ResolvedUser | None:
        wanted, bundle = self.declared.exec, self.bundle
        if not wanted or not wanted.get("user") or not bundle:
            return None
        return find_user(Rootfs(bundle.rootfs), wanted["user"])

    # ------------------------------------------------------------------------------------------------- checkpoints

    def _checkpoint(self) -> None:
        options = t.cast("t.Mapping[str, t.Any]", self.declared.checkpoint)
        record = self.records.read(self.id)
        about = {"id": self.id, "runtime": self.runtime.name, "config": record.get("config")}
        criu.dump(self.runtime, self.id, options, about)
        if not options["leave_running"]:
            self._delete()

    def _adopt(self) -> None:
        criu.adopt(t.cast("t.Mapping[str, t.Any]", self.declared.checkpoint)["path"])
        self.records.forget(self.id)

    def _restore(self) -> None:
        options = t.cast("t.Mapping[str, t.Any]", self.declared.restore)
        bundle = t.cast("Bundle", self.bundle)
        self._remember(bundle, None)
        try:
            criu.restore(self.runtime, self.id, bundle.path, options)
        except Failure:
            self._undo_creation()
            raise
        self._found(bundle, None, None)

    # -------------------------------------------------------------------------------------------------- the result

    def _state_after(self, plan: Plan) -> State | None:
        made = self.state
        if plan.steps[-1:] in (("create",), ("start",)) and made and made.pid and is_alive(made.pid):
            return State(self.id, plan.status, made.pid, made.bundle)
        return made if not plan.steps else self.runtime.state(self.id)

    def _result(self, actual: Actual, plan: Plan) -> dict[str, t.Any]:
        state = None if self.check_mode else self._state_after(plan)
        status = plan.status if self.check_mode else state.status if state else "absent"
        if plan.status == "running" and status == "stopped":
            self.notes.append(
                f"The process of container {self.id} has ended already. How is not known; wait: true tells, and its "
                "output is in its log."
            )
        outdated = bool(actual.outdated) and not plan.creates
        if outdated:
            self.notes.append(
                f"Container {self.id} is not of its bundle as that is now; recreate: if_changed makes it anew."
            )
        known = state or (self.state if self.check_mode else None)
        record = self.records.read(self.id, known.pid if known else 0)
        result: dict[str, t.Any] = {
            "changed": bool(plan.steps),
            "plan": [change.as_dict() for change in plan.changes],
            "steps": list(plan.steps),
            "container": {
                "id": self.id,
                "status": status,
                "pid": known.pid or None if known else None,
                "bundle": self.bundle.path if self.bundle else None,
                "log": record.get("log"),
            },
            "runtime": {"name": self.runtime.name, "path": self.runtime.path, "root": self.runtime.root},
            "recreate_required": outdated,
            "diff": [],
            **self.output,
        }
        if plan.changes:
            result["diff"] = [
                {
                    "before_header": f"container {self.id}",
                    "after_header": f"container {self.id}",
                    "before": {change.key: change.before for change in plan.changes},
                    "after": {change.key: change.after for change in plan.changes},
                }
            ]
        if self.notes:
            result["warnings"] = self.notes
        if self.failure:
            result.update(msg=self.failure.sentence, failure=self.failure.as_dict())
        return result


def _exec_failed(container_id: str, done: Done) -> Failure:
    return Failure(
        "exec_failed",
        f"The command could not be executed in container {container_id}: {done.why}.",
        "See that the program is there, is executable, and is of this machine's architecture.",
        id=container_id,
    )


def creation_failure(container_id: str, bundle: Bundle, done: Done, full: bool) -> Failure:
    """What it means that a runtime has not created a container. full: whether it has no room for its state."""
    why = done.why
    if "hybrid" in why:
        return Failure(
            "cgroups_unsupported",
            f"This runtime does not work with the control groups of this machine: {why}.",
            "Use runc, or boot with control groups of version 2 alone.",
            id=container_id,
        )
    # runc does not say why it could not store it.
    if "o space left on device" in why or (full and "store init state" in why):
        return Failure("disk_full", f"Container {container_id} was not created: {why}.", "Free space.", id=container_id)
    if _NOT_EXECUTED.search(why):
        return _exec_failed(container_id, done)
    if _BAD_CONFIG.search(why):
        return _invalid_spec(bundle.path, why)
    return Failure(
        "create_failed",
        f"Container {container_id} was not created: {why}.",
        "See what the message names in the bundle's config.json.",
        id=container_id,
        bundle=bundle.path,
    )


@contextlib.contextmanager
def opened_log(path: str) -> t.Iterator[int]:
    """A file to which a container prints, for root alone; ``/dev/null`` as well.

    Raises:
        Failure: ``log_failed``, ``disk_full``.
    """
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        if path != os.devnull:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            flags |= os.O_APPEND | os.O_CREAT
        # Not waiting for the reader of a pipe.
        handle = os.open(path, flags | os.O_NONBLOCK, 0o600)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise Failure(
            "disk_full" if full else "log_failed",
            f"The log {path} cannot be written: {error.strerror}.",
            "Free space there." if full else "Give another file in log; it is no symbolic link.",
            path=path,
        ) from None
    try:
        if path != os.devnull:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise Failure("log_failed", f"The log {path} is no file.", "Give another one in log.", path=path)
            os.fchmod(handle, 0o600)
        os.set_blocking(handle, True)
        yield handle
    finally:
        os.close(handle)


def taken_number(path: str) -> int | None:
    """The number in a file, which goes; None when there is none."""
    text = read_text(path) or ""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return int(text) if text.strip().isdigit() else None


def is_alive(pid: int) -> bool:
    """Whether there is a process that has not ended (proc_pid_stat(5))."""
    try:
        fields = (read_text(f"/proc/{pid}/stat") or "").rpartition(")")[2].split()
    except OSError:
        return False
    return bool(fields) and fields[0] not in ("Z", "X")


def has_ended(pid: int, timeout: float | None) -> bool:
    """Whether a process ends within a time; None waits for ever."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))
    finally:
        os.close(handle)


def exit_code(pid: int) -> int | None:
    """How a child has ended that has ended: its exit code, or 128 and the signal; None when it is no child."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    if not ended:
        return None
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
