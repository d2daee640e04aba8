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
    """A place in the trie: what matches a path that ends here, and every path that goes on.

    What is empty is None: a large policy has many nodes, and most have one child.
    """

    __slots__ = ("any", "below", "exact", "literals", "typed")

    def __init__(self) -> None:
        self.literals: dict[str, _Node[E]] | None = None
        self.typed: dict[str, _Node[E]] | None = None
        self.any: _Node[E] | None = None
        self.exact: list[E] | None = None
        self.below: list[E] | None = None

    def child(self, segment: PathSegment) -> _Node[E]:
        """The node behind a segment of a pattern, made when it is missing."""
        if segment.type == "any":
            if self.any is None:
                self.any = _Node()
            return self.any
        if segment.type == "literal":
            self.literals = table = {} if self.literals is None else self.literals
            key = segment.literal
        else:
            self.typed = table = {} if self.typed is None else self.typed
            key = segment.type
        if key not in table:
            table[key] = _Node()
        return table[key]

    def add_children(self, segment: str, following: list[_Node[E]]) -> None:
        """Add the nodes behind a segment of a path."""
        if self.literals is not None and segment in self.literals:
            following.append(self.literals[segment])
        if self.any is not None and segment:
            following.append(self.any)
        if self.typed is not None:
            for name, child in self.typed.items():
                if SEGMENT_TYPES[name].fullmatch(segment):
                    following.append(child)


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
            following: list[_Node[E]] = []
            for node in active:
                if node.below:
                    leaves.append(node.below)
                node.add_children(segment, following)
            if not following:
                return leaves
            active = following
        leaves += [node.exact for node in active if node.exact]
        return leaves


def _appended(leaf: list[E] | None, entry: E) -> list[E]:
    """Add an entry unless the one before it always decides in its tier (leaves are in the order of rank)."""
    if leaf is None:
        return [entry]
    last = leaf[-1]
    if last is not entry and (last.tier != entry.tier or last.is_conditional):
        leaf.append(entry)
    return leaf
