# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a row of the table of kinds says. Plain data, no I/O."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.fields import Field

CREATE, UPDATE, DELETE = "create", "update", "delete"
ALWAYS = (CREATE, UPDATE, DELETE)


@dataclass(frozen=True)
class Grant:
    """A privilege that requests need.

    paths: any one will do; ``{name}`` stands for a part of the identity, of the scope, or for a field, and for each
        item of one that is a list; ``{found.name}`` for a field as Proxmox has it. A path with a name that is not known
        is left out.
    privileges: any one will do.
    actions: for which of ``create``, ``update`` and ``delete``.
    but_own: whether a user needs it for others only.
    types: for objects of which types; empty for all.
    otherwise: what names in the paths stand for when the object does not say it.
    each: whether one for each item of a list is needed, and not for any of them.
    """

    paths: tuple[str, ...]
    privileges: tuple[str, ...]
    actions: tuple[str, ...] = ALWAYS
    but_own: bool = False
    types: tuple[str, ...] = ()
    otherwise: tuple[tuple[str, str], ...] = ()
    each: bool = False


@dataclass(frozen=True)
class Scope:
    """Where objects of a kind are.

    collection: the path of their list; ``{name}`` stands for a key of the object that says which.
    keys: those keys, in the order of the path.
    sees: the privilege without which a list leaves objects out.
    grants: what writing needs.
    """

    collection: str
    sees: Grant | None = None
    grants: tuple[Grant, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """The names in the path."""
        return tuple(re.findall(r"\{(\w+)\}", self.collection))


@dataclass(frozen=True)
class Apply:
    """What puts changes into force, once for all of a place.

    path: of the PUT.
    waiting: how changes that wait are told: ``state`` of the entry, or ``changes`` beside the list.
    """

    path: str
    grant: Grant
    waiting: str


@dataclass(frozen=True)
class Implied:
    """A value that Proxmox sets because of another field.

    field: what it sets when ``because`` is given and ``unless`` is not; value: to what.
    """

    because: str
    unless: str
    field: str
    value: t.Any


@dataclass(frozen=True)
class Reset:
    """A value that every update sets anew, without saying so.

    key: of a list's entry; unless: the field that says it; same: the values of which nothing is lost.
    """

    key: str
    unless: str
    same: tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """One kind of object: a row of the table.

    identity: the fields that name an object within its collection.
    names: the same fields, as data. They are never changed.
    fields: all others. What requests take and what is not here is in ``left_out``, with the reason.
    scopes: where objects may be; the one of most keys that an object has is meant.
    query: parameters of the list without which it lacks fields.
    variants: for each ``type`` the fields it has, as ``name``; ``name!`` is required, ``name=`` cannot be changed.
    variant: the name of that field.
    overrides: what is otherwise about a field of one type.
    constants: parameters of the request that makes an object.
    member: the path of one object: ``{collection}``, ``{id}`` and names.
    create: method and path. Names that are not in the path are parameters.
    update, delete: the same for an existing object; delete_with: parameters of the latter.
    inside: the key of a list's entry that has the objects, when the entry is what they belong to.
    named_by: the keys of a list's entry that are its names, where they are called otherwise.
    member_id: the key of a list's entry that is its id in paths, when the identity is not.
    details: the path that has what the list lacks; detail: the one field that it has, if it does not have all.
    whole: whether an update replaces everything, so that all declared fields are sent.
    repeated: fields that every update has to have.
    renames: whether an update is a renaming to the same name.
    removed_as: how the names of removed fields are joined in ``delete``; ``array`` for a parameter that is repeated.
    digest: whether the list tells a digest that writes may carry.
    comment: the field in which the mark of an owner is; None when there is none.
    manner: how it is planned when it is not by fields: ``acl``, ``rules``, ``options``.
    attached: how parts of an object are planned that have requests of their own: ``members``, ``entries``, ``rules``.
    there: the key of a list's entry without which there is no such object yet; a value in ``builtin`` means the same.
    gone: a key that says of an entry that it is being removed.
    apply: what puts changes into force.
    reserved: the pattern of names that belong to Proxmox.
    always: names of objects that Proxmox makes again when they are removed, without what belonged to them.
    without: of a name the fields that only the object of that name does not have, with the reason.
    one_of: fields of which an object needs one.
    conflicts: pairs of fields of which an object has one at most.
    implied: what Proxmox sets because of other fields.
    matches: fields of which each item has to match, unless ``mode`` is ``any``.
    resets: what an update would lose.
    secret_answer: whether the answer to ``create`` holds a new secret.
    """

    name: str
    identity: tuple[str, ...]
    names: t.Mapping[str, Field]
    fields: t.Mapping[str, Field]
    scopes: tuple[Scope, ...]
    query: t.Mapping[str, t.Any] = field(default_factory=dict)
    left_out: t.Mapping[str, str] = field(default_factory=dict)
    variants: t.Mapping[str, str] = field(default_factory=dict)
    variant: str = "type"
    overrides: t.Mapping[str, t.Mapping[str, t.Mapping[str, t.Any]]] = field(default_factory=dict)
    constants: t.Mapping[str, t.Any] = field(default_factory=dict)
    create: tuple[str, str] = ("POST", "{collection}")
    update: tuple[str, str] = ("PUT", "{collection}/{id}")
    delete: tuple[str, str] = ("DELETE", "{collection}/{id}")
    delete_with: t.Mapping[str, t.Any] = field(default_factory=dict)
    inside: str | None = None
    named_by: t.Mapping[str, str] = field(default_factory=dict)
    member_id: str | None = None
    details: str | None = None
    detail: str | None = None
    whole: bool = False
    repeated: tuple[str, ...] = ()
    renames: bool = False
    removed_as: str = ","
    digest: bool = False
    comment: str | None = None
    manner: str = "fields"
    attached: str | None = None
    there: str | None = None
    builtin: str | None = None
    gone: str | None = None
    apply: Apply | None = None
    reserved: str | None = None
    always: tuple[str, ...] = ()
    without: t.Mapping[str, t.Mapping[str, str]] = field(default_factory=dict)
    one_of: tuple[str, ...] = ()
    conflicts: tuple[tuple[str, str], ...] = ()
    implied: tuple[Implied, ...] = ()
    matches: tuple[str, ...] = ()
    resets: tuple[Reset, ...] = ()
    secret_answer: bool = False

    @property
    def scope_keys(self) -> tuple[str, ...]:
        """Every key by which an object may say where it is."""
        return tuple(dict.fromkeys(key for scope in self.scopes for key in scope.keys))

    @property
    def secrets(self) -> tuple[str, ...]:
        """The fields that must not be shown."""
        hidden = [name for name, it in self.fields.items() if it.secret]
        return tuple(hidden)

    def fields_of(self, variant: str | None) -> dict[str, Field]:
        """The fields that an object of a type has, those it must have and those that are fixed marked so."""
        if not self.variants:
            return dict(self.fields)
        found = {self.variant: self.fields[self.variant]} if self.variant in self.fields else {}
        changes = self.overrides.get(variant or "", {})
        for word in self.variants.get(variant or "", "").split():
            name = word.rstrip("!=")
            marks = {"required": "!" in word} if "=" not in word else {"required": "!" in word, "fixed": True}
            found[name] = replace(self.fields[name], **{**marks, **changes.get(name, {})})
        return found
