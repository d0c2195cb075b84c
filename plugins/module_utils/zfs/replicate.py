# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replicates checkpoints to another pool or machine, and keeps as many there as rules say.

What both sides have in common is found by guid. It is held on both sides, and a bookmark of the source remembers it
even if somebody removes its snapshot. Nothing on the target is ever overwritten unless it is named.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import io
import os
import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import threading
import time
import typing as t
from dataclasses import dataclass, field, replace

from ..api.errors import Failure, combined
from ..node.commands import Completed, Run, environment, run_here, run_over_ssh
from .checkpoint import check_keep, destroy, expired, known, require_volumes, unfinished
from .failures import zfs_failure
from .host import Container, Host, Zfs
from .model import NOT_FOR_ANOTHER, SOURCE, Checkpoint, Dataset, Snapshot, checkpoints
from .steps import reached
from .store import STATE, Store

TAG = "lxcri:replica"
CURSOR = "lxcri-replica"
STATES = ("present", "absent")
RAW = ("auto", "always", "never")

_CHUNK = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][\w.: -]*(/[\w.:-][\w.: -]*)*", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9_\[][\w.@:%\[\]-]*", re.ASCII)
# Options of ssh that lead to another machine than the name does.
_MACHINE = re.compile(r"(HostName|Port|ProxyJump|ProxyCommand)\b", re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


# ---------------------------------------------------------------------------------------------------- what is asked


@dataclass(frozen=True)
class Target:
    """Where the replicas are.

    prefix: the dataset below which they lie. ssh: the command up to the name of the machine; empty for this one.
    """

    prefix: str
    ssh: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Tells this target from others, in names that ZFS keeps."""
        machine = [self.ssh[-1] if self.ssh else ""]
        for option, value in zip(self.ssh, self.ssh[1:]):
            if (option == "-p" and value != "22") or (option == "-o" and _MACHINE.match(value)):
                machine.append(value)
        return hashlib.sha256(f"{','.join(machine)}:{self.prefix}".encode()).hexdigest()[:8]

    @property
    def tag(self) -> str:
        """The tag of the holds."""
        return f"{TAG}-{self.label}"

    def cursor(self, guid: str = "") -> str:
        """How the bookmark for a snapshot is called; without one, how all begin."""
        return f"{CURSOR}-{self.label}-{guid}"

    def replica(self, dataset: str) -> str:
        """The replica of a dataset: its whole name below the prefix, so that no two can meet.

        >>> Target("backup/replica").replica("rpool/data/subvol-101-disk-0")
        'backup/replica/rpool/data/subvol-101-disk-0'
        """
        return f"{self.prefix}/{dataset}"

    def run(self) -> Run:
        """Runs commands there."""
        return run_over_ssh(self.ssh) if self.ssh else run_here

    def command(self, argv: t.Sequence[str]) -> list[str]:
        """A command there, as one that is started here."""
        if not self.ssh:
            return list(argv)
        return [*self.ssh, f"LC_ALL=C PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin exec {shlex.join(argv)}"]


@dataclass(frozen=True)
class Wish:
    """What is asked for. bandwidth: bytes a second. raw: None for what the dataset needs. timeout: of one stream."""

    target: Target
    bandwidth: int | None = None
    raw: bool | None = None
    keep: t.Mapping[str, int] = field(default_factory=dict)
    keep_timezone: str | None = None
    overwrite_diverged: bool = False
    lose: frozenset[str] = frozenset()
    timeout: float | None = None
    absent: bool = False


def make_wish(params: t.Mapping[str, t.Any]) -> Wish:
    """The options of the module, checked.

    Raises:
        Failure: ``invalid_option``.
    """
    prefix = params["target"].strip("/")
    if not _NAME.fullmatch(prefix):
        raise Failure("invalid_option", f"target: {params['target']!r} cannot be a dataset.")
    if params["lose"] and not params["overwrite_diverged"]:
        raise Failure("invalid_option", "lose needs overwrite_diverged: true.")
    return Wish(
        target=Target(prefix, ssh_command(params)),
        bandwidth=None if params["bandwidth"] is None else parse_rate(params["bandwidth"]),
        raw={"auto": None, "always": True, "never": False}[params["raw"]],
        keep=check_keep(params["keep"] or {}, params["keep_timezone"]),
        keep_timezone=params["keep_timezone"],
        overwrite_diverged=params["overwrite_diverged"],
        lose=frozenset(params["lose"]),
        timeout=params["timeout"],
        absent=params["state"] == "absent",
    )


def ssh_command(params: t.Mapping[str, t.Any]) -> tuple[str, ...]:
    """The ssh command up to the name of the machine; empty without one.

    Raises:
        Failure: ``invalid_option``.
    """
    host = params["host"]
    if host is None:
        return ()
    if not _HOST.fullmatch(host):
        raise Failure("invalid_option", f"host: {host!r} cannot be a destination of ssh.")
    # A dead peer is noticed after a minute; the stream is then resumed by the next run.
    options = ["BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=15", "ServerAliveCountMax=4"]
    words = ["ssh"]
    if params["ssh_port"] is not None:
        words += ["-p", str(params["ssh_port"])]
    if params["ssh_key_file"] is not None:
        words += ["-i", params["ssh_key_file"]]
        options.append("IdentitiesOnly=yes")
    # The first value of an option counts.
    for option in [*params["ssh_options"], *options]:
        words += ["-o", option]
    return (*words, host)


def parse_rate(text: str) -> int:
    """Bytes a second.

    >>> parse_rate("1.5M")
    1572864

    Raises:
        Failure: ``invalid_option``.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    rate = int(float(match.group(1)) * _UNITS[match.group(2).upper()]) if match else 0
    if rate < 1:
        raise Failure("invalid_option", f"bandwidth: {text!r} is not a number of bytes, such as 20M.")
    return rate


# ------------------------------------------------------------------------------------------------ the base, pure


@dataclass(frozen=True)
class Base:
    """What source and replica have in common.

    here: the snapshot or bookmark of the source; None when there is nothing in common. there: the snapshot of the
    replica. lost: what stands in the way on the target, by full names; the name of the replica itself means what was
    written to it since its newest snapshot, or all of it when nothing is in common.
    """

    here: Snapshot | None = None
    there: Snapshot | None = None
    lost: tuple[str, ...] = ()


def choose_base(source: Dataset, replica: Dataset | None, origin: Snapshot | None = None) -> Base:
    """The base of the next stream: the newest snapshot of the replica whose guid the source has as well.

    A snapshot of the source is better than a bookmark, since a stream with intermediate snapshots needs one.
    origin: the snapshot of which the source is a clone, which may lie elsewhere.
    """
    if replica is None:
        return Base()
    known_here: dict[str, Snapshot] = {}
    for candidate in (*source.bookmarks, *([origin] if origin else []), *source.snapshots):
        known_here[candidate.guid] = candidate
    newest_first = sorted(replica.snapshots, key=lambda s: s.createtxg, reverse=True)
    newer: list[str] = []
    for snapshot in newest_first:
        if snapshot.guid in known_here:
            written = [replica.name] if replica.written else []
            return Base(known_here[snapshot.guid], snapshot, (*reversed(newer), *written))
        newer.append(snapshot.name)
    return Base(lost=(*reversed(newer), replica.name))


@dataclass(frozen=True)
class Step:
    """One stream. base: what it begins from; None for a full one. sent: what arrives, the newest last."""

    base: str | None
    sent: tuple[Snapshot, ...]

    def argv(self, *options: str) -> list[str]:
        """The command that sends it."""
        words = ["zfs", "send", "-L", "-c", *options]
        if self.base:
            words += ["-I" if len(self.sent) > 1 else "-i", self.base]
        return [*words, self.sent[-1].name]


def steps(source: Dataset, base: Snapshot | None, wanted: t.Collection[str]) -> list[Step]:
    """The streams that bring the wanted snapshots, from the oldest to the newest.

    Snapshots that follow each other come in one stream. Where one that is not wanted lies between, a new one begins,
    and so it does after a bookmark, from which only one snapshot can be sent.

    wanted: names of snapshots of the source.
    """
    after = base.createtxg if base else -1
    if base and base.dataset != source.name:
        after = -1  # The origin of a clone: all of the clone's own snapshots are newer.
    plan: list[Step] = []
    previous = base.name if base else None
    joined = passed = False
    for snapshot in sorted(source.snapshots, key=lambda s: s.createtxg):
        if snapshot.createtxg <= after:
            continue
        if snapshot.name not in wanted:
            passed = True
            continue
        if joined and not passed:
            plan[-1] = replace(plan[-1], sent=(*plan[-1].sent, snapshot))
        else:
            # What follows may share this stream, unless it is a full one, or has passed over something already.
            joined = previous is not None and "#" not in previous and not passed
            plan.append(Step(previous, (snapshot,)))
        previous, passed = snapshot.name, False
    return plan


def receive_argv(
    source: Dataset, replica: str, carried: t.Mapping[str, str] | None = None, force: bool = False
) -> list[str]:
    """The command that receives a stream of a dataset. Volumes have no mount point.

    carried: properties of the source that are not in the stream.
    """
    properties = {**(carried or {}), **replica_properties(source)}
    words = [word for key, value in properties.items() for word in ("-o", f"{key}={value}")]
    return ["zfs", "recv", "-s", "-u", *(["-F"] if force else []), *words, replica]


def replica_properties(source: Dataset) -> dict[str, str]:
    """What a replica has of its own, so that nothing is mounted or written there."""
    mount = {} if source.kind == "volume" else {"canmount": "noauto", "mountpoint": "none"}
    return {"readonly": "on", **mount, SOURCE: source.name}


def lacking_properties(source: Dataset, replica: Dataset) -> dict[str, dict[str, str]]:
    """The properties that the replica and its snapshots have to get, by their names.

    Not every stream carries them, and a run that was killed has not set them. Snapshots are the same by guid.
    """
    found = {} if replica.source == source.name else {replica.name: replica_properties(source)}
    sent = {snapshot.guid: snapshot.properties for snapshot in source.snapshots}
    for arrived in replica.snapshots:
        properties = sent.get(arrived.guid, {}).items()
        found[arrived.name] = {key: value for key, value in properties if arrived.properties.get(key) != value}
    return {name: properties for name, properties in found.items() if properties}


def parse_estimate(text: str) -> int:
    """The bytes that ``zfs send -nvP`` expects."""
    sizes = re.findall(r"^size\s+(\d+)\s*$", text, re.MULTILINE)
    return int(sizes[-1]) if sizes else 0


def token_guid(text: str) -> str | None:
    """The guid of the snapshot that a resumed stream brings, as ``zfs send -nvP -t`` tells it."""
    match = re.search(r"^\s*toguid = (0x[0-9a-f]+|\d+)\s*$", text, re.MULTILINE | re.IGNORECASE)
    return str(int(match.group(1), 0)) if match else None


# --------------------------------------------------------------------------------------------------- the stream


def transfer(send: t.Sequence[str], target: Target, receive: t.Sequence[str], wish: Wish) -> int:
    """Send a stream; returns its bytes. They pass through this process, so that both ends end with it.

    Raises:
        Failure: ``command_missing``, ``stream_timeout``, ``unreachable``, ``target_diverged``, or as ``zfs_failure``.
    """
    commands = [list(send), target.command(receive)]
    if wish.bandwidth:
        commands.insert(1, ["pv", "-q", "-L", str(wish.bandwidth)])
    with contextlib.ExitStack() as stack:
        errors = [stack.enter_context(tempfile.TemporaryFile()) for _command in commands]
        started: list[subprocess.Popen[bytes]] = []
        stack.callback(_end, started)
        late = threading.Event()
        if wish.timeout:
            timer = threading.Timer(wish.timeout, _too_late, (late, started))
            stack.callback(timer.cancel)
            timer.start()
        count = _pump(commands, errors, started)
        codes = [process.wait() for process in started]
        texts = []
        for file in errors:
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    if late.is_set():
        raise Failure(
            "stream_timeout",
            f"The stream to {receive[-1]} did not end in {wish.timeout:g} seconds, {count} bytes were sent.",
            "Run again; it goes on where it was.",
            dataset=receive[-1],
        )
    if any(codes):
        raise _broken(commands, codes, texts, target, receive[-1])
    return count


def _pump(
    commands: t.Sequence[list[str]], errors: t.Sequence[t.IO[bytes]], started: list[subprocess.Popen[bytes]]
) -> int:
    """Start the commands and carry the bytes to the last of them."""
    stdin: t.Any = subprocess.DEVNULL
    for command, error in zip(commands[:-1], errors):
        process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=error, env=environment())
        if stdin != subprocess.DEVNULL:
            stdin.close()  # Or the command before would not notice that this one has ended.
        stdin = process.stdout
        started.append(process)
    last = subprocess.Popen(
        commands[-1], stdin=subprocess.PIPE, stdout=errors[-1], stderr=errors[-1], env=environment()
    )
    started.append(last)
    count = 0
    with contextlib.suppress(BrokenPipeError):  # The receiver says why.
        if last.stdin is None:
            return 0
        with last.stdin as sink:
            while True:
                chunk = os.read(stdin.fileno(), _CHUNK)
                if not chunk:
                    break
                sink.write(chunk)
                count += len(chunk)
    stdin.close()
    return count


def _too_late(late: threading.Event, started: t.Sequence[subprocess.Popen[bytes]]) -> None:
    late.set()
    for process in list(started):
        process.kill()


def _end(started: t.Sequence[subprocess.Popen[bytes]]) -> None:
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def _broken(
    commands: t.Sequence[list[str]], codes: t.Sequence[int], texts: t.Sequence[str], target: Target, replica: str
) -> Failure:
    """Why a stream has failed. A sender that was only told that nobody listens is not the reason."""
    cleaned = [text.split("A resuming stream can be generated")[0] for text in texts]
    if target.ssh and codes[-1] == 255:
        return Failure(
            "unreachable",
            f"ssh to {target.ssh[-1]} failed: {cleaned[-1].strip()[-300:]}",
            "Run again; the stream goes on where it was.",
            host=target.ssh[-1],
            dataset=replica,
        )
    first = next((place for place, code in enumerate(codes[:-1]) if code > 0 and "Broken pipe" not in texts[place]), -1)
    if first < 0 and not codes[-1]:
        first = next(place for place, code in enumerate(codes) if code)
    done = Completed(tuple(commands[first]), codes[first], "", cleaned[first])
    message = f"The stream to {replica} broke off"
    if re.search(r"modified\s+since most recent|does not\s+match incremental source|destination .*exists", done.stderr):
        return Failure(
            "target_diverged",
            f"{message}: {' '.join(done.stderr.split())[-300:]}",
            "Somebody has changed the replica meanwhile; run again to see what stands in the way.",
            dataset=replica,
        )
    failure = zfs_failure(done, message, target=replica)
    if failure.code == "zfs_failed":
        failure.hint = "Run again; what has arrived is kept and the stream goes on from there."
    return failure


# ---------------------------------------------------------------------------------------------------- files there


class FilesThere(Store):
    """The files of replicated checkpoints. They are kept apart from those of the target's own containers, of which one
    can have the same id; and from those of the source, whose files go with its checkpoints."""

    def __init__(self, target: Target, state: str) -> None:
        # No name in ZFS has a percent sign in it.
        super().__init__(os.path.join(STATE if target.ssh else state, "replicas", target.prefix.replace("/", "%")))
        self.target = target
        self.doomed: list[str] = []

    def save_all(self, files: t.Mapping[tuple[str, str], t.Mapping[str, str]]) -> None:
        """Keep the files of checkpoints, which are named by container and name.

        Raises:
            Failure: ``files_not_copied``, ``unreachable``.
        """
        if not self.target.ssh:
            for (container, name), texts in files.items():
                self.save(container, name, texts)
            return
        text = base64.b64encode(self._archive(files)).decode()
        script = 'umask 077 && mkdir -p "$1" && cd "$1" && shift && rm -rf -- "$@" && base64 -d | tar -x -p -f -'
        old = [os.path.relpath(self.directory(*key), self.state) for key in files]
        done = self.target.run()(["sh", "-c", script, "sh", self.state, *old], stdin=text, timeout=120)
        if done.rc:
            raise Failure(
                "files_not_copied",
                f"The configuration cannot be copied to {self.target.ssh[-1]}: {done.stderr.strip()[-300:]}",
                host=self.target.ssh[-1],
            )

    def _archive(self, files: t.Mapping[tuple[str, str], t.Mapping[str, str]]) -> bytes:
        buffer = io.BytesIO()
        made: set[str] = set()
        with tarfile.open(fileobj=buffer, mode="w") as archive:

            def add(path: str, content: bytes | None) -> None:
                entry = tarfile.TarInfo(path)
                entry.mtime = int(time.time())
                entry.mode, entry.type = (0o700, tarfile.DIRTYPE) if content is None else (0o600, tarfile.REGTYPE)
                entry.size = len(content or b"")
                archive.addfile(entry, io.BytesIO(content or b""))

            for (container, name), texts in files.items():
                directory = os.path.relpath(self.directory(container, name), self.state)
                parts = directory.split("/")
                for length in range(1, len(parts) + 1):
                    parent = "/".join(parts[:length])
                    if parent not in made:
                        made.add(parent)
                        add(parent, None)
                for kind, text in texts.items():
                    add(f"{directory}/{kind}", text.encode(errors="surrogateescape"))
        return buffer.getvalue()

    def remove(self, container: str, name: str) -> None:
        """Remove the files of a checkpoint; on another machine only by ``flush``."""
        if self.target.ssh:
            self.doomed.append(self.directory(container, name))
        else:
            super().remove(container, name)

    def flush(self) -> None:
        """Remove on the other machine what was to be removed."""
        if self.doomed:
            self.target.run()(["rm", "-rf", "--", *self.doomed], timeout=120)
        self.doomed.clear()


# ------------------------------------------------------------------------------------------------- the replication


@dataclass
class Volume:
    """What becomes of one volume. plan, notes: as those of the container."""

    dataset: str
    target: str
    base: str | None = None
    sent: list[str] = field(default_factory=list)
    bytes: int = 0
    seconds: float = 0.0
    resumed: bool = False
    plan: list[dict[str, t.Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, key: str, before: t.Any, after: t.Any) -> None:
        """Plan a change."""
        self.plan.append({"key": key, "before": before, "after": after})

    def as_dict(self) -> dict[str, t.Any]:
        """The result of the module for this volume."""
        return {
            "dataset": self.dataset,
            "target": self.target,
            "base": self.base,
            "sent": self.sent,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "resumed": self.resumed,
        }


def replicate(host: Host, store: Store, ids: t.Sequence[str], wish: Wish, check_mode: bool = False) -> dict[str, t.Any]:
    """The result of the module. A container that fails does not stop the others.

    Raises:
        Failure: what concerns all of them.
    """
    if wish.bandwidth and not wish.absent and not shutil.which("pv", path=environment()["PATH"]):
        raise Failure(
            "command_missing",
            "bandwidth needs the command pv, which is not on this machine.",
            "Install the package pv ('apt-get install pv').",
            command="pv",
        )
    with contextlib.ExitStack() as stack:
        if not check_mode:
            lock = stack.enter_context(_alone(wish.target))
            if wish.target.ssh and not wish.absent:
                wish = replace(wish, target=stack.enter_context(_connected(wish.target, f"{lock}.ssh")))
        replication = Replication(host, store, ids, wish, check_mode)
        done = {container.id: replication.container(container) for container in replication.containers}
    entries = [
        done.get(container_id) or _nothing(container_id, replication.missing[container_id]) for container_id in ids
    ]
    failures = [(f"Container {e['container']}", f) for e, f in entries if f]
    plain = [entry for entry, _failure in entries]
    result = {
        "changed": any(entry["changed"] for entry in plain),
        "containers": plain,
        "diff": [_diff(entry) for entry in plain if entry["plan"]],
    }
    if failures:
        failure = combined(failures, len(entries))
        result.update(failure=failure.as_dict(), msg=failure.sentence)
    return result


def _nothing(container_id: str, failure: Failure) -> tuple[dict[str, t.Any], Failure]:
    """What becomes of a container with which nothing could be begun, and why."""
    entry = {"container": container_id, "changed": False, "plan": [], "notes": [], "volumes": []}
    return {**entry, "failure": failure.as_dict()}, failure


def _diff(entry: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    return {
        "before_header": f"container {entry['container']}",
        "after_header": f"container {entry['container']}",
        "before": {change["key"]: change["before"] for change in entry["plan"]},
        "after": {change["key"]: change["after"] for change in entry["plan"]},
    }


@contextlib.contextmanager
def _connected(target: Target, path: str) -> t.Iterator[Target]:
    """The target by one connection of ssh that all commands share, or as it is when that does not come about.

    The connection ends with this process, however that ends: it lasts as long as a ``cat`` there has its input.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # Of a run that was killed.
    try:
        master = subprocess.Popen(
            [*target.ssh[:-1], "-M", "-S", path, target.ssh[-1], "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
    except FileNotFoundError:
        # The first command of the replication says that there is no ssh.
        yield target
        return
    try:
        deadline = time.monotonic() + 20
        while not os.path.exists(path) and master.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        ready = os.path.exists(path)
        yield replace(target, ssh=(*target.ssh[:-1], "-S", path, target.ssh[-1])) if ready else target
    finally:
        if master.stdin:
            master.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            master.wait(5)
        _end([master])


@contextlib.contextmanager
def _alone(target: Target) -> t.Iterator[str]:
    """See that only one replication to this target runs; gives the file of the lock.

    Raises:
        Failure: ``lock_timeout``.
    """
    path = f"/run/lock/lxcri/replica-{target.label}.lock"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(
                "lock_timeout",
                f"Another replication to {target.prefix} is running.",
                "Run again when it has ended.",
                file=path,
            ) from None
        yield path


class Replication:
    """One run: what it has read, and what it does with each container."""

    def __init__(self, host: Host, store: Store, ids: t.Sequence[str], wish: Wish, check_mode: bool) -> None:
        self.host = host
        self.store = store
        self.wish = wish
        self.target = wish.target
        self.check_mode = check_mode
        self.containers: list[Container] = []
        self.missing: dict[str, Failure] = {}
        for container_id in ids:
            try:
                self.containers.append(host.container(container_id))
            except Failure as failure:
                if failure.code != "container_missing":
                    raise
                self.missing[container_id] = failure
        self.here, self.sets = known(host, self.containers, store)
        self.zfs_there = Zfs(self.target.run())
        self.there: dict[str, Dataset] = {}
        self.held_here = self._own_holds(host.zfs, self.here.values())
        self.held_there: set[str] = set()
        self.files = FilesThere(self.target, store.state)
        if not wish.absent:
            names = [self.target.replica(dataset) for c in self.containers for dataset in self._datasets(c)]
            self.there = self.zfs_there.read(names)
            self.held_there = self._own_holds(self.zfs_there, (self.there[n] for n in names if n in self.there))

    def _datasets(self, container: Container) -> list[str]:
        """Its volumes, and those that it no longer has but its checkpoints need."""
        members = [m.dataset for c in self._complete(container) for m in c.part.members if m.dataset in self.here]
        return list(dict.fromkeys([*container.datasets, *members]))

    def _complete(self, container: Container) -> list[Checkpoint]:
        return [c for c in self.sets[container.id] if c.complete and not c.safety and c.method == "zfs"]

    def _own_holds(self, zfs: Zfs, datasets: t.Iterable[Dataset]) -> set[str]:
        """Which snapshots this replication holds."""
        held = [snapshot.name for dataset in datasets for snapshot in dataset.snapshots if snapshot.holds]
        lines = [line.split("\t") for line in (zfs.do("holds", "-H", *held).splitlines() if held else [])]
        return {line[0] for line in lines if line[1] == self.target.tag}

    # ----------------------------------------------------------------------------------------------- a container

    def container(self, container: Container) -> tuple[dict[str, t.Any], Failure | None]:
        """What becomes of a container, and what has failed."""
        entry: dict[str, t.Any] = {"container": container.id, "changed": False, "plan": [], "notes": []}
        volumes: list[Volume] = []
        failure = None
        try:
            self._container(container, entry, volumes)
        except Failure as error:
            failure = error
            failure.details.setdefault("container", container.id)
            entry["failure"] = failure.as_dict()
        for volume in volumes:
            entry["notes"] += volume.notes
        entry["plan"] = [change for volume in volumes for change in volume.plan] + entry["plan"]
        entry["changed"] = bool(entry["plan"])
        entry["volumes"] = [volume.as_dict() for volume in volumes]
        return entry, failure

    def _container(self, container: Container, entry: dict[str, t.Any], volumes: list[Volume]) -> None:
        if self.wish.absent:
            for dataset in self._datasets(container):
                volumes.append(Volume(dataset, self.target.replica(dataset)))
                self._forget(volumes[-1])
            return
        require_volumes(self.host, container, self.here)
        entry["notes"] += [f"{v.reason}; it is not replicated." for v in container.volumes if not v.dataset]
        complete = self._complete(container)
        if not complete:
            entry["notes"].append("There is no complete checkpoint to replicate.")
        predicted: list[Checkpoint] = []
        for dataset in self._datasets(container):
            volumes.append(Volume(dataset, self.target.replica(dataset)))
            self._volume(container, complete, volumes[-1])
        if self.check_mode:
            sent = {f"{volume.dataset}@{name}" for volume in volumes for name in volume.sent}
            predicted = [c for c in complete if any(s.name in sent for s in c.snapshots)]
        if self.wish.keep:
            self._prune(container, entry, predicted)

    def _forget(self, volume: Volume) -> None:
        """Stop replicating a volume: nothing of it is kept for that any more."""
        source = self.here.get(volume.dataset)
        if source:
            self._move(volume, source, set(), set())

    # --------------------------------------------------------------------------------------------------- a volume

    def _volume(self, container: Container, complete: t.Sequence[Checkpoint], volume: Volume) -> None:
        if not self.target.ssh and f"{volume.target}/".startswith(f"{volume.dataset}/"):
            raise Failure("invalid_option", f"target: {self.target.prefix} lies in {volume.dataset} itself.")
        source = self.here[volume.dataset]
        begin = time.monotonic()
        by_name = {s.name: c for c in complete for s in c.snapshots if s.dataset == source.name}
        replica = self._resumed(container, by_name, volume, source, self.there.get(volume.target))
        base = choose_base(source, replica, self._origin(source))
        plan = steps(source, base.here, by_name)
        if base.there and not volume.resumed:
            volume.base = base.there.short
        if plan and self.wish.raw is False and source.key_missing:
            raise Failure(
                "key_unavailable",
                f"The key of {source.name} is not loaded, so that it can be sent only raw.",
                f"Load it with 'zfs load-key {source.name}', or set raw: auto.",
                dataset=source.name,
            )
        force = False
        if base.lost and (plan or base.lost != (volume.target,)):
            force = self._overwrite(volume, source, replica, base)
        if replica and base.there:
            replica = self._marked(source, volume, replica)
        if plan:
            volume.add(volume.target, base.there.short if base.there else None, plan[-1].sent[-1].short)
        if plan and replica is None:
            self._make_parents(volume.target)
        if self.check_mode:
            self._estimate(volume, source, plan)
            if not plan and not volume.resumed:
                self._settle(volume, source, replica, base, set())
            return
        pending = {snapshot.name for step in plan for snapshot in step.sent}
        self._hold(self.host.zfs, self.held_here, pending)
        if pending:
            self._copy_files(container, [by_name[name] for name in sorted(pending)])
        options, carried = self._manner(source) if plan else ([], {})
        for step in plan:
            receive = receive_argv(source, volume.target, carried, force)
            volume.bytes += transfer(step.argv(*options), self.target, receive, self.wish)
            force = False
            reached(f"replica:received:{step.sent[-1].short}")
            replica = self._verified(source, volume, step.sent)
            pending -= {snapshot.name for snapshot in step.sent}
            self._settle(volume, source, replica, choose_base(source, replica, self._origin(source)), pending)
        if not plan:
            self._settle(volume, source, replica, base, set())
        if volume.sent or plan:
            volume.seconds = time.monotonic() - begin

    def _origin(self, source: Dataset) -> Snapshot | None:
        """The snapshot of which a volume is a clone, when it is one of the container's own that was set aside."""
        dataset, _at, short = (source.origin or "").partition("@")
        return self.here[dataset].snapshot(short) if dataset in self.here else None

    def _manner(self, source: Dataset) -> tuple[list[str], dict[str, str]]:
        """The options with which a dataset is sent, and its properties if they cannot be in the stream.

        ZFS sends the properties of an encrypted dataset only with a raw stream; and what it receives with properties,
        but not raw, is never encrypted.
        """
        raw = self.wish.raw
        if raw is None:
            raw = self.host.zfs.do("get", "-Hp", "-o", "value", "encryption", source.name).strip() not in ("off", "-")
        elif not raw:
            own = self.host.zfs.own_properties(source.name)
            return [], {key: value for key, value in own.items() if not NOT_FOR_ANOTHER.fullmatch(key)}
        return (["-p", "-w"] if raw else ["-p"]), {}

    def _estimate(self, volume: Volume, source: Dataset, plan: t.Sequence[Step]) -> None:
        """What would be sent, in check mode."""
        options = self._manner(source)[0] if plan else []
        for step in plan:
            done = self.host.run(step.argv(*options, "-n", "-v", "-P"), timeout=300)
            if done.rc:
                raise zfs_failure(done, f"{source.name} cannot be sent", dataset=source.name)
            volume.bytes += parse_estimate(done.stdout + done.stderr)
            volume.sent += [snapshot.short for snapshot in step.sent]

    def _resumed(
        self,
        container: Container,
        by_name: t.Mapping[str, Checkpoint],
        volume: Volume,
        source: Dataset,
        replica: Dataset | None,
    ) -> Dataset | None:
        """The replica, after what an interrupted run has begun was brought to its end or given up."""
        if replica is None or not replica.resume_token:
            return replica
        token = replica.resume_token
        done = self.host.run(["zfs", "send", "-n", "-v", "-P", "-t", token], timeout=300)
        text = done.stdout + done.stderr
        guid = token_guid(text)
        snapshot = next((s for s in source.snapshots if s.guid == guid), None)
        if done.rc or snapshot is None:
            why = "its snapshot is gone" if snapshot is None else " ".join(done.stderr.split())[-200:]
            volume.notes.append(
                f"What an interrupted run has left of a stream in {volume.target} cannot be resumed ({why}) and is "
                "thrown away."
            )
            volume.add(f"{volume.target} partial", "partly received", None)
            if not self.check_mode:
                self.zfs_there.do("recv", "-A", volume.target, message="The partial stream stays")
                reached("replica:aborted")
                return self._read(volume.target)
            return replace(replica, resume_token=None) if replica.snapshots else None
        newest = max(replica.snapshots, key=lambda s: s.createtxg, default=None)
        volume.resumed, volume.base = True, newest.short if newest else None
        volume.add(f"{volume.target} partial", "partly received", snapshot.short)
        if self.check_mode:
            volume.bytes += parse_estimate(text)
            volume.sent.append(snapshot.short)
            order = newest.createtxg + 1 if newest else 1
            arrived = replace(snapshot, name=f"{volume.target}@{snapshot.short}", createtxg=order)
            return replace(replica, resume_token=None, written=0, snapshots=(*replica.snapshots, arrived))
        if snapshot.name in by_name:
            self._copy_files(container, [by_name[snapshot.name]])
        self._hold(self.host.zfs, self.held_here, {snapshot.name})
        argv = receive_argv(source, volume.target)
        volume.bytes += transfer(["zfs", "send", "-t", token], self.target, argv, self.wish)
        reached("replica:resumed")
        return self._verified(source, volume, (snapshot,))

    def _read(self, name: str) -> Dataset | None:
        fresh = self.zfs_there.read([name])
        self.there.pop(name, None)
        self.there.update({key: value for key, value in fresh.items() if key == name})
        return fresh.get(name)

    def _verified(self, source: Dataset, volume: Volume, sent: t.Sequence[Snapshot]) -> Dataset:
        """The replica, which has the snapshots with the same guids and properties.

        Raises:
            Failure: ``verification_failed``.
        """
        replica = self._read(volume.target)
        for snapshot in sent:
            arrived = replica.snapshot(snapshot.short) if replica else None
            if replica is None or arrived is None or arrived.guid != snapshot.guid:
                raise Failure(
                    "verification_failed",
                    f"{volume.target}@{snapshot.short} is not what was sent from {source.name}: its guid is "
                    f"{arrived.guid if arrived else 'none'}, that of the source {snapshot.guid}.",
                    "See 'zfs list -t all -o name,guid' on both sides.",
                    dataset=volume.target,
                )
            volume.sent.append(snapshot.short)
        if replica is None:
            raise Failure("verification_failed", f"{volume.target} is not there after it was received.")
        return self._marked(source, volume, replica)

    def _marked(self, source: Dataset, volume: Volume, replica: Dataset) -> Dataset:
        """The replica, which has its properties, as its snapshots have theirs."""
        lacking = lacking_properties(source, replica)
        for name, properties in lacking.items():
            self._note(volume, f"{name} properties", None, properties)
            if not self.check_mode:
                self.zfs_there.do("set", *(f"{key}={value}" for key, value in properties.items()), name)
                reached("replica:marked")
        if not lacking:
            return replica
        if not self.check_mode:
            return self._read(replica.name) or replica
        marked = (replace(s, properties={**s.properties, **lacking.get(s.name, {})}) for s in replica.snapshots)
        self.there[replica.name] = replace(replica, source=source.name, snapshots=tuple(marked))
        return self.there[replica.name]

    def _make_parents(self, name: str) -> None:
        """Make the datasets above a replica. They are never mounted.

        Raises:
            Failure: ``target_missing``: the target itself is not there.
        """
        parts = name.split("/")
        depth = len(self.target.prefix.split("/"))
        parents = ["/".join(parts[:length]) for length in range(depth, len(parts))]
        run = self.zfs_there.run
        there = run(["zfs", "list", "-H", "-o", "name", *parents], timeout=60).stdout.split("\n")
        if self.target.prefix not in there:
            where = f" on {self.target.ssh[-1]}" if self.target.ssh else ""
            raise Failure(
                "target_missing",
                f"There is no dataset {self.target.prefix}{where}.",
                f"Make it there: 'zfs create -o canmount=off {self.target.prefix}'.",
                dataset=self.target.prefix,
            )
        for parent in parents:
            if parent not in there and not self.check_mode and parent not in self.there:
                self.zfs_there.do("create", "-o", "canmount=off", "-o", "mountpoint=none", parent)

    def _copy_files(self, container: Container, sent: t.Sequence[Checkpoint]) -> None:
        """Bring the files of checkpoints before their data, so that none there is without."""
        files = {(container.id, c.name): self.store.load(container.id, c.name) for c in sent}
        self.files.save_all({key: texts for key, texts in files.items() if texts})
        reached("replica:files")

    # -------------------------------------------------------------------------------------------- holds and cursor

    def _settle(
        self, volume: Volume, source: Dataset, replica: Dataset | None, base: Base, pending: t.Collection[str]
    ) -> None:
        """Hold the base on both sides and remember it by a bookmark; then let go of the one before.

        pending: snapshots of the source that are still to be sent.
        """
        if replica is None or base.there is None or base.here is None:
            return
        snapshot = next((s for s in source.snapshots if s.guid == base.there.guid), None)
        keep_here = {base.here.name} if "@" in base.here.name else set()
        self._move(volume, source, keep_here | set(pending), {self.target.cursor(base.there.guid)}, snapshot)
        others = {name for name in self.held_there if name.startswith(f"{replica.name}@")} - {base.there.name}
        self._change(volume, self.zfs_there, self.held_there, {base.there.name} - self.held_there, others)

    def _move(
        self,
        volume: Volume,
        source: Dataset,
        held: t.Collection[str],
        cursors: t.Collection[str],
        snapshot: Snapshot | None = None,
    ) -> None:
        """Make the holds and bookmarks of a source what they have to be."""
        # Also what a restore has set aside.
        now = {name for name in self.held_here if self.here[name.split("@")[0]].home == source.name}
        own = {b.short for b in self.here[source.name].bookmarks if b.short.startswith(self.target.cursor())}
        new, old = sorted(set(cursors) - own), sorted(own - set(cursors))
        self._change(volume, self.host.zfs, self.held_here, set(held) - now, ())
        if snapshot and new:
            self._note(volume, f"{source.name}#{new[0]}", None, snapshot.short)
            if not self.check_mode:
                self.host.zfs.do("bookmark", snapshot.name, f"{source.name}#{new[0]}")
        if snapshot or not new:
            for name in old:
                self._note(volume, f"{source.name}#{name}", name, None)
                if not self.check_mode:
                    self.host.zfs.do("destroy", f"{source.name}#{name}")
            self._remember_bookmarks(source.name, own, set(cursors))
        self._change(volume, self.host.zfs, self.held_here, (), now - set(held))

    def _remember_bookmarks(self, name: str, own: t.Collection[str], cursors: t.Collection[str]) -> None:
        """What the source has by now, without reading it again."""
        if self.check_mode:
            return
        dataset = self.here[name]
        kept = [b for b in dataset.bookmarks if b.short not in own or b.short in cursors]
        there = {bookmark.short for bookmark in kept}
        for cursor in sorted(set(cursors) - there):
            guid = cursor[len(self.target.cursor()) :]
            origin = next((s for s in dataset.snapshots if s.guid == guid), None)
            if origin:
                kept.append(Snapshot(f"{name}#{cursor}", guid, origin.createtxg, origin.creation))
        self.here[name] = replace(dataset, bookmarks=tuple(kept))

    def _change(
        self, volume: Volume, zfs: Zfs, held: set[str], adding: t.Collection[str], removing: t.Collection[str]
    ) -> None:
        for name in sorted(adding):
            self._note(volume, f"{name} hold", None, self.target.tag)
        for name in sorted(removing):
            self._note(volume, f"{name} hold", self.target.tag, None)
        self._hold(zfs, held, adding)
        if removing and not self.check_mode:
            zfs.do("release", self.target.tag, *sorted(removing))
            held -= set(removing)
            reached("replica:released")

    def _note(self, volume: Volume, key: str, before: t.Any, after: t.Any) -> None:
        """Plan a change of its own only where nothing is sent, for which it is a matter of course."""
        if not volume.sent:
            volume.add(key, before, after)

    def _hold(self, zfs: Zfs, held: set[str], names: t.Collection[str]) -> None:
        missing = sorted(set(names) - held)
        if missing and not self.check_mode:
            zfs.do("hold", self.target.tag, *missing)
            held |= set(missing)
            reached("replica:held")

    # ------------------------------------------------------------------------------------------- a diverged target

    def _overwrite(self, volume: Volume, source: Dataset, replica: Dataset | None, base: Base) -> bool:
        """Remove what stands in the way, if it was named; returns whether receiving needs ``-F``.

        Raises:
            Failure: ``target_diverged``, ``would_lose_data``, ``held``, ``has_clones``.
        """
        if replica is None:
            return False
        if not self.wish.overwrite_diverged:
            raise diverged(source, replica, base)
        unnamed = sorted(set(base.lost) - self.wish.lose)
        if unnamed:
            raise Failure(
                "would_lose_data",
                f"Overwriting {replica.name} would destroy {', '.join(unnamed)}, which lose does not name.",
                "Name all of it in lose, if it may be lost.",
                dataset=replica.name,
                lose=list(base.lost),
            )
        doomed = [snapshot for snapshot in replica.snapshots if snapshot.name in base.lost]
        for snapshot in doomed:
            if snapshot.clones:
                raise Failure("has_clones", f"{snapshot.name} has clones: {', '.join(snapshot.clones)}.")
            if snapshot.holds > (snapshot.name in self.held_there):
                raise Failure("held", f"{snapshot.name} is held by somebody else.", "See 'zfs holds'.")
        for name in base.lost:
            volume.add(name, "differs from the source", None)
        whole = base.there is None
        children = any(name.startswith(f"{replica.name}/") for name in self.there)
        if self.check_mode:
            return True
        self._change(volume, self.zfs_there, self.held_there, (), self.held_there & {s.name for s in doomed})
        for snapshot in doomed:
            self.zfs_there.do("destroy", snapshot.name)
        reached("replica:overwritten")
        if whole and not children:
            # -F neither replaces an encrypted dataset nor replaces one by an encrypted one.
            self.zfs_there.do("destroy", replica.name)
            return False
        return True

    # --------------------------------------------------------------------------------------------------- retention

    def _prune(self, container: Container, entry: dict[str, t.Any], predicted: t.Sequence[Checkpoint]) -> None:
        """Remove what no rule keeps on the target, and what an interrupted removal has left. Never what is held."""
        names = {self.target.replica(dataset) for dataset in self._datasets(container)}
        replicas = {name: self.there[name] for name in names if name in self.there}
        if not self.check_mode and any(dataset.snapshots for dataset in replicas.values()):
            fresh = self.zfs_there.read(sorted(replicas))
            replicas = {name: fresh[name] for name in names if name in fresh}
        bases = {name.split("@", 1)[1] for name in self.held_there if name.split("@", 1)[0] in names}
        if self.check_mode and predicted:
            bases = set()  # They move on.
        found = [c for c in checkpoints(replicas) if c.container == container.id]
        own = [c for c in found if c.complete and not c.safety]
        present = {checkpoint.id for checkpoint in own}
        own = [self._without_own_holds(checkpoint) for checkpoint in own]
        own += [self._without_own_holds(c, True) for c in predicted if c.id not in present]
        going, notes = expired(own, self.wish.keep, self.wish.keep_timezone, bases, time.time())
        entry["notes"] += notes
        going = [*unfinished(found), *going]
        entry["removed"] = [checkpoint.name for checkpoint in going]
        entry["plan"] += [{"key": f"{self.target.prefix} {c.name}", "before": c.name, "after": None} for c in going]
        if going and not self.check_mode:
            destroy(self.zfs_there, self.files, going, replicas)
            self.files.flush()

    def _without_own_holds(self, checkpoint: Checkpoint, everyone: bool = False) -> Checkpoint:
        """A checkpoint that counts for the rules even if it is the base.

        everyone: it is one of the source, whose holds and clones do not exist on the target.
        """
        if everyone:
            bare = tuple(replace(snapshot, holds=0, clones=()) for snapshot in checkpoint.snapshots)
            return replace(checkpoint, snapshots=bare)
        return replace(
            checkpoint,
            snapshots=tuple(replace(s, holds=s.holds - (s.name in self.held_there)) for s in checkpoint.snapshots),
        )


def diverged(source: Dataset, replica: Dataset, base: Base) -> Failure:
    """The replica is not what the source was at any time."""
    there = [snapshot.short for snapshot in replica.snapshots]
    here = [snapshot.short for snapshot in source.snapshots]
    if base.there:
        common = f"The newest that both have is {base.there.short}; since then {replica.name} got"
        what = f"{common} {', '.join(name.split('@')[-1] if '@' in name else 'changes' for name in base.lost)}."
    elif there:
        what = f"They have no snapshot in common. There: {', '.join(there[-10:])}. Here: {', '.join(here[-10:])}."
    else:
        what = "It is there already, and no replica of anything."
    return Failure(
        "target_diverged",
        f"{replica.name} has diverged from {source.name}. {what}",
        "Keep it and choose another target, or remove by hand what is newer there, or set overwrite_diverged with lose "
        f"naming what may be lost: {', '.join(base.lost)}.",
        dataset=source.name,
        target=replica.name,
        common=base.there.short if base.there else None,
        lose=list(base.lost),
        target_snapshots=there,
        source_snapshots=here,
    )
