# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading many containers with few requests: the work of ``lxc_container_info``.

``GET cluster/resources`` lists all containers in one request. Ids, nodes, pools, tags and locks come there from the
cluster's configuration and are current. Names, states and usage come from statistics that each node sends about every
ten seconds, and are dropped after five minutes (``extract_vm_stats`` of PVE/API2Tools.pm): a container that has just
been made has no name and the status ``unknown``. What the cluster does not know is read from the node, and with
``current`` everything is.
"""

from __future__ import annotations

import typing as t
from collections import defaultdict
from dataclasses import dataclass, field

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.access import Permissions, granted
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.parallel import in_parallel
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.addresses import (
    configured_addresses,
    interfaces_of,
    reachable_addresses,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.cluster import unknown_node
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.reading import container_status, read_container

GATHER = ("config", "pending", "snapshots", "interfaces", "usage")
STATUSES = ("running", "stopped", "unknown")

# The state document has not changed since 1.0.0 of the OCI runtime specification; readers of any 1.x take this one.
OCI_VERSION = "1.0.2"
ANNOTATION_PREFIX = "com.proxmox."

# Usage as the result names it, and as cluster/resources and as nodes/N/lxc name it.
USAGE = {
    "cpu": ("cpu",),
    "maxcpu": ("maxcpu", "cpus"),
    "mem": ("mem",),
    "maxmem": ("maxmem",),
    "disk": ("disk",),
    "maxdisk": ("maxdisk",),
    "diskread": ("diskread",),
    "diskwrite": ("diskwrite",),
    "netin": ("netin",),
    "netout": ("netout",),
    "uptime": ("uptime",),
}

# The status of one container costs a node about as much as a list's share of this many (measured with 40 containers).
LIST_SHARE = 6

# The node behind the API does not answer: nothing else needs to be asked of it.
NODE_SILENT = ("node_offline", "timeout")
# Nothing at all can be asked any more: this is no matter of one container.
SESSION_LOST = ("unreachable", "authentication_failed", "certificate_invalid")

Raw = t.Mapping[str, t.Any]
Answer = t.TypeVar("Answer")


@dataclass
class Entry:
    """One container of the list.

    hostname: None while nobody knows it.
    usage: as the result gives it; empty while nobody knows it.
    pid: of the container's init on the node; None when it does not run or was not read.
    fresh: whether name and status were read from the node.
    parts: what was gathered, by its name in ``GATHER``.
    failure: why something about it could not be read.
    """

    vmid: int
    node: str
    hostname: str | None = None
    status: str = "unknown"
    template: bool = False
    pool: str | None = None
    tags: tuple[str, ...] = ()
    lock: str | None = None
    usage: dict[str, t.Any] = field(default_factory=dict)
    pid: int | None = None
    fresh: bool = False
    parts: dict[str, t.Any] = field(default_factory=dict)
    failure: Failure | None = None

    @property
    def known(self) -> bool:
        """True when both its name and its state are known."""
        return self.hostname is not None and self.status != "unknown"

    @property
    def lost(self) -> bool:
        """True when its node says that it is not there: it was removed or migrated meanwhile."""
        return self.failure is not None and self.failure.code == "not_found"


@dataclass(frozen=True)
class Selection:
    """Which containers are wanted. A filter that is None lets every container pass, an empty one none.

    tags: all of them must be present.
    """

    vmids: t.Collection[int] | None = None
    hostnames: t.Sequence[str] | None = None
    nodes: t.Sequence[str] | None = None
    pools: t.Sequence[str] | None = None
    tags: t.Sequence[str] | None = None
    status: str | None = None

    @property
    def nothing(self) -> bool:
        """True when no container can pass."""
        return any(wanted is not None and not wanted for wanted in (self.vmids, self.hostnames, self.nodes, self.pools))

    def by_configuration(self, entry: Entry) -> bool:
        """Whether a container passes by what the cluster always knows."""
        return (
            _passes(self.vmids, entry.vmid)
            and _passes(self.nodes, entry.node)
            and _passes(self.pools, entry.pool)
            and {tag.lower() for tag in self.tags or ()} <= set(entry.tags)
        )

    def by_state(self, entry: Entry) -> bool:
        """Whether a container passes by what may have to be read from its node."""
        return _passes(self.hostnames, entry.hostname) and self.status in (None, entry.status)


def _passes(wanted: t.Collection[t.Any] | None, value: t.Any) -> bool:
    return wanted is None or value in wanted


# ------------------------------------------------------------------------------------------ what the API answers


def entry_of(raw: Raw) -> Entry:
    """A container as ``GET cluster/resources`` lists it."""
    return Entry(
        vmid=int(raw["vmid"]),
        node=str(raw["node"]),
        hostname=raw.get("name") or None,
        status=str(raw.get("status") or "unknown"),
        template=_flag(raw.get("template")),
        pool=raw.get("pool") or None,
        tags=properties.read("tags", raw.get("tags")) or (),
        lock=raw.get("lock") or None,
        usage=usage_of(raw),
    )


def nodes_of(resources: t.Iterable[Raw]) -> dict[str, str]:
    """The nodes and their states as ``GET cluster/resources`` lists them."""
    return {str(raw["node"]): str(raw.get("status")) for raw in resources if raw.get("type") == "node"}


def mark_offline(entries: t.Iterable[Entry], nodes: t.Mapping[str, str]) -> None:
    """Have nothing asked of nodes that are offline; the state that they sent last says nothing about now.

    A node without statistics is listed as ``unknown`` and may well answer (``extract_node_stats``).

    nodes: as ``nodes_of`` gives them.
    """
    for entry in entries:
        if nodes.get(entry.node) == "offline":
            entry.status = "unknown"
            entry.usage = {}
            entry.failure = Failure(
                "node_offline",
                f"{entry.node} is offline.",
                "What the cluster knows is listed; bring the node back to have the rest.",
                node=entry.node,
            )


def update(entry: Entry, raw: Raw) -> None:
    """Take over what the node says: an entry of ``GET nodes/N/lxc``, or ``GET status/current``.

    Both are ``vmstatus`` of PVE/LXC.pm, which always has a name, and leaves out what is not set.
    """
    entry.hostname = raw.get("name") or entry.hostname
    entry.status = str(raw.get("status") or "unknown")
    entry.template = _flag(raw.get("template"))
    entry.tags = properties.read("tags", raw.get("tags")) or ()
    entry.lock = raw.get("lock") or None
    entry.pid = int(raw["pid"]) if entry.status == "running" and raw.get("pid") else None
    entry.usage = usage_of(raw)
    entry.fresh = True


def usage_of(raw: Raw) -> dict[str, t.Any]:
    """The usage in an answer; empty when the answer has none, as for a container that has just been made."""
    found = {}
    for name, spellings in USAGE.items():
        value = next((raw[spelling] for spelling in spellings if raw.get(spelling) is not None), None)
        if value is not None:
            found[name] = value
    return {name: found.get(name) for name in USAGE} if "uptime" in found else {}


def snapshots_of(raw: t.Sequence[Raw] | None) -> list[dict[str, t.Any]]:
    """The snapshots, oldest first, without ``current``, which stands for the container itself."""
    return [
        {
            "name": str(snapshot["name"]),
            "description": str(snapshot.get("description") or "").rstrip("\n"),
            "snaptime": snapshot.get("snaptime"),
            "parent": snapshot.get("parent") or None,
        }
        for snapshot in sorted(raw or [], key=lambda snapshot: snapshot.get("snaptime") or 0)
        if snapshot["name"] != "current"
    ]


def _flag(value: t.Any) -> bool:
    return bool(int(value or 0))


# ---------------------------------------------------------------------------------------------------- the result


def oci_state(entry: Entry) -> dict[str, t.Any] | None:
    """The state document of the OCI runtime specification (runtime.md, "State"); None when the state is not known.

    A container that runs has its ``pid`` when that was read, which the specification requires on Linux.
    """
    status = oci_status(entry.status, entry.lock)
    if status is None:
        return None
    state: dict[str, t.Any] = {
        "ociVersion": OCI_VERSION,
        "id": str(entry.vmid),
        "status": status,
        # Where LXC has the container's configuration and mounts its root file system while it runs.
        "bundle": f"/var/lib/lxc/{entry.vmid}",
        "annotations": _annotations(entry),
    }
    if status == "running" and entry.pid is not None:
        state["pid"] = entry.pid
    return state


def oci_status(status: str, lock: str | None) -> str | None:
    """The specification's word for a state of Proxmox; None when the state is not known.

    The lock ``create`` is held while a container is created, restored, cloned or arrives from another cluster
    (PVE/API2/LXC.pm). ``created`` is not used: it means that the environment of the container process exists, which is
    not so for a container of Proxmox that does not run.
    """
    if lock == "create":
        return "creating"
    return status if status in ("running", "stopped") else None


def _annotations(entry: Entry) -> dict[str, str]:
    config = entry.parts.get("config") or {}
    facts = {
        "node": entry.node,
        "hostname": entry.hostname,
        "pool": entry.pool,
        "tags": ";".join(entry.tags),
        "lock": entry.lock,
        "template": "true" if entry.template else None,
        "description": str(config.get("description") or "").rstrip("\n"),
    }
    return {ANNOTATION_PREFIX + name: value for name, value in facts.items() if value}


def as_result(entry: Entry, gather: t.Collection[str]) -> dict[str, t.Any]:
    """One of the module's ``containers``; what was asked for and could not be read is None."""
    result: dict[str, t.Any] = {
        "vmid": entry.vmid,
        "node": entry.node,
        "hostname": entry.hostname,
        "status": entry.status,
        "template": entry.template,
        "pool": entry.pool,
        "tags": list(entry.tags),
        "lock": entry.lock,
        "uptime": entry.usage.get("uptime"),
        "oci_state": oci_state(entry),
    }
    for name in GATHER:
        if name in gather:
            result[name] = (entry.usage or None) if name == "usage" else entry.parts.get(name)
    if "interfaces" in gather or "config" in gather:
        result["addresses"] = _addresses(entry, gather)
    if entry.failure is not None:
        result["failure"] = entry.failure.as_dict()
    return result


def _addresses(entry: Entry, gather: t.Collection[str]) -> list[dict[str, str]] | None:
    if "interfaces" in gather:
        interfaces = entry.parts.get("interfaces")
        return None if interfaces is None else reachable_addresses(interfaces)
    config = entry.parts.get("config")
    return None if config is None else configured_addresses(config)


def warnings_of(entries: t.Iterable[Entry]) -> list[str]:
    """One warning for each node and cause, however many containers it concerns."""
    causes: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for entry in entries:
        if entry.failure is not None:
            causes[(entry.node, entry.failure.code)][entry.vmid] = entry.failure.sentence
    return [
        f"Not everything could be read about {', '.join(map(str, sorted(concerned)))} on {node} ({code}): "
        f"{concerned[min(concerned)]}"
        for (node, code), concerned in sorted(causes.items())
    ]


def blind_spots(permissions: Permissions, identity: str, selection: Selection, kind: str = "container") -> str | None:
    """What may be hidden from the user or token, when a list is empty; None when nothing is.

    kind: of guest, for the message.
    The lists leave out what may not be seen instead of refusing the request: a container without VM.Audit, and its pool
    without Pool.Audit (``resources`` of PVE/API2/Cluster.pm).
    """
    if not granted(permissions, "/vms", "VM.Audit"):
        paths = sorted(path for path, held in permissions.items() if "VM.Audit" in held)
        where = f"only on {', '.join(paths)}" if paths else "nowhere"
        return (
            f"No {kind} was found, but {identity} has VM.Audit {where}, and Proxmox lists no {kind} without it. "
            "Grant it to the user and, for a token with privilege separation, to the token as well."
        )
    hidden = [pool for pool in selection.pools or () if not granted(permissions, f"/pool/{pool}", "Pool.Audit")]
    if hidden:
        return (
            f"No container was found, but {identity} has no Pool.Audit on {', '.join(f'/pool/{p}' for p in hidden)}, "
            "and Proxmox does not tell the pool of a container without it."
        )
    return None


# ------------------------------------------------------------------------------------------------------- reading


def asks_singly(wanted: int, on_node: int) -> bool:
    """Whether a few containers are asked for one by one, rather than with the list of all on their node."""
    return wanted == 1 or wanted * LIST_SHARE <= on_node


class Survey:
    """Reads the containers that are wanted.

    gather: what is read about each, out of ``GATHER``.
    current: whether names, states, process ids and usage are read from the nodes.
    resources: what ``GET cluster/resources`` has just answered; None when it is still to be asked.
    """

    def __init__(
        self,
        client: Client,
        selection: Selection,
        gather: t.Collection[str],
        current: bool,
        resources: t.Sequence[Raw] | None = None,
    ) -> None:
        self._client = client
        self._resources = resources
        self._selection = selection
        self._gather = frozenset(gather)
        self._current = current
        self._nodes: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._silent: dict[str, Failure] = {}
        self._troubled: dict[int, Entry] = {}
        self._names: set[str | None] = set()

    def run(self) -> dict[str, t.Any]:
        """The result of the module.

        Raises:
            Failure: ``node_unknown``; ``node_offline`` and others when it cannot be told whether a container with a
                wanted name exists; what ends the session with the API.
        """
        if self._selection.nothing:
            return {"changed": False, "containers": [], "warnings": []}
        entries = self._select(self._read_cluster())
        lost = {entry.vmid for entry in entries if entry.lost}
        if lost:
            # Removed or migrated since the cluster's list was read: the list as it is now tells which.
            again = [entry for entry in self._read_cluster() if entry.vmid in lost]
            self._troubled = {vmid: entry for vmid, entry in self._troubled.items() if vmid not in lost}
            entries = [entry for entry in entries if entry.vmid not in lost] + self._select(again)
        warnings = warnings_of(self._troubled.values())
        if not entries:
            warnings += self._blind_spots()
        return {
            "changed": False,
            "containers": [as_result(entry, self._gather) for entry in sorted(entries, key=lambda entry: entry.vmid)],
            "warnings": warnings,
        }

    def _select(self, entries: t.Sequence[Entry]) -> list[Entry]:
        """The wanted ones among the entries, read; and those that turned out to be lost."""
        candidates = [entry for entry in entries if self._selection.by_configuration(entry)]
        mark_offline(candidates, self._nodes)
        self._refresh([entry for entry in candidates if self._current or not entry.known])
        self._refuse_unknown_names(candidates)
        selected = [entry for entry in candidates if entry.lost or self._selection.by_state(entry)]
        self._read_parts([entry for entry in selected if entry.failure is None])
        # Also those that did not pass: their state may just not be known.
        self._troubled.update((entry.vmid, entry) for entry in candidates if entry.failure is not None)
        return selected

    def _read_cluster(self) -> list[Entry]:
        resources = self._resources if self._resources is not None else self._client.get("cluster/resources") or []
        self._resources = None
        self._nodes = nodes_of(resources)
        for node in self._selection.nodes or ():
            if node not in self._nodes:
                raise unknown_node(node, self._nodes)
        entries = [entry_of(raw) for raw in resources if raw.get("type") == "lxc"]
        self._sizes = {node: sum(entry.node == node for entry in entries) for node in self._nodes}
        return entries

    def _refuse_unknown_names(self, candidates: t.Sequence[Entry]) -> None:
        """Refuse to say that no container has a name while some have none that could be read."""
        self._names.update(entry.hostname for entry in candidates)
        absent = set(self._selection.hostnames or ()) - self._names
        nameless = [entry for entry in candidates if entry.hostname is None and not entry.lost]
        reasons = [entry.failure for entry in nameless if entry.failure is not None]
        if absent and reasons:
            raise Failure(
                reasons[0].code,
                f"Whether {', '.join(sorted(absent))} exists cannot be told: the names of "
                f"{', '.join(str(entry.vmid) for entry in nameless)} could not be read. {reasons[0].message}",
                "Bring the nodes back, or give the vmid.",
                vmids=[entry.vmid for entry in nameless],
                nodes=sorted({entry.node for entry in nameless}),
            )

    # ---------------------------------------------------------------------------------------------- from the nodes

    def _refresh(self, entries: t.Sequence[Entry]) -> None:
        """Read names and states where they are current, with the cheaper of two ways for each node."""
        groups: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            if entry.failure is None:
                groups[entry.node].append(entry)
        jobs: list[list[Entry]] = []
        for node, group in groups.items():
            jobs += [[entry] for entry in group] if asks_singly(len(group), self._sizes.get(node, 0)) else [group]
        in_parallel(self._refresh_group, jobs, self._client.connections)

    def _refresh_group(self, group: list[Entry]) -> None:
        node = group[0].node
        if len(group) == 1:
            self._attempt(group, lambda: self._read_status(group[0]))
        else:
            self._attempt(group, lambda: self._take_over(group, self._client.get(f"nodes/{node}/lxc") or []))

    def _take_over(self, group: list[Entry], listed: t.Sequence[Raw]) -> None:
        found = {int(raw["vmid"]): raw for raw in listed}
        for entry in group:
            if entry.vmid in found:
                update(entry, found[entry.vmid])
            else:
                entry.failure = _gone(entry)

    def _read_status(self, entry: Entry) -> None:
        update(entry, container_status(self._client, entry.node, entry.vmid))

    def _read_parts(self, entries: t.Sequence[Entry]) -> None:
        """Gather what is asked for: all requests of all containers side by side."""
        readers: list[t.Callable[[Entry], None]] = []
        if self._gather & {"config", "pending"}:
            readers.append(self._read_config)
        if "snapshots" in self._gather:
            readers.append(self._read_snapshots)
        if "interfaces" in self._gather:
            readers.append(self._read_interfaces)
        jobs = [(entry, reader) for entry in entries for reader in readers]
        in_parallel(lambda job: self._attempt([job[0]], lambda: job[1](job[0])), jobs, self._client.connections)

    def _read_config(self, entry: Entry) -> None:
        # One request serves both: GET pending has the configuration as well.
        actual = read_container(self._client, entry.node, entry.vmid, entry.status)
        if actual is None:
            raise _gone(entry)
        entry.parts.update(config=actual.config, pending=actual.pending)

    def _read_snapshots(self, entry: Entry) -> None:
        entry.parts["snapshots"] = snapshots_of(self._client.get(f"nodes/{entry.node}/lxc/{entry.vmid}/snapshot"))

    def _read_interfaces(self, entry: Entry) -> None:
        """The interfaces of a container that runs, or may run: the cluster's state may be ten seconds old.

        A container that does not run, or is not on the node at all, has the answer null.
        """
        if entry.template or (entry.fresh and entry.status != "running"):
            entry.parts["interfaces"] = []
            return
        answer = self._client.get(f"nodes/{entry.node}/lxc/{entry.vmid}/interfaces")
        if bool(answer) != (entry.status == "running"):
            self._read_status(entry)
        entry.parts["interfaces"] = interfaces_of(answer)

    def _attempt(self, concerned: t.Sequence[Entry], work: t.Callable[[], None]) -> None:
        """Do what may fail for some containers without failing for the others."""
        node = concerned[0].node
        failure = self._silent.get(node)
        if failure is None:
            try:
                work()
                return
            except Failure as error:
                if error.code in SESSION_LOST:
                    raise
                failure = error
                if error.code in NODE_SILENT:
                    self._silent[node] = error
        for entry in concerned:
            entry.failure = failure

    def _blind_spots(self) -> list[str]:
        credentials = self._client.credentials
        if credentials.is_root_with_password:
            return []
        permissions = self._client.get("access/permissions") or {}
        hint = blind_spots(permissions, credentials.identity, self._selection)
        return [hint] if hint else []


def _gone(entry: Entry) -> Failure:
    return Failure(
        "not_found",
        f"Container {entry.vmid} is not on {entry.node}.",
        "It is being migrated or removed; run again.",
        vmid=entry.vmid,
        node=entry.node,
    )
