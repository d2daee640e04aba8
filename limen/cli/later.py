"""Commands that the public contract names and that a later version brings."""

from __future__ import annotations

import click

from mesh.problems import Invalid


def later(name: str) -> click.Command:
    """A command that says it is not there yet, whatever it is asked."""

    @click.command(name, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
    @click.argument("rest", nargs=-1, type=click.UNPROCESSED)
    def command(rest: tuple[str, ...]) -> None:
        del rest
        raise Invalid("LM0001", command=f"limen {name}")

    command.help = f"`limen {name}` is not part of this version."
    return command
