import datetime as dt

import pytest

from learner.sources.proxied import NO_CALLEE, Exchange, flows_of, host_of, physical
from mesh.flow import Flow, Verdict
from tests.learner.sources.accounts import seen

NOW = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
CALLER, PROXY, POD, HOP = ("10.0.0.1", 4000), ("10.0.0.2", 8080), ("10.0.0.3", 9090), ("10.0.0.2", 5000)


def lines(**facts: object) -> list[str]:
    found = Exchange(start=NOW, downstream=CALLER, local=PROXY, upstream=POD, upstream_local=HOP, **facts)  # type: ignore[arg-type]
    return [seen(item) if isinstance(item, Flow) else item for item in flows_of(found, "envoy")]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        pytest.param({"cluster": "inbound|8080||"}, ["10.0.0.1 > 10.0.0.2:8080 tcp yes"], id="inbound"),
        pytest.param({"cluster": "outbound|80||db"}, ["10.0.0.1 > 10.0.0.3:9090 tcp yes"], id="outbound"),
        pytest.param(
            {"cluster": "app"}, ["10.0.0.1 > 10.0.0.2:8080 tcp yes", "10.0.0.2 > 10.0.0.3:9090 tcp yes"], id="gateway"
        ),
        pytest.param(
            {"cluster": "outbound|80||db", "flags": frozenset({"UF"})},
            ["10.0.0.1 > 10.0.0.3:9090 tcp no"],
            id="unconnected",
        ),
        pytest.param(
            {"cluster": "inbound|8080||", "method": "GET", "path": "/a?b=c", "status": 200},
            ["10.0.0.1 > 10.0.0.2:8080 http GET /a 200 yes"],
            id="http-without-its-query",
        ),
        pytest.param(
            {
                "cluster": "inbound|1||",
                "method": "POST",
                "path": "/s/M",
                "status": 200,
                "is_grpc": True,
                "grpc_status": 12,
            },
            ["10.0.0.1 > 10.0.0.2:8080 grpc POST /s/M 404 yes"],
            id="grpc-unimplemented",
        ),
        pytest.param(
            {"cluster": "inbound|1||", "is_denied": True}, ["10.0.0.1 > 10.0.0.2:8080 tcp no denied"], id="denied"
        ),
    ],
)
def test_where_a_proxy_stands_decides_who_called_whom(facts: dict[str, object], expected: list[str]) -> None:
    assert lines(**facts) == expected


@pytest.mark.parametrize(
    ("server_name", "authority", "expected"),
    [
        ("api.test", "other.test", "api.test"),
        (None, "api.test:443", "api.test"),
        ("", "user@api.test", "api.test"),
        (None, "[2001:db8::1]", "[2001:db8::1]"),
        (None, None, None),
    ],
)
def test_the_name_is_what_tls_or_the_request_asked_for(
    server_name: str | None, authority: str | None, expected: str | None
) -> None:
    assert host_of(server_name, authority) == expected


def test_a_sidecar_tells_the_name_of_whom_its_workload_called_and_of_nobody_else() -> None:
    facts = {"start": NOW, "downstream": CALLER, "local": PROXY, "upstream": POD, "host": "api.test"}
    (out,) = flows_of(Exchange(**facts, cluster="outbound|443||api.test"), "envoy")  # type: ignore[arg-type]
    (into,) = flows_of(Exchange(**facts, cluster="inbound|8080||"), "envoy")  # type: ignore[arg-type]
    assert isinstance(out, Flow)
    assert isinstance(into, Flow)
    assert (out.host, into.host) == ("api.test", None)


def test_an_upstream_on_loopback_is_the_application_beside_the_proxy() -> None:
    found = Exchange(start=NOW, downstream=CALLER, local=PROXY, upstream=("127.0.0.1", 80))
    assert [seen(item) for item in flows_of(found, "envoy") if isinstance(item, Flow)] == [
        "10.0.0.1 > 10.0.0.2:8080 tcp yes"
    ]


def test_certificates_name_the_ends_of_their_own_connection_alone() -> None:
    found = Exchange(
        start=NOW, downstream=CALLER, local=PROXY, upstream=POD, peer_id="spiffe://a/b", local_id="spiffe://a/c"
    )
    near, far = flows_of(found, "envoy")
    assert isinstance(near, Flow)
    assert isinstance(far, Flow)
    assert (near.source, near.destination) == ("spiffe://a/b", "spiffe://a/c")
    assert (far.source, far.destination) == (None, None)
    assert near.verdict is not Verdict.DENIED


def test_without_an_address_there_is_no_callee() -> None:
    assert flows_of(Exchange(start=NOW, cluster="outbound|80||x"), "envoy") == [NO_CALLEE]
    assert flows_of(Exchange(start=NOW, cluster="inbound|80||x", local=("10.0.0.1", None)), "envoy") == [NO_CALLEE]


def test_an_address_from_a_header_is_nobodys() -> None:
    assert physical(("192.0.2.9", 0)) is physical(None) is physical(("192.0.2.9", None)) is None
    assert physical(CALLER) == CALLER
