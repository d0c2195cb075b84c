# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Resources, devices and sysctls of the runtime specification as options of Proxmox and cgroup2 lines. Pure."""

from __future__ import annotations

import re

from ..node.raw_keys import is_admitted
from .layout import Json
from .mapped import Mapped, entries, number, section, shell_hook, text

MIB = 1 << 20
# memory of PVE/LXC/Config.pm; without it a container gets 512 MiB (update_lxc_config of PVE/LXC.pm).
MIN_MEMORY, DEFAULT_MEMORY = 16, 512
PERIOD = 100_000
MAX_CPULIMIT = 8192

_KEY = "linux.resources"
# What every container has (runtime-spec, config-linux.md, Default Devices), and LXC makes as well.
_DEFAULT_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "console", "ptmx")
_DEFAULT_NUMBERS = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)}
_QUEUES = {f"fs.mqueue.{name}" for name in ("msg_default", "msg_max", "msgsize_default", "msgsize_max", "queues_max")}
_CPUS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


def map_resources(linux: Json, mapped: Mapped) -> None:
    """``linux.resources``. Without a limit of memory, that of Proxmox is reported.

    Raises:
        Failure: ``invalid_spec``.
    """
    resources = section(linux.get("resources"), _KEY)
    _memory(section(resources.get("memory"), f"{_KEY}.memory"), mapped)
    _cpu(section(resources.get("cpu"), f"{_KEY}.cpu"), mapped)
    _pids(section(resources.get("pids"), f"{_KEY}.pids"), mapped)
    _block_io(section(resources.get("blockIO"), f"{_KEY}.blockIO"), mapped)
    _rules(entries(resources.get("devices"), f"{_KEY}.devices"), linux, mapped)
    for index, limit in enumerate(entries(resources.get("hugepageLimits"), f"{_KEY}.hugepageLimits")):
        # hugetlb.2MB.max: parse_pct_config reads keys without capital letters only.
        mapped.lose(f"{_KEY}.hugepageLimits[{index}]", limit, "Proxmox reads no key with capital letters")
    if resources.get("network"):
        mapped.lose(f"{_KEY}.network", resources["network"], "cgroup2 has no classes and priorities of packets")
    rdma = section(resources.get("rdma"), f"{_KEY}.rdma")
    for name in sorted(rdma):
        limits = section(rdma[name], f"{_KEY}.rdma.{name}")
        words = [
            f"{word}={number(limits[key], key)}"
            for key, word in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object"))
            if limits.get(key) is not None
        ]
        mapped.line(f"{_KEY}.rdma.{name}", "lxc.cgroup2.rdma.max", " ".join([name, *words]))
    for name, value in sorted(section(resources.get("unified"), f"{_KEY}.unified").items()):
        key = f"{_KEY}.unified.{name}"
        mapped.line(key, f"lxc.cgroup2.{name}", text(value, key))
    known = ("memory", "cpu", "pids", "blockIO", "devices", "hugepageLimits", "network", "rdma", "unified")
    mapped.rest(f"{_KEY}.", resources, known)


def _memory(memory: Json, mapped: Mapped) -> None:
    key = f"{_KEY}.memory"
    limit = number(memory.get("limit", -1), f"{key}.limit")
    unlimited = "Proxmox limits the memory of every container"
    if limit <= 0:
        mapped.lose(f"{key}.limit", memory.get("limit"), unlimited, f"memory: {DEFAULT_MEMORY}, unless declared")
    else:
        mebibytes = max(MIN_MEMORY, -(-limit // MIB))
        mapped.api["memory"] = mebibytes
        if mebibytes * MIB != limit:
            reason = f"Proxmox counts in MiB, from {MIN_MEMORY}"
            mapped.lose(f"{key}.limit", limit, reason, f"memory: {mebibytes}")
    if memory.get("swap") is not None:
        _swap(number(memory["swap"], f"{key}.swap"), limit, mapped)
    if memory.get("reservation") is not None:
        reservation = number(memory["reservation"], f"{key}.reservation")
        if reservation > 0:
            mapped.line(f"{key}.reservation", "lxc.cgroup2.memory.low", reservation)
    for name in ("kernel", "kernelTCP", "swappiness", "disableOOMKiller", "useHierarchy"):
        if memory.get(name):
            mapped.lose(f"{key}.{name}", memory[name], "cgroup2 has nothing like it")
    if memory.get("checkBeforeUpdate"):
        mapped.lose(f"{key}.checkBeforeUpdate", True, "Proxmox does not look at what is used")
    known = ("limit", "swap", "reservation", "kernel", "kernelTCP", "swappiness", "disableOOMKiller", "useHierarchy")
    mapped.rest(f"{key}.", memory, (*known, "checkBeforeUpdate"))


def _swap(swap: int, limit: int, mapped: Mapped) -> None:
    key = f"{_KEY}.memory.swap"
    if swap < 0:
        mapped.lose(key, swap, "Proxmox limits the swap of every container", "swap of lxc_container")
    elif limit <= 0:
        mapped.lose(key, swap, "it is memory and swap together, and memory has no limit")
    else:
        mebibytes = -(-max(0, swap - limit) // MIB)
        mapped.api["swap"] = mebibytes
        if mebibytes * MIB != swap - limit:
            mapped.lose(key, swap, "Proxmox counts in MiB", f"swap: {mebibytes}")


def weight_of_shares(shares: int) -> int:
    """The weight in cgroup2 for CPU shares, 2 to 262144, as runc and crun have always converted them."""
    return 1 + (min(max(shares, 2), 262144) - 2) * 9999 // 262142


def _cpu(cpu: Json, mapped: Mapped) -> None:
    key = f"{_KEY}.cpu"
    if cpu.get("shares"):
        shares = number(cpu["shares"], f"{key}.shares")
        mapped.api["cpuunits"] = weight_of_shares(shares)
        mapped.lose(f"{key}.shares", shares, "cgroup2 has weights", f"cpuunits: {mapped.api['cpuunits']}")
    quota = number(cpu.get("quota") or 0, f"{key}.quota")
    period = number(cpu.get("period") or PERIOD, f"{key}.period")
    if quota > 0 and period > 0:
        limit = min(round(quota / period, 5), MAX_CPULIMIT)
        mapped.api["cpulimit"] = limit
        if period != PERIOD or round(limit * period) != quota:
            given = {"quota": quota, "period": period}
            reason = f"the period is always {PERIOD} µs"
            mapped.lose(f"{key}.quota", given, reason, f"cpulimit: {limit:g}")
    elif cpu.get("period") and period != PERIOD:
        mapped.lose(f"{key}.period", period, "without a quota it has no effect")
    for name in ("cpus", "mems"):
        if cpu.get(name):
            listed = text(cpu[name], f"{key}.{name}")
            if _CPUS.fullmatch(listed):
                mapped.line(f"{key}.{name}", f"lxc.cgroup2.cpuset.{name}", listed)
            else:
                mapped.lose(f"{key}.{name}", listed, "it is no list such as 0-3,7")
    for name, line in (("burst", "cpu.max.burst"), ("idle", "cpu.idle")):
        if cpu.get(name) is not None:
            mapped.line(f"{key}.{name}", f"lxc.cgroup2.{line}", number(cpu[name], f"{key}.{name}"))
    for name in ("realtimeRuntime", "realtimePeriod"):
        if cpu.get(name):
            mapped.lose(f"{key}.{name}", cpu[name], "cgroup2 has nothing like it")
    known = ("shares", "quota", "period", "cpus", "mems", "burst", "idle", "realtimeRuntime", "realtimePeriod")
    mapped.rest(f"{key}.", cpu, known)


def _pids(pids: Json, mapped: Mapped) -> None:
    if pids.get("limit") is not None:
        limit = number(pids["limit"], f"{_KEY}.pids.limit")
        mapped.line(f"{_KEY}.pids.limit", "lxc.cgroup2.pids.max", "max" if limit < 0 else limit)
    mapped.rest(f"{_KEY}.pids.", pids, ("limit",))


def _block_io(block: Json, mapped: Mapped) -> None:
    key = f"{_KEY}.blockIO"
    if block.get("weight"):
        weight = _io_weight(number(block["weight"], f"{key}.weight"))
        if mapped.line(f"{key}.weight", "lxc.cgroup2.io.weight", f"default {weight}"):
            mapped.lose(f"{key}.weight", block["weight"], "cgroup2 counts weights otherwise", f"io.weight {weight}")
    for entry in entries(block.get("weightDevice"), f"{key}.weightDevice"):
        if entry.get("weight"):
            weight = _io_weight(number(entry["weight"], f"{key}.weightDevice.weight"))
            if mapped.line(f"{key}.weightDevice", "lxc.cgroup2.io.weight", f"{_device(entry, key)} {weight}"):
                reason = "cgroup2 counts weights otherwise"
                mapped.lose(f"{key}.weightDevice", entry, reason, f"io.weight {weight}")
        if entry.get("leafWeight"):
            mapped.lose(f"{key}.weightDevice.leafWeight", entry, "cgroup2 has nothing like it")
    if block.get("leafWeight"):
        mapped.lose(f"{key}.leafWeight", block["leafWeight"], "cgroup2 has nothing like it")
    limits: dict[str, list[str]] = {}
    throttles = {
        "throttleReadBpsDevice": "rbps",
        "throttleWriteBpsDevice": "wbps",
        "throttleReadIOPSDevice": "riops",
        "throttleWriteIOPSDevice": "wiops",
    }
    for name, word in throttles.items():
        for entry in entries(block.get(name), f"{key}.{name}"):
            rate = number(entry.get("rate"), f"{key}.{name}.rate")
            limits.setdefault(_device(entry, f"{key}.{name}"), []).append(f"{word}={rate}")
    for device, words in limits.items():
        mapped.line(key, "lxc.cgroup2.io.max", f"{device} {' '.join(words)}")
    mapped.rest(f"{key}.", block, ("weight", "weightDevice", "leafWeight", *throttles))


def _io_weight(weight: int) -> int:
    """10 to 1000 of cgroup 1 as 1 to 10000 of cgroup 2, as runc and crun convert it."""
    return 1 + (min(max(weight, 10), 1000) - 10) * 9999 // 990


def _device(entry: Json, key: str) -> str:
    return f"{number(entry.get('major'), f'{key}.major')}:{number(entry.get('minor'), f'{key}.minor')}"


def _rules(rules: list[Json], linux: Json, mapped: Mapped) -> None:
    passed = {(device.get("major"), device.get("minor")) for device in entries(linux.get("devices"), "linux.devices")}
    for index, rule in enumerate(rules):
        key = f"{_KEY}.devices[{index}]"
        mapped.rest(f"{key}.", rule, ("allow", "type", "major", "minor", "access"))
        kind = text(rule.get("type") or "a", f"{key}.type")
        numbers = tuple(None if rule.get(name) in (None, -1) else rule[name] for name in ("major", "minor"))
        access = text(rule.get("access") or "rwm", f"{key}.access")
        if kind not in ("a", "b", "c") or not re.fullmatch(r"[rwm]+", access):
            mapped.lose(key, rule, "it is no rule for devices")
            continue
        everything = kind == "a" and numbers == (None, None)
        # Everything is denied to begin with, and the default devices and those of devN are allowed.
        if not rule.get("allow") and everything and index == 0:
            continue
        if rule.get("allow") and numbers in (_DEFAULT_NUMBERS | passed):
            continue
        major, minor = ("*" if part is None else str(number(part, key)) for part in numbers)
        value = "a" if everything else f"{kind} {major}:{minor} {access}"
        mapped.line(key, f"lxc.cgroup2.devices.{'allow' if rule.get('allow') else 'deny'}", value)


def map_devices(linux: Json, mapped: Mapped) -> None:
    """``linux.devices`` as ``devices`` of ``lxc_container``, which only root@pam with a password may set.

    Raises:
        Failure: ``invalid_spec``.
    """
    for index, device in enumerate(entries(linux.get("devices"), "linux.devices")):
        key = f"linux.devices[{index}]"
        path = text(device.get("path"), f"{key}.path")
        mapped.rest(f"{key}.", device, ("path", "type", "major", "minor", "fileMode", "uid", "gid"))
        if path in {f"/dev/{name}" for name in _DEFAULT_DEVICES}:
            continue
        if not re.fullmatch(r"/dev/[^,\s]+", path) or "/.." in path or "/./" in path:
            mapped.lose(key, device, "Proxmox passes devices below /dev only")
            continue
        if device.get("type") not in ("c", "b", "u"):
            mapped.lose(key, device, "Proxmox passes character and block devices only")
            continue
        entry: Json = {"path": path}
        if device.get("fileMode") is not None:
            entry["mode"] = f"0{number(device['fileMode'], f'{key}.fileMode') & 0o777:03o}"
        for name in ("uid", "gid"):
            if device.get(name):
                entry[name] = number(device[name], f"{key}.{name}")
        mapped.api.setdefault("devices", []).append(entry)
        numbers = f"{device.get('major')}:{device.get('minor')}"
        reason = "Proxmox passes the node's device of this path, whatever its numbers"
        mapped.lose(key, numbers, reason, f"devices: {path}")


def map_sysctls(linux: Json, mapped: Mapped) -> None:
    """``linux.sysctl``: those of the IPC namespace, written by a hook.

    Proxmox admits ``lxc.sysctl.kernel.shmmax`` and others, but LXC writes them when it has mounted ``/proc/sys``
    read-only (lxc_setup of conf.c), and the container does not start. The hook runs before, in the namespaces of the
    container.

    Raises:
        Failure: ``invalid_spec``.
    """
    sysctls = section(linux.get("sysctl"), "linux.sysctl")
    namespaces = entries(linux.get("namespaces"), "linux.namespaces")
    unprivileged = any(entry.get("type") == "user" for entry in namespaces)
    for name in sorted(sysctls):
        key = f"linux.sysctl.{name}"
        value = text(sysctls[name], key)
        if not (name.startswith("kernel.") and is_admitted(f"lxc.sysctl.{name}")) and name not in _QUEUES:
            mapped.lose(key, value, "a container of Proxmox has those of the IPC namespace only")
        elif unprivileged:
            mapped.lose(key, value, "an unprivileged container may not set it")
        else:
            path = f"/proc/sys/{name.replace('.', '/')}"
            mapped.line(key, "lxc.hook.mount", shell_hook(["sh", "-c", 'echo "$1" >"$2"', "sh", value, path]))
