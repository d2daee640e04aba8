"""What keeps an allow from matching a request, field by field, and the change that would close each gap.

A difference is a proposal that `policyengine.explain` tries out before anybody sees it. Rules are widened by exactly
what the request has; what a caller controls (headers, tokens, time) is changed on the request instead.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import zoneinfo
from collections.abc import Callable, Iterator

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
from policyengine.breadth import (
    NOTHING,
    callers_breadth,
    conditions_cut,
    operation_breadth,
    operations_breadth,
)
from policyengine.canonical import CanonicalPath, HostPattern, PathPattern, canonical_path, literal_text
from policyengine.reference import is_among, operation_matches

Edit = Callable[[model.Rule], model.Rule | None]
Ask = Callable[[Request], Request]


def _unchanged(request: Request) -> Request:
    return request


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One change that closes one gap: of a rule by ``edit`` (None takes it away), or of the request.

    ``opens`` is how much the change newly allows (`policyengine.breadth`).
    """

    field: str
    policy: str
    rule: str
    span: Span | None
    fix: str
    opens: float
    edit: Edit | None = None
    on_request: Ask = _unchanged
    renews: bool = False

    @property
    def is_edit(self) -> bool:
        """Whether the rule has to change, not the request."""
        return self.edit is not None


Gap = Callable[..., None]


def rule_differences(
    policies: model.PolicySet, policy: str, rule: model.Rule, facts: Facts
) -> Iterator[list[Difference]]:
    """All gaps between an allow and a request of a caller with an identity; an empty list where it matches.

    Each entry of `to` is a way of its own to close them, so there is one list for each.
    """
    found, gap = collector(policy, rule)
    spoken = policies.expand(rule.from_)
    width = callers_breadth(spoken)
    assert facts.source is not None, "the caller has an identity"
    if not spoken.contains(facts.source):
        caller = _principal(str(facts.source))
        gap(
            "from",
            f"add `{caller}` to `from`",
            operations_breadth(rule),
            lambda old: dataclasses.replace(old, from_=(*old.from_, caller)),
        )
    before = len(found)
    if rule.when is not None:
        condition_gaps(rule, rule.when, facts, gap)
    if rule.unless is not None and _is_exempt(policies, rule.unless, facts):
        _exempt_gap(policies, rule, facts, gap)
    for entry in _operation_gaps(policy, rule, facts, width):
        yield [*found[:before], *entry, *found[before:]]


def fewest_gaps(policies: model.PolicySet, rule: model.Rule, facts: Facts) -> int:
    """No list of `rule_differences` is shorter: the caller, and what the entry that lacks least lacks for sure."""
    assert facts.source is not None, "the caller has an identity"
    callers = 0 if policies.expand(rule.from_).contains(facts.source) else 1
    return callers + (0 if rule.to is None else min(len(_missing(entry, facts)) for entry in rule.to))


@functools.lru_cache(maxsize=64)
def _principal(text: str) -> model.Principal:
    """A caller as rules name it, of one request for every rule that is looked at."""
    return model.Principal.parse(text)


def collector(policy: str, rule: model.Rule) -> tuple[list[Difference], Gap]:
    """A list, and what adds a gap of a rule to it."""
    found: list[Difference] = []

    def gap(field: str, fix: str, opens: float, edit: Edit | None = None, on_request: Ask = _unchanged) -> None:
        found.append(
            Difference(
                field=field, policy=policy, rule=rule.id, span=rule.span, fix=fix, opens=opens, edit=edit,
                on_request=on_request,
            )
        )  # fmt: skip

    return found, gap


def _exempt_gap(policies: model.PolicySet, rule: model.Rule, facts: Facts, gap: Gap) -> None:
    """What takes the case out of `unless`: the caller, where it stands there by itself; else all of it."""
    unless = rule.unless
    assert unless is not None, "the caller checked it"
    caller = model.Principal.parse(str(facts.source))
    others = tuple(found for found in unless.from_ or () if found != caller)
    if unless.from_ is not None and others != unless.from_ and not is_named(policies, others, facts):
        left = dataclasses.replace(unless, from_=others) if others else None
        fix = f"take `{caller}` out of `unless.from`"
        gap("unless", fix, operations_breadth(rule), lambda old: dataclasses.replace(old, unless=left))
    else:
        spared = policies.expand(unless.from_ if unless.from_ is not None else rule.from_)
        opens = callers_breadth(spared) + operations_breadth(rule)
        gap("unless", "take the case out of `unless`", opens, lambda old: dataclasses.replace(old, unless=None))


def is_named(policies: model.PolicySet, principals: tuple[model.Principal, ...], facts: Facts) -> bool:
    """Whether the caller is, or may be, one of the principals."""
    return bool(principals) and is_among(policies, principals, facts) is not False


def _operation_gaps(policy: str, rule: model.Rule, facts: Facts, width: float) -> Iterator[list[Difference]]:
    """The gaps of each entry of `to`; one empty list when an entry matches."""
    if rule.to is None or any(operation_matches(entry, facts) is True for entry in rule.to):
        yield []
        return
    width -= conditions_cut(rule.when)
    for place, operation in enumerate(rule.to):
        found, gap = collector(policy, rule)
        if facts.is_parsed and operation.hosts is not None and not facts.host:
            host = _host_of(operation.hosts[0])
            gap("hosts", f"send the Host `{host}`", NOTHING, None, _with_host(host))
        for field, fix, added, widened in _lacks(operation, facts):
            gap(field, fix, width + operation_breadth(added), _widen(place, widened))
        yield found


Widened = Callable[[model.Operation], model.Operation]


def _widen(place: int, widened: Widened) -> Edit:
    """An edit of one entry of `to`."""

    def edit(rule: model.Rule) -> model.Rule:
        operations = rule.to or ()
        changed = tuple(widened(entry) if index == place else entry for index, entry in enumerate(operations))
        return dataclasses.replace(rule, to=changed)

    return edit


def _lacks(operation: model.Operation, facts: Facts) -> list[tuple[str, str, model.Operation, Widened]]:
    """What one entry of `to` lacks: field, fix, what that adds, and the entry without the lack."""
    found: list[tuple[str, str, model.Operation, Widened]] = []
    request = facts.request

    def lack(field: str, value: object, addition: object) -> None:
        def widened(old: model.Operation) -> model.Operation:
            return dataclasses.replace(old, **{field: (*(getattr(old, field) or ()), addition)})

        # what is added is the same entry with the new value alone in that field
        added = dataclasses.replace(operation, **{field: (addition,)})  # type: ignore[arg-type]  # a field of it
        found.append((field, f"add `{value}` to `{field}`", added, widened))

    for field in _missing(operation, facts):
        if field == "ports":
            lack(field, request.port, request.port)
        elif field == "methods":
            lack(field, facts.method, facts.method)
        elif field == "hosts":
            lack(field, facts.host, HostPattern(str(facts.host), wildcard=False))
        else:
            lack(field, literal_path(request), literal_path(request))
    # a caller whose request is read sends another Host: that is no change of a rule
    hosts = (("hosts", facts.host or None),) if not facts.is_parsed else ()
    for field, value in (("methods", facts.method), *hosts, ("paths", facts.path)):
        if getattr(operation, field) is not None and value is None:
            widened = _without(field)
            fix = f"remove `{field}`, which this request does not have"
            found.append((field, fix, widened(operation), widened))
    return found


def _missing(operation: model.Operation, facts: Facts) -> list[str]:
    """The fields of one entry of `to` that have not what the request is known to have."""
    found = []
    if operation.ports is not None and facts.request.port not in operation.ports:
        found.append("ports")
    if operation.methods is not None and facts.method is not None and facts.method not in operation.methods:
        found.append("methods")
    if operation.hosts is not None and facts.host and not any(p.matches(facts.host) for p in operation.hosts):
        found.append("hosts")
    path = facts.path
    if operation.paths is not None and path is not None and not any(p.matches(path) for p in operation.paths):
        found.append("paths")
    return found


def _host_of(pattern: HostPattern) -> str:
    """A host of a pattern."""
    return f"www.{pattern.name}" if pattern.wildcard else pattern.name


def _with_host(host: str) -> Ask:
    def ask(request: Request) -> Request:
        headers = tuple(pair for pair in request.headers if pair[0].lower() not in {"host", ":authority"})
        return known_in(request, "host", host=host, headers=headers)

    return ask


def literal_path(request: Request) -> PathPattern:
    """The pattern of a request's one path, which is known."""
    return _literal(request.path or "")


@functools.lru_cache(maxsize=64)
def _literal(target: str) -> PathPattern:
    """The pattern, of one request for every rule that is looked at."""
    canonical = canonical_path(target)
    assert isinstance(canonical, CanonicalPath), "a known path is canonical"
    return PathPattern.parse("/" + "/".join(map(literal_text, canonical.segments)))


def _without(field: str) -> Widened:
    return lambda old: dataclasses.replace(old, **{field: None})


def condition_gaps(rule: model.Rule, when: model.Conditions, facts: Facts, gap: Gap) -> None:
    """The gaps of conditions: what the caller would have to present, or when and from where to call."""
    if when.claims is not None and claims_hold(when.claims, facts) is not True:
        claims: dict[str, object] = {"iss": when.claims.issuer}
        claims.update({name: allowed[0] for name, allowed in when.claims.values})
        shown = ", ".join(f"`{name}: {allowed[0]}`" for name, allowed in when.claims.values)
        fix = f"present a token of `{when.claims.issuer}`" + (f" with {shown}" if shown else "")
        gap("claims", fix, NOTHING, None, lambda old: known_in(old, "claims", claims=claims))
    for name, allowed in when.headers or ():
        if header_holds(name, allowed, facts) is not True:
            fix = f"send the header `{name}: {allowed[0]}`"
            gap(f"headers.{name}", fix, NOTHING, None, _with_header(name, allowed[0]))
    for field, networks in (("peer_ip", when.peer_ip), ("forwarded_ip", when.forwarded_ip)):
        if networks is not None and address_holds(getattr(facts.request, field), field, networks, facts) is not True:
            address = str(networks[0].network_address)
            shown = ", ".join(map(str, networks))
            gap(field, f"call from {shown}", NOTHING, None, _with_address(field, address))
    if when.hours is not None and hours_hold(when.hours, facts) is not True:
        hours = when.hours
        window = f"{hours.start:%H:%M} and {hours.end:%H:%M} {hours.tz}"
        gap("hours", f"call between {window}", NOTHING, None, lambda old: _at(old, hours))
    if when.rego is not None and (facts.custom is None or facts.custom(when.rego, facts.request) is not True):
        fix = f"meet the custom rule `{when.rego}`, or remove it"
        gap("rego", fix, operations_breadth(rule) + 1.0, _without_rego)


def _without_rego(rule: model.Rule) -> model.Rule:
    assert rule.when is not None, "a rule with a Rego rule has a condition"
    others = dataclasses.astuple(dataclasses.replace(rule.when, rego="-"))[:-1]
    when = None if all(field is None for field in others) else dataclasses.replace(rule.when, rego=None)
    return dataclasses.replace(rule, when=when)


def known_in(request: Request, attribute: str, **changes: object) -> Request:
    """The request with an attribute that is known."""
    unknown = frozenset(name for name in request.unknown if name.partition(".")[0] != attribute)
    return dataclasses.replace(request, unknown=unknown, **changes)  # type: ignore[arg-type]  # fields of Request


def _with_header(name: str, value: str) -> Ask:
    def ask(request: Request) -> Request:
        headers = tuple(pair for pair in request.headers if pair[0].lower() != name)
        return known_in(request, "headers", headers=(*headers, (name, value)))

    return ask


def _with_address(field: str, address: str) -> Ask:
    return lambda request: known_in(request, field, **{field: address})


def _at(request: Request, hours: model.Hours) -> Request:
    """The request at the beginning of the window, on the same day."""
    try:
        zone = zoneinfo.ZoneInfo(hours.tz)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        return request
    day = request.time.astimezone(zone).date() if request.time is not None else dt.date(2026, 1, 1)
    return known_in(request, "time", time=dt.datetime.combine(day, hours.start, tzinfo=zone))


def _is_exempt(policies: model.PolicySet, unless: model.Unless, facts: Facts) -> bool:
    """Whether `unless` is not definitely false."""
    exempt = all_of(
        True if unless.from_ is None else is_among(policies, unless.from_, facts),
        True if unless.when is None else holds(unless.when, facts),
    )
    return exempt is not False
