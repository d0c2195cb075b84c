# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services for health checks, as the containers of the simulator do not run anything.

A web server answers on all loopback addresses. The container with the address 127.0.1.N, or any other one of 127/8, is
who is asked there, and whether it works depends on the configuration with which it runs.
"""

from __future__ import annotations

import http.server
import threading
import time
import typing as t

from ansible_collections.lxcri.proxmox.tests.simulator.cluster import Cluster
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator

# The memory with which nothing works.
BAD = 666


class Services:
    """The web server, and what it was asked.

    broken: containers that do not work whatever their configuration is.
    least: how few replicas worked at a time since ``watch``, as seen at every request to the API.
    """

    def __init__(self, cluster: Simulator) -> None:
        self.cluster = cluster
        self.asked: list[str] = []
        self.broken: set[str] = set()
        self.least = 0
        services = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = services.name_at(self.connection.getsockname()[0])
                services.asked.append(name)
                self.send_response(200 if name in services.working() else 500)
                self.end_headers()

            def log_message(self, *_args: t.Any) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def name_at(self, address: str) -> str:
        """The container with an address."""
        with_it = [ct for ct in list(self.cluster.cluster.cts) if f"ip={address}/" in str(ct.config.get("net0"))]
        return str(with_it[0].name) if with_it else ""

    def working(self) -> set[str]:
        """The containers that run with a configuration that is good."""
        running = [ct for ct in list(self.cluster.cluster.cts) if ct.status == "running"]
        return {str(ct.name) for ct in running if int(ct.config["memory"]) != BAD} - self.broken

    def watch(self, *names: str) -> None:
        """Note how few of some containers worked at a time."""
        self.least = len(names)
        simulated: Cluster = self.cluster.cluster
        original = simulated._plain

        async def plain(request: t.Any, handler: t.Any) -> t.Any:
            answer = await original(request, handler)
            self.least = min(self.least, len(self.working() & set(names)))
            return answer

        self.cluster.call(lambda _cluster: setattr(simulated, "_plain", plain))


def wait_for(condition: t.Callable[[], bool], seconds: float = 20) -> None:
    """Wait until something is the case.

    Raises:
        AssertionError: it never was.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
