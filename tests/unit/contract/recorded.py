# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests and answers recorded from a Proxmox VE 9.2 system, and the tables that say what is to be made of them."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

HERE = Path(__file__).parent


def records(name: str) -> list[dict[str, t.Any]]:
    """The records of one file; ``{"repeat": "x", "times": n}`` is written out."""
    text = (HERE / "records" / f"{name}.jsonl").read_text(encoding="utf-8")
    return [_written_out(json.loads(line)) for line in text.splitlines()]


def table(name: str) -> list[list[str]]:
    """The rows of a reviewed table, without its comments."""
    text = (HERE / f"{name}.tsv").read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines() if not line.startswith("#")]


def _written_out(value: t.Any) -> t.Any:
    if isinstance(value, dict):
        if "repeat" in value:
            return value["repeat"] * value["times"] + value.get("then", "")
        return {key: _written_out(item) for key, item in value.items()}
    return [_written_out(item) for item in value] if isinstance(value, list) else value
