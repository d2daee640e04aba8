"""What the sidecar thinks of a connection or a request: one active snapshot, one candidate beside it, fail closed.

The called service and its port come from the listener, the caller from its verified certificate; nothing a caller
sends has a say in either. The rules are `policyengine.decide`'s. This module does no I/O and holds no clock.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import NamedTuple

from enforcer.native.http1 import RequestHead
from enforcer.native.tokens import Tokens, UnknownClaims
from mesh.request import Decision, Effect, Mode, Request
from policyengine.canonical import CanonicalPath, canonical_path
from policyengine.decide import INTERNAL_ERROR, Index, Plainly
from policyengine.issuer import Issuer
from policyengine.model import TOKEN_HEADERS, PolicySet
from policyengine.parts import Part
from policyengine.tiers import PortTier, choose_tiers, combine
from policyengine.wire import read_policy_set

NO_POLICY = "LM3200"
BROKEN = "LM3201"
NEEDS_ENVOY = "LM3202"

_UNKNOWN_CLAIMS = frozenset(("claims",))
_UNKNOWN_HOST = frozenset(("host",))
# how many answers are remembered where nothing but caller, port, method, host and target decides
MAX_ANSWERS = 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """A snapshot's policies, ready to decide."""

    snapshot: str
    policies: PolicySet
    index: Index

    @classmethod
    def from_json(cls, snapshot: str, policies: object) -> Rules:
        """Build from what the agent sends.

        Raises Invalid (LM2001) when the policies are malformed.
        """
        return cls.of(snapshot, read_policy_set(policies))

    @classmethod
    def of(cls, snapshot: str, policies: PolicySet, before: Rules | None = None) -> Rules:
        """Build from policies that were read; what did not change since ``before`` is kept as it was built."""
        index = Index(policies, snapshot, None if before is None else before.index)
        return cls(snapshot=snapshot, policies=policies, index=index)

    def about(self, service: str) -> Part | None:
        """What the policies hold about a service, by its name or a workload's identity."""
        found = self.policies.service_for(service)
        return None if found is None else self.index.part(found.name)


def _is_same(ours: Part | None, theirs: Part | None) -> bool:
    return ours is theirs if ours is None or theirs is None else ours.is_same(theirs)


class Judgement(NamedTuple):
    """A decision, the candidate's beside it, and the one spelling of the target that may be sent on.

    ``subject`` is that of the token that was verified for it, for the record, where it is masked.
    """

    decision: Decision
    candidate: Decision | None
    target: str
    path: str
    subject: str = ""


@dataclasses.dataclass(slots=True)
class _Alike:
    """What decides the requests that differ in their target alone, and what it said; None where it takes more."""

    active: Plainly | None
    candidate: Plainly | None
    answers: dict[str, Judgement] = dataclasses.field(default_factory=dict)


class Judge:
    """Decides for one workload."""

    def __init__(self, own: str, active: Rules | None, candidate: Rules | None, tokens: Tokens | None = None) -> None:
        self._own, self._active, self._candidate = own, active, candidate
        self._tokens = tokens or Tokens()
        self._tiers: dict[int, PortTier] = {}
        self._websockets: frozenset[int] = frozenset()
        self._https: frozenset[int] = frozenset()
        self._alike: dict[tuple[str, int, str, str], _Alike] = {}
        self._answers = 0
        self._is_plain: bool | None = None
        self._headers: frozenset[str] = frozenset()
        self._needs_all = False
        for rules in (active, candidate):
            # a custom rule may read any header
            self._needs_all |= rules is not None and rules.policies.custom is not None
            service = rules.policies.service_for(own) if rules is not None else None
            if rules is not None and service is not None:
                self._headers |= rules.policies.headers_for(service.name)
        # a custom rule may look at claims too
        self._reads_claims = self._needs_all or not self._headers.isdisjoint(TOKEN_HEADERS)
        if active is not None and (service := active.policies.service_for(own)) is not None:
            beside = choose_tiers(candidate.policies) if candidate is not None else None
            self._tiers = combine(choose_tiers(active.policies), beside)[service.name]
            self._websockets = frozenset(port.port for port in service.ports if port.websocket)
            self._https = frozenset(port.port for port in service.ports if port.protocol == "http")

    def of(self, own: str) -> Judge:
        """The same rules for another name of the workload."""
        return Judge(own, self._active, self._candidate, self._tokens)

    @property
    def snapshot(self) -> str:
        """The active snapshot's hash; empty while there is none."""
        return self._active.snapshot if self._active is not None else ""

    def tier(self, port: int) -> PortTier:
        """What has to look at a port's bytes. Where nothing is declared the connection alone is decided, and denied."""
        return self._tiers.get(port, PortTier.L4)

    def reads_field(self, name: str) -> bool:
        """Whether a rule of the active or the candidate snapshot may read a field of this lower-case name."""
        return self._needs_all or name in self._headers

    def takes_websocket(self, port: int) -> bool:
        """Whether requests on a port may become WebSockets, by the active policies."""
        return port in self._websockets

    def is_member(self, identity: str, service: str) -> bool:
        """Whether a verified identity belongs to a called service: by the active policies, or by being the very ID."""
        if service.startswith("spiffe://"):
            return identity == service
        if self._active is None:
            return False
        found = self._active.policies.service_for(identity)
        return found is not None and found.name == service

    def speaks_http(self, service: str, port: int | None) -> bool:
        """Whether all ports of a called service, or the one that is given, are declared to speak HTTP/1.1."""
        found = self._active.policies.service_for(service) if self._active is not None else None
        ports = [item for item in found.ports if port is None or item.port == port] if found is not None else []
        return bool(ports) and all(item.protocol == "http" for item in ports)

    def is_http(self, port: int) -> bool:
        """Whether a port of the workload's own is declared to speak HTTP/1.1."""
        return port in self._https

    def says_the_same(self, other: Judge, service: str) -> bool:
        """Whether the active policies of two judges hold the very same about a called service."""
        ours, theirs = self._active, other._active
        if ours is None or theirs is None or ours is theirs:
            return ours is theirs
        return _is_same(ours.about(service), theirs.about(service)) and ours.policies.issuers == theirs.policies.issuers

    def connection(self, *, source: str, port: int, peer_ip: str, now: dt.datetime | None) -> Judgement:
        """Decide about a connection, of which nothing is known but its ends.

        A port that only Envoy can enforce is denied here.
        """
        request = Request(service=self._own, port=port, protocol="tcp", source=source, peer_ip=peer_ip, time=now)
        if self.tier(port) is PortTier.ENVOY:
            return Judgement(denied(NEEDS_ENVOY, self.snapshot), None, "", "")
        return self._judge(request, "", "")

    def request(
        self,
        head: RequestHead,
        *,
        source: str,
        port: int,
        peer_ip: str,
        now: dt.datetime | None,
        certificate: str = "",
        is_grpc: bool = False,
    ) -> Judgement:
        """Decide about a request, of gRPC where its target is a method's name and nobody tells its host.

        1. Policies see what will be sent on: the end-to-end fields without the identity fields, the raw target.
        2. Where a rule may look at claims, the token is verified, by the issuers of the snapshot that decides; one that
           does not verify makes claims unknown, never absent.
        3. The canonical target is sent on; an ambiguous one, which only `observe` lets through, as it came.

        Where no rule has a condition the answer hangs on caller, port, method, host and target alone: what the first
        four lead to is looked up once, and answers are remembered, for as long as these rules hold.
        """
        if self._is_plain is None:
            self._is_plain = self._decides_plainly()
        if is_grpc or not self._is_plain:
            return self._request(head, source, port, peer_ip, now, certificate, is_grpc=is_grpc)
        target = head.target
        alike = self._alike.get((source, port, head.method, head.host))
        if alike is not None and (known := alike.answers.get(target)) is not None:
            return known
        found = None if alike is None else self._by_path(alike, target)
        if found is None:
            found = self._request(head, source, port, peer_ip, now, certificate)
        if found.decision.code not in _NOT_KEPT:
            if self._answers >= MAX_ANSWERS:
                self._answers = 0
                self._alike.clear()
            if alike is None or self._answers == 0:
                alike = self._alike[source, port, head.method, head.host] = self._look_up(head, source, port)
            self._answers += 1
            alike.answers[target] = found
        return found

    def _look_up(self, head: RequestHead, source: str, port: int) -> _Alike:
        """What all requests with the same caller, port, method and host come to, before their path is looked at."""
        request = Request(
            service=self._own, port=port, protocol="http", source=source, method=head.method, host=head.host, path="/"
        )
        try:
            active, candidate = (
                None if rules is None else rules.index.plainly(request) for rules in (self._active, self._candidate)
            )
        except Exception:  # noqa: BLE001  the edge of the decision point: what decides whole requests denies
            return _Alike(None, None)
        return _Alike(active, candidate)

    def _by_path(self, alike: _Alike, target: str) -> Judgement | None:
        """Decide about a target by what was looked up; None where that takes a whole request."""
        if alike.active is None or (alike.candidate is None) is not (self._candidate is None):
            return None
        path = canonical_path(target)
        if not isinstance(path, CanonicalPath):
            return None
        try:
            decision = alike.active.decide(path.segments)
            beside = None if alike.candidate is None else alike.candidate.decide(path.segments)
        except Exception:  # noqa: BLE001  the edge of the decision point: what decides whole requests denies
            return None
        if decision is None or (alike.candidate is not None and beside is None):
            return None
        return Judgement(decision, beside, path.target, path.text)

    def _decides_plainly(self) -> bool:
        """Whether no header, claim, address, time or custom rule has a say in what either snapshot decides."""
        if self._headers or self._needs_all or self._reads_claims:
            return False
        try:
            return all(rules is None or rules.index.is_plain(self._own) for rules in (self._active, self._candidate))
        except Exception:  # noqa: BLE001  what cannot be told is not remembered
            return False

    def _request(
        self,
        head: RequestHead,
        source: str,
        port: int,
        peer_ip: str,
        now: dt.datetime | None,
        certificate: str,
        *,
        is_grpc: bool = False,
    ) -> Judgement:
        # (1)
        headers: tuple[tuple[str, str], ...] = ()
        if self._headers or self._needs_all:
            headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in head.fields)
        request = Request(
            service=self._own,
            port=port,
            protocol="grpc" if is_grpc else "http",
            source=source,
            method=head.method,
            host=None if is_grpc else head.host,
            path=head.target,
            headers=headers,
            peer_ip=peer_ip,
            time=now,
            unknown=_UNKNOWN_HOST if is_grpc else frozenset(),
        )
        # (2)
        asked = beside = request
        if not self._is_plain:  # else nobody looks at claims
            caller = _Caller(source, certificate, now)
            asked = beside = self._with_claims(request, head, self._active, caller)
            if self._candidate is not None and _issuers(self._candidate) != _issuers(self._active):
                beside = self._with_claims(request, head, self._candidate, caller)
        # (3)
        path = canonical_path(head.target)
        if isinstance(path, CanonicalPath):
            return self._judge(asked, path.target, path.text, beside)
        return self._judge(asked, head.target, head.target.partition("?")[0], beside)

    def _with_claims(self, request: Request, head: RequestHead, rules: Rules | None, caller: _Caller) -> Request:
        """The request with what its token says by the issuers of a snapshot."""
        if not self._reads_claims:
            if any(name.lower() == b"authorization" for name, _ in head.fields):
                return dataclasses.replace(request, unknown=request.unknown | _UNKNOWN_CLAIMS)
            return request
        try:
            claims = self._tokens.claims(
                head.fields,
                head.target,
                _issuers(rules),
                source=caller.source,
                certificate=caller.certificate,
                now=caller.now,
            )
        except UnknownClaims:
            return dataclasses.replace(request, unknown=request.unknown | _UNKNOWN_CLAIMS)
        return request if claims is None else dataclasses.replace(request, claims=claims)

    def _judge(self, request: Request, target: str, path: str, beside: Request | None = None) -> Judgement:
        active = _decide(self._active, request)
        candidate = _decide(self._candidate, beside or request) if self._candidate is not None else None
        subject = request.claims.get("sub") if request.claims is not None else None
        return Judgement(active, candidate, target, path, subject if isinstance(subject, str) else "")


_NOT_KEPT = frozenset((BROKEN, INTERNAL_ERROR))


@dataclasses.dataclass(frozen=True, slots=True)
class _Caller:
    """Who presents a token, with which certificate, and when."""

    source: str
    certificate: str
    now: dt.datetime | None


def _issuers(rules: Rules | None) -> tuple[Issuer, ...]:
    return () if rules is None else rules.policies.issuers


def denied(code: str, snapshot: str = "") -> Decision:
    """A denial that no rule made."""
    return Decision(
        effect=Effect.DENY, policy_effect=Effect.DENY, mode=Mode.ENFORCE, snapshot=snapshot, tier="", policy="",
        rule="", code=code,
    )  # fmt: skip


def _decide(rules: Rules | None, request: Request) -> Decision:
    """Decide, or deny: without policies, and when deciding itself fails (design D13)."""
    if rules is None:
        return denied(NO_POLICY)
    try:
        return rules.index.decide(request)
    except Exception:  # noqa: BLE001  the edge of the decision point: a bug there must not let anybody in
        return denied(BROKEN, rules.snapshot)
