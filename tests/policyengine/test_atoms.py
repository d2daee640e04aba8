import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.spiffe import SpiffeId, SpiffePattern
from policyengine.atoms import (
    SEGMENTS,
    TooLarge,
    caller_classes,
    host_classes,
    is_within,
    path_classes,
    paths_overlap,
    target_of,
)
from policyengine.canonical import SEGMENT_TYPES, HostPattern, PathPattern, canonical_host, canonical_path

TEXTS = [
    "/", "/**", "/a", "/a/", "/a/**", "/a/b", "/a/{x}", "/{x}/b", "/a/{x:int}", "/a/{x:hex}/c", "/{x:token}/**",
    "/a/{x:uuid}", "/a/{x:date}/**", "/a/{x:ulid}", "/a/{x:decimal}", "/a/7", "/%C3%A9",
]  # fmt: skip
PATTERNS = st.lists(st.sampled_from(TEXTS), max_size=5, unique=True).map(
    lambda texts: [PathPattern.parse(text) for text in texts]
)
SEGMENT = st.sampled_from([*SEGMENTS, "a", "b", "c", "é", "x y", "13"])
PATHS = st.tuples(st.lists(SEGMENT, max_size=4), st.booleans()).map(
    lambda found: tuple(found[0]) + (("",) if found[1] or not found[0] else ())
)


def signature(patterns: list[PathPattern], path: tuple[str, ...]) -> frozenset[int]:
    return frozenset(index for index, pattern in enumerate(patterns) if pattern.matches(path))


@given(PATTERNS, PATHS)
def test_every_path_is_in_a_class_that_was_found(patterns: list[PathPattern], path: tuple[str, ...]) -> None:
    assert signature(patterns, path) in path_classes(patterns)


@given(PATTERNS)
def test_every_representative_is_in_its_class_and_travels_as_it_is(patterns: list[PathPattern]) -> None:
    for expected, path in path_classes(patterns).items():
        assert signature(patterns, path) == expected
        canonical: Any = canonical_path(target_of(path))
        assert canonical.segments == path
        assert canonical.text == target_of(path)


@given(PATTERNS, PATHS)
def test_with_a_focus_no_class_inside_it_is_lost(patterns: list[PathPattern], path: tuple[str, ...]) -> None:
    focus = patterns[:1]
    found = path_classes(patterns, focus)
    here = signature(patterns, path)
    assert all(0 in item for item in found)
    if focus and focus[0].matches(path):
        assert here in found


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations_with_replacement(TEXTS, 2)), ids=str)
def test_overlap_and_containment_agree_with_the_classes(one: str, other: str) -> None:
    pair = [PathPattern.parse(one), PathPattern.parse(other)]
    found = path_classes(pair)
    assert paths_overlap(*pair) is (frozenset({0, 1}) in found)
    assert paths_overlap(pair[1], pair[0]) is paths_overlap(*pair)
    assert is_within(*pair) is (frozenset({0}) not in found)
    assert is_within(pair[1], pair[0]) is (frozenset({1}) not in found)


CASED = ["/a", "/A/**", "/{x}/B", "/a/{x:hex}/c", "/a/BEEF", "/7", "/É", "/**", "/", "/a/{x}/**", "/\u212a", "/A/"]
"""Patterns that are compared as they stand, and the same without regard to case where that can be."""
BOTH = [PathPattern.parse(text) for text in CASED]
BOTH += [found for pattern in BOTH if isinstance(found := pattern.folded(), PathPattern)]
LETTERS = st.sampled_from(["a", "A", "b", "B", "beef", "BEEF", "bEEf", "7", "é", "É", "\u212a", "x\u0131", "c", "C"])
SPELLINGS = st.tuples(st.lists(LETTERS, max_size=4), st.booleans()).map(
    lambda found: tuple(found[0]) + (("",) if found[1] or not found[0] else ())
)


@given(st.lists(st.sampled_from(BOTH), max_size=6, unique=True), SPELLINGS)
def test_every_path_is_in_a_class_where_only_some_patterns_ignore_case(
    patterns: list[PathPattern], path: tuple[str, ...]
) -> None:
    found = path_classes(patterns)
    if len({pattern.ignores_case for pattern in patterns}) == 2:
        assert frozenset(i for i, pattern in enumerate(patterns) if pattern.holds(path)) in found
    for expected, sample in found.items() if len({pattern.ignores_case for pattern in patterns}) == 2 else ():
        assert frozenset(i for i, pattern in enumerate(patterns) if pattern.holds(sample)) == expected


@pytest.mark.parametrize("one", BOTH, ids=lambda found: f"{found.text}-{found.ignores_case}")
def test_overlap_and_containment_agree_with_the_classes_across_cases(one: PathPattern) -> None:
    for other in BOTH:
        if one.ignores_case is not other.ignores_case:
            found = path_classes([one, other])
            assert paths_overlap(one, other) is (frozenset({0, 1}) in found), other
            assert is_within(one, other) is (frozenset({0}) not in found), other


def types_of(segment: str) -> frozenset[str]:
    return frozenset(name for name, form in SEGMENT_TYPES.items() if form.fullmatch(segment))


def test_patterns_that_cross_at_every_segment_are_too_many_at_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyengine.atoms.MAX_PATH_STEPS", 1000)
    crossing = [
        PathPattern.parse("/" + "/".join("a" if place == own else "{x}" for place in range(22))) for own in range(22)
    ]
    with pytest.raises(TooLarge):
        path_classes(crossing)
    assert len(path_classes(crossing[:3])) == 2**3
    beside = [PathPattern.parse(f"/p{place}/{{id}}") for place in range(200)]
    assert len(path_classes(beside)) > 200


def test_the_samples_differ_in_their_types() -> None:
    assert len({types_of(sample) for sample in SEGMENTS}) == len(SEGMENTS)


@given(st.text(alphabet="0123456789abcfgACFGIZ.-_~@", min_size=1, max_size=40) | st.sampled_from(SEGMENTS))
def test_no_segment_has_a_set_of_types_without_a_sample(segment: str) -> None:
    assert types_of(segment) in {types_of(sample) for sample in SEGMENTS}


@pytest.mark.parametrize("sample", SEGMENTS)
def test_a_literal_like_a_sample_does_not_hide_its_class(sample: str) -> None:
    literals = [sample, f"{sample}0", f"0{sample}"]
    texts = ["/{x}", *("/" + text for text in literals)]
    patterns = [PathPattern.parse(text) for text in texts]
    found = path_classes([*patterns, *(PathPattern.parse(f"/{{x:{name}}}") for name in SEGMENT_TYPES)])
    names = list(SEGMENT_TYPES)
    expected = {len(texts) + names.index(name) for name in types_of(sample)} | {0}
    assert frozenset(expected) in found


ID = "spiffe://corp.test"
CALLERS = [
    f"{ID}/a",
    f"{ID}/a/b",
    f"{ID}/a/**",
    f"{ID}/a/b/**",
    f"{ID}/**",
    "spiffe://b.test/**",
    f"{ID}/a/limen-witness",
]


@given(st.lists(st.sampled_from(CALLERS), unique=True))
def test_classes_of_callers_nest_and_their_witnesses_are_inside(texts: list[str]) -> None:
    patterns = [SpiffePattern.parse(text) for text in texts]
    classes = caller_classes(patterns)
    assert [found.name for found in classes] == [*(str(pattern) for pattern in sorted(patterns)), "any"]
    for found in classes:
        matching = {str(pattern) for pattern in patterns if pattern.matches(SpiffeId.parse(found.witness))}
        assert matching == set(found.inside)
        around = sorted(matching - {found.name}, key=len)
        assert found.parent == (None if found.pattern is None else around[-1] if around else "any")


@given(
    st.lists(st.sampled_from(CALLERS), unique=True),
    st.sampled_from([f"{ID}/a", f"{ID}/a/b/c/d", f"{ID}/z", "spiffe://c.test/x"]),
)
def test_every_caller_is_in_a_class(texts: list[str], caller: str) -> None:
    patterns = [SpiffePattern.parse(text) for text in texts]
    matching = {str(pattern) for pattern in patterns if pattern.matches(SpiffeId.parse(caller))}
    assert any(set(found.inside) == matching for found in caller_classes(patterns))


def test_a_witness_of_a_long_pattern_is_still_an_identity() -> None:
    pattern = SpiffePattern.parse(f"{ID}/{'x' * 2020}/**")
    SpiffeId.parse(caller_classes([pattern])[0].witness)


@given(st.lists(st.sampled_from(["db.corp.test", "*.corp.test", "limen-witness.corp.test", "*.test"]), unique=True))
def test_classes_of_hosts_have_representatives_inside(texts: list[str]) -> None:
    patterns = [HostPattern.parse(text) for text in texts]
    classes = dict(host_classes(patterns))
    assert classes.pop("*") is None
    if patterns:
        malformed = classes.pop("malformed")
        assert not isinstance(canonical_host(malformed or ""), str)
    assert set(classes) == set(texts)
    exact = {pattern.name for pattern in patterns if not pattern.wildcard}
    for name, host in classes.items():
        assert host is not None
        assert HostPattern.parse(name).matches(host)
        assert not name.startswith("*") or host not in exact
