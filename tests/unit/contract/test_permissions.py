# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The privileges that a plan says it needs, against which requests a real Proxmox refused to which token."""

from __future__ import annotations

import re
import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.access import Need, missing
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import Actual
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.plan import make_plan
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import Clone, Declared
from ansible_collections.lxcri.proxmox.tests.unit.contract.recorded import records

RECORDS = records("permissions")

EVERYTHING = [
    "Datastore.Allocate",
    "Datastore.AllocateSpace",
    "Datastore.AllocateTemplate",
    "Datastore.Audit",
    "Pool.Allocate",
    "Pool.Audit",
    "SDN.Use",
    "Sys.Audit",
    "Sys.Modify",
    "VM.Allocate",
    "VM.Audit",
    "VM.Backup",
    "VM.Clone",
    "VM.Config.CPU",
    "VM.Config.Disk",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.Options",
    "VM.Migrate",
    "VM.PowerMgmt",
    "VM.Snapshot",
]


def _held(record: dict[str, t.Any]) -> dict[str, dict[str, int]]:
    if record["auth"] in ("ci@pve!full", "root@pam!rt"):
        privileges = EVERYTHING
    else:
        match = re.search(r"with ([A-Z][\w.]+(?:,[A-Z][\w.]+)*)", record["what"])
        assert match, record["what"]
        privileges = match.group(1).split(",")
    return {"/": dict.fromkeys(privileges, 1)}


def _container() -> Actual:
    """The container of the records, as far as it matters, with values that differ from those that are sent."""
    current = {
        "unprivileged": 1,
        "features": "nesting=1",
        "memory": 512,
        "swap": 512,
        "rootfs": "local-zfs:subvol-600-disk-0,mountoptions=noatime,size=1G",
        "net0": "name=eth0,bridge=vmbr0,firewall=1,hwaddr=BC:24:11:00:06:0F,type=veth",
        "ostype": "unmanaged",
        "arch": "i386",
    }
    return Actual(600, "pve1", current=current)


def _needs(record: dict[str, t.Any]) -> list[Need]:
    params, path = dict(record["params"]), record["path"]
    declared = Declared(state="present", vmid=600, node="pve1")
    actual: Actual | None = _container()
    source = None
    if path.endswith("/config") and "delete" in params:
        declared.unset = (params["delete"],)
    elif path.endswith("/config"):
        declared.config = {key: properties.normalise(key, value) for key, value in params.items()}
    elif path.endswith("/resize"):
        declared.config = {"rootfs": {"volume": ":", "size": 2 * properties.UNITS["G"]}}
    elif path.endswith("/move_volume"):
        declared.config = {"rootfs": {"volume": "local-zfs:", "mountoptions": ("noatime",)}}
        assert actual is not None
        actual.current["rootfs"] = "tank:subvol-600-disk-0,mountoptions=noatime,size=1G"
        declared.move_volumes = True
    elif path.endswith("/clone"):
        declared = Declared(state="present", vmid=params["newid"], clone=Clone(vmid=600, snapshot=params["snapname"]))
        actual, source = None, _container()
    else:
        keys = {key: value for key, value in params.items() if properties.key_of(key)}
        declared.vmid, actual = params["vmid"], None
        declared.template, declared.pool = params["ostemplate"], params.get("pool")
        declared.config = {key: properties.normalise(key, value) for key, value in keys.items()}
    return make_plan(declared, actual, source).needs


@pytest.mark.parametrize("record", RECORDS, ids=[record["id"] for record in RECORDS])
def test_what_proxmox_refuses_is_known_before(record: dict[str, t.Any]) -> None:
    lacking = missing(_needs(record), _held(record))
    if record["status"] == 200:
        assert not lacking
        return
    named = re.search(r"\((/\S*), (\S+)\)", record["reason"])
    if "root@pam" in record["reason"]:
        assert any(need.root_only for need in lacking)
    elif named:
        path, privilege = named.groups()
        # The order of the checks is Proxmox's own: what it names is one of those that are missing.
        assert any(path in need.paths and privilege in need.privileges for need in lacking)
    else:
        assert any("VM.Allocate" in need.privileges for need in lacking)


def test_there_are_refusals_of_every_kind() -> None:
    assert len([record for record in RECORDS if record["status"] == 403]) > 50
    assert len([record for record in RECORDS if record["status"] == 200]) > 20
