# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Health checks against servers on loopback addresses: good ones, bad ones, and ones that mean no good."""

from __future__ import annotations

import http.server
import socket
import ssl
import subprocess
import threading
import time
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import health_run
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.health import (
    Endpoint,
    Health,
    Http,
    failure_of,
    health_of,
    static_address,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.health_run import OUTPUT, Checker, Nodes
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import Actual
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.commands import Completed
from ansible_collections.lxcri.proxmox.tests.simulator.serving import make_certificates

HERE = "127.0.3.7"
ONCE = Health(start_period=0, interval=0.01, timeout=0.5, retries=1)


class Node:
    """Answers for a node whose container runs."""

    def __init__(self, uptime: float = 1000, status: str = "running", address: str | None = None) -> None:
        self.uptime = uptime
        self.status = status
        self.address = address
        self.asked: list[str] = []

    def get(self, path: str, **_params: t.Any) -> t.Any:
        self.asked.append(path)
        if path.endswith("/interfaces"):
            return [{"name": "eth0", "inet": f"{self.address}/24"}] if self.address else None
        return {"status": self.status, "uptime": self.uptime}


def container(address: str | None = HERE) -> Actual:
    net = f"name=eth0,bridge=vmbr0,ip={address}/8" if address else "name=eth0,bridge=vmbr0,ip=dhcp"
    return Actual(201, "pve1", "running", {"hostname": "web-1", "net0": net})


def check(health: Health, node: Node | None = None, actual: Actual | None = None, **options: t.Any) -> t.Any:
    checker = Checker(t.cast(t.Any, node or Node()), options.pop("nodes", Nodes()), **options)
    return checker.check(health, actual or container())


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True


@pytest.fixture
def web() -> t.Iterator[tuple[int, list[http.server.BaseHTTPRequestHandler]]]:
    """A web server: /NNN answers with that status. Its port, and its requests."""
    requests: list[http.server.BaseHTTPRequestHandler] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self)
            self.send_response(int(self.path[1:4]), self.path[5:] or None)
            self.end_headers()

        def log_message(self, *_args: t.Any) -> None:
            """Say nothing."""

    server = Server((HERE, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield int(server.server_address[1]), requests
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def hostile(request: pytest.FixtureRequest) -> t.Iterator[int]:
    """A server that does what the parameter says with a connection; its port."""
    listener = socket.create_server((HERE, 0))
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            try:
                connection, _address = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    request.param(connection, ended)
                except OSError:
                    continue

    thread = threading.Thread(target=serve)
    thread.start()
    yield int(listener.getsockname()[1])
    ended.set()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def say(text: bytes) -> t.Callable[[socket.socket, threading.Event], None]:
    def act(connection: socket.socket, _ended: threading.Event) -> None:
        connection.recv(1000)
        connection.sendall(text)

    return act


def drip(connection: socket.socket, ended: threading.Event) -> None:
    """An answer that never ends, a byte at a time."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while not ended.is_set():
        connection.sendall(b"X")
        time.sleep(0.02)


def be_silent(_connection: socket.socket, ended: threading.Event) -> None:
    ended.wait(5)


# -------------------------------------------------------------------------------------------------------------- tcp


def test_a_port_that_is_open(web: tuple[int, list[t.Any]]) -> None:
    verdict = check(replace(ONCE, tcp=Endpoint(web[0])))
    assert (verdict.healthy, verdict.check, verdict.tries) == (True, f"tcp {HERE}:{web[0]}", 1)
    other = check(replace(ONCE, tcp=Endpoint(web[0], HERE)), actual=container("192.0.2.1"))
    assert other.healthy


def test_a_port_that_is_closed() -> None:
    verdict = check(replace(ONCE, tcp=Endpoint(1)))
    assert (verdict.healthy, verdict.output) == (False, "Connection refused")
    assert check(replace(ONCE, tcp=Endpoint(1, "::1"))).check == "tcp [::1]:1"


def test_an_address_that_does_not_exist() -> None:
    assert check(replace(ONCE, tcp=Endpoint(80, "nowhere.invalid"))).healthy is False


# ------------------------------------------------------------------------------------------------------------- http


@pytest.mark.parametrize(
    ("path", "status", "output"),
    [
        ("/200", (), None),
        ("/204", (), None),
        ("/302", (), None),
        ("/404", (), "it answered 404 Not Found, wanted is 200 to 399"),
        ("/500/Oh+no", (), "it answered 500 Oh+no, wanted is 200 to 399"),
        ("/404", (404,), None),
        ("/200", (204, 301), "it answered 200 OK, wanted is 204, 301"),
    ],
)
def test_statuses(web: tuple[int, list[t.Any]], path: str, status: tuple[int, ...], output: str | None) -> None:
    verdict = check(replace(ONCE, http=Http(web[0], path=path, status=status)))
    assert (verdict.healthy, verdict.output) == (output is None, output or "")
    assert verdict.check == f"http GET {HERE}:{web[0]}{path}"


def test_headers(web: tuple[int, list[t.Any]]) -> None:
    headers = {"Host": "shop.example", "X-Probe": "1"}
    assert check(replace(ONCE, http=Http(web[0], path="/200", headers=headers))).healthy
    [request] = web[1]
    assert (request.headers.get_all("Host"), request.headers["X-Probe"]) == (["shop.example"], "1")


@pytest.mark.parametrize(
    ("hostile", "output"),
    [
        (drip, "no answer within 0.5 s"),
        (be_silent, "no answer within 0.5 s"),
        (say(b""), "no HTTP answer: Remote end closed connection without response"),
        (say(b"SSH-2.0-OpenSSH\r\n"), "no HTTP answer: BadStatusLine"),
        (say(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 5000), "no HTTP answer: HTTPException got more than 100 headers"),
        (say(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70000), "no HTTP answer: LineTooLong"),
        (say(b"HTTP/1.1 500 \x1b[2J" + b"z" * 3000 + b"\r\n\r\n"), "it answered 500  [2Jzzz"),
    ],
    indirect=["hostile"],
)
def test_a_server_that_means_no_good(hostile: int, output: str) -> None:
    began = time.monotonic()
    verdict = check(replace(ONCE, http=Http(hostile)))
    assert verdict.healthy is False
    assert verdict.output.startswith(output)
    assert len(verdict.output) <= OUTPUT + 1
    assert verdict.output.isprintable()
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("hostile", [be_silent], indirect=True)
def test_whichever_limit_is_reached_first(hostile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the socket, or that of the whole request."""
    monkeypatch.setattr(health_run, "_expire", lambda _copy, _expired: None)
    assert check(replace(ONCE, http=Http(hostile))).output == "no answer within 0.5 s"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[tuple[int, str]]:
    """A web server with a certificate for ``localhost`` and 127.0.3.7; its port and its authority."""
    ca, certificate, key = make_certificates(tmp_path_factory.mktemp("tls"), HERE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_args: t.Any) -> None:
            """Say nothing."""

    class Quiet(Server):
        def handle_error(self, *_args: t.Any) -> None:
            """Clients that do not trust it hang up."""

    server = Quiet((HERE, 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield int(server.server_address[1]), str(ca)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("options", "healthy"),
    [
        ({"ca_path": True}, True),
        ({"ca_path": True, "headers": {"host": "localhost:443"}}, True),
        ({"validate_certs": False}, True),
        ({}, False),
        ({"ca_path": True, "headers": {"Host": "shop.example"}}, False),
        ({"ca_path": True, "address": "127.0.3.8"}, False),
    ],
)
def test_certificates(secured: tuple[int, str], options: dict[str, t.Any], healthy: bool) -> None:
    port, ca = secured
    given = {**options, **({"ca_path": ca} if "ca_path" in options else {})}
    verdict = check(replace(ONCE, timeout=5, http=Http(port, scheme="https", **given)))
    assert verdict.healthy is healthy, verdict


@pytest.mark.parametrize("hostile", [drip, be_silent], indirect=True)
def test_a_server_that_never_ends_its_handshake(hostile: int) -> None:
    began = time.monotonic()
    assert check(replace(ONCE, http=Http(hostile, scheme="https"))).healthy is False
    assert time.monotonic() - began < 3


# --------------------------------------------------------------------------------------------------------- command


def happened(result: Completed | Failure) -> Completed:
    if isinstance(result, Failure):
        raise result
    return result


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[t.Any]:
    """What is run here, and what comes of it: a result, or a failure."""
    calls: list[t.Any] = []
    results: list[t.Any] = []

    def run(argv: t.Sequence[str], stdin: str | None = None, timeout: float | None = None) -> Completed:
        calls.append((list(argv), timeout))
        return happened(results.pop(0) if results else Completed(tuple(argv), 0, "", ""))

    monkeypatch.setattr(health_run, "run_here", run)
    return [calls, results]


def test_a_command_on_this_node(commands: list[t.Any]) -> None:
    calls, results = commands
    health = replace(ONCE, command=("pg_isready", "-q"))
    verdict = check(health, nodes=Nodes(here="pve1"))
    assert (verdict.healthy, verdict.check) == (True, "command pg_isready -q")
    [(argv, timeout)] = calls
    assert argv[:6] == ["timeout", "--kill-after=1", "0.5", "pct", "exec", "201"]
    assert argv[-2:] == ["pg_isready", "-q"]
    # It has the time to end the command.
    assert timeout == 5.5
    results.append(Completed((), 2, "so far\n", "no\nserver\n"))
    assert check(health, nodes=Nodes(here="pve1")).output == "it ended with status 2: no / server"
    results.append(Completed((), 1, "", ""))
    assert check(health, nodes=Nodes(here="pve1")).output == "it ended with status 1"
    results.append(Completed((), 124, "", ""))
    assert check(health, nodes=Nodes(here="pve1")).output == "it has not ended after 0.5 s"
    results.append(Failure("command_timeout", "pct did not end.", stderr=""))
    assert check(health, nodes=Nodes(here="pve1")).output == "it has not ended after 0.5 s"
    results.append(Failure("command_missing", "There is no command pct on this machine."))
    with pytest.raises(Failure, match="no command pct"):
        check(health, nodes=Nodes(here="pve1"))


def test_a_node_that_is_not_reached_says_nothing_of_the_container(commands: list[t.Any]) -> None:
    calls, results = commands
    lost = Failure("unreachable", "No route to host.")
    health = replace(ONCE, command=("true",), retries=2, interval=0.01)
    results += [lost] * 2
    with pytest.raises(Failure, match="No route to host") as raised:
        check(health, nodes=Nodes(here="pve1"))
    assert (raised.value.code, len(calls)) == ("unreachable", 2)
    # What was found out last counts.
    results += [lost, Completed((), 1, "", "")]
    assert check(health, nodes=Nodes(here="pve1")).output == "it ended with status 1"
    results += [lost]
    assert check(health, nodes=Nodes(here="pve1")).healthy


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> t.Callable[..., None]:
    """Makes an ssh that does something first, and then what it is told, on a node with a pct that does something."""

    def make(first: str = "", inside: str = "") -> None:
        for name, text in (("ssh", f'{first}\nfor word; do :; done\nexec sh -c "$word"'), ("pct", inside)):
            program = tmp_path / name
            program.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
            program.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return make


def test_the_time_of_a_command_begins_when_ssh_has_reached_the_node(node: t.Callable[..., None]) -> None:
    health = replace(ONCE, command=("true",), timeout=0.5)
    node(first="sleep 1")
    assert check(health).healthy
    node(inside="sleep 8")
    assert check(health).output == "it has not ended after 0.5 s"


def test_a_connection_that_says_nothing_says_nothing_of_the_container(
    node: t.Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("_CONNECTING", 0.5), ("_GRACE", 1.5)):
        monkeypatch.setattr(health_run, name, seconds)
    health = replace(ONCE, command=("true",), timeout=0.5)
    node(first="sleep 8 >&2 & wait")
    with pytest.raises(Failure) as raised:
        check(health)
    assert (raised.value.code, raised.value.details) == ("unreachable", {"node": "pve1"})
    # Something holds the output, so that ssh does not end: that of a command which the node has ended.
    node(inside="setsid sleep 8 & wait")
    assert check(health).output == "it has not ended after 0.5 s"


@pytest.mark.parametrize("status", [0, 1, 124, 255])
def test_the_status_of_a_command_is_not_that_of_ssh(status: int) -> None:
    done = subprocess.run([*health_run.TELLING, "sh", "-c", f"exit {status}"], check=False)
    assert done.returncode == (254 if status == 255 else status)


def test_the_node_on_which_the_module_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "pve1.example")
    assert Nodes.of(None, "local").here == "pve1"
    assert Nodes.of({"user": None, "args": ["-4"]}, "https") == Nodes(args=("-4",))


@pytest.mark.parametrize("nodes", [Nodes(hosts={"pve1": "-oProxyCommand=x"}), Nodes(user="-x")])
def test_what_ssh_would_take_for_an_option(nodes: Nodes) -> None:
    with pytest.raises(Failure) as refused:
        check(replace(ONCE, command=("true",)), nodes=nodes)
    assert refused.value.code == "invalid_option"


def test_all_that_is_declared_has_to_succeed(web: tuple[int, list[t.Any]], commands: list[t.Any]) -> None:
    health = replace(ONCE, tcp=Endpoint(web[0]), http=Http(web[0], path="/200"), command=("true",))
    assert check(health, nodes=Nodes(here="pve1")).healthy
    assert not check(replace(health, tcp=Endpoint(1)), nodes=Nodes(here="pve1")).healthy
    assert len(commands[0]) == 1


# ------------------------------------------------------------------------------------------------ time and retries


class Time:
    """A clock that only sleeping moves."""

    def __init__(self, node: Node) -> None:
        self.now = 100.0
        self._node = node

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._node.uptime += seconds


@pytest.mark.parametrize(
    ("uptime", "start_period", "retries", "tries", "seconds"),
    [
        (1000, 30, 1, 1, 0),
        (1000, 30, 3, 3, 20),
        # Attempts at 0, 10, 20 do not count; those at 30, 40 do.
        (0, 30, 2, 5, 40),
        (25, 30, 2, 3, 20),
        (0, 0, 1, 1, 0),
    ],
)
def test_failures_count_after_the_start_period(
    uptime: float, start_period: float, retries: int, tries: int, seconds: float
) -> None:
    node = Node(uptime)
    clock = Time(node)
    health = Health(tcp=Endpoint(1), start_period=start_period, interval=10, timeout=1, retries=retries)
    verdict = check(health, node, clock=clock, sleep=clock.sleep)
    assert (verdict.healthy, verdict.tries, verdict.seconds) == (False, tries, seconds)
    assert len(node.asked) == tries


def test_what_does_not_run_gets_no_start_period() -> None:
    node = Node(0, "stopped")
    assert check(Health(tcp=Endpoint(1), start_period=60, interval=0.01, timeout=1, retries=2), node).tries == 2


def test_one_success_is_enough(web: tuple[int, list[t.Any]]) -> None:
    node = Node()
    port = web[0]
    attempts: list[float] = []

    def sleep(seconds: float) -> None:
        attempts.append(seconds)
        if len(attempts) == 2:
            web[1].clear()

    class Flaky(Checker):
        def _attempt(self, health: Health, container: Actual) -> tuple[str, str | None]:
            if len(attempts) < 2:
                return "tcp", "not yet"
            return super()._attempt(health, container)

    health = Health(tcp=Endpoint(port), start_period=0, interval=7, timeout=1, retries=3)
    verdict = Flaky(t.cast(t.Any, node), Nodes(), sleep=sleep).check(health, container())
    assert (verdict.healthy, verdict.tries, attempts) == (True, 3, [7, 7])


# -------------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("config", "address"),
    [
        ({"net0": "name=eth0,bridge=vmbr0,ip=192.0.2.1/24,ip6=2001:db8::1/64"}, "192.0.2.1"),
        ({"net0": "name=eth0,bridge=vmbr0,ip6=2001:db8::1/64"}, "2001:db8::1"),
        ({"net10": "name=a,bridge=b,ip=192.0.2.10/24", "net2": "name=c,bridge=b,ip=192.0.2.2/24"}, "192.0.2.2"),
        ({"net0": "name=eth0,bridge=vmbr0,ip=dhcp", "net1": "name=a,bridge=b,ip=192.0.2.2/24"}, "192.0.2.2"),
        ({"net0": "name=eth0,bridge=vmbr0,ip=dhcp,ip6=auto"}, None),
        ({}, None),
    ],
)
def test_static_addresses(config: dict[str, str], address: str | None) -> None:
    assert static_address(config) == address


def test_an_address_that_is_not_static_is_asked_for(web: tuple[int, list[t.Any]]) -> None:
    node = Node(address="192.0.2.200")
    verdict = check(replace(ONCE, tcp=Endpoint(web[0], None), timeout=0.05), node, container(None))
    assert verdict.check == f"tcp 192.0.2.200:{web[0]}"
    assert node.asked[0] == "nodes/pve1/lxc/201/interfaces"
    without = check(replace(ONCE, tcp=Endpoint(web[0])), Node(), container(None))
    assert (without.check, without.output) == ("address", "the container has no address yet")


# ------------------------------------------------------------------------------------------------------ declaration


def test_declaration() -> None:
    assert health_of(None) is None
    declared = health_of(
        {
            "tcp": {"port": 5432, "address": None},
            "http": {"port": 80, "path": None, "status": [200], "headers": {"A": 1}, "ca_path": None},
            "command": ["true"],
            "command_user": None,
            "start_period": 1.5,
            "interval": None,
        }
    )
    assert declared == Health(
        tcp=Endpoint(5432),
        http=Http(80, status=(200,), headers={"A": "1"}),
        command=("true",),
        start_period=1.5,
    )


def test_the_failure_says_what_was_tried() -> None:
    failure = failure_of("web-1", check(replace(ONCE, tcp=Endpoint(1))))
    assert failure.code == "health_check_failed"
    assert failure.message.startswith(f"web-1 is not healthy: tcp {HERE}:1: Connection refused (1 try in 0.")
    assert failure.details == {"check": f"tcp {HERE}:1", "output": "Connection refused", "tries": 1}
