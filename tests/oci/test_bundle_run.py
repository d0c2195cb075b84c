# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bundles of oci_bundle in real runtimes: what runs is what the image and the options say."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import stat
import subprocess
import tarfile
import time
import typing as t
import uuid
from functools import reduce
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from ansible_collections.lxcri.proxmox.tests.oci.images import build, busybox_layer, directory
from ansible_collections.lxcri.proxmox.tests.oci.module import run_module
from ansible_collections.lxcri.proxmox.tests.oci.test_bundle_spec import HOOKS, LEAVES

# crun refuses hybrid control groups. In a mount namespace of its own it sees those of version 1 only.
RUNTIMES = {
    "runc": ["runc"],
    "crun": [
        *("unshare", "-m", "--propagation", "private", "sh", "-c"),
        'umount /sys/fs/cgroup/unified 2>/dev/null; exec crun "$@"',
        "crun",
    ],
}
REPORT = "id -u; id -g; id -G; pwd; echo $A $B; cat /proc/self/cgroup | head -1 >/dev/null; exit 3"


@pytest.fixture
def name() -> t.Iterator[str]:
    """The name of a container, of which nothing stays."""
    unique = f"lxcri-test-{uuid.uuid4().hex[:12]}"
    yield unique
    for path in sorted(Path("/sys/fs/cgroup").glob(f"*/{unique}")) + sorted(Path("/sys/fs/cgroup").glob(unique)):
        with contextlib.suppress(OSError):
            path.rmdir()


def run(runtime: str, name: str, bundle: Path) -> subprocess.CompletedProcess[str]:
    """Run a bundle to its end."""
    return subprocess.run(
        [*RUNTIMES[runtime], "run", "--bundle", str(bundle), name],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )


def bundle(tmp_path: Path, config: dict[str, t.Any], **params: t.Any) -> Path:
    """A bundle of an image with this configuration."""
    layout = build(busybox_layer(directory("srv", owner=(1000, 1000))), config=config).write(tmp_path / "layout")
    result = run_module("oci_bundle", {"layout": str(layout), "path": str(tmp_path / "bundle"), **params})
    assert result.get("changed"), result
    return Path(result["path"])


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_process_of_the_image(runtime: str, name: str, tmp_path: Path) -> None:
    config = {
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": [REPORT],
        "User": "app",
        "WorkingDir": "/srv/not/there",
        "Env": ["A=one two", "B=2"],
    }
    done = run(runtime, name, bundle(tmp_path, config))
    assert done.stdout.splitlines() == ["1000", "1000", "1000 2000", "/srv/not/there", "one two 2"], done.stderr
    assert done.returncode == 3


class Row(t.NamedTuple):
    """What a container prints that is made with these options. ``{}`` is a directory of the machine."""

    options: dict[str, t.Any]
    script: str
    prints: list[str]


STATUS = "grep -E '^({}):' /proc/self/status"
# The kernel's messages: opening them needs no more than the control group admits.
KMSG = """
mknod /dev/k c 1 11
(: >/dev/k) 2>/dev/null && echo written || echo not written
(: </dev/k) 2>/dev/null && echo read || echo not read
"""
ROWS = {
    "the process": Row(
        {"process": {"env": {"A": "option", "B": 2}, "cwd": "/tmp", "user": "app:0", "umask": "0027"}},
        "id -u; id -g; pwd; echo $A$B; umask",
        ["1000", "0", "/tmp", "option2", "0027"],
    ),
    "supplementary groups": Row({"process": {"user": "app", "additional_gids": [7]}}, "id -G", ["1000 7 2000"]),
    "no new privileges": Row({"process": {"no_new_privileges": True}}, STATUS.format("NoNewPrivs"), ["NoNewPrivs: 1"]),
    "capabilities": Row(
        {"process": {"capabilities": {"only": ["KILL"]}}},
        STATUS.format("Cap.*"),
        [f"Cap{name}: {value:016x}" for name, value in (("Inh", 0), ("Prm", 32), ("Eff", 32), ("Bnd", 32), ("Amb", 0))],
    ),
    "capabilities of another user": Row(
        {"process": {"user": "app", "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"], "ambient": ["NET_ADMIN"]}}},
        STATUS.format("Cap.*"),
        [f"Cap{name}: {1 << 12:016x}" for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")],
    ),
    "limits of the process": Row(
        {"process": {"rlimits": [{"type": "nofile", "soft": 99, "hard": 200}, {"type": "CORE", "soft": "unlimited"}]}},
        "ulimit -Sn; ulimit -Hn; ulimit -c",
        ["99", "200", "unlimited"],
    ),
    "the score": Row({"process": {"oom_score_adj": 123}}, "cat /proc/self/oom_score_adj", ["123"]),
    "the root": Row({"root": {"readonly": True}}, "touch /x || echo readonly", ["readonly"]),
    "the host": Row(
        {"hostname": "web", "spec": {"linux": {"sysctl": {"kernel.domainname": "example.org"}}}},
        "cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname",
        ["web", "example.org"],
    ),
    "mounts": Row(
        {
            "mounts": [
                {"destination": "/data", "type": "bind", "source": "{}", "options": ["ro"]},
                {"destination": "/small", "type": "tmpfs", "options": ["size=64k"]},
            ]
        },
        "cat /data/file; touch /data/x || echo readonly; df -k /small | tail -n 1",
        ["from outside", "readonly", "tmpfs 64 0 64 0% /small"],
    ),
    "namespaces": Row(
        {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "network", "path": "{}/net"}],
        },
        "ls -d /sys/class/net/other; echo $$; ls -l /proc/self/ns/ipc | sed 's/.*-> //'",
        ["/sys/class/net/other", "1", "{ipc}"],
    ),
    "kernel parameters": Row(
        {"sysctl": {"net.ipv4.ip_forward": 1, "kernel.msgmax": 4096}},
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax",
        ["1", "4096"],
    ),
    "masked paths": Row(
        {"masked_paths": ["/etc/passwd", "/bin/../srv"]},
        "wc -c </etc/passwd; ls /srv | wc -l; test -s /etc/group && echo others",
        ["0", "0", "others"],
    ),
    "read-only paths": Row(
        {"readonly_paths": ["/srv", "/proc/sys"]},
        "touch /srv/x || echo srv; echo x >/proc/sys/kernel/hostname || echo sys; touch /tmp/x && echo others",
        ["srv", "sys", "others"],
    ),
    "a seccomp profile": Row(
        {
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
            }
        },
        "mkdir /tmp/x || echo refused; touch /tmp/x && echo others",
        ["refused", "others"],
    ),
    "devices": Row(
        {
            "devices": [
                {"path": "/dev/zeros", "type": "c", "major": 1, "minor": 5, "uid": 3, "gid": 5, "file_mode": "0640"},
                {"path": "/dev/pipe", "type": "p"},
            ],
        },
        "stat -c '%A %u %g %t:%T' /dev/zeros; stat -c %F /dev/pipe; head -c 3 /dev/zeros | wc -c",
        ["crw-r----- 3 5 1:5", "fifo", "3"],
    ),
    "no rule on a device": Row({}, KMSG, ["not written", "not read"]),
    "a rule on a device": Row(
        {"resources": {"devices": [{"allow": True, "type": "c", "major": 1, "minor": 11, "access": "w"}]}},
        KMSG,
        ["written", "not read"],
    ),
    "any key": Row(
        {"spec": {"process": {"oomScoreAdj": 321, "env": ["PATH=/bin", "A=merged"]}}},
        "cat /proc/self/oom_score_adj; echo $A",
        ["321", "merged"],
    ),
}


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system with all of busybox."""
    path = tmp_path_factory.mktemp("root")
    with tarfile.open(fileobj=io.BytesIO(busybox_layer(directory("srv")))) as archive:
        archive.extractall(path, filter="fully_trusted")
    subprocess.run(["chroot", str(path), "/bin/busybox", "--install", "-s", "/bin"], check=True)
    path.chmod(0o755)
    return path


@pytest.fixture
def outside(tmp_path: Path) -> t.Iterator[dict[str, str]]:
    """A directory with what a container gets of the machine, and what else it says of itself."""
    (tmp_path / "file").write_text("from outside\n")
    (tmp_path / "net").touch()
    with subprocess.Popen(
        [
            "unshare",
            "--net",
            "sh",
            "-c",
            "ip link add other type dummy || ip link add other type veth peer name peer; echo; exec cat",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stdin
        process.stdout.readline()
        subprocess.run(["mount", "--bind", f"/proc/{process.pid}/ns/net", str(tmp_path / "net")], check=True)
        process.stdin.close()
    yield {"": str(tmp_path), "ipc": os.readlink("/proc/self/ns/ipc")}
    subprocess.run(["umount", str(tmp_path / "net")], check=True)


def filled(value: t.Any, places: t.Mapping[str, str]) -> t.Any:
    """A value in which the strings have what stands in braces."""
    if isinstance(value, dict):
        return {key: filled(below, places) for key, below in value.items()}
    if isinstance(value, list):
        return [filled(below, places) for below in value]
    if isinstance(value, str):
        return reduce(lambda text, item: text.replace(f"{{{item[0]}}}", item[1]), places.items(), value)
    return value


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("row", ROWS)
def test_options(runtime: str, row: str, name: str, rootfs: Path, outside: dict[str, str], tmp_path: Path) -> None:
    """What they do in a container."""
    options, script, prints = filled([*ROWS[row]], outside)
    process = {**options.get("process", {}), "entrypoint": ["sh", "-c"], "args": [script]}
    params = {"rootfs": str(rootfs), "path": str(tmp_path / "b"), **options, "process": process}
    result = run_module("oci_bundle", params)
    assert result.get("changed"), result
    done = run(runtime, name, tmp_path / "b")
    assert [" ".join(line.split()) for line in done.stdout.splitlines()] == prints, done.stderr


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_user_namespace(runtime: str, name: str, tmp_path: Path) -> None:
    """Its root is an ordinary user of the machine, who has to come into the bundle."""
    with TemporaryDirectory(dir="/tmp") as place:
        os.chmod(place, 0o755)
        mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        path = bundle(
            tmp_path,
            {},
            path=str(Path(place, "bundle")),
            process={"args": ["cat", "/proc/self/gid_map"]},
            namespaces=[{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "user")],
            # What a user namespace that has no network of its own cannot mount.
            mounts=[{"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "ro"]}],
            spec={"linux": {"uidMappings": mapping, "gidMappings": mapping}},
        )
        about = path.stat()
        assert (stat.S_IMODE(about.st_mode), about.st_uid, about.st_gid) == (0o710, 0, 100000)
        done = run(runtime, name, path)
    assert done.stdout.split() == ["0", "100000", "65536"], done.stderr


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_hooks(runtime: str, name: str, rootfs: Path, tmp_path: Path) -> None:
    """Each runs once, with its arguments, its variables and the state of the container, which has its annotations."""
    (tmp_path / "told").mkdir()
    script = 'echo "$1 $A" >>/told/order; cat >/told/$1'
    outside = script.replace("/told", str(tmp_path / "told"))
    # Where another of its processes ends at the same time, crun does not see that the hook has ended: it waits for one
    # signal of each, and such signals do not queue (run_process_with_stdin_timeout_envp of its src/libcrun/utils.c).
    limit = {"timeout": 10} if runtime == "runc" else {}
    hooks = {
        hook: [{"path": "/bin/sh", "args": ["sh", "-c", text, "sh", hook], "env": {"A": f"is {hook}"}, **limit}]
        for hook, text in {**dict.fromkeys(HOOKS, outside), "start_container": script}.items()
    }
    result = run_module(
        "oci_bundle",
        {
            "rootfs": str(rootfs),
            "path": str(tmp_path / "b"),
            "process": {"args": ["sh", "-c", "echo process A >>/told/order"]},
            "mounts": [{"destination": "/told", "type": "bind", "source": str(tmp_path / "told")}],
            "hooks": hooks,
            "annotations": {"org.example.a": "b", "org.example.n": 7},
        },
    )
    assert result.get("changed"), result
    done = run(runtime, name, tmp_path / "b")
    assert done.returncode == 0, done.stderr
    states = {hook: json.loads((tmp_path / "told" / hook).read_text()) for hook in HOOKS}
    assert {state["id"] for state in states.values()} == {name}
    assert {json.dumps(state["annotations"]) for state in states.values()} == {
        json.dumps({"org.example.a": "b", "org.example.n": "7"})
    }
    order = (tmp_path / "told/order").read_text().splitlines()
    # The process and the hook after its start do not wait for one another.
    assert sorted(order[:4] + order[-1:] + sorted(order[4:-1])) == sorted(
        [*(f"{hook} is {hook}" for hook in HOOKS), "process A"]
    )
    assert [line.split()[0] for line in order if "poststart" not in line] == [
        *("prestart", "create_runtime", "create_container", "start_container", "process", "poststop")
    ]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_hook_that_takes_too_long(runtime: str, name: str, rootfs: Path, tmp_path: Path) -> None:
    hook = {"path": "/bin/sleep", "args": ["sleep", "30"], "timeout": 1}
    params = {"rootfs": str(rootfs), "path": str(tmp_path / "b"), "hooks": {"create_runtime": [hook]}}
    assert run_module("oci_bundle", params).get("changed")
    begin = time.monotonic()
    done = run(runtime, name, tmp_path / "b")
    assert done.returncode != 0
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_terminal(runtime: str, name: str, rootfs: Path, tmp_path: Path) -> None:
    process = {"terminal": True, "args": ["sh", "-c", "test -t 0 && test -t 1 && echo terminal $TERM"]}
    result = run_module("oci_bundle", {"rootfs": str(rootfs), "path": str(tmp_path / "b"), "process": process})
    assert result.get("changed"), result
    leader, follower = pty.openpty()
    try:
        argv = [*RUNTIMES[runtime], "run", "--bundle", str(tmp_path / "b"), name]
        subprocess.run(argv, stdin=follower, stdout=follower, stderr=follower, timeout=60, check=True)
        assert os.read(leader, 4096).split() == [b"terminal", b"xterm"]
    finally:
        os.close(leader)
        os.close(follower)


@pytest.mark.parametrize(
    ("runtime", "propagation", "mark"),
    [("runc", "slave", "master:"), ("runc", "private", None), ("crun", "shared", "shared:"), ("crun", "private", None)],
)
def test_the_propagation_of_the_root(
    runtime: str, name: str, rootfs: Path, tmp_path: Path, propagation: str, mark: str | None
) -> None:
    """Each runtime makes of it what it takes the specification for; what it was told is seen all the same."""
    params = {
        "rootfs": str(rootfs),
        "path": str(tmp_path / "b"),
        "rootfs_propagation": propagation,
        "process": {"args": ["cat", "/proc/self/mountinfo"]},
    }
    assert run_module("oci_bundle", params).get("changed")
    shared = ["unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount --make-rshared / && exec "$@"', "sh"]
    argv = [*shared, *RUNTIMES[runtime], "run", "--bundle", str(tmp_path / "b"), name]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    root = next(line.split() for line in done.stdout.splitlines() if line.split()[4] == "/")
    marks = [word.rstrip("0123456789") for word in root[6 : root.index("-")]]
    assert marks == ([mark] if mark else [])


class Limit(t.NamedTuple):
    """An option and what it is in a control group of version 1, and of version 2 where that has it."""

    value: t.Any
    old: str
    text: str
    new: str = ""
    new_text: str = ""


LIMITS = {
    "memory.limit": Limit("64M", "memory/memory.limit_in_bytes", str(64 << 20), "memory.max", str(64 << 20)),
    "memory.reservation": Limit("32M", "memory/memory.soft_limit_in_bytes", str(32 << 20), "memory.low", str(32 << 20)),
    "memory.swap": Limit("96M", "memory/memory.memsw.limit_in_bytes", str(96 << 20), "memory.swap.max", str(32 << 20)),
    "memory.swappiness": Limit(10, "memory/memory.swappiness", "10"),
    "memory.disable_oom_killer": Limit(True, "memory/memory.oom_control", "oom_kill_disable 1"),
    "cpu.shares": Limit(512, "cpu/cpu.shares", "512", "cpu.weight", "20"),
    "cpu.quota": Limit(50000, "cpu/cpu.cfs_quota_us", "50000", "cpu.max", "50000 80000"),
    "cpu.period": Limit(80000, "cpu/cpu.cfs_period_us", "80000", "cpu.max", "50000 80000"),
    "cpu.realtime_runtime": Limit(1000, "cpu/cpu.rt_runtime_us", "1000"),
    "cpu.realtime_period": Limit(100000, "cpu/cpu.rt_period_us", "100000"),
    "cpu.cpus": Limit("0", "cpuset/cpuset.cpus", "0", "cpuset.cpus", "0"),
    "cpu.mems": Limit("0", "cpuset/cpuset.mems", "0", "cpuset.mems", "0"),
    "pids.limit": Limit(42, "pids/pids.max", "42", "pids.max", "42"),
    "block_io.throttle_read_bps_device": Limit(1 << 20, "blkio/blkio.throttle.read_bps_device", "{} 1048576"),
    "block_io.throttle_write_bps_device": Limit(2 << 20, "blkio/blkio.throttle.write_bps_device", "{} 2097152"),
    "block_io.throttle_read_iops_device": Limit(300, "blkio/blkio.throttle.read_iops_device", "{} 300"),
    "block_io.throttle_write_iops_device": Limit(400, "blkio/blkio.throttle.write_iops_device", "{} 400"),
}
# A disk of this machine.
DISK = next((path.read_text().strip() for path in sorted(Path("/sys/block").glob("[!lrz]*/dev"))), "")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_limits_of_the_control_group(runtime: str, name: str, rootfs: Path, tmp_path: Path) -> None:
    root = Path("/sys/fs/cgroup")
    old = (root / "memory").exists()
    limits = {option: limit for option, limit in LIMITS.items() if old or limit.new}
    resources: dict[str, dict[str, t.Any]] = {}
    for option, limit in list(limits.items()):
        section, key = option.split(".")
        value = limit.value
        if section == "block_io":
            value = [{**dict(zip(("major", "minor"), map(int, DISK.split(":")))), "rate": value}]
        if key.startswith("realtime") and not (root / limit.old).exists():
            # Not every kernel has it.
            del limits[option]
        else:
            resources.setdefault(section, {})[key] = value
    params = {"process": {"args": ["sleep", "60"]}, "resources": resources, "cgroups_path": f"/{name}"}
    result = run_module("oci_bundle", {"rootfs": str(rootfs), "path": str(tmp_path / "b"), **params})
    assert result.get("changed"), result
    detached = [*RUNTIMES[runtime], "run", "--detach", "--bundle", str(tmp_path / "b"), name]
    with open(os.devnull, "r+b") as null, (tmp_path / "error").open("w+b") as error:
        done = subprocess.run(detached, stdin=null, stdout=null, stderr=error, timeout=60, check=False)
    try:
        assert done.returncode == 0, (tmp_path / "error").read_text()
        for option, limit in limits.items():
            controller, _slash, file = limit.old.partition("/")
            path = root / controller / name / file if old else root / name / limit.new
            expected = limit.text if old else limit.new_text
            assert path.read_text().splitlines()[:1] == [expected.format(DISK)], option
    finally:
        subprocess.run([*RUNTIMES[runtime], "delete", "--force", name], timeout=60, check=True, capture_output=True)


# What no runtime is asked to do here, and why.
NOT_RUN = {
    "process.apparmor_profile": "needs a kernel with AppArmor",
    "process.selinux_label": "needs a kernel with SELinux",
    "mount_label": "needs a kernel with SELinux",
    "resources.block_io.weight": "needs a scheduler of version 1 that newer kernels do not have",
    "resources.block_io.leaf_weight": "as weight",
    **{f"resources.block_io.weight_device.{key}": "as weight" for key in ("major", "minor", "weight", "leaf_weight")},
    "resources.unified": "needs control groups of version 2 alone",
}


def given_in(options: t.Any, above: str = "") -> t.Iterator[str]:
    """The options that are given, by their paths."""
    for below in options if isinstance(options, list) else [options]:
        if isinstance(below, dict):
            for name, value in below.items():
                yield f"{above}{name}"
                yield from given_in(value, f"{above}{name}.")


def test_which_options_are_run() -> None:
    """Each is done by a runtime, or it is said why not."""
    run_here = {path for row in ROWS.values() for path in given_in(row.options)}
    run_here |= {"process.entrypoint", "process.args", "process.terminal", "rootfs_propagation", "cgroups_path"}
    run_here |= {f"hooks.{hook}.{key}" for hook in HOOKS for key in ("path", "args", "env", "timeout")}
    run_here |= {"annotations"}
    for option in LIMITS:
        run_here |= {f"resources.{option}", *(f"resources.{option}.{key}" for key in ("major", "minor", "rate"))}
    assert set(LEAVES) - run_here == set(NOT_RUN)
