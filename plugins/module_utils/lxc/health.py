# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Health checks as a task declares them, and what their outcome means. Pure functions, no I/O.

A check means what it means to other container engines: in the ``start_period`` after the start of the container
failures do not count, later ``retries`` failures in a row make it unhealthy, and one success makes it healthy.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties

_ENDPOINT: dict[str, t.Any] = {"port": {"type": "int", "required": True}, "address": {"type": "str"}}

HEALTH_OPTIONS: dict[str, t.Any] = {
    "tcp": {"type": "dict", "options": _ENDPOINT},
    "http": {
        "type": "dict",
        "options": {
            **_ENDPOINT,
            "path": {"type": "str", "default": "/"},
            "scheme": {"type": "str", "choices": ["http", "https"], "default": "http"},
            "status": {"type": "list", "elements": "int", "default": []},
            "headers": {"type": "dict", "default": {}},
            "validate_certs": {"type": "bool", "default": True},
            "ca_path": {"type": "path"},
        },
    },
    "command": {"type": "list", "elements": "str"},
    "command_user": {"type": "str"},
    "start_period": {"type": "float", "default": 30},
    "interval": {"type": "float", "default": 2},
    "timeout": {"type": "float", "default": 5},
    "retries": {"type": "int", "default": 3},
}

# What a server that works answers, when the task does not say: a success, or that it is elsewhere.
FINE = range(200, 400)

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


@dataclass(frozen=True)
class Endpoint:
    """Where something listens. address: None for that of the container."""

    port: int
    address: str | None = None


@dataclass(frozen=True)
class Http(Endpoint):
    """A request whose answer tells whether it works."""

    path: str = "/"
    scheme: str = "http"
    status: tuple[int, ...] = ()
    headers: t.Mapping[str, str] = field(default_factory=dict)
    validate_certs: bool = True
    ca_path: str | None = None

    def accepts(self, status: int) -> bool:
        """Whether an answer's status is a good one."""
        return status in (self.status or FINE)

    @property
    def host(self) -> str | None:
        """The name under which the server is asked, without a port; None when it is asked by its address."""
        given = next((value for name, value in self.headers.items() if name.lower() == "host"), None)
        return re.sub(r":\d+\Z", "", given) if given else None


@dataclass(frozen=True)
class Health:
    """What a running container has to answer. All that is declared must succeed at once.

    start_period, interval, timeout: seconds. timeout: of one attempt of one check.
    """

    tcp: Endpoint | None = None
    http: Http | None = None
    command: tuple[str, ...] = ()
    command_user: str | None = None
    start_period: float = 30
    interval: float = 2
    timeout: float = 5
    retries: int = 3


@dataclass(frozen=True)
class Verdict:
    """What came out of checking one container.

    check: the last one that was made, such as ``tcp 192.0.2.11:5432``. output: what it said.
    tries, seconds: how often and for how long it was tried.
    """

    healthy: bool
    check: str
    output: str
    tries: int
    seconds: float

    def as_dict(self) -> dict[str, t.Any]:
        """The ``health`` of a result."""
        return {**vars(self), "seconds": round(self.seconds, 1)}


def _invalid(option: str, reason: str) -> Failure:
    return Failure("invalid_option", f"health.{option}: {reason}.", "Nothing was sent to Proxmox.", option=option)


def health_of(values: t.Mapping[str, t.Any] | None) -> Health | None:
    """The health checks that a container's option declares; None without one.

    values: as HEALTH_OPTIONS describes them.

    Raises:
        Failure: ``invalid_option``, naming the option and what would be right.
    """
    if values is None:
        return None
    given = {name: value for name, value in values.items() if value is not None}
    if not any(given.get(kind) for kind in ("tcp", "http", "command")):
        raise _invalid("tcp", "give tcp, http or command")
    if given.get("command_user") and not given.get("command"):
        raise _invalid("command_user", "it has a meaning with command only")
    if "" in given.get("command", [])[:1]:
        raise _invalid("command", "the program is missing")
    for name in ("interval", "timeout"):
        if given.get(name, 1) <= 0:
            raise _invalid(name, f"{given[name]:g} seconds are too few")
    if given.get("start_period", 0) < 0:
        raise _invalid("start_period", f"{given['start_period']:g} is less than 0")
    if given.get("retries", 1) < 1:
        raise _invalid("retries", "at least one attempt has to be made")
    for kind in ("tcp", "http"):
        if kind in given and not 0 < given[kind]["port"] < 65536:
            raise _invalid(f"{kind}.port", f"{given[kind]['port']} is not a port")
    if "tcp" in given:
        given["tcp"] = Endpoint(**given["tcp"])
    if "http" in given:
        given["http"] = _http(given["http"])
    given["command"] = tuple(given.get("command", ()))
    return Health(**given)


def _http(values: t.Mapping[str, t.Any]) -> Http:
    given = {name: value for name, value in values.items() if value is not None}
    if not re.fullmatch(r"/[!-~]*", given.get("path", "/")):
        raise _invalid("http.path", f"{given['path']!r} is not an absolute path without spaces, such as /healthz")
    if [status for status in given.get("status", ()) if not 100 <= status <= 599]:
        raise _invalid("http.status", "a status is between 100 and 599")
    headers = {str(name): str(value) for name, value in given.get("headers", {}).items()}
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name) or not re.fullmatch(r"[\t -~\x80-\xff]*", value):
            raise _invalid("http.headers", f"{name!r} or its value cannot be a header")
    return Http(**{**given, "status": tuple(given.get("status", ())), "headers": headers})


def static_address(config: t.Mapping[str, t.Any]) -> str | None:
    """The first address that a configuration gives, without its prefix length; None when there is none."""
    for key in sorted((name for name in config if re.fullmatch(r"net\d+", name)), key=properties.order_of):
        net = properties.read(key, config[key])
        for sub in ("ip", "ip6"):
            if isinstance(net, dict) and "/" in str(net.get(sub, "")):
                return str(net[sub]).partition("/")[0]
    return None


def needs_address(health: Health) -> bool:
    """Whether the address of the container has to be known."""
    return any(endpoint is not None and endpoint.address is None for endpoint in (health.tcp, health.http))


def failure_of(label: str, verdict: Verdict) -> Failure:
    """The failure of a container that is not healthy."""
    return Failure(
        "health_check_failed",
        f"{label} is not healthy: {verdict.check}: {verdict.output} "
        f"({verdict.tries} {'try' if verdict.tries == 1 else 'tries'} in {verdict.seconds:.1f} s).",
        "Look into the container; correct what is declared, and run again.",
        check=verdict.check,
        output=verdict.output,
        tries=verdict.tries,
    )
