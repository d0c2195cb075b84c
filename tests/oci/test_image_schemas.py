# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is written of an image is valid by the JSON schemas of the image specification."""

from __future__ import annotations

import json
import subprocess
import tarfile
import typing as t
from pathlib import Path

import jsonschema
import pytest
from ansible_collections.lxcri.proxmox.tests.oci.images import (
    CONFIG,
    LAYER_GZIP,
    MANIFEST,
    Built,
    build,
    busybox_layer,
    entry,
    index,
    layer,
)
from ansible_collections.lxcri.proxmox.tests.oci.module import run_module
from ansible_collections.lxcri.proxmox.tests.oci.registry import PASSWORD, USER, Registry
from ansible_collections.lxcri.proxmox.tests.oci.schemas import validate_layout
from ansible_collections.lxcri.proxmox.tests.oci.stores import Images
from ansible_collections.lxcri.proxmox.tests.oci.test_image import LAYER_ZSTD, docker, zstd

FULL = {"Cmd": ["sh"], "Env": ["A=1"], "Volumes": {"/data": {}}, "ExposedPorts": {"80/tcp": {}}, "Labels": {"a": "b"}}


def made(kind: str) -> Built:
    """An image of this kind."""
    if kind == "zstd":
        return build(busybox_layer(), config=FULL, compress=zstd, layer_type=LAYER_ZSTD)
    if kind == "docker":
        return docker(build(busybox_layer(), config=FULL))
    if kind == "without a media type":
        return build(busybox_layer(), config=FULL, manifest={"mediaType": None})
    return build(busybox_layer(), layer(entry("more", "x")), config=FULL)


KINDS = ("oci", "zstd", "docker", "without a media type")


@pytest.mark.parametrize("kind", KINDS)
def test_archives(kind: str, tmp_path: Path) -> None:
    """Of a layout, and of what docker save and skopeo write."""
    layout = made(kind).write(tmp_path / "layout")
    sources = [{"layout": str(layout)}]
    if kind == "oci":
        for form in ("oci-archive", "docker-archive"):
            path = tmp_path / f"{form}.tar"
            copy = ["skopeo", "--insecure-policy", "copy", "-q", f"oci:{layout}:latest", f"{form}:{path}:team/app:1"]
            subprocess.run(copy, check=True, capture_output=True)
            sources.append({"archive": str(path)})
    for number, source in enumerate(sources):
        params = {**source, "format": "oci_archive", "path": str(tmp_path / f"made-{number}")}
        result = run_module("oci_bundle", params)
        assert result.get("changed"), result
        with tarfile.open(result["path"]) as archive:
            archive.extractall(tmp_path / f"unpacked-{number}", filter="data")
        assert set(validate_layout(tmp_path / f"unpacked-{number}")) == {MANIFEST, CONFIG, LAYER_GZIP}


def test_the_store(registry: Registry, tmp_path: Path) -> None:
    """At any number of images and platforms, and after some have gone."""
    access = {"username": USER, "password": PASSWORD, "ca_path": str(registry.certificate)}
    store = Images(tmp_path / "store", platform="linux/amd64", **access)
    references = []
    for number, kind in enumerate(KINDS):
        other = build(busybox_layer(), architecture="arm64", config={"Cmd": ["sh"]})
        both = index(("linux/amd64", made(kind)), ("linux/arm64/v8", other)).write(tmp_path / f"layout-{number}")
        references.append(registry.push(both, f"schemas/{number}"))
    for given in (references[:1], references):
        for platform in ("linux/amd64", "linux/arm64"):
            assert store.run(images=given, platform=platform)["changed"]
            assert set(validate_layout(store.path)) == {MANIFEST, CONFIG, LAYER_GZIP}
    assert store.run(images=references[1:], state="absent", platform=None)["changed"]
    assert validate_layout(store.path) == sorted(2 * [MANIFEST, CONFIG, LAYER_GZIP] + [LAYER_GZIP])
    assert store.run(images=references[:1], state="absent", platform=None)["changed"]
    assert validate_layout(store.path) == []


WRONG: dict[str, t.Callable[[dict[str, t.Any]], object]] = {
    "a version": lambda document: document.update(schemaVersion=1),
    "no size": lambda document: document["manifests"][0].pop("size"),
    "a digest": lambda document: document["manifests"][0].update(digest="x"),
    "a platform": lambda document: document["manifests"][0].update(platform={"os": "linux"}),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_not_valid_is_seen(what: str, tmp_path: Path) -> None:
    path = build(busybox_layer()).write(tmp_path / "layout") / "index.json"
    document = json.loads(path.read_text())
    WRONG[what](document)
    path.write_text(json.dumps(document))
    with pytest.raises(jsonschema.ValidationError):
        validate_layout(tmp_path / "layout")
