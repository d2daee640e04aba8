"""Writes JSON of decisions quickly: those that differ in few fields only share a text that is made once.

What a form makes of a decision without its own id, time, path, trace and sizes is the same for all that one caller asks
by one rule. So the form is asked once, with marks in their places, and the marks are replaced in its text. Only what
needs no escaping and means nothing to a form goes that way; for every other record the answer is None, and the caller
asks the form itself: both ways give the same bytes, which a property test shows. This module knows no form.
"""

from __future__ import annotations

import collections
import datetime as dt
import json
import re
from collections.abc import Callable
from typing import Any

from audit.record import Record

Json = dict[str, Any]
_KEPT = 4096
# printable ASCII that stands in JSON as it is, but for spaces: a sentence would fold them
_PLAIN = re.compile(r"[!#-\[\]-~]{1,300}\Z")
_TRACE = re.compile(r"(?!0+\Z)(?:[0-9a-f]{32}|[0-9a-f]{16})\Z")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\Z")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND = dt.timedelta(milliseconds=1)
# what stands for the fields that differ: a moment of its own is found again as a text and as a number
_MARKS: dict[str, Any] = {
    "id": "@0id0@",
    "time": "1999-09-09T09:09:09.000000Z",
    "trace_id": "0123456789abcdefedcba98765432100",
    "span_id": "fedcba9876543200",
    "latency_us": 710019990909001,
    "bytes_in": 710019990909002,
    "bytes_out": 710019990909003,
}
_BEFORE, _QUERY, _INDEX, _MILLISECONDS = "@0path0@", "@0query0@", 710019990909004, "936868149000"
_WITH_QUERY = f"{_BEFORE}?{_QUERY}"
_NUMBERS = ("latency_us", "bytes_in", "bytes_out")
_MARK = re.compile("|".join([*map(str, _MARKS.values()), _BEFORE, _QUERY, str(_INDEX), _MILLISECONDS]))
_NAMES = {str(mark): name for name, mark in _MARKS.items()} | {
    _BEFORE: "before",
    _QUERY: "query",
    str(_INDEX): "index",
    _MILLISECONDS: "ms",
}

write = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
"""JSON in one line."""


class Alike:
    """Texts of decisions of one form; ``build`` makes the form of a record."""

    def __init__(self, build: Callable[[int, Record], Json]) -> None:
        self._build = build
        self._known: collections.OrderedDict[object, list[str] | None] = collections.OrderedDict()

    def line(self, index: int, record: Record) -> str | None:
        """The form of a decision, as ``build`` makes it; None when ``build`` has to be asked.

        1. Its own fields become marks, where they stand: a form may keep the order of fields. Each has a form that
           needs no escape, or the answer is None.
        2. All that is left decides which text it is, and so does that order.
        3. The text that was made of the marks gets the values in their place.
        """
        if record["kind"] != "decision":
            return None
        # (1)
        rest = dict(record)
        values = _own(rest)
        if values is None:
            return None
        values["index"] = str(index)
        # (2) 1, 1.0 and True are equal, and three things in JSON
        key = tuple(values), tuple(rest.items()), tuple(map(type, rest.values()))
        try:
            is_known = key in self._known
        except TypeError:
            # it holds a list or an object
            return None
        if not is_known:
            self._known[key] = self._make(rest, values)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        parts = self._known[key]
        if parts is None:
            return None
        # (3)
        found = parts.copy()
        for place in range(1, len(found), 2):
            found[place] = values[found[place]]
        return "".join(found)

    def _make(self, rest: Record, values: dict[str, str]) -> list[str] | None:
        """Text and names of fields in turn; None when something in the record looks like a mark."""
        own = {*values, "path"} if "before" in values else {*values}
        if _MARK.search(write({name: value for name, value in rest.items() if name not in own})) is not None:
            return None
        text = write(self._build(_INDEX, rest))
        parts: list[str] = []
        end = 0
        for match in _MARK.finditer(text):
            parts += [text[end : match.start()], _NAMES[match[0]]]
            end = match.end()
        return [*parts, text[end:]]


def _own(rest: Record) -> dict[str, str] | None:
    """Step 1 of `line`: a decision's own fields, marks in their place, as they stand in JSON without quotes."""
    name, time = rest["id"], rest["time"]
    if not isinstance(name, str) or not isinstance(time, str) or not _PLAIN.match(name) or not _TIME.match(time):
        return None
    try:
        moment = dt.datetime.fromisoformat(time)
    except ValueError:
        return None
    values = {"id": name, "time": time, "ms": str((moment - _EPOCH) // _MILLISECOND)}
    rest["id"], rest["time"] = _MARKS["id"], _MARKS["time"]
    path = rest.get("path")
    if path is not None:
        if not isinstance(path, str) or not _PLAIN.match(path):
            return None
        before, mark, query = path.partition("?")
        # a mark in the place of nothing would be something
        if not before or (mark and not query):
            return None
        values["before"] = before
        if mark:
            values["query"] = query
        rest["path"] = _WITH_QUERY if mark else _BEFORE
    return _own_values(rest, values)


def _own_values(rest: Record, values: dict[str, str]) -> dict[str, str] | None:
    """Trace and numbers of a decision, marks in their place; what is no valid one is for the form."""
    for field in ("trace_id", "span_id"):
        value = rest.get(field)
        if value is not None:
            if not isinstance(value, str) or not _TRACE.match(value) or len(value) != len(_MARKS[field]):
                return None
            values[field] = value
            rest[field] = _MARKS[field]
    for field in _NUMBERS:
        count = rest.get(field)
        # 53 bits: the marks are below that, and a form may look whether a number is one of those
        if type(count) is int and 0 <= count < 1 << 53:
            values[field] = str(count)
            rest[field] = _MARKS[field]
    return values
