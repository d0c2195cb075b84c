# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps a container on its node, which node is best, the mark, and the steps of a drain."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.drain import (
    Mark,
    Move,
    Wish,
    explained,
    mark_of,
    plan_move,
    with_mark,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.image import mark_of as image_mark_of
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.image import with_mark as with_image_mark
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import Actual
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.placement import (
    Landscape,
    Unit,
    has_room,
    lacks,
    landscape_of,
    obstacles,
    place,
    pod_of,
    volumes_of,
    workloads_of,
)
from hypothesis import given
from hypothesis import strategies as st

GIB = 2**30
IMAGE = "<!-- lxcri.proxmox image=docker.io/library/nginx:1.29 digest=sha256:" + "a" * 64 + " -->"


def node(name: str, **more: t.Any) -> dict[str, t.Any]:
    return {"type": "node", "node": name, "status": "online", "mem": 0, "maxmem": 8 * GIB, **more}


def storage(name: str, where: str, **more: t.Any) -> dict[str, t.Any]:
    return {
        "type": "storage",
        "storage": name,
        "node": where,
        "plugintype": "zfspool",
        "content": "rootdir,images",
        "shared": 0,
        "disk": 0,
        "maxdisk": 100 * GIB,
        **more,
    }


def landscape(*entries: dict[str, t.Any]) -> Landscape:
    return landscape_of([node(name) for name in ("pve1", "pve2", "pve3")] + list(entries))


# ------------------------------------------------------------------------------------------------------ the mark

MARKS = st.builds(
    Mark, st.from_regex(r"\A[a-zA-Z0-9]([a-zA-Z0-9-]{0,20}[a-zA-Z0-9])?\Z"), st.integers(100, 10**9), st.booleans()
)


@given(st.text(st.characters(exclude_characters="\r"), max_size=80), MARKS, MARKS)
def test_a_mark_comes_and_goes_and_the_text_stays(text: str, one: Mark, other: Mark) -> None:
    plain = text.rstrip("\n")
    marked = with_mark(text, one)
    assert mark_of(marked, one.vmid) == one
    assert mark_of(marked, one.vmid + 1) is None
    # Proxmox adds a newline.
    assert with_mark(marked + "\n", None) == plain
    assert with_mark(marked, other) == with_mark(text, other)


def test_the_mark_of_an_image_and_that_of_a_home_leave_each_other_alone() -> None:
    home = Mark("pve1", 201, True)
    both = with_mark(f"Web\n\n{IMAGE}\n", home)
    assert (mark_of(both, 201), image_mark_of(both)) == (home, image_mark_of(IMAGE))
    assert mark_of(with_image_mark(both, None), 201) == home
    assert with_mark(both, None) == f"Web\n\n{IMAGE}"


# ------------------------------------------------------------------------------------------------- what is where


def test_what_the_cluster_says_of_nodes_and_storages() -> None:
    found = landscape(
        storage("local-zfs", "pve1", disk=40 * GIB),
        storage("local-zfs", "pve2", maxdisk=None, status="unknown"),
        {"type": "lxc", "node": "pve1", "vmid": 1, "tags": "lxcri;lxcri.web"},
        {"type": "qemu", "node": "pve1", "vmid": 2},
        node("pve4", status="offline", mem=None, maxmem=None, hastate="maintenance"),
    )
    assert found.stores["local-zfs"].free == {"pve1": 60 * GIB, "pve2": None}
    assert (found.guests, found.peers) == ({"pve1": 2}, {("lxcri.web", "pve1"): 1})
    four = found.nodes["pve4"]
    assert (four.online, four.memory, four.maintenance) == (False, 0, True)


def test_the_tags_of_workloads() -> None:
    tags = ("lxcri", "lxcri.web", "prod", "lxcri.web.1")
    assert (workloads_of(tags), pod_of(tags), pod_of(tags[:3])) == (("lxcri.web",), "lxcri.web.1", None)


def test_the_volumes_that_are_taken_along() -> None:
    config = {
        "rootfs": "local-zfs:subvol-1-disk-0,size=8G",
        "mp0": "tank:subvol-1-disk-1,mp=/srv,size=512M",
        "mp1": "/srv/data,mp=/data",
        "unused0": "tank:subvol-1-disk-2",
        "memory": 512,
    }
    assert [(volume.key, volume.storage, volume.size) for volume in volumes_of(config)] == [
        ("mp0", "tank", GIB // 2),
        ("rootfs", "local-zfs", 8 * GIB),
        ("unused0", "tank", 0),
    ]


@pytest.mark.parametrize(
    ("name", "linked"),
    [
        ("subvol-101-disk-0", False),
        ("basevol-101-disk-0", False),
        ("basevol-100-disk-0/subvol-101-disk-0", True),
        ("101/vm-101-disk-0.raw", False),
        ("100/base-100-disk-0.raw/101/vm-101-disk-0.raw", True),
        ("base-100-disk-0/vm-101-disk-0", True),
    ],
)
def test_linked_clones_stay(name: str, linked: bool) -> None:
    found = obstacles({"rootfs": f"local-zfs:{name}"}, [], landscape(storage("local-zfs", "pve1")), (), False)
    assert [reason.startswith("rootfs is a linked clone") for reason in found] == [True] * linked


def test_shared_storages_hold_nothing() -> None:
    ceph = [storage("ceph", name, shared=1, plugintype="rbd") for name in ("pve1", "pve2")]
    config = {"rootfs": "ceph:base-100-disk-0/vm-101-disk-0,size=8G"}
    assert obstacles(config, [], landscape(*ceph), (), False, has_snapshots=True) == []
    assert lacks(config, "pve2", landscape(*ceph), {"ceph": "tank"}, {}, "pve1") == []
    assert lacks(config, "pve3", landscape(*ceph), {}, {}, "pve1") == ["the storage ceph is not there"]
    # Nothing is copied.
    assert has_room(config, "pve2", landscape(*[{**entry, "disk": 100 * GIB} for entry in ceph]), {})


def test_what_cannot_be_seen_is_left_to_proxmox() -> None:
    config = {"rootfs": "hidden:subvol-1-disk-0,size=8G", "net0": "name=eth0,bridge=vmbr9"}
    assert obstacles(config, [], landscape(), (), False) == []
    assert lacks(config, "pve2", landscape(), {}, {"pve1": {"vmbr0"}, "pve2": {"vmbr0"}}, "pve1") == []
    assert has_room(config, "pve2", landscape(), {})


def test_a_mapping_to_a_storage_that_takes_no_containers() -> None:
    found = landscape(storage("fast", "pve1"), storage("slow", "pve2", content="images"))
    config = {"rootfs": "fast:subvol-1-disk-0,size=8G"}
    assert lacks(config, "pve2", found, {"fast": "slow"}, {}, "pve1") == [
        "the storage slow has no containers among its content types"
    ]


def test_raw_lines_that_mount_something() -> None:
    lines = [("lxc.mount.entry", "/dev/dri dev/dri none bind"), ("lxc.cap.drop", "sys_admin")]
    assert len(obstacles({}, lines, landscape(), (), False)) == 1
    assert obstacles({}, lines, landscape(), (), True) == []


def test_room_is_counted_over_all_volumes_of_a_storage() -> None:
    config = {"rootfs": "fast:subvol-1-disk-0,size=8G", "mp0": "fast:subvol-1-disk-1,mp=/srv,size=8G"}
    tight = landscape(storage("fast", "pve1"), storage("fast", "pve2", maxdisk=12 * GIB))
    assert not has_room(config, "pve2", tight, {})
    assert has_room({"rootfs": config["rootfs"]}, "pve2", tight, {})


# ----------------------------------------------------------------------------------------------------- placement


def unit(vmid: int, weight: int = GIB, nodes: str = "pve2 pve3", *workloads: str) -> Unit:
    return Unit((vmid,), weight, dict.fromkeys(nodes.split(), True), workloads)


def test_equal_ones_alternate() -> None:
    chosen = place([unit(vmid) for vmid in range(201, 207)], landscape())
    assert sorted(chosen.values()) == ["pve2"] * 3 + ["pve3"] * 3


def test_those_that_can_go_nowhere_are_left_out() -> None:
    assert place([Unit((201,), 0, {}), unit(202)], landscape()) == {202: "pve2"}


def test_those_of_one_unit_go_together() -> None:
    chosen = place([Unit((201, 202), GIB, {"pve2": True, "pve3": True}), unit(203)], landscape())
    assert (chosen[201], chosen[203]) == (chosen[202], "pve3")


def test_without_figures_of_memory_guests_are_counted() -> None:
    blind = landscape_of(
        [node("pve2", mem=None, maxmem=None), node("pve3", mem=None, maxmem=None)]
        + [{"type": "lxc", "node": "pve2", "vmid": vmid} for vmid in (1, 2)]
    )
    assert list(place([unit(201)], blind).values()) == ["pve3"]


@given(st.lists(st.integers(0, 4 * GIB), max_size=12), st.lists(st.integers(0, 8 * GIB), min_size=2, max_size=4))
def test_no_node_is_overfilled_where_another_has_room(weights: list[int], used: list[int]) -> None:
    """Every container goes somewhere; one goes to a node that overflows only when all of them would."""
    names = [f"n{number}" for number in range(len(used))]
    land = landscape_of([node(name, mem=memory) for name, memory in zip(names, used)])
    units = [Unit((vmid,), weight, dict.fromkeys(names, True)) for vmid, weight in enumerate(weights)]
    chosen = place(units, land)
    assert set(chosen) == set(range(len(weights)))
    load = dict(zip(names, used))
    for vmid in sorted(chosen, key=lambda vmid: (-weights[vmid], vmid)):
        fits = [name for name in names if load[name] + weights[vmid] <= 8 * GIB]
        assert not fits or chosen[vmid] in fits
        load[chosen[vmid]] += weights[vmid]


# ------------------------------------------------------------------------------------------------------ the steps

RAN, STOPPED = str(Mark("pve1", 201, True)), str(Mark("pve1", 201, False))


@pytest.mark.parametrize(
    ("state", "where", "status", "mark", "target", "steps"),
    [
        ("drained", "pve1", "running", "", "pve2", ["marked", "migrated"]),
        ("drained", "pve1", "stopped", "", "pve2", ["marked", "migrated"]),
        ("drained", "pve1", "running", RAN, "pve2", ["migrated"]),
        ("drained", "pve1", "stopped", RAN, "pve2", ["migrated", "started"]),
        ("drained", "pve1", "running", STOPPED, "pve2", ["marked", "migrated"]),
        ("drained", "pve2", "stopped", RAN, None, ["started"]),
        ("drained", "pve2", "running", RAN, None, []),
        ("returned", "pve2", "running", RAN, "pve1", ["migrated", "marked"]),
        ("returned", "pve2", "stopped", RAN, "pve1", ["migrated", "started", "marked"]),
        ("returned", "pve2", "running", STOPPED, "pve1", ["migrated", "marked"]),
        ("returned", "pve2", "stopped", STOPPED, "pve1", ["migrated", "marked"]),
        ("returned", "pve1", "stopped", RAN, None, ["started", "marked"]),
        ("returned", "pve1", "stopped", STOPPED, None, ["marked"]),
    ],
)
def test_the_steps(state: str, where: str, status: str, mark: str, target: str | None, steps: list[str]) -> None:
    move = Move(Actual(201, where, status, {"hostname": "web-1", "description": f"{mark}\n"}), target=target)
    plan = plan_move(Wish("pve1", state), move, Landscape())
    assert [step.action for step in plan.steps] == steps
    assert plan.running_after == (status == "running" or "running" in mark)
    for step in plan.steps:
        path = step.path.partition("/lxc/")[0]
        moved = [step.action for step in plan.steps].index("migrated") if "migrated" in steps else len(steps)
        after = plan.steps.index(step) > moved
        assert path == f"nodes/{target if after else where}"


def test_the_reason_of_an_aborted_migration_is_told() -> None:
    log = [
        "2026-01-31 10:00:00 shutdown CT 201",
        "2026-01-31 10:03:00 ERROR: migration aborted (duration 00:03:00): container did not stop",
        "TASK ERROR: migration aborted",
    ]
    failed = Failure(
        "task_failed", "The task vzmigrate failed: migration aborted.", exitstatus="migration aborted", log=log
    )
    told = explained(failed)
    assert (told.code, told.details["exitstatus"]) == ("shutdown_timeout", "migration aborted")
    assert told.message == "The task vzmigrate failed: migration aborted: container did not stop."
    other = Failure("task_failed", "The task vzstart failed: no.", exitstatus="no", log=log)
    assert explained(other) is other
