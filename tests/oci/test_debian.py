# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An image of a whole Debian, from the registry to processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from ansible_collections.lxcri.proxmox.tests.oci.debian import minbase
from ansible_collections.lxcri.proxmox.tests.oci.images import build, directory, entry, layer, listing
from ansible_collections.lxcri.proxmox.tests.oci.registry import PASSWORD, USER, Registry
from ansible_collections.lxcri.proxmox.tests.oci.test_bundle_run import RUNTIMES, name, run
from ansible_collections.lxcri.proxmox.tests.oci.test_layers import CAPABILITY
from ansible_collections.lxcri.proxmox.tests.oci.test_registry_to_process import work

__all__ = ["name"]  # A fixture.

SCRIPT = "id -un; pwd; dpkg-query -W -f '${Package}\\n' base-files; test -u /usr/bin/su && echo setuid; exit 5"


def test_a_debian(registry: Registry, tmp_path: Path, name: str) -> None:
    """What is unpacked is what tar makes of the tree, with the changes of the second layer; and it runs."""
    change = layer(
        entry("etc/.wh.motd"),
        entry("var/lib/apt/.wh..wh..opq"),
        directory("var/lib/apt"),
        entry("var/lib/apt/new", "x"),
        entry("usr/bin/other", kind=tarfile.LNKTYPE, link="usr/bin/env"),
        entry("usr/bin/ping", "x", mode=0o755, xattrs={"security.capability": CAPABILITY.decode("latin-1")}),
        entry("srv/null", kind=tarfile.CHRTYPE, device=(1, 3)),
    )
    process = {"Cmd": ["sh", "-c", SCRIPT], "User": "games", "WorkingDir": "/usr/games", "Env": ["PATH=/usr/bin:/bin"]}
    image = build(minbase().read_bytes(), change, config=process)
    reference = registry.push(image.write(tmp_path / "layout"), "whole/debian", "1")
    access = {"username": USER, "password": PASSWORD, "ca_path": str(registry.certificate), "platform": "linux/amd64"}
    options = {"image": reference, "path": str(tmp_path / "bundle"), "store": str(tmp_path / "store"), **access}
    assert work("oci_bundle", **options)["changed"]
    rootfs, tree = tmp_path / "bundle/rootfs", tmp_path / "tree"

    tree.mkdir()
    subprocess.run(["tar", "-xpf", str(minbase()), "--numeric-owner", "-C", str(tree)], check=True)
    (tree / "etc/motd").unlink()
    shutil.rmtree(tree / "var/lib/apt")
    expected, found = listing(tree), listing(rootfs)
    added = {"var/lib/apt", "var/lib/apt/new", "usr/bin/other", "usr/bin/ping", "srv/null"}
    assert {path: found.get(path) for path in expected} == expected
    assert set(found) - set(expected) == added
    assert (rootfs / "usr/bin/other").stat().st_ino == (rootfs / "usr/bin/env").stat().st_ino
    assert os.getxattr(rootfs / "usr/bin/ping", "security.capability") == CAPABILITY
    assert (rootfs / "srv/null").is_char_device()

    for runtime in RUNTIMES:
        done = run(runtime, name, tmp_path / "bundle")
        assert (done.returncode, done.stdout.split()) == (5, ["games", "/usr/games", "base-files", "setuid"]), done
    registry.requests()
    assert work("oci_bundle", **options)["changed"] is False
    assert registry.requests() == []
