# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that the documentation shows is run: the examples of the modules, of the README and of the role."""

from __future__ import annotations

import base64
import importlib
import json
import re
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.lxcri.proxmox.tests.integration.playbook import ROOT, Ansible
from ansible_collections.lxcri.proxmox.tests.oci.images import build, layer
from ansible_collections.lxcri.proxmox.tests.oci.registry import PASSWORD, USER, Registry
from ansible_collections.lxcri.proxmox.tests.oci.tools import install

# Those that speak to the API. What runs on a node has its examples run on the machine of tests/lab.
MODULES = yaml.safe_load((ROOT / "meta/runtime.yml").read_text(encoding="utf-8"))["action_groups"]["api"]
PREFIX = "lxcri.proxmox."
# What has to be there before the first example of a module.
PREPARED: dict[str, list[dict[str, t.Any]]] = {
    "lxc_backup": [
        {"vmid": 201, "name": "web-1", "status": "running"},
        {"vmid": 202, "name": "web-2", "node": "pve2"},
    ],
    "lxc_container_info": [
        {"vmid": 201, "name": "web-1", "status": "running", "config": {"tags": "prod;shop"}},
        {"vmid": 202, "name": "web-2", "node": "pve2", "status": "running"},
    ],
    "lxc_drain": [{"vmid": 201, "name": "web-1", "status": "running"}],
    "lxc_snapshot": [
        {"vmid": 201, "name": "web-1", "status": "running"},
        {"vmid": 202, "name": "web-2", "node": "pve2"},
    ],
}
# Examples that do what they say every time.
NOT_IDEMPOTENT = {
    "Back to it, and running again if it was running",
    "A snapshot of each every day, kept for a week and for three months",
}
# Examples that change nothing.
READING = {"The newest backup can be restored, as far as can be told without restoring it"}


def examples(module: str) -> list[dict[str, t.Any]]:
    """The tasks that a module's documentation shows."""
    text = importlib.import_module(f"ansible_collections.lxcri.proxmox.plugins.modules.{module}").EXAMPLES
    return t.cast("list[dict[str, t.Any]]", yaml.safe_load(text))


def blocks(document: str) -> list[t.Any]:
    """The YAML blocks of a Markdown file."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]


@pytest.fixture
def docker_hub(ansible: Ansible, tmp_path: Path) -> t.Iterator[dict[str, str]]:
    """A registry that stands in for Docker Hub, for skopeo and for the nodes; the environment in which it does."""
    install()
    registry = Registry.start(tmp_path / "registry")
    try:
        process = {"Entrypoint": ["/start"], "Env": ["PATH=/bin"], "Volumes": {"/var/cache/nginx": {}}}
        registry.push(build(layer(), config=process).write(tmp_path / "layout"), "library/nginx", "1.29")
        ansible.simulator.fault("publish", "docker.io/library/nginx:1.29", {"config": process})
        settings = tmp_path / "home/.config/containers"
        settings.mkdir(parents=True)
        mirror = f'[[registry.mirror]]\nlocation = "{registry.host}"\ninsecure = true\n'
        text = f'[[registry]]\nlocation = "docker.io"\n{mirror}'
        (settings / "registries.conf").write_text(text, encoding="utf-8")
        login = {"auths": {registry.host: {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}}}
        (settings / "auth.json").write_text(json.dumps(login), encoding="utf-8")
        yield {"HOME": str(tmp_path / "home"), "REGISTRY_AUTH_FILE": str(settings / "auth.json")}
    finally:
        registry.stop()


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_a_module(ansible: Ansible, module: str, docker_hub: dict[str, str]) -> None:
    """Each in check mode, for real, and again; other modules' tasks between them as they are."""
    ansible.simulator.control("/containers", {"containers": PREPARED.get(module, [])})
    shown = examples(module)
    own = [entry for entry in shown if PREFIX + module in entry]
    assert own, f"{module} has no examples"
    assert len({entry["name"] for entry in shown}) == len(shown), "an example has no name of its own"
    tasks: list[dict[str, t.Any]] = []
    for entry in shown:
        if entry in own:
            tasks.append({**entry, "name": f"check: {entry['name']}", "check_mode": True, "diff": True})
        tasks.append(entry)
        if entry in own:
            tasks.append({**entry, "name": f"again: {entry['name']}"})
    ran = ansible.succeeds(tasks, **docker_hub)
    assert {record["task"] for record in ran.records} == {entry["name"] for entry in tasks}
    for entry in own:
        name = entry["name"]
        assert ran.result(name)["changed"] == ran.result(f"check: {name}")["changed"], name
        assert name in NOT_IDEMPOTENT or ran.result(f"again: {name}")["changed"] is False, name
        if not module.endswith("_info") and name not in READING:
            assert ran.result(name)["changed"] is True, f"{name} shows nothing"


def test_the_first_playbook_of_the_readme(ansible: Ansible) -> None:
    [playbook] = [block for block in blocks("README.md") if "tasks" in block[0]]
    assert ansible.succeeds(playbook, "--check", "--diff").changed == 1
    assert ansible.succeeds(playbook).changed == 1
    assert ansible.succeeds(playbook).changed == 0
    names = [entry["hostname"] for entry in playbook[0]["tasks"][0]["lxcri.proxmox.lxc_fleet"]["containers"]]
    assert ansible.states() == dict.fromkeys(names, "running")
    assert len({entry["node"] for entry in ansible.table().values()}) == 3
    # "Change memory and run it again: one request is sent, and nothing restarts."
    playbook[0]["tasks"][0]["lxcri.proxmox.lxc_fleet"]["containers"][0]["memory"] = 768
    ansible.writes()
    assert ansible.succeeds(playbook).changed == 1
    assert [line.split()[0] for line in ansible.writes()] == ["PUT"]


def test_the_defaults_for_all_modules_of_the_readme(ansible: Ansible) -> None:
    [play] = [block for block in blocks("README.md") if "module_defaults" in block[0]]
    [group] = play[0]["module_defaults"].values()
    shown = {name: None if "{{" in str(value) else value for name, value in group.items()}
    # The same options, with what reaches the simulator.
    options = ansible.simulator.options
    play[0]["module_defaults"] = {
        name: {**options, **{key: options[key] for key in shown}} for name in play[0]["module_defaults"]
    }
    play[0]["tasks"] = [{"name": "Read", "lxcri.proxmox.lxc_container_info": {}}]
    play[0]["gather_facts"] = False
    environment = dict.fromkeys(ansible.simulator.environment)
    assert ansible.succeeds(play, **environment).result("Read")["containers"] == []


def test_the_example_of_the_role(ansible: Ansible) -> None:
    [playbook] = [block for block in blocks("roles/workload/README.md") if "hosts" in block[0]]
    first = ansible.succeeds(playbook, "--diff")
    assert first.changed == 1
    names = ("web-1", "web-2", "web-3", "db-1", "db-2", "app-1-server", "app-1-cache")
    assert ansible.states() == dict.fromkeys(names, "running")
    assert ansible.succeeds(playbook).changed == 0


def test_the_failure_of_the_guide(ansible: Ansible) -> None:
    ansible.simulator.control("/containers", {"containers": [{"vmid": 201, "name": "web-1"}]})
    [tasks] = [block for block in blocks("docs/containers.md") if isinstance(block, list) and "failed_when" in block[0]]
    ran = ansible.run([{"name": "Shrink", **tasks[0]}])
    assert ran.status == 0, ran.stdout
    assert ran.result("Shrink")["failure"]["code"] == "would_lose_data"
