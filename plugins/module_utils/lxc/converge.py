# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to be done to an existing container. Pure functions, no I/O."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.access import Need
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.plan import LIVE, RECREATE, RESTART, Change, Step
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import Actual, Plan, is_volume_key
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.privileges import (
    CONFIG_PRIVILEGES,
    key_needs,
    pool_need,
    space_need,
    vm_paths,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.properties import ANY_VOLUME
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import Declared

# Keys that a running container takes at once: $LXC_FASTPLUG_OPTIONS and vmconfig_hotplug_pending of
# PVE/LXC/Config.pm. Everything else waits for the next stop.
HOTPLUG = (
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
)
RECREATE_KEYS = ("unprivileged", "ostype")
CREATE_ONLY = ("password", "pubkey", "storage", "ignore_unpack_errors")

# What the name of a template says about the ostype that Proxmox finds in it (PVE/LXC/Setup.pm).
TEMPLATE_OSTYPES = {
    "debian": "debian",
    "devuan": "devuan",
    "ubuntu": "ubuntu",
    "centos": "centos",
    "rockylinux": "centos",
    "almalinux": "centos",
    "fedora": "fedora",
    "opensuse": "opensuse",
    "archlinux": "archlinux",
    "alpine": "alpine",
    "gentoo": "gentoo",
    "nixos": "nixos",
}


def converge_plan(declared: Declared, actual: Actual) -> Plan:
    """What has to be done so that an existing container is as declared.

    Raises:
        Failure: it cannot be so, or only with a loss of data.
    """
    plan = Plan(running_after=actual.running)
    if actual.is_template and (declared.running or (declared.state == "stopped" and actual.running)):
        raise Failure(
            "is_template",
            f"{actual.hostname} ({actual.vmid}) is a template and cannot be started.",
            "Clone it, or set state to template or present.",
            vmid=actual.vmid,
        )
    plan.notes += creation_notes(declared)
    _plan_recreate(plan, declared, actual)
    future = {**actual.config, **{key: actual.current[key] for key in _withdrawn(declared, actual)}}
    _plan_config(plan, declared, actual, future)
    _plan_resizes(plan, declared, actual, future)
    _plan_pool(plan, declared, actual)
    moves = _moves(plan, declared, actual, future)
    migration = _migration(plan, declared, actual)
    _plan_power(plan, declared, actual, moves, migration)
    return plan


def creation_notes(declared: Declared) -> list[str]:
    """What a declaration gives that only counts at the creation of a container."""
    given = [name for name in CREATE_ONLY if getattr(declared, name)]
    return [f"{', '.join(given)}: only used at the creation of a container; {declared.label} exists."] if given else []


def _plan_recreate(plan: Plan, declared: Declared, actual: Actual) -> None:
    wanted = {key: declared.config[key] for key in RECREATE_KEYS if key in declared.config}
    implied = _ostype_of(declared.template) if declared.template else None
    if implied and "ostype" not in wanted:
        wanted["ostype"] = implied
    for key, value in wanted.items():
        before = properties.read(key, actual.config.get(key))
        if not properties.equal(key, value, before):
            name = "template" if key == "ostype" and "ostype" not in declared.config else key
            after = declared.template if name == "template" else properties.show(key, value)
            shown = properties.show(key, properties.default_of(key) if before is None else before)
            plan.blocked.append(
                Change(name, shown, after, RECREATE, hint="Proxmox sets this at creation only; recreate the container.")
            )


def _ostype_of(template: str) -> str | None:
    name = re.split(r"[-_.]", template.rsplit("/", 1)[-1].lower())[0]
    return TEMPLATE_OSTYPES.get(name)


def _plan_config(plan: Plan, declared: Declared, actual: Actual, future: t.Mapping[str, t.Any]) -> None:
    """The PUT of everything that differs: one request, or two where a pending value has to be withdrawn first.

    future: the texts after the next stop, without the removals that are withdrawn.
    """
    base = actual.path
    revert = Step("reverted", "PUT", f"{base}/config", digest=True)
    put = Step("configured", "PUT", f"{base}/config", digest=True)
    reverts: list[str] = []
    deletes: list[str] = []
    paths = vm_paths(actual.vmid, actual.pool)
    privileged = properties.read("unprivileged", actual.config.get("unprivileged")) is not True
    for key in _withdrawn(declared, actual):
        reverts.append(key)
        revert.add(key, None, _shown(key, actual.current[key]))
        revert.needs += key_needs(key, None, properties.read(key, actual.current[key]), paths, privileged)
    wanted = _wanted_config(declared, future)
    for key in sorted(wanted, key=properties.order_of):
        value, before, now = wanted[key], properties.read(key, future.get(key)), actual.current.get(key)
        if properties.is_mount(key) and isinstance(before, dict) and _volume_differs(value, before):
            # Moving is a request of its own; the options are compared as if the volume were in its place.
            value = {**value, "volume": ANY_VOLUME}
        if properties.equal(key, value, before):
            continue
        after = _after(value, before, key)
        if key in actual.pending and properties.equal(key, value, properties.read(key, now)):
            # What is in force is as declared. Setting it again would wait as well, unless it is spelled the same.
            reverts.append(key)
            revert.add(key, _shown(key, future.get(key)), _shown(key, now))
            revert.needs += key_needs(key, before, after, paths, privileged)
            continue
        text = properties.encode(key, after)
        if text is None:
            _remove(key, future, actual, put, revert, deletes, reverts)
        else:
            put.params[key] = text
            put.add(key, _shown(key, future.get(key)), properties.show(key, after), _effect(key, after, actual))
        put.needs += key_needs(key, before, after, paths, privileged)
    for key in _surplus(declared, future):
        before = properties.read(key, future[key])
        _remove(key, future, actual, put, revert, deletes, reverts)
        put.needs += key_needs(key, before, None, paths, privileged)
    _refuse_protected(put, deletes, actual)
    _refuse_destroying(declared, actual, deletes)
    if reverts:
        revert.params["revert"] = ",".join(reverts)
        plan.steps.append(revert)
    if deletes:
        put.params["delete"] = ",".join(deletes)
    if put.params:
        plan.steps.append(put)
    for step in (revert, put):
        if step.needs and not any(need.root_only or {*need.privileges} & {*CONFIG_PRIVILEGES} for need in step.needs):
            step.needs.append(Need(paths, CONFIG_PRIVILEGES, "change the configuration"))


def _wanted_config(declared: Declared, future: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The declared keys that a PUT can set, each new volume with its storage.

    Raises:
        Failure: a new volume without a size or a storage.
    """
    wanted = {key: value for key, value in declared.config.items() if key not in RECREATE_KEYS}
    wanted = with_owner(declared, wanted, future.get("tags"))
    fresh = {key: value for key, value in wanted.items() if properties.is_mount(key) and key not in future}
    refuse_incomplete_mounts(Declared(config=fresh, storage=declared.storage))
    for key, value in fresh.items():
        if value["volume"] == ANY_VOLUME:
            wanted[key] = {**value, "volume": f"{declared.storage}:"}
    return wanted


def with_owner(declared: Declared, config: t.Mapping[str, t.Any], tags: t.Any) -> dict[str, t.Any]:
    """The keys with the owner's tag among the tags; ``tags`` are those to keep when none are declared."""
    if not declared.owner:
        return dict(config)
    kept = config.get("tags") if "tags" in (*config, *declared.unset) else properties.read("tags", tags)
    return {**config, "tags": tuple(sorted({*(kept or ()), declared.owner}))}


def refuse_incomplete_mounts(declared: Declared) -> None:
    """Refuse a new volume whose size or storage is not declared."""
    for key, normal in declared.config.items():
        if not properties.is_mount(key):
            continue
        volume = properties.volume_of(normal["volume"])
        is_new = volume.kind == "volume" and not volume.name
        if is_new and "size" not in normal:
            raise Failure(
                "invalid_option",
                f"{key}.size: a new volume needs a size, such as 8G.",
                "Give size, or the volume that exists.",
                option=f"{key}.size",
            )
        if is_new and not volume.storage and not declared.storage:
            raise Failure(
                "invalid_option",
                f"{key}.storage: a new volume needs a storage.",
                f"Give {key}.storage, or storage for all volumes.",
                option=f"{key}.storage",
            )


def _volume_differs(wanted: t.Mapping[str, t.Any], before: t.Mapping[str, t.Any]) -> bool:
    """True when a mount is declared on another storage than the one it is on."""
    target, now = properties.volume_of(wanted["volume"]), properties.volume_of(before["volume"])
    return bool(target.storage) and not target.name and target.storage != now.storage


def _withdrawn(declared: Declared, actual: Actual) -> list[str]:
    """Mounts that are declared and wait for being removed: their removal is withdrawn, or they would be made anew."""
    return [
        key
        for key in sorted(actual.pending, key=properties.order_of)
        if actual.pending[key] is None and properties.is_mount(key) and key in declared.config and key in actual.current
    ]


def _after(declared: t.Any, before: t.Any, key: str) -> t.Any:
    """The declared normal form, with what Proxmox made of it before: the MAC address, the volume and its size."""
    if not isinstance(declared, dict) or not isinstance(before, dict):
        return declared
    if key.startswith("net") and "hwaddr" not in declared and "hwaddr" in before:
        return {**declared, "hwaddr": before["hwaddr"]}
    if properties.is_mount(key) and declared["volume"].endswith(":"):
        kept = {name: before[name] for name in ("volume", "size") if name in before}
        return {**{name: value for name, value in declared.items() if name != "size"}, **kept}
    return declared


def _surplus(declared: Declared, future: t.Mapping[str, t.Any]) -> list[str]:
    """Keys to remove: those unset by name, and members of a declared family that the declaration leaves out."""
    # The owner's tag stays, also where the tags are unset.
    surplus = {key for key in declared.unset if key in future and not (key == "tags" and declared.owner)}
    for family in declared.families:
        members = (key for key in future if re.fullmatch(rf"{family}\d+", key))
        surplus |= {key for key in members if key not in declared.config}
    return sorted(surplus, key=properties.order_of)


def _remove(
    key: str,
    future: t.Mapping[str, t.Any],
    actual: Actual,
    put: Step,
    revert: Step,
    deletes: list[str],
    reverts: list[str],
) -> None:
    """Remove a key. Proxmox ignores the deletion of a pending value; that is withdrawn (``revert``) instead."""
    if actual.pending.get(key) is not None:
        reverts.append(key)
        revert.add(key, _shown(key, future[key]), _shown(key, actual.current.get(key)))
    if key in actual.current:
        deletes.append(key)
        put.add(key, _shown(key, actual.current[key]), None, _effect(key, None, actual))


def _refuse_protected(put: Step, deletes: list[str], actual: Actual) -> None:
    """Proxmox refuses to change or remove a volume of a protected container (``check_protection``)."""
    touched = [key for key in (*put.params, *deletes) if is_volume_key(key)]
    if touched and actual.is_protected:
        raise Failure(
            "protected",
            f"{actual.hostname} ({actual.vmid}) is protected; {', '.join(touched)} cannot be changed.",
            "Set 'protection: false' in a task of its own first.",
            vmid=actual.vmid,
        )


def _refuse_destroying(declared: Declared, actual: Actual, deletes: list[str]) -> None:
    """Removing ``unusedN`` destroys the volume (``delete_mountpoint_volume``): that takes ``force``."""
    volumes = {key: actual.current[key] for key in deletes if key.startswith("unused")}
    if volumes and not declared.force:
        raise Failure(
            "would_lose_data",
            f"Removing {', '.join(volumes)} of {actual.hostname} ({actual.vmid}) destroys "
            f"{', '.join(map(str, volumes.values()))}.",
            "Set 'force: true' if that is wanted.",
            vmid=actual.vmid,
            volumes=list(volumes.values()),
        )


def _shown(key: str, text: t.Any) -> t.Any:
    if text is None:
        return None
    normal = properties.read(key, text)
    return properties.show(key, normal) if normal is not None and properties.key_of(key) else text


def _effect(key: str, after: t.Any, actual: Actual) -> str:
    """Whether a change works at once; ``after`` is None for a removal."""
    if not actual.running or key in HOTPLUG or key.startswith("unused"):
        return LIVE
    if key.startswith("net"):
        # vmconfig_hotplug_pending unplugs net0 to net9 only.
        return LIVE if after is not None or len(key) == len("net0") else RESTART
    if after is not None:
        if key.startswith(("mp", "dev")) and key not in actual.current:
            return LIVE
    elif key not in actual.current:
        return LIVE
    return RESTART


def _plan_resizes(plan: Plan, declared: Declared, actual: Actual, future: t.Mapping[str, t.Any]) -> None:
    for key, wanted in sorted(declared.config.items()):
        before = properties.read(key, future.get(key))
        if not properties.is_mount(key) or "size" not in wanted or not isinstance(before, dict):
            continue
        size = _real_size(key, before, actual)
        if size is None or properties.same_size(wanted["size"], size):
            continue
        shown, asked = properties.format_size(size), properties.format_size(wanted["size"])
        if wanted["size"] < size:
            raise Failure(
                "would_lose_data",
                f"{key} of {actual.hostname} ({actual.vmid}) has {shown}; making it {asked} would lose data.",
                "Proxmox never shrinks a volume; declare the size it has, or create a smaller one and copy the data.",
                key=key,
                before=shown,
                after=asked,
                volume=before["volume"],
            )
        step = Step("resized", "PUT", f"{actual.path}/resize", {"disk": key, "size": asked})
        step.add(f"{key}.size", shown, asked)
        paths = vm_paths(actual.vmid, actual.pool)
        # PVE/API2/LXC.pm resize_vm checks its parameters as keys of the configuration: "size" is one of the others.
        step.needs = [
            Need(paths, ("VM.Config.Disk",), f"resize {key}"),
            Need(paths, ("VM.Config.Options",), f"resize {key}"),
            space_need(properties.volume_of(before["volume"]).storage or ""),
        ]
        plan.steps.append(step)


def _real_size(key: str, future: t.Mapping[str, t.Any], actual: Actual) -> int | None:
    """The size of a volume; a text that waits for a restart still has the one from before a resize."""
    now = properties.read(key, actual.current.get(key))
    same = isinstance(now, dict) and now["volume"] == future["volume"]
    return (now if same else future).get("size")


def _moves(plan: Plan, declared: Declared, actual: Actual, future: t.Mapping[str, t.Any]) -> list[Step]:
    steps = []
    for key, wanted in sorted(declared.config.items(), key=lambda item: properties.order_of(item[0])):
        before = properties.read(key, future.get(key))
        if not properties.is_mount(key) or not isinstance(before, dict):
            continue
        if not _volume_differs(wanted, before):
            continue
        target = properties.volume_of(wanted["volume"])
        now = properties.volume_of(before["volume"])
        hint = None
        if now.kind != "volume":
            hint = f"{before['volume']} is a {now.kind} mount and cannot be moved."
        elif not declared.move_volumes:
            hint = "Set 'move_volumes: true' to have the volume moved."
        elif actual.running and declared.restart != "if_needed" and declared.running is not False:
            hint = "A volume moves while the container is stopped; set 'restart: if_needed'."
        effect = RESTART if actual.running else LIVE
        change = Change(f"{key}.storage", now.storage, target.storage, effect, hint=hint)
        if hint:
            plan.blocked.append(change)
            continue
        params: dict[str, t.Any] = {"volume": key, "storage": target.storage}
        if actual.has_snapshots:
            plan.notes.append(f"{before['volume']} is used by snapshots and is kept as an unused volume.")
        else:
            params["delete"] = True
        step = Step("moved", "POST", f"{actual.path}/move_volume", params)
        step.add(change.key, change.before, change.after, effect)
        step.needs = [
            Need(vm_paths(actual.vmid, actual.pool), ("VM.Config.Disk",), f"move {key}"),
            space_need(target.storage or ""),
        ]
        steps.append(step)
    return steps


def _migration(plan: Plan, declared: Declared, actual: Actual) -> Step | None:
    if not declared.node or declared.node == actual.node:
        return None
    hint = None
    if not declared.migrate:
        hint = "Set 'migrate: true' to have it migrated."
    elif actual.running and declared.restart != "if_needed" and declared.running is not False:
        hint = "A running container migrates by a restart; set 'restart: if_needed'."
    effect = RESTART if actual.running else LIVE
    if hint:
        plan.blocked.append(Change("node", actual.node, declared.node, effect, hint=hint))
        return None
    step = Step("migrated", "POST", f"{actual.path}/migrate", {"target": declared.node})
    step.add("node", actual.node, declared.node, effect)
    step.needs = [Need(vm_paths(actual.vmid, actual.pool), ("VM.Migrate",), "migrate the container")]
    return step


def _plan_pool(plan: Plan, declared: Declared, actual: Actual) -> None:
    if not declared.pool or declared.pool == actual.pool:
        return
    # The pool is no part of the path: it has slashes when it is nested (update_pool of PVE/API2/Pool.pm).
    params = {"poolid": declared.pool, "vms": actual.vmid, "allow-move": True}
    step = Step("pooled", "PUT", "pools", params)
    step.add("pool", actual.pool, declared.pool)
    step.needs = [
        Need((f"/pool/{pool}",), ("Pool.Allocate",), f"change the members of {pool}")
        for pool in filter(None, (declared.pool, actual.pool))
    ]
    step.needs.append(pool_need(declared.pool))
    # check_perm_modify of PVE/RPCEnvironment.pm
    paths = vm_paths(actual.vmid, actual.pool)
    step.needs.append(Need(paths, ("VM.Allocate", "Permissions.Modify"), "move the container into a pool"))
    plan.steps.append(step)


def _plan_power(
    plan: Plan,
    declared: Declared,
    actual: Actual,
    moves: list[Step],
    migration: Step | None,
) -> None:
    """Stop, move, migrate, start: in the order that stops a container once at most."""
    base, paths = actual.path, vm_paths(actual.vmid, actual.pool)
    runs = actual.running
    target = actual.node
    if declared.state == "template" and not actual.is_template:
        refuse_running(declared, actual, "made a template")
    waits = runs and declared.restart == "if_needed" and _waits_for_restart(plan, actual)
    must_stop = runs and (declared.running is False or bool(moves))
    if must_stop:
        call = "stop" if declared.force and declared.running is False else "shutdown"
        step = power_step(base, "stopped", call, paths, "running", "stopped", declared.shutdown_timeout)
        if call == "shutdown" and declared.running is not False:
            # The restart is allowed: a container that ignores the shutdown is stopped hard, as a reboot does.
            step.params["forceStop"] = True
        plan.steps.append(step)
        runs = False
        if declared.running is not False:
            for step in (*moves, *filter(None, (migration,))):
                step.on_failure = power_step(base, "started", "start", paths, "stopped", "started")
    plan.steps += moves
    if migration:
        if runs:
            migration.params["restart"] = True
            if declared.shutdown_timeout is not None:
                migration.params["timeout"] = declared.shutdown_timeout
        plan.steps.append(migration)
        target = str(migration.params["target"])
    base = f"nodes/{target}/lxc/{actual.vmid}"
    shall_run = actual.running if declared.running is None else declared.running
    if shall_run and not runs:
        plan.steps.append(power_step(base, "started", "start", paths, "stopped", "started"))
        runs = True
    elif runs and not migration and (waits or declared.state == "restarted"):
        timeout = declared.shutdown_timeout
        plan.steps.append(power_step(base, "restarted", "reboot", paths, "running", "restarted", timeout))
    if declared.state == "template" and not actual.is_template:
        plan.steps.append(template_step(base, paths))
    plan.running_after = runs


def _waits_for_restart(plan: Plan, actual: Actual) -> bool:
    """True when, after the plan's own writes, something waits for the next stop."""
    if any(change.effect == RESTART for step in plan.steps for change in step.changes):
        return True
    settled = {change.key for step in plan.steps for change in step.changes}
    return any(key not in settled for key in actual.pending)


def power_step(
    base: str,
    action: str,
    call: str,
    paths: tuple[str, ...],
    before: str,
    after: str,
    shutdown_timeout: int | None = None,
) -> Step:
    """The step that starts, stops or restarts a container. shutdown_timeout: seconds, for what shuts it down."""
    step = Step(action, "POST", f"{base}/status/{call}")
    if shutdown_timeout is not None and call in ("shutdown", "reboot"):
        step.params["timeout"] = shutdown_timeout
    step.add("state", before, after, LIVE if before == "stopped" else RESTART)
    step.needs = [Need(paths, ("VM.PowerMgmt",), f"{call} the container")]
    return step


def refuse_protected(actual: Actual, what: str) -> None:
    """Refuse what Proxmox's protection forbids (``check_protection``); ``what`` is what is not done."""
    if actual.is_protected:
        raise Failure(
            "protected",
            f"{actual.hostname} ({actual.vmid}) is protected from being {what}.",
            "Set 'protection: false' in a task of its own first.",
            vmid=actual.vmid,
        )


def refuse_running(declared: Declared, actual: Actual, what: str) -> None:
    """Refuse what a running container must be stopped for, unless ``force`` allows it."""
    if actual.running and not declared.force:
        raise Failure(
            "container_running",
            f"{actual.hostname} ({actual.vmid}) is running and is not {what}.",
            "Stop it first, or set 'force: true' to have it stopped.",
            vmid=actual.vmid,
        )


def template_step(base: str, paths: tuple[str, ...]) -> Step:
    """The step that makes a container a template."""
    step = Step("made a template", "POST", f"{base}/template")
    step.add("template", False, True)
    step.needs = [Need(paths, ("VM.Allocate",), "make the container a template")]
    return step
