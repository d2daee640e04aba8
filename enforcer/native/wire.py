"""The words between an agent and what it feeds: length-prefixed JSON objects over a stream socket.

A frame is a 4-byte big-endian length and that many bytes of one UTF-8 JSON object with a text `type`. Bytes
travel as base64 text. Reading is bounded and strict: a frame that is too long, is cut short, repeats a key or
holds anything but such an object ends the conversation. This module knows no message but its envelope.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import NoReturn

from mesh.problems import Invalid

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_LENGTH = struct.Struct(">I")
LENGTH_BYTES = _LENGTH.size

Message = dict[str, object]


def encode(message: Mapping[str, object]) -> bytes:
    """One frame.

    Raises Invalid LM3001 when the message is longer than a frame may be.
    """
    return _frame(json.dumps(message, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8"))


def _frame(body: bytes) -> bytes:
    if len(body) > MAX_MESSAGE_BYTES:
        raise Invalid("LM3001", size=len(body), limit=MAX_MESSAGE_BYTES)
    return _LENGTH.pack(len(body)) + body


def encode_with(message: Mapping[str, object], name: str, texts: Sequence[str]) -> bytes:
    """One frame of a message that is not empty and has, under one more name, a list of texts that are JSON already.

    Raises Invalid LM3001 when the message is longer than a frame may be.
    """
    begin = json.dumps(message, separators=(",", ":"), ensure_ascii=False, allow_nan=False)[:-1]
    return _frame(f'{begin},"{name}":[{",".join(texts)}]}}'.encode())


def decode(body: bytes) -> Message:
    """Read the message in a frame's body.

    1. The body is UTF-8 and one JSON value; no key stands twice, no number is NaN or infinite.
    2. The value is an object.
    3. Its `type` is text.

    Raises Invalid LM3002 with the rule that the body breaks.
    """
    # (1)
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as err:
        raise Invalid("LM3002", reason="it is not one strict JSON value") from err
    # (2)
    if not isinstance(value, dict):
        raise Invalid("LM3002", reason="it is not an object")
    # (3)
    if not isinstance(value.get("type"), str):
        raise Invalid("LM3002", reason="`type` is not text")
    return value


class Decoder:
    """Cuts a byte stream into messages, whatever way the bytes arrive."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Take the next bytes and return the messages that are complete now.

        Raises Invalid LM3001 or LM3002; nothing may be fed after that.
        """
        self._buffer += data
        found: list[Message] = []
        while (size := self._size()) is not None and len(self._buffer) >= _LENGTH.size + size:
            end = _LENGTH.size + size
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            found.append(decode(body))
        return found

    def close(self) -> None:
        """Say that the stream ended.

        Raises Invalid LM3003 when it ended inside a frame.
        """
        if self._buffer:
            raise Invalid("LM3003")

    def _size(self) -> int | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        return _checked(self._buffer[: _LENGTH.size])


def send(sock: socket.socket, message: Mapping[str, object]) -> None:
    """Send one message over a blocking socket.

    Raises Invalid LM3001 when the message is longer than a frame may be.
    """
    sock.sendall(encode(message))


def receive(sock: socket.socket) -> Message | None:
    """Read one message from a blocking socket; None when the stream ended between two messages.

    Raises Invalid LM3001, LM3002 or LM3003.
    """
    head = _exactly(sock, _LENGTH.size)
    if not head:
        return None
    if len(head) < _LENGTH.size:
        raise Invalid("LM3003")
    size = _checked(head)
    body = _exactly(sock, size)
    if len(body) < size:
        raise Invalid("LM3003")
    return decode(body)


async def read(reader: asyncio.StreamReader) -> Message | None:
    """Read one message from a stream; None when the stream ended between two messages.

    Raises Invalid LM3001, LM3002 or LM3003.
    """
    try:
        size = _checked(await reader.readexactly(_LENGTH.size))
        return decode(await reader.readexactly(size))
    except asyncio.IncompleteReadError as err:
        if not err.partial and err.expected == _LENGTH.size:
            return None
        raise Invalid("LM3003") from err


async def write(writer: asyncio.StreamWriter, message: Mapping[str, object]) -> None:
    """Write one message to a stream and wait until the stream wants more.

    Raises Invalid LM3001 when the message is longer than a frame may be.
    """
    writer.write(encode(message))
    await writer.drain()


def bytes_to_text(data: bytes) -> str:
    """How bytes stand in a message."""
    return base64.b64encode(data).decode("ascii")


def text_to_bytes(text: object) -> bytes:
    """Read the bytes that stand in a message as base64 text.

    Raises Invalid LM3002 for anything but strict base64.
    """
    if not isinstance(text, str):
        raise Invalid("LM3002", reason="bytes travel as base64 text")
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error) as err:
        raise Invalid("LM3002", reason="bytes travel as base64 text") from err


def body_length(head: bytes) -> int:
    """How long the body of a frame is that begins with these bytes.

    Raises Invalid LM3001 for one that is longer than a frame may be, LM3003 for a beginning that is cut short.
    """
    if len(head) < _LENGTH.size:
        raise Invalid("LM3003")
    return _checked(head)


def _checked(head: bytes | bytearray) -> int:
    size: int = _LENGTH.unpack(head)[0]
    if size > MAX_MESSAGE_BYTES:
        raise Invalid("LM3001", size=size, limit=MAX_MESSAGE_BYTES)
    return size


def _exactly(sock: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        data = sock.recv(min(size - len(parts), 1 << 18))
        if not data:
            break
        parts += data
    return bytes(parts)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
