# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the module ``lxc_fleet`` and shows its progress lines while it runs."""

from __future__ import annotations

import os
import tempfile
import threading
import typing as t

from ansible import constants
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

display = Display()

POLL_SECONDS = 0.2


class ActionModule(ActionBase):
    """The module writes into a file of the controller, which a thread here follows.

    That works where the module runs on the controller, which is the usual case. Elsewhere, and for ``async`` tasks,
    the module runs as any other.
    """

    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        here = self._connection.transport == "local" and not self._play_context.become and not self._task.async_val
        if not here or arguments.get("progress_path"):
            result.update(
                self._execute_module(module_args=arguments, task_vars=task_vars, wrap_async=self._task.async_val)
            )
            return result
        handle, path = tempfile.mkstemp(prefix="lxc_fleet-", dir=constants.DEFAULT_LOCAL_TMP)
        os.close(handle)
        ended = threading.Event()
        follower = threading.Thread(target=_follow, args=(path, ended), daemon=True)
        follower.start()
        try:
            arguments["progress_path"] = path
            result.update(self._execute_module(module_args=arguments, task_vars=task_vars))
        finally:
            ended.set()
            follower.join()
            os.unlink(path)
        result.get("invocation", {}).get("module_args", {}).pop("progress_path", None)
        return result


def _follow(path: str, ended: threading.Event) -> None:
    """Show every line that is added to the file, until the end and what came just before it."""
    with open(path, encoding="utf-8") as file:
        rest = ""
        while True:
            last_round = ended.wait(POLL_SECONDS)
            *lines, rest = (rest + file.read()).split("\n")
            for line in lines:
                display.display(line)
            if last_round:
                return
