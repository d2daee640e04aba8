"""A trie of path patterns: what matches a canonical path is found segment by segment.

Leaves are kept in the order of rank. Of a tier a leaf ends at its first unconditional entry: nothing behind it could
decide, and it is kept aside for the day when what is before it goes. A trie that differs in some leaves is made of a
copy of the nodes on the way to them (`PathTrie.edited`), so that one changed rule costs no more than its own paths.
This module knows no callers and no conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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


class Leaf(list[E]):
    """The entries at one place that may decide, by rank; ``behind`` are those that these keep from deciding."""

    __slots__ = ("behind",)

    def __init__(self, entries: Iterable[E]) -> None:
        super().__init__()
        self.behind: list[E] | None = None
        for entry in entries:
            self.add(entry)

    def add(self, entry: E) -> None:
        """Add the entry that is next by rank, unless it is here already."""
        last = self[-1] if self else None
        if last is entry or (self.behind is not None and self.behind[-1] is entry):
            return
        if last is None or last.tier != entry.tier or last.is_conditional:
            self.append(entry)
        elif self.behind is None:
            self.behind = [entry]
        else:
            self.behind.append(entry)

    def every(self) -> list[E]:
        """All entries, in no order once some are behind others."""
        return [*self, *(self.behind or ())]


Edit = Callable[[Leaf[E] | None], Leaf[E] | None]
"""What becomes of a leaf; None is one without entries."""


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
        self.exact: Leaf[E] | None = None
        self.below: Leaf[E] | None = None

    def child(self, segment: PathSegment) -> _Node[E]:
        """The node behind a segment of a pattern, made when it is missing."""
        if segment.type == "literal":
            return self._literal(segment.literal)
        fits = _fits(segment)
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

    def get(self, segment: PathSegment) -> _Node[E] | None:
        """The node behind a segment of a pattern; None when it is missing."""
        if segment.type != "literal":
            fits = _fits(segment)
            return next((child for known, child in self.typed or () if known == fits), None)
        if segment.literal == self.first_literal:
            return self.first
        return None if self.literals is None else self.literals.get(segment.literal)

    def copy(self) -> _Node[E]:
        """Another node with the same leaves and children."""
        found: _Node[E] = _Node()
        found.exact, found.below, found.typed = self.exact, self.below, self.typed
        found.first_literal, found.first, found.literals = self.first_literal, self.first, self.literals
        return found

    def with_child(self, segment: PathSegment, child: _Node[E] | None) -> _Node[E]:
        """A copy of the node with another child behind a segment, or with none."""
        found = self.copy()
        if segment.type != "literal":
            fits = _fits(segment)
            others = tuple(item for item in self.typed or () if item[0] != fits)
            found.typed = (*others, (fits, child)) if child is not None else others or None
            return found
        text = segment.literal
        if self.first is None or text == self.first_literal:
            found.first_literal, found.first = (None, None) if child is None else (text, child)
            if child is None and self.literals is not None:
                found.literals = dict(self.literals)
                found.first_literal = next(iter(found.literals))
                found.first = found.literals.pop(found.first_literal)
        else:
            found.literals = dict(self.literals or {})
            if child is None:
                found.literals.pop(text, None)
            else:
                found.literals[text] = child
        found.literals = found.literals or None
        return found

    @property
    def is_empty(self) -> bool:
        """Whether nothing can be found here or below."""
        return self.exact is None and self.below is None and self.first is None and self.typed is None


def _fits(segment: PathSegment) -> _Fits:
    """What says whether text fits a segment that is no literal; `bool` says it of any but the empty one."""
    return bool if segment.type == "any" else SEGMENT_TYPES[segment.type].fullmatch


class PathTrie(Generic[E]):
    """Entries by the paths they match."""

    __slots__ = ("_always", "_root", "_unknown")

    def __init__(self) -> None:
        self._root: _Node[E] | None = None
        self._always: Leaf[E] | None = None
        self._unknown: Leaf[E] | None = None

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

    def edited(self, patterns: tuple[PathPattern, ...] | None, edit: Edit[E], *, or_unknown: bool) -> PathTrie[E]:
        """A trie with other leaves where `insert` would put an entry of these patterns; this one stays as it is."""
        found: PathTrie[E] = PathTrie()
        found._root, found._always, found._unknown = self._root, self._always, self._unknown
        if patterns is None:
            found._always = edit(self._always)
            return found
        for pattern in patterns:
            found._root = _edited(found._root, pattern, edit)
        if or_unknown:
            found._unknown = edit(self._unknown)
        return found

    @property
    def is_empty(self) -> bool:
        """Whether nothing can be found."""
        return self._root is None and self._always is None and self._unknown is None

    def find(self, path: tuple[str, ...] | None) -> Sequence[Leaf[E]]:  # noqa: C901, PLR0912  a call costs
        """The leaves whose entries match a canonical path; None is an unknown one.

        One way is followed as far as it goes; where several go on, each waits with the rest of the path.
        """
        leaves = [] if self._always is None else [self._always]
        if path is None:
            return leaves if self._unknown is None else [*leaves, self._unknown]
        node = self._root
        if node is None:
            return leaves
        waiting: list[tuple[_Node[E], tuple[str, ...]]] = []
        while True:
            steps = iter(path)
            for segment in steps:
                if node.below is not None:
                    leaves.append(node.below)
                if segment == node.first_literal:
                    following = node.first
                elif node.literals is None:
                    following = None
                else:
                    following = node.literals.get(segment)
                if node.typed is not None:
                    rest: tuple[str, ...] | None = None
                    for fits, other in node.typed:
                        if not fits(segment):
                            continue
                        if following is not None:
                            rest = tuple(steps) if rest is None else rest
                            waiting.append((following, rest))
                        following = other
                    if rest is not None and following is not None:
                        waiting.append((following, rest))
                        break
                if following is None:
                    break
                node = following
            else:
                if node.exact is not None:
                    leaves.append(node.exact)
            if not waiting:
                return leaves
            node, path = waiting.pop()


def _appended(leaf: Leaf[E] | None, entry: E) -> Leaf[E]:
    """Add the next entry to a leaf."""
    if leaf is None:
        return Leaf((entry,))
    leaf.add(entry)
    return leaf


def _edited(root: _Node[E] | None, pattern: PathPattern, edit: Edit[E]) -> _Node[E] | None:
    """A root with another leaf for a pattern: the nodes on the way are copied, and those left empty go."""
    way: list[_Node[E]] = [_Node() if root is None else root]
    for segment in pattern.segments:
        following = way[-1].get(segment)
        way.append(_Node() if following is None else following)
    last = way.pop().copy()
    if pattern.subtree:
        last.below = edit(last.below)
    else:
        last.exact = edit(last.exact)
    for segment, node in zip(reversed(pattern.segments), reversed(way), strict=True):
        last = node.with_child(segment, None if last.is_empty else last)
    return None if last.is_empty else last
