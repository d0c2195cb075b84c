# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Inventories of running containers with their addresses, by this collection and by community.proxmox.

Whole runs of ansible-inventory, one after the other, on the same simulator, which takes 30 ms for each request.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

import yaml
from ansible_collections.lxcri.proxmox.tests.bench.bench import Simulator, populate
from ansible_collections.lxcri.proxmox.tests.bench.connection import write_table

ROOT = Path(__file__).resolve().parents[2]
OWN, PEER = "lxcri.proxmox", "community.proxmox"


@dataclass
class Row:
    """One measurement. reading: the time of the run without that of one that reads nothing."""

    job: str
    tool: str
    guests: int
    requests: int
    seconds: float
    reading: float


def run(tool: str, command: str, directory: Path, text: str) -> tuple[float, int]:
    """Seconds and hosts of one run."""
    endings = {OWN: "bench.proxmox_lxc.yml", PEER: "bench.proxmox.yml"}
    path = directory / endings.get(tool, "bench.yml")
    path.write_text(text, encoding="utf-8")
    environment = {**os.environ, "ANSIBLE_INVENTORY_UNPARSED_WARNING": "0"}
    environment.pop("ANSIBLE_CONFIG", None)
    if command != "ansible-inventory":
        # With authorities in the environment, its 'validate_certs: false' has no effect.
        others = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        for name in ("ANSIBLE_COLLECTIONS_PATH", "PYTHONPATH", "VIRTUAL_ENV", *others):
            environment.pop(name, None)
        environment["PATH"] = f"{Path(command).parent}:{environment['PATH']}"
        environment["ANSIBLE_INVENTORY_ENABLED"] = "auto,yaml"
    began = time.monotonic()
    done = subprocess.run(
        [command, "-i", str(path), "--list"],
        env=environment,
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - began
    if done.returncode != 0:
        sys.exit(f"{command} failed:\n{done.stderr[-3000:]}")
    return seconds, len(json.loads(done.stdout)["_meta"]["hostvars"])


def source(simulator: Simulator, tool: str, facts: bool) -> str:
    """The file of an inventory."""
    options = simulator.connection(peer=tool == PEER)
    if tool == OWN:
        return yaml.safe_dump({"plugin": "lxcri.proxmox.lxc", **options, "gather": ["interfaces"] if facts else []})
    peers = {
        "plugin": "community.proxmox.proxmox",
        "url": f"https://{options['api_host']}:{options['api_port']}",
        "user": options["api_user"],
        "token_id": options["api_token_id"],
        "token_secret": options["api_token_secret"],
        "validate_certs": False,
        "want_facts": facts,
        "exclude_nodes": True,
    }
    return yaml.safe_dump(peers)


def measure(tool: str, command: str, count: int, facts: bool, repeats: int) -> Row:
    """The median of some runs."""
    with Simulator() as simulator, tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        populate(simulator, count)
        nothing = min(run("none", command, directory, "all: {hosts: {one: {}}}")[0] for _repeat in range(3))
        seconds: list[float] = []
        for _repeat in range(repeats):
            simulator.control("/reset", {})
            taken, hosts = run(tool, command, directory, source(simulator, tool, facts))
            if hosts != count:
                sys.exit(f"{tool} has found {hosts} of {count} guests")
            seconds.append(taken)
        requests = int(simulator.control("/stats")["requests"])
    median = statistics.median(seconds)
    row = Row("with addresses" if facts else "without facts", tool, count, requests, median, median - nothing)
    print(
        f"{row.job:15} {count} {tool:18} {requests:5} requests {median:6.2f} s, reading {row.reading:.2f} s", flush=True
    )
    return row


def table(rows: t.Sequence[Row]) -> str:
    """The measurements as Markdown."""
    lines = [
        "| job | guests | inventory | requests | whole run | of it for the inventory |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.job} | {row.guests} | {row.tool} | {row.requests} | {row.seconds:.1f} s | {row.reading:.1f} s |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write the table unless only a part was asked for."""
    parser = argparse.ArgumentParser(prog="dev/bench inventory")
    parser.add_argument("--peer", required=True, help="ansible-playbook with community.proxmox")
    parser.add_argument("--quick", action="store_true", help="50 guests, and the table is not written")
    options = parser.parse_args()
    count = 50 if options.quick else 500
    peer = str(Path(options.peer).with_name("ansible-inventory"))
    rows = []
    for facts in (False, True):
        rows.append(measure(OWN, "ansible-inventory", count, facts, 3))
        # With facts, a run of the other one takes more than a minute.
        rows.append(measure(PEER, peer, count, facts, 1 if facts else 3))
    print()
    print(table(rows))
    if not options.quick:
        write_table(ROOT / "docs/inventory.md", table(rows))


if __name__ == "__main__":
    main()
