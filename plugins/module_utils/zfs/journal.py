# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restore or a clone is about to do, kept so that the next run can finish or undo it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import typing as t

from ..api.errors import Failure, as_failure
from ..node.files import read_text, write_private
from .store import Store


def _path(store: Store, container: str, ending: str) -> str:
    return os.path.join(store.state, "journal", f"{container.replace('/', '_')}.{ending}")


def write(store: Store, container: str, entry: t.Mapping[str, t.Any]) -> None:
    """Keep the entry of a container, instead of the one before."""
    write_private(_path(store, container, "json"), json.dumps(entry))


def read(store: Store, container: str) -> dict[str, t.Any] | None:
    """The entry of a container; None when nothing is under way or was left.

    Raises:
        Failure: ``journal_damaged``.
    """
    path = _path(store, container, "json")
    text = read_text(path)
    if text is None:
        return None
    try:
        entry = dict(json.loads(text))
    except (TypeError, ValueError):
        entry = {}
    if not {"work", "run", "group", "phase"} <= entry.keys():
        raise Failure(
            "journal_damaged",
            f"{path}, which says how far a restore of container {container} got, cannot be understood.",
            "See in which state its volumes are, and remove the file.",
            container=container,
            path=path,
        )
    return entry


def left(store: Store) -> list[str]:
    """The containers that have an entry."""
    try:
        names = sorted(os.listdir(os.path.dirname(_path(store, "", "json"))))
    except FileNotFoundError:
        return []
    return [name[: -len(".json")] for name in names if name.endswith(".json")]


def require_none(store: Store, containers: t.Iterable[str]) -> None:
    """See that no restore of these containers is under way or was left.

    The caller holds what keeps another run from beginning one: their locks, or ``working``.

    Raises:
        Failure: ``restore_running``.
    """
    for container in containers:
        if read(store, container) is not None:
            raise Failure(
                "restore_running",
                f"A restore of container {container} is under way, or was interrupted.",
                "Run again when it has ended; that undoes or finishes one that was interrupted.",
                container=container,
            )


def together(store: Store, containers: t.Iterable[str]) -> dict[str, dict[str, t.Any]]:
    """The entries of containers, with the phases that they have as groups.

    The group of a run goes one way. As soon as one of it has left the phase ``begun``, all have: the others were not
    written yet.
    """
    found = {container: entry for container in containers for entry in [read(store, container)] if entry is not None}
    for entry in found.values():
        same_run = [other for other in found.values() if other["run"] == entry["run"]]
        if entry["phase"] == "begun":
            entry["phase"] = next((other["phase"] for other in same_run if other["phase"] != "begun"), "begun")
    return found


def clear(store: Store, container: str) -> None:
    """Everything is done."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_path(store, container, "json"))


def failures_of(work: t.Callable[[str], None], containers: t.Iterable[str]) -> list[Failure]:
    """Do something for all containers, also when it fails for one of them."""
    failures: list[Failure] = []
    for container in containers:
        try:
            work(container)
        except (Failure, OSError) as error:
            failures.append(as_failure(error))
    return failures


def each(work: t.Callable[[str], None], containers: t.Iterable[str]) -> None:
    """Do something for all containers, also when it fails for one of them.

    Raises:
        Failure: the first of them, at the end.
    """
    for failure in failures_of(work, containers):
        raise failure


@contextlib.contextmanager
def undone(undo: t.Callable[[str], None], containers: t.Sequence[str]) -> t.Iterator[None]:
    """What fails is undone for all of these containers. What cannot be undone now stays in the journal.

    Raises:
        Failure: what failed. ``left`` of the details: why it could not be undone, as data.
    """
    try:
        yield
    except (Failure, OSError) as error:
        failure = as_failure(error)
        left = failures_of(undo, containers)
        if not left:
            raise
        raise Failure(
            failure.code,
            f"{failure.message} It could not be undone: {' '.join(one.message for one in left)}",
            "Remove the causes and run again: that undoes what is left, and begins anew.",
            **{**failure.details, "left": [one.as_dict() for one in left]},
        ) from error


@contextlib.contextmanager
def working(store: Store, containers: t.Iterable[str]) -> t.Iterator[None]:
    """While this lasts, entries of these containers are of a run that lives. A dead process holds none.

    Raises:
        Failure: ``restore_running``.
    """
    with contextlib.ExitStack() as stack:
        for container in sorted(set(containers)):
            path = _path(store, container, "lock")
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            file = stack.enter_context(open(path, "a", encoding="utf-8"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Failure(
                    "restore_running",
                    f"Another process restores, makes or backs up container {container} at this moment.",
                    "Run again when it has ended.",
                    container=container,
                ) from None
        yield
