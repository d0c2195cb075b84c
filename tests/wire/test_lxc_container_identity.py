# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""lxc_container and which container is meant, while the cluster's list is seconds behind."""

from __future__ import annotations

import pytest
from ansible_collections.lxcri.proxmox.tests.wire.support import LISTS, NEW, RESOURCES, Lxc, base, reads


def test_two_containers_with_one_name_are_ambiguous(lxc: Lxc) -> None:
    lxc.add(201, name="web")
    lxc.add(205, name="web", node="pve2")
    run = lxc.refused("ambiguous_hostname", hostname="web", memory=1024)
    assert run.details == {"hostname": "web", "vmids": [201, 205]}
    assert "201, 205" in run.result["msg"]
    lxc.converge(vmid=205, hostname="web", state="stopped", memory=1024)


def test_the_id_of_a_vm_is_refused(lxc: Lxc) -> None:
    lxc.cluster.call("add_vm", 100, "db", node="pve2")
    run = lxc.refused("vmid_in_use", vmid=100, hostname="web-1", **NEW)
    assert "db on pve2" in run.result["msg"]
    lxc.refused("vmid_in_use", vmid=100, state="absent")
    # Its name is another matter.
    assert lxc.converge(vmid=300, hostname="db", **NEW).changed


def test_an_id_given_is_what_counts_and_the_name_is_set(lxc: Lxc) -> None:
    lxc.add(201)
    lxc.add(202)
    run = lxc.converge(vmid=201, hostname="shop", state="stopped")
    assert run.plan == [("hostname", "web-1", "shop", "live")]
    assert lxc.ct(202).name == "web-2"


def test_an_id_without_a_node_is_three_requests(lxc: Lxc) -> None:
    lxc.add(201, node="pve3")
    assert lxc.unchanged(vmid=201, state="stopped").asked == [RESOURCES, *reads(201, "pve3")]


def test_the_wrong_node_costs_two_more(lxc: Lxc) -> None:
    lxc.add(201, node="pve3")
    run = lxc.unchanged(vmid=201, node="pve1", state="stopped")
    assert run.asked == [f"GET {base()}/pending", RESOURCES, *reads(201, "pve3")]
    assert run.blocked == [("node", "pve3", "pve1", "live")]


@pytest.mark.parametrize("node", ["pve1", "pve2"])
def test_what_was_made_just_before_is_found_by_name_and_its_state_is_right(lxc: Lxc, node: str) -> None:
    lxc.add(201)
    lxc.apply(hostname="new-1", **{**NEW, "node": node})
    vmid = next(ct.vmid for ct in lxc.cluster.cluster.cts if ct.name == "new-1")
    run = lxc.unchanged(hostname="new-1")
    # It has no name in the cluster's list yet: its node is asked, which tells the state as well.
    assert run.asked == [RESOURCES, f"GET /nodes/{node}/lxc", f"GET {base(vmid, node)}/pending"]
    assert (run.container["vmid"], run.container["status"]) == (vmid, "running")


@pytest.mark.parametrize("state", ["started", "stopped"])
def test_what_was_started_or_stopped_just_before_is_read_where_it_is_current(lxc: Lxc, state: str) -> None:
    lxc.add(201, status="stopped" if state == "started" else "running")
    lxc.apply(hostname="web-1", state=state)
    run = lxc.unchanged(hostname="web-1", state=state)
    assert run.asked == [RESOURCES, *reads()]
    assert run.container["status"] == {"started": "running"}.get(state, state)


def test_what_was_renamed_just_before_is_found_by_its_new_name(lxc: Lxc) -> None:
    lxc.add(201, node="pve2")
    lxc.apply(vmid=201, hostname="shop", state="stopped")
    run = lxc.unchanged(hostname="shop", state="stopped")
    assert (run.asked[0], sorted(run.asked[1:4])) == (RESOURCES, LISTS)
    assert run.container["vmid"] == 201


def test_a_name_that_was_given_up_just_before_is_free(lxc: Lxc) -> None:
    lxc.add(201, node="pve2")
    lxc.apply(vmid=201, hostname="old", state="stopped")
    lxc.unchanged(hostname="web-1", state="absent")
    assert lxc.ct(201) is not None
    run = lxc.converge(hostname="web-1", **NEW)
    assert run.container["vmid"] != 201
    assert lxc.ct(201).name == "old"


def test_a_name_that_changed_hands_just_before_is_not_ambiguous(lxc: Lxc) -> None:
    lxc.add(201, node="pve2")
    lxc.add(202, node="pve3")
    lxc.apply(vmid=201, hostname="blue", state="stopped")
    lxc.apply(vmid=202, hostname="web-1", state="stopped")
    run = lxc.unchanged(hostname="web-1", state="stopped")
    assert run.container["vmid"] == 202


def test_a_new_container_with_the_name_of_one_renamed_just_before_is_not_ambiguous(lxc: Lxc) -> None:
    lxc.add(201, node="pve2")
    lxc.apply(vmid=201, hostname="blue", state="stopped")
    made = lxc.apply(hostname="web-1", **NEW).container["vmid"]
    run = lxc.unchanged(hostname="web-1")
    assert run.container["vmid"] == made


def test_the_source_of_a_clone_is_the_one_that_has_the_name_by_now(lxc: Lxc) -> None:
    lxc.add(901, name="golden", template=True, node="pve2")
    lxc.add(902, name="golden-next", template=True, node="pve2")
    lxc.apply(vmid=901, hostname="golden-old", state="template")
    lxc.apply(vmid=902, hostname="golden", state="template")
    run = lxc.converge(vmid=300, hostname="app-1", clone={"hostname": "golden"})
    assert run.writes[0][1] == f"{base(902, 'pve2')}/clone"


def test_what_was_removed_just_before_is_made_anew(lxc: Lxc) -> None:
    lxc.add(201)
    lxc.apply(hostname="web-1", state="absent")
    run = lxc.converge(hostname="web-1", **NEW)
    assert run.plan[0] == ("state", "absent", "present", "live")


def test_what_was_migrated_just_before_is_found_where_it_is(lxc: Lxc) -> None:
    lxc.add(201)
    lxc.apply(vmid=201, node="pve2", migrate=True, state="stopped")
    lxc.unchanged(hostname="web-1", node="pve2", state="stopped")


def test_a_name_that_nobody_knows_yet_is_asked_for_at_its_node(lxc: Lxc) -> None:
    # Others have made it, and the statistics have not seen it.
    lxc.add(300, name="new-1", node="pve3", status="running")
    lxc.cluster.call(lambda cluster: cluster._known.pop(300))
    run = lxc.unchanged(hostname="new-1")
    assert run.asked == [RESOURCES, LISTS[2], f"GET {base(300, 'pve3')}/pending"]


def test_the_default_name_of_a_container_counts_as_its_name(lxc: Lxc) -> None:
    lxc.add(201)
    del lxc.ct(201).config["hostname"]
    lxc.cluster.call(lambda cluster: cluster.settle(cluster.ct(201)))
    assert lxc.converge(hostname="CT201", state="present").container["vmid"] == 201


def test_a_name_with_nothing_to_make_it_from_is_not_found(lxc: Lxc) -> None:
    run = lxc.refused("not_found", hostname="web-9", state="stopped")
    assert "template, image, clone or restore" in run.result["msg"]
    node = lxc.refused("invalid_option", hostname="web-9", template=NEW["template"])
    assert node.details["option"] == "node"
