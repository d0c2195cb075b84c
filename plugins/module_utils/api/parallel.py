# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Work that is done concurrently, over few connections."""

from __future__ import annotations

import typing as t
from concurrent.futures import ThreadPoolExecutor

from ansible_collections.lxcri.proxmox.plugins.module_utils.api.client import CONNECTIONS

Item = t.TypeVar("Item")
Answer = t.TypeVar("Answer")


def in_parallel(
    work: t.Callable[[Item], Answer], items: t.Sequence[Item], connections: int = CONNECTIONS
) -> list[Answer]:
    """The answers of ``work`` in the order of the items, asked for concurrently over few connections.

    connections: as many as the client has at most.
    """
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(max_workers=min(connections, len(items))) as pool:
        return list(pool.map(work, items))


def by_node(
    work: t.Callable[[Item], None], items: t.Sequence[Item], node_of: t.Callable[[Item], str], concurrency: int
) -> None:
    """Do some work with each item, on each node with so many at a time, and in the order of the items."""
    if len(items) == 1:
        work(items[0])
        return
    pools: dict[str, ThreadPoolExecutor] = {}
    try:
        futures = []
        for item in items:
            node = node_of(item)
            if node not in pools:
                pools[node] = ThreadPoolExecutor(max_workers=concurrency)
            futures.append(pools[node].submit(work, item))
        for future in futures:
            future.result()
    finally:
        for pool in pools.values():
            pool.shutdown(cancel_futures=True)
