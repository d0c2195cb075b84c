# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``zfs`` means when it refuses."""

from __future__ import annotations

import re
import shlex
import typing as t

from ..api.errors import Failure
from ..node.commands import Completed

# (code, pattern, hint): the first match decides.
_ZFS_SENTENCES: tuple[tuple[str, str, str], ...] = (
    ("pool_full", r"out of space|no space left", "Free space on the pool, or enlarge it, and run again."),
    (
        "has_clones",
        r"has dependent clones|has children",
        "Remove or promote the clones first; 'zfs get -r clones' names them.",
    ),
    (
        "would_lose_data",
        r"more recent (snapshots|bookmarks)|newer (snapshot|bookmark)",
        "Somebody took a snapshot meanwhile; run again to see what would be lost.",
    ),
    (
        "dataset_busy",
        r"is busy|target is busy",
        "Something uses it: a process with a file open in it ('fuser -vm MOUNTPOINT'), a hold, or a receive.",
    ),
    (
        "pool_unavailable",
        r"no such pool|pool I/O is currently suspended|pool '[^']*' does not exist",
        "Import the pool ('zpool import'), or see 'zpool status' for what is wrong with it.",
    ),
    (
        "key_unavailable",
        r"key (is )?not loaded|key must be loaded|key is not available|encryption key",
        "Load the key with 'zfs load-key' and run again.",
    ),
    ("name_taken", r"already exists", "Choose another name."),
    ("volume_missing", r"does not exist|dataset not found", "See 'zfs list' for what is there."),
    ("permission_denied", r"permission denied|must be superuser|Operation not permitted", "Run as root (become)."),
    ("zfs_missing", r"The ZFS modules (are not|cannot be)|/dev/zfs", "Load the ZFS module ('modprobe zfs')."),
)


def zfs_failure(done: Completed, message: str = "", **details: t.Any) -> Failure:
    """What a refusal of ``zfs`` means, with the dataset that it names.

    message: what was being done, as the beginning of a sentence.
    """
    text = done.stderr.strip() or done.stdout.strip()
    code, hint = "zfs_failed", "The message is that of the zfs command."
    for candidate, pattern, advice in _ZFS_SENTENCES:
        if re.search(pattern, text, re.IGNORECASE):
            code, hint = candidate, advice
            break
    named = re.search(r"'([A-Za-z0-9][\w.:/ %@#-]*)'", text)
    if named:
        details.setdefault("dataset", named.group(1))
    begin = message or f"'{shlex.join(done.argv[:3])} …' failed"
    return Failure(code, f"{begin}: {' '.join(text.split())[-500:]}", hint, **details)
