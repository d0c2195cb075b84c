# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # What a runtime does, in the words of the OCI runtime specification.
    DOCUMENTATION = r"""
options:
  process:
    description:
      - What runs. What is not given is that of the image.
    type: dict
    suboptions:
      entrypoint:
        description:
          - Replaces the image's C(Entrypoint), and drops its C(Cmd), as C(docker run --entrypoint) does.
        type: list
        elements: str
      args:
        description:
          - Replaces the image's C(Cmd), the arguments of its C(Entrypoint).
        type: list
        elements: str
      env:
        description:
          - Variables, added to those of the image. A number is written as it is; put C(true) and the like in quotes.
            Null takes a variable of the image away.
          - C(PATH) has a default when the image has none. C(HOME) is not invented here; runtimes set it.
        type: dict
      cwd:
        description:
          - The working directory. It is made when it is not there, but not in a O(rootfs), which stays as it is.
        type: str
      user:
        description:
          - Whom it runs as, C(name), C(uid), C(name:group) or C(uid:gid). Names are those of the root file system. The
            groups of an account count as supplementary ones when no group is given.
        type: str
      additional_gids:
        description: More supplementary groups, as numbers.
        type: list
        elements: int
      umask:
        description: The umask, an octal number such as V(0027).
        type: str
      capabilities:
        description:
          - The capabilities, with or without C(CAP_). By default the fourteen of Docker.
          - As with Docker, a user other than root has them in the bounding set only.
        type: dict
        suboptions:
          add:
            description: To be added to the default; V(ALL) for all.
            type: list
            elements: str
          drop:
            description: To be taken from the default; V(ALL) for all of it, after which only
              O(process.capabilities.add) is left.
            type: list
            elements: str
          only:
            description: The exact list, instead of O(process.capabilities.add) and O(process.capabilities.drop).
            type: list
            elements: str
          ambient:
            description: Of these, the ones that a user other than root keeps when it runs a program.
            type: list
            elements: str
      rlimits:
        description: Limits of the process.
        type: list
        elements: dict
        suboptions:
          type:
            description: Such as V(RLIMIT_NOFILE) or V(nofile).
            type: str
            required: true
          soft:
            description: The soft limit, a number or V(unlimited).
            type: str
            required: true
          hard:
            description: The hard limit. By default the same.
            type: str
      no_new_privileges:
        description: Whether no program can give more privileges, such as by setuid.
        type: bool
      terminal:
        description: Whether it has a terminal. By default it has none.
        type: bool
      oom_score_adj:
        description: How likely it is killed when memory is short, from -1000 to 1000.
        type: int
      apparmor_profile:
        description: The AppArmor profile, which has to be loaded.
        type: str
      selinux_label:
        description: The SELinux label.
        type: str
  root:
    description: The root file system.
    type: dict
    suboptions:
      readonly:
        description: Whether it is read-only.
        type: bool
  hostname:
    description: The hostname. Without it, it is that of the machine.
    type: str
  mounts:
    description:
      - Mounts beside the usual ones on C(/proc), C(/dev), C(/dev/pts), C(/dev/shm), C(/dev/mqueue), C(/sys) and
        C(/sys/fs/cgroup). One with the same destination replaces a usual one.
    type: list
    elements: dict
    suboptions:
      destination:
        description: Where, an absolute path in the container.
        type: str
        required: true
      type:
        description: V(bind), V(tmpfs) or any type of file system.
        type: str
      source:
        description: What, a path of the node for a bind mount.
        type: str
      options:
        description: Such as V(ro) and V(nosuid).
        type: list
        elements: str
  namespaces:
    description:
      - The namespaces that it has of its own, instead of V(pid), V(network), V(ipc), V(uts) and V(mount).
    type: list
    elements: dict
    suboptions:
      type:
        description: The kind of namespace. V(user) needs C(spec.linux.uidMappings) and C(spec.linux.gidMappings).
        type: str
        required: true
        choices: [pid, network, ipc, uts, mount, user, cgroup, time]
      path:
        description: One to join, such as V(/run/netns/web), instead of a new one.
        type: str
  resources:
    description: The limits of the control group.
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
            description: The limit of memory and swap together.
            type: str
          swappiness:
            description: From 0 to 100. Control groups of version 1 only.
            type: int
          disable_oom_killer:
            description: Whether it waits for memory instead of being killed. Control groups of version 1 only.
            type: bool
      cpu:
        description: Processors.
        type: dict
        suboptions:
          shares:
            description: The share when others want them too; 1024 is usual.
            type: int
          quota:
            description: Microseconds in each period.
            type: int
          period:
            description: Microseconds of a period.
            type: int
          realtime_runtime:
            description: Microseconds of real-time scheduling in each period of it.
            type: int
          realtime_period:
            description: Microseconds of a period of real-time scheduling.
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
            description: How many at most.
            type: int
            required: true
      block_io:
        description: Block devices. A device is named by its numbers.
        type: dict
        suboptions:
          weight:
            description: The share when others want them too, from 10 to 1000.
            type: int
          leaf_weight:
            description: The same against its own children. Control groups of version 1 only.
            type: int
          weight_device:
            description: The weight for a device.
            type: list
            elements: dict
            suboptions: &weights
              major:
                description: The major number.
                type: int
                required: true
              minor:
                description: The minor number.
                type: int
                required: true
              weight:
                description: The weight.
                type: int
              leaf_weight:
                description: The weight against its own children.
                type: int
          throttle_read_bps_device:
            description: Bytes per second read.
            type: list
            elements: dict
            suboptions: &throttle
              major:
                description: The major number.
                type: int
                required: true
              minor:
                description: The minor number.
                type: int
                required: true
              rate:
                description: The rate.
                type: int
                required: true
          throttle_write_bps_device:
            description: Bytes per second written.
            type: list
            elements: dict
            suboptions: *throttle
          throttle_read_iops_device:
            description: Reads per second.
            type: list
            elements: dict
            suboptions: *throttle
          throttle_write_iops_device:
            description: Writes per second.
            type: list
            elements: dict
            suboptions: *throttle
      devices:
        description: Rules on devices, after one that denies all and those for O(devices).
        type: list
        elements: dict
        suboptions:
          allow:
            description: Whether it allows or denies.
            type: bool
            required: true
          type:
            description: All, block or character devices.
            type: str
            choices: [a, b, c]
          major:
            description: The major number; all without it.
            type: int
          minor:
            description: The minor number; all without it.
            type: int
          access:
            description: Of C(r), C(w) and C(m).
            type: str
      unified:
        description: Files of control groups of version 2 and what is written to them, such as C(memory.high).
        type: dict
  devices:
    description: Device nodes that are made, and allowed.
    type: list
    elements: dict
    suboptions:
      path:
        description: Where, an absolute path in the container.
        type: str
        required: true
      type:
        description: Block, character, unbuffered character device, or FIFO.
        type: str
        required: true
        choices: [b, c, u, p]
      major:
        description: The major number.
        type: int
      minor:
        description: The minor number.
        type: int
      uid:
        description: Its owner.
        type: int
      gid:
        description: Its group.
        type: int
      file_mode:
        description: Its mode, an octal number such as V(0660).
        type: str
  seccomp:
    description:
      - A seccomp profile in the words of the runtime specification, as a dictionary or as the path of a JSON file on
        the node. Without it there is none.
      - Profiles in Docker's own format, with C(archMap), C(includes) and C(excludes), are refused.
    type: raw
  sysctl:
    description: Kernel parameters of its namespaces.
    type: dict
  masked_paths:
    description: What cannot be seen, instead of the usual list. An empty list masks nothing.
    type: list
    elements: str
  readonly_paths:
    description: What cannot be written, instead of the usual list.
    type: list
    elements: str
  rootfs_propagation:
    description: How mounts in the container and on the machine see each other.
    type: str
    choices: [private, shared, slave, unbindable]
  cgroups_path:
    description: The control group. By default the runtime chooses it.
    type: str
  mount_label:
    description: The SELinux label of mounts.
    type: str
  hooks:
    description: Programs of the node that the runtime runs.
    type: dict
    suboptions:
      prestart:
        description: Before the program starts, in the runtime's namespaces. Prefer O(hooks.create_runtime).
        type: list
        elements: dict
        suboptions: &hook
          path:
            description: The program, an absolute path.
            type: str
            required: true
          args:
            description: Its arguments, the first of which is its name.
            type: list
            elements: str
          env:
            description: Its environment.
            type: dict
          timeout:
            description: Seconds after which it is killed.
            type: int
      create_runtime:
        description: After the namespaces are made, in those of the runtime.
        type: list
        elements: dict
        suboptions: *hook
      create_container:
        description: After the namespaces are made, in those of the container, before the root is changed.
        type: list
        elements: dict
        suboptions: *hook
      start_container:
        description: Before the program starts, in the container.
        type: list
        elements: dict
        suboptions: *hook
      poststart:
        description: After the program has started, in the runtime's namespaces.
        type: list
        elements: dict
        suboptions: *hook
      poststop:
        description: After the container was deleted, in the runtime's namespaces.
        type: list
        elements: dict
        suboptions: *hook
  annotations:
    description: Any names and values.
    type: dict
  spec:
    description:
      - Anything else of the runtime specification, in its own words. It is merged into the rest; dictionaries are
        merged, anything else replaces, and null removes.
    type: dict
"""
