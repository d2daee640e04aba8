import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine import cover
from policyengine.atoms import TooLarge
from policyengine.circumstances import Value, Variable
from policyengine.cover import EVERYTHING, NOTHING, Shapes
from policyengine.diagram import CONDITIONS, Leaf, Node, Tree

SIZES = (2, 3, 2)
VARIABLES = tuple(
    Variable(attribute=f"headers.{place}", values=tuple(Value(truths={}, is_unknown=i == 2) for i in range(size)))
    for place, size in enumerate(SIZES)
)
POINTS = list(itertools.product(*map(range, SIZES)))
YES, NO = Leaf(()), Leaf(())


def tree_of(points: frozenset[tuple[int, ...]], place: int = 0, before: tuple[int, ...] = ()) -> Tree:
    """The tree whose leaves say yes at some points."""
    if place == len(SIZES):
        return YES if before in points else NO
    arms = [(frozenset((i,)), tree_of(points, place + 1, (*before, i))) for i in range(SIZES[place])]
    return Node(CONDITIONS + place, tuple(arms))


def shape_of(points: frozenset[tuple[int, ...]]) -> tuple[Shapes, int]:
    shapes = Shapes(VARIABLES)
    found = shapes.parts(tree_of(points), lambda leaf: "yes" if leaf is YES else None)
    return shapes, found.get("yes", NOTHING)


def holds(term: Any, point: tuple[int, ...]) -> bool:
    return all(point[place] in classes for place, classes in term.items())


@given(st.frozensets(st.sampled_from(POINTS)))
def test_terms_together_are_exactly_the_shape(points: frozenset[tuple[int, ...]]) -> None:
    shapes, shape = shape_of(points)
    terms = shapes.terms(shape)
    assert {point for point in POINTS if any(holds(term, point) for term in terms)} == points
    for term in terms:
        sample = shapes.sample(term)
        assert tuple(sample[place] for place in range(len(SIZES))) in points


@given(st.frozensets(st.sampled_from(POINTS)))
def test_no_term_is_needless_and_none_can_be_larger(points: frozenset[tuple[int, ...]]) -> None:
    shapes, shape = shape_of(points)
    terms = shapes.terms(shape)
    for term in terms:
        others = [other for other in terms if other is not term]
        assert any(holds(term, p) and not any(holds(other, p) for other in others) for p in POINTS)
        for place in term:
            wider = {other: classes for other, classes in term.items() if other != place}
            assert not all(point in points for point in POINTS if holds(wider, point))


@given(st.frozensets(st.sampled_from(POINTS)))
def test_what_is_outside_is_everything_else(points: frozenset[tuple[int, ...]]) -> None:
    shapes, shape = shape_of(points)
    outside = shapes.terms(shapes.without(shape))
    assert {point for point in POINTS if any(holds(term, point) for term in outside)} == set(POINTS) - points


def test_equal_shapes_have_one_number() -> None:
    shapes = Shapes(VARIABLES)
    points = frozenset(POINTS[:5])
    one = shapes.parts(tree_of(points), lambda leaf: leaf is YES or None)
    other = shapes.parts(tree_of(points), lambda leaf: leaf is YES or None)
    assert one == other
    assert shapes.parts(YES, lambda _: True) == {True: EVERYTHING}


def test_a_sample_takes_what_is_usual() -> None:
    shapes = Shapes(VARIABLES)
    assert shapes.sample({1: frozenset({1, 2})}) == {0: 0, 1: 1, 2: 0}


def test_says_when_there_are_too_many_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cover, "MAX_TERMS", 1)
    shapes, shape = shape_of(frozenset({(0, 0, 0), (1, 1, 1)}))
    with pytest.raises(TooLarge):
        shapes.terms(shape)
