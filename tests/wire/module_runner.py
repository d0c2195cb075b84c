# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a module inside the test's process, as Ansible would in a process of its own."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import typing as t
from unittest import mock

from ansible.module_utils import basic
from ansible.module_utils.common import warnings as module_warnings

try:
    from ansible.module_utils.testing import patch_module_args
except ImportError:  # ansible-core before 2.19

    def patch_module_args(args: dict[str, t.Any] | None = None) -> t.ContextManager[t.Any]:
        return mock.patch.object(basic, "_ANSIBLE_ARGS", json.dumps({"ANSIBLE_MODULE_ARGS": args or {}}).encode())


MODULES = "ansible_collections.lxcri.proxmox.plugins.modules"


def run_module(
    name: str, options: t.Mapping[str, t.Any], check_mode: bool = False, diff: bool = False
) -> dict[str, t.Any]:
    """The result of a module of the collection; ``failed`` is true when it failed.

    Raises:
        AssertionError: it did not end with a result.
    """
    main = importlib.import_module(f"{MODULES}.{name}").main
    printed = io.StringIO()
    args = {**options, "_ansible_check_mode": check_mode, "_ansible_diff": diff, "_ansible_remote_tmp": "/tmp"}
    # A module's process ends with it; here the next module would show its warnings again.
    module_warnings._global_warnings.clear()
    with patch_module_args(args), contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main()
    lines = [line for line in printed.getvalue().splitlines() if line.startswith("{")]
    assert lines, f"{name} printed no result: {printed.getvalue()!r}"
    result: dict[str, t.Any] = json.loads(lines[-1])
    for kind in {"warnings", "deprecations"} & set(result):
        result[kind] = [_text(entry) for entry in result[kind]]
    return result


def _text(entry: t.Any) -> str:
    """The text of a warning, which ansible-core 2.19 and newer print as an object."""
    return str(entry["event"]["msg"] if isinstance(entry, dict) and "event" in entry else entry)
