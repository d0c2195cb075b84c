#!/usr/bin/python
# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lxc_container
short_description: Declare a container of Proxmox VE
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Makes one LXC container of Proxmox VE as declared. It is created from a template, an OCI image, a clone or a backup.
    Its configuration is converged key by key, its volumes grow and move, it migrates, starts and stops.
  - An option that is not given is not managed. A structured option that is given is whole, so what it leaves out is
    unset.
  - A run that finds everything as declared costs two requests when O(vmid) and O(node) are given, else three. O(pool)
    costs one more, and so does O(wait_for_address) when the address is not static.
  - What the user or token may not do is reported before the first write, in check mode too.
seealso:
  - module: lxcri.proxmox.lxc_fleet
  - module: lxcri.proxmox.lxc_container_info
  - module: lxcri.proxmox.lxc_snapshot
extends_documentation_fragment:
  - lxcri.proxmox.api
  - lxcri.proxmox.api.action_group
  - lxcri.proxmox.attributes
  - lxcri.proxmox.container
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: partial
    details: O(state=restarted), and O(restore.force=true), do what they say every time.
options:
  state:
    description:
      - What the container is to be.
      - V(present) creates it when there is none, and leaves its power state alone. V(started), V(stopped) and
        V(restarted) create it as well.
      - V(stopped) shuts it down, or stops it hard if O(force=true).
      - V(absent) removes it B(with its volumes). A running one is only removed if O(force=true).
      - V(template) makes it a template, which cannot be undone.
    type: str
    choices: [present, started, stopped, restarted, absent, template]
    default: started
"""

EXAMPLES = r"""
- name: A web server, running
  lxcri.proxmox.lxc_container:
    node: pve1
    hostname: web-1
    template: local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst
    unprivileged: true
    cores: 2
    memory: 1024
    rootfs: {storage: local-zfs, size: 8G}
    networks:
      - {name: eth0, bridge: vmbr0, ip: dhcp, firewall: true}
    mounts:
      - {storage: local-zfs, size: 20G, mp: /var/lib/data, backup: true}
    features: {nesting: true}
    tags: [web, prod]
    state: started

- name: The same with more memory, without its description, restarted only if that is needed
  lxcri.proxmox.lxc_container:
    hostname: web-1
    memory: 2048
    unset: [description]
    restart: if_needed

- name: A template for others
  lxcri.proxmox.lxc_container:
    node: pve1
    vmid: 900
    hostname: golden
    template: local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst
    rootfs: {storage: local-zfs, size: 4G}
    state: template

- name: A linked clone of it
  lxcri.proxmox.lxc_container:
    node: pve1
    hostname: app-1
    clone: {vmid: 900}
    memory: 512
    networks:
      - {name: eth0, bridge: vmbr0, ip: 192.0.2.10/24, gw: 192.0.2.1}

- name: A web server of an OCI image, made anew whenever its tag means something else, with its cache kept
  lxcri.proxmox.lxc_container:
    node: pve1
    hostname: nginx-1
    image:
      reference: docker.io/library/nginx:1.29
      pull: newer
      volumes:
        /var/cache/nginx: {storage: local-zfs, size: 2G}
    rootfs: {storage: local-zfs, size: 4G}
    networks:
      - {name: eth0, bridge: vmbr0, ip: dhcp}
    env: {NGINX_ENTRYPOINT_QUIET_LOGS: "1"}
    recreate: true

- name: Remove a container, running or not
  lxcri.proxmox.lxc_container:
    hostname: app-1
    state: absent
    force: true
    purge: true
"""

RETURN = r"""
container:
  description: The container as it is after the task; V(null) when there is none. In check mode, as it was.
  returned: always
  type: dict
  contains:
    vmid:
      description: The id.
      type: int
    node:
      description: The node.
      type: str
    hostname:
      description: The hostname.
      type: str
    status:
      description: V(running) or V(stopped).
      type: str
    config:
      description: The configuration, as the API gives it, with what waits for a restart.
      type: dict
    addresses:
      description:
        - The static addresses. With O(wait_for_address=true) those that the container has.
      type: list
      elements: dict
plan:
  description: All differences between what is declared and what was found.
  returned: always
  type: list
  elements: dict
  contains:
    key:
      description: The key, such as C(memory) or C(rootfs.size).
      type: str
    before:
      description: The value that was found.
      type: raw
    after:
      description: The value that is declared.
      type: raw
    effect:
      description: V(live) when it works at once, V(restart) when a running container needs a restart for it, and
        V(recreate) when only a new container can have it.
      type: str
    request:
      description: The request that makes the change; V(null) when it is not made.
      type: str
    hint:
      description: What would allow a change that is not made.
      returned: when the change is not made
      type: str
restart_required:
  description: Whether changes wait for the next stop of the container.
  returned: always
  type: bool
recreate_required:
  description: The keys that only a new container could have as declared.
  returned: always
  type: list
  elements: str
tasks:
  description: The tasks of Proxmox that were run.
  returned: always
  type: list
  elements: dict
  contains:
    upid:
      description: The identifier of the task.
      type: str
    exitstatus:
      description: V(OK), or V(WARNINGS) and their number.
      type: str
    duration:
      description: Seconds until the end of the task was seen.
      type: float
    warnings:
      description: The warnings in the task's log.
      type: list
      elements: str
notes:
  description: What is worth knowing but is no difference, such as options that only count at creation.
  returned: always
  type: list
  elements: str
losses:
  description:
    - What the image says and Proxmox cannot express, when a container is made of it.
  returned: always
  type: list
  elements: dict
  contains:
    key:
      description: The key of the image, such as C(ExposedPorts), of the raw line that would express it, or C(networks).
      type: str
    value:
      description: What it says.
      type: raw
    reason:
      description: Why it is lost.
      type: str
    approximated_by:
      description: What stands in for it.
      returned: when something does
      type: str
failure:
  description: Why the task failed.
  returned: on failure
  type: dict
  contains:
    code:
      description: A constant such as V(permission_denied), V(locked), V(would_lose_data) or V(task_failed).
      type: str
    message:
      description: What happened.
      type: str
    hint:
      description: What to do about it.
      type: str
    details:
      description: Facts, such as the UPID and the last lines of the log of a task that failed.
      type: dict
"""

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.options import api_options, run
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.fleet import Engine
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.results import container_result
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import STATES, container_options, declare
from ansible_collections.lxcri.proxmox.plugins.module_utils.module import Module


def main():
    module = Module(
        argument_spec={
            **api_options(),
            **container_options(),
            "state": {"type": "str", "choices": list(STATES), "default": "started"},
        },
        required_one_of=[("vmid", "hostname")],
        supports_check_mode=True,
    )

    def work(connect):
        declared = declare(module.params)
        outcome = Engine(connect(), module.check_mode).run([declared])[0]
        return container_result(outcome, module.check_mode)

    run(module, work)


if __name__ == "__main__":
    main()
