"""Which requests are traced, what the workload gets, and what a span says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from enforcer.native import serial, spans
from enforcer.native.http1 import RequestHead, RequestReader
from enforcer.native.judge import Judgement, denied
from enforcer.native.records import Contact
from enforcer.native.spans import WHOLE, Tracer, forwarded
from mesh.request import Decision, Effect, Mode
from tests.enforcer.native.harness import (
    ALLOW_WEB,
    DB,
    HOST,
    OPS,
    WEB,
    App,
    Realm,
    connect,
    inbound_port,
    policies,
    read_response,
)

TRACE, SPAN = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = b"00-%b-%b-01" % (TRACE, SPAN), b"00-%b-%b-00" % (TRACE, SPAN)
CONTACT = Contact(direction="inbound", port=8080, peer_ip="127.0.0.1", caller=WEB, destination=DB)
ALLOWED = Judgement(
    Decision(
        effect=Effect.ALLOW, policy_effect=Effect.ALLOW, mode=Mode.ENFORCE, snapshot="h", tier="app", policy="p",
        rule="r", code="LM2300",
    ),
    None, "/a?secret=1", "/a",
)  # fmt: skip


def tracer(per_million: int = WHOLE) -> Tracer:
    return Tracer(per_million, random=lambda size: bytes([7] * size), wall_ns=lambda: 1000, ticks_ns=lambda: 5)


def head(*fields: tuple[bytes, bytes], reader: RequestReader | None = None) -> RequestHead:
    found = reader or RequestReader()
    lines = b"".join(b"%b: %b\r\n" % field for field in fields)
    found.feed(b"GET /a?secret=1 HTTP/1.1\r\nHost: db\r\n%b\r\n" % lines)
    read = found.head()
    assert read is not None
    return read


@pytest.mark.parametrize(
    ("fields", "per_million", "expected"),
    [
        ([(b"traceparent", SAMPLED)], 0, (TRACE.decode(), SPAN.decode())),
        ([(b"Traceparent", SAMPLED)], 0, (TRACE.decode(), SPAN.decode())),
        ([(b"traceparent", NOT_SAMPLED)], WHOLE, None),
        ([], 0, None),
        ([], WHOLE, ("07" * 16, "")),
        ([(b"traceparent", b"rubbish")], 0, None),
        ([(b"traceparent", b"rubbish")], WHOLE, ("07" * 16, "")),
        ([(b"traceparent", SAMPLED), (b"traceparent", SAMPLED)], WHOLE, ("07" * 16, "")),
    ],
)
def test_the_callers_flag_decides_and_without_a_valid_one_the_ratio(
    fields: list[tuple[bytes, bytes]], per_million: int, expected: tuple[str, str] | None
) -> None:
    span = tracer(per_million).begin(head(*fields))
    assert (None if span is None else (span.trace_id, span.parent_id)) == expected


def test_a_new_trace_is_sampled_by_its_own_id() -> None:
    low, high = bytes(16), b"\xff" * 16
    for ids, found in ((low, True), (high, False)):
        made = Tracer(WHOLE // 2, random=lambda size, ids=ids: ids[:size])  # type: ignore[misc]  # a loop's value
        assert (made.begin(head()) is not None) is found


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([(b"traceparent", SAMPLED), (b"x", b"1")], [(b"traceparent", b"*"), (b"x", b"1")]),
        (
            [(b"tracestate", b"a=1"), (b"traceparent", SAMPLED)],
            [(b"tracestate", b"a=1"), (b"traceparent", b"*")],
        ),
        ([(b"tracestate", b"A=1"), (b"traceparent", SAMPLED)], [(b"traceparent", b"*")]),
        ([(b"tracestate", b"a=1"), (b"traceparent", b"bad")], [(b"traceparent", b"*")]),
        ([(b"traceparent", SAMPLED), (b"x", b"1"), (b"traceparent", SAMPLED)], [(b"x", b"1"), (b"traceparent", b"*")]),
        ([(b"x", b"1")], [(b"x", b"1"), (b"traceparent", b"*")]),
    ],
)
def test_the_workload_gets_the_span_as_its_parent(
    fields: list[tuple[bytes, bytes]], expected: list[tuple[bytes, bytes]]
) -> None:
    found = head(*fields)
    span = tracer().begin(found)
    assert span is not None
    new = b"00-%b-%b-01" % (span.trace_id.encode(), b"07" * 8)
    assert [*forwarded(span, found).fields] == [(name, new if value == b"*" else value) for name, value in expected]


def test_what_is_written_names_the_span_however_the_head_was_read() -> None:
    reader, writer = RequestReader(), serial.Writer()
    for number in range(4):
        value = b"00-%032x-%016x-01" % (number + 1, number + 1)
        found = head((b"traceparent", value), (b"x", b"1"), reader=reader)
        span = tracer().begin(found)
        assert span is not None
        wrote = writer.head(forwarded(span, found), "/a", serial.forwarded_host)
        assert wrote == (
            b"GET /a HTTP/1.1\r\nhost: db\r\ntraceparent: 00-%032x-%b-01\r\nx: 1\r\n\r\n" % (number + 1, b"07" * 8)
        )


def test_a_span_says_what_was_decided_and_holds_no_query() -> None:
    made = tracer()
    found = head((b"authorization", b"Bearer secret"))
    for judgement, status in (
        (ALLOWED, 200),
        (ALLOWED, 503),
        (ALLOWED, None),
        (Judgement(denied("LM2302"), None, "", "/a"), 403),
    ):
        span = made.begin(found)
        assert span is not None
        made.end(span, found, judgement, CONTACT, status)
    rows: list[dict[str, Any]] = made.take()
    assert [row["error"] for row in rows] == ["", "503", "cut", "LM2302"]
    first, last = rows[0]["attributes"], rows[3]["attributes"]
    assert (first["http.request.method"], first["http.response.status_code"]) == ("GET", 200)
    assert (first["url.path"], first["limen.peer"], first["limen.rule"]) == ("/a", WEB, "r")
    assert (last["limen.decision"], last["limen.code"], last["error.type"]) == ("deny", "LM2302", "LM2302")
    assert "secret" not in str(rows)
    assert made.take() == []


def test_spans_are_bounded_and_the_loss_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "MAX_WAITING", 3)
    monkeypatch.setattr(spans, "MAX_PORTION", 2)
    made, found = tracer(), head()
    for _ in range(5):
        span = made.begin(found)
        assert span is not None
        made.end(span, found, ALLOWED, CONTACT, 200)
    assert [len(made.take()) for _ in range(3)] == [2, 1, 0]
    assert made.dropped == 2


@pytest.mark.slow
def test_a_sidecar_tells_the_spans_of_what_it_serves_and_the_workload_sees_them(
    sidecars: Callable[..., Any], apps: Callable[..., App], corp: Realm
) -> None:
    app = apps()
    agent = sidecars(corp.svid(DB), corp.bundle, inbound=({"address": "127.0.0.1", "port": 0, "app_port": app.port},))
    port = inbound_port(agent)
    agent.send({"type": "tracing", "per_million": 0})
    agent.policy(policies(ALLOW_WEB, port=port))
    request = b"GET /orders HTTP/1.1\r\n" + HOST + b"traceparent: " + SAMPLED + b"\r\n\r\n"
    for who, status in ((WEB, 200), (OPS, 403)):
        with connect(port, corp.svid(who), corp.bundle) as sock:
            sock.sendall(request)
            assert read_response(sock)[0] == status
    rows = []
    for code in ("LM2300", "LM2302"):
        told = agent.wait(
            "spans", lambda found, code=code: any(row["attributes"]["limen.code"] == code for row in found["spans"])
        )
        rows.append(next(row for row in told["spans"] if row["attributes"]["limen.code"] == code))
    assert {row["trace_id"] for row in rows} == {TRACE.decode()}
    assert {row["parent_id"] for row in rows} == {SPAN.decode()}
    assert [row["attributes"]["limen.peer"] for row in rows] == [WEB, OPS]
    assert b"traceparent: 00-%b-%b-01" % (TRACE, rows[0]["span_id"].encode()) in app.requests[0]
