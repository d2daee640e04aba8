"""Byte streams as the data plane sees them: plain TCP and mutual TLS behind one small interface.

A stream tells its `Sink` what arrives and takes bytes to send. Either direction ends on its own (half-close), and
either can be held: a sink that cannot keep up pauses reading, and a stream that cannot send says so. A
`SecureStream` is silent until the peer's certificate chain has passed the verifier it was given.
This module knows no policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Protocol, cast

from enforcer.native.signals import Traffic
from mesh.problems import Invalid
from mesh.tls import leaf, peer_chain, records
from mesh.x509svid import VerifiedSvid

HIGH_WATER_BYTES = 128 * 1024
# what both ends of HTTP keep to: how long one that closes listens on, and how much it takes ahead of its turn
LINGER_SECONDS = 2
MAX_PIPELINED_BYTES = 64 * 1024
_READ_BYTES = 16 * 1024  # a record of TLS holds no more

Verify = Callable[[tuple[bytes, ...]], VerifiedSvid]


class Sink(Protocol):
    """Whoever reads a stream."""

    def received(self, data: bytes) -> None:
        """Take the next bytes."""
        ...

    def ended(self) -> None:
        """Learn that the peer will send no more; the other direction goes on."""
        ...

    def lost(self) -> None:
        """Learn that the stream is gone in both directions. Called once, last."""
        ...

    def writable(self, *, ready: bool) -> None:
        """Learn whether the stream takes more bytes to send without piling them up."""
        ...


class Stream(Protocol):
    """One end of a connection."""

    sink: Sink | None

    def write(self, data: bytes) -> None:
        """Send bytes."""
        ...

    def write_eof(self) -> None:
        """Say that nothing more will be sent."""
        ...

    def pause(self) -> None:
        """Stop reading."""
        ...

    def resume(self) -> None:
        """Go on reading."""
        ...

    def close(self) -> None:
        """Send what is waiting, then close."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...


class _Base(asyncio.Protocol):
    """What both kinds share: the transport, the sink and the flow control."""

    def __init__(self) -> None:
        self.sink: Sink | None = None
        self.peer: tuple[str, int] = ("", 0)
        self.local: tuple[str, int] = ("", 0)
        self._transport: asyncio.Transport | None = None
        self._is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start; asyncio calls this."""
        self._transport = cast("asyncio.Transport", transport)  # create_server and create_connection make these
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self.peer = _address(transport.get_extra_info("peername"))
        self.local = _address(transport.get_extra_info("sockname"))

    @property
    def descriptor(self) -> int:
        """The socket's number, while there is one; -1 after."""
        return int(self._transport.get_extra_info("socket").fileno()) if self._transport is not None else -1

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's name
        """Hand on the loss; asyncio calls this. Who comes later learns it on resuming."""
        self._is_lost = True
        self._transport = None
        self._tell_lost()

    def _tell_lost(self) -> None:
        if self._is_lost and self.sink is not None:
            sink, self.sink = self.sink, None
            sink.lost()

    def pause_writing(self) -> None:
        """Hold the sink; asyncio calls this."""
        if self.sink is not None:
            self.sink.writable(ready=False)

    def resume_writing(self) -> None:
        """Release the sink; asyncio calls this."""
        if self.sink is not None:
            self.sink.writable(ready=True)

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()


def _reset_on_close(transport: asyncio.Transport) -> None:
    sock = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class PlainStream(_Base):
    """A TCP connection. One that begins without a sink begins paused; whoever gives it one resumes it.

    uvloop forgets a pause that comes with `connection_made`, so that what arrives during one is kept here.
    """

    def __init__(self, connected: Callable[[PlainStream], None] | None = None) -> None:
        super().__init__()
        self._connected = connected
        self._is_paused = False
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start; asyncio calls this."""
        super().connection_made(transport)
        if self._connected is not None:
            self._connected(self)
        if self.sink is None:
            self.pause()

    def data_received(self, data: bytes) -> None:
        """Hand on what arrived; asyncio calls this."""
        if self._is_paused:
            self._early.append(data)
            self.pause()
        elif self.sink is not None:
            self.sink.received(data)

    def eof_received(self) -> bool:
        """Hand on the end; asyncio calls this. The other direction stays open."""
        if self._is_paused:
            self._early.append(b"")
        elif self.sink is not None:
            self.sink.ended()
        return True

    def write(self, data: bytes) -> None:
        """Send bytes."""
        if self._transport is not None:
            self._transport.write(data)

    def write_eof(self) -> None:
        """Say that nothing more will be sent."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def pause(self) -> None:
        """Stop reading."""
        self._is_paused = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on reading, beginning with what arrived meanwhile."""
        self._is_paused = False
        while self._early and not self._is_paused:
            data = self._early.pop(0)
            if self.sink is not None and data:
                self.sink.received(data)
            elif self.sink is not None:
                self.sink.ended()
        if self._transport is None:
            self._tell_lost()
        elif not self._is_paused and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """Send what is waiting, then close."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Close at once so that the peer sees a cut and no end: what it has got is not the whole."""
        if self._transport is not None:
            _reset_on_close(self._transport)
            self._transport.abort()


class SecureStream(_Base):
    """A mutual TLS connection whose peer our own verifier has passed.

    1. Nothing is handed on, and nothing of ours is sent, before the handshake is complete.
    2. Then the peer's chain goes to the verifier; on the connecting side before our last flight leaves.
       A resumed handshake shows only a leaf: ``recall`` says which chain the peer showed with it before.
    3. Only if the verifier returns an identity does `secured` hear of the stream; otherwise `refused` hears why,
       and the connection is closed.
    4. The end of a direction is a close_notify. A connection that ends without one was cut, and is lost.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        verify: Verify,
        secured: Callable[[SecureStream, VerifiedSvid], None],
        refused: Callable[[SecureStream, Invalid], None],
        recall: Callable[[bytes], tuple[bytes, ...]] | None = None,
        session: ssl.SSLSession | None = None,
        traffic: Traffic | None = None,
    ) -> None:
        super().__init__()
        self._traffic = traffic or Traffic()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side, session=session)
        self._recall = recall
        self._records = records(self._tls)
        self._verify, self._secured, self._refused = verify, secured, refused
        self._is_open = self._is_paused = self._has_ended = self._has_shut = False
        self._early: list[bytes] = []
        self._poll: select.poll | None = None
        self.chain: tuple[bytes, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether the peer has been verified."""
        return self._is_open

    @property
    def is_resumed(self) -> bool:
        """Whether the handshake was a resumed one."""
        return self._tls.session_reused is True

    @property
    def session(self) -> ssl.SSLSession | None:
        """What a later connection can resume; None while the peer has given no ticket."""
        found = self._tls.session
        return found if found is not None and found.has_ticket else None

    @property
    def is_quiet(self) -> bool:
        """Whether nothing arrived that was not read: on a connection that waits, an end or bytes nobody asked for."""
        if self._transport is None or self._transport.is_closing() or self._has_ended or self._has_shut:
            return False
        if self._poll is None:
            sock = self._transport.get_extra_info("socket")
            self._poll = select.poll()
            self._poll.register(sock.fileno(), select.POLLIN | select.POLLRDHUP)
        return not self._poll.poll(0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the handshake; asyncio calls this."""
        super().connection_made(transport)
        self._handshake()

    def data_received(self, data: bytes) -> None:
        """Decrypt and hand on; asyncio calls this. What arrives is nearly always one record, which is the short way."""
        self._incoming.write(data)
        self._traffic.received += len(data)
        if not self._is_open:
            self._handshake()
            return
        sink = self.sink
        if sink is None or self._is_paused or self._early or self._has_ended:
            self._pump()
            return
        try:
            found = self._records.read(_READ_BYTES)
        except ssl.SSLError:
            self._pump()  # it meets the same and knows what to do
            return
        if found:
            sink.received(found)
        else:
            self._deliver(found)
        if self._incoming.pending or self._records.pending():
            self._pump()
        elif self._outgoing.pending:
            self._flush()

    def eof_received(self) -> bool:
        """Hand on a cut; asyncio calls this. Without a close_notify before it the stream is lost."""
        if not self._is_open:
            self._refuse(Invalid("LM3020", reason="the connection ended before the handshake"))
            return False
        return self._has_ended  # keep the transport only for the direction that is still open

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand on the loss; asyncio calls this."""
        if not self._is_open:
            self._refuse(Invalid("LM3020", reason="the connection ended before the handshake"))
        else:
            self._traffic.open -= 1
        super().connection_lost(exc)

    def write(self, data: bytes) -> None:
        """Encrypt and send bytes."""
        if self._transport is None or self._has_shut or not self._is_open or not data:
            return
        try:
            self._records.write(data)
        except ssl.SSLError:
            self.abort()
            return
        found = self._outgoing.read()
        self._traffic.sent += len(found)
        self._transport.write(found)

    def write_eof(self) -> None:
        """Say that nothing more will be sent, with a close_notify; reading goes on."""
        if self._transport is None or self._has_shut or not self._is_open:
            return
        # OpenSSL reads while it shuts down, so that whatever has arrived is taken out of its way first
        self._drain()
        self._has_shut = True
        with contextlib.suppress(ssl.SSLError):  # it wants the peer's close_notify, which comes when the peer is done
            self._tls.unwrap()
        self._flush()

    def pause(self) -> None:
        """Stop reading."""
        self._is_paused = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on reading, beginning with what was already decrypted."""
        if not self._is_paused:
            return
        self._is_paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
        self._pump()
        if self._transport is None:
            self._tell_lost()

    def close(self) -> None:
        """Send what is waiting and a close_notify, then close."""
        self.write_eof()
        if self._transport is not None:
            self._transport.close()

    def _handshake(self) -> None:
        if self._is_lost:
            return
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as err:
            self._flush()  # the alert
            self._refuse(Invalid("LM3020", reason=_reason(err)))
            return
        # (2) the flight that completes our side is still in `_outgoing`
        self.chain = self._peer_chain()
        try:
            peer = self._verify(self.chain)
        except Invalid as err:
            self._refuse(err)
            return
        # (3)
        self._flush()
        self._is_open = True
        self._traffic.open += 1
        secured = self._secured
        # whoever is called back holds this stream: what is not needed again is let go, so that a closed connection's
        # OpenSSL memory, which the garbage collector does not see, is freed at once
        self._secured, self._refused = _ignore, _ignore
        secured(self, peer)
        self._pump()

    def _peer_chain(self) -> tuple[bytes, ...]:
        if not self.is_resumed:
            return peer_chain(self._tls)
        own = leaf(self._tls)
        found = self._recall(own) if self._recall is not None and own is not None else ()
        return found if found[:1] == (own,) else ()

    def _refuse(self, problem: Invalid) -> None:
        self._is_lost = True
        refused = self._refused
        self._secured, self._refused = _ignore, _ignore
        if self._transport is not None:
            self._transport.close()
        refused(self, problem)

    def _pump(self) -> None:
        """Hand on what can be decrypted, until the sink pauses or nothing is left."""
        while self._early and not self._is_paused:
            self._deliver(self._early.pop(0))
        while not self._is_paused and not self._has_ended and self._transport is not None:
            data = self._read()
            if data is None:
                break
            self._deliver(data)
            if not self._incoming.pending and not self._records.pending():
                break
        if self._outgoing.pending:
            self._flush()

    def _deliver(self, data: bytes) -> None:
        if not data:
            self._has_ended = True
        if self.sink is None:
            return
        if data:
            self.sink.received(data)
        else:
            self.sink.ended()

    def _read(self) -> bytes | None:
        """Decrypt a portion; empty at the peer's close_notify, None while there is nothing."""
        try:
            # empty too where there is no more than an end to read
            return self._records.read(_READ_BYTES)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLZeroReturnError:
            return b""
        except ssl.SSLError:
            self.abort()
            return None

    def _drain(self) -> None:
        while not self._has_ended and (data := self._read()) is not None:
            self._early.append(data)
            if not data:
                break
        if not self._is_paused:
            while self._early:
                self._deliver(self._early.pop(0))

    def _flush(self) -> None:
        if self._transport is not None and self._outgoing.pending:
            found = self._outgoing.read()
            self._traffic.sent += len(found)
            self._transport.write(found)


def _ignore(stream: SecureStream, found: object) -> None:
    """What became of a handshake is told once."""


def _reason(err: ssl.SSLError) -> str:
    return (err.reason or "the peer broke the protocol").lower().replace("_", " ")


def _address(found: object) -> tuple[str, int]:
    return (str(found[0]), int(found[1])) if isinstance(found, tuple) else ("", 0)
