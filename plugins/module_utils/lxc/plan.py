# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan: what has to be done so that a container is as declared. Pure functions, no I/O.

A plan is a list of steps, each one request, and each carries the changes that it makes. Check mode is the plan without
the steps being sent; ``changed`` is "there is a step". What differs but is not to be done (it needs an option that is
not given, or a new container) is in the plan as a change without a request.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.access import Need
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.plan import Step
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.converge import (
    converge_plan,
    refuse_protected,
    refuse_running,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.creation import plan_creation, plan_overwrite
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.image import (
    Artefact,
    Found,
    Mark,
    change_of,
    differs,
    losses,
    mapped,
    mark_of,
    mount_paths,
    refuse_foreign_volumes,
    settle,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import Actual, Plan, is_volume_key
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.privileges import vm_paths
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.recreate import (
    Standing,
    plan_recreation,
    refuse_interrupted,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import Declared


@dataclass(frozen=True)
class ImageFacts:
    """What was found out about the image that is declared.

    now: the digest that its reference has; None when nobody had to be asked.
    made_of: the image of which the container was made, when that matters.
    artefact: the image on its storage, when a container is to be made of it.
    standing: what stands beside a container that is to be made anew.
    """

    now: str | None = None
    made_of: Found | None = None
    artefact: Artefact | None = None
    standing: Standing = field(default_factory=Standing)


def make_plan(
    declared: Declared, actual: Actual | None, source: Actual | None = None, facts: ImageFacts | None = None
) -> Plan:
    """What has to be done.

    actual: the container as it is, or None when there is none.
    source: what a clone or restore will be made of, when known, so that the plan can say what follows.
    facts: of the image.

    Raises:
        Failure: the declaration cannot be fulfilled, or only with a loss of data.
    """
    if declared.state == "absent":
        return Plan() if actual is None else _plan_absent(declared, actual)
    facts = facts or ImageFacts()
    mark = mark_of(actual.config.get("description")) if actual else None
    if actual is None and facts.standing.holder is None:
        plan = plan_creation(declared, source, facts.artefact)
    elif actual is not None and declared.restore and declared.restore.force:
        plan = plan_overwrite(declared, declared.restore, actual, source)
    elif actual is None or is_to_be_remade(declared, mark, facts.now):
        refuse_interrupted(declared, facts.standing.holder.vmid if facts.standing.holder else None)
        plan = plan_recreation(declared, actual, t.cast("Artefact", facts.artefact), facts.standing)
    else:
        refuse_interrupted(declared, mark.holder if mark else None)
        other = declared.image is not None and differs(declared.image, mark, facts.now)
        plan = converge_plan(settle(declared, actual, made_of=facts.made_of, renamed=not other), actual)
        if other:
            plan.blocked.append(change_of(declared, mark, facts.now))
    if facts.artefact:
        paths = mount_paths(declared)
        refuse_foreign_volumes(facts.artefact.spec, facts.artefact.found)
        plan.losses = losses(mapped(facts.artefact.spec, facts.artefact.found, paths), facts.artefact)
    if actual is None:
        return plan
    _refuse_locked(actual, plan)
    return plan


def is_to_be_remade(declared: Declared, mark: Mark | None, now: str | None) -> bool:
    """True when an existing container is to be made anew, or when that was begun."""
    if not declared.image or not declared.recreate:
        return False
    return bool(mark and mark.holder) or differs(declared.image, mark, now)


def _plan_absent(declared: Declared, actual: Actual) -> Plan:
    refuse_protected(actual, "removed")
    refuse_running(declared, actual, "removed")
    params: dict[str, t.Any] = {}
    if actual.running:
        params["force"] = True
    if declared.purge:
        params["purge"] = True
    step = Step("destroyed", "DELETE", actual.path, params)
    step.needs = [Need(vm_paths(actual.vmid, actual.pool), ("VM.Allocate",), "remove the container")]
    step.add("state", "running" if actual.running else "present", "absent")
    for key in sorted(filter(is_volume_key, actual.config), key=properties.order_of):
        step.add(key, actual.config[key], None)
    plan = Plan([step])
    _refuse_locked(actual, plan)
    return plan


def _refuse_locked(actual: Actual, plan: Plan) -> None:
    if plan.steps and actual.lock:
        raise Failure(
            "locked",
            f"{actual.hostname} ({actual.vmid}) is locked ({actual.lock}).",
            "Wait for the operation that holds the lock, or remove a stale lock on the node with 'pct unlock'.",
            lock=actual.lock,
            vmid=actual.vmid,
        )
