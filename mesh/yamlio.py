"""YAML as Limen's files use it: a strict subset, read with the YAML 1.2 core schema and a place for every value.

A key stands once, there are no anchors, aliases, merge keys or tags, and what YAML 1.1 and 1.2 read as different
values (`no`, `010`, `1_000`, `22:30`, `.inf`) is refused until it is quoted: a reviewer and a loader must not see two
things. Depth, size and the number of values are bounded before anything is built. All findings are returned, never
raised. Values mean nothing here; loaders give them meaning.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

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
_SUSPICIOUS = frozenset("-+.0123456789yYnNoO")
"""What any such text begins with."""
_TYPED = frozenset(["", *"-+.0123456789~nNtTfF"])
"""What everything that is no text begins with."""
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
_new = tuple.__new__
"""Makes a NamedTuple of all of its fields in a third of the time."""
_Loader: type[yaml.CBaseLoader | yaml.BaseLoader] = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


class Node(NamedTuple):
    """One value with its place: ``items`` of a list, ``pairs`` of a map, or a ``scalar``."""

    kind: Kind
    span: Span
    scalar: Scalar = None
    items: tuple[Node, ...] = ()
    pairs: tuple[tuple[Node, Node], ...] = ()

    def get(self, name: str) -> Node | None:
        """The value of a key of a map, None when it is not there."""
        for key, value in self.pairs:
            if key.scalar == name:
                return value
        return None

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
    builder = _Builder(file, foreign=foreign)
    try:
        # (2), (3), (4), (5) event by event: an alias is never expanded
        builder.read(text)
        found = [*builder.refused, *builder.found]
        if any(item.code not in _OF_ONE_VALUE for item in builder.refused):
            return [], found
    except yaml.MarkedYAMLError as err:
        builder.documents.clear()
        mark = err.problem_mark or err.context_mark
        place = Span(file=file, line=mark.line + 1 if mark else 1, column=mark.column + 1 if mark else 1)
        found.append(_finding("LM5102", place, reason=err.problem or "it cannot be read"))
    except (yaml.YAMLError, ValueError) as err:
        builder.documents.clear()
        found.append(_finding("LM5102", Span(file=file, line=1, column=1), reason=type(err).__name__))
    if len(found) > MAX_FINDINGS:
        last = found[MAX_FINDINGS].span or Span(file=file, line=1, column=1)
        found[MAX_FINDINGS:] = [_finding("LM5110", last, limit=MAX_FINDINGS)]
    return builder.documents, found


class _Open:
    """A list or map whose end was not read yet."""

    __slots__ = ("is_map", "items", "key", "pairs", "place", "seen", "wants_value")

    def __init__(self, place: Span, *, is_map: bool) -> None:
        self.place, self.is_map = place, is_map
        self.items: list[Node] = []
        self.pairs: list[tuple[Node, Node]] = []
        self.seen: set[str] = set()
        # of the pair that was begun: its key, None for one that is left out
        self.key: Node | None = None
        self.wants_value = False


class _Builder:
    """Builds documents from the parser's events. ``refused`` is what steps 3 and 5 find, ``found`` step 4."""

    def __init__(self, file: str, *, foreign: bool) -> None:
        self._file, self._foreign = file, foreign
        self.documents: list[Node] = []
        self.refused: list[Diagnostic] = []
        self.found: list[Diagnostic] = []
        self._open: list[_Open] = []
        self._values = 0

    def read(self, text: str) -> None:
        """Read a text. Nesting and the number of values end it: what follows is not read at all.

        Raises what the parser raises.
        """
        parser = _Loader(text)
        try:
            self._read(parser)
        finally:
            parser.dispose()

    def _read(self, parser: yaml.CBaseLoader | yaml.BaseLoader) -> None:
        # a large tree has a hundred thousand scalars: what each of them asks for is at hand
        scalar, ends = yaml.ScalarEvent, (yaml.MappingEndEvent, yaml.SequenceEndEvent)
        for event in iter(parser.get_event, None):
            kind = type(event)
            if kind is scalar:
                place = self._scalar(event)
            elif kind in ends:
                self._close()
                continue
            elif isinstance(event, yaml.NodeEvent):
                place = self._collection(event)
            else:
                continue
            self._values += 1
            if self._values > MAX_VALUES:
                self.refused.append(_finding("LM5108", place, limit=MAX_VALUES))
                return
            if self.refused and self._is_enough(place):
                return

    def _is_enough(self, place: Span) -> bool:
        """Whether what was refused ends the reading."""
        if len(self.refused) > MAX_FINDINGS:
            self.refused[MAX_FINDINGS:] = [_finding("LM5110", place, limit=MAX_FINDINGS)]
        return self.refused[-1].code in {"LM5105", "LM5110"}

    def _scalar(self, event: yaml.ScalarEvent) -> Span:
        mark = event.start_mark
        assert mark is not None
        place = _new(Span, (self._file, mark.line + 1, mark.column + 1))
        if event.anchor or event.tag is not None:
            self.refused.extend(_of_event(event, place))
        text, is_plain = event.value, not event.style
        first = text[:1]
        if is_plain and first in _SUSPICIOUS and not self._foreign:
            self.refused.extend(_of_plain(text, place))
        last = self._open[-1] if self._open else None
        if last is not None and last.is_map and not last.wants_value:
            self._key(last, text, place, is_plain=is_plain)
            return place
        # most are text; what begins like a number or a word for one value is looked at
        is_text = not is_plain or first not in _TYPED or len(text) > _MAX_DIGITS
        node = _new(Node, ("text", place, text, (), ())) if is_text else _typed(text, place)
        if last is None or not last.is_map:
            (self.documents if last is None else last.items).append(node)
        else:
            last.wants_value = False
            if last.key is not None:
                last.pairs.append((last.key, node))
        return place

    def _collection(self, event: yaml.NodeEvent) -> Span:
        """A list or map that begins; or an alias, which is never followed."""
        mark = event.start_mark
        assert mark is not None
        place = _new(Span, (self._file, mark.line + 1, mark.column + 1))
        if event.anchor or getattr(event, "tag", None) is not None:
            self.refused.extend(_of_event(event, place))
        if isinstance(event, yaml.AliasEvent):
            self._put(Node("null", place))
            return place
        self._begin(_Open(place, is_map=isinstance(event, yaml.MappingStartEvent)))
        if len(self._open) > MAX_DEPTH:
            self.refused.append(_finding("LM5105", place, limit=MAX_DEPTH))
        return place

    def _key(self, last: _Open, name: str, place: Span, *, is_plain: bool) -> None:
        """Step 4 of `compose_documents`."""
        last.wants_value, last.key = True, None
        if name == "<<" and is_plain:
            self.found.append(_finding("LM5103", place, what="<<"))
        elif name in last.seen:
            self.found.append(_finding("LM5107", place, key=name))
        else:
            last.seen.add(name)
            last.key = _new(Node, ("text", place, name, (), ()))

    def _begin(self, found: _Open) -> None:
        last = self._open[-1] if self._open else None
        if last is not None and last.is_map and not last.wants_value:
            self.found.append(_finding("LM5106", found.place))
        self._open.append(found)

    def _close(self) -> None:
        last = self._open.pop()
        if last.is_map:
            self._put(_new(Node, ("map", last.place, None, (), tuple(last.pairs))))
        else:
            self._put(_new(Node, ("list", last.place, None, tuple(last.items), ())))

    def _put(self, node: Node) -> None:
        """A value is whole: it belongs to what is open."""
        if not self._open:
            self.documents.append(node)
            return
        last = self._open[-1]
        if not last.is_map:
            last.items.append(node)
        elif not last.wants_value:
            # a list or map in the place of a key
            last.wants_value, last.key = True, None
        else:
            if last.key is not None:
                last.pairs.append((last.key, node))
            last.wants_value = False


def _of_event(event: yaml.NodeEvent, place: Span) -> Iterator[Diagnostic]:
    """What is no plain value, list or map."""
    if isinstance(event, yaml.AliasEvent):
        yield _finding("LM5103", place, what=f"*{event.anchor}")
        return
    if event.anchor:
        yield _finding("LM5103", place, what=f"&{event.anchor}")
    tag = getattr(event, "tag", None)
    if tag is not None:
        yield _finding("LM5104", place, tag=tag)


def _of_plain(value: str, place: Span) -> Iterator[Diagnostic]:
    """What other readers make something else of."""
    if _AMBIGUOUS.match(value):
        yield _finding("LM5109", place, value=value)
    elif _NUMBER_LIKE.match(value) and not _is_kept(value):
        yield _finding("LM5111", place, value=value)


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


def _finding(code: str, span: Span, **facts: object) -> Diagnostic:
    short = {name: shortened(fact) if isinstance(fact, str) else fact for name, fact in facts.items()}
    return Diagnostic(code=code, span=span, facts=short)


def _typed(text: str, place: Span) -> Node:
    """The YAML 1.2 core schema, without octal and hexadecimal numbers, infinity and NaN: those stay text."""
    if text in _NULLS:
        return Node("null", place)
    if text in _BOOLS:
        return Node("bool", place, _BOOLS[text])
    if _INT.match(text):
        return Node("int", place, int(text))
    if _FLOAT.match(text) and not text.lstrip("+-").isdigit():
        number = float(text)
        return Node("float", place, number) if math.isfinite(number) else Node("text", place, text)
    return Node("text", place, text)
