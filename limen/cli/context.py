"""What every command shares: the state directory, the server's address, and the `-o` option."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import click

from limen.cli.main import default_state

F = TypeVar("F", bound=Callable[..., Any])


def output_option(*choices: str) -> Callable[[F], F]:
    """Add `-o`; the first choice is the default."""
    return click.option("-o", "--output", type=click.Choice(choices), default=choices[0], help="How to print the data.")


def tree_option(text: str = "The directory of the policy tree.") -> Callable[[F], F]:
    """Add `--policies`, which is needed: a tree as an argument that is named so."""
    return click.option("--policies", "tree", type=click.Path(path_type=pathlib.Path), required=True, help=text)


def _shared() -> dict[str, Any]:
    found = click.get_current_context().find_root().obj
    return found if isinstance(found, dict) else {}


def state() -> pathlib.Path:
    """The state directory of this invocation, absolute."""
    return pathlib.Path(_shared().get("state") or default_state()).absolute()


def is_state_given() -> bool:
    """Whether the state directory was named, by option or environment."""
    return bool(_shared().get("state_given"))


def server() -> str | None:
    """The remote server's URL of this invocation, None for the local socket."""
    value = _shared().get("server")
    return str(value) if value else None
