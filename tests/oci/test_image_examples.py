# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples of oci_image by the real ansible-playbook, and what the role image_cache removes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.layout import REF_NAME
from ansible_collections.lxcri.proxmox.plugins.modules import oci_image
from ansible_collections.lxcri.proxmox.tests.oci.images import Built, build, entry, layer
from ansible_collections.lxcri.proxmox.tests.oci.registry import PASSWORD, USER, Registry
from ansible_collections.lxcri.proxmox.tests.oci.stores import Images
from ansible_collections.lxcri.proxmox.tests.oci.test_role_image_cache import play

MODULE = "lxcri.proxmox.oci_image"


def image(text: str) -> Built:
    return build(layer(entry("file", text)))


@pytest.fixture
def here(registry: Registry, tmp_path: Path) -> dict[str, str]:
    """What stands for the places that the examples name, with the images that they name."""
    for name, tag in (("library/nginx", "1.29"), ("library/redis", "8"), ("shop/web", "stable")):
        registry.push(image(name).write(tmp_path / name.replace("/", "-")), f"examples/{name}", tag)
    auth = tmp_path / "auth.json"
    login = ["skopeo", "login", "--authfile", str(auth), "--cert-dir", str(registry.certificates())]
    login += ["--username", USER, "--password-stdin", registry.host]
    subprocess.run(login, input=PASSWORD, text=True, capture_output=True, check=True)
    return {
        "docker.io/": f"{registry.host}/examples/",
        "registry.example.org/": f"{registry.host}/examples/",
        "mirror.example.net/": f"{registry.host}/mirror/",
        "/etc/ssl/private-ca.pem": str(registry.certificate),
        "/root/mirror-auth.json": str(auth),
    }


def changed(directory: Path, task: t.Mapping[str, t.Any], defaults: t.Mapping[str, t.Any], *arguments: str) -> int:
    """How many tasks have changed something: this one, or none."""
    book = directory / "example.yml"
    whole = {
        "hosts": "localhost",
        "gather_facts": False,
        "module_defaults": {key: dict(defaults) for key in task if key.startswith("lxcri.")},
        "vars": {"registry_password": PASSWORD, "ansible_python_interpreter": sys.executable},
        "tasks": [task],
    }
    book.write_text(yaml.safe_dump([whole]), encoding="utf-8")
    done = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", "-c", "local", str(book), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "ANSIBLE_HOME": str(directory / "home"), "ANSIBLE_NOCOLOR": "1"},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    recap = re.search(r"changed=(\d+)\s+unreachable=0\s+failed=0", done.stdout)
    assert recap, done.stdout + done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    return int(recap[1])


def test_the_examples(registry: Registry, here: dict[str, str], tmp_path: Path) -> None:
    """Each in check mode, for real, and again."""
    text = oci_image.EXAMPLES
    for name, place in here.items():
        assert name in text
        text = text.replace(name, place)
    store = Images(tmp_path / "store")
    for task in yaml.safe_load(text):
        defaults = {"store": str(store.path), "ca_path": str(registry.certificate), "platform": "linux/amd64"}
        if "username" not in task[MODULE]:
            # Those of Docker Hub need no login there.
            defaults["auth_file"] = here["/root/mirror-auth.json"]
        assert changed(tmp_path, task, defaults, "--check", "--diff") == 1, task["name"]
        assert changed(tmp_path, task, defaults) == 1, task["name"]
        assert changed(tmp_path, task, defaults) == 0, task["name"]
    names = [found["annotations"][REF_NAME].rpartition("/")[2] for found in store.layout.entries()]
    assert names == ["nginx:1.29", "web:stable"]
    store.verify()


def test_the_example_of_the_role(registry: Registry, here: dict[str, str], tmp_path: Path) -> None:
    """As README has it, with the packages."""
    readme = (Path(__file__).parents[2] / "roles/image_cache/README.md").read_text(encoding="utf-8")
    text = readme.partition("```yaml\n")[2].partition("```")[0]
    for name, place in here.items():
        text = text.replace(name, place)
    (shown,) = yaml.safe_load(text)
    variables = shown["roles"][0]["vars"]
    for group in variables["image_cache_groups"]:
        group.setdefault("username", USER)
        group.update(password=PASSWORD, ca_path=str(registry.certificate), platform="linux/amd64")
    variables["image_cache_groups"][1]["username"] = USER
    variables["image_cache_store"] = str(tmp_path / "store")
    first, second = play(tmp_path, **variables), play(tmp_path, **variables)
    assert (first.changed, first.failed) == (1, 0), first.output
    assert (second.changed, second.failed) == (0, 0), second.output
    names = [found["annotations"][REF_NAME].rpartition("/")[2] for found in Images(tmp_path / "store").layout.entries()]
    assert sorted(names) == ["nginx:1.29", "redis:8", "web:stable"]


def test_the_role_removes_what_no_group_has(registry: Registry, tmp_path: Path) -> None:
    store = Images(tmp_path / "store")
    kept = registry.push(image("kept").write(tmp_path / "kept"), "cache/kept", "1")
    old = registry.push(image("old").write(tmp_path / "old"), "cache/old", "1")
    access = {"username": USER, "password": PASSWORD, "ca_path": str(registry.certificate), "platform": "linux/amd64"}
    options: dict[str, t.Any] = {"image_cache_store": str(store.path), "image_cache_packages": []}
    assert play(tmp_path, **options, image_cache_groups=[{"images": [kept, old], **access}]).changed == 1
    store.age(kept, days=31)
    store.age(old, days=31)
    options["image_cache_groups"] = [{"images": [kept], **access}]
    assert play(tmp_path, **options).changed == 0
    gone = play(tmp_path, **options, image_cache_unused_for="30d")
    assert (gone.changed, gone.failed) == (1, 0), gone.output
    assert [found["annotations"][REF_NAME] for found in store.layout.entries()] == [kept]
    assert len(store.blobs()) == 3
    store.verify()
