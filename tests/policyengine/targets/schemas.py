"""What other meshes say about their own objects: resource definitions as strict JSON Schemas, and Consul's own types.

A structural schema of Kubernetes prunes a field that it does not have, so here such a field is an error. Rules in CEL
(`x-kubernetes-validations`) are not looked at.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import subprocess
from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest
import yaml


def folder() -> pathlib.Path:
    """The folder of `.ci/schemas`; skips the test that runs where it is not there."""
    named = os.environ.get("LIMEN_SCHEMAS")
    if not named or not pathlib.Path(named).is_dir():
        pytest.skip("not installed: schemas of other meshes (.ci/schemas fetches them)")
    return pathlib.Path(named)


def validate(row: Any, mesh: str) -> None:
    """Hold an object to the definition of its kind.

    Raises jsonschema.ValidationError.
    """
    _validators(folder() / f"{mesh}.yaml")[row["apiVersion"], row["kind"]].validate(row)


@functools.cache
def _validators(path: pathlib.Path) -> dict[tuple[str, str], jsonschema.Draft7Validator]:
    out = {}
    # the loader in C: these files have a megabyte
    for definition in yaml.load_all(path.read_text("utf-8"), Loader=yaml.CSafeLoader):
        if definition is None:
            continue
        spec = definition["spec"]
        for version in spec["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            # what every object of Kubernetes has, whether the definition says so or not
            schema["properties"] |= {name: {"type": "string"} for name in ("apiVersion", "kind")}
            schema["properties"]["metadata"] = {
                "type": "object",
                "required": ["name", "namespace"],
                "properties": {name: {"type": "string"} for name in ("name", "namespace")},
            }
            schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
            out[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = jsonschema.Draft7Validator(schema)
    return out


def strict(schema: Any) -> Any:
    """A structural schema in which an object has no other fields than those that are listed."""
    out = {key: value for key, value in schema.items() if key not in {"properties", "items", "additionalProperties"}}
    if schema.get("x-kubernetes-int-or-string"):
        out.pop("type", None)
    if "items" in schema:
        out["items"] = strict(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        out["additionalProperties"] = strict(schema["additionalProperties"])
    if "properties" in schema:
        out["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            out.setdefault("additionalProperties", False)
    return out


def consul_says(entries: Sequence[str]) -> list[str]:
    """What Consul's own client makes of config entries in JSON: `ok`, or why not."""
    lines = "".join(json.dumps(json.loads(entry)) + "\n" for entry in entries)
    program = str(folder() / "consul-intentions")
    done = subprocess.run([program], input=lines, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.splitlines()
