# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of the table: who may do what. The rules are those of PVE/API2/{User,Group,Role,ACL,Domains,Pool}.pm."""

from __future__ import annotations

from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.fields import Field
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.kinds import (
    CREATE,
    DELETE,
    UPDATE,
    Grant,
    Kind,
    Scope,
)

BOOL = Field("bool", default=False)
LINE = Field(format="line")
SECONDS = Field("int", minimum=0, default=0, unset="default")

# The test userid-group (exec_api2_perm_check of PVE/RPCEnvironment.pm).
_USERS = Grant(("/access/groups", "/access/groups/{groups}"), ("User.Modify", "Sys.Audit"))
_SOME_GROUP = ("/access/groups", "/access/groups/*")

USER = Kind(
    name="user",
    identity=("userid",),
    names={"userid": Field(format="pve-userid", longest=64)},
    fields={
        "comment": Field(format="line", longest=2048, unset="empty"),
        "email": Field(format="email-opt", longest=254, unset="empty"),
        "enable": Field("bool", default=True, unset="default"),
        "expire": SECONDS,
        "firstname": Field(format="line", longest=1024, unset="empty"),
        "groups": Field("words", format="pve-groupid", unset="empty"),
        # That a user has second factors (set_user_tfa_enabled of PVE/API2/TFA.pm).
        "keys": Field(pattern="[0-9a-zA-Z!=]{0,4096}", reserved="x(!.*)?", unset="empty", secret=True, readable=True),
        "lastname": Field(format="line", longest=1024, unset="empty"),
        "password": Field(shortest=8, longest=64, secret=True, fixed=True, apart="access/password"),
    },
    scopes=(
        Scope(
            "access/users",
            sees=_USERS,
            grants=(
                Grant(("/access/realm/{realm}",), ("Realm.AllocateUser",), (CREATE, DELETE)),
                Grant(("/access/groups", "/access/groups/{groups}"), ("User.Modify",), (CREATE, UPDATE), each=True),
                Grant(("/access/groups", "/access/groups/{found.groups}"), ("User.Modify",), (UPDATE, DELETE)),
            ),
        ),
    ),
    query={"full": 1},
    # Without them, who may change users of a group only may change nothing.
    repeated=("groups",),
    left_out={"append": "the groups of a user are whole"},
    comment="comment",
    reserved="root@pam",
    always=("root@pam",),
)

GROUP = Kind(
    name="group",
    identity=("groupid",),
    names={"groupid": Field(format="pve-groupid")},
    fields={"comment": Field(format="line", unset="empty")},
    scopes=(
        Scope(
            "access/groups",
            sees=Grant(("/access/groups", "/access/groups/{groupid}"), ("User.Modify", "Sys.Audit", "Group.Allocate")),
            grants=(Grant(("/access/groups",), ("Group.Allocate",)),),
        ),
    ),
    comment="comment",
)

ROLE = Kind(
    name="role",
    identity=("roleid",),
    names={"roleid": Field(format="pve-roleid")},
    fields={"privs": Field("words", format="pve-priv", unset="empty")},
    scopes=(Scope("access/roles", grants=(Grant(("/access",), ("Sys.Modify",)),)),),
    left_out={"append": "the privileges of a role are whole"},
    reserved="(?i:PVE.*)|Administrator|NoAccess",
)

ACL = Kind(
    name="acl",
    identity=("path",),
    names={"path": Field(format="acl-path")},
    fields={
        "groups": Field("words", format="pve-groupid"),
        "propagate": Field("bool", default=True),
        "roles": Field("words", format="pve-roleid", required=True),
        "tokens": Field("words", format="pve-tokenid"),
        "users": Field("words", format="pve-userid"),
    },
    scopes=(Scope("access/acl"),),
    create=("PUT", "{collection}"),
    update=("PUT", "{collection}"),
    delete=("PUT", "{collection}"),
    manner="acl",
    one_of=("users", "groups", "tokens"),
)

_OF_USER = "access/users/{userid}/token/{tokenid}"

TOKEN = Kind(
    name="token",
    identity=("userid", "tokenid"),
    names={
        "userid": Field(format="pve-userid", longest=64),
        "tokenid": Field(pattern="[A-Za-z][A-Za-z0-9._-]+"),
    },
    fields={
        # Before libpve-access-control 9.0.4 an empty one is ignored, and there is no delete. Blanks are not kept
        # (update_token_info of PVE/API2/User.pm, parse_user_config of PVE/AccessControl.pm).
        "comment": Field(format="line", unset="blank"),
        "expire": SECONDS,
        "privsep": Field("bool", default=True, unset="default"),
    },
    scopes=(
        Scope(
            "access/users",
            # The groups of its user are not among what a token is declared with.
            sees=Grant(_SOME_GROUP, _USERS.privileges, but_own=True),
            grants=(Grant(_SOME_GROUP, ("User.Modify",), but_own=True),),
        ),
    ),
    query={"full": 1},
    inside="tokens",
    left_out={"regenerate": "every run would make another secret"},
    create=("POST", _OF_USER),
    update=("PUT", _OF_USER),
    delete=("DELETE", _OF_USER),
    comment="comment",
    secret_answer=True,
)

_DIRECTORY = (
    "server2 port secure= sslversion default comment tfa verify capath cert certkey filter sync_attributes "
    "user_classes group_dn group_name_attr group_filter group_classes sync-defaults-options mode case-sensitive "
    "bind_dn password check-connection"
).replace("secure=", "secure")
_URL_PART = r'[^\x00-\x1F\x7F <>#"]*'

REALM = Kind(
    name="realm",
    identity=("realm",),
    names={"realm": Field(format="pve-realm", longest=32)},
    fields={
        "acr-values": Field(pattern=_URL_PART),
        "audiences": Field(pattern=_URL_PART),
        "autocreate": Field("bool", default=False),
        "base_dn": Field(format="line", longest=256),
        "bind_dn": Field(format="line", longest=256),
        "capath": Field(format="line", default="/etc/ssl/certs"),
        "case-sensitive": Field("bool", default=True),
        "cert": LINE,
        "certkey": LINE,
        "check-connection": Field("bool", default=False, passing=True),
        "client-id": Field(format="line", longest=256),
        "client-key": Field(format="line", longest=256, secret=True, readable=True),
        "comment": Field(format="line", longest=4096),
        "default": BOOL,
        "domain": Field(pattern=r"\S+", longest=256),
        "filter": Field(format="line", longest=2048),
        "group_classes": Field(
            "words", format="ldap-simple-attr", default=("group", "groupOfNames", "ipausergroup", "univentionGroup")
        ),
        "group_dn": Field(format="line", longest=256),
        "group_filter": Field(format="line", longest=2048),
        "group_name_attr": Field(format="ldap-simple-attr", longest=256),
        "groups-autocreate": Field("bool", default=False),
        "groups-claim": Field(pattern=r"[A-Za-z0-9._-]+", longest=256),
        "groups-overwrite": Field("bool", default=False),
        "issuer-url": Field(format="line", longest=256),
        "mode": Field(choices=("ldap", "ldaps", "ldap+starttls"), default="ldap"),
        "password": Field(secret=True),
        "port": Field("int", minimum=1, maximum=65535),
        "prompt": Field(pattern=r"(?:none|login|consent|select_account|\S+)"),
        "query-userinfo": Field("bool", default=True),
        "scopes": Field(format="line", default="email profile"),
        "secure": BOOL,
        "server1": Field(format="address", longest=256),
        "server2": Field(format="address", longest=256),
        "sslversion": Field(choices=("tlsv1", "tlsv1_1", "tlsv1_2", "tlsv1_3")),
        "sync-defaults-options": Field(
            "map",
            subs={
                "enable-new": Field("bool", default=True),
                "remove-vanished": Field(
                    pattern="(?:(?:(?:acl|properties|entry);)*(?:acl|properties|entry))|none", default="none"
                ),
                "scope": Field(choices=("users", "groups", "both")),
            },
        ),
        "sync_attributes": Field(pattern=r"\w+=[^,]+(,\s*\w+=[^,]+)*"),
        "tfa": Field(
            "map",
            longest=128,
            secret=True,
            readable=True,
            subs={
                "type": Field(choices=("yubico", "oath"), required=True),
                "id": LINE,
                "key": Field(format="line", secret=True),
                "url": LINE,
                "digits": Field("int", minimum=6, maximum=8, default=6),
                "step": Field("int", minimum=10, default=30),
            },
        ),
        "type": Field(choices=("ad", "ldap", "openid", "pam", "pve"), required=True, fixed=True),
        "user_attr": Field(pattern=r"\S{2,}", longest=256),
        "user_classes": Field(
            "words", format="ldap-simple-attr", default=("inetorgperson", "person", "posixaccount", "user")
        ),
        "username-claim": LINE,
        "verify": Field("bool", default=False),
    },
    variants={
        "ad": f"server1! domain! base_dn user_attr {_DIRECTORY}",
        "ldap": f"server1! base_dn! user_attr! {_DIRECTORY}",
        "openid": "issuer-url! client-id! client-key autocreate username-claim= groups-claim groups-autocreate "
        "groups-overwrite prompt scopes acr-values audiences default comment query-userinfo",
        "pam": "default comment tfa",
        "pve": "default comment tfa",
    },
    # These realms are always there, and have a comment when none is set (parse_config of PVE/Auth/Plugin.pm).
    overrides={
        "pam": {"comment": {"default": "Linux PAM standard authentication"}},
        "pve": {"comment": {"default": "Proxmox VE authentication server"}},
    },
    scopes=(
        Scope(
            "access/domains",
            grants=(Grant(("/access/realm",), ("Realm.Allocate",)),),
        ),
    ),
    details="access/domains/{id}",
    digest=True,
    comment="comment",
    always=("pam", "pve"),
)

POOL = Kind(
    name="pool",
    identity=("poolid",),
    names={"poolid": Field(format="pve-poolid")},
    fields={
        "comment": Field(format="line", unset="empty"),
        "storage": Field("words", format="pve-storage-id", kept=True),
        "vms": Field("words", format="pve-vmid", kept=True),
        "allow-move": Field("bool", default=False, passing=True),
    },
    scopes=(
        Scope(
            "pools",
            sees=Grant(("/pool/{poolid}",), ("Pool.Audit",)),
            grants=(Grant(("/pool/{poolid}",), ("Pool.Allocate",)),),
        ),
    ),
    # The path of one pool is deprecated, and cannot name a pool within a pool.
    update=("PUT", "{collection}"),
    delete=("DELETE", "{collection}"),
    details="pools",
    detail="members",
    comment="comment",
    attached="members",
)

ROWS = (USER, GROUP, ROLE, ACL, TOKEN, REALM, POOL)
