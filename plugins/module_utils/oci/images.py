# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the module ``oci_image`` does with its options."""

from __future__ import annotations

import time
import typing as t
from dataclasses import dataclass, field

from ..api.errors import Failure
from ..retention import parse_duration
from .image import PULL_OPTIONS, Ensured, PullOptions, ensure_image, pull_options
from .layout import Image, Json
from .prune import Coming, apply_removal, plan_removal, unused
from .push import push_image
from .reference import parse_platform, parse_reference
from .store import Entry, Store, platform_of_config, size_of

STATES = ("present", "absent", "pushed")

OPTIONS: dict[str, t.Any] = {
    **PULL_OPTIONS,
    "images": {"type": "list", "elements": "str", "aliases": ["image", "name"], "default": []},
    "state": {"type": "str", "choices": list(STATES), "default": "present"},
    "to": {"type": "str"},
    "verify": {"type": "bool", "default": False},
    "prune": {"type": "dict", "options": {"unused_for": {"type": "str"}, "keep": {"type": "list", "elements": "str"}}},
}


@dataclass
class _Results:
    images: list[Json] = field(default_factory=list)
    plan: list[Json] = field(default_factory=list)
    pruned: list[Json] = field(default_factory=list)
    failures: list[tuple[str, Failure]] = field(default_factory=list)
    replaced: set[tuple[str, str]] = field(default_factory=set)
    coming: set[str] = field(default_factory=set)

    def add(self, key: str, before: t.Any, after: t.Any, effect: str) -> None:
        self.plan.append({"key": key, "before": before, "after": after, "effect": effect})

    def as_dict(self) -> dict[str, t.Any]:
        result: dict[str, t.Any] = {
            "changed": bool(self.plan),
            "images": self.images,
            "plan": self.plan,
            "pruned": self.pruned,
            "freed": sum(removal["size"] for removal in self.pruned),
            "diff": [],
        }
        if self.plan:
            sides = {side: {change["key"]: change[side] for change in self.plan} for side in ("before", "after")}
            result["diff"] = [{"before_header": "images", "after_header": "images", **sides}]
        if self.failures:
            failure = _combined(self.failures, len(self.failures) + len(self.images))
            result.update(msg=failure.sentence, failure=failure.as_dict())
        return result


def run_declared(params: t.Mapping[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """The result of ``oci_image``. Images that failed are told at the end; the others are done, and nothing is pruned.

    Raises:
        Failure: what stands against all of it.
    """
    references = list(dict.fromkeys(str(parse_reference(image)) for image in params["images"]))
    _check(params, references)
    options = pull_options(params)
    # It raises for a wrong path or a wrong span of time before anything is done.
    store = Store(options.store, options.timeout)
    seconds = _unused_for(params["prune"])
    keep = {*references, *(str(parse_reference(image)) for image in (params["prune"] or {}).get("keep") or [])}
    results = _Results()
    gone: set[tuple[str, str]] = set()
    if params["state"] == "present":
        _have(store, references, options, check_mode, results)
    elif params["state"] == "pushed":
        _push(store, references[0], params["to"], options, check_mode, results)
    else:
        gone = _gone(store, references, params["platform"], results)
    if not results.failures and (gone or params["prune"] is not None):
        _remove(store, gone, keep, seconds, params["prune"] is not None, check_mode, results)
    return results.as_dict()


def _check(params: t.Mapping[str, t.Any], references: t.Sequence[str]) -> None:
    state = params["state"]
    if not references and (params["prune"] is None or state != "present"):
        raise Failure("invalid_option", "images: give at least one image.", "Only prune can do without.")
    if (state == "pushed") != bool(params["to"]):
        raise Failure("invalid_option", "state: pushed and to need each other.", "Give both, or neither.")
    if state == "pushed" and len(references) != 1:
        raise Failure("invalid_option", "state: pushed takes exactly one image.", "Push several in a loop.")


def _unused_for(prune: t.Mapping[str, t.Any] | None) -> int | None:
    return parse_duration(prune["unused_for"]) if prune and prune["unused_for"] else None


def _have(store: Store, references: t.Sequence[str], options: PullOptions, check_mode: bool, results: _Results) -> None:
    for reference in references:
        try:
            ensured = ensure_image(reference, options, check_mode)
        except Failure as failure:
            results.failures.append((reference, failure))
            continue
        results.images.append(_described(store, ensured))
        if ensured.changed:
            results.add(reference, ensured.before, ensured.source_digest, "pull")
            results.replaced.add((reference, str(ensured.platform)))
        if ensured.remote and not ensured.image:
            blobs = [ensured.remote.manifest["config"], *ensured.remote.layers]
            results.coming.update([ensured.remote.digest, *(str(blob.get("digest")) for blob in blobs)])


def _described(store: Store, ensured: Ensured) -> Json:
    about: Json = {
        "reference": str(ensured.reference),
        "platform": str(ensured.platform),
        "changed": ensured.changed,
        "before": ensured.before,
        "source_digest": ensured.source_digest,
        "identity": ensured.identity,
        "digest": ensured.digest,
    }
    if ensured.image:
        return {**about, **_content(store, ensured.image)}
    remote = ensured.remote
    if remote is None or remote.converted:
        # Only the conversion shows them.
        return {**about, "digest": None, "size": None}
    return {**about, "size": remote.size}


def _content(store: Store, image: Image) -> Json:
    labels = image.process.get("Labels")
    return {
        "digest": image.digest,
        "size": size_of(store.layout, image),
        "layers": [layer["digest"] for layer in image.layers],
        "created": image.config.get("created"),
        "labels": labels if isinstance(labels, dict) else {},
        "architecture": platform_of_config(image.config).get("architecture"),
    }


def _push(store: Store, reference: str, to: str, options: PullOptions, check_mode: bool, results: _Results) -> None:
    pushed = push_image(store, reference, to, options, check_mode)
    target = str(pushed.target)
    results.images.append(
        {
            "reference": reference,
            "platform": str(pushed.platform),
            "to": target,
            "changed": pushed.changed,
            "before": pushed.before,
            "source_digest": pushed.entry.source_digest,
            "identity": pushed.entry.identity,
            **_content(store, pushed.image),
        }
    )
    if pushed.changed:
        results.add(target, pushed.before, pushed.image.digest, "push")


def _gone(store: Store, references: t.Sequence[str], platform: str | None, results: _Results) -> set[tuple[str, str]]:
    wanted = str(parse_platform(platform)) if platform else None
    entries = [
        entry
        for entry in store.entries()
        if entry.reference in references and (wanted is None or entry.platform == wanted)
    ]
    there = {entry.reference for entry in entries}
    results.images += [_removed(entry) for entry in entries]
    results.images += [
        {"reference": reference, "platform": wanted, "changed": False, "before": None, "digest": None}
        for reference in references
        if reference not in there
    ]
    return {entry.key for entry in entries}


def _removed(entry: Entry) -> Json:
    return {
        "reference": entry.reference,
        "platform": entry.platform,
        "changed": True,
        "before": entry.source_digest,
        "source_digest": None,
        "identity": None,
        "digest": None,
    }


def _remove(
    store: Store,
    gone: set[tuple[str, str]],
    keep: t.Collection[str],
    seconds: int | None,
    everything: bool,
    check_mode: bool,
    results: _Results,
) -> None:
    coming = Coming(frozenset(results.replaced), frozenset(results.coming)) if check_mode else None

    def keys() -> dict[tuple[str, str], Entry]:
        entries = store.entries()
        old = unused(entries, keep, seconds, time.time()) if seconds is not None else []
        return {entry.key: entry for entry in [*(entry for entry in entries if entry.key in gone), *old]}

    going = keys()
    plan = plan_removal(store, going, everything, coming)
    if plan and not check_mode:
        with store.alone():
            # What other runs have done meanwhile counts.
            going = keys()
            plan = plan_removal(store, going, everything)
            apply_removal(store, plan)
    for removal in plan:
        results.pruned.append(removal.as_dict())
        if removal.kind == "image":
            before = going[removal.name, removal.platform or ""].source_digest
            results.add(f"{removal.name} {removal.platform}", before, None, "remove")
        else:
            results.add(f"{removal.kind} {removal.name}", removal.size, None, "remove")


def _combined(failures: t.Sequence[tuple[str, Failure]], total: int) -> Failure:
    if total == 1:
        return failures[0][1]
    named = " ".join(failure.sentence for _reference, failure in failures)
    return Failure(
        "images_failed",
        f"{len(failures)} of {total} images failed. {named}",
        "The others are there; run again when the cause is removed.",
        images=[
            {"reference": reference, "code": failure.code, "message": failure.message}
            for reference, failure in failures
        ],
    )
