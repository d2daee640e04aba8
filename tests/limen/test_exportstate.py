import datetime as dt
import json
import pathlib

import pytest

from audit.cursor import Cursor
from limen.exportstate import is_stalled, standings, wanted_before
from mesh.clock import format_time
from tests.audit.making import ORIGIN, START, make_log

ROW = {"name": "siem", "to": "https://siem.test", "format": "ocsf"}


@pytest.fixture
def state(tmp_path: pathlib.Path) -> pathlib.Path:
    for name in ("server", "exports"):
        (tmp_path / name).mkdir()
    (tmp_path / "server" / "exports.json").write_text(json.dumps([ROW]))
    return tmp_path


def test_the_lag_is_what_the_cursor_leaves_of_the_log(state: pathlib.Path) -> None:
    make_log(state / "audit", 30)
    assert standings(state)[0]["lag"] == 30
    Cursor(state / "exports" / "siem.cursor", ORIGIN).save(10)
    told = {"failures": 3, "error": "no", "delivered_at": format_time(START), "next": 5}
    (state / "exports" / "siem.status").write_text(json.dumps(told))
    (found,) = standings(state)
    assert (found["lag"], found["next"], found["failures"], found["error"]) == (20, 10, 3, "no")
    assert (found["name"], found["to"], found["format"]) == ("siem", "https://siem.test", "ocsf")
    assert standings(state, size=12)[0]["lag"] == 2


def test_what_cannot_be_read_is_as_if_nothing_was_delivered(state: pathlib.Path) -> None:
    (state / "exports" / "siem.cursor").write_text("{")
    (state / "exports" / "siem.status").write_text("[")
    (found,) = standings(state, size=5)
    assert (found["lag"], found["delivered_at"]) == (5, None)
    (state / "server" / "exports.json").write_text("{")
    assert (standings(state), wanted_before(state / "none")) == ([], [])


@pytest.mark.parametrize(
    ("lag", "failures", "minutes", "expected"),
    [(5, 3, 3, True), (5, 3, None, True), (5, 3, 1, False), (0, 3, 9, False), (5, 0, 9, False)],
)
def test_stalled_is_behind_failing_and_long_without_a_delivery(
    lag: int, failures: int, minutes: int | None, expected: bool
) -> None:
    at = None if minutes is None else format_time(START - dt.timedelta(minutes=minutes))
    assert is_stalled({"lag": lag, "failures": failures, "delivered_at": at}, START) is expected
