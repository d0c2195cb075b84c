#!/usr/bin/python
# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: zfs_layout
short_description: Pools and datasets of ZFS, with their properties
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Makes pools of empty disks and datasets in them, and keeps their properties as declared. What is not declared stays
    as it is, and nothing is ever destroyed.
  - A pool is made only of devices that are named below C(/dev/disk/by-id) and have nothing on them, neither a partition
    table nor a signature nor a mount. A pool that is there keeps its devices.
  - The module runs on the node, as root. It needs Python and the commands C(zfs), C(zpool), C(lsblk) and C(wipefs)
    there, and nothing from PyPI.
seealso:
  - name: The role node
    description: Prepares a node, with this module among others.
    link: https://github.com/lxcri/lxcri.proxmox/tree/main/roles/node
extends_documentation_fragment:
  - lxcri.proxmox.attributes
attributes:
  check_mode:
    support: full
    details: Where ZFS is not installed yet, check mode takes it that there are no pools.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  pools:
    description: The pools.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The name.
        type: str
        required: true
      vdevs:
        description:
          - The devices of which the pool is made when it is not there. Without any it has to be there.
          - Of a pool that is there, devices that it does not have are named in a warning.
        type: list
        elements: dict
        default: []
        suboptions:
          type:
            description: How the devices stand together. With V(stripe) each of them stands alone.
            type: str
            choices: [stripe, mirror, raidz1, raidz2, raidz3]
            default: stripe
          role:
            description: What they are for.
            type: str
            choices: [data, log, special, dedup, cache, spare]
            default: data
          devices:
            description: Their names below C(/dev/disk/by-id).
            type: list
            elements: path
            required: true
      properties:
        description:
          - Properties of the pool, such as C(ashift), C(autotrim) or C(comment). Booleans are on and off.
          - Those of its first dataset are declared in O(datasets), under the name of the pool.
        type: dict
        default: {}
      scrub:
        description:
          - When all of the pool is read and verified. V(monthly) and V(weekly) enable a timer of the package
            C(zfsutils-linux), V(cron) leaves it to Debian's job, on the second Sunday of each month, and with V(never)
            neither does it.
          - Without this option it stays as it is.
        type: str
        choices: [monthly, weekly, cron, never]
      trim:
        description:
          - The same for telling the disks what is free. Debian's job does it on the first Sunday of each month, and
            only of pools that have no other disks than NVMe.
        type: str
        choices: [monthly, weekly, cron, never]
  datasets:
    description: The datasets. One that lies in another comes after it, however they are listed.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The name, with that of the pool.
        type: str
        required: true
      size:
        description: The size of a volume, such as V(32G). It can grow. Without it, the dataset is a file system.
        type: str
      sparse:
        description: Whether a volume that is made reserves no space.
        type: bool
        default: false
      properties:
        description:
          - Properties, also those of users, which have a colon in their names. Sizes can be given as V(128K) or V(1T).
          - The value V(inherit) takes back one that was set, where the property is inherited.
        type: dict
        default: {}
"""

EXAMPLES = r"""
- name: A pool of an empty disk, and a place for containers
  lxcri.proxmox.zfs_layout:
    pools:
      - name: fast
        vdevs:
          - devices: [/dev/disk/by-id/virtio-spare]
        properties:
          ashift: 12
          autotrim: true
        scrub: monthly
    datasets:
      - name: fast
        properties:
          compression: lz4
          atime: false
      - name: fast/containers
        properties:
          xattr: sa
          acltype: posixacl

- name: More of it, and a limit
  lxcri.proxmox.zfs_layout:
    datasets:
      - name: fast/containers
        properties:
          quota: 100M
          recordsize: 64K
      - name: fast/scratch
        size: 64M
        sparse: true
"""

RETURN = r"""
plan:
  description: What was done, or would be in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    key:
      description: What differs, such as V(fast/containers quota).
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
      description: By what it is changed, such as V(zfs set quota=10G fast/containers).
      type: str
failure:
  description: What stands against it, see RV(lxcri.proxmox.lxc_container#module:failure).
  returned: on failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.module import run_module
from ansible_collections.lxcri.proxmox.plugins.module_utils.prepare.layout import layout_options, run_declared


def main():
    module = AnsibleModule(argument_spec=layout_options(), supports_check_mode=True)
    run_module(module, lambda: run_declared(module.params, module.check_mode))


if __name__ == "__main__":
    main()
