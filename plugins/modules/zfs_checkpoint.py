#!/usr/bin/python
# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: zfs_checkpoint
short_description: Take, restore, clone and remove ZFS checkpoints of containers
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - A checkpoint of a container is one ZFS snapshot of each of its volumes, taken while the container stands still, with
    its configuration beside it. Taking it needs a fraction of a second, whatever the size of the volumes.
  - The module runs on the node that has the containers, as root. It needs Python and the commands of ZFS and LXC there,
    and nothing from PyPI.
  - All containers of a task are looked at before the first is touched. When something stands against one of them,
    the task fails and nothing was changed.
  - A run that was interrupted, however it was, is put right by the next one.
seealso:
  - module: lxcri.proxmox.lxc_snapshot
extends_documentation_fragment:
  - lxcri.proxmox.retention
  - lxcri.proxmox.attributes
attributes:
  check_mode:
    support: full
    details: After an interruption it tells only what is undone or finished first; what comes then is read from what
      that leaves.
  diff_mode:
    support: full
  idempotent:
    support: partial
    details: O(state=present) without O(name) takes a checkpoint every time. O(state=restored) does nothing when nothing
      was written since.
options:
  vmids:
    description:
      - The containers. Their ids on a node of Proxmox, their names on a host with plain LXC.
    type: list
    elements: str
    default: []
  datasets:
    description:
      - On a host without Proxmox, the datasets of the containers, instead of O(vmids). The last component is the name
        that LXC knows. What lies below a dataset belongs to the container.
    type: list
    elements: str
    default: []
  dataset_pattern:
    description:
      - On a host without Proxmox, where the dataset of a container of O(vmids) is. V(<id>) stands for its name.
    type: str
    default: tank/containers/<id>
  state:
    description:
      - V(present) takes the checkpoint when there is none of this name. What is not on ZFS is checkpointed by a
        snapshot or a backup of Proxmox; RV(containers[].method) and RV(containers[].reasons) tell.
      - V(restored) brings the volumes back to it. A container that was running is stopped hard for that, and runs again
        afterwards.
      - V(absent) removes it. Without O(name) it only applies O(keep).
    type: str
    choices: [present, restored, absent]
    default: present
  name:
    description:
      - The name of the checkpoint, up to a hundred letters, digits and the characters V(_), V(.), V(:) and V(-).
      - Without it, O(state=present) takes one that is called O(prefix) and the time in UTC, and O(state=restored) and
        O(clone_to) mean the newest complete one.
    type: str
  prefix:
    description:
      - How the names of generated checkpoints begin. O(keep) never touches others.
    type: str
    default: lxcri-
  memory:
    description:
      - Whether the memory of the processes is saved with the checkpoint, or restored with it. Experimental.
      - It is refused before anything is touched for a container that CRIU cannot dump, such as one with systemd.
    type: bool
    default: false
  mode:
    description:
      - How volumes are restored. V(rollback) removes the snapshots that are newer than the checkpoint, and needs
        O(lose) when there are any.
      - V(clone) puts clones of the checkpoint in the place of the volumes, which are set aside with all their
        snapshots. Nothing is lost. It is for volumes on ZFS alone.
      - A checkpoint that Proxmox has taken (V(snapshot) or V(vzdump) as RV(containers[].method)) is restored by
        Proxmox, which keeps nothing of the state from before and puts the configuration back too. So it is restored
        only with O(mode=rollback), O(safety=false) and O(config=restore).
    type: str
    choices: [rollback, clone]
    default: rollback
  safety:
    description:
      - Whether the state from before the restore is kept as a safety checkpoint, to which the container can be
        restored too. It stays until it is removed by its name. Until then its volumes lie beside those of the
        container in C(lxcri-aside), and the checkpoint that was restored cannot be removed.
      - With V(false), O(mode=rollback) is C(zfs rollback) in place, and what was written since is gone.
    type: bool
    default: true
  lose:
    description:
      - The snapshots and bookmarks that O(mode=rollback) may remove, by their full names, and the volumes that a
        restore from V(vzdump) replaces. Without one of them the restore is refused with the code V(would_lose_data),
        and the failure lists them.
    type: list
    elements: str
    default: []
  config:
    description:
      - Whether a restore keeps the container's configuration, or restores that of the checkpoint.
    type: str
    choices: [keep, restore]
    default: keep
  clone_to:
    description:
      - Make a new container of the checkpoint. Its volumes are clones, its configuration is that of the checkpoint with
        another hostname and new MAC addresses. It is not started.
      - One of this id that was made of a checkpoint of the container before, of that name if O(name) is given, stays as
        it is.
    type: dict
    suboptions:
      vmid:
        description: The id of the new container, its name on a host without Proxmox.
        type: str
        required: true
      hostname:
        description: Its hostname. By default V(CT) and the id, or the name on a host without Proxmox.
        type: str
      promote:
        description: Whether the clones become independent of the container that they are of, which then depends on
          them. The checkpoint and older ones go over to the new container.
        type: bool
        default: false
  hold:
    description:
      - A tag with which the checkpoint is held. Nothing removes a checkpoint that is held.
    type: str
  release:
    description:
      - A tag of O(hold) that is taken from the checkpoint O(name), before it is removed with O(state=absent).
    type: str
  keep:
    description:
      - Remove complete checkpoints whose name begins with O(prefix) and that no rule keeps. The rules are those of
        Proxmox's backup retention, and count periods that have a checkpoint.
      - One that is held, that has clones or that is the newest always stays.
"""

EXAMPLES = r"""
- name: A checkpoint of two containers at the same moment
  lxcri.proxmox.zfs_checkpoint:
    vmids: [101, 102]
    name: before-upgrade

- name: Back to it
  lxcri.proxmox.zfs_checkpoint:
    vmids: [101, 102]
    name: before-upgrade
    state: restored

- name: A copy of the container as it was, to look at
  lxcri.proxmox.zfs_checkpoint:
    vmids: [101]
    name: before-upgrade
    clone_to: {vmid: 201, hostname: look}

- name: One more, and a week of days kept
  lxcri.proxmox.zfs_checkpoint:
    vmids: [101, 102]
    keep: {last: 3, daily: 7}
    keep_timezone: Europe/Vienna

- name: A container of plain LXC
  lxcri.proxmox.zfs_checkpoint:
    datasets: [tank/containers/web]
    name: before-upgrade
"""

RETURN = r"""
name:
  description: The name of the checkpoint, also where it was generated.
  returned: always
  type: str
  sample: lxcri-20260131T020000Z
containers:
  description: One result for each container.
  returned: always
  type: list
  elements: dict
  contains:
    container:
      description: The id, or the name on a host without Proxmox.
      type: str
    changed:
      description: Whether something was done to it.
      type: bool
    plan:
      description: What was done, or would be in check mode, as V(key), V(before) and V(after).
      type: list
      elements: dict
    method:
      description: How it was checkpointed, V(zfs), V(snapshot) or V(vzdump).
      type: str
    reasons:
      description: Why by this method.
      type: list
      elements: str
    checkpoint:
      description: The checkpoint, as M(lxcri.proxmox.zfs_checkpoint_info) describes it.
      type: dict
    safety:
      description: The name of the safety checkpoint, of a restore.
      type: str
    lost:
      description: The snapshots and bookmarks that a restore removed.
      type: list
      elements: str
    notes:
      description: What is worth knowing. It is shown as a warning too.
      type: list
      elements: str
    timings:
      description: Seconds, for freezing and thawing, syncing, the zfs command and in total, and how long the container
        stood still.
      type: dict
failure:
  description: What stands against it, see RV(lxcri.proxmox.lxc_container#module:failure).
  returned: on failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.module import run_module
from ansible_collections.lxcri.proxmox.plugins.module_utils.retention import keep_options
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.declared import (
    STATES,
    container_options,
    run_declared,
)


def main():
    module = AnsibleModule(
        argument_spec={
            **container_options(),
            "state": {"type": "str", "choices": list(STATES), "default": "present"},
            "name": {"type": "str"},
            "prefix": {"type": "str", "default": "lxcri-"},
            "memory": {"type": "bool", "default": False},
            "mode": {"type": "str", "choices": ["rollback", "clone"], "default": "rollback"},
            "safety": {"type": "bool", "default": True},
            "lose": {"type": "list", "elements": "str", "default": []},
            "config": {"type": "str", "choices": ["keep", "restore"], "default": "keep"},
            "clone_to": {
                "type": "dict",
                "options": {
                    "vmid": {"type": "str", "required": True},
                    "hostname": {"type": "str"},
                    "promote": {"type": "bool", "default": False},
                },
            },
            "hold": {"type": "str"},
            "release": {"type": "str"},
            **keep_options(),
        },
        supports_check_mode=True,
    )
    run_module(module, lambda: run_declared(module.params, module.check_mode))


if __name__ == "__main__":
    main()
