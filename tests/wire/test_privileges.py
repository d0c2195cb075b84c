# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tokens with few privileges: what suffices, and how what is missing is named before anything is written."""

from __future__ import annotations

import copy
import re
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.tests.wire.module_runner import run_module
from ansible_collections.lxcri.proxmox.tests.wire.support import NET, NEW, PERMISSIONS, TEMPLATE, Lxc

Acl = dict[str, list[str]]
CT = "/vms/201"
SPACE, TANK = "/storage/local-zfs", "/storage/tank"
BRIDGE = "/sdn/zones/localnetwork/vmbr0"
HERE: dict[str, t.Any] = {"vmid": 201, "node": "pve1"}
README = Path(__file__).resolve().parents[2] / "README.md"


@dataclass
class Case:
    """An operation: what it is, and the privileges without any one of which it is refused.

    needs: without VM.Audit, which reading takes.
    audit: where VM.Audit is needed.
    there: the container that is there; None for none.
    """

    options: dict[str, t.Any]
    needs: Acl
    there: dict[str, t.Any] | None = field(default_factory=dict)
    audit: tuple[str, ...] = (CT,)


CREATED = {
    "/vms/300": ["VM.Allocate", "VM.Config.Disk", "VM.PowerMgmt"],
    "/storage/local": ["Datastore.Audit"],
    SPACE: ["Datastore.AllocateSpace"],
}
CASES: dict[str, Case] = {
    "cpu": Case({"cores": 2, "cpulimit": 1, "cpuunits": 50}, {CT: ["VM.Config.CPU"]}),
    "memory": Case({"memory": 1024, "swap": 0}, {CT: ["VM.Config.Memory"]}),
    "options": Case(
        {"tags": ["a"], "description": "x", "onboot": True, "startup": {"order": 1}, "timezone": "host"},
        {CT: ["VM.Config.Options"]},
    ),
    "names": Case({"hostname": "x", "nameserver": ["192.0.2.1"]}, {CT: ["VM.Config.Network"]}),
    "interface": Case(
        {"networks": [{"name": "eth0", "bridge": "vmbr0", "ip": "dhcp"}]},
        {CT: ["VM.Config.Network"], BRIDGE: ["SDN.Use"]},
    ),
    "another bridge": Case(
        {"networks": [{"name": "eth0", "bridge": "vmbr1"}]},
        {CT: ["VM.Config.Network"], BRIDGE: ["SDN.Use"], "/sdn/zones/localnetwork/vmbr1": ["SDN.Use"]},
        {"config": {"net0": NET}},
    ),
    "volume": Case(
        {"mounts": [{"storage": "tank", "size": "1G", "mp": "/data"}]},
        {CT: ["VM.Config.Disk"], TANK: ["Datastore.AllocateSpace"]},
    ),
    "detach": Case(
        {"mounts": []},
        {CT: ["VM.Config.Disk"]},
        {"config": {"mp0": "local-zfs:subvol-201-disk-1,mp=/data,size=1G"}},
    ),
    "unset": Case({"unset": ["tags"]}, {CT: ["VM.Config.Options"]}, {"config": {"tags": "a"}}),
    "nesting": Case({"features": {"nesting": True}}, {CT: ["VM.Allocate", "VM.Config.Options"]}),
    "resize": Case(
        {"rootfs": {"size": "9G"}},
        {CT: ["VM.Config.Disk", "VM.Config.Options"], SPACE: ["Datastore.AllocateSpace"]},
    ),
    "move": Case(
        {"rootfs": {"storage": "tank", "size": "8G"}, "move_volumes": True},
        {CT: ["VM.Config.Disk"], TANK: ["Datastore.AllocateSpace"]},
    ),
    "start": Case({"state": "started"}, {CT: ["VM.PowerMgmt"]}),
    "stop": Case({"state": "stopped"}, {CT: ["VM.PowerMgmt"]}, {"status": "running"}),
    "restart": Case({"state": "restarted"}, {CT: ["VM.PowerMgmt"]}, {"status": "running"}),
    "migrate": Case({"node": "pve2", "migrate": True}, {CT: ["VM.Migrate"]}),
    "remove": Case({"state": "absent"}, {CT: ["VM.Allocate"]}),
    "template": Case({"state": "template"}, {CT: ["VM.Allocate"]}),
    "pool": Case({"pool": "prod"}, {CT: ["VM.Allocate"], "/pool/prod": ["Pool.Allocate", "Pool.Audit"]}),
    "create": Case(
        {**NEW, "vmid": 300, "state": "started"},
        CREATED,
        None,
        ("/vms/300",),
    ),
    "create with all": Case(
        {
            **NEW,
            "vmid": 300,
            "hostname": "web-1",
            "memory": 256,
            "cores": 1,
            "tags": ["a"],
            "features": {"nesting": True},
            "networks": [{"name": "eth0", "bridge": "vmbr0"}],
            "mounts": [{"storage": "tank", "size": "1G", "mp": "/data"}],
            "state": "started",
        },
        {
            **CREATED,
            "/vms/300": [
                "VM.Allocate",
                "VM.Config.CPU",
                "VM.Config.Disk",
                "VM.Config.Memory",
                "VM.Config.Network",
                "VM.Config.Options",
                "VM.PowerMgmt",
            ],
            TANK: ["Datastore.AllocateSpace"],
            BRIDGE: ["SDN.Use"],
        },
        None,
        ("/vms/300",),
    ),
    "create privileged": Case(
        {**NEW, "vmid": 300, "unprivileged": False},
        {**CREATED, "/vms/300": ["VM.Allocate", "VM.Config.Disk"], "/": ["Sys.Modify"]},
        None,
        ("/vms/300",),
    ),
    "clone": Case(
        {"vmid": 300, "hostname": "copy", "clone": {"vmid": 201}},
        {
            CT: ["VM.Clone"],
            "/vms/300": ["VM.Allocate"],
            SPACE: ["Datastore.AllocateSpace"],
            BRIDGE: ["SDN.Use"],
        },
        {"config": {"net0": NET}},
        (CT, "/vms/300"),
    ),
    "clone and change": Case(
        {"vmid": 300, "clone": {"vmid": 201, "storage": "tank"}, "memory": 256},
        {CT: ["VM.Clone"], "/vms/300": ["VM.Allocate", "VM.Config.Memory"], TANK: ["Datastore.AllocateSpace"]},
        {},
        (CT, "/vms/300"),
    ),
}


def become(lxc: Lxc, acl: Acl, audit: t.Iterable[str] = (), name: str = "ci@pve!deploy") -> None:
    """Be a token with these privileges and no others."""
    lxc.cluster.call(lambda cluster: cluster.acl.pop(name.partition("!")[0], None))
    user = lxc.cluster.call("add_user", name.partition("!")[0])
    merged = {path: list(privileges) for path, privileges in acl.items()}
    for path in audit:
        merged.setdefault(path, []).append("VM.Audit")
    for path, privileges in merged.items():
        lxc.cluster.call("grant", user, path, *privileges, propagate=path != "/")
    secret = lxc.cluster.call("add_token", name)
    lxc.options.update(api_user=user, api_token_id=name, api_token_secret=secret)


def prepare(lxc: Lxc, case: Case) -> dict[str, t.Any]:
    if case.there is not None:
        lxc.add(201, **copy.deepcopy(case.there))
    return {**HERE, "state": "present", **case.options}


def without(acl: Acl, path: str, privilege: str) -> Acl:
    return {where: [held for held in acl[where] if (where, held) != (path, privilege)] for where in acl}


@pytest.mark.parametrize("name", CASES)
def test_these_privileges_suffice(lxc: Lxc, name: str) -> None:
    case = CASES[name]
    options = prepare(lxc, case)
    become(lxc, case.needs, case.audit)
    run = lxc.apply(**options)
    assert run.changed
    assert run.asked.count(PERMISSIONS) == 1
    assert [request.status for request in run.requests if request.status == 403] == []


@pytest.mark.parametrize(
    ("name", "path", "privilege"),
    [(name, path, held) for name, case in CASES.items() for path, all_held in case.needs.items() for held in all_held],
)
def test_each_one_that_is_missing_is_named_before_anything_is_sent(
    lxc: Lxc, name: str, path: str, privilege: str
) -> None:
    case = CASES[name]
    options = prepare(lxc, case)
    become(lxc, without(case.needs, path, privilege), case.audit)
    run = lxc.refused("permission_denied", **options)
    named = {(entry["path"], held) for entry in run.details["missing"] for held in entry["privilege"].split("|")}
    assert (path, privilege) in named
    assert {entry[0] for entry in named} == {path}
    assert f"on {path}" in run.result["msg"]
    assert run.result["msg"].startswith("ci@pve!deploy lacks what this needs: ")


def test_everything_that_is_missing_is_named_at_once(lxc: Lxc) -> None:
    lxc.add(201)
    become(lxc, {}, [CT])
    run = lxc.refused("permission_denied", **HERE, memory=1024, cores=2, rootfs={"size": "9G"})
    assert {(entry["path"], entry["privilege"]) for entry in run.details["missing"]} == {
        (CT, "VM.Config.CPU"),
        (CT, "VM.Config.Memory"),
        (CT, "VM.Config.Disk"),
        (CT, "VM.Config.Options"),
        (CT, "VM.PowerMgmt"),
        (SPACE, "Datastore.AllocateSpace"),
    }


def test_what_is_as_declared_takes_nothing_but_reading(lxc: Lxc) -> None:
    lxc.add(201, status="running")
    become(lxc, {}, [CT])
    run = lxc.unchanged(**HERE, memory=512)
    assert PERMISSIONS not in run.asked


def test_a_container_that_may_not_be_read(lxc: Lxc) -> None:
    lxc.add(201)
    become(lxc, {"/vms/999": ["VM.Audit"]})
    run = lxc(**HERE)
    assert (run.code, run.writes) == ("permission_denied", [])
    assert (run.details["path"], run.details["privilege"]) == (CT, "VM.Audit")


# ------------------------------------------------------------------------------------------------- pools, tokens


def test_the_privileges_of_a_pool_suffice(lxc: Lxc) -> None:
    pool = ["VM.Audit", "VM.Allocate", "VM.Config.Disk", "VM.Config.Memory", "VM.Config.Network", "VM.PowerMgmt"]
    become(
        lxc,
        {
            "/pool/prod": [*pool, "Pool.Audit"],
            "/storage/local": ["Datastore.Audit"],
            SPACE: ["Datastore.AllocateSpace"],
        },
    )
    given: dict[str, t.Any] = {"hostname": "web-1", "pool": "prod", **NEW}
    run = lxc.converge(**given, memory=256)
    vmid = run.container["vmid"]
    assert lxc.cluster.cluster.pools["prod"] == {vmid}
    # Later the pool need not be said.
    lxc.converge(hostname="web-1", memory=512)
    lxc.converge(vmid=vmid, node="pve1", memory=256)
    lxc.converge(hostname="web-1", state="absent", force=True)


def test_the_privileges_of_another_pool_do_not(lxc: Lxc) -> None:
    lxc.cluster.call(lambda cluster: cluster.pools.setdefault("test", set()))
    become(lxc, {"/pool/test": ["VM.Audit", "VM.Allocate", "VM.Config.Disk", "VM.PowerMgmt", "VM.Config.Memory"]})
    run = lxc(vmid=300, pool="prod", memory=256, **NEW)
    assert (run.code, run.writes) == ("permission_denied", [])
    assert "VM.Allocate on /vms/300 or /pool/prod" in run.result["msg"]


def test_a_separated_token_has_no_more_than_its_own(lxc: Lxc) -> None:
    lxc.add(201)
    lxc.cluster.call("add_user", "ci@pve", acl={"/vms": ["VM.Audit", "VM.Config.Memory", "VM.Config.CPU"]})
    secret = lxc.cluster.call(
        "add_token", "ci@pve!deploy", privsep=True, acl={"/vms": ["VM.Audit", "VM.Config.Memory"]}
    )
    lxc.options.update(api_token_id="ci@pve!deploy", api_token_secret=secret)
    run = lxc.refused("permission_denied", **HERE, state="present", cores=2)
    assert "token with privilege separation" in run.result["msg"]
    lxc.converge(**HERE, state="present", memory=1024)


def test_a_grant_on_one_container_replaces_what_is_inherited(lxc: Lxc) -> None:
    lxc.add(201)
    become(lxc, {"/vms": ["VM.Audit", "VM.Config.Memory"], CT: ["VM.Audit", "VM.Config.CPU"]})
    lxc.refused("permission_denied", **HERE, state="present", memory=1024)
    lxc.converge(**HERE, state="present", cores=2)


# --------------------------------------------------------------------------------------------------- root alone


ROOT_ONLY: list[tuple[dict[str, t.Any], dict[str, t.Any]]] = [
    ({"mounts": [{"volume": "/srv/data", "mp": "/data"}]}, {}),
    ({"mounts": [{"volume": "/dev/sdb1", "mp": "/data"}]}, {}),
    ({"devices": [{"path": "/dev/null"}]}, {}),
    ({"hookscript": "local:snippets/hook.pl"}, {}),
    ({"features": {"keyctl": True}}, {}),
    ({"features": {"nesting": True, "fuse": True}}, {}),
    ({"features": {"mount": ["nfs"]}}, {}),
    ({"features": {}}, {"features": "keyctl=1"}),
    ({"features": {"nesting": True}}, {"unprivileged": 0}),
]


@pytest.mark.parametrize(("options", "config"), ROOT_ONLY)
@pytest.mark.parametrize("token", ["root@pam!demo", "ci@pve!deploy"])
def test_what_only_root_may_do_is_named_as_such(
    lxc: Lxc, options: dict[str, t.Any], config: dict[str, t.Any], token: str
) -> None:
    lxc.add(201, config=config)
    lxc.cluster.call("store_file", "local", "hook.pl", 100, "snippets")
    if token != "root@pam!demo":
        everything = [*_all_vm_privileges(), "Sys.Modify", "Datastore.AllocateSpace", "SDN.Use"]
        become(lxc, {"/vms": everything, "/storage": everything, "/sdn": everything, "/": everything})
    run = lxc.refused("permission_denied", **HERE, state="stopped", **options)
    [entry] = run.details["missing"]
    assert entry["requires"] == "root@pam with a password"
    assert f"{token} lacks" in run.result["msg"]
    assert "refused to every API token, also to root's" in run.result["msg"]
    lxc.as_root()
    assert lxc.converge(**HERE, state="stopped", **options).changed


@pytest.mark.parametrize(
    "options",
    [
        {"features": {"keyctl": True}},
        {"devices": [{"path": "/dev/null"}]},
        {"mounts": [{"volume": "/srv/data", "mp": "/data"}]},
        {"unprivileged": False, "features": {"nesting": True}},
    ],
)
def test_root_alone_creates_with_these(lxc: Lxc, options: dict[str, t.Any]) -> None:
    lxc.refused("permission_denied", vmid=300, **NEW, **options)
    lxc.as_root()
    assert lxc.converge(vmid=300, state="stopped", **NEW, **options).changed


def _all_vm_privileges() -> list[str]:
    names = {privilege for case in CASES.values() for held in case.needs.values() for privilege in held}
    return sorted({"VM.Audit", *names})


# ------------------------------------------------------------------------------------------------- as in README


def readme_acl() -> Acl:
    """What README tells to grant, to the user and to the token."""
    text = re.sub(r"\\\n\s*", "", README.read_text(encoding="utf-8"))
    roles = dict(re.findall(r'pveum role add (\w+) --privs "([^"]+)"', text))
    acl = {path: roles[role].split() for path, role in re.findall(r"pveum acl modify (\S+) \$who --roles (\w+)", text)}
    assert set(acl) == {"/vms", "/storage/local", "/storage/local-zfs", "/sdn/zones/localnetwork"}
    return acl


@pytest.fixture
def deploy(lxc: Lxc) -> Lxc:
    """As the token of README."""
    acl = readme_acl()
    lxc.cluster.call("add_user", "ansible@pve", acl=acl)
    secret = lxc.cluster.call("add_token", "ansible@pve!deploy", privsep=True, acl=acl)
    lxc.options.update(api_user="ansible@pve", api_token_id="ansible@pve!deploy", api_token_secret=secret)
    return lxc


def test_the_token_of_the_readme_lives_a_containers_life(deploy: Lxc) -> None:
    given: dict[str, t.Any] = {
        **NEW,
        "hostname": "web-1",
        "unprivileged": True,
        "cores": 1,
        "memory": 256,
        "networks": [{"name": "eth0", "bridge": "vmbr0", "ip": "192.0.2.9/24"}],
        "mounts": [{"storage": "local-zfs", "size": "1G", "mp": "/data"}],
        "features": {"nesting": True},
        "tags": ["web"],
        "description": "Shop",
        "nameserver": ["192.0.2.1"],
    }
    vmid = deploy.converge(**given).container["vmid"]
    given.update(memory=512, cores=2, tags=["web", "prod"], rootfs={"storage": "local-zfs", "size": "9G"})
    deploy.converge(**given)
    deploy.converge(**{**given, "timezone": "host"}, restart="if_needed")
    deploy.converge(hostname="web-1", node="pve2", migrate=True, restart="if_needed")
    deploy.converge(hostname="web-1", state="stopped")
    deploy.converge(hostname="copy-1", clone={"vmid": vmid}, memory=128)
    deploy.converge(hostname="web-1", state="template")
    deploy.converge(hostname="linked-1", clone={"hostname": "web-1"})
    for name in ("copy-1", "linked-1", "web-1"):
        deploy.converge(hostname=name, state="absent", force=True, purge=True)
    assert deploy.cluster.cluster.cts == []


def test_the_token_of_the_readme_may_be_kept_to_a_pool(lxc: Lxc) -> None:
    acl = {path.replace("/vms", "/pool/prod"): privileges for path, privileges in readme_acl().items()}
    become(lxc, acl)
    lxc.converge(hostname="web-1", pool="prod", **NEW)
    become(lxc, {**acl, "/pool/prod": [privilege for privilege in acl["/pool/prod"] if privilege != "Pool.Audit"]})
    message = lxc.refused("permission_denied", hostname="web-1", pool="prod", **NEW).result["msg"]
    assert "Pool.Audit on /pool/prod" in message


def test_the_token_of_the_readme_takes_and_rolls_back_snapshots(deploy: Lxc) -> None:
    deploy.add(201)
    for options in (
        {"name": "before"},
        {"name": "before", "state": "rolled_back"},
        {"name": "before", "state": "absent"},
    ):
        result = run_module("lxc_snapshot", {**deploy.options, "vmid": [201], **options})
        assert not result.get("failed"), result


def test_the_token_of_the_readme_reads_everything(deploy: Lxc) -> None:
    deploy.add(201, status="running")
    gather = ["config", "pending", "snapshots", "interfaces", "usage"]
    result = run_module("lxc_container_info", {**deploy.options, "gather": gather, "current": True})
    assert [entry["vmid"] for entry in result["containers"]] == [201]
    assert "warnings" not in result


def test_the_token_of_the_readme_may_not_do_the_rest(deploy: Lxc) -> None:
    deploy.add(201)
    for options in (
        {"features": {"keyctl": True}},
        {"pool": "prod"},
        {"mounts": [{"storage": "tank", "size": "1G", "mp": "/data"}]},
    ):
        deploy.refused("permission_denied", **HERE, state="stopped", **options)
    deploy.refused("permission_denied", vmid=300, **NEW, unprivileged=False)
    storage = {**NEW, "template": TEMPLATE.replace("local:", "other:")}
    deploy.refused("permission_denied", vmid=300, **storage)
