# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures what a checkpoint costs on the emulated machine; writes the table of docs/checkpoints.md."""

from __future__ import annotations

import statistics
import typing as t

from ansible_collections.lxcri.proxmox.tests.lab.machine import ROOT, Machine

SIZES = (1, 10, 20)
REPEATS = 5
MARK_BEGIN, MARK_END = "<!-- measured by dev/bench: begin -->", "<!-- measured by dev/bench: end -->"
# Containers that run, each with a root file system of its own.
_POPULATE = """
set -e
for id in $(seq 301 %d); do
    zfs create -o refquota=100M rpool/data/subvol-$id-disk-0
    cp -a /rpool/data/subvol-103-disk-0/. /rpool/data/subvol-$id-disk-0/
    printf '%%s\n' "arch: amd64" "hostname: c$id" "rootfs: local-zfs:subvol-$id-disk-0,size=100M" >/etc/pve/lxc/$id.conf
    pct start $id
done
"""


def measure(machine: Machine, count: int) -> dict[str, float]:
    """Medians over some checkpoints of that many running containers, in seconds."""
    ids = [str(number) for number in range(301, 301 + count)]
    runs: list[dict[str, float]] = []
    for repeat in range(REPEATS):
        result = machine.module("zfs_checkpoint", {"vmids": ids, "name": f"m{count}-{repeat}"})
        if result.get("failed"):
            raise SystemExit(result["msg"])
        runs.append(result["containers"][0]["timings"])
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def table(rows: t.Mapping[int, t.Mapping[str, float]]) -> str:
    """The measurements as Markdown."""
    lines = [
        "| containers | total | for each | standing still | freeze and thaw | sync | zfs snapshot | the rest |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for count, row in rows.items():
        rest = row["total"] - row["freeze"] - row["sync"] - row["zfs"]
        lines.append(
            f"| {count} | {row['total']:.2f} s | {row['total'] / count:.2f} s | {row['frozen']:.2f} s "
            f"| {row['freeze']:.2f} s | {row['sync']:.2f} s | {row['zfs']:.2f} s | {rest:.2f} s |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write the table."""
    machine = Machine.start()
    try:
        machine.push()
        machine.run(_POPULATE % (300 + max(SIZES)), timeout=300)
        rows = {count: measure(machine, count) for count in SIZES}
    finally:
        machine.stop()
    text = table(rows)
    print(text)
    page = ROOT / "docs/checkpoints.md"
    head, _begin, rest = page.read_text(encoding="utf-8").partition(MARK_BEGIN)
    _old, _end, tail = rest.partition(MARK_END)
    page.write_text(f"{head}{MARK_BEGIN}\n\n{text}\n\n{MARK_END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
