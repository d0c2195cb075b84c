# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry that lies, breaks off, waits, and logs in by token: what a real one does not do on demand."""

from __future__ import annotations

import contextlib
import ssl
import threading
import typing as t
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ansible_collections.lxcri.proxmox.tests.oci.images import MANIFEST, Built

IDENTITY = "identity token with spaces"
_BEARER = "a.short.lived.one"


@dataclass
class Gate:
    """A blob of which so many bytes are sent, and the rest when the gate opens."""

    after: int
    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)


class Hostile:
    """A registry in this process. host: as it is written in references.

    statuses: answers by path instead of the right ones. gates: blobs of which only a part is sent at first.
    asked: the paths of all requests. identity: whether an identity token is wanted.
    """

    def __init__(self, tls: tuple[Path, Path] | None, identity: bool = False, port: int = 0) -> None:
        self.manifests: dict[tuple[str, str], tuple[bytes, str]] = {}
        self.blobs: dict[str, bytes] = {}
        self.statuses: dict[str, int] = {}
        self.gates: dict[str, Gate] = {}
        self.asked: list[str] = []
        self.identity = identity
        self.tls = tls
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.registry = self
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._server.server_port
        self.host = f"localhost:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def serve(self, image: Built, repository: str, tag: str = "latest", media_type: str | None = None) -> str:
        """Have an image, with all its manifests; its reference. media_type: as which it is served."""
        self.blobs.update(image.blobs)
        for digest, data in image.blobs.items():
            self.manifests[repository, digest] = (data, MANIFEST)
        served = (image.blobs[image.digest], media_type or image.descriptor["mediaType"])
        self.manifests[repository, tag] = self.manifests[repository, image.digest] = served
        return f"{self.host}/{repository}:{tag}"

    def gate(self, digest: str, after: int = 10) -> Gate:
        """Stop in the middle of a blob."""
        self.gates[digest] = Gate(after)
        return self.gates[digest]

    def downloads(self, digest: str) -> int:
        """How often a blob was asked for."""
        return sum(path.endswith(f"/blobs/{digest}") for path in self.asked)

    def stop(self) -> None:
        """Answer nobody any more."""
        self._server.shutdown()
        self._server.socket.close()
        self._server.close_connections()
        for gate in self.gates.values():
            gate.opened.set()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    registry: Hostile
    daemon_threads = False

    def __init__(self, *args: t.Any) -> None:
        super().__init__(*args)
        self._connections: set[t.Any] = set()

    def process_request(self, request: t.Any, client_address: t.Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: t.Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(2)

    def handle_error(self, request: t.Any, client_address: t.Any) -> None:
        """A client that went away is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: t.Any) -> None:  # noqa: A002 - as http.server has it
        """Say nothing."""

    def do_GET(self) -> None:
        registry = self.server.registry
        registry.asked.append(self.path)
        path = urllib.parse.unquote(self.path)
        if path in registry.statuses:
            # Of "too many requests" skopeo tries again after this many seconds, five times.
            return self._answer(registry.statuses[path], b'{"errors": []}', {"Retry-After": "1"})
        if registry.identity and self.headers.get("Authorization") != f"Bearer {_BEARER}":
            challenge = f'Bearer realm="https://{registry.host}/token",service="hostile"'
            return self._answer(401, b"{}", {"WWW-Authenticate": challenge})
        words = path.split("/")
        if words[-2] == "manifests" and ("/".join(words[2:-2]), words[-1]) in registry.manifests:
            data, media_type = registry.manifests["/".join(words[2:-2]), words[-1]]
            return self._answer(200, data, {"Content-Type": media_type})
        if words[-2] == "manifests":
            return self._answer(404, b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}')
        if words[-2] == "blobs" and words[-1] in registry.blobs:
            return self._blob(words[-1])
        return self._answer(200 if path == "/v2/" else 404, b"{}")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """The token service (docs/spec/auth/oauth.md of the distribution)."""
        given = urllib.parse.parse_qs(self._body().decode())
        self.server.registry.asked.append(self.path)
        if given.get("refresh_token") == [IDENTITY] and given.get("grant_type") == ["refresh_token"]:
            return self._answer(200, f'{{"access_token": "{_BEARER}", "expires_in": 300}}'.encode())
        return self._answer(401, b'{"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}')

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while length := int(self.rfile.readline(), 16):
            body += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _blob(self, digest: str) -> None:
        data = self.server.registry.blobs[digest]
        gate = self.server.registry.gates.get(digest)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if gate:
            self.wfile.write(data[: gate.after])
            gate.reached.set()
            gate.opened.wait(60)
            data = data[gate.after :]
        self.wfile.write(data)

    def _answer(self, status: int, data: bytes, headers: t.Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
