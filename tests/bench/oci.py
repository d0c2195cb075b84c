# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures images, bundles and starts against the same by hand; writes the tables of docs/oci.md.

By hand is ``skopeo copy`` and ``umoci unpack`` from a registry on this machine, and ``crun run --detach``. Of a start
the time that Ansible's own ``ping`` takes is taken off, which is what any module costs.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import typing as t
import uuid
from pathlib import Path

from ansible_collections.lxcri.proxmox.tests.oci.bundles import make_bundle
from ansible_collections.lxcri.proxmox.tests.oci.cgroups import inside
from ansible_collections.lxcri.proxmox.tests.oci.images import Built, build
from ansible_collections.lxcri.proxmox.tests.oci.registry import PASSWORD, USER, Registry
from ansible_collections.lxcri.proxmox.tests.oci.tools import install

ROOT = Path(__file__).resolve().parents[2]
MARK_BEGIN, MARK_END = "<!-- measured by dev/bench: begin -->", "<!-- measured by dev/bench: end -->"
REPEATS, STARTS = 5, 20
# What is in the image: files that every Debian has, in layers of this many bytes.
TREES = ("/usr/bin", "/usr/lib/x86_64-linux-gnu", "/usr/share/doc", "/usr/lib/python3")
LAYERS, LAYER_BYTES = 4, 90 << 20
MEGABIT = 1_000_000 / 8


class Slow:
    """A way to the registry that lets through so many bytes a second."""

    def __init__(self, port: int, rate: float) -> None:
        self._target, self._rate = port, rate
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._lock = threading.Lock()
        self._free_at = 0.0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _address = self._server.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                threading.Thread(target=self._pump, args=(client, server, None), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, self._rate), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, rate: float | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if rate:
                    with self._lock:
                        self._free_at = max(self._free_at, time.monotonic()) + len(data) / rate
                        pause = self._free_at - time.monotonic()
                    time.sleep(max(0.0, pause))
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """Nothing more is let through."""
        self._server.close()


def make_image(directory: Path) -> Built:
    """An image of files of this machine."""
    files = (path for tree in TREES for path in sorted(Path(tree).rglob("*")) if path.is_file() or path.is_symlink())
    layers = []
    for number in range(LAYERS):
        path, size = directory / f"{number}.tar", 0
        with tarfile.open(path, "w") as archive:
            for file in files:
                archive.add(file, str(file).lstrip("/"), recursive=False)
                size += file.lstat().st_size
                if size > LAYER_BYTES:
                    break
        layers.append(path.read_bytes())
        path.unlink()
    return build(*layers, config={"Cmd": ["sh"]})


def timed(argv: t.Sequence[str], given: t.Any = None) -> float:
    """The seconds of a command, which must not fail. given: what it reads, as JSON."""
    begin = time.perf_counter()
    done = subprocess.run(
        list(argv),
        input=json.dumps(given) if given else "",
        capture_output=True,
        text=True,
        # All modules have been compiled before, not those of ansible-core alone.
        env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        check=False,
    )
    taken = time.perf_counter() - begin
    if done.returncode or '"failed": true' in done.stdout:
        raise SystemExit(f"{argv[0]} failed: {done.stdout}{done.stderr}")
    return taken


def module(name: str, **params: t.Any) -> tuple[list[str], dict[str, t.Any]]:
    """A module as a command, and what it reads."""
    path = "ansible.modules.ping" if name == "ping" else f"ansible_collections.lxcri.proxmox.plugins.modules.{name}"
    return [sys.executable, "-m", path], {"ANSIBLE_MODULE_ARGS": {**params, "_ansible_remote_tmp": "/tmp"}}


def alternately(ways: t.Mapping[str, t.Callable[[], float]], repeats: int) -> dict[str, float]:
    """The median of each way; they take turns."""
    runs: dict[str, list[float]] = {name: [] for name in ways}
    for _repeat in range(repeats):
        for name, way in ways.items():
            runs[name].append(way())
    return {name: statistics.median(values) for name, values in runs.items()}


def measure_pull(registry: Registry, port: int, work: Path) -> dict[str, float]:
    """Pull alone, and pull with the bundle, each with nothing there and by hand too."""
    host = f"localhost:{port}"
    auth = work / "auth.json"
    login = ["skopeo", "login", "--authfile", str(auth), "--cert-dir", str(registry.certificates())]
    login += ["--username", USER, "--password-stdin", host]
    subprocess.run(login, input=PASSWORD, text=True, capture_output=True, check=True)
    access = {"auth_file": str(auth), "ca_path": str(registry.certificate)}
    copy = [
        "skopeo",
        "--insecure-policy",
        "copy",
        "--quiet",
        "--src-authfile",
        str(auth),
        "--src-cert-dir",
        str(registry.certificates()),
    ]
    image, place = f"{host}/bench/image:1", work / "place"

    def fresh() -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        os.sync()

    def pull_by_hand() -> float:
        fresh()
        return timed([*copy, f"docker://{image}", f"oci:{place}/layout:1"])

    def pull() -> float:
        fresh()
        return timed(*module("oci_image", images=[image], store=f"{place}/store", **access))

    def bundle_by_hand() -> float:
        return pull_by_hand() + timed(["umoci", "unpack", "--image", f"{place}/layout:1", f"{place}/bundle"])

    def bundle() -> float:
        fresh()
        return timed(*module("oci_bundle", image=image, path=f"{place}/bundle", store=f"{place}/store", **access))

    ways = {"pull by hand": pull_by_hand, "pull": pull, "bundle by hand": bundle_by_hand, "bundle": bundle}
    try:
        return alternately(ways, REPEATS)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def measure_start(runtime: str, work: Path) -> dict[str, float]:
    """The start of a container by the module and by hand, and what a module costs that does nothing."""
    bundle = str(make_bundle(work / runtime))
    root = str(work / f"{runtime}-state")

    def removed(name: str) -> None:
        subprocess.run(inside([runtime, "--root", root, "delete", "--force", name]), capture_output=True, check=False)

    def by_hand() -> float:
        name = f"bench-{uuid.uuid4().hex[:8]}"
        command = [runtime, "--root", root, "run", "--detach", "--bundle", bundle, name]
        # What it starts must not keep our pipes.
        taken = timed(["sh", "-c", 'exec "$@" >/dev/null 2>&1', "sh", *inside(command)])
        removed(name)
        return taken

    def start() -> float:
        name = f"bench-{uuid.uuid4().hex[:8]}"
        argv, given = module("oci_container", id=name, bundle=bundle, state="started", runtime=runtime, root=root)
        taken = timed(inside(argv), given)
        removed(name)
        return taken

    def nothing() -> float:
        argv, given = module("ping")
        return timed(inside(argv), given)

    return alternately({"by hand": by_hand, "start": start, "ping": nothing}, STARTS)


def tables(
    size: int, pulls: t.Mapping[str, t.Mapping[str, float]], starts: t.Mapping[str, t.Mapping[str, float]]
) -> str:
    """The measurements as Markdown."""
    lines = [
        f"An image of {size / 1e6:.0f} MB in {LAYERS} layers, medians of {REPEATS}:",
        "",
        "| registry | `skopeo copy` | `oci_image` | | with `umoci unpack` | `oci_bundle` | |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in pulls.items():
        lines.append(
            f"| {name} | {row['pull by hand']:.1f} s | {row['pull']:.1f} s | {row['pull'] / row['pull by hand']:.2f} × "
            f"| {row['bundle by hand']:.1f} s | {row['bundle']:.1f} s | {row['bundle'] / row['bundle by hand']:.2f} × |"
        )
    lines += [
        "",
        f"A start, medians of {STARTS}:",
        "",
        "| | `run --detach` | Ansible's `ping` | `oci_container` | more than both |",
        "|---|---|---|---|---|",
    ]
    for name, row in starts.items():
        more = row["start"] - row["by hand"] - row["ping"]
        lines.append(
            f"| {name} | {row['by hand'] * 1000:.0f} ms | {row['ping'] * 1000:.0f} ms | {row['start'] * 1000:.0f} ms "
            f"| {more * 1000:.0f} ms |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write the tables."""
    install()
    with tempfile.TemporaryDirectory(prefix="lxcri-bench-", dir="/var/tmp") as directory:
        work = Path(directory)
        os.environ["PYTHONPYCACHEPREFIX"] = str(work / "bytecode")
        registry = Registry.start(work / "registry")
        ways = {"100 Mbit/s": Slow(registry.port, 100 * MEGABIT), "1 Gbit/s": Slow(registry.port, 1000 * MEGABIT)}
        try:
            image = make_image(work)
            registry.push(image.write(work / "layout"), "bench/image", "1")
            pulls = {name: measure_pull(registry, way.port, work) for name, way in ways.items()}
            pulls["this machine"] = measure_pull(registry, registry.port, work)
        finally:
            for way in ways.values():
                way.stop()
            registry.stop()
        starts = {runtime: measure_start(runtime, work) for runtime in ("crun", "runc")}
    text = tables(sum(map(len, image.blobs.values())), pulls, starts)
    print(text)
    page = ROOT / "docs/oci.md"
    head, _begin, rest = page.read_text(encoding="utf-8").partition(MARK_BEGIN)
    _old, _end, tail = rest.partition(MARK_END)
    page.write_text(f"{head}{MARK_BEGIN}\n\n{text}\n\n{MARK_END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
