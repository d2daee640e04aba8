"""Path patterns found by other patterns: which of many hold all that one holds, and which share a path with it.

A trie over the segments of the patterns, so that a question costs what its answer is long and not what the trie holds.
`policyengine.pathtrie` is its sibling for the path of one request; this one decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Generic, TypeVar

from policyengine.atoms import is_segment_within, segments_overlap
from policyengine.canonical import PathPattern, PathSegment

T = TypeVar("T")
EVERYTHING = PathPattern((), subtree=True, text="/**")


class _Node(Generic[T]):
    """A place in the trie: the items whose pattern ends here, and those of every path below."""

    __slots__ = ("below", "ends", "literals", "typed")

    def __init__(self) -> None:
        self.ends: list[T] = []
        self.below: list[T] = []
        self.literals: dict[str, _Node[T]] = {}
        self.typed: dict[PathSegment, _Node[T]] = {}

    def child(self, segment: PathSegment) -> _Node[T]:
        """The node behind a segment, made when it is missing."""
        if segment.type == "literal":
            found = self.literals.get(segment.literal)
            if found is None:
                found = self.literals[segment.literal] = _Node()
            return found
        found = self.typed.get(segment)
        if found is None:
            found = self.typed[segment] = _Node()
        return found

    def holding(self, segment: PathSegment) -> Iterator[_Node[T]]:
        """The nodes behind segments that hold all that one holds."""
        if segment.type == "literal" and segment.literal in self.literals:
            yield self.literals[segment.literal]
        for place, node in self.typed.items():
            if is_segment_within(segment, place):
                yield node

    def sharing(self, segment: PathSegment) -> Iterator[_Node[T]]:
        """The nodes behind segments that share a value with one."""
        if segment.type == "literal":
            yield from self.holding(segment)
            return
        for text, node in self.literals.items():
            if segment.matches(text):
                yield node
        for place, node in self.typed.items():
            if segments_overlap(segment, place):
                yield node


class PatternTrie(Generic[T]):
    """Items under path patterns; one without a pattern stands for every path."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def insert(self, pattern: PathPattern | None, item: T) -> None:
        """Put an item under a pattern."""
        pattern = EVERYTHING if pattern is None else pattern
        node = self._root
        for segment in pattern.segments:
            node = node.child(segment)
        (node.below if pattern.subtree else node.ends).append(item)

    def including(self, pattern: PathPattern | None) -> Iterator[T]:
        """The items whose pattern holds EVERY path of one, those of wide patterns first."""
        yield from self._along(EVERYTHING if pattern is None else pattern, _Node.holding)

    def matching(self, path: tuple[str, ...]) -> Iterator[T]:
        """The items whose pattern holds a path, given by its segments."""
        segments = tuple(PathSegment("literal", text) for text in path)
        return self.including(PathPattern(segments, subtree=False, text=""))

    def overlapping(self, pattern: PathPattern | None) -> Iterator[T]:
        """The items whose pattern shares ANY path with one."""
        pattern = EVERYTHING if pattern is None else pattern
        nodes = yield from self._along(pattern, _Node.sharing)
        waiting = [child for node in nodes for child in _children(node)] if pattern.subtree else []
        while waiting:
            node = waiting.pop()
            yield from node.ends
            yield from node.below
            waiting.extend(_children(node))

    def _along(
        self, pattern: PathPattern, step: Callable[[_Node[T], PathSegment], Iterator[_Node[T]]]
    ) -> Generator[T, None, list[_Node[T]]]:
        """The items beside a pattern, step by step of its segments; returns the nodes at its end."""
        nodes = [self._root]
        for segment in pattern.segments:
            for node in nodes:
                yield from node.below
            nodes = [found for node in nodes for found in step(node, segment)]
        for node in nodes:
            yield from node.below if pattern.subtree else node.ends
        return nodes


def _children(node: _Node[T]) -> list[_Node[T]]:
    return [*node.literals.values(), *node.typed.values()]
