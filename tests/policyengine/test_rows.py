import datetime as dt
from typing import Any

import pytest

from mesh.request import Decision, Effect, Mode, Request
from policyengine.atoms import caller_classes, host_classes, path_classes
from policyengine.canonical import HostPattern, PathPattern
from policyengine.circumstances import circumstances_of
from policyengine.model import Conditions, Principal
from policyengine.regions import OTHER, Cell, PortAxes, Region
from policyengine.rows import Difference, reasons, request_to_json, rows_of

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
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
        "times": (NOW, NOW + DAY, NOW + 2 * DAY),
        "circumstances": circumstances_of([]),
        "peer_ip": None,
        "is_complete": True,
    }
    return Region(**{**standard, **fields})


def said(found: Region, keep: Any) -> Any:
    (on,) = found.ports
    cells = tuple(cell for axes_, cell in found.cells() if keep(axes_, cell))
    rows = rows_of([Difference(region=found, axes=on, because=("p/r",), cells=cells)])
    return [(row.source.removeprefix(ID), row.methods, row.paths, row.when) for row in rows]


def matches(on: PortAxes, cell: Cell, text: str) -> bool:
    return PathPattern.parse(text).matches(on.paths[cell.path][1])


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
    rows = said(region(axes("/a")), lambda _, cell: cell.method in methods)
    assert [(found[1], found[3]) for found in rows] == [expected]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ((0, 1, 2), None),
        ((0,), [(0, 1)]),
        ((1, 2), [(1, None)]),
        ((0, 2), [(0, 1), (2, None)]),
    ],
    ids=str,
)
def test_moments(times: tuple[int, ...], expected: Any) -> None:
    ((_, _, _, when),) = said(region(axes("/a")), lambda _, cell: cell.time in times)

    def text(days: int | None) -> str | None:
        return None if days is None else (NOW + days * DAY).strftime("%Y-%m-%dT%H:%M:%S.000000Z")

    stretches = None if expected is None else [{"from": text(a), "until": text(b)} for a, b in expected]
    assert when.get("time") == stretches


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
    ((_, _, _, when),) = said(found, lambda on, cell: on.hosts[cell.host][0] in names)
    assert when == expected


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ((0, 1, 2, 3), {}),
        ((1, 3), {"headers": {"a": ["1"]}}),
        ((1, 2, 3), {"any_of": [{"headers": {"a": ["1"]}}, {"headers": {"b": ["1"]}}]}),
        ((0, 2), {"not": [{"headers": {"a": ["1"]}}]}),
    ],
    ids=str,
)
def test_circumstances(chosen: tuple[int, ...], expected: Any) -> None:
    tried = circumstances_of([Conditions(headers=((name, ("1",)),)) for name in "ab"])
    ((_, _, _, when),) = said(region(axes("/a"), circumstances=tried), lambda _, cell: cell.circumstance in chosen)
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


def decision(effect: Effect, rule: str = "", mode: Mode = Mode.ENFORCE, says: Effect | None = None) -> Decision:
    return Decision(
        effect=effect, policy_effect=says or effect, mode=mode, snapshot="", tier="app", policy="p" if rule else "",
        rule=rule, code="LM2300",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param(decision(Effect.DENY), decision(Effect.ALLOW, "r"), ("p/r",), id="new-allow"),
        pytest.param(decision(Effect.DENY, "d"), decision(Effect.ALLOW, "r"), ("p/r", "p/d"), id="over-a-deny"),
        pytest.param(decision(Effect.ALLOW, "r"), decision(Effect.DENY), ("p/r",), id="gone-allow"),
        pytest.param(
            decision(Effect.DENY, "d"),
            decision(Effect.ALLOW, "d", Mode.OBSERVE, Effect.DENY),
            ("db: observe", "p/d"),
            id="observe",
        ),
        pytest.param(
            decision(Effect.ALLOW, "", Mode.OBSERVE, Effect.DENY), decision(Effect.DENY), ("db: observe",), id="enforce"
        ),
    ],
)
def test_names_what_decides_and_what_decided(old: Decision, new: Decision, expected: tuple[str, ...]) -> None:
    assert reasons(old, new, "db") == expected


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
