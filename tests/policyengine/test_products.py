"""A part of a diagram in words: methods, paths and hosts of products, and the same in the words of a region alike."""

from typing import Any

import pytest

from mesh.request import Effect
from policyengine.atoms import host_classes, path_classes
from policyengine.canonical import HostPattern, PathPattern
from policyengine.cover import EVERYTHING, Shapes
from policyengine.diagram import HOST, METHOD, PATH, Leaf, Node, Verdict
from policyengine.likeness import UNNUMBERED, Likeness
from policyengine.products import Part, names_in, parts_of, said_of
from policyengine.regions import OTHER, PortAxes, Region


def axes(*texts: str, hosts: tuple[str, ...] = (), methods: tuple[str, ...] = ("GET", "POST")) -> PortAxes:
    patterns = tuple(sorted(PathPattern.parse(text) for text in texts))
    return PortAxes(
        port=8080,
        protocol="http",
        methods=(*methods, OTHER),
        hosts=host_classes(HostPattern.parse(text) for text in hosts),
        patterns=patterns,
        paths=tuple(path_classes(patterns).items()),
    )


def part_of(on: PortAxes, keep: Any, origin: Likeness = UNNUMBERED) -> Part:
    """The cells (method, host, path) that are kept."""
    operations: dict[tuple[int, int], set[int]] = {}
    for method in range(len(on.methods)):
        for host in range(len(on.hosts)):
            for path in range(len(on.paths)):
                if keep(on, (method, host, path)):
                    operations.setdefault((method, host), set()).add(path)
    return Part(axes=on, shapes=Shapes(()), operations={EVERYTHING: operations}, origin=origin)


def said(on: PortAxes, keep: Any) -> Any:
    return [(found.methods, found.paths, found.when) for found in said_of(part_of(on, keep))]


def matches(on: PortAxes, cell: tuple[int, int, int], text: str) -> bool:
    return PathPattern.parse(text).matches(on.paths[cell[2]][1])


def test_everything_is_said_in_one_row() -> None:
    assert said(axes("/a", "/a/**"), lambda *_: True) == [(("*",), ("/**",), {})]


def test_patterns_share_a_row() -> None:
    found = axes("/a", "/b/**", "/c")
    rows = said(found, lambda on, cell: matches(on, cell, "/a") or matches(on, cell, "/b/**"))
    assert rows == [(("*",), ("/a", "/b/**"), {})]


def test_a_pattern_without_the_ones_inside_it() -> None:
    found = axes("/a/**", "/a/b", "/a/c")
    rows = said(found, lambda on, cell: matches(on, cell, "/a/**") and not matches(on, cell, "/a/b"))
    assert rows == [(("*",), ("/a/**",), {"path_not_in": ["/a/b"]})]


def test_everything_but_a_pattern() -> None:
    found = axes("/a/**")
    rows = said(found, lambda on, cell: not matches(on, cell, "/a/**"))
    assert rows == [(("*",), ("/**",), {"path_not_in": ["/a/**"]})]


def test_where_two_patterns_cross() -> None:
    found = axes("/a/{x}", "/{y}/b")
    rows = said(found, lambda on, cell: matches(on, cell, "/a/{x}") and matches(on, cell, "/{y}/b"))
    assert rows == [(("*",), ("/a/{x}",), {"path_also_in": ["/{y}/b"]})]


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        (("GET",), (("GET",), {})),
        (("GET", "POST", OTHER), (("*",), {})),
        ((OTHER,), (("*",), {"method_not_in": ["GET", "POST"]})),
    ],
    ids=["named", "all", "others"],
)
def test_methods(methods: tuple[str, ...], expected: Any) -> None:
    rows = said(axes("/a"), lambda on, cell: on.methods[cell[0]] in methods)
    assert [(found[0], found[2]) for found in rows] == [expected]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"db.corp.test"}, {"hosts": ["db.corp.test"]}),
        ({"*.corp.test"}, {"hosts": ["*.corp.test"], "host_not_in": ["db.corp.test"]}),
        ({"*", "malformed"}, {"hosts": ["*", "malformed"], "host_not_in": ["*.corp.test", "db.corp.test"]}),
        ({"*", "malformed", "*.corp.test", "db.corp.test"}, {}),
    ],
    ids=["exact", "wildcard", "others", "all"],
)
def test_hosts(names: set[str], expected: Any) -> None:
    found = axes("/a", hosts=("db.corp.test", "*.corp.test"))
    ((_, _, when),) = said(found, lambda on, cell: on.hosts[cell[1]][0] in names)
    assert when == expected


def verdict(effect: Effect) -> Verdict:
    return Verdict(effect=effect, policy_effect=effect, grant=None, is_observed=False)


def test_parts_are_read_from_every_arm_and_from_what_is_left_out() -> None:
    yes, no = Leaf((verdict(Effect.ALLOW),)), Leaf((verdict(Effect.DENY),))
    on = axes("/a", "/b")
    path = Node(PATH, ((frozenset({0}), yes), (frozenset(range(1, len(on.paths))), no)))
    host = Node(HOST, ((frozenset({0}), path),))
    tree = Node(METHOD, ((frozenset({0}), host), (frozenset({1, 2}), no)))
    found = parts_of(tree, on, Shapes(()), lambda leaf: leaf.verdicts[0].effect if leaf is yes else None)
    assert found == {Effect.ALLOW: {EVERYTHING: {(0, 0): {0}}}}
    whole = parts_of(yes, on, Shapes(()), lambda leaf: leaf.verdicts[0].effect)
    assert whole == {Effect.ALLOW: {EVERYTHING: {(method, 0): set(range(len(on.paths))) for method in range(3)}}}


def likeness(number: int, *texts: str) -> Likeness:
    return Likeness(number, 0, tuple(PathPattern.parse(text) for text in texts))


def region(on: PortAxes, numbered: Likeness) -> Region:
    return Region(
        service="db", callers=(), classes=(), cut=lambda: (on,), forms=(), spoken=(), beliefs={}, likeness=numbered
    )


ONE, OTHER_ONE = ("/a/{id:int}", "/health"), ("/b/{number:int}", "/alive")


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        pytest.param(
            lambda on, cell: not matches(on, cell, "/health"), (("/**",), {"path_not_in": ["/alive"]}), id="not"
        ),
        pytest.param(lambda on, cell: matches(on, cell, "/a/{id:int}"), (("/b/{number:int}",), {}), id="whole"),
    ],
)
def test_a_region_of_the_family_says_the_same_of_its_own_patterns(keep: Any, expected: Any) -> None:
    here, there = likeness(1, *ONE), region(axes(*OTHER_ONE), likeness(2, *OTHER_ONE))
    part = part_of(axes(*ONE), keep, here)
    (found,) = said_of(part)
    renamed = found.in_words_of(there, names_in(part, there))
    assert (renamed.paths, renamed.when) == expected
    on, cell = renamed.placed()
    assert on is there.ports[0]
    held, sample = on.paths[cell.path]
    assert PathPattern.parse(expected[0][0]).matches(sample)
    assert not any(PathPattern.parse(text).matches(sample) for text in expected[1].get("path_not_in", ()))
    assert held == {index for index, pattern in enumerate(on.patterns) if pattern.matches(sample)}


def test_words_without_patterns_are_the_same_words() -> None:
    here, there = likeness(1, *ONE), region(axes(*OTHER_ONE), likeness(2, *OTHER_ONE))
    part = part_of(axes(*ONE), lambda *_: True, here)
    (found,) = said_of(part)
    assert found.in_words_of(there, names_in(part, there)) is found
    assert found.placed() == (part.axes, found.cell)


def test_regions_of_one_likeness_have_the_same_names() -> None:
    here = likeness(1, *ONE)
    assert names_in(part_of(axes(*ONE), lambda *_: True, here), region(axes(*ONE), here)) == {}
