# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The session with the Proxmox VE API: proxmoxer with retries, one login, few connections and structured failures."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import random
import re
import subprocess
import threading
import time
import types
import typing as t
from dataclasses import dataclass

try:
    import proxmoxer
    import requests
    import requests.adapters
    import urllib3
    from proxmoxer.core import ProxmoxResource, ResourceException

    HAS_LIBRARIES = True
    LIBRARY_ERROR = ""
except ImportError as _error:
    HAS_LIBRARIES = False
    LIBRARY_ERROR = str(_error)

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure, classify

# What says "not done, try again": the node or pveproxy itself did not answer.
UNAVAILABLE = (502, 503, 504, 595, 596, 599)
READ_TRIES = 5
LOCK_TRIES = 4
CONNECTIONS = 12
# 2.0.0 does not verify certificates when it logs in; before 2.3, a task whose log pvesh prints is one that has failed.
SINCE = {"https": (2, 0, 1), "local": (2, 3), "openssh": (2, 3)}

# Lists are sent as Proxmox reads them in a form: separated by commas.
Params = t.Mapping[str, t.Any]


class Repeated(tuple[str, ...]):
    """The items of a parameter of the type ``array``, which is repeated for each."""


@dataclass(frozen=True)
class Credentials:
    """How to reach the API.

    backend: ``https``, ``local`` (pvesh on this node) or ``openssh`` (pvesh on ``host``).
    verify: the path of a CA file, or whether to verify with the system's.
    timeout: seconds for one request over https.
    command_timeout: seconds for one pvesh command, which waits for the task that it starts.
    """

    backend: str = "https"
    host: str | None = None
    port: int = 8006
    user: str = "root@pam"
    password: str | None = None
    token_id: str | None = None
    token_secret: str | None = None
    verify: bool | str = True
    timeout: float = 30
    command_timeout: float = 600

    @property
    def is_root_with_password(self) -> bool:
        """True for the one identity from which Proxmox checks no privilege at all."""
        return self.backend != "https" or (self.user == "root@pam" and self.token_id is None)

    @property
    def identity(self) -> str:
        """``user@realm`` or ``user@realm!token``, for messages."""
        return f"{self.user}!{self.token_id}" if self.token_id else self.user


class Form(t.Protocol):
    """A body that is read while it is sent."""

    content_type: str

    def __len__(self) -> int: ...

    def __iter__(self) -> t.Iterator[bytes]: ...


@dataclass(frozen=True)
class Connection:
    """One of proxmoxer's backends, by its public parts: ``ProxmoxAPI`` keeps them to itself."""

    base_url: str
    session: t.Any
    serializer: t.Any

    @classmethod
    def of(cls, backend: t.Any) -> Connection:
        """The connection that a backend makes."""
        return cls(backend.get_base_url(), backend.get_session(), backend.get_serializer())

    def resource(self, path: str, whole: bool = False) -> t.Any:
        """What proxmoxer sends requests to. whole: whether the answer is all of it, and not its ``data``."""
        reader = _Whole(self.serializer) if whole else self.serializer
        return ProxmoxResource(base_url=self.base_url, session=self.session, serializer=reader)(path.strip("/"))


class Client:
    """Requests to the API. Safe to use from several threads.

    Every method takes the path below ``/api2/json`` and raises Failure.

    connections: how many there are at most, and so how many requests at a time.
    """

    def __init__(
        self,
        credentials: Credentials,
        sleep: t.Callable[[float], None] = time.sleep,
        connections: int = CONNECTIONS,
    ) -> None:
        if not HAS_LIBRARIES:
            raise Failure(
                "library_missing",
                f"The Python libraries proxmoxer and requests are needed: {LIBRARY_ERROR}.",
                "Install them where the module runs: pip install proxmoxer requests.",
            )
        self.credentials = credentials
        self.connections = connections
        self._sleep = sleep
        self._login_lock = threading.Lock()
        self._connection: Connection | None = None

    # ------------------------------------------------------------------------------------------------ requests

    def get(self, path: str, **params: t.Any) -> t.Any:
        """A read. Repeated when the answer is lost or the node does not answer."""
        return self._call("GET", path, params)

    def get_all(self, path: str, **params: t.Any) -> dict[str, t.Any]:
        """A read; the whole answer, in which Proxmox may tell more beside ``data``. pvesh tells nothing more."""
        answer = self._call("GET", path, params, whole=True)
        return answer if self.credentials.backend == "https" else {"data": answer}

    def post(self, path: str, params: Params | None = None) -> t.Any:
        """A write; the answer is a UPID or None. Repeated only when Proxmox says that it was not executed."""
        return self._call("POST", path, params or {})

    def put(self, path: str, params: Params | None = None) -> t.Any:
        """A write, see post()."""
        return self._call("PUT", path, params or {})

    def delete(self, path: str, params: Params | None = None) -> t.Any:
        """A write, see post(). Parameters go into the query: Proxmox answers a body with 501."""
        return self._call("DELETE", path, params or {})

    def post_form(self, path: str, form: Form, timeout: float) -> t.Any:
        """Send a form once, over https; the answer is a UPID. timeout: seconds in which Proxmox has to answer it.

        proxmoxer's own upload reads the whole file into memory unless another library is there.
        """
        connection = self._connected()
        auth = connection.session.auth
        try:
            answer = requests.Session.request(
                connection.session,
                "POST",
                f"{connection.base_url}/{path.strip('/')}",
                data=form,
                headers={"Content-Type": form.content_type},
                cookies=auth.get_cookies(),
                verify=auth.verify_ssl,
                timeout=(self.credentials.timeout, timeout),
            )
        except requests.exceptions.RequestException as error:
            raise Failure(
                "unreachable",
                f"The upload to {self.credentials.host} was cut off: {error}.",
                "Check the network, and the free space in /var/tmp and on the storage of the node.",
            ) from None
        if answer.status_code == 200:
            return connection.serializer.loads(answer)
        errors = connection.serializer.loads_errors(answer)
        return _answer_or_failure(ResourceException(answer.status_code, answer.reason, answer.reason, errors))

    def request(self, method: str, path: str, params: Params | None = None) -> t.Any:
        """One of the above by the name of its method."""
        return self._call(method, path, params or {})

    def _call(self, method: str, path: str, params: Params, whole: bool = False) -> t.Any:
        form = {name: _form_value(value) for name, value in params.items() if value is not None}
        if self.credentials.backend != "https" and any(isinstance(value, list) for value in form.values()):
            raise Failure(
                "not_implemented",
                f"{method} {path} needs a parameter several times, which proxmoxer cannot tell pvesh.",
                "Use api_backend=https.",
            )
        renewed = False
        tries = 0
        while True:
            tries += 1
            connection = self._connected()
            try:
                return self._send(connection, method, path, form, whole)
            except Failure as failure:
                expired = failure.code == "authentication_failed" and self.credentials.token_id is None
                if expired and not renewed and self.credentials.backend == "https":
                    # Refused before anything was executed: safe for writes as well.
                    renewed = True
                    tries = 0
                    self._renew(connection)
                    continue
                # A pvesh that cannot be run on this node will not be there the next time either.
                hopeless = self.credentials.backend == "local" and failure.code == "unreachable"
                if hopeless or tries >= _tries_for(method, failure):
                    failure.details.setdefault("request", f"{method} {path}")
                    raise
            self._sleep(_pause(tries))

    def _send(
        self, connection: Connection, method: str, path: str, form: dict[str, t.Any], whole: bool = False
    ) -> t.Any:
        # pvesh tells nothing beside the data.
        resource = connection.resource(path, whole and self.credentials.backend == "https")
        call = getattr(resource, method.lower())
        try:
            answer = call(**form)
        except ResourceException as error:
            return _answer_or_failure(error)
        except (
            requests.exceptions.ConnectionError,
            requests.exceptions.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            raise _connection_failure(error, self.credentials) from error
        except proxmoxer.AuthenticationError as error:
            raise _login_refused(self.credentials) from error
        except subprocess.TimeoutExpired as error:
            limit = self.credentials.command_timeout
            raise Failure("timeout", f"pvesh has not ended after {limit:g} s.", "Raise 'timeout'.") from error
        except OSError as error:
            if self.credentials.backend == "https":
                raise _connection_failure(error, self.credentials) from error
            raise Failure("unreachable", f"pvesh could not be run: {error}.", "Use it on a Proxmox node.") from error
        if isinstance(answer, dict) and set(answer) == {"errors"} and not answer["errors"]:
            return None  # proxmoxer's answer for a pvesh command that printed nothing
        return answer

    # ------------------------------------------------------------------------------------------------- session

    def _connected(self) -> Connection:
        with self._login_lock:
            if self._connection is None:
                self._connection = self._connect()
            return self._connection

    def _renew(self, stale: Connection) -> None:
        with self._login_lock:
            if self._connection is stale:
                self._connection = None

    def _connect(self) -> Connection:
        it = self.credentials
        if it.backend == "local":
            return Connection.of(_backend("local").Backend(timeout=it.command_timeout))
        if it.backend == "openssh":
            return self._connect_openssh()
        return self._connect_https()

    def _connect_openssh(self) -> Connection:
        it = self.credentials
        try:
            openssh = _backend("openssh")
        except SystemExit:
            raise Failure(
                "library_missing",
                "The Python library openssh-wrapper is needed for api_backend=openssh.",
                "Install it where the module runs: pip install openssh-wrapper. It needs Python 3.12 or older.",
            ) from None
        made = openssh.Backend(it.host, user=it.user.partition("@")[0], timeout=int(it.command_timeout))
        connection = Connection.of(made)
        errors = openssh.openssh_wrapper.SSHError
        connection.session.ssh_client = _Text(connection.session.ssh_client, str(it.host), errors)
        return connection

    def _connect_https(self) -> Connection:
        it = self.credentials
        options: dict[str, t.Any] = {
            "port": it.port,
            "user": it.user,
            "verify_ssl": _authorities(it.verify),
            "timeout": it.timeout,
        }
        if it.token_id:
            options.update(token_name=it.token_id, token_value=it.token_secret)
        else:
            options.update(password=it.password)
        if it.verify is False:
            # It was asked for; a warning for each connection on stderr would help nobody.
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        for attempt in range(1, READ_TRIES + 1):
            try:
                connection = Connection.of(_backend("https").Backend(it.host, **options))
                break
            except proxmoxer.AuthenticationError as error:
                # Only what is not about the user is tried again: refused logins may lock the account.
                status = str(error).rpartition("code: ")[2]
                if status not in map(str, UNAVAILABLE) or attempt == READ_TRIES:
                    raise _login_refused(it, status) from error
            except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
                if attempt == READ_TRIES or isinstance(error, requests.exceptions.SSLError):
                    raise _connection_failure(error, it) from error
            except (requests.exceptions.RequestException, OSError) as error:
                raise _connection_failure(error, it) from error
            self._sleep(_pause(attempt))
        adapter = requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=self.connections, pool_block=True)
        session = connection.session
        session.mount("https://", adapter)
        # requests would look for proxies in the environment at every request, which costs more than the request itself.
        session.proxies.update(requests.utils.get_environ_proxies(connection.base_url))
        session.trust_env = False
        return connection


def _backend(name: str) -> t.Any:
    """A module of proxmoxer; that for openssh ends the process when its library is missing."""
    if tuple(map(int, re.findall(r"\d+", proxmoxer.__version__)[:3])) < SINCE[name]:
        wanted = ".".join(map(str, SINCE[name]))
        raise Failure(
            "library_missing",
            f"api_backend={name} needs proxmoxer {wanted} or newer; {proxmoxer.__version__} is installed.",
            f"Install it where the module runs: pip install 'proxmoxer>={wanted}'.",
        )
    return importlib.import_module(f"proxmoxer.backends.{name}")


class _Text:
    """A connection of openssh-wrapper as proxmoxer expects it, which is with text, and with failures of ours.

    errors: what openssh-wrapper raises.
    """

    def __init__(self, connection: t.Any, host: str, errors: type[Exception]) -> None:
        self._connection = connection
        self._host = host
        self._errors = errors

    def run(self, command: str, **options: t.Any) -> types.SimpleNamespace:
        """Run a command on the other side."""
        try:
            done = self._connection.run(command, **options)
        except self._errors as error:
            raise Failure(
                "unreachable",
                f"{self._host} could not be reached over SSH: {_text(error.args[0])}.",
                "Check 'api_host', the key, and the known hosts of the user who runs this.",
            ) from error
        return types.SimpleNamespace(stdout=_text(done.stdout), stderr=_text(done.stderr), returncode=done.returncode)


def _text(output: t.Any) -> str:
    return output.decode("utf-8", "replace") if isinstance(output, bytes) else str(output)


def _authorities(verify: bool | str) -> bool | str:
    """What certificates are verified with; the environment's authorities count where the task names none."""
    if verify is not True:
        return verify
    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True


class _Whole:
    """proxmoxer's reader of answers, but for the whole of them."""

    def __init__(self, reader: t.Any) -> None:
        self.loads_errors = reader.loads_errors

    def loads(self, response: t.Any) -> t.Any:
        """The answer as it is."""
        return json.loads(response.content.decode("utf-8"))


def _form_value(value: t.Any) -> t.Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, Repeated):
        return list(value) if len(value) != 1 else value[0]
    if isinstance(value, (list, tuple)):
        return ",".join(str(item) for item in value)
    return value


def _pause(attempt: int) -> float:
    """Seconds before the next try: growing, with jitter so that several clients do not meet again."""
    return min(0.2 * 2 ** (attempt - 1), 5.0) * random.uniform(0.5, 1.5)


def _tries_for(method: str, failure: Failure) -> int:
    """How often a request may be sent in all, given how it failed.

    A write is only repeated when the answer itself says that nothing was executed: the configuration's lock was not
    to be had. A read is repeated whenever the answer is not about the request.
    """
    if failure.code == "lock_timeout":
        return LOCK_TRIES
    if method == "GET" and failure.code in ("unreachable", "timeout", "node_offline", "api_error"):
        return READ_TRIES if failure.code != "api_error" else 3
    return 1


def _answer_or_failure(error: t.Any) -> t.Any:
    """The failure that an error answer stands for (raised), or the answer of a pvesh that only warned."""
    if getattr(error, "exit_code", None) == 0:
        return _last_json(str(error.content))
    status = int(error.status_code)
    text = str(error.content or error.status_message or "").strip()
    errors = _parameter_errors(error, text)
    text = text.removeprefix(f"{status} ")  # pvesh puts the status in front
    if errors:
        named = "; ".join(f"{name}: {reason}" for name, reason in sorted(errors.items()))
        text = f"{text.partition(chr(10))[0].strip(' .')}: {named}"
    code, hint, facts = classify(status, text)
    if status in UNAVAILABLE and code == "api_error":
        code, hint = "node_offline", "The node does not answer; bring it back or choose another one."
    message = f"Proxmox answered: {' '.join(text.split())}" if text else f"Proxmox answered with status {status}."
    details: dict[str, t.Any] = {**facts, "status": status}
    if errors:
        details["errors"] = errors
    raise Failure(code, message, hint, **details)


def _parameter_errors(error: t.Any, text: str) -> dict[str, str]:
    """What is wrong with each parameter: from the body of an answer, or from what pvesh printed."""
    if isinstance(error.errors, dict):
        # Of a body that is no JSON, proxmoxer makes an entry of bytes.
        return {str(name): why.strip() for name, why in error.errors.items() if isinstance(why, str)}
    lines = text.splitlines() if text.startswith("400 Parameter verification failed.") else []
    # pvesh prints them line by line, and after an empty line how it is used.
    named = (line.partition(": ") for line in itertools.takewhile(str.strip, lines[1:]))
    return {name: why.strip() for name, colon, why in named if colon}


def _last_json(text: str) -> t.Any:
    """The JSON at the end of what pvesh printed, after the log of the task."""
    lines = text.splitlines()
    for start in range(len(lines)):
        try:
            return json.loads("\n".join(lines[start:]))
        except ValueError:
            continue
    return None


def _login_refused(it: Credentials, status: str = "401") -> Failure:
    if status in map(str, UNAVAILABLE):
        return Failure(
            "node_offline",
            f"{it.host}:{it.port} answered the login with status {status}.",
            "The node does not answer; bring it back or choose another one.",
        )
    return Failure(
        "authentication_failed",
        f"Proxmox refused the login of {it.user} at {it.host}:{it.port}.",
        "Check the user with its realm (such as root@pam) and the password. A user with a second factor needs a token.",
        user=it.user,
    )


def _connection_failure(error: Exception, it: Credentials) -> Failure:
    where = f"{it.host}:{it.port}"
    if isinstance(error, requests.exceptions.SSLError):
        return Failure(
            "certificate_invalid",
            f"The certificate of {where} could not be verified: {_reason(error)}.",
            "Give the cluster's CA (/etc/pve/pve-root-ca.pem) with 'ca_path', or set 'validate_certs: false'.",
        )
    if isinstance(error, OSError) and "invalid path" in str(error):
        return Failure("certificate_invalid", f"{error}.", "Check 'ca_path'.")
    if isinstance(error, requests.exceptions.ReadTimeout):
        return Failure(
            "timeout",
            f"{where} did not answer within {it.timeout:g} s.",
            "Raise 'api_timeout', or check the load of the node.",
        )
    return Failure(
        "unreachable",
        f"{where} could not be reached: {_reason(error)}.",
        "Check 'api_host', 'api_port' and the network.",
    )


def _reason(error: BaseException) -> str:
    """The innermost reason of a connection error, without the objects that urllib3 puts around it."""
    reason: t.Any = error
    while True:
        inner = getattr(reason, "reason", None)
        if inner is None and reason.args and isinstance(reason.args[-1], BaseException):
            inner = reason.args[-1]
        if not isinstance(inner, BaseException):
            break
        reason = inner
    text = str(reason)
    return text.split(": ", 1)[1] if isinstance(reason, urllib3.exceptions.HTTPError) and ": " in text else text
