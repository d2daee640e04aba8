"""Every real record of every test against the published schema: the first few of each kind and event of a process."""

import collections
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence

import jsonschema

from audit.log import Log
from audit.record import read_record
from enforcer.delivery import Delivery

SCHEMA = json.loads((pathlib.Path(__file__).parents[1] / "audit" / "schemas" / "record-1.json").read_text("utf-8"))
_EACH = 5
_seen: collections.Counter[tuple[object, object]] = collections.Counter()


@functools.cache
def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    return jsonschema.Draft202012Validator(SCHEMA)


def check(row: Mapping[str, object]) -> None:
    """Raise AssertionError for a record that the schema does not have."""
    found = [f"{item.json_path}: {item.message}" for item in validator().iter_errors(dict(row))]
    assert not found, (found, row)


def watch() -> None:
    """Check what a server and an agent of this process write from now on."""
    append, written = Log.append_made, Delivery._written

    def append_made(self: Log, records: Sequence[Mapping[str, object]]) -> int:
        count = append(self, records)
        for row in records:
            if str(row["source"]).startswith("server:"):
                _check_some(row)
        return count

    def checked(self: Delivery, found: Mapping[str, object]) -> bytes:
        data = written(self, found)
        if "direction" in found or found.get("kind") != "decision":
            _check_some(read_record(data))
        return data

    Log.append_made = append_made  # type: ignore[method-assign]
    Delivery._written = checked  # type: ignore[method-assign]


def _check_some(row: Mapping[str, object]) -> None:
    key = row.get("kind"), row.get("event")
    _seen[key] += 1
    if _seen[key] <= _EACH:
        check(row)
