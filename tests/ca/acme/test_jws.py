import base64
import json

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from ca.acme import jws
from mesh.problems import Invalid
from tests.acmeclient import jwk_of, sign
from tests.rsakeys import rsa_key

KEY = ec.generate_private_key(ec.SECP256R1())
HEADER = {"alg": "ES256", "nonce": "bg", "url": "https://a/x", "jwk": jwk_of(KEY)}
GOOD = sign(KEY, HEADER, b"{}")


def test_a_sound_message_passes() -> None:
    message = jws.read(GOOD)
    jws.verify(message, jws.key_of(message.jwk or {}))
    assert message.body == {}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"alg": "none"}, "LM1402"),
        ({"alg": "HS256"}, "LM1402"),
        ({"alg": "PS256"}, "LM1402"),
        ({"alg": None}, "LM1400"),
        ({"nonce": None}, "LM1401"),
        ({"url": 7}, "LM1400"),
        ({"kid": "https://a/1"}, "LM1400"),
        ({"jwk": "text"}, "LM1400"),
        ({"crit": ["x"]}, "LM1400"),
        ({"b64": False}, "LM1400"),
    ],
    ids=str,
)
def test_a_header_that_breaks_a_rule_is_refused(change: dict[str, object], code: str) -> None:
    with pytest.raises(Invalid) as found:
        jws.read(sign(KEY, {**HEADER, **change}, b"{}"))
    assert found.value.code == code


def test_a_message_without_jwk_and_kid_is_refused() -> None:
    header = {name: value for name, value in HEADER.items() if name != "jwk"}
    with pytest.raises(Invalid, match="LM1400"):
        jws.read(sign(KEY, header, b"{}"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"protected":"","payload":"","signature":"","signature":""}',
        GOOD.replace(b"}", b',"header":{}}'),
        GOOD.replace(b'"payload": "', b'"payload": "='),
        b'{"protected":{},"payload":"","signature":""}',
        b"[" * 60000,
        b"x" * 70000,
    ],
    ids=range(9),
)
def test_what_is_no_flattened_message_is_refused(body: bytes) -> None:
    with pytest.raises(Invalid, match="LM1400"):
        jws.read(body)


def test_a_key_that_stands_twice_in_the_header_is_refused() -> None:
    found = json.loads(GOOD)
    twice = b'{"alg":"ES256","alg":"ES256","nonce":"bg","url":"https://a/x","kid":"k"}'
    found["protected"] = jws.encode(twice)
    with pytest.raises(Invalid, match="LM1400"):
        jws.read(json.dumps(found).encode())


def test_bits_that_belong_to_nothing_are_refused() -> None:
    assert base64.urlsafe_b64decode("QR==") == b"A"
    with pytest.raises(Invalid, match="LM1400"):
        jws.decode("QR", "x")


def test_another_keys_signature_is_refused() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(Invalid, match="LM1400"):
        jws.verify(jws.read(GOOD), other.public_key())
    with pytest.raises(Invalid, match="LM1402"):
        jws.verify(jws.read(GOOD), ec.generate_private_key(ec.SECP384R1()).public_key())


def test_rsa_and_ed25519_keys_sign_too() -> None:
    big = rsa_key()
    n = big.public_key().public_numbers().n
    jwk = {"kty": "RSA", "n": jws.encode(n.to_bytes(256)), "e": "AQAB"}
    for key, alg, found in (
        (big, "RS256", jwk),
        (small := ed25519.Ed25519PrivateKey.generate(), "EdDSA", {"kty": "OKP", "crv": "Ed25519", "x": ""}),
    ):
        if found["kty"] == "OKP":
            found["x"] = jws.encode(small.public_key().public_bytes_raw())
        signed = jws.encode(json.dumps({**HEADER, "alg": alg, "jwk": found}).encode()) + "."
        made = (
            key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
            if isinstance(key, rsa.RSAPrivateKey)
            else key.sign(signed.encode())
        )
        body = {"protected": signed[:-1], "payload": "", "signature": jws.encode(made)}
        jws.verify(message := jws.read(json.dumps(body).encode()), jws.key_of(message.jwk or {}))


@pytest.mark.parametrize(
    "jwk",
    [
        {},
        {"kty": "oct", "k": "AA"},
        {"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {**jwk_of(KEY), "y": jwk_of(KEY)["x"]},
        {**jwk_of(KEY), "d": "AA"},
        {"kty": "RSA", "n": jws.encode(b"\xff" * 128), "e": "AQAB"},
        {"kty": "RSA", "n": jws.encode(b"\xff" * 256), "e": "Aw"},
        {"kty": "RSA", "n": jws.encode(b"\xff" * 1024), "e": "AQAB"},
        {"kty": "OKP", "crv": "X25519", "x": "AA"},
        {"kty": ["EC"]},
    ],
    ids=range(11),
)
def test_a_key_that_is_none_of_ours_is_refused(jwk: dict[str, object]) -> None:
    with pytest.raises(Invalid, match="LM1412"):
        jws.key_of(jwk)


def test_the_thumbprint_is_the_one_of_rfc_7638() -> None:
    jwk = {**jwk_of(KEY), "alg": "ES256", "kid": "x"}
    assert jws.thumbprint(jwk) == jws.thumbprint(jwk_of(KEY))


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_message_with_one_byte_changed_is_refused_or_the_same(at: int, byte: int) -> None:
    changed = GOOD[:at] + bytes([byte]) + GOOD[at + 1 :]
    try:
        message = jws.read(changed)
        jws.verify(message, jws.key_of(message.jwk or {}))
    except Invalid as problem:
        assert problem.code in {"LM1400", "LM1401", "LM1402", "LM1412"}
    else:
        assert json.loads(changed) == json.loads(GOOD)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_a_code(data: bytes) -> None:
    with pytest.raises(Invalid):
        jws.read(data)
