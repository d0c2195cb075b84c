# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts an image of the store into a registry."""

from __future__ import annotations

import os
import platform as machine
import tempfile
from dataclasses import dataclass

from ..api.errors import Failure
from .image import PullOptions
from .layout import Image
from .reference import Platform, Reference, parse_reference, platform_of
from .remote import sha256
from .skopeo import NAME, Skopeo
from .store import Entry, Store, remove_stage
from .unpack import descriptor_of, write_layout_files, writing


@dataclass(frozen=True)
class Pushed:
    """An image that is in a registry, or would be. before: what was there under that name."""

    entry: Entry
    image: Image
    platform: Platform
    target: Reference
    changed: bool
    before: str | None


def push_image(store: Store, reference: str, to: str, options: PullOptions, check_mode: bool) -> Pushed:
    """Have an image of the store in a registry, with its digest. The options are about that registry.

    Raises:
        Failure: ``invalid_reference``, ``invalid_option``, ``image_missing``, and those of :class:`Skopeo`.
    """
    target = parse_reference(to)
    if target.digest:
        raise Failure("invalid_option", f"to: {to} has a digest.", "Give a tag; the digest is that of the image.")
    wanted = parse_reference(reference)
    platform = options.platform or platform_of(machine.machine())
    skopeo = Skopeo(options.access, options.timeout)
    entry = store.find(str(wanted), platform)
    image = store.intact(entry.digest, options.verify) if entry else None
    if not entry or not image:
        raise Failure(
            "image_missing",
            f"{wanted} for {platform} is not in {store.path}, or damaged.",
            "Have it there with state: present first.",
            reference=str(wanted),
            platform=str(platform),
        )
    before = _there(skopeo, target)
    changed = before != image.digest
    if changed and not check_mode:
        with store.shared() as lock:
            with writing(store.stages):
                os.makedirs(store.stages, mode=0o700, exist_ok=True)
                stage = tempfile.mkdtemp(prefix="push-", dir=store.stages)
            try:
                with writing(stage):
                    os.symlink(store.layout.blobs, os.path.join(stage, "blobs"))
                    write_layout_files(stage, descriptor_of(store.layout, image), NAME)
                skopeo.push(stage, target, [lock])
            finally:
                remove_stage(stage)
    if not check_mode:
        store.note_use(entry)
    return Pushed(entry, image, platform, target, changed, before)


def _there(skopeo: Skopeo, target: Reference) -> str | None:
    try:
        return sha256(skopeo.manifest(target))
    except Failure as failure:
        # Docker Hub says the second of a repository that the first push makes.
        if failure.code != "image_missing" and "access to the resource is denied" not in failure.message:
            raise
        return None
