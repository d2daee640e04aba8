"""A trie of path patterns: what matches a canonical path is found segment by segment.

Leaves are kept in the order of insertion, which the index makes the order of rank. A leaf ends at its first
unconditional entry of a tier: nothing behind it could decide. This module knows no callers and no conditions.
"""

from __future__ import annotations

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


class _Node(Generic[E]):
    """A place in the trie: what matches a path that ends here, and every path that goes on."""

    __slots__ = ("any", "below", "exact", "literals", "typed")

    def __init__(self) -> None:
        self.literals: dict[str, _Node[E]] = {}
        self.typed: dict[str, _Node[E]] = {}
        self.any: _Node[E] | None = None
        self.exact: list[E] = []
        self.below: list[E] = []

    def child(self, segment: PathSegment) -> _Node[E]:
        """The node behind a segment of a pattern, made when it is missing."""
        if segment.type == "literal":
            return self.literals.setdefault(segment.literal, _Node())
        if segment.type == "any":
            if self.any is None:
                self.any = _Node()
            return self.any
        return self.typed.setdefault(segment.type, _Node())

    def children(self, segment: str) -> list[_Node[E]]:
        """The nodes behind a segment of a path."""
        found = self.literals.get(segment)
        children = [] if found is None else [found]
        if self.any is not None and segment:
            children.append(self.any)
        for name, child in self.typed.items():
            if SEGMENT_TYPES[name].fullmatch(segment):
                children.append(child)
        return children


class PathTrie(Generic[E]):
    """Entries by the paths they match."""

    __slots__ = ("_always", "_root", "_unknown")

    def __init__(self) -> None:
        self._root: _Node[E] | None = None
        self._always: list[E] = []
        self._unknown: list[E] = []

    def insert(self, entry: E, patterns: tuple[PathPattern, ...] | None, *, or_unknown: bool) -> None:
        """Add an entry for ANY of the patterns, or for every request; ``or_unknown``: for an unknown path too.

        Entries come in the order of rank.
        """
        if patterns is None:
            _append(self._always, entry)
            return
        if self._root is None:
            self._root = _Node()
        for pattern in patterns:
            node = self._root
            for segment in pattern.segments:
                node = node.child(segment)
            _append(node.below if pattern.subtree else node.exact, entry)
        if or_unknown:
            _append(self._unknown, entry)

    def find(self, path: tuple[str, ...] | None) -> list[list[E]]:
        """The leaves whose entries match a canonical path; None is an unknown one."""
        leaves = [self._always] if self._always else []
        if path is None:
            if self._unknown:
                leaves.append(self._unknown)
            return leaves
        if self._root is None:
            return leaves
        active = [self._root]
        for segment in path:
            leaves.extend(node.below for node in active if node.below)
            active = [child for node in active for child in node.children(segment)]
        leaves.extend(node.exact for node in active if node.exact)
        return leaves


def _append(leaf: list[E], entry: E) -> None:
    """Add an entry unless the one before it always decides in its tier (leaves are in the order of rank)."""
    if leaf and (leaf[-1] is entry or (leaf[-1].tier == entry.tier and not leaf[-1].is_conditional)):
        return
    leaf.append(entry)
