# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The limit of ZFS's cache in memory (ARC): for the next start in a file of modprobe, and at once in the kernel."""

from __future__ import annotations

import glob
import os
import re
import typing as t
from dataclasses import dataclass

from ..api.errors import Failure
from ..node.files import read_text, write_setting
from .properties import parse_size

FILE = "/etc/modprobe.d/zfs.conf"
PARAMETER = "/sys/module/zfs/parameters/zfs_arc_max"
STATISTICS = "/proc/spl/kstat/zfs/arcstats"
MOUNTS = "/proc/mounts"
INITRAMFS = "/boot/initrd.img-*"
# MIN_ARC_MAX of module/zfs/arc.c in OpenZFS
LEAST = 64 << 20
# A share of the memory is rounded down to this, since kernels differ in what they keep for themselves.
STEP = 64 << 20
_OPTION = re.compile(r"^(\s*options\s+zfs\s(?:.*\s)?zfs_arc_max=)(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Memory:
    """What the kernel says, in bytes. live: the parameter; None when the module is not loaded. floor: the least ARC."""

    total: int
    live: int | None
    floor: int | None
    ceiling: int | None


def arc_options() -> dict[str, t.Any]:
    """The argument specification of ``zfs_arc``."""
    return {
        "maximum": {"type": "str", "required": True},
        "path": {"type": "path", "default": FILE},
    }


def read_memory() -> Memory:
    """What the kernel says."""
    total = re.search(r"^MemTotal:\s+(\d+) kB", read_text("/proc/meminfo") or "", re.MULTILINE)
    live = (read_text(PARAMETER) or "").strip()
    statistics = dict(re.findall(r"^(c_min|c_max)\s+\d+\s+(\d+)", read_text(STATISTICS) or "", re.MULTILINE))
    numbers = [int(statistics[name]) if name in statistics else None for name in ("c_min", "c_max")]
    return Memory(int(total[1]) << 10 if total else 0, int(live) if live.isdigit() else None, numbers[0], numbers[1])


def limit(declared: str, memory: Memory) -> int:
    """Bytes of a size or of a share such as ``25%``.

    Raises:
        Failure: ``invalid_option``, also for what the kernel would ignore (arc_tuning_update of module/zfs/arc.c).
    """
    share = re.fullmatch(r"(\d{1,2})%", declared)
    size = memory.total * int(share[1]) // 100 // STEP * STEP if share else parse_size(declared)
    if size is None:
        raise _invalid(f"{declared!r} is neither a size such as 8G nor a share such as 25%")
    if size < LEAST:
        raise _invalid(f"{declared} is less than 64 MiB, which ZFS ignores")
    if size >= memory.total:
        raise _invalid(f"{declared} is not less than the memory of {memory.total >> 20} MiB, which ZFS ignores")
    if memory.floor is not None and size <= memory.floor:
        raise _invalid(f"{declared} is not more than the least size of the ARC, {memory.floor} bytes; see zfs_arc_min")
    return size


def _invalid(why: str) -> Failure:
    return Failure("invalid_option", f"maximum: {why}.", "Nothing was changed.", option="maximum")


def with_limit(text: str, size: int) -> str:
    """The file with the limit. Other options stay, also those of the same line."""
    if _OPTION.search(text):
        return _OPTION.sub(rf"\g<1>{size}", text)
    return f"{text}{'' if text.endswith(chr(10)) or not text else chr(10)}options zfs zfs_arc_max={size}\n"


def set_in(text: str) -> int | None:
    """The limit in a file; the last one counts."""
    found = [match[2] for match in _OPTION.finditer(text)]
    return int(found[-1]) if found and found[-1].isdigit() else None


def _refuse_elsewhere(path: str) -> None:
    for other in sorted(glob.glob(os.path.join(os.path.dirname(path), "*.conf"))):
        if os.path.realpath(other) != os.path.realpath(path) and _OPTION.search(read_text(other) or ""):
            raise Failure(
                "option_elsewhere",
                f"{other} sets zfs_arc_max too, and which of the two counts depends on their names.",
                "Remove the option there.",
                path=other,
            )


def root_on_zfs() -> bool:
    """Whether the system starts from ZFS, so that the file has to be in the initramfs as well."""
    mounts = [line.split() for line in (read_text(MOUNTS) or "").splitlines()]
    return any(mount[1:3] == ["/", "zfs"] for mount in mounts if len(mount) > 2)


def is_newer(path: str) -> bool:
    """Whether a file was written after the last initramfs, so that an earlier run has not come to making one."""
    times = [os.stat(image).st_mtime_ns for image in glob.glob(INITRAMFS)]
    return os.path.exists(path) and bool(times) and os.stat(path).st_mtime_ns > max(times)


def run_declared(params: t.Mapping[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Limit the ARC as declared; the result of the module.

    Raises:
        Failure: ``invalid_option``, ``option_elsewhere``, ``store_failed``, ``write_failed``, ``limit_ignored``.
    """
    path = params["path"]
    memory = read_memory()
    size = limit(params["maximum"], memory)
    _refuse_elsewhere(path)
    before = read_text(path) or ""
    after = with_limit(before, size)
    outdated = root_on_zfs() and (after != before or is_newer(path))
    plan = []
    if after != before:
        plan.append(_change(path, set_in(before), size, "restart"))
    if memory.live is not None and (memory.live != size or memory.ceiling != size):
        plan.append(_change(PARAMETER, memory.live, size, "live"))
    if not check_mode:
        if after != before:
            write_setting(path, after)
        if memory.live is not None and len(plan) > (after != before):
            _set_parameter(size)
            if read_memory().ceiling != size:
                raise Failure(
                    "limit_ignored",
                    f"The kernel was given {size} for zfs_arc_max, and the ARC may have {read_memory().ceiling} bytes.",
                    "See zfs_arc_min, and the kernel's log. The limit counts from the next start.",
                )
    return {
        "changed": bool(plan),
        "plan": plan,
        "maximum": size,
        "initramfs": outdated,
        "diff": {"before_header": path, "after_header": path, "before": before, "after": after},
    }


def _change(key: str, before: t.Any, after: t.Any, effect: str) -> dict[str, t.Any]:
    return {"key": key, "before": before, "after": after, "effect": effect, "request": f"write {key}"}


def _set_parameter(size: int) -> None:
    try:
        with open(PARAMETER, "w", encoding="utf-8") as file:
            file.write(f"{size}\n")
    except OSError as error:
        raise Failure(
            "write_failed",
            f"{PARAMETER} cannot be written: {error.strerror}.",
            "Run as root (become).",
            path=PARAMETER,
        ) from None
