# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role that keeps images present, by the real ansible-playbook."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import typing as t
from pathlib import Path

import yaml
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.layout import REF_NAME, Layout
from ansible_collections.lxcri.proxmox.tests.oci.images import build, busybox_layer, layer, listing
from ansible_collections.lxcri.proxmox.tests.oci.images import entry as file
from ansible_collections.lxcri.proxmox.tests.oci.registry import PASSWORD, USER, Registry


class Played(t.NamedTuple):
    """How a playbook has ended."""

    changed: int
    failed: int
    output: str


def play(directory: Path, *arguments: str, **variables: t.Any) -> Played:
    """Run the role on this machine."""
    roles = [{"role": "lxcri.proxmox.image_cache", "vars": variables}]
    book = [{"hosts": "localhost", "gather_facts": False, "roles": roles}]
    (directory / "play.yml").write_text(yaml.safe_dump(book), encoding="utf-8")
    python = f"ansible_python_interpreter={sys.executable}"
    done = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", "-c", "local", "-e", python, f"{directory}/play.yml", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "ANSIBLE_HOME": str(directory / "home"), "ANSIBLE_NOCOLOR": "1"},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    recap = re.search(r"changed=(\d+)\s+unreachable=0\s+failed=(\d+)", done.stdout)
    assert recap, done.stdout + done.stderr
    return Played(int(recap.group(1)), int(recap.group(2)), done.stdout + done.stderr)


def names(store: Path) -> list[str]:
    """The images in the store."""
    return sorted(entry["annotations"][REF_NAME] for entry in Layout(str(store)).entries())


def test_images_are_there_and_stay_until_nobody_names_them(registry: Registry, tmp_path: Path) -> None:
    root = busybox_layer()
    web = registry.push(build(root).write(tmp_path / "web"), "cache/web", "1")
    queue = registry.push(build(root, layer(file("queue", "1"))).write(tmp_path / "queue"), "cache/queue", "1")
    access = {"username": USER, "password": PASSWORD, "ca_path": str(registry.certificate), "platform": "linux/amd64"}
    store = tmp_path / "store"
    options = {"image_cache_store": str(store), "image_cache_packages": [], "image_cache_unused_for": "30d"}
    both = [{"images": [web], **access}, {"images": [queue], **access}]
    checked = play(tmp_path, "--check", "--diff", **options, image_cache_groups=both)
    assert (checked.changed, checked.failed, store.exists()) == (1, 0, False), checked.output
    first = play(tmp_path, "--diff", **options, image_cache_groups=both)
    assert (first.changed, first.failed) == (1, 0), first.output
    assert names(store) == sorted([web, queue])
    before = listing(store)
    second = play(tmp_path, "--diff", **options, image_cache_groups=both)
    assert (second.changed, second.failed) == (0, 0), second.output
    assert listing(store) == before
    assert PASSWORD not in checked.output + first.output + second.output

    # Check mode notes no use, and keeps what a group has all the same.
    descriptors = json.loads((store / "index.json").read_text(encoding="utf-8"))
    for descriptor in descriptors["manifests"]:
        descriptor["annotations"]["io.lxcri.used"] = "2020-01-01T00:00:00Z"
    (store / "index.json").write_text(json.dumps(descriptors), encoding="utf-8")
    old = play(tmp_path, "--check", **options, image_cache_groups=both)
    assert (old.changed, old.failed) == (0, 0), old.output
    assert play(tmp_path, **options, image_cache_groups=both).changed == 0

    # What no group has goes when it was not used for long enough.
    kept = play(tmp_path, **options, image_cache_groups=both[:1])
    assert (kept.changed, names(store)) == (0, sorted([web, queue])), kept.output
    missing = {"images": [f"{registry.host}/cache/none:1"], **access}
    wrong = play(tmp_path, **options, image_cache_groups=[missing])
    assert wrong.failed == 1
    assert "image_missing" in wrong.output
    assert PASSWORD not in wrong.output
