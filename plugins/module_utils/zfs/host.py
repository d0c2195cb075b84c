# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine that has the containers: a node of Proxmox, or a host with plain LXC."""

from __future__ import annotations

import abc
import contextlib
import glob
import os
import re
import time
import typing as t
from dataclasses import dataclass

from ..api.errors import Failure
from ..node import proxmox
from ..node.commands import Run, run_here
from ..node.files import read_text
from ..node.proxmox import LOCK_PATTERN, lock_held, replace_config, running, sections, values
from .failures import zfs_failure
from .model import ASIDE_PARENT, COLUMNS, Dataset, parse_list

PVE = proxmox.PVE
DEFAULT_PATTERN = "tank/containers/<id>"


class Zfs:
    """The zfs command of a machine."""

    def __init__(self, run: Run = run_here) -> None:
        self.run = run

    def read(self, datasets: t.Sequence[str], recursive: bool = False) -> dict[str, Dataset]:
        """Datasets with their snapshots and bookmarks, and those set aside beside them, in one call.

        Names that do not exist are missing in the answer.

        Raises:
            Failure: as ``zfs_failure``.
        """
        if not datasets:
            return {}
        asides = {f"{parent}/{ASIDE_PARENT}" for name in datasets for parent in _parents(name)}
        depth = ["-r"] if recursive else ["-d", "2"]
        kinds = "filesystem,volume,snapshot,bookmark"
        argv = ["zfs", "list", "-Hp", *depth, "-t", kinds, "-o", ",".join(COLUMNS), *datasets, *sorted(asides)]
        done = self.run(argv, timeout=300)
        unexpected = [
            line for line in done.stderr.splitlines() if "dataset does not exist" not in line and line.strip()
        ]
        if done.rc and unexpected:
            raise zfs_failure(done, "The datasets cannot be listed")
        return parse_list(done.stdout)

    def do(self, *argv: str, message: str = "", timeout: float | None = 300) -> str:
        """What a zfs command prints.

        Raises:
            Failure: as ``zfs_failure``.
        """
        done = self.run(["zfs", *argv], timeout=timeout)
        if done.rc:
            raise zfs_failure(done, message)
        return done.stdout

    def own_properties(self, dataset: str) -> dict[str, str]:
        """The properties that are set on a dataset itself.

        Raises:
            Failure: as ``zfs_failure``.
        """
        text = self.do("get", "-Hp", "-s", "local,received", "-o", "property,value", "all", dataset)
        return dict(line.split("\t", 1) for line in text.splitlines() if "\t" in line)


def _parents(dataset: str) -> list[str]:
    """The dataset's parent and those above it: where something of it can have been set aside."""
    parts = dataset.split("/")
    return ["/".join(parts[:length]) for length in range(1, len(parts))][-2:]


@dataclass(frozen=True)
class Volume:
    """A volume of a container.

    key: of the configuration (``rootfs``, ``mp0``), ``dataset`` on plain LXC. volid: as the configuration names it.
    dataset: where it is on ZFS. reason: why it is not. backup: whether a backup of Proxmox has it.
    """

    key: str
    volid: str
    dataset: str | None
    reason: str = ""
    backup: bool = True


@dataclass(frozen=True)
class Container:
    """A container as it is. config, firewall: the texts of its files. lock: what holds it. snapshots: Proxmox's own."""

    id: str
    volumes: tuple[Volume, ...]
    running: bool
    config: str = ""
    firewall: str = ""
    lock: str | None = None
    snapshots: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def datasets(self) -> tuple[str, ...]:
        """Its volumes on ZFS."""
        return tuple(volume.dataset for volume in self.volumes if volume.dataset)


# ----------------------------------------------------------------------------------- files of Proxmox, pure

top_section = proxmox.top_section


def section_config(text: str) -> dict[str, dict[str, str]]:
    """A file of sections, such as storage.cfg, by their names; the kind is the key ``type``."""
    found: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in text.splitlines():
        begin = re.match(r"^([^\s#]\S*):\s*(\S+)\s*$", line)
        if begin:
            current = found.setdefault(begin.group(2), {"type": begin.group(1)})
        elif line.strip() and line[0].isspace():
            key, _space, value = line.strip().partition(" ")
            current[key] = value.strip()
    return found


# What Proxmox takes for true.
_BACKED_UP = [["backup", word] for word in ("1", "on", "yes", "true")]


def volumes_of(config: str, known: t.Mapping[str, t.Mapping[str, str]]) -> tuple[list[Volume], list[str]]:
    """The volumes of a configuration, and notes on mounts that are none."""
    found: list[Volume] = []
    notes: list[str] = []
    for key, value in values(config).items():
        if not re.fullmatch(r"rootfs|mp\d+", key):
            continue
        parts = value.split(",")
        volid = re.sub(r"^volume=", "", parts[0])
        # The root always, a mount point only on demand (mountpoint_backup_enabled of PVE/LXC/Config.pm).
        backup = key == "rootfs" or any(part.split("=", 1) in _BACKED_UP for part in parts[1:])
        storage, _colon, name = volid.partition(":")
        if volid.startswith("/"):
            notes.append(f"{key} ({volid}) is a directory or device of the node and not part of checkpoints.")
        elif known.get(storage, {}).get("type") == "zfspool":
            # A linked clone is BASE/VOLUME; the dataset lies beside its base (path of ZFSPoolPlugin.pm).
            found.append(Volume(key, volid, f"{known[storage]['pool']}/{name.rsplit('/', 1)[-1]}", backup=backup))
        else:
            kind = known.get(storage, {}).get("type", "unknown")
            found.append(Volume(key, volid, None, f"{key} is on {storage}, a storage of the type {kind}", backup))
    return sorted(found, key=lambda volume: (volume.key != "rootfs", len(volume.key), volume.key)), notes


def with_lock(config: str, word: str | None) -> str:
    """N.conf with its lock set or removed."""
    head = top_section(config)
    rest = config[len(head) :]
    head = re.sub(r"^lock:.*\n?", "", head, flags=re.MULTILINE)
    if word:
        comments = re.match(r"(?:#.*\n)*", head)
        end = comments.end() if comments else 0
        head = f"{head[:end]}lock: {word}\n{head[end:]}"
    return head + rest


# ------------------------------------------------------------------------------------------------------ hosts


@contextlib.contextmanager
def _all_held(pattern: str, ids: t.Iterable[str], timeout: float) -> t.Iterator[None]:
    with contextlib.ExitStack() as stack:
        deadline = time.monotonic() + timeout
        for container_id in sorted(set(ids)):
            stack.enter_context(lock_held(pattern.format(container_id.replace("/", "_")), container_id, deadline))
        yield


class Host(abc.ABC):
    """What both kinds of machine have in common."""

    proxmox = False
    lock_pattern = "/run/lock/lxcri/{}.lock"
    replication_lock_pattern = ""

    def __init__(self, zfs: Zfs, run: Run = run_here) -> None:
        self.zfs = zfs
        self.run = run

    @abc.abstractmethod
    def ids(self) -> list[str]:
        """All containers."""

    @abc.abstractmethod
    def container(self, container_id: str) -> Container:
        """A container as it is."""

    @abc.abstractmethod
    def config_path(self, container_id: str) -> str:
        """The file of the container's configuration."""

    def exists(self, container_id: str) -> bool:
        """Whether the id of a container is taken."""
        return os.path.exists(self.config_path(container_id))

    @abc.abstractmethod
    def mark_locked(self, container_id: str, word: str | None) -> None:
        """Lock the container's configuration, or unlock it."""

    @abc.abstractmethod
    def write_config(self, container_id: str, text: str) -> None:
        """Replace the container's configuration."""

    @abc.abstractmethod
    def write_firewall(self, container_id: str, text: str) -> None:
        """Replace the container's firewall rules."""

    @abc.abstractmethod
    def _power(self, container_id: str, start: bool) -> t.Sequence[str]:
        """The command that starts a container, or stops it."""

    def start(self, container_id: str) -> None:
        """Start a container.

        Raises:
            Failure: ``start_failed``.
        """
        done = self.run(self._power(container_id, True), timeout=300)
        if done.rc:
            raise Failure(
                "start_failed",
                f"Container {container_id} does not start: {(done.stderr or done.stdout).strip()[-400:]}",
                f"See 'lxc-start -F -n {container_id} -l DEBUG -o /tmp/start.log'.",
                container=container_id,
            )

    def stop(self, container_id: str) -> None:
        """Stop a container at once, as a rollback of Proxmox does.

        Raises:
            Failure: ``stop_failed``.
        """
        done = self.run(self._power(container_id, False), timeout=120)
        deadline = time.monotonic() + 30
        while not done.rc and running(self.run, container_id):
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
        if done.rc or running(self.run, container_id):
            raise Failure(
                "stop_failed",
                f"Container {container_id} does not stop: {(done.stderr or done.stdout).strip()[-400:]}",
                container=container_id,
            )

    def locked(self, ids: t.Iterable[str], timeout: float = 10) -> contextlib.AbstractContextManager[None]:
        """Hold the lock files of containers, which Proxmox's own operations take too. A dead process holds none.

        Raises:
            Failure: ``lock_timeout``.
        """
        return _all_held(self.lock_pattern, ids, timeout)

    def without_replication(self, ids: t.Iterable[str], timeout: float = 10) -> contextlib.AbstractContextManager[None]:
        """Keep away what would take snapshots of containers and send them, whatever lock their configurations have.

        Raises:
            Failure: ``lock_timeout``: it is under way.
        """
        return _all_held(self.replication_lock_pattern, ids if self.replication_lock_pattern else (), timeout)


class ProxmoxHost(Host):
    """A node of Proxmox."""

    proxmox = True
    lock_pattern = LOCK_PATTERN
    # guest_migration_lock of PVE/GuestHelpers.pm, which a rollback of Proxmox takes before that.
    replication_lock_pattern = "/var/lock/pve-manager/pve-migrate-{}"

    def ids(self) -> list[str]:
        """The containers of this node.

        Raises:
            Failure: ``pmxcfs_missing``.
        """
        self._require_files()
        names = (os.path.basename(path)[: -len(".conf")] for path in glob.glob(f"{PVE}/lxc/*.conf"))
        return sorted((name for name in names if name.isdigit()), key=int)

    def container(self, container_id: str) -> Container:
        """A container of this node.

        Raises:
            Failure: ``container_missing``, ``pmxcfs_missing``.
        """
        self._require_files()
        config = read_text(self.config_path(container_id)) if container_id.isdigit() else None
        if config is None:
            raise Failure(
                "container_missing",
                f"There is no container {container_id} on this node.",
                "Run the module on the node that has it.",
                container=container_id,
            )
        volumes, notes = volumes_of(config, section_config(read_text(f"{PVE}/storage.cfg") or ""))
        return Container(
            id=container_id,
            volumes=tuple(volumes),
            running=running(self.run, container_id),
            config=config,
            firewall=read_text(f"{PVE}/firewall/{container_id}.fw") or "",
            lock=values(config).get("lock"),
            snapshots=sections(config),
            notes=tuple(notes),
        )

    def config_path(self, container_id: str) -> str:
        """N.conf."""
        return f"{PVE}/lxc/{container_id}.conf"

    def exists(self, container_id: str) -> bool:
        """A vmid is one of the whole cluster, and of virtual machines too."""
        return bool(glob.glob(f"{PVE}/nodes/*/*/{container_id}.conf"))

    @staticmethod
    def _require_files() -> None:
        if not os.path.isdir(f"{PVE}/lxc"):
            raise Failure(
                "pmxcfs_missing",
                f"The file system of Proxmox is not mounted at {PVE}.",
                "See 'systemctl status pve-cluster'.",
                path=PVE,
            )

    def mark_locked(self, container_id: str, word: str | None) -> None:
        """Lock the container's configuration for all of Proxmox's operations, or unlock it."""
        before = read_text(self.config_path(container_id))
        if before is not None and with_lock(before, word) != before:
            self.write_config(container_id, with_lock(before, word))

    def write_config(self, container_id: str, text: str) -> None:
        """Replace N.conf in one step."""
        replace_config(self.config_path(container_id), text)

    def write_firewall(self, container_id: str, text: str) -> None:
        """Replace N.fw in one step."""
        replace_config(f"{PVE}/firewall/{container_id}.fw", text)

    def _power(self, container_id: str, start: bool) -> t.Sequence[str]:
        return ["pct", "start" if start else "stop", container_id, "--skiplock"]


class LxcHost(Host):
    """A host with LXC on ZFS, without Proxmox. A container is a dataset, with those below it."""

    def __init__(
        self, zfs: Zfs, run: Run = run_here, datasets: t.Sequence[str] = (), pattern: str = DEFAULT_PATTERN
    ) -> None:
        super().__init__(zfs, run)
        if "<id>" not in pattern:
            raise Failure("invalid_option", f"dataset_pattern: {pattern!r} has no <id> in it.")
        self.pattern = pattern
        self.roots = {dataset.rstrip("/").rsplit("/", 1)[-1]: dataset.rstrip("/") for dataset in datasets}

    def ids(self) -> list[str]:
        """The containers given by their datasets, or else all that the pattern matches.

        Raises:
            Failure: as ``zfs_failure``.
        """
        if self.roots:
            return sorted(self.roots)
        before, _id, after = self.pattern.partition("<id>")
        parent = before.rsplit("/", 1)[0]
        names = self.zfs.do("list", "-Hp", "-r", "-t", "filesystem", "-o", "name", parent, timeout=60).splitlines()
        pattern = re.compile(re.escape(before) + r"([^/]+)" + re.escape(after))
        found = (match.group(1) for match in map(pattern.fullmatch, names) if match)
        return sorted(name for name in found if name != ASIDE_PARENT)

    def container(self, container_id: str) -> Container:
        """A container by its dataset, whose last component is the name that LXC knows.

        Raises:
            Failure: ``container_missing``.
        """
        root = self.roots.get(container_id, self.pattern.replace("<id>", container_id))
        done = self.run(["zfs", "list", "-Hp", "-r", "-t", "filesystem,volume", "-o", "name", root], timeout=60)
        names = [name for name in done.stdout.split("\n") if name and ASIDE_PARENT not in name.split("/")]
        if root not in names:
            raise Failure(
                "container_missing",
                f"There is no dataset {root} for container {container_id}.",
                "See dataset_pattern and datasets, and 'zfs list'.",
                container=container_id,
                dataset=root,
            )
        return Container(
            id=container_id,
            volumes=tuple(Volume("dataset", name, name) for name in sorted(names)),
            running=running(self.run, container_id),
            config=read_text(self.config_path(container_id)) or "",
        )

    def config_path(self, container_id: str) -> str:
        """Where LXC expects it."""
        return f"/var/lib/lxc/{container_id}/config"

    def mark_locked(self, container_id: str, word: str | None) -> None:
        """Nothing: LXC knows no such lock."""

    def write_config(self, container_id: str, text: str) -> None:
        """Replace the configuration of LXC."""
        os.makedirs(os.path.dirname(self.config_path(container_id)), exist_ok=True)
        replace_config(self.config_path(container_id), text)

    def write_firewall(self, container_id: str, text: str) -> None:
        """Nothing: LXC has no firewall."""

    def _power(self, container_id: str, start: bool) -> t.Sequence[str]:
        return ["lxc-start", "-d", "-n", container_id] if start else ["lxc-stop", "-k", "-n", container_id]


def find_host(zfs: Zfs, run: Run = run_here, datasets: t.Sequence[str] = (), pattern: str = DEFAULT_PATTERN) -> Host:
    """The kind of machine that this is. Where datasets are given, they are meant and not Proxmox's containers."""
    # It stays there when the file system of Proxmox is not mounted.
    if not datasets and os.path.isdir(PVE):
        return ProxmoxHost(zfs, run)
    return LxcHost(zfs, run, datasets, pattern)
