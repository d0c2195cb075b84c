# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images and runtime specifications as containers of Proxmox: what its options and raw lines can express of them. Pure.

What a key means in Proxmox is read in PVE/LXC/Config.pm and PVE/LXC.pm (update_lxc_config), what Proxmox itself makes
of an image in PVE/LXC/Create.pm (restore_oci_archive). Nothing is dropped in silence: ``losses`` has it.
"""

from __future__ import annotations

import re
import shlex
import typing as t

from ..api.errors import Failure
from ..node.raw_keys import CONTROL, SIGNAL
from . import init_command
from .layout import Json
from .lxc_mounts import inside, map_mounts, map_paths
from .lxc_resources import map_devices, map_resources, map_sysctls
from .lxc_seccomp import policy
from .mapped import Mapped, entries, items, number, section, shell_hook, strings, text
from .runtime_spec import ALL_CAPABILITIES, RLIMITS, ResolvedUser, is_variable, process_of

__all__ = ["Mapped", "from_image", "from_runtime_spec", "signal_name"]

BINDS = ("raw", "mounts")
STOP_SIGNAL = "org.opencontainers.image.stopSignal"
TAGS = "lxcri.proxmox.tags"
# What Proxmox takes when an image has none (restore_oci_archive).
DEFAULT_SIGNAL = "SIGTERM"
MAX_DESCRIPTION = 8192
# What losses call the command of an image.
COMMAND = "Entrypoint and Cmd"
_INFINITY = (1 << 64) - 1

_VARIABLE = re.compile(r"[A-Za-z0-9_]+")
_LABEL = r"[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOSTNAME = re.compile(rf"(?=.{{1,255}}\Z){_LABEL}(\.{_LABEL})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_\-+.]*")
# The mapping of an unprivileged container that has no lxc.idmap (update_lxc_config).
_DEFAULT_MAP = [{"containerID": 0, "hostID": 100000, "size": 65536}]

# Hooks of the specification by those of LXC: at the same time, in the same namespaces, or nearly.
_HOOKS = {
    "prestart": ("lxc.hook.pre-start", "before the namespaces are made"),
    "createRuntime": ("lxc.hook.pre-start", "before the namespaces are made"),
    "createContainer": ("lxc.hook.mount", "when everything is mounted"),
    "startContainer": ("lxc.hook.start", ""),
    "poststop": ("lxc.hook.post-stop", ""),
}


def from_image(
    config: Json,
    entrypoint: t.Sequence[str] | None = None,
    args: t.Sequence[str] | None = None,
    env: t.Mapping[str, str | None] | None = None,
    user: ResolvedUser | None = None,
    volumes: t.Mapping[str, t.Mapping[str, t.Any]] | None = None,
) -> Mapped:
    """What an image says about its process.

    config: ``config`` of the image configuration (image-spec, config.md). entrypoint, args: instead of its
    ``Entrypoint`` and ``Cmd``; as in Docker, another entrypoint drops its ``Cmd``. env: variables besides or instead of
    its own; None removes one. user: whom the process runs as, when ``User`` was looked up in the root file system.
    volumes: for directories of ``Volumes``, or others, the ``storage`` and ``size`` of the volume that they become.

    Raises:
        Failure: ``invalid_image``, and ``unsafe_config`` for control characters in ``Env``, ``User``, ``WorkingDir``,
            ``StopSignal`` or ``Volumes``.
    """
    process = process_of({"config": config})
    mapped = Mapped()
    cmd = process.cmd if entrypoint is None else ()
    words = [*(process.entrypoint if entrypoint is None else entrypoint), *(cmd if args is None else args)]
    _command(COMMAND, words, mapped)
    for entry in config.get("Env") or []:
        if not is_variable(entry):
            mapped.lose("Env", entry, "it has no name or no value")
    variables: dict[str, t.Any] = dict(entry.split("=", 1) for entry in process.env)
    variables.update(env or {})
    _environment("Env", {name: value for name, value in variables.items() if value is not None}, mapped)
    _image_user(process.user, user, mapped)
    _directory("WorkingDir", process.cwd, mapped)
    _signal("StopSignal", config.get("StopSignal") or DEFAULT_SIGNAL, mapped)
    _volumes(process.volumes, volumes or {}, mapped)
    informational = {
        "ExposedPorts": "a container has all ports of its address; use the firewall",
        "Healthcheck": "Proxmox does not look at what runs in a container",
        "Labels": "Proxmox has no labels; use description or tags",
        "OnBuild": "it is for building images",
        "Shell": "it is for building images",
        "ArgsEscaped": "it is for Windows",
        "Memory": "limits are those of the container, not of its image",
        "MemorySwap": "limits are those of the container, not of its image",
        "CpuShares": "limits are those of the container, not of its image",
    }
    for key, reason in informational.items():
        if config.get(key):
            mapped.lose(key, config[key], reason)
    known = ("Entrypoint", "Cmd", "Env", "User", "WorkingDir", "StopSignal", "Volumes", *informational)
    mapped.rest("", {key: value for key, value in config.items() if value}, known)
    return mapped


def from_runtime_spec(
    spec: Json,
    binds: str = "raw",
    files: t.Collection[str] = (),
    seccomp_path: str | None = None,
) -> Mapped:
    """What a runtime specification (``config.json``) says.

    binds: what bind mounts become: ``raw`` lines, or ``mounts`` of ``lxc_container``, which only root@pam with a
    password may set. files: those of their sources that are no directories. seccomp_path: where on the node the policy
    is to lie that is made of ``linux.seccomp``; its text is in ``files`` of the result.

    Raises:
        Failure: ``invalid_spec``.
    """
    if binds not in BINDS:
        raise Failure("invalid_option", f"binds: {binds!r} is not one of {', '.join(BINDS)}.", option="binds")
    mapped = Mapped()
    _process(section(spec.get("process"), "process"), mapped)
    root = section(spec.get("root"), "root")
    if root.get("readonly"):
        mapped.api["rootfs"] = {"ro": True}
    if spec.get("hostname"):
        hostname = text(spec["hostname"], "hostname")
        if _HOSTNAME.fullmatch(hostname):
            mapped.api["hostname"] = hostname
        else:
            mapped.lose("hostname", hostname, "it is no name of DNS")
    if spec.get("domainname"):
        mapped.lose("domainname", spec["domainname"], "a container of Proxmox has no NIS domain")
    map_mounts(spec, mapped, binds, files)
    linux = section(spec.get("linux"), "linux")
    _linux(linux, mapped, seccomp_path)
    _hooks(section(spec.get("hooks"), "hooks"), mapped)
    _annotations(section(spec.get("annotations"), "annotations"), mapped)
    for key in ("windows", "solaris", "vm", "zos", "freebsd"):
        if spec.get(key):
            mapped.lose(key, spec[key], "it is for another platform")
    known = ("ociVersion", "process", "root", "hostname", "domainname", "mounts", "linux", "hooks", "annotations")
    mapped.rest("", spec, (*known, "windows", "solaris", "vm", "zos", "freebsd"))
    mapped.rest("root.", root, ("path", "readonly"))
    return mapped


def lines_of(spec: Json | None, seccomp_path: str) -> Json | None:
    """What a specification is for Proxmox, as the result of a module; None while its user is only known by name.

    Raises:
        Failure: as :func:`from_runtime_spec`.
    """
    if spec is None or "username" in section(section(spec.get("process"), "process").get("user"), "process.user"):
        return None
    return from_runtime_spec(spec, seccomp_path=seccomp_path).as_dict()


# ----------------------------------------------------------------------------------------------------- process


def _process(process: Json, mapped: Mapped) -> None:
    _command("process.args", strings(process.get("args"), "process.args"), mapped)
    variables: dict[str, str] = {}
    for entry in strings(process.get("env"), "process.env"):
        name, equals, value = entry.partition("=")
        if equals:
            variables[name] = value
        else:
            mapped.lose("process.env", entry, "it has no value")
    _environment("process.env", variables, mapped)
    _user(section(process.get("user"), "process.user"), mapped)
    _directory("process.cwd", text(process.get("cwd") or "/", "process.cwd"), mapped)
    if process.get("capabilities") is not None:
        uid = section(process.get("user"), "process.user").get("uid")
        _capabilities(section(process["capabilities"], "process.capabilities"), uid in (0, None), mapped)
    _rlimits(entries(process.get("rlimits"), "process.rlimits"), mapped)
    for key, line in (("apparmorProfile", "lxc.apparmor.profile"), ("selinuxLabel", "lxc.selinux.context")):
        if process.get(key):
            mapped.line(f"process.{key}", line, text(process[key], f"process.{key}"))
    reasons = {
        "noNewPrivileges": "Proxmox does not admit lxc.no_new_privs",
        "oomScoreAdj": "Proxmox does not admit lxc.proc.oom_score_adj",
        "consoleSize": "the console has the size of the terminal that is attached to it",
        "scheduler": "LXC does not set it",
        "ioPriority": "LXC does not set it",
        "execCPUAffinity": "it is for processes that runtimes start later",
        "commandLine": "it is for Windows",
    }
    for key, reason in reasons.items():
        if process.get(key):
            mapped.lose(f"process.{key}", process[key], reason)
    known = ("args", "env", "user", "cwd", "capabilities", "rlimits", "apparmorProfile", "selinuxLabel", "terminal")
    mapped.rest("process.", process, (*known, *reasons))


def _command(key: str, words: list[str], mapped: Mapped) -> None:
    if not words:
        mapped.lose(key, words, "there is no command", "/sbin/init")
        return
    try:
        line = init_command.encode(words)
    except init_command.NotExpressible as error:
        mapped.lose(key, words, str(error))
        return
    if line == "/sbin/init":
        return
    mapped.api["entrypoint"] = line
    # As for an image that Proxmox unpacks: nothing listens on a tty.
    mapped.api["cmode"] = "console"


def _environment(key: str, variables: t.Mapping[str, str], mapped: Mapped) -> None:
    found = {}
    for name, value in variables.items():
        if not _VARIABLE.fullmatch(name):
            mapped.lose(key, f"{name}={value}", "Proxmox takes letters, digits and _ in a name")
        elif CONTROL.search(value):
            mapped.lose(key, f"{name}={value}", "the value has a line break or another control character")
        else:
            found[name] = value.rstrip(" \t")
            if found[name] != value:
                mapped.lose(key, f"{name}={value}", "spaces at its end are lost", f"{name}={found[name]}")
    if found:
        mapped.api["env"] = found


def _image_user(name: str, user: ResolvedUser | None, mapped: Mapped) -> None:
    if user is not None:
        _ids(user.uid, user.gid, list(user.groups), "User", mapped)
        return
    if not name:
        return
    uid, _colon, gid = name.partition(":")
    if re.fullmatch(r"\d+", uid) and re.fullmatch(r"\d+", gid):
        _ids(int(uid), int(gid), [], "User", mapped)
        return
    if uid in ("root", "0") and gid in ("", "root", "0"):
        return
    reason = "names and groups are looked up in /etc/passwd and /etc/group of the root file system"
    mapped.lose("User", name, reason, "Proxmox does it when it makes a container from an OCI archive")


def _user(user: Json, mapped: Mapped) -> None:
    if user.get("username"):
        mapped.lose("process.user.username", user["username"], "it is not looked up in a root file system")
    groups = [number(gid, "process.user.additionalGids") for gid in items(user.get("additionalGids"), "process.user")]
    uid, gid = (number(user.get(key) or 0, f"process.user.{key}") for key in ("uid", "gid"))
    _ids(uid, gid, groups, "process.user", mapped)
    if user.get("umask") is not None:
        mapped.lose("process.user.umask", user["umask"], "LXC does not set it")
    mapped.rest("process.user.", user, ("uid", "gid", "additionalGids", "umask", "username"))


def _ids(uid: int, gid: int, groups: list[int], key: str, mapped: Mapped) -> None:
    if uid or gid or groups:
        mapped.line(key, "lxc.init.uid", uid)
        mapped.line(key, "lxc.init.gid", gid)
    if groups:
        mapped.line(key, "lxc.init.groups", ",".join(str(group) for group in groups))


def _directory(key: str, path: str, mapped: Mapped) -> None:
    if path != "/":
        mapped.line(key, "lxc.init.cwd", path)


def signal_name(name: str) -> str | None:
    """A signal as LXC writes it; None when it is none. ``TERM``, ``sigterm`` and ``RTMIN+3`` are understood."""
    word = name.strip().upper()
    if not re.match(r"\d|SIG", word):
        word = f"SIG{word}"
    word = {"SIGRTMIN": "SIGRTMIN+0", "SIGRTMAX": "SIGRTMAX-0"}.get(word, word)
    return word if SIGNAL.fullmatch(word) else None


def _signal(key: str, name: str, mapped: Mapped) -> None:
    signal = signal_name(name)
    if signal is None:
        mapped.lose(key, name, "it is no signal", f"lxc.signal.halt: {DEFAULT_SIGNAL}")
    mapped.line(key, "lxc.signal.halt", signal or DEFAULT_SIGNAL)


def _volumes(paths: t.Iterable[str], declared: t.Mapping[str, t.Mapping[str, t.Any]], mapped: Mapped) -> None:
    given = {inside(path): volume for path, volume in declared.items()}
    for path in sorted({*(inside(path) for path in paths), *given}):
        if path not in given:
            reason = "what storage it is to be on, and how large, is not declared"
            mapped.lose("Volumes", path, reason, "a directory of the root file system")
            continue
        point = {"id": f"mp{len(mapped.api.get('mounts', []))}", **given[path], "mp": path}
        mapped.api.setdefault("mounts", []).append(point)


def _capabilities(sets: Json, root: bool, mapped: Mapped) -> None:
    key = "process.capabilities"
    found = {name: set(strings(sets.get(name), f"{key}.{name}")) for name in _SETS}
    unknown = found["bounding"] - set(ALL_CAPABILITIES)
    for name in sorted(unknown):
        mapped.lose(f"{key}.bounding", name, "LXC does not know it")
    kept = sorted(name[4:].lower() for name in found["bounding"] - unknown)
    # The files that Proxmox includes drop some, and LXC takes either kind only.
    mapped.line(f"{key}.bounding", "lxc.cap.drop", "")
    mapped.line(f"{key}.bounding", "lxc.cap.keep", " ".join(kept) or "none")
    for name in ("inheritable", "ambient"):
        if found[name]:
            mapped.lose(f"{key}.{name}", sorted(found[name]), "LXC does not set it")
    # What execve gives: root all of the bounding set, anybody else nothing (capabilities(7)).
    given = found["bounding"] if root else set()
    for name in ("effective", "permitted"):
        if found[name] != given:
            stand_in = "the bounding set" if root else "none"
            mapped.lose(f"{key}.{name}", sorted(found[name]), "LXC sets the bounding set only", stand_in)
    mapped.rest(f"{key}.", sets, _SETS)


_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")


def _rlimits(limits: list[Json], mapped: Mapped) -> None:
    for index, limit in enumerate(limits):
        key = f"process.rlimits[{index}]"
        name = text(limit.get("type"), f"{key}.type")
        if name[:7] != "RLIMIT_" or name[7:] not in RLIMITS:
            mapped.lose(key, limit, "LXC does not know it")
            continue
        words = [_limit(number(limit.get(side), f"{key}.{side}")) for side in ("soft", "hard")]
        mapped.line(key, f"lxc.prlimit.{name[7:].lower()}", ":".join(words))


def _limit(value: int) -> str:
    return "unlimited" if value >= _INFINITY or value < 0 else str(value)


# ------------------------------------------------------------------------------------------------------- Linux


def _linux(linux: Json, mapped: Mapped, seccomp_path: str | None) -> None:
    _namespaces(linux, mapped)
    map_paths(linux, mapped)
    map_resources(linux, mapped)
    map_devices(linux, mapped)
    map_sysctls(linux, mapped)
    profile = section(linux.get("seccomp"), "linux.seccomp")
    if profile and seccomp_path is None:
        mapped.lose(
            "linux.seccomp", profile.get("defaultAction"), "there is no place for its policy", "the policy of Proxmox"
        )
    elif profile and mapped.line("linux.seccomp", "lxc.seccomp.profile", seccomp_path):
        mapped.files[str(seccomp_path)] = policy(profile, mapped)
    personality = section(linux.get("personality"), "linux.personality")
    if personality.get("domain") == "LINUX32":
        mapped.api["arch"] = "i386"
    if personality.get("flags"):
        mapped.lose("linux.personality.flags", personality["flags"], "LXC does not set them")
    reasons = {
        "cgroupsPath": "the cgroup of a container is always lxc/ and its id",
        "rootfsPropagation": "LXC makes the root file system a slave",
        "mountLabel": "LXC does not label mounts",
        "intelRdt": "LXC does not set it",
        "timeOffsets": "Proxmox does not admit lxc.time.offset",
        "netDevices": "interfaces are those that Proxmox makes; see networks of lxc_container",
        "memoryPolicy": "LXC does not set it",
    }
    for key, reason in reasons.items():
        if linux.get(key):
            mapped.lose(f"linux.{key}", linux[key], reason)
    known = ("namespaces", "uidMappings", "gidMappings", "maskedPaths", "readonlyPaths", "resources", "devices")
    mapped.rest("linux.", linux, (*known, "sysctl", "seccomp", "personality", *reasons))


def _namespaces(linux: Json, mapped: Mapped) -> None:
    found = {}
    for entry in entries(linux.get("namespaces"), "linux.namespaces"):
        kind = text(entry.get("type"), "linux.namespaces.type")
        found[kind] = entry
        if entry.get("path"):
            mapped.lose("linux.namespaces", entry, "a container of Proxmox joins no namespace", "one of its own")
        elif kind == "time":
            mapped.lose("linux.namespaces", entry, "LXC makes no time namespace")
    for kind in ("pid", "network", "ipc", "uts", "mount"):
        if kind not in found:
            mapped.lose("linux.namespaces", f"no {kind}", "a container of Proxmox has one always", "one of its own")
    if "user" not in found:
        reason = "Proxmox makes new containers unprivileged unless lxc_container has unprivileged: false"
        mapped.lose("linux.namespaces", "no user", reason, "what the container is already")
        return
    mapped.api["unprivileged"] = True
    maps = [entries(linux.get(f"{kind}idMappings"), f"linux.{kind}idMappings") for kind in "ug"]
    if maps in ([[], []], [_DEFAULT_MAP, _DEFAULT_MAP]):
        return
    for kind, ranges in zip("ug", maps):
        for entry in ranges:
            key = f"linux.{kind}idMappings"
            numbers = [number(entry.get(name), key) for name in ("containerID", "hostID", "size")]
            mapped.line(key, "lxc.idmap", " ".join([kind, *map(str, numbers)]))


def _hooks(hooks: Json, mapped: Mapped) -> None:
    for name in sorted(hooks):
        for entry in entries(hooks[name], f"hooks.{name}"):
            key = f"hooks.{name}"
            if name not in _HOOKS:
                mapped.lose(key, entry, "LXC has no hook at that time")
                continue
            line, when = _HOOKS[name]
            words = [text(entry.get("path"), f"{key}.path"), *strings(entry.get("args"), f"{key}.args")[1:]]
            env = strings(entry.get("env"), f"{key}.env")
            command = shell_hook([*(["env", *env] if env else []), *words])
            if line == "lxc.hook.start":
                # LXC looks for it in the container by all that the line says (verify_start_hooks of conf.c).
                command = words[0]
                if env or words[1:] or shlex.quote(command) != command:
                    mapped.lose(key, entry, "a hook within the container is a path, without arguments and variables")
                    continue
            if not mapped.line(key, line, command):
                continue
            differences = "it gets what LXC tells in variables LXC_*, and no state on standard input"
            mapped.lose(key, entry, f"{differences}; it runs {when}" if when else differences, line)
            if entry.get("timeout"):
                mapped.lose(f"{key}.timeout", entry["timeout"], "LXC waits without a limit")


def _annotations(annotations: Json, mapped: Mapped) -> None:
    lines = []
    for name in sorted(annotations):
        value = text(annotations[name], f"annotations.{name}")
        if name == STOP_SIGNAL:
            if value:
                _signal(f"annotations.{name}", value, mapped)
        elif name == TAGS:
            tags = [tag for tag in re.split(r"[,; ]+", value) if tag]
            for tag in tags:
                if not _TAG.fullmatch(tag):
                    mapped.lose(f"annotations.{name}", tag, "it cannot be a tag")
            mapped.api["tags"] = [tag for tag in tags if _TAG.fullmatch(tag)]
        elif CONTROL.search(name + value):
            mapped.lose(f"annotations.{name}", value, "it has a control character")
        else:
            # A description also has the notes of this collection, which are comments; an image has no say in them.
            lines.append(f"{name}: {value}".replace("<!--", "&lt;!--"))
    while lines and len("\n".join(lines)) > MAX_DESCRIPTION:
        mapped.lose("annotations", lines.pop(), f"a description has at most {MAX_DESCRIPTION} characters", None)
    if lines:
        mapped.api["description"] = "\n".join(lines)
