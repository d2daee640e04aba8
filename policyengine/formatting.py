"""The one form of a policy file: what `limen policy fmt` writes.

Two spaces a level, lists flush with their key, one space inside flow, double quotes, keys in the order of the
documentation, one blank line at most, comments where they were. ruamel.yaml rewrites a document with its comments;
what it would change of a value, or lose of a comment, is found by reading the result again, and then the file stays as
it is. Formatting asks for well-formed files, not for sensible ones.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, SingleQuotedScalarString
from ruamel.yaml.tag import Tag

from mesh.problems import Invalid
from mesh.yamlio import compose_documents
from policyengine.yamltext import Comment, Piece, UnsplittableError, comments_of, inside_scalars, lines_of, pieces_of

MAX_WIDTH = 120
_ORDER = (
    ("apiVersion", "kind", "metadata", "spec"),
    ("id", "name", "owner", "decision", "policy_decision", "effect", "source", "service", "tier"),
    ("identities", "ports", "methods", "hosts", "paths", "policy", "rule", "code"),
    ("mode", "until", "learn", "dataplane", "path_case", "reason", "forbid", "suppress"),
    (
        "given",
        "port",
        "protocol",
        "websocket",
        "method",
        "host",
        "path",
        "expect",
        "because",
        "members",
        "tz",
        "issuer",
    ),
    ("from", "to", "when", "unless", "evidence", "rules", "cases"),
)
_PLACE = {name: place for place, name in enumerate(name for group in _ORDER for name in group)}
_ROUNDS = 4
_BROKEN = (ValueError, TypeError, LookupError, AttributeError, AssertionError, NotImplementedError)
"""What the library raises for texts that it does not expect, beside errors of its own."""


def formatted(text: str, file: str) -> str:
    """Bring a file into its one form.

    1. Every document is rewritten by itself.
    2. The result is rewritten until it stays as it is.
    3. It says what the file said, and has its comments in their order.

    Raises Invalid LM5102 and others for a file that is not well-formed, LM2711 where step 2 or 3 fails.
    """
    nodes, found = compose_documents(text, file)
    if found:
        raise Invalid(found[0].code, span=found[0].span, **found[0].facts)
    before = [node.plain() for node in nodes if node.kind != "null"]
    # (1), (2)
    result, last = text, ""
    try:
        for _ in range(_ROUNDS):
            last, result = result, _rewritten(result)
            if last == result:
                break
    except (UnsplittableError, YAMLError, *_BROKEN) as err:
        raise Invalid("LM2711", file=file, reason=type(err).__name__) from err
    # (3)
    again, wrong = compose_documents(result, file)
    if wrong or [node.plain() for node in again if node.kind != "null"] != before or last != result:
        raise Invalid("LM2711", file=file, reason="a value would change")
    if [item.text for item in comments_of(text)] != [item.text for item in comments_of(result)]:
        raise Invalid("LM2711", file=file, reason="a comment would be lost or moved")
    return result


def _rewritten(text: str) -> str:
    """One round: every piece by itself; pieces with neither value nor comment go."""
    parts = ["\n".join(_tidied(_body(piece))) for piece in pieces_of(text)]
    return "\n---\n".join(part for part in parts if part) + "\n" if any(parts) else ""


def _body(piece: Piece) -> str:
    """A piece with its document rewritten; what stands above the document is left to `_tidied`."""
    head = 0
    while head < len(piece.lines) and (not piece.lines[head].strip() or piece.lines[head].lstrip().startswith("#")):
        head += 1
    above, rest = piece.lines[:head], piece.lines[head:]
    if not rest:
        return "\n".join(above)
    yaml = _writer()
    document = yaml.load("\n".join(rest) + "\n")
    document = _prepared(document, 0)
    out = io.StringIO()
    yaml.dump(document, out)
    return "\n".join([*above, out.getvalue()])


_NULL = Tag(suffix="tag:yaml.org,2002:null")


class _Untyped(VersionedResolver):
    """Resolves nothing: a plain value is written as it was read, whatever its type is to a loader."""

    def resolve(self, kind: object, value: object, implicit: object) -> object:
        """Every scalar is text, but for nothing at all."""
        if kind is ScalarNode:
            return _NULL if value == "" and implicit[0] else self.DEFAULT_SCALAR_TAG  # type: ignore[index]
        return super().resolve(kind, value, implicit)


def _writer() -> YAML:
    """ruamel.yaml, told to resolve nothing: a value's type is none of the formatter's business."""
    yaml = YAML(typ="rt", pure=True)
    yaml.Resolver = _Untyped
    yaml.preserve_quotes = True
    yaml.width = 1 << 30
    yaml.indent(mapping=2, sequence=2, offset=0)
    return yaml


def _prepared(value: object, column: int) -> object:
    """A value with its keys in order, its quotes double, and flow only where it fits the line."""
    if isinstance(value, CommentedMap | CommentedSeq) and value.fa.flow_style() and column + _width(value) > MAX_WIDTH:
        value.fa.set_block_style()
    if isinstance(value, CommentedMap):
        for key in list(value):
            value[key] = _prepared(value[key], column + 2 if not value.fa.flow_style() else column)
        if not _has_comments(value):
            for key in sorted(value, key=lambda name: _PLACE.get(str(name), len(_PLACE))):
                value.move_to_end(key)
    elif isinstance(value, CommentedSeq):
        for place, item in enumerate(value):
            value[place] = _prepared(item, column + 2)
    elif isinstance(value, SingleQuotedScalarString) and value.isprintable() and not set(value) & {'"', "\\"}:
        return DoubleQuotedScalarString(value)
    return value


def _width(value: object) -> int:
    """How many characters a value takes in flow style, about."""
    if isinstance(value, CommentedMap):
        return 2 + sum(len(str(key)) + 4 + _width(item) for key, item in value.items())
    if isinstance(value, CommentedSeq):
        return 2 + sum(2 + _width(item) for item in value)
    return len(str(value)) + 2


def _has_comments(value: object) -> bool:
    """Whether a comment or a blank line is kept with a value or anything in it: then it does not move."""
    if not isinstance(value, CommentedMap | CommentedSeq):
        return False
    if value.ca.items or value.ca.comment or value.ca.end:
        return True
    return any(_has_comments(item) for item in (value.values() if isinstance(value, CommentedMap) else value))


def _tidied(text: str) -> list[str]:
    """The lines of a piece with comments in place, no white space at their ends and one blank line at most.

    1. A comment behind a value stands two spaces behind it.
    2. A comment on a line of its own is indented as the value below it; below the last value it stays, but not deeper
       than that value.
    """
    inside = _scalar_lines(text)
    lines = [line if number in inside else line.rstrip() for number, line in enumerate(lines_of(text))]
    comments = {item.line: item for item in comments_of(text)}
    for number, item in comments.items():
        if not item.stands_alone:
            # (1)
            lines[number] = lines[number][: item.column].rstrip() + "  " + item.text
            continue
        # (2)
        below = next(
            (line for place, line in enumerate(lines[number + 1 :], number + 1) if _is_value(place, line, comments)),
            None,
        )
        if below is not None:
            indent = len(below) - len(below.lstrip())
        else:
            above = [line for place, line in enumerate(lines[:number]) if _is_value(place, line, comments)]
            deepest = len(above[-1]) - len(above[-1].lstrip()) if above else 0
            indent = min(item.column, deepest)
        lines[number] = " " * indent + item.text
    return _without_blanks(lines, inside)


def _is_value(place: int, line: str, comments: Mapping[int, Comment]) -> bool:
    item = comments.get(place)
    return bool(line.strip()) and not (item is not None and item.stands_alone)


def _scalar_lines(text: str) -> frozenset[int]:
    """The lines on which a scalar goes on that began above: their white space is part of it."""
    return frozenset(line for line, ranges in inside_scalars(text).items() if any(left == 0 for left, _ in ranges))


def _without_blanks(lines: Sequence[str], inside: frozenset[int]) -> list[str]:
    """The lines without blank ones at either end, and without a second one in a row."""

    def kept() -> Iterator[str]:
        was_blank = True
        for number, line in enumerate(lines):
            is_blank = not line.strip() and number not in inside
            if not (is_blank and was_blank):
                yield line
            was_blank = is_blank

    found = list(kept())
    while found and not found[-1].strip():
        found.pop()
    return found
