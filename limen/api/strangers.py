"""HTTP as strangers speak it: a request comes whole within its time, with a head of bounded size, or the line is cut.

uvicorn has a time for pauses between requests and none for a request that never ends, and its parser takes as many
headers as somebody sends.
"""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from limen.api.problems import problem_json
from mesh.problems import Invalid

WITHIN_S = 20.0
MAX_HEAD_BYTES = 32_768


class StrangerProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with bounds."""

    _deadline: asyncio.TimerHandle | None = None
    _head = _came = 0
    _is_head = False
    within_s = WITHIN_S

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """From here on a first request is awaited."""
        super().connection_made(transport)
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; those that begin no request do not make a connection last."""
        super().data_received(data)
        if self._is_head and not self.transport.is_closing():
            # a header that does not end is kept by the parser, and no callback tells
            self._came += len(data)
            if self._came > MAX_HEAD_BYTES:
                self.send_400_response("")
                return
        is_idle = getattr(self.cycle, "response_complete", True)
        if self._deadline is None and self.timeout_keep_alive_task is None and is_idle:
            self._begin()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._head = self._came = 0
        self._is_head = True
        if self._deadline is None:
            self._begin()

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._count(name, value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._is_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request is whole."""
        self._end()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Say what is wrong as every other refusal is said."""
        is_large = max(self._head, self._came) > MAX_HEAD_BYTES
        reason = "its head is too large" if is_large else "it is no HTTP/1.1"
        del msg
        body = json.dumps(problem_json(Invalid("LM1256", reason=reason))).encode()
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()

    def _count(self, *parts: bytes) -> None:
        self._head += sum(len(part) + 4 for part in parts)
        if self._head > MAX_HEAD_BYTES:
            # what is raised in a callback ends the parser: `data_received` answers 400
            raise ValueError("the head is too large")

    def _begin(self) -> None:
        self._deadline = self.loop.call_later(self.within_s, self._hang_up)

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _hang_up(self) -> None:
        self._deadline = None
        self.transport.abort()
