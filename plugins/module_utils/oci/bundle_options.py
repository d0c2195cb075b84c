# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that describe what a runtime does: the words of the runtime specification, as Ansible writes them."""

from __future__ import annotations

import json
import typing as t

from ..api.errors import Failure
from .layout import Json
from .runtime_spec import HOOKS, NAMESPACES

SPEC_OPTIONS = (
    *("process", "root", "hostname", "mounts", "namespaces", "resources", "devices", "seccomp", "sysctl"),
    *("masked_paths", "readonly_paths", "rootfs_propagation", "cgroups_path", "mount_label", "hooks"),
    *("annotations", "spec"),
)
_STRINGS = {"type": "list", "elements": "str"}
_RULES = {"type": "list", "elements": "dict"}


def _numbers(*names: str) -> dict[str, t.Any]:
    return {name: {"type": "int"} for name in names}


def _throttle() -> dict[str, t.Any]:
    options = {name: {"type": "int", "required": True} for name in ("major", "minor", "rate")}
    return {**_RULES, "options": options}


def _weights() -> dict[str, t.Any]:
    options = {name: {"type": "int", "required": True} for name in ("major", "minor")}
    return {**_RULES, "options": {**options, **_numbers("weight", "leaf_weight")}}


def _hook() -> dict[str, t.Any]:
    return {
        **_RULES,
        "options": {
            "path": {"type": "str", "required": True},
            "args": _STRINGS,
            "env": {"type": "dict"},
            "timeout": {"type": "int"},
        },
    }


def spec_options() -> dict[str, t.Any]:
    """The argument specification of :data:`SPEC_OPTIONS` (documented in the module ``oci_bundle``)."""
    return {
        "process": {
            "type": "dict",
            "options": {
                "entrypoint": _STRINGS,
                "args": _STRINGS,
                "env": {"type": "dict"},
                "cwd": {"type": "str"},
                "user": {"type": "str"},
                "additional_gids": {"type": "list", "elements": "int"},
                "umask": {"type": "str"},
                "capabilities": {
                    "type": "dict",
                    "options": {"add": _STRINGS, "drop": _STRINGS, "only": _STRINGS, "ambient": _STRINGS},
                },
                "rlimits": {
                    **_RULES,
                    "options": {
                        "type": {"type": "str", "required": True},
                        "soft": {"type": "str", "required": True},
                        "hard": {"type": "str"},
                    },
                },
                "no_new_privileges": {"type": "bool"},
                "terminal": {"type": "bool"},
                "oom_score_adj": {"type": "int"},
                "apparmor_profile": {"type": "str"},
                "selinux_label": {"type": "str"},
            },
        },
        "root": {"type": "dict", "options": {"readonly": {"type": "bool"}}},
        "hostname": {"type": "str"},
        "mounts": {
            **_RULES,
            "options": {
                "destination": {"type": "str", "required": True},
                "type": {"type": "str"},
                "source": {"type": "str"},
                "options": _STRINGS,
            },
        },
        "namespaces": {
            **_RULES,
            "options": {
                "type": {"type": "str", "required": True, "choices": list(NAMESPACES)},
                "path": {"type": "str"},
            },
        },
        "resources": {
            "type": "dict",
            "options": {
                "memory": {
                    "type": "dict",
                    "options": {
                        **{name: {"type": "str"} for name in ("limit", "reservation", "swap")},
                        **_numbers("swappiness"),
                        "disable_oom_killer": {"type": "bool"},
                    },
                },
                "cpu": {
                    "type": "dict",
                    "options": {
                        **_numbers("shares", "quota", "period", "realtime_runtime", "realtime_period"),
                        "cpus": {"type": "str"},
                        "mems": {"type": "str"},
                    },
                },
                "pids": {"type": "dict", "options": {"limit": {"type": "int", "required": True}}},
                "block_io": {
                    "type": "dict",
                    "options": {
                        **_numbers("weight", "leaf_weight"),
                        "weight_device": _weights(),
                        "throttle_read_bps_device": _throttle(),
                        "throttle_write_bps_device": _throttle(),
                        "throttle_read_iops_device": _throttle(),
                        "throttle_write_iops_device": _throttle(),
                    },
                },
                "devices": {
                    **_RULES,
                    "options": {
                        "allow": {"type": "bool", "required": True},
                        "type": {"type": "str", "choices": ["a", "b", "c"]},
                        **_numbers("major", "minor"),
                        "access": {"type": "str"},
                    },
                },
                "unified": {"type": "dict"},
            },
        },
        "devices": {
            **_RULES,
            "options": {
                "path": {"type": "str", "required": True},
                "type": {"type": "str", "required": True, "choices": ["b", "c", "u", "p"]},
                **_numbers("major", "minor", "uid", "gid"),
                "file_mode": {"type": "str"},
            },
        },
        "seccomp": {"type": "raw"},
        "sysctl": {"type": "dict"},
        "masked_paths": _STRINGS,
        "readonly_paths": _STRINGS,
        "rootfs_propagation": {"type": "str", "choices": ["private", "shared", "slave", "unbindable"]},
        "cgroups_path": {"type": "str"},
        "mount_label": {"type": "str"},
        "hooks": {"type": "dict", "options": {name: _hook() for name in HOOKS}},
        "annotations": {"type": "dict"},
        "spec": {"type": "dict"},
    }


def given_options(params: t.Mapping[str, t.Any]) -> Json:
    """What of :data:`SPEC_OPTIONS` was given, with the seccomp profile read from its file.

    Raises:
        Failure: ``invalid_seccomp``.
    """
    given = {name: _pruned(params[name]) for name in SPEC_OPTIONS if name != "spec" and params.get(name) is not None}
    if params.get("spec"):
        # There None removes a key.
        given["spec"] = params["spec"]
    if isinstance(given.get("seccomp"), str):
        given["seccomp"] = _profile(given["seccomp"])
    return given


def canonical(value: t.Any) -> str:
    """JSON of which equal values have the same."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _pruned(value: t.Any) -> t.Any:
    if isinstance(value, dict):
        # In env, None takes a variable away.
        return {
            key: dict(below) if key == "env" else _pruned(below) for key, below in value.items() if below is not None
        }
    if isinstance(value, list):
        return [_pruned(below) for below in value]
    return value


def _profile(text: str) -> t.Any:
    """A profile from a file. Ansible makes a string of a dictionary in some templates, which is read as well."""
    try:
        if text.lstrip().startswith("{"):
            return json.loads(text)
        with open(text, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise Failure(
            "invalid_seccomp",
            f"The seccomp profile cannot be read: {error}.",
            "Give the path of a JSON file on the node, or the profile itself.",
        ) from None
