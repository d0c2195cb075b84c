# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs ansible-playbook as a user does, and reads what it did."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from ansible_collections.lxcri.proxmox.tests.simulator.plugin import Process

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = "local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst"
# What a new container needs, besides a name and a node.
NEW: dict[str, t.Any] = {
    "template": TEMPLATE,
    "unprivileged": True,
    "rootfs": {"storage": "local-zfs", "size": "4G"},
    "networks": [{"name": "eth0", "bridge": "vmbr0", "ip": "dhcp"}],
    "memory": 256,
}
RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)
PATIENCE = 120.0


@dataclass
class Ran:
    """What a run of ansible-playbook left."""

    status: int
    stdout: str
    stderr: str
    records: list[dict[str, t.Any]]
    # (seconds since the start, line of stdout)
    lines: list[tuple[float, str]] = field(default_factory=list)

    @property
    def changed(self) -> int:
        """How many tasks have changed something, as the recap says."""
        return sum(int(found[2]) for found in RECAP.findall(self.stdout))

    @property
    def failed(self) -> int:
        """How many hosts failed, as the recap says."""
        return sum(int(found[4]) for found in RECAP.findall(self.stdout))

    def result(self, task: str) -> dict[str, t.Any]:
        """The result of the only task with this name."""
        [found] = [record["result"] for record in self.records if record["task"] == task]
        return t.cast("dict[str, t.Any]", found)

    def succeeded(self) -> Ran:
        """Itself, after making sure that nothing failed and nothing warned."""
        text = f"{self.stdout}\n{self.stderr}"
        assert self.status == 0, text
        assert self.stderr == "", text
        assert not re.search(r"\[(DEPRECATION )?WARNING\]", self.stdout), text
        assert RECAP.search(self.stdout), text
        assert not [record for record in self.records if record["result"].get("warnings")], text
        assert not [record for record in self.records if record["result"].get("deprecations")], text
        return self


class Ansible:
    """Runs playbooks against a simulator."""

    def __init__(self, simulator: Process, directory: Path) -> None:
        self.simulator = simulator
        self._directory = directory
        self._configuration = directory / "ansible.cfg"
        self._configuration.touch()
        self._runs = 0

    def environment(self, directory: Path, **more: str | None) -> dict[str, str]:
        """The environment of a run, in which nothing of the user's own settings counts."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "PROXMOX_"))}
        own: dict[str, str | None] = {
            **self.simulator.environment,
            "ANSIBLE_COLLECTIONS_PATH": os.environ["ANSIBLE_COLLECTIONS_PATH"],
            "ANSIBLE_HOME": str(self._directory / "home"),
            "ANSIBLE_CONFIG": str(self._configuration),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "callbacks"),
            "ANSIBLE_CALLBACKS_ENABLED": "record",
            "RECORD_RESULTS": str(directory / "results"),
            **more,
        }
        return {**kept, **{key: value for key, value in own.items() if value is not None}}

    def start(
        self, playbook: Path | t.Sequence[t.Any], *options: str, inventory: str | None = None, **environment: str | None
    ) -> Running:
        """Start a playbook: the path of one, a list of plays, or a list of tasks for localhost."""
        self._runs += 1
        directory = self._directory / str(self._runs)
        directory.mkdir(parents=True)
        (directory / "results").touch()
        if not isinstance(playbook, Path):
            path = directory / "play.yml"
            path.write_text(yaml.safe_dump(plays(playbook), sort_keys=False, width=1000), encoding="utf-8")
            playbook = path
        hosts = inventory
        if hosts is None:
            hosts = str(directory / "hosts.yml")
            local = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
            Path(hosts).write_text(yaml.safe_dump({"all": {"hosts": {"localhost": local}}}), encoding="utf-8")
        command = ["ansible-playbook", "-i", hosts, str(playbook), *options]
        return Running(command, self.environment(directory, **environment), directory / "results")

    def run(self, playbook: Path | t.Sequence[t.Any], *options: str, **more: t.Any) -> Ran:
        """Run a playbook to its end."""
        return self.start(playbook, *options, **more).wait()

    def succeeds(self, playbook: Path | t.Sequence[t.Any], *options: str, **more: t.Any) -> Ran:
        """Run a playbook that has to succeed without a warning."""
        return self.run(playbook, *options, **more).succeeded()

    def table(self) -> dict[str, dict[str, t.Any]]:
        """The containers of the cluster by hostname."""
        return {entry["hostname"]: entry for entry in self.simulator.control("/table")}

    def states(self) -> dict[str, str]:
        """hostname -> status"""
        return {name: entry["status"] for name, entry in self.table().items()}

    def writes(self) -> list[str]:
        """What was sent that may change something, since the last call."""
        sent = self.simulator.control("/requests")
        self.simulator.control("/reset", {})
        return [f"{entry['method']} {entry['path']}" for entry in sent if entry["method"] != "GET"]


class Running:
    """A playbook that runs."""

    def __init__(self, command: list[str], environment: dict[str, str], results: Path) -> None:
        self._results = results
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._lines: list[tuple[float, str]] = []
        self._errors: list[str] = []
        self._readers = [threading.Thread(target=self._read_output), threading.Thread(target=self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read_output(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.append((time.monotonic() - self._began, line))

    def _read_errors(self) -> None:
        assert self._process.stderr
        self._errors.extend(self._process.stderr)

    def wait(self) -> Ran:
        """Wait for its end."""
        try:
            status = self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
            for reader in self._readers:
                reader.join()
            for stream in (self._process.stdout, self._process.stderr):
                if stream:
                    stream.close()
        records = [json.loads(line) for line in self._results.read_text(encoding="utf-8").splitlines()]
        stdout = "".join(line for _seconds, line in self._lines)
        return Ran(status, stdout, "".join(self._errors), records, self._lines)


def plays(items: t.Sequence[t.Any]) -> list[dict[str, t.Any]]:
    """A list of plays; tasks become one for localhost."""
    if any("hosts" in item for item in items):
        return list(items)
    return [{"name": "Test", "hosts": "localhost", "gather_facts": False, "tasks": list(items)}]


def task(name: str, module: str, options: t.Mapping[str, t.Any] | None = None, **keywords: t.Any) -> dict[str, t.Any]:
    """A task with a module of the collection."""
    return {"name": name, f"lxcri.proxmox.{module}": dict(options or {}), **keywords}
