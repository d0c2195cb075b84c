# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan: what has to be done so that a container is as declared. Pure functions, no I/O.

A plan is a list of steps, each one request, and each carries the changes that it makes. Check mode is the plan without
the steps being sent; ``changed`` is "there is a step". What differs but is not to be done (it needs an option that is
not given, or a new container) is in the plan as a change without a request.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.access import Need, root_only
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.properties import ANY_VOLUME
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import Declared

LIVE = "live"
RESTART = "restart"
RECREATE = "recreate"

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

VMID = "{vmid}"


@dataclass
class Change:
    """One difference: ``before`` and ``after`` as a diff shows them.

    request: the request that makes the change (``PUT /nodes/pve1/lxc/201/config``); None when it is not to be made,
    and then ``hint`` says what would allow it.
    """

    key: str
    before: t.Any
    after: t.Any
    effect: str = LIVE
    request: str | None = None
    hint: str | None = None

    def as_dict(self) -> dict[str, t.Any]:
        """One entry of a module's ``plan``."""
        entry = {name: getattr(self, name) for name in ("key", "before", "after", "effect", "request")}
        if self.hint:
            entry["hint"] = self.hint
        return entry


@dataclass
class Step:
    """One request. ``{vmid}`` in the path stands for an id that is chosen when the step is sent.

    action: what it is, in the words that progress lines use.
    digest: whether the configuration's digest is sent along.
    needs: the privileges.
    """

    action: str
    method: str
    path: str
    params: dict[str, t.Any] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    needs: list[Need] = field(default_factory=list)
    digest: bool = False

    def add(self, key: str, before: t.Any, after: t.Any, effect: str = LIVE) -> None:
        """Note a change that this step makes."""
        self.changes.append(Change(key, before, after, effect, f"{self.method} /{self.path}"))


@dataclass
class Plan:
    """The steps in their order, and what is not going to be done.

    converge: the new container has to be read, and planned for again, after the steps (clone and restore).
    notes: what is worth saying but changes nothing.
    """

    steps: list[Step] = field(default_factory=list)
    blocked: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    converge: bool = False
    running_after: bool = False

    @property
    def changed(self) -> bool:
        """True when there is something to be done."""
        return bool(self.steps)

    @property
    def changes(self) -> list[Change]:
        """All differences, those to be made first."""
        return [change for step in self.steps for change in step.changes] + self.blocked

    @property
    def needs(self) -> list[Need]:
        """The privileges that the steps need."""
        return [need for step in self.steps for need in step.needs]

    def extend(self, other: Plan) -> None:
        """Take over what another plan does after this one."""
        self.steps += other.steps
        self.blocked += other.blocked
        self.notes += other.notes
        self.running_after = other.running_after


@dataclass
class Actual:
    """A container as it is.

    current: what is in force, as the API's texts.
    pending: what waits for the next stop: a text, or None for a key to be removed.
    pool: the pool it is in; None when it is in none or was not read.
    """

    vmid: int
    node: str
    status: str = "stopped"
    current: dict[str, t.Any] = field(default_factory=dict)
    pending: dict[str, t.Any] = field(default_factory=dict)
    digest: str | None = None
    pool: str | None = None

    @property
    def running(self) -> bool:
        """True when it runs."""
        return self.status == "running"

    @property
    def config(self) -> dict[str, t.Any]:
        """The configuration that it has after its next stop."""
        merged = {**self.current, **{key: value for key, value in self.pending.items() if value is not None}}
        return {key: value for key, value in merged.items() if self.pending.get(key, "") is not None}

    @property
    def hostname(self) -> str:
        """Its hostname; Proxmox shows ``CT101`` when there is none."""
        return str(self.current.get("hostname") or f"CT{self.vmid}")

    @property
    def lock(self) -> str | None:
        """The lock that an operation holds."""
        return self.current.get("lock")

    @property
    def is_template(self) -> bool:
        """True for a template."""
        return properties.read("template", self.current.get("template")) is True

    @property
    def is_protected(self) -> bool:
        """True when Proxmox refuses to remove it or its volumes."""
        return properties.read("protection", self.current.get("protection")) is True


# ---------------------------------------------------------------------------------------------------- the plan


def make_plan(declared: Declared, actual: Actual | None, source: Actual | None = None) -> Plan:
    """What has to be done.

    actual: the container as it is, or None when there is none.
    source: what a clone or restore will be made of, when known, so that the plan can say what follows.

    Raises:
        Failure: the declaration cannot be fulfilled, or only with a loss of data.
    """
    if declared.state == "absent":
        return Plan() if actual is None else _plan_absent(declared, actual)
    if actual is None:
        return _plan_creation(declared, source)
    if declared.restore and declared.restore.force:
        return _plan_overwrite(declared, actual, source)
    plan = _plan_existing(declared, actual)
    _refuse_locked(actual, plan)
    return plan


def converge_plan(declared: Declared, actual: Actual) -> Plan:
    """What remains to be done on a container that a clone or restore has just made."""
    return _plan_existing(declared, actual)


def creation_notes(declared: Declared) -> list[str]:
    """What a declaration gives that only counts at the creation of a container."""
    given = [name for name in CREATE_ONLY if getattr(declared, name)]
    return [f"{', '.join(given)}: only used at the creation of a container; {declared.label} exists."] if given else []


def _refuse_locked(actual: Actual, plan: Plan) -> None:
    if plan.steps and actual.lock:
        raise Failure(
            "locked",
            f"{actual.hostname} ({actual.vmid}) is locked ({actual.lock}).",
            "Wait for the operation that holds the lock, or remove a stale lock on the node with 'pct unlock'.",
            lock=actual.lock,
            vmid=actual.vmid,
        )


def _base(actual: Actual) -> str:
    return f"nodes/{actual.node}/lxc/{actual.vmid}"


def _vm_paths(vmid: int | None, pool: str | None) -> tuple[str, ...]:
    """Where a container's privilege may come from (``check_vm_perm`` of PVE/RPCEnvironment.pm)."""
    return (f"/vms/{vmid}" if vmid else "/vms", *((f"/pool/{pool}",) if pool else ()))


# ------------------------------------------------------------------------------------------------------ absent


def _plan_absent(declared: Declared, actual: Actual) -> Plan:
    if actual.is_protected:
        raise Failure(
            "protected",
            f"{actual.hostname} ({actual.vmid}) is protected from being removed.",
            "Set 'protection: false' in a task of its own first.",
            vmid=actual.vmid,
        )
    if actual.running and not declared.force:
        raise Failure(
            "container_running",
            f"{actual.hostname} ({actual.vmid}) is running and is not removed.",
            "Stop it first, or set 'force: true' to have it stopped.",
            vmid=actual.vmid,
        )
    params: dict[str, t.Any] = {}
    if actual.running:
        params["force"] = True
    if declared.purge:
        params["purge"] = True
    step = Step("destroyed", "DELETE", _base(actual), params)
    step.needs = [Need(_vm_paths(actual.vmid, actual.pool), ("VM.Allocate",), "remove the container")]
    step.add("state", "running" if actual.running else "present", "absent")
    for key in sorted(filter(_is_volume_key, actual.config), key=properties.order_of):
        step.add(key, actual.config[key], None)
    plan = Plan([step])
    _refuse_locked(actual, plan)
    return plan


def _is_volume_key(key: str) -> bool:
    return properties.is_mount(key) or key.startswith("unused")


# ---------------------------------------------------------------------------------------------------- creation


def _plan_creation(declared: Declared, source: Actual | None) -> Plan:
    if not (declared.template or declared.clone or declared.restore):
        raise Failure(
            "not_found",
            f"{declared.label} does not exist, and the task does not say what to create it from.",
            "Give template, clone or restore.",
        )
    if not declared.node and not (declared.clone and source):
        raise Failure(
            "invalid_option",
            f"node: {declared.label} does not exist, and the task does not say on which node to create it.",
            "Give node.",
            option="node",
        )
    if declared.clone:
        return _plan_clone(declared, source)
    if declared.restore:
        return _plan_restore(declared, source, _predicted(declared, source))
    return _plan_template(declared)


def _plan_template(declared: Declared) -> Plan:
    params: dict[str, t.Any] = {"ostemplate": declared.template}
    step = Step("created", "POST", f"nodes/{declared.node}/lxc", params)
    step.add("state", "absent", "present")
    _refuse_incomplete_mounts(declared)
    config = _with_owner(declared, declared.config, None)
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
    step.needs = _creation_needs(declared)
    plan = Plan([step])
    _finish_creation(plan, declared)
    return plan


def _refuse_incomplete_mounts(declared: Declared) -> None:
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


def _creation_needs(declared: Declared) -> list[Need]:
    paths = _vm_paths(declared.vmid, declared.pool)
    needs = [Need(paths, ("VM.Allocate",), "create the container")]
    if declared.config.get("unprivileged") is False:
        needs.append(Need(("/",), ("Sys.Modify",), "create a privileged container"))
    if declared.template and not declared.template.startswith("/"):
        store = f"/storage/{properties.volume_of(declared.template).storage}"
        # PVE::Storage::check_volume_access for a template
        wanted = ("Datastore.AllocateSpace", "Datastore.Audit", "Datastore.Allocate")
        needs.append(Need((store,), wanted, "read the template"))
    storages = {declared.storage} if "rootfs" not in declared.config else set()
    for key, normal in declared.config.items():
        if properties.is_mount(key) and properties.volume_of(normal["volume"]).kind == "volume":
            storages.add(properties.volume_of(normal["volume"]).storage or declared.storage)
    needs += [_space(storage) for storage in sorted(filter(None, storages))]
    privileged = declared.config.get("unprivileged") is False
    for key, normal in declared.config.items():
        if key != "unprivileged":
            needs += _key_needs(key, None, normal, paths, privileged)
    return needs


def _space(storage: str) -> Need:
    return Need((f"/storage/{storage}",), ("Datastore.AllocateSpace",), f"allocate a volume on {storage}")


def _finish_creation(plan: Plan, declared: Declared) -> None:
    """The power state, or the conversion into a template, of a container that the plan makes."""
    base = f"nodes/{declared.node}/lxc/{declared.vmid or VMID}"
    paths = _vm_paths(declared.vmid, declared.pool)
    if declared.running:
        plan.steps.append(_power(base, "started", "start", paths, "stopped", "started"))
        plan.running_after = True
    elif declared.state == "template":
        plan.steps.append(_template_step(base, paths))


def _plan_clone(declared: Declared, source: Actual | None) -> Plan:
    assert declared.clone is not None
    clone = declared.clone
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
    step = Step("cloned", "POST", f"{_base(source)}/clone", params)
    step.add("state", "absent", "present")
    step.add("clone", None, f"{'full' if full else 'linked'} copy of {source.hostname} ({source.vmid})")
    paths = _vm_paths(declared.vmid, declared.pool)
    step.needs = [
        Need(_vm_paths(source.vmid, source.pool), ("VM.Clone",), "clone the source"),
        Need(paths, ("VM.Allocate",), "create the container"),
    ]
    step.needs += _copy_needs(source, clone.storage)
    plan = Plan([step], converge=True)
    copied = _predicted(declared, source)
    copied.node = node
    plan.extend(converge_plan(declared, copied))
    return plan


def _copy_needs(source: Actual, storage: str | None) -> list[Need]:
    """The privileges for the volumes and bridges of a copy."""
    volumes = [properties.volume_of(str(properties.read(key, text)["volume"])) for key, text in _mounts(source)]
    needs = [_space(name) for name in sorted({storage or volume.storage or "" for volume in volumes}) if name]
    for key, text in source.current.items():
        if key.startswith("net"):
            needs += _bridge_needs(None, properties.read(key, text))
    return needs


def _mounts(actual: Actual) -> list[tuple[str, t.Any]]:
    return [
        (key, text)
        for key, text in actual.config.items()
        if properties.is_mount(key) and isinstance(properties.read(key, text), dict)
    ]


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


def _plan_restore(declared: Declared, source: Actual | None, predicted: Actual) -> Plan:
    assert declared.restore is not None
    restore = declared.restore
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
    step.needs = [Need(_vm_paths(declared.vmid, declared.pool), ("VM.Allocate", "VM.Backup"), "restore the container")]
    step.needs.append(_space(storage))
    plan = Plan([step], converge=True)
    if source is not None:
        plan.extend(converge_plan(declared, predicted))
    return plan


def _root_storage(declared: Declared) -> str | None:
    rootfs = declared.config.get("rootfs")
    return properties.volume_of(rootfs["volume"]).storage or None if rootfs else None


def _plan_overwrite(declared: Declared, actual: Actual, source: Actual | None) -> Plan:
    """A restore over an existing container: its volumes are replaced, which is what ``restore.force`` says."""
    if actual.is_protected:
        raise Failure(
            "protected",
            f"{actual.hostname} ({actual.vmid}) is protected from being overwritten.",
            "Set 'protection: false' in a task of its own first.",
            vmid=actual.vmid,
        )
    if actual.running and not declared.force:
        raise Failure(
            "container_running",
            f"{actual.hostname} ({actual.vmid}) is running and is not overwritten.",
            "Stop it first, or set 'force: true' to have it stopped.",
            vmid=actual.vmid,
        )
    target = _with_identity(declared, actual)
    plan = Plan()
    if actual.running:
        plan.steps.append(
            _power(_base(actual), "stopped", "stop", _vm_paths(actual.vmid, actual.pool), "running", "stopped")
        )
    plan.extend(_plan_restore(target, source, _predicted(target, source)))
    plan.converge = True
    restored = next(step for step in plan.steps if step.action == "restored")
    restored.changes[0].before = "present"
    for key, text in _mounts(actual):
        restored.changes.append(Change(key, text, None, LIVE, restored.changes[0].request))
    _refuse_locked(actual, plan)
    return plan


def _with_identity(declared: Declared, actual: Actual) -> Declared:
    fields = dict(vars(declared))
    fields.update(vmid=actual.vmid, node=actual.node)
    return Declared(**fields)


# ---------------------------------------------------------------------------------------------------- existing


def _plan_existing(declared: Declared, actual: Actual) -> Plan:
    plan = Plan(running_after=actual.running)
    if actual.is_template and (declared.running or declared.state == "stopped" and actual.running):
        raise Failure(
            "is_template",
            f"{actual.hostname} ({actual.vmid}) is a template and cannot be started.",
            "Clone it, or set state to template or present.",
            vmid=actual.vmid,
        )
    plan.notes += creation_notes(declared)
    _plan_recreate(plan, declared, actual)
    _plan_config(plan, declared, actual)
    _plan_resizes(plan, declared, actual)
    _plan_pool(plan, declared, actual)
    moves = _moves(plan, declared, actual)
    migration = _migration(plan, declared, actual)
    _plan_power(plan, declared, actual, moves, migration)
    return plan


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


# ------------------------------------------------------------------------------------------------------ config


def _plan_config(plan: Plan, declared: Declared, actual: Actual) -> None:
    """The PUT of everything that differs: one request, or two where a pending value has to be withdrawn first."""
    base = _base(actual)
    revert = Step("reverted", "PUT", f"{base}/config", digest=True)
    put = Step("configured", "PUT", f"{base}/config", digest=True)
    reverts: list[str] = []
    deletes: list[str] = []
    paths = _vm_paths(actual.vmid, actual.pool)
    privileged = properties.read("unprivileged", actual.config.get("unprivileged")) is not True
    future = dict(actual.config)
    for key in _withdrawn(declared, actual):
        future[key] = actual.current[key]
        reverts.append(key)
        revert.add(key, None, _shown(key, actual.current[key]))
        revert.needs += _key_needs(key, None, properties.read(key, actual.current[key]), paths, privileged)
    wanted = _wanted_config(declared, future)
    for key in sorted(wanted, key=properties.order_of):
        before = properties.read(key, future.get(key))
        after = _after(wanted[key], before, key)
        if properties.equal(key, wanted[key], before):
            continue
        if properties.is_mount(key) and isinstance(before, dict) and _volume_differs(wanted[key], before):
            # Moving is a request of its own; the options are compared as if the volume were in its place.
            after = _after({**wanted[key], "volume": ANY_VOLUME}, before, key)
            if properties.equal(key, after, before):
                continue
        text = properties.encode(key, after)
        if text is None:
            _remove(key, future, actual, put, revert, deletes, reverts)
        else:
            put.params[key] = text
            put.add(key, _shown(key, future.get(key)), properties.show(key, after), _effect(key, after, actual))
        put.needs += _key_needs(key, before, after, paths, privileged)
    for key in _surplus(declared, future):
        before = properties.read(key, future[key])
        _remove(key, future, actual, put, revert, deletes, reverts)
        put.needs += _key_needs(key, before, None, paths, privileged)
    _refuse_protected(put, deletes, actual)
    _refuse_destroying(declared, actual, deletes)
    if reverts:
        revert.params["revert"] = ",".join(reverts)
        plan.steps.append(revert)
    if deletes:
        put.params["delete"] = ",".join(deletes)
    if put.params:
        plan.steps.append(put)


def _wanted_config(declared: Declared, future: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The declared keys that a PUT can set, each new volume with its storage.

    Raises:
        Failure: a new volume without a size or a storage.
    """
    wanted = {key: value for key, value in declared.config.items() if key not in RECREATE_KEYS}
    wanted = _with_owner(declared, wanted, future.get("tags"))
    fresh = {key: value for key, value in wanted.items() if properties.is_mount(key) and key not in future}
    _refuse_incomplete_mounts(Declared(config=fresh, storage=declared.storage))
    for key, value in fresh.items():
        if value["volume"] == ANY_VOLUME:
            wanted[key] = {**value, "volume": f"{declared.storage}:"}
    return wanted


def _with_owner(declared: Declared, config: t.Mapping[str, t.Any], tags: t.Any) -> dict[str, t.Any]:
    """The keys with the owner's tag among the tags; ``tags`` are those to keep when none are declared."""
    if not declared.owner:
        return dict(config)
    kept = config["tags"] if "tags" in config else properties.read("tags", tags)
    return {**config, "tags": tuple(sorted({*(kept or ()), declared.owner}))}


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
    surplus = {key for key in declared.unset if key in future}
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
    touched = [key for key in (*put.params, *deletes) if _is_volume_key(key)]
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
        if key in actual.current and after == properties.read(key, actual.current[key]):
            return LIVE
    elif key not in actual.current:
        return LIVE
    return RESTART


def _key_needs(key: str, before: t.Any, after: t.Any, paths: tuple[str, ...], privileged: bool) -> list[Need]:
    """The privileges for changing a key (``check_ct_modify_config_perm`` of PVE/LXC.pm)."""
    if key in ("cores", "cpuunits", "cpulimit"):
        return [Need(paths, ("VM.Config.CPU",), f"change {key}")]
    if key in ("memory", "swap"):
        return [Need(paths, ("VM.Config.Memory",), f"change {key}")]
    if key in ("nameserver", "searchdomain", "hostname"):
        return [Need(paths, ("VM.Config.Network",), f"change {key}")]
    if key == "hookscript":
        return [root_only("change the hookscript")]
    if key.startswith("dev"):
        return [root_only(f"pass the device {key} through")]
    if key == "features":
        return _feature_needs(before, after, paths, privileged)
    if key.startswith("net"):
        return [Need(paths, ("VM.Config.Network",), f"change {key}"), *_bridge_needs(before, after)]
    if _is_volume_key(key):
        return [Need(paths, ("VM.Config.Disk",), f"change {key}"), *_volume_needs(key, after)]
    return [Need(paths, ("VM.Config.Options",), f"change {key}")]


def _feature_needs(before: t.Any, after: t.Any, paths: tuple[str, ...], privileged: bool) -> list[Need]:
    if privileged:
        return [root_only("change the features of a privileged container")]
    old, new = before or {}, after or {}
    differing = {name for name in {*old, *new} if old.get(name) != new.get(name)}
    needs = []
    if differing - {"nesting"}:
        needs.append(root_only("change features other than nesting"))
    if "nesting" in differing:
        needs.append(Need(paths, ("VM.Allocate",), "change the feature nesting"))
    return needs


def _bridge_needs(before: t.Any, after: t.Any) -> list[Need]:
    bridges = {value.get("bridge") for value in (before, after) if isinstance(value, dict)}
    # A bridge may be a VNet of any SDN zone; a grant anywhere below /sdn is left to Proxmox to judge.
    return [
        Need((f"/sdn/zones/localnetwork/{bridge}", "/sdn/*"), ("SDN.Use",), f"use the bridge {bridge}")
        for bridge in sorted(filter(None, bridges))
    ]


def _volume_needs(key: str, after: t.Any) -> list[Need]:
    if not isinstance(after, dict):
        return []
    volume = properties.volume_of(after["volume"])
    if volume.kind != "volume":
        return [root_only(f"mount a {volume.kind} at {key}")]
    return [_space(volume.storage)] if volume.storage and not volume.name else []


# ----------------------------------------------------------------------------------------------------- volumes


def _plan_resizes(plan: Plan, declared: Declared, actual: Actual) -> None:
    for key, wanted in sorted(declared.config.items()):
        before = properties.read(key, actual.config.get(key))
        if not properties.is_mount(key) or "size" not in wanted or not isinstance(before, dict):
            continue
        size = before.get("size")
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
        step = Step("resized", "PUT", f"{_base(actual)}/resize", {"disk": key, "size": asked})
        step.add(f"{key}.size", shown, asked)
        paths = _vm_paths(actual.vmid, actual.pool)
        # PVE/API2/LXC.pm resize_vm checks its parameters as keys of the configuration: "size" is one of the others.
        step.needs = [
            Need(paths, ("VM.Config.Disk",), f"resize {key}"),
            Need(paths, ("VM.Config.Options",), f"resize {key}"),
            _space(properties.volume_of(before["volume"]).storage or ""),
        ]
        plan.steps.append(step)


def _moves(plan: Plan, declared: Declared, actual: Actual) -> list[Step]:
    steps = []
    for key, wanted in sorted(declared.config.items(), key=lambda item: properties.order_of(item[0])):
        before = properties.read(key, actual.config.get(key))
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
        if "parent" in actual.current:
            plan.notes.append(f"{before['volume']} is used by snapshots and is kept as an unused volume.")
        else:
            params["delete"] = True
        step = Step("moved", "POST", f"{_base(actual)}/move_volume", params)
        step.add(change.key, change.before, change.after, effect)
        step.needs = [
            Need(_vm_paths(actual.vmid, actual.pool), ("VM.Config.Disk",), f"move {key}"),
            _space(target.storage),
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
    step = Step("migrated", "POST", f"{_base(actual)}/migrate", {"target": declared.node})
    step.add("node", actual.node, declared.node, effect)
    step.needs = [Need(_vm_paths(actual.vmid, actual.pool), ("VM.Migrate",), "migrate the container")]
    return step


def _plan_pool(plan: Plan, declared: Declared, actual: Actual) -> None:
    if not declared.pool or declared.pool == actual.pool:
        return
    params = {"vms": actual.vmid, "allow-move": True}
    step = Step("pooled", "PUT", f"pools/{declared.pool}", params)
    step.add("pool", actual.pool, declared.pool)
    step.needs = [
        Need((f"/pool/{pool}",), ("Pool.Allocate",), f"change the members of {pool}")
        for pool in filter(None, (declared.pool, actual.pool))
    ]
    plan.steps.append(step)


# ------------------------------------------------------------------------------------------------------- power


def _power(base: str, action: str, call: str, paths: tuple[str, ...], before: str, after: str) -> Step:
    step = Step(action, "POST", f"{base}/status/{call}")
    step.add("state", before, after, LIVE if before == "stopped" else RESTART)
    step.needs = [Need(paths, ("VM.PowerMgmt",), f"{call} the container")]
    return step


def _template_step(base: str, paths: tuple[str, ...]) -> Step:
    step = Step("made a template", "POST", f"{base}/template")
    step.add("template", False, True)
    step.needs = [Need(paths, ("VM.Allocate",), "make the container a template")]
    return step


def _plan_power(
    plan: Plan,
    declared: Declared,
    actual: Actual,
    moves: list[Step],
    migration: Step | None,
) -> None:
    """Stop, move, migrate, start: in the order that stops a container once at most."""
    base, paths = _base(actual), _vm_paths(actual.vmid, actual.pool)
    runs = actual.running
    target = actual.node
    if declared.state == "template" and not actual.is_template and actual.running and not declared.force:
        raise Failure(
            "container_running",
            f"{actual.hostname} ({actual.vmid}) is running and is not made a template.",
            "Stop it first, or set 'force: true' to have it stopped.",
            vmid=actual.vmid,
        )
    waits = runs and declared.restart == "if_needed" and _waits_for_restart(plan, actual)
    must_stop = runs and (declared.running is False or bool(moves))
    if must_stop:
        call = "stop" if declared.force and declared.running is False else "shutdown"
        step = _power(base, "stopped", call, paths, "running", "stopped")
        if call == "shutdown" and declared.running is not False:
            # The restart is allowed: a container that ignores the shutdown is stopped hard, as a reboot does.
            step.params["forceStop"] = True
        plan.steps.append(step)
        runs = False
    plan.steps += moves
    if migration:
        if runs:
            migration.params["restart"] = True
        plan.steps.append(migration)
        target = str(migration.params["target"])
    base = f"nodes/{target}/lxc/{actual.vmid}"
    shall_run = actual.running if declared.running is None else declared.running
    if shall_run and not runs:
        plan.steps.append(_power(base, "started", "start", paths, "stopped", "started"))
        runs = True
    elif runs and not migration and (waits or declared.state == "restarted"):
        plan.steps.append(_power(base, "restarted", "reboot", paths, "running", "restarted"))
    if declared.state == "template" and not actual.is_template:
        plan.steps.append(_template_step(base, paths))
    plan.running_after = runs


def _waits_for_restart(plan: Plan, actual: Actual) -> bool:
    """True when, after the plan's own writes, something waits for the next stop."""
    if any(change.effect == RESTART for step in plan.steps for change in step.changes):
        return True
    settled = {change.key for step in plan.steps for change in step.changes}
    return any(key not in settled for key in actual.pending)


def waiting_keys(actual: Actual) -> list[str]:
    """Keys whose new value waits for the next stop of a running container."""
    return sorted(actual.pending, key=properties.order_of) if actual.running else []
