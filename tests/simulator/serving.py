# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Cluster served over TLS from a thread of its own, with an optional plain-HTTP port to control it."""

from __future__ import annotations

import asyncio
import datetime
import inspect
import ipaddress
import threading
import typing as t
from pathlib import Path

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .cluster import PASSWORD, TOKEN_ID, TOKEN_SECRET, USER, Cluster
from .wire import Requests

HOST = "127.0.0.1"
PATIENCE = 30.0
# What the control port may call on the cluster.
FAULTS = frozenset(
    [
        "lose_quorum",
        "regain_quorum",
        "set_node_offline",
        "hold_config_lock",
        "release_config_lock",
        "backup",
        "migrate",
        "snapshot_lock",
        "unlock",
        "slow_network",
        "flaky_network",
        "revoke_tickets",
        "fail",
        "clear_failures",
        "grant",
        "add_user",
        "add_token",
        "store_file",
        "publish",
        "serve",
        "set_storage",
        "set_option",
    ]
)
# The settings that set_option changes.
OPTIONS = frozenset(
    [
        "lag",
        "latency",
        "refusal_secs",
        "time_scale",
        "start_secs",
        "ticket_ttl",
        "lock_wait",
        "dhcp_secs",
        "shutdown_default_timeout",
        "tfa",
    ]
)


def make_certificates(directory: Path, host: str = HOST) -> tuple[Path, Path, Path]:
    """An authority and a server certificate for the address, as a cluster has them: (ca, certificate, key)."""
    now = datetime.datetime.now(datetime.timezone.utc)
    lifetime = (now - datetime.timedelta(days=1), now + datetime.timedelta(days=30))

    def certificate(
        name: str, key: ec.EllipticCurvePrivateKey, issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None
    ) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer_name, issuer_key = issuer or (subject, key)
        unused = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        usage = dict.fromkeys((*unused, "encipher_only", "decipher_only"), False)
        usage |= {"digital_signature": issuer is not None, "key_cert_sign": issuer is None, "crl_sign": issuer is None}
        builder = (
            x509.CertificateBuilder(issuer_name, subject, key.public_key(), x509.random_serial_number(), *lifetime)
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        )
        if issuer:
            names = [x509.IPAddress(ipaddress.ip_address(host)), x509.DNSName("localhost")]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
            builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        return builder.sign(issuer_key, hashes.SHA256())

    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _key in range(2))
    authority = certificate("Simulated Proxmox Virtual Environment", authority_key, None)
    server = certificate("pve1", server_key, (authority.subject, authority_key))
    directory.mkdir(parents=True, exist_ok=True)
    ca, cert, key = directory / "ca.pem", directory / "server.pem", directory / "server.key"
    ca.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    cert.write_bytes(server.public_bytes(serialization.Encoding.PEM))
    key.touch(0o600)
    plain = serialization.NoEncryption()
    key.write_bytes(
        server_key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, plain)
    )
    return ca, cert, key


class Simulator:
    """A running cluster, and how to reach it.

    Everything that touches the cluster from outside goes through call(), which runs it in the cluster's own thread.
    """

    user, password, token_id, token_secret = USER, PASSWORD, TOKEN_ID, TOKEN_SECRET

    def __init__(
        self, cluster: Cluster, certificates: tuple[Path, Path, Path], port: int = 0, control: bool = False
    ) -> None:
        self.cluster = cluster
        self.control_url = ""
        self.ca_path = str(certificates[0])
        cluster.host, cluster.port = HOST, port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="simulator", daemon=True)
        self._control: web.AppRunner | None = None
        self._thread.start()
        try:
            self._await(cluster.start(*map(str, certificates[1:])))
            if control:
                self._await(self._start_control())
        except BaseException:
            self.stop()
            raise

    # ------------------------------------------------------- where and who

    @property
    def host(self) -> str:
        """The address it listens on."""
        return str(self.cluster.host)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.cluster.port)

    @property
    def url(self) -> str:
        """https://host:port"""
        return f"https://{self.host}:{self.port}"

    @property
    def options(self) -> dict[str, t.Any]:
        """The options by which a module reaches it."""
        user, _bang, token = self.token_id.partition("!")
        return {
            "api_host": self.host,
            "api_port": self.port,
            "ca_path": self.ca_path,
            "api_user": user,
            "api_token_id": token,
            "api_token_secret": self.token_secret,
        }

    @property
    def environment(self) -> dict[str, str]:
        """The same as environment variables."""
        return {f"PROXMOX_{key.removeprefix('api_').upper()}": str(value) for key, value in self.options.items()}

    @property
    def address(self) -> dict[str, t.Any]:
        """All of it, as a launcher prints it."""
        names = ("host", "port", "ca_path", "user", "password", "token_id", "token_secret", "control_url")
        return {name: getattr(self, name) for name in names}

    # ------------------------------------------------------------ the rest

    @property
    def requests(self) -> Requests:
        """What clients have sent."""
        return self.cluster.journal

    def call(self, method: str | t.Callable[[Cluster], t.Any], *args: t.Any, **options: t.Any) -> t.Any:
        """Call a method of the cluster, by its name, or a function with the cluster, in the cluster's thread."""

        async def run() -> t.Any:
            if callable(method):
                result = method(self.cluster, *args, **options)
            else:
                result = getattr(self.cluster, method)(*args, **options)
            return await result if inspect.isawaitable(result) else result

        return self._await(run())

    def stop(self) -> None:
        """End the server, its tasks and its thread."""
        if not self._loop.is_closed():
            try:
                self._await(self._shut_down())
            finally:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join(PATIENCE)
                self._loop.close()

    def __enter__(self) -> Simulator:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _await(self, coroutine: t.Coroutine[t.Any, t.Any, t.Any]) -> t.Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    async def _shut_down(self) -> None:
        await self.cluster.stop()
        if self._control:
            await self._control.cleanup()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    # ------------------------------------------------------------- control

    async def _start_control(self) -> None:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_get("/requests", self._get_requests)
        app.router.add_delete("/requests", self._reset)
        app.router.add_post("/reset", self._reset)
        app.router.add_get("/stats", self._get_stats)
        app.router.add_get("/table", self._get_table)
        app.router.add_post("/fault", self._post_fault)
        app.router.add_post("/containers", self._post_containers)
        self._control = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._control.setup()
        await web.TCPSite(self._control, HOST, 0).start()
        self.control_url = f"http://{HOST}:{self._control.addresses[0][1]}"

    async def _get_requests(self, _request: web.Request) -> web.Response:
        return web.json_response(self.requests.to_json())

    async def _reset(self, _request: web.Request) -> web.Response:
        self.requests.clear()
        return web.json_response(None)

    async def _get_stats(self, _request: web.Request) -> web.Response:
        by_line: dict[str, int] = {}
        for line in self.requests.lines:
            by_line[line] = by_line.get(line, 0) + 1
        stats = {"requests": len(self.requests), "writes": len(self.requests.writes), "by_line": by_line}
        return web.json_response({**stats, "connections": self.requests.connections})

    async def _get_table(self, _request: web.Request) -> web.Response:
        return web.json_response(self.cluster.table())

    async def _post_fault(self, request: web.Request) -> web.Response:
        fault = await request.json()
        method, args, options = fault["method"], fault.get("args", []), fault.get("kwargs", {})
        if method not in FAULTS:
            raise web.HTTPBadRequest(text=f"{method} is not one of {', '.join(sorted(FAULTS))}")
        if method == "set_option" and args[0] not in OPTIONS:
            raise web.HTTPBadRequest(text=f"{args[0]} is not one of {', '.join(sorted(OPTIONS))}")
        result = getattr(self.cluster, method)(*args, **options)
        if inspect.isawaitable(result):
            result = await result
        return web.json_response(result if isinstance(result, (str, int, float, type(None))) else None)

    async def _post_containers(self, request: web.Request) -> web.Response:
        containers = (await request.json())["containers"]
        self.cluster.add_containers(containers)
        return web.json_response({"added": len(containers)})
