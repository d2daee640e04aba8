"""What regions have in common: which of them say the same but for names, and which but for the letters of their paths.

Ten thousand callers whose rules differ in their names alone are of one *likeness*. Callers with a path each of their
own are of one *family*: `/orders/7` and `/health` of one, `/items/8` and `/health` of another are cut into the same
classes, under other words. A literal may stand for another one when both are of the same types (`{x:int}`, …), the same
places hold it, and different literals stay different: then some renaming of all segments takes every pattern of the one
to the pattern of the other, and whatever is found of the one holds of the other in the renamed words. Nothing here
decides.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

from policyengine.canonical import SEGMENT_TYPES, PathPattern
from policyengine.ir import Grant
from policyengine.model import Operation

if TYPE_CHECKING:
    from policyengine.regions import Spoken

MAX_RENAMED = 64
"""Regions of more patterns are families of their own: renaming them would cost more than it saves."""


class Likeness(NamedTuple):
    """The numbers of a region, and the patterns of its grants in the order in which families compare them."""

    likeness: int
    family: int
    patterns: tuple[PathPattern, ...]


UNNUMBERED = Likeness(0, 0, ())
"""Of a region that stands alone."""


class _Kind(NamedTuple):
    """What a grant does, but for its callers, its name and its tests: with the letters of its paths, and without."""

    exact: int
    bare: int
    patterns: tuple[PathPattern, ...]


class Likenesses:
    """Numbers what regions speak of: equal likenesses differ in names alone, equal families in literals of paths too.

    ``focused`` are the ids of the grants in focus; with ``keeps_letters`` no literal stands for another.
    """

    def __init__(self, focused: Collection[int] | None, *, keeps_letters: bool = False) -> None:
        self._focused = focused
        self._keeps_letters = keeps_letters
        self._numbers: dict[object, int] = {}
        self._kinds: dict[int, _Kind] = {}
        self._known: dict[int, Likeness] = {}

    def _number(self, key: object) -> int:
        return self._numbers.setdefault(key, len(self._numbers))

    def of(self, spoken: Sequence[Spoken]) -> Likeness:
        """The numbers of grants in their order: of each its version, what it does, and whose name it shares."""
        names: dict[tuple[str, str], int] = {}
        kinds = [self._kind(found.grant) for found in spoken]
        rest = [
            (
                found.version,
                found.is_spared,
                found.when,
                found.unless,
                names.setdefault((found.grant.policy, found.grant.rule), len(names)),
            )
            for found in spoken
        ]
        likeness = self._number((tuple(kind.exact for kind in kinds), *rest))
        if likeness not in self._known:
            patterns = tuple(pattern for kind in kinds for pattern in kind.patterns)
            shapes = None if self._keeps_letters else _shapes(patterns)
            family = likeness
            if shapes is not None:
                family = self._number(("family", shapes, tuple(kind.bare for kind in kinds), *rest))
            self._known[likeness] = Likeness(likeness, family, patterns)
        return self._known[likeness]

    def _kind(self, grant: Grant) -> _Kind:
        found = self._kinds.get(id(grant))
        if found is None:
            unless = grant.unless_callers is not None, grant.unless_when is not None
            is_aimed = self._focused is not None and id(grant) in self._focused
            fields = (grant.tier, grant.effect, grant.until, unless, is_aimed)
            patterns = tuple(path for operation in grant.operations for path in operation.paths or ())
            bare = self._number(("bare", *fields, tuple(map(_places, grant.operations))))
            # as they are written: patterns that are equal may still name their parameters differently
            exact = self._number(("kind", bare, *((path.text, path.ignores_case) for path in patterns)))
            found = self._kinds[id(grant)] = _Kind(exact, bare, patterns)
        return found


def _places(operation: Operation) -> tuple[object, ...]:
    """An operation without its paths; how many there are says which grant has which of the shapes."""
    paths = operation.paths
    return operation.ports, operation.methods, operation.hosts, None if paths is None else len(paths)


def _shapes(patterns: Sequence[PathPattern]) -> tuple[object, ...] | None:
    """Patterns with numbers for literals; None where literals are more than themselves, or there are many."""
    if len(patterns) > MAX_RENAMED or any(pattern.ignores_case for pattern in patterns):
        return None
    numbers: dict[str, int] = {}
    return tuple(
        (
            pattern.subtree,
            *(
                # an empty literal is no segment of any other pattern: it stands for itself
                (numbers.setdefault(place.literal, len(numbers)), types_of(place.literal))
                if place.literal
                else place.type
                for place in pattern.segments
            ),
        )
        for pattern in patterns
    )


@functools.lru_cache(maxsize=1 << 16)
def types_of(segment: str) -> tuple[bool, ...]:
    """Of every type, whether a segment is of it."""
    return tuple(form.fullmatch(segment) is not None for form in SEGMENT_TYPES.values())


def renaming(patterns: Sequence[PathPattern], others: Sequence[PathPattern]) -> dict[PathPattern, PathPattern]:
    """What each pattern of a region is in another one of its family."""
    return dict(zip(patterns, others, strict=True))
