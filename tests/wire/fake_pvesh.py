# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for the pvesh of a node: forwards to the API of the simulated cluster as root@pam.

As pvesh does, it waits for a task that it has started, with the task's log before the answer, prints nothing for a
null, and the reason of a refusal to stderr.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import sys
import time
import typing as t
from urllib.parse import quote, urlencode

METHODS = {"get": "GET", "create": "POST", "set": "PUT", "delete": "DELETE"}


class Refused(Exception):
    """An answer that is none."""


def ask(method: str, path: str, params: dict[str, str]) -> t.Any:
    """One request."""
    connection = http.client.HTTPSConnection(
        os.environ["SIMULATOR_HOST"],
        int(os.environ["SIMULATOR_PORT"]),
        context=ssl.create_default_context(cafile=os.environ["SIMULATOR_CA"]),
    )
    headers = {"Cookie": f"PVEAuthCookie={quote(os.environ['SIMULATOR_TICKET'])}"}
    url, body = f"/api2/json{path}", None
    if method in ("GET", "DELETE"):
        url += f"?{urlencode(params)}" if params else ""
    else:
        body = urlencode(params)
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        headers["CSRFPreventionToken"] = os.environ["SIMULATOR_CSRF"]
    if method == "DELETE":
        headers["CSRFPreventionToken"] = os.environ["SIMULATOR_CSRF"]
    connection.request(method, url, body, headers)
    answer = connection.getresponse()
    content = answer.read().decode()
    if answer.status == 200:
        return json.loads(content)["data"]
    failure = json.loads(content) if content else {}
    lines = [str(failure.get("message") or answer.reason).strip()]
    if answer.status != 500:
        lines[0] = f"{answer.status} {lines[0]}"
    lines += [f"{name}: {str(why).strip()}" for name, why in (failure.get("errors") or {}).items()]
    raise Refused("\n".join(lines))


def wait(upid: str) -> None:
    """Until a task has ended; prints its log."""
    base = f"/nodes/{upid.split(':')[1]}/tasks/{quote(upid)}"
    while ask("GET", f"{base}/status", {})["status"] == "running":
        time.sleep(0.02)
    for line in ask("GET", f"{base}/log", {"limit": "500"}):
        print(line["t"])


def main() -> int:
    """Carry out the command line; returns the exit code."""
    verb, path, *rest = sys.argv[1:]
    params = {name.lstrip("-"): value for name, value in zip(rest[::2], rest[1::2])}
    if params.pop("output-format", None) != "json":
        print("only JSON can be read", file=sys.stderr)
        return 2
    try:
        answer = ask(METHODS[verb], path, params)
    except Refused as refusal:
        print(refusal, file=sys.stderr)
        return 2
    if isinstance(answer, str) and answer.startswith("UPID:"):
        wait(answer)
    if answer is not None:
        print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
