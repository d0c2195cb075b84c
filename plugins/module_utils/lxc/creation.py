# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to be done to make a container: from a template, an image, a clone or a backup. Pure functions, no I/O."""

from __future__ import annotations

import typing as t
from dataclasses import replace

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.access import Need
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.plan import LIVE, Change, Step
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.converge import (
    converge_plan,
    power_step,
    refuse_incomplete_mounts,
    refuse_protected,
    refuse_running,
    template_step,
    with_owner,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.image import (
    IMPORTED,
    IMPORTED_KEYS,
    Artefact,
    check_steps,
    fetch_steps,
    imported,
    settle,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import VMID, Actual, Plan, mounts_of
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.privileges import (
    copy_needs,
    creation_needs,
    key_needs,
    restore_needs,
    vm_paths,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.properties import ANY_VOLUME
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import Clone, Declared, Restore


def plan_creation(declared: Declared, source: Actual | None, image: Artefact | None = None) -> Plan:
    """What has to be done when there is no container.

    source: the container to clone, or what is in the backup, when known. image: what an image is made of.

    Raises:
        Failure: it is not said from what, or where, or the source cannot be copied.
    """
    if not (declared.template or declared.image or declared.clone or declared.restore):
        raise Failure(
            "not_found",
            f"{declared.label} does not exist, and the task does not say what to create it from.",
            "Give template, image, clone or restore.",
        )
    if not declared.node and not declared.clone:
        raise Failure(
            "invalid_option",
            f"node: {declared.label} does not exist, and the task does not say on which node to create it.",
            "Give node.",
            option="node",
        )
    if declared.clone:
        return _plan_clone(declared, declared.clone, source)
    if declared.restore:
        return _plan_restore(declared, declared.restore, source)
    if image:
        return _plan_image(declared, image)
    return _plan_template(declared)


def _plan_image(declared: Declared, image: Artefact) -> Plan:
    """A container of an image. What Proxmox takes from the image, whatever the request has, is set afterwards."""
    goal = settle(declared, None, image)
    late = IMPORTED_KEYS if image.method in IMPORTED else ()
    config = {key: normal for key, normal in goal.config.items() if key not in late}
    plan = Plan(fetch_steps(image), converge=True)
    made = _creation_step(replace(goal, template=image.volume, config=config))
    made.add("image", None, image.mark.shown)
    plan.steps.append(made)
    base = f"nodes/{declared.node}/lxc/{declared.vmid or VMID}"
    plan.steps += check_steps(image, base, made.params)
    current = {key: text for key, text in made.params.items() if properties.key_of(key)}
    current = imported(current, image.found) if image.method in IMPORTED else current
    actual = Actual(declared.vmid or 0, str(declared.node), "stopped", current, pool=declared.pool)
    rest = converge_plan(settle(declared, actual, image), actual)
    rest.notes = []
    _follow(plan, declared, actual, rest)
    return plan


def _follow(plan: Plan, declared: Declared, made: Actual, rest: Plan) -> None:
    """Add what is done to a container that the plan makes; its id may be chosen only then."""
    for step in rest.steps:
        step.path = step.path.replace(f"{made.path}/", f"nodes/{made.node}/lxc/{declared.vmid or VMID}/")
        for change in step.changes:
            change.request = f"{step.method} /{step.path}"
    plan.extend(rest)


def _plan_template(declared: Declared) -> Plan:
    plan = Plan([_creation_step(declared)])
    _set_late(plan, declared)
    _finish_creation(plan, declared)
    return plan


def _late_keys(declared: Declared) -> tuple[str, ...]:
    """The keys that are set after the creation.

    For tags Proxmox wants a privilege on the container itself, which comes from its pool only once it is in there
    (``assert_tag_permissions`` of PVE/GuestHelpers.pm).
    """
    return ("tags",) if declared.pool else ()


def _set_late(plan: Plan, declared: Declared) -> None:
    config = with_owner(declared, declared.config, None)
    step = Step("configured", "PUT", f"nodes/{declared.node}/lxc/{declared.vmid or VMID}/config")
    for key in _late_keys(declared):
        text = properties.encode(key, config[key]) if key in config else None
        if text is not None:
            step.params[key] = text
            step.add(key, None, properties.show(key, config[key]))
            step.needs += key_needs(key, None, config[key], vm_paths(declared.vmid, declared.pool), privileged=False)
    if step.params:
        plan.steps.append(step)


def _creation_step(declared: Declared) -> Step:
    params: dict[str, t.Any] = {"ostemplate": declared.template}
    step = Step("created", "POST", f"nodes/{declared.node}/lxc", params)
    step.add("state", "absent", "present")
    refuse_incomplete_mounts(declared)
    late = _late_keys(declared)
    config = {key: value for key, value in with_owner(declared, declared.config, None).items() if key not in late}
    for key in sorted(config, key=properties.order_of):
        normal = config[key]
        if properties.is_mount(key) and normal["volume"] == ANY_VOLUME:
            normal = {**normal, "volume": f"{declared.storage}:"}
        text = properties.encode(key, normal)
        if text is not None:
            params[key] = text
            step.add(key, None, properties.show(key, normal))
    for name, option in (
        ("storage", declared.storage),
        ("pool", declared.pool),
        ("password", declared.password),
        ("ssh-public-keys", declared.pubkey),
        ("ignore-unpack-errors", declared.ignore_unpack_errors or None),
    ):
        if option is not None:
            params[name] = option
    step.needs = creation_needs(declared, config)
    return step


def _finish_creation(plan: Plan, declared: Declared) -> None:
    """The power state, or the conversion into a template, of a container that the plan makes."""
    base = f"nodes/{declared.node}/lxc/{declared.vmid or VMID}"
    paths = vm_paths(declared.vmid, declared.pool)
    if declared.running:
        plan.steps.append(power_step(base, "started", "start", paths, "stopped", "started"))
        plan.running_after = True
    elif declared.state == "template":
        plan.steps.append(template_step(base, paths))


def _plan_clone(declared: Declared, clone: Clone, source: Actual | None) -> Plan:
    if source is None:
        raise Failure(
            "not_found",
            f"The source of the clone, {clone.hostname or clone.vmid}, does not exist.",
            "Check clone.vmid or clone.hostname.",
        )
    node = declared.node or source.node
    full = clone.full
    if full is None:
        # As the API decides, but it refuses a storage for a template's clone that is not said to be full.
        full = not source.is_template or bool(clone.storage)
    if full and source.running and not clone.snapshot:
        raise Failure(
            "container_running",
            f"{source.hostname} ({source.vmid}) is running; Proxmox copies a running container only from a snapshot.",
            "Give clone.snapshot, or stop the source.",
            vmid=source.vmid,
        )
    params: dict[str, t.Any] = {"full": full}
    for name, value in (
        ("hostname", declared.hostname),
        ("pool", declared.pool),
        ("snapname", clone.snapshot),
        ("storage", clone.storage),
        ("bwlimit", clone.bwlimit),
        ("target", node if node != source.node else None),
    ):
        if value is not None:
            params[name] = value
    step = Step("cloned", "POST", f"{source.path}/clone", params)
    step.add("state", "absent", "present")
    step.add("clone", None, f"{'full' if full else 'linked'} copy of {source.hostname} ({source.vmid})")
    paths = vm_paths(declared.vmid, declared.pool)
    step.needs = [
        Need(vm_paths(source.vmid, source.pool), ("VM.Clone",), "clone the source"),
        Need(paths, ("VM.Allocate",), "create the container"),
    ]
    step.needs += copy_needs(source, clone.storage)
    plan = Plan([step], converge=True)
    copied = _predicted(declared, source)
    copied.node = node
    _follow(plan, declared, copied, converge_plan(declared, copied))
    return plan


def _predicted(declared: Declared, source: Actual | None) -> Actual:
    """The container that a clone or restore makes, as far as it can be told before."""
    # What waits for a restart of the source is not copied.
    config = dict(source.current) if source else {}
    for key in [name for name in config if name in ("lock", "template", "parent") or name.startswith("unused")]:
        del config[key]
    if declared.clone and declared.hostname:
        config["hostname"] = declared.hostname
    return Actual(
        vmid=declared.vmid or 0,
        node=declared.node or (source.node if source else ""),
        current=config,
        pool=declared.pool,
    )


def _plan_restore(declared: Declared, restore: Restore, source: Actual | None, over: Actual | None = None) -> Plan:
    storage = declared.storage or _root_storage(declared)
    if not storage:
        raise Failure(
            "invalid_option",
            "storage: a restore needs the storage for the volumes.",
            "Give storage, or rootfs.storage.",
            option="storage",
        )
    params: dict[str, t.Any] = {"ostemplate": restore.volume, "restore": True}
    for name, value in (
        ("force", restore.force or None),
        ("unique", restore.unique or None),
        ("bwlimit", restore.bwlimit),
        ("storage", storage),
        ("pool", declared.pool),
    ):
        if value is not None:
            params[name] = value
    step = Step("restored", "POST", f"nodes/{declared.node}/lxc", params)
    step.add("state", "absent", "present")
    step.add("restore", None, restore.volume)
    step.needs = restore_needs(declared, storage, source, over)
    plan = Plan([step], converge=True)
    if source is not None:
        made = _predicted(declared, source)
        made.current = {key: _on_storage(storage, key, text) for key, text in made.current.items()}
        _follow(plan, declared, made, converge_plan(declared, made))
    return plan


def _on_storage(storage: str, key: str, text: t.Any) -> t.Any:
    """A volume as a restore makes it: all of them on one storage, wherever they were (create_vm of PVE/API2/LXC.pm)."""
    normal = properties.read(key, text)
    if not properties.is_mount(key) or not isinstance(normal, dict):
        return text
    volume = properties.volume_of(normal["volume"])
    if volume.kind != "volume":
        return text
    return properties.encode(key, {**normal, "volume": f"{storage}:{volume.name}"})


def _root_storage(declared: Declared) -> str | None:
    rootfs = declared.config.get("rootfs")
    return properties.volume_of(rootfs["volume"]).storage or None if rootfs else None


def plan_overwrite(declared: Declared, restore: Restore, actual: Actual, source: Actual | None) -> Plan:
    """A restore over an existing container: its volumes are replaced, which is what ``restore.force`` says."""
    refuse_protected(actual, "overwritten")
    refuse_running(declared, actual, "overwritten")
    target = _with_identity(declared, actual)
    plan = Plan()
    if actual.running:
        plan.steps.append(
            power_step(actual.path, "stopped", "stop", vm_paths(actual.vmid, actual.pool), "running", "stopped")
        )
    plan.extend(_plan_restore(target, restore, source, actual))
    plan.converge = True
    restored = next(step for step in plan.steps if step.action == "restored")
    restored.changes[0].before = "present"
    for key, text in mounts_of(actual):
        restored.changes.append(Change(key, text, None, LIVE, restored.changes[0].request))
    return plan


def _with_identity(declared: Declared, actual: Actual) -> Declared:
    fields = dict(vars(declared))
    fields.update(vmid=actual.vmid, node=actual.node)
    return Declared(**fields)
