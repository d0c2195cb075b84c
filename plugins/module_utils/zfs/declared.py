# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the module ``zfs_checkpoint`` does with its options."""

from __future__ import annotations

import typing as t

from ..api.errors import Failure
from ..node.commands import Run, run_here
from .checkpoint import PREFIX, Outcome, check_keep, check_tag, hold, prune, remove, take
from .clone import Target, clone
from .host import DEFAULT_PATTERN, Host, Zfs, find_host
from .model import Checkpoint
from .recovery import recover
from .restore import restore
from .store import STATE, Store

STATES = ("present", "restored", "absent")


def container_options() -> dict[str, t.Any]:
    """The options that say which containers are meant."""
    return {
        "vmids": {"type": "list", "elements": "str", "default": []},
        "datasets": {"type": "list", "elements": "str", "default": []},
        "dataset_pattern": {"type": "str", "default": DEFAULT_PATTERN},
    }


def containers_meant(params: t.Mapping[str, t.Any], run: Run = run_here) -> tuple[Host, list[str]]:
    """The host, and the ids that are meant; none for all.

    Raises:
        Failure: ``invalid_option``.
    """
    if params["vmids"] and params["datasets"]:
        raise Failure("invalid_option", "vmids and datasets exclude each other.")
    host = find_host(Zfs(run), run, params["datasets"], params["dataset_pattern"])
    ids = list(dict.fromkeys(params["vmids"])) or (host.ids() if params["datasets"] else [])
    for container_id in ids:
        if not container_id or "/" in container_id or container_id.startswith(("-", ".")):
            raise Failure("invalid_option", f"{container_id!r} cannot be the id of a container.")
    return host, ids


def run_declared(params: t.Mapping[str, t.Any], check_mode: bool, store: Store | None = None) -> dict[str, t.Any]:
    """The result of ``zfs_checkpoint``.

    Raises:
        Failure: what stands against it. Nothing was changed then, but for what an interrupted run had left.
    """
    _check(params)
    host, ids = containers_meant(params)
    if not ids:
        raise Failure("invalid_option", "vmids: give at least one container (or datasets, without Proxmox).")
    store = store or Store(STATE)
    results = Results(ids)
    made = [params["clone_to"]["vmid"]] if params["clone_to"] else []
    for entry in recover(host, store, [*ids, *made], check_mode, params["lose"]):
        results.add_dicts([{**entry, "container": entry["container"] if entry["container"] in ids else ids[0]}])
    if check_mode and results.changed:
        # What follows is read from the state after that.
        return results.as_dict()
    if params["state"] == "restored":
        results.add_dicts(
            restore(
                host,
                store,
                ids,
                params["name"],
                mode=params["mode"],
                safety=params["safety"],
                lose=params["lose"],
                config=params["config"],
                check_mode=check_mode,
                memory=params["memory"],
            )
        )
    elif params["clone_to"]:
        wanted = params["clone_to"]
        target = Target(wanted["vmid"], wanted["hostname"], wanted["promote"])
        results.add(clone(host, store, ids[0], params["name"], target, check_mode), ids[0])
    elif params["state"] == "present":
        _present(host, store, ids, params, check_mode, results)
    elif params["name"]:
        _released(host, store, ids, params, check_mode, results)
        results.add_all(remove(host, store, ids, params["name"], check_mode, expected=results.expected))
    if params["keep"] and params["state"] != "restored":
        _pruned(host, store, ids, params, check_mode, results)
    return results.as_dict()


def _check(params: t.Mapping[str, t.Any]) -> None:
    state = params["state"]
    if state == "absent" and not params["name"] and not params["keep"]:
        raise Failure("invalid_option", "state: absent needs name (which checkpoint) or keep (how many stay).")
    if params["clone_to"] and (state != "present" or len(params["vmids"] or params["datasets"]) != 1):
        raise Failure("invalid_option", "clone_to needs state: present and exactly one container.")
    if params["hold"] and state != "present":
        raise Failure("invalid_option", "hold needs state: present.")
    if params["release"] and not params["name"]:
        raise Failure("invalid_option", "release needs name.")
    for tag in filter(None, (params["hold"], params["release"])):
        check_tag(tag)
    check_keep(params["keep"] or {}, params["keep_timezone"])


def _present(
    host: Host, store: Store, ids: t.Sequence[str], params: t.Mapping[str, t.Any], check_mode: bool, results: Results
) -> None:
    taken = take(host, store, ids, params["name"], params["prefix"], params["memory"], check_mode)
    results.add_all(taken)
    if params["hold"]:
        name = taken[0].name or ""
        results.add_all(hold(host, store, ids, name, params["hold"], True, check_mode, results.expected))
    _released(host, store, ids, params, check_mode, results)


def _released(
    host: Host, store: Store, ids: t.Sequence[str], params: t.Mapping[str, t.Any], check_mode: bool, results: Results
) -> None:
    if params["release"]:
        tag = params["release"]
        results.add_all(hold(host, store, ids, params["name"], tag, False, check_mode, results.expected))


def _pruned(
    host: Host, store: Store, ids: t.Sequence[str], params: t.Mapping[str, t.Any], check_mode: bool, results: Results
) -> None:
    keep = check_keep(params["keep"], params["keep_timezone"])
    prefix = params["prefix"] or PREFIX
    spare = [results.name] if results.name and params["state"] == "present" else []
    timezone, expected = params["keep_timezone"], results.expected
    results.add_all(prune(host, store, ids, keep, timezone, prefix, spare, check_mode, expected=expected))


class Results:
    """The results of containers, put together from what was done to each."""

    def __init__(self, ids: t.Sequence[str]) -> None:
        self.by_container: dict[str, dict[str, t.Any]] = {
            container_id: {"container": container_id, "changed": False, "plan": [], "notes": []} for container_id in ids
        }
        self.name: str | None = None
        # What check mode has predicted so far, for what comes after it.
        self.expected: dict[tuple[str, str], Checkpoint | None] = {}

    def add(self, outcome: Outcome, container: str | None = None) -> None:
        """Add what was done to one container."""
        container = container or outcome.container
        self.add_dicts([{**outcome.as_dict(), "container": container}])
        self.expected.update({(container, name): after for name, after in outcome.expected.items()})

    def add_all(self, outcomes: t.Iterable[Outcome]) -> None:
        """Add what was done to several."""
        for outcome in outcomes:
            self.add(outcome)

    def add_dicts(self, entries: t.Iterable[dict[str, t.Any]]) -> None:
        """Add results: plans and notes follow each other, what is known of the checkpoint stays."""
        for entry in entries:
            merged = self.by_container[entry["container"]]
            merged["changed"] = merged["changed"] or entry["changed"]
            merged["plan"] += entry.get("plan", [])
            merged["notes"] += entry.get("notes", [])
            for key, value in entry.items():
                if key not in ("container", "changed", "plan", "notes") and value not in (None, [], {}):
                    merged.setdefault(key, value)
            self.name = self.name or entry.get("name")

    @property
    def changed(self) -> bool:
        """Whether there is something to do."""
        return any(entry["changed"] for entry in self.by_container.values())

    def as_dict(self) -> dict[str, t.Any]:
        """The result of the module."""
        entries = list(self.by_container.values())
        return {
            "changed": self.changed,
            "name": self.name,
            "containers": entries,
            "diff": [_diff(entry) for entry in entries if entry["plan"]],
        }


def _diff(entry: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    return {
        "before_header": f"container {entry['container']}",
        "after_header": f"container {entry['container']}",
        "before": {change["key"]: change["before"] for change in entry["plan"]},
        "after": {change["key"]: change["after"] for change in entry["plan"]},
    }
