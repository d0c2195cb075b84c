# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects as they are declared, checked against the table before anything is asked. Nothing here does I/O."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.fields import (
    Field,
    normal,
    significant,
    told,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.formats import InvalidValue, problem_of_rule
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.kinds import Kind, Scope
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.table import KINDS

STATES = ("present", "absent")
SECRETS = ("on_create", "always")
OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# A guest is a container unless its scope says otherwise.
GUESTS = ("lxc", "qemu")
# The node of a guest that has to be looked up.
UNKNOWN = "?"

# What an entry of the access control list is about: user, group or token, its name, and the role.
Entry = tuple[str, str, str]


@dataclass(frozen=True)
class Place:
    """A collection: a scope with its keys."""

    scope: Scope
    values: tuple[tuple[str, str], ...] = ()

    @property
    def keys(self) -> dict[str, str]:
        """What an object says to be there."""
        return dict(self.values)

    @property
    def path(self) -> str:
        """The path of its list."""
        return self.scope.collection.format(**self.keys)

    @property
    def variant(self) -> str:
        """The names of the keys, by which what is there may differ."""
        return " ".join(sorted(self.scope.keys))


@dataclass
class Declared:
    """An object as it is declared.

    names: its identity; values: its fields in their normal form.
    """

    place: Place
    names: dict[str, str]
    values: dict[str, t.Any] = field(default_factory=dict)

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells it from the others of its place."""
        return tuple(self.names.values())


def entries_of(declared: Declared) -> list[Entry]:
    """The entries of the access control list for which an object stands."""
    return [
        (kind, holder, role)
        for kind in ("user", "group", "token")
        for holder in declared.values.get(f"{kind}s", ())
        for role in declared.values.get("roles", ())
    ]


@dataclass(frozen=True)
class Wish:
    """What a task wants of the objects of a kind.

    mark: how the comment of what belongs to the owner begins; empty for no owner.
    secrets: whether a secret that cannot be compared is sent ``on_create`` or ``always``.
    apply: whether what changes is put into force.
    places: those in which an exclusive owner has nothing else.
    """

    kind: Kind
    objects: t.Sequence[Declared]
    places: t.Sequence[Place]
    present: bool = True
    mark: str = ""
    exclusive: bool = False
    secrets: str = "on_create"
    apply: bool = True
    timeout: int = 600


def mark_of(owner: str | None) -> str:
    """How the comment of what belongs to an owner begins."""
    return f"[{owner}]" if owner else ""


def marked(mark: str, comment: str) -> str:
    """A comment with the mark of its owner."""
    if not mark or is_marked(mark, comment):
        return comment
    return f"{mark} {comment}".rstrip()


def is_marked(mark: str, comment: t.Any) -> bool:
    """Whether an object belongs to an owner."""
    return bool(mark) and re.match(rf"{re.escape(mark)}(\s|$)", str(comment or "")) is not None


def label_of(place: Place, names: t.Iterable[str]) -> str:
    """What an object is called in plans and messages."""
    where = "/".join(value for key, value in place.values if key != "guest")
    name = "!".join(names)
    return f"{name} ({where})" if name and where else name or where or "cluster"


# -------------------------------------------------------------------------------------------------------- the wish


def make_wish(params: t.Mapping[str, t.Any], nodes: t.Mapping[str, tuple[str, str]] | None = None) -> Wish:
    """The wish that the module's options express.

    nodes: node and type (``lxc``, ``qemu``) of the guests, by their ids; None before they are known.

    Raises:
        Failure: ``invalid_option`` or ``invalid_field``, naming what would be right.
    """
    kind = KINDS[params["kind"]]
    given = _objects(params)
    shared = _shared(kind, params)
    present = params["state"] == "present"
    objects = [
        _declared(kind, {**shared, **each}, number, present, nodes) for number, each in enumerate(given, start=1)
    ]
    _check_options(kind, params)
    if kind.manner == "acl":
        _check_propagation(kind, objects if present else [])
    else:
        _check_doubles(kind, objects)
    places = list(dict.fromkeys(it.place for it in objects))
    if not places and params["exclusive"]:
        places = [_place(kind, shared, "objects", nodes)]
    return Wish(
        kind,
        objects,
        places,
        present,
        mark_of(params["owner"]),
        params["exclusive"],
        params["update_secrets"],
        params["apply"],
        params["timeout"],
    )


def _objects(params: t.Mapping[str, t.Any]) -> list[dict[str, t.Any]]:
    if params["object"] is not None:
        return [params["object"]]
    objects = params["objects"]
    if objects is None:
        raise invalid_option("object", "give object or objects")
    if not objects and not params["exclusive"]:
        raise invalid_option("objects", "it is empty, which says something with exclusive only")
    return list(objects)


def _shared(kind: Kind, params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The keys that all objects have by the module's options."""
    shared = dict(params["scope"] or {})
    if params["node"]:
        shared["node"] = params["node"]
    for name in shared:
        if name not in (*kind.scope_keys, *kind.names):
            option = "node" if name == "node" and params["node"] else "scope"
            allowed = f"they may have {', '.join(kind.scope_keys)}" if kind.scope_keys else "they have no scope"
            raise invalid_option(option, f"{name} does not say where objects of the kind {kind.name} are; {allowed}")
    return shared


def _check_options(kind: Kind, params: t.Mapping[str, t.Any]) -> None:
    owner = params["owner"]
    if owner is not None and not OWNER.fullmatch(owner):
        raise invalid_option("owner", "letters, digits, '.', '_' and '-' are allowed")
    if params["exclusive"]:
        if not owner:
            raise invalid_option("owner", "exclusive needs one, by which it knows what it may remove")
        if params["state"] != "present":
            raise invalid_option("exclusive", "it goes with state=present only")
    if owner and kind.comment is None:
        raise invalid_option(
            "exclusive" if params["exclusive"] else "owner",
            f"objects of the kind {kind.name} have no comment that could say whose they are",
        )


def _check_doubles(kind: Kind, objects: t.Sequence[Declared]) -> None:
    seen: set[t.Any] = set()
    for it in objects:
        same = (it.place, it.identity if kind.manner != "rules" else repr(sorted(it.values.items())))
        if same in seen:
            raise invalid_field(kind, label_of(it.place, it.identity), "", "it is declared twice")
        seen.add(same)


def _check_propagation(kind: Kind, objects: t.Sequence[Declared]) -> None:
    """An entry may be declared more than once, but Proxmox has it once, with propagation or without."""
    said: dict[tuple[str, Entry], bool] = {}
    for it in objects:
        path, propagate = it.names["path"], it.values.get("propagate", True)
        for entry in entries_of(it):
            if said.setdefault((path, entry), propagate) != propagate:
                holder, name, role = entry
                raise invalid_field(kind, path, "propagate", f"{holder} {name} is declared with both for {role}")


# ----------------------------------------------------------------------------------------------------- one object


def _place(
    kind: Kind, given: t.Mapping[str, t.Any], label: str, nodes: t.Mapping[str, tuple[str, str]] | None
) -> Place:
    """Where an object is."""
    given = dict(given)
    if given.get("vmid") is not None and "vmid" in kind.scope_keys:
        if given.get("node") is None:
            node, guest = (UNKNOWN, UNKNOWN) if nodes is None else _guest(kind, label, str(given["vmid"]), nodes)
            given.update(node=node, guest=given.get("guest") or guest)
        given.setdefault("guest", GUESTS[0])
    fitting = [scope for scope in kind.scopes if all(given.get(key) is not None for key in scope.keys)]
    if not fitting:
        keys = [key for key in kind.scopes[-1].keys if given.get(key) is None]
        raise invalid_field(kind, label, keys[0], "it is missing")
    scope = max(fitting, key=lambda each: len(each.keys))
    for key in kind.scope_keys:
        if given.get(key) is not None and key not in scope.keys:
            raise invalid_field(kind, label, key, f"it does not go with {', '.join(scope.keys) or 'the cluster'}")
    values = tuple((key, _scope_value(kind, label, key, given[key])) for key in scope.keys)
    return Place(scope, values)


_SCOPE_VALUES = {
    "node": Field(format="pve-node"),
    "vmid": Field(format="pve-vmid"),
    "guest": Field(choices=GUESTS),
    "group": Field(pattern="[A-Za-z][A-Za-z0-9_-]+", folded=True),
    "vnet": Field(pattern="[a-zA-Z][a-zA-Z0-9]*[a-zA-Z0-9]", shortest=2, longest=8),
}


def _scope_value(kind: Kind, label: str, key: str, value: t.Any) -> str:
    if value == UNKNOWN:
        return UNKNOWN
    it = _SCOPE_VALUES.get(key, Field(choices=tuple(kind.variants)))
    try:
        return str(normal(it, value))
    except InvalidValue as problem:
        raise invalid_field(kind, label, key, str(problem)) from None


def _guest(kind: Kind, label: str, vmid: str, nodes: t.Mapping[str, tuple[str, str]]) -> tuple[str, str]:
    if vmid not in nodes:
        raise Failure(
            "not_found",
            f"{kind.name} {label}: there is no guest {vmid}.",
            "Check the vmid, or give the node.",
            vmid=vmid,
        )
    return nodes[vmid]


def _declared(
    kind: Kind,
    given: t.Mapping[str, t.Any],
    number: int,
    present: bool,
    nodes: t.Mapping[str, tuple[str, str]] | None,
) -> Declared:
    label = str(given.get(kind.identity[-1]) or f"number {number}") if kind.identity else f"number {number}"
    place = _place(kind, given, label, nodes)
    names = {}
    for name, it in kind.names.items():
        if given.get(name) is None:
            raise invalid_field(kind, label, name, "it is missing")
        names[name] = _value(kind, label, name, it, given[name])
    label = label_of(place, names.values()) if names else label
    if kind.reserved and present and re.fullmatch(kind.reserved, "!".join(names.values())):
        raise invalid_field(kind, label, kind.identity[-1], "it belongs to Proxmox")
    if not present and "!".join(names.values()) in kind.always:
        raise invalid_field(kind, label, kind.identity[-1], "it is built in, and Proxmox would make it anew")
    variant = _variant(kind, place, given, label, present)
    fields = kind.fields_of(variant)
    values = {}
    for name, value in given.items():
        if name in kind.scope_keys or name in names or value is None:
            continue
        if name not in fields:
            raise _unknown_field(kind, label, name, variant, fields)
        values[name] = _value(kind, label, name, fields[name], value)
        why = kind.without.get("!".join(names.values()), {}).get(name)
        if why and significant(fields[name], values[name]):
            raise invalid_field(kind, label, name, why)
    for each in kind.implied:
        if each.because in values and each.unless not in values:
            values.setdefault(each.field, each.value)
    # What has no name is known by what it says.
    if present or kind.manner in ("acl", "rules"):
        _check_whole(kind, label, fields, values)
    return Declared(place, names, values)


def _variant(kind: Kind, place: Place, given: t.Mapping[str, t.Any], label: str, present: bool) -> str | None:
    if not kind.variants:
        return None
    if not kind.variant:
        return " ".join(place.scope.keys)
    if kind.variant in place.keys:
        return place.keys[kind.variant]
    if given.get(kind.variant) is None:
        # A rule has no name: all that it says has to be said.
        if present or kind.manner == "rules":
            raise invalid_field(kind, label, kind.variant, f"it is missing; there are {', '.join(kind.variants)}")
        return None
    return str(_value(kind, label, kind.variant, kind.fields[kind.variant], given[kind.variant]))


def _value(kind: Kind, label: str, name: str, it: Field, value: t.Any) -> t.Any:
    if it.is_reserved(value):
        raise invalid_field(kind, label, name, "Proxmox sets it by itself")
    try:
        return normal(it, value)
    except InvalidValue as problem:
        # What a secret is like is nobody's business, and messages are shown.
        why = "it is not allowed" if it.secret else str(problem)
        raise invalid_field(kind, label, name, why) from None


def _unknown_field(kind: Kind, label: str, name: str, variant: str | None, fields: t.Mapping[str, Field]) -> Failure:
    if name in kind.left_out:
        return invalid_field(kind, label, name, f"it is not declared here: {kind.left_out[name]}")
    of_type = f"the type {variant}" if kind.variant and variant else "this kind"
    if name in kind.fields:
        return invalid_field(kind, label, name, f"{of_type} does not have it", sorted(fields))
    return invalid_field(kind, label, name, f"there is no such field; {of_type} has {', '.join(sorted(fields))}")


def _check_whole(kind: Kind, label: str, fields: t.Mapping[str, Field], values: t.Mapping[str, t.Any]) -> None:
    for name, it in fields.items():
        if it.required and name not in values:
            raise invalid_field(kind, label, name, "it is missing")
        if name in values:
            for other in it.needs:
                if significant(it, values[name]) and other not in values:
                    raise invalid_field(kind, label, name, f"it needs {other}")
            for other, allowed in it.only.items():
                if significant(it, values[name]) and values.get(other, fields[other].default) not in allowed:
                    wanted = " or ".join(str(told(fields[other], value)).lower() for value in allowed)
                    raise invalid_field(kind, label, name, f"it goes with {other} {wanted} only")
    for name, other in kind.conflicts:
        if all(significant(kind.fields[each], values.get(each)) for each in (name, other)):
            raise invalid_field(kind, label, name, f"it does not go with {other}")
    one_of = [name for name in kind.one_of if name in fields]
    if one_of and not any(significant(fields[name], values.get(name)) for name in one_of):
        raise invalid_field(kind, label, one_of[0], f"one of {', '.join(one_of)} is wanted")
    for name in kind.matches:
        if values.get("mode") != "any" and not _can_match(values.get(name, ())):
            why = "each item has to match, and these cannot together; write them as one, separated by commas"
            raise invalid_field(kind, label, name, why)
    problem = problem_of_rule(values) if kind.manner == "rules" else None
    if problem:
        raise invalid_field(kind, label, *problem)
    if kind.manner == "acl" and "root@pam" in values.get("users", ()):
        raise invalid_field(kind, label, "users", "root@pam is always an Administrator, and Proxmox keeps no more")


def _can_match(items: t.Iterable[str]) -> bool:
    """Whether one notification can have what every item wants."""
    left: dict[str, set[str]] = {}
    for item in items:
        subject, _equals, words = item.rpartition("=")
        if not subject.startswith("regex:"):
            wanted = set(words.split(","))
            left[subject] = left.get(subject, wanted) & wanted
    return all(left.values())


# -------------------------------------------------------------------------------------------------------- failures


def invalid_option(option: str, why: str) -> Failure:
    """An option that cannot be right."""
    return Failure("invalid_option", f"{option}: {why}.", "", option=option)


def invalid_field(kind: Kind, label: str, name: str, why: str, allowed: t.Sequence[str] | None = None) -> Failure:
    """A field that cannot be right."""
    details: dict[str, t.Any] = {"kind": kind.name, "object": label, "field": name}
    if allowed is not None:
        details["allowed"] = list(allowed)
    where = f"{kind.name} {label}: {name}" if name else f"{kind.name} {label}"
    return Failure("invalid_field", f"{where}: {why}.", "docs/objects.md has the fields of every kind.", **details)
