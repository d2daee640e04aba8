import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.record import MAX_RECORD_BYTES, REMOVED, mask, read_record, record, records, to_bytes
from audit.spool import Spool
from mesh import canonicaljson
from mesh.problems import Problem
from tests.audit.making import START, make

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


def test_a_record_is_canonical_and_reads_back() -> None:
    data = make(7, text="é")
    found = read_record(data)
    assert (found["n"], found["kind"], found["text"]) == (7, "decision", "é")
    assert canonicaljson.dumps(found) == data


def test_records_of_a_batch_are_those_that_are_made_one_by_one() -> None:
    random = bytes(range(20))
    rows = [{"serial": "a", "rule": "r1"}, {"serial": "b", "nested": {"a": [1]}}]
    found = records("issuance", rows, now=START, random=random, source="server:x", actor="n1")
    for item, row, fresh in zip(found, rows, (random[:10], random[10:]), strict=True):
        alone = record("issuance", now=START, random=fresh, source="server:x", actor="n1", **row)
        assert to_bytes(item) == to_bytes(alone)
    assert records("issuance", [], now=START, random=b"", source="server:x") == []
    with pytest.raises(ValueError, match="random"):
        records("issuance", rows, now=START, random=random[1:], source="server:x")


def test_a_row_does_not_say_what_all_records_have() -> None:
    row = {"kind": "decision", "id": "x", "source": "else", "time": "never", "schema": 9, "serial": "a"}
    (found,) = records("issuance", [row], now=START, random=bytes(10), source="server:x")
    assert found == record("issuance", now=START, random=bytes(10), source="server:x", serial="a")


@pytest.mark.parametrize("spare", [0, 1], ids=["fits", "one byte more"])
def test_a_record_fits_an_entry(spare: int) -> None:
    room = MAX_RECORD_BYTES - len(make(0, text=""))
    if not spare:
        assert len(make(0, text="x" * room)) == MAX_RECORD_BYTES
        return
    with pytest.raises(Problem) as caught:
        make(0, text="x" * (room + spare))
    assert caught.value.code == "LM6001"


@pytest.mark.parametrize("value", ["\ud800", float("nan"), {1: 2}], ids=["lone surrogate", "NaN", "number as a key"])
def test_what_json_does_not_have_makes_no_record(value: object) -> None:
    with pytest.raises(Problem) as caught:
        make(0, text=value)
    assert caught.value.code == "LM6002"


def swapped(old: bytes, new: bytes) -> bytes:
    return make(1).replace(old, new)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"NaN",
        b"[" * 100_000,
        make(1) + b" ",
        swapped(b'":', b'": '),
        swapped(b'"n":1', b'"n":1,"n":2'),
        swapped(b'"schema":1', b'"schema":2'),
        swapped(b'"schema":1', b'"schema":NaN'),
        swapped(b'"kind":"decision"', b'"kind":1'),
        swapped(b'"kind"', b'"\\u006bind"'),
        swapped(b'"id":"0', b'"id":"o'),
        swapped(b'"source":"t"', b'"source":"' + b"x" * 70_000 + b'"'),
    ],
    ids=[
        "empty", "not UTF-8", "list", "nothing", "NaN", "deep", "white space at the end", "white space", "key twice",
        "other schema", "NaN inside", "kind", "escaped key", "id", "too large",
    ],
)  # fmt: skip
def test_other_bytes_are_no_record(data: bytes) -> None:
    with pytest.raises(Problem) as caught:
        read_record(data)
    assert caught.value.code == "LM6002"


@given(st.binary(max_size=100))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    with pytest.raises(Problem):
        read_record(data)
