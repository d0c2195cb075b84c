# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the machine, in layers that are kept: a change costs only what depends on it.

base        Debian with ZFS compiled for its kernel: minutes, keyed on nothing but its own script
container   the tree of a container with systemd
machine     both, with the files of the lab, booted and set up once, and saved while it runs

They lie under ${XDG_CACHE_HOME:-~/.cache}/lxcri-proxmox/lab, each in a directory with its key in the name.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import typing as t
from pathlib import Path

from ansible_collections.lxcri.proxmox.tests.lab import qemu

LAB = Path(__file__).resolve().parent
IMAGE = LAB / "image"
# Command: package.
NEEDED = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "mkfs.ext4": "e2fsprogs",
    "zstd": "zstd",
    "ssh-keygen": "openssh-client",
    "newuidmap": "uidmap",
    "setpriv": "util-linux",
}
# Scripts that run in the machine when it has booted for the first time.
IN_THE_MACHINE = ("setup", "settle")
# The agent may answer before systemd does, which listens here, also where there is no D-Bus.
BOOTED = """
until test -S /run/systemd/private; do sleep 0.5; done
systemctl is-system-running --wait || systemctl --failed >&2
"""
KEPT = 2


def say(text: str) -> None:
    """Tell what takes time."""
    print(f"lab: {text}", file=sys.stderr, flush=True)


def cache() -> Path:
    """Where the layers are."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lxcri-proxmox" / "lab"


def decode(text: str) -> str:
    """What the guest agent returns of an output."""
    return base64.b64decode(text).decode(errors="replace")


# ------------------------------------------------------------------------------------------------------------- keys


def digest(*parts: str | bytes) -> str:
    """A key of all of them."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(b"%d:" % len(data) + data)
    return total.hexdigest()[:12]


def base_directory() -> Path:
    """The layer that takes long."""
    return cache() / f"base-{digest((IMAGE / 'base').read_bytes())}"


def container_directory() -> Path:
    """The tree of the container with systemd."""
    return cache() / f"container-{digest((IMAGE / 'container').read_bytes())}"


def accelerator() -> str:
    """kvm when it is known to work, else tcg."""
    marker = base_directory() / f"kvm-{digest(platform.release(), platform.version())}"
    if not marker.exists():
        with tempfile.TemporaryDirectory(dir=cache()) as work:
            works = qemu.kvm_works(Path(work), base_directory())
        marker.write_text("kvm" if works else "tcg", encoding="utf-8")
    return marker.read_text(encoding="utf-8")


@functools.cache
def machine_directory() -> Path:
    """The machine that runs: of all that it depends on, once the base is there."""
    parts: list[str | bytes] = [base_directory().name, container_directory().name, accelerator(), qemu.version()]
    if accelerator() == "kvm":
        # The saved state is that of this processor.
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        parts += sorted({line for line in lines if line.startswith(("model name", "flags"))})
    # The saved state fits no other machine than this.
    parts += [*qemu.command(Path("layer"), accelerator(), None), str(qemu.DISKS)]
    parts += [(IMAGE / name).read_bytes() for name in ("tree", *IN_THE_MACHINE)]
    for path in sorted((IMAGE / "root").rglob("*")):
        if path.is_file():
            parts += [str(path.relative_to(IMAGE)), str(path.stat().st_mode & 0o111), path.read_bytes()]
    return cache() / f"machine-{digest(*parts)}"


# --------------------------------------------------------------------------------------------------------- building


def machine() -> Path:
    """The layer with the machine, built when it is not there."""
    if complete(base_directory()) and complete(machine_directory()):
        return machine_directory()
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        install_packages()
        clean_up()
        for name, directory in (("base", base_directory()), ("container", container_directory())):
            if not complete(directory):
                say(f"building {name}" + (" (about five minutes)" if name == "base" else ""))
                with building(directory) as work:
                    script(name, work)
        if not complete(machine_directory()):
            say("building and booting the machine (about three minutes)")
            with building(machine_directory()) as work:
                build_machine(work)
        remove_superseded()
    return machine_directory()


def complete(directory: Path) -> bool:
    """Whether a layer is there; what is built is renamed only then."""
    return directory.is_dir()


@contextlib.contextmanager
def building(directory: Path) -> t.Iterator[Path]:
    """A new directory, which becomes the layer when nothing fails."""
    start = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="new-", dir=cache()))
    # For the namespace in which those who are not root build.
    work.chmod(0o755)
    try:
        yield work
        work.rename(directory)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    say(f"built {directory.name} in {time.monotonic() - start:.0f} s")


def clean_up() -> None:
    """Remove what a build has left that was killed."""
    for path in cache().glob("new-*"):
        shutil.rmtree(path, ignore_errors=True)


def remove_superseded() -> None:
    """Keep the newest layers of each kind. Machines that run from others have their files open."""
    for kind in ("base", "container", "machine"):
        found = sorted(cache().glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in found[KEPT:]:
            shutil.rmtree(path, ignore_errors=True)


def install_packages() -> None:
    """Install what building and running needs, when it is missing and this is root.

    Raises:
        LabError: it is missing.
    """
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    os.environ["PATH"] = path
    missing = sorted({package for command, package in NEEDED.items() if not shutil.which(command)})
    if not Path("/usr/share/keyrings/debian-archive-keyring.gpg").exists():
        missing.append("debian-archive-keyring")
    if not missing:
        return
    if os.getuid() != 0 or not shutil.which("apt-get"):
        raise qemu.LabError(f"to be installed first: {' '.join(missing)}")
    say(f"installing {' '.join(missing)}")
    install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *missing]
    if logged("packages", install, check=False):
        logged("packages", ["apt-get", "update", "-qq"])
        logged("packages", install)


def logged(name: str, words: list[str], check: bool = True, env: dict[str, str] | None = None) -> int:
    """Run a command with its output in a log; returns its exit code.

    Raises:
        LabError: it has failed, and ``check`` is set.
    """
    log = cache() / f"{name}.log"
    with log.open("wb") as output:
        code = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", **(env or {})},
            check=False,
        ).returncode
    if check and code:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:])
        raise qemu.LabError(f"{words[0]} has failed, see {log}:\n{tail}")
    return code


def script(name: str, *arguments: Path) -> None:
    """Run one of the scripts that make an image."""
    words = [str(IMAGE / name), *map(str, arguments)]
    if name == "tree" and os.getuid() != 0:
        words = ["unshare", "--map-auto", "--map-root-user", *words]
    logged(name, words, env={"DEBIAN_MIRROR": mirror()})


def mirror() -> str:
    """From where this host has its Debian; empty when it has none, for the default."""
    words = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Label: Debian"]
    try:
        found = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found[0] if found else ""


def build_machine(work: Path) -> None:
    """Make the disks, boot, set up, save."""
    for name in ("vmlinuz", "initrd.img"):
        shutil.copy(base_directory() / name, work)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(work / "id_ed25519")], check=True
    )
    script("tree", base_directory(), container_directory(), work / "id_ed25519.pub", work / "root.img")
    qemu.disks(work, work)
    emulator = qemu.Emulator(work)
    try:
        emulator.start(work, accelerator(), None)
        agent = qemu.GuestAgent(work)
        wait_for_boot(agent, work)
        for name in IN_THE_MACHINE:
            run(agent, (IMAGE / name).read_text(encoding="utf-8"))
        emulator.monitor.snapshot("savevm", "ready")
    except BaseException:
        shutil.copy(work / "console.log", cache() / "console.log")
        raise
    finally:
        emulator.stop()
    for name in ("qmp", "agent", "modules", "pid", "emulator.log"):
        (work / name).unlink(missing_ok=True)


def wait_for_boot(agent: qemu.GuestAgent, work: Path) -> None:
    """Until the agent answers and systemd is done.

    Raises:
        LabError: it does not boot.
    """
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            agent.sync(5)
            run(agent, BOOTED)
            return
    tail = (work / "console.log").read_text(encoding="utf-8", errors="replace")[-2000:]
    raise qemu.LabError(f"the machine does not boot: {tail}")


def run(agent: qemu.GuestAgent, text: str) -> None:
    """Run a script in the machine that is being built."""
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
    status = agent.wait(agent.start(["/bin/sh", "-s"], text.encode(), env), 600)
    said = "" if status is None else decode(status.get("out-data", "")) + decode(status.get("err-data", ""))
    (cache() / "setup.log").write_text(said, encoding="utf-8")
    if status is None or status.get("exitcode"):
        raise qemu.LabError(f"setting the machine up has failed: {said[-4000:]}")


if __name__ == "__main__":
    try:
        print(machine())
    except qemu.LabError as error:
        sys.exit(f"lab: {error}")
