"""The text of a YAML file as people wrote it: its documents, its comments, and where each of them stands.

A loader drops what this module keeps. Comments are found between the tokens of PyYAML's scanner and never by their
`#` alone, because a text may hold one. Only files that `mesh.yamlio` finds nothing about are asked for.
"""

from __future__ import annotations

import dataclasses
import itertools

import yaml

LOADER: type[yaml.CBaseLoader | yaml.BaseLoader] = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


@dataclasses.dataclass(frozen=True, slots=True)
class Comment:
    """A comment: line and column count from 0, ``text`` begins with `#`."""

    line: int
    column: int
    text: str
    stands_alone: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """What stands between two separators: the number of its first line, and its lines."""

    first: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The lines, each with its end."""
        return "".join(line + "\n" for line in self.lines)


class UnsplittableError(ValueError):
    """The file has directives, or a value on the line of a separator: nobody writes that, and it is left alone."""


def lines_of(text: str) -> list[str]:
    """The lines as a reader sees them, without their ends and without white space before these."""
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def inside_scalars(text: str) -> dict[int, list[tuple[int, int]]]:
    """By line, the ranges of columns that belong to a scalar; the header line of a block scalar does not."""
    found: dict[int, list[tuple[int, int]]] = {}
    for token in yaml.scan(text, Loader=LOADER):
        if not isinstance(token, yaml.ScalarToken):
            continue
        start, end = token.start_mark, token.end_mark
        assert start is not None, "tokens have marks"
        assert end is not None, "tokens have marks"
        first = start.line + (token.style in {"|", ">"})
        for line in range(first, end.line + 1):
            left = start.column if line == start.line else 0
            right = end.column if line == end.line else 1 << 30
            if right > left:
                found.setdefault(line, []).append((left, right))
    return found


def comments_of(text: str) -> list[Comment]:
    """All comments, in order."""
    taken = inside_scalars(text)
    found: list[Comment] = []
    for number, line in enumerate(lines_of(text)):
        column = line.find("#")
        while column != -1:
            is_free = not any(left <= column < right for left, right in taken.get(number, ()))
            if is_free and (column == 0 or line[column - 1] in " \t"):
                found.append(Comment(number, column, line[column:].rstrip(), not line[:column].strip()))
                break
            column = line.find("#", column + 1)
    return found


def pieces_of(text: str) -> list[Piece]:
    """The documents as pieces of text, separators left out; a piece may hold comments only, or nothing.

    Raises UnsplittableError.
    """
    lines = lines_of(text)
    cuts: list[int] = []
    for token in yaml.scan(text, Loader=LOADER):
        mark = token.start_mark
        assert mark is not None, "tokens have marks"
        if isinstance(token, yaml.DirectiveToken):
            raise UnsplittableError
        if isinstance(token, yaml.DocumentStartToken | yaml.DocumentEndToken):
            if lines[mark.line].rstrip() not in {"---", "..."}:
                raise UnsplittableError
            cuts.append(mark.line)
    edges = [-1, *cuts, len(lines)]
    return [Piece(left + 1, tuple(lines[left + 1 : right])) for left, right in itertools.pairwise(edges)]
