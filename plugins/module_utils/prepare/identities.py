# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Users and tokens of the API for a purpose each, with the least privilege for it. Pure functions.

The privileges are those that the calls declare and check (PVE/API2/LXC.pm, PVE/LXC.pm, PVE/API2/VZDump.pm,
PVE/API2/Storage/{Content,Status}.pm, PVE/API2/Cluster.pm); what each is for is told in the role's README.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field

# Where the privileges of a purpose are held.
GUESTS, STORAGES, NETWORKS, NODES, POOLS = "guests", "storages", "networks", "nodes", "pools"
# Where all pools are seen, and the role of Proxmox for that: one with more would hold it for what is in the pools.
ALL_POOLS, POOL_USER = "/pool", "PVEPoolUser"


@dataclass(frozen=True)
class Purpose:
    """What an identity is for. privileges: those of its role. places: where the role is held."""

    privileges: tuple[str, ...]
    places: tuple[str, ...]


PURPOSES = {
    "deploy": Purpose(
        (
            "Datastore.AllocateSpace",
            "Pool.Audit",
            "SDN.Use",
            "VM.Allocate",
            "VM.Audit",
            "VM.Clone",
            "VM.Config.CPU",
            "VM.Config.Disk",
            "VM.Config.Memory",
            "VM.Config.Network",
            "VM.Config.Options",
            "VM.Migrate",
            "VM.PowerMgmt",
            "VM.Snapshot",
        ),
        (GUESTS, STORAGES, NETWORKS, POOLS),
    ),
    "backup": Purpose(
        ("Datastore.AllocateSpace", "Datastore.Audit", "SDN.Use", "VM.Audit", "VM.Backup"),
        (GUESTS, STORAGES, NETWORKS),
    ),
    "monitor": Purpose(
        ("Datastore.Audit", "Pool.Audit", "Sys.Audit", "VM.Audit"),
        (GUESTS, STORAGES, NODES, POOLS),
    ),
    "image": Purpose(("Datastore.AllocateTemplate", "Datastore.Audit", "Sys.AccessNetwork"), (STORAGES, NODES)),
}

# At the end of a user's comment: for what and where it was given its role. By that a later run knows what to take back.
_GIVEN = re.compile(r"\[lxcri ([a-z]+): ([^\]]*)\]$")

_KEYS = ("name", "purpose", "user", "token", "comment", "pools", "storages", "networks", "nodes")


@dataclass
class Objects:
    """The objects of the API for identities, as pve_object takes them, and what stands against them."""

    roles: list[dict[str, t.Any]] = field(default_factory=list)
    users: list[dict[str, t.Any]] = field(default_factory=list)
    tokens: list[dict[str, t.Any]] = field(default_factory=list)
    acls: list[dict[str, t.Any]] = field(default_factory=list)
    stale: list[dict[str, t.Any]] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def expand(identities: t.Any, there: t.Sequence[t.Mapping[str, t.Any]] = ()) -> Objects:
    """The objects for a list of identities.

    there: the users as they are, as far as they exist.

    In the result, ``names`` has the name of an identity by its token, ``user@realm!token``, and ``stale`` the entries
    of the access control list that identities have of a declaration that was wider.
    """
    comments = {str(user["userid"]): str(user.get("comment") or "") for user in there}
    found = Objects()
    purposes: dict[str, None] = {}
    for index, identity in enumerate(identities if isinstance(identities, list) else [None]):
        problem = _problem(identity, found)
        if problem:
            found.problems.append(f"node_identities[{index}]: {problem}.")
            continue
        purpose = identity["purpose"]
        name = identity.get("name") or purpose
        user = identity.get("user") or f"lxcri-{name}@pve"
        token = identity.get("token") or "lxcri"
        own = paths(identity)
        comment = f"{identity.get('comment') or ''} [lxcri {purpose}: {' '.join(own)}]".lstrip()
        if purpose not in purposes:
            purposes[purpose] = None
            found.roles.append({"roleid": role_of(purpose), "privs": list(PURPOSES[purpose].privileges)})
        found.users.append({"userid": user, "comment": comment, "enable": True})
        told = identity.get("comment") or f"lxcri {purpose}"
        found.tokens.append({"userid": user, "tokenid": token, "privsep": True, "comment": told})
        found.names[f"{user}!{token}"] = name
        # A token with privilege separation has what both it and its user are given.
        holders = {"users": [user], "tokens": [f"{user}!{token}"]}
        found.acls += [{"path": path, "roles": [role_at(purpose, path)], "propagate": True, **holders} for path in own]
        given = _GIVEN.search(comments.get(user, ""))
        if given:
            kept = [(path, role_at(purpose, path)) for path in own]
            before = [(path, role_at(given[1], path)) for path in given[2].split()]
            found.stale += [{"path": p, "roles": [role], **holders} for p, role in before if (p, role) not in kept]
    return found


def role_of(purpose: str) -> str:
    """The name of the role of a purpose."""
    return f"lxcri-{purpose}"


def role_at(purpose: str, path: str) -> str:
    """The name of the role that an identity of a purpose holds at a path."""
    return POOL_USER if path == ALL_POOLS else role_of(purpose)


def paths(identity: t.Mapping[str, t.Any]) -> list[str]:
    """Where an identity holds its role, in the access control list. Nothing is ever given on / itself."""
    pools = list(identity.get("pools") or [])
    given = {
        GUESTS: [f"/pool/{pool}" for pool in pools] or ["/vms"],
        STORAGES: [f"/storage/{name}" for name in identity.get("storages") or []] or ["/storage"],
        NETWORKS: [f"/sdn/zones/{name}" for name in identity.get("networks") or []] or ["/sdn/zones/localnetwork"],
        NODES: [f"/nodes/{name}" for name in identity.get("nodes") or []] or ["/nodes"],
        POOLS: [] if pools else [ALL_POOLS],
    }
    return list(dict.fromkeys(path for place in PURPOSES[identity["purpose"]].places for path in given[place]))


def _problem(identity: t.Any, before: Objects) -> str | None:
    if not isinstance(identity, dict):
        return "it is no dictionary"
    unknown = sorted(set(identity) - set(_KEYS))
    if unknown:
        return f"{unknown[0]} is none of {', '.join(_KEYS)}"
    if identity.get("purpose") not in PURPOSES:
        return f"its purpose is none of {', '.join(PURPOSES)}"
    name = identity.get("name") or identity["purpose"]
    if not re.fullmatch(r"[a-z][a-z0-9_]*", str(name)):
        return f"its name, {name!r}, is not made of lower-case letters, digits and _"
    if name in before.names.values():
        return f"{name} is there twice; give it a name"
    user = identity.get("user") or f"lxcri-{name}@pve"
    if any(user == each["userid"] for each in before.users):
        return f"its user, {user}, is that of another one, and would have what both have"
    for key in ("pools", "storages", "networks", "nodes"):
        parts = identity.get(key) or []
        if not isinstance(parts, list) or not all(re.fullmatch(r"[A-Za-z0-9._/-]+", str(part)) for part in parts):
            return f"{key} is a list of names"
    return None
