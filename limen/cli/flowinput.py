"""Which reader a file of traffic needs: named by the user, or told from its content, never guessed silently."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from learner.sources.formats import FORMATS, detect, read_source
from learner.sources.ledger import Ledger
from mesh.flow import Flow
from mesh.problems import Diagnostic

__all__ = ["FORMAT_NAMES", "detect", "format_help", "read_input"]
FORMAT_NAMES = ("auto", *FORMATS)


def format_help() -> str:
    """The help text of `--format`, which says what was never tried against its tool."""
    untried = ", ".join(item.name for item in FORMATS.values() if item.is_experimental)
    return "What it is." + (f" Experimental, since never tried against the real tool: {untried}." if untried else "")


def read_input(
    path: pathlib.Path, form: str, findings: list[Diagnostic], ledger: Ledger | None = None
) -> Iterator[Flow]:
    """Read the flows of a file; the ledger says what was seen, left out and lost when the last flow was taken.

    Raises Invalid LM4001 for an unreadable file, LM4007 for one that no reader knows, LM4014 for one that several do.
    """
    return read_source(path, form, findings, ledger)
