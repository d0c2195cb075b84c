# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the module ``zfs_checkpoint_info`` tells. One zfs command reads all of it."""

from __future__ import annotations

import re
import time
import typing as t

from ..api.errors import Failure
from ..node.commands import Run, run_here
from ..node.files import read_text
from .checkpoint import describe, known
from .host import PVE, Container, Host, LxcHost, Volume, Zfs, find_host, section_config, volumes_of
from .model import ASIDE_PARENT, Checkpoint, Dataset
from .store import STATE, Store

SIZES = ("used", "written", "referenced")


class ReadOnce(Zfs):
    """Asks for nothing that it has read already."""

    def __init__(self, run: Run = run_here) -> None:
        super().__init__(run)
        self.seen: dict[str, Dataset] = {}

    def read(self, datasets: t.Sequence[str], recursive: bool = False) -> dict[str, Dataset]:
        """As ``Zfs.read``."""
        if not set(datasets) <= set(self.seen):
            self.seen.update(super().read(datasets, recursive))
        return dict(self.seen)


def survey(
    params: t.Mapping[str, t.Any], run: Run = run_here, store: Store | None = None, now: float | None = None
) -> dict[str, t.Any]:
    """The result of the module.

    Raises:
        Failure: ``invalid_option``, ``pmxcfs_missing``, ``volume_missing``, or as ``zfs_failure``.
    """
    if params["vmids"] and params["datasets"]:
        raise Failure("invalid_option", "vmids and datasets exclude each other.")
    zfs = ReadOnce(run)
    host = find_host(zfs, run, params["datasets"], params["dataset_pattern"])
    ids = list(dict.fromkeys(params["vmids"]))
    for container_id in ids:
        if not container_id or "/" in container_id or container_id.startswith(("-", ".")):
            raise Failure("invalid_option", f"{container_id!r} cannot be the id of a container.")
    containers = _plain(host, zfs, ids) if isinstance(host, LxcHost) else _proxmox(host, ids)
    found: list[Checkpoint] = []
    missing: list[dict[str, str]] = []
    if containers:
        datasets, sets = known(host, containers, store or Store(STATE))
        found = [checkpoint for container in containers for checkpoint in sets[container.id]]
        missing = [{"container": c.id, "dataset": d} for c in containers for d in c.datasets if d not in datasets]
    if params["name"]:
        found = [checkpoint for checkpoint in found if checkpoint.name == params["name"]]
    entries = [entry_of(checkpoint, time.time() if now is None else now) for checkpoint in found]
    warnings = [
        f"{gone['dataset']} of container {gone['container']} is not there, and nothing is known of checkpoints on it."
        for gone in missing
    ]
    return {
        "changed": False,
        "checkpoints": entries,
        "totals": totals(entries),
        "missing": missing,
        "warnings": warnings,
    }


def entry_of(checkpoint: Checkpoint, now: float) -> dict[str, t.Any]:
    """A checkpoint as plain data, with its age and its sizes."""
    sizes = {size: sum(getattr(snapshot, size) for snapshot in checkpoint.snapshots) for size in SIZES}
    return {**describe(checkpoint), "age": int(now - checkpoint.created), **sizes}


def totals(entries: t.Sequence[t.Mapping[str, t.Any]]) -> dict[str, int]:
    """Numbers of all entries together. Of what several checkpoints refer to, each counts."""
    return {
        "checkpoints": len(entries),
        "containers": len({entry["container"] for entry in entries}),
        "incomplete": sum(not entry["complete"] for entry in entries),
        "held": sum(bool(entry["holds"]) for entry in entries),
        **{size: sum(entry[size] for entry in entries) for size in SIZES},
    }


def _proxmox(host: Host, ids: t.Sequence[str]) -> list[Container]:
    """Containers of this node by their files alone: nothing is started to see whether they run."""
    there = host.ids()
    known_storages = section_config(read_text(f"{PVE}/storage.cfg") or "")
    containers = []
    for container_id in ids or there:
        config = read_text(f"{PVE}/lxc/{container_id}.conf") if container_id in there else None
        if config is not None:
            volumes, notes = volumes_of(config, known_storages)
            containers.append(Container(container_id, tuple(volumes), False, config, notes=tuple(notes)))
    return containers


def _plain(host: LxcHost, zfs: ReadOnce, ids: t.Sequence[str]) -> list[Container]:
    """Containers without Proxmox, by their datasets."""
    wanted = list(ids or host.roots)
    if wanted:
        roots = {
            container_id: host.roots.get(container_id) or host.pattern.replace("<id>", container_id)
            for container_id in wanted
        }
        there = zfs.read(list(roots.values()), recursive=True)
    else:
        before, _id, after = host.pattern.partition("<id>")
        parent = before.rsplit("/", 1)[0]
        there = zfs.read([parent], recursive=True)
        if parent not in there:
            raise Failure(
                "volume_missing",
                f"There is no dataset {parent}, below which dataset_pattern says that all containers are.",
                "See 'zfs list' for what is there, and 'zpool list' whether the pool is.",
                dataset=parent,
            )
        pattern = re.compile(re.escape(before) + r"([^/]+)" + re.escape(after))
        matches = filter(None, map(pattern.fullmatch, sorted(there)))
        roots = {match.group(1): match.group(0) for match in matches if match.group(1) != ASIDE_PARENT}
    return [
        Container(container_id, tuple(Volume("dataset", name, name) for name in _below(root, there)), False)
        for container_id, root in roots.items()
        if root in there
    ]


def _below(root: str, there: t.Iterable[str]) -> list[str]:
    names = (name for name in there if name == root or name.startswith(f"{root}/"))
    return sorted(name for name in names if ASIDE_PARENT not in name.split("/"))
