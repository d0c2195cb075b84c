# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a registry to a process: oci_image, oci_bundle and a runtime, one after the other."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.image import PULL_OPTIONS
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.source import find_source
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.store import Store
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.unpack import Staging
from ansible_collections.lxcri.proxmox.tests.oci.images import build, busybox_layer, directory, index
from ansible_collections.lxcri.proxmox.tests.oci.module import run_module
from ansible_collections.lxcri.proxmox.tests.oci.registry import PASSWORD, USER, Registry
from ansible_collections.lxcri.proxmox.tests.oci.test_bundle_run import RUNTIMES, name, run

__all__ = ["name"]  # A fixture.

CONFIG = {"Entrypoint": ["sh", "-c"], "Cmd": ["id -u; pwd; echo $A; exit 4"], "User": "app", "WorkingDir": "/srv"}


def work(module: str, check_mode: bool = False, **params: t.Any) -> dict[str, t.Any]:
    result = run_module(module, params, check_mode)
    assert not result.get("failed"), result
    return result


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_tag_becomes_a_process(registry: Registry, tmp_path: Path, name: str, runtime: str) -> None:
    """One task is enough; the second run asks the registry for nothing, and a moved tag waits for recreate."""
    config = {**CONFIG, "Env": ["A=from image"]}
    root = busybox_layer(directory("srv", owner=(1000, 1000)))
    first = index(("linux/amd64", build(root, config=config)), ("linux/s390x", build(root, architecture="s390x")))
    repository = f"shop/{runtime}"
    reference = registry.push(first.write(tmp_path / "first"), repository, "1")
    access = {"username": USER, "password": PASSWORD, "ca_path": str(registry.certificate)}
    options = {"image": reference, "path": str(tmp_path / "web"), "store": str(tmp_path / "store"), **access}
    options["platform"] = "linux/amd64"
    assert work("oci_bundle", check_mode=True, **options)["changed"]
    assert not (tmp_path / "web").exists()
    made = work("oci_bundle", **options)
    assert made["changed"]
    done = run(runtime, name, tmp_path / "web")
    assert (done.returncode, done.stdout) == (4, "1000\n/srv\nfrom image\n"), done.stderr
    assert made["lxc"]["api"]["env"]["A"] == "from image"
    assert {"key": "lxc.init.cwd", "value": "/srv"} in made["lxc"]["raw"]

    registry.requests()
    again = work("oci_bundle", **options)
    assert (again["changed"], registry.requests()) == (False, [])

    second = build(root, config={**config, "Env": ["A=newer"]})
    registry.push(second.write(tmp_path / "second"), repository, "1")
    registry.requests()
    kept = work("oci_bundle", **options, pull="newer")
    assert [change["applied"] for change in kept["plan"] if change["key"] == "rootfs"] == [False]
    assert kept["warnings"]
    moved = work("oci_bundle", **options, pull="newer", recreate=True)
    assert moved["changed"]
    assert run(runtime, name, tmp_path / "web").stdout.endswith("newer\n")


def test_nobody_prunes_what_is_being_unpacked(registry: Registry, tmp_path: Path) -> None:
    reference = registry.push(build(busybox_layer()).write(tmp_path / "layout"), "shop/pruned", "1")
    access = {"username": USER, "password": PASSWORD, "ca_path": str(registry.certificate)}
    defaults = {name: option.get("default") for name, option in PULL_OPTIONS.items()}
    params = {**defaults, **access, "store": str(tmp_path / "store"), "platform": "linux/amd64", "image": reference}
    source = find_source({**params, "layout": None, "archive": None, "rootfs": None}, False)
    assert source
    assert source.prepare
    with Staging(str(tmp_path / "bundle")) as staging:
        source.prepare(staging)
        with pytest.raises(Failure) as refused, Store(params["store"], 0.1).alone():
            pass
        assert refused.value.code == "store_locked"
    with Store(params["store"], 0.1).alone():
        pass
