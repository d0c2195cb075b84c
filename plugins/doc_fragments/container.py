# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
import textwrap

# The options of one container: of lxc_container itself, and of each entry of lxc_fleet.
OPTIONS = r"""
node:
  description:
    - The node on which the container is to be.
    - Needed to create a container, except as a clone, which is made on the node of its source.
    - When the container is on another node, it is migrated if O(MIGRATE), else the difference is reported.
  type: str
vmid:
  description:
    - The id of the container. It identifies the container when it is given.
    - When it is not given, O(HOSTNAME) identifies the container, and a new container gets a free id.
  type: int
hostname:
  description:
    - The hostname. It identifies the container when O(VMID) is not given, and then exactly one container may have it.
  type: str
template:
  description:
    - The volume of the template from which the container is created, such as
      V(local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst).
  type: str
  aliases: [ostemplate]
image:
  description:
    - The OCI image from which the container is created, instead of a template. Application containers of images are a
      technology preview of Proxmox VE 9.1.
    - Where the module runs, C(skopeo) looks the image up before anything is written.
    - Afterwards O(ENTRYPOINT) and O(ENV) are those of the image, and those of the options over them. User, working
      directory and stop signal are set as well, unless the image has to be converted. What Proxmox cannot express is
      in RV(losses).
    - A comment at the end of the description keeps of which image the container is. It stays when the description
      changes.
    - When the container is of another image, that is reported, and it is made anew with O(RECREATE).
  type: dict
  suboptions:
    reference:
      description:
        - The image, such as V(nginx:1.29), V(docker.io/library/nginx:1.29) or V(registry.example/app@sha256:…).
      type: str
      required: true
    storage:
      description: The storage to which the image is brought. It needs the content type for templates (C(vztmpl)).
      type: str
      default: local
    pull:
      description:
        - V(missing) asks no registry about a container that is there and of the same reference.
        - V(newer) asks what the tag means now. When it is another digest, that is reported.
      type: str
      choices: [missing, newer]
      default: missing
    method:
      description:
        - How the image comes to the storage.
        - V(registry) has Proxmox VE 9.1 or newer pull it, which takes a tag and knows neither credentials nor a CA.
        - V(upload) pulls it where the module runs, verifies it, and uploads it as an archive that Proxmox VE 9.1 or
          newer takes for an image.
        - V(template) pulls and unpacks it there, as root, and uploads it as an ordinary template. User, working
          directory and stop signal are then in RV(losses); M(lxcri.proxmox.lxc_raw_config) sets them.
        - Before Proxmox VE 9.1 the C(/sbin/init) of that template runs the command of the image, which needs a shell in
          it. Addresses are then in RV(losses).
        - V(auto) is V(registry) where that is possible, else V(upload), and V(template) before Proxmox VE 9.1. With
          credentials that C(skopeo login) or C(docker login) has left where the module runs it is V(upload) too.
      type: str
      choices: [auto, registry, upload, template]
      default: auto
    platform:
      description: The platform, such as V(linux/arm64). Without it, it is C(linux/amd64).
      type: str
    username:
      description: The user at the registry.
      type: str
    password:
      description: The password of the user.
      type: str
    token:
      description: An identity token instead of the password, as C(identitytoken) of Docker's C(config.json).
      type: str
    auth_file:
      description: A file with credentials where the module runs, as C(skopeo login --authfile) writes it.
      type: path
    ca_path:
      description: A file with certificates (PEM) that are trusted besides those of the system.
      type: path
    validate_certs:
      description: Whether the certificate of the registry is verified.
      type: bool
      default: true
    store:
      description: The directory where images are kept that the module pulls itself.
      type: path
      default: /var/lib/lxcri/oci
    volumes:
      description:
        - Mount points for volumes of the image, by their paths. Each is a dictionary with C(storage) and C(size), and
          what else O(MOUNTS) has.
        - A volume of the image that is not declared is a directory of the root volume, and in RV(losses).
      type: dict
      default: {}
clone:
  description:
    - Create the container as a copy of another one. What else is declared is applied to the copy.
  type: dict
  suboptions:
    vmid:
      description: The id of the source.
      type: int
    hostname:
      description: The hostname of the source, instead of its id.
      type: str
    snapshot:
      description: The snapshot of the source to copy. A running container can only be copied from a snapshot.
      type: str
    full:
      description:
        - V(true) copies the volumes, V(false) links them to those of the source, which must be a template.
        - By default a template is linked and any other container copied.
      type: bool
    storage:
      description: The storage for the volumes of a full copy.
      type: str
    bwlimit:
      description: The bandwidth limit of the copy in KiB/s.
      type: int
restore:
  description:
    - Create the container from a backup. What else is declared is applied afterwards.
  type: dict
  suboptions:
    volume:
      description: The volume of the backup, such as V(local:backup/vzdump-lxc-101-2026_01_31-02_00_00.tar.zst).
      type: str
      required: true
    force:
      description:
        - Overwrite the container when it exists. B(Its volumes are destroyed), every time the task runs.
      type: bool
      default: false
    unique:
      description: Give the network interfaces new MAC addresses.
      type: bool
      default: false
    bwlimit:
      description: The bandwidth limit of the restore in KiB/s.
      type: int
storage:
  description:
    - The storage for new volumes that do not name one of their own.
  type: str
pool:
  description:
    - The resource pool of the container. An existing container is moved into it.
    - Without C(Pool.Audit) on it nobody sees that the container is in it.
  type: str
password:
  description:
    - The password of root inside the container. Only used at creation.
  type: str
pubkey:
  description:
    - Public SSH keys for root inside the container, one in a line. Only used at creation.
  type: str
  aliases: [ssh_public_keys]
ignore_unpack_errors:
  description:
    - Ignore errors when the template is unpacked. Only used at creation.
  type: bool
  default: false
arch:
  description: The architecture. Proxmox finds it in the template.
  type: str
  choices: [amd64, i386, arm64, armhf, riscv32, riscv64]
cmode:
  description: What the console opens.
  type: str
  choices: [shell, console, tty]
console:
  description: Whether there is a console device.
  type: bool
cores:
  description: The number of cores. Without it the container may use all.
  type: int
cpulimit:
  description: The limit of CPU time in cores, such as V(0.5). V(0) is no limit.
  type: float
cpuunits:
  description: The weight against other containers and VMs.
  type: int
debug:
  description: Whether starting the container writes a debug log.
  type: bool
description:
  description: The notes, in Markdown. An empty text removes them. C(<!-- lxcri.proxmox) begins what the collection
    itself notes there, and is refused.
  type: str
entrypoint:
  description: The command that is started as init, as one line.
  type: str
env:
  description:
    - Environment variables for the entrypoint. It is whole, so that a variable that is left out is removed.
    - With O(IMAGE) they are added to those of the image.
    - Proxmox does not keep blanks at the end of a value.
  type: dict
features:
  description:
    - Features for the container. It is whole, so that a feature that is left out is switched off.
    - Only root@pam with a password may set others than C(nesting).
  type: dict
  suboptions:
    nesting:
      description: Allow nesting, as systemd and container runtimes need it.
      type: bool
    keyctl:
      description: Allow the keyctl() system call in an unprivileged container.
      type: bool
    fuse:
      description: Allow FUSE file systems.
      type: bool
    mknod:
      description: Allow mknod() for some device nodes in an unprivileged container.
      type: bool
    force_rw_sys:
      description: Mount /sys writable in an unprivileged container.
      type: bool
    mount:
      description: File system types that may be mounted, such as V(nfs).
      type: list
      elements: str
hookscript:
  description:
    - The volume of a hook script, such as V(local:snippets/hook.pl). Only root@pam with a password may set it.
  type: str
memory:
  description: The memory in MiB.
  type: int
swap:
  description: The swap in MiB.
  type: int
nameserver:
  description: The addresses of DNS servers. An empty list means those of the node.
  type: list
  elements: str
searchdomain:
  description: The DNS search domains. An empty list means those of the node.
  type: list
  elements: str
onboot:
  description: Whether the container starts with its node.
  type: bool
startup:
  description: The order of starting and stopping with the node. It is whole.
  type: dict
  suboptions:
    order:
      description: The place in the order; stopping goes backwards.
      type: int
    up:
      description: Seconds to wait before the next one is started.
      type: int
    down:
      description: Seconds to wait for this one to stop.
      type: int
ostype:
  description:
    - The kind of operating system, by which Proxmox sets the container up. Proxmox finds it in the template.
    - A difference is reported as C(recreate).
  type: str
  choices: [debian, devuan, ubuntu, centos, fedora, opensuse, archlinux, alpine, gentoo, nixos, unmanaged]
protection:
  description: Whether removing the container and changing its volumes is refused.
  type: bool
tags:
  description: The tags. They are whole; an empty list removes all.
  type: list
  elements: str
timezone:
  description: The time zone, such as V(Europe/Vienna), or V(host).
  type: str
tty:
  description: The number of terminals, 0 to 6.
  type: int
unprivileged:
  description:
    - Whether root inside the container is an unprivileged user of the node. Proxmox VE 9 makes it so by default.
    - A difference is reported as C(recreate).
  type: bool
rootfs:
  description:
    - The root volume. Options that are left out are switched off; a size that is left out stays.
    - A larger size grows the volume. A smaller one is refused.
  type: dict
  suboptions: &mount
    storage:
      description: The storage for the volume. When it differs, the volume is moved if O(MOVE_VOLUMES).
      type: str
    volume:
      description: An existing volume, or a path on the node (which only root@pam with a password may mount).
      type: str
    size:
      description: The size, such as V(8G) or V(512M).
      type: str
    acl:
      description: Whether POSIX ACLs are supported.
      type: bool
    idmap:
      description: The mapping of ids of this mount, V(passthrough) or V(type:container:host:count) separated by V(;).
      type: str
    mountoptions:
      description: Mount options, out of V(discard), V(lazytime), V(noatime), V(nodev), V(noexec) and V(nosuid).
      type: list
      elements: str
    quota:
      description: Whether user quotas are supported. Not for ZFS volumes.
      type: bool
    replicate:
      description: Whether the volume is part of storage replication.
      type: bool
    ro:
      description: Whether the volume is mounted read-only.
      type: bool
    shared:
      description: Whether the volume is there on all nodes though its storage is not shared.
      type: bool
mounts:
  description:
    - The mount points. The list is whole. A mount point that is left out is detached, and its volume is kept as
      C(unusedN).
  type: list
  elements: dict
  suboptions:
    id:
      description: The key, such as V(mp0). By default the place in the list.
      type: str
    mp:
      description: The path inside the container.
      type: str
    backup:
      description: Whether backups include the volume.
      type: bool
    keepattrs:
      description: Whether a new volume takes the owner and mode of the directory that it hides.
      type: bool
    <<: *mount
networks:
  description:
    - The network interfaces. The list is whole, and so is each interface. A MAC address that is left out is kept.
  type: list
  elements: dict
  suboptions:
    id:
      description: The key, such as V(net0). By default the place in the list.
      type: str
    name:
      description: The name inside the container, such as V(eth0).
      type: str
    bridge:
      description: The bridge or VNet.
      type: str
    firewall:
      description: Whether the firewall's rules apply.
      type: bool
    gw:
      description: The IPv4 gateway.
      type: str
    gw6:
      description: The IPv6 gateway.
      type: str
    host_managed:
      description:
        - Whether the node sets the addresses, for containers without an init of their own. Proxmox spells it
          C(host-managed).
      type: bool
    hwaddr:
      description: The MAC address.
      type: str
    ip:
      description: The IPv4 address with its prefix length, V(dhcp) or V(manual).
      type: str
    ip6:
      description: The IPv6 address with its prefix length, V(auto), V(dhcp) or V(manual).
      type: str
    link_down:
      description: Whether the interface is disconnected.
      type: bool
    mtu:
      description: The MTU.
      type: int
    rate:
      description: The limit in MB/s.
      type: float
    tag:
      description: The VLAN tag.
      type: int
    trunks:
      description: The VLAN ids that pass.
      type: list
      elements: str
    type:
      description: The kind of interface. Proxmox has only V(veth).
      type: str
devices:
  description:
    - Devices of the node that are passed through. The list is whole. Only root@pam with a password may set them.
  type: list
  elements: dict
  suboptions:
    id:
      description: The key, such as V(dev0). By default the place in the list.
      type: str
    path:
      description: The path of the device on the node.
      type: str
    mode:
      description: The mode inside the container, such as V(0660).
      type: str
    uid:
      description: The owner inside the container.
      type: int
    gid:
      description: The group inside the container.
      type: int
    deny_write:
      description: Whether writing is denied. Proxmox spells it C(deny-write).
      type: bool
unset:
  description:
    - Keys to be removed from the configuration, such as V(description) or V(mp1).
  type: list
  elements: str
  default: []
restart:
  description:
    - Whether a running container may be restarted for changes that need it. With V(never) they wait for the next
      stop, and RV(restart_required) says so.
  type: str
  choices: [never, if_needed]
  default: never
migrate:
  description:
    - Whether the container is migrated when it is not on O(NODE). A running one is restarted by that, and only if
      O(RESTART=if_needed).
  type: bool
  default: false
move_volumes:
  description:
    - Whether a volume is moved when it is not on the storage that is declared. The container is stopped for that,
      and only if O(RESTART=if_needed). The volume on the old storage is removed after the copy.
  type: bool
  default: false
recreate:
  description:
    - Whether the container is made anew when it is of another image than O(IMAGE) says. B(Its root volume is lost.)
    - All its other volumes are kept, and so are its id, its addresses and its options. A second container holds the
      volumes meanwhile. An interrupted run is finished by the next one.
    - What is granted on its id alone ends with the old one. Rules of its firewall and raw lines would be lost, which
      takes O(FORCE). With snapshots, and under HA or replication, it is refused.
  type: bool
  default: false
force:
  description:
    - Whether a running container is stopped, without a shutdown, for what it must be stopped for.
  type: bool
  default: false
purge:
  description:
    - With O(STATE=absent), whether the container is removed from backup jobs, replication and HA as well.
  type: bool
  default: false
wait_for_address:
  description:
    - Whether to wait until the running container has an address.
  type: bool
  default: false
address_timeout:
  description:
    - Seconds to wait for an address.
  type: int
  default: 60
shutdown_timeout:
  description:
    - Seconds that the container has to shut down. One that is restarted or made anew, or whose volumes move, is stopped
      hard then. One that is to be V(stopped) or that migrates goes on running, and the task fails.
    - By default Proxmox waits for a minute, for a migration for three.
  type: int
timeout:
  description:
    - Seconds to wait for each task of Proxmox, besides O(SHUTDOWN_TIMEOUT). The task itself goes on.
  type: int
  default: 600
"""

# What only the containers of a fleet have.
FLEET_OPTIONS = r"""
state:
  description: STATE
  type: str
  choices: [present, started, stopped, absent]
spread:
  description:
    - Containers with the same value are spread evenly over the nodes when they are created without C(node).
  type: str
group:
  description:
    - The group of replicas to which the container belongs. When O(rollouts) has a strategy for it, its replicas are
      changed a few at a time, in the order of the list.
  type: str
unit:
  description:
    - Containers with the same value are one replica. They are on one node, that of the first of them, and they are
      changed and rolled back together.
  type: str
surge:
  description:
    - Whether the container is there only while others of its O(GROUP) are changed. It is created before the first of
      them is changed, and removed B(with its volumes) when the last one works.
    - It is never protected.
  type: bool
health:
  description:
    - What the container has to answer while it runs. Of O(HEALTH.tcp), O(HEALTH.http) and O(HEALTH.command) at least
      one is given, and all that are must succeed at once.
    - It is awaited after every change, and verified in every run. A container that is not healthy fails the task.
    - In check mode nothing is asked.
    - Connections are made by the machine where the module runs, which has to reach the container.
  type: dict
  suboptions:
    tcp:
      description: A connection that has to be accepted.
      type: dict
      suboptions: &endpoint
        port:
          description: The port.
          type: int
          required: true
        address:
          description:
            - The address. Without it, it is the first static one of the container, or else one that it has got.
          type: str
    http:
      description: A GET request. Redirections are not followed.
      type: dict
      suboptions:
        path:
          description: The path, with a query if that is needed.
          type: str
          default: /
        scheme:
          description: With V(https), the name of the certificate is that of the header C(Host), or the address.
          type: str
          choices: [http, https]
          default: http
        status:
          description: The statuses that are good. An empty list means 200 to 399.
          type: list
          elements: int
          default: []
        headers:
          description: Headers of the request. They are no place for secrets; Ansible shows a task's options.
          type: dict
          default: {}
        validate_certs:
          description: Whether the certificate is verified.
          type: bool
          default: true
        ca_path:
          description: A file with the certificates (PEM) of the authorities that are trusted.
          type: path
        <<: *endpoint
    command:
      description:
        - A command that has to end with status 0 in the container, as a list. Its node runs it with C(pct exec), which
          takes root on the node; see O(ssh).
      type: list
      elements: str
    command_user:
      description: The user inside the container who runs O(HEALTH.command). Without it, it is root.
      type: str
    start_period:
      description: Seconds after the start of the container in which failures do not count.
      type: float
      default: 30
    interval:
      description: Seconds between two attempts.
      type: float
      default: 2
    timeout:
      description: Seconds for one attempt of each check. Those of a command are counted on the node.
      type: float
      default: 5
    retries:
      description: After how many failures in a row the container is not healthy.
      type: int
      default: 3
"""

_REFERENCES = {
    "O(MIGRATE)": "migrate=true",
    "O(HOSTNAME)": "hostname",
    "O(VMID)": "vmid",
    "O(MOVE_VOLUMES)": "move_volumes=true",
    "O(NODE)": "node",
    "O(ENTRYPOINT)": "entrypoint",
    "O(ENV)": "env",
    "O(MOUNTS)": "mounts",
    "O(IMAGE)": "image",
    "O(RECREATE)": "recreate=true",
    "O(FORCE)": "force=true",
    "O(RESTART=if_needed)": "restart=if_needed",
    "O(SHUTDOWN_TIMEOUT)": "shutdown_timeout",
    "O(STATE=absent)": "state=absent",
}


def _options(prefix: str, indent: int) -> str:
    """The options, with references to each other below ``prefix``, and indented."""
    text = OPTIONS.strip("\n")
    for mark, option in _REFERENCES.items():
        text = text.replace(mark, f"O({prefix}{option})")
    if prefix:
        # A document cannot have one anchor twice.
        anchor = "mount_" + re.sub(r"\W", "", prefix)
        text = text.replace("&mount", f"&{anchor}").replace("*mount", f"*{anchor}")
        for name in ("restart_required", "losses"):
            text = text.replace(f"RV({name})", f"RV(containers[].{name})")
        # In a fleet an option that is not given may come from its defaults.
        text = re.sub(r"^  default: .*\n?", "", text, flags=re.MULTILINE)
    return textwrap.indent(text, " " * indent)


def _fleet_options(prefix: str, state: str, indent: int) -> str:
    """What only the containers of a fleet have, with references to each other below ``prefix``, and indented."""
    text = FLEET_OPTIONS.strip("\n").replace("STATE", state)
    text = text.replace("O(GROUP)", f"O({prefix}group)").replace("O(HEALTH.", f"O({prefix}health.")
    # A document cannot have one anchor twice.
    anchor = "endpoint_" + re.sub(r"\W", "", prefix)
    return textwrap.indent(text.replace("&endpoint", f"&{anchor}").replace("*endpoint", f"*{anchor}"), " " * indent)


class ModuleDocFragment:
    # The options of one container, at the top level.
    DOCUMENTATION: str = "options:\n" + _options("", 2)

    # The same as the entries of a fleet.
    FLEET: str = (
        r"""
options:
  containers:
    description:
      - The containers. Each has the options of M(lxcri.proxmox.lxc_container).
      - A new container without C(node) is placed on the node with the fewest containers, and a clone on the node of
        its source.
    type: list
    elements: dict
    required: true
    suboptions:
"""
        + _fleet_options("containers[].", "What it is to be, see O(lxcri.proxmox.lxc_container#module:state).", 6)
        + "\n"
        + _options("containers[].", 6)
        + r"""
  defaults:
    description:
      - Options for every container that does not give them itself, out of those of O(containers).
      - A value of a container replaces that of the defaults as a whole.
      - What neither gives has the default of M(lxcri.proxmox.lxc_container), and O(containers[].state) is V(started).
    type: dict
    default: {}
    suboptions:
"""
        + _fleet_options("defaults.", "See O(containers[].state).", 6)
        + "\n"
        + _options("defaults.", 6)
    )
