# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the module ``oci_container_info`` tells."""

from __future__ import annotations

import os
import typing as t

from ..node.files import read_text
from .cgroup import cgroup_of, limits_of, statistics
from .container import Records, read_bundle
from .lifecycle import ALIVE
from .runtime import Runtime, State, check_id, find_runtimes


def survey(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The result of ``oci_container_info``.

    Raises:
        Failure: ``invalid_id``, ``runtime_missing``, ``runtime_unknown``, ``runtime_failed``.
    """
    ids = [check_id(container_id) for container_id in dict.fromkeys(params["ids"])]
    runtimes = find_runtimes(params["runtime"], params["root"])
    containers: list[dict[str, t.Any]] = []
    for runtime in runtimes:
        found = _named(runtime, ids) if ids else runtime.states()
        if len(runtimes) > 1 and params["root"]:
            found = [state for state in found if runtime.owns(state.id)]
        containers += [_container(runtime, state) for state in found]
    return {
        "changed": False,
        "runtimes": [_runtime(runtime) for runtime in runtimes],
        "containers": containers,
    }


def _named(runtime: Runtime, ids: t.Sequence[str]) -> list[State]:
    found = (runtime.state(container_id) for container_id in ids)
    return [state for state in found if state]


def _runtime(runtime: Runtime) -> dict[str, t.Any]:
    version, _text = runtime.version()
    return {
        "name": runtime.name,
        "path": runtime.path,
        "root": runtime.root,
        "version": version,
        "features": runtime.features(),
    }


def _container(runtime: Runtime, state: State) -> dict[str, t.Any]:
    alive = state.status in ALIVE and state.pid > 0
    cgroup = cgroup_of(state.pid)
    record = Records(runtime).read(state.id, state.pid)
    return {
        "id": state.id,
        "runtime": runtime.name,
        "status": state.status,
        "pid": state.pid or None,
        "bundle": state.bundle or None,
        "created": state.created,
        "annotations": dict(state.annotations),
        "log": record.get("log"),
        "outdated": _outdated(state, record),
        "processes": [process_of(pid) for pid in runtime.pids(state.id)] if alive else [],
        "limits": {key: found.plain for key, found in limits_of(cgroup).items()} if alive else {},
        "statistics": statistics(cgroup) if alive else None,
        "events": runtime.events(state.id) if alive else None,
    }


def _outdated(state: State, record: t.Mapping[str, t.Any]) -> bool | None:
    """Whether the configuration has changed since; None when it is not known."""
    digest = read_bundle(state.bundle).digest if state.bundle else None
    if not digest or not record.get("config"):
        return None
    return bool(digest != record["config"])


def process_of(pid: int, proc: str = "/proc") -> dict[str, t.Any]:
    """A process: its number, that of its parent, whose it is, and its words."""
    try:
        status = read_text(os.path.join(proc, str(pid), "status")) or ""
        words = (read_text(os.path.join(proc, str(pid), "cmdline")) or "").rstrip("\0")
    except OSError:
        status, words = "", ""
    fields = {key: rest.split() for key, _colon, rest in (line.partition(":") for line in status.splitlines())}
    name = " ".join(fields.get("Name", []))
    return {
        "pid": pid,
        "ppid": int(fields["PPid"][0]) if fields.get("PPid") else None,
        "uid": int(fields["Uid"][0]) if fields.get("Uid") else None,
        "command": words.split("\0") if words else [f"[{name}]"] if name else [],
    }
