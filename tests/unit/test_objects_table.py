# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of kinds against the API schema of Proxmox VE 9."""

from __future__ import annotations

import gzip
import json
import pkgutil
import re
import typing as t
from dataclasses import replace

import pytest
import yaml
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.fields import (
    Field,
    normal,
    significant,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.formats import InvalidValue
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.kinds import Kind
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.table import KINDS
from ansible_collections.lxcri.proxmox.plugins.modules import pve_object
from fakepve import formats

SCHEMA = json.loads(gzip.decompress(pkgutil.get_data("fakepve", "data/pve-api.json.gz") or b""))["paths"]
# The schema of these requests is one of several, which the document of the API does not have.
WITHOUT_SCHEMA = {"/cluster/ha/rules"}
# What says which object, and how a request is made.
FRAME = {"node", "delete", "digest", "force"}
TYPES = {
    "string": ("string",),
    "bool": ("boolean",),
    "flag": ("integer",),
    "int": ("integer",),
    "number": ("number",),
    "words": ("string", "array"),
    "map": ("string",),
    "maps": ("array",),
}
# Where the schema's pattern is written otherwise, or means more than it says.
OTHER_PATTERNS = {
    ("sdn_vnet", "alias"): r"(?^i:[\(\)-_.\w\d\s]{0,256})",
    ("realm", "acr-values"): r'^[^\x00-\x1F\x7F <>#"]*$',
    ("realm", "audiences"): r'^[^\x00-\x1F\x7F <>#"]*$',
    ("realm", "groups-claim"): r"(?^:[A-Za-z0-9\.\-_]+)",
}


def template(path: str) -> str:
    """A path of the table as the schema writes it."""
    names = {
        "storage": "storage",
        "access/users": "userid",
        "access/groups": "groupid",
        "access/roles": "roleid",
        "access/domains": "realm",
        "cluster/ha/resources": "sid",
        "cluster/ha/rules": "rule",
        "cluster/sdn/zones": "zone",
        "cluster/sdn/vnets": "vnet",
        "cluster/sdn/dns": "dns",
        "cluster/sdn/ipams": "ipam",
        "cluster/sdn/vnets/{vnet}/subnets": "subnet",
        "nodes/{node}/network": "iface",
        "cluster/firewall/groups": "group",
    }
    base, _slash, last = path.rpartition("/")
    if last == "{id}":
        name = names.get(base, "name" if "firewall" in base or "notif" in base else "id")
        path = f"{base}/{{{name}}}"
    return f"/{path}"


def paths_of(kind: Kind, method_and_path: tuple[str, str]) -> list[tuple[str, str, str]]:
    """(method, path, type) of the requests of a row."""
    found = []
    for scope in kind.scopes:
        for variant in kind.variants if "{type}" in scope.collection else [""]:
            path = method_and_path[1].replace("{collection}", scope.collection).replace("{type}", variant)
            path = template(path).replace("{guest}", "lxc")
            found.append((method_and_path[0], path, variant))
    return found


def requests(kind: Kind, which: str) -> list[tuple[Kind, str, str, str]]:
    """(row, method, path, type) of the requests of a row; of the options of a firewall, the row of each level."""
    if kind.manner == "rules":
        tail = "" if which == "create" else "/{pos}"
        method = {"create": "POST", "update": "PUT", "delete": "DELETE"}[which]
        return [(kind, method, path + tail, variant) for _method, path, variant in paths_of(kind, kind.create)]
    if kind.manner == "options":
        if which != "update":
            return []
        levels = zip(kind.scopes, paths_of(kind, kind.update))
        return [
            (replace(kind, fields=kind.fields_of(" ".join(scope.keys)), variants={}), method, path, "")
            for scope, (method, path, _variant) in levels
        ]
    return [(kind, *request) for request in paths_of(kind, getattr(kind, which))]


def parameters(kind: Kind, method: str, path: str) -> dict[str, dict[str, t.Any]]:
    """The parameters of a request in the schema, without those that say which object."""
    found = SCHEMA[path][method]["parameters"].get("properties", {})
    frame = {*kind.names, *kind.scope_keys, *re.findall(r"\{(\w+)\}", path), *FRAME, "vmid"}
    return {name: entry for name, entry in found.items() if name not in frame or name in kind.fields}


def cases(kind: Kind, *which: str) -> t.Iterator[tuple[str, Field, dict[str, t.Any]]]:
    """(name, field, parameter) for every field that a request has."""
    for each in which or ("create", "update"):
        for row, method, path, _variant in requests(kind, each):
            for name, entry in parameters(row, method, path).items():
                if name in known(row):
                    yield name, known(row)[name], entry


def names_in(kind: Kind, which: str) -> set[str]:
    """The names of the parameters of all requests of a sort."""
    return {name for row, method, path, _variant in requests(kind, which) for name in parameters(row, method, path)}


WITH_SCHEMA = [
    kind for kind in KINDS.values() if not {f"/{scope.collection}" for scope in kind.scopes} & WITHOUT_SCHEMA
]


def ids(kind: Kind) -> str:
    return kind.name


def known(kind: Kind) -> dict[str, Field]:
    """The fields of a row, without the parts that have requests of their own."""
    return {name: it for name, it in kind.fields.items() if not (kind.attached == "entries" and name == "cidrs")}


@pytest.mark.parametrize("kind", WITH_SCHEMA, ids=ids)
def test_every_parameter_is_a_field_or_left_out_for_a_reason(kind: Kind) -> None:
    wanted = names_in(kind, "create") | names_in(kind, "update")
    assert sorted(wanted - set(known(kind)) - set(kind.left_out)) == []
    assert sorted(set(known(kind)) - wanted) == []
    assert sorted(set(kind.left_out) - wanted) == []
    assert not set(kind.left_out) & set(kind.fields)
    assert all(kind.left_out.values())


@pytest.mark.parametrize("kind", WITH_SCHEMA, ids=ids)
def test_types_and_limits_are_those_of_the_schema(kind: Kind) -> None:
    for name, it, entry in cases(kind):
        assert entry["type"] in TYPES[it.kind], name
        array = entry["type"] == "array"
        each = entry["items"] if array else entry
        if it.kind in ("words", "maps"):
            assert array == (it.joined == "array") or it.kind == "maps", name
        if it.kind in ("string", "int", "words"):
            assert list(it.choices) == [str(choice) for choice in each.get("enum", it.choices)], name
            assert bool(it.choices) == ("enum" in each) or (kind.name, name) == ("storage", "content"), name
        if it.kind in ("int", "flag", "number", "bool"):
            assert (it.minimum, it.maximum) == (each.get("minimum"), each.get("maximum")), name
        if it.kind in ("string", "words") and not (it.kind == "words" and not array):
            assert (it.shortest, it.longest) == (each.get("minLength"), each.get("maxLength")), name
        assert (it.pattern is None) == ("pattern" not in each), name
        if it.pattern is not None:
            assert (
                it.pattern.replace("\\", "") == OTHER_PATTERNS.get((kind.name, name), each["pattern"]).replace("\\", "")
                or (kind.name, name) in OTHER_PATTERNS
            ), name
        if isinstance(each.get("format"), dict):
            check_subs(it, each["format"], name)


def check_subs(it: Field, subs: dict[str, t.Any], name: str) -> None:
    assert list(it.subs) == list(subs) or set(it.subs) == set(subs), name
    for sub, entry in subs.items():
        mine = it.subs[sub]
        assert entry["type"] in TYPES[mine.kind], (name, sub)
        assert mine.minimum == (None if "minimum" not in entry else float(entry["minimum"])), (name, sub)
        assert mine.required == (not entry.get("optional")), (name, sub)
        if "default" in entry:
            assert not significant(mine, mine.default), (name, sub)


# Texts that many formats tell apart. Blanks around them and spellings of one value are not among them.
SAMPLES = (
    *[
        "10.0.0.1",
        "10.0.0.0/24",
        "10.0.0.1/24",
        "10.0.0.1/33",
        "10.0.0.1/7",
        "10.0.0.300",
        "0.0.0.0/0",
        "10.0.0",
        "10",
        "::ffff:10.0.0.1",
    ],
    *["::1", "2001:db8::1", "2001:db8::/32", "2001:db8::1/7", "2001:db8::1/129", "fe80::1%eth0"],
    *["a", "ab", "A1", "1", "12", "99", "100", "101", "4094", "4095", "2-100", "100-2", "999999999", "2000000000"],
    *[
        "a-b",
        "a_b",
        "-a",
        "a-",
        "_a",
        "a.b",
        "a..b",
        ".a",
        "a.",
        "a+b",
        "a~b",
        "a/b",
        "a/b/c",
        "a/b/c/d",
        "a!b",
        "a=b",
        "a@b",
    ],
    *["eth0", "vmbr0.7", "vmbr0:1", "bond0", "enp0s31f6np0np1np2np3np4", "local-zfs", "local-zfs-", "9abc"],
    *["ci@pve", "ci@pve!t1", "ci@", "@pve", "ci", "c:i@pve", "ci@p", "x@y!z1", "a@b.de", "a+b@c.de", "a@b_c.de", "a@"],
    *["BC:24:11:00:00:01", "BD:24:11:00:00:01", "BC:24:11:00:00", "ct:101", "vm:100", "xx:101", "101-0", "pve1:2"],
    *["/", "/srv", "srv", "/srv/ä+:~#%", "/;a", "/srv;a", "/srv(a)", "//srv", "local:vm-100-disk-0", "x:"],
    *("VM.Audit", "images", "web", "nas.example.com", "nas_1", "x" * 30, "a b", "/srv/a b", "/srv/a,b"),
)
# What this collection takes although Proxmox refuses it, or the other way round, with the reason.
OTHERWISE = {
    ("storage", "content"): "what each type can hold is known here",
    ("sdn_zone", "type"): "the types are named",
    ("sdn_dns", "type"): "the types are named",
    ("sdn_ipam", "type"): "the types are named",
    ("metric_server", "type"): "the types are named",
}


@pytest.mark.parametrize("kind", WITH_SCHEMA, ids=ids)
def test_formats_are_those_of_the_schema(kind: Kind) -> None:
    """Nothing is taken that Proxmox refuses, nor refused that it takes."""
    differing = set()
    for name, it, entry in cases(kind):
        each = entry["items"] if entry["type"] == "array" else entry
        known_format = isinstance(each.get("format"), str) and each["format"].removesuffix("-list").removesuffix("-opt")
        if it.kind not in ("string", "words") or known_format not in formats.NAMED or (kind.name, name) in OTHERWISE:
            continue
        # A list may have one item; what separates items is no part of one.
        for text in SAMPLES if it.kind == "string" else [text for text in SAMPLES if not re.search(r"[\s,;]", text)]:
            fits = len(text) <= each.get("maxLength", 1e9) and len(text) >= each.get("minLength", 0)
            takes = formats.check(each["format"], text) is None and fits
            if takes != is_taken(it, text):
                differing.add((name, text, "Proxmox takes it" if takes else "Proxmox refuses it"))
    assert sorted(differing) == []


def is_taken(it: Field, text: str) -> bool:
    try:
        normal(it, text)
    except InvalidValue:
        return False
    return True


@pytest.mark.parametrize("kind", WITH_SCHEMA, ids=ids)
def test_defaults_are_those_of_the_schema(kind: Kind) -> None:
    """A row may know fewer: where leaving a field out means something else, such as a setting of the node."""
    words = {"yes": True, "no": False, "true": True, "false": False, "0": False, "1": True, 0: False, 1: True}
    for name, it, entry in cases(kind):
        given = entry.get("default")
        if it.default is None or given is None or given == "same as user":
            continue
        if it.kind in ("bool", "flag"):
            assert words[given] == it.default, name
        elif it.kind == "words":
            assert tuple(sorted(re.split(r",\s*", given))) == it.default, name
        else:
            assert given == it.default, name


@pytest.mark.parametrize("kind", WITH_SCHEMA, ids=ids)
def test_what_creation_alone_takes_is_fixed(kind: Kind) -> None:
    if kind.manner in ("options", "acl"):
        return
    created, updated = names_in(kind, "create"), names_in(kind, "update")
    for name, it in known(kind).items():
        if it.passing or kind.attached == "members":
            continue
        if name not in updated:
            types = [
                kind.fields_of(variant)[name].fixed for variant in kind.variants if name in kind.fields_of(variant)
            ]
            assert it.fixed or (types and all(types)), name
        if name not in created:
            assert name in kind.left_out, name


@pytest.mark.parametrize("kind", KINDS.values(), ids=ids)
def test_a_row_is_in_itself_right(kind: Kind) -> None:
    assert set(kind.identity) == set(kind.names)
    for variant, fields in kind.variants.items():
        names = [word.rstrip("!=") for word in fields.split()]
        assert len(names) == len(set(names)), variant
        assert set(names) <= set(kind.fields), variant
    if kind.variants and kind.variant:
        in_types = {name for variant in kind.variants for name in kind.fields_of(variant)}
        assert set(kind.fields) - in_types == set()
        if kind.variant in kind.fields:
            assert set(kind.fields[kind.variant].choices) == set(kind.variants)
    assert kind.comment is None or kind.comment in kind.fields
    for name, it in kind.fields.items():
        assert it.unset in ("delete", "empty", "blank", "default", "omitted"), name
        assert it.unset != "default" or it.default is not None, name
        assert set(it.needs) <= set(kind.fields), name
        assert not it.readable or it.secret, name
    for scope in kind.scopes:
        assert scope.grants or kind.manner == "acl"


@pytest.mark.parametrize("kind", WITH_SCHEMA, ids=ids)
def test_privileges_are_those_of_the_schema(kind: Kind) -> None:
    """Where the schema says them as a path and its privileges; the rest is in prose only."""
    for which in ("create", "update", "delete"):
        for _row, method, path, _variant in requests(kind, which):
            check = (SCHEMA[path].get(method, {}).get("permissions") or {}).get("check")
            if not check or check[0] != "perm":
                continue
            action = "update" if kind.manner == "rules" else which
            held = {
                (where, privilege)
                for scope in kind.scopes
                for grant in scope.grants
                if action in grant.actions
                for where in grant.paths
                for privilege in grant.privileges
            }
            for privilege in check[2]:
                assert (check[1], privilege) in held, (which, path)


def test_the_module_names_every_kind() -> None:
    assert yaml.safe_load(pve_object.DOCUMENTATION)["options"]["kind"]["choices"] == sorted(KINDS)
