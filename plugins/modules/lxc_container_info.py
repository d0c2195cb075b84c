#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lxc_container_info
short_description: Read containers of Proxmox VE
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Lists LXC containers of Proxmox VE, many at once and with few requests, and never changes anything.
  - Without O(gather) it costs one request for the whole cluster. The cluster knows names, states and usage from
    statistics that the nodes send about every ten seconds. A container that has just been made has no name and no
    state there, so these are read from its node, with one more request for each such container or each node. To have
    the names and states of this moment for all, set O(current=true).
  - Filters can be combined, and a container must pass all of them. A filter that is an empty list selects nothing,
    except O(tags).
  - What cannot be read about one container does not hide the others. It is V(null), its RV(containers[].failure) says
    why, and there is a warning. The containers of a node that is offline are listed with what the cluster knows of
    them, and with the status V(unknown).
  - The task fails when O(node) names a node that the cluster does not have, and when it cannot be told whether a
    container with one of the names in O(hostname) exists.
  - Proxmox leaves out containers that the user or token may not see. When nothing was found and that may be the
    reason, there is a warning, which costs one more request.
seealso:
  - module: lxcri.proxmox.lxc_container
  - module: lxcri.proxmox.lxc_fleet
  - name: OCI runtime specification, State
    description: What RV(containers[].oci_state) is.
    link: https://github.com/opencontainers/runtime-spec/blob/main/runtime.md#state
extends_documentation_fragment:
  - lxcri.proxmox.api
  - lxcri.proxmox.api.action_group
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
  vmid:
    description:
      - The containers with one of these ids. An id that no container has is left out of the result.
    type: list
    elements: int
  hostname:
    description:
      - The containers with one of these hostnames, exactly.
    type: list
    elements: str
  node:
    description:
      - The containers on one of these nodes.
    type: list
    elements: str
  pool:
    description:
      - The containers in one of these resource pools.
    type: list
    elements: str
  tags:
    description:
      - The containers that have all of these tags.
    type: list
    elements: str
  status:
    description:
      - The containers with this status.
      - A container that was started or stopped in the last ten seconds may be taken for what it was before, unless
        O(current=true).
    type: str
    choices: [running, stopped, unknown]
  gather:
    description:
      - What is read about each container, beside what the list has anyway.
      - V(config) and V(pending) cost one request together for each container, V(snapshots) and V(interfaces) one each,
        V(usage) none.
    type: list
    elements: str
    choices: [config, pending, snapshots, interfaces, usage]
    default: []
  current:
    description:
      - Whether names, states, process ids and usage are read from the nodes, where they are current.
      - This costs one request for each node, or for each container when only a few of a node's are wanted. It is dear
        for the node, which measures every container for it.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: All containers, with one request
  lxcri.proxmox.lxc_container_info:
  register: all

- name: Those of the shop in production that run
  lxcri.proxmox.lxc_container_info:
    tags: [shop, prod]
    status: running

- name: The configuration and addresses of two of them
  lxcri.proxmox.lxc_container_info:
    hostname: [web-1, web-2]
    gather: [config, interfaces]
  register: web

- name: Show how they are reached
  ansible.builtin.debug:
    msg: "{{ item.hostname }}: {{ item.addresses | map(attribute='address') | join(', ') }}"
  loop: "{{ web.containers }}"

- name: The OCI state documents of a node's containers, complete with their process ids
  lxcri.proxmox.lxc_container_info:
    node: pve1
    current: true
  register: here

- name: Stop when one of them could not be read
  ansible.builtin.assert:
    that: here.containers | selectattr('failure', 'defined') | length == 0
"""

RETURN = r"""
containers:
  description: The containers that passed, by their ids.
  returned: success
  type: list
  elements: dict
  contains:
    vmid:
      description: The id.
      type: int
      sample: 201
    node:
      description: The node.
      type: str
      sample: pve1
    hostname:
      description: The hostname. V(null) when it could not be read.
      type: str
      sample: web-1
    status:
      description: V(running), V(stopped), or V(unknown) when the node does not tell.
      type: str
      sample: running
    template:
      description: Whether it is a template.
      type: bool
    pool:
      description: The resource pool. V(null) when it is in none, or the user or token lacks C(Pool.Audit).
      type: str
    tags:
      description: The tags.
      type: list
      elements: str
      sample: [prod, web]
    lock:
      description: The lock of an operation that is under way, such as V(backup) or V(create), else V(null).
      type: str
    uptime:
      description: Seconds since it was started. V(null) when nobody knows.
      type: int
    oci_state:
      description:
        - The state document of the OCI runtime specification.
        - V(null) when the state is not known.
      type: dict
      contains:
        ociVersion:
          description: The version of the specification.
          type: str
          sample: 1.0.2
        id:
          description: The id of the container.
          type: str
          sample: "201"
        status:
          description:
            - V(running) or V(stopped), and V(creating) while the container is created, cloned or restored.
            - The specification's V(created) does not occur. It is the state between creating a container process and
              starting its program, which a container of Proxmox does not have.
          type: str
        pid:
          description:
            - The process id of the container's init on the node.
            - Only there when the container runs and its node was asked, as O(current=true) always does. The
              specification requires it of a running container, so use O(current=true) for a complete document.
          returned: when the container runs and its node was asked for its state
          type: int
        bundle:
          description: The directory on the node where LXC has the container's configuration and mounts its root.
          type: str
          sample: /var/lib/lxc/201
        annotations:
          description:
            - What Proxmox knows about the container, as texts. The keys are C(com.proxmox.node),
              C(com.proxmox.hostname), C(com.proxmox.pool), C(com.proxmox.tags) (separated by C(;)),
              C(com.proxmox.lock), C(com.proxmox.template) and, with V(config) in O(gather),
              C(com.proxmox.description). What is not set is left out.
          type: dict
    config:
      description: The configuration, as the API gives it, with what waits for a restart.
      returned: with V(config) in O(gather)
      type: dict
    pending:
      description: What waits for the next stop. The new value of each key, V(null) for one that will be removed.
      returned: with V(pending) in O(gather)
      type: dict
    snapshots:
      description: The snapshots, oldest first.
      returned: with V(snapshots) in O(gather)
      type: list
      elements: dict
      contains:
        name:
          description: The name.
          type: str
        description:
          description: The description.
          type: str
        snaptime:
          description: When it was taken, in seconds since 1970.
          type: int
        parent:
          description: The snapshot before it, or V(null).
          type: str
    interfaces:
      description: The network interfaces inside the running container. Empty when it does not run.
      returned: with V(interfaces) in O(gather)
      type: list
      elements: dict
      contains:
        name:
          description: The name inside the container.
          type: str
        hwaddr:
          description: The MAC address.
          type: str
        addresses:
          description: The addresses with their prefix lengths.
          type: list
          elements: str
    addresses:
      description:
        - The addresses by which others can reach the container.
        - With V(interfaces) in O(gather) those that it has, else the static ones of its configuration.
      returned: with V(interfaces) or V(config) in O(gather)
      type: list
      elements: dict
      contains:
        interface:
          description: The interface inside the container.
          type: str
        address:
          description: The address with its prefix length.
          type: str
          sample: 192.0.2.10/24
        family:
          description: V(inet) or V(inet6).
          type: str
        hwaddr:
          description: The MAC address of the interface.
          type: str
    usage:
      description: What it uses. V(null) when nobody knows.
      returned: with V(usage) in O(gather)
      type: dict
      contains:
        cpu:
          description: The share of its cores that is in use, 0 to 1.
          type: float
        maxcpu:
          description: The number of its cores.
          type: float
        mem:
          description: The memory in use, in bytes.
          type: int
        maxmem:
          description: The memory that it may use, in bytes.
          type: int
        disk:
          description: The part of the root volume in use, in bytes.
          type: int
        maxdisk:
          description: The size of the root volume, in bytes.
          type: int
        diskread:
          description: Bytes read from disk since it was started.
          type: int
        diskwrite:
          description: Bytes written to disk since it was started.
          type: int
        netin:
          description: Bytes received since it was started.
          type: int
        netout:
          description: Bytes sent since it was started.
          type: int
        uptime:
          description: Seconds since it was started.
          type: int
    failure:
      description: Why something about this container could not be read, see RV(failure).
      returned: when something could not be read
      type: dict
failure:
  description: Why the task failed.
  returned: on failure
  type: dict
  contains:
    code:
      description: A constant such as V(node_unknown), V(node_offline), V(unreachable) or V(authentication_failed).
      type: str
    message:
      description: What happened.
      type: str
    hint:
      description: What to do about it.
      type: str
    details:
      description: Facts, such as the name of the node.
      type: dict
"""

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.options import api_options, run
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.info import GATHER, STATUSES, Selection, Survey
from ansible_collections.lxcri.proxmox.plugins.module_utils.module import Module


def main():
    module = Module(
        argument_spec={
            **api_options(),
            "vmid": {"type": "list", "elements": "int"},
            "hostname": {"type": "list", "elements": "str"},
            "node": {"type": "list", "elements": "str"},
            "pool": {"type": "list", "elements": "str"},
            "tags": {"type": "list", "elements": "str"},
            "status": {"type": "str", "choices": list(STATUSES)},
            "gather": {"type": "list", "elements": "str", "choices": list(GATHER), "default": []},
            "current": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )

    def work(connect):
        params = module.params
        selection = Selection(
            vmids=params["vmid"],
            hostnames=params["hostname"],
            nodes=params["node"],
            pools=params["pool"],
            tags=params["tags"],
            status=params["status"],
        )
        return Survey(connect(), selection, params["gather"], params["current"]).run()

    run(module, work)


if __name__ == "__main__":
    main()
