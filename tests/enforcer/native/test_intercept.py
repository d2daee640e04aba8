"""Redirected connections in a network of the test's own: the kernel redirects what is marked, as it would a group."""

from __future__ import annotations

import errno
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from enforcer.native import wire
from enforcer.native.intercept import is_elsewhere, original_destination
from tests.enforcer.native.harness import ALLOW_WEB, DB, HOST, WEB, Agent, Realm, policies, read_all, read_response
from tests.enforcer.test_guard import needs_root, netns  # noqa: F401  netns is a fixture
from tests.mesh.test_clienthello import made, named

HERE, OTHER, HERE6 = "10.77.0.1", "10.77.0.2", "fd77::1"
EXEMPT = (f"cidr:{HERE}/32:9000", f"cidr:[{HERE6}]:9000", f"dns:{HERE}:9443", "dns:localhost:9443", "service:db")
SO_MARK, MARK = 36, 7


def redirect_to(port: int) -> None:
    """Redirect every connection that carries the mark."""
    rules = f"""table inet t {{
      chain c {{ type nat hook output priority -100; meta mark {MARK} meta l4proto tcp redirect to :{port}; }}
    }}"""
    subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True)
    for address in (f"{OTHER}/24", f"{HERE6}/64"):
        subprocess.run(["ip", "addr", "add", address, "dev", "lo", *(["nodad"] if ":" in address else [])], check=True)


def call(host: str, port: int) -> socket.socket:
    """A connection of the redirected workload."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, SO_MARK, MARK)
    sock.settimeout(60)
    sock.connect((host, port))
    return sock


def echo(host: str, port: int) -> socket.socket:
    """A server outside of the mesh."""
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def test_a_connection_that_was_not_redirected_has_no_other_destination() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        accepted, _ = server.accept()
        with accepted:
            assert original_destination(accepted.fileno()) is None


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.7", True), ("2001:db8::7", True), ("::ffff:192.0.2.7", True),
        ("127.0.0.1", False), ("::1", False), ("0.0.0.0", False), ("169.254.169.254", False), ("fe80::1%1", False),
        ("::ffff:127.0.0.1", False), ("::ffff:0.0.0.0", False), ("::ffff:169.254.169.254", False),
    ],
)  # fmt: skip
def test_a_name_leads_neither_to_this_host_nor_to_its_link_however_that_is_written(
    address: str, expected: bool
) -> None:
    assert is_elsewhere(address) is expected


def test_an_ipv4_address_in_the_form_of_ipv6_is_connected_to_as_it_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("::ffff:127.0.0.1", port)) as sock:
            assert sock.getpeername()[0] == "::ffff:127.0.0.1"


@needs_root
@pytest.mark.parametrize("host", [OTHER, HERE6], ids=["v4", "v6"])
def test_the_kernel_says_where_a_redirected_connection_was_meant_to_go(host: str) -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=False) as six:
        port = six.getsockname()[1]
        with socket.create_server(("127.0.0.1", port)) as four:
            redirect_to(port)
            with call(host, 4711):
                accepted, _ = (six if ":" in host else four).accept()
                with accepted:
                    assert original_destination(accepted.fileno()) == (host, 4711)


class World:
    """A redirected `web`, and `db` on this host's address."""

    def __init__(self, sidecars: Callable[..., Agent], corp: Realm, app_port: int) -> None:
        self.word: dict[str, object] = {"ok": True, "code": "", "facts": {}}
        self.asked: list[wire.Message] = []
        self.db = sidecars(corp.svid(DB), corp.bundle, inbound=({"address": HERE, "port": 8080, "app_port": app_port},))
        self.web = sidecars(corp.svid(WEB), corp.bundle, attest=self._attest, egress=EXEMPT)
        redirect_to(int(self.web.wait("ready")["intercept"]))  # type: ignore[call-overload]
        for agent in (self.db, self.web):
            agent.policy(policies(ALLOW_WEB))
        endpoint = {"spiffe_id": DB, "address": HERE, "port": 8080}
        self.web.send({"type": "endpoints", "endpoints": [endpoint]})

    def _attest(self, message: wire.Message) -> dict[str, object]:
        self.asked.append(message)
        return self.word

    def answered(self, host: str, port: int, data: bytes, server: socket.socket) -> bytes:
        """What a server outside hears of a connection of the workload's, and says back to it."""
        with call(host, port) as sock:
            sock.sendall(data)
            accepted, _ = server.accept()
            with accepted:
                accepted.settimeout(60)
                heard = accepted.recv(65536)
                accepted.sendall(b"hello")
                assert sock.recv(5) == b"hello"
        return heard

    def refused(self, host: str, port: int, data: bytes = b"") -> dict[str, Any]:
        """The record of a connection that led nowhere."""
        with call(host, port) as sock:
            local = sock.getsockname()[1]
            sock.sendall(data)
            assert read_all(sock) == b"" or data.startswith(b"GET ")
        with self.web.changed:
            assert self.web.changed.wait_for(lambda: self._of(local), 60)
        return self._of(local)[0]

    def _of(self, local: int) -> list[dict[str, Any]]:
        return [row for row in self.web.records(decision="deny") if row["facts"].get("source_port") == local]


@pytest.fixture
def world(netns: None, sidecars: Callable[..., Agent], corp: Realm, apps: Callable[..., Any]) -> World:  # noqa: F811
    del netns  # the network comes first
    return World(sidecars, corp, apps().port)


@needs_root
@pytest.mark.slow
@pytest.mark.parametrize("host", [HERE, HERE6], ids=["v4", "v6"])
def test_an_exempt_network_is_reached_and_recorded(world: World, host: str) -> None:
    with echo(host, 9000) as server:
        assert world.answered(host, 9000, b"x", server) == b"x"
    row = world.web.record(decision="allow", direction="outbound")
    assert (row["rule"].split(":", 1)[0], row["facts"]["destination"].count(host)) == ("cidr", 1)
    # the kernel knows the program's socket by where it meant to go
    assert world.asked[-1]["destination"] == [host, 9000]


@needs_root
@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "port"), [(HERE, 9001), (OTHER, 9000), (HERE6, 9001)], ids=["other-port", "other-address", "v6"]
)
def test_what_is_not_exempt_is_denied_though_somebody_listens_there(world: World, host: str, port: int) -> None:
    with echo(host, port) as server:
        row = world.refused(host, port)
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert (row["code"], row["caller"], host in row["facts"]["destination"]) == ("LM3230", WEB, True)


@needs_root
@pytest.mark.slow
def test_a_program_that_speaks_http_is_told_why(world: World) -> None:
    with call(OTHER, 80) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: other\r\n\r\n")
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"LM3230" in answer
    assert b"limen audit show" in answer


@needs_root
@pytest.mark.slow
def test_an_exempt_name_is_reached_where_it_is_whatever_address_the_program_chose(world: World) -> None:
    hello = made(named(HERE.encode()))
    with echo(HERE, 9443) as server, echo(OTHER, 9443):
        assert world.answered(OTHER, 9443, hello, server) == hello
    row = world.web.record(decision="allow", direction="outbound")
    assert (row["tier"], row["facts"]["name"]) == ("egress", HERE)


@needs_root
@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (made(named(b"evil.test")), "LM3230"),
        (made(), "LM3230"),
        (b"SSH-2.0-x\r\n", "LM3231"),
        (made(named(b"localhost")), "LM3232"),
    ],
    ids=["other-name", "no-name", "no-tls", "this-host"],
)
def test_other_names_and_other_protocols_are_denied(world: World, data: bytes, code: str) -> None:
    with echo("127.0.0.1", 9443), echo(OTHER, 9443):
        assert world.refused(OTHER, 9443, data)["code"] == code


@needs_root
@pytest.mark.slow
def test_an_endpoints_address_leads_to_its_service_by_mutual_tls(world: World) -> None:
    with call(HERE, 8080) as sock:
        sock.sendall(b"GET /orders HTTP/1.1\r\n" + HOST + b"\r\n")
        assert read_response(sock)[0] == 200
        sock.sendall(b"GET /admin HTTP/1.1\r\n" + HOST + b"\r\n")
        assert read_response(sock)[0] == 403
    assert world.db.record(decision="deny")["caller"] == WEB


@needs_root
@pytest.mark.slow
def test_another_process_is_refused_wherever_it_wants_to_go(world: World) -> None:
    world.word = {"ok": False, "code": "LM3422", "facts": {"pid": "1", "program": "/evil"}}
    for port in (9000, 8080, 9443):
        assert world.refused(HERE, port)["code"] == "LM3422"


@needs_root
@pytest.mark.slow
def test_the_port_itself_is_no_way_out(world: World) -> None:
    port = int(world.web.wait("ready")["intercept"])  # type: ignore[call-overload]
    with socket.create_connection(("127.0.0.1", port), 60) as sock:
        try:
            assert sock.recv(1) == b""
        except OSError as err:
            assert err.errno == errno.ECONNRESET
