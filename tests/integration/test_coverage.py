# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing is without a test, a place in the action group, and a line in the documentation."""

from __future__ import annotations

import importlib
import re
import typing as t

import pytest
import yaml
from ansible.module_utils import basic
from ansible_collections.lxcri.proxmox.tests.integration.playbook import ROOT

MODULES = sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py") if path.stem != "__init__")
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())


class Specification(Exception):
    """Thrown instead of running a module."""


def specification(module: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, t.Any]:
    """The argument specification with which a module starts."""
    found: dict[str, t.Any] = {}

    def stop(self: t.Any, argument_spec: dict[str, t.Any], **_others: t.Any) -> None:
        found.update(argument_spec)
        raise Specification

    loaded = importlib.import_module(f"ansible_collections.lxcri.proxmox.plugins.modules.{module}")
    monkeypatch.setattr(basic.AnsibleModule, "__init__", stop)
    with pytest.raises(Specification):
        loaded.main()
    return found


def option_names(options: t.Mapping[str, t.Any]) -> t.Iterator[str]:
    """The names of options and of their suboptions."""
    for name, option in options.items():
        yield name
        yield from option_names(option.get("options") or {})


def text_of(*kinds: str) -> str:
    """The text of the tests and scenarios, without this one."""
    files = [
        path for kind in kinds for path in (ROOT / "tests" / kind).rglob("*.py") if path.name != "test_coverage.py"
    ]
    files += (ROOT / "extensions/molecule").rglob("*.yml")
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


@pytest.mark.parametrize("module", MODULES)
def test_every_option_occurs_in_a_test(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = set(option_names(specification(module, monkeypatch)))
    words = set(re.findall(r"\w+", text_of("unit", "wire", "oci", "integration", "lab")))
    assert names
    assert sorted(names - words) == []


@pytest.mark.parametrize("module", MODULES)
def test_every_module_is_run_by_tests(module: str) -> None:
    """Against the simulator, with the real tools of OCI, or on the emulated machine: where its work is done."""
    runtime = yaml.safe_load((ROOT / "meta/runtime.yml").read_text(encoding="utf-8"))
    kind = "wire" if module in runtime["action_groups"]["api"] else "oci" if module.startswith("oci_") else "lab"
    files = (ROOT / "tests" / kind).glob("*.py")
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    assert f'"{module}"' in text, f"{module} has no test in tests/{kind}"


def test_all_modules_are_in_the_action_group() -> None:
    runtime = yaml.safe_load((ROOT / "meta/runtime.yml").read_text(encoding="utf-8"))
    with_api = [
        module
        for module in MODULES
        if "lxcri.proxmox.api\n" in (ROOT / f"plugins/modules/{module}.py").read_text(encoding="utf-8")
    ]
    assert sorted(runtime["action_groups"]["api"]) == with_api
    assert set(with_api) <= set(MODULES)


@pytest.mark.parametrize("name", [*MODULES, *ROLES])
def test_the_readme_names_every_module_and_role(name: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [row] = re.findall(rf"^\| \[`{name}`\]\((\S+)\) \| \S.*\|$", readme, re.MULTILINE)
    assert (ROOT / row).exists()


def test_links_of_the_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "roles").rglob("*.md")]
    documents += (ROOT / "examples").rglob("*.md")
    broken = []
    for document in documents:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
            if not re.match(r"https?:|mailto:", target) and not (document.parent / target).exists():
                broken.append(f"{document.relative_to(ROOT)}: {target}")
    assert broken == []


@pytest.mark.parametrize(
    "name",
    [
        "docs/containers.md",
        "docs/workloads.md",
        "docs/objects.md",
        "docs/templates_and_backups.md",
        "docs/checkpoints.md",
        "docs/oci.md",
        "docs/operations.md",
    ],
)
def test_every_failure_code_of_a_guide_exists(name: str) -> None:
    guide = (ROOT / name).read_text(encoding="utf-8")
    section = guide.split("## Failures")[1].split("\n## ")[0]
    codes = {
        code for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for code in re.findall(r"`(\w+)`", row)
    }
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "plugins/module_utils").rglob("*.py"))
    assert codes
    assert sorted(code for code in codes if f'"{code}"' not in source) == []


@pytest.mark.parametrize(("part", "name"), [("zfs", "checkpoints"), ("oci", "oci")])
def test_every_failure_code_is_in_the_guide(part: str, name: str) -> None:
    guide = (ROOT / f"docs/{name}.md").read_text(encoding="utf-8")
    source = "\n".join(
        path.read_text(encoding="utf-8") for path in (ROOT / f"plugins/module_utils/{part}").rglob("*.py")
    )
    codes = set(re.findall(r'Failure\(\s*"(\w+)"', source))
    assert codes
    assert sorted(code for code in codes if f"`{code}`" not in guide) == []


COMMANDS = (
    *("create", "start", "run", "state", "list", "info", "kill", "delete", "stop", "pause", "resume", "exec", "ps"),
    *("events", "spec", "checkpoint", "restore", "update", "features"),
)


def test_every_command_of_a_runtime_has_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the table of the guide names is there: modules, their options with these values, and what they return."""
    section = (ROOT / "docs/oci.md").read_text(encoding="utf-8").split("### Which command is which module")[1]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", section.split("\n### ")[0], re.MULTILINE)
    assert [command for command, *_cells in rows] == list(COMMANDS)
    wrong = [
        f"{command}: {problem}"
        for command, *cells in rows
        for cell in cells
        for problem in problems_of(cell, monkeypatch)
    ]
    assert wrong == []


def problems_of(cell: str, monkeypatch: pytest.MonkeyPatch) -> t.Iterator[str]:
    """What a cell of the table names, and is not there."""
    module = ""
    for name in re.findall(r"`(.*?)`", cell):
        returned = re.fullmatch(r"(\w+)\[\](?:\.(\w+))?", name)
        option = re.fullmatch(r"(\w+)(?:: (.+))?", name)
        if re.fullmatch(r"(lxc|oci|zfs|pve)_\w+", name):
            module = name
            if module not in MODULES:
                yield name
        elif returned:
            loaded = importlib.import_module(f"ansible_collections.lxcri.proxmox.plugins.modules.{module}")
            listed = yaml.safe_load(loaded.RETURN).get(returned[1], {})
            if listed.get("elements") != "dict" or (returned[2] and returned[2] not in listed["contains"]):
                yield f"{name} of {module}"
        elif option:
            known = specification(module, monkeypatch).get(option[1])
            if not known or (option[2] and not takes(known, yaml.safe_load(option[2]))):
                yield f"{name} of {module}"
        elif not re.match(r"pct exec |lxc-\w+ |kill |ansible\.builtin\.", name):
            yield name


def takes(option: t.Mapping[str, t.Any], value: t.Any) -> bool:
    """Whether a value is one that an option takes."""
    kinds = {"bool": bool, "list": list, "str": str, "dict": dict, "int": int}
    values = value if isinstance(value, list) else [value]
    choices = option.get("choices", values)
    return isinstance(value, kinds[option["type"]]) and all(each in choices for each in values)
