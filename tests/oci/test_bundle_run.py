# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bundles of oci_bundle in real runtimes: what runs is what the image and the options say."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import typing as t
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from ansible_collections.lxcri.proxmox.tests.oci.images import build, busybox_layer, directory
from ansible_collections.lxcri.proxmox.tests.oci.module import run_module

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


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_options_of_the_process(runtime: str, name: str, tmp_path: Path) -> None:
    script = (
        "id -u; hostname 2>/dev/null || cat /proc/sys/kernel/hostname; echo $A; ulimit -n; umask;"
        "grep -E 'NoNewPrivs|CapBnd' /proc/self/status; cat /data/file; touch /x 2>/dev/null || echo readonly;"
        "cat /proc/sys/kernel/domainname"
    )
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("from outside\n")
    path = bundle(
        tmp_path,
        {"Cmd": ["false"], "Env": ["A=image"]},
        hostname="web",
        root={"readonly": True},
        process={
            "args": ["sh", "-c", script],
            "env": {"A": "option"},
            "user": "app:0",
            "umask": "0027",
            "no_new_privileges": True,
            "capabilities": {"only": ["KILL"]},
            "rlimits": [{"type": "nofile", "soft": 99}],
        },
        mounts=[{"destination": "/data", "type": "bind", "source": str(tmp_path / "data"), "options": ["ro"]}],
        spec={"linux": {"sysctl": {"kernel.domainname": "example.org"}}},
    )
    done = run(runtime, name, path)
    assert [" ".join(line.split()) for line in done.stdout.splitlines()] == [
        *("1000", "web", "option", "99", "0027", "CapBnd: 0000000000000020", "NoNewPrivs: 1"),
        *("from outside", "readonly", "example.org"),
    ], done.stderr
    assert done.returncode == 0


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
def test_limits_of_the_control_group(runtime: str, name: str, tmp_path: Path) -> None:
    path = bundle(
        tmp_path,
        {"Cmd": ["sleep", "60"]},
        resources={"memory": {"limit": "64M"}, "pids": {"limit": 42}},
        cgroups_path=f"/{name}",
    )
    detached = [*RUNTIMES[runtime], "run", "--detach", "--bundle", str(path), name]
    with open(os.devnull, "r+b") as null:
        subprocess.run(detached, stdin=null, stdout=null, stderr=null, timeout=60, check=True)
    try:
        # Version 1 has a hierarchy for each controller, version 2 one for all.
        root = Path("/sys/fs/cgroup")
        found = {
            "memory": [root / "memory" / name / "memory.limit_in_bytes", root / name / "memory.max"],
            "pids": [root / "pids" / name / "pids.max", root / name / "pids.max"],
        }
        values = {
            key: next(file.read_text().strip() for file in files if file.exists()) for key, files in found.items()
        }
        assert values == {"memory": str(64 << 20), "pids": "42"}
    finally:
        subprocess.run([*RUNTIMES[runtime], "delete", "--force", name], timeout=60, check=True, capture_output=True)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_seccomp_profile(runtime: str, name: str, tmp_path: Path) -> None:
    path = bundle(
        tmp_path,
        {"Cmd": ["sh", "-c", "echo before; busybox mkdir /srv/x && echo made; echo after"]},
        seccomp={
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
        },
    )
    done = run(runtime, name, path)
    assert done.stdout.splitlines() == ["before", "after"], done.stderr
