import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from mesh.bundle import DEFAULT_REFRESH_HINT_S, TrustBundle, parse_bundle
from mesh.problems import Invalid
from mesh.spiffe import TrustDomain
from tests.pki import Pki, make, usage
from tests.rsakeys import rsa_key

PKI = Pki()
TD = PKI.domain
X5C = base64.b64encode(PKI.root.der).decode()
ELEMENT = {"kty": "EC", "crv": "P-256", "x": "a", "y": "b", "use": "x509-svid", "x5c": [X5C]}


def parse(document: object) -> TrustBundle:
    return parse_bundle(TD, json.dumps(document).encode())


def test_a_bundle_round_trips_and_says_what_the_standard_asks() -> None:
    bundle = TrustBundle(
        trust_domain=TD,
        x509_authorities=(PKI.root.der,),
        jwt_authorities=(b'{"crv":"P-256","kid":"k1","kty":"EC","x":"a","y":"b"}',),
        sequence=7,
        refresh_hint=60,
    )
    document = json.loads(bundle.to_json())
    assert document["spiffe_sequence"] == 7
    x509_key, jwt_key = document["keys"]
    assert (x509_key["use"], x509_key["kty"], len(x509_key["x5c"]), "kid" in x509_key) == ("x509-svid", "EC", 1, False)
    assert (jwt_key["use"], jwt_key["kid"]) == ("jwt-svid", "k1")
    assert parse_bundle(TD, bundle.to_json()) == bundle


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        rsa_key(),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["P-384", "RSA", "Ed25519"],
)
def test_B_9_every_key_kind_has_its_kty(key: object) -> None:
    from cryptography.hazmat.primitives import hashes

    algorithm = None if not isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    if algorithm is not None:
        pytest.importorskip("cryptography")
        from cryptography import x509

        made = PKI.root
        builder = x509.CertificateBuilder(
            made.certificate.issuer,
            made.certificate.subject,
            key.public_key(),  # type: ignore[attr-defined]
            1,
            made.certificate.not_valid_before_utc,
            made.certificate.not_valid_after_utc,
        )
        from cryptography.hazmat.primitives.serialization import Encoding

        der = builder.sign(key, None).public_bytes(Encoding.DER)  # type: ignore[arg-type]
    else:
        der = make(subject="x", ca=True, key_usage=usage(key_cert_sign=True), key=key).der  # type: ignore[arg-type]
    bundle = TrustBundle(trust_domain=TD, x509_authorities=(der,))
    assert parse_bundle(TD, bundle.to_json()).x509_authorities == (der,)


@pytest.mark.parametrize(
    ("element", "kept"),
    [
        pytest.param(ELEMENT, 1, id="X-28-one-certificate"),
        pytest.param(ELEMENT | {"x5c": [X5C, "junk"]}, 1, id="X-30-only-the-first-counts"),
        pytest.param(ELEMENT | {"x5c": []}, 0, id="X-29-empty-x5c"),
        pytest.param({k: v for k, v in ELEMENT.items() if k != "x5c"}, 0, id="X-29-no-x5c"),
        pytest.param(ELEMENT | {"x5c": ["junk!"]}, 0, id="X-29-unreadable"),
        pytest.param(ELEMENT | {"use": "X509-SVID"}, 0, id="B-10-use-is-case-sensitive"),
        pytest.param({k: v for k, v in ELEMENT.items() if k != "use"}, 0, id="B-11-no-use"),
        pytest.param(ELEMENT | {"use": "wit-svid"}, 0, id="B-7-unknown-use"),
        pytest.param(ELEMENT | {"kty": "QUANTUM"}, 0, id="B-7-unknown-kty"),
        pytest.param("text", 0, id="B-7-no-object"),
    ],
)
def test_elements_are_kept_or_ignored_alone(element: object, kept: int) -> None:
    found = parse({"keys": [element, ELEMENT | {"use": "unknown"}]})
    assert len(found.x509_authorities) == kept


@pytest.mark.parametrize(
    ("element", "kept"),
    [
        pytest.param({"kty": "EC", "use": "jwt-svid", "kid": "a", "x": "1"}, 1, id="J-18-with-kid"),
        pytest.param({"kty": "EC", "use": "jwt-svid", "x": "1"}, 0, id="J-18-without-kid"),
        pytest.param({"kty": "EC", "use": "jwt-svid", "kid": ""}, 0, id="J-18-empty-kid"),
    ],
)
def test_jwt_keys(element: object, kept: int) -> None:
    assert len(parse({"keys": [element]}).jwt_authorities) == kept


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b'{"spiffe_sequence": 1}', id="B-6-no-keys"),
        pytest.param(b"[]", id="B-1-no-object"),
        pytest.param(b'{"keys": [], "keys": []}', id="B-1-key-twice"),
        pytest.param(b'{"keys": [], "spiffe_sequence": -1}', id="B-3-negative"),
        pytest.param(b'{"keys": [], "spiffe_sequence": true}', id="B-3-bool"),
        pytest.param(b'{"keys": [], "spiffe_refresh_hint": "60"}', id="B-5-text"),
        pytest.param(b"\xff\xfe", id="B-1-no-utf-8"),
        pytest.param(b"[" * 100_000, id="B-1-deep"),
        pytest.param(b'{"keys": [' + b" " * (4 << 20) + b"]}", id="B-1-too-large"),
    ],
)
def test_a_malformed_document_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid, match="LM1001"):
        parse_bundle(TD, data)


def test_B_2_B_4_B_8_B_12_the_rest_of_the_document() -> None:
    found = parse({"keys": [], "spiffe_sequence": 2**63 - 1, "anything": {"else": 1}})
    assert (found.sequence, found.x509_authorities, found.refresh_seconds) == (2**63 - 1, (), DEFAULT_REFRESH_HINT_S)


def test_the_digest_names_keys_whatever_their_order() -> None:
    other = Pki("corp.test").root.der
    one = TrustBundle(trust_domain=TD, x509_authorities=(PKI.root.der, other), sequence=1)
    two = TrustBundle(trust_domain=TD, x509_authorities=(other, PKI.root.der), sequence=2)
    assert one.digest == two.digest
    assert one.digest != TrustBundle(trust_domain=TrustDomain("x"), x509_authorities=one.x509_authorities).digest


@given(st.binary(max_size=300))
def test_any_bytes_are_a_bundle_or_refused(data: bytes) -> None:
    try:
        parse_bundle(TD, data)
    except Invalid as err:
        assert err.code == "LM1001"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda c: st.lists(c) | st.dictionaries(st.sampled_from(["keys", "kty", "use", "x5c", "kid"]), c),
        max_leaves=12,
    )
)
def test_any_json_is_a_bundle_or_refused(value: object) -> None:
    try:
        parse_bundle(TD, json.dumps(value).encode())
    except Invalid as err:
        assert err.code == "LM1001"


@pytest.mark.parametrize(
    "element",
    [
        pytest.param(b'{"kty":[],"use":"x509-svid"}', id="B-7-kty-is-a-list"),
        pytest.param(b'{"kty":{},"use":"jwt-svid","kid":"a"}', id="B-7-kty-is-a-map"),
        pytest.param(b'{"kty":"EC","use":"jwt-svid","kid":"\\ud800"}', id="lone-surrogate"),
        pytest.param(b'{"kty":"EC","use":"jwt-svid","kid":"a","x":' + b"[" * 960 + b"]" * 960 + b"}", id="deep"),
    ],
)
def test_an_odd_element_is_ignored_alone(element: bytes) -> None:
    data = b'{"keys":[' + element + b"," + json.dumps(ELEMENT).encode() + b"]}"
    try:
        assert parse_bundle(TD, data).x509_authorities == (PKI.root.der,)
    except Invalid as err:
        # how deep is too deep depends on the stack: the document may be refused as a whole
        assert (err.code, b"[[[" in element) == ("LM1001", True)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_B_1_what_json_has_not_is_refused(number: str) -> None:
    with pytest.raises(Invalid, match="LM1001"):
        parse_bundle(TD, b'{"keys":[{"kty":"EC","use":"jwt-svid","kid":"a","x":%b}]}' % number.encode())


def test_a_curve_that_jwk_has_no_name_for_is_called_no_other() -> None:
    der = make(
        subject="x", ca=True, key_usage=usage(key_cert_sign=True), key=ec.generate_private_key(ec.BrainpoolP256R1())
    ).der
    (element,) = json.loads(TrustBundle(trust_domain=TD, x509_authorities=(der,)).to_json())["keys"]
    assert (element["kty"], element.get("crv")) == ("EC", None)


@pytest.mark.parametrize("rule", ["B-1", "B-3", "B-5", "B-6", "B-9", "B-10", "J-17", "J-18", "X-26", "X-27", "X-28"])
def test_every_document_we_write_obeys(rule: str) -> None:
    bundle = TrustBundle(
        trust_domain=TD,
        x509_authorities=(PKI.root.der, Pki().root.der),
        jwt_authorities=(b'{"crv":"P-256","kid":"k1","kty":"EC","x":"a","y":"b"}',),
        sequence=2**63 - 1,
        refresh_hint=60,
    )
    document = json.loads(bundle.to_json())
    one, other, jwt_key = document["keys"]
    x509_keys = (one, other)
    assert {
        "B-1": isinstance(document, dict) and all(isinstance(key, dict) for key in document["keys"]),
        "B-3": document["spiffe_sequence"] == 2**63 - 1,
        "B-5": document["spiffe_refresh_hint"] == 60,
        "B-6": "keys" in json.loads(TrustBundle(trust_domain=TD).to_json()),
        "B-9": all(key["kty"] for key in document["keys"]),
        "B-10": {key["use"] for key in document["keys"]} == {"x509-svid", "jwt-svid"},
        "J-17": jwt_key["use"] == "jwt-svid",
        "J-18": jwt_key["kid"] == "k1",
        "X-26": all(key["use"] == "x509-svid" for key in x509_keys),
        "X-27": all("kid" not in key for key in x509_keys),
        "X-28": all(len(key["x5c"]) == 1 for key in x509_keys),
    }[rule]
