# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What prepares a node: the modules on real disks and files, and the role by the real ansible-playbook over ssh."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.tests.lab.debs import fetched, made, offer
from ansible_collections.lxcri.proxmox.tests.lab.machine import Machine
from ansible_collections.lxcri.proxmox.tests.lab.support import Played, play_role

SPARE = "/dev/disk/by-id/virtio-spare"
KEYRING = "/usr/share/keyrings/proxmox-archive-keyring.gpg"
TIMERS = "/etc/systemd/system/timers.target.wants"
# Everything that the parts of the role could change on the node.
_STATE = f"""
cd /etc && sha256sum apt/sources.list apt/sources.list.d/* modprobe.d/* subuid subgid 2>&1; ls {TIMERS}
zpool get -Hp -o name,property,value autotrim,comment; zfs list -Hp -o name,guid
zfs get -Hp -s local -t filesystem,volume -o name,property,value all; wipefs --no-act {SPARE}
cat /sys/module/zfs/parameters/zfs_arc_max; dpkg-query -W | sha256sum
"""


def state(machine: Machine) -> str:
    """Everything that could change, as text."""
    return machine.run(_STATE, check=False).stdout


def converge(machine: Machine, module: str, **options: t.Any) -> dict[str, t.Any]:
    """Run a module in check mode, for real and again; the result of the second."""
    before = state(machine)
    checked = machine.module(module, options, check_mode=True, diff=True)
    assert not checked.get("failed"), checked
    assert state(machine) == before
    done = machine.module(module, options, diff=True)
    assert not done.get("failed"), done
    for key in ("changed", "plan", "diff"):
        assert checked[key] == done[key], key
    again = machine.module(module, options)
    assert (again["changed"], again["plan"]) == (False, []), again
    return done


def refuse(machine: Machine, module: str, *cases: tuple[str, dict[str, t.Any]]) -> list[dict[str, t.Any]]:
    """The failures of a module with these codes and options. It has changed nothing."""
    before = state(machine)
    failures = []
    for code, options in cases:
        result = machine.module(module, options)
        assert result.get("failed"), (code, result)
        assert result["failure"]["code"] == code, result["failure"]
        failures.append(result["failure"])
    assert state(machine) == before
    return failures


def value(machine: Machine, name: str, key: str) -> str:
    """A property of a dataset."""
    return machine.run(["zfs", "get", "-Hp", "-o", "value", key, name]).stdout.strip()


POOL: dict[str, t.Any] = {
    "name": "fast",
    "vdevs": [{"type": "stripe", "role": "data", "devices": [SPARE]}],
    "properties": {"ashift": 12, "autotrim": True, "comment": "of the lab"},
    "scrub": "monthly",
    "trim": "never",
}
DATASETS: list[dict[str, t.Any]] = [
    {"name": "fast/ct/inner", "properties": {"acltype": "posixacl", "xattr": "sa", "lxcri:owner": "shop floor"}},
    {"name": "fast/ct", "properties": {"recordsize": "64K", "quota": "100M", "atime": False, "compression": "gzip-6"}},
    {"name": "fast", "properties": {"compression": "lz4", "mountpoint": "/srv/fast"}},
    {"name": "fast/disk", "size": "32M", "sparse": True, "properties": {"volblocksize": "16K"}},
]


def test_a_pool_with_datasets(machine: Machine) -> None:
    done = converge(machine, "zfs_layout", pools=[POOL], datasets=DATASETS)
    assert [change["key"] for change in done["plan"]] == [
        "fast",
        "fast/ct",
        "fast/ct/inner",
        "fast/disk",
        "zfs-scrub-monthly@fast.timer",
    ]
    assert machine.run("zpool get -Hp -o value ashift,autotrim,comment,health fast").lines == [
        "12",
        "on",
        "of the lab",
        "ONLINE",
    ]
    assert value(machine, "fast", "mountpoint") == "/srv/fast"
    assert value(machine, "fast/ct", "quota") == str(100 << 20)
    assert value(machine, "fast/ct/inner", "lxcri:owner") == "shop floor"
    assert value(machine, "fast/disk", "volsize") == str(32 << 20)
    assert value(machine, "fast/disk", "refreservation") == "0"
    assert value(machine, "fast", "org.debian:periodic-scrub") == "disable"
    assert value(machine, "fast", "org.debian:periodic-trim") == "disable"
    assert machine.run("systemctl is-active zfs-scrub-monthly@fast.timer").stdout == "active\n"
    # The disk of a pool that was destroyed has still its partition table.
    machine.run("zpool destroy fast")
    [failure] = refuse(machine, "zfs_layout", ("device_in_use", {"pools": [POOL]}))
    assert "a signature of gpt" in failure["details"]["devices"][SPARE]


def make(machine: Machine) -> None:
    """The pool as declared."""
    done = machine.module("zfs_layout", {"pools": [POOL], "datasets": DATASETS})
    assert done["changed"], done


@pytest.mark.slow
def test_what_drifts_is_repaired(machine: Machine) -> None:
    make(machine)
    machine.run("zpool set autotrim=off fast; zpool set comment=other fast")
    machine.run("zfs set quota=none atime=on fast/ct; zfs destroy fast/disk")
    machine.run("zfs inherit compression fast; systemctl disable --now zfs-scrub-monthly@fast.timer 2>/dev/null")
    done = converge(machine, "zfs_layout", pools=[POOL], datasets=DATASETS)
    assert {change["key"]: (change["before"], change["after"]) for change in done["plan"]} == {
        "fast autotrim": ("off", "on"),
        "fast comment": ("other", "of the lab"),
        "fast compression": ("on", "lz4"),
        "fast/ct atime": ("on", "off"),
        "fast/ct quota": ("0", "100M"),
        "fast/disk": (None, {"type": "volume", "volsize": 32 << 20, "volblocksize": "16K"}),
        "zfs-scrub-monthly@fast.timer": ("disabled", "enabled"),
    }


@pytest.mark.slow
def test_another_schedule_and_what_a_pool_keeps(machine: Machine) -> None:
    make(machine)
    weekly = {**POOL, "scrub": "weekly", "trim": "cron"}
    other = {"quota": "none", "atime": "inherit"}
    datasets = [{"name": "fast/disk", "size": "48M"}, {"name": "fast/ct", "properties": other}]
    converge(machine, "zfs_layout", pools=[weekly], datasets=datasets)
    assert machine.run(f"ls {TIMERS} | grep zfs").lines == ["zfs-scrub-weekly@fast.timer"]
    assert value(machine, "fast", "org.debian:periodic-trim") == "-"
    assert [value(machine, "fast/ct", key) for key in ("quota", "atime")] == ["0", "on"]
    assert value(machine, "fast/disk", "volsize") == str(48 << 20)
    machine.module("zfs_layout", {"pools": [{"name": "fast", "scrub": "cron"}]})
    assert value(machine, "fast", "org.debian:periodic-scrub") == "-"
    assert machine.run(f"ls {TIMERS} | grep zfs", check=False).lines == []

    # A pool keeps its devices; what is declared and not in it is told.
    other = {"name": "fast", "vdevs": [{"devices": [SPARE, "/dev/disk/by-id/virtio-other"]}]}
    result = machine.module("zfs_layout", {"pools": [other]})
    assert result["changed"] is False
    assert [change["after"] for change in result["plan"]] == [["/dev/disk/by-id/virtio-other"]]
    assert "virtio-other is not in it" in str(result["warnings"][0])


def test_datasets_that_cannot_be_had(machine: Machine) -> None:
    make(machine)
    cases = (
        ("would_lose_data", {"name": "fast/disk", "size": "16M"}),
        ("wrong_type", {"name": "fast/disk"}),
        ("property_fixed", {"name": "fast/ct", "properties": {"casesensitivity": "insensitive"}}),
        ("parent_missing", {"name": "fast/a/b"}),
        ("parent_missing", {"name": "none"}),
        ("zfs_failed", {"name": "fast/ct", "properties": {"nonsense": "1"}}),
        ("invalid_option", {"name": "fast/ct", "properties": {"quota": None}}),
        ("invalid_option", {"name": "fast/../ct"}),
    )
    refuse(machine, "zfs_layout", *((code, {"datasets": [dataset]}) for code, dataset in cases))


def test_devices_that_no_pool_is_made_of(machine: Machine) -> None:
    def pool(*devices: str, kind: str = "stripe") -> dict[str, t.Any]:
        return {"pools": [{"name": "fast", "vdevs": [{"type": kind, "devices": list(devices)}]}]}

    used, root = "/dev/disk/by-id/virtio-rpool", "/dev/disk/by-id/virtio-root"
    machine.run(f"ln -s ../../$(basename $(readlink {SPARE})) /dev/disk/by-id/virtio-twin")
    failures = refuse(
        machine,
        "zfs_layout",
        ("device_in_use", pool(SPARE, used, kind="mirror")),
        # The disk of the root has a file system and no partition table.
        ("device_in_use", pool(root)),
        ("invalid_option", pool("/dev/vde")),
        ("device_missing", pool("/dev/disk/by-id/virtio-nothing")),
        ("pool_missing", {"pools": [{"name": "fast"}]}),
        ("device_twice", pool(SPARE, "/dev/disk/by-id/virtio-twin", kind="mirror")),
    )
    assert list(failures[0]["details"]["devices"]) == [used]
    assert failures[1]["details"]["devices"] == {root: ["a signature of ext4", "a mount at /"]}
    machine.run(f"mkswap $(readlink -f {SPARE})")
    [failure] = refuse(machine, "zfs_layout", ("device_in_use", pool(SPARE)))
    assert failure["details"]["devices"] == {SPARE: ["a signature of swap"]}


def test_the_limit_of_the_cache(machine: Machine) -> None:
    path = "/etc/modprobe.d/zfs.conf"
    done = converge(machine, "zfs_arc", maximum="256M")
    assert [change["effect"] for change in done["plan"]] == ["restart", "live"]
    assert (done["maximum"], done["initramfs"]) == (256 << 20, False)
    assert "options zfs zfs_arc_max=268435456 zfs_arc_min=33554432\n" in machine.read(path)
    assert "268435456" in machine.run("grep ^c_max /proc/spl/kstat/zfs/arcstats").stdout
    # Only what is in force has drifted.
    machine.run("echo 134217728 >/sys/module/zfs/parameters/zfs_arc_max")
    done = machine.module("zfs_arc", {"maximum": "256M"})
    assert [change["effect"] for change in done["plan"]] == ["live"]
    assert machine.read("/sys/module/zfs/parameters/zfs_arc_max") == "268435456\n"
    # A file that is not there, and a share of the memory.
    machine.run(f"rm {path}")
    done = machine.module("zfs_arc", {"maximum": "25%"})
    assert machine.run(f"cat {path}; stat -c %a {path}").stdout == f"options zfs zfs_arc_max={done['maximum']}\n644\n"
    assert 384 << 20 <= done["maximum"] <= 512 << 20
    failures = refuse(
        machine,
        "zfs_arc",
        *(("invalid_option", {"maximum": maximum}) for maximum in ("32M", "99T", "much")),
        ("option_elsewhere", {"maximum": "256M", "path": "/etc/modprobe.d/other.conf"}),
    )
    assert failures[-1]["details"]["path"] == path


def test_subordinate_ids(machine: Machine) -> None:
    ranges: list[dict[str, t.Any]] = [{"start": 100000}, {"owner": "root", "start": 1000000, "count": 1000}]
    machine.write("/etc/subuid", "# by hand\n0:100000:1000\nlab:231072:65536\n")
    done = converge(machine, "subid_range", ranges=ranges)
    assert machine.read("/etc/subgid") == "root:100000:65536\nroot:1000000:1000\n"
    assert machine.read("/etc/subuid") == "# by hand\nroot:100000:65536\nlab:231072:65536\nroot:1000000:1000\n"
    assert [change["before"] for change in done["plan"]] == ["0:100000:1000", None, None]
    assert machine.run("stat -c %a /etc/subuid").stdout == "644\n"
    failures = refuse(
        machine,
        "subid_range",
        ("ranges_overlap", {"ranges": [{"start": 231071, "count": 2}], "kinds": ["user"]}),
        ("ranges_overlap", {"ranges": [{"start": 5000000}, {"start": 5000001}]}),
        ("invalid_option", {"ranges": [{"start": 4294967000}]}),
        ("invalid_option", {"ranges": [{"start": 5000000, "owner": "a:b"}]}),
    )
    assert failures[0]["details"] == {"path": "/etc/subuid", "range": "root:231071:2", "other": "lab:231072:65536"}


DEBIAN = "deb http://deb.debian.org/debian trixie main contrib\n"


def read_by_apt(machine: Machine) -> set[str]:
    """The repositories and components that apt would ask for packages."""
    asked = machine.run(["apt-get", "update", "--print-uris"]).stdout
    return {" ".join(found) for found in re.findall(r"'(\S+)/dists/trixie/([\w-]+)/binary-amd64/Packages", asked)}


def test_repositories(machine: Machine) -> None:
    directory = "/etc/apt/sources.list.d"
    refuse(machine, "pve_repository", ("keyring_missing", {"pve": ["no-subscription"]}))
    machine.run(f"touch {KEYRING}")
    machine.write("/etc/apt/sources.list", f"{DEBIAN}deb http://download.proxmox.com/debian/pve bookworm pve-test\n")
    old = "deb https://enterprise.proxmox.com/debian/pve bookworm pve-enterprise\n"
    machine.write(f"{directory}/pve-enterprise.list", old)
    converge(machine, "pve_repository", pve=["no-subscription"])
    assert machine.read("/etc/apt/sources.list").splitlines()[0] == DEBIAN.strip()
    assert machine.read(f"{directory}/pve-enterprise.list") == f"# {old}"
    entry = (
        "Types: deb\nURIs: http://download.proxmox.com/debian/pve\nSuites: trixie\n"
        f"Components: pve-no-subscription\nSigned-By: {KEYRING}\n"
    )
    assert machine.read(f"{directory}/proxmox.sources") == entry
    # apt reads the same in it.
    assert read_by_apt(machine) == {
        "http://deb.debian.org/debian main",
        "http://deb.debian.org/debian contrib",
        "http://download.proxmox.com/debian/pve pve-no-subscription",
    }
    machine.run(f"sed -i s/trixie/sid/ {directory}/proxmox.sources")
    machine.module("pve_repository", {"pve": ["no-subscription"]})
    assert machine.read(f"{directory}/proxmox.sources") == entry
    converge(
        machine,
        "pve_repository",
        pve=["enterprise"],
        ceph=["test"],
        ceph_release="squid",
        suite="trixie",
        enterprise_uri="https://mirror.example/enterprise",
        download_uri="https://mirror.example/download/",
        keyring=KEYRING,
        directory="/etc/apt",
    )
    assert read_by_apt(machine) == {
        "http://deb.debian.org/debian main",
        "http://deb.debian.org/debian contrib",
        "https://mirror.example/enterprise/pve pve-enterprise",
        "https://mirror.example/download/ceph-squid test",
    }
    assert machine.read(f"{directory}/proxmox.sources") == f"{entry}Enabled: false\n"
    refuse(machine, "pve_repository", ("invalid_option", {"pve": ["enterprise"], "enterprise_uri": "no uri"}))


# ------------------------------------------------------------------------------------------------------- the role

DECLARED: dict[str, t.Any] = {
    "node_repositories": ["no-subscription"],
    "node_ceph_repositories": [],
    "node_apt_update_cache": False,
    "node_package_groups": ["images", "criu"],
    "node_packages": ["lab-tool"],
    "node_zfs_arc_max": "256M",
    "node_zfs_pools": [POOL],
    "node_zfs_datasets": DATASETS,
    "node_subids": [{"start": 100000}, {"start": 1000000, "count": 1000}],
}
NEW = ("skopeo", "umoci", "lab-tool")


def play(machine: Machine, directory: Path, *arguments: str, **variables: t.Any) -> Played:
    """Run the role."""
    return play_role(machine, directory, "node", *arguments, **{**DECLARED, **variables})


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_prepared_again_and_repaired(machine: Machine, tmp_path: Path) -> None:
    machine.run(f"touch {KEYRING}")
    # Without python3-apt, as a fresh node may be, and without any list of packages.
    offer(machine, [*fetched("python3-apt", "python-apt-common", "distro-info-data"), *made(tmp_path, *NEW)])
    before = state(machine)
    checked = play(machine, tmp_path, "--check", "--diff")
    assert not checked.failed, checked.failed
    assert checked.changed == 5
    assert state(machine) == before

    machine.run("apt-get update -q -o Dir::Etc::sourcelist=/etc/apt/sources.list.d/lab.list -o Dir::Etc::sourceparts=-")
    first = play(machine, tmp_path)
    assert not first.failed, first.failed
    assert first.changed == 5
    prepared = state(machine)
    assert play(machine, tmp_path) == Played(0, "")
    assert play(machine, tmp_path, "--check") == Played(0, "")
    assert state(machine) == prepared
    assert machine.run(["dpkg-query", "-W", "-f", "${Package}\n", *NEW]).lines == sorted(NEW)
    assert value(machine, "fast/ct", "quota") == str(100 << 20)
    assert "root:1000000:1000\n" in machine.read("/etc/subgid")
    # Nothing of it asks for a restart.
    assert play(machine, tmp_path, "--check", "--tags", "node_reboot", node_reboot=True) == Played(0, "")
    machine.run("touch /run/reboot-required")
    assert play(machine, tmp_path) == Played(0, "")
    assert play(machine, tmp_path, "--check", "--tags", "node_reboot", node_reboot=True).changed == 1

    # One part by its tag, and none by its switch.
    machine.run("zfs set quota=none fast/ct; sed -i d /etc/subuid; apt-get remove -q -y umoci; rm /run/reboot-required")
    off = {f"node_manage_{part}": False for part in ("repositories", "packages", "zfs", "subids")}
    assert play(machine, tmp_path, **off) == Played(0, "")
    assert play(machine, tmp_path, "--tags", "node_subids") == Played(1, "")
    assert play(machine, tmp_path, "--check").changed == 2
    repaired = play(machine, tmp_path)
    assert (repaired.changed, repaired.failed) == (2, "")
    assert state(machine) == prepared


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_limit_gets_into_the_initramfs(machine: Machine, tmp_path: Path) -> None:
    """Of a system that starts from ZFS, as this one seems to, with a dataset mounted on its root."""
    machine.run("zfs create -o mountpoint=legacy tank/root && mount -t zfs tank/root /")
    # The machine has none of its own: its kernel is started from outside.
    machine.run("touch /boot/vmlinuz-$(uname -r) && update-initramfs -c -k $(uname -r)")
    machine.run("touch -d '1 hour ago' /boot/initrd.img-*")
    given: dict[str, t.Any] = {"node_zfs_pools": [], "node_zfs_datasets": []}

    def run(*arguments: str) -> Played:
        return play(machine, tmp_path, "--tags", "node_zfs", *arguments, **given)

    before = machine.run("sha256sum /boot/initrd.img-*").stdout
    assert run("--check") == Played(2, "")
    assert machine.run("sha256sum /boot/initrd.img-*").stdout == before
    assert run() == Played(2, "")
    machine.run("unmkinitramfs /boot/initrd.img-* /tmp/initramfs")
    assert "zfs_arc_max=268435456" in machine.run("grep -rh zfs_arc_max /tmp/initramfs").stdout
    assert run() == Played(0, "")
    # A run that was ended before it was made anew is made up for.
    machine.run("touch -d '1 hour ago' /boot/initrd.img-*")
    assert run("--check") == Played(1, "")
    assert run() == Played(1, "")
    assert run() == Played(0, "")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_node_on_which_nothing_is_installed_yet(machine: Machine, tmp_path: Path) -> None:
    """Check mode says what would be, where not even the commands are there."""
    machine.run(f"touch {KEYRING}; dpkg --remove --force-all zfsutils-linux >/dev/null 2>&1; ! command -v zpool")
    checked = play(machine, tmp_path, "--check", node_package_groups=["zfs", "images"], node_packages=[])
    assert not checked.failed, checked.failed
    assert checked.changed == 5
    failed = play(machine, tmp_path, node_manage_packages=False)
    assert "command_missing" in failed.failed
