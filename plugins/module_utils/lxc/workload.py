# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workloads: deployments and stateful sets, and the fleet of containers that they stand for. Nothing here does I/O.

A workload ``web`` with three replicas is the containers ``web-1``, ``web-2`` and ``web-3``. Each carries the tag of
the owner (``lxcri``) and that of its workload (``lxcri.web``): by these ``lxc_fleet`` finds what is not declared any
more. An owner has no dot in its name, so that the tag of a workload is never that of another owner.
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
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.properties import InvalidValue
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import container_options

DEFAULT_OWNER = "lxcri"
SPREAD = "spread"
STATES = ("started", "stopped", "absent")

# What becomes of a replica that is not wanted any more, unless the workload says so itself.
SCALE_DOWN_OF_KIND = {"deployment": "delete", "stateful_set": "stop"}

# The policies of a workload in the words of ``lxc_fleet``.
PRUNE = {"keep": "none", "stop": "stop", "delete": "delete"}

_CONTAINER_OPTIONS = container_options()
_ALIASES = {alias: name for name, option in _CONTAINER_OPTIONS.items() for alias in option.get("aliases", ())}

# Where a new container comes from: one of these.
_SOURCES = ("template", "clone", "restore")

LABEL = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
MAX_LABEL = 63

# Options of a container that a workload has an option of its own for.
WORKLOAD_OPTION_FOR = {"node": "placement", "spread": "placement", "state": "state"}


class Refusal(Exception):
    """What is wrong with a workload; ``str()`` starts with the option and ends without a full stop."""


@dataclass(frozen=True)
class Workload:
    """A workload as it is declared.

    container: the options that its replicas have in common.
    addresses: the address of each replica on the first network.
    replica_options: options of single replicas, by their number.
    """

    name: str
    kind: str
    replicas: int = 1
    container: Mapping[str, t.Any] = field(default_factory=dict)
    placement: str = SPREAD
    scale_down: str = "delete"
    state: str = "started"
    addresses: tuple[str, ...] = ()
    replica_options: Mapping[int, Mapping[str, t.Any]] = field(default_factory=dict)

    def tag(self, owner: str) -> str:
        """The tag that its replicas carry."""
        return f"{owner}.{self.name}"

    @property
    def prune(self) -> str:
        """What ``lxc_fleet`` is to do with replicas that are not wanted any more."""
        return "delete" if self.state == "absent" else PRUNE[self.scale_down]


WORKLOAD_OPTIONS = tuple(Workload.__dataclass_fields__)


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
    workload = Workload(
        name=_name(given["name"]),
        kind=kind,
        replicas=_count("replicas", given.get("replicas", 1)),
        container=_container("container", given.get("container", {}), owner),
        placement=_placement(given.get("placement", SPREAD)),
        scale_down=_choice("scale_down", given.get("scale_down", SCALE_DOWN_OF_KIND[kind]), PRUNE),
        state=_choice("state", given.get("state", "started"), STATES),
        addresses=_addresses(given.get("addresses", ())),
        replica_options=_replica_options(given.get("replica_options", {}), owner),
    )
    if workload.addresses and len(workload.addresses) < workload.replicas:
        raise Refusal(f"addresses: {len(workload.addresses)} are not enough for {workload.replicas} replicas")
    return workload


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


def _addresses(value: t.Any) -> tuple[str, ...]:
    if not _is_list(value):
        raise Refusal("addresses: it is not a list")
    for address in value:
        try:
            valid = "/" in str(address) and bool(ipaddress.ip_interface(str(address)))
        except ValueError:
            valid = False
        if not valid:
            raise Refusal(f"addresses: {address!r} is not an address with its prefix length, such as 192.0.2.11/24")
    return tuple(map(str, value))


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
        options[number] = _container(f"replica_options.{number}", container, owner, forbidden=("spread", "state"))
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
    return [_replica(workload, number, common, owner) for number in range(1, workload.replicas + 1)]


def _replica(workload: Workload, number: int, common: Mapping[str, t.Any], owner: str) -> dict[str, t.Any]:
    """One replica: the options of all, of its workload and its own, each replacing the one before as a whole."""
    options = _merged({"hostname": f"{workload.name}-{number}", **common}, workload.container)
    if workload.addresses:
        options["networks"] = _with_address(options.get("networks"), workload.addresses[number - 1])
    options = _merged(options, workload.replica_options.get(number, {}))
    options["tags"] = sorted({*options.get("tags", ()), workload.tag(owner)})
    options["state"] = workload.state
    if workload.state == "stopped":
        options.pop("wait_for_address", None)
    if workload.placement != SPREAD:
        options.setdefault("node", workload.placement)
    options["spread"] = workload.tag(owner)
    _check_hostname(options["hostname"])
    return options


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
