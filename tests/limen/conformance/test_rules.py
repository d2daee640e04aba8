import pathlib

import pytest

from limen.conformance import probe, rules
from mesh.clock import SystemClock
from tests.limen.conformance.servers import served


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "STAYS_S", 0.05)


def failed(folder: pathlib.Path, broken: str = "") -> set[str]:
    with served(folder, broken) as address:
        asked = probe.Probe(address)
        try:
            rows = rules.run(asked, probe.gather(asked), SystemClock())
        finally:
            asked.close()
    return {row.id for row in rows if row.result is rules.Result.FAIL}


# this server has no reflection, and says Unimplemented before it looks for the header
PLAIN = {"E-4", "E-14"}


def test_a_server_that_keeps_the_standard_passes(tmp_path: pathlib.Path) -> None:
    assert failed(tmp_path) == PLAIN


@pytest.mark.parametrize(
    "broken",
    [
        "E-3",
        "W-4",
        "W-6",
        "W-7",
        "W-8",
        "W-9",
        "W-10",
        "W-11",
        "W-13",
        "W-16",
        "W-17",
        "X-16",
        "J-1",
        "J-9",
        "J-17",
        "J-18",
    ],
)
def test_each_statement_that_is_broken_is_named(tmp_path: pathlib.Path, broken: str) -> None:
    assert broken in failed(tmp_path, broken)


def test_rows_are_in_the_order_of_their_ids(tmp_path: pathlib.Path) -> None:
    with served(tmp_path) as address:
        asked = probe.Probe(address)
        rows = rules.run(asked, probe.gather(asked), SystemClock())
        asked.close()
    numbers = [(row.id.partition("-")[0], int(row.id.partition("-")[2])) for row in rows]
    assert numbers == sorted(numbers)
