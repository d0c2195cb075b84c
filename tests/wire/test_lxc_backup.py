# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every request of lxc_backup, as it arrives at the API."""

from __future__ import annotations

import re
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.tests.simulator.cluster import Cluster
from ansible_collections.lxcri.proxmox.tests.simulator.node_files import NODE
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator
from ansible_collections.lxcri.proxmox.tests.wire.support import (
    PERMISSIONS,
    RESOURCES,
    Module,
    Run,
    base,
    on_request,
    polls,
)

DAY = 86400
LIST = "GET /nodes/pve1/storage/local/content"
DUMP = "/nodes/pve1/vzdump"
PENDING = f"GET {base()}/pending"
DEFAULTS = "GET /nodes/pve1/vzdump/defaults"
CONFIG = "GET /nodes/pve1/vzdump/extractconfig"
HERE: dict[str, t.Any] = {"vmid": 201, "node": "pve1", "storage": "local"}
SENT: dict[str, t.Any] = {
    "vmid": "201",
    "storage": "local",
    "mode": "snapshot",
    "compress": "zstd",
    "notes-template": "lxcri: {{guestname}}",
    "remove": "0",
}


class Backup(Module):
    """Runs lxc_backup against the cluster, and looks at what became of it."""

    name = "lxc_backup"

    def compare(self, check: Run, run: Run, options: t.Mapping[str, t.Any]) -> None:
        assert check.changed == run.changed
        assert plans(check) == plans(run)
        assert unnamed(check.result["diff"]) == unnamed(run.result["diff"])

    def store(self, *ages: float, vmid: int = 201, storage: str = "local", **entry: t.Any) -> list[str]:
        """Backups that were made so many days ago, of the container as it is; their volumes."""
        entry = {"notes": "lxcri: web-1", **entry}
        ct = self.ct(vmid)
        config = entry.pop("config", None) or (self.cluster.call("backup_config", ct) if ct else {})

        def put(age: float) -> str:
            moment = int(time.time() - age * DAY)

            def store(cluster: Cluster) -> str:
                NODE.set(ct.node if ct else "pve1")
                return cluster.store_backup(storage, config, vmid, ctime=moment, **entry)

            return str(self.cluster.call(store))

        return [put(age) for age in ages]

    def volumes(self, storage: str = "local") -> list[str]:
        """The backups on a storage, the oldest first."""
        register = self.cluster.cluster.storages[storage]["volumes"]
        entries = [(entry["ctime"], name) for name, entry in register.items() if name.startswith("backup/")]
        return [f"{storage}:{name}" for _time, name in sorted(entries)]


def unnamed(value: t.Any) -> str:
    """As text, without ids that are chosen and addresses that are made when it is done."""
    return re.sub(r"'(web-1|neu|container \d+)'|[0-9A-F:]{17}|/lxc/(100|\{vmid\})", "", repr(value))


def plans(run: Run) -> list[str]:
    """What is done to each container, without what a restore cannot know before."""
    return [unnamed(entry["plan"]) for entry in run.result["containers"]]


@pytest.fixture
def backup(cluster: Simulator) -> Backup:
    """Runs lxc_backup against a fresh cluster."""
    return Backup(cluster)


# ------------------------------------------------------------------------------------------------------- present


def test_a_backup_is_made_and_what_it_is_called_is_returned(backup: Backup) -> None:
    backup.add(status="running")
    run = backup.apply(**HERE)
    assert run.asked == [LIST, PENDING, DEFAULTS, PERMISSIONS, f"POST {DUMP}", polls(), LIST]
    assert run.writes == [("POST", DUMP, SENT)]
    [made] = backup.volumes()
    [entry] = run.result["containers"]
    assert (entry["volume"], entry["backups"][0]["notes"], len(entry["tasks"])) == (made, "lxcri: web-1", 1)
    assert [change["after"] for change in entry["plan"]] == ["local (snapshot, zstd)"]
    backup.apply(**HERE)
    assert len(backup.volumes()) == 2


def test_every_option_of_a_backup_reaches_proxmox(backup: Backup) -> None:
    backup.add(status="running", config={"tags": "x"})
    run = backup.apply(
        **HERE,
        mode="stop",
        compress="none",
        prefix="upgrade",
        notes="of {{vmid}} on {{node}}\nC:\\data",
        protected=True,
        bwlimit=1024,
        notify=False,
    )
    assert run.writes == [
        (
            "POST",
            DUMP,
            {
                **SENT,
                "mode": "stop",
                "compress": "0",
                "notes-template": "upgrade: of {{vmid}} on {{node}}\\nC:\\\\data",
                "protected": "1",
                "bwlimit": "1024",
                "notification-mode": "legacy-sendmail",
                "mailto": "",
            },
        )
    ]
    [name] = backup.volumes()
    entry = backup.cluster.cluster.storages["local"]["volumes"][name.partition(":")[2]]
    assert (entry["notes"], entry["protected"]) == ("upgrade: of 201 on pve1\nC:\\data", 1)
    assert name.endswith(".tar")
    [made] = run.result["containers"][0]["backups"]
    assert (made["notes"], made["protected"]) == ("upgrade: of 201 on pve1", True)
    # It stops what runs.
    assert run.result["containers"][0]["plan"][0]["effect"] == "restart"


def test_a_recent_enough_backup_costs_one_request(backup: Backup) -> None:
    backup.add()
    [_old, made] = backup.store(2, 0.5)
    run = backup(**HERE, max_age="1d")
    assert (run.changed, run.asked) == (False, [LIST])
    assert run.result["containers"][0]["volume"] == made
    assert backup.converge(**HERE, max_age="11h").changed


@pytest.mark.parametrize(
    "entry", [{"notes": "nightly"}, {"notes": "lxcri2: x"}, {"notes": "x lxcri: y"}, {"size": 0}, {"notes": ""}]
)
def test_a_backup_of_somebody_else_or_an_empty_one_is_none(backup: Backup, entry: dict[str, t.Any]) -> None:
    backup.add()
    backup.store(0.1, **entry)
    assert backup.converge(**HERE, max_age="1d").changed


def test_the_protection_of_a_recent_backup_is_made_right(backup: Backup) -> None:
    backup.add()
    [made] = backup.store(0.5)
    path = f"/nodes/pve1/storage/local/content/{made}"
    run = backup.converge(**HERE, max_age="1d", protected=True)
    assert run.writes == [("PUT", path, {"protected": "1"})]
    run = backup.converge(**HERE, max_age="1d", protected=False)
    assert run.writes == [("PUT", path, {"protected": "0"})]
    run = backup.converge(volume=made, protected=True)
    assert run.writes == [("PUT", path, {"protected": "1"})]
    assert run.asked == [RESOURCES, LIST, PERMISSIONS, f"PUT {path}", LIST]


def test_many_containers_are_backed_up_one_after_the_other_on_each_node(backup: Backup) -> None:
    for vmid in range(201, 207):
        backup.add(vmid, node="pve1" if vmid < 205 else "pve2")
    run = backup.apply(hostname=[f"web-{n}" for n in range(1, 7)], storage="local")
    assert [entry["hostname"] for entry in run.result["containers"]] == [f"web-{n}" for n in range(1, 7)]
    assert len(run.writes) == 6
    # No backup waits in a task for the lock of the node, and the nodes work at the same time.
    assert [task for task in backup.cluster.cluster.tasklog if "waiting..." in str(task["log"])] == []
    posts = [request for request in run.requests if request.method == "POST"]
    assert {request.path for request in posts[:2]} == {DUMP, "/nodes/pve2/vzdump"}
    defaults = [line for line in run.asked if line.endswith("/defaults")]
    assert sorted(defaults) == ["GET /nodes/pve1/vzdump/defaults", "GET /nodes/pve2/vzdump/defaults"]


def test_a_container_that_fails_does_not_stop_the_others(backup: Backup) -> None:
    backup.add(201)
    backup.add(202, config={"lock": "migrate"})
    backup.cluster.call(lambda cluster: setattr(cluster.ct(202), "lock", "migrate"))
    run = backup(vmid=[201, 202, 299], storage="local")
    assert (run.code, run.details["containers"]) == ("containers_failed", ["web-2", "container 299"])
    codes = [entry.get("failure", {}).get("code") for entry in run.result["containers"]]
    assert codes == [None, "locked", "not_found"]
    assert len(backup.volumes()) == 1


def test_a_backup_that_fails_has_the_reason_and_the_log(backup: Backup) -> None:
    backup.add()
    backup.store(3, 2)

    def lock(cluster: Cluster, _request: t.Any) -> None:
        cluster.ct(201).lock = "snapshot"

    on_request(backup.cluster, "POST", "/vzdump", lock)
    run = backup(**HERE, keep={"last": 1})
    assert (run.code, run.details["lock"]) == ("locked", "snapshot")
    assert any("Backup of VM 201 failed" in line for line in run.details["log"])
    # What was to go after the backup stays.
    assert len(backup.volumes()) == 2


def test_a_container_that_leaves_the_node_before_its_backup(backup: Backup) -> None:
    """vzdump answers OK, without a task."""
    backup.add()
    [_old] = backup.store(3)
    on_request(backup.cluster, "POST", "/vzdump", lambda cluster, _: setattr(cluster.ct(201), "node", "pve2"))
    run = backup(**HERE)
    assert (run.code, run.details["vmid"], len(backup.volumes())) == ("not_found", 201, 1)
    assert run.result["containers"][0]["volume"] is None


def test_a_backup_without_the_notes_that_say_whose_it_is(backup: Backup) -> None:
    """vzdump only warns in its log when the storage takes no notes."""
    backup.add()
    [old] = backup.store(3)
    backup.cluster.call(lambda cluster: setattr(cluster, "_notes", lambda _v, _ct: ""))
    run = backup(**HERE)
    [made] = set(backup.volumes()) - {old}
    assert (run.code, run.details["volume"]) == ("notes_missing", made)


def test_a_full_storage(backup: Backup) -> None:
    backup.add()
    backup.cluster.call("set_storage", "local", avail=10)
    run = backup(**HERE)
    assert run.code == "storage_full"
    assert backup.volumes() == []


def test_mount_points_that_are_not_in_a_backup_are_named(backup: Backup) -> None:
    volumes = {f"mp{n}": f"local-zfs:subvol-201-disk-{n + 1},mp=/m{n},size=1G" for n in range(2)}
    backup.add(config={**volumes, "mp1": volumes["mp1"] + ",backup=1", "mp2": "/srv/x,mp=/x"})
    run = backup.check(**HERE)
    assert run.result["containers"][0]["notes"] == ["Not in the backup: mp0 (/m0), mp2 (/x)."]


def test_a_container_that_is_elsewhere_is_found(backup: Backup) -> None:
    backup.add(node="pve2")
    run = backup.apply(**HERE)
    assert run.writes == [("POST", "/nodes/pve2/vzdump", SENT)]


def test_what_the_ha_manager_keeps_running_is_not_stopped(backup: Backup) -> None:
    ct = backup.add(status="running")
    ct.ha_state = "started"
    run = backup.refused("ha_managed", **HERE, mode="stop")
    assert "mode=snapshot" in run.result["msg"]
    backup.apply(**HERE)
    # It came under HA between the look and the request.
    ct.ha_state = None
    on_request(backup.cluster, "POST", "/vzdump", lambda cluster, _: setattr(cluster.ct(201), "ha_state", "started"))
    assert backup(**HERE, mode="stop").code == "ha_managed"


@pytest.mark.parametrize(("limit", "there"), [(2, 2), (0, 1)])
def test_the_number_of_protected_backups_is_limited_by_the_storage(backup: Backup, limit: int, there: int) -> None:
    backup.add()
    names = backup.store(*range(1, there + 1), protected=1)
    backup.cluster.call("set_storage", "local", **{"max-protected-backups": limit})
    run = backup.refused("backup_limit", **HERE, protected=True)
    assert (run.details["limit"], run.details["backups"]) == (limit, names)
    backup.apply(**HERE)
    backup.cluster.call("set_storage", "local", **{"max-protected-backups": there + 1})
    backup.apply(**HERE, protected=True)


def test_the_number_of_protected_backups_that_may_not_be_looked_up(backup: Backup) -> None:
    backup.add()
    backup.store(*range(1, 6), protected=1)
    acl = {"/vms/201": ["VM.Audit", "VM.Backup"], "/storage/local": ["Datastore.Audit", "Datastore.AllocateSpace"]}
    backup.cluster.call("add_user", "ci@pve", "secret", acl)
    secret = backup.cluster.call("add_token", "ci@pve!t")
    backup.options.update(api_user="ci@pve", api_token_id="t", api_token_secret=secret)
    run = backup(**HERE, protected=True)
    assert (run.code, run.details["limit"]) == ("backup_limit", "5")
    assert len(backup.volumes()) == 5


# ------------------------------------------------------------------------------------------------------- retention


def test_retention_removes_own_unprotected_backups_of_the_container_only(backup: Backup) -> None:
    backup.add(201)
    backup.add(202)
    mine = backup.store(5, 4, 3, 2)
    others = [
        *backup.store(9, notes="nightly"),
        *backup.store(9, vmid=202),
        *backup.store(9, protected=1),
        *backup.store(8, notes="lxcri-other: x"),
    ]
    run = backup.apply(**HERE, keep={"last": 2})
    gone = [("DELETE", f"/nodes/pve1/storage/local/content/{volume}", {}) for volume in mine[:3]]
    assert run.writes == [("POST", DUMP, SENT), *gone]
    left = backup.volumes()
    assert set(others) < set(left)
    assert len(left) == len(others) + 2
    # The same, without a new one.
    run = backup.converge(**HERE, keep={"last": 1}, state="absent")
    assert run.writes == [("DELETE", f"/nodes/pve1/storage/local/content/{mine[3]}", {})]


def test_what_somebody_has_renamed_was_set_aside(backup: Backup) -> None:
    """Proxmox does not prune it, and lists the moment of the renaming as that of the backup."""
    backup.add()
    [old] = backup.store(9)

    def rename(cluster: Cluster) -> None:
        NODE.set("pve1")
        volumes = cluster.storages["local"]["volumes"]
        entry = volumes.pop(old.partition(":")[2])
        volumes["backup/vzdump-lxc-201-golden.tar.zst"] = {**entry, "ctime": int(time.time())}

    backup.cluster.call(rename)
    assert backup.apply(**HERE, max_age="1d", keep={"last": 1}).changed
    backup.apply(**HERE, keep={"last": 1})
    left = backup.volumes()
    assert (len(left), "local:backup/vzdump-lxc-201-golden.tar.zst" in left) == (2, True)


def test_the_retention_of_the_storage_is_never_applied(backup: Backup) -> None:
    backup.add()
    foreign = backup.store(3, 2, notes="nightly")
    backup.cluster.call("set_storage", "local", **{"prune-backups": "keep-last=3"})
    backup.apply(**HERE)
    assert set(foreign) < set(backup.volumes())
    run = backup.refused("backup_limit", **HERE)
    assert (run.details["limit"], len(run.details["backups"])) == (3, 3)
    # What is protected does not count.
    backup.apply(**HERE, protected=True)


def test_backups_of_an_age_are_removed(backup: Backup) -> None:
    backup.add()
    old = backup.store(40, 31)
    backup.store(29, 1)
    held = backup.store(50, protected=1)
    run = backup.converge(**HERE, max_age="30d", state="absent")
    assert run.writes == [("DELETE", f"/nodes/pve1/storage/local/content/{volume}", {}) for volume in old]
    assert run.result["containers"][0]["notes"] == [f"Protected backups stay: {held[0]}."]
    assert run.result["containers"][0]["backups"][-1]["volume"] == held[0]


def test_named_backups_are_removed_whosever_they_are(backup: Backup) -> None:
    backup.add(201)
    names = backup.store(3, 2, notes="nightly") + backup.store(1, vmid=333, config={"rootfs": "local-zfs:x,size=1G"})
    run = backup.converge(volume=names, state="absent")
    assert sorted(path for _method, path, _params in run.writes) == sorted(
        f"/nodes/pve1/storage/local/content/{volume}" for volume in names
    )
    # Of the container that is gone the storages of all nodes were looked at.
    assert "GET /nodes/pve3/storage/local/content" in run.asked
    assert backup.volumes() == []


def test_a_protected_backup_is_not_removed(backup: Backup) -> None:
    backup.add()
    [name] = backup.store(1, protected=1)
    run = backup.refused("protected", volume=name, state="absent")
    assert run.details["volumes"] == [name]
    backup.converge(volume=name, protected=False)
    backup.converge(volume=name, state="absent")
    assert backup.volumes() == []


def test_a_backup_that_is_protected_meanwhile_stays(backup: Backup) -> None:
    backup.add()
    [name] = backup.store(1)

    def protect(cluster: Cluster, _request: t.Any) -> None:
        cluster.storages["local"]["volumes"][name.partition(":")[2]]["protected"] = True

    on_request(backup.cluster, "DELETE", ".tar.zst", protect)
    run = backup(volume=name, state="absent")
    assert run.code == "protected"
    assert backup.volumes() == [name]


# ------------------------------------------------------------------------------------------------------- restored


def test_a_container_that_is_gone_comes_back(backup: Backup) -> None:
    ct = backup.add(status="running", config={"memory": 640, "net0": "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:02:01"})
    [_old, name] = backup.store(2, 1)
    backup.cluster.call(lambda cluster: (cluster._destroy_volumes(ct), cluster._drop(ct)))
    options = {"vmid": 201, "storage": "local", "state": "restored", "restore": {"start": True}}
    run = backup.apply(**options)
    assert run.writes[0] == (
        "POST",
        "/nodes/pve1/lxc",
        {"ostemplate": name, "restore": "1", "storage": "local-zfs", "vmid": "201"},
    )
    assert run.writes[1:] == [("POST", f"{base()}/status/start", {})]
    entry = run.result["containers"][0]
    assert (entry["hostname"], entry["vmid"], entry["volume"]) == ("web-1", 201, name)
    assert (backup.ct().config["memory"], backup.ct().status) == (640, "running")
    assert backup.ct().config["net0"].count("BC:24:11:00:02:01") == 1


def test_restoring_over_a_container_is_refused_with_what_would_be_lost(backup: Backup) -> None:
    ct = backup.add(config={"mp0": "local-zfs:subvol-201-disk-1,mp=/data,size=1G,backup=1"})
    ct.snapshots["before"] = {"snaptime": 1, **ct.config}
    [name] = backup.store(1)
    run = backup.refused("would_lose_data", volume=name, state="restored")
    assert sorted(run.details["volumes"]) == ["local-zfs:subvol-201-disk-0", "local-zfs:subvol-201-disk-1"]
    assert run.details["snapshots"] == ["before"]
    run = backup.refused("would_lose_data", volume=name, state="restored", restore={"vmid": 201})


def test_with_force_it_is_overwritten_and_runs_again(backup: Backup) -> None:
    ct = backup.add(status="running", config={"memory": 512})
    ct.snapshots["before"] = {"snaptime": 1, **ct.config}
    [name] = backup.store(1)
    ct.config["memory"] = 2048
    run = backup.apply(volume=name, state="restored", restore={"force": True}, bwlimit=100)
    assert [write[:2] for write in run.writes] == [
        ("POST", f"{base()}/status/stop"),
        ("POST", "/nodes/pve1/lxc"),
        ("POST", f"{base()}/status/start"),
    ]
    sent = run.writes[1][2]
    assert sent == {
        "ostemplate": name,
        "restore": "1",
        "force": "1",
        "storage": "local-zfs",
        "vmid": "201",
        "bwlimit": "100",
    }
    assert (backup.ct().config["memory"], backup.ct().status) == (512, "running")
    entry = run.result["containers"][0]
    assert entry["notes"] == ["The snapshots before of the old volumes go with them."]
    assert ("rootfs", None) in [(change["key"], change["after"]) for change in entry["plan"]]


def test_volumes_that_are_not_in_the_backup_need_to_be_named_to_be_destroyed(backup: Backup) -> None:
    """Proxmox would bring mp0 back empty."""
    backup.add(
        config={
            "mp0": "local-zfs:subvol-201-disk-1,mp=/media,size=9G",
            "mp1": "local-zfs:subvol-201-disk-2,mp=/data,size=1G,backup=1",
            "unused0": "local-zfs:subvol-201-disk-3",
        }
    )
    [name] = backup.store(1)
    options = {"volume": name, "state": "restored"}
    run = backup.refused("would_lose_data", **options, restore={"force": True})
    assert run.details["keys"] == ["mp0", "unused0"]
    run = backup.refused("would_lose_data", **options, restore={"force": True, "discard": ["mp0"]})
    assert run.details["keys"] == ["unused0"]
    backup.apply(**options, restore={"force": True, "discard": ["mp0", "unused0"]})


def test_a_backup_becomes_another_container_beside_the_first(backup: Backup) -> None:
    backup.add(status="running", config={"net0": "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:02:01"})
    [name] = backup.store(1)
    restore = {"vmid": 305, "storage": "tank", "pool": "prod"}
    run = backup.apply(volume=name, state="restored", restore=restore)
    assert run.writes == [
        (
            "POST",
            "/nodes/pve1/lxc",
            {"ostemplate": name, "restore": "1", "unique": "1", "storage": "tank", "pool": "prod", "vmid": "305"},
        )
    ]
    made = backup.ct(305)
    assert made.config["rootfs"].startswith("tank:")
    assert "BC:24:11:00:02:01" not in made.config["net0"]
    assert backup.ct(201).status == "running"
    backup.refused("would_lose_data", volume=name, state="restored", restore=restore)
    run = backup.apply(volume=name, state="restored", restore={"hostname": "neu"})
    entry = run.result["containers"][0]
    assert (entry["hostname"], backup.ct(entry["vmid"]).config["hostname"]) == ("neu", "neu")
    backup.refused("would_lose_data", volume=name, state="restored", restore={"hostname": "neu"})


def test_a_storage_that_fills_during_a_restore_leaves_nothing_unnamed(backup: Backup) -> None:
    backup.add()
    [name] = backup.store(1)
    backup.cluster.call("set_storage", "tank", avail=10)
    run = backup(volume=name, state="restored", restore={"vmid": 305, "storage": "tank"})
    assert (run.code, run.details["exists"], run.details["orphans"]) == ("storage_full", False, [])
    assert "No container was left behind." in run.result["msg"]
    assert run.details["volume"] == name
    assert any("No space left" in line for line in run.details["log"])
    assert backup.ct(305) is None
    # Over a container that is there it takes the container with it, and says so.
    backup.cluster.call("set_storage", "local-zfs", avail=10)
    run = backup(volume=name, state="restored", restore={"force": True})
    assert run.code == "storage_full"
    assert "web-1 (201) does not exist any more." in run.result["msg"]
    assert backup.volumes() == [name]


def test_volumes_that_a_failed_restore_has_left_are_named(backup: Backup) -> None:
    backup.add()
    [name] = backup.store(1)

    def leave(cluster: Cluster, _request: t.Any) -> None:
        # As when Proxmox cannot make the new volumes: the configuration goes, the old volumes stay.
        cluster.storages["local-zfs"]["volumes"]["subvol-201-disk-7"] = {
            "content": "rootdir",
            "format": "subvol",
            "size": 1,
            "vmid": 201,
        }

    backup.cluster.call("set_storage", "local-zfs", avail=10)
    # The first is that of the request, the others are reads after the failure.
    on_request(backup.cluster, "GET", "/storage/local-zfs/content", leave)
    run = backup(volume=name, state="restored", restore={"force": True})
    assert run.details["orphans"] == ["local-zfs:subvol-201-disk-7"]
    assert "Volumes without a container: local-zfs:subvol-201-disk-7." in run.result["msg"]


def test_a_restore_that_is_refused_leaves_the_container_and_says_that_it_is_stopped(backup: Backup) -> None:
    backup.add(status="running")
    [name] = backup.store(1)

    def remove(cluster: Cluster, _request: t.Any) -> None:
        del cluster.storages["local"]["volumes"][name.partition(":")[2]]

    on_request(backup.cluster, "POST", "/nodes/pve1/lxc", remove)
    run = backup(volume=name, state="restored", restore={"force": True})
    assert (run.code, run.details["exists"], run.details["orphans"]) == ("volume_missing", True, [])
    assert "web-1 (201) is as it was, but stopped." in run.result["msg"]
    assert backup.ct().status == "stopped"


def test_a_storage_that_fills_under_a_container_with_any_id(backup: Backup) -> None:
    backup.add()
    [name] = backup.store(1)
    backup.cluster.call("set_storage", "tank", avail=10)
    run = backup(volume=name, state="restored", restore={"hostname": "neu", "storage": "tank"})
    assert (run.code, run.details["exists"], run.details["orphans"]) == ("storage_full", False, [])
    assert "No container was left behind." in run.result["msg"]


def test_what_a_restore_takes_is_said_beforehand(backup: Backup) -> None:
    """Proxmox looks into the backup in its task, after a running container has been stopped."""
    ct = backup.add(status="running", config={"unprivileged": 1, "net0": "name=eth0,bridge=vmbr0"})
    config = {"rootfs": "local-zfs:subvol-201-disk-0,size=4G", "net0": "name=eth0,bridge=vmbr1", "hostname": "web-1"}
    config["mp0"] = "/srv/data,mp=/data"
    [name] = backup.store(1, config=config)
    acl = {
        "/vms/201": ["VM.Audit", "VM.Backup", "VM.PowerMgmt"],
        "/vms/305": ["VM.Audit", "VM.Backup"],
        "/storage/local": ["Datastore.Audit", "Datastore.AllocateSpace"],
        "/storage/local-zfs": ["Datastore.AllocateSpace"],
    }
    backup.cluster.call("add_user", "ci@pve", "secret", acl)
    secret = backup.cluster.call("add_token", "ci@pve!t")
    backup.options.update(api_user="ci@pve", api_token_id="t", api_token_secret=secret)
    run = backup.refused("permission_denied", volume=name, state="restored", restore={"force": True})
    wanted = [("/sdn/zones/localnetwork/vmbr1", "SDN.Use"), (None, None), ("/", "Sys.Modify")]
    assert [(entry["path"], entry["privilege"]) for entry in run.details["missing"]] == wanted
    run = backup.refused("permission_denied", volume=name, state="restored", restore={"vmid": 305})
    assert ("/vms/305", "VM.Allocate") in [(entry["path"], entry["privilege"]) for entry in run.details["missing"]]
    assert ct.status == "running"
    # Who may back a container up may restore it.
    [name] = backup.store(0.5, config={**config, "mp0": "local-zfs:x,mp=/data", "unprivileged": 1})
    backup.cluster.call("grant", "ci@pve", "/sdn/zones/localnetwork/vmbr1", "SDN.Use")
    backup.apply(volume=name, state="restored", restore={"force": True})


def test_a_restore_where_the_archive_is_not_to_be_had(backup: Backup) -> None:
    backup.add(node="pve2")
    [name] = backup.store(1, vmid=202, config={"rootfs": "local-zfs:x,size=1G"})
    options = {"volume": name, "node": "pve1", "state": "restored"}
    run = backup.refused("backup_missing", **options, restore={"vmid": 201, "force": True})
    assert run.details["node"] == "pve2"


# ------------------------------------------------------------------------------------------------------- verified


def test_a_right_backup_is_verified_with_reads_alone(backup: Backup) -> None:
    backup.add()
    [_old, name] = backup.store(2, 1)
    run = backup.check(vmid=201, node="pve1", storage="local", state="verified", max_age="2d")
    assert run.asked == [LIST, CONFIG]
    [right] = run.result["containers"][0]["verified"]
    assert (right["volume"], right["hostname"], right["verification"]) == (name, "web-1", None)
    assert backup(vmid=201, storage="local", state="verified").changed is False


@pytest.mark.parametrize(
    ("entry", "options", "code"),
    [
        ({"size": 0}, {}, "backup_damaged"),
        ({"damaged": True}, {}, "backup_damaged"),
        ({"config": {"hostname": "x"}}, {}, "backup_damaged"),
        ({}, {"max_age": "20h"}, "backup_too_old"),
        ({}, {"prefix": "nightly"}, "backup_missing"),
        ({"vmid": 202}, {}, "backup_missing"),
    ],
)
def test_a_backup_of_no_use_is_told(
    backup: Backup, entry: dict[str, t.Any], options: dict[str, t.Any], code: str
) -> None:
    backup.add(201)
    backup.add(202)
    backup.store(1, **entry)
    backup.refused(code, vmid=201, storage="local", state="verified", **options)


def test_what_a_backup_server_found_counts(backup: Backup) -> None:
    backup.add()

    def server(cluster: Cluster) -> None:
        cluster.storages["pbs"] = {"type": "pbs", "content": "backup", "active": 1, "files": set(), "shared": 1}

    backup.cluster.call(server)
    [name] = backup.store(1, storage="pbs", verification={"state": "ok"}, encrypted="1")
    options = {"vmid": 201, "storage": "pbs", "state": "verified"}
    [right] = backup(**options).result["containers"][0]["verified"]
    assert (right["volume"], right["verification"], right["encrypted"]) == (name, "ok", True)
    backup.store(0.5, storage="pbs", verification={"state": "failed"})
    run = backup.refused("backup_damaged", **options)
    assert "backup server" in run.result["msg"]
    backup.refused("not_downloadable", volume=name, state="downloaded", dest="/tmp")


# ------------------------------------------------------------------------------------------------------ downloaded


@pytest.fixture
def archive(backup: Backup, tmp_path: Path) -> tuple[str, Path]:
    """A backup whose archive is a real file; the storage's directory is in this machine."""
    backup.add()
    backup.cluster.call("set_storage", "local", path=str(tmp_path / "storage"))
    # No whole number of sectors, in which the API tells the size of a single file.
    [name] = backup.store(1, size=4_000_001)
    file = tmp_path / "storage/dump" / name.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    file.write_bytes(b"0123456789abcdef" * 250_000 + b"x")
    return name, file


def test_an_archive_is_copied_where_its_storage_is(backup: Backup, archive: tuple[str, Path], tmp_path: Path) -> None:
    name, file = archive
    dest = tmp_path / "copies"
    dest.mkdir()
    run = backup.converge(volume=name, state="downloaded", dest=str(dest))
    assert run.asked == [RESOURCES, LIST, f"GET /nodes/pve1/storage/local/content/{name}"]
    [copy] = run.result["containers"][0]["files"]
    assert (copy["path"], copy["size"]) == (str(dest / file.name), 4_000_001)
    assert (dest / file.name).read_bytes() == file.read_bytes()
    assert [path.name for path in dest.iterdir()] == [file.name]
    run = backup.converge(vmid=201, storage="local", state="downloaded", dest=str(tmp_path / "web-1.tar.zst"))
    assert run.changed


def test_what_cannot_be_copied_is_said_beforehand(backup: Backup, archive: tuple[str, Path], tmp_path: Path) -> None:
    name, file = archive
    backup.refused("dest_missing", volume=name, state="downloaded", dest=str(tmp_path / "none/copy"))
    file.unlink()
    run = backup.refused("not_downloadable", volume=name, state="downloaded", dest=str(tmp_path))
    assert "Delegate the task to the node" in run.result["msg"]


# ---------------------------------------------------------------------------------------------- what is refused


def test_missing_privileges_are_all_named_before_anything_is_sent(backup: Backup) -> None:
    backup.add()
    names = backup.store(9, 8)
    acl = {"/vms/201": ["VM.Audit", "VM.Backup"], "/storage/local": ["Datastore.Audit"]}
    backup.cluster.call("add_user", "ci@pve", "secret", acl)
    secret = backup.cluster.call("add_token", "ci@pve!t")
    backup.options.update(api_user="ci@pve", api_token_id="t", api_token_secret=secret)
    run = backup.refused("permission_denied", **HERE, bwlimit=1)
    wanted = {("/storage/local", "Datastore.AllocateSpace"), ("/", "Sys.Modify")}
    assert {(entry["path"], entry["privilege"]) for entry in run.details["missing"]} == wanted
    backup.cluster.call("grant", "ci@pve", "/storage/local", "Datastore.Audit", "Datastore.AllocateSpace")
    backup.apply(**HERE)
    backup.converge(volume=names[0], protected=True)
    backup.converge(volume=names[1], state="absent")


def test_who_may_not_see_a_backup_is_told_what_it_takes(backup: Backup) -> None:
    backup.add()
    backup.store(1)
    acl = {"/vms/201": ["VM.Audit"], "/storage/local": ["Datastore.Audit"]}
    backup.cluster.call("add_user", "ci@pve", "secret", acl)
    secret = backup.cluster.call("add_token", "ci@pve!t")
    backup.options.update(api_user="ci@pve", api_token_id="t", api_token_secret=secret)
    run = backup.refused("backup_missing", vmid=201, storage="local", state="verified")
    assert "VM.Backup" in run.result["msg"]


def test_storages_that_take_no_backups(backup: Backup) -> None:
    backup.add()
    backup.refused("storage_unsuitable", vmid=201, storage="tank")
    backup.refused("storage_missing", vmid=201, storage="none")
    backup.refused("storage_missing", volume="none:backup/vzdump-lxc-333-2026_01_31-02_00_00.tar.zst", state="verified")
    backup.refused("backup_missing", volume="local:backup/vzdump-lxc-201-2026_01_31-02_00_00.tar.zst", state="verified")
    backup.refused("not_found", vmid=299, storage="local")


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"storage": "local"}, "vmid"),
        ({"vmid": 201}, "storage"),
        ({"vmid": 201, "storage": ""}, "storage"),
        ({"vmid": [201, 202], "node": "pve1", "storage": "local"}, "node"),
        ({**HERE, "concurrency": 0}, "concurrency"),
        ({**HERE, "volume": "local:backup/vzdump-lxc-201-x.tar"}, "volume"),
        ({"volume": "local:vztmpl/debian.tar.zst", "state": "absent"}, "volume"),
        ({"volume": "local:backup/vzdump-qemu-201-2026_01_31-02_00_00.vma.zst", "state": "absent"}, "volume"),
        ({"volume": ["a:backup/vzdump-lxc-201-x.tar", "b:backup/vzdump-lxc-201-x.tar"], "state": "absent"}, "volume"),
        ({"volume": "a:backup/vzdump-lxc-201-x.tar", "storage": "b", "state": "absent"}, "volume"),
        ({"volume": "a:backup/vzdump-lxc-201-x.tar"}, "protected"),
        ({"volume": "a:backup/vzdump-lxc-201-x.tar", "state": "absent", "concurrency": 0}, "concurrency"),
        ({**HERE, "prefix": ""}, "prefix"),
        ({**HERE, "prefix": "a b"}, "prefix"),
        ({**HERE, "prefix": "a" * 41}, "prefix"),
        ({**HERE, "notes": "{{hostname}}"}, "notes"),
        ({**HERE, "notes": "x" * 1024}, "notes"),
        ({**HERE, "state": "verified", "notes": "x"}, "notes"),
        ({**HERE, "bwlimit": -1}, "bwlimit"),
        ({**HERE, "max_age": "soon"}, "max_age"),
        ({**HERE, "keep": {"last": -1}}, "keep.last"),
        ({**HERE, "keep": {}}, "keep"),
        ({**HERE, "keep": {"last": 1}, "keep_timezone": "Mars"}, "keep_timezone"),
        ({**HERE, "state": "absent"}, "volume"),
        ({**HERE, "state": "absent", "protected": True, "max_age": "1d"}, "protected"),
        ({**HERE, "state": "restored", "keep": {"last": 1}}, "keep"),
        ({**HERE, "state": "restored", "restore": {"vmid": 1, "hostname": "x"}}, "restore.hostname"),
        ({"vmid": [201, 202], "storage": "local", "state": "restored", "restore": {"vmid": 300}}, "restore"),
        ({**HERE, "restore": {"vmid": 300}}, "restore"),
        ({**HERE, "state": "downloaded"}, "dest"),
        ({**HERE, "dest": "/tmp"}, "dest"),
    ],
)
def test_what_cannot_be_meant_is_refused_without_a_request(
    backup: Backup, options: dict[str, t.Any], option: str
) -> None:
    run = backup(**options)
    assert (run.code, run.details["option"], run.requests) == ("invalid_option", option, [])
