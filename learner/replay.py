"""What a tree would have denied of flows that it was not learned from: the exact list, request by request.

The policy engine decides each kind of request once. What hangs on headers, tokens or the time of day cannot be told
from flows, and is listed as uncertain by its code. This module learns nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from mesh.clock import format_time
from mesh.flow import Flow
from mesh.request import Request
from policyengine.decide import Index
from policyengine.model import PolicySet


@dataclasses.dataclass(slots=True)
class _Row:
    flow: Flow
    code: str
    connections: int = 0


def would_deny(policies: PolicySet, flows: Iterable[Flow]) -> tuple[int, list[dict[str, object]]]:
    """How many connections were looked at, and each request that the tree denies, most frequent first."""
    index = Index(policies, "held-out")
    known: dict[tuple[object, ...], _Row | None] = {}
    total = 0
    for flow in flows:
        total += flow.connections
        key = (
            flow.source, flow.source_ip, flow.destination, flow.destination_ip, flow.destination_port, flow.protocol,
            flow.method, flow.path,
        )  # fmt: skip
        if key not in known:
            known[key] = _decide(index, flow)
        row = known[key]
        if row is not None:
            row.connections += flow.connections
    rows = sorted((row for row in known.values() if row is not None), key=_order)
    return total, [
        {
            "source": row.flow.source or row.flow.source_ip,
            "destination": row.flow.destination or row.flow.host or row.flow.destination_ip,
            "port": row.flow.destination_port,
            "protocol": row.flow.protocol,
            "method": row.flow.method,
            "path": row.flow.path,
            "status": row.flow.status,
            "first": format_time(row.flow.start),
            "connections": row.connections,
            "code": row.code,
        }
        for row in rows
    ]


def _order(row: _Row) -> tuple[object, ...]:
    flow = row.flow
    return (
        -row.connections, flow.source is None, flow.source or flow.source_ip or "", flow.destination or "",
        flow.destination_port, flow.method or "", flow.path or "",
    )  # fmt: skip


def _decide(index: Index, flow: Flow) -> _Row | None:
    if flow.destination is None or flow.protocol == "udp":
        return _Row(flow, "no service of the tree")
    request = Request(
        service=flow.destination,
        port=flow.destination_port,
        protocol=flow.protocol,
        source=flow.source,
        method=flow.method,
        path=flow.path,
        time=flow.start,
    )
    found = index.decide(request)
    return None if found.is_allowed else _Row(flow, found.code)
