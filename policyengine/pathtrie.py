"""A trie of path patterns: what matches a canonical path is found segment by segment.

Leaves are kept in the order of insertion, which the index makes the order of rank. A leaf ends at its first
unconditional entry of a tier: nothing behind it could decide. This module knows no callers and no conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from policyengine.canonical import SEGMENT_TYPES, PathPattern, PathSegment


class Ranked(Protocol):
    """What a leaf holds."""

    @property
    def tier(self) -> int:
        """The place of its tier."""
        ...

    @property
    def is_conditional(self) -> bool:
        """Whether it may turn out not to apply."""
        ...


E = TypeVar("E", bound=Ranked)
_Fits = Callable[[str], object]


class _Node(Generic[E]):
    """A place in the trie: what matches a path that ends here, and every path that goes on.

    What is empty is None, and the first literal child stands in the node itself: a large policy has many nodes, and
    most have one child.
    """

    __slots__ = ("below", "exact", "first", "first_literal", "literals", "typed")

    def __init__(self) -> None:
        self.first_literal: str | None = None
        self.first: _Node[E] | None = None
        self.literals: dict[str, _Node[E]] | None = None
        self.typed: tuple[tuple[_Fits, _Node[E]], ...] | None = None
        self.exact: list[E] | None = None
        self.below: list[E] | None = None

    def child(self, segment: PathSegment) -> _Node[E]:
        """The node behind a segment of a pattern, made when it is missing."""
        if segment.type == "literal":
            return self._literal(segment.literal)
        # any segment but the empty one is what `bool` says of text
        fits = bool if segment.type == "any" else SEGMENT_TYPES[segment.type].fullmatch
        typed = self.typed or ()
        found = next((child for known, child in typed if known == fits), None)
        if found is None:
            found = _Node()
            self.typed = (*typed, (fits, found))
        return found

    def _literal(self, text: str) -> _Node[E]:
        if self.first is None:
            self.first_literal, self.first = text, _Node()
        if text == self.first_literal:
            return self.first
        self.literals = table = {} if self.literals is None else self.literals
        if text not in table:
            table[text] = _Node()
        return table[text]


class PathTrie(Generic[E]):
    """Entries by the paths they match."""

    __slots__ = ("_always", "_root", "_unknown")

    def __init__(self) -> None:
        self._root: _Node[E] | None = None
        self._always: list[E] | None = None
        self._unknown: list[E] | None = None

    def insert(self, entry: E, patterns: tuple[PathPattern, ...] | None, *, or_unknown: bool) -> None:
        """Add an entry for ANY of the patterns, or for every request; ``or_unknown``: for an unknown path too.

        Entries come in the order of rank.
        """
        if patterns is None:
            self._always = _appended(self._always, entry)
            return
        if self._root is None:
            self._root = _Node()
        for pattern in patterns:
            node = self._root
            for segment in pattern.segments:
                node = node.child(segment)
            if pattern.subtree:
                node.below = _appended(node.below, entry)
            else:
                node.exact = _appended(node.exact, entry)
        if or_unknown:
            self._unknown = _appended(self._unknown, entry)

    def find(self, path: tuple[str, ...] | None) -> Sequence[list[E]]:
        """The leaves whose entries match a canonical path; None is an unknown one."""
        leaves = [] if self._always is None else [self._always]
        if path is None:
            if self._unknown is not None:
                leaves.append(self._unknown)
        elif self._root is not None:
            _walk(self._root, path, leaves)
        return leaves


def _walk(node: _Node[E], path: tuple[str, ...], leaves: list[list[E]]) -> None:  # noqa: C901, PLR0912  a call costs
    """Add the leaves below a node; one way is followed as far as it goes, and what else goes on waits."""
    place, count = 0, len(path)
    waiting: list[tuple[_Node[E], int]] = []
    while True:
        following: _Node[E] | None = None
        if place == count:
            if node.exact is not None:
                leaves.append(node.exact)
        else:
            if node.below is not None:
                leaves.append(node.below)
            segment = path[place]
            place += 1
            if segment == node.first_literal:
                following = node.first
            elif node.literals is not None:
                following = node.literals.get(segment)
            if node.typed is not None:
                for fits, other in node.typed:
                    if fits(segment):
                        waiting.append((other, place))
        if following is not None:
            node = following
        elif waiting:
            node, place = waiting.pop()
        else:
            return


def _appended(leaf: list[E] | None, entry: E) -> list[E]:
    """Add an entry unless the one before it always decides in its tier (leaves are in the order of rank)."""
    if leaf is None:
        return [entry]
    last = leaf[-1]
    if last is not entry and (last.tier != entry.tier or last.is_conditional):
        leaf.append(entry)
    return leaf
