"""Sets of requests as boxes: one field each for callers, methods, hosts, paths, headers, addresses and tests.

A field is "inside some of these, outside all of those". Patterns nest, or meet in a pattern (`PATHS`), so fields are
closed under AND; a box minus a box is a list of boxes. Boxes speak of requests whose attributes are all known: what a
target does with ambiguous ones is its own affair, and exports say so. Nothing is decided here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Generic, TypeVar

from mesh.spiffe import SpiffePattern
from policyengine.atoms import is_within, paths_overlap
from policyengine.canonical import HostPattern, PathPattern, PathSegment, literal_text
from policyengine.model import Network

T = TypeVar("T")


class Unsayable(Exception):  # noqa: N818  not an error: the caller refuses what it cannot say
    """Two patterns meet in a set that no pattern names."""


@dataclasses.dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """How the patterns of a field relate: whether one covers another, and what they have in common."""

    covers: Callable[[T, T], bool]
    meet: Callable[[T, T], T | None]


@dataclasses.dataclass(frozen=True, slots=True)
class Field(Generic[T]):
    """Inside any of ``inside`` (None is anything), and outside all of ``outside``."""

    inside: tuple[T, ...] | None = None
    outside: tuple[T, ...] = ()

    @property
    def is_free(self) -> bool:
        """Whether the field says nothing."""
        return self.inside is None and not self.outside


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Test:
    """A test that only some targets know: ``kind`` is claims, forwarded_ip, hours, rego or until."""

    __test__ = False

    kind: str
    key: str
    values: tuple[str | int | bool, ...] = ()
    is_positive: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Requests on one port: every field holds, and every test."""

    callers: Field[SpiffePattern] = Field()
    methods: Field[str] = Field()
    hosts: Field[HostPattern] = Field()
    paths: Field[PathPattern] = Field()
    headers: tuple[tuple[str, Field[str]], ...] = ()
    peers: Field[Network] = Field()
    tests: frozenset[Test] = frozenset()

    @property
    def reads_request(self) -> bool:
        """Whether more than the connection matters."""
        free = self.methods.is_free and self.hosts.is_free and self.paths.is_free and not self.headers
        return not free or any(test.kind in {"claims", "forwarded_ip"} for test in self.tests)


def meet(one: Box, other: Box) -> Box | None:
    """The requests in both; None when there are none.

    Raises Unsayable when paths meet in what no pattern names.
    """
    tests = one.tests | other.tests
    if any(dataclasses.replace(test, is_positive=not test.is_positive) in tests for test in tests):
        return None
    callers = _meet(CALLERS, one.callers, other.callers)
    methods = _meet(WORDS, one.methods, other.methods)
    hosts = _meet(HOSTS, one.hosts, other.hosts)
    paths = _meet(PATHS, one.paths, other.paths)
    peers = _meet(NETWORKS, one.peers, other.peers)
    headers = dict(one.headers)
    for name, field in other.headers:
        both = _meet(WORDS, headers.get(name, Field()), field)
        if both is None:
            return None
        headers[name] = both
    if callers is None or methods is None or hosts is None or paths is None or peers is None:
        return None
    return Box(
        callers=callers, methods=methods, hosts=hosts, paths=paths, headers=tuple(sorted(headers.items())),
        peers=peers, tests=tests,
    )  # fmt: skip


def subtract(box: Box, other: Box) -> list[Box]:
    """The requests of a box that are not in another: one piece for every way to be outside of it."""
    try:
        if meet(box, other) is None:
            return [box]
    except Unsayable:
        pass  # they may overlap: cut
    found = []
    for piece in _outside(other):
        try:
            left = meet(box, piece)
        except Unsayable:
            continue  # a smaller set: never wider
        if left is not None:
            found.append(left)
    return found


def covers(larger: Box, smaller: Box) -> bool:
    """Whether every request of the smaller box is certainly in the larger."""
    headers = dict(smaller.headers)
    return (
        larger.tests <= smaller.tests
        and _covers(CALLERS, larger.callers, smaller.callers)
        and _covers(WORDS, larger.methods, smaller.methods)
        and _covers(HOSTS, larger.hosts, smaller.hosts)
        and _covers(PATHS, larger.paths, smaller.paths)
        and _covers(NETWORKS, larger.peers, smaller.peers)
        and all(_covers(WORDS, field, headers.get(name, Field())) for name, field in larger.headers)
    )


def without_covered(boxes: list[Box]) -> list[Box]:
    """The boxes that no other one covers; of equal ones the first.

    Two boxes are compared only if their callers, and the beginnings of their paths, may be within each other.
    """
    kept: dict[int, Box] = {}
    larger: dict[_Key, list[int]] = {}
    smaller: dict[_Key, list[int]] = {}
    for place, box in enumerate(boxes):
        own, around = _own_keys(box), _keys_around(box)
        if any(i in kept and covers(kept[i], box) for key in around for i in larger.get(key, ())):
            continue
        for i in {i for key in own for i in smaller.get(key, ()) if i in kept}:
            if covers(box, kept[i]):
                del kept[i]
        kept[place] = box
        for key in own:
            larger.setdefault(key, []).append(place)
        for key in around:
            smaller.setdefault(key, []).append(place)
    return list(kept.values())


_Key = tuple[str | None, str | None]
"""A pattern of callers and the first segment of a path; None is any."""


def _own_keys(box: Box) -> list[_Key]:
    """Under what a box stands as the larger of two: EVERY pattern of its callers, every beginning of its paths."""
    callers = [None] if box.callers.inside is None else list(dict.fromkeys(map(str, box.callers.inside)))
    paths = [None] if box.paths.inside is None else list(dict.fromkeys(map(_beginning, box.paths.inside)))
    return [(caller, path) for caller in callers for path in paths]


def _keys_around(box: Box) -> list[_Key]:
    """Under what a box that covers another stands: a pattern around ONE of its callers, the beginning of ONE path."""
    callers: list[str | None] = [None]
    if box.callers.inside is not None:
        text = str(box.callers.inside[0])
        callers.append(text)
        stem = text.removesuffix("/**")
        while stem.count("/") > 2:
            stem = stem.rpartition("/")[0]
            callers.append(f"{stem}/**")
    paths: list[str | None] = [None]
    if box.paths.inside is not None and (beginning := _beginning(box.paths.inside[0])) is not None:
        paths.append(beginning)
    return [(caller, path) for caller in callers for path in paths]


def _beginning(pattern: PathPattern) -> str | None:
    """The literal that a pattern's paths begin with; None where that may be anything."""
    first = pattern.segments[0] if pattern.segments else None
    return first.literal if first is not None and first.type == "literal" else None


def _outside(box: Box) -> list[Box]:
    """Everything outside of a box, as boxes with one constraint each."""
    found = [Box(callers=field) for field in _negated(box.callers)]
    found += [Box(peers=field) for field in _negated(box.peers)]
    found += [Box(methods=field) for field in _negated(box.methods)]
    found += [Box(hosts=field) for field in _negated(box.hosts)]
    found += [Box(paths=field) for field in _negated(box.paths)]
    found += [Box(headers=((name, field),)) for name, given in box.headers for field in _negated(given)]
    for test in sorted(box.tests):
        found.append(Box(tests=frozenset({dataclasses.replace(test, is_positive=not test.is_positive)})))
    return found


def _negated(field: Field[T]) -> list[Field[T]]:
    found: list[Field[T]] = []
    if field.inside is not None:
        found.append(Field(None, field.inside))
    if field.outside:
        found.append(Field(field.outside))
    return found


def _meet(kind: Kind[T], one: Field[T], other: Field[T]) -> Field[T] | None:
    if one.is_free or other.is_free:
        return other if one.is_free else one
    inside = one.inside if other.inside is None else other.inside
    if one.inside is not None and other.inside is not None:
        pairs = (kind.meet(mine, theirs) for mine in one.inside for theirs in other.inside)
        inside = tuple(found for found in pairs if found is not None)
    return field_of(kind, inside, one.outside + other.outside)


def field_of(kind: Kind[T], inside: tuple[T, ...] | None, outside: tuple[T, ...] = ()) -> Field[T] | None:
    """A field without what says nothing; None when nothing is inside.

    1. What an `outside` covers is not inside; what another `inside` covers need not be said.
    2. An `outside` that meets no `inside`, or that another covers, need not be said.
    """
    # (1)
    if inside is not None:
        inside = _largest(kind, tuple(item for item in inside if not any(kind.covers(cut, item) for cut in outside)))
        if not inside:
            return None
        # (2)
        outside = tuple(cut for cut in outside if any(_may_meet(kind, cut, item) for item in inside))
    return Field(inside, _largest(kind, outside))


def _may_meet(kind: Kind[T], one: T, other: T) -> bool:
    try:
        return kind.meet(one, other) is not None
    except Unsayable:
        return True


def _largest(kind: Kind[T], items: tuple[T, ...]) -> tuple[T, ...]:
    kept: list[T] = []
    for item in items:
        if not any(kind.covers(other, item) for other in kept):
            kept = [other for other in kept if not kind.covers(item, other)]
            kept.append(item)
    return tuple(kept)


def _covers(kind: Kind[T], larger: Field[T], smaller: Field[T]) -> bool:
    if larger.inside is not None:
        if smaller.inside is None:
            return False
        if not all(any(kind.covers(mine, item) for mine in larger.inside) for item in smaller.inside):
            return False
    return all(
        any(kind.covers(mine, cut) for mine in smaller.outside)
        or (smaller.inside is not None and not any(_may_meet(kind, cut, item) for item in smaller.inside))
        for cut in larger.outside
    )


# ---------------------------------------------------------------------- the kinds


def _id_covers(one: SpiffePattern, other: SpiffePattern) -> bool:
    if one == other:
        return True
    if not one.subtree or one.id.trust_domain != other.id.trust_domain:
        return False
    return other.id.path.startswith(one.id.path + "/")


def _host_covers(one: HostPattern, other: HostPattern) -> bool:
    return one == other or (not other.wildcard and one.matches(other.name))


def _network_covers(one: Network, other: Network) -> bool:
    return one.version == other.version and other.subnet_of(one)  # type: ignore[arg-type]  # versions are equal


def _nested(covering: Callable[[T, T], bool], one: T, other: T) -> T | None:
    """What two patterns that nest or are disjoint have in common."""
    if covering(one, other):
        return other
    return one if covering(other, one) else None


def _path_meet(one: PathPattern, other: PathPattern) -> PathPattern | None:
    """What two path patterns have in common, segment by segment."""
    if not paths_overlap(one, other):
        return None
    for larger, smaller in ((one, other), (other, one)):
        if is_within(smaller, larger):
            return smaller
    longer, shorter = (one, other) if len(one.segments) >= len(other.segments) else (other, one)
    segments = tuple(
        _segment_meet(place, shorter.segments[index]) if index < len(shorter.segments) else place
        for index, place in enumerate(longer.segments)
    )
    subtree = longer.subtree and (shorter.subtree or len(one.segments) != len(other.segments))
    return pattern_of(segments, subtree=subtree, ignores_case=one.ignores_case)


def _segment_meet(one: PathSegment, other: PathSegment) -> PathSegment:
    if one.type == "literal" or other.type == "any" or one == other:
        return one
    if other.type == "literal" or one.type == "any":
        return other
    # `{a:int}` is within `{a:hex}`; what neither holds whole has no name
    single = {place: PathPattern((place,), subtree=False, text="") for place in (one, other)}
    if is_within(single[one], single[other]):
        return one
    if is_within(single[other], single[one]):
        return other
    raise Unsayable


def pattern_of(segments: tuple[PathSegment, ...], *, subtree: bool, ignores_case: bool = False) -> PathPattern:
    """A pattern from its parts, with its text."""
    words = []
    for place in segments:
        if place.type == "literal":
            words.append(literal_text(place.literal))
        else:
            words.append("{x}" if place.type == "any" else f"{{x:{place.type}}}")
    text = "/" + "/".join(words) if segments else ""
    return PathPattern(segments, subtree, f"{text}/**" if subtree else text, ignores_case)


CALLERS: Kind[SpiffePattern] = Kind(_id_covers, functools.partial(_nested, _id_covers))
HOSTS: Kind[HostPattern] = Kind(_host_covers, functools.partial(_nested, _host_covers))
NETWORKS: Kind[Network] = Kind(_network_covers, functools.partial(_nested, _network_covers))
PATHS: Kind[PathPattern] = Kind(lambda one, other: is_within(other, one), _path_meet)
WORDS: Kind[str] = Kind(lambda one, other: one == other, lambda one, other: one if one == other else None)
