# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints on real ZFS: taking, keeping, holding, removing, and all that stands against it."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.tests.lab.machine import Machine
from ansible_collections.lxcri.proxmox.tests.lab.support import (
    attempt,
    calls,
    checkpoint,
    moves,
    number,
    refused,
    running,
    snapshots,
    state,
    watch,
)

ROOT, DATA, SRV = "rpool/data/subvol-101-disk-0", "rpool/data/subvol-101-disk-1", "tank/ct/subvol-101-disk-0"
VOLUMES = (ROOT, DATA, SRV)


def only(result):
    """The result of the only container."""
    (entry,) = result["containers"]
    return entry


def test_check_mode_predicts_and_a_second_run_does_nothing(machine: Machine) -> None:
    """What check mode says is what happens; then nothing is left to do."""
    before = state(machine)
    predicted = checkpoint(machine, vmids=["101", "102"], name="one", check_mode=True, diff=True)
    assert state(machine) == before
    done = checkpoint(machine, vmids=["101", "102"], name="one", diff=True)
    assert done["changed"]
    assert predicted["changed"]
    assert predicted["diff"] == done["diff"]
    assert [entry["plan"] for entry in predicted["containers"]] == [entry["plan"] for entry in done["containers"]]
    assert set(snapshots(machine)) == {f"{name}@one" for name in (*VOLUMES, "rpool/data/subvol-102-disk-0")}
    assert all(entry["checkpoint"]["complete"] for entry in done["containers"])
    again = checkpoint(machine, vmids=["101", "102"], name="one")
    assert not again["changed"]
    assert again["containers"][0]["checkpoint"]["id"] == done["containers"][0]["checkpoint"]["id"]
    # The volumes of 101 are on two pools, and whoever reads of the checkpoint later is told so.
    for result in (predicted, done, again):
        told = [" ".join(entry["reasons"]) for entry in result["containers"]]
        assert ["only freezing" in text for text in told] == [True, False]


def test_volumes_of_one_pool_are_of_one_moment(machine: Machine) -> None:
    """The writer writes one number to its volumes in turn; in a checkpoint they differ by one at most."""
    env = watch(machine, "zfs", "sync", "lxc-freeze", "lxc-unfreeze")
    for name in ("a", "b", "c"):
        checkpoint(machine, vmids=["101"], name=name, env=env)
        root, data, srv = (number(machine, f"/{dataset}/.zfs/snapshot/{name}/seq") for dataset in (ROOT, DATA, SRV))
        assert 0 <= data - root <= 1
        # Another pool: it is the freezing that makes this true.
        assert 0 <= root - srv <= 1
        assert running(machine, "101")
    done = calls(machine, "zfs snapshot", "sync", "lxc-")
    assert [line.split(" -o ")[0] for line in done[-5:]] == [
        "lxc-freeze -n 101",
        f"sync --file-system /{ROOT} /{DATA} /{SRV}",
        "zfs snapshot",
        "zfs snapshot",
        "lxc-unfreeze -n 101",
    ]
    # So it is when the volumes are back.
    assert moves(machine, f"/{DATA}/seq")
    machine.run(["pct", "stop", "101"])
    later = number(machine, f"/{DATA}/seq")
    checkpoint(machine, vmids=["101"], state="restored")
    root, data, srv = (number(machine, f"/{dataset}/seq") for dataset in VOLUMES)
    assert 0 <= data - root <= 1
    assert 0 <= root - srv <= 1
    assert data < later


def test_what_a_checkpoint_keeps_beside_the_volumes(machine: Machine) -> None:
    """Configuration and firewall rules, for root alone; the quota and the members as properties."""
    checkpoint(machine, vmids=["101"], name="one")
    files = "/var/lib/lxcri/checkpoints/101/one"
    assert machine.read(f"{files}/config") == machine.read("/etc/pve/lxc/101.conf")
    assert machine.read(f"{files}/firewall") == machine.read("/etc/pve/firewall/101.fw")
    assert machine.run(f"stat -c %a {files} {files}/*").stdout.split() == ["700", "600", "600", "600"]
    members = machine.run(["zfs", "get", "-H", "-o", "value", "lxcri:members", f"{ROOT}@one"]).stdout
    assert f'["{ROOT}",1073741824]' in members
    assert machine.run("sha256sum /etc/pve/lxc/101.conf").stdout.split()[0] in members


@pytest.mark.parametrize(
    "step",
    [
        "frozen",
        "snapshot:rpool",
        "thawed",
        "complete",
        *(pytest.param(step, marks=pytest.mark.slow) for step in ("cleaned", "synced", "snapshot:tank", "stored")),
    ],
)
def test_killed_at(machine: Machine, step: str) -> None:
    """Whenever it is killed: the container runs on, nothing incomplete is offered, and a new run gets there."""
    result = attempt(machine, vmids=["101"], name="one", env={"LAB_KILL_AT": f"present:{step}"})
    assert result.get("killed") == 9, result
    assert running(machine, "101")
    assert moves(machine, f"/{DATA}/seq")
    assert machine.run("ls /run/lxcri/frozen", check=False).stdout == ""
    there = checkpoint(machine, vmids=["101"], name="one", check_mode=True)
    assert there["changed"] == (step != "complete")
    checkpoint(machine, vmids=["101"], name="one")
    assert set(snapshots(machine)) == {f"{name}@one" for name in VOLUMES}
    again = checkpoint(machine, vmids=["101"], name="one")
    assert not again["changed"]
    assert only(again)["checkpoint"]["complete"]


@pytest.mark.slow
def test_killed_with_its_memory(machine: Machine) -> None:
    """Between the dump and the snapshots."""
    options = {"vmids": ["103"], "name": "one", "memory": True}
    assert attempt(machine, **options, env={"LAB_KILL_AT": "present:dumped"}).get("killed") == 9
    assert running(machine, "103")
    assert moves(machine, "/rpool/data/subvol-103-disk-0/count")
    assert snapshots(machine) == []
    assert only(checkpoint(machine, **options))["checkpoint"]["memory"]
    assert not checkpoint(machine, **options)["changed"]
    assert running(machine, "103")


def test_another_name_removes_what_an_interruption_left(machine: Machine) -> None:
    """What is not complete goes with the next checkpoint, whatever its name."""
    attempt(machine, vmids=["101"], name="one", env={"LAB_KILL_AT": "present:snapshot:rpool"})
    assert snapshots(machine)
    # As when the process that thaws is killed too.
    machine.run("lxc-freeze -n 101 && touch /run/lxcri/frozen/101")
    checkpoint(machine, vmids=["101"], name="two")
    assert set(snapshots(machine)) == {f"{name}@two" for name in VOLUMES}
    assert running(machine, "101")


@pytest.mark.parametrize("step", [pytest.param("unmarked", marks=pytest.mark.slow), "destroyed"])
def test_a_removal_killed_at(machine: Machine, step: str) -> None:
    """It is no checkpoint any more, and what is left of it goes with the next one."""
    checkpoint(machine, vmids=["101"], name="one")
    options = {"vmids": ["101"], "name": "one", "state": "absent", "env": {"LAB_KILL_AT": f"absent:{step}"}}
    assert attempt(machine, **options).get("killed") == 9
    assert len(snapshots(machine)) == len(VOLUMES) - (step == "destroyed")
    predicted = checkpoint(machine, vmids=["101"], name="two", check_mode=True)
    assert [change["before"] for change in only(predicted)["plan"]] == ["unfinished", None]
    checkpoint(machine, vmids=["101"], name="two")
    assert set(snapshots(machine)) == {f"{name}@two" for name in VOLUMES}
    assert machine.run("ls /var/lib/lxcri/checkpoints/101").stdout.split() == ["two"]


def test_many_containers_of_a_pool_are_one_snapshot_command(machine: Machine) -> None:
    """Twenty containers on one pool: one zfs snapshot, and few reads."""
    machine.run(
        "for id in $(seq 301 320); do zfs create -o refquota=100M rpool/data/subvol-$id-disk-0; "
        "printf 'arch: amd64\\nhostname: c%s\\nrootfs: local-zfs:subvol-%s-disk-0,size=100M\\n' $id $id "
        ">/etc/pve/lxc/$id.conf; done"
    )
    ids = [str(number) for number in range(301, 321)]
    result = checkpoint(machine, vmids=ids, name="all", env=watch(machine, "zfs"))
    assert len(result["containers"]) == 20
    (call,) = calls(machine, "zfs snapshot")
    assert call.count("@all") == 20
    assert len(calls(machine, "zfs list")) == 3
    assert len(calls(machine, "zfs set")) == 1


def test_locks_of_proxmox(machine: Machine) -> None:
    """A locked configuration and a lock file that somebody holds are both respected."""
    machine.run("sed -i '1i lock: backup' /etc/pve/lxc/102.conf")
    failure = refused(machine, "locked", vmids=["101", "102"], name="one")
    assert failure["details"] == {"container": "102", "lock": "backup"}
    machine.run("sed -i '/^lock:/d' /etc/pve/lxc/102.conf")
    machine.run("setsid flock /run/lock/lxc/pve-config-102.lock sleep 60 >/dev/null 2>&1 &")
    failure = refused(machine, "lock_timeout", vmids=["101", "102"], name="one")
    assert failure["details"]["container"] == "102"


def test_missing_volume_and_exported_pool(machine: Machine) -> None:
    """The dataset is named."""
    machine.run("sed -i 's/^mp1: .*/mp1: tank-zfs:subvol-101-disk-9,mp=\\/srv/' /etc/pve/lxc/101.conf")
    failure = refused(machine, "volume_missing", vmids=["101", "102"], name="one")
    assert failure["details"]["dataset"] == "tank/ct/subvol-101-disk-9"
    machine.run(
        "printf 'zfspool: gone\\n\\tpool gone/ct\\n' >>/etc/pve/storage.cfg; "
        "sed -i 's/^mp1: .*/mp1: gone:subvol-101-disk-0,mp=\\/srv/' /etc/pve/lxc/101.conf"
    )
    failure = refused(machine, "pool_unavailable", vmids=["101"], name="one")
    assert failure["details"]["pool"] == "gone"


def test_pool_full(machine: Machine) -> None:
    """Nothing of the checkpoint is left, on the pool that had room either."""
    machine.run(
        "truncate -s 80M /tmp/tiny && zpool create tiny /tmp/tiny && zfs create tiny/subvol-101-disk-2 && "
        "printf 'zfspool: tiny\\n\\tpool tiny\\n' >>/etc/pve/storage.cfg && "
        "echo 'mp2: tiny:subvol-101-disk-2,mp=/tiny' >>/etc/pve/lxc/101.conf && "
        "zfs create -o mountpoint=none tiny/replica"
    )
    checkpoint(machine, vmids=["101"], name="before")
    machine.run(
        "dd if=/dev/urandom of=/tiny/subvol-101-disk-2/fill bs=64k 2>/dev/null; sync; "
        "zfs set refreservation=$(zfs get -Hp -o value available tiny/subvol-101-disk-2) tiny || true"
    )
    failure = refused(machine, "pool_full", vmids=["101"], name="one")
    assert failure["details"]["dataset"] == "tiny/subvol-101-disk-2"
    assert running(machine, "101")
    # The safety checkpoint has no room.
    failure = refused(machine, "pool_full", vmids=["101"], state="restored")
    assert failure["details"]["dataset"] == "tiny/subvol-101-disk-2"
    assert running(machine, "101")
    assert moves(machine, f"/{DATA}/seq")
    assert "lock:" not in machine.read("/etc/pve/lxc/101.conf")
    checkpoint(machine, vmids=["102"], name="one")
    result = machine.module("zfs_replica", {"vmids": ["102"], "target": "tiny/replica"})
    assert result["failure"]["code"] == "pool_full", result
    assert "tiny/replica/" in str(result["failure"]["details"])
    assert snapshots(machine, "tiny/replica") == []
    assert running(machine, "102")


def test_a_name_that_is_taken(machine: Machine) -> None:
    """A snapshot of somebody else is neither taken for a checkpoint nor removed."""
    machine.run(["zfs", "snapshot", f"{SRV}@one"])
    refused(machine, "name_taken", vmids=["101"], name="one")
    assert snapshots(machine) == [f"{SRV}@one"]
    refused(machine, "invalid_option", vmids=["101"], name="-r")
    refused(machine, "container_missing", vmids=["999"])


def test_hold_and_release(machine: Machine) -> None:
    """What is held stays."""
    held = checkpoint(machine, vmids=["101"], name="one", hold="audit")
    assert held["changed"]
    assert not checkpoint(machine, vmids=["101"], name="one", hold="audit")["changed"]
    failure = refused(machine, "held", vmids=["101"], name="one", state="absent")
    assert failure["details"]["dataset"] == ROOT
    checkpoint(machine, vmids=["101"], name="two")
    kept = checkpoint(machine, vmids=["101"], prefix="o", keep={"last": 1}, state="absent")
    assert not kept["changed"]
    assert checkpoint(machine, vmids=["101"], name="one", release="audit", state="absent")["changed"]
    assert not checkpoint(machine, vmids=["101"], name="one", release="audit", state="absent")["changed"]
    assert set(snapshots(machine)) == {f"{name}@two" for name in VOLUMES}


def test_keep_spares(machine: Machine) -> None:
    """What is held or has clones stays and does not count, nor does what an interrupted run has left."""
    for name in ("auto-1", "auto-2", "auto-3", "auto-4"):
        checkpoint(machine, vmids=["102"], name=name)
    checkpoint(machine, vmids=["102"], name="auto-1", hold="audit")
    checkpoint(machine, vmids=["102"], name="auto-2", clone_to={"vmid": "202"})
    attempt(machine, vmids=["102"], name="auto-5", env={"LAB_KILL_AT": "present:stored"})
    options = {"vmids": ["102"], "state": "absent", "prefix": "auto-", "keep": {"last": 1}}
    done = only(checkpoint(machine, **options))
    assert [change["key"] for change in done["plan"]] == ["auto-3"]
    left = [name.split("@")[1] for name in snapshots(machine, "rpool/data/subvol-102-disk-0")]
    assert left == ["auto-1", "auto-2", "auto-4", "auto-5"]
    assert not checkpoint(machine, **options)["changed"]


def test_keep(machine: Machine) -> None:
    """Only our own of the prefix, never the newest; check mode lists what would go."""
    checkpoint(machine, vmids=["102"], name="auto-1")
    # Between two that go: a range of names would take it along.
    machine.run(["zfs", "snapshot", "rpool/data/subvol-102-disk-0@auto-foreign"])
    for name in ("auto-2", "auto-3", "mine"):
        checkpoint(machine, vmids=["102"], name=name)
    options = {"vmids": ["102"], "state": "absent", "prefix": "auto-", "keep": {"last": 1}}
    predicted = checkpoint(machine, **options, check_mode=True)
    assert [change["key"] for change in only(predicted)["plan"]] == ["auto-1", "auto-2"]
    assert checkpoint(machine, **options)["changed"]
    assert not checkpoint(machine, **options)["changed"]
    left = [name.split("@")[1] for name in snapshots(machine, "rpool/data/subvol-102-disk-0")]
    assert left == ["auto-foreign", "auto-3", "mine"]
    refused(machine, "invalid_option", vmids=["102"], state="absent", keep={"last": 1}, keep_timezone="Nowhere/Else")


@pytest.mark.parametrize(
    "options",
    [
        {"name": "auto-3", "keep": {"last": 1}},
        pytest.param({"state": "absent", "name": "auto-1"}, marks=pytest.mark.slow),
        pytest.param({"state": "absent", "name": "auto-2", "release": "audit"}, marks=pytest.mark.slow),
        pytest.param({"state": "absent", "keep": {"last": 1}}, marks=pytest.mark.slow),
        pytest.param({"name": "auto-3", "hold": "audit"}, marks=pytest.mark.slow),
        pytest.param({"name": "auto-1", "hold": "audit"}, marks=pytest.mark.slow),
    ],
)
def test_check_mode_of_several_steps(machine: Machine, options: dict[str, t.Any]) -> None:
    """Each step is predicted from what the steps before it would leave."""
    checkpoint(machine, vmids=["102"], name="auto-1")
    checkpoint(machine, vmids=["102"], name="auto-2", hold="audit")
    options = {"vmids": ["102"], "prefix": "auto-", **options}
    before = state(machine)
    predicted = checkpoint(machine, **options, check_mode=True)
    assert state(machine) == before
    assert only(predicted)["plan"] == only(checkpoint(machine, **options))["plan"]
    assert not checkpoint(machine, **options)["changed"]


def test_clone_to(machine: Machine) -> None:
    """A new container: other id, hostname and addresses; its volumes are clones; the source goes on."""
    machine.run("echo 'net0: name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,type=veth' >>/etc/pve/lxc/101.conf")
    checkpoint(machine, vmids=["101"], name="one")
    options = {"vmids": ["101"], "name": "one", "clone_to": {"vmid": "201", "hostname": "copy"}}
    before = state(machine)
    assert checkpoint(machine, **options, check_mode=True)["changed"]
    assert state(machine) == before
    assert checkpoint(machine, **options)["changed"]
    config = machine.read("/etc/pve/lxc/201.conf")
    assert "hostname: copy" in config
    assert "rootfs: local-zfs:subvol-201-disk-0," in config
    assert "mp1: tank-zfs:subvol-201-disk-0," in config
    assert "lock:" not in config
    assert "hwaddr=BC:24:11:" in config
    assert "BC:24:11:00:00:01" not in config
    acl = machine.run("zfs get -H -o value,source acltype rpool/data/subvol-201-disk-0").stdout.split()
    assert acl == ["posix", "local"]
    machine.run(["pct", "start", "201"])
    assert moves(machine, "/rpool/data/subvol-201-disk-1/seq")
    assert not checkpoint(machine, **options)["changed"]
    failure = refused(machine, "has_clones", vmids=["101"], name="one", state="absent")
    assert failure["details"]["clones"] == ["rpool/data/subvol-201-disk-0"]
    refused(machine, "container_exists", vmids=["101"], name="one", clone_to={"vmid": "102"})
    # It is known also when a restore has put other volumes in the places of its own.
    checkpoint(machine, vmids=["201"], name="later")
    assert checkpoint(machine, vmids=["201"], state="restored")["changed"]
    assert not checkpoint(machine, **options)["changed"]
    # What has its id afterwards is another one.
    machine.run(
        "pct stop 201; sed -i '/^mp/d' /etc/pve/lxc/201.conf; zfs rename rpool/data/subvol-201-disk-0 rpool/data/old; "
        "zfs create rpool/data/subvol-201-disk-0"
    )
    refused(machine, "container_exists", **options)


@pytest.mark.slow
def test_a_clone_that_cannot_be_undone(machine: Machine) -> None:
    """What stays is named; the next run removes it when it can."""
    checkpoint(machine, vmids=["101"], name="one")
    options = {"vmids": ["101"], "name": "one", "clone_to": {"vmid": "201"}}
    made = "rpool/data/subvol-201-disk-0"
    assert attempt(machine, **options, env={"LAB_KILL_AT": f"clone:{made}"}).get("killed") == 9
    machine.run(["zfs", "snapshot", f"{made}@theirs"])
    for _again in range(2):
        assert refused(machine, "has_clones", **options)["details"]["dataset"] == made
    machine.run(["zfs", "destroy", f"{made}@theirs"])
    assert checkpoint(machine, **options)["changed"]
    assert not checkpoint(machine, **options)["changed"]


@pytest.mark.parametrize(
    "step",
    [
        "rpool/data/subvol-201-disk-0",
        "promoted:rpool/data/subvol-201-disk-0",
        pytest.param("config", marks=pytest.mark.slow),
        pytest.param("tank/ct/subvol-201-disk-0", marks=pytest.mark.slow),
        pytest.param("promoted:tank/ct/subvol-201-disk-0", marks=pytest.mark.slow),
        pytest.param("made", marks=pytest.mark.slow),
        pytest.param("unlocked", marks=pytest.mark.slow),
    ],
)
def test_clone_killed_at(machine: Machine, step: str) -> None:
    """A clone that was interrupted is made anew, or finished once the checkpoint begins to be its own."""
    checkpoint(machine, vmids=["101"], name="one")
    options = {"vmids": ["101"], "clone_to": {"vmid": "201", "promote": True}}
    assert attempt(machine, **options, env={"LAB_KILL_AT": f"clone:{step}"}).get("killed") == 9
    assert ("lock: create" in machine.read("/etc/pve/lxc/201.conf")) == (step != "unlocked")
    assert checkpoint(machine, **options)["changed"]
    assert not checkpoint(machine, **options)["changed"]
    assert not checkpoint(machine, **options, name="one")["changed"]
    assert "lock:" not in machine.read("/etc/pve/lxc/201.conf")
    assert machine.run(["zfs", "get", "-H", "-o", "value", "origin", DATA]).stdout.strip() == (
        "rpool/data/subvol-201-disk-1@one"
    )
    assert running(machine, "101")


def test_plain_lxc(machine: Machine) -> None:
    """Without /etc/pve, by dataset or by the name and the pattern; what lies below belongs to it."""
    machine.run("mv /etc/pve /etc/pve.away")
    result = checkpoint(machine, vmids=["web"], name="one")
    assert only(result)["method"] == "zfs"
    assert set(snapshots(machine)) == {"tank/containers/web@one", "tank/containers/web/data@one"}
    assert not checkpoint(machine, datasets=["tank/containers/web"], name="one")["changed"]
    assert attempt(machine, vmids=["web"], name="two", env={"LAB_KILL_AT": "present:frozen"}).get("killed") == 9
    assert running(machine, "web")
    checkpoint(machine, datasets=["tank/containers/web"], clone_to={"vmid": "web2"})
    config = machine.read("/var/lib/lxc/web2/config")
    assert "tank/containers/web2" in config
    machine.run(["lxc-start", "-n", "web2"])
    assert running(machine, "web2")
    refused(machine, "container_missing", vmids=["nobody"])


@pytest.mark.slow
def test_memory(machine: Machine) -> None:
    """CRIU's dump comes with the snapshot, and the container goes on. systemd is refused before anything happens."""
    failure = refused(machine, "memory_unsupported", vmids=["103", "104"], name="one", memory=True)
    assert failure["details"]["container"] == "104"
    assert any("systemd" in reason for reason in failure["details"]["reasons"])
    result = only(checkpoint(machine, vmids=["103"], name="one", memory=True))
    assert result["checkpoint"]["memory"]
    assert machine.run("ls /var/lib/lxcri/checkpoints/103/one/memory/*.img").rc == 0
    assert running(machine, "103")
    assert moves(machine, "/rpool/data/subvol-103-disk-0/count")
    # Memory that was saved for nothing goes with the next checkpoint.
    result = attempt(machine, vmids=["103"], name="two", memory=True, env={"LAB_KILL_AT": "present:dumped"})
    assert result.get("killed") == 9
    assert running(machine, "103")
    checkpoint(machine, vmids=["103"], name="three")
    assert machine.run("ls /var/lib/lxcri/checkpoints/103").stdout.split() == ["one", "three"]
