# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository of packages in the machine, which reaches no other one."""

from __future__ import annotations

import fcntl
import hashlib
import io
import subprocess
import tarfile
import tempfile
import typing as t
from pathlib import Path

from ansible_collections.lxcri.proxmox.tests.lab import layers
from ansible_collections.lxcri.proxmox.tests.lab.machine import Machine

SUITE = "trixie"
PLACE = "/srv/packages"
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


def fetched(*names: str) -> list[Path]:
    """Packages of Debian, as they are in the machine's release, kept for later runs."""
    directory = layers.cache() / "packages"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not all(list(directory.glob(f"{name}_*.deb")) for name in names):
            with tempfile.TemporaryDirectory() as work:
                _fetch(Path(work), directory, names)
    return [next(directory.glob(f"{name}_*.deb")) for name in names]


def _fetch(work: Path, directory: Path, names: t.Sequence[str]) -> None:
    for name in ("etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d", "lists/partial", "archives/partial"):
        (work / name).mkdir(parents=True)
    (work / "status").touch()
    mirror = layers.mirror() or "http://deb.debian.org/debian"
    (work / "etc/sources.list").write_text(f"deb [signed-by={KEYS}] {mirror} {SUITE} main\n", encoding="utf-8")
    options = [f"Dir::Etc={work}/etc", f"Dir::State={work}", f"Dir::State::status={work}/status", f"Dir::Cache={work}"]
    options += ["APT::Architecture=amd64", "APT::Sandbox::User=root"]
    words = ["apt-get", "-qq", *(word for option in options for word in ("-o", option))]
    subprocess.run([*words, "update"], check=True)
    subprocess.run([*words, "download", *names], check=True, cwd=directory)


def made(directory: Path, *names: str) -> list[Path]:
    """Packages with nothing in them."""
    found = []
    for name in names:
        control = directory / name / "DEBIAN/control"
        control.parent.mkdir(parents=True)
        lines = [f"Package: {name}", "Version: 1.0", "Architecture: all", "Maintainer: lab", "Description: empty"]
        control.write_text("\n".join(lines) + "\n", encoding="utf-8")
        archive = directory / f"{name}_1.0_all.deb"
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "--build", control.parent.parent, archive],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        found.append(archive)
    return found


def offer(machine: Machine, packages: t.Sequence[Path]) -> None:
    """Have them as the only repository of the machine."""
    buffer = io.BytesIO()
    index = []
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in packages:
            control = subprocess.run(["dpkg-deb", "-f", path], check=True, capture_output=True, text=True).stdout
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            index.append(f"{control}Filename: ./{path.name}\nSize: {path.stat().st_size}\nSHA256: {digest}\n")
            archive.add(path, path.name)
        text = "\n".join(index).encode()
        entry = tarfile.TarInfo("Packages")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    machine.run(f"mkdir -p {PLACE} && tar -x -f - --no-same-owner -C {PLACE}", input=buffer.getvalue())
    machine.run("rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*")
    machine.write("/etc/apt/sources.list.d/lab.list", f"deb [trusted=yes] file:{PLACE} ./\n")
