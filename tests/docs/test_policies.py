"""The guide to policies shows what its commands print: every one of them is run, in order, on the files beside it."""

import pathlib
import re
import shlex
import shutil

import pytest

from limen.__main__ import run

ROOT = pathlib.Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "policies.md"


def commands() -> list[tuple[list[str], str]]:
    """The commands of the guide with what it says they print."""
    found = []
    for block in re.findall(r"```text\n(.*?)```", GUIDE.read_text("utf-8"), flags=re.DOTALL):
        for part in block.split("$ limen ")[1:]:
            line, _, rest = part.partition("\n")
            found.append((shlex.split(line), rest))
    return found


def test_every_command_of_the_guide_prints_what_the_guide_shows(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(GUIDE.with_suffix(""), tmp_path, dirs_exist_ok=True)
    shutil.copytree(ROOT / "policies", tmp_path / "policies")
    monkeypatch.chdir(tmp_path)
    listed = commands()
    assert len(listed) >= 12
    for words, expected in listed:
        assert run(words) in {0, 1, 2}, words
        done = capsys.readouterr()
        # data goes to stdout, talk to stderr: a terminal shows the one before the other
        assert re.sub(r"sha256:[0-9a-f]{64}", "sha256:…", done.out + done.err) == expected, words


def test_the_guide_quotes_the_files_that_it_speaks_of() -> None:
    quoted = re.findall(r"```yaml\n# (\S+)\n(.*?)```", GUIDE.read_text("utf-8"), flags=re.DOTALL)
    assert len(quoted) == 3
    for name, text in quoted:
        assert text == (GUIDE.with_suffix("") / name).read_text("utf-8")
