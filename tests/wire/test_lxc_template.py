# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every request of lxc_template, as it arrives at the API."""

from __future__ import annotations

import hashlib
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.options import credentials
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.template import Templates, Wish
from ansible_collections.lxcri.proxmox.tests.simulator.cluster import NODES, Cluster
from ansible_collections.lxcri.proxmox.tests.simulator.node_files import NODE
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator
from ansible_collections.lxcri.proxmox.tests.wire.support import (
    PERMISSIONS,
    RESOURCES,
    Module,
    Run,
    on_request,
    polls,
)
from fakepve.model import TaskError

NEWEST = "debian-13-standard_13.10-1_amd64.tar.zst"
OLD = "debian-13-standard_13.1-2_amd64.tar.zst"
URL = "https://mirror.example.com/images/shop_1.4_amd64.tar.zst"
SHOP = "shop_1.4_amd64.tar.zst"
SUM = hashlib.sha256(b"shop 1.4\n").hexdigest()
NGINX = "docker.io/library/nginx:1.29"
NGINX_FILE = "docker.io_library_nginx_1.29.tar"
INDEX: dict[str, t.Any] = {"node": "pve1", "storage": "local", "template": "debian-13-standard"}
WEB: dict[str, t.Any] = {"node": "pve1", "storage": "local", "url": URL, "checksum": SUM}
PULL: dict[str, t.Any] = {"node": "pve1", "storage": "local", "reference": NGINX}


def store(node: str = "pve1", storage: str = "local") -> str:
    return f"/nodes/{node}/storage/{storage}"


def volume(name: str, storage: str = "local") -> str:
    return f"{storage}:vztmpl/{name}"


class Template(Module):
    """Runs lxc_template against the cluster, and looks at what became of it."""

    name = "lxc_template"
    alike = ("changed", "volume", "volumes", "plan", "diff")

    def converge(self, **options: t.Any) -> Run:
        run = super().converge(**options)
        assert self(**options).result["volumes"] == run.result["volumes"]
        return run

    def files(self, node: str, storage: str = "local") -> list[str]:
        """The templates that a node sees."""

        def read(cluster: Cluster) -> list[str]:
            NODE.set(node)
            return sorted(name[7:] for name in cluster._register(storage) if name.startswith("vztmpl/"))

        return t.cast("list[str]", self.cluster.call(read))


@pytest.fixture
def template(cluster: Simulator) -> Template:
    """Runs lxc_template against a fresh cluster."""
    return Template(cluster)


# --------------------------------------------------------------------------------------------------- the index


def test_the_newest_of_a_package_is_fetched_from_the_index(template: Template) -> None:
    run = template.apply(**INDEX)
    assert run.asked == [
        f"GET {store()}/content",
        "GET /nodes/pve1/aplinfo",
        polls(),
        f"GET {store()}/status",
        PERMISSIONS,
        "POST /nodes/pve1/aplinfo",
        polls(),
    ]
    assert run.writes == [("POST", "/nodes/pve1/aplinfo", {"storage": "local", "template": NEWEST})]
    assert run.result["volume"] == volume(NEWEST)
    assert run.plan == [(f"template {volume(NEWEST)}", None, "present", "live")]
    [task] = run.result["tasks"]
    assert f":download:{NEWEST}:" in task["upid"]
    again = template(**INDEX)
    assert (again.changed, again.asked) == (False, [f"GET {store()}/content", "GET /nodes/pve1/aplinfo"])


def test_a_file_that_is_there_by_its_name_costs_one_request(template: Template) -> None:
    run = template(**{**INDEX, "template": OLD})
    assert (run.changed, run.asked, run.result["volume"]) == (False, [f"GET {store()}/content"], volume(OLD))


@pytest.mark.parametrize(
    ("pattern", "options", "name"),
    [
        ("debian-13-*", {}, NEWEST),
        ("debian-1[23]-standard*", {}, NEWEST),
        ("debian-*-standard_12*", {}, "debian-12-standard_12.12-1_amd64.tar.zst"),
        ("debian-13-standard", {"architecture": "arm64"}, "debian-13-standard_13.10-2_arm64.tar.zst"),
        ("debian-13-standard_13.10-2_arm64.tar.zst", {}, "debian-13-standard_13.10-2_arm64.tar.zst"),
        ("debian-13-standard_13.9-1", {}, "debian-13-standard_13.9-1_amd64.tar.zst"),
    ],
)
def test_a_pattern_means_the_newest_that_it_matches(
    template: Template, pattern: str, options: dict[str, t.Any], name: str
) -> None:
    run = template.converge(**{**INDEX, "template": pattern, **options})
    assert (run.changed, run.result["volume"]) == (True, volume(name))


def test_nodes_get_the_newest_that_all_of_them_know(template: Template) -> None:
    def forget(cluster: Cluster) -> None:
        cluster.appliances["pve2"] = [entry for entry in cluster.appliances[None] if entry["template"] != NEWEST]

    template.cluster.call(forget)
    run = template.apply(nodes=["pve1", "pve2"], storage="local", template="debian-13-standard")
    assert set(run.result["volumes"].values()) == {volume("debian-13-standard_13.9-1_amd64.tar.zst")}


def test_what_the_index_lacks_but_the_storage_has_is_present(template: Template) -> None:
    for version in ("1.9", "1.10", "1.10~rc1"):
        template.cluster.call("store_file", "local", f"mine_{version}_amd64.tar.gz", 10, "vztmpl")
    run = template(**{**INDEX, "template": "mine"})
    assert (run.changed, run.result["volume"]) == (False, volume("mine_1.10_amd64.tar.gz"))


def test_an_unknown_template_is_refused_with_what_is_near(template: Template) -> None:
    run = template.refused("template_missing", **{**INDEX, "template": "debian-13-standrad"})
    assert "debian-13-standard" in run.details["similar"]
    template.cluster.call(lambda cluster: cluster.appliances.update({None: []}))
    run = template.refused("template_missing", **{**INDEX, "template": "debian-14-standard"})
    assert "pveam update" in run.result["failure"]["hint"]


# ------------------------------------------------------------------------------------------------- several nodes


def test_each_node_gets_its_own_file_at_the_same_time(template: Template) -> None:
    options = {"nodes": list(NODES), "storage": "local", "template": "debian-13-standard"}
    template.cluster.call(lambda cluster: cluster.ct_secs.update(download=100))
    run = template.converge(**options)
    assert sorted(run.writes) == sorted(
        ("POST", f"/nodes/{node}/aplinfo", {"storage": "local", "template": NEWEST}) for node in NODES
    )
    assert run.result["volumes"] == dict.fromkeys(NODES, volume(NEWEST))
    assert all(NEWEST in template.files(node) for node in NODES)
    # Each takes two seconds.
    posts = [request.started for request in run.requests if request.method == "POST"]
    assert max(posts) - min(posts) < 2


def test_what_nodes_share_is_looked_at_and_fetched_once(template: Template) -> None:
    template.cluster.call(lambda cluster: cluster.storages["local"].update(shared=1))
    run = template.apply(nodes=list(NODES), storage="local", template="debian-13-standard")
    assert run.asked[0] == RESOURCES
    assert [line for line in run.asked if line.endswith("/content")] == [f"GET {store()}/content"]
    assert [line for line in run.asked if line.startswith("POST")] == ["POST /nodes/pve1/aplinfo"]
    assert run.result["volumes"] == dict.fromkeys(NODES, volume(NEWEST))
    assert run.result["storages"][0]["nodes"] == list(NODES)


def test_a_node_that_is_offline_does_not_stop_the_others(template: Template) -> None:
    template.cluster.call("set_node_offline", "pve2")
    run = template(nodes=["pve1", "pve2"], storage="local", template="debian-13-standard")
    assert run.code == "nodes_failed"
    assert run.details["nodes"] == ["pve2"]
    assert run.result["volumes"] == {"pve1": volume(NEWEST)}
    assert [entry.get("failure", {}).get("code") for entry in run.result["storages"]] == [None, "node_offline"]


# --------------------------------------------------------------------------------------------------------- URLs


def test_a_url_is_fetched_by_the_node_and_verified(template: Template) -> None:
    run = template.converge(**WEB)
    params = {"content": "vztmpl", "filename": SHOP, "url": URL, "checksum": SUM, "checksum-algorithm": "sha256"}
    assert run.writes == [("POST", f"{store()}/download-url", params)]
    assert SHOP in template.files("pve1")
    assert SHOP not in template.files("pve2")


def test_a_url_may_get_another_name_and_need_no_certificate(template: Template) -> None:
    options = {"file_name": "shop.tar.zst", "verify_certificates": False, "checksum": None}
    run = template.converge(**{**WEB, **options})
    params = {"content": "vztmpl", "filename": "shop.tar.zst", "url": URL, "verify-certificates": "0"}
    assert run.writes == [("POST", f"{store()}/download-url", params)]


def test_a_wrong_checksum_leaves_nothing(template: Template) -> None:
    before = template.files("pve1")
    run = template(**{**WEB, "checksum": "0" * 64})
    assert (run.code, run.details["expected"], run.details["actual"]) == ("checksum_mismatch", "0" * 64, SUM)
    assert template.files("pve1") == before
    assert run.result["volumes"] == {}


def test_a_download_that_fails_says_so_with_the_log(template: Template) -> None:
    run = template(**{**WEB, "url": "https://mirror.example.com/none.tar.gz"})
    assert run.code == "download_failed"
    assert any("404 Not Found" in line for line in run.details["log"])


def test_a_full_storage_is_told_from_other_failures_of_a_download(template: Template) -> None:
    template.cluster.call("set_storage", "local", avail=5)
    run = template(**WEB)
    assert run.code == "storage_full"
    assert SHOP not in template.files("pve1")


# ------------------------------------------------------------------------------------------------- local files


def test_a_local_file_is_sent_and_compared_by_its_size(template: Template, tmp_path: Path) -> None:
    file = tmp_path / "shop 2.tar.gz"
    file.write_bytes(b"x" * 3_000_000)
    options = {"node": "pve1", "storage": "local", "src": str(file)}
    run = template.converge(**options, checksum=hashlib.md5(file.read_bytes()).hexdigest(), checksum_algorithm="md5")
    assert run.asked == [
        f"GET {store()}/content",
        f"GET {store()}/status",
        PERMISSIONS,
        f"POST {store()}/upload",
        polls(),
    ]
    assert run.plan == [(f"template {volume('shop_2.tar.gz')}", None, 3_000_000, "live")]
    assert len(run.result["tasks"]) == 1
    uploaded = template.cluster.cluster.uploaded or {}
    assert uploaded["checksum"] == hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_bytes(b"y" * 10)
    run = template.refused("file_differs", **options)
    assert (run.details["size"], run.details["expected"]) == (3_000_000, 10)
    run = template.converge(**options, force=True)
    assert run.plan == [(f"template {volume('shop_2.tar.gz')}", 3_000_000, 10, "live")]


def test_a_local_file_with_another_checksum_is_not_sent(template: Template, tmp_path: Path) -> None:
    file = tmp_path / "shop.tar"
    file.write_bytes(b"x")
    run = template.refused("checksum_mismatch", node="pve1", storage="local", src=str(file), checksum="0" * 64)
    assert run.requests == []
    run = template.refused("file_missing", node="pve1", storage="local", src=str(tmp_path / "none.tar"))
    assert run.requests == []


# -------------------------------------------------------------------------------------------------- OCI images


def test_an_image_is_pulled_under_a_name_that_tells_which_one(template: Template) -> None:
    template.cluster.call("publish", NGINX, {"config": {}})
    run = template.converge(**PULL)
    assert "GET /version" in run.asked
    params = {"reference": NGINX, "filename": NGINX_FILE[:-4]}
    assert run.writes == [("POST", f"{store()}/oci-registry-pull", params)]
    assert run.result["volume"] == volume(NGINX_FILE)
    run = template.converge(**{**PULL, "reference": "nginx:1.29", "file_name": "n.tar"})
    assert run.writes == [("POST", f"{store()}/oci-registry-pull", {"reference": NGINX, "filename": "n"})]


def test_an_image_that_the_registry_lacks(template: Template) -> None:
    run = template(**PULL)
    assert run.code == "registry_failed"
    assert NGINX_FILE not in template.files("pve1")


def test_what_a_pull_leaves_on_a_full_storage_is_named(template: Template) -> None:
    template.cluster.call("publish", NGINX, {"config": {}})
    template.cluster.call("set_storage", "local", avail=5)
    run = template(**PULL)
    left = f"/var/lib/vz/template/cache/{NGINX_FILE}.tmp.5068"
    assert (run.code, run.details["temporary"]) == ("storage_full", left)
    assert f"Proxmox leaves {left} on the node" in run.result["msg"]


def test_an_older_proxmox_pulls_no_images(template: Template) -> None:
    template.cluster.call(lambda cluster: setattr(cluster, "release_version", "8.4"))
    template.cluster.call(lambda cluster: setattr(cluster, "version", "8.4.1"))
    template.refused("version_too_old", **PULL)


# ------------------------------------------------------------------------------------------------------- removal


def test_only_templates_that_match_are_removed(template: Template) -> None:
    template.cluster.call("store_file", "local", "debian-13-standard.iso", 10, "iso")
    template.cluster.call("store_file", "local", "debian-13-standard_13.2-1_amd64.tar.zst", 10, "vztmpl")
    run = template.converge(**{**INDEX, "state": "absent"})
    names = (OLD, "debian-13-standard_13.2-1_amd64.tar.zst")
    assert run.writes == [("DELETE", f"{store()}/content/{volume(name)}", {}) for name in names]
    assert run.asked[:2] == [f"GET {store()}/content", PERMISSIONS]
    assert run.result["volume"] is None
    assert template.files("pve1") == ["alpine-3.22-default_20250617_amd64.tar.xz"]
    assert OLD in template.files("pve2")
    assert "iso/debian-13-standard.iso" in template.cluster.cluster.storages["local"]["volumes"]


@pytest.mark.parametrize("options", [{"file_name": SHOP}, {"url": URL}, {"src": f"/srv/{SHOP}"}])
def test_one_file_is_removed_by_what_it_is_called(template: Template, options: dict[str, str]) -> None:
    template.cluster.call("store_file", "local", SHOP, 10, "vztmpl")
    run = template.converge(node="pve1", storage="local", state="absent", **options)
    assert run.writes == [("DELETE", f"{store()}/content/{volume(SHOP)}", {})]


# ------------------------------------------------------------------------------------------- parallel downloads


def test_a_download_of_somebody_else_is_awaited_and_counts(template: Template) -> None:
    def begin(cluster: Cluster) -> t.Any:
        NODE.set("pve1")
        # It is there a while after the look of check mode.
        cluster.ct_secs.update(download=100)
        return cluster._aplinfo_download({"node": "pve1", "storage": "local", "template": NEWEST}, "root@pam")

    template.cluster.call(begin)
    check = template(check_mode=True, **INDEX)
    assert (check.changed, check.writes) == (False, [])
    run = template(**INDEX)
    assert (run.changed, run.writes, run.result["volume"]) == (False, [], volume(NEWEST))
    assert run.result["storages"][0]["notes"] == [f"{NEWEST} was being fetched by another task."]


def test_a_download_of_somebody_else_that_fails_is_made_up_for(template: Template) -> None:
    async def begin(cluster: Cluster) -> None:
        NODE.set("pve1")

        async def fail() -> None:
            await cluster.pause(50)
            raise TaskError("download failed: command 'wget' failed: exit code 4")

        await cluster.task("pve1", "download", SHOP, "root@pam", fail)

    template.cluster.call(begin)
    run = template(**WEB)
    assert (run.changed, run.result["volume"]) == (True, volume(SHOP))
    assert SHOP in template.files("pve1")


def test_an_upload_of_somebody_else_is_awaited_and_counts(template: Template, tmp_path: Path) -> None:
    """Proxmox writes an upload under its name, so that it is there with another size for a while."""
    file = tmp_path / SHOP
    file.write_bytes(b"x" * 3000)

    async def begin(cluster: Cluster) -> None:
        NODE.set("pve1")
        cluster.store_file("local", SHOP, 1000, "vztmpl")

        async def copy() -> None:
            await cluster.pause(100)
            cluster.store_file("local", SHOP, 3000, "vztmpl")

        await cluster.task("pve2", "imgcopy", "", "root@pam", copy)

    template.cluster.call(begin)
    options = {"node": "pve1", "storage": "local", "src": str(file)}
    check = template(check_mode=True, **options)
    assert (check.changed, check.writes) == (False, [])
    run = template(**options)
    assert (run.changed, run.writes, run.result["volume"]) == (False, [], volume(SHOP))
    assert run.result["storages"][0]["notes"] == [f"{SHOP} was being fetched by another task."]
    file.write_bytes(b"x" * 5000)
    template.refused("file_differs", **options)


@pytest.mark.parametrize("options", [WEB, {**WEB, "checksum": None}, PULL, INDEX], ids=["sum", "url", "oci", "index"])
def test_who_comes_second_to_the_same_file_does_not_fail(template: Template, options: dict[str, t.Any]) -> None:
    """Somebody else has stored the file between the look and the request."""
    template.cluster.call("publish", NGINX, {"config": {}})
    name = {"url": SHOP, "reference": NGINX_FILE, "template": NEWEST}[
        next(k for k in options if k in ("url", "reference", "template"))
    ]

    def store_it(cluster: Cluster, _request: t.Any) -> None:
        NODE.set("pve1")
        cluster.store_file("local", name, 10, "vztmpl")

    suffix = {"url": "/download-url", "reference": "/oci-registry-pull", "template": "/aplinfo"}
    on_request(template.cluster, "POST", suffix[next(k for k in suffix if k in options)], store_it)
    run = template(**options)
    assert not run.result.get("failed"), run.result["msg"]
    assert run.result["volume"] == volume(name)
    if not options.get("checksum") and "template" not in options:
        assert run.changed is False
        assert run.result["storages"][0]["notes"] == [f"{name} was fetched by another task meanwhile."]


def test_hosts_of_one_play_that_want_the_same_file_all_get_it(template: Template) -> None:
    # A module is run in this process by itself only.
    options = {"api_backend": "https", "validate_certs": True, "api_password": None, "api_timeout": 30}
    given = credentials({**options, **template.options})
    wish = Wish("present", ("pve1",), "local", "template", template="debian-13-standard")
    with ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(Templates(Client(given), False).run, wish) for _run in range(8)]
    outcomes = [run.result()[0] for run in runs]
    assert [outcome.failure for outcome in outcomes] == [None] * 8
    assert {outcome.file_name for outcome in outcomes} == {NEWEST}
    assert NEWEST in template.files("pve1")


# -------------------------------------------------------------------------------------------------- what is refused


def test_missing_privileges_are_all_named_before_anything_is_sent(template: Template) -> None:
    add = template.cluster.call
    acl = {"/storage/local": ["Datastore.Audit"]}
    secret = add("add_token", "ci@pve!t", "11111111-2222-3333-4444-555555555555", True, acl)
    add("add_user", "ci@pve", "secret", acl)
    template.options.update(api_user="ci@pve", api_token_id="t", api_token_secret=secret)
    run = template.refused("permission_denied", **INDEX)
    assert [entry["privilege"] for entry in run.details["missing"]] == ["Datastore.AllocateTemplate"]
    run = template.refused("permission_denied", **WEB)
    wanted = ["Datastore.AllocateTemplate", "Sys.AccessNetwork"]
    assert [entry["privilege"] for entry in run.details["missing"]] == wanted
    run = template.refused("permission_denied", **PULL)
    assert [entry["privilege"] for entry in run.details["missing"]] == wanted
    run = template.refused("permission_denied", **{**INDEX, "state": "absent"})
    assert [entry["privilege"] for entry in run.details["missing"]] == ["Datastore.Allocate"]


@pytest.mark.parametrize(
    "more", [{"/nodes/pve1": ["Sys.AccessNetwork"]}, {"/": ["Sys.Audit", "Sys.Modify"]}], ids=["network", "modify"]
)
def test_either_privilege_lets_a_node_fetch_a_url(template: Template, more: dict[str, list[str]]) -> None:
    acl = {"/storage/local": ["Datastore.Audit", "Datastore.AllocateTemplate"], **more}
    template.cluster.call("add_user", "ci@pve", "secret", acl)
    secret = template.cluster.call("add_token", "ci@pve!t")
    template.options.update(api_user="ci@pve", api_token_id="t", api_token_secret=secret)
    template.converge(**WEB)


def test_a_storage_without_templates_is_refused(template: Template) -> None:
    for options in (INDEX, WEB, PULL):
        run = template.refused("storage_unsuitable", **{**options, "storage": "tank"})
        assert run.details["storage"] == "tank"
    template.refused("storage_missing", **{**INDEX, "storage": "none"})


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"storage": "local", "template": "x"}, "nodes"),
        ({"node": "pve1", "nodes": ["pve2"], "storage": "local", "template": "x"}, "nodes"),
        ({"nodes": ["pve1", ""], "storage": "local", "template": "x"}, "nodes"),
        ({"node": "pve1", "storage": "local"}, "template"),
        ({"node": "pve1", "storage": "local", "file_name": "x.tar"}, "template"),
        ({"node": "pve1", "storage": "local", "state": "absent"}, "template"),
        ({**INDEX, "checksum": SUM}, "checksum"),
        ({**WEB, "checksum": "abc"}, "checksum"),
        ({**WEB, "checksum": "z" * 64}, "checksum"),
        ({**WEB, "checksum_algorithm": "md5"}, "checksum"),
        ({**INDEX, "file_name": "x.tar"}, "file_name"),
        ({**WEB, "file_name": "a/b.tar"}, "file_name"),
        ({**WEB, "file_name": "x.iso"}, "file_name"),
        ({**WEB, "file_name": "x" * 255 + ".tar"}, "file_name"),
        ({**WEB, "url": "https://example.com/"}, "url"),
        ({**WEB, "url": "file:///etc/passwd.tar"}, "url"),
        ({**WEB, "force": True}, "force"),
        ({**PULL, "file_name": "x.tar.gz"}, "file_name"),
        ({**PULL, "reference": f"nginx@sha256:{SUM}"}, "reference"),
        ({**PULL, "reference": "[::1]:5000/nginx:1"}, "reference"),
    ],
)
def test_what_cannot_be_meant_is_refused_without_a_request(
    template: Template, options: dict[str, t.Any], option: str
) -> None:
    run = template(**options)
    assert (run.code, run.details["option"], run.requests) == ("invalid_option", option, [])
