"""The checklist of a data plane against a running sidecar, S-34 to S-50: what it takes on, and how it is run."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.enforcer.native.harness import (
    ALLOW_WEB,
    ALLOW_WEB_TCP,
    DB,
    HOST,
    OPS,
    PATIENCE_S,
    WEB,
    Agent,
    App,
    Realm,
    banner_answer,
    connect,
    echo_answer,
    eventually,
    http_answer,
    inbound_port,
    outbound_port,
    policies,
    read_all,
    read_response,
)

pytestmark = [pytest.mark.system, pytest.mark.slow]
Make = Callable[..., Any]
REQUEST = b"GET /orders HTTP/1.1\r\n" + HOST + b"\r\n"


class Place:
    """A sidecar with limits of its own before an application."""

    def __init__(self, sidecars: Make, corp: Realm, app: App, protocol: str, **more: Any) -> None:
        row = {"address": "127.0.0.1", "port": 0, "app_port": app.port}
        self.agent: Agent = sidecars(corp.svid(DB), corp.bundle, inbound=(row,), **more)
        self.app, self.corp, self.web, self.ops = app, corp, corp.svid(WEB), corp.svid(OPS)
        self.port = inbound_port(self.agent)
        rule = ALLOW_WEB if protocol == "http" else ALLOW_WEB_TCP
        self.agent.policy(policies({**rule, "from": [WEB, OPS]}, protocol=protocol, port=self.port))

    def open(self, *, ops: bool = False) -> ssl.SSLSocket:
        return connect(self.port, self.ops if ops else self.web, self.corp.bundle)

    def get(self, sock: ssl.SSLSocket) -> tuple[int, str]:
        sock.sendall(REQUEST)
        status, body = read_response(sock)
        return status, json.loads(body)["code"] if body.startswith(b"{") else ""

    def answers(self) -> bool:
        """Whether a new connection is served."""
        try:
            with self.open() as sock:
                return self.get(sock)[0] == 200
        except OSError:
            return False


@pytest.fixture
def place(sidecars: Make, corp: Realm, apps: Callable[..., App], request: pytest.FixtureRequest) -> Place:
    """As the test says: a protocol, limits, descriptors."""
    settings: dict[str, Any] = dict(request.param)
    protocol = settings.pop("protocol", "http")
    answer = {"http": http_answer, "tcp": echo_answer}[protocol]
    return Place(sidecars, corp, apps(answer), protocol, **settings)


def placed(name: str, **settings: Any) -> Any:
    """A test of one point of the checklist, with a sidecar that has these settings."""
    return pytest.mark.parametrize("place", [pytest.param(settings, id=name)], indirect=True)


# -- limits


@placed("S-34-slow-head", limits={"head_s": 1})
def test_a_head_that_trickles_is_refused_and_said_why(place: Place) -> None:
    with place.open() as slow, place.open() as other:
        slow.sendall(b"GET /orders HTTP/1.1\r\nHost")
        status, body = read_response(slow)
        assert (status, json.loads(body)["code"]) == (408, "LM3112")
        assert read_all(slow) == b""
        assert place.get(other) == (200, "")
    assert place.agent.record(code="LM3112")["caller"] == WEB


@placed("S-34-slow-handshake", limits={"handshake_s": 1})
def test_a_handshake_that_is_not_made_ends(place: Place) -> None:
    with socket.create_connection(("127.0.0.1", place.port), PATIENCE_S) as silent:
        silent.sendall(b"\x16\x03\x01")
        assert read_all(silent) == b""
    assert place.agent.record(code="LM3020")["caller"] is None
    assert eventually(place.answers)


@placed("S-35-idle", limits={"idle_s": 1})
def test_a_connection_that_says_nothing_is_closed(place: Place) -> None:
    def begins() -> ssl.SSLSocket | None:
        """A connection that was served; on a machine that is busy one may be idle for too long before it asks."""
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(place.open())
            with contextlib.suppress(OSError):
                if place.get(sock) == (200, ""):
                    stack.pop_all()
                    return sock
        return None

    served: list[ssl.SSLSocket] = []
    assert eventually(lambda: bool(served.extend(filter(None, [begins()])) or served))
    with served[0] as idle:
        assert read_all(idle) == b""
    assert eventually(place.answers)


@placed("S-35-exchange", limits={"exchange_s": 1})
def test_an_exchange_in_which_nothing_moves_is_cut(place: Place) -> None:
    with place.open() as stuck:
        stuck.sendall(b"POST /orders HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n\r\nabc")
        assert read_all(stuck) == b""
    assert eventually(place.answers)


@placed("S-36-connections", limits={"connections": 3})
def test_a_connection_too_many_is_told_so_and_those_that_are_there_go_on(place: Place) -> None:
    with contextlib.ExitStack() as stack:
        served = [stack.enter_context(place.open()) for _ in range(3)]
        assert [place.get(sock) for sock in served] == [(200, "")] * 3
        with place.open() as over:
            over.sendall(REQUEST)
            data = read_all(over)
        assert data.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in data
        assert b'"LM3303"' in data
        assert [place.get(sock) for sock in served] == [(200, "")] * 3
    assert place.agent.record(code="LM3303")["caller"] == WEB
    assert eventually(place.answers)


@placed("S-36-of-one-caller", limits={"connections_of_caller": 2})
def test_a_caller_with_too_many_connections_leaves_room_for_others(place: Place) -> None:
    with contextlib.ExitStack() as stack:
        served = [stack.enter_context(place.open()) for _ in range(2)]
        assert [place.get(sock) for sock in served] == [(200, "")] * 2
        with place.open() as over, place.open(ops=True) as other:
            assert place.get(over) == (503, "LM3304")
            assert place.get(other) == (200, "")


@placed("S-36-of-streams", protocol="tcp", limits={"connections": 1})
def test_a_stream_too_many_is_closed_and_recorded(place: Place) -> None:
    with place.open() as served:
        served.sendall(b"x")
        assert served.recv(1) == b"x"
        with place.open() as over:
            assert read_all(over) == b""
        served.sendall(b"y")
        assert served.recv(1) == b"y"
    assert place.agent.record(code="LM3303", protocol="tcp")["caller"] == WEB
    assert place.app.connections == 1


@pytest.mark.parametrize("connections", [pytest.param(1, id="S-36-outbound")])
def test_a_program_with_too_many_connections_is_told_so(
    sidecars: Make, corp: Realm, apps: Callable[..., App], connections: int
) -> None:
    server = Place(sidecars, corp, apps(http_answer), "http")
    way = {"local_port": 0, "service": "db", "port": None}
    client: Agent = sidecars(corp.svid(WEB), corp.bundle, outbound=(way,), limits={"connections": connections})
    client.policy(policies(ALLOW_WEB, port=server.port))
    client.send({"type": "endpoints", "endpoints": [{"spiffe_id": DB, "address": "127.0.0.1", "port": server.port}]})

    def ask(sock: socket.socket) -> int:
        sock.sendall(REQUEST)
        return read_response(sock)[0]

    with socket.create_connection(("127.0.0.1", outbound_port(client)), PATIENCE_S) as served:
        assert ask(served) == 200
        with socket.create_connection(("127.0.0.1", outbound_port(client)), PATIENCE_S) as over:
            assert ask(over) == 503
        assert ask(served) == 200
    assert client.record(code="LM3303")["direction"] == "outbound"


@placed("S-36-handshake-flood", limits={"handshakes": 8})
def test_of_too_many_handshakes_the_oldest_give_way_and_callers_get_in(place: Place) -> None:
    with contextlib.ExitStack() as stack:
        flood = [
            stack.enter_context(socket.create_connection(("127.0.0.1", place.port), PATIENCE_S)) for _ in range(50)
        ]
        assert place.answers()
        # all but the last few are closed
        assert eventually(lambda: sum(_is_closed(sock) for sock in flood) >= 42)
        record = place.agent.record(code="LM3306")
        assert record["caller"] is None
        assert 1 <= record["facts"]["connections"] <= 50


@placed("S-36-far-too-many", limits={"connections": 1, "handshakes": 1000})
def test_far_too_many_connections_are_closed_before_a_handshake(place: Place) -> None:
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(place.open())
        assert place.get(live) == (200, "")
        flood = [
            stack.enter_context(socket.create_connection(("127.0.0.1", place.port), PATIENCE_S)) for _ in range(100)
        ]
        assert eventually(lambda: sum(_is_closed(sock) for sock in flood) >= 36)
        assert place.get(live) == (200, "")
        assert place.agent.record(code="LM3303")["facts"]["connections"] >= 1


@placed("S-37-memory", limits={"memory_bytes": 1024})
def test_a_sidecar_short_of_memory_takes_nothing_new_on_and_says_so(place: Place) -> None:
    def refusal() -> tuple[int, str]:
        with place.open() as sock:
            return place.get(sock)

    assert eventually(lambda: refusal() == (503, "LM3305"))
    assert place.app.connections == len(place.app.requests)


@placed("S-38-descriptors", files=220)
def test_a_sidecar_that_runs_out_of_descriptors_serves_those_that_it_has_and_comes_back(place: Place) -> None:
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(place.open())
        assert place.get(live) == (200, "")
        for _ in range(400):
            stack.enter_context(socket.create_connection(("127.0.0.1", place.port), PATIENCE_S))
        for _ in range(5):
            assert place.get(live) == (200, "")
    assert eventually(place.answers)
    assert place.agent.process.poll() is None


def _is_closed(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


# -- how it is run


def listening(pid: int) -> set[tuple[str, int]]:
    """The TCP addresses at which a process listens, and its listening Unix sockets as ("unix", inode)."""
    inodes = set()
    for link in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if found := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(link)):
                inodes.add(found[1])
    result: set[tuple[str, int]] = set()
    for table, size in (("tcp", 8), ("tcp6", 32)):
        for line in pathlib.Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and columns[9] in inodes:
                address, port = columns[1].split(":")
                text = socket.inet_ntoa(struct.pack("=I", int(address, 16))) if size == 8 else address
                result.add((text, int(port, 16)))
    for line in pathlib.Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
        columns = line.split()
        if columns[6] in inodes and columns[3] == "00010000":
            result.add(("unix", int(columns[6])))
    return result


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="a process that is not dumpable shows its descriptors to root")


@pytest.mark.root
@needs_root
@pytest.mark.parametrize(
    "also",
    [
        pytest.param("no-admin", id="S-39-no-admin-port"),
        pytest.param("loopback", id="S-40-all-addresses-for-the-mtls-port-alone"),
        pytest.param("channel", id="S-42-nobody-else-can-speak-to-it"),
    ],
)
def test_it_listens_on_its_ports_and_nowhere_else(
    sidecars: Make, corp: Realm, apps: Callable[..., App], also: str
) -> None:
    app = apps(http_answer)
    agent: Agent = sidecars(
        corp.svid(DB),
        corp.bundle,
        inbound=({"address": "0.0.0.0", "port": 0, "app_port": app.port},),
        outbound=({"local_port": 0, "service": "web", "port": None},),
    )
    found = listening(agent.process.pid)
    if also == "no-admin":
        assert {port for _, port in found} == {inbound_port(agent), outbound_port(agent)}
    elif also == "loopback":
        assert found == {("0.0.0.0", inbound_port(agent)), ("127.0.0.1", outbound_port(agent))}
    else:
        assert not any(kind == "unix" for kind, _ in found)


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("uid", [pytest.param(54_321, id="S-41-user-of-its-own")])
def test_it_runs_as_a_user_of_its_own_without_any_right(
    sidecars: Make, corp: Realm, apps: Callable[..., App], uid: int
) -> None:
    row = {"address": "127.0.0.1", "port": 0, "app_port": apps(http_answer).port}
    agent: Agent = sidecars(corp.svid(DB), corp.bundle, inbound=(row,), uid=uid)
    status = dict(
        line.split(":\t", 1)
        for line in pathlib.Path(f"/proc/{agent.process.pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert status["Uid"].split() == status["Gid"].split() == [str(uid)] * 4
    assert status["Groups"].strip() == ""
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({"type": "policy", "epoch": 2, "active": {"hash": "h", "policies": {}}}, id="S-43-A41-bad-policy"),
        pytest.param({"type": "identity", "spiffe_id": DB, "not_after": "x", "bundles": {}}, id="S-43-bad-identity"),
    ],
)
def test_what_cannot_be_applied_is_told_and_the_last_good_stays(
    sidecars: Make, corp: Realm, apps: Callable[..., App], bad: dict[str, object]
) -> None:
    place = Place(sidecars, corp, apps(http_answer), "http")
    place.agent.send(bad)
    assert place.agent.wait("failed")["code"] in {"LM2001", "LM3002"}
    assert place.answers()


@pytest.mark.parametrize("requests", [pytest.param(5, id="S-44-agent-gone")])
def test_without_its_agent_it_goes_on_with_what_it_was_told(
    sidecars: Make, corp: Realm, apps: Callable[..., App], requests: int
) -> None:
    place = Place(sidecars, corp, apps(http_answer), "http", program=os.getpid())
    with place.open() as live:
        assert place.get(live) == (200, "")
        place.agent.sock.shutdown(socket.SHUT_RDWR)
        for _ in range(requests):
            assert place.get(live) == (200, "")
            assert place.answers()
    assert place.agent.process.poll() is None
    place.agent.process.kill()  # nobody is left to tell it to stop


@pytest.mark.parametrize(
    ("word", "code"),
    [
        pytest.param({"ok": False, "code": "LM3422", "facts": {"pid": 7}}, "LM3422", id="S-50-another-process"),
        pytest.param({"ok": "yes", "code": "", "facts": {}}, "LM3210", id="S-45-no-clear-word"),
        pytest.param({"ok": None}, "LM3210", id="S-45-no-word"),
    ],
)
def test_who_is_not_attested_reaches_nothing(
    sidecars: Make, corp: Realm, apps: Callable[..., App], word: dict[str, object], code: str
) -> None:
    app = apps(http_answer)
    server = Place(sidecars, corp, app, "http")
    client: Agent = sidecars(
        corp.svid(WEB),
        corp.bundle,
        outbound=({"local_port": 0, "service": "db", "port": None},),
        attest=lambda _: word,
    )
    client.policy(policies(ALLOW_WEB, port=server.port))
    client.send({"type": "endpoints", "endpoints": [{"spiffe_id": DB, "address": "127.0.0.1", "port": server.port}]})
    with socket.create_connection(("127.0.0.1", outbound_port(client)), PATIENCE_S) as sock:
        sock.sendall(REQUEST)
        status, body = read_response(sock)
    assert (status, json.loads(body)["code"]) == (403, code)
    assert client.record(code=code)["direction"] == "outbound"
    assert app.connections == 0


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [pytest.param(5, id="S-45-agent-silent")])
def test_an_agent_that_says_nothing_lets_nobody_out(
    sidecars: Make, corp: Realm, apps: Callable[..., App], seconds: int
) -> None:
    def never(_: object) -> dict[str, object]:
        raise OSError  # the harness's agent stops listening, and the sidecar hears no word

    client: Agent = sidecars(
        corp.svid(WEB), corp.bundle, outbound=({"local_port": 0, "service": DB, "port": None},), attest=never
    )
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", outbound_port(client)), PATIENCE_S) as sock:
        sock.sendall(REQUEST)
        status, body = read_response(sock)
    assert (status, json.loads(body)["code"]) == (403, "LM3211")
    assert time.monotonic() - begin >= seconds - 0.5


@pytest.mark.parametrize(
    "protocol", [pytest.param("http", id="S-46-A41-no-policy"), pytest.param("tcp", id="S-46-A39-server-first")]
)
def test_nobody_is_let_in_while_there_is_no_policy(
    sidecars: Make, corp: Realm, apps: Callable[..., App], protocol: str
) -> None:
    app = apps(http_answer if protocol == "http" else banner_answer)
    row = {"address": "127.0.0.1", "port": 0, "app_port": app.port}
    agent: Agent = sidecars(corp.svid(DB), corp.bundle, inbound=(row,))
    with connect(inbound_port(agent), corp.svid(WEB), corp.bundle) as sock:
        sock.sendall(REQUEST)
        assert read_all(sock) == b""
    assert agent.record(code="LM3200")["caller"] == WEB
    agent.policy(policies(port=inbound_port(agent), protocol=protocol))
    with connect(inbound_port(agent), corp.svid(WEB), corp.bundle) as sock:
        sock.sendall(REQUEST)
        assert read_all(sock) == b""
    assert app.connections == 0


@placed("S-48-records-without-secrets")
def test_a_record_names_caller_policy_and_rule_and_holds_no_secret(place: Place) -> None:
    secret = "c2VjcmV0LXRva2Vu"
    with place.open() as sock:
        sock.sendall(
            b"GET /orders/48?access_token=%b HTTP/1.1\r\n" % secret.encode()
            + HOST
            + b"Authorization: Bearer %b\r\nCookie: s=%b\r\nx-api-key: %b\r\n\r\n" % ((secret.encode(),) * 3)
        )
        read_response(sock)
    row = place.agent.record(path="/orders/48")
    assert (row["caller"], row["policy"], row["rule"]) == (WEB, "shop-db", "orders")
    assert eventually(lambda: any(message["type"] == "flows" for message in place.agent.heard))
    assert secret not in json.dumps(place.agent.heard)


def test_every_point_of_the_checklist_is_a_test_or_has_its_reason() -> None:
    here = pathlib.Path(__file__).parent
    tested = {
        int(number)
        for path in here.glob("test_checklist*.py")
        for number in re.findall(r'"S-(\d+)-', path.read_text("utf-8"))
        + re.findall(r'f"S-(\d+)-', path.read_text("utf-8"))
    }
    guide = (here.parents[2] / "docs" / "guides" / "dataplane.md").read_text("utf-8")
    reasoned = {int(number) for number in re.findall(r"^\| S-(\d+) ", guide, re.MULTILINE)}
    assert tested | reasoned == set(range(1, 51))
    assert not tested & reasoned
