# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workloads: deployments, stateful sets and pods, and the fleet of containers that they stand for. Pure, no I/O.

A workload ``web`` with three replicas is the containers ``web-1``, ``web-2`` and ``web-3``; a pod ``shop`` with the
members ``app`` and ``cache`` is ``shop-1-app``, ``shop-1-cache`` and so on. Each carries the tag of the owner
(``lxcri``) and that of its workload (``lxcri.web``): by these ``lxc_fleet`` finds what is not declared any more. An
owner has no dot in its name, so that the tag of a workload is never that of another owner. The containers of a pod also
carry that of their replica (``lxcri.shop.1``), by which whoever moves them knows that they belong together.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import typing as t
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.pod import (
    Network,
    PodError,
    SharedDirectory,
    directories_of,
    network_of,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.properties import InvalidValue
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.rollout import ON_FAILURE, ORDERS, SHARE
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import container_options

DEFAULT_OWNER = "lxcri"
SPREAD = "spread"
STATES = ("started", "stopped", "absent")

# What becomes of a replica that is not wanted any more, unless the workload says so itself.
SCALE_DOWN_OF_KIND = {"deployment": "delete", "stateful_set": "stop", "pod": "delete"}
# In which order replicas are changed: those of a stateful set from the highest number down, as Kubernetes does it.
ORDER_OF_KIND = {"deployment": "ascending", "stateful_set": "descending", "pod": "ascending"}
# In which order they start with their node: first what others store their data in.
AUTOSTART_OF_KIND = {"stateful_set": 100, "pod": 200, "deployment": 300}

# The policies of a workload in the words of ``lxc_fleet``.
PRUNE = {"keep": "none", "stop": "stop", "delete": "delete"}

_CONTAINER_OPTIONS = container_options()
_ALIASES = {alias: name for name, option in _CONTAINER_OPTIONS.items() for alias in option.get("aliases", ())}

# Where a new container comes from: one of these.
_SOURCES = ("template", "clone", "restore")

# The most that a range of addresses or ids stands for.
MAX_RANGE = 1000

LABEL = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
MAX_LABEL = 63

# Options of a container that a workload has an option of its own for.
WORKLOAD_OPTION_FOR = {"node": "placement", "spread": "placement", "state": "state", "health": "health"}

# The place of a replica's number in a hostname.
ORDINAL = "{ordinal}"
ROLLOUT_OPTIONS = ("max_unavailable", "max_surge", "order", "on_failure", "rollback_within")
MEMBER_OPTIONS = ("name", "container", "addresses", "vmids", "health")


class Refusal(Exception):
    """What is wrong with a workload; ``str()`` starts with the option and ends without a full stop."""


@dataclass(frozen=True)
class Member:
    """One of the containers of which each replica consists; only a pod has several.

    name: empty for the only one.
    container: the options that are its own in all replicas.
    addresses, vmids: of each replica, by its number.
    """

    name: str = ""
    container: Mapping[str, t.Any] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    vmids: tuple[int, ...] = ()
    health: Mapping[str, t.Any] | None = None


@dataclass(frozen=True)
class Workload:
    """A workload as it is declared.

    container: the options that its replicas have in common.
    replica_options: options of single replicas, by their number.
    rollout: how its replicas are changed; None for all at once.
    surge: how many replicas more there are meanwhile.
    autostart: the place in the order of starting, and its pauses; None when that is left to ``container``.
    network, volumes: of a pod.
    """

    name: str
    kind: str
    replicas: int = 1
    container: Mapping[str, t.Any] = field(default_factory=dict)
    placement: str = SPREAD
    scale_down: str = "delete"
    state: str = "started"
    replica_options: Mapping[int, Mapping[str, t.Any]] = field(default_factory=dict)
    members: tuple[Member, ...] = (Member(),)
    rollout: Mapping[str, t.Any] | None = None
    surge: int = 0
    autostart: Mapping[str, t.Any] | None = None
    network: Network | None = None
    volumes: tuple[SharedDirectory, ...] = ()

    def tag(self, owner: str) -> str:
        """The tag that its replicas carry."""
        return f"{owner}.{self.name}"

    @property
    def prune(self) -> str:
        """What ``lxc_fleet`` is to do with replicas that are not wanted any more."""
        return "delete" if self.state == "absent" else PRUNE[self.scale_down]


WORKLOAD_OPTIONS = (
    *("name", "kind", "replicas", "container", "placement", "scale_down", "state", "replica_options"),
    *("addresses", "vmids", "health", "rollout", "autostart", "members", "network", "volumes"),
)
# What the containers of a pod have each for itself, and what only a pod has.
_OF_MEMBERS = ("addresses", "vmids", "health")
_OF_PODS = ("members", "network", "volumes")


@dataclass(frozen=True)
class Expansion:
    """What the workloads stand for.

    fleet: the options of one ``lxc_fleet`` task that makes them as declared.
    problems: what is wrong with them, in sentences; the fleet is complete only when there are none.
    """

    fleet: dict[str, t.Any]
    problems: list[str]


def fleet_of(
    workloads: t.Any,
    defaults: t.Any = None,
    owner: t.Any = DEFAULT_OWNER,
    orphans: t.Any = "keep",
) -> dict[str, t.Any]:
    """The fleet that the workloads stand for, see ``expand``.

    Raises:
        Failure: ``invalid_option``, with everything that is wrong.
    """
    expansion = expand(workloads, defaults, owner, orphans)
    if expansion.problems:
        raise Failure("invalid_option", " ".join(expansion.problems), "Nothing was started.")
    return expansion.fleet


def expand(
    workloads: t.Any,
    defaults: t.Any = None,
    owner: t.Any = DEFAULT_OWNER,
    orphans: t.Any = "keep",
) -> Expansion:
    """The fleet that the workloads stand for, or what is wrong with them.

    workloads: a list of dictionaries, each with ``WORKLOAD_OPTIONS``.
    defaults: options for the containers of all workloads.
    owner: the tag that marks what belongs to this list.
    orphans: what becomes of the containers of workloads that are not in the list any more.
    """
    problems: list[str] = []
    owner = _checked(problems, "", _owner, owner) or DEFAULT_OWNER
    prune = PRUNE[_checked(problems, "", _choice, "orphans", orphans, PRUNE) or "keep"]
    common = _checked(problems, "", _container, "defaults", defaults or {}, owner) or {}
    declared = _workloads(workloads, owner, problems)
    replicas = [
        (workload, container)
        for workload in declared
        for container in _checked(problems, workload.name, _replicas, workload, common, owner) or []
    ]
    problems += _collisions(replicas)
    fleet = {
        "containers": [container for _workload, container in replicas],
        "owner": owner,
        "prune": prune,
        "prune_tags": {workload.tag(owner): workload.prune for workload in declared},
        "rollouts": [{"group": w.tag(owner), **w.rollout} for w in declared if w.rollout is not None],
    }
    return Expansion(fleet, [f"{problem}." for problem in problems])


Checked = t.TypeVar("Checked")


def _checked(
    problems: list[str],
    workload: str,
    read: t.Callable[..., Checked],
    *arguments: t.Any,
) -> Checked | None:
    """What ``read`` gives; None when it refuses, and then the problem is noted."""
    try:
        return read(*arguments)
    except Refusal as refusal:
        problems.append(f"Workload {workload}: {refusal}" if workload else str(refusal))
        return None


# -------------------------------------------------------------------------------------------------- reading


def _workloads(entries: t.Any, owner: str, problems: list[str]) -> list[Workload]:
    if not _is_list(entries):
        problems.append("The workloads are not a list")
        return []
    declared: list[Workload] = []
    for number, entry in enumerate(entries, start=1):
        name = entry.get("name") if isinstance(entry, Mapping) else None
        workload = _checked(problems, str(name or f"{number} of the list"), _workload, entry, owner)
        if workload is None:
            continue
        if any(workload.name == other.name for other in declared):
            problems.append(f"Workload {workload.name}: name: it is in the list more than once")
            continue
        declared.append(workload)
    return declared


def _workload(entry: t.Any, owner: str) -> Workload:
    if not isinstance(entry, Mapping):
        raise Refusal("it is not a dictionary")
    given = {str(option): value for option, value in entry.items() if value is not None}
    _known(given, WORKLOAD_OPTIONS, "an option of a workload")
    for option in ("name", "kind"):
        if option not in given:
            raise Refusal(f"{option}: it is missing")
    kind = _choice("kind", given["kind"], SCALE_DOWN_OF_KIND)
    _refuse_foreign(given, kind)
    replicas = _count("replicas", given.get("replicas", 1))
    members = _members(given, owner)
    names = [member.name for member in members]
    try:
        network = network_of(given.get("network"))
        volumes = directories_of(given.get("volumes", ()), names)
    except PodError as error:
        raise Refusal(str(error)) from None
    workload = Workload(
        name=_name(given["name"]),
        kind=kind,
        replicas=replicas,
        container=_container("container", given.get("container", {}), owner),
        placement=_placement(given.get("placement", SPREAD)),
        scale_down=_choice("scale_down", given.get("scale_down", SCALE_DOWN_OF_KIND[kind]), PRUNE),
        state=_choice("state", given.get("state", "started"), STATES),
        replica_options=_replica_options(given.get("replica_options", {}), owner),
        members=members,
        rollout=_rollout(given.get("rollout"), kind),
        surge=_surge(given.get("rollout"), replicas),
        autostart=_autostart(given.get("autostart"), kind),
        network=network,
        volumes=volumes,
    )
    _check_surge(workload)
    _check_rollback(workload)
    for member in members:
        where = f"members.{member.name}." if member.name else ""
        for option, values in (("addresses", member.addresses), ("vmids", member.vmids)):
            if values and len(values) < replicas + workload.surge:
                more = f" and {workload.surge} more during a roll-out" if workload.surge else ""
                raise Refusal(f"{where}{option}: {len(values)} are not enough for {replicas} replicas{more}")
    return workload


def _refuse_foreign(given: Mapping[str, t.Any], kind: str) -> None:
    """Refuse options that only another kind has."""
    if kind == "pod":
        for option in _OF_MEMBERS:
            if option in given:
                raise Refusal(f"{option}: a pod has it in its 'members', for each of them")
        if not given.get("members"):
            raise Refusal("members: a pod has at least one")
        return
    for option in _OF_PODS:
        if option in given:
            raise Refusal(f"{option}: only a pod has it")


def _members(given: Mapping[str, t.Any], owner: str) -> tuple[Member, ...]:
    entries = given.get("members")
    if entries is None:
        return (_member("", given, {}),)
    if not _is_list(entries):
        raise Refusal("members: it is not a list")
    members: list[Member] = []
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, Mapping):
            raise Refusal(f"members: entry {number} is not a dictionary")
        own = {str(option): value for option, value in entry.items() if value is not None}
        where = f"members.{own.get('name', number)}."
        _known(own, MEMBER_OPTIONS, "an option of a member", where)
        if not re.fullmatch(LABEL, str(own.get("name", ""))):
            raise Refusal(f"{where}name: it is not made of lower-case letters, digits and inner hyphens")
        if any(own["name"] == other.name for other in members):
            raise Refusal(f"{where}name: it is in the list more than once")
        members.append(_member(where, own, _container(f"{where}container", own.get("container", {}), owner)))
    return tuple(members)


def _member(where: str, given: Mapping[str, t.Any], container: Mapping[str, t.Any]) -> Member:
    health = given.get("health", {})
    if not isinstance(health, Mapping):
        raise Refusal(f"{where}health: it is not a dictionary")
    return Member(
        name=str(given["name"]) if where else "",
        container=container,
        addresses=_addresses(f"{where}addresses", given.get("addresses", ())),
        vmids=_vmids(f"{where}vmids", given.get("vmids", ())),
        # An expression can give nothing but a dictionary, so that an empty one is none.
        health=health or None,
    )


def _rollout(value: t.Any, kind: str) -> dict[str, t.Any] | None:
    """The strategy, as ``lxc_fleet`` takes it; the surge replicas are containers of its list."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise Refusal("rollout: it is not a dictionary")
    given = {str(option): inner for option, inner in value.items() if inner is not None}
    _known(given, ROLLOUT_OPTIONS, "an option of a roll-out", "rollout.")
    given.pop("max_surge", None)
    if "max_unavailable" in given:
        given["max_unavailable"] = _share("rollout.max_unavailable", given["max_unavailable"])
    for option, choices in (("order", ORDERS), ("on_failure", ON_FAILURE)):
        if option in given:
            _choice(f"rollout.{option}", given[option], choices)
    if "rollback_within" in given:
        given["rollback_within"] = _count("rollout.rollback_within", given["rollback_within"])
    return {"order": ORDER_OF_KIND[kind], **given}


def _share(option: str, value: t.Any) -> str:
    if isinstance(value, bool) or not re.fullmatch(SHARE, str(value)):
        raise Refusal(f"{option}: {value!r} is neither a number nor a share of the replicas, such as 25%")
    return str(value)


def _surge(value: t.Any, replicas: int) -> int:
    """How many replicas more there are during a roll-out; a share is rounded up."""
    if not isinstance(value, Mapping) or value.get("max_surge") is None:
        return 0
    text = _share("rollout.max_surge", value["max_surge"])
    return -(-int(text[:-1]) * replicas // 100) if text.endswith("%") else int(text)


def _check_surge(workload: Workload) -> None:
    """Refuse further replicas where there can be none, or where they would hide what was kept."""
    if workload.surge and workload.kind == "stateful_set":
        raise Refusal(
            "rollout.max_surge: a replica of a stateful set is its number and its data; there is no other one"
        )
    if workload.surge and workload.scale_down != "delete":
        raise Refusal(
            "rollout.max_surge: further replicas are removed after the roll-out, and with "
            f"'scale_down: {workload.scale_down}' those numbers may be of replicas that were kept"
        )
    if workload.rollout and workload.rollout.get("max_unavailable") == "0" and not workload.surge:
        raise Refusal("rollout.max_unavailable: with 0 and without max_surge nothing could ever be changed")


def _check_rollback(workload: Workload) -> None:
    if workload.volumes and workload.rollout and workload.rollout.get("on_failure") == "rollback":
        raise Refusal(
            "rollout.on_failure: a rollback takes a snapshot, and Proxmox takes none of containers that mount "
            "directories of the node, as the volumes of a pod are; use stop"
        )


def _autostart(value: t.Any, kind: str) -> dict[str, t.Any] | None:
    """``onboot``, ``order``, ``up`` and ``down``; None when nothing is said."""
    if value is None:
        return None
    if isinstance(value, bool):
        return {"onboot": True, "order": AUTOSTART_OF_KIND[kind]} if value else {"onboot": False}
    if not isinstance(value, Mapping):
        raise Refusal("autostart: it is neither true, false nor a dictionary, such as {order: 10, up: 5}")
    given = {str(option): inner for option, inner in value.items() if inner is not None}
    _known(given, ("order", "up", "down"), "an option of autostart", "autostart.")
    numbers = {option: _count(f"autostart.{option}", inner) for option, inner in given.items()}
    return {"onboot": True, "order": AUTOSTART_OF_KIND[kind], **numbers}


def _owner(owner: t.Any) -> str:
    if not re.fullmatch(properties.TAG, str(owner)) or "." in str(owner):
        raise Refusal(f"owner: {owner!r} is not a tag without a dot, such as {DEFAULT_OWNER}")
    return str(owner).lower()


def _name(name: t.Any) -> str:
    if not re.fullmatch(LABEL, str(name)):
        raise Refusal("name: it is not made of lower-case letters, digits and inner hyphens")
    return str(name)


def _count(option: str, value: t.Any) -> int:
    # Templates may give a number as text.
    if isinstance(value, bool) or not re.fullmatch(r"-?\d+", str(value)):
        raise Refusal(f"{option}: {value!r} is not a whole number")
    if int(value) < 0:
        raise Refusal(f"{option}: {value} is less than 0")
    return int(value)


def _choice(option: str, value: t.Any, choices: Iterable[str]) -> str:
    if value not in tuple(choices):
        raise Refusal(f"{option}: {value!r} is not one of {', '.join(choices)}")
    return str(value)


def _placement(value: t.Any) -> str:
    if not re.fullmatch(r"[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?", str(value)):
        raise Refusal(f"placement: {value!r} is neither {SPREAD} nor the name of a node")
    return str(value)


def _addresses(option: str, value: t.Any) -> tuple[str, ...]:
    """Addresses by the numbers of the replicas; an entry may be a range, ``192.0.2.11-192.0.2.20/24``."""
    if not _is_list(value):
        raise Refusal(f"{option}: it is not a list")
    return tuple(address for entry in value for address in _address_range(option, str(entry)))


def _address_range(option: str, text: str) -> list[str]:
    start, _dash, end = text.rpartition("-")
    try:
        last = ipaddress.ip_interface(end)
        first = ipaddress.ip_address(start) if start else last.ip
        if "/" not in end or first.version != last.version:
            raise ValueError(text)
    except ValueError:
        raise Refusal(f"{option}: {text!r} is not an address with its prefix length, such as 192.0.2.11/24") from None
    if not start:
        return [text]
    prefix = end.partition("/")[2]
    numbers = _counted(option, text, int(first), int(last.ip))
    return [f"{type(first)(number)}/{prefix}" for number in numbers]


def _vmids(option: str, value: t.Any) -> tuple[int, ...]:
    """Ids by the numbers of the replicas; an entry may be a range, ``201-210``."""
    if not _is_list(value):
        raise Refusal(f"{option}: it is not a list")
    vmids: list[int] = []
    for entry in value:
        match = re.fullmatch(r"(?P<first>\d+)(-(?P<last>\d+))?", str(entry))
        if not match or isinstance(entry, bool):
            raise Refusal(f"{option}: {entry!r} is neither an id nor a range of ids, such as 201-210")
        first, last = int(match["first"]), int(match["last"] or match["first"])
        vmids += _counted(option, str(entry), first, last)
    return tuple(vmids)


def _counted(option: str, text: str, first: int, last: int) -> range:
    if not 0 <= last - first < MAX_RANGE:
        raise Refusal(f"{option}: {text} is not a range of 1 to {MAX_RANGE}")
    return range(first, last + 1)


def _replica_options(value: t.Any, owner: str) -> dict[int, dict[str, t.Any]]:
    if not isinstance(value, Mapping):
        raise Refusal("replica_options: it is not a dictionary, such as {1: {memory: 1024}}")
    options: dict[int, dict[str, t.Any]] = {}
    for key, container in value.items():
        number = _count("replica_options", key)
        if number == 0:
            raise Refusal("replica_options: the first replica is 1")
        if number in options:
            raise Refusal(f"replica_options: {number} is given twice")
        options[number] = _container(
            f"replica_options.{number}", container, owner, forbidden=("spread", "state", "health")
        )
    return options


def _container(
    where: str,
    value: t.Any,
    owner: str,
    forbidden: Sequence[str] = tuple(WORKLOAD_OPTION_FOR),
) -> dict[str, t.Any]:
    """The options of a container that are given; their values are ``lxc_fleet``'s to check, but for the tags."""
    if not isinstance(value, Mapping):
        raise Refusal(f"{where}: it is not a dictionary")
    given = {_ALIASES.get(str(option), str(option)): inner for option, inner in value.items() if inner is not None}
    for option in forbidden:
        if option in given:
            raise Refusal(f"{where}.{option}: use '{WORKLOAD_OPTION_FOR[option]}' of the workload instead")
    _known(given, _CONTAINER_OPTIONS, "an option of a container", f"{where}.")
    if "tags" in given:
        given["tags"] = _tags(f"{where}.tags", given["tags"], owner)
    return given


def _tags(where: str, value: t.Any, owner: str) -> list[str]:
    try:
        tags = list(properties.normalise("tags", value) or ())
    except InvalidValue as error:
        raise Refusal(f"{where}: {error}") from None
    for tag in tags:
        if tag.startswith(f"{owner}."):
            raise Refusal(f"{where}: {tag} is the mark of a workload, which is set by itself")
    return tags


def _known(given: Iterable[str], options: Iterable[str], what: str, where: str = "") -> None:
    for option in given:
        if option not in options:
            close = difflib.get_close_matches(option, list(options), 1)
            raise Refusal(f"{where}{option}: it is not {what}" + (f"; perhaps {close[0]} is meant" if close else ""))


def _is_list(value: t.Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


# ------------------------------------------------------------------------------------------------ expanding


def _replicas(workload: Workload, common: Mapping[str, t.Any], owner: str) -> list[dict[str, t.Any]]:
    """The containers of a workload, as ``lxc_fleet`` takes them."""
    if workload.state == "absent":
        return []
    return [
        _replica(workload, number, place, common, owner)
        for number in range(1, workload.replicas + workload.surge + 1)
        for place in range(len(workload.members))
    ]


def _replica(workload: Workload, number: int, place: int, common: Mapping[str, t.Any], owner: str) -> dict[str, t.Any]:
    """One container: the options of all, of its workload, its member and its replica, each replacing those before."""
    member, unit = workload.members[place], f"{workload.name}-{number}"
    options = {"hostname": f"{unit}-{member.name}" if member.name else unit, **common}
    options.update(_startup(workload, number, place))
    if workload.rollout is not None:
        # Whoever declares how replicas are changed allows what that takes.
        options.setdefault("restart", "if_needed")
    options = _merged(_merged(options, workload.container), member.container)
    if member.addresses:
        options["networks"] = _with_address(options.get("networks"), member.addresses[number - 1])
    if member.vmids:
        options["vmid"] = member.vmids[number - 1]
    options = _merged(options, workload.replica_options.get(number, {}))
    options["hostname"] = str(options["hostname"]).replace(ORDINAL, str(number))
    _share_with_pod(workload, number, place, options)
    options["tags"] = sorted({*options.get("tags", ()), workload.tag(owner)})
    options["state"] = workload.state
    if workload.state == "stopped":
        options.pop("wait_for_address", None)
    if workload.placement != SPREAD:
        options.setdefault("node", workload.placement)
    options["spread"] = workload.tag(owner)
    if workload.kind == "pod":
        options["unit"] = unit
        options["tags"] = sorted({*options["tags"], f"{workload.tag(owner)}.{number}"})
    if workload.rollout is not None:
        options["group"] = workload.tag(owner)
    if number > workload.replicas:
        options["surge"] = True
    if member.health is not None:
        options["health"] = dict(member.health)
    _check_hostname(options["hostname"])
    return options


def _startup(workload: Workload, number: int, place: int) -> dict[str, t.Any]:
    """Whether and when a container starts with its node: a stateful set by its numbers, a pod by its members."""
    if workload.autostart is None:
        return {}
    startup = {option: value for option, value in workload.autostart.items() if option != "onboot"}
    if "order" in startup:
        startup["order"] += {"stateful_set": number - 1, "pod": place}.get(workload.kind, 0)
    return {"onboot": workload.autostart["onboot"], **({"startup": startup} if startup else {})}


def _share_with_pod(workload: Workload, number: int, place: int, options: dict[str, t.Any]) -> None:
    """Add what the containers of a pod have in common."""
    name = workload.members[place].name
    if workload.network:
        own = options.get("networks") or []
        try:
            shared = workload.network.interface(number, place)
        except PodError as error:
            raise Refusal(str(error)) from None
        options["networks"] = [*(own if _is_list(own) else []), shared]
    mounts = [
        directory.mount(index, f"{workload.name}-{number}")
        for index, directory in enumerate(workload.volumes)
        if not directory.members or name in directory.members
    ]
    if mounts:
        own = options.get("mounts") or []
        options["mounts"] = [*(own if _is_list(own) else []), *mounts]


def _merged(common: Mapping[str, t.Any], own: Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The common options with own ones in their place; an own source takes the place of any common source."""
    dropped = _SOURCES if any(source in own for source in _SOURCES) else ()
    return {**{option: value for option, value in common.items() if option not in dropped}, **own}


def _with_address(networks: t.Any, address: str) -> list[dict[str, t.Any]]:
    if not _is_list(networks) or not networks or not isinstance(networks[0], Mapping):
        raise Refusal("addresses: the container has no networks that could have them")
    key = "ip" if ipaddress.ip_interface(address).version == 4 else "ip6"
    return [{**networks[0], key: address}, *networks[1:]]


def _check_hostname(hostname: t.Any) -> None:
    for label in str(hostname).split("."):
        if len(label) > MAX_LABEL:
            raise Refusal(f"name: the hostname {hostname} has {len(label)} characters, more than {MAX_LABEL}")
        if not re.fullmatch(LABEL, label.lower()):
            raise Refusal(f"container.hostname: {hostname!r} is not a hostname")


# ----------------------------------------------------------------------------------------------- collisions


def _collisions(replicas: Iterable[tuple[Workload, Mapping[str, t.Any]]]) -> list[str]:
    """What several containers would have though only one can: a sentence for each such thing."""
    holders: dict[tuple[str, t.Any], list[str]] = {}
    for workload, container in replicas:
        for fact in dict.fromkeys(_exclusive(container)):
            holders.setdefault(fact, []).append(workload.name)
    return [
        f"{_named(names)}: {len(names)} containers would have the same {what} {shown[0]}; "
        "give each its own with 'replica_options'"
        for (what, *shown), names in holders.items()
        if len(names) > 1
    ]


def _named(workloads: Sequence[str]) -> str:
    names = list(dict.fromkeys(workloads))
    return f"Workload{'s' if len(names) > 1 else ''} {' and '.join(names)}"


def _exclusive(container: Mapping[str, t.Any]) -> Iterable[tuple[t.Any, ...]]:
    """What no other container can have: what it is, its value, and where it counts."""
    yield "hostname", str(container["hostname"]).lower()
    if container.get("vmid"):
        yield "vmid", str(container["vmid"])
    for net in _dictionaries(container.get("networks")):
        if net.get("hwaddr"):
            yield "MAC address", str(net["hwaddr"]).upper()
        for sub in ("ip", "ip6"):
            if "/" in str(net.get(sub, "")):
                yield "address", _bare(str(net[sub])), str(net.get("bridge")), str(net.get("tag"))
    for mount in (*_dictionaries([container.get("rootfs")]), *_dictionaries(container.get("mounts"))):
        volume = str(mount.get("volume") or "/")
        if not volume.startswith("/") and not volume.endswith(":"):
            yield "volume", volume


def _dictionaries(value: t.Any) -> list[Mapping[str, t.Any]]:
    return [entry for entry in value if isinstance(entry, Mapping)] if _is_list(value) else []


def _bare(address: str) -> str:
    try:
        return str(ipaddress.ip_interface(address).ip)
    except ValueError:
        return address.split("/", maxsplit=1)[0]
