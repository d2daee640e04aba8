"""What is sent on, byte for byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.native import serial
from enforcer.native.http1 import Framing, RequestHead, RequestReader, ResponseHead


def head(**changes: object) -> RequestHead:
    facts: dict[str, object] = {
        "method": "GET", "target": "/a", "host": "db", "host_name": "db", "fields": (), "framing": Framing.NONE,
        "length": 0, "keep_alive": True, "expects_continue": False,
    }  # fmt: skip
    return RequestHead(**{**facts, **changes})  # type: ignore[arg-type]  # a table of facts


def test_writes_a_request_with_the_identity_last() -> None:
    found = serial.request_line("POST", "/b") + serial.request_fields(
        head(method="POST", fields=((b"x-a", b"1"),), framing=Framing.LENGTH, length=3, expects_continue=True),
        host="db:80",
        identity=serial.identity_fields("spiffe://td/own", "spiffe://td/peer"),
    )
    assert found == (
        b"POST /b HTTP/1.1\r\nhost: db:80\r\nx-a: 1\r\ncontent-length: 3\r\nexpect: 100-continue\r\n"
        b"x-forwarded-client-cert: By=spiffe://td/own;URI=spiffe://td/peer\r\n"
        b"x-limen-source: spiffe://td/peer\r\n\r\n"
    )


@pytest.mark.parametrize(
    "name",
    [b"X-Forwarded-Client-Cert", b"x-limen-source", b"X-LIMEN-anything", b"x-envoy-original-path"],
    ids=lambda name: f"A18-{name.decode()}",
)
def test_callers_do_not_set_identity_fields(name: bytes) -> None:
    assert serial.without_identity(((name, b"x"), (b"x-a", b"1"))) == ((b"x-a", b"1"),)


@pytest.mark.parametrize(
    ("host", "name", "sent"),
    [("db", "db", "db"), ("DB:80", "db", "db:80"), ("db.:", "db", "db"), ("[::1]", "[::1]", "[::1]"),
     ("[::1]:8", "[::1]", "[::1]:8"), ("123", "123", "123")],
)  # fmt: skip
def test_sends_the_canonical_host_with_the_port_that_came(host: str, name: str, sent: str) -> None:
    assert serial.forwarded_host(head(host=host, host_name=name)) == sent


_TOKENS = st.text("abcXYZ-09", min_size=1, max_size=8).map(lambda text: b"k" + text.encode())
_VALUES = st.text("abc 09,;=é", max_size=12).map(lambda text: text.strip().encode("latin-1"))


@given(st.lists(st.tuples(_TOKENS, _VALUES), max_size=6).map(tuple), st.sampled_from(list(Framing)[:3]))
def test_what_is_sent_on_reads_as_what_was_decided(fields: tuple[tuple[bytes, bytes], ...], framing: Framing) -> None:
    wanted = head(method="POST", fields=fields, framing=framing, length=7 if framing is Framing.LENGTH else 0)
    reader = RequestReader()
    reader.feed(serial.request_line("POST", "/a") + serial.request_fields(wanted, host="db", identity=b""))
    found = reader.head()
    assert found is not None
    assert found._replace(form=None) == wanted


def response(**changes: object) -> ResponseHead:
    facts: dict[str, object] = {
        "status": 200, "reason": b"OK", "fields": (), "framing": Framing.LENGTH, "length": 2, "keep_alive": True,
    }  # fmt: skip
    return ResponseHead(**{**facts, **changes})  # type: ignore[arg-type]  # a table of facts


@pytest.mark.parametrize(
    ("found", "close", "text"),
    [
        pytest.param(response(), False, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", id="length"),
        pytest.param(
            response(framing=Framing.CHUNKED, length=None, fields=((b"x-limen-a", b"1"), (b"a", b"b"))),
            True,
            b"HTTP/1.1 200 OK\r\na: b\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n",
            id="chunked",
        ),
        pytest.param(
            response(status=100, reason=b"Continue", framing=Framing.NONE, length=None),
            True,
            b"HTTP/1.1 100 Continue\r\n\r\n",
            id="interim",
        ),
        pytest.param(
            response(framing=Framing.NONE, length=9), False, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", id="head"
        ),
    ],
)
def test_writes_responses(found: ResponseHead, close: bool, text: bytes) -> None:
    assert serial.response_head(found, close=close) == text


@pytest.mark.parametrize(
    ("name", "may"),
    [
        (b"x-digest", True), (b"grpc-status", True), (b"content-length", False), (b"authorization", False),
        (b"host", False), (b"x-limen-source", False), (b"x-forwarded-for", False), (b"x_role", False),
        (b"two words", False), (b"", False), (b"sec-fetch-site", False),
    ],
)  # fmt: skip
def test_what_means_something_before_a_body_stands_not_behind_it(name: bytes, may: bool) -> None:
    assert serial.may_trail(name) is may
    line = name + b":\t1 \r\n"
    assert serial.trailers(line) == (name + b": 1\r\n" if may else b"")


def test_no_bytes_are_no_chunk_for_that_would_end_the_body() -> None:
    assert (serial.chunk(b"ab" * 8), serial.chunk(b"")) == (b"10\r\nabababababababab\r\n", b"")
    assert serial.last_chunk() == b"0\r\n\r\n"


def test_a_mark_is_read_where_it_is_written_and_nowhere_else() -> None:
    head = b"GET /a HTTP/1.1\r\nhost: db\r\n\r\n"
    assert serial.is_marked(serial.marked(head))
    assert serial.marked(head) == b"GET /a HTTP/1.1\r\nx-limen-begins: 1\r\nhost: db\r\n\r\n"
    assert serial.is_identity(b"x-limen-begins")
    assert not serial.is_marked(head)
    assert not serial.is_marked(head + serial.marked(head))
    assert serial.begins(((b"host", b"db"), (b"x-limen-begins", b"1")))
    assert not serial.begins(((b"x-limen-source", b"1"),))
