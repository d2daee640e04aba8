"""The guide to plans shows what its commands print: every one of them is run, in order, on the files beside it."""

import pathlib
import re
import shlex

import pytest

from limen.__main__ import run

GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "plan.md"


def test_every_command_of_the_guide_prints_what_the_guide_shows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(GUIDE.with_suffix(""))
    blocks = re.findall(r"```text\n(.*?)```", GUIDE.read_text("utf-8"), flags=re.DOTALL)
    listed = [part.partition("\n") for block in blocks for part in block.split("$ limen ")[1:]]
    assert len(listed) >= 9
    for line, _, expected in listed:
        status = run(shlex.split(line))
        done = capsys.readouterr()
        assert (done.out + done.err, status in {0, 1}) == (expected, True), line
