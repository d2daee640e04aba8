"""The normal form orders grants as they decide."""

from policyengine.ir import normalise
from tests.policyengine.corners import FUTURE, allow, deny, go_on, grant, tree


def test_grants_are_ranked_by_tier_effect_and_name() -> None:
    policies = tree(
        baseline=[allow(id="z")],
        guardrail=[allow(id="a"), deny(id="y")],
        app=[allow(id="c"), go_on(id="d"), deny(id="f"), deny(id="e")],
        exceptions=[grant(FUTURE)],
    )
    form = normalise(policies, policies.services[0])
    assert [(found.tier, found.rule) for found in form.grants] == [
        ("guardrail", "y"),
        ("guardrail", "a"),
        ("app", "e"),
        ("app", "f"),
        ("app", "d"),
        ("app", "c"),
        ("app", "exception"),
        ("baseline", "z"),
    ]
    assert [found.rank for found in form.grants] == list(range(8))


def test_only_conditions_make_a_grant_conditional() -> None:
    policies = tree(app=[allow(id="a"), allow(id="b", when={"rego": "data.shop.x"})], exceptions=[grant(FUTURE)])
    form = normalise(policies, policies.services[0])
    assert {found.rule: found.is_conditional for found in form.grants} == {"a": False, "b": True, "exception": True}
    assert dict(form.protocols) == {8080: "http"}
