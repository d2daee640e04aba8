"""Exports the spans that sidecars tell, to an OpenTelemetry collector or Jaeger over OTLP/HTTP.

The official exporter does the work; it is imported when somebody asked for spans and not before. Spans wait in a
bounded queue, nobody waits for the collector, and what is lost is counted (`limen_agent_spans_total`). The exporter's
own environment variables hold here too, `OTEL_EXPORTER_OTLP_HEADERS` for one.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import structlog

from enforcer.agentmetrics import SPANS
from mesh.problems import Invalid
from mesh.spiffe import SpiffeId, SpiffeIdError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

MAX_WAITING = 8192
BATCH = 512
PAUSE_S = 1.0
TIMEOUT_S = 10.0
WHOLE = 1_000_000
_DEFAULT_PATH = "/v1/traces"

Send = Callable[[Sequence["ReadableSpan"]], bool]


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
    """What sends spans to an endpoint with the official exporter; it blocks for ten seconds at most."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  heavy
    from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415

    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=TIMEOUT_S)

    def send(spans: Sequence[ReadableSpan]) -> bool:
        return exporter.export(spans) is SpanExportResult.SUCCESS

    return send


def readable(workload: str, row: Mapping[str, object]) -> ReadableSpan | None:
    """A span as the exporter takes it; None for a row that is none. ``workload`` is the called one's SPIFFE ID."""
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import ReadableSpan  # noqa: PLC0415
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags  # noqa: PLC0415

    try:
        service = SpiffeId.parse(workload)
        trace_id, span_id = int(str(row["trace_id"]), 16), int(str(row["span_id"]), 16)
        parent_id, begin, end = str(row["parent_id"]), int(str(row["begin_ns"])), int(str(row["end_ns"]))
        attributes, error = row["attributes"], str(row["error"])
    except (SpiffeIdError, KeyError, ValueError):
        return None
    if not isinstance(attributes, dict):
        return None
    flags = TraceFlags(TraceFlags.SAMPLED)
    context = SpanContext(trace_id, span_id, is_remote=False, trace_flags=flags)
    if not context.is_valid:
        return None
    parent = SpanContext(trace_id, int(parent_id, 16), is_remote=True, trace_flags=flags) if parent_id else None
    return ReadableSpan(
        name=str(attributes.get("http.request.method", "HTTP")),
        context=context,
        parent=parent,
        resource=Resource(
            {
                "service.name": str(service).rpartition("/")[2],
                "service.namespace": str(service.trust_domain),
                "service.instance.id": workload,
            }
        ),
        attributes={str(name): value for name, value in attributes.items() if isinstance(value, str | int)},
        kind=SpanKind.SERVER,
        instrumentation_scope=InstrumentationScope("limen.sidecar"),
        status=Status(StatusCode.ERROR, error) if error else Status(StatusCode.UNSET),
        start_time=begin,
        end_time=end,
    )
