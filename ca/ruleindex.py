"""Finds the rules that may match some facts without looking at all of them.

Each rule stands under ONE of its selectors, the one that the fewest rules have: an exact selector by its value, a
prefix by what it begins with. A process's facts are looked up value by value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ca.ruletie import SEVERAL

if TYPE_CHECKING:
    from ca.registration import IdentityRule, Selector

_Places = dict[str, int | list[int]]


class RuleIndex:
    """Where to look for the rules that some facts may match."""

    def __init__(self, rules: Sequence[IdentityRule]) -> None:
        counts: Counter[tuple[str, str, bool]] = Counter(
            (item.name, item.value, item.prefix) for rule in rules for item in rule.match
        )

        def rarity(item: Selector) -> tuple[int, bool, int]:
            # of equally rare ones an exact one before a prefix, a longer value before a shorter one
            return counts[item.name, item.value, item.prefix], item.prefix, -len(item.value)

        # by the fact's name: most facts of a process are in no rule
        self._exact: dict[str, _Places] = {}
        self._prefixes: dict[str, _Places] = {}
        lengths: dict[str, set[int]] = {}
        self._always: list[int] = []
        for place, rule in enumerate(rules):
            item = min(rule.match, key=rarity, default=None)
            if item is None:
                self._always.append(place)
            elif item.prefix:
                _add(self._prefixes.setdefault(item.name, {}), item.value, place)
                lengths.setdefault(item.name, set()).add(len(item.value))
            else:
                _add(self._exact.setdefault(item.name, {}), item.value, place)
        self._lengths = {name: sorted(found) for name, found in lengths.items()}

    def candidates(self, facts: Mapping[str, tuple[str, ...]]) -> list[int]:
        """The places of every rule that may match, each once, in the order of the file."""
        found: list[int] = list(self._always)
        for name, values in facts.items():
            exact = self._exact.get(name)
            if exact is not None:
                for value in values:
                    _take(found, exact.get(value))
            prefixes = self._prefixes.get(name)
            if prefixes is not None:
                for value in values:
                    for length in self._lengths[name]:
                        if length > len(value):
                            break
                        _take(found, prefixes.get(value[:length]))
        return found if len(found) < 2 else sorted(set(found))

    def partners(self, rule: IdentityRule) -> list[int]:
        """The places of every rule that some process may match beside this one, and of some others."""
        asked = {item.name: item for item in rule.match if item.name not in SEVERAL}
        found: list[int] = list(self._always)
        for name, places in self._exact.items():
            item = asked.get(name)
            for value in _fitting(places, item, lambda value, item: value.startswith(item.value)):
                _take(found, places.get(value))
        for name, places in self._prefixes.items():
            item = asked.get(name)
            if item is not None and not item.prefix:
                values: Iterable[str] = [item.value[:length] for length in self._lengths[name]]
            else:
                values = _fitting(
                    places, item, lambda value, item: value.startswith(item.value) or item.value.startswith(value)
                )
            for value in values:
                _take(found, places.get(value))
        return found


def _fitting(places: _Places, item: Selector | None, fits: Callable[[str, Selector], bool]) -> Iterable[str]:
    """The values that a rule's selector of the same fact does not exclude: all, if it has none."""
    if item is None:
        return places
    return [value for value in places if fits(value, item)] if item.prefix else [item.value]


# most values stand for one rule: a list of one for each would cost more than the rule's place
def _add(index: _Places, key: str, place: int) -> None:
    there = index.get(key)
    if there is None:
        index[key] = place
    elif isinstance(there, list):
        there.append(place)
    else:
        index[key] = [there, place]


def _take(found: list[int], there: int | list[int] | None) -> None:
    if there is None:
        return
    if isinstance(there, list):
        found.extend(there)
    else:
        found.append(there)
