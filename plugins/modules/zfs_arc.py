#!/usr/bin/python
# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: zfs_arc
short_description: Limit the memory that ZFS takes for its cache
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Sets C(zfs_arc_max) for the next start in a file of C(modprobe), and at once where the module of the kernel is
    loaded. Other options in the file stay.
  - A limit that the kernel would ignore is refused.
  - When the system starts from ZFS, the file has to be brought into the initramfs with C(update-initramfs -u -k all),
    see RV(initramfs).
  - The module runs on the node, as root.
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
  maximum:
    description: The limit, such as V(8G), or a share of the memory such as V(25%), rounded down to multiples of 64 MiB.
    type: str
    required: true
  path:
    description: The file. That of Proxmox's installer by default.
    type: path
    default: /etc/modprobe.d/zfs.conf
"""

EXAMPLES = r"""
- name: At most a quarter of the memory
  lxcri.proxmox.zfs_arc:
    maximum: 25%
  register: arc

- name: Bring it into the initramfs
  ansible.builtin.command: update-initramfs -u -k all
  when: arc.initramfs

- name: Or so many bytes
  lxcri.proxmox.zfs_arc:
    maximum: 384M
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
maximum:
  description: The limit in bytes.
  returned: success
  type: int
initramfs:
  description: Whether the initramfs of a system that starts from ZFS is without the limit, because the file has changed
    now, or would, or has been changed since the initramfs was made.
  returned: success
  type: bool
failure:
  description: What stands against it, see RV(lxcri.proxmox.lxc_container#module:failure).
  returned: on failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.module import run_module
from ansible_collections.lxcri.proxmox.plugins.module_utils.prepare.arc import arc_options, run_declared


def main():
    module = AnsibleModule(argument_spec=arc_options(), supports_check_mode=True)
    run_module(module, lambda: run_declared(module.params, module.check_mode))


if __name__ == "__main__":
    main()
