# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers of OCI images: what is declared, what Proxmox makes of an image, and what is left to be done. Pure.

Which image a container was made of is kept in a comment of its description, where neither a person nor Proxmox sees
it: of the template Proxmox keeps nothing, and tags may be restricted.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.access import Need
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.errors import Failure
from ansible_collections.lxcri.proxmox.plugins.module_utils.api.plan import RECREATE, Change, Step
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc import properties
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.model import HOLDER, Actual, Plan
from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.notes import with_note
from ansible_collections.lxcri.proxmox.plugins.module_utils.node.raw_keys import CONTROL, CONTROL_OR_TAB, SIGNAL
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci import init_command
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.image import STORE
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.init_script import INIT
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.lxc_config import (
    COMMAND,
    Mapped,
    from_image,
    signal_name,
)
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.reference import Reference

if t.TYPE_CHECKING:
    from ansible_collections.lxcri.proxmox.plugins.module_utils.lxc.spec import Declared

METHODS = ("auto", "registry", "upload", "template")
# How the image reaches the storage such that Proxmox itself makes the container's configuration of it.
IMPORTED = ("registry", "upload")
# Since this version Proxmox takes images, and has the options entrypoint and env.
IMAGES_SINCE = (9, 1)
PLATFORM = "linux/amd64"

# oci-registry-pull of PVE/API2/Storage/Status.pm: a tag and no digest, no port in brackets.
_LABEL = r"(?:[a-zA-Z\d]|[a-zA-Z\d][a-zA-Z\d-]*[a-zA-Z\d])"
_COMPONENT = r"[a-z\d]+(?:(?:[._]|__|-*)[a-z\d]+)*"
_PULLABLE = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*(?::\d+)?/)?{_COMPONENT}(?:/{_COMPONENT})*:\w[\w.-]{{0,127}}")
# restore_oci_archive of PVE/LXC/Create.pm writes these raw lines of an image, and no others.
IMPORTED_LINES = ("lxc.init.uid", "lxc.init.gid", "lxc.init.groups", "lxc.init.cwd", "lxc.signal.halt")
# What it sets of the options, whatever the request has.
IMPORTED_KEYS = ("entrypoint", "env", "cmode")

# An argument that the shell_quote of Perl's String::ShellQuote leaves as it is. cmd2string of PVE/Tools.pm gives it
# each by itself, so that "=" is always quoted: it could be an assignment.
_BARE = re.compile(r"[\w!%+,\-./:@^]+")

_MARK = re.compile(
    r"\n*<!-- lxcri\.proxmox image=(?P<reference>\S+) digest=(?P<digest>sha256:[0-9a-f]{64})"
    rf"(?: env=(?P<env>[\w,]*))?(?: holder=(?P<holder>\d+|{re.escape(HOLDER)}))? -->"
)
# Every note of this collection in a description: on the image, on the home of a drained container (lxc/drain.py), on
# what a container was before it was made anew (lxc/rollout_image.py).
_NOTE = re.compile(r"\n*<!-- lxcri\.proxmox [a-z]+=.*? -->")

IMAGE_OPTIONS: dict[str, t.Any] = {
    "reference": {"type": "str", "required": True},
    "storage": {"type": "str", "default": "local"},
    "pull": {"type": "str", "choices": ["missing", "newer"], "default": "missing"},
    "method": {"type": "str", "choices": list(METHODS), "default": "auto"},
    "platform": {"type": "str"},
    "username": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "token": {"type": "str", "no_log": True},
    "auth_file": {"type": "path"},
    "ca_path": {"type": "path"},
    "validate_certs": {"type": "bool", "default": True},
    "store": {"type": "path", "default": STORE},
    "volumes": {"type": "dict", "default": {}},
}


@dataclass(frozen=True)
class ImageSpec:
    """The image that a container is made of, and how it is fetched.

    volumes: normal forms of mount points by the path inside the container.
    """

    reference: Reference
    storage: str = "local"
    pull: str = "missing"
    method: str = "auto"
    platform: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    auth_file: str | None = None
    ca_path: str | None = None
    validate_certs: bool = True
    store: str = STORE
    volumes: t.Mapping[str, dict[str, t.Any]] = field(default_factory=dict)

    @property
    def is_anonymous_tag(self) -> bool:
        """True for what Proxmox can pull by itself: its call has no credentials, no CA and no platform."""
        special = (self.username, self.password, self.token, self.auth_file, self.ca_path, self.platform)
        return (
            not any(special)
            and self.validate_certs
            and not self.reference.digest
            and _PULLABLE.fullmatch(str(self.reference)) is not None
        )


@dataclass(frozen=True)
class Mark:
    """Of which image a container was made.

    env: names of the variables that were declared besides those of the image.
    holder: the container that holds its volumes while it is made anew; a text as long as its id is not chosen.
    """

    reference: str
    digest: str
    env: tuple[str, ...] = ()
    holder: int | str | None = None

    def __str__(self) -> str:
        env = f" env={','.join(self.env)}" if self.env else ""
        holder = f" holder={self.holder}" if self.holder else ""
        return f"<!-- lxcri.proxmox image={self.reference} digest={self.digest}{env}{holder} -->"

    @property
    def shown(self) -> str:
        """As plans show it."""
        return self.reference if "@" in self.reference else f"{self.reference}@{self.digest}"


def mark_of(description: t.Any) -> Mark | None:
    """The mark in a description; None when there is none."""
    match = _MARK.search(str(description or ""))
    if not match:
        return None
    env = tuple(filter(None, (match["env"] or "").split(",")))
    holder = match["holder"]
    return Mark(match["reference"], match["digest"], env, int(holder) if holder and holder.isdigit() else holder)


def text_of(description: t.Any) -> str:
    """The description as a person wrote it, without the notes of this collection."""
    return _NOTE.sub("", str(description or "")).strip("\n")


def with_text(description: t.Any, text: t.Any) -> str:
    """A description with another text, and all its notes."""
    notes = map(str.strip, _NOTE.findall(str(description or "")))
    return "\n\n".join(filter(None, (text, *notes)))


def with_mark(description: str, mark: Mark | None) -> str:
    """A description with another mark, or without one; everything else in it stays."""
    return with_note(description, _MARK, mark)


# ------------------------------------------------------------------------------------------------------ fetching


@dataclass(frozen=True)
class Found:
    """What a registry has under a reference, for the platform.

    digest: of the manifest. config: the image configuration (image-spec, config.md).
    """

    digest: str
    config: dict[str, t.Any]

    @property
    def process(self) -> dict[str, t.Any]:
        """``config`` of the image configuration."""
        return dict(self.config.get("config") or {})


@dataclass(frozen=True)
class Artefact:
    """An image on a storage, as which a container can be made of it.

    method: how it came, or is to come, there. listed: it is there.
    able: this Proxmox has the options entrypoint and env.
    """

    spec: ImageSpec
    found: Found
    node: str
    method: str
    volume: str
    listed: bool
    able: bool = True

    @property
    def file_name(self) -> str:
        """Its name on the storage."""
        return self.volume.rpartition("/")[2]

    @property
    def mark(self) -> Mark:
        """What is kept with a container that is made of it."""
        return Mark(str(self.spec.reference), self.found.digest)


def choose_method(spec: ImageSpec, version: tuple[int, ...], has_login: bool = False) -> str:
    """How the image comes to the storage of a Proxmox of some version.

    has_login: whether there are credentials for it where the module runs, which the node would not use.

    Raises:
        Failure: ``invalid_option``, ``version_too_old``.
    """
    able = version >= IMAGES_SINCE
    method = spec.method
    if method == "auto":
        method = ("registry" if spec.is_anonymous_tag and not has_login else "upload") if able else "template"
    if method in IMPORTED and not able:
        raise Failure(
            "version_too_old",
            f"Proxmox VE {'.'.join(map(str, version))} makes no containers of OCI images; {method} needs 9.1.",
            "Set image.method to template or auto, which converts the image.",
            version=".".join(map(str, version)),
        )
    if method == "registry" and not spec.is_anonymous_tag:
        raise Failure(
            "invalid_option",
            "image.method: Proxmox itself pulls by a tag only, without credentials, CA and platform.",
            "Set image.method to upload or auto.",
            option="image.method",
        )
    return method


def parse_version(text: t.Any) -> tuple[int, ...]:
    """The numbers of ``9.2.11`` or ``8.4-1``."""
    return tuple(int(number) for number in re.findall(r"\d+", str(text))[:2])


def file_stem(reference: Reference, digest: str) -> str:
    """The name of a template without ``.tar``: registry, repository and tag for people, and the digest.

    The same name is the same content, so that neither ``a/nginx:1`` and ``b/nginx:1`` collide nor an old and a new
    ``nginx:1``. ``normalize_content_filename`` of PVE/Storage.pm leaves it as it is.
    """
    return f"{readable_name(reference)}_{digest[7:39]}"


def readable_name(reference: Reference) -> str:
    """Registry, repository and tag as a part of a file name."""
    name = f"{reference.name}:{reference.tag}" if reference.tag else reference.name
    return re.sub(r"[^a-zA-Z0-9.-]+", "_", name).strip("_.-")[:120]


def refuse_control_characters(config: t.Mapping[str, t.Any], imported_as_it_is: bool = False) -> None:
    """Refuse an image that could write lines of its own into a container's file. A tab in ``Env`` cannot.

    Proxmox admits line breaks (``restore_oci_archive`` of PVE/LXC/Create.pm).

    imported_as_it_is: Proxmox itself writes its command into the file.

    Raises:
        Failure: ``image_rejected``.
    """
    keys = ("Entrypoint", "Cmd", "Volumes") if imported_as_it_is else ("Env", "WorkingDir", "StopSignal", "User")
    for key in keys:
        value = config.get(key)
        # What is none of these is refused as an invalid image.
        texts = value if isinstance(value, (list, dict)) else [value]
        refused = CONTROL if key == "Env" else CONTROL_OR_TAB
        if any(isinstance(text, str) and refused.search(text) for text in texts):
            raise Failure(
                "image_rejected",
                f"{key} of the image has control characters, which could be lines of the container's configuration.",
                "Set image.method to template, and entrypoint to what is to be run."
                if imported_as_it_is
                else "Do not use this image; ask whoever made it.",
                key=key,
            )


def refuse_unreadable(config: t.Mapping[str, t.Any]) -> None:
    """Refuse an image that Proxmox imports as it is and then cannot create, or LXC not start.

    Raises:
        Failure: ``image_rejected``.
    """
    user, signal = str(config.get("User") or ""), str(config.get("StopSignal") or "")
    line = ""
    # resolve_oci_user of PVE/LXC/Create.pm
    if user and not re.fullmatch(r"[^:]+(:[^:]+)?", user):
        key, why = "User", f"Proxmox cannot read the user {user!r}"
    elif signal and not SIGNAL.fullmatch(signal):
        key, why = "StopSignal", f"LXC would start no container with the stop signal {signal!r}"
        known = signal_name(signal)
        line = f", and 'lxc.signal.halt: {known}' with lxc_raw_config" if known else ""
    else:
        return
    raise Failure("image_rejected", f"{why} of the image.", f"Set image.method to template{line}.", key=key)


def mapped(spec: ImageSpec, found: Found, mounted: t.Collection[str] = ()) -> Mapped:
    """What an image says, in the words of Proxmox.

    mounted: paths that are mount points anyway.

    Raises:
        Failure: ``invalid_image``.
    """
    return from_image(found.process, volumes={path: {} for path in {*spec.volumes, *mounted}})


def refuse_foreign_volumes(spec: ImageSpec, found: Found) -> None:
    """Refuse volumes for paths that are none of the image's: data that is to be kept would not be there.

    Raises:
        Failure: ``invalid_option``, with the paths that the image has.
    """
    paths = sorted({_clean(path) for path in found.process.get("Volumes") or ()})
    foreign = sorted(set(spec.volumes) - set(paths))
    if foreign:
        raise Failure(
            "invalid_option",
            f"image.volumes: {', '.join(foreign)} is no volume of {spec.reference}; "
            + (f"it has {', '.join(paths)}." if paths else "it has none."),
            "Correct the path, or declare it in mounts.",
            option="image.volumes",
            volumes=paths,
        )


def _clean(path: str) -> str:
    return "/" + "/".join(part for part in path.split("/") if part)


def losses(result: Mapped, image: Artefact) -> list[dict[str, t.Any]]:
    """What Proxmox cannot express, as a module returns it."""
    found = list(result.losses)
    if image.method in IMPORTED:
        # Proxmox looks it up in the root file system.
        return [loss for loss in found if loss["key"] != "User"]
    lines = list(result.raw)
    process = image.found.process
    words = [*(process.get("Entrypoint") or ()), *(process.get("Cmd") or ())]
    if not image.able and words[:1] not in ([], [INIT]):
        # The init of the template does it (oci/init_script.py), whatever the characters.
        lines = [line for line in lines if line[0] != "lxc.init.cwd"]
        found = [loss for loss in found if loss["key"] not in (COMMAND, "Env", "WorkingDir")]
        reason = (
            "nothing in it sets addresses; use lxc_raw_config with lxc.net.0.ipv4.address and lxc.net.0.ipv4.gateway"
        )
        found.append({"key": "networks", "value": None, "reason": reason})
    elif not image.able:
        # No options of this version; what LXC calls them.
        lines += [("lxc.environment", f"{name}={value}") for name, value in (result.api.get("env") or {}).items()]
        if words[1:]:
            found.append({"key": COMMAND, "value": words, "reason": f"it is started without arguments: {INIT}"})
    reason = "it is a raw line of the container's file, which the API does not write; use lxc_raw_config"
    return found + [{"key": key, "value": value, "reason": reason} for key, value in lines]


def fetch_steps(image: Artefact) -> list[Step]:
    """The step that brings an image to the storage; none when it is there."""
    if image.listed:
        return []
    spec, base = image.spec, f"nodes/{image.node}/storage/{image.spec.storage}"
    if image.method == "registry":
        step = pull_step(image.node, spec.storage, spec.reference, image.file_name)
    else:
        params = {"content": "vztmpl", "filename": image.file_name}
        step = Step("uploaded", "POST", f"{base}/upload", params, payload=image)
        step.needs = [store_need(spec.storage, "store the image")]
    step.add("template", None, image.volume)
    return [step]


def pull_step(node: str, storage: str, reference: Reference, file_name: str) -> Step:
    """The step in which a node pulls an image; ``file_name`` ends with ``.tar``, which Proxmox adds by itself."""
    params = {"reference": str(reference), "filename": file_name.rpartition(".tar")[0]}
    step = Step("pulled", "POST", f"nodes/{node}/storage/{storage}/oci-registry-pull", params)
    step.needs = [
        store_need(storage, "store the image"),
        Need((f"/nodes/{node}",), ("Sys.AccessNetwork",), "pull the image"),
    ]
    return step


def check_steps(image: Artefact, base: str, params: t.Mapping[str, t.Any]) -> list[Step]:
    """The step that looks at what Proxmox has made of an image, before it is started; none when that is known.

    base: the path of the container. params: of its creation.
    """
    user = str(image.found.process.get("User") or "")
    if image.method != "registry" and (image.method not in IMPORTED or not lines_of_user(user)):
        return []
    return [Step("checked", "GET", f"{base}/config", check="imported", payload=(params, user))]


def lines_of_user(user: str) -> list[str]:
    """The raw lines that Proxmox writes of a user and a group that it has to look up in the root file system."""
    names = zip(("lxc.init.uid", "lxc.init.gid"), user.split(":"))
    return [key for key, name in names if name not in ("", "root") and not name.isdigit()]


def store_need(storage: str, why: str) -> Need:
    """The privilege to put a template on a storage (PVE/API2/Storage/Status.pm)."""
    return Need((f"/storage/{storage}",), ("Datastore.AllocateTemplate",), why)


# ------------------------------------------------------------------------------------- what Proxmox makes of it


def import_texts(found: Found) -> dict[str, str]:
    """The options that Proxmox itself sets when it makes a container of an image (``restore_oci_archive``)."""
    process = found.process
    words = [*(process.get("Entrypoint") or ()), *(process.get("Cmd") or ())]
    texts = {}
    if words and words[0] != INIT:
        texts["entrypoint"] = " ".join(map(_quoted, words))
        texts["cmode"] = "console"
    if process.get("Env"):
        texts["env"] = "\0".join(process["Env"])
    return texts


def _quoted(word: str) -> str:
    """An argument as ``shell_quote`` of Perl's String::ShellQuote writes it."""
    if _BARE.fullmatch(word):
        return word
    inner = re.sub("'+", lambda found: r"'\''" if found[0] == "'" else f"'\"{found[0]}\"'", word)
    return re.sub(r"^''|''$", "", f"'{inner}'") if word else "''"


def imported(config: t.Mapping[str, t.Any], found: Found) -> dict[str, t.Any]:
    """The configuration after the import; ``config`` is that of the request."""
    texts = import_texts(found)
    result = {**config, **texts}
    if "entrypoint" in texts:
        for key, text in config.items():
            if re.fullmatch(r"net\d+", key) and "host-managed=" not in str(text):
                result[key] = f"{text},host-managed=1"
    return result


def settle(
    declared: Declared,
    actual: Actual | None,
    image: Artefact | None = None,
    made_of: Found | None = None,
    renamed: bool = False,
) -> Declared:
    """The declaration as it is meant for a container of an image.

    image: what the container has just been, or is to be, made of; None for one that stays.
    made_of: the image of which an existing container was made, where its variables matter.
    renamed: the container is of the image that is declared, but maybe by another name of it.
    """
    config = dict(actual.config) if actual else {}
    mark = mark_of(config.get("description"))
    if declared.image is None and not _NOTE.search(str(config.get("description") or "")):
        return declared
    result = replace(declared, config=dict(declared.config))
    if declared.image:
        _add_volumes(result, declared.image, config)
        if mark and renamed:
            mark = replace(mark, reference=str(declared.image.reference))
        mark = _settle_process(result, declared.image, config, mark, image, made_of)
    for key in declared.loose_networks if declared.image or mark else ():
        before = properties.read(key, config.get(key))
        if isinstance(before, dict) and "host-managed" in before:
            result.config[key] = {**result.config[key], "host-managed": before["host-managed"]}
    _settle_description(result, config, mark)
    return result


def _add_volumes(declared: Declared, spec: ImageSpec, config: t.Mapping[str, t.Any]) -> None:
    """Each volume at the mount point that it has, or at the first that is free."""
    there = {}
    for key, text in config.items():
        normal = properties.read(key, text)
        if re.fullmatch(r"mp\d+", key) and isinstance(normal, dict):
            there[normal["mp"]] = key
    for path, normal in spec.volumes.items():
        key = there.get(path, "")
        if key in declared.config:
            raise Failure(
                "invalid_option",
                f"mounts: {key} is the volume of {path}, which image.volumes declares.",
                f"Give what is declared as {key} another id.",
                option="mounts",
            )
        if not key:
            taken = {*declared.config, *config}
            key = next(name for name in (f"mp{number}" for number in range(len(taken) + 1)) if name not in taken)
        declared.config[key] = normal


def _settle_process(
    declared: Declared,
    spec: ImageSpec,
    config: t.Mapping[str, t.Any],
    mark: Mark | None,
    image: Artefact | None,
    made_of: Found | None,
) -> Mark | None:
    """The entrypoint and the variables: those that are declared over those of the image."""
    own = t.cast("dict[str, str] | None", declared.config.get("env"))
    if image:
        _refuse_missing_options(declared, image)
        wanted = from_image(image.found.process) if image.able else Mapped()
        texts = import_texts(image.found) if image.method in IMPORTED else {}
        line = wanted.api.get("entrypoint")
        # LXC reads quotes otherwise than the shell for which Proxmox writes them.
        right = init_command.decode(texts.get("entrypoint", "")) == init_command.decode(line or "")
        if not right and line and "entrypoint" not in (*declared.config, *declared.unset):
            declared.config["entrypoint"] = line
        variables = wanted.api.get("env") or {}
        if "env" not in declared.unset and (own is not None or texts.get("env") != properties.encode("env", variables)):
            declared.config["env"] = {**variables, **(own or {})}
        return replace(image.mark, env=tuple(sorted(own or ())))
    if own is None or mark is None:
        return mark
    if made_of:
        base = from_image(made_of.process).api.get("env") or {}
    else:
        base = properties.read("env", config.get("env")) or {}
    declared.config["env"] = {**base, **own}
    return replace(mark, env=tuple(sorted(own)))


def _refuse_missing_options(declared: Declared, image: Artefact) -> None:
    missing = [] if image.able else [key for key in ("entrypoint", "env") if key in declared.config]
    if missing:
        raise Failure(
            "version_too_old",
            f"Proxmox VE before 9.1 has no {' and no '.join(missing)}; its containers run what is in the template.",
            "Make a template with format: lxc_template and process of oci_bundle, and name it in template.",
            options=missing,
        )


def drops_variables(declared: Declared, mark: Mark | None) -> bool:
    """True when a variable is not declared any more: what the image says of it counts again."""
    env = declared.config.get("env")
    return mark is not None and env is not None and not set(mark.env) <= set(env)


def _settle_description(declared: Declared, config: t.Mapping[str, t.Any], mark: Mark | None) -> None:
    """The description with its notes, which nobody declares: that on the image, and others as they are."""
    text = str(config.get("description") or "")
    if "description" in (*declared.config, *declared.unset):
        text = with_text(text, declared.config.get("description"))
    elif mark is None:
        return
    wanted = with_mark(text, mark)
    if not wanted:
        return
    declared.unset = tuple(key for key in declared.unset if key != "description")
    try:
        declared.config["description"] = properties.normalise("description", wanted)
    except properties.InvalidValue as error:
        raise Failure(
            "invalid_option",
            f"description: with the notes of this collection {error}.",
            "Shorten it.",
            option="description",
        ) from None


# ------------------------------------------------------------------------------------------------ another image


def differs(spec: ImageSpec, mark: Mark | None, now: str | None) -> bool:
    """True when a container is made of another image than the one declared.

    now: the digest that the reference has at the registry; None when nobody was asked.
    """
    if mark is None:
        return True
    if spec.reference.digest:
        # The digest may be that of an index, of which the container is one of several.
        same = (now, spec.reference.digest)
        return mark.reference != str(spec.reference) and mark.digest not in same
    return mark.digest != now if now is not None else mark.reference != str(spec.reference)


def must_ask(spec: ImageSpec, mark: Mark | None) -> bool:
    """True when only the registry can tell whether a container is made of the image that is declared."""
    if mark is None:
        return False
    if mark.reference != str(spec.reference):
        return spec.reference.digest != mark.digest
    return spec.pull == "newer" and not spec.reference.digest


def mount_paths(declared: Declared) -> list[str]:
    """The paths of declared mount points."""
    return [normal["mp"] for key, normal in declared.config.items() if re.fullmatch(r"mp\d+", key)]


def change_of(declared: Declared, mark: Mark | None, now: str | None) -> Change:
    """The report of another image, when the container is not to be made anew."""
    spec = t.cast("ImageSpec", declared.image)
    after = Mark(str(spec.reference), now).shown if now else str(spec.reference)
    hint = "Set 'recreate: true' to have the container made anew from it, with its volumes."
    return Change("image", mark.shown if mark else None, after, RECREATE, hint=hint)


def hide_holder(plan: Plan) -> None:
    """Say nothing of the note on the holder, whose id nobody knows before, when it is all that changes in a text."""
    for step in plan.steps:
        step.changes = [change for change in step.changes if change.key != "description" or _other_text(change)]


def _other_text(change: Change) -> bool:
    before, after = (re.sub(r" holder=[^ ]+ -->", " -->", str(text or "")) for text in (change.before, change.after))
    return before.strip() != after.strip()
