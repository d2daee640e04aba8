"""What every compiler of another program's policies shares: its result, its findings, and who is who over there.

Kubernetes knows a workload by namespace, service account and labels, a host firewall by addresses. The mapping is
plain: `/ns/NS/sa/SA` of the cluster's trust domain is the service account SA of namespace NS, `/ns/NS/**` the
namespace, the trust domain the whole cluster; labels and addresses come from a list of workloads. What has no mapping
is refused by name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import yaml

from mesh.problems import Diagnostic, Span
from mesh.spiffe import SpiffeId, SpiffePattern, TrustDomain
from policyengine.compile.allowed import Allowed, Piece, TooManyPieces, allowed_of
from policyengine.compile.boxes import Box
from policyengine.ir import normalise
from policyengine.model import PolicySet, Service

REFUSED, STRICTER, NEEDED, UNMAPPED = "LM2510", "LM2511", "LM2512", "LM2513"
_DNS = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")

EXPERIMENTAL = "Experimental: no export of this kind was ever applied to a system that runs."
"""Of the exports that are held to models and schemas alone."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What the list of workloads says of an identity: Kubernetes labels, addresses, a name in Consul."""

    labels: tuple[tuple[str, str], ...] = ()
    addresses: tuple[str, ...] = ()
    consul: str | None = None


Workloads = Mapping[SpiffeId, Workload]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """The files of a target, by name, and per service what they do not say as Limen does."""

    files: tuple[tuple[str, str], ...]
    findings: Mapping[str, tuple[Diagnostic, ...]]


class Ruled(Protocol):
    """What came from a rule."""

    @property
    def policy(self) -> str:
        """The name of its policy."""

    @property
    def rule(self) -> str:
        """Its id there."""

    @property
    def span(self) -> Span | None:
        """Where it stands."""


class Findings:
    """Collects the findings of one service, each once."""

    def __init__(self, service: str) -> None:
        self.service = service
        self._found: dict[tuple[str, str, str], Diagnostic] = {}

    def refuse(self, piece: Ruled, reason: str) -> None:
        """A rule, or a part of it, that the target cannot say: there it allows nothing."""
        self._add(REFUSED, piece.span, f"{piece.policy}/{piece.rule}", reason)

    def stricter(self, what: str, reason: str, span: Span | None = None) -> None:
        """Something that the target denies and Limen allows."""
        self._add(STRICTER, span, what, reason)

    def needs(self, reason: str) -> None:
        """Something that has to be so where the files are applied."""
        self._add(NEEDED, None, self.service, reason)

    def unmapped(self, what: object, reason: str, span: Span | None = None) -> None:
        """An identity that the target has no word for."""
        self._add(UNMAPPED, span, str(what), reason)

    def _add(self, code: str, span: Span | None, what: str, reason: str) -> None:
        facts: dict[str, object] = {"what": what, "service": self.service, "reason": reason}
        self._found.setdefault((code, what, reason), Diagnostic(code=code, span=span, facts=facts))

    def all(self) -> tuple[Diagnostic, ...]:
        """The findings in the order in which they came."""
        return tuple(self._found.values())


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where callers live in a cluster; None is any."""

    namespace: str | None
    account: str | None


def place_of(pattern: SpiffePattern, domain: TrustDomain) -> Place | None:
    """The place of an identity or a pattern; None when it has none."""
    if pattern.id.trust_domain != domain:
        return None
    segments = pattern.id.segments
    if pattern.subtree:
        if segments in {(), ("ns",)}:
            return Place(None, None)
        if segments[:1] == ("ns",) and (len(segments) == 2 or (len(segments) == 3 and segments[2] == "sa")):
            return Place(segments[1], None) if is_dns(segments[1]) else None
        return None
    if len(segments) == 4 and segments[0] == "ns" and segments[2] == "sa":
        is_named = is_dns(segments[1]) and all(is_dns(part) for part in segments[3].split("."))
        return Place(segments[1], segments[3]) if is_named else None
    return None


def is_dns(text: str) -> bool:
    """Whether a text can name a namespace (RFC 1123 label)."""
    return _DNS.fullmatch(text) is not None


def homes_of(service: Service, domain: TrustDomain, findings: Findings) -> tuple[tuple[SpiffeId, Place], ...]:
    """Each identity of a service with its place; what has none is refused."""
    found = []
    for pattern in service.identities:
        place = place_of(pattern, domain)
        if place is None or place.account is None:
            findings.unmapped(pattern, f"a called workload is `spiffe://{domain}/ns/NS/sa/SA`", service.span)
        else:
            found.append((pattern.id, place))
    return tuple(found)


def domain_of(policies: PolicySet) -> TrustDomain | None:
    """The trust domain of all called workloads, None when there are several or none."""
    domains = {pattern.id.trust_domain for service in policies.services for pattern in service.identities}
    return domains.pop() if len(domains) == 1 else None


def allowed_for(policies: PolicySet, service: Service, findings: Findings, *, with_denies: bool = False) -> Allowed:
    """What a service allows, with the notes that every target needs."""
    form = normalise(policies, service)
    if service.mode == "observe":
        findings.stricter(service.name, "the service is observed: the target enforces at once", service.span)
    ignores_case = service.path_case == "insensitive"
    try:
        # a deny of the target's own would miss the other spellings
        found = allowed_of(form, with_denies=with_denies and not ignores_case)
    except TooManyPieces:
        findings.unmapped(service.name, "cutting the denies out of the allows gives too many pieces", service.span)
        return Allowed(allows=())
    return _in_lower_case(found, findings) if ignores_case else found


OTHER_CASE = "the service ignores case: the target takes its paths in lower case alone"


def _in_lower_case(found: Allowed, findings: Findings) -> Allowed:
    """What a target that tells cases apart can say of a service that does not: nothing that cuts paths out."""
    allows = []
    for piece in found.allows:
        if piece.box.paths.outside:
            findings.refuse(piece, "the service ignores case: the target cannot cut a path out in all its spellings")
            continue
        if piece.box.paths.inside is not None:
            findings.stricter(f"{piece.policy}/{piece.rule}", OTHER_CASE, piece.span)
        allows.append(piece)
    return Allowed(allows=tuple(allows))


def by_ports(pieces: Iterable[Piece]) -> list[tuple[Piece, tuple[int, ...]]]:
    """Pieces of one rule that differ in their port alone, with all their ports."""
    grouped: dict[tuple[str, str, str, Box], tuple[Piece, list[int]]] = {}
    for piece in pieces:
        key = (piece.policy, piece.rule, piece.protocol, piece.box)
        grouped.setdefault(key, (piece, []))[1].append(piece.port)
    return [(piece, tuple(sorted(ports))) for piece, ports in grouped.values()]


def unsayable_at_l4(box: Box, *, addresses: bool = False) -> str | None:
    """Why a target that sees connections alone cannot say a box; None when it can."""
    if box.reads_request:
        return "the target sees no request"
    if not box.peers.is_free and not addresses:
        return "the target cannot ask for an identity and an address at once"
    return unsayable_tests(box)


def unsayable_tests(box: Box, *known: str) -> str | None:
    """Why the target cannot say the tests of a box; None when it can."""
    reasons = {
        "claims": "the target reads no claims",
        "forwarded_ip": "the target reads no forwarded address as Limen does",
        "hours": "the target knows no hours",
        "rego": "the target evaluates no Rego",
        "until": "the target lets nothing end",
    }
    return next((reasons[test.kind] for test in sorted(box.tests) if test.kind not in known), None)


def object_name(*parts: str) -> str:
    """A name that Kubernetes takes; one that had to be changed carries a hash, so that no two meet."""
    wanted = "-".join(("limen", *parts))
    plain = re.sub(r"[^a-z0-9]+", "-", wanted.lower()).strip("-")[:52].strip("-")
    if plain == wanted:
        return plain
    return f"{plain}-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}"


def documents(rows: Sequence[Mapping[str, object]], heading: str, findings: Iterable[Diagnostic] = ()) -> str:
    """YAML documents under comments that say where they came from and what they do not say."""
    lines = [f"# {heading}"]
    lines += [f"# {item.code}: {item.message}" for item in findings]
    text = yaml.dump_all(rows, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=120, allow_unicode=True)
    return "\n".join(lines) + "\n" + text


class _Dumper(yaml.SafeDumper):
    """Writes equal values twice: a policy file has no anchors."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002  the library's signature
        """Never."""
        return True
