# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy of scheduled checkpoints: a JSON document, read and validated. Pure, no I/O.

{"version": 1, "timezone": "Europe/Vienna", "jobs": [
    {"name": "nightly", "every": "1d", "keep": {"last": 3, "daily": 7},
     "replicate": [{"target": "backup/replica", "keep": {"daily": 30}}]}]}
"""

from __future__ import annotations

import json
import re
import typing as t
from dataclasses import dataclass, field

from ..api.errors import Failure
from ..retention import RULES, retain
from .checkpoint import NAME
from .host import DEFAULT_PATTERN
from .replicate import RAW, Wish, make_wish

VERSION = 1
METHODS = ("zfs", "snapshot", "vzdump")
_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 604800}
# With the prefix of a job and a time stamp it stays below the forty characters that Proxmox takes.
_JOB_NAME = re.compile(r"[a-z][a-z0-9-]{0,17}")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Job:
    """What is done to some containers.

    ids: the containers; empty for all. exclude: what is left out of all. prefix: how its checkpoints are called.
    every: the seconds between two checkpoints; 0 for one in each run. methods: those that may be used.
    keep: by the names of rules; empty for everything. replicas: where to they go.
    """

    name: str
    ids: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    prefix: str = ""
    every: int = 0
    methods: tuple[str, ...] = ("zfs",)
    keep: t.Mapping[str, int] = field(default_factory=dict)
    replicas: tuple[Wish, ...] = ()


@dataclass(frozen=True)
class Policy:
    """The whole policy. lock_timeout: how long a container's lock is waited for, in seconds."""

    jobs: tuple[Job, ...]
    datasets: tuple[str, ...] = ()
    dataset_pattern: str = DEFAULT_PATTERN
    timezone: str | None = None
    lock_timeout: float = 60


def parse(text: str) -> Policy:
    """Read a policy.

    Raises:
        Failure: ``invalid_policy``. Its message begins with the path of the wrong value, such as ``jobs[0].every``.
    """
    try:
        raw = json.loads(text, object_pairs_hook=_unique)
    except ValueError as error:
        raise _wrong("", f"this is not JSON: {error}") from None
    top = _Section(raw, "")
    version = top.number("version", None, 1)
    if version != VERSION:
        raise _wrong("version", f"{version!r} is not a version that this program knows; it knows {VERSION}")
    timezone = top.text("timezone", None)
    if timezone is not None:
        try:
            retain([], {"last": 1}, timezone)
        except ValueError as error:
            raise _wrong("timezone", str(error)) from None
    pattern = top.text("dataset_pattern", DEFAULT_PATTERN) or ""
    if "<id>" not in pattern:
        raise _wrong("dataset_pattern", f"{pattern!r} has no <id> in it")
    policy = Policy(
        jobs=tuple(_job(section, timezone) for section in top.sections("jobs")),
        datasets=top.texts("datasets"),
        dataset_pattern=pattern,
        timezone=timezone,
        lock_timeout=top.number("lock_timeout", 60, 0),
    )
    top.end()
    if not policy.jobs:
        raise _wrong("jobs", "there is no job")
    _distinct(policy.jobs)
    return policy


def _job(section: _Section, timezone: str | None) -> Job:
    name = section.text("name", None)
    if name is None or not _JOB_NAME.fullmatch(name):
        raise _wrong(
            section.at("name"),
            f"{name!r} cannot be a name; use up to 18 lower-case letters, digits and hyphens, beginning with a letter",
        )
    prefix = section.text("prefix", f"auto-{name}-") or ""
    if not NAME.fullmatch(prefix):
        raise _wrong(section.at("prefix"), f"{prefix!r} cannot begin the name of a checkpoint")
    job = Job(
        name=name,
        ids=_ids(section, "vmids"),
        exclude=_ids(section, "exclude"),
        prefix=prefix,
        every=_every(section),
        methods=section.choices("methods", METHODS, ("zfs",)),
        keep=_keep(section),
        replicas=tuple(_replica(replica, timezone) for replica in section.sections("replicate")),
    )
    section.end()
    if job.ids and job.exclude:
        raise _wrong(section.at("exclude"), "this is for jobs without vmids, which mean all containers")
    return job


def _ids(section: _Section, key: str) -> tuple[str, ...]:
    found = section.texts(key, numbers=True)
    for place, identity in enumerate(found):
        if not _ID.fullmatch(identity):
            raise _wrong(f"{section.at(key)}[{place}]", f"{identity!r} cannot be the id of a container")
        if identity in found[:place]:
            raise _wrong(f"{section.at(key)}[{place}]", f"{identity} is there twice")
    return found


def _every(section: _Section) -> int:
    text = section.text("every", None)
    if text is None:
        return 0
    match = re.fullmatch(r"([1-9][0-9]{0,5})([mhdw])", text)
    if not match:
        raise _wrong(section.at("every"), f"{text!r} is not a time such as 15m, 1h, 1d or 1w")
    return int(match.group(1)) * _UNITS[match.group(2)]


def _keep(section: _Section) -> dict[str, int]:
    rules = section.section("keep")
    if rules is None:
        return {}
    found = {rule: int(rules.number(rule, 0, 0, whole=True)) for rule in RULES}
    rules.end()
    if not any(found.values()):
        raise _wrong(section.at("keep"), f"none of {', '.join(RULES)} is positive; leave keep out to keep everything")
    return {rule: number for rule, number in found.items() if number}


def _replica(section: _Section, timezone: str | None) -> Wish:
    """The options are those of the module ``zfs_replica``, without what loses data."""
    port = section.number("ssh_port", 22, 1, whole=True)
    timeout = section.number("timeout", 0, 0)
    target = section.text("target", None)
    if target is None:
        raise _wrong(section.at("target"), "this is missing")
    raw = section.text("raw", "auto")
    if raw not in RAW:
        raise _wrong(section.at("raw"), f"{raw!r} is none of {', '.join(RAW)}")
    params = {
        "state": "present",
        "target": target,
        "host": section.text("host", None),
        "ssh_port": int(port) if "ssh_port" in section.raw else None,
        "ssh_key_file": section.text("ssh_key_file", None),
        "ssh_options": list(section.texts("ssh_options")),
        "bandwidth": section.text("bandwidth", None),
        "raw": raw,
        "keep": _keep(section),
        "keep_timezone": timezone,
        "overwrite_diverged": False,
        "lose": [],
        "timeout": timeout or None,
    }
    section.end()
    try:
        return make_wish(params)
    except Failure as failure:
        # Its message begins with the name of the option.
        option, colon, rest = failure.message.partition(": ")
        at = section.at(option) if colon and option in params else section.path
        raise _wrong(at, (rest if colon else failure.message).rstrip(".")) from None


def _distinct(jobs: t.Sequence[Job]) -> None:
    """See that no job prunes what another one takes."""
    for place, job in enumerate(jobs):
        for other in jobs[:place]:
            if job.name == other.name:
                raise _wrong(f"jobs[{place}].name", f"there are two jobs {job.name}")
            if job.prefix.startswith(other.prefix) or other.prefix.startswith(job.prefix):
                raise _wrong(
                    f"jobs[{place}].prefix",
                    f"{job.prefix!r} and {other.prefix!r} of {other.name} cannot be told apart, so that one job would "
                    "remove the checkpoints of the other",
                )


def _unique(pairs: list[tuple[str, t.Any]]) -> dict[str, t.Any]:
    """An object of JSON, in which no key may be twice."""
    found: dict[str, t.Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} is there twice")
        found[key] = value
    return found


def _wrong(path: str, what: str) -> Failure:
    return Failure(
        "invalid_policy",
        f"{path or 'policy'}: {what}.",
        "Correct the policy; nothing was done.",
        path=path,
    )


class _Section:
    """An object of the document, whose values are taken one after the other."""

    def __init__(self, raw: t.Any, path: str) -> None:
        if not isinstance(raw, dict):
            raise _wrong(path, f"{_shown(raw)} is not an object")
        self.raw: dict[str, t.Any] = raw
        self.path = path
        self._taken: set[str] = set()

    def at(self, key: str) -> str:
        """The path of a value."""
        return f"{self.path}.{key}" if self.path else key

    def _take(self, key: str) -> t.Any:
        self._taken.add(key)
        return self.raw.get(key)

    def end(self) -> None:
        """See that nothing else is there."""
        unknown = sorted(set(self.raw) - self._taken)
        if unknown:
            raise _wrong(self.at(unknown[0]), f"there is no such key; there are {', '.join(sorted(self._taken))}")

    def text(self, key: str, default: str | None) -> str | None:
        """A text that is not empty."""
        value = self._take(key)
        if value is None:
            return default
        if not isinstance(value, str) or not value:
            raise _wrong(self.at(key), f"{_shown(value)} is not a text")
        return value

    def number(self, key: str, default: float | None, least: int, whole: bool = False) -> float:
        """A number. Without a default it has to be there."""
        value = self._take(key)
        if value is None:
            value = default
        if value is None:
            raise _wrong(self.at(key), "this is missing")
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise _wrong(self.at(key), f"{_shown(value)} is not a {'whole ' if whole else ''}number")
        if not least <= value < 1e9:
            raise _wrong(self.at(key), f"{_shown(value)} is less than {least}, or too much")
        return t.cast("float", value)

    def texts(self, key: str, numbers: bool = False) -> tuple[str, ...]:
        """A list of texts.

        numbers: whole numbers are taken too.
        """
        found = []
        for place, value in enumerate(self._list(key)):
            plain = isinstance(value, str) and value
            if not plain and not (numbers and isinstance(value, int) and not isinstance(value, bool)):
                raise _wrong(f"{self.at(key)}[{place}]", f"{_shown(value)} is not a text")
            found.append(str(value))
        return tuple(found)

    def choices(self, key: str, known: t.Sequence[str], default: tuple[str, ...]) -> tuple[str, ...]:
        """A list of some known words."""
        found = self.texts(key)
        for place, value in enumerate(found):
            if value not in known:
                raise _wrong(f"{self.at(key)}[{place}]", f"{value!r} is none of {', '.join(known)}")
        return found or default

    def section(self, key: str) -> _Section | None:
        """An object."""
        value = self._take(key)
        return None if value is None else _Section(value, self.at(key))

    def sections(self, key: str) -> list[_Section]:
        """A list of objects."""
        return [_Section(value, f"{self.at(key)}[{place}]") for place, value in enumerate(self._list(key))]

    def _list(self, key: str) -> list[t.Any]:
        value = self._take(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise _wrong(self.at(key), f"{_shown(value)} is not a list")
        return value


def _shown(value: t.Any) -> str:
    return json.dumps(value)[:80]
