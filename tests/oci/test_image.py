# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""oci_image with a real registry and real images."""

from __future__ import annotations

import base64
import gzip
import json
import os
import subprocess
import threading
import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.image import PullOptions
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.layout import Layout
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.push import push_image
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.reference import parse_platform
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.store import Store
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.verify import verify_image
from ansible_collections.lxcri.proxmox.tests.oci.hostile import IDENTITY, Hostile
from ansible_collections.lxcri.proxmox.tests.oci.images import (
    CONFIG,
    MANIFEST,
    Built,
    build,
    entry,
    index,
    layer,
    listing,
    sha256,
)
from ansible_collections.lxcri.proxmox.tests.oci.module import run_module
from ansible_collections.lxcri.proxmox.tests.oci.registry import PASSWORD, USER, Registry
from ansible_collections.lxcri.proxmox.tests.oci.stores import Images, code_of

LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
# One manifest, and what logging in costs.
ONE_MANIFEST = ["/v2/", "/manifests/"]


def hello(text: str = "hello", **options: t.Any) -> Built:
    return build(layer(entry("hello", text)), **options)


@pytest.fixture
def images(tmp_path: Path, registry: Registry) -> t.Iterator[Images]:
    """The module with a store of its own; at the end of each test all that is in it is right."""
    store = Images(
        tmp_path / "store", username=USER, password=PASSWORD, ca_path=str(registry.certificate), platform="linux/amd64"
    )
    yield store
    store.verify()


@pytest.fixture
def hostile(registry: Registry) -> t.Iterator[Hostile]:
    """A registry that serves what no builder makes."""
    running = Hostile((registry.certificate, registry.root / "key.pem"))
    yield running
    running.stop()


def pushed(registry: Registry, root: Path, repository: str, *built: tuple[str, Built], tag: str = "latest") -> str:
    """An index of images in the registry."""
    return registry.push(index(*built).write(root / f"source-{len(list(root.iterdir()))}"), repository, tag)


def paths(registry: Registry) -> list[str]:
    return [request.path for request in registry.requests()]


def test_a_pull(registry: Registry, images: Images, tmp_path: Path) -> None:
    labels = {"org.opencontainers.image.version": "1"}
    image = hello(config={"Cmd": ["/hello"], "Labels": labels})
    reference = pushed(registry, tmp_path, "pull/one", ("linux/amd64", image))
    result = images.converged(images=[reference])
    [found] = result["images"]
    assert found["reference"] == reference
    assert found["digest"] == found["identity"] == image.digest
    assert found["source_digest"] not in (image.digest, None)
    assert found["before"] is None
    assert found["labels"] == labels
    assert found["size"] == sum(map(len, image.blobs.values()))
    assert result["plan"] == [{"key": reference, "before": None, "after": found["source_digest"], "effect": "pull"}]
    assert result["diff"][0]["after"] == {reference: found["source_digest"]}
    assert verify_image(images.layout, image.digest).process["Cmd"] == ["/hello"]
    assert set(images.blobs()) == set(image.blobs)
    assert images.leftovers() == []


def test_other_tools_read_the_store(registry: Registry, images: Images, tmp_path: Path) -> None:
    reference = pushed(registry, tmp_path, "pull/tools", ("linux/amd64", hello()))
    images.converged(images=[reference])
    argv = ["skopeo", "inspect", "--raw", f"oci:{images.path}:{reference}"]
    done = subprocess.run(argv, capture_output=True, check=True)
    assert json.loads(done.stdout)["layers"]


@pytest.mark.parametrize("module", ["oci_image", "oci_bundle", "lxc_template", "oci_archive"])
@pytest.mark.parametrize("indexed", [True, False], ids=["index", "manifest"])
def test_what_check_mode_asks_of_an_image_that_is_not_here(
    registry: Registry, images: Images, tmp_path: Path, module: str, indexed: bool
) -> None:
    """Manifests only: the index, and the manifest for the platform in it."""
    platforms = [("linux/amd64", hello("x")), ("linux/arm64", hello("y", architecture="arm64"))]
    image = index(*platforms) if indexed else platforms[0][1]
    reference = registry.push(image.write(tmp_path / "source"), f"check/{module.replace('_', '-')}-{int(indexed)}")
    paths(registry)
    if module == "oci_image":
        result = images.run(check_mode=True, images=[reference])
    else:
        made = {"image": reference, "path": str(tmp_path / "made"), **images.options}
        form = "bundle" if module == "oci_bundle" else module
        result = run_module("oci_bundle", {**made, "format": form}, check_mode=True)
    assert result["changed"] is True, result
    wanted = ["latest", platforms[0][1].digest] if indexed else ["latest"]
    assert [path.rpartition("/")[2] for path in paths(registry) if path != "/v2/"] == wanted
    assert not (tmp_path / "made").exists()
    assert not images.path.exists()


def test_what_the_second_run_asks(registry: Registry, images: Images, tmp_path: Path) -> None:
    reference = pushed(registry, tmp_path, "pull/asks", ("linux/amd64", hello()), tag="1")
    first = images.converged(images=[reference])["images"][0]
    by_digest = f"{reference}@{first['source_digest']}"
    images.converged(images=[by_digest])
    before = listing(images.path)
    paths(registry)
    for pull in ("missing", "never"):
        assert images.run(images=[reference], pull=pull)["changed"] is False
    assert images.run(images=[by_digest], pull="newer")["changed"] is False
    assert paths(registry) == []
    for check_mode in (True, False):
        assert images.run(check_mode, images=[reference], pull="newer")["changed"] is False
        assert paths(registry) == ["/v2/", "/v2/pull/asks/manifests/1"]
    assert listing(images.path) == before


def test_a_moved_tag(registry: Registry, images: Images, tmp_path: Path) -> None:
    old, new = hello("old"), hello("new")
    reference = pushed(registry, tmp_path, "pull/moved", ("linux/amd64", old))
    first = images.converged(images=[reference])["images"][0]
    pushed(registry, tmp_path, "pull/moved", ("linux/amd64", new))
    assert images.run(images=[reference])["changed"] is False
    result = images.converged(images=[reference], pull="newer")
    assert result["images"][0]["before"] == first["source_digest"]
    assert result["images"][0]["digest"] == new.digest
    assert result["plan"][0]["before"] == first["source_digest"]
    # The old blobs stay until they are pruned.
    assert set(images.blobs()) == {*old.blobs, *new.blobs}


def test_an_index_that_changes_for_others_only(registry: Registry, images: Images, tmp_path: Path) -> None:
    mine = hello()
    other, another = hello("1", architecture="arm64"), hello("2", architecture="arm64")
    reference = pushed(registry, tmp_path, "pull/others", ("linux/amd64", mine), ("linux/arm64", other))
    first = images.converged(images=[reference])["images"][0]
    pushed(registry, tmp_path, "pull/others", ("linux/amd64", mine), ("linux/arm64", another))
    second = images.run(images=[reference], pull="newer")
    assert second["changed"] is False
    assert second["images"][0]["source_digest"] != first["source_digest"]
    # It is remembered, so that the next run asks for one manifest only.
    paths(registry)
    assert images.run(images=[reference], pull="newer")["images"] == second["images"]
    assert len(paths(registry)) == 2


def test_by_digest(registry: Registry, images: Images, tmp_path: Path) -> None:
    old, new = hello("old"), hello("new")
    reference = pushed(registry, tmp_path, "pull/digest", ("linux/amd64", old), tag="1")
    name = reference.rpartition(":")[0]
    pushed(registry, tmp_path, "pull/digest", ("linux/amd64", new), tag="1")
    # The digest counts, and not what the tag means now.
    result = images.converged(images=[f"{reference}@{old.digest}", f"{name}@{new.digest}"])
    assert [image["digest"] for image in result["images"]] == [old.digest, new.digest]


def test_platforms(registry: Registry, images: Images, tmp_path: Path) -> None:
    amd64, arm64 = hello("amd64"), hello("arm64", architecture="arm64")
    reference = pushed(registry, tmp_path, "pull/platforms", ("linux/amd64", amd64), ("linux/arm64/v8", arm64))
    assert images.converged(images=[reference])["images"][0]["digest"] == amd64.digest
    assert images.converged(images=[reference], platform="arm64")["images"][0]["digest"] == arm64.digest
    assert len(images.layout.entries()) == 2
    failed = images.run(images=[reference], platform="linux/s390x")
    assert code_of(failed) == "platform_missing"
    assert failed["failure"]["details"]["platforms"] == ["linux/amd64", "linux/arm64/v8"]
    # Without an index the configuration of the image tells.
    layout = hello("alone", architecture="arm64").write(tmp_path / "alone")
    alone = registry.push(layout, "pull/alone")
    assert code_of(images.run(images=[alone])) == "platform_missing"
    assert images.converged(images=[alone], platform="linux/arm64")["changed"] is True
    # absent is about all platforms, or about one.
    assert len(images.converged(images=[reference], state="absent", platform="linux/arm64")["pruned"]) == 4
    assert images.run(images=[reference], pull="never")["changed"] is False
    assert images.converged(images=[reference], state="absent", platform=None)["changed"] is True


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-q"], input=data, capture_output=True, check=True).stdout


def docker(image: Built) -> Built:
    """An image as Docker's schema 2 has it."""
    document = json.loads(image.blobs[image.digest])
    document["mediaType"] = DOCKER_MANIFEST
    document["config"]["mediaType"] = DOCKER_CONFIG
    for part in document["layers"]:
        part["mediaType"] = DOCKER_LAYER
    found = Built({digest: data for digest, data in image.blobs.items() if digest != image.digest})
    found.descriptor = found.add(json.dumps(document).encode(), DOCKER_MANIFEST)
    return found


@pytest.mark.parametrize(
    ("kind", "converted"), [("zstd", True), ("plain", True), ("docker", True), ("without mediaType", False)]
)
def test_what_is_converted(hostile: Hostile, images: Images, kind: str, converted: bool) -> None:
    if kind == "zstd":
        image = hello(compress=zstd, layer_type=LAYER_ZSTD)
    elif kind == "plain":
        image = hello(compress=bytes, layer_type=LAYER)
    elif kind == "docker":
        image = docker(hello())
    else:
        image = hello(manifest={"mediaType": None})
    reference = hostile.serve(image, "some/image")
    result = images.converged(images=[reference])["images"][0]
    assert result["identity"] == image.digest
    assert (result["digest"] != image.digest) is converted
    found = verify_image(images.layout, result["digest"])
    assert found.manifest.get("mediaType", MANIFEST) == MANIFEST
    assert found.manifest["config"]["mediaType"] == CONFIG
    [only] = found.layers
    assert only["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip"
    tar = gzip.decompress(Path(images.layout.blob(only["digest"])).read_bytes())
    assert tar == layer(entry("hello", "hello"))
    assert images.run(images=[reference], pull="newer")["changed"] is False


def test_a_list_of_docker(hostile: Hostile, images: Images) -> None:
    image = docker(hello())
    both = index(("linux/arm64", hello(architecture="arm64")), ("linux/amd64", image))
    document = json.loads(both.blobs[both.digest])
    document["mediaType"] = DOCKER_INDEX
    both.descriptor = both.add(json.dumps(document).encode(), DOCKER_INDEX)
    reference = hostile.serve(both, "some/list")
    hostile.manifests["some/list", image.digest] = (image.blobs[image.digest], DOCKER_MANIFEST)
    assert images.converged(images=[reference])["images"][0]["identity"] == image.digest


def test_indexes_in_indexes(hostile: Hostile, images: Images) -> None:
    image = hello()
    inner = index(("linux/amd64", image))
    outer = index(("linux/amd64", inner))
    reference = hostile.serve(outer, "some/nested")
    hostile.manifests["some/nested", inner.digest] = (inner.blobs[inner.digest], inner.descriptor["mediaType"])
    assert images.converged(images=[reference])["images"][0]["digest"] == image.digest


def test_two_registries_with_the_same_name(
    registry: Registry, hostile: Hostile, images: Images, tmp_path: Path
) -> None:
    here, there = hello("here"), hello("there")
    first = pushed(registry, tmp_path, "same/name", ("linux/amd64", here))
    second = hostile.serve(there, "same/name")
    result = images.converged(images=[first, second])
    assert [image["digest"] for image in result["images"]] == [here.digest, there.digest]
    assert images.run(images=[first, second], pull="newer")["changed"] is False


def test_layers_that_are_there_are_not_downloaded(hostile: Hostile, images: Images) -> None:
    base = layer(entry("base", "b" * 1000))
    old, new = build(base, layer(entry("a", "1"))), build(base, layer(entry("a", "2")))
    images.converged(images=[hostile.serve(old, "some/base", "1")])
    images.converged(images=[hostile.serve(new, "some/base", "2")])
    first, second = (json.loads(image.blobs[image.digest])["layers"] for image in (old, new))
    assert [hostile.downloads(part["digest"]) for part in (*first, second[1])] == [1, 1, 1]
    # Another tag of the same image costs its manifest.
    hostile.asked.clear()
    images.converged(images=[hostile.serve(new, "some/base", "3")])
    assert not [path for path in hostile.asked if "/blobs/" in path]


def test_two_at_once_do_the_work_once(hostile: Hostile, images: Images) -> None:
    image = hello("x" * 5000)
    reference = hostile.serve(image, "some/once")
    [part] = json.loads(image.blobs[image.digest])["layers"]
    gate = hostile.gate(part["digest"])
    results: list[dict[str, t.Any]] = []
    threads = [threading.Thread(target=lambda: results.append(images.run(images=[reference]))) for _each in range(2)]
    threads[0].start()
    assert gate.reached.wait(60)
    asked = len(hostile.asked)
    threads[1].start()
    while len(hostile.asked) == asked:
        # The other one has asked what the tag means. It waits for the first now, or is about to.
        gate.opened.wait(0.05)
    gate.opened.set()
    for thread in threads:
        thread.join()
    assert [code_of(result) for result in results if result.get("failed")] == []
    assert sorted(result["changed"] for result in results) == [False, True]
    assert hostile.downloads(part["digest"]) == 1


@pytest.mark.parametrize("way", ["password", "auth_file", "token", "none"])
def test_credentials(
    registry: Registry, images: Images, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry_of = {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
    file = tmp_path / "auth.json"
    file.write_text(json.dumps({"auths": {registry.host: entry_of}}))
    options: dict[str, t.Any] = {"username": None, "password": None}
    if way == "password":
        options = {}
    elif way == "auth_file":
        options["auth_file"] = str(file)
    elif way == "none":
        # What the administrator has logged in with.
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(file))
    if way == "token":
        tls = (registry.certificate, registry.root / "key.pem")
        hostile = Hostile(tls, identity=True)
        try:
            reference = hostile.serve(hello(), "some/token")
            images.converged(images=[reference], **options, token=IDENTITY)
            failed = images.run(images=[reference], pull="newer", **options, token="another")
            assert code_of(failed) == "unauthorized"
        finally:
            hostile.stop()
        return
    images.converged(images=[pushed(registry, tmp_path, "pull/login", ("linux/amd64", hello()))], **options)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"token": "another one"}, "password and token"),
        ({"auth_file": "/etc/hostname"}, "password and auth_file"),
        ({"password": None}, "need each other"),
        ({"username": None}, "need each other"),
        ({"username": "a:b"}, "colon"),
        ({"ca_path": "/nowhere"}, "ca_path"),
        ({"username": None, "password": None, "auth_file": "/nowhere"}, "auth_file"),
        ({"store": "/some:where"}, "colon"),
        ({"timeout": 0}, "timeout"),
        ({"platform": "a/b/c/d"}, "platform"),
        ({"images": []}, "at least one"),
        ({"images": [], "prune": {}, "state": "absent"}, "at least one"),
        ({"state": "pushed"}, "to need each other"),
        ({"to": "localhost/a"}, "to need each other"),
        ({"state": "pushed", "to": "localhost/a", "images": ["a", "b"]}, "exactly one"),
        ({"state": "pushed", "to": f"localhost/a@{sha256(b'')}"}, "digest"),
        ({"prune": {"unused_for": "a month"}}, "span of time"),
    ],
)
def test_options_that_do_not_fit(images: Images, options: dict[str, t.Any], word: str) -> None:
    failed = images.run(**{"images": ["localhost/a"], **options})
    assert code_of(failed) == "invalid_option"
    assert word in failed["msg"]
    assert not images.path.exists()


def test_a_wrong_reference(images: Images) -> None:
    assert code_of(images.run(images=["localhost/A"])) == "invalid_reference"


def test_never(images: Images) -> None:
    failed = images.run(images=["localhost:1/a"], pull="never")
    assert code_of(failed) == "image_missing"
    assert not images.path.exists()


def test_push(registry: Registry, images: Images, tmp_path: Path) -> None:
    image = hello()
    reference = pushed(registry, tmp_path, "push/from", ("linux/amd64", image), tag="1")
    target = f"{registry.host}/push/to:2"
    assert code_of(images.run(images=[reference], state="pushed", to=target)) == "image_missing"
    images.converged(images=[reference])
    result = images.converged(images=[reference], state="pushed", to=target)
    assert result["plan"] == [{"key": target, "before": None, "after": image.digest, "effect": "push"}]
    assert result["images"][0]["to"] == target
    # It is the same there, to the byte.
    images.run(images=[reference], state="absent")
    assert images.converged(images=[target])["images"][0]["source_digest"] == image.digest
    # Another image in its place.
    other = hello("other")
    second = pushed(registry, tmp_path, "push/from", ("linux/amd64", other), tag="2")
    images.converged(images=[second])
    result = images.converged(images=[second], state="pushed", to=target)
    assert result["images"][0]["before"] == image.digest
    assert images.leftovers() == []


def test_a_push_to_a_name_that_looks_like_an_error(registry: Registry, images: Images, tmp_path: Path) -> None:
    reference = pushed(registry, tmp_path, "push/words", ("linux/amd64", hello()), tag="1")
    images.converged(images=[reference])
    for name in ("push/words:429", "push/credentials-helper:1", "push/x509:404"):
        assert images.converged(images=[reference], state="pushed", to=f"{registry.host}/{name}")["changed"]


def test_a_push_beside_another(
    registry: Registry, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that was killed, or in another container that shares the store: both can have the same process id."""
    reference = pushed(registry, tmp_path, "push/beside", ("linux/amd64", hello()), tag="1")
    images.converged(images=[reference])
    other = images.path / ".lxcri/staging/push-7"
    other.mkdir(parents=True)
    monkeypatch.setattr(os, "getpid", lambda: 7)
    options = PullOptions(
        str(images.path),
        platform=parse_platform("amd64"),
        username=USER,
        password=PASSWORD,
        ca_path=str(registry.certificate),
    )
    store = Store(str(images.path), 10)
    assert push_image(store, reference, f"{registry.host}/push/beside:2", options, check_mode=False).changed
    assert images.leftovers() == ["staging/push-7"]
    other.rmdir()


def test_a_push_that_is_refused(registry: Registry, hostile: Hostile, images: Images, tmp_path: Path) -> None:
    reference = pushed(registry, tmp_path, "push/refused", ("linux/amd64", hello()))
    images.converged(images=[reference])
    wrong = images.run(images=[reference], state="pushed", to=f"{registry.host}/push/x", password="wrong")
    assert code_of(wrong) == "unauthorized"
    # This one takes nothing.
    refused = images.run(images=[reference], state="pushed", to=f"{hostile.host}/push/x")
    assert code_of(refused) in ("copy_failed", "unauthorized", "image_missing")
    assert images.leftovers() == []


def test_absent(registry: Registry, images: Images, tmp_path: Path) -> None:
    base = layer(entry("base", "b"))
    one, two = build(base, layer(entry("1"))), build(base, layer(entry("2")))
    first = pushed(registry, tmp_path, "absent/one", ("linux/amd64", one))
    second = pushed(registry, tmp_path, "absent/two", ("linux/amd64", two))
    assert images.run(images=[first], state="absent")["changed"] is False
    assert not images.path.exists()
    images.converged(images=[first, second])
    result = images.converged(images=[first], state="absent")
    assert result["images"][0]["changed"] is True
    assert result["freed"] == sum(len(data) for digest, data in one.blobs.items() if digest not in two.blobs)
    assert set(images.blobs()) == set(two.blobs)
    assert [removal["kind"] for removal in result["pruned"]] == ["image", "blob", "blob", "blob"]


def test_prune(registry: Registry, images: Images, tmp_path: Path) -> None:
    used, old, moved = hello("used"), hello("old"), hello("moved")
    first = pushed(registry, tmp_path, "prune/used", ("linux/amd64", used))
    second = pushed(registry, tmp_path, "prune/old", ("linux/amd64", old))
    images.converged(images=[first, second])
    images.age(second, days=31)
    images.age(first, days=31)
    stray = images.path / "blobs/sha256" / sha256(b"stray")[7:]
    stray.write_bytes(b"stray")
    (images.path / "blobs/sha256/README").write_text("not a blob")
    stage = images.path / ".lxcri/staging" / ("0" * 64)
    (stage / "blobs/sha256").mkdir(parents=True)
    (stage / "oci-put-blob123").write_bytes(b"12345")
    # Nothing goes by age without unused_for.
    result = images.converged(images=[], prune={})
    assert {removal["name"]: removal["size"] for removal in result["pruned"]} == {sha256(b"stray"): 5, "0" * 64: 5}
    assert result["freed"] == 10
    assert not stage.exists()
    # The tag moves in the same run, and what it meant goes with it.
    pushed(registry, tmp_path, "prune/used", ("linux/amd64", moved))
    result = images.converged(images=[first], pull="newer", prune={"unused_for": "30d"})
    assert [removal["name"] for removal in result["pruned"] if removal["kind"] == "image"] == [second]
    assert set(images.blobs()) == set(moved.blobs)
    assert (images.path / "blobs/sha256/README").exists()


def test_what_is_used_stays(registry: Registry, images: Images, tmp_path: Path) -> None:
    reference = pushed(registry, tmp_path, "prune/stays", ("linux/amd64", hello()))
    images.converged(images=[reference])
    images.age(reference, days=40)
    assert images.run(True, images=[], prune={"unused_for": "4w"})["changed"] is True
    # A task that names it, however it does.
    assert images.run(images=[reference])["changed"] is False
    assert images.run(images=[], prune={"unused_for": "4w"})["changed"] is False


def test_what_a_push_or_keep_names_stays(registry: Registry, images: Images, tmp_path: Path) -> None:
    first = pushed(registry, tmp_path, "prune/pushed", ("linux/amd64", hello()), tag="1")
    second = pushed(registry, tmp_path, "prune/kept", ("linux/amd64", hello("kept")), tag="1")
    images.converged(images=[first, second])
    for reference in (first, second):
        images.age(reference, days=40)
    images.run(images=[first], state="pushed", to=f"{registry.host}/prune/mirror:1")
    for check_mode in (True, False):
        pruned = images.run(check_mode, images=[], prune={"unused_for": "2h", "keep": [second]})
        assert pruned["changed"] is False, pruned
    gone = images.run(images=[], prune={"unused_for": "2h"})["pruned"]
    assert [removal["name"] for removal in gone if removal["kind"] == "image"] == [second]


def test_entries_of_others_stay(images: Images, registry: Registry, tmp_path: Path) -> None:
    images.converged(images=[pushed(registry, tmp_path, "others/mine", ("linux/amd64", hello("mine")))])
    other = index(("linux/amd64", hello("other")))
    other.write(images.path, "by-hand")
    assert images.converged(images=[], prune={"unused_for": "0m"})["changed"] is True
    assert [entry["annotations"] for entry in images.layout.entries()] == [
        {"org.opencontainers.image.ref.name": "by-hand"}
    ]
    assert set(images.blobs()) == set(other.blobs)


def test_failures_of_some(registry: Registry, images: Images, tmp_path: Path) -> None:
    good = pushed(registry, tmp_path, "some/good", ("linux/amd64", hello()))
    bad = f"{registry.host}/some/bad:1"
    failed = images.run(images=[bad, good, "localhost:1/down"], prune={"unused_for": "0m"})
    assert code_of(failed) == "images_failed"
    named = [(image["reference"], image["code"]) for image in failed["failure"]["details"]["images"]]
    assert named == [(bad, "image_missing"), ("localhost:1/down:latest", "registry_unreachable")]
    assert failed["changed"] is True
    assert failed["pruned"] == []
    assert images.run(images=[good], pull="never")["changed"] is False


def test_a_policy_of_the_administrator(registry: Registry, images: Images, tmp_path: Path) -> None:
    home = tmp_path / "home"
    policy = home / ".config/containers/policy.json"
    policy.parent.mkdir(parents=True)
    policy.write_text(json.dumps({"default": [{"type": "reject"}]}))
    reference = pushed(registry, tmp_path, "some/policy", ("linux/amd64", hello()))
    failed = images.run(images=[reference], env={"HOME": str(home)})
    assert code_of(failed) == "policy_refused"
    assert images.blobs() == []
    assert Layout(str(images.path)).entries() == []
