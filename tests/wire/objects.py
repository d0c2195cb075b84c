# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of pve_object share."""

from __future__ import annotations

import copy
import typing as t

from ansible_collections.lxcri.proxmox.tests.simulator.cluster import Cluster
from ansible_collections.lxcri.proxmox.tests.simulator.serving import Simulator
from ansible_collections.lxcri.proxmox.tests.wire.module_runner import run_module
from ansible_collections.lxcri.proxmox.tests.wire.support import Run

STORES = (
    *("user_cfg", "users", "groups", "roles", "acl_entries", "user_tokens", "domains", "jobs", "replications"),
    *("ha_resources", "ha_rules", "metric_servers", "sdn", "sdn_running", "sdn_dns", "sdn_ipams", "interfaces"),
    *("interfaces_new", "endpoints", "matchers", "hidden", "pools", "pool_info"),
)


def everything(cluster: Cluster) -> dict[str, t.Any]:
    """All that a write could change."""
    # Lists make what they show on the way.
    cluster._user_entries()
    cluster._domains()
    for node in cluster.nodes:
        cluster._node_interfaces(node)
    for pool in cluster.pools:
        cluster._pool_meta(pool)
    found = {name: copy.deepcopy(getattr(cluster, name)) for name in STORES}
    storages = {name: cluster._options_of(store) for name, store in cluster.storages.items()}
    firewall = cluster._fw()
    parts = {"cluster": firewall["cluster"], **firewall["nodes"], **firewall["guests"], **firewall.get("vnets", {})}
    filled = {name: copy.deepcopy(part) for name, part in parts.items() if any(part.values())}
    return {**found, "storages": storages, "firewall": filled, "tasks": len(cluster.tasks)}


class Pve:
    """Runs pve_object against the cluster, as root's token unless the options say otherwise."""

    def __init__(self, cluster: Simulator) -> None:
        self.cluster = cluster
        self.options: dict[str, t.Any] = dict(cluster.options)

    @property
    def simulated(self) -> Cluster:
        return self.cluster.cluster

    def as_root(self) -> None:
        """Log in as root@pam with the password, who alone may do everything."""
        for name in ("api_token_id", "api_token_secret"):
            self.options.pop(name, None)
        self.options.update(api_user=self.cluster.user, api_password=self.cluster.password)

    def as_token(self, acl: t.Mapping[str, t.Sequence[str]]) -> None:
        """Be a token whose user has these privileges."""
        self.cluster.call("add_user", "ops@pve", acl=acl)
        secret = self.cluster.call("add_token", "ops@pve!t1")
        self.options.update(api_user="ops@pve", api_token_id="t1", api_token_secret=secret)

    def __call__(self, kind: str, *objects: t.Any, check_mode: bool = False, **options: t.Any) -> Run:
        """Run it once."""
        self.cluster.requests.clear()
        given = {"object": objects[0]} if len(objects) == 1 else {"objects": list(objects)}
        if options.pop("nothing", False):
            given = {}
        result = run_module("pve_object", {**self.options, "kind": kind, **given, **options}, check_mode, True)
        return Run(result, list(self.cluster.requests))

    def check(self, kind: str, *objects: t.Any, **options: t.Any) -> Run:
        """Run it in check mode, which must change nothing and send nothing but GET."""
        before = self.cluster.call(everything)
        run = self(kind, *objects, check_mode=True, **options)
        assert run.writes == []
        assert self.cluster.call(everything) == before
        return run

    def apply(self, kind: str, *objects: t.Any, **options: t.Any) -> Run:
        """Check first, then run: both must say the same."""
        check = self.check(kind, *objects, **options)
        assert not check.result.get("failed"), check.result["msg"]
        run = self(kind, *objects, **options)
        assert not run.result.get("failed"), run.result["msg"]
        for name in ("changed", "plan", "diff", "notes"):
            assert check.result[name] == run.result[name], name
        return run

    def converge(self, kind: str, *objects: t.Any, **options: t.Any) -> Run:
        """Check, run, and run again: the second run must do nothing."""
        run = self.apply(kind, *objects, **options)
        again = self(kind, *objects, **options)
        assert not again.result.get("failed"), again.result["msg"]
        assert (again.writes, again.result["plan"], again.changed) == ([], [], False)
        assert again.result["diff"] == []
        assert again.result["objects"] == run.result["objects"]
        return run

    def refused(self, code: str, kind: str, *objects: t.Any, **options: t.Any) -> Run:
        """Check and run: both must be refused with nothing but GET sent."""
        check = self.check(kind, *objects, **options)
        before = self.cluster.call(everything)
        run = self(kind, *objects, **options)
        for each in (check, run):
            assert (each.code, each.writes) == (code, []), each.result
            assert not each.result.get("changed")
        assert self.cluster.call(everything) == before
        assert check.result["failure"] == run.result["failure"]
        return run
