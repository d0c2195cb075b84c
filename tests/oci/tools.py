# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Installs the tools of OCI from Debian's packages."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

# A file by which a package is known to be there, and the package.
PACKAGES = {
    "/usr/bin/skopeo": "skopeo",
    "/usr/bin/umoci": "umoci",
    "/usr/sbin/runc": "runc",
    "/usr/bin/crun": "crun",
    "/usr/bin/docker-registry": "docker-registry",
    "/usr/bin/htpasswd": "apache2-utils",
    "/bin/busybox": "busybox-static",
    "/usr/bin/zstd": "zstd",
    "/usr/bin/openssl": "openssl",
    "/usr/bin/mmdebstrap": "mmdebstrap",
    "/usr/share/gocode/src/github.com/opencontainers/runtime-spec": "golang-github-opencontainers-specs-dev",
    "/usr/share/gocode/src/github.com/opencontainers/image-spec": "golang-github-opencontainers-image-spec-dev",
}
# The JSON schemas of the specifications.
SCHEMAS = Path("/usr/share/gocode/src/github.com/opencontainers")


def install() -> None:
    """Install what is missing. Only root can; the message says what to install otherwise."""
    missing = [package for path, package in PACKAGES.items() if not Path(path).exists()]
    if not missing:
        return
    command = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *missing]
    if os.geteuid() or not shutil.which("apt-get"):
        raise RuntimeError(f"these tests need: {' '.join(command)}")
    with open("/var/lock/lxcri-proxmox-apt", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Nothing that is installed here shall run by itself.
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode:
            subprocess.run(["apt-get", "update", "-qq"], stdin=subprocess.DEVNULL, check=True)
            subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=True)
