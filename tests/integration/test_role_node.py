# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of the role `node` that speak to the API, in playbooks. Those on a node itself are tested in tests/lab."""

from __future__ import annotations

import re
import subprocess
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.lxcri.proxmox.tests.integration.playbook import ROOT, Ansible, Ran, task

IDENTITIES: list[dict[str, t.Any]] = [
    {"purpose": "deploy", "storages": ["local", "tank"], "networks": ["localnetwork/vmbr0"]},
    {"purpose": "backup", "user": "nightly@pve", "token": "vzdump", "comment": "Every night"},
    {"purpose": "monitor"},
    {"purpose": "image", "storages": ["local"], "nodes": ["pve1"]},
]
DECLARED: dict[str, t.Any] = {
    "node_name": "pve1",
    "node_storages": [{"storage": "tank-ct", "type": "zfspool", "pool": "tank/ct", "content": ["rootdir", "images"]}],
    "node_network_interfaces": [
        {"iface": "vmbr7", "type": "bridge", "cidr": "198.51.100.1/24", "autostart": True, "comments": "Of the shop"}
    ],
    "node_templates": [{"storage": "local", "template": "debian-13-standard"}],
    "node_identities": IDENTITIES,
}


def play(
    ansible: Ansible, *options: str, hosts: t.Sequence[str] = ("pve1",), fails: bool = False, **variables: t.Any
) -> Ran:
    """Run the role, on hosts that stand for nodes and are this machine."""
    directory = Path(ansible.environment(Path())["ANSIBLE_HOME"]).parent
    local = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    inventory = directory / "nodes.yml"
    inventory.write_text(yaml.safe_dump({"all": {"hosts": dict.fromkeys(hosts, local)}}), encoding="utf-8")
    roles = [{"role": "lxcri.proxmox.node", "vars": {**DECLARED, **variables}}]
    book = [{"name": "Prepare", "hosts": "all", "gather_facts": False, "roles": roles}]
    ran = ansible.run(book, *options, inventory=str(inventory))
    return ran if fails else ran.succeeded()


def secrets(path: Path) -> dict[str, str]:
    """What the file of the secrets says."""
    assert path.stat().st_mode & 0o777 == 0o600
    return t.cast("dict[str, str]", yaml.safe_load(path.read_text(encoding="utf-8")))


def reach(ansible: Ansible, found: dict[str, str], name: str) -> dict[str, t.Any]:
    """The options of modules for an identity, by its variables."""
    user, _bang, token = found[f"lxcri_{name}_token_id"].partition("!")
    options = {**ansible.simulator.options, "api_user": user, "api_token_id": token}
    return {**options, "api_token_secret": found[f"lxcri_{name}_token_secret"]}


def test_prepared_again_and_repaired(ansible: Ansible, tmp_path: Path) -> None:
    file = tmp_path / "identities.yml"
    checked = play(ansible, "--check", "--diff", node_identities_file=str(file))
    assert ansible.writes() == []
    assert not file.exists()
    first = play(ansible, "--diff", "-v", node_identities_file=str(file))
    assert first.changed == checked.changed == 9
    writes = ansible.writes()
    assert "PUT /nodes/pve1/network" not in writes
    found = secrets(file)
    assert sorted(found) == sorted(
        f"lxcri_{name}_token_{part}" for name in ("deploy", "backup", "monitor", "image") for part in ("id", "secret")
    )
    assert found["lxcri_backup_token_id"] == "nightly@pve!vzdump"
    # No secret is told by what Ansible prints or hands on to callbacks.
    told = first.stdout + first.stderr + yaml.safe_dump(first.records)
    assert [name for name, value in found.items() if name.endswith("secret") and value in told] == []
    text = file.read_text(encoding="utf-8")
    again = play(ansible, "--diff", node_identities_file=str(file))
    assert (again.changed, ansible.writes(), file.read_text(encoding="utf-8")) == (0, [], text)
    assert play(ansible, "--check").changed == 0
    # The file is as good when it has been encrypted, and may be somewhere else by now.
    assert play(ansible, node_identities_file="").changed == 0

    # What drifts is repaired, and what is not declared any more is taken back.
    root = ansible.simulator.options
    drift = [
        task("Role", "pve_object", {"kind": "role", "object": {"roleid": "lxcri-monitor", "privs": ["Sys.Modify"]}}),
        task(
            "Access",
            "pve_object",
            {
                "kind": "acl",
                "state": "absent",
                "object": {"path": "/nodes", "roles": ["lxcri-monitor"], "users": ["lxcri-monitor@pve"]},
            },
        ),
        task("Storage", "pve_object", {"kind": "storage", "object": {"storage": "tank-ct"}, "state": "absent"}),
    ]
    ansible.succeeds(drift)
    ansible.writes()
    repaired = play(ansible)
    assert repaired.changed == 3
    narrower = [{**IDENTITIES[0], "storages": ["tank"]}, *IDENTITIES[1:]]
    assert play(ansible, "--check", node_identities=narrower).changed == 2
    assert play(ansible, node_identities=narrower).changed == 2
    assert play(ansible, node_identities=narrower).changed == 0
    entry = {"path": "/storage/local", "roles": ["lxcri-deploy"], "users": ["lxcri-deploy@pve"]}
    gone = task("Gone", "pve_object", {**root, "kind": "acl", "object": entry})
    assert ansible.succeeds([gone], "--check").changed == 1


def test_each_identity_works(ansible: Ansible, tmp_path: Path) -> None:
    """With the secrets of the file, through the access control list that the role has made."""
    file = tmp_path / "identities.yml"
    play(ansible, node_identities_file=str(file))
    found = secrets(file)
    container = {
        **reach(ansible, found, "deploy"),
        "vmid": 300,
        "node": "pve1",
        "hostname": "web-1",
        "template": "local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst",
        "rootfs": {"storage": "tank", "size": "4G"},
        "networks": [{"name": "eth0", "bridge": "vmbr0"}],
    }
    template = {"node": "pve1", "storage": "local", "template": "ubuntu-24.04-standard"}
    tasks = [
        task("Deploy", "lxc_container", container),
        task("Snapshot", "lxc_snapshot", {**reach(ansible, found, "deploy"), "vmid": [300], "name": "first"}),
        task("Look", "lxc_container_info", {**reach(ansible, found, "monitor"), "vmid": [300], "gather": ["config"]}),
        task("Back up", "lxc_backup", {**reach(ansible, found, "backup"), "vmid": [300], "storage": "local"}),
        task("Bring", "lxc_template", {**reach(ansible, found, "image"), **template}),
    ]
    ran = ansible.succeeds(tasks)
    assert ran.changed == 4
    assert [each["hostname"] for each in ran.result("Look")["containers"]] == ["web-1"]
    for name in ("monitor", "backup", "image"):
        refused = task("Refused", "lxc_container", {**container, **reach(ansible, found, name), "memory": 256})
        ran = ansible.run([refused])
        assert ran.failed == 1
        assert ran.result("Refused")["failure"]["code"] in ("permission_denied", "not_found")


def test_no_secret_is_lost(ansible: Ansible, tmp_path: Path) -> None:
    for options in ((), ("--check",)):
        ran = play(ansible, *options, "--tags", "node_identities", fails=True)
        assert (ran.failed, ansible.writes()) == (1, [])
        assert "lxcri-deploy@pve!lxcri" in ran.stdout
    # A file that is encrypted already, and a directory that is not there.
    file = tmp_path / "identities.yml"
    file.write_text("old_secret: 1\n", encoding="utf-8")
    password = tmp_path / "password"
    password.write_text("word\n", encoding="utf-8")
    subprocess.run(
        ["ansible-vault", "encrypt", "--vault-password-file", password, file], check=True, capture_output=True
    )
    before = file.read_text(encoding="utf-8")
    for path in (file, tmp_path / "none/identities.yml"):
        ran = play(ansible, "--tags", "node_identities", fails=True, node_identities_file=str(path))
        assert (ran.failed, ansible.writes()) == (1, [])
    assert file.read_text(encoding="utf-8") == before
    # What else is in the file stays, and it can be encrypted and used.
    file.write_text("---\nold_secret: 1\n", encoding="utf-8")
    play(ansible, "--tags", "node_identities", node_identities_file=str(file))
    found = secrets(file)
    assert (found["old_secret"], len(found)) == (1, 9)
    subprocess.run(
        ["ansible-vault", "encrypt", "--vault-password-file", password, file], check=True, capture_output=True
    )
    use = {
        "name": "Use",
        "hosts": "localhost",
        "gather_facts": False,
        "vars_files": [str(file)],
        "tasks": [
            task(
                "Look",
                "lxc_container_info",
                {
                    **{key: value for key, value in ansible.simulator.options.items() if "token" not in key},
                    "api_user": "lxcri-monitor@pve",
                    "api_token_id": "lxcri",
                    "api_token_secret": "{{ lxcri_monitor_token_secret }}",
                },
            )
        ],
    }
    ansible.succeeds([use], "--vault-password-file", str(password))


def test_a_failure_in_the_middle_keeps_the_secrets_that_there_are(ansible: Ansible, tmp_path: Path) -> None:
    file = tmp_path / "identities.yml"
    ansible.simulator.fault("fail", "POST", "/token/vzdump", 500, "it is broken", times=1)
    ran = play(ansible, "--tags", "node_identities", fails=True, node_identities_file=str(file))
    assert ran.failed == 1
    assert "it is broken" in ran.stdout
    assert sorted(secrets(file)) == ["lxcri_deploy_token_id", "lxcri_deploy_token_secret"]
    play(ansible, "--tags", "node_identities", node_identities_file=str(file))
    assert len(secrets(file)) == 8


def test_identities_that_cannot_be_had(ansible: Ansible) -> None:
    tags = ("--tags", "node_identities")
    ran = play(ansible, *tags, fails=True, node_identities=[{"purpose": "deploy"}, {"purpose": "deploy"}])
    assert ran.failed == 1
    assert "deploy is there twice" in ran.stdout
    ran = play(ansible, *tags, fails=True, node_identities=[{"purpose": "everything"}])
    assert "everything" in ran.stdout
    assert ansible.writes() == []


@pytest.mark.slow
def test_several_nodes_of_a_cluster(ansible: Ansible, tmp_path: Path) -> None:
    file = tmp_path / "identities.yml"
    three = {"hosts": ("pve1", "pve2", "pve3"), "node_name": "{{ inventory_hostname }}"}
    given = {**three, "node_identities_file": str(file)}
    first = play(ansible, "--forks", "3", **given)
    writes = ansible.writes()
    once = [write for write in writes if "/token/" in write or write == "POST /storage"]
    assert len(once) == len(set(once)) == 5
    assert sum("/network" in write for write in writes) == 3
    assert len(secrets(file)) == 8
    assert first.failed == 0
    assert play(ansible, "--forks", "3", **given).changed == 0


def test_the_network_is_reloaded_only_when_that_is_said(ansible: Ansible) -> None:
    tags = ("--tags", "node_network")
    play(ansible, *tags)
    assert ansible.writes() == ["POST /nodes/pve1/network"]
    play(ansible, *tags, node_network_reload=True)
    assert ansible.writes() == ["PUT /nodes/pve1/network"]
    assert play(ansible, *tags, node_network_reload=True).changed == 0
    assert (
        play(
            ansible,
            node_manage_network=False,
            node_network_interfaces=[{"iface": "vmbr8", "type": "bridge"}],
            node_identities=[],
        ).changed
        == 2
    )


def test_the_example_of_the_documentation(ansible: Ansible, tmp_path: Path) -> None:
    text = (ROOT / "roles/node/README.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
    [shown] = [block[0]["roles"][0]["vars"] for block in blocks if "node_identities" in str(block)]
    file = tmp_path / "identities.yml"
    given = {**shown, "node_name": "pve1", "node_identities_file": str(file)}
    assert play(ansible, **given).changed == 9
    assert play(ansible, **given).changed == 0
    assert len(secrets(file)) == 4
