# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Seccomp profiles of the runtime specification (config-linux.md, Seccomp) as policies of LXC. Pure.

The format is that of version 2 in seccomp.c of LXC. It has no way to name the architectures that a policy is for: LXC
applies it to that of the node and those that are compatible with it.
"""

from __future__ import annotations

import re
import typing as t

from .layout import Json
from .mapped import Mapped, entries, number, strings, text, wrong

_KEY = "linux.seccomp"
_EPERM, _ENOSYS = 1, 38
_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_FAMILIES = (
    {"SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"},
    {"SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"},
)
_OPERATORS = ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")


def policy(profile: Json, mapped: Mapped) -> str:
    """The policy; what it cannot express is reported in ``mapped``.

    Raises:
        Failure: ``invalid_spec``.
    """
    known = ("defaultAction", "defaultErrnoRet", "architectures", "syscalls")
    mapped.rest(f"{_KEY}.", profile, (*known, "flags", "listenerPath", "listenerMetadata"))
    default = _action(profile.get("defaultAction"), profile.get("defaultErrnoRet"), f"{_KEY}.defaultAction", mapped)
    for key in ("flags", "listenerPath", "listenerMetadata"):
        if profile.get(key):
            mapped.lose(f"{_KEY}.{key}", profile[key], "a policy of LXC has nothing like it")
    architectures = set(strings(profile.get("architectures"), f"{_KEY}.architectures"))
    if architectures and not any(architectures >= family for family in _FAMILIES):
        mapped.lose(
            f"{_KEY}.architectures",
            sorted(architectures),
            "LXC does not kill the system calls of other architectures",
            "the rules, applied to the node's architecture and those compatible with it",
        )
    # In their order, each once: libseccomp refuses a rule that is there already.
    rules: dict[tuple[str, str, str], None] = {}
    for index, rule in enumerate(entries(profile.get("syscalls"), f"{_KEY}.syscalls")):
        key = f"{_KEY}.syscalls[{index}]"
        mapped.rest(f"{key}.", rule, ("names", "action", "errnoRet", "args", "comment"))
        action = _action(rule.get("action"), rule.get("errnoRet"), f"{key}.action", mapped)
        # libseccomp refuses a rule that says what is the default anyway.
        if action == default:
            continue
        conditions = _conditions(rule, key)
        for name in strings(rule.get("names"), f"{key}.names"):
            if _NAME.fullmatch(name):
                rules.update({(name, action, condition): None for condition in conditions})
            else:
                mapped.lose(f"{key}.names", name, "it is no name of a system call")
    # Without conditions it is for all calls, and one with conditions says nothing more.
    lines = [" ".join(filter(None, rule)) for rule in rules if not rule[2] or (*rule[:2], "") not in rules]
    style = "denylist" if default == "allow" else f"allowlist {default}"
    return "\n".join(["2", style, "[all]", *lines]) + "\n"


def _action(value: t.Any, errno: t.Any, key: str, mapped: Mapped) -> str:
    action = text(value, key)
    if action == "SCMP_ACT_ALLOW":
        return "allow"
    if action == "SCMP_ACT_ERRNO":
        return f"errno {_EPERM if errno is None else number(errno, key)}"
    if action == "SCMP_ACT_TRAP":
        return "trap"
    if action in ("SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD"):
        return "kill"
    if action == "SCMP_ACT_KILL_PROCESS":
        mapped.lose(key, action, "LXC kills the thread only", "kill")
        return "kill"
    if action == "SCMP_ACT_LOG":
        mapped.lose(key, action, "a policy of LXC does not log", "allow")
        return "allow"
    if action in ("SCMP_ACT_TRACE", "SCMP_ACT_NOTIFY"):
        mapped.lose(key, action, "there is nobody to ask; the kernel says ENOSYS then", f"errno {_ENOSYS}")
        return f"errno {_ENOSYS}"
    raise wrong(key, "an action such as SCMP_ACT_ERRNO")


def _conditions(rule: Json, key: str) -> list[str]:
    """What follows the action: all conditions at once, or one a line where an argument is compared more than once."""
    words = []
    indexes = []
    for entry in entries(rule.get("args"), f"{key}.args"):
        index, value = number(entry.get("index"), f"{key}.args.index"), number(entry.get("value"), f"{key}.args.value")
        operator = text(entry.get("op"), f"{key}.args.op")
        if operator not in {f"SCMP_CMP_{name}" for name in _OPERATORS} or not 0 <= index < 6:
            raise wrong(f"{key}.args", "a list of comparisons of arguments 0 to 5")
        indexes.append(index)
        if operator == "SCMP_CMP_MASKED_EQ":
            # The specification has the mask first and then the value, LXC the other way round.
            wanted = number(entry.get("valueTwo", 0), f"{key}.args.valueTwo")
            words.append(f"[{index},{wanted},{operator},{value}]")
        else:
            words.append(f"[{index},{value},{operator}]")
    if not words:
        return [""]
    # runc adds a rule for each comparison when an argument is there twice, as libseccomp takes it once only.
    return ["".join(words)] if len(set(indexes)) == len(indexes) else words
