# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tree of a small Debian, made once and kept outside the repository."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

SUITE = "trixie"
_WORDS = (
    *("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", '--aptopt=Acquire::Retries "3"'),
    *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")),
)


def minbase() -> Path:
    """The tree as a tar file."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lxcri-proxmox"
    path = base / f"minbase-{SUITE}.tar"
    base.mkdir(parents=True, exist_ok=True)
    with (base / "minbase.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            part = path.with_suffix(".part.tar")
            mirror = [os.environ["DEBIAN_MIRROR"]] if "DEBIAN_MIRROR" in os.environ else []
            subprocess.run([*_WORDS, SUITE, str(part), *mirror], stdin=subprocess.DEVNULL, check=True)
            part.rename(path)
    return path
