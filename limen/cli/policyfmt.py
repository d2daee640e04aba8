"""`limen policy fmt`: bring the files of a policy tree into their one form, comments included."""

from __future__ import annotations

import difflib
import pathlib

import click

from limen.cli import render
from limen.cli.context import tree_option
from limen.files import replace_file
from mesh.problems import Diagnostic, Invalid, NotFound, Span
from mesh.yamlio import compose_documents
from policyengine.formatting import formatted
from policyengine.treefiles import read_files


@click.command()
@tree_option("The directory of the policy tree, or one file of it.")
@click.option("--check", "is_check", is_flag=True, help="Write nothing; exit 1 when a file would change.")
@click.option("--diff", "is_diff", is_flag=True, help="Write nothing; show what would change.")
@click.pass_context
def fmt(ctx: click.Context, tree: pathlib.Path, *, is_check: bool, is_diff: bool) -> None:
    """Format policy files and keep their comments; a file changes in form, never in meaning.

    Exit status 2 when a file is not well-formed or cannot be formatted; then nothing is written.
    """
    if not tree.exists():
        raise NotFound("LM2022", file=str(tree), reason="it is not there")
    results, found = _format(tree)
    # all or nothing: a tree that is half formatted helps nobody
    if found:
        render.diagnostics(found)
        raise Invalid("LM2203", path=str(tree), count=f"{len(found)} error{'s' if len(found) > 1 else ''}")
    changed = [item for item in results if item[1] != item[2]]
    for path, before, after in changed:
        if is_diff:
            lines = difflib.unified_diff(
                before.splitlines(keepends=True), after.splitlines(keepends=True), str(path), f"{path} (formatted)"
            )
            render.line("".join(lines).rstrip("\n"))
        elif is_check:
            render.line(
                str(Diagnostic(code="LM2710", span=Span(file=str(path), line=1, column=1), facts={"file": str(path)}))
            )
        else:
            try:
                replace_file(path, after.encode())
            except OSError as err:
                raise Invalid("LM2713", file=str(path), reason=err.strerror or "it cannot be written") from err
            render.line(str(path))
    done = "would change" if is_check or is_diff else "changed"
    render.say(f"{len(changed)} {done}, {len(results) - len(changed)} as they are")
    ctx.exit(1 if is_check and changed else 0)


def _format(tree: pathlib.Path) -> tuple[list[tuple[pathlib.Path, str, str]], list[Diagnostic]]:
    """The files of a tree, each with its text and the text it should have, and all that stands against it."""
    files, found = read_files(tree)
    results: list[tuple[pathlib.Path, str, str]] = []
    for file in files:
        if file.is_module:
            continue
        wrong = compose_documents(file.text, str(file.path))[1]
        found.extend(wrong)
        if not wrong:
            try:
                results.append((file.path, file.text, formatted(file.text, str(file.path))))
            except Invalid as problem:
                place = problem.span or Span(file=str(file.path), line=1, column=1)
                found.append(Diagnostic(code=problem.code, span=place, facts=problem.facts))
    return results, found
