# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page about a fleet: well-formed and escaped whatever is in it, with the figures that it was given."""

from __future__ import annotations

import typing as t
from xml.etree import ElementTree

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.lxcri.proxmox.plugins.filter.fleet_report import fleet_report
from ansible_collections.lxcri.proxmox.plugins.module_utils.report import (
    age,
    element,
    figures,
    newest_backups,
    page,
    size,
    value_of,
)
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_800_000_000.0
DAY = 86400
NODE: dict[str, t.Any] = {
    "node": "pve1",
    "status": "online",
    "maintenance": False,
    "cpu": 0.25,
    "maxcpu": 4,
    "mem": 1,
    "maxmem": 4,
    "disk": 95,
    "maxdisk": 100,
    "uptime": 7200,
    "containers": 1,
    "vms": 0,
}
STORE: dict[str, t.Any] = {
    "storage": "nas",
    "node": "pve1",
    "type": "nfs",
    "shared": True,
    "content": ["backup"],
    "status": "available",
    "used": 1,
    "total": 2,
}
CONTAINER: dict[str, t.Any] = {
    "vmid": 201,
    "node": "pve1",
    "hostname": "web-1",
    "status": "running",
    "template": False,
    "tags": ["prod"],
    "lock": None,
    "usage": {"maxcpu": 2, "mem": 1, "maxmem": 2, "disk": 1, "maxdisk": 2},
    "config": {"description": "Shop\n"},
    "snapshots": [{"name": "a", "snaptime": int(NOW) - 3 * DAY}],
    "addresses": [{"address": "192.0.2.1/24"}],
}
BACKUP: dict[str, t.Any] = {"vmid": 201, "type": "lxc", "time": int(NOW) - 2 * DAY, "storage": "nas", "verified": None}


def tree(text: str) -> ElementTree.Element:
    """The page as XML, which it is as well."""
    assert text.startswith("<!DOCTYPE html>\n")
    return ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))


def words(text: str) -> str:
    return " ".join("".join(tree(text).itertext()).split())


def cluster(**more: t.Any) -> dict[str, t.Any]:
    return {"nodes": [NODE], "storages": [STORE], "backups": [BACKUP], **more}


ANYTHING = st.text(max_size=30)
NASTY = st.one_of(
    ANYTHING, st.sampled_from(["<script>", "</td>", "&amp;", '"', "'", "]]>", "\x00", "<!--", "\ud800", "\u202e"])
)


@given(NASTY, NASTY, NASTY, NASTY, NASTY)
def test_whatever_a_name_or_a_description_is_the_page_is_well_formed(
    name: str, tag: str, described: str, reason: str, title: str
) -> None:
    container = {**CONTAINER, "hostname": name, "tags": [tag], "config": {"description": described}, "lock": tag}
    drift = {
        "containers": [
            {
                "hostname": name,
                "vmid": 1,
                "plan": [{"key": tag, "before": described, "after": {name: tag}, "effect": "live"}],
            },
            {"hostname": name, "vmid": 2, "plan": [], "failure": {"message": reason}},
        ]
    }
    found = cluster(nodes=[{**NODE, "node": name, "status": tag}], storages=[{**STORE, "storage": name, "node": tag}])
    text = page(found, [container], drift, title, NOW, notes=[reason])
    plain = page(cluster(), [CONTAINER], {"containers": [{"hostname": "a", "plan": []}]}, "a", NOW, notes=["a"])
    known = {node.tag for node in tree(plain).iter()} | {"bdi", "div"}
    assert {node.tag for node in tree(text).iter()} <= known
    assert not [name for node in tree(text).iter() for name in node.attrib if name.startswith("on")]


def test_the_page_loads_nothing_and_is_readable_without_eyes() -> None:
    text = page(cluster(), [CONTAINER], None, "Fleet", NOW)
    root = tree(text)
    assert not {"script", "link", "img", "iframe"} & {node.tag for node in root.iter()}
    assert "url(" not in text
    assert "@import" not in text
    assert root.get("lang") == "en"
    assert [node.text for node in root.iter("title")] == ["Fleet"]
    for table in root.iter("table"):
        heads = table.findall("./thead/tr/th")
        assert heads
        assert all(head.get("scope") == "col" for head in heads)
        for row in table.findall("./tbody/tr"):
            assert row[0].tag == "th"
            assert sum(int(cell.get("colspan") or 1) for cell in row) == len(heads)
    for region in root.iter("div"):
        if region.get("role") == "region":
            assert region.get("aria-label")
            assert region.get("tabindex") == "0"


def test_the_figures() -> None:
    containers = [
        CONTAINER,
        {**CONTAINER, "vmid": 202, "status": "stopped", "snapshots": []},
        {**CONTAINER, "vmid": 203, "snapshots": None},
        {**CONTAINER, "vmid": 100, "template": True},
    ]
    backups = [BACKUP, {**BACKUP, "vmid": 202, "time": int(NOW) - 30 * DAY}, {**BACKUP, "vmid": 203, "type": "qemu"}]
    drift = {"containers": [{"hostname": "a", "plan": [{"key": "x"}, {"key": "y"}]}, {"hostname": "b", "plan": []}]}
    found = cluster(backups=backups, nodes=[NODE, {**NODE, "status": "offline"}])
    assert figures(found, containers, drift, NOW, 7) == {
        "nodes": 2,
        "online": 1,
        "containers": 3,
        "running": 2,
        "templates": 1,
        "snapshots": 1,
        "without_backup": 1,
        "old_backup": 1,
        "drifted": 1,
    }
    unread = {"nodes": [NODE], "storages": []}
    assert figures(unread, containers, None, NOW, 7)["without_backup"] is None


def test_the_newest_backup_of_each_counts() -> None:
    older = {**BACKUP, "time": 5}
    assert newest_backups([older, BACKUP, {**BACKUP, "vmid": None}]) == {201: BACKUP}


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, "2 d nas"),
        ({"time": int(NOW) - 9 * DAY}, "9 d nas"),
        ({"verified": False}, "not verified"),
        ({"vmid": 999}, "none"),
    ],
)
def test_the_backup_of_a_container(changes: dict[str, t.Any], shown: str) -> None:
    assert shown in words(page(cluster(backups=[{**BACKUP, **changes}]), [CONTAINER], None, "Fleet", NOW))


def test_what_is_not_known_is_said() -> None:
    blind = {**NODE, "cpu": None, "mem": None, "maxmem": None, "disk": None, "maxdisk": None, "uptime": None}
    container = {"vmid": 201, "node": "pve1", "hostname": None, "status": "unknown", "snapshots": None, "usage": None}
    text = words(page({"nodes": [blind], "storages": []}, [container], {}, "Fleet", NOW, notes=["pve2 is silent"]))
    assert "pve2 is silent" in text
    assert "unknown" in text
    assert "Everything is as declared." in text
    assert "None that this user or token may see." in text
    assert "Newest backup" not in text


def test_a_shared_storage_is_one_row() -> None:
    stores = [
        {**STORE, "node": name, "status": status} for name, status in (("pve1", "unknown"), ("pve2", "available"))
    ]
    text = words(page(cluster(storages=stores), [], None, "Fleet", NOW))
    assert "2 nodes, shared" in text
    assert "pve1, shared" in words(page(cluster(), [], None, "Fleet", NOW))
    assert "There are none." in text
    assert "50%" in text


def test_the_drift_that_could_not_be_told() -> None:
    text = words(page(cluster(), [], {"failure": {"message": "memroy is no option"}}, "Fleet", NOW))
    assert "memroy is no option" in text


def test_the_collections_own_marks_are_not_shown() -> None:
    container = {**CONTAINER, "config": {"description": "Shop <!-- lxcri.proxmox home=pve1 vmid=201 was=running -->"}}
    assert "home=" not in words(page(cluster(), [container], None, "Fleet", NOW))


@pytest.mark.parametrize(
    ("count", "shown"),
    [(None, "–"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (200 * 2**20, "200 MiB"), (3 * 2**50, "3072 TiB")],
)
def test_sizes(count: int | None, shown: str) -> None:
    assert size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "–"), (5, "just now"), (61, "1 min"), (7200, "2 h"), (3 * DAY + 5, "3 d"), (-5, "in the future")],
)
def test_ages(seconds: float | None, shown: str) -> None:
    assert age(seconds) == shown


def test_values() -> None:
    assert value_of(None) == "–"
    assert value_of({"b": 1, "a": [True]}) == '{"a": [true], "b": 1}'
    assert value_of("a\n b" + "x" * 500).startswith("a bxxx")
    assert len(value_of("x" * 500)) == 160


def test_an_element() -> None:
    assert element("p", None, "a<", [1, element("b", "x")], class_="y&", hidden=True, lang=None) == (
        '<p class="y&amp;" hidden="hidden">a&lt;1<b>x</b></p>'
    )


def test_the_filter_refuses_what_is_no_result() -> None:
    assert "Fleet" in fleet_report(cluster(), [CONTAINER], now=NOW)
    with pytest.raises(AnsibleFilterError, match="pve_cluster_info"):
        fleet_report({"storages": []}, [CONTAINER])
