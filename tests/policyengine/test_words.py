import datetime as dt
import ipaddress
from typing import Any

import pytest

from policyengine.circumstances import Variable, before, conjuncts, variables_of
from policyengine.cover import Shapes
from policyengine.diagram import CONDITIONS, Leaf, Node, Tree
from policyengine.model import ClaimsCondition, Conditions, Hours
from policyengine.words import literals_of, whens_of

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
A_HEADER = Conditions(headers=(("x", ("a", "b")),))
B_HEADER = Conditions(headers=(("y", ("c",)),))
CLAIMS = Conditions(claims=ClaimsCondition(issuer="https://idp.test", values=(("roles", ("admin",)),)))


def networks(*texts: str) -> Conditions:
    return Conditions(peer_ip=tuple(ipaddress.ip_network(text) for text in texts))


def hours(start: int, end: int, tz: str = "UTC") -> Conditions:
    return Conditions(hours=Hours(tz=tz, start=dt.time(start), end=dt.time(end)))


def variable(*conditions: Conditions) -> Variable:
    (found,) = variables_of([test for item in conditions for test in conjuncts(item)], NOW)
    return found


def said(found: Variable, *classes: int) -> list[dict[str, object]]:
    return [when for when, _ in literals_of(found, frozenset(classes))]


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ((0, 1, 2), [{}]),
        ((1,), [{"headers": {"x": ["a", "b"]}}]),
        ((2,), [{"unknown": ["headers.x"]}]),
        ((1, 2), [{"headers": {"x": ["a", "b"]}}, {"unknown": ["headers.x"]}]),
        ((0, 2), [{"not": [{"headers": {"x": ["a", "b"]}}]}]),
        ((0,), [{"not": [{"headers": {"x": ["a", "b"]}}, {"unknown": ["headers.x"]}]}]),
    ],
    ids=str,
)
def test_a_header(classes: tuple[int, ...], expected: Any) -> None:
    assert said(variable(A_HEADER), *classes) == expected


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ((1, 2), [{"peer_ip": ["10.0.0.0/8"]}]),
        ((1,), [{"peer_ip": ["10.0.0.0/8"], "not": [{"peer_ip": ["10.1.0.0/16"]}]}]),
        ((2, 3), [{"peer_ip": ["10.1.0.0/16", "fd00::/8"]}]),
        ((0, 3), [{"not": [{"peer_ip": ["10.0.0.0/8"]}]}]),
        ((0, 2), [{"not": [{"peer_ip": ["10.0.0.0/8", "fd00::/8"]}]}, {"peer_ip": ["10.1.0.0/16"]}]),
        ((0, 1, 2), [{"not": [{"peer_ip": ["fd00::/8"]}]}]),
    ],
    ids=str,
)
def test_addresses(classes: tuple[int, ...], expected: Any) -> None:
    assert said(variable(networks("10.0.0.0/8", "10.1.0.0/16", "fd00::/8")), *classes) == expected


def test_hours_that_touch_are_one_window() -> None:
    found = variable(hours(8, 12), hours(12, 18))
    by_hour = {value.bring[0][1].hour: index for index, value in enumerate(found.values) if not value.is_unknown}  # type: ignore[attr-defined]
    night, morning, afternoon = by_hour[18], by_hour[8], by_hour[12]
    assert said(found, morning, afternoon) == [{"hours": {"tz": "UTC", "from": "08:00", "to": "18:00"}}]
    assert said(found, night, morning) == [{"hours": {"tz": "UTC", "from": "18:00", "to": "12:00"}}]
    assert said(found, night) == [{"hours": {"tz": "UTC", "from": "18:00", "to": "08:00"}}]
    unknown = next(iter(found.unknown))
    assert said(found, morning, unknown)[-1] == {"unknown": ["time"]}
    assert said(found, night, morning, afternoon) == [{"not": [{"unknown": ["time"]}]}]


def test_hours_of_two_zones_hold_together() -> None:
    found = variable(hours(8, 18), hours(0, 12, "Asia/Tokyo"))
    both = [i for i, value in enumerate(found.values) if list(value.truths.values()) == [True, True]]
    neither = [i for i, value in enumerate(found.values) if list(value.truths.values()) == [False, False]]
    assert not both or all("also" in when or "hours" in when for when in said(found, *both))
    assert said(found, *neither)


@pytest.mark.parametrize(
    ("places", "expected"),
    [((0,), [(0, 1)]), ((1, 2), [(1, None)]), ((0, 2), [(0, 1), (2, None)])],
    ids=str,
)
def test_stretches(places: tuple[int, ...], expected: Any) -> None:
    (found,) = variables_of([before(NOW + DAY), before(NOW + 2 * DAY)], NOW)

    def text(days: int | None) -> str | None:
        return None if days is None else (NOW + days * DAY).strftime("%Y-%m-%dT%H:%M:%S.000000Z")

    assert said(found, *places) == [{"time": [{"from": text(a), "until": text(b)} for a, b in expected]}]


YES, NO = Leaf(()), Leaf(())


def whens(conditions: list[Conditions], holds: Any) -> list[dict[str, object]]:
    """What is said of the circumstances in which ``holds(value of each variable)``."""
    variables = variables_of([test for item in conditions for test in conjuncts(item)], NOW)

    def tree(place: int, before_: tuple[int, ...]) -> Tree:
        if place == len(variables):
            return YES if holds(*before_) else NO
        arms = [(frozenset((i,)), tree(place + 1, (*before_, i))) for i in range(len(variables[place].values))]
        return Node(CONDITIONS + place, tuple(arms))

    shapes = Shapes(variables)
    shape = shapes.parts(tree(0, ()), lambda leaf: leaf is YES or None)[True]
    return [when for when, _ in whens_of(shapes, shape)]


def test_both_conditions_stand_together() -> None:
    found = whens([A_HEADER, B_HEADER], lambda x, y: (x, y) == (1, 1))
    assert found == [{"headers": {"x": ["a", "b"], "y": ["c"]}}]


def test_either_condition_is_two_rows() -> None:
    found = whens([A_HEADER, B_HEADER], lambda x, y: x == 1 or y == 1)
    assert sorted(found, key=str) == [{"headers": {"x": ["a", "b"]}}, {"headers": {"y": ["c"]}}]


def test_not_both_is_said_as_what_it_is_not() -> None:
    found = whens([A_HEADER, B_HEADER], lambda x, y: (x, y) != (1, 1))
    assert found == [{"not": [{"headers": {"x": ["a", "b"], "y": ["c"]}}]}]


def test_claims_stand_with_their_issuer() -> None:
    found = whens([CLAIMS], lambda token, known, role: (token, known, role) == (1, 0, 1))
    assert found[0]["claims"] == {"issuer": "https://idp.test", "roles": ["admin"]}


def test_values_of_one_claim_are_said_together() -> None:
    other = Conditions(claims=ClaimsCondition(issuer="https://idp.test", values=(("roles", ("dev",)),)))
    found = whens([CLAIMS, other], lambda token, _, one, two: token == 1 and (one == 1 or two == 1))
    assert found == [{"claims": {"issuer": "https://idp.test", "roles": ["admin", "dev"]}}]


def test_one_field_that_is_asked_twice_stands_under_also() -> None:
    other = Conditions(claims=ClaimsCondition(issuer="https://idp.test", values=(("roles", ("dev",)),)))
    found = whens([CLAIMS, other], lambda token, _, one, two: token == 1 and one == 1 and two == 1)
    assert found == [
        {"claims": {"issuer": "https://idp.test", "roles": ["admin"]}, "also": [{"claims": {"roles": ["dev"]}}]}
    ]
