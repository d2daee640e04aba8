"""SPIFFE_Trust_Domain_and_Bundle.md, statement by statement: B-1 to B-12 and BM-1 to BM-6."""

import base64
import json
from typing import Any

import pytest

from mesh.bundle import TrustBundle, parse_bundle, parse_bundle_map, write_bundle_map
from mesh.problems import Invalid
from mesh.x509svid import SvidError, verify_x509_svid
from tests.mesh.test_jwtsvid import bundle as jwt_bundle
from tests.pki import NOW, Pki

PKI = Pki()
TD = PKI.domain
P = pytest.param
ELEMENT: dict[str, Any] = {
    "kty": "EC", "use": "x509-svid", "x5c": [base64.b64encode(PKI.root.der).decode()],
}  # fmt: skip
BOTH = TrustBundle(
    trust_domain=TD, x509_authorities=(PKI.root.der,), jwt_authorities=jwt_bundle()[TD].jwt_authorities,
    sequence=7, refresh_hint=60,
)  # fmt: skip


def parsed(**document: Any) -> TrustBundle:
    return parse_bundle(TD, json.dumps(document).encode())


@pytest.mark.parametrize(
    "data",
    [
        P(b"[]", id="B-1-list"),
        P(b"{", id="B-1-no-json"),
        P(b'{"keys":[],"keys":[]}', id="B-1-twice"),
        P(b'{"keys":[],"spiffe_sequence":"1"}', id="B-3-text"),
        P(b'{"keys":[],"spiffe_sequence":true}', id="B-3-true"),
        P(b'{"keys":[],"spiffe_refresh_hint":1.5}', id="B-5-fraction"),
        P(b"{}", id="B-6"),
        P(b'{"keys":null}', id="B-6-null"),
    ],
)
def test_refuses(data: bytes) -> None:
    with pytest.raises(Invalid, match="LM1001"):
        parse_bundle(TD, data)


@pytest.mark.parametrize(
    ("document", "count"),
    [
        P({"keys": [ELEMENT]}, 1, id="B-1"),
        P({"keys": [ELEMENT], "anything": {"x": 1}}, 1, id="B-2"),
        P({"keys": [{**ELEMENT, "kty": "odd"}, ELEMENT]}, 1, id="B-7-kty"),
        P({"keys": [{**ELEMENT, "use": "odd"}, ELEMENT]}, 1, id="B-7-use"),
        P({"keys": [{**ELEMENT, "use": "X509-SVID"}]}, 0, id="B-10-case"),
        P({"keys": [{key: ELEMENT[key] for key in ("kty", "x5c")}, ELEMENT]}, 1, id="B-11"),
        P({"keys": [{**ELEMENT, "x5c": []}, {"kty": "EC", "use": "x509-svid"}]}, 0, id="X-29"),
        P({"keys": [{**ELEMENT, "x5c": [*ELEMENT["x5c"], "!"]}]}, 1, id="X-30"),
    ],
)
def test_reads(document: dict[str, Any], count: int) -> None:
    assert len(parsed(**document).x509_authorities) == count


@pytest.mark.parametrize("number", [P(0, id="B-3"), P(2**63 - 1, id="B-4-63-bits")])
def test_sequences(number: int) -> None:
    assert parsed(keys=[], spiffe_sequence=number).sequence == number
    assert json.loads(BOTH.to_json())["spiffe_sequence"] == 7


@pytest.mark.parametrize(
    "keys", [P([], id="B-8"), P([{**ELEMENT, "use": "odd"}], id="B-8-none-usable"), P([], id="X-31")]
)
def test_a_bundle_without_keys_verifies_nothing(keys: list[Any]) -> None:
    leaf = PKI.leaf()
    assert verify_x509_svid([leaf.der], {TD: PKI.bundle()}, NOW)
    with pytest.raises(SvidError, match="LM1018"):
        verify_x509_svid([leaf.der], {TD: parsed(keys=keys)}, NOW)


@pytest.mark.parametrize("statement", ["B-5", "B-9", "B-10", "X-26", "X-27", "X-28"])
def test_writes(statement: str) -> None:
    document = json.loads(BOTH.to_json())
    first, second = document["keys"]
    assert {
        "B-5": document["spiffe_refresh_hint"] == 60,
        "B-9": (first["kty"], second["kty"]) == ("EC", "EC"),
        "B-10": (first["use"], second["use"]) == ("x509-svid", "jwt-svid"),
        "X-26": first["use"] == "x509-svid",
        "X-27": "kid" not in first,
        "X-28": [base64.b64decode(item) for item in first["x5c"]] == [PKI.root.der],
    }[statement]


@pytest.mark.parametrize("statement", [P("contents", id="B-4")])
def test_other_contents_have_another_name(statement: str) -> None:
    assert BOTH.digest != PKI.bundle().digest


@pytest.mark.parametrize("hint", [P(None, id="B-12")])
def test_the_default_refresh_is_low(hint: None) -> None:
    assert parsed(keys=[]).refresh_seconds == 300


OTHER = Pki("other.test").bundle()


@pytest.mark.parametrize(
    "data",
    [
        P(b"{}", id="BM-1"),
        P(b'{"trust_domains":[]}', id="BM-1-list"),
        P(b'{"trust_domains":{"a":{"keys":[]},"a":{"keys":[]}}}', id="BM-3"),
        P(b'{"trust_domains":{"A":{"keys":[]}}}', id="BM-3-no-name"),
        P(b'{"trust_domains":{"a":{"keys":[]},"b":{}}}', id="BM-6"),
        P(b" " * ((4 << 20) + 1), id="BM-6-large"),
    ],
)
def test_refuses_a_map(data: bytes) -> None:
    with pytest.raises(Invalid, match=r"LM1032|LM1001"):
        parse_bundle_map(data)


@pytest.mark.parametrize("data", [P(b'{"trust_domains":{}}', id="BM-1-empty")])
def test_a_map_may_be_empty(data: bytes) -> None:
    assert parse_bundle_map(data) == {}


@pytest.mark.parametrize("statement", ["BM-2", "BM-4", "BM-5"])
def test_maps(statement: str) -> None:
    document = json.loads(write_bundle_map([BOTH, OTHER]))
    assert set(document["trust_domains"]) == {"corp.test", "other.test"}
    if statement == "BM-2":
        with pytest.raises(ValueError, match="once"):
            write_bundle_map([BOTH, BOTH])
    if statement == "BM-4":
        assert all("spiffe_refresh_hint" not in found for found in document["trust_domains"].values())
    if statement == "BM-5":
        document["trust_domains"]["corp.test"]["spiffe_refresh_hint"] = 1
        # what comes back is bundles alone: a map has no refresh of its own to change
        assert set(parse_bundle_map(json.dumps(document).encode())) == {TD, OTHER.trust_domain}
