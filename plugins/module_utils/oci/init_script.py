# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ``/sbin/init`` of a template, which runs the command of an image.

LXC starts ``/sbin/init`` where it is told of no other command, and before 9.1 Proxmox has no option to tell it.
"""

from __future__ import annotations

import posixpath
import shlex
import typing as t

from ..api.errors import Failure
from .layout import Json
from .mapped import section, strings, text
from .rootfs import Rootfs
from .runtime_spec import is_variable

INIT = "/sbin/init"
_SHELL = "/bin/sh"
_ENV = ("/usr/bin/env", "/bin/env")


class Command(t.NamedTuple):
    """What is run, with which variables, and where."""

    args: list[str]
    env: list[str]
    cwd: str


def command_of(spec: Json) -> Command:
    """The command of a runtime specification.

    Raises:
        Failure: ``invalid_spec``.
    """
    process = section(spec.get("process"), "process")
    return Command(
        strings(process.get("args"), "process.args"),
        [entry for entry in strings(process.get("env"), "process.env") if is_variable(entry)],
        text(process.get("cwd") or "/", "process.cwd"),
    )


def init_script(env: str, command: Command) -> str:
    """The text of the script.

    ``env`` sets the variables, not the shell: not every name is one to a shell, and some it does not let change. Every
    step is an ``exec``, so that the command itself is the first process and gets the signals.

    env: where that program is.
    """
    words = command.args
    if "=" in words[0]:
        # To env it would be a variable.
        words = [_SHELL, "-c", 'exec "$0" "$@"', *words]
    line = shlex.join([env, "--", *command.env, *words])
    return f"#!{_SHELL}\ncd {shlex.quote(command.cwd)} && exec {line}\n"


def put_init(rootfs: Rootfs, command: Command, required: bool) -> None:
    """Have ``/sbin/init`` run a command, unless it is that command.

    required: whether there is no other way to run it.

    Raises:
        Failure: ``no_command``, when it is that command and not there; ``shell_missing``, when it is required and there
            is nothing to run it with; ``not_a_directory``, ``not_a_file``.
    """
    program = next(filter(rootfs.is_executable, _files_of(command)), None)
    if program and rootfs.leads_to(program, INIT):
        return
    if posixpath.normpath(command.args[0]) == INIT:
        raise Failure("no_command", f"The image has no command, and no {INIT} that runs.", "Give process.args.")
    env = next(filter(rootfs.is_executable, _ENV), None)
    if env and rootfs.is_executable(_SHELL):
        rootfs.replace(INIT, init_script(env, command).encode("utf-8", "surrogateescape"), 0o755)
    elif required:
        raise Failure(
            "shell_missing",
            "The image has no /bin/sh and env, with which its command could be started before Proxmox VE 9.1.",
            "Use an image with a shell, or Proxmox VE 9.1 or newer.",
            command=command.args,
        )


def _files_of(command: Command) -> t.Iterator[str]:
    """Where the program may be."""
    word = command.args[0]
    path = next((entry[5:] for entry in command.env if entry.startswith("PATH=")), "")
    for directory in [""] if "/" in word else path.split(":"):
        yield posixpath.join(command.cwd, directory, word)
