# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""oci_bundle: templates and archives for Proxmox, and how they get onto a storage."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci import bundle
from ansible_collections.lxcri.proxmox.tests.oci.images import (
    BUSYBOX,
    build,
    busybox_layer,
    directory,
    entry,
    index,
    layer,
    listing,
)
from ansible_collections.lxcri.proxmox.tests.oci.kill_artefacts import params_of, work
from ansible_collections.lxcri.proxmox.tests.oci.module import run_module
from ansible_collections.lxcri.proxmox.tests.oci.registry import PASSWORD, USER, Registry
from ansible_collections.lxcri.proxmox.tests.oci.test_bundle_run import name, run
from ansible_collections.lxcri.proxmox.tests.oci.test_layers import CAPABILITY
from ansible_collections.lxcri.proxmox.tests.simulator.plugin import certificates, cluster
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator

__all__ = ["certificates", "cluster", "name"]

# restore_tar_archive_command of pve-container's PVE/LXC/Create.pm, and COMMON_TAR_FLAGS of pve-storage.
RESTORE = (
    *("tar", "xpf", "-", "--zstd", "--totals", "--one-file-system", "-p", "--sparse", "--numeric-owner", "--acls"),
    *("--xattrs", "--xattrs-include=user.*", "--xattrs-include=security.capability", "--warning=no-file-ignored"),
    *("--warning=no-xattr-write", "--skip-old-files", "--anchored", "--exclude", "./dev/*", "-C"),
)
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def artefact(check_mode: bool = False, **params: t.Any) -> dict[str, t.Any]:
    return run_module("oci_bundle", params, check_mode)


def made(**params: t.Any) -> dict[str, t.Any]:
    """Run the module: first in check mode, which tells the same; and again, which does nothing."""
    predicted = artefact(check_mode=True, **params)
    result = artefact(**params)
    assert not result.get("failed"), result
    for key in ("changed", "plan", "diff", "file_name", "key", "identity", "path", "volume"):
        assert predicted[key] == result[key], key
    again = artefact(**params)
    assert (again["changed"], again["plan"], again["diff"]) == (False, [], [])
    for key in ("file_name", "spec", "lxc"):
        assert again[key] == result[key], key
    return result


@pytest.fixture
def app(tmp_path: Path) -> str:
    """A layout with an image that has what is hard to keep."""
    xattrs = {"security.capability": CAPABILITY.decode("latin-1"), "user.note": "here"}
    image = build(
        busybox_layer(
            entry("bin/ping", "x", mode=0o755, owner=(0, 7), xattrs=xattrs),
            entry("bin/su", "x", mode=0o4755),
            entry("dev/null", kind=tarfile.CHRTYPE, device=(1, 3)),
            entry("srv/loop", kind=tarfile.BLKTYPE, device=(7, 0)),
            entry("srv/fifo", kind=tarfile.FIFOTYPE),
            entry("hard", kind=tarfile.LNKTYPE, link="bin/su"),
            entry("name\nwith newline", "x"),
            entry("-C", "x"),
        ),
        layer(directory("data", 0o700, (1000, 1000))),
        config={"Cmd": ["sh"], "User": "app", "WorkingDir": "/srv/app/dir", "Volumes": {"/data": {}, "/vol/ume": {}}},
    )
    return f"{image.write(tmp_path / 'layout')}:latest"


def test_a_template(app: str, tmp_path: Path) -> None:
    result = made(layout=app, format="lxc_template", path=str(tmp_path / "cache"), name="app")
    assert os.listdir(tmp_path / "cache") == [result["file_name"]]
    digest, key = result["identity"][7:19], result["key"][:12]
    assert result["file_name"] == f"app_{digest}-{key}_amd64.tar.zst"
    assert result["spec"]["process"]["args"] == ["sh"]
    # As Proxmox unpacks it.
    there = listing(restored(result["path"], tmp_path / "restored"))
    made_bundle = run_module("oci_bundle", {"layout": app, "path": str(tmp_path / "bundle")})
    assert made_bundle["changed"]
    expected = listing(tmp_path / "bundle/rootfs")
    del expected["dev/null"], expected["srv/loop"]
    more = dict.fromkeys(("run", "vol", "vol/ume", "etc/network", "sbin"), "drwxr-xr-x 0:0")
    assert there.pop("sbin/init").startswith("-rwxr-xr-x 0:0")
    assert there == {**expected, **more}
    ping = tmp_path / "restored/bin/ping"
    assert os.getxattr(ping, "security.capability") == CAPABILITY
    assert os.getxattr(ping, "user.note") == b"here"
    assert (tmp_path / "restored/hard").stat().st_ino == (tmp_path / "restored/bin/su").stat().st_ino
    assert int(ping.stat().st_mtime) == 1_700_000_000


def test_a_template_has_the_same_bytes_each_time(app: str, tmp_path: Path) -> None:
    contents = []
    for place in ("one", "two", "three"):
        result = made(layout=app, format="lxc_template", path=str(tmp_path / place))
        contents.append(Path(result["path"]).read_bytes())
    assert len(set(contents)) == 1


def test_a_template_of_an_image_with_little_in_it(tmp_path: Path) -> None:
    root = build(layer(entry("app", "x", mode=0o755)), config={"Cmd": ["/app"]}).write(tmp_path / "layout")
    result = made(layout=str(root), format="lxc_template", path=str(tmp_path / "cache"))
    listed = subprocess.run(["tar", "--zstd", "-tf", result["path"]], capture_output=True, text=True, check=True)
    below = ["app", "dev/", "etc/", "etc/network/", "proc/", "run/", "sys/", "tmp/"]
    # Nothing could run an init here.
    assert listed.stdout.split() == ["./", *(f"./{name}" for name in below)]


def test_a_template_of_a_root_file_system(app: str, tmp_path: Path) -> None:
    assert run_module("oci_bundle", {"layout": app, "path": str(tmp_path / "bundle")})["changed"]
    params = {"rootfs": str(tmp_path / "bundle/rootfs"), "format": "lxc_template", "path": str(tmp_path / "cache")}
    first = made(**params)
    assert first["identity"].startswith("tree:")
    (tmp_path / "bundle/rootfs/more").write_text("x")
    assert made(**params)["file_name"] != first["file_name"]


def test_another_command_is_another_template(app: str, tmp_path: Path) -> None:
    params = {"layout": app, "format": "lxc_template", "path": str(tmp_path / "cache")}
    others = ({}, {"cwd": "/else"}, {"args": ["true"]}, {"env": {"A": "1"}})
    assert len({made(**params, process=process)["file_name"] for process in others}) == len(others)
    first = made(**params)
    # What only matters to who runs it changes nothing in it.
    assert artefact(**params, hostname="x")["changed"] is False
    assert artefact(**params, hostname="x")["file_name"] == first["file_name"]


@pytest.mark.parametrize("form", ["lxc_template", "oci_archive"])
def test_a_newer_converter_makes_it_anew(
    app: str, cluster: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """What an older one has made is not taken, neither here nor on a storage."""
    place = tmp_path / "cache"
    params = params_of({"layout": app, "format": form, "path": str(place), "upload": target(cluster)})
    old = work(params)
    monkeypatch.setattr(bundle, "CONVERTER", bundle.CONVERTER + 1)
    new = work(params)
    assert [change["key"] for change in new["plan"]] == ["file", "volume"]
    assert old["key"] != new["key"]
    assert sorted(os.listdir(place)) == sorted([old["file_name"], new["file_name"]])
    assert cluster.call(lambda running: running.uploaded["filename"]) == new["file_name"] != old["file_name"]
    assert work(params)["changed"] is False


def restored(path: str, directory: Path) -> Path:
    """A template, unpacked as Proxmox does it."""
    directory.mkdir()
    with open(path, "rb") as archive:
        done = subprocess.run([*RESTORE, str(directory)], stdin=archive, capture_output=True, check=True)
    assert b"rror" not in done.stderr
    return directory


def booted(tmp_path: Path, name: str, *layers: bytes, **config: t.Any) -> subprocess.CompletedProcess[str]:
    """What the init of a template of an image does; it is run as LXC does it, with variables of its own."""
    layout = build(*layers, config=config).write(tmp_path / "layout")
    template = artefact(layout=str(layout), format="lxc_template", path=str(tmp_path / "cache"))
    root = restored(template["path"], tmp_path / "root")
    process = {"args": ["/sbin/init"], "env": {"container": "lxc", "TERM": "linux", "PATH": None}}
    bundle = {"rootfs": str(root), "path": str(tmp_path / "bundle"), "process": process}
    assert run_module("oci_bundle", bundle)["changed"]
    return run("runc", name, tmp_path / "bundle")


# Every kind of character that means something to a shell.
ODD = ["it's", 'say "x"', "a\nb\n", "$HOME `id` \\ $(id)", "*", "", "-n", "~", "\tü;&|<>#!"]
SHOW = 'for word; do printf \'<%s>\' "$word"; done; printf \'|%s|%s|\' "$PWD" "$$"; cat /proc/1/environ; exit 5'


def test_the_init_of_a_template_runs_the_command(tmp_path: Path, name: str) -> None:
    env = ["PATH=/bin", 'A=it\'s $HOME\t"x"', "a.b=dotted", "1=one", "UID=7", "EMPTY=", "TERM=vt100"]
    config = {"Entrypoint": ["sh", "-c", SHOW, "sh"], "Cmd": ODD, "Env": env, "WorkingDir": "/srv/it's here"}
    done = booted(tmp_path, name, busybox_layer(), **config)
    assert done.returncode == 5, done
    words, cwd, pid, rest = done.stdout.rsplit("|", 3)
    assert words == "".join(f"<{word}>" for word in ODD)
    assert (cwd, pid) == ("/srv/it's here", "1")
    assert {*env, "container=lxc"} <= set(rest.split("\0"))


def test_a_command_that_looks_like_a_variable(tmp_path: Path, name: str) -> None:
    script = entry("srv/a=b", '#!/bin/sh\necho "$1"\n', mode=0o755)
    done = booted(tmp_path, name, busybox_layer(script), Cmd=["/srv/a=b", "it's"], Env=["PATH=/bin"])
    assert (done.returncode, done.stdout) == (0, "it's\n"), done


def test_signals_reach_the_command(tmp_path: Path, name: str) -> None:
    """It is the first process itself."""
    command = "trap 'echo caught; exit 3' TERM; (sleep 0.2; kill -TERM 1) & while :; do sleep 0.1; done"
    done = booted(tmp_path, name, busybox_layer(), Cmd=["sh", "-c", command])
    assert (done.returncode, done.stdout) == (3, "caught\n"), done


def test_an_init_that_is_not_the_command_is_replaced(tmp_path: Path, name: str) -> None:
    """As in images of Alpine, where it is that of busybox."""
    links = layer(
        entry("sbin", kind=tarfile.SYMTYPE, link="../../usr/sbin"),
        directory("usr/sbin"),
        entry("usr/sbin/init", kind=tarfile.SYMTYPE, link="../../bin/busybox"),
    )
    done = booted(tmp_path, name, busybox_layer(), links, Cmd=["/bin/sh", "-c", "echo here"], Env=["PATH=/bin"])
    assert (done.returncode, done.stdout) == (0, "here\n"), done
    assert (tmp_path / "root/bin/busybox").read_bytes() == BUSYBOX.read_bytes()
    assert not (tmp_path / "root/usr/sbin/init").is_symlink()


def test_an_init_that_leads_out_is_replaced_inside(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "outside").chmod(0o644)
    links = layer(directory("sbin"), entry("sbin/init", kind=tarfile.SYMTYPE, link=str(tmp_path / "outside")))
    done = booted(tmp_path, name, busybox_layer(), links, Cmd=["/bin/echo", "inside"])
    assert (done.returncode, done.stdout) == (0, "inside\n"), done
    assert (tmp_path / "outside").read_text() == "mine"


def test_an_image_with_a_file_that_looks_unfinished(tmp_path: Path, name: str) -> None:
    left = layer(directory("sbin"), entry("sbin/.lxcri-new", "theirs"))
    done = booted(tmp_path, name, busybox_layer(), left, Cmd=["/bin/echo", "here"])
    assert (done.returncode, done.stdout) == (0, "here\n"), done
    assert (tmp_path / "root/sbin/.lxcri-new").read_text() == "theirs"


def test_an_init_that_is_a_directory(tmp_path: Path) -> None:
    layout = build(busybox_layer(), layer(directory("sbin/init")), config={"Cmd": ["sh"]}).write(tmp_path / "layout")
    result = artefact(layout=str(layout), format="lxc_template", path=str(tmp_path / "cache"))
    assert result["failure"]["code"] == "not_a_file", result
    assert result["failure"]["hint"]
    assert os.listdir(tmp_path / "cache") == []


@pytest.mark.parametrize("command", ["/sbin/init", "/usr/sbin/init", "init", "../start"])
def test_an_init_that_is_the_command_stays(tmp_path: Path, command: str) -> None:
    own = layer(
        entry("sbin", kind=tarfile.SYMTYPE, link="usr/sbin"),
        directory("usr/sbin"),
        directory("lib"),
        entry("lib/systemd", "#!/bin/sh\n", mode=0o755),
        entry("usr/sbin/init", kind=tarfile.SYMTYPE, link="/lib/systemd"),
        entry("start", kind=tarfile.SYMTYPE, link="sbin/init"),
    )
    config = {"Cmd": [command], "Env": ["PATH=/bin:/sbin"], "WorkingDir": "/srv"}
    layout = build(busybox_layer(), own, config=config).write(tmp_path / "layout")
    template = artefact(layout=str(layout), format="lxc_template", path=str(tmp_path / "cache"))
    root = restored(template["path"], tmp_path / "root")
    assert os.readlink(root / "usr/sbin/init") == "/lib/systemd"


def test_an_image_without_a_command(tmp_path: Path) -> None:
    """It is a whole system, with an init that LXC finds by itself."""
    own = layer(directory("sbin"), entry("sbin/init", "#!/bin/sh\n", mode=0o755))
    layout = build(busybox_layer(), own, config={}).write(tmp_path / "layout")
    template = made(layout=str(layout), format="lxc_template", path=str(tmp_path / "cache"))
    assert template["spec"]["process"]["args"] == ["/sbin/init"]
    assert "entrypoint" not in template["lxc"]["api"]
    root = restored(template["path"], tmp_path / "root")
    assert (root / "sbin/init").read_text() == "#!/bin/sh\n"


@pytest.mark.parametrize("config", [{}, {"Cmd": ["/sbin/init"]}])
def test_an_image_without_a_command_and_an_init(tmp_path: Path, config: dict[str, t.Any]) -> None:
    layout = build(busybox_layer(), config=config).write(tmp_path / "layout")
    result = artefact(layout=str(layout), format="lxc_template", path=str(tmp_path / "cache"))
    assert result["failure"]["code"] == "no_command", result
    assert os.listdir(tmp_path / "cache") == []


def test_the_command_of_the_options(tmp_path: Path, name: str) -> None:
    layout = build(busybox_layer(), config={"Cmd": ["false"], "Env": ["A=1", "B=2"]}).write(tmp_path / "layout")
    process = {"args": ["sh", "-c", "echo $A$B"], "env": {"A": "x", "B": None}, "cwd": "/new"}
    template = made(layout=str(layout), format="lxc_template", path=str(tmp_path / "cache"), process=process)
    root = restored(template["path"], tmp_path / "root")
    bundle = {"rootfs": str(root), "path": str(tmp_path / "bundle"), "process": {"args": ["/sbin/init"]}}
    assert run_module("oci_bundle", bundle)["changed"]
    assert run("runc", name, tmp_path / "bundle").stdout == "x\n"
    assert (root / "new").is_dir()


def test_the_user_of_a_specification(app: str, tmp_path: Path) -> None:
    """What is known of it is told also while the rest has to be looked up."""
    params = {"layout": app, "format": "lxc_template", "path": str(tmp_path / "cache")}
    params["spec"] = {"process": {"user": {"uid": 5}}}
    predicted = artefact(check_mode=True, **params)
    assert predicted["spec"]["process"]["user"] == {"username": "app", "uid": 5}
    # Nobody knows the group yet.
    assert predicted["lxc"] is None
    result = made(**params)
    assert result["spec"]["process"]["user"] == {"uid": 5, "gid": 1000, "additionalGids": [2000]}
    assert {"key": "lxc.init.uid", "value": "5"} in result["lxc"]["raw"]


def test_the_user_of_a_template(tmp_path: Path) -> None:
    files = {"etc/passwd": "root:x:0:0\napp:x:5:6\n", "etc/group": "app:x:6:\naudio:x:7:root,app\nvideo:x:8:app\n"}
    root = busybox_layer(*(entry(name, text) for name, text in files.items()))
    layout = build(root, config={"Cmd": ["sh"], "User": "app"}).write(tmp_path / "layout")
    params = {"layout": str(layout), "format": "lxc_template", "path": str(tmp_path / "cache")}
    users = {"app": {"uid": 5, "gid": 6, "additionalGids": [7, 8]}, "": {"uid": 0, "gid": 0, "additionalGids": [7]}}
    for declared, user in users.items():
        result = made(**params, process={"user": declared})
        assert result["spec"]["process"]["user"] == user
        assert result["lxc"]["raw"]
    assert made(**params)["spec"]["process"]["user"] == users["app"]


def test_what_check_mode_says_of_an_image_that_is_not_there_yet(registry: Registry, tmp_path: Path) -> None:
    image = build(busybox_layer(), config={"Cmd": ["sh"], "User": "0", "WorkingDir": "/srv/app"})
    reference = registry.push(image.write(tmp_path / "layout"), "artefacts/web", "1")
    access = {"username": USER, "password": PASSWORD, "ca_path": str(registry.certificate), "platform": "linux/amd64"}
    made(
        image=reference,
        **access,
        store=str(tmp_path / "store"),
        format="lxc_template",
        path=str(tmp_path / "cache"),
        process={"env": {"A": "1"}},
    )


def test_each_policy_has_a_file_of_its_own(app: str, tmp_path: Path) -> None:
    """The next start of one container must not find what was written for another one."""
    files = {}
    for action in ("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"):
        place = str(tmp_path / action)
        result = artefact(layout=app, format="lxc_template", path=place, seccomp={"defaultAction": action})
        files.update(result["lxc"]["files"])
    assert len(files) == len(set(files.values())) == 2


def contents(path: str) -> tuple[list[str], dict[str, t.Any]]:
    """The names in an archive as ``tar -tf`` prints them, and its index."""
    listed = subprocess.run(["tar", "-tf", path], capture_output=True, text=True, check=True).stdout.splitlines()
    with tarfile.open(path) as archive:
        file = archive.extractfile("index.json")
        assert file
        return listed, json.load(file)


def test_an_archive(tmp_path: Path) -> None:
    images = {name: build(busybox_layer(entry("arch", name)), architecture=name) for name in ("amd64", "arm64")}
    root = index(*((f"linux/{name}", image) for name, image in images.items())).write(tmp_path / "layout")
    params = {"layout": str(root), "format": "oci_archive", "path": str(tmp_path / "cache")}
    result = made(**params, platform="arm64")
    names, document = contents(result["path"])
    # archive_is_oci_format of pve-container's PVE/LXC/Create.pm.
    blobs = {f"blobs/sha256/{digest[7:]}" for digest in images["arm64"].blobs}
    assert names[:2] == ["oci-layout", "index.json"]
    assert set(names[2:]) == blobs
    assert len(names) == 2 + len(blobs)
    [descriptor] = document["manifests"]
    assert descriptor["digest"] == images["arm64"].digest == result["identity"]
    assert descriptor["platform"] == {"os": "linux", "architecture": "arm64"}
    assert images["arm64"].digest[7:19] in result["file_name"]
    assert result["file_name"].endswith("_arm64.tar")
    # It is the image, also for others.
    copied = [
        "skopeo",
        "--insecure-policy",
        "--override-arch=arm64",
        "inspect",
        "--raw",
        f"oci-archive:{result['path']}",
    ]
    raw = subprocess.run(copied, capture_output=True, check=True).stdout
    assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == images["arm64"].digest


def test_an_archive_of_an_image_of_docker(tmp_path: Path) -> None:
    image = build(busybox_layer(), layer_type=DOCKER_LAYER, manifest={"mediaType": DOCKER_MANIFEST})
    params = {"layout": str(image.write(tmp_path / "layout")), "format": "oci_archive", "path": str(tmp_path / "cache")}
    result = made(**params)
    # The name has the digest of what it is made of; what is in it was converted.
    assert result["identity"] == image.digest
    _names, document = contents(result["path"])
    [descriptor] = document["manifests"]
    assert descriptor["mediaType"] == "application/vnd.oci.image.manifest.v1+json"


def test_an_image_that_skopeo_cannot_read(tmp_path: Path) -> None:
    """An archive as docker-save writes it, of which a layer is missing."""
    path = tmp_path / "web.tar"
    with tarfile.open(path, "w") as archive:
        documents = {
            "manifest.json": [{"Config": "c.json", "RepoTags": ["web:1"], "Layers": ["gone/layer.tar"]}],
            "c.json": {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:00"]}},
        }
        for name, document in documents.items():
            data = json.dumps(document).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    result = artefact(archive=str(path), format="oci_archive", path=str(tmp_path / "cache"))
    assert result["failure"]["code"] == "convert_failed", result
    assert os.listdir(tmp_path / "cache") == []


def test_a_template_that_cannot_be_compressed(app: str, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/zstd").write_text("#!/bin/sh\necho out of order >&2\nexit 1\n")
    (tmp_path / "bin/zstd").chmod(0o755)
    params = {"layout": app, "format": "lxc_template", "path": str(tmp_path / "cache")}
    result = run_module("oci_bundle", params, env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})
    assert result["failure"]["code"] == "archive_failed", result
    assert "out of order" in result["msg"]
    assert os.listdir(tmp_path / "cache") == []
    assert artefact(**params)["changed"] is True


def test_a_root_file_system_makes_no_archive(tmp_path: Path) -> None:
    result = artefact(rootfs="/", format="oci_archive", path=str(tmp_path))
    assert result["failure"]["code"] == "invalid_option"
    assert artefact(format="oci_archive", path=str(tmp_path), spec_only=True)["failure"]["code"] == "invalid_option"


# ------------------------------------------------------------------------------------------------------- storages

CONTENT = "GET /nodes/pve1/storage/local/content"
UPLOAD = "POST /nodes/pve1/storage/local/upload"


def target(cluster: Simulator, **more: t.Any) -> dict[str, t.Any]:
    return {**cluster.options, "node": "pve1", "storage": "local", **more}


@pytest.mark.parametrize("form", ["lxc_template", "oci_archive"])
@pytest.mark.parametrize("keep", [False, True])
def test_an_upload(cluster: Simulator, app: str, tmp_path: Path, scratch: Path, form: str, keep: bool) -> None:
    place = {"path": str(tmp_path / "cache")} if keep else {}
    params = {"layout": app, "format": form, "upload": target(cluster), **place}
    result = artefact(check_mode=True, **params)
    assert (result["changed"], cluster.requests.lines) == (True, [CONTENT])
    assert not (tmp_path / "cache").exists()
    cluster.requests.clear()
    result = artefact(**params)
    assert result["volume"] == f"local:vztmpl/{result['file_name']}", result
    assert [change["key"] for change in result["plan"]] == (["file", "volume"] if keep else ["volume"])
    assert cluster.requests.lines[:2] == [CONTENT, UPLOAD]
    assert set(cluster.requests.lines[2:]) == {"GET /nodes/pve1/tasks"}
    sent = cluster.call(lambda running: running.uploaded)
    assert sent["filename"] == result["file_name"]
    assert sent["checksum"] == hashlib.sha256(sent["data"]).hexdigest()
    assert sent["checksum-algorithm"] == "sha256"
    assert (tmp_path / "cache").exists() is keep
    if keep:
        assert Path(result["path"]).read_bytes() == sent["data"]
    cluster.requests.clear()
    assert artefact(**params)["changed"] is False
    assert cluster.requests.lines == [CONTENT]
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("user", ["app", "app:extra", "1000", "1000:1000", ""])
def test_the_user_of_a_template_that_is_only_on_a_storage(
    cluster: Simulator, tmp_path: Path, scratch: Path, user: str
) -> None:
    """Whom its process runs as is known on every run, also where the template was not made."""
    layout = build(busybox_layer(), config={"Cmd": ["sh"], "User": user}).write(tmp_path / "layout")
    params = {"layout": str(layout), "format": "lxc_template", "upload": target(cluster), "timeout": 60}
    here = {**params, "store": str(tmp_path / "here")}
    first = artefact(**here)
    assert first["changed"] is True
    lines = [{"key": "lxc.init.uid", "value": "1000"}]
    assert [line for line in first["lxc"]["raw"] if line["key"] == "lxc.init.uid"] == (lines if user else [])
    for check_mode in (True, False):
        again = artefact(check_mode=check_mode, **here)
        assert (again["changed"], again["lxc"], again["spec"]) == (False, first["lxc"], first["spec"])
    elsewhere = artefact(**params, store=str(tmp_path / "elsewhere"))
    assert (elsewhere["changed"], elsewhere["lxc"], elsewhere["spec"]) == (False, first["lxc"], first["spec"])
    assert not list(scratch.iterdir())


def test_uploads_that_are_refused(cluster: Simulator, app: str) -> None:
    params = {"layout": app, "format": "oci_archive"}
    result = artefact(**params, upload=target(cluster, storage="nowhere"))
    assert result["failure"]["code"] == "storage_missing", result
    result = artefact(**params, upload=target(cluster, storage="local-zfs"))
    assert result["failure"]["code"] in ("storage_unsuitable", "api_error"), result
    result = artefact(**params, upload=target(cluster, api_token_secret="wrong"))
    assert result["failure"]["code"] == "authentication_failed", result
    result = artefact(**params, upload={"node": "pve1", "storage": "local"})
    assert result["failure"]["code"] == "invalid_option", result


# It lists what it has been sent.
PVESH = """#!/usr/bin/python3
import json, os, sys, time
words = sys.argv[1:]
if words[0] == "get":
    volumes = []
    for line in open(os.environ["PVESH_LOG"]) if os.path.exists(os.environ["PVESH_LOG"]) else ():
        sent, data = json.loads(line)
        name = sent[sent.index("--filename") + 1]
        volumes.append({"volid": "local:vztmpl/" + name, "size": len(data) // 2, "content": "vztmpl"})
    print(json.dumps(volumes))
    sys.exit()
with open(os.environ["PVESH_LOG"], "a") as log:
    options = dict(zip(words[2::2], words[3::2]))
    data = ""
    if "--tmpfilename" in options:
        data = open(options["--tmpfilename"], "rb").read().hex()
    log.write(json.dumps([words, data]) + "\\n")
while "PVESH_WAIT" in os.environ and not os.path.exists(os.environ["PVESH_WAIT"]):
    time.sleep(0.02)
if os.environ.get("PVESH_FAIL"):
    sys.exit(os.environ["PVESH_FAIL"])
"""


@pytest.fixture
def node(tmp_path: Path) -> dict[str, str]:
    """The environment of a node."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/pvesh").write_text(PVESH)
    (tmp_path / "bin/pvesh").chmod(0o755)
    return {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PVESH_LOG": str(tmp_path / "log")}


def on_the_node(app: str, path: Path) -> dict[str, t.Any]:
    upload = {"api_backend": "local", "node": "pve1", "storage": "local"}
    return {"layout": app, "format": "oci_archive", "path": str(path), "upload": upload}


def test_an_upload_on_the_node_itself(app: str, tmp_path: Path, node: dict[str, str]) -> None:
    environment, params = dict(node), on_the_node(app, tmp_path / "cache")
    result = run_module("oci_bundle", params, env=environment)
    assert result.get("changed"), result
    words, data = json.loads((tmp_path / "log").read_text().splitlines()[-1])
    options = dict(zip(words[2::2], words[3::2]))
    assert words[:2] == ["create", "/nodes/pve1/storage/local/upload"]
    # The pattern of the parameter in PVE/API2/Storage/Status.pm.
    assert options["--tmpfilename"].startswith("/var/tmp/pveupload-")
    assert not os.path.exists(options["--tmpfilename"])
    assert options["--filename"] == result["file_name"]
    assert bytes.fromhex(data) == Path(result["path"]).read_bytes()
    assert options["--checksum"] == hashlib.sha256(bytes.fromhex(data)).hexdigest()
    assert run_module("oci_bundle", params, env=environment)["changed"] is False
    environment.update(PVESH_FAIL="something odd", PVESH_LOG=str(tmp_path / "other"))
    failed = run_module("oci_bundle", params, env=environment)
    assert failed["failure"]["code"] == "upload_failed", failed
    assert "something odd" in failed["msg"]


def test_a_killed_upload_on_the_node_itself(app: str, tmp_path: Path, node: dict[str, str]) -> None:
    """Its temporary file stays as long as Proxmox reads it, and then the next upload removes it."""
    params = on_the_node(app, tmp_path / "cache")
    waiting = {**os.environ, **node, "PVESH_WAIT": str(tmp_path / "go"), "PVESH_LOG": str(tmp_path / "killed")}
    command = [sys.executable, "-m", "ansible_collections.lxcri.proxmox.plugins.modules.oci_bundle"]
    # What the killed run has started ends later, and has its output until then.
    with open(tmp_path / "output", "wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=waiting)
    assert process.stdin
    process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": {**params, "_ansible_remote_tmp": "/tmp"}}).encode())
    process.stdin.close()
    end = time.monotonic() + 60
    while not (tmp_path / "killed").exists() or not (tmp_path / "killed").read_text().endswith("\n"):
        assert process.poll() is None, (tmp_path / "output").read_text()
        assert time.monotonic() < end
        time.sleep(0.02)
    process.kill()
    process.wait()
    words, _data = json.loads((tmp_path / "killed").read_text())
    left = Path(words[words.index("--tmpfilename") + 1])
    foreign = Path(f"/var/tmp/pveupload-{os.urandom(16).hex()}")
    foreign.write_text("of the web interface")
    try:
        assert run_module("oci_bundle", params, env=node)["changed"] is True
        assert left.exists()
        (tmp_path / "go").touch()
        while processes_of(left):
            assert time.monotonic() < end
            time.sleep(0.02)
        other = {**node, "PVESH_LOG": str(tmp_path / "other")}
        assert run_module("oci_bundle", params, env=other)["changed"] is True
        assert not left.exists()
        assert foreign.exists()
    finally:
        foreign.unlink()
        left.unlink(missing_ok=True)


def processes_of(path: Path) -> list[str]:
    """Who has a path among the arguments."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(path).encode() in (process / "cmdline").read_bytes():
                found.append(process.name)
    return found
