"""Commands of `limen audit` on a log of three hundred records, one a second."""

import json
import pathlib
from typing import Any

from limen.__main__ import run
from tests.audit.making import make_log


def made(folder: pathlib.Path) -> pathlib.Path:
    """The state that holds it."""
    make_log(folder / "audit", 300)
    return folder


def call(state: pathlib.Path, *words: str) -> int:
    """The exit status of a command."""
    return run(["--state", str(state), "audit", *words])


def rows(capsys: Any) -> list[dict[str, Any]]:
    """What it printed, a JSON object a line."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]
