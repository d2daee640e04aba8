"""YAML of plain data in which an object that stands in several places is written once, and named in the others.

What is written is JSON, which is YAML too, with anchors and aliases (YAML 1.2 §7.1): ten thousand callers with one
matcher are ten thousand short lines. Objects are shared by identity: whoever builds the data decides what is one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

MAX_DEPTH = 500
_WORTH = 2
"""Objects with fewer entries and nothing below them are not worth a name."""


def write(value: object) -> str:
    """The text of plain data, one entry a line."""
    found = _Writer(value)
    found.put(value, "\n")
    return "".join(found.parts) + "\n"


class _Writer:
    """Counts who stands where, then writes."""

    def __init__(self, value: object) -> None:
        self.parts: list[str] = []
        self._seen: set[int] = set()
        self._shared: set[int] = set()
        self._names: dict[int, str] = {}
        waiting = [value]
        while waiting:
            found = waiting.pop()
            if isinstance(found, Mapping):
                if id(found) in self._seen:
                    self._shared.add(id(found))
                    continue
                self._seen.add(id(found))
                waiting.extend(found.values())
            elif isinstance(found, list):
                waiting.extend(found)

    def put(self, value: object, line: str) -> None:
        """Write a value; ``line`` begins a line at its depth."""
        assert len(line) <= MAX_DEPTH, "matchers are not that deep"
        if isinstance(value, Mapping):
            if id(value) in self._names:
                self.parts.append(f"*{self._names[id(value)]}")
                return
            if id(value) in self._shared and (len(value) >= _WORTH or any(map(_is_inner, value.values()))):
                name = self._names[id(value)] = f"m{len(self._names) + 1}"
                self.parts.append(f"&{name} ")
            self._all([(f"{_text(str(key))}: ", item) for key, item in value.items()], "{}", line)
        elif isinstance(value, list):
            self._all([("", item) for item in value], "[]", line)
        else:
            self.parts.append(_text(value) if isinstance(value, str) else json.dumps(value))

    def _all(self, rows: list[tuple[str, object]], ends: str, line: str) -> None:
        self.parts.append(ends[0])
        for place, (key, item) in enumerate(rows):
            # an alias ends where a space or a line does, not at a comma (YAML 1.2 §7.1)
            self.parts.append(f"{' ,' if place else ''}{line} {key}")
            self.put(item, f"{line} ")
        self.parts.append(f"{line}{ends[1]}" if rows else ends[1])


def _text(value: str) -> str:
    """A text in quotes: JSON's, but YAML has no pairs of surrogates."""
    if max(value, default="") <= "\uffff":
        return json.dumps(value)
    return '"' + "".join(json.dumps(c)[1:-1] if c <= "\uffff" else f"\\U{ord(c):08x}" for c in value) + '"'


def _is_inner(value: object) -> bool:
    return isinstance(value, Mapping | list)
