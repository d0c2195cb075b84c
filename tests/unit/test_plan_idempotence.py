# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan that is carried out leaves nothing to be done: for any declaration and any container."""

from __future__ import annotations

import contextlib
import typing as t

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.plan import RESTART
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties, spec
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import Actual
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.plan import make_plan
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import Declared
from ansible_collections.lxcri.proxmox.tests.unit.proxmox_model import perform
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

# What a plan may refuse; anything else is a bug.
REFUSALS = ("would_lose_data", "protected", "container_running", "is_template", "invalid_option")


def rarely(strategy: st.SearchStrategy[t.Any]) -> st.SearchStrategy[t.Any]:
    return st.one_of(st.none(), st.none(), strategy)


# Small domains, so that what is declared is often what is there. Each option with the texts that the API gives it.
SCALARS: dict[str, tuple[st.SearchStrategy[t.Any], st.SearchStrategy[t.Any]]] = {
    "memory": (st.sampled_from([256, 512, 1024]), st.sampled_from([256, 512, 1024])),
    "swap": (st.sampled_from([0, 512]), st.sampled_from([0, 512])),
    "cores": (st.integers(1, 2), st.integers(1, 2)),
    "cpulimit": (st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.sampled_from(["0", "0.5", ".5", "1", "1.0", "2.00"])),
    "cpuunits": (st.sampled_from([50, 100]), st.sampled_from([50, 100])),
    "description": (st.sampled_from(["", "a", "a\nb\n"]), st.sampled_from(["a\n", "a\nb\n"])),
    "nameserver": (
        st.sampled_from([[], ["192.0.2.1"], ["192.0.2.1", "192.0.2.2"]]),
        st.sampled_from(["192.0.2.1", "192.0.2.1 192.0.2.2", " "]),
    ),
    "onboot": (st.booleans(), st.sampled_from([0, 1])),
    "console": (st.booleans(), st.sampled_from([0, 1])),
    "tty": (st.integers(0, 3), st.integers(0, 3)),
    "cmode": (st.sampled_from(["tty", "shell"]), st.sampled_from(["tty", "shell"])),
    "timezone": (st.sampled_from(["host", "UTC"]), st.sampled_from(["host", "UTC"])),
    "protection": (st.booleans(), st.sampled_from([0, 0, 1])),
    "tags": (st.lists(st.sampled_from(["a", "B", "c"]), max_size=3), st.sampled_from(["a", "a;b", "c", " "])),
    "env": (
        st.dictionaries(st.sampled_from(["A", "B"]), st.sampled_from(["", "1", "x y"])),
        st.sampled_from(["A=1", "A=\0B=x y", "B="]),
    ),
    "startup": (
        st.fixed_dictionaries({}, optional={"order": st.integers(0, 2), "up": st.integers(0, 1)}),
        st.sampled_from(["1", "order=1", "order=1,up=1", "up=0"]),
    ),
    "features": (
        st.fixed_dictionaries({}, optional={"nesting": st.booleans(), "keyctl": st.booleans()}),
        st.sampled_from(["nesting=1", "keyctl=1,nesting=1", "nesting=0", "keyctl=on"]),
    ),
    "unprivileged": (st.booleans(), st.sampled_from([0, 1])),
    "ostype": (st.sampled_from(["debian", "alpine"]), st.sampled_from(["debian", "alpine"])),
}

SOME_SCALARS = st.lists(st.sampled_from(sorted(SCALARS)), max_size=6, unique=True)

NETWORK = st.fixed_dictionaries(
    {"bridge": st.sampled_from(["vmbr0", "vmbr1"])},
    optional={
        "ip": st.sampled_from(["dhcp", "192.0.2.7/24"]),
        "firewall": st.booleans(),
        "tag": st.sampled_from([10, 20]),
        "hwaddr": st.sampled_from(["bc:24:11:00:00:01", "BC:24:11:00:00:02"]),
    },
)
NETWORK_TEXT = st.sampled_from(
    [
        "bridge=vmbr0,hwaddr=BC:24:11:00:00:01,ip=dhcp,type=veth",
        "bridge=vmbr0,firewall=1,hwaddr=BC:24:11:00:00:02,tag=10,type=veth",
        "bridge=vmbr1,hwaddr=BC:24:11:00:00:02,type=veth",
    ]
)
SIZE = st.sampled_from(["4G", "8G", "8192M", "16G"])
MOUNT = st.fixed_dictionaries(
    {},
    optional={
        "size": SIZE,
        "storage": st.sampled_from(["local-zfs", "tank"]),
        "backup": st.booleans(),
        "ro": st.booleans(),
        "mountoptions": st.lists(st.sampled_from(["noatime", "nodev"]), max_size=2),
    },
)
MOUNT_TEXT = st.sampled_from(["size=4G", "backup=1,size=8G", "ro=1,size=8G", "mountoptions=nodev;noatime,size=8G"])


@st.composite
def declarations(draw: st.DrawFn) -> Declared:
    params: dict[str, t.Any] = {
        **spec.DEFAULTS,
        "vmid": 101,
        "state": draw(st.sampled_from(["present", "started", "stopped", "present", "started", "template"])),
        "restart": draw(st.sampled_from(["never", "if_needed"])),
        "migrate": draw(st.booleans()),
        "move_volumes": draw(st.booleans()),
        "force": draw(st.booleans()),
        "node": draw(st.sampled_from([None, "pve1", "pve1", "pve2"])),
        "pool": draw(rarely(st.sampled_from(["p1", "p2"]))),
        "storage": draw(st.sampled_from([None, "tank"])),
        "template": draw(rarely(st.just("local:vztmpl/debian-13.tar.zst"))),
    }
    for name in draw(SOME_SCALARS):
        params[name] = draw(SCALARS[name][0])
    params["networks"] = draw(
        rarely(
            st.lists(NETWORK, max_size=2).map(lambda nets: [{"name": f"eth{n}", **net} for n, net in enumerate(nets)])
        )
    )
    params["mounts"] = draw(
        rarely(st.lists(MOUNT, max_size=2).map(lambda mounts: [{"mp": f"/m{n}", **m} for n, m in enumerate(mounts)]))
    )
    params["rootfs"] = draw(rarely(MOUNT.map(lambda it: {name: it[name] for name in it if name != "backup"})))
    free = [
        key for key in ("description", "mp1", "net1", "cores", "tags", "tty", "features") if params.get(key) is None
    ]
    params["unset"] = draw(st.lists(st.sampled_from(free), max_size=2, unique=True)) if free else []
    families = {"mp1": "mounts", "net1": "networks"}
    params["unset"] = [key for key in params["unset"] if params.get(families.get(key, "")) is None]
    declared = spec.declare(params)
    declared.owner = draw(rarely(st.just("shop")))
    return declared


WAITING = ("console", "tty", "cmode", "timezone", "nameserver", "features", "env")


@st.composite
def containers(draw: st.DrawFn) -> Actual:
    current: dict[str, t.Any] = {"memory": 512, "ostype": "debian", "arch": "amd64"}
    for name in draw(SOME_SCALARS):
        current[name] = draw(SCALARS[name][1])
    for number in range(2):
        text = draw(rarely(NETWORK_TEXT))
        if text:
            current[f"net{number}"] = f"name=eth{number},{text}"
        text = draw(rarely(MOUNT_TEXT))
        if text:
            current[f"mp{number}"] = f"local-zfs:subvol-101-disk-{number + 1},mp=/m{number},{text}"
    current["rootfs"] = "local-zfs:subvol-101-disk-0," + draw(st.sampled_from(["size=4G", "ro=1,size=8G"]))
    status = draw(st.sampled_from(["stopped", "running"]))
    pending: dict[str, t.Any] = {}
    if status == "running":
        for name in draw(st.lists(st.sampled_from(WAITING), max_size=3, unique=True)):
            value = draw(SCALARS[name][1]) if name not in current or draw(st.booleans()) else None
            if value != current.get(name):
                pending[name] = value
        for number in range(2):
            key = f"mp{number}"
            if key in current:
                options = [None, f"local-zfs:subvol-101-disk-{number + 1},mp=/other,{current[key].split(',')[-1]}"]
                change = draw(st.sampled_from(["", "", *range(2)]))
                if change != "":
                    pending[key] = options[t.cast(int, change)]
    elif draw(st.integers(0, 5)) == 0:
        current["template"] = 1
    pool, has_snapshots = draw(st.sampled_from([None, "p1"])), draw(st.integers(0, 4)) == 0
    return Actual(101, "pve1", status, current, pending, digest="d", pool=pool, has_snapshots=has_snapshots)


@settings(max_examples=250, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(declared=declarations(), actual=containers())
def test_planning_again_finds_nothing_to_do(declared: Declared, actual: Actual) -> None:
    try:
        plan = make_plan(declared, actual)
    except Failure as failure:
        if failure.code not in REFUSALS:
            raise
        assume(False)
        return
    after = actual
    stops = 0
    for step in plan.steps:
        stops += after.running and step.path.rpartition("/")[2] in ("stop", "shutdown", "reboot", "migrate")
        after = perform(after, step)

    assert stops <= 1, "a container is stopped once at most"
    assert after.running == plan.running_after
    if declared.running is not None:
        assert after.running == declared.running
    again = make_plan(declared, after)
    assert [(step.action, step.params) for step in again.steps] == []
    assert {change.key for change in again.blocked} <= {change.key for change in plan.blocked}
    if declared.restart == "never" and declared.running is not False:
        assert not stops, "no restart that was not allowed"
    if declared.running and declared.restart == "if_needed" and stops:
        assert not after.pending


@settings(max_examples=120, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(declared=declarations(), actual=containers())
def test_a_change_says_whether_it_waits(declared: Declared, actual: Actual) -> None:
    """Each changed key of a running container that is not stopped waits if, and only if, its effect is a restart."""
    assume(actual.running)
    try:
        plan = make_plan(declared, actual)
    except Failure:
        assume(False)
        return
    after = actual
    effects: dict[str, str] = {}
    for step in plan.steps:
        if step.path.endswith("/config"):
            after = perform(after, step)
            effects.update({change.key: change.effect for change in step.changes})
    for key, effect in effects.items():
        assert (effect == RESTART) == (key in after.pending), (key, effect, after.pending)
    untouched = {key for key in actual.pending if key not in effects}
    assert set(after.pending) == untouched | {key for key, effect in effects.items() if effect == RESTART}


@settings(max_examples=80)
@given(actual=containers())
def test_declaring_what_is_there_changes_nothing(actual: Actual) -> None:
    """Every key of a container, declared as it is after its next stop."""
    config = {
        key: properties.normalise(key, text)
        for key, text in actual.config.items()
        if properties.key_of(key) and key not in ("template", "lock")
    }
    config = {key: value for key, value in config.items() if value is not None}
    declared = Declared(state="present", vmid=101, node="pve1", config=config, families=("net", "mp"))
    plan = make_plan(declared, actual)
    assert not plan.changes


@settings(max_examples=80)
@given(actual=containers(), declared=declarations())
def test_a_plan_leaves_its_inputs_alone(actual: Actual, declared: Declared) -> None:
    before = (repr(actual), repr(declared))
    with contextlib.suppress(Failure):
        make_plan(declared, actual)
    assert (repr(actual), repr(declared)) == before
