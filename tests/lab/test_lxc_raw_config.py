# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Raw lines on a node of Proxmox, and what LXC makes of them."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci import init_command
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.lxc_config import from_runtime_spec
from ansible_collections.lxcri.proxmox.tests.lab.machine import Machine
from ansible_collections.lxcri.proxmox.tests.lab.support import running, state

CONFIG = "/etc/pve/lxc/101.conf"
ROOT = "/rpool/data/subvol-101-disk-0"


def attempt(machine: Machine, *raw: t.Any, vmid: int = 101, **options: t.Any) -> dict[str, t.Any]:
    """The result of the module, also a failed one."""
    run = {key: options.pop(key) for key in ("check_mode", "diff") if key in options}
    return machine.module("lxc_raw_config", {"vmid": vmid, "raw": list(raw), **options}, **run)


def declare(machine: Machine, *raw: t.Any, **options: t.Any) -> dict[str, t.Any]:
    """The result of the module, which must not fail."""
    result = attempt(machine, *raw, **options)
    assert not result.get("failed"), result
    return result


def refused(machine: Machine, code: str, *raw: t.Any, **options: t.Any) -> dict[str, t.Any]:
    """The failure of the module, of this code. It has changed nothing."""
    before = state(machine)
    result = attempt(machine, *raw, **options)
    assert result.get("failed"), result
    assert result["failure"]["code"] == code, result["failure"]
    assert state(machine) == before
    return result["failure"]


def restart(machine: Machine, vmid: int = 101) -> None:
    machine.run(f"pct stop {vmid} && pct start {vmid}")
    assert running(machine, str(vmid))


def of_init(machine: Machine, file: str, vmid: int = 101) -> str:
    """A file of /proc about the container's init."""
    return machine.run(f"cat /proc/$(lxc-info -n {vmid} -pH)/{file}").stdout


def test_a_container_runs_with_its_raw_lines(machine: Machine) -> None:
    """Written once, predicted exactly, and in force after a restart."""
    lines = [
        {"lxc.prlimit.nofile": "123:456"},
        "lxc.init.cwd: /srv",
        "lxc.cap.drop:",
        "lxc.cap.keep: chown kill setuid",
        "lxc.cgroup2.pids.max: 77",
        "lxc.mount.entry: tmpfs run tmpfs size=1m,create=dir 0 0",
        "lxc.signal.halt: SIGTERM",
    ]
    before = state(machine)
    predicted = declare(machine, *lines, check_mode=True, diff=True)
    assert state(machine) == before
    done = declare(machine, *lines, diff=True)
    assert done["changed"]
    assert done["restart_required"]
    assert all(predicted[key] == done[key] for key in ("plan", "raw", "diff"))
    assert not declare(machine, *lines)["changed"]
    assert running(machine, "101")
    restart(machine)
    limits = next(line for line in of_init(machine, "limits").splitlines() if line.startswith("Max open files"))
    assert limits.split()[3:5] == ["123", "456"]
    assert machine.run("readlink /proc/$(lxc-info -n 101 -pH)/cwd").stdout.strip() == "/srv"
    bounding = next(line for line in of_init(machine, "status").splitlines() if line.startswith("CapBnd:"))
    # CAP_CHOWN, CAP_KILL and CAP_SETUID are 0, 5 and 7.
    assert int(bounding.split()[1], 16) == 1 << 0 | 1 << 5 | 1 << 7
    assert " /run " in of_init(machine, "mounts")
    assert machine.read("/sys/fs/cgroup/lxc/101/pids.max").strip() == "77"
    gone = declare(machine, *(entry["key"] for entry in done["raw"]), state="absent")
    assert gone["raw"] == []
    restart(machine)
    assert int(of_init(machine, "status").partition("CapBnd:")[2].split()[0], 16) > 1 << 10


def test_all_else_in_the_file_stays(machine: Machine) -> None:
    """Snapshots of Proxmox and comments are as they were, and a rollback still works."""
    machine.run("pct snapshot 101 before --description 'lxc.init.cwd: /no'")
    before = machine.read(CONFIG)
    declare(machine, "lxc.init.cwd: /srv")
    after = machine.read(CONFIG)
    assert "".join(line for line in after.splitlines(True) if line != "lxc.init.cwd: /srv\n") == before
    assert after.index("lxc.init.cwd: /srv") < after.index("[before]")
    assert machine.run("ls /etc/pve/lxc").stdout.split() == ["101.conf", "102.conf", "103.conf", "104.conf"]
    machine.run("pct rollback 101 before")
    assert "/srv" not in machine.read(CONFIG).replace("mp=/srv", "")
    foreign = machine.read("/etc/pve/lxc/103.conf")
    declare(machine, "lxc.init.cwd: /", vmid=103)
    assert machine.read("/etc/pve/lxc/103.conf") == foreign.rstrip("\n") + "\nlxc.init.cwd: /\n"


@pytest.mark.slow
def test_what_stands_against_it(machine: Machine) -> None:
    """Locks of Proxmox, another node, and lines that Proxmox does not admit."""
    machine.run(f"sed -i '1i lock: backup' {CONFIG}")
    assert refused(machine, "locked", "lxc.init.cwd: /srv")["details"]["lock"] == "backup"
    machine.run(f"sed -i '/^lock:/d' {CONFIG}")
    machine.run("mkdir -p /run/lock/lxc")
    machine.run("setsid flock /run/lock/lxc/pve-config-101.lock sleep 60 >/dev/null 2>&1 & sleep 0.5")
    refused(machine, "lock_timeout", "lxc.init.cwd: /srv")
    machine.run("mkdir -p /etc/pve/nodes/pve2/lxc && cp /etc/pve/lxc/102.conf /etc/pve/nodes/pve2/lxc/205.conf")
    assert refused(machine, "container_missing", "lxc.init.cwd: /srv", vmid=205)["details"]["node"] == "pve2"
    refused(machine, "key_of_api", "lxc.init.cmd: /bin/sh", vmid=102)
    refused(machine, "key_not_admitted", "lxc.no_new_privs: 1", vmid=102)
    refused(machine, "invalid_option", "lxc.init.cwd: /a\nlock: backup", vmid=102)


def start_with(machine: Machine, args: list[str]) -> None:
    """Start the container with another init."""
    machine.run("pct stop 101")
    machine.write(CONFIG, f"{machine.read(CONFIG).rstrip()}\nentrypoint: {init_command.encode(args)}\n")
    machine.run("pct start 101")
    assert running(machine, "101")


def test_lxc_reads_the_arguments_of_init_as_they_were(machine: Machine) -> None:
    """Spaces, either kind of quotes, and an argument that is empty."""
    words = ["it's", "a  b", "", "it's so", 'say "it"']
    start_with(machine, ["/bin/sh", "-c", 'for word; do echo "<$word>"; done >/said; exec sleep 1000', "sh", *words])
    said = f"{ROOT}/said"
    machine.run(f"for i in $(seq 50); do [ -s {said} ] && exit; sleep 0.1; done")
    assert machine.read(said) == "".join(f"<{word}>\n" for word in words)


def test_lxc_keeps_the_quotes_at_both_ends(machine: Machine) -> None:
    """One word in quotes is one word, though LXC takes a pair of quotes off the line."""
    machine.write(f"{ROOT}/bin/my init", "#!/bin/sh\nexec sleep 1000\n", 0o755)
    start_with(machine, ["/bin/my init"])
    machine.run("for i in $(seq 50); do grep -q 1000 /proc/$(lxc-info -n 101 -pH)/cmdline && exit; sleep 0.1; done")
    assert of_init(machine, "cmdline").split("\0")[:2] == ["sleep", "1000"]


def test_a_specification_as_raw_lines(machine: Machine) -> None:
    """Masked and read-only paths, a seccomp policy, a user and groups, as from_runtime_spec maps them."""
    policy = "/etc/lxc/lab.seccomp"
    result = from_runtime_spec(
        {
            "process": {
                "args": ["/sbin/init"],
                "user": {"uid": 7, "gid": 8, "additionalGids": [9, 10]},
                "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
            },
            "mounts": [
                {"destination": "/srv/a b", "type": "bind", "source": "/var/lib/vz/d e", "options": ["bind", "ro"]}
            ],
            "linux": {
                "maskedPaths": ["/proc/kcore", "/sys/firmware", "/proc/nothing"],
                "readonlyPaths": ["/proc/sys"],
                "sysctl": {"kernel.msgmax": "4096"},
                "seccomp": {
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [
                        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
                        {
                            "names": ["personality"],
                            "action": "SCMP_ACT_ERRNO",
                            "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}],
                        },
                    ],
                },
            },
        },
        seccomp_path=policy,
    )
    machine.run("mkdir -p '/var/lib/vz/d e' && touch '/var/lib/vz/d e/here'")
    machine.write(policy, result.files[policy])
    # Init writes nothing then, but waits.
    machine.run(f"pct stop 101; cp /usr/lib/lab/init-idle {ROOT}/sbin/init")
    declare(machine, *result.as_dict()["raw"])
    machine.run("pct start 101")
    assert running(machine, "101")
    pairs = (line.partition(":") for line in of_init(machine, "status").splitlines())
    status = {name: value.split() for name, _colon, value in pairs}
    assert status["Uid"] == ["7"] * 4
    assert status["Gid"] == ["8"] * 4
    assert status["Groups"] == ["9", "10"]
    assert status["Seccomp"] == ["2"]
    mounts = [line.split() for line in of_init(machine, "mounts").splitlines()]
    found = {words[1]: words for words in mounts}
    assert "/proc/kcore" in found
    assert found["/sys/firmware"][2] == "tmpfs"
    assert "ro" in found["/proc/sys"][3].split(",")
    assert "ro" in found["/srv/a\\040b"][3].split(",")
    attach = ["lxc-attach", "-n", "101", "-u", "0", "--"]
    assert machine.run([*attach, "ls", "/srv/a b"]).stdout.split() == ["here"]
    assert machine.run([*attach, "cat", "/proc/sys/kernel/msgmax"]).stdout.strip() == "4096"
    assert "not permitted" in machine.run([*attach, "mkdir", "/tmp/x"], check=False).stderr
    assert not declare(machine, *result.as_dict()["raw"])["changed"]
