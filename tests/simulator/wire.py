# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP side: which requests came over which connections, and the answers that are not JSON."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
import typing as t
from dataclasses import asdict, dataclass, field
from urllib.parse import parse_qsl, unquote

from aiohttp import web
from fakepve.model import PveError
from fakepve.server import SECRET_KEYS, FakePve, collect

PREFIX = "/api2/json"


@dataclass
class Request:
    """One request as a client sent it."""

    method: str
    path: str  # below /api2/json
    params: dict[str, t.Any] = field(default_factory=dict)
    connection: int = 0
    status: int = 0  # of the answer; 0 while there is none
    started: float = 0.0
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Requests(list[Request]):
    """Every request since the start or the last clear()."""

    @property
    def writes(self) -> list[Request]:
        """Those that may change something; a login does not."""
        return [request for request in self if request.method != "GET" and request.path != "/access/ticket"]

    @property
    def lines(self) -> list[str]:
        """Method and path of each."""
        return [str(request) for request in self]

    @property
    def connections(self) -> int:
        """Over how many connections they came."""
        return len({request.connection for request in self})

    def to_json(self) -> list[dict[str, t.Any]]:
        """As plain data."""
        return [asdict(request) for request in self]


async def given(request: web.Request) -> dict[str, t.Any]:
    """The parameters of a request as sent, with those that are empty."""
    values: dict[str, t.Any] = collect(parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True))
    body = await request.read()
    if not body or request.content_type == "multipart/form-data":
        return values
    if request.content_type != "application/json":
        return {**values, **collect(parse_qsl(body.decode(), keep_blank_values=True))}
    try:
        content = json.loads(body)
    except ValueError as error:  # errors-248
        text = f"malformed JSON string, neither tag, array, object, number, string or atom: {error}"
        raise PveError(500, text) from None
    if not isinstance(content, dict):  # errors-249
        raise PveError(500, "Not a HASH reference at /usr/share/perl5/PVE/APIServer/AnyEvent.pm line 978.")
    return {**values, **content}


class Wire(FakePve):
    """Adds the journal, latency in real seconds and strict methods."""

    def __init__(self, *args: t.Any, **options: t.Any) -> None:
        super().__init__(*args, **options)
        self.journal = Requests()
        # Real seconds before every answer.
        self.latency = 0.0
        self._peers: dict[t.Any, int] = {}

    def _build_app(self) -> web.Application:
        app = super()._build_app()
        app.middlewares.insert(0, self._journalled)
        return app

    async def start(self, certfile: str, keyfile: str) -> None:
        """Listen; stop() does not wait for clients that hang."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certfile, keyfile)
        self.runner = web.AppRunner(self._build_app(), access_log=None, shutdown_timeout=0.2)
        await self.runner.setup()
        await web.TCPSite(self.runner, self.host, self.port, ssl_context=context).start()
        self.port = self.runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening, and close what clients have left open without waiting for their farewell."""
        if self.runner:
            transports = [handler.transport for handler in self.runner.server.connections]
            await super().stop()
            for transport in filter(None, transports):
                transport.abort()
            await asyncio.sleep(0.01)

    def _connection(self, request: web.Request) -> int:
        """A number for the TCP connection."""
        peer = request.transport.get_extra_info("peername") if request.transport else None
        return self._peers.setdefault(peer, len(self._peers) + 1)

    @web.middleware
    async def _journalled(self, request: web.Request, handler: t.Any) -> web.StreamResponse:
        entry = Request(request.method, unquote(request.path).removeprefix(PREFIX), {}, self._connection(request))
        entry.started = time.monotonic()
        self.journal.append(entry)
        if self.latency:
            await asyncio.sleep(self.latency)
        answer = await self._plain(request, handler)
        entry.params = await self._read(request)
        entry.status, entry.seconds = answer.status, time.monotonic() - entry.started
        return answer

    @staticmethod
    async def _read(request: web.Request) -> dict[str, t.Any]:
        """The parameters as sent, secrets left out."""
        try:
            values = await given(request)
        except (PveError, OSError, ValueError, web.HTTPException):
            return {}
        return {key: "***" if key in SECRET_KEYS else value for key, value in values.items()}

    async def _plain(self, request: web.Request, handler: t.Any) -> web.StreamResponse:
        """Answers that Proxmox gives without a JSON body."""
        if request.method == "DELETE" and await request.read():
            # errors-251, 252
            text = "Unexpected content for method 'DELETE'"
            return web.Response(status=501, reason=text, text=text)
        try:
            answer = await handler(request)
        except web.HTTPNotFound:
            return self._unknown(request)
        if answer.status in (404, 501):
            return self._unknown(request)
        if answer.status == 401 and not request.path.endswith("/access/ticket"):
            # errors-233 to 241
            await asyncio.sleep(getattr(self, "refusal_secs", 0.0))
            return web.Response(status=401, reason=answer.reason, body=b"")
        return answer

    @staticmethod
    def _unknown(request: web.Request) -> web.Response:
        """A path that the API does not have (errors-130, 162 to 165)."""
        path = request.path.removeprefix(PREFIX)
        text = f"Method '{request.method} {path}' not implemented"
        return web.json_response({"data": None, "message": text}, status=501, reason=text)
