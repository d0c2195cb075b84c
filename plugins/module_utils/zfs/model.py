# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``zfs list`` says, and the checkpoints that are in it. Pure, no I/O.

A checkpoint of a container is one snapshot of each of its volumes. Every snapshot of it carries, as user properties,
the id of the run that took it and the members of all containers of that run; what says that the run came to its end is
set last. So a checkpoint is known from its snapshots alone, also on the target of a replication, and one that lacks a
member or the mark is incomplete.
"""

from __future__ import annotations

import json
import re
import typing as t
from dataclasses import dataclass, field, replace

from ..api.errors import Failure

# User properties. ID, MEMBERS and SAFETY are set by the command that takes the snapshots, COMPLETE afterwards.
ID = "lxcri:checkpoint"
MEMBERS = "lxcri:members"
COMPLETE = "lxcri:complete"
SAFETY = "lxcri:safety"
# Of datasets: what a dataset that was set aside, or that is a replica, is called where the container has it.
ASIDE = "lxcri:aside"
SOURCE = "lxcri:source"
# Of the volumes of a container that was made of a checkpoint: of which one, as JSON. It goes with them, so that another
# container of that id is not taken for it.
MADE_OF = "lxcri:made-of"

# A value holds 8 KiB at most (ZAP_MAXVALUELEN of ZFS), so long lists of members go on in further properties.
_CHUNK = 8000
_CHUNKS = (MEMBERS, f"{MEMBERS}.1", f"{MEMBERS}.2", f"{MEMBERS}.3")

# Properties that only the creation of a dataset takes, and those of the collection that belong to one dataset alone.
# What a container was made of is true of what a restore puts in its volume's place, too.
NOT_FOR_ANOTHER = re.compile(
    r"encryption|keyformat|keylocation|pbkdf2iters|volsize|volblocksize|casesensitivity|normalization|utf8only"
    r"|version|mlslabel|lxcri:(?!made-of$).*"
)

# Where datasets that were set aside lie, below the parent of the container's volumes: no storage of Proxmox lists
# what is deeper than its own pool (zfs_list_zvol of PVE/Storage/ZFSPoolPlugin.pm).
ASIDE_PARENT = "lxcri-aside"

COLUMNS = (
    "name",
    "type",
    "guid",
    "createtxg",
    "creation",
    "used",
    "available",
    "referenced",
    "written",
    "refquota",
    "origin",
    "keystatus",
    "mounted",
    "mountpoint",
    "canmount",
    "userrefs",
    "clones",
    "receive_resume_token",
    ID,
    COMPLETE,
    SAFETY,
    ASIDE,
    SOURCE,
    *_CHUNKS,
)


@dataclass(frozen=True)
class Snapshot:
    """A snapshot, or a bookmark (whose name has a # and which holds no data).

    name: ``pool/dataset@name``. createtxg: its place among those of its pool. creation: seconds since the epoch.
    used, referenced, written: bytes. holds: how many. clones: datasets that depend on it.
    """

    name: str
    guid: str
    createtxg: int
    creation: int
    used: int = 0
    referenced: int = 0
    written: int = 0
    holds: int = 0
    clones: tuple[str, ...] = ()
    properties: t.Mapping[str, str] = field(default_factory=dict)

    @property
    def dataset(self) -> str:
        """The dataset it is of."""
        return re.split("[@#]", self.name, maxsplit=1)[0]

    @property
    def short(self) -> str:
        """Its name within the dataset."""
        return re.split("[@#]", self.name, maxsplit=1)[1]


@dataclass(frozen=True)
class Dataset:
    """A file system or a volume, with its snapshots and bookmarks from the oldest to the newest.

    written: bytes written since the newest snapshot. home: where the container has it, if it was set aside or is a
    replica; else its own name.
    """

    name: str
    kind: str
    guid: str
    createtxg: int
    used: int
    available: int
    referenced: int
    written: int
    refquota: int
    origin: str | None
    key_missing: bool
    mounted: bool
    mountpoint: str | None
    canmount: str
    resume_token: str | None
    aside: str | None
    source: str | None
    snapshots: tuple[Snapshot, ...] = ()
    bookmarks: tuple[Snapshot, ...] = ()

    @property
    def home(self) -> str:
        """Where the container has it."""
        return self.aside or self.source or self.name

    def snapshot(self, short: str) -> Snapshot | None:
        """The snapshot of that name."""
        return next((snapshot for snapshot in self.snapshots if snapshot.short == short), None)

    def newer_than(self, snapshot: Snapshot) -> list[str]:
        """Names of snapshots and bookmarks that a rollback to this one destroys (zfs-rollback(8))."""
        return [
            other.name
            for other in (*self.snapshots, *self.bookmarks)
            if other.createtxg > snapshot.createtxg and other.guid != snapshot.guid
        ]


Datasets = t.Mapping[str, Dataset]


@dataclass(frozen=True)
class Member:
    """A volume that a checkpoint has: the dataset, and its refquota at that time in bytes (0: none)."""

    dataset: str
    refquota: int = 0


@dataclass(frozen=True)
class Part:
    """What a run says of one container: its volumes, and the sha256 of its configuration."""

    members: tuple[Member, ...]
    config: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of one container.

    id: the run that took it, the same for all its containers. created: seconds since the epoch. part: what belongs to
    it. snapshots: what is there of it. complete: nothing lacks. safety: it is the state from before a restore.
    method: ``zfs``, or ``snapshot`` or ``vzdump`` of Proxmox. memory: the processes' memory was saved with it.
    reasons: why this method. archive: the backup, of ``vzdump``.
    """

    container: str
    name: str
    id: str
    created: int
    part: Part
    snapshots: tuple[Snapshot, ...]
    complete: bool
    safety: bool = False
    method: str = "zfs"
    memory: bool = False
    reasons: tuple[str, ...] = ()
    archive: str | None = None

    @property
    def holds(self) -> int:
        """How many holds keep it."""
        return max((snapshot.holds for snapshot in self.snapshots), default=0)

    @property
    def clones(self) -> list[str]:
        """Datasets that depend on it."""
        return sorted({clone for snapshot in self.snapshots for clone in snapshot.clones})

    def snapshot_of(self, dataset: str, datasets: Datasets) -> Snapshot | None:
        """Its snapshot of a volume, wherever that dataset is by now."""
        return next((s for s in self.snapshots if datasets[s.dataset].home == dataset), None)


# ------------------------------------------------------------------------------------------------------- reading


def parse_list(text: str) -> dict[str, Dataset]:
    """What ``zfs list -Hp`` with COLUMNS says, by the name of the dataset."""
    datasets: dict[str, Dataset] = {}
    snapshots: dict[str, list[Snapshot]] = {}
    bookmarks: dict[str, list[Snapshot]] = {}
    for line in text.splitlines():
        row = dict(zip(COLUMNS, line.split("\t")))
        if row.get("type") in ("snapshot", "bookmark"):
            found = _snapshot(row)
            (snapshots if row["type"] == "snapshot" else bookmarks).setdefault(found.dataset, []).append(found)
        elif row.get("name"):
            datasets[row["name"]] = _dataset(row)
    return {
        name: replace(
            dataset,
            snapshots=tuple(sorted(snapshots.get(name, []), key=lambda s: s.createtxg)),
            bookmarks=tuple(sorted(bookmarks.get(name, []), key=lambda s: s.createtxg)),
        )
        for name, dataset in datasets.items()
    }


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _text(text: str) -> str | None:
    return None if text in ("-", "", "none") else text


def _snapshot(row: t.Mapping[str, str]) -> Snapshot:
    return Snapshot(
        name=row["name"],
        guid=row["guid"],
        createtxg=_number(row["createtxg"]),
        creation=_number(row["creation"]),
        used=_number(row["used"]),
        referenced=_number(row["referenced"]),
        written=_number(row["written"]),
        holds=_number(row["userrefs"]),
        clones=tuple(filter(None, (_text(row["clones"]) or "").split(","))),
        properties={key: row[key] for key in (ID, COMPLETE, SAFETY, *_CHUNKS) if row[key] != "-"},
    )


def _dataset(row: t.Mapping[str, str]) -> Dataset:
    return Dataset(
        name=row["name"],
        kind=row["type"],
        guid=row["guid"],
        createtxg=_number(row["createtxg"]),
        used=_number(row["used"]),
        available=_number(row["available"]),
        referenced=_number(row["referenced"]),
        written=_number(row["written"]),
        refquota=_number(row["refquota"]),
        origin=_text(row["origin"]),
        key_missing=row["keystatus"] == "unavailable",
        mounted=row["mounted"] == "yes",
        mountpoint=_text(row["mountpoint"]),
        canmount=row["canmount"],
        resume_token=_text(row["receive_resume_token"]),
        aside=_text(row[ASIDE]),
        source=_text(row[SOURCE]),
    )


# ---------------------------------------------------------------------------------------------------- properties


def encode(run_id: str, parts: t.Mapping[str, Part], safety: bool = False) -> dict[str, str]:
    """The user properties of the snapshots of a run.

    Raises:
        Failure: ``too_many_containers``: they do not fit into properties.
    """
    compact = {
        container: [part.config, [[member.dataset, member.refquota] for member in part.members]]
        for container, part in parts.items()
    }
    text = json.dumps(compact, separators=(",", ":"), sort_keys=True)
    chunks = [text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK)]
    if len(chunks) > len(_CHUNKS):
        raise Failure(
            "too_many_containers",
            f"{len(parts)} containers are too many for one checkpoint; their names alone take {len(text)} bytes.",
            "Take them in several tasks.",
        )
    properties = {ID: run_id, **dict(zip(_CHUNKS, chunks))}
    if safety:
        properties[SAFETY] = "yes"
    return properties


def decode(properties: t.Mapping[str, str]) -> dict[str, Part]:
    """The parts that a snapshot's properties tell of; empty when they cannot be read."""
    try:
        raw = json.loads("".join(properties.get(chunk, "") for chunk in _CHUNKS))
        return {
            str(container): Part(tuple(Member(str(name), int(quota)) for name, quota in members), str(config))
            for container, (config, members) in raw.items()
        }
    except (ValueError, TypeError, AttributeError):
        return {}


# --------------------------------------------------------------------------------------------------- checkpoints


def checkpoints(datasets: Datasets) -> list[Checkpoint]:
    """The checkpoints that the snapshots make up, from the oldest to the newest of each container."""
    runs: dict[tuple[str, str], list[Snapshot]] = {}
    for dataset in datasets.values():
        for snapshot in dataset.snapshots:
            if ID in snapshot.properties:
                runs.setdefault((snapshot.properties[ID], snapshot.short), []).append(snapshot)
    found: dict[str, list[Checkpoint]] = {}
    for (run_id, short), snapshots in runs.items():
        by_home = {datasets[snapshot.dataset].home: snapshot for snapshot in snapshots}
        for container, part in _parts(snapshots).items():
            own = tuple(by_home[member.dataset] for member in part.members if member.dataset in by_home)
            if own:
                found.setdefault(container, []).append(_checkpoint(container, short, run_id, part, own))
    return [checkpoint for _container, own in sorted(found.items()) for checkpoint in in_order(own)]


def in_order(found: t.Iterable[Checkpoint]) -> list[Checkpoint]:
    """The checkpoints of one container from the oldest to the newest.

    What is of one dataset is in the order of its transactions, however wrong the clock was. The numbers of transactions
    say nothing between pools, so everything else goes by the time.
    """
    left = sorted(found, key=lambda checkpoint: checkpoint.created)
    newest_first = sorted((s for c in left for s in c.snapshots), key=lambda s: s.createtxg, reverse=True)
    waiting: dict[str, list[Snapshot]] = {}
    for snapshot in newest_first:
        waiting.setdefault(snapshot.dataset, []).append(snapshot)
    ordered: list[Checkpoint] = []
    while left:
        ready = (c for c in left if all(waiting[s.dataset][-1] is s for s in c.snapshots))
        ordered.append(next(ready, left[0]))
        left.remove(ordered[-1])
        for snapshot in ordered[-1].snapshots:
            if waiting[snapshot.dataset][-1] is snapshot:
                waiting[snapshot.dataset].pop()
    return ordered


def _parts(snapshots: t.Sequence[Snapshot]) -> dict[str, Part]:
    return next(filter(None, (decode(snapshot.properties) for snapshot in snapshots)), {})


def _checkpoint(container: str, name: str, run_id: str, part: Part, own: tuple[Snapshot, ...]) -> Checkpoint:
    return Checkpoint(
        container=container,
        name=name,
        id=run_id,
        created=min(snapshot.creation for snapshot in own),
        part=part,
        snapshots=own,
        complete=len(own) == len(part.members) and all(s.properties.get(COMPLETE) == run_id for s in own),
        safety=any(snapshot.properties.get(SAFETY) == "yes" for snapshot in own),
    )


def aside_name(dataset: str, volumes: t.Collection[str], label: str) -> str:
    """Where a volume goes when it is set aside: beside the container's outermost volume, never below one.

    volumes: all volumes of the container. label: what tells this setting aside from others.

    >>> aside_name("rpool/data/subvol-101-disk-0", ["rpool/data/subvol-101-disk-0"], "x")
    'rpool/data/lxcri-aside/subvol-101-disk-0.x'
    """
    top = dataset
    while "/" in top and top.rsplit("/", 1)[0] in volumes:
        top = top.rsplit("/", 1)[0]
    parent = top.rsplit("/", 1)[0]
    leaf = dataset[len(parent) + 1 :].replace("/", ".")
    return f"{parent}/{ASIDE_PARENT}/{leaf}.{label}"
