"""Message bodies of HTTP/1.1, decoded from their framing portion by portion.

A chunk size is hexadecimal digits and nothing else: extensions, white space and bare line feeds are refused,
because programs disagree about them. This module keeps nothing but the current line.
"""

from __future__ import annotations

import re
from typing import Protocol

from mesh.problems import Invalid

MAX_TRAILER_BYTES = 8 * 1024
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")
_MAX_SIZE_LINE = 17
_TRAILER_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n")


class Body(Protocol):
    """What remains to be read of one body."""

    is_done: bool
    trailers: bytes

    def read(self, buffer: bytes) -> tuple[bytes, int]:
        """Decode from the buffer; return the data and how many bytes of the buffer it took."""
        ...


class NoBody:
    """A message without a body."""

    __slots__ = ()
    is_done = True
    trailers = b""

    def read(self, buffer: bytes) -> tuple[bytes, int]:  # noqa: ARG002  the protocol's name
        """Take nothing."""
        return b"", 0


class LengthBody:
    """A body whose length is known."""

    __slots__ = ("_left", "is_done", "trailers")

    def __init__(self, length: int) -> None:
        self._left = length
        self.is_done = length == 0
        self.trailers = b""

    def read(self, buffer: bytes) -> tuple[bytes, int]:
        """Take what belongs to the body."""
        data = buffer if len(buffer) <= self._left else buffer[: self._left]
        self._left -= len(data)
        self.is_done = self._left == 0
        return data, len(data)


class EndlessBody:
    """A body that ends with the connection."""

    __slots__ = ("is_done", "trailers")

    def __init__(self) -> None:
        self.is_done = False
        self.trailers = b""

    def read(self, buffer: bytes) -> tuple[bytes, int]:
        """Take everything."""
        return buffer, len(buffer)


class ChunkedBody:
    """A chunked body (RFC 9112 §7.1), without extensions.

    1. Each chunk is a size line, that many bytes, and CR LF.
    2. A chunk of size 0 is the last; field lines and an empty line follow it.

    Trailers are kept only on request: nobody who decided on a head has seen them.
    """

    __slots__ = ("_keep", "_left", "_needs_end", "_trailer_bytes", "_trailing", "is_done", "trailers")

    def __init__(self, *, keep_trailers: bool = False) -> None:
        self._left = 0
        self._needs_end = False
        self._trailing = False
        self._trailer_bytes = 0
        self._keep = keep_trailers
        self.is_done = False
        self.trailers = b""

    def read(self, buffer: bytes) -> tuple[bytes, int]:
        """Decode as far as the buffer reaches.

        Raises Invalid LM3109 with the rule that the framing breaks.
        """
        parts: list[bytes] = []
        at = 0
        while not self.is_done:
            if self._left:
                data = buffer[at : at + self._left]
                if not data:
                    break
                parts.append(data)
                at += len(data)
                self._left -= len(data)
                self._needs_end = self._left == 0
                continue
            step = self._line(buffer, at)
            if step == 0:
                break
            at += step
        return b"".join(parts), at

    def _line(self, buffer: bytes, at: int) -> int:
        """Read what stands between two portions of data; return its length, 0 while it is not complete."""
        if self._trailing:
            return self._trailer(buffer, at)
        if self._needs_end:
            found = buffer[at : at + 2]
            if not b"\r\n".startswith(found):
                raise Invalid("LM3109", rule="a chunk ends in CR LF")
            self._needs_end = len(found) < 2
            return 0 if self._needs_end else 2
        end = buffer.find(b"\n", at, at + _MAX_SIZE_LINE) + 1
        if end == 0:
            if len(buffer) - at >= _MAX_SIZE_LINE:
                raise Invalid("LM3109", rule="a chunk size is at most 15 hexadecimal digits")
            return 0
        match = _SIZE_LINE.fullmatch(buffer, at, end)
        if match is None:
            raise Invalid("LM3109", rule="a chunk size is hexadecimal digits and CR LF, without an extension")
        self._left = int(match[1], 16)
        self._trailing = self._left == 0
        return end - at

    def _trailer(self, buffer: bytes, at: int) -> int:
        allowed = MAX_TRAILER_BYTES - self._trailer_bytes
        end = buffer.find(b"\n", at, at + allowed) + 1
        if end == 0:
            if len(buffer) - at >= allowed:
                raise Invalid("LM3109", rule=f"trailers are shorter than {MAX_TRAILER_BYTES} bytes")
            return 0
        line = buffer[at:end]
        if line == b"\r\n":
            self.is_done = True
        elif _TRAILER_LINE.fullmatch(line):
            self._trailer_bytes += len(line)
            if self._keep:
                self.trailers += line
        else:
            raise Invalid("LM3109", rule="a trailer is a field line")
        return end - at
