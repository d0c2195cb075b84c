# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects of a cluster: reading them, carrying out a plan, and what the module returns."""

from __future__ import annotations

import re
import typing as t
from urllib.parse import quote

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.access import refuse_missing
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.parallel import in_parallel
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.plan import Change, Step
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.tasks import Log, TaskWatcher, is_upid
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.declared import (
    UNKNOWN,
    Declared,
    Place,
    Wish,
    entries_of,
    is_marked,
    make_wish,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.kinds import Kind
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.plan import (
    Actual,
    Plan,
    State,
    entry_of,
    make_plan,
    read_entries,
    read_entry,
    to_dict,
    values_of,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.objects.rows_network import FIREWALL_RULE

# How often it is planned anew when somebody else has changed something meanwhile.
TRIES = 3
# What stays as it is in a path. Only what would end the path has to be written otherwise.
PATH_CHARACTERS = "/:@!,+=~"
# The parts that an object must not have when it is removed.
EMPTIED = ("rules", "members")
# A VNet or a security group that is still to be made; a VNet has a firewall when it is in force.
NOT_THERE = re.compile(r"sdn (vnet )?'\w+' does not exist|no such security group|invalid vnet specified")


class Objects:
    """The objects of one kind."""

    def __init__(self, client: Client, check_mode: bool) -> None:
        self._client = client
        self._check = check_mode
        self._tasks = TaskWatcher(client)
        self.log = Log()
        self.tokens: list[dict[str, t.Any]] = []
        self.done: list[Change] = []

    def run(self, params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        """Do what the module's options say; its result.

        Raises:
            Failure: what is declared cannot be right; what the API answers before anything was changed.
        """
        # Everything that can be known without the cluster is checked first.
        wish = make_wish(params)
        self._check_backend(wish)
        if any(UNKNOWN in it.place.keys.values() for it in wish.objects) or any(
            UNKNOWN in place.keys.values() for place in wish.places
        ):
            wish = make_wish(params, self._guests())
        return self._converge(wish, TRIES)

    def _converge(self, wish: Wish, tries: int) -> dict[str, t.Any]:
        """Read, plan and apply; anew while somebody else has changed something before the first write."""
        state = self.read(wish)
        plan = make_plan(wish, state, self._client.credentials.identity)
        self._check_privileges(plan)
        if self._check or not plan.changed:
            return self._result(wish, plan, state, None)
        try:
            self._apply(wish, plan)
            state = self.read(wish)
        except Failure as failure:
            if failure.code == "modified" and not self.done and tries > 1:
                return self._converge(wish, tries - 1)
            return self._result(wish, plan, None, failure)
        return self._result(wish, plan, state, None)

    # ----------------------------------------------------------------------------------------------------- reading

    def read(self, wish: Wish) -> State:
        """What there is: one request for each place, and one for each object of which the list does not tell all."""
        places = list(wish.places)
        state = State()
        for place, (entries, changes) in zip(places, in_parallel(lambda it: self._list(wish.kind, it), places)):
            state.listed[place] = read_entries(wish.kind, place, entries)
            if changes is not None:
                state.changes[place] = changes
        wanted = self._lacking(wish, state)
        for it, more in zip(wanted, in_parallel(lambda one: self._details(wish.kind, one), wanted)):
            full = read_entry(wish.kind, it.place, {**it.raw, **more})
            it.values, it.raw = full.values, full.raw
        return state

    def _list(self, kind: Kind, place: Place) -> tuple[list[dict[str, t.Any]], str | None]:
        """The entries of a list; and what waits to be applied where that is told beside the list."""
        path = self._quoted(place.path)
        try:
            if kind.apply is not None and kind.apply.waiting == "changes":
                answer = self._client.get_all(path, **kind.query)
                return list(answer.get("data") or []), str(answer.get("changes") or "")
            found = self._client.get(path, **kind.query)
        except Failure as failure:
            # What is to be in something that is not there yet is not there either.
            if place.values and failure.code == "api_error" and NOT_THERE.search(failure.message):
                return [], None
            raise
        return [found] if isinstance(found, dict) else list(found or []), None

    def _lacking(self, wish: Wish, state: State) -> list[Actual]:
        """The objects of which more has to be known than the list tells."""
        kind = wish.kind
        if kind.details is None:
            return []
        found = []
        for declared in wish.objects:
            it = state.find(declared)
            if it is not None and self._needs_details(kind, wish.present, declared):
                found.append(it)
        if kind.attached in EMPTIED and wish.exclusive:
            declared_names = {(it.place, it.identity) for it in wish.objects}
            found += [
                it
                for listed in state.listed.values()
                for it in listed
                if (it.place, it.identity) not in declared_names
                and is_marked(wish.mark, it.values.get(kind.comment or ""))
            ]
        return found

    @staticmethod
    def _needs_details(kind: Kind, present: bool, declared: Declared) -> bool:
        if not present:
            return kind.attached in EMPTIED
        if kind.attached == "rules":
            return False
        wanted = {"members": ("vms", "storage"), "cidrs": ("cidrs",)}.get(kind.detail or "", ())
        return not wanted or any(name in declared.values for name in wanted)

    def _details(self, kind: Kind, it: Actual) -> dict[str, t.Any]:
        path = str(kind.details).format(collection=it.place.path, id=it.identity[-1], **it.place.keys)
        if kind.detail == "members":
            [answer] = self._client.get(path, **it.names)
            members = answer.get("members") or []
            # A storage is a member once, and listed for each node.
            return {
                "vms": sorted({str(each["vmid"]) for each in members if each.get("vmid")}),
                "storage": sorted({str(each["storage"]) for each in members if each.get("type") == "storage"}),
            }
        answer = self._client.get(self._quoted(path))
        if kind.detail == "cidrs":
            names = ("cidr", "comment", "nomatch")
            return {"cidrs": [{name: each[name] for name in names if name in each} for each in answer or []]}
        return {str(kind.detail): answer} if kind.detail else dict(answer or {})

    def _guests(self) -> dict[str, tuple[str, str]]:
        """Node and type of every guest, by its id."""
        listed = self._client.get("cluster/resources", type="vm") or []
        return {str(it["vmid"]): (str(it["node"]), str(it["type"])) for it in listed if it.get("vmid")}

    def _quoted(self, path: str) -> str:
        return quote(path, safe=PATH_CHARACTERS) if self._client.credentials.backend == "https" else path

    # ---------------------------------------------------------------------------------------------------- checking

    def _check_privileges(self, plan: Plan) -> None:
        """Refuse what may not be done; and what cannot be told to be absent, because it may not be seen."""
        needs = plan.needs + plan.unseen
        if needs:
            refuse_missing(self._client, needs)

    def _check_backend(self, wish: Wish) -> None:
        """Refuse what pvesh cannot be given safely, or at all."""
        if self._client.credentials.backend == "https":
            return
        for declared in wish.objects:
            hidden = [name for name in wish.kind.secrets if name in declared.values]
            if hidden:
                raise Failure(
                    "invalid_option",
                    f"api_backend: {hidden[0]} would be an argument of pvesh, which every user of the node can read.",
                    "Use api_backend=https.",
                    option="api_backend",
                )

    # ---------------------------------------------------------------------------------------------------- applying

    def _apply(self, wish: Wish, plan: Plan) -> None:
        """Carry out the steps, one after the other.

        The digest of a list covers all of its objects, so that only the first write after a read can carry it.
        """
        written: set[str] = set()
        for step in plan.steps:
            params = dict(step.params)
            payload = step.payload or {}
            if "expects" in payload:
                self._expect(step, payload, params)
            elif step.digest and payload.get("digest") and not written:
                params["digest"] = payload["digest"]
            answer = self._client.request(step.method, self._quoted(step.path), params)
            written.add(step.path)
            self.done += step.changes
            if is_upid(answer):
                self.log.tasks.append(self._tasks.wait(str(answer), wish.timeout))
            elif payload.get("secret") and isinstance(answer, dict):
                self.tokens.append({"tokenid": answer.get("full-tokenid"), "value": answer.get("value")})

    def _expect(self, step: Step, payload: t.Mapping[str, t.Any], params: dict[str, t.Any]) -> None:
        """Make sure that positions still mean the rules for which they were planned."""
        rules = self._client.get(self._quoted(payload["list"])) or []
        place = payload["place"]
        if [values_of(FIREWALL_RULE, place, rule) for rule in rules] != payload["expects"]:
            raise Failure(
                "modified",
                f"Somebody else has changed the rules in /{payload['list']}.",
                "Run again.",
                request=f"{step.method} {step.path}",
            )
        if step.digest and rules:
            params["digest"] = rules[0].get("digest")

    # ------------------------------------------------------------------------------------------------------ results

    def _result(self, wish: Wish, plan: Plan, state: State | None, failure: Failure | None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = {
            "changed": bool(self.done) if failure else plan.changed,
            "plan": [change.as_dict() for change in plan.changes],
            "diff": plan.diffs,
            "objects": _objects_of(wish, state),
            "tokens": self.tokens,
            "tasks": self.log.as_list(),
            "notes": plan.notes,
            "warnings": [*self.log.warnings, *(f"{it.key}: {it.hint}" for it in plan.blocked)],
        }
        if failure:
            failure.details["done"] = [change.as_dict() for change in self.done]
            result["msg"] = failure.sentence
            result["failure"] = failure.as_dict()
        return result


def _objects_of(wish: Wish, state: State | None) -> list[dict[str, t.Any]]:
    """The declared objects as they are now."""
    if state is None:
        return []
    kind = wish.kind
    if kind.manner in ("rules", "options"):
        return [to_dict(kind, it) for place in wish.places for it in state.listed[place]]
    if kind.manner == "acl":
        asked = {(it.names["path"], entry) for it in wish.objects for entry in entries_of(it)}
        return [
            {"path": it.names["path"], f"{entry[0]}s": [entry[1]], "roles": [entry[2]], **to_dict(kind, it)}
            for place in wish.places
            for it in state.listed[place]
            for entry in [entry_of(it)]
            if (it.names["path"], entry) in asked
        ]
    wanted = {(it.place, it.identity) for it in wish.objects}
    return [
        to_dict(kind, it)
        for place in wish.places
        for it in state.listed[place]
        if it.there and (place, it.identity) in wanted
    ]
