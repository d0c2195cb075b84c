# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import re
import typing as t

import yaml
from ansible_collections.lxcri.proxmox.plugins.doc_fragments import api

# This is done for every task, in a process of its own, so it shall not take long; JSON is YAML.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _options() -> dict[str, t.Any]:
    """The options of the modules. What stands for one in the environment is read by Ansible itself for a plugin."""
    options = yaml.load(api.ModuleDocFragment.DOCUMENTATION, Loader=_Loader)["options"]
    for option in options.values():
        names = re.findall(r"E\((\w+)\)", " ".join(option["description"]))
        if names:
            option["env"] = [{"name": name} for name in names]
    return t.cast("dict[str, t.Any]", options)


class ModuleDocFragment:
    # How a plugin on the controller reaches the API. Annotated, because ansible-test takes a plain one for a constant.
    DOCUMENTATION: str = json.dumps({"options": _options()})
