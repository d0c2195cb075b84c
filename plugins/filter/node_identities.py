# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: node_identities
short_description: Turn identities into objects of the API
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Turns users for a purpose each into the roles, users, tokens and entries of the access control list that they need,
    as M(lxcri.proxmox.pve_object) takes them, with the least privilege for it.
  - Nothing is asked of Proxmox.
positional: _input
options:
  _input:
    description: The identities, as O(lxcri.proxmox.node#role:main:node_identities) has them.
    type: list
    elements: dict
    required: true
  there:
    description: The users as they are, as RV(lxcri.proxmox.pve_object#module:objects) has them.
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
- name: Show what an identity for backups would have
  ansible.builtin.debug:
    msg: "{{ [{'purpose': 'backup', 'storages': ['nas']}] | lxcri.proxmox.node_identities }}"
"""

RETURN = r"""
_value:
  description: The objects by their kinds, V(roles), V(users), V(tokens) and V(acls); V(stale), the entries of the
    access control list that are to go; V(names), the name of each identity by its token; and V(problems), a sentence
    for each thing that stands against them.
  type: dict
"""

import typing as t
from dataclasses import asdict

from ansible_collections.lxcri.proxmox.plugins.module_utils.prepare.identities import expand


def node_identities(identities: t.Any, there: t.Any = None) -> dict[str, t.Any]:
    """The objects of the API for identities."""
    return asdict(expand(identities, there or []))


class FilterModule:
    """The filter, as Ansible finds it."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Its function by its name."""
        return {"node_identities": node_identities}
