import pathlib
from typing import Any

from limen.__main__ import run
from tests.audit.making import make_log


def test_a_log_without_an_activation_names_none(tmp_path: pathlib.Path, capsys: Any) -> None:
    make_log(tmp_path / "audit", 3)
    assert run(["--state", str(tmp_path), "audit", "reach", "db", "--at", "2026-12-01T00:00:00Z"]) == 2
    assert "LM6095" in capsys.readouterr().err
    assert run(["--state", str(tmp_path), "can", "cart", "db:1", "--at", "2026-12-01T00:00:00Z"]) == 2
    assert "LM6095" in capsys.readouterr().err
