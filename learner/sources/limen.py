"""Reads flows in Limen's own JSON Lines form, bounded, with a finding for every line that is none."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator

from learner.sources.ledger import Ledger
from learner.sources.rows import Input, Object, Outcome, json_object, read_objects
from mesh.flow import Flow, flow_from_json
from mesh.problems import Diagnostic


def read_flows(path: pathlib.Path, findings: list[Diagnostic], ledger: Ledger) -> Iterator[Flow]:
    """Read the flows of a file; lines that are none go to ``findings`` (the first hundred with their place).

    Raises Invalid LM4001 when the file cannot be read.
    """
    return read_objects(Input(path, findings, ledger), _flow)


def recognises(head: bytes) -> bool:
    """Whether the first line is a flow."""
    try:
        return {"start", "destination_port", "protocol"} <= set(json_object(head.lstrip().partition(b"\n")[0]))
    except (ValueError, RecursionError):
        return False


def _flow(row: Object) -> Iterable[Outcome]:
    return (flow_from_json(row),)
