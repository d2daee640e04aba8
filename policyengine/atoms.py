"""Classes of callers, paths and hosts that a set of patterns cannot tell apart, each with a representative.

Two requests in the same classes match the same patterns, so deciding one decides the other: that is what makes an
enumeration complete. Caller and host patterns nest or are disjoint, so their classes are "this pattern without the
ones inside it". Path patterns cross, so their classes are found by walking all patterns at once. Nothing here decides.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Collection, Iterable, Sequence
from urllib.parse import quote

from mesh.spiffe import SpiffePattern
from policyengine.canonical import SEGMENT_TYPES, Ambiguous, HostPattern, PathPattern, PathSegment, folded

_WORD = "limen-witness"
_ROOMY_BYTES = 2000
MAX_PATH_STEPS = 500_000
"""So many patterns are looked at, over all states, before paths are too many to cut."""
_UNFOLDABLE = "limen@witness\u212a"  # the kelvin sign: some programs fold it to `k`, some do not
# One segment for every set of types that some segment can have: the types nest and cross in no other way.
SEGMENTS = (
    "limen@witness",  # none of the types
    _WORD,  # token
    "7",  # int, decimal, hex
    "-1.5",  # decimal
    "beef",  # hex
    "2026-01-31",  # date
    "a1a1a1a1-b2b2-4c3c-8d4d-e5e5e5e5e5e5",  # uuid
    "01ARZ3NDEKTSV4RRFFQ69G5FAV",  # ulid
    "01234567890123456789012345",  # ulid, int, decimal, hex
    "0123456789abcdefabcdefabcd",  # ulid, hex
)


class TooLarge(Exception):  # noqa: N818  not an error: whoever asked says that it was not looked at
    """There are more classes than anybody waits for; a diagram would take more steps to build."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Callers:
    """One class of callers: a pattern without the ones inside it; None is everybody whom no pattern names.

    ``inside`` has the texts of all patterns that hold the class, its own included. ``parent`` is the nearest of the
    others.
    """

    pattern: SpiffePattern | None
    witness: str
    inside: tuple[str, ...]
    parent: str | None

    @property
    def name(self) -> str:
        """The pattern as it stands in a file."""
        return self.inside[0] if self.inside else "any"


def caller_classes(patterns: Iterable[SpiffePattern]) -> tuple[Callers, ...]:
    """The classes that the patterns make; the last is everybody else."""
    # by their texts: patterns compare and hash part by part, and there may be many
    named = {str(pattern): pattern for pattern in patterns}
    below = {text.removesuffix("/**") for text, pattern in named.items() if pattern.subtree}
    exact = {text for text, pattern in named.items() if not pattern.subtree}
    taken = {prefix for text in exact | below for prefix in _prefixes(text)}
    found = []
    for name in sorted(named):
        pattern = named[name]
        text = name.removesuffix("/**") if pattern.subtree else name
        above = [f"{prefix}/**" for prefix in _prefixes(text)[1:] if prefix in below]
        witness = _fresh(text, taken) if pattern.subtree else text
        parent = above[0] if above else "any"
        found.append(Callers(pattern=pattern, witness=witness, inside=(name, *above), parent=parent))
    domain = _WORD
    while f"spiffe://{domain}" in taken:
        domain += "x"
    found.append(Callers(pattern=None, witness=f"spiffe://{domain}/caller", inside=(), parent=None))
    return tuple(found)


def _prefixes(text: str) -> list[str]:
    """The ID and everything above it, down to the trust domain, nearest first."""
    found = [text]
    while found[-1].count("/") > 2:
        found.append(found[-1].rpartition("/")[0])
    return found


def _fresh(text: str, taken: set[str]) -> str:
    """An ID right below, on no pattern's way."""
    # near the limit of 2048 bytes (SPIFFE-ID §2.3) a short word has to do
    word = "w" if len(text) > _ROOMY_BYTES else _WORD
    while f"{text}/{word}" in taken:
        word += "x"
    return f"{text}/{word}"


def path_classes(
    patterns: Sequence[PathPattern], focus: Sequence[PathPattern] | None = None
) -> dict[frozenset[int], tuple[str, ...]]:
    """The sets of patterns that some path matches all of and no others, each with the segments of such a path.

    With a ``focus`` only the sets that hold one of its patterns: paths outside do not matter.

    1. Walk all patterns at once, segment by segment. A state is what may still match and what already does.
    2. From a state, ONE segment for every literal that some live pattern has here, and one for every set of types.
       Where only some patterns ignore case there are more (`_steps_of_both`).
    3. A path may end here, end with an empty segment (a slash), or go on; a state that was seen is not walked again.

    Raises TooLarge: patterns that cross at every segment make twice as many classes with each of them.
    """
    ignoring = frozenset(index for index, pattern in enumerate(patterns) if pattern.ignores_case)
    is_mixed = 0 < len(ignoring) < len(patterns)
    wanted = None if focus is None else set(focus)
    kept = [
        index
        for index, pattern in enumerate(patterns)
        if focus is None or any(paths_overlap(pattern, other) for other in focus)
    ]
    found: dict[frozenset[int], tuple[str, ...]] = {}
    start = (frozenset(kept), frozenset[int]())
    seen = {(0, *start)}
    # (1)
    waiting = collections.deque([(tuple[str, ...](), *start)])

    def record(signature: frozenset[int], path: tuple[str, ...]) -> None:
        if wanted is None or any(patterns[index] in wanted for index in signature):
            found.setdefault(signature, path)

    steps = 0
    while waiting:
        path, alive, done = waiting.popleft()
        depth = len(path)
        steps += len(alive)
        if steps > MAX_PATH_STEPS:
            raise TooLarge
        # (3)
        if path:
            ends = {i for i in alive if not patterns[i].subtree and len(patterns[i].segments) == depth}
            record(done | ends, path)
        begun = done | {i for i in alive if patterns[i].subtree and len(patterns[i].segments) == depth}
        slashed = {i for i in alive if _ends_in_slash(patterns[i], depth)}
        record(begun | slashed, (*path, ""))
        # (2)
        for segment, still in (_steps_of_both if is_mixed else _steps)(patterns, alive, depth):
            kept_on = begun - ignoring if is_mixed and _folded(segment) is None else begun
            state = (depth + 1, still, kept_on)
            if state in seen:
                continue
            seen.add(state)
            if still:
                waiting.append(((*path, segment), still, kept_on))
            else:
                record(kept_on, (*path, segment))
                if is_mixed:
                    record(kept_on - ignoring, (*path, segment, _UNFOLDABLE))
    return found


def _ends_in_slash(pattern: PathPattern, depth: int) -> bool:
    places = pattern.segments
    return not pattern.subtree and len(places) == depth + 1 and places[-1] == PathSegment("literal", "")


def _next(
    patterns: Sequence[PathPattern], alive: frozenset[int], depth: int
) -> tuple[list[tuple[str, int]], list[int]]:
    """What patterns that go on have next: those with a literal that is not empty, beside it, and those with a type."""
    literals: list[tuple[str, int]] = []
    typed: list[int] = []
    for index in alive:
        if len(patterns[index].segments) > depth:
            place = patterns[index].segments[depth]
            if place.type != "literal":
                typed.append(index)
            elif place.literal:
                literals.append((place.literal, index))
    return literals, typed


def _steps(patterns: Sequence[PathPattern], alive: frozenset[int], depth: int) -> list[tuple[str, frozenset[int]]]:
    """The classes of the next segment that is not empty: one of each, with the patterns that it keeps alive."""
    literal: dict[str, list[int]] = {}
    literals, typed = _next(patterns, alive, depth)
    for text, index in literals:
        literal.setdefault(text, []).append(index)
    found = []
    for text, indices in literal.items():
        matching = [index for index in typed if patterns[index].segments[depth].matches(text)]
        found.append((text, frozenset(indices + matching)))
    kinds: set[frozenset[int]] = set()
    for sample in SEGMENTS:
        kept = frozenset(index for index in typed if patterns[index].segments[depth].matches(sample))
        if kept not in kinds:
            kinds.add(kept)
            found.append((_unlike(sample, literal.__contains__), kept))
    return found


def _steps_of_both(
    patterns: Sequence[PathPattern], alive: frozenset[int], depth: int
) -> list[tuple[str, frozenset[int]]]:
    """The classes of the next segment where some patterns ignore case and some do not.

    1. Every literal that is compared as it stands; and of every literal that is compared without regard to case a
       spelling that is none of those, where there is one.
    2. One segment for every set of types, unlike all of them.
    3. One whose letters programs fold differently: no pattern that ignores case speaks of it.
    """
    exact: dict[str, list[int]] = {}
    loose: dict[str, list[int]] = {}
    literals, typed = _next(patterns, alive, depth)
    for literal, index in literals:
        (loose if patterns[index].ignores_case else exact).setdefault(literal, []).append(index)

    def kept(segment: str) -> frozenset[int]:
        compared = _folded(segment)
        found = [*exact.get(segment, ()), *loose.get(compared or "", ())]
        for index in typed:
            read = compared if patterns[index].ignores_case else segment
            if read is not None and patterns[index].segments[depth].matches(read):
                found.append(index)
        return frozenset(found)

    # (1)
    segments = [*exact, *(text for literal in loose if (text := _spelling(literal, exact)) is not None)]
    # (2)
    taken = {_folded(literal) for literal in exact} | loose.keys()
    samples = [_unlike(sample, lambda text: _folded(text) in taken) for sample in SEGMENTS]
    # (3)
    unfoldable = _UNFOLDABLE
    while unfoldable in exact:
        unfoldable += "x"
    found = [(segment, kept(segment)) for segment in segments]
    by_kind = {kept(segment): segment for segment in reversed(samples)}
    return [*found, *((segment, still) for still, segment in by_kind.items()), (unfoldable, kept(unfoldable))]


def _folded(segment: str) -> str | None:
    """A segment as services that ignore case compare it; None where programs differ about its letters."""
    found = folded((segment,))
    return None if isinstance(found, Ambiguous) else found[0]


def _spelling(literal: str, exact: Collection[str]) -> str | None:
    """A segment that folds to the literal and is none of the exact ones; None when those are all there are."""
    cased = [place for place, char in enumerate(literal) if char.upper() != char]
    # one more than there are exact ones is enough: each number is a spelling of its own
    for number in range(min(2 ** len(cased), len(exact) + 1)):
        upper = {place for bit, place in enumerate(cased) if number >> bit & 1}
        text = "".join(char.upper() if place in upper else char for place, char in enumerate(literal))
        if text not in exact:
            return text
    return None


def _unlike(sample: str, is_taken: Callable[[str], bool]) -> str:
    """A segment of the same types as the sample that is none of the literals."""
    if not is_taken(sample):
        return sample
    same = tuple(name for name, form in SEGMENT_TYPES.items() if form.fullmatch(sample))
    for number in range(10**6):
        for text in (f"{sample}{number}", f"{number}{sample}", _renumbered(sample, number)):
            if not is_taken(text) and same == tuple(n for n, form in SEGMENT_TYPES.items() if form.fullmatch(text)):
                return text
    raise AssertionError("patterns have fewer literals than there are segments of a type")


def _renumbered(sample: str, number: int) -> str:
    """The sample with its end counted on, for types of a fixed length."""
    if sample.count("-") == 2 and len(sample) == 10:
        return f"{1000 + number % 9000}-{1 + number // 9000 % 12:02}-{1 + number // 108000 % 28:02}"
    digits = f"{number:x}" if any(char in "abcdef" for char in sample) else str(number)
    return sample[: -len(digits)] + digits


def paths_overlap(one: PathPattern, other: PathPattern) -> bool:
    """Whether some path matches both patterns."""
    if one.ignores_case is not other.ignores_case:
        loose, exact = (one, other) if one.ignores_case else (other, one)
        compared = exact.folded()
        return isinstance(compared, PathPattern) and paths_overlap(loose, compared)
    mine, theirs = len(one.segments), len(other.segments)
    if not one.subtree and not other.subtree and mine != theirs:
        return False
    if one.subtree and not other.subtree and theirs <= mine:
        return False
    if other.subtree and not one.subtree and mine <= theirs:
        return False
    return all(segments_overlap(a, b) for a, b in zip(one.segments, other.segments, strict=False))


def is_within(one: PathPattern, other: PathPattern) -> bool:
    """Whether every path that matches the one matches the other."""
    if one.ignores_case is not other.ignores_case:
        return _is_within_other_case(one, other)
    mine, theirs = len(one.segments), len(other.segments)
    if other.subtree:
        if mine < theirs or (mine == theirs and not one.subtree):
            return False
    elif one.subtree or mine != theirs:
        return False
    return all(is_segment_within(a, b) for a, b in zip(one.segments, other.segments, strict=False))


def _is_within_other_case(one: PathPattern, other: PathPattern) -> bool:
    """`is_within` where one of the two ignores case: free segments hold letters that no such pattern speaks of."""
    if other.ignores_case:
        compared = one.folded()
        is_free = one.subtree or any(place.type == "any" for place in one.segments)
        return not is_free and isinstance(compared, PathPattern) and is_within(compared, other)
    # a literal with letters has more than one spelling
    for mine, theirs in zip(one.segments, other.segments, strict=False):
        if theirs.type == "literal" and mine.literal.upper() != mine.literal:
            return False
    return is_within(dataclasses.replace(one, ignores_case=False), other)


def is_segment_within(one: PathSegment, other: PathSegment) -> bool:
    """Whether every segment that fits the one fits the other."""
    if one.type == "literal":
        return other.matches(one.literal)
    if other.type == "literal":
        return False
    return all(other.matches(sample) for sample in SEGMENTS if one.matches(sample))


def segments_overlap(one: PathSegment, other: PathSegment) -> bool:
    """Whether some segment fits both."""
    if one.type == "literal":
        return other.matches(one.literal)
    if other.type == "literal":
        return one.matches(other.literal)
    return any(one.matches(sample) and other.matches(sample) for sample in SEGMENTS)


def target_of(segments: Sequence[str]) -> str:
    """The raw request target of a path's segments."""
    return "/" + "/".join(quote(segment, safe="!$&'()*+,=:@") for segment in segments)


def host_classes(patterns: Iterable[HostPattern]) -> tuple[tuple[str, str | None], ...]:
    """The classes of hosts, as name and representative.

    Last are every other host (no host at all matches the same), and a malformed one, whose tests are all unknown.
    """
    listed = sorted(set(patterns))
    if not listed:
        return (("*", None),)
    exact = {pattern.name for pattern in listed if not pattern.wildcard}
    found: list[tuple[str, str | None]] = [(name, name) for name in sorted(exact)]
    for pattern in listed:
        if pattern.wildcard:
            label = _WORD
            while f"{label}.{pattern.name}" in exact:
                label += "x"
            found.append((f"*.{pattern.name}", f"{label}.{pattern.name}"))
    return (*found, ("*", None), ("malformed", "?"))
