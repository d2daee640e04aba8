"""YAML as Limen's files use it: a strict subset, read with the YAML 1.2 core schema and a place for every value.

`no` stays text, `0o80` and `22:30` stay text, a key stands once, and there are no anchors, aliases, merge keys or
tags. All findings are returned, never raised. Values mean nothing here; loaders give them meaning.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Literal

import yaml

from mesh.problems import Diagnostic, Span

MAX_FILE_BYTES = 8 << 20
MAX_DEPTH = 32
Kind = Literal["text", "int", "float", "bool", "null", "list", "map"]
Scalar = str | int | float | bool | None

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?\Z")
_MAX_DIGITS = 19
# everything but printable characters, tab and line ends (YAML 1.2 §5.1)
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# what hides, reorders or invisibly breaks text: a reviewer must see what a loader reads. NEL and a lone carriage
# return end a line for YAML 1.1 parsers, but not on a reviewer's screen
_DECEPTIVE = re.compile(
    "[\x85\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
    "\U000e0000-\U000e0fff]|\r(?!\n)"
)
_Loader: type[yaml.CBaseLoader | yaml.BaseLoader] = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One value with its place: ``items`` of a list, ``pairs`` of a map, or a ``scalar``."""

    kind: Kind
    span: Span
    scalar: Scalar = None
    items: tuple[Node, ...] = ()
    pairs: tuple[tuple[Node, Node], ...] = ()

    def get(self, name: str) -> Node | None:
        """The value of a key of a map, None when it is not there."""
        return next((value for key, value in self.pairs if key.scalar == name), None)

    def plain(self) -> object:
        """The value as Python's dicts, lists and scalars, without places."""
        if self.kind == "map":
            return {str(key.scalar): value.plain() for key, value in self.pairs}
        if self.kind == "list":
            return [item.plain() for item in self.items]
        return self.scalar


def compose_documents(text: str, file: str, *, limit: int = MAX_FILE_BYTES) -> tuple[list[Node], list[Diagnostic]]:
    """Read all documents of a file.

    1. The text is bounded, printable and has no byte order mark.
    2. It is well-formed YAML.
    3. EVERY node is a plain value, list or map: no anchor, alias, merge key or tag, and no deeper than 32.
    4. EVERY key is text and stands once in its map.

    Returns the documents that broke no rule, and every finding (LM5100 to LM5107).
    """
    found: list[Diagnostic] = []
    # (1)
    if len(text) > limit:
        return [], [_finding("LM5100", Span(file=file, line=1, column=1), limit=limit)]
    bad = _UNPRINTABLE.search(text) or _DECEPTIVE.search(text)
    if bad is not None:
        line = text.count("\n", 0, bad.start()) + 1
        column = bad.start() - (text.rfind("\n", 0, bad.start()) + 1) + 1
        place = Span(file=file, line=line, column=column)
        return [], [_finding("LM5101", place, character=f"U+{ord(bad.group()):04X}")]
    documents: list[Node] = []
    try:
        # (3) before composing: an alias must never be expanded
        found.extend(_references(text, file))
        if found:
            return [], found
        # (2)
        for root in yaml.compose_all(text, Loader=_Loader):
            if root is None:
                continue
            before = len(found)
            node = _convert(root, file, 0, found)
            if len(found) == before:
                documents.append(node)
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        place = Span(file=file, line=mark.line + 1 if mark else 1, column=mark.column + 1 if mark else 1)
        found.append(_finding("LM5102", place, reason=err.problem or "it cannot be read"))
    except (yaml.YAMLError, ValueError, RecursionError) as err:
        found.append(_finding("LM5102", Span(file=file, line=1, column=1), reason=type(err).__name__))
    return documents, found


def _references(text: str, file: str) -> list[Diagnostic]:
    """Find anchors, aliases, tags and too much depth in the event stream, before anything is built from it."""
    found: list[Diagnostic] = []
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        place = _span(event, file)
        if isinstance(event, yaml.AliasEvent):
            found.append(_finding("LM5103", place, what=f"*{event.anchor}"))
        elif anchor := getattr(event, "anchor", None):
            found.append(_finding("LM5103", place, what=f"&{anchor}"))
        tag = getattr(event, "tag", None)
        if tag is not None:
            found.append(_finding("LM5104", place, tag=tag))
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                found.append(_finding("LM5105", place, limit=MAX_DEPTH))
                break
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            depth -= 1
    return found


def _span(item: yaml.Node | yaml.Event, file: str) -> Span:
    mark = item.start_mark
    assert mark is not None
    return Span(file=file, line=mark.line + 1, column=mark.column + 1)


def _finding(code: str, span: Span, **facts: object) -> Diagnostic:
    return Diagnostic(code=code, span=span, facts=facts)


def _convert(node: yaml.Node, file: str, depth: int, found: list[Diagnostic]) -> Node:
    span = _span(node, file)
    if isinstance(node, yaml.SequenceNode):
        return Node(kind="list", span=span, items=tuple(_convert(item, file, depth + 1, found) for item in node.value))
    if isinstance(node, yaml.MappingNode):
        return _convert_map(node, file, depth, found)
    assert isinstance(node, yaml.ScalarNode)
    kind, value = _resolve(node)
    return Node(kind=kind, span=span, scalar=value)


def _convert_map(node: yaml.MappingNode, file: str, depth: int, found: list[Diagnostic]) -> Node:
    """Step 4 of `compose_documents`."""
    pairs: list[tuple[Node, Node]] = []
    seen: set[str] = set()
    for raw_key, raw_value in node.value:
        place = _span(raw_key, file)
        if not isinstance(raw_key, yaml.ScalarNode):
            found.append(_finding("LM5106", place))
            continue
        name = str(raw_key.value)
        if name == "<<" and not raw_key.style:
            found.append(_finding("LM5103", place, what="<<"))
            continue
        if name in seen:
            found.append(_finding("LM5107", place, key=name))
            continue
        seen.add(name)
        key = Node(kind="text", span=place, scalar=name)
        pairs.append((key, _convert(raw_value, file, depth + 1, found)))
    return Node(kind="map", span=_span(node, file), pairs=tuple(pairs))


def _resolve(node: yaml.ScalarNode) -> tuple[Kind, Scalar]:
    """The YAML 1.2 core schema, without octal and hexadecimal numbers, infinity and NaN: those stay text."""
    text = str(node.value)
    if node.style:
        return "text", text
    if text in {"", "~", "null", "Null", "NULL"}:
        return "null", None
    if text in {"true", "True", "TRUE"}:
        return "bool", True
    if text in {"false", "False", "FALSE"}:
        return "bool", False
    if _INT.match(text) and len(text) <= _MAX_DIGITS:
        return "int", int(text)
    if _FLOAT.match(text) and not text.lstrip("+-").isdigit() and len(text) <= _MAX_DIGITS:
        number = float(text)
        return ("float", number) if math.isfinite(number) else ("text", text)
    return "text", text
