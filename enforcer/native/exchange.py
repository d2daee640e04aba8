"""One caller's HTTP/1.1 connection to the workload: its exchanges, strictly one after the other.

A request is decided on its head, before a byte of it reaches the workload; its body and the response stream
through with back-pressure. What is pipelined waits. What breaks a rule is answered and ends the connection.
Reading is `http1`'s, deciding `judge`'s; this module only moves between the two streams. It is one state machine, and
as long as it is so that all of its transitions stand in one place.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Callable
from typing import Protocol

from enforcer.native import answer, serial
from enforcer.native.form import Form
from enforcer.native.http1 import Framing, RequestHead, RequestReader, ResponseHead, ResponseReader
from enforcer.native.judge import Judgement
from enforcer.native.l4 import Splice
from enforcer.native.limits import Limits
from enforcer.native.records import KEPT_WITHIN_S
from enforcer.native.stream import LINGER_SECONDS, MAX_PIPELINED_BYTES, PlainStream, Stream
from mesh.problems import Invalid

DENIALS_A_TURN = 16
# how long a connection of a port that drains may wait for another request; longer than a calling side keeps one that
# waits (`pool.MAX_IDLE_SECONDS`), so that it is the calling side which lets go
DRAIN_IDLE_SECONDS = 30


class State(enum.Enum):
    """Where a connection is."""

    WAITING = "waiting for a request"
    DIALLING = "waiting for the workload to accept"
    RUNNING = "a request was sent on, its response is not complete"
    SWITCHED = "a WebSocket: two joined streams"
    RECORDING = "an answer of our own waits until its record is on a disk"
    CLOSING = "answered for the last time"
    GONE = "gone"


class Host(Protocol):
    """What a connection needs of its sidecar."""

    def refusal(self) -> Invalid | None:
        """Why no request can be taken on now; None while one can."""
        ...

    def judge(self, head: RequestHead) -> tuple[Judgement, str]:
        """Decide and record; return the decision and the record's id."""
        ...

    def judge_again(self, head: RequestHead) -> bool:
        """Whether a request that was let through still would be; what would not is recorded."""
        ...

    def takes_websocket(self) -> bool:
        """Whether requests on this port may become WebSockets."""
        ...

    def reads_field(self, name: str) -> bool:
        """Whether policies read a field of this lower-case name."""
        ...

    def refuse(self, problem: Invalid) -> str:
        """Record a request that broke a rule of HTTP; return the record's id."""
        ...

    def waits_for_disk(self, answer: Callable[[], None], code: str = "") -> bool:
        """Whether an answer of ours has to wait until what was recorded last is on a disk; it is called then."""
        ...

    def forwarded(self, head: RequestHead) -> RequestHead:
        """The head that the workload gets of the request that was judged last."""
        ...

    def exchanged(self, head: RequestHead, judgement: Judgement, status: int | None, length: int | None = None) -> None:
        """Count an exchange that is over; ``length`` is that of the answer's body, None where it was not said."""
        ...

    def later(self, work: Callable[[], None]) -> None:
        """Do something once everybody else had a turn."""
        ...

    def dial(self, connected: Callable[[PlainStream | None], None]) -> None:
        """Connect to the workload; tell the stream, or None."""
        ...

    def gone(self, connection: HttpConnection) -> None:
        """Forget the connection."""
        ...


@dataclasses.dataclass(slots=True)
class _Exchange:
    head: RequestHead
    judgement: Judgement
    sent: bool = False
    # whether the caller was told that this answer is the last
    closes: bool = False
    response: ResponseHead | None = None


class _AppSide:
    """Reads the workload's stream for a connection."""

    __slots__ = ("_connection", "_stream")

    def __init__(self, connection: HttpConnection, stream: PlainStream) -> None:
        self._connection, self._stream = connection, stream

    def received(self, data: bytes) -> None:
        self._connection.app_received(self._stream, data)

    def ended(self) -> None:
        self._connection.app_ended(self._stream)

    def lost(self) -> None:
        self._connection.app_ended(self._stream)

    def writable(self, *, ready: bool) -> None:
        self._connection.hold(app_is_full=not ready)


class HttpConnection:
    """The caller's side of the connection; a `Sink` for its stream."""

    __slots__ = (
        "_app", "_app_is_full", "_begins", "_caller_ended", "_caller_is_full", "_exchange", "_form", "_has_identity",
        "_has_moved", "_head_ticks", "_host", "_is_draining", "_is_held", "_limits", "_quiet_ticks", "_reader",
        "_response", "_state", "_stream", "_switched", "_waits_for_turn", "_writer", "_written_response",
    )  # fmt: skip

    def __init__(self, stream: Stream, host: Host, identity: bytes, limits: Limits) -> None:
        self._stream, self._host, self._limits = stream, host, limits
        self._reader = RequestReader()
        self._response = ResponseReader()
        self._app: PlainStream | None = None
        self._exchange: _Exchange | None = None
        self._switched: tuple[Splice, RequestHead] | None = None
        self._state = State.WAITING
        self._caller_ended = self._app_is_full = self._is_held = self._has_moved = False
        self._caller_is_full = self._waits_for_turn = self._is_draining = False
        self._head_ticks = self._quiet_ticks = 0
        # what was made of the last head, for one of the same form, and of the last answer's
        self._form: Form | None = None
        self._has_identity = self._begins = False
        self._writer = serial.Writer(identity)
        self._written_response: tuple[ResponseHead, bool, bytes] | None = None
        stream.sink = self

    # -- what the caller's stream tells

    def received(self, data: bytes) -> None:
        """Take the caller's next bytes."""
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
        """The caller sends no more; a request that is complete is still answered."""
        self._caller_ended = True
        if self._state is State.WAITING or self._state is State.CLOSING:
            self._finish()
        elif self._state is State.RECORDING:
            return
        elif not self._reader.is_done:
            self.abort()

    def lost(self) -> None:
        """The caller is gone."""
        if self._state is State.GONE:
            return
        self._state = State.GONE
        self._count()
        self._drop_app()
        self._host.gone(self)

    def writable(self, *, ready: bool) -> None:
        """Hold or release the workload while the caller does not keep up, and what the caller asks for meanwhile."""
        self._caller_is_full = not ready
        if self._app is not None:
            if ready:
                self._app.resume()
            else:
                self._app.pause()
        if ready and self._state is State.WAITING:
            self._next()
        self.hold()

    # -- what the sidecar tells

    def tick(self, *, is_ending: bool = False) -> None:
        """Let a second pass: slow heads, silent connections and lingering ones end; on ``is_ending`` all that wait."""
        self._quiet_ticks = 0 if self._has_moved else self._quiet_ticks + 1
        self._has_moved = False
        if self._state is State.WAITING:
            is_slow = self._reader.has_started and not self._caller_is_full
            self._head_ticks = self._head_ticks + 1 if is_slow else 0
            if self._head_ticks > self._limits.head_s:
                self._refuse(Invalid("LM3112", seconds=self._limits.head_s))
            elif self._quiet_ticks > self._idle_s or (is_ending and not self._reader.has_started):
                self._finish()
        elif self._state is State.CLOSING:
            self._head_ticks += 1
            if self._head_ticks > LINGER_SECONDS:
                self._finish()
        elif self._state is State.RECORDING:
            self._head_ticks += 1
            if self._head_ticks > KEPT_WITHIN_S:
                self.abort()
        elif self._state is not State.SWITCHED and self._quiet_ticks > self._limits.exchange_s:
            self.abort()

    @property
    def is_busy(self) -> bool:
        """Whether a request was begun whose answer is not complete."""
        return self._state in {State.DIALLING, State.RUNNING, State.RECORDING} or (
            self._state is State.WAITING and self._reader.has_started
        )

    @property
    def _idle_s(self) -> int:
        return min(self._limits.idle_s, DRAIN_IDLE_SECONDS) if self._is_draining else self._limits.idle_s

    def drain(self) -> None:
        """Let the next answer be the last one: the caller is told so, and makes a new connection."""
        self._is_draining = True

    def recheck(self) -> None:
        """End a WebSocket whose request would not be let through now."""
        if self._switched is not None:
            splice, head = self._switched
            if not self._host.takes_websocket() or not self._host.judge_again(head):
                splice.abort()

    def abort(self) -> None:
        """Close both sides at once."""
        if self._switched is not None:
            self._switched[0].abort()
        self._stream.abort()
        self.lost()

    # -- requests

    def _next(self) -> None:
        """Begin the next request, or answer those that are denied: a few, and then it is other connections' turn."""
        turns = 0
        while self._state is State.WAITING and not self._caller_is_full and not self._waits_for_turn:
            turns += 1
            if turns > DENIALS_A_TURN:
                self._waits_for_turn = True
                self._host.later(self._take_turn)
                return
            try:
                head = self._reader.head()
            except Invalid as err:
                self._refuse(err)
                return
            if head is None:
                if self._caller_ended:
                    self._finish()
                return
            self._begin(head)

    def _take_turn(self) -> None:
        self._waits_for_turn = False
        self._next()
        self.hold()

    def _begin(self, head: RequestHead) -> None:
        """Decide about a request; nothing of it has moved yet.

        1. Fields that only an enforcer may set are taken out before anybody looks, and of the announced trailers those
           that policies read as fields: nobody who decides has seen them.
        2. A denied request is answered here, once it is recorded as durably as it has to be. If it has a body, the
           connection ends with the answer.
        3. An allowed one goes to the workload, over the connection that is open or a new one.
        """
        if (problem := self._host.refusal()) is not None:
            self._refuse(problem)
            return
        if head.websocket_key and (self._reader.buffered or not self._host.takes_websocket()):
            self._refuse(Invalid("LM3108"))
            return
        # (1)
        if head.form is not self._form:
            self._form = head.form
            self._has_identity = len(serial.without_identity(head.fields)) != len(head.fields)
            self._begins = self._has_identity and serial.begins(head.fields)
        if self._begins:
            self._drop_app(gently=True)
        if self._has_identity:  # by names, which are of the form
            head = head._replace(fields=serial.without_identity(head.fields), form=None)
        if head.trailers:
            head = head._replace(trailers=self._trailers(head.trailers))
        judgement, record = self._host.judge(head)
        # (2)
        if not judgement.decision.is_allowed:
            close = not head.keep_alive or not self._reader.is_done or self._ends_now
            reply = answer.denial(judgement.decision, record=record, close=close, with_body=head.method != "HEAD")
            self._host.exchanged(head, judgement, 403)
            self._reply(reply, close=close)
            return
        # (3)
        self._exchange = _Exchange(head, judgement)
        self._head_ticks = 0
        if self._app is not None:
            self._start(self._app)
        else:
            self._state = State.DIALLING
            self.hold()
            self._host.dial(self._dialled)

    def _trailers(self, announced: frozenset[bytes]) -> frozenset[bytes]:
        return frozenset(
            name for name in announced if serial.may_trail(name) and not self._host.reads_field(name.decode("latin-1"))
        )

    def _dialled(self, app: PlainStream | None) -> None:
        if self._state is not State.DIALLING:
            if app is not None:
                app.abort()
            return
        if app is None:
            self._refuse(Invalid("LM3300"))
            return
        self._app, self._response, self._app_is_full = app, ResponseReader(), False
        app.sink = _AppSide(self, app)
        if not self._caller_is_full:
            app.resume()
        if self._app is app:
            self._start(app)
        else:  # resuming told that it ended, or that it speaks without having been asked
            self._refuse(Invalid("LM3302", rule="it comes after a request"))
        self.hold()

    def _start(self, app: PlainStream) -> None:
        exchange = self._exchange
        assert exchange is not None
        self._state = State.RUNNING
        forwarded = self._host.forwarded(exchange.head)
        head = self._writer.head(forwarded, exchange.judgement.target, serial.forwarded_host)
        if exchange.head.framing is Framing.CHUNKED or exchange.head.length:
            self._send_body(head)
        else:
            exchange.sent = True
            app.write(head)

    def _send_body(self, first: bytes) -> None:
        """Send on what has arrived of the body, after ``first``."""
        exchange, app = self._exchange, self._app
        if exchange is None or app is None or exchange.sent:
            return
        try:
            data = self._reader.body()
        except Invalid as err:
            self._drop_app()
            if exchange.response is None:
                self._refuse(err)
            else:
                self.abort()
            return
        exchange.sent = self._reader.is_done
        if exchange.head.framing is Framing.CHUNKED:
            end = b""
            if exchange.sent:
                end = serial.last_chunk(serial.trailers(self._reader.trailers, exchange.head.trailers.__contains__))
            data = serial.chunk(data) + end
        if first or data:
            app.write(first + data)

    # -- responses

    def app_received(self, app: PlainStream, data: bytes) -> None:
        """Take the workload's next bytes."""
        if app is not self._app:
            return
        self._has_moved = True
        if self._state is not State.RUNNING:
            self._drop_app()  # it speaks without having been asked
            return
        self._response.feed(data)
        self._respond()

    def app_ended(self, app: PlainStream) -> None:
        """The workload sends no more on this connection."""
        if app is not self._app:
            return
        exchange = self._exchange
        if self._state is not State.RUNNING or exchange is None:
            self._drop_app()
            return
        self._response.close()
        if exchange.response is None:
            self._drop_app()
            self._refuse(Invalid("LM3302", rule="it is complete before the workload closes the connection"))
        elif self._response.is_done:
            self._respond()
        else:
            self.abort()

    def _respond(self) -> None:
        """Send on what has arrived of the response; interim responses pass as they come, and 101 ends them."""
        exchange = self._exchange
        assert exchange is not None
        out: list[bytes] = []
        was_begun = exchange.response is not None
        try:
            while exchange.response is None:
                head = self._response.head(exchange.head.method, exchange.head.websocket_key)
                if head is None:
                    break
                if head.status == 101:
                    self._switch(exchange, head, b"".join(out))
                    return
                if head.status >= 200:
                    exchange.response = head
                exchange.closes = self._closes_after(exchange.head, head)
                out.append(self._response_head(head, close=exchange.closes))
            if exchange.response is not None:
                out.append(self._response_body(exchange.response))
        except Invalid as err:
            self._drop_app()
            if was_begun:
                self.abort()
                return
            # what came before is interim, and a final answer may follow it
            exchange.response = None
            self._refuse(Invalid("LM3302", rule=str(err.facts["rule"])) if err.code == "LM3109" else err)
            return
        self._stream.write(out[0] if len(out) == 1 else b"".join(out))
        if exchange.response is not None and self._response.is_done:
            self._complete(exchange, exchange.response)

    def _switch(self, exchange: _Exchange, head: ResponseHead, before: bytes) -> None:
        """Join the two streams: the workload answered that the request is a WebSocket now.

        What the caller sent before that answer is neither a request nor the WebSocket's, and ends it (RFC 6455 §4.1).
        """
        app = self._app
        assert app is not None
        if self._reader.buffered or self._caller_ended:
            raise Invalid("LM3108")
        exchange.response = head
        self._count()
        self._state = State.SWITCHED
        self._app = None
        self._stream.write(before + serial.response_head(head, close=False) + self._response.take_rest())
        self._switched = Splice(self._stream, app, self._parted), exchange.head
        if not self._app_is_full:
            self._stream.resume()
        if not self._caller_is_full:
            app.resume()

    def _parted(self, _: Splice) -> None:
        self._switched = None
        self.lost()

    def _response_head(self, head: ResponseHead, *, close: bool) -> bytes:
        last = self._written_response
        if last is None or last[0] is not head or last[1] is not close:
            last = self._written_response = head, close, serial.response_head(head, close=close)
        return last[2]

    def _response_body(self, head: ResponseHead) -> bytes:
        data = self._response.body()
        if head.framing is not Framing.CHUNKED:
            return data
        end = b""
        if self._response.is_done:
            end = serial.last_chunk(serial.trailers(self._response.trailers))
        return serial.chunk(data) + end

    def _closes_after(self, request: RequestHead, response: ResponseHead) -> bool:
        is_final = response.status >= 200
        return not request.keep_alive or response.framing is Framing.CLOSE or (is_final and self._ends_now)

    @property
    def _ends_now(self) -> bool:
        """Whether the port drains, and nothing is here that would lose its answer."""
        return self._is_draining and self._reader.is_done and not self._reader.has_started

    def _complete(self, exchange: _Exchange, response: ResponseHead) -> None:
        """An exchange is over: keep what can be used again.

        A workload that answered before it read the whole request, or said more than it was asked, is not reused.
        """
        self._count()
        if not response.keep_alive or not exchange.sent or not self._response.is_empty:
            self._drop_app(gently=exchange.sent)
        if not exchange.sent or exchange.closes:
            self._drop_app(gently=exchange.sent)
            self._linger()
            return
        self._state = State.WAITING
        self._next()
        self.hold()

    # -- ends

    def _refuse(self, problem: Invalid) -> None:
        """Answer what cannot be served, and end."""
        record = self._host.refuse(problem)
        with_body = self._exchange is None or self._exchange.head.method != "HEAD"
        self._count(answer.status_of(problem.code)[0])
        reply = answer.problem(problem.code, problem.facts, record=record, with_body=with_body)
        self._reply(reply, close=True, code=problem.code)

    def _reply(self, reply: bytes, *, close: bool, code: str = "") -> None:
        """Give an answer of our own, at once or when its record is on a disk."""
        if self._host.waits_for_disk(functools.partial(self._recorded, reply, close=close), code):
            self._state = State.RECORDING
            self._head_ticks = 0
            if close:
                self._drop_app()
            self.hold()
            return
        self._stream.write(reply)
        if close:
            self._linger()

    def _recorded(self, reply: bytes, *, close: bool) -> None:
        if self._state is not State.RECORDING:
            return  # the caller is gone
        self._state = State.WAITING
        self._stream.write(reply)
        if close:
            self._linger()
        else:
            self._next()
            self.hold()

    def _linger(self) -> None:
        """End our direction and give the caller time to read; what it still sends is thrown away."""
        self._state = State.CLOSING
        self._head_ticks = 0
        self._drop_app()
        self._stream.write_eof()
        if self._caller_ended:
            self._finish()
        else:
            self.hold()

    def _finish(self) -> None:
        self._stream.close()
        self.lost()

    def _count(self, status: int | None = None) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            response = exchange.response
            if response is None:
                self._host.exchanged(exchange.head, exchange.judgement, status)
            else:
                self._host.exchanged(exchange.head, exchange.judgement, response.status, response.length)

    def _drop_app(self, *, gently: bool = False) -> None:
        app, self._app = self._app, None
        if app is not None:
            if gently:
                app.close()
            else:
                app.abort()
            self._app_is_full = False

    def hold(self, *, app_is_full: bool | None = None) -> None:
        """Read from the caller only what can be used: not while the workload is full, nor far ahead of it."""
        if app_is_full is not None:
            self._app_is_full = app_is_full
        ahead = self._reader.buffered > MAX_PIPELINED_BYTES and self._state is not State.CLOSING
        # who does not read answers asks for no more of them
        is_full = self._app_is_full or (self._caller_is_full and self._state is State.WAITING)
        wanted = self._state is State.DIALLING or is_full or ahead
        if wanted is not self._is_held:
            self._is_held = wanted
            if wanted:
                self._stream.pause()
            else:
                self._stream.resume()
