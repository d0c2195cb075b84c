# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of a firewall's rules: whatever was there, the requests bring about what is declared."""

from __future__ import annotations

import typing as t

from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.rules import Move, Rule, order_rules
from hypothesis import given
from hypothesis import strategies as st

Values = dict[str, t.Any]
MARK = "[own]"


def rule(number: int, comment: str | None = None) -> Values:
    values: Values = {"type": "in", "action": "ACCEPT", "dport": str(number)}
    return {**values, "comment": comment} if comment else values


def carried_out(there: t.Sequence[Values], moves: t.Sequence[Move]) -> list[Values]:
    """What Proxmox makes of the requests (register_create_rule and others of PVE/API2/Firewall/Rules.pm)."""
    rules = [dict(each) for each in there]
    for move in moves:
        assert rules == move.expects
        if move.method == "POST":
            rules.insert(0, dict(move.values))
        else:
            place = int(move.suffix[1:])
            if move.method == "DELETE":
                del rules[place]
            elif move.to is not None:
                assert move.to != place
                new = []
                for index, each in enumerate(rules):
                    if index == place:
                        continue
                    if index == move.to:
                        new.append(rules[place])
                    new.append(each)
                if move.to >= len(rules):
                    new.append(rules[place])
                rules = new
            else:
                changed = {**rules[place], **move.values}
                rules[place] = {
                    name: value
                    for name, value in changed.items()
                    if name not in move.removed and (name, value) != ("enable", False)
                }
        assert rules == move.result
    return rules


FOREIGN = st.lists(st.integers(0, 99).map(lambda n: rule(1000 + n)), max_size=5)
OWN = st.lists(st.integers(0, 6), unique=True, max_size=6)


@given(data=st.data(), foreign=FOREIGN, before=OWN, after=OWN, named=st.booleans())
def test_the_declared_rules_are_there_in_their_order(
    data: st.DataObject, foreign: list[Values], before: list[int], after: list[int], named: bool
) -> None:
    def own(number: int, version: int = 0) -> Values:
        return rule(number + 10 * version, f"{MARK} {number}" if named else MARK)

    there = [own(number, data.draw(st.integers(0, 1)) if named else 0) for number in before]
    for each in foreign:
        there.insert(data.draw(st.integers(0, len(there))), each)
    wanted = [own(number) for number in after]
    for exclusive in (False, True):
        moves = order_rules([Rule(dict(each)) for each in there], wanted, True, MARK, exclusive)
        result = carried_out(there, moves)
        assert [each for each in result if each in wanted] == wanted
        # Others keep their order.
        assert [each for each in result if each in foreign] == [each for each in there if each in foreign]
        if exclusive:
            assert [each for each in result if each not in foreign] == wanted
        again = order_rules([Rule(dict(each)) for each in result], wanted, True, MARK, exclusive)
        assert again == []
        # No more is moved than is out of order, and nothing is made that was there.
        assert sum(move.method == "POST" for move in moves) == sum(
            own(number) not in there and not (named and number in before) for number in after
        )


@given(data=st.data(), foreign=FOREIGN, before=OWN, after=OWN)
def test_declared_rules_that_have_to_go_are_gone(
    data: st.DataObject, foreign: list[Values], before: list[int], after: list[int]
) -> None:
    there = [rule(number) for number in before]
    for each in foreign:
        there.insert(data.draw(st.integers(0, len(there))), each)
    wanted = [rule(number) for number in after]
    result = carried_out(there, order_rules([Rule(dict(each)) for each in there], wanted, False))
    assert result == [each for each in there if each not in wanted]


def test_one_that_is_out_of_order_is_one_move() -> None:
    there = [rule(number) for number in (1, 2, 3, 4, 0)]
    moves = order_rules([Rule(each) for each in there], [rule(number) for number in range(5)], True)
    assert [(move.method, move.suffix, move.to) for move in moves] == [("PUT", "/4", 0)]


def test_a_comment_that_two_have_means_neither() -> None:
    there = [rule(1, "web"), rule(2, "web")]
    moves = order_rules([Rule(each) for each in there], [rule(3, "web")], True)
    assert [move.method for move in moves] == ["POST"]
    moves = order_rules([Rule(rule(1, "web"))], [rule(3, "web"), rule(4, "web")], True)
    assert [move.method for move in moves] == ["POST", "POST"]


def test_a_rule_that_is_switched_off_is_told_so() -> None:
    moves = order_rules([Rule({**rule(1, "web"), "enable": True})], [rule(1, "web")], True)
    assert [(move.values, move.removed) for move in moves] == [({"enable": False}, [])]
