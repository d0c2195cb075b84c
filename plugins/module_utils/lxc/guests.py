# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading the guests of a cluster for an inventory: first who is there, then about some of them what they are.

Containers are read as ``lxc_container_info`` does it, virtual machines in the same form. Who is there costs one
request, and one more for each node with containers that the cluster does not name yet.
"""

from __future__ import annotations

import typing as t

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.parallel import in_parallel
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.addresses import interfaces_of, reachable_addresses
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.info import (
    Raw,
    Selection,
    Survey,
    as_result,
    blind_spots,
    entry_of,
    mark_offline,
    nodes_of,
    warnings_of,
)

GATHER = ("config", "interfaces")
# More than a module has, which may run in many forks at once: a run makes one inventory, and waits for it.
CONNECTIONS = 24

Guest = dict[str, t.Any]


class Reader:
    """Reads the guests, and of some of them more. The cluster is listed once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._resources: list[Raw] = []

    def guests(self, vmtypes: t.Collection[str]) -> tuple[list[Guest], list[str]]:
        """The guests by vmid, without templates, and warnings about what could not be read.

        Raises:
            Failure: ``permission_denied`` when there are none and the user or token may see none; what ends the
                session.
        """
        self._resources = self._client.get("cluster/resources") or []
        guests: list[Guest] = []
        warnings: list[str] = []
        if "qemu" in vmtypes:
            entries = [entry_of(raw) for raw in self._resources if raw.get("type") == "qemu"]
            mark_offline(entries, nodes_of(self._resources))
            warnings += warnings_of(entries)
            guests += [{**as_result(entry, ()), "vmtype": "qemu"} for entry in entries]
        if "lxc" not in vmtypes and not guests:
            self._refuse_blindness()
        if "lxc" in vmtypes:
            answer = Survey(self._client, Selection(), (), current=False, resources=self._resources).run()
            if not guests and not answer["containers"] and answer["warnings"]:
                raise Failure("permission_denied", answer["warnings"][0])
            guests += [{**container, "vmtype": "lxc"} for container in answer["containers"]]
            warnings += answer["warnings"]
        for guest in guests:
            # Proxmox itself calls a guest without a name so, or one whose name was not to be had.
            guest["hostname"] = guest["hostname"] or f"{'CT' if guest['vmtype'] == 'lxc' else 'VM'}{guest['vmid']}"
        return sorted((guest for guest in guests if not guest["template"]), key=lambda guest: guest["vmid"]), warnings

    def _refuse_blindness(self) -> None:
        credentials = self._client.credentials
        if credentials.is_root_with_password:
            return
        permissions = self._client.get("access/permissions") or {}
        hint = blind_spots(permissions, credentials.identity, Selection(), "virtual machine")
        if hint:
            raise Failure("permission_denied", hint)

    def gather(self, guests: t.Sequence[Guest], wanted: t.Collection[str]) -> list[Guest]:
        """The guests with their ``config``, and those that run with their ``interfaces``, and ``addresses``.

        All is read concurrently. A guest whose state is not known is on a node that does not answer, and is not asked
        for anything. One that has gone meanwhile is left out.

        Raises:
            Failure: something could not be read.
        """
        if not wanted:
            return list(guests)
        asked = [guest for guest in guests if guest["status"] != "unknown"]
        running = [guest for guest in asked if guest["status"] == "running"]
        others = [guest for guest in asked if guest["status"] != "running"] if "config" in wanted else []
        found: dict[int, Guest] = {}
        for group, parts in ((running, set(wanted)), (others, {"config"})):
            found.update(self._containers([guest for guest in group if guest["vmtype"] == "lxc"], parts))
            found.update(self._machines([guest for guest in group if guest["vmtype"] == "qemu"], parts))
        wanted_of = {guest["vmid"] for guest in (*running, *others)}
        return [found.get(guest["vmid"], guest) for guest in guests if guest["vmid"] not in wanted_of - found.keys()]

    def _containers(self, guests: t.Sequence[Guest], parts: t.Collection[str]) -> dict[int, Guest]:
        if not guests:
            return {}
        names = {guest["vmid"]: guest["hostname"] for guest in guests}
        selection = Selection(vmids=names)
        answer = Survey(self._client, selection, parts, current=False, resources=self._resources).run()
        for container in answer["containers"]:
            if "failure" in container:
                failure = container["failure"]
                raise Failure(
                    failure["code"],
                    f"{names[container['vmid']]}: {failure['message']}",
                    failure["hint"],
                    **failure["details"],
                )
        return {
            container["vmid"]: {**container, "vmtype": "lxc", "hostname": names[container["vmid"]]}
            for container in answer["containers"]
        }

    def _machines(self, guests: t.Sequence[Guest], parts: t.Collection[str]) -> dict[int, Guest]:
        client = self._client
        read = in_parallel(lambda guest: _machine(client, guest, parts), guests, client.connections)
        return {guest["vmid"]: guest for guest in read if guest is not None}


# ------------------------------------------------------------------------------------------------- virtual machines


def _machine(client: Client, guest: Guest, parts: t.Collection[str]) -> Guest | None:
    path = f"nodes/{guest['node']}/qemu/{guest['vmid']}"
    try:
        # It says whether there is an agent to ask.
        config = client.get(f"{path}/config")
    except Failure as failure:
        if failure.code == "not_found":
            return None
        raise
    read = dict(guest)
    if "config" in parts:
        read["config"] = {key: value for key, value in config.items() if key != "digest"}
    if "interfaces" in parts:
        read["interfaces"] = interfaces_of(_agent_interfaces(client, path)) if has_agent(config) else []
        read["addresses"] = reachable_addresses(read["interfaces"])
    return read


def has_agent(config: t.Mapping[str, t.Any]) -> bool:
    """Whether a virtual machine is said to have QEMU's guest agent: ``1``, or ``enabled=1`` among other things."""
    enabled = str(config.get("agent") or "0").split(",", 1)[0].rpartition("=")[2]
    return enabled in properties.TRUE_WORDS


def _agent_interfaces(client: Client, path: str) -> list[dict[str, t.Any]]:
    try:
        return list(client.get(f"{path}/agent/network-get-interfaces")["result"])
    except Failure as failure:
        # It is only said to have one.
        if failure.code == "agent_silent":
            return []
        raise
