# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Privileges: what is granted, what is missing, and how that is said."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.access import (
    Need,
    granted,
    missing,
    refusal,
    root_only,
)

# As GET /access/permissions gives them: 1 is handed down to the paths below, 0 is not.
PERMISSIONS: dict[str, dict[str, int]] = {
    "/": {"Sys.Audit": 1, "Pool.Audit": 0},
    "/access": {"Sys.Audit": 1},
    "/vms": {"VM.Audit": 1, "VM.Allocate": 0},
    "/vms/101": {"VM.Audit": 1, "VM.PowerMgmt": 1},
    "/pool/p1": {"VM.Allocate": 1},
    "/storage/local": {"Datastore.AllocateSpace": 1},
    "/sdn/zones/dmz/vnet1": {"SDN.Use": 1},
}


@pytest.mark.parametrize(
    ("path", "privilege", "expected"),
    [
        ("/vms/101", "VM.PowerMgmt", True),
        ("/vms/101", "VM.Allocate", False),  # listed by itself: nothing is inherited
        ("/vms/102", "VM.Audit", True),  # inherited from /vms
        ("/vms/102", "VM.Allocate", False),  # held on /vms, but not handed down
        ("/vms", "VM.Allocate", True),
        ("/vms/101/snapshots/x", "VM.PowerMgmt", True),
        ("/nodes/pve1", "Sys.Audit", True),  # inherited from /
        ("/nodes/pve1", "Pool.Audit", False),
        ("/", "Sys.Audit", True),
        ("/", "Sys.Modify", False),
        ("/storage/local", "Datastore.AllocateSpace", True),
        ("/storage/local-zfs", "Datastore.AllocateSpace", False),  # not below /storage/local
        ("/sdn/zones/*/vnet1", "SDN.Use", True),
        ("/sdn/zones/*/vnet2", "SDN.Use", False),
        ("/sdn/*", "SDN.Use", False),  # one component
        ("/sdn/zones/localnetwork/vmbr0", "SDN.Use", False),
        ("/pool/*", "VM.Allocate", True),
        ("/pools/*", "VM.Allocate", False),
    ],
)
def test_granted(path: str, privilege: str, expected: bool) -> None:
    assert granted(PERMISSIONS, path, privilege) is expected


def test_nothing_is_granted_to_a_token_without_any() -> None:
    """A token with privilege separation and no entry of its own."""
    assert not granted({}, "/vms/101", "VM.Audit")
    assert not granted({}, "/", "VM.Audit")


ALLOCATE = Need(("/vms/105", "/pool/p1"), ("VM.Allocate",), "create the container")
RESTORE = Need(("/vms/105",), ("VM.Backup", "VM.Audit"), "restore the container")
POWER = Need(("/vms/105",), ("VM.PowerMgmt",), "start the container")


def test_any_path_and_any_privilege_of_a_need_will_do() -> None:
    assert missing([ALLOCATE, RESTORE], PERMISSIONS) == []


def test_everything_that_is_missing_is_named_once() -> None:
    lacking = missing([POWER, ALLOCATE, POWER, root_only("change the hookscript")], PERMISSIONS)
    assert lacking == [POWER, root_only("change the hookscript")]


def test_what_only_root_may_do_is_granted_by_nothing() -> None:
    everything = {"/": dict.fromkeys(["VM.Allocate", "Sys.Modify", "Permissions.Modify"], 1)}
    assert missing([root_only("mount a bind")], everything) == [root_only("mount a bind")]


def test_refusal_names_privilege_path_and_purpose() -> None:
    bridge = Need(("/sdn/zones/localnetwork/vmbr0", "/sdn/zones/*"), ("SDN.Use",), "use the bridge vmbr0")
    failure = refusal([ALLOCATE, bridge], "ci@pve!t1")
    assert failure.code == "permission_denied"
    assert failure.message == (
        "ci@pve!t1 lacks what this needs: VM.Allocate on /vms/105 or /pool/p1 (create the container); "
        "SDN.Use on /sdn/zones/localnetwork/vmbr0 (use the bridge vmbr0)."
    )
    assert "token" in failure.hint
    assert "root@pam" not in failure.hint
    assert failure.details["missing"] == [
        {"path": "/vms/105", "privilege": "VM.Allocate", "requires": None, "why": "create the container"},
        {
            "path": "/sdn/zones/localnetwork/vmbr0",
            "privilege": "SDN.Use",
            "requires": None,
            "why": "use the bridge vmbr0",
        },
    ]


def test_refusal_of_what_only_root_may_do() -> None:
    failure = refusal([root_only("change the hookscript")], "root@pam!t1")
    assert failure.message == (
        "root@pam!t1 lacks what this needs: change the hookscript (only root@pam with a password)."
    )
    assert "every API token" in failure.hint
    assert "Grant" not in failure.hint, "no grant would help"
    (entry,) = t.cast("list[dict[str, t.Any]]", failure.details["missing"])
    assert (entry["path"], entry["privilege"], entry["requires"]) == (None, None, "root@pam with a password")
