"""How a service is reached: sessions are resumed while nothing has changed, and who resumes is verified again."""

from __future__ import annotations

import contextlib
import datetime as dt
import pathlib
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from enforcer.native.workload import SESSION_SECONDS, Identity, Session
from mesh.clock import ManualClock, SystemClock
from mesh.tls import client_context, leaf, peer_chain, server_context
from mesh.x509svid import X509Svid
from tests.enforcer.native.harness import (
    ALLOW_WEB_TCP,
    DB,
    OPS,
    PATIENCE_S,
    WEB,
    Agent,
    App,
    Realm,
    TlsApp,
    echo_answer,
    eventually,
    identity_message,
    inbound_port,
    outbound_port,
    policies,
    read_all,
)

Make = Callable[..., Any]


class Caller:
    """web's sidecar, which calls a server that tells who resumed."""

    def __init__(self, sidecars: Make, corp: Realm, server: TlsApp) -> None:
        self.server, self.epoch, self.svid = server, 0, corp.svid(WEB)
        self.client: Agent = sidecars(
            self.svid, corp.bundle, outbound=({"local_port": 0, "service": "db", "port": None},)
        )
        self.local = outbound_port(self.client)
        self.rules = policies(ALLOW_WEB_TCP, port=server.port, protocol="tcp")
        self.policy(self.rules)
        row = {"spiffe_id": DB, "address": "127.0.0.1", "port": server.port}
        self.client.send({"type": "endpoints", "endpoints": [row]})

    def policy(self, found: dict[str, object]) -> None:
        self.epoch += 1
        self.client.policy(found, epoch=self.epoch)

    def call(self) -> bool:
        """Whether one more connection resumed."""
        with socket.create_connection(("127.0.0.1", self.local), PATIENCE_S) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock) == b"bye"
        return self.server.resumed[-1]

    def resumes(self) -> bool:
        """Whether connections come to resume: what a connection left is kept a moment after the program has its end."""
        return eventually(self.call)


@pytest.fixture(scope="module")
def server(corp: Realm) -> Iterator[TlsApp]:
    found = TlsApp(echo_answer, corp.svid(DB), corp.bundle)
    yield found
    found.close()


@pytest.fixture(scope="module")
def caller(sidecars: Make, corp: Realm, server: TlsApp) -> Caller:
    found = Caller(sidecars, corp, server)
    assert not found.call()
    return found


def test_a_later_connection_to_the_same_endpoint_resumes(caller: Caller) -> None:
    assert caller.resumes()


def test_the_same_identity_told_again_breaks_nothing_and_what_was_open_can_be_resumed(
    sidecars: Make, corp: Realm, server: TlsApp
) -> None:
    caller = Caller(sidecars, corp, server)
    with socket.create_connection(("127.0.0.1", caller.local), PATIENCE_S) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        # an agent that came back tells everything anew; the connection is of the time before
        caller.client.send(identity_message(caller.svid, corp.bundle))
        caller.policy(caller.rules)
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b"bye"
    assert caller.resumes()


@pytest.mark.parametrize("what", ["policy", "SVID", "bundles"])
def test_a_change_ends_what_could_be_resumed(caller: Caller, corp: Realm, evil: Realm, what: str) -> None:
    assert caller.resumes()
    match what:
        case "policy":
            caller.policy(policies(ALLOW_WEB_TCP, port=caller.server.port, protocol="tcp", tier="baseline"))
        case "SVID":
            caller.client.send(identity_message(corp.svid(WEB), corp.bundle))
        case "bundles":
            caller.client.send(identity_message(caller.svid, corp.bundle, evil.bundle))
    caller.policy(caller.rules)
    assert not caller.call()
    assert caller.resumes()


def test_a_server_that_gives_no_tickets_is_reached_all_the_same(sidecars: Make, corp: Realm) -> None:
    server = TlsApp(echo_answer, corp.svid(DB), corp.bundle, tickets=False)
    caller = Caller(sidecars, corp, server)
    assert [caller.call() for _ in range(3)] == [False] * 3
    server.close()


def test_a_server_that_resumes_is_still_of_the_called_service(sidecars: Make, corp: Realm) -> None:
    server = TlsApp(echo_answer, corp.svid(DB), corp.bundle)
    caller = Caller(sidecars, corp, server)
    assert caller.resumes()
    other = policies(ALLOW_WEB_TCP, port=server.port, protocol="tcp")
    other["services"][0]["identities"] = [OPS]  # type: ignore[index]  # a list of services
    caller.policy(other)
    with socket.create_connection(("127.0.0.1", caller.local), PATIENCE_S) as sock:
        sock.sendall(b"x")
        assert read_all(sock) == b""
    server.close()


@pytest.mark.parametrize("what", ["bundle", "revoked"])
def test_a_server_that_holds_its_handshake_open_until_it_is_not_vouched_for_hears_nothing(
    sidecars: Make, corp: Realm, evil: Realm, what: str
) -> None:
    svid = corp.svid(DB)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE_S)
        client: Agent = sidecars(
            corp.svid(WEB), corp.bundle, outbound=({"local_port": 0, "service": "db", "port": None},)
        )
        port = listener.getsockname()[1]
        client.policy(policies(ALLOW_WEB_TCP, port=port, protocol="tcp"))
        client.send({"type": "endpoints", "endpoints": [{"spiffe_id": DB, "address": "127.0.0.1", "port": port}]})
        with socket.create_connection(("127.0.0.1", outbound_port(client)), PATIENCE_S) as program:
            program.sendall(b"secret")
            raw, _ = listener.accept()
            raw.settimeout(PATIENCE_S)
            bundle = corp.revoking(svid) if what == "revoked" else evil.bundle
            client.send({**identity_message(corp.svid(WEB), bundle), "trust": 2})
            client.wait("trusts", lambda found: found["trust"] == 2)
            heard = b""
            context = server_context(svid, {corp.trust_domain: corp.bundle})
            with contextlib.suppress(OSError), context.wrap_socket(raw, server_side=True) as secure:
                heard = read_all(secure)
            raw.close()
            assert heard == b""


# -- the called side


class Called:
    """db's sidecar, called by the test itself."""

    def __init__(self, sidecars: Make, corp: Realm, app: App) -> None:
        self.corp, self.epoch = corp, 0
        self.agent: Agent = sidecars(
            corp.svid(DB), corp.bundle, inbound=({"address": "127.0.0.1", "port": 0, "app_port": app.port},)
        )
        self.port = inbound_port(self.agent)
        self.rules = policies(ALLOW_WEB_TCP, port=self.port, protocol="tcp")
        self.policy(self.rules)

    def policy(self, found: dict[str, object]) -> None:
        self.epoch += 1
        self.agent.policy(found, epoch=self.epoch)

    def call(self, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> tuple[bytes, ssl.SSLSocket]:
        """What the application answers, and the connection, closed."""
        with context.wrap_socket(
            socket.create_connection(("127.0.0.1", self.port), PATIENCE_S), session=session
        ) as sock:
            sock.sendall(b"x")
            try:
                got = sock.recv(1)
            except OSError:
                got = b""
            self.session = sock.session
            self.was_resumed = sock.session_reused is True
            return got, sock


@pytest.fixture(scope="module")
def called(sidecars: Make, corp: Realm) -> Iterator[Called]:
    app = App(echo_answer)
    yield Called(sidecars, corp, app)
    app.close()


def context_of(corp: Realm, svid: X509Svid) -> ssl.SSLContext:
    return client_context(svid, {corp.trust_domain: corp.bundle})


def test_a_caller_that_resumes_is_who_it_was(called: Called, corp: Realm) -> None:
    context = context_of(corp, corp.svid(WEB))
    assert called.call(context)[0] == b"x"
    seen = len(called.agent.records(caller=WEB, decision="allow"))
    assert called.call(context, called.session)[0] == b"x"
    assert called.was_resumed
    assert eventually(lambda: len(called.agent.records(caller=WEB, decision="allow")) > seen)


def test_a_caller_that_resumes_is_decided_about_anew(called: Called, corp: Realm) -> None:
    context = context_of(corp, corp.svid(OPS))
    assert called.call(context)[0] == b""
    session = called.session
    assert session is not None
    assert session.has_ticket
    assert called.call(context, session)[0] == b""
    assert called.was_resumed


def test_a_caller_whose_svid_has_ended_does_not_come_back_by_resuming(called: Called, corp: Realm) -> None:
    svid = corp.svid(WEB, ttl=SystemClock().now() + dt.timedelta(seconds=10) - corp.now)
    context = context_of(corp, svid)
    assert called.call(context)[0] == b"x"
    session = called.session
    assert eventually(lambda: SystemClock().now() > svid.not_after)
    assert called.call(context, session)[0] == b""
    assert called.agent.record(decision="deny", caller=None)["code"].startswith("LM1")


@pytest.mark.parametrize("what", ["policy", "SVID", "bundles"])
def test_a_change_at_the_called_side_ends_what_callers_could_resume(
    called: Called, corp: Realm, evil: Realm, what: str
) -> None:
    context = context_of(corp, corp.svid(WEB))
    assert called.call(context)[0] == b"x"
    session = called.session
    match what:
        case "policy":
            called.policy(policies(ALLOW_WEB_TCP, port=called.port, protocol="tcp", tier="baseline"))
        case "SVID":
            called.agent.send(identity_message(corp.svid(DB), corp.bundle))
        case "bundles":
            called.agent.send(identity_message(corp.svid(DB), corp.bundle, evil.bundle))
    called.policy(called.rules)
    assert called.call(context, session)[0] == b"x"
    assert not called.was_resumed


def test_a_bundle_that_does_not_vouch_for_a_caller_ends_its_resuming(
    sidecars: Make, corp: Realm, evil: Realm, apps: Make
) -> None:
    called = Called(sidecars, corp, apps(echo_answer))
    context = context_of(corp, corp.svid(WEB))
    assert called.call(context)[0] == b"x"
    session = called.session
    called.agent.send(identity_message(corp.svid(DB), evil.bundle))
    called.policy(called.rules)
    try:
        got = called.call(context, session)[0]
    except OSError:
        got = b""
    assert got == b""


# -- what an identity remembers


def identity(corp: Realm) -> Identity:
    return Identity(corp.svid(DB), {corp.trust_domain: corp.bundle}, ManualClock(SystemClock().now()))


def test_a_session_is_asked_for_once_and_again_only_after_a_while(corp: Realm) -> None:
    found = identity(corp)
    session: Any = Session(object(), ())  # type: ignore[arg-type]  # nobody looks into it
    assert [found.wants_session("a", now) for now in (0.0, 1.0, SESSION_SECONDS, SESSION_SECONDS + 1.0)] == [
        True, False, True, False,
    ]  # fmt: skip
    assert found.wants_session("b", 1.0)
    found.keep_session("a", session)
    assert found.session_for("a") is found.session_for("a") is session
    assert found.session_for("b") is None
    assert not found.wants_session("a", 10_000.0)
    found.drop_session("a")
    assert found.session_for("a") is None
    found.keep_session("a", session)
    found.forget_sessions()
    assert found.session_for("a") is None
    assert found.wants_session("a", SESSION_SECONDS + 2.0)


@pytest.mark.slow
def test_connections_that_resume_leave_no_memory_behind(caller: Caller) -> None:
    def private_kib() -> int:
        rows = pathlib.Path(f"/proc/{caller.client.process.pid}/smaps_rollup").read_text().splitlines()[1:]
        return sum(int(row.split()[1]) for row in rows if row.startswith("Private_"))

    assert caller.resumes()
    for _ in range(50):
        caller.call()
    before = private_kib()
    for _ in range(400):
        caller.call()
    assert private_kib() - before <= 1024


def test_the_chains_of_those_who_may_resume_are_bounded_and_end_with_their_tickets(
    corp: Realm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enforcer.native.workload._MAX_RESUMABLE", 2)
    found, chains = identity(corp), [corp.svid(WEB).chain_der for _ in range(3)]
    first = found.server
    for chain in chains[:2]:
        found.admit(chain)
    assert [found.recall(chain[0]) for chain in chains] == [chains[0], chains[1], ()]
    under_way = found.recall
    found.admit(chains[2])
    assert found.server is not first
    assert [found.recall(chain[0]) for chain in chains] == [(), (), chains[2]]
    assert under_way(chains[0][0]) == chains[0]


def test_a_resumed_connection_shows_a_leaf_and_no_chain(called: Called, corp: Realm) -> None:
    context = context_of(corp, corp.svid(WEB))
    called.call(context)
    raw = socket.create_connection(("127.0.0.1", called.port), PATIENCE_S)
    with context.wrap_socket(raw, session=called.session) as sock:
        assert sock.session_reused
        assert peer_chain(sock) == ()
        assert leaf(sock) is not None
