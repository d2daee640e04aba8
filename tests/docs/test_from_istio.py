"""The guide from Istio shows what its commands print: every one of them is run, in order, on the files beside it."""

import pathlib
import re
import shlex
import shutil

import pytest
from click.testing import CliRunner

from limen.cli.main import cli

GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "from-istio.md"


def commands() -> list[tuple[list[str], str]]:
    """The commands of the guide with what it says they print."""
    found = []
    for block in re.findall(r"```text\n(.*?)```", GUIDE.read_text("utf-8"), flags=re.DOTALL):
        for part in block.split("$ limen ")[1:]:
            line, _, rest = part.partition("\n")
            found.append((shlex.split(line), rest))
    return found


def test_every_command_of_the_guide_prints_what_the_guide_shows(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "files"
    shutil.copytree(GUIDE.with_suffix(""), files)
    monkeypatch.chdir(files)
    listed = commands()
    assert len(listed) >= 12
    for words, expected in listed:
        done = CliRunner().invoke(cli, words)
        assert done.exit_code in {0, 1}, words
        # data goes to stdout, talk to stderr: a terminal shows the one before the other
        assert done.stdout + done.stderr == expected, words


def test_the_guide_quotes_the_file_that_it_imports_first() -> None:
    (quoted,) = re.findall(r"```yaml\n# viewer\.yaml\n(.*?)```", GUIDE.read_text("utf-8"), flags=re.DOTALL)
    assert quoted == (GUIDE.with_suffix("") / "viewer.yaml").read_text("utf-8")
