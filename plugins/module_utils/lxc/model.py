# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A container as it is, and a plan for it. Plain data, no I/O."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.plan import BasePlan
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties

# The place of an id that is chosen when a step is sent.
VMID = "{vmid}"
# The same for a container that holds the volumes of another one.
HOLDER = "{holder}"


@dataclass
class Plan(BasePlan):
    """The plan for a container.

    losses: what of an image cannot be expressed.
    converge: the new container has to be read, and planned for again, after the steps (clone, restore and image).
    """

    losses: list[dict[str, t.Any]] = field(default_factory=list)
    converge: bool = False
    running_after: bool = False

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
    has_snapshots: read only where it matters. ``parent`` does not tell: it goes with the snapshot that it names.
    """

    vmid: int
    node: str
    status: str = "stopped"
    current: dict[str, t.Any] = field(default_factory=dict)
    pending: dict[str, t.Any] = field(default_factory=dict)
    digest: str | None = None
    pool: str | None = None
    has_snapshots: bool = False

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
