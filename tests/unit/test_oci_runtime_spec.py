# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration of a runtime from an image and options."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.bundle_options import canonical, given_options
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.runtime_spec import (
    ALL_CAPABILITIES,
    DEFAULT_CAPABILITIES,
    DEFAULT_PATH,
    Process,
    ResolvedUser,
    camel,
    merged,
    process_of,
    runtime_spec,
    size,
)
from hypothesis import given
from hypothesis import strategies as st

ROOT, APP = ResolvedUser(), ResolvedUser(1000, 1000, (2000,))
IMAGE = Process(entrypoint=("/entry", "-x"), cmd=("one", "two"), env=("A=1", "PATH=/bin"), cwd="/srv")


def process(image: Process | None = IMAGE, user: ResolvedUser | str = ROOT, **declared: t.Any) -> dict[str, t.Any]:
    """The process that an image and options give."""
    return t.cast("dict[str, t.Any]", runtime_spec(image, {"process": declared}, user)["process"])


def code_of(**options: t.Any) -> str:
    with pytest.raises(Failure) as caught:
        runtime_spec(IMAGE, options, ROOT)
    return caught.value.code


@pytest.mark.parametrize(
    ("declared", "args"),
    [
        ({}, ["/entry", "-x", "one", "two"]),
        ({"args": ["three"]}, ["/entry", "-x", "three"]),
        ({"args": []}, ["/entry", "-x"]),
        # Another entrypoint drops Cmd, as docker run --entrypoint does.
        ({"entrypoint": ["/other"]}, ["/other"]),
        ({"entrypoint": ["/other"], "args": ["three"]}, ["/other", "three"]),
        ({"entrypoint": [], "args": ["sh"]}, ["sh"]),
    ],
)
def test_arguments(declared: dict[str, t.Any], args: list[str]) -> None:
    assert process(**declared)["args"] == args


def test_arguments_without_an_image() -> None:
    assert process(None)["args"] == ["sh"]


@pytest.mark.parametrize("declared", [{"entrypoint": []}, {"entrypoint": [""]}])
def test_no_command(declared: dict[str, t.Any]) -> None:
    assert code_of(process=declared) == "no_command"


@pytest.mark.parametrize(
    ("image", "declared", "env"),
    [
        ((), {}, [f"PATH={DEFAULT_PATH}"]),
        (("PATH=/bin", "A=x=y"), {}, ["PATH=/bin", "A=x=y"]),
        (("A=1", "PATH=/bin"), {"A": None, "B": 2}, ["PATH=/bin", "B=2"]),
        (("PATH=/bin",), {"PATH": "/other", "E": ""}, ["PATH=/other", "E="]),
        ((), {"PATH": None}, []),
    ],
)
def test_environment(image: tuple[str, ...], declared: dict[str, t.Any], env: list[str]) -> None:
    assert process(Process(cmd=("x",), env=image), env=declared)["env"] == env


def test_a_terminal_has_a_type() -> None:
    assert "TERM=xterm" in process(terminal=True)["env"]
    assert process(terminal=False)["terminal"] is False


def test_capabilities_of_root_and_others() -> None:
    names = sorted(DEFAULT_CAPABILITIES)
    assert process()["capabilities"] == {"bounding": names, "effective": names, "permitted": names}
    assert process(user=APP)["capabilities"] == {"bounding": names, "effective": [], "permitted": []}
    assert len(names) == 14
    assert len(ALL_CAPABILITIES) == 41
    # Not looked up yet.
    assert process(user="root:adm")["capabilities"]["effective"] == names
    assert process(user="app")["capabilities"]["effective"] == []


@pytest.mark.parametrize(
    ("declared", "bounding"),
    [
        ({"add": ["net_admin"]}, {*DEFAULT_CAPABILITIES, "CAP_NET_ADMIN"}),
        ({"drop": ["CAP_CHOWN", "kill"]}, set(DEFAULT_CAPABILITIES) - {"CAP_CHOWN", "CAP_KILL"}),
        ({"drop": ["ALL"]}, set()),
        ({"drop": ["all"], "add": ["KILL"]}, {"CAP_KILL"}),
        ({"add": ["ALL"], "drop": ["SYS_ADMIN"]}, set(ALL_CAPABILITIES) - {"CAP_SYS_ADMIN"}),
        ({"only": []}, set()),
        ({"only": ["KILL"]}, {"CAP_KILL"}),
    ],
)
def test_capabilities(declared: dict[str, t.Any], bounding: set[str]) -> None:
    assert set(process(capabilities=declared)["capabilities"]["bounding"]) == bounding


def test_ambient_capabilities() -> None:
    found = process(user=APP, capabilities={"only": ["KILL", "CHOWN"], "ambient": ["KILL"]})["capabilities"]
    assert found["effective"] == found["permitted"] == found["inheritable"] == found["ambient"] == ["CAP_KILL"]
    assert found["bounding"] == ["CAP_CHOWN", "CAP_KILL"]


def test_limits() -> None:
    declared = [{"type": "nofile", "soft": "10", "hard": "unlimited"}, {"type": "RLIMIT_CORE", "soft": "0"}]
    assert process(rlimits=declared)["rlimits"] == [
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_NOFILE", "soft": 10, "hard": (1 << 64) - 1},
    ]


def test_mounts_of_the_same_place_are_replaced() -> None:
    declared = [
        {"destination": "/data", "source": "/srv", "options": ["bind", "ro"]},
        {"destination": "/dev/shm", "type": "tmpfs", "options": ["size=1g"]},
        {"destination": "/more", "type": "bind", "source": "/more"},
    ]
    mounts = runtime_spec(IMAGE, {"mounts": declared}, ROOT)["mounts"]
    assert [mount["destination"] for mount in mounts] == [
        *("/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup", "/data", "/more"),
    ]
    assert mounts[3] == {"destination": "/dev/shm", "type": "tmpfs", "source": "tmpfs", "options": ["size=1g"]}
    assert mounts[7] == {"destination": "/data", "type": "bind", "source": "/srv", "options": ["bind", "ro"]}
    assert mounts[8]["options"] == ["rbind"]


def test_the_same_place_may_be_written_in_several_ways() -> None:
    mount = {"destination": "//dev/./shm/", "type": "tmpfs"}
    mounts = runtime_spec(Process(cmd=("x",)), {"mounts": [mount]}, ROOT)["mounts"]
    assert [entry.get("options") for entry in mounts if entry["destination"] == "/dev/shm"] == [None]
    assert len(mounts) == len(runtime_spec(Process(cmd=("x",)), {}, ROOT)["mounts"])


def test_a_device_is_made_and_allowed() -> None:
    device = {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "file_mode": "0660", "gid": 5}
    linux = runtime_spec(IMAGE, {"devices": [device, {"path": "/dev/p", "type": "p"}]}, ROOT)["linux"]
    assert linux["devices"][0] == {
        "path": "/dev/fuse",
        "type": "c",
        "major": 10,
        "minor": 229,
        "fileMode": 0o660,
        "gid": 5,
    }
    assert linux["resources"]["devices"] == [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rwm"},
    ]


WRONG: list[dict[str, t.Any]] = [
    {"process": {"cwd": "relative"}},
    {"process": {"env": {"A": True}}},
    {"process": {"env": {"A=B": "x"}}},
    {"process": {"env": {"A": "x\0y"}}},
    {"process": {"args": ["x\0y"]}},
    {"process": {"umask": "9"}},
    {"process": {"capabilities": {"add": ["NO_SUCH"]}}},
    {"process": {"capabilities": {"only": ["KILL"], "add": ["CHOWN"]}}},
    {"process": {"capabilities": {"only": ["KILL"], "ambient": ["CHOWN"]}}},
    {"process": {"rlimits": [{"type": "no", "soft": 1}]}},
    {"process": {"rlimits": [{"type": "nofile", "soft": 2, "hard": 1}]}},
    {"process": {"rlimits": [{"type": "nofile", "soft": "many"}]}},
    {"hostname": "a\nb"},
    {"hostname": "a" * 65},
    {"mounts": [{"destination": "relative", "type": "tmpfs"}]},
    {"mounts": [{"destination": "/x"}]},
    {"mounts": [{"destination": "/x", "type": "bind", "source": "relative"}]},
    {"mounts": [{"destination": "/x", "type": "t\0"}]},
    {"namespaces": [{"type": "pid"}, {"type": "pid"}]},
    {"namespaces": [{"type": "pid", "path": "relative"}]},
    {"namespaces": [{"type": "user"}]},
    {"resources": {"memory": {"limit": "many"}}},
    {"resources": {"memory": {"limit": "2G", "swap": "1G"}}},
    {"devices": [{"path": "/dev/x", "type": "c", "major": 1}]},
    {"devices": [{"path": "/dev/x", "type": "p", "file_mode": "rw"}]},
    {"hooks": {"poststop": [{"path": "relative"}]}},
    {"hooks": {"poststop": [{"path": "/x", "timeout": 0}]}},
    {"masked_paths": ["relative"]},
    {"annotations": {"a": {"b": "c"}}},
]


@pytest.mark.parametrize("options", WRONG, ids=str)
def test_what_is_wrong_is_refused(options: dict[str, t.Any]) -> None:
    assert code_of(**options) == "invalid_option"


@pytest.mark.parametrize(
    "profile",
    [
        ["x"],
        {"defaultAction": 1},
        {"defaultAction": "SCMP_ACT_ALLOW", "archMap": []},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["x"], "action": "y", "includes": {}}]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["x"]}]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": ["x"]},
        {"defaultAction": "SCMP_ACT_ALLOW", "other": 1},
    ],
)
def test_seccomp_profiles_that_no_runtime_reads(profile: t.Any) -> None:
    if profile:
        assert code_of(seccomp=profile) == "invalid_seccomp"
    with pytest.raises(Failure):
        given_options({"seccomp": "/no/such/file"})


@pytest.mark.parametrize(
    ("text", "value"),
    [("512M", 512 << 20), ("1.5g", 3 << 29), (7, 7), ("4 KiB", 4096), ("2TB", 2 << 40), ("-1", -1), ("unlimited", -1)],
)
def test_sizes(text: t.Any, value: int) -> None:
    assert size("x", text) == value


def test_names_of_the_specification() -> None:
    names = ("no_new_privileges", "block_io", "disable_oom_killer", "throttle_read_iops_device", "realtime_period")
    assert [camel(name) for name in names] == [
        *("noNewPrivileges", "blockIO", "disableOOMKiller", "throttleReadIOPSDevice", "realtimePeriod"),
    ]


# ------------------------------------------------------------------------------------------------------ the image


def test_the_process_of_an_image() -> None:
    config = {
        "Env": None,
        "Entrypoint": None,
        "Cmd": ["x"],
        "WorkingDir": "srv/../app",
        "Volumes": {"/b": {}, "/a": {}},
    }
    assert process_of({"config": config}) == Process(cmd=("x",), cwd="/app", volumes=("/a", "/b"))
    assert process_of({}) == Process()
    assert process_of({"config": {"Env": ["A=one\ttwo", "B", "=c", "D="]}}).env == ("A=one\ttwo", "D=")


@pytest.mark.parametrize("bad", ["\n", "\r", "\0", "\x1b", "\x7f"])
@pytest.mark.parametrize("key", ["Env", "User", "WorkingDir", "StopSignal", "Volumes"])
def test_control_characters(bad: str, key: str) -> None:
    text = f"A=x{bad}y"
    value: t.Any = {"Env": [text], "Volumes": {text: {}}}.get(key, text)
    with pytest.raises(Failure) as caught:
        process_of({"config": {key: value}})
    assert caught.value.code == "unsafe_config"


@pytest.mark.parametrize("key", ["User", "WorkingDir", "StopSignal", "Volumes"])
def test_a_tab_is_admitted_in_the_environment_only(key: str) -> None:
    test_control_characters("\t", key)


def test_annotations_of_an_image() -> None:
    config = {"StopSignal": "SIGQUIT", "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Labels": {"a": "b"}}
    image = {"os": "linux", "architecture": "arm64", "author": "", "created": "2026-01-01T00:00:00Z", "config": config}
    prefix = "org.opencontainers.image"
    implied = {
        f"{prefix}.os": "linux",
        f"{prefix}.architecture": "arm64",
        f"{prefix}.created": "2026-01-01T00:00:00Z",
        f"{prefix}.stopSignal": "SIGQUIT",
        f"{prefix}.exposedPorts": "53/udp,80/tcp",
    }
    assert process_of(image).annotations == {**implied, "a": "b"}
    # What is said goes before what is implied, and what is declared before both.
    config["Labels"] = {f"{prefix}.os": "other", "a": "b"}
    assert process_of(image).annotations == {**implied, f"{prefix}.os": "other", "a": "b"}
    spec = runtime_spec(Process(cmd=("x",), annotations={"a": "b", "c": "d"}), {"annotations": {"a": 1}}, ROOT)
    assert spec["annotations"] == {"a": "1", "c": "d"}


@pytest.mark.parametrize("key", ["Env", "User", "WorkingDir", "StopSignal", "Volumes", "Entrypoint", "Cmd", "Labels"])
def test_what_is_no_text(key: str) -> None:
    """JSON can say it, and no file can hold it."""
    texts = {"Env": ["A=/\ud800"], "Entrypoint": ["\udc80"], "Cmd": ["\udc80"]}
    value: t.Any = texts.get(key, {"/\ud800": ""} if key in ("Volumes", "Labels") else "/\ud800")
    with pytest.raises(Failure) as caught:
        process_of({"config": {key: value}})
    assert caught.value.code == "unsafe_config"


@pytest.mark.parametrize(
    "over",
    [
        {"process": None},
        {"process": "x"},
        {"process": {"cwd": 5}},
        {"process": {"cwd": None}},
        {"process": {"cwd": "srv"}},
        {"process": {"user": "x"}},
        {"process": {"args": "sh"}},
        {"process": {"args": []}},
        {"process": {"args": None}},
        {"linux": "x"},
        {"linux": {"namespaces": "abc"}},
        {"linux": {"namespaces": [1]}},
        {"linux": {"gidMappings": [{"containerID": 0}]}},
        {"linux": {"gidMappings": [{"containerID": 0, "hostID": 1 << 40, "size": 1}]}},
        {"linux": {"gidMappings": [{"containerID": 0, "hostID": -1, "size": 1}]}},
    ],
)
def test_what_is_merged_in_has_to_be_a_specification(over: dict[str, t.Any]) -> None:
    with pytest.raises(Failure) as caught:
        runtime_spec(Process(cmd=("x",)), {"spec": over}, ROOT)
    assert caught.value.code == "invalid_spec"


def test_a_script_may_have_lines() -> None:
    assert process_of({"config": {"Cmd": ["sh", "-c", "a\nb"]}}).cmd == ("sh", "-c", "a\nb")
    with pytest.raises(Failure):
        process_of({"config": {"Cmd": ["a\0b"]}})


@pytest.mark.parametrize(
    "config",
    [
        {"Env": "A=1"},
        {"Env": [1]},
        {"Cmd": "sh"},
        {"User": 7},
        {"Volumes": ["/a"]},
        ["x"],
        {"Labels": ["x"]},
    ],
)
def test_images_that_are_not_valid(config: t.Any) -> None:
    with pytest.raises(Failure) as caught:
        process_of({"config": config})
    assert caught.value.code == "invalid_image"


# -------------------------------------------------------------------------------------------------------- merging

JSON = st.recursive(
    st.integers(0, 3) | st.lists(st.integers(), max_size=2),
    lambda below: st.dictionaries(st.sampled_from("abc"), below, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from("abc"), JSON, max_size=3)


@given(OBJECTS, OBJECTS)
def test_merging_once_is_merging_twice(base: dict[str, t.Any], over: dict[str, t.Any]) -> None:
    once = merged(base, over)
    assert merged(once, over) == once
    assert merged(base, {}) == base


def test_null_removes() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": None}, "d": [2]}) == {"a": {"c": 2}, "d": [2]}


def test_what_is_not_given_does_not_count() -> None:
    params = {"process": {"args": None, "env": {"A": None}}, "hostname": None, "spec": {"hooks": None}}
    assert given_options(params) == {"process": {"env": {"A": None}}, "spec": {"hooks": None}}
    assert canonical({"b": 1, "a": 2}) == canonical({"a": 2, "b": 1})
