#!/usr/bin/python
# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lxc_raw_config
short_description: Manage the raw LXC lines of a container of Proxmox VE
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Some of what LXC can do, the API of Proxmox does not take. Proxmox admits it as lines C(lxc.…) in the container's
    file in C(/etc/pve/lxc), which only root can write on the node. This module writes them.
  - All other lines, comments and the snapshots in the file stay as they are. The file is replaced in one step, under
    the lock that Proxmox's own operations take.
  - It runs on the node that has the container, as root, and needs nothing but Python there.
  - A container reads its configuration when it starts. The module restarts none; RV(restart_required) tells when one
    needs it.
seealso:
  - module: lxcri.proxmox.lxc_container
  - module: lxcri.proxmox.oci_bundle
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
  vmid:
    description: The id of the container.
    type: int
    required: true
  raw:
    description:
      - >-
        The lines, in their order. Each is a text such as V(lxc.prlimit.nofile: 1024), or a dictionary of keys and
        values, in which the value may be a list, or a dictionary of C(key) and C(value), as RV(raw) and
        M(lxcri.proxmox.oci_bundle) return it.
      - A key with an option of M(lxcri.proxmox.lxc_container) is refused, as is one that Proxmox does not admit.
      - >-
        An empty value takes back what was set before, also in the files that Proxmox includes, such as
        V(lxc.cap.drop:).
      - With O(state=absent), a key without a value stands for all its lines.
    type: list
    elements: raw
    required: true
  exclusive:
    description:
      - Which other raw lines are removed. V(keys) removes those with a key that O(raw) has, so that the lines of a key
        are whole. V(all) removes every other one, also those that Proxmox has made of an image.
      - V(none) removes no line whose key may be there more than once, such as C(lxc.mount.entry), and appends what is
        missing. Of other keys the last line counts, and is replaced.
    type: str
    choices: [none, keys, all]
    default: keys
  state:
    description:
      - V(present) makes the lines what O(raw) says. V(absent) removes them.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Limits, the directory and the capabilities of the entrypoint
  lxcri.proxmox.lxc_raw_config:
    vmid: 201
    raw:
      - lxc.prlimit.nofile: "1024:65536"
      - lxc.init.cwd: /srv/app
      - "lxc.cap.drop:"
      - lxc.cap.keep: chown net_bind_service setgid setuid
  register: raw

- name: Two mounts more, whatever mounts there are
  lxcri.proxmox.lxc_raw_config:
    vmid: 201
    raw:
      - lxc.mount.entry:
          - /srv/shared srv/shared none bind,ro,create=dir 0 0
          - tmpfs run/app tmpfs size=16m,mode=0750,create=dir 0 0
    exclusive: none

- name: No limits and no mounts
  lxcri.proxmox.lxc_raw_config:
    vmid: 201
    raw: [lxc.prlimit.nofile, lxc.mount.entry]
    state: absent
"""

RETURN = r"""
vmid:
  description: The id of the container.
  returned: always
  type: int
plan:
  description: What was done, or would be in check mode, as V(key) and the values V(before) and V(after). When only the
    order of lines changes, the key is V(raw).
  returned: always
  type: list
  elements: dict
  sample: [{"key": "lxc.prlimit.nofile", "before": [], "after": ["1024:65536"]}]
raw:
  description: The raw lines that are in force, in their order. Variables of the entrypoint are not among them.
  returned: always
  type: list
  elements: dict
  contains:
    key:
      description: The key.
      type: str
    value:
      description: The value.
      type: str
restart_required:
  description: Whether something was changed, or would be, and the container runs.
  returned: always
  type: bool
failure:
  description: What stands against it, see RV(lxcri.proxmox.lxc_container#module:failure).
  returned: on failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.raw_config import raw_options, run_declared
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.module import run_module


def main():
    module = AnsibleModule(argument_spec=raw_options(), supports_check_mode=True)
    run_module(module, lambda: run_declared(module.params, module.check_mode))


if __name__ == "__main__":
    main()
