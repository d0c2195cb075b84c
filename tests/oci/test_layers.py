# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Layers that are hard to unpack, and layers that mean harm: what is in the root file system, or that it is refused."""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.layout import Layout
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.unpack import Staging, unpack
from ansible_collections.lxcri.proxmox.tests.oci.images import build, directory, entry, layer, listing

LINK, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE
# cap_net_raw+ep, revision 2 (linux/capability.h).
CAPABILITY = b"\x01\x00\x00\x02\x00\x20\x00\x00" + bytes(12)
Entry = tuple[tarfile.TarInfo, bytes]
OLD = [directory("d"), entry("d/old", "1")]


def unpacked(root: Path, *layers: bytes) -> Path:
    """The root file system of an image with these layers."""
    image = build(*layers)
    layout = Layout(str(image.write(root / "layout")))
    rootfs = root / "made/bundle/rootfs"
    with Staging(str(root / "made/target")) as staging:
        rootfs.parent.mkdir()
        unpack(staging, layout, layout.image(image.digest), str(rootfs))
    return rootfs


@pytest.fixture
def outside(tmp_path: Path) -> t.Iterator[Path]:
    """A directory that no layer may touch."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / "victim").write_text("safe")
    yield place
    assert {path.name: path.read_text() for path in place.iterdir()} == {"victim": "safe"}
    assert {path.name for path in tmp_path.iterdir()} <= {"outside", "layout", "made"}
    assert {path.name for path in (tmp_path / "made").iterdir()} <= {"bundle"}


def text_of(rootfs: Path) -> dict[str, str]:
    """Each path and what is there: content of files, the target of links, the type of others."""
    found = {}
    for path in rootfs.rglob("*"):
        if path.is_symlink():
            found[str(path.relative_to(rootfs))] = f"-> {path.readlink()}"
        elif path.is_dir():
            found[str(path.relative_to(rootfs))] = "/"
        else:
            found[str(path.relative_to(rootfs))] = path.read_text()
    return found


RIGHT: dict[str, tuple[list[list[Entry]], dict[str, str]]] = {
    "opaque before its sibling": (
        [OLD, [directory("d"), entry("d/.wh..wh..opq"), entry("d/new", "2")]],
        {"d": "/", "d/new": "2"},
    ),
    "opaque after its sibling": (
        [OLD, [directory("d"), entry("d/new", "2"), entry("d/.wh..wh..opq")]],
        {"d": "/", "d/new": "2"},
    ),
    "opaque root": ([OLD, [entry(".wh..wh..opq"), entry("new", "2")]], {"new": "2"}),
    "added, then whited out in the same layer": (
        [[entry("a", "1")], [entry("a", "2"), entry(".wh.a")]],
        {"a": "2"},
    ),
    "whited out, then added in the same layer": (
        [[entry("a", "1")], [entry(".wh.a"), entry("a", "2")]],
        {"a": "2"},
    ),
    "a directory whited out in which the same layer has added": (
        [[directory("a"), entry("a/old", "1")], [directory("a"), entry("a/new", "2"), entry(".wh.a")]],
        {"a": "/", "a/new": "2"},
    ),
    "whiteout below what is missing": ([[entry("a", "1")], [entry("no/such/.wh.x")]], {"a": "1"}),
    "whiteout below a regular file": ([[entry("f", "1")], [entry("f/.wh.x")]], {"f": "1"}),
    "opaque below a regular file": ([[entry("f", "1")], [entry("f/.wh..wh..opq")]], {"f": "1"}),
    "directories of AUFS": (
        [[entry(".wh..wh.aufs"), directory(".wh..wh.plnk"), entry(".wh..wh.plnk/1.2", "x"), directory(".wh..wh.orph")]],
        {},
    ),
    "a hard link to a file that AUFS keeps": (
        [[directory(".wh..wh.plnk"), entry(".wh..wh.plnk/1.2", "x"), entry("a", kind=HARD, link=".wh..wh.plnk/1.2")]],
        {"a": "x"},
    ),
    "parents that no entry names": ([[entry("a/b/c", "1")]], {"a": "/", "a/b": "/", "a/b/c": "1"}),
    "a file becomes a directory": ([[entry("x", "1")], [directory("x"), entry("x/y", "2")]], {"x": "/", "x/y": "2"}),
    "a directory becomes a file": ([[directory("x"), entry("x/y", "1")], [entry("x", "2")]], {"x": "2"}),
    "a directory becomes a link": (
        [[directory("x"), entry("x/y", "1"), directory("z")], [entry("x", kind=LINK, link="z"), entry("x/k", "2")]],
        {"x": "-> z", "z": "/", "z/k": "2"},
    ),
    "a link becomes a directory": (
        [[directory("z"), entry("x", kind=LINK, link="z")], [directory("x"), entry("x/k", "2")]],
        {"x": "/", "x/k": "2", "z": "/"},
    ),
    "a link becomes a file": (
        [[entry("z", "1"), entry("x", kind=LINK, link="z")], [entry("x", "2")]],
        {"x": "2", "z": "1"},
    ),
    "the same file twice": ([[entry("a", "1"), entry("a", "2")]], {"a": "2"}),
    "a name with a newline": ([[entry("a\nb", "1")]], {"a\nb": "1"}),
    # What would be an escape lands where a chroot would put it.
    "..": (
        [[entry("../evil", "1"), directory("d"), entry("d/../../evil2", "2")]],
        {"evil": "1", "d": "/", "evil2": "2"},
    ),
    "an absolute name": ([[entry("/abs", "1")]], {"abs": "1"}),
    "a link out of the root as a parent": (
        [[entry("l", kind=LINK, link="../../../outside")], [entry("l/evil", "1")]],
        {"l": "-> ../../../outside", "outside": "/", "outside/evil": "1"},
    ),
    "whiteout through a link out of the root": (
        [[entry("l", kind=LINK, link="../../../outside")], [entry("l/.wh.victim")]],
        {"l": "-> ../../../outside"},
    ),
    "opaque through a link out of the root": (
        [[entry("l", kind=LINK, link="../../../outside")], [entry("l/.wh..wh..opq")]],
        {"l": "-> ../../../outside"},
    ),
    "a hard link to a link out of the root": (
        [[entry("l", kind=LINK, link="../../../outside/victim"), entry("h", kind=HARD, link="l")], [entry("h", "1")]],
        {"l": "-> ../../../outside/victim", "h": "1"},
    ),
}


@pytest.mark.parametrize(("layers", "expected"), RIGHT.values(), ids=RIGHT)
@pytest.mark.usefixtures("outside")
def test_what_is_unpacked(layers: list[list[Entry]], expected: dict[str, str], tmp_path: Path) -> None:
    assert text_of(unpacked(tmp_path, *(layer(*entries) for entries in layers))) == expected


REFUSED: dict[str, list[list[Entry]]] = {
    "whiteout of the root's parent": [[entry("a")], [entry(".wh...")]],
    "whiteout of a parent": [[directory("d")], [entry("d/.wh...")]],
    "whiteout of the root": [[entry("a")], [entry(".wh..")]],
    "whiteout of nothing": [[entry("a")], [entry(".wh.")]],
    "hard link out of the root": [[entry("h", kind=HARD, link="../../../outside/victim")]],
    "hard link through a link": [
        [entry("l", kind=LINK, link="../../../outside")],
        [entry("h", kind=HARD, link="l/victim")],
    ],
    "hard link to what is whited out": [[entry("a", "1")], [entry(".wh.a"), entry("b", kind=HARD, link="a")]],
    "the root as a file": [[entry(".", "x")]],
    "the root as a link": [[entry(".", kind=LINK, link="../../outside")], [entry("victim", "x")]],
    "an entry of no known type": [[entry("a", kind=b"Z")]],
    "a name that is too long": [[entry("a" * 300, "x")]],
}


@pytest.mark.parametrize("layers", REFUSED.values(), ids=REFUSED)
@pytest.mark.usefixtures("outside")
def test_what_is_refused(layers: list[list[Entry]], tmp_path: Path) -> None:
    with pytest.raises(Failure) as caught:
        unpacked(tmp_path, *(layer(*entries) for entries in layers))
    assert caught.value.code == "unpack_failed"


def test_an_absolute_hard_link_out_of_the_root(outside: Path, tmp_path: Path) -> None:
    with pytest.raises(Failure) as caught:
        unpacked(tmp_path, layer(entry("h", kind=HARD, link=str(outside / "victim"))))
    assert caught.value.code == "unpack_failed"


def test_owners_modes_and_capabilities(tmp_path: Path) -> None:
    xattrs = {"security.capability": CAPABILITY.decode("latin-1"), "user.note": "here"}
    rootfs = unpacked(
        tmp_path,
        layer(
            directory(".", 0o711, (5, 6)),
            entry("suid", "x", mode=0o6755, owner=(1000, 1001)),
            entry("ping", "x", mode=0o755, owner=(1000, 0), xattrs=xattrs),
            directory("sticky", 0o1777, (7, 8)),
            entry("fifo", kind=tarfile.FIFOTYPE, mode=0o622),
            entry("null", kind=tarfile.CHRTYPE, mode=0o666, device=(1, 3)),
            entry("loop", kind=tarfile.BLKTYPE, mode=0o660, device=(7, 1), owner=(0, 6)),
        ),
    )
    assert {name: text.split(" ->")[0][:20].split()[:2] for name, text in listing(rootfs).items()} == {
        "suid": ["-rwsr-sr-x", "1000:1001"],
        "ping": ["-rwxr-xr-x", "1000:0"],
        "sticky": ["drwxrwxrwt", "7:8"],
        "fifo": ["prw--w--w-", "0:0"],
        "null": ["crw-rw-rw-", "0:0"],
        "loop": ["brw-rw----", "0:6"],
    }
    about = rootfs.stat()
    assert (stat.S_IMODE(about.st_mode), about.st_uid, about.st_gid) == (0o711, 5, 6)
    assert (rootfs / "null").stat().st_rdev == os.makedev(1, 3)
    assert (rootfs / "loop").stat().st_rdev == os.makedev(7, 1)
    assert os.getxattr(rootfs / "ping", "security.capability") == CAPABILITY
    assert os.getxattr(rootfs / "ping", "user.note") == b"here"
    assert int((rootfs / "suid").stat().st_mtime) == 1_700_000_000


def test_hard_links_across_layers(tmp_path: Path) -> None:
    rootfs = unpacked(
        tmp_path,
        layer(entry("a", "1"), entry("b", kind=HARD, link="a"), entry("c", kind=HARD, link="a")),
        layer(entry("d", kind=HARD, link="a"), entry("b", "2")),
    )
    assert text_of(rootfs) == {"a": "1", "b": "2", "c": "1", "d": "1"}
    assert len({(rootfs / name).stat().st_ino for name in "acd"}) == 1


def sparse(root: Path, form: str) -> tuple[bytes, bytes]:
    """The content of a sparse file, and an archive with it."""
    source, archive = root / "sparse", root / "sparse.tar"
    with source.open("wb") as file:
        file.seek(4 << 20)
        file.write(b"end")
    options = ["-C", str(root), "--sparse", f"--format={form}", "-cf", str(archive), "sparse"]
    subprocess.run(["tar", *options], check=True)
    return source.read_bytes(), archive.read_bytes()


def test_a_sparse_file(tmp_path: Path) -> None:
    content, archive = sparse(tmp_path, "posix")
    assert (unpacked(tmp_path / "work", archive) / "sparse").read_bytes() == content


def test_a_sparse_file_as_old_gnu_tar_writes_it(tmp_path: Path) -> None:
    # Image-spec, layer.md: sparse files should not be used because support is inconsistent.
    _content, archive = sparse(tmp_path, "gnu")
    with pytest.raises(Failure) as caught:
        unpacked(tmp_path / "work", archive)
    assert caught.value.code == "unpack_failed"
