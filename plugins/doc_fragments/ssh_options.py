# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import re
import typing as t

import yaml
from ansible.plugins.connection import ssh

# What belongs to the transfer of files by sftp and scp, and what a plugin that extends ssh has to say itself.
_LEFT_OUT = r"host|remote_user|sftp_.*|scp_.*|ssh_transfer_method"

# This is done for every task, in a process of its own, so it shall not take long; JSON is YAML.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _options() -> dict[str, t.Any]:
    """The options of ssh in the ansible-core that runs: its plugin asks for those that it has."""
    options = yaml.load(ssh.DOCUMENTATION, Loader=_Loader)["options"]
    # Compressing takes many times as long as sending what does not compress, or goes over a local network.
    options["ssh_args"]["default"] = options["ssh_args"]["default"].replace("-C ", "")
    return {name: _without_versions(option) for name, option in options.items() if not re.fullmatch(_LEFT_OUT, name)}


def _without_versions(option: t.Any) -> t.Any:
    """Versions of ansible-core, which would be taken for versions of this collection."""
    if isinstance(option, dict):
        return {key: _without_versions(value) for key, value in option.items() if key != "version_added"}
    return [_without_versions(value) for value in option] if isinstance(option, list) else option


class ModuleDocFragment:
    # The options of the connection plugin ssh. Annotated, because ansible-test takes a plain one for a constant.
    DOCUMENTATION: str = json.dumps({"options": _options()})
