# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pools and datasets: values, the plan, and the commands, on a machine of text."""

from __future__ import annotations

import json
import os
import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.commands import Completed
from ansible_collections.lxcri.proxmox.plugins.module_utils.prepare import layout
from ansible_collections.lxcri.proxmox.plugins.module_utils.prepare.devices import (
    BY_ID,
    check_name,
    refuse_used,
    what_is_on,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.prepare.properties import (
    declared_properties,
    parse_size,
    same,
)

DISK = f"{BY_ID}ata-DISK_1"
OTHER = f"{BY_ID}ata-DISK_2"


class Node:
    """Answers commands by their first words, and keeps those that change something."""

    def __init__(self, **answers: t.Any) -> None:
        self.answers = answers
        self.written: list[list[str]] = []

    def __call__(self, argv: t.Sequence[str], stdin: str | None = None, timeout: float | None = None) -> Completed:
        key = "_".join(argv[:2])
        if key not in ("zpool_get", "zpool_list", "zfs_get", "systemctl_show"):
            self.written.append(list(argv))
        answer = self.answers.get(key, "")
        if isinstance(answer, Failure):
            raise answer
        rc, out, err = answer if isinstance(answer, tuple) else (0, answer, "")
        return Completed(tuple(argv), rc, out, err)


GONE = (1, "", "cannot open 'fast': no such pool\n")
NO_DATASET = (1, "", "cannot open 'fast/ct': dataset does not exist\ncannot open 'fast': no such pool\n")


def options(**given: t.Any) -> dict[str, t.Any]:
    """The options of a task, with the defaults of the module."""

    def filled(spec: dict[str, t.Any], values: dict[str, t.Any]) -> dict[str, t.Any]:
        result = {}
        for name, option in spec.items():
            value = values.get(name, option.get("default"))
            if option.get("options") and value:
                value = [filled(option["options"], entry) for entry in value]
            result[name] = value
        return result

    return filled(layout.layout_options(), given)


def planned(actual: layout.Actual | None = None, **given: t.Any) -> list[str]:
    """The commands that a declaration asks for."""
    pools, datasets = layout.declare(options(**given))
    actual = actual or layout.Actual()
    actions = [
        *layout.plan_pools(pools, datasets, actual),
        *layout.plan_datasets(pools, datasets, actual),
        *layout.plan_timers(pools, actual),
    ]
    return [" ".join(action.argv) for action in actions]


def code_of(**given: t.Any) -> str:
    """The code with which a declaration is refused."""
    with pytest.raises(Failure) as raised:
        planned(**given)
    return raised.value.code


@pytest.mark.parametrize(
    ("name", "declared", "actual", "expected"),
    [
        ("quota", "10G", "10737418240", True),
        ("quota", "none", "0", True),
        ("filesystem_limit", "none", "18446744073709551615", True),
        ("quota", "10G", "10737418241", False),
        ("recordsize", "128K", "131072", True),
        ("recordsize", "1.5M", "1572864", True),
        ("mountpoint", "none", "none", True),
        ("mountpoint", "/a", "none", False),
        ("xattr", "sa", "on", True),
        ("xattr", "dir", "sa", False),
        ("acltype", "posixacl", "posix", True),
        ("acltype", "off", "noacl", True),
        ("compression", "gzip-6", "gzip", True),
        ("compression", "zstd-3", "zstd", False),
        ("encryption", "on", "aes-256-gcm", True),
        ("encryption", "on", "off", False),
        ("encryption", "aes-256-ccm", "aes-256-gcm", False),
        ("feature@draid", "enabled", "active", True),
        ("feature@draid", "disabled", "active", False),
        ("comment", "", "-", True),
        ("copies", "2", "2", True),
    ],
)
def test_values(name: str, declared: str, actual: str, expected: bool) -> None:
    assert same(name, declared, actual) is expected


def test_sizes_and_declared_values() -> None:
    assert [parse_size(text) for text in ("4096", "8G", "1.5T", "128KiB", "x", "")] == [
        4096,
        8 << 30,
        3 << 39,
        128 << 10,
        None,
        None,
    ]
    assert declared_properties({"atime": False, "copies": 2, "a:b": "c d"}, "p") == {
        "atime": "off",
        "copies": "2",
        "a:b": "c d",
    }
    for wrong in ({"a b": 1}, {"-o": 1}, {"quota": None}, {"quota": ["1"]}, {"comment": "a\nb"}):
        with pytest.raises(Failure):
            declared_properties(wrong, "p")


def test_the_words_that_make_a_pool() -> None:
    vdevs = [
        {"role": "cache", "devices": [f"{BY_ID}c1"]},
        {"type": "mirror", "devices": [f"{BY_ID}a1", f"{BY_ID}a2"]},
        {"type": "mirror", "devices": [f"{BY_ID}b1", f"{BY_ID}b2"]},
        {"type": "mirror", "role": "special", "devices": [f"{BY_ID}s1", f"{BY_ID}s2"]},
        {"role": "cache", "devices": [f"{BY_ID}c2"]},
        {"role": "log", "devices": [f"{BY_ID}l1"]},
    ]
    [create] = planned(
        pools=[{"name": "fast", "vdevs": vdevs, "properties": {"ashift": 12}}],
        datasets=[{"name": "fast", "properties": {"compression": "lz4", "quota": "inherit"}}],
    )
    assert create.replace(BY_ID, "") == (
        "zpool create -o ashift=12 -O compression=lz4 fast mirror a1 a2 mirror b1 b2 log l1 special mirror s1 s2 "
        "cache c1 c2"
    )


def test_datasets_come_after_those_above_them_and_before_the_timers() -> None:
    datasets = [
        {"name": "fast/a-b"},
        {"name": "fast/a/c", "size": "1G", "sparse": True, "properties": {"compression": "off"}},
        {"name": "fast/a"},
    ]
    pool = {"name": "fast", "vdevs": [{"devices": [DISK]}], "trim": "weekly"}
    assert planned(pools=[pool], datasets=datasets) == [
        f"zpool create -O org.debian:periodic-trim=disable fast {DISK}",
        "zfs create fast/a",
        "zfs create -s -V 1073741824 -o compression=off fast/a/c",
        "zfs create fast/a-b",
        "systemctl enable --now zfs-trim-weekly@fast.timer",
    ]


def test_what_is_there_is_converged() -> None:
    there = {
        "fast": {"type": ("filesystem", "-"), "org.debian:periodic-scrub": ("disable", "local")},
        "fast/ct": {"type": ("filesystem", "-"), "quota": ("10737418240", "local"), "atime": ("on", "default")},
        "fast/disk": {"type": ("volume", "-"), "volsize": ("1073741824", "local")},
    }
    timers = {"zfs-scrub-monthly@fast.timer": True, "zfs-scrub-weekly@fast.timer": False}
    actual = layout.Actual({"fast": {"ashift": "12", "health": "ONLINE"}}, {"fast": [f"{DISK}-part1"]}, there, timers)
    pool = {"name": "fast", "vdevs": [{"devices": [DISK]}], "properties": {"ashift": 12}, "scrub": "monthly"}
    same_datasets = [{"name": "fast/ct", "properties": {"quota": "10G"}}, {"name": "fast/disk", "size": "1G"}]
    assert planned(actual, pools=[pool], datasets=same_datasets) == []
    changed = [
        {"name": "fast/ct", "properties": {"quota": "inherit", "atime": False}},
        {"name": "fast/disk", "size": "2G"},
    ]
    assert planned(actual, pools=[{**pool, "scrub": "cron"}], datasets=changed) == [
        "zfs inherit org.debian:periodic-scrub fast",
        "zfs inherit quota fast/ct",
        "zfs set atime=off fast/ct",
        "zfs set volsize=2147483648 fast/disk",
        "systemctl disable --now zfs-scrub-monthly@fast.timer",
    ]
    # Devices are told and not touched.
    assert planned(actual, pools=[{**pool, "vdevs": [{"devices": [DISK, OTHER]}]}]) == [""]


def test_declarations_that_are_refused() -> None:
    def pool(**more: t.Any) -> list[dict[str, t.Any]]:
        return [{"name": "fast", "vdevs": [{"devices": [DISK]}], **more}]

    assert code_of(pools=pool(name="mirror1")) == "invalid_option"
    assert code_of(pools=pool(name="-f")) == "invalid_option"
    assert code_of(pools=pool() + pool()) == "invalid_option"
    assert code_of(pools=pool(properties={"comment": "inherit"})) == "invalid_option"
    assert code_of(pools=pool(vdevs=[{"role": "log", "devices": [DISK]}])) == "invalid_option"
    assert code_of(pools=pool(vdevs=[{"type": "raidz2", "devices": [DISK, OTHER]}])) == "invalid_option"
    both = {"type": "mirror", "role": "cache", "devices": [DISK, OTHER]}
    assert code_of(pools=pool(vdevs=[{"devices": [DISK]}, both])) == "invalid_option"
    assert (
        code_of(pools=pool(vdevs=[{"devices": [DISK]}, {**both, "type": "raidz1", "role": "log"}])) == "invalid_option"
    )
    assert code_of(pools=pool(vdevs=[])) == "pool_missing"
    twice = [{"name": "fast", "properties": {"org.debian:periodic-scrub": "enable"}}]
    assert code_of(pools=pool(scrub="monthly"), datasets=twice) == "invalid_option"
    for dataset in (
        {"name": "a b/c"},
        {"name": "fast//c"},
        {"name": "fast/../c"},
        {"name": "fast", "size": "1G"},
        {"name": "fast/c", "size": "big"},
        {"name": "fast/c", "properties": {"volsize": "1G"}},
        {"name": "fast/c", "size": "1G", "properties": {"refreservation": "auto"}},
    ):
        assert code_of(datasets=[dataset]) == "invalid_option", dataset
    assert code_of(datasets=[{"name": "fast/c"}]) == "parent_missing"


def test_nothing_is_written_in_check_mode_and_where_there_is_no_zfs() -> None:
    missing = Failure("command_missing", "no zpool")
    node = Node(zpool_get=missing, systemctl_show="UnitFileState=\nActiveState=inactive\n\n" * 2)
    given = options(pools=[{"name": "fast", "scrub": "weekly"}])
    with pytest.raises(Failure) as raised:
        layout.run_declared(given, False, node)
    assert raised.value.code == "command_missing"
    with pytest.raises(Failure) as raised:
        layout.run_declared(given, True, node)
    assert raised.value.code == "pool_missing"
    node = Node(zfs_get=missing)
    with pytest.raises(Failure) as raised:
        layout.run_declared(options(datasets=[{"name": "fast/ct"}]), True, node)
    assert raised.value.code == "parent_missing"
    assert node.written == []


def test_what_zfs_takes_and_does_not_keep_is_told() -> None:
    answers = {"zfs_get": "fast/ct\ttype\tfilesystem\t-\nfast/ct\tmountpoint\t/a\tlocal\nfast\ttype\tfilesystem\t-\n"}
    node = Node(**answers)
    given = options(datasets=[{"name": "fast/ct", "properties": {"mountpoint": "/a/"}}])
    assert layout.run_declared(given, True, node)["changed"] is True
    assert node.written == []
    with pytest.raises(Failure) as raised:
        layout.run_declared(given, False, node)
    assert raised.value.code == "property_not_taken"
    assert node.written == [["zfs", "set", "mountpoint=/a/", "fast/ct"]]


def test_refusals_of_commands() -> None:
    given = options(pools=[{"name": "fast", "scrub": "monthly"}])
    there = {"zpool_get": "health\tONLINE\n", "zpool_list": "fast\t1\n\t/dev/sda1\t1\n"}
    shown = "UnitFileState=disabled\nActiveState=inactive\n\nUnitFileState=enabled\nActiveState=active\n"
    datasets = "fast\ttype\tfilesystem\t-\nfast\torg.debian:periodic-scrub\tdisable\tlocal\n"
    node = Node(**there, zfs_get=datasets, systemctl_show=shown, systemctl_enable=(1, "", "no such unit"))
    with pytest.raises(Failure) as raised:
        layout.run_declared(given, False, node)
    assert raised.value.code == "systemd_failed"
    node = Node(**there, zfs_get=datasets, systemctl_show=(1, "", "no bus"))
    with pytest.raises(Failure) as raised:
        layout.run_declared(given, True, node)
    assert raised.value.code == "systemd_failed"
    node = Node(zpool_get=(1, "", "permission denied"))
    with pytest.raises(Failure) as raised:
        layout.run_declared(given, True, node)
    assert raised.value.code == "permission_denied"
    node = Node(**there, zfs_get=(2, "", "bad property list: invalid property 'x'"))
    with pytest.raises(Failure) as raised:
        layout.run_declared(given, True, node)
    assert raised.value.code == "zfs_failed"


# -------------------------------------------------------------------------------------------------------- devices


@pytest.mark.parametrize("name", ["/dev/sda", BY_ID, f"{BY_ID}../../sda", f"{BY_ID}a b", "ata-DISK_1", f"{BY_ID}.."])
def test_names_that_may_move(name: str) -> None:
    with pytest.raises(Failure) as raised:
        check_name(name)
    assert raised.value.code == "invalid_option"


def listing(**more: t.Any) -> str:
    return json.dumps({"blockdevices": [{"name": "/dev/sda", "type": "disk", "mountpoints": [None], **more}]})


def test_what_is_on_a_device() -> None:
    signatures = json.dumps({"signatures": [{"type": "gpt"}, {"type": "gpt"}, {"type": "PMBR"}]})
    children = [{"name": "/dev/mapper/vg-root", "type": "lvm"}]
    assert what_is_on(listing(), "") == []
    assert what_is_on(listing(), '{"signatures": []}') == []
    assert what_is_on(listing(mountpoints=["/"], children=children), signatures) == [
        "a signature of gpt",
        "a signature of PMBR",
        "a mount at /",
        "/dev/mapper/vg-root (lvm) on it",
    ]


def test_devices_are_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Failure) as raised:
        refuse_used(Node(), [DISK])
    assert raised.value.code == "device_missing"
    monkeypatch.setattr(os.path, "realpath", lambda path: path)
    monkeypatch.setattr(
        "ansible_collections.lxcri.proxmox.plugins.module_utils.prepare.devices._is_block_device", lambda path: True
    )
    with pytest.raises(Failure) as raised:
        refuse_used(Node(), [DISK, DISK])
    assert raised.value.code == "device_twice"

    def run(argv: t.Sequence[str], stdin: str | None = None, timeout: float | None = None) -> Completed:
        return Completed(tuple(argv), 0, listing() if argv[0] == "lsblk" else "", "")

    refuse_used(run, [DISK, OTHER])

    def broken(argv: t.Sequence[str], stdin: str | None = None, timeout: float | None = None) -> Completed:
        return Completed(tuple(argv), 1, "", "probing failed")

    with pytest.raises(Failure) as raised:
        refuse_used(broken, [DISK])
    assert raised.value.code == "device_unreadable"
