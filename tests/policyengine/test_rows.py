import dataclasses
import datetime as dt
from typing import Any

import pytest

from mesh.request import Effect, Request
from policyengine.atoms import caller_classes, host_classes, path_classes
from policyengine.canonical import HostPattern, PathPattern
from policyengine.cover import EVERYTHING, Shapes
from policyengine.diagram import Verdict
from policyengine.ir import Grant
from policyengine.likeness import Likeness
from policyengine.model import Principal, Principals
from policyengine.products import Part
from policyengine.regions import OTHER, PortAxes, Region
from policyengine.rows import MANY, Difference, reasons, request_to_json, rows_of

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
        "cut": lambda: (on,),
        "forms": (),
        "spoken": (),
        "beliefs": {},
    }
    return Region(**{**standard, **fields})


def said(found: Region, *, joins: bool = False) -> Any:
    """The rows of everything in a region."""
    (on,) = found.ports
    cells = [(method, host) for method in range(len(on.methods)) for host in range(len(on.hosts))]
    operations = {cell: set(range(len(on.paths))) for cell in cells}
    part = Part(axes=on, shapes=Shapes(()), operations={EVERYTHING: operations})
    rows = rows_of([Difference(region=found, because=("p/r",), part=part)], NOW, joins=joins)
    return [(row.source.removeprefix(ID), row.methods, row.paths, row.when) for row in rows]


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
    rows = said(region(axes("/a"), callers))
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
    ((source, _, _, when),) = said(crowd(MANY + 1), joins=True)
    assert (ID + source, when) == (f"{ID}**", {"source_in": names})


def test_a_few_are_a_row_each_and_so_are_many_where_nobody_joins_them() -> None:
    assert len(said(crowd(MANY), joins=True)) == MANY
    assert len(said(crowd(MANY + 1))) == MANY + 1


def test_a_pattern_that_leaves_others_out_has_a_row_of_its_own() -> None:
    found = crowd(MANY + 1, f"{ID}**", f"{ID}other/**")
    left_out = {f"{ID}crowd-00", f"{ID}other/**"}
    keep = tuple(item for item in found.callers if item.name not in left_out)
    rows = said(dataclasses.replace(found, callers=keep), joins=True)
    assert [(row[0], row[3]) for row in rows] == [("**", {"source_not_in": sorted(left_out)})]


def family(count: int, *, words: int = 1) -> list[Difference]:
    """So many callers, each with a path of its own that it cannot reach, and as many words for the others."""
    classes = crowd(count).classes
    differences = []
    for place in range(count):
        texts = (f"/own-{place % (count // words or 1)}", "/health")
        on = axes(*texts)
        patterns = tuple(map(PathPattern.parse, texts))
        found = dataclasses.replace(
            region(on), classes=classes, callers=(classes[place],), likeness=Likeness(place, 0, patterns)
        )
        if not differences:
            paths = {index for index, (held, _) in enumerate(on.paths) if not held}
            operations = {(method, 0): paths for method in range(len(on.methods))}
            origin = Likeness(0, 0, patterns)
            part = Part(axes=on, shapes=Shapes(()), operations={EVERYTHING: operations}, origin=origin)
        differences.append(Difference(region=found, because=("p/r",), part=part))
    return differences


def test_many_callers_that_differ_in_paths_are_one_row_that_says_of_each_its_own() -> None:
    (row,) = rows_of(family(MANY + 1), NOW, joins=True)
    names = [f"{ID}crowd-{place:02}" for place in range(MANY + 1)]
    assert (row.source, row.methods, row.paths) == (f"{ID}**", ("*",), ("/**",))
    assert row.when == {
        "by_source": [{"source": name, "path_not_in": ["/health", f"/own-{place}"]} for place, name in enumerate(names)]
    }
    assert row.sources == tuple(names)
    assert row.witness.source == names[0]


def test_a_few_that_differ_in_paths_are_a_row_each_with_a_witness_of_its_own() -> None:
    rows = rows_of(family(MANY), NOW, joins=True)
    assert [row.when["path_not_in"] for row in rows] == [["/health", f"/own-{place}"] for place in range(MANY)]
    assert [row.witness.source for row in rows] == [row.source for row in rows]
    assert len(rows_of(family(MANY + 1), NOW)) == MANY + 1


def test_many_of_the_same_words_are_named_beside_those_with_words_of_their_own() -> None:
    # the second half has the words of the first, so that no words are of many
    (row,) = rows_of(family(2 * MANY + 2, words=2), NOW, joins=True)
    assert len(row.sources) == 2 * MANY + 2
