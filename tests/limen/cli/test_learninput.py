import json
import pathlib

import pytest

from audit.record import record, to_bytes
from audit.sinks.parquet import write_parquet
from limen.__main__ import run
from tests.audit.making import START
from tests.learner import worlds


@pytest.fixture
def flows(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "flows.jsonl"
    path.write_text("".join(json.dumps(item.to_json()) + "\n" for item in worlds.shop()))
    return path


def test_an_input_counts_once_and_every_look_is_remembered(
    flows: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["learn", "propose", "--from", str(flows), "--history", str(tmp_path / "h"), "-o", "json"]
    found = []
    for number in range(2):
        assert run([*asked, "--out", str(tmp_path / f"out{number}")]) == 0
        text = capsys.readouterr()
        found.append(json.loads(text.out))
    assert "was read before" in text.err
    assert [item["looks"] for item in found] == [1, 2]
    assert found[0]["all"]["sessions"] == found[1]["all"]["sessions"]
    assert found[0]["all"]["session_bound_95"] < found[1]["all"]["session_bound_95"]
    trees = [{path.name: path.read_bytes() for path in (tmp_path / f"out{n}").iterdir()} for n in range(2)]
    assert trees[0] == trees[1]


@pytest.mark.parametrize(
    ("option", "content", "code"),
    [("--history", "x\n", "LM4031"), ("--spec", "a: 1\n", "LM4032"), ("--schedules", "{}\n", "LM4005")],
    ids=["history", "spec", "schedules"],
)
def test_what_cannot_be_used_says_so(
    flows: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    content: str,
    code: str,
) -> None:
    (tmp_path / "bad").write_text(content)
    asked = ["learn", "propose", "--from", str(flows), "--out", str(tmp_path / "o"), option, str(tmp_path / "bad")]
    assert run(asked) == 2
    assert code in capsys.readouterr().err


def test_months_of_exported_records_are_learned_from_and_remembered_nowhere(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lake" / "day=2026-05-01").mkdir(parents=True)
    records = [
        record(
            "decision", now=START, random=number.to_bytes(10, "big"), source="sidecar-1", direction="inbound",
            caller="spiffe://corp.test/ns/shop/sa/cart", destination="spiffe://corp.test/ns/shop/sa/db", port=8080,
            protocol="http", method="GET", path="/orders/7", decision="allow", policy_decision="allow",
        )
        for number in range(3)
    ]  # fmt: skip
    numbered = [(place, to_bytes(found)) for place, found in enumerate(records)]
    write_parquet(tmp_path / "lake" / "day=2026-05-01" / "0-2.parquet", numbered)
    asked = ["learn", "propose", "--from", str(tmp_path / "lake"), "--out", str(tmp_path / "out"), "-o", "json"]
    assert run(asked) == 0
    assert json.loads(capsys.readouterr().out)["sources"][0]["flows"] == 3
    assert "/orders/" in "".join(file.read_text() for file in (tmp_path / "out").iterdir())
    assert run([*asked, "--history", str(tmp_path / "h")]) == 2
    assert "read whole each time" in capsys.readouterr().err


def test_a_day_is_held_out_and_replayed(
    flows: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with flows.open("a") as file:
        day = worlds.START.replace(day=4)
        file.write(json.dumps(worlds.flow("web", "orders", day, path="/orders/1").to_json()) + "\n")
    asked = ["learn", "propose", "--from", str(flows), "--out", str(tmp_path / "o"), "-o", "json", "--held-out"]
    assert run([*asked, "2026-11-04"]) == 0
    found = json.loads(capsys.readouterr().out)["held_out"]
    assert [row["path"] for row in found["would_deny"]] == ["/orders/1"]
    assert run([*asked, "2026-12-24"]) == 2
    assert "LM4034" in capsys.readouterr().err
