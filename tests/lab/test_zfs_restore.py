# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restoring checkpoints on real ZFS: to the newest and to an older one, in place and by clones, killed at each step."""

from __future__ import annotations

import re
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
IDLE = "rpool/data/subvol-102-disk-0"


def mark(machine: Machine, text: str) -> None:
    """Write something to all volumes of 101, so that a restore is seen."""
    for dataset in VOLUMES:
        machine.write(f"/{dataset}/mark", text)


def marks(machine: Machine) -> list[str]:
    """What the volumes of 101 say."""
    return [machine.read(f"/{dataset}/mark") for dataset in VOLUMES]


def only(result: dict[str, t.Any]) -> dict[str, t.Any]:
    """The result of the only container."""
    (entry,) = result["containers"]
    return t.cast("dict[str, t.Any]", entry)


def origins(machine: Machine) -> list[str]:
    """What the volumes of 101 are clones of."""
    return machine.run(["zfs", "get", "-H", "-o", "value", "origin", *VOLUMES]).stdout.split()


def test_to_the_newest_and_back(machine: Machine) -> None:
    """What was there before is a safety checkpoint, and can be restored as well."""
    mark(machine, "one")
    checkpoint(machine, vmids=["101"], name="one")
    mark(machine, "two")
    machine.run(["zfs", "set", "refquota=2G", ROOT])
    before = state(machine)
    predicted = only(checkpoint(machine, vmids=["101"], state="restored", check_mode=True))
    assert state(machine) == before
    done = only(
        checkpoint(machine, vmids=["101"], state="restored", env=watch(machine, "pct", "lxc-start", "lxc-stop"))
    )
    assert done["changed"]
    # The quota is another one, so that the size in the configuration is too.
    assert calls(machine, "") == ["pct stop 101 --skiplock", "pct rescan --vmid 101", "pct start 101 --skiplock"]
    holds = machine.run(f"zfs list -H -t snapshot -o name,userrefs | grep @{done['safety']}").lines
    assert [line.split("\t")[1] for line in holds] == ["1"] * 3
    assert [change["key"] for change in done["plan"]] == [change["key"] for change in predicted["plan"]]
    assert done["lost"] == [] if "lost" in done else True
    assert marks(machine) == ["one"] * 3
    assert running(machine, "101")
    assert moves(machine, f"/{DATA}/seq")
    assert origins(machine) == ["-"] * 3
    assert machine.run(["zfs", "get", "-Hp", "-o", "value", "refquota", ROOT]).stdout.strip() == str(1 << 30)
    assert machine.run(["zfs", "get", "-H", "-o", "value", "acltype", ROOT]).stdout.strip() == "posix"
    assert "lock:" not in machine.read("/etc/pve/lxc/101.conf")
    back = only(checkpoint(machine, vmids=["101"], state="restored", name=done["safety"]))
    assert back["changed"]
    assert marks(machine) == ["two"] * 3
    assert running(machine, "101")
    # The safety checkpoints go by name, with what was set aside for them.
    refused(machine, "has_clones", vmids=["101"], name="one", state="absent")
    checkpoint(machine, vmids=["101"], name=back["safety"], state="absent")
    checkpoint(machine, vmids=["101"], name=done["safety"], state="absent")
    left = machine.run("zfs list -H -o name | grep lxcri-aside/", check=False).stdout
    assert left == ""
    checkpoint(machine, vmids=["101"], name="one", state="absent")
    assert snapshots(machine) == []


def test_nothing_written_since(machine: Machine) -> None:
    """A container that is as the checkpoint has it stays as it is."""
    machine.run(["pct", "stop", "102"])
    checkpoint(machine, vmids=["102"], name="one")
    assert not checkpoint(machine, vmids=["102"], state="restored")["changed"]
    machine.run(f"echo x >/{IDLE}/new; sync")
    assert checkpoint(machine, vmids=["102"], state="restored")["changed"]
    assert not checkpoint(machine, vmids=["102"], state="restored")["changed"]
    assert not running(machine, "102", 1)


def test_written_a_moment_ago(machine: Machine) -> None:
    """What is in a transaction group that is still open counts as well."""
    machine.run("pct stop 102; echo 300 >/sys/module/zfs/parameters/zfs_txg_timeout")
    checkpoint(machine, vmids=["102"], name="one")
    machine.run(f"echo x >/{IDLE}/new")
    assert machine.run(["zfs", "get", "-Hp", "-o", "value", "written", IDLE]).stdout.strip() == "0"
    assert checkpoint(machine, vmids=["102"], state="restored")["changed"]
    assert machine.run(["test", "-e", f"/{IDLE}/new"], check=False).rc


def test_to_an_older_one(machine: Machine) -> None:
    """Refused with the list, and done with it. The safety checkpoint stays."""
    mark(machine, "one")
    checkpoint(machine, vmids=["101"], name="one")
    mark(machine, "two")
    checkpoint(machine, vmids=["101"], name="two")
    machine.run(["zfs", "snapshot", f"{DATA}@foreign"])
    machine.run(["zfs", "bookmark", f"{DATA}@foreign", f"{DATA}#cursor"])
    failure = refused(machine, "would_lose_data", vmids=["101"], name="one", state="restored")
    lose = failure["details"]["lose"]
    assert lose == sorted([f"{DATA}#cursor", f"{DATA}@foreign", *(f"{dataset}@two" for dataset in VOLUMES)])
    refused(machine, "would_lose_data", vmids=["101"], name="one", state="restored", lose=lose[1:])
    done = only(checkpoint(machine, vmids=["101"], name="one", state="restored", lose=lose))
    assert sorted(done["lost"]) == lose
    assert marks(machine) == ["one"] * 3
    assert running(machine, "101")
    there = snapshots(machine)
    assert {name.split("@")[1] for name in there} == {"one", done["safety"]}
    assert only(checkpoint(machine, vmids=["101"], name=done["safety"], state="restored"))["changed"]
    assert marks(machine) == ["two"] * 3


@pytest.mark.slow
def test_in_place_without_safety(machine: Machine) -> None:
    """zfs rollback: nothing is set aside."""
    mark(machine, "one")
    checkpoint(machine, vmids=["101"], name="one")
    mark(machine, "two")
    checkpoint(machine, vmids=["101"], name="two")
    machine.run(["zfs", "set", "refquota=2G", ROOT])
    guids = machine.run(["zfs", "get", "-H", "-o", "value", "guid", *VOLUMES]).stdout
    lose = [f"{dataset}@two" for dataset in VOLUMES]
    options = {"vmids": ["101"], "name": "one", "state": "restored", "safety": False}
    refused(machine, "would_lose_data", **options)
    checkpoint(machine, **options, lose=lose, env=watch(machine, "zfs"))
    assert marks(machine) == ["one"] * 3
    assert machine.run(["zfs", "get", "-Hp", "-o", "value", "refquota", ROOT]).stdout.strip() == str(1 << 30)
    done = [line.split()[1] for line in calls(machine, "zfs rollback", "zfs unmount", "zfs mount")]
    assert done == ["rollback"] * 3 + ["unmount"] * 3 + ["mount"] * 3
    assert machine.run(["zfs", "get", "-H", "-o", "value", "guid", *VOLUMES]).stdout == guids
    assert set(snapshots(machine)) == {f"{dataset}@one" for dataset in VOLUMES}
    assert running(machine, "101")
    refused(machine, "invalid_option", **{**options, "mode": "clone"})


def test_by_clones(machine: Machine) -> None:
    """Newer snapshots stay, with what was set aside."""
    mark(machine, "one")
    checkpoint(machine, vmids=["101"], name="one")
    mark(machine, "two")
    checkpoint(machine, vmids=["101"], name="two")
    done = only(checkpoint(machine, vmids=["101"], name="one", state="restored", mode="clone"))
    assert marks(machine) == ["one"] * 3
    aside = f"rpool/data/lxcri-aside/subvol-101-disk-0.{done['safety']}"
    assert f"{aside}@two" in snapshots(machine)
    again = only(checkpoint(machine, vmids=["101"], name="two", state="restored", mode="clone"))
    assert again["changed"]
    assert marks(machine) == ["two"] * 3
    assert running(machine, "101")


def test_two_containers_together(machine: Machine) -> None:
    """All or none: what stands against one stands against all."""
    mark(machine, "one")
    machine.write(f"/{IDLE}/mark", "one")
    checkpoint(machine, vmids=["101", "102"], name="one")
    mark(machine, "two")
    machine.write(f"/{IDLE}/mark", "two")
    machine.run(["zfs", "snapshot", f"{IDLE}@foreign"])
    refused(machine, "would_lose_data", vmids=["101", "102"], name="one", state="restored")
    options = {"vmids": ["101", "102"], "name": "one", "state": "restored", "lose": [f"{IDLE}@foreign"]}
    assert len({entry["safety"] for entry in checkpoint(machine, **options)["containers"]}) == 1
    assert [*marks(machine), machine.read(f"/{IDLE}/mark")] == ["one"] * 4
    assert running(machine, "101")
    assert running(machine, "102")


@pytest.mark.parametrize(
    ("step", "end"), [(f"aside:{IDLE}", "two"), pytest.param("swapped", "one", marks=pytest.mark.slow)]
)
def test_two_containers_killed(machine: Machine, step: str, end: str) -> None:
    """They end the same, whichever of them is looked at first."""
    for text in ("one", "two"):
        mark(machine, text)
        machine.write(f"/{IDLE}/mark", text)
        if text == "one":
            checkpoint(machine, vmids=["101", "102"], name="one")
    options = {"vmids": ["101", "102"], "name": "one", "state": "restored", "env": {"LAB_KILL_AT": f"restore:{step}"}}
    assert attempt(machine, **options).get("killed") == 9
    checkpoint(machine, vmids=["102"], name="later")
    assert [*marks(machine), machine.read(f"/{IDLE}/mark")] == [end] * 4
    assert running(machine, "101")
    assert running(machine, "102")


# Those where most is at stake are run each time, the others with all tests.
OFTEN = (f"aside:{DATA}", "swapped")
STEPS = [
    "journal",
    "locked",
    "stopped",
    "safety",
    "held",
    "unmounted",
    *(f"{step}:{dataset}" for step in ("aside", "cloned", "promoted") for dataset in VOLUMES),
    "swapped",
    "decided",
    "dropped",
    "settled",
    "unlocked",
    "started",
]
# Those of the safety checkpoint.
SAFETY_STEPS = [f"present:{step}" for step in ("snapshot:rpool", "snapshot:tank", "stored", "complete")]


@pytest.mark.parametrize(
    "step",
    [
        *(pytest.param(f"restore:{step}", marks=() if step in OFTEN else pytest.mark.slow) for step in STEPS),
        *(pytest.param(step, marks=pytest.mark.slow) for step in SAFETY_STEPS),
    ],
)
def test_killed_at(machine: Machine, step: str) -> None:
    """Nothing is lost, and running it again gets there."""
    mark(machine, "one")
    checkpoint(machine, vmids=["101"], name="one")
    mark(machine, "two")
    checkpoint(machine, vmids=["101"], name="two")
    lose = [f"{dataset}@two" for dataset in VOLUMES]
    options = {"vmids": ["101"], "name": "one", "state": "restored", "lose": lose}
    result = attempt(machine, **options, env={"LAB_KILL_AT": step})
    assert result.get("killed") == 9, result
    # Meanwhile nobody starts it.
    locked = step not in ("restore:journal", "restore:unlocked", "restore:started")
    assert ("lock: rollback" in machine.read("/etc/pve/lxc/101.conf")) == locked
    if step == "restore:swapped":
        assert "CT is locked (rollback)" in machine.run(["pct", "start", "101"], check=False).stderr
    assert checkpoint(machine, **options, check_mode=True)["changed"]
    checkpoint(machine, **options)
    assert marks(machine) == ["one"] * 3
    assert running(machine, "101")
    assert moves(machine, f"/{DATA}/seq")
    assert origins(machine) == ["-"] * 3
    assert "lock:" not in machine.read("/etc/pve/lxc/101.conf")
    assert machine.run("ls /var/lib/lxcri/journal/*.json", check=False).stdout == ""
    assert machine.run(["zfs", "get", "-H", "-o", "value", "canmount", *VOLUMES]).stdout.split() == ["on"] * 3
    # What was there before can be had back, from one of the safety checkpoints.
    safety = sorted({name.split("@")[1] for name in snapshots(machine) if "@lxcri-safety-" in name})
    checkpoint(machine, vmids=["101"], name=safety[0], state="restored", mode="clone")
    assert marks(machine) == ["two"] * 3


@pytest.mark.slow
def test_killed_twice(machine: Machine) -> None:
    """The run that undoes it is killed as well."""
    mark(machine, "one")
    checkpoint(machine, vmids=["101"], name="one")
    mark(machine, "two")
    for step in (f"restore:promoted:{ROOT}", f"restore:undone:{ROOT}"):
        assert attempt(machine, vmids=["101"], state="restored", env={"LAB_KILL_AT": step}).get("killed") == 9
    checkpoint(machine, vmids=["101"], name="later")
    assert marks(machine) == ["two"] * 3
    assert running(machine, "101")
    assert set(snapshots(machine)) == {f"{dataset}@{name}" for dataset in VOLUMES for name in ("one", "later")}


# Each time again, and with all tests.
IN_PLACE = (f"rolled back:{ROOT}",)
IN_PLACE_SLOW = (
    "journal",
    "locked",
    "stopped",
    f"rolled back:{SRV}",
    f"rolled back:{DATA}",
    "dropped",
    "settled",
    "unlocked",
)


@pytest.mark.parametrize("step", [*IN_PLACE, *(pytest.param(step, marks=pytest.mark.slow) for step in IN_PLACE_SLOW)])
def test_killed_in_place(machine: Machine, step: str) -> None:
    """A rollback in place is finished by the next run of any kind; undone if it had not begun."""
    mark(machine, "one")
    checkpoint(machine, vmids=["101"], name="one")
    mark(machine, "two")
    options = {"vmids": ["101"], "name": "one", "state": "restored", "safety": False}
    assert attempt(machine, **options, env={"LAB_KILL_AT": f"restore:{step}"}).get("killed") == 9
    checkpoint(machine, vmids=["101"], name="later")
    assert marks(machine) == (["two"] if step in ("journal", "locked") else ["one"]) * 3
    assert running(machine, "101")


@pytest.mark.slow
def test_killed_in_place_and_changed_since(machine: Machine) -> None:
    """What came since is named before anything is touched, and goes when that is agreed to."""
    mark(machine, "one")
    checkpoint(machine, vmids=["101"], name="one")
    mark(machine, "two")
    options = {"vmids": ["101"], "name": "one", "state": "restored", "safety": False}
    assert attempt(machine, **options, env={"LAB_KILL_AT": "restore:stopped"}).get("killed") == 9
    machine.run(["zfs", "snapshot", f"{SRV}@theirs"])
    machine.run("sed -i '/^lock:/d' /etc/pve/lxc/101.conf; pct start 101")
    for check_mode in (True, False):
        failure = refused(machine, "would_lose_data", **options, check_mode=check_mode)
        assert failure["details"]["lose"] == sorted([f"{SRV}@theirs", *VOLUMES])
    assert running(machine, "101")
    checkpoint(machine, **options, lose=failure["details"]["lose"])
    assert marks(machine) == ["one"] * 3
    assert running(machine, "101")
    assert "lock:" not in machine.read("/etc/pve/lxc/101.conf")


@pytest.mark.slow
def test_killed_in_place_and_written_since(machine: Machine) -> None:
    """What is written once the container runs again is not rolled back by the run that clears up."""
    mark(machine, "one")
    checkpoint(machine, vmids=["101"], name="one")
    mark(machine, "two")
    options = {"vmids": ["101"], "name": "one", "state": "restored", "safety": False}
    assert attempt(machine, **options, env={"LAB_KILL_AT": "restore:started"}).get("killed") == 9
    assert running(machine, "101")
    mark(machine, "three")
    checkpoint(machine, vmids=["101"], name="later")
    assert marks(machine) == ["three"] * 3
    assert running(machine, "101")


def test_a_busy_volume(machine: Machine) -> None:
    """Everything is as it was, the container runs, and the volume is named."""
    checkpoint(machine, vmids=["101"], name="one")
    machine.run(f"cd /{SRV} && setsid sleep 100 >/dev/null 2>&1 &")
    before = re.sub(r"(?m)^.*lxcri-aside.*$\n", "", state(machine))
    result = attempt(machine, vmids=["101"], state="restored")
    assert result.get("failed"), result
    assert result["failure"]["code"] == "dataset_busy", result["failure"]
    assert SRV in result["msg"]
    assert running(machine, "101")
    assert state(machine) == before


def test_holds_clones_and_snapshots_of_proxmox(machine: Machine) -> None:
    """Each is named, and nothing is touched."""
    checkpoint(machine, vmids=["101"], name="one")
    checkpoint(machine, vmids=["101"], name="two", hold="audit")
    options = {"vmids": ["101"], "name": "one", "state": "restored", "lose": [f"{dataset}@two" for dataset in VOLUMES]}
    assert refused(machine, "held", **options)["details"]["dataset"] in VOLUMES
    checkpoint(machine, vmids=["101"], name="two", release="audit")
    checkpoint(machine, vmids=["101"], name="two", clone_to={"vmid": "201"})
    assert refused(machine, "has_clones", **options)["details"]["dataset"] in VOLUMES
    machine.run(["pct", "snapshot", "102", "theirs"])
    checkpoint(machine, vmids=["102"], name="before")
    machine.run(["pct", "snapshot", "102", "theirs2"])
    failure = refused(machine, "proxmox_snapshot", vmids=["102"], state="restored")
    assert "pct delsnapshot 102 theirs2" in failure["hint"]


def test_a_locked_key(machine: Machine) -> None:
    """An encrypted volume without its key is not touched; with it, it is restored."""
    machine.run(
        "echo passphrase >/root/key && zfs create -o encryption=on -o keyformat=passphrase "
        "-o keylocation=file:///root/key tank/containers/secret && echo one >/tank/containers/secret/file"
    )
    options = {"datasets": ["tank/containers/secret"]}
    checkpoint(machine, **options, name="one")
    machine.run(
        "echo two >/tank/containers/secret/file; zfs unmount tank/containers/secret; "
        "zfs unload-key tank/containers/secret"
    )
    failure = refused(machine, "key_unavailable", **options, state="restored")
    assert failure["details"]["dataset"] == "tank/containers/secret"
    # Taking and removing works without.
    checkpoint(machine, **options, name="two")
    checkpoint(machine, **options, name="two", state="absent")
    machine.run("zfs load-key tank/containers/secret && zfs mount tank/containers/secret")
    checkpoint(machine, **options, state="restored")
    assert machine.read("/tank/containers/secret/file") == "one\n"


@pytest.mark.slow
def test_what_is_not_there(machine: Machine) -> None:
    """No such checkpoint, one that was interrupted, a lock, and HA."""
    failure = refused(machine, "checkpoint_missing", vmids=["101"], state="restored")
    assert failure["details"]["names"] == []
    attempt(machine, vmids=["101"], name="half", env={"LAB_KILL_AT": "present:stored"})
    refused(machine, "checkpoint_incomplete", vmids=["101"], name="half", state="restored")
    checkpoint(machine, vmids=["101"], name="one")
    # The newest that is complete is meant.
    attempt(machine, vmids=["101"], name="half", env={"LAB_KILL_AT": "present:stored"})
    assert only(checkpoint(machine, vmids=["101"], state="restored", mode="clone", check_mode=True))["name"] == "one"
    planned = only(checkpoint(machine, vmids=["101"], clone_to={"vmid": "201"}, check_mode=True))["plan"]
    assert planned[0]["after"] == "clone of 101@one"
    machine.run(["zfs", "destroy", f"{SRV}@one"])
    failure = refused(machine, "checkpoint_incomplete", vmids=["101"], name="one", state="restored")
    assert failure["details"]["dataset"] == SRV
    machine.run("mkdir -p /etc/pve/ha && printf 'ct: 101\n\tstate started\n' >/etc/pve/ha/resources.cfg")
    refused(machine, "ha_managed", vmids=["101"], state="restored")
    machine.run("rm /etc/pve/ha/resources.cfg; sed -i '1i lock: backup' /etc/pve/lxc/101.conf")
    refused(machine, "locked", vmids=["101"], state="restored")


def test_volumes_that_are_gone(machine: Machine) -> None:
    """A destroyed volume and an exported pool are named, although the checkpoints went with them."""
    checkpoint(machine, vmids=["101"], name="one")
    # What runs sees the mounts of all others.
    machine.run("for id in 101 102 103 104; do pct stop $id; done; for name in web idle; do lxc-stop -k -n $name; done")
    machine.run("zpool export tank")
    for options in ({"name": "two"}, {"state": "restored"}, {"state": "restored", "name": "one"}):
        details = refused(machine, "pool_unavailable", vmids=["101"], **options)["details"]
        assert (details["dataset"], details["pool"]) == (SRV, "tank")
    machine.run(f"zpool import -d /dev/disk/by-id -d /dev tank; zfs destroy -r {SRV}")
    for options in ({"state": "restored"}, {"state": "restored", "name": "one"}):
        assert refused(machine, "volume_missing", vmids=["101"], **options)["details"]["dataset"] == SRV


@pytest.mark.slow
def test_the_configuration(machine: Machine) -> None:
    """Kept by default; restored on demand, with Proxmox's own snapshots left in it."""
    checkpoint(machine, vmids=["101"], name="one")
    machine.run("sed -i 's/^hostname: .*/hostname: renamed/' /etc/pve/lxc/101.conf")
    checkpoint(machine, vmids=["101"], state="restored", name="one")
    assert "hostname: renamed" in machine.read("/etc/pve/lxc/101.conf")
    rules = machine.read("/etc/pve/firewall/101.fw")
    machine.write("/etc/pve/firewall/101.fw", "[OPTIONS]\n\nenable: 0\n")
    result = checkpoint(machine, vmids=["101"], state="restored", name="one", config="restore", diff=True)
    assert "hostname: renamed" in str(result["diff"])
    assert "enable: 0" in str(result["diff"])
    assert "hostname: renamed" not in machine.read("/etc/pve/lxc/101.conf")
    assert machine.read("/etc/pve/firewall/101.fw") == rules
    assert running(machine, "101")


_VZDUMP = """#!/bin/sh
archive=/var/lib/vz/dump/vzdump-lxc-$1-$(date +%s).tar.zst
mkdir -p /var/lib/vz/dump && echo backup >$archive
flock -n /run/lock/lxc/pve-config-$1.lock true || exit 255
echo "vzdump $*" >>/tmp/proxmox.log
echo "INFO: creating vzdump archive '$archive'"
"""


_PCT = """#!/bin/sh
flock -n /run/lock/lxc/pve-config-$2.lock true || exit 255
echo "pct $*" >>/tmp/proxmox.log
config=/etc/pve/lxc/$2.conf
case $1 in
    snapshot) printf '\\n[%s]\\n#%s\\nhostname: dir\\n' "$3" "$5" >>$config ;;
    delsnapshot) sed -i "/^$/,\\$d" $config ;;
esac
"""


def test_by_proxmox(machine: Machine) -> None:
    """What is not on ZFS is saved and put back by Proxmox; a backup comes back only when the volumes may go."""
    config = "arch: amd64\nhostname: dir\nrootfs: local:110/vm-110-disk-0.raw,size=1G\n"
    machine.write("/etc/pve/lxc/110.conf", config)
    machine.run("mkdir -p /var/lib/vz/images/110 /tmp/stand-in && echo data >/var/lib/vz/images/110/vm-110-disk-0.raw")
    machine.write("/tmp/stand-in/pct", _PCT, 0o755)
    machine.write("/tmp/stand-in/vzdump", _VZDUMP, 0o755)
    machine.write("/tmp/stand-in/pvesh", "#!/bin/sh\necho '{}'\n", 0o755)
    run = {"vmids": ["110"], "env": {"PATH": "/tmp/stand-in:/usr/sbin:/usr/bin:/sbin:/bin"}}

    taken = only(checkpoint(machine, **run, name="one"))
    assert taken["method"] == "vzdump"
    assert any("dir" in reason for reason in taken["reasons"])
    archive = taken["checkpoint"]["archive"]
    assert not checkpoint(machine, **run, name="one")["changed"]
    lose = ["local:110/vm-110-disk-0.raw"]
    refused(machine, "invalid_option", **run, name="one", state="restored", lose=lose)
    back = {**run, "state": "restored", "safety": False, "config": "restore"}
    failure = refused(machine, "would_lose_data", **back, name="one")
    assert failure["details"]["lose"] == lose
    assert checkpoint(machine, **back, name="one", lose=lose, check_mode=True)["changed"]
    assert checkpoint(machine, **back, name="one", lose=lose)["changed"]
    checkpoint(machine, **run, name="one", state="absent")
    assert machine.run(["test", "-e", archive], check=False).rc == 1

    machine.write("/tmp/stand-in/pvesh", "#!/bin/sh\necho '{\"hasFeature\":1}'\n", 0o755)
    assert only(checkpoint(machine, **run, name="two"))["method"] == "snapshot"
    assert checkpoint(machine, **back, name="two")["changed"]
    checkpoint(machine, **run, name="two", state="absent")
    assert machine.read("/tmp/proxmox.log").splitlines() == [
        "vzdump 110 --compress zstd --mode stop --remove 0",
        f"pct restore 110 {archive} --force 1 --storage local",
        "pct snapshot 110 two --description Checkpoint of lxcri.proxmox",
        "pct rollback 110 two",
        "pct delsnapshot 110 two",
    ]

    # A backup would lack what is not meant for backups.
    machine.write("/tmp/stand-in/pvesh", "#!/bin/sh\necho '{}'\n", 0o755)
    machine.write("/etc/pve/lxc/110.conf", f"{config}mp0: local:110/vm-110-disk-1.raw,mp=/srv,size=1G\n")
    assert "mp0 has no backup=1" in refused(machine, "no_method", **run, name="three")["message"]


@pytest.mark.parametrize(
    ("feature", "method"), [('"hasFeature":1', "snapshot"), pytest.param("", "vzdump", marks=pytest.mark.slow)]
)
def test_by_proxmox_killed(machine: Machine, feature: str, method: str) -> None:
    """What Proxmox has made of a checkpoint that was interrupted is found again, and made anew."""
    machine.write("/etc/pve/lxc/110.conf", "arch: amd64\nhostname: dir\nrootfs: local:110/vm-110-disk-0.raw,size=1G\n")
    machine.run("mkdir -p /tmp/stand-in")
    machine.write("/tmp/stand-in/pct", _PCT, 0o755)
    machine.write("/tmp/stand-in/vzdump", _VZDUMP, 0o755)
    machine.write("/tmp/stand-in/pvesh", f"#!/bin/sh\necho '{{{feature}}}'\n", 0o755)
    path = {"PATH": "/tmp/stand-in:/usr/sbin:/usr/bin:/sbin:/bin"}
    result = attempt(machine, vmids=["110"], name="one", env={**path, "LAB_KILL_AT": "present:proxmox"})
    assert result.get("killed") == 9
    refused(machine, "checkpoint_incomplete", vmids=["110"], name="one", state="restored", env=path)
    assert only(checkpoint(machine, vmids=["110"], name="one", env=path))["method"] == method
    assert not checkpoint(machine, vmids=["110"], name="one", env=path)["changed"]
    made = machine.run("grep -c '^.one.$' /etc/pve/lxc/110.conf; ls /var/lib/vz/dump | wc -l", check=False).stdout
    assert made.split() == (["1", "0"] if method == "snapshot" else ["0", "1"])


def test_plain_lxc(machine: Machine) -> None:
    """A container whose volumes lie one below the other."""
    machine.run(
        "mv /etc/pve /etc/pve.away; echo one >/tank/containers/web/data/mark; echo one >/tank/containers/web/mark"
    )
    checkpoint(machine, vmids=["web"], name="one")
    machine.run("echo two >/tank/containers/web/data/mark; echo two >/tank/containers/web/mark")
    done = only(checkpoint(machine, vmids=["web"], state="restored"))
    assert machine.run("cat /tank/containers/web/mark /tank/containers/web/data/mark").stdout == "one\none\n"
    assert running(machine, "web")
    assert moves(machine, "/tank/containers/web/data/seq")
    checkpoint(machine, vmids=["web"], state="restored", name=done["safety"])
    assert machine.run("cat /tank/containers/web/mark /tank/containers/web/data/mark").stdout == "two\ntwo\n"


def test_memory(machine: Machine) -> None:
    """The counter goes on from where it was."""
    count = "/rpool/data/subvol-103-disk-0/count"
    checkpoint(machine, vmids=["103"], name="one", memory=True)
    then = number(machine, "/rpool/data/subvol-103-disk-0/.zfs/snapshot/one/count")
    assert moves(machine, count)
    machine.run("sleep 3")
    later = number(machine, count)
    assert later > then + 5
    checkpoint(machine, vmids=["103"], state="restored", memory=True)
    now = number(machine, count)
    assert then <= now < later
    assert moves(machine, count)
    # Without memory it begins again.
    checkpoint(machine, vmids=["103"], state="restored", name="one")
    assert number(machine, count) < then
    checkpoint(machine, vmids=["103"], name="two")
    refused(machine, "memory_missing", vmids=["103"], name="two", state="restored", memory=True)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["settled", "unlocked"])
def test_killed_with_its_memory(machine: Machine, step: str) -> None:
    """The next run starts it from its memory."""
    checkpoint(machine, vmids=["103"], name="one", memory=True)
    then = number(machine, "/rpool/data/subvol-103-disk-0/.zfs/snapshot/one/count")
    machine.run("sleep 3")
    options = {"vmids": ["103"], "state": "restored", "memory": True, "env": {"LAB_KILL_AT": f"restore:{step}"}}
    assert attempt(machine, **options).get("killed") == 9
    checkpoint(machine, vmids=["103"], name="later")
    assert running(machine, "103")
    assert then <= number(machine, "/rpool/data/subvol-103-disk-0/count")
    assert moves(machine, "/rpool/data/subvol-103-disk-0/count")
