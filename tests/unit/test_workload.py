# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workloads: the fleet that they stand for, and every refusal."""

from __future__ import annotations

import ipaddress
import re
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.lxcri.proxmox.plugins.filter import workload_fleet, workload_problems
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.rollout import rollout_options, strategies_of
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import declare_fleet, fleet_options
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.workload import WORKLOAD_OPTIONS, expand, fleet_of
from hypothesis import given
from hypothesis import strategies as st

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
        "rollouts": [],
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
        "rollouts": [],
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
    assert set(fleet) <= {*fleet_options(), *rollout_options()}
    assert [declared.label for declared in declare_fleet(fleet["containers"], {}, fleet["owner"])] == [
        "web-1",
        "web-2",
        "db-1",
    ]


# ------------------------------------------------------------------------------------------- per-ordinal values


def test_ranges_are_as_many_values() -> None:
    net = {"networks": [{"name": "eth0", "bridge": "vmbr0"}]}
    workload = db(replicas=4, addresses=["192.0.2.11-192.0.2.13/24", "192.0.2.99/24"], vmids=[201, "301-305"])
    made = containers(workload, defaults=net)
    assert [container["networks"][0]["ip"] for container in made] == [
        *("192.0.2.11/24", "192.0.2.12/24"),
        *("192.0.2.13/24", "192.0.2.99/24"),
    ]
    assert [container["vmid"] for container in made] == [201, 301, 302, 303]
    wide = db(replicas=2, addresses=["2001:db8::fe-2001:db8::101/64"])
    assert [container["networks"][0]["ip6"] for container in containers(wide, defaults=net)] == [
        "2001:db8::fe/64",
        "2001:db8::ff/64",
    ]


def test_the_number_of_a_replica_in_its_hostname() -> None:
    named = {"hostname": "{ordinal}.web.example.com"}
    assert values("hostname", web(replicas=2, container=named)) == ["1.web.example.com", "2.web.example.com"]


@given(replicas=st.integers(0, 12), fewer=st.integers(0, 12))
def test_a_replica_is_the_same_whatever_others_there_are(replicas: int, fewer: int) -> None:
    workload = db(
        addresses=["192.0.2.1-192.0.2.30/24"],
        vmids=["201-230"],
        container={"networks": [NET]},
        autostart=True,
        replica_options={2: {"memory": 4096}},
    )
    many = containers({**workload, "replicas": replicas})
    few = containers({**workload, "replicas": fewer})
    shared = min(replicas, fewer)
    assert many[:shared] == few[:shared]


@pytest.mark.parametrize(
    ("workload", "expected"),
    [
        (web(replicas=2), [(None, None)] * 2),
        (web(replicas=2, autostart=True), [(True, {"order": 300})] * 2),
        (web(autostart=False), [(False, None)]),
        (web(autostart={"order": 7, "up": 5, "down": 60}), [(True, {"order": 7, "up": 5, "down": 60})]),
        (db(replicas=3, autostart=True), [(True, {"order": 100 + n}) for n in range(3)]),
        (db(replicas=2, autostart={"order": 5, "up": 9}), [(True, {"order": 5 + n, "up": 9}) for n in range(2)]),
        (
            db(replicas=2, autostart=True, replica_options={2: {"onboot": False, "startup": {"order": 9}}}),
            [(True, {"order": 100}), (False, {"order": 9})],
        ),
        (web(autostart=True, container={"onboot": False}), [(False, {"order": 300})]),
    ],
)
def test_autostart(workload: Options, expected: list[tuple[t.Any, t.Any]]) -> None:
    defaults = {"memory": 512}
    made = containers(workload, defaults=defaults)
    assert [(container.get("onboot"), container.get("startup")) for container in made] == expected


# ---------------------------------------------------------------------------------------------------- roll-outs


@pytest.mark.parametrize(
    ("workload", "strategy"),
    [
        (web(), None),
        (web(rollout={}), {"order": "ascending"}),
        (db(rollout={}), {"order": "descending"}),
        (
            db(
                rollout={
                    "order": "ascending",
                    "max_unavailable": "50%",
                    "on_failure": "rollback",
                    "rollback_within": 60,
                }
            ),
            {"order": "ascending", "max_unavailable": "50%", "on_failure": "rollback", "rollback_within": 60},
        ),
        (web(rollout={"max_unavailable": 2}), {"order": "ascending", "max_unavailable": "2"}),
    ],
)
def test_strategies(workload: Options, strategy: Options | None) -> None:
    fleet = fleet_of([workload])
    tag = f"lxcri.{workload['name']}"
    assert fleet["rollouts"] == ([{"group": tag, **strategy}] if strategy is not None else [])
    assert {container.get("group") for container in fleet["containers"]} == {tag if strategy is not None else None}
    defaults = {"max_unavailable": "1", "on_failure": "stop", "rollback_within": 3600}
    assert len(strategies_of([{**defaults, **entry} for entry in fleet["rollouts"]])) == len(fleet["rollouts"])


def test_a_rollout_allows_restarts_unless_the_container_says_otherwise() -> None:
    assert values("restart", web()) == [None]
    assert values("restart", web(rollout={})) == ["if_needed"]
    assert values("restart", web(rollout={}), defaults={"restart": "never"}) == ["never"]
    assert values("restart", web(rollout={}, container={"restart": "never"})) == ["never"]


@pytest.mark.parametrize(("surge", "count"), [(0, 0), (1, 1), ("25%", 2), ("1%", 1), ("0%", 0)])
def test_further_replicas_during_a_rollout(surge: t.Any, count: int) -> None:
    made = containers(web(replicas=5, rollout={"max_surge": surge}))
    assert len(made) == 5 + count
    assert [container.get("surge") for container in made] == [None] * 5 + [True] * count
    assert made[-1]["hostname"] == f"web-{5 + count}"


def test_health_is_that_of_every_container() -> None:
    check = {"tcp": {"port": 80}}
    assert values("health", web(replicas=2, health=check)) == [check, check]


# --------------------------------------------------------------------------------------------------------- pods


def pod(**options: t.Any) -> Options:
    members = [
        {"name": "app", "container": {"memory": 1024}},
        {"name": "cache", "health": {"tcp": {"port": 6379}}},
    ]
    return {"name": "shop", "kind": "pod", "members": members, **options}


def test_a_pod_is_several_containers_of_one_unit() -> None:
    made = containers(pod(replicas=2, container={"memory": 256, "cores": 1}, autostart={"order": 20}))
    assert [(c["hostname"], c["unit"], c["memory"], c["cores"]) for c in made] == [
        ("shop-1-app", "shop-1", 1024, 1),
        ("shop-1-cache", "shop-1", 256, 1),
        ("shop-2-app", "shop-2", 1024, 1),
        ("shop-2-cache", "shop-2", 256, 1),
    ]
    assert [c["tags"] for c in made[1:3]] == [["lxcri.shop", "lxcri.shop.1"], ["lxcri.shop", "lxcri.shop.2"]]
    assert {c["spread"] for c in made} == {"lxcri.shop"}
    assert [c["startup"]["order"] for c in made] == [20, 21, 20, 21]
    assert [c.get("health") for c in made] == [None, {"tcp": {"port": 6379}}] * 2
    assert fleet_of([pod()])["prune_tags"] == {"lxcri.shop": "delete"}


def test_a_pod_on_a_node_and_options_of_one_replica() -> None:
    made = containers(pod(replicas=2, placement="pve1", replica_options={2: {"node": "pve2", "memory": 64}}))
    assert [(c["node"], c.get("memory")) for c in made] == [("pve1", 1024), ("pve1", None), ("pve2", 64), ("pve2", 64)]


def test_members_have_addresses_and_ids_of_their_own() -> None:
    members = [
        {"name": "app", "addresses": ["192.0.2.11-192.0.2.12/24"], "vmids": [201, 202]},
        {"name": "cache", "container": {"networks": [NET, {**NET, "name": "eth1"}]}, "vmids": ["301-302"]},
    ]
    made = containers(pod(replicas=2, members=members, container={"networks": [NET]}))
    assert [c["vmid"] for c in made] == [201, 301, 202, 302]
    assert [c["networks"][0].get("ip") for c in made] == ["192.0.2.11/24", None, "192.0.2.12/24", None]
    assert [len(c["networks"]) for c in made] == [1, 2, 1, 2]


def test_the_network_of_a_pod() -> None:
    own = {"bridge": "pods", "subnet": "10.200.0.0/24", "tag": 100}
    made = containers(pod(replicas=2, network=own, container={"networks": [NET]}))
    assert [c["networks"] for c in made] == [
        [NET, {"id": "net9", "name": "pod0", "bridge": "pods", "ip": address, "tag": tag}]
        for address, tag in (
            ("10.200.0.1/28", 100),
            ("10.200.0.2/28", 100),
            ("10.200.0.17/28", 101),
            ("10.200.0.18/28", 101),
        )
    ]
    wide = {"bridge": "pods", "subnet": "fd00::/64", "name": "inner", "replica_prefix": "120"}
    first = containers(pod(replicas=2, network=wide))[2]["networks"]
    assert first == [{"id": "net9", "name": "inner", "bridge": "pods", "ip6": "fd00::101/120"}]


def test_directories_that_a_pod_shares() -> None:
    shared = [
        {"path": "/srv/pods/{replica}", "mp": "/data"},
        {"path": "/srv/certs", "mp": "/etc/certs", "members": ["app"], "ro": True, "shared": True},
    ]
    app, cache = containers(pod(volumes=shared, container={"mounts": [{"volume": "/srv/own", "mp": "/own"}]}))
    assert app["mounts"] == [
        {"volume": "/srv/own", "mp": "/own"},
        {"id": "mp200", "volume": "/srv/pods/shop-1", "mp": "/data"},
        {"id": "mp201", "volume": "/srv/certs", "mp": "/etc/certs", "ro": True, "shared": True},
    ]
    assert cache["mounts"] == app["mounts"][:2]


@given(replicas=st.integers(1, 8), members=st.integers(1, 6), prefix=st.integers(25, 29))
def test_no_two_containers_of_a_pod_have_the_same_address(replicas: int, members: int, prefix: int) -> None:
    own = {"bridge": "pods", "subnet": "10.0.0.0/16", "replica_prefix": prefix}
    names = [{"name": f"m{number}"} for number in range(members)]
    made = containers(pod(replicas=replicas, members=names, network=own))
    interfaces = [ipaddress.ip_interface(c["networks"][0]["ip"]) for c in made]
    assert len({interface.ip for interface in interfaces}) == replicas * members
    assert len({interface.network for interface in interfaces}) == replicas


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
    "an unknown kind": ([web(kind="set")], "Workload web: kind: 'set' is not one of deployment, stateful_set, pod."),
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
    "a health in the container": (
        [web(container={"health": {}})],
        "Workload web: container.health: use 'health' of the workload instead.",
    ),
    "a health that is a text": ([web(health="tcp")], "Workload web: health: it is not a dictionary."),
    "a range of addresses backwards": (
        [db(addresses=["192.0.2.9-192.0.2.1/24"])],
        "Workload db: addresses: 192.0.2.9-192.0.2.1/24 is not a range of 1 to 1000.",
    ),
    "a range of too many addresses": (
        [db(addresses=["10.0.0.0-10.1.0.0/8"])],
        "Workload db: addresses: 10.0.0.0-10.1.0.0/8 is not a range of 1 to 1000.",
    ),
    "a range of two families": (
        [db(addresses=["192.0.2.1-2001:db8::1/64"])],
        "Workload db: addresses: '192.0.2.1-2001:db8::1/64' is not an address",
    ),
    "ids that are a text": ([db(vmids="201")], "Workload db: vmids: it is not a list."),
    "an id that is none": (
        [db(vmids=["a"])],
        "Workload db: vmids: 'a' is neither an id nor a range of ids, such as 201-210.",
    ),
    "too few ids": ([db(replicas=2, vmids=[201])], "Workload db: vmids: 1 are not enough for 2 replicas."),
    "a rollout that is a text": ([web(rollout="rolling")], "Workload web: rollout: it is not a dictionary."),
    "an unknown option of a rollout": (
        [web(rollout={"max_unavail": 1})],
        "Workload web: rollout.max_unavail: it is not an option of a roll-out; perhaps max_unavailable is meant.",
    ),
    "a share that is none": (
        [web(rollout={"max_unavailable": "half"})],
        "Workload web: rollout.max_unavailable: 'half' is neither a number nor a share of the replicas, such as 25%.",
    ),
    "an unknown order": (
        [web(rollout={"order": "random"})],
        "Workload web: rollout.order: 'random' is not one of ascending, descending.",
    ),
    "an unknown reaction": (
        [web(rollout={"on_failure": "go_on"})],
        "Workload web: rollout.on_failure: 'go_on' is not one of stop, rollback.",
    ),
    "nothing that may be changed": (
        [web(rollout={"max_unavailable": 0})],
        "Workload web: rollout.max_unavailable: with 0 and without max_surge nothing could ever be changed.",
    ),
    "further replicas of a stateful set": (
        [db(rollout={"max_surge": 1})],
        "Workload db: rollout.max_surge: a replica of a stateful set is its number and its data; there is no other",
    ),
    "further replicas where surplus is kept": (
        [web(rollout={"max_surge": 1}, scale_down="keep")],
        "Workload web: rollout.max_surge: further replicas are removed after the roll-out, and with 'scale_down: keep' "
        "those numbers may be of replicas that were kept.",
    ),
    "too few addresses for further replicas": (
        [web(replicas=1, rollout={"max_surge": 1}, addresses=["192.0.2.1/24"], container={"networks": [NET]})],
        "Workload web: addresses: 1 are not enough for 1 replicas and 1 more during a roll-out.",
    ),
    "an autostart that is a number": (
        [web(autostart=5)],
        "Workload web: autostart: it is neither true, false nor a dictionary, such as {order: 10, up: 5}.",
    ),
    "an unknown option of autostart": (
        [web(autostart={"odrer": 5})],
        "Workload web: autostart.odrer: it is not an option of autostart; perhaps order is meant.",
    ),
    "a pod without members": ([pod(members=[])], "Workload shop: members: a pod has at least one."),
    "members that are a text": ([pod(members="app")], "Workload shop: members: it is not a list."),
    "a member that is a text": ([pod(members=["app"])], "Workload shop: members: entry 1 is not a dictionary."),
    "a member without a name": (
        [pod(members=[{}])],
        "Workload shop: members.1.name: it is not made of lower-case letters, digits and inner hyphens.",
    ),
    "a member twice": (
        [pod(members=[{"name": "a"}, {"name": "a"}])],
        "Workload shop: members.a.name: it is in the list more than once.",
    ),
    "an unknown option of a member": (
        [pod(members=[{"name": "a", "helath": {}}])],
        "Workload shop: members.a.helath: it is not an option of a member; perhaps health is meant.",
    ),
    "an unknown option of a member's container": (
        [pod(members=[{"name": "a", "container": {"memroy": 1}}])],
        "Workload shop: members.a.container.memroy: it is not an option of a container; perhaps memory is meant.",
    ),
    "too few addresses of a member": (
        [pod(replicas=2, members=[{"name": "a", "addresses": ["192.0.2.1/24"]}])],
        "Workload shop: members.a.addresses: 1 are not enough for 2 replicas.",
    ),
    "addresses of a pod": (
        [pod(addresses=[])],
        "Workload shop: addresses: a pod has it in its 'members', for each of them.",
    ),
    "members of a deployment": ([web(members=[{"name": "a"}])], "Workload web: members: only a pod has it."),
    "a network of a deployment": ([web(network={"bridge": "a"})], "Workload web: network: only a pod has it."),
    "a network without a subnet": ([pod(network={"bridge": "a"})], "Workload shop: network.subnet: it is missing."),
    "a network that is none": (
        [pod(network={"bridge": "a", "subnet": "10.0.0.1/8"})],
        "Workload shop: network.subnet: '10.0.0.1/8' is not a network such as 10.200.0.0/24.",
    ),
    "an unknown option of a network": (
        [pod(network={"bridge": "a", "subnet": "10.0.0.0/8", "vlan": 3})],
        "Workload shop: network.vlan: it is not one of bridge, subnet, replica_prefix, tag, name.",
    ),
    "a block that is no part of the subnet": (
        [pod(network={"bridge": "a", "subnet": "10.0.0.0/24", "replica_prefix": 20})],
        "Workload shop: network.replica_prefix: 20 is not between 24 and 30.",
    ),
    "a tag that is none": (
        [pod(network={"bridge": "a", "subnet": "10.0.0.0/24", "tag": 5000})],
        "Workload shop: network.tag: 5000 is not between 1 and 4094.",
    ),
    "too many replicas for the subnet": (
        [pod(replicas=3, network={"bridge": "a", "subnet": "10.0.0.0/27"})],
        "Workload shop: network.subnet: 10.0.0.0/27 has no /28 for replica 3.",
    ),
    "too many members for a block": (
        [
            pod(
                members=[{"name": name} for name in ("a", "b", "c")],
                network={"bridge": "a", "subnet": "10.0.0.0/24", "replica_prefix": 30},
            )
        ],
        "Workload shop: network.replica_prefix: a /30 has no address for container 3.",
    ),
    "too many tags": (
        [pod(replicas=3, network={"bridge": "a", "subnet": "10.0.0.0/24", "tag": 4093})],
        "Workload shop: network.tag: 4095, of replica 3, is more than 4094.",
    ),
    "volumes that are a text": ([pod(volumes="/srv")], "Workload shop: volumes: it is not a list."),
    "too many volumes": (
        [pod(volumes=[{"path": f"/srv/{n}", "mp": f"/{n}"} for n in range(57)])],
        "Workload shop: volumes: there are more than 56.",
    ),
    "a directory that is a storage's": (
        [pod(volumes=[{"path": "local-zfs:vm", "mp": "/data"}])],
        "Workload shop: volumes[0].path: 'local-zfs:vm' is not an absolute path.",
    ),
    "a directory that climbs": (
        [pod(volumes=[{"path": "/srv/../etc", "mp": "/data"}])],
        "Workload shop: volumes[0].path: '/srv/../etc' is not an absolute path.",
    ),
    "a directory of a member that is not there": (
        [pod(volumes=[{"path": "/srv", "mp": "/data", "members": ["db"]}])],
        "Workload shop: volumes[0].members: 'db' is not one of app, cache.",
    ),
    "a directory that is perhaps read-only": (
        [pod(volumes=[{"path": "/srv", "mp": "/data", "ro": "perhaps"}])],
        "Workload shop: volumes[0].ro: 'perhaps' is neither true nor false.",
    ),
    "a directory for a text": (
        [pod(volumes=[{"path": "/srv", "mp": "/data", "members": "app"}])],
        "Workload shop: volumes[0].members: it is not a list.",
    ),
    "a rollback of what has no snapshots": (
        [pod(volumes=[{"path": "/srv", "mp": "/data"}], rollout={"on_failure": "rollback"})],
        "Workload shop: rollout.on_failure: a rollback takes a snapshot, and Proxmox takes none of containers",
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
        "Workload db: kind: 'x' is not one of deployment, stateful_set, pod.",
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


def test_what_the_guide_shows_can_be_had() -> None:
    guide = (ROLE.parents[1] / "docs/workloads.md").read_text(encoding="utf-8")
    shown = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)]
    workloads = [workload for block in shown if isinstance(block, list) for workload in block]
    assert [workload["name"] for workload in workloads] == ["web", "shop"]
    fleet = fleet_of(workloads, {"networks": [NET]})
    assert [container["hostname"] for container in fleet["containers"]] == [
        *(f"web-{number}" for number in range(1, 6)),
        *("shop-1-server", "shop-1-cache", "shop-2-server", "shop-2-cache"),
    ]
    assert fleet["containers"][-1]["networks"][-1]["ip"] == "10.200.0.18/28"


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
