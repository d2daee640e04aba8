"""Exports the spans that sidecars tell, to an OpenTelemetry collector or Jaeger: OTLP/HTTP in its JSON encoding.

Spans wait in a bounded queue, nobody waits for the collector, and what is lost is counted (`limen_agent_spans_total`).
`OTEL_EXPORTER_OTLP_HEADERS` gives headers to send along. The official exporter is not used: the messages that it brings
have the same names on the disk as those of xds-protos, and whichever is installed last breaks the other.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
import urllib.parse
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import structlog

from enforcer.agentmetrics import SPANS
from mesh.problems import Invalid
from mesh.spiffe import SpiffeId, SpiffeIdError

MAX_WAITING = 8192
BATCH = 512
PAUSE_S = 1.0
TIMEOUT_S = 10.0
WHOLE = 1_000_000
_DEFAULT_PATH = "/v1/traces"

_TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")
_SPAN_ID = re.compile(r"(?!0{16})[0-9a-f]{16}")
_SERVER, _ERROR = 2, 2
"""SPAN_KIND_SERVER and STATUS_CODE_ERROR of opentelemetry/proto/trace/v1/trace.proto."""


class Span(NamedTuple):
    """A span in the JSON encoding of OTLP, and the workload that was called."""

    workload: SpiffeId
    fields: Mapping[str, object]


Send = Callable[[Sequence[Span]], bool]


class Tracing(NamedTuple):
    """Where spans go, and how many in a million of the requests that belong to no trace begin one."""

    endpoint: str
    per_million: int

    @classmethod
    def parse(cls, endpoint: str | None, ratio: float) -> Tracing | None:
        """Read what people say; None without an endpoint.

        Raises Invalid LM3309 unless the endpoint is an http or https URL and the ratio a number from 0 to 1.
        """
        if endpoint is None:
            return None
        try:
            parts = urllib.parse.urlsplit(endpoint)
            is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and not parts.query and parts.port != 0
        except ValueError as err:
            raise Invalid("LM3309", endpoint=endpoint, ratio=ratio) from err
        if not is_url or not 0 <= ratio <= 1:
            raise Invalid("LM3309", endpoint=endpoint, ratio=ratio)
        path = parts.path if parts.path not in {"", "/"} else _DEFAULT_PATH
        return cls(urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, "", "")), round(ratio * WHOLE))


class Exporter:
    """The queue of spans, and what empties it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: deque[tuple[str, Mapping[str, object]]] = deque()
        self._came = asyncio.Event()
        self._failed = False
        self._log = structlog.get_logger()

    def take(self, workload: str, message: Mapping[str, object]) -> None:
        """Take what a sidecar told of the workload with this SPIFFE ID. What there is no room for is counted."""
        rows, dropped = message.get("spans"), message.get("dropped")
        if not isinstance(rows, list) or not isinstance(dropped, int):
            raise Invalid("LM3002", reason="spans come in a list, with how many were dropped")
        room = MAX_WAITING - len(self._waiting)
        self._waiting.extend((workload, row) for row in rows[:room])
        if lost := dropped + len(rows[room:]):
            SPANS.labels(outcome="dropped").inc(lost)
        self._came.set()

    async def run(self) -> None:
        """Hand spans to the collector as they come, in batches, until cancelled. A batch that it refuses is lost."""
        while True:
            await self._came.wait()
            self._came.clear()
            while self._waiting:
                taken = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                spans = [span for row in taken if (span := readable(*row)) is not None]
                is_sent = await asyncio.to_thread(self._send, spans)
                SPANS.labels(outcome="exported" if is_sent else "failed").inc(len(spans))
                SPANS.labels(outcome="dropped").inc(len(taken) - len(spans))
                if not is_sent and not self._failed:
                    self._log.warning("spans could not be exported", spans=len(spans))
                self._failed = not is_sent
            await asyncio.sleep(PAUSE_S)


def sender(endpoint: str) -> Send:
    """What sends spans to an endpoint; it blocks for ten seconds at most.

    Raises Invalid LM3309 when the headers in `OTEL_EXPORTER_OTLP_HEADERS` cannot be read.
    """
    import httpx2  # noqa: PLC0415  asked for here alone

    headers = {"content-type": "application/json", **_headers(endpoint)}
    client = httpx2.Client(headers=headers, timeout=TIMEOUT_S, verify=ssl.create_default_context())

    def send(spans: Sequence[Span]) -> bool:
        try:
            return client.post(endpoint, content=request_of(spans)).is_success
        except httpx2.HTTPError:
            return False

    return send


def _headers(endpoint: str) -> dict[str, str]:
    """The headers to send along: `name=value` with commas between, percent-encoded (OpenTelemetry, OTLP exporter)."""
    found = {}
    for part in filter(None, os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", "").split(",")):
        name, equals, value = (urllib.parse.unquote(text).strip() for text in part.partition("="))
        if not equals or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or not re.fullmatch(r"[ -~]*", value):
            raise Invalid("LM3309", endpoint=endpoint, ratio="headers that cannot be read")
        found[name.lower()] = value
    return found


def request_of(spans: Sequence[Span]) -> bytes:
    """An ExportTraceServiceRequest: the spans by the workload that was called (OTLP 1.0, JSON Protobuf encoding)."""
    of_workload: dict[SpiffeId, list[Mapping[str, object]]] = {}
    for span in spans:
        of_workload.setdefault(span.workload, []).append(span.fields)
    resources = [
        {
            "resource": {
                "attributes": _attributes(
                    {
                        "service.name": str(workload).rpartition("/")[2],
                        "service.namespace": str(workload.trust_domain),
                        "service.instance.id": str(workload),
                    }
                )
            },
            "scopeSpans": [{"scope": {"name": "limen.sidecar"}, "spans": rows}],
        }
        for workload, rows in of_workload.items()
    ]
    return json.dumps({"resourceSpans": resources}).encode()


def readable(workload: str, row: Mapping[str, object]) -> Span | None:
    """A span as it is exported; None for a row that is none. ``workload`` is the called one's SPIFFE ID."""
    try:
        service = SpiffeId.parse(workload)
        trace_id, span_id, parent_id = str(row["trace_id"]), str(row["span_id"]), str(row["parent_id"])
        begin, end = int(str(row["begin_ns"])), int(str(row["end_ns"]))
        attributes, error = row["attributes"], str(row["error"])
    except (SpiffeIdError, KeyError, ValueError):
        return None
    if not isinstance(attributes, dict) or not _TRACE_ID.fullmatch(trace_id) or not _SPAN_ID.fullmatch(span_id):
        return None
    if parent_id and not _SPAN_ID.fullmatch(parent_id):
        return None
    fields: dict[str, object] = {
        "traceId": trace_id,
        "spanId": span_id,
        "name": str(attributes.get("http.request.method", "HTTP")),
        "kind": _SERVER,
        "flags": 1,
        # a 64-bit number is text in JSON
        "startTimeUnixNano": str(begin),
        "endTimeUnixNano": str(end),
        "attributes": _attributes(attributes),
    }
    if parent_id:
        fields["parentSpanId"] = parent_id
    if error:
        fields["status"] = {"code": _ERROR, "message": error}
    return Span(service, fields)


def _attributes(values: Mapping[Any, object]) -> list[dict[str, object]]:
    """Attributes that are text or whole numbers, as KeyValue messages; others are left out."""
    found: list[dict[str, object]] = []
    for name, value in values.items():
        if isinstance(value, str):
            found.append({"key": str(name), "value": {"stringValue": value}})
        elif isinstance(value, int) and not isinstance(value, bool):
            found.append({"key": str(name), "value": {"intValue": str(value)}})
    return found
