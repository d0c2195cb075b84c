# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking into a root file system, and out of none."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.upload import Form
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.rootfs import Rootfs, find_user, resolve_user
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.runtime_spec import ResolvedUser
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.unpack import mounts_below

PASSWD = "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/:\n7:x:8:9::/:\nbad line\nx:y\nbig:x:99999999999:1::/:\n"
GROUP = "root:x:0:\nadm:x:4:root,app\nextra:x:2000:app, other\nwheel:x:10\n5:x:6:\n:x:5:app\n"


@pytest.mark.parametrize(
    ("wanted", "user"),
    [
        ("", ResolvedUser(0, 0, (4,))),
        ("root", ResolvedUser(0, 0, (4,))),
        ("0", ResolvedUser(0, 0, (4,))),
        ("app", ResolvedUser(1000, 1001, (4, 2000))),
        ("1000", ResolvedUser(1000, 1001, (4, 2000))),
        ("1234", ResolvedUser(1234, 0)),
        ("1234:5678", ResolvedUser(1234, 5678)),
        ("app:wheel", ResolvedUser(1000, 10)),
        ("app:77", ResolvedUser(1000, 77)),
        ("app:", ResolvedUser(1000, 1001, (4, 2000))),
        # As in runc, a number is never a name, and zeros before it do not count.
        ("7", ResolvedUser(7, 0)),
        ("01000", ResolvedUser(1000, 1001, (4, 2000))),
        ("app:5", ResolvedUser(1000, 5)),
    ],
)
def test_users(wanted: str, user: ResolvedUser) -> None:
    assert resolve_user(wanted, PASSWD, GROUP) == user


LONG = "9" * 5000


@pytest.mark.parametrize(
    "wanted", ["nobody", "app:nobody", "-1", "99999999999", LONG, "big", "app:-1", "\u0661", "0:\u0661", f"0:{LONG}"]
)
def test_unknown_users(wanted: str) -> None:
    with pytest.raises(Failure) as caught:
        resolve_user(wanted, PASSWD, GROUP)
    assert caught.value.code == "user_unknown"


def test_numbers_that_are_too_long_are_no_ids() -> None:
    user = resolve_user("app", f"long:x:{LONG}:1::/:\n{PASSWD}", f"long:x:{LONG}:app\n{GROUP}")
    assert user == ResolvedUser(1000, 1001, (4, 2000))


@pytest.fixture
def rootfs(tmp_path: Path) -> Rootfs:
    (tmp_path / "passwd").write_text("outside:x:1:1::/:\n")
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/real").write_text("inside:x:5:6::/:\n")
    return Rootfs(str(tmp_path / "root"))


@pytest.mark.parametrize(
    "target", ["/etc/real", "real", "../etc/real", "../../../../etc/real", "/../etc/./real", "/etc/../etc/real"]
)
def test_links_are_followed_inside(rootfs: Rootfs, target: str) -> None:
    Path(rootfs.path, "etc/passwd").symlink_to(target)
    assert find_user(rootfs, "inside") == ResolvedUser(5, 6)


@pytest.mark.parametrize(
    "target", ["../../passwd", "/passwd", "passwd", "/etc", "/etc/real/x", "/dev/zero", "/" + "a" * 300]
)
def test_nothing_leads_outside(rootfs: Rootfs, target: str) -> None:
    Path(rootfs.path, "etc/passwd").symlink_to(target)
    assert rootfs.read("/etc/passwd") is None
    with pytest.raises(Failure):
        find_user(rootfs, "outside")


def test_a_directory_that_is_a_link(rootfs: Rootfs, tmp_path: Path) -> None:
    (tmp_path / "root/etc").rename(tmp_path / "root/config")
    Path(rootfs.path, "etc").symlink_to("/config")
    assert rootfs.read("/etc/real")
    Path(rootfs.path, "etc").unlink()
    Path(rootfs.path, "etc").symlink_to(tmp_path)
    assert rootfs.read("/etc/passwd") is None


def test_what_is_no_file_is_not_read(rootfs: Rootfs) -> None:
    # A FIFO would hang.
    os.mkfifo(Path(rootfs.path, "etc/passwd"))
    assert rootfs.read("/etc/passwd") is None
    assert rootfs.read("/") is None


def test_directories_are_made_inside(rootfs: Rootfs, tmp_path: Path) -> None:
    Path(rootfs.path, "out").symlink_to(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert rootfs.make_directory("/out/../made/here", 0o700)
    assert not rootfs.make_directory("/out/../made/here")
    assert rootfs.make_directory("../../up")
    assert rootfs.make_directory("/out/x")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert Path(rootfs.path, "up").is_dir()
    assert Path(rootfs.path + str(tmp_path), "x").is_dir()


@pytest.mark.parametrize("name", ["/etc/real", "/etc/real/below", "/loop/x"])
def test_directories_that_cannot_be(rootfs: Rootfs, name: str) -> None:
    Path(rootfs.path, "loop").symlink_to("loop")
    with pytest.raises(Failure) as caught:
        rootfs.make_directory(name)
    assert caught.value.code == "not_a_directory"


def test_a_file_takes_the_place_of_a_link(rootfs: Rootfs, tmp_path: Path) -> None:
    Path(rootfs.path, "sbin").symlink_to("/../../usr/sbin")
    Path(rootfs.path, "usr/sbin").mkdir(parents=True)
    Path(rootfs.path, "usr/sbin/init").symlink_to(tmp_path / "passwd")
    rootfs.replace("/sbin/init", b"#!/bin/sh\n", 0o755)
    made = Path(rootfs.path, "usr/sbin/init")
    assert not made.is_symlink()
    assert made.read_bytes() == b"#!/bin/sh\n"
    assert made.stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "passwd").read_text() == "outside:x:1:1::/:\n"
    assert [path.name for path in made.parent.iterdir()] == ["init"]
    assert rootfs.is_executable("/sbin/init")
    assert not rootfs.is_executable("/etc/real")
    assert not rootfs.is_executable("/sbin")


@pytest.mark.parametrize("name", ["/etc/real/init", "/loop/init"])
def test_files_that_cannot_be(rootfs: Rootfs, name: str) -> None:
    Path(rootfs.path, "loop").symlink_to("loop")
    with pytest.raises(Failure) as caught:
        rootfs.replace(name, b"x", 0o644)
    assert caught.value.code == "not_a_directory"
    assert not list(Path(rootfs.path).rglob(".lxcri*"))


def test_what_an_image_has_beside_a_file_stays(rootfs: Rootfs, tmp_path: Path) -> None:
    """Also what looks like one that was not finished, and a link that leads out."""
    Path(rootfs.path, "etc/.lxcri-new").symlink_to(tmp_path / "passwd")
    rootfs.replace("/etc/real", b"new", 0o644)
    assert Path(rootfs.path, "etc/real").read_bytes() == b"new"
    assert Path(rootfs.path, "etc/.lxcri-new").is_symlink()
    assert (tmp_path / "passwd").read_text() == "outside:x:1:1::/:\n"
    assert sorted(os.listdir(Path(rootfs.path, "etc"))) == [".lxcri-new", "real"]


@pytest.mark.parametrize("below", ["", "some/thing"])
def test_a_directory_is_never_replaced_by_a_file(rootfs: Rootfs, below: str) -> None:
    Path(rootfs.path, "sbin/init", below).mkdir(parents=True)
    with pytest.raises(Failure) as caught:
        rootfs.replace("/sbin/init", b"x", 0o755)
    assert caught.value.code == "not_a_file"
    assert caught.value.details == {"path": "/sbin/init"}
    assert os.listdir(Path(rootfs.path, "sbin")) == ["init"]


def test_where_a_name_leads(rootfs: Rootfs) -> None:
    root = Path(rootfs.path)
    root.joinpath("sbin").symlink_to("usr/sbin")
    root.joinpath("usr/sbin").mkdir(parents=True)
    root.joinpath("systemd").write_text("x")
    root.joinpath("usr/sbin/init").symlink_to("/systemd")
    root.joinpath("start").symlink_to("usr/../sbin/init")
    root.joinpath("dangling").symlink_to("nowhere")
    for name in ("/sbin/init", "/usr/sbin/init", "/start", "usr/sbin/../sbin/init"):
        assert rootfs.leads_to(name, "/sbin/init"), name
    for name in ("/systemd", "/sbin", "/nowhere", "/dangling", "/" + "x" * 300, "/etc/real/x"):
        assert not rootfs.leads_to(name, "/sbin/init"), name
    assert not rootfs.leads_to("/systemd", "/missing/init")


def test_mounts() -> None:
    text = (
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "23 22 0:5 / /a/b rw - proc proc rw\n"
        "24 22 0:5 / /a/b\\040c/d rw - proc proc rw\n"
        "25 22 0:5 / /a/bb rw - proc proc rw\n"
    )
    assert mounts_below("/a/b", text) == ["/a/b"]
    assert mounts_below("/a/b c", text) == ["/a/b c/d"]
    assert mounts_below("/x", text) == []


def test_a_form_is_read_in_pieces(tmp_path: Path) -> None:
    data = b"x" * (5 << 19)
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as file:
        pieces = list(Form(file, "a.tar", {"content": "vztmpl"}))
    with (tmp_path / "file").open("rb") as file:
        form = Form(file, "a.tar", {"content": "vztmpl"})
        together = io.BytesIO()
        while piece := form.read(16384):
            assert len(piece) <= 16384
            together.write(piece)
    assert max(map(len, pieces)) <= 1 << 20
    whole = b"".join(pieces)
    assert len(whole) == len(together.getvalue()) == len(form)
    boundary = whole.split(b"\r\n", maxsplit=1)[0]
    first, second, end = [*whole.split(boundary + b"\r\n")[1:], whole[-len(boundary) - 6 :]]
    assert first == b'Content-Disposition: form-data; name="content"\r\n\r\nvztmpl\r\n'
    assert data in second
    assert end == b"\r\n" + boundary + b"--\r\n"
