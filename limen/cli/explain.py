"""`limen explain CODE`: the page of a code, offline."""

from __future__ import annotations

import importlib.resources
import pathlib

import click

from limen.cli import render
from mesh.problems import NotFound, catalogue


@click.command()
@click.argument("code")
def explain(code: str) -> None:
    """Explain a code such as LM2104."""
    name = code.upper()
    entry = catalogue().get(name)
    if entry is None:
        raise NotFound("LM5208", given=code)
    page = pathlib.Path(str(importlib.resources.files("limen"))).parent / "docs" / "diagnostics" / f"{name}.md"
    if page.is_file():
        render.line(page.read_text("utf-8").rstrip("\n"))
        return
    render.line(f"{name} {entry['name']} ({entry['severity']})")
    render.line(f"  {entry['message']}")
    render.line(f"  {entry['help']}")
