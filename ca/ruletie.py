"""Which identity rules may tie: found when the file is read, without comparing every pair (contract, "Identity").

Two rules tie when they are equally specific and one process could match both. That is so unless a fact that a process
has once, at most, is asked for with values that exclude each other, or one asks for a container and the other for a
systemd unit: what runs in a container has no unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ca.registration import IdentityRule, Selector

# what a process may have several of: two of them exclude nothing
SEVERAL = frozenset({"unix:supplementary-gid", "unix:supplementary-group", "docker:image-digest"})
# enough to show what is wrong with a file
MAX_FINDINGS = 200
# a file that is no closer to an answer by then is said to be too entangled, never passed in silence
MAX_COMPARISONS = 2_000_000
_FEW = 8


class EntangledError(Exception):
    """More comparisons than are worth it: whether the file holds a tie is not known."""


def may_meet(one: IdentityRule, other: IdentityRule) -> bool:
    """Whether some process could match both."""
    mine = {selector.name: selector for selector in one.match}
    theirs = {selector.name: selector for selector in other.match}
    for name, selector in theirs.items():
        if name not in SEVERAL and name in mine and not mine[name].overlaps(selector):
            return False
    return not (_excludes(mine, theirs) or _excludes(theirs, mine))


def _excludes(mine: dict[str, Selector], theirs: dict[str, Selector]) -> bool:
    """What different facts say against each other."""
    for whole, last in (("unix:path", "unix:basename"), ("launch:script", "launch:script_basename")):
        if whole in mine and last in theirs and not mine[whole].prefix:
            name = mine[whole].value.rsplit("/", 1)[-1]
            if not (name.startswith(theirs[last].value) if theirs[last].prefix else name == theirs[last].value):
                return True
    return "systemd:unit" in mine and any(name.startswith(("k8s:", "docker:")) for name in theirs)


def ties(rules: Sequence[IdentityRule]) -> Iterator[tuple[int, int]]:
    """The places of rules that may tie, the earlier one first, each pair once; no more than `MAX_FINDINGS`.

    1. Rules of one specificity are looked at together.
    2. They are divided by a fact that tells many apart; who does not ask for it, or by a prefix, goes to every part.
    3. What cannot be divided further is compared pair by pair.

    Raises EntangledError after `MAX_COMPARISONS`.
    """
    classes: dict[tuple[int, int], list[int]] = {}
    for place, rule in enumerate(rules):
        classes.setdefault(rule.specificity, []).append(place)
    seen: set[tuple[int, int]] = set()
    work = _Work(rules)
    # (1)
    for places in classes.values():
        for pair in work.divide(places, frozenset()):
            if pair not in seen:
                seen.add(pair)
                yield pair
                if len(seen) >= MAX_FINDINGS:
                    return


class _Work:
    def __init__(self, rules: Sequence[IdentityRule]) -> None:
        self._rules = rules
        self._done = 0

    def _spend(self, count: int) -> None:
        self._done += count
        if self._done > MAX_COMPARISONS:
            raise EntangledError

    def _compare(self, places: list[int]) -> Iterator[tuple[int, int]]:
        for index, one in enumerate(places):
            for other in places[index + 1 :]:
                self._spend(1)
                if may_meet(self._rules[one], self._rules[other]):
                    yield min(one, other), max(one, other)

    def divide(self, places: list[int], used: frozenset[str]) -> Iterator[tuple[int, int]]:
        """The pairs of some rules, divided by the facts that are not used yet."""
        if len(places) < 2:
            return
        self._spend(len(places))
        pivot = self._pivot(places, used) if len(places) > _FEW else None
        # (3)
        if pivot is None:
            yield from self._compare(places)
            return
        # (2)
        exact, prefixes, others = self._split(places, pivot)
        used = used | {pivot}
        begun: dict[str, list[int]] = {}
        for prefix, place in prefixes:
            begun.setdefault(prefix, []).append(place)
        lengths = sorted({len(prefix) for prefix in begun})
        for value, part in exact.items():
            self._spend(len(lengths) + len(others))
            beginnings = [value[:length] for length in lengths if length <= len(value)]
            fitting = [place for beginning in beginnings for place in begun.get(beginning, ())]
            yield from self.divide([*part, *fitting, *others], used)
        yield from self._prefixed(prefixes, others, used)

    def _split(self, places: list[int], pivot: str) -> tuple[dict[str, list[int]], list[tuple[str, int]], list[int]]:
        """Rules by what they ask of a fact: exact values, prefixes in order, and those that do not ask."""
        exact: dict[str, list[int]] = {}
        prefixes: list[tuple[str, int]] = []
        others: list[int] = []
        for place in places:
            found = next((item for item in self._rules[place].match if item.name == pivot), None)
            if found is None:
                others.append(place)
            elif found.prefix:
                prefixes.append((found.value, place))
            else:
                exact.setdefault(found.value, []).append(place)
        return exact, sorted(prefixes), others

    def _prefixed(
        self, prefixes: list[tuple[str, int]], others: list[int], used: frozenset[str]
    ) -> Iterator[tuple[int, int]]:
        """Prefixes meet when one begins with the other: whatever does stands right behind it when they are sorted."""
        for index, (prefix, place) in enumerate(prefixes):
            for longer, other in prefixes[index + 1 :]:
                if not longer.startswith(prefix):
                    break
                self._spend(1)
                if may_meet(self._rules[place], self._rules[other]):
                    yield min(place, other), max(place, other)
            for other in others:
                self._spend(1)
                if may_meet(self._rules[place], self._rules[other]):
                    yield min(place, other), max(place, other)
        yield from self.divide(others, used)

    def _pivot(self, places: list[int], used: frozenset[str]) -> str | None:
        """The fact that leaves the least in one part; None when none divides."""
        values: dict[str, set[str]] = {}
        asked: dict[str, int] = {}
        for place in places:
            for item in self._rules[place].match:
                if item.name not in used and item.name not in SEVERAL:
                    asked[item.name] = asked.get(item.name, 0) + 1
                    values.setdefault(item.name, set()).add(item.value)
        best = max(
            sorted(values), key=lambda name: (asked[name] * (len(values[name]) > 1), len(values[name])), default=None
        )
        return best if best is not None and len(values[best]) > 1 else None
