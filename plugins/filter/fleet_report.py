# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_report
short_description: A page about a fleet
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Makes an HTML page of what M(lxcri.proxmox.pve_cluster_info) and M(lxcri.proxmox.lxc_container_info) have read. It
    shows nodes, storages, and the containers with their drift, snapshots and backups.
  - The page is one file that loads nothing and runs nothing. It follows the light or dark setting of the browser and
    can be printed. Names, tags and descriptions are escaped.
  - The playbook C(lxcri.proxmox.report) uses it.
positional: _input
options:
  _input:
    description: The result of M(lxcri.proxmox.pve_cluster_info), with V(backups) gathered where they are to be shown.
    type: dict
    required: true
  containers:
    description: The containers of M(lxcri.proxmox.lxc_container_info), with V(config), V(snapshots), V(interfaces) and
      V(usage) gathered.
    type: list
    elements: dict
    required: true
  drift:
    description: The result of M(lxcri.proxmox.lxc_fleet) in check mode. Without it the page says that nothing is
      declared.
    type: dict
  title:
    description: The title.
    type: str
    default: Fleet
  max_age:
    description: Days after which the newest backup of a container is too old.
    type: float
    default: 7
  now:
    description: The time from which ages count, in seconds since 1970. By default the time it is.
    type: float
  notes:
    description: What is to be said at the top, such as what could not be read.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Write the page
  ansible.builtin.copy:
    content: "{{ cluster | lxcri.proxmox.fleet_report(containers=all.containers, title='The shop') }}"
    dest: fleet.html
    mode: "0644"
"""

RETURN = r"""
_value:
  description: The page.
  type: str
"""

import time
import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.lxcri.proxmox.plugins.module_utils.report import page


def fleet_report(
    cluster: t.Any,
    containers: t.Any,
    drift: t.Any = None,
    title: str = "Fleet",
    max_age: float = 7,
    now: float | None = None,
    notes: t.Sequence[str] = (),
) -> str:
    """The page about a fleet."""
    try:
        moment = time.time() if now is None else float(now)
        return page(cluster, containers, drift or None, str(title), moment, float(max_age), notes)
    except (KeyError, TypeError, ValueError) as error:
        raise AnsibleFilterError(
            f"The input is not what pve_cluster_info and lxc_container_info return: {error!r}."
        ) from error


class FilterModule:
    """The filter, as Ansible finds it."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Its function by its name."""
        return {"fleet_report": fleet_report}
