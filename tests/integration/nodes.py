# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes on the loopback of this machine: a real sshd each, with stand-ins for the tools of Proxmox, and containers made
of namespaces. What they are held to is said in node/sbin."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import typing as t
from pathlib import Path

STANDINS = Path(__file__).parent / "node"
PATIENCE = 20.0
# What programs of this machine need of /etc in a container that has them.
ETC = ("group", "login.defs", "pam.d", "security", "ld.so.cache", "nsswitch.conf", "alternatives", "localtime")
# A user of the nodes who is not root, and what of /etc says so there.
USER, PASSWORD = "deployer", "correct horse"
DOCUMENT = Path(__file__).resolve().parents[2] / "docs/connection.md"
SHELL_TOOLS = ("sh", "cat", "echo", "rm", "mv", "wc", "su", "mkdir", "sleep", "id", "uname", "env", "sha256sum", "ls")


def install() -> None:
    """Install sshd, sudo and sshpass, where they are missing. Only root can."""
    if all(shutil.which(name, path="/usr/sbin:/usr/bin") for name in ("sshd", "sudo", "sshpass")):
        return
    command = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", "openssh-server", "sudo", "sshpass"]
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


def free_port(addresses: t.Iterable[str]) -> int:
    """A port that nobody listens on at any of the addresses."""
    with contextlib.ExitStack() as stack:
        port = 0
        for address in addresses:
            listener = stack.enter_context(socket.socket())
            listener.bind((address, port))
            port = listener.getsockname()[1]
        return int(port)


class Container:
    """Namespaces with a tree of their own.

    programs: whether it has those of this machine, with Python; otherwise it has nothing but busybox.
    """

    def __init__(self, cluster: Nodes, name: str, hostname: str, programs: bool) -> None:
        self.name, self.hostname = name, hostname
        self.tree = cluster.directory / "trees" / name
        self._cluster, self._programs = cluster, programs
        self._process: subprocess.Popen[bytes] | None = None
        for directory in ("etc", "dev", "proc", "tmp", "root", "home/app", "run", "usr", "var/tmp"):
            (self.tree / directory).mkdir(parents=True)
        users = "root:x:0:0::/root:/bin/sh\napp:x:1500:1500::/home/app:/bin/sh\n"
        (self.tree / "etc/passwd").write_text(users, encoding="utf-8")
        (self.tree / "etc/shadow").write_text("root:*:19000::::::\napp:*:19000::::::\n", encoding="utf-8")
        (self.tree / "etc/group").write_text("root:x:0:\napp:x:1500:\n", encoding="utf-8")
        os.chown(self.tree / "home/app", 1500, 1500)
        (self.tree / "tmp").chmod(0o1777)
        if programs:
            for directory in ("bin", "sbin", "lib", "lib64"):
                (self.tree / directory).symlink_to(f"usr/{directory}")
            subprocess.run(
                ["cp", "-a", *(f"/etc/{name}" for name in ETC if Path("/etc", name).exists()), f"{self.tree}/etc"],
                check=True,
            )
        else:
            (self.tree / "bin").mkdir()
            shutil.copy("/bin/busybox", self.tree / "bin/busybox")
            for tool in SHELL_TOOLS:
                (self.tree / "bin" / tool).symlink_to("busybox")

    def start(self) -> None:
        """Start it."""
        # It must not outlive a run that is killed.
        words = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--uts", "--ipc", "--fork"]
        words += ["--kill-child", str(STANDINS / "init")]
        words += [str(self.tree), self.hostname, "programs" if self._programs else ""]
        self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        deadline = time.monotonic() + PATIENCE
        while True:
            first = children.read_text(encoding="utf-8").split()
            with contextlib.suppress(OSError):
                if first and os.readlink(f"/proc/{first[0]}/root") == str(self.tree):
                    break
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"container {self.name} has not started")
            time.sleep(0.01)
        for node in self._cluster.all:
            if (node.directory / "lxc" / f"{self.name}.conf").exists():
                (node.directory / "lxc" / f"{self.name}.pid").write_text(first[0], encoding="utf-8")

    def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        for node in self._cluster.all:
            (node.directory / "lxc" / f"{self.name}.pid").unlink(missing_ok=True)


class Node:
    """A sshd at an address of its own."""

    def __init__(self, cluster: Nodes, name: str, address: str) -> None:
        self.name, self.address = name, address
        self.directory = cluster.directory / "nodes" / name
        (self.directory / "lxc").mkdir(parents=True)
        self._cluster = cluster
        self._process: subprocess.Popen[bytes] | None = None
        # Added to the environment of its sessions.
        self.environment: dict[str, str] = {}

    @property
    def log(self) -> str:
        """What its sshd has said."""
        return (self.directory / "sshd.log").read_text(encoding="utf-8")

    @property
    def logins(self) -> int:
        """How many connections have been accepted."""
        return self.log.count("Accepted publickey")

    @property
    def calls(self) -> list[str]:
        """What the stand-ins were called for."""
        log = self.directory / "pct.log"
        return log.read_text(encoding="utf-8").splitlines() if log.exists() else []

    def start(self) -> None:
        """Start its sshd, which sees the stand-ins among the programs of this machine, and has an /etc of its own."""
        # A home of its own: what root's shell does on this machine when it starts is no matter of a node.
        own = {"STANDIN_NODE": self.directory, "HOME": self.directory, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        variables = {**own, **self.environment}
        settings = {
            "Port": self._cluster.port,
            "ListenAddress": self.address,
            "HostKey": self._cluster.directory / "host_key",
            "AuthorizedKeysFile": self._cluster.directory / "key.pub",
            "PidFile": "none",
            "UsePAM": "no",
            "StrictModes": "no",
            "PermitRootLogin": "yes",
            "PasswordAuthentication": "yes",
            "MaxStartups": "10:100:10",
            "AcceptEnv": "LANG LC_*",
            "LogLevel": "VERBOSE",
            "SetEnv": " ".join(f"{name}={value}" for name, value in variables.items()),
        }
        configuration = self.directory / "sshd_config"
        configuration.write_text("".join(f"{key} {value}\n" for key, value in settings.items()), encoding="utf-8")
        written = self.directory / "written"
        written.mkdir(exist_ok=True)
        layers = f"lowerdir={self._accounts()}:/etc,upperdir={written}/etc,workdir={written}/work"
        mounts = [
            f"mount -t overlay overlay -o 'lowerdir={STANDINS}/sbin:/usr/sbin' /usr/sbin",
            # What is below this may be an overlay itself, which takes no changes of another one.
            f"mount -t tmpfs tmpfs '{written}'",
            f"mkdir '{written}/etc' '{written}/work'",
            f"mount -t overlay overlay -o '{layers}' /etc",
        ]
        sshd = " && ".join([*mounts, f"exec /usr/sbin/sshd -D -e -f '{configuration}'"])
        with (self.directory / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "/bin/sh", "-c", sshd], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError), socket.create_connection((self.address, self._cluster.port), 1):
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"sshd has not started: {self.log}")
            time.sleep(0.02)

    def _accounts(self) -> Path:
        """A directory with files of /etc, by which a user may do by sudo what the guide says, and no more."""
        hashed = subprocess.run(
            ["openssl", "passwd", "-6", "-stdin"], input=PASSWORD, capture_output=True, text=True, check=True
        )
        lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
        [rule] = [line for line in lines if line.startswith("ansible ALL=(root) NOPASSWD: ")]
        # The stand-in of pvesh is elsewhere.
        rule = rule.replace("ansible", USER).replace("/usr/bin", "/usr/sbin")
        texts = {
            "passwd": f"{Path('/etc/passwd').read_text(encoding='utf-8')}{USER}:x:1700:1700::/:/bin/sh\n",
            "group": f"{Path('/etc/group').read_text(encoding='utf-8')}{USER}:x:1700:\n",
            "shadow": f"{Path('/etc/shadow').read_text(encoding='utf-8')}{USER}:{hashed.stdout.strip()}:19000::::::\n",
            # By this the stand-ins know of which node they are.
            "sudoers": f"Defaults env_keep += STANDIN_NODE\n{rule}\n",
        }
        directory = self.directory / "etc"
        directory.mkdir(exist_ok=True)
        for name, text in texts.items():
            path = directory / name
            path.write_text(text, encoding="utf-8")
            path.chmod({"shadow": 0o600, "sudoers": 0o440}.get(name, 0o644))
        return directory

    def processes(self) -> list[int]:
        """The processes of its connections."""
        if self._process is None:
            return []
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(pid) for pid in children.read_text(encoding="utf-8").split()]

    def cut(self) -> None:
        """Kill its connections as when the cable is pulled."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """Stop its sshd with its connections."""
        if self._process is not None:
            self.cut()
            self._process.terminate()
            self._process.wait()
            self._process = None


class Nodes:
    """Two nodes with containers."""

    def __init__(self, directory: Path) -> None:
        install()
        self.directory = directory
        # sshd wants it, and Debian makes it when the service starts.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        for name in ("key", "host_key"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)]
            subprocess.run(words, stdin=subprocess.DEVNULL, check=True)
        addresses = {"pve1": "127.0.0.1", "pve2": "127.0.0.2"}
        self.port = free_port(addresses.values())
        self.pve1, self.pve2 = (Node(self, name, address) for name, address in addresses.items())
        self.all = (self.pve1, self.pve2)
        self.containers: dict[str, Container] = {}
        self._homes: dict[str, str] = {}
        host_key = (directory / "host_key.pub").read_text(encoding="utf-8")
        known = "".join(f"[{address}]:{self.port} {host_key}" for address in addresses.values())
        (directory / "known_hosts").write_text(known, encoding="utf-8")

    def add(self, name: str, hostname: str, node: Node, programs: bool = False, start: bool = True) -> Container:
        """A container on a node."""
        container = self.containers[name] = Container(self, name, hostname, programs)
        self.move(name, node)
        if start:
            container.start()
        return container

    def move(self, name: str, node: Node) -> None:
        """Put a container on a node, where it goes on running."""
        for other in self.all:
            for suffix in ("conf", "pid"):
                path = other.directory / "lxc" / f"{name}.{suffix}"
                if path.exists() and other is not node:
                    path.rename(node.directory / "lxc" / path.name)
        (node.directory / "lxc" / f"{name}.conf").touch()
        self._homes[name] = node.name
        listing = [
            {"vmid": int(name), "name": self.containers[name].hostname, "node": home, "type": "lxc"}
            for name, home in self._homes.items()
            if name.isdecimal()
        ]
        (self.directory / "nodes/resources.json").write_text(json.dumps(listing), encoding="utf-8")

    @property
    def variables(self) -> dict[str, t.Any]:
        """What a host needs to be reached, besides its container and node."""
        return {
            **self.ssh,
            "ansible_connection": "lxcri.proxmox.pct",
            "ansible_pct_node_hosts": {node.name: node.address for node in self.all},
        }

    @property
    def ssh(self) -> dict[str, t.Any]:
        """What a host that is a node needs to be reached, besides its address."""
        return {
            "ansible_port": self.port,
            "ansible_ssh_private_key_file": str(self.directory / "key"),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={self.directory}/known_hosts",
            "ansible_control_path_dir": str(self.directory / "cp"),
            "ansible_python_interpreter": "/usr/bin/python3",
        }

    def read(self, node: Node, path: str) -> str:
        """A file of a node, as a session sees it."""
        arguments = ["-p", str(self.port), "-i", str(self.directory / "key")]
        arguments += ["-o", f"UserKnownHostsFile={self.directory}/known_hosts", f"root@{node.address}"]
        done = subprocess.run(
            ["ssh", *arguments, f"cat '{path}'"], stdin=subprocess.DEVNULL, capture_output=True, check=True
        )
        return done.stdout.decode()

    def hang_up(self, forget: bool = True) -> None:
        """End the connections that are kept open, and with ``forget`` what was looked up is forgotten."""
        for node in self.all:
            node.cut()
        for path in (self.directory / "cp").glob("*"):
            if forget or not path.name.startswith("pct-"):
                path.unlink(missing_ok=True)

    def stop(self) -> None:
        """End everything."""
        for container in self.containers.values():
            container.stop()
        for node in self.all:
            node.stop()
