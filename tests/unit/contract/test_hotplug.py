# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the plan says of changes to a running container, against what a real Proxmox did with each."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.plan import LIVE, RECREATE, RESTART
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties, spec
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import Actual, Plan
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.plan import make_plan
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.reading import read_container
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import Declared
from ansible_collections.lxcri.proxmox.tests.unit.contract.recorded import records
from ansible_collections.lxcri.proxmox.tests.unit.support import FakeClient

HOTPLUG = records("hotplug")
CHANGES = [record for record in HOTPLUG if "effect" in record]
STATES = [record for record in HOTPLUG if "effect" not in record]
EFFECTS = {"at-once": LIVE, "pending": RESTART}

# Not options of a task, so that no plan has them: a lock and the flag of a template, set by a PUT.
NO_OPTION = ("lock", "template")
# Proxmox lets these change, but the container would not be what its template says: a new one is needed.
RECREATED = ("ostype",)
# Only the node knows that these do not exist.
ONLY_THE_NODE = ("hotplug-030", "hotplug-076")
# A value and a deletion of the same mount point are pending at once: the configuration shows the deletion, but the
# stop keeps the value (hotplug-100).
KEPT_IN_SPITE_OF_DELETION = ("hotplug-085", "hotplug-099")


def _actual(pending: list[dict[str, t.Any]]) -> Actual:
    client = FakeClient({"nodes/pve1/lxc/111/pending": pending})
    actual = read_container(t.cast(t.Any, client), "pve1", 111, "running")
    assert actual is not None
    return actual


def _by_id(chosen: list[dict[str, t.Any]]) -> t.Any:
    return pytest.mark.parametrize("record", chosen, ids=[f"{record['id']}-{record.get('key')}" for record in chosen])


def _declared(params: dict[str, t.Any]) -> Declared:
    config = {key: properties.normalise(key, value) for key, value in params.items()}
    return Declared(state="present", vmid=111, node="pve1", config=config)


def _effects(plan: Plan) -> dict[str, str]:
    return {change.key: change.effect for change in plan.changes}


SETS = [
    record
    for record in CHANGES
    if record["effect"] != "error"
    and not {"delete", "revert"} & set(record["params"])
    and record["key"] not in (*NO_OPTION, *RECREATED)
]


@_by_id(SETS)
def test_effect_of_setting(record: dict[str, t.Any]) -> None:
    actual = _actual(record["before"]["pending"])
    actual.current.pop("lock", None)  # released on the node before the change
    declared = _declared(record["params"])
    plan = make_plan(declared, actual)
    if all(properties.equal(k, v, properties.read(k, actual.config.get(k))) for k, v in declared.config.items()):
        assert not plan.changes, "what is so already needs no request"
        return
    in_force = {key: properties.read(key, actual.current.get(key)) for key in actual.pending}
    if any(
        properties.equal(key, declared.config[key], value) for key, value in in_force.items() if key in declared.config
    ):
        # The records set the value again, which waits if it is the default (hotplug-064); a plan withdraws what waits.
        assert [step.params for step in plan.steps] == [{"revert": record["key"]}]
        assert _effects(plan) == {record["key"]: LIVE}
        return
    assert [step.method for step in plan.steps] == ["PUT"]
    assert _effects(plan)[record["key"]] == EFFECTS[record["effect"]]
    # A record of several keys has the effect of the first; each key has its own, as GET pending showed afterwards.
    after = _actual(record["after"]["pending"])
    for key, effect in _effects(plan).items():
        assert effect == (RESTART if key in after.pending else LIVE), key


DELETES = [record for record in CHANGES if record["effect"] != "error" and "delete" in record["params"]]


@_by_id([record for record in DELETES if record["key"] not in NO_OPTION])
def test_effect_of_removing(record: dict[str, t.Any]) -> None:
    key = record["params"]["delete"]
    before = _actual(record["before"]["pending"])
    plan = make_plan(Declared(state="present", vmid=111, node="pve1", unset=(key,), force=True), before)
    if key not in before.config:
        assert not plan.steps
        return
    steps = {step.action: step for step in plan.steps}
    if before.pending.get(key) is not None:
        # Proxmox ignores the deletion of what is only pending: it has to be reverted.
        assert steps["reverted"].params == {"revert": key}
        assert [change.effect for change in steps["reverted"].changes] == [LIVE]
    if key in before.current:
        assert steps["configured"].params == {"delete": key}
        assert [change.effect for change in steps["configured"].changes] == [EFFECTS[record["effect"]]]
    else:
        assert "configured" not in steps


REVERTS = [record for record in CHANGES if "revert" in record["params"] and record["key"] not in NO_OPTION]


@_by_id(REVERTS)
def test_going_back_to_what_is_in_force_takes_no_restart(record: dict[str, t.Any]) -> None:
    """Each reverted key, declared as it is in force, or unset where it is not set: nothing waits afterwards."""
    before, after = _actual(record["before"]["pending"]), _actual(record["after"]["pending"])
    keys = [key for key in record["params"]["revert"].split(",") if key in before.pending and key not in RECREATED]
    assert keys
    config = {key: properties.normalise(key, before.current[key]) for key in keys if key in before.current}
    unset = tuple(key for key in keys if key not in before.current)
    plan = make_plan(Declared(state="present", vmid=111, node="pve1", config=config, unset=unset), before)
    assert set(_effects(plan)) == set(keys)
    assert set(_effects(plan).values()) == {LIVE}
    assert not set(keys) & set(after.pending)


ERRORS = [record for record in CHANGES if record["effect"] == "error"]


@_by_id(ERRORS)
def test_what_proxmox_refuses_is_refused_or_needs_the_node(record: dict[str, t.Any]) -> None:
    params, actual = record["params"], _actual(record["before"]["pending"])
    if record["id"] in ONLY_THE_NODE:
        assert make_plan(_declared(params), actual).steps
    elif "delete" in params:
        with pytest.raises(Failure) as refusal:
            spec.declare({"vmid": 111, "state": "present", "unset": [params["delete"]]})
        assert refusal.value.details["option"] == "unset"
    elif record["key"] == "unprivileged":
        plan = make_plan(_declared(params), actual)
        assert not plan.changed
        assert [(change.key, change.effect, change.request) for change in plan.blocked] == [
            ("unprivileged", RECREATE, None)
        ]
    elif properties.key_of(record["key"]) is None:
        with pytest.raises(properties.InvalidValue):
            properties.normalise(record["key"], params[record["key"]])
    else:
        actual.current["lock"] = "backup"
        with pytest.raises(Failure) as refusal:
            make_plan(_declared(params), actual)
        assert (refusal.value.code, refusal.value.details["lock"]) == ("locked", "backup")


def test_a_changed_ostype_is_reported_but_not_made() -> None:
    (record,) = [record for record in CHANGES if record["params"].keys() & set(RECREATED)]
    plan = make_plan(_declared(record["params"]), _actual(record["before"]["pending"]))
    assert not plan.changed
    assert _effects(plan) == {"ostype": RECREATE}


def _check_parsing(record: dict[str, t.Any], pending: list[dict[str, t.Any]], config: dict[str, t.Any]) -> None:
    actual = _actual(pending)
    for key, value in config.items():
        if key in ("delete", "revert", "digest") or properties.key_of(key) is None:
            continue
        if key == "mp0" and record["id"] in KEPT_IN_SPITE_OF_DELETION and value is None:
            assert "/data2" in actual.config[key]
            continue
        assert actual.config.get(key) == value, key


@_by_id(CHANGES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_pending_list_gives_what_the_configuration_shows(record: dict[str, t.Any], when: str) -> None:
    recorded = record[when]
    if record["id"] == "hotplug-085" and when == "after":
        assert recorded["config"]["mp0"] is None
    _check_parsing(record, recorded["pending"], recorded["config"])
    actual = _actual(recorded["pending"])
    for key, value in recorded["config_current"].items():
        if key not in ("delete", "revert", "bogus"):
            assert actual.current.get(key) == value, key


@_by_id(STATES)
def test_whole_pending_list_gives_the_whole_configuration(record: dict[str, t.Any]) -> None:
    actual = _actual(record["pending"])
    assert actual.digest == record["config"]["digest"]
    config = {key: value for key, value in actual.config.items() if record["id"] != "hotplug-099" or key != "mp0"}
    assert config == {key: value for key, value in record["config"].items() if key != "digest"}
    _check_parsing(record, record["pending"], {**record["config"], "mp0": record["config"].get("mp0")})
