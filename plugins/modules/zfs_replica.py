#!/usr/bin/python
# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: zfs_replica
short_description: Replicate ZFS checkpoints of containers to another pool or machine
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Sends the complete checkpoints of containers to another pool, on this machine or over ssh. The first time all of
    them, then only what is new.
  - The module runs on the node that has the containers, as root. It needs nothing from PyPI there. The other machine
    needs ZFS and a POSIX shell.
  - What both sides have in common is found by guid, never by name. It is held on both sides, and a bookmark on the
    source remembers it.
  - A stream that breaks off is resumed by the next run.
  - A replica has all properties of the volume, but is read-only and not mounted. It is called O(target), V(/) and the
    whole name of the dataset, so that no two replicas can have the same name.
  - The configuration of each checkpoint goes with it, to C(/var/lib/lxcri/replicas) of the machine that has the target.
  - A container that fails does not stop the others. The task fails at the end and names all that failed.
seealso:
  - module: lxcri.proxmox.zfs_checkpoint
extends_documentation_fragment:
  - lxcri.proxmox.retention
  - lxcri.proxmox.attributes
attributes:
  check_mode:
    support: full
    details: RV(containers[].volumes[].bytes) is what C(zfs send) expects then.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  vmids:
    description:
      - The containers. Their ids on a node of Proxmox, their names on a host with plain LXC.
    type: list
    elements: str
    default: []
  datasets:
    description:
      - On a host without Proxmox, the datasets of the containers, instead of O(vmids). What lies below a dataset
        belongs to the container.
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
      - V(present) brings the target up to the newest complete checkpoint.
      - V(absent) stops replicating. What was held for it on the source is released, and the bookmark is removed. The
        target keeps all that it has, and is not asked; the hold there ends with C(zfs release).
    type: str
    choices: [present, absent]
    default: present
  target:
    description:
      - The dataset below which the replicas are, such as V(backup/replica). It has to exist.
    type: str
    required: true
  host:
    description:
      - The machine of the target, as ssh knows it, such as V(root@pve2). By default it is this one.
      - Its host key has to be known, and a key of this node's root to be accepted there.
    type: str
  ssh_port:
    description: The port of ssh.
    type: int
  ssh_key_file:
    description: The file of a private key on the node, which is then the only one that is tried.
    type: path
  ssh_options:
    description:
      - Further options of ssh, as they stand in C(ssh_config), such as V(StrictHostKeyChecking=accept-new).
    type: list
    elements: str
    default: []
  bandwidth:
    description:
      - How many bytes are sent in a second, such as V(20M). Suffixes are powers of 1024.
      - It needs the command C(pv) on the node, of the Debian package of that name.
    type: str
  raw:
    description:
      - Whether a dataset is sent as it is on the disk (C(zfs send -w)). V(auto) does so for encrypted ones, whose key
        is then not needed on either side. With V(never) the replica is encrypted as the target is, or not at all.
    type: str
    choices: [auto, always, never]
    default: auto
  keep:
    description:
      - Remove complete checkpoints from the target that no rule keeps. The rules are those of Proxmox's backup
        retention, and count periods that have a checkpoint.
      - The newest one is never removed, nor one that is the base of a replication, or that somebody holds.
  overwrite_diverged:
    description:
      - Whether a replica is overwritten that has something the source does not have. It needs O(lose).
      - Without it the task fails with the code V(target_diverged), which says what is where.
    type: bool
    default: false
  lose:
    description:
      - With O(overwrite_diverged), the snapshots of the target that may be destroyed, by their full names. The name of
        a replica stands for what was written to it since its newest snapshot, or for all of it when it has nothing in
        common with the source.
      - Without one of them nothing is touched, and the failure with the code V(would_lose_data) lists them.
    type: list
    elements: str
    default: []
  timeout:
    description:
      - Seconds after which a stream is broken off. The next run resumes it. By default it takes its time.
    type: int
"""

EXAMPLES = r"""
- name: Replicate two containers to another pool, where more is kept
  lxcri.proxmox.zfs_replica:
    vmids: [101, 102]
    target: backup/replica
    keep: {last: 3, daily: 14, monthly: 6}
    keep_timezone: Europe/Vienna

- name: To another node, with 20 MiB a second
  lxcri.proxmox.zfs_replica:
    vmids: [101]
    host: root@pve2
    target: rpool/replica
    bandwidth: 20M

- name: A host with plain LXC
  lxcri.proxmox.zfs_replica:
    datasets: [tank/containers/web]
    target: backup/replica

- name: Not any more
  lxcri.proxmox.zfs_replica:
    vmids: [101]
    host: root@pve2
    target: rpool/replica
    state: absent

- name: Overwrite a replica to which somebody has written
  lxcri.proxmox.zfs_replica:
    vmids: [101]
    target: backup/replica
    overwrite_diverged: true
    lose:
      - backup/replica/rpool/data/subvol-101-disk-0@test
"""

RETURN = r"""
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
      description: Whether something was done.
      type: bool
    plan:
      description: What was done, or would be done in check mode. Each entry has RV(ignore:key), RV(ignore:before) and
        RV(ignore:after).
      type: list
      elements: dict
    volumes:
      description: One result for each volume.
      type: list
      elements: dict
      contains:
        dataset:
          description: The volume.
          type: str
        target:
          description: Its replica.
          type: str
        base:
          description: The newest snapshot that the replica had; V(null) when it had none.
          type: str
        sent:
          description: The snapshots that have arrived, from the oldest to the newest.
          type: list
          elements: str
        bytes:
          description: The bytes of the streams.
          type: int
        seconds:
          description: How long it took.
          type: float
        resumed:
          description: Whether a stream that an earlier run had begun was resumed.
          type: bool
    removed:
      description: The checkpoints that O(keep) removed from the target.
      returned: with O(keep)
      type: list
      elements: str
    notes:
      description: What is worth knowing. It is shown as a warning too.
      type: list
      elements: str
    failure:
      description: See RV(lxcri.proxmox.lxc_container#module:failure).
      returned: when it failed
      type: dict
failure:
  description: The failure of the whole task, see RV(lxcri.proxmox.lxc_container#module:failure). Its code is
    V(containers_failed) when some of several containers failed.
  returned: on failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.module import run_module
from ansible_collections.lxcri.proxmox.plugins.module_utils.retention import keep_options
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.declared import container_options, containers_meant
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.replicate import RAW, STATES, make_wish, replicate
from ansible_collections.lxcri.proxmox.plugins.module_utils.zfs.store import STATE, Store


def main():
    module = AnsibleModule(
        argument_spec={
            **container_options(),
            "state": {"type": "str", "choices": list(STATES), "default": "present"},
            "target": {"type": "str", "required": True},
            "host": {"type": "str"},
            "ssh_port": {"type": "int"},
            "ssh_key_file": {"type": "path", "no_log": False},
            "ssh_options": {"type": "list", "elements": "str", "default": []},
            "bandwidth": {"type": "str"},
            "raw": {"type": "str", "choices": list(RAW), "default": "auto"},
            **keep_options(),
            "overwrite_diverged": {"type": "bool", "default": False},
            "lose": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int"},
        },
        required_one_of=[["vmids", "datasets"]],
        supports_check_mode=True,
    )

    def work():
        wish = make_wish(module.params)
        host, ids = containers_meant(module.params)
        return replicate(host, Store(STATE), ids, wish, module.check_mode)

    run_module(module, work)


if __name__ == "__main__":
    main()
