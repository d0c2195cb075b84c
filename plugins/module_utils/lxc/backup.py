# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups: what a task wants of them, and what has to be done for one container. Pure, no I/O.

A backup has no name of one's own. Whose it is, is at the beginning of its notes, of which a storage's list shows the
first line.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass
from datetime import datetime, timezone

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.access import Need
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.plan import LIVE, RESTART, Step
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import Actual, Plan, mounts_of
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.privileges import vm_paths
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import invalid
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.targets import (
    called,
    check_targets,
    checked_keep,
    checked_zone,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.retention import (
    Entry,
    future_dated,
    parse_duration,
    retain,
)

STATES = ("present", "absent", "restored", "verified", "downloaded")
MODES = ("snapshot", "suspend", "stop")
# What the option is called, and what Proxmox calls it.
COMPRESSIONS = {"zstd": "zstd", "gzip": "gzip", "lzo": "lzo", "none": "0"}
PREFIX = "lxcri"
NOTES = "{{guestname}}"
# What Proxmox replaces in notes (generate_notes of PVE/VZDump.pm).
VARIABLES = ("cluster", "guestname", "node", "vmid")
LONGEST_NOTES = 1024
LONGEST_PREFIX = 40

TAKE = "backed up"
# Archives of vzdump, and snapshots on a Proxmox Backup Server.
_VOLUME = re.compile(
    r"(?P<storage>[^:\s/]+):backup/(?:vzdump-lxc-(?P<vmid>[1-9]\d+)-[^/\s]+|ct/(?P<group>[1-9]\d+)/[^/\s]+)\Z"
)
# What vzdump itself calls an archive (archive_info of PVE/Storage.pm), and a Proxmox Backup Server a snapshot.
_OWN_NAME = re.compile(r".*/(?:vzdump-lxc-\d+-\d{4}(?:_\d\d){2}-\d\d(?:_\d\d){2}\.|ct/)")


@dataclass(frozen=True)
class Backup:
    """A backup of a container, as a storage lists it.

    node: on which it was listed. time: in seconds since 1970-01-01 UTC. size: in bytes.
    notes: their first line. verification: what a Proxmox Backup Server found (``ok`` or ``failed``); None elsewhere.
    """

    volume: str
    vmid: int
    node: str
    time: int = 0
    size: int = 0
    notes: str = ""
    protected: bool = False
    format: str = ""
    verification: str | None = None
    encrypted: bool = False

    def is_of(self, prefix: str) -> bool:
        """True when its notes say that it belongs to these, and it has the name that it was given.

        One that somebody has renamed was set aside: Proxmox does not prune it (``prune_backups`` of
        PVE/Storage/Plugin.pm), and lists the moment of the renaming as that of the backup.
        """
        named = self.notes == prefix or self.notes.startswith(f"{prefix}: ")
        return named and _OWN_NAME.match(self.volume) is not None

    @property
    def path(self) -> str:
        """Its path in the API."""
        return f"nodes/{self.node}/storage/{self.volume.partition(':')[0]}/content/{self.volume}"

    @property
    def shown(self) -> str:
        """As plans show it."""
        made = datetime.fromtimestamp(self.time, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        return f"{self.notes} ({made})" if self.notes else made

    def as_dict(self) -> dict[str, t.Any]:
        """One entry of a result's ``backups``."""
        return {
            "volume": self.volume,
            "vmid": self.vmid,
            "node": self.node,
            "time": self.time,
            "size": self.size,
            "notes": self.notes,
            "protected": self.protected,
            "format": self.format,
            "verification": self.verification,
            "encrypted": self.encrypted,
        }


@dataclass(frozen=True)
class RestoreWish:
    """What becomes of a backup that is restored.

    vmid, hostname: the container that it becomes; None for that of the backup.
    storage: for the volumes; None for that of the root volume. start: None for "as it was".
    discard: keys of volumes that may be destroyed though nothing of them is in the backup.
    """

    vmid: int | None = None
    hostname: str | None = None
    storage: str | None = None
    pool: str | None = None
    unique: bool | None = None
    start: bool | None = None
    force: bool = False
    discard: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wish:
    """What a task wants.

    volumes: the backups that are named; empty for what the other options choose.
    prefix: what the notes begin with; None for any backup.
    protected: None for what it is. max_age: in seconds.
    keep: how many periods each rule of retention fills; None to leave the backups alone.
    zone: the time zone of the retention; None for that of the machine.
    notify: whether Proxmox tells of the backup as its notifications are set up.
    """

    state: str
    storage: str
    volumes: tuple[str, ...] = ()
    node: str | None = None
    mode: str = "snapshot"
    compress: str = "zstd"
    notes: str = NOTES
    prefix: str | None = PREFIX
    protected: bool | None = None
    bwlimit: int | None = None
    max_age: int | None = None
    keep: t.Mapping[str, int] | None = None
    zone: str | None = None
    notify: bool = True
    restore: RestoreWish = RestoreWish()
    dest: str | None = None
    timeout: int = 3600

    @property
    def template(self) -> str:
        """The notes in the form of Proxmox (``notes-template``), with the prefix."""
        text = self.notes.replace("\\", "\\\\").replace("\n", "\\n")
        return f"{self.prefix}: {text}" if text else str(self.prefix)


# ------------------------------------------------------------------------------------------------------ the wish


def make_wish(params: t.Mapping[str, t.Any]) -> Wish:
    """The wish that a module's options express.

    Raises:
        Failure: ``invalid_option``, naming the option and what would be right.
    """
    state, volumes = params["state"], tuple(dict.fromkeys(params["volume"]))
    if volumes:
        if params["vmid"] or params["hostname"]:
            raise invalid("volume", "it names the backups; leave vmid and hostname out")
        if params["concurrency"] < 1:
            raise invalid("concurrency", "at least one container has to be worked on at a time")
    else:
        check_targets(params)
    _refuse_stray_options(params, state, volumes)
    making = state in ("present", "absent")
    prefix = params["prefix"] if params["prefix"] is not None or not making else PREFIX
    if prefix is not None and not re.fullmatch(rf"[A-Za-z0-9][\w.-]{{0,{LONGEST_PREFIX - 1}}}", prefix, re.ASCII):
        raise invalid("prefix", f"{prefix!r} is not up to {LONGEST_PREFIX} letters, digits, -, _ and .")
    wish = Wish(
        state=state,
        storage=_storage(params["storage"], volumes),
        volumes=volumes,
        node=params["node"],
        mode=params["mode"],
        compress=params["compress"],
        notes=NOTES if params["notes"] is None else params["notes"].strip("\n"),
        prefix=prefix,
        protected=params["protected"],
        bwlimit=params["bwlimit"],
        max_age=_max_age(params["max_age"]),
        keep=checked_keep(params["keep"]),
        zone=checked_zone(params["keep_timezone"]),
        notify=params["notify"],
        restore=_restore(params["restore"]),
        dest=params["dest"],
        timeout=params["timeout"],
    )
    _check_notes(wish.template)
    return wish


def _refuse_stray_options(params: t.Mapping[str, t.Any], state: str, volumes: t.Sequence[str]) -> None:
    """Refuse what would have no effect, and what lacks something."""
    new = state == "present" and not volumes
    allowed = {
        "notes": new,
        "protected": state == "present",
        "bwlimit": new or state == "restored",
        "max_age": not volumes and state in ("present", "absent", "verified"),
        "keep": not volumes and state in ("present", "absent"),
        "prefix": not volumes,
        "restore": state == "restored",
        "dest": state == "downloaded",
    }
    for name, right in allowed.items():
        if params[name] is not None and not right:
            raise invalid(name, f"it has no meaning with state={state}" + (" and volume" if volumes else ""))
    if params["bwlimit"] is not None and params["bwlimit"] < 0:
        raise invalid("bwlimit", f"{params['bwlimit']} is less than nothing")
    if state == "present" and volumes and params["protected"] is None:
        raise invalid("protected", "give what is to be made so of the volumes that are named")
    if state == "absent" and not volumes and params["keep"] is None and params["max_age"] is None:
        raise invalid("volume", "give the backups to remove, or keep or max_age, which choose them")
    if state == "downloaded" and not params["dest"]:
        raise invalid("dest", "give the file or directory to which the backup goes")
    restore = params["restore"] or {}
    many = len(volumes) > 1 or len(params["vmid"]) + len(params["hostname"]) > 1
    if many and (restore.get("vmid") or restore.get("hostname")):
        raise invalid("restore", "vmid and hostname are of use with one backup")


def _storage(given: str | None, volumes: t.Sequence[str]) -> str:
    if given == "":
        raise invalid("storage", "it is empty")
    found = {given} if given else set()
    for volume in volumes:
        match = _VOLUME.match(volume)
        if not match:
            raise invalid("volume", f"{volume!r} is no backup of a container, such as local:backup/vzdump-lxc-101-…")
        found.add(match["storage"])
    if not found:
        raise invalid("storage", "give the storage of the backups")
    if len(found) > 1:
        raise invalid("volume", f"they are on several storages: {', '.join(sorted(map(str, found)))}")
    return str(found.pop())


def vmid_of(volume: str) -> int | None:
    """The container of which a volume is a backup; None for any other volume."""
    match = _VOLUME.match(volume)
    return int(match["vmid"] or match["group"]) if match else None


def _max_age(text: str | None) -> int | None:
    try:
        return None if text is None else parse_duration(text)
    except Failure as failure:
        raise invalid("max_age", f"{text!r} is no span of time such as 12h, 30d or 4w") from failure


def _restore(given: t.Mapping[str, t.Any] | None) -> RestoreWish:
    wish = RestoreWish(**{**given, "discard": tuple(given["discard"])}) if given else RestoreWish()
    if wish.vmid is not None and wish.hostname is not None:
        raise invalid("restore.hostname", "give vmid or hostname, not both")
    return wish


def _check_notes(template: str) -> None:
    """Refuse notes that Proxmox would refuse, or not write (``verify_notes_template`` of PVE/VZDump.pm)."""
    unknown = sorted({name for name in re.findall(r"\{\{([^\s{}]+)\}\}", template) if name not in VARIABLES})
    if unknown:
        raise invalid("notes", f"{', '.join(unknown)} is not one of the variables {', '.join(VARIABLES)}")
    if len(template) > LONGEST_NOTES:
        raise invalid("notes", f"with the prefix they have more than {LONGEST_NOTES} characters")


# ------------------------------------------------------------------------------------------------------ the plan


def read_backups(listed: t.Iterable[t.Mapping[str, t.Any]], node: str) -> list[Backup]:
    """The backups of containers in a storage's content, the newest first."""
    found = []
    for entry in listed:
        volume = str(entry.get("volid"))
        vmid = vmid_of(volume)
        if vmid is None:
            continue
        found.append(
            Backup(
                volume=volume,
                vmid=vmid,
                node=node,
                time=int(entry.get("ctime") or 0),
                size=int(entry.get("size") or 0),
                notes=str(entry.get("notes") or "").partition("\n")[0],
                protected=bool(int(entry.get("protected") or 0)),
                format=str(entry.get("format") or ""),
                verification=(entry.get("verification") or {}).get("state"),
                encrypted=bool(entry.get("encrypted")),
            )
        )
    return sorted(found, key=lambda backup: (backup.time, backup.volume), reverse=True)


def chosen(wish: Wish, backups: t.Sequence[Backup], label: str) -> list[Backup]:
    """The backups that are named, or else the newest.

    Raises:
        Failure: ``backup_missing``.
    """
    if wish.volumes:
        return [backup for backup in backups if backup.volume in wish.volumes]
    for backup in backups:
        if wish.prefix is None or backup.is_of(wish.prefix):
            return [backup]
    whose = f" with notes that begin with {wish.prefix}" if wish.prefix else ""
    raise Failure(
        "backup_missing",
        f"{wish.storage} has no backup of {label}{whose}.",
        "Check the storage, and whether the user or token may see the backup (VM.Backup, Datastore.AllocateSpace).",
        storage=wish.storage,
    )


def missing(volumes: t.Sequence[str]) -> Failure:
    """The refusal of backups that are named and not there."""
    return Failure(
        "backup_missing",
        f"There is no {', '.join(volumes)}.",
        "Check the name, the node, and whether the user or token may see the backup.",
        volumes=list(volumes),
    )


def plan_present(wish: Wish, container: Actual, backups: t.Sequence[Backup], now: int) -> Plan:
    """A new backup, unless one is recent enough, and what retention removes after it.

    backups: those of the container, the newest first.
    """
    plan = Plan(running_after=container.running)
    own = [backup for backup in backups if backup.is_of(str(wish.prefix))]
    recent = recent_enough(wish, own, now)
    if recent:
        plan.steps += _protection(wish, [recent], container)
    else:
        plan.steps.append(_new(wish, container))
    if wish.keep:
        _plan_retention(plan, wish, container, own, now, coming=not recent)
    return plan


def recent_enough(wish: Wish, own: t.Sequence[Backup], now: int) -> Backup | None:
    """The newest backup, when it is whole and no older than the task wants."""
    if wish.max_age is None:
        return None
    return next((backup for backup in own if backup.size and now - backup.time <= wish.max_age), None)


def _new(wish: Wish, container: Actual) -> Step:
    params: dict[str, t.Any] = {
        "vmid": container.vmid,
        "storage": wish.storage,
        "mode": wish.mode,
        "compress": COMPRESSIONS[wish.compress],
        "notes-template": wish.template,
        # Else Proxmox applies the retention of the storage, to everybody's backups of the container.
        "remove": False,
    }
    needs = [*_backup_needs(wish.storage, container.vmid, container.pool, "back the container up")]
    if wish.protected:
        params["protected"] = True
    if wish.bwlimit is not None:
        params["bwlimit"] = wish.bwlimit
        needs.append(Need(("/",), ("Sys.Modify",), "limit the bandwidth of a backup"))
    if not wish.notify:
        # Mails to nobody, also where /etc/vzdump.conf has an address (new and send_notification of PVE/VZDump.pm).
        params.update({"notification-mode": "legacy-sendmail", "mailto": ""})
    step = Step(TAKE, "POST", f"nodes/{container.node}/vzdump", params)
    effect = RESTART if wish.mode == "stop" and container.running else LIVE
    step.add("backup", None, f"{wish.storage} ({wish.mode}, {wish.compress})", effect)
    step.needs = needs
    return step


def _backup_needs(storage: str, vmid: int, pool: str | None, why: str) -> list[Need]:
    """``vzdump`` of PVE/API2/VZDump.pm, ``delete`` of PVE/API2/Storage/Content.pm."""
    return [
        Need(vm_paths(vmid, pool), ("VM.Backup",), why),
        Need((f"/storage/{storage}",), ("Datastore.AllocateSpace",), why),
    ]


def _access_needs(storage: str, vmid: int, pool: str | None, why: str) -> list[Need]:
    """``check_volume_access`` of PVE/Storage.pm: Datastore.Allocate alone is enough."""
    store = f"/storage/{storage}"
    return [
        Need((*vm_paths(vmid, pool), store), ("VM.Backup", "Datastore.Allocate"), why),
        Need((store,), ("Datastore.AllocateSpace", "Datastore.Allocate"), why),
    ]


def _protection(wish: Wish, backups: t.Sequence[Backup], container: Actual | None) -> list[Step]:
    """The steps that protect backups, or take the protection away."""
    steps = []
    for backup in backups:
        if wish.protected is None or wish.protected == backup.protected:
            continue
        step = Step("protected" if wish.protected else "unprotected", "PUT", backup.path, {"protected": wish.protected})
        step.add(f"backup {backup.volume} protected", backup.protected, wish.protected)
        pool = container.pool if container else None
        step.needs = _access_needs(wish.storage, backup.vmid, pool, "change the protection of a backup")
        steps.append(step)
    return steps


def plan_protection(wish: Wish, container: Actual | None, backups: t.Sequence[Backup]) -> Plan:
    """What makes the named backups protected, or not."""
    return Plan(_protection(wish, backups, container))


def plan_absent(wish: Wish, container: Actual | None, backups: t.Sequence[Backup], now: int) -> Plan:
    """The removal of the named backups, or of those that age and retention choose; never of protected ones.

    backups: those of the container, the newest first.

    Raises:
        Failure: ``protected``: a backup that is named is protected.
    """
    plan = Plan()
    if wish.volumes:
        named = [backup for backup in backups if backup.volume in wish.volumes]
        held = [backup.volume for backup in named if backup.protected]
        if held:
            raise Failure(
                "protected",
                f"{', '.join(held)} is protected from being removed.",
                "Set 'protected: false' for it in a task of its own first.",
                volumes=held,
            )
        plan.steps = [_removal(backup, container) for backup in reversed(named)]
        return plan
    own = [backup for backup in backups if backup.is_of(str(wish.prefix))]
    if wish.max_age is not None:
        limit = wish.max_age
        old = [backup for backup in own if now - backup.time > limit]
        held = [backup.volume for backup in old if backup.protected]
        if held:
            plan.notes.append(f"Protected backups stay: {', '.join(held)}.")
        old = [backup for backup in old if not backup.protected]
        plan.steps += [_removal(backup, container) for backup in reversed(old)]
        own = [backup for backup in own if backup not in old]
    if wish.keep:
        _plan_retention(plan, wish, container, own, now, coming=False)
    return plan


def _removal(backup: Backup, container: Actual | None) -> Step:
    step = Step("removed a backup", "DELETE", backup.path)
    step.add(f"backup {backup.volume}", backup.shown, None)
    storage = backup.volume.partition(":")[0]
    step.needs = _backup_needs(storage, backup.vmid, container.pool if container else None, "remove a backup")
    return step


def _plan_retention(
    plan: Plan, wish: Wish, container: Actual | None, own: t.Sequence[Backup], now: int, coming: bool
) -> None:
    """Remove, oldest first, what no rule keeps; protected backups neither count nor go.

    own: the newest first. coming: whether one is about to be made, which counts.
    """
    by_volume = {backup.volume: backup for backup in own}
    entries = [Entry(backup.volume, backup.time, protected=backup.protected) for backup in own]
    future = [str(entry.identity) for entry in future_dated(entries, now)]
    if future:
        plan.notes.append(f"Backups dated in the future take the places of others: {', '.join(future)}.")
    if coming and not wish.protected:
        entries.insert(0, Entry(None, now))
    for verdict in reversed(retain(entries, wish.keep or {}, wish.zone)):
        if not verdict.keep and verdict.entry.identity is not None:
            plan.steps.append(_removal(by_volume[str(verdict.entry.identity)], container))


# ------------------------------------------------------------------------------------ what stands against the plan


def note_excluded(plan: Plan, actual: Actual) -> None:
    """Say which mount points will not be in the backup: those without ``backup: true``, and what is no volume."""
    left_out = []
    for key, text in mounts_of(actual):
        mount = properties.read(key, text)
        kind = properties.volume_of(str(mount["volume"])).kind
        if key != "rootfs" and (kind != "volume" or not mount.get("backup")):
            left_out.append(f"{key} ({mount['mp']})")
    if left_out:
        plan.notes.append(f"Not in the backup: {', '.join(sorted(left_out))}.")


def refuse_stop(container: Actual, ha: t.Mapping[str, t.Any]) -> None:
    """Refuse to stop a container for its backup that the HA manager would start (``exec_backup_task``).

    ha: what ``GET status/current`` tells of it.

    Raises:
        Failure: ``ha_managed``.
    """
    if ha.get("managed") and ha.get("state") == "started":
        raise Failure(
            "ha_managed",
            f"The HA manager keeps {called(container)} running; Proxmox does not stop it for a backup.",
            "Use mode=snapshot, or have the HA manager leave the container alone meanwhile.",
            vmid=container.vmid,
        )


def refuse_protected_limit(
    wish: Wish, container: Actual, backups: t.Sequence[Backup], store: t.Mapping[str, t.Any]
) -> None:
    """Refuse a protected backup beyond what the storage admits (``exec_backup_task`` of PVE/VZDump.pm).

    store: the configuration of the storage. Who may read it may have any number, where it sets none
    (``get_max_protected_backups`` of PVE/Storage.pm).

    Raises:
        Failure: ``backup_limit``.
    """
    limit = int(store.get("max-protected-backups", -1))
    held = [backup.volume for backup in backups if backup.protected]
    if -1 < limit <= len(held):
        raise Failure(
            "backup_limit",
            f"{wish.storage} keeps {limit} protected backups of a container, and of {called(container)} it has "
            f"{len(held)}.",
            "Take the protection of some away, or raise max-protected-backups of the storage.",
            limit=limit,
            backups=held,
            vmid=container.vmid,
        )


def refuse_limit(wish: Wish, container: Actual, backups: t.Sequence[Backup], defaults: t.Mapping[str, t.Any]) -> None:
    """Refuse a backup beyond what the storage's own retention admits, which Proxmox refuses in its task.

    defaults: as ``GET vzdump/defaults`` gives them for the storage (``exec_backup_task`` of PVE/VZDump.pm).

    Raises:
        Failure: ``backup_limit``.
    """
    rules = dict(rule.partition("=")[::2] for rule in str(defaults.get("prune-backups") or "").split(",") if rule)
    if wish.protected or int(rules.get("keep-all") or 0):
        return
    limit = sum(int(count) for name, count in rules.items() if name != "keep-all" and count.isdigit())
    there = [backup for backup in backups if not backup.protected]
    if limit and len(there) >= limit:
        raise Failure(
            "backup_limit",
            f"{wish.storage} keeps {limit} backups of a container ({defaults['prune-backups']}), and of "
            f"{called(container)} it has {len(there)}.",
            "Remove some with state=absent, raise the retention of the storage, or protect the new one.",
            limit=limit,
            backups=[backup.volume for backup in there],
            vmid=container.vmid,
        )
