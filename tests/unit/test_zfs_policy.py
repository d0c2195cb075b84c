# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy of scheduled checkpoints, and when a job is due."""

from __future__ import annotations

import contextlib
import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.commands import Completed
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs import host, journal, schedule
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.checkpoint import Outcome, stamp
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.host import (
    Container,
    Host,
    LxcHost,
    Volume,
    Zfs,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.policy import Job, Policy, parse
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.store import Store


def policy(**top: t.Any) -> str:
    """A policy with a job, changed."""
    return json.dumps({"version": 1, "jobs": [{"name": "all"}], **top})


def job(**values: t.Any) -> str:
    """A policy whose job is changed."""
    return policy(jobs=[{"name": "all", **values}])


def replica(**values: t.Any) -> str:
    """A policy whose replica is changed."""
    return job(replicate=[{"target": "backup/replica", **values}])


def test_the_shortest_policy() -> None:
    found = parse(policy())
    assert found == Policy((Job("all", prefix="auto-all-"),))
    assert found.dataset_pattern == "tank/containers/<id>"


def test_a_full_policy() -> None:
    found = parse(
        json.dumps(
            {
                "version": 1,
                "timezone": "Europe/Vienna",
                "datasets": ["tank/containers/web"],
                "dataset_pattern": "tank/<id>",
                "lock_timeout": 2.5,
                "jobs": [
                    {
                        "name": "shop",
                        "vmids": [101, "web"],
                        "prefix": "shop.",
                        "every": "90m",
                        "methods": ["zfs", "vzdump"],
                        "keep": {"last": 3, "daily": 0},
                        "replicate": [
                            {
                                "target": "rpool/replica",
                                "host": "root@pve2",
                                "ssh_port": 2222,
                                "bandwidth": "10M",
                                "raw": "always",
                                "timeout": 600,
                                "keep": {"weekly": 4},
                            }
                        ],
                    },
                    {"name": "rest", "exclude": [101]},
                ],
            }
        )
    )
    shop, rest = found.jobs
    assert (shop.ids, shop.prefix, shop.every, shop.methods) == (("101", "web"), "shop.", 5400, ("zfs", "vzdump"))
    assert shop.keep == {"last": 3}
    [wish] = shop.replicas
    assert wish.target.prefix == "rpool/replica"
    assert wish.target.ssh[-1] == "root@pve2"
    assert "2222" in wish.target.ssh
    assert (wish.bandwidth, wish.raw, wish.keep, wish.timeout) == (10 << 20, True, {"weekly": 4}, 600)
    assert wish.keep_timezone == "Europe/Vienna"
    assert not wish.overwrite_diverged
    assert (rest.ids, rest.exclude, rest.every) == ((), ("101",), 0)
    assert (found.datasets, found.dataset_pattern, found.lock_timeout) == (("tank/containers/web",), "tank/<id>", 2.5)


WRONG = [
    ("{", ""),
    ("[]", ""),
    ('{"version": 1, "version": 1, "jobs": []}', ""),
    ('{"jobs": [{"name": "all"}]}', "version"),
    (policy(version=2), "version"),
    (policy(version=True), "version"),
    (policy(extra=1), "extra"),
    (policy(jobs=[]), "jobs"),
    (policy(jobs={}), "jobs"),
    (policy(jobs=["all"]), "jobs[0]"),
    (policy(timezone="Mars/Olympus"), "timezone"),
    (policy(timezone=""), "timezone"),
    (policy(dataset_pattern="tank/containers"), "dataset_pattern"),
    (policy(datasets=["a", 5]), "datasets[1]"),
    (policy(lock_timeout="60"), "lock_timeout"),
    (policy(lock_timeout=-1), "lock_timeout"),
    (policy(jobs=[{}]), "jobs[0].name"),
    (job(name="All"), "jobs[0].name"),
    (job(name="a" * 19), "jobs[0].name"),
    (job(vmids="101"), "jobs[0].vmids"),
    (job(vmids=[101, True]), "jobs[0].vmids[1]"),
    (job(vmids=["../101"]), "jobs[0].vmids[0]"),
    (job(vmids=["101", 101]), "jobs[0].vmids[1]"),
    (job(vmids=[101], exclude=[102]), "jobs[0].exclude"),
    (job(prefix="-x"), "jobs[0].prefix"),
    (job(prefix="a@b"), "jobs[0].prefix"),
    (job(every="0h"), "jobs[0].every"),
    (job(every=3600), "jobs[0].every"),
    (job(every="1 h"), "jobs[0].every"),
    (job(methods=["zfs", "criu"]), "jobs[0].methods[1]"),
    (job(keep={"daily": "7"}), "jobs[0].keep.daily"),
    (job(keep={"daily": 1.5}), "jobs[0].keep.daily"),
    (job(keep={"daily": -1}), "jobs[0].keep.daily"),
    (job(keep={"minutely": 7}), "jobs[0].keep.minutely"),
    (job(keep={"daily": 0}), "jobs[0].keep"),
    (job(keep={}), "jobs[0].keep"),
    (job(keep=7), "jobs[0].keep"),
    (job(memory=True), "jobs[0].memory"),
    (job(replicate={"target": "backup"}), "jobs[0].replicate"),
    (job(replicate=[{}]), "jobs[0].replicate[0].target"),
    (replica(target="backup/@x"), "jobs[0].replicate[0].target"),
    (replica(host="-oProxyCommand=x"), "jobs[0].replicate[0].host"),
    (replica(ssh_port=2.5), "jobs[0].replicate[0].ssh_port"),
    (replica(ssh_port=0), "jobs[0].replicate[0].ssh_port"),
    (replica(ssh_options="x"), "jobs[0].replicate[0].ssh_options"),
    (replica(bandwidth="fast"), "jobs[0].replicate[0].bandwidth"),
    (replica(raw="no"), "jobs[0].replicate[0].raw"),
    (replica(timeout="1h"), "jobs[0].replicate[0].timeout"),
    (replica(keep={"last": None, "daily": []}), "jobs[0].replicate[0].keep.daily"),
    (replica(lose=["x"]), "jobs[0].replicate[0].lose"),
    (policy(jobs=[{"name": "a"}, {"name": "a"}]), "jobs[1].name"),
    (policy(jobs=[{"name": "a", "prefix": "x-"}, {"name": "b", "prefix": "x-y-"}]), "jobs[1].prefix"),
]


@pytest.mark.parametrize(("text", "path"), WRONG, ids=[f"{n}:{path}" for n, (_text, path) in enumerate(WRONG)])
def test_wrong_values_are_named_by_their_path(text: str, path: str) -> None:
    with pytest.raises(Failure) as caught:
        parse(text)
    assert caught.value.code == "invalid_policy"
    assert caught.value.details["path"] == path
    assert caught.value.message.startswith(f"{path or 'policy'}: ")
    assert caught.value.message.endswith(".")
    assert not caught.value.message.endswith("..")


def test_names_that_proxmox_takes() -> None:
    """The longest name of a job, with the time."""
    longest = parse(job(name="a" * 18)).jobs[0]
    assert len(stamp(longest.prefix)) <= 40


@pytest.mark.parametrize(
    ("every", "age", "expected"),
    [
        (0, 0, True),
        (3600, None, True),
        (3600, 3600, True),
        (3600, 3300, True),  # the run before was a little late
        (3600, 3200, False),
        (86400, 3600, False),
        (86400, 23 * 3600, False),  # an hourly timer must not move it by an hour each day
        (604800, 6.5 * 86400, False),
        (86400, 86400 - 500, True),
        (3600, -5, True),  # dated in the future
    ],
)
def test_due(every: int, age: float | None, expected: bool) -> None:
    now = 1_000_000.0
    assert schedule.due(Job("a", every=every), None if age is None else now - age, now) == expected


# ------------------------------------------------------------------------------------------------ failures of some


class Machine(LxcHost):
    """Containers, each with one volume on ZFS; some are missing."""

    def __init__(self, *ids: str) -> None:
        super().__init__(Zfs())
        self.known = ids

    def ids(self) -> list[str]:
        return list(self.known)

    def container(self, container_id: str) -> Container:
        if container_id not in self.known:
            raise Failure("container_missing", "gone", container=container_id)
        if container_id == "ceph":
            return Container(container_id, (Volume("rootfs", "x", None, "rootfs is on ceph"),), False)
        return Container(container_id, (Volume("rootfs", "x", f"rpool/{container_id}"),), False)


@pytest.fixture
def took(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Replaces all work; the containers of each call of take. "bad" says that it is the reason, "odd" does not."""
    calls: list[tuple[str, ...]] = []

    def take(_host: Host, _store: Store, ids: t.Sequence[str], name: str, **_options: t.Any) -> list[Outcome]:
        calls.append(tuple(ids))
        if "bad" in ids:
            raise Failure("locked", "bad is locked.", container="bad")
        if "odd" in ids:
            raise OSError(28, "No space left on device")
        return [Outcome(container, name) for container in ids]

    monkeypatch.setattr(schedule, "take", take)
    monkeypatch.setattr(schedule, "known", lambda _host, containers, _store: ({}, {c.id: [] for c in containers}))
    monkeypatch.setattr(schedule, "recover", lambda *_arguments: [])
    monkeypatch.setattr(schedule, "prune", lambda _host, _store, ids, *_rest, **_options: [Outcome(i) for i in ids])
    return calls


def run(host: Host, tmp_path: Path, *jobs: Job, check_mode: bool = False) -> tuple[int, list[dict[str, t.Any]]]:
    """How many failures there were, and what was told."""
    told: list[dict[str, t.Any]] = []
    runner = schedule.Runner(
        Policy(jobs),
        host,
        Store(str(tmp_path)),
        lambda priority, record: told.append({**record, "<": priority}),
        check_mode,
    )
    runner.run()
    return runner.failed, told


def test_who_fails_does_not_stop_the_others(took: list[tuple[str, ...]], tmp_path: Path) -> None:
    failed, told = run(Machine("a", "bad", "b"), tmp_path, Job("all", keep={"last": 1}))
    assert took == [("a", "bad", "b"), ("a", "b")]
    assert failed == 1
    [failure] = [record for record in told if record["event"] == "failed"]
    assert (failure["container"], failure["code"], failure["action"], failure["<"]) == (
        "bad",
        "locked",
        "checkpoint",
        3,
    )
    assert [record["container"] for record in told if record["event"] == "checkpoint"] == ["a", "b"]


def test_recovery_comes_before_the_look_at_the_containers(
    took: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Undone, the clone that was begun is gone; and a container whose dataset was set aside is in its place again."""
    machine = Machine("a", "begun")
    journal.write(Store(str(tmp_path)), "aside", {"work": "restore", "run": "1", "group": ["aside"], "phase": "begun"})

    def recover(_host: Host, _store: Store, ids: t.Sequence[str], check_mode: bool) -> list[dict[str, t.Any]]:
        if not check_mode:
            machine.known = ("a", "aside")
        return [{"container": each, "changed": True} for each in ids if each in ("begun", "aside")]

    monkeypatch.setattr(schedule, "recover", recover)
    for check_mode in (True, False):
        failed, told = run(machine, tmp_path, Job("all"), check_mode=check_mode)
        assert failed == 0, told
        recovered = [record["container"] for record in told if record["event"] == "recovered"]
        assert recovered == ["begun", "aside"]
    # What becomes of those is not known before.
    assert took == [("a",), ("a", "aside")]


def test_without_a_name_each_is_tried_alone(took: list[tuple[str, ...]], tmp_path: Path) -> None:
    failed, told = run(Machine("a", "odd", "b"), tmp_path, Job("all"))
    assert took == [("a", "odd", "b"), ("a",), ("odd",), ("b",)]
    assert failed == 1
    [failure] = [record for record in told if record["event"] == "failed"]
    assert (failure["container"], failure["code"]) == ("odd", "os_error")


def test_what_cannot_be_had(took: list[tuple[str, ...]], tmp_path: Path) -> None:
    """Left out of all containers; a failure for those that are named."""
    failed, told = run(Machine("a", "ceph", "b"), tmp_path, Job("all", exclude=("b",)))
    assert (failed, took) == (0, [("a",)])
    assert [record["event"] for record in told] == ["skipped", "checkpoint"]
    failed, told = run(Machine("a", "ceph"), tmp_path, Job("some", ids=("gone", "a", "ceph")))
    assert failed == 2
    assert [record.get("code") for record in told] == ["container_missing", "no_method", None]


@pytest.mark.parametrize(("proxmox", "code"), [(True, "pmxcfs_missing"), (False, "volume_missing")])
def test_nothing_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], proxmox: bool, code: str
) -> None:
    """The file system of Proxmox is not mounted, or the pool is not imported: there may be containers even so."""
    monkeypatch.setattr(host, "PVE", str(tmp_path / "pve"))
    if proxmox:
        (tmp_path / "pve").mkdir()
    (tmp_path / "policy.json").write_text(job(), encoding="utf-8")

    def run(argv: t.Sequence[str], stdin: str | None = None, timeout: float | None = None) -> Completed:
        return Completed(tuple(argv), 1, "", "cannot open 'tank/containers': dataset does not exist\n")

    words = ["--policy", str(tmp_path / "policy.json")]
    assert schedule.main(words, run, str(tmp_path / "state"), str(tmp_path / "lock")) == 1
    failed, end = [json.loads(line[3:]) for line in capsys.readouterr().err.splitlines()]
    assert (failed["event"], failed["code"]) == ("failed", code)
    assert (end["event"], end["failed"]) == ("end", 1)


def test_a_method_that_is_not_allowed(took: list[tuple[str, ...]], tmp_path: Path) -> None:
    """As above, since it may take far longer, or need far more room, than the one that was meant."""
    failed, told = run(Machine("a"), tmp_path, Job("all", methods=("vzdump",)))
    assert failed == 0
    assert [record["event"] for record in told] == ["skipped", "nothing"]
    failed, told = run(Machine("a"), tmp_path, Job("some", ids=("a",), methods=("vzdump",)))
    assert failed == 1
    assert (told[0]["code"], told[0]["details"]) == ("method_not_allowed", {"container": "a", "method": "zfs"})
    assert took == []


def test_a_bad_policy_is_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "policy.json").write_text(job(every="x"), encoding="utf-8")
    assert schedule.main(["--policy", str(tmp_path / "policy.json"), "--validate"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("<3>{")
    assert json.loads(line[3:])["details"]["path"] == "jobs[0].every"
    assert schedule.main(["--policy", str(tmp_path / "none.json")]) == 2
    (tmp_path / "policy.json").write_text(job(), encoding="utf-8")
    assert schedule.main(["--policy", str(tmp_path / "policy.json"), "--validate"]) == 0


def test_never_two_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "run" / "lock")
    with contextlib.ExitStack() as stack:
        stack.enter_context(schedule.alone(path))
        with pytest.raises(Failure) as caught:
            stack.enter_context(schedule.alone(path, timeout=0))
    assert caught.value.code == "lock_timeout"
    with schedule.alone(path, timeout=0):
        pass
