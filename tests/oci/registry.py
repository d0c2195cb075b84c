# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real registry on loopback, with TLS and a password, and what was asked of it."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import typing as t
from pathlib import Path

USER, PASSWORD = "puller", "pass:word with space"
_CONFIG = """version: 0.1
log: {{accesslog: {{disabled: false}}, level: error, formatter: json}}
storage: {{filesystem: {{rootdirectory: {root}/data}}, delete: {{enabled: true}}}}
http:
  addr: 127.0.0.1:{port}
  tls: {{certificate: {root}/cert.pem, key: {root}/key.pem}}
auth: {{htpasswd: {{realm: test, path: {root}/htpasswd}}}}
"""


class Request(t.NamedTuple):
    """What the registry was asked."""

    method: str
    path: str
    status: int


class Registry:
    """``docker-registry`` with its data in a directory. host: as it is written in references."""

    def __init__(self, root: Path, port: int, process: subprocess.Popen[bytes]) -> None:
        self.root, self.port, self.process = root, port, process
        self.host = f"localhost:{port}"
        self.certificate = root / "cert.pem"

    @classmethod
    def start(cls, root: Path) -> Registry:
        """Start one; with a directory that another one has used, with its certificate and data."""
        root.mkdir(parents=True, exist_ok=True)
        if not (root / "cert.pem").exists():
            _run(
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
                *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
                *("-keyout", str(root / "key.pem"), "-out", str(root / "cert.pem")),
            )
            entry = _run("htpasswd", "-Bbn", "-C", "4", USER, PASSWORD)
            (root / "htpasswd").write_text(entry, encoding="utf-8")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (root / "config.yml").write_text(_CONFIG.format(root=root, port=port), encoding="utf-8")
        with (root / "log").open("ab") as log:
            process = subprocess.Popen(
                ["docker-registry", "serve", str(root / "config.yml")],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
            )
        registry = cls(root, port, process)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return registry
            except OSError:
                time.sleep(0.05)
        registry.stop()
        raise RuntimeError((root / "log").read_text("utf-8"))

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def push(self, layout: Path, repository: str, tag: str = "latest") -> str:
        """Copy an image, with all platforms; its reference."""
        reference = f"{self.host}/{repository}:{tag}"
        _run(
            *("skopeo", "--insecure-policy", "copy", "--all", "--quiet", "--dest-creds", f"{USER}:{PASSWORD}"),
            *("--dest-cert-dir", str(self.certificates()), f"oci:{layout}:latest", f"docker://{reference}"),
        )
        return reference

    def certificates(self) -> Path:
        """A directory with the certificate, as skopeo wants it."""
        directory = self.root / "certs"
        directory.mkdir(exist_ok=True)
        (directory / "ca.crt").write_bytes(self.certificate.read_bytes())
        return directory

    def requests(self) -> list[Request]:
        """What was asked since the last time."""
        path = self.root / "log"
        text = path.read_text("utf-8")
        seen = getattr(self, "_seen", 0)
        self._seen = len(text)
        found = []
        for line in text[seen:].splitlines():
            if line.startswith("127.0.0.1 ") and '"' in line:
                method, target, _protocol = line.split('"')[1].split(" ", 2)
                found.append(Request(method, target, int(line.split('"')[2].split()[0])))
        return found


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise RuntimeError(f"{argv[0]}: {done.stdout}{done.stderr}")
    return done.stdout
