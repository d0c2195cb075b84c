# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What skopeo says, of the versions that are in use, and what it is given."""

from __future__ import annotations

import base64
import json

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci import skopeo
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.reference import parse_reference
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.skopeo import (
    Access,
    Skopeo,
    classify,
    said,
    without_names,
)

DIGEST = "sha256:" + "4" * 64


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("writing blob: storing blob to file: write /x/oci-put-blob1: no space left on device", "disk_full"),
        ("write /x: disk quota exceeded", "disk_full"),
        ("Source image rejected: Running image docker://x is rejected by policy.", "policy_refused"),
        ("Source image rejected: A signature was required, but no signature exists", "policy_refused"),
        (
            f"writing blob: happened during read: Digest did not match, expected {DIGEST}, got {DIGEST}",
            "digest_mismatch",
        ),
        (f"Download config.json digest {DIGEST} does not match expected {DIGEST}", "digest_mismatch"),
        (f"Manifest does not match provided manifest digest {DIGEST}", "digest_mismatch"),
        (f"writing blob: Size mismatch when copying {DIGEST}, expected 7, got 173", "size_mismatch"),
        ('Get "https://r/v2/": http: server gave HTTP response to HTTPS client', "registry_without_tls"),
        ('Get "https://r/v2/": x509: certificate signed by unknown authority', "untrusted_certificate"),
        (
            'Get "https://r/v2/": tls: failed to verify certificate: x509: certificate has expired or is not yet valid',
            "untrusted_certificate",
        ),
        ("reading manifest 1 in docker.io/library/a: toomanyrequests: You have reached your pull rate", "rate_limited"),
        ("received unexpected HTTP status: 429 Too Many Requests", "rate_limited"),
        (
            f"reading blob {DIGEST}: Error fetching blob: invalid status code from registry 404 (Not Found)",
            "blob_missing",
        ),
        (f"reading blob {DIGEST}: fetching blob: blob unknown to registry", "blob_missing"),
        ("reading manifest 1 in r/a: unauthorized: authentication required", "unauthorized"),
        ("requested access to the resource is denied", "unauthorized"),
        ("unable to retrieve auth token: invalid username/password: unauthorized", "unauthorized"),
        ('reading manifest 1 in r/a: StatusCode: 403, {"errors": []}', "unauthorized"),
        ("reading manifest 1 in r/a: manifest unknown: manifest unknown", "image_missing"),
        ("reading manifest 1 in r/a: name unknown: repository name not known to registry", "image_missing"),
        ("dial tcp 127.0.0.1:1: connect: connection refused", "registry_unreachable"),
        ("dial tcp: lookup r on 10.0.0.1:53: no such host", "registry_unreachable"),
        ("happened during read: unexpected EOF", "registry_unreachable"),
        ("received unexpected HTTP status: 503 Service Unavailable", "registry_unreachable"),
        ("context deadline exceeded", "registry_unreachable"),
        ("something new", "copy_failed"),
        ("", "copy_failed"),
    ],
)
def test_what_a_sentence_means(message: str, code: str) -> None:
    found, hint = classify(message)
    assert found == code
    assert hint


@pytest.mark.parametrize(
    "image",
    [
        "r:5000/shop/web:429",
        "r:5000/shop/x509:1",
        "r:5000/shop/credentials-helper:404",
        "x509.example.org/a:unauthorized",
    ],
)
@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("initializing destination docker://{0}: reading manifest {1} in {2}: something new", "copy_failed"),
        ("reading manifest {1} in {2}: manifest unknown: manifest unknown", "image_missing"),
        (
            "uploading manifest {1} to {2}: received unexpected HTTP status: 503 Service Unavailable",
            "registry_unreachable",
        ),
        (
            'Get "https://{3}/v2/{4}/manifests/{1}": dial tcp 10.0.0.1:443: connect: connection refused',
            "registry_unreachable",
        ),
        ('Get "https://{3}/v2/": http: server gave HTTP response to HTTPS client', "registry_without_tls"),
        ("pinging container registry {3}: i/o timeout", "registry_unreachable"),
        ("reading manifest {1} in {2}: received unexpected HTTP status: 429 Too Many Requests", "rate_limited"),
        ("reading manifest {1} in {2}: StatusCode: 429, <html>", "rate_limited"),
        ("reading manifest {1} in {2}: unauthorized: authentication required", "unauthorized"),
        ('Get "https://{3}/v2/": x509: certificate signed by unknown authority', "untrusted_certificate"),
    ],
)
def test_the_name_of_an_image_means_nothing(image: str, message: str, code: str) -> None:
    reference = parse_reference(image)
    names = (reference, reference.tag, reference.name, reference.registry, reference.repository)
    assert classify(without_names(message.format(*names), reference))[0] == code


def test_the_last_word_counts() -> None:
    text = (
        'time="2026-01-01T00:00:00Z" level=warning msg="Failed, retrying in 1s ... (1/3). Error: x"\n'
        'time="2026-01-01T00:00:00Z" level=fatal msg="Error: Get \\"https://r/\\": x509: unknown."\n\n'
    )
    assert said(text) == 'Error: Get "https://r/": x509: unknown'
    assert said("only this\n") == "only this"
    assert said("") == ""


def test_credentials() -> None:
    text = Access(username="me", password="a:b c").credentials("r:5000")
    assert json.loads(text or "") == {"auths": {"r:5000": {"auth": base64.b64encode(b"me:a:b c").decode()}}}
    entry = json.loads(Access(token="t").credentials("r") or "")["auths"]["r"]
    assert entry["identitytoken"] == "t"
    assert base64.b64decode(entry["auth"]).endswith(b":")
    assert Access(auth_file="/x").credentials("r") is None


def test_secrets_are_taken_out() -> None:
    access = Access(username="me", password='pass"word')
    for form in ('pass"word', 'pass\\"word', base64.b64encode(b'me:pass"word').decode()):
        assert access.without_secrets(f"<{form}>") == "<********>"
    assert Access().without_secrets("text") == "text"


def test_skopeo_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skopeo, "environment", lambda: {"PATH": "/nowhere"})
    with pytest.raises(Failure) as caught:
        Skopeo(Access(), 1).manifest(parse_reference("a"))
    assert caught.value.code == "command_missing"


def test_what_skopeo_is_asked_for() -> None:
    assert skopeo._name(parse_reference("a:1")) == "docker.io/library/a:1"
    assert skopeo._name(parse_reference(f"a:1@{DIGEST}")) == f"docker.io/library/a@{DIGEST}"
