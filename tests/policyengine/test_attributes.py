"""Absent and unknown are two things, and three-valued logic keeps them apart."""

import datetime as dt
import itertools

import pytest

from policyengine.attributes import Truth, all_of, any_of, holds, identity_of, read
from policyengine.model import Conditions, Hours, policy_set_from_json
from tests.policyengine.corners import CART, CLAIM_ADMIN, IDP, ROLE_ADMIN, TD, allow, ask, tree

VALUES: tuple[Truth, ...] = (True, False, None)


@pytest.mark.parametrize(("left", "right"), list(itertools.product(VALUES, VALUES)))
def test_and_or_are_kleenes(left: Truth, right: Truth) -> None:
    assert all_of(left, right) is (False if False in (left, right) else None if None in (left, right) else True)
    assert any_of(left, right) is (True if True in (left, right) else None if None in (left, right) else False)


def test_empty_and_or() -> None:
    assert all_of() is True
    assert any_of() is False


@pytest.mark.parametrize(
    "text", [None, "", TD, f"{TD}/", f"{TD}//a", f"{CART}?x", f"{CART}\x00", "SPIFFE://a/b", f"{TD}:80/a", f"{TD}/%78"]
)
def test_no_identity(text: str | None) -> None:
    assert identity_of(text) is None


def condition(**when: object) -> Conditions:
    found = policy_set_from_json(tree(app=[allow(when=when)]).to_json()).policies[0].rules[0].when
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("when", "request_fields", "expected"),
    [
        (CLAIM_ADMIN, {}, False),
        (CLAIM_ADMIN, {"claims": {}}, False),
        (CLAIM_ADMIN, {"claims": {"iss": IDP}}, False),
        (CLAIM_ADMIN, {"claims": {"iss": IDP, "roles": []}}, False),
        (CLAIM_ADMIN, {"claims": {"iss": IDP, "roles": "admin"}}, True),
        (CLAIM_ADMIN, {"claims": {"iss": IDP, "roles": None}}, None),
        (CLAIM_ADMIN, {"claims": {"iss": IDP, "roles": 1.0}}, None),
        (CLAIM_ADMIN, {"claims": {"iss": 5, "roles": "admin"}}, False),
        (CLAIM_ADMIN, {"claims": {"iss": {}, "roles": "admin"}}, None),
        (CLAIM_ADMIN, {"claims": {"iss": [IDP], "roles": "admin"}}, True),
        (CLAIM_ADMIN, {"claims": {"iss": IDP, "roles": "admin"}, "unknown": frozenset({"claims.roles"})}, None),
        (ROLE_ADMIN, {}, False),
        (ROLE_ADMIN, {"headers": (("X-Role", "\tadmin "),)}, True),
        (ROLE_ADMIN, {"headers": (("x-role", ""),)}, False),
        (ROLE_ADMIN, {"headers": (("x-role", "admin"),), "unknown": frozenset({"headers.X-Role"})}, None),
        (ROLE_ADMIN, {"headers": (("x-role", "\u20ac"),)}, None),
        ({"peer_ip": ["fd00::/8"]}, {"peer_ip": "fd00::1"}, True),
        ({"peer_ip": ["fd00::/8"]}, {"peer_ip": "10.0.0.1"}, False),
        ({"forwarded_ip": ["10.0.0.0/8"]}, {"forwarded_ip": "10.0.0.1"}, True),
        ({"forwarded_ip": ["10.0.0.0/8"]}, {"unknown": frozenset({"forwarded_ip"})}, None),
        ({"rego": "data.shop.x"}, {}, None),
    ],
)
def test_condition(when: dict[str, object], request_fields: dict[str, object], expected: Truth) -> None:
    facts = read(ask(**request_fields), "http", frozenset({"x-role"}))
    assert holds(condition(**when), facts) is expected


def test_unparsed_connection_has_only_unknown_request_attributes() -> None:
    facts = read(ask(method=None, path=None), "http", frozenset())
    assert (facts.is_parsed, facts.method, facts.host, facts.path) == (False, None, None, None)
    assert holds(condition(**ROLE_ADMIN), facts) is None
    assert holds(condition(**CLAIM_ADMIN), facts) is None
    assert holds(condition(peer_ip=["10.0.0.0/8"]), facts) is True


ROLE = frozenset({"x-role"})


@pytest.mark.parametrize(
    ("request_fields", "ambiguous"),
    [
        ({}, set()),
        ({"path": "/a;b"}, {"path"}),
        ({"path": "/a;b", "unknown": frozenset({"path"})}, {"path"}),
        ({"host": "a,b"}, {"host"}),
        ({"host": None, "headers": (("host", "a"), ("HOST", "b"))}, {"host"}),
        ({"host": "a", "headers": ((":authority", "b"),)}, {"host"}),
        ({"host": "a", "headers": ((":authority", "A:80"),)}, set()),
        ({"headers": (("x-role", "a"), ("x-role", "a"))}, {"headers.x-role"}),
        ({"headers": (("x-role", "a,b"),)}, {"headers.x-role"}),
        ({"headers": (("x_role", "a"),)}, {"headers.x-role"}),
        ({"headers": (("x-other", "a,b"), ("x-other", "c"))}, set()),
        ({"path": "/a;b", "host": "a,b", "headers": (("x_role", "a"),)}, {"path", "host", "headers.x-role"}),
        ({"path": "/a;b", "protocol": "tcp"}, set()),
    ],
)
def test_ambiguous_attributes(request_fields: dict[str, object], ambiguous: set[str]) -> None:
    assert set(read(ask(**request_fields), "http", ROLE).ambiguous) == ambiguous


@pytest.mark.parametrize(
    ("request_fields", "method", "host", "path"),
    [
        ({"path": "/a?b"}, "GET", "db.corp.test", ("a",)),
        ({"method": "G T"}, None, "db.corp.test", ("orders",)),
        ({"method": ""}, None, "db.corp.test", ("orders",)),
        ({"unknown": frozenset({"method", "host", "path"})}, None, None, None),
        ({"host": None}, "GET", "", ("orders",)),
        ({"host": None, "unknown": frozenset({"host"})}, "GET", None, ("orders",)),
        ({"host": None, "headers": (("Host", "X.test:1"),)}, "GET", "x.test", ("orders",)),
        ({"host": "no host"}, "GET", None, ("orders",)),
        ({"path": None}, "GET", "db.corp.test", None),
    ],
)
def test_attributes(
    request_fields: dict[str, object], method: str | None, host: str | None, path: tuple[str, ...] | None
) -> None:
    facts = read(ask(**request_fields), "http", frozenset())
    assert (facts.method, facts.host, facts.path) == (method, host, path)


@pytest.mark.parametrize(
    ("request_fields", "expected"),
    [
        ({}, True),
        ({"time": None}, None),
        ({"time": dt.datetime(2026, 11, 24, 12, 0)}, None),
        ({"unknown": frozenset({"time"})}, None),
        ({"time": dt.datetime(2026, 11, 24, 18, 0, tzinfo=dt.UTC)}, False),
    ],
)
def test_hours(request_fields: dict[str, object], expected: Truth) -> None:
    when = condition(hours={"tz": "UTC", "from": "08:00", "to": "18:00"})
    assert holds(when, read(ask(**request_fields), "http", frozenset())) is expected


def test_a_zone_that_this_machine_does_not_know_is_unknown() -> None:
    when = Conditions(hours=Hours(tz="Mars/Olympus", start=dt.time(0), end=dt.time(23)))
    assert holds(when, read(ask(), "http", frozenset())) is None


def test_malformed_addresses_are_unknown() -> None:
    when = condition(peer_ip=["0.0.0.0/0"])
    for text in ("", "10.0.0", "010.0.0.1", "10.0.0.1:80", "x", "1" * 5000):
        assert holds(when, read(ask(peer_ip=text), "http", frozenset())) is None


def test_source_that_is_named_unknown_is_nobody() -> None:
    assert read(ask(unknown=frozenset({"source"})), "http", frozenset()).source is None
