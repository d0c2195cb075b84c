# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures: `cluster`, a simulated cluster inside the test's process, and `simulator`, one in a process of its own.

A conftest.py imports them:

    from ansible_collections.lxcri.proxmox.tests.simulator.plugin import certificates, cluster, simulator  # noqa: F401

A test sets what differs from the defaults by a parameter:

    @pytest.mark.parametrize("cluster", [{"lag": 0, "time_scale": 0}], indirect=True)
"""

from __future__ import annotations

import json
import subprocess
import sys
import typing as t
import urllib.request
from pathlib import Path

import pytest

from .cluster import Cluster
from .serving import Simulator, make_certificates

# A task of three seconds takes 60 ms.
TIME_SCALE = 0.02


def start(certificates: tuple[Path, Path, Path], **settings: t.Any) -> Simulator:
    """A running cluster; settings are attributes of Cluster, and `nodes`."""
    nodes = settings.pop("nodes", None)
    cluster = Cluster(nodes=nodes) if nodes else Cluster()
    for name, value in {"time_scale": TIME_SCALE, **settings}.items():
        if not hasattr(cluster, name):
            raise AttributeError(f"a cluster has no setting {name}")
        current = getattr(cluster, name)
        if isinstance(current, dict):
            current.update(value)
        else:
            setattr(cluster, name, value)
    return Simulator(cluster, certificates)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(ca, certificate, key) that all clusters of the session use."""
    return make_certificates(tmp_path_factory.mktemp("simulator"))


@pytest.fixture
def cluster(request: pytest.FixtureRequest, certificates: tuple[Path, Path, Path]) -> t.Iterator[Simulator]:
    """A fresh cluster for this test."""
    with start(certificates, **getattr(request, "param", {})) as running:
        yield running


class Process:
    """A simulator in a process of its own, driven through its control port."""

    def __init__(self, directory: Path, *options: str) -> None:
        command = [sys.executable, str(Path(__file__).with_name("serve.py")), "--directory", str(directory), *options]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            raise RuntimeError("the simulator has not started")
        self.address: dict[str, t.Any] = json.loads(line)

    @property
    def options(self) -> dict[str, t.Any]:
        """The options by which a module reaches it."""
        user, _bang, token = self.address["token_id"].partition("!")
        return {
            "api_host": self.address["host"],
            "api_port": self.address["port"],
            "ca_path": self.address["ca_path"],
            "api_user": user,
            "api_token_id": token,
            "api_token_secret": self.address["token_secret"],
        }

    @property
    def environment(self) -> dict[str, str]:
        """The same as environment variables."""
        return {f"PROXMOX_{key.removeprefix('api_').upper()}": str(value) for key, value in self.options.items()}

    def control(self, path: str, body: t.Any = None) -> t.Any:
        """GET a path of the control port, or POST a body to it."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address["control_url"] + path, data)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def fault(self, method: str, *args: t.Any, **options: t.Any) -> t.Any:
        """Call a method of the cluster that the control port allows."""
        return self.control("/fault", {"method": method, "args": args, "kwargs": options})

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.communicate(timeout=20)

    def close(self) -> None:
        """Close its standard input, as when this process had died."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self) -> int:
        """Its exit status."""
        status = self._process.wait(timeout=20)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return status


@pytest.fixture
def simulator(request: pytest.FixtureRequest, tmp_path: Path) -> t.Iterator[Process]:
    """A fresh cluster in a process of its own; a parameter is a list of options for serve.py."""
    defaults = ["--time-scale", str(TIME_SCALE)]
    process = Process(tmp_path / "simulator", *defaults, *getattr(request, "param", []))
    try:
        yield process
    finally:
        process.stop()
