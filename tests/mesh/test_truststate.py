import dataclasses
import datetime as dt
import json

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from ca import mint
from ca.keys import new_key
from mesh.bundle import TrustBundle
from mesh.problems import Forbidden, Invalid, Problem
from mesh.spiffe import TrustDomain
from mesh.truststate import TYPE, TrustState, parse_payload, read_trust_state

DOMAIN = TrustDomain.parse("corp.test")
NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
KEY, OTHER = new_key(), new_key()
SERVER = mint.mint_server(KEY, serial=1, now=NOW, life=dt.timedelta(days=1))
ROOT = mint.mint_root(DOMAIN, new_key(), serial=2, now=NOW, life=dt.timedelta(days=1))
BUNDLE = TrustBundle(
    trust_domain=DOMAIN,
    x509_authorities=(ROOT,),
    sequence=7,
    refresh_hint=300,
    intermediates=frozenset({"a" * 64}),
)
STATE = TrustState(bundle=BUNDLE, revoked=("b", "a"))


def signed(payload: object, key: ec.EllipticCurvePrivateKey = KEY, algorithm: str = "ES256", typ: str = TYPE) -> bytes:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return jwt.PyJWS().encode(data, key, algorithm=algorithm, headers={"typ": typ}).encode()


def test_what_was_signed_comes_back() -> None:
    found = read_trust_state(STATE.sign(KEY), DOMAIN, SERVER)
    assert found.bundle == BUNDLE
    assert (found.sequence, found.revoked) == (7, ("a", "b"))
    assert parse_payload(STATE.payload(), DOMAIN) == found


def test_two_states_are_alike_whatever_their_numbers() -> None:
    later = dataclasses.replace(STATE, bundle=dataclasses.replace(BUNDLE, sequence=8), revoked=("a", "b"))
    assert STATE.is_like(later)
    assert not STATE.is_like(dataclasses.replace(later, revoked=("a",)))
    assert not STATE.is_like(dataclasses.replace(later, bundle=dataclasses.replace(BUNDLE, intermediates=None)))


@pytest.mark.parametrize(
    "token",
    [
        STATE.sign(OTHER),
        signed(STATE.payload(), typ="limen-join+jwt"),
        jwt.PyJWS().encode(STATE.payload(), "secret" * 8, algorithm="HS256", headers={"typ": TYPE}).encode(),
        jwt.PyJWS().encode(STATE.payload(), None, algorithm="none", headers={"typ": TYPE}).encode(),
        b"",
        b"a.b.c",
        b"x" * (9 << 20),
    ],
    ids=["another-key", "another-kind", "hmac", "none", "empty", "garbage", "large"],
)
def test_what_the_pinned_key_did_not_sign_is_refused(token: bytes) -> None:
    with pytest.raises(Forbidden, match="LM1303"):
        read_trust_state(token, DOMAIN, SERVER)


ROW = json.loads(STATE.payload())


@pytest.mark.parametrize(
    "payload",
    [
        {**ROW, "trust_domain": "other.test"},
        {**ROW, "intermediates": ["short"]},
        {**ROW, "intermediates": 7},
        {**ROW, "crls": ["AAAA"]},
        {**ROW, "crls": ["!"]},
        {**ROW, "bundle": '{"keys":[]}'},
        {name: value for name, value in ROW.items() if name != "revoked"},
        [],
        b"\xff",
    ],
    ids=["domain", "pin", "pins", "crl", "base64", "no-number", "field", "list", "bytes"],
)
def test_what_does_not_have_its_form_is_refused_in_full(payload: object) -> None:
    with pytest.raises(Invalid, match="LM1304"):
        read_trust_state(signed(payload), DOMAIN, SERVER)


@given(st.data())
def test_any_other_byte_is_a_problem_and_nothing_else(data: st.DataObject) -> None:
    token = bytearray(STATE.sign(KEY))
    place = data.draw(st.integers(0, len(token) - 1))
    byte = data.draw(st.integers(0, 255))
    token[place] = byte
    try:
        found = read_trust_state(bytes(token), DOMAIN, SERVER)
    except Problem:
        return
    # the last characters of base64 may hold bits that mean nothing
    assert found.bundle == BUNDLE


def test_a_server_key_of_another_kind_signs_nothing() -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import Encoding

    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(NOW).not_valid_after(NOW + dt.timedelta(days=1))
    with pytest.raises(Forbidden, match="LM1303"):
        read_trust_state(STATE.sign(KEY), DOMAIN, made.sign(key, None).public_bytes(Encoding.DER))
