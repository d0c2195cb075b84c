# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A module whose options may have secrets in them."""

from __future__ import annotations

import re
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.validation import check_type_dict


class Module(AnsibleModule):
    """Knows its secrets before anything else is done with its options.

    ansible-core learns them while it checks the options. It forgets them all, those of the API too, when a list of
    dictionaries has something else in it, and then shows the options in the result that says so.
    """

    def _load_params(self) -> None:
        super()._load_params()
        self.no_log_values.update(self.secrets())

    def secrets(self) -> t.Iterator[str]:
        """The texts that must not be shown, whether or not the options are as they have to be."""
        return _hidden(self.argument_spec, self.params)


def _hidden(spec: t.Mapping[str, t.Any], params: t.Mapping[str, t.Any]) -> t.Iterator[str]:
    for name, it in spec.items():
        for value in (params.get(spelled) for spelled in (name, *it.get("aliases", ()))):
            if it.get("no_log"):
                yield from texts_in(value)
            elif _has_secrets(it):
                for part in parts_of(value):
                    yield from [part] if isinstance(part, str) else _hidden(it["options"], part)


def _has_secrets(it: t.Mapping[str, t.Any]) -> bool:
    return any(sub.get("no_log") or _has_secrets(sub) for sub in (it.get("options") or {}).values())


def texts_in(value: t.Any) -> t.Iterator[str]:
    """Every text in a value, however it is nested."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from texts_in(item)
    elif value not in (None, "") and not isinstance(value, bool):
        yield str(value)


def parts_of(value: t.Any) -> t.Iterator[dict[str, t.Any] | str]:
    """The dictionaries of an option, and the texts in their place that may have secrets in them."""
    if isinstance(value, dict):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from parts_of(item)
    elif isinstance(value, str) and re.search("[=:]", value):
        # As a whole, and in the pieces that ansible-core makes of it.
        yield value
        pieces = value.split(",")
        if len(pieces) > 1:
            yield from parts_of(pieces)
        try:
            read = check_type_dict(value)
        except TypeError:
            return
        yield from parts_of(read)
