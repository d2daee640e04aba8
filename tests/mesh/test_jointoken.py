import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.jointoken import TYPE, read_pins
from mesh.problems import Invalid

PIN = "sha256:" + "0" * 64
CLAIMS = {"srv": PIN, "rev": PIN, "td": "corp.test"}


def token(typ: str = TYPE, **claims: object) -> str:
    return jwt.encode({**CLAIMS, **claims}, "x" * 32, algorithm="HS256", headers={"typ": typ})


def b64(data: bytes) -> str:
    return jwt.utils.base64url_encode(data).decode()


def test_the_pins_are_read() -> None:
    assert read_pins(token()).server == PIN


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.b.c",
        token(typ="JWT"),
        token(srv="sha256:00"),
        token(rev=None),
        token(td=5),
        token(td="Corp.test"),
        token(td="spiffe://corp.test"),
        b64(b"[" * 5000) + ".e30.x",
        b64(b'{"alg":"ES256","typ":"limen-join+jwt"}') + "." + b64(b"[" * 5000) + ".x",
        token(srv=PIN.upper()),
        "x" * 9000,
    ],
    ids=[
        "empty",
        "junk",
        "type",
        "short-pin",
        "no-reviewers",
        "domain",
        "upper-case-domain",
        "whole-id",
        "deep-header",
        "deep-claims",
        "upper-case",
        "long",
    ],
)
def test_anything_else_is_no_join_token(text: str) -> None:
    with pytest.raises(Invalid, match="LM1207"):
        read_pins(text)


@given(st.text(max_size=100))
def test_any_text_is_refused_with_the_code(text: str) -> None:
    with pytest.raises(Invalid, match="LM1207"):
        read_pins(text)
