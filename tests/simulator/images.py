# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""OCI images: pulled from a registry or uploaded, and made containers of, as pve-storage and pve-container do it."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import tarfile
import typing as t

from aiohttp import web
from fakepve.lxc import split_props
from fakepve.model import PveError, TaskError

from .containers import Containers
from .tasks import log

Config = t.Mapping[str, t.Any]
# The plugins of PVE/LXC/Setup.pm that have the name of an ID in /etc/os-release.
OS_TYPES = (
    *("alpine", "archlinux", "centos", "debian", "devuan", "fedora", "gentoo", "openeuler", "opensuse", "ubuntu"),
    *("nixos", "unmanaged"),
)
# Of an image on a storage, in bytes.
IMAGE_SIZE = 2**20


def is_oci_archive(data: bytes) -> bool:
    """archive_is_oci_format of PVE/LXC/Create.pm, which reads what `tar -tf` lists."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            names = archive.getnames()
    except tarfile.TarError:
        return False
    return "oci-layout" in names and "index.json" in names and any(name.startswith("blobs/") for name in names)


def config_of(data: bytes) -> Config:
    """The image configuration in an archive: that of the first manifest."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:

        def read(name: str) -> t.Any:
            handle = archive.extractfile(name)
            assert handle is not None
            return json.loads(handle.read())

        manifest = read("blobs/sha256/" + read("index.json")["manifests"][0]["digest"][7:])
        return t.cast("Config", read("blobs/sha256/" + manifest["config"]["digest"][7:]))


def has_init(data: bytes) -> bool:
    """Whether there is a /sbin/init in a template, which is a ``.tar.zst``; True when it is none."""
    done = subprocess.run(["tar", "--zstd", "-tf", "-"], input=data, capture_output=True, text=False, check=False)
    names = {name.removeprefix("./") for name in done.stdout.decode().splitlines()}
    return done.returncode != 0 or not names.isdisjoint(("sbin/init", "usr/sbin/init"))


class Images(Containers):
    """Adds what fakepve accepts without effect."""

    def __init__(self, *args: t.Any, **options: t.Any) -> None:
        super().__init__(*args, **options)
        # What nodes find at registries: image configurations by reference.
        self.registry: dict[str, Config] = {}
        # Image configurations by the volume that holds them.
        self.images: dict[str, Config] = {}
        # What ID of /etc/os-release is, by the reference or the volume of an image; others have no such file.
        self.systems: dict[str, str] = {}
        # Raw lines of containers, by vmid.
        self.raw_lines: dict[int, list[list[str]]] = {}
        # What /etc/passwd and /etc/group of every image say.
        self.accounts = {"root": 0, "app": 1000, "nginx": 101}
        # Templates of which containers have no /sbin/init, and containers that have none.
        self.without_init: set[str | int] = set()
        # How long a pull takes.
        self.ct_secs.update(pull=2)

    def publish(self, reference: str, config: Config) -> None:
        """Let nodes find an image at its registry."""
        self.registry[reference] = config

    def _routes_images(self) -> list[tuple[str, str, t.Any]]:
        return [("POST", "/nodes/{node}/storage/{storage}/oci-registry-pull", self._pull)]

    async def _pull(self, v: dict[str, t.Any], user: str) -> str:
        """oci_registry_pull of PVE/API2/Storage/Status.pm (oci-018 to 032)"""
        sid, node = v["storage"], v["node"]
        store = self.storages.get(sid)
        if store is None:
            raise PveError(500, f"storage '{sid}' does not exist")
        if not store.get("path"):
            raise PveError(500, f"can't upload to storage type '{store['type']}', not a file based storage!")
        if "vztmpl" not in str(store.get("content", "")).split(","):
            raise PveError(500, f"storage '{sid}' is not configured for content-type 'vztmpl'")
        reference = v["reference"]
        plain = re.sub(r"[^a-zA-Z0-9_.-]", "_", re.sub(r"^.*[/\\]", "", v.get("filename") or reference))
        name = f"{plain}.tar"
        if self.volume(f"{sid}:vztmpl/{name}") is not None:
            raise PveError(500, f"refusing to override existing file '{name}'")

        async def body() -> None:
            await self.pause(self.ct_secs["pull"])
            if reference not in self.registry:
                command = f"skopeo copy docker://{reference} oci-archive:/var/lib/vz/template/cache/{name}.tmp.5068"
                log(f'level=fatal msg="initializing source docker://{reference}: manifest unknown"')
                raise TaskError(f"command '{command}' failed: exit code 1")
            if self.storages[sid].get("avail", IMAGE_SIZE) < IMAGE_SIZE:
                path = f"/var/lib/vz/template/cache/{name}.tmp.5068"
                log(f'level=fatal msg="committing the finished image: write {path}: no space left on device"')
                command = f"skopeo copy docker://{reference} oci-archive:{path}"
                raise TaskError(f"command '{command}' failed: exit code 1")
            self.store_file(sid, name, IMAGE_SIZE, "vztmpl")
            self.images[f"{sid}:vztmpl/{name}"] = self.registry[reference]
            self.systems[f"{sid}:vztmpl/{name}"] = self.systems.get(reference, "")

        return await self.task(node, "ociregistrypull", name, user, body)

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        answer = await super()._upload(request)
        fields = self.uploaded or {}
        volume = f"{request.match_info['storage']}:vztmpl/{fields.get('filename')}"
        if str(fields.get("filename")).endswith(".tar") and is_oci_archive(fields.get("data") or b""):
            self.images[volume] = config_of(fields["data"])
        if str(fields.get("filename")).endswith(".tar.zst") and not has_init(fields.get("data") or b""):
            self.without_init.add(volume)
        return t.cast("web.StreamResponse", answer)

    async def _unpack(
        self,
        ct: t.Any,
        archive: str,
        storage: str,
        options: dict[str, t.Any],
        mounts: dict[str, str],
        unprivileged: t.Any,
        v: dict[str, t.Any],
    ) -> dict[str, t.Any]:
        config = await super()._unpack(ct, archive, storage, options, mounts, unprivileged, v)
        self.raw_lines.pop(ct.vmid, None)
        self.without_init.discard(ct.vmid)
        if archive in self.without_init:
            self.without_init.add(ct.vmid)
        if archive in self.images and not v.get("restore"):
            log("Detected OCI archive")
            self._import(ct.vmid, config, self.images[archive].get("config") or {})
            config["ostype"] = "unmanaged" if v.get("ostype") == "unmanaged" else self._system_of(archive)
        return config

    def _system_of(self, archive: str) -> str:
        """autodetect_type of PVE/LXC/Setup.pm"""
        system = self.systems.get(archive) or "unmanaged"
        if system not in OS_TYPES:
            raise TaskError("unable to detect OS distribution")
        return system

    def _import(self, vmid: int, config: dict[str, t.Any], image: Config) -> None:
        """restore_oci_archive of PVE/LXC/Create.pm"""
        lines = self.raw_lines.setdefault(vmid, [])
        for key in ("User", "WorkingDir", "StopSignal"):
            _check(key, [image[key]] if image.get(key) else [])
        words = [*_check("Entrypoint", image.get("Entrypoint")), *_check("Cmd", image.get("Cmd"))]
        if words and words[0] != "/sbin/init":
            config["entrypoint"] = " ".join(map(_quoted, words))
            config["cmode"] = "console"
            for key in [key for key in config if re.fullmatch(r"net\d+", key)]:
                if "host-managed" not in split_props(config[key])[1]:
                    log(f"Auto-Enabling host-managed network for network device {key}.")
                    config[key] += ",host-managed=1"
        if image.get("User"):
            match = re.fullmatch("([^:]+)(?::([^:]+))?", image["User"])
            if not match:
                raise TaskError("OCI config value for 'User' has an invalid format")
            uid, gid = (self._id_of(name) for name in (match[1], match[2] or match[1]))
            if not match[2] and gid not in map(str, self.accounts.values()):
                gid = None
            lines += [[f"lxc.init.{kind}id", value] for kind, value in (("u", uid), ("g", gid)) if value is not None]
        if image.get("WorkingDir"):
            lines.append(["lxc.init.cwd", image["WorkingDir"]])
        if image.get("Env"):
            first, *rest = "\0".join(_check("Env", image["Env"])).split("\n")
            config["env"] = first
            # What follows a line break is a line of the file.
            for line in rest:
                key, _colon, value = (part.strip() for part in line.partition(":"))
                if key.startswith("lxc."):
                    lines.append([key, value])
                else:
                    config[key] = value
        lines.append(["lxc.signal.halt", image.get("StopSignal") or "SIGTERM"])

    def _id_of(self, name: str) -> str | None:
        """resolve_oci_user of PVE/LXC/Create.pm; what is not found is undefined, and then no line."""
        known = self.accounts.get(name)
        return name if name.isdigit() else None if known is None else str(known)

    async def _start_steps(self, ct: t.Any, user: str, skiplock: bool = False) -> None:
        """LXC reads no configuration with a signal that it does not know (sig_parse of confile_utils.c).

        It starts /sbin/init where it is told of no other command (vm_start of PVE/LXC.pm).
        """
        for key, value in self.raw_lines.get(ct.vmid, []):
            if key == "lxc.signal.halt" and not _is_signal(value):
                raise TaskError(f"startup for container '{ct.vmid}' failed")
        if ct.vmid in self.without_init and "entrypoint" not in ct.config:
            log('lxc-start: No such file or directory - Failed to exec "/sbin/init"')
            raise TaskError(f"startup for container '{ct.vmid}' failed")
        await super()._start_steps(ct, user, skiplock)

    async def _lxc_config_get(self, user: str, v: dict[str, t.Any]) -> dict[str, t.Any]:
        config = await super()._lxc_config_get(user, v)
        lines = self.raw_lines.get(int(v["vmid"]))
        return {**config, "lxc": lines} if lines and not v.get("snapshot") else config


def _quoted(word: str) -> str:
    """_shell_quote_backend of String::ShellQuote with one word: assignments are quoted, rows of quotes short."""
    if not word:
        return "''"
    if not re.search(r"=|[^\w!%+,\-./:=@^]", word):
        return word
    row = r"(?:'\\''){2,}"
    text = re.sub(row, lambda found: f"'\"{chr(39) * (len(found[0]) // 4)}\"'", word.replace("'", r"'\''"))
    return re.sub("''$", "", re.sub("^''", "", f"'{text}'"))


def _is_signal(text: str) -> bool:
    real_time = re.fullmatch(r"SIGRT(?:MIN\+|MAX-)(\d+)", text, re.IGNORECASE)
    if real_time:
        return int(real_time[1]) <= signal.SIGRTMAX - signal.SIGRTMIN
    names = set(signal.Signals.__members__) - {"SIGRTMIN", "SIGRTMAX"}
    return text.isdigit() or text.upper() in names


def _check(key: str, values: t.Sequence[str] | None) -> list[str]:
    for value in values or ():
        # Its class of characters lacks a digit: line breaks pass.
        if re.search(r"[\x00-\x08\x10-\x1F\x7F]", value):
            raise TaskError(f"OCI config value for '{key}' contains forbidden control characters!")
    return list(values or ())
