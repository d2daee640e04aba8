"""YAML as Limen's files use it: a strict subset, read with the YAML 1.2 core schema and a place for every value.

A key stands once, there are no anchors, aliases, merge keys or tags, and what YAML 1.1 and 1.2 read as different
values (`no`, `010`, `1_000`, `22:30`, `.inf`) is refused until it is quoted: a reviewer and a loader must not see two
things. Depth, size and the number of values are bounded before anything is built. All findings are returned, never
raised. Values mean nothing here; loaders give them meaning.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Literal

import yaml

from mesh.problems import Diagnostic, Span, shortened

MAX_FILE_BYTES = 8 << 20
MAX_DEPTH = 32
MAX_VALUES = 400_000
"""How many values and keys a file may have: each costs half a kilobyte while it is read."""
MAX_FINDINGS = 1_000
"""How many findings about one file are told; what follows them is counted as one more."""
Kind = Literal["text", "int", "float", "bool", "null", "list", "map"]
Scalar = str | int | float | bool | None

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?\Z")
_MAX_DIGITS = 19
_MAX_INT = 2**53 - 1
"""The largest whole number that every reader of JSON keeps (RFC 8259 §6): policies travel as JSON."""
# what a reader of YAML 1.1 (yaml.org/type/{bool,int,float}) or of the octal and hexadecimal numbers of YAML 1.2's core
# schema makes of a plain text, and this module does not; `y` and `n` are left out because no reader in use takes them
# for booleans
_AMBIGUOUS = re.compile(
    r"(?:yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF"
    r"|[-+]?0[0-9_]+|[-+]?0o[0-7]+|[-+]?0x[0-9a-fA-F_]+|[-+]?0b[01_]+"
    r"|[-+]?(?=[0-9]|\.[0-9])(?=[^_]*_)[0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
)
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_OF_ONE_VALUE = frozenset({"LM5104", "LM5109", "LM5111"})
"""Findings about one value that leave the rest of the file readable."""
_NUMBER_LIKE = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?\Z")
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


def compose_documents(
    text: str, file: str, *, limit: int = MAX_FILE_BYTES, foreign: bool = False
) -> tuple[list[Node], list[Diagnostic]]:
    """Read all documents of a file.

    1. The text is bounded, printable and has no byte order mark.
    2. It is well-formed YAML.
    3. EVERY node is a plain value, list or map: no anchor, alias, merge key or tag, no deeper than 32, and no more than
       `MAX_VALUES` of them.
    4. EVERY key is text and stands once in its map.
    5. NO plain value or key is read differently by YAML 1.1, and numbers are those that JSON keeps. A ``foreign`` file,
       written for another program, may hold such values: they stay text.

    Returns the documents as far as they could be read, so that what reads them adds its findings to these, and every
    finding (LM5100 to LM5111). With a finding among them, no document must be used.
    """
    found: list[Diagnostic] = []
    # (1)
    if len(text) > limit or (not text.isascii() and len(text.encode("utf-8", "replace")) > limit):
        return [], [_finding("LM5100", Span(file=file, line=1, column=1), limit=limit)]
    bad = _UNPRINTABLE.search(text) or _DECEPTIVE.search(text)
    if bad is not None:
        line = text.count("\n", 0, bad.start()) + 1
        column = bad.start() - (text.rfind("\n", 0, bad.start()) + 1) + 1
        place = Span(file=file, line=line, column=column)
        return [], [_finding("LM5101", place, character=f"U+{ord(bad.group()):04X}")]
    documents: list[Node] = []
    try:
        # (3), (5) before composing: an alias must never be expanded
        found.extend(_unwanted(text, file, foreign=foreign))
        if any(item.code not in _OF_ONE_VALUE for item in found):
            return [], found
        # (2)
        for root in yaml.compose_all(text, Loader=_Loader):
            if root is None:
                continue
            documents.append(_convert(root, file, 0, found))
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        place = Span(file=file, line=mark.line + 1 if mark else 1, column=mark.column + 1 if mark else 1)
        found.append(_finding("LM5102", place, reason=err.problem or "it cannot be read"))
    except (yaml.YAMLError, ValueError, RecursionError) as err:
        found.append(_finding("LM5102", Span(file=file, line=1, column=1), reason=type(err).__name__))
    if len(found) > MAX_FINDINGS:
        last = found[MAX_FINDINGS].span or Span(file=file, line=1, column=1)
        found[MAX_FINDINGS:] = [_finding("LM5110", last, limit=MAX_FINDINGS)]
    return documents, found


def _unwanted(text: str, file: str, *, foreign: bool) -> list[Diagnostic]:
    """Find what steps 3 and 5 refuse in the event stream, before anything is built from it.

    Nesting and the number of values end the look: what follows is not read at all.
    """
    found: list[Diagnostic] = []
    depth = values = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            depth -= 1
            continue
        if not isinstance(event, yaml.NodeEvent):
            continue
        found.extend(_of_event(event, file, foreign=foreign))
        values += 1
        depth += not isinstance(event, yaml.ScalarEvent | yaml.AliasEvent)
        if depth > MAX_DEPTH:
            found.append(_finding("LM5105", _span(event, file), limit=MAX_DEPTH))
            break
        if values > MAX_VALUES:
            found.append(_finding("LM5108", _span(event, file), limit=MAX_VALUES))
            break
        if len(found) > MAX_FINDINGS:
            found[MAX_FINDINGS:] = [_finding("LM5110", _span(event, file), limit=MAX_FINDINGS)]
            break
    return found


def _of_event(event: yaml.NodeEvent, file: str, *, foreign: bool) -> Iterator[Diagnostic]:
    """What is wrong with one value, list or map by itself."""
    if isinstance(event, yaml.AliasEvent):
        yield _finding("LM5103", _span(event, file), what=f"*{event.anchor}")
        return
    if event.anchor:
        yield _finding("LM5103", _span(event, file), what=f"&{event.anchor}")
    tag = getattr(event, "tag", None)
    if tag is not None:
        yield _finding("LM5104", _span(event, file), tag=tag)
    if foreign or not isinstance(event, yaml.ScalarEvent) or event.style:
        return
    value = str(event.value)
    if _AMBIGUOUS.match(value):
        yield _finding("LM5109", _span(event, file), value=value)
    elif _NUMBER_LIKE.match(value) and not _is_kept(value):
        yield _finding("LM5111", _span(event, file), value=value)


def needs_quotes(text: str) -> bool:
    """Whether a text that is written plain would be refused (step 5) or would be no text, so that writers quote it."""
    if text in _NULLS or text in _BOOLS:
        return True
    return _AMBIGUOUS.match(text) is not None or _NUMBER_LIKE.match(text) is not None


def _is_kept(number: str) -> bool:
    """Whether every reader of JSON keeps a number as it stands."""
    if len(number) > _MAX_DIGITS:
        return False
    return abs(int(number)) <= _MAX_INT if _INT.match(number) else math.isfinite(float(number))


def _span(item: yaml.Node | yaml.Event, file: str) -> Span:
    mark = item.start_mark
    assert mark is not None
    return Span(file=file, line=mark.line + 1, column=mark.column + 1)


def _finding(code: str, span: Span, **facts: object) -> Diagnostic:
    short = {name: shortened(fact) if isinstance(fact, str) else fact for name, fact in facts.items()}
    return Diagnostic(code=code, span=span, facts=short)


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
    if node.style or len(text) > _MAX_DIGITS:
        return "text", text
    if text in _NULLS:
        return "null", None
    if text in _BOOLS:
        return "bool", _BOOLS[text]
    if _INT.match(text):
        return "int", int(text)
    if _FLOAT.match(text) and not text.lstrip("+-").isdigit():
        number = float(text)
        return ("float", number) if math.isfinite(number) else ("text", text)
    return "text", text
