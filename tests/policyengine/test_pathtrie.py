"""The trie finds exactly the patterns that match."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from policyengine.canonical import CanonicalPath, PathPattern, canonical_path
from policyengine.pathtrie import PathTrie
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
