import pytest

from limen.__main__ import run
from limen.cli.demo import _show
from limen.demo.story import Summary


def test_the_summary_is_a_table_people_can_read(capsys: pytest.CaptureFixture[str]) -> None:
    summary = Summary(state="/s", proposal={"rules": 5, "session_bound_95": 0.02}, identities=6)
    summary.left_out = [{"name": "nft", "reason": "x"}]
    _show(summary, "table")
    text = capsys.readouterr().out
    assert "5 rules" in text
    assert "nft" in text
    _show(summary, "json")
    assert '"session_bound_95": 0.02' in capsys.readouterr().out


def test_bad_options_are_exit_status_2() -> None:
    assert run(["demo", "--seconds", "0"]) == 2
    assert run(["demo", "-o", "xml"]) == 2
