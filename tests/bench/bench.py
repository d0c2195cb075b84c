# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole ansible-playbook runs against the simulator, timed and counted from outside.

Each measurement has a fresh three-node simulator with 30 ms a request, creation 3 s, start 1 s and snapshot 1 s.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
import typing as t
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
NODES = 3
LATENCY, CREATE, START, SNAPSHOT = 0.03, 3.0, 1.0, 1.0
# Containers in work on each node: the default, and what a node with fast storage takes.
CONCURRENCIES = (4, 8)
CONNECTIONS = 12
OWN = "ansible-playbook"
TEMPLATE = "local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst"
MARK_BEGIN, MARK_END = "<!-- measured by dev/bench: begin -->", "<!-- measured by dev/bench: end -->"


@dataclass
class Row:
    """One measurement."""

    job: str
    containers: int
    tool: str
    concurrency: int
    requests: int
    connections: int
    seconds: float
    ideal: float | None
    mebibytes: int


class Simulator:
    """A simulator process for one measurement."""

    def __enter__(self) -> Simulator:
        command = [sys.executable, str(ROOT / "tests/simulator/serve.py"), "--port", "0", "--nodes", str(NODES)]
        command += ["--latency", str(LATENCY), "--create-secs", str(CREATE), "--start-secs", str(START)]
        command += ["--snapshot-secs", str(SNAPSHOT), "--lag", "0"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.address: dict[str, t.Any] = json.loads(self._process.stdout.readline())
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)

    def control(self, path: str, body: t.Any = None) -> t.Any:
        """A request to the simulator's control port."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address["control_url"].rstrip("/") + path, data=data)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def connection(self, peer: bool) -> dict[str, t.Any]:
        """The options by which a module reaches the simulator."""
        user, _bang, token = self.address["token_id"].partition("!")
        options = {
            "api_host": self.address["host"],
            "api_port": self.address["port"],
            "api_user": user,
            "api_token_id": token,
            "api_token_secret": self.address["token_secret"],
        }
        return {**options, "validate_certs": False} if peer else {**options, "ca_path": self.address["ca_path"]}


def names(count: int) -> list[str]:
    """The hostnames of a fleet."""
    return [f"bench-{number}" for number in range(1, count + 1)]


def play(tasks: list[dict[str, t.Any]]) -> list[dict[str, t.Any]]:
    """A play on localhost."""
    return [{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]


def own_fleet(connection: dict[str, t.Any], count: int, concurrency: int) -> list[dict[str, t.Any]]:
    """The fleet as this collection declares it."""
    defaults = {"template": TEMPLATE, "rootfs": {"storage": "local-zfs", "size": "4G"}, "memory": 256}
    fleet = {"defaults": defaults, "containers": [{"hostname": name} for name in names(count)]}
    return [{"lxcri.proxmox.lxc_fleet": {**connection, "concurrency": concurrency, **fleet}}]


def own_snapshot(connection: dict[str, t.Any], count: int, concurrency: int) -> list[dict[str, t.Any]]:
    """One snapshot of each container."""
    options = {"hostname": names(count), "name": "bench", "state": "present", "concurrency": concurrency}
    return [{"lxcri.proxmox.lxc_snapshot": {**connection, **options}}]


def peer_fleet(connection: dict[str, t.Any], count: int, _concurrency: int) -> list[dict[str, t.Any]]:
    """The same fleet by community.proxmox: a task to create and one to start, each in a loop."""
    loop = [{"hostname": name, "node": f"pve{number % NODES + 1}"} for number, name in enumerate(names(count))]
    create = {"node": "{{ item.node }}", "ostemplate": TEMPLATE, "disk": "local-zfs:4", "memory": 256}
    common = {**connection, "hostname": "{{ item.hostname }}", "timeout": 120}
    return [
        {"community.proxmox.proxmox": {**common, **create, "state": "present"}, "loop": loop},
        {"community.proxmox.proxmox": {**common, "state": "started"}, "loop": loop},
    ]


def peer_snapshot(connection: dict[str, t.Any], count: int, _concurrency: int) -> list[dict[str, t.Any]]:
    """One snapshot of each container by community.proxmox."""
    options = {"hostname": "{{ item }}", "snapname": "bench", "state": "present", "timeout": 120}
    return [{"community.proxmox.proxmox_snap": {**connection, **options}, "loop": names(count)}]


def ideal(job: str, count: int, concurrency: int) -> float:
    """The least wall time that the node's tasks, or the requests over the connections, take."""
    per_node = math.ceil(count / NODES)
    if job == "create + start":
        return math.ceil(per_node / concurrency) * (CREATE + START)
    if job == "snapshot":
        return math.ceil(per_node / concurrency) * SNAPSHOT
    return math.ceil((count + NODES + 1) / CONNECTIONS) * LATENCY


def measure(simulator: Simulator, playbook: str, tasks: list[dict[str, t.Any]]) -> tuple[float, int, int, int]:
    """Seconds, requests and connections of one run, and the largest process of all runs so far in MiB."""
    simulator.control("/reset", {})
    directory = tempfile.TemporaryDirectory(prefix="bench-")
    page = Path(directory.name, "play.yml")
    page.write_text(yaml.safe_dump(play(tasks)), encoding="utf-8")
    environment = {**os.environ, "ANSIBLE_LOCALHOST_WARNING": "0", "ANSIBLE_INVENTORY_UNPARSED_WARNING": "0"}
    environment.pop("ANSIBLE_CONFIG", None)
    if playbook != OWN:
        # An environment of its own, which has its collections beside ansible-core.
        for name in ("ANSIBLE_COLLECTIONS_PATH", "PYTHONPATH", "VIRTUAL_ENV"):
            environment.pop(name, None)
        environment["PATH"] = f"{Path(playbook).parent}:{environment['PATH']}"
    began = time.monotonic()
    run = subprocess.run(
        [playbook, str(page)], cwd=directory.name, env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - began
    directory.cleanup()
    if run.returncode != 0:
        sys.exit(f"{playbook} failed:\n{run.stdout[-3000:]}\n{run.stderr[-3000:]}")
    stats = simulator.control("/stats")
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return seconds, stats["requests"], stats["connections"], largest // 1024


def populate(simulator: Simulator, count: int) -> None:
    """Put a running fleet into the simulator, as the declaration wants it."""
    fleet = []
    for number, name in enumerate(names(count)):
        vmid = 100 + number
        config = {"hostname": name, "memory": 256, "rootfs": f"local-zfs:subvol-{vmid}-disk-0,size=4G"}
        fleet.append({"vmid": vmid, "node": f"pve{number % NODES + 1}", "status": "running", "config": config})
    simulator.control("/containers", {"containers": fleet})


def jobs(tool: str) -> dict[str, t.Callable[[dict[str, t.Any], int, int], list[dict[str, t.Any]]]]:
    """The tasks of each job by tool."""
    if tool == "lxcri.proxmox":
        return {"create + start": own_fleet, "no-op": own_fleet, "snapshot": own_snapshot}
    return {"create + start": peer_fleet, "no-op": peer_fleet, "snapshot": peer_snapshot}


def compare(tool: str, playbook: str, count: int, only: t.Sequence[str], concurrency: int = 1) -> list[Row]:
    """All jobs of one tool and size, each on what the one before has left."""
    rows = []
    with Simulator() as simulator:
        if "create + start" not in only:
            populate(simulator, count)
        for job, tasks in jobs(tool).items():
            if job not in only:
                continue
            connection = simulator.connection(peer=tool != "lxcri.proxmox")
            seconds, requests, connections, mebibytes = measure(
                simulator, playbook, tasks(connection, count, concurrency)
            )
            least = ideal(job, count, concurrency)
            row = Row(job, count, tool, concurrency, requests, connections, seconds, least, mebibytes)
            rows.append(row)
            print(line(row), flush=True)
    return rows


def line(row: Row) -> str:
    """One measurement for the terminal."""
    what = f"{row.job:15} {row.containers:5} {row.tool:18} {row.concurrency} at a time"
    cost = f"{row.requests:6} requests {row.connections:5} connections {row.seconds:7.1f} s  (ideal {row.ideal:.1f} s)"
    return f"{what} {cost}  {row.mebibytes} MiB"


def table(rows: t.Sequence[Row], started: float) -> str:
    """The measurements as Markdown, with how far ahead of the loop this collection is."""
    largest = max(row.mebibytes for row in rows)
    peers = {(row.job, row.containers): row for row in rows if row.tool != "lxcri.proxmox"}
    lines = [
        f"Starting `ansible-playbook` with one module task costs {started:.1f} s of each run. The largest process of "
        f"any run had {largest} MiB.",
        "",
        "| job | containers | tool | at a time | requests | connections | wall | ideal | ahead of the loop |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        peer = peers.get((row.job, row.containers)) if row.tool == "lxcri.proxmox" else None
        ahead = f"{peer.seconds / row.seconds:.0f} ×" if peer else ""
        lines.append(
            f"| {row.job} | {row.containers} | {row.tool} | {row.concurrency} | {row.requests} | {row.connections} "
            f"| {row.seconds:.1f} s | {row.ideal:.1f} s | {ahead} |"
        )
    return "\n".join(lines)


def write_table(text: str) -> None:
    """Put the table into docs/performance.md between its marks."""
    page = ROOT / "docs/performance.md"
    content = page.read_text(encoding="utf-8")
    head, rest = content.split(MARK_BEGIN)
    tail = rest.split(MARK_END)[1]
    page.write_text(f"{head}{MARK_BEGIN}\n\n{text}\n\n{MARK_END}{tail}", encoding="utf-8")


def start_up(playbook: str) -> float:
    """Seconds of a run with one module task that asks for nothing."""
    with Simulator() as simulator:
        connection = simulator.connection(peer=False)
        task = {"lxcri.proxmox.lxc_container_info": {**connection, "vmid": [999]}}
        return min(measure(simulator, playbook, [task])[0] for _run in range(3))


def main() -> None:
    """Measure, print, and write the table unless only a part was asked for."""
    parser = argparse.ArgumentParser(prog="dev/bench")
    parser.add_argument("--peer", required=True, help="ansible-playbook with community.proxmox")
    parser.add_argument("--sizes", default="1,10,50", help="sizes at which both are measured")
    parser.add_argument("--alone", default="200,1000", help="sizes at which this collection alone is measured")
    parser.add_argument("--quick", action="store_true", help="10 containers only, and the table is not written")
    options = parser.parse_args()
    sizes = [10] if options.quick else [int(size) for size in options.sizes.split(",") if size]
    alone = [] if options.quick else [int(size) for size in options.alone.split(",") if size]
    everything = ("create + start", "no-op", "snapshot")
    rows: list[Row] = []
    started = start_up(OWN)
    print(f"start-up: {started:.2f} s", flush=True)
    for count in sizes:
        for concurrency in CONCURRENCIES if count >= 50 else CONCURRENCIES[:1]:
            rows += compare("lxcri.proxmox", OWN, count, everything, concurrency)
        rows += compare("community.proxmox", options.peer, count, everything)
    for count in alone:
        # Creating a thousand containers takes minutes and tells nothing that two hundred do not.
        only = everything if count < 500 else ("no-op", "snapshot")
        rows += compare("lxcri.proxmox", OWN, count, only, CONCURRENCIES[-1])
    rows.sort(key=lambda row: (everything.index(row.job), row.containers, -ord(row.tool[0]), row.concurrency))
    print()
    print(table(rows, started))
    if not options.quick:
        write_table(table(rows, started))


if __name__ == "__main__":
    main()
