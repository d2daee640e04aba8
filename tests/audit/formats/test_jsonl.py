import datetime as dt
import json

import pytest

from audit.formats import jsonl
from mesh.problems import Problem
from tests.audit.making import START, make

RECORDS = [(number, make(number)) for number in range(10)]


def second(number: int) -> dt.datetime:
    return START + dt.timedelta(seconds=number)


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [(None, None, range(10)), (3, None, range(3, 10)), (None, 3, range(3)), (3, 5, (3, 4)), (5, 5, ()), (20, None, ())],
)
def test_a_range_begins_with_since_and_ends_before_until(since: int | None, until: int | None, expected: range) -> None:
    found = jsonl.lines(
        RECORDS, since=None if since is None else second(since), until=None if until is None else second(until)
    )
    assert [json.loads(line)["n"] for line in found] == list(expected)


def test_a_line_is_the_record_as_it_stands_in_the_log() -> None:
    assert list(jsonl.lines(RECORDS)) == [data + b"\n" for _, data in RECORDS]
    assert all(line.count(b"\n") == 1 for line in jsonl.lines([(0, make(0, text="a\nb\u2028"))]))


@pytest.mark.parametrize("data", [b"{}", make(1, time="yesterday")], ids=["no record", "no time"])
def test_a_record_that_cannot_be_read_is_named(data: bytes) -> None:
    with pytest.raises(Problem) as caught:
        list(jsonl.lines([(7, data)], since=START))
    assert (caught.value.code, caught.value.facts["index"]) == ("LM6035", 7)
