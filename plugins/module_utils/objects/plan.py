# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan for objects: what is declared against what is there. Plain data, no I/O."""

from __future__ import annotations

import itertools
import typing as t
from dataclasses import dataclass, field

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.access import Need, root_only
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.plan import LIVE, RECREATE, BasePlan, Change, Step
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.declared import (
    Declared,
    Entry,
    Place,
    Wish,
    entries_of,
    is_marked,
    label_of,
    marked,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.fields import (
    MASK,
    Field,
    actual,
    normal,
    sent,
    significant,
    told,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.formats import InvalidValue, is_that_key
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.kinds import (
    CREATE,
    DELETE,
    UPDATE,
    Grant,
    Kind,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.rows_network import FIREWALL_RULE
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.rules import Rule, order_rules

# A change that waits until the configuration is applied.
PENDING = "pending"


@dataclass
class Actual:
    """An object as it is.

    values: its fields in their normal form, of those that say something.
    raw: what Proxmox has told.
    waiting: whether a change of it has not been applied yet.
    there: False for what is listed, but is no object yet or none any more.
    """

    place: Place
    names: dict[str, str]
    values: dict[str, t.Any] = field(default_factory=dict)
    raw: dict[str, t.Any] = field(default_factory=dict)
    waiting: bool = False
    there: bool = True

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells it from the others of its place."""
        return tuple(self.names.values())


@dataclass
class State:
    """What is there, in the places that a wish is about.

    listed: the objects of each place, in the order of its list.
    changes: what waits to be applied, where a place tells it as a whole: the difference between two files.
    """

    listed: dict[Place, list[Actual]] = field(default_factory=dict)
    changes: dict[Place, str] = field(default_factory=dict)

    def find(self, declared: Declared) -> Actual | None:
        """The object that is meant."""
        for it in self.listed.get(declared.place, []):
            if it.identity == declared.identity:
                return it
        return None


@dataclass
class Plan(BasePlan):
    """The plan for objects.

    diffs: for each object its label, and its fields before and after.
    unseen: objects that are to be absent and were not found; what would have shown them.
    """

    diffs: list[dict[str, t.Any]] = field(default_factory=list)
    unseen: list[Need] = field(default_factory=list)


# ------------------------------------------------------------------------------------------------------------ reading


def read_entries(kind: Kind, place: Place, entries: t.Iterable[t.Mapping[str, t.Any]]) -> list[Actual]:
    """The objects in the answer to a request for a list."""
    found = []
    for entry in entries:
        if kind.inside:
            parent = {name: entry[name] for name in (*kind.identity, "groups") if name in entry}
            found += [read_entry(kind, place, {**item, **parent}) for item in entry.get(kind.inside) or []]
        else:
            found.append(read_entry(kind, place, entry))
    return found


def read_entry(kind: Kind, place: Place, entry: t.Mapping[str, t.Any]) -> Actual:
    """One object as Proxmox tells it, with what waits to be applied."""
    raw = dict(entry)
    pending = raw.pop("pending", None)
    for name, value in (pending or {}).items():
        if value == "deleted":
            raw.pop(name, None)
        else:
            raw[name] = value
    names = {name: _name(it, raw.get(kind.named_by.get(name, name))) for name, it in kind.names.items()}
    it = Actual(place, names, {}, raw)
    it.values = values_of(kind, place, raw)
    if kind.apply and kind.apply.waiting == "state":
        it.waiting = bool(raw.get("state"))
        it.there = raw.get("state") != "deleted"
    if kind.there is not None:
        it.there = raw.get(kind.there) not in (None, kind.builtin)
    if kind.gone is not None:
        it.there = not raw.get(kind.gone)
    return it


def _name(it: Field, value: t.Any) -> str:
    try:
        return str(normal(it, value))
    except InvalidValue:
        return str(value)


def values_of(kind: Kind, place: Place, raw: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The fields that say something."""
    variant: str | None = None
    if kind.variants:
        variant = str(raw.get(kind.variant) or "") if kind.variant else " ".join(place.scope.keys)
        variant = place.keys.get(kind.variant, variant)
    found = {}
    for name, it in kind.fields_of(variant).items():
        if raw.get(name) is not None and it.compared and not it.is_reserved(raw[name]):
            value = actual(it, raw[name])
            if significant(it, value):
                found[name] = value
    return found


# ----------------------------------------------------------------------------------------------------------- planning


def make_plan(wish: Wish, state: State, user: str) -> Plan:
    """What has to be done.

    user: who asks: a user, whose own tokens need no privilege, or a token, which has none of its own.

    Raises:
        Failure: ``would_lose_address``, when a change would cost an interface the address that it is given.
    """
    plan = Plan()
    planner = _Planner(wish, state, plan, user)
    if wish.kind.manner == "acl":
        planner.plan_acl()
    elif wish.kind.manner == "rules":
        planner.plan_rules()
    elif wish.kind.manner == "options":
        planner.plan_options()
    else:
        planner.plan_objects()
    planner.plan_apply()
    return plan


class _Planner:
    def __init__(self, wish: Wish, state: State, plan: Plan, user: str) -> None:
        self.wish = wish
        self.kind = wish.kind
        self.state = state
        self.plan = plan
        self.user = user
        self.touched: dict[Place, bool] = {}
        # What leaves an object before another one can have it.
        self.leaving: list[Step] = []

    # ---------------------------------------------------------------------------------------------- ordinary kinds

    def plan_objects(self) -> None:
        """Objects that have a name: what goes is removed first, in case something new needs its place."""
        if self.wish.present:
            for it in reversed(self._strays()):
                self._remove(it)
            for declared in self.wish.objects:
                self._make(declared)
            self.plan.steps[:0] = self.leaving
            return
        for declared in reversed(self.wish.objects):
            found = self.state.find(declared)
            if found is not None and found.there:
                self._remove(found)
            elif found is None:
                self._note_unseen(declared)
        self.plan.steps[:0] = self.leaving

    def _strays(self) -> list[Actual]:
        """What carries the owner's mark and is not declared."""
        if not self.wish.exclusive:
            return []
        wanted = {(it.place, it.identity) for it in self.wish.objects}
        comment = self.kind.comment or ""
        return [
            it
            for place in self.wish.places
            for it in self.state.listed.get(place, [])
            if it.there
            and is_marked(self.wish.mark, it.values.get(comment))
            and (place, it.identity) not in wanted
            # Proxmox makes it again by itself.
            and "!".join(it.identity) not in self.kind.always
        ]

    def _make(self, declared: Declared) -> None:
        found = self.state.find(declared)
        # What Proxmox lists although nobody has made it is changed like any other.
        listed = found is not None and (found.there or (self.kind.there is not None))
        if self.kind.gone is not None:
            listed = found is not None
        if found is None or not listed:
            self._create(declared)
        else:
            self._update(declared, found)

    def _create(self, declared: Declared) -> None:
        kind, label = self.kind, label_of(declared.place, declared.identity)
        values = self._with_mark(declared.values, {})
        fields = self._fields(declared)
        method, path = kind.create
        params = {**self._names_in(path, declared.names), **kind.constants}
        parts = ATTACHED.get(kind.attached or "", ())
        for name, value in values.items():
            if name not in parts and (significant(fields[name], value) or not fields[name].compared):
                params[name] = sent(fields[name], value)
        step = Step("created", method, self._path(path, declared), params)
        step.changes.append(
            Change(label, None, _shown(fields, {**declared.names, **values}), self._effect, f"{method} /{step.path}")
        )
        step.payload = {"names": declared.names, "secret": kind.secret_answer}
        self._add(step, declared.place, self._needs(CREATE, declared, values) + _root_needs(fields, values, label))
        self._diff(label, {}, _shown(fields, {**declared.names, **values}))
        self._attach(declared, None, label)

    def _update(self, declared: Declared, found: Actual) -> None:
        kind, label = self.kind, label_of(declared.place, declared.identity)
        fields = self._fields(declared)
        values = self._with_mark(declared.values, found.values)
        for name, it in fields.items():
            if it.swapped and name in values and values[name] == found.raw.get(it.swapped):
                values[name] = found.values.get(name)
        parts = ATTACHED.get(kind.attached or "", ())
        update = _Difference({name: it for name, it in fields.items() if name not in parts}, values, found)
        update.find(self.wish.secrets == "always")
        other_type = kind.variant in update.fixed
        for name in [kind.variant] if other_type else update.fixed:
            it = fields[name]
            before = MASK if it.lasting else told_or_none(it, found.values.get(name))
            change = Change(f"{label}: {name}", before, told_or_none(it, values.get(name)), RECREATE)
            change.hint = f"Proxmox does not change {name} of an existing {kind.name}; remove it and make it anew."
            if it.lasting:
                file = it.lasting.format(**found.names)
                change.hint = (
                    f"What was made with the {name} that is there could not be read with another. Keep a copy of "
                    f"{file} and unset it by hand first."
                )
            self.plan.blocked.append(change)
        if other_type:
            # The fields of one type say nothing about an object of another.
            return
        if update.set or update.removed:
            self._check_resets(label, values, found)
            self._send_update(declared, found, fields, values, update)
        for name in update.apart:
            self._send_secret(declared, fields[name], name, values[name], label)
        self._attach(declared, found, label)

    def _check_resets(self, label: str, values: t.Mapping[str, t.Any], found: Actual) -> None:
        for it in self.kind.resets:
            have = found.raw.get(it.key)
            if have not in (None, *it.same) and it.unless not in values:
                raise Failure(
                    "would_lose_address",
                    f"{self.kind.name} {label}: a change through Proxmox's API cannot keep {it.key} {have}.",
                    f"Declare {it.unless}, or change it in /etc/network/interfaces of the node.",
                    object=label,
                    **{it.key: have},
                )

    def _send_update(
        self,
        declared: Declared,
        found: Actual,
        fields: t.Mapping[str, Field],
        values: t.Mapping[str, t.Any],
        update: _Difference,
    ) -> None:
        kind, label = self.kind, label_of(declared.place, declared.identity)
        method, path = kind.update
        params = self._names_in(path, found.names)
        if kind.renames:
            params["rename"] = declared.identity[-1]
        needed = {name for changed in update.set for name in fields[changed].needs if fields[name].compared}
        again = needed | set(kind.repeated)
        for name, it in fields.items():
            passing = it.passing and name in values and name not in ATTACHED.get(kind.attached or "", ())
            whole = kind.whole and name in values and it.compared and not it.fixed
            if name in update.set or name in again or passing or whole:
                value = values.get(name, found.values.get(name))
                if value is not None and (name in update.set or passing or significant(it, value)):
                    params[name] = sent(it, value)
        gone = [name for name in update.removed if fields[name].unset == "delete"]
        for name in update.removed:
            if fields[name].unset in UNSET:
                params[name] = UNSET[fields[name].unset]
            elif fields[name].unset == "default":
                params[name] = sent(fields[name], fields[name].default)
            else:
                params.pop(name, None)
        if gone:
            params["delete"] = sent(Field("words", joined=kind.removed_as), tuple(sorted(gone)))
        step = Step("changed", method, self._path(path, declared, found), params, digest=kind.digest)
        step.payload = {"digest": found.raw.get("digest")}
        before, after = {}, {}
        for name in sorted([*update.set, *update.removed]):
            it = fields[name]
            before[name] = told_or_none(it, found.values.get(name)) if it.compared or it.lasting else MASK
            after[name] = told_or_none(it, values.get(name)) if name in update.set else None
            if name in update.removed and it.default is not None:
                after[name] = told(it, it.default)
            step.add(f"{label}: {name}", before[name], after[name], self._effect)
        changed = {name: values.get(name) for name in (*update.set, *update.removed)}
        self._add(
            step, declared.place, self._needs(UPDATE, declared, values, found) + _root_needs(fields, changed, label)
        )
        self._diff(label, before, after)

    def _send_secret(self, declared: Declared, it: Field, name: str, value: t.Any, label: str) -> None:
        step = Step("changed", "PUT", str(it.apart), {**declared.names, name: sent(it, value)})
        step.add(f"{label}: {name}", MASK, MASK)
        self._add(step, declared.place, self._needs(UPDATE, declared, declared.values))
        self._diff(label, {name: MASK}, {name: MASK})

    def _remove(self, found: Actual) -> None:
        kind, label = self.kind, label_of(found.place, found.identity)
        fields = kind.fields_of(str(found.raw.get(kind.variant) or found.place.keys.get(kind.variant) or ""))
        if kind.attached == "rules":
            self._empty_group(found, label)
        elif kind.attached == "members":
            # Proxmox removes a pool only when nothing is in it. What was in it stays.
            nothing = Declared(found.place, found.names, dict.fromkeys(("vms", "storage"), ()))
            self._attach_members(nothing, found, label)
        method, path = kind.delete
        params = {**self._names_in(path, found.names), **kind.delete_with}
        as_declared = Declared(found.place, found.names)
        step = Step("removed", method, self._path(path, as_declared, found), params)
        shown = _shown(fields, {**found.names, **found.values})
        for name, it in fields.items():
            if it.lasting and found.raw.get(name) is not None:
                shown[name] = MASK
                file = it.lasting.format(**found.names)
                self.plan.notes.append(
                    f"{label}: its {name}, in {file}, goes with it; what it is for cannot be read then."
                )
        step.changes.append(Change(label, shown, None, self._effect, f"{method} /{step.path}"))
        self._add(step, found.place, self._needs(DELETE, as_declared, found.values, found))
        self._diff(label, shown, {})

    def _empty_group(self, found: Actual, label: str) -> None:
        """Proxmox removes a security group only when it has no rules."""
        rules = list(found.raw.get("rules") or [])
        base = self._path("{collection}/{id}", Declared(found.place, found.names), found)
        for position in range(len(rules) - 1, -1, -1):
            step = Step("removed", "DELETE", f"{base}/{position}", digest=True)
            step.add(f"{label}: rule {position}", _plain_rule(rules[position]), None, self._effect)
            expects = [values_of(FIREWALL_RULE, found.place, rule) for rule in rules[: position + 1]]
            step.payload = {"list": base, "place": found.place, "expects": expects}
            self._add(step, found.place, [])

    def _note_unseen(self, declared: Declared) -> None:
        sees = declared.place.scope.sees
        if sees is not None:
            self.plan.unseen += self._needs_of([sees], DELETE, declared, declared.values, None)

    # ------------------------------------------------------------------------------------- parts with own requests

    def _attach(self, declared: Declared, found: Actual | None, label: str) -> None:
        if self.kind.attached == "members":
            self._attach_members(declared, found, label)
        elif self.kind.attached == "entries":
            self._attach_entries(declared, found, label)

    def _attach_members(self, declared: Declared, found: Actual | None, label: str) -> None:
        for name, privilege in (("vms", "VM.Allocate"), ("storage", "Datastore.Allocate")):
            if name not in declared.values:
                continue
            want = declared.values[name]
            have = found.values.get(name, ()) if found else ()
            base = self._needs(UPDATE, declared, declared.values)
            for gone, members in (
                (True, tuple(it for it in have if it not in want)),
                (False, tuple(it for it in want if it not in have)),
            ):
                if not members:
                    continue
                params: dict[str, t.Any] = {**declared.names, name: ",".join(members)}
                if gone:
                    params["delete"] = 1
                elif declared.values.get("allow-move") and name == "vms":
                    params["allow-move"] = 1
                step = Step("changed", "PUT", declared.place.path, params)
                step.add(
                    f"{label}: {name}", list(members) if gone else None, None if gone else list(members), self._effect
                )
                where = "/vms/" if name == "vms" else "/storage/"
                needs = [Need((where + it,), (privilege, "Permissions.Modify"), f"{label}: {name}") for it in members]
                self._add(step, declared.place, base + needs, self.leaving if gone else self.plan.steps)
            if set(want) != set(have) and self.wish.present:
                self._diff(label, {name: list(have)}, {name: list(want)})

    def _attach_entries(self, declared: Declared, found: Actual | None, label: str) -> None:
        if "cidrs" not in declared.values:
            return
        it = self.kind.fields["cidrs"]
        want = {entry["cidr"]: entry for entry in declared.values["cidrs"]}
        there = [(_entry(it, raw), str(raw["cidr"])) for raw in (found.raw.get("cidrs", ()) if found else ())]
        have = {entry["cidr"]: entry for entry, _spelling in there}
        # In paths they are found as Proxmox spells them only.
        spelled = {entry["cidr"]: spelling for entry, spelling in there}
        base = self._path("{collection}/{id}", declared, found)
        needs = self._needs(UPDATE, declared, declared.values)
        for cidr in (cidr for cidr in have if cidr not in want):
            step = Step("removed", "DELETE", f"{base}/{spelled[cidr]}")
            step.add(f"{label}: {cidr}", have[cidr], None, self._effect)
            self._add(step, declared.place, needs)
        for cidr, entry in want.items():
            if have.get(cidr) == entry:
                continue
            rest = {name: sent(it.subs[name], value) for name, value in entry.items() if name != "cidr"}
            if cidr in have:
                step = Step("changed", "PUT", f"{base}/{spelled[cidr]}", rest)
            else:
                step = Step("created", "POST", base, {"cidr": cidr, **rest})
            step.add(f"{label}: {cidr}", have.get(cidr), entry, self._effect)
            self._add(step, declared.place, needs)
        if want != have:
            self._diff(
                label,
                {"cidrs": told(it, tuple(have[each] for each in sorted(have)))},
                {"cidrs": told(it, tuple(want[each] for each in sorted(want)))},
            )

    # ------------------------------------------------------------------------------------------------ special kinds

    def plan_options(self) -> None:
        """What is there once for a place."""
        for declared in self.wish.objects:
            # The options of what is still to be made are none.
            [found] = self.state.listed[declared.place] or [Actual(declared.place, declared.names)]
            if self.wish.present:
                self._update(declared, found)
                continue
            going = declared.values or found.values
            values = {name: value for name, value in found.values.items() if name in going}
            self._update(Declared(declared.place, declared.names), Actual(found.place, found.names, values, found.raw))

    def plan_acl(self) -> None:
        """Entries of the access control list: an object stands for each of its roles with each of its holders."""
        for declared in self.wish.objects:
            path, wanted = declared.names["path"], declared.values.get("propagate", True)
            have = {
                entry_of(it): bool(int(it.raw.get("propagate") or 0))
                for it in self.state.listed.get(declared.place, [])
                if it.names["path"] == path
            }
            asked = entries_of(declared)
            if self.wish.present:
                differing = [entry for entry in asked if have.get(entry) != wanted]
            else:
                differing = [entry for entry in asked if entry in have]
                if not differing:
                    seeing = ("Sys.Audit", *_modifying(path))
                    self.plan.unseen.append(Need(("/access", path), seeing, f"acl {path}"))
            if differing:
                self._change_acl(declared, path, wanted, differing, have)

    def _change_acl(
        self,
        declared: Declared,
        path: str,
        propagate: bool,
        differing: t.Sequence[Entry],
        have: t.Mapping[Entry, bool],
    ) -> None:
        roles = sorted({role for _kind, _holder, role in differing})
        params: dict[str, t.Any] = {"path": path, "roles": ",".join(roles)}
        for kind in ("user", "group", "token"):
            holders = sorted({holder for each, holder, _role in differing if each == kind})
            if holders:
                params[f"{kind}s"] = ",".join(holders)
        if self.wish.present:
            params["propagate"] = int(propagate)
        else:
            params["delete"] = 1
        step = Step("changed" if self.wish.present else "removed", "PUT", declared.place.path, params)
        before: dict[str, t.Any] = {}
        after: dict[str, t.Any] = {}
        for entry in differing:
            kind, holder, role = entry
            key = f"{path}: {role} for {kind} {holder}"
            before[key] = _propagation(have[entry]) if entry in have else None
            after[key] = _propagation(propagate) if self.wish.present else None
            step.add(key, before[key], after[key])
        self._add(step, declared.place, [Need((path,), _modifying(path), f"acl {path}")])
        self._diff(path, before, after)

    def plan_rules(self) -> None:
        """Rules of a firewall, which have places instead of names."""
        for place in self.wish.places:
            listed = [Rule(it.values, it.raw) for it in self.state.listed.get(place, [])]
            declared = [it for it in self.wish.objects if it.place == place]
            wanted = [self._with_mark(it.values, {}) for it in declared]
            wanted = [_only_significant(self.kind.fields, values) for values in wanted]
            moves = order_rules(listed, wanted, self.wish.present, self.wish.mark, self.wish.exclusive)
            needs = self._needs_of(place.scope.grants, UPDATE, Declared(place, {}), {}, None)
            for move in moves:
                step = Step(move.action, move.method, place.path + move.suffix, digest=move.method != "POST")
                step.params = self._rule_params(move.values, move.removed)
                if move.to is not None:
                    step.params["moveto"] = move.to
                label = label_of(place, [_rule_name(move.shown)])
                step.changes.append(Change(label, move.before, move.after, self._effect, f"{move.method} /{step.path}"))
                step.payload = {"list": place.path, "place": place, "expects": move.expects}
                self._add(step, place, needs)
            if moves:
                before = [_shown(self.kind.fields, rule.values) for rule in listed]
                after = [_shown(self.kind.fields, values) for values in moves[-1].result]
                self._diff(label_of(place, []), {"rules": before}, {"rules": after})

    def _rule_params(self, values: t.Mapping[str, t.Any], removed: t.Sequence[str]) -> dict[str, t.Any]:
        params = {name: sent(self.kind.fields[name], value) for name, value in values.items()}
        if removed:
            params["delete"] = ",".join(removed)
        return params

    # ----------------------------------------------------------------------------------------------------- applying

    def plan_apply(self) -> None:
        """What puts the changes into force, once."""
        apply = self.kind.apply
        if apply is None:
            return
        calls: dict[str, Place] = {}
        for place in dict.fromkeys([*(it.place for it in self.wish.objects), *self.wish.places]):
            if place in self.touched or self._waits(place):
                calls.setdefault(apply.path.format(**place.keys), place)
        for path, place in calls.items():
            if not self.wish.apply:
                self.plan.notes.append(f"Changes wait until PUT /{path} applies them.")
                continue
            step = Step("applied", "PUT", path)
            step.add(f"apply {path}", "pending", "applied")
            step.payload = {"apply": True}
            step.needs = self._needs_of([apply.grant], UPDATE, Declared(place, {}), {}, None)
            self.plan.steps.append(step)

    def _waits(self, place: Place) -> bool:
        """Whether changes are left from a run that was interrupted: of what is declared, or was the owner's."""
        wanted = {it.identity for it in self.wish.objects if it.place == place}
        mark = self.wish.mark if self.wish.exclusive else ""
        for it in self.state.listed.get(place, []):
            if it.waiting and (it.identity in wanted or is_marked(mark, it.values.get(self.kind.comment or ""))):
                return True
        changes = self.state.changes.get(place, "")
        if any(is_marked(mark, line[2:]) for line in changes.splitlines() if line.startswith("-#")):
            return True
        waiting = waiting_names(changes)
        return None in waiting or any(name is not None and (name,) in wanted for name in waiting)

    # ------------------------------------------------------------------------------------------------------- helpers

    @property
    def _effect(self) -> str:
        return PENDING if self.kind.apply and not self.wish.apply else LIVE

    def _fields(self, declared: Declared) -> dict[str, Field]:
        kind = self.kind
        if not kind.variants:
            return dict(kind.fields)
        if not kind.variant:
            return kind.fields_of(" ".join(declared.place.scope.keys))
        variant = declared.place.keys.get(kind.variant) or declared.values.get(kind.variant)
        return kind.fields_of(str(variant))

    def _with_mark(self, values: t.Mapping[str, t.Any], there: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        comment = self.kind.comment
        if not self.wish.mark or comment is None:
            return dict(values)
        return {**values, comment: marked(self.wish.mark, str(values.get(comment, "")))}

    @staticmethod
    def _names_in(path: str, names: t.Mapping[str, str]) -> dict[str, t.Any]:
        """The names that have to be parameters, because the path does not have them."""
        if "{id}" in path:
            return {}
        return {name: value for name, value in names.items() if f"{{{name}}}" not in path}

    def _path(self, template: str, declared: Declared, found: Actual | None = None) -> str:
        member = found.raw.get(self.kind.member_id) if found is not None and self.kind.member_id else None
        identity = str(member or (declared.identity[-1] if declared.identity else ""))
        names = {**declared.place.keys, **declared.names, "collection": declared.place.path, "id": identity}
        return template.format(**names)

    def _add(self, step: Step, place: Place, needs: t.Sequence[Need], steps: list[Step] | None = None) -> None:
        step.needs = list(needs)
        (self.plan.steps if steps is None else steps).append(step)
        self.touched[place] = True

    def _diff(self, label: str, before: dict[str, t.Any], after: dict[str, t.Any]) -> None:
        self.plan.diffs.append({"before_header": label, "after_header": label, "before": before, "after": after})

    def _needs(
        self, action: str, declared: Declared, values: t.Mapping[str, t.Any], found: Actual | None = None
    ) -> list[Need]:
        scope = declared.place.scope
        # Who does not see what there is takes it for new.
        sees = [scope.sees] if scope.sees and action == CREATE else []
        return self._needs_of([*scope.grants, *sees], action, declared, values, found)

    def _needs_of(
        self,
        grants: t.Iterable[Grant],
        action: str,
        declared: Declared,
        values: t.Mapping[str, t.Any],
        found: Actual | None,
    ) -> list[Need]:
        there = found.values if found else {}
        known: dict[str, t.Any] = {**there, **declared.place.keys, **declared.names, **values}
        known.update({f"found.{name}": value for name, value in there.items()})
        maps = {name: value for name, value in known.items() if isinstance(value, dict)}
        known.update({f"{name}.{sub}": item for name, value in maps.items() for sub, item in value.items()})
        if "userid" in known:
            known["realm"] = str(known["userid"]).rpartition("@")[2]
            if declared.names.get("userid") == self.user:
                grants = [grant for grant in grants if not grant.but_own]
        if "id" in known and self.kind.name == "replication_job":
            known["guest"] = str(known["id"]).partition("-")[0]
        why = f"{self.kind.name} {label_of(declared.place, declared.identity)}"
        needs = []
        for grant in grants:
            of_type = not grant.types or known.get("type") in (None, *grant.types)
            if action in grant.actions and of_type:
                needs += [Need(paths, grant.privileges, why) for paths in _choices(grant, known)]
        return needs


def _entry(it: Field, raw: dict[str, t.Any]) -> dict[str, t.Any]:
    """The normal form of an entry of a set; what it is when it is none that this collection knows."""
    try:
        return t.cast("dict[str, t.Any]", normal(it, [raw])[0])
    except InvalidValue:
        return raw


# What is sent for a text that is removed.
UNSET = {"empty": "", "blank": " "}
# The parts of an object that have requests of their own.
ATTACHED: dict[str, tuple[str, ...]] = {"members": ("vms", "storage", "allow-move"), "entries": ("cidrs",)}
# Who may change privileges on a path without Permissions.Modify (check_perm_modify of PVE/RPCEnvironment.pm).
_DELEGATES = {"/storage/": "Datastore.Allocate", "/vms/": "VM.Allocate", "/pool/": "Pool.Allocate"}


def _modifying(path: str) -> tuple[str, ...]:
    """The privileges of which each allows to change the access to a path."""
    return ("Permissions.Modify", *(privilege for top, privilege in _DELEGATES.items() if path.startswith(top)))


class _Difference:
    """How the fields of an object differ from what is declared.

    set: fields to be sent; removed: fields to be unset; fixed: fields that differ and cannot be changed; apart: secrets
    that have a request of their own.
    """

    def __init__(self, fields: t.Mapping[str, Field], values: t.Mapping[str, t.Any], found: Actual) -> None:
        self._fields, self._values, self._found = fields, values, found
        self.set: list[str] = []
        self.removed: list[str] = []
        self.fixed: list[str] = []
        self.apart: list[str] = []

    def find(self, with_secrets: bool) -> None:
        """Compare them all."""
        for name, it in self._fields.items():
            if it.passing:
                continue
            if it.compared:
                self._compare(name, it)
            elif name not in self._values:
                continue
            elif it.lasting:
                self._compare_lasting(name)
            elif with_secrets:
                (self.apart if it.apart else self.set).append(name)

    def _compare_lasting(self, name: str) -> None:
        there = self._found.raw.get(name)
        if there is None:
            self.set.append(name)
        elif not is_that_key(self._values[name], there):
            self.fixed.append(name)

    def _compare(self, name: str, it: Field) -> None:
        want, have = self._values.get(name), self._found.values.get(name)
        means = want if want is not None and significant(it, want) else None
        if means == have or (name not in self._values and it.kept):
            return
        if it.fixed:
            # A fixed field that is not declared is what Proxmox has chosen.
            if name in self._values:
                self.fixed.append(name)
        elif means is None:
            self.removed.append(name)
        else:
            self.set.append(name)


def entry_of(it: Actual) -> Entry:
    """What an entry of the access control list is about."""
    return str(it.raw.get("type")), str(it.raw.get("ugid")), str(it.raw.get("roleid"))


def _choices(grant: Grant, known: t.Mapping[str, t.Any]) -> list[tuple[str, ...]]:
    """Paths of which each time any one will do."""
    expanded = [_expand(template, {**dict(grant.otherwise), **known}) for template in grant.paths]
    if grant.each:
        return list(itertools.product(*filter(None, expanded)))
    paths = tuple(itertools.chain.from_iterable(expanded))
    return [paths] if paths else []


def _expand(template: str, known: t.Mapping[str, t.Any]) -> list[str]:
    """The paths of a template; none when it has a name that is not known."""
    paths = [template]
    while any("{" in path for path in paths):
        name = next(path for path in paths if "{" in path).partition("{")[2].partition("}")[0]
        value = known.get(name)
        if value is None:
            return []
        items = value if isinstance(value, (list, tuple)) else str(value).split(",")
        paths = [path.replace(f"{{{name}}}", str(item)) for path in paths for item in items]
    return paths


def _root_needs(fields: t.Mapping[str, Field], values: t.Mapping[str, t.Any], label: str) -> list[Need]:
    return [root_only(f"{label}: {name}") for name in values if name in fields and fields[name].root]


def _shown(fields: t.Mapping[str, Field], values: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    return {name: told(fields[name], value) if name in fields else value for name, value in values.items()}


def told_or_none(it: Field, value: t.Any) -> t.Any:
    """A normal form as results show it; None when there is none."""
    return None if value is None else told(it, value)


def _only_significant(fields: t.Mapping[str, Field], values: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    return {name: value for name, value in values.items() if significant(fields[name], value)}


def _propagation(propagate: bool) -> str:
    return "with propagation" if propagate else "without propagation"


def _rule_name(values: t.Mapping[str, t.Any]) -> str:
    named = [values[name] for name in ("type", "action", "macro", "proto", "dport") if name in values]
    what = " ".join(",".join(each) if isinstance(each, tuple) else str(each) for each in named)
    return f"{what} ({values['comment']})" if "comment" in values else what


def _plain_rule(rule: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    return {name: value for name, value in rule.items() if name not in ("digest", "pos")}


def to_dict(kind: Kind, it: Actual) -> dict[str, t.Any]:
    """An object as results show it, and as a playbook may declare it."""
    fields = {**kind.fields, **({} if not kind.variants else kind.fields_of(_variant_of(kind, it)))}
    return {**it.place.keys, **it.names, **_shown(fields, it.values)}


def _variant_of(kind: Kind, it: Actual) -> str:
    if not kind.variant:
        return " ".join(it.place.scope.keys)
    return str(it.place.keys.get(kind.variant) or it.raw.get(kind.variant) or "")


def waiting_names(changes: str) -> set[str | None]:
    """The interfaces that the difference between two files of a node's network is about; None for unknown ones.

    changes: what ``diff -u`` says of ``/etc/network/interfaces`` (``ccache_compute_diff`` of PVE/INotify.pm).
    """
    names: set[str | None] = set()
    current: str | None = None
    for line in changes.splitlines():
        if line.startswith(("---", "+++")):
            continue
        if line.startswith("@@"):
            current = None
            continue
        words = line[1:].split()
        if (len(words) > 1 and words[0] in ("auto", "iface")) or (words and words[0].startswith("allow-")):
            current = words[1] if len(words) > 1 else None
        if line[:1] in "+-" and words:
            names.add(current)
    return names
