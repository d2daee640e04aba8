"""Plans of what issuers of tokens are declared as."""

import dataclasses
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mesh.request import Effect, Request
from policyengine import reference
from policyengine.analysis import plan
from policyengine.belief import beliefs_between
from policyengine.diagram import build
from policyengine.issuer import Issuer
from policyengine.lookup import leaf_of
from policyengine.model import (
    PolicySet,
)
from policyengine.witness import unbelieved
from tests.examples import examples
from tests.policyengine import strategies
from tests.policyengine.corners import CLAIM_ADMIN, IDP, allow, tree
from tests.policyengine.plans import ANSWERS, NOW
from tests.policyengine.rowwords import speaks_of

ISSUER = Issuer(name="idp", owner="", issuer=IDP, audiences=("a",), jwks_uri="https://idp.test/keys")
ASKING = tree(app=[allow(when=CLAIM_ADMIN)])


def declared(*issuers: Issuer) -> PolicySet:
    return dataclasses.replace(ASKING, issuers=issuers)


def changed(**fields: Any) -> Issuer:
    return dataclasses.replace(ISSUER, **fields)


def whens(rows: Any) -> list[dict[str, Any]]:
    assert all(row.is_replayed for row in rows)
    return [row.when for row in rows]


READABLE = {"unknown": ["claims.roles"]}
ADMINS = {"claims": {"issuer": IDP, "roles": ["admin"]}, "not": [READABLE]}
BEFORE, NOW_ONLY = {**ADMINS, "believed": "before"}, {**ADMINS, "believed": "now"}


@pytest.mark.parametrize(
    ("old", "new", "gained", "lost"),
    [
        pytest.param(ASKING, declared(ISSUER), [ADMINS], [], id="declared"),
        pytest.param(declared(ISSUER), ASKING, [], [ADMINS], id="no-longer-declared"),
        pytest.param(declared(ISSUER), declared(changed(owner="x", name="y")), [], [], id="renamed"),
        pytest.param(
            declared(ISSUER), declared(changed(jwks_uri="https://b.test/k")), [NOW_ONLY], [BEFORE], id="other-keys"
        ),
        pytest.param(declared(ISSUER), declared(changed(bind=("actor",))), [], [BEFORE], id="bound"),
        pytest.param(declared(ISSUER), declared(changed(audiences=("a", "b"))), [NOW_ONLY], [], id="for-more"),
        pytest.param(declared(ISSUER), declared(changed(audiences=("b",))), [NOW_ONLY], [BEFORE], id="for-others"),
        pytest.param(declared(changed(leeway_s=60)), declared(changed(leeway_s=5)), [], [BEFORE], id="less-leeway"),
        pytest.param(declared(ISSUER), declared(changed(algorithms=("ES256",))), [], [BEFORE], id="fewer-algorithms"),
        pytest.param(
            declared(ISSUER), declared(ISSUER, changed(name="x", issuer="x")), [], [], id="one-nobody-asks-for"
        ),
    ],
)
def test_other_tokens_of_an_issuer_are_other_access(
    old: PolicySet, new: PolicySet, gained: list[Any], lost: list[Any]
) -> None:
    found = plan(old, new, (), NOW)
    assert found.is_complete
    assert (whens(found.newly_allowed), whens(found.newly_denied)) == (gained, lost)


def test_the_issuer_stands_beside_the_rule_that_asks_for_its_tokens() -> None:
    (row,) = plan(ASKING, declared(ISSUER), (), NOW).newly_allowed
    assert row.because == ("app-db/r0", f"{IDP}: issuer")
    assert row.witness.claims == {"iss": IDP, "roles": "admin"}


def test_what_no_version_believed_is_unknown_and_meets_a_deny() -> None:
    deny = {"effect": "deny", "when": {"claims": {"issuer": IDP, "roles": ["guest"]}}}
    before = tree(app=[allow(), deny])
    found = plan(before, dataclasses.replace(before, issuers=(ISSUER,)), (), NOW)
    assert found.is_complete
    # until now every token of the issuer was one that nobody can read, and denied
    others = {"claims": {"issuer": IDP}, "not": [READABLE, {"claims": {"roles": ["guest"]}}]}
    assert whens(found.newly_allowed) == [others]
    assert found.newly_denied == ()


DECLARATIONS = st.lists(
    st.sampled_from(
        [
            ISSUER,
            changed(bind=("subject",)),
            changed(jwks_uri="https://b.test/keys"),
            changed(name="evil", issuer="https://evil.test"),
        ]
    ),
    max_size=2,
    unique_by=lambda issuer: issuer.issuer,
).map(tuple)


@settings(max_examples=examples(8), deadline=None)
@given(
    st.data(),
    strategies.policy_sets,
    strategies.policy_sets,
    st.tuples(DECLARATIONS, DECLARATIONS),
    st.lists(strategies.requests, min_size=1, max_size=3),
    ANSWERS,
)
def test_rows_about_tokens_speak_of_exactly_the_requests_that_are_decided_differently(
    data: Any,
    old: PolicySet,
    new: PolicySet,
    issuers: tuple[tuple[Issuer, ...], tuple[Issuer, ...]],
    asked: list[Request],
    custom: Any,
) -> None:
    assume(not strategies.folds(old, new))
    old, new = (dataclasses.replace(side, issuers=own) for side, own in zip((old, new), issuers, strict=True))
    beliefs = beliefs_between(old, new)
    found = plan(old, new, [], strategies.NOW)
    assert found.is_complete
    assert all(row.is_replayed for row in (*found.newly_allowed, *found.newly_denied))
    headers = old.headers_for("db") | new.headers_for("db")
    known = build("db", [old], strategies.NOW)
    for request in (dataclasses.replace(item, service="db") for item in asked):
        token = (request.claims or {}).get("iss")
        kinds = beliefs.get(str(token), ("both",)) if "claims" not in request.unknown else ("both",)
        belief = data.draw(st.sampled_from(kinds))
        if leaf_of(known, request, custom) is None or (request.time is not None and request.time < strategies.NOW):
            continue
        seen = [
            unbelieved(request) if belief not in {"both", own} else request for own in ("before", "now")
        ]  # fmt: skip
        sides = (dataclasses.replace(side, custom=custom) for side in (old, new))
        before, after = (
            reference.decide(side, item, snapshot="").effect for side, item in zip(sides, seen, strict=True)
        )
        gained = any(speaks_of(row, request, headers, custom, belief=belief) for row in found.newly_allowed)
        lost = any(speaks_of(row, request, headers, custom, belief=belief) for row in found.newly_denied)
        assert gained == ((before, after) == (Effect.DENY, Effect.ALLOW))
        assert lost == ((before, after) == (Effect.ALLOW, Effect.DENY))
