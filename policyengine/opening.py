"""What a change of policy newly allows: the rows of its plan, which are those of the decision diagram, and how much.

Every row is complete and its witness was replayed, as in every plan. This module tries nothing out.
"""

from __future__ import annotations

import dataclasses
import datetime as dt

from mesh.spiffe import SpiffePattern
from policyengine.analysis import plan
from policyengine.breadth import callers_breadth, operation_breadth, together
from policyengine.canonical import PathPattern
from policyengine.model import Operation, PolicySet, Principals
from policyengine.regions import ANY_CASE, OTHER
from policyengine.rows import Row

_PER_CONDITION = 4.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What is newly allowed; ``is_complete`` only if the rows are all."""

    rows: tuple[Row, ...] = ()
    is_complete: bool = True

    @property
    def breadth(self) -> float:
        """How much that is, on the scale of `policyengine.breadth`."""
        return together(map(_breadth, self.rows))


def opened(before: PolicySet, after: PolicySet, now: dt.datetime) -> Opening:
    """What a change newly allows from a moment on."""
    found = plan(dataclasses.replace(before, invariants=()), dataclasses.replace(after, invariants=()), (), now)
    return Opening(rows=found.newly_allowed, is_complete=found.is_complete)


def _breadth(row: Row) -> float:
    """How much a row holds; conditions take some of it away, whatever they are."""
    named = row.when.get("source_in")
    sources = [str(text) for text in named] if isinstance(named, list) else [row.source]
    is_any = sources == ["any"]
    callers = Principals(is_any=is_any, patterns=() if is_any else tuple(map(SpiffePattern.parse, sources)))
    operation = Operation(
        ports=(row.port,),
        methods=None if OTHER in row.methods or not row.methods else row.methods,
        paths=tuple(PathPattern.parse(text.removeprefix(ANY_CASE)) for text in row.paths) or None,
    )
    return (
        callers_breadth(callers) + operation_breadth(operation) - _PER_CONDITION * len(row.when.keys() - {"source_in"})
    )
