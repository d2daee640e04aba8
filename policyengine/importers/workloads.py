"""The workloads that policies of a cluster select: identity, labels and ports, from manifests.

Deployments, other controllers and pods give labels, service account and container ports; Services give protocols. A
workload is what shares an identity: Limen tells no more apart. Where no manifest describes what a policy selects, the
workload is assumed from the selector and the report says so. A selector selects a workload surely, perhaps (only some
of its pods, or labels that nobody knows) or not at all.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping, Sequence

from mesh.request import Protocol
from mesh.spiffe import SpiffeId, SpiffeIdError, SpiffePattern, TrustDomain
from mesh.yamlio import Node
from policyengine.importers.documents import ASSUMED, Document, Malformed, spec_of

CONTROLLERS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob", "Pod")
KINDS = (*CONTROLLERS, "Service", "ServiceAccount", "Namespace")
_PREFIXES: Mapping[str, Protocol] = {
    "http": "http", "http2": "http", "grpc": "grpc", "grpc-web": "grpc", "tcp": "tcp", "tls": "tcp", "https": "tcp",
    "mongo": "tcp", "mysql": "tcp", "redis": "tcp",
}  # fmt: skip
DEFAULT_PORT = 8080


class Selected(enum.Enum):
    """Whether a selector selects a workload."""

    YES = "yes"
    PERHAPS = "perhaps"
    NO = "no"


@dataclasses.dataclass(slots=True, eq=False)
class Workload:
    """What shares an identity. ``pods`` are the labels of its kinds of pods; ``ports`` None is not known.

    ``is_assumed``: made up from a selector, so that its pods may have more labels than are known.
    """

    namespace: str
    identity: SpiffePattern
    pods: list[dict[str, str]]
    ports: dict[int, Protocol | None]
    port_names: dict[str, int]
    document: Document
    is_assumed: bool = False
    name: str = ""

    def selected_by(self, labels: Mapping[str, str]) -> Selected:
        """Whether a set of labels selects the pods of the workload."""
        fits = [all(pod.get(key) == value for key, value in labels.items()) for pod in self.pods]
        if all(fits):
            return Selected.YES
        if any(fits):
            return Selected.PERHAPS
        if self.is_assumed and any(
            all(pod.get(key, value) == value for key, value in labels.items()) for pod in self.pods
        ):
            return Selected.PERHAPS
        return Selected.NO


@dataclasses.dataclass(frozen=True, slots=True)
class KubernetesService:
    """A Service: what it selects, and the protocol of each target port by number or name."""

    namespace: str
    name: str
    selector: Mapping[str, str]
    protocols: Mapping[int | str, Protocol | None]


def read_workloads(
    documents: Iterable[Document], domain: TrustDomain
) -> tuple[list[Workload], list[KubernetesService]]:
    """The workloads and Services that the documents describe.

    A document that cannot be read has a finding and gives none.
    """
    documents = list(documents)
    services: list[KubernetesService] = []
    found: dict[SpiffePattern, Workload] = {}
    for document in documents:
        try:
            if document.kind == "Service":
                services.append(_service(document))
            elif document.kind in CONTROLLERS:
                _add(document, domain, found)
        except Malformed:
            continue
    for workload in found.values():
        for service in services:
            if service.namespace == workload.namespace and service.selector:
                _apply(service, workload)
    return list(found.values()), services


def _add(document: Document, domain: TrustDomain, found: dict[SpiffePattern, Workload]) -> None:
    spec, head = spec_of(document), document.child(document.node, "metadata")
    if document.kind == "CronJob":
        job = document.child(spec, "jobTemplate")
        spec = document.child(job, "spec") or spec if job is not None else spec
    if document.kind != "Pod":
        template = document.child(spec, "template")
        if template is None:
            raise document.malformed("template", "a pod template")
        head, spec = document.child(template, "metadata"), document.child(template, "spec") or spec
    account = document.text(spec, "serviceAccountName") or document.text(spec, "serviceAccount") or "default"
    identity = _identity(document, domain, document.namespace, account)
    if identity not in found:
        name = account if account != "default" else document.name
        found[identity] = Workload(document.namespace, identity, [], {}, {}, document, name=name)
    workload = found[identity]
    workload.pods.append(document.labels(head, "labels"))
    for container in document.items(spec, "containers") or ():
        for port in document.items(container, "ports") or ():
            number = _port(document, port, "containerPort")
            if document.text(port, "protocol", "TCP") == "TCP":
                workload.ports.setdefault(number, None)
                if name := document.text(port, "name"):
                    workload.port_names[name] = number


def _identity(document: Document, domain: TrustDomain, namespace: str, account: str) -> SpiffePattern:
    try:
        return SpiffePattern(SpiffeId.from_segments(domain, "ns", namespace, "sa", account), subtree=False)
    except SpiffeIdError as err:
        raise document.malformed("serviceAccountName", f"part of a SPIFFE ID: {err}") from None


def _port(document: Document, node: Node, field: str) -> int:
    found = document.child(node, field)
    if found is None or not isinstance(found.scalar, int) or not 1 <= found.scalar <= 65535:
        raise document.malformed(field, "a whole number from 1 to 65535", found or node)
    return found.scalar


def _service(document: Document) -> KubernetesService:
    spec = spec_of(document)
    protocols: dict[int | str, Protocol | None] = {}
    for port in document.items(spec, "ports") or ():
        number = _port(document, port, "port")
        target = document.child(port, "targetPort")
        key = target.scalar if target is not None and isinstance(target.scalar, int | str) else number
        named = document.text(port, "appProtocol") or document.text(port, "name")
        word = named.lower().removeprefix("kubernetes.io/")
        protocols[key] = _PREFIXES.get(word) or _PREFIXES.get(word.partition("-")[0])
    return KubernetesService(document.namespace, document.name, document.labels(spec, "selector"), protocols)


def _apply(service: KubernetesService, workload: Workload) -> None:
    """Take the protocols of a Service over to the ports of a workload that it selects."""
    if workload.selected_by(service.selector) is Selected.NO:
        return
    for target, protocol in service.protocols.items():
        number = workload.port_names.get(target) if isinstance(target, str) else target
        if number is not None and workload.ports.get(number) is None:
            workload.ports[number] = protocol


def assume(document: Document, labels: Mapping[str, str], domain: TrustDomain, namespace: str) -> Workload:
    """A workload that nothing describes, made up from what selects it.

    No labels: everything in the namespace.
    """
    name = next((labels[key] for key in ("app", "app.kubernetes.io/name", "k8s-app") if key in labels), "")
    name = name or next((labels[key] for key in sorted(labels)), namespace)
    if labels:
        identity = _identity(document, domain, namespace, name)
    else:
        identity = SpiffePattern.parse(f"spiffe://{domain}/ns/{namespace}/**")
    document.note(ASSUMED, f"the workload `{identity}`", "no manifest describes what it selects")
    return Workload(namespace, identity, [dict(labels)], {}, {}, document, is_assumed=True, name=name)


def name_all(workloads: Sequence[Workload]) -> None:
    """Give every workload a service name of its own: its account's, made unique by the namespace."""
    names = [item.name for item in workloads]
    for item in workloads:
        if names.count(item.name) > 1:
            item.name = f"{item.name}-{item.namespace}"
    seen: set[str] = set()
    for item in workloads:
        base, number = item.name, 2
        while item.name in seen:
            item.name, number = f"{base}-{number}", number + 1
        seen.add(item.name)
