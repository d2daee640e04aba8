"""`limen policy explain`: why a request is decided as it is, or why a recorded one was."""

from __future__ import annotations

import pathlib

import click

from limen.cli.can import answer, question_options
from limen.cli.context import output_option
from limen.cli.explanations import show_recorded


@click.command()
@click.argument("question", nargs=-1, required=True, metavar="ID | SOURCE SERVICE[:PORT] [METHOD PATH]")
@question_options
@output_option("table", "json")
@click.pass_context
def explain(
    ctx: click.Context,
    question: tuple[str, ...],
    headers: tuple[str, ...],
    claims: pathlib.Path | None,
    policies: pathlib.Path | None,
    files: pathlib.Path | None,
    output: str,
    *,
    is_fix: bool,
) -> None:
    """Explain a request, or the recorded decision ID.

    Named are the deciding rule, what happened in each tier, the nearest miss and the smallest change that would allow
    the request. A recorded decision is explained by the policies that were in force; --policies or --files is then the
    tree whose files are named. Exit status 0 is allowed, 1 is denied; with --fix, 0 is that the tree allows it now.
    """
    if len(question) == 1 and is_fix:
        raise click.UsageError("--fix is for a request: a recorded decision was made by what was in force then")
    if len(question) == 1:
        ctx.exit(show_recorded(question[0], policies or files, output))
    ctx.exit(answer(question, headers, claims, policies, files, output, is_fix=is_fix))
