# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: pct
short_description: Into a container by ssh to its node
version_added: 0.1.0
author: lxcri.proxmox contributors (@lxcri)
description:
  - Runs tasks in a container of Proxmox VE by C(ssh) to its node and C(pct exec), or by C(lxc-attach) on any host with
    LXC. The container needs no address and no sshd, only C(/bin/sh), and Python where the tasks need it.
  - It is Ansible's plugin P(ansible.builtin.ssh#connection) with another end. Its options say how the B(node) is
    reached, with its multiplexing, keys, passwords and jump hosts. All containers of a node share one connection.
  - Files are sent and fetched as streams of any size, and appear whole or not at all.
  - Nothing of the node's environment gets into the container.
extends_documentation_fragment:
  - connection_pipelining
  - lxcri.proxmox.ssh_options
requirements:
  - OpenSSH's client on the controller
  - Proxmox VE 8.2 or newer on the node, or LXC
  - In the container C(/bin/sh), C(cat), C(wc), C(mv) and C(rm); for users other than root C(su)
options:
  container:
    description:
      - The container. For O(tool=pct) its vmid, or its hostname, which is then looked up for every task and takes about
        a second; for O(tool=lxc-attach) its name.
      - By default the name of the host in the inventory. The inventory plugin P(lxcri.proxmox.lxc#inventory) sets
        C(proxmox_vmid).
    type: str
    vars:
      - name: proxmox_vmid
      - name: ansible_pct_container
  inventory_hostname:
    description:
      - The name of the host in the inventory, as Ansible tells it. There is no need to set it.
    type: str
    vars:
      - name: inventory_hostname
  node:
    description:
      - The node that has the container. It is the name for ssh as well, unless O(node_hosts) has another.
      - When the container is not there, or this is not set, the cluster is asked where it is (C(pvesh get
        /cluster/resources) through the same ssh), and the answer is remembered in O(control_path_dir).
      - The inventory plugin P(lxcri.proxmox.lxc#inventory) sets C(proxmox_node).
    type: str
    vars:
      - name: proxmox_node
      - name: ansible_pct_node
  node_hosts:
    description:
      - Names or addresses of nodes for ssh, by the name of the node, where they differ.
    type: dict
    default: {}
    vars:
      - name: ansible_pct_node_hosts
  host:
    description:
      - Where O(node) is not set, the name or address of any node of the cluster for ssh, or with O(tool=lxc-attach)
        that of the host of the container.
    type: str
    vars:
      - name: ansible_host
      - name: ansible_ssh_host
      - name: ansible_pct_host
  tool:
    description:
      - How the container is entered. V(pct) is for Proxmox. V(lxc-attach) is for any host with LXC; on a node of
        Proxmox it spares the start of C(pct) with every task, and does not find containers that have moved.
    type: str
    choices: [pct, lxc-attach]
    default: pct
    vars:
      - name: ansible_pct_tool
  remote_user:
    description:
      - The user in the container.
    type: str
    default: root
    ini:
      - section: defaults
        key: remote_user
    env:
      - name: ANSIBLE_REMOTE_USER
    vars:
      - name: ansible_user
      - name: ansible_ssh_user
      - name: ansible_pct_user
    cli:
      - name: user
    keyword:
      - name: remote_user
  node_user:
    description:
      - The user with whom ssh logs in on the node.
    type: str
    default: root
    vars:
      - name: ansible_pct_node_user
  node_become:
    description:
      - Whether the tool is run by O(node_become_command) on the node. It has to be, unless O(node_user) is V(root).
    type: bool
    default: false
    vars:
      - name: ansible_pct_node_become
  node_become_command:
    description:
      - What is put before the tool with O(node_become). It must not ask for a password.
    type: str
    default: sudo -n
    vars:
      - name: ansible_pct_node_become_command
  pipelining:
    description:
      - Whether modules are sent through the connection and not as files. That takes one round trip for each task.
    type: bool
    default: true
    env:
      - name: ANSIBLE_PIPELINING
      - name: ANSIBLE_SSH_PIPELINING
    ini:
      - section: defaults
        key: pipelining
      - section: connection
        key: pipelining
      - section: ssh_connection
        key: pipelining
    vars:
      - name: ansible_pipelining
      - name: ansible_ssh_pipelining
  use_tty:
    description:
      - Whether commands get a terminal, where nothing is sent to them. Standard error and line ends are not kept with
        one.
    type: bool
    default: false
    vars:
      - name: ansible_ssh_use_tty
notes:
  - Become is inside the container, as with any other connection.
  - A container that is stopped, or is not there, makes its host unreachable, and so does a node. The message ends with
    the code of the failure in brackets, such as C([not_running]).
seealso:
  - plugin: lxcri.proxmox.lxc
    plugin_type: inventory
  - plugin: ansible.builtin.ssh
    plugin_type: connection
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import shlex
import tempfile
import time
import typing as t
from dataclasses import dataclass

from ansible.errors import AnsibleConnectionFailure, AnsibleError, AnsibleFileNotFound
from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible.plugins.connection.ssh import Connection as SshConnection
from ansible.utils.path import makedirs_safe, unfrackpath
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.node import guest_exec
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.guest_exec import Outcome

# How often it is looked whether another process has made the connection.
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Place:
    """A container and the host by which it is entered, as ssh knows it."""

    container: str
    host: str


class Connection(SshConnection):
    """ssh to the node, and from there into the container.

    What the plugin ssh does with a remote machine, it does here with the node; ``_towards`` is where it is told which.
    """

    transport = "lxcri.proxmox.pct"
    # The node that the plugin ssh has to do with at the moment.
    _target: str | None = None

    def __init__(self, *args: t.Any, **kwargs: t.Any) -> None:
        super().__init__(*args, **kwargs)
        self._mark = f"lxcri-{secrets.token_hex(8)}:"
        self._place: Place | None = None

    # -------------------------------------------------------------------------------------------- what Ansible calls

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """Run a command in the container."""
        with _as_connection_failure():
            outcome = self._in_container(cmd, in_data, sudoable)
        return t.cast("int", outcome.rc), outcome.stdout, outcome.stderr

    def put_file(self, in_path: str, out_path: str) -> None:
        """Send a file. It gets its name when all of it is there."""
        try:
            size = os.stat(to_bytes(in_path, errors="surrogate_or_strict")).st_size
        except FileNotFoundError:
            raise AnsibleFileNotFound(f"There is no file {in_path} to send.") from None
        directory = guest_exec.directory_of(out_path).rstrip("/")
        part = f"{directory}/.lxcri-{secrets.token_hex(8)}.part"
        script = guest_exec.put_script(out_path, part, size)
        try:
            outcome = self._in_container(script, None, False, (b"<", in_path))
        except (Failure, AnsibleConnectionFailure) as error:
            if isinstance(error, Failure) and error.code != "not_entered":
                raise AnsibleConnectionFailure(_text(error)) from None
            raise AnsibleConnectionFailure(
                f"{in_path} was not sent to {self._where}: {to_text(error)} {out_path} there is what it was; should "
                f"something have been left behind, it is {part}. [transfer_broken]"
            ) from error
        self._check_transfer(outcome, out_path)

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Fetch a file. It gets its name when all of it is there."""
        mark = f"{self._mark}size:"
        destination = os.path.abspath(to_bytes(out_path, errors="surrogate_or_strict"))
        part = os.path.join(os.path.dirname(destination), f".lxcri-{secrets.token_hex(8)}.part".encode())
        try:
            with open(part, "xb"):
                pass
        except OSError as error:
            raise AnsibleError(f"{out_path} cannot be written: {error.strerror}. [write_failed]") from error
        try:
            with _as_connection_failure():
                outcome = self._in_container(guest_exec.fetch_script(in_path, mark), None, False, (b">", part))
            self._check_transfer(outcome, in_path)
            expected, size = guest_exec.fetched_size(outcome.stderr, mark), os.stat(part).st_size
            if expected is None or size < expected:
                raise _error(
                    Failure(
                        "transfer_incomplete",
                        f"{size} of {expected} bytes of {in_path} have come from {self._where}.",
                        "Nothing was kept. The file was changed while it was fetched.",
                    )
                )
            os.replace(part, destination)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)

    def reset(self) -> None:
        """End the connection to the node, once nothing runs by it any more."""
        with _as_connection_failure(), self._towards(self._located().host):
            super().reset()

    # ------------------------------------------------------------------------------------------------ in the container

    def _in_container(
        self, script: str, in_data: bytes | None, sudoable: bool, stream: tuple[bytes, str | bytes] | None = None
    ) -> Outcome:
        """Run a script in the container, wherever it is.

        stream: ``<`` or ``>`` and the file that is the standard input or output.

        Raises:
            Failure: it was not entered.
        """
        place = self._located()
        try:
            outcome = self._on(place, script, in_data, sudoable, stream)
        except AnsibleConnectionFailure as error:
            # What is remembered may be a node that is gone, with the container on another one. A command is run again
            # only when it has certainly not begun.
            if not self._forget() or not re.search(r"ssh: (connect to host|Could not resolve)", to_text(error)):
                raise
            place = self._located()
            outcome = self._on(place, script, in_data, sudoable, stream)
        failure = self._failure(outcome, place)
        if failure is not None and failure.code == "not_found" and self.get_option("tool") == "pct":
            moved = self._looked_up(place.container, place.host)
            if moved != place:
                self._remember(moved)
                outcome = self._on(moved, script, in_data, sudoable, stream)
                failure = self._failure(outcome, moved)
        if failure is not None:
            raise failure
        return outcome

    def _on(
        self,
        place: Place,
        script: str,
        in_data: bytes | None,
        sudoable: bool,
        stream: tuple[bytes, str | bytes] | None,
    ) -> Outcome:
        user, tool = self.get_option("remote_user"), self.get_option("tool")
        reporting = guest_exec.reporting(script, self._mark, user)
        command = [*self._node_become(), *guest_exec.shell_command(place.container, reporting, user, tool)]
        line = guest_exec.for_login_shell(command)
        with self._towards(place.host):
            if stream is None:
                rc, stdout, stderr = super().exec_command(line, in_data=in_data, sudoable=sudoable)
            else:
                rc, stdout, stderr = self._streamed(line, *stream)
        return guest_exec.outcome(rc, stdout, stderr, self._mark)

    def _streamed(self, line: str, direction: bytes, path: str | bytes) -> tuple[int, bytes, bytes]:
        """Run a command of the node with a local file as its standard input or output, of which nothing is read here.

        The shell that opens the file comes right before ssh, after sshpass, which the plugin ssh looks for in front.
        """
        executable = self.get_option("ssh_executable")
        self.host = self.get_option("host")
        command = self._build_command(executable, "ssh", self.host, line)
        at = command.index(to_bytes(executable, errors="surrogate_or_strict"))
        shell = [b"/bin/sh", b"-c", b'file=$1; shift; exec "$@" ' + direction + b'"$file"', b"sh"]
        words = [*command[:at], *shell, to_bytes(path, errors="surrogate_or_strict"), *command[at:]]
        return t.cast("tuple[int, bytes, bytes]", self._run(words, None, sudoable=False))

    def _failure(self, outcome: Outcome, place: Place) -> Failure | None:
        if outcome.rc is not None:
            return None
        said = to_text(outcome.stderr + outcome.stdout)
        return guest_exec.why_not_entered(said, place.container, place.host, self.get_option("tool"))

    def _check_transfer(self, outcome: Outcome, path: str) -> None:
        if outcome.rc:
            raise _error(guest_exec.transfer_failure(outcome.rc, to_text(outcome.stderr), path, self._where))

    @property
    def _where(self) -> str:
        place = self._place
        return f"container {place.container} on {place.host}" if place else "the container"

    # ----------------------------------------------------------------------------------------------------- on the node

    @contextlib.contextmanager
    def _towards(self, host: str) -> t.Iterator[None]:
        """While this lasts, the plugin ssh has to do with the node."""
        self._target = host
        try:
            yield
        finally:
            self._target = None

    def get_option(self, option: str, hostvars: t.Any = None) -> t.Any:
        """An option. For the plugin ssh, host and user are those of the node."""
        if self._target is not None:
            if option == "host":
                return self._target
            if option == "remote_user":
                return super().get_option("node_user", hostvars)
        return super().get_option(option, hostvars)

    def _run(self, cmd: list[bytes], *args: t.Any, **options: t.Any) -> t.Any:
        """Run ssh, after the one that makes the connection for all."""
        with _one_makes_the_connection(_control_path(cmd), self.get_option("timeout")):
            return super()._run(cmd, *args, **options)

    def _node_become(self) -> list[str]:
        return shlex.split(self.get_option("node_become_command")) if self.get_option("node_become") else []

    def _located(self) -> Place:
        """Where the container is, as far as it is known without asking."""
        if self._place is None:
            container, node = self._container, self.get_option("node")
            if node and not re.fullmatch(guest_exec.NODE, node):
                raise Failure("invalid_option", f"{node!r} is not the name of a node.", "Correct 'node'.")
            at = self._host_of(node) or self.get_option("host")
            if not container or not at:
                raise Failure(
                    "invalid_option",
                    "It is not known by which node the container is entered.",
                    "Set proxmox_node, or ansible_pct_host to any node of the cluster.",
                )
            place = Place(container, at)
            if self.get_option("tool") == "pct" and not place.container.isdecimal():
                place = self._looked_up(place.container, at)
            self._place = self._remembered() or place
        return self._place

    @property
    def _container(self) -> str:
        # Under delegation inventory_hostname is the host that delegates (get_delegated_vars_and_hostname of Ansible's
        # vars/manager.py); where to, only the task says.
        delegate = getattr(self._play_context, "delegate_to", None)
        return str(self.get_option("container") or delegate or self.get_option("inventory_hostname") or "")

    def _host_of(self, node: str | None) -> str | None:
        return str((self.get_option("node_hosts") or {}).get(node) or node) if node else None

    def _looked_up(self, container: str, host: str) -> Place:
        """Ask the cluster by one of its nodes where a container is."""
        # The node says its own name first: an address that leads to it is as good as its name.
        line = f"uname -n; {guest_exec.for_login_shell([*self._node_become(), *guest_exec.RESOURCES])}"
        with self._towards(host):
            rc, stdout, stderr = super().exec_command(line, sudoable=False)
        if rc:
            said = " ".join(to_text(stderr).split())
            raise Failure("lookup_failed", f"{host} did not tell where {container} is: {said}", "Set proxmox_node.")
        name, _newline, listing = to_text(stdout).partition("\n")
        found = guest_exec.whereabouts(listing, container, host)
        here = found.node == name.partition(".")[0] and found.node not in (self.get_option("node_hosts") or {})
        return Place(found.vmid, host if here else str(self._host_of(found.node)))

    # --------------------------------------------------------------------------------- what was found out is remembered

    @property
    def _memory(self) -> str:
        options = [self.get_option(name) for name in ("node", "host", "port", "node_user", "node_hosts")]
        key = hashlib.sha256(json.dumps([self._container, *options], sort_keys=True, default=str).encode())
        return os.path.join(unfrackpath(self.get_option("control_path_dir")), f"pct-{key.hexdigest()[:16]}")

    def _remembered(self) -> Place | None:
        """Only of an id: a hostname may have got to another container since."""
        if not self._container.isdecimal() or self.get_option("tool") != "pct":
            return None
        try:
            with open(self._memory, encoding="utf-8") as file:
                return Place(self._container, file.read())
        except OSError:
            return None

    def _remember(self, place: Place) -> None:
        self._place = place
        if not self._container.isdecimal():
            return
        directory = os.path.dirname(self._memory)
        makedirs_safe(directory, 0o700)
        handle, part = tempfile.mkstemp(dir=directory)
        with open(handle, "w", encoding="utf-8") as file:
            file.write(place.host)
        os.replace(part, self._memory)

    def _forget(self) -> bool:
        """Whether there was something to forget."""
        self._place = None
        try:
            os.unlink(self._memory)
        except OSError:
            return False
        return True


def _text(failure: Failure) -> str:
    return f"{failure.sentence} [{failure.code}]"


def _error(failure: Failure) -> AnsibleError:
    return AnsibleError(_text(failure))


@contextlib.contextmanager
def _as_connection_failure() -> t.Iterator[None]:
    try:
        yield
    except Failure as failure:
        raise AnsibleConnectionFailure(_text(failure)) from None


def _control_path(command: t.Sequence[bytes]) -> bytes | None:
    """The socket of a multiplexed connection; None where ssh itself chooses its name, or there is none."""
    for word in command:
        if word.startswith(b"ControlPath="):
            path = word.partition(b"=")[2].strip(b'"')
            return None if b"%" in path or path.startswith(b"~") or path == b"none" else path
    return None


@contextlib.contextmanager
def _one_makes_the_connection(path: bytes | None, patience: float) -> t.Iterator[None]:
    """Of many that want the same connection at once, let one go ahead.

    Otherwise each would log in, and a node refuses that beyond ten at a time (MaxStartups). The others go on as soon as
    the connection is there, its making has ended in another way, or their patience has: never one after the other.
    """
    if path is None or os.path.exists(path) or not os.access(os.path.dirname(path) or ".", os.W_OK):
        yield
        return
    with open(path + b".lock", "wb") as lock:
        deadline = time.monotonic() + patience
        first = waited = False
        while not first and not os.path.exists(path) and time.monotonic() < deadline:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                first = True
            except BlockingIOError:
                waited = True
                time.sleep(POLL_SECONDS)
        if first and waited:
            fcntl.flock(lock, fcntl.LOCK_UN)
        yield
