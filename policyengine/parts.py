"""What a policy set says about each called service, and whether another set says the very same.

Everything that a service's index is compiled from is in its part: the service, its policies and exceptions, and the
groups and services that their rules name, and those that these name. Two parts are the same when they hold the same
objects: readers that keep what did not change (`policyengine.wire`) give the same object for the same text. Equality
is not asked, because to Python a claim of `1` equals one of `true`. This module compiles nothing.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from policyengine import model

T = TypeVar("T")
_NAMED_KINDS = frozenset(("group", "service"))
Named = model.Group | model.Service | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One called service and what is about it; ``named`` is what its rules lead to, None where nothing has the name."""

    service: model.Service
    policies: tuple[model.Policy, ...]
    exceptions: tuple[model.ExceptionGrant, ...]
    rego: tuple[model.RegoModule, ...]
    named: Mapping[tuple[str, str], Named]

    def is_same(self, other: Part) -> bool:
        """Whether the other part holds the same objects, so that what is compiled from it is the same."""
        return (
            self.service is other.service
            and _same(self.policies, other.policies)
            and _same(self.exceptions, other.exceptions)
            and self.rego == other.rego  # paths and texts: to these equal is the same
            and self.named.keys() == other.named.keys()
            and all(found is other.named[key] for key, found in self.named.items())
        )


class Parts:
    """The parts of a policy set, by service; each is put together when it is asked for."""

    def __init__(self, policies: model.PolicySet) -> None:
        self._rego = policies.rego
        self._groups = {item.name: item for item in policies.groups}
        self._services = {item.name: item for item in policies.services}
        self._about: dict[str, list[model.Policy]] = {}
        self._granted: dict[str, list[model.ExceptionGrant]] = {}
        for policy in policies.policies:
            self._about.setdefault(policy.service, []).append(policy)
        for exception in policies.exceptions:
            self._granted.setdefault(exception.service, []).append(exception)

    def of(self, name: str) -> Part | None:
        """The part of a service; None when there is no such service."""
        service = self._services.get(name)
        if service is None:
            return None
        policies, exceptions = tuple(self._about.get(name, ())), tuple(self._granted.get(name, ()))
        return Part(
            service=service,
            policies=policies,
            exceptions=exceptions,
            rego=self._rego,
            named=self._reached(names_in(_principals(policies, exceptions))),
        )

    def _reached(self, names: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Named]:
        """The groups and services that names lead to, groups within groups among them."""
        found: dict[tuple[str, str], Named] = {}
        waiting = list(dict.fromkeys(names))
        while waiting:
            key = kind, name = waiting.pop()
            if kind == "service":
                found[key] = self._services.get(name)
            elif key not in found:
                group = found[key] = self._groups.get(name)
                waiting.extend(() if group is None else names_in(group.members))
        return found


def names_in(principals: Iterable[model.Principal]) -> Iterator[tuple[str, str]]:
    """The groups and services among principals, by kind and name."""
    return ((found.kind, found.name) for found in principals if found.kind in _NAMED_KINDS)


def _principals(
    policies: Iterable[model.Policy], exceptions: Iterable[model.ExceptionGrant]
) -> Iterator[model.Principal]:
    for policy in policies:
        # one pass in one expression each: this is asked of ten thousand rules when one of them changes
        yield from [principal for rule in policy.rules for principal in rule.from_ if principal.pattern is None]
        for unless in [rule.unless for rule in policy.rules if rule.unless is not None]:
            yield from unless.from_ or ()
    for exception in exceptions:
        yield from exception.from_


def middles(ours: Sequence[T], theirs: Sequence[T]) -> tuple[Sequence[T], Sequence[T], int]:
    """What is left of two lists without the same objects at their beginnings and ends, and where that begins."""
    alike = list(map(operator.is_, ours, theirs))
    begin = alike.index(False) if False in alike else len(alike)
    ours, theirs = ours[begin:], theirs[begin:]
    alike = list(map(operator.is_, reversed(ours), reversed(theirs)))
    end = alike.index(False) if False in alike else len(alike)
    return ours[: len(ours) - end], theirs[: len(theirs) - end], begin


def _same(ours: tuple[object, ...], theirs: tuple[object, ...]) -> bool:
    return len(ours) == len(theirs) and all(one is other for one, other in zip(ours, theirs, strict=True))
