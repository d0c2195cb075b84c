# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How commands get into a container, and what is made of their answers. What a shell has to do is done by one."""

from __future__ import annotations

import json
import os
import subprocess
import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.node import guest_exec
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.guest_exec import Outcome
from hypothesis import given, settings
from hypothesis import strategies as st

MARK = "lxcri-0123456789abcdef:"
# Words of a command: no NUL, and bytes that are no UTF-8 as os.fsdecode gives them.
WORDS = st.binary(max_size=20).map(lambda data: os.fsdecode(data.replace(b"\0", b"")))
UNUSUAL = ["a space", "it's", 'a "b"', "new\nline", "end\n", "-n", "--", "$HOME", "`id`", "\\", "%s%d", "ü", "*", "é\n"]


def sh(script: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a script as the shell of a container does."""
    words = [os.fsencode(word) for word in ("/bin/sh", "-c", script)]
    return subprocess.run(
        words, input=stdin, capture_output=True, check=False, env={"PATH": "/usr/bin:/bin", **environment}
    )


# ----------------------------------------------------------------------------------------------------- commands


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ["pct", "exec", "201", "--keep-env=0", "--", "true", "a b"]),
        ({"user": "root"}, ["pct", "exec", "201", "--keep-env=0", "--", "true", "a b"]),
        ({"tool": "lxc-attach"}, ["lxc-attach", "-n", "201", "--clear-env", "--", "true", "a b"]),
        (
            {"user": "app"},
            ["pct", "exec", "201", "--keep-env=0", "--", "su", "-s", "/bin/sh", "-c", "exec true 'a b'", "app"],
        ),
    ],
)
def test_a_command_in_a_container(options: dict[str, t.Any], words: list[str]) -> None:
    assert guest_exec.exec_command("201", ["true", "a b"], **options) == words


@pytest.mark.parametrize(
    ("container", "options"),
    [
        ("web-1", {}),
        ("0", {}),
        ("-201", {}),
        ("201 ", {}),
        ("201\n", {}),
        ("-f", {"tool": "lxc-attach"}),
        ("../x", {"tool": "lxc-attach"}),
        ("201", {"tool": "docker"}),
        ("201", {"user": "-c"}),
        ("201", {"user": "a b"}),
        ("201", {"user": "a\n"}),
        ("201", {"user": "a/b"}),
    ],
)
def test_what_is_refused(container: str, options: dict[str, t.Any]) -> None:
    with pytest.raises(Failure) as caught:
        guest_exec.exec_command(container, ["true"], **options)
    assert caught.value.code == "invalid_option"


@given(st.lists(WORDS, max_size=4))
@settings(max_examples=60)
def test_words_survive_in_ascii(words: list[str]) -> None:
    command = guest_exec.ascii_only(["printf", "%s\\0", *words])
    assert all(word.isascii() for word in command)
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout == b"".join(os.fsencode(word) + b"\0" for word in words or [""])


@given(st.lists(WORDS, min_size=1, max_size=3))
@settings(max_examples=40)
def test_a_login_shell_hands_the_words_on(words: list[str]) -> None:
    line = guest_exec.for_login_shell(["printf", "%s\\0", *words])
    assert sh(line).stdout == b"".join(os.fsencode(word) + b"\0" for word in words)


@pytest.mark.parametrize(("rc", "seen"), [(0, 0), (1, 254), (5, 254), (254, 254), (255, 254)])
def test_only_ssh_and_sshpass_end_with_their_codes(rc: int, seen: int) -> None:
    assert sh(guest_exec.for_login_shell(["sh", "-c", f"exit {rc}"])).returncode == seen


# --------------------------------------------------------------------------------------------------- exit codes


@pytest.mark.parametrize("user", [None, "root", "app"])
@pytest.mark.parametrize("rc", [0, 1, 2, 126, 127, 137, 253, 254, 255])
def test_the_exit_code_is_reported(rc: int, user: str | None) -> None:
    done = sh(guest_exec.reporting(f"cat; echo err >&2; exit {rc}", MARK, user), b"in\0\xff", HOME="/")
    assert done.returncode == rc
    assert guest_exec.outcome(done.returncode, done.stdout, done.stderr, MARK) == Outcome(rc, b"in\0\xff", b"err\n")


def test_a_command_has_a_home() -> None:
    done = sh(guest_exec.reporting('echo "$HOME $USER $PWD"', MARK))
    home = os.path.expanduser("~root")
    assert done.stdout.decode() == f"{home} root {home}\n"
    done = sh(guest_exec.reporting('echo "$HOME $PWD"', MARK, "app"), HOME="/no/such")
    assert done.stdout.decode() == "/no/such /\n"


def test_a_command_that_cannot_be_parsed_is_one_that_failed() -> None:
    done = sh(guest_exec.reporting("if", MARK))
    assert guest_exec.outcome(done.returncode, done.stdout, done.stderr, MARK).rc == 2


@pytest.mark.parametrize(
    ("rc", "stdout", "stderr", "expected"),
    [
        (0, b"a", b"b", Outcome(0, b"a", b"b")),
        # What has the mark in it and has succeeded has not reported.
        (0, MARK.encode() + b"1\n", b"", Outcome(0, MARK.encode() + b"1\n", b"")),
        (3, b"a", b"no newline" + MARK.encode() + b"3\n", Outcome(3, b"a", b"no newline")),
        (254, b"a", MARK.encode() + b"255\n", Outcome(255, b"a", b"")),
        # With a terminal.
        (3, b"a\r\n" + MARK.encode() + b"3\r\n", b"Shared connection to pve1 closed.", None),
        (3, b"a", b"b", Outcome(None, b"a", b"b")),
    ],
)
def test_what_a_command_has_said(rc: int, stdout: bytes, stderr: bytes, expected: Outcome | None) -> None:
    expected = expected or Outcome(3, b"a\r\n", stderr)
    assert guest_exec.outcome(rc, stdout, stderr, MARK) == expected


@pytest.mark.parametrize(
    ("said", "tool", "code"),
    [
        ("Configuration file 'nodes/pve1/lxc/201.conf' does not exist\n", "pct", "not_found"),
        ("container '201' not running!\n", "pct", "not_running"),
        (
            "lxc-attach: web: ../src/lxc/attach.c: get_attach_context: 405 Connection refused - Failed to get init pid",
            "lxc-attach",
            "not_running",
        ),
        ("bash: line 1: pct: command not found", "pct", "command_missing"),
        ("sh: 1: lxc-attach: not found", "lxc-attach", "command_missing"),
        (
            'lxc-attach: 201: ../src/lxc/attach.c: lxc_attach_run_command: 1842 No such file - Failed to exec "su"',
            "pct",
            "command_missing",
        ),
        ("sudo: a password is required", "pct", "not_entered"),
        ("", "pct", "not_entered"),
    ],
)
def test_why_a_container_was_not_entered(said: str, tool: str, code: str) -> None:
    failure = guest_exec.why_not_entered(said, "201", "pve1", tool)
    assert failure.code == code
    assert "201" in failure.message or "pve1" in failure.message
    assert failure.hint


# -------------------------------------------------------------------------------------------------------- files


def put(path: Path, data: bytes, size: int | None = None, part: Path | None = None) -> int:
    part = part or path.parent / ".part"
    script = guest_exec.put_script(str(path), str(part), len(data) if size is None else size)
    return sh(f"({script})", data).returncode


@pytest.mark.parametrize("name", UNUSUAL)
def test_a_file_there_and_back(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    data = bytes(range(256)) * 3
    assert put(path, data) == 0
    assert path.read_bytes() == data
    done = sh(f"({guest_exec.fetch_script(str(path), MARK)})")
    assert (done.returncode, done.stdout) == (0, data)
    assert guest_exec.fetched_size(done.stderr, MARK) == len(data)
    assert os.listdir(tmp_path) == [name]


def test_a_relative_name(tmp_path: Path) -> None:
    script = guest_exec.put_script("-x", "./.part", 3)
    assert sh(f"cd {tmp_path} && ({script})", b"abc").returncode == 0
    assert (tmp_path / "-x").read_bytes() == b"abc"


@pytest.mark.parametrize(
    ("path", "directory"), [("/a/b/c", "/a/b"), ("/a", "/"), ("a", "."), ("a/b", "a"), ("//a", "/")]
)
def test_the_directory_of_a_file(path: str, directory: str) -> None:
    assert guest_exec.directory_of(path) == directory


def test_what_is_not_sent_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    assert put(path, b"ab", size=3) == guest_exec.SHORT
    assert put(tmp_path / "none/file", b"ab", part=tmp_path / "none/.part") == guest_exec.MISSING
    assert put(tmp_path, b"ab") == guest_exec.DIRECTORY
    assert put(path, b"ab", part=tmp_path / "none/.part") == guest_exec.REFUSED
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_what_cannot_be_fetched(tmp_path: Path) -> None:
    for path, rc in ((tmp_path / "none", guest_exec.MISSING), (tmp_path, guest_exec.DIRECTORY)):
        done = sh(f"({guest_exec.fetch_script(str(path), MARK)})")
        assert (done.returncode, done.stdout) == (rc, b"")


@pytest.mark.parametrize(
    ("rc", "code"),
    [
        (guest_exec.MISSING, "not_found"),
        (guest_exec.DIRECTORY, "is_directory"),
        (guest_exec.SHORT, "transfer_incomplete"),
        (guest_exec.REFUSED, "transfer_failed"),
        (1, "transfer_failed"),
    ],
)
def test_what_a_failed_transfer_means(rc: int, code: str) -> None:
    failure = guest_exec.transfer_failure(rc, "cat: No space left on device\n", "/a", "container 201 on pve1")
    assert failure.code == code
    assert "/a" in failure.message
    assert code != "transfer_failed" or "No space left" in failure.message


# ------------------------------------------------------------------------------------------------------- lookup

GUESTS: list[dict[str, t.Any]] = [
    {"vmid": 201, "name": "web", "node": "pve1", "type": "lxc"},
    {"vmid": 202, "name": "web", "node": "pve2", "type": "lxc"},
    {"vmid": 203, "name": "db", "node": "pve2", "type": "lxc"},
    {"vmid": 100, "name": "db", "node": "pve1", "type": "qemu"},
    {"vmid": 204, "node": "pve1", "type": "lxc"},
    {"vmid": 205, "name": "203", "node": "pve1", "type": "lxc"},
]


@pytest.mark.parametrize(
    ("container", "found"), [("201", ("201", "pve1")), ("203", ("203", "pve2")), ("db", ("203", "pve2"))]
)
def test_where_a_container_is(container: str, found: tuple[str, str]) -> None:
    place = guest_exec.whereabouts(json.dumps(GUESTS), container, "pve1")
    assert (place.vmid, place.node) == found


@pytest.mark.parametrize(
    ("listing", "container", "code"),
    [
        (json.dumps(GUESTS), "999", "not_found"),
        (json.dumps(GUESTS), "web", "ambiguous_hostname"),
        (json.dumps(GUESTS), "100", "vmid_in_use"),
        ("", "201", "api_error"),
        ("[1]", "201", "api_error"),
        (json.dumps([{"vmid": 201, "node": "-oProxyCommand=x", "type": "lxc"}]), "201", "api_error"),
    ],
)
def test_where_a_container_is_not(listing: str, container: str, code: str) -> None:
    with pytest.raises(Failure) as caught:
        guest_exec.whereabouts(listing, container, "pve1")
    assert caught.value.code == code
