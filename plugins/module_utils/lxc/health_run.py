# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Making the health checks: connections from where the module runs, and commands inside the container.

What a container answers is not to be trusted: no attempt takes longer than its timeout, whatever the other side sends,
and little of an answer is kept. The timeout of a command is kept by the node: that ssh does not answer says nothing of
the container.
"""

from __future__ import annotations

import contextlib
import http.client
import shlex
import socket
import ssl
import threading
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.health import (
    FINE,
    Endpoint,
    Health,
    Http,
    Verdict,
    needs_address,
    static_address,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import Actual
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.reading import container_status, interface_addresses
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.commands import Run, run_here, run_over_ssh
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.guest_exec import exec_command

# How much of what a check said is kept, in characters.
OUTPUT = 300
# What ends a command on a node, with all that it has started, and how it says that it did.
_LIMIT = ("timeout", "--kill-after=1")
_EXPIRED = (124, 137)
_EXPIRY = "it has not ended after {:g} s"
# What a node says when it has ended a command, though ssh itself does not end: something holds the command's output.
ENDED = "lxcri: the node has ended it"
# Runs a command whose status is not that of an ssh that failed: pct exec of a container that is stopped ends with 255.
TELLING = (
    *("sh", "-c"),
    f'"$@"; status=$?; [ $status != 255 ] || status=254; case $status in {"|".join(map(str, _EXPIRED))}) '
    f"echo '{ENDED}' >&2;; esac; exit $status",
    "sh",
)
# Seconds that a node has for that, and within which ssh has to reach it.
_GRACE = 5.0
_CONNECTING = 10.0

SSH_OPTIONS: dict[str, t.Any] = {
    "user": {"type": "str", "default": "root"},
    "port": {"type": "int"},
    "key_file": {"type": "path"},
    "args": {"type": "list", "elements": "str", "default": []},
    "hosts": {"type": "dict", "default": {}},
}


def check_options() -> dict[str, t.Any]:
    """The part of a fleet's argument specification that says how checks by command reach the nodes."""
    return {"ssh": {"type": "dict", "options": SSH_OPTIONS}}


class Unhealthy(Exception):
    """An attempt that failed; ``str()`` says what the other side did.

    unknown: why nothing is known of the container; None when it did not answer as it has to.
    """

    def __init__(self, reason: str, unknown: Failure | None = None) -> None:
        super().__init__(reason)
        self.unknown = unknown


@dataclass(frozen=True)
class Nodes:
    """How commands reach the nodes.

    here: the name of the node on which the module runs, whose containers need no ssh; None elsewhere.
    hosts: the address of a node, where it is not reached by its name.
    """

    user: str = "root"
    port: int | None = None
    key_file: str | None = None
    args: tuple[str, ...] = ()
    hosts: t.Mapping[str, str] | None = None
    here: str | None = None

    @classmethod
    def of(cls, values: t.Mapping[str, t.Any] | None, backend: str) -> Nodes:
        """What the module's option says. backend: by which the API is reached; only ``local`` runs on a node."""
        given = {name: value for name, value in (values or {}).items() if value is not None}
        given["args"] = tuple(given.get("args", ()))
        return cls(**given, here=socket.gethostname().partition(".")[0] if backend == "local" else None)

    def grace(self, node: str) -> float:
        """Seconds for which a command is waited for longer than it may take: the node ends it, and says so."""
        return _GRACE + (0.0 if node == self.here else _CONNECTING)

    def runner(self, node: str) -> Run:
        """What runs commands on a node.

        Raises:
            Failure: ``invalid_option`` for a name that ssh would take for an option.
        """
        if node == self.here:
            return run_here
        host = (self.hosts or {}).get(node, node)
        if host.startswith("-") or self.user.startswith("-"):
            raise Failure("invalid_option", f"ssh: {host!r} is not the address of a node.", option="ssh")
        ssh = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECTING:.0f}"]
        ssh += ["-p", str(self.port)] if self.port else []
        ssh += ["-i", self.key_file] if self.key_file else []
        return run_over_ssh([*ssh, *self.args, f"{self.user}@{host}"])


class Checker:
    """Checks containers. Safe to use from several threads."""

    def __init__(
        self,
        client: Client,
        nodes: Nodes,
        clock: t.Callable[[], float] = time.monotonic,
        sleep: t.Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._nodes = nodes
        self._clock = clock
        self._sleep = sleep

    def check(self, health: Health, container: Actual) -> Verdict:
        """Check a running container until it is healthy, or has failed too often.

        Raises:
            Failure: the API does not say what has to be known of the container, or its node is not reached.
        """
        began = self._clock()
        tries = failures = 0
        while True:
            tries += 1
            check, reason = self._attempt(health, container)
            seconds = self._clock() - began
            if reason is None:
                return Verdict(True, check, "", tries, seconds)
            # Only now: a healthy container costs no request. It may have been started again in between.
            status = container_status(self._client, container.node, container.vmid)
            since_start = float(status.get("uptime") or 0)
            if since_start >= health.start_period or status.get("status") != "running":
                failures += 1
            if failures >= health.retries:
                if reason.unknown:
                    raise reason.unknown
                return Verdict(False, check, _short(str(reason)), tries, seconds)
            self._sleep(health.interval)

    def _attempt(self, health: Health, container: Actual) -> tuple[str, Unhealthy | None]:
        """The last check that was made, and why it failed; None when all succeeded."""
        check = ""
        try:
            address = self._address(health, container)
            if health.tcp:
                check = f"tcp {_shown(health.tcp, address)}"
                _connect(health.tcp, address, health.timeout).close()
            if health.http:
                check = f"{health.http.scheme} GET {_shown(health.http, address)}{health.http.path}"
                _request(health.http, address, health.timeout)
            if health.command:
                check = f"command {shlex.join(health.command)}"
                self._run(health, container)
        except Unhealthy as reason:
            return check or "address", reason
        return check, None

    def _address(self, health: Health, container: Actual) -> str:
        if not needs_address(health):
            return ""
        address = static_address(container.config)
        if address is None:
            found = interface_addresses(self._client, container.node, container.vmid)
            address = found[0]["address"].partition("/")[0] if found else None
        if address is None:
            raise Unhealthy("the container has no address yet")
        return address

    def _run(self, health: Health, container: Actual) -> None:
        node = container.node
        limit = health.timeout + self._nodes.grace(node)
        try:
            run = self._nodes.runner(node)
            argv = exec_command(str(container.vmid), list(health.command), health.command_user)
            # Whoever gives up here ends nothing there: a command that hangs would be one more with each attempt.
            telling = () if node == self._nodes.here else TELLING
            done = run([*telling, *_LIMIT, f"{health.timeout:g}", *argv], timeout=limit)
        except Failure as failure:
            if failure.code == "command_timeout":
                ended = node == self._nodes.here or ENDED in failure.details["stderr"]
                raise Unhealthy(_EXPIRY.format(health.timeout), None if ended else _silent(node, limit)) from None
            if failure.code == "unreachable":
                raise Unhealthy(failure.message, failure) from None
            raise
        if done.rc in _EXPIRED:
            raise Unhealthy(_EXPIRY.format(health.timeout))
        if done.rc:
            said = (done.stderr.strip() or done.stdout.strip()).replace("\n", " / ")
            raise Unhealthy(f"it ended with status {done.rc}{f': {said}' if said else ''}")


def _silent(node: str, seconds: float) -> Failure:
    """Nothing is known of a command of which the node does not say that it has ended."""
    return Failure(
        "unreachable",
        f"ssh to {node} has said nothing for {seconds:g} s, and not how the command ended.",
        "See whether the node is reached, and what it is busy with.",
        node=node,
    )


def _short(text: str) -> str:
    """What was said, without what could disturb a terminal."""
    readable = "".join(character if character.isprintable() else " " for character in text)
    return readable if len(readable) <= OUTPUT else readable[:OUTPUT] + "…"


def _shown(endpoint: Endpoint, address: str) -> str:
    host = endpoint.address or address
    return f"[{host}]:{endpoint.port}" if ":" in host else f"{host}:{endpoint.port}"


def _connect(endpoint: Endpoint, address: str, timeout: float) -> socket.socket:
    try:
        return socket.create_connection((endpoint.address or address, endpoint.port), timeout)
    except OSError as error:
        raise Unhealthy(_reason(error, timeout)) from None


def _reason(error: OSError, timeout: float) -> str:
    if isinstance(error, socket.timeout):
        return f"no answer within {timeout:g} s"
    return str(error.strerror or error)


def _request(check: Http, address: str, timeout: float) -> None:
    """One request; redirections are not followed."""
    deadline = time.monotonic() + timeout
    plain = _connect(check, address, timeout)
    expired = threading.Event()
    # A timeout of a socket is one of each read, of which there may be many. The copy outlives the change to TLS.
    with contextlib.closing(plain.dup()) as copy:
        timer = threading.Timer(max(deadline - time.monotonic(), 0), _expire, (copy, expired))
        timer.start()
        try:
            with contextlib.closing(_secured(check, plain, address)) as connected:
                status, reason = _answer(check, connected, address)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unhealthy(f"no answer within {timeout:g} s" if expired.is_set() else _why(error, timeout)) from None
        finally:
            timer.cancel()
            timer.join()
            plain.close()
    if expired.is_set():
        # What was cut off may look like an answer.
        raise Unhealthy(f"no answer within {timeout:g} s")
    if not check.accepts(status):
        wanted = ", ".join(map(str, check.status)) or f"{FINE.start} to {FINE.stop - 1}"
        raise Unhealthy(f"it answered {status} {reason}".strip() + f", wanted is {wanted}")


def _why(error: Exception, timeout: float) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error}"
    if isinstance(error, socket.timeout):
        # The socket's own limit can be faster than the timer.
        return _reason(error, timeout)
    said = _reason(error, timeout) if isinstance(error, OSError) else f"{type(error).__name__} {error}".strip()
    return f"no HTTP answer: {said}"


def _expire(connected: socket.socket, expired: threading.Event) -> None:
    expired.set()
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def _secured(check: Http, plain: socket.socket, address: str) -> socket.socket:
    if check.scheme == "http":
        return plain
    context = ssl.create_default_context(cafile=check.ca_path)
    if not check.validate_certs:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(plain, server_hostname=check.host or check.address or address)


def _answer(check: Http, connected: socket.socket, address: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(check.address or address, check.port)
    connection.sock = connected
    connection.request("GET", check.path, headers={"Connection": "close", **check.headers})
    answer = connection.getresponse()
    return answer.status, answer.reason
