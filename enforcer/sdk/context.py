"""TLS contexts that renew themselves and let nobody through whom our own verifier has not passed.

A context is only a door to the present one: every handshake goes by the SVID and bundles of its moment, so that what
was rotated or removed needs no restart. `ssl` asks no callback about a peer; so the connection objects that these
contexts make hand over no byte before `mesh.x509svid` has said who the peer is and its name is the expected one. An
event loop's connection is judged before our last flight, with our certificate, leaves; a blocking socket's right after,
to a peer that OpenSSL has checked against the bundles. No session is resumed and no ticket given: nothing has to
be forgotten when bundles or policies change. Objects stay known while they live: one whose peer does not hold any more
reads and writes nothing. The key goes to OpenSSL through memory (`mesh.tls`).
"""

from __future__ import annotations

import socket
import ssl
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Protocol, Self

from enforcer.native.workload import Identity, Workload
from mesh.problems import Invalid
from mesh.tls import client_context, peer_chain, server_context
from mesh.x509svid import VerifiedSvid

Chain = tuple[bytes, ...]


class Admit(Protocol):
    """Says whether a verified peer is one for this door; raises Invalid if it is not."""

    def __call__(self, peer: VerifiedSvid, chain: Chain, *, is_new: bool) -> None:
        """Check a peer, of a new connection or of one that was let through before."""
        ...


class Gate:
    """Verifies the peers of one context's connections, when they begin and whenever something changed."""

    def __init__(self, workload: Workload, admit: Admit, refused: Callable[[Invalid], None]) -> None:
        self._workload, self._admit, self._refused = workload, admit, refused
        self._lock = threading.Lock()
        self._live: weakref.WeakSet[CheckedObject | CheckedSocket] = weakref.WeakSet()

    @property
    def live(self) -> int:
        """How many connections there are."""
        return len(self._live)

    def open(self, found: CheckedObject | CheckedSocket) -> None:
        """Let a connection through whose handshake is complete.

        Raises ssl.SSLCertVerificationError with the code of the rule that the peer breaks.
        """
        try:
            chain = peer_chain(found)
            peer = self._workload.require_identity().verify(chain)
            self._admit(peer, chain, is_new=True)
        except Invalid as err:
            found.is_cut = True
            self._refused(err)
            raise ssl.SSLCertVerificationError(str(err)) from err
        found.chain, found.peer = chain, peer
        with self._lock:
            self._live.add(found)

    def recheck(self) -> None:
        """Cut the connections whose peer does not hold now."""
        with self._lock:
            found = [*self._live]
        for item in found:
            try:
                peer = self._workload.require_identity().verify(item.chain)
                if item.peer is None or peer.spiffe_id != item.peer.spiffe_id:
                    raise Invalid("LM3465")
                self._admit(peer, item.chain, is_new=False)
            except Invalid:
                item.is_cut = True


class CheckedObject(ssl.SSLObject):
    """A connection over memory, as asyncio and its likes use them."""

    gate: Gate
    is_cut = False
    chain: Chain = ()
    peer: VerifiedSvid | None = None

    def do_handshake(self) -> None:
        """Shake hands, and know the peer."""
        _check(self)
        super().do_handshake()
        if self.peer is None:
            self.gate.open(self)

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002, ANN401  as the base has it
        """Read, from a peer that still holds."""
        _check(self)
        return super().read(len, buffer) if buffer is not None else super().read(len)

    def write(self, data: Any) -> int:  # noqa: ANN401  whatever has bytes
        """Write, to a peer that still holds."""
        _check(self)
        return super().write(data)


class CheckedSocket(ssl.SSLSocket):
    """A connection over a socket."""

    gate: Gate
    is_cut = False
    chain: Chain = ()
    peer: VerifiedSvid | None = None

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002  as the base has it
        """Shake hands, and know the peer."""
        _check(self)
        super().do_handshake(block)
        if self.peer is None:
            self.gate.open(self)

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002, ANN401  as the base has it
        """Read, from a peer that still holds."""
        self._ready()
        return super().read(len, buffer)

    def write(self, data: Any) -> int:  # noqa: ANN401  whatever has bytes
        """Write, to a peer that still holds."""
        self._ready()
        return super().write(data)

    def send(self, data: Any, flags: int = 0) -> int:  # noqa: ANN401  whatever has bytes
        """Send, to a peer that still holds."""
        self._ready()
        return super().send(data, flags)

    def _ready(self) -> None:
        """OpenSSL shakes hands by itself when it is asked to read or write first: then we ask it ourselves."""
        _check(self)
        if self.peer is None:
            self.do_handshake()


class RenewingContext(ssl.SSLContext):
    """The TLS context of this program's side, as it is now; hand it to whatever takes an `ssl.SSLContext`.

    It has no certificate and no authority of its own: what would go around its `wrap_bio` and `wrap_socket` fails.
    """

    def __new__(cls, workload: Workload, gate: Gate, *, is_server: bool) -> Self:
        """Make the door; ``is_server`` says which side it is."""
        del workload, gate
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, workload: Workload, gate: Gate, *, is_server: bool) -> None:
        self._workload, self.gate, self._is_server = workload, gate, is_server
        self._protocols: tuple[str, ...] = ()
        self._built: tuple[Identity, ssl.SSLContext] | None = None
        self.check_hostname = False
        self.verify_mode = ssl.CERT_REQUIRED
        self.minimum_version = ssl.TLSVersion.TLSv1_3

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        """Offer these protocols from the next handshake on."""
        self._protocols, self._built = tuple(alpn_protocols), None

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002  as the base has it
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin a connection over memory. Names play no part, and nothing is resumed.

        Raises Invalid LM3010 to LM3012 without an SVID or bundles.
        """
        del server_hostname, session
        return self.present().wrap_bio(incoming, outgoing, server_side=server_side)

    def wrap_socket(
        self,
        sock: socket.socket,
        server_side: bool = False,  # noqa: FBT001, FBT002  as the base has it
        do_handshake_on_connect: bool = True,  # noqa: FBT001, FBT002
        suppress_ragged_eofs: bool = True,  # noqa: FBT001, FBT002
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLSocket:
        """Begin a connection over a socket; one that listens stays by this door, whatever it accepts.

        Raises Invalid LM3010 to LM3012 without an SVID or bundles.
        """
        del server_hostname, session
        if server_side and not _is_connected(sock):
            return ssl.SSLSocket._create(  # type: ignore[attr-defined, no-any-return]  # noqa: SLF001  what the base does
                sock=sock,
                server_side=True,
                do_handshake_on_connect=do_handshake_on_connect,
                suppress_ragged_eofs=suppress_ragged_eofs,
                server_hostname=None,
                context=self,
                session=None,
            )
        return self.present().wrap_socket(
            sock,
            server_side=server_side,
            do_handshake_on_connect=do_handshake_on_connect,
            suppress_ragged_eofs=suppress_ragged_eofs,
        )

    def present(self) -> ssl.SSLContext:
        """The context of this moment.

        Raises Invalid LM3010 to LM3012 without an SVID or bundles.
        """
        identity = self._workload.require_identity()
        built = self._built
        if built is None or built[0] is not identity:
            make = server_context if self._is_server else client_context
            context = make(identity.svid, identity.bundles)
            context.options |= ssl.OP_NO_TICKET
            context.sslobject_class = type("CheckedObject", (CheckedObject,), {"gate": self.gate})
            context.sslsocket_class = type("CheckedSocket", (CheckedSocket,), {"gate": self.gate})
            if self._protocols:
                context.set_alpn_protocols([*self._protocols])
            self._built = built = (identity, context)
        return built[1]


def _check(found: CheckedObject | CheckedSocket) -> None:
    if found.is_cut:
        raise ssl.SSLError(str(Invalid("LM3465")))


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
