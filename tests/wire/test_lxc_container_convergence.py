# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""lxc_container on containers that exist: every option is set once and then left alone, in whatever spelling."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import container_options
from ansible_collections.lxcri.proxmox.tests.wire.support import (
    ANY,
    NET,
    PERMISSIONS,
    RESOURCES,
    TEMPLATE,
    Lxc,
    base,
    reads,
)

CONFIG = f"{base()}/config"
PUBKEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGr0Dp+0q root@example"


@dataclass
class Case:
    """One option: how it is declared first, and in which other spellings it must mean the same.

    sent: the parameters of the one PUT that sets it; None where it is set by another request, or by none.
    before: the configuration that is there.
    root: only root@pam with a password may set it.
    cost: of a run that changes nothing, when it is not two requests.
    more: other options that it needs.
    """

    options: dict[str, t.Any]
    sent: dict[str, t.Any] | None = None
    same: list[dict[str, t.Any]] = field(default_factory=list)
    before: dict[str, t.Any] = field(default_factory=dict)
    root: bool = False
    cost: int = 2
    more: dict[str, t.Any] = field(default_factory=dict)


def net(**subs: t.Any) -> dict[str, t.Any]:
    return {"networks": [{"name": "eth0", "bridge": "vmbr0", **subs}]}


def mount(**subs: t.Any) -> dict[str, t.Any]:
    return {"mounts": [{"mp": "/data", "storage": "local-zfs", "size": "2G", **subs}]}


CASES: dict[str, Case] = {
    "arch": Case({"arch": "arm64"}, {"arch": "arm64"}),
    "cmode": Case({"cmode": "console"}, {"cmode": "console"}),
    "console": Case({"console": False}, {"console": "0"}, [{"console": text} for text in ("no", "0", 0, "off")]),
    "cores": Case({"cores": 2}, {"cores": "2"}, [{"cores": "2"}, {"cores": " 2 "}]),
    "cpulimit": Case(
        {"cpulimit": 0.5},
        {"cpulimit": "0.5"},
        [{"cpulimit": text} for text in ("0.5", "0.50", ".5", "5e-1")],
    ),
    "cpuunits": Case({"cpuunits": 200}, {"cpuunits": "200"}, [{"cpuunits": "200"}]),
    "debug": Case({"debug": True}, {"debug": "1"}, [{"debug": text} for text in ("yes", "1", "true", "on", 1)]),
    "description": Case(
        {"description": "# Shop\nFront end"},
        {"description": "# Shop\nFront end"},
        [{"description": "# Shop\nFront end\n"}, {"description": "# Shop\nFront end\n\n"}],
    ),
    "entrypoint": Case({"entrypoint": "/bin/app --port 80"}, {"entrypoint": "/bin/app --port 80"}),
    "env": Case(
        {"env": {"MODE": "prod", "LEVEL": 3}},
        {"env": "MODE=prod\0LEVEL=3"},
        [{"env": {"LEVEL": "3", "MODE": "prod"}}],
    ),
    "hookscript": Case(
        {"hookscript": "local:snippets/hook.pl"},
        {"hookscript": "local:snippets/hook.pl"},
        root=True,
    ),
    "hostname": Case({"hostname": "shop-1"}, {"hostname": "shop-1"}),
    "memory": Case({"memory": 1024}, {"memory": "1024"}, [{"memory": "1024"}]),
    "nameserver": Case(
        {"nameserver": ["192.0.2.1", "2001:DB8::1"]},
        {"nameserver": "192.0.2.1 2001:db8::1"},
        [
            {"nameserver": "192.0.2.1,2001:db8::1"},
            {"nameserver": ["192.0.2.1", "2001:db8:0::1"]},
            {"nameserver": "192.0.2.1 2001:db8::1"},
        ],
    ),
    "onboot": Case({"onboot": True}, {"onboot": "1"}, [{"onboot": text} for text in ("yes", "1", "true", "y", 1)]),
    "ostype": Case({"ostype": "debian"}, None),
    "protection": Case({"protection": True}, {"protection": "1"}, [{"protection": "yes"}, {"protection": 1}]),
    "searchdomain": Case(
        {"searchdomain": ["example.org", "example.net"]},
        {"searchdomain": "example.org example.net"},
        [{"searchdomain": "example.org,example.net"}, {"searchdomain": "example.org example.net"}],
    ),
    "swap": Case({"swap": 0}, {"swap": "0"}, [{"swap": "0"}]),
    "tags": Case(
        {"tags": ["web", "Prod"]},
        {"tags": "prod;web"},
        [
            {"tags": ["prod", "web"]},
            {"tags": ["WEB", "prod", "web"]},
            {"tags": "web,prod"},
            {"tags": "web;prod"},
        ],
    ),
    "timezone": Case({"timezone": "Europe/Vienna"}, {"timezone": "Europe/Vienna"}),
    "tty": Case({"tty": 4}, {"tty": "4"}, [{"tty": "4"}]),
    "unprivileged": Case({"unprivileged": True}, None, [{"unprivileged": "yes"}, {"unprivileged": 1}]),
    "node": Case({"node": "pve1"}, None),
    "vmid": Case({"vmid": 201}, None, [{"vmid": "201"}]),
    "template": Case({"template": TEMPLATE}, None),
    "image": Case(
        {"image": {"reference": "nginx:1.29"}},
        None,
        [
            {"image": {"reference": "docker.io/library/nginx:1.29", "storage": "tank"}},
            {"image": {"reference": "index.docker.io/nginx:1.29"}},
        ],
        before={"description": f"<!-- lxcri.proxmox image=docker.io/library/nginx:1.29 digest=sha256:{'0' * 64} -->"},
    ),
    "clone": Case({"clone": {"vmid": 999}}, None),
    "restore": Case({"restore": {"volume": "local:backup/vzdump-lxc-201-2026_01_31-02_00_00.tar.zst"}}, None),
    "storage": Case({"storage": "tank"}, None),
    "pool": Case({"pool": "prod"}, None, cost=3),
    "password": Case({"password": "correct horse"}, None),
    "pubkey": Case({"pubkey": PUBKEY}, None),
    "ignore_unpack_errors": Case({"ignore_unpack_errors": True}, None),
    "rootfs": Case(
        {"rootfs": {"size": "16G", "mountoptions": ["nosuid", "discard"]}},
        None,
        [
            {"rootfs": {"size": "16384M", "mountoptions": "discard,nosuid"}},
            {"rootfs": {"size": "16777216K", "storage": "local-zfs", "mountoptions": ["discard;nosuid"]}},
            {"rootfs": {"mountoptions": ["discard", "nosuid"], "ro": "no", "replicate": "yes"}},
        ],
        before={"rootfs": "local-zfs:subvol-201-disk-0,mountoptions=nosuid,size=8G"},
    ),
    "networks": Case(
        {"networks": [{"name": "eth0", "bridge": "vmbr0", "ip": "dhcp", "firewall": True, "tag": 7}]},
        {"net0": "name=eth0,bridge=vmbr0,firewall=1,hwaddr=BC:24:11:00:02:01,ip=dhcp,tag=7"},
        [
            net(ip="dhcp", firewall="yes", tag="7"),
            net(ip="dhcp", firewall=1, tag=7, id="net0", link_down=False, type="veth"),
            net(ip="dhcp", firewall=True, tag=7, hwaddr="bc:24:11:00:02:01"),
        ],
        before={"net0": NET},
    ),
    "mounts": Case(
        mount(backup=True),
        {"mp0": "local-zfs:2,mp=/data,backup=1"},
        [
            mount(backup="yes", id="mp0"),
            mount(backup=1, size="2048M", ro=False),
            {"mounts": [{"mp": "/data/", "backup": "on"}]},
            {"mounts": [{"mp": "//data", "backup": True, "volume": "local-zfs:subvol-201-disk-1"}]},
        ],
    ),
    "devices": Case(
        {"devices": [{"path": "/dev/dri/renderD128", "gid": 44, "mode": "0660"}]},
        {"dev0": "/dev/dri/renderD128,gid=44,mode=0660"},
        [{"devices": [{"id": "dev0", "path": "/dev/dri/renderD128", "gid": "44", "mode": "0660", "uid": 0}]}],
        root=True,
    ),
    "features": Case(
        {"features": {"nesting": True}},
        {"features": "nesting=1"},
        [{"features": {"nesting": "yes", "keyctl": "no"}}, {"features": {"nesting": 1, "mount": []}}],
    ),
    "startup": Case(
        {"startup": {"order": 2, "up": 30}},
        {"startup": "order=2,up=30"},
        [{"startup": {"up": "30", "order": "2"}}],
    ),
    "unset": Case(
        {"unset": ["description", "mp1"]},
        {"delete": "description,mp1"},
        [{"unset": ["mp1", "description"]}, {"unset": "description,mp1"}],
        before={"description": "old\n", "mp1": "local-zfs:subvol-201-disk-1,mp=/old,size=1G"},
    ),
    "restart": Case({"restart": "if_needed"}, None),
    "migrate": Case({"migrate": True}, None),
    "move_volumes": Case({"move_volumes": True}, None),
    "recreate": Case({"recreate": True}, None),
    "force": Case({"force": True}, None),
    "purge": Case({"purge": True}, None),
    "wait_for_address": Case(
        {"wait_for_address": True},
        None,
        before={"net0": "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:02:01,ip=192.0.2.1/24,type=veth"},
    ),
    "address_timeout": Case({"address_timeout": 5}, None),
    "timeout": Case({"timeout": 30}, None),
    "shutdown_timeout": Case({"shutdown_timeout": 30}, None),
}


def test_every_option_is_here() -> None:
    assert set(CASES) == set(container_options())


@pytest.mark.parametrize("option", CASES)
def test_an_option_is_set_once_and_the_same_value_is_left_alone(lxc: Lxc, option: str) -> None:
    case = CASES[option]
    if case.root:
        lxc.as_root()
    lxc.cluster.call("store_file", "local", "hook.pl", 100, "snippets")
    lxc.add(config=case.before)
    given = {"vmid": 201, "node": "pve1", "state": "present", **case.more}
    run = lxc.converge(**given, **{k: v for k, v in case.options.items() if k not in given}, **_own(case, given))
    if case.sent is not None:
        assert run.writes == [("PUT", CONFIG, {**case.sent, "digest": ANY})]
    before = lxc.cluster.call(lambda cluster: dict(cluster.ct(201).config))
    for spelling in [case.options, *case.same]:
        again = lxc.unchanged(**{**given, **spelling})
        assert len(again.requests) - again.logins == case.cost
        assert not again.result.get("warnings")
    assert lxc.ct().config == before


def _own(case: Case, given: dict[str, t.Any]) -> dict[str, t.Any]:
    return {name: value for name, value in case.options.items() if name in given and value != given[name]}


# ------------------------------------------------------------------------------------------------ one thing changes


def test_more_memory_is_one_request_that_leaves_the_rest_alone(lxc: Lxc) -> None:
    lxc.add(status="running", config={"net0": NET, "features": "nesting=1", "tags": "web"})
    before = dict(lxc.ct().config)
    run = lxc.converge(
        vmid=201,
        node="pve1",
        memory=2048,
        networks=[{"name": "eth0", "bridge": "vmbr0", "ip": "dhcp"}],
        features={"nesting": True},
    )
    assert run.writes == [("PUT", CONFIG, {"memory": "2048", "digest": ANY})]
    assert run.asked == [*reads(), PERMISSIONS, f"PUT {CONFIG}", *reads()]
    assert run.plan == [("memory", 512, 2048, "live")]
    assert run.result["diff"] == {"before": {"memory": 512}, "after": {"memory": 2048}}
    assert run.container["config"]["memory"] == 2048
    assert lxc.ct().config == {**before, "memory": 2048}


@pytest.mark.parametrize(
    ("text", "declared", "sent"),
    [
        ("firewall=1,", {}, ""),
        ("tag=7,", {}, ""),
        ("rate=5,", {}, ""),
        ("mtu=1400,", {}, ""),
        ("link_down=1,", {}, ""),
        ("", {"firewall": True}, "firewall=1,"),
        ("firewall=1,", {"firewall": False}, ""),
    ],
)
def test_what_an_interface_is_declared_without_is_undone_and_its_mac_stays(
    lxc: Lxc, text: str, declared: dict[str, t.Any], sent: str
) -> None:
    mac = "BC:24:11:00:02:01"
    lxc.add(status="running", config={"net0": f"name=eth0,bridge=vmbr0,{text}hwaddr={mac},ip=dhcp,type=veth"})
    run = lxc.converge(vmid=201, node="pve1", **net(ip="dhcp", **declared))
    assert run.writes == [
        ("PUT", CONFIG, {"net0": f"name=eth0,bridge=vmbr0,{sent}hwaddr={mac},ip=dhcp", "digest": ANY})
    ]
    assert (run.keys, run.result["restart_required"]) == (["net0"], False)
    assert mac in lxc.ct().config["net0"]


def test_a_feature_that_is_not_declared_is_switched_off(lxc: Lxc) -> None:
    lxc.as_root()
    lxc.add(config={"features": "keyctl=1,nesting=1"})
    run = lxc.converge(vmid=201, node="pve1", state="stopped", features={"nesting": True})
    assert run.writes == [("PUT", CONFIG, {"features": "nesting=1", "digest": ANY})]
    assert run.plan == [("features", "keyctl=1,nesting=1", "nesting=1", "live")]


def test_members_that_a_list_leaves_out_are_removed(lxc: Lxc) -> None:
    second = "name=eth1,bridge=vmbr1,hwaddr=BC:24:11:00:02:02,type=veth"
    lxc.add(config={"net0": NET, "net1": second, "net2": second.replace("eth1", "eth2")})
    run = lxc.converge(vmid=201, node="pve1", state="stopped", **net(ip="dhcp"))
    assert run.writes == [("PUT", CONFIG, {"delete": "net1,net2", "digest": ANY})]
    assert [(key, after) for key, _before, after, _effect in run.plan] == [("net1", None), ("net2", None)]
    assert "net1" not in lxc.ct().config


def test_many_differences_are_one_request(lxc: Lxc) -> None:
    lxc.add(status="running", config={"description": "old\n", "cores": 1})
    run = lxc.converge(
        hostname="web-1",
        cores=4,
        memory=1024,
        swap=0,
        tags=["b", "a"],
        onboot=True,
        startup={"order": 1},
        unset=["description"],
    )
    assert run.writes == [
        (
            "PUT",
            CONFIG,
            {
                "cores": "4",
                "memory": "1024",
                "onboot": "1",
                "startup": "order=1",
                "swap": "0",
                "tags": "a;b",
                "delete": "description",
                "digest": ANY,
            },
        )
    ]
    assert run.asked == [RESOURCES, *reads(), PERMISSIONS, f"PUT {CONFIG}", *reads()]
    assert run.result["diff"] == {
        "before": {
            "cores": 1,
            "memory": 512,
            "onboot": None,
            "startup": None,
            "swap": 512,
            "tags": None,
            "description": "old",
        },
        "after": {
            "cores": 4,
            "memory": 1024,
            "onboot": 1,
            "startup": "order=1",
            "swap": 0,
            "tags": "a;b",
            "description": None,
        },
    }


@pytest.mark.parametrize("empty", [{"tags": []}, {"nameserver": []}, {"description": ""}, {"features": {}}])
def test_an_empty_value_removes_the_key_once(lxc: Lxc, empty: dict[str, t.Any]) -> None:
    [key] = empty
    values = {"tags": "a;b", "nameserver": "192.0.2.1", "description": "old\n", "features": "nesting=1"}
    lxc.add(config={key: values[key]})
    run = lxc.converge(vmid=201, node="pve1", state="stopped", **empty)
    assert run.writes == [("PUT", CONFIG, {"delete": key, "digest": ANY})]
    assert key not in lxc.ct().config


@pytest.mark.parametrize("key", ["tags", "features", "nameserver", "searchdomain"])
def test_a_space_that_somebody_left_behind_is_an_empty_value(lxc: Lxc, key: str) -> None:
    lxc.add(config={key: " "})
    empty: t.Any = {} if key == "features" else []
    lxc.unchanged(vmid=201, node="pve1", state="stopped", **{key: empty})


def test_what_is_not_declared_stays(lxc: Lxc) -> None:
    config = {"net0": NET, "tags": "by-hand", "mp0": "local-zfs:subvol-201-disk-1,mp=/x,size=1G", "cpuunits": 50}
    lxc.add(config=config)
    before = dict(lxc.ct().config)
    lxc.converge(vmid=201, node="pve1", state="stopped", cores=2)
    assert lxc.ct().config == {**before, "cores": 2}


# ------------------------------------------------------------------------------------------------------- effects


@pytest.mark.parametrize(
    ("options", "effect"),
    [
        ({"cores": 2}, "live"),
        ({"cpulimit": 1.5}, "live"),
        ({"swap": 0}, "live"),
        ({"hostname": "shop-1"}, "live"),
        ({"tags": ["a"]}, "live"),
        ({"description": "x"}, "live"),
        ({"onboot": True}, "live"),
        ({"startup": {"order": 1}}, "live"),
        ({"protection": True}, "live"),
        ({"networks": [{"name": "eth0", "bridge": "vmbr1"}]}, "live"),
        ({"mounts": [{"storage": "local-zfs", "size": "1G", "mp": "/data"}]}, "live"),
        ({"nameserver": ["192.0.2.1"]}, "restart"),
        ({"searchdomain": ["example.org"]}, "restart"),
        ({"features": {"nesting": True}}, "restart"),
        ({"timezone": "host"}, "restart"),
        ({"tty": 3}, "restart"),
        ({"console": False}, "restart"),
        ({"cmode": "shell"}, "restart"),
        ({"env": {"A": "1"}}, "restart"),
        ({"entrypoint": "/bin/x"}, "restart"),
        ({"debug": True}, "restart"),
    ],
)
def test_the_effect_that_the_plan_names_is_the_effect_that_it_has(
    lxc: Lxc, options: dict[str, t.Any], effect: str
) -> None:
    lxc.add(status="running")
    run = lxc.converge(vmid=201, node="pve1", **options)
    assert [entry[3] for entry in run.plan] == [effect]
    waits = bool(lxc.ct().pending or lxc.ct().deletions)
    assert waits is (effect == "restart")
    assert run.result["restart_required"] is waits
    assert [write[0] for write in run.writes] == ["PUT"]
    assert lxc.ct().status == "running"


def test_a_pending_value_that_is_no_longer_wanted_is_withdrawn(lxc: Lxc) -> None:
    lxc.add(status="running", config={"timezone": "host"}, pending={"timezone": "Europe/Vienna", "tty": 4})
    run = lxc.converge(vmid=201, node="pve1", timezone="host", unset=["tty"])
    assert run.writes == [("PUT", CONFIG, {"revert": "timezone,tty", "digest": ANY})]
    assert (lxc.ct().pending, lxc.ct().config["timezone"]) == ({}, "host")
    assert run.result["restart_required"] is False


def test_a_pending_value_that_is_replaced(lxc: Lxc) -> None:
    lxc.add(status="running", config={"timezone": "host"}, pending={"timezone": "Europe/Vienna"})
    run = lxc.converge(vmid=201, node="pve1", timezone="Europe/Berlin")
    assert run.writes == [("PUT", CONFIG, {"timezone": "Europe/Berlin", "digest": ANY})]
    assert lxc.ct().pending == {"timezone": "Europe/Berlin"}


@pytest.mark.parametrize("options", [{"unprivileged": False}, {"ostype": "alpine"}])
def test_what_only_a_new_container_can_have_is_reported_and_not_done(lxc: Lxc, options: dict[str, t.Any]) -> None:
    lxc.add(status="running")
    run = lxc.converge(vmid=201, node="pve1", **options)
    [key] = options
    assert (run.changed, run.writes, run.result["recreate_required"]) == (False, [], [key])
    assert [(entry[0], entry[3]) for entry in run.blocked] == [(key, "recreate")]
    assert run.result["diff"] == {"before": {}, "after": {}}
    [warning] = run.result["warnings"]
    assert key in warning
    assert "recreate the container" in warning


def test_another_template_is_reported_and_the_rest_is_done(lxc: Lxc) -> None:
    lxc.add()
    template = "local:vztmpl/alpine-3.22-default_20250617_amd64.tar.xz"
    run = lxc.converge(vmid=201, node="pve1", state="stopped", template=template, memory=256)
    assert run.writes == [("PUT", CONFIG, {"memory": "256", "digest": ANY})]
    assert run.result["recreate_required"] == ["template"]
    assert run.blocked == [("template", "debian", template, "recreate")]


def test_what_only_counts_at_creation_is_noted(lxc: Lxc) -> None:
    lxc.add()
    run = lxc.unchanged(vmid=201, node="pve1", state="stopped", password="correct horse", pubkey=PUBKEY)
    [note] = run.result["notes"]
    assert note == "password, pubkey: only used at the creation of a container; container 201 exists."
    assert "correct horse" not in str(run.result)


def test_an_existing_container_moves_into_a_pool(lxc: Lxc) -> None:
    lxc.add(pool="test")
    run = lxc.converge(vmid=201, node="pve1", state="stopped", pool="prod")
    assert run.writes == [("PUT", "/pools", {"poolid": "prod", "vms": "201", "allow-move": "1"})]
    assert run.plan == [("pool", "test", "prod", "live")]
    assert run.asked[:3] == [*reads(), RESOURCES]
    assert lxc.cluster.cluster.pools["prod"] == {201}


# ------------------------------------------------------------------------------------------- somebody else, too


def steal(lxc: Lxc, times: int, **changes: t.Any) -> None:
    """Somebody else changes the container right before a PUT is looked at, the first few times."""
    cluster = lxc.cluster.cluster
    original = cluster._config_lock
    left = [times]

    async def config_lock(ct: t.Any) -> None:
        if left[0] > 0:
            left[0] -= 1
            ct.config.update(changes or {"description": f"{left[0]}\n"})
        await original(ct)

    lxc.cluster.call(lambda simulated: setattr(simulated, "_config_lock", config_lock))


def test_a_change_in_between_is_planned_for_again(lxc: Lxc) -> None:
    lxc.add(status="running", config={"cores": 1, "memory": 512})
    steal(lxc, times=1, cores=2)
    run = lxc(vmid=201, node="pve1", cores=2, memory=1024)
    assert [write[2] for write in run.writes] == [
        {"cores": "2", "memory": "1024", "digest": ANY},
        {"memory": "1024", "digest": ANY},
    ]
    assert run.writes[0][2]["digest"] != run.writes[1][2]["digest"]
    assert (run.result.get("failed"), run.changed) == (None, True)
    # What somebody else has done meanwhile is not claimed.
    assert run.plan == [("memory", 512, 1024, "live")]
    assert lxc.ct().config["memory"] == 1024


def test_a_container_that_never_holds_still_is_left_alone(lxc: Lxc) -> None:
    lxc.add(status="running")
    steal(lxc, times=99)
    run = lxc(vmid=201, node="pve1", memory=1024)
    assert run.code == "modified"
    assert len(run.writes) == 4
    assert lxc.ct().config["memory"] == 512
