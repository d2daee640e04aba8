"""Linkerd's Server, HTTPRoute, AuthorizationPolicy and MeshTLSAuthentication from a policy set.

Linkerd only allows. A Server is a port of a workload; with routes a request belongs to the most specific one, and
only that route's authorizations count. So each route gets everybody whose piece holds the whole route: never wider,
and stricter where two routes cross without one holding the other, which the findings say.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from mesh.spiffe import SpiffePattern, TrustDomain
from policyengine.canonical import PathPattern
from policyengine.compile.allowed import Piece
from policyengine.compile.boxes import Box, Unsayable, covers, meet, pattern_of
from policyengine.compile.export import (
    EXPERIMENTAL,
    Export,
    Findings,
    Workloads,
    allowed_for,
    documents,
    homes_of,
    object_name,
    place_of,
    unsayable_tests,
)
from policyengine.compile.kubernetes import labels_of
from policyengine.model import PolicySet, Service

Row = dict[str, object]
_POLICY = "policy.linkerd.io"
_PROTOCOLS = {"http": "HTTP/1", "grpc": "gRPC", "tcp": "opaque"}
_PLAIN = re.compile(r"[A-Za-z0-9._~!$&'()*+,=:@-]*")


@dataclasses.dataclass(frozen=True, slots=True)
class _Home:
    """A called workload: what its objects are named after, where it lives, its labels."""

    name: tuple[str, ...]
    namespace: str
    labels: dict[str, str]


def compile_linkerd(policies: PolicySet, domain: TrustDomain, workloads: Workloads) -> Export:
    """Linkerd's objects for every service whose workloads are known by labels.

    1. EVERY port is a Server that denies what nothing authorizes.
    2. A piece about connections authorizes its callers on the Server; one about requests on its routes.
    3. EVERY piece is said, or refused.
    """
    files: list[tuple[str, str]] = []
    every: dict[str, Findings] = {}
    for service in sorted(policies.services, key=lambda item: item.name):
        findings = every[service.name] = Findings(service.name)
        # (3)
        pieces = [
            piece for piece in allowed_for(policies, service, findings).allows if _is_sayable(piece, domain, findings)
        ]
        findings.needs("what no Server selects follows Linkerd's `default-inbound-policy`: set it to `deny`")
        rows: list[Row] = []
        for identity, place in homes_of(service, domain, findings):
            labels = labels_of(identity, workloads, findings)
            if labels is not None:
                several = (service.name,) if len(service.identities) == 1 else (service.name, str(place.account))
                rows += _rows(service, _Home(several, str(place.namespace), labels), pieces, domain, findings)
        if rows:
            heading = f"What Limen says about `{service.name}`, for Linkerd. {EXPERIMENTAL}"
            files.append((f"{object_name(service.name)}.yaml", documents(rows, heading, findings.all())))
    return Export(files=tuple(files), findings={name: item.all() for name, item in every.items()})


def _is_sayable(piece: Piece, domain: TrustDomain, findings: Findings) -> bool:
    """Whether Linkerd can say a piece; else it is refused."""
    box = piece.box
    reason = _unsayable(piece)
    if reason is not None:
        findings.refuse(piece, reason)
        return False
    nameless = [pattern for pattern in box.callers.inside or () if _authentication(pattern, domain) is None]
    for pattern in nameless:
        findings.unmapped(pattern, f"it is no `spiffe://{domain}/ns/NS/sa/SA` and no part of the cluster", piece.span)
    return box.callers.inside is None or len(nameless) < len(box.callers.inside)


def _unsayable(piece: Piece) -> str | None:
    """Why Linkerd cannot say a piece."""
    box = piece.box
    cases = (
        (not box.peers.is_free, "Linkerd asks for an identity and an address in different ways"),
        (bool(box.callers.outside), "Linkerd only allows: nobody can be cut out"),
        (
            bool(box.methods.outside or box.paths.outside) or any(field.outside for _, field in box.headers),
            "Linkerd's routes leave nothing out",
        ),
        (not box.hosts.is_free, "a host is not part of what Linkerd authorizes on a Server"),
        (piece.protocol == "grpc" and box.reads_request, "gRPC routes are not written"),
    )
    reason = unsayable_tests(box) or next((reason for is_so, reason in cases if is_so), None)
    if reason is not None:
        return reason
    for place in (place for path in box.paths.inside or () for place in path.segments):
        if place.type != "literal":
            return "which of two expressions is more specific is open: paths are literal"
        if _PLAIN.fullmatch(place.literal) is None:
            return f"the segment has more than one spelling: `{place.literal}`"
    return None


def _authentication(pattern: SpiffePattern, domain: TrustDomain) -> Row | None:
    """How Linkerd names callers; None when it cannot."""
    place = place_of(pattern, domain)
    if place is None:
        return None
    if place.account is not None:
        return {"kind": "ServiceAccount", "name": place.account, "namespace": place.namespace}
    if place.namespace is not None:
        return {"kind": "Namespace", "name": place.namespace}
    return {}


def _rows(service: Service, home: _Home, pieces: list[Piece], domain: TrustDomain, findings: Findings) -> list[Row]:
    rows: list[Row] = []
    for port in service.ports:
        here = [piece for piece in pieces if piece.port == port.port]
        server = object_name(*home.name, str(port.port))
        spec = {
            "podSelector": {"matchLabels": home.labels},
            "port": port.port,
            "proxyProtocol": _PROTOCOLS[port.protocol],
            "accessPolicy": "deny",
        }
        # (1)
        rows.append(_row("v1beta3", "Server", server, home.namespace, spec))
        # (2)
        whole = [piece for piece in here if not piece.box.reads_request]
        rows += _authorizations(server, "Server", server, home.namespace, whole, domain)
        routes = _routes([piece for piece in here if piece.box.reads_request])
        _note_crossings(routes, here, findings)
        for place, route in enumerate(routes):
            name = object_name(*home.name, str(port.port), f"route{place}")
            match = _match(route)
            parents = [{"group": _POLICY, "kind": "Server", "name": server}]
            rows.append(
                _row(
                    "v1beta3",
                    "HTTPRoute",
                    name,
                    home.namespace,
                    {"parentRefs": parents, "rules": [{"matches": [match]}]},
                )
            )
            allowed = [piece for piece in here if piece.box.reads_request and covers(_ops(piece.box), route)]
            rows += _authorizations(name, "HTTPRoute", name, home.namespace, allowed, domain)
        if routes and whole:
            # with routes, what fits none belongs to none: the others need one of their own
            name = object_name(*home.name, str(port.port), "rest")
            parents = [{"group": _POLICY, "kind": "Server", "name": server}]
            rest = [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}]
            rows.append(_row("v1beta3", "HTTPRoute", name, home.namespace, {"parentRefs": parents, "rules": rest}))
    return rows


def _ops(box: Box) -> Box:
    """A box without its callers."""
    return Box(methods=box.methods, paths=box.paths, headers=box.headers)


def _routes(pieces: list[Piece]) -> list[Box]:
    """One route for each path, method and value of headers of the pieces.

    A prefix of Linkerd's holds the path without its last slash too, so that path has a route of its own.
    """
    found: dict[Box, None] = {}
    for piece in pieces:
        box = piece.box
        boxes = [Box()]
        if box.paths.inside is not None:
            boxes = [
                dataclasses.replace(item, paths=type(box.paths)((path,))) for item in boxes for path in box.paths.inside
            ]
        if box.methods.inside is not None:
            boxes = [
                dataclasses.replace(item, methods=type(box.methods)((method,)))
                for item in boxes
                for method in box.methods.inside
            ]
        for name, field in box.headers:
            boxes = [
                dataclasses.replace(item, headers=(*item.headers, (name, type(field)((value,)))))
                for item in boxes
                for value in field.inside or ()
            ]
        found |= dict.fromkeys(boxes)
        for path in box.paths.inside or ():
            if path.subtree and path.segments:
                stem = pattern_of(path.segments, subtree=False, ignores_case=path.ignores_case)
                found[Box(paths=type(box.paths)((stem,)))] = None
    return list(found)


def _note_crossings(routes: list[Box], pieces: list[Piece], findings: Findings) -> None:
    """Say where a request of a piece may belong to a route that the piece does not hold."""
    for piece in pieces:
        box = _ops(piece.box)
        if not piece.box.reads_request:
            continue
        for route in routes:
            try:
                both = meet(route, box)
            except Unsayable:
                both = route
            if both is not None and not covers(box, route) and not _is_less_specific(route, piece, routes):
                findings.stricter(
                    f"{piece.policy}/{piece.rule}", "part of it belongs to another rule's route there", piece.span
                )
                break


def _is_less_specific(route: Box, piece: Piece, routes: list[Box]) -> bool:
    """Whether the requests that a route shares with a piece all belong to routes of the piece."""
    mine = [own for own in routes if covers(_ops(piece.box), own)]
    shared = [own for own in mine if _may_share(own, route)]
    return all(_rank(own) > _rank(route) for own in shared)


def _may_share(one: Box, other: Box) -> bool:
    try:
        return meet(one, other) is not None
    except Unsayable:
        return True


def _rank(route: Box) -> tuple[int, int, int, int]:
    """How specific a route is (Gateway API, HTTPRouteRule): exact path, longest prefix, method, most headers."""
    path = route.paths.inside[0] if route.paths.inside else None
    length = len(_text(path)) if path is not None else 1
    is_exact = path is not None and not path.subtree
    return (int(is_exact), length, int(not route.methods.is_free), len(route.headers))


def _text(pattern: PathPattern) -> str:
    return "/" + "/".join(place.literal for place in pattern.segments)


def _match(route: Box) -> Row:
    """A route's match."""
    match: Row = {"path": {"type": "PathPrefix", "value": "/"}}
    if route.paths.inside is not None:
        path = route.paths.inside[0]
        match = {"path": {"type": "PathPrefix" if path.subtree else "Exact", "value": _text(path)}}
    if route.methods.inside is not None:
        match["method"] = route.methods.inside[0]
    if route.headers:
        match["headers"] = [
            {"type": "Exact", "name": name, "value": (field.inside or ("",))[0]} for name, field in route.headers
        ]
    return match


def _authorizations(
    name: str, kind: str, target: str, namespace: str, pieces: list[Piece], domain: TrustDomain
) -> list[Row]:
    """One AuthorizationPolicy with its MeshTLSAuthentication for the callers of all pieces."""
    if not pieces:
        return []
    identities: list[str] = []
    refs: list[Row] = []
    for piece in pieces:
        for pattern in piece.box.callers.inside or ():
            found = _authentication(pattern, domain)
            if found == {}:
                identities.append(f"*.identity.linkerd.{domain}")
            elif found is not None and found not in refs:
                refs.append(found)
        if piece.box.callers.inside is None:
            identities.append("*")
    spec: Row = {}
    if identities:
        spec["identities"] = sorted(set(identities))
    if refs:
        spec["identityRefs"] = refs
    target_ref = {"group": _POLICY, "kind": kind, "name": target}
    required = [{"group": _POLICY, "kind": "MeshTLSAuthentication", "name": name}]
    policy = {"targetRef": target_ref, "requiredAuthenticationRefs": required}
    return [
        _row("v1alpha1", "MeshTLSAuthentication", name, namespace, spec),
        _row("v1alpha1", "AuthorizationPolicy", name, namespace, policy),
    ]


def _row(version: str, kind: str, name: str, namespace: str, spec: Mapping[str, object]) -> Row:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": f"{_POLICY}/{version}", "kind": kind, "metadata": metadata, "spec": spec}
