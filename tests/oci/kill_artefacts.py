# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kills a run of oci_bundle before each thing that it does, one after the other.

A process of its own, because it forks: the options are JSON on the standard input, with ``run`` (of the module) and
``place`` (where bundles and artefacts, and in ``TMPDIR`` temporary files, are made). It prints how often it killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import typing as t

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.upload import open_storage, upload_options
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.bundle import run_declared
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.bundle_options import spec_options
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.image import PULL_OPTIONS
from ansible_collections.lxcri.proxmox.tests.oci.kill_everywhere import in_child, kill_before


def params_of(given: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The options as AnsibleModule has them."""
    defaults = {name: about.get("default") for name, about in {**PULL_OPTIONS, **spec_options()}.items()}
    upload = given.get("upload")
    if upload:
        upload = {**{name: about.get("default") for name, about in upload_options().items()}, **upload}
    return {**defaults, "format": "bundle", "spec_only": False, "recreate": False, **given, "upload": upload}


def work(params: dict[str, t.Any]) -> dict[str, t.Any]:
    """The result of the module."""
    return run_declared(params, False, lambda: open_storage(params["upload"], params["timeout"]))


def digest_of(path: str) -> str:
    """Of all that can be seen at a path, by names and contents."""
    state = hashlib.sha256()
    if os.path.isfile(path):
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    for directory, directories, files in os.walk(path):
        directories.sort()
        for name in sorted(files):
            with open(os.path.join(directory, name), "rb") as file:
                state.update(f"{name} {hashlib.sha256(file.read()).hexdigest()}\n".encode())
    return state.hexdigest()


def main() -> None:
    """Do it."""
    given = json.load(sys.stdin)
    made, temporary = os.path.join(given["place"], "made"), os.environ["TMPDIR"]
    os.mkdir(made)
    whole: set[str] = set()
    number = 0

    def look() -> list[str]:
        """What is in sight has to be whole; what is not."""
        names = os.listdir(made)
        whole.update(digest_of(os.path.join(made, name)) for name in names if not name.startswith("."))
        assert len(whole) < 2, (number, names)
        return [name for name in names if name.startswith(".")] + os.listdir(temporary)

    while True:
        number += 1
        params = params_of(given["run"])
        if params["format"] == "bundle":
            params["path"] = os.path.join(made, f"n{number}")
        else:
            params["name"] = f"n{number}"
            params["path"] = None if params["upload"] else made

        def killed(number: int = number, params: dict[str, t.Any] = params) -> None:
            kill_before(number, given["place"])
            work(params)

        status = in_child(killed)
        hidden = look()
        assert os.WIFSIGNALED(status) or status == 0, f"run {number} failed"
        if status == 0:
            assert hidden == []
            break
        work(params)
        assert look() == [], number
        assert work(params)["changed"] is False, number
    print(json.dumps({"killed": number - 1}))


if __name__ == "__main__":
    main()
