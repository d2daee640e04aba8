import pathlib
import subprocess
import sys

import pytest

from limen.__main__ import run


def test_help_exits_0_and_an_unknown_command_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    assert "audit" in capsys.readouterr().out
    assert run(["polcy"]) == 2
    assert "did you mean `policy`?" in capsys.readouterr().err


def test_a_problem_exits_with_the_status_of_its_class(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--state", str(tmp_path), "status"]) == 3
    assert "LM5201" in capsys.readouterr().err
    assert run(["install", "kubernetes"]) == 2
    assert "LM0001" in capsys.readouterr().err
    assert run(["explain", "LM9999"]) == 2


def test_a_bug_exits_70_with_a_report_id(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import limen.cli.explain

    monkeypatch.setattr(limen.cli.explain, "catalogue", lambda: 1 / 0)
    assert run(["explain", "LM5201"]) == 70
    assert "LM0002" in capsys.readouterr().err


def test_python_m_limen_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "limen", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("limen, version ")


def test_help_imports_no_command() -> None:
    program = (
        "import sys; from limen.__main__ import run; run(['--help']); print(sorted(m for m in sys.modules if m in %r))"
    )
    heavy = ["structlog", "grpc", "pydantic", "sqlalchemy", "fastapi", "rich", "yaml", "cryptography"]
    done = subprocess.run([sys.executable, "-c", program % heavy], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
