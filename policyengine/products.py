"""Parts of a diagram as products, in the words of policies: methods, paths, and the rest under `when`.

A part is found in one region and may be said of others: of one likeness in the same words, of one family in words whose
patterns are renamed (`policyengine.likeness`). This module decides nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import TypeVar

from mesh import canonicaljson
from policyengine.atoms import is_within
from policyengine.canonical import PathPattern
from policyengine.cover import Shapes
from policyengine.diagram import HOST, METHOD, PATH, Leaf, Tree
from policyengine.likeness import UNNUMBERED, Likeness, renaming
from policyengine.regions import OTHER, PortAxes, Region
from policyengine.witness import Cell, believed, supposed
from policyengine.words import When, whens_of

A = TypeVar("A", bound=Hashable)
B = TypeVar("B", bound=Hashable)
PATH_WORDS = ("path_also_in", "path_not_in")
"""What `when` says of paths: with `paths` all that is renamed."""


Operations = dict[tuple[int, int], set[int]]
"""By method and host, the classes of paths."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """A part of a tree that shares its reasons: by the shape of circumstances, the operations. Regions may share it."""

    axes: PortAxes
    shapes: Shapes
    operations: Mapping[int, Operations]
    origin: Likeness = UNNUMBERED
    """What the region was in which it was found."""


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


Product = tuple[tuple[str, ...], tuple[str, ...], When, Cell]
Key = tuple[bytes, tuple[str, ...], tuple[str, ...] | None, tuple[str, ...] | None]
"""The kind, the paths, and what `when` says of them, in the order of PATH_WORDS."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Said:
    """A product of a part in words. Equal keys are equal words, equal kinds are equal but for the words about paths.

    ``supposes`` is what else a row takes from the cell. ``region`` is whose words they are, None for the part's own.
    """

    part: Part
    methods: tuple[str, ...]
    paths: tuple[str, ...]
    when: When
    cell: Cell
    key: Key
    kind: bytes
    supposes: object
    region: Region | None = None

    @classmethod
    def of(cls, product: Product, part: Part) -> Said:
        """The product, with its keys."""
        methods, paths, when, cell = product
        variables = part.shapes.variables
        others = {name: value for name, value in when.items() if name not in PATH_WORDS}
        kind = canonicaljson.dumps([part.axes.port, list(methods), others])
        return cls(
            part=part,
            methods=methods,
            paths=paths,
            when=when,
            cell=cell,
            key=(kind, paths, _texts(when, "path_also_in"), _texts(when, "path_not_in")),
            kind=kind,
            supposes=(believed(cell, variables), frozenset(supposed(cell, variables).items())),
        )

    def in_words_of(self, region: Region, names: Mapping[str, str]) -> Said:
        """The product in a region of the family, with its names for patterns."""
        _, old_paths, *others = self.key
        paths = tuple(sorted([names.get(text, text) for text in old_paths]))
        also, without = (
            None if texts is None else tuple(sorted([names.get(text, text) for text in texts])) for texts in others
        )
        key = (self.kind, paths, also, without)
        if key == self.key:
            return self
        when = dict(self.when)
        for name, texts in zip(PATH_WORDS, (also, without), strict=True):
            if texts is not None:
                when[name] = list(texts)
        return Said(
            part=self.part,
            methods=self.methods,
            paths=paths,
            when=when,
            cell=self.cell,
            key=key,
            kind=self.kind,
            supposes=self.supposes,
            region=region,
        )

    def placed(self) -> tuple[PortAxes, Cell]:
        """Where a witness is: the axes of the region whose words they are, and the cell there."""
        axes, cell, region = self.part.axes, self.cell, self.region
        if region is None:
            return axes, cell
        own = next(found for found in region.ports if found.port == axes.port)
        names = renaming(self.part.origin.patterns, region.likeness.patterns)
        places = {pattern: index for index, pattern in enumerate(own.patterns)}
        signature = frozenset(places[names[axes.patterns[index]]] for index in axes.paths[cell.path][0])
        path = next(index for index, (found, _) in enumerate(own.paths) if found == signature)
        return own, dataclasses.replace(cell, path=path)

    @property
    def order(self) -> tuple[object, ...]:
        """Where its rows stand among others of the service."""
        return self.part.axes.port, self.paths, self.methods


def _texts(when: When, name: str) -> tuple[str, ...] | None:
    found = when.get(name)
    return tuple(map(str, found)) if isinstance(found, list) else None


def said_of(part: Part) -> list[Said]:
    """The products of a part in its own words."""
    return [Said.of(product, part) for product in _products(part)]


def names_in(part: Part, region: Region) -> Mapping[str, str]:
    """What a part's patterns are called in a region of the family; nothing where they are called the same."""
    if region.likeness.likeness == part.origin.likeness:
        return {}
    named = zip(part.origin.patterns, region.likeness.patterns, strict=True)
    return {one.text: other.text for one, other in named}


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
