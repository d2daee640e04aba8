"""What a service allows, as a list of boxes: the one form that every compiler of other programs' policies reads.

By design D3 a request is allowed when, in some tier, an allow matches, and neither a deny of this tier or an earlier
one nor a pass of this tier does. (An allow of an earlier tier may also end the search, but then it allowed.) So what is
allowed is a union of allows from which denies and passes are cut. Targets with a deny of their own may take the denies
that cut everything as they are. This module knows no target.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from mesh.problems import Span
from mesh.request import Effect, Protocol
from mesh.spiffe import SpiffePattern
from policyengine import model
from policyengine.canonical import PathPattern
from policyengine.compile.boxes import (
    CALLERS,
    HOSTS,
    NETWORKS,
    PATHS,
    WORDS,
    Box,
    Field,
    Test,
    Unsayable,
    field_of,
    meet,
    subtract,
    without_covered,
)
from policyengine.ir import Grant, ServiceForm

INVALID_TOKEN = "urn:limen:no-such-issuer"  # noqa: S105  an issuer, not a secret
"""Nobody is this issuer, so a deny that asks for it holds only where claims are unknown: a token does not verify."""

MAX_BOXES = 2000
"""More pieces than this of one service are refused: nobody could review them."""


class TooManyPieces(Exception):  # noqa: N818  not an error: the compiler refuses the service
    """Cutting denies out of allows gives more than MAX_BOXES pieces."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Requests on one port that a grant lets through (or, as a deny, stops)."""

    port: int
    protocol: Protocol
    box: Box
    policy: str
    rule: str
    span: Span | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """What a service allows: ``allows`` minus ``denies``.

    ``denies`` is empty unless they were asked for; then it holds the denies that cut every allow they meet.
    """

    allows: tuple[Piece, ...]
    denies: tuple[Piece, ...] = ()


def allowed_of(form: ServiceForm, *, with_denies: bool = False) -> Allowed:
    """What a service allows.

    1. Per port, EVERY allow of a tier, minus EVERY pass of the tier and EVERY deny of the tier and those before it.
    2. With ``with_denies`` a deny that meets no allow of an earlier tier is kept whole and cut nowhere.
    3. Pieces that others cover are left out.

    Raises TooManyPieces.
    """
    allows: list[Piece] = []
    denies: list[Piece] = []
    for port, protocol in sorted(form.protocols.items()):
        by_effect = {
            (tier, effect): [
                (grant, boxes_of(grant, port, protocol))
                for grant in form.grants
                if grant.tier == tier and grant.effect is effect
            ]
            for tier in model.TIERS
            for effect in Effect
        }
        cutting: list[Box] = []
        before: list[Box] = []
        found: list[tuple[Grant, Box]] = []
        for tier in model.TIERS:
            for grant, boxes in by_effect[tier, Effect.DENY]:
                # (2)
                if with_denies and not any(_overlap(box, other) for box in boxes for other in before):
                    denies += [_piece(grant, port, protocol, box) for box in boxes]
                else:
                    cutting += boxes
            passing = [box for _, boxes in by_effect[tier, Effect.PASS] for box in boxes]
            # (1)
            for grant, boxes in by_effect[tier, Effect.ALLOW]:
                left = cut(boxes, (*cutting, *passing))
                found += [(grant, box) for box in left]
                before += boxes
        # (3)
        kept = without_covered([box for _, box in found])
        for grant, box in found:
            if any(box is other for other in kept):
                allows.append(_piece(grant, port, protocol, box))
    return Allowed(allows=tuple(allows), denies=tuple(denies))


def cut(boxes: Iterable[Box], cutting: Iterable[Box]) -> list[Box]:
    """The boxes without what the others hold.

    Raises TooManyPieces.
    """
    left = list(boxes)
    for other in cutting:
        left = without_covered([piece for box in left for piece in subtract(box, other)])
        if len(left) > MAX_BOXES:
            raise TooManyPieces
    return left


def boxes_of(grant: Grant, port: int, protocol: Protocol) -> list[Box]:
    """A grant on one port: one box for each operation, cut by `unless`."""
    callers = _callers(grant.callers, grant.effect)
    if callers is None or _is_never(grant.when):
        return []
    conditions = _conditions(grant.when)
    if grant.until is not None:
        test = Test("until", grant.until.isoformat())
        conditions = dataclasses.replace(conditions, tests=conditions.tests | {test})
    found = []
    for operation in grant.operations:
        if operation.ports is not None and port not in operation.ports:
            continue
        if grant.source is not None and not grant.source.has_meaning(operation, protocol):
            continue
        base = Box(
            callers=callers,
            methods=_field(WORDS, operation.methods),
            hosts=_field(HOSTS, operation.hosts),
            paths=_everything(_field(PATHS, operation.paths)),
        )
        box = meet(base, conditions)
        if box is not None:
            found.append(box)
    if grant.unless_callers is None and grant.unless_when is None:
        return found
    spared = _conditions(grant.unless_when)
    if grant.unless_callers is not None:
        # an `unless` that names nobody spares nobody
        inside = _callers(grant.unless_callers, Effect.ALLOW)
        if inside is None:
            return found
        spared = dataclasses.replace(spared, callers=inside)
    return [piece for box in found for piece in subtract(box, spared)]


def _is_never(when: model.Conditions | None) -> bool:
    """Whether no known token can meet a condition."""
    return when is not None and when.claims is not None and when.claims.issuer == INVALID_TOKEN


def _overlap(one: Box, other: Box) -> bool:
    try:
        return meet(one, other) is not None
    except Unsayable:
        return True


def _piece(grant: Grant, port: int, protocol: Protocol, box: Box) -> Piece:
    return Piece(port=port, protocol=protocol, box=box, policy=grant.policy, rule=grant.rule, span=grant.span)


def _callers(found: model.Principals, effect: Effect) -> Field[SpiffePattern] | None:
    """Whom a grant names; None is nobody. What nothing defines is nobody in an allow, everybody otherwise."""
    if found.is_any or (found.incomplete and effect is not Effect.ALLOW):
        return Field()
    return field_of(CALLERS, found.patterns)


def _field(kind: object, values: tuple[object, ...] | None) -> Field:  # type: ignore[type-arg]
    if values is None:
        return Field()
    found = field_of(kind, values)  # type: ignore[arg-type]
    assert found is not None, "a model's lists are never empty"
    return found


def _everything(field: Field[PathPattern]) -> Field[PathPattern]:
    """`/**` is every path: no constraint."""
    if field.inside is not None and any(path.subtree and not path.segments for path in field.inside):
        return Field()
    return field


def _conditions(when: model.Conditions | None) -> Box:
    if when is None:
        return Box()
    tests: set[Test] = set()
    if when.claims is not None:
        tests.add(Test("claims", "iss", (when.claims.issuer,)))
        tests |= {Test("claims", name, values) for name, values in when.claims.values}
    if when.forwarded_ip is not None:
        tests.add(Test("forwarded_ip", "", tuple(map(str, when.forwarded_ip))))
    if when.hours is not None:
        hours = when.hours
        tests.add(Test("hours", f"{hours.start.isoformat()}-{hours.end.isoformat()} {hours.tz}"))
    if when.rego is not None:
        tests.add(Test("rego", when.rego))
    return Box(
        headers=tuple((name, _field(WORDS, values)) for name, values in when.headers or ()),
        peers=_field(NETWORKS, when.peer_ip),
        tests=frozenset(tests),
    )
