# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers of images: the note in the description, how an image comes to a storage, and what it becomes."""

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Credentials
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import image
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.cluster import Guest
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.image import Artefact, Found, ImageSpec, Mark
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.image_source import Images, Inspector, find_holder
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import HOLDER, Actual
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.recreate import (
    Journal,
    holder_name,
    journal_of,
    kept_config,
    new_config,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import declare
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.raw_keys import check_line
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.layout import CONFIG
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.reference import parse_reference
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.remote import sha256
from ansible_collections.lxcri.proxmox.tests.unit.support import FakeClient
from hypothesis import given
from hypothesis import strategies as st

DIGEST = "sha256:" + "0123456789abcdef" * 4
OTHER = "sha256:" + "f" * 64
NGINX = "docker.io/library/nginx:1.29"

marks = st.builds(
    Mark,
    st.sampled_from([NGINX, "localhost:5000/a--b/c:1", f"ghcr.io/x@{DIGEST}"]),
    st.just(DIGEST),
    st.lists(st.from_regex(r"[A-Za-z0-9_]+", fullmatch=True), unique=True).map(tuple),
    st.one_of(st.none(), st.integers(100, 10**9), st.just(HOLDER)),
)


def spec(reference: str = NGINX, **options: t.Any) -> ImageSpec:
    return ImageSpec(parse_reference(reference), **options)


def found(**process: t.Any) -> Found:
    return Found(DIGEST, {"architecture": "amd64", "os": "linux", "config": process})


def artefact(method: str = "registry", able: bool = True, **process: t.Any) -> Artefact:
    return Artefact(spec(), found(**process), "pve1", method, "local:vztmpl/x.tar", True, able)


# --------------------------------------------------------------------------------------------------------- the note


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=200), marks)
def test_the_note_is_read_back_and_leaves_the_text_alone(text: str, mark: Mark) -> None:
    described = image.with_mark(text, mark)
    assert image.mark_of(described) == mark
    assert image.mark_of(described + "\n") == mark
    assert image.with_mark(described, None) == text.rstrip("\n")
    assert image.with_mark(described, mark) == described


@pytest.mark.parametrize(
    "text",
    [None, "", "Shop", "<!-- a comment -->", f"<!-- lxcri.proxmox image=x digest={DIGEST[:-1]} -->"],
)
def test_what_is_no_note(text: t.Any) -> None:
    assert image.mark_of(text) is None


# ------------------------------------------------------------------------------------------------------------ methods


@pytest.mark.parametrize("key", ["Env", "Entrypoint", "Cmd", "User", "Volumes", "WorkingDir", "StopSignal"])
def test_what_is_found_is_an_image(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {key: 5}}).encode()
    manifest = {
        "schemaVersion": 2,
        "config": {"mediaType": CONFIG, "digest": sha256(config), "size": len(config)},
        "layers": [],
    }
    monkeypatch.setattr(Inspector, "manifest", lambda *_words: json.dumps(manifest).encode())
    monkeypatch.setattr(Inspector, "config", lambda *_words: config)
    with pytest.raises(Failure) as caught:
        Images(FakeClient({})).find(spec(), 5)
    assert caught.value.code == "invalid_image"


@pytest.mark.parametrize(
    ("options", "version", "method"),
    [
        ({}, (9, 2), "registry"),
        ({}, (9, 1), "registry"),
        ({}, (9, 0), "template"),
        ({}, (8, 4), "template"),
        ({"username": "u", "password": "p"}, (9, 2), "upload"),
        ({"token": "x"}, (9, 2), "upload"),
        ({"auth_file": "/x"}, (9, 2), "upload"),
        ({"ca_path": "/x"}, (9, 2), "upload"),
        ({"platform": "linux/arm64"}, (9, 2), "upload"),
        ({"validate_certs": False}, (9, 2), "upload"),
        ({"reference": f"nginx@{DIGEST}"}, (9, 2), "upload"),
        ({"reference": f"nginx:1.29@{DIGEST}"}, (9, 2), "upload"),
        ({"reference": "[::1]:5000/nginx:1"}, (9, 2), "upload"),
        ({"reference": "localhost:5000/a__b/c.d-e:1"}, (9, 2), "registry"),
        ({"method": "upload"}, (9, 2), "upload"),
        ({"method": "template"}, (9, 2), "template"),
    ],
)
def test_the_way_to_the_storage(options: dict[str, t.Any], version: tuple[int, ...], method: str) -> None:
    assert image.choose_method(spec(**options), version) == method


@pytest.mark.parametrize(
    ("options", "version", "method"),
    [
        ({}, (9, 2), "upload"),
        ({}, (9, 0), "template"),
        ({"method": "registry"}, (9, 2), "registry"),
    ],
)
def test_the_way_with_credentials_where_the_module_runs(
    options: dict[str, t.Any], version: tuple[int, ...], method: str
) -> None:
    assert image.choose_method(spec(**options), version, has_login=True) == method


@pytest.mark.parametrize(
    ("text", "version"), [("9.2.11", (9, 2)), ("8.4-1", (8, 4)), ("10.0~beta", (10, 0)), (None, ())]
)
def test_versions(text: t.Any, version: tuple[int, ...]) -> None:
    assert image.parse_version(text) == version


def test_names_of_templates() -> None:
    stem = image.file_stem(parse_reference("localhost:5000/a/nginx:1"), DIGEST)
    assert stem == "localhost_5000_a_nginx_1_0123456789abcdef0123456789abcdef"
    assert image.file_stem(parse_reference("ghcr.io/" + "a" * 200 + ":1"), DIGEST).count("a") < 130
    names = {
        image.file_stem(parse_reference(reference), digest)
        for reference in ("a.io/x/nginx:1", "b.io/x/nginx:1", "a.io/x/nginx:2", f"a.io/x/nginx@{DIGEST}")
        for digest in (DIGEST, OTHER)
    }
    assert len(names) == 8


def test_over_openssh_nothing_is_uploaded() -> None:
    answers = {
        "version": {"version": "9.2.11"},
        "nodes/pve1/storage/local/content": [],
        "/nodes/pve1/storage/local/content": [],
        "/nodes/pve1/storage/local/status": {"content": "iso,vztmpl"},
    }
    images = Images(FakeClient(answers, Credentials(backend="openssh", host="pve1")))
    with pytest.raises(Failure) as caught:
        images.artefact(spec(method="upload"), found(), "pve1", 10)
    assert caught.value.details["option"] == "api_backend"
    assert images.artefact(spec(), found(), "pve1", 10).method == "registry"


# --------------------------------------------------------------------------------------------------------- differences


@pytest.mark.parametrize(
    ("reference", "pull", "made", "now", "asks", "other"),
    [
        (NGINX, "missing", Mark(NGINX, DIGEST), None, False, False),
        (NGINX, "newer", Mark(NGINX, DIGEST), DIGEST, True, False),
        (NGINX, "newer", Mark(NGINX, DIGEST), OTHER, True, True),
        ("nginx:2", "missing", Mark(NGINX, DIGEST), OTHER, True, True),
        ("nginx:2", "missing", Mark(NGINX, DIGEST), DIGEST, True, False),
        ("nginx:2", "missing", Mark(NGINX, DIGEST), None, True, True),
        (f"nginx@{DIGEST}", "newer", Mark(NGINX, DIGEST), None, False, False),
        (f"nginx@{OTHER}", "missing", Mark(NGINX, DIGEST), OTHER, True, True),
        # A digest of an index, of which the container is one platform.
        (f"nginx@{OTHER}", "missing", Mark(NGINX, DIGEST), DIGEST, True, False),
        (f"nginx@{OTHER}", "newer", Mark(f"docker.io/library/nginx@{OTHER}", DIGEST), None, False, False),
        (NGINX, "newer", None, None, False, True),
    ],
)
def test_whether_it_is_another_image(
    reference: str, pull: str, made: Mark | None, now: str | None, asks: bool, other: bool
) -> None:
    wanted = spec(reference, pull=pull)
    assert image.must_ask(wanted, made) is asks
    assert image.differs(wanted, made, now) is other


# ------------------------------------------------------------------------------------------------------------ contents


def test_what_proxmox_makes_of_an_image() -> None:
    texts = image.import_texts(found(Entrypoint=["/e.sh"], Cmd=["a b", "c'd", "x=y"], Env=["A=1", "B=2"]))
    assert texts == {"entrypoint": r"/e.sh 'a b' 'c'\''d' 'x=y'", "cmode": "console", "env": "A=1\0B=2"}
    assert image.import_texts(found(Entrypoint=["/sbin/init", "x"])) == {}
    config = image.imported({"net0": "name=eth0", "net1": "name=eth1,host-managed=0", "memory": 64}, found(Cmd=["sh"]))
    assert config == {
        "net0": "name=eth0,host-managed=1",
        "net1": "name=eth1,host-managed=0",
        "memory": 64,
        "entrypoint": "sh",
        "cmode": "console",
    }


# What shell_quote of String::ShellQuote 1.04 answers.
QUOTED = {
    "a=b": "'a=b'",
    "=": "'='",
    "it's": r"'it'\''s'",
    "'": r"\'",
    "''": "\"''\"",
    "a''b": "'a'\"''\"'b'",
    "'a": r"\''a'",
    "a'": r"'a'\'",
    "": "''",
    "a b": "'a b'",
    "'''x y'": "\"'''\"'x y'\\'",
    "a'b''c": "'a'\\''b'\"''\"'c'",
    "--config.file=/etc/p.yml": "'--config.file=/etc/p.yml'",
    "a:/b,c@d%e+f!^g-h.": "a:/b,c@d%e+f!^g-h.",
    "#": "'#'",
}


@pytest.mark.parametrize("word", QUOTED)
def test_words_as_proxmox_quotes_them(word: str) -> None:
    assert image.import_texts(found(Cmd=["x", word]))["entrypoint"] == f"x {QUOTED[word]}"


def test_losses_by_method() -> None:
    process = {
        "Cmd": ["sh"],
        "Env": ["A=1"],
        "User": "app",
        "WorkingDir": "/srv",
        "Healthcheck": {"Test": ["CMD", "x"]},
    }
    keys = {}
    for method, able in (("registry", True), ("template", True), ("template", False)):
        made = artefact(method, able, **process)
        keys[method, able] = [loss["key"] for loss in image.losses(image.mapped(spec(), made.found), made)]
    assert keys["registry", True] == ["Healthcheck"]
    assert keys["template", True] == ["User", "Healthcheck", "lxc.init.cwd", "lxc.signal.halt"]
    assert keys["template", False] == ["User", "Healthcheck", "networks", "lxc.signal.halt"]


def test_an_image_without_a_command_keeps_its_own_init() -> None:
    """Nothing runs it with these variables in this directory, and the whole system sets its own addresses."""
    made = artefact("template", False, Env=["A=1"], WorkingDir="/srv")
    keys = [loss["key"] for loss in image.losses(image.mapped(spec(), made.found), made)]
    assert {"Env", "WorkingDir"} & set(keys) or "lxc.init.cwd" in keys
    assert "networks" not in keys


@pytest.mark.parametrize("able", [True, False])
@pytest.mark.parametrize("command", ["sh", "/sbin/init"])
def test_the_advice_of_a_loss_can_be_followed(able: bool, command: str) -> None:
    made = artefact("template", able, Cmd=[command], Env=["A=1"], User="1:2", WorkingDir="/srv", StopSignal="SIGINT")
    losses = image.losses(image.mapped(spec(), made.found), made)
    advised = [loss for loss in losses if "use lxc_raw_config" in loss["reason"] and loss["key"] != "networks"]
    assert advised
    for loss in advised:
        check_line(loss["key"], loss["value"])
    check_line("lxc.net.0.ipv4.address", "192.0.2.10/24")
    check_line("lxc.net.0.ipv4.gateway", "192.0.2.1")


def test_before_9_1_a_command_may_have_any_characters() -> None:
    made = artefact("template", able=False, Cmd=["sh", "-c", "a\nb 'c' \"d\""], Env=["a.b=1"], WorkingDir="/srv ")
    keys = {loss["key"] for loss in image.losses(image.mapped(spec(), made.found), made)}
    assert keys == {"networks", "lxc.signal.halt"}


def test_before_9_1_there_are_no_options_for_the_command() -> None:
    given = {"vmid": 201, "node": "pve1", "image": {"reference": NGINX}}
    declared = declare({**given, "entrypoint": "sh", "env": {"A": "1"}})
    with pytest.raises(Failure) as caught:
        image.settle(declared, None, artefact("template", able=False, Cmd=["sh"]))
    assert (caught.value.code, caught.value.details["options"]) == ("version_too_old", ["entrypoint", "env"])
    settled = image.settle(declare(given), None, artefact("template", able=False, Cmd=["sh"], Env=["A=1"]))
    assert not {"entrypoint", "env"} & set(settled.config)


def test_before_9_1_an_init_has_no_arguments() -> None:
    made = artefact("template", able=False, Cmd=["/sbin/init", "--unit=x"], Env=["A=1"])
    keys = [loss["key"] for loss in image.losses(image.mapped(spec(), made.found), made)]
    assert keys == ["Entrypoint and Cmd", "lxc.signal.halt", "lxc.environment"]


# ---------------------------------------------------------------------------------------------------------- recreation

OLD = Actual(
    201,
    "pve1",
    current={
        "hostname": "web-1",
        "rootfs": "local-zfs:subvol-201-disk-0,mountoptions=noatime,size=4G",
        "mp0": "tank:subvol-201-disk-1,mp=/data,size=1G",
        "mp1": "/srv,mp=/srv",
        "unused0": "tank:subvol-201-disk-2",
        "net0": "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,type=veth",
        "net1": "name=eth1,bridge=vmbr0,hwaddr=BC:24:11:00:00:02,type=veth",
        "cores": 2,
        "entrypoint": "/old",
        "env": "A=1",
        "cmode": "console",
        "ostype": "alpine",
        "arch": "amd64",
        "description": "Shop --> <b>\n",
        "unprivileged": 1,
        "tags": "a;b",
    },
)


def test_a_journal_is_read_back() -> None:
    journal = kept_config(OLD, "prod")
    assert journal_of(f"Holds it.\n\n{journal}\n") == journal
    assert not {"rootfs", "mp1", "net0", "cores", "tags"} - set(journal.config)
    assert not {"mp0", "unused0", "entrypoint", "env", "cmode", "ostype", "arch"} & set(journal.config)
    assert journal_of("<!-- lxcri.proxmox journal={} -->") is None
    assert journal_of("Notes") is None


def test_the_new_one_has_what_the_old_one_had() -> None:
    declared = declare(
        {
            "vmid": 201,
            "networks": [{"name": "eth0", "bridge": "vmbr1"}],
            "mounts": [{"mp": "/data", "storage": "tank", "size": "1G"}],
            "cores": 4,
            "unset": ["tags"],
        }
    )
    config = new_config(declared, kept_config(OLD, None))
    assert config["net0"] == {"hwaddr": "BC:24:11:00:00:01", "name": "eth0", "bridge": "vmbr1"}
    assert config["cores"] == 4
    # A path of the node, as mp1 is, is no volume; but the mounts are declared as a whole.
    assert not {"net1", "tags", "mp0", "mp1"} & set(config)
    assert config["rootfs"] == {"volume": "local-zfs:", "mountoptions": ("noatime",), "size": 4 << 30}
    declared = declare({"vmid": 201, "rootfs": {"storage": "tank", "size": "2G"}})
    assert new_config(declared, kept_config(OLD, None))["rootfs"] == {"volume": "tank:", "size": 2 << 30}


def test_a_root_of_no_known_size() -> None:
    journal = Journal(201, {"rootfs": "local-zfs:subvol-201-disk-0"})
    with pytest.raises(Failure) as caught:
        new_config(declare({"vmid": 201}), journal)
    assert caught.value.code == "invalid_option"


def test_the_holder_is_found_again() -> None:
    def holder(vmid: int, of: int, **config: t.Any) -> Actual:
        text = f"Holds.\n\n{Journal(of, {})}"
        return Actual(vmid, "pve1", current={"hostname": holder_name(of, "web-1"), "description": text, **config})

    there = {
        301: holder(301, 201),
        302: holder(302, 201, mp0="tank:subvol-302-disk-0,mp=/x,size=1G"),
        303: holder(303, 202),
        304: Actual(304, "pve1", current={"hostname": "recreate-201-web-1"}),
    }
    guests = [Guest(vmid, "lxc", "pve1", name=actual.hostname) for vmid, actual in there.items()]
    guests += [Guest(400, "lxc", "pve1", name="web-2"), Guest(401, "qemu", "pve1", name="recreate-201-web-1")]

    def find(vmid: int | None, hostname: str | None, known: int | None = None) -> int | None:
        actual = find_holder(guests, lambda _node, number: there.get(number), vmid, hostname, known)
        return actual.vmid if actual else None

    assert find(201, "web-1") == 302
    assert find(None, "web-1") == 302
    assert find(201, "web-1", 301) == 301
    assert find(202, None) == 303
    # A clone of 201 has its note.
    assert find(305, None, 302) is None
    assert find(203, None) is None
    assert find(None, "web-9") is None
