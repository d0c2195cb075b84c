# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints of the processes of a container, by the runtime and CRIU."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
import typing as t

from ..api.errors import Failure
from ..node.commands import Run, run_here
from ..node.files import read_text, write_private
from .layout import Json
from .runtime import Runtime, parse_json

FLAGS = ("tcp_established", "ext_unix_sk", "shell_job", "file_locks")
CGROUP_MODES = ("soft", "full", "strict", "ignore")
RECORD = "lxcri.json"
# CRIU writes it last of its images, and this at the end of its log.
_INVENTORY = "inventory.img"
_DUMPED = "Dumping finished successfully"


def check_options(option: str, options: t.Mapping[str, t.Any]) -> None:
    """See that the directory of a checkpoint can be one.

    Raises:
        Failure: ``invalid_option``.
    """
    path = options["path"]
    if not os.path.isabs(path) or os.path.normpath(path) == "/":
        raise Failure(
            "invalid_option", f"{option}.path: {path!r} is no absolute path.", "Correct the option.", option=option
        )


def is_complete(path: str) -> bool:
    """Whether a checkpoint is there."""
    return os.path.isfile(os.path.join(path, _INVENTORY))


def partial_of(path: str) -> str:
    """Where a checkpoint is until it is complete."""
    return os.path.normpath(path) + ".partial"


def require(runtime: Runtime, container_id: str, pid: int, run: Run = run_here, proc: str = "/proc") -> None:
    """See that a container can be dumped, before anything is touched.

    Raises:
        Failure: ``checkpoint_unsupported``, with all reasons.
    """
    mounts = {line.split(" ", 1)[0] for line in (read_text(f"{proc}/{pid}/mountinfo") or "").splitlines()}
    reasons = [
        f"its {name} is {target} instead of /dev/null (set log: /dev/null)"
        for number, name in enumerate(("stdin", "stdout", "stderr"))
        for target in [_outside(f"{proc}/{pid}/fd/{number}", mounts)]
        if target
    ]
    reasons += against(runtime, run)
    if reasons:
        raise Failure(
            "checkpoint_unsupported",
            f"Container {container_id} cannot be checkpointed: {'; '.join(reasons)}.",
            "Remove what stands against it, or stop the container instead.",
            id=container_id,
            reasons=reasons,
        )


def against(runtime: Runtime, run: Run = run_here) -> list[str]:
    """What on this machine stands against checkpoints."""
    reasons = []
    if runtime.name == "crun" and "+CRIU" not in runtime.version()[1].split():
        reasons.append("this crun is built without CRIU")
    try:
        done = run(["criu", "check"], timeout=60)
    except Failure:
        return [*reasons, "there is no criu on this machine"]
    if done.rc:
        reasons.append(f"'criu check' fails: {(done.stderr or done.stdout).strip()[-200:]}")
    return reasons


def _outside(link: str, mounts: t.Collection[str]) -> str | None:
    """What a stream of a container is when CRIU cannot dump it; None for /dev/null and for a file of the container.

    A shell changes its own streams for as long as it writes to a file: whatever is there is held while it is looked at.

    link: of the stream, in /proc.
    mounts: the ids of the container's mounts (proc_pid_mountinfo(5)).
    """
    try:
        held = os.open(link, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return "closed"
    try:
        status = os.fstat(held)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == os.stat(os.devnull).st_rdev:
            return None
        fields = dict(line.split(":", 1) for line in (read_text(f"/proc/self/fdinfo/{held}") or "").splitlines())
        if stat.S_ISREG(status.st_mode) and fields.get("mnt_id", "").strip() in mounts:
            return None
        return os.readlink(f"/proc/self/fd/{held}")
    finally:
        os.close(held)


def dump(runtime: Runtime, container_id: str, options: t.Mapping[str, t.Any], about: Json) -> None:
    """Write a checkpoint. It is there whole or not at all.

    about: what is kept with it.

    Raises:
        Failure: ``checkpoint_failed``, ``store_failed``, ``disk_full``.
    """
    path, partial = os.path.normpath(options["path"]), partial_of(options["path"])
    try:
        # Of a run that was interrupted. The container runs, so that nothing is lost with it.
        shutil.rmtree(partial, ignore_errors=True)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.mkdir(partial, 0o700)
    except OSError as error:
        raise Failure(
            "store_failed", f"{partial} cannot be made: {error.strerror}.", "Choose another path.", path=path
        ) from None
    write_private(os.path.join(partial, RECORD), json.dumps(about))
    done = runtime.checkpoint(container_id, partial, options)
    if done.rc:
        why = _last_error(os.path.join(partial, "dump.log")) or done.why
        full = "o space left" in why
        log = f"{path}.log"
        _keep_log(os.path.join(partial, "dump.log"), log)
        shutil.rmtree(partial, ignore_errors=True)
        raise Failure(
            "disk_full" if full else "checkpoint_failed",
            f"Container {container_id} was not checkpointed, and goes on: {why}.",
            f"See {log}.",
            id=container_id,
            log=log,
        )
    _put(partial, path)


def adopt(path: str) -> bool:
    """Complete a checkpoint of a run that was interrupted after the container was dumped; whether there was one."""
    partial = partial_of(path)
    if is_complete(path) or not is_dumped(partial):
        return False
    _put(partial, os.path.normpath(path))
    return True


def is_dumped(partial: str) -> bool:
    """Whether CRIU has come to the end of a dump."""
    return is_complete(partial) and _DUMPED in (read_text(os.path.join(partial, "dump.log")) or "")


def _put(partial: str, path: str) -> None:
    try:
        os.rename(partial, path)
    except OSError as error:
        raise Failure(
            "store_failed",
            f"The checkpoint is complete in {partial}, but cannot be moved to {path}: {error.strerror}.",
            "Remove what is there, and run again.",
            path=path,
        ) from None


def check_restorable(path: str, runtime: Runtime, config: str) -> None:
    """See that a checkpoint fits.

    config: the digest of the configuration of the bundle.

    Raises:
        Failure: ``checkpoint_missing``, ``checkpoint_mismatch``, ``checkpoint_unsupported``.
    """
    if not is_complete(path):
        raise Failure(
            "checkpoint_missing",
            f"{path} has no checkpoint.",
            "Correct restore.path.",
            path=path,
        )
    record = parse_json(read_text(os.path.join(path, RECORD)) or "")
    record = record if isinstance(record, dict) else {}
    reasons = []
    if record.get("runtime") not in (None, runtime.name):
        reasons.append(f"it was made by {record['runtime']}, not by {runtime.name}")
    if record.get("config") not in (None, config):
        reasons.append("config.json of the bundle has changed since")
    if reasons:
        raise Failure(
            "checkpoint_mismatch",
            f"The checkpoint {path} does not fit: {'; '.join(reasons)}.",
            "Use the same runtime and the same bundle.",
            path=path,
            reasons=reasons,
        )
    reasons = against(runtime)
    if reasons:
        raise Failure(
            "checkpoint_unsupported",
            f"The checkpoint {path} cannot be restored here: {'; '.join(reasons)}.",
            "Remove what stands against it.",
            path=path,
            reasons=reasons,
        )


def restore(runtime: Runtime, container_id: str, bundle: str, options: t.Mapping[str, t.Any]) -> None:
    """Make a container of a checkpoint, which stays.

    Raises:
        Failure: ``restore_failed``.
    """
    images = os.path.normpath(options["path"])
    with tempfile.TemporaryDirectory(prefix="lxcri-restore-") as work, open(os.devnull, "wb") as output:
        done = runtime.restore(container_id, bundle, images, work, options, output.fileno())
        if not done.rc:
            return
        log = f"{images}.log"
        why = _last_error(os.path.join(work, "restore.log")) or done.why
        _keep_log(os.path.join(work, "restore.log"), log)
    raise Failure(
        "restore_failed", f"Container {container_id} was not restored: {why}.", f"See {log}.", id=container_id, log=log
    )


def _last_error(log: str) -> str | None:
    errors = [line for line in (read_text(log) or "").splitlines() if "Error" in line]
    return errors[-1].strip()[-300:] if errors else None


def _keep_log(log: str, target: str) -> None:
    text = read_text(log)
    if text is not None:
        write_private(target, text)
