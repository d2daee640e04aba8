"""`limen policy fmt`: bring the files of a policy tree into their one form, comments included."""

from __future__ import annotations

import difflib
import os
import pathlib
import tempfile

import click

from limen.cli import render
from mesh.problems import Diagnostic, Invalid, NotFound, Span
from mesh.yamlio import compose_documents
from policyengine.formatting import formatted
from policyengine.treefiles import read_files


@click.command()
@click.option(
    "--policies",
    "tree",
    type=click.Path(path_type=pathlib.Path),
    required=True,
    help="The directory of the policy tree, or one file of it.",
)
@click.option("--check", "is_check", is_flag=True, help="Write nothing; exit 1 when a file would change.")
@click.option("--diff", "is_diff", is_flag=True, help="Write nothing; show what would change.")
@click.pass_context
def fmt(ctx: click.Context, tree: pathlib.Path, *, is_check: bool, is_diff: bool) -> None:
    """Format policy files and keep their comments; a file changes in form, never in meaning.

    Exit status 2 when a file is not well-formed or cannot be formatted; then nothing is written.
    """
    if not tree.exists():
        raise NotFound("LM2022", file=str(tree), reason="it is not there")
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
            _replace(path, after)
            render.line(str(path))
    done = "would change" if is_check or is_diff else "changed"
    render.say(f"{len(changed)} {done}, {len(results) - len(changed)} as they are")
    ctx.exit(1 if is_check and changed else 0)


def _replace(path: pathlib.Path, text: str) -> None:
    """Write a file at once, in place of the old one and with its rights; a link's target is replaced, not the link."""
    target = path.resolve()
    descriptor, name = tempfile.mkstemp(prefix=".limen-fmt-", dir=target.parent)
    temporary = pathlib.Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(target.stat().st_mode & 0o777)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
