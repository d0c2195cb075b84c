# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The emulator: its command line, its monitor, and the two serial ports by which the machine is talked to."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import time
import typing as t
from pathlib import Path

MEMORY = 2048
# Seconds for what takes one on a host that has nothing else to do.
PATIENCE = 240
# name, size; the first one is the root.
DISKS = {"root": "", "rpool": "8G", "tank": "8G", "backup": "8G", "spare": "256M"}
# tsc: it would jump whenever the machine is reset, by all the time since it was saved.
APPEND = "root=/dev/vda rw console=ttyS0 net.ifnames=0 mitigations=off nokaslr tsc=unstable quiet"
ACCELERATORS = {
    # One processor: with two, in version 7.2, Linux hangs or panics ("Oops: int3") when it changes its own code. With
    # la57 each fault costs more; with cx16 (compare and exchange of 16 bytes) flags are lost in some versions.
    "tcg": ["-accel", "tcg,tb-size=1024", "-cpu", "max,la57=off,cx16=off", "-smp", "1"],
    "kvm": ["-accel", "kvm", "-cpu", "host", "-smp", "2"],
}


class LabError(Exception):
    """The machine does not do what it should."""


def command(layer: Path, accelerator: str, snapshot: str | None) -> list[str]:
    """The emulator for the disks in what is to be its working directory.

    layer: where kernel and root image are.
    """
    words = ["qemu-system-x86_64", "-no-user-config", "-nodefaults", "-display", "none", "-M", "q35"]
    words += [*ACCELERATORS[accelerator], "-m", str(MEMORY)]
    words += ["-kernel", str(layer / "vmlinuz"), "-initrd", str(layer / "initrd.img"), "-append", APPEND]
    words += ["-serial", "file:console.log", "-qmp", "unix:qmp,server=on,wait=off", "-device", "virtio-rng-pci"]
    words += ["-netdev", "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:22", "-device", "virtio-net-pci,netdev=net"]
    words += ["-device", "virtio-serial-pci"]
    for port, name in (("agent", "org.qemu.guest_agent.0"), ("modules", "lab.modules")):
        words += ["-chardev", f"socket,id={port},path={port},server=on,wait=off"]
        words += ["-device", f"virtserialport,chardev={port},name={name}"]
    for disk in DISKS:
        drive = f"if=none,id={disk},file={disk}.qcow2,format=qcow2,cache=unsafe,discard=unmap"
        if disk == "root":
            image = str(layer / "root.img").replace(",", ",,")
            drive += f",backing.driver=raw,backing.file.driver=file,backing.file.filename={image}"
        words += ["-drive", drive, "-device", f"virtio-blk-pci,drive={disk},serial={disk}"]
    return words + (["-loadvm", snapshot] if snapshot else [])


class Channel:
    """A Unix socket of the emulator that carries lines of JSON."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.buffer = b""
        self.socket = socket.socket(socket.AF_UNIX)
        # By way of the directory's descriptor: the path of a socket may have no more than 107 bytes.
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            self.socket.connect(f"/proc/self/fd/{descriptor}/{name}")
        except OSError:
            self.socket.close()
            raise
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Close it."""
        self.socket.close()

    def send(self, message: t.Any, before: bytes = b"") -> None:
        """One line."""
        self.socket.settimeout(PATIENCE)
        self.socket.sendall(before + json.dumps(message).encode() + b"\n")

    def receive(self, timeout: float) -> t.Any:
        """The next line that is JSON, whatever else there is.

        Raises:
            TimeoutError: there is none in time.
        """
        deadline = time.monotonic() + timeout
        while True:
            while b"\n" in self.buffer:
                line, self.buffer = self.buffer.split(b"\n", 1)
                with contextlib.suppress(ValueError):
                    return json.loads(line.lstrip(b"\xff"))
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no answer by {self.name}")
            self.socket.settimeout(left)
            try:
                data = self.socket.recv(1 << 16)
            except TimeoutError:
                continue
            if not data:
                raise LabError(f"the emulator has closed {self.name}")
            self.buffer += data

    def drain(self) -> None:
        """Forget what has come."""
        self.buffer = b""
        self.socket.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while self.socket.recv(1 << 16):
                pass


class Monitor:
    """QMP."""

    def __init__(self, directory: Path) -> None:
        self.channel = Channel(directory, "qmp")
        self.channel.receive(PATIENCE)
        self.execute("qmp_capabilities")

    def execute(self, name: str, timeout: float = PATIENCE, **arguments: t.Any) -> t.Any:
        """Carry out one command."""
        self.channel.send({"execute": name, "arguments": arguments})
        while True:
            answer = self.channel.receive(timeout)
            if "error" in answer:
                raise LabError(f"{name}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def human(self, line: str) -> str:
        """A command for people, which are all that there is for snapshots of everything at once."""
        return str(self.execute("human-monitor-command", **{"command-line": line}))

    def snapshot(self, verb: str, name: str) -> None:
        """savevm or loadvm."""
        if said := self.human(f"{verb} {name}").strip():
            raise LabError(f"{verb} {name}: {said}")

    def ssh_port(self) -> int:
        """The port on this host that leads to port 22 of the machine."""
        found = re.search(r"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", self.human("info usernet"))
        if not found:
            raise LabError("the emulator forwards no port")
        return int(found.group(1))


class GuestAgent:
    """qemu-guest-agent: runs commands and needs no handshake for any of them."""

    def __init__(self, directory: Path) -> None:
        self.channel = Channel(directory, "agent")
        self.identities = itertools.count(time.time_ns())

    def sync(self, timeout: float) -> None:
        """Find the beginning of the answers, whatever was on its way.

        Raises:
            TimeoutError: nobody answers in time.
        """
        identity = next(self.identities)
        self.channel.drain()
        self.channel.send({"execute": "guest-sync-delimited", "arguments": {"id": identity}}, before=b"\xff")
        deadline = time.monotonic() + timeout
        while True:
            answer = self.channel.receive(max(0.01, deadline - time.monotonic()))
            if answer.get("return") == identity:
                return

    def execute(self, name: str, timeout: float = PATIENCE, **arguments: t.Any) -> t.Any:
        """Carry out one command."""
        self.channel.send({"execute": name, "arguments": arguments})
        answer = self.channel.receive(timeout)
        if "error" in answer:
            raise LabError(f"{name}: {answer['error']['desc']}")
        return answer["return"]

    def start(self, words: list[str], given: bytes | None, env: dict[str, str]) -> int:
        """Start a process; returns its id."""
        arguments: dict[str, t.Any] = {
            "path": words[0],
            "arg": words[1:],
            "env": [f"{name}={value}" for name, value in env.items()],
            "capture-output": True,
        }
        if given is not None:
            arguments["input-data"] = base64.b64encode(given).decode()
        return int(self.execute("guest-exec", **arguments)["pid"])

    def wait(self, pid: int, timeout: float) -> dict[str, t.Any] | None:
        """How a process has ended; None when it has not in time."""
        deadline, pause = time.monotonic() + timeout, 0.01
        while True:
            status: dict[str, t.Any] = self.execute("guest-exec-status", pid=pid)
            if status["exited"]:
                return status
            if time.monotonic() > deadline:
                return None
            time.sleep(pause)
            pause = min(pause * 1.5, 0.2)


class Emulator:
    """A running machine, without knowledge of what is in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None
        self.monitor: t.Any = None

    def start(self, layer: Path, accelerator: str, snapshot: str | None, bound: bool = True, lock: int = -1) -> None:
        """Start it, and wait until its monitor answers.

        bound: it ends with the thread that has started it.
        lock: a descriptor that it keeps open for as long as it runs.
        """
        words = command(layer, accelerator, snapshot)
        if bound:
            words = ["setpriv", "--pdeathsig", "KILL", *words]
        with (self.directory / "emulator.log").open("wb") as log:
            self.process = subprocess.Popen(
                words,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[lock] if lock >= 0 else [],
            )
        (self.directory / "pid").write_text(f"{self.process.pid}\n", encoding="utf-8")
        deadline = time.monotonic() + PATIENCE
        while True:
            if self.process.poll() is not None:
                said = (self.directory / "emulator.log").read_text(encoding="utf-8", errors="replace")
                raise LabError(f"the emulator has ended: {said}")
            try:
                self.monitor = Monitor(self.directory)
                return
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def attach(self) -> None:
        """Talk to one that another process has started."""
        self.monitor = Monitor(self.directory)

    def stop(self) -> None:
        """End it."""
        if self.process:
            self.process.kill()
            self.process.wait()
        elif self.monitor:
            with contextlib.suppress(LabError, OSError):
                self.monitor.execute("quit")
        if self.monitor:
            self.monitor.channel.close()


def disks(directory: Path, layer: Path) -> None:
    """Make the disks of a machine that has never run."""
    for name, size in DISKS.items():
        words = ["qemu-img", "create", "-q", "-f", "qcow2"]
        if name == "root":
            words += ["-F", "raw", "-b", str(layer / "root.img"), str(directory / "root.qcow2")]
        else:
            words += [str(directory / f"{name}.qcow2"), size]
        subprocess.run(words, check=True)


def copy_disks(source: Path, directory: Path) -> None:
    """Copy the disks of a machine, without their holes."""
    for name in DISKS:
        subprocess.run(
            ["cp", "--sparse=always", "--reflink=auto", str(source / f"{name}.qcow2"), str(directory)], check=True
        )


def kvm_works(directory: Path, layer: Path) -> bool:
    """Whether a stock kernel boots with KVM: some hosts have a /dev/kvm that cannot run one."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    console = directory / "probe.log"
    words = ["qemu-system-x86_64", "-no-user-config", "-nodefaults", "-display", "none", "-M", "q35"]
    words += [*ACCELERATORS["kvm"], "-m", "512", "-no-reboot", "-serial", f"file:{console}"]
    words += ["-kernel", str(layer / "vmlinuz"), "-initrd", str(layer / "initrd.img")]
    words += ["-append", "console=ttyS0 panic=-1"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        try:
            deadline = time.monotonic() + 15
            while time.monotonic() < deadline:
                time.sleep(0.2)
                if console.exists() and b"Run /init as init process" in console.read_bytes():
                    return True
                if run.poll() is not None:
                    return False
            return False
        finally:
            run.kill()


def version() -> str:
    """The emulator's, on which the format of a saved machine depends."""
    if not shutil.which("qemu-system-x86_64"):
        raise LabError("qemu-system-x86_64 is not installed")
    return subprocess.run(["qemu-system-x86_64", "--version"], check=True, capture_output=True, text=True).stdout
