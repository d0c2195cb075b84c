# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks and files in a container, by this collection's connection and by that of community.proxmox.

Both go through the same real sshd of this machine into the same container, one after the other. The node's tools are
the stand-ins of the integration tests. A task's time is what so many of them add to a run with one.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

import yaml
from ansible_collections.lxcri.proxmox.tests.integration.nodes import Nodes

ROOT = Path(__file__).resolve().parents[2]
OWN = "ansible-playbook"
TOOLS = ("lxcri.proxmox", "community.proxmox")
REPEATS = 3
TRANSFERS = 5
MIB = 2**20
MARK_BEGIN, MARK_END = "<!-- measured by dev/bench: begin -->", "<!-- measured by dev/bench: end -->"
# The connection's own calls. Where the file is not needed any more, it goes at once.
TRANSFER = """
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        for name, paths in self._task.args.items():
            getattr(self._connection, f"{name}_file")(*paths)
        return result
"""


@dataclass
class Row:
    """One measurement. seconds: for one task or file."""

    job: str
    tool: str
    seconds: float
    logins: int
    execs: float
    mebibytes: int | None = None


class Bench:
    """A node with a container, and how both tools reach it."""

    def __init__(self, directory: Path, peer: str) -> None:
        self.directory, self._peer = directory, peer
        self.nodes = Nodes(directory)
        self.nodes.pve1.start()
        self.nodes.add("201", "bench", self.nodes.pve1, programs=True)
        (directory / "action_plugins").mkdir()
        (directory / "action_plugins/transfer.py").write_text(TRANSFER, encoding="utf-8")
        common = {
            "proxmox_vmid": 201,
            "ansible_port": self.nodes.port,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(directory / "key"),
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        peers = {
            "ansible_connection": "community.proxmox.proxmox_pct_remote",
            "ansible_host": "127.0.0.1",
            "ansible_host_key_checking": False,
        }
        own = {**self.nodes.variables, "proxmox_node": "pve1"}
        for tool, variables in zip(TOOLS, (own, peers)):
            inventory = {"all": {"hosts": {"bench": {**common, **variables}}}}
            (directory / f"{tool}.yml").write_text(yaml.safe_dump(inventory), encoding="utf-8")

    def run(self, tool: str, tasks: list[dict[str, t.Any]]) -> float:
        """Seconds of a run of ansible-playbook that must not fail."""
        play = [{"hosts": "all", "gather_facts": False, "tasks": tasks}]
        page = self.directory / "play.yml"
        page.write_text(yaml.safe_dump(play), encoding="utf-8")
        environment = {**os.environ, "ANSIBLE_HOME": str(self.directory / "home"), "HOME": str(self.directory)}
        environment.pop("ANSIBLE_CONFIG", None)
        playbook = OWN
        if tool != TOOLS[0]:
            # An environment of its own, which has its collections beside ansible-core.
            playbook = self._peer
            for name in ("ANSIBLE_COLLECTIONS_PATH", "PYTHONPATH", "VIRTUAL_ENV"):
                environment.pop(name, None)
            environment["PATH"] = f"{Path(playbook).parent}:{environment['PATH']}"
        began = time.monotonic()
        done = subprocess.run(
            [playbook, "-i", str(self.directory / f"{tool}.yml"), str(page)],
            cwd=self.directory,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - began
        if done.returncode != 0:
            sys.exit(f"{playbook} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return seconds

    def tasks(self, job: str, task: dict[str, t.Any], count: int) -> list[Row]:
        """What one of many tasks takes, for each tool. They take turns, since a machine is not always as fast."""
        found: dict[str, list[Row]] = {tool: [] for tool in TOOLS}
        for _repeat in range(REPEATS):
            for tool, rows in found.items():
                one = self.run(tool, [task])
                self.nodes.hang_up()
                logins, execs = self.nodes.pve1.logins, len(self.nodes.pve1.calls)
                many = self.run(tool, [task] * (count + 1))
                logins, execs = self.nodes.pve1.logins - logins, len(self.nodes.pve1.calls) - execs
                self.nodes.hang_up()
                rows.append(Row(job, tool, (many - one) / count, logins, execs / (count + 1)))
        medians = [sorted(rows, key=lambda row: row.seconds)[REPEATS // 2] for rows in found.values()]
        for row in medians:
            cost = f"{row.execs:.1f} commands, {row.logins} logins"
            print(f"{job:18} {row.tool:18} {row.seconds:.3f} s, {cost}", flush=True)
        return medians

    def transfers(self, tool: str, mebibytes: int) -> list[Row]:
        """What a file takes in each direction, and the largest process of the controller so far."""
        here, back = self.directory / "large", self.directory / "back"
        if not here.exists():
            with here.open("wb") as file:
                for _block in range(mebibytes):
                    file.write(os.urandom(MIB))
        rows = []
        for job, arguments in (("put", [str(here), "/tmp/large"]), ("fetch", ["/tmp/large", str(back)])):
            task = {"transfer": {job: arguments}}
            costs = [self.run(tool, [task] * (TRANSFERS + 1)) - self.run(tool, [task]) for _repeat in range(REPEATS)]
            seconds = sorted(costs)[REPEATS // 2] / TRANSFERS
            largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
            rows.append(Row(f"{job} {mebibytes} MiB", tool, seconds, 0, 1, largest))
            print(f"{rows[-1].job:20} {tool:18} {seconds:.2f} s, {largest} MiB", flush=True)
        if back.read_bytes() != here.read_bytes():
            sys.exit(f"{tool} has not brought back what it has sent")
        return rows


def table(rows: t.Sequence[Row]) -> str:
    """The measurements as Markdown."""
    lines = [
        "| job | connection | for one | commands on the node | logins | largest process of the controller |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        memory = f"{row.mebibytes} MiB" if row.mebibytes else ""
        execs, logins = (f"{row.execs:.1f}", str(row.logins)) if row.mebibytes is None else ("", "")
        lines.append(f"| {row.job} | {row.tool} | {row.seconds:.2f} s | {execs} | {logins} | {memory} |")
    return "\n".join(lines)


def write_table(page: Path, text: str) -> None:
    """Put a table into a page between its marks."""
    head, _begin, rest = page.read_text(encoding="utf-8").partition(MARK_BEGIN)
    _old, _end, tail = rest.partition(MARK_END)
    page.write_text(f"{head}{MARK_BEGIN}\n\n{text}\n\n{MARK_END}{tail}", encoding="utf-8")


def main() -> None:
    """Measure, print, and write the table unless only a part was asked for."""
    parser = argparse.ArgumentParser(prog="dev/bench connection")
    parser.add_argument("--peer", required=True, help="ansible-playbook with community.proxmox")
    parser.add_argument("--quick", action="store_true", help="few tasks and a small file, and the table is not written")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    bench = None
    rows: list[Row] = []
    try:
        bench = Bench(directory, options.peer)
        count, mebibytes = (5, 10) if options.quick else (40, 100)
        jobs = {"module (command)": {"ansible.builtin.command": "true"}, "raw": {"ansible.builtin.raw": "true"}}
        for job, task in jobs.items():
            rows += bench.tasks(job, task, count)
        for tool in TOOLS:
            rows += bench.transfers(tool, mebibytes)
    finally:
        if bench is not None:
            bench.nodes.stop()
        shutil.rmtree(directory)
    print()
    print(table(rows))
    if not options.quick:
        write_table(ROOT / "docs/connection.md", table(rows))


if __name__ == "__main__":
    main()
