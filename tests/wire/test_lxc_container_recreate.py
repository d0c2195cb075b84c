# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""lxc_container with recreate: a container is made anew from another image, and no volume is lost on the way."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.tests.simulator.cluster import Cluster
from ansible_collections.lxcri.proxmox.tests.wire.hub import Hub
from ansible_collections.lxcri.proxmox.tests.wire.support import ANY, Lxc, Run, base, on_request, reset
from ansible_collections.lxcri.proxmox.tests.wire.test_lxc_container_image import (
    NGINX,
    PULL,
    mark,
    new,
    nginx,
    template,
)

NET = {"name": "eth0", "bridge": "vmbr0", "ip": "dhcp"}
DATA = {"mp": "/srv/www", "storage": "local-zfs", "size": "1G"}
CACHE = {"/var/cache/nginx": {"storage": "tank", "size": "2G"}}


def options(**more: t.Any) -> dict[str, t.Any]:
    image = {"pull": "newer", "volumes": CACHE, **more.pop("image", {})}
    return new(networks=[NET], mounts=[DATA], env={"MODE": "x"}, image=image, recreate=True, **more)


def data_of(cluster: Cluster) -> dict[str, t.Any]:
    """What each volume of mount points is filled with, by its storage and by who filled it."""
    return {
        entry["data"]: f"{sid}:{name}"
        for sid, store in cluster.storages.items()
        for name, entry in store.get("volumes", {}).items()
        if entry.get("data")
    }


def filled(lxc: Lxc, hub: Hub, **more: t.Any) -> tuple[str, str]:
    """A container with data in its volumes, and a newer image; the digests of both."""
    old = hub.push(NGINX, nginx())
    lxc.apply(**options(**more))

    def fill(cluster: Cluster) -> None:
        ct = cluster.ct(201)
        for key, mount in ct.volumes():
            if key != "rootfs":
                cluster.volume(mount["volume"])["data"] = mount["mp"]
        # What nobody has declared.
        ct.config.update(cores=3, onboot=1, tags="a;b")

    lxc.cluster.call(fill)
    return old, hub.push(NGINX, nginx("b"))


def kept(lxc: Lxc) -> None:
    """Both volumes are where they were."""
    volumes = lxc.cluster.call(data_of)
    config = lxc.ct().config
    assert set(volumes) == {"/srv/www", "/var/cache/nginx"}
    assert config["mp0"].startswith(volumes["/srv/www"] + ",mp=/srv/www")
    assert config["mp1"].startswith(volumes["/var/cache/nginx"] + ",mp=/var/cache/nginx")
    named = [mount["volume"] for _key, mount in lxc.ct().volumes()]
    assert all(":subvol-201-disk-" in volume for volume in named)
    assert len(lxc.cluster.cluster.cts) == 1


def test_it_is_made_anew_with_its_volumes(lxc: Lxc, hub: Hub) -> None:
    old, now = filled(lxc, hub)
    address = lxc.ct().config["net0"].partition("hwaddr=")[2][:17]
    run = lxc.converge(**options())
    volume = f"local:vztmpl/{template(now)}.tar"
    holder = int(run.writes[1][2]["vmid"])
    assert [(method, path) for method, path, _params in run.writes] == [
        ("POST", PULL),
        ("POST", "/nodes/pve1/lxc"),
        ("PUT", f"{base()}/config"),
        ("POST", f"{base()}/status/shutdown"),
        ("POST", f"{base()}/move_volume"),
        ("POST", f"{base()}/move_volume"),
        ("PUT", f"{base(holder)}/config"),
        ("DELETE", base()),
        ("POST", "/nodes/pve1/lxc"),
        ("POST", f"{base(holder)}/move_volume"),
        ("POST", f"{base(holder)}/move_volume"),
        ("PUT", f"{base(holder)}/config"),
        ("DELETE", base(holder)),
        ("PUT", f"{base()}/config"),
        ("POST", f"{base()}/status/start"),
    ]
    made = run.writes[1][2]
    assert made.pop("description").startswith("Holds the volumes of container 201 (web-1)")
    assert made == {
        "vmid": str(holder),
        "ostemplate": volume,
        "hostname": "recreate-201-web-1",
        "rootfs": "local-zfs:4",
        "unprivileged": "1",
    }
    assert run.writes[2][2] == {
        "description": mark(old, "MODE").replace(" -->", f" holder={holder} -->"),
        "digest": ANY,
    }
    assert run.writes[4][2] == {"volume": "mp0", "target-vmid": str(holder), "target-volume": "mp0"}
    # Proxmox loses a volume that is moved to a protected container.
    assert run.writes[6][2] == {"protection": "1"}
    assert run.writes[8][2] == {
        "vmid": "201",
        "ostemplate": volume,
        "hostname": "web-1",
        "rootfs": "local-zfs:4",
        # Proxmox sets host-managed again.
        "net0": f"name=eth0,bridge=vmbr0,hwaddr={address},ip=dhcp",
        "cores": "3",
        "onboot": "1",
        "tags": "a;b",
        "memory": "512",
        "swap": "512",
        "unprivileged": "1",
        "description": mark(now, "MODE").replace(" -->", f" holder={holder} -->"),
    }
    assert run.writes[11][2] == {"delete": "protection"}
    assert run.writes[13][2] == {
        "env": "PATH=/usr/sbin:/usr/bin\0NGINX_VERSION=1.29.3\0MODE=x",
        "description": mark(now, "MODE"),
        "digest": ANY,
    }
    assert ("image", f"{NGINX}@{old}", f"{NGINX}@{now}", "recreate") in run.plan
    assert run.result["recreate_required"] == []
    assert run.container["status"] == "running"
    kept(lxc)


def test_without_volumes_it_is_made_anew_as_well(lxc: Lxc, hub: Hub) -> None:
    hub.push(NGINX, nginx())
    plain = new(recreate=True, image={"pull": "newer"}, state="stopped")
    lxc.apply(**plain)
    now = hub.push(NGINX, nginx("b"))
    run = lxc.converge(**plain)
    assert mark(now) in run.container["config"]["description"]
    assert run.container["status"] == "stopped"
    assert len(lxc.cluster.cluster.cts) == 1


def test_what_is_not_declared_is_kept_as_well(lxc: Lxc, hub: Hub) -> None:
    """A volume that nobody declares is not destroyed, but stays with the container."""
    filled(lxc, hub)

    def add(cluster: Cluster) -> None:
        ct = cluster.ct(201)
        ct.config["unused0"] = cluster.create_volume("tank", 201, 2**30)
        cluster.volume(ct.config["unused0"])["data"] = "spare"

    lxc.cluster.call(add)
    lxc.converge(**options())
    assert lxc.cluster.call(data_of)["spare"] == lxc.ct().config["unused0"]


def test_in_a_pool_it_stays_there(lxc: Lxc, hub: Hub) -> None:
    filled(lxc, hub, pool="prod")
    run = lxc.converge(**{**options(), "vmid": 201})
    assert run.writes[8][2]["pool"] == "prod"
    assert 201 in lxc.cluster.cluster.pools["prod"]


def test_what_is_to_be_protected_gets_its_volumes_first(lxc: Lxc, hub: Hub) -> None:
    filled(lxc, hub)
    run = lxc.converge(**options(protection=True))
    assert "protection" not in run.writes[8][2]
    assert run.writes[13][2]["protection"] == "1"
    kept(lxc)


# ------------------------------------------------------------------------------------------------------ interruptions


def interrupted(lxc: Lxc, count: int, after: bool, **more: t.Any) -> Run:
    """Run it, and let the connection be lost at one of its writes: before it is carried out, or after."""
    simulated = lxc.cluster.cluster
    original = simulated._plain
    left = [count]

    async def plain(request: t.Any, handler: t.Any) -> t.Any:
        if request.method == "GET" or request.path.endswith("/access/ticket"):
            return await original(request, handler)
        left[0] -= 1
        if left[0] == 0 and not after:
            reset(simulated, request)
        answer = await original(request, handler)
        if left[0] == 0:
            reset(simulated, request)
        return answer

    lxc.cluster.call(lambda _cluster: setattr(simulated, "_plain", plain))
    run = lxc(**options(**more))
    lxc.cluster.call(lambda _cluster: setattr(simulated, "_plain", original))
    return run


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("cluster", [{"time_scale": 0, "lag": 0}], indirect=True)
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("count", range(1, 16))
def test_interrupted_anywhere_it_goes_on(lxc: Lxc, hub: Hub, count: int, after: bool) -> None:
    _old, now = filled(lxc, hub)
    run = interrupted(lxc, count, after)
    assert run.result.get("failed"), run.writes
    # Whatever happened, every volume is there, and named by one container.
    volumes = lxc.cluster.call(data_of)
    assert set(volumes) == {"/srv/www", "/var/cache/nginx"}
    named = [mount["volume"] for ct in lxc.cluster.cluster.cts for _key, mount in ct.volumes()]
    assert all(named.count(volume) == 1 for volume in volumes.values())
    # Nothing else makes empty volumes of what is somewhere else.
    other = lxc(**{**options(), "recreate": False})
    # From the mark on the old container to its removal from the new one.
    if 4 <= count + after <= 14:
        assert other.code == "recreate_interrupted"
        assert other.writes == []
    run = lxc.apply(**options())
    assert mark(now, "MODE") in run.container["config"]["description"]
    kept(lxc)
    assert lxc.ct().status == "running"
    assert lxc.ct().config["cores"] == 3
    lxc.unchanged(**options())


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("cluster", [{"time_scale": 0, "lag": 0}], indirect=True)
@pytest.mark.parametrize("status", ["running", "stopped"])
@pytest.mark.parametrize("count", [None, 5, 10, 12, 15])
def test_it_runs_as_before_when_nothing_is_said_of_that(lxc: Lxc, hub: Hub, count: int | None, status: str) -> None:
    filled(lxc, hub)
    lxc.cluster.call(lambda cluster: setattr(cluster.ct(201), "status", status))
    if count:
        interrupted(lxc, count, after=True, state="present")
    lxc.apply(**options(state="present"))
    kept(lxc)
    assert lxc.ct().status == status
    lxc.unchanged(**options(state="present"))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("cluster", [{"time_scale": 0, "lag": 0}], indirect=True)
def test_a_container_by_its_name_is_found_again_when_it_is_gone(lxc: Lxc, hub: Hub) -> None:
    filled(lxc, hub)
    interrupted(lxc, 9, after=False)
    assert lxc.ct(201) is None
    named = {key: value for key, value in options().items() if key != "vmid"}
    run = lxc.converge(**named)
    assert run.container["vmid"] == 201
    kept(lxc)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("cluster", [{"time_scale": 0, "lag": 0}], indirect=True)
def test_a_task_without_an_image_does_nothing_meanwhile(lxc: Lxc, hub: Hub) -> None:
    filled(lxc, hub)
    interrupted(lxc, 6, after=False)
    run = lxc.refused("recreate_interrupted", vmid=201, node="pve1", mounts=[DATA], state="started")
    assert run.details["holder"]
    run = lxc.refused("recreate_interrupted", **{**options(), "recreate": False})


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("cluster", [{"time_scale": 0, "lag": 0}], indirect=True)
@pytest.mark.parametrize("count", range(5, 13))
def test_the_tag_moves_once_more_meanwhile(lxc: Lxc, hub: Hub, count: int) -> None:
    filled(lxc, hub)
    interrupted(lxc, count, after=False)
    now = hub.push(NGINX, nginx("c"))
    lxc.apply(**options())
    assert mark(now, "MODE") in lxc.ct().config["description"]
    kept(lxc)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("cluster", [{"time_scale": 0, "lag": 0}], indirect=True)
@pytest.mark.parametrize("count", [5, 6, 7, 8])
def test_it_can_be_undone_as_long_as_the_old_one_is_there(lxc: Lxc, hub: Hub, count: int) -> None:
    old, _now = filled(lxc, hub)
    interrupted(lxc, count, after=False)
    exact = f"docker.io/library/nginx@{old}"
    hub.push(exact, nginx())
    run = lxc.converge(**options(image={"reference": exact}))
    assert [write for write in run.writes if write[0] == "DELETE"] == [("DELETE", ANY, {})]
    assert mark(old, "MODE", exact) in run.container["config"]["description"]
    assert run.container["status"] == "running"
    kept(lxc)


def test_a_storage_that_cannot_give_a_volume_to_another_container(lxc: Lxc, hub: Hub) -> None:
    filled(lxc, hub)
    lxc.cluster.call(
        "fail", "POST", "/move_volume", 500, "Storage does not support moving of this disk to another container"
    )
    run = lxc(**options())
    assert run.code == "feature_unsupported"
    lxc.cluster.call("clear_failures")
    lxc.apply(**options())
    kept(lxc)


def test_a_volume_that_is_added_meanwhile_is_not_destroyed(lxc: Lxc, hub: Hub) -> None:
    filled(lxc, hub)

    def add(cluster: Cluster, _request: t.Any) -> None:
        cluster.ct(201).config["mp7"] = cluster.create_volume("tank", 201, 2**30) + ",mp=/x,size=1G"

    on_request(lxc.cluster, "POST", "/status/shutdown", add)
    run = lxc(**options())
    assert run.code == "would_lose_data"
    assert lxc.ct(201) is not None
    lxc.apply(**options())
    # It is not declared: it is detached, and kept.
    assert lxc.ct(201).config["unused0"].startswith("tank:subvol-201-disk-")


def protect(cluster: Cluster, _request: t.Any) -> None:
    """Somebody protects the holder."""
    next(ct for ct in cluster.cts if ct.vmid != 201).config["protection"] = 1


def test_a_volume_that_proxmox_loses_is_missed(lxc: Lxc, hub: Hub) -> None:
    filled(lxc, hub)
    on_request(lxc.cluster, "POST", "/move_volume", protect)
    run = lxc(**options())
    assert run.code == "protected"
    holder = next(ct for ct in lxc.cluster.cluster.cts if ct.vmid != 201)
    assert "mp0" not in {**lxc.ct().config, **holder.config}
    run = lxc.refused("volume_missing", **options())
    assert run.details["holder"] == holder.vmid
    assert list(run.details["volumes"]) == ["mp0"]
    lost = lxc.cluster.call(data_of)["/srv/www"]
    lxc.cluster.call(lambda _cluster: holder.config.update(mp0=f"{lost},mp=/srv/www,size=1G"))
    lxc.apply(**options())
    kept(lxc)


def test_without_a_lost_volume_takes_force(lxc: Lxc, hub: Hub) -> None:
    filled(lxc, hub)
    on_request(lxc.cluster, "POST", "/move_volume", protect)
    assert lxc(**options()).code == "protected"
    lxc.refused("volume_missing", **options())
    lxc.converge(**options(force=True))
    # Nothing has destroyed it.
    assert set(lxc.cluster.call(data_of)) == {"/srv/www", "/var/cache/nginx"}


def test_nothing_goes_to_a_container_that_was_protected_meanwhile(lxc: Lxc, hub: Hub) -> None:
    filled(lxc, hub)
    on_request(lxc.cluster, "POST", "/status/shutdown", protect)
    run = lxc(**options())
    assert run.code == "protected"
    assert [path for _method, path, _params in run.writes if path.endswith("/move_volume")] == []
    lxc.apply(**options())
    kept(lxc)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("cluster", [{"time_scale": 0, "lag": 0}], indirect=True)
def test_the_new_one_that_was_protected_meanwhile_gets_nothing(lxc: Lxc, hub: Hub) -> None:
    filled(lxc, hub)
    interrupted(lxc, 10, after=False)
    lxc.cluster.call(lambda cluster: cluster.ct(201).config.update(protection=1))
    lxc.refused("protected", **options())
    lxc.cluster.call(lambda cluster: cluster.ct(201).config.pop("protection"))
    lxc.apply(**options())
    kept(lxc)


# ----------------------------------------------------------------------------------------------------------- refusals


def test_what_would_be_lost_is_said(lxc: Lxc, hub: Hub) -> None:
    filled(lxc, hub)
    lxc.cluster.call(lambda cluster: cluster.raw_lines[201].append(["lxc.cap.drop", "mknod"]))
    run = lxc.refused("would_lose_data", **options())
    assert run.details["lost"] == ["the raw line lxc.cap.drop: mknod"]
    lxc.apply(**options(force=True))
    kept(lxc)


def test_a_container_of_something_else_takes_force(lxc: Lxc, hub: Hub) -> None:
    hub.push(NGINX, nginx())
    lxc.add(201, config={"unprivileged": 1})
    given = new(recreate=True)
    run = lxc.refused("would_lose_data", **given)
    assert "not known to be of an image" in run.details["lost"][0]
    lxc.converge(**given, force=True)


def test_snapshots_forbid_it(lxc: Lxc, hub: Hub) -> None:
    filled(lxc, hub)
    lxc.cluster.call(lambda cluster: cluster.ct(201).snapshots.update(before={"memory": 512, "snaptime": 1}))
    run = lxc.refused("has_snapshots", **options())
    assert run.details["snapshots"] == ["before"]


@pytest.mark.parametrize("state", ["started", "ignored"])
def test_high_availability_forbids_it(lxc: Lxc, hub: Hub, state: str) -> None:
    filled(lxc, hub)
    lxc.cluster.call(lambda cluster: setattr(cluster.ct(201), "ha_state", state))
    lxc.refused("ha_managed", **options())


def test_a_replication_forbids_it(lxc: Lxc, hub: Hub) -> None:
    filled(lxc, hub)
    jobs = {f"{vmid}-0": {"guest": vmid, "type": "local", "target": "pve2"} for vmid in (201, 999)}
    lxc.cluster.call(lambda cluster: cluster.replications.update(jobs))
    lxc.refused("replicated", **options())
    lxc.cluster.call(lambda cluster: cluster.replications.pop("201-0"))
    lxc.converge(**options())


def test_protection_forbids_it(lxc: Lxc, hub: Hub) -> None:
    filled(lxc, hub)
    lxc.cluster.call(lambda cluster: cluster.ct(201).config.update(protection=1))
    lxc.refused("protected", **options())


def test_a_pending_removal_of_a_volume_comes_first(lxc: Lxc, hub: Hub) -> None:
    filled(lxc, hub)
    lxc.cluster.call(lambda cluster: cluster.ct(201).deletions.add("mp0"))
    lxc.refused("pending_changes", **options())


def test_privileges_for_all_of_it_are_asked_for_first(lxc: Lxc, hub: Hub) -> None:
    filled(lxc, hub)
    acl = {"/": ["VM.Audit", "Datastore.Audit", "Sys.Audit"], "/vms/201": ["VM.Audit", "VM.Allocate", "VM.Config.Disk"]}
    lxc.cluster.call("add_token", "root@pam!few", "few-few-few", privsep=True, acl=acl)
    lxc.options.update(api_token_id="few", api_token_secret="few-few-few")
    run = lxc.refused("permission_denied", **options())
    lacking = {(entry["privilege"], entry["path"]) for entry in run.details["missing"]}
    # What is granted on the id alone goes with the container.
    assert {("VM.Allocate", "/vms"), ("VM.Config.Disk", "/vms"), ("VM.PowerMgmt", "/vms/201")} <= lacking
