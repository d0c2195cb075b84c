# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Credentials of registries and of the API, by the real ansible-playbook: they are seen nowhere."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import threading
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.lxcri.proxmox.tests.oci.images import build, busybox_layer
from ansible_collections.lxcri.proxmox.tests.oci.registry import PASSWORD, USER, Registry
from ansible_collections.lxcri.proxmox.tests.simulator.plugin import certificates, cluster
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator

__all__ = ["certificates", "cluster"]

WRONG = {
    "password": "wrong:pass word",
    "token": "wrong:identity token",
    "api_token_secret": "aaaaaaaa-1111-2222-3333-444444444444",
    "api_password": "wrong:api pass word",
}


def tasks(registry: Registry, cluster: Simulator, reference: str, place: Path) -> dict[str, dict[str, t.Any]]:
    """What takes credentials, by a name."""
    login = {"username": USER, "password": PASSWORD, "ca_path": str(registry.certificate), "store": str(place / "s")}
    bundle = {"image": reference, "format": "lxc_template", **login, "platform": "linux/amd64"}
    upload = {**cluster.options, "node": "pve1", "storage": "local"}
    container = {
        **cluster.options,
        "node": "pve1",
        "vmid": 201,
        "hostname": "app",
        "rootfs": {"storage": "local-zfs", "size": "4G"},
        "image": {"reference": reference, **login},
    }
    by_password = {name: value for name, value in upload.items() if not name.startswith("api_token")}
    by_password["api_password"] = WRONG["api_password"]

    def wrong(options: dict[str, t.Any], name: str) -> dict[str, t.Any]:
        kept = {key: value for key, value in options.items() if key not in ("username", "password", name)}
        return {**kept, **({"username": USER} if name == "password" else {}), name: WRONG[name]}

    refused = f"{registry.host}/secrets/none:1"
    return {
        "oci_image": {"images": [reference], "pull": "newer", **login},
        "oci_image pushed": {
            "images": [reference],
            "state": "pushed",
            "to": f"{registry.host}/secrets/copy:1",
            **login,
        },
        "oci_bundle": {**bundle, "upload": upload, "process": {"user": "root"}},
        "lxc_container": container,
        "oci_image refused, password": wrong({"images": [refused], **login}, "password"),
        "oci_image refused, token": wrong({"images": [refused], **login}, "token"),
        "oci_bundle refused, password": wrong({**bundle, "image": refused, "path": str(place / "x")}, "password"),
        "oci_bundle refused, secret": {**bundle, "name": "a", "upload": wrong(upload, "api_token_secret")},
        "oci_bundle refused, api": {**bundle, "name": "b", "upload": by_password},
        "lxc_container refused, password": {**container, "vmid": 202, "image": wrong(container["image"], "password")},
        "lxc_container refused, token": {**container, "vmid": 203, "image": wrong(container["image"], "token")},
        "lxc_container refused, secret": wrong(container, "api_token_secret"),
    }


def forms(secret: str) -> set[str]:
    """How a secret may be written down."""
    encoded = {base64.b64encode(f"{prefix}{secret}".encode()).decode() for prefix in ("", f"{USER}:")}
    return {secret, json.dumps(secret)[1:-1], *encoded}


class Watch:
    """Looks for secrets in arguments and environments of what runs, until it is told to stop.

    mark: what is in the environment of all that is to be looked at.
    """

    def __init__(self, mark: str, secrets: t.Collection[str]) -> None:
        self._mark = mark.encode()
        self._secrets = [form.encode() for form in secrets]
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.found: set[str] = set()
        self.commands: set[str] = set()

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stopped.wait(0.01):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    command, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
                except OSError:
                    continue
                if self._mark not in environment:
                    continue
                shown = command.replace(b"\0", b" ").decode(errors="replace")
                self.commands.add(shown)
                if any(secret in command + environment for secret in self._secrets):
                    self.found.add(shown)


@pytest.mark.parametrize("check", [[], ["--check"]], ids=["apply", "check"])
def test_credentials_are_seen_nowhere(registry: Registry, cluster: Simulator, tmp_path: Path, check: list[str]) -> None:
    """Neither in what Ansible shows at its most talkative, nor in its log, in files or in processes."""
    place = tmp_path / "place"
    for name in ("temporary", "home"):
        (place / name).mkdir(parents=True)
    layout = build(busybox_layer(), config={"Cmd": ["sh"]}).write(tmp_path / "layout")
    reference = registry.push(layout, "secrets/app", "1")
    given = tasks(registry, cluster, reference, place)
    if check:
        # The image is pushed from the store.
        del given["oci_image pushed"]
    secrets = [PASSWORD, cluster.token_secret, *WRONG.values()]
    variables = {f"secret_{number}": secret for number, secret in enumerate(secrets)}
    # Ansible shows the lines of a task that fails.
    (tmp_path / "variables.yml").write_text(yaml.safe_dump(variables), encoding="utf-8")
    hidden = json.dumps(
        [
            {f"lxcri.proxmox.{name.split()[0]}": options, "name": name, "ignore_errors": "refused" in name}
            for name, options in given.items()
        ]
    )
    for name, secret in variables.items():
        hidden = hidden.replace(json.dumps(secret), json.dumps(f"{{{{ {name} }}}}"))
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": sys.executable},
        "vars_files": [str(tmp_path / "variables.yml")],
        "tasks": json.loads(hidden),
    }
    (tmp_path / "book.yml").write_text(yaml.safe_dump([play]), encoding="utf-8")
    environment = {
        **os.environ,
        "ANSIBLE_HOME": str(place / "home"),
        "ANSIBLE_LOG_PATH": str(place / "log"),
        "ANSIBLE_NOCOLOR": "1",
        "HOME": str(place / "home"),
        "TMPDIR": str(place / "temporary"),
    }
    command = ["ansible-playbook", "-i", "localhost,", "-c", "local", "-vvvv", "--diff", *check, f"{tmp_path}/book.yml"]
    written = {form for secret in secrets for form in forms(secret)}
    with Watch(str(place / "log"), written) as watch:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL, check=False
        )
    output = done.stdout + done.stderr
    recap = re.search(r"changed=(\d+)\s+unreachable=0\s+failed=0.*ignored=(\d+)", output)
    assert recap, output
    assert recap.groups() == (("3", "8") if check else ("4", "8")), output
    assert '"invocation"' in output
    assert [form for form in written if form in output] == []
    assert watch.found == set()
    assert any(command.startswith("skopeo") for command in watch.commands)
    for path in place.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert [form for form in written if form.encode() in data] == [], path
    assert not (check and (place / "s").exists())
