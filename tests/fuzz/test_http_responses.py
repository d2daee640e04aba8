"""Whatever a workload answers, its caller reads at most one final response to a request, as it was sent, or is cut off.

Changed responses go through the sidecar's reading and writing; what the caller would get is read by h11.
"""

from __future__ import annotations

import random

import h11
import pytest

from enforcer.native.exchange import State
from tests.examples import examples
from tests.fuzz.mutation import mutant
from tests.fuzz.test_http_differential import HOST, Sidecar

pytestmark = pytest.mark.slow

CHUNKED = b"Transfer-Encoding: chunked\r\n"
SEEDS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: x\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nX-Limen-Code: LM1\r\n\r\nuntil the end",
    b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo",
]
WORDS = [
    b"Content-Length: 3\r\n", b"Content-Length: 3, 3\r\n", CHUNKED, b"Transfer-Encoding: identity\r\n", b" folded\r\n",
    b"\r", b"\n", b"\0", b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"Connection: close\r\n", b"Connection: content-type\r\n",
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b"HTTP/1.1 199 X\r\n\r\n", b"HTTP/2", b":",
    b"Location: /a\r\nSet-Cookie: x=y\r\n", b"x: \xc3\xa9\r\n", b"999", b"5;a=b\r\n", b"-1\r\n", b"Trailer: x-sum\r\n",
]  # fmt: skip
REQUESTS = [b"GET /api/ok HTTP/1.1\r\n", b"HEAD /api/ok HTTP/1.1\r\n"]


def changed(number: int) -> bytes:
    chance = random.Random(number)
    if number % 4 == 0:
        return mutant(SEEDS, number)
    found = chance.choice(SEEDS)
    for _ in range(chance.choice((0, 1, 1, 2))):
        at = chance.randrange(len(found) + 1)
        found = found[:at] + chance.choice(WORDS) + found[at + chance.choice((0, 0, 0, 1, 4)) :]
    return found


def read(sent: bytes, method: str) -> tuple[int, bool]:
    """How many final responses h11 reads, and whether it read all of them to their ends."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("host", "db.corp.test")]))
    client.send(h11.EndOfMessage())
    client.receive_data(sent)
    client.receive_data(b"")
    finals = 0
    while True:
        event = client.next_event()
        if isinstance(event, h11.Response):
            finals += 1
        if isinstance(event, h11.EndOfMessage):
            assert client.trailing_data[0] == b"", f"{client.trailing_data[0]!r} stands behind the response in {sent!r}"
            return finals, True
        if event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
            return finals, False


def test_a_caller_reads_one_response_to_its_request_or_is_cut_off() -> None:
    whole, tried = 0, examples(2000)
    for number in range(tried):
        request, raw = REQUESTS[number % 2], changed(number)
        sidecar = Sidecar()
        caller = sidecar.caller
        assert caller.sink is not None
        caller.sink.received(request + HOST + b"\r\n")
        app = sidecar.lines[0]
        cut = (number * 7) % (len(raw) + 1)
        for part in (raw[:cut], raw[cut:]):
            if part and app.sink is not None:
                app.sink.received(part)
        if sidecar.connection._state is State.RUNNING and app.sink is not None:
            app.sink.ended()
        method = request.split(b" ")[0].decode()
        try:
            finals, is_whole = read(caller.sent, method)
        except h11.RemoteProtocolError as err:
            # only what was cut off in the middle cannot be read
            cut_off = ("without sending complete message body", "incomplete", "event type ConnectionClosed")
            assert any(words in str(err) for words in cut_off), (err, raw, caller.sent)
            continue
        assert finals <= 1, (raw, caller.sent)
        whole += is_whole
    assert whole > tried / 3
