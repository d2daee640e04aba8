import datetime as dt
import ipaddress
import zoneinfo
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.circumstances import Stretch, Test, Variable, before, conjuncts, variables_of, zone_of
from policyengine.model import ClaimsCondition, Conditions, Hours

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def header(*values: str) -> Conditions:
    return Conditions(headers=(("x", values),))


def claims(issuer: str = "https://idp.test", **values: Any) -> Conditions:
    listed = tuple((name, tuple(allowed)) for name, allowed in values.items())
    return Conditions(claims=ClaimsCondition(issuer=issuer, values=listed))


def hours(start: int, end: int, tz: str = "UTC") -> Conditions:
    return Conditions(hours=Hours(tz=tz, start=dt.time(start), end=dt.time(end)))


def variables(*conditions: Conditions) -> tuple[Variable, ...]:
    return variables_of([test for found in conditions for test in conjuncts(found)], NOW)


def test_a_header_has_other_values_those_that_tests_tell_apart_and_what_nobody_can_read() -> None:
    (found,) = variables(header("a", "b"), header("b", "c"), header("d", "e"))
    assert [value.said for value in found.values] == [(), ("a",), ("b",), ("c",), ("d", "e"), ()]
    assert found.unknown == {5}
    assert set(found.values[5].truths.values()) == {None}
    assert list(found.values[2].truths.values()) == [True, True, False]


def test_a_claim_may_have_several_values_so_each_group_is_asked_about() -> None:
    names = [found.attribute for found in variables(claims(roles=["a", "b"]), claims(roles=["b"]), claims(sub=["u"]))]
    assert names == ["claims", "claims.roles", "claims.roles=0", "claims.roles=1", "claims.sub", "claims.sub=0"]


def test_a_claim_is_known_to_be_absent_only_when_every_group_is() -> None:
    _, _, first, second = variables(claims(roles=["a", "b"]), claims(roles=["b"]))
    wide = Test("claims.roles", (("str", "a"), ("str", "b")))
    assert wide not in first.values[0].truths
    assert second.values[0].truths[wide] is False
    assert first.values[1].truths[wide] is True


def test_a_number_and_true_are_different_claims() -> None:
    (first,) = conjuncts(claims(x=[1]))[1:]
    (second,) = conjuncts(claims(x=[True]))[1:]
    assert first != second


def test_a_token_that_does_not_verify_makes_its_claims_unknown() -> None:
    token = variables(claims("https://a.test", roles=["x"]), claims("https://b.test"))[0]
    assert [value.said for value in token.values] == [(), ("https://a.test", "both"), ("https://b.test", "both"), ()]
    assert Test("claims.roles", (("str", "x"),)) in token.values[3].truths
    assert Test("claims.roles", (("str", "x"),)) not in token.values[1].truths


def networks(*texts: str) -> tuple[Any, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


def test_addresses_are_cut_by_networks_and_every_class_has_one() -> None:
    (found,) = variables(Conditions(peer_ip=networks("10.0.0.0/8", "10.1.0.0/16", "fd00::/8")))
    brought = [(value.said, value.bring[0][1]) for value in found.values]
    assert [(tuple(map(str, said)), address) for said, address in brought] == [
        ((), "192.0.2.1"),
        (("10.0.0.0/8",), "10.0.0.0"),
        (("10.1.0.0/16",), "10.1.0.0"),
        (("fd00::/8",), "fd00::"),
    ]
    assert found.unknown == frozenset()


def test_a_network_that_smaller_ones_fill_has_no_class() -> None:
    (found,) = variables(Conditions(peer_ip=networks("10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9")))
    assert [str(network) for value in found.values for network in value.said] == ["10.0.0.0/9", "10.128.0.0/9"]


def test_where_networks_are_everything_there_is_no_other_address() -> None:
    (found,) = variables(Conditions(peer_ip=networks("0.0.0.0/0", "::/0")))
    assert not found.has_default
    (reported,) = variables(Conditions(forwarded_ip=networks("0.0.0.0/0", "::/0")))
    assert reported.has_default
    assert reported.values[0].bring == ()


def test_a_custom_rule_is_false_true_or_unknown() -> None:
    (found,) = variables(Conditions(rego="data.x.y"))
    assert [list(value.truths.values()) for value in found.values] == [[False], [True], [None]]


def moments(found: Variable) -> list[dt.datetime]:
    return [value.bring[0][1] for value in found.values if not value.is_unknown]  # type: ignore[misc]


def test_ends_bound_stretches_and_past_ones_do_not() -> None:
    (found,) = variables_of([before(NOW + DAY), before(NOW - DAY), before(NOW + 2 * DAY)], NOW)
    assert moments(found) == [NOW, NOW + DAY, NOW + 2 * DAY]
    assert [list(value.truths.values()) for value in found.values] == [
        [True, False, True],
        [False, False, True],
        [False, False, False],
        [False, False, False],
    ]


def test_a_stretch_shorter_than_a_day_has_only_the_hours_inside_it() -> None:
    tests = [*conjuncts(hours(20, 22)), before(NOW + dt.timedelta(hours=1))]
    (found,) = variables_of(tests, NOW)
    first = [
        value for value in found.values if value.said and isinstance(value.said[0], Stretch) and not value.said[0].place
    ]
    assert len(first) == 1


def test_zones_that_move_against_each_other_are_looked_at_for_a_year() -> None:
    (found,) = variables(hours(9, 10, "Europe/Berlin"), hours(3, 4, "America/New_York"))
    both = [value for value in found.values if list(value.truths.values()) == [True, True]]
    assert len(both) == 1  # six hours apart, as most of the year
    (shifted,) = variables(hours(9, 10, "Europe/Berlin"), hours(4, 5, "America/New_York"))
    assert any(list(value.truths.values()) == [True, True] for value in shifted.values)  # five in March and October


@given(st.times(), st.times(), st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]))
def test_every_class_of_moments_is_what_it_says(start: dt.time, end: dt.time, zone: str) -> None:
    start, end = start.replace(microsecond=0, second=0), end.replace(microsecond=0, second=0)
    if start == end:
        return
    window = Hours(tz=zone, start=start, end=end)
    (found,) = variables(Conditions(hours=window))
    assert {value.truths[test] for value in found.values for test in value.truths} == {True, False, None}
    for value in found.values:
        if not value.is_unknown:
            (truth,) = value.truths.values()
            moment = value.bring[0][1]
            assert isinstance(moment, dt.datetime)
            assert moment >= NOW
            assert window.contains(moment.astimezone(zoneinfo.ZoneInfo(zone)).time()) is truth


def test_hours_in_a_zone_that_is_not_known_are_unknown() -> None:
    assert zone_of("Nowhere/Land") is None
    (found,) = variables(hours(1, 2, "Nowhere/Land"))
    assert {truth for value in found.values for truth in value.truths.values()} == {None}


@pytest.mark.parametrize("order", [1, -1], ids=["as-given", "reversed"])
def test_attributes_have_one_order(order: int) -> None:
    every = [
        claims(roles=["a"]), header("a"), hours(1, 2), Conditions(rego="data.x.y"),
        Conditions(peer_ip=networks("10.0.0.0/8"), forwarded_ip=networks("10.0.0.0/8")),
    ]  # fmt: skip
    names = [found.attribute for found in variables(*every[::order])]
    assert names == [
        "time", "peer_ip", "forwarded_ip", "headers.x", "claims", "claims.roles", "claims.roles=0", "rego.data.x.y"
    ]  # fmt: skip
