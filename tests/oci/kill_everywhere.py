# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kills a run of oci_image before each thing that it does to its store, one after the other.

A process of its own, because it forks: the options are JSON on the standard input, with ``run`` (of the module),
``start`` (a store to begin with, or null) and ``path`` (where the store is for the run). It prints how often it killed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import typing as t

from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.images import OPTIONS, run_declared
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.layout import Layout
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.verify import verify_image

# What changes a file system, as Python tells it (the table of audit events).
_CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod")
# What others see.
_ELSEWHERE = ("subprocess.Popen", "http.client.send")


def params_of(given: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The options as AnsibleModule has them."""
    return {**{name: about.get("default") for name, about in OPTIONS.items()}, **given}


def kill_before(number: int, path: str) -> None:
    """Kill this process before it changes what is below a path, or others see something, for the so manyth time."""
    left = number

    def hook(event: str, args: tuple[t.Any, ...]) -> None:
        nonlocal left
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if event not in _ELSEWHERE and not (event in _CHANGES or writes):
            return
        if event not in _ELSEWHERE and path not in " ".join(map(str, args[:2])) + _directory(event, args):
            return
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _directory(event: str, args: tuple[t.Any, ...]) -> str:
    """The directory that something is removed from, when only its name is said."""
    return os.readlink(f"/proc/self/fd/{args[1]}") if event in ("os.remove", "os.rmdir") and args[1] >= 0 else ""


def in_child(work: t.Callable[[], object]) -> int:
    """The status of a child that does this."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def check(path: str, there: t.Sequence[str]) -> None:
    """What the index names is right, and these references are still there."""
    if not os.path.exists(os.path.join(path, "index.json")):
        assert not there
        return
    layout = Layout(path)
    for entry in layout.entries():
        verify_image(layout, entry["digest"])
    names = [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in layout.entries()]
    assert set(there) <= set(names), (there, names)


def main() -> None:
    """Do it."""
    given = json.load(sys.stdin)
    path, start, there = given["path"], given["start"], given["there"]
    params = params_of(given["run"])
    number = 0
    while True:
        number += 1
        if start:
            shutil.copytree(start, path, symlinks=True)

        def killed(number: int = number) -> None:
            kill_before(number, path)
            assert not run_declared(params, False).get("failure")

        status = in_child(killed)
        check(path, there)
        assert os.WIFSIGNALED(status) or status == 0, f"run {number} failed"
        if status == 0:
            break
        result = run_declared(params, False)
        assert not result.get("failure"), result
        check(path, there)
        assert run_declared(params, False)["changed"] is False, number
        own = os.path.join(path, ".lxcri")
        assert sorted(os.listdir(own)) == ["index.lock", "lock", "staging"] or not os.path.exists(own), number
        # A lock that nobody holds may stay until something is pruned.
        stages = os.listdir(os.path.join(own, "staging"))
        assert [name for name in stages if not name.endswith(".lock")] == [], (number, stages)
        left = run_declared(params_of({**given["run"], "images": [], "state": "present", "prune": {}}), True)
        assert left["plan"] == [] or given["run"]["state"] == "absent", (number, left)
        shutil.rmtree(path)
    print(json.dumps({"killed": number - 1}))


if __name__ == "__main__":
    main()
