"""The JWT-SVID verifier, rule by rule and under malformed input."""

import base64
import datetime as dt
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from mesh.bundle import TrustBundle
from mesh.jwtsvid import ALGORITHMS, JwtSvidError, verify_jwt_svid
from mesh.spiffe import TrustDomain
from tests.pki import NOW
from tests.rsakeys import rsa_key

TD = TrustDomain.parse("corp.test")
KEYS: dict[str, Any] = {
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "RS": rsa_key(),
}
CLAIMS: dict[str, Any] = {
    "sub": "spiffe://corp.test/a", "aud": ["me"], "exp": int(NOW.timestamp()) + 300, "jti": "1",
}  # fmt: skip


def b64(found: Any) -> str:
    data = found if isinstance(found, bytes) else json.dumps(found).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def private(alg: str) -> Any:
    return KEYS[alg] if alg in KEYS else KEYS["RS"]


def token(claims: Any = CLAIMS, key: Any = None, **header: Any) -> str:
    """Sign anything at all, also what no library would."""
    header = {name: value for name, value in {"alg": "ES256", "kid": "k", "typ": "JWT", **header}.items() if value}
    head = f"{b64(header)}.{b64(claims)}"
    alg = header["alg"] if header["alg"] in ALGORITHMS else "ES256"
    return f"{head}.{b64(ALGORITHMS[alg].sign(head.encode(), key or private(alg)))}"


def bundle(*keys: tuple[str, Any], **more: Any) -> dict[TrustDomain, TrustBundle]:
    jwks = []
    for kid, key in keys or (("k", KEYS["ES256"]),):
        kind = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
        jwks.append(json.dumps({**kind.to_jwk(key.public_key(), as_dict=True), "kid": kid, **more}).encode())
    return {TD: TrustBundle(trust_domain=TD, jwt_authorities=tuple(jwks))}


def refused(found: str, bundles: Any = None, audience: str = "me", now: dt.datetime = NOW) -> str:
    with pytest.raises(JwtSvidError) as caught:
        verify_jwt_svid(found, audience, bundle() if bundles is None else bundles, now)
    return str(caught.value.code)


def test_a_token_says_whose_it_is() -> None:
    found = verify_jwt_svid(token(), "me", bundle(), NOW)
    assert (str(found.spiffe_id), found.audience, found.jti, found.kid) == ("spiffe://corp.test/a", ("me",), "1", "k")
    assert found.expiry == NOW + dt.timedelta(seconds=300)
    assert found.claims == CLAIMS


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_each_of_the_nine_algorithms_verifies(alg: str) -> None:
    assert verify_jwt_svid(token(alg=alg), "me", bundle(("k", private(alg))), NOW).jti == "1"


def test_a_token_without_kid_is_tried_with_every_key_that_fits() -> None:
    others = (("a", KEYS["RS"]), ("b", KEYS["ES384"]), ("c", ec.generate_private_key(ec.SECP256R1())))
    bundles = bundle(*others, ("k", KEYS["ES256"]))
    assert verify_jwt_svid(token(kid=None), "me", bundles, NOW).kid is None


def test_the_leeway_is_bounded() -> None:
    end = NOW + dt.timedelta(seconds=300)
    assert verify_jwt_svid(token(), "me", bundle(), end + dt.timedelta(seconds=30))
    assert refused(token(), now=end + dt.timedelta(seconds=31)) == "LM1029"
    late = {**CLAIMS, "nbf": int(NOW.timestamp()) + 30}
    assert verify_jwt_svid(token(late), "me", bundle(), NOW)
    assert refused(token({**late, "nbf": late["nbf"] + 1})) == "LM1029"


TWICE = b64(b'{"alg":"ES256","alg":"none"}')
HEAD, BODY = b64({"alg": "ES256"}), b64(CLAIMS)


@pytest.mark.parametrize(
    ("found", "code"),
    [
        pytest.param("x" * 20000, "LM1024", id="too large"),
        pytest.param("", "LM1024", id="empty"),
        pytest.param("a.b", "LM1024", id="two parts"),
        pytest.param(f"{HEAD}.{BODY}.", "LM1024", id="no signature"),
        pytest.param(f"{HEAD}.{BODY}.AB", "LM1024", id="loose bits in the last letter"),
        pytest.param(f"{b64(b'[]')}.{BODY}.AA", "LM1024", id="header is a list"),
        pytest.param(f"{b64(bytes([255]))}.{BODY}.AA", "LM1024", id="header is not UTF-8"),
        pytest.param(f"{HEAD}.{b64(b'[' * 9000)}.AA", "LM1024", id="deep"),
        pytest.param(f"{TWICE}.{BODY}.AA", "LM1024", id="alg twice"),
        pytest.param(token(kid=1), "LM1026", id="kid is a number"),
        pytest.param(token({**CLAIMS, "exp": True}), "LM1027", id="exp is true"),
        pytest.param(token({**CLAIMS, "exp": 1e300}), "LM1027", id="exp is far"),
        pytest.param(token({**CLAIMS, "exp": "1"}), "LM1027", id="exp is text"),
        pytest.param(token({**CLAIMS, "nbf": []}), "LM1027", id="nbf is a list"),
        pytest.param(token({**CLAIMS, "sub": "spiffe://corp.test"}), "LM1027", id="sub has no path"),
        pytest.param(token({**CLAIMS, "aud": [1]}), "LM1027", id="aud holds a number"),
    ],
)
def test_refuses_what_is_malformed(found: str, code: str) -> None:
    assert refused(found) == code


def test_a_key_that_cannot_be_read_or_may_not_verify_is_passed_over() -> None:
    good = bundle()[TD].jwt_authorities[0]
    unread = (b"[]", b'{"kty":"EC","kid":"k"}', b'{"kty":"EC","kid":"k","crv":1,"x":"AA","y":"AA"}', b'{"kty":"oct"}')
    assert verify_jwt_svid(token(), "me", {TD: TrustBundle(trust_domain=TD, jwt_authorities=(*unread, good))}, NOW)
    assert refused(token(), {TD: TrustBundle(trust_domain=TD, jwt_authorities=unread)}) == "LM1031"
    assert refused(token(), bundle(alg="ES384")) == "LM1031"
    assert refused(token(), bundle(key_ops=["encrypt"])) == "LM1031"
    small = rsa_key(bits=1024)
    head = f"{b64({'alg': 'RS256', 'kid': 'k'})}.{BODY}"
    from cryptography.hazmat.primitives import hashes

    signed = f"{head}.{b64(small.sign(head.encode(), padding.PKCS1v15(), hashes.SHA256()))}"
    assert refused(signed, bundle(("k", small))) == "LM1031"


@given(st.binary(max_size=200), st.integers(0, 10_000), st.integers(0, 2))
def test_changed_bytes_are_refused_with_a_code(noise: bytes, at: int, part: int) -> None:
    parts = GOOD.split(".")
    raw = bytearray(base64.urlsafe_b64decode(parts[part] + "=="))
    at %= len(raw)
    raw[at : at + len(noise)] = noise
    parts[part] = b64(bytes(raw))
    found = ".".join(parts)
    if found != GOOD:
        assert refused(found).startswith("LM10")


@given(st.text(max_size=300))
def test_any_text_is_refused_with_a_code(text: str) -> None:
    assert refused(text).startswith("LM10")


GOOD = token()
