"""A gRPC channel over a TLS connection that we verified ourselves.

gRPC's own TLS compares host names, and a SPIFFE server has none in its certificate. So the connection is opened and
verified here, with `mesh.x509svid`, and a private channel that speaks no TLS is joined to it inside this process. Not
a proxy: one connection, for one call, to one server whose SPIFFE ID is known.
"""

from __future__ import annotations

import contextlib
import pathlib
import selectors
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator, Mapping

import grpc

from mesh.bundle import TrustBundle
from mesh.clock import Clock
from mesh.problems import Forbidden, Problem, Unavailable
from mesh.spiffe import SpiffeId, TrustDomain
from mesh.tls import client_context, peer_chain
from mesh.x509svid import X509Svid, verify_x509_svid

TIMEOUT_S = 15.0
_PIECE = 64 << 10
_OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", 1 << 20))


def connect(
    address: tuple[str, int],
    svid: X509Svid,
    bundles: Mapping[TrustDomain, TrustBundle],
    expected: SpiffeId,
    clock: Clock,
    *,
    upstream: str,
) -> ssl.SSLSocket:
    """Open a connection to whoever is ``expected``, and nobody else.

    1. Mutual TLS 1.3 with our SVID.
    2. The peer's chain verifies as an X.509-SVID, with the bundle of its own trust domain.
    3. Its SPIFFE ID is the expected one.

    Raises Unavailable LM1613 when nobody answers, Forbidden LM1612 for (2) and (3), and LM3010 and LM3011.
    """
    context = client_context(svid, bundles)
    context.set_alpn_protocols(["h2"])
    try:
        # (1)
        plain = socket.create_connection(address, timeout=TIMEOUT_S)
        try:
            secured = context.wrap_socket(plain)
        except BaseException:
            plain.close()
            raise
    except (OSError, ssl.SSLError) as err:
        raise Unavailable("LM1613", upstream=upstream, reason=f"{err}"[:200]) from err
    try:
        # (2)
        found = verify_x509_svid(peer_chain(secured), bundles, clock.now())
        # (3)
        if found.spiffe_id != expected:
            raise Forbidden("LM1612", upstream=upstream, reason=f"it is `{found.spiffe_id}`, not `{expected}`")
    except Problem as err:
        secured.close()
        if err.code == "LM1612":
            raise
        raise Forbidden("LM1612", upstream=upstream, reason=f"{err.code}: {err.message}") from err
    return secured


@contextlib.contextmanager
def channel_over(secured: ssl.SSLSocket) -> Iterator[grpc.Channel]:
    """A gRPC channel whose bytes go through a connection; both end together."""
    with tempfile.TemporaryDirectory(prefix="limen-") as folder, socket.socket(socket.AF_UNIX) as listener:
        path = pathlib.Path(folder) / "s"
        listener.bind(str(path))
        listener.listen(1)
        listener.settimeout(TIMEOUT_S)
        stop = threading.Event()
        pump = threading.Thread(target=_serve, args=(listener, secured, stop), daemon=True)
        pump.start()
        channel = grpc.insecure_channel(f"unix:{path}", options=_OPTIONS)
        try:
            yield channel
        finally:
            channel.close()
            stop.set()
            pump.join(timeout=TIMEOUT_S)
            secured.close()


def _serve(listener: socket.socket, secured: ssl.SSLSocket, stop: threading.Event) -> None:
    """Accept the one channel, and carry bytes both ways on this one thread: a TLS connection is not for two."""
    with contextlib.suppress(OSError):
        inner, _ = listener.accept()
        with inner, selectors.DefaultSelector() as waiting:
            waiting.register(inner, selectors.EVENT_READ)
            waiting.register(secured, selectors.EVENT_READ)
            while not stop.is_set():
                ready = {key.fileobj for key, _ in waiting.select(timeout=0.1)}
                if inner in ready:
                    data = inner.recv(_PIECE)
                    if not data:
                        return
                    secured.settimeout(TIMEOUT_S)
                    secured.sendall(data)
                if (secured in ready or secured.pending()) and not _deliver(secured, inner):
                    return


def _deliver(secured: ssl.SSLSocket, inner: socket.socket) -> bool:
    """Carry what has arrived; False when the other side ended."""
    secured.setblocking(False)
    while True:
        try:
            data = secured.recv(_PIECE)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return True
        if not data:
            return False
        inner.sendall(data)
