"""The plan of a change: exactly who gains and who loses access, each row with a witness that was replayed.

Requests fall into classes that no rule of either version tells apart (`policyengine.atoms`); one request of each
class that a changed rule can reach is decided under both versions, and classes with one answer become rows. Decisions
count as they happen, mode included: a switch to `observe` is newly allowed access. Requests that are refused before any
rule, callers without an identity and ports that no version declares are not asked about. Nothing here is recorded.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable

from mesh.flow import Flow
from mesh.request import Effect, Request
from policyengine import reference
from policyengine.decide import Index
from policyengine.ir import ANYTHING, Grant
from policyengine.model import Invariant, Operation, PolicySet
from policyengine.regions import Cell, PortAxes, Region, changes_of, form_of, regions_of, watched_regions
from policyengine.replay import Impact, impact_of
from policyengine.rows import Because, Difference, Row, reasons, rows_of

MAX_CELLS = 400_000
MAX_REPLAYED_RULES = 3_000_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InvariantResult:
    """Whether an invariant holds in the new version; ``row`` is a witness that it does not."""

    name: str
    service: str
    row: Row | None
    is_removed: bool = False

    @property
    def holds(self) -> bool:
        """Whether nobody whom it forbids gets through."""
        return self.row is None

    def to_json(self) -> dict[str, object]:
        """The JSON object in a plan."""
        out: dict[str, object] = {"invariant": self.name, "service": self.service, "holds": self.holds}
        if self.is_removed:
            out["removed"] = True
        if self.row is not None:
            out["violation"] = self.row.to_json()
        return out


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a change does. ``is_complete`` only if the rows provably are all there are."""

    newly_allowed: tuple[Row, ...]
    newly_denied: tuple[Row, ...]
    invariants: tuple[InvariantResult, ...]
    impact: Impact
    is_complete: bool

    @property
    def is_empty(self) -> bool:
        """Whether nobody gains and nobody loses access."""
        return not self.newly_allowed and not self.newly_denied

    @property
    def has_findings(self) -> bool:
        """Whether there is something that a reviewer must look at: a difference, or a broken invariant."""
        return not self.is_empty or any(not result.holds for result in self.invariants)

    def to_json(self) -> dict[str, object]:
        """The public JSON object."""
        return {
            "newly_allowed": [row.to_json() for row in self.newly_allowed],
            "newly_denied": [row.to_json() for row in self.newly_denied],
            "invariants": [result.to_json() for result in self.invariants],
            "impact": self.impact.to_json(),
            "complete": self.is_complete,
        }


def plan(old: PolicySet | None, new: PolicySet, flows: Iterable[Flow], now: dt.datetime) -> Plan:
    """Compare two versions. Without an old one everything was denied.

    1. Slice by called service: one whose slice is equal decides alike and is not looked at again.
    2. In a service that differs, cut what a changed grant can reach into cells, or everything when the service itself
       changed; from now on into the future: the end of an exception or of `observe` bounds a cell too.
    3. Decide a representative of EVERY cell under both versions; cells with the same change become rows.
    4. Replay EVERY row's witness with both evaluators.
    5. Check EVERY invariant of the new version on all cells that it speaks of.
    6. Replay recorded flows under both.
    """
    sides = _Sides(PolicySet() if old is None else old, new)
    gains: list[Difference] = []
    losses: list[Difference] = []
    is_complete = True
    # (1)
    changes = changes_of(sides.before, sides.after)
    for change in changes:
        # (2)
        for region in regions_of(change, now):
            is_complete = is_complete and region.is_complete
            # (3)
            if sides.afford(region):
                _compare(sides, region, gains, losses)
            else:
                is_complete = False
    # (4)
    newly_allowed = sides.replayed(rows_of(gains), Effect.DENY, Effect.ALLOW)
    newly_denied = sides.replayed(rows_of(losses), Effect.ALLOW, Effect.DENY)
    # (5)
    invariants, was_all_checked = _check_invariants(sides, now)
    # (6)
    impact = impact_of(sides.before, new, flows, now, changed={change.service for change in changes})
    return Plan(
        newly_allowed=newly_allowed,
        newly_denied=newly_denied,
        invariants=invariants,
        impact=impact,
        is_complete=is_complete and was_all_checked,
    )


class _Sides:
    """Both versions with their indices, and the work that may still be done."""

    def __init__(self, before: PolicySet, after: PolicySet) -> None:
        self.before, self.after = before, after
        self.old, self.new = Index(before, "old"), Index(after, "new")
        self._cells_left = MAX_CELLS
        self._rules_left = MAX_REPLAYED_RULES
        self._parts: dict[str, tuple[PolicySet, PolicySet]] = {}

    def afford(self, region: Region) -> bool:
        """Take a region's cells from the budget; False when it does not hold them."""
        if region.size > self._cells_left:
            return False
        self._cells_left -= region.size
        return True

    def replayed(self, rows: Iterable[Row], before: Effect | None, after: Effect) -> tuple[Row, ...]:
        """The rows, each saying whether its witness was replayed."""
        return tuple(dataclasses.replace(row, is_replayed=self._replay(row.witness, before, after)) for row in rows)

    def _replay(self, request: Request, before: Effect | None, after: Effect) -> bool:
        """Run index and reference evaluator on a witness, under both versions; True when all four say what they should.

        ``before`` None leaves open what the old version says. A witness beyond the budget is not replayed.
        """
        parts = self._parts.get(request.service)
        if parts is None:
            parts = (_part(self.before, request.service), _part(self.after, request.service))
            self._parts[request.service] = parts
        self._rules_left -= sum(len(policy.rules) for part in parts for policy in part.policies)
        if self._rules_left < 0:
            return False
        for part, index, expected in ((parts[0], self.old, before), (parts[1], self.new, after)):
            slow = reference.decide(part, request, snapshot=index.snapshot)
            if index.decide(request) != slow or (expected is not None and slow.effect is not expected):
                return False
        return True


def _part(policies: PolicySet, service: str) -> PolicySet:
    """What concerns one service: the slow evaluator need not read the rest."""
    return dataclasses.replace(
        policies,
        policies=policies.policies_for(service),
        exceptions=tuple(grant for grant in policies.exceptions if grant.service == service),
    )


def _compare(sides: _Sides, region: Region, gains: list[Difference], losses: list[Difference]) -> None:
    """Decide a region's cells under both versions and collect those that differ, by port, direction and reasons."""
    source = region.callers[0].witness
    old, new = sides.old.service(region.service), sides.new.service(region.service)
    found: dict[tuple[int, Effect, Because], tuple[PortAxes, list[Cell]]] = {}
    for axes, cell in region.cells():
        request = region.request(axes, cell, source)
        before = sides.old.decide(request) if old is None else old.decide(request)
        after = sides.new.decide(request) if new is None else new.decide(request)
        if before.effect is not after.effect:
            key = (axes.port, after.effect, reasons(before, after, region.service))
            found.setdefault(key, (axes, []))[1].append(cell)
    for (_, effect, because), (axes, cells) in found.items():
        target = gains if effect is Effect.ALLOW else losses
        target.append(Difference(region=region, axes=axes, because=because, cells=tuple(cells)))


def _check_invariants(sides: _Sides, now: dt.datetime) -> tuple[tuple[InvariantResult, ...], bool]:
    """Check every invariant of the new version, and name those that the change removes."""
    results: list[InvariantResult] = []
    was_all_checked = True
    for invariant in sorted(sides.after.invariants, key=lambda item: item.name):
        form = form_of(sides.after, invariant.service)
        row: Row | None = None
        if form is not None:
            for region in watched_regions(form, _as_grant(sides.after, invariant), now):
                was_all_checked = was_all_checked and region.is_complete
                if not sides.afford(region):
                    was_all_checked = False
                elif row is None:
                    row = _violation(sides, region, invariant)
        results.append(InvariantResult(name=invariant.name, service=invariant.service, row=row))
    kept = {invariant.name for invariant in sides.after.invariants}
    results += [
        InvariantResult(name=invariant.name, service=invariant.service, row=None, is_removed=True)
        for invariant in sides.before.invariants
        if invariant.name not in kept
    ]
    return tuple(results), was_all_checked


def _as_grant(policies: PolicySet, invariant: Invariant) -> Grant:
    return Grant(
        rank=0,
        tier="guardrail",
        effect=Effect.DENY,
        policy=invariant.name,
        rule="",
        callers=policies.expand(invariant.from_),
        operations=invariant.to or (ANYTHING,),
    )


def _violation(sides: _Sides, region: Region, invariant: Invariant) -> Row | None:
    """The first request that an invariant forbids and the new version lets through."""
    for axes, cell in region.cells():
        if not any(_is_in(operation, axes, cell) for operation in invariant.to or (ANYTHING,)):
            continue
        request = region.request(axes, cell, region.callers[0].witness)
        decision = sides.new.decide(request)
        if decision.effect is Effect.ALLOW:
            because = reasons(decision, decision, region.service)
            difference = Difference(region=region, axes=axes, because=because, cells=(cell,))
            rows = sides.replayed(rows_of([difference]), None, Effect.ALLOW)
            return rows[0]
    return None


def _is_in(operation: Operation, axes: PortAxes, cell: Cell) -> bool:
    """Whether a cell is within an operation: cells never lie across its bounds."""
    if operation.ports is not None and axes.port not in operation.ports:
        return False
    if axes.protocol == "tcp":
        return not operation.reads_request
    if operation.methods is not None and cell.method not in operation.methods:
        return False
    host = axes.hosts[cell.host][1]
    if operation.hosts is not None and (host is None or not any(p.matches(host) for p in operation.hosts)):
        return False
    return operation.paths is None or any(p.matches(axes.paths[cell.path][1]) for p in operation.paths)
