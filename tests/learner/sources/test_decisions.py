import datetime as dt
import json
import pathlib

from audit.record import record
from tests.learner.sources.accounts import read_text, seen

NOW = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)


def row(kind: str = "decision", **facts: object) -> str:
    """A record as sidecars make them (enforcer.native.records)."""
    fields: dict[str, object] = {
        "direction": "inbound",
        "caller": "spiffe://corp.test/ns/shop/sa/cart",
        "destination": "spiffe://corp.test/ns/shop/sa/db",
        "port": 8080,
        "peer_ip": "10.0.0.1",
        "protocol": "http",
        "decision": "allow",
        "policy_decision": "allow",
        "method": "GET",
        "path": "/orders?x=1",
    }
    return json.dumps(record(kind, now=NOW, random=bytes(10), source="sidecar-1", **(fields | facts)))


def test_what_leaves_the_mesh_is_told_by_the_caller_with_the_name_that_was_asked_for(tmp_path: pathlib.Path) -> None:
    out = {"direction": "outbound", "protocol": "tcp", "method": None, "path": None, "port": 443}
    there = {**out, "tier": "egress", "destination": "192.0.2.7:443"}
    text = "\n".join(
        [
            row(**there, rule="dns:*.example.org", facts={"name": "a.example.org"}),
            row(**there, rule="dns:api.example.com"),
            row(**there, rule="cidr:192.0.2.0/24"),
            row(
                **out, destination="[2001:db8::1]:443", code="LM3230", decision="deny", policy_decision="deny",
                facts={"name": "evil.test"},
            ),
            row(**there, rule="dns:*.example.org") ,
            row(**{**there, "destination": "nowhere"}),
        ]
    )  # fmt: skip
    flows, account = read_text(tmp_path, text)
    assert [(flow.host, flow.destination_ip, flow.established) for flow in flows] == [
        ("a.example.org", "192.0.2.7", True),
        ("api.example.com", "192.0.2.7", True),
        (None, "192.0.2.7", True),
        ("evil.test", "2001:db8::1", False),
        (None, "192.0.2.7", True),
    ]
    assert {flow.source for flow in flows} == {"spiffe://corp.test/ns/shop/sa/cart"}
    assert account.unreadable == 1


def test_decisions_of_the_called_side_are_flows_with_what_was_decided(tmp_path: pathlib.Path) -> None:
    text = "\n".join(
        [
            row(),
            row(decision="deny", policy_decision="deny", caller=None),
            row(policy_decision="deny"),
            row(direction="outbound"),
            row("change"),
            row("lost", records=12),
            row(decision="maybe"),
            row(protocol="smtp"),
        ]
    )
    flows, account = read_text(tmp_path, text)
    assert account.source == "decisions"
    assert [seen(flow) for flow in flows] == [
        "10.0.0.1 > None:8080 http GET /orders yes allowed",
        "10.0.0.1 > None:8080 http GET /orders no denied",
        "10.0.0.1 > None:8080 http GET /orders yes would-deny",
    ]
    assert flows[0].source == "spiffe://corp.test/ns/shop/sa/cart"
    assert (account.lost, account.unreadable, account.seen) == (12, 2, 8)
