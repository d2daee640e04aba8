"""Reads flows in Limen's own JSON Lines form, bounded, with a finding for every line that is none."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator

from mesh.flow import Flow, flow_from_json
from mesh.problems import Diagnostic, Invalid, Span

MAX_LINE_BYTES = 1 << 20
MAX_FINDINGS = 100


def read_flows(path: pathlib.Path, findings: list[Diagnostic]) -> Iterator[Flow]:
    """Read the flows of a file; lines that are none go to ``findings`` (the first hundred with their place).

    Raises Invalid LM4001 when the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                flow = _read_line(line, path, number, findings)
                if flow is not None:
                    yield flow
    except OSError as err:
        raise Invalid("LM4001", file=str(path), reason=err.strerror or str(err)) from err


def _read_line(line: bytes, path: pathlib.Path, number: int, findings: list[Diagnostic]) -> Flow | None:
    text = line.strip()
    if not text:
        return None
    try:
        if len(line) > MAX_LINE_BYTES:
            raise ValueError("the line is longer than 1 MiB")
        row = json.loads(text.decode("utf-8"))
        if not isinstance(row, dict):
            raise ValueError("a flow is a JSON object")
        return flow_from_json(row)
    except (ValueError, RecursionError, OverflowError) as err:
        if len(findings) < MAX_FINDINGS:
            place = Span(file=str(path), line=number, column=1)
            findings.append(Diagnostic(code="LM4002", span=place, facts={"reason": str(err)[:300]}))
        return None
