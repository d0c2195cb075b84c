# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""oci_bundle with layouts, archives and root file systems."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import typing as t
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.layout import Layout
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.unpack import Staging
from ansible_collections.lxcri.proxmox.tests.oci.images import (
    BUSYBOX,
    Built,
    build,
    busybox_layer,
    directory,
    entry,
    index,
    layer,
    listing,
)
from ansible_collections.lxcri.proxmox.tests.oci.module import run_module
from ansible_collections.lxcri.proxmox.tests.oci.schemas import validate_spec

LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
APP: dict[str, t.Any] = {"Cmd": ["sh"], "User": "app", "WorkingDir": "/srv/app", "Env": ["A=1"]}


def bundle(check_mode: bool = False, **params: t.Any) -> dict[str, t.Any]:
    """Run the module."""
    return run_module("oci_bundle", params, check_mode)


def made(**params: t.Any) -> dict[str, t.Any]:
    """Run the module: first in check mode, which tells the same and does nothing; and again, which does nothing."""
    path = Path(params["path"])
    before = listing(path.parent) if path.parent.exists() else None
    predicted = bundle(check_mode=True, **params)
    assert not predicted.get("failed"), predicted
    assert (listing(path.parent) if path.parent.exists() else None) == before
    result = bundle(**params)
    assert not result.get("failed"), result
    for key in ("changed", "plan", "diff", "key", "identity"):
        assert predicted[key] == result[key], key
    again = bundle(**params)
    assert again["changed"] is False
    assert not [change for change in again["plan"] if change["applied"]]
    assert again["spec"] == result["spec"]
    assert not [name for name in os.listdir(path.parent) if "lxcri-" in name]
    return result


def code_of(result: dict[str, t.Any]) -> str:
    assert result.get("failed"), result
    return t.cast("str", result["failure"]["code"])


@pytest.fixture
def app(tmp_path: Path) -> str:
    """A layout with an image."""
    return f"{build(busybox_layer(), config=APP).write(tmp_path / 'layout')}:latest"


def changes(result: dict[str, t.Any]) -> list[tuple[str, str, bool]]:
    return [(change["key"], change["effect"], change["applied"]) for change in result["plan"]]


def test_a_bundle(app: str, tmp_path: Path) -> None:
    path = tmp_path / "bundles/app"
    result = made(layout=app, path=str(path))
    assert changes(result) == [("rootfs", "create", True), ("config.json", "create", True)]
    assert sorted(os.listdir(path)) == ["config.json", "lxcri.json", "rootfs"]
    spec = json.loads((path / "config.json").read_text("utf-8"))
    validate_spec(spec)
    assert spec == result["spec"]
    assert spec["process"]["user"] == {"uid": 1000, "gid": 1000, "additionalGids": [2000]}
    assert spec["process"]["cwd"] == "/srv/app"
    assert (path / "rootfs/srv/app").is_dir()
    assert stat.S_IMODE((path / "config.json").stat().st_mode) == 0o600
    record = json.loads((path / "lxcri.json").read_text("utf-8"))
    assert record["identity"] == result["identity"]
    assert record["key"] == result["key"]


def test_users_of_the_machine_are_kept_out(tmp_path: Path) -> None:
    """They could run what is setuid in an image, and write to its devices."""
    setuid = entry("bin/idroot", BUSYBOX.read_bytes(), mode=0o4755)
    root = build(busybox_layer(setuid), config=APP).write(tmp_path / "layout")
    path = tmp_path / "bundle"
    result = made(layout=str(root), path=str(path))
    # The directories of pytest are private themselves.
    with TemporaryDirectory(dir="/tmp") as place:
        os.chmod(place, 0o755)
        program = path.rename(Path(place, "bundle")) / "rootfs/bin/idroot"
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        done = subprocess.run([*nobody, str(program), "id"], capture_output=True, text=True, check=False)
        Path(place, "bundle").rename(path)
    assert (done.returncode, done.stdout) == (127, ""), done
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    os.chmod(path, 0o711)
    made(layout=str(root), path=str(path), process={"args": ["true"]})
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert result["rootfs"] == str(path / "rootfs")


def test_other_options_leave_the_rootfs_alone(app: str, tmp_path: Path) -> None:
    path = tmp_path / "bundles/app"
    first = made(layout=app, path=str(path))
    (path / "rootfs/written").write_text("precious")
    result = made(layout=app, path=str(path), hostname="web", process={"cwd": "/new/place", "env": {"A": None}})
    assert changes(result) == [
        ("hostname", "rewrite", True),
        ("process.cwd", "rewrite", True),
        ("process.env", "rewrite", True),
    ]
    assert result["diff"][0]["after"]["hostname"] == "web"
    assert result["key"] != first["key"]
    assert (path / "rootfs/written").read_text() == "precious"
    assert (path / "rootfs/new/place").is_dir()
    assert json.loads((path / "config.json").read_text("utf-8"))["hostname"] == "web"


def test_the_working_directory_of_a_specification_is_made(app: str, tmp_path: Path) -> None:
    made(layout=app, path=str(tmp_path / "bundle"), spec={"process": {"cwd": "/srv/new"}})
    assert (tmp_path / "bundle/rootfs/srv/new").is_dir()
    assert not (tmp_path / "bundle/rootfs/srv/app").exists()


@pytest.mark.parametrize("over", [{"process": None}, {"process": "x"}, {"linux": "x"}, {"mounts": [1]}])
def test_what_is_no_specification_is_never_written(app: str, tmp_path: Path, over: dict[str, t.Any]) -> None:
    params = {"layout": app, "path": str(tmp_path / "bundle")}
    assert code_of(bundle(**params, spec=over)) == "invalid_spec"
    assert not (tmp_path / "bundle").exists()
    made(**params)
    assert code_of(bundle(**params, spec=over)) == "invalid_spec"


@pytest.mark.parametrize("process", [None, "x"])
def test_a_specification_that_lost_its_process(app: str, tmp_path: Path, process: t.Any) -> None:
    params = {"layout": app, "path": str(tmp_path / "bundle"), "recreate": True}
    made(**params)
    config = tmp_path / "bundle/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "process": process}))
    other = build(busybox_layer(), config={**APP, "Env": ["B=1"]}).write(tmp_path / "other")
    made(**{**params, "layout": str(other)})


def test_what_was_edited_is_put_right(app: str, tmp_path: Path) -> None:
    path = tmp_path / "bundles/app"
    made(layout=app, path=str(path))
    spec = json.loads((path / "config.json").read_text("utf-8"))
    spec["process"]["args"] = ["evil"]
    (path / "config.json").write_text(json.dumps(spec))
    assert changes(made(layout=app, path=str(path))) == [("process.args", "rewrite", True)]
    (path / "config.json").unlink()
    assert changes(made(layout=app, path=str(path))) == [("config.json", "create", True)]
    (path / "config.json").write_text("{")
    assert changes(made(layout=app, path=str(path))) == [("config.json", "create", True)]
    subprocess.run(["rm", "-r", str(path / "rootfs")], check=True)
    assert changes(made(layout=app, path=str(path))) == [("rootfs", "create", True)]


def test_another_image_waits_for_recreate(app: str, tmp_path: Path) -> None:
    path = tmp_path / "bundles/app"
    made(layout=app, path=str(path))
    (path / "rootfs/written").write_text("precious")
    other = f"{build(busybox_layer(entry('new', 'x')), config={'Cmd': ['id']}).write(tmp_path / 'other')}:latest"
    result = made(layout=other, path=str(path))
    assert result["changed"] is False
    assert changes(result) == [("rootfs", "recreate", False)]
    assert any("recreate: true" in str(warning) for warning in result["warnings"])
    # Options are those of the image that is there.
    result = made(layout=other, path=str(path), hostname="web")
    assert changes(result) == [("rootfs", "recreate", False), ("hostname", "rewrite", True)]
    assert result["spec"]["process"]["args"] == ["sh"]
    assert (path / "rootfs/written").read_text() == "precious"
    result = made(layout=other, path=str(path), hostname="web", recreate=True)
    assert ("rootfs", "recreate", True) in changes(result)
    assert result["spec"]["process"]["args"] == ["id"]
    assert result["spec"]["process"]["user"] == {"uid": 0, "gid": 0}
    assert not (path / "rootfs/written").exists()
    assert (path / "rootfs/new").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"spec": {"process": {"user": {"uid": 5, "gid": 6}}}},
        {"spec": {"process": {"user": {"umask": 0o27, "additionalGids": None}}}},
        {"process": {"umask": "0027", "additional_gids": [7]}},
    ],
    ids=str,
)
@pytest.mark.parametrize("rootfs", ["there", "gone"])
def test_the_user_of_the_options_in_a_new_root_file_system(
    app: str, tmp_path: Path, options: dict[str, t.Any], rootfs: str
) -> None:
    """Check mode tells it as it will be, with the options and without them again."""
    other = f"{build(busybox_layer(entry('new', 'x')), config=APP).write(tmp_path / 'other')}:latest"
    path = tmp_path / "bundle"
    made(layout=app, path=str(path))
    for layout, given in ((other, options), (app, {})):
        if rootfs == "gone":
            subprocess.run(["rm", "-r", str(path / "rootfs")], check=True)
        params = {"layout": layout, "path": str(path), "recreate": True, **given}
        predicted = bundle(check_mode=True, **params)
        result = bundle(**params)
        told = {change["key"]: change["after"] for change in predicted["plan"] if "user" in change["key"]}
        assert told, predicted["plan"]
        assert predicted["spec"]["process"] == result["spec"]["process"]
        assert predicted["plan"] == result["plan"]


def test_what_is_not_ours_is_refused(app: str, tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.mkdir()
    made(layout=app, path=str(path))  # An empty directory is nobody's.
    for name, make in {
        "file": lambda place: place.write_text("x"),
        "full": lambda place: (place.mkdir(), (place / "x").write_text("x")),
        "link": lambda place: place.symlink_to(tmp_path / "layout"),
        "dangling": lambda place: place.symlink_to(tmp_path / "no"),
    }.items():
        make(tmp_path / name)
        before = listing(tmp_path)
        assert code_of(bundle(layout=app, path=str(tmp_path / name), recreate=True)) == "path_taken"
        assert listing(tmp_path) == before
    # Of another kind.
    assert code_of(bundle(rootfs=str(path / "rootfs"), path=str(path))) == "path_taken"
    assert code_of(bundle(path=str(path), spec_only=True)) == "path_taken"


def test_what_is_mounted_or_runs_is_not_taken_away(app: str, tmp_path: Path) -> None:
    path = tmp_path / "bundles/app"
    made(layout=app, path=str(path))
    other = f"{build(busybox_layer(entry('new', 'x')), config={'Cmd': ['id']}).write(tmp_path / 'other')}:latest"
    params = {"layout": other, "path": str(path), "recreate": True}
    subprocess.run(["mount", "--bind", str(tmp_path / "layout"), str(path / "rootfs/root")], check=True)
    try:
        assert code_of(bundle(**params)) == "bundle_in_use"
    finally:
        subprocess.run(["umount", str(path / "rootfs/root")], check=True)
    running = subprocess.Popen(["chroot", str(path / "rootfs"), "/bin/sh", "-c", "echo ready; read end"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    try:
        assert running.stdout
        assert running.stdout.readline() == b"ready\n"
        failed = bundle(**params)
        assert code_of(failed) == "bundle_in_use"
        assert failed["failure"]["details"]["processes"] == [running.pid]
    finally:
        running.communicate(b"\n")
    assert (tmp_path / "layout/index.json").exists()
    assert made(**params)["changed"]


@pytest.mark.parametrize("form", ["bundle", "lxc_template", "oci_archive"])
def test_a_manifest_without_media_type(form: str, tmp_path: Path) -> None:
    image = build(busybox_layer(), config=APP, manifest={"mediaType": None})
    result = bundle(layout=str(image.write(tmp_path / "layout")), path=str(tmp_path / "made"), format=form)
    assert (result.get("changed"), result["identity"]) == (True, image.digest), result


@pytest.mark.parametrize("form", ["zstd", "docker"])
def test_what_umoci_does_not_read_is_converted(form: str, tmp_path: Path) -> None:
    if form == "zstd":

        def zstd(data: bytes) -> bytes:
            return subprocess.run(["zstd", "-q"], input=data, capture_output=True, check=True).stdout

        image = build(busybox_layer(), config=APP, compress=zstd, layer_type=LAYER_ZSTD)
    else:
        image = build(busybox_layer(), config=APP, layer_type=DOCKER_LAYER, manifest={"mediaType": DOCKER_MANIFEST})
    result = made(layout=str(image.write(tmp_path / "layout")), path=str(tmp_path / "bundles/app"))
    assert result["identity"] == image.digest
    assert (tmp_path / "bundles/app/rootfs/bin/busybox").exists()


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
def test_archives(form: str, tmp_path: Path) -> None:
    root = build(busybox_layer(), config=APP).write(tmp_path / "layout")
    archive = tmp_path / "an: archive.tar"
    link = tmp_path / "archive.tar"
    name = ":docker.io/team/app:1.0" if form == "docker-archive" else ":1.0"
    copy = ["skopeo", "--insecure-policy", "copy", "-q", f"oci:{root}:latest", f"{form}:{link}{name}"]
    subprocess.run(copy, check=True, capture_output=True)
    link.rename(archive)
    result = made(archive=str(archive), path=str(tmp_path / "bundles/app"))
    assert result["spec"]["process"]["user"] == {"uid": 1000, "gid": 1000, "additionalGids": [2000]}
    short = ":team/app:1.0" if form == "docker-archive" else ":1.0"
    assert made(archive=f"{archive}{short}", path=str(tmp_path / "bundles/named"))["identity"] == result["identity"]
    assert code_of(bundle(archive=f"{archive}:other", path=str(tmp_path / "bundles/x"))) == "image_not_found"


def test_archives_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("no")
    (tmp_path / "plain.tar").write_bytes(layer(entry("a", "1")))
    for name, code in {"text": "invalid_image", "plain": "invalid_image", "missing": "source_missing"}.items():
        assert code_of(bundle(archive=str(tmp_path / f"{name}.tar"), path=str(tmp_path / "b"))) == code
    assert code_of(bundle(layout=str(tmp_path / "missing"), path=str(tmp_path / "b"))) == "source_missing"
    assert code_of(bundle(rootfs=str(tmp_path / "missing"), path=str(tmp_path / "b"))) == "source_missing"


def test_the_platform_is_chosen(tmp_path: Path) -> None:
    images = {
        name: build(busybox_layer(entry("arch", name)), config=APP, architecture=name) for name in ("amd64", "arm64")
    }
    root = index(*((f"linux/{name}", image) for name, image in images.items())).write(tmp_path / "layout")
    result = made(layout=str(root), path=str(tmp_path / "bundles/arm"), platform="linux/arm64")
    assert result["identity"] == images["arm64"].digest
    assert (tmp_path / "bundles/arm/rootfs/arch").read_text() == "arm64"
    missing = bundle(layout=str(root), path=str(tmp_path / "bundles/s"), platform="linux/s390x")
    assert code_of(missing) == "platform_missing"


def test_several_images_in_a_layout(tmp_path: Path) -> None:
    for name in ("one", "two"):
        build(busybox_layer(entry("name", name)), config=APP).write(tmp_path / "layout", name)
    made(layout=f"{tmp_path / 'layout'}:two", path=str(tmp_path / "bundles/two"))
    assert (tmp_path / "bundles/two/rootfs/name").read_text() == "two"
    failed = bundle(layout=str(tmp_path / "layout"), path=str(tmp_path / "bundles/x"))
    assert code_of(failed) == "image_not_found"
    assert failed["failure"]["details"]["names"] == ["one", "two"]


def test_a_root_file_system_in_place(app: str, tmp_path: Path) -> None:
    made(layout=app, path=str(tmp_path / "bundles/app"))
    rootfs = tmp_path / "bundles/app/rootfs"
    before = listing(rootfs)
    result = made(rootfs=str(rootfs), path=str(tmp_path / "bundles/tool"), process={"user": "app", "cwd": "/nowhere"})
    assert result["spec"]["root"]["path"] == result["rootfs"] == str(rootfs)
    assert result["spec"]["process"]["args"] == ["sh"]
    assert result["spec"]["process"]["user"]["uid"] == 1000
    assert sorted(os.listdir(tmp_path / "bundles/tool")) == ["config.json", "lxcri.json"]
    assert listing(rootfs) == before


def test_the_specification_alone(app: str, tmp_path: Path) -> None:
    result = made(path=str(tmp_path / "specs/none"), spec_only=True)
    assert sorted(os.listdir(tmp_path / "specs/none")) == ["config.json", "lxcri.json"]
    assert result["spec"]["process"]["args"] == ["sh"]
    validate_spec(result["spec"])
    # Names need a root file system.
    assert code_of(bundle(layout=app, path=str(tmp_path / "specs/app"), spec_only=True)) == "user_unknown"
    place = tmp_path / "specs/app/rootfs/etc"
    place.mkdir(parents=True)
    (place / "passwd").write_text("app:x:7:8::/:/bin/sh\n")
    result = made(layout=app, path=str(tmp_path / "specs/app"), spec_only=True)
    assert result["spec"]["process"]["user"] == {"uid": 7, "gid": 8}
    (tmp_path / "specs/taken").mkdir()
    (tmp_path / "specs/taken/config.json").write_text("{}")
    assert code_of(bundle(path=str(tmp_path / "specs/taken"), spec_only=True)) == "path_taken"


def test_a_seccomp_profile_in_a_file(app: str, tmp_path: Path) -> None:
    profile = tmp_path / "seccomp.json"
    profile.write_text('{"defaultAction": "SCMP_ACT_ERRNO"}')
    result = made(layout=app, path=str(tmp_path / "bundles/app"), seccomp=str(profile))
    assert result["spec"]["linux"]["seccomp"] == {"defaultAction": "SCMP_ACT_ERRNO"}
    # What is in the file counts.
    profile.write_text('{"defaultAction": "SCMP_ACT_LOG"}')
    result = made(layout=app, path=str(tmp_path / "bundles/app"), seccomp=str(profile))
    assert changes(result) == [("linux.seccomp.defaultAction", "rewrite", True)]
    for text in ("no", '{"syscalls": []}', '{"defaultAction": "SCMP_ACT_ERRNO", "archMap": []}'):
        profile.write_text(text)
        assert code_of(bundle(layout=app, path=str(tmp_path / "bundles/x"), seccomp=str(profile))) == "invalid_seccomp"
    missing = bundle(layout=app, path=str(tmp_path / "bundles/x"), seccomp=str(tmp_path / "missing"))
    assert code_of(missing) == "invalid_seccomp"


WRONG: dict[str, tuple[dict[str, t.Any], str]] = {
    "two sources": ({"rootfs": "/"}, "invalid_option"),
    "upload of a bundle": ({"upload": {"node": "n", "storage": "s"}}, "invalid_option"),
    "name of a bundle": ({"name": "x"}, "invalid_option"),
    "no path": ({"path": None}, "invalid_option"),
    "recreate of a template": ({"format": "lxc_template", "recreate": True}, "invalid_option"),
    "options of an archive": ({"format": "oci_archive", "hostname": "x"}, "invalid_option"),
    "name of a template": ({"format": "lxc_template", "name": "../x"}, "invalid_option"),
    "unknown user": ({"process": {"user": "nobody"}}, "user_unknown"),
    "unknown group": ({"process": {"user": "0:nobody"}}, "user_unknown"),
    "a file as working directory": ({"process": {"cwd": "/etc/passwd/x"}}, "not_a_directory"),
    "no command": ({"process": {"entrypoint": []}}, "no_command"),
}


@pytest.mark.parametrize(("params", "code"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_refused(app: str, tmp_path: Path, params: dict[str, t.Any], code: str) -> None:
    given = {"layout": app, "path": str(tmp_path / "bundles/app"), **params}
    result = bundle(**{key: value for key, value in given.items() if value is not None})
    assert code_of(result) == code
    assert result["msg"].startswith(result["failure"]["message"])
    assert not (tmp_path / "bundles/app").exists()
    assert not (tmp_path / "bundles").exists() or not os.listdir(tmp_path / "bundles")


@pytest.mark.parametrize("form", ["bundle", "lxc_template", "oci_archive"])
@pytest.mark.parametrize("name", ["web:1", "x:y/web"])
def test_a_path_with_a_colon(app: str, tmp_path: Path, form: str, name: str) -> None:
    """It is nothing that the image has done."""
    assert code_of(bundle(layout=app, path=str(tmp_path / name), format=form)) == "invalid_option"
    assert not (tmp_path / name).exists()


def test_a_root_file_system_with_a_colon_is_used_in_place(app: str, tmp_path: Path) -> None:
    made(layout=app, path=str(tmp_path / "bundle"))
    (tmp_path / "bundle/rootfs").rename(tmp_path / "a:b")
    made(rootfs=str(tmp_path / "a:b"), path=str(tmp_path / "c:d"))


def test_nothing_to_make_it_of(tmp_path: Path) -> None:
    assert code_of(bundle(path=str(tmp_path / "x"))) == "invalid_option"


@pytest.mark.parametrize("key", ["Env", "WorkingDir", "StopSignal", "User", "Volumes"])
@pytest.mark.parametrize("form", ["bundle", "lxc_template", "oci_archive"])
def test_control_characters_are_refused(tmp_path: Path, key: str, form: str) -> None:
    values: dict[str, t.Any] = {"Env": ["A=b\nlxc.hook.start = /bin/evil"], "Volumes": {"/a\nb": {}}}
    image = build(busybox_layer(), config={"Cmd": ["sh"], key: values.get(key, "/a\nb")})
    root = image.write(tmp_path / "layout")
    assert code_of(bundle(layout=str(root), path=str(tmp_path / "b"), format=form)) == "unsafe_config"
    assert not (tmp_path / "b").exists()


def big(tmp_path: Path) -> Built:
    """An image that takes a while to unpack."""
    files = [entry(f"data/{number}", os.urandom(64) * 400) for number in range(3000)]
    return build(busybox_layer(directory("data"), *files), config={"Cmd": ["sh"]})


def start(params: dict[str, t.Any]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "ansible_collections.lxcri.proxmox.plugins.modules.oci_bundle"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdin
    process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": params}).encode())
    process.stdin.close()
    return process


def test_a_killed_run_is_put_right(tmp_path: Path) -> None:
    """Killed at many moments, of the first unpacking and of a replacement; the next run always gets there."""
    image = big(tmp_path)
    first = f"{image.write(tmp_path / 'first')}:latest"
    second = f"{build(busybox_layer(entry('second', 'x')), config={'Cmd': ['id']}).write(tmp_path / 'second')}:latest"
    path = tmp_path / "bundles/app"
    expected = None
    for number in range(12):
        params = {"layout": first if number % 2 == 0 else second, "path": str(path), "recreate": True}
        process = start(params)
        time.sleep(0.25 + 0.06 * number)
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()
        if path.exists():
            # It is whole at any time.
            assert sorted(os.listdir(path)) == ["config.json", "lxcri.json", "rootfs"]
            assert (path / "rootfs/bin/busybox").exists()
        if number % 4 == 0:
            result = bundle(**params)
            assert not result.get("failed"), result
            if number == 0:
                expected = listing(path / "rootfs")
            assert listing(path / "rootfs") == expected
            assert os.listdir(path.parent) == ["app"]
    result = made(layout=first, path=str(path), recreate=True)
    assert listing(path / "rootfs") == expected
    assert os.listdir(path.parent) == ["app"]


def test_a_run_that_was_killed_at_its_very_end(tmp_path: Path, app: str) -> None:
    """There is nothing to do but to clear up, which is no change."""
    params = {"layout": app, "path": str(tmp_path / "bundles/app")}
    assert bundle(**params)["changed"]
    (tmp_path / "bundles/.app.lxcri-new/left").mkdir(parents=True)
    assert bundle(check_mode=True, **params)["changed"] is False
    assert bundle(**params)["changed"] is False
    assert os.listdir(tmp_path / "bundles") == ["app"]


def test_the_commands_of_a_killed_run_end(tmp_path: Path) -> None:
    params = {"layout": f"{big(tmp_path).write(tmp_path / 'layout')}:latest", "path": str(tmp_path / "bundles/app")}
    process = start(params)
    work = tmp_path / "bundles/.app.lxcri-new"
    end = time.monotonic() + 30
    while not list(work.glob("*/bundle/rootfs/bin")) and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout
    process.stdout.close()
    assert work.exists()
    result = bundle(**params)
    assert result["changed"], result
    assert len(os.listdir(tmp_path / "bundles/app/rootfs/data")) == 3000
    assert os.listdir(tmp_path / "bundles") == ["app"]


def test_between_the_two_renames(app: str, tmp_path: Path) -> None:
    path = tmp_path / "bundles/app"
    made(layout=app, path=str(path))
    path.rename(path.parent / ".app.lxcri-old")
    other = f"{build(busybox_layer(), config={'Cmd': ['id']}).write(tmp_path / 'other')}:latest"
    # What is there is seen, also by check mode.
    predicted = bundle(check_mode=True, layout=other, path=str(path), recreate=True)
    assert changes(predicted)[0] == ("rootfs", "recreate", True)
    result = bundle(layout=other, path=str(path), recreate=True)
    assert result["plan"] == predicted["plan"]
    assert os.listdir(path.parent) == ["app"]


def test_two_runs_at_once(app: str, tmp_path: Path) -> None:
    results: list[dict[str, t.Any]] = []
    params = {"layout": app, "path": str(tmp_path / "bundles/app")}
    threads = [threading.Thread(target=lambda: results.append(bundle(**params))) for _number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result["changed"] for result in results) == [False, False, False, True]
    assert os.listdir(tmp_path / "bundles") == ["app"]


def test_no_space_left(app: str, tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=True)
    try:
        assert code_of(bundle(layout=app, path=str(place / "app"))) == "disk_full"
        assert code_of(bundle(layout=app, path=str(place), format="lxc_template")) == "disk_full"
        assert code_of(bundle(layout=app, path=str(place), format="oci_archive")) == "disk_full"
        assert not os.listdir(place)
        assert bundle(path=str(place / "spec"), spec_only=True)["changed"]
        (place / "fill").write_bytes(bytes(1 << 19))
        with contextlib.suppress(OSError), (place / "rest").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        before = listing(place)
        assert code_of(bundle(path=str(place / "spec"), spec_only=True, hostname="x")) == "disk_full"
        assert listing(place) == before
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_command_that_is_missing(tmp_path: Path) -> None:
    with Staging(str(tmp_path / "x")) as staging, pytest.raises(Failure) as caught:
        staging.run(["no-such-command"])
    assert caught.value.code == "command_missing"


def test_another_run_is_waited_for(app: str, tmp_path: Path) -> None:
    params = {"layout": app, "path": str(tmp_path / "bundles/app")}
    with Staging(params["path"]):
        assert code_of(bundle(**params, timeout=1)) == "bundle_locked"
    assert bundle(**params, timeout=1)["changed"]


def test_a_place_where_nothing_can_be(app: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for params in ({}, {"format": "lxc_template"}, {"format": "oci_archive"}):
        assert code_of(bundle(layout=app, path=str(tmp_path / "file/x"), **params)) == "write_failed"
    assert code_of(bundle(layout=app, path=f"/proc/{'x' * 300}/y")) == "write_failed"


@pytest.mark.parametrize("form", ["bundle", "lxc_template", "oci_archive"])
def test_a_damaged_layer(tmp_path: Path, form: str) -> None:
    image = build(busybox_layer(), config=APP)
    root = image.write(tmp_path / "layout")
    digest = Layout(str(root)).image(image.digest).layers[0]["digest"]
    blob = root / "blobs/sha256" / digest[7:]
    whole = blob.read_bytes()
    place = tmp_path / "made"
    for content in (whole[:-1000], whole[:5000] + b"x" + whole[5001:], b""):
        blob.write_bytes(content)
        assert bundle(layout=str(root), path=str(place), format=form).get("failed")
        assert not place.exists() or not os.listdir(place)
    blob.unlink()
    assert bundle(layout=str(root), path=str(place), format=form).get("failed")
    assert not place.exists() or not os.listdir(place)


@pytest.mark.parametrize(
    "text", ["no", "[]", "{}", "[1]", '[{"Config": 7}]', '[{"Config": "x", "RepoTags": 7}]', '[{"Config": "missing"}]']
)
def test_archives_of_docker_that_are_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.tar").write_bytes(layer(entry("manifest.json", text)))
    result = bundle(archive=str(tmp_path / "a.tar"), path=str(tmp_path / "b"))
    assert code_of(result) == ("image_not_found" if text == "[]" else "invalid_image")
