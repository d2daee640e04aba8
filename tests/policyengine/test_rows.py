import dataclasses
import datetime as dt
from typing import Any

import pytest

from mesh.request import Effect, Request
from policyengine.atoms import caller_classes, host_classes, path_classes
from policyengine.canonical import HostPattern, PathPattern
from policyengine.cover import EVERYTHING, Shapes
from policyengine.diagram import HOST, METHOD, PATH, Leaf, Node, Verdict
from policyengine.ir import Grant
from policyengine.model import Principal, Principals
from policyengine.regions import OTHER, PortAxes, Region
from policyengine.rows import MANY, Difference, Part, enclosing, parts_of, reasons, request_to_json, rows_of

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
ID = "spiffe://corp.test/"


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


def region(on: PortAxes, callers: Any = ("a",), **fields: Any) -> Region:
    classes = caller_classes(
        pattern for text in ("a", "b/c", "b/**", "**") if (pattern := Principal.parse(ID + text).pattern)
    )
    standard = {
        "service": "db",
        "callers": tuple(found for found in classes if found.name.removeprefix(ID) in callers),
        "classes": classes,
        "ports": (on,),
        "forms": (),
        "spoken": (),
        "beliefs": {},
    }
    return Region(**{**standard, **fields})


def said(found: Region, keep: Any, *, joins: bool = False) -> Any:
    """The rows of the cells (method, host, path) that are kept."""
    (on,) = found.ports
    operations: dict[tuple[int, int], set[int]] = {}
    for method in range(len(on.methods)):
        for host in range(len(on.hosts)):
            for path in range(len(on.paths)):
                if keep(on, (method, host, path)):
                    operations.setdefault((method, host), set()).add(path)
    part = Part(axes=on, shapes=Shapes(()), operations={EVERYTHING: operations})
    rows = rows_of([Difference(region=found, because=("p/r",), part=part)], NOW, joins=joins)
    return [(row.source.removeprefix(ID), row.methods, row.paths, row.when) for row in rows]


def matches(on: PortAxes, cell: tuple[int, int, int], text: str) -> bool:
    return PathPattern.parse(text).matches(on.paths[cell[2]][1])


def test_everything_is_said_in_one_row() -> None:
    assert said(region(axes("/a", "/a/**")), lambda *_: True) == [("a", ("*",), ("/**",), {})]


def test_patterns_share_a_row() -> None:
    found = region(axes("/a", "/b/**", "/c"))
    rows = said(found, lambda on, cell: matches(on, cell, "/a") or matches(on, cell, "/b/**"))
    assert rows == [("a", ("*",), ("/a", "/b/**"), {})]


def test_a_pattern_without_the_ones_inside_it() -> None:
    found = region(axes("/a/**", "/a/b", "/a/c"))
    rows = said(found, lambda on, cell: matches(on, cell, "/a/**") and not matches(on, cell, "/a/b"))
    assert rows == [("a", ("*",), ("/a/**",), {"path_not_in": ["/a/b"]})]


def test_everything_but_a_pattern() -> None:
    found = region(axes("/a/**"))
    rows = said(found, lambda on, cell: not matches(on, cell, "/a/**"))
    assert rows == [("a", ("*",), ("/**",), {"path_not_in": ["/a/**"]})]


def test_where_two_patterns_cross() -> None:
    found = region(axes("/a/{x}", "/{y}/b"))
    rows = said(found, lambda on, cell: matches(on, cell, "/a/{x}") and matches(on, cell, "/{y}/b"))
    assert rows == [("a", ("*",), ("/a/{x}",), {"path_also_in": ["/{y}/b"]})]


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
    rows = said(region(axes("/a")), lambda on, cell: on.methods[cell[0]] in methods)
    assert [(found[1], found[3]) for found in rows] == [expected]


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
    found = region(axes("/a", hosts=("db.corp.test", "*.corp.test")))
    ((_, _, _, when),) = said(found, lambda on, cell: on.hosts[cell[1]][0] in names)
    assert when == expected


@pytest.mark.parametrize(
    ("callers", "expected"),
    [
        pytest.param(("a",), [("a", [])], id="exact"),
        pytest.param(("b/**", "b/c"), [("b/**", [])], id="covered"),
        pytest.param(("b/**",), [("b/**", ["b/c"])], id="without-the-one-inside"),
        pytest.param(("**", "a", "b/c"), [("**", ["b/**"]), ("b/c", [])], id="island"),
        pytest.param(("any", "**", "a", "b/**", "b/c"), [("any", [])], id="everybody"),
    ],
)
def test_callers(callers: tuple[str, ...], expected: Any) -> None:
    rows = said(region(axes("/a"), callers), lambda *_: True)
    assert [(row[0], [text.removeprefix(ID) for text in row[3].get("source_not_in", [])]) for row in rows] == expected


def verdict(effect: Effect, rule: str = "", says: Effect | None = None) -> Verdict:
    grant = Grant(
        rank=0, tier="app", effect=says or effect, policy="p", rule=rule, callers=Principals(is_any=True, patterns=())
    )
    return Verdict(
        effect=effect, policy_effect=says or effect, grant=grant if rule else None, is_observed=says is not None
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param(verdict(Effect.DENY), verdict(Effect.ALLOW, "r"), ("p/r",), id="new-allow"),
        pytest.param(verdict(Effect.DENY, "d"), verdict(Effect.ALLOW, "r"), ("p/r", "p/d"), id="over-a-deny"),
        pytest.param(verdict(Effect.ALLOW, "r"), verdict(Effect.DENY), ("p/r",), id="gone-allow"),
        pytest.param(
            verdict(Effect.DENY, "d"), verdict(Effect.ALLOW, "d", Effect.DENY), ("db: observe", "p/d"), id="observe"
        ),
        pytest.param(verdict(Effect.ALLOW, "", Effect.DENY), verdict(Effect.DENY), ("db: observe",), id="enforce"),
    ],
)
def test_names_what_decides_and_what_decided(old: Verdict, new: Verdict, expected: tuple[str, ...]) -> None:
    assert reasons(old, new, "db") == expected


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


def test_a_witness_has_the_public_form_of_a_request() -> None:
    request = Request(
        service="db", port=1, protocol="http", headers=(("a", "b"),), claims={"iss": "x"}, time=NOW, path="/"
    )
    assert request_to_json(request) == {
        "source": None,
        "service": "db",
        "port": 1,
        "protocol": "http",
        "method": None,
        "host": None,
        "path": "/",
        "headers": [["a", "b"]],
        "claims": {"iss": "x"},
        "peer_ip": None,
        "time": "2026-11-24T12:00:00.000000Z",
    }


def crowd(count: int, *more: str) -> Region:
    """So many callers of one namespace, and more patterns."""
    texts = [*(f"{ID}crowd-{place:02}" for place in range(count)), *more]
    classes = caller_classes(pattern for text in texts if (pattern := Principal.parse(text).pattern))
    callers = tuple(found for found in classes if found.name in texts)
    return dataclasses.replace(region(axes("/a")), classes=classes, callers=callers)


def test_many_callers_alike_are_one_row_that_names_them() -> None:
    names = [f"{ID}crowd-{place:02}" for place in range(MANY + 1)]
    ((source, _, _, when),) = said(crowd(MANY + 1), lambda *_: True, joins=True)
    assert (ID + source, when) == (f"{ID}**", {"source_in": names})


def test_a_few_are_a_row_each_and_so_are_many_where_nobody_joins_them() -> None:
    assert len(said(crowd(MANY), lambda *_: True, joins=True)) == MANY
    assert len(said(crowd(MANY + 1), lambda *_: True)) == MANY + 1


def test_a_pattern_that_leaves_others_out_has_a_row_of_its_own() -> None:
    found = crowd(MANY + 1, f"{ID}**", f"{ID}other/**")
    left_out = {f"{ID}crowd-00", f"{ID}other/**"}
    keep = tuple(item for item in found.callers if item.name not in left_out)
    rows = said(dataclasses.replace(found, callers=keep), lambda *_: True, joins=True)
    assert [(row[0], row[3]) for row in rows] == [("**", {"source_not_in": sorted(left_out)})]


ENCLOSING = [
    (["spiffe://a.test/x/y", "spiffe://a.test/x/z"], "spiffe://a.test/x/**"),
    (["spiffe://a.test/x/y/**", "spiffe://a.test/x/y/z"], "spiffe://a.test/x/y/**"),
    (["spiffe://a.test/x/y/**", "spiffe://a.test/x/y"], "spiffe://a.test/x/**"),
    (["spiffe://a.test/x", "spiffe://a.test/y"], "spiffe://a.test/**"),
    (["spiffe://a.test/xy/z", "spiffe://a.test/x/z"], "spiffe://a.test/**"),
    (["spiffe://a.test/x", "spiffe://b.test/x"], "any"),
    (["spiffe://a.test/x/**", "any"], "any"),
]


@pytest.mark.parametrize(("names", "pattern"), ENCLOSING, ids=lambda item: item if isinstance(item, str) else "")
def test_what_encloses_patterns(names: list[str], pattern: str) -> None:
    assert enclosing(names) == enclosing(names[::-1]) == pattern
