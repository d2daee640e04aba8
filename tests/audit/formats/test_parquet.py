import pytest
from hypothesis import given

from audit.formats.parquet import COLUMNS, row
from mesh.clock import parse_time
from mesh.problems import Problem
from tests.audit.formats.samples import SAMPLES, SPAN, TRACE, any_record, as_json, sample
from tests.audit.making import START

KINDS = {"BIGINT": int, "INTEGER": int, "VARCHAR": str, "TIMESTAMPTZ": str}


@given(any_record())
def test_a_row_of_any_record_has_every_column_in_its_type_and_the_record_whole(item: tuple[int, bytes]) -> None:
    found = row(*item)
    assert list(found) == list(COLUMNS)
    for name, value in found.items():
        assert value is None or type(value) is KINDS[COLUMNS[name]]
    assert found["record"].encode() == item[1]
    assert parse_time(found["time"]) == START


def test_a_request_is_found_by_its_columns() -> None:
    found = row(*sample("request"))
    for name in ("caller", "destination", "port", "decision", "policy", "rule", "method", "path"):
        assert found[name] == SAMPLES["request"][name]
    assert (found["outcome"], found["trace_id"], found["span_id"]) == ("success", TRACE, SPAN)
    assert found["id"] == as_json(sample("request")[1])["id"]


def test_a_record_that_cannot_be_read_is_named() -> None:
    with pytest.raises(Problem) as caught:
        row(7, b"{}")
    assert (caught.value.code, caught.value.facts["index"]) == ("LM6035", 7)
