"""Kubernetes NetworkPolicy as a policy tree: who may open connections to whom.

Pods are known by their service accounts, so a rule about labels becomes a rule about the identities that have them in
the manifests: pods that no manifest describes are denied, which is stricter and said. A connection needs the ingress
rules of the called and the egress rules of the calling pod; both are read. TCP alone is Limen's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from mesh.problems import Diagnostic
from mesh.request import Protocol
from mesh.spiffe import TrustDomain
from mesh.yamlio import Node
from policyengine import model
from policyengine.compile.boxes import CALLERS, NETWORKS, Box, Field, field_of
from policyengine.importers import istiofields
from policyengine.importers.documents import (
    ASSUMED,
    NOT_READ,
    REFUSED,
    STRICTER,
    Document,
    Malformed,
    read_documents,
    spec_of,
)
from policyengine.importers.imported import Import
from policyengine.importers.selectors import Selector, read_selector
from policyengine.importers.trees import Said, policies_of, service_of
from policyengine.importers.workloads import DEFAULT_PORT, KINDS, Workload, assume, name_all, read_workloads

NAMESPACE_LABEL = "kubernetes.io/metadata.name"

_EVERY_PORT = (1, 65535)


@dataclasses.dataclass(frozen=True, slots=True)
class _Peer:
    """Whom a rule names: pods by selectors, or addresses."""

    namespaces: Selector | None = None
    pods: Selector | None = None
    block: Field[model.Network] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class _Rule:
    """One rule: peers (None is anybody) and ports (None is any), as (first, last) or a name."""

    peers: tuple[_Peer, ...] | None
    ports: tuple[tuple[int, int] | str, ...] | None


@dataclasses.dataclass(slots=True, eq=False)
class _Policy:
    document: Document
    pods: Selector
    ingress: tuple[_Rule, ...] | None
    egress: tuple[_Rule, ...] | None


def import_kubernetes(files: Sequence[tuple[str, str]], domain: TrustDomain) -> Import:
    """Translate documents, given by name and text.

    1. EVERY workload that manifests describe, or that a selector names and nothing describes, is a service.
    2. A pod that no policy selects for ingress is open: everybody with an identity may connect.
    3. A caller that a policy selects for egress may connect only where its egress rules allow it.
    """
    documents, unreadable = read_documents(files)
    workloads, _ = read_workloads(documents, domain)
    namespaces = {
        document.name: {NAMESPACE_LABEL: document.name, **_labels(document)}
        for document in documents
        if document.kind == "Namespace"
    }
    policies: list[_Policy] = []
    for document in documents:
        if document.kind == "NetworkPolicy":
            try:
                policies.append(_policy(document))
            except Malformed:
                continue
        elif document.kind not in KINDS:
            known = ", ".join(("NetworkPolicy", *KINDS))
            facts: dict[str, object] = {"kind": document.kind, "name": document.name, "known": known}
            document.findings.append(Diagnostic(code=NOT_READ, span=document.node.span, facts=facts))
    # (1)
    for policy in policies:
        _assume(policy, workloads, domain)
    name_all(workloads)
    world = _World(workloads, namespaces, policies)
    found = [_translate(workload, world) for workload in workloads]
    made = model.PolicySet(
        services=tuple(service for service, _ in found), policies=tuple(item for _, listed in found for item in listed)
    )
    broken = [item for item in documents if item.kind == "NetworkPolicy" and item.status == "malformed"]
    if broken:
        # what it would have denied is not known: nothing is allowed
        made = dataclasses.replace(made, policies=())
    return Import(policies=made, documents=tuple(documents), workloads=tuple(workloads), unreadable=tuple(unreadable))


def _labels(document: Document) -> dict[str, str]:
    try:
        return document.labels(document.child(document.node, "metadata"), "labels")
    except Malformed:
        return {}


def _assume(policy: _Policy, workloads: list[Workload], domain: TrustDomain) -> None:
    """Make up the workloads that a policy names and nothing describes: what it selects, and its peers by labels."""
    namespace = policy.document.namespace
    _assume_one(policy, policy.pods, namespace, workloads, domain)
    for rule in (*(policy.ingress or ()), *(policy.egress or ())):
        for peer in rule.peers or ():
            if peer.pods is None or not peer.pods.labels:
                continue
            home = namespace if peer.namespaces is None else dict(peer.namespaces.labels).get(NAMESPACE_LABEL)
            if home is not None:
                _assume_one(policy, peer.pods, home, workloads, domain)


def _assume_one(
    policy: _Policy, pods: Selector, namespace: str, workloads: list[Workload], domain: TrustDomain
) -> None:
    here = [workload for workload in workloads if workload.namespace == namespace]
    if any(all(pods.fits(labels) for labels in workload.pods) for workload in here):
        return
    if not pods.labels and here:
        return
    try:
        made = assume(policy.document, dict(pods.labels), domain, namespace)
    except Malformed:
        return
    if all(made.identity != workload.identity for workload in workloads):
        workloads.append(made)


# ---------------------------------------------------------------------- reading


def _policy(document: Document) -> _Policy:
    spec = spec_of(document)
    document.only(spec, ("podSelector", "policyTypes", "ingress", "egress"))
    egress, types = document.child(spec, "egress"), document.texts(spec, "policyTypes")
    wanted = types or (("Ingress", "Egress") if egress is not None else ("Ingress",))
    if any(item not in {"Ingress", "Egress"} for item in wanted):
        raise document.malformed("policyTypes", "Ingress and Egress")
    return _Policy(
        document=document,
        pods=read_selector(document, document.child(spec, "podSelector")),
        ingress=_rules(document, spec, "ingress", "from") if "Ingress" in wanted else None,
        egress=_rules(document, spec, "egress", "to") if "Egress" in wanted else None,
    )


def _rules(document: Document, spec: Node, field: str, peers: str) -> tuple[_Rule, ...]:
    found = []
    for item in document.items(spec, field) or ():
        rule = Node(kind="map", span=item.span) if item.kind == "null" else item
        document.only(rule, (peers, "ports"))
        named = document.items(rule, peers)
        # an empty list is no list: anybody, on any port
        listed = tuple(_peer(document, peer) for peer in named) if named else None
        ports = document.items(rule, "ports")
        found.append(_Rule(listed, _ports(document, ports) if ports else None))
    return tuple(found)


def _peer(document: Document, node: Node) -> _Peer:
    document.only(node, ("podSelector", "namespaceSelector", "ipBlock"))
    block = document.child(node, "ipBlock")
    if block is None:
        pods, namespaces = document.child(node, "podSelector"), document.child(node, "namespaceSelector")
        if pods is None and namespaces is None:
            raise document.malformed("from", "peers with a selector or a block", node)
        return _Peer(
            None if namespaces is None else read_selector(document, namespaces),
            None if pods is None else read_selector(document, pods),
        )
    document.only(block, ("cidr", "except"))
    reading = istiofields.Reading(document, "ipBlock", False, TrustDomain("x"))
    cidr, excepted = document.text(block, "cidr"), document.texts(block, "except")
    try:
        inside = istiofields.block(reading, cidr, False).patterns or ()
        outside = [item for text in excepted or () for item in istiofields.block(reading, text, True).patterns or ()]
    except istiofields.CannotSay:
        raise document.malformed("ipBlock", "address ranges", block) from None
    return _Peer(block=field_of(NETWORKS, inside, tuple(outside)) or Field(()))


def _ports(document: Document, nodes: Sequence[Node]) -> tuple[tuple[int, int] | str, ...]:
    found: list[tuple[int, int] | str] = []
    for node in nodes:
        document.only(node, ("protocol", "port", "endPort"))
        protocol = document.text(node, "protocol", "TCP")
        port, end = document.child(node, "port"), document.child(node, "endPort")
        if protocol != "TCP":
            document.note(REFUSED, f"ports of {protocol}", "Limen guards TCP", node)
        elif port is None:
            found.append(_EVERY_PORT)
        elif isinstance(port.scalar, int):
            last = end.scalar if end is not None and isinstance(end.scalar, int) else port.scalar
            found.append((port.scalar, last))
        else:
            found.append(str(port.scalar))
    return tuple(found)


# ---------------------------------------------------------------------- translating


@dataclasses.dataclass(slots=True, eq=False)
class _World:
    workloads: list[Workload]
    namespaces: Mapping[str, Mapping[str, str]]
    policies: list[_Policy]

    def selecting(self, workload: Workload, *, surely: bool) -> list[_Policy]:
        """The policies that select all pods of a workload, or, not ``surely``, any of them."""
        here = [policy for policy in self.policies if policy.document.namespace == workload.namespace]
        if surely:
            return [policy for policy in here if all(map(policy.pods.fits, workload.pods))]
        if workload.is_assumed:
            return [policy for policy in here if any(map(policy.pods.may_fit, workload.pods))]
        return [policy for policy in here if any(map(policy.pods.fits, workload.pods))]

    def holds(self, peer: _Peer, workload: Workload, home: str) -> bool:
        """Whether a peer names all pods of a workload."""
        if peer.block is not None:
            return False
        if peer.namespaces is None:
            in_place = workload.namespace == home
        else:
            labels = self.namespaces.get(workload.namespace, {NAMESPACE_LABEL: workload.namespace})
            in_place = peer.namespaces.fits(labels)
        return in_place and (peer.pods is None or all(peer.pods.fits(pod) for pod in workload.pods))


def _numbers(workload: Workload, rule: _Rule, ports: Mapping[int, Protocol]) -> frozenset[int]:
    """The declared ports of a workload that a rule names."""
    if rule.ports is None:
        return frozenset(ports)
    found: set[int] = set()
    for item in rule.ports:
        if isinstance(item, str):
            found |= {workload.port_names[item]} if item in workload.port_names else set()
        else:
            found |= {port for port in ports if item[0] <= port <= item[1]}
    return frozenset(found)


def _declared(workload: Workload, world: _World) -> dict[int, Protocol]:
    """The ports of a workload; where no manifest declares any, those that rules name one by one, else 8080."""
    ports: dict[int, Protocol] = {port: protocol or "tcp" for port, protocol in workload.ports.items()}
    if not workload.ports:
        for policy in world.selecting(workload, surely=False):
            for rule in policy.ingress or ():
                for item in rule.ports or ():
                    if not isinstance(item, str) and 1 <= item[0] == item[1] <= 65535:
                        ports[item[0]] = "tcp"
    if not ports:
        ports[DEFAULT_PORT] = "tcp"
        workload.document.note(ASSUMED, f"port {DEFAULT_PORT} of `{workload.name}`", "nothing names a port")
    return ports


def _translate(workload: Workload, world: _World) -> tuple[model.Service, tuple[model.Policy, ...]]:
    """One workload's service and policies."""
    ports = _declared(workload, world)
    every = tuple(sorted(ports))
    allows: list[Said] = []
    surely, perhaps = world.selecting(workload, surely=True), world.selecting(workload, surely=False)
    for policy in perhaps:
        if policy not in surely:
            policy.document.note(
                STRICTER, f"service `{workload.name}`", "only some of its pods are meant: none is here"
            )
    for policy in surely:
        for place, rule in enumerate(policy.ingress or ()):
            allows += _rule_allows(policy, place, rule, workload, world, ports)
    # (2)
    if not any(policy.ingress is not None for policy in perhaps):
        first = perhaps[0].document if perhaps else workload.document
        first.note(STRICTER, f"service `{workload.name}`", "nothing selects it: everybody with an identity is allowed")
        allows += _open(workload, world, ports, first, "open", Box(), frozenset(ports))
    service = service_of(workload.name, workload.identity, ports)
    return service, policies_of(workload.name, allows, (), every)


def _rule_allows(
    policy: _Policy, place: int, rule: _Rule, called: Workload, world: _World, ports: Mapping[int, Protocol]
) -> list[Said]:
    """What an ingress rule lets in."""
    document, name = policy.document, f"{policy.document.name}.{place}"
    numbers = _numbers(called, rule, ports)
    _note_undeclared(document, rule, called, ports)
    if rule.peers is None:
        document.note(STRICTER, f"rule {name}", "anybody is everybody with an identity")
        return _open(called, world, ports, document, name, Box(), numbers)
    found: list[Said] = []
    for peer in rule.peers:
        if peer.block is not None:
            document.note(STRICTER, f"rule {name}", "an address is a caller with an identity from that address")
            found += _open(called, world, ports, document, name, Box(peers=peer.block), numbers)
            continue
        document.note(ASSUMED, f"rule {name}", "pods are those of the workloads that are described; others are denied")
        for caller in world.workloads:
            if world.holds(peer, caller, document.namespace):
                left = numbers & _egress(caller, called, world, ports)
                if left:
                    box = Box(callers=Field((caller.identity,)))
                    found.append(Said(box=box, id=name, document=document, ports=tuple(sorted(left))))
    return found


def _note_undeclared(document: Document, rule: _Rule, called: Workload, ports: Mapping[int, Protocol]) -> None:
    """Ports that a rule opens and no manifest declares: Kubernetes lets them through, a service has only its own."""
    for item in rule.ports or ():
        if isinstance(item, str) or item == _EVERY_PORT:
            continue
        first, last = item
        if sum(first <= port <= last for port in ports) < last - first + 1:
            what = f"port {first}" if first == last else f"the range of ports {first} to {last}"
            reason = f"`{called.name}` has only those that a manifest declares: {', '.join(map(str, sorted(ports)))}"
            document.note(STRICTER, what, reason)


def _open(
    called: Workload,
    world: _World,
    ports: Mapping[int, Protocol],
    document: Document,
    name: str,
    box: Box,
    numbers: frozenset[int],
) -> list[Said]:
    """Everybody on some ports, but for callers whose egress rules do not allow it (step 3)."""
    found = []
    for port in sorted(numbers):
        held = tuple(caller.identity for caller in world.workloads if port not in _egress(caller, called, world, ports))
        callers = field_of(CALLERS, None, held)
        assert callers is not None, "everybody is somebody"
        found.append(Said(box=dataclasses.replace(box, callers=callers), id=name, document=document, ports=(port,)))
    return found


def _egress(caller: Workload, called: Workload, world: _World, ports: Mapping[int, Protocol]) -> frozenset[int]:
    """The ports of a called workload that a caller's egress rules allow."""
    perhaps = [policy for policy in world.selecting(caller, surely=False) if policy.egress is not None]
    if not perhaps:
        return frozenset(ports)
    surely = world.selecting(caller, surely=True)
    found: set[int] = set()
    for policy in perhaps:
        if policy not in surely:
            policy.document.note(STRICTER, f"caller `{caller.name}`", "only some of its pods are meant: all are held")
            continue
        for rule in policy.egress or ():
            if any(peer.block is not None for peer in rule.peers or ()):
                policy.document.note(STRICTER, "egress", "a caller may call workloads, not addresses")
            if rule.peers is None or any(world.holds(peer, called, policy.document.namespace) for peer in rule.peers):
                found |= _numbers(called, rule, ports)
    return frozenset(found)
