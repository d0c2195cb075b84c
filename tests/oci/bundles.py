# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bundles with nothing but busybox, written by hand."""

from __future__ import annotations

import copy
import io
import json
import tarfile
import typing as t
from pathlib import Path

from ansible_collections.lxcri.proxmox.tests.oci.images import busybox_layer

CAPABILITIES = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID"]
CONFIG: dict[str, t.Any] = {
    "ociVersion": "1.0.2",
    "process": {
        "terminal": False,
        "user": {"uid": 0, "gid": 0},
        "args": ["sleep", "1000"],
        "env": ["PATH=/bin", "COLOUR=red"],
        "cwd": "/",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
    },
    "root": {"path": "rootfs"},
    "hostname": "box",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
    ],
    "linux": {"namespaces": [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount")]},
}


def make_bundle(path: Path) -> Path:
    """A bundle that sleeps."""
    (path / "rootfs").mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(busybox_layer())) as archive:
        archive.extractall(path / "rootfs", filter="fully_trusted")
    configure(path)
    return path


def configure(path: Path, *args: str, **changes: t.Any) -> None:
    """Write its configuration. args: what it runs. changes: keys of it; ``process`` and ``linux`` are merged."""
    config = copy.deepcopy(CONFIG)
    if args:
        config["process"]["args"] = list(args)
    for key, value in changes.items():
        if key in ("process", "linux"):
            config[key].update(value)
        else:
            config[key] = value
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
