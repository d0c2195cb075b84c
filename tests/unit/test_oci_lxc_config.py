# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images and runtime specifications as containers of Proxmox: each row of the mapping, and each thing that is lost."""

from __future__ import annotations

import re
import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties, raw_config, spec
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.raw_keys import check_line
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci import init_command
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.lxc_config import (
    Mapped,
    from_image,
    from_runtime_spec,
    signal_name,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.lxc_resources import weight_of_shares
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.lxc_seccomp import policy
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.runtime_spec import (
    ResolvedUser,
    process_of,
    runtime_spec,
)
from hypothesis import assume, example, given
from hypothesis import strategies as st

Json = dict[str, t.Any]
MIB = 1 << 20
DEFAULT_MAP = [{"containerID": 0, "hostID": 100000, "size": 65536}]
# A specification of which nothing is lost.
WHOLE: Json = {
    "ociVersion": "1.0.2",
    "process": {"args": ["/bin/app"], "cwd": "/"},
    "root": {"path": "rootfs"},
    "linux": {
        "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "user")],
        "resources": {"memory": {"limit": 64 * MIB}},
    },
}


def merged(base: Json, over: Json) -> Json:
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = merged(base[key], value) if both else value
    return result


def mapped(over: Json | None = None, **options: t.Any) -> Mapped:
    """The mapping of a specification of which nothing is lost, but for what ``over`` brings."""
    result = from_runtime_spec(merged(WHOLE, over or {}), **options)
    for key, value in result.raw:
        check_line(key, value)
    raw_config.declare({"raw": result.as_dict()["raw"], "exclusive": "keys", "state": "present"})
    # What the API is to take, the collection takes.
    params = dict.fromkeys(spec.container_options())
    spec.declare({**params, **spec.DEFAULTS, "vmid": 101, "state": "present", **result.api})
    assert all(loss["reason"] for loss in result.losses)
    return result


def process(**values: t.Any) -> Json:
    return {"process": values}


def linux(**values: t.Any) -> Json:
    return {"linux": values}


def resources(**values: t.Any) -> Json:
    return {"linux": {"resources": values}}


def mount(destination: str, kind: str, source: str, *options: str, **more: t.Any) -> Json:
    entry = {"destination": destination, "type": kind, "source": source, "options": list(options)}
    return {"mounts": [{**entry, **more}]}


def test_nothing_is_lost_of_what_can_be_expressed() -> None:
    result = mapped()
    assert result.losses == []
    assert result.raw == []
    assert result.api == {"entrypoint": "/bin/app", "cmode": "console", "memory": 64, "unprivileged": True}


API: list[tuple[Json, str, t.Any]] = [
    (process(args=["/bin/app", "a b"]), "entrypoint", "/bin/app 'a b'"),
    (process(env=["A=1", "PATH=/bin:/usr/bin"]), "env", {"A": "1", "PATH": "/bin:/usr/bin"}),
    ({"hostname": "web-1.example"}, "hostname", "web-1.example"),
    ({"root": {"path": "rootfs", "readonly": True}}, "rootfs", {"ro": True}),
    (linux(namespaces=[*WHOLE["linux"]["namespaces"]]), "unprivileged", True),
    (resources(memory={"limit": 16 * MIB}), "memory", 16),
    (resources(memory={"limit": 512 * MIB, "swap": 768 * MIB}), "swap", 256),
    (resources(memory={"limit": 512 * MIB, "swap": 512 * MIB}), "swap", 0),
    (resources(cpu={"quota": 50000, "period": 100000}), "cpulimit", 0.5),
    (resources(cpu={"quota": 150000}), "cpulimit", 1.5),
    (linux(personality={"domain": "LINUX32"}), "arch", "i386"),
    (
        {"annotations": {"org.example.a": "1", "org.example.b": "zwei"}},
        "description",
        "org.example.a: 1\norg.example.b: zwei",
    ),
    (
        {"annotations": {"a": "<!-- lxcri.proxmox home=x -->", "<!-- b": "-->"}},
        "description",
        "&lt;!-- b: -->\na: &lt;!-- lxcri.proxmox home=x -->",
    ),
    ({"annotations": {"lxcri.proxmox.tags": "web, prod"}}, "tags", ["web", "prod"]),
]


@pytest.mark.parametrize(("over", "option", "value"), API)
def test_options_of_the_api(over: Json, option: str, value: t.Any) -> None:
    """What is an option of the API, without a loss."""
    result = mapped(over)
    assert result.api[option] == value
    assert result.losses == []
    assert result.raw == []


RAW: list[tuple[Json, list[tuple[str, str]]]] = [
    (process(cwd="/srv/a b"), [("lxc.init.cwd", "/srv/a b")]),
    (
        process(user={"uid": 1000, "gid": 50, "additionalGids": [7, 8]}),
        [("lxc.init.uid", "1000"), ("lxc.init.gid", "50"), ("lxc.init.groups", "7,8")],
    ),
    (process(user={"uid": 0, "gid": 0}), []),
    (process(rlimits=[{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}]), [("lxc.prlimit.nofile", "1:2")]),
    (
        process(rlimits=[{"type": "RLIMIT_CORE", "soft": 0, "hard": (1 << 64) - 1}]),
        [("lxc.prlimit.core", "0:unlimited")],
    ),
    (process(apparmorProfile="lxc-web"), [("lxc.apparmor.profile", "lxc-web")]),
    (process(selinuxLabel="system_u:system_r:x_t:s0"), [("lxc.selinux.context", "system_u:system_r:x_t:s0")]),
    (
        process(capabilities={name: ["CAP_KILL", "CAP_CHOWN"] for name in ("bounding", "effective", "permitted")}),
        [("lxc.cap.drop", ""), ("lxc.cap.keep", "chown kill")],
    ),
    (process(capabilities={}), [("lxc.cap.drop", ""), ("lxc.cap.keep", "none")]),
    (
        mount("/srv/d", "bind", "/data/a b", "rbind", "ro", "nosuid"),
        [("lxc.mount.entry", "/data/a\\040b srv/d none rbind,ro,nosuid,create=dir 0 0")],
    ),
    (
        mount("/run", "tmpfs", "tmpfs", "nosuid", "size=16m", "mode=0755"),
        [("lxc.mount.entry", "tmpfs run tmpfs nosuid,size=16m,mode=0755,create=dir 0 0")],
    ),
    (
        mount("/a/../b\tc", "tmpfs", ""),
        [("lxc.mount.entry", "tmpfs b\\011c tmpfs create=dir 0 0")],
    ),
    (mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"), []),
    (linux(maskedPaths=["/proc/kcore"]), [("lxc.mount.entry", "/dev/null proc/kcore none bind,optional 0 0")]),
    (linux(maskedPaths=["/sys/firmware"]), [("lxc.mount.entry", "tmpfs sys/firmware tmpfs ro,optional 0 0")]),
    (
        linux(maskedPaths=["/opt/x y"]),
        [
            ("lxc.mount.entry", "/dev/null opt/x\\040y none bind,optional 0 0"),
            ("lxc.mount.entry", "tmpfs opt/x\\040y tmpfs ro,optional 0 0"),
        ],
    ),
    (
        linux(readonlyPaths=["/proc/sys"]),
        [("lxc.mount.entry", "proc/sys proc/sys none rbind,ro,relative,optional 0 0")],
    ),
    (
        linux(uidMappings=[{"containerID": 0, "hostID": 200000, "size": 10}], gidMappings=DEFAULT_MAP),
        [("lxc.idmap", "u 0 200000 10"), ("lxc.idmap", "g 0 100000 65536")],
    ),
    (linux(uidMappings=DEFAULT_MAP, gidMappings=DEFAULT_MAP), []),
    (
        resources(cpu={"cpus": "0-1,3", "mems": "0"}),
        [("lxc.cgroup2.cpuset.cpus", "0-1,3"), ("lxc.cgroup2.cpuset.mems", "0")],
    ),
    (resources(cpu={"burst": 100, "idle": 1}), [("lxc.cgroup2.cpu.max.burst", "100"), ("lxc.cgroup2.cpu.idle", "1")]),
    (resources(pids={"limit": 100}), [("lxc.cgroup2.pids.max", "100")]),
    (resources(pids={"limit": -1}), [("lxc.cgroup2.pids.max", "max")]),
    (resources(memory={"reservation": MIB}), [("lxc.cgroup2.memory.low", str(MIB))]),
    (
        resources(
            blockIO={
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
                "throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 2000}],
                "throttleReadIOPSDevice": [{"major": 8, "minor": 16, "rate": 30}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 40}],
            }
        ),
        [("lxc.cgroup2.io.max", "8:0 rbps=1000 wbps=2000"), ("lxc.cgroup2.io.max", "8:16 riops=30 wiops=40")],
    ),
    (
        resources(rdma={"mlx5_0": {"hcaHandles": 3, "hcaObjects": 10}}),
        [("lxc.cgroup2.rdma.max", "mlx5_0 hca_handle=3 hca_object=10")],
    ),
    (resources(unified={"memory.oom.group": "1"}), [("lxc.cgroup2.memory.oom.group", "1")]),
    (
        resources(
            devices=[
                {"allow": False, "access": "rwm"},
                {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
                {"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rw"},
                {"allow": True, "type": "b", "major": 8, "minor": -1, "access": "r"},
                {"allow": False, "type": "c", "major": 5, "access": "w"},
                {"allow": True},
            ]
        ),
        [
            ("lxc.cgroup2.devices.allow", "c 10:200 rw"),
            ("lxc.cgroup2.devices.allow", "b 8:* r"),
            ("lxc.cgroup2.devices.deny", "c 5:* w"),
            ("lxc.cgroup2.devices.allow", "a"),
        ],
    ),
    (linux(devices=[{"path": "/dev/null", "type": "c", "major": 1, "minor": 3}]), []),
    ({"annotations": {"org.opencontainers.image.stopSignal": "SIGQUIT"}}, [("lxc.signal.halt", "SIGQUIT")]),
]


@pytest.mark.parametrize(("over", "lines"), RAW)
def test_raw_lines(over: Json, lines: list[tuple[str, str]]) -> None:
    """What is a raw line, without a loss."""
    result = mapped(over)
    assert result.raw == lines
    assert result.losses == []


def test_a_file_is_bound_as_a_file() -> None:
    result = mapped(mount("/etc/app.conf", "bind", "/data/app.conf", "bind"), files=["/data/app.conf"])
    assert result.raw == [("lxc.mount.entry", "/data/app.conf etc/app.conf none bind,create=file 0 0")]


def test_binds_as_mount_points() -> None:
    """Mount points of Proxmox when that is wanted, but for files."""
    over = {
        "mounts": [
            {"destination": "/a", "type": "bind", "source": "/data/a", "options": ["bind", "ro", "nosuid"]},
            {"destination": "/b", "type": "bind", "source": "/data/b", "options": ["rbind"]},
            {"destination": "/c", "type": "bind", "source": "/data/c", "options": ["bind"]},
        ]
    }
    result = mapped(over, binds="mounts", files=["/data/c"])
    assert result.api["mounts"] == [
        {"id": "mp0", "volume": "/data/a", "mp": "/a", "ro": True, "mountoptions": ["nosuid"]},
        {"id": "mp1", "volume": "/data/b", "mp": "/b"},
    ]
    assert result.raw == [("lxc.mount.entry", "/data/c c none bind,create=file 0 0")]
    assert [(loss["key"], loss["value"]) for loss in result.losses] == [("mounts[1].options", "rbind")]
    with pytest.raises(Failure) as caught:
        from_runtime_spec(WHOLE, binds="other")
    assert caught.value.code == "invalid_option"


# Over, and the key and approximation of each loss.
LOSSES: list[tuple[Json, list[tuple[str, str | None]]]] = [
    (process(noNewPrivileges=True), [("process.noNewPrivileges", None)]),
    (process(oomScoreAdj=100), [("process.oomScoreAdj", None)]),
    (process(consoleSize={"height": 1, "width": 1}), [("process.consoleSize", None)]),
    (process(scheduler={"policy": "SCHED_FIFO"}), [("process.scheduler", None)]),
    (process(ioPriority={"class": "IOPRIO_CLASS_IDLE"}), [("process.ioPriority", None)]),
    (process(execCPUAffinity={"initial": "0"}), [("process.execCPUAffinity", None)]),
    (process(commandLine="cmd"), [("process.commandLine", None)]),
    (process(args=["sh", "-c", "a\nb"]), [("process.args", None)]),
    (process(args=["sh", "-c", 'echo "it\'s"']), [("process.args", None)]),
    (process(args=[]), [("process.args", "/sbin/init")]),
    (process(env=["a.b=1"]), [("process.env", None)]),
    (process(env=["A=1\n2"]), [("process.env", None)]),
    (process(env=["A"]), [("process.env", None)]),
    (process(env=["A=1 "]), [("process.env", "A=1")]),
    (process(cwd="/a\nlock: b"), [("process.cwd", None)]),
    (process(cwd="/a "), [("process.cwd", None)]),
    (process(user={"username": "www"}), [("process.user.username", None)]),
    (process(user={"uid": 0, "umask": 18}), [("process.user.umask", None)]),
    (process(rlimits=[{"type": "RLIMIT_X", "soft": 1, "hard": 1}]), [("process.rlimits[0]", None)]),
    (process(apparmorProfile="a\nb"), [("process.apparmorProfile", None)]),
    (process(unheardOf=1), [("process.unheardOf", None)]),
    (
        process(capabilities={"bounding": ["CAP_X"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}),
        [
            ("process.capabilities.bounding", None),
            ("process.capabilities.inheritable", None),
            ("process.capabilities.ambient", None),
            ("process.capabilities.effective", "the bounding set"),
            ("process.capabilities.permitted", "the bounding set"),
        ],
    ),
    (
        process(user={"uid": 7}, capabilities={"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"]}),
        [("process.capabilities.effective", "none")],
    ),
    ({"hostname": "no_name"}, [("hostname", None)]),
    ({"domainname": "example"}, [("domainname", None)]),
    ({"windows": {"a": 1}}, [("windows", None)]),
    ({"unheardOf": 1}, [("unheardOf", None)]),
    ({"root": {"path": "r", "unheardOf": 1}}, [("root.unheardOf", None)]),
    (mount("/dev", "tmpfs", "tmpfs", "nosuid", "size=64m"), [("mounts[0].options", "the /dev of LXC, 500 kB")]),
    (mount("/sys", "sysfs", "sysfs", "ro"), [("mounts[0].options", "lxc.mount.auto sys:mixed")]),
    (mount("/x", "cgroup", "cgroup"), [("mounts[0]", None)]),
    (mount("/", "tmpfs", "tmpfs"), [("mounts[0]", None)]),
    (mount("/x", "", "a"), [("mounts[0]", None)]),
    (mount("/x", "bind", "relative", "bind"), [("mounts[0]", None)]),
    (mount("/x", "ext4", "#a"), [("mounts[0]", None)]),
    (mount("/x", "tmpfs", "a\x01"), [("mounts[0]", None)]),
    (mount("/x", "bind", "/a", "bind", uidMappings=DEFAULT_MAP), [("mounts[0]", None)]),
    (mount("/x", "bind", "/a", "bind", "rro"), [("mounts[0].options", None)]),
    (mount("/x", "tmpfs", "a", "tmpcopyup"), [("mounts[0].options", None)]),
    (mount("/x", "tmpfs", "a", "size=1 0 0"), [("mounts[0].options", None)]),
    (
        linux(namespaces=[{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]),
        [("linux.namespaces", "what the container is already")],
    ),
    (
        linux(namespaces=[*WHOLE["linux"]["namespaces"][1:], {"type": "pid", "path": "/proc/1/ns/pid"}]),
        [("linux.namespaces", "one of its own")],
    ),
    (linux(namespaces=[*WHOLE["linux"]["namespaces"][1:]]), [("linux.namespaces", "one of its own")]),
    (linux(namespaces=[*WHOLE["linux"]["namespaces"], {"type": "time"}]), [("linux.namespaces", None)]),
    (linux(cgroupsPath="/a"), [("linux.cgroupsPath", None)]),
    (linux(rootfsPropagation="shared"), [("linux.rootfsPropagation", None)]),
    (linux(mountLabel="a"), [("linux.mountLabel", None)]),
    (linux(intelRdt={"closID": "a"}), [("linux.intelRdt", None)]),
    (linux(timeOffsets={"boottime": {"secs": 1}}), [("linux.timeOffsets", None)]),
    (linux(netDevices={"eth0": {}}), [("linux.netDevices", None)]),
    (linux(memoryPolicy={"mode": "MPOL_BIND"}), [("linux.memoryPolicy", None)]),
    (linux(personality={"domain": "LINUX", "flags": ["x"]}), [("linux.personality.flags", None)]),
    (linux(sysctl={"net.ipv4.ip_forward": "1"}), [("linux.sysctl.net.ipv4.ip_forward", None)]),
    (linux(sysctl={"kernel.pid_max": "1"}), [("linux.sysctl.kernel.pid_max", None)]),
    (linux(sysctl={"kernel.shmmax": "1"}), [("linux.sysctl.kernel.shmmax", None)]),
    (linux(seccomp={"defaultAction": "SCMP_ACT_ERRNO"}), [("linux.seccomp", "the policy of Proxmox")]),
    (linux(unheardOf=1), [("linux.unheardOf", None)]),
    (
        linux(devices=[{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]),
        [("linux.devices[0]", "devices: /dev/fuse")],
    ),
    (linux(devices=[{"path": "/x", "type": "c", "major": 1, "minor": 1}]), [("linux.devices[0]", None)]),
    (linux(devices=[{"path": "/dev/../x", "type": "c"}]), [("linux.devices[0]", None)]),
    (linux(devices=[{"path": "/dev/pipe", "type": "p"}]), [("linux.devices[0]", None)]),
    (resources(memory={"limit": -1}), [("linux.resources.memory.limit", "memory: 512, unless declared")]),
    (resources(memory={"limit": 1}), [("linux.resources.memory.limit", "memory: 16")]),
    (resources(memory={"limit": 20 * MIB + 1}), [("linux.resources.memory.limit", "memory: 21")]),
    (resources(memory={"swap": -1}), [("linux.resources.memory.swap", "swap of lxc_container")]),
    (resources(memory={"swap": 64 * MIB + 1}), [("linux.resources.memory.swap", "swap: 1")]),
    (
        resources(memory={"limit": -1, "swap": MIB}),
        [("linux.resources.memory.limit", "memory: 512, unless declared"), ("linux.resources.memory.swap", None)],
    ),
    *(
        (resources(memory={name: True}), [(f"linux.resources.memory.{name}", None)])
        for name in ("kernel", "kernelTCP", "swappiness", "disableOOMKiller", "useHierarchy", "checkBeforeUpdate")
    ),
    (resources(memory={"unheardOf": 1}), [("linux.resources.memory.unheardOf", None)]),
    (resources(cpu={"shares": 1024}), [("linux.resources.cpu.shares", "cpuunits: 39")]),
    (resources(cpu={"quota": 1, "period": 3}), [("linux.resources.cpu.quota", "cpulimit: 0.33333")]),
    (resources(cpu={"period": 5000}), [("linux.resources.cpu.period", None)]),
    (resources(cpu={"cpus": "a\nb"}), [("linux.resources.cpu.cpus", None)]),
    (resources(cpu={"realtimeRuntime": 1}), [("linux.resources.cpu.realtimeRuntime", None)]),
    (resources(cpu={"realtimePeriod": 1}), [("linux.resources.cpu.realtimePeriod", None)]),
    (resources(blockIO={"weight": 500}), [("linux.resources.blockIO.weight", "io.weight 4950")]),
    (
        resources(blockIO={"weightDevice": [{"major": 8, "minor": 0, "weight": 10, "leafWeight": 10}]}),
        [
            ("linux.resources.blockIO.weightDevice", "io.weight 1"),
            ("linux.resources.blockIO.weightDevice.leafWeight", None),
        ],
    ),
    (resources(blockIO={"leafWeight": 10}), [("linux.resources.blockIO.leafWeight", None)]),
    (resources(hugepageLimits=[{"pageSize": "2MB", "limit": 1}]), [("linux.resources.hugepageLimits[0]", None)]),
    (resources(network={"classID": 1}), [("linux.resources.network", None)]),
    (resources(unified={"hugetlb.2MB.max": "1"}), [("linux.resources.unified.hugetlb.2MB.max", None)]),
    (resources(unified={"memory.max": "1"}), [("linux.resources.unified.memory.max", None)]),
    (resources(unified={"io.max\nlock": "1"}), [("linux.resources.unified.io.max\nlock", None)]),
    (resources(devices=[{"allow": True, "type": "x"}]), [("linux.resources.devices[0]", None)]),
    (resources(unheardOf={}), [("linux.resources.unheardOf", None)]),
    ({"hooks": {"poststart": [{"path": "/bin/a"}]}}, [("hooks.poststart", None)]),
    ({"hooks": {"poststop": [{"path": "/bin/a\n"}]}}, [("hooks.poststop", None)]),
    ({"annotations": {"a": "b\x00"}}, [("annotations.a", None)]),
    ({"annotations": {"a": "b" * 9000}}, [("annotations", None)]),
    ({"annotations": {"lxcri.proxmox.tags": "a ?"}}, [("annotations.lxcri.proxmox.tags", None)]),
    (
        {"annotations": {"org.opencontainers.image.stopSignal": "7x"}},
        [("annotations.org.opencontainers.image.stopSignal", "lxc.signal.halt: SIGTERM")],
    ),
]


@pytest.mark.parametrize(("over", "losses"), LOSSES)
def test_losses(over: Json, losses: list[tuple[str, str | None]]) -> None:
    """What is dropped or approximated is reported, each with a reason."""
    result = mapped(over)
    assert [(loss["key"], loss.get("approximated_by")) for loss in result.losses] == losses


def test_a_device_is_passed_by_its_path() -> None:
    over = linux(devices=[{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o660, "uid": 5}])
    over["linux"]["resources"] = {"devices": [{"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rwm"}]}
    result = mapped(over)
    assert result.api["devices"] == [{"path": "/dev/fuse", "mode": "0660", "uid": 5}]
    assert result.raw == []


def test_sysctls_of_a_privileged_container() -> None:
    """A hook writes them before LXC makes /proc/sys read-only."""
    namespaces = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]
    sysctl = {"kernel.shmmax": "1 '2", "fs.mqueue.msg_max": "7", "net.core.somaxconn": "8", "kernel.sem": "1\n2"}
    result = mapped(linux(namespaces=namespaces, sysctl=sysctl))
    command = 'sh -c \'echo "$1" >"$2"\' sh'
    assert result.raw == [
        ("lxc.hook.mount", f"{command} 7 /proc/sys/fs/mqueue/msg_max #"),
        ("lxc.hook.mount", f"{command} '1 '\"'\"'2' /proc/sys/kernel/shmmax #"),
    ]
    lost = ["linux.namespaces", "linux.sysctl.kernel.sem", "linux.sysctl.net.core.somaxconn"]
    assert [loss["key"] for loss in result.losses] == lost


@pytest.mark.parametrize(
    ("name", "line", "when"),
    [
        ("prestart", "lxc.hook.pre-start", True),
        ("createRuntime", "lxc.hook.pre-start", True),
        ("createContainer", "lxc.hook.mount", True),
        ("poststop", "lxc.hook.post-stop", False),
    ],
)
def test_hooks(name: str, line: str, when: bool) -> None:
    """LXC runs them in a shell, with arguments of its own behind them, which a comment takes away."""
    hook = {"path": "/bin/hook", "args": ["hook", "it's", "a"], "env": ["A=b c"], "timeout": 3}
    result = mapped({"hooks": {name: [hook]}})
    assert result.raw == [(line, "env 'A=b c' /bin/hook 'it'\"'\"'s' a #")]
    assert [(loss["key"], loss.get("approximated_by")) for loss in result.losses] == [
        (f"hooks.{name}", line),
        (f"hooks.{name}.timeout", None),
    ]
    assert ("it runs" in result.losses[0]["reason"]) == when


def test_a_hook_within_the_container_is_a_path() -> None:
    """LXC looks for it by the whole line."""
    result = mapped({"hooks": {"startContainer": [{"path": "/bin/hook", "args": ["hook"]}]}})
    assert result.raw == [("lxc.hook.start", "/bin/hook")]
    assert [loss.get("approximated_by") for loss in result.losses] == ["lxc.hook.start"]
    others: tuple[Json, ...] = ({"path": "/a", "args": ["a", "b"]}, {"path": "/a", "env": ["A=1"]}, {"path": "/a;b"})
    for hook in others:
        result = mapped({"hooks": {"startContainer": [hook]}})
        assert result.raw == []
        assert [(loss["key"], loss.get("approximated_by")) for loss in result.losses] == [
            ("hooks.startContainer", None)
        ]


@pytest.mark.parametrize(
    ("over", "key"),
    [
        ({"process": []}, "process"),
        ({"process": {"args": "sh"}}, "process.args"),
        ({"process": {"args": [1]}}, "process.args"),
        ({"process": {"cwd": 1}}, "process.cwd"),
        ({"process": {"user": {"uid": "root"}}}, "process.user.uid"),
        ({"process": {"rlimits": [1]}}, "process.rlimits"),
        ({"mounts": {}}, "mounts"),
        ({"mounts": [{}]}, "mounts[0].destination"),
        ({"linux": {"sysctl": {"kernel.sem": 1}}}, "linux.sysctl.kernel.sem"),
    ],
)
def test_what_is_no_specification(over: Json, key: str) -> None:
    with pytest.raises(Failure) as caught:
        mapped(over)
    assert caught.value.code == "invalid_spec"
    assert caught.value.details["key"] == key


@pytest.mark.parametrize(("shares", "weight"), [(0, 1), (2, 1), (1024, 39), (262144, 10000), (1 << 20, 10000)])
def test_shares(shares: int, weight: int) -> None:
    assert weight_of_shares(shares) == weight


def test_what_oci_bundle_makes_of_an_image() -> None:
    """The specification that the collection itself makes is mapped, and nothing of it is unknown."""
    image = {"config": {"Entrypoint": ["/bin/app"], "Env": ["A=1"], "StopSignal": "SIGQUIT", "WorkingDir": "/srv"}}
    made = runtime_spec(process_of(image), {}, ResolvedUser(7, 8, (9,)))
    result = from_runtime_spec(made)
    assert result.api["env"]["A"] == "1"
    assert ("lxc.signal.halt", "SIGQUIT") in result.raw
    assert ("lxc.init.uid", "7") in result.raw
    assert not [loss for loss in result.losses if "knows nothing" in loss["reason"]]
    as_dict = result.as_dict()
    assert set(as_dict) == {"api", "raw", "losses", "files"}
    assert raw_config.declare({"raw": as_dict["raw"], "exclusive": "keys", "state": "present"}).lines


# ------------------------------------------------------------------------------------------------------ images

IMAGE: Json = {
    "Entrypoint": ["/entry.sh"],
    "Cmd": ["app", "-c", "a b"],
    "Env": ["PATH=/bin", "A=1"],
    "User": "1000:50",
    "WorkingDir": "srv",
    "StopSignal": "SIGQUIT",
}


def test_an_image() -> None:
    result = from_image(IMAGE)
    assert result.api == {
        "entrypoint": "/entry.sh app -c 'a b'",
        "cmode": "console",
        "env": {"PATH": "/bin", "A": "1"},
    }
    assert result.raw == [
        ("lxc.init.uid", "1000"),
        ("lxc.init.gid", "50"),
        ("lxc.init.cwd", "/srv"),
        ("lxc.signal.halt", "SIGQUIT"),
    ]
    assert result.losses == []


def test_variables_of_an_image_without_a_value_are_lost() -> None:
    result = from_image({"Cmd": ["a"], "Env": ["A", "B=1", "=c"]})
    assert result.api["env"] == {"B": "1"}
    assert [(loss["key"], loss["value"]) for loss in result.losses] == [("Env", "A"), ("Env", "=c")]


def test_options_instead_of_those_of_an_image() -> None:
    """As in Docker: arguments replace Cmd, another entrypoint drops it; a variable of None is removed."""
    assert from_image(IMAGE, args=["x"]).api["entrypoint"] == "/entry.sh x"
    assert from_image(IMAGE, entrypoint=["/bin/sh"]).api["entrypoint"] == "/bin/sh"
    assert from_image(IMAGE, entrypoint=["/bin/sh"], args=["-l"]).api["entrypoint"] == "/bin/sh -l"
    assert from_image(IMAGE, env={"A": None, "B": "2"}).api["env"] == {"PATH": "/bin", "B": "2"}
    user = from_image({**IMAGE, "User": "www"}, user=ResolvedUser(33, 34, (35, 36)))
    assert user.raw[:3] == [("lxc.init.uid", "33"), ("lxc.init.gid", "34"), ("lxc.init.groups", "35,36")]
    assert user.losses == []


def test_an_image_that_starts_init() -> None:
    result = from_image({"Cmd": ["/sbin/init"]})
    assert result.api == {}
    assert result.raw == [("lxc.signal.halt", "SIGTERM")]


@pytest.mark.parametrize("user", ["", "root", "0", "0:0", "root:root"])
def test_root_needs_no_line(user: str) -> None:
    result = from_image({"Cmd": ["a"], "User": user})
    assert result.raw == [("lxc.signal.halt", "SIGTERM")]
    assert result.losses == []


def test_volumes() -> None:
    """A volume that is declared is a mount point; of others the loss is reported."""
    config = {"Cmd": ["a"], "Volumes": {"/data": {}, "/cache/": {}}}
    result = from_image(config, volumes={"/data/": {"storage": "local-zfs", "size": "8G"}, "/more": {"storage": "a1"}})
    assert result.api["mounts"] == [
        {"id": "mp0", "storage": "local-zfs", "size": "8G", "mp": "/data"},
        {"id": "mp1", "storage": "a1", "mp": "/more"},
    ]
    assert [(loss["key"], loss["value"], loss["approximated_by"]) for loss in result.losses] == [
        ("Volumes", "/cache", "a directory of the root file system")
    ]


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"ExposedPorts": {"80/tcp": {}}}, "ExposedPorts"),
        ({"Healthcheck": {"Test": ["CMD", "true"]}}, "Healthcheck"),
        ({"Labels": {"a": "b"}}, "Labels"),
        ({"OnBuild": ["RUN x"]}, "OnBuild"),
        ({"Shell": ["/bin/bash", "-c"]}, "Shell"),
        ({"ArgsEscaped": True}, "ArgsEscaped"),
        ({"Memory": 1}, "Memory"),
        ({"MemorySwap": 1}, "MemorySwap"),
        ({"CpuShares": 1}, "CpuShares"),
        ({"UnheardOf": 1}, "UnheardOf"),
        ({"User": "www"}, "User"),
        ({"User": "1000"}, "User"),
        ({"StopSignal": "QUIT ME"}, "StopSignal"),
        ({"Env": ["a-b=1"]}, "Env"),
        ({"Cmd": ["sh", "-c", "a\nb"]}, "Entrypoint and Cmd"),
    ],
)
def test_losses_of_an_image(config: Json, key: str) -> None:
    result = from_image({"Cmd": ["a"], **config})
    assert [loss["key"] for loss in result.losses] == [key]
    assert result.losses[0]["reason"]


@pytest.mark.parametrize(
    "config",
    [
        {"Env": ["A=1\nlock: backup"]},
        {"Env": ["A=1\x00B=2"]},
        {"WorkingDir": "/a\n[pve:pending]"},
        {"StopSignal": "SIGTERM\nlxc.hook.pre-start: /evil"},
        {"User": "a\nb"},
        {"Volumes": {"/a\nb": {}}},
    ],
)
def test_control_characters_are_refused(config: Json) -> None:
    with pytest.raises(Failure) as caught:
        from_image({"Cmd": ["a"], **config})
    assert caught.value.code == "unsafe_config"


@pytest.mark.parametrize(
    ("given_name", "name"),
    [
        ("SIGTERM", "SIGTERM"),
        ("sigquit", "SIGQUIT"),
        ("WINCH", "SIGWINCH"),
        ("15", "15"),
        ("SIGRTMIN+3", "SIGRTMIN+3"),
        ("RTMAX-2", "SIGRTMAX-2"),
        ("", None),
        ("SIGRTMIN", "SIGRTMIN+0"),
        ("rtmax", "SIGRTMAX-0"),
        ("SIGRTMIN+99", None),
        ("SIGX", None),
        ("SIG TERM", None),
        ("SIGRTMIN+", None),
    ],
)
def test_signals(given_name: str, name: str | None) -> None:
    assert signal_name(given_name) == name


# ----------------------------------------------------------------------------------------------------- seccomp


def seccomp(**profile: t.Any) -> tuple[list[str], list[tuple[str, t.Any]]]:
    found = Mapped()
    text = policy({"defaultAction": "SCMP_ACT_ERRNO", **profile}, found)
    assert text.endswith("\n")
    return text.splitlines(), [(loss["key"], loss.get("approximated_by")) for loss in found.losses]


def rule(*names: str, action: str = "SCMP_ACT_ALLOW", **more: t.Any) -> Json:
    return {"names": list(names), "action": action, **more}


@pytest.mark.parametrize(
    ("profile", "lines"),
    [
        ({"syscalls": [rule("read", "write")]}, ["2", "allowlist errno 1", "[all]", "read allow", "write allow"]),
        ({"defaultErrnoRet": 38}, ["2", "allowlist errno 38", "[all]"]),
        ({"defaultAction": "SCMP_ACT_KILL_THREAD"}, ["2", "allowlist kill", "[all]"]),
        ({"defaultAction": "SCMP_ACT_TRAP"}, ["2", "allowlist trap", "[all]"]),
        (
            {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [
                    rule("ptrace", action="SCMP_ACT_ERRNO"),
                    rule("mount", action="SCMP_ACT_ERRNO", errnoRet=2),
                    rule("reboot", action="SCMP_ACT_KILL"),
                    rule("read"),
                ],
            },
            ["2", "denylist", "[all]", "ptrace errno 1", "mount errno 2", "reboot kill"],
        ),
        (
            {"syscalls": [rule("socket", args=[{"index": 0, "value": 38, "op": "SCMP_CMP_NE"}])]},
            ["2", "allowlist errno 1", "[all]", "socket allow [0,38,SCMP_CMP_NE]"],
        ),
        # The mask comes first in the specification, and last in LXC.
        (
            {
                "syscalls": [
                    rule("clone", args=[{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}])
                ]
            },
            ["2", "allowlist errno 1", "[all]", "clone allow [0,0,SCMP_CMP_MASKED_EQ,2114060288]"],
        ),
        # Different arguments are compared together, the same one for each comparison by itself.
        (
            {
                "syscalls": [
                    rule(
                        "a",
                        args=[
                            {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
                            {"index": 1, "value": 2, "op": "SCMP_CMP_GT"},
                        ],
                    ),
                    rule(
                        "b",
                        args=[
                            {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
                            {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"},
                        ],
                    ),
                ]
            },
            [
                *("2", "allowlist errno 1", "[all]"),
                "a allow [0,1,SCMP_CMP_EQ][1,2,SCMP_CMP_GT]",
                "b allow [0,1,SCMP_CMP_EQ]",
                "b allow [0,2,SCMP_CMP_EQ]",
            ],
        ),
        # libseccomp refuses what is there already, and what the default says.
        (
            {
                "syscalls": [
                    rule("a", args=[{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]),
                    rule("a", "a"),
                    rule("a", args=[{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]),
                    rule("b", action="SCMP_ACT_ERRNO"),
                ]
            },
            ["2", "allowlist errno 1", "[all]", "a allow"],
        ),
    ],
)
def test_policies(profile: Json, lines: list[str]) -> None:
    assert seccomp(**profile) == (lines, [])


@pytest.mark.parametrize(
    ("profile", "losses"),
    [
        ({"flags": ["SECCOMP_FILTER_FLAG_LOG"]}, [("linux.seccomp.flags", None)]),
        ({"listenerPath": "/a"}, [("linux.seccomp.listenerPath", None)]),
        ({"listenerMetadata": "a"}, [("linux.seccomp.listenerMetadata", None)]),
        ({"unheardOf": 1}, [("linux.seccomp.unheardOf", None)]),
        (
            {"architectures": ["SCMP_ARCH_X86_64"]},
            [
                (
                    "linux.seccomp.architectures",
                    "the rules, applied to the node's architecture and those compatible with it",
                )
            ],
        ),
        ({"architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]}, []),
        ({"defaultAction": "SCMP_ACT_KILL_PROCESS"}, [("linux.seccomp.defaultAction", "kill")]),
        ({"syscalls": [rule("a", action="SCMP_ACT_LOG")]}, [("linux.seccomp.syscalls[0].action", "allow")]),
        ({"syscalls": [rule("a", action="SCMP_ACT_TRACE")]}, [("linux.seccomp.syscalls[0].action", "errno 38")]),
        ({"syscalls": [rule("a", action="SCMP_ACT_NOTIFY")]}, [("linux.seccomp.syscalls[0].action", "errno 38")]),
        ({"syscalls": [rule("a\n[all]\nb")]}, [("linux.seccomp.syscalls[0].names", None)]),
        ({"syscalls": [rule("a", unheardOf=1)]}, [("linux.seccomp.syscalls[0].unheardOf", None)]),
    ],
)
def test_what_a_policy_cannot_express(profile: Json, losses: list[tuple[str, t.Any]]) -> None:
    assert seccomp(**profile)[1] == losses


@pytest.mark.parametrize(
    "profile",
    [
        {"defaultAction": None},
        {"defaultAction": "allow"},
        {"syscalls": [rule("a", args=[{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}])]},
        {"syscalls": [rule("a", args=[{"index": 0, "value": "1", "op": "SCMP_CMP_EQ"}])]},
        {"syscalls": [rule("a", args=[{"index": 0, "value": 1, "op": "=="}])]},
    ],
)
def test_what_is_no_profile(profile: Json) -> None:
    with pytest.raises(Failure) as caught:
        seccomp(**profile)
    assert caught.value.code == "invalid_spec"


def test_a_policy_has_a_place() -> None:
    over = linux(seccomp={"defaultAction": "SCMP_ACT_ALLOW"})
    result = mapped(over, seccomp_path="/etc/lxc/web.seccomp")
    assert result.raw == [("lxc.seccomp.profile", "/etc/lxc/web.seccomp")]
    assert result.files == {"/etc/lxc/web.seccomp": "2\ndenylist\n[all]\n"}
    assert result.losses == []


# ------------------------------------------------------------------------------------------------ command lines

words = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")) | st.just("\t"), max_size=12)
plain = words.filter(lambda word: not ("'" in word and '"' in word))


def lxc_reads(line: str) -> list[str]:
    """An independent reading of LXC's ``parse_line`` and ``lxc_string_split_quoted``, by an expression."""
    line = line.strip(" \t")
    line = re.sub(r"\A(['\"])(.*)\1\Z", r"\2", line, flags=re.DOTALL)
    found = re.findall(r"'([^']*)'|\"([^\"]*)\"|([^ \t'\"][^ \t]*)|['\"].*", line, re.DOTALL)
    ends = re.sub(r"'[^']*'|\"[^\"]*\"|[^ \t'\"][^ \t]*|[ \t]+", "", line, flags=re.DOTALL)
    return ["".join(groups) for groups in found][: len(found) - bool(ends)]


@given(st.lists(plain, min_size=1, max_size=6))
@example(["\xa0"])
@example(["sh", "\xa0"])
def test_a_command_line_is_read_as_it_was(args: list[str]) -> None:
    """Whatever can be expressed comes back, and Proxmox takes it."""
    assume(args[0])
    line = init_command.encode(args)
    assert init_command.decode(line) == args
    assert lxc_reads(line) == args
    assert properties.normalise("entrypoint", line) == line.strip(" \t")


@given(st.lists(words, max_size=6))
def test_what_cannot_be_expressed_is_refused(args: list[str]) -> None:
    """Either it comes back as it was, or it is refused."""
    expressible = bool(args and args[0]) and not any("'" in word and '"' in word for word in args)
    try:
        line = init_command.encode(args)
    except init_command.NotExpressible:
        assert not expressible
    else:
        assert init_command.decode(line) == args


@given(st.text("ab'\" \t", max_size=20))
def test_reading_is_that_of_lxc(line: str) -> None:
    assert init_command.decode(line) == lxc_reads(line)


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["/bin/app"], "/bin/app"),
        (["sh", "-c", "echo it's"], 'sh -c "echo it\'s"'),
        (["sh", "-c", 'echo "a b"'], "sh -c 'echo \"a b\"'"),
        (["a", ""], "a ''"),
        (["/a b"], "\"'/a b'\""),
        (["/a b", "c d"], "\"'/a b' 'c d'\""),
        (["a", "it's"], "a it's"),
        (["a", "b'c\"d"], "a b'c\"d"),
    ],
)
def test_command_lines(args: list[str], line: str) -> None:
    assert init_command.encode(args) == line
    assert init_command.decode(line) == args


@pytest.mark.parametrize("args", [[], [""], ["a", "b\nc"], ["a", "b \"'"], ["a", "'\""]])
def test_command_lines_that_lxc_cannot_be_told(args: list[str]) -> None:
    with pytest.raises(init_command.NotExpressible):
        init_command.encode(args)


def test_an_end_that_is_missing() -> None:
    """LXC drops a quoted word without an end."""
    assert init_command.decode("a 'b c") == ["a"]
