# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ids, repositories and the limit of the ARC: texts of files before and after."""

from __future__ import annotations

import os
import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.files import write_setting
from ansible_collections.lxcri.proxmox.plugins.module_utils.prepare import arc, repositories, subids
from hypothesis import given
from hypothesis import strategies as st

# ----------------------------------------------------------------------------------------------------------- ids

NUMBERS = {"root": "0", "lab": "1000"}


def ranges(*lines: str) -> list[subids.Range]:
    return [found for _line, found in subids.parse("\n".join(lines)) if found]


def number(owner: str) -> str:
    return NUMBERS.get(owner, owner)


def wanted(text: str, *declared: str) -> tuple[str, list[t.Any]]:
    return subids.wanted(text, ranges(*declared), "/etc/subuid", number)


def test_ranges_are_added_and_corrected_in_their_places() -> None:
    text = "# mine\n0:100000:10\nlab:200000:10\n"
    after, plan = wanted(text, "root:100000:65536", "root:300000:10")
    assert after == "# mine\nroot:100000:65536\nlab:200000:10\nroot:300000:10\n"
    assert [(change["before"], change["after"]) for change in plan] == [
        ("0:100000:10", "root:100000:65536"),
        (None, "root:300000:10"),
    ]
    assert wanted(after, "root:100000:65536", "root:300000:10") == (after, [])
    assert wanted("0:100000:10", "root:100000:10") == ("0:100000:10", [])
    for lines in (["lab:100009:2"], ["root:99999:2"], ["root:100000:100001"], ["lab:100000:10"], ["a:5:2", "b:6:1"]):
        with pytest.raises(Failure) as raised:
            wanted(text, *lines)
        assert raised.value.code == "ranges_overlap", lines


def test_declared_ranges() -> None:
    given = [{"owner": "root", "start": 1, "count": 1}, {"owner": "0", "start": 5, "count": 4294967290}]
    assert [each.line for each in subids.declare(given)] == ["root:1:1", "0:5:4294967290"]
    for wrong in (
        {"owner": "a:b", "start": 1, "count": 1},
        {"owner": "", "start": 1, "count": 1},
        {"owner": "root\n", "start": 1, "count": 1},
        {"owner": "root", "start": 0, "count": 1},
        {"owner": "root", "start": 1, "count": 0},
        {"owner": "root", "start": 5, "count": 4294967291},
    ):
        with pytest.raises(Failure) as raised:
            subids.declare([wrong])
        assert raised.value.code == "invalid_option"


_RANGES = st.lists(
    st.builds(subids.Range, st.sampled_from(["root", "lab", "0"]), st.integers(1, 60), st.integers(1, 12)), max_size=5
)


@given(_RANGES, _RANGES)
def test_no_id_is_given_twice_by_what_is_declared(there: list[subids.Range], declared: list[subids.Range]) -> None:
    text = "".join(f"{each.line}\n" for each in there)
    try:
        after, plan = subids.wanted(text, declared, "/etc/subuid", number)
    except Failure:
        return
    found = ranges(*after.splitlines())
    for each in declared:
        ids = set(range(each.start, each.end))
        others = [other for other in found if ids & set(range(other.start, other.end))]
        assert [(number(other.owner), other.start) for other in others] == [(number(each.owner), each.start)]
    assert subids.wanted(after, declared, "/etc/subuid", number)[1] == []
    assert bool(plan) == (after != text)


# -------------------------------------------------------------------------------------------------- repositories

DEBIAN = "Types: deb\nURIs: http://deb.debian.org/debian\nSuites: trixie\nComponents: main\n"
PBS = DEBIAN.replace("deb.debian.org/debian", "download.proxmox.com/debian/pbs").replace("main", "pbs-no-subscription")
ENTERPRISE = (
    "Types: deb\nURIs: https://enterprise.proxmox.com/debian/pve\nSuites: trixie\nComponents: pve-enterprise\n"
    f"Signed-By: {repositories.KEYRING}\n"
)
FREE = ENTERPRISE.replace("https://enterprise", "http://download").replace("pve-enterprise", "pve-no-subscription")
HERE, THERE = "sources.list.d/proxmox.sources", "sources.list.d/pve-enterprise.sources"


def after(files: dict[str, str], **options: t.Any) -> dict[str, str]:
    """The files as they are to be; it is the same for a second time."""
    defaults = {name: option.get("default") for name, option in repositories.repository_options().items()}
    managed, place = repositories.declare({**defaults, "suite": "trixie", **options})
    found = repositories.wanted_files(files, managed, place)
    assert repositories.wanted_files(found, managed, place) == found
    return found


def test_what_is_wanted_is_added_and_the_rest_disabled() -> None:
    files = {"sources.list.d/debian.sources": DEBIAN, HERE: f"# by hand\n{PBS}", THERE: ENTERPRISE}
    assert after(files, pve=["no-subscription"]) == {
        **files,
        HERE: f"# by hand\n{PBS}\n{FREE}",
        THERE: f"{ENTERPRISE}Enabled: false\n",
    }
    assert after(files, pve=["enterprise"]) == files
    assert after(files) == files
    assert after({}, pve=["enterprise"]) == {THERE: ENTERPRISE}
    assert after({}, pve=[]) == {}


def test_an_entry_is_repaired_in_its_place_with_what_else_is_in_it() -> None:
    text = (
        f"# kept\nEnabled: no\nTypes: deb deb-src\nURIs: http://download.proxmox.com/debian/pve/\nSuites: bookworm\n"
        f"Components:\n pve-no-subscription\nTrusted: no\n\n\n{PBS}"
    )
    assert after({HERE: text}, pve=["no-subscription"])[HERE] == (
        "# kept\nTypes: deb\nURIs: http://download.proxmox.com/debian/pve\nSuites: trixie\n"
        f"Components:\n pve-no-subscription\nTrusted: no\nSigned-By: {repositories.KEYRING}\n\n\n{PBS}"
    )


def test_nothing_is_there_twice() -> None:
    several = FREE.replace("pve-no-subscription", "pve-no-subscription pve-test")
    files = {
        "sources.list": "deb [arch=amd64] http://download.proxmox.com/debian/pve sid pve-no-subscription\n# deb x\n",
        "sources.list.d/old.list": "deb http://download.proxmox.com/debian/ceph-reef bookworm no-subscription\n",
        "sources.list.d/other.sources": FREE,
        HERE: f"{several}\n{FREE}\n{FREE}",
    }
    found = after(files, pve=["no-subscription"], ceph=["test"], ceph_release="squid")
    assert found["sources.list"] == f"# {files['sources.list']}"
    assert found["sources.list.d/old.list"].startswith("# deb")
    assert found["sources.list.d/other.sources"] == f"{FREE}Enabled: false\n"
    assert found[HERE] == f"{several}Enabled: false\n\n{FREE}\n{FREE}Enabled: false\n"
    assert "URIs: http://download.proxmox.com/debian/ceph-squid\n" in found["sources.list.d/ceph.sources"]
    # Without any, no release need be said.
    assert after(files, ceph=[])["sources.list.d/old.list"].startswith("# deb")
    # Ceph's stay when only Proxmox's own are managed.
    assert after(files, pve=[])["sources.list.d/old.list"] == files["sources.list.d/old.list"]


def test_a_mirror_and_values_that_are_none() -> None:
    mirrored = after({HERE: FREE}, pve=["no-subscription"], download_uri="http://mirror/pve-mirror/")
    assert mirrored == {HERE: FREE.replace("http://download.proxmox.com/debian", "http://mirror/pve-mirror")}
    assert after(mirrored, pve=[], download_uri="http://mirror/pve-mirror")[HERE].endswith("Enabled: false\n")
    for wrong in (
        {"suite": "a b"},
        {"ceph_release": "1"},
        {"keyring": "x"},
        {"enterprise_uri": "http://a b"},
        {"ceph": ["test"]},
    ):
        with pytest.raises(Failure):
            after({}, pve=[], **wrong)


_TEXT = st.lists(st.sampled_from([DEBIAN, PBS, ENTERPRISE, FREE, "# a\n", "Enabled: no\n" + FREE]), max_size=5)


@given(
    st.dictionaries(st.sampled_from([HERE, THERE, "sources.list.d/x.sources"]), _TEXT),
    st.sets(st.sampled_from(repositories.KINDS)),
)
def test_each_wanted_one_is_enabled_once(texts: dict[str, list[str]], pve: set[str]) -> None:
    files = {name: "\n".join(parts) for name, parts in texts.items()}
    found = after(files, pve=sorted(pve))
    entries = [repositories.fields(part) for text in found.values() for part in repositories.paragraphs(text)]
    enabled = [
        entry["components"]
        for entry in entries
        if entry.get("uris", "").endswith("/pve") and entry.get("enabled", "yes") == "yes"
    ]
    assert sorted(enabled) == sorted(f"pve-{kind}" for kind in pve)
    others = [entry for entry in entries if entry.get("components") in ("main", "pbs-no-subscription")]
    assert all("enabled" not in entry for entry in others)


# ----------------------------------------------------------------------------------------------------------- ARC


def test_the_option_among_others() -> None:
    assert arc.with_limit("", 7) == "options zfs zfs_arc_max=7\n"
    assert arc.with_limit("# x", 7) == "# x\noptions zfs zfs_arc_max=7\n"
    text = "options zfs zfs_arc_min=1 zfs_arc_max=5 l2arc_noprefetch=0\noptions zfs_arc_max=3\n"
    assert arc.with_limit(text, 7) == text.replace("max=5", "max=7")
    assert (arc.set_in(text), arc.set_in("")) == (5, None)


@pytest.mark.parametrize(
    ("declared", "expected"), [("1G", 1 << 30), ("25%", 256 << 20), ("30%", 256 << 20), ("67108864", 64 << 20)]
)
def test_limits(declared: str, expected: int) -> None:
    memory = arc.Memory(total=(1 << 30) + 1, live=0, floor=32 << 20, ceiling=0)
    assert arc.limit(declared, memory) == expected


@pytest.mark.parametrize("declared", ["63M", "1%", "2G", "x", "100%", "-1", "80M", ""])
def test_limits_that_the_kernel_ignores(declared: str) -> None:
    with pytest.raises(Failure) as raised:
        arc.limit(declared, arc.Memory(total=1 << 30, live=0, floor=80 << 20, ceiling=0))
    assert raised.value.code == "invalid_option"


def test_a_limit_that_does_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parameter = tmp_path / "zfs_arc_max"
    parameter.write_text("0\n", encoding="utf-8")
    monkeypatch.setattr(arc, "PARAMETER", str(parameter))
    monkeypatch.setattr(arc, "STATISTICS", str(tmp_path / "none"))
    path = tmp_path / "modprobe.d/zfs.conf"
    declared = {"maximum": "64M", "path": str(path)}
    assert [change["effect"] for change in arc.run_declared(declared, True)["plan"]] == ["restart", "live"]
    assert not path.exists()
    with pytest.raises(Failure) as raised:
        arc.run_declared(declared, False)
    assert raised.value.code == "limit_ignored"
    assert path.read_text(encoding="utf-8") == "options zfs zfs_arc_max=67108864\n"
    monkeypatch.setattr(arc, "PARAMETER", str(tmp_path))
    monkeypatch.setattr(arc, "read_memory", lambda: arc.Memory(1 << 40, 0, None, None))
    with pytest.raises(Failure) as raised:
        arc.run_declared(declared, False)
    assert raised.value.code == "write_failed"


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ("rpool/ROOT/pve-1 / zfs rw 0 0\n", True),
        ("/dev/sda1 / ext4 rw 0 0\nrpool /rpool zfs rw 0 0\n", False),
        ("", False),
    ],
)
def test_whether_the_file_has_to_be_in_the_initramfs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mounts: str, expected: bool
) -> None:
    files = {"/proc/mounts": mounts, "/proc/meminfo": "MemTotal: 1048576 kB\n"}
    monkeypatch.setattr(arc, "read_text", files.get)
    declared = {"maximum": "256M", "path": str(tmp_path / "zfs.conf")}
    assert arc.run_declared(declared, True)["initramfs"] is expected
    files[declared["path"]] = "options zfs zfs_arc_max=268435456\n"
    assert arc.run_declared(declared, True)["initramfs"] is False


def test_an_initramfs_that_was_not_made_by_an_earlier_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, images = tmp_path / "zfs.conf", [tmp_path / f"initrd.img-{version}" for version in ("6.14", "6.17")]
    mounts = tmp_path / "mounts"
    mounts.write_text("rpool/ROOT/pve-1 / zfs rw 0 0\n", encoding="utf-8")
    monkeypatch.setattr(arc, "MOUNTS", str(mounts))
    monkeypatch.setattr(arc, "INITRAMFS", str(tmp_path / "initrd.img-*"))
    monkeypatch.setattr(arc, "read_memory", lambda: arc.Memory(1 << 40, None, None, None))
    declared = {"maximum": "256M", "path": str(path)}
    assert arc.run_declared(declared, False)["initramfs"] is True
    # There is none to be made.
    assert arc.run_declared(declared, False)["initramfs"] is False
    for image in images:
        image.touch()
    os.utime(path, (100, 100))
    for times, outdated in (((50, 60), True), ((50, 150), False)):
        for image, seconds in zip(images, times):
            os.utime(image, (seconds, seconds))
        result = arc.run_declared(declared, True)
        assert (result["changed"], result["initramfs"]) == (False, outdated)
    mounts.write_text("/dev/sda1 / ext4 rw 0 0\n", encoding="utf-8")
    os.utime(images[1], (60, 60))
    assert arc.run_declared(declared, True)["initramfs"] is False


def test_a_setting_keeps_its_mode_and_its_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("1", encoding="utf-8")
    real.chmod(0o640)
    link.symlink_to(real)
    write_setting(str(link), "2")
    assert (link.is_symlink(), real.read_text(encoding="utf-8"), real.stat().st_mode & 0o777) == (True, "2", 0o640)
    write_setting(str(tmp_path / "a/b"), "3")
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o644
    with pytest.raises(Failure) as raised:
        write_setting(str(real / "x"), "4")
    assert raised.value.code == "store_failed"
