# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading layers: what they are, whole or growing, and what is said of wrong ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import threading
import time
import tracemalloc
import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci import verify
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.layout import LAYER, LAYER_GZIP, LAYER_ZSTD, Layout
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.verify import Measured, Measuring, check_layer, measure
from ansible_collections.lxcri.proxmox.tests.oci.images import Built, build, entry, layer, sha256
from hypothesis import given
from hypothesis import strategies as st


def measured(data: bytes) -> Measured:
    return measure(io.BytesIO(data))


@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=4), st.integers(4, 300))
def test_members_are_one_stream(parts: list[bytes], chunk: int) -> None:
    data = b"".join(gzip.compress(part) for part in parts)
    before, verify._CHUNK = verify._CHUNK, chunk
    try:
        found = measured(data)
    finally:
        verify._CHUNK = before
    assert found == Measured(sha256(data), len(data), "gzip", sha256(b"".join(parts)))


@given(st.binary(max_size=500), st.integers(1, 40))
def test_whatever_is_cut_off_is_missed(content: bytes, cut: int) -> None:
    data = gzip.compress(content)
    found = measured(data[: max(2, len(data) - cut)])
    assert found.problem == "it ends too early"
    assert found.diff_id is None


@given(st.binary(min_size=1, max_size=50))
def test_garbage_after_the_stream(garbage: bytes) -> None:
    found = measured(gzip.compress(b"content") + garbage)
    assert found.problem or garbage[:1] == b"\x1f"


@pytest.mark.parametrize(
    ("data", "content"),
    [(b"", "plain"), (b"a", "plain"), (b"\x1f", "plain"), (b"plain text", "plain"), (b"\x28\xb5\x2f\xfd...", "zstd")],
)
def test_what_is_no_gzip(data: bytes, content: str) -> None:
    found = measured(data)
    assert (found.content, found.size, found.problem) == (content, len(data), None)
    assert found.diff_id == (sha256(data) if content == "plain" else None)


def test_a_bomb_takes_no_memory() -> None:
    bomb = gzip.compress(bytes(100_000_000), 9)
    tracemalloc.start()
    assert measured(bomb).diff_id == f"sha256:{hashlib.sha256(bytes(100_000_000)).hexdigest()}"
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # That of the hash above, and a little.
    assert peak < 110_000_000


def test_a_file_that_grows(tmp_path: Path) -> None:
    data = gzip.compress(b"content" * 10_000, 0)
    layout = Layout(str(tmp_path))
    (tmp_path / "blobs/sha256").mkdir(parents=True)
    with Measuring(layout) as measuring, (tmp_path / "unfinished-1").open("wb", buffering=0) as file:
        for start in range(0, len(data), 7000):
            measuring.follow("unfinished")
            file.write(data[start : start + 1])
            file.write(data[start + 1 : start + 7000])
            time.sleep(0.001)
        assert measuring.begin(sha256(data)) is False
        (tmp_path / "unfinished-1").rename(layout.blob(sha256(data)))
        assert measuring.begin(sha256(data)) is True
        assert measuring.result(sha256(data)) == Measured(sha256(data), len(data), "gzip", sha256(b"content" * 10_000))
        assert len(measuring._followed) == 1


def test_a_file_that_is_never_finished(tmp_path: Path) -> None:
    (tmp_path / "unfinished-1").write_bytes(b"\x1f")
    with Measuring(Layout(str(tmp_path))) as measuring:
        measuring.follow("unfinished")
    assert threading.active_count() < 10


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"digest": sha256(b"")}, "digest_mismatch"),
        ({"size": 1}, "size_mismatch"),
        ({"mediaType": LAYER}, "media_type_mismatch"),
        ({"mediaType": LAYER_ZSTD}, "media_type_mismatch"),
        ({"mediaType": None}, "media_type_mismatch"),
        ({"diff_id": sha256(b"")}, "diff_id_mismatch"),
    ],
)
def test_a_wrong_layer(change: dict[str, t.Any], code: str) -> None:
    data = gzip.compress(b"content")
    right = {"digest": sha256(data), "size": len(data), "mediaType": LAYER_GZIP, "diff_id": sha256(b"content")}
    check_layer(right, right["diff_id"], measured(data))
    told = {**right, **change}
    with pytest.raises(Failure) as caught:
        check_layer(told, told["diff_id"], measured(data))
    assert caught.value.code == code
    assert caught.value.hint


def test_blobs_that_are_not_there(tmp_path: Path) -> None:
    image = build(layer(entry("a")))
    layout = Layout(str(image.write(tmp_path)))
    assert verify.verify_image(layout, image.digest).digest == image.digest
    blob = Path(layout.blob(layout.image(image.digest).layers[0]["digest"]))
    blob.unlink()
    assert code_of(layout, image) == "blob_missing"
    blob.mkdir()
    assert code_of(layout, image) == "blob_unreadable"


def code_of(layout: Layout, image: Built) -> str:
    with pytest.raises(Failure) as caught:
        verify.verify_image(layout, image.digest)
    return caught.value.code
