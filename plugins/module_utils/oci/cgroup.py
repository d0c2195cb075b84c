# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the control groups of a container: its limits, what it uses, and whether memory ran out. Writes nothing."""

from __future__ import annotations

import math
import os
import re
import typing as t
from dataclasses import dataclass, field

from ..node.files import read_text

Value = t.Union[int, str]

# The limits that an update can change, as option.suboption, in the words of oci_bundle's resources.
LIMITS = (
    *("memory.limit", "memory.reservation", "memory.swap"),
    *("cpu.shares", "cpu.quota", "cpu.period", "cpu.cpus", "cpu.mems"),
    *("pids.limit", "block_io.weight"),
)
# What the specification calls otherwise.
SECTIONS = {"block_io": "blockIO"}
# What none of a configuration means.
_UNLIMITED = ("memory.limit", "memory.swap", "cpu.quota", "pids.limit")
# With version 1, no limit is the highest multiple of a page.
_ENDLESS = 1 << 62
# More processes than a kernel can have (PID_MAX_LIMIT of linux/threads.h). crun before 1.9 knows no other "no limit".
PIDS_ENDLESS = 1 << 22

# The controller and the files of version 1; the first that is there counts.
_V1: dict[str, tuple[str, tuple[str, ...]]] = {
    "memory.limit": ("memory", ("memory.limit_in_bytes",)),
    "memory.reservation": ("memory", ("memory.soft_limit_in_bytes",)),
    "memory.swap": ("memory", ("memory.memsw.limit_in_bytes",)),
    "cpu.shares": ("cpu", ("cpu.shares",)),
    "cpu.quota": ("cpu", ("cpu.cfs_quota_us",)),
    "cpu.period": ("cpu", ("cpu.cfs_period_us",)),
    "cpu.cpus": ("cpuset", ("cpuset.cpus",)),
    "cpu.mems": ("cpuset", ("cpuset.mems",)),
    "pids.limit": ("pids", ("pids.max",)),
    "block_io.weight": ("blkio", ("blkio.weight", "blkio.bfq.weight")),
}
_V2: dict[str, tuple[str, ...]] = {
    "memory.limit": ("memory.max",),
    "memory.reservation": ("memory.low",),
    "memory.swap": ("memory.swap.max",),
    "cpu.shares": ("cpu.weight",),
    "cpu.quota": ("cpu.max",),
    "cpu.period": ("cpu.max",),
    "cpu.cpus": ("cpuset.cpus",),
    "cpu.mems": ("cpuset.mems",),
    "pids.limit": ("pids.max",),
    "block_io.weight": ("io.bfq.weight", "io.weight"),
}


@dataclass(frozen=True)
class Cgroup:
    """Where the control groups of a process are. v1: directories by controller. v2: the directory of version 2."""

    v1: t.Mapping[str, str] = field(default_factory=dict)
    v2: str | None = None

    def read(self, controller: str, v1: t.Sequence[str], v2: t.Sequence[str]) -> tuple[str, str] | None:
        """The name and the text of the first file that is there; None when there is none."""
        directory, names = (self.v1[controller], v1) if controller in self.v1 else (self.v2, v2)
        for name in names if directory else ():
            text = _text(os.path.join(directory or "", name))
            if text is not None:
                return name, text.strip()
        return None


@dataclass(frozen=True)
class Found:
    """A limit as it is. unit: where version 2 counts on another scale, the name of that."""

    value: Value
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.unit} {self.value}" if self.unit else str(self.value)

    @property
    def plain(self) -> Value:
        """For showing."""
        return str(self) if self.unit else self.value


def cgroup_of(pid: int, proc: str = "/proc") -> Cgroup:
    """The control groups of a process (cgroups(7), proc_pid_mountinfo(5)); nothing when it has ended."""
    mounts: list[tuple[str, str, str, set[str]]] = []
    for line in (read_text(f"{proc}/self/mountinfo") or "").splitlines():
        left, _dash, right = line.partition(" - ")
        fields, words = left.split(), right.split()
        if words and words[0] in ("cgroup", "cgroup2"):
            mounts.append((words[0], _unescaped(fields[3]), _unescaped(fields[4]), set(words[-1].split(","))))
    v1: dict[str, str] = {}
    v2: str | None = None
    for line in (_text(f"{proc}/{pid}/cgroup") or "").splitlines():
        _hierarchy, controllers, path = line.split(":", 2)
        for kind, root, point, options in mounts:
            inside = _below(root, path)
            if inside is None:
                continue
            if not controllers and kind == "cgroup2":
                v2 = v2 or os.path.join(point, inside)
            for controller in controllers.split(",") if kind == "cgroup" and controllers else ():
                if controller in options:
                    v1.setdefault(controller, os.path.join(point, inside))
    return Cgroup(v1, v2)


def _below(root: str, path: str) -> str | None:
    if root == "/":
        return path.lstrip("/")
    if path == root or path.startswith(root + "/"):
        return path[len(root) :].lstrip("/")
    return None


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def is_hybrid(mountinfo: str) -> bool:
    """Whether both versions are mounted below ``/sys/fs/cgroup``. crun does not work there."""
    kinds = {line.partition(" - ")[2].split(" ", 1)[0] for line in mountinfo.splitlines() if " /sys/fs/cgroup" in line}
    return {"cgroup", "cgroup2"} <= kinds


def limits_of(cgroup: Cgroup) -> dict[str, Found]:
    """The limits that are in force; those whose controller is not there are missing."""
    found = {}
    for key in LIMITS:
        controller, v1 = _V1[key]
        entry = cgroup.read(controller, v1, _V2[key])
        if entry:
            parsed = _limit(key, *entry)
            if parsed is not None:
                found[key] = parsed
    # In version 2 swap is counted alone, in the specification together with memory.
    if "memory" not in cgroup.v1 and "memory.swap" in found:
        swap, memory = found["memory.swap"].value, found["memory.limit"].value
        if isinstance(swap, int) and isinstance(memory, int) and swap >= 0:
            found["memory.swap"] = Found(swap + memory if memory >= 0 else -1)
    return found


def _limit(key: str, name: str, text: str) -> Found | None:
    if key in ("cpu.cpus", "cpu.mems"):
        return Found(text)
    words = text.split()
    if name == "cpu.max":
        words = words[1:] if key == "cpu.period" else words[:1]
    # io.weight is "default 100", and perhaps lines for devices.
    word = "".join(words[1:2] if words[:1] == ["default"] else words[:1])
    if word == "max":
        return Found(-1)
    if not re.match(r"-?\d+\Z", word):
        return None
    number = int(word)
    units = {"cpu.weight": "weight", "io.weight": "io weight"}
    endless = number >= (PIDS_ENDLESS if key == "pids.limit" else _ENDLESS)
    return Found(-1 if endless else number, units.get(name, ""))


def limits_declared(resources: t.Mapping[str, t.Any]) -> dict[str, Found]:
    """The limits that a container gets by ``linux.resources`` of its configuration."""
    found = {key: Found(-1) for key in _UNLIMITED}
    for key in LIMITS:
        section, _dot, name = key.partition(".")
        value = (resources.get(SECTIONS.get(section, section)) or {}).get(name)
        if isinstance(value, (int, str)) and not isinstance(value, bool):
            found[key] = Found(value)
    return found


def same_limit(key: str, wanted: Value, found: Found | None) -> bool:
    """Whether a limit is what is wanted.

    Memory is counted in whole pages. What version 2 calls by another scale is compared on that scale; there are two
    conversions of shares to weights, the one of runc before 1.3 and crun before 1.23, and the one since then.
    """
    if found is None:
        return False
    if isinstance(wanted, str) or isinstance(found.value, str):
        return cpu_set(str(wanted)) == cpu_set(str(found.value))
    if key.startswith("memory."):
        page = os.sysconf("SC_PAGE_SIZE")
        return max(wanted, -1) // page == found.value // page if wanted > 0 else found.value < 0
    if found.unit == "weight":
        return found.value in cpu_weights(wanted)
    if found.unit == "io weight":
        # ConvertBlkIOToIOWeightValue of runc.
        return found.value == 1 + (wanted - 10) * 9999 // 990
    if key in _UNLIMITED and (wanted <= 0 or (key == "pids.limit" and wanted >= PIDS_ENDLESS)):
        return found.value <= 0
    return wanted == found.value


def cpu_weights(shares: int) -> set[int]:
    """The weights of version 2 that runtimes make of shares of version 1."""
    shares = min(max(shares, 2), 262144)
    linear = 1 + (shares - 2) * 9999 // 262142
    power = math.log2(shares)
    curved = math.ceil(10 ** ((power * power + 125 * power) / 612 - 7 / 34))
    if shares in (2, 262144):
        return {linear}
    return {linear, curved}


def cpu_set(text: str) -> set[int] | str:
    """The numbers of a list such as ``0-3,6`` (cpuset(7)); the text itself when it is none."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        match = re.match(r"(\d+)(?:-(\d+))?\Z", part.strip())
        if not match:
            return text.strip()
        numbers.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return numbers


def oom_kills(cgroup: Cgroup) -> int | None:
    """How many processes were killed because memory ran out; None when it is not known."""
    entry = cgroup.read("memory", ("memory.oom_control",), ("memory.events",))
    return _table(entry[1]).get("oom_kill") if entry else None


def statistics(cgroup: Cgroup) -> dict[str, t.Any]:
    """What is used: nanoseconds of processors, bytes of memory, processes, bytes read and written.

    A number is None when its controller is not there.
    """
    limits = limits_of(cgroup)
    cpu = cgroup.read("cpuacct", ("cpuacct.usage",), ("cpu.stat",))
    nanoseconds: int | None = None
    if cpu and cpu[0] == "cpu.stat":
        usage = _table(cpu[1]).get("usage_usec")
        nanoseconds = None if usage is None else usage * 1000
    elif cpu:
        nanoseconds = _number(cpu)
    throttled = cgroup.read("cpu", ("cpu.stat",), ("cpu.stat",))
    read, written = _bytes_moved(cgroup)
    return {
        "cpu_ns": nanoseconds,
        "cpu_throttled_periods": _table(throttled[1]).get("nr_throttled") if throttled else None,
        "memory": _number(cgroup.read("memory", ("memory.usage_in_bytes",), ("memory.current",))),
        "memory_peak": _number(cgroup.read("memory", ("memory.max_usage_in_bytes",), ("memory.peak",))),
        "memory_limit": _limit_number(limits.get("memory.limit")),
        "oom_kills": oom_kills(cgroup),
        "pids": _number(cgroup.read("pids", ("pids.current",), ("pids.current",))),
        "pids_limit": _limit_number(limits.get("pids.limit")),
        "read_bytes": read,
        "written_bytes": written,
    }


def _limit_number(found: Found | None) -> int | None:
    return found.value if found and isinstance(found.value, int) else None


def _number(entry: tuple[str, str] | None) -> int | None:
    return int(entry[1]) if entry and entry[1].isdigit() else None


def _bytes_moved(cgroup: Cgroup) -> tuple[int | None, int | None]:
    entry = cgroup.read("blkio", ("blkio.throttle.io_service_bytes",), ("io.stat",))
    if not entry:
        return None, None
    if entry[0] == "io.stat":
        return (
            sum(int(number) for number in re.findall(r"\brbytes=(\d+)", entry[1])),
            sum(int(number) for number in re.findall(r"\bwbytes=(\d+)", entry[1])),
        )
    return (
        sum(int(number) for number in re.findall(r"^\d+:\d+ Read (\d+)$", entry[1], re.MULTILINE)),
        sum(int(number) for number in re.findall(r"^\d+:\d+ Write (\d+)$", entry[1], re.MULTILINE)),
    )


def _table(text: str) -> dict[str, int]:
    rows = (line.split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def remove_empty(names: t.Iterable[str], proc: str = "/proc") -> None:
    """Remove control groups without processes, which an interrupted creation has left. Others stay.

    names: paths as in ``linux.cgroupsPath``, tried from the root and below the group of this process.
    """
    mine = cgroup_of(os.getpid(), proc)
    roots = set(_mount_points(proc)) | {*mine.v1.values(), *([mine.v2] if mine.v2 else [])}
    for name in names:
        relative = os.path.normpath(name.lstrip("/"))
        if relative in ("", ".", "..") or relative.startswith("../"):
            continue
        for root in roots:
            try:
                os.rmdir(os.path.join(root, relative))
            except OSError:
                # Not there, or not empty.
                continue


def _mount_points(proc: str) -> list[str]:
    points = []
    for line in (read_text(f"{proc}/self/mountinfo") or "").splitlines():
        left, _dash, right = line.partition(" - ")
        if right.split(" ", 1)[0] in ("cgroup", "cgroup2"):
            points.append(_unescaped(left.split()[4]))
    return points


def _text(path: str) -> str | None:
    try:
        return read_text(path)
    except OSError:
        # The group was removed, or the file is not for reading.
        return None
