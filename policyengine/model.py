"""The policy model: what a policy tree says, as plain frozen values.

The loader builds it from YAML with a place for every finding; enforcers build it from the JSON of a snapshot
(`policyengine.wire`). A field that is not constrained is None, never an empty tuple: an empty tuple is refused on
construction, because a list that lost its members must not come to mean "anything". This module decides nothing.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import ipaddress
from collections.abc import Callable
from typing import Literal

from mesh.problems import Span
from mesh.request import Effect, Mode, Protocol, Request
from mesh.spiffe import SpiffeId, SpiffePattern
from policyengine.canonical import HostPattern, PathCase, PathPattern
from policyengine.issuer import Issuer

Tier = Literal["guardrail", "app", "baseline"]
TIERS: tuple[Tier, ...] = ("guardrail", "app", "baseline")
PROTOCOLS: tuple[Protocol, ...] = ("http", "grpc", "tcp")
DataPlane = Literal["auto", "native", "envoy"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
ClaimValue = str | int | bool
TOKEN_HEADERS = frozenset(("authorization",))


def _refuse_empty(owner: object, *names: str) -> None:
    """Refuse an empty tuple where None means "anything"."""
    for name in names:
        if getattr(owner, name) == ():
            raise ValueError(f"`{name}` may not be empty")


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Principal:
    """Whom a rule speaks of: `any`, a SPIFFE pattern, `group:name` or `service:name`."""

    kind: Literal["any", "spiffe", "group", "service"]
    name: str = ""
    pattern: SpiffePattern | None = None

    @classmethod
    def parse(cls, text: str) -> Principal:
        """Read a principal as it stands in a file.

        Raises ValueError with the rule that the text breaks.
        """
        if text == "any":
            return cls("any")
        if text.startswith("spiffe:"):
            return cls("spiffe", text, SpiffePattern.parse(text))
        prefix, colon, name = text.partition(":")
        if colon and name and prefix == "group":
            return cls("group", name)
        if colon and name and prefix == "service":
            return cls("service", name)
        raise ValueError("a principal is `any`, a SPIFFE ID or pattern, `group:NAME` or `service:NAME`")

    def __str__(self) -> str:
        if self.kind in {"any", "spiffe"}:
            return self.name or "any"
        return f"{self.kind}:{self.name}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A port of a service and what is spoken on it.

    ``websocket`` lets a request on an http port become a WebSocket; the request that asks for it is decided.
    """

    port: int
    protocol: Protocol
    websocket: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Something that can be called. ``until`` ends `observe`; its identities are its alone.

    ``path_case`` says whether it tells `/Admin` from `/admin`.
    """

    name: str
    owner: str
    identities: tuple[SpiffePattern, ...]
    ports: tuple[Port, ...]
    mode: Mode = Mode.ENFORCE
    until: dt.datetime | None = None
    learn: bool = False
    dataplane: DataPlane = "auto"
    path_case: PathCase = "sensitive"
    span: Span | None = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        _refuse_empty(self, "identities", "ports")
        if self.mode is Mode.OBSERVE and self.until is None:
            raise ValueError("`observe` needs `until`")

    def protocol_of(self, port: int) -> Protocol | None:
        """What is spoken on a port; None for a port the service does not declare."""
        return next((found.protocol for found in self.ports if found.port == port), None)

    def is_observed(self, now: dt.datetime | None) -> bool:
        """Whether the service is in `observe`. An unknown time ends it (design D13)."""
        return self.mode is Mode.OBSERVE and self.until is not None and now is not None and now < self.until


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What is done: fields are ANDed, the values of one field ORed; None is "anything"."""

    ports: tuple[int, ...] | None = None
    methods: tuple[str, ...] | None = None
    hosts: tuple[HostPattern, ...] | None = None
    paths: tuple[PathPattern, ...] | None = None

    def __post_init__(self) -> None:
        _refuse_empty(self, "ports", "methods", "hosts", "paths")

    @property
    def reads_request(self) -> bool:
        """Whether a field needs a parsed request (it has no meaning on a tcp port)."""
        return self.methods is not None or self.hosts is not None or self.paths is not None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClaimsCondition:
    """Claims of a verified token of one issuer: every named claim has one of its values."""

    issuer: str
    values: tuple[tuple[str, tuple[ClaimValue, ...]], ...] = ()

    def __post_init__(self) -> None:
        if any(not allowed for _, allowed in self.values):
            raise ValueError("the values of a claim may not be empty")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """A daily window [start, end) in a time zone; it wraps midnight when end is before start."""

    tz: str
    start: dt.time
    end: dt.time

    def __post_init__(self) -> None:
        if self.start == self.end:
            raise ValueError("`from` and `to` of `hours` differ")

    def contains(self, moment: dt.time) -> bool:
        """Whether a local time of day is in the window."""
        if self.start < self.end:
            return self.start <= moment < self.end
        return moment >= self.start or moment < self.end


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Tests beyond who and what; fields are ANDed, the values of one field ORed, None is no test.

    ``headers`` names are lower case. ``peer_ip`` is the address of the connection, ``forwarded_ip`` the one that a
    trusted proxy reported: two attributes. ``rego`` names a rule of the policy set's own modules.
    """

    claims: ClaimsCondition | None = None
    headers: tuple[tuple[str, tuple[str, ...]], ...] | None = None
    peer_ip: tuple[Network, ...] | None = None
    forwarded_ip: tuple[Network, ...] | None = None
    hours: Hours | None = None
    rego: str | None = None

    def __post_init__(self) -> None:
        _refuse_empty(self, "headers", "peer_ip", "forwarded_ip")
        if any(not allowed for _, allowed in self.headers or ()):
            raise ValueError("the values of a header may not be empty")
        if all(getattr(self, name) is None for name in self.__slots__):
            raise ValueError("a condition has at least one field")

    @property
    def reads_request(self) -> bool:
        """Whether a field needs a parsed request (it has no meaning on a tcp port)."""
        return self.claims is not None or self.headers is not None or self.forwarded_ip is not None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Unless:
    """What takes a case out of a rule; both fields must hold."""

    from_: tuple[Principal, ...] | None = None
    when: Conditions | None = None

    def __post_init__(self) -> None:
        _refuse_empty(self, "from_")
        if self.from_ is None and self.when is None:
            raise ValueError("`unless` has `from` or `when`")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. ``to`` None is anything on any port; ``evidence`` is the learner's JSON, carried verbatim."""

    id: str
    effect: Effect
    from_: tuple[Principal, ...]
    to: tuple[Operation, ...] | None = None
    when: Conditions | None = None
    unless: Unless | None = None
    evidence: str | None = None
    span: Span | None = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        _refuse_empty(self, "from_", "to")

    @property
    def reads_request_outside_operations(self) -> bool:
        """Whether `when` or `unless` needs a parsed request."""
        conditions = [self.when, self.unless.when if self.unless else None]
        return any(found is not None and found.reads_request for found in conditions)

    def has_meaning(self, operation: Operation | None, protocol: Protocol) -> bool:
        """Whether all fields that apply with an operation have a meaning on a port of a protocol."""
        reads = self.reads_request_outside_operations or (operation is not None and operation.reads_request)
        return protocol != "tcp" or not reads

    def reads_on(self, protocol: Protocol, service: Service) -> tuple[int, ...]:
        """The ports of a protocol, of the service that it is about, on which the rule reads requests."""
        outside = self.reads_request_outside_operations or bool(self.custom_rules())
        reading = [operation for operation in self.to or (Operation(),) if outside or operation.reads_request]
        return tuple(
            port.port
            for port in service.ports
            if port.protocol == protocol and any(found.ports is None or port.port in found.ports for found in reading)
        )

    @property
    def reads_claims(self) -> bool:
        """Whether `when` or `unless` looks at the claims of a token."""
        conditions = [self.when, self.unless.when if self.unless else None]
        return any(found is not None and found.claims is not None for found in conditions)

    def custom_rules(self) -> tuple[str, ...]:
        """The custom rules that the rule names."""
        conditions = [self.when, self.unless.when if self.unless else None]
        return tuple(found.rego for found in conditions if found is not None and found.rego is not None)

    def headers(self) -> frozenset[str]:
        """The names of the headers that the rule reads, lower case."""
        conditions = [self.when, self.unless.when if self.unless else None]
        return frozenset(name for found in conditions if found for name, _ in found.headers or ())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A named, owned document with rules about one called service."""

    name: str
    owner: str
    service: str
    tier: Tier
    rules: tuple[Rule, ...]
    span: Span | None = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        _refuse_empty(self, "rules")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A named set of principals. It may resolve to nobody."""

    name: str
    owner: str
    members: tuple[Principal, ...]
    span: Span | None = dataclasses.field(default=None, compare=False, repr=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Invariant:
    """Access that no snapshot may grant."""

    name: str
    owner: str
    from_: tuple[Principal, ...]
    service: str
    to: tuple[Operation, ...] | None = None
    span: Span | None = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        _refuse_empty(self, "from_", "to")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExceptionGrant:
    """An allow of the app tier that ends at ``until``."""

    name: str
    owner: str
    service: str
    from_: tuple[Principal, ...]
    until: dt.datetime
    reason: str
    to: tuple[Operation, ...] | None = None
    span: Span | None = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        _refuse_empty(self, "from_", "to")

    def is_active(self, now: dt.datetime | None) -> bool:
        """Whether the exception still holds. An unknown time ends it (design D13)."""
        return now is not None and now < self.until

    def as_rule(self) -> Rule:
        """The exception as the allow it stands for; its policy's name is the exception's."""
        return Rule(id=EXCEPTION_RULE, effect=Effect.ALLOW, from_=self.from_, to=self.to, span=self.span)


EXCEPTION_RULE = "exception"


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class RegoModule:
    """A file of custom rules: its path in the tree and its text."""

    path: str
    source: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Suppression:
    """A finding of lint that somebody accepts in a document: its code, why, and until when.

    ``rule`` narrows it to one rule of a Policy. ``extent`` is what it speaks of, from a place to before another one
    (lines and columns; an end of None is the end of the file).
    """

    code: str
    reason: str
    until: dt.datetime
    rule: str | None = None
    span: Span
    extent: tuple[tuple[int, int], tuple[int, int] | None]


CustomRules = Callable[[str, Request], bool | None]
"""What a custom rule, `data.package.rule`, says of a request; None is unknown."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PolicySet:
    """Everything a policy tree says.

    ``custom`` evaluates the modules in ``rego``; it is no part of what is said, and without it their rules are unknown.
    ``suppressions`` are for lint alone: they decide nothing, and no snapshot carries them.
    """

    services: tuple[Service, ...] = ()
    policies: tuple[Policy, ...] = ()
    groups: tuple[Group, ...] = ()
    invariants: tuple[Invariant, ...] = ()
    exceptions: tuple[ExceptionGrant, ...] = ()
    rego: tuple[RegoModule, ...] = ()
    issuers: tuple[Issuer, ...] = ()
    custom: CustomRules | None = dataclasses.field(default=None, compare=False, repr=False)
    suppressions: tuple[Suppression, ...] = dataclasses.field(default=(), compare=False, repr=False)
    _names: Names | None = dataclasses.field(default=None, init=False, compare=False, repr=False)
    """What resolves names in this very set, once somebody asked."""

    def __post_init__(self) -> None:
        # INVARIANT: paths about a service that ignores case are folded, wherever they came from
        folding = frozenset(found.name for found in self.services if found.path_case == "insensitive")
        if folding:
            for kind, items in _folded(self, folding).items():
                object.__setattr__(self, kind, items)

    def service_for(self, name: str) -> Service | None:
        """The service with a name, or the one a workload's SPIFFE ID belongs to."""
        if name.startswith("spiffe://"):
            try:
                identity = SpiffeId.parse(name)
            except ValueError:
                return None
            return next((found for found in self.services if any(p.matches(identity) for p in found.identities)), None)
        return next((found for found in self.services if found.name == name), None)

    def policies_for(self, service: str) -> tuple[Policy, ...]:
        """The policies about a service, by its name."""
        return tuple(found for found in self.policies if found.service == service)

    def headers_for(self, service: str) -> frozenset[str]:
        """The names of all headers that some rule about a service reads, lower case.

        Who reads claims reads the header that brings the token: two of them, or a list, are no token.
        """
        rules = [
            rule
            for policy in self.policies_for(service)
            for rule in policy.rules
            if rule.when is not None or rule.unless is not None
        ]
        found = frozenset(name for rule in rules for name in rule.headers())
        return found | TOKEN_HEADERS if any(rule.reads_claims for rule in rules) else found

    def expand(self, principals: tuple[Principal, ...]) -> Principals:
        """Resolve groups and services to patterns.

        A name that nothing defines makes the result `incomplete`: nobody in an allow, everybody in a deny.
        """
        names = self._names
        if names is None:
            names = Names(self)
            object.__setattr__(self, "_names", names)
        return names.expand(principals)

    def to_json(self) -> dict[str, object]:
        """The canonical plain JSON object: sorted by name, unconstrained fields left out."""
        from policyengine.wire import policy_set_to_json  # noqa: PLC0415  wire imports this module

        return policy_set_to_json(self)


class Names:
    """The groups and services of a policy set by their names, for who resolves many principals."""

    def __init__(self, policies: PolicySet) -> None:
        self._services = {found.name: found for found in policies.services}
        self._groups = {found.name: found for found in policies.groups}

    def expand(self, principals: tuple[Principal, ...]) -> Principals:
        """Resolve groups and services to patterns, as `PolicySet.expand` says."""
        if len(principals) == 1 and (only := principals[0].pattern) is not None:
            return Principals(is_any=False, patterns=(only,))  # most rules name one identity
        patterns: list[SpiffePattern] = []
        seen: set[str] = set()
        is_any = incomplete = False
        waiting = list(principals)
        while waiting:
            principal = waiting.pop()
            if principal.kind == "any":
                is_any = True
            elif principal.pattern is not None:
                patterns.append(principal.pattern)
            elif principal.kind == "service" and principal.name in self._services:
                patterns.extend(self._services[principal.name].identities)
            elif principal.kind == "group" and principal.name in self._groups:
                if principal.name not in seen:
                    seen.add(principal.name)
                    waiting.extend(self._groups[principal.name].members)
            else:
                incomplete = True
        if len(patterns) > 1:
            patterns = sorted(set(patterns))
        return Principals(is_any=is_any, patterns=tuple(patterns), incomplete=incomplete)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Principals:
    """Principals with groups and services resolved."""

    is_any: bool
    patterns: tuple[SpiffePattern, ...]
    incomplete: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether nobody is meant."""
        return not self.is_any and not self.patterns

    def contains(self, source: SpiffeId) -> bool:
        """Whether a verified caller is meant."""
        return self.is_any or any(pattern.matches(source) for pattern in self.patterns)


def policy_set_from_json(obj: object) -> PolicySet:
    """Read what `PolicySet.to_json` writes; strict: unknown fields, empty lists and loose ends are refused.

    Raises Invalid (LM2001) with the field and the rule that it breaks.
    """
    from policyengine.wire import read_policy_set  # noqa: PLC0415  wire imports this module

    return read_policy_set(obj)


def _folded(found: PolicySet, services: frozenset[str]) -> dict[str, tuple[object, ...]]:
    """Everything that names paths of the services, with those paths folded."""
    policies = tuple(
        dataclasses.replace(
            policy, rules=tuple(dataclasses.replace(rule, to=_folded_operations(rule.to)) for rule in policy.rules)
        )
        if policy.service in services
        else policy
        for policy in found.policies
    )
    return {
        "policies": policies,
        "invariants": tuple(
            dataclasses.replace(item, to=_folded_operations(item.to)) if item.service in services else item
            for item in found.invariants
        ),
        "exceptions": tuple(
            dataclasses.replace(item, to=_folded_operations(item.to)) if item.service in services else item
            for item in found.exceptions
        ),
    }


def _folded_operations(to: tuple[Operation, ...] | None) -> tuple[Operation, ...] | None:
    if to is None:
        return None
    return tuple(
        dataclasses.replace(operation, paths=tuple(map(_folded_pattern, operation.paths)))
        if operation.paths is not None
        else operation
        for operation in to
    )


def _folded_pattern(pattern: PathPattern) -> PathPattern:
    """The folded pattern. One that cannot be folded is refused by whoever reads a tree, and matches no path."""
    found = pattern.folded()
    return found if isinstance(found, PathPattern) else pattern
