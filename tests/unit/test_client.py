# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The session with the API: what is repeated and what never, logins, certificates, and the other backends."""

from __future__ import annotations

import gc
import json
import os
import stat
import sys
import types
import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client, Credentials
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.tests.unit.support import ROOT, TOKEN, Login, Wire, ok, refused

Install = t.Callable[..., Wire]

LOST = requests.exceptions.ConnectionError("Connection aborted", ConnectionResetError(104, "reset by peer"))
SLOW = requests.exceptions.ReadTimeout("read timed out")
LOCKED = refused("can't lock file '/run/lock/lxc/pve-config-101.lock' - got timeout")


def client_of(credentials: Credentials = TOKEN) -> tuple[Client, list[float]]:
    """A client, and the pauses that it makes."""
    pauses: list[float] = []
    return Client(credentials, sleep=pauses.append), pauses


def failing(call: t.Callable[[], t.Any]) -> Failure:
    with pytest.raises(Failure) as raised:
        call()
    return raised.value


# ----------------------------------------------------------------------------------------------- what is sent


def test_requests(wire: Install) -> None:
    end = wire(ok("answer"))
    client, _pauses = client_of()
    assert client.get("cluster/resources", type="vm", limit=None) == "answer"
    client.put("nodes/pve1/lxc/101/config", {"onboot": True, "debug": False, "delete": ["tags", "mp0"], "x": None})
    client.post("nodes/pve1/lxc", {"ssh-public-keys": "ssh-ed25519 A+B=/c ü", "memory": 512})
    client.delete("nodes/pve1/lxc/101", {"force": True, "purge": 1})
    get, put, post, delete = end.sent
    assert (get["method"], get["path"], get["query"], get["form"]) == ("GET", "cluster/resources", {"type": "vm"}, {})
    assert put["form"] == {"onboot": "1", "debug": "0", "delete": "tags,mp0"}
    assert post["form"] == {"ssh-public-keys": "ssh-ed25519 A+B=/c ü", "memory": "512"}
    assert (delete["query"], delete["form"]) == ({"force": "1", "purge": "1"}, {}), "a body is answered with 501"


def test_a_token_is_sent_with_each_request_and_needs_no_login(wire: Install) -> None:
    end = wire(ok())
    client, _pauses = client_of()
    client.get("version")
    assert end.logins == 0
    assert end.sent[0]["headers"]["Authorization"] == "PVEAPIToken=ci@pve!t1=11111111-2222-3333"


def test_a_password_logs_in_once(wire: Install) -> None:
    end = wire(ok())
    client, _pauses = client_of(ROOT)
    client.get("version")
    client.put("x", {"a": 1})
    assert end.logins == 1
    login, get, put = end.sent
    assert login["form"] == {"username": "root@pam", "password": "secret"}
    assert "CSRFPreventionToken" not in get["headers"]
    assert put["headers"]["CSRFPreventionToken"] == "BBBB"


def test_threads_share_one_login(wire: Install) -> None:
    end = wire(ok())
    client, _pauses = client_of(ROOT)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: client.get(f"nodes/pve1/lxc/{number}/config"), range(64)))
    assert end.logins == 1
    assert len(end.calls) == 64


# --------------------------------------------------------------------------------------- what is repeated


@pytest.mark.parametrize(
    ("answer", "tries"),
    [
        (LOST, 5),
        (SLOW, 5),
        (requests.exceptions.ConnectTimeout("timed out"), 5),
        (requests.exceptions.ChunkedEncodingError("broken"), 5),
        ((595, "Connection refused", ""), 5),
        ((596, "Connection timed out", ""), 5),
        ((599, "Too many redirections", ""), 5),
        ((502, "Bad Gateway", "<html>"), 5),
        ((503, "Service Unavailable", ""), 5),
        (refused("something nobody has seen"), 3),
        (LOCKED, 4),
        (refused("cfs-lock 'file-user_cfg' error: no quorum!"), 1),
        (refused("Configuration file 'nodes/pve1/lxc/101.conf' does not exist"), 1),
        (refused("Permission check failed (/vms/101, VM.Audit)", 403), 1),
        (refused("hostname lookup 'nope' failed - failed to get address info"), 1),
        (refused("CT is locked (backup)"), 1),
        ((501, "Method 'GET /x' not implemented", ""), 1),
        ((401, "Authentication failed!", ""), 1),
    ],
    ids=str,
)
def test_how_often_a_read_is_tried(answer: t.Any, tries: int, wire: Install) -> None:
    end = wire(answer)
    client, pauses = client_of()
    failure = failing(lambda: client.get("nodes/pve1/lxc/101/config"))
    assert len(end.calls) == tries
    assert len(pauses) == tries - 1
    assert failure.details["request"] == "GET nodes/pve1/lxc/101/config"


@pytest.mark.parametrize("call", ["post", "put", "delete"])
@pytest.mark.parametrize(
    "answer",
    [
        LOST,
        SLOW,
        (595, "Connection refused", ""),
        (503, "Service Unavailable", ""),
        refused("something nobody has seen"),
        refused("CT is locked (disk)"),
        refused("CT 101 already exists on node 'pve1'"),
    ],
    ids=str,
)
def test_a_write_is_never_repeated_when_it_may_have_been_done(answer: t.Any, call: str, wire: Install) -> None:
    end = wire(answer)
    client, pauses = client_of()
    failing(lambda: getattr(client, call)("nodes/pve1/lxc/101/status/start"))
    assert len(end.calls) == 1
    assert pauses == []


@pytest.mark.parametrize("call", ["post", "put", "delete"])
def test_a_write_that_could_not_have_the_lock_is_repeated(call: str, wire: Install) -> None:
    end = wire(LOCKED, LOCKED, ok("UPID"))
    client, pauses = client_of()
    assert getattr(client, call)("nodes/pve1/lxc/101/config", {"memory": 512}) == "UPID"
    assert len(end.calls) == 3
    assert len(pauses) == 2
    values = [sent["form"] or sent["query"] for sent in end.sent]
    assert values == [{"memory": "512"}] * 3


def test_pauses_grow_and_are_bounded(wire: Install) -> None:
    wire(LOST)
    client, pauses = client_of()
    failing(lambda: client.get("version"))
    for number, pause in enumerate(pauses):
        assert 0.5 <= pause / (0.2 * 2**number) <= 1.5
    assert sum(pauses) < 10


def test_a_read_that_succeeds_at_last(wire: Install) -> None:
    wire(LOST, SLOW, (595, "x", ""), ok([1]))
    client, _pauses = client_of()
    assert client.get("version") == [1]


def test_what_cannot_be_reached_is_said_without_the_insides_of_libraries(wire: Install) -> None:
    wire(LOST)
    client, _pauses = client_of()
    failure = failing(lambda: client.post("x"))
    assert failure.code == "unreachable"
    assert "pve.example:8006" in failure.message
    assert "object at 0x" not in failure.message
    wire(SLOW)
    failure = failing(lambda: client.post("x"))
    assert failure.code == "timeout"
    assert "30 s" in failure.message


# ------------------------------------------------------------------------------------------------ logins

EXPIRED = (401, "permission denied - invalid PVE ticket", "")


@pytest.mark.parametrize("call", ["get", "post", "put", "delete"])
def test_an_expired_ticket_is_renewed_once(call: str, wire: Install) -> None:
    """Refused before anything was executed: safe for writes as well."""
    end = wire(EXPIRED, ok("done"))
    client, _pauses = client_of(ROOT)
    assert getattr(client, call)("nodes/pve1/lxc/101/config") == "done"
    assert end.logins == 2
    assert len(end.calls) == 2


def test_a_ticket_that_is_refused_again_is_a_failure(wire: Install) -> None:
    end = wire(EXPIRED)
    client, _pauses = client_of(ROOT)
    assert failing(lambda: client.get("version")).code == "authentication_failed"
    assert end.logins == 2
    assert len(end.calls) == 2


def test_a_refused_token_is_not_tried_again(wire: Install) -> None:
    end = wire((401, "Authentication failed!", ""))
    client, _pauses = client_of()
    failure = failing(lambda: client.get("version"))
    assert failure.code == "authentication_failed"
    assert "Authentication failed!" in failure.message
    assert len(end.calls) == 1


def test_many_threads_renew_one_expired_ticket_once(wire: Install) -> None:
    end = wire(ok())
    client, _pauses = client_of(ROOT)
    client.get("version")
    accepted = end.send

    def send(request: requests.PreparedRequest, **options: t.Any) -> requests.Response:
        response = accepted(request, **options)
        if end.logins < 2 and not str(request.url).endswith("/access/ticket"):
            response.status_code, response.reason = 401, "permission denied - invalid PVE ticket"
        return response

    end.send = send
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: client.get(f"nodes/pve1/lxc/{number}/config"), range(8)))
    assert end.logins == 2


@pytest.mark.parametrize(
    ("answer", "code", "logins"),
    [
        (refused("authentication failure", 401), "authentication_failed", 1),
        (
            (400, "Parameter verification failed.", {"errors": {"password": "x"}, "data": None}),
            "authentication_failed",
            1,
        ),
        ((595, "Connection refused", ""), "node_offline", 5),
        ((503, "Service Unavailable", ""), "node_offline", 5),
        (LOST, "unreachable", 5),
        (requests.exceptions.SSLError("certificate verify failed"), "certificate_invalid", 1),
        (requests.exceptions.InvalidURL("no host"), "unreachable", 1),
        ((200, "OK", "<html>"), "unreachable", 1),
    ],
    ids=str,
)
def test_logins_that_fail(answer: t.Any, code: str, logins: int, wire: Install) -> None:
    end = wire(*[Login(answer)] * 9)
    client, _pauses = client_of(ROOT)
    failure = failing(lambda: client.get("version"))
    assert failure.code == code
    assert end.logins == logins
    assert "secret" not in failure.sentence


def test_a_ticket_that_cannot_be_refreshed_is_made_anew(wire: Install) -> None:
    """Proxmoxer refreshes a ticket after an hour, with the ticket itself as the password."""
    end = wire(ok("first"), Login(refused("authentication failure", 401)), ok("second"))
    client, _pauses = client_of(ROOT)
    assert client.get("version") == "first"
    client._connection.session.auth.birth_time -= 4000
    assert client.get("version") == "second"
    assert end.logins == 3


# --------------------------------------------------------------------------------------------- certificates


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize("credentials", [ROOT, TOKEN], ids=["password", "token"])
def test_the_environment_does_not_turn_verification_on_again(
    name: str, credentials: Credentials, wire: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, str(tmp_path))
    end = wire(ok())
    client, _pauses = client_of(replace(credentials, verify=False))
    client.get("version")
    client.post("x")
    assert [call["verify"] for call in end.sent] == [False] * len(end.sent)


@pytest.mark.parametrize("credentials", [ROOT, TOKEN], ids=["password", "token"])
def test_a_ca_file_is_used_in_spite_of_the_environment(
    credentials: Credentials, wire: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
    end = wire(ok())
    authority = str(tmp_path / "ca.pem")
    client, _pauses = client_of(replace(credentials, verify=authority, timeout=7))
    client.get("version")
    assert {call["verify"] for call in end.sent} == {authority}
    assert {call["timeout"] for call in end.sent} == {7}


@pytest.mark.parametrize("credentials", [ROOT, TOKEN], ids=["password", "token"])
def test_a_ca_file_that_is_missing(credentials: Credentials) -> None:
    missing = replace(credentials, host="127.0.0.1", port=9, verify="/nowhere/ca.pem")
    client, _pauses = client_of(missing)
    failure = failing(lambda: client.get("version"))
    assert failure.code == "certificate_invalid"
    assert "/nowhere/ca.pem" in failure.message
    assert "ca_path" in failure.hint


def test_a_certificate_that_is_not_trusted(wire: Install) -> None:
    end = wire(requests.exceptions.SSLError("certificate verify failed: self-signed certificate"))
    client, _pauses = client_of()
    failure = failing(lambda: client.get("version"))
    assert failure.code == "certificate_invalid"
    assert "self-signed" in failure.message
    assert len(end.calls) == 1


# ------------------------------------------------------------------------------------------- credentials


def test_who_needs_no_privileges() -> None:
    assert ROOT.is_root_with_password
    assert not TOKEN.is_root_with_password
    assert not replace(ROOT, token_id="t").is_root_with_password, "root's tokens are refused what only root may do"
    assert not replace(ROOT, user="root@pve").is_root_with_password
    assert Credentials(backend="local").is_root_with_password
    assert TOKEN.identity == "ci@pve!t1"
    assert ROOT.identity == "root@pam"


# ------------------------------------------------------------------------------------------------- pvesh


@pytest.fixture
def pvesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> t.Callable[[str], Path]:
    """Puts a script called pvesh first in the path; it writes its arguments to the returned file."""

    def install(script: str) -> Path:
        command, log = tmp_path / "pvesh", tmp_path / "arguments"
        command.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {log}\n{script}\n')
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        return log

    return install


LOCAL = Credentials(backend="local", command_timeout=5)


def local(command_timeout: float = 5) -> Client:
    return client_of(replace(LOCAL, command_timeout=command_timeout))[0]


def test_pvesh_arguments(pvesh: t.Callable[[str], Path]) -> None:
    log = pvesh("echo null")
    assert local().put("nodes/pve1/lxc/101/config", {"onboot": True, "description": "a b\nc"}) is None
    assert log.read_text().splitlines() == [
        "set",
        "/nodes/pve1/lxc/101/config",
        "-onboot",
        "1",
        "-description",
        "a b",
        "c",
        "--output-format",
        "json",
    ]


def test_pvesh_answers(pvesh: t.Callable[[str], Path]) -> None:
    pvesh("""echo '[{"vmid": 101}]'""")
    assert local().get("nodes/pve1/lxc") == [{"vmid": 101}]
    pvesh("true")
    assert local().put("nodes/pve1/lxc/101/config") is None


UPID = "UPID:pve1:00000C56:000279F6:6B0117CD:vzcreate:101:root@pam:"


@pytest.mark.parametrize(
    "script",
    [
        f"""echo '"{UPID}"'""",
        f"""echo 'extracting archive'; echo 'Total bytes read: 2181120'; echo '"{UPID}"'""",
        f"""echo 'trying to acquire lock...' >&2; echo '"{UPID}"'""",
        f"""echo 'WARNING: old kernel' >&2; echo 'log'; echo '"{UPID}"'""",
    ],
    ids=["alone", "after a log", "with noise", "with noise and a log"],
)
def test_pvesh_prints_the_log_of_a_task_before_its_identifier(script: str, pvesh: t.Callable[[str], Path]) -> None:
    pvesh(script)
    assert local().post("nodes/pve1/lxc", {"vmid": 101}) == UPID


def test_pvesh_that_only_warns_has_succeeded(pvesh: t.Callable[[str], Path]) -> None:
    pvesh("""echo 'perl: warning: Setting locale failed.' >&2; echo '{"status": "running"}'""")
    assert local().get("nodes/pve1/lxc/101/status/current") == {"status": "running"}
    pvesh("echo 'perl: warning: Setting locale failed.' >&2")
    assert local().put("nodes/pve1/lxc/101/config") is None


@pytest.mark.parametrize(
    ("text", "code", "status"),
    [
        ("Configuration file 'nodes/pve1/lxc/999.conf' does not exist", "not_found", 500),
        ("CT is locked (backup)", "locked", 500),
        ("403 Permission check failed (/vms/101, VM.Audit)", "permission_denied", 403),
        ("trying to acquire lock...\\n400 Parameter verification failed.", "invalid_parameter", 400),
    ],
)
def test_pvesh_failures(text: str, code: str, status: int, pvesh: t.Callable[[str], Path]) -> None:
    pvesh(f"""printf '%b\\n' "{text}" >&2; exit 2""")
    failure = failing(lambda: local().post("nodes/pve1/lxc/999/status/start"))
    assert failure.code == code
    assert failure.details["status"] == status


def test_pvesh_names_each_wrong_parameter(pvesh: t.Callable[[str], Path]) -> None:
    pvesh(
        "printf '%s\\n' '400 Parameter verification failed.' 'bogus: property is not defined in schema' "
        "\"memory: type check ('integer') failed - got 'x'\" '' 'pvesh set <api_path> [OPTIONS]' >&2; exit 255"
    )
    failure = failing(lambda: local().put("nodes/pve1/lxc/101/config", {"memory": "x"}))
    assert failure.code == "invalid_parameter"
    assert failure.details["errors"] == {
        "bogus": "property is not defined in schema",
        "memory": "type check ('integer') failed - got 'x'",
    }
    assert "<api_path>" not in failure.message


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_pvesh_that_does_not_end(pvesh: t.Callable[[str], Path]) -> None:
    """It is left alone: the task that it waits for would end with it."""
    pvesh("exec sleep 1")
    failure = failing(lambda: local(command_timeout=0.1).post("nodes/pve1/lxc/101/status/start"))
    assert failure.code == "timeout"
    del failure
    gc.collect()


def test_no_pvesh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    failure = failing(lambda: local().get("version"))
    assert failure.code == "unreachable"
    assert "Proxmox node" in failure.hint


# --------------------------------------------------------------------------------------------------- ssh


class SSHError(Exception):
    """As that of openssh-wrapper."""


@pytest.fixture
def ssh(monkeypatch: pytest.MonkeyPatch) -> t.Callable[..., list[str]]:
    """Stands in for openssh-wrapper, which gives bytes; returns the list of commands that are run."""

    def install(stdout: bytes = b"", stderr: bytes = b"", returncode: int = 0, error: bytes | None = None) -> list[str]:
        commands: list[str] = []

        class SSHConnection:
            def __init__(self, server: str, **options: t.Any) -> None:
                commands.append(f"{options['login']}@{server} within {options['timeout']}")

            def run(self, command: str, **_options: t.Any) -> types.SimpleNamespace:
                commands.append(command)
                if error is not None:
                    raise SSHError(error)
                return types.SimpleNamespace(stdout=stdout, stderr=stderr, returncode=returncode)

        module = types.ModuleType("openssh_wrapper")
        module.SSHConnection = SSHConnection
        module.SSHError = SSHError
        monkeypatch.setitem(sys.modules, "openssh_wrapper", module)
        monkeypatch.delitem(sys.modules, "proxmoxer.backends.openssh", raising=False)
        return commands

    yield install
    sys.modules.pop("proxmoxer.backends.openssh", None)


SSH = Credentials(backend="openssh", host="pve1", user="root@pam", command_timeout=600)


def test_commands_over_ssh(ssh: t.Callable[..., list[str]]) -> None:
    commands = ssh(stdout=json.dumps({"version": "9.2", "release": "größer"}).encode())
    client, _pauses = client_of(SSH)
    assert client.get("version") == {"version": "9.2", "release": "größer"}
    client.put("nodes/pve1/lxc/101/config", {"description": "a 'b'"})
    assert commands == [
        "root@pve1 within 600",
        "pvesh get /version --output-format json",
        """pvesh set /nodes/pve1/lxc/101/config -description 'a '"'"'b'"'"'' --output-format json""",
    ]


def test_failures_over_ssh(ssh: t.Callable[..., list[str]]) -> None:
    ssh(stderr=b'400 Parameter verification failed.\nmemory: it\'s "wrong"\n\npvesh set\n', returncode=255)
    client, _pauses = client_of(SSH)
    failure = failing(lambda: client.put("nodes/pve1/lxc/101/config", {"memory": 1}))
    assert (failure.code, failure.details["status"]) == ("invalid_parameter", 400)
    assert failure.details["errors"] == {"memory": 'it\'s "wrong"'}
    ssh(stderr=b"can't lock file '/run/lock/lxc/pve-config-101.lock' - got timeout", returncode=2)
    client, pauses = client_of(SSH)
    assert failing(lambda: client.put("x")).details["file"] == "/run/lock/lxc/pve-config-101.lock"
    assert len(pauses) == 3


def test_warnings_over_ssh(ssh: t.Callable[..., list[str]]) -> None:
    ssh(stdout=f'log line\n"{UPID}"'.encode(), stderr=b"perl: warning: Setting locale failed.")
    assert client_of(SSH)[0].post("nodes/pve1/lxc") == UPID


def test_a_node_that_ssh_does_not_reach(ssh: t.Callable[..., list[str]]) -> None:
    ssh(error=b"Permission denied (publickey).")
    failure = failing(lambda: client_of(SSH)[0].post("x"))
    assert failure.code == "unreachable"
    assert "Permission denied (publickey)" in failure.message


@pytest.mark.parametrize(
    ("backend", "version", "code"),
    [
        ("https", "2.0.0", "library_missing"),
        ("local", "2.2.0", "library_missing"),
        ("local", "2.3.0", "unreachable"),
        ("local", "2.10", "unreachable"),
        ("local", "3.0.0rc1", "unreachable"),
        ("openssh", "2.2.0", "library_missing"),
    ],
)
def test_releases_of_proxmoxer(monkeypatch: pytest.MonkeyPatch, backend: str, version: str, code: str) -> None:
    """What older ones do wrong is not found out by half of a run. There is no pvesh here."""
    monkeypatch.setattr("proxmoxer.__version__", version)
    monkeypatch.setenv("PATH", "")
    failure = failing(lambda: client_of(Credentials(backend=backend, host="pve1"))[0].get("version"))
    assert failure.code == code
    assert (f"{version} is installed" in failure.message) == (code == "library_missing")


def test_no_openssh_wrapper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openssh_wrapper", None)
    monkeypatch.delitem(sys.modules, "proxmoxer.backends.openssh", raising=False)
    failure = failing(lambda: client_of(SSH)[0].get("version"))
    assert failure.code == "library_missing"
    assert "openssh-wrapper" in failure.message
