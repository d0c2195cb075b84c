# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of a container, and the declaration that is made of them. Nothing here does I/O."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.health import HEALTH_OPTIONS, Health, health_of
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.image import IMAGE_OPTIONS, ImageSpec
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.notes import NOTE
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.properties import ANY_VOLUME, InvalidValue, Sub
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.reference import parse_platform, parse_reference

STATES = ("present", "started", "stopped", "restarted", "absent", "template")
FLEET_STATES = ("present", "started", "stopped", "absent")

PRUNE_POLICIES = ("none", "stop", "delete")

# Scalar options that are keys of the configuration, spelled as Proxmox spells them.
SCALAR_TYPES: dict[str, str] = {
    "arch": "str",
    "cmode": "str",
    "console": "bool",
    "cores": "int",
    "cpulimit": "float",
    "cpuunits": "int",
    "debug": "bool",
    "description": "str",
    "entrypoint": "str",
    "env": "dict",
    "hookscript": "str",
    "hostname": "str",
    "memory": "int",
    "nameserver": "list",
    "onboot": "bool",
    "ostype": "str",
    "protection": "bool",
    "searchdomain": "list",
    "swap": "int",
    "tags": "list",
    "timezone": "str",
    "tty": "int",
    "unprivileged": "bool",
}

# Options that list the numbered keys of one family.
FAMILIES = {"networks": "net", "mounts": "mp", "devices": "dev"}
NEVER_UNSET = ("memory", "rootfs", "ostype", "arch", "unprivileged", "hostname", "lock", "template")

_STORAGE = r"[a-zA-Z][a-zA-Z0-9\-_.]*[a-zA-Z0-9]"
_SUB_TYPES = {"bool": "bool", "int": "int", "number": "float", "list": "list"}


def _sub_options(subs: t.Mapping[str, Sub], without: tuple[str, ...] = ()) -> dict[str, t.Any]:
    options: dict[str, t.Any] = {}
    for name, sub in subs.items():
        if name in without:
            continue
        option: dict[str, t.Any] = {"type": _SUB_TYPES.get(sub.kind, "str")}
        if option["type"] == "list":
            option["elements"] = "str"
        options[name.replace("-", "_")] = option
    return options


def _sub_keys(subs: t.Mapping[str, Sub], values: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The values of a dictionary option by Proxmox's names: an option is an identifier, ``host_managed``."""
    names = {name.replace("-", "_"): name for name in subs}
    return {names.get(name, name): value for name, value in values.items()}


def _mount_options(subs: t.Mapping[str, Sub]) -> dict[str, t.Any]:
    options = _sub_options(subs)
    options["storage"] = {"type": "str"}
    return options


# What an option means that is not given.
DEFAULTS: dict[str, t.Any] = {
    "ignore_unpack_errors": False,
    "unset": [],
    "restart": "never",
    "migrate": False,
    "move_volumes": False,
    "recreate": False,
    "force": False,
    "purge": False,
    "wait_for_address": False,
    "address_timeout": 60,
    "timeout": 600,
}


def container_options(with_defaults: bool = True) -> dict[str, t.Any]:
    """The argument specification of one container, without ``state`` and without how to reach the API.

    with_defaults: False where options can also come from the defaults of a fleet.
    """
    options: dict[str, t.Any] = {}
    for name, kind in SCALAR_TYPES.items():
        options[name] = {"type": kind}
        if kind == "list":
            options[name]["elements"] = "str"
        key = properties.key_of(name)
        if key and key.choices:
            options[name]["choices"] = list(key.choices)
    options.update(
        node={"type": "str"},
        vmid={"type": "int"},
        template={"type": "str", "aliases": ["ostemplate"]},
        clone={
            "type": "dict",
            "options": {
                "vmid": {"type": "int"},
                "hostname": {"type": "str"},
                "snapshot": {"type": "str"},
                "full": {"type": "bool"},
                "storage": {"type": "str"},
                "bwlimit": {"type": "int"},
            },
        },
        restore={
            "type": "dict",
            "options": {
                "volume": {"type": "str", "required": True},
                "force": {"type": "bool", "default": False},
                "unique": {"type": "bool", "default": False},
                "bwlimit": {"type": "int"},
            },
        },
        image={"type": "dict", "options": IMAGE_OPTIONS},
        storage={"type": "str"},
        pool={"type": "str"},
        password={"type": "str", "no_log": True},
        pubkey={"type": "str", "aliases": ["ssh_public_keys"]},
        ignore_unpack_errors={"type": "bool"},
        rootfs={"type": "dict", "options": _mount_options(properties.ROOTFS)},
        networks={
            "type": "list",
            "elements": "dict",
            "options": {"id": {"type": "str"}, **_sub_options(properties.NET)},
        },
        mounts={
            "type": "list",
            "elements": "dict",
            "options": {"id": {"type": "str"}, **_mount_options(properties.MOUNT)},
        },
        devices={
            "type": "list",
            "elements": "dict",
            "options": {"id": {"type": "str"}, **_sub_options(properties.DEVICE)},
        },
        features={"type": "dict", "options": _sub_options(properties.FEATURES)},
        startup={"type": "dict", "options": _sub_options(properties.STARTUP)},
        unset={"type": "list", "elements": "str"},
        restart={"type": "str", "choices": ["never", "if_needed"]},
        migrate={"type": "bool"},
        move_volumes={"type": "bool"},
        recreate={"type": "bool"},
        force={"type": "bool"},
        purge={"type": "bool"},
        wait_for_address={"type": "bool"},
        address_timeout={"type": "int"},
        shutdown_timeout={"type": "int"},
        timeout={"type": "int"},
    )
    if with_defaults:
        for name, default in DEFAULTS.items():
            options[name]["default"] = default
    return options


def fleet_options() -> dict[str, t.Any]:
    """The argument specification of a fleet, without how to reach the API."""
    container = {
        **container_options(with_defaults=False),
        "state": {"type": "str", "choices": list(FLEET_STATES)},
        "spread": {"type": "str"},
        "group": {"type": "str"},
        "unit": {"type": "str"},
        "surge": {"type": "bool"},
        "health": {"type": "dict", "options": HEALTH_OPTIONS},
    }
    return {
        "containers": {"type": "list", "elements": "dict", "required": True, "options": container},
        "defaults": {"type": "dict", "default": {}, "options": container},
        "concurrency": {"type": "int", "default": 4},
        "owner": {"type": "str"},
        "prune": {"type": "str", "choices": list(PRUNE_POLICIES), "default": "none"},
        "prune_tags": {"type": "dict", "default": {}},
        "progress_path": {"type": "path"},
    }


@dataclass(frozen=True)
class Clone:
    """The source of a clone: a container by vmid or hostname, and how to copy it."""

    vmid: int | None = None
    hostname: str | None = None
    snapshot: str | None = None
    full: bool | None = None
    storage: str | None = None
    bwlimit: int | None = None


@dataclass(frozen=True)
class Restore:
    """The backup to restore from."""

    volume: str
    force: bool = False
    unique: bool = False
    bwlimit: int | None = None


@dataclass
class Declared:
    """A container as a task declares it.

    config: normal forms by key. A mount whose place is not declared has the volume ``:``.
    families: the families (net, mp, dev) that are declared as a whole.
    unset: keys that are to be removed.
    loose_networks: interfaces whose declaration says nothing about host-managed.
    spread, group, unit, surge: used by a fleet. Containers with the same ``spread`` are spread over the nodes, those of
        one ``group`` are changed a few at a time, those of one ``unit`` are on one node and changed together, and a
        ``surge`` one is there only while others of its group are changed.
    health: what it has to answer while it runs (used by a fleet).
    owner: a tag that the container has besides those that are declared, or that it has already.
    """

    state: str = "present"
    node: str | None = None
    vmid: int | None = None
    hostname: str | None = None
    config: dict[str, t.Any] = field(default_factory=dict)
    families: tuple[str, ...] = ()
    unset: tuple[str, ...] = ()
    template: str | None = None
    clone: Clone | None = None
    restore: Restore | None = None
    image: ImageSpec | None = None
    loose_networks: tuple[str, ...] = ()
    storage: str | None = None
    pool: str | None = None
    password: str | None = None
    pubkey: str | None = None
    ignore_unpack_errors: bool = False
    restart: str = "never"
    migrate: bool = False
    move_volumes: bool = False
    recreate: bool = False
    force: bool = False
    purge: bool = False
    wait_for_address: bool = False
    address_timeout: int = 60
    shutdown_timeout: int | None = None
    timeout: int = 600
    spread: str | None = None
    group: str | None = None
    unit: str | None = None
    surge: bool = False
    health: Health | None = None
    owner: str | None = None

    @property
    def label(self) -> str:
        """What messages call the container."""
        return self.hostname or f"container {self.vmid}"

    @property
    def running(self) -> bool | None:
        """Whether it shall run; None when the declaration does not say."""
        return {"started": True, "restarted": True, "stopped": False, "template": False}.get(self.state)


def invalid(option: str, reason: str, where: str = "") -> Failure:
    """The refusal of a value, before any request."""
    return Failure(
        "invalid_option",
        f"{where}{option}: {reason}.",
        "Nothing was sent to Proxmox.",
        option=option,
    )


def declare(params: t.Mapping[str, t.Any], where: str = "") -> Declared:
    """The declaration made of a task's options.

    params: as ``container_options`` describes them, and ``state``.
    where: a prefix for messages, such as ``containers[3] (web-3): ``.

    Raises:
        Failure: ``invalid_option``, naming the option and what would be right.
    """
    try:
        config, families = _config(params)
        if params.get("surge") and "protection" in config:
            # It is there to be removed again.
            config["protection"] = False
        declared = Declared(
            config=config,
            families=families,
            clone=Clone(**params["clone"]) if params.get("clone") else None,
            restore=Restore(**params["restore"]) if params.get("restore") else None,
            image=_image(params["image"]) if params.get("image") else None,
            health=health_of(params.get("health")),
            loose_networks=_loose_networks(params),
            unset=tuple(dict.fromkeys(params.get("unset") or ())),
            **{name: params[name] for name in _PLAIN if params.get(name) is not None},
        )
        _check(declared, params)
    except Failure as failure:
        if where:
            failure.message = where + failure.message
        raise
    return declared


def declare_fleet(
    containers: t.Sequence[t.Mapping[str, t.Any]],
    defaults: t.Mapping[str, t.Any],
    owner: str | None = None,
) -> list[Declared]:
    """The declarations of a fleet: each container with the defaults, and with the owner's tag.

    Raises:
        Failure: ``invalid_option``, naming the container and the option.
    """
    if owner is not None:
        _check_tag("owner", owner)
    fleet = []
    given = {name: value for name, value in defaults.items() if value is not None}
    for index, container in enumerate(containers):
        own = {name: value for name, value in container.items() if value is not None}
        params = {"state": "started", **DEFAULTS, "spread": "", **given, **own}
        label = params.get("hostname") or params.get("vmid")
        declared = declare(params, where=f"containers[{index}]{f' ({label})' if label else ''}: ")
        declared.owner = owner.lower() if owner else None
        fleet.append(declared)
    return fleet


def check_fleet(params: t.Mapping[str, t.Any]) -> None:
    """Refuse options of a fleet that are not about one container.

    Raises:
        Failure: ``invalid_option``, naming the option.
    """
    if params["concurrency"] < 1:
        raise invalid("concurrency", f"{params['concurrency']} is less than 1")
    for tag, policy in params["prune_tags"].items():
        _check_tag("prune_tags", str(tag))
        if policy not in PRUNE_POLICIES:
            raise invalid("prune_tags", f"{tag}: {policy!r} is not one of {', '.join(PRUNE_POLICIES)}")
    if not params["owner"] and (params["prune"] != "none" or params["prune_tags"]):
        option = "prune_tags" if params["prune_tags"] else "prune"
        raise invalid(option, "it needs owner, the tag that says what belongs to the fleet")


def _check_tag(option: str, tag: str) -> None:
    if len(_normal("tags", option, [tag]) or ()) != 1 or re.search(r"[,; ]", tag):
        raise invalid(option, f"{tag!r} is not one tag")


_PLAIN = (
    "state",
    "node",
    "vmid",
    "hostname",
    "template",
    "storage",
    "pool",
    "password",
    "pubkey",
    "ignore_unpack_errors",
    "restart",
    "migrate",
    "move_volumes",
    "recreate",
    "force",
    "purge",
    "wait_for_address",
    "address_timeout",
    "shutdown_timeout",
    "timeout",
    "spread",
    "group",
    "unit",
    "surge",
)


def _config(params: t.Mapping[str, t.Any]) -> tuple[dict[str, t.Any], tuple[str, ...]]:
    config: dict[str, t.Any] = {}
    for name in (*SCALAR_TYPES, "features", "startup"):
        if params.get(name) is not None:
            config[name] = _normal(name, name, params[name])
    if NOTE in (config.get("description") or ""):
        raise invalid("description", f"it has {NOTE.strip()}, with which only notes of this collection begin")
    if params.get("rootfs") is not None:
        config["rootfs"] = _mount("rootfs", "rootfs", params["rootfs"])
    families = []
    for option, family in FAMILIES.items():
        if params.get(option) is None:
            continue
        families.append(family)
        for index, entry in enumerate(params[option]):
            key = entry.get("id") or f"{family}{index}"
            where = f"{option}[{index}]"
            if properties.key_of(key) is None or not re.fullmatch(rf"{family}\d+", key):
                raise invalid(f"{where}.id", f"{key!r} is not one of {family}0, {family}1 …")
            if key in config:
                raise invalid(where, f"{key} is given twice")
            subs = properties.INDEXED[family][0].subs
            values = {name: value for name, value in _sub_keys(subs, entry).items() if name != "id"}
            config[key] = _mount(key, where, values) if family == "mp" else _normal(key, where, values)
    return config, tuple(families)


def _loose_networks(params: t.Mapping[str, t.Any]) -> tuple[str, ...]:
    entries = enumerate(params.get("networks") or ())
    return tuple(entry.get("id") or f"net{index}" for index, entry in entries if entry.get("host_managed") is None)


def _image(values: t.Mapping[str, t.Any]) -> ImageSpec:
    """The image that is declared.

    Raises:
        Failure: ``invalid_option``, ``invalid_reference``.
    """
    given = {name: value for name, value in values.items() if value is not None}
    volumes: dict[str, dict[str, t.Any]] = {}
    for path, volume in (given.pop("volumes", None) or {}).items():
        option = f"image.volumes[{path}]"
        if not isinstance(volume, dict):
            raise invalid(option, "give storage and size")
        if "mp" in volume or "id" in volume:
            raise invalid(option, "the path is the mount path, and the id is chosen")
        subs = properties.INDEXED["mp"][0].subs
        normal = _mount("mp0", option, {**_sub_keys(subs, volume), "mp": path})
        if normal["mp"] in volumes:
            raise invalid(option, f"{normal['mp']} is given twice")
        volumes[normal["mp"]] = normal
    reference = parse_reference(given.pop("reference"))
    if given.get("platform"):
        parse_platform(given["platform"])
    if given.get("password") and not given.get("username"):
        raise invalid("image.password", "give username too")
    if not re.fullmatch(_STORAGE, given.get("storage", "local")):
        raise invalid("image.storage", f"{given['storage']!r} is not the name of a storage")
    return ImageSpec(reference=reference, volumes=volumes, **given)


def _normal(key: str, option: str, value: t.Any) -> t.Any:
    try:
        normal = properties.normalise(key, value)
    except InvalidValue as error:
        raise invalid(option, str(error)) from None
    default = properties.default_of(key)
    if normal is None and not isinstance(default, (str, tuple, dict)):
        hint = "" if key in NEVER_UNSET else f"; use 'unset: [{key}]' to remove it"
        raise invalid(option, f"it must not be empty{hint}")
    return normal


def _mount(key: str, option: str, values: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    values = dict(values)
    storage = values.pop("storage", None)
    if storage and values.get("volume"):
        raise invalid(option, "give either storage (a new volume is made) or volume (an existing one), not both")
    if storage and not re.fullmatch(_STORAGE, storage):
        raise invalid(f"{option}.storage", f"{storage!r} is not the name of a storage")
    if not values.get("volume"):
        values["volume"] = f"{storage}:" if storage else ANY_VOLUME
    normal = t.cast("dict[str, t.Any]", _normal(key, option, values))
    volume = properties.volume_of(normal["volume"])
    if volume.kind != "volume" and "size" in normal:
        raise invalid(f"{option}.size", "a bind or device mount has no size")
    if "size" in normal and normal["size"] < properties.UNITS["M"]:
        raise invalid(f"{option}.size", "this is less than one MiB; write for example 8G")
    return normal


def _check(declared: Declared, params: t.Mapping[str, t.Any]) -> None:
    """The combinations that no Proxmox can fulfil."""
    if declared.vmid is None and not declared.hostname:
        raise invalid("vmid", "give vmid or hostname, by which the container is identified")
    if declared.vmid is not None and not 100 <= declared.vmid <= 999999999:
        raise invalid("vmid", f"{declared.vmid} is not between 100 and 999999999")
    if declared.node and not re.fullmatch(r"[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?", declared.node):
        raise invalid("node", f"{declared.node!r} is not the name of a node")
    sources = [name for name in ("template", "image", "clone", "restore") if params.get(name)]
    if len(sources) > 1:
        raise invalid(sources[0], f"{' and '.join(sources)} exclude each other")
    if declared.template and not re.fullmatch(r"[^:\s/]+:\S+|/\S+", declared.template):
        raise invalid(
            "template", f"{declared.template!r} is not a volume such as local:vztmpl/debian-13-standard_….tar.zst"
        )
    if declared.clone:
        _check_clone(declared.clone)
    if declared.restore and not re.fullmatch(r"[^:\s/]+:\S+|/\S+", declared.restore.volume):
        raise invalid("restore.volume", f"{declared.restore.volume!r} is not a volume such as local:backup/vzdump-…")
    if declared.password is not None and len(declared.password) < 5:
        raise invalid("password", "Proxmox wants at least five characters")
    if (declared.wait_for_address and declared.running is False) or (declared.wait_for_address and _absent(declared)):
        raise invalid("wait_for_address", f"a container with state={declared.state} has no address")
    _check_unset(declared)
    _check_unique(declared)
    for key, value in declared.config.items():
        if key.startswith("net") and value and not value.get("bridge"):
            raise invalid(f"{key}.bridge", "an interface needs a bridge, such as vmbr0")
        if key.startswith("net") and value and value.get("host-managed") and value.get("ip6") == "auto":
            raise invalid(key, "host-managed interfaces have no ip6=auto")


def _absent(declared: Declared) -> bool:
    return declared.state == "absent"


def _check_clone(clone: Clone) -> None:
    if (clone.vmid is None) == (clone.hostname is None):
        raise invalid("clone", "give either vmid or hostname of the source")
    if clone.full is False and clone.storage:
        raise invalid("clone.storage", "a linked clone stays on the storage of its source; set full: true")


def _check_unset(declared: Declared) -> None:
    for key in declared.unset:
        if properties.key_of(key) is None:
            raise invalid("unset", f"{key!r} is not a key of a container, such as description or mp1")
        if key in NEVER_UNSET:
            raise invalid("unset", f"{key} cannot be removed")
        if key in declared.config:
            raise invalid("unset", f"{key} is declared and unset at once")


def _check_unique(declared: Declared) -> None:
    paths: dict[str, str] = {}
    names: dict[str, str] = {}
    for key, value in declared.config.items():
        if re.fullmatch(r"mp\d+", key):
            _once(paths, value["mp"], key, "mounts", "the mount path")
        elif re.fullmatch(r"net\d+", key):
            _once(names, value["name"], key, "networks", "the name")


def _once(seen: dict[str, str], value: str, key: str, option: str, what: str) -> None:
    if value in seen:
        raise invalid(option, f"{what} {value} is used by {seen[value]} and by {key}")
    seen[value] = key
