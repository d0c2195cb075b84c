#!/usr/bin/python
# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lxc_template
short_description: Container templates on storages
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Declares that nodes of Proxmox VE have a template of which containers are made, on a storage with directories, or
    that they do not have it.
  - A template comes from the appliance index of Proxmox, from a URL, from a file where the module runs, or from a
    registry of OCI images.
  - Several nodes are worked on at the same time. What they share is fetched once.
  - Where another task is fetching the same file already, it is waited for instead.
  - The API does not tell what is in a file that is there. It counts as the one that is declared when it has its name,
    and with O(src) its size as well.
seealso:
  - module: lxcri.proxmox.lxc_container
  - module: lxcri.proxmox.oci_bundle
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
    support: full
options:
  node:
    description:
      - The node. Give it or O(nodes).
    type: str
  nodes:
    description:
      - Several nodes.
    type: list
    elements: str
    default: []
  storage:
    description:
      - The storage. It needs the content type V(vztmpl).
    type: str
    required: true
  state:
    description:
      - V(present) brings the template where it is not there.
      - V(absent) removes it, and with a pattern in O(template) all that match. Nothing but templates is ever removed.
        Containers that were made of it do not need it.
    type: str
    choices: [present, absent]
    default: present
  template:
    description:
      - A template of the appliance index, by the name of its file or by a pattern.
      - Of those that a pattern matches it is the one with the highest version. V(debian-13-standard) is the package of
        that name, and V(debian-13-*) a shell pattern.
      - What the index does not have, but the storage has, is present.
    type: str
  architecture:
    description:
      - The architecture that a pattern in O(template) means.
    type: str
    default: amd64
  url:
    description:
      - A URL from which the node fetches the file.
    type: str
  src:
    description:
      - A file where the module runs. It is sent as a stream, and Proxmox checks what has arrived.
    type: path
  reference:
    description:
      - An image, with its tag, that the node pulls from its registry without credentials.
      - The name of the file has the registry, the repository and the tag. Whether the tag means another image by now
        is not looked at; O(lxcri.proxmox.lxc_container#module:image) does that.
    type: str
  file_name:
    description:
      - What the file is called on the storage. By default it is called as in O(url), as O(src), or after O(reference).
    type: str
  checksum:
    description:
      - The checksum of what O(url) or O(src) gives.
      - A file that is there already is not checked.
    type: str
  checksum_algorithm:
    description:
      - What O(checksum) is.
    type: str
    choices: [md5, sha1, sha224, sha256, sha384, sha512]
    default: sha256
  verify_certificates:
    description:
      - Whether the node verifies the certificate of O(url).
    type: bool
    default: true
  force:
    description:
      - With O(src), whether a file of the same name and another size is replaced.
    type: bool
    default: false
  timeout:
    description:
      - Seconds to wait for each task of Proxmox. The task itself goes on.
    type: int
    default: 600
"""

EXAMPLES = r"""
- name: The newest Debian 13 on all nodes
  lxcri.proxmox.lxc_template:
    nodes: [pve1, pve2, pve3]
    storage: local
    template: debian-13-standard
  register: debian

- name: A container of it
  lxcri.proxmox.lxc_container:
    node: pve1
    hostname: web-1
    template: "{{ debian.volumes.pve1 }}"
    rootfs: {storage: local-zfs, size: 8G}

- name: A template from a server of one's own
  lxcri.proxmox.lxc_template:
    node: pve1
    storage: local
    url: https://mirror.example.com/images/shop_1.4_amd64.tar.zst
    checksum: d76c0d1f365ec005040eaaa07c808dab064368f9b1a3ecdfb881bb75fcdee670

- name: An image of a registry, under a name of one's own
  lxcri.proxmox.lxc_template:
    node: pve1
    storage: local
    reference: docker.io/library/nginx:1.29
    file_name: nginx-1.29.tar

- name: Templates of Alpine are not needed any more
  lxcri.proxmox.lxc_template:
    nodes: [pve1, pve2, pve3]
    storage: local
    template: alpine-*
    state: absent
"""

RETURN = r"""
volume:
  description: The volume of the template, of the first node; V(null) with O(state=absent).
  returned: always
  type: str
  sample: local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst
volumes:
  description: The volumes of the template by node; without those that failed.
  returned: always
  type: dict
  sample: {pve1: "local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst"}
plan:
  description: See RV(lxcri.proxmox.lxc_container#module:plan).
  returned: always
  type: list
  elements: dict
tasks:
  description: See RV(lxcri.proxmox.lxc_container#module:tasks).
  returned: always
  type: list
  elements: dict
storages:
  description: One result for each storage, of one node or shared by several.
  returned: always
  type: list
  elements: dict
  contains:
    node:
      description: The node that did the work.
      type: str
    nodes:
      description: The nodes whose storage it is.
      type: list
      elements: str
    volume:
      description: The volume of the template.
      type: str
    changed:
      description: Whether something was done.
      type: bool
    plan:
      description: See RV(lxcri.proxmox.lxc_container#module:plan).
      type: list
      elements: dict
    tasks:
      description: See RV(lxcri.proxmox.lxc_container#module:tasks).
      type: list
      elements: dict
    notes:
      description: See RV(lxcri.proxmox.lxc_container#module:notes).
      type: list
      elements: str
    failure:
      description: See RV(lxcri.proxmox.lxc_container#module:failure).
      returned: when it failed
      type: dict
failure:
  description: The failure of the whole task, see RV(lxcri.proxmox.lxc_container#module:failure). Its code is
    V(nodes_failed) when some of several storages failed.
  returned: on failure
  type: dict
"""

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.options import api_options, run
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.template import (
    ALGORITHMS,
    SOURCES,
    STATES,
    Templates,
    make_wish,
    module_result,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.module import Module


def main():
    module = Module(
        argument_spec={
            **api_options(),
            "node": {"type": "str"},
            "nodes": {"type": "list", "elements": "str", "default": []},
            "storage": {"type": "str", "required": True},
            "state": {"type": "str", "choices": list(STATES), "default": "present"},
            "template": {"type": "str"},
            "architecture": {"type": "str", "default": "amd64"},
            "url": {"type": "str"},
            "src": {"type": "path"},
            "reference": {"type": "str"},
            "file_name": {"type": "str"},
            "checksum": {"type": "str"},
            "checksum_algorithm": {"type": "str", "choices": list(ALGORITHMS), "default": "sha256"},
            "verify_certificates": {"type": "bool", "default": True},
            "force": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 600},
        },
        mutually_exclusive=[SOURCES],
        supports_check_mode=True,
    )

    def work(connect):
        wish = make_wish(module.params)
        return module_result(wish, Templates(connect(), module.check_mode).run(wish))

    run(module, work)


if __name__ == "__main__":
    main()
