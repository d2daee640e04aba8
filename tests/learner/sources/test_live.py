import json
import pathlib

import pytest

from learner.sources import live
from learner.sources.ledger import Ledger
from tests.learner import worlds
from tests.learner.sources.accounts import read, read_text


def written(ledger: Ledger, count: int = 3) -> str:
    return "".join(json.dumps(row) + "\n" for row in live.rows_of(ledger, worlds.shop(1)[:count]))


def account() -> Ledger:
    found = Ledger(file="eth0", source="live", seen=90, lost=7, gaps=1, cut=2, ambiguous=4)
    found.mark_sampled(16)
    found.skip("not IP", 5)
    return found


def test_what_a_capture_lost_lowers_what_is_claimed_from_its_flows(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "flows.jsonl"
    path.write_text(written(account()))
    flows, ledger, findings = read(path)
    assert flows == worlds.shop(1)[:3]
    assert ledger.source == "live"
    assert (ledger.lost, ledger.gaps, ledger.cut, ledger.ambiguous, ledger.sampled) == (7, 1, 2, 4, 16)
    assert ledger.skipped == {"not IP": 5}
    assert not ledger.is_complete
    assert [item.code for item in findings] == ["LM4016", "LM4015"]
    assert "one of 16" in str(findings[1].facts["limits"])


def test_captures_one_behind_the_other_add_up(tmp_path: pathlib.Path) -> None:
    whole = Ledger(file="eth0", source="live")
    _, ledger = read_text(tmp_path, written(whole) + written(account()) + written(account()))
    assert (ledger.lost, ledger.sampled, ledger.flows) == (14, 16, 9)


def test_a_capture_that_lost_nothing_is_whole(tmp_path: pathlib.Path) -> None:
    _, ledger = read_text(tmp_path, written(Ledger(file="eth0", source="live")))
    assert ledger.is_complete


@pytest.mark.parametrize(
    "wrong",
    [{}, {"lost": -1}, {"lost": "x"}, {"sampled": None}, {"skipped": 3}, {"skipped": {"a": "b"}}, {"gaps": 1.5}],
)
def test_an_account_that_is_not_whole_adds_nothing_and_is_counted(
    wrong: dict[str, object], tmp_path: pathlib.Path
) -> None:
    row = {**account().to_json(), **wrong} if wrong else {}
    text = written(account()) + json.dumps({"capture": row}) + "\n"
    _, ledger = read_text(tmp_path, text)
    assert (ledger.lost, ledger.unreadable, ledger.skipped["not IP"]) == (7, 1, 5)


def test_flows_without_an_account_are_no_capture() -> None:
    lines = written(account()).encode().split(b"\n", 1)
    assert live.recognises(lines[0])
    assert not live.recognises(lines[1])
    assert not live.recognises(b'{"capture": 7}')
