# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""lxc_container where there is no container: from a template, a clone or a backup, by many at once."""

from __future__ import annotations

import json
import subprocess
import sys
import typing as t

import pytest
from ansible_collections.lxcri.proxmox.tests.wire.support import (
    ANY,
    LISTS,
    NET,
    NEW,
    NEXT_ID,
    PERMISSIONS,
    RESOURCES,
    TEMPLATE,
    Lxc,
    base,
    polls,
    reads,
)

CREATE = "/nodes/pve1/lxc"
# Runs a module with the options on standard input.
PROGRAM = """
import json, sys
from ansible_collections.lxcri.proxmox.tests.wire.module_runner import run_module
print(json.dumps(run_module("lxc_container", json.load(sys.stdin))))
"""
PUBKEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGr0Dp+0qYv4 root@example"
FULL: dict[str, t.Any] = {
    "hostname": "web-1",
    "unprivileged": True,
    "cores": 2,
    "memory": 1024,
    "networks": [{"name": "eth0", "bridge": "vmbr0", "ip": "dhcp", "firewall": True}],
    "mounts": [{"storage": "tank", "size": "20G", "mp": "/var/lib/data", "backup": True}],
    "features": {"nesting": True},
    "tags": ["web", "prod"],
    "description": "Shop",
}
FULL_SENT = {
    "ostemplate": TEMPLATE,
    "hostname": "web-1",
    "unprivileged": "1",
    "cores": "2",
    "memory": "1024",
    "net0": "name=eth0,bridge=vmbr0,firewall=1,ip=dhcp",
    "rootfs": "local-zfs:8",
    "mp0": "tank:20,mp=/var/lib/data,backup=1",
    "features": "nesting=1",
    "tags": "prod;web",
    "description": "Shop",
}


def many(lxc: Lxc, *declarations: dict[str, t.Any]) -> list[dict[str, t.Any]]:
    """The results of as many processes at once."""
    processes = []
    for options in declarations:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdin
        process.stdin.write(json.dumps({**lxc.options, **options}))
        process.stdin.close()
        process.stdin = None
        processes.append(process)
    return [json.loads(process.communicate(timeout=120)[0]) for process in processes]


# ------------------------------------------------------------------------------------------------ from a template


def test_a_container_is_created_by_one_request_and_started_by_another(lxc: Lxc) -> None:
    run = lxc.converge(vmid=300, **NEW, **FULL)
    assert run.writes == [
        ("POST", CREATE, {**FULL_SENT, "vmid": "300"}),
        ("POST", f"{base(300)}/status/start", {}),
    ]
    assert run.asked == [
        f"GET {base(300)}/pending",
        RESOURCES,
        PERMISSIONS,
        f"POST {CREATE}",
        polls(),
        f"POST {base(300)}/status/start",
        polls(),
        *reads(300),
    ]
    assert [task["exitstatus"] for task in run.result["tasks"]] == ["OK", "OK"]
    assert {key: run.container[key] for key in ("vmid", "node", "hostname", "status")} == {
        "vmid": 300,
        "node": "pve1",
        "hostname": "web-1",
        "status": "running",
    }
    assert run.container["config"]["mp0"] == "tank:subvol-300-disk-0,mp=/var/lib/data,backup=1,size=20G"
    assert run.result["diff"]["before"]["state"] == "absent"
    assert run.result["diff"]["after"]["memory"] == 1024
    assert run.result["restart_required"] is False


def test_without_an_id_it_gets_a_free_one(lxc: Lxc) -> None:
    lxc.add(100)
    run = lxc.converge(**NEW, **FULL)
    assert run.asked[:7] == [RESOURCES, *run.asked[1:4], PERMISSIONS, NEXT_ID, f"POST {CREATE}"]
    assert sorted(run.asked[1:4]) == LISTS
    assert run.writes[0] == ("POST", CREATE, {**FULL_SENT, "vmid": "101"})
    assert run.container["vmid"] == 101
    assert run.result["plan"][-1]["request"] == f"POST {base(101)}/status/start"


def test_a_plan_without_an_id_says_so(lxc: Lxc) -> None:
    check = lxc.check(**NEW, hostname="web-1")
    assert check.result["plan"][-1]["request"] == f"POST {CREATE}/{{vmid}}/status/start"
    assert NEXT_ID not in check.asked
    assert check.container is None


@pytest.mark.parametrize("state", ["present", "stopped"])
def test_a_container_that_shall_not_run_is_not_started(lxc: Lxc, state: str) -> None:
    run = lxc.converge(vmid=300, state=state, **NEW)
    assert [path for _method, path, _params in run.writes] == [CREATE]
    assert run.container["status"] == "stopped"


def test_a_restarted_container_that_is_new_is_started_once(lxc: Lxc) -> None:
    run = lxc.apply(vmid=300, state="restarted", **NEW)
    assert [path for _method, path, _params in run.writes] == [CREATE, f"{base(300)}/status/start"]


def test_a_template_is_made_of_a_new_container(lxc: Lxc) -> None:
    run = lxc.converge(vmid=900, hostname="golden", state="template", **NEW)
    assert [path for _method, path, _params in run.writes] == [CREATE, f"{base(900)}/template"]
    assert [task["upid"].split(":")[5] for task in run.result["tasks"]] == ["vzcreate", "vztemplate"]
    assert lxc.ct(900).template


def test_what_only_counts_at_creation_is_sent_and_shown_nowhere(lxc: Lxc) -> None:
    options = {"password": "correct horse", "pubkey": PUBKEY, "ignore_unpack_errors": True, "storage": "tank"}
    run = lxc.converge(vmid=300, node="pve1", template=TEMPLATE, pool="prod", **options)
    assert run.writes[0] == (
        "POST",
        CREATE,
        {
            "ostemplate": TEMPLATE,
            "storage": "tank",
            "pool": "prod",
            "password": "***",
            "ssh-public-keys": ANY,
            "ignore-unpack-errors": "1",
            "vmid": "300",
        },
    )
    assert "correct horse" not in json.dumps(run.result)
    assert lxc.ct(300).config["rootfs"].startswith("tank:")
    again = lxc.unchanged(vmid=300, node="pve1", template=TEMPLATE, **options)
    assert again.result["notes"] == [
        "password, pubkey, storage, ignore_unpack_errors: only used at the creation of a container; "
        "container 300 exists."
    ]


def test_new_volumes_go_to_the_storage_of_the_task_unless_they_name_one(lxc: Lxc) -> None:
    run = lxc.converge(
        vmid=300,
        node="pve1",
        template=TEMPLATE,
        storage="tank",
        rootfs={"size": "2G"},
        mounts=[{"size": "1G", "mp": "/a"}, {"size": "1G", "mp": "/b", "storage": "local-zfs"}],
        state="stopped",
    )
    sent = run.writes[0][2]
    assert (sent["rootfs"], sent["mp0"], sent["mp1"]) == ("tank:2", "tank:1,mp=/a", "local-zfs:1,mp=/b")


def test_addresses_of_a_new_container_are_returned(lxc: Lxc) -> None:
    run = lxc.converge(
        vmid=300, networks=[{"name": "eth0", "bridge": "vmbr0", "ip": "192.0.2.9/24", "gw": "192.0.2.1"}], **NEW
    )
    assert [entry["address"] for entry in run.container["addresses"]] == ["192.0.2.9/24"]


def test_an_id_that_was_taken_in_between_is_replaced(lxc: Lxc, impatient: None) -> None:
    lxc.cluster.call(
        "fail", "POST", CREATE, 500, "unable to create CT 100 - CT 100 already exists on node 'pve1'", times=2
    )
    run = lxc(hostname="web-1", **NEW)
    assert run.changed
    assert [path for _method, path, _params in run.writes[:3]] == [CREATE] * 3
    assert lxc.ct(run.container["vmid"]).name == "web-1"


def test_an_id_that_is_given_is_not_replaced(lxc: Lxc) -> None:
    lxc.cluster.call("fail", "POST", CREATE, 500, "unable to create CT 300 - CT 300 already exists on node 'pve1'")
    run = lxc(vmid=300, **NEW)
    assert (run.code, run.details["vmid"], len(run.writes)) == ("vmid_in_use", "300", 1)


def test_ten_at_once_are_ten_containers(lxc: Lxc) -> None:
    results = many(lxc, *({"hostname": f"web-{number}", "state": "stopped", **NEW} for number in range(10)))
    assert [result.get("msg") for result in results] == [None] * 10
    assert {ct.name for ct in lxc.cluster.cluster.cts} == {f"web-{number}" for number in range(10)}
    assert len({result["container"]["vmid"] for result in results}) == 10
    assert all(result["container"]["hostname"] == f"web-{number}" for number, result in enumerate(results))


# ------------------------------------------------------------------------------------------------------- clones


def golden(lxc: Lxc, **settings: t.Any) -> None:
    config = {"net0": NET, "rootfs": "local-zfs:basevol-900-disk-0,size=4G", **settings.pop("config", {})}
    lxc.add(900, **{"name": "golden", "template": True, "config": config, **settings})


def test_a_template_is_cloned_by_links_and_then_made_as_declared(lxc: Lxc) -> None:
    golden(lxc)
    run = lxc.converge(
        vmid=300,
        hostname="app-1",
        clone={"vmid": 900},
        memory=2048,
        rootfs={"size": "8G"},
        networks=[{"name": "eth0", "bridge": "vmbr0", "ip": "192.0.2.10/24"}],
    )
    config = f"{base(300)}/config"
    assert [(method, path) for method, path, _params in run.writes] == [
        ("POST", f"{base(900)}/clone"),
        ("PUT", config),
        ("PUT", f"{base(300)}/resize"),
        ("POST", f"{base(300)}/status/start"),
    ]
    assert run.writes[0][2] == {"full": "0", "hostname": "app-1", "newid": "300"}
    sent = run.writes[1][2]
    assert {key: value for key, value in sent.items() if key != "net0"} == {"memory": "2048", "digest": ANY}
    # The address is the declared one, and the MAC is the clone's own.
    assert "BC:24:11:00:02:01" not in sent["net0"]
    assert "hwaddr=" in sent["net0"]
    assert lxc.ct(300).config["rootfs"] == "local-zfs:basevol-900-disk-0/subvol-300-disk-0,size=8G"
    assert run.asked[:3] == [RESOURCES, *reads(900)]
    assert run.container["addresses"][0]["address"] == "192.0.2.10/24"


def test_a_clone_without_an_id_gets_a_free_one(lxc: Lxc) -> None:
    golden(lxc)
    run = lxc.converge(hostname="app-1", clone={"hostname": "golden"}, memory=2048)
    assert run.writes[0] == ("POST", f"{base(900)}/clone", {"full": "0", "hostname": "app-1", "newid": "100"})
    assert [entry["request"] for entry in run.result["plan"]][-2:] == [
        f"PUT {base(100)}/config",
        f"POST {base(100)}/status/start",
    ]


def test_a_stopped_container_is_copied(lxc: Lxc) -> None:
    lxc.add(201, config={"net0": NET}, pending={})
    run = lxc.converge(vmid=300, hostname="copy", clone={"vmid": 201, "storage": "tank"}, state="stopped")
    assert run.writes == [
        ("POST", f"{base()}/clone", {"full": "1", "hostname": "copy", "storage": "tank", "newid": "300"})
    ]
    assert lxc.ct(300).config["rootfs"] == "tank:subvol-300-disk-0,size=8G"


def test_a_running_container_is_copied_from_a_snapshot_only(lxc: Lxc) -> None:
    lxc.add(201, status="running", config={"memory": 1024})
    snapshot = {**lxc.ct().config, "memory": 256, "snaptime": 1795230000}
    lxc.ct().snapshots["before"] = snapshot
    lxc.refused("container_running", vmid=300, hostname="copy", clone={"vmid": 201})
    run = lxc.converge(
        vmid=300, hostname="copy", clone={"vmid": 201, "snapshot": "before"}, memory=1024, state="stopped"
    )
    assert run.writes == [
        ("POST", f"{base()}/clone", {"full": "1", "hostname": "copy", "snapname": "before", "newid": "300"}),
        ("PUT", f"{base(300)}/config", {"memory": "1024", "digest": ANY}),
    ]


def test_a_clone_on_shared_storage_is_made_on_another_node(lxc: Lxc) -> None:
    lxc.cluster.call("set_storage", "tank", shared=1)
    golden(lxc, config={"rootfs": "tank:basevol-900-disk-0,size=4G"})
    run = lxc.converge(vmid=300, node="pve2", hostname="app-1", clone={"vmid": 900}, memory=1024)
    assert run.writes[0] == (
        "POST",
        f"{base(900)}/clone",
        {"full": "0", "hostname": "app-1", "target": "pve2", "newid": "300"},
    )
    assert [path for _method, path, _params in run.writes[1:]] == [
        f"{base(300, 'pve2')}/config",
        f"{base(300, 'pve2')}/status/start",
    ]
    assert (lxc.ct(300).node, run.container["node"]) == ("pve2", "pve2")


def test_a_clone_that_is_there_is_not_made_again(lxc: Lxc) -> None:
    lxc.add(300, name="app-1")
    run = lxc.unchanged(hostname="app-1", clone={"vmid": 900}, state="stopped")
    assert run.asked == [RESOURCES, *reads(300)]


@pytest.mark.parametrize("clone", [{"vmid": 999}, {"hostname": "nobody"}])
def test_a_source_that_is_not_there(lxc: Lxc, clone: dict[str, t.Any]) -> None:
    run = lxc.refused("not_found", vmid=300, clone=clone)
    assert str(next(iter(clone.values()))) in run.result["msg"]


def test_what_a_clone_cannot_have_is_refused_before_it_is_made(lxc: Lxc) -> None:
    golden(lxc)
    run = lxc.refused("would_lose_data", vmid=300, clone={"vmid": 900}, rootfs={"size": "2G"})
    assert (run.details["before"], run.details["after"]) == ("4G", "2G")


def test_two_clones_of_one_source_at_once_both_succeed(lxc: Lxc) -> None:
    lxc.add(201)
    results = many(
        lxc,
        *(
            {"hostname": f"copy-{number}", "vmid": 300 + number, "clone": {"vmid": 201}, "state": "stopped"}
            for number in range(2)
        ),
    )
    assert [result.get("msg") for result in results] == [None, None]
    assert {ct.name for ct in lxc.cluster.cluster.cts} == {"web-1", "copy-0", "copy-1"}


def test_a_source_whose_disks_are_being_read_is_waited_for(lxc: Lxc) -> None:
    lxc.add(201)
    lxc.cluster.call("fail", "POST", f"{base()}/clone", 500, "CT is locked (disk)", times=1)
    run = lxc(hostname="copy", vmid=300, clone={"vmid": 201}, state="stopped")
    assert [path for _method, path, _params in run.writes] == [f"{base()}/clone"] * 2
    assert run.changed


# ------------------------------------------------------------------------------------------------------- restores


def backup(lxc: Lxc, vmid: int = 201, **config: t.Any) -> str:
    kept = {
        "hostname": "web-1",
        "ostype": "debian",
        "arch": "amd64",
        "memory": 512,
        "swap": 512,
        "unprivileged": 1,
        "net0": NET,
        "rootfs": f"local-zfs:subvol-{vmid}-disk-0,size=4G",
    }
    return str(lxc.cluster.call("store_backup", "local", {**kept, **config}, vmid))


def test_a_container_is_restored_and_then_made_as_declared(lxc: Lxc) -> None:
    volume = backup(lxc)
    run = lxc.converge(
        vmid=300,
        node="pve1",
        hostname="web-2",
        restore={"volume": volume, "unique": True},
        storage="tank",
        memory=1024,
        rootfs={"size": "8G"},
    )
    assert run.writes[0] == (
        "POST",
        CREATE,
        {"ostemplate": volume, "restore": "1", "unique": "1", "storage": "tank", "vmid": "300"},
    )
    assert run.writes[1] == (
        "PUT",
        f"{base(300)}/config",
        {"hostname": "web-2", "memory": "1024", "digest": ANY},
    )
    assert [path for _method, path, _params in run.writes[2:]] == [
        f"{base(300)}/resize",
        f"{base(300)}/status/start",
    ]
    assert lxc.ct(300).config["rootfs"] == "tank:subvol-300-disk-0,size=8G"
    assert "BC:24:11:00:02:01" not in lxc.ct(300).config["net0"]
    assert run.asked[2] == "GET /nodes/pve1/vzdump/extractconfig"


@pytest.mark.parametrize(("wanted", "moves"), [("tank", 1), ("local-zfs", 0)])
def test_volumes_are_moved_from_where_a_restore_puts_them(lxc: Lxc, wanted: str, moves: int) -> None:
    volume = backup(lxc, mp0="tank:subvol-201-disk-1,mp=/data,backup=1,size=4G")
    run = lxc.converge(
        vmid=300,
        node="pve1",
        restore={"volume": volume, "unique": True},
        storage="local-zfs",
        mounts=[{"mp": "/data", "storage": wanted, "backup": True}],
        state="stopped",
        move_volumes=True,
    )
    assert [path for _method, path, _params in run.writes[1:]] == [f"{base(300)}/move_volume"] * moves
    assert str(lxc.ct(300).config["mp0"]).startswith(f"{wanted}:")


def test_a_restore_does_not_touch_a_container_that_is_there(lxc: Lxc) -> None:
    lxc.add(201)
    volume = backup(lxc)
    run = lxc.unchanged(vmid=201, node="pve1", restore={"volume": volume}, state="stopped")
    assert run.asked == reads()


def test_a_restore_over_a_container_lists_what_it_replaces(lxc: Lxc) -> None:
    lxc.add(201, config={"mp0": "local-zfs:subvol-201-disk-1,mp=/data,size=1G"})
    options: dict[str, t.Any] = {
        "vmid": 201,
        "node": "pve1",
        "restore": {"volume": backup(lxc), "force": True},
        "storage": "local-zfs",
        "state": "stopped",
    }
    run = lxc.apply(**options)
    assert run.writes == [
        (
            "POST",
            CREATE,
            {
                "ostemplate": options["restore"]["volume"],
                "restore": "1",
                "force": "1",
                "storage": "local-zfs",
                "vmid": "201",
            },
        )
    ]
    assert ("mp0", "local-zfs:subvol-201-disk-1,mp=/data,size=1G", None, "live") in run.plan
    assert ("rootfs", "local-zfs:subvol-201-disk-0,size=8G", None, "live") in run.plan
    assert "mp0" not in lxc.ct().config
    # It does so every time it runs.
    assert lxc.apply(**options).changed


def test_a_running_container_is_not_restored_over(lxc: Lxc) -> None:
    lxc.add(201, status="running")
    options: dict[str, t.Any] = {
        "vmid": 201,
        "node": "pve1",
        "restore": {"volume": backup(lxc), "force": True},
        "storage": "local-zfs",
    }
    lxc.refused("container_running", **options)
    run = lxc.apply(**options, force=True)
    assert [path for _method, path, _params in run.writes] == [
        f"{base()}/status/stop",
        CREATE,
        f"{base()}/status/start",
    ]


def test_a_protected_container_is_not_restored_over(lxc: Lxc) -> None:
    lxc.add(201, config={"protection": 1})
    lxc.refused("protected", vmid=201, node="pve1", restore={"volume": backup(lxc), "force": True}, storage="local-zfs")


def test_a_backup_that_is_not_there(lxc: Lxc) -> None:
    volume = "local:backup/vzdump-lxc-201-2026_01_31-02_00_00.tar.zst"
    lxc.refused("volume_missing", vmid=300, node="pve1", restore={"volume": volume}, storage="local-zfs")


def test_a_restore_needs_a_storage(lxc: Lxc) -> None:
    run = lxc.refused("invalid_option", vmid=300, node="pve1", restore={"volume": backup(lxc)})
    assert run.details["option"] == "storage"


def test_a_restored_template_is_one_again(lxc: Lxc) -> None:
    run = lxc.converge(vmid=300, node="pve1", restore={"volume": backup(lxc)}, storage="local-zfs", state="template")
    assert [path for _method, path, _params in run.writes] == [CREATE, f"{base(300)}/template"]
