# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Identities: what they may do, and where."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.filter.node_identities import FilterModule
from ansible_collections.lxcri.proxmox.plugins.module_utils.prepare.identities import PURPOSES, expand, paths

filtered = FilterModule().filters()["node_identities"]


def test_the_objects_of_an_identity() -> None:
    found = filtered(
        [{"purpose": "backup", "storages": ["nas"]}, {"purpose": "backup", "name": "second", "pools": ["shop"]}]
    )
    assert found["problems"] == []
    privileges = ["Datastore.AllocateSpace", "Datastore.Audit", "SDN.Use", "VM.Audit", "VM.Backup"]
    assert found["roles"] == [{"roleid": "lxcri-backup", "privs": privileges}]
    assert found["users"][0] == {
        "userid": "lxcri-backup@pve",
        "comment": "[lxcri backup: /vms /storage/nas /sdn/zones/localnetwork]",
        "enable": True,
    }
    assert found["tokens"][1] == {
        "userid": "lxcri-second@pve",
        "tokenid": "lxcri",
        "privsep": True,
        "comment": "lxcri backup",
    }
    assert found["names"] == {"lxcri-backup@pve!lxcri": "backup", "lxcri-second@pve!lxcri": "second"}
    assert [(entry["path"], entry["users"], entry["tokens"]) for entry in found["acls"]] == [
        ("/vms", ["lxcri-backup@pve"], ["lxcri-backup@pve!lxcri"]),
        ("/storage/nas", ["lxcri-backup@pve"], ["lxcri-backup@pve!lxcri"]),
        ("/sdn/zones/localnetwork", ["lxcri-backup@pve"], ["lxcri-backup@pve!lxcri"]),
        ("/pool/shop", ["lxcri-second@pve"], ["lxcri-second@pve!lxcri"]),
        ("/storage", ["lxcri-second@pve"], ["lxcri-second@pve!lxcri"]),
        ("/sdn/zones/localnetwork", ["lxcri-second@pve"], ["lxcri-second@pve!lxcri"]),
    ]
    assert expand([]).users == []


def test_what_was_given_before_and_is_not_declared_any_more_is_taken_back() -> None:
    wide = {"purpose": "deploy", "user": "ci@pve", "storages": ["a", "b"], "comment": "Continuous [x] integration"}
    there = expand([wide]).users
    assert there[0]["comment"].startswith("Continuous [x] integration [lxcri deploy: /vms /storage/a /storage/b ")
    assert expand([wide], there).stale == []
    holders = {"users": ["ci@pve"], "tokens": ["ci@pve!lxcri"]}
    assert expand([{**wide, "storages": ["b"], "pools": ["p"]}], there).stale == [
        {"path": "/vms", "roles": ["lxcri-deploy"], **holders},
        {"path": "/storage/a", "roles": ["lxcri-deploy"], **holders},
        {"path": "/pool", "roles": ["PVEPoolUser"], **holders},
    ]
    stale = expand([{**wide, "purpose": "backup"}], there).stale
    assert [(entry["path"], entry["roles"]) for entry in stale] == [
        *((path, ["lxcri-deploy"]) for path in ("/vms", "/storage/a", "/storage/b", "/sdn/zones/localnetwork")),
        ("/pool", ["PVEPoolUser"]),
    ]
    stale = expand([{**wide, "purpose": "monitor"}], there).stale
    assert [entry["path"] for entry in stale] == ["/vms", "/storage/a", "/storage/b", "/sdn/zones/localnetwork"]
    # What the collection itself gave before, and gives no more.
    older = [{"userid": "m@pve", "comment": "[lxcri monitor: /vms /storage /sdn/zones/localnetwork /nodes /pool]"}]
    stale = expand([{"purpose": "monitor", "user": "m@pve"}], older).stale
    assert [(entry["path"], entry["roles"]) for entry in stale] == [("/sdn/zones/localnetwork", ["lxcri-monitor"])]
    assert expand([wide], [{"userid": "ci@pve", "comment": None}, {"userid": "b@pve"}]).stale == []


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        ({"purpose": "deploy"}, ["/vms", "/storage", "/sdn/zones/localnetwork", "/pool"]),
        (
            {"purpose": "deploy", "pools": ["a", "b"], "storages": ["s"], "networks": ["localnetwork/vmbr0"]},
            ["/pool/a", "/pool/b", "/storage/s", "/sdn/zones/localnetwork/vmbr0"],
        ),
        ({"purpose": "monitor"}, ["/vms", "/storage", "/nodes", "/pool"]),
        ({"purpose": "image", "nodes": ["pve1"]}, ["/storage", "/nodes/pve1"]),
    ],
)
def test_paths(identity: dict[str, t.Any], expected: list[str]) -> None:
    assert paths(identity) == expected


def test_what_sees_all_pools_holds_nothing_of_what_is_in_them() -> None:
    for purpose in ("deploy", "monitor"):
        [entry] = [entry for entry in expand([{"purpose": purpose}]).acls if entry["path"] == "/pool"]
        assert entry["roles"] == ["PVEPoolUser"]


def test_no_purpose_can_change_what_others_may_do_or_the_system() -> None:
    forbidden = (
        "Permissions.",
        "User.",
        "Group.",
        "Realm.",
        "Sys.Modify",
        "Sys.PowerMgmt",
        "Sys.Console",
    )
    for name, purpose in PURPOSES.items():
        assert list(purpose.privileges) == sorted(set(purpose.privileges))
        wrong = [p for p in purpose.privileges if p.startswith(forbidden) or p == "Datastore.Allocate"]
        assert wrong == [], name
        assert "/" not in paths({"purpose": name})


@pytest.mark.parametrize(
    "identities",
    [
        "deploy",
        ["deploy"],
        [{"purpose": "all"}],
        [{"purpose": "deploy", "privileges": []}],
        [{"purpose": "deploy", "name": "A-b"}],
        [{"purpose": "deploy"}, {"purpose": "deploy"}],
        [{"purpose": "deploy", "user": "a@pve"}, {"purpose": "image", "user": "a@pve"}],
        [{"purpose": "deploy", "storages": "local"}],
        [{"purpose": "deploy", "storages": ["a b"]}],
    ],
)
def test_what_stands_against_identities(identities: t.Any) -> None:
    assert len(expand(identities).problems) == 1
