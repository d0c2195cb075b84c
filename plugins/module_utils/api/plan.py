# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan is made of: changes, and the steps that make them. Plain data, no I/O."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.access import Need

LIVE = "live"
RESTART = "restart"
RECREATE = "recreate"


@dataclass
class Change:
    """One difference: ``before`` and ``after`` as a diff shows them.

    request: the request that makes the change (``PUT /nodes/pve1/lxc/201/config``); None when it is not to be made,
    and then ``hint`` says what would allow it.
    """

    key: str
    before: t.Any
    after: t.Any
    effect: str = LIVE
    request: str | None = None
    hint: str | None = None

    def as_dict(self) -> dict[str, t.Any]:
        """One entry of a module's ``plan``."""
        entry = {name: getattr(self, name) for name in ("key", "before", "after", "effect", "request")}
        if self.hint:
            entry["hint"] = self.hint
        return entry


@dataclass
class Step:
    """One request. ``{vmid}`` in the path stands for an id that is chosen when the step is sent.

    action: what it is, in the words that progress lines use.
    digest: whether the configuration's digest is sent along.
    needs: the privileges.
    check: what must be true of the answer of a read before the plan goes on (``CHECKS`` in apply).
    payload: what a step needs that is more than one request.
    on_failure: what is sent when it fails, so that a container which was stopped for it runs again.
    """

    action: str
    method: str
    path: str
    params: dict[str, t.Any] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    needs: list[Need] = field(default_factory=list)
    digest: bool = False
    check: str | None = None
    payload: t.Any = None
    on_failure: Step | None = None

    def add(self, key: str, before: t.Any, after: t.Any, effect: str = LIVE) -> None:
        """Note a change that this step makes."""
        self.changes.append(Change(key, before, after, effect, f"{self.method} /{self.path}"))


@dataclass
class BasePlan:
    """The steps in their order, and what is not going to be done.

    notes: what is worth saying but changes nothing.
    """

    steps: list[Step] = field(default_factory=list)
    blocked: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """True when there is something to be done."""
        return bool(self.steps)

    @property
    def changes(self) -> list[Change]:
        """All differences, those to be made first."""
        return [change for step in self.steps for change in step.changes] + self.blocked

    @property
    def needs(self) -> list[Need]:
        """The privileges that the steps need."""
        return [need for step in self.steps for need in step.needs]

    def diff(self, label: str) -> dict[str, t.Any]:
        """What changes, for ``--diff``; ``label`` is of what."""
        return {
            "before_header": label,
            "after_header": label,
            "before": {change.key: change.before for change in self.changes},
            "after": {change.key: change.after for change in self.changes},
        }
