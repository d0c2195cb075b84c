#!/usr/bin/python
# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: oci_container_info
short_description: Read what crun and runc run
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Tells the state, the processes, the limits and the use of OCI containers, and what the runtimes are able to do. It
    never changes anything.
  - The module runs on the machine that has the containers, as root. It needs Python and crun or runc there, and nothing
    from PyPI.
seealso:
  - module: lxcri.proxmox.oci_container
extends_documentation_fragment:
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
  ids:
    description:
      - The containers. By default all. One that is not there is left out of the result.
    type: list
    elements: str
    default: []
  runtime:
    description:
      - V(crun), V(runc), or the path of one of them. V(auto) is all that are there.
    type: str
    default: auto
  root:
    description:
      - The directory in which the runtime keeps its state. By default C(/run/crun) or C(/run/runc).
    type: path
"""

EXAMPLES = r"""
- name: All containers of this machine
  lxcri.proxmox.oci_container_info:
  register: all

- name: Those that have ended
  ansible.builtin.debug:
    msg: "{{ all.containers | selectattr('status', '==', 'stopped') | map(attribute='id') | list }}"

- name: One of them
  lxcri.proxmox.oci_container_info:
    ids: [web]
    runtime: crun
  register: web
"""

RETURN = r"""
containers:
  description: The containers, by runtime and id.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: The id.
      type: str
      sample: web
    runtime:
      description: V(crun) or V(runc).
      type: str
    status:
      description:
        - V(creating), V(created), V(running), V(paused) or V(stopped), as the runtime says it; V(broken) for what an
          interrupted creation has left.
      type: str
    pid:
      description: The first process as the machine numbers it.
      type: int
    bundle:
      description: The bundle.
      type: str
    created:
      description: When it was made.
      type: str
      sample: "2026-01-31T02:00:00.123456Z"
    annotations:
      description: The annotations of its configuration.
      type: dict
    log:
      description: The file to which it prints, when it was made by M(lxcri.proxmox.oci_container).
      type: str
    outdated:
      description:
        - Whether C(config.json) of the bundle has changed since it was made. Null when that is not known.
      type: bool
    processes:
      description: Its processes, each with V(pid), V(ppid), V(uid) and V(command), as the machine sees them.
      type: list
      elements: dict
    limits:
      description:
        - The limits in force, by names such as V(memory.limit). V(-1) is none. With control groups of version 2,
          V(cpu.shares) is told as V(weight N).
      type: dict
    statistics:
      description:
        - What it uses, from its control groups. A number is null when the controller is not there.
      type: dict
      contains:
        cpu_ns:
          description: Nanoseconds of processors.
          type: int
        cpu_throttled_periods:
          description: How often its quota was used up.
          type: int
        memory:
          description: Bytes of memory.
          type: int
        memory_peak:
          description: The most so far.
          type: int
        memory_limit:
          description: The limit; V(-1) is none.
          type: int
        oom_kills:
          description: How many processes were killed because memory ran out.
          type: int
        pids:
          description: How many processes and threads.
          type: int
        pids_limit:
          description: The limit; V(-1) is none.
          type: int
        read_bytes:
          description: Bytes read from block devices.
          type: int
        written_bytes:
          description: Bytes written to block devices.
          type: int
    events:
      description: What C(runc events --stats) tells, in its own words. Null with crun, which has no such command.
      type: dict
runtimes:
  description: The runtimes.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: V(crun) or V(runc).
      type: str
    path:
      description: The program.
      type: str
    root:
      description: Where it keeps its state.
      type: str
    version:
      description: Its version.
      type: str
    features:
      description:
        - What it is able to do, in the words of the specification (features.md). Null when it is too old to tell, as
          runc before 1.1 and crun before 1.8.6 are.
      type: dict
failure:
  description: What stands against it, see RV(lxcri.proxmox.lxc_container#module:failure).
  returned: on failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.module import run_module
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.container import container_options
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.container_info import survey


def main():
    module = AnsibleModule(
        argument_spec={**container_options(), "ids": {"type": "list", "elements": "str", "default": []}},
        supports_check_mode=True,
    )
    run_module(module, lambda: survey(module.params))


if __name__ == "__main__":
    main()
