# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Freezes containers, and thaws them whatever happens to the process that asked for it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
import typing as t

from ..api.errors import Failure
from ..node.commands import Run, run_here

# A mark for each container that is frozen, so that one whose guard was killed too is found and thawed.
MARKS = "/run/lxcri/frozen"
# Nothing that is done meanwhile takes as long as this. After it the guard thaws without being asked.
LIMIT = 60.0


def state_of(run: Run, name: str) -> str:
    """The state as LXC says it, such as RUNNING or FROZEN."""
    return run(["lxc-info", "-n", name, "-sH"], timeout=30).stdout.strip()


def thaw_leftovers(names: t.Iterable[str] | None = None, run: Run = run_here) -> list[str]:
    """Thaw containers that a killed run has left frozen, and say which. The caller holds their locks.

    names: look at these only; None for all.

    Raises:
        Failure: ``thaw_failed``, after all of them were tried.
    """
    found = _marked(names)
    for name in found:
        _thaw(name, run)
    _require_thawed(found)
    return found


def _marked(names: t.Iterable[str] | None = None) -> list[str]:
    try:
        return sorted(name for name in os.listdir(MARKS) if names is None or name in set(names))
    except FileNotFoundError:
        return []


def _thaw(name: str, run: Run) -> None:
    """Thaw a container. The mark of one that stands still even so stays, so that a later run tries again."""
    with contextlib.suppress(Failure, FileNotFoundError):
        if _goes_on(name, run):
            os.unlink(os.path.join(MARKS, name))


def _goes_on(name: str, run: Run) -> bool:
    run(["lxc-unfreeze", "-n", name], timeout=60)
    state = state_of(run, name)
    if state == "FREEZING":
        # Its freezing was broken off. LXC before 6.0 thaws only what is frozen (do_lxcapi_unfreeze of lxccontainer.c).
        return not run(["lxc-cgroup", "-n", name, "cgroup.freeze", "0"], timeout=30).rc
    return state != "FROZEN"


def _require_thawed(names: t.Iterable[str]) -> None:
    left = _marked(names)
    if left:
        raise Failure(
            "thaw_failed",
            f"Still frozen: {', '.join(left)}.",
            f"Try 'lxc-unfreeze -n {left[0]}', and see 'dmesg'. Its next checkpoint tries to thaw it as well.",
            containers=left,
        )


class Frozen:
    """A context in which containers stand still.

    A process of its own, in a session of its own, freezes them, waits for the end of this one's interest, and thaws
    them. It notices the death of this process, a SIGKILL included, by the end of a pipe; and it thaws them LIMIT
    seconds after it began to freeze them at the latest. Containers that are frozen already stay so.
    """

    def __init__(self, names: t.Sequence[str], run: Run = run_here, limit: float = LIMIT) -> None:
        self.names = list(names)
        self.run = run
        self.limit = limit
        self._pid = 0
        self._wish = self._answer = -1

    def __enter__(self) -> Frozen:
        if not self.names:
            return self
        wish_read, self._wish = os.pipe()
        self._answer, answer_write = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(self._wish)
            os.close(self._answer)
            _guard(self.names, wish_read, answer_write, self.run, self.limit)
        os.close(wish_read)
        os.close(answer_write)
        answer = os.read(self._answer, 4096)
        if answer != b"frozen":
            self._close()
            left = _marked(self.names)
            raise Failure(
                "freeze_failed",
                f"The containers could not be frozen: {answer.decode(errors='replace') or 'the guard has died'}."
                + (f" Still frozen: {', '.join(left)}." if left else ""),
                "See 'lxc-info' for their states.",
                containers=self.names,
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        if not self._pid:
            return
        os.close(self._wish)
        self._wish = -1
        answer = os.read(self._answer, 4096)
        self._close()
        _require_thawed(self.names)
        if kind is None and answer != b"thawed":
            raise Failure(
                "freeze_timeout",
                f"The containers were thawed after {self.limit:g} seconds, before the snapshots were taken.",
                "The pool is too slow for a consistent checkpoint at this moment; see 'zpool iostat'.",
                containers=self.names,
            )

    def _close(self) -> None:
        for handle in (self._wish, self._answer):
            if handle >= 0:
                os.close(handle)
        self._wish = self._answer = -1
        os.waitpid(self._pid, 0)
        self._pid = 0


def _guard(names: t.Sequence[str], wish: int, answer: int, run: Run, limit: float) -> t.NoReturn:
    """The process that holds containers frozen. Never returns."""
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        # Whoever reads what the first process prints must not wait for this one.
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        _hold(names, wish, answer, run, limit)
    finally:
        os._exit(0)


def _hold(names: t.Sequence[str], wish: int, answer: int, run: Run, limit: float) -> None:
    os.makedirs(MARKS, mode=0o700, exist_ok=True)
    frozen: list[str] = []
    deadline = time.monotonic() + limit
    in_time = False
    try:
        result = _freeze(names, frozen, wish, run, deadline)
        os.write(answer, result.encode())
        if result == "frozen":
            in_time = bool(select.select([wish], [], [], max(0.0, deadline - time.monotonic()))[0])
    finally:
        for name in frozen:
            _thaw(name, run)
    os.write(answer, b"thawed" if in_time else b"late")


def _freeze(names: t.Sequence[str], frozen: list[str], wish: int, run: Run, deadline: float) -> str:
    """Freeze containers one after the other; says ``frozen``, or why they are not.

    frozen: gets the names of those that have to be thawed.
    """
    for name in names:
        try:
            if state_of(run, name) not in ("RUNNING", "FREEZING"):
                continue
            with open(os.path.join(MARKS, name), "w", encoding="ascii"):
                frozen.append(name)
            done = run(["lxc-freeze", "-n", name], timeout=30)
        except Failure as failure:
            return f"{name}: {failure.message.rstrip('.')}"
        if done.rc:
            return f"{name}: {done.stderr.strip()[-300:]}"
        if time.monotonic() > deadline:
            return "it took too long"
        if select.select([wish], [], [], 0)[0]:
            return "who asked for it has died"
    return "frozen"
