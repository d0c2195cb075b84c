# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A module whose options are objects."""

from __future__ import annotations

import typing as t

from ansible_collections.lxcri.proxmox.plugins.module_utils.module import Module, parts_of
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.fields import Field
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.table import KINDS


class ObjectModule(Module):
    """Hides the secret fields of objects.

    ``no_log`` would hide all of the objects, also in results.
    """

    def secrets(self) -> t.Iterator[str]:
        """With those in the objects."""
        yield from super().secrets()
        yield from secrets_in(self.params)


def secrets_in(params: t.Mapping[str, t.Any]) -> t.Iterator[str]:
    """The texts in what is a secret field of any kind: the kind that is given may be wrong."""
    for part in parts_of([params.get("object"), params.get("objects")]):
        if isinstance(part, str):
            yield part
            continue
        for kind in KINDS.values():
            for name, it in kind.fields.items():
                yield from _texts(it, part.get(name))


def _texts(it: Field, value: t.Any) -> t.Iterator[str]:
    """The texts of a field; of property strings those that are secret, without names that are common words."""
    if isinstance(value, dict):
        for name, item in value.items():
            if str(name) in it.subs:
                yield from _texts(it.subs[str(name)], item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(it, item)
    elif value not in (None, "") and not isinstance(value, bool):
        if it.secret:
            yield str(value)
        if it.subs:
            pairs = (part.strip().partition("=") for part in str(value).split(","))
            yield from (text for name, _equals, text in pairs if text and name in it.subs and it.subs[name].secret)
