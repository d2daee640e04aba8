"""What keeps an allow from matching a request, field by field, and the change that would close each gap.

A difference is a proposal that `policyengine.explain` tries out before anybody sees it. Rules are widened by exactly
what the request has; what a caller controls (headers, tokens, time) is changed on the request instead.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import zoneinfo
from collections.abc import Callable

from mesh.problems import Span
from mesh.request import Request
from policyengine import model
from policyengine.attributes import (
    Facts,
    address_holds,
    all_of,
    claims_hold,
    header_holds,
    holds,
    hours_hold,
)
from policyengine.canonical import CanonicalPath, HostPattern, PathPattern, canonical_path
from policyengine.reference import is_among, operation_matches

Edit = Callable[[model.Rule], model.Rule]
Ask = Callable[[Request], Request]


def _unchanged(request: Request) -> Request:
    return request


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One gap between a rule and a request. ``weight`` orders gaps: small ones first."""

    field: str
    weight: int
    policy: str
    rule: str
    span: Span | None
    fix: str
    edit: Edit | None = None
    new_rule: model.Rule | None = None
    on_request: Ask = _unchanged
    renews: bool = False

    @property
    def is_edit(self) -> bool:
        """Whether the rule has to change, not the request."""
        return self.edit is not None or self.new_rule is not None


def rule_differences(policies: model.PolicySet, policy: str, rule: model.Rule, facts: Facts) -> list[Difference]:
    """All gaps between an allow and a request of a caller with an identity; none where it matches."""
    found: list[Difference] = []

    def gap(field: str, weight: int, fix: str, edit: Edit | None = None, on_request: Ask = _unchanged) -> None:
        found.append(
            Difference(
                field=field, weight=weight, policy=policy, rule=rule.id, span=rule.span, fix=fix, edit=edit,
                on_request=on_request,
            )
        )  # fmt: skip

    if is_among(policies, rule.from_, facts) is not True:
        caller = model.Principal.parse(str(facts.source))
        gap("from", 4, f"add `{caller}` to `from`", lambda old: dataclasses.replace(old, from_=(*old.from_, caller)))
    _operation_gaps(rule, facts, gap)
    if rule.when is not None:
        _condition_gaps(rule.when, facts, gap)
    if rule.unless is not None and _is_exempt(policies, rule.unless, facts):
        gap("unless", 3, "take the case out of `unless`", lambda old: dataclasses.replace(old, unless=None))
    return found


Gap = Callable[..., None]


def _operation_gaps(rule: model.Rule, facts: Facts, gap: Gap) -> None:
    """The gaps of the entry of `to` that lacks least."""
    if rule.to is None:
        return
    places = range(len(rule.to))
    if any(operation_matches(rule.to[place], facts) is True for place in places):
        return
    lacking = {place: _lacks(rule.to[place], facts) for place in places}
    place = min(places, key=lambda index: (sum(weight for _, weight, _, _ in lacking[index]), index))
    for field, weight, fix, widened in lacking[place]:
        gap(field, weight, fix, _widen(place, widened))


Widened = Callable[[model.Operation], model.Operation]


def _widen(place: int, widened: Widened) -> Edit:
    """An edit of one entry of `to`."""

    def edit(rule: model.Rule) -> model.Rule:
        operations = rule.to or ()
        changed = tuple(widened(entry) if index == place else entry for index, entry in enumerate(operations))
        return dataclasses.replace(rule, to=changed)

    return edit


def _lacks(operation: model.Operation, facts: Facts) -> list[tuple[str, int, str, Widened]]:
    """What one entry of `to` lacks: field, weight, fix, and the entry without the lack."""
    found: list[tuple[str, int, str, Widened]] = []
    request = facts.request

    def lack(field: str, weight: int, value: object, addition: object) -> None:
        def widened(old: model.Operation) -> model.Operation:
            return dataclasses.replace(old, **{field: (*(getattr(old, field) or ()), addition)})

        found.append((field, weight, f"add `{value}` to `{field}`", widened))

    if operation.ports is not None and request.port not in operation.ports:
        lack("ports", 2, request.port, request.port)
    if operation.methods is not None and facts.method is not None and facts.method not in operation.methods:
        lack("methods", 1, facts.method, facts.method)
    if operation.hosts is not None and facts.host and not any(p.matches(facts.host) for p in operation.hosts):
        lack("hosts", 2, facts.host, HostPattern(facts.host, wildcard=False))
    if operation.paths is not None and facts.path is not None:
        path = facts.path
        if not any(pattern.matches(path) for pattern in operation.paths):
            canonical = canonical_path(request.path or "")
            assert isinstance(canonical, CanonicalPath), "a known path is canonical"
            literal = canonical.text.replace("*", "%2A").replace("{", "%7B").replace("}", "%7D")
            lack("paths", 2, literal, PathPattern.parse(literal))
    for field, value in (("methods", facts.method), ("hosts", facts.host or None), ("paths", facts.path)):
        if getattr(operation, field) is not None and value is None:
            found.append((field, 6, f"remove `{field}`, which this request does not have", _without(field)))
    return found


def _without(field: str) -> Widened:
    return lambda old: dataclasses.replace(old, **{field: None})


def _condition_gaps(when: model.Conditions, facts: Facts, gap: Gap) -> None:
    """The gaps of `when`: what the caller would have to present, or when and from where to call."""
    if when.claims is not None and claims_hold(when.claims, facts) is not True:
        claims: dict[str, object] = {"iss": when.claims.issuer}
        claims.update({name: allowed[0] for name, allowed in when.claims.values})
        shown = ", ".join(f"`{name}: {allowed[0]}`" for name, allowed in when.claims.values)
        fix = f"present a token of `{when.claims.issuer}`" + (f" with {shown}" if shown else "")
        gap("claims", 3, fix, None, lambda old: _known(old, "claims", claims=claims))
    for name, allowed in when.headers or ():
        if header_holds(name, allowed, facts) is not True:
            gap(f"headers.{name}", 2, f"send the header `{name}: {allowed[0]}`", None, _with_header(name, allowed[0]))
    for field, networks in (("peer_ip", when.peer_ip), ("forwarded_ip", when.forwarded_ip)):
        if networks is not None and address_holds(getattr(facts.request, field), field, networks, facts) is not True:
            address = str(networks[0].network_address)
            shown = ", ".join(map(str, networks))
            gap(field, 3, f"call from {shown}", None, _with_address(field, address))
    if when.hours is not None and hours_hold(when.hours, facts) is not True:
        hours = when.hours
        window = f"{hours.start:%H:%M} and {hours.end:%H:%M} {hours.tz}"
        gap("hours", 2, f"call between {window}", None, lambda old: _at(old, hours))
    if when.rego is not None and (facts.custom is None or facts.custom(when.rego, facts.request) is not True):
        gap("rego", 5, f"meet the custom rule `{when.rego}`, or remove it", _without_rego)


def _without_rego(rule: model.Rule) -> model.Rule:
    assert rule.when is not None, "a rule with a Rego rule has a condition"
    others = dataclasses.astuple(dataclasses.replace(rule.when, rego="-"))[:-1]
    when = None if all(field is None for field in others) else dataclasses.replace(rule.when, rego=None)
    return dataclasses.replace(rule, when=when)


def _known(request: Request, attribute: str, **changes: object) -> Request:
    """The request with an attribute that is known."""
    unknown = frozenset(name for name in request.unknown if name.partition(".")[0] != attribute)
    return dataclasses.replace(request, unknown=unknown, **changes)  # type: ignore[arg-type]  # fields of Request


def _with_header(name: str, value: str) -> Ask:
    def ask(request: Request) -> Request:
        headers = tuple(pair for pair in request.headers if pair[0].lower() != name)
        return _known(request, "headers", headers=(*headers, (name, value)))

    return ask


def _with_address(field: str, address: str) -> Ask:
    return lambda request: _known(request, field, **{field: address})


def _at(request: Request, hours: model.Hours) -> Request:
    """The request at the beginning of the window, on the same day."""
    try:
        zone = zoneinfo.ZoneInfo(hours.tz)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        return request
    day = request.time.astimezone(zone).date() if request.time is not None else dt.date(2026, 1, 1)
    return _known(request, "time", time=dt.datetime.combine(day, hours.start, tzinfo=zone))


def _is_exempt(policies: model.PolicySet, unless: model.Unless, facts: Facts) -> bool:
    """Whether `unless` is not definitely false."""
    exempt = all_of(
        True if unless.from_ is None else is_among(policies, unless.from_, facts),
        True if unless.when is None else holds(unless.when, facts),
    )
    return exempt is not False
