# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a mapping to Proxmox comes to: options of the API, raw lines, and what is lost."""

from __future__ import annotations

import shlex
import typing as t
from dataclasses import dataclass, field

from ..api.errors import Failure
from ..node.raw_keys import CONTROL, is_admitted
from .layout import Json


@dataclass
class Mapped:
    """A container as Proxmox can express it.

    api: options of ``lxc_container`` by their names. raw: lines of N.conf for ``lxc_raw_config``, in their order.
    losses: what is dropped or only approximated; each has ``key``, ``value``, ``reason`` and, when something stands
    in for it, ``approximated_by``. files: texts by the paths that raw lines name.
    """

    api: dict[str, t.Any] = field(default_factory=dict)
    raw: list[tuple[str, str]] = field(default_factory=list)
    losses: list[Json] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> Json:
        """As the result of a module; ``raw`` is what ``lxc_raw_config`` takes."""
        return {
            "api": self.api,
            "raw": [{"key": key, "value": value} for key, value in self.raw],
            "losses": self.losses,
            "files": self.files,
        }

    def lose(self, key: str, value: t.Any, reason: str, approximated_by: str | None = None) -> None:
        """Report what cannot be expressed."""
        loss = {"key": key, "value": value, "reason": reason}
        if approximated_by is not None:
            loss["approximated_by"] = approximated_by
        self.losses.append(loss)

    def line(self, source: str, key: str, value: t.Any) -> bool:
        """Add a raw line, or report that there is none for this value. source: the key that it comes from."""
        text = str(value)
        reason = ""
        if not is_admitted(key):
            reason = f"Proxmox does not admit {key}"
        elif CONTROL.search(text):
            reason = "it has a control character"
        elif text != text.strip(" \t"):
            reason = "a line of the configuration cannot begin or end with a space"
        if reason:
            self.lose(source, value, reason)
            return False
        self.raw.append((key, text))
        return True

    def rest(self, prefix: str, section: Json, known: t.Iterable[str]) -> None:
        """Report the keys of a section that nothing is known about."""
        for key in sorted(set(section) - set(known)):
            self.lose(f"{prefix}{key}", section[key], "this version knows nothing like it in Proxmox")


def shell_hook(words: t.Sequence[str]) -> str:
    """A hook of LXC that runs a command: a shell reads it, with arguments of LXC behind it (run_script_argv)."""
    return f"{shlex.join(words)} #"


def section(value: t.Any, key: str) -> Json:
    """An object of a document that others have written; empty when it is missing.

    Raises:
        Failure: ``invalid_spec``.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong(key, "an object")
    return value


def entries(value: t.Any, key: str) -> list[Json]:
    """A list of objects.

    Raises:
        Failure: ``invalid_spec``.
    """
    if not all(isinstance(entry, dict) for entry in items(value, key)):
        raise wrong(key, "a list of objects")
    return list(value or [])


def strings(value: t.Any, key: str) -> list[str]:
    """A list of strings.

    Raises:
        Failure: ``invalid_spec``.
    """
    if not all(isinstance(entry, str) for entry in items(value, key)):
        raise wrong(key, "a list of strings")
    return list(value or [])


def items(value: t.Any, key: str) -> list[t.Any]:
    """A list.

    Raises:
        Failure: ``invalid_spec``.
    """
    if value is not None and not isinstance(value, list):
        raise wrong(key, "a list")
    return list(value or [])


def number(value: t.Any, key: str) -> int:
    """A whole number.

    Raises:
        Failure: ``invalid_spec``.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong(key, "a whole number")
    return value


def text(value: t.Any, key: str) -> str:
    """A string.

    Raises:
        Failure: ``invalid_spec``.
    """
    if not isinstance(value, str):
        raise wrong(key, "a string")
    return value


def wrong(key: str, kind: str) -> Failure:
    """A document that does not follow the runtime specification."""
    return Failure("invalid_spec", f"{key} is not {kind}.", "Correct the runtime specification.", key=key)
