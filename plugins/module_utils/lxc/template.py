# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Templates on storages: what has to be done so that nodes have one, and doing it."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import typing as t
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.access import Need, refuse_missing
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import Client
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure, combined
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.parallel import in_parallel
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.plan import BasePlan, Step
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.tasks import UPID, Log, TaskWatcher, node_of
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.upload import Storage
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.appliances import (
    LONGEST_NAME,
    Entry,
    choose,
    is_exact,
    is_template,
    matches,
    newest,
    normalised,
    unknown,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.apply import Executor, VmidAllocator
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.image import (
    ImageSpec,
    choose_method,
    parse_version,
    pull_step,
    readable_name,
    store_need,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import invalid
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.reference import Reference, parse_reference

STATES = ("present", "absent")
SOURCES = ("template", "url", "src", "reference")
ALGORITHMS = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")
# Proxmox's tasks that bring a template, and carry the name of the file as their id (apl_download of PVE/API2/Nodes.pm,
# download_url and oci_registry_pull of PVE/API2/Storage/Status.pm).
FETCHING_TASKS = ("download", "ociregistrypull")
# That of an upload, without an id (upload of PVE/API2/Storage/Status.pm). It runs on the node of the API, and writes
# the file under its name.
UPLOADING_TASK = "imgcopy"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Wish:
    """What a task wants.

    source: which of SOURCES is given; None when there is only a file name, which is enough to remove it.
    template: the name or pattern of the appliance index. file_name: as Proxmox stores it; None with ``template``.
    size: of the local file, in bytes.
    """

    state: str
    nodes: tuple[str, ...]
    storage: str
    source: str | None
    template: str | None = None
    url: str | None = None
    src: str | None = None
    reference: Reference | None = None
    file_name: str | None = None
    checksum: str | None = None
    algorithm: str = "sha256"
    verify_certificates: bool = True
    architecture: str = "amd64"
    force: bool = False
    timeout: int = 600
    size: int = 0


@dataclass
class Outcome:
    """What became of the storage of one node, or of one that several nodes share.

    node: which does the work. nodes: all whose storage it is.
    files: the templates that are there, with their sizes. file_name: the one that is meant.
    """

    node: str
    nodes: tuple[str, ...]
    plan: BasePlan = field(default_factory=BasePlan)
    log: Log = field(default_factory=Log)
    failure: Failure | None = None
    files: dict[str, int] = field(default_factory=dict)
    index: list[Entry] | None = None
    file_name: str | None = None

    @property
    def label(self) -> str:
        """What messages call it."""
        return ", ".join(self.nodes)


# ------------------------------------------------------------------------------------------------------ the wish


def make_wish(params: t.Mapping[str, t.Any]) -> Wish:
    """The wish that a module's options express; a local file is looked at.

    Raises:
        Failure: ``invalid_option``, naming the option and what would be right; ``file_missing``;
            ``checksum_mismatch``.
    """
    if params["node"] and params["nodes"]:
        raise invalid("nodes", "give node or nodes, not both")
    nodes = tuple(dict.fromkeys([params["node"]] if params["node"] else params["nodes"]))
    if not nodes or "" in nodes:
        raise invalid("node" if params["node"] == "" else "nodes", "give the nodes that are to have the template")
    state, source = params["state"], next((name for name in SOURCES if params[name]), None)
    if source is None and (state == "present" or not params["file_name"]):
        raise invalid("template", "give one of " + ", ".join(SOURCES))
    _refuse_stray_options(params, source)
    reference = _reference(params["reference"]) if source == "reference" else None
    wish = Wish(
        state=state,
        nodes=nodes,
        storage=params["storage"],
        source=source,
        template=params["template"] if source == "template" else None,
        url=params["url"] if source == "url" else None,
        src=params["src"] if source == "src" else None,
        reference=reference,
        file_name=_file_name(params, source, reference),
        checksum=params["checksum"].lower() if params["checksum"] else None,
        algorithm=params["checksum_algorithm"],
        verify_certificates=params["verify_certificates"],
        architecture=params["architecture"],
        force=params["force"],
        timeout=params["timeout"],
        size=_size_of(params["src"]) if source == "src" and state == "present" else 0,
    )
    if wish.src and wish.checksum and state == "present":
        _verify(wish.src, wish.algorithm, wish.checksum)
    return wish


def _refuse_stray_options(params: t.Mapping[str, t.Any], source: str | None) -> None:
    if params["checksum"]:
        if source not in ("url", "src"):
            raise invalid("checksum", "it is of use with url and src only")
        digits = hashlib.new(params["checksum_algorithm"]).digest_size * 2
        if not re.fullmatch(f"[0-9a-fA-F]{{{digits}}}", params["checksum"]):
            raise invalid("checksum", f"{params['checksum_algorithm']} has {digits} hexadecimal digits")
    if params["file_name"] and source == "template":
        raise invalid("file_name", "a template of the index keeps its name")
    if params["force"] and source != "src":
        raise invalid("force", "it has a meaning with src only; Proxmox overwrites no file that it fetches itself")
    if source == "url" and urlsplit(params["url"]).scheme not in ("http", "https"):
        raise invalid("url", "Proxmox fetches from http:// and https:// only")


def _reference(text: str) -> Reference:
    reference = parse_reference(text)
    if not ImageSpec(reference).is_anonymous_tag:
        raise invalid("reference", "Proxmox itself pulls by a tag only, such as docker.io/library/nginx:1.29")
    return reference


def _file_name(params: t.Mapping[str, t.Any], source: str | None, reference: Reference | None) -> str | None:
    """The name of the file on the storage; None where the index knows it."""
    if source == "template":
        return None
    given = params["file_name"]
    if given:
        name, option = normalised(given), "file_name"
        if name != given:
            raise invalid(option, f"Proxmox would call it {name!r}")
    elif source == "url":
        name, option = normalised(unquote(urlsplit(params["url"]).path)), "url"
    elif source == "src":
        name, option = normalised(params["src"]), "src"
    else:
        name, option = f"{readable_name(t.cast(Reference, reference))}.tar", "reference"
    if len(name) > LONGEST_NAME:
        raise invalid(option, f"the name of the file has more than {LONGEST_NAME} characters")
    if source == "reference" and not name.endswith(".tar"):
        raise invalid(option, "an image that Proxmox pulls is a file that ends with .tar")
    if not is_template(name):
        raise invalid(
            option, f"{name!r} is no template: it has to end with .tar, .tar.gz, .tar.xz, .tar.zst or .tar.bz2"
        )
    return name


def _size_of(path: str) -> int:
    try:
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode):
            raise Failure("file_missing", f"{path} is no file.", "Give a file where the module runs.", path=path)
        with open(path, "rb"):
            return about.st_size
    except OSError as error:
        raise Failure(
            "file_missing", f"{path} cannot be read: {error.strerror}.", "Give a file where the module runs.", path=path
        ) from None


def _verify(path: str, algorithm: str, expected: str) -> None:
    state = hashlib.new(algorithm)
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            state.update(chunk)
    actual = state.hexdigest()
    if actual != expected:
        raise Failure(
            "checksum_mismatch",
            f"The {algorithm} checksum of {path} is {actual}, expected is {expected}.",
            "Nothing was uploaded. Correct the checksum, or find out who has changed the file.",
            actual=actual,
            expected=expected,
        )


# ------------------------------------------------------------------------------------------------------ the plan


def plan_removal(wish: Wish, outcome: Outcome) -> BasePlan:
    """The steps that remove the files that are meant; only what the storage lists as a template."""
    wanted = wish.file_name or wish.template or ""
    plan = BasePlan()
    for name in sorted(outcome.files):
        if name == wanted or (wish.template and matches(wish.template, name)):
            volume = f"{wish.storage}:vztmpl/{name}"
            step = Step("removed", "DELETE", f"nodes/{outcome.node}/storage/{wish.storage}/content/{volume}")
            step.add(f"template {volume}", outcome.files[name], None)
            # content of PVE/API2/Storage/Content.pm: what is no backup needs more than it takes to bring it.
            step.needs = [Need((f"/storage/{wish.storage}",), ("Datastore.Allocate",), "remove the template")]
            plan.steps.append(step)
    return plan


def plan_presence(wish: Wish, outcome: Outcome) -> BasePlan:
    """The step that brings the file, when it is not there.

    Raises:
        Failure: ``file_differs``: a file of this name has another size than the local one.
    """
    name = t.cast(str, outcome.file_name)
    there = outcome.files.get(name)
    if there is not None and (wish.source != "src" or there == wish.size):
        return BasePlan()
    if there is not None and not wish.force:
        raise Failure(
            "file_differs",
            f"{wish.storage} of {outcome.label} has another {name}: {there} bytes, and {wish.src} has {wish.size}.",
            "Set 'force: true' to have it replaced, or give another file_name.",
            file=name,
            size=there,
            expected=wish.size,
        )
    step = _fetch_step(wish, outcome.node, name)
    step.add(f"template {wish.storage}:vztmpl/{name}", there, wish.size if wish.source == "src" else "present")
    return BasePlan([step])


def _fetch_step(wish: Wish, node: str, name: str) -> Step:
    storage = f"nodes/{node}/storage/{wish.storage}"
    if wish.reference:
        pull = pull_step(node, wish.storage, wish.reference, name)
        # A file that is there by then is not taken for this one's own.
        pull.action = "fetched"
        return pull
    needs = [store_need(wish.storage, "store the template")]
    if wish.source == "template":
        step = Step("fetched", "POST", f"nodes/{node}/aplinfo", {"storage": wish.storage, "template": name})
    elif wish.source == "src":
        step = Step("uploaded", "POST", f"{storage}/upload", {"content": "vztmpl", "filename": name})
    else:
        params: dict[str, t.Any] = {"content": "vztmpl", "filename": name, "url": wish.url}
        if wish.checksum:
            params.update({"checksum": wish.checksum, "checksum-algorithm": wish.algorithm})
        if not wish.verify_certificates:
            params["verify-certificates"] = False
        step = Step("fetched", "POST", f"{storage}/download-url", params)
    step.needs = needs
    return step


def fetch_needs(node: str) -> list[Need]:
    """What it takes to have a node fetch a URL (``download_url`` of PVE/API2/Storage/Status.pm)."""
    return [Need((f"/nodes/{node}",), ("Sys.AccessNetwork",), "fetch the URL")]


# What Proxmox takes instead of Sys.AccessNetwork.
_OLDER_NEEDS = [Need(("/",), (privilege,), "fetch the URL") for privilege in ("Sys.Audit", "Sys.Modify")]


def is_fetching(entry: t.Mapping[str, t.Any], name: str) -> bool:
    """Whether a task in a node's list is bringing a file of this name.

    The storage is not in a task's id. (``encode_text`` of PVE/ParseUtils.pm makes the id of the name.)
    """
    return entry.get("type") in FETCHING_TASKS and unquote(str(entry.get("id"))) == name


# ------------------------------------------------------------------------------------------------------- the work


class Templates:
    """Does what a task wants on the storages of many nodes."""

    def __init__(self, client: Client, check_mode: bool) -> None:
        self._client = client
        self._check_mode = check_mode
        self._watcher = TaskWatcher(client)

    def run(self, wish: Wish) -> list[Outcome]:
        """Do it; one node's failure does not stop the others.

        Raises:
            Failure: before the first write, what concerns all: missing privileges, an unknown template.
        """
        outcomes = self._places(wish)
        self._each(outcomes, lambda outcome: self._read(wish, outcome))
        if wish.state == "absent":
            self._each(outcomes, lambda outcome: setattr(outcome, "plan", plan_removal(wish, outcome)))
        else:
            self._name(wish, outcomes)
            self._each(outcomes, lambda outcome: self._plan(wish, outcome))
        self._refuse_missing(wish, outcomes)
        if not self._check_mode:
            work = [outcome for outcome in outcomes if outcome.plan.changed]
            self._each(work, lambda outcome: self._apply(wish, outcome))
        return outcomes

    @staticmethod
    def _each(outcomes: t.Sequence[Outcome], work: t.Callable[[Outcome], None]) -> None:
        """Do something for each that has not failed yet, concurrently; a failure is kept with its outcome."""

        def one(outcome: Outcome) -> None:
            try:
                work(outcome)
            except Failure as failure:
                outcome.failure = failure

        in_parallel(one, [outcome for outcome in outcomes if not outcome.failure])

    def _places(self, wish: Wish) -> list[Outcome]:
        """One outcome for each storage: what several nodes share is read and written once."""
        if len(wish.nodes) == 1:
            return [Outcome(wish.nodes[0], wish.nodes)]
        entries = {
            str(entry["node"]): entry
            for entry in self._client.get("cluster/resources", type="storage") or []
            if entry.get("storage") == wish.storage
        }
        shared = tuple(node for node in wish.nodes if int(entries.get(node, {}).get("shared") or 0))
        outcomes = [Outcome(node, (node,)) for node in wish.nodes if node not in shared]
        if shared:
            able = (node for node in shared if entries[node].get("status") == "available")
            outcomes.insert(0, Outcome(next(able, shared[0]), shared))
        return outcomes

    def _storage(self, wish: Wish, outcome: Outcome) -> Storage:
        return Storage(self._client, outcome.node, wish.storage, wish.timeout)

    def _read(self, wish: Wish, outcome: Outcome) -> None:
        outcome.files = self._storage(wish, outcome).files()
        outcome.file_name = outcome.file_name or wish.file_name

    def _name(self, wish: Wish, outcomes: t.Sequence[Outcome]) -> None:
        """Find the file that a name or pattern of the index means: the same for all nodes."""
        if wish.template is None:
            return
        template = wish.template
        going = [outcome for outcome in outcomes if not outcome.failure]
        asking = [outcome for outcome in going if not (is_exact(template) and template in outcome.files)]
        self._each(asking, self._read_index)
        indexes = [outcome.index for outcome in asking if outcome.index is not None]
        found = choose(template, wish.architecture, indexes) if indexes else template
        for outcome in going:
            # What the index lacks may be on the storage all the same.
            stored = newest(name for name in outcome.files if matches(template, name))
            outcome.file_name = found or stored
            if outcome.file_name is None and not outcome.failure:
                outcome.failure = unknown(template, indexes, outcome.files)

    def _read_index(self, outcome: Outcome) -> None:
        outcome.index = self._client.get(f"nodes/{outcome.node}/aplinfo") or []

    def _plan(self, wish: Wish, outcome: Outcome) -> None:
        others = self._others(wish, outcome)
        if others and not self._check_mode:
            self._await(wish, outcome, others)
        # In check mode it counts as there: it will be by the time the task runs.
        plan = BasePlan() if others and self._check_mode else plan_presence(wish, outcome)
        if others:
            plan.notes.append(f"{outcome.file_name} was being fetched by another task.")
        if plan.changed:
            storage = self._storage(wish, outcome)
            storage.refuse_unsuited("storage")
            if wish.source == "src":
                storage.refuse_backend()
            if wish.reference:
                version = parse_version((self._client.get("version") or {}).get("version"))
                choose_method(ImageSpec(wish.reference, wish.storage, method="registry"), version)
        outcome.plan = plan

    def _others(self, wish: Wish, outcome: Outcome) -> list[str]:
        """The tasks that somebody else has started and that may bring the file."""
        there = outcome.files.get(str(outcome.file_name))
        if wish.source == "src":
            if there is None or there >= wish.size:
                return []
            listed = self._client.get("cluster/tasks") or []
            found = [entry for entry in listed if entry.get("type") == UPLOADING_TASK and not entry.get("endtime")]
        elif there is None:
            listed = self._client.get(f"nodes/{outcome.node}/tasks", source="active", limit=500) or []
            found = [entry for entry in listed if is_fetching(entry, str(outcome.file_name))]
        else:
            found = []
        return [str(entry["upid"]) for entry in found if self._is_running(str(entry["upid"]))]

    def _is_running(self, upid: str) -> bool:
        """Asked of the task itself: lists show one as running until the statistics of its node notice its end."""
        if not UPID.match(upid):
            return False
        status = self._client.get(f"nodes/{node_of(upid)}/tasks/{upid}/status") or {}
        return bool(status.get("status") == "running")

    def _await(self, wish: Wish, outcome: Outcome, upids: t.Sequence[str]) -> None:
        """Wait for tasks that somebody else has started, and look again."""
        for upid in upids:
            try:
                self._watcher.wait(upid, wish.timeout)
            except Failure as failure:
                # How another's task ends is not of interest: what counts is whether the file is there then.
                if failure.code == "timeout":
                    raise
        self._read(wish, outcome)

    def _refuse_missing(self, wish: Wish, outcomes: t.Sequence[Outcome]) -> None:
        going = [outcome for outcome in outcomes if not outcome.failure and outcome.plan.changed]
        needs = [need for outcome in going for need in outcome.plan.needs]
        fetching = wish.source == "url" and wish.state == "present"
        try:
            refuse_missing(
                self._client, needs + [need for outcome in going if fetching for need in fetch_needs(outcome.node)]
            )
        except Failure:
            if not fetching:
                raise
            try:
                refuse_missing(self._client, needs + _OLDER_NEEDS)
                return
            except Failure:
                pass
            raise

    def _apply(self, wish: Wish, outcome: Outcome) -> None:
        executor = Executor(self._client, self._watcher, VmidAllocator(self._client), wish.timeout)
        outcome.log = executor.log
        for step in outcome.plan.steps:
            if step.action == "uploaded":
                self._storage(wish, outcome).put(str(wish.src), str(outcome.file_name), outcome.log)
                continue
            try:
                executor.send(step)
            except Failure as failure:
                if failure.code != "file_exists":
                    raise
                self._read(wish, outcome)
                if outcome.file_name not in outcome.files:
                    raise
                outcome.plan = BasePlan(notes=[f"{outcome.file_name} was fetched by another task meanwhile."])


def module_result(wish: Wish, outcomes: t.Sequence[Outcome]) -> dict[str, t.Any]:
    """The result of ``lxc_template``."""
    volumes = {}
    entries = []
    for outcome in outcomes:
        volume = None
        if wish.state == "present" and not outcome.failure:
            volume = f"{wish.storage}:vztmpl/{outcome.file_name}"
            volumes.update(dict.fromkeys(outcome.nodes, volume))
        entry: dict[str, t.Any] = {
            "node": outcome.node,
            "nodes": list(outcome.nodes),
            "volume": volume,
            "changed": outcome.plan.changed,
            "plan": [change.as_dict() for change in outcome.plan.changes],
            "tasks": outcome.log.as_list(),
            "notes": outcome.plan.notes,
        }
        if outcome.failure:
            entry["failure"] = outcome.failure.as_dict()
        entries.append(entry)
    answer: dict[str, t.Any] = {
        "changed": any(outcome.plan.changed for outcome in outcomes),
        "volume": next((volumes[node] for node in wish.nodes if node in volumes), None),
        "volumes": {node: volumes[node] for node in wish.nodes if node in volumes},
        "plan": [change for entry in entries for change in entry["plan"]],
        "tasks": [task for entry in entries for task in entry["tasks"]],
        "storages": entries,
        "diff": [outcome.plan.diff(outcome.label) for outcome in outcomes if outcome.plan.changed],
        "warnings": [f"{outcome.label}: {line}" for outcome in outcomes for line in outcome.log.warnings],
    }
    failed = [(outcome.label, outcome.failure) for outcome in outcomes if outcome.failure]
    if failed:
        failure = combined(failed, len(outcomes), "nodes_failed")
        answer.update(msg=failure.sentence, failure=failure.as_dict())
    return answer
