"""Rows of a plan: parts of a diagram with one answer, joined and said in the words of the policies.

Parts are joined into products (callers, ports, methods, paths, hosts, circumstances). A row speaks exactly of its part:
what a pattern in it holds and the row does not is named under `when` (`source_not_in`, `path_not_in` …; what conditions
test is in `policyengine.words`). This module decides nothing.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import TypeVar

from mesh import canonicaljson
from mesh.clock import format_time
from mesh.request import Request
from policyengine.atoms import Callers, is_within
from policyengine.belief import Belief
from policyengine.canonical import PathPattern
from policyengine.cover import Shapes
from policyengine.diagram import HOST, METHOD, PATH, Leaf, Tree, Verdict
from policyengine.regions import OTHER, PortAxes, Region
from policyengine.witness import Cell, Supposed, believed, request_at, supposed
from policyengine.words import When, whens_of

A = TypeVar("A", bound=Hashable)
B = TypeVar("B", bound=Hashable)
Because = tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Who gains or loses what. ``is_replayed`` only after both evaluators were run on the witness.

    ``supposed`` are the answers of custom rules under which the row speaks; ``belief`` says which versions believe the
    witness's token.
    """

    source: str
    service: str
    port: int
    methods: tuple[str, ...]
    paths: tuple[str, ...]
    when: dict[str, object]
    witness: Request
    because: Because
    is_replayed: bool = False
    supposed: Supposed = dataclasses.field(default_factory=dict)
    belief: Belief = "both"

    def to_json(self) -> dict[str, object]:
        """The public JSON object."""
        return {
            "source": self.source,
            "service": self.service,
            "port": self.port,
            "methods": list(self.methods),
            "paths": list(self.paths),
            "when": self.when,
            "witness": request_to_json(self.witness),
            "replayed": self.is_replayed,
            "because": list(self.because),
        }


Operations = dict[tuple[int, int], set[int]]
"""By method and host, the classes of paths."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A part of a region on one port that shares its reasons: by the shape of circumstances, the operations."""

    region: Region
    axes: PortAxes
    because: Because
    shapes: Shapes
    parts: Mapping[int, Operations]


def parts_of(
    tree: Tree, axes: PortAxes, shapes: Shapes, key: Callable[[Leaf], Hashable]
) -> dict[Hashable, dict[int, Operations]]:
    """The parts of a tree by the key of their leaves, each by the shape of circumstances; None is no key.

    Raises TooLarge.
    """
    found: dict[Hashable, dict[int, Operations]] = {}
    paths = frozenset(range(len(axes.paths)))
    for method, below in _arms(tree, METHOD, range(len(axes.methods))):
        for host, under in _arms(below, HOST, range(len(axes.hosts))):
            for classes, conditions in _sets(under, PATH, paths):
                for own, shape in shapes.parts(conditions, key).items():
                    operations = found.setdefault(own, {}).setdefault(shape, {})
                    operations.setdefault((method, host), set()).update(classes)
    return found


def _sets(tree: Tree, dimension: int, every: frozenset[int]) -> Iterable[tuple[frozenset[int], Tree]]:
    """The arms of a tree in a dimension; a tree that does not ask about it has one."""
    return ((every, tree),) if isinstance(tree, Leaf) or tree.dimension != dimension else tree.arms


def _arms(tree: Tree, dimension: int, every: Iterable[int]) -> Iterable[tuple[int, Tree]]:
    for classes, below in _sets(tree, dimension, frozenset(every)):
        for index in sorted(classes):
            yield index, below


@dataclasses.dataclass(slots=True, kw_only=True)
class _Draft:
    """A row whose callers are still being collected."""

    service: str
    port: int
    methods: tuple[str, ...]
    paths: tuple[str, ...]
    when: When
    because: Because
    callers: dict[str, tuple[Callers, Region, PortAxes, Cell, Shapes]]


def request_to_json(request: Request) -> dict[str, object]:
    """A request in its public JSON form."""
    forwarded = {} if request.forwarded_ip is None else {"forwarded_ip": request.forwarded_ip}
    return {
        "source": request.source,
        "service": request.service,
        "port": request.port,
        "protocol": request.protocol,
        "method": request.method,
        "host": request.host,
        "path": request.path,
        "headers": [list(pair) for pair in request.headers],
        "claims": None if request.claims is None else dict(request.claims),
        "peer_ip": request.peer_ip,
        **forwarded,
        "time": None if request.time is None else format_time(request.time),
        **({"unknown": sorted(request.unknown)} if request.unknown else {}),
    }


def reasons(old: Verdict, new: Verdict, service: str) -> Because:
    """The rules that make a difference: what decides now, and what decided before."""
    found: list[str] = []
    for verdict in (new, old):
        overridden = verdict.policy_effect is not verdict.effect
        if overridden:
            found.append(f"{service}: observe")
        if verdict.grant is not None:
            found.append(f"{verdict.grant.policy}/{verdict.grant.rule}")
    return tuple(dict.fromkeys(found))


def rows_of(differences: Iterable[Difference], now: dt.datetime) -> tuple[Row, ...]:
    """Join parts into rows.

    1. Per port and reason, parts fall into products of circumstances, hosts, methods and paths.
    2. The same product for several classes of callers is one row per outermost pattern, without what it leaves out.

    Raises TooLarge.
    """
    drafts: dict[bytes, _Draft] = {}
    for difference in differences:
        # (1)
        for methods, paths, when, cell in _products(difference):
            axes, region = difference.axes, difference.region
            key = canonicaljson.dumps(
                [region.service, axes.port, list(difference.because), list(methods), list(paths), when]
            )
            draft = drafts.setdefault(
                key,
                _Draft(
                    service=region.service,
                    port=axes.port,
                    methods=methods,
                    paths=paths,
                    when=when,
                    because=difference.because,
                    callers={},
                ),
            )
            for callers in region.callers:
                draft.callers.setdefault(callers.name, (callers, region, axes, cell, difference.shapes))
    # (2)
    inside: dict[int, dict[str, list[str]]] = {}
    return tuple(
        row
        for draft in sorted(drafts.values(), key=lambda item: (item.service, item.port, item.paths, item.methods))
        for row in _by_source(draft, _inside(draft, inside), now)
    )


def _inside(draft: _Draft, known: dict[int, dict[str, list[str]]]) -> dict[str, list[str]]:
    """By the name of a class, the classes right inside of it."""
    _, region, _, _, _ = next(iter(draft.callers.values()))
    if id(region.classes) not in known:
        found = known[id(region.classes)] = {}
        for callers in region.classes:
            if callers.parent is not None:
                found.setdefault(callers.parent, []).append(callers.name)
    return known[id(region.classes)]


def _by_source(draft: _Draft, inside: Mapping[str, list[str]], now: dt.datetime) -> Iterable[Row]:
    for name, (callers, region, axes, cell, shapes) in sorted(draft.callers.items()):
        if callers.parent in draft.callers:
            continue  # the row of the pattern around it speaks of it too
        left_out: list[str] = []
        waiting = list(inside.get(name, ()))
        while waiting:
            child = waiting.pop()
            if child in draft.callers:
                waiting.extend(inside.get(child, ()))
            else:
                left_out.append(child)
        when = {**draft.when, "source_not_in": sorted(left_out)} if left_out else draft.when
        token = believed(cell, shapes.variables)
        yield Row(
            source=name,
            service=draft.service,
            port=draft.port,
            methods=draft.methods,
            paths=draft.paths,
            when=when,
            witness=request_at(region.service, axes, cell, shapes.variables, callers.witness, now),
            because=draft.because if token is None else (*draft.because, f"{token[0]}: issuer"),
            supposed=supposed(cell, shapes.variables),
            belief="both" if token is None else token[1],
        )


Product = tuple[tuple[str, ...], tuple[str, ...], When, Cell]


def _products(difference: Difference) -> Iterable[Product]:
    """Parts as products: by circumstances, then hosts, then methods, then paths."""
    axes = difference.axes
    for shape, operations in difference.parts.items():
        said = whens_of(difference.shapes, shape)
        by_host: dict[frozenset[tuple[int, frozenset[int]]], set[int]] = {}
        for host in {host for _, host in operations}:
            own = frozenset((method, frozenset(paths)) for (method, at), paths in operations.items() if at == host)
            by_host.setdefault(own, set()).add(host)
        for pairs, hosts in by_host.items():
            where = _hosts(axes, frozenset(hosts))
            for methods, paths in _factored([(method, path) for method, found in pairs for path in found]):
                named, method_when = _methods(axes, frozenset(axes.methods[method] for method in methods))
                for texts, path_when, path in _paths(axes, paths):
                    method = min(methods, key=lambda index: (axes.methods[index] == OTHER, -index))
                    for when, sample in said:
                        cell = Cell(method=method, host=min(hosts), path=path, sample=sample)
                        yield named, texts, {**when, **where, **method_when, **path_when}, cell


def _factored(pairs: Collection[tuple[A, B]]) -> Iterable[tuple[frozenset[A], frozenset[B]]]:
    """Pairs as products: what has the same firsts belongs together."""
    firsts: dict[B, set[A]] = {}
    for one, other in pairs:
        firsts.setdefault(other, set()).add(one)
    joined: dict[frozenset[A], set[B]] = {}
    for other, found in firsts.items():
        joined.setdefault(frozenset(found), set()).add(other)
    for ones, others in joined.items():
        yield ones, frozenset(others)


def _methods(axes: PortAxes, methods: frozenset[str]) -> tuple[tuple[str, ...], dict[str, object]]:
    if axes.protocol == "tcp":
        return (), {}
    if OTHER not in methods:
        return tuple(sorted(methods)), {}
    others = sorted(set(axes.methods) - methods)
    return (OTHER,), {"method_not_in": others} if others else {}


def _hosts(axes: PortAxes, found: frozenset[int]) -> dict[str, object]:
    """Which hosts: nothing for all; of the names that hold a host, the narrowest says whether it is meant."""
    if len(found) == len(axes.hosts):
        return {}
    named = {axes.hosts[index][0] for index in found}
    others = {name for name, _ in axes.hosts} - named
    if OTHER not in named:
        others = {name for name in others if f"*.{name.partition('.')[2]}" in named}
    return {"hosts": sorted(named), **({"host_not_in": sorted(others)} if others else {})}


def _paths(axes: PortAxes, found: frozenset[int]) -> Iterable[tuple[tuple[str, ...], dict[str, object], int]]:
    """Classes of paths in the words of patterns, each with one of the classes.

    1. All classes are every path.
    2. A pattern ALL of whose classes are found stands for them; such patterns share a row.
    3. What is left is said by its narrowest pattern, without the patterns that would hold a class that is not found.
    """
    if axes.protocol == "tcp":
        yield (), {}, 0
        return
    # (1)
    if axes.focus is None and len(found) == len(axes.paths):
        yield ("/**",), {}, min(found)
        return
    holding = axes.holding
    candidates = {pattern for index in found for pattern in axes.paths[index][0]}
    # (2)
    left: set[int] = set(found)
    whole: list[int] = []
    for pattern in sorted(candidates, key=lambda item: (-len(holding[item]), axes.patterns[item].text)):
        if holding[pattern] <= found and holding[pattern] & left and _is_cut_whole(axes, axes.patterns[pattern]):
            left -= holding[pattern]
            whole.append(pattern)
    # (3)
    rest: list[tuple[tuple[str, ...], dict[str, object], int]] = []
    said: set[int] = set()
    while left:
        index = min(left)
        text, when, covered = _leftover(axes, found, index)
        left -= covered | {index}
        said |= covered
        rest.append(((text,), when, index))
    whole = [pattern for pattern in whole if not holding[pattern] <= said]
    if whole:
        yield tuple(sorted(axes.patterns[item].text for item in whole)), {}, min(holding[whole[0]])
    yield from rest


def _leftover(axes: PortAxes, found: frozenset[int], index: int) -> tuple[str, dict[str, object], frozenset[int]]:
    signature, holding = axes.paths[index][0], axes.holding
    if signature:
        narrowest = min(signature, key=lambda item: (len(holding[item]), axes.patterns[item].text))
        stem, text = axes.patterns[narrowest], axes.patterns[narrowest].text
        also = [item for item in signature if not is_within(stem, axes.patterns[item])]
        held = frozenset.intersection(holding[narrowest], *(holding[item] for item in also))
    else:
        text, also, held = "/**", [], frozenset(range(len(axes.paths)))
    missing = held - found
    without = sorted({item for other in missing for item in axes.paths[other][0]} - signature)
    for item in without:
        held = held - holding[item]
    when: dict[str, object] = {}
    if also:
        when["path_also_in"] = sorted(axes.patterns[item].text for item in also)
    if without:
        outer = [
            axes.patterns[item].text
            for item in without
            if not any(other != item and is_within(axes.patterns[item], axes.patterns[other]) for other in without)
        ]
        when["path_not_in"] = sorted(outer)
    return text, when, held & found


def _is_cut_whole(axes: PortAxes, pattern: PathPattern) -> bool:
    """Whether all classes of a pattern were cut, not only those that a changed rule reaches."""
    return axes.focus is None or any(is_within(pattern, other) for other in axes.focus)
