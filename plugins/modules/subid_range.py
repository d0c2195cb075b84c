#!/usr/bin/python
# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: subid_range
short_description: Ranges of subordinate user and group ids
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Has ranges in C(/etc/subuid) and C(/etc/subgid). Only what is listed there for root can be mapped by a container.
  - A range that shares ids with another one is refused, whoever owns that, and nothing is written.
  - Other lines stay as they are. The module runs on the node, as root.
seealso:
  - name: The role node
    description: Prepares a node, with this module among others.
    link: https://github.com/lxcri/lxcri.proxmox/tree/main/roles/node
extends_documentation_fragment:
  - lxcri.proxmox.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  ranges:
    description: The ranges. One of the same owner that begins at the same id is made as long as declared.
    type: list
    elements: dict
    required: true
    suboptions:
      owner:
        description: Who may map the ids. For the containers of Proxmox that is root.
        type: str
        default: root
      start:
        description: The first id.
        type: int
        required: true
      count:
        description: How many.
        type: int
        default: 65536
  kinds:
    description: Whether of users, of groups, or both.
    type: list
    elements: str
    choices: [user, group]
    default: [user, group]
"""

EXAMPLES = r"""
- name: What Proxmox maps by default, and a range for one more tenant
  lxcri.proxmox.subid_range:
    ranges:
      - {start: 100000}
      - {start: 1000000, count: 131072}

- name: One user of the node inside containers too
  lxcri.proxmox.subid_range:
    kinds: [user]
    ranges:
      - {owner: root, start: 1005, count: 1}
"""

RETURN = r"""
plan:
  description: What was done, or would be in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    key:
      description: What differs, a file.
      type: str
    before:
      description: What there was.
      type: raw
    after:
      description: What there is now.
      type: raw
    effect:
      description: When it counts, V(live) or V(restart).
      type: str
    request:
      description: By what it is changed.
      type: str
failure:
  description: What stands against it, see RV(lxcri.proxmox.lxc_container#module:failure).
  returned: on failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.module import run_module
from ansible_collections.lxcri.proxmox.plugins.module_utils.prepare.subids import run_declared, subid_options


def main():
    module = AnsibleModule(argument_spec=subid_options(), supports_check_mode=True)
    run_module(module, lambda: run_declared(module.params, module.check_mode))


if __name__ == "__main__":
    main()
