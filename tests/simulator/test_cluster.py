# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated cluster answers as a Proxmox VE 9.2 was recorded to answer."""

from __future__ import annotations

import json
import time
import typing as t
import urllib.error
from pathlib import Path

import pytest
from ansible_collections.lxcri.proxmox.tests.simulator.plugin import Process, certificates, cluster, simulator
from ansible_collections.lxcri.proxmox.tests.simulator.replay import ARCHIVE, SECRET, Client, comparable, records
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator
from fakepve.shapes import PRIVILEGES

__all__ = ["certificates", "cluster", "simulator"]

NODE = "/nodes/pve1"
FAST = [{"lag": 0, "time_scale": 0.005}]
TEMPLATE = "local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst"


def add(cluster: Simulator, vmid: int, status: str = "stopped", **config: t.Any) -> None:
    """A container such as those of the records."""
    base = {"hostname": f"ct{vmid}", "memory": 64, "swap": 0, "ostype": "unmanaged", "arch": "amd64"}
    base |= {"unprivileged": 1, "rootfs": f"local-zfs:subvol-{vmid}-disk-0,size=1G"}
    cluster.call("add_ct", vmid, node="pve1", status=status, config={**base, **config}, defaults=False)


@pytest.fixture
def client(cluster: Simulator) -> t.Iterator[Client]:
    """root@pam, with the archive that the records use."""
    cluster.call("store_file", "local", ARCHIVE, 1111530, "vztmpl")
    with Client(cluster) as client:
        yield client


# ------------------------------------------------------------------- replays


@pytest.mark.parametrize("cluster", FAST, indirect=True)
def test_values(cluster: Simulator, client: Client) -> None:
    """What is stored, and in which form, on a stopped container."""
    for vmid in (101, 102, 103):
        add(cluster, vmid)
    found = {}
    for record in records("values"):
        vmid, key = int(record["path"].split("/")[4]), record["key"]

        def prepare(c: t.Any, vmid: int = vmid, key: str = key, record: t.Any = record) -> None:
            config = c.ct(vmid).config
            if "before" not in record or key in ("delete", "revert"):
                return
            config.pop(key, None)
            if record["before"] is not None:
                config[key] = record["before"]
            elif key.startswith("mp"):
                for unused in [name for name in config if name.startswith("unused")]:
                    del config[unused]
                for volid in c.volumes_of(vmid):
                    if volid not in str(config):
                        c.remove_volume(volid)

        # These build on one another.
        if not "values-373" <= record["id"] <= "values-385":
            cluster.call(prepare)
        differences = client.differences(record)
        if "read" in record:
            config = client.get(f"{NODE}/lxc/{vmid}/config")
            for name, value in {key: record["read"], **record.get("others", {})}.items():
                if comparable(config.get(name)) != comparable(value):
                    differences.append({name: config.get(name), "recorded": value})
        if differences:
            found[record["id"]] = differences
    assert found == {}


@pytest.mark.parametrize("cluster", FAST, indirect=True)
def test_hotplug(cluster: Simulator, client: Client) -> None:
    """What a running container takes at once, what waits for a stop, and what the stop makes of it."""
    net0 = "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:01:10,ip=manual,type=veth"
    add(cluster, 111, "running", tags="base", features="nesting=1", net0=net0)
    path, found = f"{NODE}/lxc/111", {}
    for record in records("hotplug"):
        differences = client.differences(record)
        time.sleep(0.02 if "live" not in record else 0)
        states = {"set": client.get(f"{path}/config"), "live": client.get(f"{path}/config", current=1)}
        for state, config in states.items():
            for key, value in record.get(state, {}).items():
                if comparable(config.get(key)) != comparable(value):
                    differences.append({state: config.get(key), "recorded": value})
        pending = {entry["key"]: entry for entry in client.get(f"{path}/pending")}
        assert pending["digest"]["value"] == states["set"]["digest"]
        for entry in record.get("pending", []):
            if comparable(pending.get(entry["key"])) != comparable(entry):
                differences.append({"pending": pending.get(entry["key"]), "recorded": entry})
        if "config" in record:
            stopped = {key: value for key, value in states["live"].items() if key != "digest"}
            assert stopped == record["config"]
        if differences:
            found[record["id"]] = differences
    assert found == {}


@pytest.mark.parametrize("cluster", FAST, indirect=True)
def test_errors(cluster: Simulator, client: Client) -> None:
    """What is refused, by the answer or in the task."""
    add(cluster, 200)
    add(cluster, 201, "running")
    add(cluster, 202, protection=1)
    found = {}
    for record in records("errors"):
        if record["id"] == "errors-078":
            client.send("PUT", f"{NODE}/lxc/200/config", {"delete": "mp0"})
        differences = client.differences(record)
        if differences:
            found[record["id"]] = differences
    assert found == {}


@pytest.mark.parametrize("cluster", FAST, indirect=True)
def test_tasks(cluster: Simulator, client: Client) -> None:
    """One operation after the other: their tasks, those that they leave to others, and the configurations after."""
    cluster.call(lambda c: c.storages.update(zfs2={**c.storages["tank"], "volumes": {}}))
    recorded, archive, found = "local:backup/vzdump-lxc-400-2026_11_21-04_06_21.tar.zst", "", {}
    power = {"tasks-011": "stop", "tasks-013": "start", "tasks-061": ""}
    for original in records("tasks"):
        record = json.loads(json.dumps(original).replace(recorded, archive or recorded))
        if power.get(record["id"]):
            client.do("POST", f"{NODE}/lxc/400/status/{power[record['id']]}")
        before = cluster.call(lambda c: len(c.tasklog))
        differences = client.differences(record)
        time.sleep(0.02)
        if "task" in record:
            others = [[task["type"], task["id"]] for task in cluster.call(lambda c, n=before: c.tasklog[n + 1 :])]
            if others != record.get("others", []):
                differences.append({"others": others, "recorded": record.get("others", [])})
        elif "read" in record:
            data = client.get(record["path"], **record.get("params", {}))
            if isinstance(data, dict):
                data.pop("digest")
            if comparable(data) != comparable(record["read"]):
                differences.append({"read": data, "recorded": record["read"]})
        if record["id"] == "tasks-012":
            archive = client.get(f"{NODE}/storage/local/content", content="backup")[0]["volid"]
        if differences:
            found[record["id"]] = differences
    assert found == {}


@pytest.mark.parametrize("cluster", [{"lag": 0, "time_scale": 0}], indirect=True)
def test_permissions(cluster: Simulator, client: Client) -> None:
    """Which privilege a refusal names, and what only root@pam itself may do."""
    net0 = "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:06:00,type=veth"
    add(cluster, 600, net0=net0)
    cluster.call(lambda c: c.pools.update(p1=set()))
    cluster.call("add_user", "ci@pve")
    cluster.call("add_token", "root@pam!rt", SECRET)
    config = cluster.call(lambda c: dict(c.ct(600).config))
    clients: dict[str, Client] = {}

    def prepare(c: t.Any, token: str, privileges: list[str]) -> None:
        for other in [ct for ct in c.cts if ct.vmid != 600]:
            c._destroy_volumes(other)
            c._drop(other)
        ct = c.ct(600)
        ct.config.pop("lock", None)
        ct.config.update(config)
        ct.snapshots["s1"] = {"rootfs": ct.config["rootfs"], "net0": net0, "snaptime": 1}
        c.volume("local-zfs:subvol-600-disk-0")["size"] = 2**30
        ct.status = "stopped"
        if not token.startswith("root@pam"):
            c.acl.clear()
            c.grant("ci@pve", "/", *PRIVILEGES)
            c.add_token(token, SECRET, privsep=True, acl={"/": privileges} if privileges else {})

    found = {}
    for record in records("permissions"):
        token = record["auth"]
        cluster.call(prepare, token, PRIVILEGES if token == "ci@pve!full" else record.get("privileges", []))
        clients.setdefault(token, Client(cluster, token))
        differences = clients[token].differences(record)
        if differences:
            found[record["id"]] = differences
    for other in clients.values():
        other._http.close()
    assert found == {}


# ------------------------------------------------------------ /cluster/resources


@pytest.mark.parametrize("cluster", [{"lag": 0.3, "time_scale": 0}], indirect=True)
def test_the_resources_lag(cluster: Simulator, client: Client) -> None:
    """One just created is unknown and has no name; what else changes shows later (races-017)."""

    def shown(vmid: int) -> tuple[t.Any, t.Any]:
        entry = next(item for item in client.get("/cluster/resources", type="vm") if item["vmid"] == vmid)
        return entry["status"], entry.get("name")

    add(cluster, 100)
    client.do("POST", f"{NODE}/lxc", vmid=101, ostemplate=TEMPLATE, rootfs="local-zfs:1", hostname="new")
    client.do("POST", f"{NODE}/lxc/100/status/start")
    client.send("PUT", f"{NODE}/lxc/100/config", {"hostname": "other"})
    assert (shown(101), shown(100)) == (("unknown", None), ("stopped", "ct100"))
    assert client.get(f"{NODE}/lxc/100/status/current")["status"] == "running"
    time.sleep(0.35)
    assert (shown(101), shown(100)) == (("stopped", "new"), ("running", "other"))


def test_the_resources_hold_everything(client: Client) -> None:
    """Without `type` also pools, nodes and storages."""
    assert {entry["type"] for entry in client.get("/cluster/resources")} == {"pool", "node", "storage"}


# -------------------------------------------------------------------- access


def test_effective_permissions(cluster: Simulator) -> None:
    """reads-069, 103, 112, permissions-212, 217"""
    add(cluster, 800)
    cluster.call("add_user", "ro@pve", acl={"/vms/800": ["VM.Audit"]})
    cluster.call("add_token", "ro@pve!ta", SECRET, privsep=True)
    cluster.call("add_token", "ro@pve!tb", SECRET)
    cluster.call("add_token", "root@pam!rp", SECRET, privsep=True)
    cluster.call("add_token", "root@pam!rt", SECRET)
    seen = {}
    for token in ("ro@pve!ta", "ro@pve!tb", "root@pam!rp", "root@pam!rt"):
        with Client(cluster, token) as client:
            seen[token] = client.get("/access/permissions")
            assert (client.send("GET", f"{NODE}/lxc/800/config").status_code == 200) == bool(seen[token])
    assert seen["ro@pve!ta"] == seen["root@pam!rp"] == {}
    assert seen["ro@pve!tb"] == {"/vms/800": {"VM.Audit": 1}}
    paths = ["/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms", "/vms/800"]
    assert sorted(seen["root@pam!rt"]) == paths
    assert all(privileges == dict.fromkeys(PRIVILEGES, 1) for privileges in seen["root@pam!rt"].values())


def test_a_deeper_entry_replaces_the_inherited_one(cluster: Simulator) -> None:
    """As in Proxmox's access control."""
    cluster.call("add_user", "a@pve", acl={"/": ["VM.Audit", "VM.PowerMgmt"], "/vms/100": ["VM.Audit"]})
    cluster.call("grant", "a@pve", "/storage", "Datastore.Audit", propagate=False)
    paths = ("/vms/100", "/vms/101", "/storage/x")
    allowed = {path: sorted(cluster.call("effective", "a@pve", path)) for path in paths}
    assert allowed == {
        "/vms/100": ["VM.Audit"],
        "/vms/101": ["VM.Audit", "VM.PowerMgmt"],
        "/storage/x": ["VM.Audit", "VM.PowerMgmt"],
    }


@pytest.mark.parametrize("token", ["root@pam!none", ""])
def test_who_is_not_let_in(cluster: Simulator, token: str) -> None:
    """errors-233, 236"""
    with Client(cluster, "root@pam!none") as client:
        if not token:
            del client._http.headers["Authorization"]
        answer = client.send("GET", "/version")
    assert (answer.status_code, answer.content) == (401, b"")
    assert answer.reason == ("Authentication failed!" if token else "No ticket")


# --------------------------------------------------------------------- tasks


def test_lists_and_logs_of_tasks(cluster: Simulator, client: Client) -> None:
    """tasks-001, 066 to 071, errors-174"""
    add(cluster, 100)
    create = {"vmid": 101, "ostemplate": TEMPLATE, "rootfs": "local-zfs:1"}
    upid = client.send("POST", f"{NODE}/lxc", create).json()["data"]
    active = client.get(f"{NODE}/tasks", source="active")
    assert [(task["upid"], task["status"], task["saved"]) for task in active] == [(upid, "RUNNING", "0")]
    assert client.get(f"{NODE}/tasks") == []
    client.wait(upid)
    client.do("POST", f"{NODE}/lxc/100/snapshot", snapname="one")
    client.do("POST", f"{NODE}/lxc/100/snapshot", snapname="one")
    listed = client.get(f"{NODE}/tasks")
    assert [task["status"] for task in listed] == ["snapshot name 'one' already used", "OK", "OK"][: len(listed)]
    assert len(client.get(f"{NODE}/tasks", vmid=100)) == 2
    assert len(client.get(f"{NODE}/tasks", vmid=100, limit=1)) == 1
    assert len(client.get(f"{NODE}/tasks", typefilter="vzcreate")) == 1
    assert len(client.get(f"{NODE}/tasks", errors=1)) == 1
    assert client.get(f"{NODE}/tasks", since=int(time.time()) + 60) == []
    log = client.get(f"{NODE}/tasks/{upid}/log", limit=0)
    assert log[0]["t"].startswith("extracting archive '/var/lib/vz/template/cache/debian-13")
    assert (log[1]["t"][:18], log[-1]["t"]) == ("Total bytes read: ", "TASK OK")
    assert client.get(f"{NODE}/tasks/{upid}/log", start=1, limit=1) == log[1:2]


def test_one_after_the_other(cluster: Simulator, client: Client) -> None:
    """races-005, 006, 014, 015"""
    add(cluster, 100)
    cluster.call(lambda c: setattr(c.ct(100), "stop_secs", 5))
    for action in ("start", "stop"):
        tasks = [client.send("POST", f"{NODE}/lxc/100/status/{action}").json()["data"] for _try in range(3)]
        assert all(client.wait(upid)["exitstatus"] == "OK" for upid in tasks)
    clones = [client.send("POST", f"{NODE}/lxc/100/clone", {"newid": newid}) for newid in (101, 102)]
    assert [clone.status_code for clone in clones] == [200, 500]
    assert clones[1].reason == "CT is locked (disk)"
    client.wait(clones[0].json()["data"])
    deletions = [client.send("DELETE", f"{NODE}/lxc/101").json()["data"] for _try in range(2)]
    ends = [client.wait(upid)["exitstatus"] for upid in deletions if upid]
    assert ends[0] == "OK"
    assert all("Configuration file" in end for end in ends[1:])


def test_a_start_outlives_the_creation(client: Client) -> None:
    """tasks-060"""
    create = {"vmid": 101, "ostemplate": TEMPLATE, "rootfs": "local-zfs:1", "start": 1}
    assert client.do("POST", f"{NODE}/lxc", **create) == "OK"
    assert client.get(f"{NODE}/lxc/101/status/current")["status"] == "stopped"
    (start,) = client.get(f"{NODE}/tasks", vmid=101, source="active")
    assert (start["type"], client.wait(start["upid"])["exitstatus"]) == ("vzstart", "OK")


def test_an_address_comes_by_dhcp(cluster: Simulator, client: Client) -> None:
    """Some time after the start."""
    add(cluster, 100, net0="name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:01:10,ip=dhcp,type=veth")
    client.do("POST", f"{NODE}/lxc/100/status/start")
    assert client.get(f"{NODE}/lxc/100/interfaces")[1]["ip-addresses"] == []
    time.sleep(0.1)
    assert client.get(f"{NODE}/lxc/100/interfaces")[1]["inet"] == "198.18.0.102/15"


# ------------------------------------------------------------------- volumes


@pytest.mark.parametrize("cluster", FAST, indirect=True)
def test_a_restore_merges_what_is_given(cluster: Simulator, client: Client) -> None:
    """The archive's configuration, on one storage, and what the request says over it."""
    add(cluster, 100, mp0="local-zfs:subvol-100-disk-1,mp=/data,backup=1,size=2G", description="d\n", tags="a")
    assert client.do("POST", f"{NODE}/vzdump", vmid=100, storage="local") == "OK"
    (backup,) = client.get(f"{NODE}/storage/local/content", content="backup")
    restore = {"vmid": 101, "ostemplate": backup["volid"], "restore": 1, "storage": "tank", "memory": 128}
    assert client.do("POST", f"{NODE}/lxc", **restore) == "OK"
    config = client.get(f"{NODE}/lxc/101/config")
    assert config.pop("digest")
    assert config == {
        "hostname": "ct100",
        "description": "d\n",
        "tags": "a",
        "memory": 128,
        "swap": 0,
        "ostype": "unmanaged",
        "arch": "amd64",
        "unprivileged": 1,
        "rootfs": "tank:subvol-101-disk-0,size=1G",
        "mp0": "tank:subvol-101-disk-1,mp=/data,backup=1,size=2G",
    }


@pytest.mark.parametrize("cluster", FAST, indirect=True)
def test_destroying_frees_the_volumes(cluster: Simulator, client: Client) -> None:
    """Also those that are unused, and those of nobody else."""
    add(cluster, 100)
    add(cluster, 1000)
    client.send("PUT", f"{NODE}/lxc/100/config", {"mp0": "local-zfs:1,mp=/x"})
    client.send("PUT", f"{NODE}/lxc/100/config", {"delete": "mp0"})
    assert len(client.get(f"{NODE}/storage/local-zfs/content", vmid=100)) == 2
    assert client.do("DELETE", f"{NODE}/lxc/100") == "OK"
    left = [entry["volid"] for entry in client.get(f"{NODE}/storage/local-zfs/content")]
    assert left == ["local-zfs:subvol-1000-disk-0"]


# -------------------------------------------------------------- the harness


def test_the_journal(cluster: Simulator, client: Client) -> None:
    """Every request with its parameters, and how many connections there were."""
    add(cluster, 100)
    cluster.requests.clear()
    client.get(f"{NODE}/lxc/100/config", current=1)
    client.send("PUT", f"{NODE}/lxc/100/config", {"memory": 128, "tags": ""})
    assert cluster.requests.lines == [f"GET {NODE}/lxc/100/config", f"PUT {NODE}/lxc/100/config"]
    assert [request.params for request in cluster.requests] == [{"current": "1"}, {"memory": "128", "tags": ""}]
    assert [request.status for request in cluster.requests] == [200, 200]
    assert (len(cluster.requests.writes), cluster.requests.connections) == (1, 1)


def test_faults(cluster: Simulator, client: Client) -> None:
    """What fakepve can do goes through call()."""
    add(cluster, 100)
    cluster.call("lose_quorum")
    assert client.send("PUT", f"{NODE}/lxc/100/config", {"memory": 128}).reason == "cluster not ready - no quorum?"
    cluster.call("regain_quorum")
    cluster.call("fail", "GET", "/config", 500, "boom", times=1)
    assert [client.send("GET", f"{NODE}/lxc/100/config").status_code for _try in range(2)] == [500, 200]


def test_a_process_of_its_own(simulator: Process) -> None:
    """It is controlled over HTTP."""
    containers = [{"vmid": vmid, "node": "pve2", "config": {"hostname": f"h{vmid}"}} for vmid in range(100, 300)]
    assert simulator.control("/containers", {"containers": containers}) == {"added": 200}
    assert simulator.control("/table")[0]["hostname"] == "h100"
    assert simulator.control("/stats")["requests"] == 0
    simulator.fault("set_option", "lag", 0)
    with pytest.raises(urllib.error.HTTPError):
        simulator.fault("stop")
    address = simulator.address
    assert simulator.options["api_port"] == address["port"]
    assert simulator.environment["PROXMOX_TOKEN_ID"] == "demo"


def test_the_process_ends_with_whoever_started_it(tmp_path: Path) -> None:
    """At the end of its standard input."""
    process = Process(tmp_path / "simulator")
    process.close()
    assert process.wait() == 0


def test_a_template_has_base_volumes(cluster: Simulator, client: Client) -> None:
    """So that it can be cloned."""
    cluster.call("add_ct", 900, name="golden", node="pve1", template=True)
    assert client.do("POST", f"{NODE}/lxc/900/clone", newid=901) == "OK"
    rootfs = client.get(f"{NODE}/lxc/901/config")["rootfs"]
    assert rootfs == "local-zfs:basevol-900-disk-0/subvol-901-disk-0,size=8G"
