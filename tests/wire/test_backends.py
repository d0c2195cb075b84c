# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""pvesh on the node and pvesh over SSH do what the API over https does, and say the same."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import types
import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api import client as api_client
from ansible_collections.lxcri.proxmox.tests.simulator.plugin import start
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator
from ansible_collections.lxcri.proxmox.tests.wire.support import NEW, Lxc, Run, base, reads

PVESH = Path(__file__).with_name("fake_pvesh.py")
# A container's life, and what is refused on the way.
LIFE: list[dict[str, t.Any]] = [
    {
        "vmid": 300,
        "hostname": "web-1",
        **NEW,
        "description": 'It\'s a "shop"\nwith $HOME and `x`',
        "tags": ["b", "a"],
        "networks": [{"name": "eth0", "bridge": "vmbr0", "ip": "dhcp", "hwaddr": "BC:24:11:00:03:00"}],
        "env": {"MODE": "a b"},
    },
    {"vmid": 300, "node": "pve1"},
    {"hostname": "web-1", "memory": 1024, "rootfs": {"size": "9G"}, "features": {"nesting": True, "keyctl": True}},
    {"hostname": "web-1", "mounts": [{"volume": "/srv/data", "mp": "/data"}], "restart": "if_needed"},
    {"hostname": "web-1", "unset": ["description", "env"], "restart": "if_needed"},
    {"hostname": "web-1", "rootfs": {"size": "1G"}},
    {"hostname": "web-1", "state": "absent"},
    {"hostname": "web-1", "networks": [{"name": "eth0", "bridge": "vmbr9"}]},
    {"vmid": 300, "node": "pve1", "state": "absent", "force": True},
    {"vmid": 300, "node": "pve1", "state": "absent"},
    {"vmid": 301, **NEW, "template": "local:vztmpl/none.tar.zst"},
    {"vmid": 302, "node": "pve1"},
]


@pytest.fixture
def pvesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Simulator) -> Path:
    """Makes the cluster's pvesh the first in the path; returns the file with the commands that were run."""
    command, log = tmp_path / "bin" / "pvesh", tmp_path / "commands"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\necho "$*" >>{log}\nexec {sys.executable} -E -S {PVESH} "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    ticket, csrf = cluster.call("issue_ticket", "root@pam")
    monkeypatch.setenv("PATH", f"{command.parent}:/usr/bin:/bin")
    for name, value in (
        ("HOST", cluster.host),
        ("PORT", str(cluster.port)),
        ("CA", cluster.ca_path),
        ("TICKET", ticket),
        ("CSRF", csrf),
    ):
        monkeypatch.setenv(f"SIMULATOR_{name}", value)
    return log


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> t.Iterator[list[dict[str, t.Any]]]:
    """Stands in for openssh-wrapper: what it would run on the node is run here; returns how it was connected."""
    made: list[dict[str, t.Any]] = []

    class SSHError(Exception):
        """As that of openssh-wrapper."""

    class SSHConnection:
        """As that of openssh-wrapper, without SSH."""

        def __init__(self, server: str, **options: t.Any) -> None:
            made.append({"server": server, **options})

        def run(self, command: str, **_options: t.Any) -> subprocess.CompletedProcess[bytes]:
            return subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=False)

    module = types.ModuleType("openssh_wrapper")
    module.__dict__.update(SSHConnection=SSHConnection, SSHError=SSHError)
    monkeypatch.setitem(sys.modules, "openssh_wrapper", module)
    monkeypatch.delitem(sys.modules, "proxmoxer.backends.openssh", raising=False)
    yield made
    sys.modules.pop("proxmoxer.backends.openssh", None)


def comparable(run: Run) -> tuple[dict[str, t.Any], list[str]]:
    """A result and the requests without what differs between two runs."""
    result = {key: value for key, value in run.result.items() if key != "invocation"}
    text = json.dumps(result, sort_keys=True)
    text = re.sub(r"UPID:(\w+):[0-9A-F:]+:(\w+):(\d*):[^:]+:", r"UPID:\1:\2:\3", text)
    text = re.sub(r'"(duration|digest)": [^,}]+', r'"\1": 0', text)
    # pvesh itself waits for tasks and shows their logs.
    asked = [line for line in run.asked if "/tasks" not in line and line != "POST /access/ticket"]
    return json.loads(text), asked


# What the cluster's list does not know yet must not depend on how long the commands take.
@pytest.mark.parametrize("cluster", [{"lag": 1e6}], indirect=True)
def test_a_containers_life_is_the_same_through_pvesh(
    lxc: Lxc, pvesh: Path, certificates: tuple[Path, Path, Path]
) -> None:
    lxc.options = {"api_backend": "local"}
    with start(certificates, lag=1e6) as other:
        https = Lxc(other)
        https.as_root()
        check, expected = lxc.check(**LIFE[0]), https.check(**LIFE[0])
        assert comparable(check) == comparable(expected)
        for options in LIFE:
            run, expected = lxc(**options), https(**options)
            assert comparable(run) == comparable(expected), options
    assert pvesh.read_text(encoding="utf-8").splitlines()[0] == f"get {reads(300)[0][4:]} --output-format json"


def test_what_only_root_may_do_is_done_by_pvesh(lxc: Lxc, pvesh: Path) -> None:
    lxc.options = {"api_backend": "local"}
    lxc.add(201)
    run = lxc.converge(vmid=201, node="pve1", state="stopped", features={"keyctl": True})
    assert lxc.ct().config["features"] == "keyctl=1"
    assert f"set {base()}/config -features keyctl=1" in pvesh.read_text(encoding="utf-8")
    assert "GET /access/permissions" not in run.asked


def test_a_node_without_pvesh(lxc: Lxc, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(api_client, "_pause", lambda _attempt: pytest.fail("it is tried again"))
    monkeypatch.setenv("PATH", str(tmp_path))
    lxc.options = {"api_backend": "local"}
    run = lxc(vmid=201, node="pve1")
    assert (run.code, run.requests) == ("unreachable", [])
    assert "Proxmox node" in run.result["msg"]


def test_pvesh_over_ssh(lxc: Lxc, pvesh: Path, connections: list[dict[str, t.Any]]) -> None:
    lxc.options = {"api_backend": "openssh", "api_host": "pve1.example.org", "api_user": "root@pam"}
    run = lxc.converge(**LIFE[0])
    assert lxc.ct(300).config["description"] == LIFE[0]["description"] + "\n"
    assert lxc.ct(300).config["env"] == "MODE=a b"
    assert run.container["status"] == "running"
    lxc.refused("would_lose_data", hostname="web-1", rootfs={"size": "1G"})
    lxc.converge(hostname="web-1", state="absent", force=True)
    assert lxc.ct(300) is None
    assert {(made["server"], made["login"]) for made in connections} == {("pve1.example.org", "root")}


def test_ssh_needs_a_host(lxc: Lxc) -> None:
    lxc.options = {"api_backend": "openssh"}
    run = lxc(vmid=201)
    assert (run.code, run.details["option"]) == ("invalid_option", "api_host")


def test_ssh_needs_its_library(lxc: Lxc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openssh_wrapper", None)
    monkeypatch.delitem(sys.modules, "proxmoxer.backends.openssh", raising=False)
    lxc.options = {"api_backend": "openssh", "api_host": "pve1.example.org"}
    run = lxc(vmid=201)
    assert run.code == "library_missing"
    assert "openssh-wrapper" in run.result["msg"]
