"""Which HTTP/1.1 heads are read, how, and which are refused."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from enforcer.native import http1
from enforcer.native.http1 import Framing, RequestReader, ResponseReader
from mesh.problems import Invalid

OK = b"GET /a HTTP/1.1\r\nHost: db\r\n\r\n"


def read(stream: bytes, cuts: list[int] | None = None) -> list[object]:
    """Everything a connection's bytes mean: heads, bodies, and the code that ended it."""
    reader = RequestReader()
    out: list[object] = []
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts or [])})
    open_body: bytearray | None = None
    try:
        for start, end in itertools.pairwise(edges):
            reader.feed(stream[start:end])
            while True:
                if open_body is not None:
                    open_body += reader.body()
                    if not reader.is_done:
                        break
                    out.append(bytes(open_body))
                    open_body = None
                head = reader.head()
                if head is None:
                    break
                out.append(head._replace(form=None))  # how it was read is not what it says
                open_body = bytearray()
    except Invalid as err:
        out.append(err.code)
    return out


def code_of(stream: bytes) -> object:
    return read(stream)[-1] if read(stream) else None


def request(line: bytes = b"GET /a HTTP/1.1", *fields: bytes, host: bytes = b"Host: db") -> bytes:
    return b"\r\n".join([line, *([host] if host else []), *fields, b"", b""])


def test_reads_a_request() -> None:
    head, body = read(request(b"POST /a?b=1 HTTP/1.1", b"X-A:  one ", b"Content-Length: 3", b"x-b:") + b"abc")
    assert isinstance(head, http1.RequestHead)
    assert (head.method, head.target, head.host_name) == ("POST", "/a?b=1", "db")
    assert head.fields == ((b"X-A", b"one"), (b"x-b", b""))
    assert (head.framing, head.length, head.keep_alive) == (Framing.LENGTH, 3, True)
    assert body == b"abc"


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        pytest.param(b"GET /a\r\n", "LM3101", id="A24-http-0.9"),
        pytest.param(b"GET /a HTTP/1.0\r\nHost: db\r\n\r\n", "LM3101", id="A24-http-1.0"),
        pytest.param(b"GET /a HTTP/2.0\r\nHost: db\r\n\r\n", "LM3101", id="http-2.0"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "LM3101", id="h2-preface"),
        pytest.param(b"GET /a HTTP/1.10\r\nHost: db\r\n\r\n", "LM3101", id="http-1.10"),
        pytest.param(b"GET  /a HTTP/1.1\r\nHost: db\r\n\r\n", "LM3102", id="two-spaces"),
        pytest.param(b"GET /a b HTTP/1.1\r\nHost: db\r\n\r\n", "LM3102", id="space-in-target"),
        pytest.param(b"GET\t/a HTTP/1.1\r\nHost: db\r\n\r\n", "LM3102", id="tab"),
        pytest.param(b"G\0T /a HTTP/1.1\r\n", "LM3102", id="nul-in-line"),
        pytest.param(b"GET /a HTTP/1.1\nHost: db\n\n", "LM3102", id="A17-bare-lf"),
        pytest.param(b"\r\nGET /a HTTP/1.1\r\nHost: db\r\n\r\n", "LM3101", id="empty-line-first"),
        pytest.param(request(b"GET /a HTTP/1.1", b"x: a\nb: c"), "LM3103", id="A17-bare-lf-in-fields"),
        pytest.param(request(b"GET /a HTTP/1.1", b"x-role: user", b" admin"), "LM3103", id="A17-obs-fold"),
        pytest.param(request(b"GET /a HTTP/1.1", b"x : a"), "LM3103", id="space-before-colon"),
        pytest.param(request(b"GET /a HTTP/1.1", b"x: a\0b"), "LM3103", id="nul-in-value"),
        pytest.param(request(b"GET /a HTTP/1.1", b"x: a\rb"), "LM3103", id="cr-in-value"),
        pytest.param(request(b"GET /a HTTP/1.1", b"x"), "LM3103", id="no-colon"),
        pytest.param(request(b"GET /a HTTP/1.1", b": x"), "LM3103", id="no-name"),
        pytest.param(request(b"GET /a HTTP/1.1", b"x\xe9: a"), "LM3103", id="name-not-a-token"),
        pytest.param(request(b"GET /a HTTP/1.1", b"Connection: host"), "LM3103", id="connection-names-host"),
        pytest.param(
            request(b"POST /a HTTP/1.1", b"Content-Length: 3", b"Transfer-Encoding: chunked"),
            "LM3104",
            id="A23-cl-te",
        ),
        pytest.param(
            request(b"POST /a HTTP/1.1", b"Content-Length: 3", b"Content-Length: 3"), "LM3104", id="A23-dup-cl"
        ),
        pytest.param(request(b"POST /a HTTP/1.1", b"Content-Length: 3, 3"), "LM3104", id="cl-list"),
        pytest.param(request(b"POST /a HTTP/1.1", b"Content-Length: +3"), "LM3104", id="cl-sign"),
        pytest.param(request(b"POST /a HTTP/1.1", b"Content-Length: 0x3"), "LM3104", id="cl-hex"),
        pytest.param(request(b"POST /a HTTP/1.1", b"Content-Length:"), "LM3104", id="cl-empty"),
        pytest.param(request(b"POST /a HTTP/1.1", b"Content-Length: " + b"9" * 19), "LM3104", id="cl-huge"),
        pytest.param(request(b"POST /a HTTP/1.1", b"Transfer-Encoding: xchunked"), "LM3104", id="A23-te-xchunked"),
        pytest.param(request(b"POST /a HTTP/1.1", b"Transfer-Encoding: gzip, chunked"), "LM3104", id="te-two-codings"),
        pytest.param(
            request(b"POST /a HTTP/1.1", b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
            "LM3104",
            id="te-twice",
        ),
        pytest.param(request(b"POST /a HTTP/1.1", b"Transfer-Encoding: \x0bchunked"), "LM3103", id="te-vt"),
        pytest.param(request(host=b""), "LM3106", id="A12-no-host"),
        pytest.param(request(b"GET /a HTTP/1.1", b"Host: evil"), "LM3106", id="A12-two-hosts"),
        pytest.param(request(host=b"Host: db, evil"), "LM3106", id="A12-host-list"),
        pytest.param(request(host=b"Host: a b"), "LM3106", id="host-with-space"),
        pytest.param(request(host=b"Host: a/b"), "LM3106", id="host-with-slash"),
        pytest.param(request(host=b"Host:"), "LM3106", id="host-empty"),
        pytest.param(request(b"GET http://x/admin HTTP/1.1"), "LM3107", id="A12-absolute-form"),
        pytest.param(request(b"OPTIONS * HTTP/1.1"), "LM3107", id="A10-asterisk"),
        pytest.param(request(b"GET admin HTTP/1.1"), "LM3107", id="A10-no-slash"),
        pytest.param(request(b"CONNECT db:80 HTTP/1.1"), "LM3107", id="A24-connect"),
        pytest.param(request(b"CONNECT /a HTTP/1.1"), "LM3107", id="A24-connect-path"),
        pytest.param(request(b"GET /admin#x HTTP/1.1"), "LM3107", id="A07-fragment"),
        pytest.param(
            request(b"GET /a HTTP/1.1", b"Connection: upgrade", b"Upgrade: websocket"),
            "LM3108",
            id="A24-websocket",
        ),
        pytest.param(request(b"GET /a HTTP/1.1", b"Upgrade: h2c"), "LM3108", id="A24-h2c"),
        pytest.param(request(b"GET /a HTTP/1.1", b"HTTP2-Settings: AAMAAABk"), "LM3108", id="A24-h2-settings"),
        pytest.param(request(b"get /a HTTP/1.1"), "LM3111", id="A19-lower-case-method"),
        pytest.param(request(b"ADMIN /a HTTP/1.1"), "LM3111", id="A19-unknown-method"),
        pytest.param(request(b"GET /a HTTP/1.1", b"Expect: 200-ok"), "LM3113", id="expect"),
        pytest.param(request(b"GET /a HTTP/1.1", b"x_role: admin"), "LM3114", id="A16-underscore"),
        pytest.param(request(b"GET /a HTTP/1.1", b"content_length: 3"), "LM3114", id="underscore-framing"),
        pytest.param(request(b"GET /" + b"a" * 33_000 + b" HTTP/1.1"), "LM3105", id="oversize-line"),
        pytest.param(request(b"GET /a HTTP/1.1", b"x: " + b"a" * 33_000), "LM3105", id="oversize-field"),
        pytest.param(request(b"GET /a HTTP/1.1", *[b"x: a"] * 150), "LM3105", id="too-many-fields"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", "LM3102", id="tls-inside"),
    ],
)
def test_refuses(stream: bytes, code: str) -> None:
    assert read(stream) == [code]


@pytest.mark.parametrize(
    ("host", "name"),
    [
        pytest.param("DB.Corp.test", "db.corp.test", id="A11-case"),
        pytest.param("db.corp.test:8443", "db.corp.test", id="A11-port"),
        pytest.param("db.corp.test.", "db.corp.test", id="A11-dot"),
        pytest.param("[::1]:80", "[::1]", id="A11-ipv6"),
    ],
)
def test_reads_hosts_in_their_canonical_form(host: str, name: str) -> None:
    head = read(request(host=b"Host: " + host.encode()))[0]
    assert isinstance(head, http1.RequestHead)
    assert head.host_name == name


def test_takes_away_what_connection_names_and_what_is_hop_by_hop() -> None:
    fields = (
        b"Connection: close, X-Role", b"x-role: admin", b"TE: trailers", b"Keep-Alive: 5", b"Trailer: x",
        b"Proxy-Connection: x", b"x-b: 1",
    )  # fmt: skip
    head = read(request(b"GET /a HTTP/1.1", *fields))[0]
    assert isinstance(head, http1.RequestHead)
    assert head.fields == ((b"x-b", b"1"),)
    assert not head.keep_alive


def test_reads_pipelined_requests_one_after_the_other() -> None:
    chunked = request(b"POST /b HTTP/1.1", b"Transfer-Encoding: chunked")
    chunked += b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"
    found = read(OK + chunked + OK)
    assert [item.target if isinstance(item, http1.RequestHead) else item for item in found] == [
        "/a", b"", "/b", b"abc0123456789", "/a", b"",
    ]  # fmt: skip


def test_trailers_never_become_fields() -> None:
    stream = request(b"POST /b HTTP/1.1", b"Transfer-Encoding: chunked") + b"1\r\na\r\n0\r\nx-role: admin\r\n\r\n"
    head, body = read(stream)
    assert isinstance(head, http1.RequestHead)
    assert head.fields == ()
    assert body == b"a"


_PIECES = st.sampled_from(
    [
        OK, b"GET ", b"/a", b" HTTP/1.1", b"\r\n", b"\n", b"\r", b"Host: db\r\n", b"Host", b": ", b"x: y\r\n", b"\0",
        b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"abc", b"3\r\n", b"0\r\n\r\n", b" ", b";",
        b"\xff",
        b"POST /b HTTP/1.1\r\nHost: db\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n", b"_", b"\t",
    ]
)  # fmt: skip


@given(st.lists(_PIECES, max_size=14).map(b"".join), st.lists(st.integers(0, 2000), max_size=12))
@example(OK[:-1], [3, 9])
@example(b"GET /a HTTP/1.1\r\nx\r\nHost: db\r\n\r\n" + b"a" * 40_000, [17, 33_000])
def test_the_way_bytes_arrive_changes_nothing(stream: bytes, cuts: list[int]) -> None:
    assert read(stream, cuts) == read(stream)


@given(st.lists(_PIECES, max_size=8).map(b"".join), st.lists(_PIECES, max_size=8).map(b"".join))
@example(b"GET /b HTTP/1.1\r\nHost: db\r\n\r\n", b"")
@example(b"GET /b HTTP/1.1\r\nHost: db\r\n\r\nX", b"")
@example(b"GET b HTTP/1.1\r\nHost: db\r\n\r\n", b"")
@example(b"CONNECT /b HTTP/1.1\r\nHost: db\r\n\r\n", b"")
def test_a_request_after_one_with_the_same_fields_reads_as_it_would_alone(first: bytes, second: bytes) -> None:
    assert read(OK + first + second) == read(OK) + read(first + second)


def test_fields_that_were_read_before_are_the_same_object_and_others_are_not() -> None:
    reader = RequestReader()
    reader.feed(OK + OK.replace(b"/a", b"/b") + OK.replace(b"db", b"dc") + OK)
    heads = [found for found in (reader.head() for _ in range(4)) if found is not None]
    assert [found.host for found in heads] == ["db", "db", "dc", "db"]
    assert heads[0].form is heads[1].form
    assert heads[1].form != heads[2].form


def test_a_head_that_was_read_before_is_no_larger_than_any_other() -> None:
    long = b"x: " + b"a" * (http1.MAX_HEAD_BYTES - len(OK) - len("x: \r\n")) + b"\r\n"
    request = OK[:-2] + long + b"\r\n"
    reader = RequestReader()
    reader.feed(request + request.replace(b"/a", b"/ab"))
    assert reader.head() is not None
    with pytest.raises(Invalid) as caught:
        reader.head()
    assert caught.value.code == "LM3105"


def test_a_response_to_head_after_the_same_one_to_get_has_no_body() -> None:
    reader = ResponseReader()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    reader.feed(answer + b"ok" + answer + answer + b"ok")
    found = []
    for method in ("GET", "HEAD", "GET"):
        assert reader.head(method) is not None
        found.append(reader.body())
    assert found == [b"ok", b"", b"ok"]


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_a_problem(data: bytes) -> None:
    assert isinstance(read(data), list)


@given(st.lists(_PIECES, max_size=14).map(b"".join))
def test_what_is_read_consists_of_the_bytes_that_came(stream: bytes) -> None:
    for item in read(stream):
        if isinstance(item, http1.RequestHead):
            assert item.target.encode("latin-1") in stream
            assert all(name in stream and value in stream for name, value in item.fields)


def respond(stream: bytes, method: str = "GET") -> tuple[object, bytes, bool]:
    reader = ResponseReader()
    reader.feed(stream)
    try:
        head = reader.head(method)
    except Invalid as err:
        return err.code, b"", False
    if head is None:
        return None, b"", False
    return head, reader.body(), reader.is_done


@pytest.mark.parametrize(
    ("stream", "method", "framing", "body", "done"),
    [
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "GET", Framing.LENGTH, b"ok", True, id="length"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "GET",
            Framing.CHUNKED,
            b"ok",
            True,
            id="chunked",
        ),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\nok", "GET", Framing.CLOSE, b"ok", False, id="close"),
        pytest.param(b"HTTP/1.1 204 No\r\n\r\n", "GET", Framing.NONE, b"", True, id="no-content"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "HEAD", Framing.NONE, b"", True, id="head"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n", "POST", Framing.NONE, b"", True, id="continue"),
        pytest.param(b"HTTP/1.1 304\r\n\r\n", "GET", Framing.NONE, b"", True, id="no-reason"),
    ],
)
def test_reads_responses(stream: bytes, method: str, framing: Framing, body: bytes, done: bool) -> None:
    head, found, is_done = respond(stream, method)
    assert isinstance(head, http1.ResponseHead)
    assert (head.framing, found, is_done) == (framing, body, done)


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n", id="switching"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", id="two-lengths"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", id="cl-te"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", id="obs-fold"),
        pytest.param(b"HTTP/2 200 OK\r\n\r\n", id="version"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n\r\n", id="no-http"),
        pytest.param(b"x" * 70_000, id="endless"),
    ],
)
def test_refuses_responses(stream: bytes) -> None:
    assert respond(stream)[0] == "LM3302"


@pytest.mark.parametrize(
    ("stream", "keeps"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\n\r\n", False),
    ],
)
def test_knows_when_a_connection_to_the_workload_can_be_used_again(stream: bytes, keeps: bool) -> None:
    head = respond(stream)[0]
    assert isinstance(head, http1.ResponseHead)
    assert head.keep_alive is keeps
