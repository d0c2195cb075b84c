# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan is made of: changes and steps, and the container that it is made for. Plain data, no I/O."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.access import Need
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties

LIVE = "live"
RESTART = "restart"
RECREATE = "recreate"

# The place of an id that is chosen when a step is sent.
VMID = "{vmid}"
# The same for a container that holds the volumes of another one.
HOLDER = "{holder}"


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

    def add(self, key: str, before: t.Any, after: t.Any, effect: str = LIVE) -> None:
        """Note a change that this step makes."""
        self.changes.append(Change(key, before, after, effect, f"{self.method} /{self.path}"))


@dataclass
class Plan:
    """The steps in their order, and what is not going to be done.

    converge: the new container has to be read, and planned for again, after the steps (clone, restore and image).
    notes: what is worth saying but changes nothing.
    losses: what of an image cannot be expressed.
    """

    steps: list[Step] = field(default_factory=list)
    blocked: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    losses: list[dict[str, t.Any]] = field(default_factory=list)
    converge: bool = False
    running_after: bool = False

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

    def extend(self, other: Plan) -> None:
        """Take over what another plan does after this one."""
        self.steps += other.steps
        self.blocked += other.blocked
        self.notes += other.notes
        self.running_after = other.running_after


@dataclass
class Actual:
    """A container as it is.

    current: what is in force, as the API's texts.
    pending: what waits for the next stop: a text, or None for a key to be removed.
    pool: the pool it is in; None when it is in none or was not read.
    """

    vmid: int
    node: str
    status: str = "stopped"
    current: dict[str, t.Any] = field(default_factory=dict)
    pending: dict[str, t.Any] = field(default_factory=dict)
    digest: str | None = None
    pool: str | None = None

    @property
    def path(self) -> str:
        """Its path in the API."""
        return f"nodes/{self.node}/lxc/{self.vmid}"

    @property
    def running(self) -> bool:
        """True when it runs."""
        return self.status == "running"

    @property
    def config(self) -> dict[str, t.Any]:
        """The configuration that it has after its next stop."""
        merged = {**self.current, **{key: value for key, value in self.pending.items() if value is not None}}
        return {key: value for key, value in merged.items() if self.pending.get(key, "") is not None}

    @property
    def hostname(self) -> str:
        """Its hostname; Proxmox shows ``CT101`` when there is none."""
        return str(self.current.get("hostname") or f"CT{self.vmid}")

    @property
    def lock(self) -> str | None:
        """The lock that an operation holds."""
        return self.current.get("lock")

    @property
    def is_template(self) -> bool:
        """True for a template."""
        return properties.read("template", self.current.get("template")) is True

    @property
    def is_protected(self) -> bool:
        """True when Proxmox refuses to remove it or its volumes."""
        return properties.read("protection", self.current.get("protection")) is True


def waiting_keys(actual: Actual) -> list[str]:
    """Keys whose new value waits for the next stop of a running container."""
    return sorted(actual.pending, key=properties.order_of) if actual.running else []


def mounts_of(actual: Actual) -> list[tuple[str, t.Any]]:
    """The root volume and mount points, key and text."""
    return [
        (key, text)
        for key, text in actual.config.items()
        if properties.is_mount(key) and isinstance(properties.read(key, text), dict)
    ]


def is_volume_key(key: str) -> bool:
    """True for ``rootfs``, ``mpN`` and ``unusedN``."""
    return properties.is_mount(key) or key.startswith("unused")
