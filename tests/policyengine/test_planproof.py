import dataclasses
import datetime as dt
from typing import Any
from unittest import mock

import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from mesh.request import Effect
from policyengine import model
from policyengine.analysis import plan
from policyengine.issuer import Issuer
from tests.examples import examples
from tests.policyengine import strategies
from tests.policyengine.planproof import SOURCES, disagreement
from tests.policyengine.plans import own_paths, paths, policies, rule, to
from tests.policyengine.strategies import NOW

# shrinking a disagreement asks z3 again and again; the first one says enough
ONCE = {"deadline": None, "phases": (Phase.explicit, Phase.generate)}


@settings(max_examples=examples(6), **ONCE)
@given(strategies.policy_sets, strategies.policy_sets)
def test_z3_finds_no_request_about_which_a_plan_is_wrong(old: model.PolicySet, new: model.PolicySet) -> None:
    assume(not strategies.folds(old, new))
    found = plan(old, new, [], NOW)
    assert found.is_complete
    assert disagreement(old, new, found) is None


@pytest.mark.slow
@settings(max_examples=examples(60), **ONCE)
@given(strategies.policy_sets, strategies.policy_sets)
def test_z3_finds_none_among_many_pairs(old: model.PolicySet, new: model.PolicySet) -> None:
    assume(not strategies.folds(old, new))
    found = plan(old, new, [], NOW)
    assert found.is_complete
    assert disagreement(old, new, found) is None


OWNERS = list(SOURCES[:6])


@settings(max_examples=examples(6), **ONCE)
@given(own_paths(OWNERS))
def test_z3_finds_none_where_rows_say_of_each_caller_its_own_paths(
    versions: tuple[model.PolicySet, model.PolicySet],
) -> None:
    with mock.patch("policyengine.rows.MANY", 1):
        found = plan(*versions, [], NOW)
    assert found.is_complete
    assert disagreement(*versions, found) is None


def test_an_entry_too_few_or_too_wide_is_found() -> None:
    def version(effect: Effect) -> model.PolicySet:
        own = [rule(text, id_="own", to=to(paths=paths(f"/{word}"))) for text, word in zip(OWNERS, "abc", strict=False)]
        wide = model.Policy(name="w", owner="", service="db", tier="baseline", rules=(rule("any", effect=effect),))
        old = policies(*own)
        return dataclasses.replace(old, policies=(*old.policies, wide))

    versions = version(Effect.DENY), version(Effect.ALLOW)
    with mock.patch("policyengine.rows.MANY", 1):
        found = plan(*versions, [], NOW)
    assert disagreement(*versions, found) is None
    (at, row) = next((at, row) for at, row in enumerate(found.newly_allowed) if "by_source" in row.when)
    entries = row.when["by_source"]
    assert isinstance(entries, list)
    for changed in (entries[1:], [{"source": entries[0]["source"]}, *entries[1:]]):
        rows = list(found.newly_allowed)
        rows[at] = dataclasses.replace(row, when={**row.when, "by_source": changed})
        assert disagreement(*versions, dataclasses.replace(found, newly_allowed=tuple(rows))) is not None


IDP = Issuer(name="idp", owner="", issuer="https://idp.test", audiences=("a",), jwks_uri="https://idp.test/keys")
DECLARED = st.sampled_from(
    ((), (IDP,), (dataclasses.replace(IDP, bind=("actor",)),), (dataclasses.replace(IDP, jwks_uri="https://b.test/k"),))
)


@settings(max_examples=examples(4), **ONCE)
@given(strategies.policy_sets, strategies.policy_sets, DECLARED, DECLARED)
def test_z3_finds_no_token_about_which_a_plan_is_wrong(
    old: model.PolicySet, new: model.PolicySet, before: tuple[Issuer, ...], after: tuple[Issuer, ...]
) -> None:
    assume(not strategies.folds(old, new))
    old, new = dataclasses.replace(old, issuers=before), dataclasses.replace(new, issuers=after)
    found = plan(old, new, [], NOW)
    assert found.is_complete
    assert disagreement(old, new, found) is None


@pytest.fixture
def pair(make_service: Any, make_policy: Any, make_rule: Any) -> tuple[model.PolicySet, model.PolicySet]:
    """Two versions that differ under a condition."""
    service = make_service("db", ports=(model.Port(port=8080, protocol="http"),))
    when = model.Conditions(headers=(("x-role", ("admin",)),))
    old = model.PolicySet(services=(service,), policies=(make_policy("db", make_rule("r", "cart")),))
    deny = make_rule("d", "any", effect=Effect.DENY, when=when)
    new = dataclasses.replace(old, policies=(make_policy("db", make_rule("r", "cart"), deny),))
    return old, new


def test_a_row_too_few_is_found(pair: tuple[model.PolicySet, model.PolicySet]) -> None:
    found = plan(*pair, [], NOW)
    assert len(found.newly_denied) == 2
    for place in range(2):
        fewer = tuple(row for index, row in enumerate(found.newly_denied) if index != place)
        assert disagreement(*pair, dataclasses.replace(found, newly_denied=fewer)) is not None


def test_a_row_too_wide_is_found(pair: tuple[model.PolicySet, model.PolicySet]) -> None:
    found = plan(*pair, [], NOW)
    (first, *rest) = found.newly_denied
    for change in ({"source": "any"}, {"when": {}}):
        wider = (dataclasses.replace(first, **change), *rest)
        assert disagreement(*pair, dataclasses.replace(found, newly_denied=wider)) is not None


def test_an_end_too_late_is_found(pair: tuple[model.PolicySet, model.PolicySet]) -> None:
    old, _ = pair
    grant = model.ExceptionGrant(
        name="e", owner="", service="db", from_=(model.Principal("any"),), until=NOW + dt.timedelta(days=1), reason="x"
    )
    new = dataclasses.replace(old, exceptions=(grant,))
    found = plan(old, new, [], NOW)
    assert disagreement(old, new, found) is None
    (row,) = found.newly_allowed
    forever = dataclasses.replace(row, when={key: value for key, value in row.when.items() if key != "time"})
    assert disagreement(old, new, dataclasses.replace(found, newly_allowed=(forever,))) is not None
