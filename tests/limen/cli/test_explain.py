import json

import pytest

from limen.__main__ import run


def test_a_code_is_explained_offline(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "lm5201"]) == 0
    assert "server-unreachable" in capsys.readouterr().out
    assert run(["explain", "nothing"]) == 2
    assert "LM5208" in capsys.readouterr().err


def test_a_code_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "LM2104", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "rule-shadowed"
