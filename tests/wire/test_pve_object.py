# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What pve_object does, whatever the kind: requests, owners, secrets, privileges, interruptions."""

from __future__ import annotations

import json
import typing as t

import pytest
from ansible.module_utils import basic
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator
from ansible_collections.lxcri.proxmox.tests.wire.module_runner import run_module
from ansible_collections.lxcri.proxmox.tests.wire.objects import Pve, everything
from ansible_collections.lxcri.proxmox.tests.wire.support import PERMISSIONS, on_request, polls, reset

STORAGE: dict[str, t.Any] = {"storage": "backup", "type": "dir", "path": "/srv/backup", "content": ["backup"]}
ZONE: dict[str, t.Any] = {"zone": "lab", "type": "simple"}
BRIDGE: dict[str, t.Any] = {"iface": "vmbr1", "type": "bridge", "autostart": True, "cidr": "10.1.0.1/24"}
HTTPS: dict[str, t.Any] = {"type": "in", "action": "ACCEPT", "macro": "HTTPS", "enable": True, "comment": "shop"}
SSH: dict[str, t.Any] = {"type": "in", "action": "ACCEPT", "macro": "SSH", "enable": True, "source": "10.0.0.0/8"}
DROP: dict[str, t.Any] = {"type": "in", "action": "DROP", "enable": True}


@pytest.fixture
def pve(cluster: Simulator) -> Pve:
    """Runs pve_object against a fresh cluster with a container."""
    cluster.call("add_ct", 101, name="web", node="pve1")
    return Pve(cluster)


def keys(run: t.Any) -> list[tuple[t.Any, ...]]:
    return [(entry["key"], entry["before"], entry["after"], entry["request"]) for entry in run.result["plan"]]


# ----------------------------------------------------------------------------------------------------- requests


def test_making_one_is_one_request(pve: Pve) -> None:
    run = pve.converge("storage", STORAGE)
    assert run.asked == ["GET /storage", PERMISSIONS, "POST /storage", "GET /storage"]
    assert run.writes == [
        ("POST", "/storage", {"storage": "backup", "type": "dir", "path": "/srv/backup", "content": "backup"})
    ]
    assert keys(run) == [
        (
            "backup",
            None,
            {"storage": "backup", "type": "dir", "path": "/srv/backup", "content": ["backup"]},
            "POST /storage",
        )
    ]
    [diff] = run.result["diff"]
    assert (diff["after_header"], diff["before"]) == ("backup", {})
    assert run.result["objects"] == [STORAGE]
    assert run.result["tokens"] == []


def test_only_what_differs_is_sent_with_the_digest(pve: Pve) -> None:
    pve("storage", {**STORAGE, "nodes": ["pve1"], "disable": True})
    run = pve.converge("storage", {**STORAGE, "content": ["iso", "backup"], "shared": True})
    [(method, path, params)] = run.writes
    assert (method, path) == ("PUT", "/storage/backup")
    assert params.pop("digest")
    assert params == {"content": "backup,iso", "shared": "1", "delete": "disable,nodes"}
    assert keys(run) == [
        ("backup: content", ["backup"], ["backup", "iso"], "PUT /storage/backup"),
        ("backup: disable", True, False, "PUT /storage/backup"),
        ("backup: nodes", ["pve1"], None, "PUT /storage/backup"),
        ("backup: shared", None, True, "PUT /storage/backup"),
    ]
    assert run.result["diff"] == [
        {
            "before_header": "backup",
            "after_header": "backup",
            "before": {"content": ["backup"], "disable": True, "nodes": ["pve1"], "shared": None},
            "after": {"content": ["backup", "iso"], "disable": False, "nodes": None, "shared": True},
        }
    ]


def test_what_proxmox_sets_by_itself_stays(pve: Pve) -> None:
    nas = {"storage": "nas", "type": "nfs", "server": "10.0.0.9", "export": "/tank"}
    run = pve.converge("storage", nas)
    assert run.result["objects"] == [{**nas, "path": "/mnt/pve/nas", "content": ["images"]}]


def test_a_guest_that_somebody_has_stopped_is_not_started(pve: Pve) -> None:
    resource = {"sid": "ct:101"}
    pve.converge("ha_resource", resource)
    pve.cluster.call(lambda cluster: cluster.ha_resources["ct:101"].update(state="stopped"))
    assert pve.apply("ha_resource", resource).writes == []
    run = pve.converge("ha_resource", {**resource, "comment": "Web"})
    assert keys(run)[0][:3] == ("ct:101: comment", None, "Web")
    assert pve.simulated.ha_resources["ct:101"]["state"] == "stopped"
    run = pve.converge("ha_resource", {**resource, "comment": "Web", "state": "started"})
    assert keys(run)[0][:3] == ("ct:101: state", "stopped", "started")


def test_large_numbers_are_sent_as_they_are(pve: Pve) -> None:
    run = pve.converge("storage", {**STORAGE, "bwlimit": {"default": 1048576, "clone": 2.5e6, "move": 12345678.5}})
    assert run.writes[0][2]["bwlimit"] == "clone=2500000,default=1048576,move=12345678.5"
    [limits] = [it["bwlimit"] for it in run.result["objects"]]
    assert repr(limits) == "{'clone': 2500000, 'default': 1048576, 'move': 12345678.5}"


def test_what_proxmox_does_not_change_is_told_and_left(pve: Pve) -> None:
    pve("storage", STORAGE)
    for _again in range(2):
        run = pve.apply("storage", {**STORAGE, "path": "/srv/other"})
        assert (run.changed, run.writes) == (False, [])
        [entry] = run.result["plan"]
        assert (entry["key"], entry["before"], entry["after"]) == ("backup: path", "/srv/backup", "/srv/other")
        assert (entry["effect"], entry["request"]) == ("recreate", None)
        assert run.result["warnings"] == [f"backup: path: {entry['hint']}"]


def test_an_object_of_another_type_is_left(pve: Pve) -> None:
    run = pve.apply("storage", {"storage": "tank", "type": "dir", "path": "/srv/tank", "shared": True})
    assert [entry["key"] for entry in run.result["plan"]] == ["tank: type"]
    assert (run.changed, run.writes) == (False, [])


@pytest.mark.parametrize("value", [True, False])
def test_no_is_said_where_the_default_is_yes(pve: Pve, value: bool) -> None:
    run = pve.converge("firewall_options", {"nosmurfs": value}, node="pve1")
    assert run.writes[0][2]["nosmurfs"] == str(int(value))


@pytest.mark.parametrize("state", ["present", "absent"])
def test_many_are_worked_on_in_their_order(pve: Pve, state: str) -> None:
    pools = [{"poolid": "shop"}, {"poolid": "shop/web"}, {"poolid": "shop/web/prod"}]
    pve("pool", *pools)
    if state == "present":
        pve.cluster.call(lambda cluster: cluster.pools.clear())
    run = pve.converge("pool", *pools, state=state)
    names = [params["poolid"] for _method, _path, params in run.writes]
    assert names == [pool["poolid"] for pool in (pools if state == "present" else pools[::-1])]


def test_the_members_of_a_pool(pve: Pve) -> None:
    pve.cluster.call("add_ct", 102, name="db", node="pve1", pool="prod")
    pve("pool", {"poolid": "shop", "vms": [101], "storage": ["tank"]})
    refused = pve("pool", {"poolid": "shop", "vms": [102]})
    assert "allow-move" in refused.result["msg"]
    pve("pool", {"poolid": "shop", "vms": [101]})
    run = pve.converge("pool", {"poolid": "shop", "vms": [102], "allow-move": True, "storage": ["local"]})
    assert run.writes == [
        ("PUT", "/pools", {"poolid": "shop", "vms": "101", "delete": "1"}),
        ("PUT", "/pools", {"poolid": "shop", "storage": "tank", "delete": "1"}),
        ("PUT", "/pools", {"poolid": "shop", "vms": "102", "allow-move": "1"}),
        ("PUT", "/pools", {"poolid": "shop", "storage": "local"}),
    ]
    assert pve.simulated.pools["prod"] == set()


def test_an_array_is_sent_as_one(pve: Pve) -> None:
    target = {"name": "mail", "mailto": ["a@example.com", "b@example.com"], "comment": "x"}
    run = pve.converge("notification_target", target, scope={"type": "sendmail"})
    assert run.writes[0][2]["mailto"] == ["a@example.com", "b@example.com"]
    run = pve.converge("notification_target", {"name": "mail"}, scope={"type": "sendmail"})
    assert run.writes[0][2]["delete"] == ["comment", "mailto"]


def test_what_is_built_in_can_be_changed_and_is_not_there_to_be_removed(pve: Pve) -> None:
    assert not pve.apply(
        "notification_target", {"name": "mail-to-root"}, scope={"type": "sendmail"}, state="absent"
    ).changed
    target = {"name": "mail-to-root", "mailto-user": ["root@pam"], "mailto": ["ops@example.com"]}
    run = pve.converge("notification_target", target, scope={"type": "sendmail"})
    assert [method for method, _path, _params in run.writes] == ["PUT"]


@pytest.mark.parametrize(("realm", "text"), [("pam", "Staff"), ("pve", "Robots")])
def test_realms_that_are_always_there(pve: Pve, realm: str, text: str) -> None:
    assert pve.converge("realm", {"realm": realm, "type": realm, "comment": text}).changed
    run = pve.converge("realm", {"realm": realm, "type": realm})
    assert [params["delete"] for _method, _path, params in run.writes] == ["comment"]
    assert not pve("realm", {"realm": realm, "type": realm}).changed


def test_a_job_that_is_being_removed_is_gone_and_can_be_kept(pve: Pve) -> None:
    job = {"id": "101-0", "target": "pve2"}
    pve("replication_job", job)
    assert pve.converge("replication_job", {"id": "101-0"}, state="absent").changed
    assert pve.simulated.replications["101-0"]["remove_job"] == "full"
    run = pve.converge("replication_job", job)
    assert run.writes == [("PUT", "/cluster/replication/101-0", {"delete": "remove_job"})]


def test_the_comment_of_a_token_is_removed_as_every_release_takes_it(pve: Pve) -> None:
    pve("user", {"userid": "ci@pve"})
    token = {"userid": "ci@pve", "tokenid": "deploy"}
    pve.converge("token", {**token, "comment": "GitOps"})
    assert pve.converge("token", token).writes == [("PUT", "/access/users/ci@pve/token/deploy", {"comment": " "})]


def test_a_job_that_proxmox_has_turned_round_is_right(pve: Pve) -> None:
    job = {"id": "101-0", "target": "pve2"}
    pve.converge("replication_job", job)
    pve.cluster.call(lambda cluster: cluster.replications["101-0"].update(target="pve1", source="pve2"))
    run = pve.apply("replication_job", job)
    assert (run.result["plan"], run.result.get("warnings", [])) == ([], [])
    assert pve.converge("replication_job", {**job, "comment": "Web"}).writes[0][2] == {"comment": "Web"}
    run = pve.apply("replication_job", {**job, "target": "pve3"})
    assert [entry["key"] for entry in run.result["plan"]][-1] == "101-0: target"


def test_a_password_is_changed_apart(pve: Pve) -> None:
    user = {"userid": "ci@pve", "password": "hunter2-hunter2"}
    pve.as_root()
    pve.converge("user", user)
    assert pve.simulated.users["ci@pve"] == "hunter2-hunter2"
    run = pve("user", {**user, "password": "another-hunter2"}, update_secrets="always")
    assert [f"{method} {path}" for method, path, _params in run.writes] == ["PUT /access/password"]
    assert pve.simulated.users["ci@pve"] == "another-hunter2"
    assert run.result["diff"][0]["after"] == {"password": "********"}


def test_secrets_are_sent_again_only_when_asked_for(pve: Pve) -> None:
    pbs = {"storage": "pbs", "type": "pbs", "server": "pbs", "datastore": "main", "password": "hunter2-of-pbs"}
    assert "password" in pve.converge("storage", pbs).writes[0][2]
    assert pve("storage", {**pbs, "password": "another-hunter2"}).writes == []
    run = pve.apply("storage", pbs, update_secrets="always")
    assert [set(params) - {"digest"} for _method, _path, params in run.writes] == [{"password"}]
    assert keys(run) == [("pbs: password", "********", "********", "PUT /storage/pbs")]


PBS: dict[str, t.Any] = {"storage": "pbs", "type": "pbs", "server": "pbs", "datastore": "main", "password": "hunter2"}
KEY = {"kdf": None, "data": "aHVudGVyMg==", "fingerprint": "ab:cd"}


@pytest.mark.parametrize("update", ["on_create", "always"])
def test_a_key_of_backups_is_made_once(pve: Pve, update: str) -> None:
    pve.apply("storage", {**PBS, "encryption-key": "autogen"}, update_secrets=update)
    key = pve.simulated.storages["pbs"]["encryption-key"]
    assert key
    again = pve.apply("storage", {**PBS, "encryption-key": "autogen"}, update_secrets=update)
    assert [set(params) - {"digest"} for _method, _path, params in again.writes] == [{"password"}] * (
        update == "always"
    )
    # One that is not declared stays, too.
    assert pve("storage", PBS).writes == []
    assert pve.simulated.storages["pbs"]["encryption-key"] == key


def test_a_key_of_backups_is_made_when_there_is_none(pve: Pve) -> None:
    pve("storage", PBS)
    run = pve.converge("storage", {**PBS, "encryption-key": "autogen"})
    assert [set(params) - {"digest"} for _method, _path, params in run.writes] == [{"encryption-key"}]
    assert keys(run) == [("pbs: encryption-key", None, "********", "PUT /storage/pbs")]


@pytest.mark.parametrize("update", ["on_create", "always"])
def test_a_key_of_backups_is_never_replaced(pve: Pve, update: str) -> None:
    pbs = {name: value for name, value in PBS.items() if name != "password"}
    declared = {**pbs, "encryption-key": json.dumps(KEY)}
    pve.converge("storage", declared)
    assert pve.converge("storage", declared, update_secrets=update).writes == []
    other = {**pbs, "encryption-key": json.dumps({**KEY, "fingerprint": "ef:01"})}
    run = pve.apply("storage", other, update_secrets=update)
    [entry] = run.result["plan"]
    assert (entry["key"], entry["before"], entry["after"]) == ("pbs: encryption-key", "********", "********")
    assert (run.writes, entry["request"]) == ([], None)
    assert "/etc/pve/priv/storage/pbs.enc" in entry["hint"]


def test_a_key_that_goes_with_its_storage_is_told(pve: Pve) -> None:
    pve("storage", {**PBS, "encryption-key": json.dumps(KEY)})
    run = pve.converge("storage", {"storage": "pbs"}, state="absent")
    assert run.result["plan"][0]["before"]["encryption-key"] == "********"
    [note] = run.result["notes"]
    assert "/etc/pve/priv/storage/pbs.enc" in note


def test_a_public_key_goes_with_a_key(pve: Pve) -> None:
    public = {"master-pubkey": "aHVudGVyMg=="}
    assert pve.refused("invalid_field", "storage", {**PBS, **public}).details["field"] == "master-pubkey"
    pve.converge("storage", {**PBS, "encryption-key": "autogen", **public})
    run = pve.apply("storage", {**PBS, "encryption-key": "autogen", **public}, update_secrets="always")
    assert [set(params) - {"digest"} for _method, _path, params in run.writes] == [{"password", "master-pubkey"}]


def test_the_secret_of_a_token_is_told_once(pve: Pve) -> None:
    pve("user", {"userid": "ci@pve"})
    token = {"userid": "ci@pve", "tokenid": "deploy"}
    assert pve.check("token", token).result["tokens"] == []
    run = pve("token", token)
    [made] = run.result["tokens"]
    assert made == {"tokenid": "ci@pve!deploy", "value": pve.simulated.apitokens["ci@pve!deploy"]}
    rest = {name: value for name, value in run.result.items() if name != "tokens"}
    assert made["value"] not in repr(rest)
    again = pve("token", token)
    assert (again.result["tokens"], again.changed) == ([], False)


def test_what_was_done_is_told_when_it_cannot_be_read_afterwards(pve: Pve, impatient: None) -> None:
    pve("user", {"userid": "ci@pve"})

    made: list[t.Any] = []

    def stop(cluster: t.Any, request: t.Any) -> None:
        if made:
            reset(cluster, request)

    on_request(pve.cluster, "POST", "/access/users/ci@pve/token/deploy", lambda _cluster, it: made.append(it))
    on_request(pve.cluster, "GET", "/access/users", stop, times=100)
    run = pve("token", {"userid": "ci@pve", "tokenid": "deploy"})
    assert (run.code, run.changed) == ("unreachable", True)
    assert [change["key"] for change in run.details["done"]] == ["ci@pve!deploy"]
    assert run.result["tokens"] == [
        {"tokenid": "ci@pve!deploy", "value": pve.simulated.apitokens["ci@pve!deploy"]},
    ]


def test_a_secret_is_in_no_log_and_no_message(pve: Pve, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr(basic.AnsibleModule, "log", lambda _self, msg, log_args=None: logged.append(f"{msg}{log_args}"))
    pve("user", {"userid": "ci@pve", "password": "hunter2-hunter2", "comment": "Robots"})
    assert logged
    assert "Robots" in "".join(logged)
    assert "hunter2" not in "".join(logged)
    run = pve.refused("invalid_field", "user", {"userid": "ci@pve", "password": "hunt"})
    assert "hunt'" not in run.result["msg"]


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "user", "state": "presnt"},
        {"kind": "usr"},
        {"kind": "user", "objects": []},
        {"kind": "user", "timeout": "long"},
        {"kind": "user", "scope": "odd"},
        {"kind": "user", "no_such_option": 1},
        {},
    ],
    ids=",".join,
)
@pytest.mark.parametrize(
    "declared",
    [
        {"userid": "ci@pve", "password": "hunter2-hunter2"},
        '{"userid": "ci@pve", "password": "hunter2-hunter2"}',
        "userid=ci@pve password=hunter2-hunter2",
        '{"userid": "ci@pve" "password": "hunter2-hunter2"}',
        {"name": "hook", "header": [{"name": "Authorization", "value": "hunter2-hunter2"}]},
    ],
    ids=["dictionary", "json", "pairs", "broken", "nested"],
)
def test_a_secret_is_not_shown_when_an_option_is_refused(declared: t.Any, options: dict[str, t.Any]) -> None:
    result = run_module("pve_object", {"object": declared, **options})
    assert result["failed"]
    assert "hunter2" not in repr(result)


# ---------------------------------------------------------------------------------------------------------- owners


def test_an_owner_marks_what_is_declared(pve: Pve) -> None:
    run = pve.converge("group", {"groupid": "ops", "comment": "Operators"}, {"groupid": "dev"}, owner="gitops")
    assert [params["comment"] for _method, _path, params in run.writes] == ["[gitops] Operators", "[gitops]"]
    pve("group", {"groupid": "old", "comment": "Older"})
    run = pve.converge("group", {"groupid": "old", "comment": "Older"}, owner="gitops")
    assert run.writes == [("PUT", "/access/groups/old", {"comment": "[gitops] Older"})]


def test_an_exclusive_owner_removes_what_is_its_own(pve: Pve) -> None:
    for name, comment in (("mine", "x"), ("other", "[gitops2] x"), ("like", "[gitops]x"), ("gone", "[gitops] x")):
        pve("group", {"groupid": name, "comment": comment})
    declared = {"groupid": "mine", "comment": "x"}
    run = pve.converge("group", declared, owner="gitops", exclusive=True)
    assert [(method, path) for method, path, _params in run.writes] == [
        ("DELETE", "/access/groups/gone"),
        ("PUT", "/access/groups/mine"),
    ]
    run = pve.converge("group", owner="gitops", exclusive=True, objects=[])
    assert [path for _method, path, _params in run.writes] == ["/access/groups/mine"]
    assert sorted(pve.simulated.groups) == ["like", "other"]


@pytest.mark.parametrize("kind", ["storage", "role", "acl", "sdn_zone", "sdn_dns", "metric_server", "firewall_options"])
def test_kinds_without_a_comment_have_no_owner(pve: Pve, kind: str) -> None:
    objects = {
        "storage": STORAGE,
        "role": {"roleid": "Deploy"},
        "acl": {"path": "/", "roles": ["Deploy"], "users": ["ci@pve"]},
        "sdn_zone": ZONE,
        "sdn_dns": {"dns": "pdns", "type": "powerdns", "url": "x", "key": "y"},
        "metric_server": {"id": "graph", "type": "graphite", "server": "a", "port": 1},
        "firewall_options": {"enable": True},
    }
    run = pve.refused("invalid_option", kind, objects[kind], owner="gitops", exclusive=True)
    assert run.asked == []
    assert run.details == {"option": "exclusive"}
    assert pve.refused("invalid_option", kind, objects[kind], owner="gitops").details == {"option": "owner"}


def test_a_pool_with_members_and_a_group_with_rules_are_emptied_first(pve: Pve) -> None:
    pve("pool", {"poolid": "shop", "vms": [101], "storage": ["tank"], "comment": "[gitops] x"})
    run = pve.converge("pool", owner="gitops", exclusive=True, objects=[])
    assert [(method, params) for method, _path, params in run.writes] == [
        ("PUT", {"poolid": "shop", "vms": "101", "delete": "1"}),
        ("PUT", {"poolid": "shop", "storage": "tank", "delete": "1"}),
        ("DELETE", {"poolid": "shop"}),
    ]
    pve("firewall_group", {"group": "web"})
    pve("firewall_rule", HTTPS, DROP, scope={"group": "web"})
    run = pve.converge("firewall_group", {"group": "web"}, state="absent")
    assert [path for _method, path, _params in run.writes] == [
        "/cluster/firewall/groups/web/1",
        "/cluster/firewall/groups/web/0",
        "/cluster/firewall/groups/web",
    ]


# ------------------------------------------------------------------------------------------------- the firewall


@pytest.mark.parametrize(
    ("scope", "path"),
    [
        ({}, "/cluster/firewall/rules"),
        ({"node": "pve2"}, "/nodes/pve2/firewall/rules"),
        ({"node": "pve1", "vmid": 101}, "/nodes/pve1/lxc/101/firewall/rules"),
        ({"node": "pve1", "vmid": 100, "guest": "qemu"}, "/nodes/pve1/qemu/100/firewall/rules"),
        ({"group": "web"}, "/cluster/firewall/groups/web"),
    ],
)
def test_rules_are_made_in_their_order(pve: Pve, scope: dict[str, t.Any], path: str) -> None:
    pve("firewall_group", {"group": "web"})
    run = pve.converge("firewall_rule", HTTPS, SSH, DROP, scope=scope)
    assert {(method, where) for method, where, _params in run.writes} == {("POST", path)}
    shown = [(rule["action"], rule.get("macro")) for rule in run.result["objects"]]
    assert shown == [("ACCEPT", "https"), ("ACCEPT", "ssh"), ("DROP", None)]
    again = pve("firewall_rule", HTTPS, SSH, DROP, scope=scope)
    assert again.asked == [f"GET {path}"]


def test_a_guest_is_looked_up(pve: Pve) -> None:
    run = pve.converge("firewall_rule", HTTPS, scope={"vmid": 101})
    assert run.asked[:2] == ["GET /cluster/resources", "GET /nodes/pve1/lxc/101/firewall/rules"]
    assert pve.refused("not_found", "firewall_alias", {"name": "dns", "cidr": "10.0.0.1", "vmid": 999}).details == {
        "vmid": "999"
    }


def test_the_order_of_an_owners_rules_is_that_of_the_list(pve: Pve) -> None:
    pve("firewall_rule", HTTPS, SSH, DROP)
    foreign = {"type": "out", "action": "ACCEPT", "comment": "by hand", "enable": True}
    pve("firewall_rule", foreign)
    owned = {"owner": "gitops", "exclusive": True}
    first, second, third = ({**rule, "comment": name} for rule, name in ((HTTPS, "a"), (SSH, "b"), (DROP, "c")))
    run = pve.converge("firewall_rule", first, second, third, **owned)
    assert [rule.get("comment") for rule in run.result["objects"]] == [
        *("[gitops] a", "[gitops] b", "[gitops] c", "by hand", "shop"),
        *(None, None),
    ]
    run = pve.converge("firewall_rule", third, first, **owned)
    assert [rule.get("comment") for rule in run.result["objects"]] == [
        *("[gitops] c", "[gitops] a", "by hand", "shop"),
        *(None, None),
    ]
    assert [method for method, _path, _params in run.writes] == ["PUT", "DELETE"]
    # A rule that says something else under the same comment is that rule.
    run = pve.converge("firewall_rule", third, {**first, "macro": "HTTP"}, **owned)
    assert [(path, set(params)) for _method, path, params in run.writes] == [
        ("/cluster/firewall/rules/1", {"macro", "digest"})
    ]
    run = pve.converge("firewall_rule", owner="gitops", exclusive=True, objects=[])
    assert [rule.get("comment") for rule in pve.simulated._fw()["cluster"]["rules"]] == ["by hand", "shop", None, None]
    assert pve.converge("firewall_rule", {**HTTPS}, state="absent").changed
    assert not pve.apply("firewall_rule", {**HTTPS, "macro": "DNS"}, state="absent").changed


def test_positions_are_not_trusted_when_somebody_else_edits(pve: Pve) -> None:
    pve("firewall_rule", HTTPS, SSH, DROP)

    def edit(cluster: t.Any, _request: t.Any) -> None:
        cluster._fw()["cluster"]["rules"].insert(0, {"type": "out", "action": "DROP", "enable": 1})

    on_request(pve.cluster, "DELETE", "/rules/2", edit, after=True)
    run = pve("firewall_rule", SSH, DROP, state="absent")
    assert (run.code, run.changed) == ("modified", True)
    assert [change["key"] for change in run.details["done"]] == ["in DROP"]
    left = [(rule["type"], rule.get("macro")) for rule in pve.simulated._fw()["cluster"]["rules"]]
    assert left == [("out", None), ("in", "HTTPS"), ("in", "SSH")]
    assert pve("firewall_rule", SSH, DROP, state="absent").changed
    assert len(pve.simulated._fw()["cluster"]["rules"]) == 2


@pytest.mark.parametrize(
    ("scope", "path", "options", "other"),
    [
        (
            {},
            "/cluster/firewall/options",
            {"enable": True, "policy_in": "DROP", "log_ratelimit": {"burst": 9, "enable": True}},
            {"policy_in": "ACCEPT", "ebtables": False},
        ),
        (
            {"node": "pve1"},
            "/nodes/pve1/firewall/options",
            {"enable": False, "nf_conntrack_max": 500000},
            {"nosmurfs": True},
        ),
        (
            {"node": "pve1", "vmid": 101},
            "/nodes/pve1/lxc/101/firewall/options",
            {"enable": True, "ipfilter": True},
            {"dhcp": True},
        ),
    ],
)
def test_the_options_of_a_firewall(
    pve: Pve, scope: dict[str, t.Any], path: str, options: dict[str, t.Any], other: dict[str, t.Any]
) -> None:
    for declared in (options, other, options):
        run = pve.converge("firewall_options", declared, scope=scope)
        assert [(method, where) for method, where, _params in run.writes] == [("PUT", path)]
    assert pve("firewall_options", options, scope=scope).asked == [f"GET {path}"]
    assert pve.converge("firewall_options", {}, scope=scope, state="absent").changed


def test_the_entries_of_a_set_are_changed_one_by_one(pve: Pve) -> None:
    pve("firewall_ipset", {"name": "trusted", "cidrs": ["10.0.0.0/8", "10.6.6.6", "192.0.2.1"]})
    run = pve.converge(
        "firewall_ipset", {"name": "trusted", "cidrs": ["10.0.0.0/8", {"cidr": "10.6.6.6", "nomatch": True}]}
    )
    base = "/cluster/firewall/ipset/trusted"
    assert run.writes == [("DELETE", f"{base}/192.0.2.1", {}), ("PUT", f"{base}/10.6.6.6", {"nomatch": "1"})]
    # A set whose entries are not declared keeps them.
    assert pve("firewall_ipset", {"name": "trusted"}).asked == ["GET /cluster/firewall/ipset"]


# -------------------------------------------------------------------------------------------------------- applying


def test_sdn_is_applied_once_at_the_end(pve: Pve) -> None:
    run = pve.converge("sdn_zone", *({**ZONE, "zone": name} for name in ("aa", "bb", "cc")))
    assert [f"{method} {path}" for method, path, _params in run.writes] == [
        *["POST /cluster/sdn/zones"] * 3,
        "PUT /cluster/sdn",
    ]
    assert run.asked[-2:] == [polls(), "GET /cluster/sdn/zones"]
    assert keys(run)[-1] == ("apply cluster/sdn", "pending", "applied", "PUT /cluster/sdn")
    assert ":reloadnetworkall:" in run.result["tasks"][0]["upid"]


def test_it_need_not_be_applied(pve: Pve) -> None:
    run = pve.apply("sdn_zone", ZONE, apply=False)
    assert [entry["effect"] for entry in run.result["plan"]] == ["pending"]
    again = pve("sdn_zone", ZONE, apply=False)
    assert (again.changed, again.writes) == (False, [])
    assert again.result["notes"] == ["Changes wait until PUT /cluster/sdn applies them."]
    assert pve.simulated.sdn_running["zones"] == {}


@pytest.mark.parametrize("state", ["present", "absent"])
def test_an_interrupted_run_is_finished_by_the_next(pve: Pve, impatient: None, state: str) -> None:
    if state == "absent":
        pve("sdn_zone", ZONE)
    on_request(pve.cluster, "PUT", "/cluster/sdn", reset)
    run = pve("sdn_zone", ZONE, state=state)
    assert (run.code, run.changed) == ("unreachable", True)
    assert len(run.details["done"]) == 1
    run = pve.converge("sdn_zone", ZONE, state=state)
    assert [f"{method} {path}" for method, path, _params in run.writes] == ["PUT /cluster/sdn"]
    assert pve.simulated.sdn == pve.simulated.sdn_running


def test_pending_changes_of_others_are_not_applied(pve: Pve) -> None:
    pve("sdn_zone", ZONE)
    pve("sdn_zone", {**ZONE, "zone": "other"}, apply=False)
    assert pve.apply("sdn_zone", ZONE).writes == []
    pve("network_interface", BRIDGE, node="pve1")
    pve("network_interface", {**BRIDGE, "iface": "vmbr2", "cidr": "10.2.0.1/24"}, node="pve1", apply=False)
    assert pve.apply("network_interface", BRIDGE, node="pve1").writes == []


def test_a_change_of_an_applied_object_waits_and_is_applied(pve: Pve) -> None:
    pve("sdn_zone", {**ZONE, "mtu": 1400, "nodes": ["pve1"]})
    pve("sdn_zone", {**ZONE, "nodes": ["pve1", "pve2"]}, apply=False)
    run = pve.converge("sdn_zone", {**ZONE, "nodes": ["pve2", "pve1"]})
    assert [path for _method, path, _params in run.writes] == ["/cluster/sdn"]
    assert pve.simulated.sdn_running["zones"]["lab"].get("mtu") is None


def test_the_network_of_a_node_is_reloaded_once(pve: Pve) -> None:
    run = pve.converge("network_interface", BRIDGE, {**BRIDGE, "iface": "vmbr2", "cidr": "10.2.0.1/24"}, node="pve2")
    assert [f"{method} {path}" for method, path, _params in run.writes] == [
        *["POST /nodes/pve2/network"] * 2,
        "PUT /nodes/pve2/network",
    ]
    assert ":srvreload:networking:" in run.result["tasks"][0]["upid"]
    assert "vmbr2" in pve.simulated.interfaces["pve2"]


def test_an_update_of_an_interface_has_its_address(pve: Pve) -> None:
    """Proxmox takes an interface for one without an address when the request has none."""
    pve("network_interface", BRIDGE, node="pve1")
    run = pve.converge("network_interface", {**BRIDGE, "mtu": 9000}, node="pve1")
    assert run.writes[0][2] == {"type": "bridge", "autostart": "1", "cidr": "10.1.0.1/24", "mtu": "9000"}
    assert pve.simulated.interfaces["pve1"]["vmbr1"]["cidr"] == "10.1.0.1/24"


@pytest.mark.parametrize("edited", [{"mtu": 9000}, {"cidr": "10.1.0.9/24"}, {"comments": "x"}, {"autostart": False}])
def test_a_reload_that_was_interrupted_is_made_by_the_next_run(pve: Pve, edited: dict[str, t.Any]) -> None:
    pve("network_interface", BRIDGE, node="pve1")
    declared = {**BRIDGE, **edited}
    pve("network_interface", declared, node="pve1", apply=False)
    run = pve.converge("network_interface", declared, node="pve1")
    assert [f"{method} {path}" for method, path, _params in run.writes] == ["PUT /nodes/pve1/network"]
    assert pve.simulated.interfaces_new == {}


def test_an_interface_of_the_machine_is_configured_and_unconfigured(pve: Pve) -> None:
    nic = {"iface": "eno2", "type": "eth", "autostart": True, "mtu": 9000}
    assert not pve.apply("network_interface", {"iface": "eno2"}, node="pve1", state="absent").changed
    run = pve.converge("network_interface", nic, node="pve1")
    assert [method for method, _path, _params in run.writes] == ["PUT", "PUT"]
    assert pve.converge("network_interface", {"iface": "eno2"}, node="pve1", state="absent").changed
    assert "eno2" in pve.simulated.interfaces["pve1"]


@pytest.mark.parametrize(
    ("there", "declared", "field"),
    [
        ({"method": "dhcp"}, {}, "cidr"),
        ({"method6": "auto", "cidr": "10.1.0.1/24"}, {"cidr": "10.1.0.1/24"}, "cidr6"),
        ({"method6": "dhcp", "method": "dhcp"}, {"cidr6": "fd00::1/64"}, "cidr"),
    ],
)
def test_an_interface_does_not_lose_the_address_that_it_is_given(
    pve: Pve, there: dict[str, str], declared: dict[str, str], field: str
) -> None:
    bridge = {"iface": "vmbr1", "type": "bridge", **declared}
    pve("network_interface", bridge, node="pve1")
    pve.cluster.call(lambda cluster: cluster.interfaces["pve1"]["vmbr1"].update(there))
    assert pve.apply("network_interface", {**bridge, **declared}, node="pve1").writes == []
    run = pve.refused("would_lose_address", "network_interface", {**bridge, "comments": "Guests"}, node="pve1")
    assert f"Declare {field}," in run.result["failure"]["hint"]
    static = {"cidr": "10.1.0.2/24", "cidr6": "fd00::2/64", "comments": "Guests"}
    pve.converge("network_interface", {**bridge, **static}, node="pve1")


def test_a_subnet_of_a_network_that_is_not_there_yet_can_be_planned(pve: Pve) -> None:
    run = pve.check("sdn_subnet", {"subnet": "10.9.0.0/24"}, scope={"vnet": "web"})
    assert not run.result.get("failed"), run.result["msg"]
    assert run.changed
    run = pve.check("firewall_rule", HTTPS, scope={"group": "web"})
    assert not run.result.get("failed"), run.result["msg"]
    assert run.changed
    run = pve("firewall_rule", HTTPS, scope={"group": "web"})
    assert "no such security group 'web'" in run.result["msg"]


# ------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("kind", "declared", "field", "text"),
    [
        ("storage", {"type": "dir", "path": "/x"}, "storage", "it is missing"),
        ("storage", {"storage": "x1", "path": "/x"}, "type", "it is missing; there are btrfs"),
        ("storage", {"storage": "x1", "type": "dir"}, "path", "it is missing"),
        ("storage", {"storage": "x1", "type": "dirr"}, "type", "'dirr' is none of btrfs"),
        ("storage", {**STORAGE, "pool": "tank"}, "pool", "the type dir does not have it"),
        ("storage", {**STORAGE, "pat": "/x"}, "pat", "there is no such field; the type dir has bwlimit"),
        ("storage", {**STORAGE, "content": ["isos"]}, "content", "'isos' is none of images"),
        (
            "storage",
            {**STORAGE, "prune-backups": {"keep-dayly": 1}},
            "prune-backups",
            "'keep-dayly' is none of its keys",
        ),
        ("storage", {**STORAGE, "prune-backups": {"keep-daily": -1}}, "prune-backups", "keep-daily: -1 is less than 0"),
        ("storage", {**STORAGE, "nodes": ["pve 1"]}, "nodes", "is not the name of a node"),
        ("storage", {**STORAGE, "shared": "maybe"}, "shared", "true or false is wanted"),
        ("storage", {**STORAGE, "authsupported": "x"}, "authsupported", "no type of storage takes it"),
        ("storage", {**STORAGE, "storage": "local", "nodes": ["pve1"]}, "nodes", "on every node"),
        ("user", {"userid": "ci"}, "userid", "is not a user with its realm"),
        ("user", {"userid": "root@pam", "comment": "x"}, "userid", "it belongs to Proxmox"),
        ("role", {"roleid": "pveThing"}, "roleid", "it belongs to Proxmox"),
        ("role", {"roleid": "X", "privs": ["audit"]}, "privs", "is not a privilege"),
        ("acl", {"path": "/", "roles": ["X"]}, "users", "one of users, groups, tokens is wanted"),
        ("acl", {"path": "/", "roles": ["X"], "users": ["root@pam"]}, "users", "always an Administrator"),
        ("notification_matcher", {"name": "m1", "match-severity": ["warning", "error"]}, "match-severity", "as one"),
        (
            "notification_matcher",
            {"name": "m1", "match-field": ["exact:type=vzdump", "regex:type=vz.*", "exact:type=fencing"]},
            "match-field",
            "these cannot together",
        ),
        ("backup_job", {"id": "x1", "schedule": "1:00"}, "vmid", "one of vmid, all, pool, exclude is wanted"),
        ("backup_job", {"id": "x1", "all": True}, "schedule", "it is missing"),
        ("backup_job", {"id": "x1", "all": True, "schedule": "1", "protected": True}, "protected", "it needs storage"),
        ("backup_job", {"id": "x1", "all": True, "starttime": "1:00"}, "starttime", "deprecated"),
        (
            "ha_rule",
            {"rule": "x1", "type": "node-affinity", "resources": ["ct:1x"], "nodes": ["a"]},
            "resources",
            "guest",
        ),
        ("ha_resource", {"sid": "101"}, "sid", "is not a guest such as ct:101"),
        (
            "storage",
            {"storage": "x1", "type": "lvmthin", "vgname": "pve", "thinpool": "data", "content": "iso"},
            "content",
            "none",
        ),
        ("user", {"userid": "ci@pve", "keys": "x!oath"}, "keys", "Proxmox sets it by itself"),
        (
            "backup_job",
            {"id": "x1", "schedule": "1", "pool": "a", "exclude": [101]},
            "exclude",
            "does not go with pool",
        ),
        ("backup_job", {"id": "x1", "schedule": "1", "all": True, "vmid": [101]}, "all", "does not go with vmid"),
        ("sdn_zone", {"zone": "x1", "type": "simple", "dnszone": "a.b"}, "dnszone", "it needs dns"),
        ("firewall_rule", {"type": "group", "action": "web", "log": "info"}, "log", "the type group does not have it"),
        (
            "network_interface",
            {"node": "pve1", "iface": "bond0", "type": "bond", "slaves": ["eno2"], "bond-primary": "eno2"},
            "bond-primary",
            "goes with bond_mode active-backup only",
        ),
        (
            "network_interface",
            {"node": "pve1", **BRIDGE, "bridge_vids": [5]},
            "bridge_vids",
            "bridge_vlan_aware true only",
        ),
        (
            "network_interface",
            {"node": "pve1", **BRIDGE, "slaves": ["eno2"]},
            "slaves",
            "the type bridge does not have it",
        ),
        ("sdn_zone", {"zone": "toolongname", "type": "simple"}, "zone", "at most 8 characters"),
        ("sdn_subnet", {"vnet": "web", "subnet": "10.0.0.1/24"}, "subnet", "is not a network"),
        ("sdn_subnet", {"subnet": "10.0.0.0/24"}, "vnet", "it is missing"),
        ("firewall_alias", {"name": "x1", "cidr": "10.0.0.0.1"}, "cidr", "is not an IP address or network"),
        ("firewall_alias", {"name": "x1", "cidr": "10.0.0.1", "node": "pve1"}, "node", "does not go with the cluster"),
        ("firewall_options", {"node": "pve1", "policy_in": "DROP"}, "policy_in", "this kind does not have it"),
        ("firewall_rule", {"type": "inn", "action": "DROP"}, "type", "'inn' is none of in, out, forward, group"),
        ("network_interface", {"node": "pve1", **BRIDGE, "cidr": "10.0.0.1"}, "cidr", "with its prefix length"),
        ("network_interface", {"node": "pve1", **BRIDGE, "address": "10.0.0.1"}, "address", "cidr says it"),
        ("network_interface", {"node": "pve1", **BRIDGE, "mtu": "big"}, "mtu", "a whole number is wanted"),
        ("notification_target", {"name": "x1", "type": "fax"}, "type", "'fax' is none of gotify"),
        ("replication_job", {"id": "101", "target": "pve2"}, "id", "such as 101-0"),
        ("token", {"userid": "ci@pve", "tokenid": "x"}, "tokenid", "does not match"),
        ("realm", {"realm": "x1", "type": "ldap", "server1": "a", "base_dn": "b"}, "user_attr", "it is missing"),
    ],
)
def test_what_cannot_be_right_is_refused_without_a_request(
    pve: Pve, kind: str, declared: dict[str, t.Any], field: str, text: str
) -> None:
    run = pve.refused("invalid_field", kind, declared)
    assert run.asked == []
    assert (run.details["kind"], run.details["field"]) == (kind, field)
    assert text in run.result["msg"]
    assert run.details["object"] in run.result["msg"]


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"nothing": True}, "object"),
        ({"objects": []}, "objects"),
        ({"owner": "git ops"}, "owner"),
        ({"exclusive": True}, "owner"),
        ({"exclusive": True, "owner": "gitops", "state": "absent"}, "exclusive"),
        ({"node": "pve1"}, "node"),
        ({"scope": {"vmid": 101}}, "scope"),
    ],
)
def test_options_that_cannot_be_right(pve: Pve, options: dict[str, t.Any], option: str) -> None:
    given = () if "objects" in options or "nothing" in options else ({"groupid": "ops"},)
    run = pve.refused("invalid_option", "group", *given, **options)
    assert (run.asked, run.details["option"]) == ([], option)


@pytest.mark.parametrize(
    ("kind", "declared", "field"),
    [
        ("acl", {"path": "/", "users": ["ci@pve"]}, "roles"),
        ("firewall_rule", {"comment": "x"}, "type"),
        ("firewall_rule", {"type": "in"}, "action"),
        ("storage", {"path": "/x"}, "storage"),
    ],
)
def test_what_is_to_be_absent_has_to_be_said(pve: Pve, kind: str, declared: dict[str, t.Any], field: str) -> None:
    assert pve.refused("invalid_field", kind, declared, state="absent").details["field"] == field


@pytest.mark.parametrize(
    ("kind", "declared"),
    [
        ("user", {"userid": "root@pam"}),
        ("storage", {"storage": "local"}),
        ("realm", {"realm": "pam"}),
        ("realm", {"realm": "pve"}),
        ("sdn_ipam", {"ipam": "pve"}),
    ],
)
def test_what_is_always_there_is_not_removed(pve: Pve, kind: str, declared: dict[str, t.Any]) -> None:
    run = pve.refused("invalid_field", kind, declared, state="absent")
    assert "it is built in" in run.result["msg"]
    assert run.asked == []


def test_what_is_always_there_is_no_stray(pve: Pve) -> None:
    """An owner who declares it no more leaves it as it is."""
    pve.converge("realm", {"realm": "pam", "type": "pam", "comment": "Staff"}, owner="site")
    run = pve.converge("realm", owner="site", exclusive=True, objects=[])
    assert run.writes == []


def test_nothing_is_declared_twice(pve: Pve) -> None:
    run = pve.refused(
        "invalid_field", "firewall_alias", *({"name": name, "cidr": "10.0.0.1"} for name in ("DNS", "dns"))
    )
    assert "dns: it is declared twice" in run.result["msg"]
    pve.refused("invalid_field", "firewall_rule", HTTPS, dict(HTTPS))


def test_an_entry_is_not_declared_with_and_without_propagation(pve: Pve) -> None:
    pve("user", {"userid": "ci@pve"}, {"userid": "ada@pve"})
    entry = {"path": "/vms", "roles": ["PVEAuditor", "PVEVMUser"], "users": ["ci@pve"]}
    other = {"path": "vms/", "roles": ["PVEAuditor"], "users": ["ada@pve", "ci@pve"]}
    run = pve.refused("invalid_field", "acl", entry, {**other, "propagate": False})
    assert run.details["field"] == "propagate"
    assert "/vms: propagate: user ci@pve is declared with both for PVEAuditor" in run.result["msg"]
    # Saying the same twice is no contradiction, nor is it one that both have to go.
    pve.converge("acl", entry, other)
    pve.converge("acl", entry, {**other, "propagate": False}, state="absent")


def test_an_entry_is_an_object_of_its_own(pve: Pve) -> None:
    pve("user", {"userid": "ci@pve"}, {"userid": "ada@pve"})
    auditors = {"path": "/", "roles": ["PVEAuditor"], "users": ["ada@pve", "ci@pve"]}
    pve("acl", auditors)
    run = pve.converge("acl", {**auditors, "users": ["ada@pve"]})
    assert (run.changed, run.result["objects"]) == (False, [{**auditors, "users": ["ada@pve"]}])
    assert pve.converge("acl", {**auditors, "users": ["ci@pve"]}, state="absent").changed


def test_an_error_of_proxmox_is_told_with_what_was_done(pve: Pve) -> None:
    run = pve("user", {"userid": "a1@pve"}, {"userid": "a2@pve", "groups": ["none"]}, {"userid": "a3@pve"})
    assert run.code == "api_error"
    assert "no such group 'none'" in run.result["msg"]
    assert [change["key"] for change in run.details["done"]] == ["a1@pve"]
    assert run.changed
    assert "a3@pve" not in pve.simulated.user_cfg


def test_somebody_else_has_changed_the_file(pve: Pve, impatient: None) -> None:
    pve("storage", STORAGE)

    def edit(cluster: t.Any, _request: t.Any) -> None:
        cluster.storages["tank"]["nodes"] = "pve1"

    on_request(pve.cluster, "PUT", "/storage/backup", edit)
    run = pve("storage", {**STORAGE, "shared": True})
    assert not run.result.get("failed"), run.result["msg"]
    assert [status.status for status in run.requests if status.method == "PUT"] == [500, 200]
    assert pve.simulated.storages["tank"]["nodes"] == "pve1"


# ------------------------------------------------------------------------------------------------------ privileges


@pytest.mark.parametrize(
    ("kind", "declared", "options", "held", "missing"),
    [
        ("storage", STORAGE, {}, {"/storage": ["Datastore.Audit"]}, ("/storage", "Datastore.Allocate")),
        (
            "storage",
            STORAGE,
            {},
            {"/storage": ["Datastore.Allocate"]},
            ("/storage/backup", "Datastore.Audit|Datastore.AllocateSpace"),
        ),
        ("pool", {"poolid": "shop"}, {}, {"/pool": ["Pool.Audit"]}, ("/pool/shop", "Pool.Allocate")),
        (
            "pool",
            {"poolid": "shop", "vms": [101]},
            {},
            {"/pool": ["Pool.Audit", "Pool.Allocate"]},
            ("/vms/101", "VM.Allocate|Permissions.Modify"),
        ),
        ("user", {"userid": "x1@pve"}, {}, {"/access": ["User.Modify"]}, ("/access/realm/pve", "Realm.AllocateUser")),
        ("group", {"groupid": "ops"}, {}, {"/access": ["Sys.Audit"]}, ("/access/groups", "Group.Allocate")),
        ("role", {"roleid": "X"}, {}, {"/access": ["Sys.Audit"]}, ("/access", "Sys.Modify")),
        (
            "acl",
            {"path": "/vms/101", "roles": ["PVEAuditor"], "users": ["x@pve"]},
            {},
            {"/access": ["Sys.Audit"]},
            ("/vms/101", "Permissions.Modify|VM.Allocate"),
        ),
        (
            "token",
            {"userid": "x@pve", "tokenid": "x1"},
            {},
            {"/access": ["Sys.Audit"]},
            ("/access/groups", "User.Modify"),
        ),
        # A token is not its user (userid-param of PVE/RPCEnvironment.pm).
        (
            "token",
            {"userid": "ops@pve", "tokenid": "x1"},
            {},
            {"/vms": ["VM.Audit"]},
            ("/access/groups", "User.Modify"),
        ),
        (
            "realm",
            {"realm": "x1", "type": "openid", "issuer-url": "x", "client-id": "y"},
            {},
            {"/access": ["Sys.Audit"]},
            ("/access/realm", "Realm.Allocate"),
        ),
        ("backup_job", {"id": "x1", "schedule": "1:00", "all": True}, {}, {"/": ["Sys.Audit"]}, ("/", "Sys.Modify")),
        (
            "backup_job",
            {"id": "x1", "schedule": "1:00", "all": True, "fleecing": "1,storage=tank"},
            {},
            {"/": ["Sys.Audit", "Sys.Modify"], "/storage/local": ["Datastore.Allocate"]},
            ("/storage/tank", "Datastore.AllocateSpace"),
        ),
        (
            "backup_job",
            {"id": "x1", "schedule": "1:00", "all": True},
            {},
            {"/": ["Sys.Audit", "Sys.Modify"], "/storage": ["Datastore.Audit"]},
            ("/storage/local", "Datastore.Allocate"),
        ),
        (
            "backup_job",
            {"id": "x1", "schedule": "1:00", "all": True, "script": "/x"},
            {},
            {"/": ["Sys.Audit", "Sys.Modify"]},
            (None, None),
        ),
        (
            "replication_job",
            {"id": "101-0", "target": "pve2"},
            {},
            {"/vms": ["VM.Audit"]},
            ("/vms/101", "VM.Replicate"),
        ),
        ("ha_resource", {"sid": "ct:101"}, {}, {"/": ["Sys.Audit"]}, ("/", "Sys.Console")),
        ("sdn_zone", ZONE, {}, {"/sdn/zones": ["SDN.Allocate"]}, ("/sdn", "SDN.Allocate")),
        ("sdn_vnet", {"vnet": "web", "zone": "lab"}, {}, {"/sdn": ["SDN.Audit"]}, ("/sdn/zones/lab", "SDN.Allocate")),
        (
            "firewall_rule",
            HTTPS,
            {"scope": {"node": "pve1", "vmid": 101}},
            {"/vms": ["VM.Audit"]},
            ("/vms/101", "VM.Config.Network"),
        ),
        ("network_interface", BRIDGE, {"node": "pve1"}, {"/sdn": ["SDN.Use"]}, ("/nodes/pve1", "Sys.Modify")),
        (
            "notification_matcher",
            {"name": "x1"},
            {},
            {"/mapping": ["Mapping.Audit"]},
            ("/mapping/notifications", "Mapping.Modify"),
        ),
        (
            "notification_target",
            {"name": "mail", "type": "sendmail", "mailto": ["ops@example.com"]},
            {},
            {"/mapping/notifications": ["Mapping.Modify"], "/": ["Sys.Modify"]},
            ("/", "Sys.AccessNetwork|Sys.Audit"),
        ),
    ],
)
def test_what_may_not_be_done_is_told_before_the_first_write(
    pve: Pve,
    kind: str,
    declared: dict[str, t.Any],
    options: dict[str, t.Any],
    held: dict[str, list[str]],
    missing: tuple[str | None, str | None],
) -> None:
    pve.cluster.call("add_user", "x@pve")
    pve.as_token(held)
    run = pve.refused("permission_denied", kind, declared, **options)
    assert missing in [(entry["path"], entry["privilege"]) for entry in run.details["missing"]]


@pytest.mark.parametrize(
    ("kind", "declared", "options", "held"),
    [
        ("storage", STORAGE, {}, {"/storage": ["Datastore.Audit", "Datastore.Allocate"]}),
        (
            "pool",
            {"poolid": "shop", "vms": [101]},
            {},
            {"/pool": ["Pool.Audit", "Pool.Allocate"], "/vms/101": ["VM.Allocate"]},
        ),
        (
            "user",
            {"userid": "x1@pve"},
            {},
            {"/access/realm/pve": ["Realm.AllocateUser"], "/access/groups": ["User.Modify"]},
        ),
        ("group", {"groupid": "ops"}, {}, {"/access/groups": ["Group.Allocate"]}),
        ("role", {"roleid": "X", "privs": ["VM.Audit"]}, {}, {"/access": ["Sys.Modify"]}),
        (
            "acl",
            {"path": "/vms/101", "roles": ["PVETemplateUser"], "users": ["x@pve"]},
            {},
            {"/vms": ["Permissions.Modify", "VM.Clone", "VM.Audit"]},
        ),
        (
            "backup_job",
            {"id": "x1", "schedule": "1:00", "all": True, "storage": "local"},
            {},
            {"/": ["Sys.Audit", "Sys.Modify"], "/storage": ["Datastore.Allocate"]},
        ),
        ("ha_resource", {"sid": "ct:101"}, {}, {"/": ["Sys.Audit", "Sys.Console"]}),
        ("sdn_zone", ZONE, {}, {"/sdn": ["SDN.Allocate"]}),
        (
            "firewall_rule",
            HTTPS,
            {"scope": {"node": "pve1", "vmid": 101}},
            {"/vms/101": ["VM.Audit", "VM.Config.Network"]},
        ),
        ("network_interface", BRIDGE, {"node": "pve1"}, {"/sdn": ["SDN.Use"], "/nodes/pve1": ["Sys.Modify"]}),
        ("network_interface", {"iface": "eno1.7", "type": "vlan"}, {"node": "pve1"}, {"/nodes/pve1": ["Sys.Modify"]}),
        ("notification_matcher", {"name": "x1"}, {}, {"/mapping/notifications": ["Mapping.Modify"]}),
        *(
            (
                "notification_target",
                {"name": "mail", "type": "sendmail", "mailto": ["ops@example.com"]},
                {},
                {"/mapping/notifications": ["Mapping.Modify"], "/": privileges},
            )
            for privileges in (["Sys.AccessNetwork"], ["Sys.Audit", "Sys.Modify"])
        ),
    ],
)
def test_least_privileges_suffice(
    pve: Pve, kind: str, declared: dict[str, t.Any], options: dict[str, t.Any], held: dict[str, list[str]]
) -> None:
    pve.cluster.call("add_user", "x@pve")
    pve.as_token(held)
    assert pve.converge(kind, declared, **options).changed
    names = {name: value for name, value in declared.items() if name not in ("vms", "storage") or kind == "storage"}
    absent = names if kind != "backup_job" else {"id": "x1"}
    assert pve.converge(kind, absent, **options, state="absent").changed


def test_who_may_change_the_users_of_some_groups(pve: Pve) -> None:
    """All groups that are given have to be among them, and a user that is there has to be in one."""
    for name in ("web", "db", "ops"):
        assert pve("group", {"groupid": name}).changed
    realm = {"/access/realm/pve": ["Realm.AllocateUser"]}
    pve.as_token({**realm, "/access/groups/web": ["User.Modify"], "/access/groups/db": ["User.Modify"]})
    user = {"userid": "x1@pve", "groups": ["web", "db"]}
    assert pve.converge("user", user).changed
    assert pve.converge("user", {**user, "comment": "One of ours"}).changed
    token = {"userid": "x1@pve", "tokenid": "t1"}
    assert pve.converge("token", token).changed
    assert pve.converge("token", token, state="absent").changed
    for refused in ({"userid": "x2@pve"}, {"userid": "x2@pve", "groups": ["web", "ops"]}, {**user, "groups": ["ops"]}):
        run = pve.refused("permission_denied", "user", refused)
        assert "User.Modify" in {entry["privilege"] for entry in run.details["missing"]}
    assert pve.converge("user", {**user, "comment": "One of ours", "groups": ["db"]}).changed
    # Without a group, nobody of them could tell whether it is gone or not to be seen.
    assert pve.converge("user", {"userid": "x1@pve", "groups": ["db"]}, state="absent").changed


def test_a_user_makes_tokens_of_its_own(pve: Pve) -> None:
    pve.as_token({"/vms": ["VM.Audit"]})
    for name in ("api_token_id", "api_token_secret"):
        pve.options.pop(name)
    pve.options["api_password"] = "secret"
    assert pve.converge("token", {"userid": "ops@pve", "tokenid": "own"}).changed
    assert pve.converge("token", {"userid": "ops@pve", "tokenid": "own"}, state="absent").changed


def test_what_may_not_be_seen_is_not_said_to_be_absent(pve: Pve) -> None:
    pve("storage", STORAGE)
    pve.as_token({"/vms": ["VM.Audit"]})
    run = pve.refused("permission_denied", "storage", {"storage": "backup"}, state="absent")
    assert run.details["missing"][0]["path"] == "/storage/backup"
    pve.cluster.call(lambda cluster: cluster.grant("ops@pve", "/storage", "Datastore.Audit"))
    pve.cluster.call(lambda cluster: cluster.storages.pop("backup"))
    run = pve("storage", {"storage": "backup"}, state="absent")
    assert (run.asked, run.changed) == (["GET /storage", PERMISSIONS], False)


def test_a_new_token_has_what_it_was_given(pve: Pve) -> None:
    pve("role", {"roleid": "Deploy", "privs": ["VM.Audit", "VM.PowerMgmt"]})
    pve("user", {"userid": "ci@pve"})
    [made] = pve("token", {"userid": "ci@pve", "tokenid": "deploy"}).result["tokens"]
    pve("acl", {"path": "/vms", "roles": ["Deploy"], "users": ["ci@pve"], "tokens": ["ci@pve!deploy"]})
    held = pve.cluster.call(lambda cluster: cluster.effective("ci@pve!deploy", "/vms/101"))
    assert set(held) == {"VM.Audit", "VM.PowerMgmt"}
    pve.options.update(api_user="ci@pve", api_token_id="deploy", api_token_secret=made["value"])
    assert pve("acl", {"path": "/vms", "roles": ["Deploy"], "users": ["ci@pve"]}).code == "permission_denied"


def test_check_mode_of_everything_at_once_changes_nothing(pve: Pve) -> None:
    before = pve.cluster.call(everything)
    run = pve.check("firewall_ipset", {"name": "trusted", "cidrs": ["10.0.0.0/8"]}, {"name": "more"})
    assert run.changed
    assert pve.cluster.call(everything) == before
