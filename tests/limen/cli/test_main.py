import importlib
import pathlib

import click
import pytest

from limen.cli.main import COMMANDS, cli, default_state, hoist


@pytest.mark.parametrize("name", COMMANDS)
def test_every_listed_command_can_be_imported(name: str) -> None:
    module, attribute, text = COMMANDS[name]
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert text.endswith(".")
    assert cli.get_command(click.Context(cli), name) is command


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["status", "--state", "x", "-o", "json"], ["--state", "x", "status", "-o", "json"]),
        (["run", "--", "p", "--state", "x"], ["run", "--", "p", "--state", "x"]),
        (["run", "--state=x", "--", "p"], ["--state=x", "run", "--", "p"]),
        (["up", "--state"], ["up", "--state"]),
        (["x", "--server", "u"], ["--server", "u", "x"]),
    ],
    ids=str,
)
def test_state_and_server_may_stand_anywhere_before_the_dashes(args: list[str], expected: list[str]) -> None:
    assert hoist(args) == expected


def test_the_default_state_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert default_state() == pathlib.Path("/x/limen")
