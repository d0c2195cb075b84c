# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that are killed at each of their writes, before it is sent or while it is carried out: the next one finishes.

A killed process does nothing any more, neither reads nor clears up; so nothing that the module sends afterwards
arrives. What Proxmox has begun goes on.
"""

from __future__ import annotations

import contextlib
import threading
import typing as t
from unittest import mock

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator
from ansible_collections.lxcri.proxmox.tests.wire.services import BAD, Services
from ansible_collections.lxcri.proxmox.tests.wire.test_drain import Drain
from ansible_collections.lxcri.proxmox.tests.wire.test_lxc_fleet_rollout import (
    ALL_DATA,
    Fleet,
    app,
    data,
    image,
    images,
    pods,
    services,
    web,
)

__all__ = ["app", "pods", "services", "web"]

# Tasks take some hundredths of a second, so that the next run meets them.
SLOW = pytest.mark.parametrize("cluster", [{"time_scale": 0.02}], indirect=True)
SENT = pytest.mark.parametrize("sent", [False, True], ids=["before", "during"])


def steps(last: int, every: int) -> t.Any:
    """The writes of a roll-out. Each takes seconds: the continuous integration has the first and every so many."""
    return [pytest.param(at, marks=() if at % every == 1 else pytest.mark.slow) for at in range(1, last + 1)]


class Killed(BaseException):
    """The process is no more; nothing catches that."""


@contextlib.contextmanager
def killed(at: int, sent: bool) -> t.Iterator[None]:
    """Kill what runs in here at its write number ``at``: before it is sent, or before its answer is read.

    Raises:
        AssertionError: it has made fewer writes.
    """
    original, lock = Client._send, threading.Lock()
    writes = 0

    def send(self: Client, api: t.Any, method: str, path: str, *rest: t.Any) -> t.Any:
        nonlocal writes
        with lock:
            number = writes = writes + (method != "GET")
        if number > at or (number == at and (method == "GET" or not sent)):
            raise Killed
        answer = original(self, api, method, path, *rest)
        if number == at:
            raise Killed
        return answer

    with mock.patch.object(Client, "_send", send), contextlib.suppress(Killed):
        yield
    assert writes >= at, f"there are only {writes} writes"


def complete(fleet: Fleet, works: t.Collection[str]) -> None:
    """Nothing is left of it but containers that run."""
    assert fleet.states() == dict.fromkeys(works, "running")
    assert fleet.snapshots() == {}
    for ct in fleet.cluster.cluster.cts:
        assert "former=" not in str(ct.config.get("description")), ct.name


# ------------------------------------------------------------------------------------------------------- drains


@pytest.fixture
def drain(cluster: Simulator) -> Drain:
    """A container that runs and one that does not, and a pod of two."""
    it = Drain(cluster)
    it.add(201, status="running", config={"description": "Mine"})
    it.add(202)
    for vmid in (203, 204):
        it.add(vmid, status="running", config={"tags": "shop;shop.app;shop.app.1"})
    return it


@SLOW
@SENT
@pytest.mark.parametrize("at", range(1, 9))
def test_a_drain(drain: Drain, at: int, sent: bool) -> None:
    with killed(at, sent):
        drain()
    drain()
    drain.unchanged()
    where = drain.where()
    assert "pve1" not in {node for node, _status in where.values()}
    assert [where[vmid][1] for vmid in sorted(where)] == ["running", "stopped", "running", "running"]
    assert where[203] == where[204]
    drain.converge(state="returned")
    assert {node for node, _status in drain.where().values()} == {"pve1"}


@SLOW
@SENT
@pytest.mark.parametrize("at", range(1, 9))
def test_a_return(drain: Drain, at: int, sent: bool) -> None:
    drain.converge()
    with killed(at, sent):
        drain(state="returned")
    drain(state="returned")
    drain.unchanged(state="returned")
    assert drain.where() == {
        vmid: ("pve1", status) for vmid, status in zip(range(201, 205), ("running", "stopped", "running", "running"))
    }
    assert {vmid: text.strip() for vmid, text in drain.marks().items()} == {201: "Mine"}


# ---------------------------------------------------------------------------------------------- changes in batches


@SLOW
@SENT
@pytest.mark.parametrize("at", range(1, 6))
def test_replicas_without_a_rollback(web: Fleet, at: int, sent: bool) -> None:
    web.strategy = {"group": "web", "max_unavailable": 2}
    changes: dict[str, t.Any] = {"memory": 512, "features": {"nesting": True}}
    with killed(at, sent):
        web(**changes)
    web(**changes).succeeded()
    complete(web, ["web-1", "web-2", "web-3", "web-4", "web-5"])
    assert web.memories() == [512] * 5
    web.unchanged(**changes)


@SLOW
@SENT
@pytest.mark.parametrize("memory", [512, BAD])
@pytest.mark.parametrize("at", steps(6, every=3))
def test_a_rollback(web: Fleet, at: int, sent: bool, memory: int) -> None:
    """The first six writes are the change of a bad replica, and its way back."""
    changes: dict[str, t.Any] = {"memory": memory, "features": {"nesting": True}}
    with killed(at, sent):
        web(**changes)
    run = web(**changes)
    complete(web, ["web-1", "web-2", "web-3", "web-4", "web-5"])
    if memory == BAD:
        assert (run.codes(), web.memories()) == ({"web-1": "health_check_failed"}, [256] * 5)
        assert run.rollout["kept"] == ["web-2", "web-3", "web-4", "web-5"]
        web(memory=512).succeeded()
    else:
        assert (run.codes(), web.memories()) == ({}, [512] * 5)
        web.unchanged(**changes)


@SLOW
@SENT
@pytest.mark.parametrize("at", steps(9, every=3))
def test_further_replicas(cluster: Simulator, services: Services, at: int, sent: bool) -> None:
    web = Fleet(cluster, services, replicas=2)
    web().succeeded()
    web.surge = 1
    web.strategy = {"group": "web", "max_unavailable": 0, "on_failure": "rollback"}
    with killed(at, sent):
        web(memory=512)
    web(memory=512).succeeded()
    complete(web, ["web-1", "web-2"])
    assert web.memories() == [512, 512]
    web.unchanged(memory=512)


@SLOW
@SENT
@pytest.mark.parametrize("at", steps(10, every=3))
def test_a_pod(pods: Fleet, at: int, sent: bool) -> None:
    """The first ten writes are the change of two containers, of which one is bad, and their way back."""
    with killed(at, sent):
        pods(memory=512, db={"memory": BAD})
    run = pods(memory=512, db={"memory": BAD})
    complete(pods, [f"shop-{n}-{member}" for n in (1, 2, 3) for member in ("app", "db")])
    assert set(run.codes()) == {"shop-1-app", "shop-1-db"}
    assert pods.memories() == [256] * 6
    pods(memory=512).succeeded()


# --------------------------------------------------------------------------------------------------------- images


@SLOW
@SENT
@pytest.mark.parametrize("at", steps(15, every=7))
def test_another_image(app: Fleet, at: int, sent: bool) -> None:
    with killed(at, sent):
        app(image=image("2"))
    app(image=image("2")).succeeded()
    complete(app, ["web-1", "web-2"])
    assert (images(app), data(app)) == ({"web-1": "2", "web-2": "2"}, ALL_DATA)
    app.unchanged(image=image("2"))


@SLOW
@pytest.mark.parametrize("at", steps(29, every=7))
def test_a_bad_image(app: Fleet, at: int) -> None:
    with killed(at, sent=True):
        app(image=image("2"), memory=BAD)
    run = app(image=image("2"), memory=BAD)
    assert run.codes() == {"web-1": "health_check_failed"}, run.result
    assert "It was rolled back and works as before." in run.result["msg"]
    complete(app, ["web-1", "web-2"])
    assert (images(app), data(app), app.memories()) == ({"web-1": "1", "web-2": "1"}, ALL_DATA, [256, 256])
    app.unchanged(image=image("1"))
