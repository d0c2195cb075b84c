# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the container modules return."""

from __future__ import annotations

import typing as t

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import combined
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.fleet import Outcome
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.rollout import Report


def container_result(outcome: Outcome, check_mode: bool) -> dict[str, t.Any]:
    """The result of ``lxc_container``."""
    result = outcome.as_dict(check_mode)
    result["diff"] = outcome.diff()
    result["warnings"] = outcome.warnings
    if outcome.failure:
        result["msg"] = outcome.failure.sentence
        result["failure"] = outcome.failure.as_dict()
    return result


def fleet_result(
    outcomes: t.Sequence[Outcome], check_mode: bool, rollouts: t.Sequence[Report] = ()
) -> dict[str, t.Any]:
    """The result of ``lxc_fleet``: one entry for each container, and the failure of all that failed.

    rollouts: what became of the groups that were changed a few at a time.
    """
    entries = []
    for outcome in outcomes:
        identity = outcome.after or outcome.before
        entry = {
            "hostname": outcome.declared.hostname or (identity.hostname if identity else None),
            "vmid": identity.vmid if identity else outcome.declared.vmid,
            "node": identity.node if identity else outcome.declared.node,
            "pruned": outcome.pruned,
            **outcome.as_dict(check_mode),
        }
        if outcome.failure:
            entry["failure"] = outcome.failure.as_dict()
        entries.append(entry)
    failed = [(outcome.declared.label, outcome.failure) for outcome in outcomes if outcome.failure]
    result: dict[str, t.Any] = {
        "changed": any(outcome.changed for outcome in outcomes),
        "containers": entries,
        "summary": _summary(outcomes),
        "diff": [
            {"before_header": outcome.declared.label, "after_header": outcome.declared.label, **outcome.diff()}
            for outcome in outcomes
            if outcome.changed
        ],
        "rollouts": [report.as_dict() for report in rollouts],
        "warnings": [warning for outcome in outcomes for warning in outcome.warnings],
    }
    if failed:
        failure = combined(failed, len(outcomes))
        stopped = [report.sentence for report in rollouts if report.sentence]
        if stopped and len(outcomes) > 1:
            failure.hint = " ".join([*stopped, "Run again when the cause is removed."])
        result["msg"] = failure.sentence
        result["failure"] = failure.as_dict()
    return result


def _summary(outcomes: t.Sequence[Outcome]) -> dict[str, int]:
    def count(test: t.Callable[[Outcome], bool]) -> int:
        return sum(1 for outcome in outcomes if not outcome.failure and test(outcome))

    return {
        "created": count(lambda o: o.changed and o.before is None and not o.pruned),
        "changed": count(lambda o: o.changed and o.before is not None and not o.pruned),
        "unchanged": count(lambda o: not o.changed and not o.pruned),
        "pruned": count(lambda o: o.changed and o.pruned),
        "failed": sum(1 for outcome in outcomes if outcome.failure),
    }
