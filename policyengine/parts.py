"""What a policy set says about each called service, and whether another set says the very same.

Everything that a service's index is compiled from is in its part: the service, its policies and exceptions, and the
groups and services that their rules name, and those that these name. Two parts are the same when they hold the same
objects: readers that keep what did not change (`policyengine.wire`) give the same object for the same text. Equality
is not asked, because to Python a claim of `1` equals one of `true`. This module compiles nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

from policyengine import model

_Named = model.Group | model.Service | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One called service and what is about it; ``named`` is what its rules lead to, None where nothing has the name."""

    service: model.Service
    policies: tuple[model.Policy, ...]
    exceptions: tuple[model.ExceptionGrant, ...]
    rego: tuple[model.RegoModule, ...]
    named: Mapping[tuple[str, str], _Named]

    def is_same(self, other: Part) -> bool:
        """Whether the other part holds the same objects, so that what is compiled from it is the same."""
        return (
            self.service is other.service
            and _same(self.policies, other.policies)
            and _same(self.exceptions, other.exceptions)
            and _same(self.rego, other.rego)
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
            named=self._reached(_principals(policies, exceptions)),
        )

    def _reached(self, principals: Iterable[model.Principal]) -> dict[tuple[str, str], _Named]:
        """The groups and services that principals lead to, groups within groups among them."""
        found: dict[tuple[str, str], _Named] = {}
        waiting = list(principals)
        while waiting:
            principal = waiting.pop()
            key = (principal.kind, principal.name)
            if principal.kind == "group" and key not in found:
                group = found[key] = self._groups.get(principal.name)
                waiting.extend(() if group is None else group.members)
            elif principal.kind == "service":
                found[key] = self._services.get(principal.name)
        return found


def _principals(
    policies: Iterable[model.Policy], exceptions: Iterable[model.ExceptionGrant]
) -> Iterator[model.Principal]:
    for policy in policies:
        for rule in policy.rules:
            yield from rule.from_
            if rule.unless is not None:
                yield from rule.unless.from_ or ()
    for exception in exceptions:
        yield from exception.from_


def _same(ours: tuple[object, ...], theirs: tuple[object, ...]) -> bool:
    return len(ours) == len(theirs) and all(one is other for one, other in zip(ours, theirs, strict=True))
