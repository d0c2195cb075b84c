# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carrying out the steps of a plan."""

from __future__ import annotations

import functools
import threading
import time
import typing as t
from dataclasses import replace

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.plan import Step
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.tasks import (
    HA_TASKS,
    Log,
    TaskWatcher,
    is_upid,
    type_of,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.image import (
    IMPORTED_KEYS,
    IMPORTED_LINES,
    lines_of_user,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import HOLDER, VMID, is_volume_key
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.reading import interface_addresses

# A task that could not get the lock has done nothing; it is started again this often in all.
TASK_TRIES = 4
# How often a description is read anew because somebody else has changed the container.
DESCRIBE_TRIES = 4
FIRST_POLL = 0.2
LAST_POLL = 2.0
VMID_TRIES = 100

# Steps that make a container, and the parameter by which each takes the id.
_MAKING = {"created": "vmid", "restored": "vmid", "cloned": "newid", "reserved": "vmid"}
# Steps that bring an image to a storage, which one of several containers does for all.
FETCHING = ("pulled", "uploaded")

# States of a resource that the HA manager moves (next_state_migrate_relocate of PVE/HA/Manager.pm).
HA_MOVING = ("migrate", "relocate")

# Keys that a creation sets by itself when they are not given, or that change nothing.
_OF_CREATION = ("lxc", "digest", "arch", "ostype", "hostname", "memory", "swap", "rootfs", "description")

# action, seconds
Progress = t.Callable[[str, float], None]
# a fetching step, and what carries it out
Fetch = t.Callable[[Step, t.Callable[[], None]], None]


class VmidAllocator:
    """Hands out container ids that are probably free. Safe to use from several threads.

    ``GET /cluster/nextid`` reserves nothing: only the creation itself decides, and is tried again with another id.
    """

    def __init__(self, client: Client, taken: t.Iterable[int] = ()) -> None:
        self._client = client
        self._taken = set(taken)
        self._lock = threading.Lock()
        self._next: int | None = None

    def take(self) -> int:
        """An id that this process has not given to anybody yet."""
        with self._lock:
            if self._next is None:
                self._next = int(self._client.get("cluster/nextid"))
            while self._next in self._taken:
                self._next += 1
            self._taken.add(self._next)
            return self._next

    def refused(self) -> None:
        """An id was taken by somebody else: ask the cluster again."""
        with self._lock:
            self._next = None


# ---------------------------------------------------------------------------------------------------- applying


class Executor:
    """Sends the steps of one container's plan, one after the other."""

    def __init__(
        self,
        client: Client,
        watcher: TaskWatcher,
        vmids: VmidAllocator,
        timeout: float,
        progress: Progress | None = None,
        sleep: t.Callable[[float], None] = time.sleep,
        fetch: Fetch | None = None,
    ) -> None:
        self._client = client
        self._watcher = watcher
        self._vmids = vmids
        self._timeout = timeout
        self._progress = progress or (lambda _action, _seconds: None)
        self._sleep = sleep
        self._fetch = fetch or (lambda _step, act: act())
        self._holder: int | None = None
        self.log = Log()

    def run(self, steps: t.Sequence[Step], vmid: int | None, digest: str | None) -> int:
        """Carry out the steps; the container's id.

        vmid: None when the first of the steps makes the container and any free id will do.
        digest: of the configuration that the plan was made for.

        Raises:
            Failure: the first step that failed; those before it are done.
        """
        chosen = vmid
        for step in steps:
            began = time.monotonic()
            if step.action == "reserved":
                self._holder = self._create(step)
            elif chosen is None and step.action in _MAKING:
                chosen = self._create(step)
            elif step.action in FETCHING:
                self._fetch(step, functools.partial(self._send, step, step.path, step.params))
            elif step.check:
                CHECKS[step.check](self._client.get(self._named(step.path, chosen)), step.payload)
            else:
                params = {name: self._named(value, chosen) for name, value in step.params.items()}
                if step.action in _MAKING:
                    params[_MAKING[step.action]] = chosen
                if step.digest:
                    params["digest"] = digest or self._digest(step.path)
                    digest = None
                try:
                    self._send(step, self._named(step.path, chosen), params)
                except Failure as failure:
                    if step.on_failure:
                        self._start_again(step.on_failure, failure)
                    raise
            self._progress(step.action, time.monotonic() - began)
        return chosen or 0

    def _start_again(self, step: Step, failure: Failure) -> None:
        """Start what the plan has stopped, and say in the failure of what it was stopped for whether it runs."""
        try:
            self._send(step, step.path, step.params)
            failure.message += " It was stopped for this and is started again."
        except Failure as reason:
            failure.message += f" It was stopped for this and could not be started again: {reason.message}"

    def send(self, step: Step) -> None:
        """Carry out a step that names no container: nothing in it stands for an id.

        Raises:
            Failure: it failed.
        """
        began = time.monotonic()
        self._send(step, step.path, step.params)
        self._progress(step.action, time.monotonic() - began)

    def describe(self, step: Step, vmid: int, digest: str | None, edit: t.Callable[[t.Any], str]) -> None:
        """Write into a description as it is now; what somebody else has written meanwhile stays.

        step: the request. digest: of the configuration that it was made for; None to read the description first.
        edit: the new text for the one that is there.

        Raises:
            Failure: it was not written.
        """
        for attempt in range(1, DESCRIBE_TRIES + 1):
            if digest is None:
                config = self._client.get(step.path)
                digest = config.get("digest")
                step = replace(step, params=description_params(edit(config.get("description"))))
            try:
                self.run([step], vmid, digest)
                return
            except Failure as failure:
                if failure.code != "modified" or attempt == DESCRIBE_TRIES:
                    raise
                digest = None

    def _named(self, value: t.Any, chosen: int | None) -> t.Any:
        """A path or a parameter with the ids that were chosen."""
        if not isinstance(value, str):
            return value
        return value.replace(VMID, str(chosen)).replace(HOLDER, str(self._holder))

    def _digest(self, path: str) -> str | None:
        return t.cast("str | None", self._client.get(path).get("digest"))

    def _create(self, step: Step) -> int:
        name = _MAKING[step.action]
        for _attempt in range(VMID_TRIES):
            vmid = self._vmids.take()
            try:
                self._send(step, step.path, {**step.params, name: vmid})
                return vmid
            except Failure as failure:
                if failure.code != "vmid_in_use":
                    raise
                self._vmids.refused()
        raise Failure("vmid_in_use", f"No free vmid was found in {VMID_TRIES} tries.", "Give vmid.")

    def _send(self, step: Step, path: str, params: t.Mapping[str, t.Any]) -> None:
        """One request and, when it starts a task, its end."""
        deadline = time.monotonic() + self._timeout
        tries = 0
        while True:
            tries += 1
            try:
                self._send_once(step, path, params)
                return
            except Failure as failure:
                if not _may_repeat(step, failure, tries, deadline):
                    if _is_done_already(step, failure):
                        return
                    raise
            self._sleep(min(FIRST_POLL * 2**tries, LAST_POLL))

    def _send_once(self, step: Step, path: str, params: t.Mapping[str, t.Any]) -> None:
        answer = self._client.request(step.method, path, params)
        if is_upid(answer):
            # What a container has to shut down comes before what the task needs besides.
            limit = self._timeout + float(params.get("timeout") or 0)
            self.log.tasks.append(self._watcher.wait(answer, limit))
            if type_of(answer) in (*HA_TASKS, "vzreboot"):
                # These tasks end before the container has its new state: the HA manager, or systemd, makes it so.
                self._await_state(path, params, limit)
        elif step.action == "made a template":
            self._await_template(path)

    def _await_state(self, path: str, params: t.Mapping[str, t.Any], limit: float) -> None:
        if path.endswith("/migrate"):
            _nodes, _node, kind, vmid, _call = path.split("/")
            self._await_arrival(kind, int(vmid), str(params["target"]), limit)
            return
        base = path.partition("/status/")[0]
        wanted = "stopped" if path.endswith(("/stop", "/shutdown")) else "running"
        status = f"{base}/status/current"
        self._poll(lambda: self._client.get(status).get("status") == wanted, f"was {wanted}", limit)

    def _await_arrival(self, kind: str, vmid: int, target: str, limit: float) -> None:
        """Wait until the HA manager has moved a container, or has given it up and started it where it was."""
        was_moving = False

        def arrived() -> bool:
            nonlocal was_moving
            resources = self._client.get("cluster/resources", type="vm") or []
            state = next((entry.get("hastate") for entry in resources if entry.get("vmid") == vmid), None)
            if self._exists(f"nodes/{target}/{kind}/{vmid}"):
                return True
            if was_moving and state not in HA_MOVING:
                raise Failure(
                    "task_failed",
                    f"The HA manager did not move container {vmid} to {target}.",
                    "See why in the task vzmigrate, and in the log of pve-ha-lrm on the node where it is.",
                    vmid=vmid,
                    target=target,
                )
            was_moving = state in HA_MOVING
            return False

        self._poll(arrived, f"arrived on {target}", limit)

    def _exists(self, base: str) -> bool:
        try:
            self._client.get(f"{base}/config")
            return True
        except Failure as failure:
            if failure.code == "not_found":
                return False
            raise

    def _await_template(self, path: str) -> None:
        """The conversion answers nothing, and its task is in the node's list only."""
        base = path.rpartition("/")[0]
        node, vmid = base.split("/")[1], base.split("/")[3]
        listed = self._client.get(f"nodes/{node}/tasks", source="all", vmid=vmid, typefilter="vztemplate", limit=5)
        upids = sorted(
            (entry for entry in listed or [] if entry.get("type") == "vztemplate" and str(entry.get("id")) == vmid),
            key=lambda entry: entry.get("starttime", 0),
        )
        if upids:
            self.log.tasks.append(self._watcher.wait(str(upids[-1]["upid"]), self._timeout))
        self._poll(lambda: bool(self._client.get(f"{base}/config").get("template")), "was a template", self._timeout)

    def _poll(self, done: t.Callable[[], bool], what: str, limit: float) -> None:
        deadline = time.monotonic() + limit
        pause = FIRST_POLL
        while not done():
            if time.monotonic() > deadline:
                message = f"The container never {what} within {limit:g} s."
                raise Failure("timeout", message, "Raise 'timeout'.", state=what)
            self._sleep(pause)
            pause = min(pause * 1.5, LAST_POLL)

    # ------------------------------------------------------------------------------------------------ addresses

    def await_address(self, node: str, vmid: int, timeout: float) -> list[dict[str, str]]:
        """Wait until a running container has an address that others can reach.

        Raises:
            Failure: ``no_address`` after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        pause = FIRST_POLL
        while True:
            found = interface_addresses(self._client, node, vmid)
            if found:
                return found
            if time.monotonic() > deadline:
                raise Failure(
                    "no_address",
                    f"Container {vmid} has no address after {timeout:g} s.",
                    "Check its network, or raise 'address_timeout'.",
                    vmid=vmid,
                )
            self._sleep(pause)
            pause = min(pause * 1.5, LAST_POLL)


def description_params(text: str) -> dict[str, t.Any]:
    """The parameters of a PUT that sets a description, or removes an empty one."""
    return {"description": text} if text else {"delete": "description"}


def _refuse_volumes(config: t.Mapping[str, t.Any], _payload: t.Any) -> None:
    """Refuse to remove a container that has got a volume since the plan was made."""
    found = {key: text for key, text in config.items() if is_volume_key(key) and key != "rootfs"}
    if found:
        raise Failure(
            "would_lose_data",
            f"The container that is to be removed has {', '.join(found)}.",
            "Somebody has added that; run again.",
            volumes=list(map(str, found.values())),
        )


def _refuse_protection(config: t.Mapping[str, t.Any], _payload: t.Any) -> None:
    """Refuse to move a volume to a protected container: Proxmox would take it from its own one, and then fail."""
    if properties.read("protection", config.get("protection")) is True:
        raise Failure(
            "protected",
            f"{config.get('hostname')}, which is to get volumes, is protected.",
            "Remove its protection, and run again.",
        )


def _refuse_import(config: t.Mapping[str, t.Any], made_of: tuple[t.Mapping[str, t.Any], str]) -> None:
    """Refuse what a registry has given to Proxmox, but not to who looked at the image before; and root for a user.

    made_of: the parameters of the creation, and ``User`` of the image.
    """
    sent, user = made_of
    _refuse_root(config, user)
    foreign = [f"{key}: {value}" for key, value in config.get("lxc") or () if key not in IMPORTED_LINES]
    sent = {"unprivileged": 1, **sent}
    for key, value in config.items():
        if key in (*IMPORTED_KEYS, *_OF_CREATION):
            continue
        # Volumes get their names, and interfaces their addresses.
        named = properties.is_mount(key) or key.startswith("net")
        same = properties.equal(key, properties.read(key, sent.get(key)), properties.read(key, value))
        if key not in sent or not (named or same):
            foreign.append(f"{key}: {value}")
    if foreign:
        raise Failure(
            "image_rejected",
            f"The image has brought lines into the container's configuration: {'; '.join(foreign)}.",
            "The container is there but was not started. Remove it, and do not use this image.",
            lines=foreign,
        )


def _refuse_root(config: t.Mapping[str, t.Any], user: str) -> None:
    """Refuse a container whose user Proxmox has not found: it would run as root (``resolve_oci_user``)."""
    there = [key for key, _value in config.get("lxc") or ()]
    if not set(lines_of_user(user)) <= set(there):
        raise Failure(
            "user_unknown",
            f"The root file system of the image has no user or group {user!r}; the container would run as root.",
            "The container is there but was not started. Remove it, and correct User of the image.",
            user=user,
        )


CHECKS: dict[str, t.Callable[[t.Mapping[str, t.Any], t.Any], None]] = {
    "only_root": _refuse_volumes,
    "unprotected": _refuse_protection,
    "imported": _refuse_import,
}


def _may_repeat(step: Step, failure: Failure, tries: int, deadline: float) -> bool:
    """Whether nothing was executed, and trying again is likely to help."""
    if time.monotonic() > deadline:
        return False
    if failure.code == "lock_timeout":
        # The client has repeated a refused request already; what is repeated here is a task.
        return tries < TASK_TRIES and "upid" in failure.details
    # Clones of one source exclude each other while the source's disks are read.
    return step.action == "cloned" and failure.code == "locked" and failure.details.get("lock") == "disk"


def _is_done_already(step: Step, failure: Failure) -> bool:
    """Somebody else was faster: the container is in the state that the step was to make."""
    if failure.code == "already_running":
        return step.path.endswith("/status/start")
    if failure.code == "not_running":
        return step.path.endswith(("/status/stop", "/status/shutdown"))
    if failure.code in ("not_found", "snapshot_missing"):
        return step.method == "DELETE"
    if failure.code == "file_exists":
        # A pull writes under another name until it is done.
        return step.action == "pulled"
    return failure.code == "already_at_size"
