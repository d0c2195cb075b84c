#!/usr/bin/python
# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pve_cluster_info
short_description: Nodes, storages and backups of a cluster
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Reads which nodes and storages a Proxmox VE cluster has, how they are used, and which backups there are.
  - Nodes and storages cost one request. The figures are those of the cluster's statistics, which are some seconds old.
seealso:
  - module: lxcri.proxmox.lxc_container_info
extends_documentation_fragment:
  - lxcri.proxmox.api
  - lxcri.proxmox.api.action_group
  - lxcri.proxmox.attributes
attributes:
  check_mode:
    support: full
    details: It changes nothing.
  diff_mode:
    support: N/A
    details: It changes nothing.
  idempotent:
    support: full
options:
  gather:
    description:
      - What is read besides. V(backups) costs one request for each storage that has backups, and for a storage that is
        not shared one on each node.
    type: list
    elements: str
    choices: [backups]
    default: []
"""

EXAMPLES = r"""
- name: The nodes and storages
  lxcri.proxmox.pve_cluster_info:
  register: cluster

- name: Stop when a node is offline
  ansible.builtin.assert:
    that: cluster.nodes | rejectattr('status', 'eq', 'online') | length == 0

- name: The backups as well, newest first
  lxcri.proxmox.pve_cluster_info:
    gather: [backups]
  register: cluster
"""

RETURN = r"""
nodes:
  description: The nodes, by name.
  returned: success
  type: list
  elements: dict
  contains:
    node:
      description: The name.
      type: str
      sample: pve1
    status:
      description: V(online), V(offline), or V(unknown) for one that is up and has no statistics yet.
      type: str
    maintenance:
      description: Whether it is in the maintenance mode of the HA manager.
      type: bool
    cpu:
      description: The share of its processors that is in use, 0 to 1. V(null) without the privilege C(Sys.Audit).
      type: float
    maxcpu:
      description: How many processors it has.
      type: int
    mem:
      description: Memory in use, in bytes.
      type: int
    maxmem:
      description: Memory, in bytes.
      type: int
    disk:
      description: Bytes in use on its root file system.
      type: int
    maxdisk:
      description: The size of its root file system, in bytes.
      type: int
    uptime:
      description: Seconds since it was started.
      type: int
    containers:
      description: How many containers are on it, of those that the user or token may see.
      type: int
    vms:
      description: How many VMs are on it.
      type: int
storages:
  description: The storages on each node where they are enabled, by name and node.
  returned: success
  type: list
  elements: dict
  contains:
    storage:
      description: The name.
      type: str
      sample: local-zfs
    node:
      description: The node.
      type: str
    type:
      description: The type, such as V(zfspool).
      type: str
    shared:
      description: Whether it is the same on all nodes.
      type: bool
    content:
      description: What it may hold.
      type: list
      elements: str
    status:
      description: V(available), or V(unknown) when its node does not tell.
      type: str
    used:
      description: Bytes in use. V(null) when its node does not tell.
      type: int
    total:
      description: Its size in bytes. V(null) when its node does not tell.
      type: int
backups:
  description: The backups, newest first.
  returned: with V(backups) in O(gather)
  type: list
  elements: dict
  contains:
    volid:
      description: The volume id.
      type: str
      sample: local:backup/vzdump-lxc-201-2026_01_31-02_00_00.tar.zst
    vmid:
      description: The id of the guest.
      type: int
    type:
      description: V(lxc) or V(qemu). V(null) for a file whose name does not tell.
      type: str
    storage:
      description: The storage.
      type: str
    node:
      description: The node whose storage it is. V(null) for a shared storage.
      type: str
    time:
      description: When it was made, in seconds since 1970.
      type: int
    size:
      description: Its size in bytes.
      type: int
    notes:
      description: The notes.
      type: str
    protected:
      description: Whether it is protected from being removed.
      type: bool
    verified:
      description: Whether a backup server has verified it. V(null) when none has tried.
      type: bool
failure:
  description: See RV(lxcri.proxmox.lxc_container#module:failure).
  returned: on failure
  type: dict
"""

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.options import api_options, run
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.cluster_info import GATHER, cluster_info
from ansible_collections.lxcri.proxmox.plugins.module_utils.module import Module


def main():
    module = Module(
        argument_spec={
            **api_options(),
            "gather": {"type": "list", "elements": "str", "choices": list(GATHER), "default": []},
        },
        supports_check_mode=True,
    )
    run(module, lambda connect: cluster_info(connect(), module.params["gather"]))


if __name__ == "__main__":
    main()
