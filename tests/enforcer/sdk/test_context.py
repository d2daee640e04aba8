"""TLS contexts that renew themselves: who passes, what is cut, and that no server has to be started anew."""

import asyncio
import contextlib
import http.client
import http.server
import os
import pathlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography import x509

from enforcer.sdk import Limen
from enforcer.sdk.context import CheckedSocket, RenewingContext
from mesh.problems import Invalid
from mesh.spiffe import SpiffeId
from mesh.x509svid import X509Svid
from tests.enforcer.native.harness import ALLOW_WEB, DB, OPS, WEB, Realm, policies
from tests.enforcer.sdk.conftest import Teller, connect, eventually

Make = Callable[..., tuple[Limen, Teller]]
SERVICES = policies(ALLOW_WEB)


class Echo:
    """A plain threaded server, which knows nothing of us but the context: one word back for one word."""

    def __init__(self, context: ssl.SSLContext) -> None:
        raw = socket.create_server(("127.0.0.1", 0))
        self.port: int = raw.getsockname()[1]
        self._listener = context.wrap_socket(raw, server_side=True)
        self.problems: list[str] = []
        self.words: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except ssl.SSLError as err:
                self.problems.append(str(err))
                continue
            except OSError:
                return
            threading.Thread(target=self._answer, args=(sock,), daemon=True).start()

    def _answer(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            while data := sock.recv(100):
                self.words.append(data)
                sock.sendall(data)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def echoes() -> Iterator[Callable[[ssl.SSLContext], Echo]]:
    made: list[Echo] = []

    def make(context: ssl.SSLContext) -> Echo:
        made.append(Echo(context))
        return made[-1]

    yield make
    for echo in made:
        echo.close()


def says(sock: ssl.SSLSocket) -> bytes:
    """What comes back for a word; nothing when the connection is cut."""
    try:
        sock.sendall(b"word")
        return sock.recv(100)
    except OSError:
        return b""


def word(port: int, svid: X509Svid, corp: Realm) -> bytes:
    try:
        with connect(port, svid, corp.bundle) as sock:
            return says(sock)
    except OSError:
        return b""


def dial(context: ssl.SSLContext, port: int) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", port), 60)
    try:
        return context.wrap_socket(raw, server_hostname="localhost")
    except BaseException:
        raw.close()
        raise


def test_a_verified_peer_passes_and_is_known_by_name(limens: Make, corp: Realm, echoes: Any) -> None:
    server, _ = limens(DB, SERVICES)
    client, _ = limens(WEB, SERVICES)
    echo = echoes(server.server_context())
    with dial(client.client_context("db"), echo.port) as sock:
        assert says(sock) == b"word"
        assert isinstance(sock, CheckedSocket)
        assert sock.peer is not None
        assert sock.peer.spiffe_id == SpiffeId.parse(DB)
        assert sock.version() == "TLSv1.3"


STRANGERS: dict[str, Callable[[Realm, Realm], X509Svid]] = {
    "another authority": lambda _, evil: evil.svid("spiffe://evil.test/ns/shop/sa/web"),
    "another authority in our name": lambda _, evil: evil.svid(WEB),
    "expired": lambda corp, _: corp.forged(
        x509.UniformResourceIdentifier(WEB), begins_in=-(corp.now - corp.now.replace(year=2020))
    ),
    "two names": lambda corp, _: corp.svid(WEB, x509.UniformResourceIdentifier(OPS)),
    "an authority itself": lambda corp, _: corp.svid(WEB, ca=True),
    "may sign": lambda corp, _: corp.forged(x509.UniformResourceIdentifier(WEB), signs=True),
    "a host name alone": lambda corp, _: corp.forged(x509.DNSName("web.corp.test")),
    "no name": lambda corp, _: corp.forged(common_name="web"),
}


@pytest.mark.parametrize("stranger", STRANGERS.values(), ids=STRANGERS.keys())
def test_no_byte_of_a_stranger_reaches_the_server(
    limens: Make, corp: Realm, evil: Realm, echoes: Any, stranger: Callable[[Realm, Realm], X509Svid]
) -> None:
    server, _ = limens(DB, SERVICES)
    echo = echoes(server.server_context())
    assert word(echo.port, stranger(corp, evil), corp) == b""
    assert eventually(lambda: len(echo.problems) == 1)
    assert word(echo.port, corp.svid(WEB), corp) == b"word"


def test_a_refused_peer_is_recorded_with_the_rule_it_breaks(limens: Make, corp: Realm, echoes: Any) -> None:
    server, teller = limens(DB, SERVICES)
    echo = echoes(server.server_context())
    assert word(echo.port, corp.svid(WEB, x509.UniformResourceIdentifier(OPS)), corp) == b""
    found = teller.programs[0].record(decision="deny")
    assert (found["source"], found["destination"], found["port"], found["caller"]) == (f"sdk:{DB}", DB, 8080, None)
    assert found["code"] in echo.problems[0]


def test_a_server_of_another_name_hears_no_word(limens: Make, corp: Realm, echoes: Any) -> None:
    other, _ = limens(OPS, SERVICES)
    client, _ = limens(WEB, SERVICES)
    echo = echoes(other.server_context())
    for service in ("db", DB, "spiffe://corp.test/ns/shop/sa/dbx", "unheard-of"):
        with pytest.raises(ssl.SSLCertVerificationError, match="LM3222"):
            dial(client.client_context(service), echo.port)
    with dial(client.client_context(OPS), echo.port) as sock:
        assert says(sock) == b"word"
    assert echo.words == [b"word"]


def test_an_event_loops_connection_shows_no_certificate_to_a_server_of_another_name(limens: Make) -> None:
    other, _ = limens(OPS, SERVICES)
    client, _ = limens(WEB, SERVICES)
    for service, is_shown in ((OPS, True), ("db", False)):
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        ours = client.client_context(service).wrap_bio(back, there)
        theirs = other.server_context().wrap_bio(there, back, server_side=True)
        with pytest.raises(ssl.SSLWantReadError):
            ours.do_handshake()
        with pytest.raises(ssl.SSLWantReadError):
            theirs.do_handshake()
        if is_shown:
            ours.do_handshake()
            theirs.do_handshake()
            assert theirs.getpeercert(binary_form=True)
        else:
            with pytest.raises(ssl.SSLCertVerificationError, match="LM3222"):
                ours.do_handshake()
            # whoever moves the bytes sees the error first: asyncio and its likes send nothing after it
            with pytest.raises(ssl.SSLError, match="LM3465"):
                ours.write(b"word")


def test_a_rotated_svid_is_shown_from_the_next_handshake_on_and_open_connections_stay(
    limens: Make, corp: Realm, echoes: Any
) -> None:
    server, teller = limens(DB, SERVICES)
    echo = echoes(server.server_context())
    with connect(echo.port, corp.svid(WEB), corp.bundle) as before:
        assert says(before) == b"word"
        fresh = corp.svid(DB)
        teller.identify(fresh, corp.bundle, trust=2)
        with connect(echo.port, corp.svid(WEB), corp.bundle) as after:
            assert before.getpeercert(binary_form=True) != after.getpeercert(binary_form=True) == fresh.chain_der[0]
            assert says(after) == says(before) == b"word"


def test_a_bundle_that_was_removed_ends_its_peers_and_admits_none(
    limens: Make, corp: Realm, evil: Realm, echoes: Any
) -> None:
    server, teller = limens(DB, SERVICES)
    teller.identify(corp.svid(DB), corp.bundle, evil.bundle, trust=2)
    echo = echoes(server.server_context())
    guest = evil.svid("spiffe://evil.test/guest")
    with connect(echo.port, guest, corp.bundle) as sock, connect(echo.port, corp.svid(WEB), corp.bundle) as ours:
        assert says(sock) == says(ours) == b"word"
        teller.identify(corp.svid(DB), corp.bundle, trust=3)
        assert says(sock) == b""
        assert says(ours) == b"word"
    assert word(echo.port, guest, corp) == b""


def test_nothing_is_resumed(limens: Make, corp: Realm, echoes: Any) -> None:
    server, _ = limens(DB, SERVICES)
    client, _ = limens(WEB, SERVICES)
    echo, context = echoes(server.server_context()), client.client_context("db")
    with dial(context, echo.port) as first:
        assert says(first) == b"word"
        assert first.session is None or not first.session.has_ticket
        raw = socket.create_connection(("127.0.0.1", echo.port), 60)
        with context.wrap_socket(raw, session=first.session) as second:
            assert says(second) == b"word"
            assert not second.session_reused


def test_a_context_with_a_port_decides_connections_while_they_last(limens: Make, corp: Realm, echoes: Any) -> None:
    allow = {"id": "tcp", "effect": "allow", "from": [WEB]}
    server, teller = limens(DB, policies(allow, protocol="tcp"))
    echo = echoes(server.server_context(port=8080))
    assert word(echo.port, corp.svid(OPS), corp) == b""
    assert teller.programs[0].record(decision="deny", caller=OPS)["port"] == 8080
    with connect(echo.port, corp.svid(WEB), corp.bundle) as sock:
        assert says(sock) == b"word"
        assert teller.programs[0].record(decision="allow", caller=WEB)["rule"] == "tcp"
        teller.policy(policies(protocol="tcp"), 2)
        assert says(sock) == b""
    assert teller.programs[0].record(decision="deny", caller=WEB, snapshot="sha256:2")


def test_a_port_whose_requests_are_decided_lets_no_connection_through_whole(
    limens: Make, corp: Realm, echoes: Any
) -> None:
    server, teller = limens(DB, SERVICES)
    echo = echoes(server.server_context(port=8080))
    assert word(echo.port, corp.svid(WEB), corp) == b""
    assert teller.programs[0].record(decision="deny")["code"] == "LM3202"


def test_the_key_is_never_at_a_path(limens: Make, corp: Realm, echoes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server, _ = limens(DB, SERVICES)
    loaded: list[str] = []
    before = ssl.SSLContext.load_cert_chain

    def watch(self: ssl.SSLContext, certfile: str, *more: Any) -> None:
        loaded.append(os.readlink(certfile))
        before(self, certfile, *more)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", watch)
    server.server_context().present()
    assert [pathlib.PurePath(path).name.split(":")[0] for path in loaded] == ["memfd"] or "memfd:" in loaded[0]


def test_what_goes_around_the_door_fails(limens: Make, corp: Realm) -> None:
    server, _ = limens(DB, SERVICES)
    context = server.server_context()
    assert context.get_ca_certs() == []
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()) as raw:
        accepted, _ = listener.accept()
        with accepted:
            raw.close()
            with pytest.raises(OSError):
                ssl.SSLSocket._create(sock=accepted, server_side=True, context=context)  # type: ignore[attr-defined]


def test_without_an_identity_no_connection_begins(limens: Make) -> None:
    limen, _ = limens(DB, SERVICES)
    context = limen.client_context("db")
    limen.close()
    with pytest.raises(Invalid, match="LM3012"):
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())


def test_servers_and_clients_of_the_standard_library_need_nothing_else(limens: Make, corp: Realm) -> None:
    server, _ = limens(DB, SERVICES)
    client, _ = limens(WEB, SERVICES)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.socket = server.server_context().wrap_socket(httpd.socket, server_side=True)
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        try:
            asked = http.client.HTTPSConnection(
                "localhost", httpd.server_port, context=client.client_context("db"), timeout=30
            )
            with contextlib.closing(asked):
                asked.request("GET", "/")
                assert asked.getresponse().read() == b"ok"
        finally:
            httpd.shutdown()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_event_loops_take_it_too(limens: Make, loop: str) -> None:
    import uvloop

    server, _ = limens(DB, SERVICES)
    client, _ = limens(WEB, SERVICES)
    other, _ = limens(OPS, SERVICES)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        await writer.drain()
        writer.close()

    async def ask(context: RenewingContext, port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(b"word")
        found = await reader.read(100)
        writer.close()
        return found

    async def main() -> None:
        good = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server.server_context())
        bad = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=other.server_context())
        async with good, bad, asyncio.timeout(60):
            context = client.client_context("db")
            assert await ask(context, good.sockets[0].getsockname()[1]) == b"word"
            with pytest.raises(ssl.SSLCertVerificationError, match="LM3222"):
                await ask(context, bad.sockets[0].getsockname()[1])

    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def test_protocols_that_are_offered_hold_after_a_rotation(limens: Make, corp: Realm, echoes: Any) -> None:
    server, teller = limens(DB, SERVICES)
    client, _ = limens(WEB, SERVICES)
    accepting, calling = server.server_context(), client.client_context("db")
    accepting.set_alpn_protocols(["http/1.1"])
    calling.set_alpn_protocols(["h2", "http/1.1"])
    echo = echoes(accepting)
    teller.identify(corp.svid(DB), corp.bundle, trust=2)
    with dial(calling, echo.port) as sock:
        assert sock.selected_alpn_protocol() == "http/1.1"
