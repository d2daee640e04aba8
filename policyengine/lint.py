"""What works in a policy tree and will bite: rules without effect, denies that hang on the caller, open doors.

Errors are the loader's business. Every lint here is sure of what it says: a rule is called shadowed only where others
decide every request that it matches, unknown attributes included (`policyengine.shadowing`). What recorded traffic and
known workloads add is asked for only when they are given. This module changes nothing.
"""

from __future__ import annotations

import datetime as dt
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mesh.clock import format_time
from mesh.flow import Flow
from mesh.problems import Diagnostic, Severity, Span
from mesh.request import Effect, Mode
from mesh.uncollected import uncollected
from policyengine import model
from policyengine.authzen import ISSUER as SAID
from policyengine.compile.allowed import INVALID_TOKEN
from policyengine.idle import idle as find_idle
from policyengine.idle import unnamed
from policyengine.ir import Grant, ServiceForm, normalise
from policyengine.loader import KeptFiles, load_tree
from policyengine.reading import did_you_mean
from policyengine.shadowing import Shadowing
from policyengine.suppression import Report, by_place, settle
from policyengine.usage import Known, by_service, unused

WITHOUT_WORKLOADS = frozenset({"LM2116", "LM2117", "LM2118"})
WITHOUT_FLOWS = frozenset({"LM2119"})
_COVERED = {"shadowed": "LM2104", "redundant": "LM2106", "unreachable": "LM2111"}
_NAMED = 3


def lint_tree(
    tree: pathlib.Path | str,
    now: dt.datetime,
    *,
    known: Known | None = None,
    flows: Iterable[Flow] | None = None,
    kept: KeptFiles | None = None,
) -> Report:
    """All findings about a policy tree: the loader's, and the lints where it has no error.

    ``known`` are the workloads that there are, ``flows`` what was recorded; without them nothing is said about either.
    ``kept`` has the files that were read already, and those that are read now.
    """
    policies, found = load_tree(tree, kept)
    if any(item.severity is Severity.ERROR for item in found):
        return Report(findings=tuple(sorted(found, key=by_place)))
    unasked = (WITHOUT_WORKLOADS if known is None else frozenset()) | (WITHOUT_FLOWS if flows is None else frozenset())
    with uncollected():
        found += lint(policies, now, known=known, flows=flows)
    return settle(found, policies.suppressions, now, unasked=unasked)


def lint(
    policies: model.PolicySet,
    now: dt.datetime,
    *,
    known: Known | None = None,
    flows: Iterable[Flow] | None = None,
) -> list[Diagnostic]:
    """The lints of a policy set, those that were suppressed among them."""
    recorded = None
    if flows is not None:
        recorded = by_service(flows, [(service.name, service.identities) for service in policies.services])
    parts = _parts(policies)
    found = [*_owners(policies), *_expired(policies, now)]
    for service in policies.services:
        form = normalise(parts[service.name], service)
        found += _service(form, now)
        found += _effects(form, now)
        is_somebody = known is None or any(known.has_any(pattern) for pattern in service.identities)
        if recorded is not None and is_somebody:  # rules of a service that nobody is are its own finding
            found += _unused(form, now, recorded.get(service.name, ()))
    for policy in policies.policies:
        for rule in policy.rules:
            found += _rule(policies, policy, rule)
    if known is not None:
        found += _unknown(policies, known)
    return found


def _parts(policies: model.PolicySet) -> dict[str, model.PolicySet]:
    """For each service the set with its own policies and exceptions alone: nobody searches the others for them."""
    own: dict[str, list[model.Policy]] = {}
    excepted: dict[str, list[model.ExceptionGrant]] = {}
    for policy in policies.policies:
        own.setdefault(policy.service, []).append(policy)
    for exception in policies.exceptions:
        excepted.setdefault(exception.service, []).append(exception)
    return {
        service.name: model.PolicySet(
            services=policies.services,
            groups=policies.groups,
            policies=tuple(own.get(service.name, ())),
            exceptions=tuple(excepted.get(service.name, ())),
            rego=policies.rego,
        )
        for service in policies.services
    }


def _finding(code: str, span: Span | None, facts: Mapping[str, object]) -> Diagnostic:
    return Diagnostic(code=code, span=span, facts=dict(facts))


def _owners(policies: model.PolicySet) -> Iterator[Diagnostic]:
    """Services, policies and exceptions without an owner: nobody could approve a change, or be asked."""
    owned: tuple[tuple[str, tuple[model.Service | model.Policy | model.ExceptionGrant, ...]], ...] = (
        ("service", policies.services),
        ("policy", policies.policies),
        ("exception", policies.exceptions),
    )
    for kind, items in owned:
        for item in items:
            if not item.owner:
                yield _finding("LM2100", item.span, {"kind": kind, "name": item.name})


def _expired(policies: model.PolicySet, now: dt.datetime) -> Iterator[Diagnostic]:
    """What has ended and still stands there."""
    for exception in policies.exceptions:
        if not exception.is_active(now):
            facts = {"exception": exception.name, "until": format_time(exception.until)}
            yield _finding("LM2114", exception.span, facts)
    for service in policies.services:
        if service.mode is Mode.OBSERVE and service.until is not None and not service.is_observed(now):
            yield _finding("LM2115", service.span, {"service": service.name, "until": format_time(service.until)})


def _service(form: ServiceForm, now: dt.datetime) -> Iterator[Diagnostic]:
    """What is wrong with a service as a whole."""
    service = form.service
    if not any(grant.effect is Effect.ALLOW for grant in form.grants):
        yield _finding("LM2101", service.span, {"service": service.name})
    if service.mode is Mode.OBSERVE and service.is_observed(now):
        assert service.until is not None, "a service that observes has an end"
        yield _finding("LM2109", service.span, {"service": service.name, "until": format_time(service.until)})


def _effects(form: ServiceForm, now: dt.datetime) -> Iterator[Diagnostic]:
    """Rules that others leave nothing to decide, and rules of two tiers that contradict each other."""
    ended = [grant for grant in form.grants if (grant.until is not None and now >= grant.until) or _spares_all(grant)]
    for grant in ended:
        if grant.until is None:
            yield _finding("LM2123", grant.span, {"rule": grant.rule, "policy": grant.policy})
    shadowing = Shadowing(form, ended)
    covered = shadowing.covered()
    covered += find_idle(form, shadowing, [*ended, *(item.grant for item in covered)], now)
    covered += unnamed(form, [*ended, *(item.grant for item in covered)], now)
    for item in covered:
        facts = {"rule": item.grant.rule, "policy": item.grant.policy, "by": _named(item.by)}
        yield _finding(_COVERED[item.kind], item.grant.span, facts)
    for conflict in shadowing.conflicts(item.grant for item in covered):
        yield _finding(
            "LM2112",
            conflict.grant.span,
            {
                "rule": conflict.grant.rule,
                "policy": conflict.grant.policy,
                "tier": conflict.grant.tier,
                "effect": str(conflict.grant.effect),
                "by": _named((conflict.by,)),
                "opposite": str(conflict.by.effect),
                "by_tier": conflict.by.tier,
                "part": conflict.part,
            },
        )


def _named(grants: Sequence[Grant]) -> str:
    """Rules as people find them: policy, rule, file and line; the first few of many."""
    shown = []
    for grant in grants[:_NAMED]:
        where = f" ({grant.span.file}:{grant.span.line})" if grant.span is not None else ""
        shown.append(f"`{grant.policy}/{grant.rule}`{where}")
    more = f" and {len(grants) - _NAMED} more" if len(grants) > _NAMED else ""
    return ", ".join(shown) + more


def _spares_all(grant: Grant) -> bool:
    """Whether `unless` takes every caller out of a rule."""
    spared = grant.unless_callers
    if spared is None or grant.unless_when is not None or grant.callers.is_empty or grant.callers.incomplete:
        return False
    if spared.is_any:
        return True
    held = {str(found) for found in spared.patterns}
    return not grant.callers.is_any and all(
        bool(held & {str(pattern), *_above(str(pattern.id))}) for pattern in grant.callers.patterns
    )


def _above(text: str) -> Iterator[str]:
    """The subtrees that hold an ID and everything below it."""
    while text.count("/") > 2:
        text = text.rpartition("/")[0]
        yield f"{text}/**"


def _unused(form: ServiceForm, now: dt.datetime, recorded: Sequence[Flow]) -> Iterator[Diagnostic]:
    """Allows and passes that no recorded request can have matched; a deny that nobody ran into does its work."""
    for grant in unused(form, recorded):
        if grant.effect is Effect.DENY or (grant.until is not None and now >= grant.until):
            continue
        facts = {"rule": grant.rule, "policy": grant.policy, "service": form.service.name, "count": len(recorded)}
        yield _finding("LM2119", grant.span, facts)


def _rule(policies: model.PolicySet, policy: model.Policy, rule: model.Rule) -> Iterator[Diagnostic]:
    """What is wrong with a rule by itself."""
    facts: dict[str, object] = {"rule": rule.id, "policy": policy.name}
    callers = policies.expand(rule.from_)
    if callers.is_empty:
        yield _finding("LM2102" if rule.effect is Effect.ALLOW else "LM2103", rule.span, facts)
    if rule.effect is Effect.DENY and rule.when is not None:
        reads = _left_out(rule.when)
        if reads:
            yield _finding("LM2105", rule.span, {**facts, "reads": reads})
    yield from _reads_grpc(policies, policy, rule)
    yield from _undeclared(policies, rule, facts)
    if rule.effect is Effect.PASS and policy.tier == "baseline":
        yield _finding("LM2107", rule.span, facts)
    if rule.effect is Effect.ALLOW:
        wide = ["any"] if callers.is_any else [str(p) for p in callers.patterns if p.subtree and not p.id.path]
        if wide:
            yield _finding("LM2108", rule.span, {**facts, "who": wide[0]})
        elif _is_unlimited(policies, policy, rule):
            below = [str(found) for found in callers.patterns if found.subtree]
            if below:
                yield _finding("LM2113", rule.span, {**facts, "who": below[0], "service": policy.service})
        if policy.tier == "guardrail":
            yield _finding("LM2110", rule.span, facts)


def _undeclared(policies: model.PolicySet, rule: model.Rule, facts: Mapping[str, object]) -> Iterator[Diagnostic]:
    """(LM2127) The issuers that a rule names and nothing declares; `issuer` is compared letter by letter.

    Where no issuer is declared at all no token verifies, and so it is said as well. What a caller of the AuthZEN API
    says of people is nobody's token, and who means any token that does not verify names an issuer that nobody is:
    neither is declared.
    """
    if not rule.reads_claims:
        return
    declared = [found.issuer for found in policies.issuers]
    conditions = (rule.when, rule.unless.when if rule.unless is not None else None)
    named = (found.claims.issuer for found in conditions if found is not None and found.claims is not None)
    for issuer in dict.fromkeys(named):
        if issuer not in declared and issuer != INVALID_TOKEN and not issuer.startswith(SAID):
            hint = did_you_mean(issuer, declared)
            yield _finding("LM2127", rule.span, {**facts, "issuer": issuer, "hint": hint})


def needs_envoy(policies: model.PolicySet) -> list[Diagnostic]:
    """The rules that native sidecars cannot enforce, so that they deny the port (LM2126)."""
    rules = [(policy, rule) for policy in policies.policies for rule in policy.rules]
    return [found for policy, rule in rules for found in _reads_grpc(policies, policy, rule)]


def _reads_grpc(policies: model.PolicySet, policy: model.Policy, rule: model.Rule) -> Iterator[Diagnostic]:
    """(LM2126) A service that asks for native sidecars has an error already."""
    service = next((found for found in policies.services if found.name == policy.service), None)
    if service is not None and service.dataplane == "auto" and (ports := rule.reads_on("grpc", service)):
        facts = {"rule": rule.id, "service": service.name, "port": ports[0]}
        yield _finding("LM2126", rule.span, facts)


def _is_unlimited(policies: model.PolicySet, policy: model.Policy, rule: model.Rule) -> bool:
    """Whether an allow is for every request on a port where requests can be told apart."""
    if rule.when is not None or rule.unless is not None:
        return False
    service = next((found for found in policies.services if found.name == policy.service), None)
    parsed = {port.port for port in service.ports if port.protocol != "tcp"} if service is not None else set()
    for operation in rule.to or (model.Operation(),):
        is_all = operation.paths is None or any(path.subtree and not path.segments for path in operation.paths)
        if is_all and operation.methods is None and parsed & set(operation.ports or parsed):
            return True
    return False


def _left_out(when: model.Conditions) -> str:
    """What a condition reads that the caller can leave out."""
    names = ["a token"] if when.claims is not None else []
    names += [f"the header `{name}`" for name, _ in when.headers or ()]
    return " and ".join(names)


def _unknown(policies: model.PolicySet, known: Known) -> Iterator[Diagnostic]:
    """Services that nobody is, and rules for callers that nobody is.

    A deny for a whole subtree is a precaution; one for an exact identity that nobody has is a slip.
    """
    for service in policies.services:
        if not any(known.has_any(pattern) for pattern in service.identities):
            shown = ", ".join(map(str, service.identities))
            yield _finding("LM2118", service.span, {"service": service.name, "who": shown})
    rules = [(policy.name, rule) for policy in policies.policies for rule in policy.rules]
    rules += [(exception.name, exception.as_rule()) for exception in policies.exceptions]
    nobody: dict[tuple[model.Principal, bool], bool] = {}
    for policy, rule in rules:
        denies = rule.effect is Effect.DENY
        unmet = []
        for principal in rule.from_:
            key = (principal, denies)
            if key not in nobody:
                nobody[key] = _is_nobody(policies.expand((principal,)), known, denies=denies)
            if nobody[key]:
                unmet.append(str(principal))
        if unmet:
            code = "LM2116" if len(unmet) == len(rule.from_) else "LM2117"
            shown = ", ".join(unmet[:_NAMED]) + (f" and {len(unmet) - _NAMED} more" if len(unmet) > _NAMED else "")
            yield _finding(code, rule.span, {"rule": rule.id, "policy": policy, "who": shown, "count": len(known)})


def _is_nobody(callers: model.Principals, known: Known, *, denies: bool) -> bool:
    if callers.is_any or callers.incomplete or callers.is_empty:
        return False  # everybody, or a finding of its own
    if denies and any(pattern.subtree for pattern in callers.patterns):
        return False
    return not any(known.has_any(pattern) for pattern in callers.patterns)
