"""Rows of a plan: parts of a diagram with one answer, joined and said in the words of the policies.

Parts are joined into products (callers, ports, methods, paths, hosts, circumstances). A row speaks exactly of its part:
what a pattern in it holds and the row does not is named under `when` (`source_not_in`, `path_not_in` …; what conditions
test is in `policyengine.words`). This module decides nothing.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
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
MANY = 20
"""So many rows that differ in their callers alone are read one by one."""
_DOMAIN = 2  # `spiffe:`, nothing, then the trust domain


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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """A part of a tree that shares its reasons: by the shape of circumstances, the operations. Regions may share it."""

    axes: PortAxes
    shapes: Shapes
    operations: Mapping[int, Operations]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A part that a region has, and the reasons there."""

    region: Region
    because: Because
    part: Part


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

    region: Region
    because: Because
    said: _Said
    callers: dict[str, tuple[Callers, _Said]]


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


def rows_of(differences: Iterable[Difference], now: dt.datetime, *, joins: bool = False) -> tuple[Row, ...]:
    """Join parts into rows.

    1. Per port and reason, parts fall into products of circumstances, hosts, methods and paths.
    2. The same product for several classes of callers is one row per outermost pattern, without what it leaves out.
    3. With ``joins`` more than MANY of those are one row, which names them under `when`.

    Raises TooLarge.
    """
    drafts: dict[tuple[str, Because, bytes], _Draft] = {}
    products: dict[int, list[_Said]] = {}
    for difference in differences:
        # (1)
        part, region = difference.part, difference.region
        if id(part) not in products:
            products[id(part)] = [_Said.of(product, part) for product in _products(part)]
        for said in products[id(part)]:
            key = (region.service, difference.because, said.key)
            draft = drafts.get(key)
            if draft is None:
                draft = drafts[key] = _Draft(region=region, because=difference.because, said=said, callers={})
            for callers in region.callers:
                draft.callers.setdefault(callers.name, (callers, said))
    # (2)
    inside: dict[int, dict[str, list[str]]] = {}
    return tuple(
        row
        for draft in sorted(drafts.values(), key=lambda item: (item.region.service, *item.said.order))
        for row in _by_source(draft, _inside(draft, inside), now, joins=joins)
    )


def _inside(draft: _Draft, known: dict[int, dict[str, list[str]]]) -> dict[str, list[str]]:
    """By the name of a class, the classes right inside of it."""
    classes = draft.region.classes
    if id(classes) not in known:
        found = known[id(classes)] = {}
        for callers in classes:
            if callers.parent is not None:
                found.setdefault(callers.parent, []).append(callers.name)
    return known[id(classes)]


def _by_source(draft: _Draft, inside: Mapping[str, list[str]], now: dt.datetime, *, joins: bool) -> Iterable[Row]:
    """The rows of a draft: one for every outermost pattern, or (step 3 of `rows_of`) for many that are alike."""
    alike: dict[object, list[tuple[str, Callers, _Said]]] = {}
    for name, (callers, said) in sorted(draft.callers.items()):
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
        if left_out or not joins:
            yield _row(draft, said, callers, name, {"source_not_in": sorted(left_out)} if left_out else {}, now)
        else:
            alike.setdefault(said.supposes, []).append((name, callers, said))
    # (3)
    for members in alike.values():
        if len(members) > MANY:
            _, callers, said = members[0]
            names = [name for name, _, _ in members]
            yield _row(draft, said, callers, enclosing(names), {"source_in": names}, now)
        else:
            for name, callers, said in members:
                yield _row(draft, said, callers, name, {}, now)


def _row(draft: _Draft, said: _Said, callers: Callers, source: str, when: When, now: dt.datetime) -> Row:
    axes, variables = said.part.axes, said.part.shapes.variables
    token = believed(said.cell, variables)
    return Row(
        source=source,
        service=draft.region.service,
        port=axes.port,
        methods=said.methods,
        paths=said.paths,
        when={**said.when, **when},
        witness=request_at(draft.region.service, axes, said.cell, variables, callers.witness, now),
        because=draft.because if token is None else (*draft.because, f"{token[0]}: issuer"),
        supposed=supposed(said.cell, variables),
        belief="both" if token is None else token[1],
    )


def enclosing(names: Sequence[str]) -> str:
    """The narrowest pattern that holds all of some patterns: a subtree, or `any`."""
    shared: list[str] | None = None
    for name in names:
        # of an identity what is above it, of a subtree its root
        parts = name.removesuffix("/**").split("/") if name.endswith("/**") else name.split("/")[:-1]
        if shared is None:
            shared = parts
        else:
            same = (one == other for one, other in zip(shared, parts, strict=False))
            shared = shared[: sum(itertools.takewhile(bool, same))]
    return "/".join(shared) + "/**" if shared is not None and len(shared) > _DOMAIN else "any"


Product = tuple[tuple[str, ...], tuple[str, ...], When, Cell]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Said:
    """A product of a part in words. Equal keys are equal words; ``supposes`` is what else a row takes from the cell."""

    part: Part
    methods: tuple[str, ...]
    paths: tuple[str, ...]
    when: When
    cell: Cell
    key: bytes
    supposes: object

    @classmethod
    def of(cls, product: Product, part: Part) -> _Said:
        """The product, with its key."""
        methods, paths, when, cell = product
        variables = part.shapes.variables
        return cls(
            part=part,
            methods=methods,
            paths=paths,
            when=when,
            cell=cell,
            key=canonicaljson.dumps([part.axes.port, list(methods), list(paths), when]),
            supposes=(believed(cell, variables), frozenset(supposed(cell, variables).items())),
        )

    @property
    def order(self) -> tuple[object, ...]:
        """Where its rows stand among others of the service."""
        return self.part.axes.port, self.paths, self.methods


def _products(part: Part) -> Iterable[Product]:
    """Parts as products: by circumstances, then hosts, then methods, then paths."""
    axes = part.axes
    for shape, operations in part.operations.items():
        said = whens_of(part.shapes, shape)
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
