# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The emulated machine is what the other tests take it for."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.tests.lab.command import directory as developers_machine
from ansible_collections.lxcri.proxmox.tests.lab.machine import ROOT, CommandError, Machine, remove_abandoned

SEQUENCE = "/rpool/data/subvol-101-disk-1/seq /rpool/data/subvol-101-disk-0/seq /tank/ct/subvol-101-disk-0/seq"
COUNT = "/rpool/data/subvol-103-disk-0/count"
CONFIG = "/etc/pve/lxc/101.conf"


def numbers(machine: Machine, paths: str) -> list[int]:
    """The numbers in some files, read one after the other."""
    return [int(line) for line in machine.run(f"cat {paths}").lines]


def test_pools_and_datasets(machine: Machine) -> None:
    names = machine.run("zfs list -H -o name,type,mounted").lines
    for name in (
        "rpool/data/subvol-101-disk-0",
        "rpool/data/subvol-101-disk-1",
        "tank/ct/subvol-101-disk-0",
        "rpool/data/subvol-102-disk-0",
        "rpool/data/subvol-103-disk-0",
        "tank/ct/subvol-104-disk-0",
        "tank/containers/web",
        "tank/containers/web/data",
        "tank/containers/idle",
        "backup/replica",
    ):
        assert f"{name}\tfilesystem\tyes" in names
    assert machine.run("zpool list -H -o name,health").lines == ["backup\tONLINE", "rpool\tONLINE", "tank\tONLINE"]
    assert machine.run("zfs list -H -t snapshot").stdout == ""
    # Room for the pools that a test makes.
    machine.run("zpool create -f small /dev/disk/by-id/virtio-spare && zpool destroy small")


def test_the_layout_is_that_of_a_node(machine: Machine) -> None:
    assert machine.run("hostname").stdout == "pve1\n"
    assert machine.run("readlink -f /etc/pve/lxc /etc/pve/local").lines == [
        "/etc/pve/nodes/pve1/lxc",
        "/etc/pve/nodes/pve1",
    ]
    assert "zfspool: tank-zfs" in machine.read("/etc/pve/storage.cfg")
    assert machine.run("pct list | tr -s ' '").lines == [
        "VMID Status Lock Name ",
        "101 running sequence ",
        "102 running unprivileged ",
        "103 running counter ",
        "104 running systemd ",
    ]
    assert machine.run("lxc-ls --running").stdout.split() == ["101", "102", "103", "104", "idle", "web"]
    assert abs(float(machine.run("date +%s.%N").stdout) - time.time()) < 2


def test_the_sequences_move_in_order(machine: Machine) -> None:
    paths = [SEQUENCE, "/tank/containers/web/data/seq /tank/containers/web/seq"]
    before = [numbers(machine, each) for each in paths]
    machine.run("sleep 1; lxc-freeze -n 101; lxc-freeze -n web")
    for each, earlier in zip(paths, before):
        now = numbers(machine, each)
        assert now == sorted(now, reverse=True)
        assert now[0] - now[-1] <= 1
        assert now[-1] > earlier[0]


def test_unprivileged_and_systemd(machine: Machine) -> None:
    pid = machine.run("lxc-info -n 102 -pH").stdout.strip()
    assert machine.read(f"/proc/{pid}/uid_map").split() == ["0", "100000", "65536"]
    assert machine.run("stat -c %u:%g /rpool/data/subvol-102-disk-0/etc").stdout == "100000:100000\n"
    assert machine.run("lxc-attach -n 104 -- cat /proc/1/comm").stdout == "systemd\n"
    assert machine.run("lxc-attach -n 104 -- systemctl is-system-running").stdout == "running\n"


def test_a_dumped_container_goes_on_counting(machine: Machine) -> None:
    machine.run("mkdir /root/dump && lxc-checkpoint -n 103 -s -D /root/dump")
    assert machine.run("pct status 103").stdout == "status: stopped\n"
    [dumped] = numbers(machine, COUNT)
    # The monitor of a restored container keeps the streams of lxc-checkpoint.
    machine.run("lxc-checkpoint -r -n 103 -D /root/dump >/root/dump/said 2>&1")
    assert machine.run("pct status 103").stdout == "status: running\n"
    time.sleep(0.5)
    [now] = numbers(machine, COUNT)
    assert dumped < now < dumped + 200
    # Started anew, it counts from 1.
    machine.run(f"pct stop 103 && rm {COUNT} && pct start 103 && while [ ! -s {COUNT} ]; do sleep 0.1; done")
    assert numbers(machine, COUNT)[0] < dumped


def test_pct_keeps_to_the_locks(machine: Machine) -> None:
    # Waits for ten seconds, while the rest is tested.
    lock = "/run/lock/lxc/pve-config-102.lock"
    machine.run(f"mkdir -p /run/lock/lxc; flock {lock} sleep 60 >/dev/null 2>&1 &")
    machine.run("(pct stop 102; echo $?) >/root/said 2>&1 &")

    machine.write(CONFIG, "lock: backup\n" + machine.read(CONFIG))
    for command in ("stop 101", "snapshot 101 a", "rollback 101 a"):
        result = machine.run(f"pct {command}", check=False)
        expected = "snapshot 'a' does not exist\n" if "rollback" in command else "CT is locked (backup)\n"
        assert (result.rc, result.stderr) == (255, expected), command
    machine.run("pct stop 101 --skiplock")
    assert machine.run("pct start 101", check=False).stderr == "CT is locked (backup)\n"
    machine.run("pct unlock 101")
    assert machine.run("pct unlock 101", check=False).stderr == "no lock found trying to remove any lock\n"

    machine.run("while ! grep -q 255 /root/said; do sleep 0.2; done", timeout=60)
    assert machine.read("/root/said") == f"trying to acquire lock...\ncan't lock file '{lock}' - got timeout\n255\n"
    assert machine.run("pct status 102").stdout == "status: running\n"


def test_pct_snapshots_and_rolls_back(machine: Machine) -> None:
    before = machine.read(CONFIG)
    machine.run("pct snapshot 101 first --description one")
    text = machine.read(CONFIG)
    assert text.startswith("#Writes")
    assert "\nparent: first\n" in text
    assert "\n[first]\n#one\n" in text
    assert "\nsnaptime: " in text
    names = machine.run("zfs list -H -t snapshot -o name,pve-storage:refquota").lines
    assert names == [
        f"{dataset}@first\t1073741824"
        for dataset in ("rpool/data/subvol-101-disk-0", "rpool/data/subvol-101-disk-1", "tank/ct/subvol-101-disk-0")
    ]
    frozen = numbers(machine, SEQUENCE.replace("/seq", "/.zfs/snapshot/first/seq"))
    assert frozen == sorted(frozen, reverse=True)
    assert frozen[0] - frozen[-1] <= 1

    machine.run("echo changed >/rpool/data/subvol-101-disk-1/hello; zfs snapshot tank/ct/subvol-101-disk-0@foreign")
    result = machine.run("pct rollback 101 first", check=False)
    assert result.stderr == ("can't rollback, 'first' is not most recent snapshot on 'tank-zfs:subvol-101-disk-0'\n")
    machine.run("zfs destroy tank/ct/subvol-101-disk-0@foreign; pct rollback 101 first --start")
    assert machine.read("/rpool/data/subvol-101-disk-1/hello") == "hello from 101\n"
    assert machine.run("pct status 101").stdout == "status: running\n"
    assert "You are here!" in machine.run("pct listsnapshot 101").lines[-1]
    machine.run("pct delsnapshot 101 first")
    assert machine.read(CONFIG) == before
    assert machine.run("zfs list -H -t snapshot").stdout == ""


def test_pct_destroys(machine: Machine) -> None:
    assert "container is running" in machine.run("pct destroy 102", check=False).stderr
    machine.run("pct shutdown 102 && zfs create rpool/data/subvol-102-disk-7 && pct rescan")
    assert "unused0: local-zfs:subvol-102-disk-7\n" in machine.read("/etc/pve/lxc/102.conf")
    machine.run("pct destroy 102")
    assert "102" not in machine.run("zfs list -H -o name; ls /etc/pve/lxc /var/lib/lxc").stdout


@pytest.mark.parametrize(("vmid", "mode"), [(101, "snapshot"), (102, "suspend"), (103, "stop")])
def test_vzdump_writes_an_archive(machine: Machine, vmid: int, mode: str) -> None:
    before = machine.read(f"/etc/pve/lxc/{vmid}.conf")
    result = machine.run(f"vzdump {vmid} --dumpdir /var/lib/vz/dump --compress zstd --mode {mode}")
    [path] = machine.run("ls /var/lib/vz/dump/*.tar.zst").lines
    assert f"INFO: creating vzdump archive '{path}'" in result.lines
    assert f"INFO: backup mode: {mode}" in result.lines
    names = machine.run(f"tar -t --numeric-owner -v -f {path} | awk '{{ print $2, $6 }}'").lines
    assert {"0/0 ./etc/vzdump/pct.conf", "0/0 ./sbin/init"} <= set(names)
    if vmid == 101:
        assert {"0/0 ./data/hello", "0/0 ./srv/seq"} <= set(names)
        assert "IN ACCEPT" in machine.run(f"tar -x -O -f {path} ./etc/vzdump/pct.fw").stdout
    assert machine.read(f"/etc/pve/lxc/{vmid}.conf") == before
    assert machine.run(f"pct status {vmid}").stdout == "status: running\n"
    assert machine.run("zfs list -H -t snapshot").stdout == ""
    assert len(machine.run("ls /var/lib/vz/dump").lines) == 2


def test_ssh(machine: Machine) -> None:
    assert machine.run("ssh -o BatchMode=yes root@localhost hostname").stdout == "pve1\n"
    host, port, key = machine.ssh
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    words = ["ssh", "-i", str(key), "-p", str(port), *options, f"root@{host}", "hostname"]
    assert subprocess.run(words, check=True, capture_output=True, text=True).stdout == "pve1\n"


def test_commands_and_modules(machine: Machine) -> None:
    result = machine.run(["sh", "-c", "cat; echo $A >&2; kill -9 $$"], input="given", env={"A": "é"}, check=False)
    assert (result.rc, result.stdout, result.stderr) == (137, "given", "é\n")
    with pytest.raises(CommandError, match="failed with 1"):
        machine.run("false")
    with pytest.raises(TimeoutError):
        machine.run("sleep 60", timeout=0.5)
    machine.write("/root/it's", "text\n", mode=0o600)
    assert machine.run(["stat", "-c", "%a", "/root/it's"]).stdout == "600\n"
    refused = machine.module("lxc_container_info", {"api_host": "none"})
    assert refused["failed"]
    assert refused["failure"]["code"] == "invalid_option"
    run = machine.start_module("lxc_container_info", {"api_host": "none"})
    run.kill()
    assert run.wait()["killed"] == 9
    run.kill()
    slow = machine.module("lxc_container_info", {"api_host": "none"}, interpreter="timeout -s KILL 0.2 python3")
    assert slow["killed"] == 9


def test_reset(machine: Machine) -> None:
    machine.run("zfs destroy -r tank/containers/idle || true; pct stop 101; zfs destroy -r tank/ct/subvol-101-disk-0")
    machine.write("/root/file", "x")
    machine.reset()
    assert machine.run("pct status 101; ls /root").stdout == "status: running\n"
    assert numbers(machine, SEQUENCE)


def ended(pid: int) -> bool:
    """Whether a process ends within some seconds.

    The first thread of one that nobody waits for stays as a zombie; its files are closed when the others have ended.
    """
    deadline = time.monotonic() + 20
    process = Path(f"/proc/{pid}")
    while time.monotonic() < deadline:
        try:
            state = (process / "stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
            threads = [thread.name for thread in (process / "task").iterdir()]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z" and threads == [str(pid)]:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_a_killed_run_leaves_nothing() -> None:
    """The emulator dies with it, and the next machine removes its files."""
    code = f"""
import sys, time
sys.path[:] = {sys.path!r}
from {Machine.__module__} import Machine
print(Machine.start().directory, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        directory = Path(run.stdout.readline().strip())
        pid = int((directory / "pid").read_text(encoding="utf-8"))
        run.kill()
    assert ended(pid)
    remove_abandoned(directory.parent)
    assert not directory.exists()


@pytest.mark.slow
def test_a_machine_for_a_developer() -> None:
    """One that outlives the command that has started it, until it is told to end."""
    if developers_machine().exists():
        pytest.skip("the machine of this checkout is in use, and this test would end it")

    def lab(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(ROOT / "dev/lab"), *words], capture_output=True, text=True, timeout=250, check=False)

    assert lab("status").returncode == 1
    done = lab("up")
    try:
        assert done.returncode == 0, done.stderr
        pid = int((developers_machine() / "pid").read_text(encoding="utf-8"))
        assert lab("ssh", "pct", "status", "101").stdout == "status: running\n"
        assert lab("run", "exit 3").returncode == 3
        # It runs already.
        assert "runs in" in lab("up").stdout
    finally:
        done = lab("down")
    assert done.returncode == 0, done.stderr
    assert ended(pid)
    assert not developers_machine().exists()
