# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of several images is meant: by platform, and by name."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.reference import (
    choose_platform,
    parse_platform,
    platform_of,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.source import choose_entry


def described(name: str) -> dict[str, t.Any]:
    if not name:
        return {"name": name}
    system, architecture, *variant = name.split("/")
    more = {"variant": variant[0]} if variant else {}
    return {"name": name, "platform": {"os": system, "architecture": architecture, **more}}


@pytest.mark.parametrize(
    ("wanted", "there", "found"),
    [
        ("arm", ["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7"),
        ("arm", ["linux/arm/v6", "linux/arm/v5"], "linux/arm/v6"),
        ("arm", ["linux/arm"], "linux/arm"),
        ("arm64", ["linux/arm64/v8"], "linux/arm64/v8"),
        ("linux/arm64/v8", ["linux/arm64"], "linux/arm64"),
        ("amd64", ["linux/amd64/v2", "linux/amd64"], "linux/amd64"),
        ("amd64", ["linux/amd64/v2"], None),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], "linux/amd64/v2"),
        ("linux/amd64/v2", ["linux/amd64"], "linux/amd64"),
        ("amd64", ["", "linux/amd64"], "linux/amd64"),
        ("amd64", ["linux/arm64", "unknown/unknown", ""], ""),
        ("amd64", ["linux/arm64", "unknown/unknown"], None),
    ],
)
def test_which_platform_serves(wanted: str, there: list[str], found: str | None) -> None:
    chosen = choose_platform([described(name) for name in there], parse_platform(wanted))
    assert (chosen and chosen["name"]) == found


def test_a_platform_that_is_no_object() -> None:
    assert choose_platform([{"platform": "linux/amd64"}, {"platform": []}], parse_platform("amd64")) is None


def test_each_platform_has_one_name() -> None:
    assert parse_platform("arm64") == parse_platform("linux/arm64/v8") == platform_of("aarch64")
    assert parse_platform("arm") == parse_platform("linux/arm/v7") == platform_of("armv7l")
    assert parse_platform("linux/amd64/v1") == parse_platform("amd64") == platform_of("x86_64")


def saved(*names: str) -> list[dict[str, t.Any]]:
    """The index of an archive as docker save writes it since Docker 25."""
    keys = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
    return [
        {"digest": name, "annotations": dict(zip(keys, (f"docker.io/library/{name}", name.partition(":")[2])))}
        for name in names
    ]


def test_names_of_docker() -> None:
    entries = saved("web:1.29", "web:latest", "db:latest")
    for tag in ("web:1.29", "docker.io/library/web:1.29", "1.29"):
        assert choose_entry(entries, tag, "x")["digest"] == "web:1.29"
    for tag in ("db:latest", "db"):
        assert choose_entry(entries, tag, "x")["digest"] == "db:latest"
    assert choose_entry(saved("web:1"), None, "x")["digest"] == "web:1"
    for wrong in ("latest", None, "none:1", "Not A Name"):
        with pytest.raises(Failure) as caught:
            choose_entry(entries, wrong, "x")
        assert caught.value.code == "image_not_found"
        assert caught.value.details["names"] == [f"docker.io/library/{entry['digest']}" for entry in entries]
