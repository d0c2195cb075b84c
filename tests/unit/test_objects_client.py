# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What objects need of the client: parameters that are repeated, and what Proxmox tells beside the data."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import (
    Client,
    Connection,
    Credentials,
    Repeated,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.cluster import Objects
from proxmoxer.backends.https import JsonSerializer


class Session:
    """Stands for proxmoxer's."""

    def __init__(self, body: bytes = b'{"data": [1], "changes": "x"}') -> None:
        self.asked: list[tuple[t.Any, ...]] = []
        self.body = body

    def request(self, method: str, url: str, data: t.Any = None, params: t.Any = None) -> Session:
        self.asked.append((method, url, data, params))
        return self

    status_code = 200

    @property
    def content(self) -> bytes:
        return self.body


def client(backend: str = "https") -> tuple[Client, Session]:

    made, session = Client(Credentials(backend=backend)), Session()
    made._connection = Connection("https://a/api2/json", session, JsonSerializer())
    return made, session


def test_a_repeated_parameter_is_a_list_for_requests() -> None:
    made, session = client()
    made.put("x", {"mailto": Repeated(["a", "b"]), "one": Repeated(["c"]), "words": ["d", "e"]})
    [(_method, _url, data, _params)] = session.asked
    assert data == {"mailto": ["a", "b"], "one": "c", "words": "d,e"}


def test_pvesh_cannot_be_given_one() -> None:
    made, session = client("local")
    with pytest.raises(Failure) as failure:
        made.put("x", {"mailto": Repeated(["a", "b"])})
    assert (failure.value.code, session.asked) == ("not_implemented", [])


def test_the_whole_of_an_answer() -> None:
    made, _session = client()
    assert made.get_all("nodes/pve1/network") == {"data": [1], "changes": "x"}
    assert made.get("nodes/pve1/network") == [1]


def test_pvesh_tells_the_data_alone() -> None:
    made, _session = client("local")
    assert made.get_all("nodes/pve1/network") == {"data": [1]}


def test_a_secret_is_no_argument_of_pvesh() -> None:
    made, session = client("openssh")
    params = {"kind": "user", "object": {"userid": "ci@pve", "password": "hunter2-hunter2"}, "objects": None}
    more = {"scope": None, "node": None, "state": "present", "owner": None, "exclusive": False}
    rest = {"update_secrets": "on_create", "apply": True, "timeout": 1}
    with pytest.raises(Failure) as failure:
        Objects(made, False).run({**params, **more, **rest})
    assert (failure.value.code, session.asked) == ("invalid_option", [])
    assert "hunter2" not in failure.value.sentence
