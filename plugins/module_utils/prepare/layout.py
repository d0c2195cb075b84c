# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pools and datasets of a node: what is declared, what there is, the commands that make the one of the other."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field, replace

from ..api.errors import Failure
from ..node.commands import Completed, Run, run_here
from ..zfs.failures import zfs_failure
from .devices import check_name, refuse_used
from .properties import INHERIT, ONLY_AT_CREATION, declared_properties, parse_size, same

ROLES = ("data", "log", "special", "dedup", "cache", "spare")
# What is done with all of a pool from time to time, and when: by a timer of the package zfsutils-linux, or by its job
# of cron, which looks at a property of the pool's first dataset (/usr/lib/zfs-linux/scrub and trim).
WORK = ("scrub", "trim")
TIMERS = ("monthly", "weekly")
SCHEDULES = (*TIMERS, "cron", "never")
TYPES = ("stripe", "mirror", "raidz1", "raidz2", "raidz3")
# How many devices there are at least.
_AT_LEAST = {"stripe": 1, "mirror": 2, "raidz1": 2, "raidz2": 3, "raidz3": 4}
# zpool_name_valid of OpenZFS, without the space, which the name of a unit cannot have.
_POOL = re.compile(r"(?!(?:mirror|raidz|draid|spare|log|c\d))[A-Za-z][A-Za-z0-9_.:-]*")
_COMPONENT = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.:-]+")
# Making a pool waits for the kernel to read the new partition tables.
_TIMEOUT = 600


@dataclass(frozen=True)
class Vdev:
    """A group of devices. kind: of TYPES. role: of ROLES."""

    kind: str
    role: str
    devices: tuple[str, ...]


@dataclass(frozen=True)
class Pool:
    """A pool. Without vdevs it has to be there already. work: when it is scrubbed and trimmed, of SCHEDULES."""

    name: str
    vdevs: tuple[Vdev, ...]
    properties: t.Mapping[str, str]
    work: t.Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """A file system, or with a size in bytes a volume."""

    name: str
    size: int | None
    sparse: bool
    properties: t.Mapping[str, str]

    @property
    def parent(self) -> str:
        """The dataset above it; empty for the first one of a pool."""
        return self.name.rpartition("/")[0]


@dataclass(frozen=True)
class Actual:
    """What there is.

    pools: name -> property -> value. devices: pool -> the devices in it, as its labels name them.
    datasets: name -> property -> (value, source), with ``type`` among them.
    timers: unit -> whether it is enabled and runs.
    """

    pools: t.Mapping[str, t.Mapping[str, str]] = field(default_factory=dict)
    devices: t.Mapping[str, t.Sequence[str]] = field(default_factory=dict)
    datasets: t.Mapping[str, t.Mapping[str, tuple[str, str]]] = field(default_factory=dict)
    timers: t.Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Action:
    """A command, and the differences that it removes, as entries of a plan.

    argv: empty for what is not going to be done.
    """

    argv: tuple[str, ...]
    changes: tuple[dict[str, t.Any], ...]


def layout_options() -> dict[str, t.Any]:
    """The argument specification of ``zfs_layout``."""
    vdev = {
        "type": {"type": "str", "choices": list(TYPES), "default": "stripe"},
        "role": {"type": "str", "choices": list(ROLES), "default": "data"},
        "devices": {"type": "list", "elements": "path", "required": True},
    }
    pool = {
        "name": {"type": "str", "required": True},
        "vdevs": {"type": "list", "elements": "dict", "options": vdev, "default": []},
        "properties": {"type": "dict", "default": {}},
        **{work: {"type": "str", "choices": list(SCHEDULES)} for work in WORK},
    }
    dataset = {
        "name": {"type": "str", "required": True},
        "size": {"type": "str"},
        "sparse": {"type": "bool", "default": False},
        "properties": {"type": "dict", "default": {}},
    }
    return {
        "pools": {"type": "list", "elements": "dict", "options": pool, "default": []},
        "datasets": {"type": "list", "elements": "dict", "options": dataset, "default": []},
    }


# -------------------------------------------------------------------------------------------------- declaration


def declare(params: t.Mapping[str, t.Any]) -> tuple[list[Pool], list[Dataset]]:
    """The declaration made of a task's options; a dataset comes after the one above it.

    Raises:
        Failure: ``invalid_option``.
    """
    pools = [_pool(entry, f"pools[{index}]") for index, entry in enumerate(params["pools"])]
    datasets = [_dataset(entry, f"datasets[{index}]") for index, entry in enumerate(params["datasets"])]
    for option, names in (("pools", [p.name for p in pools]), ("datasets", [d.name for d in datasets])):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise _invalid(option, f"{', '.join(twice)} is there twice")
    datasets = _with_schedules(pools, datasets)
    # By components, so that the order is that of the tree.
    return pools, sorted(datasets, key=lambda dataset: dataset.name.split("/"))


def _pool(entry: t.Mapping[str, t.Any], where: str) -> Pool:
    if not _POOL.fullmatch(entry["name"]):
        raise _invalid(f"{where}.name", f"{entry['name']!r} is no name for a pool")
    vdevs = []
    for index, vdev in enumerate(entry["vdevs"]):
        place = f"{where}.vdevs[{index}]"
        kind, role, devices = vdev["type"], vdev["role"], tuple(vdev["devices"])
        if len(devices) < _AT_LEAST[kind]:
            raise _invalid(f"{place}.devices", f"{kind} needs {_AT_LEAST[kind]} devices or more")
        if kind != "stripe" and role in ("cache", "spare"):
            raise _invalid(f"{place}.type", f"a device for {role} stands alone")
        if kind.startswith("raidz") and role != "data":
            raise _invalid(f"{place}.type", f"{role} is a stripe or a mirror")
        for device in devices:
            check_name(device)
        vdevs.append(Vdev(kind, role, devices))
    if vdevs and not any(vdev.role == "data" for vdev in vdevs):
        raise _invalid(f"{where}.vdevs", "there is none for data")
    properties = declared_properties(entry["properties"] or {}, f"{where}.properties")
    if INHERIT in properties.values():
        raise _invalid(f"{where}.properties", "a pool inherits nothing")
    return Pool(entry["name"], tuple(vdevs), properties, {work: entry[work] for work in WORK if entry[work]})


def _with_schedules(pools: t.Sequence[Pool], datasets: t.Sequence[Dataset]) -> list[Dataset]:
    """The datasets, of which the first ones of pools say whether the job of cron works on them."""
    found = {dataset.name: dataset for dataset in datasets}
    for pool in pools:
        own = {f"org.debian:periodic-{w}": INHERIT if when == "cron" else "disable" for w, when in pool.work.items()}
        first = found.get(pool.name, Dataset(pool.name, None, False, {}))
        if set(own) & set(first.properties):
            raise _invalid(
                "datasets", f"{' and '.join(own)} of {pool.name} follow from when it is scrubbed and trimmed"
            )
        if own:
            found[pool.name] = replace(first, properties={**first.properties, **own})
    return list(found.values())


def _dataset(entry: t.Mapping[str, t.Any], where: str) -> Dataset:
    name = entry["name"]
    if not _POOL.fullmatch(name.split("/")[0]) or not all(_COMPONENT.fullmatch(part) for part in name.split("/")):
        raise _invalid(f"{where}.name", f"{name!r} is no name for a dataset")
    size = None
    if entry["size"] is not None:
        size = parse_size(entry["size"])
        if not size:
            raise _invalid(f"{where}.size", f"{entry['size']!r} is no size such as 32G")
        if "/" not in name:
            raise _invalid(f"{where}.size", "the first dataset of a pool is a file system")
    properties = declared_properties(entry["properties"] or {}, f"{where}.properties")
    for taken in {"volsize", "type", "name"} & set(properties):
        raise _invalid(f"{where}.properties", f"{taken} is no property to be set here")
    if properties.get("refreservation") == "auto":
        raise _invalid(f"{where}.properties", "refreservation reads back as a number; give that, or leave it out")
    return Dataset(name, size, entry["sparse"], properties)


def _invalid(option: str, why: str) -> Failure:
    return Failure("invalid_option", f"{option}: {why}.", "Nothing was changed.", option=option)


# -------------------------------------------------------------------------------------------------------- reading


def read(run: Run, pools: t.Sequence[Pool], datasets: t.Sequence[Dataset]) -> Actual:
    """What there is of what is declared, in one command for each pool and one for all datasets.

    Raises:
        Failure: ``command_missing``, as ``zfs_failure``.
    """
    found: dict[str, dict[str, str]] = {}
    devices: dict[str, list[str]] = {}
    for pool in pools:
        names = sorted({"health", *pool.properties})
        done = run(["zpool", "get", "-Hp", "-o", "property,value", ",".join(names), pool.name], timeout=60)
        if _missing(done):
            continue
        _refuse(done, f"The pool {pool.name} cannot be read")
        found[pool.name] = dict(_rows(done.stdout))
        done = run(["zpool", "list", "-vHP", pool.name], timeout=60)
        _refuse(done, f"The pool {pool.name} cannot be read")
        devices[pool.name] = [row[1] for row in _rows(done.stdout) if len(row) > 1 and row[1].startswith("/")]
    return Actual(found, devices, _read_datasets(run, datasets), _read_timers(run, pools))


def _unit(work: str, when: str, pool: str) -> str:
    return f"zfs-{work}-{when}@{pool}.timer"


def _read_timers(run: Run, pools: t.Sequence[Pool]) -> dict[str, bool]:
    units = [_unit(work, when, pool.name) for pool in pools for work in pool.work for when in TIMERS]
    if not units:
        return {}
    done = run(["systemctl", "show", "--property=UnitFileState,ActiveState", *units], timeout=60)
    if done.rc:
        raise Failure("systemd_failed", f"The timers cannot be read: {done.stderr.strip()[-300:]}")
    # One paragraph for each unit, in their order.
    states = [dict(line.split("=", 1) for line in part.splitlines()) for part in done.stdout.strip().split("\n\n")]
    return {
        unit: (state["UnitFileState"], state["ActiveState"]) == ("enabled", "active")
        for unit, state in zip(units, states)
    }


def _read_datasets(run: Run, datasets: t.Sequence[Dataset]) -> dict[str, dict[str, tuple[str, str]]]:
    if not datasets:
        return {}
    names = sorted({name for each in datasets for name in (each.name, each.parent) if name})
    wanted = sorted({"type", "volsize", *(name for each in datasets for name in each.properties)})
    words = ["zfs", "get", "-Hp", "-t", "filesystem,volume", "-o", "name,property,value,source"]
    done = run([*words, ",".join(wanted), *names], timeout=120)
    # Those that are not there are told on stderr, one line each.
    told = [line for line in done.stderr.splitlines() if line.strip() and not _NOT_THERE.search(line)]
    if done.rc and told:
        raise zfs_failure(done, "The datasets cannot be read")
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for name, key, value, source in _rows(done.stdout):
        found.setdefault(name, {})[key] = (value, source)
    return found


_NOT_THERE = re.compile(r"no such pool|dataset does not exist")


def _missing(done: Completed) -> bool:
    return done.rc != 0 and _NOT_THERE.search(done.stderr) is not None


def _refuse(done: Completed, message: str) -> None:
    if done.rc:
        raise zfs_failure(done, message)


def _rows(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines() if line]


# ------------------------------------------------------------------------------------------------------ plan, pure


def plan_pools(pools: t.Sequence[Pool], datasets: t.Sequence[Dataset], actual: Actual) -> list[Action]:
    """What makes the pools.

    Raises:
        Failure: ``pool_missing``.
    """
    first = {dataset.name: dataset for dataset in datasets}
    actions = []
    for pool in pools:
        there = actual.pools.get(pool.name)
        if there is None:
            if not pool.vdevs:
                raise Failure(
                    "pool_missing",
                    f"There is no pool {pool.name}, and no devices are given of which to make it.",
                    "Import it with 'zpool import', or give its vdevs.",
                    pool=pool.name,
                )
            actions.append(_create_pool(pool, first.get(pool.name)))
            continue
        actions += [
            _set(["zpool", "set"], pool.name, name, there.get(name, "-"), value)
            for name, value in pool.properties.items()
            if not same(name, value, there.get(name, "-"))
        ]
        lacking = _lacking(pool, actual.devices.get(pool.name, []))
        if lacking:
            hint = "A pool that is there keeps its devices; see 'zpool attach', 'zpool replace' and 'zpool add'."
            change = {"key": f"{pool.name} devices", "before": list(actual.devices[pool.name]), "after": lacking}
            actions.append(Action((), ({**change, "effect": "live", "request": None, "hint": hint},)))
    return actions


def _create_pool(pool: Pool, first: Dataset | None) -> Action:
    argv = ["zpool", "create"]
    for name, value in pool.properties.items():
        argv += ["-o", f"{name}={value}"]
    for name, value in (first.properties if first else {}).items():
        if value != INHERIT:
            argv += ["-O", f"{name}={value}"]
    argv.append(pool.name)
    for role in ROLES:
        groups = [vdev for vdev in pool.vdevs if vdev.role == role]
        for index, vdev in enumerate(groups):
            # The word begins a class of devices; of the data there is none. Cache and spare take what follows, whole.
            if role != "data" and (index == 0 or role not in ("cache", "spare")):
                argv.append(role)
            argv += ([] if vdev.kind == "stripe" else [vdev.kind]) + list(vdev.devices)
    after = [{"type": vdev.kind, "role": vdev.role, "devices": list(vdev.devices)} for vdev in pool.vdevs]
    return Action(tuple(argv), (_change(pool.name, None, after, argv),))


def _lacking(pool: Pool, there: t.Sequence[str]) -> list[str]:
    """The declared devices that a pool does not have, whichever name of a whole disk its labels have."""
    plain = {re.sub(r"-part1$", "", path) for path in there} | set(there)
    return [device for vdev in pool.vdevs for device in vdev.devices if device not in plain]


def plan_datasets(pools: t.Sequence[Pool], datasets: t.Sequence[Dataset], actual: Actual) -> list[Action]:
    """What makes the datasets.

    Raises:
        Failure: ``parent_missing``, ``wrong_type``, ``property_fixed``, ``would_lose_data``.
    """
    known = {*actual.datasets, *(pool.name for pool in pools)}
    actions: list[Action] = []
    for dataset in datasets:
        there = actual.datasets.get(dataset.name)
        if there is not None:
            actions += _converge(dataset, there)
        elif dataset.name not in known:
            if dataset.parent not in known:
                raise Failure(
                    "parent_missing",
                    f"{dataset.name} cannot be made, since there is no {dataset.parent or 'pool of that name'}.",
                    "Declare it too.",
                    dataset=dataset.name,
                )
            actions.append(_create_dataset(dataset))
        known.add(dataset.name)
    return actions


def plan_timers(pools: t.Sequence[Pool], actual: Actual) -> list[Action]:
    """What has each pool scrubbed and trimmed when it is declared."""
    actions = []
    for pool in pools:
        for work, chosen in pool.work.items():
            for when in TIMERS:
                unit = _unit(work, when, pool.name)
                runs = actual.timers.get(unit, False)
                if runs != (when == chosen):
                    argv = ["systemctl", "disable" if runs else "enable", "--now", unit]
                    states = ("enabled", "disabled") if runs else ("disabled", "enabled")
                    actions.append(Action(tuple(argv), (_change(unit, *states, argv),)))
    return actions


def _create_dataset(dataset: Dataset) -> Action:
    argv = ["zfs", "create"]
    after: dict[str, t.Any] = {"type": "filesystem" if dataset.size is None else "volume"}
    if dataset.size is not None:
        argv += [*(["-s"] if dataset.sparse else []), "-V", str(dataset.size)]
        after["volsize"] = dataset.size
    for name, value in dataset.properties.items():
        if value != INHERIT:
            argv += ["-o", f"{name}={value}"]
            after[name] = value
    argv.append(dataset.name)
    return Action(tuple(argv), (_change(dataset.name, None, after, argv),))


def _converge(dataset: Dataset, there: t.Mapping[str, tuple[str, str]]) -> list[Action]:
    kind = "filesystem" if dataset.size is None else "volume"
    if there["type"][0] != kind:
        raise Failure(
            "wrong_type",
            f"{dataset.name} is a {there['type'][0]}, not a {kind}.",
            "Rename or remove what is there, or choose another name.",
            dataset=dataset.name,
        )
    actions = []
    if dataset.size is not None and there["volsize"][0] != str(dataset.size):
        if int(there["volsize"][0]) > dataset.size:
            raise Failure(
                "would_lose_data",
                f"{dataset.name} has {there['volsize'][0]} bytes and would be cut off at {dataset.size}.",
                "Volumes are never shrunk; make a smaller one and copy the data.",
                dataset=dataset.name,
            )
        actions.append(_set(["zfs", "set"], dataset.name, "volsize", there["volsize"][0], str(dataset.size)))
    for name, value in dataset.properties.items():
        before, source = there.get(name, ("-", "-"))
        if value == INHERIT:
            if source in ("local", "received"):
                argv = ["zfs", "inherit", name, dataset.name]
                actions.append(Action(tuple(argv), (_change(f"{dataset.name} {name}", before, INHERIT, argv),)))
        elif not same(name, value, before):
            if name in ONLY_AT_CREATION:
                raise Failure(
                    "property_fixed",
                    f"{name} of {dataset.name} is {before} and cannot become {value}: it is set for good at creation.",
                    "Declare what it is, or make another dataset and move the data.",
                    dataset=dataset.name,
                    property=name,
                )
            actions.append(_set(["zfs", "set"], dataset.name, name, before, value))
    return actions


def _set(verb: t.Sequence[str], target: str, name: str, before: str, after: str) -> Action:
    argv = [*verb, f"{name}={after}", target]
    return Action(tuple(argv), (_change(f"{target} {name}", before, after, argv),))


def _change(key: str, before: t.Any, after: t.Any, argv: t.Sequence[str]) -> dict[str, t.Any]:
    return {"key": key, "before": before, "after": after, "effect": "live", "request": " ".join(argv)}


# ---------------------------------------------------------------------------------------------------------- apply


def run_declared(params: t.Mapping[str, t.Any], check_mode: bool, run: Run = run_here) -> dict[str, t.Any]:
    """Make pools and datasets as declared; the result of the module.

    Raises:
        Failure: as the functions above; ``property_not_taken``.
    """
    pools, datasets = declare(params)
    try:
        actual = read(run, pools, datasets)
    except Failure as failure:
        # Where the package is only going to be installed, nothing of it can be there.
        if failure.code != "command_missing" or not check_mode:
            raise
        actual = Actual()
    actions = _plan(pools, datasets, actual)
    refuse_used(run, [d for p in pools if p.name not in actual.pools for vdev in p.vdevs for d in vdev.devices])
    todo = [action for action in actions if action.argv]
    if not check_mode:
        for action in todo:
            done = run(action.argv, timeout=_TIMEOUT)
            if done.rc and action.argv[0] == "systemctl":
                raise Failure(
                    "systemd_failed",
                    f"'{' '.join(action.argv)}' failed: {done.stderr.strip()[-300:]}",
                    "The timers come with the package zfsutils-linux.",
                    unit=action.argv[-1],
                )
            _refuse(done, f"'{' '.join(action.argv[:2])} … {action.argv[-1]}' failed")
        if todo:
            _verify(read(run, pools, datasets), pools, datasets)
    changes = [change for action in actions for change in action.changes]
    made = [change for action in todo for change in action.changes]
    return {
        "changed": bool(todo),
        "plan": changes,
        "warnings": [f"{c['key']}: {', '.join(c['after'])} is not in it. {c['hint']}" for c in changes if "hint" in c],
        "diff": {
            "before": {change["key"]: change["before"] for change in made},
            "after": {change["key"]: change["after"] for change in made},
        },
    }


def _plan(pools: t.Sequence[Pool], datasets: t.Sequence[Dataset], actual: Actual) -> list[Action]:
    return [
        *plan_pools(pools, datasets, actual),
        *plan_datasets(pools, datasets, actual),
        *plan_timers(pools, actual),
    ]


def _verify(actual: Actual, pools: t.Sequence[Pool], datasets: t.Sequence[Dataset]) -> None:
    """Refuse to call done what the next run would want to do again."""
    again = _plan(pools, datasets, actual)
    left = [change for action in again if action.argv for change in action.changes]
    if left:
        named = "; ".join(f"{c['key']} reads back as {c['before']!r}, not {c['after']!r}" for c in left)
        raise Failure(
            "property_not_taken",
            f"ZFS has taken everything, but {named}.",
            "Declare the value as it reads back.",
            plan=left,
        )
