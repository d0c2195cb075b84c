# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which replicas of a group are changed when, so that enough of them keep working. Pure functions, no I/O."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import invalid

ORDERS = ("ascending", "descending")
ON_FAILURE = ("stop", "rollback")
# A number of replicas, or a share of them.
SHARE = r"\d+|\d{1,2}%|100%"

STRATEGY_OPTIONS: dict[str, t.Any] = {
    "group": {"type": "str", "required": True},
    "max_unavailable": {"type": "str", "default": "1"},
    "order": {"type": "str", "choices": list(ORDERS), "default": "ascending"},
    "on_failure": {"type": "str", "choices": list(ON_FAILURE), "default": "stop"},
    "rollback_within": {"type": "int", "default": 3600},
}


@dataclass(frozen=True)
class Strategy:
    """How the replicas of a group are changed.

    max_unavailable: a number, or a share of the replicas such as ``25%``.
    rollback_within: seconds after which a snapshot is too old to be rolled back to without being asked for.
    """

    group: str
    max_unavailable: str = "1"
    order: str = "ascending"
    on_failure: str = "stop"
    rollback_within: int = 3600

    def limit(self, replicas: int, surge: int) -> int:
        """How many replicas may be out of service, of so many that are wanted.

        A share is rounded down. What would allow nothing at all, without another replica in their place, allows one.
        """
        share = self.max_unavailable.endswith("%")
        count = int(self.max_unavailable.rstrip("%"))
        count = count * replicas // 100 if share else count
        return max(count, 0 if surge else 1) if share else count


def rollout_options() -> dict[str, t.Any]:
    """The part of a fleet's argument specification that is about roll-outs."""
    return {"rollouts": {"type": "list", "elements": "dict", "default": [], "options": STRATEGY_OPTIONS}}


def strategies_of(entries: t.Sequence[t.Mapping[str, t.Any]]) -> list[Strategy]:
    """The strategies that a task declares.

    Raises:
        Failure: ``invalid_option``, naming the option and what would be right.
    """
    strategies: dict[str, Strategy] = {}
    for index, entry in enumerate(entries):
        where = f"rollouts[{index}] ({entry['group']})."
        if not entry["group"]:
            raise invalid("group", "it is empty", where)
        if entry["group"] in strategies:
            raise invalid("group", "it is in the list more than once", where)
        if not re.fullmatch(SHARE, entry["max_unavailable"]):
            raise invalid("max_unavailable", f"{entry['max_unavailable']!r} is neither a number nor a share", where)
        if entry["rollback_within"] < 1:
            raise invalid("rollback_within", f"{entry['rollback_within']} seconds are too few", where)
        strategies[entry["group"]] = Strategy(**entry)
    return list(strategies.values())


@dataclass(frozen=True)
class Replica:
    """A replica in the eyes of a roll-out.

    running: all its containers run. healthy: as far as that can be checked, they work.
    changes: something is still to be done to it.
    surge: it is there only while others are changed.
    harmless: what is to be done to it does not concern its service.
    """

    name: str
    running: bool
    healthy: bool
    changes: bool
    surge: bool = False
    harmless: bool = False


@dataclass(frozen=True)
class Batch:
    """What comes next: replicas that are changed at once. None of them, and ``blocking`` ones: nothing may be."""

    names: tuple[str, ...] = ()
    blocking: tuple[str, ...] = ()


def next_batch(replicas: t.Sequence[Replica], strategy: Strategy) -> Batch:
    """The replicas that may be changed now.

    Those that do not run go first and all at once, for nothing can be taken away from them, and with them the surge
    replicas and what is harmless. Then those that run but are not healthy, then the others; never more than leave all
    but ``max_unavailable`` replicas in service, not counting what surge replicas make up for. That holds for unhealthy
    ones, too: a check that is declared anew may judge them by what they are to become.

    replicas: all of the group, by their numbers.
    """
    pending = [replica for replica in replicas if replica.changes]
    if not pending:
        return Batch()
    first = [replica.name for replica in pending if replica.surge or replica.harmless or not replica.running]
    if first:
        return Batch(tuple(first))
    wanted = [replica for replica in replicas if not replica.surge]
    surge = [replica for replica in replicas if replica.surge]
    down = tuple(replica.name for replica in wanted if not replica.healthy and not replica.changes)
    room = strategy.limit(len(wanted), len(surge)) + sum(replica.healthy for replica in surge) - len(down)
    if room < 1:
        return Batch(blocking=down or tuple(replica.name for replica in surge if not replica.healthy))
    if strategy.order == "descending":
        pending.reverse()
    pending.sort(key=lambda replica: replica.healthy)
    return Batch(tuple(replica.name for replica in pending[:room]))


def schedule(replicas: t.Sequence[Replica], strategy: Strategy) -> list[Batch]:
    """All batches, when each of them succeeds; the last one may be one that is blocked."""
    replicas = list(replicas)
    batches: list[Batch] = []
    while True:
        batch = next_batch(replicas, strategy)
        if not batch.names and not batch.blocking:
            return batches
        batches.append(batch)
        if not batch.names:
            return batches
        replicas = [
            replace(replica, running=True, healthy=True, changes=False) if replica.name in batch.names else replica
            for replica in replicas
        ]


@dataclass
class Report:
    """What became of one roll-out.

    batches: the names of the replicas in each, in their order.
    done: replicas that are as declared now. failed: those that could not be made so, and why.
    kept: those that were left as they were, because of it.
    blocking: replicas that do not work though they are as declared, so that no other may be touched.
    """

    group: str
    on_failure: str
    batches: list[list[str]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    failed: list[dict[str, t.Any]] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    blocking: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, t.Any]:
        """One entry of the module's ``rollouts``."""
        return {**vars(self)}

    @property
    def sentence(self) -> str:
        """Why it stopped; empty when it did not."""
        if self.failed:
            reason = f"{_listed([str(entry['replica']) for entry in self.failed])} could not be made as declared"
        elif self.blocking:
            are = "is" if len(self.blocking) == 1 else "are"
            reason = f"{_listed(self.blocking)} {are} out of service, and no other replica may be as well"
        else:
            return ""
        kept = f" {_listed(self.kept)} {'was' if len(self.kept) == 1 else 'were'} left alone." if self.kept else ""
        return f"The roll-out of {self.group} stopped: {reason}.{kept}"


def _listed(names: t.Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
