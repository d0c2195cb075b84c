# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The codec: texts of the API, normal forms, and when two of them mean the same."""

from __future__ import annotations

import contextlib
import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.properties import (
    InvalidValue,
    encode,
    equal,
    format_size,
    gibibytes,
    normalise,
    parse_size,
    read,
    same_size,
    show,
    volume_of,
)
from hypothesis import assume, given
from hypothesis import strategies as st

KIB, MIB, GIB, TIB = 1024, 1024**2, 1024**3, 1024**4

# ------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8G", 8 * GIB),
        ("0.5T", 512 * GIB),
        ("512M", 512 * MIB),
        ("1.5G", 1536 * MIB),
        ("1024K", MIB),
        ("4096", 4096),
        (4096, 4096),
        (" 8G ", 8 * GIB),
        ("0.1G", 107374182),
    ],
)
def test_sizes(text: t.Any, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "8g", "8 G", "8GB", "-8G", "+1G", "G", "1,5G", "1e3", "8Gi", "0x8", ".5G"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InvalidValue, match="is not a size; write for example 8G"):
        parse_size(text)


@given(st.integers(0, 64 * TIB))
def test_a_formatted_size_is_exact(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(1, 10**6), st.sampled_from([KIB, MIB, GIB, TIB]))
def test_a_size_has_the_largest_unit_that_is_exact(number: int, unit: int) -> None:
    text = format_size(number * unit)
    assert int(text[:-1]) <= number
    assert text[-1] in "KMGT"
    assert number * unit % {"K": MIB, "M": GIB, "G": TIB, "T": 1 << 70}[text[-1]] != 0


@given(st.integers(1, 64 * 1024))
def test_the_size_of_a_new_volume_is_written_in_exact_gibibytes(mebibytes: int) -> None:
    text = gibibytes(mebibytes * MIB)
    assert float(text) * 1024 == mebibytes
    normal = normalise("mp0", f"tank:{text},mp=/d")
    assert normal == {"volume": "tank:", "mp": "/d", "size": mebibytes * MIB}


@pytest.mark.parametrize(
    ("declared", "actual", "same"),
    [
        (8 * GIB, 8 * GIB, True),
        (8 * GIB, 8 * GIB + 4 * MIB - 1, True),
        (8 * GIB, 8 * GIB + 4 * MIB, False),
        (8 * GIB, 8 * GIB - 1, False),
        (107374182, parse_size("104M"), True),
    ],
)
def test_storages_round_up(declared: int, actual: int, same: bool) -> None:
    assert same_size(declared, actual) is same


# ------------------------------------------------------------------------------------------------ normal forms


@pytest.mark.parametrize(
    ("key", "spellings", "normal"),
    [
        ("onboot", [1, "1", True, "yes", "On", "TRUE"], True),
        ("onboot", [0, "0", False, "no", "off"], False),
        ("memory", [512, "512", 512.0], 512),
        ("cpulimit", [2, "2", "2.0", 2.0, "2e0"], 2.0),
        ("cpuunits", [10000, "10000", 500000], 10000),
        ("description", ["a", "a\n", "a\n\n"], "a"),
        ("description", ["", "\n"], None),
        ("tags", ["b;A", "a,b", "a b b", ["B", "a"], ["a;b"]], ("a", "b")),
        ("tags", ["", " ", []], None),
        ("nameserver", ["192.0.2.1 2001:DB8:0::1", ["192.0.2.1", "2001:db8::1"]], ("192.0.2.1", "2001:db8::1")),
        ("searchdomain", ["a.example,b.example", ["a.example", "b.example"]], ("a.example", "b.example")),
        ("env", ["A=$ ", {"A": "$ \t"}], {"A": "$"}),
        ("env", ["A=1\0B=x=y", ["A=1", "B=x=y"], {"A": 1, "B": "x=y"}], {"A": "1", "B": "x=y"}),
        ("startup", ["2", "order=2", {"order": 2}, {"order": "2", "up": None}], {"order": 2}),
        ("features", ["nesting=1,keyctl=0", "nesting=yes", {"nesting": True, "fuse": False}], {"nesting": True}),
        ("features", ["mount=nfs;cifs", {"mount": ["cifs", "nfs"]}], {"mount": ("cifs", "nfs")}),
        ("dev0", ["/dev/fuse", "path=/dev/fuse,uid=0", {"path": "/dev/fuse", "gid": 0}], {"path": "/dev/fuse"}),
        (
            "net0",
            ["name=eth0,trunks=30;9;10", {"name": "eth0", "trunks": [9, "10", "30"]}],
            {"name": "eth0", "trunks": ("9", "10", "30")},
        ),
        (
            "net0",
            [
                "name=eth0,hwaddr=bc:24:11:00:00:01,type=veth,firewall=0",
                {"name": "eth0", "hwaddr": "BC:24:11:00:00:01"},
            ],
            {"name": "eth0", "hwaddr": "BC:24:11:00:00:01"},
        ),
        (
            "net0",
            ["name=eth0,ip6=2001:0DB8::10/064,rate=1.50", {"name": "eth0", "ip6": "2001:db8::10/64", "rate": 1.5}],
            {"name": "eth0", "ip6": "2001:db8::10/64", "rate": 1.5},
        ),
        (
            "mp0",
            ["local-zfs:1.5,mp=/data/", {"volume": "local-zfs:", "mp": "//data", "size": "1.5G"}],
            {"volume": "local-zfs:", "mp": "/data", "size": 1536 * MIB},
        ),
        # In whole MiB, rounded down (create_disks of PVE/LXC.pm).
        (
            "mp0",
            ["local-zfs:2.3,mp=/data", {"volume": "local-zfs:", "mp": "/data", "size": "2.3G"}],
            {"volume": "local-zfs:", "mp": "/data", "size": 2355 * MIB},
        ),
        (
            "mp0",
            ["/srv,mp=/srv,replicate=1,ro=0", {"volume": "/srv", "mp": "/srv"}],
            {"volume": "/srv", "mp": "/srv"},
        ),
        (
            "rootfs",
            ["volume=a:b,size=1024M,mountoptions=nodev;noatime", "a:b,mountoptions=noatime;nodev,size=1G"],
            {"volume": "a:b", "size": GIB, "mountoptions": ("noatime", "nodev")},
        ),
    ],
)
def test_spellings_of_one_value(key: str, spellings: list[t.Any], normal: t.Any) -> None:
    for spelling in spellings:
        assert normalise(key, spelling) == normal, spelling


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("net32", "name=eth0", "no such container key"),
        ("mp256", "a:1,mp=/d", "no such container key"),
        ("mp01", "a:1,mp=/d", "no such container key"),
        ("bogus", 1, "no such container key"),
        ("memory", 15, "the least is 16"),
        ("memory", "64M", "is not a whole number"),
        ("memory", True, "is not a whole number"),
        ("memory", 64.5, "is not a whole number"),
        ("cores", 0, "the least is 1"),
        ("cpulimit", "2,5", "is not a number"),
        ("tty", 7, "the most is 6"),
        ("onboot", "maybe", "write true or false"),
        ("cmode", "TTY", "is not one of shell, console, tty"),
        ("hostname", "web_1", "is not allowed here"),
        ("hostname", "a." * 200, "is not allowed here"),
        ("description", "x" * 8193, "the most is 8192"),
        ("tags", ["-a"], "is not allowed here"),
        ("nameserver", ["dns.example"], "is not an IP address"),
        ("env", {"A-B": "1"}, "is not the name of a variable"),
        ("env", {"A": "1\n2"}, "control character"),
        ("env", "=1", "is not the name of a variable"),
        ("entrypoint", "a\nb", "is not allowed here"),
        ("net0", {"bridge": "vmbr0"}, "name is missing"),
        ("net0", {"name": "eth0", "vlan": 1}, "vlan is not a sub-key here"),
        ("net0", "name=eth0,name=eth1", "name is given twice"),
        ("net0", "eth0", "lacks its key"),
        ("net0", {"name": "eth0", "tag": 4095}, "tag: 4095 is too large"),
        ("net0", {"name": "eth0", "ip": "192.0.2.1"}, "ip: '192.0.2.1' is neither dhcp, manual nor"),
        ("net0", {"name": "eth0", "ip": "192.0.2.1/33"}, "with a prefix length"),
        ("net0", {"name": "eth0", "ip": "2001:db8::1/24"}, "is not an IPv4 address"),
        ("net0", {"name": "eth0", "ip6": "auto/64"}, "is not an IP address"),
        ("net0", {"name": "eth0", "gw6": "192.0.2.1"}, "is not an IPv6 address"),
        ("net0", {"name": "eth0", "hwaddr": "01:00:5e:00:00:01"}, "unicast MAC"),
        ("net0", {"name": "eth0", "rate": -1}, "rate: -1 is too small"),
        ("net0", {"name": "eth0", "mtu": 63}, "mtu: 63 is too small"),
        ("mp0", {"volume": "a:1"}, "mp is missing"),
        ("mp0", {"mp": "/d"}, "volume is missing"),
        ("mp0", {"volume": "a:1", "mp": "/a/../b"}, "is not an absolute path"),
        ("mp0", {"volume": "a:1", "mp": "/a,b"}, "is not an absolute path"),
        ("mp0", {"volume": "a:1", "mp": "/d", "mountoptions": ["sync"]}, "is not one of discard"),
        ("mp0", {"volume": "a:", "mp": "/d", "size": "8GB"}, "size: '8GB' is not a size"),
        ("rootfs", {"volume": "a:1", "backup": True}, "backup is not a sub-key here"),
        ("features", {"kvm": True}, "kvm is not a sub-key here"),
        ("features", "nesting=2", "is not a boolean"),
        ("startup", {"order": -1}, "order: -1 is too small"),
        ("dev0", {"path": "/etc/passwd"}, "path: '/etc/passwd' is not allowed here"),
        ("dev0", {"path": "/dev/fuse", "mode": "660"}, "mode: '660' is not allowed here"),
    ],
)
def test_refusals_say_what_is_wrong(key: str, value: t.Any, says: str) -> None:
    with pytest.raises(InvalidValue) as refusal:
        normalise(key, value)
    assert says in str(refusal.value)


def test_a_text_that_the_api_would_refuse_today_is_kept_and_differs() -> None:
    assert read("memory", "lots") == "lots"
    assert not equal("memory", 512, read("memory", "lots"))
    assert read("net0", "name=eth0,vlan=1") == "name=eth0,vlan=1"


@pytest.mark.parametrize(
    ("key", "normal", "text"),
    [
        ("onboot", False, 0),
        ("cpulimit", 0.5, "0.5"),
        ("cpulimit", 8192.0, "8192"),
        ("tags", ("a", "b"), "a;b"),
        ("nameserver", ("192.0.2.1", "192.0.2.2"), "192.0.2.1 192.0.2.2"),
        ("tags", (), None),
        ("features", {}, None),
        ("env", {"A": "1", "B": ""}, "A=1\0B="),
        ("startup", {"order": 1, "up": 2}, "order=1,up=2"),
        ("dev0", {"path": "/dev/fuse", "mode": "0660"}, "/dev/fuse,mode=0660"),
        ("net0", {"name": "eth0", "rate": 1000.125}, "name=eth0,rate=1000.125"),
        ("net0", {"name": "eth0", "rate": 1234567.0}, "name=eth0,rate=1234567"),
        ("mp0", {"volume": "tank:", "mp": "/d", "size": 8 * GIB, "ro": True}, "tank:8,mp=/d,ro=1"),
        ("mp0", {"volume": "tank:x", "mp": "/d", "size": 8 * GIB}, "tank:x,mp=/d,size=8G"),
        (
            "net0",
            {"name": "eth0", "bridge": "vmbr0", "rate": 1.5, "trunks": ("1", "2")},
            "name=eth0,bridge=vmbr0,rate=1.5,trunks=1;2",
        ),
    ],
)
def test_what_is_sent(key: str, normal: t.Any, text: t.Any) -> None:
    assert encode(key, normal) == text


def test_variables_are_shown_without_nul() -> None:
    assert show("env", {"A": "1", "B": "2"}) == "A=1 B=2"


# ---------------------------------------------------------------------------------------------------- equality


@pytest.mark.parametrize(
    ("key", "declared", "actual", "same"),
    [
        ("swap", 0, None, True),
        ("swap", 512, None, False),
        ("tags", None, ("a",), False),
        ("tags", None, None, True),
        ("description", None, None, True),
        ("hostname", None, None, True),
        ("hostname", "a", None, False),
        ("features", {}, None, True),
        ("features", {}, {"nesting": True}, False),
        ("net0", {"name": "eth0"}, {"name": "eth0", "hwaddr": "BC:24:11:00:00:01"}, True),
        (
            "net0",
            {"name": "eth0", "hwaddr": "BC:24:11:00:00:02"},
            {"name": "eth0", "hwaddr": "BC:24:11:00:00:01"},
            False,
        ),
        ("net0", {"name": "eth0"}, {"name": "eth0", "hwaddr": "BC:24:11:00:00:01", "firewall": True}, False),
        ("net0", {"name": "eth0"}, None, False),
        ("rootfs", {"volume": ":"}, {"volume": "a:x", "size": GIB}, True),
        ("rootfs", {"volume": "a:"}, {"volume": "a:x"}, True),
        ("rootfs", {"volume": "b:"}, {"volume": "a:x"}, False),
        ("rootfs", {"volume": "a:y"}, {"volume": "a:x"}, False),
        ("rootfs", {"volume": "a:x", "size": GIB}, {"volume": "a:x", "size": 2 * GIB}, True),
        ("rootfs", {"volume": "a:"}, {"volume": "/srv"}, False),
    ],
)
def test_what_means_the_same(key: str, declared: t.Any, actual: t.Any, same: bool) -> None:
    assert equal(key, declared, actual) is same


# -------------------------------------------------------------------------------------------- generated values

NAMES = st.from_regex(r"[a-z][a-z0-9_.-]{0,8}", fullmatch=True)
MACS = st.builds(
    lambda first, rest: ":".join(f"{octet:02X}" for octet in (first & 0xFE, *rest)),
    st.integers(0, 255),
    st.lists(st.integers(0, 255), min_size=5, max_size=5),
)
IPV4 = st.ip_addresses(v=4).map(str)
IPV6 = st.ip_addresses(v=6).map(str)
NETS = st.fixed_dictionaries(
    {"name": NAMES},
    optional={
        "bridge": NAMES,
        "firewall": st.booleans(),
        "gw": IPV4,
        "gw6": IPV6,
        "host-managed": st.booleans(),
        "hwaddr": MACS,
        "ip": st.one_of(st.sampled_from(["dhcp", "manual"]), st.builds("{}/{}".format, IPV4, st.integers(0, 32))),
        "ip6": st.one_of(
            st.sampled_from(["dhcp", "manual", "auto"]), st.builds("{}/{}".format, IPV6, st.integers(0, 128))
        ),
        "link_down": st.booleans(),
        "mtu": st.integers(64, 65535),
        "rate": st.integers(0, 10**6).map(lambda number: number / 100),
        "tag": st.integers(1, 4094),
        "trunks": st.lists(st.integers(1, 4094), max_size=4),
    },
)
PATHS = st.lists(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,6}", fullmatch=True), min_size=1, max_size=3).map(
    lambda parts: "/" + "/".join(parts)
)
MOUNTS = st.fixed_dictionaries(
    {
        "volume": st.one_of(st.builds("{}:subvol-101-disk-{}".format, NAMES, st.integers(0, 99)), PATHS),
        "mp": PATHS,
    },
    optional={
        "acl": st.booleans(),
        "backup": st.booleans(),
        "mountoptions": st.lists(st.sampled_from(properties.MOUNT_OPTIONS), max_size=3),
        "quota": st.booleans(),
        "replicate": st.booleans(),
        "ro": st.booleans(),
        "shared": st.booleans(),
        "size": st.integers(1, 10**6).map(lambda number: f"{number}M"),
    },
)
NO_CONTROL = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\x7f"), max_size=12)
VALUES: dict[str, st.SearchStrategy[t.Any]] = {
    "net0": NETS,
    "mp0": MOUNTS,
    "features": st.fixed_dictionaries(
        {},
        optional={
            **{name: st.booleans() for name in properties.FEATURE_FLAGS},
            "mount": st.lists(st.from_regex(r"[a-z0-9_]{1,5}", fullmatch=True), max_size=3),
        },
    ),
    "startup": st.fixed_dictionaries({}, optional={name: st.integers(0, 999) for name in ("order", "up", "down")}),
    "tags": st.lists(st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9_+.-]{0,8}", fullmatch=True), max_size=5),
    "env": st.dictionaries(st.from_regex(r"[A-Za-z0-9_]{1,8}", fullmatch=True), NO_CONTROL, max_size=4),
    "nameserver": st.lists(st.one_of(IPV4, IPV6), max_size=3),
    "searchdomain": st.lists(st.from_regex(r"[a-z0-9]{1,5}(\.[a-z]{2,4}){0,2}", fullmatch=True), max_size=3),
    "description": st.text(st.characters(blacklist_categories=("Cs",)), max_size=40),
    "cpulimit": st.integers(0, 819200).map(lambda number: number / 100),
    "memory": st.integers(16, 10**7),
    "onboot": st.booleans(),
}


@pytest.mark.parametrize("key", VALUES)
@given(data=st.data())
def test_normal_forms_survive_being_sent(key: str, data: st.DataObject) -> None:
    """normalise(encode(normal)) == normal, and normalising again changes nothing."""
    normal = normalise(key, data.draw(VALUES[key]))
    text = encode(key, normal)
    if text is None:
        assert equal(key, normal, None)
        return
    assert normalise(key, text) == normal
    if isinstance(normal, dict):
        assert normalise(key, normal) == normal


@pytest.mark.parametrize("key", VALUES)
@given(data=st.data())
def test_a_value_equals_itself_and_equality_is_symmetric(key: str, data: st.DataObject) -> None:
    left, right = (normalise(key, data.draw(VALUES[key])) for _side in range(2))
    assert equal(key, left, left)
    if key in ("net0", "mp0"):
        # A declared interface without a hardware address equals one with any; the other way round it does not.
        assume(("hwaddr" in (left or {})) == ("hwaddr" in (right or {})))
    assert equal(key, left, right) == equal(key, right, left)


@given(NETS)
def test_a_flag_is_never_lost_in_comparison(net: dict[str, t.Any]) -> None:
    """Every sub-key counts: with one more, or one less, it is another interface."""
    normal = normalise("net0", net)
    for name, value in (("firewall", True), ("link_down", True), ("tag", 7), ("mtu", 1400), ("bridge", "vmbr9")):
        changed = normalise("net0", {**net, name: value})
        assert equal("net0", changed, normal) == (normal.get(name) == changed[name])


@given(st.permutations(["bridge=vmbr0", "name=eth0", "tag=5", "firewall=1", "hwaddr=BC:24:11:00:00:01", "ip=dhcp"]))
def test_the_order_of_sub_keys_does_not_matter(parts: list[str]) -> None:
    assert normalise("net0", ",".join(parts)) == normalise(
        "net0", "name=eth0,bridge=vmbr0,firewall=1,hwaddr=BC:24:11:00:00:01,ip=dhcp,tag=5,type=veth"
    )


@given(st.text(max_size=20))
def test_no_text_crashes_the_codec(text: str) -> None:
    """A configuration file can hold anything."""
    for key in ("net0", "mp0", "rootfs", "dev0", "features", "startup", "env", "tags", "memory", "cpulimit", "arch"):
        read(key, text)
        with contextlib.suppress(InvalidValue):
            encode(key, normalise(key, text))


# ------------------------------------------------------------------------------------------------------- keys


def test_known_keys() -> None:
    assert properties.key_of("net31") is not None
    assert properties.key_of("unused0") is not None
    assert properties.is_mount("rootfs")
    assert properties.is_mount("mp255")
    assert not properties.is_mount("unused0")
    assert sorted(["net10", "memory", "net2", "mp1"], key=properties.order_of) == ["memory", "mp1", "net2", "net10"]


@pytest.mark.parametrize(
    ("text", "kind", "storage", "name"),
    [
        ("local-zfs:subvol-101-disk-0", "volume", "local-zfs", "subvol-101-disk-0"),
        ("local-zfs:", "volume", "local-zfs", ""),
        (":", "volume", "", ""),
        ("/srv/data", "bind", None, "/srv/data"),
        ("/dev/sdb1", "device", None, "/dev/sdb1"),
    ],
)
def test_volumes(text: str, kind: str, storage: str | None, name: str) -> None:
    volume = volume_of(text)
    assert (volume.kind, volume.storage, volume.name) == (kind, storage, name)
