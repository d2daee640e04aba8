"""Reads the server name that a TLS client asks for, out of its first bytes (RFC 8446 §4.1.2, RFC 6066 §3). Pure.

Only as far as the name: nothing else of it is believed, and whoever forwards these bytes has checked nothing but that.
"""

from __future__ import annotations

from mesh.problems import Invalid

# a hello with post-quantum key shares and many extensions stays far below it
MAX_HELLO_BYTES = 16384
_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME, _HOST_NAME = 22, 1, 0, 0


def server_name(data: bytes) -> str | None:
    """The name in a client's first bytes, lower case; None while they are not complete; empty when it asks for none.

    1. The records of the handshake are put together; a hello may take several.
    2. Version, random, session, cipher suites and compression are skipped by their lengths.
    3. Of the extensions only `server_name` is read: exactly one host name, of ASCII, as RFC 6066 has it.

    Raises Invalid LM3231 for what is no TLS, and for a hello that is malformed or too long.
    """
    # (1)
    message = bytearray()
    offset = 0
    while True:
        if offset + 5 > len(data):
            _check_begun(data)
            return None
        if data[offset] != _HANDSHAKE or data[offset + 1] != 3:
            raise Invalid("LM3231", reason="it is no TLS")
        size = int.from_bytes(data[offset + 3 : offset + 5])
        record = data[offset + 5 : offset + 5 + size]
        message += record
        if len(message) >= 4:
            if message[0] != _CLIENT_HELLO:
                raise Invalid("LM3231", reason="it does not begin with a client's hello")
            total = 4 + int.from_bytes(message[1:4])
            if total > MAX_HELLO_BYTES:
                raise Invalid("LM3231", reason="the hello is too long")
            if len(message) >= total:
                return _read(_Reader(bytes(message[4:total])))
        if len(record) < size:
            _check_begun(data)
            return None
        if size == 0:
            raise Invalid("LM3231", reason="a record is empty")
        offset += 5 + size


def early_name(data: bytes) -> str | None:
    """The name in what is there of a hello: a first segment, or what a capture kept. None where it is not in there.

    For those who watch and decide nothing: what follows is not looked at, so a hello may still turn out to be wrong.
    """
    message, offset = bytearray(), 0
    while offset + 5 <= len(data) and data[offset] == _HANDSHAKE and data[offset + 1] == 3:
        size = int.from_bytes(data[offset + 3 : offset + 5])
        message += data[offset + 5 : offset + 5 + size]
        offset += 5 + size
    if len(message) < 4 or message[0] != _CLIENT_HELLO:
        return None
    hello = _Reader(bytes(message[4:MAX_HELLO_BYTES]))
    try:
        hello.take(34)
        for width in (1, 2, 1):
            hello.take_vector(width)
        hello.take(2)
        while True:
            kind = int.from_bytes(hello.take(2))
            body = hello.take_vector(2)
            if kind == _SERVER_NAME:
                return _host(_Reader(body))
    except Invalid:
        return None


def _check_begun(data: bytes) -> None:
    if len(data) > 2 * MAX_HELLO_BYTES or (data and data[0] != _HANDSHAKE):
        raise Invalid("LM3231", reason="it is no TLS")


def _read(hello: _Reader) -> str:
    # (2)
    hello.take(34)
    for width in (1, 2, 1):
        hello.take_vector(width)
    if hello.is_over:
        return ""
    # (3)
    extensions = _Reader(hello.take_vector(2))
    found: list[str] = []
    while not extensions.is_over:
        kind = int.from_bytes(extensions.take(2))
        body = extensions.take_vector(2)
        if kind == _SERVER_NAME:
            found.append(_host(_Reader(body)))
    if len(found) > 1:
        raise Invalid("LM3231", reason="it names two servers")
    return found[0] if found else ""


def _host(body: _Reader) -> str:
    names = _Reader(body.take_vector(2))
    if names.take(1)[0] != _HOST_NAME:
        raise Invalid("LM3231", reason="the server's name is of an unknown kind")
    name = names.take_vector(2)
    if not names.is_over or not body.is_over or not 0 < len(name) <= 255 or not name.isascii():
        raise Invalid("LM3231", reason="the server's name is malformed")
    return name.decode("ascii").lower().removesuffix(".")


class _Reader:
    """Cuts bytes into fields; one that is not there is an error."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def is_over(self) -> bool:
        return self._at == len(self._data)

    def take(self, size: int) -> bytes:
        found = self._data[self._at : self._at + size]
        if len(found) < size:
            raise Invalid("LM3231", reason="the hello is cut short")
        self._at += size
        return found

    def take_vector(self, width: int) -> bytes:
        return self.take(int.from_bytes(self.take(width)))
