# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""lxc_container with an OCI image: pulled by Proxmox itself, and what is set after the container is made."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.lxcri.proxmox.tests.oci.images import Built, build, index, layer
from ansible_collections.lxcri.proxmox.tests.wire.hub import Hub
from ansible_collections.lxcri.proxmox.tests.wire.module_runner import run_module
from ansible_collections.lxcri.proxmox.tests.wire.support import (
    ANY,
    PERMISSIONS,
    RESOURCES,
    Lxc,
    base,
    polls,
    reads,
)

NGINX = "docker.io/library/nginx:1.29"
PROCESS: dict[str, t.Any] = {
    "Entrypoint": ["/docker-entrypoint.sh"],
    "Cmd": ["nginx", "-g", "daemon off;"],
    "Env": ["PATH=/usr/sbin:/usr/bin", "NGINX_VERSION=1.29.3"],
    "WorkingDir": "/srv",
    "User": "101:101",
    "StopSignal": "SIGQUIT",
    "ExposedPorts": {"80/tcp": {}},
    "Labels": {"maintainer": "NGINX"},
    "Volumes": {"/var/cache/nginx": {}, "/etc/nginx/conf.d": {}},
}
PULL = "/nodes/pve1/storage/local/oci-registry-pull"
CONTENT = "GET /nodes/pve1/storage/local/content"
STATUS = "GET /nodes/pve1/storage/local/status"
ROOT = {"storage": "local-zfs", "size": "4G"}


def nginx(marker: str = "a", **process: t.Any) -> Built:
    """An image; another marker gives another digest."""
    return build(layer(), config={**PROCESS, "Labels": {"maintainer": marker}, **process})


def new(**options: t.Any) -> dict[str, t.Any]:
    image = {"reference": "nginx:1.29", **options.pop("image", {})}
    return {"vmid": 201, "node": "pve1", "hostname": "web-1", "rootfs": ROOT, "image": image, **options}


def template(digest: str, name: str = "docker.io_library_nginx_1.29") -> str:
    return f"{name}_{digest[7:39]}"


def mark(digest: str, env: str = "", reference: str = NGINX) -> str:
    return f"<!-- lxcri.proxmox image={reference} digest={digest}{f' env={env}' if env else ''} -->"


# --------------------------------------------------------------------------------------------------- Proxmox's pull


def test_an_anonymous_tag_is_pulled_by_proxmox_itself(lxc: Lxc, hub: Hub) -> None:
    digest = hub.push(NGINX, nginx())
    net = {"name": "eth0", "bridge": "vmbr0", "ip": "dhcp"}
    run = lxc.converge(**new(networks=[net]))
    assert run.writes == [
        ("POST", PULL, {"reference": NGINX, "filename": template(digest)}),
        (
            "POST",
            "/nodes/pve1/lxc",
            {
                "vmid": "201",
                "ostemplate": f"local:vztmpl/{template(digest)}.tar",
                "hostname": "web-1",
                "rootfs": "local-zfs:4",
                "net0": "name=eth0,bridge=vmbr0,ip=dhcp",
                "description": mark(digest),
            },
        ),
        ("POST", f"{base()}/status/start", {}),
    ]
    assert run.asked == [
        f"GET {base()}/pending",
        RESOURCES,
        "GET /version",
        CONTENT,
        STATUS,
        PERMISSIONS,
        f"POST {PULL}",
        polls(),
        "POST /nodes/pve1/lxc",
        polls(),
        f"GET {base()}/config",
        *reads(),
        f"POST {base()}/status/start",
        polls(),
        *reads(),
    ]
    config = run.container["config"]
    assert config["entrypoint"] == "/docker-entrypoint.sh nginx -g 'daemon off;'"
    assert config["env"] == "PATH=/usr/sbin:/usr/bin\0NGINX_VERSION=1.29.3"
    assert config["cmode"] == "console"
    assert "host-managed=1" in config["net0"]
    assert run.container["status"] == "running"
    assert ("image", None, f"{NGINX}@{digest}", "live") in run.plan


def test_what_proxmox_cannot_express_is_reported(lxc: Lxc, hub: Hub) -> None:
    hub.push(NGINX, nginx())
    run = lxc.apply(**new(mounts=[{"mp": "/var/cache/nginx", "storage": "tank", "size": "1G"}]))
    assert [(loss["key"], loss["value"]) for loss in run.result["losses"]] == [
        ("Volumes", "/etc/nginx/conf.d"),
        ("ExposedPorts", {"80/tcp": {}}),
        ("Labels", {"maintainer": "a"}),
    ]
    assert all(loss["reason"] for loss in run.result["losses"])
    assert run.result["warnings"] == ["web-1: not as the image says, see losses: ExposedPorts, Labels, Volumes."]


def test_the_second_run_asks_nobody_about_the_image(lxc: Lxc, hub: Hub) -> None:
    hub.push(NGINX, nginx())
    lxc.apply(**new())
    hub.asked.clear()
    run = lxc.unchanged(**new())
    assert run.asked == reads()
    assert hub.asked == []
    assert run.result["losses"] == []


def test_a_template_that_is_there_is_not_pulled_again(lxc: Lxc, hub: Hub) -> None:
    digest = hub.push(NGINX, nginx())
    lxc.apply(**new())
    run = lxc.converge(**new(vmid=202, hostname="web-2"))
    assert [write[1] for write in run.writes] == ["/nodes/pve1/lxc", f"{base(202)}/status/start"]
    assert run.writes[0][2]["ostemplate"] == f"local:vztmpl/{template(digest)}.tar"
    assert STATUS not in run.asked


def test_the_same_name_at_two_registries_is_two_templates(lxc: Lxc, hub: Hub) -> None:
    first = hub.push(NGINX, nginx())
    other = "ghcr.io/library/nginx:1.29"
    second = hub.push(other, nginx("b"))
    lxc.apply(**new())
    run = lxc.apply(**new(vmid=202, hostname="web-2", image={"reference": other}))
    assert run.writes[0] == (
        "POST",
        PULL,
        {"reference": other, "filename": template(second, "ghcr.io_library_nginx_1.29")},
    )
    assert first != second


def test_without_an_id_it_gets_a_free_one(lxc: Lxc, hub: Hub) -> None:
    hub.push(NGINX, nginx())
    lxc.add(100)
    options = {key: value for key, value in new(env={"A": "1"}).items() if key != "vmid"}
    run = lxc.converge(**options)
    assert run.container["vmid"] == 101
    assert [write[1] for write in run.writes] == [
        PULL,
        "/nodes/pve1/lxc",
        f"{base(101)}/config",
        f"{base(101)}/status/start",
    ]
    assert run.result["plan"][-1]["request"] == f"POST {base(101)}/status/start"


def test_of_an_index_the_manifest_of_the_platform_counts(lxc: Lxc, hub: Hub) -> None:
    amd64 = nginx()
    arm64 = build(layer(), config=PROCESS, architecture="arm64")
    hub.push(NGINX, index(("linux/amd64", amd64), ("linux/arm64", arm64)))
    run = lxc.converge(**new())
    assert mark(amd64.digest) in run.container["config"]["description"]


# ----------------------------------------------------------------------------------------------- the user's options


def test_the_users_variables_go_over_those_of_the_image(lxc: Lxc, hub: Hub) -> None:
    digest = hub.push(NGINX, nginx())
    options = new(env={"NGINX_VERSION": "mine", "MODE": "x"}, entrypoint="/bin/sh -c 'sleep 1'", cmode="shell")
    run = lxc.converge(**options)
    assert not {"env", "entrypoint"} & set(run.writes[1][2])
    assert run.writes[2] == (
        "PUT",
        f"{base()}/config",
        {
            "cmode": "shell",
            "entrypoint": "/bin/sh -c 'sleep 1'",
            "env": "PATH=/usr/sbin:/usr/bin\0NGINX_VERSION=mine\0MODE=x",
            "digest": ANY,
        },
    )
    assert run.container["config"]["description"].rstrip() == mark(digest, "MODE,NGINX_VERSION")


def test_a_variable_that_is_dropped_has_the_images_value_again(lxc: Lxc, hub: Hub) -> None:
    digest = hub.push(NGINX, nginx())
    lxc.apply(**new(env={"NGINX_VERSION": "mine", "MODE": "x"}))
    hub.asked.clear()
    run = lxc.converge(**new(env={"MODE": "y"}))
    assert run.writes == [
        (
            "PUT",
            f"{base()}/config",
            {
                "env": "PATH=/usr/sbin:/usr/bin\0NGINX_VERSION=1.29.3\0MODE=y",
                "description": mark(digest, "MODE"),
                "digest": ANY,
            },
        )
    ]
    # In check mode, and once more; the third run needs to know nothing.
    assert len(hub.asked) == 4


def test_another_value_of_a_variable_needs_no_registry(lxc: Lxc, hub: Hub) -> None:
    hub.push(NGINX, nginx())
    lxc.apply(**new(env={"MODE": "x"}))
    hub.asked.clear()
    run = lxc.converge(**new(env={"MODE": "y"}))
    assert [key for key, *_rest in run.plan] == ["env"]
    assert hub.asked == []


def test_a_command_that_a_shell_would_understand_is_written_for_lxc(lxc: Lxc, hub: Hub) -> None:
    hub.push(NGINX, nginx(Entrypoint=["/bin/sh", "-c", "echo 'it is'"], Cmd=None))
    run = lxc.converge(**new())
    assert run.container["config"]["entrypoint"] == """/bin/sh -c "echo 'it is'\""""


def test_a_description_is_kept_beside_the_note_on_the_image(lxc: Lxc, hub: Hub) -> None:
    digest = hub.push(NGINX, nginx())
    run = lxc.converge(**new(description="Shop\n\nAsk Ada."))
    assert run.container["config"]["description"].rstrip() == f"Shop\n\nAsk Ada.\n\n{mark(digest)}"
    run = lxc.converge(**new(description="Other"))
    assert run.writes == [("PUT", f"{base()}/config", {"description": f"Other\n\n{mark(digest)}", "digest": ANY})]
    run = lxc.converge(**new(unset=["description"]))
    assert run.writes == [("PUT", f"{base()}/config", {"description": mark(digest), "digest": ANY})]
    # Also a task that says nothing of an image keeps it.
    run = lxc.converge(vmid=201, node="pve1", hostname="web-1", description="Third")
    assert run.writes == [("PUT", f"{base()}/config", {"description": f"Third\n\n{mark(digest)}", "digest": ANY})]


HOME = "<!-- lxcri.proxmox home=pve2 was=running -->"


def test_both_notes_stay(lxc: Lxc, hub: Hub) -> None:
    digest = hub.push(NGINX, nginx())
    lxc.apply(**new(description="Shop"))
    lxc.cluster.cluster.ct(201).config["description"] += f"\n{HOME}\n"
    run = lxc.converge(**new(description="Other"))
    assert run.container["config"]["description"].rstrip() == f"Other\n\n{mark(digest)}\n\n{HOME}"
    # Nobody who declares no description has to care about their order.
    lxc.unchanged(**new())


def test_a_description_that_is_too_long_with_the_note(lxc: Lxc, hub: Hub) -> None:
    hub.push(NGINX, nginx())
    run = lxc.refused("invalid_option", **new(description="x" * 8100))
    assert run.details["option"] == "description"


def test_a_network_that_says_nothing_of_host_managed_stays_so(lxc: Lxc, hub: Hub) -> None:
    hub.push(NGINX, nginx())
    net = {"name": "eth0", "bridge": "vmbr0", "ip": "dhcp"}
    lxc.apply(**new(networks=[net]))
    run = lxc.converge(**new(networks=[{**net, "firewall": True}]))
    assert "host-managed=1" in run.writes[0][2]["net0"]
    run = lxc.converge(vmid=201, node="pve1", networks=[net])
    assert "host-managed=1" in run.writes[0][2]["net0"]
    run = lxc.converge(**new(networks=[{**net, "host_managed": False}]))
    assert "host-managed" not in run.writes[0][2]["net0"]


# ---------------------------------------------------------------------------------------------------------- volumes


def test_volumes_become_mount_points(lxc: Lxc, hub: Hub) -> None:
    hub.push(NGINX, nginx())
    volumes = {"/var/cache/nginx": {"storage": "tank", "size": "2G", "backup": True}}
    options = new(mounts=[{"mp": "/srv/www", "storage": "local-zfs", "size": "1G"}], image={"volumes": volumes})
    run = lxc.converge(**options)
    assert run.writes[1][2]["mp0"] == "local-zfs:1,mp=/srv/www"
    assert run.writes[1][2]["mp1"] == "tank:2,mp=/var/cache/nginx,backup=1"
    assert [loss["value"] for loss in run.result["losses"] if loss["key"] == "Volumes"] == ["/etc/nginx/conf.d"]
    volumes["/var/cache/nginx"]["size"] = "3G"
    run = lxc.converge(**options)
    assert run.writes == [("PUT", f"{base()}/resize", {"disk": "mp1", "size": "3G"})]


def test_a_volume_keeps_its_place(lxc: Lxc, hub: Hub) -> None:
    hub.push(NGINX, nginx())
    volumes = {"/var/cache/nginx": {"storage": "tank", "size": "2G"}}
    lxc.apply(**new(image={"volumes": volumes}))
    run = lxc.refused(
        "invalid_option",
        **new(image={"volumes": volumes}, mounts=[{"mp": "/srv", "storage": "tank", "size": "1G"}]),
    )
    assert run.details["option"] == "mounts"
    run = lxc.converge(
        **new(image={"volumes": volumes}, mounts=[{"id": "mp5", "mp": "/srv", "storage": "tank", "size": "1G"}])
    )
    assert list(run.writes[0][2]) == ["mp5", "digest"]


@pytest.mark.parametrize(
    ("volumes", "option"),
    [
        ({"/nowhere": {"storage": "tank", "size": "1G"}}, "image.volumes"),
        ({"/var/cache/nginx": "tank"}, "image.volumes[/var/cache/nginx]"),
        ({"/var/cache/nginx": {"mp": "/x", "storage": "tank"}}, "image.volumes[/var/cache/nginx]"),
        ({"/var/cache/nginx": {"size": "1G"}}, "mp0.storage"),
        ({"/var/cache/nginx": {"storage": "tank"}}, "mp0.size"),
        ({"/var/cache/nginx": {"storage": "tank", "bogus": 1}}, "image.volumes[/var/cache/nginx]"),
    ],
)
def test_wrong_volumes(lxc: Lxc, hub: Hub, volumes: dict[str, t.Any], option: str) -> None:
    hub.push(NGINX, nginx())
    run = lxc.refused("invalid_option", **new(image={"volumes": volumes}))
    assert run.details["option"] == option


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Env", ["A=1\nlxc.hook.pre-start: /tmp/x"]),
        ("WorkingDir", "/a\nb"),
        ("StopSignal", "SIGTERM\n"),
        ("User", "a\tb"),
        ("Cmd", ["sh", "-c", "a\nb"]),
    ],
)
def test_control_characters_are_refused(lxc: Lxc, hub: Hub, key: str, value: t.Any) -> None:
    hub.push(NGINX, nginx(**{key: value}))
    run = lxc.refused("image_rejected", **new())
    assert run.details["key"] == key


@pytest.mark.parametrize(
    ("key", "value"),
    [("User", "app:"), ("User", ":5"), ("User", "a:b:c"), ("StopSignal", "QUIT"), ("StopSignal", "SIGRTMIN")],
)
def test_what_proxmox_would_write_and_not_read_is_refused(lxc: Lxc, hub: Hub, key: str, value: str) -> None:
    hub.push(NGINX, nginx(**{key: value}))
    run = lxc.refused("image_rejected", **new())
    assert run.details["key"] == key


def test_an_operating_system_that_proxmox_does_not_know(lxc: Lxc, hub: Hub) -> None:
    """Proxmox sets up what /etc/os-release of the image says, unless it is told not to."""
    hub.push(NGINX, nginx())
    lxc.cluster.cluster.systems[NGINX] = "wolfi"
    run = lxc(**new())
    assert run.code == "system_unknown"
    assert "ostype: unmanaged" in run.result["failure"]["hint"]
    config = lxc(**new(ostype="unmanaged")).container["config"]
    assert config["ostype"] == "unmanaged"


@pytest.mark.parametrize("user", ["ghost", "ghost:nginx", "nginx:ghost", "101:ghost"])
def test_a_user_that_proxmox_does_not_find_is_not_root(lxc: Lxc, hub: Hub, user: str) -> None:
    hub.push(NGINX, nginx(User=user))
    run = lxc(**new())
    assert run.code == "user_unknown"
    assert run.details["user"] == user
    assert lxc.ct().status == "stopped"


@pytest.mark.parametrize("user", ["nginx", "nginx:app", "5:app", "root", "1234", "77:78", ""])
def test_users_that_proxmox_finds(lxc: Lxc, hub: Hub, user: str) -> None:
    hub.push(NGINX, nginx(User=user))
    assert lxc(**new()).container["status"] == "running"


@pytest.mark.parametrize("line", ["lxc.hook.pre-start: /tmp/x", "mp9: /etc,mp=/x", "unprivileged: 0", "onboot: 1"])
def test_a_registry_that_gives_the_node_something_else(lxc: Lxc, hub: Hub, line: str) -> None:
    hub.push(NGINX, nginx(), to_nodes=nginx(Env=[f"A=1\n{line}"]))
    run = lxc(**new(unprivileged=True))
    assert run.code == "image_rejected"
    assert run.details["lines"] == [line]
    assert lxc.ct().status == "stopped"


def test_an_image_that_is_not_there(lxc: Lxc, hub: Hub) -> None:
    lxc.refused("image_missing", **new())


def test_a_pull_that_fails_on_the_node(lxc: Lxc, hub: Hub) -> None:
    hub.push(NGINX, nginx())
    lxc.cluster.call(lambda cluster: cluster.registry.clear())
    run = lxc(**new())
    assert run.code == "registry_failed"
    assert [write[1] for write in run.writes] == [PULL]
    assert run.result["changed"] is True
    assert any("manifest unknown" in line for line in run.details["log"])


def test_a_storage_without_templates(lxc: Lxc, hub: Hub) -> None:
    hub.push(NGINX, nginx())
    lxc.refused("storage_unsuitable", **new(image={"storage": "local-zfs"}))
    lxc.refused("storage_missing", **new(image={"storage": "nope"}))


def test_all_privileges_are_asked_for_before_anything_is_pulled(lxc: Lxc, hub: Hub) -> None:
    hub.push(NGINX, nginx())
    acl = {"/": ["VM.Audit", "Datastore.Audit"]}
    lxc.cluster.call("add_token", "root@pam!few", "few-few-few", privsep=True, acl=acl)
    lxc.options.update(api_token_id="few", api_token_secret="few-few-few")
    run = lxc.refused("permission_denied", **new(env={"A": "1"}))
    lacking = {(entry["privilege"], entry["path"]) for entry in run.details["missing"]}
    assert {
        ("Datastore.AllocateTemplate", "/storage/local"),
        ("Sys.AccessNetwork", "/nodes/pve1"),
        ("VM.Allocate", "/vms/201"),
        ("Datastore.AllocateSpace", "/storage/local-zfs"),
        ("VM.Config.Options", "/vms/201"),
        ("VM.PowerMgmt", "/vms/201"),
    } <= lacking


@pytest.mark.parametrize(
    ("image", "option"),
    [
        ({"method": "registry", "username": "puller", "password": "secret-word"}, "image.method"),
        ({"method": "registry", "reference": f"nginx@sha256:{'0' * 64}"}, "image.method"),
        ({"storage": "no such"}, "image.storage"),
    ],
)
def test_options_that_do_not_fit(lxc: Lxc, hub: Hub, image: dict[str, t.Any], option: str) -> None:
    digest = hub.push(NGINX, nginx())
    if "@" in image.get("reference", ""):
        image = {**image, "reference": f"nginx@{digest}"}
    run = lxc.refused("invalid_option", **new(image=image))
    assert run.details["option"] == option


def test_a_reference_that_is_none(lxc: Lxc, hub: Hub) -> None:
    lxc.refused("invalid_reference", **new(image={"reference": "NGINX:1"}))


@pytest.mark.parametrize("method", ["registry", "upload"])
def test_an_older_proxmox_takes_no_images(lxc: Lxc, hub: Hub, method: str) -> None:
    hub.push(NGINX, nginx())
    lxc.cluster.call(lambda cluster: setattr(cluster, "version", "8.4.14"))
    run = lxc.refused("version_too_old", **new(image={"method": method}))
    assert run.details["version"] == "8.4"


# ------------------------------------------------------------------------------------------------------ another image


def test_a_moved_tag_is_reported(lxc: Lxc, hub: Hub) -> None:
    old = hub.push(NGINX, nginx())
    lxc.apply(**new())
    moved = hub.push(NGINX, nginx("b"))
    # Nobody asks the registry unless it is wanted.
    lxc.unchanged(**new())
    run = lxc.unchanged(**new(image={"pull": "newer"}))
    assert run.blocked == [("image", f"{NGINX}@{old}", f"{NGINX}@{moved}", "recreate")]
    assert run.result["recreate_required"] == ["image"]
    assert run.asked == reads()
    assert "recreate: true" in run.result["warnings"][0]


def test_a_wrong_image_leaves_the_old_container_alone(lxc: Lxc, hub: Hub) -> None:
    """The holder of the volumes is made of it first, and looked at, also when an earlier run has left it."""
    hub.push(NGINX, nginx())
    old = lxc.apply(**new()).container["vmid"]
    hub.push(NGINX, nginx("b", User="ghost"))
    for _attempt in range(2):
        run = lxc(**new(image={"pull": "newer"}, recreate=True))
        assert run.code == "user_unknown"
        assert lxc.ct(old).status == "running"
    hub.push(NGINX, nginx("c"))
    lxc.converge(**new(image={"pull": "newer"}, recreate=True))
    assert len(lxc.cluster.cluster.cts) == 1


def test_another_reference_is_reported(lxc: Lxc, hub: Hub) -> None:
    old = hub.push(NGINX, nginx())
    lxc.apply(**new())
    later = "docker.io/library/nginx:1.30"
    digest = hub.push(later, nginx("b"))
    run = lxc.unchanged(**new(image={"reference": "nginx:1.30"}))
    assert run.blocked == [("image", f"{NGINX}@{old}", f"{later}@{digest}", "recreate")]


def test_another_tag_of_the_same_image_is_only_noted(lxc: Lxc, hub: Hub) -> None:
    digest = hub.push(NGINX, nginx())
    lxc.apply(**new())
    hub.push("docker.io/library/nginx:stable", nginx())
    run = lxc.converge(**new(image={"reference": "nginx:stable"}))
    assert run.writes == [
        (
            "PUT",
            f"{base()}/config",
            {"description": mark(digest, reference="docker.io/library/nginx:stable"), "digest": ANY},
        )
    ]


def test_a_container_of_something_else_is_reported(lxc: Lxc, hub: Hub) -> None:
    lxc.add(201)
    run = lxc.unchanged(vmid=201, node="pve1", state="present", image={"reference": "nginx:1.29"})
    assert run.blocked == [("image", None, NGINX, "recreate")]
    assert hub.asked == []


# ------------------------------------------------------------------------------------------------------- the fleet


def fleet(lxc: Lxc, check_mode: bool = False, **defaults: t.Any) -> tuple[dict[str, t.Any], list[str]]:
    """Three containers of one image: the result, and the writes."""
    lxc.cluster.requests.clear()
    containers = [{"hostname": f"web-{number}"} for number in (1, 2, 3)]
    image = {"reference": "nginx:1.29", **defaults.pop("image", {})}
    given = {"node": "pve1", "rootfs": ROOT, "image": image, **defaults}
    result = run_module(
        "lxc_fleet", {**lxc.options, "containers": containers, "defaults": given}, check_mode=check_mode
    )
    assert not result.get("failed"), result["msg"]
    return result, [str(request) for request in lxc.cluster.requests.writes]


def test_a_fleet_pulls_an_image_once(lxc: Lxc, hub: Hub) -> None:
    hub.push(NGINX, nginx())
    check, writes = fleet(lxc, check_mode=True)
    assert writes == []
    result, writes = fleet(lxc)
    assert sorted(writes) == sorted(
        [
            f"POST {PULL}",
            *["POST /nodes/pve1/lxc"] * 3,
            *(f"POST {base(vmid)}/status/start" for vmid in (100, 101, 102)),
        ]
    )
    for each in (check, result):
        pulled = [change for entry in each["containers"] for change in entry["plan"] if change["key"] == "template"]
        assert len(pulled) == 1
    # Once in check mode, and once for all three of them.
    assert len([line for line in hub.asked if line.startswith("config")]) == 2
    assert [entry["losses"] for entry in result["containers"]][2]
    result, writes = fleet(lxc)
    assert (result["changed"], writes) == (False, [])


def test_a_fleet_is_made_anew(lxc: Lxc, hub: Hub) -> None:
    hub.push(NGINX, nginx())
    image = {"pull": "newer", "volumes": {"/var/cache/nginx": {"storage": "tank", "size": "1G"}}}
    fleet(lxc, image=image)
    now = hub.push(NGINX, nginx("b"))
    result, _writes = fleet(lxc, image=image, recreate=True)
    assert result["summary"]["changed"] == 3
    for entry in result["containers"]:
        assert mark(now) in entry["container"]["config"]["description"]
        assert entry["container"]["config"]["mp0"].startswith("tank:subvol-")
    result, writes = fleet(lxc, image=image, recreate=True)
    assert (result["changed"], writes) == (False, [])
    assert len(lxc.cluster.cluster.cts) == 3
