# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds OCI images entry by entry, right ones and wrong ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import stat
import tarfile
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def entry(
    name: str,
    content: bytes | str = b"",
    *,
    kind: bytes = tarfile.REGTYPE,
    mode: int = 0o644,
    owner: tuple[int, int] = (0, 0),
    link: str = "",
    device: tuple[int, int] = (0, 0),
    xattrs: t.Mapping[str, str] | None = None,
) -> tuple[tarfile.TarInfo, bytes]:
    """One entry of a layer. kind: a type of tarfile, such as ``tarfile.DIRTYPE``."""
    data = content.encode() if isinstance(content, str) else content
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname = kind, mode, link
    info.uid, info.gid = owner
    info.devmajor, info.devminor = device
    info.size = len(data) if kind == tarfile.REGTYPE else 0
    info.mtime = 1_700_000_000
    info.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in (xattrs or {}).items()}
    return info, data


def directory(name: str, mode: int = 0o755, owner: tuple[int, int] = (0, 0)) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, kind=tarfile.DIRTYPE, mode=mode, owner=owner)


def layer(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A layer as a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def busybox_layer(*more: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A root file system in which ``sh`` and its friends work, and more entries."""
    applets = ["sh", "cat", "echo", "id", "env", "pwd", "sleep", "ls", "stat", "kill", "true", "false", "test", "trap"]
    return layer(
        *(directory(name) for name in ("bin", "etc", "proc", "sys", "dev", "root")),
        directory("tmp", 0o1777),
        entry("bin/busybox", BUSYBOX.read_bytes(), mode=0o755),
        *(entry(f"bin/{name}", kind=tarfile.SYMTYPE, link="busybox") for name in applets),
        entry("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/srv:/bin/sh\n"),
        entry("etc/group", "root:x:0:\napp:x:1000:\nextra:x:2000:app\n"),
        *more,
    )


@dataclass
class Built:
    """An image: its blobs, by digest, and the descriptor of its manifest (or of its index)."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    descriptor: dict[str, t.Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return t.cast("str", self.descriptor["digest"])

    def add(self, data: bytes, media_type: str) -> dict[str, t.Any]:
        self.blobs[sha256(data)] = data
        return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}

    def write(self, root: Path, name: str = "latest") -> Path:
        """As an image layout in a directory, beside what is in it."""
        blobs = root / "blobs/sha256"
        blobs.mkdir(parents=True, exist_ok=True)
        for digest, data in self.blobs.items():
            (blobs / digest[7:]).write_bytes(data)
        (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}', encoding="utf-8")
        path = root / "index.json"
        there = json.loads(path.read_text("utf-8"))["manifests"] if path.exists() else []
        named = {**self.descriptor, "annotations": {"org.opencontainers.image.ref.name": name}}
        index = {"schemaVersion": 2, "manifests": [*there, named]}
        path.write_text(json.dumps(index), encoding="utf-8")
        return root


def build(
    *layers: bytes,
    config: t.Mapping[str, t.Any] | None = None,
    diff_ids: t.Sequence[str] | None = None,
    architecture: str = "amd64",
    compress: t.Callable[[bytes], bytes] = lambda data: gzip.compress(data, 1, mtime=0),
    layer_type: str = LAYER_GZIP,
    manifest: t.Mapping[str, t.Any] | None = None,
) -> Built:
    """An image of these layers, the lowest first. manifest: overrides of its keys; None removes one."""
    image = Built()
    text = {
        "architecture": architecture,
        "os": "linux",
        "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids or map(sha256, layers))},
    }
    document: dict[str, t.Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": image.add(json.dumps(text).encode(), CONFIG),
        "layers": [image.add(compress(data), layer_type) for data in layers],
        **(manifest or {}),
    }
    document = {key: value for key, value in document.items() if value is not None}
    image.descriptor = image.add(json.dumps(document).encode(), document.get("mediaType", MANIFEST))
    return image


def index(*images: tuple[str, Built]) -> Built:
    """An image index. images: platforms such as ``linux/arm64``, and the images for them."""
    together = Built()
    entries = []
    for platform, image in images:
        together.blobs.update(image.blobs)
        words = platform.split("/")
        entries.append({**image.descriptor, "platform": dict(zip(("os", "architecture", "variant"), words))})
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
    together.descriptor = together.add(json.dumps(document).encode(), INDEX)
    return together


def listing(root: Path) -> dict[str, str]:
    """What is in a directory: for each path its type, mode, owner, and content or target."""
    found = {}
    for path in sorted(root.rglob("*")):
        about = path.lstat()
        kind = stat.filemode(about.st_mode)
        text = f"{kind} {about.st_uid}:{about.st_gid}"
        if path.is_symlink():
            text += f" -> {path.readlink()}"
        elif stat.S_ISREG(about.st_mode):
            text += f" {sha256(path.read_bytes())[7:19]}"
        found[str(path.relative_to(root))] = text
    return found
