"""Who an address was, by Kubernetes objects: `kubectl get pods,services,endpoints,nodes -A -o json`, one document.

1. A pod's addresses are its service account's, `spiffe://TD/ns/NAMESPACE/sa/ACCOUNT`, from its start until its end.
2. A pod on its host's network has no address of its own: only its host ports are its.
3. A service's addresses and ports are the identity of the pods behind it, by Endpoints or EndpointSlices, else by its
   selector; where those are of several accounts, or none, its addresses are nobody's, and that is said.

Pure: a document in, assignments out.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from learner.attribution import Assignment, normal_ip
from mesh.clock import parse_time
from mesh.spiffe import SpiffeId, SpiffeIdError

_ENDED = frozenset({"Succeeded", "Failed"})
Object = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Pod:
    """What a pod says of addresses."""

    namespace: str
    name: str
    spiffe_id: str
    ips: tuple[str, ...]
    labels: Mapping[str, str]
    begin: dt.datetime | None
    end: dt.datetime | None
    is_on_host: bool
    host_ports: tuple[tuple[str, int], ...]


def is_objects(data: bytes) -> Object | None:
    """The document if the bytes are one of Kubernetes objects, None if they are something else."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and "kind" in found and "apiVersion" in found else None


def assignments(document: Object, trust_domain: str) -> tuple[list[Assignment], list[str]]:
    """The assignments of a document, and what cannot be attributed, each as a sentence."""
    kinds: dict[str, list[Object]] = {}
    reasons: list[str] = []
    for item in document.get("items", [document]):
        if isinstance(item, dict):
            kinds.setdefault(str(item.get("kind", "")), []).append(item)
    pods = _pods(kinds.get("Pod", []), trust_domain, reasons)
    found = [one for pod in pods for one in _of_pod(pod)]
    behind = _endpoints([*kinds.get("Endpoints", []), *kinds.get("EndpointSlice", [])])
    nodes = _nodes(kinds.get("Node", []))
    for item in kinds.get("Service", []):
        try:
            found += _of_service(item, pods, behind, nodes, reasons)
        except (ValueError, TypeError, KeyError, AttributeError) as err:
            reasons.append(f"a service cannot be read: {err}")
    return found, reasons


def pods_at(document: Object, trust_domain: str, now: dt.datetime) -> list[Pod]:
    """The pods of a document that run at a moment; what is no pod that can be read is left out."""
    items = [item for item in document.get("items", [document]) if isinstance(item, dict) and item.get("kind") == "Pod"]
    return [
        pod
        for pod in _pods(items, trust_domain, [])
        if (pod.begin is None or pod.begin <= now) and (pod.end is None or now < pod.end)
    ]


def _pods(items: Iterable[Object], trust_domain: str, reasons: list[str]) -> list[Pod]:
    found = []
    for item in items:
        try:
            found.append(_pod(item, trust_domain))
        except (ValueError, TypeError, KeyError, AttributeError) as err:
            reasons.append(f"a pod cannot be read: {err}")
    return found


def _pod(item: Object, trust_domain: str) -> Pod:
    meta, spec, status = item["metadata"], item["spec"], item.get("status", {})
    namespace, account = str(meta["namespace"]), str(spec.get("serviceAccountName", "default"))
    name = f"spiffe://{trust_domain}/ns/{namespace}/sa/{account}"
    try:
        SpiffeId.parse(name)
    except SpiffeIdError as err:
        raise ValueError(f"{meta.get('name')}: {err}") from err
    ips = [entry["ip"] for entry in status.get("podIPs", [])] or [status["podIP"]] * bool(status.get("podIP"))
    ports = [
        (str(port.get("hostIP") or status.get("hostIP", "")), int(port["hostPort"]))
        for container in spec.get("containers", [])
        for port in container.get("ports", [])
        if port.get("hostPort")
    ]
    start = status.get("startTime")
    return Pod(
        namespace,
        str(meta["name"]),
        name,
        tuple(normal_ip(str(ip)) for ip in ips),
        dict(meta.get("labels") or {}),
        parse_time(start) if start else None,
        _end(status),
        spec.get("hostNetwork") is True,
        tuple((normal_ip(ip), port) for ip, port in ports if ip),
    )


def _end(status: Object) -> dt.datetime | None:
    """When a pod that has ended gave its address back: its last container's end."""
    if status.get("phase") not in _ENDED:
        return None
    ends = [
        parse_time(entry["state"]["terminated"]["finishedAt"])
        for entry in status.get("containerStatuses", [])
        if entry.get("state", {}).get("terminated", {}).get("finishedAt")
    ]
    return max(ends, default=None)


def _of_pod(pod: Pod) -> Iterator[Assignment]:
    """Steps 1 and 2."""
    for ip, port in pod.host_ports:
        yield Assignment(ip=ip, spiffe_id=pod.spiffe_id, port=port, begin=pod.begin, end=pod.end)
    if not pod.is_on_host:
        for ip in pod.ips:
            yield Assignment(ip=ip, spiffe_id=pod.spiffe_id, begin=pod.begin, end=pod.end)


def _endpoints(items: list[Object]) -> dict[tuple[str, str], set[str]]:
    """The names of the pods behind each service."""
    found: dict[tuple[str, str], set[str]] = {}
    for item in items:
        meta = item.get("metadata", {})
        service = meta.get("labels", {}).get("kubernetes.io/service-name", meta.get("name"))
        entries = [entry for subset in item.get("subsets") or [] for entry in subset.get("addresses") or []]
        names = found.setdefault((str(meta.get("namespace")), str(service)), set())
        for entry in [*entries, *(item.get("endpoints") or [])]:
            target = entry.get("targetRef") or {}
            if target.get("kind") == "Pod":
                names.add(str(target.get("name")))
    return found


def _nodes(items: list[Object]) -> list[str]:
    return [
        normal_ip(str(entry["address"]))
        for item in items
        for entry in item.get("status", {}).get("addresses", [])
        if entry.get("type") in {"InternalIP", "ExternalIP"}
    ]


def _of_service(
    item: Object,
    pods: list[Pod],
    behind: dict[tuple[str, str], set[str]],
    nodes: list[str],
    reasons: list[str],
) -> Iterator[Assignment]:
    """Step 3."""
    meta, spec = item["metadata"], item["spec"]
    namespace, name = str(meta["namespace"]), str(meta["name"])
    addresses = [ip for ip in spec.get("clusterIPs") or [spec.get("clusterIP")] if ip and ip != "None"]
    addresses += spec.get("externalIPs") or []
    addresses += [
        entry["ip"] for entry in item.get("status", {}).get("loadBalancer", {}).get("ingress") or [] if "ip" in entry
    ]
    if not addresses:
        return
    names = behind.get((namespace, name))
    selector = spec.get("selector") or {}
    chosen = {
        pod.spiffe_id
        for pod in pods
        if pod.namespace == namespace
        and (
            pod.name in names
            if names is not None
            else bool(selector) and all(pod.labels.get(key) == value for key, value in selector.items())
        )
    }
    if len(chosen) != 1:
        accounts = "no known pod" if not chosen else f"{len(chosen)} service accounts"
        reasons.append(f"service {namespace}/{name} has {accounts} behind it: its addresses are nobody's")
        return
    identity = chosen.pop()
    for port in spec.get("ports") or []:
        for ip in addresses:
            yield Assignment(ip=normal_ip(str(ip)), spiffe_id=identity, port=int(port["port"]))
        for ip in nodes if port.get("nodePort") else ():
            yield Assignment(ip=ip, spiffe_id=identity, port=int(port["nodePort"]))
