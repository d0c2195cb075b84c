# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: lxc
short_description: Containers and virtual machines of Proxmox VE as hosts
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Makes a host of every container of a cluster, and of every virtual machine if asked. Templates are left out.
  - One request tells who is there. Configurations and addresses are read concurrently, and only of guests that pass
    O(filters).
  - The file's name ends with C(proxmox_lxc.yml), C(proxmox_lxc.yaml), C(lxcri.yml) or C(lxcri.yaml).
  - When the cluster cannot be read, the run ends with an error, whatever C(any_unparsed_is_failed) is set to. An
    inventory that is empty for this reason would let a playbook succeed that has done nothing.
extends_documentation_fragment:
  - lxcri.proxmox.api_plugin
  - constructed
  - inventory_cache
requirements:
  - proxmoxer 2.0.1 or newer, requests 2.31 or newer
options:
  plugin:
    description: Names this plugin.
    type: str
    required: true
    choices: [lxcri.proxmox.lxc]
  guests:
    description: Which guests become hosts.
    type: list
    elements: str
    choices: [lxc, qemu]
    default: [lxc]
  gather:
    description:
      - What is read about each guest besides what the cluster lists. V(config) is the configuration. V(interfaces) are
        the interfaces with the addresses that they have, of guests that run; of a virtual machine, those that its guest
        agent tells.
      - The addresses that a configuration gives are told with V(config) alone, too.
      - What is asked for and cannot be read is an error, but for guests of a node that is offline.
    type: list
    elements: str
    choices: [config, interfaces]
    default: []
  filters:
    description:
      - Jinja2 conditions, all of which a guest has to meet. They see the variables of the host that the cluster lists,
        such as C(proxmox_tags); those of O(gather) are read afterwards.
      - One that cannot be evaluated is an error.
    type: list
    elements: str
    default: []
  naming:
    description:
      - What the hosts are called.
      - V(name) is the hostname of a container or the name of a virtual machine. All that share one are called
        C(name.vmid).
      - V(name.vmid) and V(vmid) are so for all.
    type: str
    choices: [name, name.vmid, vmid]
    default: name
  group_prefix:
    description:
      - What the names of groups start with. The groups are C(lxc), C(qemu), C(node_...), C(status_...), C(pool_...),
        C(tag_...), and C(workload_OWNER_NAME) for the replicas of a workload.
    type: str
    default: proxmox_
  connection:
    description:
      - With V(pct), containers are connected to by P(lxcri.proxmox.pct#connection), which needs no address.
      - With V(default), nothing is said about it.
    type: str
    choices: [default, pct]
    default: default
notes:
  - Every host has the variables C(proxmox_vmid), C(proxmox_vmtype), C(proxmox_name), C(proxmox_node),
    C(proxmox_status), C(proxmox_pool), C(proxmox_tags), C(proxmox_lock), C(proxmox_workload) and
    C(proxmox_workload_owner). With O(gather) there are C(proxmox_config), C(proxmox_interfaces), C(proxmox_addresses)
    and C(proxmox_address), which is the first of them without its prefix length, IPv4 before IPv6.
  - The options of the API that are texts can be templates, and their values can be encrypted with Ansible Vault.
  - A token needs C(VM.Audit) on the guests, C(Pool.Audit) on the pools to know them, and for addresses of virtual
    machines C(VM.GuestAgent.Audit).
seealso:
  - plugin: lxcri.proxmox.pct
    plugin_type: connection
  - module: lxcri.proxmox.lxc_container_info
"""

EXAMPLES = r"""
# Containers, entered by way of their nodes. cluster.proxmox_lxc.yml
---
plugin: lxcri.proxmox.lxc
api_host: pve1.example.org
api_user: ansible@pve
api_token_id: inventory
api_token_secret: "{{ lookup('ansible.builtin.env', 'INVENTORY_SECRET') }}"
connection: pct

# Running guests of production with their addresses, for ssh. prod.proxmox_lxc.yml
---
plugin: lxcri.proxmox.lxc
guests: [lxc, qemu]
gather: [interfaces]
filters:
  - "'prod' in proxmox_tags"
  - proxmox_status == 'running'
compose:
  ansible_host: proxmox_address
keyed_groups:
  - key: proxmox_pool
    prefix: pool
    default_value: none
groups:
  webservers: proxmox_workload == 'web'
cache: true
"""

import hashlib
import json
import typing as t

from ansible import constants
from ansible.errors import AnsibleError, AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible.utils.unsafe_proxy import wrap_var
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.options import api_options, credentials
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.guests import CONNECTIONS, Guest, Reader
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.inventory import (
    group_names,
    host_names,
    host_variables,
)

ENDINGS = ("proxmox_lxc.yml", "proxmox_lxc.yaml", "lxcri.yml", "lxcri.yaml")
# What decides which guests are read, and what about them: another value is not served from the cache.
READ_BY = ("guests", "gather", "filters", "api_backend", "api_host", "api_port", "api_user", "api_token_id")


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    """Reads the guests and makes hosts of them."""

    NAME = "lxcri.proxmox.lxc"

    def verify_file(self, path: str) -> bool:
        """Whether the file is for this plugin."""
        return bool(super().verify_file(path)) and path.endswith(ENDINGS)

    def parse(self, inventory: t.Any, loader: t.Any, path: str, cache: bool = True) -> None:
        """Make the hosts.

        Raises:
            AnsibleParserError: the cluster could not be read.
        """
        super().parse(inventory, loader, path, cache)
        try:
            self._read_config_data(path)
        except AnsibleParserError:
            # It is no file of this plugin.
            raise
        except AnsibleError as error:
            raise _final(str(error)) from error
        try:
            guests = self._guests(path, cache)
            self._populate(guests)
        except Failure as failure:
            raise _final(f"{failure.sentence} [{failure.code}]") from None
        except AnsibleError as error:
            raise _final(str(error)) from error

    # ---------------------------------------------------------------------------------------------------- reading

    def _guests(self, path: str, cache: bool) -> list[Guest]:
        """The guests that pass the filters, from the cache where it has them."""
        key, signature = self.get_cache_key(path), self._signature()
        cached = self.get_option("cache")
        if cached and cache:
            known = self._cache.get(key)
            if known and known["signature"] == signature:
                return t.cast("list[Guest]", known["guests"])
        guests = self._read()
        if cached:
            self._cache[key] = {"signature": signature, "guests": guests}
        return guests

    def _read(self) -> list[Guest]:
        reader = Reader(Client(credentials(self._api_options()), connections=CONNECTIONS))
        guests, warnings = reader.guests(self.get_option("guests"))
        for warning in warnings:
            self.display.warning(warning)
        return reader.gather([guest for guest in guests if self._passes(guest)], self.get_option("gather"))

    def _api_options(self) -> dict[str, t.Any]:
        """The options of the API, with templates evaluated and secrets decrypted."""
        options = {}
        for name in api_options():
            value = self.get_option(name)
            if isinstance(value, str) and self.templar.is_template(value):
                value = self.templar.template(value)
            options[name] = str(value) if isinstance(value, str) else value
        return options

    def _signature(self) -> str:
        values = [str(self.get_option(name)) for name in READ_BY]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()

    def _passes(self, guest: Guest) -> bool:
        conditions = self.get_option("filters")
        variables = wrap_var(host_variables(guest)) if conditions else {}
        for condition in conditions:
            try:
                passed = self._compose(condition, variables)
            except AnsibleError as error:
                raise AnsibleParserError(f"filters: {condition!r} for {guest['hostname']}: {error}") from error
            # Without native types, what a template gives may be text.
            if str(passed) in ("False", "None", "", "0", "[]", "{}"):
                return False
        return True

    # ----------------------------------------------------------------------------------------------------- hosts

    def _populate(self, guests: t.Sequence[Guest]) -> None:
        names = host_names(guests, self.get_option("naming"))
        for guest in guests:
            self._add(names[guest["vmid"]], guest)

    def _add(self, name: str, guest: Guest) -> None:
        self.inventory.add_host(name)
        # What others have written, such as a description, is never a template.
        for variable, value in wrap_var(host_variables(guest)).items():
            self.inventory.set_variable(name, variable, value)
        if guest["vmtype"] == "lxc" and self.get_option("connection") == "pct":
            self.inventory.set_variable(name, "ansible_connection", "lxcri.proxmox.pct")
        for group in group_names(guest, self.get_option("group_prefix")):
            self.inventory.add_child(self.inventory.add_group(self._sanitize_group_name(group)), name)
        if any(self.get_option(option) for option in ("compose", "groups", "keyed_groups")):
            self._construct(name)

    def _construct(self, name: str) -> None:
        """What the options of every constructed inventory make of a host."""
        strict, host = self.get_option("strict"), self.inventory.get_host(name)
        self._set_composite_vars(self.get_option("compose"), host.get_vars(), name, strict=strict)
        variables = host.get_vars()
        self._add_host_to_composed_groups(self.get_option("groups"), variables, name, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, name, strict=strict)


def _final(message: str) -> AnsibleParserError:
    """An error that ends the run.

    Ansible goes on without a source that has failed, unless it is told otherwise by
    ``INVENTORY_ANY_UNPARSED_IS_FAILED``, at which it looks after the failure.
    """
    constants.INVENTORY_ANY_UNPARSED_IS_FAILED = True
    return AnsibleParserError(message)
