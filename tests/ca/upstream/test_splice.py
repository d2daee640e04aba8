"""What `test_spire` does not reach: the connection itself. The calls over it are tested there, end to end."""

import socket
import ssl
import threading

import pytest

from ca.keys import private_to_der
from ca.upstream.splice import channel_over, connect
from mesh.bundle import TrustBundle
from mesh.clock import ManualClock
from mesh.problems import Forbidden, Unavailable
from mesh.spiffe import SpiffeId
from mesh.tls import server_context
from mesh.x509svid import X509Svid
from tests.ca.upstream.chains import DOMAIN, Made
from tests.ca.upstream.test_spire import NOW, OURS, ROOT, leaf

BUNDLES = {DOMAIN: TrustBundle(trust_domain=DOMAIN, x509_authorities=(ROOT.der,))}
SERVER = SpiffeId.parse("spiffe://corp.test/spire/server")


def svid(made: Made, name: str) -> X509Svid:
    return X509Svid(
        spiffe_id=SpiffeId.parse(name),
        chain_der=(made.der,),
        key_pkcs8_der=private_to_der(made.key.key),
        not_after=made.certificate.not_valid_after_utc,
    )


def serve(name: str) -> tuple[tuple[str, int], threading.Thread]:
    """Accept one connection, send a few bytes, and end."""
    context = server_context(svid(leaf(name), name), BUNDLES)
    context.set_alpn_protocols(["h2"])
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with listener, listener.accept()[0] as plain:
            try:
                with context.wrap_socket(plain, server_side=True) as secured:
                    secured.sendall(b"not http/2")
            except (OSError, ssl.SSLError):
                return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return listener.getsockname(), thread


def open_to(address: tuple[str, int]) -> ssl.SSLSocket:
    return connect(address, svid(OURS, "spiffe://corp.test/limen"), BUNDLES, SERVER, ManualClock(NOW), upstream="test")


def test_a_connection_is_opened_to_whom_it_should_be() -> None:
    address, thread = serve("spiffe://corp.test/spire/server")
    with open_to(address) as secured:
        assert secured.version() == "TLSv1.3"
        assert secured.selected_alpn_protocol() == "h2"
    thread.join(60)


def test_another_identity_is_refused_before_a_byte_is_sent() -> None:
    address, thread = serve("spiffe://corp.test/spire/agent")
    with pytest.raises(Forbidden, match="LM1612"):
        open_to(address)
    thread.join(60)


def test_an_expired_server_is_refused() -> None:
    import datetime as dt

    address, thread = serve("spiffe://corp.test/spire/server")
    late = ManualClock(NOW + dt.timedelta(days=40))
    with pytest.raises(Forbidden, match="LM1612"):
        connect(address, svid(OURS, "spiffe://corp.test/limen"), BUNDLES, SERVER, late, upstream="test")
    thread.join(60)


def test_bytes_that_are_no_grpc_end_the_call_and_the_thread() -> None:
    import grpc

    address, thread = serve("spiffe://corp.test/spire/server")
    before = threading.active_count()
    with channel_over(open_to(address)) as channel:
        call = channel.unary_unary("/x/y", request_serializer=bytes, response_deserializer=bytes)
        with pytest.raises(grpc.RpcError):
            call(b"", timeout=60)
    thread.join(60)
    assert threading.active_count() <= before


def test_nobody_there_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with pytest.raises(Unavailable, match="LM1613"):
        open_to(address)
