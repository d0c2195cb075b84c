# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes, removes and holds checkpoints of containers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
import typing as t
import uuid
from dataclasses import dataclass, field, replace

from ..api.errors import Failure
from ..node.commands import Run
from ..node.files import read_text
from ..node.proxmox import section
from ..retention import Entry, future_dated, retain
from . import journal
from . import memory as process_memory
from .failures import zfs_failure
from .freeze import LIMIT, Frozen, thaw_leftovers
from .host import PVE, Container, Host, Zfs, section_config
from .model import (
    COMPLETE,
    ID,
    Checkpoint,
    Dataset,
    Member,
    Part,
    Snapshot,
    checkpoints,
    encode,
    in_order,
)
from .steps import reached
from .store import Store

PREFIX = "lxcri-"
SAFETY_TAG = "lxcri:safety"
# What ZFS takes for the name of a snapshot, and what cannot be mistaken for an option.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}")
# What Proxmox takes (pve-configid), for its own snapshots.
PROXMOX_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{1,39}")
# Of a snapshot that Proxmox takes for a checkpoint.
DESCRIPTION = "Checkpoint of lxcri.proxmox"
MOUNTS = "/proc/self/mounts"
VZDUMP_CONF = "/etc/vzdump.conf"
# One argument list has room for 128 KiB and more; this keeps far from it.
_ARGUMENTS = 100_000

# What a run that only predicts has predicted: checkpoints as they will be, or None, by the container and the name.
Expected = t.Mapping[tuple[str, str], t.Optional[Checkpoint]]


@dataclass
class Outcome:
    """What becomes of one container. plan: what changes, as data. timings: seconds by kind of work.

    expected: in check mode, the checkpoints that the plan changes, by their names, as they will be; None for gone.
    """

    container: str
    name: str | None = None
    plan: list[dict[str, t.Any]] = field(default_factory=list)
    method: str | None = None
    reasons: list[str] = field(default_factory=list)
    checkpoint: Checkpoint | None = None
    notes: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    expected: dict[str, Checkpoint | None] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether there is something to do."""
        return bool(self.plan)

    def add(self, key: str, before: t.Any, after: t.Any) -> None:
        """Plan a change."""
        self.plan.append({"key": key, "before": before, "after": after})

    def as_dict(self) -> dict[str, t.Any]:
        """The result of a module for this container."""
        return {
            "container": self.container,
            "name": self.name,
            "changed": self.changed,
            "plan": self.plan,
            "method": self.method,
            "reasons": self.reasons,
            "checkpoint": describe(self.checkpoint) if self.checkpoint else None,
            "notes": self.notes,
            "timings": {kind: round(seconds, 3) for kind, seconds in self.timings.items()},
        }


def describe(checkpoint: Checkpoint) -> dict[str, t.Any]:
    """A checkpoint as plain data."""
    return {
        "container": checkpoint.container,
        "name": checkpoint.name,
        "id": checkpoint.id,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(checkpoint.created)),
        "complete": checkpoint.complete,
        "safety": checkpoint.safety,
        "method": checkpoint.method,
        "reasons": list(checkpoint.reasons),
        "memory": checkpoint.memory,
        "archive": checkpoint.archive,
        "holds": checkpoint.holds,
        "clones": checkpoint.clones,
        "members": [
            {
                "dataset": snapshot.dataset,
                "snapshot": snapshot.short,
                "guid": snapshot.guid,
                "used": snapshot.used,
                "written": snapshot.written,
                "referenced": snapshot.referenced,
            }
            for snapshot in checkpoint.snapshots
        ],
    }


def stamp(prefix: str = PREFIX, now: float | None = None) -> str:
    """A name with the time in UTC."""
    return prefix + time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))


def check_name(name: str) -> str:
    """A name that ZFS takes.

    Raises:
        Failure: ``invalid_option``.
    """
    if not NAME.fullmatch(name):
        raise Failure(
            "invalid_option",
            f"name: {name!r} cannot be the name of a checkpoint.",
            "Use up to a hundred letters, digits and the characters _ . : -, beginning with a letter or digit.",
        )
    return name


def check_tag(tag: str) -> None:
    """See that ZFS takes a tag for a hold.

    Raises:
        Failure: ``invalid_option``.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,200}", tag):
        raise Failure("invalid_option", f"{tag!r} cannot be the tag of a hold.")


def check_keep(keep: t.Mapping[str, int | None], timezone: str | None) -> dict[str, int]:
    """The rules that are given.

    Raises:
        Failure: ``invalid_option``: a rule or a time zone that is none.
    """
    rules = {rule: number for rule, number in keep.items() if number is not None}
    expired([], rules, timezone, (), 0)
    return rules


# -------------------------------------------------------------------------------------------------------- reading


def known(
    host: Host, containers: t.Sequence[Container], store: Store, expected: Expected | None = None
) -> tuple[dict[str, Dataset], dict[str, list[Checkpoint]]]:
    """The datasets of containers, and their checkpoints from the oldest to the newest. One zfs call as a rule.

    Volumes that a checkpoint has and the container no longer are read as well. expected: replaces what is there.
    """
    names = [dataset for container in containers for dataset in container.datasets]
    datasets = host.zfs.read(names)
    ids = {container.id for container in containers}
    found = [checkpoint for checkpoint in checkpoints(datasets) if checkpoint.container in ids]
    detached = {member.dataset for checkpoint in found for member in checkpoint.part.members} - set(datasets)
    homes = {dataset.home for dataset in datasets.values()}
    if detached - homes:
        datasets = {**host.zfs.read(sorted(detached - homes)), **datasets}
        found = [checkpoint for checkpoint in checkpoints(datasets) if checkpoint.container in ids]
    result: dict[str, list[Checkpoint]] = {container.id: [] for container in containers}
    for checkpoint in found:
        result[checkpoint.container].append(_with_record(checkpoint, store))
    for container in containers:
        zfs_names = {checkpoint.name for checkpoint in result[container.id]}
        others = [_from_record(container, name, store) for name in store.names(container.id) if name not in zfs_names]
        result[container.id] = in_order([*result[container.id], *filter(None, others)])
    for (container_id, name), after in (expected or {}).items():
        if container_id in result:
            result[container_id] = _replaced(result[container_id], name, after)
    return datasets, result


def _replaced(there: t.Sequence[Checkpoint], name: str, checkpoint: Checkpoint | None) -> list[Checkpoint]:
    """With the checkpoint instead of the one of that name: in its place if it is the same one, else as the newest."""
    if checkpoint and checkpoint.id in {c.id for c in there}:
        return [checkpoint if c.id == checkpoint.id else c for c in there]
    return [*(c for c in there if c.name != name), *([checkpoint] if checkpoint else [])]


def _record(container: str, name: str, store: Store) -> dict[str, t.Any]:
    try:
        record = json.loads(store.load(container, name).get("record", "{}"))
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _digest(config: str) -> str:
    return hashlib.sha256(config.encode(errors="surrogateescape")).hexdigest()


def files_of(checkpoint: Checkpoint, store: Store) -> dict[str, str]:
    """The configuration and the firewall rules that belong to a checkpoint; empty ones are left out.

    Raises:
        Failure: ``config_missing``: what there is of that name, if anything, belongs to another checkpoint.
    """
    files = store.load(checkpoint.container, checkpoint.name)
    # An empty file is not kept: on plain LXC there may be no configuration.
    config = files.setdefault("config", "")
    if _digest(config) != checkpoint.part.config if checkpoint.method == "zfs" else not config:
        raise Failure(
            "config_missing",
            f"The configuration that belongs to the checkpoint {checkpoint.name} of {checkpoint.container} is not on "
            "this machine.",
            f"It is expected in {store.directory(checkpoint.container, checkpoint.name)}.",
            container=checkpoint.container,
        )
    return files


def _with_record(checkpoint: Checkpoint, store: Store) -> Checkpoint:
    record = _record(checkpoint.container, checkpoint.name, store)
    if record.get("id") != checkpoint.id:
        return checkpoint
    return replace(
        checkpoint, memory=bool(record.get("memory")), reasons=tuple(str(reason) for reason in record["reasons"])
    )


def _from_record(container: Container, name: str, store: Store) -> Checkpoint | None:
    """A checkpoint that Proxmox makes or has made; None when the record is one of ZFS, whose snapshots are gone."""
    record = _record(container.id, name, store)
    if record.get("method") not in ("snapshot", "vzdump"):
        return None
    archive: str | None = record.get("archive") or _archive(read_text(_log(container.id, name, store)) or "")
    # Whoever removes by Proxmox what it has made does not remove the record.
    there = _is_ours(container, name) if record["method"] == "snapshot" else _archived(archive)
    return Checkpoint(
        container=container.id,
        name=name,
        id=str(record["id"]),
        created=int(record["created"]),
        part=Part(()),
        snapshots=(),
        complete=there and not record.get("pending"),
        method=record["method"],
        reasons=tuple(str(reason) for reason in record["reasons"]),
        archive=archive,
    )


def _archived(archive: str | None) -> bool:
    """Whether a backup is there. Of a storage that is away nothing is known, so it counts as there."""
    return archive is not None and (os.path.exists(archive) or not _storage_there(archive))


def _storage_there(archive: str) -> bool:
    return os.path.isdir(os.path.dirname(archive))


def _log(container: str, name: str, store: Store) -> str:
    """Where the words of Proxmox are."""
    return os.path.join(store.directory(container, name), "log")


def _archive(log: str) -> str | None:
    found = re.search(r"creating vzdump archive '([^']+)'", log)
    return found.group(1) if found else None


def require_volumes(host: Host, container: Container, datasets: t.Mapping[str, Dataset]) -> None:
    """See that every volume on ZFS is there.

    Raises:
        Failure: ``pool_unavailable``, ``volume_missing``.
    """
    for volume in container.volumes:
        if volume.dataset and volume.dataset not in datasets:
            what = f"{volume.dataset} ({volume.key} of {container.id})"
            hint = "Correct the container's configuration, or bring the volume back."
            raise not_there(host, container, volume.dataset, what, hint)


def not_there(host: Host, container: Container, dataset: str, what: str, hint: str) -> Failure:
    """A dataset is not there, or its whole pool is not."""
    pool = dataset.split("/", maxsplit=1)[0]
    if host.run(["zpool", "list", "-H", "-o", "name", pool], timeout=30).rc:
        return Failure(
            "pool_unavailable",
            f"{what}: the pool {pool} is not imported.",
            "Import it with 'zpool import'.",
            dataset=dataset,
            pool=pool,
            container=container.id,
        )
    return Failure("volume_missing", f"{what} is not there.", hint, dataset=dataset, container=container.id)


def require_unlocked(container: Container) -> None:
    """See that no operation of Proxmox is under way or was left unfinished.

    Raises:
        Failure: ``locked``.
    """
    if container.lock:
        raise Failure(
            "locked",
            f"Container {container.id} is locked ({container.lock}).",
            "Wait for the operation that holds the lock, or remove a stale lock with 'pct unlock'.",
            container=container.id,
            lock=container.lock,
        )


def choose_method(host: Host, container: Container) -> tuple[str, list[str]]:
    """How a container is checkpointed: ``zfs``, ``snapshot`` or ``vzdump``, and why.

    Raises:
        Failure: ``no_method``.
    """
    against = [volume.reason for volume in container.volumes if not volume.dataset]
    if not against and container.volumes:
        return "zfs", ["All volumes are on ZFS.", *_between_pools(container)]
    reasons = [f"Not zfs: {reason}." for reason in against] or ["Not zfs: the container has no volumes."]
    if host.proxmox:
        path = f"/nodes/localhost/lxc/{container.id}/feature"
        feature = host.run(["pvesh", "get", path, "--feature", "snapshot", "--output-format", "json"], timeout=60)
        if not feature.rc and re.search(r'"hasFeature"\s*:\s*(1|true)', feature.stdout):
            return "snapshot", [*reasons, "Proxmox can take a snapshot of all volumes."]
        reasons.append("Not snapshot: Proxmox has no snapshots on these storages.")
        left_out = [volume.key for volume in container.volumes if not volume.backup]
        server = _backup_server()
        if container.volumes and not left_out and not server:
            return "vzdump", [*reasons, "A backup is what is left."]
        reasons += [f"Not vzdump: {key} has no backup=1, so that a backup would lack it." for key in left_out]
        if server:
            reasons.append(f"Not vzdump: {VZDUMP_CONF} sends backups to {server}, a Proxmox Backup Server.")
    raise Failure(
        "no_method",
        f"Container {container.id} cannot be checkpointed. {' '.join(reasons)}",
        "Move its volumes to ZFS, or have all of them in backups (backup=1).",
        container=container.id,
        reasons=reasons,
    )


def _backup_server() -> str | None:
    """The storage of backups when it is a Proxmox Backup Server, whose backups are no files."""
    found = re.search(r"^storage:\s*(\S+)", read_text(VZDUMP_CONF) or "", re.MULTILINE)
    name = found.group(1) if found else ""
    return name if section_config(read_text(f"{PVE}/storage.cfg") or "").get(name, {}).get("type") == "pbs" else None


def _between_pools(container: Container) -> list[str]:
    """What is to be known of a checkpoint whose snapshots are not of one transaction. It is kept in its record."""
    pools = sorted({dataset.split("/")[0] for dataset in container.datasets})
    if len(pools) < 2:
        return []
    return [f"They are on {len(pools)} pools ({', '.join(pools)}): between those only freezing makes it consistent."]


# --------------------------------------------------------------------------------------------------------- taking


def take(
    host: Host,
    store: Store,
    ids: t.Sequence[str],
    name: str | None = None,
    prefix: str = PREFIX,
    memory: bool = False,
    check_mode: bool = False,
    lock_timeout: float = 10,
) -> list[Outcome]:
    """A checkpoint of each container, those on ZFS together. A name that is there already is left as it is.

    All containers are looked at before the first is touched. The outcomes are in the order of the ids.

    Raises:
        Failure: whatever stands against one of them; nothing was changed then.
    """
    begin = time.monotonic()
    wanted = check_name(name) if name else stamp(check_name(prefix))
    containers = [host.container(container_id) for container_id in ids]
    datasets, sets = known(host, containers, store)
    outcomes = {c.id: _plan(host, c, datasets, sets[c.id], wanted, memory) for c in containers}
    due = [container for container in containers if outcomes[container.id].changed]
    if due and not check_mode:
        left = [c for container in due for c in unfinished(sets[container.id]) if c.method != "zfs"]
        by_proxmox = [key for key, outcome in outcomes.items() if outcome.changed and outcome.method != "zfs"]
        # What is pending may be of a run that lives. A dead one holds nothing.
        with journal.working(store, {*by_proxmox, *(checkpoint.container for checkpoint in left)}):
            for checkpoint in left:
                _remove_by_proxmox(host, store, checkpoint)
            _take(host, store, due, outcomes, wanted, memory, lock_timeout)
    for container in due if check_mode else ():
        outcomes[container.id].expected = {
            **dict.fromkeys(c.name for c in unfinished(sets[container.id])),
            wanted: _expected(container, outcomes[container.id], datasets),
        }
    for outcome in outcomes.values():
        outcome.timings["total"] = time.monotonic() - begin
    return [outcomes[container.id] for container in containers]


def _plan(
    host: Host,
    container: Container,
    datasets: t.Mapping[str, Dataset],
    sets: t.Sequence[Checkpoint],
    name: str,
    memory: bool,
) -> Outcome:
    outcome = Outcome(container.id, name, notes=list(container.notes))
    present = next((checkpoint for checkpoint in sets if checkpoint.name == name), None)
    if present and present.complete:
        outcome.checkpoint, outcome.method, outcome.reasons = present, present.method, list(present.reasons)
        return outcome
    require_unlocked(container)
    require_volumes(host, container, datasets)
    outcome.method, outcome.reasons = choose_method(host, container)
    if memory:
        process_memory.require(host.run, container, outcome.method)
    for checkpoint in unfinished(sets):
        outcome.add(checkpoint.name, "unfinished", None)
    taken = [d for d in container.datasets if datasets[d].snapshot(name)]
    left = present is not None and not finished(present)
    if (taken and not left) or (name in container.snapshots and not (left and _is_ours(container, name))):
        raise Failure(
            "name_taken",
            f"Container {container.id} has a snapshot {name} that is no complete checkpoint.",
            "Choose another name, or remove it.",
            container=container.id,
            dataset=taken[0] if taken else None,
        )
    if outcome.method == "snapshot" and not PROXMOX_NAME.fullmatch(name):
        raise Failure(
            "invalid_option",
            f"name: Proxmox does not take {name!r} for a snapshot of {container.id}.",
            "Use two to forty letters, digits, - and _, beginning with a letter.",
        )
    outcome.add(name, None, outcome.method)
    return outcome


def _expected(container: Container, outcome: Outcome, datasets: t.Mapping[str, Dataset]) -> Checkpoint:
    """The checkpoint that would be taken now."""
    now, name = int(time.time()), outcome.name or ""
    of_zfs = outcome.method == "zfs"
    return Checkpoint(
        container=container.id,
        name=name,
        id=uuid.uuid4().hex,
        created=now,
        part=_parts([container], datasets)[container.id] if of_zfs else Part(()),
        snapshots=tuple(Snapshot(f"{dataset}@{name}", "", 0, now) for dataset in container.datasets if of_zfs),
        complete=True,
        method=outcome.method or "zfs",
        reasons=tuple(outcome.reasons),
    )


def finished(checkpoint: Checkpoint) -> bool:
    """Whether the run that took it came to its end. It may lack a member even so, if a volume was destroyed since."""
    marks = [snapshot.properties.get(COMPLETE) for snapshot in checkpoint.snapshots]
    return checkpoint.complete or (bool(marks) and all(mark == checkpoint.id for mark in marks))


def unfinished(sets: t.Iterable[Checkpoint]) -> list[Checkpoint]:
    """What interrupted runs have left, and nothing keeps."""
    return [c for c in sets if not finished(c) and not c.holds and not c.clones]


def _take(
    host: Host,
    store: Store,
    due: t.Sequence[Container],
    outcomes: t.Mapping[str, Outcome],
    name: str,
    memory: bool,
    lock_timeout: float,
) -> None:
    with host.locked([container.id for container in due], lock_timeout):
        journal.require_none(store, [container.id for container in due])
        # What was read before the locks were there may have changed.
        due = [host.container(container.id) for container in due]
        datasets, sets = known(host, due, store)
        for container in due:
            require_unlocked(container)
            require_volumes(host, container, datasets)
        thaw_leftovers([container.id for container in due], host.run)
        left = [c for container in due for c in unfinished(sets[container.id]) if c.method == "zfs"]
        destroy(host.zfs, store, left, datasets)
        for container in due:
            _remove_dumps(store, container.id, {checkpoint.name for checkpoint in sets[container.id]})
        reached("present:cleaned")
        on_zfs = [container for container in due if outcomes[container.id].method == "zfs"]
        if on_zfs:
            _take_zfs(host, store, on_zfs, outcomes, datasets, name, memory)
    for container in due:
        outcome = outcomes[container.id]
        if outcome.method != "zfs":
            # Proxmox takes the lock itself.
            outcome.checkpoint = _take_by_proxmox(host, store, container, name, outcome)


def _remove_dumps(store: Store, container: str, there: t.Container[str]) -> None:
    """Memory is saved first: what was interrupted then has neither a snapshot nor one of the files of a checkpoint."""
    for name in store.names(container):
        if name not in there and not store.load(container, name):
            store.remove(container, name)


def _take_zfs(
    host: Host,
    store: Store,
    containers: t.Sequence[Container],
    outcomes: t.Mapping[str, Outcome],
    datasets: t.Mapping[str, Dataset],
    name: str,
    memory: bool,
) -> None:
    run_id = uuid.uuid4().hex
    parts = _parts(containers, datasets)
    mounted = [d for c in containers for d in c.datasets if datasets[d].mounted]
    with _undone(host, store, parts, name, run_id):
        begin = time.monotonic()
        limit = process_memory.LIMIT if memory else LIMIT
        with Frozen([c.id for c in containers if c.running], host.run, limit):
            frozen = time.monotonic()
            reached("present:frozen")
            if mounted:
                _sync(host, _mountpoints([datasets[dataset] for dataset in mounted]))
            reached("present:synced")
            if memory:
                for container in containers:
                    process_memory.dump(host.run, container, store.directory(container.id, name))
                reached("present:dumped")
            synced = time.monotonic()
            _snapshot(host, parts, name, run_id)
            snapshot = time.monotonic()
        thawed = time.monotonic()
        reached("present:thawed")
        _finish(host, store, containers, parts, name, run_id, outcomes=outcomes, memory=memory)
    _datasets, sets = known(host, containers, store)
    for container in containers:
        outcome = outcomes[container.id]
        outcome.checkpoint = next((c for c in sets[container.id] if c.id == run_id), None)
        outcome.timings.update(
            freeze=frozen - begin + thawed - snapshot,
            sync=synced - frozen,
            zfs=snapshot - synced,
            frozen=thawed - frozen if container.running else 0.0,
        )


def snapshot_all(
    host: Host, store: Store, containers: t.Sequence[Container], name: str, safety: bool = False
) -> dict[str, Checkpoint]:
    """A checkpoint of containers that do not run, by their ids. The caller holds their locks.

    Raises:
        Failure: as ``zfs_failure``; nothing is left of it then.
    """
    run_id = uuid.uuid4().hex
    datasets = host.zfs.read([dataset for container in containers for dataset in container.datasets])
    parts = _parts(containers, datasets)
    with _undone(host, store, parts, name, run_id):
        _snapshot(host, parts, name, run_id, safety)
        _finish(host, store, containers, parts, name, run_id, safety=safety)
    _datasets, sets = known(host, containers, store)
    return {c.container: c for of_container in sets.values() for c in of_container if c.id == run_id}


@contextlib.contextmanager
def _undone(host: Host, store: Store, parts: t.Mapping[str, Part], name: str, run_id: str) -> t.Iterator[None]:
    """Whatever fails, nothing is left of the checkpoint."""
    try:
        yield
    except Failure:
        # Only what this run has made: a snapshot of that name may be the very reason of the failure.
        members = [member.dataset for part in parts.values() for member in part.members]
        for dataset in host.zfs.read(members).values():
            snapshot = dataset.snapshot(name)
            if snapshot and snapshot.properties.get(ID) == run_id:
                host.run(["zfs", "destroy", snapshot.name], timeout=60)
        for container in parts:
            if _record(container, name, store).get("id") in (None, run_id):
                store.remove(container, name)
        raise


def _parts(containers: t.Sequence[Container], datasets: t.Mapping[str, Dataset]) -> dict[str, Part]:
    return {
        container.id: Part(
            tuple(Member(dataset, datasets[dataset].refquota) for dataset in container.datasets),
            _digest(container.config),
        )
        for container in containers
    }


def _mountpoints(mounted: t.Sequence[Dataset]) -> list[str]:
    """Where datasets are mounted. Of one that is mounted by hand or by fstab, only the kernel says it."""
    by_kernel = {}
    for line in (read_text(MOUNTS) or "").splitlines():
        name, path = line.split(" ")[:2]
        by_kernel[name] = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal.group(1), 8)), path)
    places = [d.mountpoint if (d.mountpoint or "").startswith("/") else by_kernel.get(d.name) for d in mounted]
    return [place for place in places if place]


def _sync(host: Host, mountpoints: t.Sequence[str]) -> None:
    done = host.run(["sync", "--file-system", *mountpoints], timeout=50)
    if done.rc:
        raise Failure("sync_failed", f"The file systems could not be synced: {done.stderr.strip()[-300:]}")


def _snapshot(host: Host, parts: t.Mapping[str, Part], name: str, run_id: str, safety: bool = False) -> None:
    """One command for each pool: all its snapshots are of one transaction."""
    properties = [f"{key}={value}" for key, value in encode(run_id, parts, safety).items()]
    options = [word for text in properties for word in ("-o", text)]
    by_pool: dict[str, list[str]] = {}
    for part in parts.values():
        for member in part.members:
            by_pool.setdefault(member.dataset.split("/")[0], []).append(f"{member.dataset}@{name}")
    for pool, names in sorted(by_pool.items()):
        done = host.run(["zfs", "snapshot", *options, *names], timeout=50)
        if done.rc:
            raise zfs_failure(done, f"No snapshots on the pool {pool}", pool=pool, dataset=names[0].split("@")[0])
        reached(f"present:snapshot:{pool}")


def _finish(
    host: Host,
    store: Store,
    containers: t.Sequence[Container],
    parts: t.Mapping[str, Part],
    name: str,
    run_id: str,
    *,
    safety: bool = False,
    outcomes: t.Mapping[str, Outcome] | None = None,
    memory: bool = False,
) -> None:
    """Keep the files, then set the mark without which a checkpoint is not offered."""
    for container in containers:
        record = {
            "id": run_id,
            "method": "zfs",
            "created": int(time.time()),
            "reasons": outcomes[container.id].reasons if outcomes else [],
            "memory": memory,
            "safety": safety,
        }
        files = {"config": container.config, "firewall": container.firewall, "record": json.dumps(record)}
        store.save(container.id, name, files)
    reached("present:stored")
    snapshots = [f"{member.dataset}@{name}" for part in parts.values() for member in part.members]
    host.zfs.do("set", f"{COMPLETE}={run_id}", *snapshots, message="The checkpoint could not be marked as complete")
    reached("present:complete")


def _take_by_proxmox(host: Host, store: Store, container: Container, name: str, outcome: Outcome) -> Checkpoint:
    """A checkpoint that Proxmox takes. The record comes first, so that one that was interrupted is known as ours."""
    record: dict[str, t.Any] = {
        "id": uuid.uuid4().hex,
        "method": outcome.method,
        "created": int(time.time()),
        "reasons": outcome.reasons,
    }
    files = {"config": container.config, "firewall": container.firewall}
    store.save(container.id, name, {**files, "record": json.dumps({**record, "pending": True})})
    log = _log(container.id, name, store)
    if outcome.method == "snapshot":
        argv = ["pct", "snapshot", container.id, name, "--description", DESCRIPTION]
    else:
        mode = "suspend" if container.running else "stop"
        # By default it removes older backups, by the rules of the storage.
        argv = ["vzdump", container.id, "--compress", "zstd", "--mode", mode, "--remove", "0"]
    try:
        # The name of an archive is in what is said alone, which a run after a crash has to know as well.
        done = host.run(["sh", "-c", 'exec "$@" >"$0" 2>&1', log, *argv], timeout=None)
        reached("present:proxmox")
        if done.rc:
            words = (read_text(log) or done.stderr).strip()
            message = f"{argv[0]} failed for container {container.id}: {words[-500:]}"
            raise Failure("task_failed", message, container=container.id)
        record["archive"] = _archive(read_text(log) or "")
        if outcome.method == "vzdump" and not record["archive"]:
            message = f"vzdump did not say which file the backup of container {container.id} is."
            raise Failure("task_failed", message, container=container.id)
    except Failure:
        store.remove(container.id, name)
        raise
    store.save(container.id, name, {**files, "record": json.dumps(record)})
    made = _from_record(host.container(container.id), name, store)
    if made is None:
        raise Failure("record_missing", f"The record of the checkpoint {name} of {container.id} cannot be read back.")
    return made


def _is_ours(container: Container, name: str) -> bool:
    """Whether Proxmox has a snapshot of that name which was taken for a checkpoint."""
    return f"#{DESCRIPTION}" in section(container.config, name).splitlines()


# ------------------------------------------------------------------------------------------------------- removing


def destroy(zfs: Zfs, store: Store, doomed: t.Sequence[Checkpoint], datasets: t.Mapping[str, Dataset]) -> None:
    """Remove checkpoints on ZFS: their snapshots, their files, and datasets that were set aside for them alone.

    Of several datasets the snapshots go one after the other. A run that is killed in between leaves a checkpoint
    without its mark, which the next run takes for ``unfinished``.

    Raises:
        Failure: as ``zfs_failure``.
    """
    several = [checkpoint for checkpoint in doomed if finished(checkpoint) and len(checkpoint.snapshots) > 1]
    gone: set[str] = set()
    try:
        for batch in _batches([snapshot.name for checkpoint in several for snapshot in checkpoint.snapshots]):
            zfs.do("inherit", COMPLETE, *batch, message="The checkpoints stay")
        reached("absent:unmarked")
        _destroy(zfs, doomed, datasets, gone)
    except Failure:
        for checkpoint in several:
            names = [snapshot.name for snapshot in checkpoint.snapshots]
            if gone.isdisjoint(names):
                zfs.run(["zfs", "set", f"{COMPLETE}={checkpoint.id}", *names], timeout=60)
        raise
    for checkpoint in doomed:
        store.remove(checkpoint.container, checkpoint.name)


def _destroy(zfs: Zfs, doomed: t.Sequence[Checkpoint], datasets: t.Mapping[str, Dataset], gone: set[str]) -> None:
    """Destroy the snapshots of checkpoints. gone: gets the names of those that went."""
    by_dataset: dict[str, list[str]] = {}
    spent = _spent(datasets)
    for checkpoint in doomed:
        for snapshot in checkpoint.snapshots:
            for clone in sorted(spent & set(snapshot.clones)):
                # Without -r: it goes only if there is really nothing in it.
                zfs.do("destroy", clone, message=f"{clone}, which was set aside, stays")
            if checkpoint.safety and snapshot.holds:
                # The only hold that is the collection's own to release; any other makes the removal fail.
                zfs.run(["zfs", "release", SAFETY_TAG, snapshot.name], timeout=60)
            by_dataset.setdefault(snapshot.dataset, []).append(snapshot.short)
    for dataset, names in sorted(by_dataset.items()):
        for batch in _batches(names):
            zfs.do("destroy", f"{dataset}@{','.join(batch)}", message=f"The checkpoints of {dataset} stay")
            gone.update(f"{dataset}@{name}" for name in batch)
            reached("absent:destroyed")
        aside = datasets.get(dataset)
        if aside and aside.aside and not {snapshot.short for snapshot in aside.snapshots} - set(names):
            zfs.do("destroy", dataset, message=f"{dataset}, which was set aside, stays")


def _remove(
    host: Host, store: Store, doomed: t.Sequence[Checkpoint], datasets: t.Mapping[str, Dataset], lock_timeout: float
) -> None:
    on_zfs = [checkpoint for checkpoint in doomed if checkpoint.method == "zfs"]
    containers = {checkpoint.container for checkpoint in on_zfs}
    with host.locked(containers, lock_timeout):
        # A restore that began since has planned with what is there.
        journal.require_none(store, containers)
        destroy(host.zfs, store, on_zfs, datasets)
    others = [checkpoint for checkpoint in doomed if checkpoint.method != "zfs"]
    with journal.working(store, {checkpoint.container for checkpoint in others}):
        for checkpoint in others:
            # Proxmox takes the lock itself.
            _remove_by_proxmox(host, store, checkpoint)


def _remove_by_proxmox(host: Host, store: Store, checkpoint: Checkpoint) -> None:
    """Remove what Proxmox has made, or what there is of it when that was interrupted."""
    container_id, name = checkpoint.container, checkpoint.name
    container = host.container(container_id)
    if not checkpoint.complete:
        # The command may have outlived the run that began it.
        require_unlocked(container)
    if checkpoint.method == "snapshot":
        if checkpoint.complete or _is_ours(container, name):
            _must(host.run, ["pct", "delsnapshot", container_id, name])
    elif checkpoint.archive:
        if not _storage_there(checkpoint.archive):
            raise backup_missing(checkpoint)
        # While it is written it is called otherwise (exec_backup_task of PVE/VZDump.pm).
        part = re.sub(r"\.[^.]+$", ".dat", checkpoint.archive)
        _must(host.run, ["rm", "-f", "--", checkpoint.archive, part])
    store.remove(container_id, name)


def backup_missing(checkpoint: Checkpoint) -> Failure:
    """The archive of a checkpoint cannot be found."""
    return Failure(
        "volume_missing",
        f"The backup {checkpoint.archive} of {checkpoint.container} is not there.",
        "See whether its storage is mounted.",
        container=checkpoint.container,
    )


def _must(run: Run, argv: t.Sequence[str]) -> None:
    done = run(argv, timeout=None)
    if done.rc:
        raise Failure("task_failed", f"{' '.join(argv[:2])} failed: {(done.stderr or done.stdout).strip()[-500:]}")


def _batches(names: t.Sequence[str]) -> t.Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for name in names:
        if batch and size + len(name) > _ARGUMENTS:
            yield batch
            batch, size = [], 0
        batch.append(name)
        size += len(name) + 1
    if batch:
        yield batch


def _spent(datasets: t.Mapping[str, Dataset]) -> set[str]:
    """What was set aside and has nothing of its own any more: its snapshots went back to the container."""
    return {
        name for name, dataset in datasets.items() if dataset.aside and not dataset.snapshots and not dataset.written
    }


def require_removable(checkpoint: Checkpoint, datasets: t.Mapping[str, Dataset]) -> None:
    """See that nothing keeps a checkpoint.

    Raises:
        Failure: ``held``, ``has_clones``.
    """
    own = 1 if checkpoint.safety else 0
    spent = _spent(datasets)
    kept = next((s for s in checkpoint.snapshots if s.holds > own or set(s.clones) - spent), None)
    if kept and set(kept.clones) - spent:
        raise Failure(
            "has_clones",
            f"{kept.name} has clones: {', '.join(kept.clones)}.",
            "Remove the clones, or promote them. What a restore has set aside goes with its safety checkpoint.",
            dataset=kept.dataset,
            container=checkpoint.container,
            clones=list(kept.clones),
        )
    if kept:
        raise Failure(
            "held",
            f"{kept.name} is held.",
            "See 'zfs holds'; release it with release: TAG, or end the replication that needs it.",
            dataset=kept.dataset,
            container=checkpoint.container,
        )


def remove(
    host: Host,
    store: Store,
    ids: t.Sequence[str],
    name: str,
    check_mode: bool,
    lock_timeout: float = 10,
    expected: Expected | None = None,
) -> list[Outcome]:
    """Remove the checkpoint of that name from each container that has it, also an incomplete one.

    Raises:
        Failure: as ``require_removable``; nothing was changed then.
    """
    containers = [host.container(container_id) for container_id in ids]
    datasets, sets = known(host, containers, store, expected)
    outcomes = [Outcome(container.id, name) for container in containers]
    doomed = [c for container in containers for c in sets[container.id] if c.name == name]
    for checkpoint in doomed:
        require_removable(checkpoint, datasets)
        outcome = next(o for o in outcomes if o.container == checkpoint.container)
        outcome.add(name, checkpoint.method, None)
        if check_mode:
            outcome.expected[name] = None
    if doomed and not check_mode:
        _remove(host, store, doomed, datasets, lock_timeout)
    return outcomes


def prune(
    host: Host,
    store: Store,
    ids: t.Sequence[str],
    keep: t.Mapping[str, int],
    timezone: str | None = None,
    prefix: str = PREFIX,
    spare: t.Collection[str] = (),
    check_mode: bool = False,
    lock_timeout: float = 10,
    expected: Expected | None = None,
) -> list[Outcome]:
    """Remove complete checkpoints that no rule keeps. Never one that is held or has clones, nor the newest.

    prefix: only names that begin with it. spare: names that stay.

    Raises:
        Failure: ``invalid_option``, or as ``zfs_failure``.
    """
    containers = [host.container(container_id) for container_id in ids]
    datasets, sets = known(host, containers, store, expected)
    outcomes = [Outcome(container.id) for container in containers]
    doomed: list[Checkpoint] = []
    for outcome in outcomes:
        own = [c for c in sets[outcome.container] if c.complete and not c.safety and c.name.startswith(prefix)]
        going, notes = expired(own, keep, timezone, spare, time.time())
        outcome.notes += notes
        for checkpoint in going:
            outcome.add(checkpoint.name, checkpoint.method, None)
        doomed += going
    if doomed and not check_mode:
        _remove(host, store, doomed, datasets, lock_timeout)
    return outcomes


def expired(
    own: t.Sequence[Checkpoint],
    keep: t.Mapping[str, int],
    timezone: str | None,
    spare: t.Collection[str],
    now: float,
) -> tuple[list[Checkpoint], list[str]]:
    """Which of one container's complete checkpoints no rule keeps, and what is odd about them. Pure.

    Raises:
        Failure: ``invalid_option``: a rule or a time zone that is none.
    """
    # The run that took it is what tells one from another: names can be equal, when one of them was set aside.
    entries = [Entry(c.id, c.created, protected=bool(c.holds or c.clones), order=place) for place, c in enumerate(own)]
    try:
        verdicts = retain(entries, keep, timezone)
    except ValueError as error:
        raise Failure("invalid_option", f"keep: {error}.") from None
    kept = {verdict.entry.identity for verdict in verdicts if verdict.keep} | {c.id for c in own[-1:]}
    early = {entry.identity for entry in future_dated(entries, now)}
    notes = [
        f"{c.name} is dated in the future and takes the place of one that is really the newest."
        for c in own
        if c.id in early
    ]
    return [c for c in own if c.id not in kept and c.name not in spare], notes


# -------------------------------------------------------------------------------------------------------- holding


def hold(
    host: Host,
    store: Store,
    ids: t.Sequence[str],
    name: str,
    tag: str,
    held: bool,
    check_mode: bool,
    expected: Expected | None = None,
) -> list[Outcome]:
    """Hold a checkpoint with a tag, or release it.

    Raises:
        Failure: ``checkpoint_missing``, or as ``zfs_failure``.
    """
    containers = [host.container(container_id) for container_id in ids]
    _datasets, sets = known(host, containers, store, expected)
    outcomes = [Outcome(container.id, name) for container in containers]
    todo: list[str] = []
    for outcome in outcomes:
        found = next((c for c in sets[outcome.container] if c.name == name and c.method == "zfs"), None)
        if not found:
            if held:
                raise missing(outcome.container, name, sets[outcome.container])
            continue
        # One that is only expected has nothing that could be asked for.
        names = [snapshot.name for snapshot in found.snapshots if snapshot.holds and snapshot.guid]
        listed = host.zfs.do("holds", "-H", *names) if names else ""
        with_tag = {line.split("\t")[0] for line in listed.splitlines() if line.split("\t")[1] == tag}
        differing = [snapshot.name for snapshot in found.snapshots if (snapshot.name in with_tag) != held]
        if differing:
            outcome.add(f"{name} hold {tag}", None if held else tag, tag if held else None)
            todo += differing
        if differing and check_mode:
            more = 1 if held else -1
            after = (replace(s, holds=s.holds + more * (s.name in differing)) for s in found.snapshots)
            outcome.expected[name] = replace(found, snapshots=tuple(after))
    if todo and not check_mode:
        host.zfs.do("hold" if held else "release", tag, *todo)
    return outcomes


def missing(container: str, name: str | None, there: t.Sequence[Checkpoint]) -> Failure:
    """There is no such checkpoint."""
    names = [checkpoint.name for checkpoint in there if checkpoint.complete]
    what = f"no complete checkpoint {name}" if name else "no complete checkpoint"
    return Failure(
        "checkpoint_missing",
        f"Container {container} has {what}.",
        f"It has: {', '.join(names[-20:])}." if names else "It has none.",
        container=container,
        names=names,
    )
