import pathlib

import pytest

from limen.__main__ import run


def test_it_prints_what_a_shell_can_read(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--state", f"{tmp_path}/it's a name", "env"]) == 0
    # a URI holds no space and no quote; what it holds, a shell takes as it is
    assert capsys.readouterr().out == f"export SPIFFE_ENDPOINT_SOCKET=unix://{tmp_path}/it%27s%20a%20name/agent.sock\n"
