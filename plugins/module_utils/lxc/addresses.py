# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The addresses of a container: those that its configuration gives, and those that it has. Pure functions, no I/O."""

from __future__ import annotations

import ipaddress
import typing as t

from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties


def interfaces_of(raw: t.Sequence[t.Mapping[str, t.Any]] | None) -> list[dict[str, t.Any]]:
    """The interfaces inside a running container, in one form for all versions of Proxmox.

    Older ones have only ``inet`` and ``inet6``, with one address each (``get_interfaces`` of PVE/LXC.pm).
    """
    found = []
    for interface in raw or []:
        texts = [f"{a['ip-address']}/{a['prefix']}" for a in interface.get("ip-addresses") or [] if "ip-address" in a]
        texts += [interface[family] for family in ("inet", "inet6") if interface.get(family)]
        hwaddr = interface.get("hwaddr") or interface.get("hardware-address") or ""
        found.append(
            {
                "name": str(interface.get("name", "")),
                "hwaddr": str(hwaddr).upper(),
                "addresses": list(dict.fromkeys(texts)),
            }
        )
    return found


def reachable_addresses(interfaces: t.Sequence[t.Mapping[str, t.Any]]) -> list[dict[str, str]]:
    """The addresses by which others can reach a container: not those of loopback, and no link-local ones.

    interfaces: as ``interfaces_of`` gives them.
    Each has ``interface``, ``address`` (with its prefix length), ``family`` (``inet`` or ``inet6``) and ``hwaddr``.
    """
    found = []
    for interface in interfaces:
        for text in interface["addresses"]:
            found += _usable(interface["name"], text, interface["hwaddr"])
    return found


def configured_addresses(config: t.Mapping[str, t.Any]) -> list[dict[str, str]]:
    """The static addresses that a configuration gives, in the form of ``reachable_addresses``."""
    found = []
    for key in sorted((name for name in config if name.startswith("net")), key=properties.order_of):
        net = properties.read(key, config[key])
        if isinstance(net, dict):
            for sub in ("ip", "ip6"):
                found += _usable(str(net.get("name", "")), str(net.get(sub, "")), str(net.get("hwaddr", "")))
    return found


def _usable(interface: str, text: str, hwaddr: str) -> list[dict[str, str]]:
    try:
        address = ipaddress.ip_interface(text)
    except ValueError:
        return []
    if interface == "lo" or address.ip.is_loopback or address.ip.is_link_local:
        return []
    family = "inet" if address.version == 4 else "inet6"
    return [{"interface": interface, "address": str(address), "family": family, "hwaddr": hwaddr.upper()}]
