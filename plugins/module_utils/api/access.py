# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Privileges: what a plan needs against what the API says that the user or token has.

Proxmox checks privileges one after the other and names the first that is missing. Here all of them are checked before
the first write, so that a plan is refused whole, and with everything that it lacks.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import ROOT_ONLY, Failure

# path -> privileges, as GET /access/permissions gives them: {"/vms": {"VM.Audit": 1}}
Permissions = t.Mapping[str, t.Mapping[str, int]]


@dataclass(frozen=True)
class Need:
    """What a request needs.

    paths: any one of these paths will do (a container's privilege may come from its pool).
    privileges: any one of these will do; empty for what only root@pam with a password may do.
    why: what it is needed for, for messages.
    """

    paths: tuple[str, ...]
    privileges: tuple[str, ...]
    why: str

    @property
    def root_only(self) -> bool:
        """True for what no role can grant (``raise_perm_exc`` in ``check_ct_modify_config_perm`` of PVE/LXC.pm)."""
        return not self.privileges


def root_only(why: str) -> Need:
    """A need that no role can grant."""
    return Need((), (), why)


def granted(permissions: Permissions, path: str, privilege: str) -> bool:
    """True when a privilege is held on a path.

    The API lists the top-level paths and every path of the access control list; what is not listed inherits from the
    nearest listed path above it whose grant propagates (value 1) (``PVE::RPCEnvironment::get_effective_permissions``).
    In a path with ``*`` each of them stands for any one component of a listed path.
    """
    if "*" in path:
        return any(_matches(listed, path) and privilege in held for listed, held in permissions.items())
    if path in permissions:
        return privilege in permissions[path]
    above = path
    while above != "/":
        above = above.rpartition("/")[0] or "/"
        if above in permissions:
            return bool(permissions[above].get(privilege))
    return False


def _matches(path: str, pattern: str) -> bool:
    parts, wanted = path.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(want in ("*", part) for part, want in zip(parts, wanted))


def missing(needs: t.Iterable[Need], permissions: Permissions) -> list[Need]:
    """The needs that are not met, each once."""
    lacking: dict[Need, None] = {}
    for need in needs:
        met = any(granted(permissions, path, privilege) for path in need.paths for privilege in need.privileges)
        if not met:
            lacking[need] = None
    return list(lacking)


def refuse_missing(client: Client, needs: t.Sequence[Need]) -> None:
    """Refuse needs that are not met, all at once; one request, and none for root@pam with a password.

    Raises:
        Failure: ``permission_denied``, naming every missing privilege.
    """
    if not needs or client.credentials.is_root_with_password:
        return
    lacking = missing(needs, client.get("access/permissions") or {})
    if lacking:
        raise refusal(lacking, client.credentials.identity)


def refusal(lacking: t.Sequence[Need], identity: str) -> Failure:
    """The failure that names every missing privilege, and the path on which it is missing."""
    entries = [
        {
            "path": need.paths[0] if need.paths else None,
            "privilege": "|".join(need.privileges) if need.privileges else None,
            "requires": ROOT_ONLY if need.root_only else None,
            "why": need.why,
        }
        for need in lacking
    ]
    named = [
        f"{need.why} (only {ROOT_ONLY})"
        if need.root_only
        else f"{'|'.join(need.privileges)} on {_named_paths(need)} ({need.why})"
        for need in lacking
    ]
    hints = []
    if any(not need.root_only for need in lacking):
        hints.append("Grant them to the user and, for a token with privilege separation, to the token as well.")
    if any(need.root_only for need in lacking):
        hints.append("What only root@pam with a password may do is refused to every API token, also to root's.")
    return Failure(
        "permission_denied",
        f"{identity} lacks what this needs: {'; '.join(named)}.",
        " ".join(hints),
        missing=entries,
    )


def _named_paths(need: Need) -> str:
    return " or ".join(path for path in need.paths if "*" not in path)
