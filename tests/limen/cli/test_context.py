import pathlib

import click
from click.testing import CliRunner

from limen.cli import context


def test_what_commands_share_is_read_from_the_root() -> None:
    @click.command()
    @context.output_option("table", "json")
    def command(output: str) -> None:
        click.echo(f"{context.state()} {context.is_state_given()} {context.server()} {output}")

    runner = CliRunner()
    shared = {"state": pathlib.Path("/s"), "state_given": True, "server": "https://x"}
    assert runner.invoke(command, ["-o", "json"], obj=shared).output == "/s True https://x json\n"
    assert runner.invoke(command, [], obj={"state": pathlib.Path("/s")}).output == "/s False None table\n"
    assert runner.invoke(command, ["-o", "xml"]).exit_code == 2
