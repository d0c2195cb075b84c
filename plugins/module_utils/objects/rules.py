# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of a firewall's rules: which requests make a list of rules another one. Plain data, no I/O.

Rules have no names. A declared rule is the one that says the same, or else the same but for being on or off, or else
the only one with the same comment. What is not declared stays where it is among the others.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.declared import is_marked

Values = t.Mapping[str, t.Any]


@dataclass
class Rule:
    """A rule that is there: its fields in their normal form, and as Proxmox tells them."""

    values: dict[str, t.Any]
    raw: dict[str, t.Any] = field(default_factory=dict)


@dataclass
class Move:
    """One request that changes a list of rules.

    suffix: what the path has after that of the list; to: the position before which the rule goes.
    values, removed: the fields to be sent, and those to be unset.
    expects: the rules of which the list has to consist before it; result: those after it.
    """

    action: str
    method: str
    suffix: str
    shown: Values
    before: t.Any
    after: t.Any
    expects: list[dict[str, t.Any]]
    result: list[dict[str, t.Any]]
    values: Values = field(default_factory=dict)
    removed: t.Sequence[str] = ()
    to: int | None = None


def order_rules(
    listed: t.Sequence[Rule], wanted: t.Sequence[Values], present: bool, mark: str = "", exclusive: bool = False
) -> list[Move]:
    """The requests, in their order.

    wanted: the declared rules, in their order.
    present: whether they have to be there, or not.
    mark: how the comments of the owner's rules begin; empty for no owner.
    exclusive: whether rules of the owner that are not declared have to go.
    """
    matches = _match(listed, wanted, mark, by_comment=present)
    work = _Work(listed)
    if not present:
        for place in sorted(matches.values(), reverse=True):
            work.remove(work.items[place])
        return work.moves
    kept = set(matches.values())
    strays = [
        work.by_place[place]
        for place, rule in enumerate(listed)
        if exclusive and place not in kept and is_marked(mark, rule.values.get("comment"))
    ]
    _arrange(work, wanted, {number: work.by_place[place] for number, place in matches.items()})
    # Last, so that what was let in by an old rule is let in by its successor before.
    for item in reversed(strays):
        work.remove(item)
    return work.moves


def _match(listed: t.Sequence[Rule], wanted: t.Sequence[Values], mark: str, by_comment: bool) -> dict[int, int]:
    """For each declared rule that is there, its position."""
    found: dict[int, int] = {}
    for says in (dict, _without_switch):
        for number, values in enumerate(wanted):
            for place, rule in enumerate(listed):
                if number not in found and place not in found.values() and says(rule.values) == says(values):
                    found[number] = place
    if by_comment:
        for number, values in enumerate(wanted):
            comment = values.get("comment")
            if (
                number in found
                or comment in (None, "", mark)
                or sum(each.get("comment") == comment for each in wanted) > 1
            ):
                continue
            alike = [place for place, rule in enumerate(listed) if rule.values.get("comment") == comment]
            if len(alike) == 1 and alike[0] not in found.values():
                found[number] = alike[0]
    return found


def _without_switch(values: Values) -> dict[str, t.Any]:
    """What a rule says, but for being on or off."""
    return {name: value for name, value in values.items() if name != "enable"}


def _arrange(work: _Work, wanted: t.Sequence[Values], there: dict[int, _Item]) -> None:
    """Move, create and change until the declared rules are in their order; as few as possible are moved."""
    in_place = _longest_rise([(number, work.position(there[number])) for number in sorted(there)])
    following: _Item | None = None
    # From the last to the first, each before the one that follows it; the last goes where it is, or to the top.
    settled: dict[int, _Item] = {number: there[number] for number in in_place}
    for number in range(len(wanted) - 1, -1, -1):
        if number in settled:
            following = settled[number]
            work.change(following, wanted[number])
            continue
        previous = next((settled[each] for each in range(number - 1, -1, -1) if each in settled), None)
        if following is not None:
            target = work.position(following)
        else:
            target = work.position(previous) + 1 if previous is not None else 0
        item = there.get(number)
        # Proxmox puts a new rule before all others. It is off until it is where it belongs.
        off = item is None and target > 0
        if item is None:
            item = work.create(_without_switch(wanted[number]) if off else wanted[number])
            target += 1 if off else 0
        if work.position(item) != target and work.position(item) + 1 != target:
            work.move(item, target)
        work.change(item, wanted[number])
        settled[number] = following = item


def _longest_rise(pairs: t.Sequence[tuple[int, int]]) -> list[int]:
    """Of (number, position) by number, the numbers of a longest run in which the positions rise."""
    best: list[list[int]] = []
    for index, (_number, position) in enumerate(pairs):
        runs = [best[before] for before in range(index) if pairs[before][1] < position]
        best.append([*max(runs, key=len, default=[]), index])
    longest = max(best, key=len, default=[])
    return [pairs[index][0] for index in longest]


@dataclass(eq=False)
class _Item:
    values: dict[str, t.Any]


class _Work:
    """The list as it is after the requests so far."""

    def __init__(self, listed: t.Sequence[Rule]) -> None:
        self.items = [_Item(dict(rule.values)) for rule in listed]
        self.by_place = list(self.items)
        self.moves: list[Move] = []

    def position(self, item: _Item) -> int:
        return next(place for place, each in enumerate(self.items) if each is item)

    def _as_values(self) -> list[dict[str, t.Any]]:
        return [dict(item.values) for item in self.items]

    def remove(self, item: _Item) -> None:
        place, expects = self.position(item), self._as_values()
        self.items.remove(item)
        self.moves.append(
            Move("removed", "DELETE", f"/{place}", item.values, item.values, None, expects, self._as_values())
        )

    def change(self, item: _Item, values: Values) -> None:
        if item.values == values:
            return
        place, expects, before = self.position(item), self._as_values(), dict(item.values)
        new = {name: value for name, value in values.items() if before.get(name) != value}
        gone = [name for name in before if name not in values]
        # Zero is what the field "enable" has when a rule is off; it cannot be removed.
        if "enable" in gone:
            gone.remove("enable")
            new["enable"] = False
        item.values = dict(values)
        shown = {name: before.get(name) for name in sorted({*new, *gone})}
        after = {name: values.get(name) for name in sorted({*new, *gone})}
        self.moves.append(
            Move("changed", "PUT", f"/{place}", values, shown, after, expects, self._as_values(), new, gone)
        )

    def create(self, values: Values) -> _Item:
        """A new rule, which Proxmox puts before all others."""
        expects, item = self._as_values(), _Item(dict(values))
        self.items.insert(0, item)
        self.moves.append(
            Move("created", "POST", "", values, None, dict(values), expects, self._as_values(), dict(values))
        )
        return item

    def move(self, item: _Item, target: int) -> None:
        """Put a rule before the one that is now at a position (``register_update_rule`` of PVE/API2/Firewall)."""
        place, expects = self.position(item), self._as_values()
        self.items.remove(item)
        self.items.insert(target - 1 if target > place else target, item)
        where = {"position": place}, {"position": self.position(item)}
        self.moves.append(Move("moved", "PUT", f"/{place}", item.values, *where, expects, self._as_values(), to=target))
