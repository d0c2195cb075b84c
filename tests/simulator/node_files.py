# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The volumes of storages: files on a storage that is not shared are on one node only."""

from __future__ import annotations

import contextvars
import copy
import typing as t

# Those that are files beside the volumes of guests. The names of the latter differ on all nodes anyway.
FILES = ("vztmpl/", "backup/", "iso/", "snippets/", "import/")
SHARED_TYPES = ("nfs", "cifs", "cephfs", "pbs", "rbd")
# The node that carries out the request or the task; None outside of them.
NODE: contextvars.ContextVar[str | None] = contextvars.ContextVar("node", default=None)

Entry = dict[str, t.Any]


class NodeFiles(t.MutableMapping[str, Entry]):
    """The volumes of a storage, as the node that asks sees them.

    Outside of requests and tasks: what is written is on all nodes, and all nodes' files are seen.
    """

    def __init__(self, store: Entry, nodes: t.Mapping[str, t.Any], volumes: t.Mapping[str, Entry]) -> None:
        self._store, self._nodes = store, nodes
        # By node and name; None for all nodes.
        self._entries: dict[tuple[str | None, str], Entry] = {}
        for name, entry in volumes.items():
            self[name] = entry

    def _places(self, name: str) -> list[str | None]:
        shared = self._store.get("shared") or self._store.get("type") in SHARED_TYPES
        if shared or not name.startswith(FILES):
            return [None]
        return [NODE.get()] if NODE.get() else list(self._nodes)

    def __getitem__(self, name: str) -> Entry:
        for place in (*self._places(name), None):
            if (place, name) in self._entries:
                return self._entries[place, name]
        raise KeyError(name)

    def __setitem__(self, name: str, entry: Entry) -> None:
        places = self._places(name)
        for place in places:
            self._entries[place, name] = entry if len(places) == 1 else copy.deepcopy(entry)

    def __delitem__(self, name: str) -> None:
        places = dict.fromkeys([*self._places(name), None])
        found = [(place, name) for place in places if (place, name) in self._entries]
        if not found:
            raise KeyError(name)
        for key in found:
            del self._entries[key]

    def __iter__(self) -> t.Iterator[str]:
        return iter(list(dict.fromkeys(name for _place, name in self._entries if name in self)))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __deepcopy__(self, memo: dict[int, t.Any]) -> dict[tuple[str | None, str], Entry]:
        return copy.deepcopy(self._entries, memo)


class Storages(dict[str, Entry]):
    """The storages of a cluster. Each gets such volumes."""

    def __init__(self, nodes: t.Mapping[str, t.Any], storages: t.Mapping[str, Entry]) -> None:
        super().__init__()
        self._nodes = nodes
        for name, store in storages.items():
            self[name] = store

    def __setitem__(self, name: str, store: Entry) -> None:
        store["volumes"] = NodeFiles(store, self._nodes, store.get("volumes") or {})
        super().__setitem__(name, store)
