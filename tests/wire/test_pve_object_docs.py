# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples of docs/objects.md: each in check mode, for real, and again."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import yaml
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.table import KINDS
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator
from ansible_collections.lxcri.proxmox.tests.wire.objects import Pve

TEXT = (Path(__file__).parents[2] / "docs/objects.md").read_text(encoding="utf-8")
MODULE = "lxcri.proxmox.pve_object"


def tasks(text: str) -> list[dict[str, t.Any]]:
    """The tasks in the YAML blocks of a text."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [task for block in blocks for task in yaml.safe_load(block)]


def test_every_example_does_what_it_says(cluster: Simulator) -> None:
    pve = Pve(cluster)
    for vmid in (101, 102):
        cluster.call("add_ct", vmid, name=f"ct{vmid}", node="pve1")
    before, each = TEXT.split("## Every kind")
    shown = tasks(each)
    for task in shown:
        options = dict(task[MODULE])
        given = options.pop("objects", None) or [options.pop("object")]
        run = pve.converge(options.pop("kind"), *given, **options)
        assert run.changed, task["name"]
    assert {task[MODULE]["kind"] for task in shown} == set(KINDS)
    for task in tasks(before):
        options = dict(task[MODULE])
        given = options.pop("objects", None) or [options.pop("object")]
        pve.converge(options.pop("kind"), *given, **options)


def test_every_kind_has_its_heading() -> None:
    headings = re.findall(r"^### (.+)$", TEXT, re.MULTILINE)
    assert sorted(name for heading in headings for name in heading.split(", ")) == sorted(KINDS)


def test_the_kinds_without_an_owner_are_named() -> None:
    sentence = TEXT.split("Kinds without a comment have no owner, and say so: ")[1].split(". The mark")[0]
    assert set(re.findall(r"`(\w+)`", sentence)) == {kind.name for kind in KINDS.values() if kind.comment is None}
