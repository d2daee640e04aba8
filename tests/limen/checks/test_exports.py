import datetime as dt

from limen.checks.exports import exports
from mesh.clock import format_time
from tests.audit.making import START


def test_a_stalled_export_is_a_warning_and_another_one_passes() -> None:
    row = {"name": "a", "lag": 0, "failures": 0, "delivered_at": None, "error": "", "to": "https://a.test"}
    late = format_time(START - dt.timedelta(hours=1))
    stalled = {**row, "name": "b", "lag": 7, "failures": 9, "delivered_at": late, "error": "refused"}
    found = exports([row, stalled], START)
    assert [(item.level, item.code) for item in found] == [("ok", ""), ("warning", "LM6103")]
    assert all(word in found[1].text for word in ("b", "7", "refused"))
    assert "https://a.test" in found[1].hint
    assert exports([], START) == []
