# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every option of a container and of the API arrives where it is meant to, by its name."""

from __future__ import annotations

import importlib
import json
import stat
import time
import typing as t
from pathlib import Path

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.lxcri.proxmox.plugins.module_utils.module import Module
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator
from ansible_collections.lxcri.proxmox.tests.wire.module_runner import MODULES, run_module

ROOT = Path(__file__).parents[2]
TEMPLATE = "local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst"
# Options with everything that they can have, and what Proxmox is sent for them.
EVERYTHING: dict[str, tuple[t.Any, dict[str, str]]] = {
    "arch": ("amd64", {"arch": "amd64"}),
    "cmode": ("console", {"cmode": "console"}),
    "console": (False, {"console": "0"}),
    "cores": (2, {"cores": "2"}),
    "cpulimit": (1.5, {"cpulimit": "1.5"}),
    "cpuunits": (200, {"cpuunits": "200"}),
    "debug": (True, {"debug": "1"}),
    "description": ("Notes", {"description": "Notes"}),
    "entrypoint": ("/sbin/init --quiet", {"entrypoint": "/sbin/init --quiet"}),
    "env": ({"A": "1", "B": "two words"}, {"env": "A=1\0B=two words"}),
    "features": (
        {
            "nesting": True,
            "keyctl": True,
            "fuse": True,
            "mknod": True,
            "force_rw_sys": True,
            "mount": ["nfs", "cifs"],
        },
        {"features": "force_rw_sys=1,fuse=1,keyctl=1,mknod=1,mount=cifs;nfs,nesting=1"},
    ),
    "memory": (1024, {"memory": "1024"}),
    "nameserver": (["192.0.2.53", "2001:db8::53"], {"nameserver": "192.0.2.53 2001:db8::53"}),
    "onboot": (True, {"onboot": "1"}),
    "ostype": ("debian", {"ostype": "debian"}),
    "protection": (True, {"protection": "1"}),
    "pubkey": ("ssh-ed25519 AAAA me", {"ssh-public-keys": "ssh-ed25519 AAAA me"}),
    "searchdomain": (["example.org", "example.com"], {"searchdomain": "example.org example.com"}),
    "startup": ({"order": 3, "up": 10, "down": 20}, {"startup": "order=3,up=10,down=20"}),
    "swap": (0, {"swap": "0"}),
    "tags": (["web", "Prod"], {"tags": "prod;web"}),
    "timezone": ("Europe/Vienna", {"timezone": "Europe/Vienna"}),
    "tty": (4, {"tty": "4"}),
    "unprivileged": (True, {"unprivileged": "1"}),
    "pool": ("prod", {"pool": "prod"}),
    "ignore_unpack_errors": (True, {"ignore-unpack-errors": "1"}),
    "rootfs": (
        {
            "storage": "local-zfs",
            "size": "8G",
            "acl": True,
            "mountoptions": ["noatime", "discard"],
            "quota": True,
            "replicate": False,
        },
        {"rootfs": "local-zfs:8,acl=1,mountoptions=discard;noatime,quota=1,replicate=0"},
    ),
    "mounts": (
        [
            {
                "storage": "tank",
                "size": "16G",
                "mp": "/data",
                "backup": True,
                "ro": True,
                "keepattrs": True,
                "idmap": "u:0:100000:65536;g:0:100000:65536",
            },
            {"id": "mp5", "volume": "/srv/shared", "mp": "/srv", "shared": True},
        ],
        {
            "mp0": "tank:16,mp=/data,backup=1,idmap=u:0:100000:65536;g:0:100000:65536,keepattrs=1,ro=1",
            "mp5": "/srv/shared,mp=/srv,shared=1",
        },
    ),
    "networks": (
        [
            {
                "name": "eth0",
                "bridge": "vmbr0",
                "firewall": True,
                "gw": "192.0.2.1",
                "gw6": "2001:db8::1",
                "hwaddr": "bc:24:11:00:00:01",
                "ip": "192.0.2.10/24",
                "ip6": "2001:db8::10/64",
                "link_down": True,
                "mtu": 1400,
                "rate": 12.5,
                "tag": 7,
                "trunks": ["8", "9"],
                "type": "veth",
            },
            {"id": "net3", "name": "eth3", "bridge": "vmbr0", "ip": "dhcp", "host_managed": True},
        ],
        {
            "net0": "name=eth0,bridge=vmbr0,firewall=1,gw=192.0.2.1,gw6=2001:db8::1,hwaddr=BC:24:11:00:00:01,"
            "ip=192.0.2.10/24,ip6=2001:db8::10/64,link_down=1,mtu=1400,rate=12.5,tag=7,trunks=8;9",
            "net3": "name=eth3,bridge=vmbr0,host-managed=1,ip=dhcp",
        },
    ),
    "devices": (
        [{"path": "/dev/fuse", "uid": 1, "gid": 2, "mode": "0660", "deny_write": True}],
        {"dev0": "/dev/fuse,deny-write=1,gid=2,mode=0660,uid=1"},
    ),
}


def parts(text: str) -> set[str]:
    """A property string, whose properties have no order."""
    return set(text.split(","))


@pytest.mark.parametrize("option", EVERYTHING)
def test_what_a_creation_sends_for_an_option_and_that_it_is_found_as_declared(cluster: Simulator, option: str) -> None:
    value, expected = EVERYTHING[option]
    # Some of them only root with a password may set.
    api = {name: cluster.options[name] for name in ("api_host", "api_port", "ca_path")}
    api |= {"api_user": cluster.user, "api_password": cluster.password}
    options = {
        **api,
        "node": "pve1",
        "vmid": 201,
        "hostname": "web-1",
        "template": TEMPLATE,
        "rootfs": {"storage": "local-zfs", "size": "4G"},
        "state": "present",
        option: value,
    }
    result = run_module("lxc_container", options)
    assert "failure" not in result, result["failure"]
    [creation] = [request for request in cluster.requests.writes if request.path == "/nodes/pve1/lxc"]
    assert {key: parts(creation.params[key]) for key in expected} == {k: parts(v) for k, v in expected.items()}
    cluster.requests.clear()
    again = run_module("lxc_container", options)
    assert (again["changed"], cluster.requests.writes) == (False, [])
    assert again["recreate_required"] == []


# --------------------------------------------------------------------------------------------- reaching the API


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_certificates_are_checked_unless_that_is_switched_off(cluster: Simulator) -> None:
    options = {name: value for name, value in cluster.options.items() if name != "ca_path"}
    refused = run_module("lxc_container_info", options)
    assert refused["failure"]["code"] == "certificate_invalid"
    assert cluster.requests == []
    accepted = run_module("lxc_container_info", {**options, "validate_certs": False})
    assert accepted["containers"] == []


def test_a_request_takes_no_longer_than_api_timeout(cluster: Simulator, impatient: None) -> None:
    cluster.call("set_option", "latency", 5)
    began = time.monotonic()
    result = run_module("lxc_fleet", {**cluster.options, "containers": [{"hostname": "web-1"}], "api_timeout": 1})
    assert result["failure"]["code"] in ("timeout", "unreachable")
    assert time.monotonic() - began < 8


def test_on_a_node_the_api_is_reached_by_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [{"type": "lxc", "vmid": 201, "node": "pve1", "name": "web-1", "status": "running"}]
    command = tmp_path / "pvesh"
    command.write_text(f"#!/bin/sh\necho \"$@\" >>{tmp_path}/asked\necho '{json.dumps(listed)}'\n", encoding="utf-8")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    result = run_module("lxc_container_info", {"api_backend": "local"})
    assert [entry["hostname"] for entry in result["containers"]] == ["web-1"]
    assert (tmp_path / "asked").read_text(encoding="utf-8").startswith("get /cluster/resources")


# Lists of dictionaries with something else in them, at which ansible-core stops looking for secrets.
@pytest.mark.parametrize(
    ("module", "options"),
    [
        ("lxc_fleet", {"containers": [{"vmid": 201, "password": "hunter2"}, 202]}),
        ("lxc_fleet", {"containers": ["web"], "defaults": {"password": "hunter2"}}),
        ("lxc_fleet", {"containers": [{"vmid": 201, "image": {"name": "a", "password": "hunter2"}}, "odd"]}),
        ("lxc_fleet", {"containers": "vmid=201 password=hunter2", "state": "odd"}),
        ("lxc_fleet", {"containers": '[{"vmid": 201, "password": "hunter2"}', "state": "odd"}),
        ("lxc_container", {"password": "hunter2", "networks": ["odd"]}),
        ("oci_image", {"password": "hunter2", "images": ["a"], "prune": "odd"}),
    ],
)
def test_a_secret_is_not_shown_when_an_option_is_refused(module: str, options: dict[str, t.Any]) -> None:
    api = {} if module.startswith("oci") else {"api_host": "pve1", "api_token_secret": "hunter2-of-the-api"}
    result = run_module(module, {**api, **options})
    assert result["failed"]
    assert "hunter2" not in repr(result)


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py")))
def test_a_module_with_secret_options_knows_its_secrets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[type, dict[str, t.Any]]] = []

    def made_with(self: AnsibleModule, argument_spec: dict[str, t.Any], **_rest: t.Any) -> None:
        made.append((type(self), argument_spec))
        raise SystemExit

    monkeypatch.setattr(AnsibleModule, "__init__", made_with)
    with pytest.raises(SystemExit):
        importlib.import_module(f"{MODULES}.{name}").main()
    [(kind, spec)] = made
    assert issubclass(kind, Module) or "'no_log': True" not in repr(spec)
