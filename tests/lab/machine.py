# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine that the tests see: runs commands and modules in it, and brings it back to where it began."""

from __future__ import annotations

import contextlib
import fcntl
import io
import itertools
import json
import os
import shlex
import shutil
import signal
import tarfile
import tempfile
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

import ansible
from ansible_collections.lxcri.proxmox.tests.lab import layers
from ansible_collections.lxcri.proxmox.tests.lab.qemu import (
    PATIENCE,
    Channel,
    Emulator,
    GuestAgent,
    LabError,
    copy_disks,
)

ROOT = Path(__file__).resolve().parents[2]
COLLECTION = "ansible_collections/lxcri/proxmox"
PACKAGES = "/usr/lib/lab/packages"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "USER": "root",
}

# A process that is waited for in vain is seen by where it waits.
STATE = """
ps -e --forest -o pid,stat,etimes,wchan:20,args | grep -v '\\]$'
for task in /proc/[0-9]*; do
    grep -q '^State:.*D (disk' $task/status 2>/dev/null || continue
    echo "$task $(cat $task/comm)" && cat $task/stack
done
dmesg | tail -n 20
"""


class CommandError(AssertionError):
    """A command in the machine has failed."""


@dataclass
class Result:
    """How a command has ended. rc: its exit code, or 128 and the number of the signal that has killed it."""

    rc: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        return self.stdout.splitlines()


class ModuleRun:
    """A module that runs, or has run, in the machine. Its process is the leader of a process group of its own."""

    def __init__(self, machine: Machine, identity: int, pid: int) -> None:
        self.machine = machine
        self.identity = identity
        self.pid = pid

    def kill(self, number: int = signal.SIGKILL, group: bool = True) -> None:
        """Send a signal to it, and with ``group`` to what it has started."""
        self.machine.modules.ask("kill", pid=-self.pid if group else self.pid, signal=int(number))

    def wait(self, timeout: float = 300) -> dict[str, t.Any]:
        """Its result; of a process that was killed {"killed": signal, "stdout": ..., "stderr": ...}."""
        answer = self.machine.modules.await_answer(self.identity, timeout)
        if answer["status"] < 0:
            return {"killed": -answer["status"], "stdout": answer["stdout"], "stderr": answer["stderr"]}
        return parse_result(answer["stdout"], answer["stderr"])


def parse_result(stdout: str, stderr: str) -> dict[str, t.Any]:
    """What a module has printed."""
    for line in reversed(stdout.splitlines()):
        if line.startswith("{"):
            result: dict[str, t.Any] = json.loads(line)
            if stderr:
                result.setdefault("module_stderr", stderr)
            return result
    raise CommandError(f"the module printed no result: {stdout}\n{stderr}")


class ModuleServer:
    """The process in the machine that runs modules, see image/root/usr/lib/lab/modules.py."""

    def __init__(self, directory: Path) -> None:
        self.channel = Channel(directory, "modules")
        self.identities = itertools.count(time.time_ns())
        self.answers: dict[int, dict[str, t.Any]] = {}

    def ask(self, op: str, timeout: float = PATIENCE, **fields: t.Any) -> tuple[int, dict[str, t.Any]]:
        """One request, and the first answer to it."""
        identity = next(self.identities)
        self.channel.send({"id": identity, "op": op, **fields}, before=b"\n")
        return identity, self.await_answer(identity, timeout)

    def await_answer(self, identity: int, timeout: float) -> dict[str, t.Any]:
        """The next answer to a request; others wait for who asks."""
        deadline = time.monotonic() + timeout
        while identity not in self.answers:
            answer = self.channel.receive(max(0.01, deadline - time.monotonic()))
            self.answers[answer.pop("id")] = answer
        return self.answers.pop(identity)

    def reset(self) -> None:
        """Forget the answers of a machine that is no more."""
        self.channel.drain()
        self.answers.clear()


class Machine:
    """A machine that runs, see image/setup for what is in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.emulator = Emulator(directory)
        self.snapshot = "ready"
        self.agent: t.Any = None
        self.modules: t.Any = None

    # ---------------------------------------------------------------------------------------- beginning and end

    @classmethod
    def start(cls, directory: Path | None = None, bound: bool = True) -> Machine:
        """A machine of its own, from the cached one.

        directory: where its files are to be, by default a new directory.
        bound: it ends with this thread.
        """
        layer = layers.machine()
        runs = layers.cache() / "run"
        runs.mkdir(parents=True, exist_ok=True)
        remove_abandoned(runs)
        if directory is None:
            directory = Path(tempfile.mkdtemp(dir=runs))
        lock = os.open(directory / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        machine = cls(directory)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            copy_disks(layer, directory)
            shutil.copy(layer / "id_ed25519", directory)
            machine.emulator.start(layer, layers.accelerator(), "ready", bound, lock)
            machine._connect()
        except BaseException:
            machine.stop()
            raise
        finally:
            os.close(lock)
        return machine

    @classmethod
    def attach(cls, directory: Path) -> Machine:
        """A machine that another process has started."""
        machine = cls(directory)
        machine.emulator.attach()
        machine._connect()
        if "session" in machine.emulator.monitor.human("info snapshots"):
            machine.snapshot = "session"
        return machine

    def _connect(self) -> None:
        self.agent = GuestAgent(self.directory)
        self.modules = ModuleServer(self.directory)
        self.agent.sync(PATIENCE)
        self._set_clock()

    def stop(self) -> None:
        """End it, and leave nothing behind."""
        self.emulator.stop()
        for side in (self.agent, self.modules):
            if side:
                side.channel.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def reset(self) -> None:
        """Back to where it began, with the host's time."""
        self.emulator.monitor.snapshot("loadvm", self.snapshot)
        self.modules.reset()
        self.agent.sync(PATIENCE)
        self._set_clock()

    def save(self) -> None:
        """From now on, this is where it began."""
        self.emulator.monitor.snapshot("savevm", "session")
        self.snapshot = "session"
        self._set_clock()

    def _set_clock(self) -> None:
        self.modules.ask("clock", time=time.time())

    @property
    def ssh(self) -> tuple[str, int, Path]:
        """Host, port and key, for root."""
        return "127.0.0.1", self.emulator.monitor.ssh_port(), self.directory / "id_ed25519"

    # ------------------------------------------------------------------------------------------------- commands

    def run(
        self,
        command: str | list[str],
        *,
        input: bytes | str | None = None,  # noqa: A002 - as subprocess has it
        check: bool = True,
        timeout: float = 120,
        env: dict[str, str] | None = None,
    ) -> Result:
        """Run a command, text by a shell, as root.

        It has ended when nobody has its output open any more: what it leaves in the background must write elsewhere.

        Raises:
            CommandError: it has failed, and ``check`` is set.
            TimeoutError: it has not ended in time; it was killed.
        """
        words = ["/bin/sh", "-c", command] if isinstance(command, str) else ["/usr/bin/env", *command]
        given = input.encode() if isinstance(input, str) else input
        pid = self.agent.start(words, given, {**ENVIRONMENT, **(env or {})})
        status = self.agent.wait(pid, timeout)
        if status is None:
            self.agent.start(["/bin/kill", "-9", str(pid)], None, ENVIRONMENT)
            raise TimeoutError(f"{command} has not ended in {timeout} s")
        texts = [layers.decode(status.get(name, "")) for name in ("out-data", "err-data")]
        result = Result(128 + status["signal"] if "signal" in status else status["exitcode"], texts[0], texts[1])
        if check and result.rc:
            raise CommandError(f"{command} has failed with {result.rc}: {result.stdout}{result.stderr}")
        return result

    def state(self) -> str:
        """What its processes do, and what its kernel has said last: for a test that has failed."""
        try:
            self.agent.sync(10)
            return self.run(STATE, timeout=20).stdout
        except (LabError, OSError, CommandError) as error:
            console = (self.directory / "console.log").read_text(encoding="utf-8", errors="replace")
            return f"cannot be told: {error}\n{console[-4000:]}"

    def read(self, path: str) -> str:
        """A file's content."""
        return self.run(["cat", path]).stdout

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Replace a file's content."""
        quoted = shlex.quote(path)
        self.run(f"cat >{quoted} && chmod {mode:o} {quoted}", input=text)

    # -------------------------------------------------------------------------------------------------- modules

    def push(self) -> dict[str, str]:
        """Bring the collection of the live tree and Ansible's code for modules into the machine.

        Returns the modules that cannot be imported there, and why.
        """
        self.run(f"rm -rf {PACKAGES} && mkdir {PACKAGES} && tar -x -f - -C {PACKAGES}", input=packages())
        self.run("systemctl restart lab-modules")
        prefix = f"{COLLECTION}/plugins/modules".replace("/", ".")
        names = sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py") if path.stem != "__init__")
        wanted = ["ansible.module_utils.basic", *(f"{prefix}.{name}" for name in names)]
        failed: dict[str, str] = self.modules.ask("preload", modules=wanted)[1]["failed"]
        return failed

    def start_module(
        self,
        name: str,
        options: t.Mapping[str, t.Any],
        *,
        check_mode: bool = False,
        diff: bool = False,
        env: dict[str, str] | None = None,
    ) -> ModuleRun:
        """Start a module of the collection, and do not wait for it."""
        identity, answer = self.modules.ask(
            "run",
            module=f"{COLLECTION}/plugins/modules/{name}".replace("/", "."),
            arguments=arguments(name, options, check_mode, diff),
            environment={**ENVIRONMENT, **(env or {})},
        )
        return ModuleRun(self, identity, answer["pid"])

    def module(
        self,
        name: str,
        options: t.Mapping[str, t.Any],
        *,
        check_mode: bool = False,
        diff: bool = False,
        env: dict[str, str] | None = None,
        interpreter: str = "python3",
        timeout: float = 300,
    ) -> dict[str, t.Any]:
        """Run a module of the collection in a process of its own, as Ansible would; returns its result.

        A module that fails has a result too. One that is killed returns {"killed": signal}.

        interpreter: words before the module; with others than python3 it is started from nothing, which is slow.
        """
        if interpreter == "python3":
            return self.start_module(name, options, check_mode=check_mode, diff=diff, env=env).wait(timeout)
        module = f"{COLLECTION}/plugins/modules/{name}".replace("/", ".")
        given = {"ANSIBLE_MODULE_ARGS": arguments(name, options, check_mode, diff)}
        code = (
            "import runpy, sys; from ansible.module_utils import basic;"
            "basic._ANSIBLE_ARGS, basic._ANSIBLE_PROFILE = sys.stdin.buffer.read(), 'legacy';"
            f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
        )
        result = self.run(
            f"exec {interpreter} -c {shlex.quote(code)}",
            input=json.dumps(given),
            env={**(env or {}), "PYTHONPATH": PACKAGES},
            check=False,
            timeout=timeout,
        )
        if result.rc > 128:
            return {"killed": result.rc - 128, "stdout": result.stdout, "stderr": result.stderr}
        return parse_result(result.stdout, result.stderr)


def arguments(name: str, options: t.Mapping[str, t.Any], check_mode: bool, diff: bool) -> dict[str, t.Any]:
    """What Ansible hands to a module."""
    return {
        **options,
        "_ansible_check_mode": check_mode,
        "_ansible_diff": diff,
        "_ansible_remote_tmp": "/tmp",
        "_ansible_module_name": f"lxcri.proxmox.{name}",
    }


# In the machine a module dies of SIGKILL at the step that LAB_KILL_AT names.
KILL = """

import os
import signal

note = reached


def reached(step: str) -> None:
    note(step)
    if os.environ.get("LAB_KILL_AT") == step:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def packages() -> bytes:
    """An archive of what a module imports."""
    buffer = io.BytesIO()
    ansible_root = Path(ansible.__path__[0])
    with tarfile.open(fileobj=buffer, mode="w") as archive:

        def add(source: Path, target: str) -> None:
            for path in sorted(source.rglob("*.py")):
                archive.add(path, f"{target}/{path.relative_to(source)}", recursive=False)

        def empty(target: str) -> None:
            archive.addfile(tarfile.TarInfo(f"{target}/__init__.py"))

        empty("ansible")
        for name in ("_internal", "common", "parsing", "six", "compat", "distro"):
            add(ansible_root / "module_utils" / name, f"ansible/module_utils/{name}")
        for path in sorted((ansible_root / "module_utils").glob("*.py")):
            archive.add(path, f"ansible/module_utils/{path.name}")
        parts = f"{COLLECTION}/plugins".split("/")
        for length in range(1, len(parts) + 1):
            empty("/".join(parts[:length]))
        empty(f"{COLLECTION}/plugins/module_utils")
        empty(f"{COLLECTION}/plugins/modules")
        for kind in ("module_utils", "modules"):
            add(ROOT / "plugins" / kind, f"{COLLECTION}/plugins/{kind}")
        steps = ROOT / "plugins/module_utils/zfs/steps.py"
        deadly = (steps.read_text(encoding="utf-8") + KILL).encode()
        entry = tarfile.TarInfo(f"{COLLECTION}/plugins/module_utils/zfs/steps.py")
        entry.size = len(deadly)
        archive.addfile(entry, io.BytesIO(deadly))
    return buffer.getvalue()


def remove_abandoned(runs: Path) -> None:
    """Remove what machines have left that were killed together with their tests."""
    for directory in runs.iterdir():
        with contextlib.suppress(OSError):
            lock = os.open(directory / "lock", os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(lock)


__all__ = ["CommandError", "LabError", "Machine", "ModuleRun", "Result"]
