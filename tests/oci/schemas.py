# Copyright (c) lxcri.proxmox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Validates documents by the JSON schemas of the specifications, as Debian packages them."""

from __future__ import annotations

import functools
import json
import typing as t
from pathlib import Path

import jsonschema
from ansible_collections.lxcri.proxmox.tests.oci.tools import SCHEMAS
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4


def validate(document: t.Any, specification: str, schema: str) -> None:
    """Validate by a schema of ``runtime-spec`` or ``image-spec``, such as ``image-index``."""
    registry = _schemas(specification)
    validator = jsonschema.Draft4Validator({"$ref": f"{schema}-schema.json"}, registry=registry)
    validator.validate(document)


def validate_spec(spec: dict[str, t.Any]) -> None:
    """Validate a ``config.json``. The schema admits properties that it does not know, and runtimes ignore them."""
    validate(spec, "runtime-spec", "config")
    unknown = _names_in(spec) - _names_of_schemas("runtime-spec")
    assert not unknown


def validate_layout(layout: Path) -> list[str]:
    """Validate an image layout and all that its index names; the media types that were met, sorted."""
    validate(json.loads((layout / "oci-layout").read_text()), "image-spec", "image-layout")
    return sorted(_index(layout, json.loads((layout / "index.json").read_text())))


def _index(layout: Path, index: dict[str, t.Any]) -> t.Iterator[str]:
    validate(index, "image-spec", "image-index")
    for descriptor in index["manifests"]:
        yield descriptor["mediaType"]
        document = _blob(layout, descriptor)
        if descriptor["mediaType"].endswith("index.v1+json"):
            yield from _index(layout, document)
            continue
        validate(document, "image-spec", "image-manifest")
        validate(_blob(layout, document["config"]), "image-spec", "config")
        yield document["config"]["mediaType"]
        yield from (below["mediaType"] for below in document["layers"])


def _blob(layout: Path, descriptor: dict[str, t.Any]) -> t.Any:
    data = (layout / "blobs" / descriptor["digest"].replace(":", "/")).read_bytes()
    assert len(data) == descriptor["size"]
    return json.loads(data)


@functools.cache
def _documents(specification: str) -> dict[str, t.Any]:
    paths = (SCHEMAS / specification / "schema").glob("*.json")
    return {path.name: _anonymous(json.loads(path.read_text("utf-8"))) for path in paths}


def _anonymous(schema: t.Any) -> t.Any:
    """Without identifiers: they lead elsewhere than the references, which are names of files."""
    if isinstance(schema, list):
        return [_anonymous(below) for below in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _anonymous(below) for key, below in schema.items() if key != "id" or not isinstance(below, str)}


@functools.cache
def _schemas(specification: str) -> Registry[t.Any]:
    documents = _documents(specification)
    return Registry().with_resources(
        (name, Resource(contents=document, specification=DRAFT4)) for name, document in documents.items()
    )


@functools.cache
def _names_of_schemas(specification: str) -> set[str]:
    found: set[str] = set()

    def walk(schema: t.Any) -> None:
        if isinstance(schema, dict):
            if isinstance(schema.get("properties"), dict):
                found.update(schema["properties"])
            for below in schema.values():
                walk(below)
        elif isinstance(schema, list):
            for below in schema:
                walk(below)

    walk(list(_documents(specification).values()))
    return found


def _names_in(value: t.Any) -> set[str]:
    """The names in a specification, without those that are free."""
    if isinstance(value, list):
        return {name for below in value for name in _names_in(below)}
    if not isinstance(value, dict):
        return set()
    free = ("annotations", "sysctl", "unified")
    return set(value) | {name for key, below in value.items() if key not in free for name in _names_in(below)}
