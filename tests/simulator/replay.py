# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sends recorded requests to a simulated cluster and says where it answers otherwise than the real one did.

records/*.jsonl hold what was recorded of a Proxmox VE 9.2.11, shortened to what is compared here.
"""

from __future__ import annotations

import json
import re
import time
import typing as t
from pathlib import Path

import requests

from .serving import Simulator

Record = dict[str, t.Any]
HERE = Path(__file__).parent
ARCHIVE = "busybox_1.37-1_amd64.tar.zst"
SECRET = "22222222-3333-4444-5555-666666666666"


def records(name: str) -> list[Record]:
    """The records of one file; {"repeat": "x", "times": n} is written out."""

    def expanded(value: Record) -> t.Any:
        return value["repeat"] * value["times"] + value.get("then", "") if "repeat" in value else value

    lines = (HERE / "records" / f"{name}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line, object_hook=expanded) for line in lines]


def comparable(value: t.Any) -> t.Any:
    """A value without the hardware addresses that are made up anew each time."""
    text = json.dumps(value, sort_keys=True)
    return json.loads(re.sub(r"hwaddr=BC:24:11(:[0-9A-Fa-f]{2}){3}", "hwaddr=?", text))


class Client:
    """Somebody who logs in with a password, or with a token."""

    def __init__(self, simulator: Simulator, token: str = "") -> None:
        self.simulator, self._http = simulator, requests.Session()
        # Else REQUESTS_CA_BUNDLE would go before ca_path.
        self._http.trust_env = False
        if token:
            self._http.headers["Authorization"] = f"PVEAPIToken={token}={SECRET}"
            return
        login = {"username": simulator.user, "password": simulator.password}
        ticket = self.send("POST", "/access/ticket", login).json()["data"]
        self._http.cookies.set("PVEAuthCookie", ticket["ticket"])
        self._http.headers["CSRFPreventionToken"] = ticket["CSRFPreventionToken"]

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_error: object) -> None:
        self._http.close()

    def send(self, method: str, path: str, params: t.Any = None, as_json: bool = False) -> requests.Response:
        """One request."""
        where = "params" if method in ("GET", "DELETE") else "json" if as_json else "data"
        headers = {"Content-Type": "application/x-www-form-urlencoded"} if isinstance(params, str) else {}
        url = f"{self.simulator.url}/api2/json{path}"
        return self._http.request(
            method, url, verify=self.simulator.ca_path, headers=headers, timeout=30, **{where: params}
        )

    def get(self, path: str, **params: t.Any) -> t.Any:
        """The data of a GET."""
        return self.send("GET", path, params).json()["data"]

    def wait(self, upid: str) -> Record:
        """The state of a task that has ended."""
        for _attempt in range(500):
            state: Record = self.get(f"/nodes/{upid.split(':')[1]}/tasks/{upid}/status")
            if state["status"] == "stopped":
                return state
            time.sleep(0.005)
        raise TimeoutError(upid)

    def do(self, method: str, path: str, **params: t.Any) -> str:
        """Start a task and wait for it; returns its exit status."""
        return str(self.wait(self.send(method, path, params).json()["data"])["exitstatus"])

    def differences(self, record: Record) -> list[t.Any]:
        """Send a recorded request, and say in what the answer differs."""
        answer = self.send(record["method"], record["path"], record.get("params"), record.get("json", False))
        if answer.status_code != record["status"]:
            return [{"status": answer.status_code, "text": answer.text[:200], "recorded": record["status"]}]
        found: list[t.Any] = []
        if record["status"] != 200:
            for key, value in {"reason": answer.reason, **answer.json()}.items():
                if key in record and value != record[key]:
                    found.append({key: value, "recorded": record[key]})
        elif "task" in record:
            upid = str(answer.json()["data"])
            state = self.wait(upid)
            if upid.split(":")[5:7] != record["task"]:
                found.append({"task": upid, "recorded": record["task"]})
            if "exit" in record and state["exitstatus"] != record["exit"]:
                found.append({"exit": state["exitstatus"], "recorded": record["exit"]})
        return found
