# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workloads: the fleet that they stand for, and every refusal."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.lxcri.proxmox.plugins.filter import workload_fleet, workload_problems
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import declare_fleet, fleet_options
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.workload import WORKLOAD_OPTIONS, expand, fleet_of

ROLE = Path(__file__).resolve().parents[2] / "roles" / "workload"

Options = dict[str, t.Any]


def web(**options: t.Any) -> Options:
    return {"name": "web", "kind": "deployment", **options}


def db(**options: t.Any) -> Options:
    return {"name": "db", "kind": "stateful_set", **options}


def containers(*workloads: Options, **arguments: t.Any) -> list[Options]:
    return t.cast("list[Options]", fleet_of(list(workloads), **arguments)["containers"])


def values(option: str, *workloads: Options, **arguments: t.Any) -> list[t.Any]:
    """One option of all containers; None where it is not given."""
    return [container.get(option) for container in containers(*workloads, **arguments)]


# ------------------------------------------------------------------------------------------------- expansion


def test_a_workload_is_that_many_containers() -> None:
    assert fleet_of([web(replicas=2, container={"memory": 512})]) == {
        "containers": [
            {"hostname": "web-1", "memory": 512, "tags": ["lxcri.web"], "state": "started", "spread": "lxcri.web"},
            {"hostname": "web-2", "memory": 512, "tags": ["lxcri.web"], "state": "started", "spread": "lxcri.web"},
        ],
        "owner": "lxcri",
        "prune": "none",
        "prune_tags": {"lxcri.web": "delete"},
    }


@pytest.mark.parametrize(
    ("replicas", "names"),
    [
        (None, ["web-1"]),
        (0, []),
        (1, ["web-1"]),
        (3, ["web-1", "web-2", "web-3"]),
        ("2", ["web-1", "web-2"]),
    ],
)
def test_replicas_are_numbered_from_one(replicas: t.Any, names: list[str]) -> None:
    assert values("hostname", web(replicas=replicas)) == names


def test_no_workloads_are_no_containers() -> None:
    assert fleet_of([], orphans="delete") == {
        "containers": [],
        "owner": "lxcri",
        "prune": "delete",
        "prune_tags": {},
    }


@pytest.mark.parametrize(
    ("workload", "policy"),
    [
        (web(), "delete"),
        (web(scale_down="stop"), "stop"),
        (web(scale_down="keep"), "none"),
        (db(), "stop"),
        (db(scale_down="delete"), "delete"),
        (db(scale_down="keep"), "none"),
        (db(state="stopped"), "stop"),
        (db(state="absent"), "delete"),
        (db(state="absent", scale_down="keep"), "delete"),
    ],
)
def test_scaling_down(workload: Options, policy: str) -> None:
    assert fleet_of([workload])["prune_tags"] == {f"lxcri.{workload['name']}": policy}


@pytest.mark.parametrize(("orphans", "prune"), [("keep", "none"), ("stop", "stop"), ("delete", "delete")])
def test_workloads_that_are_not_in_the_list(orphans: str, prune: str) -> None:
    assert fleet_of([web()], orphans=orphans)["prune"] == prune


def test_the_owner_is_in_the_tags() -> None:
    fleet = fleet_of([web(container={"tags": ["Prod", "edge"]})], owner="Shop")
    assert fleet["owner"] == "shop"
    assert fleet["prune_tags"] == {"shop.web": "delete"}
    assert fleet["containers"][0]["tags"] == ["edge", "prod", "shop.web"]


def test_an_absent_workload_has_no_containers_whatever_its_replicas() -> None:
    assert containers(web(state="absent", replicas=3)) == []


def test_a_stopped_workload_waits_for_no_address() -> None:
    waiting = {"wait_for_address": True}
    assert values("wait_for_address", web(container=waiting)) == [True]
    assert values("wait_for_address", web(state="stopped", container=waiting)) == [None]
    assert values("state", web(state="stopped")) == ["stopped"]


@pytest.mark.parametrize(
    ("workload", "nodes"),
    [
        (web(replicas=2), [None, None]),
        (web(replicas=2, placement="spread"), [None, None]),
        (web(replicas=2, placement="pve2"), ["pve2", "pve2"]),
        (web(replicas=2, placement="pve2", replica_options={1: {"node": "pve1"}}), ["pve1", "pve2"]),
        (web(replicas=2, replica_options={2: {"node": "pve1"}}), [None, "pve1"]),
    ],
)
def test_placement(workload: Options, nodes: list[str | None]) -> None:
    assert values("node", workload) == nodes
    assert values("spread", workload) == ["lxcri.web", "lxcri.web"]


def test_options_take_the_place_of_those_before_as_a_whole() -> None:
    workload = web(
        replicas=3,
        container={"memory": 1024, "features": {"fuse": True}},
        replica_options={2: {"memory": 2048}, "3": {"cores": 2}, 9: {"cores": 4}},
    )
    defaults = {"memory": 512, "features": {"nesting": True}, "cores": 1}
    assert values("memory", workload, defaults=defaults) == [1024, 2048, 1024]
    assert values("cores", workload, defaults=defaults) == [1, 1, 2]
    assert values("features", workload, defaults=defaults) == [{"fuse": True}] * 3


def test_an_option_without_a_value_is_not_given() -> None:
    assert containers(web(container={"memory": None}, state=None)) == containers(web())


def test_a_source_takes_the_place_of_any_other_source() -> None:
    defaults = {"ostemplate": "local:vztmpl/debian.tar.zst"}
    assert values("template", web(), defaults=defaults) == ["local:vztmpl/debian.tar.zst"]
    cloned = containers(web(container={"clone": {"vmid": 900}}), defaults=defaults)[0]
    assert "template" not in cloned
    assert cloned["clone"] == {"vmid": 900}


def test_addresses_go_to_the_first_network() -> None:
    networks = [{"name": "eth0", "bridge": "vmbr0", "ip": "dhcp"}, {"name": "eth1", "bridge": "vmbr1"}]
    workload = db(replicas=2, addresses=["192.0.2.11/24", "2001:db8::12/64", "192.0.2.13/24"])
    assert values("networks", workload, defaults={"networks": networks}) == [
        [{"name": "eth0", "bridge": "vmbr0", "ip": "192.0.2.11/24"}, networks[1]],
        [{"name": "eth0", "bridge": "vmbr0", "ip": "dhcp", "ip6": "2001:db8::12/64"}, networks[1]],
    ]
    assert networks[0]["ip"] == "dhcp"


def test_a_single_replica_may_have_a_vmid_and_a_hostname() -> None:
    single = {"vmid": 200, "hostname": "shop.example.com"}
    assert values("hostname", web(container=single)) == ["shop.example.com"]
    assert values("vmid", web(container=single)) == [200]


def test_each_replica_may_have_a_vmid() -> None:
    workload = db(replicas=2, replica_options={1: {"vmid": 201}, 2: {"vmid": 202}})
    assert values("vmid", workload) == [201, 202]


def test_the_same_address_in_other_networks_is_another_one() -> None:
    def network(**options: t.Any) -> Options:
        return {"networks": [{"name": "eth0", "bridge": "vmbr0", "ip": "192.0.2.1/24", **options}]}

    three = {1: network(), 2: network(tag=5), 3: network(bridge="vmbr1")}
    assert len(containers(web(replicas=3, replica_options=three))) == 3


def test_directories_of_the_node_may_be_shared() -> None:
    assert len(containers(web(replicas=2, container={"mounts": [{"volume": "/srv/www", "mp": "/var/www"}]}))) == 2


def test_what_is_given_is_not_changed() -> None:
    workload = web(replicas=2, container={"tags": ["prod"], "networks": [{"name": "eth0"}]}, replica_options={1: {}})
    defaults: Options = {"memory": 512}
    before = (repr(workload), repr(defaults))
    fleet_of([workload], defaults)
    assert (repr(workload), repr(defaults)) == before


def test_lxc_fleet_understands_the_fleet() -> None:
    options = {"memory": 512, "networks": [{"name": "eth0", "bridge": "vmbr0"}], "template": "local:vztmpl/x.tar.zst"}
    fleet = fleet_of([web(replicas=2), db(placement="pve1", container={"tags": ["prod"]})], options)
    assert set(fleet) <= set(fleet_options())
    assert [declared.label for declared in declare_fleet(fleet["containers"], {}, fleet["owner"])] == [
        "web-1",
        "web-2",
        "db-1",
    ]


# ------------------------------------------------------------------------------------------------- refusals

NET = {"name": "eth0", "bridge": "vmbr0"}

REFUSALS: dict[str, tuple[t.Any, str]] = {
    "not a list": ({"web": {}}, "The workloads are not a list."),
    "a text": ("web", "The workloads are not a list."),
    "an entry that is not a dictionary": (["web"], "Workload 1 of the list: it is not a dictionary."),
    "no name": ([{"kind": "deployment"}], "Workload 1 of the list: name: it is missing."),
    "no kind": ([{"name": "web"}], "Workload web: kind: it is missing."),
    "an unknown option": (
        [web(replica=2)],
        "Workload web: replica: it is not an option of a workload; perhaps replicas is meant.",
    ),
    "an option unlike any": ([web(xyz=2)], "Workload web: xyz: it is not an option of a workload."),
    "a name in capitals": (
        [web(name="Web")],
        "Workload Web: name: it is not made of lower-case letters, digits and inner hyphens.",
    ),
    "a name with a dot": (
        [web(name="web.a")],
        "Workload web.a: name: it is not made of lower-case letters, digits and inner hyphens.",
    ),
    "a name that ends in a hyphen": (
        [web(name="web-")],
        "Workload web-: name: it is not made of lower-case letters, digits and inner hyphens.",
    ),
    "a name that is too long": (
        [web(name="w" * 61, replicas=10)],
        f"Workload {'w' * 61}: name: the hostname {'w' * 61}-10 has 64 characters, more than 63.",
    ),
    "the same name twice": ([web(), web()], "Workload web: name: it is in the list more than once."),
    "an unknown kind": ([web(kind="pod")], "Workload web: kind: 'pod' is not one of deployment, stateful_set."),
    "fewer than no replicas": ([web(replicas=-1)], "Workload web: replicas: -1 is less than 0."),
    "half a replica": ([web(replicas=1.5)], "Workload web: replicas: 1.5 is not a whole number."),
    "a truth of replicas": ([web(replicas=True)], "Workload web: replicas: True is not a whole number."),
    "an unknown policy": (
        [web(scale_down="none")],
        "Workload web: scale_down: 'none' is not one of keep, stop, delete.",
    ),
    "an unknown state": (
        [web(state="present")],
        "Workload web: state: 'present' is not one of started, stopped, absent.",
    ),
    "a placement that is no node": (
        [web(placement="pve1,pve2")],
        "Workload web: placement: 'pve1,pve2' is neither spread nor the name of a node.",
    ),
    "a container that is not a dictionary": ([web(container=[])], "Workload web: container: it is not a dictionary."),
    "an unknown option of the container": (
        [web(container={"memroy": 512})],
        "Workload web: container.memroy: it is not an option of a container; perhaps memory is meant.",
    ),
    "a node in the container": (
        [web(container={"node": "pve1"})],
        "Workload web: container.node: use 'placement' of the workload instead.",
    ),
    "a state in the container": (
        [web(container={"state": "stopped"})],
        "Workload web: container.state: use 'state' of the workload instead.",
    ),
    "a spread in the container": (
        [web(container={"spread": "web"})],
        "Workload web: container.spread: use 'placement' of the workload instead.",
    ),
    "a state of one replica": (
        [web(replica_options={1: {"state": "stopped"}})],
        "Workload web: replica_options.1.state: use 'state' of the workload instead.",
    ),
    "an invalid tag": ([web(container={"tags": ["a/b"]})], "Workload web: container.tags: 'a/b'"),
    "the tag of a workload": (
        [web(container={"tags": ["LXCRI.db"]})],
        "Workload web: container.tags: lxcri.db is the mark of a workload, which is set by itself.",
    ),
    "an invalid hostname": (
        [web(container={"hostname": "a_b"})],
        "Workload web: container.hostname: 'a_b' is not a hostname.",
    ),
    "options of replicas that are a list": (
        [web(replica_options=[{}])],
        "Workload web: replica_options: it is not a dictionary, such as {1: {memory: 1024}}.",
    ),
    "options of a replica with a name": (
        [web(replica_options={"web-1": {}})],
        "Workload web: replica_options: 'web-1' is not a whole number.",
    ),
    "options of replica 0": (
        [web(replica_options={0: {}})],
        "Workload web: replica_options: the first replica is 1.",
    ),
    "options of a replica twice": (
        [web(replica_options={1: {}, "1": {}})],
        "Workload web: replica_options: 1 is given twice.",
    ),
    "options of a replica that are not a dictionary": (
        [web(replica_options={1: 1024})],
        "Workload web: replica_options.1: it is not a dictionary.",
    ),
    "an unknown option of a replica": (
        [web(replica_options={1: {"memroy": 512}})],
        "Workload web: replica_options.1.memroy: it is not an option of a container; perhaps memory is meant.",
    ),
    "addresses that are a text": ([db(addresses="192.0.2.1/24")], "Workload db: addresses: it is not a list."),
    "an address without a prefix": (
        [db(addresses=["192.0.2.1"], container={"networks": [NET]})],
        "Workload db: addresses: '192.0.2.1' is not an address with its prefix length, such as 192.0.2.11/24.",
    ),
    "an address that is none": (
        [db(addresses=["192.0.2.256/24"], container={"networks": [NET]})],
        "Workload db: addresses: '192.0.2.256/24' is not an address with its prefix length, such as 192.0.2.11/24.",
    ),
    "too few addresses": (
        [db(replicas=2, addresses=["192.0.2.1/24"], container={"networks": [NET]})],
        "Workload db: addresses: 1 are not enough for 2 replicas.",
    ),
    "addresses without a network": (
        [db(addresses=["192.0.2.1/24"])],
        "Workload db: addresses: the container has no networks that could have them.",
    ),
    "one vmid for all": (
        [web(replicas=3, container={"vmid": 200})],
        "Workload web: 3 containers would have the same vmid 200; give each its own with 'replica_options'.",
    ),
    "one hostname for all": (
        [web(replicas=2, container={"hostname": "shop"})],
        "Workload web: 2 containers would have the same hostname shop; give each its own with 'replica_options'.",
    ),
    "one static address for all": (
        [web(replicas=2, container={"networks": [{**NET, "ip": "192.0.2.1/24"}]})],
        "Workload web: 2 containers would have the same address 192.0.2.1; give each its own with 'replica_options'.",
    ),
    "one IPv6 address in two spellings": (
        [
            web(
                replicas=2,
                replica_options={
                    1: {"networks": [{**NET, "ip6": "2001:db8::1/64"}]},
                    2: {"networks": [{**NET, "ip6": "2001:DB8:0::1/64"}]},
                },
            )
        ],
        "Workload web: 2 containers would have the same address 2001:db8::1; give each its own with 'replica_options'.",
    ),
    "one MAC address for all": (
        [web(replicas=2, container={"networks": [{**NET, "hwaddr": "bc:24:11:00:00:01"}]})],
        "Workload web: 2 containers would have the same MAC address BC:24:11:00:00:01; "
        "give each its own with 'replica_options'.",
    ),
    "one volume for all": (
        [db(replicas=2, container={"mounts": [{"volume": "tank:subvol-100-disk-1", "mp": "/data"}]})],
        "Workload db: 2 containers would have the same volume tank:subvol-100-disk-1; "
        "give each its own with 'replica_options'.",
    ),
    "names that meet when they are expanded": (
        [web(replicas=2), db(container={"hostname": "WEB-2"})],
        "Workloads web and db: 2 containers would have the same hostname web-2; "
        "give each its own with 'replica_options'.",
    ),
    "a vmid of two workloads": (
        [web(container={"vmid": "200"}), db(container={"vmid": 200})],
        "Workloads web and db: 2 containers would have the same vmid 200; give each its own with 'replica_options'.",
    ),
}


@pytest.mark.parametrize(("workloads", "problem"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(workloads: t.Any, problem: str) -> None:
    problems = expand(workloads).problems
    assert len(problems) == 1
    assert problems[0].startswith(problem)
    assert problems[0].endswith(".")
    with pytest.raises(Failure) as refusal:
        fleet_of(workloads)
    assert refusal.value.code == "invalid_option"
    assert refusal.value.message == problems[0]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"owner": "a.b"}, "owner: 'a.b' is not a tag without a dot, such as lxcri."),
        ({"owner": ""}, "owner: '' is not a tag without a dot, such as lxcri."),
        ({"orphans": "none"}, "orphans: 'none' is not one of keep, stop, delete."),
        ({"defaults": "x"}, "defaults: it is not a dictionary."),
        ({"defaults": {"node": "pve1"}}, "defaults.node: use 'placement' of the workload instead."),
        (
            {"defaults": {"memroy": 512}},
            "defaults.memroy: it is not an option of a container; perhaps memory is meant.",
        ),
        ({"defaults": {"tags": ["lxcri.web"]}}, "defaults.tags: lxcri.web is the mark of a workload, which is set"),
    ],
)
def test_refusals_of_what_concerns_all(arguments: Options, problem: str) -> None:
    problems = expand([web()], **arguments).problems
    assert len(problems) == 1
    assert problems[0].startswith(problem)


def test_all_problems_are_named_at_once() -> None:
    assert expand([web(replicas=-1), db(kind="x"), web(), db(replicas=2, container={"vmid": 5})]).problems == [
        "Workload web: replicas: -1 is less than 0.",
        "Workload db: kind: 'x' is not one of deployment, stateful_set.",
        "Workload db: 2 containers would have the same vmid 5; give each its own with 'replica_options'.",
    ]


# ------------------------------------------------------------------------------------------- filters and role


def test_filters() -> None:
    fleet = workload_fleet.FilterModule().filters()["workload_fleet"]
    problems = workload_problems.FilterModule().filters()["workload_problems"]
    assert fleet([web()], owner="shop") == fleet_of([web()], owner="shop")
    assert problems([web()]) == []
    assert problems([web(replicas=-1)]) == ["Workload web: replicas: -1 is less than 0."]
    with pytest.raises(AnsibleFilterError, match=r"Workload web: replicas: -1 is less than 0\. Nothing was started\."):
        fleet([web(replicas=-1)])


def test_the_options_are_the_same_everywhere() -> None:
    role = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    options = role["argument_specs"]["main"]["options"]
    documented = yaml.safe_load(workload_fleet.DOCUMENTATION)["options"]["_input"]["suboptions"]
    assert set(options["workload_list"]["options"]) == set(documented) == set(WORKLOAD_OPTIONS)

    def facts(option: Options) -> tuple[t.Any, ...]:
        return tuple(option.get(name) for name in ("type", "elements", "choices", "default", "required"))

    for name, option in options["workload_list"]["options"].items():
        assert facts(option) == facts(documented[name]), name


def test_the_defaults_of_the_role_are_documented() -> None:
    role = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text(encoding="utf-8"))
    options = role["argument_specs"]["main"]["options"]
    assert {name: option["default"] for name, option in options.items() if "default" in option} == defaults
