# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every code with which something can fail is told in a guide, as that is what a playbook tests."""

from __future__ import annotations

import ast
import re
import typing as t
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "plugins"
GUIDES = (*sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("roles/*/README.md")))
# What these raise, every module for checkpoints can fail with.
CHECKPOINTS = ("zfs/*.py", "node/commands.py", "node/files.py", "node/proxmox.py")
# One says that a program is wrong, the other that nothing is left to do: no playbook can test for them.
UNTOLD = {"internal", "already_at_size"}


def strings(node: ast.AST) -> t.Iterator[str]:
    """The values that an expression can have: of a condition both, of a choice from a dictionary all."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from (*strings(node.body), *strings(node.orelse))
    elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Dict):
        yield from (text for value in node.value.values for text in strings(value))


def codes_of(path: Path) -> set[str]:
    """The codes in a file: of failures, in tables of what others say, and those that are kept for a failure."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    takers = {"Failure"}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.args.args and node.args.args[0].arg == "code":
            takers.add(node.name)
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in takers and node.args:
            found.update(strings(node.args[0]))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if node.target.id.endswith(("_SENTENCES", "_STATUS")):
                rows = node.value.values if isinstance(node.value, ast.Dict) else getattr(node.value, "elts", [])
                found.update(text for row in rows for text in strings(t.cast("ast.Tuple", row).elts[0]))
        elif isinstance(node, ast.Assign):
            found.update(text for target in node.targets for text in _kept(target, node.value))
    return found


def _kept(target: ast.expr, value: ast.expr) -> t.Iterator[str]:
    """What is assigned to ``code``."""
    if isinstance(target, ast.Name) and target.id == "code":
        yield from strings(value)
    elif isinstance(target, ast.Tuple):
        branches = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
        for branch in branches:
            if isinstance(branch, ast.Tuple):
                yield from (text for pair in zip(target.elts, branch.elts) for text in _kept(*pair))


def told(*guides: Path) -> set[str]:
    """The codes in what guides say of failures."""
    texts = (guide.read_text(encoding="utf-8") for guide in guides)
    found = (re.search(r"^## Failures$.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL) for text in texts)
    return {word for section in found if section for word in re.findall(r"`\[?([a-z_]+)\]?`", section.group())}


def test_codes_are_found() -> None:
    """Of each kind one."""
    assert {"target_missing", "verification_failed"} <= codes_of(PLUGINS / "module_utils/zfs/replicate.py")
    assert {"has_clones", "held", "ha_managed"} <= codes_of(PLUGINS / "module_utils/zfs/restore.py")
    assert {"pool_full", "zfs_failed"} <= codes_of(PLUGINS / "module_utils/zfs/failures.py")
    assert {"no_quorum", "authentication_failed"} <= codes_of(PLUGINS / "module_utils/api/errors.py")
    assert {"pause_failed", "resume_failed"} <= codes_of(PLUGINS / "module_utils/oci/container.py")
    assert {"ha_managed", "replicated"} <= codes_of(PLUGINS / "module_utils/lxc/recreate.py")


@pytest.mark.parametrize("path", sorted(PLUGINS.rglob("*.py")), ids=lambda path: str(path.relative_to(PLUGINS)))
def test_every_code_is_in_a_guide(path: Path) -> None:
    assert codes_of(path) - told(*GUIDES) - UNTOLD == set()


def test_every_code_of_checkpoints_is_in_their_guide() -> None:
    found = {
        code for pattern in CHECKPOINTS for path in (PLUGINS / "module_utils").glob(pattern) for code in codes_of(path)
    }
    assert found - told(ROOT / "docs/checkpoints.md") == set()
