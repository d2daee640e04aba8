import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.system


def agent(state: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "limen", "--state", str(state), "agent", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_first_start_needs_a_token(tmp_path: pathlib.Path) -> None:
    done = agent(tmp_path, "--join", "https://127.0.0.1:1")
    assert done.returncode == 2
    assert "LM3445" in done.stderr


def test_a_token_of_another_server_is_refused(
    installation: Any, make_installation: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    other = make_installation()
    token = other.json("token", "create")["token"]
    url = installation.address("server", "tls")
    done = agent(tmp_path, "--join", url, "--token", token)
    assert done.returncode == 4
    assert "LM3442" in done.stderr
    assert token not in done.stderr


def test_a_second_host_joins_serves_and_leaves(
    installation: Any, tmp_path: pathlib.Path, until: Callable[..., Any]
) -> None:
    found = installation.json("token", "create")
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "limen",
            "--state",
            str(tmp_path),
            "agent",
            "--join",
            installation.address("server", "tls"),
            "--token",
            found["token"],
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready agent\n"
        assert len([row for row in installation.json("status")["agents"] if row["is_connected"]]) == 2
        process.terminate()
        assert process.wait(timeout=30) == 0
    assert not (tmp_path / "agent.sock").exists()
    until(lambda: len([row for row in installation.json("status")["agents"] if row["is_connected"]]) == 1)
