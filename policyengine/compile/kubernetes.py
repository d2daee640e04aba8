"""Kubernetes NetworkPolicy from a policy set: who may open connections to whom.

A NetworkPolicy sees pods and ports, so what asks for more than caller and port is refused, and its callers cannot
connect at all: enforced beside Limen, such a service needs another answer, and the findings say so. A policy selects
its pods for ingress with no rule but those that Limen allows.
"""

from __future__ import annotations

from mesh.spiffe import SpiffeId, SpiffePattern, TrustDomain
from policyengine.compile.allowed import Piece
from policyengine.compile.export import (
    EXPERIMENTAL,
    Export,
    Findings,
    Place,
    Workloads,
    allowed_for,
    by_ports,
    documents,
    homes_of,
    object_name,
    place_of,
    unsayable_at_l4,
)
from policyengine.model import PolicySet

Row = dict[str, object]
_MAX_LABEL = 63
NAMESPACE_LABEL = "kubernetes.io/metadata.name"


def compile_kubernetes(policies: PolicySet, domain: TrustDomain, workloads: Workloads) -> Export:
    """NetworkPolicies for every service whose workloads are known by labels.

    1. EVERY piece of what Limen allows becomes an ingress rule, or is refused.
    2. A service that allows nothing has a policy without a rule: its pods accept nothing.
    """
    files: list[tuple[str, str]] = []
    every: dict[str, Findings] = {}
    for service in sorted(policies.services, key=lambda item: item.name):
        findings = every[service.name] = Findings(service.name)
        pieces = by_ports(allowed_for(policies, service, findings).allows)
        # (1)
        rules = [
            row for piece, ports in pieces if (row := _rule(piece, ports, domain, workloads, findings)) is not None
        ]
        findings.needs("a pod's service account and labels are what the list of workloads says, and nobody else's")
        rows: list[Row] = []
        for identity, place in homes_of(service, domain, findings):
            labels = labels_of(identity, workloads, findings)
            if labels is None:
                continue
            several = (service.name,) if len(service.identities) == 1 else (service.name, str(place.account))
            # (2)
            spec: Row = {"podSelector": {"matchLabels": labels}, "policyTypes": ["Ingress"], "ingress": rules}
            metadata = {"name": object_name(*several), "namespace": place.namespace}
            rows.append(
                {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}
            )
        if rows:
            heading = f"What Limen says about connections to `{service.name}`, for Kubernetes. {EXPERIMENTAL}"
            files.append((f"{object_name(service.name)}.yaml", documents(rows, heading, findings.all())))
    return Export(files=tuple(files), findings={name: item.all() for name, item in every.items()})


def labels_of(identity: SpiffeId, workloads: Workloads, findings: Findings) -> dict[str, str] | None:
    """The labels of an identity's pods; None, and a finding, when they are not known.

    Without any list of workloads the label `app` is taken for the account's name, as most charts have it, and the
    export says so.
    """
    labels = dict(workloads[identity].labels) if identity in workloads else {}
    if labels:
        return labels
    account = identity.segments[-1]
    if not workloads and len(account) <= _MAX_LABEL:
        findings.needs(
            f"the pods of service account `{account}`, and no others, have the label `app: {account}`: "
            "that is assumed where no list of workloads is given (`--workloads`)"
        )
        return {"app": account}
    findings.unmapped(identity, "Kubernetes selects pods by labels: give them in the list of workloads")
    return None


def _rule(
    piece: Piece, ports: tuple[int, ...], domain: TrustDomain, workloads: Workloads, findings: Findings
) -> Row | None:
    reason = unsayable_at_l4(piece.box)
    if reason is not None:
        findings.refuse(piece, reason)
        return None
    peers = peers_of(piece, domain, workloads, findings)
    if not peers:
        return None
    return {"from": peers, "ports": [{"protocol": "TCP", "port": port} for port in ports]}


def peers_of(piece: Piece, domain: TrustDomain, workloads: Workloads, findings: Findings) -> list[Row]:
    """The callers of a piece as peers; those without a place are refused.

    An outside without a place of its own cannot be cut, so that the whole around it is refused.
    """
    callers = piece.box.callers
    if callers.inside is None:
        findings.stricter(f"{piece.policy}/{piece.rule}", "`any` is every pod of the cluster there", piece.span)
    inside = callers.inside or (SpiffePattern(domain.id, subtree=True),)
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
    for pattern in inside:
        place = place_of(pattern, domain)
        if place is None:
            findings.unmapped(
                pattern, f"it is no `spiffe://{domain}/ns/NS/sa/SA` and no part of the cluster", piece.span
            )
            continue
        found += _peers(place, cuts, domain, workloads, findings)
    return found


def _peers(place: Place, cuts: list[Place], domain: TrustDomain, workloads: Workloads, findings: Findings) -> list[Row]:
    """The pods of a place without those that are cut out.

    1. An account is its pods' labels in its namespace.
    2. A namespace is all its pods, but for accounts that are cut out.
    3. The cluster is all namespaces but those with a cut, and each of the others as (2).
    """

    def labels(account: Place) -> dict[str, str] | None:
        identity = SpiffeId.from_segments(domain, "ns", str(account.namespace), "sa", str(account.account))
        return labels_of(identity, workloads, findings)

    def namespace(name: str) -> Row:
        return {"namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: name}}}

    # (1)
    if place.account is not None:
        wanted = labels(place)
        return [] if wanted is None else [{**namespace(str(place.namespace)), "podSelector": {"matchLabels": wanted}}]
    # (2)
    if place.namespace is not None:
        outside = [labels(cut) for cut in cuts if cut.namespace == place.namespace and cut.account is not None]
        if any(found is None for found in outside):
            return []  # labels_of has said so
        return [{**namespace(place.namespace), **selector} for selector in _without([found or {} for found in outside])]
    # (3)
    touched = sorted({str(cut.namespace) for cut in cuts})
    whole = {str(cut.namespace) for cut in cuts if cut.account is None}
    if not touched:
        return [{"namespaceSelector": {}}]
    others = {"matchExpressions": [{"key": NAMESPACE_LABEL, "operator": "NotIn", "values": touched}]}
    rows: list[Row] = [{"namespaceSelector": others}]
    for name in touched:
        if name not in whole:
            rows += _peers(Place(name, None), cuts, domain, workloads, findings)
    return rows


def _without(outside: list[dict[str, str]]) -> list[Row]:
    """Pod selectors that together hold what has none of the sets of labels: one label of each set is not there."""
    choices: list[list[tuple[str, str]]] = [[]]
    for labels in outside:
        choices = [[*chosen, pair] for chosen in choices for pair in sorted(labels.items())]
    rows: list[Row] = []
    for chosen in choices:
        if not chosen:
            return [{}]
        keys = sorted({key for key, _ in chosen})
        expressions = [
            {"key": key, "operator": "NotIn", "values": sorted({value for name, value in chosen if name == key})}
            for key in keys
        ]
        rows.append({"podSelector": {"matchExpressions": expressions}})
    return rows
