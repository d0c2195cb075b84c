#!/usr/bin/python
# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lxc_fleet
short_description: Declare many containers of Proxmox VE at once
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Makes any number of LXC containers as declared, in one task and several at a time. Each is treated as by
    M(lxcri.proxmox.lxc_container).
  - Finding everything as declared costs one request for each container, one for each node and one for the cluster.
  - A container that fails does not stop the others. The task fails at the end and names all that failed.
  - Running it again after an interruption finishes the work. What the interrupted run was creating is awaited first.
  - While it runs, it shows a line for each finished step. When the module runs on another host than the controller,
    no lines are shown.
seealso:
  - module: lxcri.proxmox.lxc_container
extends_documentation_fragment:
  - lxcri.proxmox.api
  - lxcri.proxmox.api.attributes
  - lxcri.proxmox.container.fleet
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  concurrency:
    description:
      - How many containers are worked on at a time on each node.
    type: int
    default: 4
  owner:
    description:
      - A tag that marks what the fleet owns. Every container of the list has it, besides its other tags.
    type: str
  prune:
    description:
      - What becomes of a container that carries the tag O(owner) but is not in the list any more. It needs O(owner).
      - V(delete) removes it B(with its volumes), even when it is running.
    type: str
    choices: [none, stop, delete]
    default: none
  prune_tags:
    description:
      - Another O(prune) for containers that carry a certain tag, such as C({database stop}). The first tag that
        matches decides.
    type: dict
    default: {}
  progress_path:
    description:
      - A file to which a line is added for each finished step. The action plugin of this module sets it to show the
        lines.
    type: path
"""

EXAMPLES = r"""
- name: Three web servers, spread over the nodes
  lxcri.proxmox.lxc_fleet:
    defaults:
      template: local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst
      rootfs: {storage: local-zfs, size: 8G}
      networks:
        - {name: eth0, bridge: vmbr0, ip: dhcp}
      memory: 512
      spread: web
    containers:
      - {hostname: web-1}
      - {hostname: web-2}
      - {hostname: web-3, memory: 1024}
    owner: shop
    prune: stop
"""

RETURN = r"""
containers:
  description: One result for each container, in the order of the list, then those that were pruned.
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
    node:
      description: The node.
      type: str
    changed:
      description: Whether something was done to it.
      type: bool
    pruned:
      description: Whether it is not declared any more.
      type: bool
    container:
      description: See RV(lxcri.proxmox.lxc_container#module:container).
      type: dict
    plan:
      description: See RV(lxcri.proxmox.lxc_container#module:plan).
      type: list
      elements: dict
    restart_required:
      description: See RV(lxcri.proxmox.lxc_container#module:restart_required).
      type: bool
    recreate_required:
      description: See RV(lxcri.proxmox.lxc_container#module:recreate_required).
      type: list
      elements: str
    tasks:
      description: See RV(lxcri.proxmox.lxc_container#module:tasks).
      type: list
      elements: dict
    notes:
      description: See RV(lxcri.proxmox.lxc_container#module:notes).
      type: list
      elements: str
    losses:
      description: See RV(lxcri.proxmox.lxc_container#module:losses).
      type: list
      elements: dict
    failure:
      description: See RV(lxcri.proxmox.lxc_container#module:failure).
      returned: when it failed
      type: dict
summary:
  description: How many containers were C(created), C(changed), C(unchanged), C(pruned) and how many C(failed).
  returned: always
  type: dict
failure:
  description: The failure of the whole task, see RV(lxcri.proxmox.lxc_container#module:failure). Its code is
    V(containers_failed) when some containers failed.
  returned: on failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.options import api_options, run
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.fleet import Engine, Ownership
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.progress import reporter
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.results import fleet_result
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import (
    check_fleet,
    declare_fleet,
    fleet_options,
)


def main():
    module = AnsibleModule(
        argument_spec={**api_options(), **fleet_options()},
        supports_check_mode=True,
    )

    def work(connect):
        params = module.params
        check_fleet(params)
        fleet = declare_fleet(params["containers"], params["defaults"], params["owner"])
        ownership = Ownership(params["owner"], params["prune"], params["prune_tags"])
        with reporter(params["progress_path"]) as report:
            engine = Engine(connect(), module.check_mode, params["concurrency"], report)
            return fleet_result(engine.run(fleet, ownership), module.check_mode)

    run(module, work)


if __name__ == "__main__":
    main()
