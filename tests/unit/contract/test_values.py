# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The codec against what a real Proxmox stored, and refused, for each value."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties, spec
from ansible_collections.lxcri.proxmox.tests.unit.contract.recorded import records

VALUES = records("values")
REFUSED = [record for record in VALUES if record["status"] == 400]

# Stored by Proxmox, refused here: such a volume would hide the whole root file system.
STRICTER = {"values-370": "a mount over /"}
STORED = [record for record in VALUES if record["status"] == 200 and record["id"] not in STRICTER]

# Refused by Proxmox for a reason that the value itself does not show, or that cannot reach it.
KNOWS_THE_NODE = "only the node knows"
BLANK = "an empty value means that the key is removed, and blanks around a value are not sent"
CONVERTED = "booleans are sent as 0 and 1"
WHOLE_REQUEST = "the value is right, the request is not"
NOT_REFUSABLE = {
    "values-285": "a dictionary is what tasks give; a text is what is sent",
    "values-289": KNOWS_THE_NODE,
    "values-290": KNOWS_THE_NODE,
    "values-469": WHOLE_REQUEST,
    "values-472": WHOLE_REQUEST,
}
BOOLEANS = ("onboot", "protection", "console", "debug")


def _why_not_refused(record: dict[str, t.Any]) -> str | None:
    value = record["sent"]
    if record["id"] in NOT_REFUSABLE:
        return NOT_REFUSABLE[record["id"]]
    if isinstance(value, str) and (not value.strip() or value != value.strip()):
        return BLANK
    if record["key"] in BOOLEANS and str(value).lower() in ("on", "off", "yes", "no", "true", "false"):
        return CONVERTED
    return None


def _ids(chosen: list[dict[str, t.Any]]) -> list[str]:
    return [f"{record['id']}-{record['key']}" for record in chosen]


@pytest.mark.parametrize("record", STORED, ids=_ids(STORED))
def test_what_was_sent_equals_what_is_read_back(record: dict[str, t.Any]) -> None:
    key, sent, back = record["key"], record["sent"], record["read"]
    assert properties.equal(key, properties.normalise(key, sent), properties.normalise(key, back))


@pytest.mark.parametrize("record", STORED, ids=_ids(STORED))
def test_what_is_read_back_survives_being_sent_again(record: dict[str, t.Any]) -> None:
    for value in (record["sent"], record["read"]):
        normal = properties.normalise(record["key"], value)
        text = properties.encode(record["key"], normal)
        if text is None:
            assert properties.equal(record["key"], normal, None)
        else:
            assert properties.normalise(record["key"], text) == normal


CERTAIN = [record for record in REFUSED if not _why_not_refused(record)]


@pytest.mark.parametrize("record", CERTAIN, ids=_ids(CERTAIN))
def test_what_proxmox_refuses_is_refused_before_it_is_sent(record: dict[str, t.Any]) -> None:
    with pytest.raises(properties.InvalidValue) as refusal:
        properties.normalise(record["key"], record["sent"])
    assert str(refusal.value)


def _options_for(record: dict[str, t.Any]) -> dict[str, t.Any]:
    """The value as a task would give it: as text for scalars, as a dictionary for property strings."""
    key, value = record["key"], record["sent"]
    options: dict[str, t.Any] = {"vmid": 101, "state": "present"}
    if key in spec.SCALAR_TYPES:
        options[key] = [value] if spec.SCALAR_TYPES[key] == "list" else value
    return options


SCALARS = [record for record in CERTAIN if record["key"] in spec.SCALAR_TYPES]


@pytest.mark.parametrize("record", SCALARS, ids=_ids(SCALARS))
def test_the_refusal_names_the_option(record: dict[str, t.Any]) -> None:
    with pytest.raises(Failure) as refusal:
        spec.declare(_options_for(record))
    assert refusal.value.code == "invalid_option"
    assert refusal.value.details["option"] == record["key"]
    assert refusal.value.message.startswith(f"{record['key']}: ")


NOT_CERTAIN = [record for record in REFUSED if _why_not_refused(record)]


@pytest.mark.parametrize("record", NOT_CERTAIN, ids=_ids(NOT_CERTAIN))
def test_what_cannot_be_refused_is_sent_in_a_form_that_proxmox_takes(record: dict[str, t.Any]) -> None:
    """Each exception has to hold: an empty value is not sent, a boolean is sent as 0 or 1."""
    key = record["key"]
    why = _why_not_refused(record)
    normal = properties.normalise(key, record["sent"])
    text = properties.encode(key, normal)
    if why == BLANK:
        assert text is None or text == properties.encode(key, properties.normalise(key, record["sent"].strip()))
        assert text is None or str(text) == str(text).strip()
    elif why == CONVERTED:
        assert text in (0, 1)
    else:
        assert isinstance(text, str)


def test_the_exceptions_are_few_and_known() -> None:
    ids = {record["id"] for record in REFUSED}
    assert set(NOT_REFUSABLE) <= ids
    for record in VALUES:
        if record["id"] in STRICTER:
            with pytest.raises(properties.InvalidValue):
                properties.normalise(record["key"], record["sent"])
    assert len(CERTAIN) > 80
    assert len(STORED) > 200


def test_an_empty_scalar_is_refused_with_the_way_to_remove_the_key() -> None:
    """An empty text would be stored as a blank, or refused: ``unset`` is how a key without a default is removed."""
    for key in ("hostname", "timezone", "entrypoint", "arch", "cores"):
        with pytest.raises(Failure) as refusal:
            spec.declare({"vmid": 101, "state": "present", key: ""})
        advice = f"unset: [{key}]"
        assert (advice in refusal.value.message) == (key not in spec.NEVER_UNSET)
