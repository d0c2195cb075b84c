# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The entries of the store, what prunes them, and what a registry's answers mean."""

from __future__ import annotations

import json
import typing as t
from dataclasses import replace

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.prune import unused
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.reference import Platform, Reference, parse_reference
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.remote import Remote, resolve
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.store import Entry, descriptor_of, entry_of
from ansible_collections.lxcri.proxmox.plugins.module_utils.retention import parse_duration
from ansible_collections.lxcri.proxmox.tests.oci.images import build, entry, index, layer, sha256

AMD64 = Platform("linux", "amd64")
DIGEST = sha256(b"")
ENTRY = Entry("localhost/a:1", "linux/amd64", DIGEST, DIGEST, sha256(b"x"), 1_700_000_000, 1_700_000_007)


def test_an_entry_and_back() -> None:
    descriptor = descriptor_of(ENTRY, 5, {"os": "linux", "architecture": "amd64"})
    assert entry_of(json.loads(json.dumps(descriptor))) == ENTRY
    assert descriptor["annotations"]["org.opencontainers.image.ref.name"] == "localhost/a:1"


@pytest.mark.parametrize(
    "annotations",
    [
        None,
        [],
        {},
        {"org.opencontainers.image.ref.name": "by hand"},
        {**descriptor_of(ENTRY, 5, {})["annotations"], "io.lxcri.used": "?"},
    ],
)
def test_an_entry_of_somebody_else(annotations: t.Any) -> None:
    assert entry_of({"digest": DIGEST, "annotations": annotations}) is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("0m", 0), ("90m", 5400), ("12h", 43200), ("30d", 2592000), ("4w", 2419200)]
)
def test_spans_of_time(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5d", "1y", "1d ", "30d\n", "9999999d"])
def test_what_is_no_span_of_time(text: str) -> None:
    with pytest.raises(Failure) as caught:
        parse_duration(text)
    assert caught.value.code == "invalid_option"


def test_what_is_unused() -> None:
    entries = [replace(ENTRY, reference=name, used=used) for name, used in (("a", 100), ("b", 89), ("c", 90), ("d", 0))]
    assert [found.reference for found in unused(entries, ["d"], 10, 100)] == ["b", "c"]
    assert unused(entries, [], 0, 100) == entries


def found(text: str, blobs: dict[str, bytes], data: bytes, platform: Platform = AMD64) -> Remote:
    def read(reference: Reference) -> bytes:
        return blobs[reference.digest or ""]

    return resolve(parse_reference(text), data, platform, read)


def test_an_image_for_a_platform() -> None:
    amd64, arm64 = build(layer(entry("1"))), build(layer(entry("2")), architecture="arm64")
    both = index(("linux/amd64", amd64), ("linux/arm64/v8", arm64), ("unknown/unknown", amd64))
    data = both.blobs[both.digest]
    image = found("a", both.blobs, data)
    assert (image.source_digest, image.digest, image.converted) == (both.digest, amd64.digest, False)
    assert image.size == sum(map(len, amd64.blobs.values()))
    assert found("a", both.blobs, data, Platform("linux", "arm64")).digest == arm64.digest
    with pytest.raises(Failure) as caught:
        found("a", both.blobs, data, Platform("linux", "s390x"))
    assert caught.value.code == "platform_missing"
    assert caught.value.details["platforms"] == ["linux/amd64", "linux/arm64/v8"]


@pytest.mark.parametrize(
    "manifests",
    [
        [{}],
        [{"platform": "linux/amd64"}],
        [{"platform": ["linux"]}],
        [{"platform": {"os": "linux", "architecture": "amd64"}, "digest": "../x"}],
        ["x"],
        "x",
    ],
)
def test_an_index_that_leads_nowhere(manifests: t.Any) -> None:
    with pytest.raises(Failure) as caught:
        found("a", {}, json.dumps({"schemaVersion": 2, "manifests": manifests}).encode())
    assert caught.value.code in ("invalid_image", "platform_missing")


def test_indexes_without_an_end() -> None:
    here = {"os": "linux", "architecture": "amd64"}
    data = b'{"manifests": []}'
    blobs = {}
    for _level in range(6):
        blobs[sha256(data)] = data
        data = json.dumps({"manifests": [{"digest": sha256(data), "platform": here}]}).encode()
    with pytest.raises(Failure, match="nested too deep"):
        found("a", blobs, data)


def test_an_answer_that_was_not_asked_for() -> None:
    image = build(layer(entry("1")))
    data = image.blobs[image.digest]
    assert found(f"a@{image.digest}", {}, data).digest == image.digest
    with pytest.raises(Failure) as caught:
        found(f"a@{DIGEST}", {}, data)
    assert caught.value.code == "digest_mismatch"
