# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module oci_image with a store of its own."""

from __future__ import annotations

import json
import time
import typing as t
from pathlib import Path

from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.layout import Layout
from ansible_collections.lxcri.proxmox.plugins.module_utils.oci.verify import verify_image
from ansible_collections.lxcri.proxmox.tests.oci.images import listing
from ansible_collections.lxcri.proxmox.tests.oci.module import run_module

INDEXES = ("application/vnd.oci.image.index.v1+json",)


def code_of(result: dict[str, t.Any]) -> str:
    """The code of a failure."""
    assert result.get("failed"), result
    failure = result["failure"]
    assert failure["message"], result
    return t.cast("str", failure["code"])


class Images:
    """Runs the module. options: those of every run."""

    def __init__(self, path: Path, **options: t.Any) -> None:
        self.path = path
        self.layout = Layout(str(path))
        self.options = {"store": str(path), **options}

    def run(
        self, check_mode: bool = False, env: t.Mapping[str, str] | None = None, **options: t.Any
    ) -> dict[str, t.Any]:
        """Run it. An option that is None is not given."""
        given = {key: value for key, value in {**self.options, **options}.items() if value is not None}
        return run_module("oci_image", given, check_mode, env)

    def converged(self, **options: t.Any) -> dict[str, t.Any]:
        """Run it: check mode first, which has to tell the same and to do nothing, and once more, which does nothing."""
        before = listing(self.path) if self.path.exists() else None
        predicted = self.run(check_mode=True, **options)
        assert not predicted.get("failed"), predicted
        assert (listing(self.path) if self.path.exists() else None) == before
        result = self.run(**options)
        assert not result.get("failed"), result
        assert result["changed"] is True
        for key in ("changed", "plan", "diff", "pruned", "freed"):
            assert predicted[key] == result[key], key
        for told, found in zip(predicted["images"], result["images"], strict=True):
            for key, value in told.items():
                assert value == found[key] or value is None, key
        again = self.run(**options)
        assert again["changed"] is False, again
        assert again["plan"] == again["diff"] == again["pruned"] == []
        return result

    def blobs(self) -> list[str]:
        """The digests of the blobs."""
        return sorted(f"sha256:{path.name}" for path in (self.path / "blobs/sha256").glob("?" * 64))

    def leftovers(self) -> list[str]:
        """What a run should not have left."""
        own = self.path / ".lxcri"
        return sorted(str(path.relative_to(own)) for path in own.rglob("*") if path.name not in _OWN)

    def verify(self) -> None:
        """See that everything in the store is right."""
        if not self.path.exists():
            return
        for entry in self.layout.entries():
            if entry["mediaType"] not in INDEXES:
                verify_image(self.layout, entry["digest"])

    def age(self, reference: str, days: int) -> None:
        """Have an image be unused for so long."""
        index = json.loads((self.path / "index.json").read_text())
        for entry in index["manifests"]:
            notes = entry["annotations"]
            if notes["org.opencontainers.image.ref.name"] == reference:
                notes["io.lxcri.used"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - days * 86400))
        (self.path / "index.json").write_text(json.dumps(index))


_OWN = ("lock", "index.lock", "staging")
