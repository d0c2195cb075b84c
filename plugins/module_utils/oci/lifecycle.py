# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be done that a container is as declared. Pure."""

from __future__ import annotations

import re
import signal
import typing as t
from dataclasses import dataclass, field

from ..api.errors import Failure
from .cgroup import LIMITS, PIDS_ENDLESS, SECTIONS, Found, Value, same_limit
from .layout import Json
from .runtime_spec import ResolvedUser, size

STATES = ("created", "started", "paused", "stopped", "absent")
# Those in which a container has a process.
ALIVE = ("created", "running", "paused")
# What a step leaves it in.
_AFTER = {
    "create": "created",
    "start": "running",
    "restore": "running",
    "pause": "paused",
    "resume": "running",
    "stop": "stopped",
    "wait": "stopped",
    "delete": "absent",
}
# Those during which others may change the container: they may take long.
_OPEN = ("wait", "kill", "exec")
# The annotation of the conversion of images (image-spec, conversion.md).
STOP_SIGNAL = "org.opencontainers.image.stopSignal"


@dataclass(frozen=True)
class Change:
    """One difference."""

    key: str
    before: t.Any
    after: t.Any

    def as_dict(self) -> Json:
        return {"key": self.key, "before": self.before, "after": self.after}


@dataclass(frozen=True)
class Declared:
    """The options. None, or nothing, stands for not managed. kill: a number. update: limits by the keys of LIMITS."""

    id: str
    state: str | None = None
    bundle: str | None = None
    recreate: bool = False
    wait: bool = False
    kill: int | None = None
    exec: t.Mapping[str, t.Any] | None = None
    update: t.Mapping[str, Value] = field(default_factory=dict)
    checkpoint: t.Mapping[str, t.Any] | None = None
    restore: t.Mapping[str, t.Any] | None = None


@dataclass(frozen=True)
class Actual:
    """A container as it is.

    status: that of the runtime, or ``absent``. outdated: how it differs from its bundle as that is now. limits: those
    in force. future: those that it would get if it were created. dumped: whether the checkpoint is there already.
    adoptable: whether that of an interrupted run is.
    """

    status: str = "absent"
    outdated: tuple[Change, ...] = ()
    limits: t.Mapping[str, Found] = field(default_factory=dict)
    future: t.Mapping[str, Found] = field(default_factory=dict)
    dumped: bool = False
    adoptable: bool = False


@dataclass(frozen=True)
class Plan:
    """What is to be done. changes: for who reads it. status: that after it. update: the limits to be set."""

    steps: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    status: str = "absent"
    update: t.Mapping[str, Value] = field(default_factory=dict)

    @property
    def creates(self) -> bool:
        """Whether a container is made."""
        return "create" in self.steps or "restore" in self.steps

    @property
    def early(self) -> tuple[str, ...]:
        """The steps during which nobody else may change the container."""
        first = next((place for place, step in enumerate(self.steps) if step in _OPEN), len(self.steps))
        return self.steps[:first]

    @property
    def late(self) -> tuple[str, ...]:
        """Those after them."""
        return self.steps[len(self.early) :]


def declared_of(params: t.Mapping[str, t.Any]) -> Declared:
    """The options of ``oci_container``, checked.

    Raises:
        Failure: ``invalid_option``.
    """
    declared = Declared(
        params["id"],
        params["state"],
        params["bundle"],
        params["recreate"] == "if_changed",
        params["wait"],
        None if params["kill"] is None else signal_number(params["kill"]),
        params["exec"],
        limits_wanted(params["update"] or {}),
        params["checkpoint"],
        params["restore"],
    )
    why = _contradiction(declared)
    if why:
        raise Failure("invalid_option", f"{why}.", "Correct the options of the task.")
    return declared


def _contradiction(declared: Declared) -> str | None:
    state, dump = declared.state, declared.checkpoint
    acts = declared.kill is not None or declared.exec is not None or bool(declared.update)
    ends, goes_on = state in ("stopped", "absent"), state in ("created", "started", "paused")
    leave_running = bool(dump and dump["leave_running"])
    rules = (
        (not state and not acts and not dump, "nothing is declared: give state, kill, exec, update or checkpoint"),
        (bool(declared.restore) and state not in ("started", "paused"), "restore needs state: started or paused"),
        (declared.wait and state != "started", "wait needs state: started"),
        (declared.wait and (acts or bool(dump) or bool(declared.restore)), "wait goes with no other action"),
        (ends and acts, f"state: {state} leaves no process for kill, exec or update"),
        (state in ("created", "paused") and declared.exec is not None, f"state: {state} leaves nothing to run exec"),
        (bool(dump) and acts, "checkpoint goes with no kill, exec or update"),
        (bool(dump) and goes_on and not leave_running, f"a checkpoint ends the container, other than state: {state}"),
        (leave_running and ends, f"checkpoint.leave_running is other than state: {state}"),
        (declared.exec is not None and not declared.exec["command"], "exec.command is empty"),
        (declared.wait and not declared.bundle, "wait needs bundle"),
    )
    return next((why for wrong, why in rules if wrong), None)


def limits_wanted(update: t.Mapping[str, t.Any]) -> dict[str, Value]:
    """The limits that are declared, by the keys of LIMITS; sizes in bytes.

    Raises:
        Failure: ``invalid_option``.
    """
    wanted: dict[str, Value] = {}
    for key in LIMITS:
        section, _dot, name = key.partition(".")
        value = (update.get(section) or {}).get(name)
        if value is not None:
            wanted[key] = size(f"update.{key}", value) if section == "memory" else value
    limit, swap = wanted.get("memory.limit", -1), wanted.get("memory.swap", -1)
    if isinstance(limit, int) and isinstance(swap, int) and limit > 0 and -1 < swap < limit:
        raise Failure(
            "invalid_option",
            "update.memory.swap: it is memory and swap together, and so not less than limit.",
            "Correct the option.",
            option="update.memory.swap",
        )
    return wanted


def plan_container(declared: Declared, actual: Actual) -> Plan:
    """What is to be done.

    Raises:
        Failure: ``already_running``, ``not_running``, ``container_paused``, ``controller_missing``.
    """
    status, steps, changes = actual.status, [], []
    if declared.checkpoint and not actual.dumped:
        alive = status in ("running", "paused")
        if not alive and not actual.adoptable:
            raise _not_running(declared.id, status, "checkpoint")
        changes.append(Change("checkpoint", None, declared.checkpoint["path"]))
        steps.append("checkpoint" if alive else "adopt")
        if not alive and status != "absent":
            steps.append("delete")
        if not alive or not declared.checkpoint["leave_running"]:
            status = "absent"
    if declared.wait:
        more = _steps_of_run(declared.id, status)
        changes.append(Change("run", None, declared.bundle))
    else:
        outdated = bool(actual.outdated) and declared.recreate and status in ALIVE
        more = _steps_to(declared, status, outdated)
        if outdated and "create" in more:
            changes += actual.outdated
    for step in more:
        status = _AFTER[step]
    steps += more
    if status != actual.status:
        changes.append(Change("state", actual.status, status))
    update = _update(declared, actual, status, bool({"create", "restore"} & set(more)))
    if update:
        steps.append("update")
        known = actual.future if "create" in more or "restore" in more else actual.limits
        changes += [Change(key, known[key].plain if key in known else None, value) for key, value in update.items()]
    if declared.kill is not None:
        if status not in ALIVE:
            raise _not_running(declared.id, status, "kill")
        steps.append("kill")
        changes.append(Change("kill", None, signal_name(declared.kill)))
    if declared.exec is not None:
        if status == "paused":
            raise Failure(
                "container_paused",
                f"Nothing can be executed in container {declared.id}, which is paused.",
                "Resume it with state: started.",
                id=declared.id,
            )
        if status != "running":
            raise _not_running(declared.id, status, "exec")
        steps.append("exec")
        changes.append(Change("exec", None, list(declared.exec["command"])))
    return Plan(tuple(steps), tuple(changes), status, update)


def _steps_of_run(container_id: str, status: str) -> list[str]:
    if status in ("running", "paused"):
        raise Failure(
            "already_running",
            f"Container {container_id} is {status} already; how it ends cannot be learned any more.",
            "Wait until it has ended, or end it with state: absent.",
            id=container_id,
        )
    first = [] if status == "absent" else ["delete"]
    return [*(["stop"] if status in ALIVE else []), *first, "create", "start", "wait", "delete"]


def _steps_to(declared: Declared, status: str, outdated: bool) -> list[str]:
    state = declared.state
    if state is None:
        return []
    alive = status in ALIVE
    if state == "absent":
        return [*(["stop"] if alive else []), *([] if status == "absent" else ["delete"])]
    if state == "stopped":
        return ["stop"] if alive else ["delete"] if status == "broken" else []
    steps: list[str] = []
    if outdated:
        steps.append("stop")
    if outdated or not alive:
        steps += [*([] if status == "absent" else ["delete"]), *(["restore"] if declared.restore else ["create"])]
        status = "running" if declared.restore else "created"
    if state == "created":
        return steps
    if status == "created":
        steps.append("start")
        status = "running"
    if state == "paused":
        return steps if status == "paused" else [*steps, "pause"]
    return [*steps, "resume"] if status == "paused" else steps


def _update(declared: Declared, actual: Actual, status: str, created: bool) -> dict[str, Value]:
    if not declared.update:
        return {}
    if status not in ALIVE:
        raise _not_running(declared.id, status, "update")
    known = actual.future if created else actual.limits
    missing = [] if created else [key for key in declared.update if key not in known]
    if missing:
        raise Failure(
            "controller_missing",
            f"Container {declared.id} has no control group for {', '.join(missing)}.",
            "Enable the controller on this machine (cgroup.subtree_control, or swap accounting for memory.swap).",
            id=declared.id,
            limits=missing,
        )
    return {key: value for key, value in declared.update.items() if not same_limit(key, value, known.get(key))}


def _not_running(container_id: str, status: str, action: str) -> Failure:
    return Failure(
        "not_running",
        f"Container {container_id} is {status}; {action} needs one that runs.",
        "Start it first, with state: started.",
        id=container_id,
        status=status,
    )


def resources_of(update: t.Mapping[str, Value], limits: t.Mapping[str, Found]) -> Json:
    """Limits in the words of ``linux.resources``.

    A quota and its period go together, since runtimes set what is missing in different ways. limits: those in force.
    """
    wanted = dict(update)
    for key, other in (("cpu.quota", "cpu.period"), ("cpu.period", "cpu.quota")):
        found = limits.get(other)
        if key in update and other not in update and found and isinstance(found.value, int) and found.value > 0:
            wanted[other] = found.value
    resources: Json = {}
    pids = wanted.get("pids.limit")
    if isinstance(pids, int) and pids <= 0:
        wanted["pids.limit"] = PIDS_ENDLESS
    for key, value in wanted.items():
        section, _dot, name = key.partition(".")
        resources.setdefault(SECTIONS.get(section, section), {})[name] = value
    return resources


def process_of_exec(
    base: t.Mapping[str, t.Any] | None, wanted: t.Mapping[str, t.Any], user: ResolvedUser | None
) -> Json:
    """A process beside the container's own, in the words of the specification.

    base: ``process`` of the configuration. wanted: the option ``exec``. user: that of ``exec.user``, looked up. As with
    Docker, a user other than root has its capabilities in the bounding set only.
    """
    process: Json = {key: value for key, value in (base or {}).items() if key not in ("commandLine", "consoleSize")}
    process.update(terminal=False, args=list(wanted["command"]), cwd=wanted.get("cwd") or process.get("cwd") or "/")
    given = {str(name): value for name, value in (wanted.get("env") or {}).items()}
    env = [entry for entry in process.get("env") or [] if entry.partition("=")[0] not in given]
    process["env"] = env + [f"{name}={value}" for name, value in given.items() if value is not None]
    process.setdefault("user", {"uid": 0, "gid": 0})
    if user:
        process["user"] = {"uid": user.uid, "gid": user.gid}
        if user.groups:
            process["user"]["additionalGids"] = list(user.groups)
        # A home of somebody else; runtimes set the right one when there is none.
        if "HOME" not in given:
            process["env"] = [entry for entry in process["env"] if not entry.startswith("HOME=")]
        if user.uid:
            bounding = (process.get("capabilities") or {}).get("bounding") or []
            process["capabilities"] = {"bounding": list(bounding)}
    return process


def check_config(config: t.Any) -> str | None:
    """What makes a ``config.json`` one that cannot run in the background (runtime-spec, config.md); None if nothing.

    The rest is judged by the runtime.
    """
    if not isinstance(config, dict):
        return "it is no JSON object"
    if not isinstance(config.get("ociVersion"), str):
        return "it has no ociVersion"
    root, process = config.get("root"), config.get("process")
    if not isinstance(root, dict) or not isinstance(root.get("path"), str) or not root["path"]:
        return "it has no root.path"
    if not isinstance(process, dict):
        return "it has no process"
    args, cwd = process.get("args"), process.get("cwd")
    if not isinstance(args, list) or not args or not all(isinstance(word, str) for word in args):
        return "process.args is no list of words"
    if not isinstance(cwd, str) or not cwd.startswith("/"):
        return "process.cwd is no absolute path"
    if process.get("terminal"):
        return "process.terminal is true, but there is nobody at a terminal; set it to false"
    if not isinstance(config.get("linux", {}), dict) or not isinstance(config.get("annotations", {}), dict):
        return "linux or annotations is no JSON object"
    return None


def signal_number(name: str | int) -> int:
    """The number of a signal such as ``TERM``, ``SIGTERM``, ``RTMIN+3`` or ``15``.

    Raises:
        Failure: ``invalid_option``.
    """
    text = str(name).strip().upper()
    match = re.match(r"(?:SIG)?RT(MIN|MAX)([+-]\d{1,2})\Z", text)
    number = 0
    if match:
        # As glibc and musl count for programs; the kernel's own first one is 32.
        number = {"MIN": 34, "MAX": 64}[match[1]] + int(match[2])
        number = number if 34 <= number <= 64 else 0
    elif re.match(r"\d{1,2}\Z", text):
        number = int(text)
    else:
        found = getattr(signal, text if text.startswith("SIG") else f"SIG{text}", None)
        number = int(found) if isinstance(found, signal.Signals) else 0
    if not 1 <= number <= 64:
        raise Failure("invalid_option", f"{name!r} is no signal.", "Write it as TERM, SIGTERM or 15.", signal=name)
    return number


def signal_name(number: int) -> str:
    """Such as ``SIGTERM``; those in real time as ``SIGRTMIN+3``."""
    if number >= 34:
        return f"SIGRTMIN+{number - 34}"
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
