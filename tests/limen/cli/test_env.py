import pathlib

import pytest

from limen.__main__ import run


def test_it_prints_what_a_shell_can_read(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--state", f"{tmp_path}/with space", "env"]) == 0
    assert capsys.readouterr().out == f"export SPIFFE_ENDPOINT_SOCKET='unix://{tmp_path}/with space/agent.sock'\n"
