"""What a sidecar sends on, three servers read as it was decided: the same requests, as many, and no other.

Bytes of a caller go through the sidecar's own reading, deciding and writing. What it would send to the workload goes to
uvicorn with h11, to Node and to nginx, with a request behind it that must be the next one each of them reads. A server
may refuse what it does not like; it may read nothing else than what was decided.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import pathlib
import random
import re
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enforcer.native import serial
from enforcer.native.exchange import HttpConnection, State
from enforcer.native.http1 import RequestHead, RequestReader
from enforcer.native.judge import Judge, Judgement, Rules
from enforcer.native.limits import Limits
from enforcer.native.stream import PlainStream, Sink
from mesh.problems import Invalid
from tests import bypasses
from tests.examples import examples
from tests.fuzz.httpservers import SENTINEL, Peer, servers, tool
from tests.fuzz.mutation import mutant

# `make soak` tries forty times as many
pytestmark = [pytest.mark.slow, pytest.mark.peer, pytest.mark.timeout(3600)]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
NOW = dt.datetime(2026, 11, 30, tzinfo=dt.UTC)
IDENTITY = serial.identity_fields(bypasses.DB, bypasses.WEB)


class Reader(RequestReader):
    """The sidecar's reader, which also counts what it read of bodies."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[int] = []

    def head(self) -> RequestHead | None:
        found = super().head()
        if found is not None:
            self.lengths.append(0)
        return found

    def body(self) -> bytes:
        data = super().body()
        if data:
            self.lengths[-1] += len(data)
        return data


class Line:
    """One end of a connection that remembers what is sent over it."""

    def __init__(self) -> None:
        self.sink: Sink | None = None
        self.sent = b""

    def write(self, data: bytes) -> None:
        self.sent += data

    def write_eof(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


@dataclasses.dataclass
class Decided:
    """A request that was let through: what it is, on which connection it was sent on, from which byte."""

    seen: dict[str, Any]
    number: int
    line: int
    begin: int
    is_whole: bool = False


def told() -> dict[str, Any]:
    """The open service of the catalogue, with more methods."""
    found: dict[str, Any] = bypasses.policies("open")
    for rule in (rule for policy in found["policies"] for rule in policy["rules"]):
        for operation in rule.get("to", []):
            if "methods" in operation:
                operation["methods"] = ["GET", "HEAD", "OPTIONS", "POST", "PUT"]
    return found


class Sidecar:
    """The path of a request through the sidecar, with a workload that answers each of them."""

    def __init__(self) -> None:
        self.caller, self.lines = Line(), list[Line]()
        self.decided: list[Decided] = []
        self.turns: list[Callable[[], None]] = []
        self.judge_ = Judge(bypasses.DB, Rules.from_json("h", told()), None)
        self.connection = HttpConnection(self.caller, self, IDENTITY, Limits())
        self.reader = Reader()
        self.connection._reader = self.reader

    def forwarded(self, head: RequestHead) -> RequestHead:
        return head

    def judge(self, head: RequestHead) -> tuple[Judgement, str]:
        found = self.judge_.request(head, source=bypasses.WEB, port=8080, peer_ip="127.0.0.1", now=NOW)
        if found.decision.is_allowed:
            roles = [value.decode("latin-1") for name, value in head.fields if name.lower() == b"x-role"]
            seen = {
                "method": head.method,
                "target": found.target,
                "host": [serial.forwarded_host(head)],
                "role": roles,
                "source": [bypasses.WEB],
            }
            is_new = self.connection._app is None
            line = len(self.lines) - (not is_new)
            begin = 0 if is_new else len(self.lines[-1].sent)
            self.decided.append(Decided(seen, len(self.reader.lengths) - 1, line, begin))
        return found, "01"

    def judge_again(self, head: RequestHead) -> bool:
        return True

    def refusal(self) -> Invalid | None:
        return None

    def reads_field(self, name: str) -> bool:
        return self.judge_.reads_field(name)

    def takes_websocket(self) -> bool:
        return False

    def waits_for_disk(self, answer: Callable[[], None], code: str = "") -> bool:
        return False

    def refuse(self, problem: Invalid) -> str:
        return "01"

    def exchanged(
        self, head: RequestHead, judgement: Judgement, status: int | None, length: int | None = None
    ) -> None: ...

    def later(self, work: Callable[[], None]) -> None:
        self.turns.append(work)

    def dial(self, connected: Callable[[PlainStream | None], None]) -> None:
        self.lines.append(Line())
        connected(cast("PlainStream", self.lines[-1]))  # it does what a stream does

    def gone(self, connection: HttpConnection) -> None: ...

    def run(self, raw: bytes, cuts: list[int]) -> list[tuple[bytes, list[Decided]]]:
        """For each connection to the workload what was sent over it, and what had been decided."""
        places = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
        for begin, end in itertools.pairwise(places):
            assert self.caller.sink is not None
            self.caller.sink.received(raw[begin:end])
            while self.turns or self.connection._state is State.RUNNING:
                if self.turns:
                    self.turns.pop(0)()
                    continue
                exchange = self.connection._exchange
                if exchange is None or not exchange.sent:
                    break
                self.decided[-1].is_whole = True
                line = self.lines[-1]
                assert line.sink is not None
                line.sink.received(OK)
        for one in self.decided:
            one.seen["length"] = self.reader.lengths[one.number]
        return [
            (line.sent, [one for one in self.decided if one.line == number]) for number, line in enumerate(self.lines)
        ]


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Peer]]:
    if tool("nginx") is None:
        pytest.skip("not installed: nginx")
    with servers(pathlib.Path(tmp_path_factory.mktemp("peers"))) as found:
        yield found


def compared(peers: list[Peer], raw: bytes, cuts: list[int]) -> tuple[int, int]:
    """How many requests were decided to go on, and how many readings of them some server refused.

    1. All that is whole goes to each server, and the sentinel behind it: the server reads these, then it, each
       once and in order, but for those that it refuses.
    2. What was begun and not finished is no request to anybody.
    """
    refused = 0
    sidecar = Sidecar()
    for sent, decided in sidecar.run(raw, cuts):
        whole = [one.seen for one in decided if one.is_whole]
        end = next((one.begin for one in decided if not one.is_whole), len(sent))
        for peer in peers:
            # (1)
            if whole:
                read, answer = peer.read(sent[:end] + SENTINEL)
                what = f"{peer.name} read {read} of {sent!r}, not {whole}, decided from {raw!r}; it answered {answer!r}"
                expected = iter([_same(one) for one in (*whole, _SENTINEL)])
                for found in read:
                    assert _same(found) in expected, what  # what it refused is passed over
                if len(read) <= len(whole):
                    assert re.search(rb"HTTP/1\.1 [45][0-9][0-9] ", answer), what
                    refused += 1
            # (2)
            if end < len(sent):
                read, answer = peer.read(sent[end:])
                assert read == [], f"{peer.name} read {read} of {sent[end:]!r}, which was not finished"
    return len(sidecar.decided), refused


_SENTINEL = {
    "method": "GET", "target": "/sentinel", "host": ["sentinel"], "role": [], "source": ["sentinel"], "length": 0,
}  # fmt: skip


def _same(seen: dict[str, Any]) -> dict[str, Any]:
    """What is compared: an empty query is no query to some, and is none."""
    return {**seen, "target": seen["target"].removesuffix("?")}


HOST = b"Host: db.corp.test\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
SEEDS = [
    b"GET /api/ok HTTP/1.1\r\n" + HOST + b"x-role: user\r\n\r\n",
    b"GET /api/a/../b//c?x=%2e&y=/../z HTTP/1.1\r\n" + HOST + b"Accept: */*\r\nCookie: a=b; c=d\r\n\r\n",
    b"POST /api/ok HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello",
    b"POST /api/ok HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST /api/ok HTTP/1.1\r\n" + HOST + CHUNKED + b"Trailer: x-sum, x-role\r\n\r\n"
    b"A\r\n0123456789\r\n2\r\nab\r\n0\r\nx-sum: 1\r\nx-role: admin\r\ncontent-length: 3\r\n\r\n",
    b"POST /api/ok HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"GET /api/1 HTTP/1.1\r\n" + HOST + b"\r\nPOST /api/2 HTTP/1.1\r\n" + HOST + b"Content-Length: 40\r\n\r\n"
    b"GET /admin HTTP/1.1\r\nHost: evil\r\nx: y\r\n\r\nGET /api/3 HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /api/1 HTTP/1.1\r\n" + HOST + b"\r\nGET /admin HTTP/1.1\r\n" + HOST + b"\r\n"
    b"POST /api/2 HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n3\r\nabc\r\n0\r\n\r\n"
    b"HEAD /api/3 HTTP/1.1\r\n" + HOST + b"\r\n",
    (
        b"GET /api/ok HTTP/1.1\r\nHost: DB.corp.TEST:8080\r\nX-Limen-Source: ops\r\nX-Gone: 1\r\nTE: trailers\r\n"
        b"X-Forwarded-Client-Cert: URI=x\r\nConnection: x-limen-source, x-gone\r\nKeep-Alive: 5\r\n\r\n"
    ),
    b"GET /api/%E2%82%AC/%7euser?q=%00 HTTP/1.1\r\n" + HOST + b"x-empty:\r\nx-tab:\ta\tb\t\r\nx-obs: \xc3\xa9\r\n\r\n",
]  # fmt: skip
ATTACKS = [bypass.raw for bypass in bypasses.BYPASSES]
WORDS = [
    b"Content-Length: 0\r\n", b"Content-Length: 3\r\n", b"Content-Length: +3\r\n", b"Content-Length: 3, 3\r\n", CHUNKED,
    b"Transfer-Encoding: identity\r\n", b"Transfer-Encoding : chunked\r\n", b"Transfer-Encoding:\x0bchunked\r\n",
    b"Transfer-Encoding: chunked, chunked\r\n", b"X: y\r\nTransfer-Encoding: chunked\r\n", b" folded\r\n", b"\r", b"\n",
    b"\0", b"\t", b" ", b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"3\r\nabc\r\n", b"3;a=b\r\nabc\r\n", b"03\r\nabc\r\n",
    b"0x3\r\nabc\r\n", b"-1\r\n", b"ffffffffffffffff\r\n", b"Connection: close\r\n", b"Connection: host\r\n", HOST,
    b"Connection: content-length\r\n", b"Connection: transfer-encoding\r\n", b"Connection: x-role\r\n",
    b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n", b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0", b"http://evil/", b"#",
    b"?", b"%2f", b"%2e%2e/", b";", b"\\", b"\x80", b"\xff", b"*", b"GET ", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"TRACE ", b"M-SEARCH ", b"QUERY ", b"LINK ", b"Trailer: content-length\r\n",
    b"x-role: a\r\n", b"x_role: a\r\n", b"X-Role: b\r\n", b"_", b":",
]  # fmt: skip


def changed(number: int) -> bytes:
    """A seed with one or two words of HTTP put in, in place of something or between lines; or plain damage."""
    chance = random.Random(number)
    if number % 4 == 0:
        return mutant(SEEDS, number)
    found = chance.choice(SEEDS if chance.random() < 0.8 else ATTACKS)
    for _ in range(chance.choice((0, 1, 1, 2))):
        places = [at + 2 for at in range(len(found)) if found.startswith(b"\r\n", at)] if chance.random() < 0.7 else []
        at = chance.choice(places) if places else chance.randrange(len(found) + 1)
        found = found[:at] + chance.choice(WORDS) + found[at + chance.choice((0, 0, 0, 1, 4)) :]
    return found + (chance.choice(SEEDS + ATTACKS) if chance.random() < 0.5 else b"")


def test_what_is_sent_on_of_changed_requests_is_read_as_it_was_decided(peers: list[Peer]) -> None:
    tried, decided, refused = examples(400), 0, 0
    for number in range(tried):
        found = compared(peers, changed(number), [number * 7, number * 13] if number % 3 == 0 else [])
        decided += found[0]
        refused += found[1]
    # enough gets past our own reading, and hardly anything that we send on is refused
    assert decided > tried / 4
    assert refused <= decided / 10


_FIELDS = st.sampled_from([word for word in WORDS if word.endswith(b"\r\n") and b":" in word])
_TEXT = st.binary(max_size=6)
_REQUESTS = st.builds(
    lambda method, path, query, fields, body: (
        method + b" " + path + query + b" HTTP/1.1\r\n" + HOST + b"".join(fields) + body
    ),
    st.sampled_from([b"GET", b"POST", b"GET", b"PUT", b"HEAD", b"OPTIONS", b"get"]),
    st.lists(
        st.sampled_from([b"/", b"/api", b"/a.b", b"/..", b"/%41", b"/~", b"/%c3%a9", b"/x:y", b"/@", b"/*"]),
        min_size=1,
        max_size=4,
    ).map(b"".join),
    st.one_of(st.just(b""), _TEXT.map(lambda text: b"?" + text)),
    st.lists(st.one_of(_FIELDS, _TEXT.map(lambda text: b"x-any: " + text + b"\r\n")), max_size=2),
    st.sampled_from(
        [
            b"\r\n", b"\r\n", b"Content-Length: 4\r\n\r\nabcd", b"Content-Length: 4\r\n\r\nab",
            CHUNKED + b"\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", CHUNKED + b"\r\n2\r\nab\r\n",
            CHUNKED + b"\r\n0\r\nx: y\r\n\r\n",
        ]
    ),
)  # fmt: skip


@settings(max_examples=examples(200), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(_REQUESTS, min_size=1, max_size=4).map(b"".join), st.lists(st.integers(0, 5000), max_size=3))
def test_what_is_sent_on_of_pipelined_requests_is_read_as_it_was_decided(
    peers: list[Peer], raw: bytes, cuts: list[int]
) -> None:
    compared(peers, raw, cuts)
