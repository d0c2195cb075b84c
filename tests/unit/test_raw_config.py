# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The raw lines of a container of Proxmox: what is declared, what follows, and the file."""

from __future__ import annotations

import fcntl
import signal
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import raw_config
from ansible_collections.lxcri.proxmox.plugins.module_utils.node import raw_keys
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.commands import Completed
from ansible_collections.lxcri.proxmox.plugins.modules import lxc_raw_config
from ansible_collections.lxcri.proxmox.tests.oci.module import run_module
from hypothesis import given
from hypothesis import strategies as st

CONFIG = """\
#A description%3A with a colon
#lxc.init.cwd: /not/a/line
arch: amd64
hostname: web
rootfs: local-zfs:subvol-101-disk-0,size=1G
lxc.environment.runtime: A=1
lxc.mount.entry = /a a none bind 0 0
# a comment between
lxc.prlimit.nofile: 1024
lxc.mount.entry: /b b none bind 0 0
unused0: local-zfs:subvol-101-disk-1

[pve:pending]
lxc.prlimit.nofile: 3

[before]
lxc.prlimit.nofile: 7
snaptime: 1
"""


class Node:
    """A directory that is laid out as /etc/pve, and where a container may run."""

    def __init__(self, root: Path, state: str = "STOPPED") -> None:
        self.root = root
        self.state = state
        (root / "nodes/pve1/lxc").mkdir(parents=True)
        (root / "nodes/pve2/lxc").mkdir(parents=True)
        (root / "lxc").symlink_to("nodes/pve1/lxc")
        self.path = root / "nodes/pve1/lxc/101.conf"
        self.path.write_text(CONFIG)
        self.lock = str(root / "lock/{}.lock")

    def run(self, argv: t.Sequence[str], stdin: str | None = None, timeout: float | None = None) -> Completed:
        assert list(argv) == ["lxc-info", "-n", "101", "-sH"]
        return Completed(tuple(argv), 0, f"{self.state}\n", "")

    def declare(self, *raw: t.Any, check_mode: bool = False, vmid: int = 101, **options: t.Any) -> dict[str, t.Any]:
        params = {"vmid": vmid, "raw": list(raw), "exclusive": "keys", "state": "present", **options}
        root = str(self.root)
        return raw_config.run_declared(params, check_mode, root, self.lock, run=self.run, timeout=0.1)

    def text(self) -> str:
        return self.path.read_text()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "pve")


def refused(code: str, work: t.Callable[[], t.Any]) -> Failure:
    with pytest.raises(Failure) as caught:
        work()
    assert caught.value.code == code
    assert caught.value.hint
    return caught.value


# ------------------------------------------------------------------------------------------------------- file


def test_lines_are_written_once(node: Node) -> None:
    """Check mode predicts exactly and writes nothing; a second run changes nothing."""
    lines = ["lxc.init.cwd: /srv", "lxc.prlimit.nofile: 1024:2048"]
    predicted = node.declare(*lines, check_mode=True)
    assert node.text() == CONFIG
    assert not (node.root / "lock").exists()
    done = node.declare(*lines)
    assert predicted == done
    assert done["changed"]
    assert done["plan"] == [
        {"key": "lxc.prlimit.nofile", "before": ["1024"], "after": ["1024:2048"]},
        {"key": "lxc.init.cwd", "before": [], "after": ["/srv"]},
    ]
    assert done["diff"]["after"] != done["diff"]["before"]
    after = node.text()
    again = node.declare(*lines)
    assert (again["changed"], again["plan"], again["restart_required"]) == (False, [], False)
    assert node.text() == after
    assert again["diff"]["after"] == again["diff"]["before"]


CARRIAGE_RETURNS = (
    b"#\rlxc.hook.pre-start: /evil\r\n"
    b"arch: amd64\r\n"
    b"mp0: local-zfs:subvol-101-disk-1,mp=/a\rlxc.hook.pre-start: /bin/sh -c evil #,size=1G\n"
    b"lxc.mount.entry: /a a none bind 0 0\r\n"
    b"[before]\nlxc.init.cwd: /a\rlxc.init.uid: 0\n"
)


def test_a_carriage_return_ends_no_line(node: Node) -> None:
    """To Proxmox it is a part of a value, which a user of the API can choose."""
    node.path.write_bytes(CARRIAGE_RETURNS)
    done = node.declare("lxc.init.cwd: /srv")
    assert [line["key"] for line in done["raw"]] == ["lxc.mount.entry", "lxc.init.cwd"]
    added = b"lxc.init.cwd: /srv\n"
    assert node.path.read_bytes() == CARRIAGE_RETURNS.replace(b"[before]", added + b"[before]")
    node.declare("lxc.init.cwd", state="absent")
    assert node.path.read_bytes() == CARRIAGE_RETURNS


@given(st.lists(st.text(alphabet="a:# \r\x0b\x0c\x85\u2028\xe9", max_size=9), max_size=5))
def test_other_lines_keep_their_bytes(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    node = Node(tmp_path_factory.mktemp("node") / "pve")
    before = "".join(f"x{line}\n" for line in lines).encode()
    node.path.write_bytes(before + b"lxc.init.cwd: /a\n")
    node.declare("lxc.init.cwd: /b")
    assert node.path.read_bytes() == before + b"lxc.init.cwd: /b\n"


def test_all_else_stays_as_it_is(node: Node) -> None:
    """Foreign lines, comments, the pending section and snapshots stay, byte for byte and in their order."""
    node.declare("lxc.prlimit.nofile: 2048", "lxc.signal.halt: SIGTERM")
    ours = ("lxc.prlimit.nofile: 1024", "lxc.prlimit.nofile: 2048", "lxc.signal.halt: SIGTERM")
    old, new = ([line for line in text.split("\n") if line not in ours] for text in (CONFIG, node.text()))
    assert old == new
    head, _bracket, rest = node.text().partition("[pve:pending]")
    assert rest == CONFIG.partition("[pve:pending]")[2]
    assert head.index("lxc.prlimit.nofile: 2048") < head.index("lxc.signal.halt") < head.index("unused0")
    assert "lxc.environment.runtime: A=1" in head
    assert list(node.path.parent.iterdir()) == [node.path]


def test_the_first_raw_lines_of_a_container(node: Node) -> None:
    node.path.write_text("arch: amd64\nhostname: web\n\n[one]\narch: amd64\n")
    node.declare("lxc.init.cwd: /srv", "lxc.cap.drop:", "lxc.cap.keep: chown")
    expected = (
        "arch: amd64\nhostname: web\nlxc.init.cwd: /srv\nlxc.cap.drop:\nlxc.cap.keep: chown\n\n[one]\narch: amd64\n"
    )
    assert node.text() == expected
    node.path.write_text("arch: amd64")
    node.declare("lxc.init.cwd: /srv")
    assert node.text() == "arch: amd64\nlxc.init.cwd: /srv\n"
    node.path.write_text("")
    node.declare("lxc.init.cwd: /srv")
    assert raw_config.raw_lines(node.text()) == [("lxc.init.cwd", "/srv")]


def test_lines_of_a_key_are_whole(node: Node) -> None:
    """By default the lines of a declared key are those declared, in this order."""
    result = node.declare({"lxc.mount.entry": ["/c c none bind 0 0", "/b b none bind 0 0"]})
    mounts = [entry["value"] for entry in result["raw"] if entry["key"] == "lxc.mount.entry"]
    assert mounts == ["/c c none bind 0 0", "/b b none bind 0 0"]
    assert "lxc.prlimit.nofile: 1024\n" in node.text()


def test_exclusive_none_adds(node: Node) -> None:
    """What may be there more than once is added to; of other keys the line is replaced."""
    lines = ["lxc.mount.entry: /c c none bind 0 0", "lxc.mount.entry: /a a none bind 0 0", "lxc.prlimit.nofile: 9"]
    result = node.declare(*lines, exclusive="none")
    values = [entry["value"] for entry in result["raw"]]
    assert sorted(values) == sorted(["/a a none bind 0 0", "/b b none bind 0 0", "/c c none bind 0 0", "9"])
    assert not node.declare(*lines, exclusive="none")["changed"]


def test_exclusive_all_removes_every_other_line(node: Node) -> None:
    result = node.declare("lxc.init.uid: 7", exclusive="all")
    assert result["raw"] == [{"key": "lxc.init.uid", "value": "7"}]
    assert "lxc.environment.runtime: A=1\n" in node.text()
    assert node.text().count("lxc.prlimit.nofile") == 2
    assert node.declare(exclusive="all")["raw"] == []
    assert not node.declare(exclusive="all")["changed"]


def test_absent(node: Node) -> None:
    """One line by its value, all lines of a key without one; what is not there is no change."""
    gone = ["lxc.mount.entry: /b b none bind 0 0", {"key": "lxc.prlimit.nofile"}, "lxc.init.cwd"]
    result = node.declare(*gone, state="absent")
    assert result["raw"] == [{"key": "lxc.mount.entry", "value": "/a a none bind 0 0"}]
    assert not node.declare(*gone, state="absent")["changed"]
    assert node.text().partition("[pve")[2] == CONFIG.partition("[pve")[2]


def test_what_is_refused_as_new_can_be_removed(node: Node) -> None:
    node.path.write_text(CONFIG.replace("lxc.prlimit.nofile: 1024", "lxc.init.cmd: /bin/sh"))
    assert node.declare("lxc.init.cmd", state="absent")["changed"]
    refused("invalid_option", lambda: node.declare("lxc.environment.runtime", state="absent"))
    refused("invalid_option", lambda: node.declare("memory", state="absent"))
    refused("invalid_option", lambda: node.declare("lxc.init.cwd", state="absent", exclusive="all"))


def test_a_new_order_is_a_change(node: Node) -> None:
    node.path.write_text("arch: amd64\nlxc.cap.keep: chown\nlxc.cap.drop:\n")
    result = node.declare("lxc.cap.drop:", "lxc.cap.keep: chown")
    assert node.text() == "arch: amd64\nlxc.cap.drop:\nlxc.cap.keep: chown\n"
    assert result["plan"] == [
        {
            "key": "raw",
            "before": ["lxc.cap.keep: chown", "lxc.cap.drop: "],
            "after": ["lxc.cap.drop: ", "lxc.cap.keep: chown"],
        }
    ]


def test_a_running_container_needs_a_restart(node: Node) -> None:
    node.state = "RUNNING"
    assert node.declare("lxc.init.cwd: /srv", check_mode=True)["restart_required"]
    assert node.declare("lxc.init.cwd: /srv")["restart_required"]
    assert not node.declare("lxc.init.cwd: /srv")["restart_required"]


# ------------------------------------------------------------------------------------------- what stands against it


def test_locks(node: Node) -> None:
    """A lock in the file refuses a change, and no more than that; so does the lock file."""
    node.path.write_text("arch: amd64\nlock: backup\nlxc.init.uid: 5\n\n[one]\nlock: snapshot\n")
    for check_mode in (True, False):
        failure = refused("locked", lambda check=check_mode: node.declare("lxc.init.cwd: /srv", check_mode=check))
        assert failure.details == {"container": "101", "lock": "backup"}
    assert not node.declare("lxc.init.uid: 5")["changed"]
    node.path.write_text("arch: amd64\n\n[one]\nlock: snapshot\n")
    with Path(node.lock.format(101)).open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused("lock_timeout", lambda: node.declare("lxc.init.cwd: /srv"))
    assert node.declare("lxc.init.cwd: /srv")["changed"]
    node.lock = str(node.path / "{}.lock")
    refused("lock_failed", lambda: node.declare("lxc.init.cwd: /srv"))


def test_a_container_of_another_node(node: Node) -> None:
    (node.root / "nodes/pve2/lxc/102.conf").write_text("arch: amd64\n")
    assert refused("container_missing", lambda: node.declare(vmid=102)).details["node"] == "pve2"
    assert refused("container_missing", lambda: node.declare(vmid=103)).details["node"] is None


def test_a_file_that_cannot_be_read_or_written(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """/etc/pve is read-only without a quorum; nothing is left behind."""

    def denied(_source: str, _target: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.rename", denied)
    refused("config_not_written", lambda: node.declare("lxc.init.cwd: /srv"))
    assert node.text() == CONFIG
    assert list(node.path.parent.iterdir()) == [node.path]
    (node.root / "nodes/pve1/lxc/104.conf").mkdir()
    refused("config_not_read", lambda: node.declare(vmid=104))


# ------------------------------------------------------------------------------------------------- declaration


@pytest.mark.parametrize(
    "entry",
    [
        "lxc.prlimit.nofile: 1024",
        "lxc.prlimit.nofile = 1024",
        " lxc.prlimit.nofile:1024 ",
        {"lxc.prlimit.nofile": 1024},
        {"lxc.prlimit.nofile": ["1024"]},
        {"key": "lxc.prlimit.nofile", "value": 1024},
    ],
)
def test_spellings(entry: t.Any, node: Node) -> None:
    """A line can be given in several ways; all are the line that is there."""
    assert not node.declare(entry)["changed"]


def test_a_boolean_is_a_number() -> None:
    params = {"vmid": 1, "raw": [{"lxc.autodev": True}], "exclusive": "keys", "state": "present"}
    assert raw_config.declare(params).lines == (("lxc.autodev", "1"),)


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ("lxc.prlimit.nofile", "invalid_option"),
        ("no line", "invalid_option"),
        ("hostname: web", "invalid_option"),
        ("lxc.Cap: x", "invalid_option"),
        ("lxc.init.cwd: /a\nlock: backup", "invalid_option"),
        ("lxc.init.cwd: /a\rb", "invalid_option"),
        ({"lxc.init.cwd": "/a\n[one]"}, "invalid_option"),
        ({"lxc.init.cwd\n": "/a"}, "invalid_option"),
        ({"lxc.init.cwd": {"a": 1}}, "invalid_option"),
        ({"key": "lxc.init.cwd"}, "invalid_option"),
        ({"key": "lxc.init.cwd", "value": "/a\x7f"}, "invalid_option"),
        ({}, "invalid_option"),
        (7, "invalid_option"),
        ({7: "x"}, "invalid_option"),
        ("lxc.init.cwd: srv", "invalid_option"),
        ("lxc.init.uid: root", "invalid_option"),
        ("lxc.idmap: u 0 100000", "invalid_option"),
        ("lxc.idmap: x 0 100000 1", "invalid_option"),
        ("lxc.prlimit.nofile: many", "invalid_option"),
        ("lxc.signal.halt: TERM", "invalid_option"),
        ("lxc.cap.keep: CAP_CHOWN", "invalid_option"),
        ("lxc.mount.entry: /a b", "invalid_option"),
        ("lxc.seccomp.profile: a", "invalid_option"),
        ("lxc.hook.version: 2", "invalid_option"),
        ("lxc.init.groups: 1 2", "invalid_option"),
        ("lxc.environment.runtime: A=1", "key_of_api"),
        ("lxc.init.cmd: /bin/sh", "key_of_api"),
        ("lxc.rootfs.path: /", "key_of_api"),
        ("lxc.cgroup2.memory.max: 1", "key_of_api"),
        ("lxc.no_new_privs: 1", "key_not_admitted"),
        ("lxc.sysctl.net.ipv4.ip_forward: 1", "key_not_admitted"),
        ("lxc.sysctl.fs.mqueue.msg_max: 1", "key_not_admitted"),
        ("lxc.cgroup.pids.max: 1", "key_not_admitted"),
    ],
)
def test_refused_lines(entry: t.Any, code: str, node: Node) -> None:
    refused(code, lambda: node.declare(entry))
    assert node.text() == CONFIG


def test_old_names_are_told() -> None:
    for old, new in (
        ("lxc.id_map", "lxc.idmap"),
        ("lxc.limit.nofile", "lxc.prlimit.nofile"),
        ("lxc.network.type", "lxc.net.type"),
        ("lxc.cgroup.pids.max", "lxc.cgroup2.pids.max"),
    ):
        assert new in refused("key_not_admitted", lambda key=old: raw_keys.check_key(key)).hint


def test_ids_that_are_mapped_twice(node: Node) -> None:
    """Also together with lines that are there already."""
    failure = refused("invalid_option", lambda: node.declare("lxc.idmap: u 0 100000 10", "lxc.idmap: u 10 100009 1"))
    assert "uid 100009 of the node" in failure.message
    node.declare("lxc.idmap: g 0 100000 10", "lxc.idmap: u 0 100000 10")
    failure = refused("invalid_option", lambda: node.declare("lxc.idmap: g 5 200000 1", exclusive="none"))
    assert "gid 5 of the container" in failure.message


def test_a_mapping_that_is_damaged_can_be_replaced(node: Node) -> None:
    node.path.write_text("arch: amd64\nlxc.idmap: u 0\nlxc.idmap: nonsense\n")
    assert node.declare("lxc.init.uid: 1")["changed"]
    assert node.declare("lxc.idmap: u 0 100000 65536")["raw"][0]["value"] == "u 0 100000 65536"


VALUES = {
    "lxc.apparmor.profile": "unconfined",
    "lxc.seccomp.profile": "/etc/lxc/web.seccomp",
    "lxc.cap.drop": "sys_time net_raw",
    "lxc.cgroup2.pids.max": "100",
    "lxc.prlimit.memlock": "unlimited:unlimited",
    "lxc.idmap": "u 0 100000 65536",
    "lxc.mount.entry": "/srv/a\\040b srv/a none bind,create=dir 0 0",
    "lxc.init.groups": "1,2,3",
    "lxc.hook.start": "/usr/local/bin/hook 'a b' #",
    "lxc.sysctl.kernel.shmmax": "1",
    "lxc.signal.halt": "SIGRTMIN+3",
    "lxc.net.0.type": "phys",
}


@pytest.mark.parametrize("key", VALUES)
def test_admitted_keys(key: str, node: Node) -> None:
    raw_keys.check_line(key, VALUES[key])
    assert node.declare({key: VALUES[key]})["changed"]
    assert {"key": key, "value": VALUES[key]} in node.declare({key: VALUES[key]})["raw"]


SIGNALS = sorted(set(signal.Signals.__members__) - {"SIGRTMIN", "SIGRTMAX"})


@pytest.mark.parametrize("name", [*SIGNALS, "sigterm", "15", "SIGRTMIN+0", "sigrtmax-30", ""])
def test_signals_that_lxc_knows(name: str) -> None:
    raw_keys.check_line("lxc.signal.halt", name)


@pytest.mark.parametrize(
    "name", ["QUIT", "SIGFOO", "SIGRTMIN", "SIGRTMAX", "SIGRTMIN+31", "SIG", "RTMIN+3", "1x", "-1"]
)
def test_signals_of_which_lxc_reads_no_file(name: str) -> None:
    refused("invalid_option", lambda: raw_keys.check_line("lxc.signal.stop", name))


# --------------------------------------------------------------------------------------------------- properties

keys = st.sampled_from(["lxc.mount.entry", "lxc.cap.drop", "lxc.init.uid", "lxc.prlimit.nofile", "lxc.idmap"])
lines = st.lists(st.tuples(keys, st.sampled_from(["", "1", "2", "3"])), max_size=8)
others = st.sampled_from(["#text", "arch: amd64", "", "lxc.environment.runtime: A=1", "mp0: /a,mp=/b"])


@given(lines, lines, st.sampled_from(raw_config.EXCLUSIVE))
def test_what_is_wanted_is_stable(
    actual: list[raw_config.Line], declared: list[raw_config.Line], exclusive: str
) -> None:
    """Declared once more, nothing is left to do; with keys and all, the declared lines are there in their order."""
    declaration = raw_config.Declared(tuple(declared), exclusive)
    wanted = raw_config.wanted_lines(actual, declaration)
    if exclusive != "none":
        declared_keys = {key for key, _value in declared}
        assert [line for line in wanted if exclusive == "all" or line[0] in declared_keys] == declared
        foreign = [] if exclusive == "all" else [line for line in actual if line[0] not in declared_keys]
        assert [line for line in wanted if line[0] not in declared_keys] == foreign
    assert raw_config.wanted_lines(wanted, declaration) == wanted
    gone = raw_config.Declared(tuple(declared), state="absent")
    assert not set(raw_config.wanted_lines(actual, gone)) & set(declared)


@given(
    st.lists(st.one_of(others, lines.map(lambda found: "\n".join(f"{k}: {v}" for k, v in found))), max_size=6), lines
)
def test_the_file_has_the_lines_and_keeps_the_rest(parts: list[str], wanted: list[raw_config.Line]) -> None:
    """Whatever the file looks like: the raw lines are those wanted, and all other lines are there in their order."""
    config = "\n".join(parts) + "\n\n[one]\nlxc.init.uid: 9\n"
    after = raw_config.with_raw(config, wanted)
    assert raw_config.raw_lines(after) == wanted

    def rest(text: str) -> list[str]:
        raw = [f"{key}: {value}".rstrip(" ") for key, value in raw_config.raw_lines(text)]
        return [line for line in text.partition("[one]")[0].split("\n") if line.strip() and line.rstrip(" ") not in raw]

    assert rest(after) == rest(config)
    assert after.partition("[one]")[2] == config.partition("[one]")[2]


# ------------------------------------------------------------------------------------------------------ module


def test_the_module_as_a_process() -> None:
    """It starts, reads its options and ends with a structured failure where there is no Proxmox."""
    result = run_module("lxc_raw_config", {"vmid": 999999999, "raw": ["lxc.init.cwd: /srv"]}, check_mode=True)
    assert result["failed"]
    assert result["failure"]["code"] == "container_missing"


def test_the_examples_are_accepted() -> None:
    for task in yaml.safe_load(lxc_raw_config.EXAMPLES):
        params = {"exclusive": "keys", "state": "present", **task["lxcri.proxmox.lxc_raw_config"]}
        assert raw_config.declare(params).lines


def test_the_documentation_has_the_options() -> None:
    documented = yaml.safe_load(lxc_raw_config.DOCUMENTATION)["options"]
    options = raw_config.raw_options()
    assert set(documented) == set(options)
    for name, option in options.items():
        assert documented[name].get("choices") == option.get("choices")
        assert documented[name].get("default") == option.get("default")
