"""Reads OpenTelemetry traces as OTLP JSON: one request a line, as the collector's file exporter writes, or a document.

A server's span and the client's that is its parent are one exchange with both ends named; a span whose other half
does not come is one with what it says alone. Traces are sampled: without a threshold in `tracestate`
(`ot=th:…`), the rate is not known, and the account says so. Memory is bounded by ``MAX_OPEN`` spans.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from learner.sources import fields
from learner.sources.ledger import Ledger
from learner.sources.rows import Input, Object, Outcome, json_object, read_json
from mesh.flow import Flow, FlowProtocol
from mesh.problems import Diagnostic

MAX_OPEN = 100_000
_SERVER, _CLIENT = "SERVER", "CLIENT"
_KINDS = {2: _SERVER, 3: _CLIENT, "SPAN_KIND_SERVER": _SERVER, "SPAN_KIND_CLIENT": _CLIENT}
_THRESHOLD = re.compile(r"(?:^|,)\s*ot=(?:[^,]*;)?th:([0-9a-f]{1,14})(?:[;,]|\s|$)")
_GRPC = {7: 403, 12: 404, 16: 401}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What one span says of an exchange: ``mine`` is its own side's address, ``other`` the other side's."""

    kind: str
    start: dt.datetime
    end: dt.datetime
    mine: str | None
    other: str | None
    port: int | None
    protocol: FlowProtocol
    method: str | None
    path: str | None
    status: int | None
    replica: str | None
    version: str | None


def read_flows(path: pathlib.Path, findings: list[Diagnostic], ledger: Ledger) -> Iterator[Flow]:
    """The flows of a file of traces.

    Raises Invalid LM4001 when the file cannot be read.
    """
    source = Input(path, findings, ledger)
    joined = _Joined(ledger)
    yield from read_json(source, joined.outcomes)
    yield from source.count(joined.finish())


def recognises(head: bytes) -> bool:
    """Whether it begins with spans of resources."""
    text = head.lstrip()
    try:
        return isinstance(json_object(text.partition(b"\n")[0]).get("resourceSpans"), list)
    except (ValueError, RecursionError):
        return text[:1] == b"{" and text[1:].lstrip().startswith(b'"resourceSpans"')


class _Joined:
    """Spans that wait for their other half: clients by their own number, servers by their parent's."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._open: dict[tuple[str, str, str], Span] = {}

    def outcomes(self, row: Object) -> Iterator[list[Outcome]]:
        for resource in fields.items(row, "resourceSpans"):
            facts = _attributes(fields.mapping(resource, "resource"))
            for scope in fields.items(resource, "scopeSpans"):
                for span in fields.items(scope, "spans"):
                    yield self._take(span, facts)

    def finish(self) -> Iterator[Outcome]:
        while self._open:
            yield _alone(self._open.pop(next(iter(self._open))))

    def _take(self, row: Mapping[str, Any], resource: Mapping[str, Any]) -> list[Outcome]:
        kind = _KINDS.get(row.get("kind", 0))
        if kind is None:
            return ["of no exchange between services"]
        self._ledger.mark_sampled(_one_in(fields.text(row, "traceState") or ""))
        span = _span(row, resource, kind)
        if span is None:
            return ["of another exchange than HTTP or RPC"]
        trace = str(row["traceId"])
        own = str(row["spanId"]) if kind == _CLIENT else (fields.text(row, "parentSpanId") or "")
        if not own:
            return [_alone(span)]
        found = self._open.pop((trace, own, _SERVER if kind == _CLIENT else _CLIENT), None)
        if found is not None:
            return [_both(span, found) if kind == _CLIENT else _both(found, span)]
        out: list[Outcome] = []
        if len(self._open) >= MAX_OPEN:
            out.append(_alone(self._open.pop(next(iter(self._open)))))
        self._open[(trace, own, kind)] = span
        return out


def _one_in(state: str) -> int:
    """One of so many traces is kept, by the rejection threshold of OpenTelemetry's TraceState: 56 bits."""
    found = _THRESHOLD.search(state)
    if found is None:
        return 0
    kept = (1 << 56) - int(found[1].ljust(14, "0"), 16)
    return round((1 << 56) / kept)


def _attributes(row: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for item in fields.items(row, "attributes"):
        value = fields.mapping(item, "value")
        for name in ("stringValue", "intValue", "boolValue", "doubleValue"):
            if name in value:
                out[str(item["key"])] = value[name]
        if "arrayValue" in value:
            values = fields.items(fields.mapping(value, "arrayValue"), "values")
            out[str(item["key"])] = next((entry["stringValue"] for entry in values if "stringValue" in entry), None)
    return out


def _span(row: Mapping[str, Any], resource: Mapping[str, Any], kind: str) -> Span | None:
    """A span by the names of the stable semantic conventions, or of those before them."""
    said = _attributes(row)
    is_grpc = said.get("rpc.system", said.get("rpc.system.name")) == "grpc"
    method = _first(said, "http.request.method", "http.method")
    path = _first(said, "url.path", "http.target")
    if path is None and (url := _first(said, "url.full", "http.url")) is not None:
        path = "/" + url.split("://", 1)[-1].partition("/")[2]
    status = said.get("http.response.status_code", said.get("http.status_code"))
    if is_grpc:
        service, name = _first(said, "rpc.service"), _first(said, "rpc.method") or ""
        path = f"/{service}/{name}" if service else f"/{name.lstrip('/')}"
        method, code = "POST", said.get("rpc.grpc.status_code")
        status = _GRPC.get(fields.number("rpc.grpc.status_code", code, 0, 99), 200) if code is not None else None
    elif method is None:
        return None
    local = _ip(_first(said, "network.local.address", "net.sock.host.addr")) if kind == _SERVER else None
    ports = (
        ("network.local.port", "net.host.port", "server.port")
        if kind == _SERVER
        else ("network.peer.port", "net.sock.peer.port", "server.port", "net.peer.port")
    )
    port = next((said[name] for name in ports if said.get(name) is not None), None)
    other = _first(said, "network.peer.address", "net.sock.peer.addr")
    if other is None and kind == _CLIENT:
        other = _first(said, "server.address", "net.peer.name")
    return Span(
        kind=kind,
        start=fields.nanoseconds("startTimeUnixNano", row["startTimeUnixNano"]),
        end=fields.nanoseconds("endTimeUnixNano", row["endTimeUnixNano"]),
        mine=_ip(_first(resource, "k8s.pod.ip", "host.ip")) or local,
        other=_ip(other),
        port=fields.port("port", port) if port is not None else None,
        protocol="grpc" if is_grpc else "http",
        method=method,
        path=path.partition("?")[0] if path is not None else None,
        status=fields.number("status", status, 0, 999) if status is not None else None,
        replica=_first(resource, "k8s.pod.name", "service.instance.id"),
        version=_first(resource, "service.version"),
    )


def _first(row: Mapping[str, Any], *names: str) -> str | None:
    for name in names:
        if (value := fields.text(row, name)) is not None:
            return value
    return None


def _ip(value: str | None) -> str | None:
    try:
        return fields.ip("address", value)
    except ValueError:
        return None


def _both(client: Span, server: Span) -> Outcome:
    return _flow(
        server,
        source=client.mine or server.other,
        destination=server.mine or client.other,
        port=server.port or client.port,
        replica=client.replica,
        sensors="otel",
    )


def _alone(span: Span) -> Outcome:
    """A span whose other half did not come: who is on its side is known, the other by what it says."""
    if span.kind == _SERVER:
        return _flow(
            span, source=span.other, destination=span.mine, port=span.port, replica=None, sensors="otel:server"
        )
    return _flow(
        span, source=span.mine, destination=span.other, port=span.port, replica=span.replica, sensors="otel:client"
    )


def _flow(
    span: Span, *, source: str | None, destination: str | None, port: int | None, replica: str | None, sensors: str
) -> Outcome:
    if port is None:
        return "without a port"
    return Flow(
        start=span.start,
        end=span.end,
        source_ip=source,
        destination_ip=destination,
        destination_port=port,
        protocol=span.protocol,
        method=span.method,
        path=span.path,
        status=span.status,
        established=True if span.kind == _SERVER or span.status is not None else None,
        replica=replica,
        version=span.version if span.kind == _SERVER else None,
        sensor=sensors,
    )
