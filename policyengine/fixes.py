"""The smallest change that would allow what the rules deny: the fewest changes, of those the one that opens least.

Nothing is guessed: every change is made on a copy of the policy set (or of the request), and the reference evaluator
has to allow the result before anybody hears of it. This module changes nothing.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from mesh.problems import Span
from mesh.request import Effect, NearestMiss, Request
from mesh.uncollected import uncollected
from policyengine import model, reference
from policyengine.attributes import Facts, read
from policyengine.breadth import NOTHING, operations_breadth
from policyengine.differences import Difference, fewest_gaps, is_named, literal_path, rule_differences
from policyengine.exemptions import exemptions
from policyengine.opening import Opening, opened
from policyengine.reading import did_you_mean

_TRIED = 24
"""How many candidates are tried out; those behind them change more, or open more."""
_COMPARED, _COMPARED_RULES = 4, 3000
"""How many ways that work are held against each other, and for how many rules of a service that is not too dear."""
_WAYS = 8
"""How many ways round the denies and passes of a tier are combined with its allows."""

_WEIGHTS = {"methods": 1, "from": 4, "unless": 5, "effect": 6}
"""Of what opens equally much: whom a rule speaks of is changed after what it speaks of."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """What would allow a request. ``changes`` is empty for what no existing rule is part of; ``miss`` says it all.

    ``addition`` is a rule that nobody wrote yet, with its tier. ``opening`` is what all that newly allows, where
    somebody asked for it or it was compared with another.
    """

    miss: NearestMiss
    changes: tuple[Difference, ...] = ()
    addition: tuple[model.Tier, model.Rule] | None = None
    opening: Opening | None = None
    near: Span | None = None

    @property
    def span(self) -> Span | None:
        """Where the nearest rule stands."""
        return self.changes[0].span if self.changes else self.near


@dataclasses.dataclass(frozen=True, slots=True)
class _Candidate:
    """Changes that together may allow the request, by how much they change and open."""

    count: int
    opens: float
    weight: int
    policy: str
    rule: str
    changes: tuple[Difference, ...]

    @property
    def order(self) -> tuple[int, float, int, str, str]:
        """What comes first is tried first."""
        return (self.count, self.opens, self.weight, self.policy, self.rule)


def _candidate(changes: Sequence[Difference]) -> _Candidate:
    first = changes[0]
    opens = max(change.opens for change in changes)
    weight = sum(_WEIGHTS.get(change.field, 2) for change in changes)
    return _Candidate(len(changes), opens, weight, first.policy, first.rule, tuple(changes))


def facts_of(policies: model.PolicySet, request: Request) -> Facts | None:
    """The request as the rules of its service read it; None without a service."""
    service = policies.service_for(request.service)
    if service is None:
        return None
    protocol = service.protocol_of(request.port) or request.protocol
    facts = read(request, protocol, policies.headers_for(service.name), service.path_case)
    facts.custom = policies.custom
    return facts


def smallest_fix(policies: model.PolicySet, request: Request) -> Fix | None:
    """The smallest change that would allow what the rules deny; None when they allow it, or nothing helps.

    1. What no rule can change comes first: the service, the caller's identity, an ambiguous request, the port.
    2. For EVERY allow, each entry of `to` is a way: what it lacks, and a way round EVERY deny of its tier and the ones
       before, and every pass of its tier.
    3. Ways with fewer changes come first, of equally many those that seem to open less. Of the first few that work with
       equally many changes, the answer is the one whose plan newly allows least.
    4. A new rule where nothing else works, and where one rule would have to change in several fields: that opens what
       nobody asked about, and a rule of its own does not. The nearest rule is named all the same.
    """
    service, facts = policies.service_for(request.service), facts_of(policies, request)
    # (1)
    if service is None or facts is None:
        hint = did_you_mean(request.service, (found.name for found in policies.services))
        return _outside(("service",), f"add a Service `{request.service}`{hint}")
    part = _part(policies, service)
    mine = about(part, facts)
    if reference.decide(mine, request, snapshot="").policy_effect is Effect.ALLOW:
        return None
    if (outside := _unruled(service, facts)) is not None:
        return outside
    # (2), (3)
    with uncollected():
        working = _nearest(part, mine, service, facts)
    # (4)
    if not working:
        return _new_rule(mine, service, facts, request)
    least = _least(part, request, working)
    if sum(change.is_edit for change in least.changes) > 1:
        new = _new_rule(mine, service, facts, request)
        if new is not None:
            near, opens = _fix(least.changes), opening_of(part, request, least.changes)
            new_opens = _opening(part, changed_by(part, request, new), request)
            if new_opens.is_complete and opens.is_complete and new_opens.breadth < opens.breadth:
                miss = dataclasses.replace(near.miss, fix=new.miss.fix)
                return dataclasses.replace(new, miss=miss, near=near.span, opening=new_opens)
            return dataclasses.replace(near, opening=opens)
    return _fix(least.changes)


def with_opening(policies: model.PolicySet, request: Request, fix: Fix) -> Fix:
    """The fix with what it newly allows."""
    service = policies.service_for(request.service)
    if service is None or fix.opening is not None or (not fix.changes and fix.addition is None):
        return fix
    part = _part(policies, service)
    return dataclasses.replace(fix, opening=_opening(part, changed_by(part, request, fix), request))


def changed_by(policies: model.PolicySet, request: Request, fix: Fix) -> model.PolicySet:
    """The policy set with a fix made; itself where that is about the request alone."""
    changed = _changed_set(policies, request, fix.changes)
    service = policies.service_for(request.service)
    return changed if fix.addition is None or service is None else _with_rule(changed, service, *fix.addition)


def _order(candidate: _Candidate) -> tuple[int, float, int, str, str]:
    return candidate.order


def _working(
    policies: model.PolicySet, mine: model.PolicySet, request: Request, ordered: Sequence[_Candidate]
) -> list[_Candidate]:
    """The first candidates that work, all of equally many changes; one that opens nothing needs no others."""
    found: list[_Candidate] = []
    for candidate in ordered:
        if found and (candidate.count > found[0].count or found[0].opens == NOTHING or len(found) == _COMPARED):
            break
        changed = {(change.policy, change.rule) for change in candidate.changes}
        if _allows(_with_rules(mine, policies, changed), request, candidate.changes):
            found.append(candidate)
    return found


def _least(policies: model.PolicySet, request: Request, working: Sequence[_Candidate]) -> _Candidate:
    """Of candidates that work, the one whose plan newly allows least."""
    if len(working) == 1 or sum(len(policy.rules) for policy in policies.policies) > _COMPARED_RULES:
        return working[0]
    opens = [opening_of(policies, request, candidate.changes) for candidate in working]
    if not all(found.is_complete for found in opens):
        return working[0]
    place = min(range(len(working)), key=lambda index: (opens[index].breadth, working[index].order))
    return working[place]


def opening_of(policies: model.PolicySet, request: Request, changes: Sequence[Difference]) -> Opening:
    """What changes newly allow to anybody, from the time of the request on; changes of the request allow nothing."""
    return _opening(policies, _changed_set(policies, request, changes), request)


def _opening(policies: model.PolicySet, changed: model.PolicySet, request: Request) -> Opening:
    now = reference.time_of(request)
    if changed is policies:
        return Opening()
    return Opening(is_complete=False) if now is None else opened(policies, changed, now)


def _part(policies: model.PolicySet, service: model.Service) -> model.PolicySet:
    """What concerns one service: nobody has to read the rest again for every change that is tried."""
    return dataclasses.replace(
        policies,
        policies=policies.policies_for(service.name),
        exceptions=tuple(found for found in policies.exceptions if found.service == service.name),
    )


def about(policies: model.PolicySet, facts: Facts) -> model.PolicySet:
    """A policy set that decides a request of this caller alike: without the rules that name others alone.

    What some rule reads of a request makes it ambiguous when it comes twice (design D3), whomever the rule is about:
    the first rule that reads a header stays.
    """
    if facts.source is None:
        return policies
    read: set[str] = set()
    kept = []
    for policy in policies.policies:
        rules = []
        for rule in policy.rules:
            names = frozenset[str]() if rule.when is None and rule.unless is None else _headers_of(rule)
            if not names <= read or is_named(policies, rule.from_, facts):
                read |= names
                rules.append(rule)
        if rules:
            kept.append(dataclasses.replace(policy, rules=tuple(rules)))
    return dataclasses.replace(policies, policies=tuple(kept))


def _headers_of(rule: model.Rule) -> frozenset[str]:
    """The headers that a rule reads, those of tokens among them."""
    return frozenset(rule.headers()) | (model.TOKEN_HEADERS if rule.reads_claims else frozenset())


def _with_rules(
    mine: model.PolicySet, policies: model.PolicySet, names: Collection[tuple[str, str]]
) -> model.PolicySet:
    """``mine``, and of ``policies`` the rules of some names, each in its policy."""
    had = {policy.name: policy for policy in mine.policies}
    kept = []
    for policy in policies.policies:
        wanted = {rule for name, rule in names if name == policy.name}
        held = had.get(policy.name)
        if wanted:
            known = frozenset() if held is None else frozenset(rule.id for rule in held.rules)
            added = tuple(rule for rule in policy.rules if rule.id in wanted and rule.id not in known)
            held = dataclasses.replace(policy, rules=(*(() if held is None else held.rules), *added))
        if held is not None and held.rules:
            kept.append(held)
    return dataclasses.replace(mine, policies=tuple(kept))


def _outside(differs: tuple[str, ...], fix: str) -> Fix:
    """A miss that no rule is part of."""
    return Fix(miss=NearestMiss(policy="", rule="", differs=differs, fix=fix))


def _unruled(service: model.Service, facts: Facts) -> Fix | None:
    """What refuses a request whatever the rules say."""
    if facts.source is None:
        return _outside(("source",), "connect with an SVID whose single URI SAN is a workload's SPIFFE ID")
    if facts.ambiguous:
        reasons = "; ".join(reason for _, reason in sorted(facts.ambiguous.items()))
        return _outside(tuple(sorted(facts.ambiguous)), f"send a request that can be read in one way only: {reasons}")
    if service.protocol_of(facts.request.port) is None:
        ports = ", ".join(str(port.port) for port in service.ports)
        fix = f"call a port that `{service.name}` declares ({ports}), or declare port {facts.request.port}"
        return _outside(("port",), fix)
    return None


_Allowing = tuple[model.Tier, str, model.Rule, Difference | None]
"""An allow with its tier and policy; an exception that has ended comes with its renewal."""


def _nearest(
    policies: model.PolicySet, mine: model.PolicySet, service: model.Service, facts: Facts
) -> list[_Candidate]:
    """The first candidates that work (steps 2 and 3 of `smallest_fix`), all of equally many changes.

    1. Of every allow, how many changes it takes at least: that is quickly said.
    2. Those of few changes are worked out first. What has fewer changes than all others can have is tried; where some
       of it works nobody works out the others.
    """
    rounds = _ways_round(mine, service, facts)
    # (1)
    by_changes: dict[int, list[_Allowing]] = {}
    for allowing in _allowing(policies, facts):
        tier, _, rule, renewal = allowing
        if ways := rounds[tier]:
            fewest = fewest_gaps(policies, rule, facts) + min(map(len, ways)) + (renewal is not None)
            by_changes.setdefault(fewest, []).append(allowing)
    # (2)
    found: list[_Candidate] = []
    tried = 0
    steps = sorted(by_changes)
    for fewest, following in itertools.zip_longest(steps, steps[1:]):
        more = _candidates(by_changes[fewest], policies, rounds, facts)
        found = heapq.nsmallest(_TRIED, itertools.chain(found, more), key=_order)
        known = [candidate for candidate in found if following is None or candidate.count < following]
        if working := _working(policies, mine, facts.request, known[tried:]):
            return working
        tried = len(known)
        if tried == _TRIED:
            break
    return []


def _candidates(
    listed: Iterable[_Allowing],
    policies: model.PolicySet,
    rounds: Mapping[model.Tier, Sequence[tuple[Difference, ...]]],
    facts: Facts,
) -> Iterator[_Candidate]:
    """Every way in which some allows would match, together with every way round what keeps them from deciding."""
    excepted = {exception.name for exception in policies.exceptions}
    for tier, policy, rule, renewal in listed:
        for lacks in rule_differences(policies, policy, rule, facts):
            if lacks and rule.id == model.EXCEPTION_RULE and policy in excepted:
                continue  # an exception is for what it was made for: it is renewed, never widened
            for way in rounds[tier]:
                changes = [*([renewal] if renewal is not None else []), *lacks, *way]
                if changes:
                    yield _candidate(changes)


def _allowing(policies: model.PolicySet, facts: Facts) -> Iterator[_Allowing]:
    """Every allow."""
    for policy in policies.policies:
        for rule in policy.rules:
            if rule.effect is Effect.ALLOW:
                yield policy.tier, policy.name, rule, None
    for exception in policies.exceptions:
        if exception.is_active(reference.time_of(facts.request)):
            yield "app", exception.name, exception.as_rule(), None
        elif facts.request.time is not None:
            yield "app", exception.name, exception.as_rule(), _renewal(exception)


def _ways_round(
    policies: model.PolicySet, service: model.Service, facts: Facts
) -> dict[model.Tier, list[tuple[Difference, ...]]]:
    """For each tier, the ways round all that keeps an allow of it from deciding, the smallest first."""
    found: dict[model.Tier, list[tuple[Difference, ...]]] = {}
    before: list[list[list[Difference]]] = []
    for tier in model.TIERS:
        denies = _exempted(policies, service, facts, tier, Effect.DENY)
        passes = _exempted(policies, service, facts, tier, Effect.PASS)
        blocking = [*before, *denies, *passes]
        ways = itertools.product(*(sorted(ways, key=_size)[:_WAYS] for ways in blocking))
        together = (tuple(itertools.chain.from_iterable(way)) for way in itertools.islice(ways, 4 * _WAYS * _WAYS))
        found[tier] = heapq.nsmallest(_WAYS, together, key=_size)
        before += denies
    return found


def _exempted(
    policies: model.PolicySet, service: model.Service, facts: Facts, tier: model.Tier, effect: Effect
) -> list[list[list[Difference]]]:
    """The ways round each rule of a tier with an effect that matches."""
    matching = set(reference.matches(policies, service, facts, tier, effect))
    return [
        exemptions(policies, policy.name, rule, facts)
        for policy in policies.policies
        for rule in policy.rules
        if (policy.name, rule.id) in matching
    ]


def _size(way: Sequence[Difference]) -> tuple[int, float]:
    return (len(way), max((change.opens for change in way), default=NOTHING))


def _renewal(exception: model.ExceptionGrant) -> Difference:
    return Difference(
        field="until",
        policy=exception.name,
        rule=model.EXCEPTION_RULE,
        span=exception.span,
        fix=f"renew exception `{exception.name}`, which has ended",
        opens=operations_breadth(exception.as_rule()),
        renews=True,
    )


def _allows(policies: model.PolicySet, request: Request, changes: Sequence[Difference]) -> bool:
    """Whether a set of changes makes the rules allow the request (tried, not inferred)."""
    asked = request
    for change in changes:
        asked = change.on_request(asked)
    changed = _changed_set(policies, request, changes)
    return reference.decide(changed, asked, snapshot="").policy_effect is Effect.ALLOW


def _changed_set(policies: model.PolicySet, request: Request, changes: Sequence[Difference]) -> model.PolicySet:
    """The policy set with the changes made that are of policy; itself when there is none."""
    changed = policies
    edits: dict[tuple[str, str], list[Difference]] = {}
    for change in changes:
        if change.renews:
            changed = _renewed(changed, change.policy, request)
        if change.edit is not None:
            edits.setdefault((change.policy, change.rule), []).append(change)
    return _edited(changed, edits) if edits else changed


def _renewed(policies: model.PolicySet, name: str, request: Request) -> model.PolicySet:
    time = reference.time_of(request)
    if time is None:
        return policies
    until = time.replace(year=time.year + 1, day=1)
    renewed = tuple(
        dataclasses.replace(item, until=until) if item.name == name else item for item in policies.exceptions
    )
    return dataclasses.replace(policies, exceptions=renewed)


def _edited(policies: model.PolicySet, edits: dict[tuple[str, str], list[Difference]]) -> model.PolicySet:
    """A policy set with rules and exceptions changed; a policy without rules is gone."""
    kept = []
    for policy in policies.policies:
        rules = tuple(
            rule for old in policy.rules if (rule := _changed(old, edits.get((policy.name, old.id), ()))) is not None
        )
        if rules:
            kept.append(policy if rules == policy.rules else dataclasses.replace(policy, rules=rules))
    exceptions = []
    for exception in policies.exceptions:
        new = _changed(exception.as_rule(), edits.get((exception.name, model.EXCEPTION_RULE), ()))
        if new is not None:
            exceptions.append(dataclasses.replace(exception, from_=new.from_, to=new.to))
    return dataclasses.replace(policies, policies=tuple(kept), exceptions=tuple(exceptions))


def _changed(rule: model.Rule, changes: Sequence[Difference]) -> model.Rule | None:
    """A rule after changes, one after the other."""
    found: model.Rule | None = rule
    for change in changes:
        assert change.edit is not None, "only edits come here"
        found = change.edit(found) if found is not None else None
    return found


def _fix(changes: Sequence[Difference]) -> Fix:
    """What is reported: the first change's rule, every field that differs, and what to do where."""
    first = changes[0]
    steps = []
    for change in changes:
        where = f" at {change.span}" if change.span is not None else ""
        place = f" in rule `{change.rule}` of policy `{change.policy}`{where}" if change.is_edit else ""
        steps.append(f"{change.fix}{place}")
    miss = NearestMiss(
        policy=first.policy,
        rule=first.rule,
        differs=tuple(change.field for change in changes),
        fix=", and ".join(dict.fromkeys(steps)),
    )
    return Fix(miss=miss, changes=tuple(changes))


def _new_rule(policies: model.PolicySet, service: model.Service, facts: Facts, request: Request) -> Fix | None:
    """The rule that nobody wrote yet, when it would work: it allows this operation of this caller."""
    operation = model.Operation(ports=(request.port,))
    if facts.method is not None and facts.path is not None:
        paths = (literal_path(request),)
        operation = dataclasses.replace(operation, methods=(facts.method,), paths=paths)
    rule = model.Rule(id="new", effect=Effect.ALLOW, from_=(model.Principal.parse(str(facts.source)),), to=(operation,))
    tiers: tuple[model.Tier, ...] = ("app", "baseline")
    for tier in tiers:
        changed = _with_rule(policies, service, tier, rule)
        if reference.decide(changed, request, snapshot="").policy_effect is Effect.ALLOW:
            what = f"{request.method} {request.path}" if request.method and request.path else f"port {request.port}"
            fix = f"add a rule to the {tier} tier that allows `{facts.source}` {what} on `{service.name}`"
            miss = NearestMiss(policy="", rule="", differs=("rule",), fix=fix)
            return Fix(miss=miss, addition=(tier, rule))
    return None


def _with_rule(
    policies: model.PolicySet, service: model.Service, tier: model.Tier, rule: model.Rule
) -> model.PolicySet:
    policy = model.Policy(name="new", owner="", service=service.name, tier=tier, rules=(rule,))
    return dataclasses.replace(policies, policies=(*policies.policies, policy))
