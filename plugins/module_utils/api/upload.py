# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Uploads templates to a storage, without holding them in memory."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import io
import os
import shutil
import typing as t

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure, classify
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.options import api_options, credentials
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.tasks import Log, TaskWatcher, is_upid
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.commands import Run, run_here

_CHUNK = 1 << 20
# The only names that Proxmox takes (upload of PVE/API2/Storage/Status.pm in pve-storage). Those of its web server go on
# with other digits.
_TEMPORARY = f"/var/tmp/pveupload-{b'lxcri'.hex()}"


def upload_options() -> dict[str, t.Any]:
    """The suboptions of ``upload`` (documented in the module ``oci_bundle``)."""
    options = api_options()
    # What runs on the node needs no ssh to it.
    options["api_backend"] = {**options["api_backend"], "choices": ["https", "local"]}
    return {
        **options,
        "node": {"type": "str", "required": True},
        "storage": {"type": "str", "required": True},
    }


class Storage:
    """A storage of a node that has templates."""

    def __init__(self, client: Client, node: str, storage: str, timeout: float, run: Run = run_here) -> None:
        self._client = client
        self._path = f"/nodes/{node}/storage/{storage}"
        self._storage = storage
        self._timeout = timeout
        self._run = run

    def volume_id(self, file_name: str) -> str:
        """The volume id that a file gets."""
        return f"{self._storage}:vztmpl/{file_name}"

    def files(self) -> dict[str, int]:
        """The sizes of its templates in bytes, by file name.

        Raises:
            Failure: what the API answers.
        """
        volumes = self._client.get(f"{self._path}/content", content="vztmpl") or []
        return {str(volume["volid"]).partition("/")[2]: int(volume.get("size") or 0) for volume in volumes}

    def find(self, file_name: str) -> str | None:
        """The volume id of a file; None when it is not there.

        Raises:
            Failure: what the API answers.
        """
        return self.volume_id(file_name) if file_name in self.files() else None

    def refuse_unsuited(self, option: str) -> None:
        """Refuse a storage that takes no templates.

        option: which names it.

        Raises:
            Failure: ``storage_unsuitable``; what the API answers.
        """
        about = self._client.get(f"{self._path}/status") or {}
        if "vztmpl" not in str(about.get("content", "")).split(","):
            raise Failure(
                "storage_unsuitable",
                f"The storage {self._storage} has no templates (content type vztmpl).",
                f"Give {option}, a storage with directories that has that content type enabled.",
                storage=self._storage,
            )

    def refuse_backend(self) -> None:
        """Refuse the one way to the API on which no file goes.

        Raises:
            Failure: ``invalid_option``.
        """
        if self._client.credentials.backend == "openssh":
            raise Failure(
                "invalid_option",
                "api_backend: nothing can be uploaded over openssh.",
                "Set api_backend to https, or to local on the node.",
                option="api_backend",
            )

    def put(self, path: str, name: str | None = None, log: Log | None = None) -> str:
        """Upload a file and wait until it is there; its volume id.

        name: what it is to be called there; by default as it is called here. log: to which the task is added.

        Raises:
            Failure: what the API or the task answers; ``unreachable``, ``upload_failed``.
        """
        fields = {
            "content": "vztmpl",
            "checksum-algorithm": "sha256",
            "checksum": sha256_of(path),
        }
        name = name or os.path.basename(path)
        if self._client.credentials.backend == "local":
            self._put_here(path, name, fields)
        else:
            upid = self._post(path, name, fields)
            if is_upid(upid):
                task = TaskWatcher(self._client).wait(upid, self._timeout)
                if log:
                    log.tasks.append(task)
        return self.volume_id(name)

    def _post(self, path: str, name: str, fields: dict[str, str]) -> t.Any:
        with open(path, "rb") as file:
            return self._client.post_form(f"{self._path}/upload", Form(file, name, fields), self._timeout)

    def _put_here(self, path: str, name: str, fields: dict[str, str]) -> None:
        try:
            with temporary_file() as target:
                with open(path, "rb") as source:
                    shutil.copyfileobj(source, target, _CHUNK)
                target.flush()
                options = {**fields, "filename": name, "tmpfilename": target.name}
                words = [word for key, value in options.items() for word in (f"--{key}", value)]
                # It is in use as long as the command runs, also when this process is killed.
                using = ["flock", "--shared", "--no-fork", target.name]
                done = self._run([*using, "pvesh", "create", f"{self._path}/upload", *words], None, self._timeout)
        except OSError as error:
            what = error.filename or "a file in /var/tmp"
            raise Failure("upload_failed", f"{what} cannot be written: {error.strerror}.", "Free space.") from None
        if done.rc:
            text = " ".join((done.stderr.strip() or done.stdout.strip()).split())
            code, hint, facts = classify(500, text)
            code = "upload_failed" if code == "api_error" else code
            raise Failure(code, f"Proxmox answered: {text[-400:]}", hint, **facts)


@contextlib.contextmanager
def temporary_file() -> t.Iterator[t.BinaryIO]:
    """A new file under a name that Proxmox takes for an upload; gone at the end.

    Who uses it has it locked, together with others. What nobody has locked, a killed run has left, and it goes first.

    Raises:
        OSError: when it cannot be made.
    """
    _remove_abandoned()
    with contextlib.ExitStack() as stack:
        target = None
        while target is None:
            path = f"{_TEMPORARY}{os.urandom(11).hex()}"
            file = stack.enter_context(open(path, "xb", opener=_private))
            stack.callback(_remove, path)
            fcntl.flock(file, fcntl.LOCK_SH)
            # Another run may have taken it for abandoned before it was locked.
            target = file if os.fstat(file.fileno()).st_nlink else None
        yield target


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _remove_abandoned() -> None:
    for path in glob.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError), open(path, "rb", opener=_not_followed) as file:
            if os.fstat(file.fileno()).st_uid == os.geteuid():
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)


def _not_followed(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def open_storage(options: t.Mapping[str, t.Any], timeout: float) -> Storage:
    """The storage that the option ``upload`` means.

    Raises:
        Failure: ``invalid_option``, ``library_missing``.
    """
    return Storage(Client(credentials(options)), options["node"], options["storage"], timeout)


def sha256_of(path: str) -> str:
    """The digest of a file, in hexadecimal digits."""
    state = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            state.update(chunk)
    return state.hexdigest()


class Form:
    """A form with one file (RFC 7578), which is read while it is sent. Its fields come before the file."""

    def __init__(self, file: t.BinaryIO, name: str, fields: t.Mapping[str, str]) -> None:
        boundary = os.urandom(16).hex()
        self.content_type = f"multipart/form-data; boundary={boundary}"
        head = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
            for key, value in fields.items()
        )
        head += f'--{boundary}\r\nContent-Disposition: form-data; name="filename"; filename="{name}"\r\n'
        head += "Content-Type: application/octet-stream\r\n\r\n"
        size = os.fstat(file.fileno()).st_size
        self._parts: list[t.IO[bytes]] = [
            io.BytesIO(head.encode()),
            file,
            io.BytesIO(f"\r\n--{boundary}--\r\n".encode()),
        ]
        self._length = len(head.encode()) + size + len(boundary) + 8

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> t.Iterator[bytes]:
        return iter(lambda: self.read(_CHUNK), b"")

    def read(self, count: int = -1) -> bytes:
        """The next bytes; at most a MiB of them."""
        wanted = _CHUNK if count is None or count < 0 else min(count, _CHUNK)
        while self._parts:
            data = self._parts[0].read(wanted)
            if data:
                return data
            self._parts.pop(0)
        return b""
