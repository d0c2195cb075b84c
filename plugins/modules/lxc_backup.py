#!/usr/bin/python
# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lxc_backup
short_description: Make, remove, restore, verify and copy backups of containers
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Backs one or many LXC containers of Proxmox VE up with vzdump, keeps as many backups as rules say, and restores,
    verifies and copies them.
  - Nodes work at the same time. On each node backups are made one after the other, as Proxmox does.
  - What Proxmox or the user's privileges do not allow is reported before the first write, in check mode too.
  - A container that fails does not stop the others. The task fails at the end and names all that failed.
  - Backups at certain times are jobs of Proxmox, the kind V(backup_job) of M(lxcri.proxmox.pve_object).
seealso:
  - module: lxcri.proxmox.lxc_container
  - module: lxcri.proxmox.pve_object
  - module: lxcri.proxmox.lxc_snapshot
extends_documentation_fragment:
  - lxcri.proxmox.api
  - lxcri.proxmox.api.action_group
  - lxcri.proxmox.attributes
  - lxcri.proxmox.retention
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: partial
    details: O(state=present) without O(max_age) makes a backup, and O(state=restored) restores, every time.
options:
  vmid:
    description:
      - The ids of the containers. Where no backup is made they may be gone.
    type: list
    elements: int
    default: []
  hostname:
    description:
      - The hostnames of the containers. Exactly one container may have each.
    type: list
    elements: str
    default: []
  volume:
    description:
      - The backups, instead of O(vmid) and O(hostname).
    type: list
    elements: str
    default: []
  node:
    description:
      - The node on which the storage is looked at. By default that of the container, and where that is gone all nodes.
      - With O(vmid) it is of use for exactly one.
    type: str
  storage:
    description:
      - The storage of the backups. It needs the content type V(backup). O(volume) says it as well.
    type: str
  state:
    description:
      - V(present) makes a backup, unless O(max_age) says that there is one. With O(volume) it only makes these
        protected, or not, as O(protected) says.
      - V(absent) removes O(volume), or what O(max_age) and O(keep) choose of the backups that begin with O(prefix).
      - V(restored) makes a container of the backup, the same or another one. A container that exists is overwritten
        with O(restore.force) alone.
      - V(verified) fails unless the backup is listed, is not empty, was not found damaged by a Proxmox Backup Server,
        and gives the configuration of the container out. It changes nothing, and does not read the archive's files.
      - V(downloaded) copies the archive to O(dest).
      - The last three are about O(volume), or else the newest backup of the container.
    type: str
    choices: [present, absent, restored, verified, downloaded]
    default: present
  mode:
    description:
      - How a running container is backed up. V(stop) stops it for as long as the backup takes, and is refused for one
        that the HA manager keeps running.
      - Where a volume's storage has no snapshots, Proxmox takes V(suspend) for V(snapshot).
    type: str
    choices: [snapshot, suspend, stop]
    default: snapshot
  compress:
    description:
      - How the archive is compressed.
    type: str
    choices: [zstd, gzip, lzo, none]
    default: zstd
  notes:
    description:
      - What is noted with a new backup, after O(prefix). Proxmox replaces C({{guestname}}), C({{vmid}}), C({{node}})
        and C({{cluster}}); in a playbook that needs C(!unsafe).
      - By default the hostname.
    type: str
  prefix:
    description:
      - How the notes of the backups begin. O(keep) and O(max_age) never touch others, nor count them.
      - By default V(lxcri). Where a backup is restored, verified or copied, it is any, by default.
    type: str
  protected:
    description:
      - Whether the backup is protected from being removed. It is changed where it differs.
    type: bool
  bwlimit:
    description:
      - KiB for each second, at most. For a backup that needs C(Sys.Modify) on C(/).
    type: int
  max_age:
    description:
      - A span of time such as V(12h), V(30d) or V(4w).
      - With O(state=present), no backup is made while there is one that is not older.
      - With O(state=absent), those that are older are removed.
      - With O(state=verified), the newest must not be older.
    type: str
  keep:
    description:
      - Remove backups that begin with O(prefix) and that no rule keeps. The rules are those of Proxmox's backup
        retention, and count periods that have a backup. Protected backups stay, and do not count.
      - Proxmox's own retention, of the storage, is never applied by this module.
  notify:
    description:
      - Whether Proxmox tells of each backup, as its notifications are set up. Otherwise it tells nobody, also not of a
        failure and not the address in C(/etc/vzdump.conf).
    type: bool
    default: true
  restore:
    description:
      - What becomes of the backup with O(state=restored).
    type: dict
    suboptions:
      vmid:
        description: The id of the container. By default that of the backup.
        type: int
      hostname:
        description:
          - The hostname of the container, which gets a free id. It is the identity instead of
            O(restore.vmid).
        type: str
      storage:
        description:
          - The storage of all volumes. By default that of the root volume, of the container that is overwritten or of
            that in the backup.
        type: str
      pool:
        description: The pool of the container.
        type: str
      unique:
        description:
          - Whether its interfaces get new MAC addresses. By default they do when it is another container than that of
            the backup.
        type: bool
      start:
        description: Whether it is started. By default it is when it overwrites one that runs.
        type: bool
      force:
        description:
          - Whether a container that exists is overwritten, with all its volumes and snapshots. A running one is stopped
            hard.
          - Proxmox destroys the old volumes before it extracts the archive.
        type: bool
        default: false
      discard:
        description:
          - With O(restore.force), the volumes of the container that may be destroyed though nothing of them is in the
            backup, such as V(mp0) or V(unused0). A mount point without C(backup=1) is not in a backup, and Proxmox
            would bring it back empty.
          - Without it such a restore is refused with the code V(would_lose_data).
        type: list
        elements: str
        default: []
  dest:
    description:
      - The file, or the directory that is there, to which O(state=downloaded) copies the archive. A file of the same
        size is not copied again.
      - Proxmox's API gives no archives out. The module has to run on the node (C(delegate_to)), or on a machine that
        has the storage at the same path, or O(api_backend=openssh) is set with the node as O(api_host).
    type: path
  concurrency:
    description:
      - How many containers are worked on at a time on each node. Backups are made one at a time.
    type: int
    default: 4
  timeout:
    description:
      - Seconds to wait for each task of Proxmox. The task itself goes on. A backup waits in its task while others are
        made on the node.
    type: int
    default: 3600
  progress_path:
    description:
      - A file that is there, to which a line is added for each finished step. The action plugin gives it by itself.
    type: path
"""

EXAMPLES = r"""
- name: A backup of each, unless there is one of today
  lxcri.proxmox.lxc_backup:
    hostname: [web-1, web-2]
    storage: local
    max_age: 20h
    keep: {last: 3, weekly: 4}
    keep_timezone: Europe/Vienna

- name: A backup before an upgrade, which nothing removes
  lxcri.proxmox.lxc_backup:
    hostname: web-1
    storage: local
    prefix: upgrade
    notes: Before the upgrade to 2.0
    protected: true
    max_age: 1w
  register: before

- name: The newest backup can be restored, as far as can be told without restoring it
  lxcri.proxmox.lxc_backup:
    hostname: web-1
    storage: local
    max_age: 24h
    state: verified

- name: What was before the upgrade, in a container beside it, unless that is there
  lxcri.proxmox.lxc_backup:
    volume: "{{ before.containers[0].volume }}"
    state: restored
    restore: {hostname: web-1-before, storage: local-zfs}
  register: beside
  failed_when: beside.failed and beside.failure.code != 'would_lose_data'

- name: Back to it, and running again if it was running
  lxcri.proxmox.lxc_backup:
    volume: "{{ before.containers[0].volume }}"
    state: restored
    restore: {force: true}

- name: It need not be protected any more
  lxcri.proxmox.lxc_backup:
    volume: "{{ before.containers[0].volume }}"
    protected: false

- name: It is not needed any more
  lxcri.proxmox.lxc_backup:
    volume: "{{ before.containers[0].volume }}"
    state: absent
"""

RETURN = r"""
containers:
  description: One result for each container, those of O(vmid) first.
  returned: always
  type: list
  elements: dict
  contains:
    hostname:
      description: The hostname, or the id when that is all that was given.
      type: str
    vmid:
      description: The id; with O(state=restored) that of the container that was made.
      type: int
    node:
      description: The node.
      type: str
    changed:
      description: Whether something was done.
      type: bool
    plan:
      description: See RV(lxcri.proxmox.lxc_container#module:plan).
      type: list
      elements: dict
    volume:
      description:
        - The backup that the task was about, the one that was made or found recent enough. V(null) in check mode for
          one that is yet to be made.
      type: str
      sample: local:backup/vzdump-lxc-201-2026_01_31-02_00_00.tar.zst
    backups:
      description: Its backups on the storage after the task, the newest first; in check mode, those that it has.
      type: list
      elements: dict
      contains:
        volume:
          description: The volume.
          type: str
        vmid:
          description: The id of the container.
          type: int
        node:
          description: The node on which it was found.
          type: str
        time:
          description: When it was made, in seconds since 1970.
          type: int
        size:
          description: The size in bytes.
          type: int
        notes:
          description: The first line of the notes.
          type: str
        protected:
          description: Whether it is protected.
          type: bool
        format:
          description: The format of the archive.
          type: str
        verification:
          description: What a Proxmox Backup Server found, V(ok) or V(failed); V(null) where none has looked.
          type: str
        encrypted:
          description: Whether it is encrypted.
          type: bool
    verified:
      description: With O(state=verified), the backups that are right, as in RV(containers[].backups), with the hostname
        in their configuration.
      type: list
      elements: dict
    files:
      description: With O(state=downloaded), the files.
      type: list
      elements: dict
      contains:
        volume:
          description: The backup.
          type: str
        path:
          description: The file.
          type: str
        size:
          description: The size in bytes.
          type: int
    tasks:
      description: See RV(lxcri.proxmox.lxc_container#module:tasks).
      type: list
      elements: dict
    notes:
      description: See RV(lxcri.proxmox.lxc_container#module:notes). It says which mount points are not in a backup.
      type: list
      elements: str
    failure:
      description: See RV(lxcri.proxmox.lxc_container#module:failure).
      returned: when it failed
      type: dict
failure:
  description: The failure of the whole task, see RV(lxcri.proxmox.lxc_container#module:failure). Its code is
    V(containers_failed) when some of several containers failed.
  returned: on failure
  type: dict
"""

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.options import api_options, run
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.backup import (
    COMPRESSIONS,
    MODES,
    STATES,
    make_wish,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.backup_run import Backups, module_result
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.progress import reporter
from ansible_collections.lxcri.proxmox.plugins.module_utils.module import Module
from ansible_collections.lxcri.proxmox.plugins.module_utils.retention import keep_options


def main():
    module = Module(
        argument_spec={
            **api_options(),
            "vmid": {"type": "list", "elements": "int", "default": []},
            "hostname": {"type": "list", "elements": "str", "default": []},
            "volume": {"type": "list", "elements": "str", "default": []},
            "node": {"type": "str"},
            "storage": {"type": "str"},
            "state": {"type": "str", "choices": list(STATES), "default": "present"},
            "mode": {"type": "str", "choices": list(MODES), "default": "snapshot"},
            "compress": {"type": "str", "choices": list(COMPRESSIONS), "default": "zstd"},
            "notes": {"type": "str"},
            "prefix": {"type": "str"},
            "protected": {"type": "bool"},
            "bwlimit": {"type": "int"},
            "max_age": {"type": "str"},
            **keep_options(),
            "notify": {"type": "bool", "default": True},
            "restore": {
                "type": "dict",
                "options": {
                    "vmid": {"type": "int"},
                    "hostname": {"type": "str"},
                    "storage": {"type": "str"},
                    "pool": {"type": "str"},
                    "unique": {"type": "bool"},
                    "start": {"type": "bool"},
                    "force": {"type": "bool", "default": False},
                    "discard": {"type": "list", "elements": "str", "default": []},
                },
            },
            "dest": {"type": "path"},
            "concurrency": {"type": "int", "default": 4},
            "timeout": {"type": "int", "default": 3600},
            "progress_path": {"type": "path"},
        },
        supports_check_mode=True,
    )

    def work(connect):
        params = module.params
        wish = make_wish(params)
        with reporter(params["progress_path"]) as report:
            backups = Backups(connect(), module.check_mode, params["concurrency"], report)
            return module_result(backups.run(wish, params["vmid"], params["hostname"]))

    run(module, work)


if __name__ == "__main__":
    main()
