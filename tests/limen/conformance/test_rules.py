import pathlib

import pytest

from limen.conformance.row import Result
from tests.limen.conformance.failing import failed, rows


def test_a_server_that_keeps_the_standard_passes(tmp_path: pathlib.Path) -> None:
    found = rows(tmp_path)
    assert [row for row in found if row.result is Result.FAIL] == []
    assert len(found) > 65
    assert {row.id for row in found if row.result is Result.NOT_APPLICABLE} == {"W-10", "W-12"}


@pytest.mark.parametrize(
    "broken",
    [
        "E-3",
        "E-4",
        "E-13",
        "E-14",
        "W-1",
        "W-2",
        "W-4",
        "W-6",
        "W-7",
        "W-11",
        "W-11-order",
        "W-10-names",
        "W-13",
        "W-16",
    ],
)
def test_each_statement_that_is_broken_is_named(tmp_path: pathlib.Path, broken: str) -> None:
    assert "-".join(broken.split("-")[:2]) in failed(tmp_path, broken)


def test_a_validator_that_takes_any_token_is_named_by_every_statement(tmp_path: pathlib.Path) -> None:
    assert {"W-17", "J-2", "J-5", "J-9", "J-12", "J-15"} <= failed(tmp_path, "W-17")


def test_rows_are_in_the_order_of_their_ids(tmp_path: pathlib.Path) -> None:
    found = rows(tmp_path)
    assert found == sorted(found, key=lambda row: row.order)
