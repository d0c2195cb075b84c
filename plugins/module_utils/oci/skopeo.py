# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Moves images with skopeo, and reads what it says when it cannot."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import time
import typing as t
from dataclasses import dataclass

from ..api.errors import Failure
from ..node.commands import environment
from .reference import Reference

# The name of an image in a layout that is made for skopeo alone.
NAME = "image"
# How the names of the files begin into which it writes blobs, before they have that of their digest (PutBlob of
# containers/image, oci_dest.go).
UNFINISHED = "oci-put-blob"
_POLICY = "/etc/containers/policy.json"
_USER_POLICY = ".config/containers/policy.json"
_TICK = 0.05
# The user of an identity token is not looked at, but has to be there.
_TOKEN_USER = "00000000-0000-0000-0000-000000000000"

# (code, pattern, hint): the first match decides. Groups with a name become details.
_SENTENCES: tuple[tuple[str, str, str], ...] = (
    ("disk_full", r"no space left on device|disk quota exceeded", "Free space there; prune removes unused images."),
    (
        "policy_refused",
        r"Source image rejected|rejected by policy|signature was required|invalid policy|error loading trust policy",
        "The policy of the node (containers-policy.json(5)) does not allow this image.",
    ),
    (
        "digest_mismatch",
        r"digest did not match|digest sha256:\w+ does not match|does not match (provided|expected)",
        "It was tampered with or is damaged at the registry; push it there again.",
    ),
    ("size_mismatch", r"size mismatch", "The image is damaged at its source; build it again."),
    (
        "registry_without_tls",
        r"server gave HTTP response to HTTPS client|first record does not look like a TLS handshake",
        "The registry speaks HTTP. With validate_certs: false that is accepted.",
    ),
    (
        "untrusted_certificate",
        r"x509:|tls: (failed to verify|bad certificate|unknown certificate)|certificate (is|has|signed|required)",
        "Give the certificate of its authority with ca_path, or install it on the node.",
    ),
    (
        "rate_limited",
        r"toomanyrequests|too many requests|status\D{0,30}\b429\b",
        "The registry wants a pause, or a login.",
    ),
    (
        "blob_missing",
        r"blob unknown|(fetching|reading) (partial )?blob.*\b404\b",
        "The image is damaged at the registry; push it there again.",
    ),
    (
        "unauthorized",
        r"unauthorized|authentication required|access to the resource is denied|invalid username/password|"
        r"invalid status code from registry 40[13]|unable to retrieve auth token|\b(401|403) \(|denied:|"
        r"unexpected HTTP status: 40[13]|StatusCode: 40[13]|credentials",
        "Check the credentials, what they may do, and the name: some registries say this of what is not there.",
    ),
    (
        "image_missing",
        r"manifest unknown|name unknown|repository name not known|not found|\b404\b|NAME_UNKNOWN|MANIFEST_UNKNOWN",
        "Check the name and the tag.",
    ),
    (
        "registry_unreachable",
        r"connection (refused|reset|timed out)|no such host|i/o timeout|no route to host|network is unreachable|"
        r"unexpected EOF|: EOF|broken pipe|handshake timeout|deadline exceeded|server misbehaving|"
        r"Client\.Timeout|use of closed network connection|server closed|malformed HTTP|"
        r"status(:| code from registry) 5\d\d|temporary failure",
        "Check that the registry runs and that the node reaches it; run again.",
    ),
)
_COMPILED = tuple((code, re.compile(pattern, re.IGNORECASE), hint) for code, pattern, hint in _SENTENCES)


@dataclass(frozen=True)
class Access:
    """How a registry is reached, see the doc fragment ``oci``."""

    username: str | None = None
    password: str | None = None
    token: str | None = None
    auth_file: str | None = None
    ca_path: str | None = None
    validate_certs: bool = True

    def check(self) -> None:
        """See that the options fit each other.

        Raises:
            Failure: ``invalid_option``.
        """
        given = [name for name in ("password", "token", "auth_file") if getattr(self, name)]
        if len(given) > 1:
            raise Failure("invalid_option", f"{' and '.join(given)} exclude each other.", "Give one of them.")
        if (self.username and not (self.password or self.token)) or (self.password and not self.username):
            raise Failure("invalid_option", "username and password need each other.", "Give both, or neither.")
        if self.username and ":" in self.username:
            raise Failure("invalid_option", "username has a colon in it, which HTTP does not allow (RFC 7617).")
        for name in ("auth_file", "ca_path"):
            path = getattr(self, name)
            if path and not os.access(path, os.R_OK):
                raise Failure("invalid_option", f"{name}: {path} cannot be read.", "Check the path on the node.")

    def credentials(self, registry: str) -> str | None:
        """What skopeo is given as its file of credentials (containers-auth.json(5)); None for those of the node."""
        if self.password:
            entry = {"auth": _base64(f"{self.username}:{self.password}")}
        elif self.token:
            entry = {"auth": _base64(f"{self.username or _TOKEN_USER}:"), "identitytoken": self.token}
        else:
            return None
        return json.dumps({"auths": {registry: entry}})

    def without_secrets(self, text: str) -> str:
        """A text in which no secret of these is."""
        for secret in (self.password, self.token):
            if secret:
                for form in (secret, json.dumps(secret)[1:-1], _base64(f"{self.username}:{secret}")):
                    text = text.replace(form, "********")
        return text


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@dataclass(frozen=True)
class _Done:
    rc: int
    stdout: bytes
    message: str


class Skopeo:
    """Speaks to a registry through skopeo. timeout: seconds for one image."""

    def __init__(self, access: Access, timeout: float) -> None:
        access.check()
        self._access = access
        self._timeout = timeout

    def manifest(self, reference: Reference) -> bytes:
        """What the registry has for a reference, byte for byte: a manifest or an index.

        It costs one request to the registry, and what it wants for logging in.

        Raises:
            Failure: ``image_missing``, ``unauthorized``, ``untrusted_certificate``, ``registry_unreachable`` …
        """
        done = self._run(reference, ["inspect", "--raw", *self._tls("")], [f"docker://{_name(reference)}"])
        return done.stdout

    def pull(
        self,
        reference: Reference,
        layout: str,
        hold: t.Sequence[int] = (),
        tick: t.Callable[[], None] = lambda: None,
    ) -> None:
        """Copy an image into a layout as :data:`NAME`, as OCI and with gzip layers.

        hold: descriptors of locks that are held as long as skopeo runs, also when this process is killed. tick: called
        again and again meanwhile.

        Raises:
            Failure: as :meth:`manifest`, and ``digest_mismatch``, ``blob_missing``, ``policy_refused``, ``disk_full``.
        """
        argv = ["copy", "--quiet", "--format", "oci", "--dest-compress-format", "gzip", *self._tls("src-")]
        policy = [] if _has_policy() else ["--insecure-policy"]
        self._run(
            reference,
            argv,
            [f"docker://{_name(reference)}", f"oci:{layout}:{NAME}"],
            ["--tmpdir", layout, *policy],
            hold,
            tick,
        )

    def push(self, layout: str, reference: Reference, hold: t.Sequence[int] = ()) -> None:
        """Copy the image :data:`NAME` of a layout to a registry. Its digest stays.

        Raises:
            Failure: as :meth:`pull`.
        """
        # The policy is about where images come from, and was applied when this one was pulled.
        self._run(
            reference,
            ["copy", "--quiet", "--preserve-digests", *self._tls("dest-")],
            [f"oci:{layout}:{NAME}", f"docker://{_name(reference)}"],
            ["--tmpdir", layout, "--insecure-policy"],
            hold,
        )

    def _tls(self, prefix: str) -> list[str]:
        return [] if self._access.validate_certs else [f"--{prefix}tls-verify=false"]

    def _run(
        self,
        reference: Reference,
        command: t.Sequence[str],
        operands: t.Sequence[str],
        options: t.Sequence[str] = (),
        hold: t.Sequence[int] = (),
        tick: t.Callable[[], None] = lambda: None,
    ) -> _Done:
        if not shutil.which("skopeo", path=environment()["PATH"]):
            raise Failure(
                "command_missing", "There is no command skopeo on this machine.", "Install it there.", command="skopeo"
            )
        with contextlib.ExitStack() as stack:
            keep = list(hold)
            login: list[str] = []
            text = self._access.credentials(reference.registry)
            if text is not None:
                # A file in memory: nothing is left of it, however this process ends.
                handle = os.memfd_create("credentials")
                stack.callback(os.close, handle)
                os.write(handle, text.encode())
                keep.append(handle)
                login = ["--authfile", f"/proc/self/fd/{handle}"]
            elif self._access.auth_file:
                login = ["--authfile", self._access.auth_file]
            argv = [*_dying_with_parent(), "skopeo", *options, command[0], *login, *command[1:], *operands]
            done = self._execute(argv, keep, tick, reference)
        if done.rc:
            raise self._failure(done, reference)
        return done

    def _execute(
        self, argv: t.Sequence[str], keep: t.Sequence[int], tick: t.Callable[[], None], reference: Reference
    ) -> _Done:
        # node.commands returns text, in which a manifest would not keep its digest, and hands no descriptors on.
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=keep,
            env={**environment(), **({"SSL_CERT_FILE": self._access.ca_path} if self._access.ca_path else {})},
        )
        end = time.monotonic() + self._timeout
        with process:
            try:
                while True:
                    try:
                        stdout, stderr = process.communicate(timeout=_TICK)
                        break
                    except subprocess.TimeoutExpired:
                        tick()
                        if time.monotonic() > end:
                            raise Failure(
                                "registry_timeout",
                                f"{reference.registry} did not serve {reference} in {self._timeout:g} seconds.",
                                "Raise 'timeout', or run again: what is complete is not moved twice.",
                                reference=str(reference),
                            ) from None
            except BaseException:
                process.kill()
                raise
        return _Done(process.returncode, stdout, said(stderr.decode(errors="replace")))

    def _failure(self, done: _Done, reference: Reference) -> Failure:
        code, hint = classify(without_names(done.message, reference))
        message = self._access.without_secrets(done.message)[-600:]
        return Failure(
            code,
            f"{reference}: {message or f'skopeo ended with {done.rc}'}.",
            hint,
            reference=str(reference),
            registry=reference.registry,
        )


def classify(message: str) -> tuple[str, str]:
    """The code and the hint for what skopeo said."""
    for code, pattern, hint in _COMPILED:
        if pattern.search(message):
            return code, hint
    return "copy_failed", "See what skopeo says."


def without_names(message: str, reference: Reference) -> str:
    """A message of skopeo without what an image is called: a tag may be a number, and a name a word of a sentence."""
    names = "|".join(map(re.escape, (reference.name, reference.registry)))
    address = r'(?:docker|https?)://[^\s"]+'
    return re.sub(rf"{address}|\bmanifest \S+ (?:in|to) |(?<![\w.-])(?:{names})(?:[:@][\w.:-]*\w)?", "", message)


def said(stderr: str) -> str:
    """The last message of skopeo's log: the fatal one, without what logrus puts around it."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if not lines:
        return ""
    match = re.search(r'level=fatal msg="((?:[^"\\]|\\.)*)"', lines[-1])
    message = re.sub(r"\\(.)", r"\1", match[1]) if match else lines[-1]
    return message.rstrip(".")


def _name(reference: Reference) -> str:
    """As skopeo takes it: without a tag when there is a digest."""
    return str(reference.at(reference.digest)) if reference.digest else str(reference)


def _dying_with_parent() -> list[str]:
    return ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv", path=environment()["PATH"]) else []


def _has_policy() -> bool:
    home = os.path.expanduser("~")
    return os.path.exists(_POLICY) or os.path.exists(os.path.join(home, _USER_POLICY))
