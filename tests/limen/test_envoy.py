"""A real Envoy decides as Limen does, or stricter where the export says so: bypasses, generated cases, files."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limen.envoy import Envoy, find_envoy, running_envoy, validate
from limen.envoywire import Authority, Caller
from mesh.clock import SystemClock
from mesh.problems import NotFound, Unavailable
from mesh.request import Effect, Request
from policyengine.compile.envoy import CANONICAL, TCP_SPEAKS_FIRST, compile_envoy, ports_of
from policyengine.compile.export import Findings
from policyengine.decide import Index
from policyengine.model import PolicySet, Port, policy_set_from_json
from tests.bypasses import BYPASSES, OPS, WEB, Bypass, Service, case_id, cases, policies
from tests.examples import examples
from tests.policyengine.strategies import policy_sets, requests
from tests.policyengine.targets import trees
from tests.ports import free_port
from tests.tools import require_envoy

pytestmark = pytest.mark.peer
ALLOW = {"id": "a", "effect": "allow", "from": ["any"]}
PLAIN = Request(
    service="db", port=8080, protocol="http", source=WEB, method="GET", host="db.corp.test", path="/api/ok",
    peer_ip="192.0.2.1",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _envoy() -> None:
    require_envoy()


# ---------------------------------------------------------------------- finding it


def test_the_named_binary_comes_first_and_none_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVOY_PATH", "/bin/true")
    assert find_envoy() == "/bin/true"
    monkeypatch.setenv("ENVOY_PATH", "/nowhere/envoy")
    with pytest.raises(NotFound, match="LM2650"):
        find_envoy()


def test_what_is_no_envoy_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVOY_PATH", "/bin/false")
    with pytest.raises(Unavailable, match="LM2651"), running_envoy(trees.tree([ALLOW]), "s"):
        pass


def test_an_envoy_that_dies_denies() -> None:
    with running_envoy(trees.tree([ALLOW]), "s") as envoy:
        assert envoy.decide(PLAIN).is_allowed
        closed = Envoy(trees.tree([ALLOW]), "s", {"db:8080": free_port()}, pathlib.Path("/dev/null"), envoy._caller)
        found = closed.decide(PLAIN)
    assert (found.is_allowed, found.code) == (False, "LM2651")


# ---------------------------------------------------------------------- the catalogue

# Where the verdict is another than Limen's own sidecar gives, each with its reason.
FRAMING = "Envoy brings it into form before anybody reads it, and forwards that: docs/guides/envoy.md"
DIFFERENT = {
    "A17-folded-field": FRAMING,
    "A17-bare-line-feed": FRAMING,
    "A19-two-spaces": FRAMING,
    "A24-h2c": "Envoy takes the upgrade away and forwards the request",
    "A13-what-is-allowed-in-any-case": "a service that ignores case is taken in lower case",
}


@pytest.fixture(scope="module")
def envoys() -> Iterator[dict[str, Envoy]]:
    require_envoy()
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(running_envoy(policy_set_from_json(policies(name)), "s"))
            for name in ("closed", "open", "caseless")
        }


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(), ids=case_id)
def test_attacks_of_the_catalogue_come_to_their_verdict(case: tuple[Bypass, Service], envoys: dict[str, Envoy]) -> None:
    bypass, service = case
    reply = envoys[service].send("db", 8080, (WEB,), "192.0.2.1", bypass.raw)
    verdict = "allow" if reply.status == 200 else "deny"
    assert (verdict == bypass.verdict) == (bypass.name not in DIFFERENT), reply


def test_the_differences_are_cases_of_the_catalogue() -> None:
    assert set(DIFFERENT) <= {bypass.name for bypass in BYPASSES}


# A28 to A35: identities and addresses
IDENTITIES: list[tuple[str, tuple[str, ...], int]] = [
    ("A30-no-uri-san", (), 0),
    ("A31-own-and-admin", (WEB, OPS), 403),
    ("A31-admin-and-own", (OPS, WEB), 403),
    ("A32-comma", (f"{WEB},{OPS}",), 403),
    ("A33-other-trust-domain", (WEB.replace("corp.test", "evil.test"),), 403),
    ("A33-upper-case", (WEB.replace("corp", "CORP"),), 403),
    ("A33-port", (WEB.replace("corp.test", "corp.test:80"),), 403),
    ("A33-http", (WEB.replace("spiffe", "http"),), 403),
    ("A33-query", (f"{WEB}?x=1",), 403),
    ("A33-trailing-slash", (f"{WEB}/",), 403),
    ("A33-dot-segments", ("spiffe://corp.test/ns/x/../shop/sa/web",), 403),
    ("A33-nul", (f"{WEB}\x00",), 403),
    ("A33-too-long", ("spiffe://corp.test/" + "b" * 2030,), 403),
    ("A34-boundary", (WEB.replace("/shop/", "/shop-evil/"),), 403),
    ("A34-injection", (WEB.replace("/ns/", "/foo/ns/"),), 403),
    ("A35-regex-characters", (WEB.replace("corp.test", "corpxtest"),), 403),
    ("itself", (WEB,), 200),
]


@pytest.mark.slow
@pytest.mark.parametrize(("uris", "status"), [row[1:] for row in IDENTITIES], ids=[row[0] for row in IDENTITIES])
def test_identities_that_look_alike_are_others(uris: tuple[str, ...], status: int, envoys: dict[str, Envoy]) -> None:
    raw = b"GET /api/ok HTTP/1.1\r\nHost: db.corp.test\r\n\r\n"
    try:
        found = envoys["closed"].send("db", 8080, uris, "192.0.2.1", raw).status
    except OSError:
        found = 0
    assert found == status


# ---------------------------------------------------------------------- generated cases


def sendable(request: Request) -> Request:
    """A request as somebody could send it: what nobody knows is known, and it comes from somewhere."""
    peer = "10.1.2.3" if request.peer_ip in {None, "x"} else request.peer_ip
    return dataclasses.replace(request, unknown=frozenset(), peer_ip=peer)


# INVARIANT: Envoy allows nothing that Limen denies, and names the same rule for what it allows.
@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=examples(16), deadline=None, suppress_health_check=list(HealthCheck))
@given(policy_sets, st.lists(requests.map(sendable), min_size=40, max_size=40))
def test_envoy_allows_nothing_that_limen_denies(policies: PolicySet, some: list[Request]) -> None:
    index = Index(policies, "s")
    with running_envoy(policies, "s") as envoy:
        for request in some:
            theirs, ours = envoy.decide(request), index.decide(request)
            assert theirs.code != "LM2651", request
            if theirs.effect is Effect.ALLOW:
                assert ours.policy_effect is Effect.ALLOW, request
                assert (theirs.tier, theirs.policy, theirs.rule) == (ours.tier, ours.policy, ours.rule)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=examples(16), deadline=None, suppress_health_check=list(HealthCheck))
@given(trees.policy_sets, st.lists(trees.calls, min_size=40, max_size=40))
def test_envoy_decides_alike_under_the_same_names_where_nothing_is_said(policies: PolicySet, some: list[Any]) -> None:
    findings = Findings("db")
    ports_of(policies, policies.services[0], findings)
    said = {item.facts["reason"] for item in findings.all() if item.code != "LM2512"}
    is_exact = said <= {CANONICAL, TCP_SPEAKS_FIRST}
    index = Index(policies, "s")
    with running_envoy(policies, "s") as envoy:
        for call in some:
            theirs, ours = envoy.decide(call.request("db")), index.decide(call.request("db"))
            assert theirs.effect is not Effect.ALLOW or ours.policy_effect is Effect.ALLOW, call
            if is_exact and call.caller is not None:
                assert theirs == ours, call


GRPC: list[tuple[str, str, list[tuple[str, str]], str]] = [
    ("allowed", "/pkg.Svc/Method", [], "LM2300"),
    ("another-method", "/pkg.Svc/method", [], "LM2302"),
    ("trailing-slash", "/pkg.Svc/Method/", [], "LM2302"),
    ("two-slashes", "//pkg.Svc/Method", [], "LM2300"),
    ("denied", "/pkg.Svc/Secret", [], "LM2301"),
    ("allowed-to-a-grpc-client", "/pkg.Svc/Method", [("content-type", "application/grpc")], "LM2300"),
    ("denied-to-a-grpc-client", "/pkg.Svc/Secret", [("content-type", "application/grpc")], "LM2301"),
    ("another-host", "/pkg.Svc/Method", [("host", "evil.test")], "LM2304"),
    ("no-slash", "pkg.Svc/Method", [], "LM2652"),
    ("header-twice", "/pkg.Svc/Method", [("x-role", "a"), ("x-role", "b")], "LM2304"),
    ("path-of-many-frames", "/pkg.Svc/Method?" + "a" * 40_000, [], "LM2300"),
    ("header-after-a-space", "/pkg.Svc/Role", [("x-role", " admin")], "LM2304"),
    ("header-before-a-tab", "/pkg.Svc/Role", [("x-role", "admin\t")], "LM2304"),
    ("host-twice", "/pkg.Svc/Method", [("host", "db.corp.test")], "LM2304"),
    ("connection", "/pkg.Svc/Method", [("connection", "x-role")], "LM2652"),
    ("header-in-upper-case-is-sent-lower", "/pkg.Svc/Role", [("X-Role", "admin")], "LM2300"),
    ("two-paths", "/pkg.Svc/Method", [(":path", "/pkg.Svc/Secret")], "LM2653"),
]


def test_grpc_methods_are_decided_over_http2() -> None:
    rules = [
        {**ALLOW, "to": [{"paths": ["/pkg.Svc/Method"], "methods": ["POST"]}]},
        {**ALLOW, "id": "role", "to": [{"paths": ["/pkg.Svc/Role"]}], "when": {"headers": {"x-role": ["admin"]}}},
        {"id": "d", "effect": "deny", "from": ["any"], "to": [{"ports": [9000], "paths": ["/pkg.Svc/Secret"]}]},
    ]
    plain = dataclasses.replace(PLAIN, port=9000, protocol="grpc", method="POST")
    with running_envoy(trees.tree(rules, ports=((9000, "grpc"),)), "s") as envoy:
        for name, path, headers, code in GRPC:
            request = dataclasses.replace(plain, path=path, headers=tuple(headers))
            assert envoy.decide(request).code == code, name


def test_connections_are_decided_by_identity_and_address_and_named() -> None:
    rules = [
        {"id": "near", "effect": "allow", "from": [WEB], "when": {"peer_ip": ["10.0.0.0/8"]}},
        {"id": "ops", "effect": "deny", "from": [OPS], "to": [{"ports": [5432]}]},
    ]
    plain = dataclasses.replace(PLAIN, port=5432, protocol="tcp", method=None, path=None, host=None)
    mapped = "::ffff:10.1.2.3"
    asked = ((WEB, "10.1.2.3"), (WEB, "192.0.2.1"), (OPS, "10.1.2.3"), (WEB, mapped), (None, "10.0.0.1"))
    with running_envoy(trees.tree(rules, ports=((5432, "tcp"),)), "s") as envoy:
        found = [envoy.decide(dataclasses.replace(plain, source=source, peer_ip=peer)) for source, peer in asked]
    assert [(item.code, item.rule) for item in found] == [
        ("LM2300", "near"), ("LM2302", ""), ("LM2301", "ops"), ("LM2300", "near"), ("LM2303", "")
    ]  # fmt: skip


def test_a_grpc_client_over_http1_is_denied_under_the_rules_name_too() -> None:
    grpc = dataclasses.replace(PLAIN, headers=(("content-type", "application/grpc"), ("expect", "100-continue")))
    rules = [{**ALLOW, "to": [{"paths": ["/api/ok"]}]}]
    with running_envoy(trees.tree(rules), "s") as envoy:
        found = [envoy.decide(dataclasses.replace(grpc, path=path)).code for path in ("/api/ok", "/x")]
        assert envoy.decide(dataclasses.replace(grpc, method="HEAD")).rule == "a"
    assert found == ["LM2300", "LM2302"]


def test_a_request_that_names_no_host_has_one_that_no_rule_names() -> None:
    rules = [
        {**ALLOW, "to": [{"paths": ["/a"]}]},
        {**ALLOW, "id": "h", "to": [{"paths": ["/h"], "hosts": ["*.corp.test"]}]},
    ]
    tree = trees.tree(rules, ports=((8080, "http"), (9000, "grpc")))
    plain = dataclasses.replace(PLAIN, host=None)
    with running_envoy(tree, "s") as envoy:
        for port, protocol in ((8080, "http"), (9000, "grpc")):
            for path in ("/a", "/h"):
                request = dataclasses.replace(plain, port=port, protocol=protocol, path=path)
                assert envoy.decide(request) == Index(tree, "s").decide(request)


DENIED_ROLES = [
    ([("x-role", "admin")], "LM2301"),
    ([("x-role", " admin\t")], "LM2301"),
    ([("X-Role", "admin")], "LM2301"),
    ([("x-role", ""), ("x-role", "admin")], "LM2304"),
    ([("x-role", "\xff,admin")], "LM2304"),
    ([("x_role", "admin")], "LM2652"),
    ([("x-role ", "admin")], "LM2652"),
    ([("x-role", "admin\x00")], "LM2652"),
    # Envoy takes it away, so that the application does not see it either
    ([("connection", "x-role"), ("x-role", "admin")], "LM2300"),
]


def test_a_denied_header_is_denied_in_every_spelling_that_reaches_the_application() -> None:
    when = {"headers": {"x-role": ["admin"]}}
    rules = [ALLOW, {"id": "d", "effect": "deny", "from": ["any"], "to": [{"ports": [8080]}], "when": when}]
    with running_envoy(trees.tree(rules), "s") as envoy:
        for headers, code in DENIED_ROLES:
            assert envoy.decide(dataclasses.replace(PLAIN, headers=tuple(headers))).code == code, headers


@pytest.mark.parametrize(
    "change",
    [{"unknown": frozenset({"headers.x"})}, {"path": None}, {"path": "/a\r\nx: y"}, {"path": "/\u0100"},
     {"peer_ip": "x"}, {"protocol": "tcp"}, {"source": "spiffe://corp.test/é"}, {"headers": (("", "x"),)}],
    ids=str,
)  # fmt: skip
def test_what_nobody_can_send_is_denied_without_asking(change: dict[str, Any]) -> None:
    caller = Caller(Authority(SystemClock().now()))
    envoy = Envoy(trees.tree([ALLOW]), "s", {"db:8080": free_port()}, pathlib.Path("/dev/null"), caller)
    found = envoy.decide(dataclasses.replace(PLAIN, **change))
    assert (found.is_allowed, found.code) == (False, "LM2653")


# ---------------------------------------------------------------------- the exported files


def test_the_examples_and_every_kind_of_matcher_are_taken_by_envoy() -> None:
    rules = [
        {**ALLOW, "to": [{"paths": ["/a/{x:uuid}/**", "/a/**", "/b"], "hosts": ["*.corp.test"], "methods": ["GET"]}]},
        {"id": "d", "effect": "deny", "from": [f"{trees.TD}/ns/**"], "to": [{"ports": [8080], "paths": ["/a/{x}"]}],
         "when": {"headers": {"x-role": ["a"]}, "peer_ip": ["10.0.0.0/8", "fd00::/8"]}},
    ]  # fmt: skip
    found = compile_envoy(
        trees.tree(rules, ports=((8080, "http"), (9000, "grpc"), (5432, "tcp"))), {}, "/run/agent.sock"
    )
    for name, text in found.files:
        validate(name, text)


def test_what_envoy_does_not_take_is_said() -> None:
    with pytest.raises(Unavailable, match=r"LM2651.*nonsense"):
        validate("x.yaml", "# a comment\nnonsense: 1\n")


class App:
    """An application: keeps what it is sent, after it has said something first where it does."""

    def __init__(self, greeting: bytes = b"", answer: bytes = b"") -> None:
        self.heard: list[bytes] = []
        self.checked = 0
        self.connections = 0
        self._greeting, self._answer = greeting, answer
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                self.connections += 1
                with connection, contextlib.suppress(OSError):
                    connection.sendall(self._greeting)
                    self.heard.append(connection.recv(1 << 16))
                    connection.sendall(self._answer)

    def close(self) -> None:
        self._server.close()


@contextlib.contextmanager
def exported(
    policies: PolicySet, apps: dict[int, App], folder: pathlib.Path, until: Any
) -> Iterator[tuple[Caller, dict[int, int]]]:
    """The exported file as it is, but for certificates that need no agent, and for ports that are free."""
    authority = Authority(SystemClock().now())
    (text,) = [
        text for name, text in compile_envoy(policies, {}, str(folder / "none.sock")).files if name == "limen-db.yaml"
    ]
    body = yaml.load(text, yaml.CSafeLoader)
    certificate, key = authority.leaf(f"{trees.TD}/ns/shop/sa/db")
    common = {
        "tls_certificates": [
            {"certificate_chain": {"inline_string": certificate}, "private_key": {"inline_string": key}}
        ],
        "validation_context": {"trusted_ca": {"inline_string": authority.pem}},
    }
    ports: dict[int, int] = {}
    for item in body["static_resources"]["listeners"]:
        where = item["address"]["socket_address"]
        ports[where["port_value"]] = free_port()
        where.update(address="127.0.0.1", port_value=ports[where["port_value"]])
        context = item["filter_chains"][0]["transport_socket"]["typed_config"]["common_tls_context"]
        for name in ("tls_certificate_sds_secret_configs", "validation_context_sds_secret_config"):
            del context[name]
        context.update(common)
    for item in body["static_resources"]["clusters"]:
        for port, app in apps.items():
            if item["name"] == f"app-{port}":
                end = item["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"][
                    "socket_address"
                ]
                end["port_value"] = app.port
    file = folder / "envoy.yaml"
    file.write_text(json.dumps(body))
    process = subprocess.Popen(
        [find_envoy(), "-c", str(file), "--use-dynamic-base-id", "--concurrency", "1", "-l", "critical"]
    )
    try:
        for port in ports.values():
            until(functools.partial(is_open, port), 30)
        yield Caller(authority), ports
    finally:
        process.kill()
        process.wait()


def is_open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def say(caller: Caller, port: int, uris: tuple[str, ...], raw: bytes, protocol: str, wait_s: float = 10) -> bytes:
    with contextlib.suppress(OSError), caller.connected(port, uris, None, 0, protocol) as connection:
        connection.settimeout(wait_s)
        connection.sendall(raw)
        return connection.recv(1 << 16)
    return b""


@pytest.mark.system
def test_the_exported_file_forwards_what_it_decided_and_says_who_called(tmp_path: pathlib.Path, until: Any) -> None:
    app = App(answer=b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
    rules = [{"id": "a", "effect": "allow", "from": [WEB], "to": [{"paths": ["/a/**"]}]}]
    raw = b"GET %b HTTP/1.1\r\nHost: DB.corp.test:8080\r\nx-forwarded-client-cert: URI=%b\r\n"
    raw += b"Connection: x-role\r\nx-role: admin\r\n\r\n"
    with exported(trees.tree(rules), {8080: app}, tmp_path, until) as (caller, ports):
        first = say(caller, ports[8080], (WEB,), raw % (b"/a/%5Bx%5D?q=/../%2f", OPS.encode()), "http")
        for target, uris in ((b"/b", (WEB,)), (b"/a/../b", (WEB,)), (b"/a/x", (OPS,)), (b"/a/x", (WEB, OPS))):
            assert say(caller, ports[8080], uris, raw % (target, b"x"), "http").startswith(b"HTTP/1.1 403")
        assert say(caller, ports[8080], (), raw % (b"/a/x", b"x"), "http") == b""
    app.close()
    assert first.startswith(b"HTTP/1.1 200")
    (heard,) = app.heard
    assert heard.startswith(b"GET /a/%5Bx%5D?q=/../%2f HTTP/1.1\r\n")
    lines = heard.lower().split(b"\r\n")
    assert b"host: db.corp.test" in lines  # without its port
    assert b"x-role" not in heard
    # the caller is the certificate's, whatever it says of itself
    (known,) = [line for line in lines if line.startswith(b"x-forwarded-client-cert:")]
    assert WEB.encode() in known
    assert OPS.encode() not in known


@pytest.mark.system
def test_the_exported_file_looks_at_the_address_of_the_connection(tmp_path: pathlib.Path, until: Any) -> None:
    app = App(answer=b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
    near, far = ({"peer_ip": [network]} for network in ("127.0.0.0/8", "10.0.0.0/8"))
    rules = [
        {**ALLOW, "id": path[1:], "to": [{"paths": [path]}], "when": when} for path, when in (("/a", near), ("/b", far))
    ]
    raw = b"GET %b HTTP/1.1\r\nHost: db\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n"
    with exported(trees.tree(rules), {8080: app}, tmp_path, until) as (caller, ports):
        found = [say(caller, ports[8080], (WEB,), raw % path, "http").split(b" ")[1] for path in (b"/a", b"/b")]
    app.close()
    assert found == [b"200", b"403"]


@pytest.mark.system
@pytest.mark.parametrize("websocket", [False, True], ids=["undeclared", "declared"])
def test_a_request_becomes_a_websocket_where_the_port_is_declared_so(
    websocket: bool, tmp_path: pathlib.Path, until: Any
) -> None:
    app = App(answer=b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhi")
    tree = trees.tree([{"id": "a", "effect": "allow", "from": [WEB], "to": [{"paths": ["/ws"]}]}])
    service = dataclasses.replace(tree.services[0], ports=(Port(port=8080, protocol="http", websocket=websocket),))
    tree = dataclasses.replace(tree, services=(service, *tree.services[1:]))
    raw = b"GET %b HTTP/1.1\r\nHost: db\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    with exported(tree, {8080: app}, tmp_path, until) as (caller, ports):
        found = [say(caller, ports[8080], (WEB,), raw % path, "http").split(b" ")[1] for path in (b"/ws", b"/other")]
    app.close()
    assert found == [b"101" if websocket else b"403", b"403"]
    assert len(app.heard) == websocket


@pytest.mark.system
def test_an_application_that_speaks_first_is_not_heard_by_who_may_not_call(tmp_path: pathlib.Path, until: Any) -> None:
    app = App(greeting=b"220 secret banner\r\n")
    rules = [{"id": "a", "effect": "allow", "from": [WEB]}]
    with exported(trees.tree(rules, ports=((5432, "tcp"),)), {5432: app}, tmp_path, until) as (caller, ports):
        with caller.connected(ports[5432], (OPS,), None, 0, "tcp") as silent:
            silent.settimeout(0.5)
            with pytest.raises(TimeoutError):
                silent.recv(64)
        assert say(caller, ports[5432], (OPS,), b"x", "tcp") == b""
        assert app.connections == 0
        assert say(caller, ports[5432], (WEB,), b"x", "tcp") == b"220 secret banner\r\n"
    app.close()
    assert app.heard == [b"x"]
