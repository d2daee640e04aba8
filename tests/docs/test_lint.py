"""The guide to lint shows what its commands print, on the policies that are shipped."""

import pathlib
import re
import shlex
import shutil

import pytest
from click.testing import CliRunner

from limen.cli.main import cli
from policyengine.loader import load_text

ROOT = pathlib.Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "lint.md"


def test_the_commands_of_the_guide_print_what_it_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    # one of them writes
    shutil.copytree(ROOT / "policies", tmp_path / "policies")
    monkeypatch.chdir(tmp_path)
    shown = re.findall(r"```text\n\$ limen ([^\n]*)\n(.*?)```", GUIDE.read_text("utf-8"), flags=re.DOTALL)
    assert len(shown) == 3
    for words, expected in shown:
        done = CliRunner().invoke(cli, shlex.split(words))
        if expected.startswith("…\n"):  # a part of it
            assert expected.removeprefix("…\n") in done.output, words
        else:
            assert done.stdout + done.stderr == expected, words


def test_the_codes_of_the_guide_have_pages() -> None:
    codes = set(re.findall(r"LM\d{4}", GUIDE.read_text("utf-8")))
    assert len(codes) > 15
    assert [code for code in codes if not (ROOT / "docs" / "diagnostics" / f"{code}.md").is_file()] == []


def test_the_suppression_of_the_guide_is_read() -> None:
    (text,) = re.findall(r"```yaml\n(apiVersion.*?)```", GUIDE.read_text("utf-8"), flags=re.DOTALL)
    spec = "spec: {service: web, tier: app, rules: [{id: pages, effect: allow, from: [any]}]}\n"
    policies, found = load_text(text + spec, "x.yaml")
    assert {item.code for item in found} == {"LM2032"}
    assert [(item.code, item.rule) for item in policies.suppressions] == [("LM2108", "pages")]
