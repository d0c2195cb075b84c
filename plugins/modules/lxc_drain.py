#!/usr/bin/python
# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lxc_drain
short_description: Take the containers of a node elsewhere, and bring them back
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Migrates all LXC containers of a Proxmox VE node to other nodes, and back. What runs is migrated by a restart, since
    Proxmox has no live migration of containers; it is shut down, moved, and started again.
  - The containers are spread over the nodes that have their storages and bridges, so that those of one workload stay
    apart and the memory of the nodes is used evenly. What Proxmox would refuse in the middle of its work is refused
    before the first container is moved.
  - Before a container is moved, its home and whether it runs are noted in a comment of its description. With it any
    later run can finish what was interrupted, on this controller or on another. Migrations that are under way are
    waited for.
  - Containers under HA are moved by the HA manager, within its rules. It takes no options, so that O(shutdown_timeout)
    does not count for them, and one whose storage is in O(storages) is not moved. VMs are not touched; they are named
    in the result.
  - A container that fails does not stop the others. The task fails at the end and names all that failed.
seealso:
  - module: lxcri.proxmox.lxc_container
extends_documentation_fragment:
  - lxcri.proxmox.api
  - lxcri.proxmox.api.action_group
  - lxcri.proxmox.attributes
attributes:
  check_mode:
    support: full
    details: Migrations that are under way already are waited for in check mode as well.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  node:
    description:
      - The node that is drained, or that gets its containers back. It must be online.
    type: str
    required: true
  state:
    description:
      - V(drained) migrates its containers away. Those that ran and do not run where they are now are started.
      - V(returned) brings back those that were taken away from it, wherever they are now, and no others. What ran when
        it was taken away runs again. What was stopped and has been started meanwhile stays running. The notes in the
        descriptions are removed.
    type: str
    choices: [drained, returned]
    default: drained
  targets:
    description:
      - The only nodes to which containers may go. By default all that are online and not in maintenance mode.
    type: list
    elements: str
    default: []
  storages:
    description:
      - For local storages that the target does not have, the storage that takes their volumes. The keys are the
        storages of the node, the values those of the target.
      - It is the mapping of this migration; bringing the containers back needs one of its own.
      - Volumes on shared storages stay where they are.
    type: dict
    default: {}
  allow_devices:
    description:
      - Whether containers with devices of the node, or with raw lines that mount something of the node, are migrated as
        well. They only start where the same things are.
    type: bool
    default: false
  require_all:
    description:
      - Whether nothing is moved when there is a container that cannot be.
    type: bool
    default: false
  shutdown_timeout:
    description:
      - Seconds that a running container has to shut down. One that does not is not moved.
    type: int
    default: 180
  concurrency:
    description:
      - How many containers are migrated at a time.
    type: int
    default: 4
  timeout:
    description:
      - Seconds to wait for each task of Proxmox, such as the migration of one container with all its volumes. The task
        itself goes on.
    type: int
    default: 3600
"""

EXAMPLES = r"""
- name: Empty a node for its maintenance
  lxcri.proxmox.lxc_drain:
    node: pve1

- name: Its containers come back
  lxcri.proxmox.lxc_drain:
    node: pve1
    state: returned

- name: To one other node only, or not at all
  lxcri.proxmox.lxc_drain:
    node: pve1
    targets: [pve3]
    require_all: true
    shutdown_timeout: 60
"""

RETURN = r"""
node:
  description: The node of the task.
  returned: always
  type: str
  sample: pve1
containers:
  description: One result for each container with which something was done, or could not be.
  returned: always
  type: list
  elements: dict
  contains:
    hostname:
      description: The hostname.
      type: str
    vmid:
      description: The id.
      type: int
    source:
      description: The node where it was.
      type: str
    target:
      description: The node to which it goes. V(null) when it stays where it is.
      type: str
    node:
      description: The node where it is after the task; in check mode, where it would be.
      type: str
    running:
      description: Whether it runs afterwards.
      type: bool
    changed:
      description: Whether something was done to it.
      type: bool
    plan:
      description: See RV(lxcri.proxmox.lxc_container#module:plan).
      type: list
      elements: dict
    tasks:
      description: See RV(lxcri.proxmox.lxc_container#module:tasks).
      type: list
      elements: dict
    notes:
      description: See RV(lxcri.proxmox.lxc_container#module:notes).
      type: list
      elements: str
    failure:
      description: See RV(lxcri.proxmox.lxc_container#module:failure). Its code is V(cannot_migrate) for a container
        that cannot leave its node; its details have the C(reasons).
      returned: when it failed
      type: dict
remaining:
  description: The guests that are on the drained node afterwards, VMs among them.
  returned: always
  type: list
  elements: dict
  contains:
    vmid:
      description: The id.
      type: int
    name:
      description: The name.
      type: str
    type:
      description: V(lxc) or V(qemu).
      type: str
summary:
  description: How many containers were C(moved), were C(settled) without being moved (started, or their note removed)
    or C(failed), and how many guests are C(remaining).
  returned: always
  type: dict
failure:
  description: The failure of the whole task, see RV(lxcri.proxmox.lxc_container#module:failure). Its code is
    V(containers_failed) when some of several containers failed, and V(node_offline) when the node is or has gone
    offline; its details then name the C(containers) that are not done.
  returned: on failure
  type: dict
"""

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.options import api_options, run
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.drain import STATES, Drain, make_wish, module_result
from ansible_collections.lxcri.proxmox.plugins.module_utils.module import Module


def main():
    module = Module(
        argument_spec={
            **api_options(),
            "node": {"type": "str", "required": True},
            "state": {"type": "str", "choices": list(STATES), "default": "drained"},
            "targets": {"type": "list", "elements": "str", "default": []},
            "storages": {"type": "dict", "default": {}},
            "allow_devices": {"type": "bool", "default": False},
            "require_all": {"type": "bool", "default": False},
            "shutdown_timeout": {"type": "int", "default": 180},
            "concurrency": {"type": "int", "default": 4},
            "timeout": {"type": "int", "default": 3600},
        },
        supports_check_mode=True,
    )

    def work(connect):
        wish = make_wish(module.params)
        drain = Drain(connect(), module.check_mode, module.params["concurrency"])
        return module_result(wish, drain.run(wish), drain)

    run(module, work)


if __name__ == "__main__":
    main()
