"""The opening handshake of a WebSocket: what asks for one, what answers it, and what is neither."""

from __future__ import annotations

import pytest

from enforcer.native.http1 import RequestHead, RequestReader, ResponseReader
from enforcer.native.websocket import accept_of
from mesh.problems import Invalid

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 §1.3
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
ASK = (
    b"GET /chat HTTP/1.1\r\nHost: db\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: %b\r\nSec-WebSocket-Version: 13\r\n\r\n" % KEY
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\n\r\n" % ACCEPT
)


def read(stream: bytes) -> RequestHead | None:
    reader = RequestReader()
    reader.feed(stream)
    return reader.head()


def test_the_example_of_the_rfc() -> None:
    assert accept_of(KEY) == ACCEPT


def test_a_request_that_asks_for_a_websocket_is_read() -> None:
    head = read(ASK)
    assert head is not None
    assert head.websocket_key == KEY
    assert (b"Sec-WebSocket-Key", KEY) in head.fields
    assert not any(name.lower() in {b"upgrade", b"connection"} for name, _ in head.fields)


def test_a_plain_request_after_one_that_was_not_granted_is_read_on() -> None:
    reader = RequestReader()
    reader.feed(ASK)
    assert reader.head() is not None
    reader.feed(b"GET /b HTTP/1.1\r\nHost: db\r\n\r\n")
    head = reader.head()
    assert head is not None
    assert (head.target, head.websocket_key) == ("/b", b"")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b"Upgrade: websocket", b"Upgrade: h2c", id="another-protocol"),
        pytest.param(b"Upgrade: websocket", b"Upgrade: websocket, h2c", id="two-protocols"),
        pytest.param(b"Upgrade: websocket", b"Upgrade: websocket\r\nUpgrade: h2c", id="two-fields"),
        pytest.param(b"Upgrade: websocket\r\n", b"HTTP2-Settings: AA\r\n", id="settings-alone"),
        pytest.param(b"Host: db", b"Host: db\r\nHTTP2-Settings: AA", id="settings-beside-it"),
        pytest.param(b"keep-alive, Upgrade", b"keep-alive", id="connection-does-not-name-it"),
        pytest.param(b"keep-alive, Upgrade", b"upgrade, sec-websocket-key", id="connection-takes-the-key-away"),
        pytest.param(b"GET", b"POST", id="method"),
        pytest.param(b"Host: db", b"Host: db\r\nContent-Length: 0", id="length"),
        pytest.param(b"Host: db", b"Host: db\r\nTransfer-Encoding: chunked", id="chunks"),
        pytest.param(b"Version: 13", b"Version: 8", id="version"),
        pytest.param(b"Version: 13", b"Version: 13\r\nSec-WebSocket-Version: 13", id="version-twice"),
        pytest.param(KEY, b"c2hvcnQ=", id="short-key"),
        pytest.param(KEY, KEY + b"\r\nSec-WebSocket-Key: " + KEY, id="key-twice"),
        pytest.param(b"Sec-WebSocket-Key: " + KEY + b"\r\n", b"", id="no-key"),
    ],
)
def test_any_other_upgrade_is_refused(old: bytes, new: bytes) -> None:
    assert ASK.count(old) == 1
    with pytest.raises(Invalid) as caught:
        read(ASK.replace(old, new))
    assert caught.value.code == "LM3108"


def test_the_answer_to_the_key_is_a_switch() -> None:
    reader = ResponseReader()
    reader.feed(SWITCH + b"\x81\x02hi")
    head = reader.head("GET", KEY)
    assert head is not None
    assert head.status == 101
    assert reader.take_rest() == b"\x81\x02hi"


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        pytest.param(b"", b"", b"", id="nobody-asked"),
        pytest.param(ACCEPT, b"AAAAAAAAAAAAAAAAAAAAAAAAAAA=", KEY, id="another-key"),
        pytest.param(b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n", b"", KEY, id="no-proof"),
        pytest.param(ACCEPT, ACCEPT + b"\r\nSec-WebSocket-Accept: " + ACCEPT, KEY, id="two-proofs"),
        pytest.param(b"Upgrade: WebSocket", b"Upgrade: h2c", KEY, id="another-protocol"),
        pytest.param(b"Connection: Upgrade\r\n", b"", KEY, id="connection-does-not-name-it"),
        pytest.param(b"Upgrade: WebSocket", b"Upgrade: WebSocket\r\nContent-Length: 2", KEY, id="length"),
        pytest.param(b"Upgrade: WebSocket", b"Upgrade: WebSocket\r\nTransfer-Encoding: chunked", KEY, id="chunks"),
    ],
)
def test_no_other_answer_is(old: bytes, new: bytes, key: bytes) -> None:
    reader = ResponseReader()
    reader.feed(SWITCH.replace(old, new, 1) if old else SWITCH)
    with pytest.raises(Invalid) as caught:
        reader.head("GET", key)
    assert caught.value.code == "LM3302"
