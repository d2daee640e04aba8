import datetime as dt
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.circumstances import (
    MAX_CIRCUMSTANCES,
    PLAIN,
    circumstances_of,
    includes,
    moment_for,
    peer_outside,
)
from policyengine.model import ClaimsCondition, Conditions, Hours

NOW = dt.datetime(2026, 11, 24, 12, 0, tzinfo=dt.UTC)
HEADER = Conditions(headers=(("x-tenant", ("a", "b")),))
OTHER = Conditions(headers=(("x-tenant", ("c",)),))
CLAIMS = Conditions(claims=ClaimsCondition(issuer="https://idp.test", values=(("roles", ("admin",)),)))
HOURS = Conditions(hours=Hours(tz="UTC", start=dt.time(20), end=dt.time(6)))
NET = Conditions(peer_ip=(ipaddress.ip_network("10.1.0.0/16"),), forwarded_ip=(ipaddress.ip_network("2001:db8::/32"),))


def test_begins_with_nothing() -> None:
    assert circumstances_of([]) == (PLAIN,)
    assert circumstances_of([HEADER])[0] == PLAIN
    assert PLAIN.to_json() == {}


def test_meets_each_condition_alone_and_two_together() -> None:
    found = [item.to_json() for item in circumstances_of([HEADER, CLAIMS])]
    header, claims = {"headers": {"x-tenant": ["a"]}}, {"claims": {"issuer": "https://idp.test", "roles": "admin"}}
    assert found == [{}, header, claims, {**header, **claims}]


def test_puts_nothing_together_that_contradicts_itself() -> None:
    assert len(circumstances_of([HEADER, OTHER])) == 3


def test_asks_inside_and_outside_of_hours() -> None:
    found = [item.to_json().get("hours") for item in circumstances_of([HOURS])]
    assert found == [None, {"tz": "UTC", "from": "20:00", "to": "06:00"}, {"tz": "UTC", "from": "06:00", "to": "20:00"}]


def test_names_addresses() -> None:
    (_, found) = circumstances_of([NET])
    assert found.to_json() == {"peer_ip": ["10.1.0.0"], "forwarded_ip": ["2001:db8::"]}


def test_stays_bounded() -> None:
    many = [Conditions(headers=((f"x-{index}", ("a",)),)) for index in range(200)]
    assert len(circumstances_of(many)) == MAX_CIRCUMSTANCES


@pytest.mark.parametrize(("larger", "smaller"), [(3, 1), (3, 2), (1, 0), (1, 1)], ids=str)
def test_knows_what_includes_what(larger: int, smaller: int) -> None:
    found = circumstances_of([HEADER, CLAIMS])
    assert includes(found[larger], found[smaller])
    assert larger == smaller or not includes(found[smaller], found[larger])


@given(st.times(), st.times(), st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]))
def test_finds_a_moment_inside_the_hours_from_then_on(start: dt.time, end: dt.time, zone: str) -> None:
    start, end = start.replace(microsecond=0, second=0), end.replace(microsecond=0, second=0)
    if start == end:
        return
    hours = Hours(tz=zone, start=start, end=end)
    (_, inside, _) = circumstances_of([Conditions(hours=hours)])
    moment = moment_for(inside, NOW)
    assert moment >= NOW
    assert moment - NOW <= dt.timedelta(days=1, hours=1)
    import zoneinfo

    assert hours.contains(moment.astimezone(zoneinfo.ZoneInfo(zone)).time())


def test_leaves_the_moment_where_nothing_is_asked_or_the_zone_is_unknown() -> None:
    lost = Conditions(hours=Hours(tz="Nowhere/Land", start=dt.time(1), end=dt.time(2)))
    assert moment_for(PLAIN, NOW) == NOW
    assert moment_for(circumstances_of([lost])[1], NOW) == NOW


def test_finds_an_address_that_no_condition_names() -> None:
    assert peer_outside([NET]) == "192.0.2.1"
    everywhere = (ipaddress.ip_network("0.0.0.0/0"),)
    assert peer_outside([Conditions(peer_ip=everywhere)]) == "2001:db8::1"
    both = (*everywhere, ipaddress.ip_network("::/0"))
    assert peer_outside([Conditions(peer_ip=both)]) is None
