# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options by which every module reaches the API, and how a module ends."""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule, env_fallback
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client, Credentials
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure


def _env(name: str) -> tuple[t.Any, list[str]]:
    return (env_fallback, [name])


def api_options() -> dict[str, t.Any]:
    """The argument specification that all modules share (documented in the fragment ``api``)."""
    return {
        "api_backend": {"type": "str", "choices": ["https", "local", "openssh"], "default": "https"},
        "api_host": {"type": "str", "fallback": _env("PROXMOX_HOST")},
        "api_port": {"type": "int", "default": 8006, "fallback": _env("PROXMOX_PORT")},
        "api_user": {"type": "str", "default": "root@pam", "fallback": _env("PROXMOX_USER")},
        "api_password": {"type": "str", "no_log": True, "fallback": _env("PROXMOX_PASSWORD")},
        "api_token_id": {"type": "str", "no_log": False, "fallback": _env("PROXMOX_TOKEN_ID")},
        "api_token_secret": {"type": "str", "no_log": True, "fallback": _env("PROXMOX_TOKEN_SECRET")},
        "validate_certs": {"type": "bool", "default": True, "fallback": _env("PROXMOX_VALIDATE_CERTS")},
        "ca_path": {"type": "path", "fallback": _env("PROXMOX_CA_PATH")},
        "api_timeout": {"type": "int", "default": 30},
    }


def credentials(params: t.Mapping[str, t.Any]) -> Credentials:
    """The credentials that a module's options give.

    Raises:
        Failure: ``invalid_option`` when they are incomplete.
    """
    backend = params["api_backend"]
    if backend != "local" and not params["api_host"]:
        raise _incomplete("api_host", "Give api_host, or set PROXMOX_HOST in the environment.")
    user, token_id = params["api_user"], params["api_token_id"]
    if token_id and "!" in token_id:
        user, _bang, token_id = token_id.partition("!")
    if backend == "https":
        if "@" not in user:
            raise _incomplete("api_user", f"Give the realm as well, such as {user}@pam.")
        if token_id and not params["api_token_secret"]:
            raise _incomplete("api_token_secret", "Give the secret of the token as well.")
        if not token_id and not params["api_password"]:
            raise _incomplete("api_password", "Give api_password, or api_token_id and api_token_secret.")
    return Credentials(
        backend=backend,
        host=params["api_host"],
        port=params["api_port"],
        user=user,
        password=params["api_password"],
        token_id=token_id,
        token_secret=params["api_token_secret"],
        verify=(params["ca_path"] or True) if params["validate_certs"] else False,
        timeout=params["api_timeout"],
        command_timeout=max(params["api_timeout"], params.get("timeout") or 600),
    )


def _incomplete(option: str, hint: str) -> Failure:
    return Failure("invalid_option", f"{option}: it is missing or incomplete.", hint, option=option)


def run(module: AnsibleModule, work: t.Callable[[t.Callable[[], Client]], dict[str, t.Any]]) -> None:
    """Do the work of a module and end it: with its result, or with a structured failure.

    work: given a function that makes the client, so that bad options are refused before anything is connected.

    A result with a ``failure`` ends the module as failed, and keeps what was done.
    """
    try:
        result = work(lambda: Client(credentials(module.params)))
    except Failure as failure:
        module.fail_json(msg=failure.sentence, failure=failure.as_dict())
    for warning in result.pop("warnings", []):
        module.warn(warning)
    if result.get("failure"):
        module.fail_json(msg=result.pop("msg"), **result)
    module.exit_json(**result)
