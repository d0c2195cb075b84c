# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Has an image of a registry in the store of the node."""

from __future__ import annotations

import contextlib
import os
import platform as machine
import time
import typing as t
from dataclasses import dataclass, replace

from ..api.errors import Failure
from .layout import Image, Layout
from .reference import Platform, Reference, parse_platform, parse_reference, platform_of
from .remote import GZIP, Remote, check_conversion, platform_missing, resolve, sha256
from .skopeo import UNFINISHED, Access, Skopeo
from .store import Entry, Store, platform_of_config, remove_stage
from .unpack import writing
from .verify import Measuring, verify_image

STORE = "/var/lib/lxcri/oci"

PULL_OPTIONS: dict[str, t.Any] = {
    "store": {"type": "path", "default": STORE},
    "pull": {"type": "str", "choices": ["missing", "newer", "never"], "default": "missing"},
    "platform": {"type": "str"},
    "username": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "token": {"type": "str", "no_log": True},
    "auth_file": {"type": "path"},
    "ca_path": {"type": "path"},
    "validate_certs": {"type": "bool", "default": True},
    "timeout": {"type": "int", "default": 3600},
}

# Of these it is kept what was downloaded, for the next run.
_INTERRUPTED = ("registry_unreachable", "registry_timeout", "rate_limited", "unauthorized", "untrusted_certificate")


@dataclass(frozen=True)
class PullOptions:
    """Where images are kept, and how they are pulled (the doc fragment ``oci``).

    platform: None for that of the node. verify: read the layers of an image that is there.
    """

    store: str = STORE
    pull: str = "missing"
    platform: Platform | None = None
    username: str | None = None
    password: str | None = None
    token: str | None = None
    auth_file: str | None = None
    ca_path: str | None = None
    validate_certs: bool = True
    timeout: float = 3600
    verify: bool = False

    @property
    def access(self) -> Access:
        """How the registry is reached."""
        return Access(self.username, self.password, self.token, self.auth_file, self.ca_path, self.validate_certs)


@dataclass(frozen=True)
class Ensured:
    """An image that is in the store, or would be.

    image: None in check mode, when it is not there yet. digest: of the manifest in the store; in check mode that of the
    registry, which becomes another one when the image has to be converted. identity: the digest of the manifest for
    the platform at the registry, the same in check mode. source_digest: what the reference means at the registry, that
    of an index when there is one. before: what it meant, when there was an image. remote: what the registry says, when
    it is or would be pulled.
    """

    reference: Reference
    platform: Platform
    digest: str
    identity: str
    source_digest: str
    image: Image | None
    changed: bool
    before: str | None = None
    remote: Remote | None = None


def pull_options(params: t.Mapping[str, t.Any]) -> PullOptions:
    """The options of a module with :data:`PULL_OPTIONS`.

    Raises:
        Failure: ``invalid_option``.
    """
    given = {name: params[name] for name in PULL_OPTIONS}
    given["platform"] = parse_platform(params["platform"]) if params["platform"] else None
    if params["timeout"] <= 0:
        raise Failure("invalid_option", "timeout has to be positive.")
    return PullOptions(**given, verify=bool(params.get("verify")))


def ensure_image(reference: str, options: PullOptions, check_mode: bool) -> Ensured:
    """Have an image in the store: pull it when ``options.pull`` says so.

    Raises:
        Failure: ``invalid_reference``, ``invalid_option``, ``image_missing``, ``platform_missing``; from the registry
            those of :class:`Skopeo`; from the image those of :func:`resolve`, :func:`check_conversion` and
            :func:`verify_image`; from the store those of :class:`Store`.
    """
    wanted = parse_reference(reference)
    platform = options.platform or platform_of(machine.machine())
    store = Store(options.store, options.timeout)
    skopeo = Skopeo(options.access, options.timeout)
    entry = store.find(str(wanted), platform)
    image = store.intact(entry.digest, options.verify) if entry else None
    if entry and image and (options.pull != "newer" or wanted.digest):
        return _there(store, entry, image, wanted, platform, check_mode)
    if options.pull == "never":
        raise _missing(wanted, platform, options.store)
    data = skopeo.manifest(wanted)
    if entry and image and sha256(data) == entry.source_digest:
        return _there(store, entry, image, wanted, platform, check_mode)
    remote = resolve(wanted, data, platform, skopeo.manifest)
    if entry and image and remote.digest == entry.identity:
        # The index is another one, by what it says of other platforms.
        entry = replace(entry, source_digest=remote.source_digest)
        if not check_mode:
            store.amend(entry)
        return _there(store, entry, image, wanted, platform, check_mode)
    before = entry.source_digest if entry and image else None
    ensured = Ensured(wanted, platform, remote.digest, remote.digest, remote.source_digest, None, True, before, remote)
    if check_mode:
        return ensured
    image, changed = _pulled(store, skopeo, ensured, remote, options.verify)
    return replace(ensured, digest=image.digest, image=image, changed=changed)


def _there(
    store: Store, entry: Entry, image: Image, wanted: Reference, platform: Platform, check_mode: bool
) -> Ensured:
    if not check_mode:
        store.note_use(entry)
    return Ensured(wanted, platform, entry.digest, entry.identity, entry.source_digest, image, False)


def _missing(wanted: Reference, platform: Platform, store: str) -> Failure:
    return Failure(
        "image_missing",
        f"{wanted} for {platform} is not in {store}.",
        "Pull it with lxcri.proxmox.oci_image, or with pull: missing.",
        reference=str(wanted),
        platform=str(platform),
    )


def _pulled(store: Store, skopeo: Skopeo, ensured: Ensured, remote: Remote, deep: bool) -> tuple[Image, bool]:
    """The image, and whether it was this run that has put it into the store. deep: see :meth:`Store.intact`."""
    wanted, platform = ensured.reference, ensured.platform
    with store.shared() as lock, store.staging(remote.digest) as (stage, stage_lock):
        image, done = None, False
        for entry in store.entries():
            # Another run may have pulled it while this one waited, or under another tag.
            if entry.identity == remote.digest and entry.reference.startswith((f"{wanted.name}:", f"{wanted.name}@")):
                image = image or store.intact(entry.digest, deep)
                done = done or (image is not None and entry.key == (str(wanted), str(platform)))
        if image is None:
            image = _copied(store, skopeo, ensured, remote, stage, (lock, stage_lock))
        remove_stage(stage)
        _check_platform(wanted, platform, image)
        now = int(time.time())
        store.record(
            Entry(str(wanted), str(platform), image.digest, remote.digest, remote.source_digest, now, now), image
        )
        return image, not done


def _check_platform(wanted: Reference, platform: Platform, image: Image) -> None:
    """An image that is not in an index has its platform in its configuration; variants count in indexes only."""
    about = platform_of_config(image.config)
    if "architecture" in about and (about.get("os", "linux"), about["architecture"]) != platform[:2]:
        raise platform_missing(str(wanted), platform, ["/".join(about.values())])


def _copied(
    store: Store, skopeo: Skopeo, ensured: Ensured, remote: Remote, stage: str, locks: t.Sequence[int]
) -> Image:
    staged = Layout(stage)
    try:
        with Measuring(staged) as measuring:
            _prepare(store, staged, remote, measuring)

            def tick() -> None:
                # It is verified while it is on its way.
                measuring.follow(UNFINISHED)

            skopeo.pull(ensured.reference.at(remote.digest), stage, locks, tick)
            image = verify_image(staged, staged.entries()[0]["digest"], measuring)
        check_conversion(remote, image)
        _check_platform(ensured.reference, ensured.platform, image)
    except Failure as failure:
        if failure.code not in _INTERRUPTED:
            remove_stage(stage)
        raise
    layers = list(dict.fromkeys(layer["digest"] for layer in image.layers))
    store.add_blobs(staged, [*layers, image.manifest["config"]["digest"], image.digest])
    return image


def _prepare(store: Store, staged: Layout, remote: Remote, measuring: Measuring) -> None:
    """Leave nothing in a staging directory but blobs that serve, and add those that the store has.

    skopeo trusts a blob that is there by its name.
    """
    blobs = [remote.manifest["config"], *(layer for layer in remote.layers if layer.get("mediaType") in GZIP)]
    wanted = {staged.blob(descriptor["digest"]): descriptor for descriptor in blobs}
    with writing(staged.root):
        for name in os.listdir(staged.root):
            # Its index, and the blobs that skopeo had not finished.
            if name != "blobs":
                remove_stage(os.path.join(staged.root, name))
        for name in os.listdir(os.path.join(staged.blobs, "sha256")):
            path = os.path.join(staged.blobs, "sha256", name)
            if path not in wanted:
                os.unlink(path)
        for path, descriptor in wanted.items():
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                os.link(store.layout.blob(descriptor["digest"]), path)
            measuring.begin(descriptor["digest"])
        for path, descriptor in wanted.items():
            if os.path.exists(path) and measuring.result(descriptor["digest"]).digest != descriptor["digest"]:
                measuring.forget(descriptor["digest"])
                damaged = store.layout.blob(descriptor["digest"])
                if os.path.exists(damaged) and os.path.samefile(damaged, path):
                    # Who reads it next shall see that it is missing, rather than what it has become.
                    os.unlink(damaged)
                os.unlink(path)
