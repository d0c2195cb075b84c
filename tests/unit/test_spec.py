# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Declarations: what tasks may say, what it means, and what is refused before anything is sent."""

from __future__ import annotations

import typing as t

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties, spec
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import Declared, declare, declare_fleet

GIB = 1024**3


def as_ansible_gives_it(arguments: dict[str, t.Any], options: dict[str, t.Any]) -> dict[str, t.Any]:
    """A task's arguments after Ansible has checked and converted them: every option is there, also as None."""
    result = ArgumentSpecValidator(options).validate(arguments)
    assert not result.error_messages, result.error_messages
    return t.cast("dict[str, t.Any]", result.validated_parameters)


def task(**arguments: t.Any) -> Declared:
    options = {**spec.container_options(), "state": {"type": "str", "choices": list(spec.STATES), "default": "started"}}
    return declare(as_ansible_gives_it(arguments, options))


def fleet(containers: list[dict[str, t.Any]], owner: str | None = None, **defaults: t.Any) -> list[Declared]:
    params = as_ansible_gives_it({"containers": containers, "defaults": defaults}, spec.fleet_options())
    return declare_fleet(params["containers"], params["defaults"], owner)


def refused(**arguments: t.Any) -> Failure:
    with pytest.raises(Failure) as raised:
        task(**{"vmid": 101, **arguments})
    failure = raised.value
    assert failure.code == "invalid_option"
    assert failure.details["option"] in failure.message
    return failure


# ------------------------------------------------------------------------------------------------ what it means


def test_nobody_declares_the_notes_of_the_collection() -> None:
    refused(description="Shop\n<!-- lxcri.proxmox former={} -->")
    assert task(vmid=101, description="<!-- Shop -->").config["description"] == "<!-- Shop -->"


def test_a_whole_container() -> None:
    declared = task(
        node="pve1",
        vmid="201",
        hostname="web-1",
        template="local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst",
        cores="2",
        memory=1024,
        rootfs={"storage": "local-zfs", "size": "8G"},
        networks=[{"name": "eth0", "bridge": "vmbr0", "ip": "dhcp", "firewall": "yes"}],
        mounts=[{"id": "mp3", "storage": "local-zfs", "size": "0.5G", "mp": "/var/lib/data/", "backup": True}],
        devices=[{"path": "/dev/fuse", "mode": "0660"}],
        features={"nesting": True, "keyctl": False},
        tags=["web", "Prod"],
        nameserver=["192.0.2.1"],
        cpulimit="0.5",
        onboot="true",
    )
    assert declared.config == {
        "hostname": "web-1",
        "cores": 2,
        "memory": 1024,
        "rootfs": {"volume": "local-zfs:", "size": 8 * GIB},
        "net0": {"name": "eth0", "bridge": "vmbr0", "ip": "dhcp", "firewall": True},
        "mp3": {"volume": "local-zfs:", "size": GIB // 2, "mp": "/var/lib/data", "backup": True},
        "dev0": {"path": "/dev/fuse", "mode": "0660"},
        "features": {"nesting": True},
        "tags": ("prod", "web"),
        "nameserver": ("192.0.2.1",),
        "cpulimit": 0.5,
        "onboot": True,
    }
    assert declared.families == ("net", "mp", "dev")
    assert (declared.state, declared.running, declared.vmid, declared.label) == ("started", True, 201, "web-1")


def test_what_is_not_given_is_not_managed() -> None:
    declared = task(vmid=101)
    assert declared.config == {}
    assert declared.families == ()
    assert declared.unset == ()
    assert declared.label == "container 101"


def test_an_empty_list_is_given() -> None:
    declared = task(vmid=101, networks=[], mounts=[], tags=[], nameserver=[], features={}, env={})
    assert declared.families == ("net", "mp")
    assert declared.config == {"tags": None, "nameserver": (), "features": {}, "env": {}}


def test_where_a_volume_is_need_not_be_said() -> None:
    declared = task(vmid=101, rootfs={"size": "8G"}, mounts=[{"mp": "/d"}, {"mp": "/srv", "volume": "/srv"}])
    assert declared.config["rootfs"] == {"volume": properties.ANY_VOLUME, "size": 8 * GIB}
    assert declared.config["mp0"] == {"volume": properties.ANY_VOLUME, "mp": "/d"}
    assert declared.config["mp1"] == {"volume": "/srv", "mp": "/srv"}


def test_a_path_without_a_leading_slash_is_below_the_root() -> None:
    """Proxmox takes both (values-353)."""
    assert task(vmid=101, mounts=[{"mp": "data"}]).config["mp0"]["mp"] == "/data"


def test_sub_keys_with_a_hyphen_are_options_with_an_underscore() -> None:
    declared = task(
        vmid=101,
        networks=[{"name": "eth0", "bridge": "vmbr0", "host_managed": True}],
        devices=[{"path": "/dev/fuse", "deny_write": True}],
    )
    assert declared.config["net0"] == {"name": "eth0", "bridge": "vmbr0", "host-managed": True}
    assert declared.config["dev0"] == {"path": "/dev/fuse", "deny-write": True}


@pytest.mark.parametrize(
    ("state", "running"),
    [
        ("present", None),
        ("started", True),
        ("restarted", True),
        ("stopped", False),
        ("template", False),
        ("absent", None),
    ],
)
def test_states(state: str, running: bool | None) -> None:
    assert task(vmid=101, state=state).running is running


def test_the_options_cover_every_sub_key_of_proxmox() -> None:
    options = spec.container_options()
    for option, subs in (
        ("networks", properties.NET),
        ("mounts", properties.MOUNT),
        ("rootfs", properties.ROOTFS),
        ("devices", properties.DEVICE),
        ("features", properties.FEATURES),
        ("startup", properties.STARTUP),
    ):
        assert {sub.replace("-", "_") for sub in subs} <= set(options[option]["options"]), option
    for key in properties.SCALARS:
        if key not in ("lock", "template"):
            assert key in options, key


def test_secrets_are_not_logged() -> None:
    assert spec.container_options()["password"]["no_log"]


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "option", "says"),
    [
        ({"memory": 8}, "memory", "the least is 16"),
        ({"cores": 0}, "cores", "the least is 1"),
        ({"tty": 9}, "tty", "the most is 6"),
        ({"hostname": "web_1"}, "hostname", "'web_1'"),
        ({"hostname": ""}, "hostname", "must not be empty"),
        ({"timezone": ""}, "timezone", "unset: [timezone]"),
        ({"tags": ["with space"], "nameserver": ["x"]}, "nameserver", "is not an IP address"),
        ({"tags": ["a!"]}, "tags", "'a!'"),
        ({"env": {"A B": "1"}}, "env", "is not the name of a variable"),
        ({"features": {"mount": ["a b;-"]}}, "features", "mount: '-'"),
        ({"startup": {"order": -1}}, "startup", "order: -1 is too small"),
        ({"description": "x" * 9000}, "description", "too many"),
        ({"rootfs": {"size": "8 GB"}}, "rootfs", "'8 GB' is not a size; write for example 8G"),
        ({"rootfs": {"size": "8"}}, "rootfs.size", "less than one MiB; write for example 8G"),
        ({"rootfs": {"storage": "a/b"}}, "rootfs.storage", "is not the name of a storage"),
        ({"rootfs": {"storage": "a", "volume": "a:b"}}, "rootfs", "not both"),
        ({"mounts": [{"mp": "/d"}, {"storage": "tank", "size": "1G"}]}, "mounts[1]", "mp is missing"),
        ({"mounts": [{"mp": "/d", "storage": "a"}]}, "mounts[0].storage", "'a' is not the name of a storage"),
        ({"mounts": [{"mp": "/a/../b"}]}, "mounts[0]", "is not an absolute path"),
        ({"mounts": [{"mp": "/srv", "volume": "/srv", "size": "8G"}]}, "mounts[0].size", "bind or device mount"),
        ({"mounts": [{"mp": "/d"}, {"mp": "/d/"}]}, "mounts", "/d is used by mp0 and by mp1"),
        ({"mounts": [{"id": "mp1", "mp": "/a"}, {"id": "mp1", "mp": "/b"}]}, "mounts[1]", "mp1 is given twice"),
        ({"mounts": [{"id": "net0", "mp": "/a"}]}, "mounts[0].id", "is not one of mp0, mp1"),
        ({"mounts": [{"id": "mp256", "mp": "/a"}]}, "mounts[0].id", "is not one of mp0, mp1"),
        ({"networks": [{"bridge": "vmbr0"}]}, "networks[0]", "name is missing"),
        ({"networks": [{"name": "eth0"}, {"id": "net0", "name": "eth1"}]}, "networks[1]", "net0 is given twice"),
        ({"networks": [{"name": "eth0"}, {"name": "eth0"}]}, "networks", "eth0 is used by net0 and by net1"),
        ({"networks": [{"name": "eth0", "ip": "10.0.0.1"}]}, "networks[0]", "ip: '10.0.0.1'"),
        ({"networks": [{"name": "eth0", "tag": 5000}]}, "networks[0]", "tag: 5000 is too large"),
        (
            {"networks": [{"name": "eth0", "bridge": "vmbr0", "host_managed": True, "ip6": "auto"}]},
            "net0",
            "no ip6=auto",
        ),
        ({"networks": [{"name": "eth0"}]}, "net0.bridge", "needs a bridge"),
        ({"devices": [{"path": "/etc/passwd"}]}, "devices[0]", "'/etc/passwd'"),
        ({"devices": [{"path": "/dev/fuse", "mode": "666"}]}, "devices[0]", "'666'"),
        ({"unset": ["bogus"]}, "unset", "'bogus' is not a key"),
        ({"unset": ["memory"]}, "unset", "memory cannot be removed"),
        ({"unset": ["rootfs"]}, "unset", "rootfs cannot be removed"),
        ({"unset": ["lock"]}, "unset", "lock cannot be removed"),
        ({"unset": ["cores"], "cores": 2}, "unset", "cores is declared and unset at once"),
        ({"unset": ["net0"], "networks": [{"name": "eth0"}]}, "unset", "net0 is declared and unset"),
        ({"vmid": 99}, "vmid", "99 is not between 100 and 999999999"),
        ({"vmid": None}, "vmid", "give vmid or hostname"),
        ({"node": "pve 1"}, "node", "'pve 1' is not the name of a node"),
        ({"node": "../x"}, "node", "is not the name of a node"),
        ({"template": "debian"}, "template", "is not a volume such as"),
        ({"template": "a:b", "clone": {"vmid": 900}}, "template", "template and clone exclude each other"),
        ({"clone": {"vmid": 900}, "restore": {"volume": "a:b"}}, "clone", "exclude each other"),
        ({"clone": {}}, "clone", "either vmid or hostname"),
        ({"clone": {"vmid": 900, "hostname": "golden"}}, "clone", "either vmid or hostname"),
        ({"clone": {"vmid": 900, "full": False, "storage": "a"}}, "clone.storage", "set full: true"),
        ({"restore": {"volume": "backup"}}, "restore.volume", "is not a volume such as"),
        ({"password": "abcd"}, "password", "at least five characters"),
        ({"wait_for_address": True, "state": "stopped"}, "wait_for_address", "has no address"),
        ({"wait_for_address": True, "state": "absent"}, "wait_for_address", "has no address"),
        ({"wait_for_address": True, "state": "template"}, "wait_for_address", "has no address"),
    ],
    ids=str,
)
def test_refusals_name_the_option(arguments: dict[str, t.Any], option: str, says: str) -> None:
    failure = refused(**arguments)
    assert failure.details["option"] == option
    assert says in failure.message
    assert "Nothing was sent" in failure.hint


def test_a_password_is_not_repeated_in_its_refusal() -> None:
    failure = refused(password="abcd")
    assert "abcd" not in failure.sentence


# ---------------------------------------------------------------------------------------------------- a fleet


def test_defaults_and_own_options() -> None:
    web, db = fleet(
        [
            {"hostname": "web-1", "memory": 1024},
            {"hostname": "db-1", "state": "stopped", "tags": ["db"], "node": "pve2"},
        ],
        memory=512,
        cores=2,
        tags=["web"],
        rootfs={"storage": "local-zfs", "size": "8G"},
        node="pve1",
        restart="if_needed",
    )
    assert (web.config["memory"], db.config["memory"]) == (1024, 512)
    assert (web.config["tags"], db.config["tags"]) == (("web",), ("db",))
    assert (web.node, db.node) == ("pve1", "pve2")
    assert (web.state, db.state) == ("started", "stopped")
    assert web.config["cores"] == db.config["cores"] == 2
    assert web.restart == db.restart == "if_needed"


def test_a_value_of_a_container_replaces_that_of_the_defaults_as_a_whole() -> None:
    (container,) = fleet(
        [{"hostname": "a", "rootfs": {"size": "16G"}, "networks": [], "force": False}],
        rootfs={"storage": "local-zfs", "size": "8G"},
        networks=[{"name": "eth0", "bridge": "vmbr0"}],
        force=True,
    )
    assert container.config["rootfs"] == {"volume": ":", "size": 16 * GIB}
    assert "net0" not in container.config
    assert container.families == ("net",)
    assert container.force is False


def test_what_neither_gives_has_the_default_of_a_single_container() -> None:
    (of_fleet,) = fleet([{"hostname": "a"}])
    single = task(hostname="a")
    single.spread = ""
    assert of_fleet == single


def test_the_owner_is_kept_apart_from_the_tags() -> None:
    (container,) = fleet([{"hostname": "a", "tags": ["x"]}], owner="Shop")
    assert container.owner == "shop"
    assert container.config["tags"] == ("x",)


def test_an_owner_that_is_no_tag() -> None:
    with pytest.raises(Failure) as raised:
        fleet([{"hostname": "a"}], owner="my shop!")
    assert raised.value.details["option"] == "owner"


def test_a_refusal_names_the_container() -> None:
    with pytest.raises(Failure) as raised:
        fleet([{"hostname": "a"}, {"hostname": "b", "memory": 1}])
    assert raised.value.message == "containers[1] (b): memory: 1 is too small; the least is 16."
    assert raised.value.details["option"] == "memory"
    with pytest.raises(Failure) as raised:
        fleet([{"hostname": "a"}, {"memory": 512}])
    assert raised.value.message.startswith("containers[1]: vmid: ")


def test_a_bad_default_is_refused_with_the_first_container_that_has_it() -> None:
    with pytest.raises(Failure) as raised:
        fleet([{"hostname": "a", "cores": 1}, {"hostname": "b"}], cores=0)
    assert raised.value.message.startswith("containers[1] (b): cores: ")


def test_a_fleet_has_the_states_that_can_be_repeated() -> None:
    result = ArgumentSpecValidator(spec.fleet_options()).validate(
        {"containers": [{"hostname": "a", "state": "restarted"}]}
    )
    assert result.error_messages
