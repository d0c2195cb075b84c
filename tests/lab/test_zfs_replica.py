# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""zfs_replica against real ZFS: every replica is compared with its source by guid."""

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.lxcri.proxmox.tests.lab.machine import PACKAGES, Machine
from ansible_collections.lxcri.proxmox.tests.lab.support import refused

TARGET = "backup/replica"
COUNTER = "rpool/data/subvol-103-disk-0"
REPLICA = f"{TARGET}/{COUNTER}"
VOLUMES = ("rpool/data/subvol-101-disk-0", "rpool/data/subvol-101-disk-1", "tank/ct/subvol-101-disk-0")
LEGACY = "rpool/data/subvol-102-disk-0"
IDLE = "tank/containers/idle"
SSH = {"host": "root@localhost"}
UTILS = "ansible_collections.lxcri.proxmox.plugins.module_utils"

Result = dict[str, t.Any]


def take(machine: Machine, names: str | t.Sequence[str], *ids: str, datasets: t.Sequence[str] = ()) -> None:
    """Checkpoints of containers, in one process."""
    code = f"""
import sys
from {UTILS}.zfs.checkpoint import take
from {UTILS}.zfs.host import Zfs, find_host
from {UTILS}.zfs.store import Store
datasets, ids, names = {list(datasets)!r}, {list(ids)!r}, {[names] if isinstance(names, str) else list(names)!r}
host = find_host(Zfs(), datasets=datasets)
for name in names:
    take(host, Store(), ids or host.ids(), name)
"""
    machine.run(["python3", "-c", code], env={"PYTHONPATH": PACKAGES}, timeout=280)


def write(machine: Machine, dataset: str, megabytes: float) -> None:
    """Fill a dataset with what cannot be compressed."""
    machine.run(f"dd if=/dev/urandom of=/{dataset}/filling bs=64k count={int(megabytes * 16)} status=none; sync")


def replica(machine: Machine, *ids: str, check_mode: bool = False, fails: bool = False, **options: t.Any) -> Result:
    """Run the module."""
    result = machine.module("zfs_replica", {"vmids": list(ids), "target": TARGET, **options}, check_mode=check_mode)
    assert bool(result.get("failed")) is fails, result
    return result


def guids(machine: Machine, dataset: str) -> dict[str, str]:
    """The snapshots of a dataset."""
    listed = machine.run(f"zfs list -Hp -d 1 -t snapshot -o name,guid {dataset}").lines
    return {name.split("@")[1]: guid for name, guid in (line.split("\t") for line in listed)}


def everything(machine: Machine) -> str:
    """What check mode must not change."""
    columns = "name,guid,userrefs,receive_resume_token,lxcri:source,readonly,canmount"
    files = "find /etc/pve /var/lib/lxcri -type f -exec sha256sum {} +"
    return machine.run(f"zfs list -H -t all -o {columns}; {files} 2>/dev/null || true").stdout


def holds(machine: Machine, dataset: str) -> list[str]:
    """The held snapshots of a dataset, once for each hold."""
    return [name for name, _tag in tags(machine, dataset)]


def tags(machine: Machine, dataset: str) -> list[tuple[str, str]]:
    """The holds of a dataset: snapshot and tag."""
    lines = machine.run(f"zfs list -H -d 1 -t snapshot -o name {dataset} | xargs -r zfs holds -H").lines
    return [(line.split("\t")[0].split("@")[1], line.split("\t")[1]) for line in lines]


def cursors(machine: Machine, dataset: str) -> list[str]:
    """The guids of its bookmarks."""
    lines = machine.run(f"zfs list -Hp -d 1 -t bookmark -o name,guid {dataset}").lines
    assert all(name.endswith(f"-{guid}") for name, guid in (line.split("\t") for line in lines))
    return [line.split("\t")[1] for line in lines]


def volume(result: Result) -> Result:
    """The only volume of the only container."""
    [container] = result["containers"]
    [only] = container["volumes"]
    return t.cast(Result, only)


def test_full_then_incremental(machine: Machine) -> None:
    take(machine, ["one", "two"], "101")
    before = everything(machine)
    planned = replica(machine, "101", check_mode=True)
    assert everything(machine) == before
    result = replica(machine, "101")
    assert result["changed"]
    [container] = result["containers"]
    assert [v["target"] for v in container["volumes"]] == [f"{TARGET}/{dataset}" for dataset in VOLUMES]
    for promised, done in zip(planned["containers"][0]["volumes"], container["volumes"]):
        assert promised["sent"] == done["sent"] == ["one", "two"]
        assert promised["base"] is done["base"] is None
        assert done["bytes"] > 0
        assert 0.5 < promised["bytes"] / done["bytes"] < 2
    for dataset in VOLUMES:
        there = f"{TARGET}/{dataset}"
        assert guids(machine, there) == guids(machine, dataset)
        assert holds(machine, dataset) == holds(machine, there) == ["two"]
        assert cursors(machine, dataset) == [guids(machine, dataset)["two"]]
        columns = "readonly,canmount,mountpoint,mounted,lxcri:source,refquota"
        assert machine.run(f"zfs list -Hp -o {columns} {there}").stdout.split() == [
            "on",
            "noauto",
            "none",
            "no",
            dataset,
            "1073741824",
        ]
    kept = f"/var/lib/lxcri/replicas/{holds_label(machine)}/checkpoints/101/two/config"
    assert machine.read(kept).splitlines()[0] == machine.read("/etc/pve/lxc/101.conf").splitlines()[0]
    assert machine.run(f"stat -c %a {kept}").stdout == "600\n"

    again = replica(machine, "101")
    assert again["changed"] is False
    assert again["containers"][0]["plan"] == []

    # What is no checkpoint is left out, and so is an incomplete one.
    machine.run(f"zfs snapshot {VOLUMES[0]}@foreign")
    take(machine, ["three", "four"], "101")
    machine.run(f"zfs inherit lxcri:complete {VOLUMES[1]}@three")
    before = everything(machine)
    planned = replica(machine, "101", check_mode=True)
    assert everything(machine) == before
    result = replica(machine, "101")
    for promised, done in zip(planned["containers"][0]["volumes"], result["containers"][0]["volumes"]):
        assert (done["base"], done["sent"], promised["sent"]) == ("two", ["four"], ["four"])
    for dataset in VOLUMES:
        here, there = guids(machine, dataset), guids(machine, f"{TARGET}/{dataset}")
        assert there == {name: here[name] for name in ("one", "two", "four")}
        assert holds(machine, dataset) == holds(machine, f"{TARGET}/{dataset}") == ["four"]
        assert cursors(machine, dataset) == [here["four"]]
    assert replica(machine, "101")["changed"] is False


def holds_label(machine: Machine) -> str:
    """What tells this target from others."""
    return machine.run("ls /var/lib/lxcri/replicas").stdout.strip()


def test_over_ssh(machine: Machine) -> None:
    take(machine, ["one", "two", "three"], "103")
    there = "/var/lib/lxcri/replicas/backup%replica/checkpoints/103"
    state = everything(machine)
    assert volume(replica(machine, "103", check_mode=True, **SSH))["sent"] == ["one", "two", "three"]
    assert everything(machine) == state
    result = replica(machine, "103", ssh_port=22, ssh_key_file="/root/.ssh/id_ed25519", bandwidth="50M", **SSH)
    assert volume(result)["sent"] == ["one", "two", "three"]
    assert guids(machine, REPLICA) == guids(machine, COUNTER)
    machine.run(f"cmp /var/lib/lxcri/checkpoints/103/two/config {there}/two/config")
    assert machine.run(f"stat -c %a {there}/two/config {there}").lines == ["600", "700"]
    assert replica(machine, "103", **SSH)["changed"] is False
    for host, port, code in (("root@localhost", 1, "unreachable"), ("-oProxyCommand=x", None, "invalid_option")):
        refused = replica(machine, "103", fails=True, host=host, ssh_port=port)
        assert refused["failure"]["code"] == code


@pytest.mark.parametrize("over_ssh", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_stream_that_was_cut_is_resumed(machine: Machine, over_ssh: bool) -> None:
    options = SSH if over_ssh else {}
    write(machine, COUNTER, 24)
    take(machine, "one", "103")
    run = machine.start_module("zfs_replica", {"vmids": ["103"], "target": TARGET, "bandwidth": "512k", **options})
    machine.run("for i in $(seq 300); do pgrep -f '^zfs recv' >/dev/null && break; sleep 0.1; done; sleep 7")
    # Once only the module itself, once with all that it has started.
    run.kill(group=over_ssh)
    assert run.wait()["killed"] == 9
    await_token(machine)
    for base, name, written in ((None, "one", 24), ("one", "two", 16)):
        state = everything(machine)
        planned = volume(replica(machine, "103", check_mode=True, **options))
        assert everything(machine) == state
        done = volume(replica(machine, "103", **options))
        assert 0 < done["bytes"] < written << 20
        for key, value in (("resumed", True), ("base", base), ("sent", [name])):
            assert planned[key] == done[key] == value
        assert guids(machine, REPLICA) == guids(machine, COUNTER)
        assert holds(machine, COUNTER) == holds(machine, REPLICA) == [name]
        assert marks(machine, REPLICA) == marks(machine, COUNTER)
        columns = "readonly,canmount,mountpoint,lxcri:source"
        assert machine.run(f"zfs list -H -o {columns} {REPLICA}").stdout.split() == ["on", "noauto", "none", COUNTER]
        assert replica(machine, "103", **options)["changed"] is False
        if name == "one":
            write(machine, COUNTER, 16)
            take(machine, "two", "103")
            cut = replica(machine, "103", bandwidth="1M", timeout=6, fails=True, **options)
            assert cut["failure"]["code"] == "stream_timeout"
            await_token(machine)


def await_token(machine: Machine) -> None:
    """Wait until the receiver has noticed that nobody sends any more."""
    machine.run("for i in $(seq 100); do pgrep -x zfs >/dev/null || break; sleep 0.2; done; ! pgrep -x zfs")
    assert machine.run(f"zfs get -H -o value receive_resume_token {REPLICA}").stdout.startswith("1-")


def marks(machine: Machine, dataset: str) -> list[str]:
    """What makes the snapshots of a dataset known as checkpoints."""
    properties = "lxcri:checkpoint,lxcri:complete,lxcri:members"
    return machine.run(f"zfs list -Hp -d 1 -t snapshot -o {properties} {dataset}").lines


# Those that leave on the target what is not whole are run each time, the others with all tests.
STEPS = ("received:three",)
STEPS_SLOW = ("marked", "files", "held", "released", "resumed", "aborted", "overwritten")


@pytest.mark.parametrize("step", [*STEPS, *(pytest.param(step, marks=pytest.mark.slow) for step in STEPS_SLOW)])
def test_killed_at(machine: Machine, step: str) -> None:
    """Without raw streams, which carry what makes a checkpoint known. The next run gets there."""
    options: dict[str, t.Any] = {"raw": "never"}
    take(machine, "one", "103")
    replica(machine, "103", **options)
    if step == "overwritten":
        machine.run(f"zfs snapshot {REPLICA}@test")
        options.update(overwrite_diverged=True, lose=[f"{REPLICA}@test"])
    if step in ("resumed", "aborted"):
        write(machine, COUNTER, 16)
        take(machine, "large", "103")
        cut = replica(machine, "103", bandwidth="1M", timeout=6, fails=True, **options)
        assert cut["failure"]["code"] == "stream_timeout"
        await_token(machine)
    if step == "aborted":
        [tag] = {tag for _name, tag in tags(machine, COUNTER)}
        machine.run(f"zfs release {tag} {COUNTER}@large; zfs destroy {COUNTER}@large")
    take(machine, ["two", "three"], "103")
    run = {"vmids": ["103"], "target": TARGET, **options}
    killed = machine.module("zfs_replica", run, env={"LAB_KILL_AT": f"replica:{step}"})
    assert killed.get("killed") == 9, killed
    assert replica(machine, "103", **options)["changed"]
    assert replica(machine, "103", **options)["changed"] is False
    assert guids(machine, REPLICA) == guids(machine, COUNTER)
    assert marks(machine, REPLICA) == marks(machine, COUNTER)
    assert holds(machine, COUNTER) == holds(machine, REPLICA) == ["three"]
    assert cursors(machine, COUNTER) == [guids(machine, COUNTER)["three"]]
    columns = "readonly,canmount,mountpoint,lxcri:source"
    assert machine.run(f"zfs list -H -o {columns} {REPLICA}").stdout.split() == ["on", "noauto", "none", COUNTER]
    # Known as checkpoints, they are pruned as well.
    replica(machine, "103", keep={"last": 1}, **options)
    assert list(guids(machine, REPLICA)) == ["three"]


@pytest.mark.slow
def test_a_stream_that_cannot_be_resumed_is_thrown_away(machine: Machine) -> None:
    write(machine, COUNTER, 16)
    take(machine, "one", "103")
    result = replica(machine, "103", bandwidth="2M", timeout=4, fails=True)
    assert result["failure"]["code"] == "stream_timeout"
    await_token(machine)
    [(_name, tag)] = tags(machine, COUNTER)
    machine.run(f"zfs release {tag} {COUNTER}@one; zfs destroy {COUNTER}@one")
    take(machine, "two", "103")
    state = everything(machine)
    planned = replica(machine, "103", check_mode=True)
    assert everything(machine) == state
    result = replica(machine, "103")
    for each in (planned, result):
        assert (volume(each)["resumed"], volume(each)["sent"]) == (False, ["two"])
        assert "thrown away" in each["containers"][0]["notes"][0]
    assert guids(machine, REPLICA) == guids(machine, COUNTER)
    assert replica(machine, "103")["changed"] is False


def test_a_bookmark_is_enough(machine: Machine) -> None:
    take(machine, "one", "103")
    replica(machine, "103")
    [(_name, tag)] = tags(machine, COUNTER)
    machine.run(f"zfs release {tag} {COUNTER}@one; zfs destroy {COUNTER}@one")
    assert replica(machine, "103")["changed"] is False
    take(machine, ["two", "three"], "103")
    done = volume(replica(machine, "103"))
    assert (done["base"], done["sent"]) == ("one", ["two", "three"])
    assert list(guids(machine, REPLICA)) == ["one", "two", "three"]
    assert cursors(machine, COUNTER) == [guids(machine, COUNTER)["three"]]


def test_a_diverged_target_is_refused(machine: Machine) -> None:
    take(machine, "one", "103")
    replica(machine, "103")
    machine.run(f"zfs snapshot {REPLICA}@test && zfs set readonly=off mountpoint=/mnt {REPLICA} && zfs mount {REPLICA}")
    machine.run(f"echo x >/mnt/x; zfs unmount {REPLICA}; zfs set mountpoint=none {REPLICA}")
    take(machine, "two", "103")
    state = everything(machine)
    for check_mode in (True, False):
        refused = replica(machine, "103", fails=True, check_mode=check_mode)
        assert refused["failure"]["code"] == "target_diverged"
        assert refused["failure"]["details"]["common"] == "one"
        assert refused["failure"]["details"]["lose"] == [f"{REPLICA}@test", REPLICA]
    refused = replica(machine, "103", fails=True, overwrite_diverged=True, lose=[REPLICA])
    assert refused["failure"]["code"] == "would_lose_data"
    assert everything(machine) == state
    lose = [f"{REPLICA}@test", REPLICA]
    machine.run(f"zfs hold mine {REPLICA}@test")
    assert replica(machine, "103", fails=True, overwrite_diverged=True, lose=lose)["failure"]["code"] == "held"
    machine.run(f"zfs release mine {REPLICA}@test")
    result = replica(machine, "103", overwrite_diverged=True, lose=lose)
    assert volume(result)["sent"] == ["two"]
    assert guids(machine, REPLICA) == guids(machine, COUNTER)


def test_what_is_no_replica_is_refused(machine: Machine) -> None:
    take(machine, "one", "103")
    machine.run(f"zfs create -p {REPLICA} && zfs snapshot {REPLICA}@own")
    refused = replica(machine, "103", fails=True)
    assert refused["failure"]["code"] == "target_diverged"
    assert refused["failure"]["details"]["lose"] == [f"{REPLICA}@own", REPLICA]
    replica(machine, "103", overwrite_diverged=True, lose=[f"{REPLICA}@own", REPLICA])
    assert guids(machine, REPLICA) == guids(machine, COUNTER)
    assert replica(machine, "103", fails=True, target="backup/none")["failure"]["code"] == "target_missing"
    # zfs says the same of a pool that is not there.
    assert replica(machine, "103", fails=True, target="none/x")["failure"]["code"] == "target_missing"
    # One that fails does not stop another.
    take(machine, "one", "102")
    machine.run(f"zfs snapshot {REPLICA}@test")
    take(machine, "two", "103")
    refused = replica(machine, "103", "102", fails=True)
    assert refused["failure"]["code"] == "containers_failed"
    assert [c["changed"] for c in refused["containers"]] == [False, True]
    assert guids(machine, f"{TARGET}/rpool/data/subvol-102-disk-0")


def test_encrypted_stays_encrypted(machine: Machine) -> None:
    secret = "tank/containers/secret"
    machine.run(
        f"echo 12345678 | zfs create -o encryption=on -o keyformat=passphrase {secret} && zfs create {secret}/data"
    )
    write(machine, f"{secret}/data", 2)
    options = {"datasets": [secret]}
    take(machine, ["one", "two"], datasets=[secret])
    machine.run(f"zfs unmount {secret} && zfs unload-key -r {secret}")
    for over_ssh in ({}, SSH):
        result = replica(machine, **options, **over_ssh)
        if over_ssh:
            # Another way to the same target: nothing to send, but a base of its own to hold.
            assert all(v["sent"] == [] for v in result["containers"][0]["volumes"])
    for name in (secret, f"{secret}/data"):
        assert guids(machine, f"{TARGET}/{name}") == guids(machine, name)
        columns = "encryption,keystatus"
        assert machine.run(f"zfs list -H -o {columns} {TARGET}/{name}").stdout.split() == [
            "aes-256-gcm",
            "unavailable",
        ]
    machine.run(f"echo 12345678 | zfs load-key {secret} && zfs mount {secret} && zfs mount {secret}/data")
    write(machine, f"{secret}/data", 1)
    take(machine, "three", datasets=[secret])
    assert [v["sent"] for v in replica(machine, **options)["containers"][0]["volumes"]] == [["three"], ["three"]]
    assert replica(machine, **options)["changed"] is False
    # With the key, the replica is the same down to the last byte.
    there = f"{TARGET}/{secret}/data"
    machine.run(f"echo 12345678 | zfs load-key {there} && zfs set mountpoint=/mnt {there} && zfs mount {there}")
    assert machine.run(f"cmp /mnt/filling /{secret}/data/filling", check=False).rc == 0


@pytest.mark.slow
def test_encrypted_as_the_target_is(machine: Machine) -> None:
    """Decrypted here, and in the clear where the target is."""
    secret = "tank/containers/secret"
    machine.run(f"echo 12345678 | zfs create -o encryption=on -o keyformat=passphrase -o recordsize=16k {secret}")
    write(machine, secret, 2)
    take(machine, ["one", "two"], datasets=[secret])
    for sent in (["one", "two"], ["three"]):
        (volume,) = replica(machine, datasets=[secret], raw="never")["containers"][0]["volumes"]
        assert volume["sent"] == sent
        if sent == ["one", "two"]:
            take(machine, "three", datasets=[secret])
    assert guids(machine, f"{TARGET}/{secret}") == guids(machine, secret)
    columns = "encryption,recordsize,readonly"
    assert machine.run(f"zfs list -Hp -o {columns} {TARGET}/{secret}").stdout.split() == ["off", "16384", "on"]


@pytest.mark.timeout(1500)
@pytest.mark.slow
def test_fifty_increments_with_retention_on_both_ends(machine: Machine) -> None:
    code = f"""
import json
from {UTILS}.zfs.checkpoint import prune, take
from {UTILS}.zfs.host import Zfs, find_host
from {UTILS}.zfs.replicate import Target, Wish, replicate
from {UTILS}.zfs.store import Store
host, store = find_host(Zfs(), datasets=[{IDLE!r}]), Store()
wish = Wish(Target({TARGET!r}), keep={{"last": 7}})
told = []
for number in range(51):
    with open("/{IDLE}/number", "w") as file:
        file.write(str(number))
    take(host, store, ["idle"], f"lxcri-{{number:02}}")
    result = replicate(host, store, ["idle"], wish)
    [container] = result["containers"]
    [volume] = container["volumes"]
    prune(host, store, ["idle"], {{"last": 3}})
    told.append([volume["base"], volume["sent"], container["removed"], container["notes"], result.get("failure")])
print(json.dumps(told))
"""
    printed = machine.run(["python3", "-c", code], env={"PYTHONPATH": PACKAGES}, timeout=1400).stdout
    names = [f"lxcri-{number:02}" for number in range(51)]
    for number, (base, sent, removed, notes, failure) in enumerate(json.loads(printed)):
        assert base == (names[number - 1] if number else None)
        assert sent == [names[number]]
        assert removed == ([names[number - 7]] if number >= 7 else [])
        assert (notes, failure) == ([], None)
    here, there = guids(machine, IDLE), guids(machine, f"{TARGET}/{IDLE}")
    assert list(there) == names[-7:]
    assert set(here) <= set(there)
    assert here.items() <= there.items()
    assert 3 <= len(here) <= 4
    assert holds(machine, IDLE) == holds(machine, f"{TARGET}/{IDLE}") == names[-1:]
    assert len(cursors(machine, IDLE)) == 1
    kept = machine.run("ls /var/lib/lxcri/replicas/*/checkpoints/idle").stdout.split()
    assert kept == names[-7:]


@pytest.mark.slow
def test_retention_is_predicted(machine: Machine) -> None:
    take(machine, [f"c{number}" for number in range(6)], "103")
    options = {"keep": {"last": 2}}
    for _round in range(2):
        state = everything(machine)
        planned = replica(machine, "103", check_mode=True, **options)
        assert everything(machine) == state
        result = replica(machine, "103", **options)
        assert planned["containers"][0]["removed"] == result["containers"][0]["removed"]
        assert planned["containers"][0]["plan"] == result["containers"][0]["plan"]
        assert list(guids(machine, REPLICA)) == volume(result)["sent"][-2:]
        assert replica(machine, "103", **options)["changed"] is False
        take(machine, ["d0", "d1", "d2"], "103")
    # The base stays also when there are newer ones that no replication has seen.
    take(machine, ["d3", "d4"], "103")
    machine.module("zfs_checkpoint", {"vmids": ["103"], "state": "absent", "prefix": "d", "keep": {"last": 1}})
    assert [name for name in guids(machine, COUNTER) if name.startswith("d")] == ["d2", "d4"]
    assert volume(replica(machine, "103"))["base"] == "d2"


def test_absent_lets_go(machine: Machine) -> None:
    take(machine, "one", "103")
    replica(machine, "103")
    replica(machine, "103", **SSH)
    assert len(holds(machine, COUNTER)) == len(cursors(machine, COUNTER)) == 2
    state = everything(machine)
    assert replica(machine, "103", check_mode=True, state="absent")["changed"]
    assert everything(machine) == state
    assert replica(machine, "103", state="absent")["changed"]
    assert replica(machine, "103", state="absent")["changed"] is False
    assert len(holds(machine, COUNTER)) == len(cursors(machine, COUNTER)) == 1
    assert replica(machine, "103", state="absent", **SSH)["changed"]
    assert holds(machine, COUNTER) == cursors(machine, COUNTER) == []
    assert guids(machine, REPLICA) == guids(machine, COUNTER)
    machine.run(f"zfs destroy {COUNTER}@one")


def test_what_is_mounted_by_hand(machine: Machine) -> None:
    """It is replicated like others, and restored while it is not mounted."""
    machine.run(f"pct stop 102; zfs set mountpoint=legacy {LEGACY} && mkdir -p /srv/x && mount -t zfs {LEGACY} /srv/x")
    take(machine, "one", "102")
    machine.run("echo x >/srv/x/new; sync")
    for raw in ("auto", "never"):
        options = {"target": TARGET if raw == "auto" else "backup", "raw": raw}
        assert volume(replica(machine, "102", **options))["sent"] == ["one"]
        columns = "mountpoint,canmount,mounted"
        there = f"{options['target']}/{LEGACY}"
        assert machine.run(f"zfs list -H -o {columns} {there}").stdout.split() == ["none", "noauto", "no"]
    restore: dict[str, t.Any] = {"vmids": ["102"], "state": "restored"}
    assert refused(machine, "dataset_busy", **restore)["details"]["dataset"] == LEGACY
    machine.run("umount /srv/x")
    assert machine.module("zfs_checkpoint", restore)["changed"]
    machine.run(f"mount -t zfs {LEGACY} /srv/x && test ! -e /srv/x/new")


def test_a_container_moves(machine: Machine) -> None:
    """As docs/replication.md tells it, with another pool in the place of another node."""
    options = {"target": "tank/ct", **SSH}
    take(machine, "first", "103")
    replica(machine, "103", **options)
    machine.write(f"/{COUNTER}/between", "written between the two\n")
    machine.run("pct stop 103")
    count = machine.read(f"/{COUNTER}/count")
    take(machine, "last", "103")
    assert volume(replica(machine, "103", **options))["base"] == "first"
    moved = "tank/ct/subvol-103-disk-0"
    there = machine.run(f"""
        zfs rename tank/ct/{COUNTER} {moved} &&
        zfs inherit lxcri:source {moved} && zfs inherit readonly {moved} &&
        zfs set canmount=on {moved} && zfs inherit mountpoint {moved} &&
        sed s/local-zfs:/tank-zfs:/ /var/lib/lxcri/checkpoints/103/last/config >/etc/pve/lxc/103.conf &&
        cat /{moved}/between /{moved}/count && pct start 103
    """).stdout
    assert there == f"written between the two\n{count}"
    assert machine.run("pct status 103").stdout == "status: running\n"
