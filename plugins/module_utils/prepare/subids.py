# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ranges of subordinate user and group ids in /etc/subuid and /etc/subgid (subuid(5))."""

from __future__ import annotations

import pwd
import re
import typing as t
from dataclasses import dataclass

from ..api.errors import Failure
from ..node.files import read_text, write_setting

FILES = {"user": "/etc/subuid", "group": "/etc/subgid"}
# Ids are numbers of 32 bits, of which the last stands for none.
_END = 0xFFFFFFFF
_OWNER = re.compile(r"[a-z_][a-z0-9_.-]*[$]?|[0-9]+", re.IGNORECASE)


@dataclass(frozen=True)
class Range:
    """Ids from start on, as many as count, that the owner may map. owner: a user's name or number."""

    owner: str
    start: int
    count: int

    @property
    def line(self) -> str:
        """As the files have it."""
        return f"{self.owner}:{self.start}:{self.count}"

    @property
    def end(self) -> int:
        """The first id after it."""
        return self.start + self.count


def subid_options() -> dict[str, t.Any]:
    """The argument specification of ``subid_range``."""
    ranges = {
        "owner": {"type": "str", "default": "root"},
        "start": {"type": "int", "required": True},
        "count": {"type": "int", "default": 65536},
    }
    return {
        "ranges": {"type": "list", "elements": "dict", "options": ranges, "required": True},
        "kinds": {"type": "list", "elements": "str", "choices": list(FILES), "default": list(FILES)},
    }


def declare(entries: t.Sequence[t.Mapping[str, t.Any]]) -> list[Range]:
    """The ranges of a task.

    Raises:
        Failure: ``invalid_option``.
    """
    found = []
    for index, entry in enumerate(entries):
        declared = Range(entry["owner"], entry["start"], entry["count"])
        if not _OWNER.fullmatch(declared.owner):
            raise _invalid(index, f"{declared.owner!r} is no name of a user")
        if declared.start < 1 or declared.count < 1 or declared.end > _END:
            raise _invalid(index, f"{declared.line} is no range of ids")
        found.append(declared)
    return found


def _invalid(index: int, why: str) -> Failure:
    return Failure("invalid_option", f"ranges[{index}]: {why}.", "Nothing was changed.", option="ranges")


def parse(text: str) -> list[tuple[str, Range | None]]:
    """The lines of a file, and what each of them says; None for what is no range, such as a comment."""
    found: list[tuple[str, Range | None]] = []
    for line in text.splitlines():
        match = re.fullmatch(r"\s*([^:#\s]+):(\d+):(\d+)\s*", line)
        found.append((line, Range(match[1], int(match[2]), int(match[3])) if match else None))
    return found


def number_of(owner: str) -> str:
    """The number of a user, as text; the name of one that there is not."""
    if owner.isdigit():
        return owner
    try:
        return str(pwd.getpwnam(owner).pw_uid)
    except KeyError:
        return owner


def wanted(
    text: str, declared: t.Sequence[Range], path: str, number: t.Callable[[str], str] = number_of
) -> tuple[str, list[dict[str, t.Any]]]:
    """The file as it is to be, and the plan.

    A range of the same owner that begins at the same id is the one that is meant: its length is corrected.

    number: of a user, so that root and 0 are the same.

    Raises:
        Failure: ``ranges_overlap``.
    """
    lines = parse(text)
    plan: list[dict[str, t.Any]] = []
    taken: set[int] = set()
    for new in declared:
        place = None
        for index, (_line, old) in enumerate(lines):
            meant = old and (number(old.owner), old.start) == (number(new.owner), new.start)
            if meant and place is None and index not in taken:
                place = index
            elif old and old.start < new.end and new.start < old.end:
                raise Failure(
                    "ranges_overlap",
                    f"{new.line} shares ids with {old.line} in {path}.",
                    "What two owners may map, the containers of the one can be at as the other's. Choose ids that "
                    "are free, or remove the line.",
                    path=path,
                    range=new.line,
                    other=old.line,
                )
        if place is None:
            taken.add(len(lines))
            lines.append((new.line, new))
            plan.append(_change(path, None, new.line))
        else:
            taken.add(place)
            line, old = lines[place]
            if old and old.count != new.count:
                lines[place] = (new.line, new)
                plan.append(_change(path, line, new.line))
    return ("".join(f"{line}\n" for line, _range in lines) if plan else text), plan


def _change(path: str, before: str | None, after: str) -> dict[str, t.Any]:
    return {"key": path, "before": before, "after": after, "effect": "restart", "request": f"write {path}"}


def run_declared(params: t.Mapping[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Have the ranges as declared; the result of the module.

    Raises:
        Failure: ``invalid_option``, ``ranges_overlap``, ``store_failed``.
    """
    declared = declare(params["ranges"])
    planned = []
    # All files first: none is written when something stands against another.
    for kind in dict.fromkeys(params["kinds"]):
        before = read_text(FILES[kind]) or ""
        planned.append((FILES[kind], before, *wanted(before, declared, FILES[kind])))
    for path, before, after, _plan in planned:
        if after != before and not check_mode:
            write_setting(path, after)
    plan = [change for _path, _before, _after, changes in planned for change in changes]
    return {
        "changed": bool(plan),
        "plan": plan,
        "diff": [
            {"before_header": path, "after_header": path, "before": before, "after": after}
            for path, before, after, changes in planned
            if changes
        ],
    }
