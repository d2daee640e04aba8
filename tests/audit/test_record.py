import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.record import MAX_RECORD_BYTES, read_record, record, records, to_bytes
from mesh import canonicaljson
from mesh.problems import Problem
from tests.audit.making import START, make


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
