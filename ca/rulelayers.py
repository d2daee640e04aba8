"""Identity rules in two layers: those that were indexed once, and the few that are others since.

A file of 100,000 rules of which one changed is looked up and searched for ties without indexing and comparing all of
them again. What differs is counted against the first layer; when it is more than a few, all become that layer anew.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ca.ruleindex import RuleIndex
from ca.ruletie import MAX_FINDINGS, may_meet, ties

if TYPE_CHECKING:
    from ca.registration import IdentityRule

FEW = 256
# rules that have to be looked at for ties one by one; beyond that, all are compared as if they were new
_WORTH = 400_000


class _First:
    """The first layer: rules, their index, and their ties once they are known."""

    def __init__(self, rules: Sequence[IdentityRule]) -> None:
        self.rules = tuple(rules)
        self.index = RuleIndex(self.rules)
        self.places = {rule.id: place for place, rule in enumerate(self.rules)}
        self.is_free_of_ties = False


class RuleLayers:
    """The rules of one file, found by facts and compared with each other."""

    def __init__(
        self, rules: tuple[IdentityRule, ...], first: _First, gone: frozenset[int], more: tuple[IdentityRule, ...]
    ) -> None:
        self._rules, self.first, self._gone, self._more = rules, first, gone, more
        self._index = RuleIndex(more)

    @classmethod
    def of(cls, rules: tuple[IdentityRule, ...]) -> RuleLayers:
        """All rules in one layer."""
        return cls(rules, _First(rules), frozenset(), ())

    def after(
        self, rules: tuple[IdentityRule, ...], *, removed: Sequence[IdentityRule], added: Sequence[IdentityRule]
    ) -> RuleLayers | None:
        """Layers for these rules, which are those from before without some and with others.

        None when too many are others by now, or when an id stands twice: then they have to be looked at all. Before,
        each id stood once.
        """
        first, gone, more = self.first, {*self._gone}, {rule.id: rule for rule in self._more}
        for rule in removed:
            if more.pop(rule.id, None) is None:
                gone.add(first.places[rule.id])
        for rule in added:
            place = first.places.get(rule.id)
            if rule.id in more or (place is not None and place not in gone):
                return None
            if place is not None and first.rules[place] == rule:
                gone.discard(place)
            else:
                more[rule.id] = rule
        if len(more) > FEW or len(gone) > FEW:
            return None
        return RuleLayers(rules, first, frozenset(gone), tuple(more.values()))

    def candidates(self, facts: Mapping[str, tuple[str, ...]]) -> list[IdentityRule]:
        """Every rule that may match some facts, each once."""
        first = self.first
        found = [first.rules[place] for place in first.index.candidates(facts) if place not in self._gone]
        if self._more:
            found.extend(self._more[place] for place in self._index.candidates(facts))
        return found

    def ties(self) -> Iterator[tuple[int, int]]:
        """The places of rules that may tie, as `ca.ruletie.ties` gives them.

        1. Over a first layer of which it is known that it has none, only what is not in it can tie: with each other,
           or with whatever some process may match beside it.
        2. Otherwise all are compared.

        Raises EntangledError.
        """
        if self.first.is_free_of_ties:
            found = self._new_ties()
            if found is not None:
                # (1)
                yield from itertools.islice(sorted(found), MAX_FINDINGS)
                return
        # (2)
        is_any = False
        for pair in ties(self._rules):
            is_any = True
            yield pair
        if not self._more and not self._gone:
            self.first.is_free_of_ties = not is_any

    def _new_ties(self) -> set[tuple[int, int]] | None:
        """Step 1 of `ties`; None when looking would cost more than comparing all."""
        if not self._more:
            return set()
        pairs = [(self._more[one], self._more[other]) for one, other in ties(self._more)]
        looked = 0
        for rule in self._more:
            partners = self.first.index.partners(rule)
            looked += len(partners)
            if looked > _WORTH:
                return None
            specificity = rule.specificity
            for place in {*partners} - self._gone:
                other = self.first.rules[place]
                if len(other.match) == specificity[0] and other.specificity == specificity and may_meet(rule, other):
                    pairs.append((rule, other))
        if not pairs:
            return set()
        order = {id(rule): place for place, rule in enumerate(self._rules)}
        return {self._ordered(order, rule, other) for rule, other in pairs}

    def _ordered(self, order: Mapping[int, int], rule: IdentityRule, other: IdentityRule) -> tuple[int, int]:
        places = [order[id(found)] if id(found) in order else self._place(found) for found in (rule, other)]
        return min(places), max(places)

    def _place(self, rule: IdentityRule) -> int:
        """Where a rule of the first layer stands, of which an equal one was read since."""
        return next(place for place, found in enumerate(self._rules) if found == rule)
