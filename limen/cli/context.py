"""What every command shares: the state directory, the server's address, and the options that repeat.

A subcommand may be given `--state` itself too; then that one wins.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import click

from limen.cli.main import default_state

F = TypeVar("F", bound=Callable[..., Any])


def _remember(ctx: click.Context, param: click.Parameter, value: object) -> object:
    if value is not None:
        ctx.ensure_object(dict)[param.name] = value
    return value


def state_option(command: F) -> F:
    """Add `--state` and `--server` to a command; their values are read by `state` and `server`."""
    for name, kind, text in (
        ("server", str, "URL of a remote server."),
        ("state", click.Path(path_type=pathlib.Path), "Directory with all state of a local installation."),
    ):
        command = click.option(
            f"--{name}", type=kind, default=None, expose_value=False, callback=_remember, help=text
        )(command)
    return command


def output_option(*choices: str) -> Callable[[F], F]:
    """Add `-o`; the first choice is the default."""
    return click.option(
        "-o", "--output", type=click.Choice(choices), default=choices[0], help="How to print the data."
    )


def state() -> pathlib.Path:
    """The state directory of this invocation."""
    found = click.get_current_context().find_root().obj or {}
    here = click.get_current_context().obj or {}
    return pathlib.Path(here.get("state") or found.get("state") or default_state())


def server() -> str | None:
    """The remote server's URL of this invocation, None for the local socket."""
    here = click.get_current_context().obj or {}
    value = here.get("server")
    return str(value) if value else None
