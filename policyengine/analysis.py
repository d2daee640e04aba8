"""The plan of a change: exactly who gains and who loses access, each row with a witness that was replayed.

Both versions of a service are one decision diagram (`policyengine.diagram`) over classes of requests that no rule of
either tells apart; leaves where they differ become rows, and rows are all there is. Decisions count as they happen,
mode included: a switch to `observe` is newly allowed access. Outside of the diagram are requests that are refused
before any rule, callers without an identity and ports that no version declares. Nothing here is recorded.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable

from mesh.flow import Flow
from mesh.request import Effect
from mesh.uncollected import uncollected
from policyengine.atoms import TooLarge
from policyengine.finding import Finder, Key, Verdicts
from policyengine.folding import Because
from policyengine.ir import ANYTHING, Grant
from policyengine.model import Invariant, PolicySet, Principals
from policyengine.regions import changes_of, form_of, regions_of, watched_regions
from policyengine.replay import Counted, Impact, impact_of
from policyengine.rows import Difference, Row, reasons, rows_of
from policyengine.secondlook import Replayer


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
    """What a change does. ``is_complete``: the rows are all there is; false only if a diagram would be too large."""

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
        """Whether a reviewer must look at something: a difference, a broken invariant, what nobody could look at."""
        return not self.is_empty or not self.is_complete or any(not result.holds for result in self.invariants)

    def to_json(self) -> dict[str, object]:
        """The public JSON object."""
        return {
            "newly_allowed": [row.to_json() for row in self.newly_allowed],
            "newly_denied": [row.to_json() for row in self.newly_denied],
            "invariants": [result.to_json() for result in self.invariants],
            "impact": self.impact.to_json(),
            "complete": self.is_complete,
        }


def plan(old: PolicySet | None, new: PolicySet, flows: Iterable[Flow | Counted], now: dt.datetime) -> Plan:
    """Compare two versions. Without an old one everything was denied.

    1. Slice by called service: one whose slice is equal decides alike and is not looked at again.
    2. In a service that differs, take the regions that a changed grant can reach, or all when the service itself
       changed; from now on into the future: the end of an exception or of `observe` is a bound too.
    3. Build the diagram of both versions; EVERY leaf where they differ is in a row.
    4. Replay EVERY row's witness with both evaluators.
    5. Check EVERY invariant of the new version on all regions that it speaks of.
    6. Replay recorded flows under both.
    """
    with uncollected():
        return _plan(PolicySet() if old is None else old, new, flows, now)


def _plan(before: PolicySet, new: PolicySet, flows: Iterable[Flow | Counted], now: dt.datetime) -> Plan:
    is_complete = True
    gains: list[Difference] = []
    losses: list[Difference] = []
    # (1)
    changes = changes_of(before, new)
    for change in changes:
        finder = Finder(now, _changed(change.service))
        # (2)
        for region in regions_of(change):
            # (3)
            try:
                found = finder.differences_in(region)
            except TooLarge:
                is_complete = False
                continue
            for effect, difference in found:
                (gains if effect is Effect.ALLOW else losses).append(difference)
    # (4)
    replayer = Replayer(before, new, changes)
    rows = []
    for listed, was, becomes in ((gains, Effect.DENY, Effect.ALLOW), (losses, Effect.ALLOW, Effect.DENY)):
        try:
            rows.append(tuple(replayer.replayed(row, was, becomes) for row in rows_of(listed, now, joins=True)))
        except TooLarge:
            is_complete = False
            rows.append(())
    # (5)
    invariants, was_all_checked = _check_invariants(before, new, replayer, now)
    # (6)
    impact = impact_of(before, new, flows, now, changed={change.service for change in changes})
    return Plan(
        newly_allowed=rows[0],
        newly_denied=rows[1],
        invariants=invariants,
        impact=impact,
        is_complete=is_complete and was_all_checked,
    )


def _changed(service: str) -> Key:
    """Where two versions differ: what happens now, and why."""

    def key(verdicts: Verdicts) -> tuple[Effect, Because] | None:
        before, after = verdicts
        return None if before.effect is after.effect else (after.effect, reasons(before, after, service))

    return key


def allowed_and_watched(service: str) -> Key:
    """What the first version allows of what the only grant of the second one speaks of."""

    def key(verdicts: Verdicts) -> tuple[Effect, Because] | None:
        verdict, watched = verdicts
        if verdict.effect is not Effect.ALLOW or watched.grant is None:
            return None
        return Effect.ALLOW, reasons(verdict, verdict, service)

    return key


def _check_invariants(
    before: PolicySet, after: PolicySet, replayer: Replayer, now: dt.datetime
) -> tuple[tuple[InvariantResult, ...], bool]:
    """Check every invariant of the new version, and name those that the change removes."""
    results: list[InvariantResult] = []
    was_all_checked = True
    for invariant in sorted(after.invariants, key=lambda item: item.name):
        row: Row | None = None
        try:
            rows = allowed_rows(after, invariant.service, _as_grant(after, invariant), now)
            row = next((replayer.replayed(found, None, Effect.ALLOW) for found in rows), None)
        except TooLarge:
            was_all_checked = False
        results.append(InvariantResult(name=invariant.name, service=invariant.service, row=row))
    kept = {invariant.name for invariant in after.invariants}
    results += [
        InvariantResult(name=invariant.name, service=invariant.service, row=None, is_removed=True)
        for invariant in before.invariants
        if invariant.name not in kept
    ]
    return tuple(results), was_all_checked


def broken_invariants(policies: PolicySet, now: dt.datetime) -> tuple[str, ...]:
    """The invariants of a policy set that do not hold, by name; one that cannot be looked at whole is among them."""
    broken = []
    for invariant in policies.invariants:
        try:
            if allowed_rows(policies, invariant.service, _as_grant(policies, invariant), now):
                broken.append(invariant.name)
        except TooLarge:
            broken.append(invariant.name)
    return tuple(sorted(broken))


def allowed_rows(policies: PolicySet, service: str, watched: Grant, now: dt.datetime) -> tuple[Row, ...]:
    """What a version allows of what a grant speaks of.

    Raises TooLarge.
    """
    form = form_of(policies, service)
    if form is None:
        return ()
    finder = Finder(now, allowed_and_watched(service))
    found = [difference for region in watched_regions(form, watched) for _, difference in finder.differences_in(region)]
    return rows_of(found, now)


def _as_grant(policies: PolicySet, invariant: Invariant) -> Grant:
    """An invariant as a grant that speaks of what it forbids; whom nothing defines could be anybody."""
    callers = policies.expand(invariant.from_)
    return Grant(
        rank=0,
        tier="guardrail",
        effect=Effect.ALLOW,
        policy=invariant.name,
        rule="",
        callers=Principals(is_any=True, patterns=()) if callers.incomplete else callers,
        operations=invariant.to or (ANYTHING,),
    )
