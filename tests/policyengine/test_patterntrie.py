"""The trie answers as asking every pattern would."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine.atoms import is_within, paths_overlap
from policyengine.canonical import PathPattern, canonical_path
from policyengine.patterntrie import EVERYTHING, PatternTrie
from tests.examples import examples
from tests.policyengine.strategies import PATTERNS

WORDS = ["a", "b", "12", "", "{x}", "{x:int}", "{x:hex}", "{x:uuid}"]
patterns = st.one_of(
    st.sampled_from(PATTERNS).map(PathPattern.parse),
    st.lists(st.sampled_from([word for word in WORDS if word]), min_size=1, max_size=3).flatmap(
        lambda parts: st.sampled_from(["/" + "/".join(parts), "/" + "/".join(parts) + "/**"]).map(PathPattern.parse)
    ),
)


def trie(held: list[PathPattern]) -> PatternTrie[int]:
    found: PatternTrie[int] = PatternTrie()
    for place, pattern in enumerate(held):
        found.insert(pattern, place)
    return found


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(patterns, max_size=12), patterns)
def test_the_trie_answers_as_asking_every_pattern_would(held: list[PathPattern], asked: PathPattern) -> None:
    found = trie(held)
    assert sorted(found.including(asked)) == [i for i, p in enumerate(held) if is_within(asked, p)]
    assert sorted(found.overlapping(asked)) == [i for i, p in enumerate(held) if paths_overlap(asked, p)]


@pytest.mark.parametrize("path", ["/", "/a", "/a/", "/a/12", "/a/12/b", "/b/c/d"])
def test_a_path_finds_the_patterns_that_match_it(path: str) -> None:
    held = [PathPattern.parse(text) for text in PATTERNS]
    canonical = canonical_path(path)
    segments = canonical.segments  # type: ignore[union-attr]  # these paths are canonical
    assert sorted(trie(held).matching(segments)) == [i for i, p in enumerate(held) if p.matches(segments)]


def test_no_pattern_stands_for_every_path() -> None:
    found: PatternTrie[str] = PatternTrie()
    found.insert(None, "all")
    found.insert(PathPattern.parse("/a"), "a")
    assert list(found.including(None)) == ["all"]
    assert sorted(itertools.chain(found.overlapping(None))) == ["a", "all"]
    assert list(found.including(EVERYTHING)) == ["all"]
