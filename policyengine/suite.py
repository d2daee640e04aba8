"""Tests of a policy tree: given a request, expect a decision, because of a reason.

`PolicyTest` documents stand beside the policies and are read as strictly; they are no part of a snapshot. A run decides
every case by the index that enforcers use, and by the reference evaluator beside it: a case passes only where both
agree and say what it expects. What the cases reach of the rules is `policyengine.coverage`'s business.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mesh.problems import Diagnostic, Span
from mesh.request import Decision, Effect, Request
from policyengine import model, reference
from policyengine.decide import Index
from policyengine.reading import Finding, did_you_mean

_FAILED, _DISAGREE = "LM2700", "LM2701"
_UNKNOWN_SERVICE = reference.UNKNOWN_SERVICE


GIVEN_FIELDS = tuple(field.name for field in dataclasses.fields(Request))
"""What a case may give: the fields of a request."""


@dataclasses.dataclass(frozen=True, slots=True)
class Given:
    """A request as a case gives it: those of the fields of `Request` that it names.

    Without ``port`` it is the only one that can be meant, without ``protocol`` what the port declares, without ``time``
    the time of the run.
    """

    fields: Mapping[str, Any]

    @property
    def service(self) -> str:
        """The called service."""
        return str(self.fields["service"])

    @property
    def port(self) -> int | None:
        """The port, where the case names it."""
        return self.fields.get("port")

    @property
    def has_request(self) -> bool:
        """Whether there is a method or a path, so that more than a connection is meant."""
        return any(self.fields.get(name) is not None for name in ("method", "path"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a case expects: the decision, and what may be named of how it came about. None is not looked at."""

    decision: Effect
    policy_decision: Effect | None = None
    tier: str | None = None
    policy: str | None = None
    rule: str | None = None
    code: str | None = None

    def differences(self, decision: Decision) -> tuple[str, ...]:
        """The fields in which a decision is not what is expected, as sentences."""
        actual = {
            "decision": str(decision.effect),
            "policy_decision": str(decision.policy_effect),
            "tier": decision.tier,
            "policy": decision.policy,
            "rule": decision.rule,
            "code": decision.code,
        }
        wanted = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return tuple(
            f"{name} is `{actual[name]}`, not `{value}`"
            for name, value in wanted.items()
            if value is not None and actual[name] != str(value)
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request and what is expected of it."""

    name: str
    given: Given
    expect: Expected
    because: str
    span: Span | None = dataclasses.field(default=None, compare=False, repr=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTest:
    """A named document of cases."""

    name: str
    owner: str
    cases: tuple[Case, ...]
    span: Span | None = dataclasses.field(default=None, compare=False, repr=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one case. ``finding`` is None where it passed."""

    test: str
    case: Case
    request: Request
    decision: Decision
    finding: Diagnostic | None = None

    @property
    def has_passed(self) -> bool:
        """Whether the case passed."""
        return self.finding is None


def check_tests(policies: model.PolicySet, tests: tuple[PolicyTest, ...]) -> Iterator[Finding]:
    """What must hold between tests and policies.

    1. A test's name stands once, and so does a case's name in its test.
    2. The called service exists, unless the case expects that it does not: a misspelt name is denied, and a case that
       expects a deny would pass for the wrong reason.
    3. The port is named where the service has several that can be meant.
    4. A policy and rule that is expected to decide exists.
    """
    names = sorted({found.name for found in policies.services})
    rules = {policy.name: {rule.id for rule in policy.rules} for policy in policies.policies}
    rules |= {item.name: {model.EXCEPTION_RULE} for item in policies.exceptions}
    seen: set[str] = set()
    for place, test in enumerate(tests):
        if test.name in seen:
            yield Finding(("tests", place), "LM2030", {"name": test.name, "kind": "tests"})
        seen.add(test.name)
        cases: set[str] = set()
        for index, case in enumerate(test.cases):
            where = ("tests", place, "cases", index)
            # (1)
            if case.name in cases:
                yield Finding((*where, "name"), "LM2702", {"case": case.name, "test": test.name})
            cases.add(case.name)
            # (2), (3)
            service = policies.service_for(case.given.service)
            if service is None and case.expect.code != _UNKNOWN_SERVICE:
                facts = {"service": case.given.service, "hint": did_you_mean(case.given.service, names)}
                yield Finding((*where, "given"), "LM2703", facts)
            if service is not None and case.given.port is None and _only_port(service, case.given) is None:
                known = ", ".join(str(port.port) for port in service.ports)
                yield Finding((*where, "given"), "LM2704", {"service": service.name, "known": known})
            # (4)
            expect = case.expect
            if expect.policy and expect.policy not in rules:
                facts = {"what": f"policy `{expect.policy}`", "hint": did_you_mean(expect.policy, rules)}
                yield Finding((*where, "expect"), "LM2705", facts)
            elif expect.rule and expect.rule not in (
                rules[expect.policy] if expect.policy else {rule for found in rules.values() for rule in found}
            ):
                what = f"rule `{expect.rule}`" + (f" in policy `{expect.policy}`" if expect.policy else "")
                yield Finding((*where, "expect"), "LM2705", {"what": what, "hint": ""})


def _only_port(service: model.Service, given: Given) -> int | None:
    """The port that can only be meant: the one there is, or the one where a request can be read."""
    ports = [found.port for found in service.ports if not given.has_request or found.protocol != "tcp"]
    return ports[0] if len(ports) == 1 else None


def request_of(policies: model.PolicySet, given: Given, now: dt.datetime) -> Request:
    """The request that a case means."""
    service = policies.service_for(given.service)
    port = given.port
    if port is None:
        port = (_only_port(service, given) if service is not None else None) or 0
    declared = service.protocol_of(port) if service is not None else None
    protocol = declared or ("http" if given.has_request else "tcp")
    return Request(**{"protocol": protocol, "time": now, **given.fields, "port": port})


def run(policies: model.PolicySet, tests: Iterable[PolicyTest], now: dt.datetime, *, snapshot: str) -> list[Outcome]:
    """Decide every case, in order. ``policies.custom`` evaluates custom rules, as for everybody who decides.

    A case fails when its decision is not what it expects (LM2700), or when the index and the reference evaluator
    disagree (LM2701), which is a bug of ours and no fault of the policies.
    """
    index = Index(policies, snapshot)
    outcomes = []
    for test in tests:
        for case in test.cases:
            request = request_of(policies, case.given, now)
            decision = index.decide(request)
            outcomes.append(
                Outcome(
                    test=test.name,
                    case=case,
                    request=request,
                    decision=decision,
                    finding=_judge(policies, test, case, request, decision),
                )
            )
    return outcomes


def _judge(
    policies: model.PolicySet, test: PolicyTest, case: Case, request: Request, decision: Decision
) -> Diagnostic | None:
    facts: dict[str, object] = {"case": f"{test.name}/{case.name}", "because": case.because}
    second = reference.decide(policies, request, snapshot=decision.snapshot)
    if second != decision:
        differs = f"the index says {decision.effect} ({decision.code}), the reference {second.effect} ({second.code})"
        return Diagnostic(code=_DISAGREE, span=case.span, facts={**facts, "differs": differs})
    differences = case.expect.differences(decision)
    if not differences:
        return None
    by = f"{decision.policy}/{decision.rule}" if decision.rule else "no rule"
    return Diagnostic(
        code=_FAILED, span=case.span, facts={**facts, "differs": "; ".join(differences), "by": f"{by}, {decision.code}"}
    )
