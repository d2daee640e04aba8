"""Reads Envoy's JSON access logs, one object a line, by the keys that Istio and Envoy Gateway give them.

Keys: start_time, downstream_remote_address, downstream_local_address, upstream_host, upstream_cluster, and for HTTP
method, path and response_code; besides, downstream_direct_remote_address (the physical peer), downstream_peer_uri_san
and downstream_local_uri_san (SPIFFE IDs), grpc_status, content_type, duration (ms), upstream_local_address,
response_flags, response_code_details and connection_termination_details. Text logs are `learner.sources.istio`.
"""

from __future__ import annotations

import datetime as dt
import pathlib
from collections.abc import Iterable, Iterator

from learner.sources import fields
from learner.sources.ledger import Ledger
from learner.sources.proxied import Exchange, flows_of, host_of, physical
from learner.sources.rows import Input, Object, Outcome, json_object, read_objects
from mesh.flow import Flow
from mesh.problems import Diagnostic

INTERMEDIATE = "of an exchange that goes on"
_NEEDED = frozenset({"start_time", "downstream_local_address", "downstream_remote_address"})
_DENIED = ("rbac_access_denied", "ext_authz_denied")


def read_flows(path: pathlib.Path, findings: list[Diagnostic], ledger: Ledger) -> Iterator[Flow]:
    """The flows of a log.

    Raises Invalid LM4001 when the file cannot be read.
    """
    return read_objects(Input(path, findings, ledger), _flows)


def recognises(head: bytes) -> bool:
    """Whether the first line has the keys of an access log."""
    try:
        return set(json_object(head.lstrip().partition(b"\n")[0])) >= _NEEDED
    except (ValueError, RecursionError):
        return False


def _flows(row: Object) -> Iterable[Outcome]:
    kind = fields.text(row, "access_log_type")
    if kind is not None and not kind.endswith("End"):
        return [INTERMEDIATE]
    return flows_of(_exchange(row), "envoy")


def _exchange(row: Object) -> Exchange:
    start = fields.moment("start_time", row["start_time"])
    duration = row.get("duration")
    status = row.get("response_code")
    grpc_status = row.get("grpc_status")
    method = fields.text(row, "method")
    direct = fields.text(row, "downstream_direct_remote_address") or fields.text(row, "downstream_remote_address")
    kind = fields.text(row, "content_type") or ""
    return Exchange(
        start=start,
        end=start + dt.timedelta(milliseconds=fields.number("duration", duration, 0, 10**12))
        if _is(duration)
        else None,
        downstream=physical(fields.socket("downstream_remote_address", direct)),
        local=fields.socket("downstream_local_address", fields.text(row, "downstream_local_address")),
        upstream=fields.socket("upstream_host", fields.text(row, "upstream_host")),
        upstream_local=fields.socket("upstream_local_address", fields.text(row, "upstream_local_address")),
        cluster=fields.text(row, "upstream_cluster"),
        peer_id=fields.spiffe_id(row.get("downstream_peer_uri_san")),
        local_id=fields.spiffe_id(row.get("downstream_local_uri_san")),
        method=method,
        path=fields.text(row, "path"),
        status=fields.number("response_code", status, 0, 999) if _is(status) else None,
        grpc_status=fields.number("grpc_status", grpc_status, 0, 999) if _is(grpc_status) else None,
        is_grpc=method is not None and kind.startswith("application/grpc"),
        flags=frozenset((fields.text(row, "response_flags") or "").split(",")),
        host=host_of(fields.text(row, "requested_server_name"), fields.text(row, "authority")),
        is_denied=is_denied(
            fields.text(row, "response_code_details"), fields.text(row, "connection_termination_details")
        ),
    )


def is_denied(*details: str | None) -> bool:
    """Whether the details of an exchange say that an authorization filter denied it."""
    return any(detail is not None and detail.startswith(_DENIED) for detail in details)


def _is(value: object) -> bool:
    return value is not None and value != "-"
