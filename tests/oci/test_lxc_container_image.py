# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""lxc_container with images that Proxmox cannot pull: from a real registry, to a simulated Proxmox."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import tarfile
import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import image_source
from ansible_collections.lxcri.proxmox.tests.oci.hostile import IDENTITY, Hostile
from ansible_collections.lxcri.proxmox.tests.oci.images import build, busybox_layer, entry, index, layer
from ansible_collections.lxcri.proxmox.tests.oci.registry import PASSWORD, USER, Registry
from ansible_collections.lxcri.proxmox.tests.oci.wrong import WRONG
from ansible_collections.lxcri.proxmox.tests.simulator.plugin import certificates, cluster
from ansible_collections.lxcri.proxmox.tests.wire.support import Lxc, base, lxc

__all__ = ["certificates", "cluster", "lxc"]

PROCESS: dict[str, t.Any] = {
    "Entrypoint": ["/bin/sh", "-c"],
    "Cmd": ["sleep 60"],
    "Env": ["PATH=/bin", "MODE=image"],
    "WorkingDir": "/srv/app",
    "User": "app",
    "StopSignal": "SIGUSR1",
    "Volumes": {"/var/lib/data": {}},
}
UPLOAD = "/nodes/pve1/storage/local/upload"


@pytest.fixture
def options(registry: Registry, tmp_path: Path) -> t.Callable[..., dict[str, t.Any]]:
    """The options of the module for an image of the registry, as someone who has its password."""

    def make(reference: str, **image: t.Any) -> dict[str, t.Any]:
        login = {"username": USER, "password": PASSWORD, "ca_path": str(registry.certificate)}
        store = {"store": str(tmp_path / "store")}
        return {
            "vmid": 201,
            "node": "pve1",
            "hostname": "app-1",
            "rootfs": {"storage": "local-zfs", "size": "4G"},
            "image": {"reference": reference, **login, **store, **image},
        }

    return make


def pushed(registry: Registry, tmp_path: Path, repository: str, tag: str = "1", **process: t.Any) -> tuple[str, str]:
    """An image in the registry: its reference and its digest."""
    image = build(busybox_layer(entry("etc/app", repository + tag)), config={**PROCESS, **process})
    layout = image.write(tmp_path / f"layout-{tag}")
    return registry.push(layout, repository, tag), image.digest


def uploaded(lxc: Lxc) -> tuple[str, bytes]:
    """What has been uploaded last: its name and content."""
    fields = lxc.cluster.cluster.uploaded
    return fields["filename"], fields["data"]


Options = t.Callable[..., dict[str, t.Any]]


def test_with_credentials_it_is_pulled_here_and_uploaded(
    lxc: Lxc, registry: Registry, tmp_path: Path, scratch: Path, options: Options
) -> None:
    reference, digest = pushed(registry, tmp_path, "shop/app")
    registry.requests()
    check = lxc.check(**options(reference))
    # What an image is, is asked for; its layer is not.
    assert len({request.path for request in registry.requests() if "/blobs/" in request.path}) == 1
    assert not (tmp_path / "store").exists()
    run = lxc.converge(**options(reference))
    assert check.plan == run.plan
    name = f"{registry.host.replace(':', '_')}_shop_app_1_{digest[7:39]}-2.tar"
    assert [(method, path) for method, path, _params in run.writes] == [
        ("POST", UPLOAD),
        ("POST", "/nodes/pve1/lxc"),
        ("POST", f"{base()}/status/start"),
    ]
    assert run.writes[1][2]["ostemplate"] == f"local:vztmpl/{name}"
    assert ("template", None, f"local:vztmpl/{name}", "live") in run.plan
    sent, data = uploaded(lxc)
    assert sent == name
    path = tmp_path / "uploaded.tar"
    path.write_bytes(data)
    # As Proxmox looks at it (archive_is_oci_format of PVE/LXC/Create.pm).
    listed = subprocess.run(["tar", "-tf", path], capture_output=True, text=True, check=True).stdout.splitlines()
    assert {"oci-layout", "index.json"} <= set(listed)
    assert all(line in ("oci-layout", "index.json") or line.startswith("blobs/sha256/") for line in listed)
    with tarfile.open(path) as archive:
        member = archive.extractfile("index.json")
        assert member is not None
        assert [one["digest"] for one in json.loads(member.read())["manifests"]] == [digest]
    config = run.container["config"]
    assert config["entrypoint"] == "/bin/sh -c 'sleep 60'"
    assert config["env"] == "PATH=/bin\0MODE=image"
    lines = lxc.cluster.cluster.raw_lines[201]
    assert ["lxc.init.cwd", "/srv/app"] in lines
    assert ["lxc.signal.halt", "SIGUSR1"] in lines
    assert [(loss["key"], loss["value"]) for loss in run.result["losses"]] == [("Volumes", "/var/lib/data")]
    assert PASSWORD not in json.dumps(run.result)
    assert not list(scratch.iterdir())


def test_a_second_container_needs_no_upload(lxc: Lxc, registry: Registry, tmp_path: Path, options: Options) -> None:
    reference, _digest = pushed(registry, tmp_path, "shop/twice")
    lxc.apply(**options(reference))
    run = lxc.converge(**{**options(reference), "vmid": 202, "hostname": "app-2"})
    assert [path for _method, path, _params in run.writes] == ["/nodes/pve1/lxc", f"{base(202)}/status/start"]


def test_by_digest_it_is_uploaded(lxc: Lxc, registry: Registry, tmp_path: Path, options: Options) -> None:
    reference, digest = pushed(registry, tmp_path, "shop/exact")
    exact = f"{reference.rpartition(':')[0]}@{digest}"
    run = lxc.converge(**options(exact))
    assert run.writes[0][:2] == ("POST", UPLOAD)
    assert f"image={exact} digest={digest}" in run.container["config"]["description"]
    # A digest means the same for ever.
    registry.requests()
    lxc.unchanged(**options(exact, pull="newer"))
    assert registry.requests() == []


def test_another_platform_is_uploaded(lxc: Lxc, registry: Registry, tmp_path: Path, options: Options) -> None:
    amd64 = build(busybox_layer(), config=PROCESS)
    arm64 = build(busybox_layer(), config={**PROCESS, "Env": ["ARM=1"]}, architecture="arm64")
    layout = index(("linux/amd64", amd64), ("linux/arm64", arm64)).write(tmp_path / "many")
    reference = registry.push(layout, "shop/many", "1")
    run = lxc.converge(**options(reference, platform="linux/arm64"))
    assert run.container["config"]["env"] == "ARM=1"
    lxc.refused("platform_missing", **{**options(reference, platform="linux/s390x"), "vmid": 202, "hostname": "b"})


def test_a_moved_tag_is_reported_and_done(lxc: Lxc, registry: Registry, tmp_path: Path, options: Options) -> None:
    reference, old = pushed(registry, tmp_path, "shop/moved")
    volumes = {"/var/lib/data": {"storage": "tank", "size": "1G"}}
    lxc.apply(**options(reference, volumes=volumes))
    lxc.cluster.call(lambda cluster: cluster.volume("tank:subvol-201-disk-0").update(data="mine"))
    image = build(busybox_layer(entry("etc/app", "new")), config={**PROCESS, "Env": ["PATH=/bin", "NEW=1"]})
    registry.push(image.write(tmp_path / "newer"), "shop/moved", "1")
    given = options(reference, pull="newer", volumes=volumes)
    run = lxc.unchanged(**given)
    assert run.blocked == [("image", f"{reference}@{old}", f"{reference}@{image.digest}", "recreate")]
    run = lxc.converge(**given, recreate=True)
    config = run.container["config"]
    assert config["env"] == "PATH=/bin\0NEW=1"
    volume = config["mp0"].partition(",")[0]
    assert lxc.cluster.call(lambda cluster: cluster.volume(volume))["data"] == "mine"


@pytest.mark.parametrize("release", ["8.4.14", "9.2.11"])
def test_a_converted_template(lxc: Lxc, registry: Registry, tmp_path: Path, options: Options, release: str) -> None:
    reference, digest = pushed(registry, tmp_path, f"shop/template-{release[0]}")
    lxc.cluster.call(lambda cluster: setattr(cluster, "version", release))
    given = options(reference) if release[0] == "8" else options(reference, method="template")
    run = lxc.converge(**given)
    name, data = uploaded(lxc)
    assert name.endswith(f"_{digest[7:39]}-2.tar.zst")
    raw = subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        names = {name.removeprefix("./") for name in archive.getnames()}
    assert {"bin/busybox", "etc/app", "srv/app", "sbin/init"} <= names
    assert run.container["status"] == "running"
    losses = {(loss["key"], loss["value"]) for loss in run.result["losses"]}
    assert {("lxc.signal.halt", "SIGUSR1"), ("User", "app")} <= losses
    config = run.container["config"]
    if release[0] == "8":
        # The init in it has the command, the variables and the directory.
        assert {key for key, _value in losses} == {"lxc.signal.halt", "User", "Volumes", "networks"}
        assert not {"entrypoint", "env"} & set(config)
    else:
        assert ("lxc.init.cwd", "/srv/app") in losses
        assert config["entrypoint"] == "/bin/sh -c 'sleep 60'"
        assert config["env"] == "PATH=/bin\0MODE=image"


@pytest.mark.parametrize("method", ["upload", "template"])
def test_a_newer_converter_makes_it_anew(
    lxc: Lxc, registry: Registry, tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """What an older one has made is not taken for a new container, and a container that is there stays as it is."""
    reference, _digest = pushed(registry, tmp_path, f"shop/newer-{method}")
    lxc.apply(**options(reference, method=method))
    before, _data = uploaded(lxc)
    monkeypatch.setattr(image_source, "CONVERTER", image_source.CONVERTER + 1)
    assert lxc.apply(**options(reference, method=method)).writes == []
    run = lxc.converge(**{**options(reference, method=method), "vmid": 202, "hostname": "app-2"})
    after, _data = uploaded(lxc)
    assert after != before
    assert run.writes[1][2]["ostemplate"] == f"local:vztmpl/{after}"


@pytest.mark.parametrize("release", ["8.4.14", "9.2.11"])
def test_an_image_without_a_shell(
    lxc: Lxc, registry: Registry, tmp_path: Path, scratch: Path, options: Options, release: str
) -> None:
    layout = build(layer(entry("app", "x", mode=0o755)), config={"Cmd": ["/app"]}).write(tmp_path / "layout")
    reference = registry.push(layout, f"shop/bare-{release[0]}", "1")
    lxc.cluster.call(lambda cluster: setattr(cluster, "version", release))
    if release[0] == "8":
        # What is in its layers is known when they are here.
        run = lxc(**options(reference))
        assert (run.code, run.writes, lxc.ct()) == ("shell_missing", [], None), run.result
        assert run.result["failure"]["details"]["command"] == ["/app"]
    else:
        # Proxmox itself tells LXC what to run.
        run = lxc(**options(reference, method="template"))
        assert run.container["status"] == "running"
    assert not list(scratch.iterdir())


@pytest.fixture
def hostile(registry: Registry, request: pytest.FixtureRequest) -> t.Iterator[Hostile]:
    running = Hostile((registry.certificate, registry.root / "key.pem"), identity=getattr(request, "param", False))
    yield running
    running.stop()


def without_login(options: dict[str, t.Any], **image: t.Any) -> dict[str, t.Any]:
    """The options without user and password, with these."""
    kept = {name: value for name, value in options["image"].items() if name not in ("username", "password")}
    return {**options, "image": {**kept, **image}}


def test_with_a_file_of_credentials(lxc: Lxc, registry: Registry, tmp_path: Path, options: Options) -> None:
    reference, _digest = pushed(registry, tmp_path, "shop/file")
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"auths": {registry.host: {"auth": login}}}))
    run = lxc(**without_login(options(reference), auth_file=str(path)))
    assert run.container["status"] == "running", run.result
    path.write_text(json.dumps({"auths": {}}))
    given = without_login(options(reference), auth_file=str(path))
    lxc.refused("unauthorized", **{**given, "vmid": 202, "hostname": "b"})


@pytest.mark.parametrize("file", [".docker/config.json", ".config/containers/auth.json"])
@pytest.mark.parametrize("of", ["it", "its namespace", "another"])
def test_with_a_login_that_was_left_here(
    lxc: Lxc,
    registry: Registry,
    tmp_path: Path,
    options: Options,
    monkeypatch: pytest.MonkeyPatch,
    hostile: Hostile,
    file: str,
    of: str,
) -> None:
    """With credentials for it the image is pulled here: the node would pull it without any."""
    (tmp_path / file).parent.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    # As if the node trusted its certificate.
    monkeypatch.setenv("SSL_CERT_FILE", str(registry.certificate))
    if of == "another":
        reference = hostile.serve(build(busybox_layer(), config=PROCESS), "shop/public", "1")
        lxc.cluster.call("publish", reference, {"config": PROCESS})
    else:
        reference, _digest = pushed(registry, tmp_path, "shop/private")
    name = f"{registry.host}/shop" if of == "its namespace" else registry.host
    login = {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
    (tmp_path / file).write_text(json.dumps({"auths": {name: login}}))
    given = without_login(options(reference, ca_path=None))
    run = lxc.converge(**given)
    way = "oci-registry-pull" if of == "another" else "upload"
    assert run.writes[0][:2] == ("POST", f"/nodes/pve1/storage/local/{way}")
    # Who wants that the node pulls gets it.
    assert lxc.check(**{**given, "vmid": 202, "hostname": "b", "image": {**given["image"], "method": "registry"}}).plan


@pytest.mark.parametrize("hostile", [True], indirect=True)
def test_with_a_token(lxc: Lxc, hostile: Hostile, options: Options) -> None:
    reference = hostile.serve(build(busybox_layer(), config=PROCESS), "shop/token", "1")
    run = lxc(**without_login(options(reference), token=IDENTITY))
    assert run.container["status"] == "running", run.result
    assert IDENTITY not in json.dumps(run.result)
    given = without_login(options(reference), token="another")
    refused = lxc.refused("unauthorized", **{**given, "vmid": 202, "hostname": "b"})
    assert "another" not in json.dumps(refused.result)


@pytest.mark.parametrize("what", ["a layer with other content", "another diffID", "a configuration with other content"])
def test_a_wrong_image(lxc: Lxc, hostile: Hostile, tmp_path: Path, scratch: Path, options: Options, what: str) -> None:
    """Nothing of it reaches Proxmox, and the next run succeeds when the image is right."""
    make, codes = WRONG[what]
    given = options(hostile.serve(make(), "shop/wrong", "1"))
    run = lxc(**given)
    assert run.code in codes, run.result
    assert (run.writes, lxc.ct(), list(scratch.iterdir())) == ([], None, [])
    hostile.blobs.clear()
    hostile.serve(build(busybox_layer(), config=PROCESS), "shop/wrong", "1")
    assert lxc(**given).container["status"] == "running"


def test_an_unknown_authority(lxc: Lxc, registry: Registry, tmp_path: Path, options: Options) -> None:
    reference, _digest = pushed(registry, tmp_path, "shop/unknown")
    lxc.refused("untrusted_certificate", **options(reference, ca_path=None))


def test_a_tab_in_a_variable(lxc: Lxc, registry: Registry, tmp_path: Path, options: Options) -> None:
    reference, _digest = pushed(registry, tmp_path, "shop/tab", Env=["A=a\tb"])
    assert lxc.converge(**options(reference)).container["config"]["env"] == "A=a\tb"


def test_a_wrong_password(lxc: Lxc, registry: Registry, tmp_path: Path, options: Options) -> None:
    reference, _digest = pushed(registry, tmp_path, "shop/locked")
    run = lxc.refused("unauthorized", **options(reference, password="wrong-password"))
    assert "wrong-password" not in json.dumps(run.result)
    lxc.refused("image_missing", **options(f"{registry.host}/shop/locked:none"))


def test_a_user_that_is_not_in_the_image(lxc: Lxc, registry: Registry, tmp_path: Path, options: Options) -> None:
    reference, _digest = pushed(registry, tmp_path, "app/ghost", User="ghost")
    run = lxc(**options(reference))
    assert run.code == "user_unknown"
    assert lxc.ct().status == "stopped"


def test_control_characters_of_a_real_image(lxc: Lxc, registry: Registry, tmp_path: Path, options: Options) -> None:
    reference, _digest = pushed(registry, tmp_path, "shop/evil", WorkingDir="/a\nlxc.hook.start: /x")
    lxc.refused("image_rejected", **options(reference))


def test_an_upload_that_the_storage_refuses(lxc: Lxc, registry: Registry, tmp_path: Path, options: Options) -> None:
    reference, _digest = pushed(registry, tmp_path, "shop/full")
    lxc.cluster.call("fail", "POST", "/upload", 500, "No space left on device")
    run = lxc(**options(reference))
    assert run.code == "storage_full"
    assert lxc.ct() is None
