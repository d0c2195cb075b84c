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
            V(stateful_set) have data of their own, which is kept. Those of a V(pod) are several containers each,
            O(_input[].members), which are on one node and are changed together.
        type: str
        choices: [deployment, stateful_set, pod]
        required: true
      replicas:
        description: How many replicas there are.
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
          - V(stop) is the default of a stateful set, V(delete) that of the others.
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
            replicas, such as V(192.0.2.11/24) or the range V(192.0.2.11-192.0.2.20/24). There may be more than there
            are replicas.
        type: list
        elements: str
      replica_options:
        description:
          - Options of single replicas by their number. They take the place of those in O(_input[].container) as a
            whole, and C(node) is among them.
        type: dict
        default: {}
      vmids:
        description:
          - The ids of the replicas in their order, such as V(201) or the range V(201-210). There may be more than
            there are replicas. Without them each new replica gets a free id.
        type: list
        elements: raw
      health:
        description:
          - What a replica has to answer while it runs, see O(lxcri.proxmox.lxc_fleet#module:containers[].health).
            It is awaited after every change and verified in every run.
        type: dict
      rollout:
        description:
          - How replicas are changed; see O(lxcri.proxmox.lxc_fleet#module:rollouts). Without it all are changed at
            once. With it, O(_input[].container) has C(restart=if_needed) unless it says otherwise.
        type: dict
        suboptions:
          max_unavailable:
            description: How many replicas may be out of service at a time, or which share, such as V(25%).
            type: str
            default: "1"
          max_surge:
            description:
              - How many further replicas there are during a roll-out, or which share; a share is rounded up. They
                are made first and removed in the end. They need addresses and ids of their own where those are
                declared. Not for a stateful set, and only with O(_input[].scale_down=delete).
            type: str
            default: "0"
          order:
            description:
              - Whether the lowest or the highest number is changed first. For a stateful set it is V(descending),
                for the others V(ascending).
            type: str
            choices: [ascending, descending]
          on_failure:
            description:
              - What becomes of a replica that does not work after its change. V(rollback) takes a snapshot of each
                replica before, and makes it what it was, B(with its volumes).
            type: str
            choices: [stop, rollback]
            default: stop
          rollback_within:
            description: How old a snapshot may be, in seconds, to be rolled back to.
            type: int
            default: 3600
      autostart:
        description:
          - Whether the replicas start with their node. V(true) starts stateful sets from place 100, pods from 200
            and deployments from 300. A dictionary has C(order), C(up) and C(down), as Proxmox's C(startup).
          - The replicas of a stateful set start by their numbers, the containers of a pod in their order; others
            have the same place. Stopping goes backwards.
        type: raw
      members:
        description:
          - The containers of each replica of a pod. The member C(app) of the first replica of C(shop) has the
            hostname C(shop-1-app).
        type: list
        elements: dict
        suboptions:
          name:
            description: The name, made of lower-case letters, digits and inner hyphens.
            type: str
            required: true
          container:
            description: The options that are its own, which take the place of O(_input[].container).
            type: dict
            default: {}
          addresses:
            description: Its addresses by the number of the replica, see O(_input[].addresses).
            type: list
            elements: str
          vmids:
            description: Its ids by the number of the replica, see O(_input[].vmids).
            type: list
            elements: raw
          health:
            description: What it has to answer, see O(_input[].health).
            type: dict
      network:
        description:
          - A network of the containers of a pod among each other. Each has one more interface, C(net9).
        type: dict
        suboptions:
          bridge:
            description: A bridge or VNet that leads nowhere else. It has to be there on every node.
            type: str
            required: true
          subnet:
            description: Where the addresses come from, such as V(10.200.0.0/20).
            type: str
            required: true
          replica_prefix:
            description:
              - The length of the prefix of the block that each replica has. Its containers have the addresses from
                the first one, in their order. By default 28, and 124 for IPv6.
            type: int
          tag:
            description: The VLAN tag of the first replica, the next one has the next tag. Without it there is none.
            type: int
          name:
            description: The name of the interface.
            type: str
            default: pod0
      volumes:
        description:
          - Directories of the node that containers of a pod share. They are bind mounts, which only root@pam with a
            password may set, and they have to be there on the node. With them Proxmox takes no snapshots, and moves
            the containers to no other node unless the directory is C(shared).
        type: list
        elements: dict
        suboptions:
          path:
            description: The directory of the node. C({replica}) in it stands for the replica, such as C(shop-1).
            type: str
            required: true
          mp:
            description: The path in the containers.
            type: str
            required: true
          members:
            description: The members that have it. By default all have it.
            type: list
            elements: str
            default: []
          ro:
            description: Whether it is mounted read-only.
            type: bool
            default: false
          shared:
            description: Whether it is the same directory on every node, such as one of CephFS.
            type: bool
            default: false
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
    rollouts: "{{ fleet.rollouts }}"
  vars:
    fleet: "{{ workloads | lxcri.proxmox.workload_fleet(owner='shop') }}"
    workloads:
      - name: web
        kind: deployment
        replicas: 2
        rollout: {max_unavailable: 1, on_failure: rollback}
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
    rollouts:
      description: How replicas are changed, for each workload that says so.
      type: list
      elements: dict
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
