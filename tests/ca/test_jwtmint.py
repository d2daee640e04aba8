import base64
import datetime as dt
import json

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import example, given
from hypothesis import strategies as st

from ca.jwtmint import JwtKey, JwtSigner, jwt_signer, mint_jwt_svid, numbers
from ca.keys import new_key
from mesh.problems import Invalid
from mesh.spiffe import SpiffeId, TrustDomain
from tests.rsakeys import rsa_key

NOW = dt.datetime(2026, 11, 24, 12, 0, 0, 700_000, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)
MINUTE = dt.timedelta(minutes=1)
WEB = SpiffeId.parse("spiffe://corp.test/ns/shop/sa/web")
KEY = new_key()
RSA = rsa_key()
SIGNER = jwt_signer("k1", KEY)


def mint(signer: JwtSigner = SIGNER, audiences: tuple[str, ...] = ("db",), **changes: object) -> str:
    details: dict[str, object] = {"now": NOW, "life": MINUTE, "jti": "a1", **changes}
    return mint_jwt_svid(WEB, audiences, signer, **details)[0]  # type: ignore[arg-type]


def part(token: str, place: int) -> dict[str, object]:
    text = token.split(".")[place]
    found = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("rule", ["J-1", "J-3", "J-4", "J-8", "J-9", "J-10", "J-13"])
def test_every_token_obeys(rule: str) -> None:
    token = mint()
    head, claims = part(token, 0), part(token, 1)
    assert {
        "J-1": token.count(".") == 2 and "=" not in token,
        "J-3": set(head) == {"alg", "kid", "typ"},
        "J-4": head["alg"] == "ES256",
        "J-8": head["typ"] == "JWT",
        "J-9": claims["sub"] == str(WEB),
        "J-10": claims["aud"] == ["db"],
        "J-13": claims["exp"] == int((NOW + MINUTE).timestamp()),
    }[rule]


def test_a_token_says_what_was_meant_and_no_more() -> None:
    assert part(mint(), 1) == {
        "sub": str(WEB),
        "aud": ["db"],
        "exp": int(NOW.timestamp()) + 60,
        "iat": int(NOW.timestamp()),
        "jti": "a1",
    }
    assert part(mint(issuer="https://corp.test"), 1)["iss"] == "https://corp.test"


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        pytest.param(KEY, "ES256", id="P-256"),
        pytest.param(ec.generate_private_key(ec.SECP384R1()), "ES384", id="P-384"),
        pytest.param(RSA, "RS256", id="RSA"),
        pytest.param(RSA, "PS256", id="RSA-PSS"),
    ],
)
def test_another_library_verifies_every_algorithm(key: JwtKey, algorithm: str) -> None:
    signer = JwtSigner(kid="k1", key=key, algorithm=algorithm)  # type: ignore[arg-type]
    found = jwt.decode(
        mint(signer, audiences=("db", "web")), key.public_key(), algorithms=[algorithm], audience="web",
        options={"verify_exp": False, "verify_iat": False},
    )  # fmt: skip
    assert found["sub"] == str(WEB)


ORDERS = {32: ec.SECP256R1().group_order, 48: ec.SECP384R1().group_order}
NUMBERS = st.one_of(st.integers(1, 1 << 20), st.integers(1, (1 << 383) - 1))


@given(NUMBERS, NUMBERS, st.sampled_from([32, 48]))
@example(1, 1, 32)
@example(ORDERS[32] - 1, 1 << 247, 32)
@example(ORDERS[48] - 1, ORDERS[48] - 1, 48)
def test_a_signature_is_its_two_numbers_in_their_full_length(first: int, second: int, size: int) -> None:
    r, s = first % ORDERS[size] or 1, second % ORDERS[size] or 1
    assert numbers(encode_dss_signature(r, s), size) == r.to_bytes(size, "big") + s.to_bytes(size, "big")


@given(st.text(), st.lists(st.text(min_size=1), min_size=1, max_size=3), st.one_of(st.none(), st.text()))
def test_a_token_says_its_claims_as_json_does(jti: str, audiences: list[str], issuer: str | None) -> None:
    claims: dict[str, object] = {
        "sub": str(WEB),
        "aud": list(dict.fromkeys(audiences)),
        "exp": int((NOW + MINUTE).timestamp()),
        "iat": int(NOW.timestamp()),
        "jti": jti,
    }
    if issuer is not None:
        claims["iss"] = issuer
    found = mint(audiences=tuple(audiences), jti=jti, issuer=issuer).split(".")
    assert found[:2] == SIGNER.sign(claims).split(".")[:2]
    assert part(".".join(found), 1) == json.loads(json.dumps(claims))


@given(st.integers(), st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_every_signature_has_its_full_length_and_every_audience_stands_once(salt: int, audiences: list[str]) -> None:
    token = mint(audiences=(*audiences, *audiences), jti=str(salt))
    assert len(token.split(".")[2]) == 86
    assert part(token, 1)["aud"] == list(dict.fromkeys(audiences))
    jwt.decode(
        token, KEY.public_key(), algorithms=["ES256"], audience=audiences,
        options={"verify_exp": False, "verify_iat": False},
    )  # fmt: skip


@pytest.mark.parametrize("audiences", [(), ("",), ("db", "")], ids=["none", "empty", "one-empty"])
def test_a_token_for_nobody_is_not_minted(audiences: tuple[str, ...]) -> None:
    with pytest.raises(Invalid, match="LM1270"):
        mint(audiences=audiences)


@pytest.mark.parametrize(
    "life",
    [-MINUTE, dt.timedelta(), dt.timedelta(milliseconds=299)],
    ids=["over", "none", "ends-in-this-second"],
)
def test_nothing_expired_is_minted(life: dt.timedelta) -> None:
    with pytest.raises(Invalid, match="LM1204"):
        mint(life=life)


@given(st.integers(min_value=-7200, max_value=7200), st.floats(min_value=0.001, max_value=7200))
def test_a_token_lives_within_its_authority(after: int, life: float) -> None:
    end = NOW + dt.timedelta(seconds=after)
    signer = jwt_signer("k1", KEY, not_after=end)
    try:
        token, expires = mint_jwt_svid(
            WEB, ["db"], signer, now=NOW, life=dt.timedelta(seconds=life), jti="a1"
        )  # fmt: skip
    except Invalid as problem:
        assert problem.code == "LM1204"
        assert min(end, NOW + dt.timedelta(seconds=life)) <= NOW + SECOND
        return
    assert part(token, 1)["exp"] == expires.timestamp()
    assert NOW < expires <= min(end, NOW + dt.timedelta(seconds=life))


def test_a_trust_domain_gets_no_token() -> None:
    with pytest.raises(ValueError, match="path"):
        mint_jwt_svid(TrustDomain.parse("corp.test").id, ["db"], SIGNER, now=NOW, life=MINUTE, jti="a1")


@pytest.mark.parametrize(
    ("kid", "key", "algorithm"),
    [
        ("k1", KEY, "ES384"),
        ("k1", KEY, "RS256"),
        ("k1", RSA, "ES256"),
        ("k1", ec.generate_private_key(ec.SECP256K1()), "ES256"),
        ("k1", rsa_key(bits=1024), "RS256"),
        ("", KEY, "ES256"),
    ],
    ids=["another-curve", "ec-as-rsa", "rsa-as-ec", "a-curve-of-others", "a-weak-key", "no-id"],
)
def test_an_algorithm_that_does_not_fit_its_key_signs_nothing(kid: str, key: JwtKey, algorithm: str) -> None:
    with pytest.raises(ValueError, match="algorithm"):
        JwtSigner(kid=kid, key=key, algorithm=algorithm)  # type: ignore[arg-type]


def test_the_algorithm_follows_the_key() -> None:
    assert jwt_signer("k1", RSA).algorithm == "RS256"
    assert jwt_signer("k1", ec.generate_private_key(ec.SECP384R1())).algorithm == "ES384"
    with pytest.raises(ValueError, match="algorithm"):
        jwt_signer("k1", ec.generate_private_key(ec.SECP521R1()))


def test_no_key_shows() -> None:
    assert "key" not in repr(SIGNER)
