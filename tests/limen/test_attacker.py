import json
import pathlib
import subprocess
import sys

from limen.attacker import ask


def test_nobody_listening_gives_no_identity(tmp_path: pathlib.Path) -> None:
    assert ask(str(tmp_path / "none"))["ids"] == []


def test_it_runs_as_a_process_of_its_own(tmp_path: pathlib.Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "limen.attacker", str(tmp_path / "none")], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["status"] == "UNAVAILABLE"
