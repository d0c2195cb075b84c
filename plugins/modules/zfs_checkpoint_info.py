#!/usr/bin/python
# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: zfs_checkpoint_info
short_description: Read ZFS checkpoints of containers
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Lists the checkpoints of containers with their volumes and sizes, and never changes anything.
  - However many there are, they are read by one C(zfs list). Only when a checkpoint has a volume that its container has
    no longer, a second one reads that.
  - The module runs on the node that has the containers, as root. It needs Python and the C(zfs) command there, and
    nothing from PyPI.
seealso:
  - module: lxcri.proxmox.zfs_checkpoint
  - module: lxcri.proxmox.zfs_replica
extends_documentation_fragment:
  - lxcri.proxmox.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: N/A
    details: Nothing is changed.
  idempotent:
    support: full
options:
  vmids:
    description:
      - The containers. Their ids on a node of Proxmox, their names on a host with plain LXC. By default all.
      - One that is not there is left out of the result.
    type: list
    elements: str
    default: []
  datasets:
    description:
      - On a host without Proxmox, the datasets of the containers, instead of O(vmids). The last component is the name
        that LXC knows.
    type: list
    elements: str
    default: []
  dataset_pattern:
    description:
      - On a host without Proxmox, where the dataset of a container is. V(<id>) stands for its name.
    type: str
    default: tank/containers/<id>
  name:
    description:
      - Only checkpoints of this name, exactly.
    type: str
"""

EXAMPLES = r"""
- name: All checkpoints of this node
  lxcri.proxmox.zfs_checkpoint_info:
  register: all

- name: Say which of them are incomplete
  ansible.builtin.debug:
    msg: "{{ all.checkpoints | rejectattr('complete') | map(attribute='name') | list }}"

- name: Those of two containers
  lxcri.proxmox.zfs_checkpoint_info:
    vmids: [101, 102]
  register: two

- name: How much space their newest ones hold alone
  ansible.builtin.debug:
    msg: "{{ item[0] }}: {{ (item[1] | last).used }}"
  loop: "{{ two.checkpoints | groupby('container') }}"

- name: One checkpoint on a host with plain LXC
  lxcri.proxmox.zfs_checkpoint_info:
    datasets: [tank/containers/web]
    name: before-upgrade
"""

RETURN = r"""
checkpoints:
  description: The checkpoints, by container and from the oldest to the newest.
  returned: success
  type: list
  elements: dict
  contains:
    container:
      description: The id, or the name on a host without Proxmox.
      type: str
      sample: "101"
    name:
      description: The name.
      type: str
      sample: lxcri-20260131T020000Z
    id:
      description: The run that took it. Containers that were checkpointed together have the same one.
      type: str
    created:
      description: When it was taken, in UTC.
      type: str
      sample: "2026-01-31T02:00:00Z"
    age:
      description: Seconds since then.
      type: int
    complete:
      description: Whether nothing of it is missing. Only then it can be restored.
      type: bool
    safety:
      description: Whether it is the state from before a restore.
      type: bool
    method:
      description: How it was taken, V(zfs), or V(snapshot) or V(vzdump) of Proxmox.
      type: str
    reasons:
      description: Why by this method.
      type: list
      elements: str
    memory:
      description: Whether the memory of the processes was saved with it.
      type: bool
    archive:
      description: The file of the backup, with the method V(vzdump).
      type: str
    holds:
      description: How many holds keep it.
      type: int
    clones:
      description: The datasets that depend on it.
      type: list
      elements: str
    members:
      description: Its snapshots, one of each volume. Empty with other methods than V(zfs).
      type: list
      elements: dict
      contains:
        dataset:
          description: The volume.
          type: str
          sample: rpool/data/subvol-101-disk-0
        snapshot:
          description: The name of the snapshot within the dataset.
          type: str
        guid:
          description: What identifies the snapshot, also on other pools.
          type: str
        used:
          description: Bytes that only this snapshot holds.
          type: int
        written:
          description: Bytes that were written between the snapshot before and this one.
          type: int
        referenced:
          description: Bytes of the volume as it was.
          type: int
    used:
      description: Bytes that are free again when only this checkpoint is removed.
      type: int
    written:
      description: Bytes that were written between the snapshots before and these, of all volumes.
      type: int
    referenced:
      description: Bytes of all volumes as they were.
      type: int
totals:
  description: Numbers of all of them together. Sizes are sums; what several snapshots share is in V(used) of none.
  returned: success
  type: dict
  contains:
    checkpoints:
      description: How many there are.
      type: int
    containers:
      description: Of how many containers.
      type: int
    incomplete:
      description: How many are incomplete.
      type: int
    held:
      description: How many are held.
      type: int
    used:
      description: The sum of RV(checkpoints[].used).
      type: int
    written:
      description: The sum of RV(checkpoints[].written).
      type: int
    referenced:
      description: The sum of RV(checkpoints[].referenced).
      type: int
missing:
  description: The volumes of containers that are not there, such as those on a pool that is not imported. Nothing is
    known of the checkpoints on them, and a warning says so.
  returned: success
  type: list
  elements: dict
  contains:
    container:
      description: The id, or the name on a host without Proxmox.
      type: str
    dataset:
      description: The volume.
      type: str
failure:
  description: What stands against it, see RV(lxcri.proxmox.lxc_container#module:failure).
  returned: on failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.module import run_module
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.declared import container_options
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.info import survey


def main():
    module = AnsibleModule(
        argument_spec={**container_options(), "name": {"type": "str"}},
        supports_check_mode=True,
    )
    run_module(module, lambda: survey(module.params))


if __name__ == "__main__":
    main()
