# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which base a replication chooses, what it sends, and how; and the stream itself, with commands that are there."""

from __future__ import annotations

import base64
import contextlib
import io
import stat
import sys
import tarfile
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.commands import Completed, run_here
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs import model
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs import replicate as module
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.host import Container, LxcHost, Volume, Zfs
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.model import (
    ASIDE,
    COLUMNS,
    COMPLETE,
    Dataset,
    Member,
    Part,
    Snapshot,
    encode,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.replicate import (
    Base,
    FilesThere,
    Replication,
    Step,
    Target,
    Wish,
    choose_base,
    diverged,
    make_wish,
    parse_estimate,
    parse_rate,
    receive_argv,
    replica_properties,
    replicate,
    steps,
    token_guid,
    transfer,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.store import Store
from hypothesis import given
from hypothesis import strategies as st

HERE, THERE = "rpool/data/subvol-101-disk-0", "backup/replica/rpool/data/subvol-101-disk-0"
OPTIONS: dict[str, t.Any] = {
    "target": "backup/replica",
    "host": None,
    "ssh_port": None,
    "ssh_key_file": None,
    "ssh_options": [],
    "bandwidth": None,
    "raw": "auto",
    "keep": None,
    "keep_timezone": None,
    "overwrite_diverged": False,
    "lose": [],
    "timeout": None,
    "state": "present",
}


def dataset(name: str, snapshots: t.Sequence[str] = (), bookmarks: t.Sequence[str] = (), **values: t.Any) -> Dataset:
    """Snapshots as ``name`` or ``name:guid``, in the order in which they were taken; of bookmarks with ``@place``."""
    fields: dict[str, t.Any] = dict.fromkeys(("used", "available", "referenced", "written", "refquota"), 0)
    fields.update(kind="filesystem", guid="1", createtxg=1, origin=None, key_missing=False, mounted=False)
    fields.update(mountpoint=None, canmount="on", resume_token=None, aside=None, source=None)

    def entry(place: int, text: str, mark: str) -> Snapshot:
        short, _colon, guid = text.partition(":")
        return Snapshot(f"{name}{mark}{short}", guid or short, 10 * (place + 1), 0)

    return Dataset(
        name=name,
        snapshots=tuple(entry(place, text, "@") for place, text in enumerate(snapshots)),
        bookmarks=tuple(entry(place, text, "#") for place, text in enumerate(bookmarks)),
        **{**fields, **values},
    )


def described(plan: t.Sequence[Step]) -> list[tuple[str | None, list[str]]]:
    return [(step.base and step.base[len(HERE) :], [s.short for s in step.sent]) for step in plan]


@pytest.mark.parametrize(
    ("source", "replica", "here", "lost"),
    [
        # Nothing there.
        ((["a", "b"], []), None, None, ()),
        # The newest there is the base, by guid and not by name.
        ((["a", "b", "c"], []), ["a", "b"], "@b", ()),
        ((["x:a", "y:b"], []), ["a", "b"], "@y", ()),
        ((["a:1", "b:2"], []), ["a:7", "b:8"], None, ("@a", "@b", "")),
        # A snapshot rather than a bookmark, a bookmark rather than nothing.
        ((["a", "b"], ["k:a", "l:b"]), ["a", "b"], "@b", ()),
        ((["c"], ["k:a", "l:b"]), ["a", "b"], "#l", ()),
        # Something newer there.
        ((["a", "b"], []), ["a", "x"], "@a", ("@x",)),
        ((["a"], []), ["a", "x", "y"], "@a", ("@x", "@y")),
        # It is there, and no replica.
        ((["a"], []), [], None, ("",)),
    ],
)
def test_base(
    source: tuple[list[str], list[str]], replica: list[str] | None, here: str | None, lost: tuple[str, ...]
) -> None:
    base = choose_base(dataset(HERE, *source), None if replica is None else dataset(THERE, replica))
    assert (base.here.name[len(HERE) :] if base.here else None) == here
    assert base.lost == tuple(f"{THERE}{name}" for name in lost)


def test_what_was_written_there_is_in_the_way() -> None:
    assert choose_base(dataset(HERE, ["a"]), dataset(THERE, ["a"], written=4096)).lost == (THERE,)


def test_a_clone_begins_from_its_origin() -> None:
    origin = Snapshot("rpool/data/lxcri-aside/x@a", "a", 900, 0)
    source = dataset(HERE, ["b", "c"])
    base = choose_base(source, dataset(THERE, ["a"]), origin)
    assert base.here == origin
    plan = steps(source, base.here, {f"{HERE}@b", f"{HERE}@c"})
    assert [(step.base, [s.short for s in step.sent]) for step in plan] == [(origin.name, ["b", "c"])]


@pytest.mark.parametrize(
    ("base", "wanted", "plan"),
    [
        (None, "", []),
        (None, "a", [(None, ["a"])]),
        # A full stream has one snapshot; those that follow each other come together.
        (None, "abcd", [(None, ["a"]), ("@a", ["b", "c", "d"])]),
        (None, "bd", [(None, ["b"]), ("@b", ["d"])]),
        ("@a", "abcd", [("@a", ["b", "c", "d"])]),
        ("@d", "abcd", []),
        # What is not wanted does not travel.
        ("@a", "acd", [("@a", ["c"]), ("@c", ["d"])]),
        ("@a", "abd", [("@a", ["b"]), ("@b", ["d"])]),
        # A bookmark can begin one stream with one snapshot.
        ("#a", "abcd", [("#a", ["b"]), ("@b", ["c", "d"])]),
    ],
)
def test_steps(base: str | None, wanted: str, plan: list[tuple[str | None, list[str]]]) -> None:
    source = dataset(HERE, ["a", "b", "c", "d"], ["a"])
    begin = next((s for s in (*source.snapshots, *source.bookmarks) if s.name == f"{HERE}{base}"), None)
    made = steps(source, begin, {f"{HERE}@{name}" for name in wanted})
    assert described(made) == plan


@given(st.data())
def test_streams_bring_exactly_what_is_wanted(data: st.DataObject) -> None:
    """Each stream begins from what is there by then, and -I passes over nothing that is not wanted."""
    names = [str(number) for number in range(data.draw(st.integers(1, 12)))]
    wanted = {name for name in names if data.draw(st.booleans())}
    source = dataset(HERE, names, names)
    candidates: list[Snapshot | None] = [None, *source.snapshots, *source.bookmarks]
    base = data.draw(st.sampled_from(candidates))
    plan = steps(source, base, {f"{HERE}@{name}" for name in wanted})
    newer = [n for place, n in enumerate(names) if n in wanted and (base is None or 10 * (place + 1) > base.createtxg)]
    assert [s.short for step in plan for s in step.sent] == newer
    at = base.name if base else None
    for step in plan:
        assert step.base == at
        if len(step.sent) > 1:
            assert "@" in (at or "")
            first = names.index(str(at).split("@")[1])
            assert [s.short for s in step.sent] == names[first + 1 : first + 1 + len(step.sent)]
        at = step.sent[-1].name


def test_commands() -> None:
    source = dataset(HERE, ["a", "b", "c"])
    plan = steps(source, None, {f"{HERE}@{name}" for name in "abc"})
    assert plan[0].argv("-p") == ["zfs", "send", "-L", "-c", "-p", f"{HERE}@a"]
    assert plan[1].argv("-p", "-w") == ["zfs", "send", "-L", "-c", "-p", "-w", "-I", f"{HERE}@a", f"{HERE}@c"]
    assert replace(plan[1], sent=plan[1].sent[:1]).argv()[-3:] == ["-i", f"{HERE}@a", f"{HERE}@b"]
    words = receive_argv(source, THERE)
    assert words[:4] == ["zfs", "recv", "-s", "-u"]
    assert {"readonly=on", "canmount=noauto", "mountpoint=none", f"lxcri:source={HERE}"} <= set(words)
    assert "-F" not in words
    assert "-F" in receive_argv(source, THERE, force=True)
    words = receive_argv(source, THERE, {"acltype": "posix", "readonly": "off"})
    assert "acltype=posix" in words
    assert "readonly=on" in words
    assert "readonly=off" not in words
    assert "mountpoint=none" not in receive_argv(replace(source, kind="volume"), THERE)


def test_estimate_and_token() -> None:
    assert parse_estimate("full\trpool/a@x\t1000\nincremental\tx\ty\t24\nsize\t1024\n") == 1024
    assert parse_estimate("") == 0
    text = "resume token contents:\nnvlist version: 0\n\tobject = 0x2\n\ttoguid = 0xff\n\ttoname = a@b\nsize\t12\n"
    assert token_guid(text) == "255"
    assert token_guid("cannot resume send") is None


@pytest.mark.parametrize(
    ("text", "rate"), [("1", 1), ("20M", 20 << 20), ("1.5k", 1536), ("2 GiB", 2 << 30), ("1TB", 1 << 40)]
)
def test_rate(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "options",
    [
        {"bandwidth": "fast"},
        {"bandwidth": "0"},
        {"target": "-x"},
        {"target": "a//b"},
        {"target": "a@b"},
        {"host": "-oProxyCommand=x"},
        {"host": "a b"},
        {"lose": ["x"]},
    ],
)
def test_options_that_are_refused(options: dict[str, t.Any]) -> None:
    with pytest.raises(Failure) as error:
        make_wish({**OPTIONS, **options})
    assert error.value.code == "invalid_option"


def test_ssh() -> None:
    options = {"host": "root@pve2", "ssh_port": 22, "ssh_key_file": "/k", "ssh_options": ["StrictHostKeyChecking=no"]}
    target = make_wish({**OPTIONS, **options}).target
    assert target.ssh[:5] == ("ssh", "-p", "22", "-i", "/k")
    assert target.ssh[-1] == "root@pve2"
    assert "BatchMode=yes" in target.ssh
    assert target.command(["zfs", "recv", "a b;c"])[-1].endswith("exec zfs recv 'a b;c'")
    local = make_wish(OPTIONS).target
    assert local.command(["zfs"]) == ["zfs"]
    # Another way to get there is another target.
    assert len({target.tag, local.tag, Target("backup/other").tag}) == 3
    assert local.cursor("7") == f"lxcri-replica-{local.label}-7"
    gateway = {**OPTIONS, "host": "root@gw"}
    ways: list[dict[str, t.Any]] = [{}, {"ssh_port": 2201}, {"ssh_port": 2202}, {"ssh_options": ["ProxyJump=a"]}]
    assert len({make_wish({**gateway, **way}).target.label for way in ways}) == 4
    # How it is reached is nothing of the target.
    same: list[dict[str, t.Any]] = [{}, {"ssh_port": 22}, {"ssh_key_file": "/k"}, {"ssh_options": ["Compression=yes"]}]
    assert len({make_wish({**gateway, **way}).target.label for way in same}) == 1


def test_without_ssh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "environment", lambda: {"PATH": str(tmp_path)})
    monkeypatch.setenv("PATH", str(tmp_path))
    target = make_wish({**OPTIONS, "host": "root@pve2"}).target
    with module._connected(target, str(tmp_path / "x.ssh")) as there:
        assert there == target


def test_what_has_diverged_is_told() -> None:
    source, replica = dataset(HERE, ["a", "b"]), dataset(THERE, ["a", "x"])
    failure = diverged(source, replica, choose_base(source, replica))
    assert (failure.code, failure.details["common"], failure.details["lose"]) == (
        "target_diverged",
        "a",
        [f"{THERE}@x"],
    )
    assert "The newest that both have is a" in failure.message
    assert "no snapshot in common" in diverged(source, replica, Base(lost=(THERE,))).message
    assert "no replica of anything" in diverged(source, dataset(THERE), Base(lost=(THERE,))).message


# ------------------------------------------------------------------------------------------------------ the stream


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def wish(**values: t.Any) -> Wish:
    return Wish(Target("backup/replica"), **values)


def test_a_stream_is_carried_and_counted(tmp_path: Path) -> None:
    sink = tmp_path / "sink"
    send = python("import sys; sys.stdout.buffer.write(b'x' * 3_000_001)")
    receive = python(f"import sys; open({str(sink)!r}, 'wb').write(sys.stdin.buffer.read())")
    assert transfer(send, Target("t"), receive, wish()) == 3_000_001
    assert sink.stat().st_size == 3_000_001


def test_the_bandwidth_is_that_of_pv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pv = tmp_path / "pv"
    pv.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/words\nexec cat\n')
    pv.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    receive = python("import sys; sys.stdin.buffer.read()")
    assert transfer(["echo", "hello"], Target("t"), receive, wish(bandwidth=2048)) == 6
    assert (tmp_path / "words").read_text() == "-q -L 2048\n"


@pytest.mark.parametrize(
    ("send", "receive", "code", "text"),
    [
        ("import sys; sys.exit('cannot open a@b: dataset does not exist')", "", "volume_missing", "does not exist"),
        ("print('x' * 9999999)", "import sys; sys.exit('cannot receive: out of space')", "pool_full", "out of space"),
        (
            "print('x')",
            "import sys; sys.exit('cannot receive: destination t has been modified\\nsince most recent snapshot')",
            "target_diverged",
            "modified since",
        ),
        (
            "import sys; sys.exit(3)",
            "import sys; sys.stdin.read(); sys.exit('incomplete. A resuming stream can be generated by 1-abc')",
            "zfs_failed",
            "broke off",
        ),
    ],
)
def test_a_stream_that_breaks_off(send: str, receive: str, code: str, text: str) -> None:
    with pytest.raises(Failure) as error:
        transfer(python(send), Target("t"), [*python(receive), "t/replica"], wish())
    assert error.value.code == code
    assert text in error.value.message
    assert "1-abc" not in error.value.message


def test_ssh_that_does_not_get_there() -> None:
    target = Target("t", ("sh", "-c", "echo no route >&2; exit 255", "pve2"))
    with pytest.raises(Failure) as error:
        transfer(python("print('x')"), target, ["zfs", "recv", "t"], wish())
    assert (error.value.code, error.value.details["host"]) == ("unreachable", "pve2")
    assert "no route" in error.value.message


def test_a_stream_that_takes_too_long() -> None:
    with pytest.raises(Failure) as error:
        transfer(python("import time; time.sleep(60)"), Target("t"), python("input()"), wish(timeout=0.3))
    assert error.value.code == "stream_timeout"


# ------------------------------------------------------------------------------------------------- verification

WEB, REPLICA = "tank/containers/web", "backup/replica/tank/containers/web"


class Pools:
    """A container with the checkpoints one and two, and its replica, which has and holds the first."""

    def __init__(self) -> None:
        self.guids = {f"{WEB}@one": "1", f"{WEB}@two": "2", f"{REPLICA}@one": "1"}
        self.held = {f"{WEB}@one", f"{REPLICA}@one"}
        # Set on a dataset or snapshot there, instead of what a whole run has set.
        self.properties: dict[str, dict[str, str]] = {}

    def row(self, name: str) -> str:
        short = name.partition("@")[2]
        values = {"name": name, "type": "snapshot" if short else "filesystem", "guid": self.guids.get(name, "0")}
        if short:
            values.update(createtxg="2" if short == "two" else "1", userrefs=str(int(name in self.held)))
        values.update(self.properties.get(name, self.usual(name)))
        return "\t".join(values.get(column, "-") for column in model.COLUMNS)

    @staticmethod
    def usual(name: str) -> dict[str, str]:
        """What a whole run has set."""
        short = name.partition("@")[2]
        if short:
            return {**model.encode(f"id-{short}", {"web": Part((Member(WEB),))}), COMPLETE: f"id-{short}"}
        return replica_properties(dataset(WEB)) if name == REPLICA else {}

    def __call__(self, argv: t.Sequence[str], stdin: str | None = None, timeout: float | None = None) -> Completed:
        out = ""
        if list(argv[:2]) == ["zfs", "list"]:
            everything = argv[argv.index("-o") + 1] != "name"
            names = [name for name in (WEB, REPLICA, *(self.guids if everything else ())) if name.split("@")[0] in argv]
            out = "\n".join(self.row(name) if everything else name for name in names)
        elif list(argv[:2]) == ["zfs", "holds"]:
            out = "".join(f"{name}\t{Target('backup/replica').tag}\tnow\n" for name in argv[3:] if name in self.held)
        elif list(argv[:2]) == ["zfs", "hold"]:
            self.held.update(argv[3:])
        elif list(argv[:2]) == ["zfs", "release"]:
            self.held.difference_update(argv[3:])
        elif list(argv[:2]) == ["zfs", "destroy"]:
            del self.guids[argv[-1]]
        elif list(argv[:2]) == ["zfs", "set"]:
            self.properties.setdefault(argv[-1], {}).update(word.split("=", 1) for word in argv[2:-1])
        return Completed(tuple(argv), 0, out, "")


@pytest.mark.parametrize("guid", ["2", "7", None])
def test_what_arrives_is_compared_by_guid(guid: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it is not what was sent, the base of before stays held on both sides."""
    pools = Pools()

    def received(*_arguments: t.Any) -> int:
        if guid:
            pools.guids[f"{REPLICA}@two"] = guid
        return 100

    monkeypatch.setattr(module, "transfer", received)
    monkeypatch.setattr(Target, "run", lambda _self: pools)
    host = LxcHost(Zfs(pools), pools, [WEB])
    replication = Replication(host, Store(str(tmp_path)), ["web"], wish(), check_mode=False)
    entry, failure = replication.container(replication.containers[0])
    assert entry["volumes"][0]["base"] == "one"
    if guid == "2":
        assert failure is None
        assert entry["volumes"][0]["sent"] == ["two"]
        assert pools.held == {f"{WEB}@two", f"{REPLICA}@two"}
    else:
        assert failure is not None
        assert (failure.code, failure.details["dataset"]) == ("verification_failed", REPLICA)
        assert entry["volumes"][0]["sent"] == []
        assert {f"{WEB}@one", f"{REPLICA}@one"} <= pools.held


@pytest.mark.parametrize("lacking", [(f"{REPLICA}@two",), (f"{REPLICA}@one", f"{REPLICA}@two"), (REPLICA,)])
def test_what_a_killed_run_has_not_marked(
    lacking: t.Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It arrived without its properties, and the run was killed before it had set them: the next one does so."""
    pools = Pools()
    pools.guids[f"{REPLICA}@two"] = "2"
    pools.held = {f"{WEB}@two", f"{REPLICA}@two"}
    pools.properties = {name: {} for name in lacking}
    monkeypatch.setattr(Target, "run", lambda _self: pools)
    host = LxcHost(Zfs(pools), pools, [WEB])

    def run(check_mode: bool) -> dict[str, t.Any]:
        options = {"keep": {"last": 1}}
        replication = Replication(host, Store(str(tmp_path)), ["web"], wish(**options), check_mode)
        entry, failure = replication.container(replication.containers[0])
        assert failure is None
        return entry

    predicted = run(check_mode=True)
    assert [pools.properties[name] for name in lacking] == [{}] * len(lacking)
    done = run(check_mode=False)
    keys = [change["key"] for change in done["plan"]]
    assert [key for key in keys if key.endswith(" properties")] == [f"{name} properties" for name in lacking]
    assert done["removed"] == ["one"]
    assert [pools.properties[name] for name in lacking] == [pools.usual(name) for name in lacking]
    assert predicted == {**done, "volumes": predicted["volumes"]}


def test_what_a_killed_removal_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint on the target without its mark goes, whatever the rules keep; not when it is held."""
    pools = Pools()
    pools.guids |= {f"{REPLICA}@{name}": name for name in ("left", "held")}
    pools.guids[f"{REPLICA}@two"] = "2"
    pools.held = {f"{WEB}@two", f"{REPLICA}@two"}
    for name in ("left", "held"):
        usual = pools.usual(f"{REPLICA}@{name}")
        pools.properties[f"{REPLICA}@{name}"] = {key: value for key, value in usual.items() if key != COMPLETE}
    # By somebody else.
    pools.properties[f"{REPLICA}@held"]["userrefs"] = "1"
    monkeypatch.setattr(Target, "run", lambda _self: pools)
    host = LxcHost(Zfs(pools), pools, [WEB])
    for check_mode in (True, False):
        assert f"{REPLICA}@left" in pools.guids
        replication = Replication(host, Store(str(tmp_path)), ["web"], wish(keep={"last": 9}), check_mode)
        entry, failure = replication.container(replication.containers[0])
        assert failure is None
        assert entry["removed"] == ["left"]
    assert {f"{REPLICA}@{name}" for name in ("one", "held", "two")} == {n for n in pools.guids if n.startswith(REPLICA)}


def test_one_that_is_not_there_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pools = Pools()

    def received(*_arguments: t.Any) -> int:
        pools.guids[f"{REPLICA}@two"] = "2"
        return 100

    monkeypatch.setattr(module, "transfer", received)
    monkeypatch.setattr(Target, "run", lambda _self: pools)
    monkeypatch.setattr(module, "_alone", lambda _target: contextlib.nullcontext("lock"))
    host = LxcHost(Zfs(pools), pools)
    result = replicate(host, Store(str(tmp_path)), ["nobody", "web"], wish())
    assert (result["failure"]["code"], result["failure"]["details"]) == (
        "containers_failed",
        {"containers": ["Container nobody"]},
    )
    nobody, web = result["containers"]
    assert (nobody["container"], nobody["changed"], nobody["failure"]["code"]) == ("nobody", False, "container_missing")
    assert web["volumes"][0]["sent"] == ["two"]
    alone = replicate(host, Store(str(tmp_path)), ["nobody"], wish())
    assert alone["failure"]["code"] == "container_missing"


# --------------------------------------------------------------------------------------------------------- files


def test_files_on_this_machine(tmp_path: Path) -> None:
    target = Target("backup/replica")
    files = FilesThere(target, str(tmp_path))
    files.save_all({("101", "a"): {"config": "arch: amd64\n"}, ("101", "b"): {"config": "x\n"}})
    root = tmp_path / "replicas/backup%replica/checkpoints/101"
    assert (root / "a/config").read_text() == "arch: amd64\n"
    files.remove("101", "a")
    files.flush()
    assert [path.name for path in root.iterdir()] == ["b"]


def test_files_on_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[t.Sequence[str], str | None]] = []

    def run(argv: t.Sequence[str], stdin: str | None = None, timeout: float | None = None) -> Completed:
        asked.append((argv, stdin))
        return Completed(tuple(argv), 0, "", "")

    monkeypatch.setattr(Target, "run", lambda _self: run)
    files = FilesThere(Target("backup/replica", ("ssh", "pve2")), str(tmp_path))
    files.save_all({("101", "a"): {"config": "odd \udcff\n", "record": "{}"}})
    there = "/var/lib/lxcri/replicas/backup%replica"
    # Nothing stays of one of that name that was there before.
    assert asked[0][0][-2:] == [there, "checkpoints/101/a"]
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(asked[0][1] or ""))) as archive:
        modes = {member.name: stat.S_IMODE(member.mode) for member in archive.getmembers()}
        content = archive.extractfile("checkpoints/101/a/config")
        assert content is not None
        assert content.read() == b"odd \xff\n"
    assert modes == {
        "checkpoints": 0o700,
        "checkpoints/101": 0o700,
        "checkpoints/101/a": 0o700,
        "checkpoints/101/a/config": 0o600,
        "checkpoints/101/a/record": 0o600,
    }
    assert not list(tmp_path.iterdir())
    files.remove("101", "a")
    files.remove("101", "b")
    assert len(asked) == 1
    files.flush()
    files.flush()
    assert len(asked) == 2
    assert asked[1][0] == ["rm", "-rf", "--", f"{there}/checkpoints/101/a", f"{there}/checkpoints/101/b"]


def test_files_arrive_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And those of a checkpoint of the same name, of the other machine's own, stay."""
    monkeypatch.setattr(Target, "run", lambda _self: run_here)
    monkeypatch.setattr(module, "STATE", str(tmp_path))
    own = Store(str(tmp_path))
    own.save("101", "a", {"config": "its own", "record": "{}"})
    files = FilesThere(Target("backup/replica", ("ssh", "pve2")), "/nowhere")
    for texts in ({"config": "old", "firewall": "old"}, {"config": "new"}):
        files.save_all({("101", "a"): texts})
        assert Store(files.state).load("101", "a") == texts
    assert own.load("101", "a") == {"config": "its own", "record": "{}"}
    files.remove("101", "a")
    files.flush()
    assert Store(files.state).names("101") == []
    assert own.names("101") == ["a"]


@pytest.mark.parametrize(
    ("raw", "encryption", "options", "carried"),
    [
        ("auto", "off", ["-p"], False),
        ("auto", "aes-256-gcm", ["-p", "-w"], False),
        ("always", "off", ["-p", "-w"], False),
        # ZFS sends an encrypted dataset with its properties only raw, and receives others with them unencrypted.
        ("never", "aes-256-gcm", [], True),
        ("never", "off", [], True),
    ],
)
def test_how_a_dataset_is_sent(raw: str, encryption: str, options: list[str], carried: bool) -> None:
    class Sender(Replication):
        def __init__(self) -> None:
            self.wish = make_wish({**OPTIONS, "raw": raw})
            self.host = LxcHost(Zfs(self.answer), self.answer)

        @staticmethod
        def answer(argv: t.Sequence[str], stdin: str | None = None, timeout: float | None = None) -> Completed:
            lines = "acltype\tposix\nrefquota\t5\nlxcri:source\tx\nmountpoint\t/x\n"
            return Completed(tuple(argv), 0, encryption if "encryption" in argv else lines, "")

    sent, properties = Sender()._manner(dataset(HERE, ["a"], refquota=5))
    assert sent == options
    assert properties == ({"acltype": "posix", "refquota": "5", "mountpoint": "/x"} if carried else {})


@pytest.mark.parametrize("check_mode", [True, False])
def test_what_cannot_be_sent_without_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check_mode: bool) -> None:
    """Said in check mode too, where ZFS would not find out."""
    pools = Pools()
    pools.properties[WEB] = {"keystatus": "unavailable"}
    monkeypatch.setattr(Target, "run", lambda _self: pools)
    monkeypatch.setattr(module, "transfer", lambda *_arguments: pytest.fail("it was sent"))
    host = LxcHost(Zfs(pools), pools, [WEB])
    replication = Replication(host, Store(str(tmp_path)), ["web"], wish(raw=False), check_mode)
    entry, failure = replication.container(replication.containers[0])
    assert failure is not None
    assert (failure.code, failure.details["dataset"], entry["changed"]) == ("key_unavailable", WEB, False)
    assert pools.held == {f"{WEB}@one", f"{REPLICA}@one"}


def test_what_was_set_aside_is_released(tmp_path: Path) -> None:
    """A restore by clones sets the volume aside, with the base that is held."""
    aside = "rpool/data/lxcri-aside/subvol-101-disk-0.x"
    target = Target("backup/replica")

    def line(**values: str) -> str:
        return "\t".join(values.get(column, "-") for column in COLUMNS)

    def checkpoint(where: str, name: str, place: int, holds: int) -> str:
        properties = {**encode(name, {"web": Part((Member(HERE),))}), COMPLETE: name}
        numbers = {"createtxg": str(place), "creation": str(place), "userrefs": str(holds)}
        return line(name=f"{where}@{name}", type="snapshot", guid=name, **numbers, **properties)

    rows = [
        line(name=HERE, type="filesystem", written="0"),
        checkpoint(HERE, "one", 1, 0),
        line(name=aside, type="filesystem", written="0", **{ASIDE: HERE}),
        checkpoint(aside, "two", 2, 1),
    ]
    asked: list[t.Sequence[str]] = []

    def run(argv: t.Sequence[str], stdin: str | None = None, timeout: float | None = None) -> Completed:
        asked.append(argv)
        words = {"list": "\n".join(rows), "holds": f"{aside}@two\t{target.tag}\tnow\n"}
        return Completed(tuple(argv), 0, words.get(argv[1], ""), "")

    class Machine(LxcHost):
        def container(self, container_id: str) -> Container:
            return Container(container_id, (Volume("dataset", HERE, HERE),), running=False)

    wish = Wish(target, absent=True)
    replication = Replication(Machine(Zfs(run), run), Store(str(tmp_path)), ["web"], wish, check_mode=False)
    entry, failure = replication.container(replication.containers[0])
    assert failure is None
    assert entry["changed"]
    assert ["zfs", "release", target.tag, f"{aside}@two"] in asked


def test_files_that_cannot_be_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Target, "run", lambda _self: lambda argv, *_rest, **_more: Completed((), 1, "", "disk full"))
    files = FilesThere(Target("backup/replica", ("ssh", "pve2")), str(tmp_path))
    with pytest.raises(Failure) as error:
        files.save_all({("101", "a"): {"config": "x\n"}})
    assert (error.value.code, error.value.details["host"]) == ("files_not_copied", "pve2")
    assert "disk full" in error.value.message
