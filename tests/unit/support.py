# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What several unit tests share: a client that answers from a table, and the end of a wire."""

from __future__ import annotations

import json
import threading
import typing as t
from urllib.parse import parse_qsl, urlsplit

import requests
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import CONNECTIONS, Credentials
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure

ROOT = Credentials(host="pve.example", user="root@pam", password="secret")
TOKEN = Credentials(host="pve.example", user="ci@pve", token_id="t1", token_secret="11111111-2222-3333")


class FakeClient:
    """Answers requests from a table; ``requests`` is what was asked.

    answers: by "GET nodes/pve1/…" or by the path alone; InTurn gives one after the other, a function is called with
    the parameters, and an exception is raised.
    """

    def __init__(self, answers: t.Mapping[str, t.Any], credentials: Credentials = ROOT) -> None:
        self.answers = dict(answers)
        self.credentials = credentials
        self.connections = CONNECTIONS
        self.requests: list[tuple[str, str, dict[str, t.Any]]] = []
        self._lock = threading.Lock()

    def request(self, method: str, path: str, params: t.Mapping[str, t.Any] | None = None) -> t.Any:
        with self._lock:
            self.requests.append((method, path, dict(params or {})))
            for key in (f"{method} {path}", path):
                if key in self.answers:
                    answer = self.answers[key]
                    break
            else:
                raise AssertionError(f"no answer for {method} {path} {params}")
            if isinstance(answer, InTurn):
                answer = answer.next()
        if callable(answer):
            answer = answer(**(params or {}))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def get(self, path: str, **params: t.Any) -> t.Any:
        return self.request("GET", path, params)

    def post(self, path: str, params: t.Mapping[str, t.Any] | None = None) -> t.Any:
        return self.request("POST", path, params)

    def put(self, path: str, params: t.Mapping[str, t.Any] | None = None) -> t.Any:
        return self.request("PUT", path, params)

    def delete(self, path: str, params: t.Mapping[str, t.Any] | None = None) -> t.Any:
        return self.request("DELETE", path, params)

    def paths(self, method: str = "GET") -> list[str]:
        """The paths that were asked for by a method."""
        return [path for asked, path, _params in self.requests if asked == method]


class InTurn:
    """Several answers to the same request, one after the other; the last one stays."""

    def __init__(self, *answers: t.Any) -> None:
        self._left = list(answers)

    def next(self) -> t.Any:
        return self._left.pop(0) if len(self._left) > 1 else self._left[0]


def not_found(vmid: int) -> Failure:
    """What reading a container that does not exist raises."""
    return Failure("not_found", f"Proxmox answered: Configuration file 'nodes/pve1/lxc/{vmid}.conf' does not exist")


class Wire:
    """Stands in for the network below requests: answers in turn, the last one for ever.

    An answer is (status, reason, body) or an exception. ``sent`` is what went out.
    """

    def __init__(self, *answers: t.Any) -> None:
        self.answers = list(answers)
        self.sent: list[dict[str, t.Any]] = []
        self._lock = threading.Lock()

    def send(self, request: requests.PreparedRequest, **options: t.Any) -> requests.Response:
        url = urlsplit(str(request.url))
        body = request.body.decode() if isinstance(request.body, bytes) else request.body
        with self._lock:
            self.sent.append(
                {
                    "method": request.method,
                    "path": url.path.removeprefix("/api2/json/"),
                    "query": dict(parse_qsl(url.query, keep_blank_values=True)),
                    "form": dict(parse_qsl(body or "", keep_blank_values=True)),
                    "headers": dict(request.headers),
                    "verify": options.get("verify"),
                    "timeout": options.get("timeout"),
                }
            )
            if url.path.endswith("/access/ticket") and not isinstance(self.answers[0], Login):
                answer: t.Any = ticket()
            else:
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        answer = answer.answer if isinstance(answer, Login) else answer
        if isinstance(answer, Exception):
            raise answer
        status, reason, content = answer
        response = requests.Response()
        response.status_code = status
        response.reason = reason
        response.request = request
        response.url = str(request.url)
        response.encoding = "utf-8"
        response._content = (content if isinstance(content, str) else json.dumps(content)).encode()
        return response

    @property
    def calls(self) -> list[str]:
        """Method and path of everything but logins."""
        return [f"{call['method']} {call['path']}" for call in self.sent if call["path"] != "access/ticket"]

    @property
    def logins(self) -> int:
        return sum(call["path"] == "access/ticket" for call in self.sent)


class Login:
    """An answer to a login; other logins succeed."""

    def __init__(self, answer: t.Any) -> None:
        self.answer = answer


def ok(data: t.Any = None) -> tuple[int, str, dict[str, t.Any]]:
    """A success."""
    return 200, "OK", {"data": data}


def ticket() -> tuple[int, str, dict[str, t.Any]]:
    """The answer to a login."""
    return ok({"ticket": "PVE:root@pam:AAAA", "CSRFPreventionToken": "BBBB", "username": "root@pam"})


def refused(reason: str, status: int = 500) -> tuple[int, str, dict[str, t.Any]]:
    """An error as Proxmox sends it: the text in the status line and in the body."""
    return status, reason, {"data": None, "message": f"{reason}\n"}
