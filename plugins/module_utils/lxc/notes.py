# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Notes of this collection in a description, each a comment of its own kind beside what a person wrote. Pure."""

from __future__ import annotations

import re
import typing as t

# What every note begins with, and nothing else may.
NOTE = "<!-- lxcri.proxmox "


def with_note(description: t.Any, kind: re.Pattern[str], note: t.Any) -> str:
    """A description with another note of a kind, or without one.

    It takes the place of the one that is there, or comes at the end, so that writing what is there changes nothing.

    kind: what matches a note of that kind, with the newlines before it. note: None for none.
    """
    text = str(description or "")
    match = kind.search(text)
    before, after = (text[: match.start()], text[match.end() :]) if match else (text, "")
    parts = (before.rstrip("\n"), str(note) if note else "", kind.sub("", after).strip("\n"))
    return "\n\n".join(filter(None, parts))
