import datetime as dt
import json

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from ca.attestation.token import JoinToken, check_token, make_token
from ca.keys import new_key
from mesh.jointoken import MAX_TOKEN_BYTES, TYPE, read_pins
from mesh.problems import Forbidden

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
KEY = new_key()
PIN = "sha256:" + "a" * 64
REVIEWERS = "sha256:" + "b" * 64


def make(key: ec.EllipticCurvePrivateKey = KEY, random: bytes = b"r" * 16) -> JoinToken:
    return make_token(
        key, server_pin=PIN, reviewers_pin=REVIEWERS, trust_domain="corp.test", now=NOW,
        ttl=dt.timedelta(minutes=10), random=random,
    )  # fmt: skip


def claims(**changes: object) -> dict[str, object]:
    base: dict[str, object] = {"jti": "x", "exp": int(NOW.timestamp()) + 60, "aud": "limen-join"}
    return {name: value for name, value in {**base, **changes}.items() if value is not ...}


def signed(payload: dict[str, object], *, typ: str = TYPE) -> str:
    return jwt.encode(payload, KEY, algorithm="ES256", headers={"typ": typ})


def b64(data: bytes) -> str:
    return jwt.utils.base64url_encode(data).decode()


def bare(header: dict[str, object], payload: dict[str, object], signature: bytes = b"") -> str:
    return ".".join(b64(part) for part in (json.dumps(header).encode(), json.dumps(payload).encode(), signature))


def refusal(token: str, now: dt.datetime = NOW) -> str:
    with pytest.raises(Forbidden) as caught:
        check_token(token, KEY.public_key(), now)
    return caught.value.code


def test_a_good_token_gives_the_id_it_is_used_up_by() -> None:
    token = make()
    assert check_token(token.text, KEY.public_key(), NOW) == token.id
    assert token.expires == NOW + dt.timedelta(minutes=10)


def test_the_agent_reads_the_pins_from_it() -> None:
    pins = read_pins(make().text)
    assert (pins.server, pins.reviewers, pins.trust_domain) == (PIN, REVIEWERS, "corp.test")


def test_each_token_has_an_id_of_its_own_that_does_not_give_it_away() -> None:
    one, other = make(random=b"1" * 16), make(random=b"2" * 16)
    assert one.id != other.id
    assert one.id not in one.text
    assert one.text not in repr(one)


@pytest.mark.parametrize(
    ("after", "is_good"),
    [
        pytest.param(dt.timedelta(minutes=10, seconds=-1), True, id="just-before-its-end"),
        pytest.param(dt.timedelta(minutes=10), False, id="at-its-end"),
        pytest.param(dt.timedelta(days=1), False, id="long-after"),
    ],
)
def test_it_ends(after: dt.timedelta, *, is_good: bool) -> None:
    token = make()
    if is_good:
        assert check_token(token.text, KEY.public_key(), NOW + after) == token.id
    else:
        assert refusal(token.text, NOW + after) == "LM1208"


def forgeries() -> list[object]:
    none = bare({"alg": "none", "typ": TYPE}, claims())
    public = KEY.public_key()
    from cryptography.hazmat.primitives import serialization

    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    import hashlib
    import hmac

    head = b64(json.dumps({"alg": "HS256", "typ": TYPE}).encode()) + "." + b64(json.dumps(claims()).encode())
    confused = head + "." + b64(hmac.new(pem, head.encode(), hashlib.sha256).digest())
    good = make().text
    header, payload, signature = good.split(".")
    deep = b64(b'{"typ":' + b"[" * 4000 + b"]" * 4000 + b"}")[: MAX_TOKEN_BYTES - 10]
    return [
        pytest.param(none, id="alg-none"),
        pytest.param(none.replace(none.split(".")[0], b64(b'{"alg":"NONE","typ":"limen-join+jwt"}')), id="alg-NONE"),
        pytest.param(confused, id="hmac-with-the-public-key"),
        pytest.param(make(new_key()).text, id="another-key"),
        pytest.param(f"{header}.{b64(json.dumps(claims(exp=2**40)).encode())}.{signature}", id="other-claims"),
        pytest.param(f"{header}.{payload}.", id="no-signature"),
        pytest.param(f"{header}.{payload}", id="two-parts"),
        pytest.param("", id="empty"),
        pytest.param("a.b.c", id="no-base64"),
        pytest.param("é.é.é", id="not-ascii"),
        pytest.param("\ud800", id="lone-surrogate"),
        pytest.param("x" * (MAX_TOKEN_BYTES + 1), id="too-long"),
        pytest.param(b64(b"[" * 5000) + ".e30.x", id="deep-header"),
        pytest.param(f"{deep}.e30.x", id="deep-typ"),
        pytest.param(signed(claims(), typ="JWT"), id="another-type"),
        pytest.param(signed(claims(aud="limen-api")), id="another-audience"),
        pytest.param(signed(claims(aud=...)), id="no-audience"),
        pytest.param(signed(claims(exp=...)), id="no-end"),
        pytest.param(signed(claims(exp=1e300)), id="an-endless-end"),
        pytest.param(signed(claims(exp=True)), id="end-is-true"),
        pytest.param(signed(claims(exp="4000000000")), id="end-is-text"),
        pytest.param(signed(claims(jti=...)), id="no-id"),
        pytest.param(signed(claims(jti=None)), id="id-is-null"),
    ]


@pytest.mark.parametrize("token", forgeries())
def test_what_we_did_not_make_is_refused(token: str) -> None:
    assert refusal(token) == "LM1208"


@given(st.text(max_size=300))
def test_any_text_is_refused(token: str) -> None:
    assert refusal(token) == "LM1208"


@given(st.data())
def test_no_changed_character_passes(data: st.DataObject) -> None:
    text = make().text
    position = data.draw(st.integers(min_value=0, max_value=len(text) - 1))
    character = data.draw(st.characters(min_codepoint=33, max_codepoint=126))
    changed = text[:position] + character + text[position + 1 :]
    if changed == text:
        return
    try:
        # the last character of a signature has bits that mean nothing: it is the same signature, and the same token
        assert check_token(changed, KEY.public_key(), NOW) == make().id
        assert position == len(text) - 1
    except Forbidden as err:
        assert err.code == "LM1208"
