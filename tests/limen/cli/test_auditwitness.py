import pathlib
from typing import Any

import pytest

from limen.__main__ import run
from tests.audit.making import make_log


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--name", "w.test"], "--log"),
        (["--name", "w.test", "--log", "x+y+z"], "LM6030"),
        (["--name", "w.test", "--log", "/nonexistent"], "LM6053"),
        (["--name", "w test", "--log", "KEY"], "LM6030"),
        (["--name", "w.test", "--log", "KEY", "--listen", "nowhere"], "LM5212"),
    ],
)
def test_a_witness_that_cannot_run_says_why(tmp_path: pathlib.Path, capsys: Any, words: list[str], code: str) -> None:
    key = make_log(tmp_path / "audit", 1).strip()
    found = [key if word == "KEY" else word for word in words]
    assert run(["--state", str(tmp_path), "audit", "witness", *found]) == 2
    assert code in capsys.readouterr().err


def test_verify_misses_a_witness_that_did_not_cosign(tmp_path: pathlib.Path, capsys: Any) -> None:
    make_log(tmp_path / "audit", 3)
    key = "w.test/one+e08c4432+BOkK2Nn6i6Zz4r/jPkN4KXIATInjf01oyefTFgf1aTcp"
    assert run(["--state", str(tmp_path), "audit", "verify", "--witness", key]) == 1
    assert "LM6088" in capsys.readouterr().err
