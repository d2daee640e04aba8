"""The list of workloads that exports take: who has which labels and addresses, one JSON object a line, or pods.

The fields of `limen learn propose --workloads` mean the same here (`ip`, `spiffe_id`, `from`, `until`); `labels` is a
mapping, `service` a name in Consul. Lines about one identity add up. A document of Kubernetes objects (`kubectl get
pods -A -o json`) is taken as well: the labels of an account are those that all its running pods have.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import pathlib
from collections.abc import Sequence

from learner import kubernetes
from learner.attribution import TRUST_DOMAIN
from mesh.clock import parse_time
from mesh.problems import Invalid, NotFound
from mesh.spiffe import SpiffeId, SpiffeIdError
from policyengine.compile.export import Workload

_FIELDS = frozenset({"spiffe_id", "ip", "port", "from", "until", "labels", "namespace", "service", "protocol"})
MAX_BYTES = 64 << 20
# what controllers put on the pods of one revision, or on one pod
_OF_ONE_POD = frozenset(
    {
        "pod-template-hash",
        "controller-revision-hash",
        "pod-template-generation",
        "statefulset.kubernetes.io/pod-name",
        "apps.kubernetes.io/pod-index",
        "batch.kubernetes.io/job-completion-index",
        "batch.kubernetes.io/controller-uid",
        "batch.kubernetes.io/job-name",
        "controller-uid",
        "job-name",
    }
)


def read_workloads(path: pathlib.Path, now: dt.datetime, trust_domain: str = TRUST_DOMAIN) -> dict[SpiffeId, Workload]:
    """Read a list; lines whose time is not now are left out. Pods have identities of the trust domain.

    Raises NotFound (LM2022) and Invalid (LM2514).
    """
    text = _text(path)
    document = kubernetes.is_objects(text.encode())
    if document is not None:
        return _of_pods(kubernetes.pods_at(document, trust_domain, now))
    labels: dict[SpiffeId, dict[str, str]] = {}
    addresses: dict[SpiffeId, list[str]] = {}
    names: dict[SpiffeId, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            identity, is_now = _identity(row), _is_now(row, now)
            given, address = _labels(row), _address(row)
        except (ValueError, RecursionError) as err:
            reason = "it is not JSON" if isinstance(err, json.JSONDecodeError | RecursionError) else str(err)
            raise Invalid("LM2514", line=number, reason=reason) from err
        if not is_now:
            continue
        if labels.setdefault(identity, given) != given and given:
            labels[identity] = dict(set(labels[identity].items()) & set(given.items())) if labels[identity] else given
        if address is not None and address not in addresses.setdefault(identity, []):
            addresses[identity].append(address)
        if isinstance(row.get("service"), str):
            names[identity] = row["service"]
    return {
        identity: Workload(
            labels=tuple(sorted(labels[identity].items())),
            addresses=tuple(addresses.get(identity, ())),
            consul=names.get(identity),
        )
        for identity in labels
    }


def _of_pods(pods: Sequence[kubernetes.Pod]) -> dict[SpiffeId, Workload]:
    """Each account with what ALL its pods are labelled with, and with their addresses."""
    labels: dict[SpiffeId, set[tuple[str, str]]] = {}
    addresses: dict[SpiffeId, dict[str, None]] = {}
    for pod in pods:
        identity = SpiffeId.parse(pod.spiffe_id)
        mine = {(str(name), str(value)) for name, value in pod.labels.items() if name not in _OF_ONE_POD}
        labels[identity] = labels[identity] & mine if identity in labels else mine
        addresses.setdefault(identity, {}).update(dict.fromkeys(() if pod.is_on_host else pod.ips))
    return {
        identity: Workload(labels=tuple(sorted(found)), addresses=tuple(addresses[identity]))
        for identity, found in labels.items()
    }


def _text(path: pathlib.Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise Invalid("LM2514", line=1, reason=f"a list is at most {MAX_BYTES} bytes long")
        return path.read_text("utf-8")
    except OSError as err:
        raise NotFound("LM2022", file=str(path), reason=err.strerror or "it cannot be read") from err
    except UnicodeDecodeError as err:
        raise Invalid("LM2514", line=1, reason="it is not UTF-8") from err


def _identity(row: object) -> SpiffeId:
    if not isinstance(row, dict):
        raise ValueError("it is no object")
    unknown = sorted(set(row) - _FIELDS)
    if unknown:
        raise ValueError(f"`{unknown[0]}` is no field of it")
    try:
        return SpiffeId.parse(str(row.get("spiffe_id")))
    except SpiffeIdError as err:
        raise ValueError(f"`spiffe_id`: {err}") from None


def _is_now(row: dict[str, object], now: dt.datetime) -> bool:
    moments = {}
    for field in ("from", "until"):
        value = row.get(field)
        if value is not None:
            if not isinstance(value, str):
                raise ValueError(f"`{field}` is an RFC 3339 timestamp")
            moments[field] = parse_time(value)
    return moments.get("from", now) <= now and ("until" not in moments or now < moments["until"])


def _labels(row: dict[str, object]) -> dict[str, str]:
    found = row.get("labels", {})
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError("`labels` is a mapping of texts")
    return dict(found)


def _address(row: dict[str, object]) -> str | None:
    found = row.get("ip")
    if found is None:
        return None
    try:
        return str(ipaddress.ip_address(str(found)))
    except ValueError:
        raise ValueError("`ip` is an address") from None
