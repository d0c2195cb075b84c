# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""oci_container and oci_container_info with runc and crun."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import typing as t
import uuid
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci import criu
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.cgroup import cgroup_of, limits_of
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.container import Records
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.runtime import Runtime, find_runtimes
from ansible_collections.lxcri.proxmox.tests.oci.bundles import configure, make_bundle
from ansible_collections.lxcri.proxmox.tests.oci.cgroups import hybrid, shim
from ansible_collections.lxcri.proxmox.tests.oci.module import run_module

WAITS = ("sh", "-c", "trap 'echo bye; exit 7' TERM; trap 'echo hup' HUP; echo ready; while :; do sleep 0.05; done")
DEAF = ("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")


class Box:
    """A bundle and a container of it."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory, self.name = directory, name
        self.path = str(shim(directory / "bin", name))
        self.root, self.log = directory / "state", directory / "log"
        self.bundle = make_bundle(directory / "bundle")
        self.id = f"lxcri-{uuid.uuid4().hex[:12]}"

    @property
    def base(self) -> dict[str, t.Any]:
        return {"id": self.id, "runtime": self.path, "root": str(self.root)}

    def attempt(self, check_mode: bool = False, **params: t.Any) -> dict[str, t.Any]:
        """The result of the module, also a failed one."""
        log = {} if "checkpoint" in params else {"log": str(self.log)}
        return run_module("oci_container", {**self.base, **log, **params}, check_mode)

    def run(self, check_mode: bool = False, **params: t.Any) -> dict[str, t.Any]:
        """Run the module, which must not fail."""
        result = self.attempt(check_mode, **params)
        assert not result.get("failed"), result
        return result

    def started(self, **params: t.Any) -> dict[str, t.Any]:
        return self.run(state="started", bundle=str(self.bundle), **params)

    def converge(self, **params: t.Any) -> dict[str, t.Any]:
        """Run it: check mode first, which has to tell the same and do nothing, and once more, which does nothing."""
        before = self.seen()
        predicted = self.run(check_mode=True, **params)
        assert self.seen() == before
        result = self.run(**params)
        for key in ("changed", "plan", "steps", "diff"):
            assert predicted[key] == result[key], key
        assert predicted["container"]["status"] == result["container"]["status"]
        again = self.run(**params)
        assert (again["changed"], again["plan"], again["steps"], again["diff"]) == (False, [], [], [])
        return result

    def refused(self, code: str, check_mode: bool = True, **params: t.Any) -> dict[str, t.Any]:
        """The failure of this code. It has changed nothing, and check mode tells it too."""
        before = self.seen()
        if check_mode:
            assert code_of(self.attempt(check_mode=True, **params)) == code
        result = self.attempt(**params)
        assert code_of(result) == code, result
        assert result["failure"]["message"]
        assert self.seen() == before
        return t.cast("dict[str, t.Any]", result["failure"])

    def runtime(self, *words: str) -> str:
        return subprocess.run(
            [self.path, "--root", str(self.root), *words],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        ).stdout

    def state(self) -> dict[str, t.Any]:
        text = self.runtime("state", self.id) if (self.root / self.id).exists() else ""
        return t.cast("dict[str, t.Any]", json.loads(text)) if text else {"status": "absent"}

    def seen(self) -> tuple[t.Any, ...]:
        """All that a module could change."""
        state = self.state()
        pid = state.get("pid") if state["status"] != "stopped" else None
        limits = {key: found.plain for key, found in limits_of(cgroup_of(pid)).items()} if pid else {}
        there = sorted(str(path) for path in self.root.rglob("*"))
        return state["status"], pid, limits, there, self.log.exists(), Records(self.engine()).read(self.id)

    def engine(self) -> Runtime:
        return Runtime(self.name, self.path, str(self.root))

    def info(self) -> dict[str, t.Any]:
        result = run_module("oci_container_info", {"runtime": self.path, "root": str(self.root), "ids": [self.id]})
        (entry,) = result["containers"]
        return t.cast("dict[str, t.Any]", entry)

    def says(self, text: str) -> None:
        """Wait until it has printed this."""
        end = time.monotonic() + 30
        while not self.log.exists() or text not in self.log.read_text():
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)


def code_of(result: dict[str, t.Any]) -> str:
    assert result.get("failed"), result
    assert "failure" in result, result
    return t.cast("str", result["failure"]["code"])


@pytest.fixture(params=["runc", "crun"])
def box(tmp_path: Path, request: pytest.FixtureRequest) -> t.Iterator[Box]:
    made = Box(tmp_path, request.param)
    yield made
    shim(made.directory / "bin", made.name)
    made.runtime("kill", made.id, "KILL")
    made.runtime("delete", "--force", made.id)
    shutil.rmtree(Records(made.engine()).directory, ignore_errors=True)
    left = [path for path in Path("/sys/fs/cgroup").glob(f"**/{made.id}") if path.is_dir()]
    for path in left:
        path.rmdir()


@pytest.fixture
def runc(tmp_path: Path) -> t.Iterator[Box]:
    """For what does not depend on the runtime."""
    made = Box(tmp_path, "runc")
    yield made
    shim(made.directory / "bin", "runc")
    made.runtime("delete", "--force", made.id)
    shutil.rmtree(Records(made.engine()).directory, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------------- states


def test_a_whole_life(box: Box) -> None:
    bundle = str(box.bundle)
    assert box.converge(state="created", bundle=bundle)["steps"] == ["create"]
    assert box.state()["status"] == "created"
    assert box.converge(state="started", bundle=bundle)["steps"] == ["start"]
    assert box.state()["status"] == "running"
    assert box.run(state="created", bundle=bundle)["changed"] is False
    assert box.converge(state="paused")["steps"] == ["pause"]
    assert box.state()["status"] == "paused"
    assert box.converge(state="started")["steps"] == ["resume"]
    assert box.converge(state="stopped", stop_timeout=0)["steps"] == ["stop"]
    assert box.state()["status"] == "stopped"
    # It cannot be started again, but made anew; of the same bundle.
    assert box.converge(state="paused")["steps"] == ["delete", "create", "start", "pause"]
    assert box.converge(state="absent", stop_timeout=0)["steps"] == ["stop", "delete"]
    assert box.state()["status"] == "absent"
    assert box.run(state="stopped")["changed"] is False
    assert list(box.root.iterdir()) == []
    assert not list(Path("/sys/fs/cgroup").glob(f"*/**/{box.id}"))


def test_from_nothing_to_each_state(box: Box) -> None:
    for state, steps in (("started", ["create", "start"]), ("paused", ["create", "start", "pause"])):
        result = box.converge(state=state, bundle=str(box.bundle))
        assert result["steps"] == steps
        assert result["plan"] == [{"key": "state", "before": "absent", "after": result["container"]["status"]}]
        assert result["diff"][0]["after"] == {"state": result["container"]["status"]}
        box.run(state="absent", stop_timeout=0)


@pytest.mark.skipif(not hybrid(), reason="elsewhere all tests are of this kind")
def test_control_groups_of_version_2_alone(box: Box) -> None:
    """Their freezer needs no controller. Limits are tested on the emulated machine."""
    shim(box.directory / "bin", box.name, version=2)
    assert box.converge(state="paused", bundle=str(box.bundle))["steps"] == ["create", "start", "pause"]
    assert box.converge(state="started")["steps"] == ["resume"]
    box.run(state="paused")
    assert box.converge(state="absent", stop_timeout=0.2)["steps"] == ["stop", "delete"]


def test_created_and_paused_can_be_removed(box: Box) -> None:
    for state in ("created", "paused"):
        for end in ("stopped", "absent"):
            box.run(state=state, bundle=str(box.bundle))
            box.converge(state=end, stop_timeout=0.2)


def test_it_runs_as_the_configuration_says(box: Box) -> None:
    script = "id; pwd; hostname; echo $COLOUR; cat /proc/self/status; echo oops >&2; exit 3"
    (box.bundle / "rootfs/bin/hostname").symlink_to("busybox")
    user = {"uid": 1000, "gid": 1000, "additionalGids": [2000]}
    configure(box.bundle, "sh", "-c", script, process={"user": user, "cwd": "/tmp"})
    result = box.attempt(state="started", bundle=str(box.bundle), wait=True)
    assert code_of(result) == "command_failed"
    assert result["rc"] == 3
    lines = result["stdout"].splitlines()
    assert lines[0].startswith("uid=1000(app) gid=1000(app) groups=")
    assert lines[1:4] == ["/tmp", "box", "red"]
    assert "NoNewPrivs:\t0" in lines
    assert result["stderr"] == "oops\n"
    assert box.state()["status"] == "absent"


def test_wait(box: Box) -> None:
    configure(box.bundle, "sh", "-c", "cat; echo done")
    params = {"state": "started", "bundle": str(box.bundle), "wait": True}
    predicted = box.run(check_mode=True, **params)
    for _time in range(2):
        result = box.run(**params)
        assert (result["rc"], result["stdout"], result["stderr"]) == (0, "done\n", "")
        assert (result["changed"], result["plan"]) == (True, predicted["plan"])
        assert result["container"]["status"] == predicted["container"]["status"] == "absent"
    configure(box.bundle, *WAITS)
    result = box.attempt(**params, wait_timeout=0.5)
    assert code_of(result) == "wait_timeout"
    assert "ready" in result["failure"]["details"]["stdout"]
    assert box.state()["status"] == "absent"
    configure(box.bundle, "sh", "-c", "kill -USR1 $$; sleep 5")
    # Process 1 of a namespace is not ended by its own signals: run it as another one.
    configure(box.bundle, "sh", "-c", "sh -c 'kill -USR1 $$'; exit $?")
    assert box.attempt(**params)["rc"] == 128 + signal.SIGUSR1
    box.run(state="created", bundle=str(box.bundle))
    assert box.attempt(**params)["rc"] == 128 + signal.SIGUSR1


def test_wait_needs_one_that_does_not_run(box: Box) -> None:
    box.started()
    box.refused("already_running", state="started", bundle=str(box.bundle), wait=True)


def test_one_that_ends_at_once(box: Box) -> None:
    configure(box.bundle, "echo", "hello")
    box.started()
    box.says("hello")
    end = time.monotonic() + 10
    while box.state()["status"] != "stopped":
        assert time.monotonic() < end
    assert box.run(state="created", bundle=str(box.bundle))["steps"] == ["delete", "create"]


def test_streams(box: Box) -> None:
    configure(box.bundle, "sh", "-c", "echo out; echo err >&2; sleep 1000")
    pid = box.started()["container"]["pid"]
    box.says("err")
    assert box.log.read_text() == "out\nerr\n"
    assert stat.S_IMODE(box.log.stat().st_mode) == 0o600
    files = {name: os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
    assert files == {"0": "/dev/null", "1": str(box.log), "2": str(box.log)}
    box.run(state="absent", stop_timeout=0)
    # The next one goes on in the same file.
    box.started()
    box.says("out\nerr\nout\nerr\n")


def test_logs_that_are_refused(runc: Box) -> None:
    target = runc.directory / "target"
    runc.log.symlink_to(target)
    assert code_of(runc.attempt(state="started", bundle=str(runc.bundle))) == "log_failed"
    assert not target.exists()
    runc.log.unlink()
    runc.log.mkdir()
    assert code_of(runc.attempt(state="started", bundle=str(runc.bundle))) == "log_failed"
    assert code_of(runc.attempt(state="started", bundle=str(runc.bundle), log="/dev/full")) == "log_failed"
    assert runc.state()["status"] == "absent"


def test_the_default_log(runc: Box) -> None:
    result = runc.run(state="started", bundle=str(runc.bundle), log=None)
    assert result["container"]["log"] == f"/var/log/lxcri/oci/{runc.id}.log"
    Path(result["container"]["log"]).unlink()


# ------------------------------------------------------------------------------------------------------------ stopping


def test_it_is_asked_to_stop(box: Box) -> None:
    configure(box.bundle, *WAITS)
    box.started()
    box.says("ready")
    box.run(state="stopped", stop_timeout=60)
    assert "bye" in box.log.read_text()


@pytest.mark.parametrize("annotated", [True, False])
def test_by_another_signal(box: Box, annotated: bool) -> None:
    script = "trap 'echo quit; exit' QUIT; echo ready; while :; do sleep 0.05; done"
    annotations = {"org.opencontainers.image.stopSignal": "SIGQUIT"} if annotated else {}
    configure(box.bundle, "sh", "-c", script, annotations=annotations)
    box.started()
    box.says("ready")
    box.run(state="absent", stop_timeout=60, stop_signal=None if annotated else "QUIT")
    assert "quit" in box.log.read_text()


def test_it_is_killed_when_it_does_not(box: Box) -> None:
    configure(box.bundle, *DEAF)
    box.started()
    box.says("ready")
    assert box.run(state="stopped", stop_timeout=0.3)["container"]["status"] == "stopped"


def test_a_paused_one_gets_the_signal_too(box: Box) -> None:
    configure(box.bundle, *WAITS)
    box.started()
    box.says("ready")
    box.run(state="paused")
    box.run(state="stopped", stop_timeout=60)
    assert "bye" in box.log.read_text()


# ------------------------------------------------------------------------------------------------------- kill and exec


def test_kill(box: Box) -> None:
    configure(box.bundle, *WAITS)
    box.started()
    box.says("ready")
    predicted = box.run(check_mode=True, kill="hup")
    result = box.run(kill="hup")
    assert result["plan"] == predicted["plan"] == [{"key": "kill", "before": None, "after": "SIGHUP"}]
    box.says("hup")
    box.refused("invalid_option", kill="NOSUCH")
    box.run(state="stopped", stop_timeout=0)
    box.refused("not_running", kill="TERM")
    box.run(state="absent")
    box.refused("not_running", kill="TERM")


def test_exec(box: Box) -> None:
    box.started()
    before = box.seen()
    predicted = box.run(check_mode=True, exec={"command": ["touch", "/made"]})
    assert predicted["changed"] is True
    assert "rc" not in predicted
    script = "id -u; pwd; echo $COLOUR-$SIZE-$PATH; cat; echo oops >&2"
    exec_ = {"command": ["sh", "-c", script], "cwd": "/tmp", "stdin": "given", "env": {"SIZE": 3, "COLOUR": None}}
    result = box.run(exec=exec_)
    assert (result["rc"], result["stdout"], result["stderr"]) == (0, "0\n/tmp\n-3-/bin\ngiven", "oops\n")
    assert result["changed"] is True
    result = box.attempt(exec={"command": ["sh", "-c", "echo half; exit 5"]})
    assert (code_of(result), result["rc"], result["stdout"]) == ("command_failed", 5, "half\n")
    # Without input it reads the end of one.
    assert box.run(exec={"command": ["cat"]})["stdout"] == ""
    assert box.seen() == before
    assert not (box.bundle / "rootfs/made").exists()


def test_exec_as_somebody_else(box: Box) -> None:
    box.started()
    result = box.run(exec={"command": ["sh", "-c", "id; cat /proc/self/status"], "user": "app"})
    assert "uid=1000(app) gid=1000(app) groups=" in result["stdout"]
    assert "2000(extra)" in result["stdout"]
    assert "CapEff:\t0000000000000000" in result["stdout"]
    result = box.run(exec={"command": ["sh", "-c", "id -u; id -g"], "user": "5:6"})
    assert result["stdout"] == "5\n6\n"
    box.refused("user_unknown", exec={"command": ["id"], "user": "nobody-knows"})


def test_exec_that_cannot_be(box: Box) -> None:
    configure(box.bundle)
    box.started()
    box.refused("exec_failed", check_mode=False, exec={"command": ["no-such-program"]})
    box.refused("exec_failed", check_mode=False, exec={"command": ["/etc/passwd"]})
    box.refused("invalid_option", exec={"command": []})
    box.run(state="paused")
    box.refused("container_paused", exec={"command": ["id"]})
    box.run(state="stopped", stop_timeout=0)
    box.refused("not_running", exec={"command": ["id"]})


def test_exec_in_what_is_started_for_it(box: Box) -> None:
    params = {"state": "started", "bundle": str(box.bundle), "exec": {"command": ["hostname"]}}
    (box.bundle / "rootfs/bin/hostname").symlink_to("busybox")
    assert box.run(check_mode=True, **params)["steps"] == ["create", "start", "exec"]
    assert box.run(**params)["stdout"] == "box\n"
    assert box.run(**params)["steps"] == ["exec"]


def test_a_command_that_leaves_something_behind(box: Box) -> None:
    """runc waits for what keeps its output open, so that this must not."""
    box.started()
    result = box.run(exec={"command": ["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo here"]})
    assert result["stdout"] == "here\n"
    assert len(box.info()["processes"]) == 2


def test_nothing_secret_is_in_the_list_of_processes(box: Box) -> None:
    box.started()
    log = box.directory / "calls"
    shim(box.directory / "bin", box.name, f'echo "$@" >>{log}; env >>{log}')
    box.run(exec={"command": ["sh", "-c", "test $PASS = tellnobody"], "env": {"PASS": "tellnobody"}})
    assert " exec " in log.read_text()
    assert "tellnobody" not in log.read_text()


# -------------------------------------------------------------------------------------------------------------- limits


def limits(box: Box) -> dict[str, t.Any]:
    found = limits_of(cgroup_of(box.state()["pid"]))
    return {key: value.plain for key, value in found.items()}


def test_limits_and_updates(box: Box) -> None:
    resources = {"memory": {"limit": 64 << 20}, "pids": {"limit": 50}, "cpu": {"shares": 512}}
    configure(box.bundle, linux={"resources": resources})
    box.started()
    found = limits(box)
    assert (found["memory.limit"], found["pids.limit"]) == (64 << 20, 50)
    update = {
        "memory": {"limit": "32M", "reservation": "16M"},
        "pids": {"limit": 20},
        "cpu": {"shares": 256, "quota": 50000, "period": 100000, "cpus": "0"},
    }
    result = box.converge(update=update)
    assert result["steps"] == ["update"]
    assert {"key": "memory.limit", "before": 64 << 20, "after": 32 << 20} in result["plan"]
    found = limits(box)
    assert (found["memory.limit"], found["memory.reservation"], found["pids.limit"]) == (32 << 20, 16 << 20, 20)
    assert (found["cpu.quota"], found["cpu.period"], found["cpu.cpus"]) == (50000, 100000, "0")
    # What was changed behind its back is put right; what is not declared stays.
    box.runtime("update", "--pids-limit", "30", box.id)
    assert [change["key"] for change in box.converge(update=update)["plan"]] == ["pids.limit"]
    assert box.converge(update={"cpu": {"quota": 70000}})["changed"]
    assert limits(box)["cpu.quota"] == 70000
    assert limits(box)["pids.limit"] == 20
    assert box.converge(update={"pids": {"limit": -1}})["changed"]
    assert limits(box)["pids.limit"] == -1
    assert box.converge(update={"memory": {"limit": -1}})["changed"]
    assert limits(box)["memory.limit"] == -1


def test_limits_of_one_that_is_made(box: Box) -> None:
    configure(box.bundle, linux={"resources": {"memory": {"limit": 64 << 20}}})
    params = {"state": "started", "bundle": str(box.bundle)}
    update = {"memory": {"limit": "64M"}, "pids": {"limit": 9}}
    result = box.converge(**params, update=update)
    assert result["steps"] == ["create", "start", "update"]
    assert [change["key"] for change in result["plan"]] == ["state", "pids.limit"]
    assert limits(box)["pids.limit"] == 9


def test_updates_that_cannot_be(box: Box) -> None:
    box.refused("not_running", update={"pids": {"limit": 9}})
    box.started()
    box.refused("invalid_option", update={"memory": {"limit": "64M", "swap": "32M"}})
    box.refused("invalid_option", update={"memory": {"limit": "lots"}})
    missing = next((key for key in ("memory.swap", "block_io.weight") if key not in limits(box)), None)
    if missing:
        section, name = missing.split(".")
        failure = box.refused("controller_missing", update={section: {name: 500 << 20}})
        assert failure["details"]["limits"] == [missing]
    box.refused("update_failed", check_mode=False, update={"cpu": {"cpus": "4000"}})


def test_memory_that_runs_out(box: Box) -> None:
    (box.bundle / "rootfs/bin/dd").symlink_to("busybox")
    eats = ("dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1")
    resources = {"memory": {"limit": 20 << 20}}
    if "memory.swap" in limits_of(cgroup_of(os.getpid())):
        resources["memory"]["swap"] = 20 << 20
    linux = {"resources": resources}
    configure(box.bundle, *eats, linux=linux)
    result = box.attempt(state="started", bundle=str(box.bundle), wait=True)
    assert (code_of(result), result["rc"]) == ("oom_killed", 137)
    configure(box.bundle, linux=linux)
    box.started()
    result = box.attempt(exec={"command": list(eats)})
    assert (code_of(result), result["rc"]) == ("oom_killed", 137)
    assert box.info()["statistics"]["oom_kills"] >= 1
    assert code_of(box.attempt(exec={"command": ["sh", "-c", "kill -9 $$"]})) == "command_failed"


# ------------------------------------------------------------------------------------------------------- what is wrong


def test_bundles_that_cannot_be_run(box: Box) -> None:
    bundle = str(box.bundle)
    box.refused("bundle_missing", check_mode=False, state="started", bundle="/nowhere")
    predicted = box.run(check_mode=True, state="started", bundle="/nowhere")
    assert predicted["changed"]
    assert any("/nowhere" in str(warning) for warning in predicted["warnings"])
    box.refused("invalid_option", state="started")
    for text in ("{", "[]", "{}", '{"ociVersion": 1}'):
        (box.bundle / "config.json").write_text(text)
        box.refused("invalid_spec", state="started", bundle=bundle)
    for process in ({"terminal": True}, {"args": []}, {"args": [1]}, {"cwd": "here"}):
        configure(box.bundle, process=process)
        box.refused("invalid_spec", state="started", bundle=bundle)
    configure(box.bundle, root={"path": "gone"})
    box.refused("bundle_missing", check_mode=False, state="started", bundle=bundle)


@pytest.mark.parametrize("state", ["created", "started"])
def test_programs_that_are_not_there(box: Box, state: str) -> None:
    for program in ("no-such-program", "/no/such/program", "/etc/passwd", "/etc"):
        configure(box.bundle, program)
        failure = box.attempt(state=state, bundle=str(box.bundle))
        assert code_of(failure) == "exec_failed", failure
        assert box.state()["status"] == "absent"
        assert Records(box.engine()).read(box.id) == {}


def test_what_only_the_runtime_knows(box: Box) -> None:
    configure(box.bundle, linux={"namespaces": [{"type": "nonsense"}]})
    result = box.attempt(state="started", bundle=str(box.bundle))
    assert code_of(result) in ("invalid_spec", "create_failed")
    mount = {"destination": "/x", "type": "bind", "source": "/no/such/source", "options": ["bind"]}
    configure(box.bundle, mounts=[mount])
    result = box.attempt(state="started", bundle=str(box.bundle))
    assert code_of(result) == "create_failed", result
    assert "/no/such/source" in result["msg"] or "source" in result["msg"]
    assert box.state()["status"] == "absent"


def test_runtimes_and_ids(runc: Box) -> None:
    runc.refused("runtime_missing", state="absent", runtime="/nowhere/crun")
    runc.refused("runtime_unknown", state="absent", runtime="/bin/true")
    link = runc.directory / "my-runtime"
    link.symlink_to(runc.path)
    assert runc.run(state="absent", runtime=str(link))["runtime"]["name"] == "runc"
    for bad in ("", ".", "..", "a/b", "../a", "-f", "a b", "ä", "a\n", "x" * 300):
        runc.refused("invalid_id", state="absent", id=bad)
    runc.refused("invalid_option")
    empty = {"PATH": "/nowhere"}
    assert isinstance(run_module("oci_container_info", {"ids": ["a"]}, env=empty)["containers"], list)


@pytest.mark.skipif(not hybrid(), reason="needs control groups of both versions")
def test_crun_where_it_does_not_work(tmp_path: Path) -> None:
    box = Box(tmp_path, "crun")
    result = box.attempt(state="started", bundle=str(box.bundle), runtime="crun")
    assert code_of(result) == "cgroups_unsupported"
    assert [runtime.name for runtime in find_runtimes("auto")] == ["runc", "crun"]
    result = box.run(state="started", bundle=str(box.bundle), runtime="auto")
    assert result["runtime"]["name"] == "runc"
    assert box.run(state="absent", runtime="auto", stop_timeout=0)["steps"] == ["stop", "delete"]


def test_auto_finds_the_one_that_has_it(box: Box) -> None:
    box.started()
    env = {"PATH": f"{Path(box.path).parent}:{os.environ['PATH']}"}
    params = {**box.base, "runtime": "auto", "state": "started"}
    result = run_module("oci_container", params, env=env)
    assert (result["changed"], result["runtime"]["name"]) == (False, box.name)
    result = run_module("oci_container_info", {"root": str(box.root)}, env=env)
    assert [entry["runtime"] for entry in result["containers"]] == [box.name]
    assert {entry["name"] for entry in result["runtimes"]} == {"crun", "runc"}


def test_somebody_else_is_at_it(runc: Box) -> None:
    records = Records(runc.engine())
    with records.lock(runc.id):
        with pytest.raises(Failure) as caught, records.lock(runc.id, patience=0.1):
            pass
        assert caught.value.code == "locked"
        # What reads does not wait.
        assert runc.run(state="absent")["changed"] is False
    assert os.listdir(records.directory) == []


@pytest.mark.parametrize("verb", ["start", "pause", "resume", "kill", "delete"])
def test_a_runtime_that_refuses(runc: Box, verb: str) -> None:
    """Whatever command of it fails, the failure says so."""
    wanted: dict[str, dict[str, t.Any]] = {
        "start": {"state": "started", "bundle": str(runc.bundle)},
        "pause": {"state": "paused"},
        "resume": {"state": "started"},
        "kill": {"kill": "HUP"},
        "delete": {"state": "absent", "stop_timeout": 0},
    }
    if verb != "start":
        runc.run(state="paused" if verb == "resume" else "started", bundle=str(runc.bundle))
    shim(runc.directory / "bin", "runc", f'case " $* " in *" {verb} "*) echo no such luck >&2; exit 1;; esac')
    result = runc.attempt(**wanted[verb])
    assert code_of(result) == f"{verb}_failed"
    assert "no such luck" in result["failure"]["message"]
    if verb == "kill":
        assert code_of(runc.attempt(state="stopped")) == "kill_failed"
    shim(runc.directory / "bin", "runc")
    assert runc.state()["status"] == {"start": "absent", "resume": "paused", "delete": "stopped"}.get(verb, "running")
    runc.run(state="absent", stop_timeout=0)


def test_one_that_does_not_die(runc: Box) -> None:
    runc.started()
    shim(runc.directory / "bin", "runc", 'case " $* " in *" kill "*) exit 0;; esac')
    assert code_of(runc.attempt(state="stopped", stop_timeout=0.1)) == "stop_failed"
    shim(runc.directory / "bin", "runc")


def test_no_space_for_what_the_runtime_writes(box: Box) -> None:
    box.root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(box.root)], check=True)
    try:
        (box.root / "ballast").write_bytes(bytes(60 << 10))
        result = box.attempt(state="started", bundle=str(box.bundle))
        assert code_of(result) == "disk_full", result
        (box.root / "ballast").unlink()
        box.started()
        box.run(state="absent", stop_timeout=0)
    finally:
        subprocess.run(["umount", str(box.root)], check=True)


def test_what_cannot_be_written(runc: Box) -> None:
    with pytest.raises(Failure) as caught, Records(runc.engine(), "/proc/nowhere").lock("x"):
        pass
    assert caught.value.code == "store_failed"
    nonsense = runc.directory / "nonsense/runc"
    nonsense.parent.mkdir()
    nonsense.write_text("no program")
    nonsense.chmod(0o755)
    assert code_of(run_module("oci_container_info", {"runtime": str(nonsense)})) == "runtime_failed"


# -------------------------------------------------------------------------------------------------------- what changes


def test_another_configuration(box: Box) -> None:
    first = box.started()["container"]["pid"]
    configure(box.bundle, "sleep", "2000")
    result = box.started()
    assert (result["changed"], result["recreate_required"]) == (False, True)
    assert any("recreate" in str(warning) for warning in result["warnings"])
    assert box.info()["outdated"] is True
    params = {"state": "started", "bundle": str(box.bundle), "recreate": "if_changed", "stop_timeout": 0}
    result = box.converge(**params)
    assert result["steps"] == ["stop", "delete", "create", "start"]
    assert [change["key"] for change in result["plan"]] == ["config.json"]
    assert result["container"]["pid"] != first
    assert box.info()["outdated"] is False
    other = make_bundle(box.directory / "other")
    configure(other, "sleep", "2000")
    result = box.converge(**{**params, "bundle": str(other)})
    assert [change["key"] for change in result["plan"]] == ["bundle"]
    assert box.state()["bundle"] == str(other)


def test_one_of_somebody_else(box: Box) -> None:
    """A container that was made by hand is taken over as it is; a record of an earlier one is none of it."""
    box.started()
    box.runtime("delete", "--force", box.id)
    configure(box.bundle, "sleep", "3000")
    with (box.directory / "elsewhere").open("w") as output:
        words = [box.path, "--root", str(box.root)]
        subprocess.run([*words, "create", "-b", str(box.bundle), box.id], stdout=output, stderr=output, check=True)
    result = box.started(recreate="if_changed")
    assert result["steps"] == ["start"]
    assert result["container"]["log"] is None
    assert box.info()["outdated"] is None


def test_one_whose_process_has_gone(box: Box) -> None:
    for state, steps in (("started", ["delete", "create", "start"]), ("absent", ["delete"])):
        pid = box.started()["container"]["pid"]
        os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + 10
        while box.state()["status"] != "stopped":
            assert time.monotonic() < end
        assert box.converge(state=state, bundle=str(box.bundle))["steps"] == steps


def test_what_an_interrupted_creation_leaves(box: Box) -> None:
    for state, steps in (
        ("started", ["delete", "create", "start"]),
        ("stopped", ["delete"]),
        ("absent", ["delete"]),
    ):
        box.run(state="absent", stop_timeout=0)
        (box.root / box.id).mkdir(parents=True)
        assert box.info()["status"] == "broken"
        assert box.converge(state=state, bundle=str(box.bundle))["steps"] == steps


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("verb", ["create", "start", "pause", "kill", "delete"])
def test_killed_at(box: Box, verb: str, moment: str) -> None:
    """Whenever the module is killed, the next run gets there."""
    box.run(state="started" if verb in ("kill", "delete") else "stopped", bundle=str(box.bundle))
    flag = box.directory / "flag"
    flag.touch()
    real = shim(box.directory / "real", box.name)
    act = f'case " $* " in *" {verb} "*) if [ -e {flag} ]; then rm {flag}; '
    if moment == "after":
        act += f'{real} "$@" </dev/null >/dev/null 2>&1; '
    shim(box.directory / "bin", box.name, f"{act}kill -KILL $PPID; exit 1; fi;; esac")
    wanted = "absent" if verb in ("kill", "delete") else "paused"
    args = {"id": box.id, "runtime": box.path, "root": str(box.root), "log": str(box.log)}
    args.update(state=wanted, bundle=str(box.bundle), stop_timeout=0, _ansible_remote_tmp="/tmp")
    done = subprocess.run(
        [sys.executable, "-m", "ansible_collections.lxcri.proxmox.plugins.modules.oci_container"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": args}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done
    assert not flag.exists()
    box.converge(state=wanted, bundle=str(box.bundle), stop_timeout=0)
    assert box.state()["status"] == wanted


def test_killed_while_it_waits(box: Box) -> None:
    configure(box.bundle, "sh", "-c", "while [ ! -e /go ]; do sleep 0.05; done")
    args = {**box.base, "state": "started", "bundle": str(box.bundle), "wait": True, "_ansible_remote_tmp": "/tmp"}
    with subprocess.Popen(
        [sys.executable, "-m", "ansible_collections.lxcri.proxmox.plugins.modules.oci_container"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin
        process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": args}))
        process.stdin.close()
        end = time.monotonic() + 60
        while box.state()["status"] != "running":
            assert time.monotonic() < end
            time.sleep(0.05)
        process.kill()
    params = {"state": "started", "bundle": str(box.bundle), "wait": True}
    box.refused("already_running", **params)
    (box.bundle / "rootfs/go").touch()
    while box.state()["status"] != "stopped":
        assert time.monotonic() < end
        time.sleep(0.05)
    assert box.run(**params)["rc"] == 0


# ---------------------------------------------------------------------------------------------------------------- info


def test_info(box: Box) -> None:
    box.run(state="created", bundle=str(box.bundle))
    assert box.info()["status"] == "created"
    configure(box.bundle, annotations={"a.b": "c"}, linux={"resources": {"pids": {"limit": 40}}})
    box.run(state="started", bundle=str(box.bundle), recreate="if_changed", stop_timeout=0)
    before = box.seen()
    entry = box.info()
    assert (entry["id"], entry["runtime"], entry["status"]) == (box.id, box.name, "running")
    assert (entry["bundle"], entry["log"], entry["outdated"]) == (str(box.bundle), str(box.log), False)
    assert entry["annotations"].get("a.b", "c") == "c"
    (process,) = entry["processes"]
    assert process == {"pid": entry["pid"], "ppid": process["ppid"], "uid": 0, "command": ["sleep", "1000"]}
    assert entry["limits"]["pids.limit"] == 40
    assert entry["statistics"]["pids"] == 1
    assert entry["statistics"]["memory"] > 0
    assert entry["statistics"]["cpu_ns"] > 0
    everything = run_module("oci_container_info", {"runtime": box.path, "root": str(box.root)})
    assert [found["id"] for found in everything["containers"]] == [box.id]
    (runtime,) = everything["runtimes"]
    assert runtime["version"]
    assert (runtime["name"], runtime["root"]) == (box.name, str(box.root))
    box.run(state="stopped", stop_timeout=0)
    entry = box.info()
    assert (entry["status"], entry["pid"], entry["processes"], entry["statistics"]) == ("stopped", None, [], None)
    assert before[0] == "running"
    params = {"runtime": box.path, "root": str(box.root), "ids": ["nobody"]}
    assert run_module("oci_container_info", params)["containers"] == []
    assert code_of(run_module("oci_container_info", {**params, "ids": ["../x"]})) == "invalid_id"


def asked(box: Box, *words: str) -> t.Any:
    """What a command of the runtime itself prints as JSON; None when this version has no such command."""
    argv = [box.path, "--root", str(box.root), *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        assert "unknown command" in done.stderr.lower() + done.stdout.lower(), done
        return None
    return json.loads(done.stdout)


def test_what_a_runtime_is_able_to_do(box: Box) -> None:
    result = run_module("oci_container_info", {"runtime": box.path, "root": str(box.root)})
    assert "warnings" not in result
    ((version, features),) = [(found["version"], found["features"]) for found in result["runtimes"]]
    assert features == asked(box, "features")
    # As the documentation says it.
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:3])
    assert bool(features) == (numbers >= {"runc": (1, 1, 0), "crun": (1, 8, 6)}[box.name])
    if features:
        assert {"prestart", "createRuntime", "poststop"} <= set(features["hooks"])
        assert {"pid", "mount", "user"} <= set(features["linux"]["namespaces"])
        assert features["linux"]["cgroup"]["v2"] is True


def test_statistics(box: Box) -> None:
    """Those of the control groups are told with both runtimes, and what runc itself counts beside them."""
    resources = {"memory": {"limit": 64 << 20}, "pids": {"limit": 20}}
    configure(box.bundle, linux={"resources": resources})
    box.started()
    for status in ("running", "paused"):
        box.run(state={"running": "started"}.get(status, status))
        entry = box.info()
        found = entry["statistics"]
        assert (entry["status"], found["memory_limit"], found["pids"], found["pids_limit"]) == (status, 64 << 20, 1, 20)
        printed = asked(box, "events", "--stats", box.id)
        assert (printed is None) == (box.name == "crun")
        if printed is None:
            assert entry["events"] is None
            continue
        events = entry["events"]
        assert set(events) == set(printed["data"])
        assert events["memory"]["usage"]["limit"] == 64 << 20
        assert events["pids"] == {"current": 1, "limit": 20}
        assert 0 < events["cpu"]["usage"]["total"] <= printed["data"]["cpu"]["usage"]["total"]
    box.run(state="stopped", stop_timeout=0)
    assert (box.info()["events"], box.info()["statistics"]) == (None, None)


# --------------------------------------------------------------------------------------------------------- checkpoints


def test_checkpoints_that_cannot_be(box: Box) -> None:
    path = str(box.directory / "saved")
    box.refused("not_running", checkpoint={"path": path})
    box.refused("invalid_option", checkpoint={"path": "here"})
    box.refused("invalid_option", state="started", checkpoint={"path": path})
    box.refused("checkpoint_missing", state="started", bundle=str(box.bundle), restore={"path": path})
    box.started()
    failure = box.refused("checkpoint_unsupported", checkpoint={"path": path})
    assert any("stdout" in reason for reason in failure["details"]["reasons"])
    (box.directory / "saved").mkdir()
    (box.directory / "saved/inventory.img").touch()
    assert box.run(checkpoint={"path": path})["changed"] is False


def criu_works(name: str) -> bool:
    return not criu.against(Runtime(name, name))


@pytest.mark.parametrize("name", ["runc", "crun"])
def test_checkpoint_and_restore(tmp_path: Path, name: str) -> None:
    if not criu_works(name):
        pytest.skip(f"'criu check' fails, or {name} has no CRIU")
    box = Box(tmp_path, name)
    configure(box.bundle, "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >/seq; sleep 0.1; done")
    box.run(state="started", bundle=str(box.bundle), log="/dev/null")
    saved = {"path": str(tmp_path / "saved")}
    assert box.converge(checkpoint=saved)["container"]["status"] == "absent"
    params = {"state": "started", "bundle": str(box.bundle), "restore": saved}
    assert box.converge(**params)["steps"] == ["restore"]
    box.run(state="absent", stop_timeout=0)
