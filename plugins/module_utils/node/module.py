# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ends a module that runs on a node: with its result, or with a structured failure."""

from __future__ import annotations

import typing as t

from ..api.errors import Failure, as_failure

if t.TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def run_module(module: AnsibleModule, work: t.Callable[[], dict[str, t.Any]]) -> None:
    """Do the work of a module and end it. Its warnings, and notes on containers, are shown as warnings."""
    try:
        result = work()
    except (Failure, OSError) as error:
        failure = as_failure(error)
        module.fail_json(msg=failure.sentence, failure=failure.as_dict())
    for warning in result.pop("warnings", []):
        module.warn(warning)
    for entry in result.get("containers", []):
        for note in entry.get("notes", []):
            module.warn(f"{entry['container']}: {note}")
    if result.get("failure"):
        module.fail_json(msg=result.pop("msg"), **result)
    module.exit_json(**result)
