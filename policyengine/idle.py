"""Rules that decide nothing and that no look-up finds, from the decision diagram of their service.

What hangs on conditions cannot be looked up as `policyengine.shadowing` does: that a role is one of two, or that a deny
spares what another asks for, only the diagram knows, built with and without the rule (`idle`). Nor can what several
narrower paths cover together: no leaf of the diagram names such a rule (`unnamed`). Asked about are allows for which
the diagram is the whole truth:
they name methods, and paths or something of the request, so that what it leaves out (malformed methods, connections
that are not read) they never match. This module decides nothing.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Collection, Iterable, Iterator

from mesh.request import Effect
from policyengine.atoms import TooLarge
from policyengine.diagram import Builder, Leaf, leaves
from policyengine.ir import Grant, ServiceForm
from policyengine.model import TIERS
from policyengine.regions import Change, Region, regions_of, regions_of_forms, watched_regions
from policyengine.shadowing import Covered, Kind, Shadowing

_TIER = {tier: place for place, tier in enumerate(TIERS)}
MAX_TOGETHER = 24
"""How many other rules may speak of the same callers and paths: a diagram of more is too dear for a lint."""


def idle(form: ServiceForm, shadowing: Shadowing, left_out: Collection[Grant], now: dt.datetime) -> list[Covered]:
    """The rules on conditions without which every decision is the same; those in ``left_out`` count as if not there."""
    gone = {grant.rank for grant in left_out}
    found = []
    for grant in reversed(form.grants):
        if grant.rank in gone or not _is_asked(grant):
            continue
        beside = shadowing.beside(grant, MAX_TOGETHER)
        others = tuple(item for item in beside or () if item.rank not in gone)
        if not others:
            continue
        try:
            cover = _cover(dataclasses.replace(form, grants=others), grant, now)
        except TooLarge:
            continue
        if cover is not None:
            found.append(cover)
            gone.add(grant.rank)
    return found[::-1]


def unnamed(form: ServiceForm, left_out: Collection[Grant], now: dt.datetime) -> list[Covered]:
    """The rules that no leaf names, with those that decide where they match; those in ``left_out`` are not asked about.

    Of a service whose diagram is too large, none is found.
    """
    gone = {grant.rank for grant in left_out}
    asked = [grant for grant in form.grants if grant.rank not in gone and _is_whole(grant)]
    if not asked:
        return []
    found = []
    try:
        named = {
            leaf.verdicts[0].grant.rank
            for leaf in _leaves(regions_of_forms(form.service.name, (form,)), now)
            if leaf.verdicts[0].grant is not None
        }
        for grant in asked:
            if grant.rank not in named:
                without = dataclasses.replace(form, grants=tuple(item for item in form.grants if item is not grant))
                cover = _decided_instead(without, grant, now)
                found += [] if cover is None else [cover]
    except TooLarge:
        return found
    return found


def _is_asked(grant: Grant) -> bool:
    return _is_whole(grant) and (grant.when is not None or grant.unless_when is not None)


def _is_whole(grant: Grant) -> bool:
    """Whether the diagram is the whole truth about a grant."""
    if grant.effect is not Effect.ALLOW or grant.callers.incomplete or grant.callers.is_empty:
        return False
    reads = grant.when is not None and grant.when.reads_request
    return all(item.methods is not None and (item.paths is not None or reads) for item in grant.operations)


def _cover(without: ServiceForm, grant: Grant, now: dt.datetime) -> Covered | None:
    """Who decides instead of a grant among others, None if some decision hangs on it.

    1. Where the grant decides, another allow would; where it does not, nothing changes without it.
    2. Where it never decides, those are named that decide where it matches; what goes on to a later tier has been
       passed.
    """
    form = dataclasses.replace(without, grants=tuple(sorted((*without.grants, grant), key=lambda item: item.rank)))
    change = Change(service=form.service.name, old=form, new=without, changed=(grant,), is_whole=False)
    by: dict[int, Grant] = {}
    # (1)
    for leaf in _leaves(regions_of(change), now):
        before, after = leaf.verdicts
        if before.grant is None or before.grant.rank != grant.rank:
            continue
        if after.grant is None or after.grant.effect is not Effect.ALLOW:
            return None
        by[after.grant.rank] = after.grant
    if by:
        return Covered(grant=grant, kind="redundant", by=tuple(by[rank] for rank in sorted(by)))
    # (2)
    return _decided_instead(without, grant, now)


def _decided_instead(without: ServiceForm, grant: Grant, now: dt.datetime) -> Covered | None:
    """What decides where a grant matches that never decides."""
    by: dict[int, Grant] = {}
    passing = [item for item in without.grants if item.effect is Effect.PASS and item.tier == grant.tier]
    for leaf in _leaves(watched_regions(without, grant), now):
        decided, watched = leaf.verdicts
        if watched.grant is not None and (decided.grant is None or _TIER[decided.grant.tier] > _TIER[grant.tier]):
            by.update({item.rank: item for item in passing})
        elif watched.grant is not None and decided.grant is not None:
            by[decided.grant.rank] = decided.grant
    if not by:
        return None
    return Covered(grant=grant, kind=_kind(grant, by.values()), by=tuple(by[rank] for rank in sorted(by)))


def _leaves(regions: Iterable[Region], now: dt.datetime) -> Iterator[Leaf]:
    for region in regions:
        builder = Builder(region, now)
        for axes in region.ports:
            yield from leaves(builder.tree(axes))


def _kind(grant: Grant, by: Collection[Grant]) -> Kind:
    if any(other.tier == grant.tier and other.effect is grant.effect for other in by):
        return "redundant"
    return "shadowed" if any(other.tier == grant.tier for other in by) else "unreachable"
