"""Replays the witnesses of a plan: both versions, each asked of the index and of the reference evaluator.

A row counts as replayed when all four say what it says. The slow evaluator reads the rules that can speak of the
witness's caller, not the thousands about others. Custom rules are asked first; where the witness does not meet them,
their answers are supposed as the row supposes them. Nothing here decides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from mesh.request import Decision, Effect, Request
from policyengine import reference
from policyengine.belief import Belief
from policyengine.callers import Callers
from policyengine.decide import Index, ServiceIndex
from policyengine.ir import ServiceForm
from policyengine.model import CustomRules, ExceptionGrant, Names, Policy, PolicySet, Rule
from policyengine.regions import Change
from policyengine.rows import Row
from policyengine.witness import Supposed, unbelieved


class Replayer:
    """Two versions, ready to be asked about witnesses."""

    def __init__(self, before: PolicySet, after: PolicySet, changes: Iterable[Change] = ()) -> None:
        """``changes`` have the normal forms of services, where they were made already."""
        olds, news = {}, {}
        for change in changes:
            olds[change.service], news[change.service] = change.old, change.new
        self._sides = (_Side(before, "old", olds), _Side(after, "new", news))

    def replayed(self, row: Row, before: Effect | None, after: Effect) -> Row:
        """The row, saying whether its witness was replayed, and those of the rows that were folded into it.

        ``before`` None leaves open what the old version says.
        """
        is_replayed = all(
            side.says(request := side.read(found), expected, None)
            or (bool(found.supposed) and side.says(request, expected, found.supposed))
            for found in (row, *row.beside)
            for side, expected in zip(self._sides, (before, after), strict=True)
        )
        return dataclasses.replace(row, is_replayed=is_replayed)


class _Side:
    """One version."""

    def __init__(self, policies: PolicySet, name: str, forms: Mapping[str, ServiceForm | None]) -> None:
        self._policies = policies
        self._name = name
        self._belief: Belief = "before" if name == "old" else "now"
        self._forms = forms
        self._services: dict[str, ServiceIndex] = {}
        self._index = Index(policies, name)
        self._rules: dict[str, Mapping[str, list[tuple[Policy, Rule]]]] = {}
        self._exceptions: dict[str, list[ExceptionGrant]] = {}
        for grant in policies.exceptions:
            self._exceptions.setdefault(grant.service, []).append(grant)

    def read(self, row: Row) -> Request:
        """The witness as this version reads it: a token that it does not believe brings no claims."""
        return unbelieved(row.witness) if row.belief not in {"both", self._belief} else row.witness

    def says(self, request: Request, expected: Effect | None, supposed: Supposed | None) -> bool:
        """Whether both evaluators agree on a request, and say what is expected."""
        part = self._part(request)
        if supposed is None:
            fast = self._decide(request)
        else:
            part = dataclasses.replace(part, custom=_answers(supposed, is_before=self._name == "old"))
            fast = Index(part, self._name).decide(request)
        slow = reference.decide(part, request, snapshot=self._name)
        return fast == slow and (expected is None or slow.effect is expected)

    def _decide(self, request: Request) -> Decision:
        """What the index says, built of a form that was made already where there is one."""
        form = self._forms.get(request.service)
        if form is None:
            return self._index.decide(request)
        if request.service not in self._services:
            callers = Callers(form.grants)
            self._services[request.service] = ServiceIndex(
                form.service, callers, form.headers, self._name, self._policies.custom
            )
        return self._services[request.service].decide(request)

    def _part(self, request: Request) -> PolicySet:
        """What can speak of a request: of the service's rules, those that name its caller."""
        named = self._named(request.service)
        source = request.source or ""
        prefixes = [source]
        while prefixes[-1].count("/") > 2:
            prefixes.append(prefixes[-1].rpartition("/")[0])
        texts = ["any", source, *(f"{prefix}/**" for prefix in prefixes[1:])]
        rules: dict[str, tuple[Policy, list[Rule]]] = {}
        for policy, rule in (found for text in texts for found in named.get(text, ())):
            rules.setdefault(policy.name, (policy, []))[1].append(rule)
        return dataclasses.replace(
            self._policies,
            policies=tuple(dataclasses.replace(policy, rules=tuple(found)) for policy, found in rules.values()),
            exceptions=tuple(self._exceptions.get(request.service, ())),
        )

    def _named(self, service: str) -> Mapping[str, list[tuple[Policy, Rule]]]:
        """A service's rules by the patterns that they name; `any` stands for everybody, and for the undefined."""
        if service not in self._rules:
            found: dict[str, list[tuple[Policy, Rule]]] = {}
            names = Names(self._policies)
            for policy in self._policies.policies_for(service):
                for rule in policy.rules:
                    meant = names.expand(rule.from_)
                    texts = ["any"] if meant.is_any or meant.incomplete else dict.fromkeys(map(str, meant.patterns))
                    for text in texts:
                        found.setdefault(text, []).append((policy, rule))
            self._rules[service] = found
        return self._rules[service]


def _answers(supposed: Supposed, *, is_before: bool) -> CustomRules:
    """Custom rules that answer as supposed; of the earlier version, as its own rule does where it differs."""

    def answer(name: str, request: Request) -> bool | None:
        del request
        if is_before and (name, True) in supposed:
            return supposed[name, True]
        return supposed.get((name, False))

    return answer
