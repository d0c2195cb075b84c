# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of Proxmox as the node has them, and what a clone's configuration becomes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.files import write_private
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs import clone, host
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.store import Store

CONFIG = """#A description
#mp9: not a key
arch: amd64
hostname: web
mp0: local-zfs:subvol-101-disk-1,mp=/data,backup=1
mp1: /srv/shared,mp=/shared
mp10: ceph:vm-101-disk-2,mp=/ceph,size=1G
net0: name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,ip=198.51.100.7/24,type=veth
rootfs: volume=local-zfs:basevol-100-disk-0/subvol-101-disk-0,size=8G
parent: before

[before]
lock: ignored
mp2: local-zfs:subvol-101-disk-7,mp=/old
"""
STORAGES = """dir: local
\tpath /var/lib/vz
\tcontent iso

zfspool: local-zfs
\tpool rpool/data
\tsparse 1

rbd: ceph
\tpool rbd
"""


def test_volumes() -> None:
    volumes, notes = host.volumes_of(CONFIG, host.section_config(STORAGES))
    assert [(volume.key, volume.dataset) for volume in volumes] == [
        ("rootfs", "rpool/data/subvol-101-disk-0"),
        ("mp0", "rpool/data/subvol-101-disk-1"),
        ("mp10", None),
    ]
    assert "rbd" in volumes[2].reason
    assert len(notes) == 1
    assert "/srv/shared" in notes[0]


def test_sections_and_keys() -> None:
    assert host.sections(CONFIG) == ("before",)
    assert host.values(CONFIG)["hostname"] == "web"
    assert "lock" not in host.values(CONFIG)
    assert "mp9" not in host.values(CONFIG)


def test_locking_a_configuration() -> None:
    locked = host.with_lock(CONFIG, "rollback")
    assert host.values(locked)["lock"] == "rollback"
    assert locked.startswith("#A description\n#mp9: not a key\nlock: rollback\n")
    assert host.with_lock(locked, "create").count("lock: ") == 2
    assert host.with_lock(locked, None) == CONFIG


def test_sections_of_any_kind() -> None:
    """A plug-in may call its kind what it likes."""
    found = host.section_config(STORAGES + "\nmy-nas_2: nas\n\tpool vol1/x\n")
    assert found["nas"] == {"type": "my-nas_2", "pool": "vol1/x"}
    assert found["ceph"] == {"type": "rbd", "pool": "rbd"}


def test_locking_keeps_carriage_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows one in a value that a user of the API chose is no line of its own."""
    monkeypatch.setattr(host, "PVE", str(tmp_path))
    path = tmp_path / "lxc/201.conf"
    path.parent.mkdir()
    before = b"arch: amd64\r\nmp0: local-zfs:a,mp=/a\rlxc.hook.pre-start: /bin/sh -c evil #,size=1G\n"
    path.write_bytes(before)
    proxmox = host.ProxmoxHost(host.Zfs())
    proxmox.mark_locked("201", "snapshot")
    assert path.read_bytes() == b"lock: snapshot\n" + before
    proxmox.mark_locked("201", None)
    assert path.read_bytes() == before


def test_storages() -> None:
    assert host.section_config(STORAGES)["local-zfs"] == {"type": "zfspool", "pool": "rpool/data", "sparse": "1"}


def test_the_configuration_of_a_clone() -> None:
    proxmox = host.ProxmoxHost(host.Zfs())
    volumes = {
        "rpool/data/subvol-101-disk-0": "rpool/data/subvol-201-disk-0",
        "rpool/data/subvol-101-disk-1": "rpool/data/subvol-201-disk-1",
    }
    text, notes = clone._new_config(proxmox, CONFIG, "101", clone.Target("201", "copy"), volumes)
    assert "hostname: copy\n" in text
    assert "mp0: local-zfs:subvol-201-disk-1,mp=/data" in text
    assert "rootfs: volume=local-zfs:subvol-201-disk-0,size=8G" in text
    assert "[before]" not in text
    assert "parent" not in text
    assert "BC:24:11:00:00:01" not in text
    assert "hwaddr=BC:24:11:" in text
    assert len(notes) == 1
    assert "198.51.100.7" in notes[0]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b"])
def test_names_that_are_no_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(Failure):
        Store(str(tmp_path)).directory("101", name)


def test_files_are_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_private(str(path), "secret")
    assert path.read_text(encoding="utf-8") == "secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_lock_that_is_held(tmp_path: Path) -> None:
    class Here(host.LxcHost):
        lock_pattern = str(tmp_path / "{}.lock")

    here = Here(host.Zfs())
    with here.locked(["a", "b"]), pytest.raises(Failure) as caught, here.locked(["b"], timeout=0.2):
        pass
    assert caught.value.code == "lock_timeout"
    with here.locked(["b"]):
        pass


def test_the_code_runs_without_ansible() -> None:
    """A role copies it to nodes that have nothing but Python."""
    package = Path(host.__file__).parents[1]
    code = (
        "import importlib, pkgutil, sys, types\n"
        f"root = types.ModuleType('lxcri'); root.__path__ = [{str(package)!r}]; sys.modules['lxcri'] = root\n"
        "import lxcri.zfs\n"
        "for found in pkgutil.iter_modules(lxcri.zfs.__path__): importlib.import_module('lxcri.zfs.' + found.name)\n"
        "third = [n for n in sys.modules if n.split('.')[0] in ('ansible', 'proxmoxer', 'requests', 'yaml')]\n"
        "sys.exit(str(third) if third else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
