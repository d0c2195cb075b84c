# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Proxmox makes of the steps of a plan: a small model, written from its recorded behaviour and not from the plan.

``perform`` is a pure function. What Proxmox would refuse is an assertion error.
"""

from __future__ import annotations

import copy
import re
import typing as t

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.plan import Step
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import Actual

# What a running container takes at once (records hotplug-001 to hotplug-093).
AT_ONCE = frozenset(
    [
        "cores",
        "cpulimit",
        "cpuunits",
        "description",
        "hookscript",
        "hostname",
        "memory",
        "onboot",
        "protection",
        "startup",
        "swap",
        "tags",
    ]
)
REQUIRED = ("memory", "rootfs", "ostype", "arch")


def perform(actual: Actual, step: Step) -> Actual:
    """The container after a request."""
    after = copy.deepcopy(actual)
    path = step.path.replace("{vmid}", str(actual.vmid))
    if path == "pools":
        after.pool = step.params["poolid"]
        return after
    base = f"nodes/{actual.node}/lxc/{actual.vmid}"
    assert path == base or path.startswith(f"{base}/"), f"{path} is not where the container is: {base}"
    assert not actual.lock, "CT is locked"
    _CALLS[path[len(base) + 1 :]](after, step.params)
    return after


def _config(it: Actual, params: dict[str, t.Any]) -> None:
    params = dict(params)
    reverts = [key for key in str(params.pop("revert", "")).split(",") if key]
    deletes = [key for key in str(params.pop("delete", "")).split(",") if key]
    assert reverts or deletes or params, "no options specified"
    assert not set(params) & {*reverts, *deletes}, "you can't use both at the same time"
    # What protects the volumes is what is in force before the request, not what is set by it.
    volumes = [key for key in (*deletes, *params) if properties.is_mount(key) or key.startswith("unused")]
    assert not (volumes and it.is_protected), "protection mode enabled"
    for key in reverts:
        it.pending.pop(key, None)
    for key in deletes:
        _delete(it, key)
    for key, text in params.items():
        assert text not in ("", None), "an empty text is stored as a blank"
        _set(it, key, _stored(it, key, text))


def _delete(it: Actual, key: str) -> None:
    assert key not in REQUIRED, "unable to delete required option"
    if key not in it.current:
        return  # the deletion of what is only pending is ignored (hotplug-041)
    if it.running and not _at_once(key) and not key.startswith("unused"):
        # Where a value is pending as well, that is what the stop makes so (hotplug-100).
        it.pending.setdefault(key, None)
        return
    _remove(it, key)


def _remove(it: Actual, key: str) -> None:
    text = it.current.pop(key)
    it.pending.pop(key, None)
    if properties.is_mount(key):
        volume = str(text).split(",", maxsplit=1)[0]
        if not volume.startswith("/"):
            _unused(it, volume)


def _unused(it: Actual, volume: str) -> None:
    free = next(f"unused{number}" for number in range(256) if f"unused{number}" not in it.current)
    it.current[free] = volume


def _at_once(key: str) -> bool:
    return key in AT_ONCE or re.fullmatch(r"net\d", key) is not None


def _set(it: Actual, key: str, value: t.Any) -> None:
    new_and_hot = key.startswith(("mp", "dev")) and key not in it.current
    waits = it.running and not _at_once(key) and not new_and_hot and not key.startswith("net")
    if not waits or it.current.get(key) == value:
        it.pending.pop(key, None)
        it.current[key] = value
    else:
        it.pending[key] = value


def _stored(it: Actual, key: str, text: t.Any) -> t.Any:
    """The text as it is read back."""
    key_kind = properties.key_of(key)
    assert key_kind is not None, f"property {key} is not defined in schema"
    if key_kind.kind == "text":
        return f"{text}\n"
    if key_kind.kind == "net":
        parts = dict(part.split("=", 1) for part in str(text).split(","))
        parts.setdefault("hwaddr", "BC:24:11:FF:00:0" + key[-1])
        parts["type"] = "veth"
        first = [f"{name}={parts.pop(name)}" for name in ("name", "bridge") if name in parts]
        return ",".join(first + [f"{name}={parts[name]}" for name in sorted(parts)])
    if key_kind.kind == "mount" and key != "rootfs":
        volume, _comma, rest = str(text).partition(",")
        allocated = re.fullmatch(r"([^:/]+):(\d+(?:\.\d+)?)", volume)
        if allocated:
            size = properties.format_size(int(float(allocated.group(2)) * properties.UNITS["G"]))
            taken = "".join(map(str, (*it.current.values(), *it.pending.values())))
            number = next(n for n in range(1, 300) if f"subvol-{it.vmid}-disk-{n}" not in taken)
            return f"{allocated.group(1)}:subvol-{it.vmid}-disk-{number},{rest},size={size}"
    return text


def _resize(it: Actual, params: dict[str, t.Any]) -> None:
    parts = dict(_sub(part) for part in str(it.current[params["disk"]]).split(","))
    assert properties.parse_size(params["size"]) > properties.parse_size(parts["size"]), "disk is already at that size"
    parts["size"] = params["size"]
    it.current[params["disk"]] = ",".join(
        value if name == "volume" else f"{name}={value}" for name, value in parts.items()
    )


def _sub(part: str) -> tuple[str, str]:
    name, equals, value = part.partition("=")
    return (name, value) if equals else ("volume", name)


def _move(it: Actual, params: dict[str, t.Any]) -> None:
    assert not it.running, "cannot move volumes of a running container"
    text = str(it.current[params["volume"]])
    storage, _colon, rest = text.partition(":")
    assert storage != params["storage"]
    it.current[params["volume"]] = f"{params['storage']}:{rest}"
    if not params.get("delete"):
        _unused(it, text.split(",", maxsplit=1)[0])


def _migrate(it: Actual, params: dict[str, t.Any]) -> None:
    if it.running:
        assert params.get("restart"), "lxc live migration is currently not implemented"
        _apply_pending(it)
    assert params["target"] != it.node
    it.node = params["target"]


def _apply_pending(it: Actual) -> None:
    for key, value in list(it.pending.items()):
        if value is None:
            _remove(it, key)
        else:
            it.current[key] = _with_real_size(value, it.current.get(key))
    it.pending = {}


def _with_real_size(value: t.Any, before: t.Any) -> t.Any:
    """The size of a volume that stays is read from the storage."""
    sizes = [re.search(r"size=(\w+)", str(text)) for text in (value, before)]
    if sizes[0] and sizes[1] and str(value).partition(",")[0] == str(before).partition(",")[0]:
        return str(value).replace(sizes[0].group(0), sizes[1].group(0))
    return value


def _stop(it: Actual, _params: dict[str, t.Any]) -> None:
    assert it.running, "CT not running"
    _apply_pending(it)
    it.status = "stopped"


def _start(it: Actual, _params: dict[str, t.Any]) -> None:
    assert not it.running, "CT already running"
    assert not it.is_template, "you can't start a CT if it's a template"
    it.status = "running"


def _reboot(it: Actual, _params: dict[str, t.Any]) -> None:
    assert it.running, "CT not running"
    _apply_pending(it)


def _template(it: Actual, _params: dict[str, t.Any]) -> None:
    assert not it.running, "you can't convert a CT to template if the CT is running"
    assert not it.is_template, "you can't convert a template to a template"
    it.current["template"] = 1


_CALLS: dict[str, t.Callable[[Actual, dict[str, t.Any]], None]] = {
    "config": _config,
    "resize": _resize,
    "move_volume": _move,
    "migrate": _migrate,
    "status/start": _start,
    "status/stop": _stop,
    "status/shutdown": _stop,
    "status/reboot": _reboot,
    "template": _template,
}
