# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""oci_container where control groups are of version 2 alone, where systemd runs, and with CRIU."""

from __future__ import annotations

import json
import time
import typing as t

import pytest
from ansible_collections.lxcri.proxmox.tests.lab.machine import Machine
from ansible_collections.lxcri.proxmox.tests.oci.bundles import CONFIG

BUNDLE, SAVED = "/srv/box", "/srv/saved/box"
COUNTS = "i=0; while :; do i=$((i+1)); echo $i >/seq; sleep 0.2; done"
# Device rules, as oci_bundle makes them, and what version 2 calls otherwise.
RESOURCES = {"memory": {"limit": 64 << 20}, "pids": {"limit": 50}, "cpu": {"shares": 512}}


def put_bundle(machine: Machine, path: str, script: str) -> None:
    """A bundle that runs a script."""
    config = json.loads(json.dumps(CONFIG))
    config["process"]["args"] = ["sh", "-c", script]
    config["linux"]["resources"] = RESOURCES
    # The network of a container that CRIU dumps is not the matter here.
    namespaces = config["linux"]["namespaces"]
    config["linux"]["namespaces"] = [entry for entry in namespaces if entry["type"] != "network"]
    machine.run(
        f"mkdir -p {path}/rootfs/bin && cd {path}/rootfs && mkdir -p proc dev sys tmp etc && "
        "cp /bin/busybox bin/ && for name in sh sleep echo cat id; do ln -sf busybox bin/$name; done"
    )
    machine.write(f"{path}/config.json", json.dumps(config))


@pytest.fixture(params=["runc", "crun"])
def name(machine: Machine, request: pytest.FixtureRequest) -> str:
    """The runtime; there is a bundle for it that counts."""
    put_bundle(machine, BUNDLE, COUNTS)
    return t.cast("str", request.param)


def run(machine: Machine, runtime: str, check_mode: bool = False, **options: t.Any) -> dict[str, t.Any]:
    """Run the module, which must not fail."""
    result = attempt(machine, runtime, check_mode, **options)
    assert not result.get("failed"), result
    return result


def attempt(machine: Machine, runtime: str, check_mode: bool = False, **options: t.Any) -> dict[str, t.Any]:
    """The result of the module, also a failed one."""
    given = {"id": "box", "runtime": runtime, "log": "/dev/null", **options}
    return machine.module("oci_container", given, check_mode=check_mode)


def converge(machine: Machine, runtime: str, **options: t.Any) -> dict[str, t.Any]:
    """Run it: check mode first, which has to tell the same, and once more, which does nothing."""
    predicted = run(machine, runtime, check_mode=True, **options)
    result = run(machine, runtime, **options)
    assert (predicted["plan"], predicted["steps"]) == (result["plan"], result["steps"])
    assert predicted["container"]["status"] == result["container"]["status"]
    assert run(machine, runtime, **options)["changed"] is False
    return result


def counted(machine: Machine) -> int:
    """How far it has counted; at first there is no file, and at times there is nothing in it."""
    path = f"{BUNDLE}/rootfs/seq"
    return int(machine.run(f"[ ! -e {path} ] || cat {path}").stdout.strip() or 0)


def counts_on(machine: Machine, seconds: float = 10) -> bool:
    """Whether it counts."""
    before = counted(machine)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if counted(machine) > before:
            return True
        time.sleep(0.2)
    return False


def info(machine: Machine, runtime: str) -> dict[str, t.Any]:
    """What oci_container_info tells of it."""
    (entry,) = machine.module("oci_container_info", {"ids": ["box"], "runtime": runtime})["containers"]
    return t.cast("dict[str, t.Any]", entry)


def test_what_a_newer_runtime_tells(machine: Machine, name: str) -> None:
    """Both have ``features``, and what runc counts is that of version 2."""
    converge(machine, name, state="started", bundle=BUNDLE)
    result = machine.module("oci_container_info", {"ids": ["box"], "runtime": name})
    (found,), (entry,) = result["runtimes"], result["containers"]
    assert found["features"] == json.loads(machine.run(f"{name} features").stdout)
    assert "createRuntime" in found["features"]["hooks"]
    assert found["features"]["linux"]["cgroup"]["v2"] is True
    if name == "crun":
        assert entry["events"] is None
    else:
        assert entry["events"]["memory"]["usage"]["limit"] == 64 << 20
        assert entry["events"]["pids"]["limit"] == 50


def test_limits_of_version_2(machine: Machine, name: str) -> None:
    """They are read back from the files of version 2, and after an update."""
    converge(machine, name, state="started", bundle=BUNDLE)
    found = info(machine, name)
    assert found["limits"]["memory.limit"] == 64 << 20
    assert found["limits"]["pids.limit"] == 50
    assert str(found["limits"]["cpu.shares"]).startswith("weight ")
    assert found["statistics"]["pids"] >= 1
    update = {
        "memory": {"limit": "32M", "reservation": "16M", "swap": "48M"},
        "cpu": {"shares": 256, "quota": 50000, "period": 100000},
        "pids": {"limit": 20},
    }
    assert converge(machine, name, update=update)["steps"] == ["update"]
    path = machine.run("cat /proc/$1/cgroup".replace("$1", str(found["pid"]))).stdout.strip().split("::")[1]
    files = {
        "memory.max": str(32 << 20),
        "memory.low": str(16 << 20),
        "memory.swap.max": str(16 << 20),
        "cpu.max": "50000 100000",
        "pids.max": "20",
    }
    for file, text in files.items():
        assert machine.read(f"/sys/fs/cgroup{path}/{file}").strip() == text
    converge(machine, name, update={"pids": {"limit": -1}, "cpu": {"quota": -1}})
    assert machine.read(f"/sys/fs/cgroup{path}/pids.max").strip() in ("max", "4194304")
    assert machine.read(f"/sys/fs/cgroup{path}/cpu.max").split()[0] == "max"


def test_memory_that_runs_out(machine: Machine, name: str) -> None:
    """The process is killed, and the failure says why."""
    converge(machine, name, state="started", bundle=BUNDLE, update={"memory": {"limit": "16M", "swap": "16M"}})
    eats = {"command": ["busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=60M", "count=1"]}
    result = attempt(machine, name, exec=eats)
    assert result["failure"]["code"] == "oom_killed", result


def test_paused(machine: Machine, name: str) -> None:
    """Frozen by the freezer of version 2, stopped from there."""
    converge(machine, name, state="paused", bundle=BUNDLE)
    assert not counts_on(machine, 1)
    converge(machine, name, state="started")
    assert counts_on(machine)
    run(machine, name, state="paused")
    converge(machine, name, state="absent", stop_timeout=1)


# crun asks for them over D-Bus, which the machine does not have; runc asks systemd itself.
@pytest.mark.parametrize("name", ["runc"], indirect=True)
def test_groups_of_systemd(machine: Machine, name: str) -> None:
    """systemd makes the group, and takes it away."""
    config = json.loads(machine.read(f"{BUNDLE}/config.json"))
    config["linux"]["cgroupsPath"] = "system.slice:lxcri:box"
    machine.write(f"{BUNDLE}/config.json", json.dumps(config))
    result = converge(machine, name, state="started", bundle=BUNDLE, cgroup_manager="systemd")
    group = machine.run(f"cat /proc/{result['container']['pid']}/cgroup").stdout
    assert "/system.slice/lxcri-box.scope" in group
    converge(machine, name, cgroup_manager="systemd", update={"pids": {"limit": 20}})
    assert info(machine, name)["limits"]["pids.limit"] == 20
    converge(machine, name, state="absent", cgroup_manager="systemd", stop_timeout=1)


def test_checkpoint_and_restore(machine: Machine, name: str) -> None:
    """It goes on counting where it was."""
    run(machine, name, state="started", bundle=BUNDLE)
    assert counts_on(machine)
    saved = {"path": SAVED}
    result = converge(machine, name, checkpoint=saved)
    assert (result["steps"], result["container"]["status"]) == (["checkpoint"], "absent")
    assert machine.run(f"stat -c %a {SAVED}").stdout.strip() == "700"
    assert machine.run("ls /srv/saved").stdout.split() == ["box"]
    stood = counted(machine)
    options = {"state": "started", "bundle": BUNDLE, "restore": saved}
    assert converge(machine, name, **options)["steps"] == ["restore"]
    assert counts_on(machine)
    # One that began anew would be at one again.
    assert counted(machine) > stood
    converge(machine, name, state="absent", stop_timeout=0)
    # From the same checkpoint once more, and frozen.
    converge(machine, name, **{**options, "state": "paused"})
    converge(machine, name, state="absent", stop_timeout=0)


def test_it_goes_on_beside_its_checkpoint(machine: Machine, name: str) -> None:
    run(machine, name, state="started", bundle=BUNDLE)
    converge(machine, name, state="started", checkpoint={"path": SAVED, "leave_running": True})
    assert counts_on(machine)


def test_checkpoints_that_do_not_fit(machine: Machine, name: str) -> None:
    """Another configuration, and another runtime; refused before anything is touched."""
    run(machine, name, state="started", bundle=BUNDLE)
    run(machine, name, checkpoint={"path": SAVED})
    options = {"state": "started", "bundle": BUNDLE, "restore": {"path": SAVED}}
    other = {"runc": "crun", "crun": "runc"}[name]
    assert attempt(machine, other, **options)["failure"]["code"] == "checkpoint_mismatch"
    machine.run(f"sed -i s/COLOUR=red/COLOUR=blue/ {BUNDLE}/config.json")
    assert attempt(machine, name, **options)["failure"]["code"] == "checkpoint_mismatch"


def test_a_log_stands_against_a_checkpoint(machine: Machine, name: str) -> None:
    run(machine, name, state="started", bundle=BUNDLE, log="/var/log/box.log")
    result = attempt(machine, name, checkpoint={"path": SAVED})
    assert result["failure"]["code"] == "checkpoint_unsupported"
    assert all("/var/log/box.log" in reason for reason in result["failure"]["details"]["reasons"])
    assert counts_on(machine)


def test_output_in_a_file_of_the_container(machine: Machine, name: str) -> None:
    """It is no hindrance: as the shell of every other container here has it, for as long as it writes a number."""
    put_bundle(machine, BUNDLE, f"exec >/out; {COUNTS}")
    run(machine, name, state="started", bundle=BUNDLE)
    assert counts_on(machine)
    run(machine, name, checkpoint={"path": SAVED})
    run(machine, name, state="started", bundle=BUNDLE, restore={"path": SAVED})
    assert counts_on(machine)


def test_killed_after_the_dump(machine: Machine, name: str) -> None:
    """The dump is complete, but the module did not live to say so: the next run does."""
    run(machine, name, state="started", bundle=BUNDLE)
    run(machine, name, checkpoint={"path": SAVED})
    machine.run(f"mv {SAVED} {SAVED}.partial")
    result = converge(machine, name, checkpoint={"path": SAVED})
    assert result["steps"] == ["adopt"]
    assert converge(machine, name, state="started", bundle=BUNDLE, restore={"path": SAVED})["steps"] == ["restore"]
