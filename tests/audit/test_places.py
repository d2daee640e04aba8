import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.merkle import leaf_hash
from audit.places import Place, places
from audit.tiles import pack_entries
from tests.audit.making import make

RECORDS = [make(number) for number in range(12)]
LEAVES = [leaf_hash(record) for record in RECORDS]
DATA = pack_entries(RECORDS)
BEGINS = [len(pack_entries(RECORDS[:number])) for number in range(len(RECORDS) + 1)]
WHOLE = [Place(begin, end - begin, is_whole=True) for begin, end in itertools.pairwise(BEGINS)]


def wrong(data: bytes) -> dict[int, tuple[int, int]]:
    """The records that are not there any more, and the bytes that are said to be theirs."""
    found = places(data, LEAVES)
    assert len(found) == len(LEAVES)
    for place, record in zip(found, RECORDS, strict=True):
        assert not place.is_whole or data[place.offset + 2 : place.offset + place.size] == record
    return {number: (place.offset, place.size) for number, place in enumerate(found) if not place.is_whole}


def test_every_record_of_a_whole_bundle_stands_where_it_stands() -> None:
    assert places(DATA, LEAVES) == WHOLE
    assert places(b"", []) == []


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_a_changed_byte_is_one_of_those_that_are_named_and_names_its_record_alone(at: int, bits: int) -> None:
    changed = DATA[:at] + bytes([DATA[at] ^ bits]) + DATA[at + 1 :]
    ((number, (offset, size)),) = wrong(changed).items()
    assert BEGINS[number] <= at < BEGINS[number + 1]
    # also where the length was changed, so that nothing behind it could be read by it
    assert (offset, size) == (BEGINS[number], BEGINS[number + 1] - BEGINS[number])


@pytest.mark.parametrize(("first", "last"), [(0, 0), (3, 5), (10, 11)])
def test_records_that_were_cut_out_are_named_at_the_place_where_they_stood(first: int, last: int) -> None:
    found = wrong(DATA[: BEGINS[first]] + DATA[BEGINS[last + 1] :])
    assert found == dict.fromkeys(range(first, last + 1), (BEGINS[first], 0))


def test_what_is_no_record_any_more_is_of_all_that_are_missing_there() -> None:
    rubbish = b"\xff" * (BEGINS[5] - BEGINS[2])
    found = wrong(DATA[: BEGINS[2]] + rubbish + DATA[BEGINS[5] :])
    assert found == {number: (BEGINS[2], len(rubbish)) for number in range(2, 5)}


@given(st.binary(max_size=400))
def test_any_bytes_have_a_place_for_every_record(data: bytes) -> None:
    assert set(wrong(data)) == set(range(len(RECORDS)))


def test_looking_on_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.places.MAX_HASHED_BYTES", 0)
    broken = b"\xff\xff" + DATA[2:]
    assert set(wrong(broken)) == set(range(len(RECORDS)))
