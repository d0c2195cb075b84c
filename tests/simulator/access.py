# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may do what: users, tokens, the access control list and its answers.

The ids in comments are those of records of a real Proxmox VE 9.2.
"""

from __future__ import annotations

import time
import typing as t
from http.cookies import SimpleCookie
from urllib.parse import unquote

from fakepve.model import PveError
from fakepve.server import USER, FakePve, params
from fakepve.shapes import PRIVILEGES

# The paths that GET /access/permissions always looks at (reads-069).
PATHS = ("/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms")
Acl = t.Mapping[str, t.Iterable[str]]


class Access(FakePve):
    """Adds privilege-separated tokens and the inheritance of privileges."""

    def __init__(self, *args: t.Any, **options: t.Any) -> None:
        super().__init__(*args, **options)
        # fakepve lets everybody do everything until the first grant.
        self.acl: dict[str, list[tuple[str, set[str], bool]]] = {}
        self.separated: set[str] = set()
        # Real seconds before a 401; Proxmox takes 3.
        self.refusal_secs = 0.0

    # ------------------------------------------------------------- who

    def add_user(self, userid: str, password: str = "secret", acl: Acl | None = None) -> str:
        """A user with the given privileges by path; returns its id."""
        self.users[userid] = password
        for path, privileges in (acl or {}).items():
            self.grant(userid, path, *privileges)
        return userid

    def add_token(
        self,
        tokenid: str,
        secret: str = "11111111-2222-3333-4444-555555555555",
        privsep: bool = False,
        acl: Acl | None = None,
    ) -> str:
        """A token user@realm!name; with privsep it has only those of its user's privileges that it is given itself."""
        self.apitokens[tokenid] = secret
        self.separated.discard(tokenid)
        if privsep:
            self.separated.add(tokenid)
        for path, privileges in (acl or {}).items():
            self.grant(tokenid, path, *privileges)
        return secret

    def grant(self, user: str, path: str, *privs: str, propagate: bool = True) -> None:
        """Give a user or a token the privileges on a path and below it."""
        self.acl.setdefault(user, []).append((path.rstrip("/") or "/", set(privs), propagate))

    # ------------------------------------------------------------ what

    def _granted(self, who: str, path: str) -> dict[str, bool]:
        """The privileges of one user or token on a path, and whether they propagate: the deepest entry counts."""
        steps = ["/"]
        for part in path.strip("/").split("/") if path != "/" else []:
            steps.append(f"{steps[-1].rstrip('/')}/{part}")
        found: dict[str, bool] = {}
        for step in steps:
            entries = [e for e in self.acl.get(who, []) if e[0] == step and (e[2] or step == path)]
            if entries:
                found = {privilege: entry[2] for entry in entries for privilege in entry[1]}
        return found

    def effective(self, user: str, path: str) -> dict[str, bool]:
        """The privileges of a user or token on a path, each with whether it reaches further down."""
        owner, _bang, token = user.partition("!")
        if token and user in self.separated:
            own = self._with_pools(user, path)
            return {p: flag for p, flag in self.effective(owner, path).items() if p in own}
        if owner == "root@pam":
            return dict.fromkeys(PRIVILEGES, True)
        return self._with_pools(owner, path)

    def _with_pools(self, who: str, path: str) -> dict[str, bool]:
        found = self._granted(who, path)
        kind, _slash, name = path.strip("/").partition("/")
        if kind == "vms" and name.isdigit():
            pools = [pool for pool, ids in self.pools.items() if int(name) in ids]
        elif kind == "storage" and name:
            pools = [pool for pool, info in self.pool_info.items() if name in info["storage"]]
        else:
            pools = []
        for pool in pools:
            found = {**self._granted(who, f"/pool/{pool}"), **found}
        return found

    def allowed(self, user: str, path: str, priv: str) -> bool:
        """Whether the user or token holds the privilege on the path."""
        return priv in self.effective(user, path)

    def _acl_paths(self) -> set[str]:
        """The paths of the access control list (get_effective_permissions of PVE/RPCEnvironment.pm)."""
        return {entry[0] for acl in self.acl.values() for entry in acl}

    async def _permissions(self, v: dict[str, t.Any], user: str) -> dict[str, dict[str, int]]:
        """Each path by itself, without those that give nothing (reads-069, 070, 071, 103, 112)."""
        who = v.get("userid") or user
        if who not in (user, user.partition("!")[0]):
            self.require(user, "/access", "Sys.Audit")
        members = {f"/vms/{vmid}" for ids in self.pools.values() for vmid in ids}
        members |= {f"/storage/{name}" for info in self.pool_info.values() for name in info["storage"]}
        listed = {*PATHS, *members, *self._acl_paths()}
        paths = [v["path"]] if v.get("path") else sorted(listed)
        answer = {path: {p: int(flag) for p, flag in self.effective(who, path).items()} for path in paths}
        return {path: privileges for path, privileges in answer.items() if privileges or v.get("path")}

    async def _cluster_status(self, request: t.Any) -> t.Any:
        """permissions-021"""
        self.require(request[USER], "/", "Sys.Audit")
        return await super()._cluster_status(request)

    # ----------------------------------------------------------- login

    def _authenticate(self, request: t.Any) -> str | None:
        """The reasons of a 401 are these few (errors-233 to 241); a ticket may come percent-encoded."""
        if request.path.endswith("/access/ticket"):
            return None
        header = request.headers.get("Authorization", "")
        if not header.startswith("PVEAPIToken=") and not request.headers.get("Cookie"):
            raise PveError(401, "No ticket")
        if header:
            tokenid, _equals, secret = header.removeprefix("PVEAPIToken=").partition("=")
            if not secret or self.apitokens.get(tokenid) != secret:
                raise PveError(401, "Authentication failed!")
            return tokenid
        cookies: SimpleCookie = SimpleCookie(request.headers.get("Cookie"))
        ticket = unquote(cookies["PVEAuthCookie"].value) if "PVEAuthCookie" in cookies else ""
        session = self.tickets.get(ticket)
        if session is None or session["expires"] < time.time():
            raise PveError(401, "Authentication failed!")
        if request.method not in ("GET", "HEAD") and request.headers.get("CSRFPreventionToken") != session["csrf"]:
            raise PveError(401, "Permission denied - invalid csrf token")
        return str(session["user"])

    async def _ticket(self, request: t.Any) -> t.Any:
        """A login needs the realm and a password (errors-246, 247)."""
        given = await params(request)
        if given.get("password") is None:
            missing = {"password": "property is missing and it is not optional"}
            raise PveError(400, "Parameter verification failed.", missing)
        if "@" not in str(given.get("username", "")):
            raise PveError(401, "authentication failure")
        return await super()._ticket(request)
