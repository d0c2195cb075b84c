#!/usr/bin/python
# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lxc_snapshot
short_description: Take, remove and roll back snapshots of containers
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Declares the snapshots of one or many LXC containers of Proxmox VE, keeps as many as rules say, and rolls back.
  - A run that finds everything as declared costs one request for the cluster and one for each container, and none for
    the cluster with O(node).
  - What Proxmox or the user's privileges do not allow is reported before the first write, in check mode too.
  - A container that fails does not stop the others. The task fails at the end and names all that failed.
seealso:
  - module: lxcri.proxmox.lxc_container
extends_documentation_fragment:
  - lxcri.proxmox.api
  - lxcri.proxmox.api.action_group
  - lxcri.proxmox.attributes
  - lxcri.proxmox.retention
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: partial
    details: O(state=rolled_back) rolls back, and O(state=present) without O(name) takes a snapshot, every time.
options:
  vmid:
    description:
      - The ids of the containers.
    type: list
    elements: int
    default: []
  hostname:
    description:
      - The hostnames of the containers. Exactly one container may have each.
      - Before something is changed, the name is read from the container as well, because the cluster knows a new name
        only after some seconds.
    type: list
    elements: str
    default: []
  node:
    description:
      - The node of the container, when O(vmid) gives exactly one. It saves a request.
    type: str
  state:
    description:
      - V(present) takes the snapshot when there is none of this name.
      - V(absent) removes it. Without O(name) it only applies O(keep).
      - V(rolled_back) brings the volumes and the configuration back to it, and what has changed since is lost. A
        container that was running is stopped hard for that, and runs again afterwards.
    type: str
    choices: [present, absent, rolled_back]
    default: present
  name:
    description:
      - The name of the snapshot, two to forty letters, digits, V(-) and V(_).
      - Without it, O(state=present) takes one that is called O(prefix) and the time in UTC.
    type: str
  prefix:
    description:
      - How the names of generated snapshots begin. O(keep) never touches others.
    type: str
    default: lxcri-
  description:
    description:
      - The description. That of an existing snapshot is changed when it differs.
    type: str
  keep:
    description:
      - Remove snapshots whose name begins with O(prefix) and that no rule keeps. The rules are those of Proxmox's
        backup retention, and count periods that have a snapshot.
      - The snapshot that O(name) declares with O(state=present) stays, even where no rule keeps it.
  remove_newer:
    description:
      - With O(state=rolled_back), whether snapshots that are newer are removed first.
      - Without it newer snapshots are never removed. Where a volume can only go back to its newest snapshot, as on ZFS,
        the rollback is refused with the code V(would_lose_data). On RBD, LVM-thin and BTRFS a volume goes back to any
        snapshot, and newer ones stay.
    type: bool
    default: false
  force:
    description:
      - Whether a snapshot is removed from the configuration even if its volumes' snapshots cannot be removed. For
        snapshots that an interruption has left incomplete.
    type: bool
    default: false
  concurrency:
    description:
      - How many containers are worked on at a time on each node.
    type: int
    default: 4
  timeout:
    description:
      - Seconds to wait for each task of Proxmox. The task itself goes on.
    type: int
    default: 600
"""

EXAMPLES = r"""
- name: A snapshot before an upgrade
  lxcri.proxmox.lxc_snapshot:
    hostname: web-1
    name: before-upgrade
    description: Before the upgrade to 2.0

- name: Back to it, and running again if it was running
  lxcri.proxmox.lxc_snapshot:
    hostname: web-1
    name: before-upgrade
    state: rolled_back

- name: It is not needed any more
  lxcri.proxmox.lxc_snapshot:
    hostname: web-1
    name: before-upgrade
    state: absent

- name: A snapshot of each every day, kept for a week and for three months
  lxcri.proxmox.lxc_snapshot:
    hostname: [web-1, web-2]
    prefix: daily-
    keep: {daily: 7, monthly: 3}
    keep_timezone: Europe/Vienna
"""

RETURN = r"""
name:
  description: The name of the snapshot, also where it was made of O(prefix) and the time.
  returned: always
  type: str
  sample: lxcri-20260131-020000
containers:
  description: One result for each container, those of O(vmid) first.
  returned: always
  type: list
  elements: dict
  contains:
    hostname:
      description: The hostname, or the id when that is all that was given.
      type: str
    vmid:
      description: The id.
      type: int
    node:
      description: The node.
      type: str
    changed:
      description: Whether something was done to it.
      type: bool
    plan:
      description: See RV(lxcri.proxmox.lxc_container#module:plan).
      type: list
      elements: dict
    snapshots:
      description: Its snapshots after the task; in check mode, those that it has.
      type: list
      elements: dict
      contains:
        name:
          description: The name.
          type: str
        snaptime:
          description: When it was taken, in seconds since 1970.
          type: int
        description:
          description: The description.
          type: str
        parent:
          description: The snapshot before it.
          type: str
        incomplete:
          description: What was interrupted, V(prepare) or V(delete); V(null) for a complete one.
          type: str
    tasks:
      description: See RV(lxcri.proxmox.lxc_container#module:tasks).
      type: list
      elements: dict
    notes:
      description: See RV(lxcri.proxmox.lxc_container#module:notes).
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

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.options import api_options, run
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.snapshot import (
    STATES,
    Snapshots,
    make_wish,
    module_result,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.module import Module
from ansible_collections.lxcri.proxmox.plugins.module_utils.retention import keep_options


def main():
    module = Module(
        argument_spec={
            **api_options(),
            "vmid": {"type": "list", "elements": "int", "default": []},
            "hostname": {"type": "list", "elements": "str", "default": []},
            "node": {"type": "str"},
            "state": {"type": "str", "choices": list(STATES), "default": "present"},
            "name": {"type": "str"},
            "prefix": {"type": "str", "default": "lxcri-"},
            "description": {"type": "str"},
            **keep_options(),
            "remove_newer": {"type": "bool", "default": False},
            "force": {"type": "bool", "default": False},
            "concurrency": {"type": "int", "default": 4},
            "timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )

    def work(connect):
        params = module.params
        wish = make_wish(params)
        snapshots = Snapshots(connect(), module.check_mode, params["concurrency"])
        return module_result(snapshots.run(wish, params["vmid"], params["hostname"], params["node"]), wish.name)

    run(module, work)


if __name__ == "__main__":
    main()
