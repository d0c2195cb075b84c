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
from ansible_collections.lxcri.proxmox.tests.oci.test_container import Box, box, code_of

__all__ = ["box", "name"]  # Fixtures.

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


LIFE = """
trap 'echo "hung up"' HUP; trap 'echo "told to quit"; exit 7' QUIT
echo "$(id -u):$(id -g) $PWD $A"; echo "to stderr" >&2; read line || echo "no input"; touch made && ls -l made
while :; do sleep 0.05; done
"""


def test_the_life_of_a_bundle(registry: Registry, tmp_path: Path, box: Box) -> None:
    """A bundle of an image in a registry, from its making until nothing of it is left, by the modules alone."""
    config = {**CONFIG, "Cmd": [LIFE], "Env": ["PATH=/bin", "A=from image"], "StopSignal": "SIGQUIT"}
    layout = build(busybox_layer(directory("srv", owner=(1000, 1000))), config=config).write(tmp_path / "layout")
    made = work(
        "oci_bundle",
        image=registry.push(layout, f"shop/life-{box.name}"),
        path=str(tmp_path / "web"),
        store=str(tmp_path / "store"),
        resources={"memory": {"limit": "64M"}, "pids": {"limit": 20}},
        username=USER,
        password=PASSWORD,
        ca_path=str(registry.certificate),
    )
    bundle = made["path"]
    assert box.converge(state="created", bundle=bundle)["steps"] == ["create"]
    assert box.log.read_text() == ""
    result = box.converge(state="started", bundle=bundle)
    assert (result["steps"], result["container"]["status"]) == (["start"], "running")
    box.says("made")
    told = box.log.read_text().splitlines()
    assert sorted(told[:2]) == ["1000:1000 /srv from image", "to stderr"]
    assert told[2] == "no input"
    assert (tmp_path / "web/rootfs/srv/made").stat().st_uid == 1000
    # What is at it is what the options said, by the runtime and by the control group.
    limits = box.info()["limits"]
    assert (limits["memory.limit"], limits["pids.limit"]) == (64 << 20, 20)

    # A command in it is whom, where and with what the process is, unless it is told otherwise.
    script = "id -u; pwd; echo $A; cat; echo oops >&2; exit 5"
    failed = box.attempt(exec={"command": ["sh", "-c", script], "stdin": "given\n"})
    assert (code_of(failed), failed["rc"]) == ("command_failed", 5)
    assert (failed["stdout"], failed["stderr"]) == ("1000\n/srv\nfrom image\ngiven\n", "oops\n")
    other = {"command": ["sh", "-c", "id -u; id -g; pwd; echo $A$B"], "user": "0:7", "cwd": "/etc", "env": {"B": "!"}}
    assert box.run(exec=other)["stdout"] == "0\n7\n/etc\nfrom image!\n"

    assert box.run(kill="HUP")["plan"] == [{"key": "kill", "before": None, "after": "SIGHUP"}]
    box.says("hung up")
    # While it runs, its root file system is nobody else's.
    used = run_module("oci_bundle", {"layout": str(other_image(tmp_path)), "path": bundle, "recreate": True})
    assert code_of(used) == "bundle_in_use"
    result = box.converge(state="absent", stop_timeout=60)
    assert result["steps"] == ["stop", "delete"]
    assert box.log.read_text().endswith("told to quit\n")
    assert not (box.root / box.id).exists()

    # Other options make another container of the same root file system; its output and exit code are the result.
    layout_options = {"layout": str(layout), "path": bundle, "process": {"user": "app:0", "args": ["id; exit 3"]}}
    assert work("oci_bundle", **layout_options)["changed"]
    result = box.attempt(state="started", bundle=bundle, wait=True)
    assert (code_of(result), result["rc"], result["stderr"]) == ("command_failed", 3, "")
    assert result["stdout"].startswith("uid=1000(app) gid=0(root)")
    assert box.state()["status"] == "absent"
    assert run_module("oci_bundle", {**layout_options, "recreate": True})["changed"] is False


def other_image(root: Path) -> Path:
    """The layout of another image."""
    return build(busybox_layer(), config={"Cmd": ["id"]}).write(root / "other")


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
