"""Istio's AuthorizationPolicy, RequestAuthentication and PeerAuthentication as a policy tree.

A workload without an ALLOW policy is open with Istio; here it becomes an allow of everybody with an identity. Callers
without one are always denied, which is stricter while mTLS is permissive. What is said by less in an allow, or by more
in a deny, is reported with its place; what cannot be said in an allow is refused, in a deny it grows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from mesh.problems import Diagnostic
from mesh.request import Protocol
from mesh.spiffe import SpiffePattern, TrustDomain
from mesh.yamlio import Node
from policyengine import model
from policyengine.compile.allowed import INVALID_TOKEN
from policyengine.compile.boxes import Box
from policyengine.importers import istiorule
from policyengine.importers.documents import (
    ASSUMED,
    NOT_READ,
    REFUSED,
    STRICTER,
    WITHOUT_EFFECT,
    Document,
    Malformed,
    read_documents,
    spec_of,
)
from policyengine.importers.imported import Import
from policyengine.importers.trees import Said, policies_of, service_of, token_test
from policyengine.importers.workloads import (
    DEFAULT_PORT,
    KINDS,
    KubernetesService,
    Selected,
    Workload,
    assume,
    name_all,
    read_workloads,
)

POLICIES = ("AuthorizationPolicy", "RequestAuthentication", "PeerAuthentication")
ROOT_NAMESPACE = "istio-system"
DRY_RUN = "istio.io/dry-run"


@dataclasses.dataclass(slots=True, eq=False)
class _Target:
    """What a policy document selects."""

    document: Document
    spec: Node
    labels: dict[str, str]
    services: tuple[str, ...] = ()
    is_elsewhere: bool = False


def import_istio(files: Sequence[tuple[str, str]], domain: TrustDomain, root_namespace: str = ROOT_NAMESPACE) -> Import:
    """Translate documents, given by name and text.

    1. EVERY workload that manifests describe, or that a selector names and nothing describes, is a service.
    2. A policy applies to a workload surely, perhaps or not. A deny that perhaps applies does; an allow does not.
    3. EVERY document is in the report.
    """
    documents, unreadable = read_documents(files)
    workloads, services = read_workloads(documents, domain)
    targets: list[_Target] = []
    for document in documents:
        if document.kind in POLICIES:
            try:
                targets.append(_target(document, services))
            except Malformed:
                continue
        elif document.kind not in KINDS:
            facts: dict[str, object] = {
                "kind": document.kind,
                "name": document.name,
                "known": ", ".join((*POLICIES, *KINDS)),
            }
            document.findings.append(Diagnostic(code=NOT_READ, span=document.node.span, facts=facts))
    # (1)
    _assume_workloads(targets, workloads, domain, root_namespace)
    name_all(workloads)
    found: list[tuple[model.Service, tuple[model.Policy, ...]]] = []
    # (2)
    for workload in workloads:
        applying = [
            (target, selected)
            for target in targets
            if (selected := _selects(target, workload, services, root_namespace)) is not Selected.NO
        ]
        found.append(_translate(workload, applying, domain))
    # what a broken document would have denied is not known: nothing is allowed
    is_broken = any(item.kind in POLICIES and item.status == "malformed" for item in documents)
    policies = model.PolicySet(
        services=tuple(service for service, _ in found),
        policies=() if is_broken else tuple(item for _, listed in found for item in listed),
    )
    # (3)
    return Import(
        policies=policies, documents=tuple(documents), workloads=tuple(workloads), unreadable=tuple(unreadable)
    )


def _target(document: Document, services: Sequence[KubernetesService]) -> _Target:
    """What a policy selects; a target that is no workload of ours is refused by name."""
    spec = spec_of(document)
    selector = document.child(spec, "selector")
    labels = document.labels(selector, "matchLabels")
    refs = list(document.items(spec, "targetRefs") or ())
    if (single := document.child(spec, "targetRef")) is not None:
        refs.append(single)
    names: list[str] = []
    is_elsewhere = False
    for ref in refs:
        kind, name = document.text(ref, "kind"), document.text(ref, "name")
        if kind == "Service" and any(item.name == name and item.namespace == document.namespace for item in services):
            names.append(name)
        else:
            document.note(REFUSED, f"the target {kind} `{name}`", "it is no workload that a manifest describes", ref)
            is_elsewhere = True
    return _Target(document, spec, labels, tuple(names), is_elsewhere and not names)


def _assume_workloads(targets: Sequence[_Target], workloads: list[Workload], domain: TrustDomain, root: str) -> None:
    """Make up a workload for a policy that selects none that is known: the narrowest first."""
    for target in sorted(targets, key=lambda item: (not item.labels, item.document.namespace == root)):
        if target.services or target.is_elsewhere or any(_is_for(target, item, root) for item in workloads):
            continue
        namespace = target.document.namespace
        try:
            made = assume(target.document, target.labels, domain, namespace)
        except Malformed:
            continue
        if namespace == root and not target.labels:
            made.identity = SpiffePattern(domain.id, subtree=True)  # the whole mesh, and nothing else is known of it
        if all(not made.identity.overlaps(item.identity) for item in workloads):
            workloads.append(made)


def _is_for(target: _Target, workload: Workload, root: str) -> bool:
    """Whether a policy surely is about a workload."""
    in_place = target.document.namespace in {workload.namespace, root}
    return in_place and workload.selected_by(target.labels) is Selected.YES


def _selects(
    target: _Target, workload: Workload, services: Sequence[KubernetesService], root_namespace: str
) -> Selected:
    namespace = target.document.namespace
    if target.is_elsewhere or (namespace != workload.namespace and (namespace != root_namespace or target.services)):
        return Selected.NO
    if target.services:
        found = [
            workload.selected_by(item.selector)
            for item in services
            if item.namespace == namespace and item.name in target.services
        ]
        return next((choice for choice in Selected if choice in found), Selected.NO)
    return workload.selected_by(target.labels)


def _translate(
    workload: Workload, applying: Sequence[tuple[_Target, Selected]], domain: TrustDomain
) -> tuple[model.Service, tuple[model.Policy, ...]]:
    """One workload's service and policies.

    1. The ports that manifests and rules name; those without mTLS allow nothing here.
    2. Tokens: an issuer that a RequestAuthentication names gives claims, and a token that does not verify denies.
    3. EVERY policy that decides adds its allows or denies.
    4. Without an ALLOW everybody with an identity is allowed.
    """
    authorizing = [(t, s) for t, s in applying if t.document.kind == "AuthorizationPolicy" and _is_enforced(t.document)]
    # (1)
    ports = _ports(workload, [target for target, _ in authorizing])
    every = tuple(sorted(ports))
    without_mtls, is_strict = _peer_modes(applying, workload, ports)
    # (2)
    issuers = _issuers(applying)
    rules = _Rules(workload, ports, domain, issuers)
    # (3)
    for target, selected in authorizing:
        try:
            rules.add(target, selected)
        except Malformed:
            # whoever wrote it meant something: without it nothing is allowed
            rules.has_allow = True
            rules.denies.append(
                Said(box=Box(), id=_id(target.document, "malformed"), document=target.document, ports=every)
            )
    first = applying[0][0].document if applying else workload.document
    # (4)
    if not rules.has_allow:
        rules.allows.append(Said(box=Box(), id="open", document=first, ports=every))
    if not is_strict and any(item.box.callers.inside is None for item in rules.allows):
        reason = "mTLS is not strict there: callers without identity are denied"
        first.note(STRICTER, f"service `{workload.name}`", reason)
    allows = _without_ports(rules.allows, without_mtls)
    http = tuple(port for port in every if ports[port] != "tcp")
    if issuers and http:
        # a deny holds when its test is unknown, as it is for a token that does not verify, and for no other
        box = Box(tests=frozenset({token_test(INVALID_TOKEN, {})}))
        rules.denies.append(Said(box=box, id="invalid-token", document=first, ports=http))
    service = service_of(workload.name, workload.identity, ports)
    return service, policies_of(workload.name, allows, rules.denies, every)


class _Rules:
    """The allows and denies of one workload."""

    def __init__(
        self, workload: Workload, ports: Mapping[int, Protocol], domain: TrustDomain, issuers: tuple[str, ...]
    ) -> None:
        self.workload, self.ports, self.domain, self.issuers = workload, ports, domain, issuers
        self.allows: list[Said] = []
        self.denies: list[Said] = []
        self.has_allow = False

    def add(self, target: _Target, selected: Selected) -> None:
        """Add what a policy says.

        1. A policy that perhaps applies denies, and does not allow.
        2. CUSTOM asks another system, which may deny: EVERY request that it would ask about is denied.
        """
        document, spec = target.document, target.spec
        document.only(spec, ("selector", "targetRef", "targetRefs", "action", "rules", "provider"))
        action = document.text(spec, "action", "ALLOW")
        if action == "AUDIT":
            document.note(WITHOUT_EFFECT, "AUDIT", "it only records")
            return
        if action not in {"ALLOW", "DENY", "CUSTOM"}:
            raise document.malformed("action", "ALLOW, DENY, CUSTOM or AUDIT")
        self.has_allow = self.has_allow or action == "ALLOW"
        # (1)
        if selected is Selected.PERHAPS:
            does = "is not allowed" if action == "ALLOW" else "is denied to all"
            reason = f"only some of its pods are surely meant: it {does}"
            document.note(STRICTER, f"service `{self.workload.name}`", reason)
        # (2)
        if action == "CUSTOM":
            provider = document.child(spec, "provider")
            named = document.text(provider, "name") if provider is not None else "?"
            document.note(REFUSED, f"provider `{named}`", "no other system is asked: what it is asked about is denied")
        said = [item for protocols in (("http", "grpc"), ("tcp",)) for item in self._said(target, protocols, action)]
        if action != "ALLOW":
            self.denies += said
        elif selected is Selected.YES:
            self.allows += said

    def _said(self, target: _Target, protocols: tuple[str, ...], action: str) -> list[Said]:
        here = tuple(sorted(port for port, spoken in self.ports.items() if spoken in protocols))
        if not here:
            return []
        context = istiorule.Context(
            document=target.document,
            is_deny=action != "ALLOW",
            is_tcp=protocols == ("tcp",),
            ports=here,
            domain=self.domain,
            issuers=self.issuers,
        )
        return istiorule.rules_of(target.spec, context)


def _id(document: Document, rest: str) -> str:
    return f"{document.name}.{rest}"


def _without_ports(said: Sequence[Said], cut: frozenset[int]) -> list[Said]:
    kept = []
    for item in said:
        left = tuple(port for port in item.ports or () if port not in cut)
        if left:
            kept.append(dataclasses.replace(item, ports=left))
    return kept


def _is_enforced(document: Document) -> bool:
    """Whether a policy decides; one in a dry run does not."""
    head = document.child(document.node, "metadata")
    is_dry = document.labels(head, "annotations").get(DRY_RUN, "").lower() in {"true", "1", "t"}
    if is_dry:
        document.note(WITHOUT_EFFECT, f"`{DRY_RUN}`", "it is tried and not enforced")
    return not is_dry


def _ports(workload: Workload, targets: Sequence[_Target]) -> dict[int, Protocol]:
    """The ports of a workload with their protocols.

    What nothing declares is http when a rule reads requests, else tcp; without any port, 8080 is assumed.
    """
    reads = any(istiorule.reads_request(target.spec) for target in targets)
    found = dict(workload.ports)
    for target in targets:
        for port in istiorule.ports_of(target.spec):
            found.setdefault(port, None)
    if not found:
        found[DEFAULT_PORT] = "http"
        workload.document.note(ASSUMED, f"port {DEFAULT_PORT} of `{workload.name}`", "nothing names a port")
    default: Protocol = "http" if reads else "tcp"
    unsure = sorted(port for port, protocol in found.items() if protocol is None)
    if unsure:
        listed = ", ".join(map(str, unsure))
        workload.document.note(
            ASSUMED, f"{default} on port {listed} of `{workload.name}`", "no Service says what is spoken"
        )
    return {port: protocol or default for port, protocol in found.items()}


def _peer_modes(
    applying: Sequence[tuple[_Target, Selected]], workload: Workload, ports: Mapping[int, Protocol]
) -> tuple[frozenset[int], bool]:
    """The ports without mTLS, and whether all others are strict. The narrowest PeerAuthentication decides."""
    found: list[tuple[int, _Target]] = []
    for target, _ in applying:
        if target.document.kind == "PeerAuthentication":
            depth = 2 if target.labels else 1 if target.document.namespace == workload.namespace else 0
            found.append((depth, target))
    cut: set[int] = set()
    mode = "UNSET"
    for _, target in sorted(found, key=lambda item: -item[0]):
        document, spec = target.document, target.spec
        try:
            document.only(spec, ("selector", "mtls", "portLevelMtls"))
            mtls = document.child(spec, "mtls")
            own = document.text(mtls, "mode", "UNSET") if mtls is not None else "UNSET"
            mode = own if mode == "UNSET" else mode
            levels = document.child(spec, "portLevelMtls")
            for key, value in levels.pairs if levels is not None else ():
                level = document.text(value, "mode", "UNSET")
                if level == "DISABLE" and str(key.scalar).isdigit():
                    cut.add(int(str(key.scalar)))
                    document.note(REFUSED, f"port {key.scalar}", "without mTLS nobody has an identity", value)
                elif level == "PERMISSIVE":
                    document.note(STRICTER, f"port {key.scalar}", "callers without identity are denied", value)
        except Malformed:
            mode = "STRICT"
    if mode == "DISABLE" and found:
        found[0][1].document.note(REFUSED, f"service `{workload.name}`", "without mTLS nobody has an identity")
        cut |= set(ports)
    return frozenset(cut), mode == "STRICT"


def _issuers(applying: Sequence[tuple[_Target, Selected]]) -> tuple[str, ...]:
    """The issuers whose tokens the workload takes."""
    found: dict[str, None] = {}
    for target, selected in applying:
        document = target.document
        if document.kind != "RequestAuthentication":
            continue
        try:
            document.only(target.spec, ("selector", "targetRef", "targetRefs", "jwtRules"))
            for rule in document.items(target.spec, "jwtRules") or ():
                issuer = document.text(rule, "issuer")
                if not issuer:
                    raise document.malformed("issuer", "the issuer of the tokens", rule)
                if selected is Selected.PERHAPS:
                    document.note(
                        STRICTER, f"issuer `{issuer}`", "only some of the pods take its tokens: none does here"
                    )
                    continue
                found[issuer] = None
                what = "its keys and audiences are given to the verifier, which takes tokens of these issuers alone"
                document.note(ASSUMED, f"issuer `{issuer}`", what, rule)
        except Malformed:
            continue
    return tuple(found)
