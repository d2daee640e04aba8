"""Which regions are of one likeness, and which of one family."""

from typing import Any

import pytest

from policyengine.canonical import PathPattern
from policyengine.likeness import MAX_RENAMED, Likenesses, renaming, types_of
from policyengine.model import Operation, Service
from policyengine.regions import Region, changes_of, regions_of
from tests.policyengine.plans import paths, policies, rule, service, to


def regions(*operations: Operation, **fields: Any) -> list[Region]:
    """The regions of as many callers with a rule each."""
    versions = policies(), policies(*(rule(f"c{index}", to=(found,)) for index, found in enumerate(operations)))
    changed: Service = service(**fields)
    old, new = (type(found)(services=(changed,), policies=found.policies) for found in versions)
    return [region for change in changes_of(old, new) for region in regions_of(change)]


def families(*listed: tuple[str, ...]) -> list[int]:
    return [region.likeness.family for region in regions(*(Operation(paths=paths(*texts)) for texts in listed))]


ALIKE = [
    pytest.param(("/a/x", "/health"), ("/b/y", "/alive"), id="other-literals"),
    pytest.param(("/a/{id:int}", "/a/**"), ("/b/{n:int}", "/b/**"), id="the-same-places-of-one-literal"),
    pytest.param(("/7",), ("/8",), id="of-the-same-types"),
    pytest.param(("/a/",), ("/b/",), id="a-slash-at-the-end"),
]
UNLIKE = [
    pytest.param(("/a/x", "/a/y"), ("/a/x", "/b/y"), id="a-literal-that-is-shared"),
    pytest.param(("/a/b",), ("/a/a",), id="a-literal-that-is-there-twice"),
    pytest.param(("/7", "/{id:int}"), ("/a", "/{id:int}"), id="of-other-types"),
    pytest.param(("/a",), ("/a/**",), id="a-subtree"),
    pytest.param(("/{x}",), ("/a",), id="a-parameter"),
    pytest.param(("/{x:int}",), ("/{x:hex}",), id="a-parameter-of-another-type"),
    pytest.param(("/a/",), ("/a/b",), id="an-empty-literal-is-no-other"),
    pytest.param(("/a",), ("/a", "/b"), id="more-patterns"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_one_family(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    first, second = families(one, other)
    assert first == second


@pytest.mark.parametrize(("one", "other"), UNLIKE)
def test_two_families(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    first, second = families(one, other)
    assert first != second


def test_which_grant_has_which_of_the_patterns_counts() -> None:
    get, post = ({"methods": (name,)} for name in ("GET", "POST"))
    found = regions(Operation(**get, paths=paths("/a", "/b")), Operation(**post, paths=paths("/c", "/d")))
    assert len({region.likeness.family for region in found}) == 2


def test_of_one_likeness_are_those_with_the_same_words_alone() -> None:
    same, too, other = regions(*(to(paths=paths(text))[0] for text in ("/a", "/a", "/b")))
    assert same.likeness == too.likeness
    assert (other.likeness.family, other.likeness.likeness != same.likeness.likeness) == (same.likeness.family, True)


def test_letters_stay_where_a_service_ignores_case() -> None:
    found = regions(*(to(paths=paths(text))[0] for text in ("/a", "/b")), path_case="insensitive")
    assert len({region.likeness.family for region in found}) == 2


def test_letters_stay_when_they_are_kept() -> None:
    (one, other) = regions(*(to(paths=paths(text))[0] for text in ("/a", "/b")))
    numbered = Likenesses(None, keeps_letters=True)
    assert numbered.of(one.spoken).family != numbered.of(other.spoken).family


def test_many_patterns_are_a_family_of_their_own() -> None:
    many = [tuple(f"/{letter}{place}" for place in range(MAX_RENAMED + 1)) for letter in "ab"]
    assert len(set(families(*many))) == 2
    assert len(set(families(*(texts[:-1] for texts in many)))) == 1


def test_a_renaming_takes_each_pattern_to_the_one_in_its_place() -> None:
    one, other = (regions(Operation(paths=paths(*texts)))[0].likeness for texts in (("/a", "/b"), ("/y", "/x")))
    assert renaming(one.patterns, other.patterns) == {
        PathPattern.parse("/a"): PathPattern.parse("/y"),
        PathPattern.parse("/b"): PathPattern.parse("/x"),
    }


def test_types_of_a_segment() -> None:
    assert types_of("7") == types_of("8") != types_of("a")
