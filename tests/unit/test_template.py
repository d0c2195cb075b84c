# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Templates: which one a name or pattern means, and what has to be done for it."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure, classify, combined
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.tasks import failed_task
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.appliances import (
    choose,
    is_exact,
    is_template,
    matches,
    newest,
    normalised,
    unknown,
    version_key,
    version_of,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.template import (
    Outcome,
    Templates,
    Wish,
    is_fetching,
    plan_presence,
    plan_removal,
)
from ansible_collections.lxcri.proxmox.tests.unit.support import FakeClient
from hypothesis import given
from hypothesis import strategies as st

UPID = "UPID:pve1:00000F61:000291AE:6B01180A:download:x:root@pam:"
NAME = "debian-13-standard_13.1-2_amd64.tar.zst"
VERSIONS = st.from_regex(r"(\d:)?\d[0-9a-z.+~]{0,6}(-[0-9a-z.+~]{1,3})?", fullmatch=True)


def wish(**options: t.Any) -> Wish:
    return Wish(**{"state": "present", "nodes": ("pve1",), "storage": "local", "source": "template", **options})


def outcome(**options: t.Any) -> Outcome:
    return Outcome("pve1", ("pve1",), **options)


# In the order that dpkg --compare-versions has.
ORDERED = [
    *("0", "0.9", "1.0~~", "1.0~~a", "1.0~", "1.0~beta1", "1.0~rc1", "1.0", "1.0-1", "1.0-1+b1", "1.0-2", "1.0-10"),
    *("1.0a", "1.0b", "1.0+dfsg-1", "1.0.1", "1.2", "1.10", "13.1-1", "13.1-2", "13.10-1", "1:0.1", "2:0"),
]


def test_versions_are_ordered_as_debian_orders_them() -> None:
    assert sorted(set(ORDERED), key=version_key) == ORDERED
    assert version_key("1.0") == version_key("1.00")
    assert version_key("1.0-0") == version_key("1.0")


@given(VERSIONS, VERSIONS, VERSIONS)
def test_the_order_of_versions_is_one(a: str, b: str, c: str) -> None:
    keys = sorted(map(version_key, (a, b, c)))
    assert keys[0] <= keys[1] <= keys[2]
    assert version_key(f"{a}~x") < version_key(a) or "-" in a
    assert version_key(f"{a}1") >= version_key(a)


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("a.tar", True),
        ("a.tar.gz", True),
        ("a.TAR.XZ", True),
        ("a.tar.zst", True),
        ("a.tar.bz2", True),
        ("a.tar.lzo", False),
        ("a.tgz", False),
        ("a.iso", False),
        ("a/b.tar", False),
        (".tar", False),
        ("a.tar\n", False),
    ],
)
def test_what_proxmox_takes_for_a_template(name: str, right: bool) -> None:
    assert is_template(name) is right


@pytest.mark.parametrize(
    ("pattern", "right"),
    [
        (NAME, True),
        ("debian-13-standard", True),
        ("debian-13-standard_13.1-2", True),
        ("debian-*", True),
        ("debian-1[34]-*zst", True),
        ("debian-13", False),
        ("debian-13-standar", False),
        ("Debian-13-standard", False),
        ("*.iso", False),
        ("", False),
    ],
)
def test_what_a_pattern_means(pattern: str, right: bool) -> None:
    assert matches(pattern, NAME) is right


def test_names_and_versions() -> None:
    assert [is_exact(name) for name in (NAME, "debian-13-standard", "*.tar.zst")] == [True, False, False]
    assert (version_of(NAME), version_of("mine.tar.gz")) == ("13.1-2", "")
    assert normalised("dir/über x.tar") == "_ber_x.tar"
    assert newest([]) is None
    assert newest(["a_1.9_amd64.tar", "a_1.10_amd64.tar", "b.tar"]) == "a_1.10_amd64.tar"


def entries(*names: str, **more: str) -> list[dict[str, str]]:
    return [{"template": name, "architecture": name.rpartition("_")[2].partition(".")[0], **more} for name in names]


def test_the_newest_that_all_nodes_know_is_chosen() -> None:
    first = entries("d_1_amd64.tar", "d_2_amd64.tar", "d_3_arm64.tar")
    assert choose("d", "amd64", [first]) == "d_2_amd64.tar"
    assert choose("d", "arm64", [first]) == "d_3_arm64.tar"
    assert choose("d_3_arm64.tar", "amd64", [first]) == "d_3_arm64.tar"
    assert choose("d", "amd64", [first, entries("d_1_amd64.tar")]) == "d_1_amd64.tar"
    assert choose("d", "amd64", [first, []]) is None
    assert choose("e", "amd64", [first]) is None
    assert choose("d", "amd64", [[{"template": "d_9_x.tar"}]]) == "d_9_x.tar"


def test_an_unknown_name_brings_those_that_are_near() -> None:
    failure = unknown("debian-13-standart", [entries(NAME)], ["mine.tar"])
    assert (failure.code, failure.details["similar"][0]) == ("template_missing", "debian-13-standard")
    assert "pveam update" in unknown("x", [[]], []).hint
    assert "pveam available" in unknown("x", [entries(NAME)], []).hint


# ------------------------------------------------------------------------------------------------------ the plan


def test_what_is_there_needs_nothing() -> None:
    assert plan_presence(wish(), outcome(files={NAME: 5}, file_name=NAME)).changed is False
    there = outcome(files={"a.tar": 5}, file_name="a.tar")
    assert plan_presence(wish(source="src", src="/a.tar", size=5), there).changed is False


def test_a_local_file_of_another_size_is_not_replaced_unasked() -> None:
    there = outcome(files={"a.tar": 4}, file_name="a.tar")
    with pytest.raises(Failure) as caught:
        plan_presence(wish(source="src", src="/a.tar", size=5), there)
    assert caught.value.code == "file_differs"
    [step] = plan_presence(wish(source="src", src="/a.tar", size=5, force=True), there).steps
    assert (step.action, step.changes[0].before, step.changes[0].after) == ("uploaded", 4, 5)


def test_removal_never_means_more_than_what_is_listed() -> None:
    files = {NAME: 1, "mine.tar": 2, "debian-13-standard.tar": 3}
    plan = plan_removal(wish(state="absent", template="debian-13-standard"), outcome(files=files))
    assert [step.path.rpartition("/")[2] for step in plan.steps] == [NAME]
    assert plan_removal(wish(state="absent", file_name="../x.tar"), outcome(files=files)).steps == []
    assert plan_removal(wish(state="absent", template="*"), outcome(files={})).steps == []


def test_a_task_that_fetches_is_known_by_the_name_of_its_file() -> None:
    assert is_fetching({"type": "download", "id": "a.tar"}, "a.tar")
    assert is_fetching({"type": "ociregistrypull", "id": "a%3Ab.tar"}, "a:b.tar")
    assert not is_fetching({"type": "download", "id": "b.tar"}, "a.tar")
    assert not is_fetching({"type": "imgcopy", "id": "a.tar"}, "a.tar")


# ------------------------------------------------------------------------------------- what Proxmox's texts mean


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("checksum mismatch: got 'ab' != expect 'cd'", "checksum_mismatch"),
        ("checksum mismatch: got 'ab' != expect 'cd', aborting", "checksum_mismatch"),
        ("refusing to override existing file '/var/lib/vz/template/cache/a.tar'", "file_exists"),
        ("download failed: command '/usr/bin/wget -O x http://y' failed: exit code 8", "download_failed"),
        ("storage 'tank' does not support templates", "storage_unsuitable"),
        ("storage 'tank' is not configured for content-type 'vztmpl'", "storage_unsuitable"),
        ("storage 'tank' does not support 'vztmpl' content", "storage_unsuitable"),
        ("Install 'skopeo' to pull OCI images from registries.", "command_missing"),
        ("cannot remove protected volume 'backup/x.tar' on 'local'", "protected"),
        ("There is a max backup limit of 3 enforced by the target storage", "backup_limit"),
        ("The number of protected backups per guest is limited to 5 on storage 'local'", "backup_limit"),
    ],
)
def test_what_storages_answer(text: str, code: str) -> None:
    assert classify(500, text)[0] == code


def test_a_template_that_the_index_lacks_is_told_from_other_refused_parameters() -> None:
    assert classify(400, "Parameter verification failed: template: no such template")[0] == "template_missing"
    assert classify(400, "Parameter verification failed: template: too long")[0] == "invalid_parameter"


@pytest.mark.parametrize(
    ("status", "line", "code"),
    [
        ("download failed: command 'wget' failed: exit code 3", "x: No space left on device", "storage_full"),
        (
            "unable to restore CT 1 - command 'tar' failed: exit code 2",
            "tar: x: Cannot write: No space left on device",
            "storage_full",
        ),
        (
            "unable to restore CT 1 - command 'tar' failed: exit code 2",
            "tar: x: Cannot write: Disk quota exceeded",
            "storage_full",
        ),
        ("CT is locked (backup)", "x: No space left on device", "locked"),
        ("command 'tar' failed: exit code 2", "tar: x: Cannot open: Permission denied", "task_failed"),
    ],
)
def test_a_full_storage_is_in_the_log_of_the_command_that_wrote(status: str, line: str, code: str) -> None:
    assert failed_task(UPID, status, ["one", line, f"TASK ERROR: {status}"]).code == code


@pytest.mark.parametrize(("status", "changed"), [("running", False), ("stopped", True)])
@pytest.mark.parametrize("source", ["url", "src"])
def test_what_has_ended_and_is_still_listed_as_running_brings_nothing(source: str, status: str, changed: bool) -> None:
    """The list of active tasks is some seconds old (active_workers of PVE/RESTEnvironment.pm)."""
    upid = UPID.replace("download:x", "download:x.tar" if source == "url" else "imgcopy:")
    entry = {"upid": upid, "type": upid.split(":")[5], "id": upid.split(":")[6], "status": "RUNNING"}
    there = [{"volid": "local:vztmpl/x.tar", "size": 5}] if source == "src" else []
    client: t.Any = FakeClient(
        {
            "/nodes/pve1/storage/local/content": there,
            "/nodes/pve1/storage/local/status": {"content": "vztmpl"},
            "nodes/pve1/tasks": [entry],
            "cluster/tasks": [entry],
            f"nodes/pve1/tasks/{upid}/status": {"status": status},
        }
    )
    options = {"url": "https://example.com/x.tar"} if source == "url" else {"src": "x.tar", "size": 9, "force": True}
    [found] = Templates(client, True).run(wish(source=source, file_name="x.tar", **options))
    assert (found.failure, found.plan.changed) == (None, changed)


def test_failures_of_nodes_are_combined_as_those_of_containers() -> None:
    failure = combined([("pve2", Failure("node_offline", "It is off."))], 3, "nodes_failed")
    assert (failure.code, failure.details) == ("nodes_failed", {"nodes": ["pve2"]})
    assert failure.message == "1 of 3 nodes failed. pve2: It is off."
