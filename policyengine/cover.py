"""Which circumstances belong together: a part of a diagram as few terms, each a set of values for some variables.

A `Shape` is the part of a tree below the path whose leaves share something (the same change, the same reasons). Its
terms are made as large as they can be, and what the others cover is left out: few and readable, together exactly the
shape. Terms may overlap. Nothing here decides, and nothing here knows words.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from policyengine.atoms import TooLarge
from policyengine.circumstances import CLAIM, TOKEN, Variable
from policyengine.diagram import CONDITIONS, Leaf, Tree

Term = dict[int, frozenset[int]]
"""By the place of a variable, the classes of its values; a variable that is not named may have any."""
NOTHING, EVERYTHING = 0, 1
MAX_TERMS = 2000


class Shapes:
    """Parts of the trees of one region; equal parts have one number."""

    def __init__(self, variables: Sequence[Variable]) -> None:
        self.variables = variables
        self._full = [frozenset(range(len(found.values))) for found in variables]
        self._arms: list[tuple[int, tuple[tuple[frozenset[int], int], ...]]] = [(-1, ()), (-1, ())]
        self._numbers: dict[tuple[int, tuple[tuple[frozenset[int], int], ...]], int] = {}
        self._parts: dict[int, tuple[Tree, dict[Hashable, int]]] = {}
        self._negated: dict[int, int] = {NOTHING: EVERYTHING, EVERYTHING: NOTHING}
        self._terms: dict[int, tuple[Term, ...]] = {}

    def parts(self, tree: Tree, key: Callable[[Leaf], Hashable]) -> dict[Hashable, int]:
        """The shapes of a tree below the path, by the key of their leaves; leaves without a key are in none."""
        if id(tree) in self._parts:
            return self._parts[id(tree)][1]
        found: dict[Hashable, int] = {}
        if isinstance(tree, Leaf):
            own = key(tree)
            if own is not None:
                found[own] = EVERYTHING
        else:
            below = [(classes, self.parts(child, key)) for classes, child in tree.arms]
            for own in dict.fromkeys(own for _, shapes in below for own in shapes):
                children = ((classes, shapes.get(own, NOTHING)) for classes, shapes in below)
                found[own] = self._number(tree.dimension - CONDITIONS, children)
        self._parts[id(tree)] = (tree, found)
        return found

    def _number(self, place: int, children: Iterable[tuple[frozenset[int], int]]) -> int:
        joined: dict[int, frozenset[int]] = {}
        for classes, child in children:
            joined[child] = joined.get(child, frozenset()) | classes
        if len(joined) == 1:
            return next(iter(joined))
        own = (place, tuple(sorted(((classes, child) for child, classes in joined.items()), key=lambda arm: arm[1])))
        if own not in self._numbers:
            self._numbers[own] = len(self._arms)
            self._arms.append(own)
        return self._numbers[own]

    def without(self, shape: int) -> int:
        """Everything outside of a shape."""
        if shape not in self._negated:
            place, arms = self._arms[shape]
            found = self._number(place, [(classes, self.without(child)) for classes, child in arms])
            self._negated[shape] = found
        return self._negated[shape]

    def terms(self, shape: int) -> tuple[Term, ...]:
        """A shape as few terms.

        1. Every way through the diagram is a term.
        2. Each is enlarged, variable by variable, while it stays inside.
        3. What the others cover goes.

        Raises TooLarge for more than MAX_TERMS ways.
        """
        if shape not in self._terms:
            # (1)
            ways = self._ways(shape)
            # (2)
            large: list[Term] = []
            for way in ways:
                if not any(_is_within(way, other) for other in large):
                    large.append(self._enlarged(shape, way))
            # (3)
            kept = list(large)
            for term in sorted(large, key=len, reverse=True):
                others = [other for other in kept if other is not term]
                if self._is_covered(term, others):
                    kept = others
            self._terms[shape] = tuple(kept)
        return self._terms[shape]

    def _ways(self, shape: int) -> list[Term]:
        if shape == NOTHING:
            return []
        if shape == EVERYTHING:
            return [{}]
        place, arms = self._arms[shape]
        found = [{place: classes, **way} for classes, child in arms for way in self._ways(child)]
        if len(found) > MAX_TERMS:
            raise TooLarge
        return found

    def _enlarged(self, shape: int, term: Term) -> Term:
        found = dict(term)
        for place in sorted(term, reverse=True):
            named = (self.variables[other].attribute.startswith(CLAIM) for other in found)
            if self.variables[place].attribute == TOKEN and any(named):
                continue  # claims are claims of an issuer
            wider = {other: classes for other, classes in found.items() if other != place}
            if self._holds(shape, wider, {}):
                found = wider
                continue
            for index in sorted(self._full[place] - found[place]):
                wider = {**found, place: found[place] | {index}}
                if self._holds(shape, wider, {}):
                    found = wider
        return found

    def _holds(self, shape: int, term: Term, known: dict[int, bool]) -> bool:
        """Whether a term is inside a shape."""
        if shape in {NOTHING, EVERYTHING}:
            return shape == EVERYTHING
        if shape not in known:
            place, arms = self._arms[shape]
            wanted = term.get(place, self._full[place])
            known[shape] = all(self._holds(child, term, known) for classes, child in arms if classes & wanted)
        return known[shape]

    def _is_covered(self, term: Mapping[int, frozenset[int]], others: Sequence[Term]) -> bool:
        """Whether others cover a term: cut it along the first that meets it, and look at the pieces outside."""
        for number, other in enumerate(others):
            if all(classes & term.get(place, classes) for place, classes in other.items()):
                inside = dict(term)
                for place, classes in other.items():
                    wanted = inside.get(place, self._full[place])
                    if wanted - classes and not self._is_covered(
                        {**inside, place: wanted - classes}, others[number + 1 :]
                    ):
                        return False
                    inside[place] = wanted & classes
                return True
        return False

    def sample(self, term: Term) -> dict[int, int]:
        """One class for every variable: of the usual ones, what no test names, before what nobody can read."""
        found = {}
        for place, variable in enumerate(self.variables):
            unknown = variable.unknown
            found[place] = min(term.get(place, self._full[place]), key=lambda index: (index in unknown, index))
        return found


def _is_within(one: Term, other: Term) -> bool:
    return all(place in one and one[place] <= classes for place, classes in other.items())
