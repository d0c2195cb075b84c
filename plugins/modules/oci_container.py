#!/usr/bin/python
# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: oci_container
short_description: Run containers of OCI bundles with crun or runc
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Runs the container of an OCI bundle, such as M(lxcri.proxmox.oci_bundle) makes, with crun or runc, and brings it
    through its whole life.
  - The module runs on the machine that has the bundle, as root. It needs Python and crun or runc there, and nothing
    from PyPI. The machine needs no Proxmox VE.
  - No process is left behind that supervises the container. One that has ended by itself stays as V(stopped), and the
    next task with O(state=started) makes it anew.
  - O(state) and O(update) come first, then O(kill) and O(exec).
  - A run that was interrupted, however it was, is put right by the next one.
seealso:
  - module: lxcri.proxmox.oci_bundle
  - module: lxcri.proxmox.oci_container_info
extends_documentation_fragment:
  - lxcri.proxmox.attributes
attributes:
  check_mode:
    support: full
    details: A bundle that is not there yet is only warned of, since a task before this one may make it.
  diff_mode:
    support: full
  idempotent:
    support: partial
    details: O(kill), O(exec) and O(wait) do their work every time.
options:
  id:
    description:
      - The id of the container, up to 240 letters, digits and the characters V(_), V(+), V(.) and V(-), which is not
        the first.
    type: str
    required: true
  state:
    description:
      - V(created) makes the container and does not start its process. One that runs is left alone.
      - V(started) makes and starts it, and resumes one that is paused.
      - V(paused) makes, starts and freezes it.
      - V(stopped) ends its process, if there is one. A container that is not there is not made.
      - V(absent) ends its process and removes it. Its log and its bundle stay.
      - A container whose process has ended cannot be started again. It is removed and made anew.
      - Without it, the state is not managed.
    type: str
    choices: [created, started, paused, stopped, absent]
  bundle:
    description:
      - The directory of the bundle. Without it, that of the container that is there.
    type: path
  runtime:
    description:
      - V(crun), V(runc), or the path of one of them.
      - V(auto) is the one that has the container already, else crun, else runc. Where control groups of both versions
        are mounted, runc comes first, because crun does not work there.
    type: str
    default: auto
  root:
    description:
      - The directory in which the runtime keeps its state. By default C(/run/crun) or C(/run/runc).
    type: path
  cgroup_manager:
    description:
      - Who makes the control group. With V(systemd), C(linux.cgroupsPath) of the bundle is of the form
        V(slice:prefix:name).
    type: str
    choices: [cgroupfs, systemd]
    default: cgroupfs
  recreate:
    description:
      - What happens to a container that runs, or is created or paused, when O(bundle) is another one or its
        C(config.json) has changed since the container was made.
      - V(never) leaves it alone, with a warning and RV(recreate_required).
      - V(if_changed) stops it, removes it and makes it anew.
      - It is not known of a container that was made without this module.
    type: str
    choices: [never, if_changed]
    default: never
  log:
    description:
      - The file to which the container prints. It is appended to, and only root reads it. By default
        C(/var/log/lxcri/oci/ID.log).
      - V(/dev/null) for a container that is to be checkpointed, or whose output nobody needs.
    type: path
  stop_signal:
    description:
      - The signal by which the process is asked to end. By default that of the annotation
        C(org.opencontainers.image.stopSignal) of the bundle, else V(SIGTERM).
    type: str
  stop_timeout:
    description:
      - Seconds until a process that goes on is killed. With V(0) it is killed at once.
    type: float
    default: 10
  wait:
    description:
      - Whether to wait until the process ends, return how it has ended and what it has printed, and remove the
        container. With O(state=started) only. It is run every time.
      - Without it nobody learns how a process has ended.
    type: bool
    default: false
  wait_timeout:
    description:
      - Seconds after which O(wait) stops and removes the container, and fails. By default it waits for ever.
    type: float
  kill:
    description:
      - A signal that is sent to the first process, such as V(HUP), V(SIGUSR1), V(RTMIN+3) or V(15). It is sent every
        time.
    type: str
  exec:
    description:
      - A command that is executed beside the process. It is executed every time, and never in check mode. The task
        fails when it ends with anything but 0.
      - What it leaves in the background must not keep its output open; runc waits for that.
    type: dict
    suboptions:
      command:
        description: The program and its arguments. There is no shell.
        type: list
        elements: str
        required: true
      env:
        description:
          - Variables, added to those of the container's process. Null takes one away. They do not appear in the list of
            processes of the machine.
        type: dict
      cwd:
        description: The working directory. By default that of the container's process.
        type: str
      user:
        description:
          - Whom it runs as, C(name), C(uid), C(name:group) or C(uid:gid). Names are those of the root file system. By
            default as the container's process.
          - As with Docker, a user other than root has capabilities in the bounding set only.
        type: str
      stdin:
        description: Its standard input. By default it has none.
        type: str
  update:
    description:
      - Limits of the running container, compared with those in force. They last as long as the container; those of
        the next one are in its bundle.
    type: dict
    suboptions:
      memory:
        description: Memory. Sizes are bytes, or have C(K), C(M), C(G), C(T), C(P), each 1024 times the one before.
        type: dict
        suboptions:
          limit:
            description: The limit; V(-1) for none.
            type: str
          reservation:
            description: What it is pushed back to when memory is short.
            type: str
          swap:
            description: The limit of memory and swap together; V(-1) for none.
            type: str
      cpu:
        description: Processors.
        type: dict
        suboptions:
          shares:
            description: The share when others want them too; 1024 is usual.
            type: int
          quota:
            description: Microseconds in each period; V(-1) for no limit.
            type: int
          period:
            description: Microseconds of a period.
            type: int
          cpus:
            description: Which processors, such as V(0-3,6).
            type: str
          mems:
            description: Which memory nodes.
            type: str
      pids:
        description: Processes.
        type: dict
        suboptions:
          limit:
            description: How many at most; V(-1) for no limit.
            type: int
            required: true
      block_io:
        description: Block devices.
        type: dict
        suboptions:
          weight:
            description: The share when others want them too, from 10 to 1000.
            type: int
            required: true
  checkpoint:
    description:
      - Save the processes with CRIU, and end the container. When there is a checkpoint at O(checkpoint.path) already,
        nothing is done.
      - It is refused, with all reasons, before anything is touched. The container needs O(log=/dev/null).
    type: dict
    suboptions:
      path:
        description: The directory of the checkpoint, an absolute path. It is there whole or not at all.
        type: str
        required: true
      leave_running:
        description: Whether the container goes on.
        type: bool
        default: false
      tcp_established:
        description: Whether connections over TCP may be open. They are saved.
        type: bool
        default: false
      ext_unix_sk:
        description: Whether Unix sockets may lead out of the container.
        type: bool
        default: false
      shell_job:
        description: Whether it may have a session that began outside of it.
        type: bool
        default: false
      file_locks:
        description: Whether files may be locked. The locks are saved.
        type: bool
        default: false
      manage_cgroups_mode:
        description: What CRIU does with control groups. By default V(ignore) with crun, and what runc decides.
        type: str
        choices: [soft, full, strict, ignore]
  restore:
    description:
      - With O(state=started) and O(state=paused), make the container of a checkpoint, if it is to be made. The
        checkpoint stays.
      - The bundle has to be the same, with the files in it as they were.
    type: dict
    suboptions:
      path:
        description: The directory of the checkpoint.
        type: str
        required: true
      tcp_established:
        description: As O(checkpoint.tcp_established).
        type: bool
        default: false
      ext_unix_sk:
        description: As O(checkpoint.ext_unix_sk).
        type: bool
        default: false
      shell_job:
        description: As O(checkpoint.shell_job).
        type: bool
        default: false
      file_locks:
        description: As O(checkpoint.file_locks).
        type: bool
        default: false
      manage_cgroups_mode:
        description: As O(checkpoint.manage_cgroups_mode).
        type: str
        choices: [soft, full, strict, ignore]
"""

EXAMPLES = r"""
- name: A container runs, and can be checkpointed
  lxcri.proxmox.oci_container:
    id: web
    bundle: /srv/bundles/web
    state: started
    recreate: if_changed
    log: /dev/null

- name: A job, and what it has printed
  lxcri.proxmox.oci_container:
    id: migrate
    bundle: /srv/bundles/migrate
    state: started
    wait: true
    wait_timeout: 600
  register: job

- name: A command beside it
  lxcri.proxmox.oci_container:
    id: web
    exec:
      command: [nginx, -t]
      user: nginx
  changed_when: false

- name: Tell it to read its configuration again
  lxcri.proxmox.oci_container:
    id: web
    kill: HUP

- name: Other limits, now
  lxcri.proxmox.oci_container:
    id: web
    update:
      memory: {limit: 256M}
      pids: {limit: 200}

- name: Save its processes
  lxcri.proxmox.oci_container:
    id: web
    checkpoint: {path: /srv/checkpoints/web}

- name: And go on from there
  lxcri.proxmox.oci_container:
    id: web
    bundle: /srv/bundles/web
    state: started
    log: /dev/null
    restore: {path: /srv/checkpoints/web}

- name: It is gone
  lxcri.proxmox.oci_container:
    id: web
    state: absent
"""

RETURN = r"""
container:
  description: The container as it is, or would be in check mode.
  returned: success
  type: dict
  contains:
    id:
      description: Its id.
      type: str
    status:
      description: V(created), V(running), V(paused), V(stopped) or V(absent).
      type: str
    pid:
      description: Its first process as the machine numbers it.
      type: int
    bundle:
      description: Its bundle.
      type: str
    log:
      description: The file to which it prints, when it was made by this module.
      type: str
runtime:
  description: The runtime, with its V(name), V(path) and V(root).
  returned: success
  type: dict
  sample: {name: crun, path: /usr/bin/crun, root: /run/crun}
plan:
  description: What was done, or would be in check mode, as V(key), V(before) and V(after).
  returned: success
  type: list
  elements: dict
  sample: [{key: state, before: absent, after: running}]
steps:
  description: The commands for that, in their order.
  returned: success
  type: list
  elements: str
  sample: [create, start]
recreate_required:
  description: Whether the container is not of its bundle as that is now.
  returned: success
  type: bool
rc:
  description: The exit code of O(exec) or O(wait), or 128 and the number of the signal that has ended it.
  returned: with O(exec) or O(wait), not in check mode
  type: int
stdout:
  description: What it has printed.
  returned: with O(exec) or O(wait), not in check mode
  type: str
stderr:
  description: What it has printed to its standard error.
  returned: with O(exec) or O(wait), not in check mode
  type: str
failure:
  description: What stands against it, see RV(lxcri.proxmox.lxc_container#module:failure).
  returned: on failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.module import run_module
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.container import (
    container_options,
    declared_options,
    run_declared,
)


def main():
    module = AnsibleModule(
        argument_spec={**container_options(), **declared_options()},
        supports_check_mode=True,
    )
    run_module(module, lambda: run_declared(module.params, module.check_mode))


if __name__ == "__main__":
    main()
