# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role `node` gives to an identity suffices for its purpose, and for no other."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api import access
from ansible_collections.lxcri.proxmox.plugins.module_utils.prepare import identities
from ansible_collections.lxcri.proxmox.plugins.module_utils.prepare.identities import PURPOSES, expand
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator
from ansible_collections.lxcri.proxmox.tests.wire.module_runner import run_module
from ansible_collections.lxcri.proxmox.tests.wire.support import NET, NEW, state_of

SECRET = "33333333-2222-4111-8000-000000000000"
HERE = {"vmid": 201, "node": "pve1", "state": "present"}
CREATED = {
    **NEW,
    "vmid": 300,
    "hostname": "new-1",
    "networks": [{"name": "eth0", "bridge": "vmbr0"}],
    "features": {"nesting": True},
    "state": "started",
}
APPLIANCE = "debian-13-standard"
URL = "https://mirror.example.com/images/shop_1.4_amd64.tar.zst"
# A container that is gone, and one in a pool.
GONE, POOLED = 250, 205
# For each purpose: what it is for, in an order in which it can be done.
WORK: dict[str, list[tuple[str, dict[str, t.Any]]]] = {
    "deploy": [
        ("lxc_container", {**HERE, "memory": 1024, "cores": 2, "tags": ["a"], "nameserver": ["192.0.2.1"]}),
        ("lxc_container", {**HERE, "rootfs": {"size": "9G"}}),
        ("lxc_container", {**HERE, "state": "started"}),
        ("lxc_snapshot", {"vmid": [201], "name": "before"}),
        ("lxc_snapshot", {"vmid": [201], "name": "before", "state": "rolled_back"}),
        ("lxc_snapshot", {"vmid": [201], "name": "before", "state": "absent"}),
        ("lxc_container", {**HERE, "state": "stopped"}),
        ("lxc_container", {**HERE, "node": "pve2", "migrate": True}),
        ("lxc_container", CREATED),
        ("lxc_container", {"vmid": 301, "hostname": "copy-1", "clone": {"vmid": 201}, "state": "stopped"}),
        ("lxc_fleet", {"defaults": NEW, "containers": [{"hostname": "web-1"}], "owner": "shop"}),
        ("lxc_container", {"vmid": 301, "state": "absent"}),
    ],
    "backup": [
        ("lxc_backup", {"vmid": [201], "storage": "local"}),
        ("lxc_backup", {"vmid": [201], "storage": "local", "keep": {"last": 1}}),
        ("lxc_backup", {"vmid": [201], "storage": "local", "state": "restored", "restore": {"force": True}}),
    ],
    "monitor": [],
    "image": [
        ("lxc_template", {"node": "pve1", "storage": "local", "template": APPLIANCE}),
        ("lxc_template", {"node": "pve1", "storage": "local", "url": URL}),
    ],
}
READ: tuple[str, dict[str, t.Any]] = (
    "lxc_container_info",
    {"vmid": [201], "gather": ["config", "snapshots", "interfaces"]},
)
# What each purpose is to see, besides what its work has to see.
SIGHTS: dict[str, list[tuple[str, dict[str, t.Any]]]] = {
    "deploy": [("lxc_container_info", {"vmid": [POOLED]})],
    "backup": [("lxc_backup", {"vmid": [GONE], "storage": "local", "state": "verified"})],
    "monitor": [("lxc_container_info", {"vmid": [POOLED], "gather": ["config"]}), ("pve_cluster_info", {})],
    "image": [],
}


def identity(cluster: Simulator, **given: t.Any) -> dict[str, t.Any]:
    """The options of modules for an identity that has been given what the role gives it."""
    objects = expand([given])
    assert objects.problems == []
    privileges = {role["roleid"]: role["privs"] for role in objects.roles}
    # As create_roles of PVE/AccessControl.pm makes it.
    privileges["PVEPoolUser"] = ["Pool.Audit"]
    [user], [token] = objects.users, objects.tokens
    full = f"{user['userid']}!{token['tokenid']}"
    cluster.call("add_user", user["userid"])
    cluster.call("add_token", full, SECRET, privsep=token["privsep"])
    for entry in objects.acls:
        for holder in (*entry["users"], *entry["tokens"]):
            for role in entry["roles"]:
                cluster.call("grant", holder, entry["path"], *privileges[role], propagate=entry["propagate"])
    return {
        **cluster.options,
        "api_user": user["userid"],
        "api_token_id": token["tokenid"],
        "api_token_secret": SECRET,
    }


@pytest.fixture
def there(cluster: Simulator) -> Simulator:
    """A cluster with a container."""
    cluster.call("add_ct", 201, name="old-1", config={"net0": NET})
    return cluster


def lost(cluster: Simulator, full: dict[str, t.Any], less: dict[str, t.Any], purpose: str) -> list[t.Any]:
    """What of its work the second of two identities is refused, and what it does not see as the first does."""
    found: list[t.Any] = []
    for module, declared in WORK[purpose]:
        done = run_module(module, {**less, **declared})
        if done.get("failure", {}).get("code") in ("permission_denied", "not_found", "containers_failed"):
            found.append((module, declared, done["msg"]))
    for module, declared in SIGHTS[purpose]:
        seen = [run_module(module, {**options, **declared}) for options in (full, less)]
        # The options, and with them who asks.
        for each in seen:
            del each["invocation"]
        if seen[0] != seen[1]:
            found.append((module, declared, *seen))
    return found


@pytest.mark.parametrize("purpose", PURPOSES)
def test_an_identity_can_do_what_it_is_for(there: Simulator, purpose: str) -> None:
    options = identity(there, purpose=purpose)
    for module, declared in WORK[purpose]:
        checked = run_module(module, {**options, **declared}, check_mode=True)
        assert not checked.get("failed"), checked
        done = run_module(module, {**options, **declared})
        assert not done.get("failed"), done
        assert (checked["changed"], done["changed"]) == (True, True), (module, declared)
    if purpose != "image":
        found = run_module(READ[0], {**options, **READ[1]})
        assert not found.get("failed"), found
        assert [each["vmid"] for each in found["containers"]] == [201]
        assert found.get("warnings", []) == []
    if purpose == "monitor":
        found = run_module("pve_cluster_info", options)
        assert not found.get("failed"), found
        assert [node["node"] for node in found["nodes"]] == ["pve1", "pve2", "pve3"]
        assert {"local", "local-zfs", "tank"} <= {storage["storage"] for storage in found["storages"]}


@pytest.mark.parametrize(
    ("purpose", "privilege"), [(name, held) for name, purpose in PURPOSES.items() for held in purpose.privileges]
)
def test_an_identity_needs_each_of_its_privileges(
    there: Simulator, monkeypatch: pytest.MonkeyPatch, purpose: str, privilege: str
) -> None:
    """Proxmox is asked: what the modules themselves take for needed does not count."""
    monkeypatch.setattr(access, "missing", lambda _needs, _permissions: [])
    there.call("add_ct", POOLED, name="pooled", pool="prod")
    there.call(
        "store_backup", "local", {"rootfs": f"local-zfs:subvol-{GONE}-disk-0,size=8G"}, GONE, notes="lxcri: gone"
    )
    everything = PURPOSES[purpose]
    kept = tuple(held for held in everything.privileges if held != privilege)
    losses = []
    # Some are for identities of a pool.
    for where in ({}, {"pools": ["prod"]}):
        full = identity(there, purpose=purpose, user="full@pve", **where)
        with monkeypatch.context() as changed:
            changed.setitem(identities.PURPOSES, purpose, identities.Purpose(kept, everything.places))
            less = identity(there, purpose=purpose, user="less@pve", **where)
        losses += lost(there, full, less, purpose)
        there.call(lambda cluster: cluster.acl.clear())
        if losses:
            break
    assert losses, f"{purpose} does all that it is for without {privilege}"


@pytest.mark.parametrize(("purpose", "place"), [(name, place) for name, p in PURPOSES.items() for place in p.places])
def test_an_identity_needs_each_of_its_places(
    there: Simulator, monkeypatch: pytest.MonkeyPatch, purpose: str, place: str
) -> None:
    monkeypatch.setattr(access, "missing", lambda _needs, _permissions: [])
    there.call("add_ct", POOLED, name="pooled", pool="prod")
    everything = PURPOSES[purpose]
    full = identity(there, purpose=purpose, user="full@pve")
    kept = tuple(held for held in everything.places if held != place)
    with monkeypatch.context() as changed:
        changed.setitem(identities.PURPOSES, purpose, identities.Purpose(everything.privileges, kept))
        less = identity(there, purpose=purpose, user="less@pve")
    assert lost(there, full, less, purpose), f"{purpose} does all that it is for without {place}"


@pytest.mark.parametrize("purpose", PURPOSES)
def test_an_identity_cannot_do_what_others_are_for(there: Simulator, purpose: str) -> None:
    options = identity(there, purpose=purpose)
    before = there.call(state_of)
    for other, work in WORK.items():
        for module, declared in work:
            # These are about what earlier work has made, of which there is nothing here.
            if other == purpose or declared.get("state") in ("rolled_back", "stopped", "absent", "restored"):
                continue
            failed = run_module(module, {**options, **declared})
            assert failed.get("failed"), (other, module, declared)
            assert failed.get("failure", {}).get("code") in ("permission_denied", "not_found", "containers_failed"), (
                failed
            )
    assert there.call(state_of) == before


def test_an_identity_stays_in_its_storages_and_networks(there: Simulator) -> None:
    options = identity(there, purpose="deploy", storages=["local", "tank"], networks=["localnetwork/vmbr1"])
    failed = run_module("lxc_container", {**options, **CREATED})
    assert failed["failure"]["code"] == "permission_denied"
    assert {(entry["path"], entry["privilege"]) for entry in failed["failure"]["details"]["missing"]} == {
        ("/storage/local-zfs", "Datastore.AllocateSpace"),
        ("/sdn/zones/localnetwork/vmbr0", "SDN.Use"),
    }
    narrow = {"rootfs": {"storage": "tank", "size": "8G"}, "networks": [{"name": "eth0", "bridge": "vmbr1"}]}
    done = run_module("lxc_container", {**options, **CREATED, **narrow})
    assert not done.get("failed"), done


def test_an_identity_for_all_guests_sees_their_pools(there: Simulator) -> None:
    """Else a container would be put into its pool again and again, which takes Pool.Allocate."""
    options = identity(there, purpose="deploy")
    declared = {**options, **CREATED, "pool": "prod"}
    assert not run_module("lxc_container", declared).get("failed")
    again = run_module("lxc_container", declared)
    assert (again.get("failed", False), again["changed"]) == (False, False), again


def test_backups_of_a_container_that_is_gone(there: Simulator) -> None:
    """Which nodes have the storage is only told to those with Datastore.Audit."""
    options = identity(there, purpose="backup")
    of = {**options, "vmid": [201], "storage": "local"}
    made = run_module("lxc_backup", of)
    there.call(lambda simulated: simulated.cts.clear())
    assert not run_module("lxc_backup", {**of, "state": "verified"}).get("failed")
    [backup] = made["containers"][0]["backups"]
    removed = run_module("lxc_backup", {**options, "state": "absent", "volume": [backup["volume"]]})
    assert (removed.get("failed", False), removed["changed"]) == (False, True), removed


def test_an_identity_stays_in_its_pools(there: Simulator) -> None:
    options = identity(there, purpose="deploy", pools=["prod"])
    declared = {**options, **CREATED, "pool": "prod"}
    done = run_module("lxc_container", declared)
    assert not done.get("failed"), done
    # It sees that the container is in the pool.
    again = run_module("lxc_container", declared)
    assert (again.get("failed", False), again["changed"]) == (False, False), again
    # Tags, such as that of an owner, are no privilege of the pool before a container is in it.
    fleet = {**options, "defaults": {**NEW, "pool": "prod"}, "containers": [{"hostname": "web-1"}], "owner": "shop"}
    assert not run_module("lxc_fleet", fleet, check_mode=True).get("failed")
    done = run_module("lxc_fleet", fleet)
    assert not done.get("failed"), done
    assert done["containers"][0]["container"]["config"]["tags"] == "shop"
    again = run_module("lxc_fleet", fleet)
    assert (again.get("failed", False), again["changed"]) == (False, False), again
    failed = run_module("lxc_container", {**options, **HERE, "memory": 1024})
    assert failed.get("failure", {}).get("code") in ("permission_denied", "not_found")
    seen = run_module("lxc_container_info", {**options, "gather": ["config"]})["containers"]
    assert {each["hostname"] for each in seen} == {"new-1", "web-1"}
