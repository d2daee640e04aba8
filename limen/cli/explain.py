"""`limen explain`: the page of a code, offline, or why a recorded decision came about."""

from __future__ import annotations

import importlib.resources
import pathlib

import click

from limen.cli import render
from limen.cli.context import output_option
from mesh.problems import NotFound, catalogue
from mesh.ulid import is_ulid


@click.command()
@click.argument("what", metavar="CODE|ID")
@click.option(
    "--policies",
    type=click.Path(exists=True, path_type=pathlib.Path),
    help="The tree whose files and lines are named, for a decision.",
)
@output_option("table", "json")
@click.pass_context
def explain(ctx: click.Context, what: str, policies: pathlib.Path | None, output: str) -> None:
    """Explain a code such as LM2104, or the recorded decision ID.

    For a decision the exit status is 0 when it allowed, 1 when it denied.
    """
    if is_ulid(what.upper()):
        from limen.cli.explanations import show_recorded  # noqa: PLC0415  a page needs none of it

        ctx.exit(show_recorded(what.upper(), policies, output))
    _explain_code(what, output)


def _explain_code(code: str, output: str) -> None:
    name = code.upper()
    entry = catalogue().get(name)
    if entry is None:
        raise NotFound("LM5208", given=code)
    if output == "json":
        render.data({"code": name, **entry})
        return
    page = pathlib.Path(str(importlib.resources.files("limen"))).parent / "docs" / "diagnostics" / f"{name}.md"
    if page.is_file():
        render.line(page.read_text("utf-8").rstrip("\n"))
        return
    render.line(f"{name} {entry['name']} ({entry['severity']})")
    render.line(f"  {entry['message']}")
    render.line(f"  {entry['help']}")
