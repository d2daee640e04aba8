"""CiliumNetworkPolicy from a policy set: callers by namespace and service account, requests by method and path.

Cilium puts a pod's namespace and service account among its labels, so that no list of workloads is needed. Its HTTP
rules are regular expressions over the raw request; here they hold only requests that are already in Limen's canonical
form, spelt in ASCII: others are denied, which is stricter.
"""

from __future__ import annotations

import re

from mesh.spiffe import SpiffePattern, TrustDomain
from policyengine.canonical import PathPattern, PathSegment
from policyengine.compile.allowed import Piece
from policyengine.compile.export import (
    EXPERIMENTAL,
    Export,
    Findings,
    Place,
    allowed_for,
    by_ports,
    documents,
    homes_of,
    object_name,
    place_of,
    unsayable_tests,
)
from policyengine.model import PolicySet

Row = dict[str, object]
NAMESPACE = "k8s:io.kubernetes.pod.namespace"
ACCOUNT = "k8s:io.cilium.k8s.policy.serviceaccount"
_MARKS = "!$&'()*+,=:@_~-"
_EDGE = f"[A-Za-z0-9{re.escape(_MARKS)}]"
_INNER = f"[A-Za-z0-9.{re.escape(_MARKS)}]"
SEGMENT = f"{_EDGE}(?:{_INNER}*{_EDGE})?"
"""A segment in canonical form, in ASCII, that neither begins nor ends in a dot."""
_TYPES = {
    "any": SEGMENT,
    "int": "[0-9]+",
    "decimal": r"-?[0-9]+(?:\.[0-9]+)?",
    "uuid": "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
    "hex": "[0-9A-Fa-f]+",
    "date": "[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])",
    "ulid": "[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}",
    "token": "[A-Za-z0-9_~-](?:[A-Za-z0-9._~-]*[A-Za-z0-9_~-])?",
}
_PLAIN = re.compile(r"(?:[A-Za-z0-9._~!$&'()+,=:@-]*)")
QUERY = r"(?:\?[!-\"$-~]*)?"
"""Any query of printable ASCII without `#`."""
_SPELLING = "only requests that are spelt in canonical form, in ASCII, pass there"


def compile_cilium(policies: PolicySet, domain: TrustDomain) -> Export:
    """CiliumNetworkPolicies for every service.

    1. EVERY piece of what Limen allows becomes an ingress rule, or is refused.
    2. A service that allows nothing has a policy with one empty rule: its pods accept nothing.
    """
    files: list[tuple[str, str]] = []
    every: dict[str, Findings] = {}
    for service in sorted(policies.services, key=lambda item: item.name):
        findings = every[service.name] = Findings(service.name)
        pieces = by_ports(allowed_for(policies, service, findings).allows)
        # (1), (2)
        rules = [row for piece, ports in pieces if (row := _rule(piece, ports, domain, findings)) is not None] or [{}]
        rows: list[Row] = []
        for _, place in homes_of(service, domain, findings):
            several = (service.name,) if len(service.identities) == 1 else (service.name, str(place.account))
            selector = {"matchLabels": {ACCOUNT: place.account}}
            metadata = {"name": object_name(*several), "namespace": place.namespace}
            spec = {"endpointSelector": selector, "ingress": rules}
            rows.append(
                {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": metadata, "spec": spec}
            )
        if rows:
            heading = f"What Limen says about `{service.name}`, for Cilium. {EXPERIMENTAL}"
            files.append((f"{object_name(service.name)}.yaml", documents(rows, heading, findings.all())))
    return Export(files=tuple(files), findings={name: item.all() for name, item in every.items()})


def _rule(piece: Piece, ports: tuple[int, ...], domain: TrustDomain, findings: Findings) -> Row | None:
    box = piece.box
    reason = unsayable_tests(box)
    if not box.peers.is_free:
        reason = "the target cannot ask for an identity and an address at once"
    if box.methods.outside or box.hosts.outside or box.paths.outside or any(field.outside for _, field in box.headers):
        reason = "Cilium's requests are regular expressions, which cannot leave anything out"
    if reason is None:
        reason = _unsayable(piece)
    if reason is not None:
        findings.refuse(piece, reason)
        return None
    endpoints = _endpoints(piece, domain, findings)
    if not endpoints:
        return None
    to: Row = {"ports": [{"port": str(port), "protocol": "TCP"} for port in ports]}
    if box.reads_request:
        to["rules"] = {"http": _http(piece)}
        findings.stricter(f"{piece.policy}/{piece.rule}", _SPELLING, piece.span)
    return {"fromEndpoints": endpoints, "toPorts": [to]}


def _unsayable(piece: Piece) -> str | None:
    for path in piece.box.paths.inside or ():
        for place in path.segments:
            if place.type == "literal" and _PLAIN.fullmatch(place.literal) is None:
                return f"the segment has more than one spelling: `{place.literal}`"
    return None


def _http(piece: Piece) -> list[Row]:
    """One HTTP rule for each method, host, path and value of headers."""
    box = piece.box
    rows: list[Row] = [{}]
    if box.methods.inside is not None:
        rows = [{**row, "method": re.escape(method)} for row in rows for method in box.methods.inside]
    # without paths every canonical one: what Limen calls ambiguous stays out
    paths = box.paths.inside or (PathPattern((), subtree=True, text="/**"),)
    rows = [{**row, "path": path_expression(path)} for row in rows for path in paths]
    if box.hosts.inside is not None:
        label = r"[A-Za-z0-9_-]+\."
        names = [(label if host.wildcard else "") + re.escape(host.name) for host in box.hosts.inside]
        rows = [{**row, "host": f"(?i:{name})(?::[0-9]{{1,5}})?"} for row in rows for name in names]
    for name, field in box.headers:
        matches = [{"name": name, "value": value} for value in field.inside or ()]
        rows = [
            {**row, "headerMatches": [*_list(row.get("headerMatches")), match]} for row in rows for match in matches
        ]
    return rows


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def path_expression(pattern: PathPattern) -> str:
    """A regular expression for the whole `:path`, query included."""
    text = "".join("/" + _segment(place) for place in pattern.segments)
    if pattern.subtree:
        text += f"(?:/{SEGMENT})*/(?:{SEGMENT})?"
    return (text or "/") + QUERY


def _segment(place: PathSegment) -> str:
    return re.escape(place.literal) if place.type == "literal" else _TYPES[place.type]


def _endpoints(piece: Piece, domain: TrustDomain, findings: Findings) -> list[Row]:
    """The callers of a piece as endpoint selectors; those without a place are refused."""
    callers = piece.box.callers
    if callers.inside is None:
        findings.stricter(f"{piece.policy}/{piece.rule}", "`any` is every pod of the cluster there", piece.span)
    cuts: list[Place] = []
    for pattern in callers.outside:
        if pattern.id.trust_domain != domain:
            continue  # no pod of this cluster has such an identity
        place = place_of(pattern, domain)
        if place is None:
            findings.refuse(piece, f"`{pattern}` has no place in the cluster and cannot be cut out")
            return []
        if place.namespace is None:
            return []  # nobody of this cluster is left
        cuts.append(place)
    found: list[Row] = []
    for pattern in callers.inside or (SpiffePattern(domain.id, subtree=True),):
        place = place_of(pattern, domain)
        if place is None:
            findings.unmapped(
                pattern, f"it is no `spiffe://{domain}/ns/NS/sa/SA` and no part of the cluster", piece.span
            )
            continue
        found += _selectors(place, cuts)
    return found


def _selectors(place: Place, cuts: list[Place]) -> list[Row]:
    """The endpoints of a place without those that are cut out: as for Kubernetes, with accounts in place of labels."""
    if place.account is not None:
        return [{"matchLabels": {NAMESPACE: place.namespace, ACCOUNT: place.account}}]
    if place.namespace is not None:
        accounts = sorted(str(cut.account) for cut in cuts if cut.namespace == place.namespace and cut.account)
        row: Row = {"matchLabels": {NAMESPACE: place.namespace}}
        if accounts:
            row["matchExpressions"] = [{"key": ACCOUNT, "operator": "NotIn", "values": accounts}]
        return [row]
    touched = sorted({str(cut.namespace) for cut in cuts})
    expressions: list[Row] = [{"key": NAMESPACE, "operator": "Exists"}]
    if touched:
        expressions.append({"key": NAMESPACE, "operator": "NotIn", "values": touched})
    rows: list[Row] = [{"matchExpressions": expressions}]
    whole = {str(cut.namespace) for cut in cuts if cut.account is None}
    for name in touched:
        if name not in whole:
            rows += _selectors(Place(name, None), cuts)
    return rows
