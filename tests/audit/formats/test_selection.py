import datetime as dt

import pytest

from audit.formats.selection import selected
from mesh.problems import Problem
from tests.audit.making import START, make

RECORDS = [(number, make(number)) for number in range(10)]


def second(number: int | None) -> dt.datetime | None:
    return None if number is None else START + dt.timedelta(seconds=number)


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [(None, None, range(10)), (3, None, range(3, 10)), (None, 3, range(3)), (3, 5, (3, 4)), (5, 5, ()), (20, None, ())],
)
def test_a_range_begins_with_since_and_ends_before_until(since: int | None, until: int | None, expected: range) -> None:
    found = selected(RECORDS, since=second(since), until=second(until))
    assert list(found) == [RECORDS[number] for number in expected]


def test_kinds_leave_out_the_others() -> None:
    records = [(0, make(0)), (1, make(1).replace(b'"kind":"decision"', b'"kind":"review"')), (2, make(2))]
    assert [index for index, _ in selected(records, kinds={"review"})] == [1]
    assert [index for index, _ in selected(records, kinds={"review", "decision"}, since=second(1))] == [1, 2]
    assert list(selected(records, kinds={"ca"})) == []


@pytest.mark.parametrize("data", [b"{}", make(1, time="yesterday")], ids=["no record", "no time"])
def test_a_record_that_cannot_be_read_is_named(data: bytes) -> None:
    with pytest.raises(Problem) as caught:
        list(selected([(7, data)], since=START))
    assert (caught.value.code, caught.value.facts["index"]) == ("LM6035", 7)
