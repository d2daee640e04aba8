"""Spans reach a receiver of OTLP/HTTP, and what does not is counted."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import pathlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from enforcer import tracing
from enforcer.agentmetrics import SPANS
from enforcer.tracing import Exporter, Tracing, readable, request_of, sender
from mesh.problems import Invalid
from tests.audit.receivers import collector, until
from tests.ports import free_port

DB = "spiffe://corp.test/ns/shop/sa/db"
ROW: dict[str, Any] = {
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "span_id": "00f067aa0ba902b7",
    "parent_id": "00f067aa0ba902b8",
    "begin_ns": 1_000,
    "end_ns": 3_000,
    "error": "LM2302",
    "attributes": {"http.request.method": "GET", "http.response.status_code": 403, "limen.code": "LM2302"},
}


class Receiver:
    """An OTLP/HTTP receiver: it reads the JSON encoding."""

    def __init__(self, status: int) -> None:
        got = self.got = []
        changed = self.changed = threading.Condition()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                with changed:
                    got.append((self.path, dict(self.headers.items()), json.loads(body)))
                    changed.notify_all()
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    got: list[tuple[str, dict[str, str], Any]]


@pytest.fixture
def receiver() -> Iterator[Callable[[int], Receiver]]:
    made: list[Receiver] = []

    def make(status: int = 200) -> Receiver:
        made.append(Receiver(status))
        return made[-1]

    yield make
    for found in made:
        found.server.shutdown()
        found.server.server_close()


def counted(outcome: str) -> float:
    return float(SPANS.labels(outcome=outcome)._value.get())


def test_spans_reach_a_receiver_as_the_protocol_has_them(
    receiver: Callable[..., Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "X-Token=a%2Cb")
    found = receiver()
    settled = Tracing.parse(found.endpoint, 1)
    assert settled is not None
    before = counted("exported")

    async def main() -> None:
        exporter = Exporter(sender(settled.endpoint))
        running = asyncio.ensure_future(exporter.run())
        exporter.take(DB, {"spans": [ROW, {"no": "span"}], "dropped": 0})
        async with asyncio.timeout(60):
            while counted("exported") == before:
                await asyncio.sleep(0.01)
        running.cancel()

    asyncio.run(main())
    path, headers, request = found.got[0]
    assert (path, headers["content-type"], headers["x-token"]) == ("/v1/traces", "application/json", "a,b")
    (of_resource,) = request["resourceSpans"]
    resource = {item["key"]: item["value"] for item in of_resource["resource"]["attributes"]}
    assert resource == {
        "service.name": {"stringValue": "db"},
        "service.namespace": {"stringValue": "corp.test"},
        "service.instance.id": {"stringValue": DB},
    }
    (of_scope,) = of_resource["scopeSpans"]
    (span,) = of_scope["spans"]
    assert (span["traceId"], span["spanId"], span["parentSpanId"]) == (
        ROW["trace_id"], ROW["span_id"], ROW["parent_id"],
    )  # fmt: skip
    assert (span["name"], span["kind"]) == ("GET", 2)
    assert (span["startTimeUnixNano"], span["endTimeUnixNano"]) == ("1000", "3000")
    assert span["status"] == {"code": 2, "message": "LM2302"}
    attributes = {item["key"]: item["value"] for item in span["attributes"]}
    assert attributes["http.response.status_code"] == {"intValue": "403"}
    assert attributes["limen.code"] == {"stringValue": "LM2302"}


@pytest.mark.peer
@pytest.mark.slow
def test_an_opentelemetry_collector_reads_our_spans(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx2

    port, make = free_port(), httpx2.Client
    with collector(tmp_path, port) as received, contextlib.ExitStack() as clients:
        monkeypatch.setattr(httpx2, "Client", lambda **more: clients.enter_context(make(**more)))
        settled = Tracing.parse(f"http://127.0.0.1:{port}", 1)
        span, denied = readable(DB, ROW | {"error": ""}), readable(DB, ROW | {"span_id": "00f067aa0ba902b9"})
        assert settled is not None
        assert span is not None
        assert denied is not None
        assert sender(settled.endpoint)([span, denied])
        until(lambda: received.exists() and "00f067aa0ba902b9" in received.read_text(), "a span")
        said = " ".join(received.read_text().split())
    for words in (
        f"service.instance.id: Str({DB})", "service.name: Str(db)", f"Trace ID : {ROW['trace_id']}",
        f"Parent ID : {ROW['parent_id']}", f"ID : {ROW['span_id']}", "Name : GET", "Kind : Server",
        "http.response.status_code: Int(403)", "Status code : Error", "Status message : LM2302",
    ):  # fmt: skip
        assert words in said, said


def test_spans_of_one_workload_are_of_one_resource() -> None:
    rows = [readable(DB, ROW), readable(DB + "2", ROW), readable(DB, ROW | {"error": "", "parent_id": ""})]
    sent = json.loads(request_of([row for row in rows if row is not None]))["resourceSpans"]
    assert [len(item["scopeSpans"][0]["spans"]) for item in sent] == [2, 1]
    last = sent[0]["scopeSpans"][0]["spans"][1]
    assert "status" not in last
    assert "parentSpanId" not in last


@pytest.mark.parametrize("text", ["x", "a b=1", "x=%00", "x=\xe9", "=1"])
def test_headers_that_cannot_be_read_are_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", text.replace("\xe9", "%C3%A9"))
    with pytest.raises(Invalid, match="LM3309"):
        sender("http://127.0.0.1:9/v1/traces")


def test_a_receiver_that_refuses_loses_the_batch_and_it_is_counted(receiver: Callable[..., Receiver]) -> None:
    send = sender(receiver(400).endpoint + "/v1/traces")
    span = readable(DB, ROW)
    assert span is not None
    assert not send([span])


def test_what_there_is_no_room_for_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "MAX_WAITING", 2)
    before = counted("dropped")

    async def main() -> None:
        exporter = Exporter(lambda _: True)
        exporter.take(DB, {"spans": [ROW] * 5, "dropped": 4})

    asyncio.run(main())
    assert counted("dropped") - before == 7


@pytest.mark.parametrize(
    "row", [{}, ROW | {"trace_id": "x"}, ROW | {"trace_id": "0"}, ROW | {"attributes": 3}, ROW | {"begin_ns": "soon"}]
)
def test_a_row_that_is_no_span_is_none(row: dict[str, object]) -> None:
    assert readable(DB, row) is None


@pytest.mark.parametrize(
    ("endpoint", "ratio", "expected"),
    [
        (None, 0.5, None),
        ("http://c:4318", 0.5, ("http://c:4318/v1/traces", 500_000)),
        ("https://c/otlp/v1/traces", 0, ("https://c/otlp/v1/traces", 0)),
    ],
)
def test_where_spans_go(endpoint: str | None, ratio: float, expected: tuple[str, int] | None) -> None:
    assert Tracing.parse(endpoint, ratio) == expected


@pytest.mark.parametrize(
    ("endpoint", "ratio"),
    [("c:4318", 0.5), ("ftp://c", 0.5), ("http://", 0.5), ("http://c?x=1", 0.5), ("http://c", 1.5), ("http://c", -1),
     ("http://c", float("nan")), ("http://[c", 0.5)],
)  # fmt: skip
def test_what_is_no_endpoint_or_no_ratio_is_refused(endpoint: str, ratio: float) -> None:
    with pytest.raises(Invalid) as caught:
        Tracing.parse(endpoint, ratio)
    assert caught.value.code == "LM3309"


@pytest.mark.slow
def test_nothing_of_it_is_loaded_before_somebody_asks() -> None:
    code = "import sys, enforcer.tracing, enforcer.native.sidecar; print('httpx2' in sys.modules)"
    root = pathlib.Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
