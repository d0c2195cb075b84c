# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Templates: the appliance index, downloads and uploads, as pve-manager and pve-storage do them."""

from __future__ import annotations

import hashlib
import re
import typing as t
from urllib.parse import quote

from aiohttp import web
from fakepve.model import PveError, TaskError
from fakepve.server import USER, ok, params

from .images import Images
from .node_files import NODE, Storages
from .tasks import log

TEMPLATE_NAME = re.compile(r"[^/]+\.tar(\.(gz|xz|zst|bz2))?", re.IGNORECASE)
MIRROR = "http://download.proxmox.com/images/system"
MIB = 2**20
# (package, version, architecture, size)
APPLIANCES = (
    ("alpine-3.22-default", "20250617", "amd64", 3 * MIB),
    ("debian-12-standard", "12.12-1", "amd64", 120 * MIB),
    ("debian-13-standard", "13.1-2", "amd64", 126 * MIB),
    ("debian-13-standard", "13.10-1", "amd64", 127 * MIB),
    ("debian-13-standard", "13.9-1", "amd64", 127 * MIB),
    ("debian-13-standard", "13.10-2", "arm64", 127 * MIB),
    ("ubuntu-24.04-standard", "24.04-2", "amd64", 135 * MIB),
)
# What nodes find at servers.
WEB = {"https://mirror.example.com/images/shop_1.4_amd64.tar.zst": b"shop 1.4\n"}


def appliance(package: str, version: str, architecture: str) -> dict[str, t.Any]:
    """A record as load_data of PVE/APLInfo.pm makes it."""
    template = f"{package}_{version}_{architecture}.tar.zst"
    return {
        "package": package,
        "version": version,
        "architecture": architecture,
        "template": template,
        "type": "lxc",
        "os": package.rpartition("-")[0],
        "section": "system",
        "headline": f"LXC default image for {package}",
        "infopage": "https://linuxcontainers.org",
        "source": "http://download.proxmox.com/images",
        "location": f"{MIRROR}/{template}",
        "sha512sum": hashlib.sha512(template.encode()).hexdigest(),
    }


class Templates(Images):
    """Adds the index, what downloads refuse and verify, and files that are on one node."""

    def __init__(self, *args: t.Any, **options: t.Any) -> None:
        super().__init__(*args, **options)
        self.storages = Storages(self.nodes, self.storages)
        # The index of each node; that of all others.
        self.appliances: dict[str | None, list[dict[str, t.Any]]] = {
            None: [appliance(*entry[:3]) for entry in APPLIANCES]
        }
        self.web: dict[str, bytes] = dict(WEB)
        # How long a download takes.
        self.ct_secs.update(download=2)

    def serve(self, url: str, content: str) -> None:
        """Let nodes find a file at a server."""
        self.web[url] = content.encode()

    async def _answer(self, request: t.Any, handler: t.Any, generic: t.Any, path_node: t.Any) -> t.Any:
        NODE.set(path_node)
        return await super()._answer(request, handler, generic, path_node)

    def _routes_templates(self) -> list[tuple[str, str, t.Any]]:
        return [
            ("GET", "/nodes/{node}/aplinfo", self._aplinfo),
            ("POST", "/nodes/{node}/aplinfo", self._aplinfo_download),
        ]

    def _index(self, node: str) -> list[dict[str, t.Any]]:
        return self.appliances.get(node, self.appliances[None])

    async def _aplinfo(self, v: dict[str, t.Any], _user: str) -> list[dict[str, t.Any]]:
        return self._index(v["node"])

    async def _aplinfo_download(self, v: dict[str, t.Any], user: str) -> str:
        """apl_download of PVE/API2/Nodes.pm"""
        sid, template = v["storage"], v["template"]
        self.require(user, f"/storage/{sid}", "Datastore.AllocateTemplate")
        entry = next((entry for entry in self._index(v["node"]) if entry["template"] == template), None)
        if entry is None:
            raise PveError(400, "Parameter verification failed.", {"template": "no such template"})
        store = self._check_enabled(sid, v["node"])
        if "vztmpl" not in str(store.get("content", "")).split(","):
            raise PveError(500, f"storage '{sid}' does not support templates")
        size = next((each[3] for each in APPLIANCES if "_".join(each[:3]) == template.partition(".tar")[0]), MIB)

        async def body() -> None:
            await self._fetch(sid, template, entry["location"], size, "sha512", entry["sha512sum"], entry["sha512sum"])

        return await self.task(v["node"], "download", template, user, body)

    async def _download_url(self, request: t.Any) -> web.Response:
        """download_url of PVE/API2/Storage/Status.pm"""
        sid, node, user = request.match_info["storage"], request.match_info["node"], request[USER]
        self.require(user, f"/storage/{sid}", "Datastore.AllocateTemplate")
        if not all(self.allowed(user, "/", name) for name in ("Sys.Audit", "Sys.Modify")):
            self.require(user, f"/nodes/{node}", "Sys.AccessNetwork")
        v = self._verify(request, await params(request))
        store = self._check_enabled(sid, node)
        if not store.get("path"):
            raise PveError(500, f"can't upload to storage type '{store['type']}', not a file based storage!")
        content, algorithm = v["content"], v.get("checksum-algorithm")
        if content not in str(store.get("content", "")).split(","):
            raise PveError(500, f"storage '{sid}' is not configured for content-type '{content}'")
        name = _normalised(v["filename"])
        if content == "vztmpl" and not TEMPLATE_NAME.fullmatch(name):
            raise PveError(400, "Parameter verification failed.", {"filename": "wrong file extension"})
        data = self.web.get(v["url"])

        async def body() -> None:
            got = hashlib.new(algorithm, data or b"").hexdigest() if algorithm else None
            await self._fetch(
                sid, name, v["url"], None if data is None else len(data), algorithm, v.get("checksum"), got, content
            )

        return t.cast("web.Response", ok(await self.task(node, "download", quote(name, safe="~ "), user, body)))

    async def _fetch(
        self,
        sid: str,
        name: str,
        url: str,
        size: int | None,
        algorithm: str | None,
        expected: str | None,
        got: str | None,
        content: str = "vztmpl",
    ) -> None:
        """download_file_from_url of PVE/Tools.pm; ``size`` is None when there is no such file at the server."""
        path = self._volume_path(sid, f"{content}/{name}", content)
        log(f"downloading {url} to {path}")
        there = self._register(sid).get(f"{content}/{name}")
        if there is not None:
            if not algorithm:
                raise TaskError(f"refusing to override existing file '{path}'")
            log("calculating checksum of existing file...OK, got correct file already, no need to download")
            if there.get("sum", got) == expected:
                return
            raise TaskError(f"checksum mismatch: got '{there.get('sum', got)}' != expect '{expected}', aborting")
        await self.pause(self.ct_secs["download"])
        if size is None:
            log(f"--2026-11-21 04:06:21--  {url}", "HTTP request sent, awaiting response... 404 Not Found")
            command = f"/usr/bin/wget --progress=dot:giga -O {path}.tmp_dwnl.4711 {url}"
            raise TaskError(f"download failed: command '{command}' failed: exit code 8")
        if size > self.storages[sid].get("avail", size):
            log(f"{path}.tmp_dwnl.4711: No space left on device", "", "Cannot write to 'x' (No space left on device).")
            command = f"/usr/bin/wget --progress=dot:giga -O {path}.tmp_dwnl.4711 {url}"
            raise TaskError(f"download failed: command '{command}' failed: exit code 3")
        if algorithm and str(got).lower() != str(expected).lower():
            raise TaskError(f"checksum mismatch: got '{got}' != expect '{expected}'")
        self.store_file(sid, name, size, content)
        log(f"download of '{url}' to '{path}' finished")

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        """upload of PVE/API2/Storage/Status.pm; an existing file is overwritten."""
        fields = _form(request.headers["Content-Type"].partition("boundary=")[2], await request.read())
        name, algorithm = _normalised(str(fields.get("filename"))), str(fields.get("checksum-algorithm"))
        if fields.get("content") == "vztmpl" and not TEMPLATE_NAME.fullmatch(name):
            raise PveError(400, "Parameter verification failed.", {"filename": "wrong file extension"})
        got = hashlib.new(algorithm, fields["data"]).hexdigest() if "checksum" in fields else None
        if got == fields.get("checksum"):
            return await super()._upload(request)
        node, sid = request.match_info["node"], request.match_info["storage"]
        self.require(request[USER], f"/storage/{sid}", "Datastore.AllocateTemplate")

        async def body() -> None:
            raise TaskError(f"checksum mismatch: got '{got}' != expect '{fields['checksum']}'")

        return t.cast("web.Response", ok(await self.task(node, "imgcopy", "", request[USER], body)))

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
        """What does not fit is found out while the archive is extracted: the old volumes are gone by then."""
        config = await super()._unpack(ct, archive, storage, options, mounts, unprivileged, v)
        entry = self.volume(archive) or {}
        if v.get("restore") and int(entry.get("size", 0)) > self.storages[storage].get("avail", 2**63):
            log("tar: ./usr/lib/os-release: Cannot write: No space left on device", "tar: Exiting with failure status")
            command = "lxc-usernsexec -m u:0:100000:65536 -m g:0:100000:65536 -- tar xpf - --zstd"
            raise TaskError(f"command '{command}' failed: exit code 2")
        return config


def _normalised(name: str) -> str:
    """normalize_content_filename of PVE/Storage.pm"""
    return re.sub(r"[^a-zA-Z0-9_.-]", "_", re.sub(r"^.*[/\\]", "", name))


def _form(boundary: str, body: bytes) -> dict[str, t.Any]:
    """The fields of a form, and the file as ``filename`` and ``data``."""
    fields: dict[str, t.Any] = {}
    for part in body.split(b"--" + boundary.encode())[1:-1]:
        head, _end, data = part[2:-2].partition(b"\r\n\r\n")
        names = dict(re.findall(r'(\w+)="([^"]*)"', head.decode().partition("\r\n")[0]))
        if "filename" in names:
            fields.update(filename=names["filename"], data=data)
        else:
            fields[names["name"]] = data.decode()
    return fields
