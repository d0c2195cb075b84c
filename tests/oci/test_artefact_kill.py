# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""oci_bundle, killed: before each thing that it does, while it unpacks, converts, packs and uploads."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.tests.oci.images import build, busybox_layer, entry, layer
from ansible_collections.lxcri.proxmox.tests.oci.module import run_module
from ansible_collections.lxcri.proxmox.tests.simulator.plugin import certificates, cluster
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator

__all__ = ["certificates", "cluster"]

DOCKER = {
    "layer_type": "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "manifest": {"mediaType": "application/vnd.docker.distribution.manifest.v2+json"},
}


def kill_everywhere(tmp_path: Path, **run: t.Any) -> int:
    """How often it was killed."""
    (tmp_path / "place/temporary").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-m", "ansible_collections.lxcri.proxmox.tests.oci.kill_artefacts"],
        input=json.dumps({"run": {"store": str(tmp_path / "store"), **run}, "place": str(tmp_path / "place")}),
        env={**os.environ, "TMPDIR": str(tmp_path / "place/temporary")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return int(json.loads(done.stdout)["killed"])


@pytest.mark.parametrize("form", ["bundle", "lxc_template", "oci_archive"])
@pytest.mark.parametrize("of_docker", [False, True], ids=["oci", "docker"])
def test_at_every_step(tmp_path: Path, form: str, of_docker: bool) -> None:
    """Nothing that is half done is seen, the next run gets there, and nothing of the killed one is left."""
    parts = layer(entry("app", "x", mode=0o755), entry("etc/passwd", "app:x:5:5::/:/app\n"))
    image = build(parts, config={"Cmd": ["/app"], "User": "app"}, **t.cast("t.Any", DOCKER if of_docker else {}))
    assert kill_everywhere(tmp_path, layout=str(image.write(tmp_path / "layout")), format=form) > 6


def target(cluster: Simulator) -> dict[str, t.Any]:
    """A storage."""
    return {**cluster.options, "node": "pve1", "storage": "local"}


@pytest.mark.parametrize("form", ["lxc_template", "oci_archive"])
def test_at_every_step_of_an_upload(cluster: Simulator, tmp_path: Path, form: str) -> None:
    image = build(layer(entry("app", "x", mode=0o755)), config={"Cmd": ["/app"]})
    layout = str(image.write(tmp_path / "layout"))
    assert kill_everywhere(tmp_path, layout=layout, format=form, upload=target(cluster)) > 6


@contextlib.contextmanager
def locked(path: Path) -> t.Iterator[None]:
    """As a run, or a command of it, has it."""
    handle = os.open(path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    yield
    os.close(handle)


def begun(parent: Path, name: str, owner: int = 0) -> Path:
    """What a run has left of something unfinished."""
    path = parent / f".{name}.lxcri-new"
    (path / "work").mkdir(parents=True)
    (path / "work/lock").touch()
    (path / "work/large").write_bytes(b"x" * 5000)
    os.chown(path, owner, owner)
    return path


@pytest.mark.parametrize("keep", [False, True], ids=["temporary", "kept"])
def test_what_others_work_on_stays(cluster: Simulator, tmp_path: Path, scratch: Path, keep: bool) -> None:
    """What a killed run has left goes, also of another image; what somebody has locked does not."""
    parent = tmp_path / "made" if keep else scratch
    parent.mkdir(exist_ok=True)
    gone, of_a_run, of_a_command = (begun(parent, name) for name in ("gone.tar", "run.tar", "command.tar"))
    of_somebody = begun(parent, "somebody.tar", owner=1000)
    (parent / ".mine").mkdir()
    layout = build(busybox_layer(), config={"Cmd": ["sh"]}).write(tmp_path / "layout")
    params = {"layout": str(layout), "format": "oci_archive", "upload": target(cluster)}
    params |= {"path": str(parent)} if keep else {}
    with locked(of_a_run), locked(of_a_command / "work/lock"):
        assert run_module("oci_bundle", params, check_mode=True)["changed"] is True
        assert gone.exists()
        result = run_module("oci_bundle", params)
        assert result["changed"] is True, result
    made = {Path(result["path"]).name} if keep else set()
    assert set(os.listdir(parent)) == {of_a_run.name, of_a_command.name, of_somebody.name, ".mine", *made}
    # Those have ended now.
    assert run_module("oci_bundle", params)["changed"] is False
    assert set(os.listdir(parent)) == {of_somebody.name, ".mine", *made}
