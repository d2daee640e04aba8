"""What `limen flows capture` and `limen flows sockets` write: a line with the account of the capture, then its flows.

The account is what a file of flows alone has no place for: what the kernel dropped, what was sampled, cut or left
out. Several such files may stand one behind the other.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from learner.sources import fields
from learner.sources.ledger import Ledger
from learner.sources.rows import Input, Object, Outcome, json_object, read_objects
from mesh.flow import Flow, flow_from_json
from mesh.problems import Diagnostic

_KEY = "capture"
_COUNTS = ("lost", "gaps", "cut", "ambiguous")
_MAX_REASON = 200


def read_flows(path: pathlib.Path, findings: list[Diagnostic], ledger: Ledger) -> Iterator[Flow]:
    """The flows of a capture; its account becomes part of the ledger.

    Raises Invalid LM4001 when the file cannot be read.
    """
    return read_objects(Input(path, findings, ledger), lambda row: _outcomes(row, ledger))


def recognises(head: bytes) -> bool:
    """Whether the first line is the account of a capture."""
    try:
        row = json_object(head.lstrip().partition(b"\n")[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(row.get(_KEY), dict) and "start" not in row


def rows_of(ledger: Ledger, flows: Iterable[Flow]) -> Iterator[Mapping[str, Any]]:
    """The lines of a capture as JSON objects, the account first: it has to be complete by then."""
    yield {_KEY: ledger.to_json()}
    for flow in flows:
        yield flow.to_json()


def _outcomes(row: Object, ledger: Ledger) -> Iterable[Outcome]:
    if _KEY not in row or "start" in row:
        return (flow_from_json(row),)
    _take(fields.mapping(row, _KEY), ledger)
    return ()


def _take(account: Object, ledger: Ledger) -> None:
    """Add an account; nothing is added of one that is not whole.

    Raises ValueError.
    """
    sampled = fields.number("sampled", account.get("sampled"), 0, 1 << 32)
    counts = {name: fields.number(name, account.get(name)) for name in _COUNTS}
    skipped = fields.mapping(account, "skipped")
    numbers = {reason[:_MAX_REASON]: fields.number("skipped", count) for reason, count in skipped.items()}
    ledger.mark_sampled(sampled)
    for name, count in counts.items():
        setattr(ledger, name, getattr(ledger, name) + count)
    for reason, count in numbers.items():
        ledger.skip(reason, count)
