# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: workload_fleet
short_description: Expand workloads to the containers of a fleet
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Turns a list of workloads into the options of one M(lxcri.proxmox.lxc_fleet) task. A workload C(web) with three
    replicas becomes the containers C(web-1), C(web-2) and C(web-3).
  - It refuses what cannot be had before anything is started, and says all that is wrong.
  - The role P(lxcri.proxmox.workload#role) uses it.
positional: _input
options:
  _input:
    description: The workloads.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - The name, made of lower-case letters, digits and inner hyphens. A replica's hostname is the name, a hyphen
            and its number.
        type: str
        required: true
      kind:
        description:
          - What the replicas are. Those of a V(deployment) are alike and can be made anew at any time. Those of a
            V(stateful_set) have data of their own, which is kept.
        type: str
        choices: [deployment, stateful_set]
        required: true
      replicas:
        description: How many containers there are.
        type: int
        default: 1
      container:
        description:
          - The options that the replicas have in common, see O(lxcri.proxmox.lxc_fleet#module:containers[]).
          - C(node), C(spread) and C(state) are not among them; O(_input[].placement) and O(_input[].state) say that.
        type: dict
        default: {}
      placement:
        description:
          - V(spread) spreads the replicas evenly over the nodes. A replica that exists stays on the node where it is.
          - Anything else is the name of the node on which all of them are.
        type: str
        default: spread
      scale_down:
        description:
          - What becomes of replicas that are more than O(_input[].replicas). V(delete) removes them B(with their
            volumes), V(stop) shuts them down, V(keep) leaves them alone.
          - V(delete) is the default of a deployment, V(stop) that of a stateful set.
        type: str
        choices: [delete, stop, keep]
      state:
        description:
          - What the replicas are to be. V(absent) removes all containers of the workload B(with their volumes), also
            those that an earlier O(_input[].scale_down) has kept.
        type: str
        choices: [started, stopped, absent]
        default: started
      addresses:
        description:
          - The addresses of the replicas on the first network, with their prefix length and in the order of the
            replicas. There may be more than there are replicas.
        type: list
        elements: str
      replica_options:
        description:
          - Options of single replicas by their number. They take the place of those in O(_input[].container) as a
            whole, and C(node) is among them.
        type: dict
        default: {}
  defaults:
    description:
      - Options for the containers of all workloads. An option of a workload takes the place of its default as a whole.
    type: dict
    default: {}
  owner:
    description:
      - The tag of all containers of the list. Those of the workload C(web) are tagged C(lxcri.web) as well.
      - Lists that are applied apart from each other need owners of their own. The tag has no dot in it.
    type: str
    default: lxcri
  orphans:
    description:
      - What becomes of containers of workloads that are not in the list any more, see O(_input[].scale_down).
    type: str
    choices: [keep, stop, delete]
    default: keep
seealso:
  - plugin: lxcri.proxmox.workload_problems
    plugin_type: filter
  - module: lxcri.proxmox.lxc_fleet
"""

EXAMPLES = r"""
- name: Two web servers and a database
  lxcri.proxmox.lxc_fleet:
    containers: "{{ fleet.containers }}"
    owner: "{{ fleet.owner }}"
    prune: "{{ fleet.prune }}"
    prune_tags: "{{ fleet.prune_tags }}"
  vars:
    fleet: "{{ workloads | lxcri.proxmox.workload_fleet(owner='shop') }}"
    workloads:
      - name: web
        kind: deployment
        replicas: 2
        container:
          template: local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst
          rootfs: {storage: local-zfs, size: 4G}
          networks:
            - {name: eth0, bridge: vmbr0, ip: dhcp}
      - name: db
        kind: stateful_set
        placement: pve1
        container:
          template: local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst
          rootfs: {storage: local-zfs, size: 4G}
          mounts:
            - {storage: local-zfs, size: 20G, mp: /var/lib/postgresql, backup: true}
        replica_options:
          1: {memory: 4096}
"""

RETURN = r"""
_value:
  description: Options of M(lxcri.proxmox.lxc_fleet).
  type: dict
  contains:
    containers:
      description: The replicas of all workloads.
      type: list
      elements: dict
    owner:
      description: The tag of all of them.
      type: str
    prune:
      description: What becomes of containers of workloads that are not in the list any more.
      type: str
    prune_tags:
      description: What becomes of replicas that are not wanted any more, by the tag of their workload.
      type: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.workload import DEFAULT_OWNER, fleet_of


def workload_fleet(
    workloads: t.Any,
    defaults: t.Any = None,
    owner: t.Any = DEFAULT_OWNER,
    orphans: t.Any = "keep",
) -> dict[str, t.Any]:
    """The options of the ``lxc_fleet`` task that makes the workloads as declared."""
    try:
        return fleet_of(workloads, defaults, owner, orphans)
    except Failure as failure:
        raise AnsibleFilterError(failure.sentence) from None


class FilterModule:
    """The filter, as Ansible finds it."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Its function by its name."""
        return {"workload_fleet": workload_fleet}
