"""The trie finds exactly the patterns that match."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from policyengine.canonical import CanonicalPath, PathPattern, canonical_path
from policyengine.pathtrie import Edit, Leaf, PathTrie
from tests.policyengine.strategies import PATTERNS, TARGETS


@dataclasses.dataclass(frozen=True)
class Held:
    name: str
    tier: int = 0
    is_conditional: bool = True


def names(trie: PathTrie[Held], path: tuple[str, ...] | None) -> set[str]:
    return {entry.name for leaf in trie.find(path) for entry in leaf}


@given(st.lists(st.sampled_from(PATTERNS), unique=True), st.sampled_from([item for item in TARGETS if item]))
def test_trie_finds_what_patterns_match(patterns: list[str], target: str) -> None:
    trie: PathTrie[Held] = PathTrie()
    for text in patterns:
        trie.insert(Held(text), (PathPattern.parse(text),), or_unknown=False)
    path = canonical_path(target)
    if isinstance(path, CanonicalPath):
        expected = {text for text in patterns if PathPattern.parse(text).matches(path.segments)}
        assert names(trie, path.segments) == expected


def test_unknown_path_finds_only_what_was_put_there_for_it() -> None:
    trie: PathTrie[Held] = PathTrie()
    trie.insert(Held("allow"), (PathPattern.parse("/**"),), or_unknown=False)
    trie.insert(Held("deny"), (PathPattern.parse("/a"),), or_unknown=True)
    trie.insert(Held("any"), None, or_unknown=False)
    assert names(trie, None) == {"deny", "any"}


def test_nothing_is_kept_behind_what_always_decides() -> None:
    trie: PathTrie[Held] = PathTrie()
    for held in (Held("first"), Held("sure", is_conditional=False), Held("dead"), Held("next", tier=1)):
        trie.insert(held, None, or_unknown=False)
    assert names(trie, None) == {"first", "sure", "next"}


def test_what_always_decided_gives_way_to_what_stood_behind_it() -> None:
    leaf = Leaf((Held("first"), Held("sure", is_conditional=False), Held("dead"), Held("next", tier=1)))
    assert [held.name for held in leaf] == ["first", "sure", "next"]
    assert [held.name for held in leaf.every()] == ["first", "sure", "next", "dead"]


def held_at(place: str, trie: PathTrie[Held]) -> PathTrie[Held]:
    return trie.edited((PathPattern.parse(place),), put(place), or_unknown=False)


def put(name: str) -> Edit[Held]:
    return lambda leaf: Leaf((*(leaf or ()), Held(name)))


def taken(leaf: Leaf[Held] | None) -> None:
    assert leaf is not None


# INVARIANT: a trie that was edited is one that was made so, and what it was edited from stays as it was.
@given(st.lists(st.sampled_from(PATTERNS), unique=True), st.data())
def test_an_edited_trie_equals_one_from_nothing(patterns: list[str], data: st.DataObject) -> None:
    gone = data.draw(st.lists(st.sampled_from(patterns), unique=True) if patterns else st.just([]))
    trie: PathTrie[Held] = PathTrie()
    for text in patterns:
        trie = held_at(text, trie)
    less = trie
    for text in gone:
        less = less.edited((PathPattern.parse(text),), taken, or_unknown=False)
    assert less.is_empty == (set(gone) == set(patterns))
    for target in filter(None, TARGETS):
        path = canonical_path(target)
        if isinstance(path, CanonicalPath):
            matching = {text for text in patterns if PathPattern.parse(text).matches(path.segments)}
            assert names(trie, path.segments) == matching
            assert names(less, path.segments) == matching - set(gone)


def test_a_pattern_as_deep_as_a_target_may_be_is_edited() -> None:
    deep = "/a" * 30_000
    trie: PathTrie[Held] = held_at(deep, PathTrie())
    assert names(trie, ("a",) * 30_000) == {deep}
    assert trie.edited((PathPattern.parse(deep),), taken, or_unknown=False).is_empty


def test_leaves_for_every_path_and_for_an_unknown_one_are_edited_too() -> None:
    trie: PathTrie[Held] = PathTrie()
    always = trie.edited(None, put("always"), or_unknown=True)
    assert names(always, ("a",)) == names(always, None) == {"always"}
    unknown = trie.edited((PathPattern.parse("/a"),), put("deny"), or_unknown=True)
    assert names(unknown, None) == names(unknown, ("a",)) == {"deny"}
    assert unknown.edited((PathPattern.parse("/a"),), taken, or_unknown=True).is_empty
