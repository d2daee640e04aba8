"""Records of every kind that Limen makes, as its log has them, and random ones of kinds that nobody knows yet."""

import json
from typing import Any

from hypothesis import strategies as st

from audit.record import record, to_bytes
from tests.audit.making import START

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SERVER = "server:corp.test"
REQUEST: dict[str, Any] = {
    "direction": "inbound",
    "caller": "spiffe://corp.test/ns/shop/sa/cart",
    "destination": "spiffe://corp.test/ns/shop/sa/db",
    "port": 8080,
    "peer_ip": "10.0.0.1",
    "protocol": "http",
    "method": "GET",
    "host": "db.corp.test",
    "path": "/orders/1?page=2",
    "decision": "allow",
    "policy_decision": "allow",
    "mode": "enforce",
    "snapshot": "sha256:" + "a" * 64,
    "tier": "app",
    "policy": "shop-db",
    "rule": "orders",
    "code": "LM2301",
    "candidate": None,
}
DENIED = {
    **REQUEST,
    "decision": "deny",
    "policy_decision": "deny",
    "tier": "",
    "policy": "",
    "rule": "",
    "code": "LM2300",
}
OBSERVED = {**REQUEST, "policy_decision": "deny", "mode": "observe", "code": "LM2310"}
CONNECTION = {name: value for name, value in REQUEST.items() if name not in {"method", "host", "path"}} | {
    "protocol": "tcp"
}
SAMPLES: dict[str, dict[str, Any]] = {
    "request": {"kind": "decision", **REQUEST, "trace_id": TRACE, "span_id": SPAN},
    "request of IPv6": {"kind": "decision", **REQUEST, "peer_ip": "2001:db8::1"},
    "request with a candidate": {"kind": "decision", **REQUEST, "candidate": {"decision": "deny", "rule": "r"}},
    "denied": {"kind": "decision", **DENIED},
    "observed": {"kind": "decision", **OBSERVED},
    "connection": {"kind": "decision", **CONNECTION},
    "refused connection": {"kind": "decision", **CONNECTION, "decision": "deny", "caller": None, "peer_ip": None},
    "refused handshake": {"kind": "decision", "decision": "deny", "code": "LM3101", "facts": {"reason": "expired"}},
    "call": {"kind": "decision", **REQUEST, "protocol": "grpc", "method": "POST", "path": "/shop.Orders/Get"},
    "refused identity": {
        "kind": "decision",
        "direction": "workload-api",
        "decision": "deny",
        "policy_decision": "deny",
        "code": "LM3502",
        "facts": {"pid": 4711, "uid": 1000},
    },
    "person": {
        "kind": "decision",
        **REQUEST,
        "direction": "authzen",
        "caller": None,
        "subject_type": "user",
        "sub": "hmac:0123",
        "actor": "spiffe://corp.test/ns/web/sa/portal",
    },
    "search": {"kind": "search", "direction": "authzen", "search": "subject", "decided": 3, "actor": "a", "port": 80},
    "certificate": {
        "kind": "issuance",
        "actor": "node-1",
        "spiffe_id": "spiffe://corp.test/ns/shop/sa/db",
        "serial": "1f",
        "sha256": "ab" * 32,
        "rule": "shop",
        "not_after": "2026-11-24T13:00:00.000000Z",
    },
    "token": {
        "kind": "issuance",
        "actor": "node-1",
        "spiffe_id": "spiffe://corp.test/x",
        "jti": "j",
        "audience": ["a"],
    },
    "acme": {"kind": "issuance", "actor": "acme:1", "event": "acme", "names": ["a.corp.test"], "serial": "2f"},
    "revocation": {"kind": "ca", "actor": "root", "event": "revoke", "serial": "1f", "reason": "stolen"},
    "authority": {"kind": "ca", "actor": "server", "event": "authority", "authority": "x509-1", "of": "issuing"},
    "federation": {
        "kind": "ca",
        "actor": "root",
        "event": "federation-add",
        "trust_domain": "b.test",
        "url": "https://b",
    },
    "join": {"kind": "agent", "actor": "node-1", "event": "join", "serial": "3f"},
    "agent's refusal": {"kind": "agent", "actor": "node-1", "event": "refusal", "code": "LM2420", "detail": "epoch"},
    "rules": {"kind": "policy", "actor": "server", "event": "identity-rules", "sha256": "cd" * 32, "rules": 3},
    "proposal": {"kind": "review", "actor": "root", "event": "propose", "review": "r1", "snapshot": "sha256:b"},
    "approval": {"kind": "review", "actor": "root", "event": "approve", "review": "r1", "key_ids": ["k1", "k2"]},
    "activation": {"kind": "snapshot", "actor": "root", "event": "activate", "review": "r1", "epoch": 2},
    "login": {"kind": "login", "actor": "anna", "event": "login", "outcome": "failure"},
    "export": {"kind": "export", "actor": "server", "event": "begin", "export": "siem", "to": "file:/a"},
    "lost": {"kind": "lost", "records": 7},
    "unknown kind": {"kind": "tomorrow", "colour": {"red": 1}, "list": [1, "x", None], "yes": True},
    "wrong types": {
        "kind": "decision",
        "decision": "allow",
        "caller": 1,
        "destination": ["x"],
        "port": "8080",
        "peer_ip": "nowhere",
        "method": 3,
        "path": {},
        "host": None,
        "protocol": 5,
        "policy": [],
        "rule": {"a": 1},
        "trace_id": "0" * 32,
        "code": 7,
    },
    "unfriendly texts": {
        "kind": "decision",
        **REQUEST,
        "path": '/a|b=c\\d"e]f\n<g>\u2028\x00\x7f é \U0001f600?x=\r\n&=\\',
        "policy": 'p"]\\=|',
        "rule": "r\tr",
        "code": "LM|=\\",
    },
}


def sample(name: str) -> tuple[int, bytes]:
    """One of the samples, at its place."""
    fields = dict(SAMPLES[name])
    kind, number = fields.pop("kind"), list(SAMPLES).index(name)
    made = record(kind, now=START, random=number.to_bytes(10, "big"), source=fields.pop("source", SERVER), **fields)
    return number, to_bytes(made)


def samples() -> list[tuple[int, bytes]]:
    """All samples, in their order."""
    return [sample(name) for name in SAMPLES]


_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)
_NAMES = sorted({name for fields in SAMPLES.values() for name in fields} - {"kind", "source"})


@st.composite
def any_record(draw: st.DrawFn) -> tuple[int, bytes]:
    """A record of any kind whose fields, known and unknown, hold anything."""
    kind = draw(st.sampled_from(["decision", "issuance", "ca", "review", "lost", "login", "search"]) | _TEXT)
    base = draw(st.sampled_from([{}, REQUEST, CONNECTION]))
    more = draw(st.dictionaries(st.sampled_from(_NAMES) | _TEXT, _VALUES, max_size=6))
    reserved = {"schema", "id", "time", "kind", "source", "now", "random"}
    fields = {name: value for name, value in {**base, **more}.items() if name not in reserved}
    source = draw(st.sampled_from([SERVER, "spiffe://corp.test/ns/shop/sa/db"]) | _TEXT)
    made = record(kind, now=START, random=bytes(10), source=source)
    return draw(st.integers(0, 10**12)), to_bytes({**made, **fields})


def leaves(value: object) -> list[object]:
    """Every scalar in a JSON value that says something."""
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [] if value is None or value == "" else [value]


def as_json(data: bytes) -> dict[str, Any]:
    found = json.loads(data)
    assert isinstance(found, dict)
    return found
