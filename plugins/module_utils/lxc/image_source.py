# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks images up in their registries, and brings them to the storages of Proxmox.

skopeo runs where the module runs. Proxmox tells nothing of an image before a container is made of it.
"""

from __future__ import annotations

import json
import os
import threading
import typing as t

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.upload import Storage
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.cluster import Guest
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.image import (
    IMAGES_SINCE,
    IMPORTED,
    PLATFORM,
    Artefact,
    Found,
    ImageSpec,
    choose_method,
    file_stem,
    parse_version,
    refuse_control_characters,
    refuse_unreadable,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import Actual
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.recreate import (
    HOLDER_NAME,
    Standing,
    journal_of,
    volumes_of,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.archive import SUFFIXES, build_artefact
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.bundle import CONVERTER
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.layout import invalid
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.reference import Reference, parse_platform
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.remote import (
    Remote,
    platform_missing,
    resolve,
    sha256,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.runtime_spec import process_of
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.skopeo import Access, Skopeo
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.source import Source, find_source
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.unpack import temporary_staging

_FORMATS = {"upload": "oci_archive", "template": "lxc_template"}
Known = t.TypeVar("Known")


class Inspector(Skopeo):
    """Reads what a registry says of an image, without its layers."""

    def config(self, reference: Reference) -> bytes:
        """The image configuration, byte for byte.

        Raises:
            Failure: as :meth:`Skopeo.manifest`.
        """
        command = ["inspect", "--config", "--raw", *self._tls("")]
        return self._run(reference, command, [f"docker://{reference}"]).stdout

    def has_login(self, reference: Reference) -> bool:
        """Whether ``skopeo login`` or ``docker login`` has left credentials for it here."""
        try:
            self._run(reference, ["login", "--get-login"], [reference.name])
        except Failure:
            return False
        return True


class Images:
    """Images by their declarations. Each is looked up once. Safe to use from several threads."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._locks: dict[t.Any, threading.Lock] = {}
        self._known: dict[t.Any, t.Any] = {}

    def _once(self, key: t.Any, find: t.Callable[[], Known]) -> Known:
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._known:
                self._known[key] = find()
            return t.cast("Known", self._known[key])

    # ------------------------------------------------------------------------------------------------ registries

    def remote(self, spec: ImageSpec, timeout: float) -> Remote:
        """What a reference means now, for the platform.

        Raises:
            Failure: ``image_missing``, ``platform_missing``, ``unauthorized`` and what else skopeo cannot do.
        """
        return self._once((_access_key(spec), str(spec.reference)), lambda: _remote(spec, timeout))

    def find(self, spec: ImageSpec, timeout: float) -> Found:
        """The image with its configuration, which is verified.

        Raises:
            Failure: as :meth:`remote`; ``digest_mismatch``, ``invalid_image``, ``image_rejected``.
        """
        remote = self.remote(spec, timeout)
        key = (_access_key(spec), spec.reference.name, remote.digest, "config")
        return self._once(key, lambda: _found(spec, remote, timeout))

    # -------------------------------------------------------------------------------------------------- storages

    def artefact(self, spec: ImageSpec, found: Found, node: str, timeout: float) -> Artefact:
        """The image on the storage, where it may be already.

        Raises:
            Failure: ``storage_missing``, ``storage_unsuitable``, ``version_too_old``, ``invalid_option``.
        """
        version = self._once("version", lambda: parse_version((self._client.get("version") or {}).get("version")))
        method = choose_method(spec, version, self._has_login(spec, timeout))
        able = version >= IMAGES_SINCE
        if method in IMPORTED:
            refuse_control_characters(found.process, imported_as_it_is=True)
            refuse_unreadable(found.process)
        # What the node pulls is made by Proxmox.
        converter = "" if method == "registry" else f"-{CONVERTER}"
        suffix = SUFFIXES[_FORMATS.get(method, "oci_archive")]
        name = f"{file_stem(spec.reference, found.digest)}{converter}{suffix}"
        storage = Storage(self._client, node, spec.storage, timeout)
        volume = storage.volume_id(name)
        listed = storage.find(name) is not None
        if not listed:
            self._once(("storage", node, spec.storage), lambda: storage.refuse_unsuited("image.storage"))
            if method != "registry":
                storage.refuse_backend()
        return Artefact(spec, found, node, method, volume, listed, able)

    def _has_login(self, spec: ImageSpec, timeout: float) -> bool:
        if spec.method != "auto" or not spec.is_anonymous_tag:
            return False
        name = spec.reference.name
        return self._once(("login", name), lambda: _inspector(spec, timeout).has_login(spec.reference))

    def place(self, image: Artefact, timeout: float) -> None:
        """Pull an image, and upload it in the form that its method says.

        Raises:
            Failure: what pulling, converting and uploading raise; ``shell_missing``, where only an init can run it.
        """
        spec = image.spec
        names = ("store", "username", "password", "token", "auth_file", "ca_path", "validate_certs")
        params = {
            **{name: getattr(spec, name) for name in names},
            # What was looked up, whatever the tag means by now.
            "image": str(spec.reference.at(image.found.digest)),
            "platform": spec.platform or PLATFORM,
            "pull": "missing",
            "timeout": timeout,
        }
        with temporary_staging() as staging:
            source = find_source(params, check_mode=False)
            artefact = {"format": _FORMATS[image.method], "path": staging.work, "timeout": timeout}
            made = build_artefact(t.cast(Source, source), {}, artefact, CONVERTER, False, _never, not image.able)
            path = os.path.join(staging.work, image.file_name)
            os.rename(made["path"], path)
            Storage(self._client, image.node, spec.storage, timeout).put(path)


def _never() -> t.NoReturn:
    raise Failure("internal", "The artefact is uploaded under a name of its own.")


def _access_key(spec: ImageSpec) -> tuple[t.Any, ...]:
    return (
        *(spec.username, spec.password, spec.token, spec.auth_file),
        *(spec.ca_path, spec.validate_certs, spec.platform),
    )


def _inspector(spec: ImageSpec, timeout: float) -> Inspector:
    access = Access(
        spec.username, spec.password, spec.token, spec.auth_file, spec.ca_path, validate_certs=spec.validate_certs
    )
    return Inspector(access, timeout)


def _remote(spec: ImageSpec, timeout: float) -> Remote:
    inspector = _inspector(spec, timeout)
    platform = parse_platform(spec.platform or PLATFORM)
    return resolve(spec.reference, inspector.manifest(spec.reference), platform, inspector.manifest)


def _found(spec: ImageSpec, remote: Remote, timeout: float) -> Found:
    data = _inspector(spec, timeout).config(spec.reference.at(remote.digest))
    digest = sha256(data)
    if digest != remote.manifest["config"]["digest"]:
        raise Failure(
            "digest_mismatch",
            f"The configuration of {spec.reference} has other content: its digest is {digest}.",
            "It was tampered with or is damaged at the registry.",
            digest=remote.manifest["config"]["digest"],
            actual=digest,
        )
    config = _object(data)
    wanted = parse_platform(spec.platform or PLATFORM)
    there = "/".join(str(config.get(key)) for key in ("os", "architecture"))
    if there != f"{wanted.os}/{wanted.architecture}":
        raise platform_missing(str(spec.reference), wanted, [there])
    if isinstance(config.get("config"), dict):
        refuse_control_characters(config["config"])
    process_of(config)
    return Found(remote.digest, config)


def _object(data: bytes) -> dict[str, t.Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise invalid("its configuration is no JSON object")
    return value


# ------------------------------------------------------------------------------------------------------ recreation


def read_standing(client: Client, actual: Actual, holder: Actual | None, guest: Guest | None) -> Standing:
    """What stands beside a container that is to be made anew.

    guest: the container as the cluster lists it.

    Raises:
        Failure: what the API answers.
    """
    snapshots = [str(entry.get("name")) for entry in client.get(f"{actual.path}/snapshot") or []]
    config = client.get(f"{actual.path}/config") or {}
    jobs = client.get(f"nodes/{actual.node}/replication", guest=actual.vmid) or []
    return Standing(
        holder,
        guest.pool if guest else None,
        snapshots=tuple(sorted(name for name in snapshots if name != "current")),
        lines=tuple(f"{key}: {value}" for key, value in config.get("lxc") or ()),
        rules=len(client.get(f"{actual.path}/firewall/rules") or []),
        # Proxmox does not remove what HA ignores either (service_is_configured of PVE/HA/Config.pm).
        managed=bool(guest and guest.ha),
        replicated=any(str(job.get("guest")) == str(actual.vmid) for job in jobs),
    )


def find_holder(
    guests: t.Iterable[Guest],
    read: t.Callable[[str, int], Actual | None],
    vmid: int | None,
    hostname: str | None,
    known: int | str | None,
) -> Actual | None:
    """The container that holds the volumes of another one since an interrupted run; None when there is none.

    It may have been interrupted more than once: what holds volumes goes before what holds none.
    """
    found = []
    for guest in guests:
        match = HOLDER_NAME.fullmatch(guest.name or "")
        if guest.kind != "lxc" or not match:
            continue
        if vmid is not None:
            # A copy of the container has its note, but not its volumes.
            is_of_another = int(match["vmid"]) != vmid
        else:
            is_of_another = guest.vmid != known and match["hostname"] != hostname
        if is_of_another:
            continue
        actual = read(guest.node, guest.vmid)
        journal = journal_of(actual.config.get("description")) if actual else None
        if actual and journal and journal.vmid == int(match["vmid"]):
            found.append(actual)
    found.sort(key=lambda actual: (actual.vmid != known, not volumes_of(actual.config), actual.vmid))
    return found[0] if found else None
