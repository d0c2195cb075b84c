# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fields of objects: what is allowed, normal forms, and how they are sent."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Repeated
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.fields import (
    MASK,
    Field,
    actual,
    normal,
    sent,
    significant,
    told,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.formats import InvalidValue
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.kinds import Kind
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.module import secrets_in
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.plan import waiting_names
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.table import KINDS
from fakepve import formats
from hypothesis import given
from hypothesis import strategies as st

RANGE = {"start": Field(format="ip", required=True), "end": Field(format="ip", required=True)}
MAP = Field(
    "map", subs={"on": Field("bool", default=True), "name": Field(), "count": Field("int", minimum=0, default=0)}
)


@pytest.mark.parametrize(
    ("field", "spellings", "form"),
    [
        (Field(), ["x"], "x"),
        (Field(), [7, "7"], "7"),
        (Field(default="no"), [False, "no"], "no"),
        (Field(same={"enabled": "started"}), ["enabled", "started"], "started"),
        (Field(folded=True), ["DNS", "dns"], "dns"),
        (Field("bool"), [True, 1, "1", "yes", "on", "True"], True),
        (Field("bool"), [False, 0, "0", "no", "off"], False),
        (Field("flag"), [True, 1, "1", 1700000000, "yes"], True),
        (Field("flag"), [False, 0, "0"], False),
        (Field("int"), [5, "5", "05"], 5),
        (Field("number"), [2, "2", 2.0, "2.0"], 2.0),
        (Field("number"), [1048580, "1.04858e+06", "1048580.0"], 1048580),
        (Field("words"), ["b,a", "a b", "a;b", ["b", "a"], ["a", "b", "a"]], ("a", "b")),
        (Field("words", ordered=True), ["b,a", ["b", "a"]], ("b", "a")),
        (Field("words", joined="array"), [["b c", "a"], ["a", "b c"]], ("a", "b c")),
        (Field("words"), [[], ""], ()),
        (MAP, ["name=x", "on=1,name=x", {"name": "x"}, {"name": "x", "on": True, "count": "0"}], {"name": "x"}),
        (
            Field("map", subs=MAP.subs, default_sub="on"),
            ["0,count=3", {"on": False, "count": 3}, "count=3,on=no"],
            {"on": False, "count": 3},
        ),
        (
            Field("maps", subs=RANGE),
            [["start=10.0.0.1,end=10.0.0.2"], [{"end": "10.0.0.2", "start": "10.0.0.1"}]],
            ({"start": "10.0.0.1", "end": "10.0.0.2"},),
        ),
        (Field(format="ip"), ["2001:DB8:0::1", "2001:db8::1"], "2001:db8::1"),
        (Field(format="CIDRv4"), ["10.0.0.1/24", "10.0.0.1/255.255.255.0"], "10.0.0.1/24"),
        (Field(format="IPorCIDR"), ["10.0.0.5", "10.0.0.5/32"], "10.0.0.5"),
        (Field(format="IPorCIDR"), ["10.0.0.5/8"], "10.0.0.5/8"),
        (Field(format="IPorCIDRorAlias"), ["10.0.0.5/8", "10.0.0.0/8"], "10.0.0.0/8"),
        (Field(format="IPorCIDRorAlias"), ["dc/office", "dc/Office"], "dc/office"),
        (Field(format="pve-ha-node"), ["pve1", "pve1:0"], "pve1"),
        (Field(format="pve-ha-node"), ["pve1:02", "pve1:2"], "pve1:2"),
        (Field(format="acl-path"), ["/vms/101", "vms/101", "//vms//101/"], "/vms/101"),
        (Field(format="acl-path"), ["/", "//"], "/"),
        (Field(format="mac-addr"), ["bc:24:11:00:00:01"], "BC:24:11:00:00:01"),
        (Field(format="pve-vlan-id-or-range"), ["7", "007", "7-7"], "7"),
        (Field(format="lines"), ["x\ny\n", "x \ny\n\n", "x\ny"], "x\ny"),
        (Field(format="line"), ["x y", " x y ", "x y\n"], "x y"),
        (Field(format="pve-storage-path"), ["/srv/backup", "/srv//backup/", "/srv/./backup"], "/srv/backup"),
        (Field(format="pve-storage-path"), ["/vol1/Proxmox Backup", "//vol1/Proxmox Backup/"], "/vol1/Proxmox Backup"),
        (Field(format="pve-storage-directory"), ["/srv/backup", "/srv//backup/"], "/srv/backup"),
        (Field(format="pve-dir-override"), ["template/cache", "template//cache/"], "template/cache"),
        (Field(format="fw-action"), ["Web", "web", "WEB"], "web"),
        (Field(format="fw-action"), ["DROP"], "DROP"),
        (Field(format="address"), ["example.com"], "example.com"),
        (Field(format="severities"), ["warning,error", "error , warning", "error,warning,error"], "warning,error"),
        (Field(format="match-field"), ["exact:type=a,b", "exact:type= b, a"], "exact:type=a,b"),
        (Field(format="match-field"), ["regex:type=b{1, 2}"], "regex:type=b{1, 2}"),
    ],
)
def test_spellings_of_one_value(field: Field, spellings: list[t.Any], form: t.Any) -> None:
    assert [normal(field, spelling) for spelling in spellings] == [form] * len(spellings)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        (Field(), {}, "a text is wanted, not a dictionary"),
        (Field(), True, "a text is wanted, not true or false"),
        (Field(choices=("a", "b")), "c", "'c' is none of a, b"),
        (Field(pattern="[a-z]+"), "A", "does not match"),
        (Field(longest=2), "abc", "at most 2 characters"),
        (Field(shortest=2), "a", "at least 2 characters"),
        (Field(format="line"), "a\nb", "one line"),
        (Field(format="severities"), "warning,", "'' is none of info, notice"),
        (Field(format="severities"), "warn", "'warn' is none of info, notice"),
        (Field(format="match-field"), "type=a", "'type=a' is not such as exact:type=vzdump"),
        (Field("bool"), "maybe", "true or false is wanted, not 'maybe'"),
        (Field("bool"), 2, "true or false"),
        (Field("flag"), "x", "true or false"),
        (Field("int"), True, "a whole number"),
        (Field("int"), "1.5", "a whole number"),
        (Field("int", minimum=2), 1, "1 is less than 2"),
        (Field("int", maximum=2), 3, "3 is more than 2"),
        (Field("int", choices=("1", "2")), 3, "3 is none of 1, 2"),
        (Field("number"), "x", "a number"),
        (Field("number"), "nan", "a number"),
        (Field("words"), {}, "a list is wanted"),
        (Field("words", longest=5), ["abc", "def"], "at most 5 characters"),
        (Field("words", longest=5, joined="array"), ["abc", "abcdef"], "at most 5 characters"),
        (Field("words"), ["a b"], "has a separator in it"),
        (Field("words"), [["a"]], "a text is wanted"),
        (MAP, [], "a dictionary is wanted, not a list"),
        (MAP, "x", "'x' has no key"),
        (MAP, "name=x,name=y", "name is given twice"),
        (MAP, {"nam": 1}, "'nam' is none of its keys: on, name, count"),
        (MAP, {"count": -1}, "count: -1 is less than 0"),
        (MAP, {"name": "x,on=0"}, "name: a comma would end it"),
        (Field("map", subs=RANGE), {"start": "10.0.0.1"}, "end is missing"),
        (Field("maps", subs=RANGE), {}, "a list is wanted"),
        (Field(format="ip"), "10.0.0.300", "is not an IP address"),
        (Field(format="ipv4"), "::1", "is not an IPv4 address"),
        (Field(format="CIDRv4"), "10.0.0.1", "prefix length"),
        (Field(format="CIDRv6"), "10.0.0.1/8", "IPv6"),
        (Field(format="CIDRv4"), "x/8", "prefix length"),
        (Field(format="network"), "10.0.0.1/24", "is not a network"),
        (Field(format="network"), "10.0.0.0", "is not a network"),
        (Field(format="IPorCIDRorAlias"), "0.0.0.0/0", "everything"),
        (Field(format="pve-vlan-id-or-range"), "0", "2 to 4094"),
        (Field(format="pve-vlan-id-or-range"), "9-2", "2 to 4094"),
        (Field(format="pve-node"), "-a", "the name of a node"),
        (Field(format="pve-userid"), "ci", "a user with its realm"),
        (Field(format="acl-path"), "/vms/ä", "a path of objects"),
        (Field(format="address"), "a b", "a DNS name"),
    ],
)
def test_what_is_not_allowed(field: Field, value: t.Any, text: str) -> None:
    with pytest.raises(InvalidValue, match=r".") as refused:
        normal(field, value)
    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("field", "form", "parameter"),
    [
        (Field("bool"), True, 1),
        (Field("flag"), False, 0),
        (Field("int"), 5, 5),
        (Field("number"), 12.5, "12.5"),
        (Field("number"), 2.0, "2"),
        (Field("number"), 1048576, "1048576"),
        (Field("number"), 1048576.25, "1048576.25"),
        (Field("words"), ("a", "b"), "a,b"),
        (Field("words", joined=" "), ("a", "b"), "a b"),
        (Field("words", joined="array"), ("a", "b"), Repeated(["a", "b"])),
        (MAP, {"name": "x", "on": False}, "on=0,name=x"),
        (Field("maps", subs=RANGE), ({"start": "a", "end": "b"},), Repeated(["start=a,end=b"])),
    ],
)
def test_how_it_is_sent(field: Field, form: t.Any, parameter: t.Any) -> None:
    assert sent(field, form) == parameter
    assert type(sent(field, form)) is type(parameter)


def test_a_secret_is_not_shown() -> None:
    assert told(Field(secret=True), "x") == MASK
    assert told(Field("maps", secret=True, subs={"name": Field()}), ({"name": "x"},)) == MASK


def test_what_proxmox_has_is_shown_even_if_it_is_odd() -> None:
    field = Field("words", choices=("a",))
    assert actual(field, "b") == "b"
    assert told(field, "b") == "b"
    assert told(Field("maps", subs=RANGE), "odd") == "odd"


@pytest.mark.parametrize("field", [Field(), Field("words"), Field("map"), Field("maps")])
def test_what_is_empty_says_nothing(field: Field) -> None:
    empty = {"string": "", "words": (), "map": {}, "maps": ()}[field.kind]
    assert not significant(field, empty)
    assert not significant(field, None)


def test_no_is_something_where_no_default_is_known() -> None:
    assert significant(Field("bool"), False)
    assert significant(Field("int"), 0)
    assert not significant(Field("bool", default=False), False)


TEXTS = (
    "10.0.0.1 10.0.0.0/24 10.0.0.1/33 ::1 2001:db8::/32 a a-b -a a.b ci@pve root 1 100 99 4094 4095 2-100 eth0 "
    "vmbr0.7 bc:24:11:00:00:01 a@b.de local-zfs x_y ci@pve!t1 ct:101 101-0 A pve1:2 shop/web a/b/c/d VM.Audit"
)
SAMPLES = st.one_of(st.sampled_from(["", *TEXTS.split()]), st.text("abz019-_.:/@!", max_size=8))


@given(text=SAMPLES, name=st.sampled_from(["pve-configid", "pve-node", "pve-realm", "ip", "ipv4", "ipv6", "mac-addr"]))
def test_formats_are_those_of_the_schema(text: str, name: str) -> None:
    try:
        normal(Field(format=name), text)
        mine = True
    except InvalidValue:
        mine = False
    assert mine == (formats.check(name, text) is None), (name, text)


def every_field() -> list[tuple[Kind, str, Field]]:
    return [(kind, name, it) for kind in KINDS.values() for name, it in kind.fields.items()]


@pytest.mark.parametrize(("kind", "name", "it"), every_field(), ids=lambda value: str(getattr(value, "name", value)))
def test_a_default_is_a_value(kind: Kind, name: str, it: Field) -> None:
    if it.default is not None:
        assert normal(it, told(it, it.default) if not it.secret else it.default) == it.default
        assert not significant(it, it.default)


def test_secrets_are_found_in_all_objects() -> None:
    params = {
        "kind": "notification_target",
        "object": {"name": "x", "token": "t1", "url": "u", "header": [{"name": "h", "value": "v1"}, "name=i,value=v2"]},
        "objects": [{"secret": [{"name": "a", "value": "b"}, "name=c,value=d"]}, {"password": "p1"}, "odd"],
    }
    assert set(secrets_in(params)) == {"t1", "v1", "v2", "b", "p1", "name=c,value=d", "d"}


@pytest.mark.parametrize(
    ("object_", "found"),
    [
        ({"tfa": {"type": "yubico", "key": "k"}}, {"k"}),
        ({"tfa": "type=yubico, key=k"}, {"type=yubico, key=k", "k"}),
        ({"password": 12345678}, {"12345678"}),
        ('{"userid": "a@pve", "password": "p"}', {"p"}),
        ("userid=a@pve password=p", {"p"}),
        ('{"password": "p", "userid"', {'{"password": "p", "userid"', '{"password": "p"'}),
        ("odd", set()),
        ([["odd"]], set()),
    ],
)
@pytest.mark.parametrize("option", ["object", "objects"])
def test_secrets_are_found_however_wrong_the_options_are(option: str, object_: t.Any, found: set[str]) -> None:
    for kind in ("realm", "none", None):
        assert found <= set(secrets_in({"kind": kind, option: object_}))


CHANGES = """--- /etc/network/interfaces
+++ /etc/network/interfaces.new
@@ -4,7 +4,8 @@
 auto vmbr0
 iface vmbr0 inet static
-\taddress 10.0.0.1/24
+\taddress 10.0.0.2/24

 auto vmbr1
 iface vmbr1 inet manual
@@ -20,3 +21,7 @@
+\tmtu 9000

+auto vmbr2
+iface vmbr2 inet manual
"""


def test_what_waits_in_a_nodes_network() -> None:
    assert waiting_names(CHANGES) == {"vmbr0", None, "vmbr2"}
    assert waiting_names("") == set()
