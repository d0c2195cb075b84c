# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The schedule on real ZFS, from a copied tree, and what zfs_checkpoint_info tells of it."""

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.lxcri.proxmox.tests.lab.machine import COLLECTION, PACKAGES, Machine, Result
from ansible_collections.lxcri.proxmox.tests.lab.support import (
    calls,
    checkpoint,
    running,
    snapshots,
    state,
    watch,
)

POLICY = "/etc/lxcri/checkpoint.json"


def install(machine: Machine, *jobs: dict[str, t.Any], **top: t.Any) -> None:
    """Copy the code as the role does, and write a policy."""
    source = f"{PACKAGES}/{COLLECTION}/plugins/module_utils"
    machine.run(
        "mkdir -p /etc/lxcri /usr/local/lib/lxcri/lxcri/api && cd /usr/local/lib/lxcri/lxcri && "
        f"cp {source}/__init__.py {source}/retention.py . && cp -r {source}/node {source}/zfs . && "
        f"cp {source}/api/__init__.py {source}/api/errors.py api"
    )
    machine.write(POLICY, json.dumps({"version": 1, "jobs": list(jobs), **top}), 0o600)


def schedule(machine: Machine, *arguments: str, rc: int = 0, **env: str) -> list[dict[str, t.Any]]:
    """Run it; what it told, with the priorities."""
    done = attempt(machine, *arguments, **env)
    assert done.rc == rc, done
    return records(done)


def attempt(machine: Machine, *arguments: str, **env: str) -> Result:
    words = ["python3", "-m", "lxcri.zfs.schedule", *arguments]
    return machine.run(words, env={"PYTHONPATH": "/usr/local/lib/lxcri", **env}, check=False)


def records(done: Result) -> list[dict[str, t.Any]]:
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for line in done.stderr.splitlines():
        assert line[0] == "<", done.stderr
        assert line[2:4] == ">{", done.stderr
        found.append({**json.loads(line[3:]), "<": int(line[1])})
    return found


def info(machine: Machine, **options: t.Any) -> dict[str, t.Any]:
    """The result of ``zfs_checkpoint_info``, which changes nothing."""
    run = {key: options.pop(key) for key in ("check_mode", "env") if key in options}
    before = state(machine)
    result = machine.module("zfs_checkpoint_info", options, **run)
    assert not result.get("failed"), result
    assert result["changed"] is False
    assert state(machine) == before
    return result


def test_checkpoints_replication_and_pruning(machine: Machine) -> None:
    """Check says what is due and changes nothing; a run does it; a second run has less to do."""
    job = {
        "name": "some",
        "vmids": [101, 102],
        "keep": {"last": 1},
        "replicate": [{"target": "backup/replica"}],
    }
    install(machine, job)
    before = state(machine)
    plan = schedule(machine, "--check")
    assert state(machine) == before
    assert [(r["event"], r["container"]) for r in plan if r["event"] == "checkpoint"] == [
        ("checkpoint", "101"),
        ("checkpoint", "102"),
    ]
    first = schedule(machine)
    assert {r["<"] for r in first if r["event"] not in ("note",)} == {6}
    assert [r["container"] for r in first if r["event"] == "checkpoint"] == ["101", "102"]
    assert [r["container"] for r in first if r["event"] == "replicate"] == ["101", "102"]
    assert first[-1]["event"] == "end"
    assert first[-1]["failed"] == 0
    names = [r["name"] for r in first if r["event"] == "checkpoint"]
    assert names[0] == names[1]
    assert names[0].startswith("auto-some-")
    assert f"backup/replica/tank/ct/subvol-101-disk-0@{names[0]}" in snapshots(machine)
    for _turn in range(2):
        last = schedule(machine)
    # The newest stays; the base of the replication is held and stays as long as it is that.
    gone = [name for r in last if r["event"] == "prune" for name in r["names"]]
    assert gone
    found = info(machine, vmids=["101"])["checkpoints"]
    assert found[-1]["complete"]
    assert running(machine, "101")


def test_only_what_is_due(machine: Machine) -> None:
    """Not before its time, and not twice."""
    install(machine, {"name": "daily", "every": "1d"}, {"name": "each", "vmids": [102]})
    first = schedule(machine)
    assert [(r["job"], r["container"]) for r in first if r["event"] == "checkpoint"] == [
        ("daily", "101"),
        ("daily", "102"),
        ("daily", "103"),
        ("daily", "104"),
        ("each", "102"),
    ]
    second = schedule(machine)
    assert [(r["job"], r["container"]) for r in second if r["event"] == "checkpoint"] == [("each", "102")]


def test_one_fails_and_the_others_are_done(machine: Machine) -> None:
    machine.run("sed -i '1i lock: backup' /etc/pve/lxc/102.conf")
    install(machine, {"name": "all"})
    told = schedule(machine, rc=1)
    assert [r["container"] for r in told if r["event"] == "checkpoint"] == ["101", "103", "104"]
    [failure] = [r for r in told if r["event"] == "failed"]
    assert (failure["container"], failure["code"], failure["<"]) == ("102", "locked", 3)
    assert told[-1]["failed"] == 1


def test_a_bad_policy_does_nothing(machine: Machine) -> None:
    install(machine, {"name": "all", "keep": {"daily": "7"}})
    before = state(machine)
    [told] = schedule(machine, rc=2)
    assert told["code"] == "invalid_policy"
    assert told["details"]["path"] == "jobs[0].keep.daily"
    assert schedule(machine, "--check", rc=2) == [told]
    assert state(machine) == before


def test_never_two_at_once(machine: Machine) -> None:
    install(machine, {"name": "all"})
    machine.run("mkdir -p /run/lock/lxcri; setsid flock /run/lock/lxcri/schedule.lock sleep 40 >/dev/null 2>&1 &")
    [told] = schedule(machine, rc=1)
    assert told["code"] == "lock_timeout"
    assert snapshots(machine) == []


def test_killed_while_frozen(machine: Machine) -> None:
    """With the guard killed too, what is frozen stays so, until --thaw."""
    machine.run("mkdir -p /run/lxcri/frozen; touch /run/lxcri/frozen/101; lxc-freeze -n 101")
    install(machine, {"name": "all"})
    assert not running(machine, "101", 1)
    told = schedule(machine, "--thaw")
    assert [(r["event"], r["container"]) for r in told] == [("thawed", "101")]
    assert running(machine, "101")
    assert schedule(machine, "--thaw") == []


def test_killed_at_a_step(machine: Machine) -> None:
    """The next run puts it right."""
    install(machine, {"name": "all", "vmids": [101]})
    assert attempt(machine, LAB_KILL_AT="present:snapshot:rpool").rc != 0
    assert running(machine, "101")
    schedule(machine)
    [entry] = info(machine, vmids=["101"])["checkpoints"]
    assert entry["complete"]


def test_what_was_interrupted_comes_first(machine: Machine) -> None:
    """A restore whose volumes are not in their place, so that the container cannot be found; and a clone half made."""
    web = "tank/containers/web"
    checkpoint(machine, datasets=[web], name="one")
    machine.run(f"echo x >/{web}/data/new; sync")
    checkpoint(machine, vmids=["103"], name="one")
    for options, step in (
        ({"datasets": [web], "state": "restored"}, f"restore:aside:{web}"),
        ({"vmids": ["103"], "clone_to": {"vmid": "203"}}, "clone:config"),
    ):
        assert machine.module("zfs_checkpoint", options, env={"LAB_KILL_AT": step}).get("killed") == 9
    install(machine, {"name": "plain"}, datasets=[web])
    told = schedule(machine)
    assert [(r["event"], r["container"]) for r in told[:-1]] == [("recovered", "web"), ("checkpoint", "web")]
    assert running(machine, "web")
    assert machine.read(f"/{web}/data/new") == "x\n"
    install(machine, {"name": "all"})
    told = schedule(machine)
    assert [r["container"] for r in told if r["event"] == "recovered"] == ["203"]
    assert [r["container"] for r in told if r["event"] == "checkpoint"] == ["101", "102", "103", "104"]
    assert machine.run("test -e /etc/pve/lxc/203.conf", check=False).rc


def test_without_proxmox(machine: Machine) -> None:
    install(machine, {"name": "plain"}, datasets=["tank/containers/web"])
    told = schedule(machine)
    assert [r["container"] for r in told if r["event"] == "checkpoint"] == ["web"]
    [entry] = info(machine, datasets=["tank/containers/web"])["checkpoints"]
    assert [member["dataset"] for member in entry["members"]] == ["tank/containers/web", "tank/containers/web/data"]


def test_info_reads_everything_by_one_command(machine: Machine) -> None:
    """Sizes, holds and clones, in check mode as well."""
    checkpoint(machine, vmids=["101", "102"], name="one", hold="mine")
    machine.run("zfs clone -o canmount=noauto rpool/data/subvol-102-disk-0@one rpool/clone")
    env = watch(machine, "zfs")
    result = info(machine, env=env)
    assert len(calls(machine, "zfs list")) == 1
    first, second = result["checkpoints"]
    assert (first["container"], first["name"], first["holds"], first["clones"]) == ("101", "one", 1, [])
    assert second["clones"] == ["rpool/clone"]
    assert first["id"] == second["id"]
    assert [member["dataset"] for member in first["members"]] == [
        "rpool/data/subvol-101-disk-0",
        "rpool/data/subvol-101-disk-1",
        "tank/ct/subvol-101-disk-0",
    ]
    assert first["referenced"] == sum(member["referenced"] for member in first["members"]) > 0
    assert 0 <= first["age"] < 300
    assert result["totals"]["checkpoints"] == 2
    assert result["totals"]["held"] == 2
    again = info(machine, check_mode=True, name="one")
    assert [entry["id"] for entry in again["checkpoints"]] == [entry["id"] for entry in result["checkpoints"]]
    assert info(machine, name="two")["checkpoints"] == []


@pytest.mark.slow
def test_info_of_a_thousand_snapshots(machine: Machine) -> None:
    """Fifty containers with twenty checkpoints each: one command."""
    machine.run(
        "for id in $(seq 301 350); do zfs create -o canmount=noauto rpool/data/subvol-$id-disk-0; "
        "printf 'arch: amd64\\nhostname: c%s\\nrootfs: local-zfs:subvol-%s-disk-0,size=100M\\n' $id $id "
        ">/etc/pve/lxc/$id.conf; done"
    )
    made = """
import json, subprocess
for place in range(20):
    run = f"run-{place}"
    parts = {str(n): ["sha", [[f"rpool/data/subvol-{n}-disk-0", 0]]] for n in range(301, 351)}
    words = ["zfs", "snapshot", "-o", f"lxcri:checkpoint={run}", "-o", f"lxcri:complete={run}"]
    words += ["-o", f"lxcri:members={json.dumps(parts, separators=(',', ':'))}"]
    subprocess.run([*words, *(f"rpool/data/subvol-{n}-disk-0@auto-{place:02}" for n in range(301, 351))], check=True)
"""
    machine.run(["python3", "-c", made])
    env = watch(machine, "zfs")
    options = {"vmids": [str(number) for number in range(301, 351)]}
    result = machine.module("zfs_checkpoint_info", options, env=env)
    assert result["totals"]["checkpoints"] == 1000, result["totals"]
    assert result["totals"]["incomplete"] == 0
    assert len(calls(machine, "")) == 1
