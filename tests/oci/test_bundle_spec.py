# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every option of oci_bundle, and what of ``config.json`` it becomes."""

from __future__ import annotations

import contextlib
import copy
import json
import typing as t
from functools import reduce
from pathlib import Path

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.bundle_options import given_options, spec_options
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.runtime_spec import (
    DEFAULT_CAPABILITIES,
    Process,
    ResolvedUser,
    runtime_spec,
)
from ansible_collections.lxcri.proxmox.tests.oci.images import build, busybox_layer
from ansible_collections.lxcri.proxmox.tests.oci.module import run_module
from ansible_collections.lxcri.proxmox.tests.oci.schemas import validate_spec

# The specification's name of a hook, and of a limit on a device.
HOOKS = {
    "prestart": "prestart",
    "create_runtime": "createRuntime",
    "create_container": "createContainer",
    "start_container": "startContainer",
    "poststart": "poststart",
    "poststop": "poststop",
}
THROTTLES = {
    "throttle_read_bps_device": "throttleReadBpsDevice",
    "throttle_write_bps_device": "throttleWriteBpsDevice",
    "throttle_read_iops_device": "throttleReadIOPSDevice",
    "throttle_write_iops_device": "throttleWriteIOPSDevice",
}
IMAGE = {"Entrypoint": ["/entry"], "Cmd": ["one"], "User": "app", "WorkingDir": "/srv", "Env": ["PATH=/bin", "A=1"]}
PROFILE = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
}
EVERYTHING: dict[str, t.Any] = {
    "process": {
        "entrypoint": ["/bin/sh", "-c"],
        "args": ["id"],
        "env": {"B": 2, "A": None},
        "cwd": "/tmp",
        "user": "1001:0",
        "additional_gids": [10],
        "umask": "0027",
        "capabilities": {"add": ["net_admin"], "drop": ["CAP_MKNOD"], "ambient": ["NET_ADMIN"]},
        "rlimits": [{"type": "nofile", "soft": 100, "hard": "unlimited"}],
        "no_new_privileges": True,
        "terminal": True,
        "oom_score_adj": 100,
        "apparmor_profile": "unconfined",
        "selinux_label": "system_u:system_r:container_t:s0",
    },
    "root": {"readonly": True},
    "hostname": "everything",
    "mounts": [{"destination": "/data", "type": "tmpfs", "source": "shm", "options": ["ro"]}],
    "namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/x"}],
    "resources": {
        "memory": {"limit": "64M", "reservation": "32M", "swap": "128M", "swappiness": 10, "disable_oom_killer": True},
        "cpu": {
            "shares": 512,
            "quota": 50000,
            "period": 100000,
            "realtime_runtime": 1000,
            "realtime_period": 10000,
            "cpus": "0-1",
            "mems": "0",
        },
        "pids": {"limit": 50},
        "block_io": {
            "weight": 100,
            "leaf_weight": 50,
            "weight_device": [{"major": 8, "minor": 16, "weight": 200, "leaf_weight": 150}],
            **{name: [{"major": 8, "minor": 16, "rate": 7 + number}] for number, name in enumerate(THROTTLES)},
        },
        "devices": [{"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rw"}],
        "unified": {"memory.high": "1000000"},
    },
    "devices": [
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "uid": 3, "gid": 5, "file_mode": "0660"},
    ],
    "seccomp": PROFILE,
    "sysctl": {"net.ipv4.ip_forward": 1},
    "masked_paths": ["/proc/kcore"],
    "readonly_paths": ["/proc/sys"],
    "rootfs_propagation": "slave",
    "cgroups_path": "/lxcri/x",
    "mount_label": "system_u:object_r:container_file_t:s0",
    "hooks": {
        name: [{"path": "/bin/true", "args": ["true", name], "env": {"A": name}, "timeout": 5 + number}]
        for number, name in enumerate(HOOKS)
    },
    "annotations": {"org.example.a": "b"},
    "spec": {"domainname": "example.org", "linux": {"personality": {"domain": "LINUX32"}}},
}
ADDED = sorted({*DEFAULT_CAPABILITIES, "CAP_NET_ADMIN"} - {"CAP_MKNOD"})

# For each option its place in config.json, and what is there (runtime-spec: config.md and config-linux.md).
PIECES: dict[str, tuple[str, t.Any]] = {
    "process.entrypoint": ("process args", ["/bin/sh", "-c", "id"]),
    "process.args": ("process args", ["/bin/sh", "-c", "id"]),
    "process.env": ("process env", ["PATH=/bin", "TERM=xterm", "B=2"]),
    "process.cwd": ("process cwd", "/tmp"),
    "process.user": ("process user", {"uid": 1001, "gid": 0, "additionalGids": [10], "umask": 0o27}),
    "process.additional_gids": ("process user additionalGids", [10]),
    "process.umask": ("process user umask", 23),
    "process.capabilities.add": ("process capabilities bounding", ADDED),
    "process.capabilities.drop": ("process capabilities bounding", ADDED),
    "process.capabilities.only": ("process capabilities bounding", ["CAP_KILL"]),
    "process.capabilities.ambient": ("process capabilities ambient", ["CAP_NET_ADMIN"]),
    "process.rlimits.type": ("process rlimits 0 type", "RLIMIT_NOFILE"),
    "process.rlimits.soft": ("process rlimits 0 soft", 100),
    "process.rlimits.hard": ("process rlimits 0 hard", 2**64 - 1),
    "process.no_new_privileges": ("process noNewPrivileges", True),
    "process.terminal": ("process terminal", True),
    "process.oom_score_adj": ("process oomScoreAdj", 100),
    "process.apparmor_profile": ("process apparmorProfile", "unconfined"),
    "process.selinux_label": ("process selinuxLabel", "system_u:system_r:container_t:s0"),
    "root.readonly": ("root", {"path": "rootfs", "readonly": True}),
    "hostname": ("hostname", "everything"),
    "mounts.destination": ("mounts -1 destination", "/data"),
    "mounts.type": ("mounts -1 type", "tmpfs"),
    "mounts.source": ("mounts -1 source", "shm"),
    "mounts.options": ("mounts -1 options", ["ro"]),
    "namespaces.type": ("linux namespaces 0", {"type": "pid"}),
    "namespaces.path": ("linux namespaces 1", {"type": "network", "path": "/run/netns/x"}),
    "resources.memory.limit": ("linux resources memory limit", 64 << 20),
    "resources.memory.reservation": ("linux resources memory reservation", 32 << 20),
    "resources.memory.swap": ("linux resources memory swap", 128 << 20),
    "resources.memory.swappiness": ("linux resources memory swappiness", 10),
    "resources.memory.disable_oom_killer": ("linux resources memory disableOOMKiller", True),
    "resources.cpu.shares": ("linux resources cpu shares", 512),
    "resources.cpu.quota": ("linux resources cpu quota", 50000),
    "resources.cpu.period": ("linux resources cpu period", 100000),
    "resources.cpu.realtime_runtime": ("linux resources cpu realtimeRuntime", 1000),
    "resources.cpu.realtime_period": ("linux resources cpu realtimePeriod", 10000),
    "resources.cpu.cpus": ("linux resources cpu cpus", "0-1"),
    "resources.cpu.mems": ("linux resources cpu mems", "0"),
    "resources.pids.limit": ("linux resources pids", {"limit": 50}),
    "resources.block_io.weight": ("linux resources blockIO weight", 100),
    "resources.block_io.leaf_weight": ("linux resources blockIO leafWeight", 50),
    "resources.block_io.weight_device.major": ("linux resources blockIO weightDevice 0 major", 8),
    "resources.block_io.weight_device.minor": ("linux resources blockIO weightDevice 0 minor", 16),
    "resources.block_io.weight_device.weight": ("linux resources blockIO weightDevice 0 weight", 200),
    "resources.block_io.weight_device.leaf_weight": ("linux resources blockIO weightDevice 0 leafWeight", 150),
    **{
        f"resources.block_io.{option}.{key}": (f"linux resources blockIO {name} 0 {key}", value)
        for number, (option, name) in enumerate(THROTTLES.items())
        for key, value in (("major", 8), ("minor", 16), ("rate", 7 + number))
    },
    "resources.devices.allow": ("linux resources devices -1 allow", True),
    "resources.devices.type": ("linux resources devices -1 type", "c"),
    "resources.devices.major": ("linux resources devices -1 major", 10),
    "resources.devices.minor": ("linux resources devices -1 minor", 200),
    "resources.devices.access": ("linux resources devices -1 access", "rw"),
    "resources.unified": ("linux resources unified", {"memory.high": "1000000"}),
    "devices.path": ("linux devices 0 path", "/dev/fuse"),
    "devices.type": ("linux devices 0 type", "c"),
    "devices.major": ("linux devices 0 major", 10),
    "devices.minor": ("linux devices 0 minor", 229),
    "devices.uid": ("linux devices 0 uid", 3),
    "devices.gid": ("linux devices 0 gid", 5),
    "devices.file_mode": ("linux devices 0 fileMode", 432),
    "seccomp": ("linux seccomp", PROFILE),
    "sysctl": ("linux sysctl", {"net.ipv4.ip_forward": "1"}),
    "masked_paths": ("linux maskedPaths", ["/proc/kcore"]),
    "readonly_paths": ("linux readonlyPaths", ["/proc/sys"]),
    "rootfs_propagation": ("linux rootfsPropagation", "slave"),
    "cgroups_path": ("linux cgroupsPath", "/lxcri/x"),
    "mount_label": ("linux mountLabel", "system_u:object_r:container_file_t:s0"),
    **{
        f"hooks.{option}.{key}": (f"hooks {name} 0 {key}", value)
        for number, (option, name) in enumerate(HOOKS.items())
        for key, value in (
            ("path", "/bin/true"),
            ("args", ["true", option]),
            ("env", [f"A={option}"]),
            ("timeout", 5 + number),
        )
    },
    "annotations": ("annotations", {"org.example.a": "b"}),
    "spec": ("domainname", "example.org"),
}
# What cannot be given together with the rest.
INSTEAD = {"process.capabilities.only": {"process": {"capabilities": {"only": ["KILL"]}}}}


def leaves(options: t.Mapping[str, t.Any], above: str = "") -> t.Iterator[tuple[str, bool]]:
    """The options of an argument specification by their paths, and whether each is required."""
    for name, option in options.items():
        if option.get("options"):
            yield from leaves(option["options"], f"{above}{name}.")
        else:
            yield above + name, bool(option.get("required"))


LEAVES = dict(leaves(spec_options()))


def spec_of(options: dict[str, t.Any]) -> dict[str, t.Any]:
    """The specification of options, as Ansible gives them to the module."""
    checked = ArgumentSpecValidator(spec_options()).validate(copy.deepcopy(options))
    assert not checked.error_messages
    process = Process(("/entry",), ("one",), ("PATH=/bin", "A=1"), "/srv", "app")
    user = ResolvedUser(1001) if "user" in options.get("process", {}) else ResolvedUser(1000, 1000)
    return runtime_spec(process, given_options(checked.validated_parameters), user)


def piece(document: t.Any, place: str) -> t.Any:
    """What is at a place; KeyError or IndexError when nothing is."""
    return reduce(lambda here, key: here[int(key) if isinstance(here, list) else key], place.split(), document)


def without(options: t.Any, path: t.Sequence[str]) -> t.Any:
    """Options without one of them."""
    if isinstance(options, list):
        return [without(below, path) for below in options]
    if len(path) == 1:
        return {key: value for key, value in options.items() if key != path[0]}
    return {**options, path[0]: without(options[path[0]], path[1:])}


def test_the_table_has_all_options() -> None:
    assert set(PIECES) == set(LEAVES)


@pytest.mark.parametrize("option", PIECES)
def test_what_an_option_becomes(option: str) -> None:
    """It is there, valid, and not there without the option."""
    options = INSTEAD.get(option, EVERYTHING)
    place, expected = PIECES[option]
    spec = spec_of(options)
    validate_spec(spec)
    found = piece(spec, place)
    assert (found, type(found)) == (expected, type(expected))
    if not LEAVES[option]:
        # Nothing is there then, or the rest makes no sense without it.
        with contextlib.suppress(Failure, KeyError, IndexError):
            assert piece(spec_of(without(options, option.split("."))), place) != expected


def test_what_the_module_writes(tmp_path: Path) -> None:
    """With all options at once; check mode tells the same."""
    layout = build(busybox_layer(), config=IMAGE).write(tmp_path / "layout")
    params = {"layout": str(layout), "path": str(tmp_path / "bundle"), **EVERYTHING}
    predicted = run_module("oci_bundle", params, check_mode=True)
    result = run_module("oci_bundle", params)
    assert not result.get("failed"), result
    spec = json.loads((tmp_path / "bundle/config.json").read_text())
    validate_spec(spec)
    assert spec == result["spec"]
    assert predicted["plan"] == result["plan"]
    for option, (place, expected) in PIECES.items():
        if option not in INSTEAD and option != "annotations":
            assert piece(spec, place) == expected, option
    assert spec["annotations"]["org.example.a"] == "b"
    assert run_module("oci_bundle", params)["changed"] is False
