import contextlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from mesh.jwks import format_jwks, parse_jwks, strict_json
from mesh.problems import Invalid
from tests.ca.attestation.issuers import EC_KEY, RSA_KEY, jwk, key_set
from tests.rsakeys import rsa_key


def test_keys_have_the_algorithms_that_fit_them() -> None:
    found = {key.kid: key.algorithms for key in parse_jwks(key_set())}
    assert found == {"r1": ("RS256",), "e1": ("ES256",)}
    (any_rsa,) = parse_jwks(key_set(jwk(RSA_KEY, None)))
    assert set(any_rsa.algorithms) == {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}


@pytest.mark.parametrize(
    "entry",
    [
        jwk(RSA_KEY, "k", use="enc"),
        jwk(RSA_KEY, "k", alg="HS256"),
        jwk(RSA_KEY, "k", alg="ES256"),
        jwk(RSA_KEY, "k", alg="none"),
        jwk(RSA_KEY, "k", key_ops=["encrypt"]),
        {**jwk(RSA_KEY, "k"), "kid": 7},
        jwk(RSA_KEY, "k", d="AQAB"),
        jwk(rsa_key(bits=1024), "k"),
        jwk(ec.generate_private_key(ec.SECP256K1()), "k"),
        jwk(EC_KEY, "k", crv="P-384"),
        {"kty": "oct", "kid": "k", "k": "c2VjcmV0"},
        {"kty": "OKP", "kid": "k", "crv": "Ed25519", "x": "AA"},
        {"kty": "RSA", "kid": "k", "n": "!", "e": "AQAB"},
        {"kty": "RSA", "kid": "k"},
        {},
        7,
        None,
    ],
    # keys are new in each process: an id must not show them
    ids=[
        *("enc", "hs256", "es256", "none", "key-ops", "kid-7", "private", "short-rsa", "k1", "p384", "oct", "okp"),
        *("no-base64", "no-numbers", "empty", "number", "null"),
    ],
)
def test_an_unusable_entry_is_left_out_alone(entry: object) -> None:
    assert [key.kid for key in parse_jwks(key_set(entry, jwk(RSA_KEY, "good")))] == ["good"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": [], "keys": []}',
        b"\xff",
        b'{"keys": ' + b"[" * 100_000,
        b" " * 300_000,
        json.dumps({"keys": [{}] * 65}).encode(),
        key_set(jwk(RSA_KEY, "k"), jwk(EC_KEY, "k")),
    ],
    ids=["empty", "list", "no-keys", "keys-map", "twice", "no-utf8", "deep", "large", "many", "kid-twice"],
)
def test_what_is_no_key_set_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid, match="LM1257"):
        parse_jwks(data)


_JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3))


@given(st.dictionaries(st.sampled_from(["kty", "kid", "n", "e", "crv", "x", "y", "use", "alg", "key_ops"]), _JSON))
def test_no_entry_is_a_bug(entry: dict[str, object]) -> None:
    for kind in ("RSA", "EC"):
        parse_jwks(json.dumps({"keys": [{"kty": kind, **entry}, {**jwk(EC_KEY, "k"), **entry}]}).encode())


@given(st.binary())
def test_no_bytes_are_a_bug(data: bytes) -> None:
    with contextlib.suppress(Invalid):
        parse_jwks(data)
    with contextlib.suppress(ValueError):
        strict_json(data)


def test_a_key_set_is_written_without_what_is_private_or_strange() -> None:
    keys = parse_jwks(key_set(jwk(RSA_KEY, "r1", x5u="https://evil"), jwk(EC_KEY, "e1", use="sig")))
    written = format_jwks(keys)
    assert b"evil" not in written
    assert parse_jwks(written) == keys
    assert parse_jwks(format_jwks(())) == ()
