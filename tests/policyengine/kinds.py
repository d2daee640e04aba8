"""What generated cases are about: for every kind of rule, how often one decided and how often one did not apply.

A comparison that never met an exception at its end, or a rule with claims that held, would say nothing about them.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator

from mesh.request import Decision, Effect, Mode, Request
from policyengine import model, reference
from policyengine.attributes import read

Kind = Callable[[model.Rule], bool]


def _when(name: str) -> Kind:
    return lambda rule: rule.when is not None and getattr(rule.when, name) is not None


def _calls(kind: str) -> Kind:
    return lambda rule: any(caller.kind == kind for caller in rule.from_)


def _does(name: str) -> Kind:
    return lambda rule: any(getattr(entry, name) is not None for entry in rule.to or ())


def _over_midnight(rule: model.Rule) -> bool:
    hours = rule.when.hours if rule.when is not None else None
    return hours is not None and hours.end < hours.start


def _typed(rule: model.Rule) -> bool:
    paths = [path for entry in rule.to or () for path in entry.paths or ()]
    return any(segment.type not in {"literal", "any"} for path in paths for segment in path.segments)


RULES: dict[str, Kind] = {
    **{f"effect {effect}": lambda rule, effect=effect: rule.effect is effect for effect in Effect},
    **{f"when {name}": _when(name) for name in ("claims", "headers", "peer_ip", "forwarded_ip", "hours", "rego")},
    "when hours over midnight": _over_midnight,
    **{f"from {kind}": _calls(kind) for kind in ("any", "spiffe", "group", "service")},
    "from below": lambda rule: any(caller.pattern is not None and caller.pattern.subtree for caller in rule.from_),
    **{f"to {name}": _does(name) for name in ("ports", "methods", "hosts", "paths")},
    "to typed paths": _typed,
    "unless from": lambda rule: rule.unless is not None and rule.unless.from_ is not None,
    "unless when": lambda rule: rule.unless is not None and rule.unless.when is not None,
}
OTHERS = (
    "exception",
    "exception at its end",
    "observe",
    "observe at its end",
    "candidate",
    "identity",
    "ambiguous",
    "case of paths ignored",
)


class Tally:
    """Counts, by kind: decided or held, and not."""

    def __init__(self) -> None:
        self.held: collections.Counter[str] = collections.Counter()
        self.failed: collections.Counter[str] = collections.Counter()
        self.codes: collections.Counter[str] = collections.Counter()

    def note(self, kind: str, held: bool) -> None:
        (self.held if held else self.failed)[kind] += 1

    def add(self, policies: model.PolicySet, request: Request, decision: Decision, candidate: Decision) -> None:
        """Count what a request to a policy set was about."""
        self.codes[f"{decision.code} {decision.effect}"] += 1
        service = policies.service_for(request.service)
        if service is None:
            return
        protocol = service.protocol_of(request.port) or request.protocol
        facts = read(request, protocol, policies.headers_for(service.name), service.path_case)
        self.note("identity", facts.source is not None)
        self.note("ambiguous", bool(facts.ambiguous))
        self.note("case of paths ignored", service.path_case == "insensitive")
        self.note("candidate", candidate.effect is not decision.effect)
        now = reference.time_of(request)
        if service.mode is Mode.OBSERVE:
            self.note("observe", service.is_observed(now))
            if now == service.until:
                self.note("observe at its end", service.is_observed(now))
        for policy, rule in _rules(policies, service.name):
            decided = (policy, rule.id) == (decision.policy, decision.rule)
            applied = reference.applies(policies, service, rule, facts)
            for name, is_of in RULES.items():
                if is_of(rule) and (decided or not applied or rule.effect is Effect.PASS):
                    self.note(name, applied)
        for exception in policies.exceptions:
            if reference.applies(policies, service, exception.as_rule(), facts):
                self.note("exception", exception.is_active(now))
                if now == exception.until:
                    self.note("exception at its end", exception.is_active(now))

    def missing(self, least: int) -> list[str]:
        """The kinds that were not met often enough, one way or the other."""
        return [
            f"{kind}: {self.held[kind]} held, {self.failed[kind]} did not"
            for kind in (*RULES, *OTHERS)
            # nothing holds at its end any more
            if self.failed[kind] < least or (self.held[kind] < least and not kind.endswith("at its end"))
        ]


def _rules(policies: model.PolicySet, service: str) -> Iterator[tuple[str, model.Rule]]:
    for policy in policies.policies_for(service):
        for rule in policy.rules:
            yield policy.name, rule
