# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The objects of a cluster that fakepve accepts without effect.

Users, groups, roles, the access control list, tokens and realms follow PVE/API2/{User,Group,Role,ACL,Domains}.pm and
PVE/AccessControl.pm; backup jobs PVE/API2/Backup.pm; replication jobs PVE/API2/ReplicationConfig.pm; HA resources and
rules PVE/API2/HA/{Resources,Rules}.pm; SDN PVE/API2/Network/SDN/*.pm and pending_config of PVE/Network/SDN.pm; metric
servers PVE/API2/Cluster/MetricServer.pm; a node's network PVE/API2/Network.pm and PVE/Network/Interfaces.pm;
notifications PVE/API2/Cluster/Notifications.pm.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import ipaddress
import json
import re
import secrets
import typing as t
import uuid

from aiohttp import web
from fakepve import schema
from fakepve.firewall import empty_conf
from fakepve.model import PveError
from fakepve.routing import check_digest, die, param_error, split_list
from fakepve.server import USER, FakePve, params
from fakepve.shapes import PRIVILEGES

Values = dict[str, t.Any]
Handler = t.Callable[[Values, str], t.Awaitable[t.Any]]

# What the sections of a file take, as options() of their plugins say: "!" is required, "=" is fixed.
_DIRECTORY = (
    "server2 port secure sslversion default comment tfa verify capath cert certkey bind_dn password filter "
    "sync_attributes user_classes group_dn group_name_attr group_filter group_classes sync-defaults-options mode "
    "case-sensitive"
)
DOMAINS = {
    "ldap": f"server1! base_dn! user_attr! {_DIRECTORY}",
    "ad": f"server1! domain! base_dn user_attr {_DIRECTORY}",
    "openid": "issuer-url! client-id! client-key autocreate username-claim= groups-claim groups-autocreate "
    "groups-overwrite prompt scopes acr-values audiences default comment query-userinfo",
    "pam": "default comment tfa",
    "pve": "default comment tfa",
}
ZONES = {
    "evpn": "nodes vrf-vxlan! controller! exitnodes exitnodes-local-routing exitnodes-primary advertise-subnets "
    "disable-arp-nd-suppression bridge-disable-mac-learning rt-import vxlan-port mtu mac dns reversedns dnszone ipam "
    "secondary-controllers",
    "faucet": "nodes dp-id! controller! dns reversedns dnszone ipam",
    "qinq": "nodes tag! bridge! bridge-disable-mac-learning mtu vlan-protocol dns reversedns dnszone ipam",
    "simple": "nodes mtu dns reversedns dnszone ipam dhcp",
    "vlan": "nodes bridge! bridge-disable-mac-learning mtu dns reversedns dnszone ipam",
    "vxlan": "nodes peers vxlan-port mtu dns reversedns dnszone ipam fabric",
}
VNETS = {"vnet": "zone! tag alias vlanaware isolate-ports"}
SUBNETS = {"subnet": "vnet! gateway snat dnszoneprefix dhcp-range dhcp-dns-server"}
DNS = {"powerdns": "url! key! ttl reversemaskv6 fingerprint"}
IPAMS = {"netbox": "url! token! fingerprint", "pve": "", "phpipam": "url! token! section! fingerprint"}
METRICS = {
    "graphite": "server! port mtu proto timeout path disable",
    "influxdb": "server! port! mtu disable organization bucket token influxdbproto timeout max-body-size "
    "api-path-prefix verify-certificate",
    "opentelemetry": "server! port disable otel-protocol otel-path otel-timeout otel-headers otel-verify-ssl "
    "otel-max-body-size otel-resource-attributes otel-compression",
}
HA_RESOURCES = dict.fromkeys(("ct", "vm"), "state group comment failback max_restart max_relocate auto-rebalance")
HA_RULES = {
    "node-affinity": "resources! nodes! strict disable comment",
    "resource-affinity": "resources! affinity! disable comment",
}
REPLICATION = {"local": "target!= disable comment rate schedule remove_job source"}

SPECIAL_ROLES = {
    "Administrator": frozenset(PRIVILEGES),
    "NoAccess": frozenset[str](),
    "PVEAuditor": frozenset(p for p in PRIVILEGES if p.endswith(".Audit")),
    "PVEPoolUser": frozenset(["Pool.Audit"]),
    "PVETemplateUser": frozenset(["VM.Clone", "VM.Audit"]),
    "PVEVMUser": frozenset(["VM.Audit", "VM.Backup", "VM.Console", "VM.PowerMgmt"]),
}
ACL_PATH = re.compile(
    r"/|/(access|nodes|pool|sdn|storage|vms|mapping)|/access/(groups|realm)(/[\w.-]+)?|/nodes/[\w.-]+|"
    r"/pool/[\w.-]+(/[\w.-]+){0,2}|/sdn/(controllers|dns|fabrics|ipams|prefix-lists|route-maps|zones)(/[\w-]+)?|"
    r"/sdn/zones/[\w.-]+/[\w.-]+(/[1-9]\d{0,3})?|/storage/[\w.-]+|/vms/[1-9]\d{2,}|/mapping/[\w.-]+(/[\w.-]+)?",
    re.ASCII,
)


# ------------------------------------------------------------------------------------------- files with sections


def options_of(types: t.Mapping[str, str], kind: str) -> dict[str, tuple[bool, bool]]:
    """(optional, fixed) of every option of a type."""
    return {word.rstrip("!="): ("!" not in word, "=" in word) for word in types[kind].split()}


def check_config(types: t.Mapping[str, str], kind: str, values: t.Mapping[str, t.Any], create: bool) -> Values:
    """PVE::SectionConfig::check_config"""
    options = options_of(types, kind)
    for key, value in values.items():
        if key == "type" and value == kind:
            continue
        if key not in options:
            raise die(f"unexpected property '{key}'")
        if not create and options[key][1]:
            raise die(f"can't change value of fixed parameter '{key}'")
        for text in value if isinstance(value, list) else [value]:
            if re.search(r"[\n\r]", str(text)):
                raise die("property contains a line feed")
    if create:
        for key, (optional, _fixed) in options.items():
            if not optional and values.get(key) is None:
                raise die(f"missing value for required option '{key}'")
    return {"type": kind, **values}


def delete_options(types: t.Mapping[str, str], section: Values, new: t.Mapping[str, t.Any], names: str | None) -> None:
    """PVE::SectionConfig::delete_from_config"""
    options = options_of(types, section["type"])
    for key in split_list(names):
        if key not in options:
            raise die(f"no such option '{key}'")
        if not options[key][0]:
            raise die(f"unable to delete required option '{key}'")
        if options[key][1]:
            raise die(f"unable to delete fixed option '{key}'")
        if new.get(key) is not None:
            raise die(f"cannot set and delete property '{key}' at the same time!")
        section.pop(key, None)


def digest_of(content: t.Any) -> str:
    """A digest of a file."""
    return hashlib.sha1(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def stored(section: Values) -> Values:
    """A section as it is after the file was written: without what is empty, and without blanks around values."""
    bare = {key: value.strip() if isinstance(value, str) else value for key, value in section.items()}
    return {key: value for key, value in bare.items() if value not in ("", [], None)}


class Failing:
    """What PVE's lock functions put before an error."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def __enter__(self) -> None:
        return

    def __exit__(self, _kind: t.Any, error: BaseException | None, _trace: t.Any) -> None:
        if isinstance(error, PveError) and not error.errors and error.status == 500:
            raise PveError(500, f"{self._prefix}: {error.message}") from error


class Objects(FakePve):
    """Adds the objects."""

    def __init__(self, *args: t.Any, **options: t.Any) -> None:
        super().__init__(*args, **options)
        self.user_cfg: dict[str, Values] = {}
        self.groups: dict[str, Values] = {}
        self.roles: dict[str, set[str]] = {}
        # (path, kind, holder, role) -> whether it propagates
        self.acl_entries: dict[tuple[str, str, str, str], int] = {}
        self.user_tokens: dict[str, dict[str, Values]] = {}
        self.domains: dict[str, Values] = {}
        self.jobs: dict[str, Values] = {}
        self.replications: dict[str, Values] = {}
        self.ha_resources: dict[str, Values] = {}
        self.ha_rules: dict[str, Values] = {}
        self.metric_servers: dict[str, Values] = {}
        self.sdn: dict[str, dict[str, Values]] = {"zones": {}, "vnets": {}, "subnets": {}}
        self.sdn_running: dict[str, dict[str, Values]] = {"zones": {}, "vnets": {}, "subnets": {}}
        self.sdn_dns: dict[str, Values] = {}
        self.sdn_ipams: dict[str, Values] = {"pve": {"type": "pve"}}
        self.sdn_controllers = {"evpn1"}
        # node -> interfaces in force, and those that wait
        self.interfaces: dict[str, dict[str, Values]] = {}
        self.interfaces_new: dict[str, dict[str, Values]] = {}
        self.endpoints: dict[str, dict[str, Values]] = {
            "gotify": {},
            "sendmail": {"mail-to-root": {"mailto-user": ["root@pam"], "origin": "builtin"}},
            "smtp": {},
            "webhook": {},
        }
        self.matchers: dict[str, Values] = {
            "default-matcher": {"target": ["mail-to-root"], "mode": "all", "origin": "builtin"}
        }
        # What is written where no read gives it back.
        self.hidden: dict[str, str] = {}

    def _routes_objects(self) -> list[tuple[str, str, Handler]]:
        user, token = "/access/users/{userid}", "/access/users/{userid}/token/{tokenid}"
        routes: list[tuple[str, str, Handler]] = [
            ("GET", "/access/users", self._users),
            ("POST", "/access/users", self._user_create),
            ("PUT", user, self._user_update),
            ("DELETE", user, self._user_delete),
            ("POST", token, self._token_create),
            ("PUT", token, self._token_update),
            ("DELETE", token, self._token_delete),
            ("GET", "/access/groups", self._groups_get),
            ("POST", "/access/groups", self._group_create),
            ("PUT", "/access/groups/{groupid}", self._group_update),
            ("DELETE", "/access/groups/{groupid}", self._group_delete),
            ("GET", "/access/roles", self._roles_get),
            ("POST", "/access/roles", self._role_create),
            ("PUT", "/access/roles/{roleid}", self._role_update),
            ("DELETE", "/access/roles/{roleid}", self._role_delete),
            ("GET", "/access/acl", self._acl_get),
            ("PUT", "/access/acl", self._acl_put),
            ("GET", "/access/domains", self._domains_get),
            ("POST", "/access/domains", self._domain_create),
            ("GET", "/access/domains/{realm}", self._domain_read),
            ("PUT", "/access/domains/{realm}", self._domain_update),
            ("DELETE", "/access/domains/{realm}", self._domain_delete),
            ("GET", "/cluster/backup", self._jobs_get),
            ("POST", "/cluster/backup", self._job_create),
            ("PUT", "/cluster/backup/{id}", self._job_update),
            ("DELETE", "/cluster/backup/{id}", self._job_delete),
            ("GET", "/cluster/replication", self._replications_get),
            ("POST", "/cluster/replication", self._replication_create),
            ("PUT", "/cluster/replication/{id}", self._replication_update),
            ("DELETE", "/cluster/replication/{id}", self._replication_delete),
            ("GET", "/nodes/{node}/replication", self._replications_of_node),
            ("GET", "/cluster/ha/resources", self._ha_resources_get),
            ("POST", "/cluster/ha/resources", self._ha_resource_create),
            ("PUT", "/cluster/ha/resources/{sid}", self._ha_resource_update),
            ("DELETE", "/cluster/ha/resources/{sid}", self._ha_resource_delete),
            ("GET", "/cluster/ha/rules", self._ha_rules_get),
            ("POST", "/cluster/ha/rules", self._ha_rule_create),
            ("PUT", "/cluster/ha/rules/{rule}", self._ha_rule_update),
            ("DELETE", "/cluster/ha/rules/{rule}", self._ha_rule_delete),
            ("GET", "/cluster/metrics/server", self._metrics_get),
            ("GET", "/cluster/metrics/server/{id}", self._metric_read),
            ("POST", "/cluster/metrics/server/{id}", self._metric_create),
            ("PUT", "/cluster/metrics/server/{id}", self._metric_update),
            ("DELETE", "/cluster/metrics/server/{id}", self._metric_delete),
            ("PUT", "/cluster/sdn", self._sdn_apply),
            ("GET", "/cluster/sdn/zones", self._zones_get),
            ("POST", "/cluster/sdn/zones", self._zone_create),
            ("PUT", "/cluster/sdn/zones/{zone}", self._zone_update),
            ("DELETE", "/cluster/sdn/zones/{zone}", self._zone_delete),
            ("GET", "/cluster/sdn/vnets", self._vnets_get),
            ("POST", "/cluster/sdn/vnets", self._vnet_create),
            ("PUT", "/cluster/sdn/vnets/{vnet}", self._vnet_update),
            ("DELETE", "/cluster/sdn/vnets/{vnet}", self._vnet_delete),
            ("GET", "/cluster/sdn/vnets/{vnet}/subnets", self._subnets_get),
            ("POST", "/cluster/sdn/vnets/{vnet}/subnets", self._subnet_create),
            ("PUT", "/cluster/sdn/vnets/{vnet}/subnets/{subnet}", self._subnet_update),
            ("DELETE", "/cluster/sdn/vnets/{vnet}/subnets/{subnet}", self._subnet_delete),
            ("PUT", "/nodes/{node}/network", self._network_reload),
            ("POST", "/nodes/{node}/network", self._interface_create),
            ("PUT", "/nodes/{node}/network/{iface}", self._interface_update),
            ("DELETE", "/nodes/{node}/network/{iface}", self._interface_delete),
            ("DELETE", "/nodes/{node}/network", self._network_revert),
        ]
        plugins = (("dns", "dns", DNS, "sdn_dns"), ("ipams", "ipam", IPAMS, "sdn_ipams"))
        for plural, single, types, attribute in plugins:
            routes += self._plugin_routes(plural, single, types, attribute)
        return routes + self._notification_routes()

    # ----------------------------------------------------------------------------------------------------- users

    def _user_entries(self) -> dict[str, Values]:
        """Every user; also those that a test has added."""
        known = {"root@pam": {"enable": 1}, **{userid: {"enable": 1} for userid in self.users}}
        for userid, entry in known.items():
            self.user_cfg.setdefault(userid, entry)
        for tokenid in self.apitokens:
            userid, _bang, name = tokenid.partition("!")
            separated = int(tokenid in getattr(self, "separated", ()))
            self.user_cfg.setdefault(userid, {"enable": 1})
            self.user_tokens.setdefault(userid, {}).setdefault(name, {"privsep": separated})
        return self.user_cfg

    def _groups_of(self, userid: str) -> list[str]:
        return sorted(name for name, group in self.groups.items() if userid in group["users"])

    def _may(self, user: str, path: str, *privileges: str) -> bool:
        return any(self.allowed(user, path, privilege) for privilege in privileges)

    def _sees_user(self, user: str, userid: str) -> bool:
        return (
            # A token is not its user (permissions-023).
            userid == user
            or self._may(user, "/access/groups", "User.Modify", "Sys.Audit")
            or any(self._may(user, f"/access/groups/{g}", "User.Modify", "Sys.Audit") for g in self._groups_of(userid))
        )

    async def _users(self, v: Values, user: str) -> list[Values]:
        answer = []
        for userid, entry in sorted(self._user_entries().items()):
            if not self._sees_user(user, userid):
                continue
            shown = stored(entry)
            shown.setdefault("expire", 0)
            shown.update(userid=userid)
            realm = userid.rpartition("@")[2]
            if realm in self._domains():
                shown["realm-type"] = self._domains()[realm]["type"]
            if v.get("full"):
                shown["groups"] = ",".join(self._groups_of(userid))
                tokens = self.user_tokens.get(userid)
                if tokens:
                    shown["tokens"] = [{"tokenid": name, "expire": 0, **tokens[name]} for name in sorted(tokens)]
            answer.append(shown)
        return answer

    def _check(self, user: str, check: list[t.Any], values: Values, declared: t.Any = None) -> tuple[bool, str]:
        """The test userid-group, which fakepve knows by half (exec_api2_perm_check of PVE/RPCEnvironment.pm)."""
        if check[0] != "userid-group" or self._may(user, "/access/groups", *check[1]):
            return t.cast("tuple[bool, str]", super()._check(user, check, values, declared))
        options = dict(zip(check[2::2], check[3::2], strict=True))
        held = {name for name in self.groups if self._may(user, f"/access/groups/{name}", *check[1])}
        wanted = split_list(values.get("groups"))
        if "groups_param" in options and (not wanted or set(wanted) - held):
            return False, f"/access/groups, {'|'.join(check[1])}"
        return options.get("groups_param") == "create" or bool(held & set(self._groups_of(str(values["userid"])))), ""

    def _join_groups(self, userid: str, names: str | None) -> None:
        for name in split_list(names):
            if name not in self.groups:
                raise die(f"no such group '{name}'")
            self.groups[name]["users"].add(userid)

    async def _user_create(self, v: Values, user: str) -> None:
        userid, realm = v["userid"], v["userid"].rpartition("@")[2]
        self.require(user, f"/access/realm/{realm}", "Realm.AllocateUser")
        with Failing("create user failed"):
            if userid in self._user_entries():
                raise die(f"user '{userid}' already exists")
            if v.get("password") is not None:
                self._store_password(userid, v["password"])
            entry: Values = {"enable": v.get("enable", 1)}
            for key in ("expire", "firstname", "lastname", "email", "comment", "keys"):
                if v.get(key):
                    entry[key] = v[key]
            self._join_groups(userid, v.get("groups"))
            self.user_cfg[userid] = entry

    def _store_password(self, userid: str, password: str) -> None:
        realm = userid.rpartition("@")[2]
        if realm not in self._domains():
            raise die(f"auth domain '{realm}' does not exist")
        kind = self._domains()[realm]["type"]
        if kind not in ("pam", "pve"):
            raise die(f"can't set password on auth type '{kind}'")
        self.users[userid] = password

    def _known_user(self, userid: str) -> Values:
        if userid not in self._user_entries():
            raise die(f"no such user ('{userid}')")
        return self.user_cfg[userid]

    async def _user_update(self, v: Values, user: str) -> None:
        with Failing("update user failed"):
            entry = self._known_user(v["userid"])
            for key in ("enable", "expire", "firstname", "lastname", "email", "comment", "keys"):
                if v.get(key) is not None:
                    entry[key] = v[key]
            if v.get("groups") is not None:
                if not v.get("append"):
                    for group in self.groups.values():
                        group["users"].discard(v["userid"])
                self._join_groups(v["userid"], v["groups"])

    async def _user_delete(self, v: Values, user: str) -> None:
        userid = v["userid"]
        self._user_entries()
        self.user_cfg.pop(userid, None)
        self.users.pop(userid, None)
        for name in self.user_tokens.pop(userid, {}):
            self.apitokens.pop(f"{userid}!{name}", None)
        for group in self.groups.values():
            group["users"].discard(userid)
        self._forget_holders(lambda _kind, holder: holder.partition("!")[0] == userid)

    def _forget_holders(self, gone: t.Callable[[str, str], bool]) -> None:
        self.acl_entries = {key: value for key, value in self.acl_entries.items() if not gone(key[1], key[2])}

    # ---------------------------------------------------------------------------------------------------- tokens

    def _own_or(self, user: str, userid: str) -> None:
        """The test userid-param with self of PVE/RPCEnvironment.pm: a token is not its user."""
        if user != userid and not self._check(user, ["userid-group", ["User.Modify"]], {"userid": userid})[0]:
            raise PveError(403, "Permission check failed")

    async def _token_create(self, v: Values, user: str) -> Values:
        userid, name = v["userid"], v["tokenid"]
        self._own_or(user, userid)
        self._known_user(userid)
        if name in self.user_tokens.get(userid, {}):
            raise param_error(tokenid="Token already exists.")
        token: Values = {"privsep": v.get("privsep", 1)}
        token.update({key: v[key] for key in ("expire", "comment") if v.get(key)})
        self.user_tokens.setdefault(userid, {})[name] = token
        value = str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))
        self._set_separated(f"{userid}!{name}", token)
        self.apitokens[f"{userid}!{name}"] = value
        # The answer has the flag as it was sent (reads-102).
        info = {**token, "privsep": str(token["privsep"])}
        return {"value": value, "full-tokenid": f"{userid}!{name}", "info": info}

    def _set_separated(self, tokenid: str, token: Values) -> None:
        separated = t.cast("set[str]", vars(self).setdefault("separated", set()))
        if token["privsep"]:
            separated.add(tokenid)
        else:
            separated.discard(tokenid)

    def _token(self, v: Values) -> Values:
        self._known_user(v["userid"])
        token = self.user_tokens.get(v["userid"], {}).get(v["tokenid"])
        if token is None:
            raise die(f"no such token '{v['tokenid']}' for user '{v['userid']}'")
        return token

    async def _token_update(self, v: Values, user: str) -> Values:
        self._own_or(user, v["userid"])
        token = self._token(v)
        for key in ("privsep", "expire", "comment"):
            if v.get(key) is not None:
                token[key] = v[key]
        for key in split_list(v.get("delete")):
            if key != "comment":
                raise param_error(delete=f"unknown option '{key}'")
            token.pop(key, None)
        if not str(token.get("comment") or "").strip():
            token.pop("comment", None)
        self._set_separated(f"{v['userid']}!{v['tokenid']}", token)
        return dict(token)

    async def _token_delete(self, v: Values, user: str) -> None:
        self._own_or(user, v["userid"])
        self._token(v)
        full = f"{v['userid']}!{v['tokenid']}"
        del self.user_tokens[v["userid"]][v["tokenid"]]
        self.apitokens.pop(full, None)
        self._forget_holders(lambda _kind, holder: holder == full)

    # ---------------------------------------------------------------------------------------------------- groups

    async def _groups_get(self, v: Values, user: str) -> list[Values]:
        answer = []
        for name, group in sorted(self.groups.items()):
            if not self._may(user, f"/access/groups/{name}", "User.Modify", "Sys.Audit", "Group.Allocate"):
                continue
            entry = {"groupid": name, "users": ",".join(sorted(group["users"]))}
            if group.get("comment"):
                entry["comment"] = group["comment"]
            answer.append(entry)
        return answer

    async def _group_create(self, v: Values, user: str) -> None:
        if v["groupid"] in self.groups:
            raise die(f"create group failed: group '{v['groupid']}' already exists")
        self.groups[v["groupid"]] = {"users": set(), "comment": v.get("comment")}

    async def _group_update(self, v: Values, user: str) -> None:
        if v["groupid"] not in self.groups:
            raise die(f"update group failed: group '{v['groupid']}' does not exist")
        if v.get("comment") is not None:
            self.groups[v["groupid"]]["comment"] = v["comment"]

    async def _group_delete(self, v: Values, user: str) -> None:
        if v["groupid"] not in self.groups:
            raise die(f"delete group failed: group '{v['groupid']}' does not exist")
        del self.groups[v["groupid"]]
        self._forget_holders(lambda kind, holder: kind == "group" and holder == v["groupid"])

    # ----------------------------------------------------------------------------------------------------- roles

    def _role_privileges(self, name: str) -> t.AbstractSet[str] | None:
        return SPECIAL_ROLES.get(name, self.roles.get(name))

    async def _roles_get(self, v: Values, user: str) -> list[Values]:
        every = {**{name: set(held) for name, held in SPECIAL_ROLES.items()}, **self.roles}
        return [
            {"roleid": name, "privs": ",".join(sorted(held)), "special": int(name in SPECIAL_ROLES)}
            for name, held in every.items()
        ]

    @staticmethod
    def _privileges(text: str | None) -> set[str]:
        for privilege in split_list(text):
            if privilege not in PRIVILEGES:
                raise die(f"invalid privilege '{privilege}'")
        return set(split_list(text))

    async def _role_create(self, v: Values, user: str) -> None:
        name = v["roleid"]
        if re.match("PVE", name, re.IGNORECASE):
            raise param_error(roleid="cannot use role ID starting with the (case-insensitive) 'PVE' namespace")
        with Failing("create role failed"):
            if self._role_privileges(name) is not None:
                raise die(f"role '{name}' already exists")
            self.roles[name] = self._privileges(v.get("privs"))

    async def _role_update(self, v: Values, user: str) -> None:
        name = v["roleid"]
        if name in SPECIAL_ROLES:
            raise die(f"auto-generated role '{name}' cannot be modified")
        with Failing("update role failed"):
            if name not in self.roles:
                raise die(f"role '{name}' does not exist")
            held = self._privileges(v.get("privs"))
            self.roles[name] = held | (self.roles[name] if v.get("append") else set())

    async def _role_delete(self, v: Values, user: str) -> None:
        name = v["roleid"]
        if name in SPECIAL_ROLES:
            raise die(f"auto-generated role '{name}' cannot be deleted")
        if name not in self.roles:
            raise die(f"delete role failed: role '{name}' does not exist")
        del self.roles[name]
        # Entries with a role that is not there are ignored when the file is read.
        self.acl_entries = {key: value for key, value in self.acl_entries.items() if key[3] != name}

    # ------------------------------------------------------------------------------------------------------- ACL

    def _granted(self, who: str, path: str) -> dict[str, bool]:
        """Adds what the API was told to what a test has granted."""
        found: dict[str, bool] = super()._granted(who, path)
        steps = ["/"]
        for part in path.strip("/").split("/") if path != "/" else []:
            steps.append(f"{steps[-1].rstrip('/')}/{part}")
        groups = self._groups_of(who)
        for step in steps:
            held: dict[str, bool] = {}
            for (where, kind, holder, role), propagate in self.acl_entries.items():
                theirs = holder == who if kind in ("user", "token") else holder in groups
                if where == step and theirs and (propagate or step == path):
                    held.update(dict.fromkeys(self._role_privileges(role) or (), bool(propagate)))
            found = held or found
        return found

    def _acl_paths(self) -> set[str]:
        paths: set[str] = super()._acl_paths()
        return paths | {key[0] for key in self.acl_entries}

    async def _acl_get(self, v: Values, user: str) -> list[Values]:
        audit = self._may(user, "/access", "Sys.Audit")
        return [
            {"path": path, "type": kind, "ugid": holder, "roleid": role, "propagate": propagate}
            for (path, kind, holder, role), propagate in self.acl_entries.items()
            if audit or self._may(user, path, "Permissions.Modify")
        ]

    async def _acl_put(self, v: Values, user: str) -> None:
        kinds = {"users": "user", "groups": "group", "tokens": "token"}
        if not any(v.get(key) for key in kinds):
            raise param_error(**dict.fromkeys(kinds, "either 'users', 'groups' or 'tokens' is required."))
        path = "/" + re.sub("/+", "/", v["path"]).strip("/")
        if not re.fullmatch(r"[\w./-]+", path, re.ASCII) or (not v.get("delete") and not ACL_PATH.fullmatch(path)):
            raise param_error(path=f"invalid ACL path '{v['path']}'")
        entries = dict(self.acl_entries)
        with Failing("ACL update failed"):
            for role in split_list(v["roles"]):
                if self._role_privileges(role) is None:
                    raise die(f"role '{role}' does not exist")
                for key, kind in kinds.items():
                    for holder in split_list(v.get(key)):
                        self._check_holder(kind, holder)
                        if v.get("delete"):
                            entries.pop((path, kind, holder, role), None)
                        elif (kind, holder) != ("user", "root@pam"):
                            entries[path, kind, holder, role] = v.get("propagate", 1)
        self.acl_entries = entries

    def _check_holder(self, kind: str, holder: str) -> None:
        if kind == "group":
            if holder not in self.groups:
                raise die(f"group '{holder}' does not exist")
            return
        userid, _bang, name = holder.partition("!")
        if userid not in self._user_entries():
            raise die(f"user '{userid}' does not exist" if kind == "user" else f"no such user ('{userid}')")
        if kind == "token" and name not in self.user_tokens.get(userid, {}):
            raise die(f"no such token '{name}' for user '{userid}'")

    # ---------------------------------------------------------------------------------------------------- realms

    def _domains(self) -> dict[str, Values]:
        """Two are always there, and have a comment when none is set (reads-075)."""
        texts = {"pam": "Linux PAM standard authentication", "pve": "Proxmox VE authentication server"}
        for realm, text in texts.items():
            entry = self.domains.setdefault(realm, {"type": realm})
            if not entry.get("comment"):
                entry["comment"] = text
        return self.domains

    async def _domains_get(self, v: Values, user: str) -> list[Values]:
        answer = []
        for realm, entry in self._domains().items():
            shown = {key: entry[key] for key in ("type", "comment") if entry.get(key)}
            if entry.get("default"):
                shown["default"] = 1
            if entry.get("tfa"):
                shown["tfa"] = re.search(r"type=(\w+)", entry["tfa"])[1]
            answer.append({"realm": realm, **shown})
        return answer

    async def _domain_read(self, v: Values, user: str) -> Values:
        if v["realm"] not in self._domains():
            raise die(f"domain '{v['realm']}' does not exist")
        return {**self.domains[v["realm"]], "digest": digest_of(self.domains)}

    def _write_domain(self, realm: str, entry: Values, given: Values, password: str | None) -> None:
        if given.get("default"):
            for other in self.domains.values():
                other.pop("default", None)
        self.domains[realm] = stored({**entry, **given})
        if password is not None:
            self.hidden[f"realm {realm}"] = password

    async def _domain_create(self, v: Values, user: str) -> None:
        given = dict(v)
        realm, kind, password = given.pop("realm"), given["type"], given.pop("password", None)
        check = given.pop("check-connection", None)
        with Failing("add auth server failed"):
            if realm in ("pam", "pve"):
                raise die(f"domain '{realm}' already exists")
            if realm in self._domains():
                raise die(f"domain '{realm}' already exists")
            if kind in ("pam", "pve"):
                raise die(f"unable to create builtin type '{kind}'")
            if check is not None and kind not in ("ad", "ldap"):
                raise die("'check-connection' parameter can only be set for realms of type 'ldap' or 'ad'")
            self._write_domain(realm, {}, check_config(DOMAINS, kind, given, True), password)

    async def _domain_update(self, v: Values, user: str) -> None:
        given = dict(v)
        realm, password = given.pop("realm"), given.pop("password", None)
        digest, delete, _check = given.pop("digest", None), given.pop("delete", None), given.pop("check-connection", 0)
        with Failing("update auth server failed"):
            check_digest(digest_of(self._domains()), digest)
            if realm not in self.domains:
                raise die(f"domain '{realm}' does not exist")
            if not delete and not given and password is None:
                raise die("no options specified")
            entry = dict(self.domains[realm])
            for key in split_list(delete):
                entry.pop(key, None)
            self._write_domain(realm, entry, check_config(DOMAINS, entry["type"], given, False), password)

    async def _domain_delete(self, v: Values, user: str) -> None:
        if v["realm"] not in self._domains():
            raise die(f"delete auth server failed: authentication domain '{v['realm']}' does not exist")
        del self.domains[v["realm"]]

    # -------------------------------------------------------------------------------------- storages and firewall

    async def _sc_create(self, v: Values, user: str) -> t.Any:
        """Adds what on_add_hook of the plugins does, and canonpath for directories."""
        answer = await super()._sc_create(v, user)
        store = t.cast("Values", self.storages[v["storage"]])
        if v["type"] == "zfspool":
            store.setdefault("mountpoint", f"/{store['pool']}")
        if v["type"] == "zfs":
            store.setdefault("zfs-base-path", "/dev/zvol")
        if v["type"] in ("btrfs", "dir"):
            store["path"] = "/" + "/".join(filter(None, store["path"].split("/")))
        if v["type"] == "pbs":
            if "master-pubkey" in v and "encryption-key" not in v:
                del self.storages[v["storage"]]
                raise die("create storage failed: 'master-pubkey' can only be used together with 'encryption-key'")
            self._keep_keys(v)
        return answer

    async def _sc_update(self, v: Values, user: str) -> t.Any:
        answer = await super()._sc_update(v, user)
        if self.storages[v["storage"]]["type"] == "pbs":
            self._keep_keys(v)
        return answer

    def _keep_keys(self, v: Values) -> None:
        """The files of the keys of a Proxmox Backup Server, whose marks are in the configuration (PBSPlugin.pm)."""
        store = t.cast("Values", self.storages[v["storage"]])
        if "encryption-key" in v:
            generated = json.dumps({"data": "", "fingerprint": secrets.token_hex(32)})
            text = generated if v["encryption-key"] == "autogen" else v["encryption-key"]
            try:
                key = json.loads(text)
            except ValueError:
                raise die("Value does not seems like a valid, JSON formatted encryption key!") from None
            store["encryption-key"] = key.get("fingerprint") or 1
        if "master-pubkey" in v:
            store["master-pubkey"] = 1

    def _routes_firewall(self) -> list[tuple[str, str, Handler]]:
        """Adds the firewalls of VNets (PVE/API2/Firewall/Vnet.pm)."""
        base, routes = "/cluster/sdn/vnets/{vnet}/firewall", list(super()._routes_firewall())
        methods = (
            *(("GET", "/options", self._fw_options_get), ("PUT", "/options", self._fw_options_put)),
            *(("GET", "/rules", self._fw_rules_get), ("POST", "/rules", self._fw_rule_create)),
            *(("PUT", "/rules/{pos}", self._fw_rule_update), ("DELETE", "/rules/{pos}", self._fw_rule_delete)),
        )
        for method, path, call in methods:

            async def bound(v: Values, user: str, method: str = method, call: t.Any = call) -> t.Any:
                if v["vnet"] not in self.sdn_running["vnets"]:
                    raise die("invalid vnet specified at /usr/share/perl5/PVE/API2/Firewall/Helpers.pm line 52.")
                self._need_vnet(user, v["vnet"], "SDN.Allocate", *(["SDN.Audit"] if method == "GET" else []))
                return await call("vnet", {**v, "vmid": v["vnet"]}, user)

            routes.append((method, base + path, bound))
        return routes

    def firewall_config(self, scope: str, node: t.Any = None, vmid: t.Any = None) -> Values:
        """Adds those of VNets, which are given as a vmid."""
        if scope == "vnet":
            return t.cast("Values", self._fw().setdefault("vnets", {}).setdefault(vmid, empty_conf()))
        return t.cast("Values", super().firewall_config(scope, node, vmid))

    def _option_names(self, scope: str) -> t.Sequence[str]:
        if scope == "vnet":
            return ("enable", "log_level_forward", "policy_forward")
        return t.cast("t.Sequence[str]", super()._option_names(scope))

    def _check_rule(self, scope: str, rule: Values, conf: Values) -> t.Any:
        """Of a VNet only what is forwarded can be ruled ($rule_env_direction_lookup of PVE/Firewall.pm)."""
        if scope == "vnet" and rule.get("type") not in ("forward", "group"):
            raise param_error(type=f"invalid rule type '{rule.get('type')}' for rule_env 'vnet'")
        if scope == "vnet" and rule.get("iface"):
            raise param_error(type="parameter -i not allowed for this rule type")
        return super()._check_rule("cluster" if scope == "vnet" else scope, rule, conf)

    def _parsed_firewall(self, conf: Values) -> None:
        """What generic_fw_config_parser makes of the file: names are lower case, and rules have what is written."""
        for key in ("groups", "group_comments", "ipset", "ipset_comments"):
            conf[key] = {name.lower(): it for name, it in conf.get(key, {}).items()}
        for rules in (conf.get("rules", []), *conf.get("groups", {}).values()):
            for rule in rules:
                kept = stored(rule)
                if rule["type"] == "group":
                    kept = {key: kept[key] for key in ("type", "action", "comment", "enable", "iface") if key in kept}
                rule.clear()
                rule.update(kept)

    async def _fw_ipset_create(self, scope: str, v: Values, user: str) -> None:
        await super()._fw_ipset_create(scope, v, user)
        self._parsed_firewall(self.firewall_config(scope, v.get("node"), v.get("vmid")))

    async def _fw_group_create(self, v: Values, user: str) -> None:
        await super()._fw_group_create(v, user)
        self._parsed_firewall(self.firewall_config("cluster"))

    async def _fw_rule_create(self, scope: str, v: Values, user: str) -> None:
        await super()._fw_rule_create(scope, v, user)
        self._parsed_firewall(self.firewall_config(scope, v.get("node"), v.get("vmid")))

    async def _fw_rule_update(self, scope: str, v: Values, user: str) -> None:
        await super()._fw_rule_update(scope, v, user)
        self._parsed_firewall(self.firewall_config(scope, v.get("node"), v.get("vmid")))

    # ----------------------------------------------------------------------------------------------- backup jobs

    @staticmethod
    def _job_values(v: Values) -> Values:
        """What is a property string is stored, and given back, as an object."""
        job = dict(v)
        for key in ("prune-backups", "fleecing", "performance"):
            if isinstance(job.get(key), str):
                parts = [part.partition("=") for part in job[key].split(",")]
                values = {name if equals else "enabled": value if equals else name for name, equals, value in parts}
                job[key] = {name: int(value) if str(value).isdigit() else value for name, value in values.items()}
        return job

    @staticmethod
    def _check_job(job: Values, whole: bool) -> None:
        """PVE::VZDump::verify_vzdump_parameters"""
        for key in ("all", "exclude", "pool"):
            if job.get(key) and job.get("vmid"):
                raise param_error(**{key: "option conflicts with option 'vmid'"})
        if job.get("exclude") is not None and not job.get("pool"):
            job["all"] = 1
        if whole and not (job.get("all") or job.get("stop") or job.get("pool") or job.get("vmid")):
            raise param_error(vmid="property is missing")

    def _only_root(self, user: str, *given: t.Iterable[str]) -> None:
        if user != "root@pam":
            for key in ("tmpdir", "dumpdir", "script"):
                if any(key in names for names in given):
                    raise param_error(**{key: "Only root may set this option."})

    async def _jobs_get(self, v: Values, user: str) -> list[Values]:
        return [{**job, "id": name, "type": "vzdump", "next-run": 1900000000} for name, job in self.jobs.items()]

    async def _job_create(self, v: Values, user: str) -> None:
        self._only_root(user, v)
        job = self._job_values(v)
        name = job.pop("id", None) or str(uuid.uuid4())
        if job.get("schedule") is None:
            raise param_error(schedule="neither 'starttime' nor 'schedule' were set")
        job.setdefault("enabled", 1)
        if name in self.jobs:
            raise die(f"Job '{name}' already exists")
        self._check_job(job, True)
        self.jobs[name] = job

    async def _job_update(self, v: Values, user: str) -> None:
        given = self._job_values(v)
        name, delete = given.pop("id"), split_list(given.pop("delete", None))
        self._only_root(user, given, delete)
        if not given and not delete:
            raise die("no options specified")
        self._check_job(given, False)
        if name not in self.jobs:
            raise die("no such vzdump job")
        job = dict(self.jobs[name])
        known = schema.load().paths["/nodes/{node}/vzdump"]["POST"]["parameters"]["properties"]
        for key in delete:
            if key not in known and key not in ("comment", "repeat-missed"):
                raise param_error(delete=f"unknown option '{key}'")
            job.pop(key, None)
        job.update(given)
        if job.get("exclude") is not None and job.get("pool") is None:
            job["all"] = 1
        if given.get("vmid") is not None:
            drop = ("all", "exclude", "pool")
        elif given.get("all"):
            drop = ("vmid", "pool")
        else:
            drop = ("vmid", "all", "exclude") if job.get("pool") else ()
        for key in drop:
            job.pop(key, None)
        self._check_job(job, True)
        self.jobs[name] = job

    async def _job_delete(self, v: Values, user: str) -> None:
        if v["id"] not in self.jobs:
            raise param_error(id=f"No such job '{v['id']}'")
        del self.jobs[v["id"]]

    # ----------------------------------------------------------------------------------------------- replication

    async def _replications_get(self, v: Values, user: str) -> list[Values]:
        return [
            {**job, "id": name}
            for name, job in sorted(self.replications.items())
            if self._may(user, f"/vms/{job['guest']}", "VM.Audit")
        ]

    async def _replications_of_node(self, v: Values, user: str) -> list[Values]:
        """status of PVE/API2/Replication.pm: the jobs of the guests that are on the node (PVE/ReplicationState.pm)."""
        found = []
        for job in await self._replications_get(v, user):
            guest = self.guest(job["guest"])
            if guest and guest.node == v["node"] and v.get("guest", job["guest"]) == job["guest"]:
                found.append(job)
        return found

    async def _replication_create(self, v: Values, user: str) -> None:
        given = dict(v)
        name, kind = given.pop("id"), given["type"]
        vmid, number = (int(part) for part in name.split("-"))
        self.require(user, f"/vms/{vmid}", "VM.Replicate")
        guest = self.guest(vmid)
        if guest is None:
            raise die(f"Guest '{vmid}' does not exist.")
        if given["target"] not in self.nodes:
            raise die(f"Target '{given['target']}' does not exist.")
        if given["target"] == guest.node:
            raise die("Source and target must not be identical")
        if name in self.replications:
            raise die(f"replication job '{name}' already exists")
        given.setdefault("source", guest.node)
        for other in self.replications.values():
            if (other["guest"], other["target"]) == (vmid, given["target"]):
                raise die(f"replication job for guest '{vmid}' to target '{given['target']}' already exists")
        entry = check_config(REPLICATION, kind, given, True)
        self.replications[name] = {**entry, "guest": vmid, "jobnum": number}

    async def _replication_update(self, v: Values, user: str) -> None:
        given = dict(v)
        name, _digest, delete = given.pop("id"), given.pop("digest", None), given.pop("delete", None)
        self.require(user, f"/vms/{name.split('-')[0]}", "VM.Replicate")
        if name not in self.replications:
            raise die(f"no such job '{name}'")
        entry = {**self.replications[name], **check_config(REPLICATION, "local", given, False)}
        delete_options(REPLICATION, entry, {}, delete)
        self.replications[name] = entry

    async def _replication_delete(self, v: Values, user: str) -> None:
        """It is only marked: pvesr removes it when it has removed what was replicated."""
        self.require(user, f"/vms/{v['id'].split('-')[0]}", "VM.Replicate")
        if v["id"] not in self.replications:
            raise die(f"no such job '{v['id']}'")
        self.replications[v["id"]]["remove_job"] = "local" if v.get("keep") else "full"

    # -------------------------------------------------------------------------------------------------------- HA

    async def _ha_resources_get(self, v: Values, user: str) -> list[Values]:
        digest = digest_of(self.ha_resources)
        return [{**entry, "sid": sid, "digest": digest} for sid, entry in self.ha_resources.items()]

    def _sid(self, text: str) -> str:
        if not text.isdigit():
            return text
        guest = self.guest(int(text))
        if guest is None:
            raise die(f"unable to detect SID from VMID - VM/CT {text} does not exist")
        return f"{'vm' if guest.guest.startswith('qemu') else 'ct'}:{text}"

    async def _ha_resource_create(self, v: Values, user: str) -> None:
        given = dict(v)
        sid = self._sid(given.pop("sid"))
        kind, _colon, vmid = sid.partition(":")
        if given.pop("type", kind) != kind:
            raise die("types does not match")
        if given.get("group") is not None:
            raise die("invalid parameter 'group': ha groups have been migrated to rules")
        if self.guest(int(vmid)) is None:
            raise die(f"resource '{sid}' does not exist in cluster")
        entry = check_config(HA_RESOURCES, kind, given, True)
        if sid in self.ha_resources:
            raise die(f"create resource failed: resource ID '{sid}' already defined")
        self.ha_resources[sid] = stored(entry)

    async def _ha_resource_update(self, v: Values, user: str) -> None:
        given = dict(v)
        sid = self._sid(given.pop("sid"))
        digest, delete = given.pop("digest", None), given.pop("delete", None)
        with Failing("update resources config failed"):
            check_digest(digest_of(self.ha_resources), digest)
            if sid not in self.ha_resources:
                raise die(f"no such resource '{sid}'")
            entry = {**self.ha_resources[sid], **check_config(HA_RESOURCES, sid.partition(":")[0], given, False)}
            delete_options(HA_RESOURCES, entry, {}, delete)
            self.ha_resources[sid] = stored(entry)

    async def _ha_resource_delete(self, v: Values, user: str) -> None:
        sid = self._sid(v["sid"])
        if sid not in self.ha_resources:
            raise die(f"cannot delete service '{sid}', not HA managed!")
        del self.ha_resources[sid]
        for name, rule in list(self.ha_rules.items()) if v.get("purge", 1) else []:
            rule["resources"] = [it for it in rule["resources"] if it != sid]
            if not rule["resources"]:
                del self.ha_rules[name]

    @staticmethod
    def _rule_values(given: Values) -> Values:
        values = dict(given)
        if values.get("resources") is not None:
            values["resources"] = sorted(set(split_list(values["resources"])))
        if values.get("nodes") is not None:
            nodes = dict(part.partition(":")[::2] for part in split_list(values["nodes"]))
            values["nodes"] = [f"{name}:{int(p)}" if p and int(p) else name for name, p in sorted(nodes.items())]
        for key in ("strict", "disable"):
            if values.get(key) is not None:
                values[key] = int(str(values[key]) in ("1", "true"))
        return values

    async def _ha_rules_get(self, v: Values, user: str) -> list[Values]:
        digest, answer = digest_of(self.ha_rules), []
        for order, (name, rule) in enumerate(self.ha_rules.items(), start=1):
            shown = {**rule, "rule": name, "digest": digest, "order": order}
            for key in ("resources", "nodes"):
                if key in rule:
                    shown[key] = ",".join(rule[key])
            answer.append(shown)
        return answer

    def _check_rule_config(self, rule: Values) -> None:
        unmanaged = [sid for sid in rule.get("resources", []) if sid not in self.ha_resources]
        if unmanaged:
            raise die(f"cannot use unmanaged resource(s) {', '.join(unmanaged)}.")
        unknown = [node for node in rule.get("nodes", []) if node.partition(":")[0] not in self.nodes]
        if unknown:
            raise die(f"cannot use non-existent node(s) {', '.join(unknown)}.")

    async def _ha_rule_create(self, v: Values, user: str) -> None:
        given = self._rule_values(v)
        name, kind = given.pop("rule"), given.pop("type", None)
        if kind not in HA_RULES:
            raise param_error(type="property is missing and it is not optional")
        if not given.get("disable"):
            given.pop("disable", None)
        entry = check_config(HA_RULES, kind, given, True)
        with Failing("create ha rule failed"):
            if name in self.ha_rules:
                raise die(f"HA rule '{name}' already defined")
            self._check_rule_config(entry)
        self.ha_rules[name] = stored(entry)

    async def _ha_rule_update(self, v: Values, user: str) -> None:
        given = self._rule_values(v)
        name, digest, delete = given.pop("rule"), given.pop("digest", None), given.pop("delete", None)
        # The schema has one variant for each type, and finds it by the type.
        if given.get("type") not in HA_RULES:
            raise param_error(type="property is missing and it is not optional")
        if not given.get("disable"):
            given.pop("disable", None)
        with Failing("update HA rules failed"):
            check_digest(digest_of(self.ha_rules), digest)
            if name not in self.ha_rules:
                raise die(f"HA rule '{name}' does not exist")
            entry = dict(self.ha_rules[name])
            new = check_config(HA_RULES, entry["type"], given, False)
            self._check_rule_config(new)
            delete_options(HA_RULES, entry, new, delete)
            self.ha_rules[name] = stored({**entry, **new})

    async def _ha_rule_delete(self, v: Values, user: str) -> None:
        self.ha_rules.pop(v["rule"], None)

    # -------------------------------------------------------------------------------------------- metric servers

    async def _metrics_get(self, v: Values, user: str) -> list[Values]:
        return [
            {"id": name, "disable": it.get("disable", 0), **{key: it[key] for key in ("type", "server", "port")}}
            for name, it in sorted(self.metric_servers.items())
        ]

    async def _metric_read(self, v: Values, user: str) -> Values:
        if v["id"] not in self.metric_servers:
            raise die(f"status server entry '{v['id']}' does not exist")
        return dict(self.metric_servers[v["id"]])

    async def _metric_create(self, v: Values, user: str) -> None:
        given = dict(v)
        name, kind, token = given.pop("id"), given["type"], given.pop("token", None)
        if name in self.metric_servers:
            raise die(f"Metric server '{name}' already exists")
        self.metric_servers[name] = stored(check_config(METRICS, kind, given, True))
        if token is not None:
            self.hidden[f"metrics {name}"] = token

    async def _metric_update(self, v: Values, user: str) -> None:
        given = dict(v)
        name, digest, delete = given.pop("id"), given.pop("digest", None), given.pop("delete", None)
        token = given.pop("token", None)
        check_digest(digest_of(self.metric_servers), digest)
        if name not in self.metric_servers:
            raise die(f"no such server '{name}'")
        entry = self.metric_servers[name]
        new = check_config(METRICS, entry["type"], given, False)
        changed = {**entry, **new}
        delete_options(METRICS, changed, new, delete)
        self.metric_servers[name] = stored(changed)
        if token is not None:
            self.hidden[f"metrics {name}"] = token

    async def _metric_delete(self, v: Values, user: str) -> None:
        self.metric_servers.pop(v["id"], None)

    # ------------------------------------------------------------------------------------------------------- SDN

    def _sdn_list(self, which: str, name: str, v: Values) -> list[Values]:
        """The configuration; with ``pending`` what is in force, and beside it what waits."""
        if not v.get("pending"):
            digest = digest_of(self.sdn[which])
            return [{**self._encoded(it), name: key, "digest": digest} for key, it in sorted(self.sdn[which].items())]
        return [{**it, name: key, "digest": None} for key, it in sorted(self._sdn_pending(which).items())]

    @staticmethod
    def _encoded(entry: Values) -> Values:
        sets = ("nodes", "exitnodes")
        return {key: ",".join(sorted(split_list(it))) if key in sets else it for key, it in entry.items()}

    def _sdn_pending(self, which: str) -> dict[str, Values]:
        """PVE::Network::SDN::pending_config"""
        running, config, pending = self.sdn_running[which], self.sdn[which], dict[str, Values]()
        for name, old in sorted(running.items()):
            new, entry = config.get(name, {}), pending.setdefault(name, {})
            for key, value in self._encoded(old).items():
                entry[key] = value
                if not new:
                    entry["state"] = "deleted"
                elif key not in new:
                    entry.setdefault("pending", {})[key] = "deleted"
                    entry["state"] = "changed"
                elif self._encoded(new)[key] != value:
                    entry["state"] = "changed"
            if entry.get("state"):
                entry.setdefault("pending", {})
        for name, new in sorted(config.items()):
            old, entry = self._encoded(running.get(name, {})), pending.setdefault(name, {})
            for key, value in self._encoded(new).items():
                if key in ("type", "vnet"):
                    entry[key] = value
                elif old.get(key) != value:
                    entry.setdefault("pending", {})[key] = value
                if not old:
                    entry["state"] = "new"
                elif key not in old:
                    entry["state"] = "changed"
            if entry.get("state"):
                entry.setdefault("pending", {})
        return pending

    async def _sdn_apply(self, v: Values, user: str) -> str:
        before, self.sdn_running = self.sdn_running, copy.deepcopy(self.sdn)

        async def body() -> None:
            await self.pause(1)
            # A VNet is a bridge of its name on the nodes.
            self.bridges = (self.bridges - set(before["vnets"])) | set(self.sdn_running["vnets"])

        return t.cast("str", await self.task(min(self.nodes), "reloadnetworkall", "", user, body))

    def _sdn_update(self, which: str, types: t.Mapping[str, str], what: str, name: str, given: Values) -> Values:
        """The new section of an object; it is not stored yet."""
        digest, delete = given.pop("digest", None), given.pop("delete", None)
        given.pop("lock-token", None)
        check_digest(digest_of(self.sdn[which]), digest)
        if name not in self.sdn[which]:
            raise die(f"sdn {what} '{name}' does not exist")
        entry = dict(self.sdn[which][name])
        new = check_config(types, entry["type"], given, False)
        delete_options(types, entry, new, delete)
        return stored({**entry, **new})

    async def _zones_get(self, v: Values, user: str) -> list[Values]:
        found = self._sdn_list("zones", "zone", v)
        return [it for it in found if self._may(user, f"/sdn/zones/{it['zone']}", "SDN.Audit", "SDN.Allocate")]

    def _check_zone(self, name: str, zone: Values) -> None:
        for key in ("dns", "reversedns"):
            if zone.get(key) and zone[key] not in self.sdn_dns:
                raise param_error(**{key: f"{zone[key]} don't exist"})
        if zone.get("ipam") and zone["ipam"] not in self.sdn_ipams:
            raise param_error(ipam=f"{zone['ipam']} not existing")
        if zone["type"] == "vxlan" and bool(zone.get("peers")) == bool(zone.get("fabric")):
            raise param_error(**dict.fromkeys(("peers", "fabric"), "must have exactly one of peers / fabric defined"))
        if zone["type"] == "evpn":
            if zone["controller"] not in self.sdn_controllers:
                raise die(f"controller {zone['controller']} don't exist")
            zone.setdefault("mac", "BC:24:11:00:00:01")

    @staticmethod
    def _check_dns(given: Values) -> None:
        """The request has to have both, also when one of them is there already."""
        if given.get("dnszone") and not given.get("dns"):
            raise param_error(dnszone="missing dns server")

    async def _zone_create(self, v: Values, user: str) -> None:
        given = dict(v)
        given.pop("lock-token", None)
        self._check_dns(given)
        name, kind = given.pop("zone"), given["type"]
        zone = check_config(ZONES, kind, given, True)
        with Failing("create sdn zone object failed"):
            if name in self.sdn["zones"]:
                raise die(f"sdn zone object ID '{name}' already defined")
            self._check_zone(name, zone)
        self.sdn["zones"][name] = stored(zone)

    async def _zone_update(self, v: Values, user: str) -> None:
        given = dict(v)
        name = given.pop("zone")
        self._check_dns(given)
        with Failing("update sdn zone object failed"):
            zone = self._sdn_update("zones", ZONES, "zone", name, given)
            self._check_zone(name, zone)
            has_subnets = any(key.startswith(f"{name}-") for key in self.sdn["subnets"])
            if has_subnets and zone.get("ipam") != self.sdn["zones"][name].get("ipam"):
                raise param_error(ipam="can't change ipam if a subnet is already defined in this zone")
            self.sdn["zones"][name] = zone

    async def _zone_delete(self, v: Values, user: str) -> None:
        name = v["zone"]
        with Failing("delete sdn zone object failed"):
            if name not in self.sdn["zones"]:
                raise die(f"sdn '{name}' does not exist")
            for vnet, entry in self.sdn["vnets"].items():
                if entry["zone"] == name:
                    raise die(f"zone {name} is used by vnet {vnet}")
            del self.sdn["zones"][name]

    def _zone_of(self, vnet: str) -> str:
        entry = self.sdn["vnets"].get(vnet)
        if entry is None:
            raise die(f"sdn vnet '{vnet}' does not exist")
        return str(entry["zone"])

    def _need_vnet(self, user: str, vnet: str, *privileges: str) -> None:
        path = f"/sdn/zones/{self._zone_of(vnet)}/{vnet}"
        if not self._may(user, path, *privileges):
            raise PveError(403, f"Permission check failed ({path}, {'|'.join(privileges)})")

    async def _vnets_get(self, v: Values, user: str) -> list[Values]:
        found = []
        for it in self._sdn_list("vnets", "vnet", v):
            zone = it.get("zone") or it.get("pending", {}).get("zone")
            if self._may(user, f"/sdn/zones/{zone}/{it['vnet']}", "SDN.Audit", "SDN.Allocate"):
                found.append(it)
        return found

    def _check_vnet(self, name: str, vnet: Values) -> None:
        zone = self.sdn["zones"].get(vnet["zone"])
        if zone is None:
            raise die('Can\'t locate object method "vnet_update_hook" via package "1"')
        tag, kind = vnet.get("tag"), zone["type"]
        if kind == "simple" and tag is not None:
            raise param_error(tag="vlan tag is not allowed on simple zone")
        if kind == "vlan" and tag is None:
            raise param_error(tag="missing vlan tag")
        if kind in ("vxlan", "evpn") and tag is None:
            raise param_error(tag="missing vxlan tag")
        if kind == "simple":
            vnet.setdefault("mac", "BC:24:11:00:00:02")

    async def _vnet_create(self, v: Values, user: str) -> None:
        given = dict(v)
        given.pop("lock-token", None)
        name = given.pop("vnet")
        given["type"] = "vnet"
        with Failing("create sdn vnet object failed"):
            vnet = check_config(VNETS, "vnet", given, True)
            if name in self.sdn["vnets"]:
                raise die(f"sdn vnet object ID '{name}' already defined")
            self._check_vnet(name, vnet)
        self.sdn["vnets"][name] = stored(vnet)

    async def _vnet_update(self, v: Values, user: str) -> None:
        given = dict(v)
        name = given.pop("vnet")
        self._need_vnet(user, name, "SDN.Allocate")
        with Failing("update sdn vnet object failed"):
            vnet = self._sdn_update("vnets", VNETS, "vnet", name, given)
            if any(it["vnet"] == name for it in self.sdn["subnets"].values()):
                if vnet["zone"] != self.sdn["vnets"][name]["zone"]:
                    raise param_error(zone="can't change zone if subnets exist")
                if vnet.get("vlanaware"):
                    raise param_error(vlanaware="vlanaware vnet is not compatible with subnets")
            self._check_vnet(name, vnet)
            self.sdn["vnets"][name] = vnet

    async def _vnet_delete(self, v: Values, user: str) -> None:
        self._need_vnet(user, v["vnet"], "SDN.Allocate")
        if any(it["vnet"] == v["vnet"] for it in self.sdn["subnets"].values()):
            raise param_error(vnet="Can't delete vnet if subnets exists")
        del self.sdn["vnets"][v["vnet"]]

    @staticmethod
    def _ranges(entry: Values) -> list[Values]:
        parts = [dict(part.partition("=")[::2] for part in text.split(",")) for text in entry.get("dhcp-range", [])]
        return t.cast("list[Values]", parts)

    async def _subnets_get(self, v: Values, user: str) -> list[Values]:
        self._need_vnet(user, v["vnet"], "SDN.Audit", "SDN.Allocate")
        answer = []
        for it in self._sdn_list("subnets", "subnet", v):
            if it["vnet"] != v["vnet"]:
                continue
            zone, network, mask = it["subnet"].split("-")
            more = {"cidr": f"{network}/{mask}", "zone": zone, "network": network, "mask": mask, "id": it["subnet"]}
            answer.append({**it, **more, "dhcp-range": self._ranges(it)})
        return answer

    def _check_subnet(self, cidr: str, subnet: Values) -> None:
        network = ipaddress.ip_network(cidr)
        if self.sdn["vnets"][subnet["vnet"]].get("vlanaware"):
            raise param_error(vnet="you can't add a subnet on a vlanaware vnet")
        gateway = subnet.get("gateway")
        if gateway and ipaddress.ip_address(gateway) not in network and network.prefixlen != 32:
            raise param_error(gateway=f"{gateway} is not in subnet {cidr}")
        for it in self._ranges(subnet):
            for key in ("start-address", "end-address"):
                if ipaddress.ip_address(it[key]) not in network:
                    raise param_error(**{"dhcp-range": f"{key} {it[key]} is not in subnet {cidr}"})

    async def _subnet_create(self, v: Values, user: str) -> None:
        given = dict(v)
        given.pop("lock-token", None)
        cidr = given.pop("subnet")
        self._need_vnet(user, given["vnet"], "SDN.Allocate")
        name = f"{self._zone_of(given['vnet'])}-{cidr.replace('/', '-')}"
        with Failing("create sdn subnet object failed"):
            subnet = check_config(SUBNETS, "subnet", given, True)
            if name in self.sdn["subnets"]:
                raise die(f"sdn subnet object ID '{name}' already defined")
            self._check_subnet(cidr, subnet)
        self.sdn["subnets"][name] = stored(subnet)

    async def _subnet_update(self, v: Values, user: str) -> None:
        given = dict(v)
        name = given.pop("subnet")
        self._need_vnet(user, given["vnet"], "SDN.Allocate")
        with Failing("update sdn subnet object failed"):
            subnet = self._sdn_update("subnets", SUBNETS, "subnet", name, given)
            self._check_subnet("/".join(name.split("-")[1:]), subnet)
            self.sdn["subnets"][name] = subnet

    async def _subnet_delete(self, v: Values, user: str) -> None:
        self._need_vnet(user, v["vnet"], "SDN.Allocate")
        self.sdn["subnets"].pop(v["subnet"], None)

    def _plugin_routes(
        self, plural: str, single: str, types: t.Mapping[str, str], attribute: str
    ) -> list[tuple[str, str, Handler]]:
        """DNS and IPAM plugins, which are in force at once."""
        path = f"/cluster/sdn/{plural}"
        store: dict[str, Values] = getattr(self, attribute)

        async def index(v: Values, user: str) -> list[Values]:
            digest = digest_of(store)
            return [
                {**it, single: name, "digest": digest}
                for name, it in sorted(store.items())
                if self._may(user, f"/sdn/{plural}/{name}", "SDN.Audit", "SDN.Allocate")
            ]

        async def create(v: Values, user: str) -> None:
            given = dict(v)
            name, kind = given.pop(single), given["type"]
            entry = check_config(types, kind, given, True)
            if name in store:
                raise die(f"create sdn {single} object failed: sdn {single} object ID '{name}' already defined")
            store[name] = stored(entry)

        async def update(v: Values, user: str) -> None:
            given = dict(v)
            name, digest, delete = given.pop(single), given.pop("digest", None), given.pop("delete", None)
            with Failing(f"update sdn {single} object failed"):
                check_digest(digest_of(store), digest)
                if name not in store:
                    raise die(f"sdn {single} '{name}' does not exist")
                entry = dict(store[name])
                new = check_config(types, entry["type"], given, False)
                delete_options(types, entry, new, delete)
                store[name] = stored({**entry, **new})

        async def remove(v: Values, user: str) -> None:
            if v[single] not in store:
                raise die(f"delete sdn {single} object failed: sdn {single} '{v[single]}' does not exist")
            del store[v[single]]

        one = f"{path}/{{{single}}}"
        return [("GET", path, index), ("POST", path, create), ("PUT", one, update), ("DELETE", one, remove)]

    # --------------------------------------------------------------------------------------------------- network

    def _register_stateful(self, router: t.Any, prefixes: t.Sequence[str]) -> None:
        """The list of a node's network tells what waits beside ``data``."""
        path = "/nodes/{node}/network"

        async def listed(request: web.Request) -> web.Response:
            match = schema.Match(path, dict(request.match_info), schema.load().paths[path])
            user = request[USER]

            async def call(_match: t.Any, values: Values) -> web.Response:
                return self._network_list(values, user)

            return t.cast("web.Response", await self.answer(request, match, await params(request), user, call))

        for prefix in prefixes:
            router.add_get(prefix + path, listed)
        super()._register_stateful(router, prefixes)

    def _node_interfaces(self, node: str) -> dict[str, Values]:
        """What is in force: on a fresh node one bridge with the address."""
        number = sorted(self.nodes).index(node) + 1 if node in self.nodes else 1
        return self.interfaces.setdefault(
            node,
            {
                "eno1": {"type": "eth", "exists": 1},
                "eno2": {"type": "eth", "exists": 1, "listed": False},
                "vmbr0": {
                    "type": "bridge",
                    "autostart": 1,
                    "cidr": f"10.0.0.{number}/24",
                    "gateway": "10.0.0.254",
                    "bridge_ports": "eno1",
                },
            },
        )

    def _waiting(self, node: str) -> dict[str, Values]:
        """What is edited: a copy of what is in force, until it is applied."""
        return self.interfaces_new.get(node, self._node_interfaces(node))

    @staticmethod
    def _interfaces_text(interfaces: dict[str, Values]) -> list[str]:
        """__interface_to_string, as far as a difference needs it."""
        lines = ["auto lo", "iface lo inet loopback", ""]
        for name, it in interfaces.items():
            if it.get("listed") is False:
                continue
            lines += [f"auto {name}"] if it.get("autostart") else []
            lines.append(f"iface {name} inet {'static' if it.get('cidr') else 'manual'}")
            for key in sorted(it):
                if key not in ("type", "autostart", "exists", "comments", "listed"):
                    lines.append(f"\t{key.replace('_', '-').replace('cidr', 'address')} {it[key]}")
            lines += [f"#{line}" for line in str(it.get("comments") or "").splitlines()]
            lines.append("")
        return lines

    def _changes(self, node: str) -> str:
        if node not in self.interfaces_new:
            return ""
        texts = [self._interfaces_text(it) for it in (self._node_interfaces(node), self.interfaces_new[node])]
        files = ("/etc/network/interfaces", "/etc/network/interfaces.new")
        return "\n".join(difflib.unified_diff(*texts, *files, lineterm=""))

    def _network_list(self, v: Values, user: str) -> web.Response:
        node, active, answer = v["node"], self._node_interfaces(v["node"]), []
        for priority, (name, it) in enumerate(self._waiting(node).items(), start=3):
            bridge = it["type"] in ("bridge", "OVSBridge")
            if bridge and not self._may(user, f"/sdn/zones/localnetwork/{name}", "SDN.Audit", "SDN.Use"):
                continue
            answer.append(self._interface_shown(name, it, priority, name in active))
        body: Values = {"data": answer}
        if self._changes(node):
            body["changes"] = self._changes(node)
        return web.json_response(body)

    @staticmethod
    def _interface_shown(name: str, it: Values, priority: int, active: bool) -> Values:
        """reads-087, permissions-017"""
        shown = {key: value for key, value in it.items() if key not in ("listed", "cidr", "cidr6")}
        families = []
        for suffix, family in (("", "inet"), ("6", "inet6")):
            cidr = it.get(f"cidr{suffix}")
            shown[f"method{suffix}"] = it.get(f"method{suffix}") or ("static" if cidr else "manual")
            if cidr:
                families.append(family)
                address, _slash, mask = cidr.partition("/")
                shown.update({f"cidr{suffix}": cidr, f"address{suffix}": address, f"netmask{suffix}": mask})
        shown.update(iface=name, families=families or ["inet"])
        if it["type"] == "bridge":
            ports = sorted(split_list(it.get("bridge_ports")))
            shown.update(bridge_ports=" ".join(ports), bridge_stp="off", bridge_fd="0")
            if it.get("bridge_vlan_aware") is not None:
                shown.update(bridge_vlan_aware=1, bridge_vids=it.get("bridge_vids") or "2-4094")
        if it["type"] == "bond":
            shown["slaves"] = " ".join(sorted(split_list(it.get("slaves"))))
            shown.setdefault("bond_mode", "balance-rr")
        if it["type"] == "vlan" and "." in name:
            device, _dot, tag = name.rpartition(".")
            shown.setdefault("vlan-raw-device", device)
            shown["vlan-id"] = tag
        if it.get("comments"):
            shown["comments"] = it["comments"].rstrip("\n") + "\n"
        if it.get("listed") is not False:
            shown["priority"] = priority
        if active:
            shown["active"] = 1
        if not it.get("autostart"):
            shown.pop("autostart", None)
        return shown

    def _edited(self, node: str) -> dict[str, Values]:
        return copy.deepcopy(self._waiting(node))

    @staticmethod
    def _written(interfaces: dict[str, Values]) -> dict[str, Values]:
        """What PVE/Network/Interfaces.pm makes of it when it writes and reads the file."""
        for it in list(interfaces.values()):
            kind, mode = it["type"], it.get("bond_mode")
            dropped = {
                "bond-primary": kind == "bond" and mode != "active-backup",
                "bond_xmit_hash_policy": kind == "bond" and mode not in ("balance-xor", "802.3ad"),
                "bridge_vids": kind == "bridge" and it.get("bridge_vlan_aware") is None,
            }
            for key in (key for key, gone in dropped.items() if gone):
                it.pop(key, None)
            if kind == "OVSBond":
                it.setdefault("bond_mode", "active-backup")
            # With ifupdown2 they are started by "auto".
            if kind in ("OVSBond", "OVSIntPort", "OVSPort"):
                it["autostart"] = 1
            for port in split_list(it.get("slaves") or it.get("ovs_bonds")):
                if port not in interfaces:
                    raise die(f"bond - unable to find slave '{port}'")
                interfaces[port].update(autostart=1)
                interfaces[port].pop("listed", None)
            if it.get("comments"):
                it["comments"] = "\n".join(line.rstrip() for line in it["comments"].splitlines())
        return interfaces

    @staticmethod
    def _check_interface(interfaces: dict[str, Values], name: str, given: Values) -> None:
        for key, text in (("gateway", "Default gateway"), ("gateway6", "Default ipv6 gateway")):
            for other, it in interfaces.items():
                if given.get(key) and other != name and it.get(key):
                    raise param_error(**{key: f"{text} already exists on interface '{other}'."})
        lists = ("bridge_ports", "ovs_ports", "slaves", "ovs_bonds")
        ports = {port: key for key in lists for port in split_list(given.get(key))}
        for other, it in interfaces.items():
            for key in lists:
                for port in split_list(it.get(key)):
                    if other != name and port in ports:
                        raise param_error(**{ports[port]: f"{port} is already used on interface '{other}'."})

    async def _interface_create(self, v: Values, user: str) -> None:
        given = {key: value for key, value in v.items() if key not in ("node", "iface")}
        interfaces = self._edited(v["node"])
        if v["iface"] in interfaces:
            raise param_error(iface="interface already exists")
        self._check_interface(interfaces, v["iface"], given)
        interfaces[v["iface"]] = given
        self.interfaces_new[v["node"]] = self._written(interfaces)

    async def _interface_update(self, v: Values, user: str) -> None:
        given = {key: value for key, value in v.items() if key not in ("node", "iface", "delete")}
        interfaces = self._edited(v["node"])
        if v["iface"] not in interfaces:
            raise param_error(iface="interface does not exist")
        it = interfaces[v["iface"]]
        for key in split_list(v.get("delete")):
            it.pop(key, None)
        self._check_interface(interfaces, v["iface"], given)
        # The method follows from what is given: without an address the interface loses its own.
        for suffix in ("", "6"):
            it.pop(f"method{suffix}", None)
            if not given.get(f"cidr{suffix}"):
                it.pop(f"cidr{suffix}", None)
        it.pop("listed", None)
        it.update(given)
        self.interfaces_new[v["node"]] = self._written(interfaces)

    async def _interface_delete(self, v: Values, user: str) -> None:
        interfaces = self._edited(v["node"])
        if v["iface"] not in interfaces:
            raise param_error(iface="interface does not exist")
        removed = interfaces.pop(v["iface"])
        if removed.get("exists"):
            interfaces[v["iface"]] = {"type": removed["type"], "exists": 1, "listed": False}
        self.interfaces_new[v["node"]] = interfaces

    async def _network_revert(self, v: Values, user: str) -> None:
        self.interfaces_new.pop(v["node"], None)

    async def _network_reload(self, v: Values, user: str) -> str:
        node = v["node"]

        async def body() -> None:
            await self.pause(1)
            if node in self.interfaces_new:
                self.interfaces[node] = self.interfaces_new.pop(node)

        return t.cast("str", await self.task(node, "srvreload", "networking", user, body))

    # --------------------------------------------------------------------------------------------- notifications

    def _notification_routes(self) -> list[tuple[str, str, Handler]]:
        routes: list[tuple[str, str, Handler]] = []
        for kind, store in self.endpoints.items():
            path = f"/cluster/notifications/endpoints/{kind}"
            routes += self._notified(path, store, ("token", "password", "secret"), kind)
        return routes + self._notified("/cluster/notifications/matchers", self.matchers, (), "matcher")

    def _notified(
        self, path: str, store: dict[str, Values], hidden: t.Sequence[str], kind: str
    ) -> list[tuple[str, str, Handler]]:
        async def index(v: Values, user: str) -> list[Values]:
            return [{**it, "name": name} for name, it in store.items()]

        def keep(name: str, given: Values) -> Values:
            shown = {key: value for key, value in given.items() if key not in hidden}
            for key in hidden:
                if given.get(key) is not None:
                    self.hidden[f"{kind} {name} {key}"] = str(given[key])
            if given.get("secret"):
                # The names are told, the values are not.
                shown["secret"] = [text.partition(",")[0] for text in given["secret"]]
            if "disable" in shown:
                shown["disable"] = bool(shown["disable"])
            # Proxmox's parsers write what they have understood.
            for key in {"match-field", "match-severity"} & set(shown):
                shown[key] = [text if text.startswith("regex:") else text.replace(" ", "") for text in shown[key]]
            return {key: value for key, value in shown.items() if value != []}

        async def create(v: Values, user: str) -> None:
            given = dict(v)
            name = given.pop("name")
            if any(name in each for each in (*self.endpoints.values(), self.matchers)):
                raise PveError(400, f"Could not create {kind} endpoint '{name}': id already in use")
            store[name] = {**keep(name, given), "origin": "user-created"}

        async def update(v: Values, user: str) -> None:
            given = dict(v)
            name, delete = given.pop("name"), given.pop("delete", [])
            given.pop("digest", None)
            if name not in store:
                raise PveError(404, f"endpoint '{name}' not found")
            entry = store[name]
            for key in delete:
                entry.pop(key, None)
            entry.update(keep(name, given))
            if entry["origin"] == "builtin":
                entry["origin"] = "modified-builtin"

        async def remove(v: Values, user: str) -> None:
            name = v["name"]
            if name not in store:
                raise PveError(404, f"endpoint '{name}' not found")
            used = [other for other, it in self.matchers.items() if name in it.get("target", [])]
            if used and store is not self.matchers:
                raise PveError(400, f"cannot delete '{name}', referenced by: {', '.join(sorted(used))}")
            del store[name]

        one = f"{path}/{{name}}"
        return [("GET", path, index), ("POST", path, create), ("PUT", one, update), ("DELETE", one, remove)]
