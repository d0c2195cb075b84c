# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every recorded refusal, through the real client: its code, its text and its facts."""

from __future__ import annotations

import re
import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import ROOT_ONLY, Failure
from ansible_collections.lxcri.proxmox.tests.unit.contract.recorded import records, table
from ansible_collections.lxcri.proxmox.tests.unit.support import TOKEN, Wire

ANSWERS = records("answers")
CODES = {record_id: code for code, record_id, _status, _text in table("codes")}

# The text of an answer says nothing by itself: it has no reason, or is the same for every refused parameter.
PARAMETERS_REFUSED = "Parameter verification failed."


def _words(text: str) -> str:
    return " ".join(text.split())


def test_every_recorded_answer_has_a_code() -> None:
    assert {answer["ids"][0] for answer in ANSWERS} == set(CODES)
    assert "api_error" not in CODES.values()


@pytest.mark.parametrize("answer", ANSWERS, ids=[answer["ids"][0] for answer in ANSWERS])
def test_refusal(answer: dict[str, t.Any], wire: t.Callable[..., Wire]) -> None:
    end = wire((answer["status"], answer["reason"], answer["body"]))
    client = Client(TOKEN, sleep=lambda _seconds: None)
    with pytest.raises(Failure) as refusal:
        client.put("nodes/pve1/lxc/101/config", {"memory": 64})
    failure = refusal.value

    assert failure.code == CODES[answer["ids"][0]]
    assert failure.details["status"] == answer["status"]
    assert failure.details["request"] == "PUT nodes/pve1/lxc/101/config"
    if answer["reason"] != PARAMETERS_REFUSED:
        assert _words(answer["reason"]) in failure.message
    errors = answer["body"].get("errors") if isinstance(answer["body"], dict) else None
    assert failure.details.get("errors") == (
        {name: text.strip() for name, text in errors.items()} if errors else None
    ), "errors for each parameter, and nothing else, even where the body is empty or plain text"
    for name, text in (errors or {}).items():
        assert name in failure.message
        assert _words(text) in failure.message
    _check_permission_facts(answer["reason"], failure)
    # Only a lock that could not be had says that nothing was done.
    assert len(end.calls) == (4 if failure.code == "lock_timeout" else 1)


def _check_permission_facts(reason: str, failure: Failure) -> None:
    named = re.search(r"\((/\S*), (\S+)\)", reason)
    if failure.code == "permission_denied" and named:
        assert (failure.details["path"], failure.details["privilege"]) == named.groups()
    elif failure.code == "permission_denied" and ("root@pam" in reason or "API token" in reason):
        assert failure.details["requires"] == ROOT_ONLY
        assert "token" in failure.hint
    else:
        assert not {"path", "privilege", "requires"} & set(failure.details)


@pytest.mark.parametrize(
    ("reason", "facts"),
    [
        ("CT is locked (backup)", {"lock": "backup"}),
        ("CT 100 already exists on node 'pve1'", {"vmid": "100"}),
        ("storage 'nope' does not exist", {"storage": "nope"}),
        ("bridge 'vmbr99' does not exist", {"bridge": "vmbr99"}),
        ("no such cluster node 'nope'", {"node": "nope"}),
        ("hostname lookup 'nope' failed - failed to get address info for: nope: Name or service", {"node": "nope"}),
        ("Permission check failed (pool 'nopool' does not exist)", {"pool": "nopool"}),
        ("snapshot 'none' does not exist", {"snapshot": "none"}),
        ("script 'local:snippets/none.pl' does not exist", {"volume": "local:snippets/none.pl"}),
    ],
)
def test_what_an_answer_names_becomes_a_fact(reason: str, facts: dict[str, str], wire: t.Callable[..., Wire]) -> None:
    wire((500, reason, {"data": None, "message": f"{reason}\n"}))
    with pytest.raises(Failure) as refusal:
        Client(TOKEN).post("nodes/pve1/lxc")
    assert {name: refusal.value.details.get(name) for name in facts} == facts
    assert refusal.value.hint
