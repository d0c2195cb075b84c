# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What lxc_container_info makes of the API's answers, and which requests it sends when the cluster's list lags.

The simulator's list never lags, so those cases are here, with a client that answers from a table.
"""

from __future__ import annotations

import itertools
import typing as t

import jsonschema
import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Credentials
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.addresses import interfaces_of, reachable_addresses
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.info import (
    GATHER,
    Entry,
    Selection,
    Survey,
    as_result,
    asks_singly,
    blind_spots,
    entry_of,
    oci_state,
    oci_status,
    snapshots_of,
    update,
    usage_of,
    warnings_of,
)
from ansible_collections.lxcri.proxmox.tests.unit.support import FakeClient, InTurn, not_found

# The state document as the OCI runtime specification 1.0.2 describes it (runtime.md, "State"; config.md,
# "Annotations"), with all that it says in words: semantic version, absolute bundle, annotations with names, and no
# further properties, of which it allows any.
STATE_SCHEMA: dict[str, t.Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["ociVersion", "id", "status", "bundle"],
    "additionalProperties": False,
    "properties": {
        "ociVersion": {"type": "string", "pattern": r"^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$"},
        "id": {"type": "string", "minLength": 1},
        "status": {"enum": ["creating", "created", "running", "stopped"]},
        "pid": {"type": "integer", "minimum": 1},
        "bundle": {"type": "string", "pattern": "^/"},
        "annotations": {
            "type": "object",
            "propertyNames": {"minLength": 1, "not": {"pattern": r"^org\.opencontainers\."}},
            "additionalProperties": {"type": "string"},
        },
    },
}
# "pid (int, REQUIRED when status is created or running on Linux)"
COMPLETE_SCHEMA = {
    **STATE_SCHEMA,
    "if": {"properties": {"status": {"enum": ["created", "running"]}}},
    "then": {"required": ["pid"]},
}

# As recorded on Proxmox VE 9.2: an entry of GET cluster/resources, and GET status/current of the same container.
LISTED: dict[str, t.Any] = {
    "type": "lxc",
    "id": "lxc/800",
    "vmid": 800,
    "node": "pve1",
    "name": "ct800",
    "status": "running",
    "template": 0,
    "tags": "prod;web",
    "uptime": 193,
    "cpu": 0,
    "maxcpu": 2,
    "mem": 475136,
    "memhost": 0,
    "maxmem": 67108864,
    "disk": 1703936,
    "maxdisk": 1073741824,
    "diskread": 0,
    "diskwrite": 0,
    "netin": 0,
    "netout": 0,
}
CURRENT: dict[str, t.Any] = {
    "type": "lxc",
    "vmid": 800,
    "name": "ct800",
    "status": "running",
    "pid": 5451,
    "tags": "prod;web",
    "uptime": 34,
    "cpu": 0,
    "cpus": 2,
    "mem": 475136,
    "maxmem": 67108864,
    "swap": 0,
    "maxswap": 0,
    "disk": 1703936,
    "maxdisk": 1073741824,
    "diskread": 0,
    "diskwrite": 0,
    "netin": 0,
    "netout": 0,
    "pressurecpusome": "2.17",
    "ha": {"managed": 0},
}
# A container that has just been made: no statistics yet (extract_vm_stats).
NEW: dict[str, t.Any] = {"type": "lxc", "id": "lxc/801", "vmid": 801, "node": "pve1", "status": "unknown"}


def node(name: str, status: str = "online") -> dict[str, t.Any]:
    return {"type": "node", "id": f"node/{name}", "node": name, "status": status}


def listed(vmid: int, **other: t.Any) -> dict[str, t.Any]:
    return {**LISTED, "id": f"lxc/{vmid}", "vmid": vmid, "name": f"ct{vmid}", **other}


def status(vmid: int, **other: t.Any) -> dict[str, t.Any]:
    return {**CURRENT, "vmid": vmid, "name": f"ct{vmid}", **other}


def cluster(*resources: dict[str, t.Any]) -> FakeClient:
    return FakeClient({"cluster/resources": list(resources)})


def survey(
    client: FakeClient, gather: t.Sequence[str] = (), current: bool = False, **filters: t.Any
) -> dict[str, t.Any]:
    return Survey(t.cast("t.Any", client), Selection(**filters), gather, current).run()


# ------------------------------------------------------------------------------------------------------ filters


ENTRY = Entry(201, "pve1", hostname="web-1", status="running", pool="shop", tags=("prod", "web"))


@pytest.mark.parametrize(
    ("filters", "passes"),
    [
        ({}, True),
        ({"vmids": [200, 201]}, True),
        ({"vmids": [200]}, False),
        ({"hostnames": ["web-1"]}, True),
        ({"hostnames": ["web"]}, False),
        ({"hostnames": ["web-*"]}, False),
        ({"nodes": ["pve1", "pve2"]}, True),
        ({"nodes": ["pve2"]}, False),
        ({"pools": ["shop"]}, True),
        ({"pools": ["other"]}, False),
        ({"tags": ["web"]}, True),
        ({"tags": ["WEB", "prod"]}, True),
        ({"tags": ["web", "test"]}, False),
        ({"tags": []}, True),
        ({"status": "running"}, True),
        ({"status": "stopped"}, False),
        ({"vmids": [201], "nodes": ["pve1"], "tags": ["web"], "status": "running"}, True),
        ({"vmids": [201], "nodes": ["pve2"]}, False),
    ],
)
def test_a_container_must_pass_every_filter(filters: dict[str, t.Any], passes: bool) -> None:
    selection = Selection(**filters)
    assert (selection.by_configuration(ENTRY) and selection.by_state(ENTRY)) is passes
    assert not selection.nothing


@pytest.mark.parametrize("name", ["vmids", "hostnames", "nodes", "pools"])
def test_an_empty_filter_selects_nothing_and_asks_nothing(name: str) -> None:
    client = FakeClient({})
    filters: dict[str, t.Any] = {name: []}
    assert survey(client, **filters) == {"changed": False, "containers": [], "warnings": []}
    assert client.paths() == []


# ---------------------------------------------------------------------------------------------- the OCI document


@pytest.mark.parametrize(
    ("state", "lock", "expected"),
    [
        ("running", None, "running"),
        ("running", "backup", "running"),
        ("stopped", None, "stopped"),
        ("stopped", "rollback", "stopped"),
        ("stopped", "create", "creating"),
        ("unknown", "create", "creating"),
        ("unknown", None, None),
        ("unknown", "backup", None),
    ],
)
def test_states_and_the_create_lock_map_to_the_specification(
    state: str, lock: str | None, expected: str | None
) -> None:
    assert oci_status(state, lock) == expected


def test_every_known_state_makes_a_valid_document() -> None:
    for state, lock, pid in itertools.product(("running", "stopped"), (None, "create", "backup"), (None, 4711)):
        entry = Entry(201, "pve1", "web-1", state, pool="shop", tags=("prod", "web"), lock=lock)
        entry.pid = pid if state == "running" else None
        entry.parts["config"] = {"description": "Shop\n", "memory": 512}
        document = oci_state(entry)
        jsonschema.validate(document, STATE_SCHEMA)
        if pid is not None:
            jsonschema.validate(document, COMPLETE_SCHEMA)


def test_the_document_of_a_container_whose_node_was_asked_is_complete() -> None:
    entry = entry_of(LISTED)
    update(entry, CURRENT)
    document = oci_state(entry)
    jsonschema.validate(document, COMPLETE_SCHEMA)
    assert document == {
        "ociVersion": "1.0.2",
        "id": "800",
        "status": "running",
        "pid": 5451,
        "bundle": "/var/lib/lxc/800",
        "annotations": {
            "com.proxmox.node": "pve1",
            "com.proxmox.hostname": "ct800",
            "com.proxmox.tags": "prod;web",
        },
    }


def test_the_schema_refuses_what_the_specification_refuses() -> None:
    good = {"ociVersion": "1.0.2", "id": "1", "status": "running", "pid": 1, "bundle": "/b"}
    jsonschema.validate(good, COMPLETE_SCHEMA)
    for bad in (
        {**good, "status": "unknown"},
        {**good, "bundle": "relative"},
        {**good, "id": 1},
        {**good, "annotations": {"a": 1}},
        {key: value for key, value in good.items() if key != "pid"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, COMPLETE_SCHEMA)


def test_annotations_are_texts_and_leave_out_what_is_not_set() -> None:
    entry = Entry(900, "pve1", "golden", "stopped", template=True, pool="p", tags=("a", "b"), lock="disk")
    entry.parts["config"] = {"description": "two\nlines\n"}
    state = oci_state(entry)
    assert state is not None
    assert state["annotations"] == {
        "com.proxmox.node": "pve1",
        "com.proxmox.hostname": "golden",
        "com.proxmox.pool": "p",
        "com.proxmox.tags": "a;b",
        "com.proxmox.lock": "disk",
        "com.proxmox.template": "true",
        "com.proxmox.description": "two\nlines",
    }


def test_an_unknown_state_has_no_document() -> None:
    assert oci_state(Entry(201, "pve1")) is None


# --------------------------------------------------------------------------------------------- what the API answers


def test_an_entry_of_the_cluster() -> None:
    entry = entry_of({**LISTED, "pool": "shop", "lock": "backup", "template": 1})
    assert (entry.vmid, entry.node, entry.hostname, entry.status) == (800, "pve1", "ct800", "running")
    assert (entry.template, entry.pool, entry.tags, entry.lock) == (True, "shop", ("prod", "web"), "backup")
    assert entry.usage["uptime"] == 193
    assert entry.known
    assert not entry.fresh


def test_an_entry_without_statistics_is_not_known() -> None:
    entry = entry_of(NEW)
    assert (entry.hostname, entry.status, entry.usage, entry.known) == (None, "unknown", {}, False)


def test_what_the_node_says_replaces_what_the_cluster_said() -> None:
    entry = entry_of({**LISTED, "name": "old", "lock": "backup", "pool": "shop", "template": 1})
    update(entry, {**CURRENT, "status": "stopped", "tags": None})
    assert (entry.hostname, entry.status, entry.tags, entry.lock) == ("ct800", "stopped", (), None)
    assert (entry.pid, entry.pool, entry.template, entry.fresh) == (None, "shop", False, True)


def test_usage_has_the_same_names_wherever_it_was_read() -> None:
    assert {**usage_of(LISTED), "uptime": 0} == {**usage_of(CURRENT), "uptime": 0}
    assert usage_of(CURRENT)["maxcpu"] == 2
    assert usage_of(NEW) == {}


def test_snapshots_are_sorted_and_without_the_pseudo_entry() -> None:
    assert snapshots_of(
        [
            {"name": "two", "snaptime": 20, "parent": "one", "description": ""},
            {"name": "one", "snaptime": 10, "description": "first\n"},
            {"name": "current", "running": 1, "description": "You are here!", "parent": "two"},
        ]
    ) == [
        {"name": "one", "description": "first", "snaptime": 10, "parent": None},
        {"name": "two", "description": "", "snaptime": 20, "parent": "one"},
    ]
    assert snapshots_of(None) == []


def test_interfaces_have_one_form_for_all_versions() -> None:
    new = {
        "name": "eth0",
        "hwaddr": "bc:24:11:00:08:00",
        "hardware-address": "bc:24:11:00:08:00",
        "inet": "192.0.2.10/24",
        "ip-addresses": [
            {"ip-address-type": "inet", "ip-address": "192.0.2.10", "prefix": 24},
            {"ip-address-type": "inet6", "ip-address": "fe80::1", "prefix": "64"},
        ],
    }
    old = {"name": "eth0", "hwaddr": "bc:24:11:00:08:00", "inet": "192.0.2.10/24", "inet6": "fe80::1/64"}
    expected = [{"name": "eth0", "hwaddr": "BC:24:11:00:08:00", "addresses": ["192.0.2.10/24", "fe80::1/64"]}]
    assert interfaces_of([new]) == expected
    assert interfaces_of([old]) == expected
    assert interfaces_of(None) == []


def test_reachable_addresses_are_those_that_others_can_use() -> None:
    interfaces = [
        {"name": "lo", "hwaddr": "00:00:00:00:00:00", "addresses": ["127.0.0.1/8", "::1/128"]},
        {"name": "eth0", "hwaddr": "BC:24:11:00:08:00", "addresses": ["192.0.2.10/24", "fe80::1/64", "2001:db8::5/64"]},
    ]
    assert reachable_addresses(interfaces) == [
        {"interface": "eth0", "address": "192.0.2.10/24", "family": "inet", "hwaddr": "BC:24:11:00:08:00"},
        {"interface": "eth0", "address": "2001:db8::5/64", "family": "inet6", "hwaddr": "BC:24:11:00:08:00"},
    ]


# ---------------------------------------------------------------------------------------------------- the result


def test_a_result_has_exactly_the_parts_that_were_asked_for() -> None:
    plain = {"vmid", "node", "hostname", "status", "template", "pool", "tags", "lock", "uptime", "oci_state"}
    entry = entry_of(LISTED)
    assert set(as_result(entry, ())) == plain
    assert set(as_result(entry, ["usage"])) == plain | {"usage"}
    assert set(as_result(entry, GATHER)) == plain | set(GATHER) | {"addresses"}


def test_what_could_not_be_read_is_null_and_explained() -> None:
    entry = entry_of(NEW)
    entry.failure = Failure("node_offline", "pve1 is offline.", "Bring it back.", node="pve1")
    result = as_result(entry, GATHER)
    assert {result[name] for name in (*GATHER, "addresses", "oci_state", "uptime", "hostname")} == {None}
    assert result["failure"] == {
        "code": "node_offline",
        "message": "pve1 is offline.",
        "hint": "Bring it back.",
        "details": {"node": "pve1"},
    }


def test_addresses_are_static_ones_unless_interfaces_were_read() -> None:
    entry = entry_of(LISTED)
    net0 = "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:08:00,ip=192.0.2.10/24,type=veth"
    entry.parts = {"config": {"net0": net0}, "interfaces": []}
    static = {"interface": "eth0", "address": "192.0.2.10/24", "family": "inet", "hwaddr": "BC:24:11:00:08:00"}
    assert as_result(entry, ["config"])["addresses"] == [static]
    assert as_result(entry, ["config", "interfaces"])["addresses"] == []


def test_one_warning_for_each_node_and_cause() -> None:
    entries = [Entry(vmid, node) for vmid, node in ((3, "pve1"), (1, "pve1"), (2, "pve2"), (4, "pve2"))]
    for entry in entries[:3]:
        entry.failure = Failure("node_offline", f"{entry.node} is offline.")
    assert warnings_of(entries) == [
        "Not everything could be read about 1, 3 on pve1 (node_offline): pve1 is offline.",
        "Not everything could be read about 2 on pve2 (node_offline): pve2 is offline.",
    ]


@pytest.mark.parametrize(
    ("permissions", "pools", "hint"),
    [
        ({"/": {"VM.Audit": 1}}, None, None),
        ({"/vms": {"VM.Audit": 1}}, None, None),
        ({}, None, "has VM.Audit nowhere"),
        ({"/": {"Sys.Audit": 1}, "/vms/800": {"VM.Audit": 1}}, None, "has VM.Audit only on /vms/800"),
        ({"/vms": {"VM.Audit": 1}}, ["shop"], "has no Pool.Audit on /pool/shop"),
        ({"/vms": {"VM.Audit": 1}, "/pool/shop": {"Pool.Audit": 1}}, ["shop"], None),
    ],
)
def test_an_empty_list_is_explained_by_missing_privileges(
    permissions: dict[str, dict[str, int]], pools: list[str] | None, hint: str | None
) -> None:
    found = blind_spots(permissions, "ro@pve!ta", Selection(pools=pools))
    if hint is None:
        assert found is None
    else:
        assert found is not None
        assert hint in found


# --------------------------------------------------------------------------------------------------- the lagging list


@pytest.mark.parametrize(
    ("wanted", "on_node", "singly"),
    [(1, 1, True), (1, 500, True), (2, 5, False), (2, 12, True), (40, 40, False), (7, 40, False), (6, 40, True)],
)
def test_few_of_many_are_asked_for_one_by_one(wanted: int, on_node: int, singly: bool) -> None:
    assert asks_singly(wanted, on_node) is singly


def test_a_new_container_is_read_from_its_node_and_found_by_its_name() -> None:
    client = FakeClient(
        {
            "cluster/resources": [node("pve1"), LISTED, NEW],
            "nodes/pve1/lxc/801/status/current": status(801, status="stopped", pid=None),
        }
    )
    result = survey(client, hostnames=["ct801"])
    assert [(entry["vmid"], entry["status"]) for entry in result["containers"]] == [(801, "stopped")]
    assert client.paths() == ["cluster/resources", "nodes/pve1/lxc/801/status/current"]


def test_a_container_that_no_filter_can_want_is_not_read_for_its_name() -> None:
    client = cluster(node("pve1"), LISTED, NEW)
    assert [entry["vmid"] for entry in survey(client, vmids=[800])["containers"]] == [800]
    assert client.paths() == ["cluster/resources"]


def test_many_unknown_ones_of_a_node_cost_one_list() -> None:
    client = FakeClient(
        {
            "cluster/resources": [node("pve1"), *({**NEW, "vmid": vmid} for vmid in range(100, 150))],
            "nodes/pve1/lxc": [status(vmid) for vmid in range(100, 150)],
        }
    )
    result = survey(client)
    assert len(result["containers"]) == 50
    assert all(entry["oci_state"]["pid"] == 5451 for entry in result["containers"])
    assert client.paths() == ["cluster/resources", "nodes/pve1/lxc"]


def test_a_node_without_statistics_is_asked() -> None:
    client = FakeClient(
        {
            "cluster/resources": [node("pve1", "unknown"), NEW],
            "nodes/pve1/lxc/801/status/current": status(801),
        }
    )
    result = survey(client)
    assert [entry["status"] for entry in result["containers"]] == ["running"]
    assert result["warnings"] == []


def test_a_container_that_was_removed_meanwhile_is_left_out() -> None:
    client = FakeClient(
        {
            "cluster/resources": InTurn([node("pve1"), LISTED, NEW], [node("pve1"), LISTED]),
            "nodes/pve1/lxc/801/status/current": not_found(801),
        }
    )
    result = survey(client)
    assert [entry["vmid"] for entry in result["containers"]] == [800]
    assert result["warnings"] == []


@pytest.mark.parametrize("current", [False, True])
def test_a_container_that_migrated_meanwhile_is_read_where_it_is(current: bool) -> None:
    there = listed(800, node="pve2")
    client = FakeClient(
        {
            "cluster/resources": InTurn([node("pve1"), node("pve2"), LISTED], [node("pve1"), node("pve2"), there]),
            "nodes/pve1/lxc/800/status/current": not_found(800),
            "nodes/pve1/lxc/800/pending": not_found(800),
            "nodes/pve2/lxc/800/status/current": CURRENT,
            "nodes/pve2/lxc/800/pending": [{"key": "memory", "value": 64}],
        }
    )
    result = survey(client, gather=["config"], current=current)
    assert [(entry["node"], entry["config"]) for entry in result["containers"]] == [("pve2", {"memory": 64})]
    assert "failure" not in result["containers"][0]
    assert result["warnings"] == []


def test_a_container_that_its_node_denies_for_good_is_listed_with_the_failure() -> None:
    client = FakeClient(
        {
            "cluster/resources": [node("pve1"), LISTED, listed(802)],
            "nodes/pve1/lxc": [CURRENT],
            "nodes/pve1/lxc/802/status/current": not_found(802),
        }
    )
    result = survey(client, current=True)
    assert [entry.get("failure", {}).get("code") for entry in result["containers"]] == [None, "not_found"]
    assert len(result["warnings"]) == 1


@pytest.mark.parametrize(
    ("state", "answer", "truth", "asked"),
    [
        ("running", [{"name": "lo", "hwaddr": "00:00:00:00:00:00", "ip-addresses": []}], "running", False),
        ("stopped", [{"name": "lo", "hwaddr": "00:00:00:00:00:00", "ip-addresses": []}], "running", True),
        ("running", None, "stopped", True),
        ("stopped", None, "stopped", False),
    ],
)
def test_interfaces_that_contradict_the_state_have_it_read_again(
    state: str, answer: t.Any, truth: str, asked: bool
) -> None:
    client = FakeClient(
        {
            "cluster/resources": [node("pve1"), {**LISTED, "status": state}],
            "nodes/pve1/lxc/800/interfaces": answer,
            "nodes/pve1/lxc/800/status/current": status(800, status=truth),
        }
    )
    [entry] = survey(client, gather=["interfaces"])["containers"]
    assert entry["status"] == truth
    assert len(entry["interfaces"]) == len(answer or [])
    assert ("nodes/pve1/lxc/800/status/current" in client.paths()) is asked


# ------------------------------------------------------------------------------------------- what cannot be read


def test_an_offline_node_is_not_asked_and_its_containers_are_listed() -> None:
    client = FakeClient(
        {
            "cluster/resources": [node("pve1"), node("pve2", "offline"), LISTED, listed(802, node="pve2")],
            "nodes/pve1/lxc/800/status/current": CURRENT,
            "nodes/pve1/lxc/800/snapshot": [],
        }
    )
    result = survey(client, gather=["snapshots"], current=True)
    good, bad = result["containers"]
    assert (good["status"], good["snapshots"]) == ("running", [])
    assert (bad["hostname"], bad["status"], bad["tags"], bad["snapshots"], bad["oci_state"]) == (
        "ct802",
        "unknown",
        ["prod", "web"],
        None,
        None,
    )
    assert bad["failure"]["code"] == "node_offline"
    assert len(result["warnings"]) == 1
    assert not any("pve2" in path for path in client.paths())


def test_a_filter_by_state_still_warns_of_those_whose_state_is_not_known() -> None:
    client = cluster(node("pve1"), node("pve2", "offline"), LISTED, listed(802, node="pve2"))
    result = survey(client, status="running")
    assert [entry["vmid"] for entry in result["containers"]] == [800]
    assert len(result["warnings"]) == 1
    assert "802 on pve2" in result["warnings"][0]
    assert [entry["vmid"] for entry in survey(client, status="unknown")["containers"]] == [802]


def test_one_container_that_cannot_be_read_does_not_break_the_others() -> None:
    client = FakeClient(
        {
            "cluster/resources": [node("pve1"), LISTED, listed(802)],
            "nodes/pve1/lxc/800/pending": Failure("permission_denied", "Permission check failed"),
            "nodes/pve1/lxc/802/pending": [{"key": "memory", "value": 64}],
        }
    )
    result = survey(client, gather=["config"])
    bad, good = result["containers"]
    assert (bad["config"], bad["failure"]["code"], bad["status"]) == (None, "permission_denied", "running")
    assert good["config"] == {"memory": 64}
    assert len(result["warnings"]) == 1


def test_a_node_that_does_not_answer_is_asked_for_nothing_more() -> None:
    silent = Failure("node_offline", "No route to host")
    client = FakeClient(
        {
            "cluster/resources": [node("pve1"), LISTED, listed(802), {**NEW, "vmid": 803}],
            "nodes/pve1/lxc/803/status/current": silent,
        }
    )
    result = survey(client, gather=["config", "snapshots"])
    assert {entry["failure"]["code"] for entry in result["containers"]} == {"node_offline"}
    assert client.paths() == ["cluster/resources", "nodes/pve1/lxc/803/status/current"]


def test_a_lost_session_is_no_matter_of_one_container() -> None:
    client = FakeClient(
        {
            "cluster/resources": [node("pve1"), LISTED],
            "nodes/pve1/lxc/800/snapshot": Failure("unreachable", "pve1:8006 could not be reached."),
        }
    )
    with pytest.raises(Failure) as raised:
        survey(client, gather=["snapshots"])
    assert raised.value.code == "unreachable"


def test_a_node_that_the_cluster_does_not_have_is_refused() -> None:
    client = cluster(node("pve1"), node("pve2"))
    with pytest.raises(Failure, match="no node pve9; there are pve1, pve2") as raised:
        survey(client, nodes=["pve9"])
    assert raised.value.code == "node_unknown"


def test_whether_a_name_exists_is_not_denied_while_a_name_is_not_known() -> None:
    client = cluster(node("pve1"), node("pve2", "offline"), LISTED, {**NEW, "node": "pve2"})
    assert [entry["vmid"] for entry in survey(client, hostnames=["ct800"])["containers"]] == [800]
    with pytest.raises(Failure, match="Whether web-9 exists cannot be told") as raised:
        survey(client, hostnames=["ct800", "web-9"])
    assert raised.value.code == "node_offline"
    assert raised.value.details == {"vmids": [801], "nodes": ["pve2"]}


def test_a_token_without_rights_gets_a_hint_and_others_no_request() -> None:
    token = Credentials(user="ro@pve", token_id="ta", token_secret="x")
    client = FakeClient({"cluster/resources": [node("pve1")], "access/permissions": {}}, token)
    result = survey(client)
    assert result["containers"] == []
    assert "ro@pve!ta has VM.Audit nowhere" in result["warnings"][0]
    root = cluster(node("pve1"))
    assert survey(root)["warnings"] == []
    assert root.paths() == ["cluster/resources"]


def test_virtual_machines_are_not_listed() -> None:
    client = cluster(node("pve1"), LISTED, {**listed(100), "type": "qemu", "id": "qemu/100"})
    assert [entry["vmid"] for entry in survey(client)["containers"]] == [800]


def test_config_and_pending_are_one_request() -> None:
    client = FakeClient(
        {
            "cluster/resources": [node("pve1"), LISTED],
            # As recorded: tty waits to be set, features to be removed.
            "nodes/pve1/lxc/800/pending": [
                {"key": "digest", "value": "969e00bda69199b95a43f9bedaf27cdf2e0ee547"},
                {"key": "memory", "value": 64},
                {"key": "features", "value": "nesting=1", "delete": 1},
                {"key": "tty", "pending": 1},
            ],
        }
    )
    [entry] = survey(client, gather=["config", "pending"])["containers"]
    assert entry["config"] == {"memory": 64, "tty": 1}
    assert entry["pending"] == {"features": None, "tty": 1}
    assert client.paths() == ["cluster/resources", "nodes/pve1/lxc/800/pending"]
