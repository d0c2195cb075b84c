# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a module in a process of its own, as Ansible does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t


def run_module(
    name: str, params: t.Mapping[str, t.Any], check_mode: bool = False, env: t.Mapping[str, str] | None = None
) -> dict[str, t.Any]:
    """The result of a module of the collection; ``failed`` is true when it failed."""
    args = {**params, "_ansible_check_mode": check_mode, "_ansible_diff": True, "_ansible_remote_tmp": "/tmp"}
    done = subprocess.run(
        [sys.executable, "-m", f"ansible_collections.lxcri.proxmox.plugins.modules.{name}"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": args}),
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert lines, f"{name} printed no result: {done.stdout}{done.stderr}"
    result: dict[str, t.Any] = json.loads(lines[-1])
    return result
