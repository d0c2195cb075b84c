# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The containers that a task names by vmid or hostname: finding them, and what a module returns of each."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure, combined
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.tasks import Log
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.cluster import Cluster
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import Actual, Plan
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.reading import read_container
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import invalid
from ansible_collections.lxcri.proxmox.plugins.module_utils.retention import RULES, retain


@dataclass
class Target:
    """One container of a task, and what becomes of it.

    hostname: by which it was asked for; None when by its vmid.
    assumed: its node is what the task says, and it may be elsewhere.
    """

    label: str
    container: Actual | None = None
    plan: Plan = field(default_factory=Plan)
    log: Log = field(default_factory=Log)
    failure: Failure | None = None
    hostname: str | None = None
    assumed: bool = False

    def as_dict(self) -> dict[str, t.Any]:
        """One entry of a module's ``containers``."""
        entry: dict[str, t.Any] = {
            "hostname": self.label,
            "vmid": self.container.vmid if self.container else None,
            "node": self.container.node if self.container else None,
            "changed": self.plan.changed,
            "plan": [change.as_dict() for change in self.plan.changes],
            "tasks": self.log.as_list(),
            "notes": self.plan.notes,
        }
        if self.failure:
            entry["failure"] = self.failure.as_dict()
        return entry


AnyTarget = t.TypeVar("AnyTarget", bound=Target)


# ---------------------------------------------------------------------------------------------------- the options


def check_targets(params: t.Mapping[str, t.Any]) -> None:
    """Refuse options that name no container, or name it in a way that cannot be meant.

    Raises:
        Failure: ``invalid_option``.
    """
    if not params["vmid"] and not params["hostname"]:
        raise invalid("vmid", "give vmid or hostname, by which the containers are identified")
    if params["node"] and (len(params["vmid"]) != 1 or params["hostname"]):
        raise invalid("node", "it is of use with exactly one vmid")
    if "" in params["hostname"]:
        raise invalid("hostname", "a name is empty")
    if params["concurrency"] < 1:
        raise invalid("concurrency", "at least one container has to be worked on at a time")


def checked_keep(given: t.Mapping[str, int | None] | None) -> dict[str, int] | None:
    """The rules of retention that the option ``keep`` gives; None without it.

    Raises:
        Failure: ``invalid_option``.
    """
    if given is None:
        return None
    keep = {rule: count for rule, count in given.items() if count is not None}
    for rule, count in keep.items():
        if count < 0:
            raise invalid(f"keep.{rule}", f"{count} is less than nothing")
    if not any(keep.values()):
        raise invalid("keep", "no rule keeps anything; give one of " + ", ".join(RULES) + ", or leave keep out")
    return keep


def checked_zone(name: str | None) -> str | None:
    """The time zone of the option ``keep_timezone``.

    Raises:
        Failure: ``invalid_option``.
    """
    if not name:
        return None
    try:
        retain([], {}, name)
    except ValueError:
        raise invalid("keep_timezone", f"{name!r} is not a time zone such as Europe/Vienna") from None
    return name


# ------------------------------------------------------------------------------------------------------- finding


class Targets(t.Generic[AnyTarget]):
    """Finds containers.

    make: the class of their results.
    """

    def __init__(self, client: Client, make: type[AnyTarget]) -> None:
        self._client = client
        self._make = make
        self.cluster = Cluster(client)

    def find(self, vmids: t.Sequence[int], hostnames: t.Sequence[str], node: str | None) -> list[AnyTarget]:
        """All of them; what cannot be found has its failure.

        node: where the one container is, which saves a request.

        Raises:
            Failure: ``invalid_option``: a container is named twice.
        """
        if node and len(vmids) == 1 and not hostnames:
            return [self._make(f"container {vmids[0]}", Actual(vmids[0], node), assumed=True)]
        if hostnames:
            names = {guest.name for guest in self.cluster.guests}
            if set(hostnames) - names:
                self.cluster.refresh(self.cluster.online_nodes)
            self.cluster.name_the_nameless()
        found = [self.locate(vmid=vmid) for vmid in vmids] + [self.locate(hostname=name) for name in hostnames]
        seen: dict[int, str] = {}
        for target in found:
            if target.container:
                vmid = target.container.vmid
                if vmid in seen:
                    raise invalid("hostname", f"{seen[vmid]} and {target.label} are the same container ({vmid})")
                seen[vmid] = target.label
        return found

    def locate(self, vmid: int | None = None, hostname: str | None = None) -> AnyTarget:
        """One of them, as the cluster knows it."""
        target = self._make(hostname or f"container {vmid}", hostname=hostname)
        try:
            if vmid is not None:
                guest = self.cluster.container(vmid)
            else:
                guest = self.cluster.by_hostname(hostname or "", exhaustive=False)
            if guest is None:
                raise Failure("not_found", f"{target.label} does not exist.", "Check the vmid or the hostname.")
            self.cluster.refuse_offline(guest)
        except Failure as failure:
            target.failure = failure
            return target
        known = {"hostname": guest.name} if guest.name else {}
        target.label = guest.name or target.label
        target.container = Actual(guest.vmid, guest.node, current=known, pool=guest.pool)
        return target

    def read_current(self, target: Target, status: str | None) -> Actual:
        """A container as it is now, before something is changed.

        The cluster's list keeps a name for ten seconds after a container has given it up, long enough to change the
        wrong one; here the name is current.

        status: when it is known, or of no interest.

        Raises:
            Failure: ``not_found``: it has vanished, or is called otherwise by now.
        """
        listed = t.cast(Actual, target.container)
        container = read_container(self._client, listed.node, listed.vmid, status)
        if container is None:
            raise Failure("not_found", f"{called(listed)} has vanished.", "Run again.", vmid=listed.vmid)
        if target.hostname and container.hostname != target.hostname:
            raise Failure(
                "not_found",
                f"Container {container.vmid} is called {container.hostname} by now, no longer {target.hostname}.",
                "Give the vmid, or run again in ten seconds, when the cluster knows the new names.",
                vmid=container.vmid,
                hostname=container.hostname,
            )
        container.pool = listed.pool
        return container


def called(container: Actual) -> str:
    """A container in a sentence; its hostname is not always read."""
    name = container.current.get("hostname")
    return f"{name} ({container.vmid})" if name else f"container {container.vmid}"


def refuse_locked(actual: Actual) -> None:
    """Refuse a container on which an operation is under way.

    Raises:
        Failure: ``locked``.
    """
    if actual.lock:
        raise Failure(
            "locked",
            f"{called(actual)} is locked ({actual.lock}).",
            "Wait for the operation that holds the lock, or remove a stale lock on the node with 'pct unlock'.",
            lock=actual.lock,
            vmid=actual.vmid,
        )


# ------------------------------------------------------------------------------------------------------- results


def targets_result(targets: t.Sequence[Target], **more: t.Any) -> dict[str, t.Any]:
    """The result of a module that works on containers; ``more`` is what else it returns."""
    failed = [(target.label, target.failure) for target in targets if target.failure]
    answer: dict[str, t.Any] = {
        "changed": any(target.plan.changed for target in targets),
        **more,
        "containers": [target.as_dict() for target in targets],
        "diff": [target.plan.diff(target.label) for target in targets if target.plan.changed],
        "warnings": [f"{target.label}: {line}" for target in targets for line in target.log.warnings],
    }
    if failed:
        failure = combined(failed, len(targets))
        answer.update(msg=failure.sentence, failure=failure.as_dict())
    return answer
