# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration of an OCI runtime (runtime-spec, config.md) from an image and options. Pure."""

from __future__ import annotations

import copy
import posixpath
import re
import typing as t
from dataclasses import dataclass, field

from ..api.errors import Failure
from ..node.raw_keys import CONTROL, CONTROL_OR_TAB
from . import mapped
from .layout import Json, invalid

# What every runtime since runc 1.0 and crun 0.1 reads.
VERSION = "1.0.2"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ROOTFS = "rootfs"

# Those of Docker and containerd (oci/caps/defaults.go of moby).
DEFAULT_CAPABILITIES = (
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
# All of Linux 5.9 and newer (capabilities(7)).
ALL_CAPABILITIES = tuple(
    sorted(
        {
            *DEFAULT_CAPABILITIES,
            "CAP_AUDIT_CONTROL",
            "CAP_AUDIT_READ",
            "CAP_BLOCK_SUSPEND",
            "CAP_BPF",
            "CAP_CHECKPOINT_RESTORE",
            "CAP_DAC_READ_SEARCH",
            "CAP_IPC_LOCK",
            "CAP_IPC_OWNER",
            "CAP_LEASE",
            "CAP_LINUX_IMMUTABLE",
            "CAP_MAC_ADMIN",
            "CAP_MAC_OVERRIDE",
            "CAP_NET_ADMIN",
            "CAP_NET_BROADCAST",
            "CAP_PERFMON",
            "CAP_SYSLOG",
            "CAP_SYS_ADMIN",
            "CAP_SYS_BOOT",
            "CAP_SYS_MODULE",
            "CAP_SYS_NICE",
            "CAP_SYS_PACCT",
            "CAP_SYS_PTRACE",
            "CAP_SYS_RAWIO",
            "CAP_SYS_RESOURCE",
            "CAP_SYS_TIME",
            "CAP_SYS_TTY_CONFIG",
            "CAP_WAKE_ALARM",
        }
    )
)
NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "user", "cgroup", "time")
DEFAULT_NAMESPACES = ("pid", "network", "ipc", "uts", "mount")
RLIMITS = (
    *("AS", "CORE", "CPU", "DATA", "FSIZE", "LOCKS", "MEMLOCK", "MSGQUEUE", "NICE", "NOFILE", "NPROC", "RSS"),
    *("RTPRIO", "RTTIME", "SIGPENDING", "STACK"),
)
HOOKS = ("prestart", "create_runtime", "create_container", "start_container", "poststart", "poststop")
DEFAULT_MOUNTS: tuple[Json, ...] = (
    {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
    {
        "destination": "/dev",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
    {
        "destination": "/dev/pts",
        "type": "devpts",
        "source": "devpts",
        "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    },
    {
        "destination": "/dev/shm",
        "type": "tmpfs",
        "source": "shm",
        "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
    },
    {
        "destination": "/dev/mqueue",
        "type": "mqueue",
        "source": "mqueue",
        "options": ["nosuid", "noexec", "nodev"],
    },
    {
        "destination": "/sys",
        "type": "sysfs",
        "source": "sysfs",
        "options": ["nosuid", "noexec", "nodev", "ro"],
    },
    {
        "destination": "/sys/fs/cgroup",
        "type": "cgroup",
        "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
    },
)
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

# Where the specification's name is not that of the option in camel case.
_NAMES = {
    "block_io": "blockIO",
    "disable_oom_killer": "disableOOMKiller",
    "throttle_read_iops_device": "throttleReadIOPSDevice",
    "throttle_write_iops_device": "throttleWriteIOPSDevice",
}
# What stands for no user and no group (chown(2)).
_NO_ID = (1 << 32) - 1
# Arguments end with a NUL, and half of a surrogate pair has no bytes.
_NOT_TEXT = re.compile("[\\0\ud800-\udfff]")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTP]?)(?:I?B)?\Z", re.IGNORECASE)
# What an image says of itself that becomes an annotation.
_ABOUT = ("os", "architecture", "variant", "author", "created")
_SECCOMP_KEYS = {
    *("defaultAction", "defaultErrnoRet", "architectures", "flags", "listenerPath", "listenerMetadata", "syscalls")
}


@dataclass(frozen=True)
class ResolvedUser:
    """Whom a process runs as. groups: supplementary ones, sorted."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()


@dataclass(frozen=True)
class Process:
    """What an image says about its process, checked.

    user: as in ``User`` of the image: a name or a number, and after a colon a group. volumes: directories that hold
    data. annotations: what else it says about itself.
    """

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: str = ""
    volumes: tuple[str, ...] = ()
    annotations: t.Mapping[str, str] = field(default_factory=dict)


def process_of(image: t.Mapping[str, t.Any]) -> Process:
    """What an image configuration says about its process (image-spec, config.md and conversion.md).

    A relative ``WorkingDir`` is one below ``/``, as in Docker. No control character is admitted in ``Env``, ``User``,
    ``WorkingDir``, ``StopSignal`` and ``Volumes``, but a tab in ``Env``: they end up in files where a line has
    a meaning. Entries of ``Env`` without a name or a value are left out.

    Raises:
        Failure: ``invalid_image``, ``unsafe_config``.
    """
    config = image.get("config") or {}
    if not isinstance(config, dict):
        raise invalid("config of its configuration is no object")
    cwd = _text(config, "WorkingDir")
    stop_signal = _text(config, "StopSignal")
    volumes = config.get("Volumes") or {}
    if not isinstance(volumes, dict):
        raise invalid("Volumes of its configuration is no object")
    process = Process(
        entrypoint=_texts(config, "Entrypoint"),
        cmd=_texts(config, "Cmd"),
        env=tuple(entry for entry in _texts(config, "Env") if is_variable(entry)),
        cwd=posixpath.normpath(posixpath.join("/", cwd)),
        user=_text(config, "User"),
        volumes=tuple(sorted(volumes)),
        annotations=_annotations(image, config, stop_signal),
    )
    checked = {
        "Env": _texts(config, "Env"),
        "WorkingDir": (cwd,),
        "User": (process.user,),
        "StopSignal": (stop_signal,),
        "Volumes": process.volumes,
    }
    for name, values in checked.items():
        refused = CONTROL if name == "Env" else CONTROL_OR_TAB
        if any(refused.search(value) for value in values):
            raise Failure(
                "unsafe_config",
                f"{name} of the image's configuration has a control character.",
                "No honest image has one; do not use it.",
                key=name,
            )
    checked.update(Entrypoint=process.entrypoint, Cmd=process.cmd)
    for name, values in (*checked.items(), ("Labels", tuple(map("".join, process.annotations.items())))):
        if any(_NOT_TEXT.search(value) for value in values):
            raise Failure(
                "unsafe_config",
                f"{name} of the image's configuration has a NUL, or what is no character.",
                "No honest image has one; do not use it.",
                key=name,
            )
    return process


def is_variable(entry: str) -> bool:
    """Whether an entry of ``Env`` has a name and a value."""
    return "=" in entry and not entry.startswith("=")


def about(image: t.Mapping[str, t.Any]) -> Json:
    """What of an image configuration :func:`process_of` reads."""
    return {key: image[key] for key in (*_ABOUT, "config") if image.get(key)}


def _annotations(image: t.Mapping[str, t.Any], config: t.Mapping[str, t.Any], stop_signal: str) -> dict[str, str]:
    """The annotations of a container of the image; its labels go before what is implied (conversion.md)."""
    labels, ports = config.get("Labels") or {}, config.get("ExposedPorts") or {}
    if not isinstance(labels, dict) or not isinstance(ports, dict):
        raise invalid("Labels or ExposedPorts of its configuration is no object")
    implied = {key: image.get(key) for key in _ABOUT}
    implied.update(stopSignal=stop_signal, exposedPorts=",".join(sorted(ports)))
    result = {f"org.opencontainers.image.{key}": str(value) for key, value in implied.items() if value}
    return {**result, **{str(key): str(value) for key, value in labels.items() if key}}


def _text(config: t.Mapping[str, t.Any], key: str) -> str:
    value = config.get(key) or ""
    if not isinstance(value, str):
        raise invalid(f"{key} of its configuration is no string")
    return value


def _texts(config: t.Mapping[str, t.Any], key: str) -> tuple[str, ...]:
    values = config.get(key) or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise invalid(f"{key} of its configuration is no list of strings")
    return tuple(values)


def user_wanted(process: Process, options: t.Mapping[str, t.Any]) -> str:
    """The user as it is declared, still to be looked up in the root file system."""
    declared = (options.get("process") or {}).get("user")
    return process.user if declared is None else str(declared)


def cwd_wanted(process: Process, options: t.Mapping[str, t.Any]) -> str:
    """The working directory."""
    declared = (options.get("process") or {}).get("cwd")
    over = mapped.section((options.get("spec") or {}).get("process"), "spec.process").get("cwd")
    if over is not None:
        return _absolute("spec.process.cwd", mapped.text(over, "spec.process.cwd"))
    if declared is None:
        return process.cwd
    return _absolute("process.cwd", declared)


def runtime_spec(
    process: Process | None,
    options: t.Mapping[str, t.Any],
    user: ResolvedUser | str,
    root_path: str = ROOTFS,
) -> Json:
    """The content of ``config.json``.

    process: of the image; None when there is none. options: those of ``oci_bundle``; None stands for not given, and
    keys may be missing. user: a string when it cannot be looked up yet; it is then ``username``, for showing only.
    root_path: of the root file system, relative to the bundle or absolute.

    Raises:
        Failure: ``invalid_option``, ``no_command``, ``invalid_spec``.
    """
    image = process or Process(cmd=("sh",))
    declared = options.get("process") or {}
    spec: Json = {
        "ociVersion": VERSION,
        "process": _process(image, declared, user),
        "root": {"path": root_path, "readonly": bool((options.get("root") or {}).get("readonly"))},
        "mounts": _mounts(options.get("mounts") or []),
        "linux": _linux(options),
    }
    if options.get("hostname"):
        if CONTROL_OR_TAB.search(options["hostname"]) or len(options["hostname"]) > 64:
            raise _bad("hostname", "it has at most 64 characters, and no control character")
        spec["hostname"] = options["hostname"]
    hooks = _hooks(options.get("hooks") or {})
    if hooks:
        spec["hooks"] = hooks
    annotations = {**image.annotations, **_strings("annotations", options.get("annotations") or {})}
    if annotations:
        spec["annotations"] = annotations
    return _checked(merged(spec, options.get("spec") or {}))


def merged(base: Json, over: t.Mapping[str, t.Any]) -> Json:
    """Objects merged key by key; anything else replaces, and None removes (as RFC 7396)."""
    result = dict(base)
    for key, value in over.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            below = result.get(key)
            result[key] = merged(below if isinstance(below, dict) else {}, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def _process(image: Process, declared: t.Mapping[str, t.Any], user: ResolvedUser | str) -> Json:
    cwd = image.cwd if declared.get("cwd") is None else _absolute("process.cwd", declared["cwd"])
    terminal = bool(declared.get("terminal"))
    result: Json = {
        "terminal": terminal,
        "user": _user(user, declared),
        "args": _args(image, declared),
        "env": _env(image.env, declared.get("env") or {}, terminal),
        "cwd": cwd,
        "capabilities": _capabilities(declared.get("capabilities") or {}, user),
        "noNewPrivileges": bool(declared.get("no_new_privileges")),
    }
    rlimits = _rlimits(declared.get("rlimits") or [])
    if rlimits:
        result["rlimits"] = rlimits
    for option in ("oom_score_adj", "apparmor_profile", "selinux_label"):
        if declared.get(option) is not None:
            result[camel(option)] = declared[option]
    return result


def _user(user: ResolvedUser | str, declared: t.Mapping[str, t.Any]) -> Json:
    if isinstance(user, str):
        return {"username": user}
    groups = sorted({*user.groups, *(declared.get("additional_gids") or [])})
    result: Json = {"uid": user.uid, "gid": user.gid}
    if groups:
        result["additionalGids"] = groups
    if declared.get("umask") is not None:
        try:
            result["umask"] = int(str(declared["umask"]), 8)
        except ValueError:
            raise _bad("process.umask", "it is an octal number such as 0022") from None
    return result


def _args(image: Process, declared: t.Mapping[str, t.Any]) -> list[str]:
    # As docker run: arguments replace Cmd, and another entrypoint drops the image's Cmd.
    entrypoint, args = declared.get("entrypoint"), declared.get("args")
    cmd = image.cmd if entrypoint is None else ()
    words = [*(image.entrypoint if entrypoint is None else entrypoint), *(cmd if args is None else args)]
    if not words or not words[0]:
        raise Failure("no_command", "The image has neither Entrypoint nor Cmd.", "Give process.args.")
    if any("\0" in word for word in words):
        raise _bad("process.args", "an argument has a NUL")
    return words


def _env(image: t.Sequence[str], declared: t.Mapping[str, t.Any], terminal: bool) -> list[str]:
    values: dict[str, t.Any] = dict(entry.split("=", 1) for entry in image)
    values.setdefault("PATH", DEFAULT_PATH)
    if terminal:
        values.setdefault("TERM", "xterm")
    for name, value in declared.items():
        if not name or "=" in name or "\0" in name:
            raise _bad("process.env", f"{name!r} cannot be a name")
        if value is None:
            values.pop(name, None)
        else:
            values[name] = value
    return [f"{name}={value}" for name, value in _strings("process.env", values).items()]


def _strings(option: str, values: t.Mapping[str, t.Any]) -> dict[str, str]:
    for name, value in values.items():
        if isinstance(value, (bool, dict, list)):
            raise _bad(option, f"the value of {name} is no string; put it in quotes")
        if "\0" in str(value):
            raise _bad(option, f"the value of {name} has a NUL")
    return {str(name): str(value) for name, value in values.items()}


def _capabilities(declared: t.Mapping[str, t.Any], user: ResolvedUser | str) -> Json:
    only = declared.get("only")
    if only is None:
        wanted = set(DEFAULT_CAPABILITIES)
        # Docker's order: what is dropped by name is dropped also when all are added.
        wanted |= _named("process.capabilities.add", declared.get("add") or [])
        if "ALL" in (str(name).upper() for name in declared.get("drop") or []):
            wanted = _named("process.capabilities.add", declared.get("add") or [])
        else:
            wanted -= _named("process.capabilities.drop", declared.get("drop") or [])
    else:
        if declared.get("add") or declared.get("drop"):
            raise _bad("process.capabilities", "only excludes add and drop")
        wanted = _named("process.capabilities.only", only)
    names = sorted(wanted)
    ambient = sorted(_named("process.capabilities.ambient", declared.get("ambient") or []))
    if not set(ambient) <= wanted:
        raise _bad("process.capabilities.ambient", "the process does not have all of them")
    # What execve gives a process of root, and of anybody else (capabilities(7)); Docker does the same.
    root = user.uid == 0 if isinstance(user, ResolvedUser) else user.partition(":")[0] in ("", "0", "root")
    held = names if root else ambient
    result = {"bounding": names, "effective": held, "permitted": held}
    if ambient:
        result.update(inheritable=ambient, ambient=ambient)
    return result


def _named(option: str, names: t.Iterable[t.Any]) -> set[str]:
    result: set[str] = set()
    for name in names:
        word = str(name).upper()
        if word == "ALL":
            result |= set(ALL_CAPABILITIES)
            continue
        word = word if word.startswith("CAP_") else f"CAP_{word}"
        if word not in ALL_CAPABILITIES:
            raise _bad(option, f"{name!r} is no capability")
        result.add(word)
    return result


def _rlimits(declared: t.Sequence[t.Mapping[str, t.Any]]) -> list[Json]:
    result = {}
    for entry in declared:
        name = str(entry["type"]).upper()
        name = name if name.startswith("RLIMIT_") else f"RLIMIT_{name}"
        if name[7:] not in RLIMITS:
            raise _bad("process.rlimits", f"{entry['type']!r} is no limit")
        soft = _limit(entry["soft"])
        hard = soft if entry.get("hard") is None else _limit(entry["hard"])
        if soft > hard:
            raise _bad("process.rlimits", f"the soft limit of {name} is above the hard one")
        result[name] = {"type": name, "soft": soft, "hard": hard}
    return [result[name] for name in sorted(result)]


def _limit(value: t.Any) -> int:
    # RLIM_INFINITY
    if str(value) in ("unlimited", "-1"):
        return (1 << 64) - 1
    try:
        number = int(str(value))
    except ValueError:
        number = -1
    if number < 0:
        raise _bad("process.rlimits", f"{value!r} is neither a number nor unlimited")
    return number


def _mounts(declared: t.Sequence[t.Mapping[str, t.Any]]) -> list[Json]:
    """The defaults, of which those with the same destination are replaced, and then the others in their order."""
    mounts = {entry["destination"]: copy.deepcopy(entry) for entry in DEFAULT_MOUNTS}
    for entry in declared:
        destination = posixpath.normpath("/" + _absolute("mounts.destination", entry["destination"]).lstrip("/"))
        mount: Json = {"destination": destination}
        for key in ("type", "source"):
            if entry.get(key):
                if "\0" in entry[key]:
                    raise _bad(f"mounts.{key}", "it has a NUL")
                mount[key] = entry[key]
        options = list(entry.get("options") or [])
        bind = mount.get("type") == "bind" or {"bind", "rbind"} & set(options)
        if bind:
            if not str(mount.get("source", "")).startswith("/"):
                raise _bad("mounts.source", f"of the bind mount at {destination} it has to be absolute")
            mount.setdefault("type", "bind")
            if not {"bind", "rbind"} & set(options):
                options.insert(0, "rbind")
        elif "type" not in mount:
            raise _bad("mounts.type", f"of the mount at {destination} it is missing")
        mount.setdefault("source", mount["type"])
        if options:
            mount["options"] = options
        mounts[destination] = mount
    return list(mounts.values())


def _linux(options: t.Mapping[str, t.Any]) -> Json:
    devices = [_device(entry) for entry in options.get("devices") or []]
    linux: Json = {
        "namespaces": _namespaces(options.get("namespaces")),
        "resources": _resources(options.get("resources") or {}, devices),
        "maskedPaths": _paths(options, "masked_paths", MASKED_PATHS),
        "readonlyPaths": _paths(options, "readonly_paths", READONLY_PATHS),
    }
    if devices:
        linux["devices"] = devices
    if options.get("sysctl"):
        linux["sysctl"] = _strings("sysctl", options["sysctl"])
    if options.get("seccomp"):
        linux["seccomp"] = checked_seccomp(options["seccomp"])
    for option in ("cgroups_path", "mount_label", "rootfs_propagation"):
        if options.get(option):
            linux[camel(option)] = options[option]
    return linux


def _namespaces(declared: t.Sequence[t.Mapping[str, t.Any]] | None) -> list[Json]:
    if declared is None:
        return [{"type": name} for name in DEFAULT_NAMESPACES]
    result: dict[str, Json] = {}
    for entry in declared:
        if entry["type"] in result:
            raise _bad("namespaces", f"{entry['type']} is there twice")
        result[entry["type"]] = {"type": entry["type"]}
        if entry.get("path"):
            result[entry["type"]]["path"] = _absolute("namespaces.path", entry["path"])
    return list(result.values())


def _paths(options: t.Mapping[str, t.Any], option: str, default: t.Sequence[str]) -> list[str]:
    declared = options.get(option)
    return list(default) if declared is None else [_absolute(option, path) for path in declared]


def _resources(declared: t.Mapping[str, t.Any], devices: t.Sequence[Json]) -> Json:
    rules = [{"allow": False, "access": "rwm"}]
    for device in devices:
        if device["type"] != "p":
            numbers = {key: device[key] for key in ("major", "minor")}
            kind = "c" if device["type"] == "u" else device["type"]
            rules.append({"allow": True, "type": kind, **numbers, "access": "rwm"})
    rules += [_given(rule) for rule in declared.get("devices") or []]
    result: Json = {"devices": rules}
    memory = _given(declared.get("memory") or {})
    for key in ("limit", "reservation", "swap"):
        if key in memory:
            memory[key] = size(f"resources.memory.{key}", memory[key])
    if memory.get("limit", -1) > 0 and memory.get("swap", -1) != -1 and memory["swap"] < memory["limit"]:
        raise _bad("resources.memory.swap", "it is memory and swap together, and so not less than limit")
    sections = {
        "memory": memory,
        "cpu": _given(declared.get("cpu") or {}),
        "pids": _given(declared.get("pids") or {}),
        "block_io": _given(declared.get("block_io") or {}),
        "unified": _strings("resources.unified", declared.get("unified") or {}),
    }
    for name, section in sections.items():
        if section:
            # The keys of unified are names of files.
            result[camel(name)] = section if name == "unified" else _camels(section)
    return result


def _camels(section: t.Any) -> t.Any:
    """With the specification's names, on all levels."""
    if isinstance(section, dict):
        return {camel(key): _camels(value) for key, value in section.items()}
    if isinstance(section, list):
        return [_camels(value) for value in section]
    return section


def _given(section: t.Any) -> t.Any:
    """Without what was not given."""
    if isinstance(section, dict):
        return {key: _given(value) for key, value in section.items() if value is not None}
    if isinstance(section, (list, tuple)):
        return [_given(value) for value in section]
    return section


def _device(entry: t.Mapping[str, t.Any]) -> Json:
    path = _absolute("devices.path", entry["path"])
    device: Json = {"path": path, "type": entry["type"]}
    for key in ("major", "minor"):
        if entry.get(key) is not None:
            device[key] = entry[key]
        elif entry["type"] != "p":
            raise _bad(f"devices.{key}", f"of {path} it is missing")
    if entry.get("file_mode") is not None:
        try:
            device["fileMode"] = int(str(entry["file_mode"]), 8)
        except ValueError:
            raise _bad("devices.file_mode", "it is an octal number such as 0660") from None
    for key in ("uid", "gid"):
        if entry.get(key) is not None:
            device[key] = entry[key]
    return device


def _hooks(declared: t.Mapping[str, t.Any]) -> Json:
    result: Json = {}
    for name in HOOKS:
        for entry in declared.get(name) or []:
            hook: Json = {"path": _absolute(f"hooks.{name}.path", entry["path"])}
            if entry.get("args") is not None:
                hook["args"] = list(entry["args"])
            if entry.get("env"):
                hook["env"] = [f"{key}={value}" for key, value in _strings(f"hooks.{name}", entry["env"]).items()]
            if entry.get("timeout") is not None:
                if entry["timeout"] < 1:
                    raise _bad(f"hooks.{name}.timeout", "it is at least one second")
                hook["timeout"] = entry["timeout"]
            result.setdefault(camel(name), []).append(hook)
    return result


def checked_seccomp(profile: t.Any) -> Json:
    """A seccomp profile in the words of the runtime specification.

    Raises:
        Failure: ``invalid_seccomp``. Docker's own format has ``archMap``, ``includes`` and ``excludes``, which no
            runtime reads: what they depend on is not known here.
    """
    why = ""
    if not isinstance(profile, dict) or not isinstance(profile.get("defaultAction"), str):
        why = "it has no defaultAction"
    elif "archMap" in profile or any(
        "includes" in rule or "excludes" in rule for rule in profile.get("syscalls") or [] if isinstance(rule, dict)
    ):
        why = "it is in Docker's format, with archMap, includes or excludes"
    elif set(profile) - _SECCOMP_KEYS:
        why = f"the specification has no {', '.join(sorted(set(profile) - _SECCOMP_KEYS))}"
    elif not all(
        isinstance(rule, dict) and isinstance(rule.get("names"), list) and isinstance(rule.get("action"), str)
        for rule in profile.get("syscalls") or []
    ):
        why = "a rule of syscalls lacks names or action"
    if why:
        raise Failure(
            "invalid_seccomp",
            f"The seccomp profile cannot be used: {why}.",
            "Give one as in linux.seccomp of the OCI runtime specification.",
        )
    return t.cast("Json", copy.deepcopy(profile))


def _checked(spec: Json) -> Json:
    """A specification of which others have merged a part in."""
    process = mapped.section(spec.get("process"), "process")
    if not any(mapped.strings(process.get("args"), "process.args")[:1]):
        raise mapped.wrong("process.args", "a list of strings that begins with a program")
    mapped.section(process.get("user"), "process.user")
    if not mapped.text(process.get("cwd"), "process.cwd").startswith("/"):
        raise mapped.wrong("process.cwd", "an absolute path")
    linux = mapped.section(spec.get("linux"), "linux")
    mappings = [mapped.entries(linux.get(key), f"linux.{key}") for key in ("uidMappings", "gidMappings")]
    for entry in (*mappings[0], *mappings[1]):
        for key in ("containerID", "hostID", "size"):
            if not 0 <= mapped.number(entry.get(key), f"{key} of a mapping") < _NO_ID:
                raise mapped.wrong(f"{key} of a mapping", "an id of a user or group")
    namespaces = mapped.entries(linux.get("namespaces"), "linux.namespaces")
    if any(entry.get("type") == "user" and not entry.get("path") for entry in namespaces) and not all(mappings):
        raise _bad("namespaces", "a user namespace needs spec.linux.uidMappings and spec.linux.gidMappings")
    return spec


def size(option: str, value: t.Any) -> int:
    """Bytes: a number, or one with K, M, G, T or P, each 1024 of the one before; -1 is unlimited.

    Raises:
        Failure: ``invalid_option``.
    """
    text = str(value).strip()
    if text in ("-1", "unlimited"):
        return -1
    match = _SIZE.match(text)
    if not match:
        raise _bad(option, f"{value!r} is no size such as 512M")
    return int(float(match[1]) * 1024 ** " KMGTP".index(match[2].upper() or " "))


def camel(name: str) -> str:
    """The specification's name of an option."""
    if name in _NAMES:
        return _NAMES[name]
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def _absolute(option: str, path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise _bad(option, f"{path!r} is no absolute path")
    return path


def _bad(option: str, why: str) -> Failure:
    return Failure("invalid_option", f"{option}: {why}.", "Correct the option.", option=option)
