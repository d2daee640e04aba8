"""Which rules of a service decide what another one matches: all of it, a part of it, or the same twice.

A rule is called covered only where others decide EVERY request that it matches, requests with unknown attributes
included; callers without an identity are left out, because they are denied whatever a rule says. Every question is
answered by look-ups (caller, then path), so that the work grows with the rules and not with their pairs. What only
several narrower path patterns together would cover is not found. Nothing here decides a request.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from mesh.request import Effect
from mesh.spiffe import SpiffePattern
from policyengine import model
from policyengine.canonical import HostPattern, PathPattern
from policyengine.ir import EFFECT_ORDER, Grant, ServiceForm
from policyengine.patterntrie import PatternTrie

Kind = Literal["shadowed", "unreachable", "redundant"]
MAX_LOOKED_AT = 256
"""How many grants are looked at for one caller and path: a list of equals is not worth more, and none is missed in
silence that decides alone, because the widest come first."""
_UNDECLARED = 0
_OTHER = "*"
_TIER = {tier: place for place, tier in enumerate(model.TIERS)}
_KINDS: tuple[Kind, ...] = ("unreachable", "shadowed", "redundant")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Covered:
    """A grant that never decides (``redundant``: that need not), and those that decide in its place."""

    grant: Grant
    kind: Kind
    by: tuple[Grant, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """A grant of which a grant of an earlier tier with the opposite effect decides a part; ``part`` names one."""

    grant: Grant
    by: Grant
    part: str


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Box:
    """One operation of a grant."""

    grant: Grant
    operation: model.Operation

    def reads_unknown(self, field: object) -> bool:
        """Whether the box matches where an attribute is unknown: an allow only if it does not look at it."""
        return field is None or self.grant.effect is not Effect.ALLOW

    @property
    def width(self) -> int:
        """How much it leaves open; wide boxes are looked at first."""
        found = self.operation
        return sum(field is None for field in (found.ports, found.methods, found.hosts, found.paths))


@dataclasses.dataclass(frozen=True, slots=True)
class _Atom:
    """A class of requests on one path pattern: None is an unknown value, `*` one that no rule names."""

    port: int
    method: str | None
    host: HostPattern | str | None
    is_path_known: bool


class _Group:
    """The boxes that speak of one pattern of callers, by the conditions of their grants."""

    __slots__ = ("by_condition",)

    def __init__(self) -> None:
        self.by_condition: dict[object, PatternTrie[_Box]] = {}

    def insert(self, box: _Box) -> None:
        """Put a box under its condition and each of its paths."""
        trie = self.by_condition.get(_condition(box.grant))
        if trie is None:
            trie = self.by_condition[_condition(box.grant)] = PatternTrie()
        for pattern in box.operation.paths or (None,):
            trie.insert(pattern, box)


def _condition(grant: Grant) -> object:
    """What a grant asks beyond caller and operation; None for nothing."""
    if grant.when is None and grant.unless_when is None and grant.until is None:
        return None
    return (grant.when, grant.unless_callers, grant.unless_when, grant.until)


class Shadowing:
    """What the grants of one service leave of each other. Grants in ``ignored`` count as if they were not there."""

    def __init__(self, form: ServiceForm, ignored: Iterable[Grant] = ()) -> None:
        self._form = form
        self._ignored = {grant.rank for grant in ignored}
        self._any = _Group()
        self._exact: dict[str, _Group] = {}
        self._below: dict[str, _Group] = {}
        self._passes: list[list[Grant]] = [[] for _ in model.TIERS]
        for grant in sorted(form.grants, key=_width):
            if grant.rank in self._ignored:
                continue
            if grant.effect is Effect.PASS:
                # one whose callers are not known may undo an allow for anybody
                self._passes[_TIER[grant.tier]].append(grant)
            if grant.callers.incomplete:
                continue
            groups = [self._any] if grant.callers.is_any else []
            if not groups:
                for pattern in grant.callers.patterns:
                    table = self._below if pattern.subtree else self._exact
                    groups.append(table.setdefault(str(pattern.id), _Group()))
            for operation in grant.operations:
                for group in groups:
                    group.insert(_Box(grant, operation))
        self._named = sorted({*self._exact, *self._below})

    def covered(self) -> list[Covered]:
        """Every grant that others leave nothing to decide. Of grants that say the same the first one stays."""
        found: dict[int, Covered] = {}
        together: list[Grant] = []
        # what one other grant covers goes before what only several do, so that as much as possible stays one rule
        for grant in reversed(self._form.grants):
            if grant.rank in self._ignored or grant.callers.incomplete or grant.callers.is_empty:
                continue
            cover = self._cover(grant)
            if cover is not None and len(cover.by) > 1:
                together.append(grant)
            elif cover is not None:
                self._keep(cover, found)
        for grant in together:
            cover = self._cover(grant)
            if cover is not None:
                self._keep(cover, found)
        return [found[rank] for rank in sorted(found)]

    def _keep(self, cover: Covered, found: dict[int, Covered]) -> None:
        """Note a covered grant; a redundant one may not count for another."""
        found[cover.grant.rank] = cover
        if cover.kind == "redundant":
            self._ignored.add(cover.grant.rank)

    def _cover(self, grant: Grant) -> Covered | None:
        """Who decides instead of a grant, None if something is left to it.

        1. For EVERY pattern of its callers, operation and path pattern, and EVERY class of ports, methods, hosts and
           unknown attributes there, SOME grant decides.
        2. The worst that has to be said holds for the whole.
        """
        worst = 0
        by: dict[int, Grant] = {}
        for pattern in _callers(grant):
            for operation in grant.operations:
                atoms = self._atoms(grant, operation)
                for path in operation.paths or (None,):
                    # (1)
                    boxes = self._deciding(grant, pattern, path)
                    for atom in atoms:
                        box = next((box for box in boxes if self._holds(box, atom)), None)
                        if box is None:
                            return None
                        by[box.grant.rank] = box.grant
                        worst = max(worst, _KINDS.index(_kind(box.grant, grant)))
        # (2)
        if not by:
            return None
        return Covered(grant=grant, kind=_KINDS[worst], by=tuple(by[rank] for rank in sorted(by)))

    def _atoms(self, grant: Grant, operation: model.Operation) -> list[_Atom]:
        """The classes of requests that an operation of a grant matches, on one of its paths."""
        box = _Box(grant, operation)
        ports = list(operation.ports or self._form.protocols)
        if operation.ports is None and grant.effect is not Effect.ALLOW:
            ports.append(_UNDECLARED)
        # where nothing is named, what nobody names has to be covered too, and that covers the rest
        methods: list[str | None] = list(operation.methods or (_OTHER,))
        hosts: list[HostPattern | str | None] = list(operation.hosts or (_OTHER,))
        paths = [True]
        unknown = [box.reads_unknown(field) for field in (operation.methods, operation.hosts, operation.paths)]
        methods += [None] if unknown[0] else []
        hosts += [None] if unknown[1] else []
        paths += [False] if unknown[2] else []
        found = []
        for port in ports:
            if self._form.protocols.get(port) == "tcp":
                if all(unknown):
                    found.append(_Atom(port, None, None, is_path_known=False))
            else:
                for method, host, is_known in itertools.product(methods, hosts, paths):
                    found.append(_Atom(port, method, host, is_path_known=is_known))
        return found

    def _deciding(self, grant: Grant, pattern: SpiffePattern | None, path: PathPattern | None) -> list[_Box]:
        """The boxes of other grants that hold a pattern of callers and paths and decide before a grant."""
        found = []
        condition = _condition(grant)
        wanted = (None,) if condition is None else (None, condition)
        tries = [group.by_condition.get(key) for group in self._around(pattern) for key in wanted]
        boxes = (box for trie in tries if trie is not None for box in trie.including(path))
        for box in itertools.islice(boxes, MAX_LOOKED_AT):
            other = box.grant
            if other.rank != grant.rank and other.rank not in self._ignored and self._decides(other, grant, pattern):
                found.append(box)
        return sorted(found, key=lambda box: (_KINDS.index(_kind(box.grant, grant)), -box.width, box.grant.rank))

    def _decides(self, other: Grant, grant: Grant, pattern: SpiffePattern | None) -> bool:
        """Whether another grant decides before a grant, wherever it matches.

        1. In the same tier: a stronger effect, or the same one. In an earlier tier: a deny, or an allow that no pass
           of its tier can undo.
        2. It has no conditions, or the same ones; what is unknown keeps an allow from matching, but no deny.
        3. It spares none of the callers.
        """
        # (1)
        if other.tier == grant.tier:
            if EFFECT_ORDER[other.effect] > EFFECT_ORDER[grant.effect]:
                return False
        elif (
            _TIER[other.tier] > _TIER[grant.tier]
            or other.effect is Effect.PASS
            or (other.effect is Effect.ALLOW and self._may_pass(other.tier, pattern))
        ):
            return False
        # (2)
        if _condition(other) is not None:
            return other.effect is not Effect.ALLOW or grant.effect is Effect.ALLOW
        # (3)
        return not _spares(other, pattern) or other.unless_callers == grant.unless_callers

    def _may_pass(self, tier: model.Tier, pattern: SpiffePattern | None) -> bool:
        passes = self._passes[_TIER[tier]]
        if len(passes) > MAX_LOOKED_AT:
            return True
        return any(_speaks_of(found.callers, pattern) for found in passes if found.rank not in self._ignored)

    def _holds(self, box: _Box, atom: _Atom) -> bool:
        """Whether a box whose path fits matches a class of requests."""
        operation, allows = box.operation, box.grant.effect is Effect.ALLOW
        if operation.ports is not None and atom.port not in operation.ports:
            return False
        if allows and atom.port == _UNDECLARED:
            return False
        if atom.method is None:
            if not box.reads_unknown(operation.methods):
                return False
        elif operation.methods is not None and atom.method not in operation.methods:
            return False
        if atom.host is None:
            if not box.reads_unknown(operation.hosts):
                return False
        elif operation.hosts is not None and not any(_holds_host(host, atom.host) for host in operation.hosts):
            return False
        return atom.is_path_known or box.reads_unknown(operation.paths)

    def _around(self, pattern: SpiffePattern | None) -> Iterator[_Group]:
        """The groups whose callers hold a pattern (None is everybody)."""
        yield self._any
        if pattern is None:
            return
        text = str(pattern.id)
        if not pattern.subtree and text in self._exact:
            yield self._exact[text]
        if pattern.subtree and text in self._below:
            yield self._below[text]
        while text.count("/") > 2:
            text = text.rpartition("/")[0]
            if text in self._below:
                yield self._below[text]

    def _inside(self, pattern: SpiffePattern | None) -> Iterator[_Group]:
        """The groups whose callers are some of a pattern's, but not all."""
        if pattern is not None and not pattern.subtree:
            return
        stem = "" if pattern is None else f"{pattern.id}/"
        for place in range(bisect.bisect_left(self._named, stem), len(self._named)):
            text = self._named[place]
            if not text.startswith(stem):
                return
            for table in (self._exact, self._below):
                if text in table:
                    yield table[text]

    def beside(self, grant: Grant, most: int) -> list[Grant] | None:
        """The other grants that share a caller and a path with one, on any conditions; None when they are too many."""
        found: dict[int, Grant] = {}
        looked_at = 0
        for pattern in _callers(grant):
            for group in itertools.chain(self._around(pattern), self._inside(pattern)):
                for trie in group.by_condition.values():
                    for path in {path for operation in grant.operations for path in operation.paths or (None,)}:
                        looked_at += 1
                        for box in trie.overlapping(path):
                            if box.grant.rank != grant.rank and box.grant.rank not in self._ignored:
                                found[box.grant.rank] = box.grant
                            if len(found) > most:
                                return None
                        if looked_at > MAX_LOOKED_AT:
                            return None
        return [found[rank] for rank in sorted(found)]

    def conflicts(self, left_out: Iterable[Grant]) -> list[Conflict]:
        """Every grant of which an earlier tier decides a part with the opposite effect, each with one such part.

        Not meant are grants in ``left_out``, exceptions to what a baseline denies to everybody, and rules that hold
        on conditions: those are layers, not contradictions.
        """
        skipped = {grant.rank for grant in left_out} | self._ignored
        found = []
        for grant in self._form.grants:
            if grant.rank in skipped or grant.effect is Effect.PASS or grant.tier == model.TIERS[0]:
                continue
            if _condition(grant) is None and not _is_default(grant):
                conflict = self._conflict(grant, skipped)
                if conflict is not None:
                    found.append(conflict)
        return found

    def _conflict(self, grant: Grant, skipped: set[int]) -> Conflict | None:
        for pattern in _callers(grant):
            for operation in grant.operations:
                for path in operation.paths or (None,):
                    box = self._opposed(_Box(grant, operation), pattern, path, skipped)
                    if box is not None:
                        return Conflict(grant=grant, by=box.grant, part=_part(pattern, operation, path, box))
        return None

    def _opposed(
        self, box: _Box, pattern: SpiffePattern | None, path: PathPattern | None, skipped: set[int]
    ) -> _Box | None:
        """A box of an earlier tier with the opposite effect that surely meets one, for callers and paths of it."""
        groups = itertools.chain(self._around(pattern), itertools.islice(self._inside(pattern), MAX_LOOKED_AT))
        tries = (group.by_condition.get(None) for group in groups)
        boxes = (found for trie in tries if trie is not None for found in trie.overlapping(path))
        for other in itertools.islice(boxes, MAX_LOOKED_AT):
            grant = other.grant
            if grant.rank in skipped or _TIER[grant.tier] >= _TIER[box.grant.tier]:
                continue
            if grant.effect is Effect.PASS or grant.effect is box.grant.effect:
                continue
            narrow = _narrower(pattern, grant.callers)
            if any(_spares(found, narrow) for found in (grant, box.grant)):
                continue
            if grant.effect is Effect.ALLOW and self._may_pass(grant.tier, narrow):
                continue
            if self._meet(box.operation, other.operation):
                return other
        return None

    def _meet(self, one: model.Operation, other: model.Operation) -> bool:
        """Whether two operations whose paths meet share a request on a declared port."""
        reads = one.reads_request or other.reads_request
        ports = [port for port, protocol in self._form.protocols.items() if protocol != "tcp" or not reads]
        if not any(all(found.ports is None or port in found.ports for found in (one, other)) for port in ports):
            return False
        if one.methods is not None and other.methods is not None and not set(one.methods) & set(other.methods):
            return False
        if one.hosts is None or other.hosts is None:
            return True
        return any(_holds_host(a, b) or _holds_host(b, a) for a in one.hosts for b in other.hosts)


def _width(grant: Grant) -> tuple[int, int]:
    """Wide grants first: they are the likely ones to cover others."""
    return (-max(_Box(grant, operation).width for operation in grant.operations), grant.rank)


def _callers(grant: Grant) -> Sequence[SpiffePattern | None]:
    return (None,) if grant.callers.is_any else grant.callers.patterns


def _kind(other: Grant, grant: Grant) -> Kind:
    if other.tier != grant.tier:
        return "unreachable"
    return "redundant" if other.effect is grant.effect else "shadowed"


def _is_default(grant: Grant) -> bool:
    """Whether a grant is a baseline deny of everything for everybody, which is there to be overruled."""
    return (
        grant.tier == model.TIERS[-1]
        and grant.effect is Effect.DENY
        and grant.callers.is_any
        and all(operation == model.Operation() for operation in grant.operations)
    )


def _speaks_of(callers: model.Principals, pattern: SpiffePattern | None) -> bool:
    """Whether some caller of a pattern is meant."""
    if callers.is_any or callers.incomplete or pattern is None:
        return True
    return any(found.overlaps(pattern) for found in callers.patterns)


def _spares(grant: Grant, pattern: SpiffePattern | None) -> bool:
    """Whether `unless` takes some caller of a pattern out of a grant."""
    return grant.unless_callers is not None and _speaks_of(grant.unless_callers, pattern)


def _narrower(pattern: SpiffePattern | None, callers: model.Principals) -> SpiffePattern | None:
    """What a pattern and callers that meet have in common: the narrower of the patterns that do."""
    if callers.is_any:
        return pattern
    meeting = [found for found in callers.patterns if pattern is None or found.overlaps(pattern)]
    if not meeting:
        return pattern
    narrowest = max(meeting, key=lambda found: (len(found.id.segments), not found.subtree))
    if pattern is None or (len(pattern.id.segments), not pattern.subtree) < (
        len(narrowest.id.segments),
        not narrowest.subtree,
    ):
        return narrowest
    return pattern


def _holds_host(outer: HostPattern, inner: HostPattern | str) -> bool:
    if isinstance(inner, str):
        return False
    return outer == inner or (not inner.wildcard and outer.matches(inner.name))


def _part(pattern: SpiffePattern | None, operation: model.Operation, path: PathPattern | None, other: _Box) -> str:
    """A part that two boxes share, in words: the narrower of what either says."""
    callers = _narrower(pattern, other.grant.callers)
    methods = operation.methods or other.operation.methods
    if operation.methods is not None and other.operation.methods is not None:
        methods = tuple(method for method in operation.methods if method in other.operation.methods)
    paths = [str(found) for found in (path, *(other.operation.paths or ())) if found is not None]
    words = ["any" if callers is None else str(callers)]
    words += [methods[0]] if methods else []
    words += [max(paths, key=lambda text: (text.count("/"), not text.endswith("/**")))] if paths else []
    return " ".join(words)
