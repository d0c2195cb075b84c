# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""oci_image when images are wrong, and when registries, disks and other runs stand in its way."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import gzip
import json
import os
import subprocess
import threading
import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.tests.oci.hostile import Hostile
from ansible_collections.lxcri.proxmox.tests.oci.images import (
    LAYER_GZIP,
    MANIFEST,
    Built,
    build,
    entry,
    index,
    layer,
    listing,
    sha256,
)
from ansible_collections.lxcri.proxmox.tests.oci.registry import PASSWORD, USER, Registry
from ansible_collections.lxcri.proxmox.tests.oci.stores import Images, code_of
from ansible_collections.lxcri.proxmox.tests.oci.wrong import TAR, WRONG


@pytest.fixture
def hostile(registry: Registry) -> t.Iterator[Hostile]:
    running = Hostile((registry.certificate, registry.root / "key.pem"))
    yield running
    running.stop()


@pytest.fixture
def images(tmp_path: Path, registry: Registry) -> t.Iterator[Images]:
    store = Images(
        tmp_path / "store", username=USER, password=PASSWORD, ca_path=str(registry.certificate), platform="linux/amd64"
    )
    yield store
    store.verify()


def layers_of(image: Built) -> list[dict[str, t.Any]]:
    return t.cast("list[dict[str, t.Any]]", json.loads(image.blobs[image.digest])["layers"])


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_image(hostile: Hostile, images: Images, what: str) -> None:
    """It is refused, what was in the store stays, and the next run succeeds when the image is right."""
    good = build(layer(entry("good")))
    reference = hostile.serve(good, "some/image")
    images.converged(images=[reference])
    before = listing(images.path)
    make, codes = WRONG[what]
    wrong = make()
    hostile.blobs.clear()
    hostile.serve(wrong, "some/image")
    failed = images.run(images=[reference], pull="newer")
    assert code_of(failed) in codes
    assert failed["failure"]["hint"]
    assert listing(images.path) == before
    assert images.run(images=[reference])["images"][0]["digest"] == good.digest
    hostile.serve(build(TAR), "some/image")
    assert images.run(images=[reference], pull="newer")["changed"] is True


def test_another_image_than_the_digest_says(hostile: Hostile, images: Images) -> None:
    image, other = build(TAR), build(layer(entry("other")))
    hostile.serve(other, "some/image")
    hostile.manifests["some/image", image.digest] = (other.blobs[other.digest], MANIFEST)
    failed = images.run(images=[f"{hostile.host}/some/image@{image.digest}"])
    assert code_of(failed) == "digest_mismatch"


def test_a_registry_that_goes_down_in_the_middle(registry: Registry, hostile: Hostile, images: Images) -> None:
    image = build(layer(entry("first")), layer(entry("second", os.urandom(200_000))))
    reference = hostile.serve(image, "some/image")
    first, second = (part["digest"] for part in layers_of(image))
    gate = hostile.gate(second, 100_000)
    results: list[dict[str, t.Any]] = []
    thread = threading.Thread(target=lambda: results.append(images.run(images=[reference])))
    thread.start()
    assert gate.reached.wait(60)
    stage = images.path / ".lxcri/staging" / image.digest[7:]
    while not (stage / "blobs/sha256" / first[7:]).exists():
        assert thread.is_alive()
    hostile.stop()
    thread.join()
    assert code_of(results[0]) == "registry_unreachable"
    assert images.blobs() == []
    # What is complete is not downloaded again.
    again = Hostile((registry.certificate, registry.root / "key.pem"), port=hostile.port)
    try:
        again.serve(image, "some/image")
        assert images.run(images=[reference])["changed"] is True
        assert [again.downloads(digest) for digest in (first, second)] == [0, 1]
    finally:
        again.stop()
    assert images.leftovers() == []


def test_what_is_left_of_a_download_is_not_trusted(hostile: Hostile, images: Images) -> None:
    image = build(TAR)
    [part] = layers_of(image)
    stage = images.path / ".lxcri/staging" / image.digest[7:]
    (stage / "blobs/sha256").mkdir(parents=True)
    (stage / "blobs/sha256" / part["digest"][7:]).write_bytes(bytes(part["size"]))
    (stage / "blobs/sha256/other").write_bytes(b"")
    (stage / "oci-put-blob1").write_bytes(b"")
    (stage / "index.json").write_text("{")
    assert images.run(images=[hostile.serve(image, "some/image")])["changed"] is True
    assert images.leftovers() == []


def test_what_a_registry_refuses(registry: Registry, hostile: Hostile, images: Images, tmp_path: Path) -> None:
    reference = registry.push(index(("linux/amd64", build(TAR))).write(tmp_path / "layout"), "refuse/it", "1")
    assert code_of(images.run(images=[reference], password="wrong")) == "unauthorized"
    assert code_of(images.run(images=[reference], username=None, password=None)) == "unauthorized"
    assert code_of(images.run(images=[reference], ca_path=None)) == "untrusted_certificate"
    assert code_of(images.run(images=[reference.replace("/it:", "/no:")])) == "image_missing"
    assert code_of(images.run(images=["localhost:1/a"])) == "registry_unreachable"
    assert code_of(images.run(images=["name.invalid/a"])) == "registry_unreachable"
    hostile.statuses["/v2/a/manifests/1"] = 503
    assert code_of(images.run(images=[f"{hostile.host}/a:1"])) == "registry_unreachable"
    hostile.statuses["/v2/a/manifests/1"] = 403
    assert code_of(images.run(images=[f"{hostile.host}/a:1"])) == "unauthorized"
    hostile.statuses["/v2/a/manifests/1"] = 429
    assert code_of(images.run(images=[f"{hostile.host}/a:1"])) == "rate_limited"
    assert images.blobs() == []
    assert images.run(images=[reference], ca_path=None, validate_certs=False)["changed"] is True


def test_a_registry_without_tls(images: Images) -> None:
    plain = Hostile(None)
    try:
        reference = plain.serve(build(TAR), "some/image")
        assert code_of(images.run(images=[reference])) == "registry_without_tls"
        assert images.run(images=[reference], validate_certs=False)["changed"] is True
        pushed = images.run(images=[reference], validate_certs=False, state="pushed", to=reference)
        assert pushed["changed"] is False
    finally:
        plain.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> t.Iterator[Path]:
    """A file system of 1 MiB."""
    point = tmp_path / "small"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(point)], check=True)
    yield point
    subprocess.run(["umount", str(point)], check=True)


def test_a_full_disk(hostile: Hostile, images: Images, small_disk: Path) -> None:
    small, large = build(TAR), build(layer(entry("large", os.urandom(600_000))))
    there = hostile.serve(small, "some/image", "small")
    store = Images(small_disk / "store", **{**images.options, "store": str(small_disk / "store")})
    store.converged(images=[there])
    before = listing(store.path)
    (small_disk / "ballast").write_bytes(bytes(600_000))
    reference = hostile.serve(large, "some/image", "large")
    assert code_of(store.run(images=[reference])) == "disk_full"
    assert listing(store.path) == before
    # Not one byte is left.
    with (small_disk / "ballast").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    assert code_of(store.run(images=[reference])) == "disk_full"
    assert store.run(images=[there])["changed"] is False
    store.verify()
    (small_disk / "ballast").unlink()
    assert store.run(images=[reference])["changed"] is True
    store.verify()


def test_a_store_that_cannot_be(images: Images, hostile: Hostile) -> None:
    reference = hostile.serve(build(TAR), "some/image")
    assert code_of(images.run(images=[reference], store="/etc/hostname/store")) == "write_failed"


def test_a_registry_that_takes_its_time(hostile: Hostile, images: Images) -> None:
    image = build(TAR)
    reference = hostile.serve(image, "some/image")
    gate = hostile.gate(layers_of(image)[0]["digest"])
    assert code_of(images.run(images=[reference], timeout=1)) == "registry_timeout"
    gate.opened.set()
    assert images.run(images=[reference])["changed"] is True


@pytest.mark.parametrize("options", [{"prune": {"unused_for": "0m"}, "images": []}, {"state": "absent"}])
def test_a_store_that_others_use(hostile: Hostile, images: Images, options: dict[str, t.Any]) -> None:
    reference = hostile.serve(build(TAR), "some/image")
    images.converged(images=[reference])
    with (images.path / ".lxcri/lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        failed = images.run(**{"images": [reference], "timeout": 1, **options})
        assert code_of(failed) == "store_locked"
        # Nobody waits for reading.
        assert images.run(images=[reference], timeout=1)["changed"] is False
    assert images.run(**{"images": [reference], **options})["changed"] is True


def test_a_pull_waits_for_pruning(hostile: Hostile, images: Images) -> None:
    reference = hostile.serve(build(TAR), "some/image")
    images.converged(images=[hostile.serve(build(layer(entry("x"))), "some/other")])
    with (images.path / ".lxcri/lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert code_of(images.run(images=[reference], timeout=1)) == "store_locked"
    assert images.run(images=[reference])["changed"] is True


@pytest.mark.parametrize("part", ["layer", "config", "manifest"])
def test_a_blob_of_the_store_that_is_missing(hostile: Hostile, images: Images, part: str) -> None:
    image = build(TAR)
    document = json.loads(image.blobs[image.digest])
    digest = {"layer": document["layers"][0], "config": document["config"], "manifest": image.descriptor}[part][
        "digest"
    ]
    reference = hostile.serve(image, "some/image")
    images.converged(images=[reference])
    Path(images.layout.blob(digest)).unlink()
    assert code_of(images.run(images=[reference], pull="never")) == "image_missing"
    result = images.converged(images=[reference])
    assert result["images"][0]["before"] is None


def test_a_blob_of_the_store_that_was_tampered_with(hostile: Hostile, images: Images) -> None:
    image = build(TAR)
    reference = hostile.serve(image, "some/image")
    images.converged(images=[reference])
    [part] = layers_of(image)
    blob = Path(images.layout.blob(part["digest"]))
    blob.write_bytes(bytes(part["size"]))
    # By its size nobody sees it, and reading all of it costs time.
    assert images.run(images=[reference])["changed"] is False
    assert images.converged(images=[reference], verify=True)["changed"] is True
    assert sha256(blob.read_bytes()) == part["digest"]
    # It is seen when another image has the same layer.
    blob.write_bytes(bytes(part["size"]))
    images.converged(images=[hostile.serve(build(TAR, layer(entry("more"))), "some/other")])
    assert sha256(blob.read_bytes()) == part["digest"]


def test_an_index_that_is_damaged(hostile: Hostile, images: Images) -> None:
    reference = hostile.serve(build(TAR), "some/image")
    images.converged(images=[reference])
    index_file = images.path / "index.json"
    good = index_file.read_text()
    index_file.write_text(good[:-10])
    for options in ({}, {"state": "absent"}, {"prune": {}}):
        assert code_of(images.run(images=[reference], **options)) == "invalid_image"
    index_file.write_text(good)


def test_secrets_are_seen_nowhere(hostile: Hostile, registry: Registry, images: Images, tmp_path: Path) -> None:
    """Neither in arguments and environments of processes while it runs, nor in files and results afterwards."""
    image = build(TAR)
    reference = hostile.serve(image, "some/image")
    gate = hostile.gate(layers_of(image)[0]["digest"])
    secret = "very:secret password"
    work = tmp_path / "temporary"
    work.mkdir()
    results: list[dict[str, t.Any]] = []
    environment = {"TMPDIR": str(work), "HOME": str(work), "XDG_RUNTIME_DIR": str(work)}

    def pull() -> None:
        results.append(images.run(images=[reference], password=secret, env=environment))

    thread = threading.Thread(target=pull)
    thread.start()
    assert gate.reached.wait(60)
    commands = seen_in_proc(secret)
    gate.opened.set()
    thread.join()
    assert any("skopeo" in command and "copy" in command for command in commands)
    results.append(images.run(images=[f"{registry.host}/some/image"], password=secret, env=environment))
    assert code_of(results[1]) == "unauthorized"
    results.append(images.run(images=[reference], state="pushed", to=f"{registry.host}/a", password=secret))
    assert code_of(results[2]) == "unauthorized"
    assert secret not in json.dumps(results)
    assert json.dumps(results).count("VALUE_SPECIFIED_IN_NO_LOG_PARAMETER") >= 3
    for root in (images.path, work):
        for path in root.rglob("*"):
            if path.is_file():
                assert secret.encode() not in path.read_bytes(), path
    assert list(work.rglob("*auth*")) == []


def seen_in_proc(secret: str) -> list[str]:
    """The commands that run. The secret is in none of them, nor in its environment, but for this process."""
    commands = []
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        try:
            command, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        for part in (secret.encode(), base64.b64encode(f"{USER}:{secret}".encode())):
            assert part not in command
            assert part not in environment
        commands.append(command.decode(errors="replace"))
    return commands


def test_layers_of_many_members(hostile: Hostile, images: Images) -> None:
    """Streams that follow each other are one, as gzip has it, and some builders write them."""
    half = len(TAR) // 2
    image = build(TAR, compress=lambda data: gzip.compress(data[:half]) + gzip.compress(data[half:]))
    assert layers_of(image)[0]["mediaType"] == LAYER_GZIP
    images.converged(images=[hostile.serve(image, "some/image")])
