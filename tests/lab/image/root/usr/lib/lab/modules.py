# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs modules for the tests: each in a process of its own, forked from one that has imported what they import.

Starting Python and importing Ansible's code takes seconds in an emulated machine. Requests and answers are lines of
JSON over a serial port of the machine:

    {"id": 1, "op": "run", "module": "...", "arguments": {...}, "environment": {...}}
        answers {"id": 1, "pid": 7} at once, and at its end {"id": 1, "status": 0, "stdout": "...", "stderr": "..."}
    {"id": 2, "op": "kill", "pid": -7, "signal": 9}
        answers {"id": 2}, whether the process or group is there or not
    {"id": 3, "op": "preload", "modules": ["..."]}   imports; answers {"id": 3, "failed": {"module": "why"}}
    {"id": 4, "op": "clock", "time": 1.5}            sets the clock; answers {"id": 4}
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import select
import sys
import time
import traceback
import typing as t

PORT = "/dev/virtio-ports/lab.modules"
sys.path.insert(0, "/usr/lib/lab/packages")


class Server:
    """Answers one line after the other, and tells when a module has ended."""

    def __init__(self) -> None:
        self.port = os.open(PORT, os.O_RDWR)
        self.running: dict[int, tuple[int, int, int, int]] = {}

    def answer(self, **fields: t.Any) -> None:
        """Send one line."""
        # The line's end comes first as well: the other side may have got half a line before the machine was reset.
        line = b"\n" + json.dumps(fields).encode() + b"\n"
        while line:
            line = line[os.write(self.port, line) :]

    def serve(self) -> None:
        """Until the machine ends."""
        received = b""
        while True:
            poll = select.poll()
            poll.register(self.port, select.POLLIN)
            for pidfd in self.running:
                poll.register(pidfd, select.POLLIN)
            ready = dict(poll.poll())
            for pidfd in list(self.running):
                if pidfd in ready:
                    self.ended(pidfd)
            if self.port not in ready:
                continue
            data = os.read(self.port, 65536)
            if not data:  # nobody is connected
                time.sleep(0.05)
                continue
            *lines, received = (received + data).split(b"\n")
            for line in filter(None, lines):
                self.handle(line)

    def handle(self, line: bytes) -> None:
        """Carry out one request."""
        try:
            request = json.loads(line)
        except ValueError:  # the rest of a line that was on its way when the machine was saved
            return
        if request["op"] == "run":
            self.run(request)
        elif request["op"] == "kill":
            with contextlib.suppress(ProcessLookupError):
                os.kill(request["pid"], request["signal"])
            self.answer(id=request["id"])
        elif request["op"] == "preload":
            self.answer(id=request["id"], failed=preload(request["modules"]))
        elif request["op"] == "clock":
            time.clock_settime(time.CLOCK_REALTIME, request["time"])
            self.answer(id=request["id"])

    def run(self, request: dict[str, t.Any]) -> None:
        """Start a module."""
        output, errors = os.memfd_create("output"), os.memfd_create("errors")
        pid = os.fork()
        if pid == 0:
            run_module(request, output, errors)
        # Here as well, so that it is a group before anybody is told of it.
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        self.running[os.pidfd_open(pid)] = (request["id"], pid, output, errors)
        self.answer(id=request["id"], pid=pid)

    def ended(self, pidfd: int) -> None:
        """Tell what a module has printed."""
        identity, pid, output, errors = self.running.pop(pidfd)
        os.close(pidfd)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        texts = []
        for descriptor in (output, errors):
            with os.fdopen(descriptor, "rb") as file:
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
        self.answer(id=identity, status=status, stdout=texts[0], stderr=texts[1])


def preload(modules: list[str]) -> dict[str, str]:
    """Import modules; returns those that cannot be imported, and why."""
    failed = {}
    importlib.invalidate_caches()
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - whatever a module does
            failed[module] = repr(error)
    return failed


def run_module(request: dict[str, t.Any], output: int, errors: int) -> t.NoReturn:
    """What the new process does."""
    status = 1
    try:
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (output, 1), (errors, 2)):
            os.dup2(source, target)
        os.closerange(3, 1024)
        os.chdir("/root")
        os.environ.update(request["environment"])
        basic = importlib.import_module("ansible.module_utils.basic")
        basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": request["arguments"]}).encode()
        basic._ANSIBLE_PROFILE = "legacy"
        sys.argv = [request["module"]]
        # As a program: a module that was imported for its imports alone is run anew.
        sys.modules.pop(request["module"], None)
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - nothing may go on as the server
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    Server().serve()
