"""An application's HTTP/1.1 connection to a called service, carried exchange by exchange over kept connections.

A program that opens a connection for each request pays no handshake: its request goes over a mutual TLS connection
that served another one before. To know where an exchange ends, the calling side has to read HTTP, as strictly as the
called side does. It decides nothing: whatever it cannot read, and whoever has shown that its connection stays, gets a
connection of its own that nobody reads, and the called side judges. Nothing is ever sent twice.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import re
from collections.abc import Callable
from typing import Protocol

from enforcer.native import answer, serial
from enforcer.native.http1 import Framing, RequestHead, RequestReader, ResponseHead, ResponseReader
from enforcer.native.pool import Connection, Finish
from enforcer.native.records import KEPT_WITHIN_S
from enforcer.native.stream import LINGER_SECONDS, MAX_PIPELINED_BYTES, PlainStream
from mesh.problems import Invalid

# a connection that has carried so many requests gets one of its own: it will not need a handshake soon
JOIN_AFTER = 16
# how many seconds an application may be silent between two requests before its connection serves others
RELEASE_SECONDS = 1
HEAD_SECONDS = 10
IDLE_SECONDS = 120
EXCHANGE_SECONDS = 600
# how long a connection of a port that drains may wait for another request
DRAIN_IDLE_SECONDS = 30

# where a head ends for those who take a bare line feed for the end of a line
_OTHER_END = re.compile(rb"\n\r?\n")


class State(enum.Enum):
    """Where an application's connection is."""

    WAITING = "waiting for a request"
    REACHING = "waiting for a connection to the service"
    RUNNING = "a request was sent, its answer is not complete"
    RECORDING = "an answer of our own waits until its record is on a disk"
    CLOSING = "answered for the last time"
    GONE = "gone, or joined with a connection of its own"


class Route(Protocol):
    """What a relay needs of its local port."""

    def take(self) -> Connection | None:
        """A connection that waits for an exchange."""
        ...

    def reach(self, relay: Relay, done: Callable[[Connection | Invalid], None]) -> None:
        """Make a new connection, or say why there is none."""
        ...

    def give(self, found: Connection) -> None:
        """Take a connection back after a clean exchange."""
        ...

    def join(self, relay: Relay, found: Connection) -> None:
        """Join the application's stream with a connection, for good."""
        ...

    def refused(self, relay: Relay, problem: Invalid) -> str:
        """Record that a request could not be carried; return the record's id."""
        ...

    def waits_for_disk(self, answer: Callable[[], None], code: str) -> bool:
        """Whether an answer has to wait until what was recorded last is on a disk; it is called then."""
        ...

    def gone(self, relay: Relay) -> None:
        """Forget the relay."""
        ...


@dataclasses.dataclass(slots=True)
class _Exchange:
    head: RequestHead
    sent: bool = False
    has_answered: bool = False
    # whether the application was told that this answer is the last
    closes: bool = False
    response: ResponseHead | None = None


class _ServiceSide:
    """Reads a connection to the service for a relay."""

    __slots__ = ("_found", "_relay")

    def __init__(self, relay: Relay, found: Connection) -> None:
        self._relay, self._found = relay, found

    def received(self, data: bytes) -> None:
        self._relay.service_received(self._found, data)

    def ended(self) -> None:
        self._relay.service_ended(self._found, was_cut=False)

    def lost(self) -> None:
        self._relay.service_ended(self._found, was_cut=True)

    def writable(self, *, ready: bool) -> None:
        self._relay.hold(service_is_full=not ready)


class Relay:
    """One application's connection; a `Sink` for its stream."""

    __slots__ = (
        "_app_ended", "_app_is_full", "_begins", "_exchange", "_has_moved", "_is_draining", "_is_held", "_quiet_ticks",
        "_reader", "_response", "_route", "_served", "_service_is_full", "_state", "_ticks", "_writer", "connection",
        "stream",
    )  # fmt: skip

    def __init__(self, stream: PlainStream, route: Route) -> None:
        self.stream, self._route = stream, route
        self.connection: Connection | None = None
        self._reader, self._response = RequestReader(), ResponseReader()
        self._exchange: _Exchange | None = None
        self._state = State.WAITING
        self._app_ended = self._app_is_full = self._service_is_full = self._is_held = self._has_moved = False
        # whether the next request is the first of this application on its connection to the service
        self._is_draining = self._begins = False
        self._served = self._ticks = self._quiet_ticks = 0
        self._writer = serial.Writer()
        stream.sink = self

    # -- what the application's stream tells

    def received(self, data: bytes) -> None:
        """Take the application's next bytes."""
        self._has_moved = True
        if self._state is State.CLOSING or self._state is State.GONE:
            return
        self._reader.feed(data)
        if self._state is State.WAITING:
            self._next()
        elif self._state is State.RUNNING:
            self._send_body(b"")
        self.hold()

    def ended(self) -> None:
        """The application sends no more; a request that is complete is still answered."""
        self._app_ended = True
        if self._state is State.WAITING or self._state is State.CLOSING:
            self._finish()
        elif self._exchange is not None and not self._reader.is_done:
            self.abort()

    def lost(self) -> None:
        """The application is gone. A connection on which an exchange was under way goes with it."""
        if self._state is State.GONE:
            return
        waits = self._state is State.WAITING
        self._state = State.GONE
        if waits:
            self._release()
        else:
            self._drop()
        self._route.gone(self)

    def writable(self, *, ready: bool) -> None:
        """Hold or release the service while the application does not keep up."""
        self._app_is_full = not ready
        if self.connection is not None:
            if ready:
                self.connection.stream.resume()
            else:
                self.connection.stream.pause()

    # -- what the local port tells

    def tick(self) -> None:
        """Let a second pass.

        Slow heads, silent connections and lingering ones end; a connection that has nothing to carry serves others.
        """
        self._quiet_ticks = 0 if self._has_moved else self._quiet_ticks + 1
        self._has_moved = False
        if self._state is State.WAITING:
            self._ticks = self._ticks + 1 if self._reader.has_started else 0
            if self._ticks > HEAD_SECONDS:
                self._refuse(Invalid("LM3112", seconds=HEAD_SECONDS))
            elif self._quiet_ticks > (DRAIN_IDLE_SECONDS if self._is_draining else IDLE_SECONDS):
                self._finish()
            elif self._quiet_ticks > RELEASE_SECONDS:
                self._release()
        elif self._state is State.CLOSING:
            self._ticks += 1
            if self._ticks > LINGER_SECONDS:
                self._finish()
        elif self._state is State.RECORDING:
            self._ticks += 1
            if self._ticks > KEPT_WITHIN_S:
                self.abort()
        elif self._quiet_ticks > EXCHANGE_SECONDS:
            self.abort()

    def drain(self) -> None:
        """Let the next answer be the last one: the application is told so, and makes a new connection."""
        self._is_draining = True

    def abort(self) -> None:
        """Close both sides at once; what the application has got of an answer is not the whole."""
        self._drop()
        self.stream.reset()
        self.lost()

    # -- requests

    def _next(self) -> None:
        """Begin the next request.

        1. Whoever has sent many gets a connection of its own; so does who sends what cannot be read, or a WebSocket's
           request: as it came, from the first byte that was not carried yet.
        2. The request goes over the connection that the last one used, over one that waits, or over a new one.
        """
        while self._state is State.WAITING and self._reader.has_started:
            unread = self._reader.unread
            # (1)
            if self._served >= JOIN_AFTER and not self._is_draining:
                self._reach(self._join, shares=False)
                return
            try:
                head = self._reader.head()
            except Invalid:
                self._leave(unread)
                return
            if head is None:
                return
            if head.websocket_key:
                self._leave(unread)
                return
            # (2)
            self._ticks = 0
            self._exchange = _Exchange(head)
            self._reach(self._start)

    def _leave(self, unread: bytes) -> None:
        """Carry the rest unread, beginning with these bytes."""
        self._reader = RequestReader()
        self._reader.feed(unread)
        self._reach(self._join, shares=False)

    def _reach(self, use: Callable[[Connection], None], *, shares: bool = True) -> None:
        """Find a connection and use it; one that served other programs only where it ``shares``."""

        def done(found: Connection | Invalid) -> None:
            if self._state is not State.REACHING:
                if not isinstance(found, Invalid):
                    self._route.give(found)
                return
            if isinstance(found, Invalid):
                self._refuse(found)
                return
            self._bind(found)
            self._use(found, use)
            self.hold()

        found = self.connection
        if found is None and shares:
            found = self._route.take()
            if found is not None:
                self._bind(found)
        if found is not None:
            self._use(found, use)
            return
        self._state = State.REACHING
        self.hold()
        self._route.reach(self, done)

    def _use(self, found: Connection, use: Callable[[Connection], None]) -> None:
        """Use a connection, unless binding told that it ended or that it speaks without having been asked."""
        if self.connection is found:
            use(found)
        else:
            self._refuse(Invalid("LM3224"))

    def _bind(self, found: Connection) -> None:
        self.connection, self._response, self._service_is_full = found, ResponseReader(), False
        self._begins = True
        found.stream.sink = _ServiceSide(self, found)
        if self._app_is_full:
            found.stream.pause()
        else:
            found.stream.resume()

    def _start(self, found: Connection) -> None:
        exchange = self._exchange
        assert exchange is not None
        self._state = State.RUNNING
        request = exchange.head
        head = self._writer.head(request, request.target, _host_as_it_came)
        if self._begins:
            self._begins, head = False, serial.marked(head)
        if request.framing is Framing.CHUNKED or request.length:
            self._send_body(head)
        else:
            exchange.sent = True
            found.stream.write(head)

    def _send_body(self, first: bytes) -> None:
        """Send on what has arrived of the body, after ``first``."""
        exchange, found = self._exchange, self.connection
        if exchange is None or found is None or exchange.sent:
            return
        try:
            data = self._reader.body()
        except Invalid as err:
            self._drop()
            if exchange.has_answered:
                self.abort()
            else:
                self._refuse(err)
            return
        exchange.sent = self._reader.is_done
        if exchange.head.framing is Framing.CHUNKED:
            end = serial.last_chunk(self._reader.trailers) if exchange.sent else b""
            data = serial.chunk(data) + end
        if first or data:
            found.stream.write(first + data)

    def _join(self, found: Connection) -> None:
        """Leave the application's stream to a connection of its own, from the first byte that was not read on."""
        unread, ended = self._reader.unread, self._app_ended
        self._state = State.GONE
        self.connection = None
        self._route.join(self, found)
        if unread:
            found.stream.write(unread)
        sink = self.stream.sink
        if ended and sink is not None:
            sink.ended()
        if not self._app_is_full:
            found.stream.resume()
        if not self._service_is_full:
            self.stream.resume()

    # -- answers

    def service_received(self, found: Connection, data: bytes) -> None:
        """Take the service's next bytes."""
        if found is not self.connection:
            return
        self._has_moved = True
        if self._state is not State.RUNNING:
            self._drop()  # it speaks without having been asked
            return
        self._response.feed(data)
        self._respond()

    def service_ended(self, found: Connection, *, was_cut: bool) -> None:
        """The service sends no more on this connection. A request that is under way is not sent again."""
        if found is not self.connection:
            return
        exchange = self._exchange
        if self._state is not State.RUNNING or exchange is None:
            self._drop()
            return
        if not was_cut:
            self._response.close()
        if not exchange.has_answered:
            self._drop()
            self._refuse(Invalid("LM3224"))
        elif exchange.response is not None and self._response.is_done:
            self._complete(exchange, exchange.response)
        else:
            self.abort()

    def _respond(self) -> None:
        """Send on what has arrived of the answer; interim ones pass as they come.

        An answer that cannot be read is passed on as it is, and with it everything that follows, if its request was
        sent whole and nothing of it was passed on yet.
        """
        exchange = self._exchange
        assert exchange is not None
        out: list[bytes] = []
        unread = b""
        try:
            while exchange.response is None:
                unread = self._response.unread
                head = self._answer_head(exchange.head.method)
                if head is None:
                    break
                if head.status >= 200:
                    exchange.response = head
                exchange.closes = self._closes_after(exchange, head)
                out.append(serial.response_head(head, close=exchange.closes, from_enforcer=True))
            if exchange.response is not None:
                out.append(self._answer_body(exchange.response))
        except Invalid as err:
            if exchange.response is None and exchange.sent:
                self._pass_on(b"".join(out), unread)
            elif exchange.has_answered or out:
                self.abort()
            else:
                self._drop()
                self._refuse(err)
            return
        if out:
            exchange.has_answered = True
            self.stream.write(out[0] if len(out) == 1 else b"".join(out))
        if exchange.response is not None and self._response.is_done:
            self._complete(exchange, exchange.response)

    def _closes_after(self, exchange: _Exchange, response: ResponseHead) -> bool:
        """Whether an answer is the last: one of these says so, or the port drains and nothing here would be lost."""
        is_last = self._is_draining and response.status >= 200 and exchange.sent and not self._reader.has_started
        return not exchange.head.keep_alive or response.framing is Framing.CLOSE or is_last

    def _pass_on(self, before: bytes, unread: bytes) -> None:
        """Join the streams in the middle of an answer."""
        found, exchange = self.connection, self._exchange
        assert found is not None
        assert exchange is not None
        self.stream.write(before + unread)
        self._join(found)
        if not exchange.head.keep_alive:
            found.stream.write_eof()  # the service was not told that it is the last request

    def _answer_head(self, method: str) -> ResponseHead | None:
        head = self._response.head(method)
        if head is None and _OTHER_END.search(self._response.unread):
            raise Invalid("LM3302", rule="its lines end in CR LF")
        return head

    def _answer_body(self, head: ResponseHead) -> bytes:
        data = self._response.body()
        if head.framing is not Framing.CHUNKED:
            return data
        end = serial.last_chunk(self._response.trailers) if self._response.is_done else b""
        return serial.chunk(data) + end

    def _complete(self, exchange: _Exchange, response: ResponseHead) -> None:
        """An exchange is over: keep the connection if it ended cleanly, and go on unless one side wanted to close."""
        finish = Finish(
            request_was_sent=exchange.sent,
            answer_is_complete=self._response.is_done,
            answer_has_an_end=response.framing is not Framing.CLOSE,
            peer_keeps=response.keep_alive,
            nothing_more_came=self._response.is_empty,
        )
        self._exchange = None
        self._served += 1
        if not finish.is_clean:
            self._drop()
        if not exchange.sent or exchange.closes:
            self._release()
            self._end(was_read=exchange.sent and not self._reader.has_started)
            return
        self._state = State.WAITING
        self._next()
        if self._state is State.WAITING and self._app_ended:
            self._finish()
        else:
            self.hold()

    # -- ends

    def _refuse(self, problem: Invalid) -> None:
        """Answer what cannot be carried, and end."""
        record = self._route.refused(self, problem)
        with_body = self._exchange is None or self._exchange.head.method != "HEAD"
        self._exchange = None
        reply = answer.problem(problem.code, problem.facts, record=record, with_body=with_body)
        self._drop()
        if self._route.waits_for_disk(functools.partial(self._recorded, reply), problem.code):
            self._state = State.RECORDING
            self._ticks = 0
            self.hold()
        else:
            self.stream.write(reply)
            self._end(was_read=False)

    def _recorded(self, reply: bytes) -> None:
        if self._state is State.RECORDING:  # else the application is gone
            self.stream.write(reply)
            self._end(was_read=False)

    def _end(self, *, was_read: bool) -> None:
        """Close after the last answer; if there may be more to read, give the application time to read it first."""
        self._ticks = 0
        self._state = State.CLOSING
        if was_read or self._app_ended:
            self._finish()
        else:
            self.stream.write_eof()
            self.hold()

    def _finish(self) -> None:
        """Close, and give the connection back: there is nothing under way on it."""
        self.stream.close()
        if self._state is not State.GONE:
            self._state = State.GONE
            self._release()
            self._route.gone(self)

    def _release(self) -> None:
        """Give the connection back; nothing of ours is under way on it."""
        found, self.connection = self.connection, None
        if found is not None:
            found.stream.sink = None
            self._route.give(found)

    def _drop(self) -> None:
        """Cut the connection: it is of no use to anybody."""
        found, self.connection = self.connection, None
        if found is not None:
            found.stream.sink = None
            found.stream.abort()

    def hold(self, *, service_is_full: bool | None = None) -> None:
        """Read from the application only what can be used: not while the service is full, nor far ahead of it."""
        if service_is_full is not None:
            self._service_is_full = service_is_full
        if self._state is State.GONE:
            return
        ahead = self._reader.buffered > MAX_PIPELINED_BYTES and self._state is not State.CLOSING
        wanted = self._state is State.REACHING or self._service_is_full or ahead
        if wanted is not self._is_held:
            self._is_held = wanted
            if wanted:
                self.stream.pause()
            else:
                self.stream.resume()


def _host_as_it_came(head: RequestHead) -> str:
    return head.host
