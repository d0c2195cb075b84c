# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits and statistics of control groups, of both versions and of a mixture."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.cgroup import (
    Cgroup,
    Found,
    cgroup_of,
    cpu_set,
    cpu_weights,
    is_hybrid,
    limits_declared,
    limits_of,
    oom_kills,
    remove_empty,
    same_limit,
    statistics,
)
from hypothesis import given
from hypothesis import strategies as st

HYBRID = """\
32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct
33 31 0:32 /docker/x /mnt/a\\040b rw,shared:1 - cgroup cgroup rw,memory
34 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
PURE = "34 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"


def write(directory: Path, **files: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)
    return directory


def proc(directory: Path, mountinfo: str, cgroup: str) -> str:
    write(directory / "self", mountinfo=mountinfo)
    write(directory / "7", cgroup=cgroup)
    return str(directory)


def test_where_the_groups_are(tmp_path: Path) -> None:
    found = cgroup_of(
        7, proc(tmp_path, HYBRID, "4:memory:/docker/x/box\n2:cpu,cpuacct:/box\n1:name=systemd:/\n0::/u\n")
    )
    assert found.v1 == {
        "cpu": "/sys/fs/cgroup/cpu/box",
        "cpuacct": "/sys/fs/cgroup/cpu/box",
        "memory": "/mnt/a b/box",
    }
    assert found.v2 == "/sys/fs/cgroup/unified/u"
    pure = cgroup_of(7, proc(tmp_path, PURE, "0::/box\n"))
    assert (pure.v1, pure.v2) == ({}, "/sys/fs/cgroup/box")
    # Of another container, from within one.
    assert cgroup_of(7, proc(tmp_path, HYBRID, "4:memory:/docker/xy\n")) == Cgroup()
    assert cgroup_of(8, str(tmp_path)) == Cgroup()


def test_hybrid() -> None:
    assert is_hybrid(HYBRID)
    assert not is_hybrid(PURE)
    assert not is_hybrid(HYBRID.replace("/sys/fs/cgroup/unified", "/mnt"))
    assert not is_hybrid("")


def test_limits_of_version_1(tmp_path: Path) -> None:
    memory = write(
        tmp_path / "memory",
        memory__limit_in_bytes="9223372036854771712\n",
        memory__soft_limit_in_bytes="1048576\n",
        memory__memsw__limit_in_bytes="2097152\n",
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
        memory__usage_in_bytes="5\n",
        memory__max_usage_in_bytes="9\n",
    )
    cpu = write(
        tmp_path / "cpu",
        cpu__shares="512\n",
        cpu__cfs_quota_us="-1\n",
        cpu__cfs_period_us="100000\n",
        cpuset__cpus="0-3\n",
        cpuset__mems="\n",
        cpuacct__usage="123\n",
        cpu__stat="nr_periods 9\nnr_throttled 2\n",
        pids__max="max\n",
        pids__current="4\n",
        blkio__bfq__weight="100\n",
        blkio__throttle__io_service_bytes="8:0 Read 10\n8:0 Write 20\n8:16 Read 1\n8:0 Total 30\nTotal 31\n",
    )
    names = ("cpu", "cpuset", "cpuacct", "pids", "blkio")
    cgroup = Cgroup({"memory": str(memory), **{name: str(cpu) for name in names}})
    assert {key: found.plain for key, found in limits_of(cgroup).items()} == {
        "memory.limit": -1,
        "memory.reservation": 1048576,
        "memory.swap": 2097152,
        "cpu.shares": 512,
        "cpu.quota": -1,
        "cpu.period": 100000,
        "cpu.cpus": "0-3",
        "cpu.mems": "",
        "pids.limit": -1,
        "block_io.weight": 100,
    }
    assert oom_kills(cgroup) == 3
    assert statistics(cgroup) == {
        "cpu_ns": 123,
        "cpu_throttled_periods": 2,
        "memory": 5,
        "memory_peak": 9,
        "memory_limit": -1,
        "oom_kills": 3,
        "pids": 4,
        "pids_limit": -1,
        "read_bytes": 11,
        "written_bytes": 20,
    }


def test_limits_of_version_2(tmp_path: Path) -> None:
    group = write(
        tmp_path / "box",
        memory__max="1048576\n",
        memory__low="0\n",
        memory__swap__max="1048576\n",
        memory__events="low 0\noom 1\noom_kill 1\n",
        memory__current="7\n",
        memory__peak="8\n",
        cpu__weight="39\n",
        cpu__max="max 100000\n",
        cpu__stat="usage_usec 5\nnr_throttled 6\n",
        cpuset__cpus="\n",
        pids__max="4194304\n",
        pids__current="2\n",
        io__weight="default 100\n8:0 50\n",
        io__stat="8:0 rbytes=3 wbytes=4 rios=1 wios=1\n8:16 rbytes=1 wbytes=1\n",
    )
    cgroup = Cgroup({}, str(group))
    assert {key: found.plain for key, found in limits_of(cgroup).items()} == {
        "memory.limit": 1048576,
        "memory.reservation": 0,
        "memory.swap": 2097152,
        "cpu.shares": "weight 39",
        "cpu.quota": -1,
        "cpu.period": 100000,
        "cpu.cpus": "",
        "pids.limit": -1,
        "block_io.weight": "io weight 100",
    }
    assert oom_kills(cgroup) == 1
    found = statistics(cgroup)
    assert (found["cpu_ns"], found["cpu_throttled_periods"], found["memory"], found["memory_peak"]) == (5000, 6, 7, 8)
    assert (found["read_bytes"], found["written_bytes"]) == (4, 5)
    write(group, memory__swap__max="max\n", io__bfq__weight="100\n")
    limits = limits_of(cgroup)
    assert (limits["memory.swap"].value, limits["block_io.weight"].plain) == (-1, 100)
    write(group, memory__swap__max="0\n", memory__max="max\n")
    assert limits_of(cgroup)["memory.swap"].value == -1


def test_nothing_is_there(tmp_path: Path) -> None:
    gone = Cgroup({"memory": str(tmp_path / "gone")}, None)
    assert limits_of(gone) == {}
    assert oom_kills(gone) is None
    assert set(statistics(gone).values()) == {None}


@pytest.mark.parametrize(
    ("key", "wanted", "found", "same"),
    [
        ("memory.limit", 1048576 + 1, Found(1048576), True),
        ("memory.limit", 2097152, Found(1048576), False),
        ("memory.limit", -1, Found(-1), True),
        ("memory.limit", -1, Found(1048576), False),
        ("memory.limit", 1048576, Found(-1), False),
        ("cpu.quota", 0, Found(-1), True),
        ("cpu.quota", 5, Found(5), True),
        ("cpu.period", 5, Found(6), False),
        ("cpu.shares", 1024, Found(39, "weight"), True),
        ("cpu.shares", 1024, Found(100, "weight"), True),
        ("cpu.shares", 1024, Found(40, "weight"), False),
        ("cpu.shares", 1024, Found(1024), True),
        ("cpu.cpus", "0,1,2", Found("0-2"), True),
        ("cpu.cpus", "0-1", Found("0-2"), False),
        ("pids.limit", -1, Found(-1), True),
        ("pids.limit", 1 << 22, Found(-1), True),
        ("pids.limit", 5, Found(-1), False),
        ("block_io.weight", 10, Found(1, "io weight"), True),
        ("block_io.weight", 1000, Found(10000, "io weight"), True),
        ("block_io.weight", 100, None, False),
    ],
)
def test_same_limit(key: str, wanted: int | str, found: Found | None, same: bool) -> None:
    assert same_limit(key, wanted, found) is same


def test_weights_as_runtimes_convert_them() -> None:
    assert cpu_weights(2) == {1}
    assert cpu_weights(262144) == {10000}
    assert cpu_weights(1024) == {39, 100}
    assert cpu_weights(0) == {1}


@given(st.sets(st.integers(0, 300), min_size=1))
def test_cpu_sets(numbers: set[int]) -> None:
    assert cpu_set(",".join(map(str, sorted(numbers)))) == numbers
    assert cpu_set(f"{min(numbers)}-{max(numbers)}") == set(range(min(numbers), max(numbers) + 1))


def test_limits_of_a_configuration() -> None:
    resources = {"memory": {"limit": 5}, "cpu": {"cpus": "0"}, "blockIO": {"weight": 7}, "pids": None}
    found = {key: value.plain for key, value in limits_declared(resources).items()}
    assert found == {
        "memory.limit": 5,
        "memory.swap": -1,
        "cpu.quota": -1,
        "pids.limit": -1,
        "cpu.cpus": "0",
        "block_io.weight": 7,
    }


def test_only_empty_groups_are_removed(tmp_path: Path) -> None:
    point = tmp_path / "mounted"
    (point / "box").mkdir(parents=True)
    (point / "used/child").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    info = proc(tmp_path / "proc", f"34 31 0:38 / {point} rw - cgroup2 cgroup2 rw\n", "")
    remove_empty(["/box", "used", "../outside", "/", ".", "/used/../../outside"], info)
    assert not (point / "box").exists()
    assert (point / "used/child").exists()
    assert (tmp_path / "outside").exists()
