#!/usr/bin/python
# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pve_repository
short_description: Proxmox's package repositories on a node
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Has Proxmox's repositories in the sources of apt where Proxmox VE 9 has them, in deb822 form,
    C(pve-enterprise.sources), C(proxmox.sources) and C(ceph.sources), and none that is not wanted.
  - Entries of the same products elsewhere are disabled, also those in the one-line form of older versions. Everything
    else in these files stays as it is, such as Debian's repositories and those of Proxmox Backup Server.
  - The module runs on the node, as root. It does not fetch lists of packages.
seealso:
  - name: The role node
    description: Prepares a node, with this module among others.
    link: https://github.com/lxcri/lxcri.proxmox/tree/main/roles/node
extends_documentation_fragment:
  - lxcri.proxmox.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  pve:
    description:
      - Which repositories of Proxmox VE are wanted. The others are disabled. V([]) wants none.
      - Without this option they stay as they are.
    type: list
    elements: str
    choices: [enterprise, no-subscription, test]
  ceph:
    description: The same for Ceph.
    type: list
    elements: str
    choices: [enterprise, no-subscription, test]
  ceph_release:
    description:
      - The release of Ceph, such as V(squid) or V(tentacle). Needed with any of O(ceph).
      - The packages of a newer release than that which the cluster runs upgrade it.
    type: str
  suite:
    description: The name of Debian's release, such as V(trixie). By default that of the node.
    type: str
  enterprise_uri:
    description: Where the enterprise repositories are, without the product.
    type: str
    default: https://enterprise.proxmox.com/debian
  download_uri:
    description: Where the others are, without the product. A mirror's URI takes its place.
    type: str
    default: http://download.proxmox.com/debian
  keyring:
    description: The keys with which apt verifies them.
    type: path
    default: /usr/share/keyrings/proxmox-archive-keyring.gpg
  directory:
    description: Where apt has its sources.
    type: path
    default: /etc/apt
"""

EXAMPLES = r"""
- name: Without a subscription
  lxcri.proxmox.pve_repository:
    pve: [no-subscription]

- name: With one, and Ceph
  lxcri.proxmox.pve_repository:
    pve: [enterprise]
    ceph: [enterprise]
    ceph_release: squid
"""

RETURN = r"""
plan:
  description: What was done, or would be in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    key:
      description: What differs, a file.
      type: str
    before:
      description: What there was.
      type: raw
    after:
      description: What there is now.
      type: raw
    effect:
      description: When it counts, V(live) or V(restart).
      type: str
    request:
      description: By what it is changed.
      type: str
failure:
  description: What stands against it, see RV(lxcri.proxmox.lxc_container#module:failure).
  returned: on failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.module import run_module
from ansible_collections.lxcri.proxmox.plugins.module_utils.prepare.repositories import repository_options, run_declared


def main():
    module = AnsibleModule(argument_spec=repository_options(), supports_check_mode=True)
    run_module(module, lambda: run_declared(module.params, module.check_mode))


if __name__ == "__main__":
    main()
