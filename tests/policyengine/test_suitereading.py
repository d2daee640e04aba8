"""A policy test is read as strictly as a policy, and all its findings come at once."""

import pytest

from policyengine.reading import Reader
from policyengine.suitereading import read_test

CASE = {"name": "a", "given": {"source": None, "service": "db"}, "expect": "deny", "because": "b"}


def codes(spec: object) -> list[str]:
    reader = Reader()
    found = read_test(reader, "t", "", spec, ("spec",))
    assert found is not None or reader.findings
    return [item.code for item in reader.findings]


def given(**fields: object) -> dict[str, object]:
    return {"cases": [{**CASE, "given": {**CASE["given"], **fields}}]}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"cases": [CASE]}, []),
        ({}, ["LM2003"]),
        (5, ["LM2004"]),
        ({"cases": []}, ["LM2005"]),
        ({"cases": [5]}, ["LM2004"]),
        ({"cases": [{}]}, ["LM2003"] * 4),
        ({"cases": [CASE], "case": 1}, ["LM2002"]),
        ({"cases": [{**CASE, "name": "a b"}]}, ["LM2020"]),
        ({"cases": [{**CASE, "expect": "allowed"}]}, ["LM2009"]),
        ({"cases": [{**CASE, "expect": "pass"}]}, ["LM2009"]),
        ({"cases": [{**CASE, "expect": {}}]}, ["LM2003"]),
        ({"cases": [{**CASE, "expect": {"decision": "deny", "tier": "top", "rules": "x"}}]}, ["LM2002", "LM2009"]),
        ({"cases": [{**CASE, "because": 5}]}, ["LM2004"]),
        ({"cases": [{**CASE, "given": {"service": "db"}}]}, ["LM2003"]),
        ({"cases": [{**CASE, "given": {"source": None}}]}, ["LM2003"]),
        ({"given": {"source": None, "service": "db"}, "cases": [{**CASE, "given": {}}]}, []),
        ({"given": {"port": "x"}, "cases": [CASE]}, ["LM2010"]),
        ({"given": {"prot": 1}, "cases": [{**CASE, "given": {}}]}, ["LM2002"]),
        (given(port=0), []),
        (given(port=-1), ["LM2010"]),
        (given(port=None), ["LM2010"]),
        (given(protocol="udp"), ["LM2009"]),
        (given(method=5, path=5, host=5, peer_ip=5, forwarded_ip=5), ["LM2004"] * 5),
        (given(path="/\xff;x", method="g t"), []),
        (given(headers={"a": "b"}), []),
        (given(headers={"a": 5}), ["LM2004"]),
        (given(headers=[["a", "b"], ["a", "c"]]), []),
        (given(headers=[["a"], "b"]), ["LM2004", "LM2004"]),
        (given(claims=None), []),
        (given(claims={"iss": "i", "x": [1, {"y": None}]}), []),
        (given(claims=[]), ["LM2004"]),
        (given(time="tomorrow"), ["LM2016"]),
        (given(unknown=["claims"]), []),
        (given(unknown=[5]), ["LM2004"]),
    ],
)  # fmt: skip
def test_findings(spec: object, expected: list[str]) -> None:
    assert codes(spec) == expected


def test_every_field_of_a_request_arrives() -> None:
    fields = {
        "source": "spiffe://corp.test/x",
        "service": "db",
        "port": 8080,
        "protocol": "http",
        "method": "GET",
        "host": "h",
        "path": "/",
        "headers": {"a": "b"},
        "claims": {"iss": "i"},
        "peer_ip": "10.0.0.1",
        "forwarded_ip": "10.0.0.2",
        "time": "2026-11-24T12:00:00Z",
        "unknown": ["claims"],
    }
    found = read_test(Reader(), "t", "o", {"cases": [{**CASE, "given": fields}]}, ())
    assert found is not None
    given = found.cases[0].given
    assert given.fields["headers"] == (("a", "b"),)
    assert given.fields["unknown"] == {"claims"}
    assert all(given.fields[name] is not None for name in fields)
