"""Which exchanges share a connection to the service, and that none is ever sent twice."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from enforcer.native import relay
from tests.enforcer.native.harness import (
    ALLOW_WEB,
    ALLOW_WEB_TCP,
    DB,
    HOST,
    OPS,
    PATIENCE_S,
    REQUEST,
    WEB,
    Agent,
    App,
    Pair,
    Realm,
    TlsApp,
    eventually,
    identity_message,
    outbound_port,
    policies,
    read_all,
    read_request,
    read_response,
)

Make = Callable[..., Any]
ONCE = b"GET /orders HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Service(TlsApp):
    """The called service, behind mutual TLS as its sidecar would be: it answers what a test has said, else OK."""

    def __init__(self, svid: Any, *bundles: Any) -> None:
        self.script: list[Callable[[socket.socket, bytes], bool]] = []
        super().__init__(self._script, svid, *bundles)

    @staticmethod
    def _script(sock: socket.socket, app: App) -> None:
        assert isinstance(app, Service)
        rest = b""
        while True:
            request, rest = read_request(sock, rest)
            if not request:
                return
            app.requests.append(request)
            answer = app.script.pop(0) if app.script else says(OK)
            if not answer(sock, request):
                return


def says(data: bytes, *, then: str = "go on") -> Callable[[socket.socket, bytes], bool]:
    """Answer with these bytes, and then go on, end or cut the connection."""

    def answer(sock: socket.socket, _: bytes) -> bool:
        sock.sendall(data)
        if then == "end":
            sock.unwrap()  # type: ignore[attr-defined]  # a TLS socket: a close_notify
        if then == "cut":
            sock.shutdown(socket.SHUT_RDWR)
        return then == "go on"

    return answer


class Caller:
    """web's sidecar alone; the test is its agent, its application and the service."""

    def __init__(self, sidecars: Make, corp: Realm, service: Service, *, pools: bool = True) -> None:
        self.service, self.corp, self.asked = service, corp, 0
        self.client: Agent = sidecars(
            corp.svid(WEB),
            corp.bundle,
            outbound=({"local_port": 0, "service": "db", "port": None, "pools": pools},),
            attest=self._attest,
        )
        self.local = outbound_port(self.client)
        self.epoch = 0
        self.policy(policies(ALLOW_WEB, port=service.port))
        row = {"spiffe_id": DB, "address": "127.0.0.1", "port": service.port}
        self.client.send({"type": "endpoints", "endpoints": [row]})

    def _attest(self, _: object) -> dict[str, object]:
        self.asked += 1
        return {"ok": True, "code": "", "facts": {}}

    def policy(self, found: dict[str, object]) -> None:
        self.epoch += 1
        self.client.policy(found, epoch=self.epoch)

    def identity(self, svid: Any, *bundles: Any) -> None:
        """Give it another identity, and wait until it has it."""
        self.client.send(identity_message(svid, *bundles))
        self.policy(policies(ALLOW_WEB, port=self.service.port))

    def alone(self) -> int:
        """Begin a new era and let one connection wait; return how many there have been."""
        self.policy(policies(ALLOW_WEB, port=self.service.port, tier="app" if self.epoch % 2 else "baseline"))
        assert self.ask().endswith(b"ok")
        return self.service.connections

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.local), PATIENCE_S)

    def ask(self, raw: bytes = ONCE) -> bytes:
        """What comes back until the sidecar ends the connection."""
        with self.connect() as sock:
            sock.sendall(raw)
            return read_all(sock)


@pytest.fixture(scope="module")
def caller(sidecars: Make, corp: Realm) -> Iterator[Caller]:
    service = Service(corp.svid(DB), corp.bundle)
    yield Caller(sidecars, corp, service)
    service.close()


def connections(caller: Caller, *asked: bytes) -> int:
    """How many connections to the service these requests, one application connection each, took besides the first."""
    before = caller.alone()
    for raw in asked:
        caller.ask(raw)
    return caller.service.connections - before


def test_a_program_that_connects_for_each_request_pays_one_handshake_and_is_attested_each_time(caller: Caller) -> None:
    asked = caller.asked
    assert connections(caller, *[ONCE] * 5) == 0
    assert caller.asked - asked == 6


def test_the_first_request_of_each_program_says_so_and_no_other_does(caller: Caller) -> None:
    seen = len(caller.service.requests)
    for _ in range(2):
        assert caller.ask(REQUEST + ONCE).endswith(b"ok")
    marks = [b"\r\nx-limen-begins: 1\r\n" in request for request in caller.service.requests[seen:]]
    assert marks == [True, False] * 2


def test_the_service_is_not_told_to_close_and_the_program_is(caller: Caller) -> None:
    answer = caller.ask()
    assert b"\r\nconnection: close\r\n" in answer.lower()
    assert b"connection:" not in caller.service.requests[-1].lower()


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx: y\r\n\r\n"
# request, answer, what comes back, whether the next request may use the same connection
CLEAN: dict[str, tuple[bytes, Callable[[socket.socket, bytes], bool], bytes]] = {
    "length": (ONCE, says(OK), b"ok"),
    "chunks": (ONCE, says(CHUNKED), b"y\r\n\r\n"),
    "no body": (ONCE, says(b"HTTP/1.1 204 No Content\r\n\r\n"), b"\r\n\r\n"),
    "not modified": (ONCE, says(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"), b"\r\n\r\n"),
    "HEAD": (b"HEAD" + ONCE[3:], says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), b"\r\n\r\n"),
    "interim": (ONCE, says(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK), b"ok"),
    "denied": (ONCE, says(b"HTTP/1.1 403 Forbidden\r\nx-limen-code: LM2302\r\nContent-Length: 2\r\n\r\nno"), b"no"),
    "body": (b"POST" + ONCE[3:-2] + b"Content-Length: 3\r\n\r\nabc", says(OK), b"ok"),
    "chunked body": (b"POST" + ONCE[3:-2] + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", says(OK), b""),
    "kept by the program": (REQUEST + ONCE, says(OK), b"ok"),
}  # fmt: skip


@pytest.mark.parametrize("case", CLEAN)
def test_a_connection_serves_again_after_a_clean_exchange(caller: Caller, case: str) -> None:
    request, answer, end = CLEAN[case]
    before = caller.alone()
    caller.service.script.append(answer)
    assert caller.ask(request).endswith(end)
    caller.ask()
    assert caller.service.connections == before


POST = b"POST" + REQUEST[3:-2] + b"Content-Length: 9\r\n\r\n"
UNCLEAN: dict[str, tuple[bytes, Callable[[socket.socket, bytes], bool], bytes]] = {
    "the service closes": (ONCE, says(OK[:15] + b"\r\nConnection: close" + OK[15:]), b"ok"),
    "the body ends with the connection": (ONCE, says(b"HTTP/1.1 200 OK\r\n\r\nok", then="end"), b"ok"),
    "more came": (ONCE, says(OK + b"HTTP/1.1 200 OK\r\n\r\n"), b"ok"),
    "HTTP/1.0": (ONCE, says(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"), b"ok"),
    "cannot be read": (ONCE, says(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", then="end"), b"ok"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNCLEAN)
def test_a_connection_never_serves_again_after_any_other(caller: Caller, case: str) -> None:
    request, answer, end = UNCLEAN[case]
    before, seen = caller.alone(), len(caller.service.requests)
    caller.service.script.append(answer)
    assert caller.ask(request).endswith(end)
    assert caller.ask().endswith(b"ok")
    assert caller.service.connections == before + 1
    assert len(caller.service.requests) == seen + 2


def test_an_answer_before_the_whole_request_ends_both_connections(caller: Caller) -> None:
    before, heard = caller.alone(), threading.Event()

    def early(sock: socket.socket, _: bytes) -> bool:
        sock.sendall(OK)
        heard.set()
        return False

    caller.service._answer = lambda sock, _: early(sock, sock.recv(65536)) and None  # it reads no body
    try:
        caller.client.send({"type": "endpoints", "endpoints": []})
        caller.policy(policies(ALLOW_WEB, port=caller.service.port, tier="baseline"))  # a new era: a new connection
        row = {"spiffe_id": DB, "address": "127.0.0.1", "port": caller.service.port}
        caller.client.send({"type": "endpoints", "endpoints": [row]})
        with caller.connect() as sock:
            sock.sendall(POST + b"part")
            assert read_all(sock).endswith(b"ok")
        assert heard.wait(30)
    finally:
        caller.service._answer = caller.service._script
    assert caller.ask().endswith(b"ok")
    assert caller.service.connections == before + 2


@pytest.mark.parametrize("answer", [b"", OK[:9]], ids=["before the answer", "in its head"])
@pytest.mark.parametrize("then", ["end", "cut"])
def test_a_peer_that_dies_before_it_answers_is_told_and_nothing_is_sent_again(
    caller: Caller, answer: bytes, then: str
) -> None:
    before, seen = caller.alone(), len(caller.service.requests)
    caller.service.script.append(says(answer, then=then))
    head, _, body = caller.ask().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 502 ")
    found = json.loads(body)
    assert found["code"] == "LM3224"
    assert caller.client.record(id=found["decision"])["direction"] == "outbound"
    assert (len(caller.service.requests), caller.service.connections) == (seen + 1, before)
    assert caller.ask().endswith(b"ok")


@pytest.mark.parametrize("then", ["end", "cut"])
@pytest.mark.parametrize(
    "answer",
    [OK[:-1], b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"],
    ids=["length", "chunks"],
)
def test_a_peer_that_dies_in_mid_answer_leaves_it_cut_and_nothing_is_sent_again(
    caller: Caller, answer: bytes, then: str
) -> None:
    before, seen = caller.alone(), len(caller.service.requests)
    caller.service.script.append(says(answer, then=then))
    assert not caller.ask().endswith(b"0\r\n\r\n")
    assert (len(caller.service.requests), caller.service.connections) == (seen + 1, before)
    assert caller.ask().endswith(b"ok")


def test_a_body_that_ends_with_the_connection_is_not_whole_when_that_is_cut(caller: Caller) -> None:
    caller.service.script.append(says(b"HTTP/1.1 200 OK\r\n\r\nok", then="cut"))
    with caller.connect() as sock:
        sock.sendall(ONCE)
        with pytest.raises(ConnectionResetError):
            while sock.recv(100):
                pass


def test_one_exchange_at_a_time_is_under_way_on_a_connection(caller: Caller) -> None:
    before, asked, go_on = caller.alone(), threading.Event(), threading.Event()

    def slow(sock: socket.socket, _: bytes) -> bool:
        asked.set()
        assert go_on.wait(60)
        sock.sendall(OK)
        return True

    caller.service.script.append(slow)
    with caller.connect() as sock:
        sock.sendall(ONCE)
        assert asked.wait(60)
        assert caller.ask().endswith(b"ok")
        assert caller.service.connections == before + 1
        go_on.set()
        assert read_all(sock).endswith(b"ok")
    assert connections(caller, ONCE, ONCE) == 0


def test_a_program_that_leaves_in_the_middle_takes_its_connection_with_it(caller: Caller) -> None:
    before, left, closed = caller.alone(), threading.Event(), threading.Event()

    def late(sock: socket.socket, _: bytes) -> bool:
        left.set()
        with contextlib.suppress(OSError):
            assert sock.recv(1) == b""
        closed.set()
        return False

    caller.service.script.append(late)
    with caller.connect() as sock:
        sock.sendall(ONCE)
        assert left.wait(60)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it is killed
    assert closed.wait(60)
    assert caller.ask().endswith(b"ok")
    assert caller.service.connections == before + 1


def test_what_a_connection_says_while_it_waits_ends_it(caller: Caller) -> None:
    spoke = threading.Event()

    def speaks_twice(sock: socket.socket, _: bytes) -> bool:
        sock.sendall(OK)
        assert spoke.wait(60)
        sock.sendall(OK.replace(b"ok", b"no"))
        said.set()
        return True

    said = threading.Event()
    before = caller.alone()
    caller.service.script.append(speaks_twice)
    assert caller.ask().endswith(b"ok")
    spoke.set()
    assert said.wait(60)
    assert caller.ask().endswith(b"ok")
    assert caller.service.connections == before + 1


def test_another_svid_begins_anew_and_what_is_under_way_goes_on(caller: Caller) -> None:
    before, asked, go_on = caller.alone(), threading.Event(), threading.Event()

    def slow(sock: socket.socket, _: bytes) -> bool:
        asked.set()
        assert go_on.wait(60)
        sock.sendall(OK)
        return True

    caller.service.script.append(slow)
    with caller.connect() as kept:
        kept.sendall(REQUEST)
        assert asked.wait(60)
        caller.identity(caller.corp.svid(WEB), caller.corp.bundle)
        go_on.set()
        assert read_response(kept) == (200, b"ok")
        assert caller.service.connections == before
    assert caller.ask().endswith(b"ok")
    assert caller.service.connections == before + 1


def test_the_same_svid_with_the_same_bundles_is_no_change(caller: Caller) -> None:
    svid = caller.corp.svid(WEB)
    caller.identity(svid, caller.corp.bundle)
    assert caller.ask().endswith(b"ok")
    before = caller.service.connections
    caller.identity(svid, caller.corp.bundle)
    assert caller.ask().endswith(b"ok")
    assert caller.service.connections == before


def test_more_bundles_begin_anew(caller: Caller, evil: Realm) -> None:
    svid = caller.corp.svid(WEB)
    caller.identity(svid, caller.corp.bundle)
    assert caller.ask().endswith(b"ok")
    before = caller.service.connections
    caller.identity(svid, caller.corp.bundle, evil.bundle)
    assert caller.ask().endswith(b"ok")
    assert caller.service.connections == before + 1


OTHER_SERVICE: dict[str, object] = {
    "name": "ops", "owner": "team", "identities": [OPS], "ports": [{"port": 1, "protocol": "tcp"}], "mode": "enforce",
}  # fmt: skip


@pytest.mark.parametrize("what", ["nothing", "another service", "a rule", "the service", "a tier"])
def test_other_rules_about_the_service_begin_anew(caller: Caller, what: str) -> None:
    port = caller.service.port
    found = policies(ALLOW_WEB, port=port)
    caller.policy(found)
    assert caller.ask().endswith(b"ok")
    before = caller.service.connections
    match what:
        case "another service":
            found = found | {"services": [*found["services"], OTHER_SERVICE]}  # type: ignore[misc]  # a list
        case "a rule":
            found = policies(ALLOW_WEB, {"id": "not", "effect": "deny", "from": [OPS]}, port=port)
        case "the service":
            found = policies(ALLOW_WEB, port=port, mode="observe")
        case "a tier":
            found = policies(ALLOW_WEB, port=port, tier="baseline")
    caller.policy(found)
    assert caller.ask().endswith(b"ok")
    assert caller.service.connections - before == (what not in {"nothing", "another service"})


def test_a_peer_that_is_not_vouched_for_any_more_is_cut_while_it_waits_and_while_it_serves(
    sidecars: Make, corp: Realm, evil: Realm
) -> None:
    service = Service(corp.svid(DB), corp.bundle)
    caller = Caller(sidecars, corp, service)
    svid = corp.svid(WEB)
    with caller.connect() as kept:
        kept.sendall(REQUEST)
        assert read_response(kept) == (200, b"ok")
        assert caller.ask().endswith(b"ok")
        seen = len(service.requests)
        caller.identity(svid, evil.bundle)
        kept.sendall(REQUEST)
        assert read_response(kept)[0] >= 403
    status = caller.ask().split()[1]
    assert int(status) >= 403
    assert len(service.requests) == seen
    service.close()


def test_a_service_whose_port_speaks_tcp_is_not_read(sidecars: Make, corp: Realm) -> None:
    service = Service(corp.svid(DB), corp.bundle)
    caller = Caller(sidecars, corp, service)
    caller.policy(policies(ALLOW_WEB_TCP, port=service.port, protocol="tcp"))
    with caller.connect() as sock:
        sock.sendall(ONCE)
        assert read_response(sock) == (200, b"ok")
    assert b"Connection: close" in service.requests[-1]
    before = service.connections
    with caller.connect() as sock:
        sock.sendall(ONCE)
        assert read_response(sock) == (200, b"ok")
    assert service.connections == before + 1
    service.close()


def test_a_local_port_that_shall_not_pool_is_not_read(sidecars: Make, corp: Realm) -> None:
    service = Service(corp.svid(DB), corp.bundle)
    caller = Caller(sidecars, corp, service, pools=False)
    for _ in range(2):
        with caller.connect() as sock:
            sock.sendall(ONCE)
            assert read_response(sock) == (200, b"ok")
    assert service.requests == [ONCE, ONCE]
    assert service.connections == 2
    service.close()


UNREADABLE = {
    "HTTP/1.0": b"GET /orders HTTP/1.0\r\n" + HOST + b"\r\n",
    "two hosts": b"GET /orders HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "websocket": b"GET /orders HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\nX: y\r\n\r\n",
}


@pytest.mark.parametrize("case", UNREADABLE)
@pytest.mark.parametrize("is_first", [True, False], ids=["at once", "after another"])
def test_what_cannot_be_read_gets_a_connection_of_its_own_and_passes_as_it_came(
    caller: Caller, case: str, is_first: bool
) -> None:
    before = caller.alone()
    with caller.connect() as sock:
        if not is_first:
            sock.sendall(REQUEST)
            assert read_response(sock) == (200, b"ok")
        sock.sendall(UNREADABLE[case])
        assert read_response(sock) == (200, b"ok")
        assert caller.service.requests[-1] == UNREADABLE[case]
    assert caller.ask().endswith(b"ok")
    assert caller.service.connections == before + 1


def test_whoever_sends_many_requests_gets_a_connection_of_its_own(caller: Caller) -> None:
    before = caller.alone()
    with caller.connect() as sock:
        for _ in range(relay.JOIN_AFTER + 3):
            sock.sendall(REQUEST)
            assert read_response(sock) == (200, b"ok")
        assert caller.service.requests[-1] == REQUEST
        assert caller.service.requests[-4] != REQUEST
        assert caller.service.connections == before
        assert caller.ask().endswith(b"ok")
    assert caller.service.connections == before + 1


def test_a_program_that_is_silent_between_two_requests_leaves_its_connection_to_others(caller: Caller) -> None:
    assert caller.ask().endswith(b"ok")
    with caller.connect() as kept:
        kept.sendall(REQUEST)
        assert read_response(kept) == (200, b"ok")
        before = caller.service.connections

        def shares() -> bool:
            so_far = caller.service.connections
            return caller.ask().endswith(b"ok") and caller.service.connections == so_far

        assert eventually(shares)
        kept.sendall(REQUEST)
        assert read_response(kept) == (200, b"ok")
        assert caller.service.connections <= before + 1


def test_requests_sent_at_once_are_answered_in_turn(caller: Caller) -> None:
    seen = len(caller.service.requests)
    caller.service.script += [says(OK.replace(b"ok", b"1!")), says(OK.replace(b"ok", b"2!"))]
    answers = caller.ask(REQUEST + ONCE)
    assert answers.index(b"1!") < answers.index(b"2!")
    assert len(caller.service.requests) == seen + 2


def test_much_data_passes_whole_both_ways(caller: Caller) -> None:
    size = 3_000_000
    body = bytes(range(256)) * (size // 256)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    caller.service.script.append(says(answer))
    with caller.connect() as sock:
        head = b"POST" + ONCE[3:-2] + b"Content-Length: %d\r\n\r\n" % len(body)
        sender = threading.Thread(target=sock.sendall, args=(head + body,))
        sender.start()
        got = read_all(sock)
        sender.join(60)
    assert got.partition(b"\r\n\r\n")[2] == body
    assert caller.service.requests[-1].partition(b"\r\n\r\n")[2] == body


def test_over_two_sidecars_one_connection_carries_many_programs_and_each_has_its_own_to_the_workload(
    sidecars: Make, corp: Realm, apps: Make
) -> None:
    app = apps()
    pair = Pair(sidecars, corp, app, protocol="http")
    for _ in range(5):
        with pair.connect() as sock:
            sock.sendall(REQUEST)
            assert read_response(sock) == (200, b"hello")
            sock.sendall(ONCE)
            assert read_all(sock).endswith(b"hello")
    assert (app.connections, len(app.requests), len(pair.asked)) == (5, 10, 5)
    assert not any(b"x-limen-begins" in request for request in app.requests)

    def handshakes() -> int:
        with pair.server.changed:
            told = [message["handshakes"] for message in pair.server.heard if message["type"] == "signals"]
        return sum(count for rows in told for _, _, count in rows)  # type: ignore[attr-defined]  # rows

    assert eventually(handshakes) == 1
    denied = pair.ask(b"GET /admin HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (denied[0], json.loads(denied[1])["code"]) == (403, "LM2302")
    pair.server.policy(policies(port=pair.port), epoch=2)
    assert pair.ask(ONCE)[0] == 403


@pytest.mark.slow
def test_no_request_fails_while_svids_and_policies_change_on_both_sides(
    sidecars: Make, corp: Realm, apps: Make
) -> None:
    pair = Pair(sidecars, corp, apps(), protocol="http")
    svids = {who: [corp.svid(who) for _ in range(4)] for who in (DB, WEB)}
    answered: list[bytes] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            with pair.connect() as sock:
                sock.sendall(ONCE)
                answered.append(read_all(sock))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for epoch in range(2, 42):
        tier = "app" if epoch % 2 else "baseline"
        for agent, who in ((pair.server, DB), (pair.client, WEB)):
            agent.send(identity_message(svids[who][epoch % 4], corp.bundle))
            agent.policy(policies(ALLOW_WEB, port=pair.port, tier=tier), epoch=epoch)
    is_over.set()
    for thread in threads:
        thread.join(60)
    assert answered
    assert [found for found in answered if not found.endswith(b"hello")] == []
