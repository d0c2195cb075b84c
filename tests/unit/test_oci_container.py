# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What oci_container plans, and the command lines that it makes."""

from __future__ import annotations

import json
import os
import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.commands import Completed
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci import container, criu, lifecycle, runtime
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.cgroup import Found
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.lifecycle import Actual, Change, Declared
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.rootfs import ResolvedUser
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.runtime import Done, Runtime, State

STATUSES = ("absent", "broken", "created", "running", "paused", "stopped")
STEPS = {
    "created": ("create", "delete create", "", "", "", "delete create"),
    "started": ("create start", "delete create start", "start", "", "resume", "delete create start"),
    "paused": (
        *("create start pause", "delete create start pause", "start pause", "pause", ""),
        "delete create start pause",
    ),
    "stopped": ("", "delete", "stop", "stop", "stop", ""),
    "absent": ("", "delete", "stop delete", "stop delete", "stop delete", "delete"),
}
DUMP = {"path": "/saved", "leave_running": False}


def declared(**options: t.Any) -> Declared:
    """From options as the module has them."""
    names = ("state", "bundle", "kill", "exec", "update", "checkpoint", "restore")
    params = {"id": "box", "recreate": "never", "wait": False, **dict.fromkeys(names), **options}
    return lifecycle.declared_of(params)


def plan(actual: Actual, **options: t.Any) -> lifecycle.Plan:
    return lifecycle.plan_container(declared(**options), actual)


def code_of(work: t.Callable[[], t.Any]) -> str:
    with pytest.raises(Failure) as caught:
        work()
    return caught.value.code


@pytest.mark.parametrize("state", STEPS)
@pytest.mark.parametrize("status", STATUSES)
def test_steps(state: str, status: str) -> None:
    planned = plan(Actual(status), state=state)
    assert planned.steps == tuple(STEPS[state][STATUSES.index(status)].split())
    # What is planned leads there, and then nothing is left.
    assert plan(Actual(planned.status), state=state).steps == ()
    assert bool(planned.changes) == bool(planned.steps)


@pytest.mark.parametrize("status", ["created", "running", "paused"])
def test_outdated(status: str) -> None:
    actual = Actual(status, (Change("config.json", "a", "b"),))
    assert "create" not in plan(actual, state="started").steps
    planned = plan(actual, state="started", recreate="if_changed")
    assert planned.steps == ("stop", "delete", "create", "start")
    assert planned.changes[0].key == "config.json"
    assert plan(actual, state="absent", recreate="if_changed").steps == ("stop", "delete")
    assert plan(actual, recreate="if_changed", kill="HUP").steps == ("kill",)


def test_wait() -> None:
    options = {"state": "started", "bundle": "/b", "wait": True}
    assert plan(Actual("absent"), **options).steps == ("create", "start", "wait", "delete")
    assert plan(Actual("stopped"), **options).steps == ("delete", "create", "start", "wait", "delete")
    planned = plan(Actual("created"), **options)
    assert planned.steps == ("stop", "delete", "create", "start", "wait", "delete")
    assert (planned.early, planned.late) == (planned.steps[:4], ("wait", "delete"))
    assert planned.status == "absent"
    assert code_of(lambda: plan(Actual("paused"), **options)) == "already_running"


def test_checkpoint_and_restore() -> None:
    assert plan(Actual("running"), checkpoint=DUMP).steps == ("checkpoint",)
    assert plan(Actual("running"), checkpoint=DUMP).status == "absent"
    assert plan(Actual("running"), checkpoint={**DUMP, "leave_running": True}).status == "running"
    assert plan(Actual("running"), checkpoint={**DUMP, "leave_running": True}, state="started").steps == ("checkpoint",)
    assert plan(Actual("running"), checkpoint=DUMP, state="absent").steps == ("checkpoint",)
    assert plan(Actual("absent", dumped=True), checkpoint=DUMP).steps == ()
    assert plan(Actual("running", dumped=True), checkpoint=DUMP, state="absent").steps == ("stop", "delete")
    # A run that was killed after the dump.
    assert plan(Actual("absent", adoptable=True), checkpoint=DUMP).steps == ("adopt",)
    assert plan(Actual("stopped", adoptable=True), checkpoint=DUMP).steps == ("adopt", "delete")
    assert plan(Actual("running", adoptable=True), checkpoint=DUMP).steps == ("checkpoint",)
    assert code_of(lambda: plan(Actual("created"), checkpoint=DUMP)) == "not_running"
    options = {"state": "started", "restore": {"path": "/saved"}}
    assert plan(Actual("absent"), **options).steps == ("restore",)
    assert plan(Actual("stopped"), **options).steps == ("delete", "restore")
    assert plan(Actual("running"), **options).steps == ()
    assert plan(Actual("absent"), **{**options, "state": "paused"}).steps == ("restore", "pause")


def test_updates() -> None:
    update = {"memory": {"limit": "1M"}, "cpu": {"shares": 512}}
    now = {"memory.limit": Found(1 << 20), "cpu.shares": Found(1024)}
    planned = plan(Actual("running", limits=now), update=update)
    assert planned.update == {"cpu.shares": 512}
    assert planned.changes == (Change("cpu.shares", 1024, 512),)
    planned = plan(Actual("absent", future={"memory.limit": Found(-1)}), update=update, state="started")
    assert planned.steps == ("create", "start", "update")
    assert planned.changes[1:] == (Change("memory.limit", -1, 1 << 20), Change("cpu.shares", None, 512))
    assert code_of(lambda: plan(Actual("running", limits={}), update=update)) == "controller_missing"
    assert code_of(lambda: plan(Actual("stopped"), update=update)) == "not_running"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"wait": True, "bundle": "/b", "state": "paused"},
        {"wait": True, "state": "started"},
        {"wait": True, "bundle": "/b", "state": "started", "kill": "HUP"},
        {"state": "absent", "kill": "HUP"},
        {"state": "stopped", "exec": {"command": ["id"]}},
        {"state": "stopped", "update": {"pids": {"limit": 1}}},
        {"state": "created", "exec": {"command": ["id"]}},
        {"exec": {"command": []}},
        {"kill": "NOSUCH"},
        {"restore": {"path": "/x"}, "state": "absent"},
        {"checkpoint": DUMP, "state": "started"},
        {"checkpoint": {**DUMP, "leave_running": True}, "state": "absent"},
        {"checkpoint": DUMP, "kill": "HUP"},
        {"update": {"memory": {"limit": "many"}}},
        {"update": {"memory": {"limit": "2M", "swap": "1M"}}},
    ],
)
def test_contradictions(options: dict[str, t.Any]) -> None:
    assert code_of(lambda: declared(**options)) == "invalid_option"


def test_resources() -> None:
    limits = {"cpu.period": Found(100000), "cpu.quota": Found(-1)}
    found = lifecycle.resources_of({"cpu.quota": 5, "memory.limit": 6, "block_io.weight": 7}, limits)
    assert found == {"cpu": {"quota": 5, "period": 100000}, "memory": {"limit": 6}, "blockIO": {"weight": 7}}
    assert lifecycle.resources_of({"cpu.period": 5}, limits) == {"cpu": {"period": 5}}
    assert lifecycle.resources_of({"pids.limit": -1}, {}) == {"pids": {"limit": 4194304}}


def test_process_of_exec() -> None:
    base = {
        "terminal": True,
        "consoleSize": {"height": 1, "width": 1},
        "args": ["x"],
        "cwd": "/srv",
        "env": ["A=1", "HOME=/x", "B=2"],
        "user": {"uid": 0, "gid": 0},
        "capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"]},
        "noNewPrivileges": True,
    }
    found = lifecycle.process_of_exec(base, {"command": ["id"], "env": {"A": None, "C": 3}}, None)
    assert found == {
        "terminal": False,
        "args": ["id"],
        "cwd": "/srv",
        "env": ["HOME=/x", "B=2", "C=3"],
        "user": {"uid": 0, "gid": 0},
        "capabilities": base["capabilities"],
        "noNewPrivileges": True,
    }
    found = lifecycle.process_of_exec(base, {"command": ["id"], "cwd": "/"}, ResolvedUser(5, 6, (7,)))
    assert found["user"] == {"uid": 5, "gid": 6, "additionalGids": [7]}
    assert found["capabilities"] == {"bounding": ["CAP_CHOWN"]}
    assert found["env"] == ["A=1", "B=2"]
    assert lifecycle.process_of_exec(None, {"command": ["id"]}, None)["cwd"] == "/"


def test_signals() -> None:
    for name, number in (("TERM", 15), ("sigterm", 15), ("15", 15), (9, 9), ("RTMIN+3", 37), ("SIGRTMAX-1", 63)):
        assert lifecycle.signal_number(name) == number
    for name in ("", "0", "65", "NOSUCH", "TERM ERM", "-9", "RTMIN+40", "SIG_IGN", "DFL"):
        assert code_of(lambda name=name: lifecycle.signal_number(name)) == "invalid_option"
    assert [lifecycle.signal_name(number) for number in (15, 37, 33)] == ["SIGTERM", "SIGRTMIN+3", "33"]


# ------------------------------------------------------------------------------------------------------ command lines


class Recorder:
    """Records commands, and answers them."""

    def __init__(self, *answers: tuple[int, str, str], log: str = "") -> None:
        self.calls: list[list[str]] = []
        self.documents: list[str] = []
        self.answers, self.log = list(answers), log

    def __call__(
        self, argv: t.Sequence[str], stdin: str | None, output: tuple[int, int] | None, pass_fds: t.Sequence[int]
    ) -> tuple[int, str, str]:
        self.calls.append(list(argv))
        if pass_fds:
            os.write(pass_fds[0], self.log.encode())
            with open(f"/proc/self/fd/{pass_fds[1]}", encoding="utf-8") as document:
                self.documents.append(document.read())
        return self.answers.pop(0) if self.answers else (0, "", "")


def plain(call: list[str]) -> list[str]:
    """Without the names of files in memory."""
    return ["FD" if word.startswith("/proc/self/fd/") else word for word in call]


def test_command_lines() -> None:
    recorder = Recorder()
    runc = Runtime("runc", "/usr/sbin/runc", run=recorder)
    head = ["/usr/sbin/runc", "--root", "/run/runc", "--log", "FD", "--log-format", "json"]
    runc.create("box", "/b", "/pid", 1, 2)
    runc.execute("box", {"args": ["secret"]}, None)
    runc.update("box", {"pids": {"limit": 1}})
    runc.checkpoint("box", "/img", {"leave_running": True, "tcp_established": True, "file_locks": True})
    runc.restore("box", "/b", "/img", "/work", {"shell_job": True, "manage_cgroups_mode": "full"}, 1)
    assert [plain(call) for call in recorder.calls] == [
        [*head, "create", "--bundle", "/b", "--pid-file", "/pid", "box"],
        [*head, "exec", "--process", "FD", "box"],
        [*head, "update", "--resources", "FD", "box"],
        [
            *(*head, "checkpoint", "--image-path", "/img", "--work-path", "/img"),
            *("--tcp-established", "--file-locks", "--leave-running", "box"),
        ],
        [
            *(*head, "restore", "--detach", "--image-path", "/img", "--work-path", "/work", "--bundle", "/b"),
            *("--shell-job", "--manage-cgroups-mode", "full", "box"),
        ],
    ]
    assert json.loads(recorder.documents[1]) == {"args": ["secret"]}
    crun = Runtime("crun", "crun", "/x", True, recorder)
    crun.checkpoint("box", "/img", {"ext_unix_sk": True})
    assert plain(recorder.calls[-1]) == [
        *("crun", "--root", "/x", "--log", "FD", "--log-format", "json", "--systemd-cgroup", "checkpoint"),
        *("--image-path", "/img", "--work-path", "/img", "--ext-unix-sk", "--manage-cgroups-mode", "ignore", "box"),
    ]


def test_errors_are_those_of_the_log() -> None:
    log = (
        '{"level":"warning","msg":"soft"}\n{"level":"error","msg":"hard"}\nnonsense\n{"msg":"again","level":"error"}\n'
    )
    done = Runtime("runc", "runc", run=Recorder((1, "", "other"), log=log)).call("start", "box")
    assert done.errors == ("hard", "again")
    assert done.why == "hard; again"
    assert Done(1, "", "a\nb\n").why == "a; b"
    assert Done(4).why == "it ended with 4"


def test_states(tmp_path: Path) -> None:
    assert Runtime("runc", "runc", str(tmp_path / "no"), run=Recorder()).states() == []
    (tmp_path / "box").mkdir()
    (tmp_path / "left").mkdir()
    text = json.dumps([{"id": "box", "pid": 5, "status": "running", "bundle": "/b", "annotations": None}])
    found = Runtime("runc", "runc", str(tmp_path), run=Recorder((0, text, ""))).states()
    assert found == [State("box", "running", 5, "/b"), State("left", "broken")]
    assert [
        state.status for state in Runtime("runc", "runc", str(tmp_path), run=Recorder((0, "null", ""))).states()
    ] == [
        "broken",
        "broken",
    ]
    broken = Runtime("crun", "crun", str(tmp_path), run=Recorder((1, "what?", "")))
    assert code_of(broken.states) == "runtime_failed"
    assert runtime.parse_state({"id": "a", "status": "stopped", "pid": 77}) == State("a", "stopped")
    assert runtime.parse_state([]) is None


FEATURES = {"ociVersionMin": "1.0.0", "ociVersionMax": "1.1.0", "hooks": ["prestart"], "linux": {}}


@pytest.mark.parametrize(
    ("answer", "features"),
    [
        ((0, json.dumps(FEATURES), ""), FEATURES),
        ((1, "", "unknown command features"), None),
        # What an unknown command prints with older ones.
        ((0, "NAME:\n   runc - Open Container Initiative runtime\n", "No help topic for 'features'"), None),
        ((0, "{}", ""), None),
        ((0, "[]", ""), None),
    ],
)
@pytest.mark.parametrize("name", ["runc", "crun"])
def test_features(name: str, answer: tuple[int, str, str], features: dict[str, t.Any] | None) -> None:
    recorder = Recorder(answer)
    assert Runtime(name, name, run=recorder).features() == features
    assert recorder.calls[0][-1] == "features"


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ('{"type": "stats", "id": "box", "data": {"pids": {"current": 1}}}', {"pids": {"current": 1}}),
        ('{"type": "stats", "id": "box", "data": null}', None),
        ("no", None),
        ("", None),
    ],
)
def test_events(text: str, events: dict[str, t.Any] | None) -> None:
    recorder = Recorder((0, text, ""))
    assert Runtime("runc", "runc", run=recorder).events("box") == events
    assert recorder.calls[0][-3:] == ["events", "--stats", "box"]
    # crun has no such command, and is not asked.
    recorder = Recorder((0, text, ""))
    assert Runtime("crun", "crun", run=recorder).events("box") is None
    assert recorder.calls == []


def test_what_a_failed_creation_means() -> None:
    bundle = container.Bundle("/b")
    for why, code in (
        ('exec: "x": executable file not found in $PATH', "exec_failed"),
        ("executable file `x` not found in $PATH: No such file or directory", "exec_failed"),
        ("json: cannot unmarshal string into Go value", "invalid_spec"),
        ("cgroups in hybrid mode not supported, drop all controllers from cgroupv2", "cgroups_unsupported"),
        ("write /x: no space left on device", "disk_full"),
        ("something else", "create_failed"),
    ):
        assert container.creation_failure("box", bundle, Done(1, errors=(why,)), False).code == code
    unstored = Done(1, errors=("unable to start container process: unable to store init state",))
    assert container.creation_failure("box", bundle, unstored, True).code == "disk_full"
    assert container.creation_failure("box", bundle, unstored, False).code == "create_failed"
    other = Done(1, errors=("something else",))
    assert container.creation_failure("box", bundle, other, True).code == "create_failed"


def test_room_for_the_state_of_a_container(tmp_path: Path) -> None:
    assert not Runtime("runc", "runc", str(tmp_path)).is_full()
    assert not Runtime("runc", "runc", str(tmp_path / "missing")).is_full()


# ---------------------------------------------------------------------------------------------------------------- CRIU


class Criu:
    """Plays a runtime that dumps and restores."""

    def __init__(self, rc: int = 0, log: str = "", name: str = "runc") -> None:
        self.rc, self.log, self.name = rc, log, name

    def checkpoint(self, _id: str, images: str, _options: t.Any) -> Done:
        Path(images, "inventory.img").touch()
        Path(images, "dump.log").write_text(self.log)
        return Done(self.rc)

    def restore(self, _id: str, _bundle: str, _images: str, work: str, _options: t.Any, _output: int) -> Done:
        Path(work, "restore.log").write_text(self.log)
        return Done(self.rc)

    def version(self) -> tuple[str, str]:
        return "1", f"crun version 1\n{self.log}"


def fake(**options: t.Any) -> Runtime:
    return t.cast("Runtime", Criu(**options))


def test_a_dump_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep/saved"
    options = {"path": str(path)}
    (tmp_path / "deep/saved.partial").mkdir(parents=True)
    (tmp_path / "deep/saved.partial/old").touch()
    failing = fake(rc=1, log="(00.1) fine\n(00.2) Error (a.c:1): no such thing\n")
    with pytest.raises(Failure) as caught:
        criu.dump(failing, "box", options, {})
    assert caught.value.code == "checkpoint_failed"
    assert "no such thing" in caught.value.message
    assert os.listdir(path.parent) == ["saved.log"]
    full = fake(rc=1, log="Error: No space left on device: no space left\n")
    assert code_of(lambda: criu.dump(full, "box", options, {})) == "disk_full"
    criu.dump(fake(), "box", options, {"runtime": "runc", "config": "abc"})
    assert criu.is_complete(str(path))
    assert not (tmp_path / "deep/saved.partial").exists()
    assert path.stat().st_mode & 0o777 == 0o700
    path.with_name("file").touch()
    assert code_of(lambda: criu.dump(fake(), "box", {"path": str(path / "../file/x")}, {})) == "store_failed"


def test_adopting(tmp_path: Path) -> None:
    path = str(tmp_path / "saved")
    partial = tmp_path / "saved.partial"
    partial.mkdir()
    (partial / "inventory.img").touch()
    assert not criu.adopt(path)
    (partial / "dump.log").write_text("(1.0) Dumping finished successfully\n")
    assert criu.adopt(path)
    assert criu.is_complete(path)
    assert not criu.adopt(path)


def test_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "saved")
    assert code_of(lambda: criu.check_restorable(path, fake(), "abc")) == "checkpoint_missing"
    criu.dump(fake(), "box", {"path": path}, {"runtime": "runc", "config": "abc"})
    assert code_of(lambda: criu.check_restorable(path, fake(name="crun"), "abc")) == "checkpoint_mismatch"
    assert code_of(lambda: criu.check_restorable(path, fake(), "def")) == "checkpoint_mismatch"
    monkeypatch.setattr(criu, "against", lambda _runtime: ["no criu"])
    assert code_of(lambda: criu.check_restorable(path, fake(), "abc")) == "checkpoint_unsupported"
    monkeypatch.setattr(criu, "against", lambda _runtime: [])
    criu.check_restorable(path, fake(), "abc")
    criu.restore(fake(), "box", "/b", {"path": path})
    failing = fake(rc=1, log="Error (b.c:2): cannot\n")
    assert code_of(lambda: criu.restore(failing, "box", "/b", {"path": path})) == "restore_failed"
    assert "cannot" in (tmp_path / "saved.log").read_text()
    assert code_of(lambda: criu.check_options("restore", {"path": "x"})) == "invalid_option"
    assert code_of(lambda: criu.check_options("restore", {"path": "/"})) == "invalid_option"


def test_what_stands_against_a_dump(tmp_path: Path) -> None:
    def check(rc: int) -> t.Any:
        return lambda argv, **_more: Completed(tuple(argv), rc, "", "Looks bad.\n")

    def missing(_argv: t.Any, **_more: t.Any) -> t.NoReturn:
        raise Failure("command_missing", "")

    links = tmp_path / "5/fd"
    links.mkdir(parents=True)
    for name in ("0", "1"):
        (links / name).symlink_to("/dev/null")
    log = tmp_path / "log"
    log.write_text("")
    (links / "2").symlink_to(log)
    with pytest.raises(Failure) as caught:
        criu.require(fake(name="crun", log="+SECCOMP"), "box", 5, check(1), str(tmp_path))
    assert caught.value.code == "checkpoint_unsupported"
    reasons = caught.value.details["reasons"]
    assert reasons == [
        f"its stderr is {log} instead of /dev/null (set log: /dev/null)",
        "this crun is built without CRIU",
        "'criu check' fails: Looks bad.",
    ]
    (links / "2").unlink()
    (links / "2").symlink_to("/dev/null")
    whole = fake(name="crun", log="+CRIU +SECCOMP")
    criu.require(whole, "box", 5, check(0), str(tmp_path))
    # What a shell in the container has for its output while it writes to a file: CRIU dumps it as any other.
    (links / "2").unlink()
    (links / "2").symlink_to(log)
    (tmp_path / "5/mountinfo").write_text(Path("/proc/self/mountinfo").read_text())
    criu.require(whole, "box", 5, check(0), str(tmp_path))
    # A pipe has its other end somewhere, and what is closed cannot be looked at by the runtime.
    read, write = os.pipe()
    (links / "1").unlink()
    (links / "1").symlink_to(f"/proc/self/fd/{write}")
    (links / "0").unlink()
    with pytest.raises(Failure) as caught:
        criu.require(whole, "box", 5, check(0), str(tmp_path))
    pipe = os.readlink(f"/proc/self/fd/{write}")
    os.close(read)
    os.close(write)
    assert caught.value.details["reasons"] == [
        "its stdin is closed instead of /dev/null (set log: /dev/null)",
        f"its stdout is {pipe} instead of /dev/null (set log: /dev/null)",
    ]
    assert criu.against(fake(), missing) == ["there is no criu on this machine"]
