# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans: which requests follow from what is declared and what is there."""

from __future__ import annotations

import typing as t
from dataclasses import replace

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.access import Need
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.plan import LIVE, RECREATE, RESTART, Step
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import spec
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import Actual, Plan, waiting_keys
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.plan import make_plan
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.privileges import CONFIG_PRIVILEGES
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import Declared

ROOTFS = "local-zfs:subvol-101-disk-0,size=8G"
NET = "name=eth0,bridge=vmbr0,firewall=1,hwaddr=BC:24:11:00:00:01,ip=dhcp,tag=10,type=veth"
DATA = "local-zfs:subvol-101-disk-1,mp=/data,backup=1,size=8G"


def declare(**options: t.Any) -> Declared:
    return spec.declare({"vmid": 101, "state": "present", **options})


def there(status: str = "stopped", pending: dict[str, t.Any] | None = None, **config: t.Any) -> Actual:
    config = {"memory": 512, "ostype": "debian", "unprivileged": 1, "rootfs": ROOTFS, **config}
    current = {key: value for key, value in config.items() if value is not None}
    return Actual(101, "pve1", status, current, pending or {}, digest="d1")


def running(pending: dict[str, t.Any] | None = None, **config: t.Any) -> Actual:
    return there("running", pending, **config)


def requests(plan: Plan) -> list[tuple[str, str, dict[str, t.Any]]]:
    """Method, the end of the path, and parameters of every step."""
    return [(step.method, step.path.removeprefix("nodes/pve1/lxc/101/"), step.params) for step in plan.steps]


def calls(plan: Plan) -> list[str]:
    return [step.path.removeprefix("nodes/pve1/lxc/101/") for step in plan.steps]


def put(**params: t.Any) -> tuple[str, str, dict[str, t.Any]]:
    return ("PUT", "config", params)


def effects(plan: Plan) -> dict[str, str]:
    return {change.key: change.effect for change in plan.changes}


def refusal(declared: Declared, actual: Actual | None, source: Actual | None = None) -> Failure:
    with pytest.raises(Failure) as raised:
        make_plan(declared, actual, source)
    return raised.value


# ----------------------------------------------------------------------------------------------- single keys


def test_one_changed_key_is_one_request_with_that_key_only() -> None:
    actual = there(net0=NET, mp0=DATA, tags="a;b", description="x\n")
    declared = declare(
        memory=1024,
        tags=["B", "a"],
        description="x",
        networks=[{"name": "eth0", "bridge": "vmbr0", "firewall": True, "ip": "dhcp", "tag": 10}],
        mounts=[{"mp": "/data", "backup": True, "size": "8G"}],
        rootfs={"size": "8192M"},
    )
    plan = make_plan(declared, actual)
    assert requests(plan) == [put(memory=1024)]
    assert plan.steps[0].digest, "nobody else's change may be overwritten"
    (change,) = plan.changes
    assert change.as_dict() == {
        "key": "memory",
        "before": 512,
        "after": 1024,
        "effect": LIVE,
        "request": "PUT /nodes/pve1/lxc/101/config",
    }


@pytest.mark.parametrize(
    ("options", "config", "sent"),
    [
        ({"cores": 2}, {}, {"cores": 2}),
        ({"cores": 2}, {"cores": 4}, {"cores": 2}),
        ({"cpulimit": 0.5}, {}, {"cpulimit": "0.5"}),
        ({"cpulimit": 0.0}, {"cpulimit": "2"}, {"cpulimit": "0"}),
        ({"onboot": True}, {}, {"onboot": 1}),
        ({"onboot": False}, {"onboot": 1}, {"onboot": 0}),
        ({"console": False}, {}, {"console": 0}),
        ({"description": "a\nb"}, {"description": "a\n"}, {"description": "a\nb"}),
        ({"description": ""}, {"description": "a\n"}, {"delete": "description"}),
        ({"tags": []}, {"tags": "a"}, {"delete": "tags"}),
        ({"tags": ["b", "A"]}, {"tags": "a"}, {"tags": "a;b"}),
        (
            {"nameserver": ["192.0.2.1", "192.0.2.2"]},
            {"nameserver": "192.0.2.1"},
            {"nameserver": "192.0.2.1 192.0.2.2"},
        ),
        ({"nameserver": []}, {"nameserver": "192.0.2.1"}, {"delete": "nameserver"}),
        ({"searchdomain": ["a.example", "b.example"]}, {}, {"searchdomain": "a.example b.example"}),
        ({"env": {"A": "x y", "B": ""}}, {"env": "A=x y"}, {"env": "A=x y\0B="}),
        ({"env": {}}, {"env": "A=1"}, {"delete": "env"}),
        ({"startup": {"order": 2, "up": 30}}, {"startup": "order=2"}, {"startup": "order=2,up=30"}),
        ({"features": {"nesting": True}}, {"features": "nesting=1,keyctl=1"}, {"features": "nesting=1"}),
        ({"features": {}}, {"features": "nesting=1"}, {"delete": "features"}),
        ({"features": {"mount": ["nfs", "cifs"]}}, {}, {"features": "mount=cifs;nfs"}),
        ({"hostname": "web-1"}, {"hostname": "web-2"}, {"hostname": "web-1"}),
        ({"timezone": "host"}, {}, {"timezone": "host"}),
        ({"unset": ["description", "cores"]}, {"description": "x\n", "cores": 1}, {"delete": "cores,description"}),
    ],
    ids=str,
)
def test_what_is_sent(options: dict[str, t.Any], config: dict[str, t.Any], sent: dict[str, t.Any]) -> None:
    assert requests(make_plan(declare(**options), there(**config))) == [put(**sent)]


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ({"swap": 0}, {}),
        ({"cpulimit": 0.0}, {}),
        ({"cpulimit": 2.0}, {"cpulimit": "2.00"}),
        ({"cpuunits": 100}, {}),
        ({"onboot": False}, {}),
        ({"console": True}, {}),
        ({"tty": 2, "cmode": "tty"}, {}),
        ({"description": "x"}, {"description": "x\n"}),
        ({"description": ""}, {}),
        ({"tags": []}, {"tags": " "}),
        ({"tags": ["b", "a"]}, {"tags": "a;b"}),
        ({"nameserver": []}, {"nameserver": " "}),
        ({"features": {"nesting": True, "keyctl": False}}, {"features": "keyctl=0,nesting=yes"}),
        ({"features": {}}, {}),
        ({"env": {}}, {}),
        ({"startup": {"order": 1}}, {"startup": "1"}),
        ({"unset": ["description", "mp3"]}, {}),
        ({"unprivileged": True}, {}),
        ({"networks": []}, {}),
        ({"rootfs": {}}, {}),
        ({"rootfs": {"size": "0.0078125T"}}, {}),
    ],
    ids=str,
)
def test_what_is_so_already_is_not_sent(options: dict[str, t.Any], config: dict[str, t.Any]) -> None:
    plan = make_plan(declare(**options), there(**config))
    assert not plan.changed
    assert plan.changes == []


# ---------------------------------------------------------------------------------------------------- networks


def test_a_flag_that_is_dropped_is_drift() -> None:
    declared = declare(networks=[{"name": "eth0", "bridge": "vmbr0", "ip": "dhcp", "tag": 10}])
    assert requests(make_plan(declared, running(net0=NET))) == [
        put(net0="name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,ip=dhcp,tag=10")
    ]


def test_a_vlan_tag_that_is_dropped_is_drift() -> None:
    declared = declare(networks=[{"name": "eth0", "bridge": "vmbr0", "ip": "dhcp", "firewall": True}])
    (sent,) = requests(make_plan(declared, running(net0=NET)))
    assert "tag=" not in sent[2]["net0"]
    assert "firewall=1" in sent[2]["net0"]


def test_the_address_that_proxmox_generated_is_kept() -> None:
    """A PUT without ``hwaddr`` makes a new one (hotplug-066)."""
    declared = declare(networks=[{"name": "eth0", "bridge": "vmbr1"}])
    (sent,) = requests(make_plan(declared, there(net0=NET)))
    assert sent[2]["net0"] == "name=eth0,bridge=vmbr1,hwaddr=BC:24:11:00:00:01"


def test_a_declared_hardware_address_is_set() -> None:
    networks = [{"name": "eth0", "bridge": "vmbr0", "hwaddr": "bc:24:11:00:00:99"}]
    (sent,) = requests(make_plan(declare(networks=networks), there(net0=NET)))
    assert "hwaddr=BC:24:11:00:00:99" in sent[2]["net0"]


def test_the_list_of_networks_is_whole() -> None:
    declared = declare(networks=[{"id": "net1", "name": "eth1", "bridge": "vmbr0"}])
    actual = there(net0=NET, net10="name=eth10,bridge=vmbr0,hwaddr=BC:24:11:00:00:02,type=veth")
    plan = make_plan(declared, actual)
    assert requests(plan) == [put(net1="name=eth1,bridge=vmbr0", delete="net0,net10")]


def test_what_is_not_declared_is_left_alone() -> None:
    actual = there(net0=NET, mp0=DATA, dev0="/dev/fuse", features="nesting=1", cores=4, tags="x")
    assert not make_plan(declare(memory=512), actual).changes


def test_an_interface_above_net9_is_unplugged_by_a_restart() -> None:
    actual = running(net0=NET, net10="name=eth10,bridge=vmbr0,hwaddr=BC:24:11:00:00:02,type=veth")
    assert effects(make_plan(declare(networks=[]), actual)) == {"net0": LIVE, "net10": RESTART}


# ----------------------------------------------------------------------------------------------------- volumes


def test_a_larger_size_is_a_resize() -> None:
    plan = make_plan(declare(rootfs={"size": "16G"}), running())
    assert requests(plan) == [("PUT", "resize", {"disk": "rootfs", "size": "16G"})]
    assert [(change.key, change.before, change.after, change.effect) for change in plan.changes] == [
        ("rootfs.size", "8G", "16G", LIVE)
    ]


def test_a_smaller_size_is_refused_with_what_would_be_lost() -> None:
    failure = refusal(declare(mounts=[{"mp": "/data", "backup": True, "size": "4G"}]), running(mp0=DATA))
    assert failure.code == "would_lose_data"
    assert failure.details == {
        "key": "mp0",
        "before": "8G",
        "after": "4G",
        "volume": "local-zfs:subvol-101-disk-1",
    }


def test_a_size_that_a_storage_has_rounded_up_is_as_declared() -> None:
    assert not make_plan(declare(rootfs={"size": "8G"}), there(rootfs="lvm:vm-101-disk-0,size=8194M")).changes
    assert (
        refusal(declare(rootfs={"size": "8G"}), there(rootfs="lvm:vm-101-disk-0,size=8196M")).code == "would_lose_data"
    )


def test_a_volume_is_not_resized_again_while_another_change_of_it_waits() -> None:
    """The waiting text still has the size from before the resize."""
    actual = running({"mp0": "local-zfs:subvol-101-disk-1,mp=/data,size=8G"}, mp0=DATA.replace("size=8G", "size=16G"))
    assert not make_plan(declare(mounts=[{"mp": "/data", "size": "16G"}]), actual).steps


def test_a_new_mount_point_is_allocated() -> None:
    mounts = [{"mp": "/data", "storage": "tank", "size": "512M", "ro": True}]
    plan = make_plan(declare(mounts=mounts), running())
    assert requests(plan) == [put(mp0="tank:0.5,mp=/data,ro=1")]
    assert effects(plan) == {"mp0": LIVE}


def test_a_new_mount_point_takes_the_storage_of_the_container() -> None:
    plan = make_plan(declare(storage="tank", mounts=[{"mp": "/data", "size": "8G"}]), there())
    assert requests(plan) == [put(mp0="tank:8,mp=/data")]


@pytest.mark.parametrize(
    ("mount", "option"),
    [({"mp": "/data", "storage": "tank"}, "mp0.size"), ({"mp": "/data", "size": "8G"}, "mp0.storage")],
)
def test_a_new_mount_point_needs_a_place_and_a_size(mount: dict[str, t.Any], option: str) -> None:
    failure = refusal(declare(mounts=[mount]), there())
    assert (failure.code, failure.details["option"]) == ("invalid_option", option)


def test_a_changed_mount_option_keeps_volume_and_size() -> None:
    plan = make_plan(declare(mounts=[{"mp": "/data"}]), running(mp0=DATA))
    assert requests(plan) == [put(mp0="local-zfs:subvol-101-disk-1,mp=/data,size=8G")]
    assert effects(plan) == {"mp0": RESTART}


def test_a_mount_point_that_is_left_out_is_detached_at_the_next_stop() -> None:
    plan = make_plan(declare(mounts=[]), running(mp0=DATA, mp10="/srv,mp=/srv"))
    assert requests(plan) == [put(delete="mp0,mp10")]
    assert effects(plan) == {"mp0": RESTART, "mp10": RESTART}
    assert not [step for step in plan.steps if step.method == "DELETE"]


def test_removing_an_unused_volume_takes_force_because_it_destroys_it() -> None:
    actual = there(unused0="local-zfs:subvol-101-disk-7")
    failure = refusal(declare(unset=["unused0"]), actual)
    assert failure.code == "would_lose_data"
    assert failure.details["volumes"] == ["local-zfs:subvol-101-disk-7"]
    assert requests(make_plan(declare(unset=["unused0"], force=True), actual)) == [put(delete="unused0")]


@pytest.mark.parametrize(
    "options",
    [{"mounts": []}, {"mounts": [{"mp": "/data"}]}, {"rootfs": {"ro": True}}, {"protection": False, "mounts": []}],
    ids=str,
)
def test_volumes_of_a_protected_container_are_not_touched(options: dict[str, t.Any]) -> None:
    assert refusal(declare(**options), there(mp0=DATA, protection=1)).code == "protected"


def test_other_keys_of_a_protected_container_change() -> None:
    assert requests(make_plan(declare(memory=1024), there(protection=1))) == [put(memory=1024)]


def test_a_volume_on_another_storage_is_only_moved_when_asked_for() -> None:
    actual = there()
    plan = make_plan(declare(rootfs={"storage": "tank"}), actual)
    assert not plan.changed
    (change,) = plan.blocked
    assert (change.key, change.before, change.after, change.request) == ("rootfs.storage", "local-zfs", "tank", None)
    assert "move_volumes" in str(change.hint)
    plan = make_plan(declare(rootfs={"storage": "tank"}, move_volumes=True), actual)
    assert requests(plan) == [("POST", "move_volume", {"volume": "rootfs", "storage": "tank", "delete": True})]


def test_a_moved_volume_that_snapshots_use_is_kept() -> None:
    actual = replace(there(), has_snapshots=True)
    plan = make_plan(declare(rootfs={"storage": "tank"}, move_volumes=True), actual)
    assert requests(plan) == [("POST", "move_volume", {"volume": "rootfs", "storage": "tank"})]
    assert "kept" in plan.notes[0]


def test_a_bind_mount_cannot_be_moved() -> None:
    mounts = [{"mp": "/srv", "storage": "tank", "size": "8G"}]
    plan = make_plan(declare(mounts=mounts, move_volumes=True), there(mp0="/srv,mp=/srv"))
    assert not plan.changed
    assert "bind mount" in str(plan.blocked[0].hint)


# ---------------------------------------------------------------------------------------------- recreate only


@pytest.mark.parametrize(
    ("options", "key", "before", "after"),
    [
        ({"unprivileged": False}, "unprivileged", 1, 0),
        ({"ostype": "alpine"}, "ostype", "debian", "alpine"),
        ({"template": "local:vztmpl/alpine-3.22.tar.xz"}, "template", "debian", "local:vztmpl/alpine-3.22.tar.xz"),
        (
            {"template": "/srv/rockylinux-9.tar.xz"},
            "template",
            "debian",
            "/srv/rockylinux-9.tar.xz",
        ),
    ],
)
def test_what_only_a_new_container_could_have_is_reported_and_no_change(
    options: dict[str, t.Any], key: str, before: t.Any, after: t.Any
) -> None:
    plan = make_plan(declare(**options), there())
    assert not plan.changed
    assert plan.steps == []
    (change,) = plan.changes
    assert (change.key, change.before, change.after) == (key, before, after)
    assert (change.effect, change.request) == (RECREATE, None)
    assert change.hint


@pytest.mark.parametrize(
    "template", ["local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst", "local:vztmpl/my-own.tar.zst"]
)
def test_a_template_that_does_not_contradict_is_no_difference(template: str) -> None:
    assert not make_plan(declare(template=template), there()).changes


def test_options_of_the_creation_are_named_on_an_existing_container() -> None:
    plan = make_plan(declare(hostname="web", password="secret-1", pubkey="ssh-ed25519 AAAA"), there(hostname="web"))
    assert not plan.changed
    assert plan.notes == ["password, pubkey: only used at the creation of a container; web exists."]


# ----------------------------------------------------------------------------------------------------- pending


def test_what_waits_already_is_not_sent_again() -> None:
    actual = running({"nameserver": "192.0.2.53"})
    assert not make_plan(declare(nameserver=["192.0.2.53"]), actual).changes


def test_a_value_that_only_waits_is_withdrawn_not_deleted() -> None:
    """Proxmox ignores the deletion of a value that is only pending (hotplug-041)."""
    actual = running({"nameserver": "192.0.2.53"})
    plan = make_plan(declare(nameserver=[]), actual)
    assert requests(plan) == [put(revert="nameserver")]
    assert plan.steps[0].digest
    assert effects(plan) == {"nameserver": LIVE}


def test_a_key_with_a_value_and_a_waiting_value_is_withdrawn_and_deleted() -> None:
    """Both at once would keep the waiting value at the stop (hotplug-100)."""
    actual = running({"mp0": "local-zfs:subvol-101-disk-1,mp=/data2,size=8G"}, mp0=DATA)
    assert requests(make_plan(declare(mounts=[]), actual)) == [put(revert="mp0"), put(delete="mp0")]


def test_a_removal_that_waits_is_withdrawn_for_a_mount_that_is_declared_again() -> None:
    actual = running({"mp0": None}, mp0=DATA)
    plan = make_plan(declare(mounts=[{"mp": "/data", "backup": True, "size": "8G"}]), actual)
    assert requests(plan) == [put(revert="mp0")]


def test_a_removal_that_is_withdrawn_is_followed_by_what_else_differs() -> None:
    actual = running({"mp0": None}, mp0=DATA)
    plan = make_plan(declare(mounts=[{"mp": "/data", "size": "16G"}]), actual)
    assert requests(plan) == [
        put(revert="mp0"),
        put(mp0="local-zfs:subvol-101-disk-1,mp=/data,size=8G"),
        ("PUT", "resize", {"disk": "mp0", "size": "16G"}),
    ]
    assert refusal(declare(mounts=[{"mp": "/data", "size": "4G"}]), actual).code == "would_lose_data"


@pytest.mark.parametrize(
    ("options", "current", "waits"),
    [
        ({"features": {"nesting": True}}, {"features": "nesting=1"}, {"features": "nesting=1,keyctl=1"}),
        ({"features": {"nesting": True}}, {"features": "nesting=yes"}, {"features": None}),
        ({"tty": 2}, {}, {"tty": 1}),
        ({"features": {}}, {}, {"features": "nesting=1"}),
        ({"mounts": [{"mp": "/data", "backup": True}]}, {"mp0": DATA}, {"mp0": DATA.replace("/data", "/data2")}),
        (
            {"mounts": [{"mp": "/data", "backup": True, "storage": "tank"}]},
            {"mp0": DATA},
            {"mp0": DATA.replace("/data", "/data2")},
        ),
    ],
    ids=str,
)
def test_what_waits_is_withdrawn_where_what_is_in_force_is_as_declared(
    options: dict[str, t.Any], current: dict[str, t.Any], waits: dict[str, t.Any]
) -> None:
    """Without a restart, whatever the spelling. Setting the value again would wait as well (hotplug-064)."""
    actual = running({**waits, "cmode": "shell"}, **current)
    plan = make_plan(declare(**options), actual)
    (key,) = waits
    assert requests(plan) == [put(revert=key)]
    assert [change.effect for change in plan.steps[0].changes] == [LIVE]


def test_nothing_waits_on_a_stopped_container() -> None:
    assert waiting_keys(there(pending={"tty": 1})) == []
    assert waiting_keys(running({"tty": 1, "net10": None, "net2": None})) == ["net2", "net10", "tty"]


# ------------------------------------------------------------------------------------------------------- power


@pytest.mark.parametrize(
    ("options", "status", "expected", "running_after"),
    [
        ({"state": "present"}, "running", [], True),
        ({"state": "present"}, "stopped", [], False),
        ({"state": "started"}, "stopped", ["status/start"], True),
        ({"state": "started"}, "running", [], True),
        ({"state": "stopped"}, "running", ["status/shutdown"], False),
        ({"state": "stopped"}, "stopped", [], False),
        ({"state": "stopped", "force": True}, "running", ["status/stop"], False),
        ({"state": "restarted"}, "running", ["status/reboot"], True),
        ({"state": "restarted"}, "stopped", ["status/start"], True),
        ({"state": "template"}, "stopped", ["template"], False),
        ({"state": "template", "force": True}, "running", ["status/stop", "template"], False),
        # A key that waits for a restart.
        ({"tty": 1}, "running", ["config"], True),
        ({"tty": 1, "restart": "if_needed"}, "running", ["config", "status/reboot"], True),
        ({"tty": 1, "restart": "if_needed"}, "stopped", ["config"], False),
        ({"tty": 1, "restart": "if_needed", "state": "stopped"}, "running", ["config", "status/shutdown"], False),
        ({"tty": 1, "state": "restarted"}, "running", ["config", "status/reboot"], True),
        ({"memory": 1024, "restart": "if_needed"}, "running", ["config"], True),
        # Migration: a running container goes by a restart.
        ({"node": "pve2"}, "stopped", [], False),
        ({"node": "pve2", "migrate": True}, "stopped", ["migrate"], False),
        ({"node": "pve2", "migrate": True}, "running", [], True),
        ({"node": "pve2", "migrate": True, "restart": "if_needed"}, "running", ["migrate"], True),
        (
            {"node": "pve2", "migrate": True, "restart": "if_needed", "tty": 1},
            "running",
            ["config", "migrate"],
            True,
        ),
        ({"node": "pve2", "migrate": True, "state": "stopped"}, "running", ["status/shutdown", "migrate"], False),
        (
            {"node": "pve2", "migrate": True, "state": "started"},
            "stopped",
            ["migrate", "nodes/pve2/lxc/101/status/start"],
            True,
        ),
        # Moving a volume: only while it is stopped.
        ({"rootfs": {"storage": "tank"}, "move_volumes": True}, "running", [], True),
        (
            {"rootfs": {"storage": "tank"}, "move_volumes": True, "restart": "if_needed", "tty": 1},
            "running",
            ["config", "status/shutdown", "move_volume", "status/start"],
            True,
        ),
        (
            {"rootfs": {"storage": "tank"}, "move_volumes": True, "state": "stopped"},
            "running",
            ["status/shutdown", "move_volume"],
            False,
        ),
        (
            {
                "rootfs": {"storage": "tank", "size": "16G"},
                "move_volumes": True,
                "migrate": True,
                "node": "pve2",
                "restart": "if_needed",
                "memory": 1024,
            },
            "running",
            [
                "config",
                "resize",
                "status/shutdown",
                "move_volume",
                "migrate",
                "nodes/pve2/lxc/101/status/start",
            ],
            True,
        ),
    ],
    ids=str,
)
def test_order_of_the_requests(
    options: dict[str, t.Any], status: str, expected: list[str], running_after: bool
) -> None:
    plan = make_plan(declare(**options), there(status))
    assert calls(plan) == expected
    assert plan.running_after == running_after
    assert sum(call.endswith(("stop", "shutdown", "reboot")) for call in expected) <= 1


def test_a_running_container_migrates_with_a_restart() -> None:
    options: dict[str, t.Any] = {"node": "pve2", "migrate": True, "restart": "if_needed"}
    (step,) = make_plan(declare(**options), running()).steps
    assert step.params == {"target": "pve2", "restart": True}
    (step,) = make_plan(declare(**options), there()).steps
    assert step.params == {"target": "pve2"}


def test_a_shutdown_for_a_restart_may_end_hard_and_one_for_a_stop_only_when_told() -> None:
    (stop, *_rest) = make_plan(
        declare(rootfs={"storage": "tank"}, move_volumes=True, restart="if_needed"), running()
    ).steps
    assert stop.params == {"forceStop": True}
    (stop,) = make_plan(declare(state="stopped"), running()).steps
    assert stop.params == {}


def test_what_waited_before_is_a_reason_for_a_restart_too() -> None:
    assert calls(make_plan(declare(restart="if_needed"), running({"tty": 1}))) == ["status/reboot"]
    # What is withdrawn does not wait any more.
    assert calls(make_plan(declare(restart="if_needed", unset=["tty"]), running({"tty": 1}))) == ["config"]


def test_what_is_not_allowed_is_reported_with_what_would_allow_it() -> None:
    for options, option in (
        ({"node": "pve2"}, "migrate"),
        ({"node": "pve2", "migrate": True}, "restart"),
        ({"rootfs": {"storage": "tank"}}, "move_volumes"),
        ({"rootfs": {"storage": "tank"}, "move_volumes": True}, "restart"),
    ):
        plan = make_plan(declare(**t.cast("dict[str, t.Any]", options)), running())
        (change,) = plan.changes
        assert change.request is None
        assert change.effect == RESTART
        assert option in str(change.hint)


def test_a_template_is_not_started() -> None:
    assert refusal(declare(state="started"), there(template=1)).code == "is_template"
    for state in ("present", "template", "stopped"):
        assert not make_plan(declare(state=state), there(template=1)).steps


def test_a_running_container_is_made_a_template_only_by_force() -> None:
    assert refusal(declare(state="template"), running()).code == "container_running"


# ------------------------------------------------------------------------------------------------------ absent


def test_absent_without_a_container() -> None:
    plan = make_plan(declare(state="absent"), None)
    assert not plan.changed


def test_absent_names_every_volume_that_is_destroyed() -> None:
    plan = make_plan(declare(state="absent"), there(mp0=DATA, unused0="local-zfs:subvol-101-disk-9"))
    assert [(step.method, step.path, step.params) for step in plan.steps] == [("DELETE", "nodes/pve1/lxc/101", {})]
    assert {change.key: change.before for change in plan.changes} == {
        "state": "present",
        "rootfs": ROOTFS,
        "mp0": DATA,
        "unused0": "local-zfs:subvol-101-disk-9",
    }
    assert not plan.running_after


def test_a_running_container_is_removed_only_by_force() -> None:
    assert refusal(declare(state="absent"), running()).code == "container_running"
    (step,) = make_plan(declare(state="absent", force=True, purge=True), running()).steps
    assert step.params == {"force": True, "purge": True}
    assert [need.privileges for need in step.needs] == [("VM.Allocate",)]


def test_a_protected_container_is_not_removed_even_by_force() -> None:
    assert refusal(declare(state="absent", force=True), there(protection=1)).code == "protected"


def test_a_locked_container_is_not_changed() -> None:
    locked = there(lock="backup")
    for options in ({"state": "absent"}, {"memory": 1024}, {"state": "started"}):
        failure = refusal(declare(**t.cast("dict[str, t.Any]", options)), locked)
        assert (failure.code, failure.details["lock"]) == ("locked", "backup")
    assert not make_plan(declare(memory=512), locked).changed, "nothing to do needs no lock"


# ---------------------------------------------------------------------------------------------------- creation

TEMPLATE = "local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst"


def create(**options: t.Any) -> Declared:
    return spec.declare(
        {
            "hostname": "web-1",
            "node": "pve1",
            "state": "started",
            "template": TEMPLATE,
            "rootfs": {"storage": "local-zfs", "size": "8G"},
            **options,
        }
    )


def test_creation_has_everything_in_one_request_and_a_start() -> None:
    declared = create(
        memory=1024,
        unprivileged=True,
        networks=[{"name": "eth0", "bridge": "vmbr0", "ip": "dhcp", "firewall": True}],
        mounts=[{"storage": "tank", "size": "20G", "mp": "/var/lib/data", "backup": True}],
        features={"nesting": True},
        tags=["web", "Prod"],
        env={},
        password="secret-1",
        pubkey="ssh-ed25519 AAAA",
        ignore_unpack_errors=True,
    )
    plan = make_plan(declared, None)
    created, started = plan.steps
    assert (created.method, created.path) == ("POST", "nodes/pve1/lxc")
    assert created.params == {
        "ostemplate": TEMPLATE,
        "hostname": "web-1",
        "memory": 1024,
        "unprivileged": 1,
        "net0": "name=eth0,bridge=vmbr0,firewall=1,ip=dhcp",
        "mp0": "tank:20,mp=/var/lib/data,backup=1",
        "rootfs": "local-zfs:8",
        "features": "nesting=1",
        "tags": "prod;web",
        "password": "secret-1",
        "ssh-public-keys": "ssh-ed25519 AAAA",
        "ignore-unpack-errors": True,
    }
    assert (started.method, started.path) == ("POST", "nodes/pve1/lxc/{vmid}/status/start")
    assert plan.running_after
    assert "secret-1" not in repr(plan.changes)


def test_tags_wait_until_a_new_container_is_in_its_pool() -> None:
    declared = create(pool="p1", tags=["web"])
    declared.owner = "shop"
    created, tagged, started = make_plan(declared, None).steps
    assert (created.params["pool"], "tags" in created.params) == ("p1", False)
    assert (tagged.method, tagged.path) == ("PUT", "nodes/pve1/lxc/{vmid}/config")
    assert tagged.params == {"tags": "shop;web"}
    assert privileges([tagged]) == {("/vms", "VM.Config.Options")}
    assert [(change.key, change.after) for change in tagged.changes] == [("tags", "shop;web")]
    assert started.action == "started"
    assert [step.action for step in make_plan(create(pool="p1", state="present"), None).steps] == ["created"]


def test_creation_of_a_stopped_container_and_of_a_template() -> None:
    assert [step.action for step in make_plan(create(state="stopped"), None).steps] == ["created"]
    plan = make_plan(create(state="template", vmid=900), None)
    assert [step.path for step in plan.steps] == ["nodes/pve1/lxc", "nodes/pve1/lxc/900/template"]
    assert not plan.running_after


@pytest.mark.parametrize(
    ("options", "code", "option"),
    [
        ({"template": None}, "not_found", None),
        ({"node": None}, "invalid_option", "node"),
        ({"rootfs": {"storage": "local-zfs"}}, "invalid_option", "rootfs.size"),
        ({"rootfs": {"size": "8G"}}, "invalid_option", "rootfs.storage"),
        ({"mounts": [{"mp": "/d", "storage": "tank"}]}, "invalid_option", "mp0.size"),
        (
            {"template": None, "restore": {"volume": "local:backup/a.tar.zst"}, "rootfs": None},
            "invalid_option",
            "storage",
        ),
    ],
    ids=str,
)
def test_creation_that_lacks_something(options: dict[str, t.Any], code: str, option: str | None) -> None:
    failure = refusal(create(**options), None)
    assert failure.code == code
    assert failure.details.get("option") == option


def test_volumes_without_a_storage_take_that_of_the_container() -> None:
    plan = make_plan(create(rootfs={"size": "8G"}, storage="tank"), None)
    assert plan.steps[0].params["rootfs"] == "tank:8"
    assert plan.steps[0].params["storage"] == "tank"


# ----------------------------------------------------------------------------------------------- clone, restore


def golden(status: str = "stopped", **config: t.Any) -> Actual:
    current = {"hostname": "golden", "memory": 512, "ostype": "debian", "unprivileged": 1, "arch": "amd64"}
    current.update({"rootfs": "local-zfs:basevol-900-disk-0,size=4G", "template": 1, "net0": NET, **config})
    return Actual(900, "pve1", status, {key: value for key, value in current.items() if value is not None})


def clone(**options: t.Any) -> Declared:
    return spec.declare({"hostname": "app-1", "state": "started", "clone": {"vmid": 900}, **options})


def test_a_clone_of_a_template_is_linked_and_converged() -> None:
    plan = make_plan(clone(memory=1024, vmid=101), None, golden())
    assert [(step.method, step.path) for step in plan.steps] == [
        ("POST", "nodes/pve1/lxc/900/clone"),
        ("PUT", "nodes/pve1/lxc/101/config"),
        ("POST", "nodes/pve1/lxc/101/status/start"),
    ]
    assert plan.steps[0].params == {"full": False, "hostname": "app-1"}
    assert plan.steps[1].params == {"memory": 1024}
    assert plan.converge, "what the clone became is read, and planned for, again"
    assert plan.running_after


@pytest.mark.parametrize(
    ("options", "source", "params"),
    [
        ({"clone": {"vmid": 900, "storage": "tank"}}, {}, {"full": True, "storage": "tank"}),
        ({"clone": {"vmid": 900, "full": True, "bwlimit": 100}}, {}, {"full": True, "bwlimit": 100}),
        ({}, {"template": None}, {"full": True}),
        ({"node": "pve2", "pool": "p1"}, {}, {"full": False, "target": "pve2", "pool": "p1"}),
        (
            {"clone": {"vmid": 900, "snapshot": "s1"}},
            {"template": None, "status": "running"},
            {"full": True, "snapname": "s1"},
        ),
    ],
    ids=str,
)
def test_parameters_of_a_clone(options: dict[str, t.Any], source: dict[str, t.Any], params: dict[str, t.Any]) -> None:
    plan = make_plan(clone(state="present", **options), None, golden(**source))
    assert plan.steps[0].params == {"hostname": "app-1", **params}


def test_a_clone_whose_source_cannot_be_copied() -> None:
    assert refusal(clone(), None, None).code == "not_found"
    assert refusal(clone(), None, golden("running", template=None)).code == "container_running"


def test_a_clone_leaves_lock_template_and_waiting_values_behind() -> None:
    source = golden(unused0="local-zfs:x", parent="s1")
    source.pending = {"tty": 1}
    plan = make_plan(clone(state="present", tty=1), None, source)
    assert [step.action for step in plan.steps] == ["cloned", "configured"]


def test_a_clone_that_exists_is_an_ordinary_container() -> None:
    assert not make_plan(clone(state="present", vmid=101), there(hostname="app-1")).changes


def test_a_restore_is_converged() -> None:
    declared = spec.declare(
        {
            "vmid": 101,
            "node": "pve1",
            "state": "started",
            "restore": {"volume": "local:backup/vzdump-lxc-101.tar.zst", "unique": True},
            "storage": "local-zfs",
            "memory": 1024,
        }
    )
    backup = Actual(0, "pve1", current={"memory": 512, "rootfs": ROOTFS})
    plan = make_plan(declared, None, backup)
    assert [step.action for step in plan.steps] == ["restored", "configured", "started"]
    assert plan.steps[0].params == {
        "ostemplate": "local:backup/vzdump-lxc-101.tar.zst",
        "restore": True,
        "unique": True,
        "storage": "local-zfs",
    }
    assert plan.converge
    # Without a look into the backup, only the restore itself is certain.
    assert [step.action for step in make_plan(declared, None, None).steps] == ["restored"]


@pytest.mark.parametrize(("wanted", "moves"), [("tank", ["mp0"]), ("local-zfs", [])])
def test_a_restore_puts_every_volume_on_one_storage(wanted: str, moves: list[str]) -> None:
    declared = spec.declare(
        {
            "vmid": 101,
            "node": "pve1",
            "restore": {"volume": "local:backup/vzdump-lxc-101.tar.zst"},
            "storage": "local-zfs",
            "mounts": [{"mp": "/data", "storage": wanted}],
            "move_volumes": True,
        }
    )
    # A directory is where it was.
    mounts = {"mp0": "tank:subvol-101-disk-1,mp=/data,backup=1,size=8G", "mp1": "/srv,mp=/srv"}
    plan = make_plan(declared, None, Actual(0, "pve1", current={"rootfs": ROOTFS, **mounts}))
    assert [step.params["volume"] for step in plan.steps if step.action == "moved"] == moves
    assert [(change.key, change.before) for change in plan.changes if change.key == "mp1"] == [("mp1", "/srv,mp=/srv")]


def restore_over(**options: t.Any) -> Declared:
    restore = {"volume": "local:backup/b.tar.zst", "force": True}
    return declare(state="started", restore=restore, storage="local-zfs", **options)


def test_a_restore_over_a_container_names_what_is_replaced() -> None:
    plan = make_plan(restore_over(), there(mp0=DATA), Actual(0, "pve1", current={"rootfs": ROOTFS}))
    assert [step.action for step in plan.steps] == ["restored", "started"]
    assert plan.steps[0].params["force"] is True
    assert plan.converge, "what the backup holds is only certain afterwards"
    lost = {change.key: change.before for change in plan.steps[0].changes if change.after is None}
    assert lost == {"rootfs": ROOTFS, "mp0": DATA}


def test_a_restore_over_a_container_that_runs_or_is_protected() -> None:
    assert refusal(restore_over(), running()).code == "container_running"
    assert refusal(restore_over(), there(protection=1)).code == "protected"
    assert refusal(restore_over(), there(lock="backup")).code == "locked"
    plan = make_plan(restore_over(force=True), running())
    assert [step.action for step in plan.steps][:2] == ["stopped", "restored"]


def test_a_backup_does_not_replace_an_existing_container_without_force() -> None:
    declared = declare(restore={"volume": "local:backup/b.tar.zst"}, storage="local-zfs")
    assert not make_plan(declared, there()).steps


# ------------------------------------------------------------------------------------------------ pool, owner


def test_the_pool_is_changed() -> None:
    actual = there()
    actual.pool = "p0"
    plan = make_plan(declare(pool="p1"), actual)
    assert [(step.method, step.path, step.params) for step in plan.steps] == [
        ("PUT", "pools", {"poolid": "p1", "vms": 101, "allow-move": True})
    ]
    assert [need.paths for need in plan.needs] == [
        ("/pool/p1",),
        ("/pool/p0",),
        ("/pool/p1",),
        ("/vms/101", "/pool/p0"),
    ]
    actual.pool = "p1"
    assert not make_plan(declare(pool="p1"), actual).changed


@pytest.mark.parametrize(
    ("options", "tags", "sent"),
    [
        ({}, "a;shop", None),
        ({}, "a", {"tags": "a;shop"}),
        ({}, None, {"tags": "shop"}),
        ({"tags": ["b"]}, "a", {"tags": "b;shop"}),
        ({"tags": ["b"]}, "b;shop", None),
        ({"tags": []}, "a;shop", {"tags": "shop"}),
        ({"unset": ["tags"]}, "a;shop", {"tags": "shop"}),
        ({"unset": ["tags"]}, "shop", None),
    ],
    ids=str,
)
def test_the_tag_of_the_owner(options: dict[str, t.Any], tags: str | None, sent: dict[str, t.Any] | None) -> None:
    declared = declare(**options)
    declared.owner = "shop"
    assert requests(make_plan(declared, there(tags=tags))) == ([put(**sent)] if sent else [])


def test_a_new_container_has_the_tag_of_its_owner() -> None:
    declared = create(tags=["web"])
    declared.owner = "shop"
    assert make_plan(declared, None).steps[0].params["tags"] == "shop;web"


# -------------------------------------------------------------------------------------------------- privileges


def privileges(steps: t.Sequence[Step]) -> set[tuple[str, str]]:
    def named(need: Need) -> tuple[str, str]:
        return (need.paths[0], "|".join(need.privileges)) if need.privileges else ("root only", need.why)

    return {named(need) for step in steps for need in step.needs}


def _name(value: t.Any) -> str:
    return str(sorted(value)) if isinstance(value, set) else str(value)


@pytest.mark.parametrize(
    ("options", "config", "expected"),
    [
        ({"memory": 1024}, {}, {("/vms/101", "VM.Config.Memory")}),
        ({"cores": 1}, {}, {("/vms/101", "VM.Config.CPU")}),
        ({"hostname": "x"}, {}, {("/vms/101", "VM.Config.Network")}),
        ({"tags": ["x"]}, {}, {("/vms/101", "VM.Config.Options")}),
        ({"unset": ["tags"]}, {"tags": "x"}, {("/vms/101", "VM.Config.Options")}),
        (
            {"features": {"nesting": True}},
            {},
            {("/vms/101", "VM.Allocate"), ("/vms/101", "|".join(CONFIG_PRIVILEGES))},
        ),
        (
            {"features": {"nesting": True}},
            {"unprivileged": 0},
            {("root only", "change the features of a privileged container")},
        ),
        ({"features": {"fuse": True}}, {}, {("root only", "change features other than nesting")}),
        (
            {"networks": [{"name": "eth0", "bridge": "vmbr1"}]},
            {"net0": NET},
            {
                ("/vms/101", "VM.Config.Network"),
                ("/sdn/zones/localnetwork/vmbr0", "SDN.Use"),
                ("/sdn/zones/localnetwork/vmbr1", "SDN.Use"),
            },
        ),
        ({"mounts": [{"volume": "/srv", "mp": "/srv"}]}, {}, None),
        ({"devices": [{"path": "/dev/fuse"}]}, {}, {("root only", "pass the device dev0 through")}),
        ({"hookscript": "local:snippets/h.pl"}, {}, {("root only", "change the hookscript")}),
        (
            {"mounts": [{"mp": "/d", "storage": "tank", "size": "1G"}]},
            {},
            {("/vms/101", "VM.Config.Disk"), ("/storage/tank", "Datastore.AllocateSpace")},
        ),
        (
            {"rootfs": {"size": "16G"}},
            {},
            {
                ("/vms/101", "VM.Config.Disk"),
                ("/vms/101", "VM.Config.Options"),
                ("/storage/local-zfs", "Datastore.AllocateSpace"),
            },
        ),
        ({"state": "started"}, {}, {("/vms/101", "VM.PowerMgmt")}),
        ({"state": "template"}, {}, {("/vms/101", "VM.Allocate")}),
        ({"node": "pve2", "migrate": True}, {}, {("/vms/101", "VM.Migrate")}),
    ],
    ids=_name,
)
def test_privileges(options: dict[str, t.Any], config: dict[str, t.Any], expected: set[tuple[str, str]] | None) -> None:
    found = privileges(make_plan(declare(**options), there(**config)).steps)
    if expected is None:
        assert ("root only", "mount a bind at mp0") in found
    else:
        assert found == expected


def test_privileges_may_come_from_the_pool() -> None:
    actual = there()
    actual.pool = "p1"
    (need,) = make_plan(declare(memory=1024), actual).needs
    assert need.paths == ("/vms/101", "/pool/p1")


def test_privileges_of_a_creation() -> None:
    declared = create(
        vmid=101,
        state="present",
        unprivileged=False,
        networks=[{"name": "eth0", "bridge": "vmbr0"}],
        mounts=[{"mp": "/d", "storage": "tank", "size": "1G"}],
        pool="p1",
    )
    assert privileges(make_plan(declared, None).steps) == {
        ("/vms/101", "VM.Allocate"),
        ("/pool/p1", "Pool.Audit"),
        ("/", "Sys.Modify"),
        ("/storage/local", "Datastore.AllocateSpace|Datastore.Audit|Datastore.Allocate"),
        ("/storage/local-zfs", "Datastore.AllocateSpace"),
        ("/storage/tank", "Datastore.AllocateSpace"),
        ("/vms/101", "VM.Config.Disk"),
        ("/vms/101", "VM.Config.Network"),
        ("/sdn/zones/localnetwork/vmbr0", "SDN.Use"),
    }


def test_the_tag_of_an_owner_needs_the_privilege_for_tags_at_a_creation() -> None:
    declared = create(vmid=101)
    declared.owner = "shop"
    assert ("/vms/101", "VM.Config.Options") in privileges(make_plan(declared, None).steps[:1])


def test_every_change_has_its_request_and_every_step_its_needs() -> None:
    declared = declare(
        memory=1024,
        tty=1,
        rootfs={"size": "16G", "storage": "tank"},
        move_volumes=True,
        migrate=True,
        restart="if_needed",
        node="pve2",
        pool="p1",
        mounts=[],
    )
    plan = make_plan(declared, running({"cmode": "shell"}, mp0=DATA))
    assert all(step.needs and step.changes for step in plan.steps)
    assert all(change.request == f"{step.method} /{step.path}" for step in plan.steps for change in step.changes)
    assert plan.blocked == []
