import base64
import datetime as dt
import json

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from mesh.jwks import parse_jwks
from mesh.jwtproof import JwtTrust, kid_of, verify_jwt
from tests.ca.attestation.issuers import AUDIENCE, EC_KEY, ISSUER, NOW, RSA_KEY, claims, jwk, key_set, raw, token

KEYS = parse_jwks(key_set())
TRUST = JwtTrust(issuer=ISSUER, audiences=(AUDIENCE,))
AT = int(NOW.timestamp())
PEM = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def hs256(secret: bytes) -> str:
    import hashlib
    import hmac

    text = raw({"alg": "HS256", "kid": "r1"}, claims()).rpartition(".")[0]
    signature = base64.urlsafe_b64encode(hmac.digest(secret, text.encode(), hashlib.sha256)).rstrip(b"=").decode()
    return f"{text}.{signature}"


@pytest.mark.parametrize(
    "text",
    [
        token(),
        token(EC_KEY, "ES256"),
        token(aud=["other", AUDIENCE]),
        token(exp=AT - 29),
        token(iat=AT + 29),
        token(nbf=AT + 29),
        token(headers={"typ": "at+jwt"}),
    ],
    ids=["rs256", "es256", "audience-list", "just-ended", "just-begun", "just-before", "typ"],
)
def test_a_good_token_gives_its_claims(text: str) -> None:
    assert verify_jwt(text, KEYS, TRUST, NOW)["sub"] == "s"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(hs256(PEM), id="hs256-with-the-public-key"),
        pytest.param(raw({"alg": "none", "kid": "r1"}, claims(), b""), id="none"),
        pytest.param(raw({"alg": "nOnE", "kid": "r1"}, claims()), id="none-in-other-letters"),
        pytest.param(raw({"kid": "r1"}, claims()), id="no-algorithm"),
        pytest.param(raw({"alg": ["RS256"], "kid": "r1"}, claims()), id="algorithm-list"),
        pytest.param(token(RSA_KEY, "PS256"), id="another-algorithm-than-the-keys"),
        pytest.param(token(EC_KEY, "ES256", {"kid": "r1"}), id="another-key"),
        pytest.param(token(headers={"kid": "x"}), id="unknown-kid"),
        pytest.param(raw({"alg": "RS256", "kid": 7}, claims()), id="kid-is-a-number"),
        pytest.param(jwt.encode(claims(), RSA_KEY, algorithm="RS256"), id="no-kid-with-two-keys"),
        pytest.param(raw({"alg": "RS256", "kid": "r1", "crit": ["exp"]}, claims()), id="crit"),
        pytest.param(token(headers={"jwk": jwk(RSA_KEY, "r1")}), id="jwk"),
        pytest.param(token(headers={"jku": "https://evil"}), id="jku"),
        pytest.param(token(headers={"x5c": ["AA"]}), id="x5c"),
        pytest.param(token(headers={"typ": "dpop+jwt"}), id="another-type"),
        pytest.param(token(iss="https://other"), id="another-issuer"),
        pytest.param(token(iss=None), id="no-issuer"),
        pytest.param(token(iss=ISSUER + "/"), id="issuer-with-a-slash"),
        pytest.param(token(aud="other"), id="another-audience"),
        pytest.param(token(aud=None), id="no-audience"),
        pytest.param(token(aud="limen-other"), id="audience-begins-alike"),
        pytest.param(token(exp=AT - 31), id="ended"),
        pytest.param(token(exp=None), id="no-end"),
        pytest.param(token(iat=None), id="no-begin"),
        pytest.param(token(iat=AT + 31), id="from-the-future"),
        pytest.param(token(nbf=AT + 31), id="not-before"),
        pytest.param(token(exp=AT + 86_400), id="lives-too-long"),
        pytest.param(token()[:-4] + "AAAA", id="changed-signature"),
        pytest.param(token() + ".x", id="four-parts"),
        pytest.param("x" * 20_000, id="long"),
        pytest.param("é.é.é", id="no-ascii"),
        pytest.param(raw(b'{"alg":"RS256","kid":"r1","alg":"RS256"}', claims()), id="header-key-twice"),
        pytest.param(raw([], claims()), id="header-is-a-list"),
        pytest.param(json.dumps({"payload": "x", "signatures": []}), id="json-form"),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="it"):
        verify_jwt(text, KEYS, TRUST, NOW)


@pytest.mark.parametrize("value", ["1", True, -1, 2**50, [1], float("1e300")], ids=str)
def test_times_are_numbers(value: object) -> None:
    for name in ("exp", "iat", "nbf"):
        signed = jwt.api_jws.encode(
            json.dumps({**claims(), name: value}).encode(), RSA_KEY, algorithm="RS256", headers={"kid": "r1"}
        )
        with pytest.raises(ValueError, match="it"):
            verify_jwt(signed, KEYS, TRUST, NOW)


def test_claims_in_which_a_key_stands_twice_are_refused() -> None:
    text = json.dumps(claims())[:-1] + ', "sub": "admin"}'
    signed = jwt.api_jws.encode(text.encode(), RSA_KEY, algorithm="RS256", headers={"kid": "r1"})
    with pytest.raises(ValueError, match="twice"):
        verify_jwt(signed, KEYS, TRUST, NOW)


def test_an_algorithm_that_is_not_configured_is_refused() -> None:
    only = JwtTrust(issuer=ISSUER, audiences=(AUDIENCE,), algorithms=("ES256",))
    with pytest.raises(ValueError, match="algorithm"):
        verify_jwt(token(), KEYS, only, NOW)
    assert verify_jwt(token(EC_KEY, "ES256"), KEYS, only, NOW)


def test_a_token_without_kid_is_taken_when_there_is_one_key() -> None:
    text = jwt.encode(claims(), RSA_KEY, algorithm="RS256")
    assert verify_jwt(text, parse_jwks(key_set(jwk(RSA_KEY, "r1"))), TRUST, NOW)
    assert (kid_of(text), kid_of(token()), kid_of("x"), kid_of(raw({"kid": 7}, {}))) == ("", "r1", "", "")


def test_both_times_are_said() -> None:
    with pytest.raises(ValueError, match="ended at 2026-11-24T11:00:00Z, and it is 2026-11-24T12:00:00Z"):
        verify_jwt(token(exp=AT - 3600, iat=AT - 4000), KEYS, TRUST, NOW)


GOOD = token()


@given(st.data())
def test_no_bytes_are_a_bug_and_none_verify(data: st.DataObject) -> None:
    found = list(GOOD)
    place = data.draw(st.integers(0, len(found) - 1))
    found[place] = data.draw(st.characters(codec="ascii"))
    text = data.draw(st.sampled_from(["".join(found), data.draw(st.text()), data.draw(st.text()) + "." + GOOD]))
    kid_of(text)
    try:
        got = verify_jwt(text, KEYS, TRUST, NOW + dt.timedelta(seconds=1))
    except ValueError:
        return
    # the last character of base64 has bits that say nothing: what was signed is the same
    assert text.rpartition(".")[0] == GOOD.rpartition(".")[0]
    assert got["sub"] == "s"


def test_any_of_several_audiences_will_do() -> None:
    both = JwtTrust(issuer=ISSUER, audiences=("https://other.test", AUDIENCE))
    assert verify_jwt(token(), KEYS, both, NOW)
    with pytest.raises(ValueError, match="not meant"):
        verify_jwt(token(aud=["x"]), KEYS, both, NOW)


@pytest.mark.parametrize("leeway", [0, 60])
def test_the_leeway_is_what_is_declared(leeway: int) -> None:
    trust = JwtTrust(issuer=ISSUER, audiences=(AUDIENCE,), leeway_s=leeway)
    assert verify_jwt(token(exp=AT + 1 - leeway), KEYS, trust, NOW)
    for broken in (token(exp=AT - leeway), token(nbf=AT + leeway + 1)):
        with pytest.raises(ValueError, match="it"):
            verify_jwt(broken, KEYS, trust, NOW)


@pytest.mark.parametrize("leeway", [-1, 61])
def test_the_leeway_is_bounded(leeway: int) -> None:
    with pytest.raises(ValueError, match="60 seconds"):
        JwtTrust(issuer=ISSUER, audiences=(AUDIENCE,), leeway_s=leeway)


def test_a_token_without_begin_is_taken_where_none_is_needed_and_lives_from_now() -> None:
    trust = JwtTrust(issuer=ISSUER, audiences=(AUDIENCE,), needs_begin=False)
    assert verify_jwt(token(iat=None), KEYS, trust, NOW)
    for broken in (token(iat=None, exp=AT + 86_401), token(iat=AT + 31), token(iat="1")):
        with pytest.raises(ValueError, match="it"):
            verify_jwt(broken, KEYS, trust, NOW)


def test_claims_with_numbers_that_json_does_not_have_are_refused() -> None:
    text = json.dumps(claims())[:-1] + ', "n": NaN}'
    signed = jwt.api_jws.encode(text.encode(), RSA_KEY, algorithm="RS256", headers={"kid": "r1"})
    with pytest.raises(ValueError, match="NaN"):
        verify_jwt(signed, KEYS, TRUST, NOW)
