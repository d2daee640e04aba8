"""The strict reader keeps reading after a finding, and takes what is missing in silence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.reading import MISSING, Reader, did_you_mean


def test_all_findings_of_one_rule_come_at_once() -> None:
    reader = Reader()
    assert reader.rule({"efect": "deny", "from": ["x"], "to": [{"ports": ["80"]}]}, ("rules", 0)) is None
    assert {item.code for item in reader.findings} == {"LM2002", "LM2003", "LM2006", "LM2010"}
    assert [item.path for item in reader.findings if item.code == "LM2010"] == [("rules", 0, "to", 0, "ports", 0)]


def test_what_is_missing_is_reported_once() -> None:
    reader = Reader()
    assert reader.grant({}, ()) is None
    assert [item.code for item in reader.findings] == ["LM2003", "LM2003"]
    for read in (reader.text, reader.port, reader.principals, reader.conditions, reader.moment, reader.method):
        assert read(MISSING, ()) is None
    assert len(reader.findings) == 2


@pytest.mark.parametrize(
    ("name", "hint"), [("efect", "; did you mean `effect`?"), ("zzz", ""), ("unles", "; did you mean `unless`?")]
)
def test_did_you_mean(name: str, hint: str) -> None:
    assert did_you_mean(name, ["effect", "from", "unless"]) == hint


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["id", "effect", "from", "to", "when", "unless", "ports", "paths", "hours", "tz", "claims", "issuer"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_values)
def test_nothing_is_raised_and_every_refusal_is_noted(value: object) -> None:
    for name in ("rule", "operation", "conditions", "unless", "hours", "claims", "headers", "grant", "service_port"):
        reader = Reader()
        found = getattr(reader, name)(value, ())
        assert found is not None or reader.findings


def test_every_kind_reads_what_is_right() -> None:
    reader = Reader()
    operation = {"ports": [80], "methods": ["GET"], "hosts": ["*.a.test"], "paths": ["/a/{x:int}"]}
    when = {
        "claims": {"issuer": "i", "roles": ["a", 1, False]},
        "headers": {"X-A": ["b"]},
        "peer_ip": ["10.0.0.0/8"],
        "forwarded_ip": ["fd00::/8"],
        "hours": {"tz": "UTC", "from": "08:00", "to": "07:59:59"},
        "rego": "data.shop.x",
    }
    rule = {
        "id": "r",
        "effect": "deny",
        "from": ["any"],
        "to": [operation],
        "when": when,
        "unless": {"from": ["any"], "when": {"rego": "data.shop.x"}},
        "evidence": {"n": [1.5]},
    }
    grant = {"from": ["any"], "service": "s", "to": [operation]}
    found = (
        reader.service(
            "s",
            "",
            {
                "identities": ["spiffe://t/a", "spiffe://t/b/**"],
                "ports": [{"port": 80, "protocol": "http", "websocket": True}],
                "mode": "observe",
                "until": "2027-01-01T00:00:00Z",
                "learn": True,
                "dataplane": "envoy",
            },
            (),
        ),
        reader.policy("p", "", {"service": "s", "tier": "app", "rules": [rule]}, ()),
        reader.group("g", "", {"members": ["any"]}, ()),
        reader.invariant("i", "", {"forbid": grant}, ()),
        reader.exception("e", "", {"rule": grant, "until": "2027-01-01T00:00:00Z", "reason": "r"}, ()),
    )
    assert None not in found
    assert reader.findings == []


@pytest.mark.parametrize(
    ("name", "value", "codes"),
    [
        ("service", {"identities": ["x"], "ports": [{"port": 1, "protocol": "ftp"}]}, ["LM2012", "LM2009"]),
        ("service", {"identities": 5, "ports": 5, "learn": "yes"}, ["LM2004", "LM2004", "LM2004"]),
        ("service", {"identities": ["spiffe://t/a"], "ports": [{"port": 1, "protocol": "tcp"}] * 2}, ["LM2011"]),
        ("service", {"identities": ["spiffe://t/a"], "ports": [{"port": 53, "protocol": "udp"}]}, ["LM2041"]),
        (
            "service",
            {"identities": ["spiffe://t/a"], "ports": [{"port": 1, "protocol": "grpc", "websocket": True}]},
            ["LM2042"],
        ),
        (
            "service",
            {"identities": ["spiffe://t/a"], "ports": [{"port": 1, "protocol": "http", "websocket": "yes"}]},
            ["LM2004"],
        ),
        ("policy", {"service": "a b", "tier": "x", "rules": 5}, ["LM2020", "LM2009", "LM2004"]),
        ("policy", [], ["LM2004"]),
        ("group", {"members": [5]}, ["LM2004"]),
        ("invariant", {"forbid": {"from": ["any"], "service": 5}}, ["LM2004"]),
        ("exception", {"rule": 5, "until": 5, "reason": 5}, ["LM2004", "LM2004", "LM2004"]),
    ],
)
def test_every_kind_refuses_what_is_wrong(name: str, value: object, codes: list[str]) -> None:
    reader = Reader()
    assert getattr(reader, name)("n", "", value, ()) is None
    assert [item.code for item in reader.findings] == codes


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("evidence", 5, "LM2004"),
        ("evidence", {"n": float("nan")}, "LM2004"),
        ("claim_value", 1.5, "LM2004"),
        ("headers", 5, "LM2004"),
        ("headers", {"a b": ["c"]}, "LM2015"),
        ("moment", "2026-01-01", "LM2016"),
        ("moment", 5, "LM2004"),
        ("flag", None, "LM2004"),
    ],
)
def test_single_values_are_refused(name: str, value: object, code: str) -> None:
    reader = Reader()
    getattr(reader, name)(value, ())
    assert [item.code for item in reader.findings] == [code]
