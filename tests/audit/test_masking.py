import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.masking import REMOVED, Masking, mask
from audit.record import record, to_bytes
from audit.spool import Spool
from mesh.problems import Problem
from tests.audit.making import START

KEY = bytes(32)
SECRET = "pl4nted-S3cret"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"

PLANTED = {
    "authorization header": {"headers": [["Authorization", f"Bearer {SECRET}"]]},
    "authorization of a proxy": {"headers": {"proxy-authorization": SECRET}},
    "cookie": {"headers": [["cookie", SECRET], ["accept", "*/*"]]},
    "cookie that is set": {"headers": [("Set-Cookie", SECRET)]},
    "token header": {"headers": {"X-Auth-Token": SECRET}},
    "API key header": {"headers": {"x-api-key": SECRET}},
    "claims": {"claims": {"sub": SECRET, "email": SECRET, "session_id": SECRET, "access_token": SECRET}},
    "nested": {"facts": [{"deep": {"client_secret": [SECRET, {"a": SECRET}]}}]},
    "list under a name": {"password": [SECRET]},
    "query": {"path": f"/a?access_token={SECRET}&x=1"},
    "encoded query": {"path": f"/a?access%5Ftoken={SECRET}"},
    "query alone": {"query": f"token={SECRET}"},
    "bearer in a sentence": {"detail": f"refused `bearer {SECRET}` of the caller"},
    "basic in a list": {"said": ["Basic " + SECRET]},
    "private key": {"text": f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----"},
    "half a private key": {"text": f"-----BEGIN EC PRIVATE KEY-----\n{SECRET}"},
}


@pytest.mark.parametrize("fields", PLANTED.values(), ids=PLANTED)
def test_planted_secrets_never_reach_a_disk(tmp_path: pathlib.Path, fields: dict[str, object]) -> None:
    made = record("decision", now=START, random=bytes(10), source="s", **fields)
    spool = Spool(tmp_path)
    masked = mask(made, KEY)
    assert isinstance(masked, dict)
    spool.append([to_bytes(masked)])
    spool.close()
    everything = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert SECRET.encode() not in everything
    assert masked["id"] == made["id"]


def test_a_signed_token_is_removed_whatever_its_name() -> None:
    assert mask({"note": f"x {JWT} y"}, KEY) == {"note": f"x {REMOVED} y"}


def test_equal_values_stay_equal_and_nobody_can_try_them() -> None:
    one, two, other = mask({"sub": "a"}, KEY), mask({"SUB": "a"}, KEY), mask({"sub": "a"}, bytes(31) + b"1")
    assert isinstance(one, dict)
    assert isinstance(two, dict)
    assert one["sub"] == two["SUB"] != other["sub"]  # type: ignore[index]
    assert one["sub"].startswith("hmac:")
    assert len(one["sub"]) == len("hmac:") + 32


@pytest.mark.parametrize(
    "fields",
    [
        {"caller": "spiffe://a/b", "port": 8080, "candidate": None, "facts": {"a": [1, True]}},
        {"path": "/orders/7?page=2&x", "method": "GET"},
        {"detail": "a basic rule", "token": None},
    ],
    ids=["plain", "query", "words"],
)
def test_the_rest_stays(fields: dict[str, object]) -> None:
    assert mask(fields, KEY) == fields


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["path", "sub", "token", "a"]), inner),
        max_leaves=10,
    )
)
def test_no_value_breaks_the_masks(value: object) -> None:
    found = mask(value, KEY)
    assert mask(found, KEY) is not None or found is None
    json.dumps(found)


def test_depth_breaks_nothing() -> None:
    deep: object = SECRET
    for _ in range(5000):
        deep = {"a": [deep]}
    assert SECRET not in str(mask(deep, KEY))
    assert mask({"path": "path=" * 5000}, KEY) is not None


SETTINGS = {"drop": ["x-ssn"], "hashed": ["X_User"], "tokenise": ["order-id", "sub"]}


def test_settings_add_names_of_each_kind() -> None:
    masking = Masking(KEY, **SETTINGS)  # type: ignore[arg-type]
    found = masking.mask({"X-SSN": "1", "x-user": "ann", "order_id": "7", "sub": "ann", "path": "/a?x-ssn=1", "n": 3})
    assert isinstance(found, dict)
    assert (found["X-SSN"], found["path"], found["n"]) == (REMOVED, f"/a?x-ssn={REMOVED}", 3)
    assert found["x-user"].startswith("hmac:")
    assert (masking.reveal(found["order_id"]), masking.reveal(found["sub"])) == ("7", "ann")
    assert found == masking.mask(found)


def test_settings_take_nothing_away_that_is_always_dropped() -> None:
    assert Masking(KEY, tokenise=["password"]).mask({"password": "x"}) == {"password": REMOVED}


def test_a_token_is_the_same_for_the_same_value_and_read_with_its_key_alone() -> None:
    one, other = Masking(KEY, tokenise=["t"]), Masking(bytes([1]) * 32, tokenise=["t"])
    token = one.mask({"t": "v"})["t"]  # type: ignore[index]
    assert token == one.mask({"t": "v"})["t"] != other.mask({"t": "v"})["t"]  # type: ignore[index]
    for wrong in (lambda: other.reveal(token), lambda: one.reveal("token:x"), lambda: one.reveal("?")):
        with pytest.raises(Problem) as caught:
            wrong()
        assert caught.value.code == "LM6003"


@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_what_was_masked_stays_as_it_is(value: object) -> None:
    masking = Masking(KEY, **SETTINGS)  # type: ignore[arg-type]
    once = masking.mask({"sub": value, "x_user": value, "a": value})
    assert masking.mask(once) == once
