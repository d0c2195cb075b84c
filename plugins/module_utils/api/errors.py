# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Structured failures, and what an answer of the Proxmox API means.

Proxmox answers nearly every refusal with HTTP 500 and a sentence; there is no 404, 409 or 412. The table below reads
those sentences. It serves request errors and the exit status of failed tasks alike. Nothing here does I/O.
"""

from __future__ import annotations

import re
import typing as t


class Failure(Exception):
    """A failure that a playbook can test.

    code: a short constant such as ``locked``.
    message: what happened, in one sentence.
    hint: what to do about it.
    details: facts, as plain data.
    """

    def __init__(self, code: str, message: str, hint: str = "", **details: t.Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.details = details

    def as_dict(self) -> dict[str, t.Any]:
        """The ``failure`` key of a module's result."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "details": self.details}

    @property
    def sentence(self) -> str:
        """Message and hint, for ``msg``. What a message quotes may have no end of its own."""
        end = "." if self.hint and self.message[-1:].isalnum() else ""
        return f"{self.message}{end} {self.hint}".strip()


def as_failure(error: Failure | OSError) -> Failure:
    """A failure of the machine as one of ours."""
    if isinstance(error, Failure):
        return error
    return Failure("os_error", f"{error}.", "See whether the file systems of the node are full or read-only.")


def combined(failures: t.Sequence[tuple[str, Failure]], total: int, code: str = "containers_failed") -> Failure:
    """The failure of a task on many containers: that of the only one, or one that names all that failed.

    failures: what each is called, and how it failed. code: of the latter; it says what they are.
    """
    if total == 1:
        return failures[0][1]
    what = code.rpartition("_")[0]
    named = " ".join(f"{label}: {failure.sentence}" for label, failure in failures)
    return Failure(
        code,
        f"{len(failures)} of {total} {what} failed. {named}",
        f"{'The others are done; run' if len(failures) < total else 'Run'} again when the cause is removed.",
        **{what: [label for label, _failure in failures]},
    )


# Who may do what Proxmox grants to nobody by a role (raise_perm_exc of PVE/LXC.pm).
ROOT_ONLY = "root@pam with a password"

_GRANT = "Grant the privilege to the user and, for a token with privilege separation, to the token as well."
_ROOT_HINT = f"Only {ROOT_ONLY} may do this; it is refused to every API token, also to root's."

# (code, pattern, hint): the first match decides. Groups with a name become details.
_SENTENCES: tuple[tuple[str, str, str], ...] = (
    ("no_quorum", r"no quorum", "The cluster has lost its quorum; bring the missing nodes back."),
    (
        "lock_timeout",
        r"(can't lock file '(?P<file>[^']+)' - got timeout|got lock (request )?timeout|cfs-lock '[^']+' error|"
        r"obtain guest migration lock)",
        "Another task holds the lock; run again when it has ended.",
    ),
    (
        "locked",
        r"(CT|VM) is locked \((?P<lock>[\w-]+)\)",
        "Wait for the operation that holds the lock, or remove a stale lock on the node with 'pct unlock'.",
    ),
    (
        "modified",
        r"detected modified configuration",
        "Somebody changed the container at the same time; run again.",
    ),
    (
        "permission_denied",
        r"Permission check failed(?! \(pool '[^']*' does not exist)|Only root can|Only root may|only possible for root",
        _GRANT,
    ),
    ("pool_missing", r"pool '(?P<pool>[^']*)' does not exist", "Create the pool first."),
    (
        "vmid_in_use",
        r"(CT|VM) (?P<vmid>\d+) already exists|config file already exists",
        "Choose another vmid, or leave it out to have a free one chosen.",
    ),
    (
        "not_found",
        r"Configuration file '[^']+' does not exist|no such (CT|VM)|unable to find (CT|VM)",
        "Check the vmid and the node.",
    ),
    ("snapshot_missing", r"snapshot '(?P<snapshot>[^']+)' does not exist", "Check the name of the snapshot."),
    ("snapshot_exists", r"snapshot name '(?P<snapshot>[^']+)' already used", "Choose another name."),
    (
        "invalid_parameter",
        r"unable to use snapshot name|unable to use reserved name",
        "Choose another name.",
    ),
    (
        "snapshot_not_newest",
        r"is not most recent snapshot",
        "Proxmox rolls a ZFS volume back to its newest snapshot only; remove the newer ones first.",
    ),
    (
        "feature_unsupported",
        r"snapshot feature is not available|unable to snapshot|"
        r"(full|Linked) clone feature .*is not available|Linked clone feature|unable to clone mountpoint|"
        r"does not support moving of this disk",
        "The storage of a volume, or a bind or device mount, does not allow this.",
    ),
    ("snapshot_incomplete", r"incomplete snapshot", "Delete the snapshot and take a new one."),
    (
        "would_lose_data",
        r"unable to shrink disk size",
        "Proxmox never shrinks a volume; create a smaller one and copy the data.",
    ),
    ("already_at_size", r"disk is already at specified size", ""),
    (
        "protected",
        r"protection mode enabled",
        "Set 'protection: false' first.",
    ),
    (
        "protected",
        r"cannot remove protected (volume|archive) '(?P<volume>[^']+)'",
        "Take the protection of the backup away first.",
    ),
    (
        "backup_limit",
        r"max backup limit of (?P<limit>\d+) enforced",
        "Remove backups, or raise the retention of the storage.",
    ),
    (
        "backup_limit",
        r"protected backups per guest is limited to (?P<limit>\d+)",
        "Remove protected backups, or raise max-protected-backups of the storage.",
    ),
    (
        "checksum_mismatch",
        r"checksum mismatch: got '(?P<actual>[^']+)' != expect '(?P<expected>[^']+)'",
        "The file was not stored. Correct the checksum, or find out who has changed the file.",
    ),
    (
        "container_running",
        r"container is running|can't overwrite running container|cannot move volumes of a running container|"
        r"running container can only be migrated|can't migrate running|CT is running|of a running container is only",
        "Stop the container first, or allow it with the option of the task.",
    ),
    (
        "agent_silent",
        r"No QEMU guest agent configured|QEMU guest agent is not running|Agent error: |VM \d+ is not running|"
        r"qmp command 'guest-[\w-]+' failed",
        "The virtual machine needs QEMU's guest agent, installed and running.",
    ),
    ("already_running", r"(CT|VM) (?P<vmid>\d+) already running", ""),
    ("not_running", r"(CT|VM) (?P<vmid>\d+) not running", ""),
    ("is_template", r"if it's a template|is a template|if vm is a template|a template to a template", ""),
    (
        "linked_clones",
        r"still in use by linked clone|still in use by",
        "Destroy the linked clones, or make them full, first.",
    ),
    (
        "has_snapshots",
        r"because CT contains snapshots|volume with snapshots|used by a snapshot",
        "Delete the container's snapshots first.",
    ),
    ("config_damaged", r"missing 'arch' - internal error", "Repair the container's file in /etc/pve/lxc on the node."),
    (
        "ha_managed",
        r"stop mode on a HA managed and enabled Service",
        "Use mode=snapshot, or have the HA manager leave the container alone meanwhile.",
    ),
    ("ha_managed", r"used in HA resources", "Remove it from HA first, or use 'purge: true'."),
    (
        "storage_unsuitable",
        r"does not allow content type|does not support container directories|wrong content type|"
        r"not a file based storage|storage '[^']+' is not (available|online)|unable to activate storage|"
        r"content type '[^']+' is not available|can't clone to non-shared storage|does not support content|"
        r"does not support templates|does not support '[^']+' content|is not configured for content-type",
        "Choose a storage that has this content type enabled on the node.",
    ),
    ("storage_missing", r"storage '(?P<storage>[^']*)' does not exist", "Check the name of the storage."),
    (
        "storage_full",
        r"No space left on device|out of space|not enough free space|Insufficient free space|Disk quota exceeded",
        "Free space on the storage, or choose another one.",
    ),
    (
        "bridge_missing",
        r"(bridge '|interface )(?P<bridge>[^'\s]+)'? does not exist",
        "Create the bridge on the node first.",
    ),
    ("device_missing", r"Device (?P<device>\S+) does not exist", "Check the path of the device on the node."),
    (
        "volume_missing",
        r"(volume|script) '(?P<volume>[^']+)' does not exist|can't find file '(?P<file>[^']+)'|"
        r"no such (logical )?volume",
        "Check the name of the volume, template, backup or script.",
    ),
    (
        "invalid_parameter",
        r"unable to parse (\w+ )?volume (ID|name|filename)|content type needs to be",
        "Give the name of a volume of the right kind, such as local:vztmpl/debian-13.tar.zst for a template.",
    ),
    (
        "registry_failed",
        r"command 'skopeo (copy \S+ oci-archive:(?P<temporary>[^'\s]+)|.*)' failed",
        "Check the reference of the image, and that the node reaches the registry.",
    ),
    (
        "system_unknown",
        # PVE/LXC/Setup.pm and those below it, when a container is created.
        r"unable to detect OS distribution|unable to read version info|unsupported (\w+ )*version '|no such OS type '",
        "Proxmox cannot set this operating system up; with 'ostype: unmanaged' it does not try to.",
    ),
    ("command_missing", r"Install 'skopeo' to", "Install skopeo on the node."),
    ("download_failed", r"download failed: command", "Check the URL, and that the node reaches it."),
    ("template_missing", r"no such template", "Check the name, or refresh the index with 'pveam update' on the node."),
    ("file_exists", r"refusing to override existing file '(?P<file>[^']+)'", "Choose another name, or remove it."),
    (
        "invalid_parameter",
        r"unable to (delete|modify) (required|read-only) option|no options specified|format error|"
        r"Parameter verification failed|does not exist on this|SSH public key validation|"
        r"parameter '[^']+' not allowed|mount points configured, but|bridge '' does not exist|"
        r"is not in the snippets directory|Path has to be defined|"
        r"malformed JSON|Not a HASH reference|unable to hotplug|unable to parse",
        "Correct the value.",
    ),
    (
        "node_unknown",
        r"(hostname lookup|no such cluster node) '(?P<node>[^']+)'",
        "Check the name of the node.",
    ),
    (
        "node_offline",
        r"No route to host|Connection refused|Connection timed out|broken pipe",
        "The node does not answer; bring it back or choose another one.",
    ),
    (
        "shutdown_timeout",
        r"container did not stop",
        "Raise 'shutdown_timeout', or allow a hard stop with 'force: true' where the module has it.",
    ),
    ("checkpoint_failed", r"CRIU|lxc-checkpoint", "Proxmox's suspend is experimental; use a snapshot or a checkpoint."),
)

_COMPILED = tuple((code, re.compile(pattern, re.IGNORECASE), hint) for code, pattern, hint in _SENTENCES)

_STATUS: dict[int, tuple[str, str]] = {
    400: ("invalid_parameter", "Correct the value."),
    401: ("authentication_failed", "Check the user with its realm, the password, or the token's id and secret."),
    403: ("permission_denied", _GRANT),
    501: ("not_implemented", "This Proxmox VE does not have the call. The collection is written for 8.4 and 9."),
    506: ("invalid_parameter", "Correct the value."),
    595: ("node_offline", "The node does not answer; bring it back or choose another one."),
    596: ("node_offline", "The node does not answer; bring it back or choose another one."),
    599: ("node_offline", "The node does not answer; bring it back or choose another one."),
}


# A refused parameter says more than that it is invalid when it names one of these.
_IN_PARAMETERS = ("storage_unsuitable", "storage_missing", "bridge_missing", "vmid_in_use", "template_missing")


def classify(status: int, text: str) -> tuple[str, str, dict[str, str]]:
    """The code, hint and facts of an answer.

    status: the HTTP status, or 500 for the exit status of a task.
    text: the message, or the exit status of a task.
    """
    if status == 403 and "pool '" not in text:
        return _permission_denied(text)
    certain = _STATUS.get(status) if status in (400, 401, 501, 506) else None
    for code, pattern, hint in _COMPILED:
        if certain and (status != 400 or code not in _IN_PARAMETERS):
            continue
        match = pattern.search(text)
        if match:
            if code == "permission_denied":
                return _permission_denied(text)
            return code, hint, {name: value for name, value in match.groupdict().items() if value is not None}
    return (*_STATUS.get(status, ("api_error", "")), {})


def _permission_denied(text: str) -> tuple[str, str, dict[str, str]]:
    if re.search(
        r"only allowed for root@pam|only root (can|may)|only possible for root|need proper ticket", text, re.IGNORECASE
    ):
        return "permission_denied", _ROOT_HINT, {"requires": ROOT_ONLY}
    match = re.search(r"Permission check failed \((?P<path>/\S*), (?P<privilege>[\w.|]+)\)", text)
    return "permission_denied", _GRANT, match.groupdict() if match else {}
