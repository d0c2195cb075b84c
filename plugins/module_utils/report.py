# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A page about a fleet: its nodes, storages and containers, with their drift, snapshots and backups. Pure.

The page is one file: it loads nothing, runs nothing, and can be printed. Names, tags, descriptions and notes come from
whoever may write them; ``element`` escapes every text, so that nothing of them is read as markup.
"""

from __future__ import annotations

import html
import json
import re
import typing as t
from collections import defaultdict
from datetime import datetime, timezone

DAY = 86400
# From these shares of a memory or storage on it is shown as filling up, and as full.
HIGH, FULL = 0.8, 0.9
LONGEST_VALUE = 160
# What XML 1.0, and with it any HTML parser, admits as text.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# Marks that the collection keeps in descriptions.
_MARKS = re.compile(r"<!-- lxcri\.proxmox .*? -->", re.DOTALL)
_VOID = ("meta",)

Raw = t.Mapping[str, t.Any]


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


Child = t.Union[None, str, int, float, t.Sequence[t.Any]]


def text(value: t.Any) -> Markup:
    """A value as text of a page."""
    return Markup(html.escape(_FORBIDDEN.sub("\ufffd", str(value))))


def element(tag: str, *children: Child, **attributes: t.Any) -> Markup:
    """An element. What is not markup already is escaped; None is left out.

    attributes: ``class_`` and ``aria_label`` stand for class and aria-label; True for one without a value.
    """
    opening = [tag]
    for name, value in attributes.items():
        if value is not None and value is not False:
            shown = name if value is True else value
            opening.append(f'{name.strip("_").replace("_", "-")}="{text(shown)}"')
    if tag in _VOID:
        return Markup(f"<{' '.join(opening)}/>")
    return Markup(f"<{' '.join(opening)}>{''.join(_flat(children))}</{tag}>")


def _flat(children: t.Iterable[t.Any]) -> t.Iterator[str]:
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            yield child
        elif isinstance(child, (list, tuple)):
            yield from _flat(child)
        else:
            yield text(child)


# ---------------------------------------------------------------------------------------------------- the words


def size(count: t.Any) -> str:
    """Bytes, as people read them: 1.5 GiB."""
    if count is None:
        return "–"
    number = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1024 or unit == "TiB":
            break
        number /= 1024
    return f"{number:.0f} {unit}" if number >= 100 or unit == "B" else f"{number:.1f} {unit}"


def age(seconds: t.Any) -> str:
    """A time span by its largest unit: 3 d, 5 h, 12 min."""
    if seconds is None:
        return "–"
    for unit, length in (("d", DAY), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return "just now" if seconds >= 0 else "in the future"


def moment(seconds: float) -> str:
    """A time in UTC: 2026-01-31 02:00 UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def value_of(value: t.Any) -> str:
    """A value of a plan on one line."""
    if value is None:
        return "–"
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    shown = " ".join(_MARKS.sub("", shown).split())
    return shown if len(shown) <= LONGEST_VALUE else shown[: LONGEST_VALUE - 1] + "…"


def share_of(used: t.Any, total: t.Any) -> float | None:
    """The share that is in use; None when it is not known."""
    return None if used is None or not total else float(used) / float(total)


# -------------------------------------------------------------------------------------------------- the figures


def newest_backups(backups: t.Iterable[Raw]) -> dict[int, Raw]:
    """The newest backup of each container."""
    newest: dict[int, Raw] = {}
    for backup in backups:
        vmid = backup.get("vmid")
        if vmid is None or backup.get("type") == "qemu":
            continue
        if vmid not in newest or backup["time"] > newest[vmid]["time"]:
            newest[vmid] = backup
    return newest


def drift_rows(drift: Raw | None) -> list[dict[str, t.Any]]:
    """What differs from the declaration: one row for each difference, and one for each container that failed.

    drift: the result of a fleet in check mode.
    """
    rows = []
    for entry in (drift or {}).get("containers") or []:
        name = entry.get("hostname") or entry.get("vmid") or "?"
        for change in entry.get("plan") or []:
            rows.append({"container": name, "vmid": entry.get("vmid"), "node": entry.get("node"), **change})
        if entry.get("failure"):
            message = entry["failure"].get("message")
            rows.append({"container": name, "vmid": entry.get("vmid"), "node": entry.get("node"), "failure": message})
    return rows


def figures(
    cluster: Raw, containers: t.Sequence[Raw], drift: Raw | None, now: float, max_age: float
) -> dict[str, t.Any]:
    """The sums at the top of the page.

    max_age: days after which the newest backup is too old.
    """
    live = [container for container in containers if not container.get("template")]
    newest = newest_backups(cluster.get("backups") or [])
    stored = "backups" in cluster
    rows = drift_rows(drift)
    return {
        "nodes": len(cluster["nodes"]),
        "online": sum(1 for node in cluster["nodes"] if node["status"] == "online"),
        "containers": len(live),
        "running": sum(1 for container in live if container["status"] == "running"),
        "templates": len(containers) - len(live),
        "snapshots": sum(len(container.get("snapshots") or []) for container in live),
        "without_backup": sum(1 for container in live if container["vmid"] not in newest) if stored else None,
        "old_backup": sum(
            1
            for container in live
            if container["vmid"] in newest and now - newest[container["vmid"]]["time"] > max_age * DAY
        )
        if stored
        else None,
        "drifted": len({row["container"] for row in rows}) if drift is not None else None,
    }


# ------------------------------------------------------------------------------------------------------ the page


def page(
    cluster: Raw,
    containers: t.Sequence[Raw],
    drift: Raw | None = None,
    title: str = "Fleet",
    now: float = 0.0,
    max_age: float = 7.0,
    notes: t.Sequence[str] = (),
) -> str:
    """The page.

    cluster: the result of ``pve_cluster_info``, with ``backups`` when these were gathered.
    containers: those of ``lxc_container_info``, with ``config``, ``snapshots``, ``interfaces`` and ``usage``.
    drift: the result of the declared fleet in check mode; None when nothing is declared.
    now: seconds since 1970, from which ages count.
    max_age: days after which the newest backup is too old.
    notes: what could not be read.
    """
    sums = figures(cluster, containers, drift, now, max_age)
    return "<!DOCTYPE html>\n" + element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            # Nothing is loaded and nothing runs, whatever a name or a description should contain.
            element(
                "meta", http_equiv="Content-Security-Policy", content="default-src 'none'; style-src 'unsafe-inline'"
            ),
            element("meta", name="color-scheme", content="light dark"),
            element("title", title),
            element("style", Markup(_STYLE)),
        ),
        element(
            "body",
            element(
                "header",
                element("h1", title),
                element("p", f"As of {moment(now)}", class_="quiet"),
                _tiles(sums),
            ),
            element(
                "main",
                _notes(notes),
                _nodes(cluster["nodes"]),
                _storages(cluster["storages"]),
                _drift(drift),
                _containers(cluster, containers, now, max_age),
            ),
        ),
        lang="en",
    )


def _tiles(sums: Raw) -> Markup:
    backups = None
    if sums["without_backup"] is not None:
        wrong = sums["without_backup"] + sums["old_backup"]
        backups = _tile("without a recent backup", wrong, wrong > 0, _have_none(sums["without_backup"]))
    drifted = None
    if sums["drifted"] is not None:
        drifted = _tile("containers not as declared", sums["drifted"], sums["drifted"] > 0)
    return element(
        "ul",
        _tile("nodes online", f"{sums['online']} of {sums['nodes']}", sums["online"] < sums["nodes"]),
        _tile("containers running", f"{sums['running']} of {sums['containers']}", False, _templates(sums["templates"])),
        _tile("snapshots", sums["snapshots"], False),
        backups,
        drifted,
        class_="tiles",
    )


def _have_none(count: int) -> str:
    return f"{count} {'has' if count == 1 else 'have'} none at all"


def _templates(count: int) -> str | None:
    return f"and {count} template{'s' if count > 1 else ''}" if count else None


def _tile(what: str, figure: t.Any, wrong: bool, more: str | None = None) -> Markup:
    return element(
        "li",
        element("span", figure, class_="figure"),
        element("span", what),
        element("span", more, class_="quiet") if more else None,
        class_="tile wrong" if wrong else "tile",
    )


def _notes(notes: t.Sequence[str]) -> Markup | None:
    if not notes:
        return None
    return element(
        "section",
        element("h2", "Not everything could be read", id="notes"),
        element("ul", [element("li", note) for note in notes]),
        class_="warned",
        aria_labelledby="notes",
    )


def _section(identity: str, heading: str, *children: Child) -> Markup:
    return element("section", element("h2", heading, id=identity), *children, aria_labelledby=identity)


def _table(label: str, columns: t.Sequence[str], *bodies: Markup, numeric: t.Collection[str] = ()) -> Markup:
    """A table that scrolls by itself where the window is too narrow, also by the keyboard."""
    heads = [element("th", name, scope="col", class_="number" if name in numeric else None) for name in columns]
    table = element("table", element("thead", element("tr", heads)), *bodies)
    return element("div", table, class_="scroll", role="region", aria_label=label, tabindex="0")


def _bar(used: t.Any, total: t.Any, shown: str | None = None) -> Markup:
    share = share_of(used, total)
    if share is None:
        return element("td", "–", class_="number")
    level = "full" if share >= FULL else "high" if share >= HIGH else None
    width = min(max(share, 0.0), 1.0) * 100
    return element(
        "td",
        element("span", f"{share:.0%}", class_="percent"),
        element("span", shown or f"{size(used)} of {size(total)}", class_="quiet"),
        element(
            "span",
            element("span", style=f"width:{width:.1f}%"),
            class_=f"bar {level or ''}".strip(),
            aria_hidden="true",
        ),
        class_="use",
    )


def _badge(word: str, kind: str) -> Markup:
    return element("span", word, class_=f"badge {kind}")


def _nodes(nodes: t.Sequence[Raw]) -> Markup:
    rows = []
    for node in nodes:
        kind = {"online": "good", "offline": "bad"}.get(str(node["status"]), "odd")
        rows.append(
            element(
                "tr",
                element("th", node["node"], scope="row"),
                element(
                    "td",
                    _badge(str(node["status"]), kind),
                    [" ", _badge("maintenance", "odd")] if node.get("maintenance") else None,
                ),
                _bar(
                    node.get("cpu"), 1 if node.get("cpu") is not None else None, f"of {node.get('maxcpu') or '?'} CPUs"
                ),
                _bar(node.get("mem"), node.get("maxmem")),
                _bar(node.get("disk"), node.get("maxdisk")),
                element("td", age(node.get("uptime")), class_="number"),
                element("td", node["containers"], class_="number"),
                element("td", node["vms"], class_="number"),
            )
        )
    columns = ("Node", "Status", "Load", "Memory", "Root disk", "Up for", "Containers", "VMs")
    numeric = ("Up for", "Containers", "VMs")
    return _section("nodes", "Nodes", _table("Nodes", columns, element("tbody", rows), numeric=numeric))


def _storages(storages: t.Sequence[Raw]) -> Markup:
    rows = []
    seen = set()
    for storage in storages:
        name = storage["storage"]
        if storage["shared"]:
            if name in seen:
                continue
            seen.add(name)
        # A shared storage has the same figures on all nodes; those of a node that knows them are shown.
        alike = [other for other in storages if other["storage"] == name] if storage["shared"] else [storage]
        best = next((other for other in alike if other["status"] == "available"), storage)
        there = best["status"] == "available"
        rows.append(
            element(
                "tr",
                element("th", name, scope="row"),
                element("td", _whose(storage, len(alike))),
                element("td", storage.get("type") or "–"),
                element("td", _badge("available", "good") if there else _badge("unknown", "odd")),
                _bar(best.get("used") if there else None, best.get("total")),
                element("td", ", ".join(storage["content"]) or "–", class_="words"),
            )
        )
    columns = ("Storage", "Node", "Type", "Status", "Used", "Content")
    if not rows:
        return _section("storages", "Storages", element("p", "None that this user or token may see.", class_="quiet"))
    return _section("storages", "Storages", _table("Storages", columns, element("tbody", rows)))


def _whose(storage: Raw, nodes: int) -> str:
    if not storage["shared"]:
        return str(storage["node"])
    return f"{nodes} nodes, shared" if nodes > 1 else f"{storage['node']}, shared"


def _drift(drift: Raw | None) -> Markup:
    heading = "Drift from the declaration"
    if drift is None:
        return _section("drift", heading, element("p", "Nothing is declared for this cluster.", class_="quiet"))
    found = []
    failure = drift.get("failure")
    rows = drift_rows(drift)
    if failure and not any("failure" in row for row in rows):
        found.append(element("p", failure.get("message") or drift.get("msg"), class_="problem"))
    if not rows and not found:
        return _section("drift", heading, element("p", "Everything is as declared."))
    if rows:
        columns = ("Container", "Id", "What", "Is", "Declared", "Takes effect")
        found.append(_table("Drift", columns, element("tbody", [_drift_row(row) for row in rows]), numeric=("Id",)))
    return _section("drift", heading, found)


def _drift_row(row: Raw) -> Markup:
    head = [
        element("th", row["container"], scope="row"),
        element("td", row["vmid"] if row.get("vmid") else "new", class_="number"),
    ]
    if "failure" in row:
        return element("tr", head, element("td", row["failure"], colspan="4", class_="problem words"))
    effect = {"live": "at once", "restart": "after a restart", "recreate": "in a new container"}.get(
        str(row.get("effect")), row.get("effect")
    )
    return element(
        "tr",
        head,
        element("td", row.get("key")),
        element("td", value_of(row.get("before")), class_="words"),
        element("td", value_of(row.get("after")), class_="words"),
        element("td", effect if row.get("request") else [effect, ", not done by itself"]),
    )


def _containers(cluster: Raw, containers: t.Sequence[Raw], now: float, max_age: float) -> Markup:
    if not containers:
        return _section("containers", "Containers", element("p", "There are none.", class_="quiet"))
    newest = newest_backups(cluster.get("backups") or []) if "backups" in cluster else None
    by_node: dict[str, list[Raw]] = defaultdict(list)
    for container in containers:
        by_node[str(container["node"])].append(container)
    columns = ["Container", "Id", "Status", "CPUs", "Memory", "Disk", "Addresses", "Tags", "Snapshots"]
    columns += ["Newest backup"] if newest is not None else []
    bodies = []
    for node in sorted(by_node):
        members = sorted(by_node[node], key=lambda entry: (str(entry.get("hostname")), entry["vmid"]))
        count = f"{len(members)} container{'s' if len(members) > 1 else ''}"
        heading = element(
            "th",
            element("span", [node, " ", element("span", count, class_="quiet")]),
            scope="rowgroup",
            colspan=len(columns),
        )
        rows = [_container(container, newest, now, max_age) for container in members]
        bodies.append(element("tbody", element("tr", heading, class_="group"), rows))
    return _section("containers", "Containers", _table("Containers", columns, *bodies, numeric=("Id", "CPUs")))


def _container(container: Raw, newest: t.Mapping[int, Raw] | None, now: float, max_age: float) -> Markup:
    usage = container.get("usage") or {}
    return element(
        "tr",
        element("th", element("bdi", container.get("hostname") or "–"), _description(container), scope="row"),
        element("td", container["vmid"], class_="number"),
        element("td", _status(container), class_="states"),
        element("td", _number(usage.get("maxcpu")), class_="number"),
        _bar(usage.get("mem"), usage.get("maxmem"))
        if container["status"] == "running"
        else _limit(usage.get("maxmem")),
        _bar(usage.get("disk"), usage.get("maxdisk")) if usage.get("disk") else _limit(usage.get("maxdisk")),
        element(
            "td",
            [element("div", entry["address"]) for entry in container.get("addresses") or []] or "–",
            class_="small",
        ),
        element(
            "td",
            [[element("span", tag, class_="tag"), " "] for tag in container.get("tags") or []] or "–",
            class_="words",
        ),
        _snapshots(container, now),
        _backup(container, newest, now, max_age) if newest is not None else None,
    )


def _number(value: t.Any) -> str:
    return "–" if value is None else f"{value:g}"


def _limit(total: t.Any) -> Markup:
    return element("td", element("span", size(total), class_="quiet"))


def _description(container: Raw) -> Markup | None:
    described = _MARKS.sub("", str((container.get("config") or {}).get("description") or ""))
    words = " ".join(described.split())
    if not words:
        return None
    return element("bdi", words if len(words) <= 80 else words[:79] + "…", class_="description quiet")


def _status(container: Raw) -> list[t.Any]:
    if container.get("template"):
        return [_badge("template", "plain")]
    status = str(container["status"])
    shown: list[t.Any] = [_badge(status, {"running": "good", "stopped": "plain"}.get(status, "odd"))]
    if container.get("lock"):
        shown += [" ", _badge(f"locked: {container['lock']}", "odd")]
    return shown


def _snapshots(container: Raw, now: float) -> Markup:
    taken = container.get("snapshots")
    if taken is None:
        return element("td", "unknown", class_="quiet")
    if not taken:
        return element("td", "none", class_="quiet")
    times = [entry["snaptime"] for entry in taken if entry.get("snaptime")]
    oldest = f"oldest {age(now - min(times))}" if times else None
    return element("td", str(len(taken)), " ", element("span", oldest, class_="quiet") if oldest else None)


def _backup(container: Raw, newest: t.Mapping[int, Raw], now: float, max_age: float) -> Markup:
    if container.get("template"):
        return element("td", "–")
    backup = newest.get(container["vmid"])
    if backup is None:
        return element("td", _badge("none", "bad"))
    old = now - backup["time"] > max_age * DAY
    shown = age(now - backup["time"])
    return element(
        "td",
        _badge(shown, "odd") if old else shown,
        " ",
        element("span", backup["storage"], class_="quiet"),
        [" ", _badge("not verified", "bad")] if backup.get("verified") is False else None,
        class_="states",
    )


_STYLE = """
:root { --back: #fff; --fore: #1c2126; --quiet: #59636e; --line: #d5dae0; --panel: #f4f6f8; --accent: #0b6bcb;
  --good: #14692f; --good-back: #dcf3e2; --bad: #a4161a; --bad-back: #fde3e3; --odd: #7a4b00; --odd-back: #fff0cf; }
@media (prefers-color-scheme: dark) { :root { --back: #14171a; --fore: #e4e8ec; --quiet: #9aa5b1; --line: #343b43;
  --panel: #1d2226; --accent: #6cb2f7; --good: #8fe0a6; --good-back: #173a22; --bad: #ffa8a8; --bad-back: #4a1a1c;
  --odd: #f4cf7c; --odd-back: #43330d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.25rem clamp(.75rem, 2.5vw, 2.5rem) 3rem; max-width: 110rem; background: var(--back);
  color: var(--fore); font: 15px/1.45 system-ui, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { margin: 0; font-size: 1.6rem; overflow-wrap: anywhere; }
h2 { margin: 2rem 0 .6rem; font-size: 1.15rem; }
p { margin: .25rem 0; }
.quiet { color: var(--quiet); font-weight: 400; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .75rem; margin: 1rem 0 0;
  padding: 0; list-style: none; }
.tile { display: flex; flex-direction: column; padding: .7rem .9rem; border: 1px solid var(--line);
  border-radius: .5rem; background: var(--panel); }
.tile.wrong { border-color: var(--bad); background: var(--bad-back); color: var(--bad); }
.tile.wrong .quiet { color: inherit; }
.figure { font-size: 1.5rem; font-weight: 650; line-height: 1.2; font-variant-numeric: tabular-nums; }
.warned { margin-top: 1.5rem; padding: .1rem 1rem .6rem; border: 1px solid var(--odd); border-radius: .5rem;
  background: var(--odd-back); overflow-wrap: anywhere; }
.warned h2 { margin: .6rem 0 .2rem; font-size: 1rem; }
.warned ul { margin: 0; padding-left: 1.2rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .5rem; }
.scroll:focus-visible { outline: 3px solid var(--accent); outline-offset: 1px; }
/* Borders that collapse do not go with a column that stays. */
table { width: 100%; border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .55rem; text-align: left; vertical-align: top; white-space: nowrap;
  border-top: 1px solid var(--line); }
thead th { border-top: 0; background: var(--panel); color: var(--quiet); font-size: .85em; font-weight: 600; }
tbody th { font-weight: 600; }
th:first-child { position: sticky; left: 0; z-index: 1; min-width: 11rem; max-width: 18rem; background: var(--back);
  overflow-wrap: anywhere; white-space: normal; }
thead th:first-child, .group th { background: var(--panel); }
.group th { max-width: none; }
.group span span { padding-left: .4rem; }
.group > th > span { position: sticky; left: .55rem; }
.number { text-align: right; }
.words { min-width: 9rem; max-width: 26rem; white-space: normal; overflow-wrap: anywhere; }
.states { white-space: normal; }
.small { font-size: .9em; }
.description { display: block; font-size: .85em; }
.problem { color: var(--bad); overflow-wrap: anywhere; }
.use { min-width: 8.5rem; }
.percent { display: inline-block; min-width: 2.6rem; }
.use .quiet { font-size: .85em; }
.bar { display: block; height: .3rem; margin-top: .2rem; border-radius: .15rem; background: var(--line);
  overflow: hidden; }
.bar span { display: block; height: 100%; background: var(--accent); }
.bar.high span { background: var(--odd); }
.bar.full span { background: var(--bad); }
.badge { display: inline-block; padding: 0 .5rem; border-radius: .75rem; font-size: .85em; font-weight: 600; }
.good { background: var(--good-back); color: var(--good); }
.bad { background: var(--bad-back); color: var(--bad); }
.odd { background: var(--odd-back); color: var(--odd); }
.plain { background: var(--panel); color: var(--quiet); box-shadow: inset 0 0 0 1px var(--line); }
.tag { display: inline-block; padding: 0 .4rem; border: 1px solid var(--line); border-radius: .25rem;
  font-size: .85em; }
@media (max-width: 40rem) { body { font-size: 14px; } th, td { padding: .35rem .5rem; }
  th:first-child { min-width: 7.5rem; max-width: 9.5rem; } .tiles { grid-template-columns: 1fr 1fr; } }
@media print { @page { size: A4 landscape; margin: 10mm; }
  :root { --back: #fff; --fore: #000; --quiet: #444; --line: #bbb; --panel: #f2f2f2; --accent: #0b6bcb;
    --good: #14692f; --good-back: #fff; --bad: #a4161a; --bad-back: #fff; --odd: #7a4b00; --odd-back: #fff; }
  body { max-width: none; padding: 0; font-size: 9pt; } .scroll { overflow: visible; border: 0; }
  th, td { padding: .15rem .35rem; white-space: normal; } th:first-child { position: static; }
  .use { min-width: 0; } th:first-child { min-width: 0; } tr { break-inside: avoid; }
  thead { display: table-header-group; }
  h2 { break-after: avoid; } .group { break-after: avoid; }
  .bar, .bar span, .badge { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
