"""Absent and unknown are two things, and three-valued logic keeps them apart."""

import itertools

import pytest

from policyengine.attributes import Truth, all_of, any_of, holds, identity_of, read
from policyengine.model import Conditions, policy_set_from_json
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
        ({"rego": "data.x"}, {}, None),
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
