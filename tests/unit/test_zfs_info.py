# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of checkpoints, from the output of one zfs list."""

from __future__ import annotations

import json
import shutil
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.commands import Completed
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs import host, info, model
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.model import Member, Part
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.store import Store

NOW = 2_000_000
STORAGES = "zfspool: local-zfs\n\tpool rpool/data\n\nzfspool: tank-zfs\n\tpool tank/ct\n"


def row(values: t.Mapping[str, t.Any]) -> str:
    """A line of zfs list."""
    return "\t".join(str(values.get(column, "-")) for column in model.COLUMNS)


def volume(name: str) -> str:
    return row({"name": name, "type": "filesystem", "guid": f"g-{name}"})


def run_of(
    name: str, created: int, members: t.Mapping[str, t.Sequence[str]], complete: bool = True, **values: t.Any
) -> list[str]:
    """The snapshots of a run: the volumes of each container."""
    parts = {container: Part(tuple(Member(d) for d in datasets), "sha") for container, datasets in members.items()}
    properties = model.encode(f"id-{name}", parts)
    if complete:
        properties[model.COMPLETE] = f"id-{name}"
    sizes = {"used": 1, "written": 10, "referenced": 100, "userrefs": 0, **values}
    return [
        row(
            {
                "name": f"{dataset}@{name}",
                "type": "snapshot",
                "guid": f"{dataset}-{name}",
                "createtxg": created,
                "creation": created,
                **sizes,
                **properties,
            }
        )
        for datasets in members.values()
        for dataset in datasets
    ]


class Node:
    """Answers zfs list, and counts it."""

    def __init__(self, *lines: str) -> None:
        self.lines = lines
        self.calls: list[tuple[str, ...]] = []

    def __call__(self, argv: t.Sequence[str], stdin: str | None = None, timeout: float | None = None) -> Completed:
        self.calls.append(tuple(argv))
        assert list(argv[:2]) == ["zfs", "list"]
        return Completed(tuple(argv), 0, "\n".join(self.lines), "")


@pytest.fixture
def pve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a node with the containers 101 (two volumes) and 102."""
    (tmp_path / "lxc").mkdir()
    (tmp_path / "storage.cfg").write_text(STORAGES, encoding="utf-8")
    (tmp_path / "lxc/101.conf").write_text(
        "arch: amd64\nmp0: tank-zfs:subvol-101-disk-0,mp=/srv\nrootfs: local-zfs:subvol-101-disk-0\n", encoding="utf-8"
    )
    (tmp_path / "lxc/102.conf").write_text("rootfs: local-zfs:subvol-102-disk-0\n", encoding="utf-8")
    monkeypatch.setattr(host, "PVE", str(tmp_path))
    monkeypatch.setattr(info, "PVE", str(tmp_path))
    return tmp_path


def ask(node: Node, tmp_path: Path, **params: t.Any) -> dict[str, t.Any]:
    options = {"vmids": [], "datasets": [], "dataset_pattern": "tank/containers/<id>", "name": None, **params}
    return info.survey(options, node, Store(str(tmp_path / "state")), NOW)


A, B, C = "rpool/data/subvol-101-disk-0", "tank/ct/subvol-101-disk-0", "rpool/data/subvol-102-disk-0"


def test_all_containers_of_a_node(pve: Path) -> None:
    both = {"101": [A, B], "102": [C]}
    node = Node(
        *map(volume, (A, B, C)),
        *run_of("one", NOW - 90, both),
        *run_of("two", NOW - 30, {"101": [A, B]}, userrefs=2, clones="rpool/data/subvol-201-disk-0"),
        *run_of("half", NOW - 10, {"102": [C]}, complete=False),
    )
    found = ask(node, pve)
    assert len(node.calls) == 1
    assert [(e["container"], e["name"], e["age"], e["complete"]) for e in found["checkpoints"]] == [
        ("101", "one", 90, True),
        ("101", "two", 30, True),
        ("102", "one", 90, True),
        ("102", "half", 10, False),
    ]
    first, second = found["checkpoints"][:2]
    assert (first["used"], first["written"], first["referenced"]) == (2, 20, 200)
    assert first["created"] == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(NOW - 90))
    assert first["method"] == "zfs"
    assert first["id"] == found["checkpoints"][2]["id"]
    assert first["members"][0] == {
        "dataset": A,
        "snapshot": "one",
        "guid": f"{A}-one",
        "used": 1,
        "written": 10,
        "referenced": 100,
    }
    assert (second["holds"], second["clones"]) == (2, ["rpool/data/subvol-201-disk-0"])
    assert found["totals"] == {
        "checkpoints": 4,
        "containers": 2,
        "incomplete": 1,
        "held": 1,
        "used": 6,
        "written": 60,
        "referenced": 600,
    }
    assert found["changed"] is False


def test_some_of_them(pve: Path) -> None:
    node = Node(*map(volume, (A, B, C)), *run_of("one", NOW - 9, {"101": [A, B], "102": [C]}))
    assert [e["container"] for e in ask(node, pve, vmids=["102", "999"])["checkpoints"]] == ["102"]
    assert ask(node, pve, name="two")["checkpoints"] == []
    assert len(ask(node, pve, name="one")["checkpoints"]) == 2
    empty = ask(Node(), pve, vmids=["999"])
    assert empty["totals"]["checkpoints"] == 0


def test_records_of_other_methods(pve: Path) -> None:
    store = Store(str(pve / "state"))
    record = {"id": "x", "method": "vzdump", "created": NOW - 5, "reasons": ["why"], "archive": "/dump/a.zst"}
    store.save("102", "backup", {"record": json.dumps(record)})
    store.save("102", "gone", {"record": json.dumps({**record, "method": "zfs"})})
    [entry] = ask(Node(volume(C)), pve, vmids=["102"])["checkpoints"]
    assert (entry["name"], entry["method"], entry["archive"], entry["members"]) == (
        "backup",
        "vzdump",
        "/dump/a.zst",
        [],
    )
    assert (entry["used"], entry["age"], entry["complete"]) == (0, 5, True)


def test_a_volume_that_the_container_has_no_longer(pve: Path) -> None:
    """It is read as well, by a second command."""
    old = "rpool/data/subvol-102-disk-7"
    node = Node(volume(C), *run_of("one", NOW - 9, {"102": [C, old]})[:1])
    ask(node, pve, vmids=["102"])
    assert len(node.calls) == 2
    assert old in node.calls[1]


def test_without_proxmox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "PVE", str(tmp_path / "none"))
    web, data, idle = "tank/containers/web", "tank/containers/web/data", "tank/containers/idle"
    lines = (
        *map(volume, ("tank/containers", web, data, idle, "tank/containers/lxcri-aside")),
        *run_of("one", NOW - 9, {"web": [web, data], "idle": [idle]}),
    )
    node = Node(*lines)
    assert [e["container"] for e in ask(node, tmp_path)["checkpoints"]] == ["idle", "web"]
    assert len(node.calls) == 1
    [entry] = ask(Node(*lines), tmp_path, datasets=[web])["checkpoints"]
    assert (entry["container"], len(entry["members"]), entry["complete"]) == ("web", 2, True)
    [entry] = ask(Node(*lines), tmp_path, vmids=["idle"])["checkpoints"]
    assert entry["container"] == "idle"


def test_a_thousand_snapshots_on_fifty_datasets(pve: Path) -> None:
    """One command, and no time that anybody would notice."""
    names = {}
    for number in range(200, 250):
        names[str(number)] = [f"rpool/data/subvol-{number}-disk-0"]
        (pve / f"lxc/{number}.conf").write_text(f"rootfs: local-zfs:subvol-{number}-disk-0\n", encoding="utf-8")
    lines = [volume(dataset) for datasets in names.values() for dataset in datasets]
    for place in range(20):
        lines += run_of(f"auto-{place:02}", NOW - 100 + place, names)
    node = Node(*lines)
    begin = time.monotonic()
    found = ask(node, pve, vmids=list(names))
    assert time.monotonic() - begin < 5
    assert len(node.calls) == 1
    assert found["totals"]["checkpoints"] == 1000
    assert found["totals"]["containers"] == 50
    assert all(entry["complete"] for entry in found["checkpoints"])


def test_what_is_not_there_is_told(pve: Path) -> None:
    """As when a pool is not imported: that there are no checkpoints on it would be wrong to say."""
    found = ask(Node(volume(A), volume(C), *run_of("one", NOW - 9, {"102": [C]})), pve)
    assert [entry["container"] for entry in found["checkpoints"]] == ["102"]
    assert found["missing"] == [{"container": "101", "dataset": B}]
    assert found["warnings"] == [f"{B} of container 101 is not there, and nothing is known of checkpoints on it."]
    complete = ask(Node(*map(volume, (A, B, C))), pve)
    assert (complete["missing"], complete["warnings"]) == ([], [])


@pytest.mark.parametrize("vmids", [[], ["101"]])
def test_without_the_files_of_proxmox(vmids: list[str], pve: Path) -> None:
    """Nothing can be said of the containers then; an empty list would say that there are no checkpoints."""
    shutil.rmtree(pve / "lxc")
    with pytest.raises(Failure) as caught:
        ask(Node(), pve, vmids=vmids)
    assert caught.value.code == "pmxcfs_missing"


def test_without_the_dataset_of_all_containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "PVE", str(tmp_path / "none"))
    with pytest.raises(Failure) as caught:
        ask(Node(), tmp_path)
    assert (caught.value.code, caught.value.details["dataset"]) == ("volume_missing", "tank/containers")
    assert ask(Node(), tmp_path, vmids=["web"])["checkpoints"] == []


@pytest.mark.parametrize("params", [{"vmids": ["101"], "datasets": ["tank/a"]}, {"vmids": ["../x"]}])
def test_options_that_cannot_be_meant(params: dict[str, t.Any], pve: Path) -> None:
    with pytest.raises(Failure) as caught:
        ask(Node(), pve, **params)
    assert caught.value.code == "invalid_option"
