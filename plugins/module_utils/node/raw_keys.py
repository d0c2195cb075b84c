# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The raw lines ``lxc.*`` of a container of Proxmox: which keys there are, and what their values look like. Pure.

The keys are those of ``$valid_lxc_conf_keys`` and ``is_valid_lxc_conf_key`` in PVE/LXC/Config.pm; what the values are
is in confile.c of LXC.
"""

from __future__ import annotations

import re

from ..api.errors import Failure

# parse_pct_config of PVE/LXC/Config.pm reads no other key as a raw line.
KEY = re.compile(r"lxc\.[a-z0-9_.-]+")
LINE = re.compile(r"(lxc\.[a-z0-9_.-]+)(?::|\s*=)\s*(.*?)\s*", re.ASCII)
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
CONTROL_OR_TAB = re.compile(r"[\x00-\x1f\x7f]")
# The variables of the entrypoint, which are `env` of the API and no raw lines (write_pct_config).
ENVIRONMENT = "lxc.environment.runtime"

_ADMITTED = {
    *("lxc.apparmor.profile", "lxc.apparmor.allow_incomplete", "lxc.apparmor.raw", "lxc.selinux.context"),
    *("lxc.signal.halt", "lxc.signal.reboot", "lxc.signal.stop"),
    *("lxc.init.cwd", "lxc.init.uid", "lxc.init.gid", "lxc.init.groups"),
    *("lxc.pty.max", "lxc.console.logfile", "lxc.console.path", "lxc.autodev", "lxc.kmsg"),
    *("lxc.mount.fstab", "lxc.mount.entry", "lxc.mount.auto", "lxc.rootfs.mount", "lxc.include"),
    *("lxc.cap.drop", "lxc.cap.keep", "lxc.idmap"),
    *("lxc.seccomp.profile", "lxc.seccomp.notify.proxy", "lxc.seccomp.notify.cookie"),
    *("lxc.hook.pre-start", "lxc.hook.pre-mount", "lxc.hook.mount", "lxc.hook.autodev", "lxc.hook.start"),
    *("lxc.hook.stop", "lxc.hook.post-stop", "lxc.hook.clone", "lxc.hook.destroy", "lxc.hook.version"),
    *("lxc.log.level", "lxc.log.file", "lxc.environment", "lxc.environment.hooks"),
    # What a namespace of its own has of them, see namespaces(7).
    *("lxc.sysctl.kernel.msgmax", "lxc.sysctl.kernel.msgmnb", "lxc.sysctl.kernel.msgmni", "lxc.sysctl.kernel.sem"),
    *("lxc.sysctl.kernel.shmall", "lxc.sysctl.kernel.shmmax", "lxc.sysctl.kernel.shmmni"),
    "lxc.sysctl.kernel.shm_rmid_forced",
}
_ADMITTED_BELOW = ("lxc.cgroup2.", "lxc.prlimit.", "lxc.net.")

# What has an option of lxc_container: Proxmox would show and change another value than the one in force.
_OPTIONS = {
    ENVIRONMENT: "env",
    "lxc.init.cmd": "entrypoint",
    "lxc.rootfs.path": "rootfs",
    "lxc.rootfs.options": "rootfs",
    "lxc.uts.name": "hostname",
    "lxc.arch": "arch",
    "lxc.tty.max": "tty",
    "lxc.apparmor.allow_nesting": "features",
    "lxc.start.auto": "onboot",
    "lxc.start.delay": "startup",
    "lxc.start.order": "startup",
    "lxc.group": "startup",
    "lxc.cgroup2.memory.max": "memory",
    "lxc.cgroup2.memory.swap.max": "swap",
    "lxc.cgroup2.cpu.max": "cpulimit",
    "lxc.cgroup2.cpu.weight": "cpuunits",
}

# What LXC called otherwise before version 3.
_RENAMED = {
    "lxc.aa_profile": "lxc.apparmor.profile",
    "lxc.aa_allow_incomplete": "lxc.apparmor.allow_incomplete",
    "lxc.console": "lxc.console.path",
    "lxc.haltsignal": "lxc.signal.halt",
    "lxc.rebootsignal": "lxc.signal.reboot",
    "lxc.stopsignal": "lxc.signal.stop",
    "lxc.id_map": "lxc.idmap",
    "lxc.loglevel": "lxc.log.level",
    "lxc.logfile": "lxc.log.file",
    "lxc.mount": "lxc.mount.fstab",
    "lxc.pts": "lxc.pty.max",
    "lxc.se_context": "lxc.selinux.context",
    "lxc.seccomp": "lxc.seccomp.profile",
}

# Keys of which each line adds to those before it; of all others the last line counts.
_REPEATED = {
    *("lxc.apparmor.raw", "lxc.mount.entry", "lxc.mount.auto", "lxc.cap.drop", "lxc.cap.keep", "lxc.idmap"),
    *("lxc.include", "lxc.environment", "lxc.environment.hooks"),
    *("lxc.cgroup2.devices.allow", "lxc.cgroup2.devices.deny", "lxc.cgroup2.io.max", "lxc.cgroup2.io.weight"),
    *("lxc.cgroup2.io.latency", "lxc.cgroup2.rdma.max"),
}

# What sig_parse of confile_utils.c of LXC takes where glibc is the C library; of anything else LXC reads no line of the
# file. The real-time signals are 34 to 64.
_SIGNALS = (
    *("HUP", "INT", "QUIT", "ILL", "ABRT", "FPE", "KILL", "SEGV", "PIPE", "ALRM", "TERM", "USR1", "USR2", "CHLD"),
    *("CONT", "STOP", "TSTP", "TTIN", "TTOU", "TRAP", "IOT", "BUS", "STKFLT", "CLD", "URG", "XCPU", "XFSZ", "VTALRM"),
    *("PROF", "WINCH", "IO", "POLL", "PWR", "SYS"),
)
SIGNAL = re.compile(
    rf"\d{{1,9}}|SIG(?:{'|'.join(_SIGNALS)}|RT(?:MIN\+|MAX-)0*(?:30|[12]?\d))", re.ASCII | re.IGNORECASE
)

_LIMIT = r"(?:unlimited|\d+)"
_IDMAP = r"[ug]\s+\d+\s+\d+\s+[1-9]\d*"
_VALUES: tuple[tuple[str, str, str], ...] = (
    # parse_id_maps of PVE/LXC.pm: one line that does not look like this, and Proxmox reads no container of the node.
    (r"lxc\.idmap", _IDMAP, "u 0 100000 65536"),
    (r"lxc\.init\.[ug]id", r"\d+", "1000"),
    (r"lxc\.init\.groups", r"\d+(\s*,\s*\d+)*", "1000,1001"),
    (r"lxc\.init\.cwd", r"/.*", "/srv"),
    (r"lxc\.prlimit\..*", rf"{_LIMIT}(\s*:\s*{_LIMIT})?", "1024:65536"),
    (r"lxc\.cap\.(drop|keep)", r"[a-z_]+([ \t]+[a-z_]+)*", "net_raw sys_time"),
    (r"lxc\.signal\..*", f"(?ai:{SIGNAL.pattern})", "SIGTERM"),
    (r"lxc\.mount\.entry", r"\S+\s+\S+\s+\S+\s+\S+(\s+\d+(\s+\d+)?)?", "/srv/data srv none bind,create=dir 0 0"),
    (r"lxc\.seccomp\.profile", r"/.*", "/etc/lxc/web.seccomp"),
    (r"lxc\.hook\.version", r"[01]", "1"),
)


def is_repeated(key: str) -> bool:
    """Whether each line of this key adds to those before it. Of hooks too: all of them run."""
    return key in _REPEATED or (key.startswith("lxc.hook.") and key != "lxc.hook.version")


def is_admitted(key: str) -> bool:
    """Whether Proxmox takes it as a raw line, and no option of the API stands for it."""
    return bool(KEY.fullmatch(key)) and key not in _OPTIONS and (key in _ADMITTED or key.startswith(_ADMITTED_BELOW))


def check_key(key: str) -> None:
    """Refuse a key that is no raw line.

    Raises:
        Failure: ``invalid_option``, ``key_of_api``, ``key_not_admitted``.
    """
    if not KEY.fullmatch(key):
        raise _invalid(f"{key!r} is no key such as lxc.prlimit.nofile")
    if key in _OPTIONS:
        raise Failure(
            "key_of_api",
            f"{key} has an option: {_OPTIONS[key]} of lxc_container.",
            "Declare it there; Proxmox would show another value than the one in force.",
            key=key,
            option=_OPTIONS[key],
        )
    if is_admitted(key):
        return
    renamed = _RENAMED.get(key, "")
    for old, new in (("lxc.limit.", "lxc.prlimit."), ("lxc.cgroup.", "lxc.cgroup2."), ("lxc.network.", "lxc.net.")):
        if key.startswith(old):
            renamed = new + key[len(old) :]
    raise Failure(
        "key_not_admitted",
        f"Proxmox does not admit {key}.",
        f"It is called {renamed} now." if renamed else "See the section on raw lines in the guide for what it admits.",
        key=key,
    )


def check_line(key: str, value: str) -> None:
    """Refuse a line that Proxmox or LXC could not read, or would read as something else.

    Raises:
        Failure: as :func:`check_key`, and ``invalid_option`` for the value.
    """
    check_key(key)
    if CONTROL.search(value):
        raise _invalid(f"the value of {key} has a control character")
    if value != value.strip(" \t"):
        raise _invalid(f"the value of {key} begins or ends with a space, which would be lost")
    for keys, pattern, example in _VALUES:
        # An empty value takes back what was set before, also in the files that Proxmox includes.
        if value and re.fullmatch(keys, key) and not re.fullmatch(pattern, value):
            raise _invalid(f"{value!r} is no value of {key}; write for example {example}")


def check_idmaps(lines: list[tuple[str, str]]) -> None:
    """Refuse mappings of ids that overlap, inside or outside, as ``validate_id_maps`` of PVE/LXC.pm does.

    Raises:
        Failure: ``invalid_option``.
    """
    maps = [value.split() for key, value in lines if key == "lxc.idmap" and re.fullmatch(_IDMAP, value)]
    for kind in "ug":
        for side in (1, 2):
            ranges = sorted((int(words[side]), int(words[3])) for words in maps if words[0] == kind)
            for (first, count), (second, _count) in zip(ranges, ranges[1:]):
                if first + count > second:
                    where = ("container", "node")[side - 1]
                    raise _invalid(f"lxc.idmap maps {kind}id {second} of the {where} twice")


def _invalid(why: str) -> Failure:
    return Failure("invalid_option", f"raw: {why}.", "Nothing was changed.", option="raw")
