"""Boxes: meeting, cutting and covering say of every request what sets would."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.spiffe import SpiffeId, SpiffePattern
from policyengine.atoms import path_classes
from policyengine.canonical import HostPattern, PathPattern
from policyengine.compile.boxes import (
    CALLERS,
    PATHS,
    Box,
    Field,
    Unsayable,
    covers,
    field_of,
    meet,
    pattern_of,
    subtract,
    without_covered,
)
from tests.examples import examples

_callers = tuple(map(SpiffePattern.parse, ("spiffe://a/x", "spiffe://a/n/x", "spiffe://a/n/**", "spiffe://a/**")))
_paths = tuple(map(PathPattern.parse, ("/a", "/a/**", "/a/{x}", "/{x}/b", "/a/b", "/a/{x}/**")))
_hosts = tuple(map(HostPattern.parse, ("a.test", "*.test", "b.a.test")))


def _field(values):
    listed = st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True).map(tuple)
    return st.builds(Field, st.none() | listed, st.just(()) | listed)


boxes = st.builds(
    Box,
    callers=_field(_callers),
    methods=_field(("GET", "PUT")),
    hosts=_field(_hosts),
    paths=_field(_paths),
    headers=st.just(()) | st.builds(lambda found: (("x", found),), _field(("1", "2"))),
)
requests = st.tuples(
    st.sampled_from(("spiffe://a/x", "spiffe://a/n/x", "spiffe://a/n/y", "spiffe://b/x")).map(SpiffeId.parse),
    st.sampled_from(("GET", "PUT", "POST")),
    st.sampled_from(("a.test", "b.test", "b.a.test", "c")),
    st.sampled_from((("a",), ("a", ""), ("a", "b"), ("z", "b"), ("a", "c", "d"), ("",))),
    st.sampled_from((None, "1", "3")),
)


def holds(box: Box, request) -> bool:
    caller, method, host, path, header = request

    def inside(field, fits) -> bool:
        return (field.inside is None or any(map(fits, field.inside))) and not any(map(fits, field.outside))

    return (
        inside(box.callers, lambda item: item.matches(caller))
        and inside(box.methods, lambda item: item == method)
        and inside(box.hosts, lambda item: item.matches(host))
        and inside(box.paths, lambda item: item.matches(path))
        and all(inside(field, lambda item: item == header) for _, field in box.headers)
    )


@settings(max_examples=examples(50), deadline=None)
@given(boxes, boxes, requests)
def test_meeting_cutting_and_covering_are_those_of_sets(one, other, request) -> None:
    both = meet(one, other)
    assert (both is not None and holds(both, request)) == (holds(one, request) and holds(other, request))
    left = subtract(one, other)
    assert any(holds(box, request) for box in left) == (holds(one, request) and not holds(other, request))
    if covers(one, other):
        assert holds(one, request) or not holds(other, request)
    kept = without_covered([one, other])
    assert any(holds(box, request) for box in kept) == (holds(one, request) or holds(other, request))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("/a/{x}", "/{x}/b", "/a/b"),
        ("/a/**", "/{x}/b/**", "/a/b/**"),
        ("/a/{x}/**", "/a/**", "/a/{x}/**"),
        ("/a/{x:int}", "/a/{x:hex}", "/a/{x:int}"),
        ("/**", "/a", "/a"),
        ("/a", "/b", None),
    ],
)
def test_what_two_paths_have_in_common_is_a_path(one, other, expected) -> None:
    found = PATHS.meet(PathPattern.parse(one), PathPattern.parse(other))
    assert (None if found is None else str(found)) == expected
    classes = path_classes([PathPattern.parse(one), PathPattern.parse(other)])
    for path in classes.values():
        both = PathPattern.parse(one).matches(path) and PathPattern.parse(other).matches(path)
        assert (found is not None and found.matches(path)) == both


def test_types_that_cross_have_no_path_in_common_and_are_cut_to_less() -> None:
    hexes, dates = (
        Box(paths=Field((PathPattern.parse("/{x:hex}"),))),
        Box(paths=Field((PathPattern.parse("/{x:ulid}"),))),
    )
    with pytest.raises(Unsayable):
        meet(hexes, dates)
    assert subtract(hexes, dates) == [Box(paths=Field(hexes.paths.inside, dates.paths.inside))]


def test_a_pattern_has_the_text_that_reads_as_it() -> None:
    for text in ("/", "/a/", "/a/{x}/**", "/**", "/%C3%A9", "/a%2A"):
        found = PathPattern.parse(text)
        assert PathPattern.parse(str(pattern_of(found.segments, subtree=found.subtree))) == found


def test_an_outside_that_meets_no_inside_is_not_said() -> None:
    found = field_of(CALLERS, (_callers[0],), (_callers[2],))
    assert found == Field((_callers[0],))
    assert field_of(CALLERS, (_callers[1],), (_callers[2],)) is None


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(boxes, max_size=6))
def test_what_is_left_out_is_covered_and_nothing_else_is(listed: list[Box]) -> None:
    kept = without_covered(listed)
    assert all(any(covers(other, box) for other in kept) for box in listed)
    for place, box in enumerate(kept):
        assert not any(covers(other, box) for index, other in enumerate(kept) if index != place)
