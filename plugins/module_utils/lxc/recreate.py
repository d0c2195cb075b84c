# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to be done to make a container anew from another image, with its volumes. Pure functions, no I/O.

Proxmox has no call for it. A container cannot change its root volume's content, and removing it destroys every volume
that its configuration names. So a second container, the holder, takes the volumes meanwhile:

1. The holder is made of the new image, which proves that the image is good. Its description keeps the old container's
   configuration, and which volumes it had.
2. The old container is marked, stopped, and its volumes go to the holder (``move_volume`` with ``target-vmid`` renames
   a volume; nothing is copied). Then the holder is protected from removal.
3. When nothing but the root volume is left to it, the old container is removed, and made anew under the same id.
4. The volumes come back, and when nothing but its root volume is left to it, the holder is removed.

Within ``move_volume`` Proxmox takes the volume from the one configuration before it looks whether the other one takes
it. So nothing is moved to a protected container, which would not. When a move fails all the same, a volume may be named
by no configuration; the next run misses it, and refuses to go on without it.

No container is removed that names another volume than its root. After an interruption the next run goes on from what it
finds.
"""

from __future__ import annotations

import json
import re
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.access import Need
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.plan import RECREATE, Step
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.converge import (
    converge_plan,
    power_step,
    refuse_protected,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.image import (
    IMPORTED,
    IMPORTED_KEYS,
    IMPORTED_LINES,
    Artefact,
    Mark,
    check_steps,
    fetch_steps,
    hide_holder,
    imported,
    mark_of,
    settle,
    with_mark,
    with_text,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import HOLDER, Actual, Plan, is_volume_key
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.privileges import (
    creation_needs,
    key_needs,
    space_need,
    vm_paths,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.properties import ANY_VOLUME
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import Declared

HOLDER_NAME = re.compile(r"recreate-(?P<vmid>\d+)-(?P<hostname>.+)")
_JOURNAL = re.compile(r"<!-- lxcri\.proxmox journal=(\{.*\}) -->", re.DOTALL)
# What a new container gets of its image, or of the creation itself.
_NOT_KEPT = ("lock", "parent", "template", "digest", "arch", "ostype", "snaptime", "description", *IMPORTED_KEYS)
_UNKNOWN = Mark("unknown", "sha256:" + "0" * 64)


@dataclass(frozen=True)
class Journal:
    """What a holder knows of the container whose volumes it holds.

    running: whether it ran before. volumes: those that it had besides its root, as its configuration named them.
    """

    vmid: int
    config: t.Mapping[str, t.Any]
    pool: str | None = None
    running: bool = False
    volumes: t.Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return as_note("journal", vars(self))


def as_note(name: str, values: t.Mapping[str, t.Any]) -> str:
    """A comment for a description that keeps values which are more than a word."""
    text = json.dumps(values, sort_keys=True).replace("<", "\\u003c").replace(">", "\\u003e")
    return f"<!-- lxcri.proxmox {name}={text} -->"


def journal_of(description: t.Any) -> Journal | None:
    """The journal in a holder's description; None when it is no holder's."""
    match = _JOURNAL.search(str(description or ""))
    try:
        return Journal(**json.loads(match[1])) if match else None
    except (ValueError, TypeError):
        return None


@dataclass(frozen=True)
class Standing:
    """What stands beside a container that is to be made anew.

    holder: the container that holds its volumes since an interrupted run. pool: that of the container.
    lines: raw lines of its file. rules: how many rules its firewall has. managed: by HA. replicated: it has jobs.
    """

    holder: Actual | None = None
    pool: str | None = None
    snapshots: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    rules: int = 0
    managed: bool = False
    replicated: bool = False

    @property
    def journal(self) -> Journal | None:
        """What the holder knows."""
        return journal_of(self.holder.config.get("description")) if self.holder else None


def holder_name(vmid: int, hostname: str) -> str:
    """The hostname by which a holder is found again."""
    return f"recreate-{vmid}-{hostname}"[:255].rstrip("-.")


def refuse_interrupted(declared: Declared, holder: int | str | None) -> None:
    """Refuse everything but going on, while the volumes of a container are somewhere else."""
    if holder and not (declared.image and declared.recreate):
        raise Failure(
            "recreate_interrupted",
            f"{declared.label} was being made anew, which was interrupted; container {holder} holds its volumes.",
            "Run the task with 'image' and 'recreate: true' to finish it.",
            holder=holder,
        )


def volumes_of(config: t.Mapping[str, t.Any]) -> dict[str, str]:
    """The volumes besides the root, by their keys: mount points on storages, and unused volumes."""
    found = {}
    for key in sorted(filter(is_volume_key, config), key=properties.order_of):
        normal = properties.read(key, config[key])
        kind = properties.volume_of(normal["volume"]).kind if isinstance(normal, dict) else "volume"
        if key != "rootfs" and kind == "volume":
            found[key] = str(config[key])
    return found


def refuse_missing_volumes(declared: Declared, journal: Journal, named: t.Iterable[str], holder: Actual) -> None:
    """Refuse to go on when a volume that the container had is in no configuration any more.

    named: the volumes that the container and its holder have. A move gives a volume another name, and may give it
    another key; where it lies and where it is mounted stays.

    Raises:
        Failure: ``volume_missing`` unless ``force``.
    """
    present = [_place(text) for text in named]
    missing = {}
    for key, text in journal.volumes.items():
        if _place(text) in present:
            present.remove(_place(text))
        else:
            missing[key] = text
    if missing and not declared.force:
        names = ", ".join(f"{key} ({text})" for key, text in missing.items())
        raise Failure(
            "volume_missing",
            f"{declared.label} had volumes that neither it nor container {holder.vmid}, which holds its volumes, has "
            f"now: {names}.",
            f"Look on the storage for volumes of {holder.vmid} and {journal.vmid} that no container uses, and put them "
            f"into {holder.vmid} with their mount points ('pct set {holder.vmid} --mp0 VOLUME,mp=PATH'). Or set "
            "'force: true' to go on without them.",
            vmid=journal.vmid,
            holder=holder.vmid,
            volumes=missing,
        )


def _place(text: str) -> tuple[str | None, str]:
    mount = t.cast("dict[str, t.Any]", properties.read("mp0", text))
    return properties.volume_of(mount["volume"]).storage, mount.get("mp") or ""


def refuse_losses(declared: Declared, actual: Actual, standing: Standing, marked: bool) -> None:
    """Refuse what removing the old container would lose besides its root volume.

    Raises:
        Failure: ``protected``, ``has_snapshots``, ``ha_managed``, ``replicated``, ``pending_changes``, ``is_template``,
            ``would_lose_data`` unless ``force``.
    """
    label = f"{actual.hostname} ({actual.vmid})"
    refuse_protected(actual, "made anew")
    if actual.is_template:
        raise Failure(
            "is_template", f"{label} is a template, and its clones need it.", "Make another one.", vmid=actual.vmid
        )
    if standing.snapshots:
        raise Failure(
            "has_snapshots",
            f"{label} has the snapshots {', '.join(standing.snapshots)}, which would be lost.",
            "Delete them first.",
            vmid=actual.vmid,
            snapshots=list(standing.snapshots),
        )
    if standing.managed or standing.replicated:
        code, what = ("ha_managed", "managed by HA") if standing.managed else ("replicated", "replicated")
        raise Failure(
            code,
            f"{label} is {what}, and Proxmox does not remove such a container.",
            "Take it out of that first, and put it back afterwards.",
            vmid=actual.vmid,
        )
    waiting = sorted(filter(is_volume_key, actual.pending))
    if waiting:
        raise Failure(
            "pending_changes",
            f"Changes of {', '.join(waiting)} of {label} wait for its stop.",
            "Stop it first.",
            vmid=actual.vmid,
        )
    lost = [f"the raw line {line}" for line in standing.lines if line.partition(":")[0] not in IMPORTED_LINES]
    lost += [f"{standing.rules} rules of its firewall"] if standing.rules else []
    if not marked:
        lost.append(f"{actual.config.get('rootfs')}, which is not known to be of an image")
    if lost and not declared.force:
        raise Failure(
            "would_lose_data",
            f"Making {label} anew loses {', '.join(lost)}.",
            "Save it, and set 'force: true' if that is wanted.",
            vmid=actual.vmid,
            lost=lost,
        )


# --------------------------------------------------------------------------------------------------- the old one


def kept_config(actual: Actual, pool: str | None) -> Journal:
    """What the new container has of the old one, unless the declaration says otherwise."""
    config = {
        key: text
        for key, text in actual.config.items()
        if key not in _NOT_KEPT and key not in volumes_of(actual.config) and properties.key_of(key)
    }
    config["description"] = actual.config.get("description") or ""
    config = {key: text for key, text in config.items() if text != ""}
    return Journal(actual.vmid, config, pool, actual.running, volumes_of(actual.config))


def new_config(declared: Declared, journal: Journal) -> dict[str, t.Any]:
    """The normal forms with which the container is made anew: the declared ones, and those that it had.

    Raises:
        Failure: ``invalid_option``.
    """
    config = {key: properties.read(key, text) for key, text in journal.config.items()}
    for key in list(config):
        family = re.sub(r"\d+\Z", "", key)
        left_out = family in declared.families and family != key and key not in declared.config
        if left_out or key in declared.unset:
            del config[key]
    old_root = config.get("rootfs") or {}
    for key, normal in declared.config.items():
        if properties.is_mount(key) and key != "rootfs" and properties.volume_of(normal["volume"]).kind == "volume":
            continue
        before = config.get(key)
        address = before.get("hwaddr") if key.startswith("net") and isinstance(before, dict) else None
        config[key] = {"hwaddr": address, **normal} if address else normal
    root = {**old_root, **(declared.config.get("rootfs") or {})}
    volume = properties.volume_of(root.get("volume", ANY_VOLUME))
    storage = volume.storage or properties.volume_of(old_root.get("volume", ANY_VOLUME)).storage or declared.storage
    if not storage or "size" not in root:
        raise Failure(
            "invalid_option",
            "rootfs: a new root volume needs a storage and a size.",
            "Give rootfs.storage and rootfs.size.",
            option="rootfs",
        )
    options = declared.config.get("rootfs") or old_root
    config["rootfs"] = {**options, "volume": f"{storage}:", "size": root["size"]}
    return config


# --------------------------------------------------------------------------------------------------------- plan


@dataclass
class _Work:
    """What a plan is made of while it is made."""

    node: str
    vmid: int
    holder: int | str
    pool: str | None
    plan: Plan = field(default_factory=lambda: Plan(converge=True))

    @property
    def base(self) -> str:
        return f"nodes/{self.node}/lxc/{self.vmid}"

    @property
    def holder_base(self) -> str:
        return f"nodes/{self.node}/lxc/{self.holder}"

    @property
    def paths(self) -> tuple[str, ...]:
        return vm_paths(self.vmid, self.pool)

    @property
    def all_paths(self) -> tuple[str, ...]:
        """Removing a container removes what is granted for its id alone (``remove_vm_access``)."""
        return vm_paths(None, self.pool)

    def add(self, step: Step) -> None:
        self.plan.steps.append(step)

    def move(self, source: str, target: int | str, volumes: t.Mapping[str, str], taken: t.Iterable[str]) -> None:
        """Give volumes to the other container, each under its own key when that is free."""
        if volumes:
            path = f"nodes/{self.node}/lxc/{target}/config"
            self.add(Step("checked", "GET", path, check="unprotected"))
        used = set(taken)
        for key, text in volumes.items():
            family = re.sub(r"\d+\Z", "", key)
            new = key if key not in used else next(k for k in (f"{family}{n}" for n in range(256)) if k not in used)
            used.add(new)
            params = {"volume": key, "target-vmid": target, "target-volume": new}
            step = Step("moved", "POST", f"{source}/move_volume", params)
            storage = properties.volume_of(str(properties.read(key, text)["volume"])).storage
            step.needs = [Need(self.all_paths, ("VM.Config.Disk",), f"move {key}"), space_need(storage or "")]
            self.add(step)

    def protect(self, wanted: bool) -> None:
        """Protect the holder from removal, or let volumes into it and have it removed."""
        params = {"protection": True} if wanted else {"delete": "protection"}
        step = Step("protected" if wanted else "unprotected", "PUT", f"{self.holder_base}/config", params)
        step.needs = [Need(self.all_paths, ("VM.Config.Options",), "change protection")]
        self.add(step)

    def remove(self, base: str, action: str, why: str) -> Step:
        """Remove a container to which nothing but its root is left."""
        self.add(Step("checked", "GET", f"{base}/config", check="only_root"))
        step = Step(action, "DELETE", base)
        step.needs = [Need(self.all_paths, ("VM.Allocate",), why)]
        self.add(step)
        return step


def plan_recreation(
    declared: Declared,
    actual: Actual | None,
    image: Artefact,
    standing: Standing,
) -> Plan:
    """What has to be done, from wherever it stands, until the container is of the image and has its volumes.

    actual: the container, the old one or the new one; None when it is removed already.

    Raises:
        Failure: what stands against it.
    """
    holder, journal = standing.holder, standing.journal
    if actual is None and journal is None:
        raise Failure("not_found", f"{declared.label} does not exist.", "Give image.")
    mark = mark_of(actual.config.get("description")) if actual else None
    is_new = bool(actual and mark and mark.holder and mark.digest == image.found.digest)
    vmid = actual.vmid if actual else t.cast("Journal", journal).vmid
    node = actual.node if actual else t.cast("Actual", holder).node
    pool = declared.pool or (journal.pool if journal else standing.pool)
    work = _Work(node, vmid, holder.vmid if holder else HOLDER, pool)
    held = volumes_of(holder.config) if holder else {}
    volumes = volumes_of(actual.config) if actual else {}
    if holder and journal:
        refuse_missing_volumes(declared, journal, [*held.values(), *volumes.values()], holder)
    root: Actual
    if is_new:
        root = t.cast("Actual", actual)
        if held:
            refuse_protected(root, "given its volumes back")
    else:
        if journal is None:
            journal = kept_config(t.cast("Actual", actual), standing.pool)
        declared = replace(declared, vmid=vmid, node=node, pool=pool)
        work.plan.steps += fetch_steps(image)
        goal = settle(declared, None, image)
        config = new_config(_described(goal, declared, journal, work.holder), journal)
        if actual:
            refuse_losses(declared, actual, standing, mark is not None)
            _clear(work, declared, actual, image, journal, holder, config["rootfs"])
            held, volumes = {**held, **volumes}, {}
        root = _create(work, declared, image, config, mark)
    if holder or not is_new:
        work.move(work.holder_base, vmid, held, volumes)
        work.protect(False)
        work.remove(work.holder_base, "released", "remove the container that held the volumes")
    predicted = Actual(vmid, node, root.status, {**root.current, **held, **volumes}, pool=declared.pool)
    target = settle(declared, predicted, image)
    if journal and journal.running and target.running is None:
        target = replace(target, state="started")
    work.plan.extend(_finish(target, predicted))
    return work.plan


def _finish(declared: Declared, made: Actual) -> Plan:
    rest = converge_plan(declared, made)
    rest.notes = []
    hide_holder(rest)
    return rest


def _described(goal: Declared, declared: Declared, journal: Journal, holder: int | str) -> Declared:
    """With the note that its volumes are not there yet, and the other notes that it had."""
    text = journal.config.get("description")
    if "description" in (*declared.config, *declared.unset):
        text = with_text(text, declared.config.get("description"))
    mark = t.cast("Mark", mark_of(goal.config["description"]))
    described = with_mark(str(text or ""), replace(mark, holder=holder))
    return replace(goal, config={**goal.config, "description": described})


def _clear(
    work: _Work,
    declared: Declared,
    actual: Actual,
    image: Artefact,
    journal: Journal,
    holder: Actual | None,
    root: dict[str, t.Any],
) -> None:
    """Empty the old container, and remove it."""
    mark = mark_of(actual.config.get("description")) or _UNKNOWN
    text = (
        f"Holds the volumes of container {work.vmid} ({actual.hostname}) while that is made anew. "
        f"Do not remove it: run the task again, which goes on.\n\n{journal}"
    )
    config = {
        "hostname": holder_name(work.vmid, actual.hostname),
        "rootfs": root,
        "unprivileged": properties.read("unprivileged", actual.config.get("unprivileged")) is True,
        "description": _fitting(text),
    }
    params = {key: properties.encode(key, normal) for key, normal in config.items()}
    if holder is None:
        made = Declared(template=image.volume, pool=work.pool, node=work.node)
        request = {**params, "ostemplate": image.volume, **({"pool": work.pool} if work.pool else {})}
        step = Step("reserved", "POST", f"nodes/{work.node}/lxc", request)
        step.needs = creation_needs(made, config)
        work.add(step)
    if holder is None or not volumes_of(holder.config):
        # It shows what Proxmox makes of the image while the old container still runs. It may be protected already.
        for check in check_steps(image, work.holder_base, {**params, "protection": 1}):
            work.add(check)
    if mark.holder != work.holder:
        text = with_mark(str(actual.config.get("description") or ""), replace(mark, holder=work.holder))
        step = Step("marked", "PUT", f"{work.base}/config", {"description": text}, digest=True)
        step.needs = key_needs("description", None, text, work.paths, False)
        work.add(step)
    if actual.running:
        timeout = declared.shutdown_timeout
        step = power_step(work.base, "stopped", "shutdown", work.paths, "running", "stopped", timeout)
        step.params["forceStop"] = True
        work.add(step)
    volumes = volumes_of(actual.config)
    is_protected = bool(holder and holder.is_protected)
    if volumes and is_protected:
        work.protect(False)
        is_protected = False
    work.move(work.base, work.holder, volumes, volumes_of(holder.config) if holder else ())
    if not is_protected:
        work.protect(True)
    work.remove(work.base, "destroyed", "remove the old container")


def _fitting(text: str) -> str:
    try:
        return str(properties.normalise("description", text))
    except properties.InvalidValue as error:
        raise Failure(
            "invalid_option",
            f"description: the container's configuration does not fit into a description: {error}.",
            "Shorten its description.",
            option="description",
        ) from None


def _create(work: _Work, declared: Declared, image: Artefact, config: dict[str, t.Any], mark: Mark | None) -> Actual:
    """Make the container anew; what it then is."""
    # It is protected when it has its volumes.
    late = ("protection", *(IMPORTED_KEYS if image.method in IMPORTED else ()))
    sent = {key: normal for key, normal in config.items() if key not in late}
    params = {key: properties.encode(key, normal) for key, normal in sent.items()}
    params = {key: text for key, text in params.items() if text is not None}
    request = {"ostemplate": image.volume, **params}
    for name, option in (
        ("pool", work.pool),
        ("password", declared.password),
        ("ssh-public-keys", declared.pubkey),
    ):
        if option is not None:
            request[name] = option
    step = Step("created", "POST", f"nodes/{work.node}/lxc", request)
    before = mark.shown if mark else None
    step.add("image", before, image.mark.shown, RECREATE)
    # Also what was granted on the id is gone with the old container.
    step.needs = creation_needs(replace(declared, vmid=None, template=image.volume, pool=work.pool), sent)
    work.add(step)
    for check in check_steps(image, work.base, step.params):
        work.add(check)
    made = imported(params, image.found) if image.method in IMPORTED else params
    return Actual(work.vmid, work.node, "stopped", made, pool=declared.pool)
