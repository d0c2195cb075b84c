# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""oci_image, killed: before each thing that it does, and while skopeo works."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.tests.oci.hostile import Hostile
from ansible_collections.lxcri.proxmox.tests.oci.images import Built, build, entry, index, layer, sha256
from ansible_collections.lxcri.proxmox.tests.oci.registry import Registry
from ansible_collections.lxcri.proxmox.tests.oci.stores import Images

BASE = layer(entry("base", "base"))


@pytest.fixture
def hostile(registry: Registry) -> t.Iterator[Hostile]:
    running = Hostile((registry.certificate, registry.root / "key.pem"))
    yield running
    running.stop()


@pytest.fixture
def images(tmp_path: Path, registry: Registry) -> t.Iterator[Images]:
    store = Images(tmp_path / "start", ca_path=str(registry.certificate), platform="linux/amd64")
    yield store
    store.verify()


def image_of(text: str) -> Built:
    return build(BASE, layer(entry("file", text)))


def kill_everywhere(store: Images, there: t.Sequence[str], **options: t.Any) -> int:
    """How often it was killed."""
    path = str(store.path.parent / "store")
    given = {
        "run": {**store.options, "store": path, **options},
        "start": str(store.path) if store.path.exists() else None,
        "path": path,
        "there": list(there),
    }
    done = subprocess.run(
        [sys.executable, "-m", "ansible_collections.lxcri.proxmox.tests.oci.kill_everywhere"],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert skopeos_of(path) == []
    return int(json.loads(done.stdout)["killed"])


def skopeos_now(path: str) -> list[int]:
    """The processes of skopeo that run for a store."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            if command.startswith("skopeo") and path in command:
                found.append(int(process.name))
    return found


def skopeos_of(path: str) -> list[int]:
    """Those that still run after a while."""
    end = time.monotonic() + 20
    while skopeos_now(path) and time.monotonic() < end:
        time.sleep(0.05)
    return skopeos_now(path)


def test_a_first_pull(hostile: Hostile, images: Images) -> None:
    reference = hostile.serve(index(("linux/amd64", image_of("1"))), "kill/first")
    assert kill_everywhere(images, [], images=[reference], state="present") > 20


def test_a_moved_tag(hostile: Hostile, images: Images) -> None:
    reference = hostile.serve(image_of("1"), "kill/moved")
    images.converged(images=[reference])
    hostile.serve(image_of("2"), "kill/moved")
    options: dict[str, t.Any] = {"pull": "newer", "prune": {"unused_for": None}}
    assert kill_everywhere(images, [reference], images=[reference], state="present", **options) > 20


def test_pruning(hostile: Hostile, images: Images) -> None:
    kept, gone = hostile.serve(image_of("1"), "kill/kept"), hostile.serve(image_of("2"), "kill/gone")
    images.converged(images=[kept, gone])
    (images.path / "blobs/sha256" / sha256(b"x")[7:]).write_bytes(b"x")
    stage = images.path / ".lxcri/staging" / ("0" * 64)
    (stage / "blobs/sha256").mkdir(parents=True)
    (stage / "blobs/sha256" / ("1" * 64)).write_bytes(b"part")
    options: dict[str, t.Any] = {"prune": {"unused_for": "0m"}}
    assert kill_everywhere(images, [kept], images=[kept], state="present", **options) > 8


def test_absent(hostile: Hostile, images: Images) -> None:
    kept, gone = hostile.serve(image_of("1"), "kill/kept"), hostile.serve(image_of("2"), "kill/gone")
    images.converged(images=[kept, gone])
    assert kill_everywhere(images, [kept], images=[gone], state="absent") > 4


@pytest.mark.parametrize("whom", ["module", "skopeo", "both"])
def test_in_the_middle_of_a_download(hostile: Hostile, images: Images, whom: str) -> None:
    image = image_of("1" * 5000)
    reference = hostile.serve(image, "kill/middle")
    first, second = (part["digest"] for part in json.loads(image.blobs[image.digest])["layers"])
    gate = hostile.gate(second, 5)
    arguments = {**images.options, "images": [reference], "_ansible_remote_tmp": "/tmp"}
    process = subprocess.Popen(
        [sys.executable, "-m", "ansible_collections.lxcri.proxmox.plugins.modules.oci_image"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin
        process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}))
        process.stdin.close()
        assert gate.reached.wait(60)
        while not (images.path / ".lxcri/staging" / image.digest[7:] / "blobs/sha256" / first[7:]).exists():
            assert process.poll() is None
            time.sleep(0.01)
        [skopeo] = skopeos_now(str(images.path))
        if whom in ("module", "both"):
            process.kill()
        if whom in ("skopeo", "both"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(skopeo, signal.SIGKILL)
        assert process.stdout
        told = process.stdout.read()
    assert ('"failed": true' in told) is (whom == "skopeo")
    assert skopeos_of(str(images.path)) == []
    gate.opened.set()
    assert images.run(images=[reference])["changed"] is True
    if whom != "skopeo":
        # It was complete already. When skopeo fails in a way that nobody knows, all begins anew.
        assert hostile.downloads(first) == 1
    assert images.leftovers() == []


def test_an_orphan_holds_the_lock(hostile: Hostile, images: Images, tmp_path: Path) -> None:
    """Where setpriv is missing, skopeo outlives a killed run. The next one waits for it then."""
    image = image_of("1" * 5000)
    reference = hostile.serve(image, "kill/orphan")
    gate = hostile.gate(json.loads(image.blobs[image.digest])["layers"][1]["digest"], 5)
    code = (
        "import json, os, sys\n"
        "from ansible_collections.lxcri.proxmox.plugins.module_utils.oci import skopeo\n"
        "from ansible_collections.lxcri.proxmox.plugins.modules import oci_image\n"
        "skopeo._dying_with_parent = lambda: []\n"
        "oci_image.main()\n"
    )
    arguments = {**images.options, "images": [reference], "_ansible_remote_tmp": "/tmp"}
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, text=True)
    assert process.stdin
    process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}))
    process.stdin.close()
    assert gate.reached.wait(60)
    process.kill()
    process.wait()
    assert len(skopeos_now(str(images.path))) == 1
    failed = images.run(images=[reference], timeout=1)
    assert failed["failure"]["code"] == "store_locked"
    gate.opened.set()
    assert images.run(images=[reference])["changed"] is True
    assert images.leftovers() == []
    shutil.rmtree(tmp_path / "start")
