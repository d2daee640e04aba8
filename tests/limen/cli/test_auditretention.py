import pathlib
from typing import Any

import pytest

from limen.__main__ import run


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["prune"], 2, "--before"),
        (["prune", "--before", "yesterday"], 2, "LM6050"),
        (["prune", "--before", "2026-01-01T00:00:00Z"], 3, "LM5201"),
        (["hold", "add", "--service", "db"], 2, "--reason"),
        (["hold", "add", "--since", "x", "--reason", "r"], 2, "LM6050"),
        (["hold", "list"], 3, "LM5201"),
        (["hold", "release", "../x"], 2, "26 letters"),
        (["hold", "release", "01J"], 3, "LM5201"),
    ],
)
def test_what_needs_a_server_says_so(
    tmp_path: pathlib.Path, capsys: Any, words: list[str], status: int, said: str
) -> None:
    assert run(["--state", str(tmp_path), "audit", *words]) == status
    assert said in capsys.readouterr().err
