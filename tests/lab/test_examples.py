# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples of the modules that run on a node, by the real ansible-playbook over ssh."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.lxcri.proxmox.tests.lab.machine import ROOT, Machine
from ansible_collections.lxcri.proxmox.tests.lab.support import checkpoint
from ansible_collections.lxcri.proxmox.tests.lab.test_oci_container import put_bundle

RUNTIME = yaml.safe_load((ROOT / "meta/runtime.yml").read_text(encoding="utf-8"))
MODULES = sorted(
    path.stem
    for path in (ROOT / "plugins/modules").glob("*.py")
    # Those of images have a registry in tests/oci.
    if path.stem not in ("__init__", "oci_image", "oci_bundle", *RUNTIME["action_groups"]["api"])
)
# What the continuous integration has of them.
OFTEN = ("lxc_raw_config", "subid_range")
# Examples that do what they say every time.
NOT_IDEMPOTENT = {
    "One more, and a week of days kept",
    "Back to it",
    "A job, and what it has printed",
    "Tell it to read its configuration again",
}
# What somebody does before an example.
BEFORE = {
    "Without a subscription": "touch /usr/share/keyrings/proxmox-archive-keyring.gpg",
    "Overwrite a replica to which somebody has written": (
        "zfs snapshot backup/replica/rpool/data/subvol-101-disk-0@test"
    ),
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "module", [pytest.param(module, marks=() if module in OFTEN else pytest.mark.slow) for module in MODULES]
)
def test_the_examples_of_a_module(machine: Machine, module: str, tmp_path: Path) -> None:
    """Each in check mode, for real, and again."""
    text = importlib.import_module(f"ansible_collections.lxcri.proxmox.plugins.modules.{module}").EXAMPLES
    shown: list[dict[str, t.Any]] = yaml.safe_load(text)
    own = {entry["name"] for entry in shown if f"lxcri.proxmox.{module}" in entry}
    assert own, f"{module} has no examples"
    tasks: list[dict[str, t.Any]] = []
    for entry in shown:
        if entry["name"] in BEFORE:
            tasks.append({"name": f"before: {entry['name']}", "ansible.builtin.command": BEFORE[entry["name"]]})
        if entry["name"] in own:
            tasks.append({**entry, "name": f"check: {entry['name']}", "check_mode": True, "diff": True})
        tasks.append(entry)
        if entry["name"] in own:
            tasks.append({**entry, "name": f"again: {entry['name']}"})
    prepare(machine, module)
    results = play(machine, tasks, tmp_path)
    for name in own:
        assert results[name]["changed"] == results[f"check: {name}"]["changed"], name
        assert name in NOT_IDEMPOTENT or results[f"again: {name}"]["changed"] is False, name


def prepare(machine: Machine, module: str) -> None:
    """What the examples of a module find."""
    if module == "lxc_raw_config":
        machine.run("cp /etc/pve/lxc/102.conf /etc/pve/lxc/201.conf")
    if module == "zfs_replica":
        # The other node is this one, and there is something to replicate.
        machine.run("echo 127.0.0.1 pve2 >>/etc/hosts; ssh-keyscan -T 60 pve2 >>/root/.ssh/known_hosts 2>/dev/null")
        machine.run("zfs create -o canmount=off rpool/replica")
        checkpoint(machine, vmids=["101", "102"], name="one")
    if module == "oci_container":
        put_bundle(machine, "/srv/bundles/web", "trap : HUP; while :; do sleep 0.2; done")
        put_bundle(machine, "/srv/bundles/migrate", "echo migrated")
        root = "/srv/bundles/web/rootfs"
        machine.write(f"{root}/etc/passwd", "root:x:0:0::/:/bin/sh\nnginx:x:101:101::/:/bin/sh\n")
        machine.run(f"printf '#!/bin/sh\nid -u\n' >{root}/bin/nginx && chmod +x {root}/bin/nginx")


def play(machine: Machine, tasks: list[dict[str, t.Any]], directory: Path) -> dict[str, dict[str, t.Any]]:
    """The results of tasks on the machine, by their names."""
    host, port, key = machine.ssh
    variables = {
        "ansible_host": host,
        "ansible_port": port,
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(key),
        "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
        "ansible_python_interpreter": "/usr/bin/python3",
    }
    (directory / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"pve1": variables}}}), encoding="utf-8")
    book = [{"hosts": "all", "gather_facts": False, "tasks": tasks}]
    (directory / "play.yml").write_text(yaml.safe_dump(book), encoding="utf-8")
    environment = {
        **os.environ,
        "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests/integration/callbacks"),
        "ANSIBLE_CALLBACKS_ENABLED": "record",
        "RECORD_RESULTS": str(directory / "record.jsonl"),
        "ANSIBLE_PIPELINING": "1",
        "ANSIBLE_HOME": str(directory / "home"),
    }
    done = subprocess.run(
        ["ansible-playbook", "-i", str(directory / "hosts.yml"), str(directory / "play.yml")],
        capture_output=True,
        text=True,
        env=environment,
        stdin=subprocess.DEVNULL,
        timeout=880,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (directory / "record.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["task"]: record["result"] for record in map(json.loads, lines)}
