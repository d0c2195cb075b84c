# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection plugin with a real sshd and real containers of LXC."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.lxcri.proxmox.tests.lab.machine import Machine

MIB = 2**20
UNUSUAL = ["with space", "it's", 'a "b"', "new\nline", "-n", "$HOME", "`id`", "\\", "%s", "grüße", "*", "日本"]
# One with systemd, one that is unprivileged and has nothing but busybox, and one of plain LXC.
HOSTS: dict[str, dict[str, t.Any]] = {
    "systemd": {"proxmox_vmid": 104, "proxmox_node": "pve1"},
    "unprivileged": {"proxmox_vmid": 102, "proxmox_node": "pve1"},
    "web": {"ansible_pct_tool": "lxc-attach", "ansible_pct_host": "127.0.0.1"},
}
ROOTS = {
    "systemd": "/tank/ct/subvol-104-disk-0",
    "unprivileged": "/rpool/data/subvol-102-disk-0",
    "web": "/tank/containers/web",
}

# The plugin's own calls: a module would need Python in the container, and takes other ways for small files.
TRANSFER = """
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        for name, paths in self._task.args.items():
            getattr(self._connection, f"{name}_file")(*paths)
        return result
"""


class Controller:
    """ansible-playbook on this host, with the machine for a node."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        self.machine, self.directory = machine, directory
        self.processes: list[subprocess.Popen[str]] = []
        _host, port, key = machine.ssh
        shutil.copy(key, directory / "key")
        (directory / "key").chmod(0o600)
        (directory / "action_plugins").mkdir()
        (directory / "action_plugins/transfer.py").write_text(TRANSFER, encoding="utf-8")
        variables = {
            "ansible_connection": "lxcri.proxmox.pct",
            "ansible_port": port,
            "ansible_pct_node_hosts": {"pve1": "127.0.0.1"},
            "ansible_ssh_private_key_file": str(directory / "key"),
            "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
            "ansible_control_path_dir": str(directory / "cp"),
            # Logging in is slow in an emulated machine, and so is what does not compress.
            "ansible_ssh_timeout": 60,
            "ansible_ssh_args": "-o ControlMaster=auto -o ControlPersist=60s",
        }
        inventory = {"all": {"hosts": HOSTS, "vars": variables}}
        (directory / "hosts.yml").write_text(yaml.safe_dump(inventory), encoding="utf-8")

    def start(self, tasks: list[dict[str, t.Any]], hosts: str, *options: str) -> subprocess.Popen[str]:
        """Start tasks."""
        named = [{"name": f"Task {number}", **task} for number, task in enumerate(tasks)]
        play = [{"name": "Test", "hosts": hosts, "gather_facts": False, "tasks": named}]
        path = self.directory / "play.yml"
        path.write_text(yaml.safe_dump(play, width=1000), encoding="utf-8")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "PROXMOX_"))}
        own = {"ANSIBLE_COLLECTIONS_PATH": os.environ["ANSIBLE_COLLECTIONS_PATH"], "ANSIBLE_NOCOLOR": "1"}
        process = subprocess.Popen(
            ["ansible-playbook", "-i", str(self.directory / "hosts.yml"), str(path), *options],
            env={**kept, **own, "ANSIBLE_HOME": str(self.directory / "home")},
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    def run(self, tasks: list[dict[str, t.Any]], hosts: str = "all", *options: str) -> str:
        """Run tasks, which must not fail."""
        process = self.start(tasks, hosts, *options)
        said, _nothing = process.communicate(timeout=1200)
        assert process.returncode == 0, said
        return said

    @property
    def logins(self) -> int:
        """How many connections the machine's sshd has accepted."""
        said = self.machine.run("journalctl -u ssh -o cat | grep -c 'Accepted publickey' || true").stdout
        return int(said)

    def hang_up(self) -> None:
        """End the connection that is kept open."""
        for path in (self.directory / "cp").glob("*[!k]"):
            if path.is_socket():
                subprocess.run(
                    ["ssh", "-o", f"ControlPath={path}", "-O", "exit", "x"], capture_output=True, check=False
                )


@pytest.fixture
def controller(machine: Machine) -> t.Iterator[Controller]:
    """A controller; its path is short because the names of sockets are."""
    for root in ROOTS.values():
        # What busybox has, in the containers that have nothing else.
        for tool in ("wc", "mv", "sha256sum", "id", "env", "printf"):
            machine.run(f"[ -e {root}/usr/bin/{tool} ] || ln -sf busybox {root}/bin/{tool}")
    directory = Path(tempfile.mkdtemp(prefix="pct-"))
    controller = Controller(machine, directory)
    try:
        yield controller
    finally:
        for process in controller.processes:
            process.kill()
            process.communicate()
        controller.hang_up()
        shutil.rmtree(directory)


def quote(word: str) -> str:
    """A word for the shell of a container, in a template of Ansible."""
    return "'" + word.replace("'", "'\"'\"'") + "'"


def test_commands_in_all_kinds_of_containers(controller: Controller) -> None:
    words = " ".join(map(quote, UNUSUAL))
    expected = "".join(f"<{word}>" for word in UNUSUAL)
    command = f"for word in {words}; do printf '<%s>' \"$word\"; done; echo err >&2; exit 255"
    said = {"that": ["said.rc == 255", "said.stdout == expected", "said.stderr == 'err\n'"]}
    environment = {"that": ["'SSH_CONNECTION' not in env.stdout", "'container=lxc' in env.stdout"]}
    controller.run(
        [
            {"ansible.builtin.raw": "{{ command }}", "register": "said", "failed_when": "said.rc != 255"},
            {"ansible.builtin.assert": said},
            {"ansible.builtin.raw": "env; exit 3", "register": "env", "failed_when": "env.rc != 3"},
            {"ansible.builtin.assert": environment},
        ],
        "all",
        "--extra-vars",
        # As YAML, so that nothing of it is a template.
        yaml.safe_dump({"command": command, "expected": expected}, default_flow_style=True, width=100000),
    )


@pytest.mark.timeout(1500)
def test_large_files_there_and_back(controller: Controller) -> None:
    """100 MB each way, with equal checksums."""
    here = controller.directory / "large"
    with here.open("wb") as file:
        for _block in range(100):
            file.write(os.urandom(MIB))
    checksum = hashlib.sha256(here.read_bytes()).hexdigest()
    tasks: list[dict[str, t.Any]] = [
        {"transfer": {"put": [str(here), "/tmp/there 'ü"]}},
        {"ansible.builtin.raw": 'sha256sum <"/tmp/there \'ü"', "register": "sum"},
        {"ansible.builtin.assert": {"that": [f"sum.stdout.split()[0] == '{checksum}'"]}},
        {"transfer": {"fetch": ["/tmp/there 'ü", f"{controller.directory}/back-{{{{ inventory_hostname }}}}"]}},
    ]
    controller.run(tasks, "systemd")
    back = controller.directory / "back-systemd"
    assert hashlib.sha256(back.read_bytes()).hexdigest() == checksum
    assert ".lxcri" not in controller.machine.run("pct exec 104 -- ls -A /tmp").stdout


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_five_hundred_tasks_through_one_connection(controller: Controller) -> None:
    logins = controller.logins
    said = controller.run([{"ansible.builtin.raw": "true"}] * 500, "systemd")
    assert re.search(r"systemd\s+: ok=500 ", said)
    assert controller.logins - logins == 1


def test_modules_and_another_user(controller: Controller) -> None:
    """In the container with systemd, where there may be no Python: what needs none."""
    text = controller.directory / "script.sh"
    text.write_text("#!/bin/sh\necho by $(id -un) at $(pwd)\n", encoding="utf-8")
    tasks: list[dict[str, t.Any]] = [
        {"ansible.builtin.script": str(text), "register": "said"},
        {"ansible.builtin.assert": {"that": ["said.stdout_lines[0] is match('by (root at /root|daemon at )')"]}},
    ]
    controller.run(tasks, "systemd")
    controller.run(
        [
            {"ansible.builtin.raw": "id -un", "register": "said"},
            {"ansible.builtin.assert": {"that": ["said.stdout == 'daemon\n'"]}},
        ],
        "systemd",
        "--user",
        "daemon",
    )


def test_a_container_that_is_not_there(controller: Controller) -> None:
    controller.machine.run("pct stop 102; lxc-stop -k -n web")
    process = controller.start([{"ansible.builtin.raw": "true"}], "unprivileged,web")
    said, _nothing = process.communicate(timeout=300)
    assert process.returncode == 4
    said = " ".join(said.split())
    assert "Container 102 on 127.0.0.1 is not running." in said
    assert "Container web on 127.0.0.1 is not running, or there is none of this name." in said


def test_ssh_breaks_while_a_file_is_sent(controller: Controller) -> None:
    """The connection that all share is killed in the middle."""
    large = controller.directory / "large"
    with large.open("wb") as file:
        file.truncate(2**36)
    machine, root = controller.machine, ROOTS["systemd"]
    # Not in /tmp, which systemd keeps in memory, where the machine does not see it.
    machine.run(f"echo old >{root}/var/tmp/file")
    process = controller.start([{"transfer": {"put": [str(large), "/var/tmp/file"]}}], "systemd")
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(process.communicate(timeout=300)[:1]))
    reader.start()
    listing = f"find {root}/var/tmp -name '.lxcri-*.part' -size +1000k"
    wait_for(lambda: machine.run(listing).stdout != "")
    controller.hang_up()
    reader.join(300)
    assert process.returncode == 4
    text = " ".join(said[0].split())
    assert re.search(r"/var/tmp/\.lxcri-\w+\.part\. \[transfer_broken\]", text), text
    wait_for(lambda: machine.run(f"find {root}/var/tmp -name '.lxcri-*'").stdout == "")
    assert machine.read(f"{root}/var/tmp/file") == "old\n"


def wait_for(condition: t.Callable[[], bool]) -> None:
    """Until it is so, for a while."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
