# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: workload_problems
short_description: Say what is wrong with workloads
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Says why a list of workloads cannot be had, such as two containers with the same hostname or address.
  - Nothing is asked of Proxmox, so that a proposed change of the list can be checked anywhere.
  - The values of the options of containers are left to M(lxcri.proxmox.lxc_fleet).
positional: _input
options:
  _input:
    description: The workloads, see O(lxcri.proxmox.workload_fleet#filter:_input).
    type: list
    elements: dict
    required: true
  defaults:
    description: Options for the containers of all workloads.
    type: dict
    default: {}
  owner:
    description: The tag of all containers of the list.
    type: str
    default: lxcri
  orphans:
    description: What becomes of containers of workloads that are not in the list any more.
    type: str
    choices: [keep, stop, delete]
    default: keep
seealso:
  - plugin: lxcri.proxmox.workload_fleet
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Refuse workloads that cannot be had
  ansible.builtin.assert:
    that: workload_list | lxcri.proxmox.workload_problems == []
    fail_msg: "{{ workload_list | lxcri.proxmox.workload_problems }}"
"""

RETURN = r"""
_value:
  description: One sentence for each problem. Empty when there is none.
  type: list
  elements: str
  sample:
    - "Workload web: replicas: -1 is less than 0."
"""

import typing as t

from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.workload import DEFAULT_OWNER, expand


def workload_problems(
    workloads: t.Any,
    defaults: t.Any = None,
    owner: t.Any = DEFAULT_OWNER,
    orphans: t.Any = "keep",
) -> list[str]:
    """What is wrong with the workloads, in sentences."""
    return expand(workloads, defaults, owner, orphans).problems


class FilterModule:
    """The filter, as Ansible finds it."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Its function by its name."""
        return {"workload_problems": workload_problems}
