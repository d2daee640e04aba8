import json
import pathlib
from typing import Any

from audit.cursor import Cursor
from limen.__main__ import run
from tests.audit.making import ORIGIN, make_log


def test_it_lists_exports_and_fails_for_a_stalled_one(tmp_path: pathlib.Path, capsys: Any) -> None:
    for name in ("server", "exports"):
        (tmp_path / name).mkdir()
    assert run(["--state", str(tmp_path), "audit", "exports", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    make_log(tmp_path / "audit", 30)
    rows = [{"name": name, "to": f"file:///{name}", "format": "jsonl"} for name in ("a", "b")]
    (tmp_path / "server" / "exports.json").write_text(json.dumps(rows))
    Cursor(tmp_path / "exports" / "a.cursor", ORIGIN).save(30)
    assert run(["--state", str(tmp_path), "audit", "exports"]) == 0
    (tmp_path / "exports" / "b.status").write_text(json.dumps({"failures": 2, "error": "refused\x1b[2J"}))
    assert run(["--state", str(tmp_path), "audit", "exports"]) == 1
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert run(["--state", str(tmp_path), "audit", "exports", "-o", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["lag"], row["stalled"]) for row in found] == [("a", 0, False), ("b", 30, True)]
