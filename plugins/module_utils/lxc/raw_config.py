# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The raw lines of a container of Proxmox, on its node: declared and actual, the plan, and the file that follows."""

from __future__ import annotations

import difflib
import os
import time
import typing as t
from dataclasses import dataclass

from ..api.errors import Failure
from ..node.commands import Run, run_here
from ..node.files import read_text
from ..node.proxmox import LOCK_PATTERN, PVE, lock_held, replace_config, running, top_section, values
from ..node.raw_keys import ENVIRONMENT, KEY, LINE, check_idmaps, check_line, is_repeated

STATES = ("present", "absent")
EXCLUSIVE = ("none", "keys", "all")

Line = tuple[str, str]


@dataclass(frozen=True)
class Declared:
    """What a task declares.

    lines: keys and values in their order; with ``absent`` a value of None stands for all of the key.
    exclusive: which other lines go, see the module.
    """

    lines: tuple[tuple[str, str | None], ...]
    exclusive: str = "keys"
    state: str = "present"


def raw_options() -> dict[str, t.Any]:
    """The argument specification of ``lxc_raw_config``."""
    return {
        "vmid": {"type": "int", "required": True},
        "raw": {"type": "list", "elements": "raw", "required": True},
        "exclusive": {"type": "str", "choices": list(EXCLUSIVE), "default": "keys"},
        "state": {"type": "str", "choices": list(STATES), "default": "present"},
    }


# -------------------------------------------------------------------------------------------------- declaration


def declare(params: t.Mapping[str, t.Any]) -> Declared:
    """The declaration made of a task's options.

    Raises:
        Failure: ``invalid_option``, and as ``check_line``.
    """
    state = params["state"]
    lines: list[tuple[str, str | None]] = []
    for index, entry in enumerate(params["raw"]):
        lines += _lines(entry, f"raw[{index}]")
    for key, value in lines:
        if state == "absent":
            if not KEY.fullmatch(key) or key == ENVIRONMENT:
                reason = "it is env of lxc_container" if key == ENVIRONMENT else "it is no key of a raw line"
                raise _invalid("raw", f"{key}: {reason}")
        elif value is None:
            raise _invalid("raw", f"{key} has no value; an empty one is written as '{key}:'")
        else:
            check_line(key, value)
    if state == "present":
        check_idmaps([(key, value) for key, value in lines if value is not None])
    elif params["exclusive"] == "all":
        raise _invalid("exclusive", "all is for lines that are to be present")
    return Declared(tuple(lines), params["exclusive"], state)


def _lines(entry: t.Any, where: str) -> list[tuple[str, str | None]]:
    """The lines of one element: a line as text, or a dictionary."""
    if isinstance(entry, str):
        stripped = entry.strip(" \t")
        match = LINE.fullmatch(stripped)
        if match:
            return [(match[1], match[2])]
        if KEY.fullmatch(stripped):
            return [(stripped, None)]
        raise _invalid(where, f"{entry!r} is no line such as 'lxc.prlimit.nofile: 1024'")
    if isinstance(entry, dict) and set(entry) <= {"key", "value"} and isinstance(entry.get("key"), str):
        return [(entry["key"], None if entry.get("value") is None else _value(entry["value"], where))]
    if isinstance(entry, dict) and entry and all(isinstance(key, str) for key in entry):
        lines: list[tuple[str, str | None]] = []
        for key, value in entry.items():
            for one in value if isinstance(value, list) else [value]:
                lines.append((key, None if one is None else _value(one, where)))
        return lines
    raise _invalid(where, "it is neither a line nor a dictionary of a key and its value")


def _value(value: t.Any, where: str) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, (int, float, str)):
        return str(value).strip(" \t")
    raise _invalid(where, f"{value!r} is no value")


def _invalid(option: str, why: str) -> Failure:
    return Failure("invalid_option", f"{option}: {why}.", "Nothing was changed.", option=option)


# ------------------------------------------------------------------------------------------------- plan, pure


def raw_lines(config: str) -> list[Line]:
    """The raw lines in force, without the variables of the entrypoint."""
    found = (_parsed(line) for line in top_section(config).split("\n"))
    return [line for line in found if line]


def _parsed(line: str) -> Line | None:
    match = LINE.fullmatch(line)
    return (match[1], match[2]) if match and match[1] != ENVIRONMENT else None


def wanted_lines(actual: t.Sequence[Line], declared: Declared) -> list[Line]:
    """The raw lines that there are to be."""
    if declared.state == "absent":
        gone = set(declared.lines)
        return [line for line in actual if line not in gone and (line[0], None) not in gone]
    lines = [(key, value) for key, value in declared.lines if value is not None]
    keys = {key for key, _text in lines}
    if declared.exclusive == "none":
        keys = {key for key in keys if not is_repeated(key)}
        present = list(actual)
        missing = []
        for line in lines:
            if line in present and line[0] not in keys:
                present.remove(line)
            else:
                missing.append(line)
        return _merged(actual, missing, keys)
    return _merged(actual, lines, set(dict(actual)) if declared.exclusive == "all" else keys)


def _merged(actual: t.Sequence[Line], lines: t.Sequence[Line], replaced: t.Container[str]) -> list[Line]:
    """The actual lines, of which those of some keys are replaced in their places."""
    own = [index for index, line in enumerate(actual) if line[0] in replaced]
    groups: list[list[Line]] = [[] if line[0] in replaced else [line] for line in actual] + [[]]
    for tag, start, end, first, last in _opcodes([actual[index] for index in own], lines):
        added = list(lines[first:last])
        if tag == "equal":
            for index, line in zip(own[start:end], added):
                groups[index].append(line)
        elif tag == "insert" and start:
            groups[own[start - 1]] += added
        elif own:
            groups[own[start]] += added
        else:
            groups[-1] += added
    return [line for group in groups for line in group]


def _opcodes(before: t.Sequence[Line], after: t.Sequence[Line]) -> list[tuple[str, int, int, int, int]]:
    return list(difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes())


def with_raw(config: str, wanted: t.Sequence[Line]) -> str:
    """N.conf with these raw lines. All other lines, comments and sections stay as they are, byte for byte."""
    head = top_section(config)
    lines = head.split("\n")
    own = [index for index, line in enumerate(lines) if _parsed(line)]
    actual = [line for line in map(_parsed, lines) if line]
    # New lines follow those that there are, or else the last line that is not blank.
    end = own[-1] + 1 if own else max((index + 1 for index, line in enumerate(lines) if line.strip()), default=0)
    groups = [[line] for line in lines]
    groups[end:end] = [[]]
    if end == len(lines):
        groups.append([""])
    own.append(end)
    for tag, start, stop, first, last in _opcodes(actual, wanted):
        if tag == "equal":
            continue
        for index in own[start:stop]:
            groups[index] = []
        groups[own[start]] = [f"{key}: {value}".rstrip(" ") for key, value in wanted[first:last]] + groups[own[start]]
    return "\n".join(line for group in groups for line in group) + config[len(head) :]


def plan(actual: t.Sequence[Line], wanted: t.Sequence[Line]) -> list[dict[str, t.Any]]:
    """What changes: the values of each key, before and after. A new order of lines is a change of the key ``raw``."""
    if list(actual) == list(wanted):
        return []
    keys = dict.fromkeys(key for key, _text in (*actual, *wanted))
    changes = []
    for key in keys:
        before = [value for name, value in actual if name == key]
        after = [value for name, value in wanted if name == key]
        if before != after:
            changes.append({"key": key, "before": before, "after": after})
    if not changes:
        order = [[f"{key}: {value}" for key, value in lines] for lines in (actual, wanted)]
        changes.append({"key": "raw", "before": order[0], "after": order[1]})
    return changes


# ------------------------------------------------------------------------------------------------------ apply


def run_declared(
    params: t.Mapping[str, t.Any],
    check_mode: bool,
    root: str = PVE,
    lock_pattern: str = LOCK_PATTERN,
    run: Run = run_here,
    timeout: float = 10,
) -> dict[str, t.Any]:
    """Bring the raw lines of a container to what is declared; the result of the module.

    root: where pmxcfs is mounted. timeout: seconds to wait for the container's lock file.

    Raises:
        Failure: ``invalid_option``, ``key_of_api``, ``key_not_admitted``, ``container_missing``, ``locked``,
            ``lock_timeout``, ``lock_failed``, ``config_not_read``, ``config_not_written``.
    """
    declared = declare(params)
    vmid = str(params["vmid"])
    path = f"{root}/lxc/{vmid}.conf"
    if check_mode:
        return _result(vmid, *_change(root, path, vmid, declared), run)
    with lock_held(lock_pattern.format(vmid), vmid, time.monotonic() + timeout):
        before, after = _change(root, path, vmid, declared)
        if before != after:
            replace_config(path, after)
    return _result(vmid, before, after, run)


def _change(root: str, path: str, vmid: str, declared: Declared) -> tuple[str, str]:
    """The text of N.conf, and the one that is to be."""
    text = _read(path)
    if text is None:
        raise _missing(root, vmid)
    actual = raw_lines(text)
    wanted = wanted_lines(actual, declared)
    if wanted == actual:
        return text, text
    lock = values(text).get("lock")
    if lock:
        raise Failure(
            "locked",
            f"CT is locked ({lock}).",
            "Wait for the operation that holds the lock, or remove a stale lock on the node with 'pct unlock'.",
            container=vmid,
            lock=lock,
        )
    check_idmaps(wanted)
    return text, with_raw(text, wanted)


def _read(path: str) -> str | None:
    try:
        return read_text(path)
    except OSError as error:
        raise Failure(
            "config_not_read",
            f"{path} cannot be read: {error.strerror}.",
            "Run as root (become), and see that pmxcfs runs: 'systemctl status pve-cluster'.",
            path=path,
        ) from None


def _missing(root: str, vmid: str) -> Failure:
    nodes = []
    if os.path.isdir(f"{root}/nodes"):
        nodes = sorted(
            name for name in os.listdir(f"{root}/nodes") if os.path.exists(f"{root}/nodes/{name}/lxc/{vmid}.conf")
        )
    return Failure(
        "container_missing",
        f"There is no container {vmid} on this node" + (f"; it is on {nodes[0]}." if nodes else "."),
        "Run the module on the node that has it.",
        container=vmid,
        node=nodes[0] if nodes else None,
    )


def _result(vmid: str, before: str, after: str, run: Run) -> dict[str, t.Any]:
    actual, wanted = raw_lines(before), raw_lines(after)
    changes = plan(actual, wanted)
    header = f"raw lines of {vmid}"
    return {
        "changed": bool(changes),
        "vmid": int(vmid),
        "plan": changes,
        "raw": [{"key": key, "value": value} for key, value in wanted],
        # The container reads its configuration when it starts.
        "restart_required": bool(changes) and running(run, vmid),
        "diff": {
            "before_header": header,
            "after_header": header,
            "before": _text(actual),
            "after": _text(wanted),
        },
    }


def _text(lines: t.Sequence[Line]) -> str:
    return "".join(f"{key}: {value}".rstrip() + "\n" for key, value in lines)
