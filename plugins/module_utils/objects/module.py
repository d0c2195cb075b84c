# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A module whose options may have secrets in them."""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.fields import Field
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.table import KINDS


class ObjectModule(AnsibleModule):
    """Hides the secret fields of objects.

    ``no_log`` would hide all of the objects, also in results.
    """

    def _log_invocation(self) -> None:
        # Called before anything else is done with the options, and the first to show them.
        self.no_log_values.update(secrets_in(self.params))
        super()._log_invocation()


def secrets_in(params: t.Mapping[str, t.Any]) -> set[str]:
    """The texts in the secret fields of the objects."""
    kind = KINDS.get(str(params.get("kind")))
    if kind is None:
        return set()
    objects = [it for it in (params.get("object"), *(params.get("objects") or [])) if isinstance(it, dict)]
    return {text for it in objects for name in kind.secrets for text in _texts(kind.fields[name], it.get(name))}


def _texts(it: Field, value: t.Any) -> t.Iterator[str]:
    """The texts of a field; of property strings those that are secret, without names that are common words."""
    if isinstance(value, dict):
        for name, item in value.items():
            if str(name) in it.subs and it.subs[str(name)].secret:
                yield from _texts(it.subs[str(name)], item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(it, item)
    elif value not in (None, "") and not isinstance(value, bool):
        yield str(value)
        if it.subs:
            pairs = (part.partition("=") for part in str(value).split(","))
            yield from (text for name, _equals, text in pairs if text and name in it.subs and it.subs[name].secret)
