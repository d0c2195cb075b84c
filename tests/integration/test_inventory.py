# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory plugin, as ansible-inventory and ansible-playbook use it."""

from __future__ import annotations

import json
import re
import subprocess
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.lxcri.proxmox.plugins.inventory import lxc
from ansible_collections.lxcri.proxmox.tests.integration.playbook import ROOT, Ansible

NET = "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:02:01,ip=192.0.2.10/24,type=veth"
FLEET: list[dict[str, t.Any]] = [
    {
        "vmid": 201,
        "name": "web",
        "node": "pve1",
        "status": "running",
        "pool": "prod",
        "config": {"net0": NET, "tags": "lxcri;lxcri.web;prod", "description": "{{ lookup('pipe', 'false') }}"},
    },
    {"vmid": 202, "name": "web", "node": "pve2", "status": "running", "config": {"tags": "test"}},
    {"vmid": 203, "name": "db", "node": "pve3", "config": {"tags": "prod"}},
]
pytestmark = pytest.mark.parametrize("ansible", [["--lag", "0"]], indirect=True)


def plain(value: dict[str, t.Any]) -> t.Any:
    """Text that is no template as it is: how ansible-inventory marks it depends on its version."""
    return value["__ansible_unsafe"] if value.keys() == {"__ansible_unsafe"} else value


class Inventory:
    """Files of the plugin, read by ansible-inventory."""

    def __init__(self, ansible: Ansible, directory: Path) -> None:
        self.ansible = ansible
        self.path = directory / "test.proxmox_lxc.yml"
        self._directory = directory
        ansible.simulator.control("/containers", {"containers": FLEET})

    def run(self, *words: str, text: str | None = None, **options: t.Any) -> subprocess.CompletedProcess[str]:
        """Run ansible-inventory with these options of the plugin; env_... are for the environment."""
        variables = {name[4:]: options.pop(name) for name in list(options) if name.startswith("env_")}
        content = text or yaml.safe_dump({"plugin": "lxcri.proxmox.lxc", **options})
        self.path.write_text(content, encoding="utf-8")
        return subprocess.run(
            ["ansible-inventory", "-i", str(self.path), "--list", *words],
            env=self.ansible.environment(self._directory, **variables),
            cwd=self._directory,
            capture_output=True,
            text=True,
            check=False,
        )

    def read(self, *words: str, **options: t.Any) -> dict[str, t.Any]:
        """What it lists. It neither fails nor warns."""
        done = self.run(*words, **options)
        assert (done.returncode, done.stderr) == (0, "")
        return t.cast("dict[str, t.Any]", json.loads(done.stdout, object_hook=plain))

    def hosts(self, **options: t.Any) -> dict[str, dict[str, t.Any]]:
        """The hosts with their variables."""
        return t.cast("dict[str, dict[str, t.Any]]", self.read(**options)["_meta"]["hostvars"])

    def failed(self, **options: t.Any) -> str:
        """What it says when it fails. It lists nothing."""
        done = self.run(**options)
        assert done.returncode != 0
        assert done.stdout == ""
        return " ".join(done.stderr.split())

    def asked(self) -> list[str]:
        """What was asked of the API since the last call."""
        paths = [entry["path"] for entry in self.ansible.simulator.control("/requests")]
        self.ansible.simulator.control("/reset", {})
        return paths


@pytest.fixture
def inventory(ansible: Ansible, tmp_path: Path) -> Inventory:
    """A fleet of three containers."""
    return Inventory(ansible, tmp_path)


def test_hosts_and_groups(inventory: Inventory) -> None:
    inventory.asked()
    listed = inventory.read(connection="pct")
    assert inventory.asked() == ["/cluster/resources"]
    assert {name: set(group["hosts"]) for name, group in listed.items() if "hosts" in group} == {
        "proxmox_lxc": {"web.201", "web.202", "db"},
        "proxmox_node_pve1": {"web.201"},
        "proxmox_node_pve2": {"web.202"},
        "proxmox_node_pve3": {"db"},
        "proxmox_status_running": {"web.201", "web.202"},
        "proxmox_status_stopped": {"db"},
        "proxmox_pool_prod": {"web.201"},
        "proxmox_tag_lxcri": {"web.201"},
        "proxmox_tag_lxcri_web": {"web.201"},
        "proxmox_tag_prod": {"web.201", "db"},
        "proxmox_tag_test": {"web.202"},
        "proxmox_workload_lxcri_web": {"web.201"},
    }
    assert listed["_meta"]["hostvars"]["web.201"] == {
        "ansible_connection": "lxcri.proxmox.pct",
        "proxmox_lock": None,
        "proxmox_name": "web",
        "proxmox_node": "pve1",
        "proxmox_pool": "prod",
        "proxmox_status": "running",
        "proxmox_tags": ["lxcri", "lxcri.web", "prod"],
        "proxmox_vmid": 201,
        "proxmox_vmtype": "lxc",
        "proxmox_workload": "web",
        "proxmox_workload_owner": "lxcri",
    }


def test_names_and_prefixes(inventory: Inventory) -> None:
    listed = inventory.read(naming="vmid", group_prefix="")
    assert set(listed["_meta"]["hostvars"]) == {"201", "202", "203"}
    assert listed["tag_prod"]["hosts"] == ["201", "203"]
    assert "ansible_connection" not in listed["_meta"]["hostvars"]["201"]


def test_facts_filters_and_what_is_constructed(inventory: Inventory) -> None:
    inventory.asked()
    listed = inventory.read(
        gather=["config", "interfaces"],
        filters=["'prod' in proxmox_tags", "proxmox_status == 'running'"],
        compose={"ansible_host": "proxmox_address", "megabytes": "proxmox_config.memory | string"},
        groups={"webservers": "proxmox_workload == 'web'", "none": "proxmox_vmid > 900"},
        keyed_groups=[{"key": "proxmox_pool", "prefix": "pool"}],
    )
    assert sorted(inventory.asked()) == [
        "/cluster/resources",
        "/nodes/pve1/lxc/201/interfaces",
        "/nodes/pve1/lxc/201/pending",
    ]
    [(name, host)] = listed["_meta"]["hostvars"].items()
    # The other guest of this name does not pass.
    assert (name, host["ansible_host"], host["megabytes"]) == ("web", "192.0.2.10", "512")
    # What somebody has written into the cluster is text.
    assert host["proxmox_config"]["description"].startswith("{{ lookup")
    assert listed["webservers"]["hosts"] == listed["pool_prod"]["hosts"] == ["web"]


def test_descriptions_are_no_templates(inventory: Inventory, tmp_path: Path) -> None:
    inventory.run(gather=["config"])
    task = {"name": "Say", "ansible.builtin.debug": {"msg": "{{ proxmox_config.description | default('') }}"}}
    play = {"name": "Test", "hosts": "web.201", "gather_facts": False, "tasks": [task]}
    ran = inventory.ansible.succeeds([play], inventory=str(inventory.path))
    assert ran.result("Say")["msg"].startswith("{{ lookup")


def test_the_cache_is_for_the_same_question(inventory: Inventory, tmp_path: Path) -> None:
    cached = {"cache": True, "cache_plugin": "jsonfile", "cache_connection": str(tmp_path / "cache")}
    first = inventory.read(gather=["interfaces"], **cached)
    assert inventory.asked()
    assert inventory.read(gather=["interfaces"], connection="default", **cached) == first
    assert inventory.asked() == []
    # Nothing that the cache has not: another question is asked.
    inventory.read(gather=["interfaces"], filters=["proxmox_vmid == 203"], **cached)
    assert inventory.asked()
    text = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "cache").iterdir())
    assert inventory.ansible.simulator.address["token_secret"] not in text


def test_options_are_templates_or_vaulted(inventory: Inventory, tmp_path: Path) -> None:
    options = inventory.ansible.simulator.options
    password = tmp_path / "password"
    password.write_text("open sesame", encoding="utf-8")
    vaulted = subprocess.run(
        ["ansible-vault", "encrypt_string", "--vault-password-file", str(password), options["api_token_secret"]],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    text = (
        "plugin: lxcri.proxmox.lxc\n"
        f"api_host: \"{{{{ lookup('ansible.builtin.env', 'HERE') }}}}\"\napi_token_secret: {vaulted}\n"
    )
    done = inventory.run(
        "--vault-password-file",
        str(password),
        text=text,
        env_HERE=options["api_host"],
        env_PROXMOX_HOST=None,
        env_PROXMOX_TOKEN_SECRET=None,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)["_meta"]["hostvars"]) == 3


def test_an_error_is_an_error(inventory: Inventory) -> None:
    """Whatever Ansible does with sources that cannot be read."""
    assert "[authentication_failed]" in inventory.failed(api_token_secret="00000000-0000-0000-0000-000000000000")
    assert "[invalid_option]" in inventory.failed(env_PROXMOX_HOST=None)
    assert "naming" in inventory.failed(naming="colour")
    assert "'no_such' is undefined" in inventory.failed(filters=["no_such == 1"])
    assert "broken" in inventory.failed(strict=True, compose={"a": "proxmox_vmid.broken()"})
    inventory.ansible.simulator.fault("fail", "GET", "/nodes/pve1/lxc/201/interfaces", 500, "it is broken")
    assert "it is broken" in inventory.failed(gather=["interfaces"])
    inventory.ansible.simulator.stop()
    assert "[unreachable]" in inventory.failed()


def test_a_playbook_does_not_go_on_without_it(inventory: Inventory) -> None:
    inventory.run(api_token_secret="00000000-0000-0000-0000-000000000000")
    ran = inventory.ansible.run([{"hosts": "all", "gather_facts": False, "tasks": []}], inventory=str(inventory.path))
    assert ran.status != 0
    assert "authentication_failed" in ran.stderr


def test_a_node_that_is_offline(inventory: Inventory) -> None:
    inventory.ansible.simulator.fault("set_node_offline", "pve3")
    done = inventory.run(gather=["config", "interfaces"])
    assert done.returncode == 0
    assert "pve3 is offline" in " ".join(done.stderr.split())
    hosts = json.loads(done.stdout, object_hook=plain)["_meta"]["hostvars"]
    assert hosts["db"]["proxmox_status"] == "unknown"
    assert "proxmox_config" in hosts["web.201"]


def test_another_inventory_of_such_a_name_is_left_alone(inventory: Inventory) -> None:
    done = inventory.run(text="all: {hosts: {one: {}}}")
    assert done.returncode == 0
    assert json.loads(done.stdout)["ungrouped"]["hosts"] == ["one"]


def test_the_examples(inventory: Inventory) -> None:
    """Those of the plugin, and those of the guide."""
    options = inventory.ansible.simulator.options
    guide = (ROOT / "docs/inventory.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)
    examples = [*yaml.safe_load_all(lxc.EXAMPLES), *map(yaml.safe_load, blocks)]
    assert len(examples) == 4
    for example in examples:
        example.pop("plugin")
        for name in ("api_host", "api_user", "api_token_id"):
            if name in example:
                example[name] = options[name]
        listed = inventory.read(**example, env_INVENTORY_SECRET=options["api_token_secret"])
        hosts = listed["_meta"]["hostvars"]
        if "connection" in example:
            assert {host["ansible_connection"] for host in hosts.values()} == {"lxcri.proxmox.pct"}
        else:
            assert {name: host["ansible_host"] for name, host in hosts.items()} == {"web": "192.0.2.10"}
        if "groups" in example:
            assert listed["webservers"]["hosts"] == listed["pool_prod"]["hosts"] == ["web"]
