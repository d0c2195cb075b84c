# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the module ``oci_bundle`` does with its options."""

from __future__ import annotations

import hashlib
import json
import os
import typing as t
from dataclasses import dataclass

from ..api.errors import Failure
from ..node.files import read_text
from .archive import build_artefact
from .bundle_options import canonical, given_options
from .layout import Json
from .lxc_config import from_runtime_spec, lines_of
from .rootfs import Rootfs, find_user
from .runtime_spec import ROOTFS, Process, ResolvedUser, about, cwd_wanted, process_of, runtime_spec, user_wanted
from .source import Source, find_source
from .unpack import Staging, refuse_mounts, unpack, write_whole, writing

FORMATS = ("bundle", "lxc_template", "oci_archive")
# Of what is made of an image. A higher one makes all artefacts anew.
CONVERTER = 2
RECORD = "lxcri.json"
CONFIG = "config.json"

Connect = t.Callable[[], t.Any]


@dataclass(frozen=True)
class Actual:
    """A bundle as it is.

    record: ``lxcri.json``; None when nothing is there. spec: ``config.json``. rootfs: its directory, when it is there.
    """

    record: Json | None = None
    spec: Json | None = None
    rootfs: str | None = None

    def user_called(self, wanted: str) -> ResolvedUser | str:
        """Who a user was when it was looked up; the name itself when that was another one."""
        found = (self.record or {}).get("looked_up")
        if not isinstance(found, dict) or self.record is None or self.record.get("user") != wanted:
            return wanted
        return ResolvedUser(found["uid"], found["gid"], tuple(found["groups"]))


@dataclass(frozen=True)
class Change:
    """One difference. effect: ``create``, ``recreate`` (the root file system is replaced) or ``rewrite``.

    applied: whether it is, or would be, done; what is not needs ``recreate: true``.
    """

    key: str
    before: t.Any
    after: t.Any
    effect: str
    applied: bool = True

    def as_dict(self) -> Json:
        return {
            "key": self.key,
            "before": self.before,
            "after": self.after,
            "effect": self.effect,
            "applied": self.applied,
        }


@dataclass(frozen=True)
class Plan:
    """What is to be done. unpack: whether the root file system is made anew. spec, record: what is to be written."""

    changes: tuple[Change, ...]
    unpack: bool
    spec: Json | None
    record: Json

    @property
    def applied(self) -> list[Change]:
        return [change for change in self.changes if change.applied]


def run_declared(params: t.Mapping[str, t.Any], check_mode: bool, connect: Connect) -> dict[str, t.Any]:
    """The result of ``oci_bundle``.

    connect: makes the client of the Proxmox API; only called when something is to be uploaded.

    Raises:
        Failure: what stands against it.
    """
    _check(params)
    options = given_options(params)
    source = find_source(params, check_mode)
    if source is None and not params["spec_only"]:
        raise Failure("invalid_option", "There is nothing to make it of.", "Give image, layout, archive or rootfs.")
    if params["format"] == "bundle":
        return run_bundle(os.path.abspath(params["path"]), source, options, params, check_mode)
    if source is None:
        raise Failure("invalid_option", "spec_only is for format: bundle.", "Leave it out.")
    return build_artefact(source, options, params, CONVERTER, check_mode, connect)


def _check(params: t.Mapping[str, t.Any]) -> None:
    bundle = params["format"] == "bundle"
    if not params.get("path") and (bundle or not params.get("upload")):
        raise Failure("invalid_option", "path is missing.", "Give the directory where it shall be.")
    if bundle and params.get("upload"):
        raise Failure("invalid_option", "A bundle cannot be uploaded.", "Set format to lxc_template or oci_archive.")
    if not bundle and (params["spec_only"] or params["recreate"]):
        raise Failure("invalid_option", "spec_only and recreate are for format: bundle.", "Leave them out.")
    unpacked = not params["spec_only"] and not params.get("rootfs")
    if unpacked and ":" in os.path.abspath(params.get("path") or "/"):
        # skopeo and umoci split at colons.
        raise Failure("invalid_option", "path has a colon.", "Choose another; no directory above may have one.")
    if bundle and params.get("name"):
        raise Failure("invalid_option", "name is for templates and archives; a bundle has its path.", "Leave it out.")


def run_bundle(
    path: str, source: Source | None, options: Json, params: t.Mapping[str, t.Any], check_mode: bool
) -> dict[str, t.Any]:
    """Make, or bring up to date, a bundle.

    Raises:
        Failure: what stands against it.
    """
    spec_only, recreate = params["spec_only"], params["recreate"]
    plan = plan_bundle(source, options, read_bundle(path, spec_only), spec_only, recreate)
    staging = Staging(path, params["timeout"])
    # A run that was killed at its very end has left nothing to do but to clear up.
    if (plan.applied or os.path.lexists(staging.path)) and not check_mode:
        with staging:
            # Again, now that nobody else is at it.
            plan = plan_bundle(source, options, read_bundle(path, spec_only), spec_only, recreate)
            if plan.applied:
                plan = _apply(path, source, options, plan, staging)
    return _result(path, source, plan)


def key_of(identity: str, options: t.Any) -> str:
    """What an artefact is made of: the image, the options and the converter."""
    shape = hashlib.sha256(canonical(options).encode("utf-8", "surrogateescape")).hexdigest()
    return hashlib.sha256(f"{identity}\n{shape}\n{CONVERTER}".encode("utf-8", "surrogateescape")).hexdigest()


def read_bundle(path: str, spec_only: bool) -> Actual:
    """The bundle at a path.

    Raises:
        Failure: ``path_taken``, when there is something else.
    """
    # A run that was killed between two renames has left it under this name.
    parent, name = os.path.split(path)
    old = os.path.join(parent, f".{name}.lxcri-old")
    place = old if not os.path.lexists(path) and os.path.lexists(old) else path
    if not os.path.lexists(place):
        return Actual()
    text = read_text(os.path.join(place, RECORD))
    try:
        record = json.loads(text) if text is not None else None
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("identity"), str):
        names = sorted(os.listdir(place)) if os.path.isdir(place) and not os.path.islink(place) else [name]
        # A specification alone may lie beside a root file system that somebody else has made.
        if names and not (spec_only and CONFIG not in names and os.path.isdir(place)):
            raise _taken(path)
        return Actual(rootfs=_directory(os.path.join(place, ROOTFS)))
    if record.get("spec_only") is not spec_only:
        raise _taken(path)
    config = read_text(os.path.join(place, CONFIG))
    try:
        spec = json.loads(config) if config is not None else None
    except ValueError:
        spec = None
    rootfs = record["rootfs"] if record.get("rootfs") else os.path.join(place, ROOTFS)
    return Actual(record, spec if isinstance(spec, dict) else None, _directory(rootfs))


def _directory(path: str) -> str | None:
    return path if os.path.isdir(path) and not os.path.islink(path) else None


def _taken(path: str) -> Failure:
    return Failure(
        "path_taken",
        f"There is something else at {path}, which was not made with these options.",
        "Choose another path, or remove it.",
        path=path,
    )


def plan_bundle(source: Source | None, options: Json, actual: Actual, spec_only: bool, recreate: bool) -> Plan:
    """What is to be done to a bundle.

    Raises:
        Failure: ``path_taken``, ``user_unknown``, and what :func:`runtime_spec` raises.
    """
    identity = source.identity if source else "none"
    rootfs = source.rootfs if source else None
    record = actual.record
    if record and bool(record.get("rootfs")) != bool(rootfs):
        raise Failure(
            "path_taken",
            "The bundle there was made of another kind of source.",
            "Choose another path, or remove it.",
            identity=record["identity"],
        )
    stays = bool(record) and (record or {}).get("identity") == identity and (spec_only or actual.rootfs is not None)
    changes = []
    process = source.process if source else None
    config = source.config if source else None
    replaced = False
    if not stays and not spec_only and not rootfs:
        before = record["identity"] if record else None
        missing = not record or actual.rootfs is None
        replaced = missing or recreate
        changes.append(Change("rootfs", before, identity, "create" if missing else "recreate", replaced))
        if not replaced and record:
            # The configuration stays that of the image that is there.
            identity, config = record["identity"], record.get("image") or {}
            process = process_of(config)
    spec, user = None, None
    if source is None or config is not None:
        wanted = user_wanted(process or Process(), options)
        known = rootfs or actual.rootfs
        # Who that is in a new root file system is seen when it is there.
        user = actual.user_called(wanted) if replaced else find_user(Rootfs(known) if known else None, wanted)
        spec = _spec(process, options, user, rootfs or ROOTFS)
    new_record = {
        "converter": CONVERTER,
        "identity": identity,
        "key": key_of(identity, options),
        **_about_user(process or Process(), options, user),
        "image": about(config or {}),
        "spec_only": spec_only,
        "rootfs": rootfs,
    }
    if spec is None or actual.spec is None or not record:
        changes.append(Change(CONFIG, actual.spec, spec, "create" if actual.spec is None else "rewrite"))
    else:
        changes += differences(actual.spec, spec)
        if record != new_record and not changes:
            changes.append(Change("key", record.get("key"), new_record["key"], "rewrite"))
    return Plan(tuple(changes), replaced, spec, new_record)


def _spec(process: Process | None, options: Json, user: ResolvedUser | str, root_path: str) -> Json:
    spec = runtime_spec(process, options, user, root_path)
    # What it is for Proxmox is in the result. What cannot be read as that is refused before anything is written.
    from_runtime_spec(spec)
    return spec


def _about_user(process: Process, options: Json, user: ResolvedUser | str | None) -> Json:
    """What is recorded of the user: as it is declared, and who that is in the root file system."""
    found = {"uid": user.uid, "gid": user.gid, "groups": list(user.groups)} if isinstance(user, ResolvedUser) else None
    return {"user": user_wanted(process, options), "looked_up": found}


def differences(before: Json, after: Json, prefix: str = "") -> list[Change]:
    """Where two specifications differ, by the path of the key."""
    found: list[Change] = []
    for key in sorted({*before, *after}):
        old, new, name = before.get(key), after.get(key), f"{prefix}{key}"
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{name}.")
        else:
            found.append(Change(name, old, new, "rewrite"))
    return found


def _apply(path: str, source: Source | None, options: Json, plan: Plan, staging: Staging) -> Plan:
    if plan.unpack and source and source.prepare:
        refuse_use(os.path.join(path, ROOTFS))
        # What is above the root file system is of no value yet, see unpack().
        new = os.path.join(staging.work, "bundle")
        with writing(new):
            os.mkdir(new, 0o700)
        layout, image = source.prepare(staging)
        rootfs = os.path.join(new, ROOTFS)
        unpack(staging, layout, image, rootfs)
        process = process_of(image.config)
        user = find_user(Rootfs(rootfs), user_wanted(process, options))
        spec = _spec(process, options, user, ROOTFS)
        with writing(rootfs):
            # As Docker does; crun refuses a directory that is not there.
            Rootfs(rootfs).make_directory(cwd_wanted(process, options))
        record = {**plan.record, **_about_user(process, options, user), "image": about(image.config)}
        _write(new, spec, record)
        staging.replace(new)
        return Plan(plan.changes, True, spec, record)
    with writing(path):
        os.makedirs(path, 0o700, exist_ok=True)
    if plan.spec is not None:
        if not plan.record["spec_only"] and not plan.record["rootfs"]:
            with writing(path):
                Rootfs(os.path.join(path, ROOTFS)).make_directory(plan.spec["process"]["cwd"])
        _write(path, plan.spec, plan.record)
    return plan


def _write(path: str, spec: Json, record: Json) -> None:
    if not record["spec_only"]:
        with writing(path):
            _restrict(path, spec)
    # Neither is for everybody: an environment may have secrets.
    write_whole(os.path.join(path, CONFIG), json.dumps(spec, indent=2) + "\n")
    write_whole(os.path.join(path, RECORD), json.dumps(record, indent=2, sort_keys=True) + "\n")


def _restrict(path: str, spec: Json) -> None:
    """Keep the users of the machine out of a bundle: an image can have setuid files, and devices for everybody.

    In a user namespace root of the container is one of them, and comes in by its group, as in containerd.
    """
    linux = spec.get("linux") or {}
    groups = [entry["hostID"] for entry in linux.get("gidMappings") or [] if entry["containerID"] == 0]
    os.chown(path, -1, groups[0] if groups else 0)
    os.chmod(path, 0o710 if groups else 0o700)


def refuse_use(rootfs: str) -> None:
    """Refuse to take a root file system away from a process that runs in it.

    Raises:
        Failure: ``bundle_in_use``.
    """
    if not os.path.isdir(rootfs):
        return
    refuse_mounts(rootfs)
    about = os.stat(rootfs)
    used = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            root = os.stat(f"/proc/{name}/root")
        except OSError:
            continue
        if (root.st_dev, root.st_ino) == (about.st_dev, about.st_ino):
            used.append(int(name))
    if used:
        raise Failure(
            "bundle_in_use",
            f"{len(used)} processes run in {rootfs}.",
            "Stop the container first.",
            path=rootfs,
            processes=sorted(used)[:20],
        )


def _result(path: str, source: Source | None, plan: Plan) -> dict[str, t.Any]:
    warnings = [
        f"The image of {path} has changed from {change.before} to {change.after}. Its root file system is kept; "
        "recreate: true replaces it, with all that was written there."
        for change in plan.changes
        if not change.applied
    ]
    applied = plan.applied
    pulled = bool(source and source.changed)
    result: dict[str, t.Any] = {
        "changed": bool(applied) or pulled,
        "plan": [change.as_dict() for change in plan.changes],
        "path": path,
        "rootfs": plan.record["rootfs"] or os.path.join(path, ROOTFS),
        "identity": plan.record["identity"],
        "key": plan.record["key"],
        "spec": plan.spec,
        "lxc": lines_of(plan.spec, os.path.join(path, "seccomp.lxc")),
        "diff": [],
    }
    if pulled and source:
        result["plan"].insert(0, Change("image", None, source.identity, "create").as_dict())
    if applied:
        result["diff"] = [
            {
                "before_header": path,
                "after_header": path,
                "before": {change.key: change.before for change in applied},
                "after": {change.key: change.after for change in applied},
            }
        ]
    if warnings:
        result["warnings"] = warnings
    return result
