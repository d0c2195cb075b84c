# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mounts of the runtime specification as lines of LXC and mount points of Proxmox. Pure."""

from __future__ import annotations

import posixpath
import typing as t

from .layout import Json
from .mapped import Mapped, entries, strings, text

# What LXC mounts by itself, and what stands in for it (lxc.mount.auto of common.conf.in; autodev).
_BY_LXC = {
    ("proc", "/proc"): "lxc.mount.auto proc:mixed",
    ("sysfs", "/sys"): "lxc.mount.auto sys:mixed",
    ("tmpfs", "/dev"): "the /dev of LXC, 500 kB",
    ("devpts", "/dev/pts"): "the /dev/pts of LXC",
    ("cgroup", "/sys/fs/cgroup"): "lxc.mount.auto cgroup:mixed",
    ("cgroup2", "/sys/fs/cgroup"): "lxc.mount.auto cgroup:mixed",
}
# Options with which these are mounted anyway, or that say what is the default.
_ANYWAY = {
    "/proc": {"nosuid", "noexec", "nodev", "rw", "relatime"},
    "/sys": {"nosuid", "noexec", "nodev", "rw", "relatime"},
    "/dev": {"nosuid", "strictatime", "mode=755", "rw"},
    "/dev/pts": {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5", "rw"},
    "/sys/fs/cgroup": {"nosuid", "noexec", "nodev", "rw", "relatime"},
}
# Options that runtimes know and LXC would hand to the file system, which refuses them.
_NOT_LXC = {
    *("rro", "rrw", "rnosuid", "rsuid", "rnodev", "rdev", "rnoexec", "rexec", "rnoatime", "ratime", "rrelatime"),
    *("rnorelatime", "rstrictatime", "rnostrictatime", "rnodiratime", "rdiratime", "rnosymfollow", "rsymfollow"),
    *("idmap", "ridmap", "tmpcopyup", "iversion", "noiversion", "silent", "loud", "symfollow", "nolazytime"),
}
# mount_opt and propagation_opt of conf.c: all else is for the file system, and a bind has none.
_FLAGS = {
    *("atime", "dev", "diratime", "exec", "noatime", "nodev", "nodiratime", "noexec", "norelatime", "nostrictatime"),
    *("nosymfollow", "nosuid", "relatime", "ro", "rw", "strictatime", "suid", "bind", "rbind", "defaults"),
    *("sync", "async", "dirsync", "lazytime", "mand", "nomand"),
    *("private", "shared", "slave", "unbindable", "rprivate", "rshared", "rslave", "runbindable"),
}
# parse_lxc_mount_attrs finds these anywhere in the options.
_WORDS_OF_LXC = ("create=dir", "create=file", "optional", "relative", "idmap=")
# mp of Proxmox has these, see $rootfs_desc in PVE/LXC/Config.pm.
_OF_PROXMOX = ("discard", "lazytime", "noatime", "nodev", "noexec", "nosuid")

_MASKED_DIRECTORIES = ("/proc/acpi", "/proc/asound", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap")
_MASKED_FILES = (
    *("/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug"),
    *("/proc/timer_list", "/proc/timer_stats"),
)


def escaped(path: str) -> str:
    """A field of fstab(5): spaces and what else separates are octal."""
    for char in "\\ \t\n":
        path = path.replace(char, f"\\{ord(char):03o}")
    return path


def map_mounts(spec: Json, mapped: Mapped, binds: str, files: t.Collection[str]) -> None:
    """The mounts of a specification. binds, files: see ``from_runtime_spec``.

    Raises:
        Failure: ``invalid_spec``.
    """
    for index, mount in enumerate(entries(spec.get("mounts"), "mounts")):
        key = f"mounts[{index}]"
        mapped.rest(f"{key}.", mount, ("destination", "type", "source", "options", "uidMappings", "gidMappings"))
        options = strings(mount.get("options"), f"{key}.options")
        destination = inside(text(mount.get("destination"), f"{key}.destination"))
        if destination == "/":
            mapped.lose(key, mount, "the root file system is what Proxmox makes it")
        elif mount.get("uidMappings") or mount.get("gidMappings"):
            mapped.lose(key, mount, "a mount of its own mapping of ids cannot be made")
        elif {"bind", "rbind"} & set(options):
            _bind(key, mount, destination, options, mapped, binds, files)
        else:
            _file_system(key, mount, destination, options, mapped)


def inside(path: str) -> str:
    """A path of the container, absolute and without ``..``."""
    return posixpath.normpath(posixpath.join("/", path)).replace("//", "/")


def _bind(
    key: str,
    mount: Json,
    destination: str,
    options: list[str],
    mapped: Mapped,
    binds: str,
    files: t.Collection[str],
) -> None:
    source = text(mount.get("source", ""), f"{key}.source")
    if not source.startswith("/"):
        mapped.lose(key, mount, "a source relative to the bundle means nothing on the node")
        return
    if binds == "mounts" and source not in files and not any(char in source + destination for char in ",\n\t:"):
        point: Json = {"id": f"mp{len(mapped.api.get('mounts', []))}", "volume": source, "mp": destination}
        wanted = [option for option in options if option in _OF_PROXMOX]
        if "ro" in options:
            point["ro"] = True
        if wanted:
            point["mountoptions"] = wanted
        # Proxmox binds without what is mounted below (bindmount of PVE/LXC.pm), so that rbind is one of these.
        for option in options:
            if option not in (*_OF_PROXMOX, "ro", "rw", "bind", "rprivate", "private"):
                mapped.lose(f"{key}.options", option, "a mount point of Proxmox has no such option")
        mapped.api.setdefault("mounts", []).append(point)
        return
    kept = []
    for option in options:
        if option in _FLAGS:
            kept.append(option)
        else:
            mapped.lose(f"{key}.options", option, "a bind mount of LXC has no such option")
    _entry(key, mount, source, destination, "none", [*kept, "create=file" if source in files else "create=dir"], mapped)


def _file_system(key: str, mount: Json, destination: str, options: list[str], mapped: Mapped) -> None:
    kind = text(mount.get("type", ""), f"{key}.type")
    stand_in = _BY_LXC.get((kind, destination))
    if stand_in:
        others = [option for option in options if option not in _ANYWAY[destination]]
        if others:
            mapped.lose(f"{key}.options", others, f"LXC mounts {destination} by itself", stand_in)
        return
    if not kind or kind in ("cgroup", "cgroup2"):
        reason = "it has no type" if not kind else "LXC mounts cgroups at /sys/fs/cgroup only"
        mapped.lose(key, mount, reason)
        return
    kept = []
    for option in options:
        if option in _NOT_LXC or any(word in option for word in _WORDS_OF_LXC) or any(c in option for c in " \t\n"):
            mapped.lose(f"{key}.options", option, "LXC cannot mount with it")
        else:
            kept.append(option)
    source = text(mount.get("source") or kind, f"{key}.source")
    _entry(key, mount, source, destination, kind, [*kept, "create=dir"], mapped)


def _entry(
    key: str, mount: Json, source: str, destination: str, kind: str, options: t.Sequence[str], mapped: Mapped
) -> None:
    if source.startswith("#") or any(char in kind for char in " \t\n"):
        mapped.lose(key, mount, "a line of mounts cannot say it")
        return
    # Relative to the root file system, so that no link in it leads elsewhere.
    target = escaped(destination.lstrip("/"))
    mapped.line(key, "lxc.mount.entry", f"{escaped(source)} {target} {kind} {','.join(options)} 0 0")


def map_paths(linux: Json, mapped: Mapped) -> None:
    """``maskedPaths`` and ``readonlyPaths``, which are silently left out where they do not exist, as in runtimes.

    Raises:
        Failure: ``invalid_spec``.
    """
    for path in strings(linux.get("maskedPaths"), "linux.maskedPaths"):
        target = escaped(inside(path).lstrip("/"))
        # Of a path that may be either, the mount of the wrong kind fails, and an optional one may.
        if path not in _MASKED_DIRECTORIES:
            mapped.line("linux.maskedPaths", "lxc.mount.entry", f"/dev/null {target} none bind,optional 0 0")
        if path not in _MASKED_FILES:
            mapped.line("linux.maskedPaths", "lxc.mount.entry", f"tmpfs {target} tmpfs ro,optional 0 0")
    for path in strings(linux.get("readonlyPaths"), "linux.readonlyPaths"):
        target = escaped(inside(path).lstrip("/"))
        options = "rbind,ro,relative,optional"
        mapped.line("linux.readonlyPaths", "lxc.mount.entry", f"{target} {target} none {options} 0 0")
