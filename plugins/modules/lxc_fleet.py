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
  - Replicas of a group can be changed a few at a time, each with a health check, and rolled back when they do not work;
    see O(rollouts).
  - While it runs, it shows a line for each finished step. When the module runs on another host than the controller,
    no lines are shown.
seealso:
  - module: lxcri.proxmox.lxc_container
extends_documentation_fragment:
  - lxcri.proxmox.api
  - lxcri.proxmox.api.action_group
  - lxcri.proxmox.attributes
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
  rollouts:
    description:
      - How the replicas of a group are changed. Containers of no group in this list are all changed at once, before.
      - Replicas that do not run are made first, those of all groups at once. The others follow in batches, in which no
        more of them are out of service than O(rollouts[].max_unavailable) says. Before each batch the health of all is
        looked at. When one of them could not be made as declared, or is not healthy afterwards, the roll-out stops, and
        what was not reached yet keeps its old configuration.
      - Groups are rolled out one after the other. One that stops does not keep the others from being rolled out.
      - Running the task again after an interruption finishes the roll-out.
    type: list
    elements: dict
    default: []
    suboptions:
      group:
        description: The O(containers[].group).
        type: str
        required: true
      max_unavailable:
        description:
          - How many replicas may be out of service at a time, or which share of them, such as V(25%). A share is
            rounded down, but is at least one where there are no O(containers[].surge) containers.
          - Each surge container that is healthy adds one.
        type: str
        default: "1"
      order:
        description: In which order of the list they are changed.
        type: str
        choices: [ascending, descending]
        default: ascending
      on_failure:
        description:
          - What becomes of a replica that does not work after its change. V(stop) leaves it as it is.
          - V(rollback) makes it what it was, its configuration, B(its volumes), and whether it runs. Each replica has a
            snapshot C(before-rollout) while it is changed. Where there can be no snapshots, this is refused
            beforehand, and so it is for what a snapshot does not take back - another node, storage or backup.
          - A container that is made anew of another O(containers[].image) can have no snapshot. It goes back by being
            made of the former image again, and its other volumes stay as they are. What it was is in a comment of its
            description until it works.
          - A volume that grows does so before the snapshot, and stays that large.
          - A replica that is new has nothing to go back to, and is left for a look at it.
        type: str
        choices: [stop, rollback]
        default: stop
      rollback_within:
        description:
          - How old a snapshot may be, in seconds, to be rolled back to. That of an interrupted run may be older; it is
            named then, and what was written since is not lost.
        type: int
        default: 3600
  ssh:
    description:
      - How the nodes are reached for O(containers[].health.command). A key has to be accepted there; nobody is asked
        for a password. With O(api_backend=local), containers of the same node need no SSH.
    type: dict
    suboptions:
      user:
        description: The user on the node, who has to be able to run C(pct).
        type: str
        default: root
      port:
        description: The port.
        type: int
      key_file:
        description: The private key.
        type: path
      args:
        description: More arguments for C(ssh), such as V(-J) and V(jump.example).
        type: list
        elements: str
        default: []
      hosts:
        description: The addresses of nodes that are not reached by their names.
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

- name: More memory for them, one after the other, and back to less when one does not answer any more
  lxcri.proxmox.lxc_fleet:
    defaults:
      template: local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst
      rootfs: {storage: local-zfs, size: 8G}
      networks:
        - {name: eth0, bridge: vmbr0, ip: dhcp}
      memory: 768
      spread: web
      group: web
      restart: if_needed
    containers:
      - {hostname: web-1}
      - {hostname: web-2}
      - {hostname: web-3, memory: 1024}
    rollouts:
      - {group: web, max_unavailable: 1, on_failure: rollback}
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
    health:
      description: What came out of the last health check, with C(healthy), C(check), C(output), C(tries), C(seconds).
      returned: when its health was checked
      type: dict
    failure:
      description: See RV(lxcri.proxmox.lxc_container#module:failure).
      returned: when it failed
      type: dict
rollouts:
  description: What became of each group of O(rollouts) in which there was something to do.
  returned: always
  type: list
  elements: dict
  contains:
    group:
      description: The group.
      type: str
    on_failure:
      description: What becomes of a replica that does not work.
      type: str
    batches:
      description: The replicas that were changed at a time, in check mode those that would be if all are healthy.
      type: list
      elements: list
    done:
      description: The replicas that are as declared now.
      type: list
      elements: str
    failed:
      description:
        - The replicas that are not, each with C(replica), C(container), C(code), C(reason), the keys of its C(changes),
          the C(check) that failed and its C(output), whether it was C(rolled_back), and the C(snapshot) that is left.
      type: list
      elements: dict
    kept:
      description: The replicas that the roll-out has not reached, which are as they were.
      type: list
      elements: str
    blocking:
      description: The replicas that are as declared but do not work, so that no other one may be touched.
      type: list
      elements: str
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

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.options import api_options, run
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.fleet import Ownership
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.health_run import Checker, Nodes, check_options
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.progress import reporter
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.results import fleet_result
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.rollout import rollout_options, strategies_of
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.rollout_run import RollingEngine
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import (
    check_fleet,
    declare_fleet,
    fleet_options,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.module import Module


def main():
    module = Module(
        argument_spec={**api_options(), **fleet_options(), **rollout_options(), **check_options()},
        supports_check_mode=True,
    )

    def work(connect):
        params = module.params
        check_fleet(params)
        strategies = strategies_of(params["rollouts"])
        fleet = declare_fleet(params["containers"], params["defaults"], params["owner"])
        ownership = Ownership(params["owner"], params["prune"], params["prune_tags"])
        with reporter(params["progress_path"]) as report:
            client = connect()
            checker = Checker(client, Nodes.of(params["ssh"], params["api_backend"]))
            engine = RollingEngine(client, strategies, checker, module.check_mode, params["concurrency"], report)
            outcomes = engine.run(fleet, ownership)
        return fleet_result(outcomes, module.check_mode, engine.reports)

    run(module, work)


if __name__ == "__main__":
    main()
