#!/usr/bin/python
# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pve_object
short_description: Declare the objects of a cluster, such as storages, users, backup jobs, networks and firewall rules
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Declares one or many objects of a kind. The fields are those of the API of Proxmox VE, spelled as it spells them;
    C(docs/objects.md) of the collection has an example of every kind.
  - An object is whole. A field that is not declared is unset, unless Proxmox sets it by itself.
  - Every field is checked before the first request. A field that the kind does not have, or a value that Proxmox
    would refuse, is the failure V(invalid_field).
  - A list of objects that are as declared costs one request. Kinds whose list does not tell everything (V(realm),
    V(metric_server), V(pool) with members, V(firewall_ipset) with entries) cost one more for each object.
  - What is not allowed to the user is reported before the first write, in check mode too.
seealso:
  - module: lxcri.proxmox.lxc_container
extends_documentation_fragment:
  - lxcri.proxmox.api
  - lxcri.proxmox.api.action_group
  - lxcri.proxmox.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: partial
    details: With O(update_secrets=always) secrets are sent every time.
options:
  kind:
    description:
      - What is declared.
    type: str
    required: true
    choices:
      - acl
      - backup_job
      - firewall_alias
      - firewall_group
      - firewall_ipset
      - firewall_options
      - firewall_rule
      - group
      - ha_resource
      - ha_rule
      - metric_server
      - network_interface
      - notification_matcher
      - notification_target
      - pool
      - realm
      - replication_job
      - role
      - sdn_dns
      - sdn_ipam
      - sdn_subnet
      - sdn_vnet
      - sdn_zone
      - storage
      - token
      - user
  object:
    description:
      - One object, by its fields. Lists and property strings may be lists and dictionaries.
    type: dict
  objects:
    description:
      - Several objects. An empty list says something with O(exclusive) only.
    type: list
    elements: dict
  scope:
    description:
      - Keys that all objects have, which say where they are. They are C(node), C(vmid) and C(guest) (V(lxc) or
        V(qemu)), C(vnet), or C(group), for the firewall, C(vnet) for subnets, and C(type) for targets of notifications.
      - A guest is looked up when its O(scope) has no V(node), which costs a request.
    type: dict
  node:
    description:
      - The node of the objects, for kinds that belong to one. The same as V(node) in O(scope).
    type: str
  state:
    description:
      - Whether the objects have to be there. For V(absent) their names are enough.
    type: str
    choices: [present, absent]
    default: present
  owner:
    description:
      - A mark that the comments of the objects begin with, in brackets. V(gitops) makes the comment C([gitops] Web).
      - Kinds without a comment refuse it.
    type: str
  exclusive:
    description:
      - Whether objects that carry the mark of O(owner) and are not declared are removed. Objects without the mark are
        never touched.
      - It is about the places in which objects are declared, or that O(scope) and O(node) name when there are none.
    type: bool
    default: false
  update_secrets:
    description:
      - Passwords and keys that Proxmox does not give back cannot be compared. They are sent when the object is made,
        and with V(always) every time.
      - The C(encryption-key) of a storage is an exception. It is set when there is none, and never replaced.
    type: str
    choices: [on_create, always]
    default: on_create
  apply:
    description:
      - Whether changes of SDN and of a node's network are put into force at the end, once. So are changes of the
        declared objects that an interrupted run has left.
      - Proxmox applies everything that waits, also what somebody else has changed.
    type: bool
    default: true
  timeout:
    description:
      - Seconds to wait for the task that applies changes. The task itself goes on.
    type: int
    default: 600
"""

EXAMPLES = r"""
- name: A storage for backups
  lxcri.proxmox.pve_object:
    kind: storage
    object:
      storage: backup
      type: dir
      path: /srv/backup
      content: [backup]
      prune-backups: {keep-daily: 7, keep-weekly: 4}

- name: Who deploys
  lxcri.proxmox.pve_object:
    kind: role
    object: {roleid: Deploy, privs: [VM.Audit, VM.PowerMgmt, VM.Snapshot]}

- name: Its user
  lxcri.proxmox.pve_object:
    kind: user
    object: {userid: ci@pve, comment: Continuous integration}

- name: Its token, whose secret is told this once
  lxcri.proxmox.pve_object:
    kind: token
    object: {userid: ci@pve, tokenid: deploy}
  register: made

- name: What it may do
  lxcri.proxmox.pve_object:
    kind: acl
    objects:
      - {path: /vms, roles: [Deploy], users: [ci@pve], tokens: [ci@pve!deploy]}

- name: All backup jobs that belong to the repository
  lxcri.proxmox.pve_object:
    kind: backup_job
    owner: gitops
    exclusive: true
    objects:
      - {id: nightly, schedule: "02:30", all: true, storage: backup, mode: snapshot, compress: zstd}

- name: A network of its own, put into force on all nodes
  lxcri.proxmox.pve_object:
    kind: sdn_zone
    object: {zone: shop, type: simple, ipam: pve}

- name: The rules of a security group, in this order
  lxcri.proxmox.pve_object:
    kind: firewall_group
    object: {group: web, comment: Web servers}

- name: Who comes in
  lxcri.proxmox.pve_object:
    kind: firewall_rule
    scope: {group: web}
    owner: gitops
    exclusive: true
    objects:
      - {type: in, action: ACCEPT, macro: HTTPS, enable: true, comment: the shop}
      - {type: in, action: DROP, enable: true, comment: nobody else}
"""

RETURN = r"""
plan:
  description: See RV(lxcri.proxmox.lxc_container#module:plan). The effect V(pending) is that of a change that waits
    until it is applied.
  returned: always
  type: list
  elements: dict
diff:
  description: For each object that differs, its fields before and after.
  returned: always
  type: list
  elements: dict
objects:
  description: The declared objects as they are after the task, in the form in which they are declared; in check mode,
    as they are. Secrets are not shown. For rules and options of the firewall, all that are there.
  returned: always
  type: list
  elements: dict
tokens:
  description: The tokens that were made. Their secrets cannot be read again.
  returned: always
  type: list
  elements: dict
  contains:
    tokenid:
      description: The full id.
      type: str
      sample: ci@pve!deploy
    value:
      description: The secret.
      type: str
tasks:
  description: See RV(lxcri.proxmox.lxc_container#module:tasks).
  returned: always
  type: list
  elements: dict
notes:
  description: What is worth saying but changes nothing.
  returned: always
  type: list
  elements: str
failure:
  description: See RV(lxcri.proxmox.lxc_container#module:failure). C(details.done) has the changes that were made
    before.
  returned: on failure
  type: dict
"""

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.options import api_options, run
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.cluster import Objects
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.declared import SECRETS, STATES
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.module import ObjectModule
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.table import KINDS


def main():
    module = ObjectModule(
        argument_spec={
            **api_options(),
            "kind": {"type": "str", "required": True, "choices": sorted(KINDS)},
            "object": {"type": "dict"},
            "objects": {"type": "list", "elements": "dict"},
            "scope": {"type": "dict"},
            "node": {"type": "str"},
            "state": {"type": "str", "choices": list(STATES), "default": "present"},
            "owner": {"type": "str"},
            "exclusive": {"type": "bool", "default": False},
            "update_secrets": {"type": "str", "choices": list(SECRETS), "default": "on_create", "no_log": False},
            "apply": {"type": "bool", "default": True},
            "timeout": {"type": "int", "default": 600},
        },
        mutually_exclusive=[["object", "objects"]],
        supports_check_mode=True,
    )
    run(module, lambda connect: Objects(connect(), module.check_mode).run(module.params))


if __name__ == "__main__":
    main()
